package swarm

import (
	"context"
	"crypto/sha1"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/pipeline"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// global is an address that is nowhere near.
func global(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 0, byte(i >> 8), byte(i)}), 6881)
}

// makePrivate makes the world's torrent private (BEP 27). It comes before the first node.
func (w *world) makePrivate() {
	w.t.Helper()
	b := metainfo.Builder{Name: "content", SingleFile: true, Files: w.info.Files, PieceLength: int64(w.info.Geometry.PieceBytes), Private: true}
	for at := 0; at < len(w.content); at += int(b.PieceLength) {
		sum := sha1.Sum(w.content[at:min(at+int(b.PieceLength), len(w.content))])
		b.PieceHashes = append(b.PieceHashes, sum[:]...)
	}
	mi, err := b.Build()
	if err != nil {
		w.t.Fatal(err)
	}
	w.info, w.ih = mi.Info, mi.InfoHash
}

// tell sends a ut_pex message under the id that the swarm gives out.
func tell(t *testing.T, p *rawpeer.Peer, addrs ...netip.AddrPort) {
	t.Helper()
	var m ltep.PEX
	for _, a := range addrs {
		m.Added = append(m.Added, ltep.PEXPeer{Addr: a})
	}
	if err := p.Extended(pexID, ltep.AppendPEX(nil, m)); err != nil {
		t.Fatal(err)
	}
}

// staying reads until the connection ends, and keeps it alive.
func staying(p *rawpeer.Peer) {
	stop := make(chan struct{})
	go func() {
		for tick := time.NewTicker(time.Minute); ; {
			select {
			case <-tick.C:
				p.Write(classic.AppendKeepAlive(nil)) // whoever reads sees that it has ended
			case <-stop:
				tick.Stop()
				return
			}
		}
	}()
	ignoring(p)
	close(stop)
}

// dialsTo counts a node's dials by the host.
func (n *node) dialsTo(within func(netip.Addr) bool) (count int) {
	for _, d := range n.dialled() {
		if within(d.to.Addr()) {
			count++
		}
	}
	return count
}

// Twelve nodes that know one other each, in a chain, become one swarm.
func TestPeersFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 400*piece, piece, simnet.Link{Latency: 10 * time.Millisecond, Rate: 100 << 10})
		before := w.start(seeding)
		nodes := []*node{before}
		for range 11 {
			n := w.start()
			n.tor.AddPeers(before.addr)
			nodes, before = append(nodes, n), n
		}
		met := make([]map[string]bool, len(nodes))
		for range 1200 {
			time.Sleep(time.Second)
			done := true
			for i, n := range nodes {
				if met[i] == nil {
					met[i] = make(map[string]bool)
				}
				for _, p := range n.tor.Peers() {
					met[i][p.Addr().Addr().String()] = true
				}
				done = done && n.tor.Stats().State == StateSeeding
			}
			if done {
				break
			}
		}
		for i, n := range nodes {
			n.waitComplete(time.Second)
			if len(met[i]) < 8 {
				t.Errorf("node %d met %d others, want most of 11", i, len(met[i]))
			}
		}
	})
}

// Whoever turns peer exchange off is told of nobody, and tells nobody.
func TestNoPEX(t *testing.T) {
	for name, off := range map[string]bool{"on": false, "off": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				middle := w.start(with(func(cfg *Config) { cfg.NoPEX = off }))
				a, b := w.start(), w.start()
				a.tor.AddPeers(middle.addr)
				b.tor.AddPeers(middle.addr)
				tell(t, w.raw(middle), global(1))
				time.Sleep(3 * time.Minute)
				want := map[bool]int{false: 2, true: 1}[off]
				if x, y := len(a.tor.Peers()), len(b.tor.Peers()); x != want || y != want {
					t.Errorf("%d and %d sessions, want %d", x, y, want)
				}
				if got := len(middle.dialled()); off && got != 0 {
					t.Errorf("%d dials of whom a peer told", got)
				}
			})
		})
	}
}

