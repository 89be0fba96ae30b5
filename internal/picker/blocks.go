package picker

import (
	"slices"

	"github.com/parley-bt/parley/bt"
)

// openPiece is a piece of which some block was asked for: open, or complete while missing is 0.
type openPiece struct {
	index   bt.PieceIndex
	blocks  []block
	missing int     // blocks not received
	unasked int     // blocks neither received nor asked of anyone
	next    int     // no unasked block is before this one
	owner   PeerKey // who was last given a block of it that nobody had been asked for
	openAt  int     // place in Picker.open, -1 once complete
	freeAt  int     // place in Picker.free, -1 if not there

	reserved bool // for owner: see [Picker.Reserve]

	ownerState *peerState // of owner; owes nothing once that peer is removed
}

// spoken reports whether the owner will soon ask for the rest of the piece: it has as many requests in
// flight as that takes, so they will be replaced by those within the time it keeps its pipeline filled for.
// A slow owner, whose pipeline is short, is helped instead.
func (op *openPiece) spoken() bool { return len(op.ownerState.reqs) >= op.unasked }

// block is the state of one block. If it is received, who[0] delivered it and who[1:n] still owe it;
// else who[:n] owe it.
type block struct {
	who      [maxRequesters]PeerKey
	n        uint8
	received bool
	padding  bool // received as far as the picker is concerned, from nobody: who is empty
}

func (bl *block) owedBy(peer PeerKey) int {
	from := 0
	if bl.received {
		from = 1
	}
	for k := from; k < int(bl.n); k++ {
		if bl.who[k] == peer {
			return k
		}
	}
	return -1
}

// forget takes entry k out of who.
func (bl *block) forget(k int) {
	copy(bl.who[k:], bl.who[k+1:bl.n])
	bl.n--
}

// openNew makes missing piece i an open one.
func (p *Picker) openNew(i bt.PieceIndex) *openPiece {
	var op *openPiece
	if last := len(p.pool) - 1; last >= 0 {
		op, p.pool = p.pool[last], p.pool[:last]
	} else {
		op = &openPiece{}
	}
	n := p.geom.NumBlocks(i)
	if cap(op.blocks) < n {
		op.blocks = make([]block, n)
	}
	blocks := op.blocks[:n]
	clear(blocks)
	*op = openPiece{index: i, blocks: blocks, missing: n, unasked: n, openAt: len(p.open)}
	p.fillPadding(op)
	p.open = append(p.open, op)
	p.listFree(op)
	p.byIndex[i] = op
	p.setMissing(i, false)
	p.endMoves++
	return op
}

// close forgets an open or complete piece and what was asked of it, without making it missing.
func (p *Picker) close(op *openPiece) {
	for n := range op.blocks {
		bl := &op.blocks[n]
		from := 0
		if bl.received {
			from = 1
		}
		for _, peer := range bl.who[from:max(from, int(bl.n))] {
			if st := p.peers[peer]; st != nil {
				st.forget(ref(op.index, n))
			}
		}
	}
	p.unlistOpen(op)
	p.unlistFree(op)
	delete(p.byIndex, op.index)
	p.pool = append(p.pool, op)
}

func (p *Picker) unlistOpen(op *openPiece) {
	if op.openAt < 0 {
		return
	}
	last := len(p.open) - 1
	p.open[op.openAt] = p.open[last]
	p.open[op.openAt].openAt = op.openAt
	p.open[last] = nil
	p.open = p.open[:last]
	op.openAt = -1
}

func (p *Picker) listFree(op *openPiece) {
	op.freeAt = len(p.free)
	p.free = append(p.free, op)
	p.freeOf = append(p.freeOf, op.index)
}

func (p *Picker) unlistFree(op *openPiece) {
	if op.freeAt < 0 {
		return
	}
	last := len(p.free) - 1
	p.free[op.freeAt] = p.free[last]
	p.free[op.freeAt].freeAt = op.freeAt
	p.freeOf[op.freeAt] = p.freeOf[last]
	p.free[last] = nil
	p.free, p.freeOf = p.free[:last], p.freeOf[:last]
	op.freeAt = -1
}

func ref(i bt.PieceIndex, n int) uint64 { return uint64(i)<<32 | uint64(uint32(n)) }

// forget takes an outstanding block off the list and reports whether it was there. Blocks mostly arrive in
// the order they were asked for, so it is found near the front.
func (st *peerState) forget(ref uint64) bool {
	k := slices.Index(st.reqs, ref)
	if k < 0 {
		return false
	}
	st.reqs = append(st.reqs[:k], st.reqs[k+1:]...)
	return true
}

// number returns which block of its piece b is; false if b is not a block as this project asks for them.
func (p *Picker) number(b bt.Block) (int, bool) {
	if uint(b.Index) >= uint(p.pieces) || b.Begin%bt.BlockBytes != 0 || b.Begin >= p.geom.PieceLen(b.Index) {
		return 0, false
	}
	n := int(b.Begin / bt.BlockBytes)
	return n, p.geom.Block(b.Index, n) == b
}

// find returns the open or complete piece of b and which of its blocks b is; nil if there is none.
func (p *Picker) find(b bt.Block) (*openPiece, int) {
	op := p.byIndex[b.Index]
	if op == nil {
		return nil, 0
	}
	n, ok := p.number(b)
	if !ok {
		return nil, 0
	}
	return op, n
}

