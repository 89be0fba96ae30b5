package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/parley-bt/parley"
)

// This file is all that the benchmarks know of dialects besides the public API of messages.

// spoken is the dialects that two peers of this build can speak, the one they choose by themselves last.
var spoken = []string{"ltep", "emp"}

// useDialect makes a client speak the named dialect; "" is what it chooses itself.
func useDialect(cfg *parley.Config, name string) error {
	if name != "" && !slices.Contains(spoken, name) {
		return fmt.Errorf("-dialect %s: this build speaks %s", name, strings.Join(spoken, ", "))
	}
	cfg.NoEMP = name == "ltep"
	return nil
}

// answerWith makes the type answer requests by what f returns.
func answerWith(mt *parley.MessageType, f func(m *parley.Message) ([]byte, error)) {
	mt.Requests = func(_ context.Context, m *parley.Message) ([]byte, error) { return f(m) }
}