// What peers are told: where others listen, and how, and not themselves.
func TestPEXMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		at := make(chan *rawpeer.Peer, 1)
		reachable := w.listenRaw(func(p *rawpeer.Peer) { at <- p; staying(p) })
		n.tor.AddPeers(reachable)
		<-at
		listener := w.raw(n) // tells us where it listens
		if err := listener.Exchange(ltep.Exchange{Port: 7777}); err != nil {
			t.Fatal(err)
		}
		go staying(listener)
		go staying(w.raw(n)) // does not
		time.Sleep(time.Second)
		p := w.raw(n)
		if err := p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NamePEX, ID: 9}}, Port: 5555}); err != nil {
			t.Fatal(err)
		}
		next := func() (got ltep.PEX) {
			t.Helper()
			if err := p.Until(func(m wire.Message) bool {
				if e, ok := m.(*wire.Extended); ok && e.ID == 9 {
					var err error
					if got, err = ltep.ParsePEX(e.Payload); err != nil {
						t.Error(err)
					}
					return true
				}
				return false
			}); err != nil {
				t.Fatal(err)
			}
			return got
		}
		got, at1 := next(), time.Now()
		want := map[netip.AddrPort]ltep.PEXFlags{reachable: ltep.PEXReachable, netip.AddrPortFrom(listener.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr(), 7777): 0}
		if len(got.Added) != len(want) {
			t.Fatalf("told of %v, want %v", got.Added, want)
		}
		for _, a := range got.Added {
			if f, ok := want[a.Addr]; !ok || f != a.Flags {
				t.Errorf("told of %v, want one of %v", a, want)
			}
		}
		// Who leaves is told, a minute later.
		listener.Close()
		got = next()
		if d := time.Since(at1); d < time.Minute-time.Second || len(got.Added) != 0 || len(got.Dropped) != 1 || got.Dropped[0].Port() != 7777 {
			t.Errorf("after %v told of %+v, want the one that left", d, got)
		}
	})
}

// A private torrent offers no peer exchange, hears none, and takes peers from trackers and the user alone (BEP 27).
func TestPrivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		w.makePrivate()
		n := w.start()
		time.Sleep(time.Second)
		if !n.tor.Private() {
			t.Fatal("it is not private")
		}
		p := w.raw(n)
		e, err := p.UntilExchange()
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range e.M {
			if x.Name == ltep.NamePEX {
				t.Errorf("offers %+v", x)
			}
		}
		if err := p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NamePEX, ID: 9}}}); err != nil {
			t.Fatal(err)
		}
		other := w.raw(n) // somebody to tell of
		if err := other.Exchange(ltep.Exchange{Port: 7777}); err != nil {
			t.Fatal(err)
		}
		go staying(other)
		n.tor.AddPeers(w.start(seeding).addr)
		tell(t, p, w.addr())
		for o, want := range map[dialguard.Origin]int{dialguard.Peer: 0, dialguard.DHT: 0, dialguard.Local: 0, dialguard.Tracker: 1, dialguard.Link: 1} {
			a := global(100 + int(o))
			n.tor.Learn(dialguard.Source{Origin: o}, netpolicy.Loopback, a)
			time.Sleep(5 * time.Second)
			if got := n.dialsTo(func(b netip.Addr) bool { return a.Addr() == b }); got != want {
				t.Errorf("named by %v: %d dials, want %d", o, got, want)
			}
		}
		if got := n.dialsTo(func(a netip.Addr) bool { return a == netip.AddrFrom4([4]byte{10, 0, 0, w.hosts}) }); got != 0 {
			t.Error("it dials whom a peer tells of")
		}
		if err := p.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := p.Until(func(m wire.Message) bool {
			x, ok := m.(*wire.Extended)
			return ok && x.ID == 9
		}); err == nil {
			t.Error("it tells of peers")
		}
	})
}

