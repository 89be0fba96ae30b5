package picker

import (
	"slices"
	"testing"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

// TestSparsePeer: a peer with few pieces of a large torrent gets all of them, the rarest first, though it
// would take a walk past all the others to find them in order.
func TestSparsePeer(t *testing.T) {
	const n = 200_000
	p := New(geometry(t, n*bt.BlockBytes, bt.BlockBytes), nil, newRand(3), Options{RandomFirst: -1})
	// Another peer makes nearly everything but the sparse peer's pieces as rare as can be.
	sparse, other := bitfield.New(n), bitfield.New(n)
	for k := range 40 {
		sparse.Add(k * 4999)
	}
	for i := range n {
		if !sparse.Has(i) {
			other.Add(i)
		}
	}
	p.AddPeer(1, sparse)
	p.AddPeer(2, other)
	rare := setOf(n, 7*4999, 11*4999, 13*4999)
	for k := range sparse.All() { // all but the rare ones have a second peer
		if !rare.Has(k) {
			other.Add(k)
			p.PeerHas(2, bt.PieceIndex(k))
		}
	}
	var got []int
	for range sparse.Count() {
		bs := p.Pick(nil, 1, sparse, 1)
		if len(bs) != 1 {
			t.Fatalf("nothing to pick after %d pieces", len(got))
		}
		got = append(got, int(bs[0].Index))
	}
	for _, i := range got[:3] {
		if !rare.Has(i) {
			t.Errorf("piece %d was among the first three, want %v", i, slices.Collect(rare.All()))
		}
	}
	slices.Sort(got)
	if want := slices.Collect(sparse.All()); !slices.Equal(got, want) {
		t.Errorf("picked %v, want %v", got, want)
	}
	if bs := p.Pick(nil, 1, sparse, 1); len(bs) != 0 {
		t.Errorf("picked %v of a peer with nothing left", bs)
	}

	// What changes later is found without a search.
	st := p.peers[1]
	if !st.known[Normal-1].dry {
		t.Fatal("peer is not known to be dry")
	}
	sparse.Add(5)
	p.PeerHas(1, 5)
	if bs := p.Pick(nil, 1, sparse, 1); len(bs) != 1 || bs[0].Index != 5 {
		t.Errorf("after have 5: picked %v", bs)
	}
	p.Received(1, bt.Block{Index: 4999, Length: bt.BlockBytes})
	if !p.Failed(4999) {
		t.Error("piece 4999 was not complete")
	}
	if bs := p.Pick(nil, 1, sparse, 1); len(bs) != 1 || bs[0].Index != 4999 {
		t.Errorf("after piece 4999 failed: picked %v", bs)
	}
	// More pieces come back than are remembered one by one.
	for i := range bt.PieceIndex(n) {
		if p.NumOpen() > 2*len(p.revived) {
			break
		}
		if !sparse.Has(int(i)) {
			p.Pick(nil, 2, other, 1)
		}
	}
	p.Abandon(0)
	for i := range bt.PieceIndex(n) {
		p.Abandon(i)
	}
	if p.NumOpen() != 0 {
		t.Fatalf("%d pieces open, want none", p.NumOpen())
	}
	if got := p.Pick(nil, 1, sparse, n); len(got) != 41 {
		t.Errorf("%d blocks picked after all came back, want %d", len(got), 41)
	}
}

// TestSearchRanks: where a peer's pieces must be searched for because rarer ones of others stand before them
// all, the rarest of the peer's own come first, however many it has.
func TestSearchRanks(t *testing.T) {
	const n, own, rare = 100_000, 5000, 20
	p := New(geometry(t, n*bt.BlockBytes, bt.BlockBytes), nil, newRand(3), Options{RandomFirst: -1})
	a, b, c := bitfield.New(n), bitfield.New(n), bitfield.New(n)
	for i := range n {
		if i%(n/own) == 0 {
			a.Add(i)
			b.Add(i)
			if i%(n/rare) != 0 {
				c.Add(i)
			}
		} else {
			b.Add(i) // one peer has it: rarer than all of a's
		}
	}
	b.Remove(1) // else it is a seed, which counts for nothing
	p.AddPeer(1, a)
	p.AddPeer(2, b)
	p.AddPeer(3, c)
	for k, bl := range p.Pick(nil, 1, a, 2*shortlistLen) {
		if want := 2; k < rare && p.Availability(bl.Index) != want {
			t.Errorf("piece %d came as number %d with %d peers, want %d", bl.Index, k, p.Availability(bl.Index), want)
		}
	}
	if got := p.Outstanding(1); got != 2*shortlistLen {
		t.Errorf("%d blocks picked, want %d", got, 2*shortlistLen)
	}
	for range 2 { // and the search goes on to the end
		p.Pick(nil, 1, a, own)
	}
	if got := p.Outstanding(1); got != own {
		t.Errorf("%d blocks picked, want all %d", got, own)
	}
}

// TestTiesAreRandom: peers that see the same availabilities do not all choose the same piece.
func TestTiesAreRandom(t *testing.T) {
	first := map[bt.PieceIndex]int{}
	for seed := range uint64(200) {
		p := New(geometry(t, 10*bt.BlockBytes, bt.BlockBytes), nil, newRand(seed), Options{RandomFirst: -1})
		p.AddPeer(1, setOf(10, 0, 1, 2, 3, 4, 5, 6, 7))
		p.AddPeer(2, setOf(10, 4, 5, 6, 7))
		first[p.Pick(nil, 1, setOf(10, 0, 1, 2, 3, 4, 5, 6, 7), 1)[0].Index]++
	}
	for i := range bt.PieceIndex(4) {
		if first[i] < 20 {
			t.Errorf("piece %d came first %d times of 200, want about 50: %v", i, first[i], first)
		}
	}
	if len(first) != 4 {
		t.Errorf("pieces that came first: %v, want only the four rarest", first)
	}
}

func TestRandomFirst(t *testing.T) {
	// Piece 0 is the rarest, and yet rarely first.
	zero := 0
	for seed := range uint64(200) {
		p := New(geometry(t, 20*bt.BlockBytes, bt.BlockBytes), nil, newRand(seed), Options{})
		p.AddPeer(1, nil)
		all := bitfield.NewFull(20)
		all.Remove(0)
		p.AddPeer(2, all)
		b := p.Pick(nil, 1, nil, 1)[0]
		if b.Index == 0 {
			zero++
		}
		// From the fourth verified piece on it is next.
		for i := range bt.PieceIndex(4) {
			p.Verified(i + 10)
		}
		if b2 := p.Pick(nil, 1, nil, 1)[0]; b.Index != 0 && b2.Index != 0 {
			t.Fatalf("seed %d: picked piece %d with four verified, want the rarest, 0", seed, b2.Index)
		}
	}
	if zero > 40 {
		t.Errorf("the rarest piece came first %d times of 200, want about 10", zero)
	}
}

func TestWholePiecesFromOnePeer(t *testing.T) {
	p := New(geometry(t, 64*16*bt.BlockBytes, 16*bt.BlockBytes), nil, newRand(4), Options{})
	var owed [2][]bt.Block
	whole := 0
	p.AddPeer(0, nil)
	p.AddPeer(1, nil)
	for !p.Complete() {
		for peer := range PeerKey(2) {
			// Deep pipelines that move a few blocks at a time.
			q := &owed[peer]
			*q = p.Pick(*q, peer, nil, 40-len(*q))
			for range min(5, len(*q)) {
				b := (*q)[0]
				*q = (*q)[1:]
				if r := p.Received(peer, b); r.PieceComplete {
					if len(p.Contributors(nil, b.Index)) == 1 {
						whole++
					}
					p.Verified(b.Index)
				}
			}
		}
	}
	if whole < 56 {
		t.Errorf("%d of 64 pieces came whole from one peer, want nearly all", whole)
	}
}

func TestCompletePickerHoldsNothing(t *testing.T) {
	p := New(geometry(t, 100*bt.BlockBytes, bt.BlockBytes), bitfield.NewFull(100), newRand(1), Options{})
	has := setOf(100, 1, 2)
	p.AddPeer(1, has)
	p.AddPeer(2, nil)
	has.Add(3)
	p.PeerHas(1, 3)
	if !p.Complete() || p.Interesting(1, has) || p.Interesting(2, nil) || p.Interesting(3, has) {
		t.Error("a complete torrent is interested")
	}
	if bs := p.Pick(nil, 2, nil, 10); len(bs) != 0 {
		t.Errorf("picked %v", bs)
	}
	if bs := p.PickAllowed(nil, 2, nil, []bt.PieceIndex{1}, 10); len(bs) != 0 {
		t.Errorf("picked %v", bs)
	}
	if r := p.Received(1, bt.Block{Index: 1, Length: bt.BlockBytes}); r.Outcome != BlockDuplicate {
		t.Errorf("block: %v", r.Outcome)
	}
	p.Verified(1)
	p.RemovePeer(1, has)
	p.RemovePeer(2, nil)
	if p.Availability(1) != 0 || p.levels[Normal-1] != nil || p.lack != nil {
		t.Error("something is left")
	}
	if e := New(bt.Geometry{TotalBytes: 0, PieceBytes: 1}, nil, newRand(1), Options{}); !e.Complete() {
		t.Error("a torrent without bytes is not complete")
	}
}

// TestStrangeInput: blocks, pieces and peers that do not exist change nothing.
func TestStrangeInput(t *testing.T) {
	g := geometry(t, 5*bt.BlockBytes+7, 2*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{})
	p.AddPeer(1, nil)
	p.AddPeer(1, nil)
	if p.Availability(0) != 1 {
		t.Errorf("a peer added twice counts %d times", p.Availability(0))
	}
	got := p.Pick(nil, 1, nil, 100)
	if len(got) != 6 {
		t.Fatalf("%d blocks, want 6", len(got))
	}
	for _, b := range []bt.Block{
		{},
		{Index: 0, Begin: 0, Length: 1},
		{Index: 0, Begin: 0, Length: bt.BlockBytes + 1},
		{Index: 0, Begin: 1, Length: bt.BlockBytes},
		{Index: 0, Begin: 2 * bt.BlockBytes, Length: bt.BlockBytes},
		{Index: 2, Begin: bt.BlockBytes, Length: bt.BlockBytes},
		{Index: 3, Begin: 0, Length: bt.BlockBytes},
		{Index: 1 << 31, Begin: 0, Length: bt.BlockBytes},
		{Index: 1<<32 - 1, Begin: 1<<32 - 1, Length: 1<<32 - 1},
	} {
		if r := p.Received(1, b); r != (Result{}) {
			t.Errorf("received %v: %+v", b, r)
		}
		if r := p.Accept(1, b); r != (Result{}) {
			t.Errorf("accepted %v: %+v", b, r)
		}
		if p.Release(1, b) || len(p.Others(nil, b)) > 0 || len(p.Requesters(nil, b)) > 0 {
			t.Errorf("%v is known", b)
		}
		if _, ok := p.Contributor(b); ok {
			t.Errorf("%v has a contributor", b)
		}
	}
	for _, i := range []bt.PieceIndex{3, 1 << 31, 1<<32 - 1} {
		p.PeerHas(1, i)
		p.Verified(i)
		if p.Failed(i) || p.Abandon(i) || len(p.Contributors(nil, i)) > 0 {
			t.Errorf("piece %d is known", i)
		}
		if bs := p.PickAllowed(nil, 1, nil, []bt.PieceIndex{i}, 9); len(bs) > 0 {
			t.Errorf("picked %v", bs)
		}
	}
	p.PeerHas(9, 0)
	p.RemovePeer(9, nil)
	if p.Pick(nil, 9, nil, 1) != nil || p.ReleaseAll(9) != 0 || p.Outstanding(9) != 0 {
		t.Error("peer 9 is known")
	}
	// Sets of the wrong length are bad, but not fatal.
	for k, n := range []int{0, 1, 1000} {
		peer := PeerKey(20 + k)
		p.AddPeer(peer, bitfield.NewFull(n))
		p.Pick(nil, peer, bitfield.NewFull(n), 3)
		p.Interesting(peer, bitfield.NewFull(n))
		p.RemovePeer(peer, bitfield.NewFull(n))
	}
	if p.Missing() != 3 || p.Outstanding(1) != 6 || p.Availability(0) != 1 {
		t.Errorf("missing %d, outstanding %d, availability %d; want 3, 6, 1", p.Missing(), p.Outstanding(1), p.Availability(0))
	}
	b := g.Block(1, 1)
	if who := p.Requesters(nil, b); !slices.Equal(who, []PeerKey{1}) {
		t.Errorf("requesters of %v: %v", b, who)
	}
	p.Received(1, b)
	if who, ok := p.Contributor(b); !ok || who != 1 {
		t.Errorf("contributor of %v: %v, %v", b, who, ok)
	}
}

// TestSwarm lets peers that begin with random parts of a torrent deliver at different speeds, choke, leave
// and lie, until the torrent is complete.
func TestSwarm(t *testing.T) {
	for seed := range uint64(20) {
		rng := newRand(seed)
		const pieces, nPeers = 300, 25
		g := geometry(t, pieces*4*bt.BlockBytes-5, 4*bt.BlockBytes)
		p := New(g, nil, newRand(seed+1), Options{MaxOpen: 8})
		type swarmPeer struct {
			has  *bitfield.Set
			owed []bt.Block
		}
		peers := map[PeerKey]*swarmPeer{}
		covered := bitfield.New(pieces)
		next := PeerKey(0)
		join := func() {
			has := bitfield.New(pieces)
			for i := range pieces {
				if rng.IntN(4) == 0 || len(peers) == 0 && !covered.Has(i) {
					has.Add(i)
					covered.Add(i)
				}
			}
			next++
			peers[next] = &swarmPeer{has: has}
			p.AddPeer(next, has)
		}
		for range nPeers {
			join()
		}
		received, wasted := 0, 0
		for round := 0; !p.Complete(); round++ {
			if round > 20_000 {
				t.Fatalf("seed %d: %d pieces missing after %d rounds, %d open", seed, p.Missing(), round, p.NumOpen())
			}
			for k := PeerKey(1); k <= next; k++ {
				peer := peers[k]
				if peer == nil {
					continue
				}
				if rng.IntN(400) == 0 { // choke
					p.ReleaseAll(k)
					peer.owed = nil
				}
				if rng.IntN(50) == 0 {
					if i := rng.IntN(pieces); peer.has.Add(i) {
						p.PeerHas(k, bt.PieceIndex(i))
					}
				}
				peer.owed = p.Pick(peer.owed, k, peer.has, max(0, int(k)-len(peer.owed)))
				for range min(len(peer.owed), rng.IntN(1+int(k)/3+1)) {
					b := peer.owed[0]
					peer.owed = peer.owed[1:]
					r := p.Received(k, b)
					if r.Outcome != BlockNew {
						wasted++
						continue
					}
					received++
					for _, o := range p.Others(nil, b) {
						p.Release(o, b)
						peers[o].owed = slices.DeleteFunc(peers[o].owed, func(x bt.Block) bool { return x == b })
					}
					if r.PieceComplete {
						if rng.IntN(20) == 0 {
							p.Failed(b.Index)
						} else {
							p.Verified(b.Index)
						}
					}
				}
				if k > 1 && rng.IntN(1000) == 0 {
					p.RemovePeer(k, peer.has)
					delete(peers, k)
					join()
				}
			}
		}
		if wasted > received/50 {
			t.Errorf("seed %d: %d blocks came twice, %d once", seed, wasted, received)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	const pieces = 20_000
	g := geometry(t, pieces*16*bt.BlockBytes, 16*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{})
	half := bitfield.New(pieces)
	for i := range pieces {
		if i%2 == 0 {
			half.Add(i)
		}
	}
	p.AddPeer(1, nil)
	p.AddPeer(2, half)
	var owed [3][]bt.Block
	buf := make([]bt.Block, 0, 64)
	for k := range owed {
		owed[k] = make([]bt.Block, 0, 4096)
	}
	turn := func() {
		for peer := PeerKey(1); peer <= 2; peer++ {
			has := half
			if peer == 1 {
				has = nil
			}
			buf = p.Pick(buf[:0], peer, has, 16)
			if len(buf) != 16 {
				t.Fatalf("%d blocks", len(buf))
			}
			owed[peer] = append(owed[peer], buf...)
			for range 16 {
				b := owed[peer][0]
				copy(owed[peer], owed[peer][1:])
				owed[peer] = owed[peer][:len(owed[peer])-1]
				if p.Received(peer, b).PieceComplete {
					p.Verified(b.Index)
				}
			}
			if !p.Interesting(peer, has) {
				t.Fatal("not interesting")
			}
		}
	}
	for peer := PeerKey(1); peer <= 2; peer++ {
		owed[peer] = p.Pick(owed[peer], peer, half, 500)
	}
	for range 200 {
		turn()
	}
	if n := testing.AllocsPerRun(1000, turn); n != 0 {
		t.Errorf("%v allocations for 32 blocks, want 0", n)
	}
}

// TestPush: the heap keeps the lowest keys.
func TestPush(t *testing.T) {
	rng := newRand(1)
	for range 200 {
		var heap []ranked
		var keys []uint64
		for range rng.IntN(4 * shortlistLen) {
			key := rng.Uint64N(100)
			keys = append(keys, key)
			heap = push(heap, ranked{key: key})
		}
		slices.Sort(keys)
		keys = keys[:min(len(keys), shortlistLen)]
		var got []uint64
		for _, r := range heap {
			got = append(got, r.key)
		}
		slices.Sort(got)
		if !slices.Equal(got, keys) {
			t.Fatalf("kept %v, want %v", got, keys)
		}
	}
}
