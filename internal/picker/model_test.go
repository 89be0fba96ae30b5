package picker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

// model is the picker's state kept the naive way: every question is answered by looking at everything.
type model struct {
	t      *testing.T
	geom   bt.Geometry
	opts   Options
	p      *Picker
	rng    *rand.Rand
	state  []pieceState
	blocks [][]modelBlock
	peers  map[PeerKey]*bitfield.Set
	seeds  map[PeerKey]bool // added as having everything
	next   PeerKey
	owner  []PeerKey // who was last given an unasked block of the piece
	prio   []Priority
	pads   []Span
	seq    bool
	exact  bool // no budget is ever exhausted, so the order is exact
}

type pieceState uint8

const (
	missing pieceState = iota
	opened
	complete
	verified
)

type modelBlock struct {
	received bool
	padding  bool
	from     PeerKey
	owed     []PeerKey
}

func newModel(t *testing.T, seed uint64) *model {
	rng := newRand(seed)
	g := geometry(t, 1+rng.Int64N(40*4*bt.BlockBytes), int64(1+rng.IntN(5))*bt.BlockBytes-int64(rng.IntN(2)))
	m := &model{
		t: t, geom: g, rng: rng,
		opts:  Options{MaxOpen: 1 + rng.IntN(6), RandomFirst: []int{-1, 0, 2}[rng.IntN(3)], EndgameDepth: 1 + rng.IntN(8)},
		state: make([]pieceState, g.NumPieces()), peers: map[PeerKey]*bitfield.Set{}, seeds: map[PeerKey]bool{},
	}
	m.owner = make([]PeerKey, g.NumPieces())
	m.prio = slices.Repeat([]Priority{Normal}, g.NumPieces())
	if rng.IntN(3) == 0 {
		for at := rng.Int64N(3 * int64(g.PieceBytes)); at < g.TotalBytes; {
			s := Span{at, min(at+1+rng.Int64N(3*int64(g.PieceBytes)), g.TotalBytes)}
			m.pads = append(m.pads, s)
			at = s.To + 1 + rng.Int64N(6*int64(g.PieceBytes))
		}
		m.opts.Padding = m.pads
	}
	m.seq = rng.IntN(4) == 0
	m.opts.Sequential = m.seq
	have := bitfield.New(g.NumPieces())
	for i := range m.state {
		m.blocks = append(m.blocks, make([]modelBlock, g.NumBlocks(bt.PieceIndex(i))))
		if rng.IntN(8) == 0 {
			have.Add(i)
			m.state[i] = verified
		}
	}
	for i := range m.state {
		m.fillPadding(i)
	}
	m.p = New(g, have, newRand(seed+1000), m.opts)
	if m.exact = rng.IntN(3) > 0; !m.exact {
		m.p.freeBudget, m.p.walkBudget = 1+rng.IntN(2), 1+rng.IntN(4)
	}
	if m.opts.RandomFirst == 0 {
		m.opts.RandomFirst = defaultRandomFirst
	}
	return m
}

// padding is [Picker.Padding] byte by byte at the ends and the middle: spans are longer than a byte apart.
func (m *model) padding(b bt.Block) bool {
	off := m.geom.Offset(b)
	for at := off; at < off+int64(b.Length); at++ {
		if !slices.ContainsFunc(m.pads, func(s Span) bool { return s.From <= at && at < s.To }) {
			return false
		}
	}
	return true
}

// fillPadding marks the blocks of a missing piece that are padding.
func (m *model) fillPadding(i int) {
	for n := range m.blocks[i] {
		m.blocks[i][n].padding = m.padding(m.geom.Block(bt.PieceIndex(i), n))
	}
}

// blank reports whether a piece is nothing but padding.
func (m *model) blank(i int) bool {
	return !slices.ContainsFunc(m.blocks[i], func(b modelBlock) bool { return !b.padding })
}

func (m *model) availability(i int) int {
	n := 0
	for _, has := range m.peers {
		if has.Has(i) {
			n++
		}
	}
	return n
}

func (m *model) count(s pieceState) int {
	n := 0
	for _, st := range m.state {
		if st == s {
			n++
		}
	}
	return n
}