// Once metadata from peers says that the torrent is private, what came from elsewhere is dropped: addresses, sessions, and the offer to exchange more.
func TestTurnsOutPrivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		w.makePrivate()
		n := w.start(magnet)
		ended := make(chan struct{})
		byDHT := w.listenRaw(func(p *rawpeer.Peer) { staying(p); close(ended) })
		n.tor.Learn(dialguard.Source{Origin: dialguard.DHT}, netpolicy.Private, byDHT)
		n.tor.Learn(dialguard.Source{Origin: dialguard.Tracker}, netpolicy.Private, w.listenRaw(staying))
		p := w.raw(n)
		if e, err := p.UntilExchange(); err != nil || !offers(e, ltep.NamePEX) {
			t.Fatalf("no peer exchange while nobody knows: %+v, %v", e, err)
		}
		many := make([]netip.AddrPort, 100)
		for i := range many {
			many[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 1)
		}
		tell(t, p, many...)
		time.Sleep(2 * time.Minute) // some are dialled, most wait
		if ps := n.tor.Peers(); len(ps) != 3 {
			t.Fatalf("%d sessions, want 3", len(ps))
		}
		n.tor.AddPeers(w.start(seeding).addr)
		e, err := p.UntilExchange()
		if err != nil || offers(e, ltep.NamePEX) {
			t.Errorf("the exchange of a private torrent: %+v, %v", e, err)
		}
		<-ended
		n.waitComplete(time.Minute)
		n.tor.do(func() {
			for _, c := range n.tor.candidates {
				if !n.tor.mayLearnFrom(c.source.Origin) {
					t.Errorf("%v is still known, from %v", c.addr, c.source.Origin)
				}
			}
			if got := n.tor.pool.Len(); got != 0 {
				t.Errorf("%d addresses still wait", got)
			}
		})
		before := len(n.dialled())
		tell(t, p, w.addr())
		time.Sleep(time.Minute)
		if got := len(n.dialled()); got != before {
			t.Errorf("%d more dials", got-before)
		}
	})
}

func offers(e ltep.Exchange, name string) bool {
	for _, x := range e.M {
		if x.Name == name && x.ID != 0 {
			return true
		}
	}
	return false
}

// Fifty peers that name 10,000 addresses of one host between them do not make us flood it, nor does one that names many hosts make us dial them all.
func TestPEXFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		victim := netip.AddrFrom4([4]byte{9, 9, 9, 9})
		const peers, each = 50, 100
		for i := range peers {
			p := w.rawFrom(n, global(i))
			go staying(p)
			go func() {
				for round := range 2 {
					var list []netip.AddrPort
					for k := range each {
						list = append(list, netip.AddrPortFrom(victim, uint16(1+(i*2+round)*each+k)))
					}
					tell(t, p, list...)
					time.Sleep(time.Minute)
				}
			}()
		}
		time.Sleep(30 * time.Minute)
		var at []time.Time
		for _, d := range n.dialled() {
			if d.to.Addr() == victim {
				at = append(at, d.at)
			}
		}
		for i := dialguard.DialsPerTarget; i < len(at); i++ {
			if gap := at[i].Sub(at[i-dialguard.DialsPerTarget]); gap < dialguard.TargetWindow {
				t.Fatalf("%d dials of one host within %v", dialguard.DialsPerTarget+1, gap)
			}
		}
		if len(at) < dialguard.DialsPerTarget {
			t.Errorf("%d dials: the test shows nothing", len(at))
		}
		t.Logf("%d addresses of one host were named, %d dials in 30 minutes", peers*2*each, len(at))
		n.tor.do(func() {
			if l := n.tor.learned; l > maxLearned || l != len(n.tor.candidates) || n.tor.pool.Len() > dialguard.MaxPool {
				t.Errorf("%d are known, %d wait", l, n.tor.pool.Len())
			}
		})
	})
}

func TestPEXFloodOfHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		p := w.rawFrom(n, global(1))
		go staying(p)
		for round := range 10 {
			var list []netip.AddrPort
			for k := range 100 {
				list = append(list, global(1000+round*100+k))
			}
			tell(t, p, list...)
			time.Sleep(time.Minute)
		}
		dials := n.dialled()
		for i := dialguard.DialsPerMinute; i < len(dials); i++ {
			if gap := dials[i].at.Sub(dials[i-dialguard.DialsPerMinute].at); gap < time.Minute {
				t.Fatalf("%d dials on one peer's word within %v", dialguard.DialsPerMinute+1, gap)
			}
		}
		if len(dials) < 5*dialguard.DialsPerMinute {
			t.Errorf("%d dials: the test shows nothing", len(dials))
		}
	})
}

