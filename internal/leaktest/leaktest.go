// Package leaktest ends the tests of a package with a look at what they left behind: goroutines of this module that still run, and buffers of
// internal/blockbuf that nobody gave back. It decides what counts as left behind; how long a test may take is not its business.
package leaktest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/parley-bt/parley/internal/blockbuf"
)

// patience is how long goroutines that are on their way out may take: long enough for handlers and closing sockets on a busy machine.
const patience = 10 * time.Second

// Main runs the tests of a package and exits. Tests that pass and leave something behind fail, with the stacks of what still runs.
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := Check(patience); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL: left behind by the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Check waits until nothing is left behind, for no longer than within, and returns what is.
func Check(within time.Duration) error {
	for end := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		err := leaks()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

func leaks() error {
	if n, large := blockbuf.Live(), blockbuf.LiveLarge(); n != 0 || large != 0 {
		return fmt.Errorf("%d block buffers and %d large ones were not released", n, large)
	}
	if stacks := goroutines(); len(stacks) > 0 {
		return fmt.Errorf("%d goroutines still run:\n\n%s", len(stacks), bytes.Join(stacks, []byte("\n\n")))
	}
	return nil
}

// goroutines returns the stacks of the goroutines in which this module's code runs, but for the caller's.
func goroutines() [][]byte {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var found [][]byte
	for i, g := range bytes.Split(buf, []byte("\n\n")) {
		if i > 0 && bytes.Contains(g, []byte("github.com/parley-bt/parley")) { // the first is the caller's
			found = append(found, g)
		}
	}
	return found
}
