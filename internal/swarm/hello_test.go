package swarm

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// Short names of the hellos.
const (
	plain  = wire.HelloPlaintext
	byMSE  = wire.HelloMSE
	byVeil = wire.HelloVeil
)

// notedHellos is a ladder that is the same everywhere, and notes what it is told.
type notedHellos struct {
	steps []wire.Hello

	mu     sync.Mutex
	asked  int
	worked []wire.Hello
	says   map[netip.AddrPort]bool
}

func (h *notedHellos) Steps(time.Time, netip.AddrPort) []wire.Hello {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	return h.steps
}

func (h *notedHellos) Worked(_ time.Time, _ netip.AddrPort, hello wire.Hello) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.worked = append(h.worked, hello)
}

func (h *notedHellos) Says(_ time.Time, a netip.AddrPort, veil bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.says == nil {
		h.says = make(map[netip.AddrPort]bool)
	}
	h.says[a] = veil
}

// awaitLadders waits until so many ladders have begun, and then for the last of them to come to its end, but not for another.
func (h *notedHellos) awaitLadders(n int) {
	for range 100 {
		h.mu.Lock()
		begun := h.asked >= n
		h.mu.Unlock()
		if begun {
			break
		}
		time.Sleep(firstRetry / 10)
	}
	time.Sleep(firstRetry / 2)
}

func (h *notedHellos) use(_ *node, cfg *Config) { cfg.Hellos = h }

// attempt is one connection that came to a host that is driven by hand.
type attempt struct {
	hello wire.Hello
	from  string
	iv    [veil.IVBytes]byte // or what else came first
	after time.Duration
}

// rungs is a host that takes one hello, and notes which come.
type rungs struct {
	w     *world
	addr  netip.AddrPort
	takes wire.Hello // in plaintext or none
	mute  bool       // does not close what it does not take
	half  bool       // answers MSE with a key
	began time.Time

	mu   sync.Mutex
	came []attempt
}

func (w *world) rungs(takes wire.Hello) *rungs {
	r := &rungs{w: w, takes: takes, began: time.Now()}
	r.addr = w.listen(r.accept)
	return r
}

func (r *rungs) accept(nc net.Conn, addr netip.AddrPort) {
	var first [veil.HelloBytes]byte
	if _, err := io.ReadFull(nc, first[:20]); err != nil {
		return
	}
	a := attempt{from: nc.RemoteAddr().String(), hello: plain, after: time.Since(r.began)}
	if _, _, err := classic.ParseHello(first[:20]); err != nil {
		if _, err := io.ReadFull(nc, first[20:]); err != nil {
			return
		}
		if a.hello = byMSE; veil.Find(first[:], []veil.Secret{veil.Secret(r.w.ih)}) >= 0 {
			a.hello = byVeil
		}
		a.iv = [veil.IVBytes]byte(first[:])
	}
	r.mu.Lock()
	r.came = append(r.came, a)
	r.mu.Unlock()
	if r.half && a.hello == byMSE {
		if _, err := nc.Write(first[:]); err != nil { // as good as any
			return
		}
	}
	switch {
	case a.hello == r.takes:
		hello := classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: r.w.ih, PeerID: peerID(addr)})
		if _, err := nc.Write(hello); err != nil {
			return
		}
		fallthrough
	case r.mute:
		io.Copy(io.Discard, nc)
	}
}

// hellos returns which hellos have come, each by a connection of its own and with a key of its own.
func (r *rungs) hellos() (all []wire.Hello, at []time.Duration) {
	r.w.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	from, ivs := make(map[string]bool), make(map[[veil.IVBytes]byte]bool)
	for _, a := range r.came {
		if from[a.from] || a.hello != plain && ivs[a.iv] {
			r.w.t.Errorf("a connection or a key was used twice: %+v", a)
		}
		from[a.from], ivs[a.iv] = true, true
		all, at = append(all, a.hello), append(at, a.after)
	}
	return all, at
}

