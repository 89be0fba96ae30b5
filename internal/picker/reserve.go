package picker

import (
	"github.com/parley-bt/parley/bt"
)

// Reserve leaves all blocks of a piece that were not asked for yet to one peer, in the endgame too, until [Picker.Unreserve], until that peer is removed, or until the
// piece is verified, failed or abandoned. A missing piece becomes an open one, beyond [Options.MaxOpen] if need be: how many are reserved at once is up to the caller. It is
// for a piece that failed its hash and that several peers had a part in: a copy from a single peer shows whether that one can be trusted, and once a good copy is there, who sent what
// differs from it. What others still owe of the piece they may deliver.
//
// It reports whether the piece is open and the peer known; the caller sees to it that the peer has the piece.
func (p *Picker) Reserve(i bt.PieceIndex, peer PeerKey) bool {
	st := p.peers[peer]
	if st == nil || p.missing == 0 || uint(i) >= uint(p.pieces) {
		return false
	}
	op := p.byIndex[i]
	switch {
	case op == nil && p.isMissing(i):
		op = p.openNew(i)
	case op == nil || op.missing == 0:
		return false
	}
	op.reserved, op.owner, op.ownerState = true, peer, st
	if cur := p.byIndex[st.current]; cur == nil || !cur.reserved || cur.owner != peer || cur.unasked == 0 {
		st.current = i
	}
	p.endMoves++
	return true
}

// Unreserve lets everybody help with a reserved piece again.
func (p *Picker) Unreserve(i bt.PieceIndex) {
	if op := p.byIndex[i]; op != nil && op.reserved {
		op.reserved = false
		p.endMoves++
	}
}

// unreserveAll ends the reservations of a peer that leaves.
func (p *Picker) unreserveAll(peer PeerKey) {
	for _, op := range p.open {
		if op.reserved && op.owner == peer {
			op.reserved = false
			p.endMoves++
		}
	}
}

// closedTo reports whether the piece is reserved for another peer.
func (op *openPiece) closedTo(peer PeerKey) bool { return op.reserved && op.owner != peer }

// Retract makes a received block of an open piece missing again: who sent it turned out to send what is wrong. The caller drops what it holds of the block. It reports
// whether the block was there; blocks of complete pieces stay.
func (p *Picker) Retract(b bt.Block) bool {
	op, n := p.find(b)
	if op == nil || op.missing == 0 || !op.blocks[n].received || op.blocks[n].padding {
		return false
	}
	bl := &op.blocks[n]
	bl.received = false
	bl.forget(0)
	op.missing++
	p.endMoves++
	if bl.n > 0 { // others owe it still
		return true
	}
	op.unasked++
	op.next = min(op.next, n)
	if op.freeAt < 0 {
		p.listFree(op)
	}
	return true
}