// endgame: every block that a connected peer has was asked for or received.
func (m *model) endgame() bool {
	for i, st := range m.state {
		if st == verified || m.availability(i) == 0 || m.unwanted(i) {
			continue
		}
		for _, b := range m.blocks[i] {
			if !b.received && !b.padding && len(b.owed) == 0 {
				return false
			}
		}
	}
	return true
}

// unwanted reports whether piece i is not to be opened.
func (m *model) unwanted(i int) bool { return m.prio[i] == Skip || m.blank(i) }

func (m *model) outstanding(peer PeerKey) (blocks []bt.Block) {
	for i := range m.blocks {
		for n, b := range m.blocks[i] {
			if slices.Contains(b.owed, peer) {
				blocks = append(blocks, m.geom.Block(bt.PieceIndex(i), n))
			}
		}
	}
	return blocks
}

func (m *model) block(b bt.Block) *modelBlock { return &m.blocks[b.Index][b.Begin/bt.BlockBytes] }

// anyPeer returns a connected peer; false if there is none.
func (m *model) anyPeer() (PeerKey, bool) {
	var keys []PeerKey
	for k := range m.peers {
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return 0, false
	}
	slices.Sort(keys)
	return keys[m.rng.IntN(len(keys))], true
}

func (m *model) anyPiece() bt.PieceIndex { return bt.PieceIndex(m.rng.IntN(len(m.state))) }

func (m *model) anyBlock() bt.Block {
	i := m.anyPiece()
	return m.geom.Block(i, m.rng.IntN(len(m.blocks[i])))
}

// asHas is how the caller passes a peer's set.
func (m *model) asHas(peer PeerKey) *bitfield.Set {
	if m.seeds[peer] && m.rng.IntN(2) == 0 {
		return nil
	}
	return m.peers[peer]
}

func (m *model) addPeer() {
	m.next++
	has := bitfield.New(len(m.state))
	density := m.rng.Float64()
	for i := range m.state {
		if m.rng.Float64() < density {
			has.Add(i)
		}
	}
	if m.rng.IntN(8) == 0 {
		has.Fill()
	}
	m.peers[m.next] = has
	m.seeds[m.next] = has.Full()
	m.p.AddPeer(m.next, m.asHas(m.next))
}

