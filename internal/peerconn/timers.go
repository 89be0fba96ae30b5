package peerconn

import (
	"container/heap"
	"sync"
	"time"
)

// Timers calls connections when their machine's deadline has come: one goroutine and one timer for all of them. A connection stands in it at most once,
// at its deadline or before; deadlines that move on are found when their old time comes. Those who wait for their share of a rate are let go by it, too.
type Timers struct {
	now func() time.Time

	mu      sync.Mutex
	heap    timerHeap
	shapers []*Shaper
	wake    chan struct{} // capacity 1: the head of the heap has changed
}

type timerEntry struct {
	at time.Time
	c  *Conn
}

type timerHeap []timerEntry

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].c.timerPos, h[j].c.timerPos = i, j
}
func (h *timerHeap) Push(x any) {
	e := x.(timerEntry)
	e.c.timerPos = len(*h)
	*h = append(*h, e)
}
func (h *timerHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = timerEntry{}
	*h = old[:len(old)-1]
	e.c.timerPos = -1
	return e
}

// NewTimers returns timers that must be run with Run.
func NewTimers(now func() time.Time) *Timers {
	return &Timers{now: now, wake: make(chan struct{}, 1)}
}

// set puts c at d, which is before any time it stands at.
func (t *Timers) set(c *Conn, d time.Time) {
	t.mu.Lock()
	if c.timerPos >= 0 {
		t.heap[c.timerPos].at = d
		heap.Fix(&t.heap, c.timerPos)
	} else {
		heap.Push(&t.heap, timerEntry{d, c})
	}
	first := c.timerPos == 0
	t.mu.Unlock()
	if first {
		t.poke()
	}
}

// drop takes c out.
func (t *Timers) drop(c *Conn) {
	t.mu.Lock()
	if c.timerPos >= 0 {
		heap.Remove(&t.heap, c.timerPos)
	}
	t.mu.Unlock()
}

func (t *Timers) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Run calls connections until stop is closed.
func (t *Timers) Run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := t.now()
		wait := time.Hour
		for {
			t.mu.Lock()
			if len(t.heap) == 0 {
				t.mu.Unlock()
				break
			}
			if d := t.heap[0].at.Sub(now); d > 0 {
				t.mu.Unlock()
				wait = d
				break
			}
			e := heap.Pop(&t.heap).(timerEntry)
			t.mu.Unlock()
			e.c.tick(now)
		}
		t.mu.Lock()
		shapers := t.shapers // only ever appended to
		t.mu.Unlock()
		for _, s := range shapers {
			if at := s.run(now); !at.IsZero() {
				wait = min(wait, at.Sub(t.now()))
			}
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-t.wake:
		case <-stop:
			return
		}
	}
}