// A peer names nobody who is more local than itself, unless the user allowed the network.
func TestPEXPolicy(t *testing.T) {
	named := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("10.7.0.1:1"), netip.MustParseAddrPort("192.168.7.1:1"),
		netip.MustParseAddrPort("169.254.0.7:1"), netip.MustParseAddrPort("9.7.0.1:1"), netip.MustParseAddrPort("[::1]:1"), netip.MustParseAddrPort("[fd00::7]:1"),
		netip.MustParseAddrPort("224.0.0.1:1")}
	for name, tt := range map[string]struct {
		from  string
		allow []netip.Prefix
		want  []string
	}{
		"global":               {"9.1.1.1:5", nil, []string{"9.7.0.1"}},
		"private":              {"10.1.1.1:5", nil, []string{"9.7.0.1", "10.7.0.1", "192.168.7.1", "fd00::7"}},
		"loopback":             {"127.0.0.1:5", nil, []string{"9.7.0.1", "10.7.0.1", "192.168.7.1", "fd00::7", "127.0.0.1", "169.254.0.7", "::1"}},
		"global, some allowed": {"9.1.1.1:5", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, []string{"9.7.0.1", "10.7.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				n := w.start(with(func(cfg *Config) { cfg.Policy.Allow = tt.allow }))
				p := w.rawFrom(n, netip.MustParseAddrPort(tt.from))
				tell(t, p, named...)
				time.Sleep(5 * time.Second)
				got := map[string]bool{}
				for _, d := range n.dialled() {
					got[d.to.Addr().String()] = true
				}
				if len(got) != len(tt.want) {
					t.Errorf("dialled %v, want %v", got, tt.want)
				}
				for _, a := range tt.want {
					if !got[a] {
						t.Errorf("%s was not dialled", a)
					}
				}
			})
		})
	}
}

// Where nobody is, what others name is dialled less and less often and then forgotten; being named again changes nothing.
func TestLearnedAddressesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		nobody := w.addr()
		for range 120 {
			n.tor.Learn(dialguard.Source{Origin: dialguard.Tracker, Name: "x"}, netpolicy.Private, nobody)
			time.Sleep(time.Minute)
		}
		dials := n.dialled()
		for i := 1; i < len(dials); i++ {
			if gap, want := dials[i].at.Sub(dials[i-1].at), min(dialguard.FirstRetry<<(i-1), dialguard.LastRetry); gap < want {
				t.Errorf("dial %d came %v after the one before, want %v at least", i, gap, want)
			}
		}
		if len(dials) < hopeless || len(dials) > hopeless+4 {
			t.Errorf("%d dials in two hours, want %d and one each half hour", len(dials), hopeless)
		}
		n.tor.do(func() {
			if len(n.tor.candidates) != 0 || n.tor.learned != 0 || n.tor.pool.Len() != 0 {
				t.Errorf("%d are known, %d wait", len(n.tor.candidates), n.tor.pool.Len())
			}
		})
		if got := n.count(EventDialFailed); got != 0 {
			t.Errorf("%d failures were reported, of an address that nobody waits for", got)
		}
		n.tor.AddPeers(nobody) // the user's word
		time.Sleep(time.Minute)
		if got := len(n.dialled()) - len(dials); got < 4 {
			t.Errorf("%d dials on the user's word within a minute", got)
		}
	})
}

// A host has so many sessions with a torrent.
func TestSessionsPerHost(t *testing.T) {
	for name, tt := range map[string]struct {
		from netip.AddrPort
		want int
	}{"global": {global(1), 4}, "near": {netip.MustParseAddrPort("10.9.9.9:1"), 7}, "IPv6": {netip.MustParseAddrPort("[2a00::1]:1"), 4}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				n := w.start(with(func(cfg *Config) { cfg.MaxPerAddress, cfg.MaxPerNear = 4, 7 }))
				var ps []*rawpeer.Peer
				refused := 0
				connect := func(id byte) {
					from := tt.from.Addr()
					if from.Is6() { // within one network of 64 bits
						b := from.As16()
						b[12] = id
						from = netip.AddrFrom16(b)
					}
					nc, err := w.net.Dial(context.Background(), netip.AddrPortFrom(from, 0), n.addr)
					if err != nil {
						t.Fatal(err)
					}
					p := rawpeer.New(t, nc)
					if _, err := p.Greet(w.ih, [20]byte{id}, rawpeer.LTEP); err != nil {
						refused++
						nc.Close()
						return
					}
					ps = append(ps, p)
					go staying(p)
				}
				for i := range byte(10) {
					connect(i)
				}
				time.Sleep(time.Second)
				if got := len(n.tor.Peers()); got != tt.want || refused != 10-tt.want {
					t.Errorf("%d sessions and %d refused, want %d", got, refused, tt.want)
				}
				ps[0].Close()
				time.Sleep(2 * time.Second)
				connect(99)
				time.Sleep(time.Second)
				if got := len(n.tor.Peers()); got != tt.want {
					t.Errorf("%d sessions after one has left and one has come, want %d", got, tt.want)
				}
			})
		})
	}
}