// Received records that a block arrived from a peer that was asked for it. See [Outcome] for what becomes
// of a block that was not.
func (p *Picker) Received(peer PeerKey, b bt.Block) Result {
	n, ok := p.number(b)
	if !ok {
		return Result{}
	}
	st := p.peers[peer]
	asked := st != nil && st.forget(ref(b.Index, n))
	return p.arrived(peer, b.Index, n, asked)
}

// Accept records a block like [Picker.Received] although the peer was not asked for it, or is no longer
// known to have been, if it is a missing block of an open piece.
func (p *Picker) Accept(peer PeerKey, b bt.Block) Result {
	n, ok := p.number(b)
	if !ok {
		return Result{}
	}
	asked := false
	if st := p.peers[peer]; st != nil {
		asked = st.forget(ref(b.Index, n))
	}
	if op := p.byIndex[b.Index]; op != nil && op.missing > 0 && !asked && op.closedTo(peer) {
		return Result{Outcome: BlockDuplicate} // a copy from one peer is wanted
	}
	return p.arrived(peer, b.Index, n, true)
}

func (p *Picker) arrived(peer PeerKey, i bt.PieceIndex, n int, accept bool) Result {
	if p.unverified == 0 || !hasBit(p.lack, uint32(i)) {
		return Result{Outcome: BlockDuplicate}
	}
	op := p.byIndex[i]
	if op == nil {
		return Result{}
	}
	bl := &op.blocks[n]
	k := bl.owedBy(peer)
	if bl.received {
		if k >= 0 {
			bl.forget(k)
		}
		return Result{Outcome: BlockDuplicate}
	}
	if !accept {
		return Result{}
	}
	switch {
	case k >= 0:
		bl.who[0], bl.who[k] = bl.who[k], bl.who[0]
	case bl.n == 0:
		bl.who[0], bl.n = peer, 1
		p.asked(op)
	default:
		// Accepted from one who was not asked, while others are: all of them still owe it. If there is no
		// place to remember them all, the last is let go.
		if bl.n == maxRequesters {
			if st := p.peers[bl.who[maxRequesters-1]]; st != nil {
				st.forget(ref(i, n))
			}
			bl.n--
		}
		copy(bl.who[1:], bl.who[:bl.n])
		bl.who[0] = peer
		bl.n++
	}
	bl.received = true
	op.missing--
	r := Result{Outcome: BlockNew, Others: int(bl.n) - 1, PieceComplete: op.missing == 0}
	if r.PieceComplete {
		p.unlistOpen(op)
	}
	return r
}

// asked takes one from the unasked blocks of op.
func (p *Picker) asked(op *openPiece) {
	op.unasked--
	if op.unasked == 0 {
		p.unlistFree(op)
	}
}

// Others appends to dst the peers that still owe a block that has been received: those to send a cancel,
// and then to [Picker.Release].
func (p *Picker) Others(dst []PeerKey, b bt.Block) []PeerKey {
	op, n := p.find(b)
	if op == nil || !op.blocks[n].received || op.blocks[n].padding {
		return dst
	}
	bl := &op.blocks[n]
	return append(dst, bl.who[1:bl.n]...)
}

// Requesters appends to dst the peers that were asked for a block and owe it, whether it has been received
// from another or not.
func (p *Picker) Requesters(dst []PeerKey, b bt.Block) []PeerKey {
	op, n := p.find(b)
	if op == nil {
		return dst
	}
	bl := &op.blocks[n]
	if bl.received && !bl.padding {
		return append(dst, bl.who[1:bl.n]...)
	}
	return append(dst, bl.who[:bl.n]...)
}

// Release records that a peer will not be waited for to deliver a block: it rejected the request, the
// request timed out, or was cancelled. If nobody else owes it, the block can be picked again, also for the
// same peer: a caller whose peer rejects requests does well not to ask it again at once. It reports whether the peer owed it.
func (p *Picker) Release(peer PeerKey, b bt.Block) bool {
	n, ok := p.number(b)
	if !ok {
		return false
	}
	st := p.peers[peer]
	if st == nil || !st.forget(ref(b.Index, n)) {
		return false
	}
	p.release(peer, b.Index, n)
	return true
}

// ReleaseAll releases every block a peer owes, and returns how many: it choked us without BEP 6, which
// drops the requests, or was snubbed. [Picker.RemovePeer] does this by itself.
func (p *Picker) ReleaseAll(peer PeerKey) int {
	st := p.peers[peer]
	if st == nil {
		return 0
	}
	n := len(st.reqs)
	for _, r := range st.reqs {
		p.release(peer, bt.PieceIndex(r>>32), int(uint32(r)))
	}
	st.reqs = st.reqs[:0]
	return n
}

// release takes peer, whose own list is the caller's business, off the block.
func (p *Picker) release(peer PeerKey, i bt.PieceIndex, n int) {
	op := p.byIndex[i]
	if op == nil {
		return
	}
	bl := &op.blocks[n]
	k := bl.owedBy(peer)
	if k < 0 {
		return
	}
	bl.forget(k)
	p.endMoves++
	if bl.received || bl.n > 0 {
		return
	}
	op.unasked++
	op.next = min(op.next, n)
	if op.freeAt < 0 {
		p.listFree(op)
	}
}
