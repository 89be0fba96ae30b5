package picker

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func geometry(t testing.TB, total, piece int64) bt.Geometry {
	t.Helper()
	g, err := bt.NewGeometry(total, piece)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func setOf(n int, pieces ...int) *bitfield.Set {
	s := bitfield.New(n)
	for _, i := range pieces {
		s.Add(i)
	}
	return s
}

func TestOneSeedCompletes(t *testing.T) {
	// 10 pieces of 3 blocks, the last of 2 with a short block.
	g := geometry(t, 9*3*bt.BlockBytes+bt.BlockBytes+100, 3*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{})
	p.AddPeer(1, nil)
	var got []bt.Block
	for !p.Complete() {
		blocks := p.Pick(nil, 1, nil, 4)
		if len(blocks) == 0 {
			t.Fatalf("nothing to pick with %d pieces missing", p.Missing())
		}
		for _, b := range blocks {
			if slices.Contains(got, b) {
				t.Fatalf("%v picked twice", b)
			}
			got = append(got, b)
			r := p.Received(1, b)
			if r.Outcome != BlockNew {
				t.Fatalf("%v: %v, want new", b, r.Outcome)
			}
			if r.PieceComplete {
				p.Verified(b.Index)
			}
		}
	}
	if len(got) != 9*3+2 {
		t.Fatalf("%d blocks, want 29", len(got))
	}
}
