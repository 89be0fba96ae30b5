//go:build linux

package interop

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// A tap stands between who dials and who listens, and keeps every byte: what a network can see of a session.
type tap struct {
	t    *testing.T
	addr string // where it listens

	mu    sync.Mutex
	conns []*tapped
}

// tapped is one connection.
type tapped struct {
	mu       sync.Mutex
	from, to []byte // what who dialled, and who was dialled, has said
}

// newTap listens on the host of the address that it leads to.
func newTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(netip.MustParseAddrPort(to).Addr().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	x := &tap{t: t, addr: l.Addr().String()}
	var group sync.WaitGroup
	var open []net.Conn // of x.mu
	closed := false
	t.Cleanup(func() {
		l.Close()
		x.mu.Lock()
		closed = true
		for _, c := range open {
			c.Close()
		}
		x.mu.Unlock()
		group.Wait()
	})
	group.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.DialTimeout("tcp", to, time.Second)
			if err != nil {
				a.Close()
				continue
			}
			c := new(tapped)
			x.mu.Lock()
			x.conns = append(x.conns, c)
			open = append(open, a, b)
			if closed {
				a.Close()
				b.Close()
			}
			x.mu.Unlock()
			group.Go(func() { c.splice(b, a, &c.from) })
			group.Go(func() { c.splice(a, b, &c.to) })
		}
	})
	return x
}

// splice passes on what comes until either end closes.
func (c *tapped) splice(dst, src net.Conn, keep *[]byte) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		c.mu.Lock()
		*keep = append(*keep, buf[:n]...)
		c.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

// seen returns what was said on each connection so far, by who dialled and by who was dialled.
func (x *tap) seen() (all [][2][]byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		c.mu.Lock()
		all = append(all, [2][]byte{c.from[:len(c.from):len(c.from)], c.to[:len(c.to):len(c.to)]})
		c.mu.Unlock()
	}
	return all
}

var plainHello = []byte("\x13BitTorrent protocol")

// begins returns how each connection began on which anything was said: in plaintext, or in another way.
func (x *tap) begins() (plain []bool) {
	for _, s := range x.seen() {
		if len(s[0]) > 0 {
			plain = append(plain, bytes.HasPrefix(s[0], plainHello[:min(len(plainHello), len(s[0]))]))
		}
	}
	return plain
}

// readable returns how many of some samples of a file can be read on the connections, and how many there are.
func (x *tap) readable(c *content) (found, of int) {
	x.t.Helper()
	b, err := os.ReadFile(c.path(x.t))
	if err != nil {
		x.t.Fatal(err)
	}
	all := x.seen()
	for at := 8 << 10; at < len(b)-64; at += len(b) / 16 &^ (16<<10 - 1) { // in the middle of blocks
		of++
		for _, s := range all {
			if bytes.Contains(s[0], b[at:at+64]) || bytes.Contains(s[1], b[at:at+64]) {
				found++
				break
			}
		}
	}
	return found, of
}

// wantSealed fails if anything of the content, or a plaintext hello, could be read; wantOpen if the content could not.
func (x *tap) wantSealed(c *content) {
	x.t.Helper()
	if n, of := x.readable(c); n > 0 {
		x.t.Errorf("%d of %d samples of the content could be read on the way", n, of)
	}
	for i, s := range x.seen() {
		if bytes.Contains(s[0], plainHello) || bytes.Contains(s[1], plainHello) {
			x.t.Errorf("connection %d: a plaintext hello could be read", i)
		}
	}
}

func (x *tap) wantOpen(c *content) {
	x.t.Helper()
	if n, of := x.readable(c); n < of {
		x.t.Errorf("%d of %d samples of the content could be read on the way, want all: the session was not in plaintext", n, of)
	}
}

// sessions collects a torrent's peers as they connect.
type sessions struct {
	t     *testing.T
	tor   *parley.Torrent
	mu    sync.Mutex
	peers []parley.Peer
	fails []string // of dials
	grown chan struct{}
}

func watch(t *testing.T, tor *parley.Torrent) *sessions {
	s := &sessions{t: t, tor: tor, grown: make(chan struct{}, 1)}
	done := make(chan struct{})
	t.Cleanup(func() { <-done }) // t.Context is over by then
	events := tor.Events(t.Context())
	go func() {
		defer close(done)
		for ev := range events {
			s.mu.Lock()
			switch ev.Kind {
			case parley.EventPeerConnected:
				s.peers = append(s.peers, ev.Peer)
			case parley.EventDialFailed:
				s.fails = append(s.fails, fmt.Sprintf("%s %v: %v", ev.Time.Format("05.000"), ev.Addr, ev.Err))
			}
			s.mu.Unlock()
			select {
			case s.grown <- struct{}{}:
			default:
			}
		}
	}()
	return s
}

// infos returns what is known of all that have connected.
func (s *sessions) infos() (all []parley.PeerInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		all = append(all, p.Info())
	}
	return all
}

// failures returns the last dials that came to nothing.
func (s *sessions) failures() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.fails[max(0, len(s.fails)-30):], "\n")
}

// wait waits for n sessions and returns what is known of them.
func (s *sessions) wait(n int) []parley.PeerInfo {
	s.t.Helper()
	for deadline := time.After(patience); ; {
		if all := s.infos(); len(all) >= n {
			return all
		}
		select {
		case <-s.grown:
		case <-deadline:
			s.t.Fatalf("%d sessions after %v, want %d; %+v", len(s.infos()), patience, n, s.tor.Stats())
		}
	}
}

// wantHello waits for a session, and fails unless all there were began with that hello.
func (s *sessions) wantHello(h parley.Hello, incoming bool) {
	s.t.Helper()
	for _, i := range s.wait(1) {
		s.t.Logf("session with %q: hello %v, opened by the peer %t", i.Client, i.Hello, i.Initiator)
		if i.Hello != h || i.Initiator != incoming {
			s.t.Errorf("session with %q: hello %v, opened by the peer %t; want %v, %t", i.Client, i.Hello, i.Initiator, h, incoming)
		}
	}
}
