package parley

import "sync/atomic"

// slots bounds how many of something there are at once. It costs two atomic operations while there is room, since every incoming connection takes one.
type slots struct {
	max     int64
	taken   atomic.Int64
	waiting atomic.Bool
	freed   chan struct{} // capacity 1: one was given back while somebody waited
}

func newSlots(n int) *slots { return &slots{max: int64(n), freed: make(chan struct{}, 1)} }

// take takes one, and waits while there is none; false if stop is closed meanwhile. Only one goroutine may take.
func (s *slots) take(stop <-chan struct{}) bool {
	for s.taken.Add(1) > s.max {
		s.taken.Add(-1)
		s.waiting.Store(true)
		if s.taken.Load() >= s.max { // else one came back before it could be seen that we wait
			select {
			case <-s.freed:
			case <-stop:
				return false
			}
		}
		s.waiting.Store(false)
	}
	return true
}

// give gives one back.
func (s *slots) give() {
	s.taken.Add(-1)
	if s.waiting.Load() {
		select {
		case s.freed <- struct{}{}:
		default:
		}
	}
}
