package messaging

import (
	"sync/atomic"

	"github.com/parley-bt/parley/wire"
)

// A Budget bounds the memory of messages in mux frames over all peers (EMP/1 section 7.3). Nobody may hold more than a quarter of what is left, so that peers who open the
// largest messages and never finish them cannot use it up: the more of them there are, the less each can have. What is left in the end would not do for a single message, so
// every peer has freeBytes beside the budget. It is safe for concurrent use.
type Budget struct {
	most int64
	used atomic.Int64
}

// NewBudget returns a budget of n bytes.
func NewBudget(n int64) *Budget { return &Budget{most: n} }

// Used returns how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// take takes n bytes for somebody who holds so many; false if that is too much.
func (b *Budget) take(holds, n int64) bool {
	used := b.used.Add(n)
	if holds+n > (b.most-used+n+holds)/4 { // of what is left without its own share
		b.used.Add(-n)
		return false
	}
	return true
}

// give gives n bytes back.
func (b *Budget) give(n int64) { b.used.Add(-n) }

// freeBytes is what every session may hold without the budget, whatever others hold: twice the window that every peer has at least. A message of the usual length has room in it, and
// smaller ones beside it.
const freeBytes = 2 * wire.MinWindow

// grantUnit is how much of the budget a peer takes at once, so that small messages do not all go to a counter that everybody uses.
const grantUnit = 32 << 10

// hold takes n bytes of memory for what the peer sends; false if the budget does not allow it. p.mu is held.
func (p *Peer) hold(n int64) bool {
	if b := p.hub.o.Budget; b != nil && p.held+n > p.granted+freeBytes {
		need := p.held + n - p.granted - freeBytes
		switch {
		case b.take(p.granted, max(need, grantUnit)):
			p.granted += max(need, grantUnit)
		case b.take(p.granted, need):
			p.granted += need
		default:
			return false
		}
	}
	p.held += n
	return true
}

// drop gives n bytes of memory back. p.mu is held.
func (p *Peer) drop(n int64) {
	p.held -= n
	if over := max(p.held-freeBytes, 0); over == 0 || p.granted-over > 4*grantUnit {
		p.returnBudget(over)
	}
}

// returnBudget gives back what is granted beyond n. p.mu is held.
func (p *Peer) returnBudget(n int64) {
	if b := p.hub.o.Budget; b != nil && p.granted > n {
		b.give(p.granted - n)
		p.granted = n
	}
}