// failures returns what was told of dials, as hellos that were tried and that were next.
func (n *node) failures() (all [][2]wire.Hello) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Kind != EventDialFailed {
			continue
		}
		var h *HelloError
		if errors.As(e.Err, &h) {
			if h.Err == nil || errors.Unwrap(e.Err) != h.Err || h.Error() == "" {
				n.t.Errorf("%v, which is for %v", h, h.Err)
			}
			all = append(all, [2]wire.Hello{h.Hello, h.Next})
		} else {
			all = append(all, [2]wire.Hello{})
		}
	}
	return all
}

// EMP/1 section 2: one hello after the other, at once, each by a connection of its own; what worked is remembered, and the next ladder begins at its beginning.
func TestLadder(t *testing.T) {
	down := []wire.Hello{byVeil, byMSE, plain}
	for _, tt := range []struct {
		name   string
		steps  []wire.Hello
		takes  wire.Hello
		failed [][2]wire.Hello
	}{
		{"the last", down, plain, [][2]wire.Hello{{byVeil, byMSE}, {byMSE, plain}}},
		{"the first", []wire.Hello{plain, byMSE}, plain, nil},
		{"none", down, wire.HelloUnknown, [][2]wire.Hello{{byVeil, byMSE}, {byMSE, plain}, {plain, wire.HelloUnknown}}},
		{"none of one", []wire.Hello{byVeil}, wire.HelloUnknown, [][2]wire.Hello{{}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				r := w.rungs(tt.takes)
				hellos := &notedHellos{steps: tt.steps}
				n := w.start(hellos.use)
				n.tor.AddPeers(r.addr)
				time.Sleep(firstRetry / 2)
				want := tt.steps
				if i := slices.Index(tt.steps, tt.takes); i >= 0 {
					want = tt.steps[:i+1]
				}
				if got, at := r.hellos(); !slices.Equal(got, want) {
					t.Errorf("%v came at %v, want %v", got, at, want)
				}
				if got := n.failures(); !slices.Equal(got, tt.failed) {
					t.Errorf("told of %v, want %v", got, tt.failed)
				}
				if tt.takes == plain && !slices.Equal(hellos.worked, []wire.Hello{plain}) || tt.takes != plain && len(hellos.worked) > 0 || hellos.asked != 1 {
					t.Errorf("%v worked, %d ladders", hellos.worked, hellos.asked)
				}
				// The second ladder: after a rest, or once the session has ended.
				w.net.Cut(n.addr.Addr(), r.addr.Addr())
				hellos.awaitLadders(2)
				if got, at := r.hellos(); !slices.Equal(got, append(slices.Clone(want), want...)) || hellos.asked != 2 {
					t.Errorf("%v came at %v in %d ladders, want %v twice", got, at, hellos.asked, want)
				} else if d := at[len(want)] - at[len(want)-1]; d < firstRetry {
					t.Errorf("the second ladder began %v after the first", d)
				}
			})
		})
	}
}

// Where nobody answers, a step takes 8 s.
func TestLadderOfTheMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		r := w.rungs(plain)
		r.mute = true
		hellos := &notedHellos{steps: []wire.Hello{byVeil, byMSE, plain}}
		n := w.start(hellos.use)
		n.tor.AddPeers(r.addr)
		time.Sleep(time.Minute)
		got, at := r.hellos()
		if !slices.Equal(got, hellos.steps) {
			t.Fatalf("%v at %v", got, at)
		}
		for i := range 2 {
			if d := at[i+1] - at[i]; d < peer.FirstAnswerTimeout || d > peer.FirstAnswerTimeout+time.Second/2 {
				t.Errorf("%v after %v, want %v", got[i+1], d, peer.FirstAnswerTimeout)
			}
		}
	})
}

