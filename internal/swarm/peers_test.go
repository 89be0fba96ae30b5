package swarm

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// EMP/1 section 7.7, case by case.
func TestRivals(t *testing.T) {
	low, high := bt.PeerID{1}, bt.PeerID{2}
	const out, in = false, true
	tests := []struct {
		name         string
		ours, theirs bt.PeerID
		old, new     bool // who initiated: in is the peer
		sameAddr     bool
		quiet        time.Duration
		want         verdict
	}{
		{"the peer is greater, its newer session stays", low, high, out, in, true, 0, keepNew},
		{"the peer is greater, its older session stays", low, high, in, out, true, time.Hour, keepOld},
		{"we are greater, our newer session stays", high, low, in, out, true, 0, keepNew},
		{"we are greater, our older session stays", high, low, out, in, true, time.Hour, keepOld},
		{"both incoming, the older was heard", low, high, in, in, true, 9 * time.Second, keepOld},
		{"both incoming, the older is silent", low, high, in, in, true, 10 * time.Second, askOld},
		{"both outgoing, the older was heard", low, high, out, out, true, 0, keepOld},
		{"both outgoing, the older is silent", high, low, out, out, true, time.Minute, askOld},
		{"another address, the older stays", low, high, out, in, false, time.Hour, keepOld},
		{"another address and silent, the older stays", low, high, in, in, false, time.Hour, keepOld},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := rivals(tt.ours, tt.theirs, tt.old, tt.new, tt.sameAddr, tt.quiet); got != tt.want {
				t.Errorf("rivals = %v, want %v", got, tt.want)
			}
		})
	}
	for _, v := range []verdict{keepOld, keepNew, askOld} {
		for i, c := range []struct {
			old, new, sameAddr bool
			want               verdict
		}{{false, false, true, v}, {true, true, false, v}, {true, false, true, keepOld}, {true, false, false, keepOld}, {false, true, true, keepNew}, {false, true, false, keepBoth}} {
			if got := proven(v, c.old, c.new, c.sameAddr); got != c.want {
				t.Errorf("%v with identities, case %d: %v, want %v", v, i, got, c.want)
			}
		}
	}
	// Both sides decide alike, each from its own point of view.
	for _, oldByA := range []bool{true, false} {
		a := rivals(low, high, !oldByA, oldByA, true, 0)
		b := rivals(high, low, oldByA, !oldByA, true, 0)
		if a != b {
			t.Errorf("one side decides %v, the other %v", a, b)
		}
	}
}

// Two nodes that dial each other end up with one session, however their dials meet.
func TestNodesThatDialEachOther(t *testing.T) {
	for name, between := range map[string]time.Duration{"at once": 0, "one after the other": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				a, b := w.start(), w.start()
				a.tor.AddPeers(b.addr)
				time.Sleep(between)
				b.tor.AddPeers(a.addr)
				time.Sleep(time.Minute)
				for _, n := range []*node{a, b} {
					if ps := n.tor.Peers(); len(ps) != 1 {
						t.Errorf("%v has %d sessions, want 1", n.addr, len(ps))
					}
				}
				ps, qs := a.tor.Peers(), b.tor.Peers()
				if len(ps) == 1 && len(qs) == 1 && ps[0].incoming == qs[0].incoming {
					t.Error("the two hold different sessions")
				}
			})
		})
	}
}

// A second session of a peer waits for the older one to show that it is alive.
func TestDuplicateSession(t *testing.T) {
	for name, answers := range map[string]bool{"the older answers": true, "the older is dead": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				n := w.start()
				from := w.addr()
				old := w.rawFrom(n, from)
				time.Sleep(rivalPatience + time.Second)
				newer := w.rawFrom(n, from)
				ended := make(chan string, 2)
				go func() {
					old.Until(func(m wire.Message) bool {
						if answers && m.Kind() == wire.KindKeepAlive {
							old.Write(classic.AppendKeepAlive(nil))
						}
						return false
					})
					ended <- "old"
				}()
				go func() {
					ignoring(newer)
					ended <- "newer"
				}()
				time.Sleep(2 * time.Second)
				if got := len(n.tor.Peers()); !answers && got != 2 {
					t.Errorf("%d sessions while the older may still answer, want both", got)
				}
				time.Sleep(rivalPatience)
				want := map[bool]string{true: "newer", false: "old"}[answers]
				select {
				case got := <-ended:
					if got != want {
						t.Errorf("the %s session was closed, want the %s", got, want)
					}
				default:
					t.Error("neither was closed")
				}
				ps := n.tor.Peers()
				if len(ps) != 1 {
					t.Fatalf("%d sessions are left, want 1", len(ps))
				}
				n.tor.do(func() {
					if n.tor.byID[ps[0].id] != ps[0] {
						t.Error("the one that is left is not known by its peer ID")
					}
				})
				// A third at once is turned away: the one that is left was heard, or is new.
				if want == "old" {
					newer.Write(classic.AppendKeepAlive(nil))
				} else {
					old.Write(classic.AppendKeepAlive(nil))
				}
				time.Sleep(time.Second)
				third := w.rawFrom(n, from)
				if _, err := third.UntilClosed(time.Second); err != nil {
					t.Error("the third session:", err)
				}
			})
		})
	}
}