// pick asks for blocks and judges each one.
func (m *model) pick(peer PeerKey) {
	t := m.t
	has := m.peers[peer]
	n := 1 + m.rng.IntN(12)
	var allowed []bt.PieceIndex
	restricted := m.rng.IntN(5) == 0
	pieceOK := func(i int) bool {
		return has.Has(i) && (!restricted || slices.Contains(allowed, bt.PieceIndex(i)))
	}
	owedBefore := len(m.outstanding(peer))
	openBefore := m.count(opened)
	var got []bt.Block
	if restricted {
		for range m.rng.IntN(4) {
			allowed = append(allowed, m.anyPiece())
		}
		got = m.p.PickAllowed(nil, peer, m.asHas(peer), allowed, n)
	} else {
		got = m.p.Pick(nil, peer, m.asHas(peer), n)
	}
	if len(got) > n {
		t.Fatalf("%d blocks picked, want at most %d", len(got), n)
	}
	shared := 0
	for _, b := range got {
		i := int(b.Index)
		if !m.geom.Contains(b) || b != m.geom.Block(b.Index, int(b.Begin/bt.BlockBytes)) {
			t.Fatalf("%v is not a block of the torrent", b)
		}
		if !pieceOK(i) {
			t.Fatalf("peer %d was to be asked for %v, which it lacks or does not allow", peer, b)
		}
		bl := m.block(b)
		switch {
		case bl.padding || m.prio[i] == Skip:
			t.Fatalf("%v picked, which is padding or not wanted", b)
		case m.state[i] >= complete || bl.received:
			t.Fatalf("%v picked although it is here", b)
		case slices.Contains(bl.owed, peer):
			t.Fatalf("%v picked twice for peer %d", b, peer)
		case len(bl.owed) >= maxRequesters:
			t.Fatalf("%v picked for a fourth peer", b)
		case len(bl.owed) > 0:
			shared++
			if !m.endgame() {
				t.Fatalf("%v picked twice outside the endgame", b)
			}
			if owed := len(m.outstanding(peer)); owed >= m.opts.EndgameDepth {
				t.Fatalf("%v shared while %d are outstanding, want less than %d", b, owed, m.opts.EndgameDepth)
			}
		case m.state[i] == missing:
			for j, st := range m.state {
				if (m.exact || restricted) && st == opened && !m.allAsked(j) && pieceOK(j) &&
					(restricted || !m.spoken(j) || m.count(opened) >= m.opts.MaxOpen) {
					t.Fatalf("piece %d opened while %d is open and has blocks left", i, j)
				}
				if restricted || st != missing || !has.Has(j) || m.unwanted(j) {
					continue
				}
				switch {
				case m.prio[j] > m.prio[i] && (m.exact || m.seq):
					t.Fatalf("piece %d of priority %d opened before %d of %d", i, m.prio[i], j, m.prio[j])
				case m.prio[j] < m.prio[i]:
				case m.seq && j < i:
					t.Fatalf("piece %d opened before %d", i, j)
				case !m.seq && m.exact && m.count(verified) >= m.opts.RandomFirst && m.availability(j) < m.availability(i):
					t.Fatalf("piece %d with %d peers opened before %d with %d", i, m.availability(i), j, m.availability(j))
				}
			}
			m.state[i] = opened
		default: // an unasked block of an open piece: none of the peer's other pieces is nearer to completion
			if restricted || !m.exact || m.owns(peer, i) {
				break
			}
			for j, st := range m.state {
				switch {
				case !has.Has(j):
				case st == opened && !m.allAsked(j):
					if m.owns(peer, j) || m.spoken(i) && !m.spoken(j) || m.spoken(i) == m.spoken(j) && (!m.seq && m.left(j) < m.left(i) || m.seq && j < i) {
						t.Fatalf("piece %d with %d blocks missing helped before %d with %d", i, m.left(i), j, m.left(j))
					}
				case st == missing && !m.unwanted(j) && m.spoken(i) && m.count(opened) < m.opts.MaxOpen:
					t.Fatalf("piece %d, which peer %d will finish, helped before %d was opened", i, m.owner[i], j)
				}
			}
		}
		if len(bl.owed) == 0 {
			m.owner[i] = peer
		}
		bl.owed = append(bl.owed, peer)
	}
	open := m.count(opened)
	if open > 2*m.opts.MaxOpen || open > m.opts.MaxOpen && open > openBefore+1 {
		t.Fatalf("%d pieces open, %d before, want at most %d or one more up to twice that", open, openBefore, m.opts.MaxOpen)
	}
	if len(got) == n {
		return
	}
	// Fewer than asked for: there must not be any more.
	limit := m.opts.MaxOpen
	if len(got) == 0 {
		limit *= 2
	}
	for i, st := range m.state {
		if !pieceOK(i) {
			continue
		}
		if st == opened && !m.allAsked(i) {
			t.Fatalf("piece %d has blocks left, but only %d of %d were picked", i, len(got), n)
		}
		if st == missing && open < limit && !m.unwanted(i) {
			t.Fatalf("piece %d is missing and %d are open, but only %d of %d blocks were picked", i, open, len(got), n)
		}
	}
	if m.endgame() && owedBefore+len(got) < m.opts.EndgameDepth {
		for i, st := range m.state {
			for k, b := range m.blocks[i] {
				if st == opened && pieceOK(i) && !b.received && !b.padding && len(b.owed) < maxRequesters && !slices.Contains(b.owed, peer) {
					t.Fatalf("block %d of piece %d could be shared, but only %d of %d were picked", k, i, len(got), n)
				}
			}
		}
	}
}

func (m *model) allAsked(i int) bool {
	return !slices.ContainsFunc(m.blocks[i], func(b modelBlock) bool { return !b.received && !b.padding && len(b.owed) == 0 })
}

