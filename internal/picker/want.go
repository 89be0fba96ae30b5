package picker

import (
	"slices"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

// Priority says how much a piece is wanted.
type Priority uint8

// The priorities. A piece without one is [Normal].
const (
	Skip   Priority = iota // not wanted: neither asked for, nor missed
	Low                    // only where nothing of a higher priority can be had
	Normal                 //
	High                   // before everything else
)

// numLevels is how many priorities there are at which a piece is asked for: that of priority pr is pr-1.
const numLevels = int(High)

// level is the pieces of one priority that can be opened: they are missing, neither open nor complete nor verified.
type level struct {
	ord   order    // of all pieces; those that cannot be opened, or are of another level, are in the odd classes
	cand  []uint64 // a bit per piece that can be opened
	cands int      // bits in cand
	from  int      // no bit is set in the words of cand before it
}

// newLevel returns the level of no pieces of n that nobody has.
func newLevel(n int) *level {
	l := &level{ord: newOrder(n), cand: make([]uint64, (n+63)/64)}
	for i := range l.ord.class {
		l.ord.class[i] = 1
	}
	return l
}

// put adds piece i, and take takes it away.
func (l *level) put(i uint32) {
	setBit(l.cand, i)
	l.cands++
	l.from = min(l.from, int(i>>6))
	l.ord.lower(i)
}

func (l *level) take(i uint32) {
	clearBit(l.cand, i)
	l.cands--
	l.ord.raise(i)
}

// Priority returns the priority of piece i.
func (p *Picker) Priority(i bt.PieceIndex) Priority {
	if p.prio == nil || uint(i) >= uint(len(p.prio)) {
		return Normal
	}
	return p.prio[i]
}

// wants reports whether piece i, which must be in range, is wanted and not verified.
func (p *Picker) wants(i uint32) bool { return hasBit(p.need, i) }

// openable reports whether piece i is missing and can be asked for, whatever its priority.
func (p *Picker) openable(i uint32) bool {
	return hasBit(p.lack, i) && p.byIndex[bt.PieceIndex(i)] == nil && (p.blank == nil || !hasBit(p.blank, i))
}

// isMissing reports whether piece i can be opened and is wanted.
func (p *Picker) isMissing(i bt.PieceIndex) bool {
	pr := p.Priority(i)
	return pr != Skip && p.levels[pr-1] != nil && hasBit(p.levels[pr-1].cand, uint32(i))
}

// setMissing moves piece i into or out of the state "missing".
func (p *Picker) setMissing(i bt.PieceIndex, missing bool) {
	pr := p.Priority(i)
	if pr == Skip || p.isMissing(i) == missing || p.blank != nil && hasBit(p.blank, uint32(i)) {
		return
	}
	if missing {
		p.levels[pr-1].put(uint32(i))
		p.cands++
	} else {
		p.levels[pr-1].take(uint32(i))
		p.cands--
	}
}

// SetPriorities says how much each piece is wanted; prio has an entry for each and is copied. It appends to dst the open pieces
// that are no longer wanted: the caller cancels what is outstanding of them, drops the blocks it holds, and gives them up with
// [Picker.Abandon]. A call looks at every piece. Once every piece is verified it does nothing.
func (p *Picker) SetPriorities(dst []bt.PieceIndex, prio []Priority) []bt.PieceIndex {
	if p.unverified == 0 || len(prio) != p.pieces {
		return dst
	}
	base := p.levels[Normal-1]
	p.prio = slices.Clone(prio)
	p.missing, p.cands = 0, 0
	p.need = make([]uint64, len(p.lack))
	var levels [numLevels]*level
	levels[Normal-1] = newLevel(p.pieces)
	for i, pr := range p.prio {
		if pr > High {
			pr = High
			p.prio[i] = pr
		}
		if pr == Skip || !hasBit(p.lack, uint32(i)) {
			continue
		}
		p.missing++
		setBit(p.need, uint32(i))
		if levels[pr-1] == nil {
			levels[pr-1] = newLevel(p.pieces)
		}
		if p.openable(uint32(i)) {
			levels[pr-1].put(uint32(i))
			p.cands++
		}
	}
	for k, pr := range p.prio { // a piece may get back to any level that another has
		if pr != Skip && levels[pr-1] == nil {
			levels[pr-1] = newLevel(p.pieces)
		}
		for _, l := range levels {
			if l != nil {
				l.ord.class[k] += base.ord.class[k] &^ 1
			}
		}
	}
	p.levels = levels
	for _, st := range p.peers {
		st.interest, st.endSeen, st.known = unknown, 0, [numLevels]known{}
	}
	p.endMoves++
	for _, op := range p.open {
		if p.Priority(op.index) == Skip {
			dst = append(dst, op.index)
		}
	}
	return dst
}

// SetSequential says whether new pieces are asked for in the order of the torrent, rather than the rarest first. A swarm whose peers all
// do so has little to exchange: it is for content that is used while it comes.
func (p *Picker) SetSequential(on bool) { p.sequential = on }

// first returns the first missing piece of a level that a peer has.
func (p *Picker) first(l *level, has *bitfield.Set) (bt.PieceIndex, bool) {
	for l.from < len(l.cand) && l.cand[l.from] == 0 {
		l.from++
	}
	end := len(l.cand)
	if has != nil {
		end = p.words(has)
	}
	for k := l.from; k < end; k++ {
		w := l.cand[k]
		if has != nil {
			w &= word(p.wire, k)
		}
		if w != 0 {
			return bt.PieceIndex(k*64 + firstBit(w)), true
		}
	}
	return 0, false
}

// MaxUrgent is how many pieces may be urgent at once.
const MaxUrgent = 256

// SetUrgent says which pieces are about to be read, the one needed first in front: they are asked for before all others,
// of any peer that has them. rushed are those of them, few, that are late already: their blocks are asked of up to three peers, as in the
// endgame. Both replace what was said before and are copied, the first [MaxUrgent] of them; pieces that are verified or not wanted do no harm.
func (p *Picker) SetUrgent(pieces, rushed []bt.PieceIndex) {
	p.urgent = append(p.urgent[:0], pieces[:min(len(pieces), MaxUrgent)]...)
	p.rushed = append(p.rushed[:0], rushed[:min(len(rushed), MaxUrgent)]...)
	p.endMoves++
}

// takeUrgent takes blocks of pieces that are late, and then unasked blocks of urgent pieces, of which twice as many may be open as of others. What is late does not
// wait for room in the endgame's sense: it is one piece or few, and its reader stands still.
func (p *Picker) takeUrgent(dst []bt.Block, end int, peer PeerKey, st *peerState, has *bitfield.Set) []bt.Block {
	for _, i := range p.rushed {
		op := p.byIndex[i]
		if op == nil || op.openAt < 0 || op.unasked > 0 || op.closedTo(peer) {
			continue
		}
		dst, _ = p.share(dst, min(end, len(dst)+p.opts.EndgameDepth), peer, st, has, p.open[op.openAt:op.openAt+1], nil)
	}
	for _, i := range p.urgent {
		if len(dst) >= end {
			return dst
		}
		if uint(i) >= uint(p.pieces) || !hasPiece(has, i) {
			continue
		}
		op := p.byIndex[i]
		if op == nil && p.isMissing(i) && len(p.open) < 2*p.opts.MaxOpen {
			op = p.openNew(i)
		}
		if op != nil && op.unasked > 0 && !op.closedTo(peer) {
			dst = p.take(dst, end, op, peer, st)
		}
	}
	return dst
}

// padded reports whether the bytes from from to to-1 are padding.
func (p *Picker) padded(from, to int64) bool {
	spans := p.opts.Padding
	k, found := slices.BinarySearchFunc(spans, from, func(s Span, from int64) int {
		switch {
		case s.To <= from:
			return -1
		case s.From > from:
			return 1
		}
		return 0
	})
	return found && to <= spans[k].To
}

// Padding reports whether a block is nothing but padding, and therefore never asked for.
func (p *Picker) Padding(b bt.Block) bool {
	from := p.geom.Offset(b)
	return len(p.opts.Padding) > 0 && p.padded(from, from+int64(b.Length))
}

// Blank yields the pieces that are nothing but padding and not verified yet, ascending: see [Options.Padding].
func (p *Picker) Blank(yield func(bt.PieceIndex) bool) {
	for k := range p.blank {
		for w := p.blank[k] & p.lack[k]; w != 0; {
			z := firstBit(w)
			w &^= 1 << 63 >> z
			if !yield(bt.PieceIndex(k*64 + z)) {
				return
			}
		}
	}
}

// markBlank finds the pieces that are nothing but padding.
func (p *Picker) markBlank() {
	size := int64(p.geom.PieceBytes)
	for _, s := range p.opts.Padding {
		to := s.To / size
		if s.To >= p.geom.TotalBytes {
			to = int64(p.pieces)
		}
		for i := (max(s.From, 0) + size - 1) / size; i < to; i++ {
			if p.blank == nil {
				p.blank = make([]uint64, len(p.lack))
			}
			setBit(p.blank, uint32(i))
		}
	}
}

// fillPadding counts the blocks of a new piece that are padding as received. At least one is not: the piece would be blank.
func (p *Picker) fillPadding(op *openPiece) {
	if len(p.opts.Padding) == 0 {
		return
	}
	for n := range op.blocks {
		if p.Padding(p.geom.Block(op.index, n)) {
			op.blocks[n].received, op.blocks[n].padding = true, true
			op.missing--
			op.unasked--
		}
	}
}