func TestStrangerWithAKnownID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		victim := w.addr()
		w.rawFrom(n, victim)
		time.Sleep(time.Minute)
		nc, err := w.net.Dial(t.Context(), netip.AddrPortFrom(w.addr().Addr(), 0), n.addr)
		if err != nil {
			t.Fatal(err)
		}
		p := rawpeer.New(t, nc)
		if _, err := p.Greet(w.ih, peerID(victim), rawpeer.LTEP); err != nil {
			t.Fatal(err)
		}
		if _, err := p.UntilClosed(2 * time.Second); err != nil {
			t.Error("the stranger:", err)
		}
		if ps := n.tor.Peers(); len(ps) != 1 || ps[0].addr.Addr() != victim.Addr() {
			t.Errorf("%d sessions are left, want the older", len(ps))
		}
	})
}

func TestSelfConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		n.tor.AddPeers(n.addr)
		time.Sleep(10 * time.Minute)
		if ps := n.tor.Peers(); len(ps) != 0 {
			t.Errorf("connected to itself %d times", len(ps))
		}
		if d := n.dialled(); len(d) > 40 {
			t.Errorf("it dialled itself %d times in 10 minutes", len(d))
		}
	})
}

// Two seeds part unless they share a message type; they wait 10 s for each other's exchange to know.
func TestSeedsPart(t *testing.T) {
	register := func(names ...string) func(*node, *Config) {
		return func(n *node, cfg *Config) {
			n.later = append(n.later, func() {
				for _, name := range names {
					if _, err := n.hub.Register(messaging.Spec{Name: name, MaxBytes: 100,
						Handler: func(context.Context, *messaging.Message) error { return nil }}); err != nil {
						n.t.Error(err)
					}
				}
			})
		}
	}
	tests := []struct {
		name  string
		a, b  []string
		stays bool
	}{
		{"no types", nil, nil, false},
		{"one side only", []string{"x"}, nil, false},
		{"different types", []string{"x"}, []string{"y"}, false},
		{"a shared type", []string{"x", "y"}, []string{"y", "z"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				a, b := w.start(seeding, register(tt.a...)), w.start(seeding, register(tt.b...))
				a.tor.AddPeers(b.addr)
				time.Sleep(time.Hour)
				if got := len(a.tor.Peers()) == 1 && len(b.tor.Peers()) == 1; got != tt.stays {
					t.Errorf("connected after an hour: %v, want %v", got, tt.stays)
				}
				if tt.stays && a.count(EventPeerConnected) != 1 {
					t.Errorf("connected %d times, want once", a.count(EventPeerConnected))
				}
				if n := a.count(EventPeerConnected); n > 10 {
					t.Errorf("connected %d times in an hour without use", n)
				}
			})
		})
	}
	t.Run("without an exchange", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*piece, piece, slow)
			n := w.start(seeding)
			p := w.raw(n)
			if _, err := p.Write(classic.AppendHaveAll(nil)); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if _, err := p.UntilClosed(time.Minute); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d < redundantPatience-time.Second || d > redundantPatience+2*time.Second {
				t.Errorf("closed after %v, want %v", d, redundantPatience)
			}
		})
	})
	t.Run("a type that comes later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*piece, piece, slow)
			a, b := w.start(seeding), w.start(seeding)
			a.tor.AddPeers(b.addr)
			time.Sleep(time.Minute)
			if n := len(a.tor.Peers()); n != 0 {
				t.Fatalf("%d peers", n)
			}
			spec := messaging.Spec{Name: "x", MaxBytes: 100, Handler: func(context.Context, *messaging.Message) error { return nil }}
			for _, n := range []*node{b, a} {
				if _, err := n.hub.Register(spec); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Second)
			if n := len(a.tor.Peers()); n != 1 {
				t.Errorf("%d peers once both share a type, want 1: there is something to say now", n)
			}
		})
	})
}

func TestMaxPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 4
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start(with(func(cfg *Config) { cfg.MaxPeers = most }))
		var closed atomic.Int32
		var group sync.WaitGroup
		var raws []*rawpeer.Peer
		for range 10 {
			p := w.raw(n)
			raws = append(raws, p)
			group.Go(func() {
				ignoring(p)
				closed.Add(1)
			})
			time.Sleep(100 * time.Millisecond)
		}
		if got := len(n.tor.Peers()); got != most || closed.Load() != 10-most {
			t.Errorf("%d peers are connected and %d were refused, want %d and %d", got, closed.Load(), most, 10-most)
		}
		// One that goes makes room for another.
		raws[0].Close()
		time.Sleep(time.Second)
		raws = append(raws, w.raw(n))
		time.Sleep(time.Second)
		if got := len(n.tor.Peers()); got != most {
			t.Errorf("%d peers after one went and one came, want %d", got, most)
		}
		for _, p := range raws {
			p.Close()
		}
		group.Wait()
	})
}

// Connections whose hello is under way count: addresses that accept and stay silent must not cost more than peers do.
func TestMaxPeersWhileDialling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 4
		w := newWorld(t, 10*piece, piece, slow)
		var now, peak atomic.Int32
		var addrs []netip.AddrPort
		for range 40 {
			addrs = append(addrs, w.listen(func(nc net.Conn, _ netip.AddrPort) {
				peak.Store(max(peak.Load(), now.Add(1)))
				defer now.Add(-1)
				var b [1000]byte
				for {
					if _, err := nc.Read(b[:]); err != nil {
						return
					}
				}
			}))
		}
		n := w.start(with(func(cfg *Config) { cfg.MaxPeers = most }))
		n.tor.AddPeers(addrs...)
		time.Sleep(time.Hour)
		if peak.Load() > most {
			t.Errorf("%d connections at once, want no more than %d", peak.Load(), most)
		}
		tried := map[netip.AddrPort]bool{}
		for _, d := range n.dialled() {
			tried[d.to] = true
		}
		if len(tried) != len(addrs) {
			t.Errorf("%d of %d addresses were tried", len(tried), len(addrs))
		}
	})
}

// An address that refuses is tried again after 1, 2, 4 s, and so on up to 30 s, with a quarter of chance and a tick on top.
func TestDialBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		nobody := w.addr()
		n.tor.AddPeers(nobody)
		time.Sleep(5 * time.Minute)
		dials := n.dialled()
		if len(dials) < 8 {
			t.Fatalf("%d dials in 5 minutes", len(dials))
		}
		for i := 1; i < len(dials); i++ {
			want := min(firstRetry<<(i-1), lastRetry)
			if gap := dials[i].at.Sub(dials[i-1].at); gap < want || gap > want+want/4+tickEvery+100*time.Millisecond {
				t.Errorf("dial %d came %v after the one before, want %v and up to a quarter more", i, gap, want)
			}
		}
		if got := n.count(EventDialFailed); got != len(dials) {
			t.Errorf("%d failures were reported of %d", got, len(dials))
		}
		before := len(dials)
		n.tor.AddPeers(nobody) // named again: at once
		time.Sleep(time.Second)
		if len(n.dialled()) == before {
			t.Error("an address that is named again is not dialled at once")
		}
	})
}

// An address whose peer broke the protocol is left alone for longer.
func TestFaultyPeersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		n.tor.AddPeers(w.listenRaw(func(p *rawpeer.Peer) {
			p.Write([]byte{0, 0, 0, 2, classic.IDHave, 1})
			ignoring(p)
		}))
		time.Sleep(faultRetry - time.Second)
		if d := n.dialled(); len(d) != 1 {
			t.Errorf("dialled %d times within %v of its fault, want once", len(d), faultRetry)
		}
		time.Sleep(10 * time.Second)
		if d := n.dialled(); len(d) != 2 {
			t.Errorf("dialled %d times after that, want twice", len(d))
		}
	})
}