// owns reports whether piece i is one the peer works on: it was the last to be given a block of it.
func (m *model) owns(peer PeerKey, i int) bool { return m.owner[i] == peer }

// spoken reports whether the owner of piece i owes as many blocks as it has unasked.
func (m *model) spoken(i int) bool {
	unasked := 0
	for _, b := range m.blocks[i] {
		if !b.received && !b.padding && len(b.owed) == 0 {
			unasked++
		}
	}
	return len(m.outstanding(m.owner[i])) >= unasked
}

func (m *model) left(i int) int {
	n := 0
	for _, b := range m.blocks[i] {
		if !b.received && !b.padding {
			n++
		}
	}
	return n
}

func (m *model) arrive(peer PeerKey, b bt.Block, accept bool) {
	t := m.t
	bl := m.block(b)
	asked := slices.Contains(bl.owed, peer)
	want := Result{}
	switch st := m.state[b.Index]; {
	case st >= complete || bl.received || st == opened && bl.padding:
		want.Outcome = BlockDuplicate
	case st == opened && (asked || accept):
		want = Result{Outcome: BlockNew, Others: len(bl.owed), PieceComplete: m.left(int(b.Index)) == 1}
		if asked {
			want.Others--
		} else {
			want.Others = min(want.Others, maxRequesters-1)
		}
	}
	var got Result
	if accept {
		got = m.p.Accept(peer, b)
	} else {
		got = m.p.Received(peer, b)
	}
	if got != want {
		t.Fatalf("%v from %d (accept %v): %+v, want %+v", b, peer, accept, got, want)
	}
	bl.owed = slices.DeleteFunc(bl.owed, func(k PeerKey) bool { return k == peer })
	if got.Outcome != BlockNew {
		return
	}
	bl.received, bl.from = true, peer
	if len(bl.owed) == maxRequesters { // one is let go; which is the picker's business
		still := m.p.Others(nil, b)
		bl.owed = slices.DeleteFunc(bl.owed, func(k PeerKey) bool { return !slices.Contains(still, k) })
	}
	others := slices.Sorted(slices.Values(m.p.Others(nil, b)))
	if !slices.Equal(others, slices.Sorted(slices.Values(bl.owed))) {
		t.Fatalf("others of %v: %v, want %v", b, others, bl.owed)
	}
	if got.PieceComplete {
		m.state[b.Index] = complete
	}
	if m.rng.IntN(3) > 0 { // cancel with the others, as a caller should; the picker must bear it if not
		for _, o := range others {
			if !m.p.Release(o, b) {
				t.Fatalf("peer %d does not owe %v", o, b)
			}
		}
		bl.owed = nil
	}
}

func (m *model) reset(i int, to pieceState) {
	m.state[i] = to
	clear(m.blocks[i])
	m.fillPadding(i)
}

// prioritize gives all pieces new priorities, in runs as files do.
func (m *model) prioritize() {
	pr := Normal
	for i := range m.prio {
		if m.rng.IntN(4) == 0 {
			pr = Priority(m.rng.IntN(int(High) + 1))
		}
		m.prio[i] = pr
	}
	drop := slices.Sorted(slices.Values(m.p.SetPriorities(nil, m.prio)))
	var want []bt.PieceIndex
	for i, st := range m.state {
		if st == opened && m.prio[i] == Skip {
			want = append(want, bt.PieceIndex(i))
		}
	}
	if m.count(verified) < len(m.state) && !slices.Equal(drop, want) {
		m.t.Fatalf("pieces %v are to be given up, want %v", drop, want)
	}
	for _, i := range drop {
		if !m.p.Abandon(i) {
			m.t.Fatalf("piece %d is not open", i)
		}
		m.reset(int(i), missing)
	}
}

// loseOfPeer takes a piece from a peer.
func (m *model) loseOfPeer() {
	peer, ok := m.anyPeer()
	i := m.anyPiece()
	if !ok || !m.peers[peer].Remove(int(i)) {
		return
	}
	m.seeds[peer] = false
	m.p.PeerLost(peer, i)
	for k := range m.blocks[i] {
		bl := &m.blocks[i][k]
		bl.owed = slices.DeleteFunc(bl.owed, func(k PeerKey) bool { return k == peer })
	}
}

