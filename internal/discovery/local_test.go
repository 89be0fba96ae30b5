package discovery

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
)

// socket is a UDP socket on loopback.
func socket(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func addrOf(c net.PacketConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

type found struct {
	hash bt.InfoHash
	addr netip.AddrPort
}

// start runs a Local that hears by receive and tells group.
func start(t *testing.T, port uint16, receive net.PacketConn, group ...netip.AddrPort) (*Local, chan found) {
	t.Helper()
	ch := make(chan found, 10000)
	cfg := Config{Port: port, OnPeer: func(h bt.InfoHash, a netip.AddrPort) { ch <- found{h, a} }}
	for i, g := range group {
		if i == 0 {
			cfg.Endpoints = append(cfg.Endpoints, Endpoint{receive, receive, g})
		} else {
			c := socket(t)
			cfg.Endpoints = append(cfg.Endpoints, Endpoint{c, c, g})
		}
	}
	l, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, ch
}

func receive(t *testing.T, ch chan found) found {
	t.Helper()
	select {
	case f := <-ch:
		return f
	case <-time.After(10 * time.Second):
		t.Fatal("nobody is found")
		panic("unreachable")
	}
}

// Two that share a torrent find each other; of another torrent they say nothing.
func TestTwoFindEachOther(t *testing.T) {
	a, b := socket(t), socket(t)
	la, fa := start(t, 1001, a, addrOf(b))
	lb, fb := start(t, 1002, b, addrOf(a))
	lb.Add(hash1)
	lb.Add(hash2)
	la.Add(hash1)
	if got := receive(t, fb); got.hash != hash1 || got.addr.String() != "127.0.0.1:1001" {
		t.Errorf("b finds %v", got)
	}
	// What b said came before a cared: it says it again in five minutes, which is too long for a test; it is heard once a cares.
	lb.mu.Lock()
	lb.schedule = Schedule{}
	lb.mu.Unlock()
	lb.Add(hash2)
	lb.Add(hash1)
	if got := receive(t, fa); got.hash != hash1 || got.addr.String() != "127.0.0.1:1002" {
		t.Errorf("a finds %v", got)
	}
	for len(fa) > 0 { // if it was said twice
		if f := <-fa; f.hash != hash1 {
			t.Errorf("a is told of %v", f)
		}
	}
}

// tell sends a datagram to c, and one behind it that is always heard: what came before it has been handled then.
func tell(t *testing.T, from, to *net.UDPConn, text string) {
	t.Helper()
	if _, err := from.WriteTo([]byte(text), to.LocalAddr()); err != nil {
		t.Fatal(err)
	}
}

// Our own announcements come back by multicast and mean nothing; nor do torrents that are not ours, or what cannot be read.
func TestWhatIsNotHeard(t *testing.T) {
	us, them := socket(t), socket(t)
	defer them.Close()
	l, ch := start(t, 1001, us, addrOf(us)) // what it tells comes back
	l.Add(hash1)
	tell(t, them, us, request("port: 7", "infohash: "+hex1, "cookie: "+l.cookie))
	tell(t, them, us, request("port: 7", "infohash: "+hex2))
	tell(t, them, us, "garbage")
	tell(t, them, us, request("port: 7", "infohash: "+hex1, "x: "+string(make([]byte, 2000))))
	tell(t, them, us, request("port: 8", "infohash: "+hex1))
	if got := receive(t, ch); got.addr.Port() != 8 {
		t.Errorf("heard %v", got)
	}
	l.Remove(hash1)
	tell(t, them, us, request("port: 9", "infohash: "+hex1))
	l.Add(hash2)
	tell(t, them, us, request("port: 10", "infohash: "+hex2))
	if got := receive(t, ch); got.addr.Port() != 10 {
		t.Errorf("heard %v", got)
	}
}

// A sender is heard ten times a minute, all of them together three thousand times, and of a network of its own only.
func TestHeardIsBounded(t *testing.T) {
	us, sink := socket(t), socket(t)
	defer sink.Close()
	l, ch := start(t, 1001, us, addrOf(sink)) // what we tell must not count
	l.cfg.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	l.Add(hash1)
	say := []byte(request("port: 7", "infohash: "+hex1))
	count := func(now time.Time, n int, from func(i int) string) int {
		before := len(ch)
		for i := range n {
			l.hear(now, say, netip.MustParseAddr(from(i)))
		}
		return len(ch) - before
	}
	now := time.Now()
	for i, tt := range []struct {
		from string
		want int
	}{
		{"10.0.0.1", 10}, {"10.0.0.2", 10}, {"10.0.0.1", 0}, {"fe80::1", 10}, {"203.0.113.5", 10}, {"203.0.112.5", 0}, {"8.8.8.8", 0}, {"2a00::1", 0}, {"0.0.0.0", 0}, {"224.0.0.1", 0},
	} {
		if got := count(now, 30, func(int) string { return tt.from }); got != tt.want {
			t.Errorf("%d: %s is heard %d times, want %d", i, tt.from, got, tt.want)
		}
	}
	if got := count(now.Add(heardWindow), 1, func(int) string { return "10.0.0.1" }); got != 1 {
		t.Error("not heard in the next minute")
	}
	many := func(i int) string { return fmt.Sprintf("10.1.%d.%d", i>>8, i&255) }
	if got := count(now.Add(3*heardWindow), 5000, many); got != maxHeardAddrs {
		t.Errorf("%d addresses are heard", got)
	}
	l.mu.Lock()
	if len(l.heard) > maxHeardAddrs {
		t.Errorf("%d addresses are kept", len(l.heard))
	}
	l.mu.Unlock()
	got := 0
	for range 9 {
		got += count(now.Add(6*heardWindow), 1000, many)
	}
	if got != heardPerMinuteAll {
		t.Errorf("%d datagrams are heard", got)
	}
}

func TestStartRefuses(t *testing.T) {
	if _, err := Start(Config{}); err == nil {
		t.Error("port 0 is taken")
	}
	if _, err := Open([]net.Interface{{Index: 9999, Name: "nowhere", Flags: net.FlagUp | net.FlagMulticast}}); err == nil {
		t.Error("an interface that does not exist is taken")
	}
}

// A group that cannot be told does not end the others, and a second Close is as good as the first.
func TestCloseAndBadGroup(t *testing.T) {
	a, b := socket(t), socket(t)
	la, _ := start(t, 1001, a, netip.MustParseAddrPort("[::1]:9"), addrOf(b)) // an IPv4 socket cannot tell it
	lb, fb := start(t, 1002, b, addrOf(a))
	lb.Add(hash1)
	la.Add(hash1)
	if got := receive(t, fb); got.addr.Port() != 1001 {
		t.Errorf("found %v", got)
	}
	for range 2 {
		if err := la.Close(); err != nil {
			t.Error(err)
		}
	}
	la.Add(hash2)
}

// Real multicast, where loopback can do it: two programs of one host hear each other.
func TestMulticastOnLoopback(t *testing.T) {
	lo, err := loopback()
	if err != nil {
		t.Skip(err)
	}
	eps := func() []Endpoint {
		e, err := open4(lo)
		if err != nil {
			t.Skipf("no multicast on loopback here: %v", err)
		}
		return []Endpoint{e}
	}
	probe := eps()[0]
	heard := make(chan error, 1)
	go func() {
		if err := probe.Receive.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			heard <- err
			return
		}
		_, _, err := probe.Receive.ReadFrom(make([]byte, 10))
		heard <- err
	}()
	_, werr := probe.Send.WriteTo([]byte("probe"), net.UDPAddrFromAddrPort(probe.Group))
	herr := <-heard
	probe.Receive.Close()
	probe.Send.Close()
	if werr != nil || herr != nil {
		t.Skipf("no multicast on loopback here: %v, %v", werr, herr)
	}
	ch := make(chan found, 100)
	var ls []*Local
	for port := range uint16(2) {
		l, err := Start(Config{Port: 2000 + port, Endpoints: eps(), OnPeer: func(h bt.InfoHash, a netip.AddrPort) { ch <- found{h, a} }})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ls = append(ls, l)
	}
	ls[0].Add(hash1)
	ls[1].Add(hash1) // whichever speaks last is heard by the other
	if got := receive(t, ch); got.hash != hash1 || got.addr.Port() < 2000 || got.addr.Port() > 2001 {
		t.Errorf("found %v", got)
	}
}

func loopback() (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 && i.Flags&net.FlagUp != 0 {
			return &i, nil
		}
	}
	return nil, fmt.Errorf("no loopback interface")
}