// A full torrent: the idle session of the lowest priority makes room for a peer of a higher one (BEP 40), one at a time.
func TestPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start(with(func(cfg *Config) { cfg.MaxPeers = 5 }))
		rank := func(a netip.AddrPort) uint32 { return dialguard.Priority(n.addr, a) } // as the one that we dial tells us
		var hosts []netip.AddrPort
		for i := range 20 {
			hosts = append(hosts, global(i+1))
		}
		low, high := hosts[0], hosts[0]
		for _, a := range hosts {
			if rank(a) < rank(low) {
				low = a
			}
			if rank(a) > rank(high) {
				high = a
			}
		}
		rest := hosts[:0]
		for _, a := range hosts {
			if a != low && a != high {
				rest = append(rest, a)
			}
		}
		here := func() map[netip.Addr]bool {
			m := map[netip.Addr]bool{}
			for _, p := range n.tor.Peers() {
				m[p.Addr().Addr()] = true
			}
			return m
		}
		for _, a := range rest[:4] {
			go staying(w.rawFrom(n, a))
		}
		wanted := w.start(with(func(cfg *Config) { cfg.NoPEX = true })) // the user's: it stays, whatever its priority
		n.tor.AddPeers(wanted.addr)
		time.Sleep(evictAge / 2)
		if _, err := w.rawFrom(n, high).UntilClosed(time.Second); err != nil {
			t.Error("somebody had to make room who had just come:", err)
		}
		time.Sleep(evictAge)
		lowest := rest[0]
		for _, a := range rest[:4] {
			if rank(a) < rank(lowest) {
				lowest = a
			}
		}
		if _, err := w.rawFrom(n, low).UntilClosed(time.Second); err != nil {
			t.Error("a session made room for one of a lower priority:", err)
		}
		time.Sleep(2 * weighEvery)
		go staying(w.rawFrom(n, high))
		time.Sleep(3 * time.Second)
		now := here()
		if !now[high.Addr()] || now[lowest.Addr()] || !now[wanted.addr.Addr()] || len(now) != 5 {
			t.Errorf("here are %v, want %v in place of %v", now, high, lowest)
		}
		// One at a time, however many knock.
		for _, a := range rest[4:] {
			nc, err := w.net.Dial(t.Context(), netip.AddrPortFrom(a.Addr(), 0), n.addr)
			if err != nil {
				t.Fatal(err)
			}
			p := rawpeer.New(t, nc)
			if _, err := p.Greet(w.ih, peerID(a), rawpeer.LTEP); err == nil {
				go staying(p)
			}
		}
		time.Sleep(time.Second)
		if after := here(); len(after) > 5 || !after[high.Addr()] {
			t.Errorf("here are %v after a rush, before it %v", after, now)
		}
	})
}

// What is of use does not make room.
func TestWhatMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		if _, err := n.hub.Register(messaging.Spec{Name: "x", MaxBytes: 1, Handler: func(context.Context, *messaging.Message) error { return nil }}); err != nil {
			t.Fatal(err)
		}
		p := w.raw(n)
		go staying(p)
		time.Sleep(evictAge + time.Second)
		n.tor.do(func() {
			now := n.tor.cfg.Now()
			for q := range n.tor.peers {
				if !n.tor.spare(q, now) {
					t.Error("one that is of no use is not spare")
				}
				for name, set := range map[string]struct{ on, off func() }{
					"new":          {func() { q.since = now }, func() { q.since = now.Add(-evictAge) }},
					"the user's":   {func() { q.candidate = &candidate{} }, func() { q.candidate = nil }},
					"sending":      {func() { q.up.Add(now, 1<<20) }, func() { q.up = pipeline.Meter{} }},
					"receiving":    {func() { q.pipe.Sent(now, 64); q.pipe.Arrived(now, 1<<20) }, func() { q.pipe = pipeline.Pipeline{} }},
					"unchoked":     {func() { q.unchoked, q.peerInterested = true, true }, func() { q.unchoked, q.peerInterested = false, false }},
					"asked":        {func() { q.pipe.Sent(now, 1) }, func() { q.pipe = pipeline.Pipeline{} }},
					"messages":     {func() { q.shared.Store(&peer.Shared{Plain: map[string]uint8{"x": 1}}) }, func() { q.shared.Store(nil) }},
					"metadata":     {func() { q.meta = &metadataFetch{active: true} }, func() { q.meta = nil }},
					"being judged": {func() { q.rival = q }, func() { q.rival = nil }},
				} {
					set.on()
					if n.tor.spare(q, now.Add(time.Second)) {
						t.Errorf("%s: spare", name)
					}
					set.off()
					if !n.tor.spare(q, now.Add(time.Second)) {
						t.Errorf("not %s any more, and not spare", name)
					}
				}
			}
		})
	})
}

