// Package gate decides who may cost us work before its hello is known: the search for the torrent that a veiled hello means, and the
// Diffie-Hellman of MSE (EMP/1 section 2, last paragraph). It does not decide what becomes of those it turns away, and it does none of the work.
//
// Who comes takes one token of its source, which is its /24 of IPv4 or its /56 of IPv6, and as many units of the total as its work costs:
//
//	source 192.0.2.0/24  ── 1 ──┐
//	source 2001:db8::/56 ── 1 ──┼── queue ── cost ── total ── goes
//	all the others       ── 1 ──┘    └─ 4 s, or no place: turned away
//
// If there are no tokens it waits. Sources that have completed a veiled hello go first, since only they are known to be no flood; among equals
// it is first come, first served, but who waits for its own source's tokens holds up nobody else. So in any time t no more goes than Total·t, a
// burst of a quarter of a second and one cost; and of one source no more than PerSource·t + Burst. Loopback is exempt from all of it.
//
// All tables are bounded. A source is forgotten only when its bucket is full again, so that nobody gets a new one by making others come. When
// 4,096 buckets are in use at a time, which takes a flood of 80,000 connections a second to keep up, new sources share one.
package gate

import (
	"errors"
	"net/netip"
	"sync"
	"time"
)

// The errors of [Gate.Wait].
var (
	// ErrOverBudget says that there was no turn in time: MaxWait has passed, the queue was full, or the source has so many waiting that this
	// one's turn could not come within MaxWait.
	ErrOverBudget = errors.New("gate: over budget")
	// ErrStopped says that the caller's stop was closed, or the gate.
	ErrStopped = errors.New("gate: stopped")
)

// Bounds and times that are no matter of configuration.
const (
	// MaxSources is how many sources have a bucket of their own at a time.
	MaxSources = 4096
	// MaxProven is how many sources are remembered to have completed a veiled hello. Who completes 4,096 of them, from as many networks, can
	// have all others forgotten; these then wait among the rest.
	MaxProven = 4096

	bits4, bits6 = 24, 56 // what counts as one source

	provenFor  = 7 * 24 * time.Hour     // as long as what worked is remembered when dialling
	totalBurst = 250 * time.Millisecond // for how long the total saves
	gather     = 5 * time.Millisecond
)

// Config is what a [Gate] allows. The zero value has the limits of EMP/1 section 2 for the search of torrents.
type Config struct {
	// PerSource is how many may go of one source, per second. 0 is 20; negative is no limit.
	PerSource float64
	// Burst is how many may go of a source that was idle before PerSource holds. 0, and less, is 100; at least 1.
	Burst float64
	// Total is how many units of cost may be spent per second. 0 is 2,000,000, which are meant to be blocks of SHA-1; negative is no limit.
	Total float64
	// Queue is how many may wait. 0 is 1,024; negative is none.
	Queue int
	// MaxWait is how long one may wait. 0, and less, is 4 s.
	MaxWait time.Duration
}

// resolved returns c with its defaults, where a rate of 0 is no limit and 0 places are none.
func (c Config) resolved() Config {
	rate := func(v, fallback float64) float64 {
		if v == 0 {
			return fallback
		}
		return max(v, 0)
	}
	c.PerSource, c.Total = rate(c.PerSource, 20), rate(c.Total, 2e6)
	if c.Burst <= 0 {
		c.Burst = 100
	}
	c.Burst = max(c.Burst, 1) // or nobody could ever go
	if c.Queue == 0 {
		c.Queue = 1024
	}
	c.Queue = max(c.Queue, 0)
	if c.MaxWait <= 0 {
		c.MaxWait = 4 * time.Second
	}
	return c
}

// Stats is what a [Gate] has done since it was made, and how it stands.
type Stats struct {
	Granted  uint64 // went, at once or later; loopback too
	Waited   uint64 // were put in the queue, whatever came of it
	Refused  uint64 // found no place in the queue, or lost it to a proven source
	TimedOut uint64 // waited in vain
	Waiting  int    // in the queue now
	Sources  int    // that have a bucket of their own now, at most [MaxSources]
}

// Gate is a budget that many goroutines share. Make it with [New]. Its methods are safe for concurrent use. While nobody waits it runs no
// goroutine and no timer.
type Gate struct {
	mu     sync.Mutex // never held while waiting
	b      *budget
	now    func() time.Time // of the last who had to wait: the timer's clock
	timer  *time.Timer      // nil until somebody has waited
	armed  time.Time        // when the timer is to fire; zero if it is not running
	closed bool
}

// New returns a gate with nobody at it and all buckets full.
func New(c Config) *Gate { return &Gate{b: newBudget(c.resolved(), MaxSources, MaxProven)} }

// Wait takes cost units of the total and one of the source of src, and waits for its turn if there are none. Any cost can be had: one that is
// above what the total saves puts it in debt, and others wait the longer. A cost below 0 counts as 0. The error is [ErrOverBudget], or
// [ErrStopped] when stop, which may be nil, or the gate is closed: nothing was taken then.
//
// now is the clock; it is called with the gate locked, and must not call it. It is asked again later, until the wait is over.
func (g *Gate) Wait(now func() time.Time, src netip.Addr, cost int, stop <-chan struct{}) error {
	select {
	case <-stop:
		return ErrStopped
	default:
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrStopped
	}
	w, v := g.b.ask(now(), src, cost)
	if w != nil {
		w.done = make(chan struct{})
		g.now = now
	}
	g.settle()
	g.mu.Unlock()
	if w == nil {
		return v.err()
	}
	select {
	case <-w.done:
	case <-stop:
		g.mu.Lock()
		if w.verdict == waiting { // else it was decided at the same moment, and what was granted is used
			g.b.leave(now(), w)
			g.settle()
		}
		g.mu.Unlock()
	}
	return w.verdict.err()
}

func (v verdict) err() error {
	switch v {
	case granted:
		return nil
	case stopped:
		return ErrStopped
	}
	return ErrOverBudget
}

// Proven notes that src has completed a veiled hello: from now on its source goes first, for 7 days or until [MaxProven] others were proven later.
// Its tokens are no more than before.
func (g *Gate) Proven(now time.Time, src netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.b.prove(now, src)
	g.settle()
}

// Stats returns what the gate has done and how it stands.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.b.stats
	st.Waiting, st.Sources = g.b.order.Len(), len(g.b.sources)
	return st
}

// Close ends all waits with [ErrStopped], and those to come. It may be called again.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for e := g.b.order.Front(); e != nil; e = g.b.order.Front() {
		g.b.decide(g.b.last, e.Value.(*waiter), stopped)
	}
	g.settle()
}

// settle tells those whose wait is over, and sets the timer for the others. The lock is held.
func (g *Gate) settle() {
	for i, w := range g.b.decided {
		close(w.done)
		g.b.decided[i] = nil
	}
	g.b.decided = g.b.decided[:0]
	next := g.b.next()
	switch {
	case next.Equal(g.armed):
	case next.IsZero():
		g.timer.Stop()
	case g.timer == nil:
		g.timer = time.AfterFunc(g.delay(next), g.fire)
	default:
		g.timer.Reset(g.delay(next))
	}
	g.armed = next
}

// delay is how long the timer runs; never so short that a clock that stands still would have it fire without end.
func (g *Gate) delay(next time.Time) time.Duration {
	return max(next.Sub(g.b.last), time.Millisecond)
}

// fire is the timer's.
func (g *Gate) fire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = time.Time{} // it has fired; one that was set again meanwhile is set once more
	if g.b.order.Len() == 0 {
		return
	}
	g.b.advance(g.now())
	g.settle()
}
