package parley_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
)

// fetch downloads what seed shares to a new folder and returns the first peer that either side has seen.
func fetch(t *testing.T, seeding *parley.Torrent, at netip.AddrPort, cfg parley.Config, o parley.TorrentOptions) (got []byte, up, down parley.PeerInfo) {
	t.Helper()
	c := newClient(t, cfg)
	o.Dir, o.Peers = t.TempDir(), []netip.AddrPort{at}
	tor, err := c.AddTorrent(seeding.Metainfo(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	for p := range tor.Peers() {
		down = p.Info()
	}
	eventually(t, "the seed has its peer", func() bool {
		for p := range seeding.Peers() {
			up = p.Info()
		}
		return !up.Addr.Addr().IsUnspecified() && up.Addr.IsValid()
	})
	if got, err = os.ReadFile(filepath.Join(o.Dir, seeding.Name())); err != nil {
		t.Fatal(err)
	}
	return got, up, down
}

// EMP/1 section 2: every hello carries a whole session, pieces and messages, in its dialect.
func TestHellos(t *testing.T) {
	for _, h := range []parley.Hello{parley.HelloPlaintext, parley.HelloMSE, parley.HelloVeil} {
		for _, emp := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v emp %v", h, emp), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "f")
				want := writeFile(t, path, 3<<20+17)
				s := newClient(t, parley.Config{NoEMP: !emp})
				got, up, down := fetch(t, share(t, s, path), s.Addr(), parley.Config{DialHellos: []parley.Hello{h}, NoEMP: !emp}, parley.TorrentOptions{})
				if !bytes.Equal(got, want) {
					t.Error("the file is another")
				}
				dialect := "ltep"
				if emp || h == parley.HelloVeil {
					dialect = "emp"
				}
				for _, i := range []parley.PeerInfo{up, down} {
					if i.Hello != h || i.Dialect.String() != dialect || i.Client != "Parley "+parley.Version || i.Identity != nil {
						t.Errorf("a session of %v in %v with %q, identity %x; want %v and %s", i.Hello, i.Dialect, i.Client, i.Identity, h, dialect)
					}
				}
				if down.ID != s.PeerID() || !down.Reserved.Fast() {
					t.Errorf("peer ID %v, reserved bits %x", down.ID, down.Reserved)
				}
			})
		}
	}
}

// Each hello that is not accepted fails, and the next of the ladder is tried, whatever is accepted.
func TestLadder(t *testing.T) {
	all := []parley.Hello{parley.HelloPlaintext, parley.HelloMSE, parley.HelloVeil}
	for i, accepted := range all {
		t.Run(accepted.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "f")
			want := writeFile(t, path, 100_000)
			s := newClient(t, parley.Config{AcceptHellos: []parley.Hello{accepted}})
			// What is not accepted is seldom refused, so that a step may take its 8 s: one of them is enough here.
			ladder := []parley.Hello{all[(i+2)%3], accepted}
			got, up, _ := fetch(t, share(t, s, path), s.Addr(), parley.Config{DialHellos: ladder}, parley.TorrentOptions{})
			if !bytes.Equal(got, want) || up.Hello != accepted {
				t.Errorf("a session of %v, want %v", up.Hello, accepted)
			}
		})
	}
}

// A closed swarm (EMP/1 section 3) is there for who has the key, and for nobody else.
func TestSwarmKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	want := writeFile(t, path, 300_000)
	key := new([32]byte(bytes.Repeat([]byte{7}, 32)))
	s := newClient(t, parley.Config{})
	tor, err := s.Share(t.Context(), path, parley.TorrentOptions{SwarmKey: key})
	if err != nil {
		t.Fatal(err)
	}
	got, up, _ := fetch(t, tor, s.Addr(), parley.Config{}, parley.TorrentOptions{SwarmKey: key})
	if !bytes.Equal(got, want) || up.Hello != parley.HelloVeil {
		t.Errorf("a session of %v, want one of the veil", up.Hello)
	}
	nc, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rawpeer.New(t, nc).Greet(tor.InfoHash(), bt.PeerID{1}, rawpeer.LTEP); err == nil {
		t.Error("a stranger got a session by the info-hash in plaintext")
	}
	// The key is all that a veiled hello names, so it names one torrent.
	second := filepath.Join(t.TempDir(), "second")
	writeFile(t, second, 1000)
	if _, err := s.Share(t.Context(), second, parley.TorrentOptions{SwarmKey: key}); !errors.Is(err, parley.ErrSwarmKeyUsed) {
		t.Errorf("a second torrent with the key: %v, want %v", err, parley.ErrSwarmKeyUsed)
	}
	for _, h := range []parley.Hello{parley.HelloMSE, parley.HelloVeil} {
		c := newClient(t, parley.Config{DialHellos: []parley.Hello{h}})
		other, err := c.AddTorrent(tor.Metainfo(), parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{s.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if err := other.WaitComplete(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v without the key: %v", h, err)
		}
		cancel()
	}
}

// EMP/1 section 5.1: who has an identity proves it in veiled sessions, and in no others.
func TestIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	writeFile(t, path, 1000)
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub2, priv2, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []parley.Hello{parley.HelloVeil, parley.HelloMSE} {
		s := newClient(t, parley.Config{Identity: priv})
		_, up, down := fetch(t, share(t, s, path), s.Addr(), parley.Config{DialHellos: []parley.Hello{h}, Identity: priv2}, parley.TorrentOptions{})
		if h == parley.HelloVeil && (!down.Identity.Equal(pub) || !up.Identity.Equal(pub2)) {
			t.Errorf("proven are %x and %x", down.Identity, up.Identity)
		}
		if h == parley.HelloMSE && (down.Identity != nil || up.Identity != nil) {
			t.Errorf("proven in a session of %v: %x and %x", h, down.Identity, up.Identity)
		}
	}
}