// An MSE hello that came to an end after an answer goes out twice, and nobody is told of the first; one that ran out of time does not.
func TestLadderAfterHalfAnAnswer(t *testing.T) {
	for _, mute := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*piece, piece, slow)
			r := w.rungs(plain)
			r.mute, r.half = mute, true
			n := w.start((&notedHellos{steps: []wire.Hello{byMSE, plain}}).use)
			n.tor.AddPeers(r.addr)
			time.Sleep(peer.InitiatorTimeout + time.Second)
			want := []wire.Hello{byMSE, byMSE, plain}
			if mute {
				want = want[1:]
			}
			if got, at := r.hellos(); !slices.Equal(got, want) {
				t.Errorf("%v at %v, want %v", got, at, want)
			}
			if got := n.failures(); !slices.Equal(got, [][2]wire.Hello{{byMSE, plain}}) {
				t.Errorf("told of %v", got)
			}
		})
	}
}

// Where there is no room for the next step at once, it comes when there is, and the ladder does not begin anew.
func TestLaddersShareTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		shared := NewShared(1, 0)
		var nodes []*node
		var hosts []*rungs
		var all []*notedHellos
		for range 3 {
			hellos := &notedHellos{steps: []wire.Hello{byVeil, byMSE, plain}}
			all, hosts = append(all, hellos), append(hosts, w.rungs(plain))
			nodes = append(nodes, w.start(hellos.use, with(func(cfg *Config) { cfg.Shared = shared })))
		}
		for i, n := range nodes {
			n.tor.Learn(dialguard.Source{Origin: dialguard.Tracker}, netpolicy.Private, hosts[i].addr)
		}
		time.Sleep(5 * time.Second)
		var dials []time.Time
		for i, r := range hosts {
			if got, at := r.hellos(); !slices.Equal(got, all[i].steps) || all[i].asked != 1 {
				t.Errorf("%v at %v in %d ladders", got, at, all[i].asked)
			}
			for _, d := range nodes[i].dialled() {
				dials = append(dials, d.at)
			}
		}
		slices.SortFunc(dials, time.Time.Compare)
		for i := 1; i < len(dials); i++ {
			if dials[i].Sub(dials[i-1]) < slow.Latency {
				t.Errorf("two dials within %v, while one connection may be opened at a time", dials[i].Sub(dials[i-1]))
			}
		}
	})
}

// Where nobody listens, no hello has failed: the next dial begins with the first again. That holds in the middle of a ladder too.
func TestRefusedDialIsNoStep(t *testing.T) {
	for _, once := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*piece, piece, slow)
			r := &rungs{w: w, addr: w.addr(), began: time.Now()}
			if once {
				ln, err := w.net.Listen(r.addr)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					nc, err := ln.Accept()
					ln.Close()
					if err == nil {
						r.accept(nc, r.addr)
						nc.Close()
					}
				}()
			}
			hellos := &notedHellos{steps: []wire.Hello{byVeil, byMSE, plain}}
			n := w.start(hellos.use)
			n.tor.AddPeers(r.addr)
			time.Sleep(firstRetry / 2)
			want := [][2]wire.Hello{{}}
			if once {
				want = [][2]wire.Hello{{byVeil, byMSE}, {}}
			}
			if got := n.failures(); !slices.Equal(got, want) || len(n.dialled()) != len(want) {
				t.Errorf("told of %v after %d dials, want %v", got, len(n.dialled()), want)
			}
			ln, err := w.net.Listen(r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				if nc, err := ln.Accept(); err == nil {
					r.accept(nc, r.addr)
					nc.Close()
				}
			}()
			hellos.awaitLadders(2)
			if got, at := r.hellos(); len(got) == 0 || got[len(got)-1] != byVeil || hellos.asked != 2 {
				t.Errorf("%v at %v, in %d ladders; want the veil first again", got, at, hellos.asked)
			}
			n.close()
		})
	}
}

