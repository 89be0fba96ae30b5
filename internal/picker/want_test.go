package picker

import (
	"slices"
	"testing"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

// indexes returns the pieces of blocks, each once, in the order they come.
func indexes(blocks []bt.Block) (pieces []bt.PieceIndex) {
	for _, b := range blocks {
		if !slices.Contains(pieces, b.Index) {
			pieces = append(pieces, b.Index)
		}
	}
	return pieces
}

// What is about to be read comes before everything else, in its order, from whoever has it, and beyond the bound on open pieces.
func TestUrgent(t *testing.T) {
	g := geometry(t, 100*2*bt.BlockBytes, 2*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{MaxOpen: 4})
	p.AddPeer(1, nil)
	has := setOf(100, 7, 9)
	p.AddPeer(2, has)
	p.Pick(nil, 1, nil, 8) // four pieces are open now
	p.SetUrgent([]bt.PieceIndex{8, 9, 7, 200}, nil)
	if got, want := indexes(p.Pick(nil, 2, has, 3)), []bt.PieceIndex{9, 7}; !slices.Equal(got, want) {
		t.Errorf("a peer that has two of the urgent pieces is asked for %v, want %v", got, want)
	}
	if got, want := indexes(p.Pick(nil, 1, nil, 3)), []bt.PieceIndex{8, 7}; !slices.Equal(got, want) {
		t.Errorf("the seed is asked for %v, want %v", got, want)
	}
	if got := p.Pick(nil, 1, nil, 8); len(got) != 2 {
		t.Errorf("%d blocks picked beyond what may be open, want those of one more piece", len(got))
	}

	// Late ones are asked of others too, and of no more than three.
	p.SetUrgent([]bt.PieceIndex{9}, []bt.PieceIndex{9})
	if got := indexes(p.Pick(nil, 1, nil, 2)); !slices.Equal(got, []bt.PieceIndex{9}) {
		t.Errorf("what is late is not asked of the other peer: %v", got)
	}
	p.AddPeer(3, nil)
	p.AddPeer(4, nil)
	if got := indexes(p.Pick(nil, 3, nil, 2)); !slices.Equal(got, []bt.PieceIndex{9}) {
		t.Errorf("what is late is not asked of a third peer: %v", got)
	}
	if got := indexes(p.Pick(nil, 4, nil, 2)); slices.Contains(got, 9) {
		t.Errorf("what is late is asked of a fourth peer: %v", got)
	}
}

// What is reserved for one peer is asked of nobody else, urgent or late as it may be.
func TestUrgentAndReserved(t *testing.T) {
	g := geometry(t, 4*2*bt.BlockBytes, 2*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{})
	p.AddPeer(1, nil)
	p.AddPeer(2, nil)
	p.SetUrgent([]bt.PieceIndex{2}, []bt.PieceIndex{2})
	if !p.Reserve(2, 1) {
		t.Fatal("not reserved")
	}
	if got := indexes(p.Pick(nil, 2, nil, 1)); slices.Contains(got, 2) {
		t.Error("the other peer is asked for a reserved piece")
	}
	if got := indexes(p.Pick(nil, 1, nil, 2)); !slices.Equal(got, []bt.PieceIndex{2}) {
		t.Errorf("its own peer is asked for %v, want the urgent piece", got)
	}
	if got := indexes(p.Pick(nil, 2, nil, 9)); slices.Contains(got, 2) {
		t.Error("the other peer is asked for a reserved piece that is late")
	}
}

// An urgent piece that is not wanted, or here, is nothing to pick.
func TestUrgentButNotWanted(t *testing.T) {
	g := geometry(t, 4*bt.BlockBytes, bt.BlockBytes)
	p := New(g, setOf(4, 1), newRand(1), Options{})
	p.AddPeer(1, nil)
	p.SetPriorities(nil, []Priority{Skip, Normal, Skip, Normal})
	p.SetUrgent([]bt.PieceIndex{0, 1, 2}, []bt.PieceIndex{0, 1, 2})
	if got := indexes(p.Pick(nil, 1, nil, 10)); !slices.Equal(got, []bt.PieceIndex{3}) {
		t.Errorf("picked %v, want piece 3 alone", got)
	}
}

// In sequential mode pieces come in their order, those of a higher priority first, and from a peer the first that it has.
func TestSequential(t *testing.T) {
	const n = 200
	g := geometry(t, n*bt.BlockBytes, bt.BlockBytes)
	p := New(g, setOf(n, 0, 5), newRand(1), Options{MaxOpen: n})
	p.AddPeer(1, nil)
	has := bitfield.New(n)
	for i := 100; i < 110; i++ {
		has.Add(i)
	}
	p.AddPeer(2, has)
	p.SetSequential(true)
	if got, want := indexes(p.Pick(nil, 1, nil, 6)), []bt.PieceIndex{1, 2, 3, 4, 6, 7}; !slices.Equal(got, want) {
		t.Errorf("picked %v, want %v", got, want)
	}
	prio := slices.Repeat([]Priority{Low}, n)
	prio[150], prio[105] = High, Normal
	p.SetPriorities(nil, prio)
	if got, want := indexes(p.Pick(nil, 1, nil, 4)), []bt.PieceIndex{150, 105, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("picked %v, want %v", got, want)
	}
	if got, want := indexes(p.Pick(nil, 2, has, 2)), []bt.PieceIndex{100, 101}; !slices.Equal(got, want) {
		t.Errorf("picked %v, want %v", got, want)
	}
	// What has become missing again comes first again.
	b := g.Block(2, 0)
	p.Received(1, b)
	p.Failed(2)
	if got, want := indexes(p.Pick(nil, 1, nil, 2)), []bt.PieceIndex{2, 10}; !slices.Equal(got, want) {
		t.Errorf("picked %v, want %v", got, want)
	}
}

// Low pieces are asked for where nothing better can be had, and when nothing else is left the download is not complete.
func TestPrioritiesInTurn(t *testing.T) {
	g := geometry(t, 6*bt.BlockBytes, bt.BlockBytes)
	p := New(g, nil, newRand(3), Options{RandomFirst: -1})
	p.AddPeer(1, nil)
	p.SetPriorities(nil, []Priority{Low, High, Skip, Normal, Low, High})
	var order []Priority
	for !p.Complete() {
		blocks := p.Pick(nil, 1, nil, 1)
		if len(blocks) != 1 {
			t.Fatalf("nothing to pick, %d missing", p.Missing())
		}
		order = append(order, p.Priority(blocks[0].Index))
		p.Received(1, blocks[0])
		p.Verified(blocks[0].Index)
	}
	if want := []Priority{High, High, Normal, Low, Low}; !slices.Equal(order, want) {
		t.Errorf("picked in the order %v, want %v", order, want)
	}
	if p.Interesting(1, nil) && p.Missing() == 0 {
		t.Error("a peer is interesting although all that is wanted is here")
	}
	p.SetPriorities(nil, slices.Repeat([]Priority{Normal}, 6))
	if p.Complete() || !p.Interesting(1, nil) {
		t.Error("what was skipped is wanted now, and the picker complete")
	}
	if got := indexes(p.Pick(nil, 1, nil, 10)); !slices.Equal(got, []bt.PieceIndex{2}) {
		t.Errorf("picked %v, want piece 2", got)
	}
}

// An allocation in the steady state would be one for every block of a stream.
func TestUrgentAllocates(t *testing.T) {
	g := geometry(t, 1000*4*bt.BlockBytes, 4*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{})
	p.AddPeer(1, nil)
	urgent := make([]bt.PieceIndex, 0, MaxUrgent)
	var blocks []bt.Block
	next := bt.PieceIndex(0)
	step := func() {
		urgent = urgent[:0]
		for k := range bt.PieceIndex(50) {
			urgent = append(urgent, (next+k)%1000)
		}
		next++
		p.SetUrgent(urgent, urgent[:1])
		blocks = p.Pick(blocks[:0], 1, nil, 8)
		for _, b := range blocks {
			if p.Received(1, b).PieceComplete {
				p.Failed(b.Index)
			}
		}
	}
	for range 200 {
		step()
	}
	if n := testing.AllocsPerRun(200, step); n > 0 {
		t.Errorf("%v allocations a step, want none", n)
	}
}