// What worked at an address is remembered over a restart, and there is no way back to plaintext where an obfuscated hello has worked, unless that is allowed (EMP/1 section 2).
func TestHellosRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	writeFile(t, path, 1000)
	for _, c := range []struct {
		name  string
		first parley.Hello
		again bool // a downgrade is allowed
	}{{"mse", parley.HelloMSE, false}, {"veil", parley.HelloVeil, false}, {"downgrade", parley.HelloMSE, true}} {
		t.Run(c.name, func(t *testing.T) {
			state := t.TempDir()
			s, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0", AcceptHellos: []parley.Hello{c.first}})
			if err != nil {
				t.Fatal(err)
			}
			at := s.Addr()
			tor := share(t, s, path)
			mi := tor.Metainfo()
			d, err := parley.NewClient(parley.Config{NoListen: true, StateDir: state, DialHellos: []parley.Hello{c.first}})
			if err != nil {
				t.Fatal(err)
			}
			get, err := d.AddTorrent(mi, parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{at}})
			if err != nil {
				t.Fatal(err)
			}
			if err := get.WaitComplete(within(t, 10*time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
			firsts := firstBytes(t, at, 3)
			again := newClient(t, parley.Config{NoListen: true, StateDir: state, AllowDowngrade: c.again})
			if _, err := again.AddTorrent(mi, parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{at}}); err != nil {
				t.Fatal(err)
			}
			plain := false
			for i := range 3 {
				b := receive(t, "a hello", firsts)
				is := bytes.HasPrefix(b, []byte("\x13BitTorrent protocol"))
				if i == 0 && is {
					t.Error("what worked did not go first")
				}
				plain = plain || is
			}
			if plain != c.again {
				t.Errorf("plaintext was tried again: %v, want %v", plain, c.again)
			}
		})
	}
}

// firstBytes listens at an address, and sends the first 20 bytes of each connection, which it then closes.
func firstBytes(t *testing.T, at netip.AddrPort, n int) <-chan []byte {
	t.Helper()
	ln, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c := make(chan []byte, n)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 20)
			if _, err := io.ReadFull(nc, b); err == nil {
				select {
				case c <- b:
				default:
				}
			}
			nc.Close()
		}
	}()
	return c
}

// What is not a hello that is accepted gets no answer that says so, and no torrent is found out.
func TestUnknownHellosDrain(t *testing.T) {
	s := newClient(t, parley.Config{AcceptHellos: []parley.Hello{parley.HelloVeil}})
	path := filepath.Join(t.TempDir(), "f")
	writeFile(t, path, 1000)
	tor := share(t, s, path)
	nc, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	infoHash := tor.InfoHash()
	hello := append([]byte("\x13BitTorrent protocol\x00\x00\x00\x00\x00\x10\x00\x04"), infoHash[:]...)
	if _, err := nc.Write(append(hello, make([]byte, 20)...)); err != nil {
		t.Fatal(err)
	}
	if err := nc.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := nc.Read(make([]byte, 1)); n > 0 || !os.IsTimeout(err) {
		t.Errorf("%d bytes and %v for 68 bytes of a plaintext hello, want silence", n, err)
	}
	if _, err := nc.Write(make([]byte, 28)); err != nil {
		t.Fatal(err)
	}
	if err := nc.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 96)); err != nil {
		t.Errorf("after 96 bytes: %v, want as many random bytes as MSE would send", err)
	}
	eventually(t, "it drains", func() bool { return s.HelloStats().Draining == 1 })
}

func TestHelloConfig(t *testing.T) {
	for name, cfg := range map[string]parley.Config{
		"no hello":    {AcceptHellos: []parley.Hello{9}},
		"twice":       {DialHellos: []parley.Hello{parley.HelloMSE, parley.HelloMSE}},
		"unknown":     {DialHellos: []parley.Hello{0}},
		"MSE":         {MSE: 7},
		"a short key": {Identity: make(ed25519.PrivateKey, 32)},
	} {
		cfg.ListenAddr = "127.0.0.1:0"
		if c, err := parley.NewClient(cfg); err == nil {
			c.Close()
			t.Errorf("%s: no error", name)
		}
	}
	for _, s := range []string{"", "Veil", "rc4"} {
		if h, err := parley.ParseHello(s); err == nil {
			t.Errorf("ParseHello(%q) is %v", s, h)
		}
	}
	if h, err := parley.ParseHello("mse"); h != parley.HelloMSE || err != nil {
		t.Errorf("ParseHello(mse) is %v, %v", h, err)
	}
}

// EMP/1 section 7.7: a veiled hello of our own that comes back to us is found out before anything is answered to it.
func TestVeiledToOurselves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	writeFile(t, path, 1000)
	s := newClient(t, parley.Config{DialHellos: []parley.Hello{parley.HelloVeil}})
	tor := share(t, s, path)
	tor.AddPeers(s.Addr())
	eventually(t, "it is taken for whatever else it could be", func() bool { return s.HelloStats().KeyExchanges.Granted > 0 })
	for range tor.Peers() {
		t.Error("a session with ourselves")
	}
	if st := s.HelloStats(); st.KeyExchanges.Granted != 1 || st.Scans.Granted != 0 {
		t.Errorf("%+v", st)
	}
}