// A pause, and the end, end a ladder too.
func TestPauseInTheLadder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		r := w.rungs(wire.HelloUnknown)
		r.mute = true
		hellos := &notedHellos{steps: []wire.Hello{byVeil, byMSE, plain}}
		n := w.start(hellos.use)
		n.tor.AddPeers(r.addr)
		time.Sleep(peer.FirstAnswerTimeout + peer.FirstAnswerTimeout/2)
		n.tor.SetPaused(true)
		time.Sleep(time.Minute)
		if got, at := r.hellos(); !slices.Equal(got, hellos.steps[:2]) {
			t.Errorf("%v at %v while it was paused, want two steps before", got, at)
		}
		n.tor.SetPaused(false)
		time.Sleep(peer.FirstAnswerTimeout / 2)
		if got, at := r.hellos(); len(got) != 3 {
			t.Errorf("%v at %v, want another step once it was resumed", got, at)
		}
		n.close()
		if n.taken > time.Second {
			t.Errorf("closing took %v", n.taken)
		}
		time.Sleep(time.Minute)
		if got, at := r.hellos(); len(got) != 3 {
			t.Errorf("%v at %v, the last after the end", got, at)
		}
	})
}

// Each step counts against what may be dialled at one host on the word of strangers.
func TestLadderIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		host := w.addr().Addr()
		var addrs []netip.AddrPort
		for i := range 8 {
			a := netip.AddrPortFrom(host, uint16(7000+i))
			ln, err := w.net.Listen(a)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				for {
					nc, err := ln.Accept()
					if err != nil {
						return
					}
					io.ReadFull(nc, make([]byte, 20))
					nc.Close()
				}
			}()
			addrs = append(addrs, a)
		}
		hellos := &notedHellos{steps: []wire.Hello{byVeil, byMSE, plain}}
		n := w.start(hellos.use)
		n.tor.Learn(dialguard.Source{Origin: dialguard.Tracker}, netpolicy.Private, addrs...)
		time.Sleep(2 * time.Hour)
		dials := n.dialled()
		if len(dials) <= dialguard.DialsPerTarget {
			t.Errorf("%d dials, want more in two hours", len(dials))
		}
		for i := range dials {
			if j := i + dialguard.DialsPerTarget; j < len(dials) && dials[j].at.Sub(dials[i].at) < dialguard.TargetWindow {
				t.Fatalf("%d dials of a host within %v, the bound is %d in %v", dialguard.DialsPerTarget+1, dials[j].at.Sub(dials[i].at), dialguard.DialsPerTarget, dialguard.TargetWindow)
			}
		}
		n.close()
	})
}

// veiledConn is a connection through the streams of a hello.
type veiledConn struct {
	net.Conn
	s           obfs.Streams
	buf         [16 << 10]byte
	plain, rest []byte
}

func (c *veiledConn) Read(p []byte) (int, error) {
	for len(c.plain) == 0 {
		if len(c.rest) == 0 {
			n, err := c.Conn.Read(c.buf[:])
			if err != nil {
				return 0, err
			}
			c.rest = c.buf[:n]
		}
		var err error
		if c.plain, c.rest, err = c.s.Opener.Open(c.rest); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.plain)
	c.plain = c.plain[n:]
	return n, nil
}

func (c *veiledConn) Write(p []byte) (int, error) {
	_, err := c.Conn.Write(c.s.Sealer.Seal(nil, append(make([]byte, obfs.Headroom), p...)))
	return len(p), err
}

// veiled performs a veiled hello by hand.
func veiled(nc net.Conn, h obfs.Handshake) (net.Conn, error) {
	c := &veiledConn{Conn: nc}
	for {
		if _, err := nc.Write(h.AppendOutput(nil)); err != nil {
			return nil, err
		}
		var ok bool
		if c.s, ok = h.Done(); ok {
			return c, nil
		}
		n, err := nc.Read(c.buf[:])
		if err == nil {
			c.rest, err = h.Feed(c.buf[:n])
		}
		if err != nil {
			return nil, err
		}
	}
}

