package dht

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	peer_store "github.com/anacrolix/dht/v2/peer-store"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/leaktest"
	"github.com/parley-bt/parley/internal/netpolicy"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var someTorrent = bt.InfoHash{1, 2, 3}

func listen(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs a node on loopback that begins with the given ones.
func start(t *testing.T, change func(*Config), first ...*Node) *Node {
	t.Helper()
	cfg := Config{ListenAddr: "127.0.0.1:0"}
	for _, f := range first {
		cfg.Bootstrap = append(cfg.Bootstrap, f.Addrs()[0].String())
	}
	if change != nil {
		change(&cfg)
	}
	n, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// addr and gate are those of a node's only family.
func (n *Node) addr() netip.AddrPort { return n.Addrs()[0] }
func (n *Node) gate() *gate          { return n.families[0].gate }

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func collect(t *testing.T, n *Node, port uint16) (all []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for p, err := range n.Announce(ctx, someTorrent, port) {
		if err != nil {
			t.Fatal(err)
		}
		if p.From.String() != "127.0.0.1" {
			t.Errorf("%v was named by %v", p.Addr, p.From)
		}
		all = append(all, p.Addr.String())
	}
	return all
}

// One announces, and another finds it, through nodes in between.
func TestAnnounceAndFind(t *testing.T) {
	nodes := []*Node{start(t, nil)}
	for range 7 {
		nodes = append(nodes, start(t, nil, nodes[0]))
	}
	a, b := nodes[1], nodes[7]
	for i, n := range nodes {
		eventually(t, fmt.Sprintf("node %d knows others", i), func() bool { return len(n.Nodes()) > 0 })
	}
	if got := collect(t, a, 7001); len(got) != 0 {
		t.Errorf("a finds %v before anybody was there", got)
	}
	eventually(t, "b finds a", func() bool {
		got := collect(t, b, 0)
		return len(got) == 1 && got[0] == "127.0.0.1:7001"
	})
	// Who asks and never answers finds it too.
	c := start(t, func(cfg *Config) { cfg.ReadOnly = true }, nodes[0])
	eventually(t, "c knows others", func() bool { return len(c.Nodes()) > 0 })
	eventually(t, "c finds a", func() bool { return len(collect(t, c, 0)) == 1 })
	for _, n := range nodes {
		for _, known := range n.Nodes() {
			if known == c.addr() {
				t.Errorf("the read-only node is in a table")
			}
		}
	}
	// An iterator may be left early.
	for range b.Announce(t.Context(), someTorrent, 0) {
		break
	}
}

// Single datagrams that end a process which runs the library alone, floods and garbage do nothing to the node.
func TestHostileDatagrams(t *testing.T) {
	n := start(t, nil)
	c := listen(t)
	defer c.Close()
	for _, s := range []string{
		"d1:q13:announce_peer1:t2:aa1:y1:qe", "d1:q3:put1:t2:aa1:y1:qe", "d1:q3:get1:t2:aa1:y1:qe", "d", "", "d1:ade1:q4:ping1:t2:aa1:y1:rfe",
		"d1:ad2:id20:" + string(make([]byte, 20)) + "e1:q4:ping1:t2:aa1:y1:qe", strings.Repeat("l", 60_000), strings.Repeat("x", 3000),
	} {
		if _, err := c.WriteTo([]byte(s), n.gate().LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	ping := "d1:ad2:id20:" + idA + "e1:q4:ping1:t2:zz1:y1:qe"
	if _, err := c.WriteTo([]byte(ping), n.gate().LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	got, _, err := c.ReadFrom(b)
	if err != nil || !strings.Contains(string(b[:got]), "1:t2:zz") {
		t.Errorf("answered %q, %v", b[:got], err)
	}
	if d := n.gate().dropped.Load(); d != 9 {
		t.Errorf("%d datagrams were not let through", d)
	}
}

func TestAddNodes(t *testing.T) {
	a, b := start(t, nil), start(t, nil)
	f := b.families[0]
	f.addNode(a.addr(), netpolicy.Global) // may not name loopback
	b.AddNodes(netip.MustParseAddrPort("[::1]:1"), netip.AddrPort{})
	for _, err := range b.Announce(t.Context(), someTorrent, 0) {
		if !errors.Is(err, ErrNoNodes) {
			t.Errorf("nobody to ask: %v", err)
		}
	}
	b.AddNodes(a.addr())
	eventually(t, "b knows a", func() bool { n := b.Nodes(); return len(n) == 1 && n[0] == a.addr() })

	// A peer may name its own host, wherever that is.
	c := start(t, func(cfg *Config) { cfg.ReadOnly = true })
	c.LearnNode(netip.AddrPort{})
	c.LearnNode(netip.MustParseAddrPort("0.0.0.0:1"))
	c.LearnNode(netip.AddrPortFrom(netip.AddrFrom16(a.addr().Addr().As16()), a.addr().Port()))
	eventually(t, "c knows a", func() bool { n := c.Nodes(); return len(n) == 1 && n[0] == a.addr() })
	if a.Port() != a.addr().Port() || c.Port() != 0 {
		t.Errorf("peers are told of %d and %d", a.Port(), c.Port())
	}
}

// A node of two families has one port, and asks in each.
func TestTwoFamilies(t *testing.T) {
	cfg := func(c *Config) { c.ListenAddr = ":0" }
	a := start(t, cfg)
	if len(a.Addrs()) < 2 {
		t.Skip("this system has no IPv6")
	}
	if p, q := a.Addrs()[0], a.Addrs()[1]; p.Port() != q.Port() || !p.Addr().Is4() || !q.Addr().Is6() {
		t.Errorf("%v and %v", p, q)
	}
	at := func(host string) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(host), a.Addrs()[0].Port())
	}
	b := start(t, cfg)
	b.AddNodes(at("::1")) // of one family only
	eventually(t, "b knows a", func() bool { return len(b.Nodes()) == 1 })
	for p, err := range b.Announce(t.Context(), someTorrent, 7001) {
		t.Errorf("found %v, %v", p, err)
	}
	c := start(t, cfg)
	c.AddNodes(at("::1"), at("127.0.0.1"))
	eventually(t, "c knows a twice", func() bool { return len(c.Nodes()) == 2 })
	eventually(t, "c finds b", func() bool {
		for p, err := range c.Announce(t.Context(), someTorrent, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if p.Addr.String() == "[::1]:7001" && p.From.String() == "::1" {
				return true
			}
		}
		return false
	})
}

func TestEnds(t *testing.T) {
	a := start(t, nil)
	b := start(t, nil, a)
	eventually(t, "b knows a", func() bool { return len(b.Nodes()) > 0 })
	silent := listen(t) // a node that is asked and never answers, so that a lookup lasts
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var got error
	for _, err := range b.Announce(ctx, someTorrent, 0) {
		got = err
	}
	if !errors.Is(got, context.Canceled) {
		t.Errorf("a lookup that was cancelled: %v", got)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	b.AddNodes(a.addr())
	for _, err := range b.Announce(t.Context(), someTorrent, 1) {
		if !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("a lookup after the end: %v", err)
		}
	}
	if _, err := startFamily(noUDP{}, Config{}); err == nil {
		t.Error("what is no UDP socket is taken")
	}
	for _, bad := range []string{"nonsense", a.addr().String(), "127.0.0.1:99999"} {
		if n, err := Start(Config{ListenAddr: bad}); err == nil {
			t.Errorf("listens on %s", bad)
			n.Close()
		}
	}
}

type noUDP struct{ net.PacketConn }

func (noUDP) LocalAddr() net.Addr { return &net.UnixAddr{Name: "x", Net: "unixgram"} }

// Neither direction is a flood, and one host does not use up what is others'.
func TestGateBounds(t *testing.T) {
	g := newGate(nil, rules{})
	now := time.Now()
	count := func(at time.Time, n int, sent bool, host func(i int) string) (ok int) {
		for i := range n {
			if g.count(at, netip.MustParseAddr(host(i)), sent) {
				ok++
			}
		}
		return ok
	}
	one := func(int) string { return "9.9.9.9" }
	many := func(i int) string { return fmt.Sprintf("9.8.%d.%d", i>>8, i&255) }
	for _, tt := range []struct {
		name string
		at   time.Time
		n    int
		sent bool
		host func(int) string
		want int
	}{
		{"sent to one", now, 500, true, one, sentPerHost},
		{"sent to another", now, 1, true, many, 1},
		{"read from one", now, 500, false, one, readPerHost},
		{"sent in the next minute", now.Add(window), 500, true, one, sentPerHost},
		{"one IPv6 network", now.Add(window), 500, true, func(i int) string { return fmt.Sprintf("2a00::%x", i) }, sentPerHost},
		{"many hosts", now.Add(2 * window), 10_000, true, many, maxHosts},
		{"this machine", now.Add(2 * window), 10_000, true, func(int) string { return "127.0.0.1" }, 10_000},
		{"read from all", now.Add(3 * window), 30_000, false, func(i int) string { return many(i % 1000) }, readPerMinute},
	} {
		if got := count(tt.at, tt.n, tt.sent, tt.host); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	if len(g.sent) > maxHosts+1 || len(g.read) > maxHosts+1 {
		t.Errorf("%d and %d hosts are kept", len(g.sent), len(g.read))
	}
}

func TestStore(t *testing.T) {
	s := newStore()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.now = func() time.Time { return now }
	add := func(torrent, peer int) {
		s.AddPeer(peer_store.InfoHash{byte(torrent >> 8), byte(torrent)}, krpc.NodeAddr{IP: net.IPv4(9, 1, byte(peer>>8), byte(peer)), Port: 1})
	}
	for i := range 100 {
		add(0, i)
		add(0, i%10)
	}
	if got := len(s.GetPeers(peer_store.InfoHash{})); got != peersPerTorrent {
		t.Errorf("%d peers", got)
	}
	for i := range 3 * maxTorrents {
		add(i, 1)
	}
	if len(s.all) != maxTorrents {
		t.Errorf("%d torrents", len(s.all))
	}
	s.AddPeer(peer_store.InfoHash{}, krpc.NodeAddr{IP: net.IP{1}, Port: 1})
	s.AddPeer(peer_store.InfoHash{}, krpc.NodeAddr{IP: net.IPv4(9, 9, 9, 9), Port: 0})
	now = now.Add(peerExpiry)
	if got := len(s.GetPeers(peer_store.InfoHash{})); got != 0 {
		t.Errorf("%d peers after they have expired", got)
	}
	add(9999, 1)
	if len(s.all) != 1 {
		t.Errorf("%d torrents after they have expired", len(s.all))
	}
}