// What a session begins with depends on what we have and what the peer speaks (BEP 3, 6, 10).
func TestGreeting(t *testing.T) {
	none, classicOnly, fastOnly := wire.Reserved{5: 0x10}, wire.Reserved{}, wire.Reserved{7: 4}
	half := func(n *node, cfg *Config) {
		if _, err := n.store.WriteAt(n.w.content[:5*piece], 0); err != nil {
			n.t.Fatal(err)
		}
	}
	nothing := func(*node, *Config) {}
	tests := []struct {
		name     string
		option   func(*node, *Config)
		reserved wire.Reserved
		want     []wire.Kind
	}{
		{"a seed to Fast and LTEP", seeding, rawpeer.LTEP, []wire.Kind{wire.KindHaveAll, wire.KindExtended}},
		{"a seed to LTEP", seeding, none, []wire.Kind{wire.KindBitfield, wire.KindExtended}},
		{"a seed to classic", seeding, classicOnly, []wire.Kind{wire.KindBitfield}},
		{"half to Fast", half, fastOnly, []wire.Kind{wire.KindBitfield}},
		{"nothing to Fast and LTEP", nothing, rawpeer.LTEP, []wire.Kind{wire.KindHaveNone, wire.KindExtended}},
		{"nothing to LTEP", nothing, none, []wire.Kind{wire.KindExtended}},
		{"no metadata, to Fast", magnet, fastOnly, []wire.Kind{wire.KindHaveNone}},
		{"no metadata, to LTEP", magnet, none, []wire.Kind{wire.KindExtended}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				n := w.start(tt.option)
				time.Sleep(time.Second)
				nc, err := w.net.Dial(t.Context(), netip.AddrPortFrom(w.addr().Addr(), 0), n.addr)
				if err != nil {
					t.Fatal(err)
				}
				p := rawpeer.New(t, nc)
				if _, err := p.Greet(w.ih, bt.PeerID{9}, tt.reserved); err != nil {
					t.Fatal(err)
				}
				if err := p.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				var got []wire.Kind
				for {
					m, err := p.Read()
					if err != nil {
						break
					}
					got = append(got, m.Kind())
				}
				if len(got) != len(tt.want) {
					t.Fatalf("it began with %v, want %v", got, tt.want)
				}
				for i := range got {
					if got[i] != tt.want[i] {
						t.Fatalf("it began with %v, want %v", got, tt.want)
					}
				}
			})
		})
	}
}

// A type that is registered while a session lasts is told in a second exchange that is complete (EMP/1 section 6.1).
func TestExchangesAreComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start(seeding)
		p := w.raw(n)
		read := func() map[string]uint8 {
			t.Helper()
			e, err := p.UntilExchange()
			if err != nil {
				t.Fatal(err)
			}
			if e.Client != "test" || e.Port != 6881 || e.MetadataSize != int64(len(w.info.Bytes)) || e.ReqQ == 0 || !e.UploadOnly {
				t.Errorf("an exchange that is not complete: %+v", e)
			}
			m := map[string]uint8{}
			for _, x := range e.M {
				m[x.Name] = x.ID
			}
			if m[ltep.NameMetadata] == 0 {
				t.Error("an exchange without ut_metadata")
			}
			return m
		}
		read()
		ty, err := n.hub.Register(messaging.Spec{Name: "x", MaxBytes: 1, Handler: func(context.Context, *messaging.Message) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		id := read()["x"]
		if id == 0 {
			t.Error("the new type is not there")
		}
		if err := ty.Withdraw(); err != nil {
			t.Fatal(err)
		}
		if m := read(); m["x"] != 0 || len(m) != 6 || m[ltep.NameMux] == 0 {
			t.Errorf("after the withdrawal: %v, want the name with 0", m)
		}
	})
}

// While an older session has its time to answer, only one newer one waits for its place.
func TestOneRivalAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		from := w.addr()
		w.rawFrom(n, from)
		time.Sleep(rivalPatience + time.Second)
		for range 4 {
			w.rawFrom(n, from)
			time.Sleep(time.Second)
		}
		if got := len(n.tor.Peers()); got != 2 {
			t.Errorf("%d sessions with one peer, want the older and the first of the newer", got)
		}
		time.Sleep(rivalPatience)
		if got := len(n.tor.Peers()); got != 1 {
			t.Errorf("%d sessions with one peer are left, want 1", got)
		}
	})
}