// rawVeiled connects a peer driven by hand by a veiled hello.
func (w *world) rawVeiled(to *node, from netip.AddrPort) *rawpeer.Peer {
	w.t.Helper()
	nc, err := w.net.Dial(context.Background(), netip.AddrPortFrom(from.Addr(), 0), to.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	secret := veil.Secret(w.ih)
	h := new(veil.Initiator)
	if err := h.Init(veil.Config{Rand: rand.Reader}, &secret); err != nil {
		w.t.Fatal(err)
	}
	c, err := veiled(nc, h)
	if err != nil {
		w.t.Fatal(err)
	}
	return rawpeer.New(w.t, c)
}

// listenVeiled is listenRaw for veiled hellos.
func (w *world) listenVeiled(f func(p *rawpeer.Peer)) netip.AddrPort {
	secret := veil.Secret(w.ih)
	return w.listen(func(nc net.Conn, addr netip.AddrPort) {
		var hello [veil.HelloBytes]byte
		if _, err := io.ReadFull(nc, hello[:]); err != nil {
			return
		}
		h := new(veil.Responder)
		if err := h.Open(veil.Config{Rand: rand.Reader}, &hello, &secret); err != nil {
			w.t.Error(err)
			return
		}
		if c, err := veiled(nc, h); err == nil {
			f(rawpeer.New(w.t, c))
		}
	})
}

// introduced is a type exchange as it begins a veiled session.
func introduced(id bt.PeerID) ltep.Exchange {
	o := emp.Offer{Version: 1, Requests: -1, Veil: true, HasPeerID: true, PeerID: id, HasReserved: true, Reserved: rawpeer.LTEP}
	return ltep.Exchange{Port: 4321, EMP: emp.AppendOffer(nil, &o)}
}

// kindsOf reads for a while and returns the kinds of the frames that came, with the extended id of those that have one.
func kindsOf(t *testing.T, p *rawpeer.Peer) (kinds []wire.Kind, exchanges []ltep.Exchange) {
	t.Helper()
	for {
		p.SetReadDeadline(time.Now().Add(2 * time.Second))
		m, err := p.Read()
		if err != nil {
			return kinds, exchanges
		}
		if x, ok := m.(*wire.Extended); ok {
			if e, err := ltep.ParseExchange(x.Payload); x.ID != ltep.ExchangeID || err != nil {
				t.Errorf("an extended frame %d: %v", x.ID, err)
			} else {
				e.M = slices.Clone(e.M)
				exchanges = append(exchanges, e)
			}
		}
		kinds = append(kinds, m.Kind())
	}
}

// EMP/1 sections 6.1 and 6.2: in a veiled session each side's exchange comes before anything else, with what a classic hello would have said; the initiator's before it has the other's.
func TestVeiledExchangeComesFirst(t *testing.T) {
	for _, incoming := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*piece, piece, slow)
			hellos := &notedHellos{steps: []wire.Hello{byVeil}}
			n := w.start(seeding, hellos.use, with(func(cfg *Config) { cfg.TakesVeil = true }))
			var before []wire.Kind
			var p *rawpeer.Peer
			ready, end := make(chan *rawpeer.Peer, 1), make(chan struct{})
			if incoming {
				p = w.rawVeiled(n, w.addr())
			} else {
				n.tor.AddPeers(w.listenVeiled(func(p *rawpeer.Peer) {
					ready <- p
					<-end
				}))
				p = <-ready
			}
			before, said := kindsOf(t, p)
			if want := map[bool]int{true: 0, false: 1}[incoming]; len(before) != want || len(said) != want {
				t.Errorf("%v came before the peer's exchange, want %d exchanges", before, want)
			}
			if err := p.Exchange(introduced(bt.PeerID{'x'})); err != nil {
				t.Fatal(err)
			}
			after, more := kindsOf(t, p)
			all, said := append(before, after...), append(said, more...)
			if len(said) != 1 || len(all) != 2 || all[0] != wire.KindExtended || all[1] != wire.KindHaveAll {
				t.Fatalf("%v came, with %d exchanges; want one exchange, and then a bitfield", all, len(said))
			}
			o, err := emp.ParseOffer(said[0].EMP)
			if err != nil || !o.Veil || !o.HasPeerID || o.PeerID != peerID(n.addr) || !o.HasReserved || !o.Reserved.Fast() || o.Key != nil {
				t.Errorf("%v, %+v", err, o)
			}
			if peers := n.tor.Peers(); len(peers) != 1 || peers[0].Info().Hello != byVeil || peers[0].Info().ID != (bt.PeerID{'x'}) {
				t.Errorf("%d peers", len(peers))
			}
			hellos.mu.Lock()
			if worked := map[bool][]wire.Hello{false: {byVeil}}[incoming]; !slices.Equal(hellos.worked, worked) || len(hellos.says) != 1 {
				t.Errorf("%v worked, want %v; said: %v", hellos.worked, worked, hellos.says)
			}
			hellos.mu.Unlock()
			close(end)
			p.Close()
			n.close()
		})
	}
}

