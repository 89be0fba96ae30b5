package picker

import (
	"math/rand/v2"
	"testing"

	"github.com/parley-bt/parley/bt"
)

// Whatever happens, nobody but its peer is asked for what is open of a reserved piece, and everybody again once it no longer is reserved.
func TestReserve(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		g := geometry(t, 12*4*bt.BlockBytes, 4*bt.BlockBytes)
		p := New(g, nil, newRand(seed), Options{MaxOpen: 3, RandomFirst: -1})
		const peers = 4
		for k := range PeerKey(peers) {
			p.AddPeer(k+1, nil)
		}
		reserved := map[bt.PieceIndex]PeerKey{}
		owed := map[bt.Block][]PeerKey{}
		used := false
		for range 600 {
			k := PeerKey(1 + rng.IntN(peers))
			switch rng.IntN(12) {
			case 0:
				if i := bt.PieceIndex(rng.IntN(g.NumPieces())); len(reserved) < 3 && p.Reserve(i, k) {
					reserved[i] = k
				}
			case 1:
				for i := range reserved {
					p.Unreserve(i)
					delete(reserved, i)
					break
				}
			case 2:
				p.ReleaseAll(k)
			case 3, 4, 5, 6:
				for _, b := range p.Pick(nil, k, nil, 1+rng.IntN(6)) {
					if who, ok := reserved[b.Index]; ok {
						used = true
						if who != k {
							t.Fatalf("seed %d: peer %d is asked for %v, which is reserved for %d", seed, k, b, who)
						}
					}
					owed[b] = append(owed[b], k)
				}
			case 7:
				if i := bt.PieceIndex(rng.IntN(g.NumPieces())); reserved[i] != 0 && reserved[i] != k && len(owed) > 0 {
					if b := g.Block(i, rng.IntN(4)); p.Requesters(nil, b) == nil && p.Accept(k, b).Outcome == BlockNew {
						t.Fatalf("seed %d: %v of peer %d was accepted, which is reserved for %d", seed, b, k, reserved[i])
					}
				}
			default:
				for b := range p.Requests(k) {
					if p.Received(k, b).PieceComplete {
						delete(reserved, b.Index)
						if rng.IntN(2) == 0 {
							p.Failed(b.Index)
						} else {
							p.Verified(b.Index)
						}
					}
					break
				}
			}
		}
		for i := range reserved {
			p.Unreserve(i)
		}
		for k := range PeerKey(peers) {
			p.ReleaseAll(k + 1)
		}
		for range 1000 {
			if p.Complete() {
				break
			}
			for _, b := range p.Pick(nil, 1, nil, 8) {
				if p.Received(1, b).PieceComplete {
					p.Verified(b.Index)
				}
			}
		}
		if !p.Complete() || !used {
			t.Fatalf("seed %d: complete %v, reserved pieces were picked %v", seed, p.Complete(), used)
		}
	}
}

// A reservation ends with its peer, and does not keep others from the endgame.
func TestReserveEnds(t *testing.T) {
	g := geometry(t, 2*2*bt.BlockBytes, 2*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{})
	p.AddPeer(1, nil)
	p.AddPeer(2, nil)
	if p.Reserve(0, 3) || p.Reserve(9, 1) || !p.Reserve(0, 1) {
		t.Fatal("reserved for nobody, or not for somebody")
	}
	if got := p.Pick(nil, 2, nil, 9); len(got) != 2 || got[0].Index != 1 {
		t.Fatalf("the other peer got %v", got)
	}
	p.AddPeer(4, nil)
	if got := p.Pick(nil, 4, nil, 9); len(got) != 2 || got[0].Index != 1 {
		t.Fatalf("in the endgame a third got %v, want what the other was asked for", got)
	}
	p.RemovePeer(1, nil)
	if got := p.Pick(nil, 2, nil, 9); len(got) != 2 || got[0].Index != 0 {
		t.Fatalf("after its peer has left the reserved piece is not picked, but %v", got)
	}
}

// A block that is taken back is asked for again.
func TestRetract(t *testing.T) {
	g := geometry(t, 2*bt.BlockBytes, 2*bt.BlockBytes)
	p := New(g, nil, newRand(1), Options{})
	p.AddPeer(1, nil)
	p.AddPeer(2, nil)
	first := p.Pick(nil, 1, nil, 1)[0]
	if p.Retract(first) {
		t.Error("a block that was not there was retracted")
	}
	p.Received(1, first)
	if !p.Retract(first) || p.Retract(first) {
		t.Error("want retracted once")
	}
	if got := p.Pick(nil, 2, nil, 9); len(got) != 2 {
		t.Fatalf("picked %v, want both blocks", got)
	}
	for n := range 2 {
		if r := p.Received(2, g.Block(0, n)); r.Outcome != BlockNew || r.PieceComplete != (n == 1) {
			t.Errorf("block %d: %+v", n, r)
		}
	}
	if p.Retract(first) {
		t.Error("a block of a complete piece was retracted")
	}
	p.Verified(0)
	if !p.Complete() {
		t.Error("not complete")
	}
}
