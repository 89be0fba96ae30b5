//go:build linux

package interop

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// cipher is what a peer is set to do about MSE.
type cipher int

const (
	byDefault      cipher = iota // as the client comes
	forcedRC4                    // MSE or nothing, and RC4 after it
	mseInPlaintext               // MSE or nothing, and plaintext after it, as far as the client can be made to
)

func (c cipher) String() string {
	return [...]string{"default", "forced RC4", "plaintext in MSE"}[c]
}

// msePeer is one of the other clients.
type msePeer struct {
	name string
	// seed has it seed, and returns where it listens.
	seed func(t *testing.T, c *content, torrent string, level cipher) string
	// get has it download from one address, which it dials, and waits for the end.
	get func(t *testing.T, torrent, dir, peer string, level cipher)
	// host is where we listen for it.
	host func(t *testing.T) string
}

func loopback(*testing.T) string { return "127.0.0.1" }

func libtorrentLevel(c cipher) []string {
	switch c {
	case forcedRC4:
		return []string{"--enc", "forced", "--level", "rc4"}
	case mseInPlaintext:
		return []string{"--enc", "forced", "--level", "plaintext"}
	}
	return []string{"--enc", "default"}
}

func aria2Level(c cipher) []string {
	switch c {
	case forcedRC4:
		return []string{"--bt-require-crypto=true", "--bt-min-crypto-level=arc4"}
	case mseInPlaintext: // as responder it takes the least that is offered; as initiator it offers both
		return []string{"--bt-require-crypto=true", "--bt-min-crypto-level=plain"}
	}
	return nil
}

// transmissionLevel: it has no setting for what follows MSE. It offers both with RC4 preferred when it requires MSE, and takes what the other prefers.
func transmissionLevel(c cipher) map[string]any {
	if c == byDefault {
		return map[string]any{"encryption": 1}
	}
	return map[string]any{"encryption": 2}
}

var msePeers = []msePeer{
	{"libtorrent", func(t *testing.T, c *content, torrent string, level cipher) string {
		t.Helper()
		_, addr := libtorrentSeed(t, c, torrent, libtorrentLevel(level)...)
		return addr
	}, func(t *testing.T, torrent, dir, peer string, level cipher) {
		t.Helper()
		p, _ := libtorrent(t, append([]string{"--torrent", torrent, "--dir", dir, "--peer", peer}, libtorrentLevel(level)...)...)
		p.event("complete")
	}, loopback},
	{"aria2", func(t *testing.T, c *content, torrent string, level cipher) string {
		t.Helper()
		return aria2Seed(t, c, torrent, aria2Level(level)...)
	}, func(t *testing.T, torrent, dir, peer string, level cipher) {
		t.Helper()
		aria2Get(t, torrent, dir, peer, aria2Level(level)...)
	}, loopback},
	{"transmission", func(t *testing.T, c *content, torrent string, level cipher) string {
		t.Helper()
		d := newTransmissionWith(t, filepath.Dir(c.path(t)), torrent, transmissionLevel(level))
		d.waitSeeding()
		// It closes what connects while another connection of the same address is in its hello, and it takes a while to see that waitPort's has ended.
		time.Sleep(1500 * time.Millisecond)
		return d.addr
	}, func(t *testing.T, torrent, dir, peer string, level cipher) {
		t.Helper()
		d := newTransmissionWith(t, dir, torrent, transmissionLevel(level))
		d.call("torrent-set", map[string]any{"trackerAdd": []string{tracker(t, peer)}}, nil)
		d.waitSeeding()
	}, ownAddress},
}

// ownAddress returns an address of this machine that is not loopback, which transmission does not dial.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	t.Skip("transmission does not dial loopback, and this machine has no other IPv4 address")
	return ""
}

// mseOnly is a client that knows no other hello.
func mseOnly(methods parley.MSEMethods) parley.Config {
	only := []parley.Hello{parley.HelloMSE}
	return parley.Config{AcceptHellos: only, DialHellos: only, MSE: methods}
}

// weGet downloads from addr by a client of that configuration, through a tap.
func weGet(t *testing.T, cfg parley.Config, c *content, torrent, addr string) (*tap, *sessions) {
	t.Helper()
	dir, x := t.TempDir(), newTap(t, addr)
	from := time.Now()
	tor := add(t, newClientWith(t, cfg), torrent, dir, "")
	s := watch(t, tor)
	tor.AddPeers(netip.MustParseAddrPort(x.addr))
	complete(t, tor)
	logRate(t, c, from)
	wantContent(t, c, dir)
	return x, s
}