// However many would like to come, not more than one session each ten seconds makes room.
func TestRoomIsMadeSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start()
		const peers = 8
		for i := range peers {
			go staying(w.rawFrom(n, global(i+1)))
		}
		time.Sleep(evictAge + time.Second)
		const span = 45 * time.Second
		for range 10 * int(span/time.Second) {
			n.tor.do(func() { n.tor.makeRoom(global(99), true, n.tor.cfg.Now()) })
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		if gone, want := peers-len(n.tor.Peers()), 1+int(span/makeRoomEvery); gone != want {
			t.Errorf("%d sessions made room in %v, want %d", gone, span, want)
		}
	})
}

// One torrent has so many connections in the opening, whatever there is room for.
func TestHalfOpenOfOneTorrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start(with(func(cfg *Config) { cfg.Shared = NewShared(1000, 0) }))
		for range 100 {
			n.tor.AddPeers(w.listen(mute))
		}
		time.Sleep(5 * time.Second) // none of them has given up
		if got := len(n.dialled()); got != maxOpening {
			t.Errorf("%d connections are being opened, want %d", got, maxOpening)
		}
	})
}

// mute never says a word.
func mute(nc net.Conn, _ netip.AddrPort) {
	var b [1]byte
	for {
		if _, err := nc.Read(b[:]); err != nil {
			return
		}
	}
}

// A torrent that is full still learns of better peers, and dials them.
func TestPriorityOfDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start(with(func(cfg *Config) { cfg.MaxPeers = 3 }))
		for i := range 3 {
			go staying(w.rawFrom(n, global(i+1)))
		}
		time.Sleep(evictAge + time.Second)
		var list []netip.AddrPort
		for i := range 50 {
			list = append(list, global(500+i))
		}
		n.tor.Learn(dialguard.Source{Origin: dialguard.Tracker}, netpolicy.Global, list...)
		time.Sleep(3 * time.Minute)
		ours := netip.AddrPortFrom(netip.IPv4Unspecified(), 6881)
		worst := dialguard.Priority(ours, global(1))
		for i := range 3 {
			worst = min(worst, dialguard.Priority(ours, global(i+1)))
		}
		dials := n.dialled()
		if len(dials) == 0 {
			t.Fatal("nobody was dialled")
		}
		if p := dialguard.Priority(ours, dials[0].to); p <= worst {
			t.Errorf("the first that was dialled has priority %#x, the worst session had %#x", p, worst)
		}
	})
}

// Strangers that fill a torrent and are of no use do not keep it from dialling whom the user names.
func TestUserComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start(with(func(cfg *Config) { cfg.MaxPeers = 3 }))
		for i := range 3 {
			go staying(w.rawFrom(n, global(i+1)))
		}
		time.Sleep(evictAge / 2)
		n.tor.AddPeers(w.start(seeding).addr)
		n.waitComplete(evictAge)
		if got := len(n.tor.Peers()); got > 3 {
			t.Errorf("%d sessions, want no more than 3", got)
		}
	})
}

