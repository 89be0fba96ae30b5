package picker

import (
	"testing"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

// cycle picks and receives 16 blocks, and starts over with the verified pieces when none are left.
func cycle(b *testing.B, p *Picker, peer PeerKey, has *bitfield.Set) {
	buf := make([]bt.Block, 0, 16)
	var done []bt.PieceIndex
	for b.Loop() {
		buf = p.Pick(buf[:0], peer, has, 16)
		if len(buf) == 0 {
			b.StopTimer()
			for _, i := range done {
				p.Failed(i)
			}
			done = done[:0]
			b.StartTimer()
			continue
		}
		for _, bl := range buf {
			if p.Received(peer, bl).PieceComplete {
				done = append(done, bl.Index) // stays complete: neither missing nor open
			}
		}
	}
}

func random(n, of int, seed uint64) *bitfield.Set {
	rng := newRand(seed)
	s := bitfield.New(n)
	for i := range n {
		if rng.IntN(of) == 0 {
			s.Add(i)
		}
	}
	return s
}

// swarmOf returns a picker of n pieces of 16 blocks that counts some peers with random halves.
func swarmOf(b *testing.B, n, peers int) *Picker {
	p := New(geometry(b, int64(n)*16*bt.BlockBytes, 16*bt.BlockBytes), nil, newRand(1), Options{})
	for k := range peers {
		p.AddPeer(PeerKey(1000+k), random(n, 2, uint64(k)))
	}
	p.levels[Normal-1].ord.settle()
	return p
}

// Each iteration picks and receives 16 blocks, a whole piece.

func BenchmarkSeed10k(b *testing.B) {
	p := swarmOf(b, 10_000, 50)
	p.AddPeer(1, nil)
	cycle(b, p, 1, nil)
}

func BenchmarkHalf10k(b *testing.B) {
	p := swarmOf(b, 10_000, 50)
	has := random(10_000, 2, 99)
	p.AddPeer(1, has)
	cycle(b, p, 1, has)
}

func BenchmarkSeed4M(b *testing.B) {
	p := swarmOf(b, 4<<20, 8)
	p.AddPeer(1, nil)
	cycle(b, p, 1, nil)
}

func BenchmarkHalf4M(b *testing.B) {
	p := swarmOf(b, 4<<20, 8)
	has := random(4<<20, 2, 99)
	p.AddPeer(1, has)
	cycle(b, p, 1, has)
}

func BenchmarkSparse4M(b *testing.B) {
	p := swarmOf(b, 4<<20, 8)
	has := random(4<<20, 10_000, 99)
	p.AddPeer(1, has)
	cycle(b, p, 1, has)
}

// Everything but the rarest, so that neither order nor chance finds it.
func BenchmarkCommon4M(b *testing.B) {
	p := swarmOf(b, 4<<20, 8)
	has := bitfield.New(4 << 20)
	for i := range 4 << 20 {
		if p.Availability(bt.PieceIndex(i)) > 2 {
			has.Add(i)
		}
	}
	p.AddPeer(1, has)
	cycle(b, p, 1, has)
}

// A peer that has nothing more for us.
func BenchmarkDry4M(b *testing.B) {
	p := swarmOf(b, 4<<20, 8)
	has := random(4<<20, 10_000, 99)
	p.AddPeer(1, has)
	for i := range has.All() {
		p.Verified(bt.PieceIndex(i))
	}
	for b.Loop() {
		if len(p.Pick(nil, 1, has, 16)) > 0 || p.Interesting(1, has) {
			b.Fatal("something to pick")
		}
	}
}

func BenchmarkHave10k(b *testing.B) {
	p := swarmOf(b, 10_000, 1000)
	p.AddPeer(1, bitfield.New(10_000))
	i := bt.PieceIndex(0)
	for b.Loop() {
		p.PeerHas(1, i)
		if i++; i == 10_000 {
			b.StopTimer()
			p.RemovePeer(1, bitfield.NewFull(10_000))
			p.AddPeer(1, bitfield.New(10_000))
			p.levels[Normal-1].ord.settle()
			i = 0
			b.StartTimer()
		}
	}
}

// A peer with half of the torrent comes and goes, and the order is wanted in between.
func benchmarkJoin(b *testing.B, n int) {
	p := swarmOf(b, n, 8)
	has := random(n, 2, 99)
	for b.Loop() {
		p.AddPeer(1, has)
		p.levels[Normal-1].ord.settle()
		p.RemovePeer(1, has)
	}
}

func BenchmarkJoin10k(b *testing.B) { benchmarkJoin(b, 10_000) }
func BenchmarkJoin4M(b *testing.B)  { benchmarkJoin(b, 4<<20) }

// Many open pieces with something left, of which the peer has none, in the endgame or short of it.
func BenchmarkManyOpen(b *testing.B) {
	const n = 20_000
	p := New(geometry(b, n*16*bt.BlockBytes, 16*bt.BlockBytes), nil, newRand(1), Options{MaxOpen: 4000})
	for k := range 4000 {
		p.AddPeer(PeerKey(k), setOf(n, k))
		p.Pick(nil, PeerKey(k), setOf(n, k), 3)
	}
	has := random(n, 2, 5)
	for k := range 4000 {
		has.Remove(k)
	}
	p.AddPeer(9999, has)
	cycle(b, p, 9999, has)
}

func BenchmarkEndgame(b *testing.B) {
	const n = 1000
	p := New(geometry(b, n*16*bt.BlockBytes, 16*bt.BlockBytes), nil, newRand(1), Options{MaxOpen: n})
	for k := range 40 {
		p.AddPeer(PeerKey(k), nil)
		p.Pick(nil, PeerKey(k), nil, 400)
	}
	p.AddPeer(9999, nil)
	buf := make([]bt.Block, 0, 16)
	for b.Loop() {
		buf = p.Pick(buf[:0], 9999, nil, 16)
		if len(buf) == 0 {
			b.Fatal("nothing to pick")
		}
		p.ReleaseAll(9999)
	}
}
