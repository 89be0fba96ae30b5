// Package picker decides which block of a torrent to ask of which peer next.
//
// It knows which pieces are verified, which are partly downloaded (open), which blocks are asked of whom,
// and how many peers have each piece. For a peer with room for n more requests, [Picker.Pick] returns, in
// this order:
//
//  1. blocks nobody was asked for, of open pieces: first of the piece this peer works on, then of the piece
//     nearest to completion, unless another peer is about to ask for its rest, so that a whole piece comes
//     from one peer where possible;
//  2. blocks of new pieces: any piece until a few are verified, then rarest first with ties broken at random;
//  3. when no more pieces may be opened or this peer has none: also what was left to others in 1;
//  4. in the endgame, when every block that somebody has was asked for: blocks asked of others, of up to
//     three peers each and few at a time. On arrival the caller cancels them with the others.
//
// A piece moves through these states:
//
//	missing --Pick--> open --last block--> complete --Verified--> verified
//	   ^               |                      |
//	   +---Abandon-----+--------Failed--------+
//
// The package does not send, time or verify anything, and does not decide how many requests a peer gets
// (internal/pipeline), whom to be interested in beyond [Picker.Interesting], or whom to blame. It has no
// clock; chance comes from the rand.Rand it is given, so the same calls give the same answers. A Picker
// belongs to one goroutine.
//
// Costs, for a torrent of p pieces: a Pick takes microseconds, and nothing is allocated in steady state. A
// peer whose pieces are hard to find among millions pays one scan of p bits for some 64 pieces. Memory is
// 12 bytes a piece, and nothing once complete.
package picker

