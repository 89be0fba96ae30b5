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
// Among new pieces those of a higher [Priority] come first, and those to be skipped never
// ([Picker.SetPriorities]); with [Picker.SetSequential] they come in the order of the torrent instead of by
// rarity. Before all of the above come the pieces that somebody is about to read ([Picker.SetUrgent]), in the
// order in which they will be read. Blocks that are nothing but padding ([Options.Padding], BEP 47) are never
// asked for: they count as received.
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
// 12 bytes a piece, 12 more for each further priority in use, and nothing once every piece is verified.
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
	// Redundant, if set, reports that there is no point in asking peer too, in the endgame, for a block that owner was asked for and is about to deliver. It is asked anew
	// with every Pick.
	Redundant func(peer, owner PeerKey) bool
	// EndgameDepth is up to how many outstanding requests a peer is filled with blocks that others were asked
	// for too: the bound on what the endgame wastes per peer. 0 or less means 16.
	EndgameDepth int
	// Padding are the ranges of the torrent that are padding (BEP 47): in ascending order, neither overlapping nor
	// touching. A block within one is never asked for. A piece within one is never opened: the caller, who knows its
	// content, reports it with [Picker.Verified].
	Padding []Span
	// Sequential is where [Picker.SetSequential] begins.
	Sequential bool
}

// Span is a range of the torrent's bytes: From is its first, To the one behind its last.
type Span struct{ From, To int64 }

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

	levels     [numLevels]*level // by priority; nil while no piece has it, except the one of Normal
	prio       []Priority        // of each piece; nil if all are Normal
	lack       []uint64          // a bit per piece that is not verified; layout of the wire, 64 bits at a time
	need       []uint64          // lack without what is to be skipped; the same slice while nothing is
	blank      []uint64          // a bit per piece that is nothing but padding; nil if there is none
	unverified int               // bits in lack
	missing    int               // of them, how many are wanted
	cands      int               // pieces that can be opened, of all levels
	sequential bool

	urgent []bt.PieceIndex // see SetUrgent
	rushed []bt.PieceIndex

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
	reqs     []uint64 // outstanding blocks as piece<<32 | block number, oldest first
	known    [numLevels]known
	current  bt.PieceIndex // the piece it works on, if that is open and has it as owner
	witness  bt.PieceIndex // a piece it has, unverified when last looked at; valid if interest == yes
	interest interest
	seed     bool   // counted in Picker.seeds
	endSeen  uint64 // value of Picker.endMoves when the endgame had nothing for it
}

// known is what was found out about the missing pieces of one level that a peer has.
type known struct {
	short   []bt.PieceIndex // some of them; may be out of date
	dry     bool            // it has none, except perhaps in short or revived since drySeen
	drySeen uint64          // value of Picker.revivals
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
		endMoves: 1, freeBudget: freeBudget, walkBudget: walkBudget, sequential: opts.Sequential,
	}
	if have != nil && have.Len() == n && have.Full() || n == 0 {
		return p
	}
	p.lack = make([]uint64, (n+63)/64)
	for i := range n {
		if have == nil || !have.Has(i) {
			setBit(p.lack, uint32(i))
			p.unverified++
		}
	}
	p.missing, p.need = p.unverified, p.lack
	p.markBlank()
	base := newLevel(n)
	p.levels[Normal-1] = base
	for i := range uint32(n) {
		if p.openable(i) {
			base.put(i)
			p.cands++
		}
	}
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
	p.unreserveAll(peer)
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
	if st == nil || st.seed || uint(i) >= uint(p.pieces) || p.unverified == 0 {
		return
	}
	p.countOne(uint32(i), 1)
	if !p.wants(uint32(i)) {
		return
	}
	if st.interest != yes {
		st.interest, st.witness = yes, i
	}
	st.endSeen = 0
	if !p.isMissing(i) {
		return
	}
	if kn := &st.known[p.Priority(i)-1]; kn.dry {
		if len(kn.short) < shortlistLen {
			kn.short = append(kn.short, i)
		} else {
			kn.dry, kn.short = false, kn.short[:0] // search again
		}
	}
}

// PeerLost reports that a piece was taken out of the set of a peer (BEP 54, "lt_donthave"), which must have held it. Blocks
// of it that the peer owes are released. The set must be passed with that piece taken out from then on, and no longer be nil.
func (p *Picker) PeerLost(peer PeerKey, i bt.PieceIndex) {
	st := p.peers[peer]
	if st == nil || uint(i) >= uint(p.pieces) || p.unverified == 0 {
		return
	}
	if st.seed {
		st.seed = false
		p.seeds--
		p.count(nil, 1)
	}
	p.countOne(uint32(i), -1)
	st.interest, st.endSeen = unknown, 0
	for k := 0; k < len(st.reqs); {
		if r := st.reqs[k]; bt.PieceIndex(r>>32) == i {
			st.reqs = slices.Delete(st.reqs, k, k+1)
			p.release(peer, i, int(uint32(r)))
		} else {
			k++
		}
	}
}