// theyGet has a peer download from a client of that configuration, through a tap.
func theyGet(t *testing.T, p msePeer, cfg parley.Config, c *content, torrent string, level cipher) (*tap, *sessions) {
	t.Helper()
	dir := t.TempDir()
	cfg.ListenAddr = p.host(t) + ":0"
	client := newClientWith(t, cfg)
	mi, err := parley.LoadTorrent(torrent)
	if err != nil {
		t.Fatal(err)
	}
	tor, err := client.SeedTorrent(t.Context(), mi, c.path(t), parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	talk(t, tor)
	s, x := watch(t, tor), newTap(t, client.Addr().String())
	from := time.Now()
	p.get(t, torrent, dir, x.addr, level)
	logRate(t, c, from)
	wantContent(t, c, dir)
	return x, s
}

// TestMSEForced: each client takes nothing but MSE with RC4, and so do we; both ways. Nothing of the content can be read on the way.
func TestMSEForced(t *testing.T) {
	t.Parallel()
	for _, p := range msePeers {
		t.Run("parley downloads from "+p.name, func(t *testing.T) {
			t.Parallel()
			torrent := createTorrent(t, single)
			x, s := weGet(t, mseOnly(parley.MSEOnlyRC4), single, torrent, p.seed(t, single, torrent, forcedRC4))
			s.wantHello(parley.HelloMSE, false)
			x.wantSealed(single)
		})
		t.Run(p.name+" downloads from parley", func(t *testing.T) {
			t.Parallel()
			x, s := theyGet(t, p, mseOnly(parley.MSEOnlyRC4), single, createTorrent(t, single), forcedRC4)
			s.wantHello(parley.HelloMSE, true)
			x.wantSealed(single)
		})
	}
}

// TestMSEInPlaintext: the hello is MSE, and what follows is in plaintext where the peer will have it so. What can be read on the way shows which it was.
func TestMSEInPlaintext(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, x *tap, open bool) {
		t.Helper()
		if n := slices.Index(x.begins(), true); n >= 0 {
			t.Errorf("connection %d began with a plaintext hello", n)
		}
		if open {
			x.wantOpen(single)
		} else {
			x.wantSealed(single)
		}
	}
	for _, p := range msePeers {
		if p.name == "transmission" {
			continue // there is no way to make it: that it takes RC4 from who offers both, TestMSERefusesPlaintext shows
		}
		t.Run("parley downloads from "+p.name, func(t *testing.T) {
			t.Parallel()
			torrent := createTorrent(t, single)
			x, s := weGet(t, mseOnly(parley.MSEAny), single, torrent, p.seed(t, single, torrent, mseInPlaintext))
			s.wantHello(parley.HelloMSE, false)
			check(t, x, true)
		})
		t.Run(p.name+" downloads from parley", func(t *testing.T) {
			t.Parallel()
			x, s := theyGet(t, p, mseOnly(parley.MSEAny), single, createTorrent(t, single), mseInPlaintext)
			s.wantHello(parley.HelloMSE, true)
			check(t, x, p.name == "libtorrent") // aria2 offers RC4 too, and then we take that
		})
	}
}

// TestMSERefusesPlaintext: a client that forces MSE does not answer a plaintext hello. Ours by default begins with that, goes on with MSE by another connection, and remembers it: the next time
// it begins with MSE, after a restart too.
func TestMSERefusesPlaintext(t *testing.T) {
	t.Parallel()
	for _, p := range msePeers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			torrent, state := createTorrent(t, single), t.TempDir()
			x := newTap(t, p.seed(t, single, torrent, forcedRC4))
			t.Run("at first", func(t *testing.T) {
				dir := t.TempDir()
				tor := add(t, newClientWith(t, parley.Config{StateDir: state}), torrent, dir, "")
				s := watch(t, tor)
				from := time.Now()
				tor.AddPeers(netip.MustParseAddrPort(x.addr))
				s.wantHello(parley.HelloMSE, false)
				t.Logf("connected after %v", time.Since(from).Round(time.Millisecond))
				complete(t, tor)
				wantContent(t, single, dir)
			})
			if n, of := x.readable(single); n > 0 { // ours would take plaintext after MSE
				t.Errorf("%d of %d samples of the content could be read on the way", n, of)
			}
			first := x.begins()
			if len(first) < 2 || !first[0] || slices.Contains(first[1:], true) {
				t.Errorf("plaintext hellos: %v, want one and then MSE", first)
			}
			t.Run("after a restart", func(t *testing.T) {
				tor := add(t, newClientWith(t, parley.Config{StateDir: state}), torrent, t.TempDir(), "")
				s := watch(t, tor)
				from := time.Now()
				tor.AddPeers(netip.MustParseAddrPort(x.addr))
				s.wantHello(parley.HelloMSE, false)
				t.Logf("connected after %v", time.Since(from).Round(time.Millisecond))
			})
			if then := x.begins()[len(first):]; len(then) == 0 || slices.Contains(then, true) {
				t.Errorf("plaintext hellos after a restart: %v, want MSE alone", then)
			}
		})
	}
}

// TestMSEDefaults: every client as it comes, and ours. All of them dial with MSE first, which we take; we dial in plaintext, which they take. Nobody waits for anything.
func TestMSEDefaults(t *testing.T) {
	t.Parallel()
	const bar = 5 * time.Second
	for _, p := range msePeers {
		if p.name != "transmission" { // TestParleyDownloadsFromTransmission has this
			t.Run("parley downloads from "+p.name, func(t *testing.T) {
				t.Parallel()
				torrent := createTorrent(t, single)
				addr := p.seed(t, single, torrent, byDefault)
				from := time.Now()
				x, s := weGet(t, parley.Config{}, single, torrent, addr)
				if took := time.Since(from); took > bar {
					t.Errorf("took %v, want %v at most", took, bar)
				}
				s.wantHello(parley.HelloPlaintext, false)
				x.wantOpen(single)
			})
		}
		t.Run(p.name+" downloads from parley", func(t *testing.T) {
			t.Parallel()
			from := time.Now()
			x, s := theyGet(t, p, parley.Config{}, single, createTorrent(t, single), byDefault)
			s.wantHello(parley.HelloMSE, true)
			x.wantSealed(single)
			if n := len(x.begins()); n != 1 {
				t.Errorf("%d connections, want one", n)
			}
			if i := s.wait(1)[0]; i.Since.Sub(from) > bar {
				t.Errorf("connected %v after the peer was started, want %v at most", i.Since.Sub(from), bar)
			}
		})
	}
}