// What a torrent takes may change while a veiled hello is under way, between our exchange and the peer's: it is told of that.
func TestTypesThatComeInAVeiledHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		n := w.start(seeding, (&notedHellos{steps: []wire.Hello{byVeil}}).use)
		ready, end := make(chan *rawpeer.Peer, 1), make(chan struct{})
		n.tor.AddPeers(w.listenVeiled(func(p *rawpeer.Peer) {
			ready <- p
			<-end
		}))
		p := <-ready
		if kinds, said := kindsOf(t, p); len(said) != 1 {
			t.Fatalf("%v came", kinds)
		}
		if _, err := n.hub.Register(messaging.Spec{Name: "x", MaxBytes: 100, Handler: func(context.Context, *messaging.Message) error { return nil }}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := p.Exchange(introduced(bt.PeerID{'x'})); err != nil {
			t.Fatal(err)
		}
		kinds, said := kindsOf(t, p)
		if len(said) != 1 || !slices.ContainsFunc(said[0].M, func(e ltep.Entry) bool { return e.Name == "x" && e.ID != 0 }) {
			t.Errorf("%v came, want an exchange with the type: %+v", kinds, said)
		}
		close(end)
		p.Close()
		n.close()
	})
}

// What peers say of the veil counts for where they listen, and only from those that speak of it.
func TestSaysVeil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		hellos := &notedHellos{steps: []wire.Hello{plain}}
		n := w.start(hellos.use)
		takes := emp.AppendOffer(nil, &emp.Offer{Version: 1, Requests: -1, Veil: true})
		refuses := emp.AppendOffer(nil, &emp.Offer{Version: 1, Requests: -1})
		want := make(map[netip.AddrPort]bool)
		for _, e := range []ltep.Exchange{{Port: 1000, EMP: takes}, {Port: 1001, EMP: refuses}, {EMP: takes}, {Port: 1002}} {
			a := w.addr()
			p := w.rawFrom(n, a)
			if err := p.Exchange(e); err != nil {
				t.Fatal(err)
			}
			if e.Port != 0 && e.EMP != nil {
				want[netip.AddrPortFrom(a.Addr(), e.Port)] = e.Port == 1000
			}
			go ignoring(p)
		}
		a := w.listenRaw(func(p *rawpeer.Peer) {
			if p.Exchange(ltep.Exchange{Port: 9, EMP: takes}) == nil {
				ignoring(p)
			}
		})
		want[a] = true
		n.tor.AddPeers(a)
		time.Sleep(time.Second)
		hellos.mu.Lock()
		defer hellos.mu.Unlock()
		for a, takes := range want {
			if got, there := hellos.says[a]; !there || got != takes {
				t.Errorf("%v says %v (known: %v), want %v", a, got, there, takes)
			}
		}
		if len(hellos.says) != len(want) {
			t.Errorf("%v, want %v", hellos.says, want)
		}
	})
}

