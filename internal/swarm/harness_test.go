package swarm

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"flag"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
)

// world is a torrent and the hosts of a simulated network that take part in it. It lives in a synctest bubble.
type world struct {
	t       *testing.T
	net     *simnet.Network
	seed    uint64
	rng     *rand.Rand
	info    *metainfo.Info
	ih      bt.InfoHash
	v2      metainfo.InfoHashV2 // zero in a v1 torrent; see newWorldV2
	layers  map[[metainfo.TreeHashBytes]byte][]byte
	content []byte
	hosts   byte
}

// slow is a link on which things take time, so that their order is not decided by the scheduler alone.
var slow = simnet.Link{Latency: 5 * time.Millisecond, Rate: 4 << 20, Split: 9000}

// newWorld makes a torrent of random content. A failing test tells the seed of the world.
func newWorld(t *testing.T, total, pieceBytes int64, link simnet.Link) *world {
	t.Helper()
	return newWorldOf(t, rand.Uint64(), total, pieceBytes, link)
}

// newWorldOf is newWorld for a given seed.
func newWorldOf(t *testing.T, seed uint64, total, pieceBytes int64, link simnet.Link) *world {
	t.Helper()
	w := &world{t: t, seed: seed, net: simnet.New(seed, link), rng: rand.New(rand.NewPCG(seed, 1)), content: make([]byte, total)}
	rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8)}).Read(w.content) // never fails
	b := metainfo.Builder{Name: "content", SingleFile: true, Files: []metainfo.File{{Path: []string{"content"}, Length: total}}, PieceLength: pieceBytes}
	for at := int64(0); at < total; at += pieceBytes {
		sum := sha1.Sum(w.content[at:min(at+pieceBytes, total)])
		b.PieceHashes = append(b.PieceHashes, sum[:]...)
	}
	mi, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	w.info, w.ih = mi.Info, mi.InfoHash
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the world's seed was %d", seed)
		}
		if n := w.net.Conns(); n != 0 {
			t.Errorf("%d ends of connections are still open", n)
		}
	})
	return w
}

// addr names a new host.
func (w *world) addr() netip.AddrPort {
	w.hosts++
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, w.hosts}), 6881)
}

func peerID(addr netip.AddrPort) (id bt.PeerID) {
	copy(id[:], "-PY0100-"+addr.String())
	return id
}

// node is one host with a torrent.
type node struct {
	w     *world
	t     *testing.T
	addr  netip.AddrPort
	tor   *Torrent
	hub   *messaging.Hub
	store storage.Storage

	conn   peerconn.Options
	up     *peerconn.Shaper // see uploading and downloading
	down   *peerconn.Shaper
	conns  sync.WaitGroup
	run    sync.WaitGroup
	accept sync.WaitGroup
	ln     net.Listener
	stop   chan struct{}
	closed bool
	only   bt.InfoHash // if set, no other is answered to
	later  []func()    // once the torrent runs

	wrap    func(net.Conn) net.Conn     // if set, comes around what is accepted
	refused func(netip.AddrPort, error) // if set, is told of connections that never had a session

	mu     sync.Mutex
	events []Event
	dials  []dial
	taken  time.Duration // by close
}

type dial struct {
	to netip.AddrPort
	at time.Time
}

var _ peerconn.Host = (*node)(nil)

// testHello is the hello with which all nodes dial: every story of this package can be told over every transport.
var testHello = flag.String("hello", "plaintext", "plaintext, mse or veil: how nodes of tests begin")

// oneHello dials with one hello alone.
type oneHello wire.Hello

func (h oneHello) Steps(time.Time, netip.AddrPort) []wire.Hello     { return []wire.Hello{wire.Hello(h)} }
func (oneHello) Worked(time.Time, netip.AddrPort, wire.Hello)       {}
func (oneHello) Says(_ time.Time, _ netip.AddrPort, takesVeil bool) {}

// helloOf returns the hellos of testHello; nil for plaintext.
func helloOf(name string) Hellos {
	switch name {
	case wire.HelloMSE.String():
		return oneHello(wire.HelloMSE)
	case wire.HelloVeil.String():
		return oneHello(wire.HelloVeil)
	}
	return nil
}

func (n *node) secrets() []veil.Secret {
	all := []veil.Secret{veil.Secret(n.w.ih)}
	if !n.w.v2.IsZero() {
		all = append(all, veil.Secret(n.w.v2.Truncated()))
	}
	return all
}

