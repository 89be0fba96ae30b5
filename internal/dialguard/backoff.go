package dialguard

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Bounds of [Backoff].
const (
	FirstRetry = 10 * time.Second
	LastRetry  = 30 * time.Minute
	MaxBackoff = 8192 // addresses; the one that failed longest ago is forgotten for a new one
)

// Backoff remembers where dialling failed. The zero Backoff is ready. It has one owner and is not safe for concurrent use.
type Backoff struct {
	entries map[netip.AddrPort]failure
	order   []noted // oldest first; those that entries does not confirm are stale
	places  uint64  // numbers given out to places in order
}

type failure struct {
	count  int
	next   time.Time
	number uint64 // of its place in order
}

type noted struct {
	addr   netip.AddrPort
	number uint64
}

// Ready reports whether a may be dialled now.
func (b *Backoff) Ready(now time.Time, a netip.AddrPort) bool {
	return !now.Before(b.entries[key(a)].next)
}

// Failed notes that dialling a came to nothing, and returns when it may be dialled again: after [FirstRetry], twice as long after each further failure up to [LastRetry], and up to a
// quarter more by chance, so that clients that failed together do not come back together.
func (b *Backoff) Failed(now time.Time, a netip.AddrPort, rng *rand.Rand) time.Time {
	f := b.entries[key(a)]
	d := LastRetry
	if f.count < 16 { // past it the shift would say nothing new
		d = min(FirstRetry<<f.count, LastRetry)
	}
	f.count++
	return b.set(a, f, now.Add(d+time.Duration(rng.Int64N(int64(d)/4+1))))
}

// Failures returns how often in a row dialling a has failed, 0 if that is not known (any more).
func (b *Backoff) Failures(a netip.AddrPort) int { return b.entries[key(a)].count }

// Ban leaves a alone until then, if it is not to be left alone for longer already; for our own address, for one that broke the protocol.
func (b *Backoff) Ban(a netip.AddrPort, until time.Time) {
	f := b.entries[key(a)]
	if f.next.Before(until) {
		b.set(a, f, until)
	}
}

// Succeeded forgets the failures of a.
func (b *Backoff) Succeeded(a netip.AddrPort) { delete(b.entries, key(a)) }

// Len returns how many addresses are remembered.
func (b *Backoff) Len() int { return len(b.entries) }

func (b *Backoff) set(a netip.AddrPort, f failure, next time.Time) time.Time {
	a = key(a)
	if b.entries == nil {
		b.entries = make(map[netip.AddrPort]failure)
	}
	b.places++
	f.next, f.number = next, b.places
	b.entries[a] = f
	b.order = append(b.order, noted{a, f.number})
	stale := func(n noted) bool { return b.entries[n.addr].number != n.number } // it has a newer place, or none: numbers begin with 1
	if len(b.order) > 2*MaxBackoff {
		b.order = slices.DeleteFunc(b.order, stale)
	}
	for len(b.entries) > MaxBackoff {
		if !stale(b.order[0]) {
			delete(b.entries, b.order[0].addr)
		}
		b.order = b.order[1:]
	}
	return next
}

func key(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