// lose makes a verified piece a missing one.
func (m *model) lose() {
	i := m.anyPiece()
	want := m.state[i] == verified && m.count(verified) < len(m.state)
	if got := m.p.Lost(i); got != want {
		m.t.Fatalf("lost %d: %v, want %v", i, got, want)
	} else if got {
		m.reset(int(i), missing)
	}
}

func (m *model) step() {
	t := m.t
	switch op := m.rng.IntN(100); {
	case op < 3 && len(m.peers) < 8:
		m.addPeer()
	case op < 5:
		if peer, ok := m.anyPeer(); ok {
			m.p.RemovePeer(peer, m.asHas(peer))
			m.releaseAll(peer)
			delete(m.peers, peer)
		}
	case op < 15:
		if peer, ok := m.anyPeer(); ok && !m.seeds[peer] {
			if i := m.anyPiece(); m.peers[peer].Add(int(i)) {
				m.p.PeerHas(peer, i)
			}
		}
	case op < 45:
		if peer, ok := m.anyPeer(); ok {
			m.pick(peer)
		}
	case op < 85:
		if peer, ok := m.anyPeer(); ok {
			if owed := m.outstanding(peer); len(owed) > 0 {
				m.arrive(peer, owed[m.rng.IntN(len(owed))], false)
			}
		}
	case op < 87:
		if peer, ok := m.anyPeer(); ok {
			m.arrive(peer, m.anyBlock(), m.rng.IntN(2) == 0)
		}
	case op < 91:
		if peer, ok := m.anyPeer(); ok {
			b := m.anyBlock()
			if owed := m.outstanding(peer); len(owed) > 0 && m.rng.IntN(4) > 0 {
				b = owed[m.rng.IntN(len(owed))]
			}
			want := slices.Contains(m.block(b).owed, peer)
			if got := m.p.Release(peer, b); got != want {
				t.Fatalf("release of %v by %d: %v, want %v", b, peer, got, want)
			}
			bl := m.block(b)
			bl.owed = slices.DeleteFunc(bl.owed, func(k PeerKey) bool { return k == peer })
		}
	case op < 92:
		if peer, ok := m.anyPeer(); ok {
			if got, want := m.p.ReleaseAll(peer), len(m.outstanding(peer)); got != want {
				t.Fatalf("%d blocks released, want %d", got, want)
			}
			m.releaseAll(peer)
		}
	case op == 92 && m.rng.IntN(3) == 0:
		switch m.rng.IntN(4) {
		case 0:
			m.prioritize()
		case 1:
			m.loseOfPeer()
		case 2:
			m.lose()
		default:
			for i := range m.p.Blank {
				if !m.blank(int(i)) || m.state[i] != missing {
					t.Fatalf("piece %d is not blank and missing", i)
				}
				m.p.Verified(i)
				m.reset(int(i), verified)
				break
			}
		}
	case op < 93:
		i := m.anyPiece()
		if got, want := m.p.Abandon(i), m.state[i] == opened; got != want {
			t.Fatalf("abandon %d: %v, want %v", i, got, want)
		} else if got {
			m.reset(int(i), missing)
		}
	default:
		i := m.anyPiece()
		if k := slices.Index(m.state, complete); k >= 0 {
			i = bt.PieceIndex(k)
		}
		if m.rng.IntN(4) == 0 {
			if got, want := m.p.Failed(i), m.state[i] == complete; got != want {
				t.Fatalf("failed %d: %v, want %v", i, got, want)
			} else if got {
				m.reset(int(i), missing)
			}
		} else if m.state[i] == complete {
			m.p.Verified(i)
			m.reset(int(i), verified)
		}
	}
}

func (m *model) releaseAll(peer PeerKey) {
	for _, b := range m.outstanding(peer) {
		bl := m.block(b)
		bl.owed = slices.DeleteFunc(bl.owed, func(k PeerKey) bool { return k == peer })
	}
}

