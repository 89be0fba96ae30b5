package parley_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/metainfo"
)

// turnedAway opens a connection that the client is to end at once, without a byte.
func turnedAway(t *testing.T, h host) {
	t.Helper()
	nc, err := net.Dial("tcp", h.Addr().String())
	if err != nil {
		return // it has been reset already
	}
	defer nc.Close()
	if err := nc.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := nc.Read(make([]byte, 1))
	if n != 0 || err == nil {
		t.Fatal("a byte to somebody who has not said a word")
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Error("it is let in")
	}
}

// Silent strangers at one address hold as many handshakes as one address may have, and no more; who is turned away gets in once there is room.
func TestMaxHandshakesPerAddress(t *testing.T) {
	h := talkers(t, 1, parley.Config{MaxHandshakes: 8, MaxHandshakesPerAddress: 2})[0]
	dial := func() *rawpeer.Peer {
		nc, err := net.Dial("tcp", h.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return rawpeer.New(t, nc)
	}
	first, second := dial(), dial()
	for range 10 { // more than there are handshakes: those who are turned away hold none
		turnedAway(t, h)
	}
	if _, err := first.Greet(h.tor.InfoHash(), bt.PeerID{1}, rawpeer.LTEP); err != nil {
		t.Error("one of the two is turned away:", err)
	}
	third := dial() // the first is a session now, which is no handshake
	turnedAway(t, h)
	for i, p := range []*rawpeer.Peer{second, third} {
		if _, err := p.Greet(h.tor.InfoHash(), bt.PeerID{2, byte(i)}, rawpeer.LTEP); err != nil {
			t.Errorf("number %d is turned away: %v", i+2, err)
		}
	}
	dial().Close() // one that ends in its handshake
	for ctx := within(t, 10*time.Second); ; {
		nc, err := net.Dial("tcp", h.Addr().String())
		if err == nil {
			p := rawpeer.New(t, nc)
			if _, err = p.Greet(h.tor.InfoHash(), bt.PeerID{3}, rawpeer.LTEP); err == nil {
				break
			}
		}
		if ctx.Err() != nil {
			t.Fatal("the free place is not given away")
		}
	}
}

// A torrent has so many sessions with one address; of this machine that only holds if it is asked for.
func TestMaxPerAddress(t *testing.T) {
	for _, tt := range []struct{ max, want int }{{3, 3}, {0, 10}} {
		h := talkers(t, 1, parley.Config{MaxPerAddress: tt.max})[0]
		here := 0
		for i := range byte(10) {
			nc, err := net.Dial("tcp", h.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			p := rawpeer.New(t, nc)
			if _, err := p.Greet(h.tor.InfoHash(), bt.PeerID{i, 1}, rawpeer.LTEP); err != nil {
				continue
			}
			if _, err := p.UntilExchange(); err == nil {
				here++
			}
		}
		if here != tt.want {
			t.Errorf("MaxPerAddress %d: %d sessions, want %d", tt.max, here, tt.want)
		}
	}
}

// Beyond MaxConnections nobody is let in, and nobody dialled.
func TestMaxConnections(t *testing.T) {
	h := talkers(t, 1, parley.Config{MaxConnections: 2})[0]
	a, b := connect(t, h, bt.PeerID{1}), connect(t, h, bt.PeerID{2})
	for _, p := range []*rawpeer.Peer{a, b} {
		if _, err := p.UntilExchange(); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan struct{}, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		accepted <- struct{}{}
		_, _ = io.Copy(io.Discard, nc) // until it is closed
		nc.Close()
	}()
	h.tor.AddPeers(netip.MustParseAddrPort(ln.Addr().String()))
	turnedAway(t, h)
	select {
	case <-accepted:
		t.Error("it dials although there are as many connections as may be")
	case <-time.After(1500 * time.Millisecond): // longer than a tick
	}
	a.Close()
	select {
	case <-accepted:
	case <-time.After(10 * time.Second):
		t.Error("it does not dial once there is room")
	}
}

// What a link names in a network that the user allowed is dialled on the link's word.
func TestAllowNetworks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	writeFile(t, path, 100_000)
	seed := newClient(t, parley.Config{})
	st := share(t, seed, path)
	m := metainfo.Magnet{InfoHash: st.InfoHash(), Peers: []string{seed.Addr().String()}}
	c := newClient(t, parley.Config{AllowNetworks: []netip.Prefix{netip.PrefixFrom(seed.Addr().Addr(), seed.Addr().Addr().BitLen())}})
	tor, err := c.AddMagnet(m, parley.TorrentOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if got := parley.LinkPeers(m); len(got) != 0 {
		t.Errorf("without leave: %v", got)
	}
}

// Three clients of which two know only the third: they find each other.
func TestPeerExchange(t *testing.T) {
	hosts := talkers(t, 3, parley.Config{})
	for ctx := within(t, 30*time.Second); hosts[1].tor.Stats().Peers != 2 || hosts[2].tor.Stats().Peers != 2; {
		select {
		case <-ctx.Done():
			t.Fatal("they do not find each other")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Strangers that connect and say nothing take the places of the handshake; whoever waits behind them gets a turn when they go.
func TestMaxHandshakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	writeFile(t, path, 100_000)
	seed := newClient(t, parley.Config{MaxHandshakes: 4})
	tor := share(t, seed, path)
	var strangers []net.Conn
	for range 4 {
		nc, err := net.Dial("tcp", seed.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		strangers = append(strangers, nc)
	}
	leech := newClient(t, parley.Config{})
	lt, err := leech.AddTorrent(tor.Metainfo(), parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{seed.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if n := tor.Stats().Peers; n != 0 {
		t.Errorf("%d peers got in although all places were taken", n)
	}
	for _, nc := range strangers {
		nc.Close()
	}
	if err := lt.WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Errorf("%v; %+v", err, lt.Stats())
	}
}
