package tracker

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
)

// Bounds of what is asked at once, so that a program with thousands of torrents neither opens thousands of sockets nor knocks over a tracker when it starts.
const (
	maxAtOnce        = 64
	maxAtOnceTracker = 16 // of one tracker: one that does not answer must not hold up the others
)

// line is where announces and scrapes wait for their turn. The zero line is empty and ready. It is safe for concurrent use.
//
// Who waits for a tracker that turns out not to be reachable is told so at once: with 2,000 torrents at a dead tracker the last one would find its next tracker hours later if each found out by
// itself.
type line struct {
	mu     sync.Mutex
	active int
	hosts  map[string]*hostLine
}

type hostLine struct {
	active  int
	waiting []waiter // the most urgent first, and of those the one that has waited longest
}

type waiter struct {
	turn    chan error // of capacity 1; nil is a turn
	urgency urgency
}

// urgency orders who waits. What has the highest goes first, so it is for what ends in seconds in any case: last announces.
type urgency uint8

// The urgencies. Over UDP an announce costs a round trip or two, so that more trackers hear of the end in the same time.
const (
	ordinary urgency = iota
	last             // of a torrent that had no peers
	lastUDP
	lastMatters // of a torrent that had peers: others may look for us there
	lastMattersUDP
)

// enter waits for a turn at the tracker named host. Without an error, leave must be called.
func (l *line) enter(ctx context.Context, host string, u urgency) error {
	l.mu.Lock()
	if l.hosts == nil {
		l.hosts = make(map[string]*hostLine)
	}
	h := l.hosts[host]
	if h == nil {
		h = &hostLine{}
		l.hosts[host] = h
	}
	if l.active < maxAtOnce && h.active < maxAtOnceTracker {
		l.active++
		h.active++
		l.mu.Unlock()
		return nil
	}
	turn := make(chan error, 1)
	at := len(h.waiting)
	for at > 0 && h.waiting[at-1].urgency < u {
		at--
	}
	h.waiting = slices.Insert(h.waiting, at, waiter{turn, u})
	l.mu.Unlock()
	select {
	case err := <-turn:
		return err
	case <-ctx.Done():
	}
	l.mu.Lock()
	if i := slices.IndexFunc(h.waiting, func(w waiter) bool { return w.turn == turn }); i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
		l.forget(host, h)
		l.mu.Unlock()
		return ctx.Err()
	}
	l.mu.Unlock()
	if <-turn == nil { // the turn came at the same moment, and is given on
		l.leave(host, nil)
	}
	return ctx.Err()
}

// leave ends a turn. down, if not nil, says that the tracker cannot be reached: who waits for it gets that error.
func (l *line) leave(host string, down error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	l.active--
	h.active--
	if down != nil {
		for _, w := range h.waiting {
			w.turn <- down
		}
		h.waiting = nil
	}
	l.forget(host, h)
	for l.active < maxAtOnce {
		var next *hostLine
		for _, h := range l.hosts { // in an order that differs each time, so that of those that are equal all get their turn
			if h.active < maxAtOnceTracker && len(h.waiting) > 0 && (next == nil || h.waiting[0].urgency > next.waiting[0].urgency) {
				next = h
			}
		}
		if next == nil {
			return
		}
		l.active++
		next.active++
		next.waiting[0].turn <- nil
		next.waiting = next.waiting[1:]
	}
}

// forget drops a host at which nothing happens.
func (l *line) forget(host string, h *hostLine) {
	if h.active == 0 && len(h.waiting) == 0 {
		delete(l.hosts, host)
	}
}

// unreachable returns err if it says that nobody is there, and not that somebody said no: what holds for one request to a tracker then holds for all. ctx is the caller's: if
// that ended, nothing is known.
func unreachable(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	op, isOp := errors.AsType[*net.OpError](err)
	_, isName := errors.AsType[*net.DNSError](err)
	if isName || isOp && op.Op == "dial" || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