// check compares everything that can be asked.
func (m *model) check() {
	t, p := m.t, m.p
	left := 0
	for i, st := range m.state {
		if st != verified && m.prio[i] != Skip {
			left++
		}
	}
	if p.Missing() != left || p.Complete() != (left == 0) {
		t.Fatalf("%d missing, complete %v; want %d", p.Missing(), p.Complete(), left)
	}
	if m.count(verified) == len(m.state) {
		return
	}
	for _, l := range p.levels {
		if l == nil {
			continue
		}
		if err := checkOrder(&l.ord); err != nil {
			t.Fatal(err)
		}
	}
	for i, st := range m.state {
		if got, want := p.isMissing(bt.PieceIndex(i)), st == missing && !m.unwanted(i); got != want {
			t.Fatalf("piece %d can be opened: %v, want %v", i, got, want)
		}
	}
	for i := range m.state {
		if got, want := p.Availability(bt.PieceIndex(i)), m.availability(i); got != want {
			t.Fatalf("availability of %d: %d, want %d", i, got, want)
		}
		var from []PeerKey
		for _, b := range m.blocks[i] {
			if b.received && !slices.Contains(from, b.from) {
				from = append(from, b.from)
			}
		}
		slices.Sort(from)
		if got := p.Contributors(nil, bt.PieceIndex(i)); !slices.Equal(got, from) {
			t.Fatalf("contributors of %d: %v, want %v", i, got, from)
		}
	}
	open := 0
	for i, n := range p.Open() {
		open++
		if m.state[i] != opened || n != m.left(int(i)) {
			t.Fatalf("open piece %d misses %d, want state %d and %d", i, n, m.state[i], m.left(int(i)))
		}
	}
	if open != m.count(opened) || open != p.NumOpen() {
		t.Fatalf("%d pieces open, want %d", open, m.count(opened))
	}
	for peer, has := range m.peers {
		owed := m.outstanding(peer)
		if got := p.Outstanding(peer); got != len(owed) {
			t.Fatalf("peer %d owes %d, want %d", peer, got, len(owed))
		}
		for b := range p.Requests(peer) {
			if !slices.Contains(owed, b) {
				t.Fatalf("peer %d owes %v, want one of %v", peer, b, owed)
			}
		}
		want := false
		for i := range has.All() {
			want = want || m.state[i] != verified && m.prio[i] != Skip
		}
		if got := p.Interesting(peer, has); got != want {
			t.Fatalf("peer %d interesting: %v, want %v", peer, got, want)
		}
	}
}

func checkOrder(o *order) error {
	if o.stale {
		return nil
	}
	for i, c := range o.class {
		from, to := o.bounds(int(c))
		at := o.pos[i]
		if o.at[at] != uint32(i) || at < from || at >= to {
			return fmt.Errorf("piece %d of class %d is at %d, want it in [%d,%d)", i, c, at, from, to)
		}
	}
	return nil
}

// finish brings everything to an end with a seed: whatever happened before, the torrent completes.
func (m *model) finish() {
	m.next++
	m.peers[m.next] = bitfield.NewFull(len(m.state))
	m.seeds[m.next] = true
	m.p.AddPeer(m.next, nil)
	for peer := range m.peers {
		if peer != m.next {
			m.p.RemovePeer(peer, m.peers[peer])
			m.releaseAll(peer)
			delete(m.peers, peer)
		}
	}
	for range 100 * (1 + len(m.state)) {
		if m.p.Complete() {
			return
		}
		for i := range m.p.Blank {
			m.p.Verified(i)
			m.reset(int(i), verified)
		}
		m.pick(m.next)
		for _, b := range m.outstanding(m.next) {
			m.arrive(m.next, b, false)
		}
		for i, st := range m.state {
			if st == complete {
				m.p.Verified(bt.PieceIndex(i))
				m.reset(i, verified)
			}
		}
		m.check()
	}
	m.t.Fatalf("%d pieces still missing", m.p.Missing())
}

func TestModel(t *testing.T) {
	steps := 600
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := newModel(t, seed)
			for range steps {
				m.step()
				m.check()
			}
			m.finish()
		})
	}
}
