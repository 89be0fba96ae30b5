package swarm

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/pipeline"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

const piece = 16 << 10

func TestSwarmCompletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*4*piece+777, 4*piece, slow)
		seed := w.start(seeding)
		nodes := []*node{seed}
		for i := range 8 {
			n := w.start()
			n.tor.AddPeers(seed.addr)
			for range 2 {
				n.tor.AddPeers(nodes[w.rng.IntN(len(nodes))].addr)
			}
			nodes = append(nodes, n)
			if i%3 == 0 {
				time.Sleep(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
			}
		}
		up := int64(0)
		for _, n := range nodes[1:] {
			n.waitComplete(10 * time.Minute)
			if s := n.tor.Stats(); s.State != StateSeeding || s.HavePieces != s.Pieces || s.HaveBytes != int64(len(w.content)) || s.CorruptPieces != 0 {
				t.Errorf("%v: %+v", n.addr, s)
			}
			if n.count(EventComplete) != 1 || n.count(EventVerified) != 1 {
				t.Errorf("%v: %d times complete, %d times verified, want once each", n.addr, n.count(EventComplete), n.count(EventVerified))
			}
			up += n.tor.Stats().Uploaded
		}
		if up == 0 {
			t.Error("the seed served all, and the others nobody")
		}
		// Seeds that share no message type have nothing to say to each other.
		time.Sleep(30 * time.Second)
		for _, n := range nodes {
			if ps := n.tor.Peers(); len(ps) != 0 {
				t.Errorf("%v still has %d peers with everybody complete", n.addr, len(ps))
			}
		}
	})
}

// Connections break again and again in the middle of things; the download goes on where it was.
func TestDisconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := slow
		link.CutWithin = 400 << 10
		w := newWorld(t, 40*4*piece, 4*piece, link)
		seeds := []*node{w.start(seeding), w.start(seeding)}
		n := w.start()
		n.tor.AddPeers(seeds[0].addr, seeds[1].addr)
		n.waitComplete(time.Hour)
		if n.count(EventPeerDisconnected) == 0 {
			t.Error("nothing was ever cut: the test is none")
		}
		if s := n.tor.Stats(); s.Wasted > s.TotalBytes {
			t.Errorf("%d bytes were wasted of a torrent of %d", s.Wasted, s.TotalBytes)
		}
	})
}

// A piece whose hash is wrong is not kept; whoever sent all of it is banned; the download completes from the others.
func TestCorruptPiece(t *testing.T) {
	for name, blocks := range map[string]int64{"one block": 1, "four blocks": 4} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 40*blocks*piece, blocks*piece, slow)
				good := w.start(seeding)
				liar := w.start(seeding, onto(&wrapped{after: func(p []byte, _ int64) {
					if len(p) > 0 {
						p[len(p)/2] ^= 1
					}
				}}))
				n := w.start()
				n.tor.AddPeers(liar.addr)
				time.Sleep(time.Second)
				n.tor.AddPeers(good.addr)
				n.waitComplete(time.Hour)
				s := n.tor.Stats()
				if s.CorruptPieces == 0 || s.Wasted < int64(s.CorruptPieces)*blocks*piece {
					t.Errorf("%d pieces were corrupt, %d bytes wasted", s.CorruptPieces, s.Wasted)
				}
				if !n.bans(liar.addr) {
					t.Error("the peer that sent corrupt pieces is not banned")
				}
				if n.bans(good.addr) {
					t.Error("the honest peer is banned")
				}
				// It may not come back by itself either.
				liar.tor.AddPeers(n.addr)
				time.Sleep(5 * time.Second)
				for _, p := range n.tor.Peers() {
					if p.addr.Addr() == liar.addr.Addr() {
						t.Error("the banned peer is connected again")
					}
				}
			})
		})
	}
}

// There are more who want than there are slots: nobody starves, and the slots are kept to.
func TestChokeAndUnchoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 2
		w := newWorld(t, 30*4*piece, 4*piece, simnet.Link{Latency: 10 * time.Millisecond, Rate: 100 << 10})
		seed := w.start(seeding, with(func(cfg *Config) { cfg.UploadSlots = slots }))
		var nodes []*node
		for range 6 {
			n := w.start(with(func(cfg *Config) { cfg.NoPEX = true })) // they are to need the seed
			n.tor.AddPeers(seed.addr)
			nodes = append(nodes, n)
		}
		served := map[*Peer]bool{}
		most := 0
		for range 600 {
			time.Sleep(time.Second)
			seed.tor.Call(func(peers map[*Peer]struct{}, _ Stats) {
				unchoked := 0
				for p := range peers {
					if p.unchoked {
						unchoked++
						served[p] = true
					}
				}
				most = max(most, unchoked)
			})
			if !slices.ContainsFunc(nodes, func(n *node) bool { return n.tor.Stats().State != StateSeeding }) {
				break
			}
		}
		for _, n := range nodes {
			n.waitComplete(time.Second)
		}
		if len(served) < len(nodes) {
			t.Errorf("%d of %d peers were ever unchoked", len(served), len(nodes))
		}
		if most > slots || most == 0 {
			t.Errorf("%d peers were unchoked at once, want %d", most, slots)
		}
	})
}

