package leaktest

import (
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/internal/blockbuf"
)

func TestCheckFindsWhatIsLeft(t *testing.T) {
	// This test's own goroutine is not the first of the process, but it is the caller of Check.
	run := func() error {
		got := make(chan error)
		go func() { got <- Check(0) }()
		return <-got
	}
	err := run()
	if err == nil || !strings.Contains(err.Error(), "TestCheckFindsWhatIsLeft") {
		t.Errorf("with this test waiting: %v, want its stack", err)
	}
	b := blockbuf.Get()
	if err := Check(0); err == nil || !strings.Contains(err.Error(), "1 block buffers") {
		t.Errorf("with a buffer lent out: %v", err)
	}
	b.Release()
	l := blockbuf.GetLarge()
	if err := Check(0); err == nil || !strings.Contains(err.Error(), "1 large") {
		t.Errorf("with a large buffer lent out: %v", err)
	}
	l.Release()
}

func TestCheckWaits(t *testing.T) {
	l := blockbuf.GetLarge()
	go func() {
		time.Sleep(20 * time.Millisecond)
		l.Release()
	}()
	if err := Check(time.Minute); err != nil {
		t.Errorf("nothing is left in the end: %v", err)
	}
}
