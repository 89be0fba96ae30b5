package parley

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2)
		stop := make(chan struct{})
		for range 2 {
			if !s.take(stop) {
				t.Fatal("no room in an empty house")
			}
		}
		got := make(chan bool)
		go func() { got <- s.take(stop) }()
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("a third went in")
		default:
		}
		s.give()
		if !<-got {
			t.Fatal("stopped")
		}
		go func() { got <- s.take(stop) }()
		synctest.Wait()
		close(stop)
		if <-got {
			t.Fatal("went in although stopped")
		}
	})
}

func TestSlotsUnderLoad(t *testing.T) {
	s := newSlots(3)
	var in, most atomic.Int64
	var wg sync.WaitGroup
	for range 10_000 {
		if !s.take(nil) {
			t.Fatal("stopped")
		}
		wg.Go(func() {
			most.Store(max(most.Load(), in.Add(1)))
			in.Add(-1)
			s.give()
		})
	}
	wg.Wait()
	if m := most.Load(); m > 3 || s.taken.Load() != 0 {
		t.Errorf("%d at once of 3, %d left", m, s.taken.Load())
	}
}