// A peer that takes requests and sends nothing is snubbed, and what it owes is asked of others.
func TestSnubbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40*4*piece, 4*piece, slow)
		n := w.start()
		var asked atomic.Int32
		silent := w.listenRaw(func(p *rawpeer.Peer) {
			p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
			p.Until(func(m wire.Message) bool {
				if m.Kind() == wire.KindRequest {
					asked.Add(1)
				}
				return false
			})
		})
		n.tor.AddPeers(silent)
		time.Sleep(10 * time.Second)
		if asked.Load() == 0 {
			t.Fatal("the silent peer was not asked for anything: the test is none")
		}
		slowly := w.start(seeding)
		n.tor.AddPeers(slowly.addr)
		n.waitComplete(pipeline.SnubFirst + 30*time.Second)
	})
}

// A peer that snubs us is asked for one block at a time, and is a peer like others once it sends one.
func TestSnubbedPeerComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40*piece, piece, slow)
		n := w.start()
		p := w.raw(n)
		if _, err := p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil))); err != nil {
			t.Fatal(err)
		}
		requests := make(chan wire.Request, 1000)
		go p.Until(func(m wire.Message) bool {
			if r, ok := m.(*wire.Request); ok {
				requests <- *r
			}
			return false
		})
		time.Sleep(pipeline.SnubFirst + 5*time.Second)
		snubbed := func() (s bool) {
			n.tor.Call(func(peers map[*Peer]struct{}, _ Stats) {
				for q := range peers {
					s = q.snubbed
				}
			})
			return s
		}
		if !snubbed() {
			t.Fatal("the silent peer is not snubbed")
		}
		answer := func(r wire.Request) {
			at := w.info.Geometry.Offset(r.Block)
			if _, err := p.Write(classic.AppendPiece(nil, wire.Piece{Index: r.Block.Index, Begin: r.Block.Begin, Data: w.content[at : at+int64(r.Block.Length)]})); err != nil {
				t.Fatal(err)
			}
		}
		answer(<-requests) // late, and welcome
		for len(requests) > 0 {
			answer(<-requests)
		}
		time.Sleep(time.Second)
		for done := false; !done; {
			select {
			case r := <-requests:
				answer(r)
			case <-time.After(5 * time.Second):
				done = true
			}
		}
		n.waitComplete(time.Second)
		if s := n.tor.Stats(); s.Wasted > piece { // the one block that was asked for again comes twice
			t.Errorf("%d bytes were wasted: what comes late was asked for all the same", s.Wasted)
		}
	})
}

// A peer that chokes us without the Fast extension keeps nothing that it owes (BEP 3).
func TestChokedWithoutFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*piece, piece, slow)
		n := w.start()
		addr := w.listen(func(nc net.Conn, from netip.AddrPort) {
			p := rawpeer.New(w.t, nc)
			if _, err := p.Greet(w.ih, peerID(from), wire.Reserved{}); err != nil {
				return
			}
			bits := bytes.Repeat([]byte{0xff}, 3)
			bits[2] = 0xf0
			out := classic.AppendBitfield(nil, wire.Bitfield{Bits: bits})
			p.Write(classic.AppendUnchoke(out))
			n := 0
			p.Until(func(m wire.Message) bool {
				r, ok := m.(*wire.Request)
				if !ok {
					return false
				}
				if n++; n == 1 {
					p.Write(classic.AppendUnchoke(classic.AppendChoke(nil))) // what was asked before is forgotten
				}
				if n > 4 {
					at := w.info.Geometry.Offset(r.Block)
					p.Write(classic.AppendPiece(nil, wire.Piece{Index: r.Block.Index, Data: w.content[at : at+int64(r.Block.Length)]}))
				}
				return false
			})
		})
		n.tor.AddPeers(addr)
		n.waitComplete(5 * time.Minute)
	})
}

// What nobody asked for is dropped, and who sends too much of it is closed.
func TestUnwantedBlocks(t *testing.T) {
	for name, options := range map[string][]func(*node, *Config){"downloading": nil, "seeding": {seeding}} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { unwantedBlocks(t, options) }) })
	}
}

func unwantedBlocks(t *testing.T, options []func(*node, *Config)) {
	w := newWorld(t, 20*piece, piece, simnet.Link{})
	n := w.start(options...)
	had := 0
	if options != nil {
		had = 20
	}
	p := w.raw(n)
	sent := 0
	for {
		if _, err := p.Write(classic.AppendPiece(nil, wire.Piece{Index: 3, Data: w.content[3*piece : 4*piece]})); err != nil {
			break
		}
		if sent += piece; sent > 4*unwantedLimit {
			t.Fatal("it is still connected")
		}
	}
	if sent < unwantedLimit {
		t.Errorf("closed after %d bytes, the limit is %d", sent, unwantedLimit)
	}
	if s := n.tor.Stats(); s.HavePieces != had || s.Wasted < unwantedLimit {
		t.Errorf("%+v", s)
	}
}

// More silent peers than may be asked for one block in the endgame cost the time that they are given there, once, and not the whole time after which a peer is snubbed.
func TestManySnubs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40*piece, piece, slow)
		n := w.start()
		for range 12 {
			n.tor.AddPeers(w.listenRaw(func(p *rawpeer.Peer) {
				p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
				ignoring(p)
			}))
		}
		time.Sleep(5 * time.Second)
		n.tor.AddPeers(w.start(seeding).addr)
		n.waitComplete(endgameSilence + 10*time.Second)
	})
}