import (
	"iter"
	"math/rand/v2"
	"slices"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

// PeerKey is the caller's handle for a peer. A key must not be used for another peer while blocks of the
// first are part of an open or complete piece; counting up is the simple way.
type PeerKey uint32

// Options tune a Picker; the zero Options are good.
type Options struct {
	// MaxOpen is how many pieces may be partly downloaded at once, the bound on what a caller holds in
	// memory for them. A peer that can help with none of them may open one more until there are twice as
	// many. 0 or less means as many as make 256 MiB, at least 16.
	MaxOpen int
	// RandomFirst is how many pieces are chosen at random before rarest first begins, so that there is soon
	// something to offer. 0 means 4; negative means none.
	RandomFirst int
	// EndgameDepth is up to how many outstanding requests a peer is filled with blocks that others were asked
	// for too: the bound on what the endgame wastes per peer. 0 or less means 16.
	EndgameDepth int
}

const (
	defaultOpenBytes    = 256 << 20
	defaultMinOpen      = 16
	defaultRandomFirst  = 4
	defaultEndgameDepth = 16

	maxRequesters = 3 // of one block, in the endgame
)

// Outcome says what an arrived block is to the picker.
type Outcome uint8

const (
	// BlockUnrequested is a block this peer was not asked for, or no longer: it was released, or the piece was
	// abandoned or failed since. It is not recorded. The caller who knows that it had asked (a late answer to
	// a request that timed out) can record it with [Picker.Accept].
	BlockUnrequested Outcome = iota
	// BlockDuplicate is a block that is here already, from another peer or with a verified piece.
	BlockDuplicate
	// BlockNew is a block that was missing and is now recorded as received.
	BlockNew
)

// String returns the outcome in lower case.
func (o Outcome) String() string {
	switch o {
	case BlockNew:
		return "new"
	case BlockDuplicate:
		return "duplicate"
	}
	return "unrequested"
}

// Result is what a received block changed.
type Result struct {
	Outcome Outcome
	// PieceComplete is set when this was the last block of its piece, which the caller then verifies and
	// reports with [Picker.Verified] or [Picker.Failed].
	PieceComplete bool
	// Others is how many other peers were asked for the same block and are worth a cancel: see
	// [Picker.Others].
	Others int
}

// Picker is the state of one torrent's download. It belongs to one goroutine. Make one with [New].
type Picker struct {
	geom   bt.Geometry
	pieces int
	rng    *rand.Rand
	opts   Options // resolved

	freeBudget, walkBudget int // the constants, except in tests

	ord     order
	lack    []uint64 // a bit per piece that is not verified; layout of the wire, 64 bits at a time
	cand    []uint64 // a bit per piece that is missing: neither open nor complete nor verified
	missing int      // bits in lack
	cands   int      // bits in cand

	peers map[PeerKey]*peerState
	seeds int // peers counted as having everything

	byIndex map[bt.PieceIndex]*openPiece // open and complete pieces
	open    []*openPiece                 // open pieces
	free    []*openPiece                 // open pieces with blocks nobody was asked for
	freeOf  []bt.PieceIndex              // their indexes, to be looked at without following pointers
	pool    []*openPiece

	// Pieces that became missing again, newest last: what a peer that had nothing to offer looks at before
	// it is searched again. revived holds the last len(revived) of revivals.
	revived  [256]bt.PieceIndex
	revivals uint64
	// endMoves counts events that may give a peer more to do in the endgame.
	endMoves uint64

	wire []byte // scratch: a peer's set as bytes
	top  []ranked
}

// peerState is what the picker remembers of one peer.
type peerState struct {
	reqs     []uint64        // outstanding blocks as piece<<32 | block number, oldest first
	short    []bt.PieceIndex // some missing pieces it has; may be out of date
	current  bt.PieceIndex   // the piece it works on, if that is open and has it as owner
	witness  bt.PieceIndex   // a piece it has, unverified when last looked at; valid if interest == yes
	interest interest
	seed     bool   // counted in Picker.seeds
	dry      bool   // it has no missing piece, except perhaps in short or revived since drySeen
	drySeen  uint64 // value of Picker.revivals
	endSeen  uint64 // value of Picker.endMoves when the endgame had nothing for it
}

type interest uint8

const (
	unknown interest = iota
	yes
	no
)

// New returns a Picker for a torrent of this geometry, which must be known, of which the pieces in have are
// verified; nil means none. have is copied. rng is kept; it must not be nil, nor used by another goroutine.
func New(geom bt.Geometry, have *bitfield.Set, rng *rand.Rand, opts Options) *Picker {
	n := geom.NumPieces()
	if opts.MaxOpen <= 0 {
		opts.MaxOpen = defaultMinOpen
		if geom.PieceBytes != 0 {
			opts.MaxOpen = max(defaultMinOpen, defaultOpenBytes/int(max(geom.PieceBytes, bt.BlockBytes)))
		}
	}
	if opts.RandomFirst == 0 {
		opts.RandomFirst = defaultRandomFirst
	}
	if opts.EndgameDepth <= 0 {
		opts.EndgameDepth = defaultEndgameDepth
	}
	p := &Picker{
		geom: geom, pieces: n, rng: rng, opts: opts,
		peers: make(map[PeerKey]*peerState), byIndex: make(map[bt.PieceIndex]*openPiece),
		endMoves: 1, freeBudget: freeBudget, walkBudget: walkBudget,
	}
	if have != nil && have.Len() == n && have.Full() || n == 0 {
		return p
	}
	p.ord = newOrder(n)
	p.lack = make([]uint64, (n+63)/64)
	p.cand = make([]uint64, (n+63)/64)
	for i := range n {
		if have != nil && have.Has(i) {
			p.ord.class[i] = 1
			continue
		}
		setBit(p.lack, uint32(i))
		setBit(p.cand, uint32(i))
		p.missing++
	}
	p.cands = p.missing
	return p
}

// AddPeer counts a peer and the pieces it has; nil means all. has is borrowed: the caller keeps it, passes
// it again to the other methods, and reports what is added to it with [Picker.PeerHas]. A peer added twice
// is counted once.
func (p *Picker) AddPeer(peer PeerKey, has *bitfield.Set) {
	if p.peers[peer] != nil {
		return
	}
	st := &peerState{seed: p.hasAll(has)}
	p.peers[peer] = st
	if st.seed {
		p.seeds++
		return
	}
	p.count(has, 1)
}

// RemovePeer forgets a peer, which leaves its outstanding blocks to others, and no longer counts its
// pieces. has must be what was given to AddPeer plus what was reported with PeerHas. The blocks it delivered
// stay, and it stays among their [Picker.Contributors].
func (p *Picker) RemovePeer(peer PeerKey, has *bitfield.Set) {
	st := p.peers[peer]
	if st == nil {
		return
	}
	p.ReleaseAll(peer)
	delete(p.peers, peer)
	if st.seed {
		p.seeds--
		return
	}
	p.count(has, -1)
}

// PeerHas reports that piece i was added to the set of a peer (BEP 3, "have"). It must be called once for a
// piece, when it is new in the set.
func (p *Picker) PeerHas(peer PeerKey, i bt.PieceIndex) {
	st := p.peers[peer]
	if st == nil || st.seed || uint(i) >= uint(p.pieces) || p.missing == 0 {
		return
	}
	p.ord.raise(uint32(i))
	p.ord.raise(uint32(i))
	if !hasBit(p.lack, uint32(i)) {
		return
	}
	if st.interest != yes {
		st.interest, st.witness = yes, i
	}
	st.endSeen = 0
	if st.dry && p.isMissing(i) {
		if len(st.short) < shortlistLen {
			st.short = append(st.short, i)
		} else {
			st.dry, st.short = false, st.short[:0] // search again
		}
	}
}

// count adds or takes one peer's pieces to or from the availability.
func (p *Picker) count(has *bitfield.Set, by int) {
	if p.missing == 0 {
		return
	}
	if has == nil { // cannot be told from a seed that was counted piece by piece
		for i := range uint32(p.pieces) {
			p.countOne(i, by)
		}
		return
	}
	if has.Count() > p.pieces/4 {
		p.ord.stale = true
	}
	if p.ord.stale {
		p.countStale(has, by)
		return
	}
	for i := range has.All() {
		if i >= p.pieces {
			return
		}
		p.countOne(uint32(i), by)
	}
}

// countStale is count for a stale order, where only the classes matter.
func (p *Picker) countStale(has *bitfield.Set, by int) {
	for k := range p.words(has) {
		for w := word(p.wire, k); w != 0; {
			z := firstBit(w)
			w &^= 1 << 63 >> z
			i := k*64 + z
			if i >= p.pieces { // a set of the wrong length
				return
			}
			if c := &p.ord.class[i]; by > 0 {
				*c += 2
			} else if *c >= 2 {
				*c -= 2
			}
		}
	}
}

func (p *Picker) countOne(i uint32, by int) {
	if by > 0 {
		p.ord.raise(i)
		p.ord.raise(i)
	} else if p.ord.class[i] >= 2 {
		p.ord.lower(i)
		p.ord.lower(i)
	}
}

// Availability returns how many of the counted peers have piece i. Once the torrent is complete pieces are
// no longer counted, and only peers that were added as having everything are.
func (p *Picker) Availability(i bt.PieceIndex) int {
	if uint(i) >= uint(len(p.ord.class)) {
		return p.seeds
	}
	return p.seeds + int(p.ord.class[i]/2)
}

// Missing returns how many pieces are not verified.
func (p *Picker) Missing() int { return p.missing }

// Complete reports whether every piece is verified.
func (p *Picker) Complete() bool { return p.missing == 0 }

// Outstanding returns how many blocks this peer was asked for and has neither delivered nor been released
// from.
func (p *Picker) Outstanding(peer PeerKey) int {
	if st := p.peers[peer]; st != nil {
		return len(st.reqs)
	}
	return 0
}

// Requests yields the blocks outstanding with this peer, oldest first. Nothing may be changed meanwhile.
func (p *Picker) Requests(peer PeerKey) iter.Seq[bt.Block] {
	return func(yield func(bt.Block) bool) {
		st := p.peers[peer]
		if st == nil {
			return
		}
		for _, ref := range st.reqs {
			if !yield(p.geom.Block(bt.PieceIndex(ref>>32), int(uint32(ref)))) {
				return
			}
		}
	}
}

// Interesting reports whether a peer has a piece that is not verified yet: whether to be interested in it
// (BEP 3). has is the peer's set as in AddPeer; nil means all. It usually costs a few nanoseconds.
func (p *Picker) Interesting(peer PeerKey, has *bitfield.Set) bool {
	switch {
	case p.missing == 0:
		return false
	case p.hasAll(has):
		return true
	}
	st := p.peers[peer]
	if st == nil {
		_, ok := p.findLacking(has)
		return ok
	}
	switch st.interest {
	case no:
		return false // only PeerHas can change that, and it does
	case yes:
		if hasBit(p.lack, uint32(st.witness)) {
			return true
		}
	}
	st.interest = no
	if i, ok := p.findLacking(has); ok {
		st.interest, st.witness = yes, i
	}
	return st.interest == yes
}

// findLacking returns a piece of has that is not verified, the last one, so that pieces verified in
// between rarely make it look again.
func (p *Picker) findLacking(has *bitfield.Set) (bt.PieceIndex, bool) {
	if has.Count() == 0 {
		return 0, false
	}
	words := p.words(has)
	for k := range words {
		if w := word(p.wire, k) & p.lack[k]; w != 0 {
			return bt.PieceIndex(k*64 + firstBit(w)), true
		}
	}
	return 0, false
}

// Verified records that piece i is complete and its hash right, or was found to be so on disk. Requests for
// its blocks that are still outstanding are forgotten.
func (p *Picker) Verified(i bt.PieceIndex) {
	if p.missing == 0 || uint(i) >= uint(p.pieces) || !hasBit(p.lack, uint32(i)) {
		return
	}
	if op := p.byIndex[i]; op != nil {
		p.close(op)
	} else {
		p.setMissing(i, false)
	}
	clearBit(p.lack, uint32(i))
	p.missing--
	if p.missing == 0 { // what only a download needs
		p.ord, p.lack, p.cand = order{}, nil, nil
		p.open, p.free, p.freeOf, p.pool, p.wire, p.top = nil, nil, nil, nil, nil, nil
		clear(p.byIndex)
		for _, st := range p.peers {
			st.short, st.reqs = nil, nil
		}
	}
}

// Failed records that the hash of complete piece i was wrong: all its blocks are missing again. Ask for
// [Picker.Contributors] before. It reports whether the piece was complete.
func (p *Picker) Failed(i bt.PieceIndex) bool {
	op := p.byIndex[i]
	if op == nil || op.missing != 0 {
		return false
	}
	p.drop(op)
	return true
}

// Abandon gives up open piece i: its blocks are missing again, requests for them are forgotten. It is for
// pieces that no connected peer has while others cannot be opened (see [Options.MaxOpen]). The caller
// cancels what is outstanding, and drops the blocks it holds. It reports whether the piece was open.
func (p *Picker) Abandon(i bt.PieceIndex) bool {
	op := p.byIndex[i]
	if op == nil || op.missing == 0 {
		return false
	}
	p.drop(op)
	return true
}

func (p *Picker) drop(op *openPiece) {
	i := op.index
	p.close(op)
	p.setMissing(i, true)
	p.revived[p.revivals%uint64(len(p.revived))] = i
	p.revivals++
	p.endMoves++
}

// Open yields the open pieces and how many of their blocks have not arrived, in no order. Complete pieces
// that wait for verification are not among them. Nothing may be changed meanwhile.
func (p *Picker) Open() iter.Seq2[bt.PieceIndex, int] {
	return func(yield func(bt.PieceIndex, int) bool) {
		for _, op := range p.open {
			if !yield(op.index, op.missing) {
				return
			}
		}
	}
}

// NumOpen returns how many pieces are open.
func (p *Picker) NumOpen() int { return len(p.open) }

// Contributors appends to dst the peers whose blocks open or complete piece i was made of so far, each once
// in ascending order. A piece that failed with one contributor was spoilt by that one.
func (p *Picker) Contributors(dst []PeerKey, i bt.PieceIndex) []PeerKey {
	op := p.byIndex[i]
	if op == nil {
		return dst
	}
	from := len(dst)
	for n := range op.blocks {
		if bl := &op.blocks[n]; bl.received {
			dst = append(dst, bl.who[0])
		}
	}
	slices.Sort(dst[from:])
	return dst[:from+len(slices.Compact(dst[from:]))]
}

// Contributor returns which peer delivered a block of an open or complete piece; false if it has not
// arrived.
func (p *Picker) Contributor(b bt.Block) (PeerKey, bool) {
	op, n := p.find(b)
	if op == nil || !op.blocks[n].received {
		return 0, false
	}
	return op.blocks[n].who[0], true
}

// hasAll reports whether a peer's set, in which nil means all, holds every piece.
func (p *Picker) hasAll(has *bitfield.Set) bool {
	return has == nil || has.Len() == p.pieces && has.Full()
}

func (p *Picker) isMissing(i bt.PieceIndex) bool { return hasBit(p.cand, uint32(i)) }

// setMissing moves piece i into or out of the state "missing".
func (p *Picker) setMissing(i bt.PieceIndex, missing bool) {
	if missing {
		setBit(p.cand, uint32(i))
		p.cands++
		p.ord.lower(uint32(i))
	} else {
		clearBit(p.cand, uint32(i))
		p.cands--
		p.ord.raise(uint32(i))
	}
}