// Two torrents share the right to open connections: one with many addresses does not keep one with a single address waiting.
func TestHalfOpenIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		shared := NewShared(4, 0)
		use := with(func(cfg *Config) { cfg.Shared = shared })
		greedy, modest := w.start(use), w.start(use)
		var list []netip.AddrPort
		for range 40 {
			list = append(list, w.listen(mute))
		}
		greedy.tor.AddPeers(list...)
		time.Sleep(time.Second)
		if got := len(greedy.dialled()); got != 4 {
			t.Errorf("%d connections are being opened, want 4", got)
		}
		target := w.start(seeding)
		modest.tor.AddPeers(target.addr)
		time.Sleep(peer.InitiatorTimeout + 2*time.Second)
		if len(modest.dialled()) == 0 {
			t.Error("the modest one has not had its turn")
		}
		time.Sleep(5 * time.Minute)
		modest.waitComplete(time.Second)
		most := map[netip.AddrPort]bool{}
		for _, d := range greedy.dialled() {
			most[d.to] = true
		}
		if len(most) != len(list) {
			t.Errorf("%d of %d addresses were tried", len(most), len(list))
		}
		greedy.close()
		modest.close()
		shared.mu.Lock()
		defer shared.mu.Unlock()
		if shared.half != 0 || len(shared.queue) != 0 {
			t.Errorf("%d places are taken and %d wait after the end", shared.half, len(shared.queue))
		}
	})
}

// Turns at opening connections: in order, one each; what is not needed goes on to the next.
func TestTurns(t *testing.T) {
	s := NewShared(2, 0)
	a, b, c := newTurn(), newTurn(), newTurn()
	for i, w := range []*turn{a, a, a, b, c, a} {
		if got := s.take(w); got != (i < 2) {
			t.Fatalf("of two places, number %d is taken: %v", i+1, got)
		}
	}
	woken := func(w *turn) bool {
		select {
		case <-w.wake:
			return true
		default:
			return false
		}
	}
	s.opened(true)
	if !woken(a) || woken(b) || !s.take(a) {
		t.Error("the first in the queue is not the first to get a place")
	}
	if s.take(a) {
		t.Error("it got a place that is not there")
	}
	s.opened(false)
	if !woken(b) || s.take(a) || s.take(c) {
		t.Error("the second in the queue is not the second, or somebody else has its place")
	}
	s.decline(b) // it has nobody to dial after all
	if !woken(c) || !s.take(c) {
		t.Error("what the second does not need is not the third's")
	}
	s.leave(a)
	s.opened(true)
	s.opened(true)
	if s.half != 0 || len(s.queue) != 0 || s.Connections() != 3 {
		t.Errorf("%d places taken, %d wait, %d connections", s.half, len(s.queue), s.Connections())
	}
}

// Strangers that connect leave room for connections that we open.
func TestConnectionsOfOurOwn(t *testing.T) {
	s := NewShared(10, 16)
	n := 0
	for s.Connected() {
		n++
	}
	w := newTurn()
	if n != 14 || !s.take(w) || !s.take(w) || s.take(w) {
		t.Errorf("%d strangers of 16 connections, want 14, and two of ours", n)
	}
}

func TestMaxConnections(t *testing.T) {
	s := NewShared(10, 2)
	w := newTurn()
	if !s.Connected() || !s.take(w) || s.take(w) || s.Connected() {
		t.Error("of two connections, two are not possible, or three are")
	}
	s.opened(false)
	if !s.Connected() {
		t.Error("a dial that failed still counts")
	}
	s.Disconnected()
	s.Disconnected()
	if s.Connections() != 0 {
		t.Errorf("%d connections are left", s.Connections())
	}
}

// A connection that is in its hello when the torrent turns out to be private, with an address that it may not have, does not become a session.
func TestTurnsOutPrivateDuringAHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		w.makePrivate()
		n := w.start(magnet)
		other := w.start(seeding)
		goOn := make(chan struct{})
		slowly := w.listen(func(nc net.Conn, _ netip.AddrPort) { // a peer whose half of the hello comes late
			<-goOn
			_, _ = rawpeer.New(t, nc).Greet(w.ih, bt.PeerID{77}, rawpeer.LTEP)
			_, _ = io.Copy(io.Discard, nc)
			nc.Close()
		})
		n.tor.Learn(dialguard.Source{Origin: dialguard.DHT}, netpolicy.Private, slowly)
		time.Sleep(time.Second)
		if got := n.dialsTo(func(a netip.Addr) bool { return a == slowly.Addr() }); got != 1 {
			t.Fatalf("%d dials, want 1", got)
		}
		n.tor.AddPeers(other.addr)
		if err := n.tor.WaitReady(t.Context()); err != nil || !n.tor.Private() {
			t.Fatalf("private: %v, %v", n.tor.Private(), err)
		}
		close(goOn)
		time.Sleep(time.Second)
		for _, p := range n.tor.Peers() {
			if p.Addr() == slowly {
				t.Error("a private torrent has a session with a peer that the DHT named")
			}
		}
	})
}
