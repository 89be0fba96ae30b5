package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/parley-bt/parley"
)

// This file is all that the benchmarks know of emp besides the public API of messages. Once the library speaks it: add "emp" to spoken, and take the
// place of each of the two lines marked "emp:" by what it says, in the words of the API as it is then.

// spoken is the dialects that two peers of this build can speak, the one they choose by themselves last.
var spoken = []string{"ltep"}

// useDialect makes a client speak the named dialect; "" is what it chooses itself.
func useDialect(cfg *parley.Config, name string) error {
	if name != "" && !slices.Contains(spoken, name) {
		return fmt.Errorf("-dialect %s: this build speaks %s", name, strings.Join(spoken, ", "))
	}
	_ = cfg // emp: cfg.NoEMP = name == "ltep"
	return nil
}

// answerWith makes the type answer requests by what f returns.
func answerWith(mt *parley.MessageType, f func(m *parley.Message) ([]byte, error)) {
	_, _ = mt, f // emp: mt.Answer = func(_ context.Context, m *parley.Message) ([]byte, error) { return f(m) }
}
