package swarm

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/internal/dialguard"
)

// DefaultHalfOpen is how many dials and outgoing hellos are under way at once over all torrents, unless the user says otherwise.
const DefaultHalfOpen = 64

// Shared is what the torrents of one client have in common where connections are concerned: how many there are, how many are being opened, and how often which host
// was dialled. It is safe for concurrent use, and nothing in it waits.
type Shared struct {
	mu       sync.Mutex
	targets  dialguard.Targets
	half     int // connections that are being opened, and places granted for that
	maxHalf  int
	queue    []*turn // torrents that wait for a place, the one that waits longest first
	conns    int
	maxConns int
	incoming int // of maxConns, how many may be there when somebody connects to us: the rest is for those that we open
}

// NewShared returns what torrents share. At most halfOpen of their dials and outgoing hellos are under way at once, and at most conns connections are open, of which 0 is
// no bound. An eighth of them is kept for those that we open, so that strangers who connect cannot keep us from choosing our peers.
func NewShared(halfOpen, conns int) *Shared {
	return &Shared{maxHalf: halfOpen, maxConns: conns, incoming: conns - conns/8}
}

// A turn is one torrent's part in the queue for places. A torrent that has to wait is served after those that wait already, and takes one place at a time, so that one
// with thousands of addresses and one with a single address get as much.
type turn struct {
	wake    chan struct{} // capacity 1: a place was granted
	waits   bool
	granted int
}

func newTurn() *turn { return &turn{wake: make(chan struct{}, 1)} }

// take takes a place for a connection that is to be opened; false if there is none: w.wake then tells of one.
func (s *Shared) take(w *turn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.maxConns > 0 && s.conns >= s.maxConns: // and nobody is told when there are less: a later tick will see
		return false
	case w.granted > 0:
		w.granted--
	case s.half < s.maxHalf:
		s.half++
	default:
		if !w.waits {
			w.waits = true
			s.queue = append(s.queue, w)
		}
		return false
	}
	s.conns++
	return true
}

// opened gives back what the opening of a connection took: it is open, or will not be, which connected tells.
func (s *Shared) opened(connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free()
	if !connected {
		s.conns--
	}
}

// free gives one place to whoever waits longest. The lock is held.
func (s *Shared) free() {
	if len(s.queue) == 0 {
		s.half--
		return
	}
	w := s.queue[0]
	s.queue = slices.Delete(s.queue, 0, 1)
	w.waits = false
	w.granted++
	select {
	case w.wake <- struct{}{}:
	default: // it is told already
	}
}

// decline gives back the places that were granted to a torrent and that it does not need.
func (s *Shared) decline(w *turn) {
	s.mu.Lock()
	for ; w.granted > 0; w.granted-- {
		s.free()
	}
	s.mu.Unlock()
}

// leave takes a torrent out of the queue.
func (s *Shared) leave(w *turn) {
	s.mu.Lock()
	if w.waits {
		w.waits = false
		s.queue = slices.DeleteFunc(s.queue, func(q *turn) bool { return q == w })
	}
	for ; w.granted > 0; w.granted-- {
		s.free()
	}
	s.mu.Unlock()
}

// Connected counts a connection that somebody opened to us; false if there are as many as may be, and it is not counted.
func (s *Shared) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.maxConns > 0 && s.conns >= s.incoming {
		return false
	}
	s.conns++
	return true
}

// Disconnected says that a connection has ended, whoever opened it.
func (s *Shared) Disconnected() {
	s.mu.Lock()
	s.conns--
	s.mu.Unlock()
}

// Connections returns how many connections there are, those that are being opened among them.
func (s *Shared) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// allow reports whether an address that a stranger named may be dialled now, and counts the dial.
func (s *Shared) allow(now time.Time, a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.targets.Allow(now, a)
}

// answered says that a peer of the torrent was at an address that was dialled.
func (s *Shared) answered(a netip.Addr) {
	s.mu.Lock()
	s.targets.Answered(a)
	s.mu.Unlock()
}
