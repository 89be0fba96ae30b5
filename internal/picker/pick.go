package picker

import (
	"slices"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

const (
	freeBudget    = 128  // open pieces compared for the nearest to completion
	walkBudget    = 512  // pieces looked at in order of rarity before the peer's own set is searched
	randomTries   = 16   // guesses at a random first piece
	scanMembers   = 8192 // of a peer's pieces, ranked in one search
	shortlistLen  = 64   // of them, remembered
	firstCounted  = 2    // the first class of pieces that a counted peer has
	candidateStep = 2    // from one class of missing pieces to the next
)

// ranked is a piece with its place among those a peer has: the lowest key first.
type ranked struct {
	key   uint64
	index bt.PieceIndex
}

// Pick appends up to n blocks to dst that should be asked of this peer now, and records them as asked; has
// is the set given to AddPeer, nil means all. Fewer than n are returned when there are no more for this
// peer. A peer that was not added gets none. See the package comment for the order.
//
// While the peer chokes us, use [Picker.PickAllowed].
func (p *Picker) Pick(dst []bt.Block, peer PeerKey, has *bitfield.Set, n int) []bt.Block {
	st := p.peers[peer]
	if st == nil || p.missing == 0 || n <= 0 {
		return dst
	}
	if p.hasAll(has) {
		has = nil
	}
	start, end := len(dst), len(dst)+n
	dst = p.takeUrgent(dst, end, peer, st, has)
	if op := p.byIndex[st.current]; op != nil && op.unasked > 0 && op.owner == peer && hasPiece(has, op.index) {
		dst = p.take(dst, end, op, peer, st)
	}
	dst = p.takeFree(dst, end, peer, st, has, true)
	dst = p.takeNew(dst, end, peer, st, has, p.opts.MaxOpen)
	dst = p.takeFree(dst, end, peer, st, has, false)
	if len(dst) == start {
		dst = p.takeNew(dst, end, peer, st, has, min(2*p.opts.MaxOpen, len(p.open)+1))
	}
	if len(dst) < end && st.endSeen != p.endMoves && p.endgame() {
		end = min(end, len(dst)+p.opts.EndgameDepth-len(st.reqs))
		var spared bool
		dst, spared = p.share(dst, end, peer, st, has, p.open, p.opts.Redundant)
		if len(dst) < end && !spared {
			st.endSeen = p.endMoves
		}
	}
	return dst
}

// PickAllowed is Pick restricted to the given pieces: those a peer lets us ask for while it chokes us
// (BEP 6, "allowed fast"). Pieces out of range are ignored.
func (p *Picker) PickAllowed(dst []bt.Block, peer PeerKey, has *bitfield.Set, allowed []bt.PieceIndex, n int) []bt.Block {
	st := p.peers[peer]
	if st == nil || p.missing == 0 || n <= 0 {
		return dst
	}
	start, end := len(dst), len(dst)+n
	for _, i := range allowed {
		if op := p.byIndex[i]; op != nil && op.unasked > 0 && hasPiece(has, i) && !op.closedTo(peer) {
			dst = p.take(dst, end, op, peer, st)
		}
	}
	for _, i := range allowed {
		limit := p.opts.MaxOpen
		if len(dst) == start {
			limit *= 2
		}
		if len(dst) < end && len(p.open) < limit && uint(i) < uint(p.pieces) && p.isMissing(i) && hasPiece(has, i) {
			dst = p.take(dst, end, p.openNew(i), peer, st)
		}
	}
	if len(dst) < end && p.endgame() {
		end = min(end, len(dst)+p.opts.EndgameDepth-len(st.reqs))
		for k, i := range allowed {
			if op := p.byIndex[i]; op != nil && op.openAt >= 0 && !slices.Contains(allowed[:k], i) {
				dst, _ = p.share(dst, end, peer, st, has, p.open[op.openAt:op.openAt+1], p.opts.Redundant)
			}
		}
	}
	return dst
}

func hasPiece(has *bitfield.Set, i bt.PieceIndex) bool { return has == nil || has.Has(int(i)) }

// take appends unasked blocks of op until dst is end long.
func (p *Picker) take(dst []bt.Block, end int, op *openPiece, peer PeerKey, st *peerState) []bt.Block {
	for n := op.next; len(dst) < end && op.unasked > 0; n++ {
		bl := &op.blocks[n]
		op.next = n + 1
		if bl.received || bl.n > 0 {
			continue
		}
		bl.who[0], bl.n = peer, 1
		p.asked(op)
		st.reqs = append(st.reqs, ref(op.index, n))
		dst = append(dst, p.geom.Block(op.index, n))
		op.owner, op.ownerState, st.current = peer, st, op.index
	}
	return dst
}

// takeNew opens pieces while fewer than limit are open, until dst is end long or this peer has no more.
func (p *Picker) takeNew(dst []bt.Block, end int, peer PeerKey, st *peerState, has *bitfield.Set, limit int) []bt.Block {
	for len(dst) < end && p.cands > 0 && len(p.open) < limit {
		i, ok := p.findNew(st, has)
		if !ok {
			break
		}
		dst = p.take(dst, end, p.openNew(i), peer, st)
	}
	return dst
}

// takeFree takes unasked blocks of open pieces until dst is end long or this peer has no more of them.
func (p *Picker) takeFree(dst []bt.Block, end int, peer PeerKey, st *peerState, has *bitfield.Set, spare bool) []bt.Block {
	for len(dst) < end {
		op := p.bestFree(peer, has, spare)
		if op == nil {
			break
		}
		dst = p.take(dst, end, op, peer, st)
	}
	return dst
}

// bestFree returns the open piece with unasked blocks that this peer should help with: its own first, then
// the one nearest to completion. If spare is set, pieces whose owner will soon ask for the rest are left to
// it. Of very many pieces that the peer has it compares only some, from anywhere on.
func (p *Picker) bestFree(peer PeerKey, has *bitfield.Set, spare bool) *openPiece {
	from := 0
	if len(p.free) > p.freeBudget {
		from = p.rng.IntN(len(p.free))
	}
	var best *openPiece
	bestOwn := false
	compared := 0
	for k := range p.freeOf {
		at := from + k
		if at >= len(p.freeOf) {
			at -= len(p.freeOf)
		}
		if !hasPiece(has, p.freeOf[at]) {
			continue
		}
		if compared++; compared > p.freeBudget {
			break
		}
		op := p.free[at]
		own := op.owner == peer
		if op.reserved && !own {
			continue
		}
		if spare && !own && op.spoken() {
			continue
		}
		if best == nil || own && !bestOwn || own == bestOwn && p.before(op, best) {
			best, bestOwn = op, own
		}
	}
	return best
}

// before reports whether open piece a is to be finished before b.
func (p *Picker) before(a, b *openPiece) bool {
	if p.sequential {
		return a.index < b.index
	}
	return a.missing < b.missing
}

// findNew returns a missing piece for a peer: of the highest priority that has one, and of these the rarest it has or nearly so.
func (p *Picker) findNew(st *peerState, has *bitfield.Set) (bt.PieceIndex, bool) {
	for k := numLevels - 1; k >= 0; k-- {
		if l := p.levels[k]; l != nil && l.cands > 0 {
			if i, ok := p.findIn(l, &st.known[k], has); ok {
				return i, true
			}
		}
	}
	return 0, false
}

// findIn is findNew for one level.
func (p *Picker) findIn(l *level, kn *known, has *bitfield.Set) (bt.PieceIndex, bool) {
	if p.sequential {
		return p.first(l, has)
	}
	l.ord.settle()
	if p.pieces-p.unverified < p.opts.RandomFirst {
		for range randomTries {
			if i := bt.PieceIndex(p.rng.IntN(p.pieces)); hasBit(l.cand, uint32(i)) && hasPiece(has, i) {
				return i, true
			}
		}
	}
	if has == nil {
		i, ok, _ := p.walk(&l.ord, 0, nil)
		return i, ok
	}
	if i, ok := p.findKnown(l, kn, has); ok || kn.dry {
		return i, ok
	}
	i, ok, all := p.walk(&l.ord, firstCounted, has)
	if !ok && !all {
		i, ok = p.scan(l, kn, has)
	}
	if !ok {
		kn.dry, kn.drySeen = true, p.revivals
	}
	return i, ok
}

// walk looks for the rarest missing piece in has, nil meaning any, from the given class on. It starts
// somewhere in each class, so that ties are broken at random, and not at the end where the last change
// happened, which all peers of a swarm see alike. It stops after p.walkBudget pieces; all reports whether it
// saw every one.
func (p *Picker) walk(o *order, class int, has *bitfield.Set) (i bt.PieceIndex, ok, all bool) {
	budget := uint32(p.walkBudget)
	for ; class+1 < len(o.starts); class += candidateStep {
		from, to := o.bounds(class)
		if from == to {
			continue
		}
		size := to - from
		at := from + p.rng.Uint32N(size)
		for range min(size, budget) {
			if i := bt.PieceIndex(o.at[at]); hasPiece(has, i) {
				return i, true, false
			}
			if at++; at == to {
				at = from
			}
		}
		if size > budget {
			return 0, false, false
		}
		budget -= size
	}
	return 0, false, true
}

// scan searches the peer's own set for missing pieces of a level, remembers the rarest of those it meets in kn.short
// and returns the rarest of all. It begins anywhere and stops when it met enough of them.
func (p *Picker) scan(l *level, kn *known, has *bitfield.Set) (bt.PieceIndex, bool) {
	words := p.words(has)
	if words == 0 {
		return 0, false
	}
	top := p.top[:0]
	met := 0
	from := p.rng.IntN(words)
	for k := 0; k < words && met < scanMembers; k++ {
		at := from + k
		if at >= words {
			at -= words
		}
		for w := word(p.wire, at) & l.cand[at]; w != 0; {
			z := firstBit(w)
			w &^= 1 << 63 >> z
			met++
			i := uint32(at*64 + z)
			class := uint64(l.ord.class[i])
			if len(top) == shortlistLen && class > top[0].key>>32 {
				continue
			}
			top = push(top, ranked{key: class<<32 | uint64(p.rng.Uint32()), index: bt.PieceIndex(i)})
		}
	}
	p.top = top
	if len(top) == 0 {
		return 0, false
	}
	kn.short = slices.Grow(kn.short[:0], shortlistLen)
	best := top[0]
	for _, r := range top {
		kn.short = append(kn.short, r.index)
		if r.key < best.key {
			best = r
		}
	}
	return best.index, true
}

// push puts r into a heap of at most shortlistLen entries with the highest key on top, which gives way.
func push(heap []ranked, r ranked) []ranked {
	if len(heap) < shortlistLen {
		heap = append(heap, r)
		for c := len(heap) - 1; c > 0 && heap[(c-1)/2].key < heap[c].key; c = (c - 1) / 2 {
			heap[(c-1)/2], heap[c] = heap[c], heap[(c-1)/2]
		}
		return heap
	}
	if r.key >= heap[0].key {
		return heap
	}
	heap[0] = r
	for c := 0; ; {
		big := 2*c + 1
		if big >= len(heap) {
			return heap
		}
		if big+1 < len(heap) && heap[big+1].key > heap[big].key {
			big++
		}
		if heap[c].key >= heap[big].key {
			return heap
		}
		heap[c], heap[big] = heap[big], heap[c]
		c = big
	}
}

// findKnown returns the rarest of the missing pieces of a level that a peer is known to have without a search: those
// remembered, and for a dry peer those that became missing again since. If there were too many of the
// latter to tell, the peer is no longer dry.
func (p *Picker) findKnown(l *level, kn *known, has *bitfield.Set) (best bt.PieceIndex, found bool) {
	if kn.dry && p.revivals-kn.drySeen > uint64(len(p.revived)) {
		kn.dry, kn.short = false, kn.short[:0]
		return 0, false
	}
	consider := func(i bt.PieceIndex) bool {
		if !hasBit(l.cand, uint32(i)) || !has.Has(int(i)) {
			return false
		}
		if !found || l.ord.class[i] < l.ord.class[best] {
			best, found = i, true
		}
		return true
	}
	kept := kn.short[:0]
	for _, i := range kn.short {
		if consider(i) {
			kept = append(kept, i)
		}
	}
	kn.short = kept
	if kn.dry {
		before := found
		for s := kn.drySeen; s < p.revivals; s++ {
			if consider(p.revived[s%uint64(len(p.revived))]) {
				before = true
			}
		}
		if !before {
			kn.drySeen = p.revivals
		}
	}
	return best, found
}

// Endgame reports whether every block that some peer has was asked for.
func (p *Picker) Endgame() bool { return p.missing > 0 && p.endgame() }

// endgame reports whether every block that some peer has was asked for. Pieces that nobody has do not count:
// they would keep a swarm without seeds from ever finishing what it can.
func (p *Picker) endgame() bool {
	for _, l := range p.levels {
		if l == nil || l.cands == 0 {
			continue
		}
		if p.seeds > 0 {
			return false
		}
		l.ord.settle()
		if from, to := l.ord.bounds(0); l.cands > int(to-from) {
			return false
		}
	}
	for _, op := range p.free {
		if !op.reserved && p.Availability(op.index) > 0 { // a reserved piece is nothing for others
			return false
		}
	}
	return true
}

// share appends blocks of the given open pieces that others were asked for, until dst is end long. Blocks
// that one peer owes come before those that two do; within a piece the last ones first, which are likely to
// be the last to arrive. Those are left out that redundant says of one who owes them; spared reports whether there were any.
func (p *Picker) share(dst []bt.Block, end int, peer PeerKey, st *peerState, has *bitfield.Set, from []*openPiece,
	redundant func(peer, owner PeerKey) bool) (_ []bt.Block, spared bool) {
	if len(dst) >= end || len(from) == 0 {
		return dst, false
	}
	soon := func(owner PeerKey) bool { return redundant(peer, owner) }
	first := p.rng.IntN(len(from))
	for owed := uint8(1); owed < maxRequesters; owed++ {
		for k := range from {
			op := from[(first+k)%len(from)]
			if !hasPiece(has, op.index) || op.closedTo(peer) {
				continue
			}
			for n := len(op.blocks) - 1; n >= 0; n-- {
				bl := &op.blocks[n]
				if bl.received || bl.n != owed || bl.owedBy(peer) >= 0 {
					continue
				}
				if redundant != nil && slices.ContainsFunc(bl.who[:bl.n], soon) {
					spared = true
					continue
				}
				bl.who[bl.n] = peer
				bl.n++
				st.reqs = append(st.reqs, ref(op.index, n))
				dst = append(dst, p.geom.Block(op.index, n))
				if len(dst) >= end {
					return dst, spared
				}
			}
		}
	}
	return dst, spared
}