// count adds or takes one peer's pieces to or from the availability.
func (p *Picker) count(has *bitfield.Set, by int) {
	if p.unverified == 0 {
		return
	}
	if has == nil { // cannot be told from a seed that was counted piece by piece
		for i := range uint32(p.pieces) {
			p.countOne(i, by)
		}
		return
	}
	for _, l := range p.levels {
		if l == nil {
			continue
		}
		if has.Count() > p.pieces/4 {
			l.ord.stale = true
		}
		if l.ord.stale {
			p.countStale(&l.ord, has, by)
			continue
		}
		for i := range has.All() {
			if i >= p.pieces {
				break
			}
			l.ord.count(uint32(i), by)
		}
	}
}

// countStale is count for a stale order, where only the classes matter.
func (p *Picker) countStale(o *order, has *bitfield.Set, by int) {
	for k := range p.words(has) {
		for w := word(p.wire, k); w != 0; {
			z := firstBit(w)
			w &^= 1 << 63 >> z
			i := k*64 + z
			if i >= p.pieces { // a set of the wrong length
				return
			}
			if c := &o.class[i]; by > 0 {
				*c += 2
			} else if *c >= 2 {
				*c -= 2
			}
		}
	}
}

func (p *Picker) countOne(i uint32, by int) {
	for _, l := range p.levels {
		if l != nil {
			l.ord.count(i, by)
		}
	}
}

// Availability returns how many of the counted peers have piece i. Once the torrent is complete pieces are
// no longer counted, and only peers that were added as having everything are.
func (p *Picker) Availability(i bt.PieceIndex) int {
	l := p.levels[Normal-1]
	if l == nil || uint(i) >= uint(p.pieces) {
		return p.seeds
	}
	return p.seeds + int(l.ord.class[i]/2)
}

// Missing returns how many pieces are wanted and not verified.
func (p *Picker) Missing() int { return p.missing }

// Complete reports whether every piece that is wanted is verified.
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

// Interesting reports whether a peer has a piece that is wanted and not verified yet: whether to be interested in it
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
		if p.wants(uint32(st.witness)) {
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
		if w := word(p.wire, k) & p.need[k]; w != 0 {
			return bt.PieceIndex(k*64 + firstBit(w)), true
		}
	}
	return 0, false
}

// Verified records that piece i is complete and its hash right, or was found to be so on disk. Requests for
// its blocks that are still outstanding are forgotten.
func (p *Picker) Verified(i bt.PieceIndex) {
	if p.unverified == 0 || uint(i) >= uint(p.pieces) || !hasBit(p.lack, uint32(i)) {
		return
	}
	if op := p.byIndex[i]; op != nil {
		p.close(op)
	} else {
		p.setMissing(i, false)
	}
	if p.wants(uint32(i)) {
		p.missing--
	}
	clearBit(p.lack, uint32(i))
	clearBit(p.need, uint32(i))
	p.unverified--
	if p.unverified == 0 { // what only a download needs
		p.levels, p.prio, p.lack, p.need, p.blank = [numLevels]*level{}, nil, nil, nil, nil
		p.open, p.free, p.freeOf, p.pool, p.wire, p.top = nil, nil, nil, nil, nil, nil
		p.urgent, p.rushed = nil, nil
		clear(p.byIndex)
		for _, st := range p.peers {
			st.known, st.reqs = [numLevels]known{}, nil
		}
	}
}

// Lost records that verified piece i is no longer there: it is missing again. It reports false, and does nothing, if the
// piece is not verified or if every piece is: a Picker that has forgotten what a download needs is replaced by a new one.
func (p *Picker) Lost(i bt.PieceIndex) bool {
	if p.unverified == 0 || uint(i) >= uint(p.pieces) || hasBit(p.lack, uint32(i)) {
		return false
	}
	setBit(p.lack, uint32(i))
	p.unverified++
	if p.Priority(i) != Skip {
		setBit(p.need, uint32(i))
		p.missing++
	}
	p.revive(i)
	for _, st := range p.peers {
		if st.interest == no {
			st.interest = unknown
		}
	}
	return true
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
	p.revive(i)
}

// revive makes a piece that was open, complete or verified a missing one.
func (p *Picker) revive(i bt.PieceIndex) {
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
		if bl := &op.blocks[n]; bl.received && !bl.padding {
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
	if op == nil || !op.blocks[n].received || op.blocks[n].padding {
		return 0, false
	}
	return op.blocks[n].who[0], true
}

// hasAll reports whether a peer's set, in which nil means all, holds every piece.
func (p *Picker) hasAll(has *bitfield.Set) bool {
	return has == nil || has.Len() == p.pieces && has.Full()
}
