package swarm

import (
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/simnet"
)

// bans reports whether a node has shut out the peer of that address.
func (n *node) bans(addr netip.AddrPort) (bad bool) {
	n.tor.do(func() { bad = n.tor.bans.refuses(n.tor.cfg.Now(), peerID(addr), addr.Addr()) })
	return bad
}

// corrupting makes a seed spoil a share of the blocks it sends, and counts them.
func corrupting(share float64, seed uint64, spoilt *atomic.Int64) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		var state atomic.Uint64
		onto(&wrapped{after: func(p []byte, off int64) {
			r := rand.New(rand.NewPCG(seed, state.Add(1)))
			if len(p) > 0 && r.Float64() < share {
				p[r.IntN(len(p))] ^= byte(1 + r.IntN(255))
				spoilt.Add(1)
			}
		}})(n, cfg)
	}
}

// blameCase is one way to send what is wrong.
type blameCase struct {
	name    string
	corrupt int     // how many of the peers do it
	share   float64 // of their blocks
	leaves  bool    // they leave before a good copy shows it
	blocks  int64   // of a piece
	pieces  int64
}

// Four peers serve pieces of which each has blocks of several. Whoever spoils some is found and shut out, and no honest peer ever is.
func TestCorrupterAmongFour(t *testing.T) {
	cases := []blameCase{
		{name: "all of it", corrupt: 1, share: 1, blocks: 16, pieces: 12},
		{name: "a tenth", corrupt: 1, share: 0.1, blocks: 16, pieces: 64},
		{name: "two of them", corrupt: 2, share: 0.3, blocks: 16, pieces: 16},
		{name: "it leaves", corrupt: 1, share: 0.5, blocks: 16, pieces: 12, leaves: true},
		{name: "large pieces", corrupt: 1, share: 0.3, blocks: 64, pieces: 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var total blameResult
			first, seeds := simSeeds(t, 5)
			for s := range seeds {
				synctest.Test(t, func(t *testing.T) { total.add(c.run(t, first+s)) })
				if t.Failed() {
					t.Fatalf("seed %d", first+s)
				}
			}
			if total.shared == 0 {
				t.Error("no piece that failed had blocks of several peers: the test is none")
			}
			if total.idle*20 > int64(seeds) {
				t.Errorf("in %d of %d seeds nothing that was spoilt became part of a piece", total.idle, seeds)
			}
			t.Logf("%d seeds: %d blocks spoilt, %d pieces failed, %d of them shared; %d bans, all of corrupters, %d who did no harm; wasted %.3f of the content; %v simulated on average", seeds,
				total.spoilt, total.failed, total.shared, total.banned, total.idle, float64(total.wasted)/float64(total.content), (total.took / time.Duration(seeds)).Round(time.Millisecond))
		})
	}
}

type blameResult struct {
	spoilt, failed, shared, banned, idle, wasted, content int64
	took                                                  time.Duration
}

func (r *blameResult) add(o blameResult) {
	r.spoilt, r.failed, r.shared, r.banned = r.spoilt+o.spoilt, r.failed+o.failed, r.shared+o.shared, r.banned+o.banned
	r.idle, r.wasted, r.content, r.took = r.idle+o.idle, r.wasted+o.wasted, r.content+o.content, r.took+o.took
}

func (c blameCase) run(t *testing.T, seed uint64) (r blameResult) {
	w := newWorldOf(t, seed, c.blocks*c.pieces*piece, c.blocks*piece, simnet.Link{Latency: 15 * time.Millisecond, Rate: 1 << 20, Split: 40 << 10})
	var spoilt atomic.Int64
	var peers []*node
	for i := range 4 {
		if i < c.corrupt {
			peers = append(peers, w.start(seeding, corrupting(c.share, seed+uint64(i), &spoilt)))
		} else {
			peers = append(peers, w.start(seeding))
		}
	}
	// Three pieces at a time for four peers: they have to share.
	n := w.start(with(func(cfg *Config) { cfg.BufferBytes = int(6 * c.blocks * piece) }))
	began := time.Now()
	for _, p := range peers {
		n.tor.AddPeers(p.addr)
	}
	if c.leaves {
		for deadline := time.Now().Add(time.Minute); n.tor.Stats().CorruptPieces == 0 && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
		}
		for _, p := range peers[:c.corrupt] {
			p.close()
		}
	}
	n.waitComplete(time.Hour)
	r.took = time.Since(began)
	s := n.tor.Stats()
	r.spoilt, r.failed, r.wasted, r.content = spoilt.Load(), int64(s.CorruptPieces), s.Wasted, s.TotalBytes
	n.tor.do(func() { r.shared = int64(n.tor.blame.shared) })
	for i, p := range peers {
		switch bad := n.bans(p.addr); {
		case i < c.corrupt && !bad && s.CorruptPieces > 0:
			t.Errorf("peer %d spoilt blocks, and is not banned: %d blocks spoilt in all, %d pieces failed", i, r.spoilt, s.CorruptPieces)
		case i < c.corrupt && !bad: // what it spoilt came too late to become part of a piece, or it was hardly asked
			r.idle++
		case i >= c.corrupt && bad:
			t.Errorf("peer %d is honest, and banned", i)
		case bad:
			r.banned++
		}
	}
	n.tor.do(func() {
		if b := &n.tor.blame; len(b.trials) != 0 || len(b.order) != 0 || b.blocks != 0 {
			t.Errorf("after the end %d trials and %d blocks are remembered", len(b.trials), b.blocks)
		}
	})
	return r
}