func (n *node) Scan(_ *peerconn.Conn, hello *[veil.HelloBytes]byte) (*veil.Secret, bt.InfoHash, error) {
	all := n.secrets()
	if i := veil.Find(hello[:], all); i >= 0 {
		return &all[i], bt.InfoHash(all[i]), nil
	}
	return nil, bt.InfoHash{}, nil
}

func (n *node) KeyExchange(*peerconn.Conn) error { return nil }

func (n *node) SKEY(hash [20]byte) ([20]byte, bool) {
	for _, s := range n.secrets() {
		if skey := [20]byte(s); mse.Req2(&skey) == hash {
			return skey, true
		}
	}
	return [20]byte{}, false
}

func (n *node) Accept(c *peerconn.Conn, _ wire.Hello, ih bt.InfoHash) (peerconn.Session, peer.Local, error) {
	if ih != n.w.ih && (n.w.v2.IsZero() || ih != n.w.v2.Truncated()) || n.only != (bt.InfoHash{}) && ih != n.only {
		return nil, peer.Local{}, peer.ErrUnknownTorrent
	}
	return n.tor.NewIncoming(c, func() {})
}

func (n *node) Refused(c *peerconn.Conn, err error) {
	if n.refused != nil {
		n.refused(c.Addr(), err)
	}
}

// seeding gives a node the whole content.
func seeding(n *node, cfg *Config) {
	cfg.Complete = true
	if _, err := n.store.WriteAt(n.w.content, 0); err != nil {
		n.t.Fatal(err)
	}
}

// magnet takes the metadata away from a node.
func magnet(_ *node, cfg *Config) { cfg.Info, cfg.Layers = nil, nil }

// start runs a node. The test's end closes it.
func (w *world) start(options ...func(*node, *Config)) *node {
	w.t.Helper()
	n := &node{w: w, t: w.t, addr: w.addr(), stop: make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	timers := peerconn.NewTimers(time.Now)
	n.store = storage.NewMemory(w.info.Geometry)
	n.hub = messaging.NewHub(messaging.Options{QueueBytes: 1 << 20, HandlerTimeout: time.Minute, Requests: wire.DefaultRequests, Logger: log, Changed: func() { n.tor.Announce() }})
	n.conn = peerconn.Options{Host: n, Timers: timers, Group: &n.conns, SendQueueBytes: 1 << 20, Now: time.Now, Drains: new(peerconn.Drains)}
	cfg := Config{InfoHash: w.ih, InfoHashV2: w.v2, Layers: w.layers, PeerID: peerID(n.addr), ClientName: "test", ListenPort: n.addr.Port(), Log: log, Conn: &n.conn, Now: time.Now,
		MaxPeers: 200, UploadSlots: 8, BufferBytes: 8 << 20, Info: w.info, Types: n.hub,
		Open: func(*metainfo.Info) (storage.Storage, error) { return n.store, nil },
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			n.mu.Lock()
			n.dials = append(n.dials, dial{to, time.Now()})
			n.mu.Unlock()
			return w.net.Dial(ctx, netip.AddrPortFrom(n.addr.Addr(), 0), to)
		},
		NewApps: func(p *Peer) Apps { return n.hub.NewPeer(p) },
		Notify: func(e Event) {
			n.mu.Lock()
			n.events = append(n.events, e)
			n.mu.Unlock()
		},
	}
	cfg.Hellos = helloOf(*testHello)
	for _, f := range options {
		f(n, &cfg)
	}
	ln, err := w.net.Listen(n.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	n.ln = ln
	n.tor = Start(cfg)
	n.tor.do(func() { n.tor.rng = rand.New(rand.NewPCG(w.seed, uint64(w.hosts))) })
	n.run.Go(func() { timers.Run(n.stop) })
	n.accept.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			if n.wrap != nil {
				nc = n.wrap(nc)
			}
			peerconn.Start(nc, &n.conn, peer.Config{Role: peer.Responder, PeerID: cfg.PeerID, Reserved: ReservedWith(cfg.OnDHTNode != nil), HelloTimeout: peer.MinHelloTimeout,
				KeepAlive: peer.MinKeepAlive}, &peer.OpeningConfig{Accept: wire.AllHellos}, nil)
		}
	})
	w.t.Cleanup(n.close)
	for _, f := range n.later {
		f()
	}
	return n
}

// close leaves the swarm and waits for everything, as a client does.
func (n *node) close() {
	if n.closed {
		return
	}
	n.closed = true
	n.hub.Close()
	began := time.Now()
	n.tor.Close()
	n.taken = time.Since(began)
	if err := n.hub.Wait(context.Background()); err != nil {
		n.t.Error(err)
	}
	n.ln.Close()
	n.conn.Drains.Close()
	n.accept.Wait() // what was accepted meanwhile is among the connections now
	n.conns.Wait()
	close(n.stop)
	n.run.Wait()
}