// Only who listens and takes veiled hellos says so; what else is in the key stays.
func TestOfferVeil(t *testing.T) {
	for _, tt := range []struct {
		takes, key bool
		port       uint16
		veil       bool
	}{{true, false, 1, true}, {true, true, 1, true}, {true, true, 0, false}, {false, true, 1, false}, {false, false, 1, false}, {true, false, 0, false}} {
		tor := &Torrent{cfg: Config{TakesVeil: tt.takes, ListenPort: tt.port}}
		var key *emp.Offer
		if tt.key {
			key = &emp.Offer{Version: 1, Window: 1 << 20, Requests: 5}
		}
		o := tor.offerVeil(key)
		switch {
		case !tt.veil && !tt.key:
			if o != nil {
				t.Errorf("%+v: %+v, want none", tt, o)
			}
		case o == nil || o.Veil != tt.veil || o.Version != 1:
			t.Errorf("%+v: %+v", tt, o)
		case tt.key && (o.Window != 1<<20 || o.Requests != 5), !tt.key && o.Requests != -1:
			t.Errorf("%+v: %+v", tt, o)
		}
	}
}

// EMP/1 section 7.7: a session with a proved identity is not closed in favour of one without.
func TestProven(t *testing.T) {
	for _, v := range []verdict{keepOld, keepNew, askOld} {
		for _, tt := range []struct {
			old, new, sameAddr bool
			want               verdict
		}{
			{false, false, false, v}, {false, false, true, v}, {true, true, false, v}, {true, true, true, v},
			{true, false, true, keepOld}, {true, false, false, keepOld}, {false, true, true, keepNew}, {false, true, false, keepBoth},
		} {
			if got := proven(v, tt.old, tt.new, tt.sameAddr); got != tt.want {
				t.Errorf("%v, %+v: %v", v, tt, got)
			}
		}
	}
}

// Of two sessions of one peer that with an identity stays: here it is ours that is proved.
func TestProvenSessionStays(t *testing.T) {
	for _, veiledFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*piece, piece, slow)
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			n := w.start(with(func(cfg *Config) { cfg.Identity = key }))
			from := w.addr()
			for i := range 2 {
				if (i == 0) != veiledFirst {
					go ignoring(w.rawFrom(n, from))
				} else {
					p := w.rawVeiled(n, from)
					if err := p.Exchange(introduced(peerID(from))); err != nil {
						t.Fatal(err)
					}
					go ignoring(p)
				}
				time.Sleep(3 * time.Second) // the end of the other takes a second
			}
			if peers := n.tor.Peers(); len(peers) != 1 || peers[0].Info().Hello != byVeil {
				t.Errorf("%d sessions, want the veiled one", len(peers))
			}
		})
	}
}

// Only what may be the hello's fault is tried with another.
func TestHelloFailed(t *testing.T) {
	for _, err := range []error{io.ErrUnexpectedEOF, peer.ErrHandshakeTimeout, peer.ErrBadHello, obfs.ErrHandshake, &peer.ProtocolError{Code: peer.ErrTypeExchangeExpected},
		&peer.ProtocolError{Code: peer.ErrBadTypeExchange}, &peer.ProtocolError{Code: peer.ErrBadHello}} {
		if !helloFailed(err) {
			t.Errorf("%v: want the next hello", err)
		}
	}
	for _, err := range []error{nil, peer.ErrSelfConnection, peer.ErrDuplicatePeer, peer.ErrTooManyConnections, peer.ErrUnknownTorrent, &peer.ProtocolError{Code: peer.ErrBadIdentity},
		&peer.ProtocolError{Code: peer.ErrFrameTooLarge}} {
		if helloFailed(err) {
			t.Errorf("%v: want no other hello", err)
		}
	}
}