// count returns how many events of a kind there were.
func (n *node) count(k EventKind) (c int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Kind == k {
			c++
		}
	}
	return c
}

// dialled returns whom the node has dialled, and when.
func (n *node) dialled() []dial {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dials)
}

// waitComplete waits for the download and compares it.
func (n *node) waitComplete(within time.Duration) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := n.tor.WaitComplete(ctx); err != nil {
		n.t.Fatalf("%v is not complete after %v: %v; %+v", n.addr, within, err, n.tor.Stats())
	}
	got := make([]byte, len(n.w.content))
	if _, err := n.store.ReadAt(got, 0); err != nil {
		n.t.Fatalf("%v: reading back: %v", n.addr, err)
	}
	if !bytes.Equal(got, n.w.content) {
		n.t.Errorf("%v has other content than the seed", n.addr)
	}
}

// raw connects a peer driven by hand from a host of its own. It has greeted.
func (w *world) raw(to *node) *rawpeer.Peer {
	w.t.Helper()
	return w.rawFrom(to, w.addr())
}

// rawFrom is raw for a known host, whose address is its peer ID.
func (w *world) rawFrom(to *node, from netip.AddrPort) *rawpeer.Peer {
	w.t.Helper()
	nc, err := w.net.Dial(context.Background(), netip.AddrPortFrom(from.Addr(), 0), to.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	p := rawpeer.New(w.t, nc)
	if _, err := p.Greet(w.ih, peerID(from), rawpeer.LTEP); err != nil {
		w.t.Fatalf("%v: hello: %v", from, err)
	}
	return p
}

// listenRaw runs f for each connection to a host that is driven by hand, after the hellos.
func (w *world) listenRaw(f func(p *rawpeer.Peer)) netip.AddrPort {
	w.t.Helper()
	return w.listen(func(nc net.Conn, addr netip.AddrPort) {
		p := rawpeer.New(w.t, nc)
		if _, err := p.Greet(w.ih, peerID(addr), rawpeer.LTEP); err == nil {
			f(p)
		}
	})
}

// listen runs f for each connection to a new host, and closes the connection when f returns. Tests with such a host are skipped where nodes dial with another hello than plaintext.
func (w *world) listen(f func(nc net.Conn, addr netip.AddrPort)) netip.AddrPort {
	w.t.Helper()
	if helloOf(*testHello) != nil {
		w.t.Skip("a peer that is driven by hand takes plaintext alone")
	}
	addr := w.addr()
	ln, err := w.net.Listen(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	group.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, nc)
			mu.Unlock()
			group.Go(func() {
				defer nc.Close()
				f(nc, addr)
			})
		}
	})
	w.t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, nc := range conns {
			nc.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return addr
}

// ignoring reads until the connection ends.
func ignoring(p *rawpeer.Peer) { p.Until(func(wire.Message) bool { return false }) }

// wrapped is a storage in which single calls can be made to misbehave.
type wrapped struct {
	storage.Storage
	read     func(p []byte, off int64) error // before reading
	after    func(p []byte, off int64)       // what was read may be changed
	write    func(p []byte, off int64) error
	verified func(i bt.PieceIndex) error
	closes   int
}

func (s *wrapped) ReadAt(p []byte, off int64) (int, error) {
	if s.read != nil {
		if err := s.read(p, off); err != nil {
			return 0, err
		}
	}
	n, err := s.Storage.ReadAt(p, off)
	if s.after != nil {
		s.after(p[:n], off)
	}
	return n, err
}

func (s *wrapped) WriteAt(p []byte, off int64) (int, error) {
	if s.write != nil {
		if err := s.write(p, off); err != nil {
			return 0, err
		}
	}
	return s.Storage.WriteAt(p, off)
}

func (s *wrapped) Verified(i bt.PieceIndex) error {
	if s.verified != nil {
		if err := s.verified(i); err != nil {
			return err
		}
	}
	return s.Storage.Verified(i)
}

func (s *wrapped) Close() error {
	s.closes++
	return s.Storage.Close()
}

// onto puts a wrapper around a node's storage; it comes after seeding.
func onto(s *wrapped) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		s.Storage = n.store
		cfg.Open = func(*metainfo.Info) (storage.Storage, error) { return s, nil }
	}
}

// with changes a node's configuration.
func with(f func(cfg *Config)) func(*node, *Config) { return func(_ *node, cfg *Config) { f(cfg) } }

var errTest = errors.New("as the test wants it")
