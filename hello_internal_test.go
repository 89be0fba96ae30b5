package parley

import (
	"bytes"
	"crypto/rand"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/ladder"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire/classic"
)

// helloFor makes the first 96 bytes of a veiled hello.
func helloFor(t *testing.T, secret veil.Secret) *[veil.HelloBytes]byte {
	t.Helper()
	var i veil.Initiator
	if err := i.Init(veil.Config{Rand: rand.Reader}, &secret); err != nil {
		t.Fatal(err)
	}
	return (*[veil.HelloBytes]byte)(i.AppendOutput(nil))
}

// checkServed compares what is served with what should be.
func checkServed(t *testing.T, s *served, want map[veil.Secret]bt.InfoHash, all []veil.Secret) {
	t.Helper()
	if s.len() != len(want) || len(s.names) != len(want) || len(s.at) != len(want) {
		t.Fatalf("%d secrets, %d names, %d places; want %d", s.len(), len(s.names), len(s.at), len(want))
	}
	skeys := 0
	for _, secret := range all {
		name, there := want[secret]
		got, gotName := s.find(helloFor(t, secret))
		if (got != nil) != there || there && (*got != secret || gotName != name) {
			t.Fatalf("%x is served as %v: %v; want %v: %v", secret, gotName, got != nil, name, there)
		}
		skey := [20]byte(secret)
		k, ok := s.skey(mse.Req2(&skey))
		if isName := there && bt.InfoHash(secret) == name; ok != isName || ok && k != skey {
			t.Fatalf("%x is an SKEY: %v, want %v", secret, ok, isName)
		} else if isName {
			skeys++
		}
	}
	if len(s.skeys) != skeys {
		t.Fatalf("%d SKEYs, want %d", len(s.skeys), skeys)
	}
}

// In whatever order secrets come and go, each that is there is found under its name, and those that are info-hashes by MSE too.
func TestServed(t *testing.T) {
	seed := mrand.Uint64()
	t.Logf("seed %d", seed)
	rng := mrand.New(mrand.NewPCG(seed, 0))
	var all []veil.Secret
	for i := range 12 {
		all = append(all, veil.Secret{byte(i), 1})
	}
	s, want := newServed(), make(map[veil.Secret]bt.InfoHash)
	checkServed(t, s, want, all)
	for range 300 {
		i := rng.IntN(len(all))
		secret := all[i]
		if rng.IntN(2) == 0 {
			s.remove(secret)
			delete(want, secret)
		} else {
			name := bt.InfoHash(secret)
			if i%3 == 0 { // of a closed swarm
				name[19] = 1
			}
			if _, there := want[secret]; there {
				s.add(secret, bt.InfoHash{99}) // the first stays
			} else {
				s.add(secret, name)
				want[secret] = name
			}
		}
		checkServed(t, s, want, all)
	}
}

// quietClient returns a client that listens on loopback, and what it warns of.
func quietClient(t *testing.T, cfg Config) (*Client, *warnings) {
	t.Helper()
	w := new(warnings)
	cfg.ListenAddr, cfg.Logger = "127.0.0.1:0", slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, w
}

type warnings struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *warnings) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *warnings) has(s string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(w.b.String(), s)
}

// A hybrid torrent is found under both of its info-hashes, one of a closed swarm under its key alone, and neither once it is removed.
func TestServedTorrents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 50_000), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := Create(t.Context(), path, CreateOptions{Form: metainfo.FormHybrid})
	if err != nil {
		t.Fatal(err)
	}
	v1, v2 := veil.Secret(made.InfoHash), veil.Secret(made.InfoHashV2.Truncated())
	key := &[32]byte{1}
	swarmKey := veil.SecretOfSwarmKey(key)
	all := []veil.Secret{v1, v2, swarmKey}
	c, _ := quietClient(t, Config{})
	for _, tt := range []struct {
		key  *[32]byte
		want map[veil.Secret]bt.InfoHash
	}{
		{nil, map[veil.Secret]bt.InfoHash{v1: made.InfoHash, v2: made.InfoHashV2.Truncated()}},
		{key, map[veil.Secret]bt.InfoHash{swarmKey: made.InfoHash}},
	} {
		checkServed(t, c.served, nil, all)
		tor, err := c.AddTorrent(made.MetaInfo, TorrentOptions{Dir: filepath.Dir(path), SwarmKey: tt.key})
		if err != nil {
			t.Fatal(err)
		}
		checkServed(t, c.served, tt.want, all)
		if _, err := c.AddTorrent(made.MetaInfo, TorrentOptions{Dir: filepath.Dir(path)}); err == nil {
			t.Error("added twice")
		}
		checkServed(t, c.served, tt.want, all)
		if err := tor.Close(); err != nil {
			t.Fatal(err)
		}
	}
	checkServed(t, c.served, nil, all)
}

// What is remembered of hellos and cannot be used is warned of, and the client goes on without it; what comes then is saved in its place where that can be.
func TestHellosFile(t *testing.T) {
	const warning = "what hellos worked before is not used"
	at := netip.MustParseAddrPort("192.0.2.1:6881")
	var m ladder.Memory
	m.Worked(time.Now(), at, HelloMSE)
	good := m.Append(nil)
	for _, tt := range []struct {
		name  string
		make  func(path string) error
		warns bool
		knows bool
	}{
		{"none", func(string) error { return nil }, false, false},
		{"good", func(p string) error { return os.WriteFile(p, good, 0o600) }, false, true},
		{"damaged", func(p string) error { return os.WriteFile(p, append(bytes.Clone(good[:len(good)-1]), 'x'), 0o600) }, true, false},
		{"empty", func(p string) error { return os.WriteFile(p, nil, 0o600) }, true, false},
		{"too large", func(p string) error { return os.WriteFile(p, make([]byte, hellosBytes+1), 0o600) }, true, false},
		{"folder", func(p string) error { return os.MkdirAll(filepath.Join(p, "x"), 0o700) }, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state := t.TempDir()
			path := filepath.Join(state, hellosName)
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			c, w := quietClient(t, Config{StateDir: state})
			if got := w.has(warning); got != tt.warns {
				t.Errorf("warned: %v, want %v", got, tt.warns)
			}
			hs := hellosOf{c.ladders, c.ladders.policy}
			if got := hs.Steps(time.Now(), at)[0] == HelloMSE; got != tt.knows {
				t.Errorf("what worked is known: %v, want %v", got, tt.knows)
			}
			c.saveHellos() // nothing is new
			if after, _ := os.ReadFile(path); !bytes.Equal(after, before) {
				t.Error("written without news")
			}
			for i, news := range []func(){func() { hs.Worked(time.Now(), at, HelloVeil) }, func() { hs.Says(time.Now(), at, true) }} {
				news()
				c.saveHellos()
				b, err := os.ReadFile(path)
				if tt.name == "folder" {
					if err == nil || !w.has("what hellos worked is not remembered") {
						t.Errorf("%v; want a warning", err)
					}
					continue
				}
				c.ladders.mu.Lock()
				want := c.ladders.m.Append(nil)
				c.ladders.mu.Unlock()
				if err != nil || !bytes.Equal(b, want) {
					t.Errorf("news %d: %v, and not what is known", i, err)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if c.saveHellos(); exists(path) {
					t.Error("written again without news")
				}
			}
			hs.Worked(time.Now(), at, HelloVeil)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if !exists(path) {
				t.Error("not saved at the end")
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Of a closed swarm nothing but veiled hellos goes out, whatever the client dials with; other torrents are not concerned.
func TestHellosOfSwarmKey(t *testing.T) {
	c, _ := quietClient(t, Config{DialHellos: []Hello{HelloPlaintext}})
	secret := veil.Secret{1}
	for _, tt := range []struct {
		secret *veil.Secret
		want   Hello
	}{{nil, HelloPlaintext}, {&secret, HelloVeil}, {nil, HelloPlaintext}} {
		var cfg swarm.Config
		c.useHellos(&Torrent{secret: tt.secret}, &cfg)
		if steps := cfg.Hellos.Steps(time.Now(), netip.MustParseAddrPort("192.0.2.1:1")); len(steps) != 1 || steps[0] != tt.want || cfg.Secret != tt.secret || !cfg.TakesVeil {
			t.Errorf("%v, secret %v, takes the veil: %v; want %v", steps, cfg.Secret, cfg.TakesVeil, tt.want)
		}
	}
}

// Who dials in plaintext alone gets nothing else, whatever has worked.
func TestPlaintextAlone(t *testing.T) {
	c := &Client{cfg: Config{DialHellos: []Hello{HelloPlaintext}, Logger: discard}}
	l := c.newLadders()
	h := hellosOf{l, l.policy}
	now, at := time.Now(), netip.MustParseAddrPort("192.0.2.1:1")
	h.Worked(now, at, HelloVeil)
	if got := h.Steps(now, at); !slices.Equal(got, []Hello{HelloPlaintext}) {
		t.Errorf("the ladder is %v", got)
	}
}

// BiglyBT asks by the hash of the first piece for what it knows from trackers of its own kind (azmp.md, section 9.4).
func TestServedByFirstPiece(t *testing.T) {
	dir := t.TempDir()
	c, _ := quietClient(t, Config{})
	var tors []*Torrent
	var first [20]byte
	for _, name := range []string{"a", "b"} { // which begin alike
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 50_000), 0o600); err != nil {
			t.Fatal(err)
		}
		tor, err := c.Share(t.Context(), path, TorrentOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := tor.WaitMetadata(t.Context()); err != nil {
			t.Fatal(err)
		}
		tors, first = append(tors, tor), tor.Metainfo().Info.PieceHash(0)
	}
	for i, tor := range tors {
		if k, ok := c.served.skey(mse.Req2(&first)); !ok || k != first {
			t.Errorf("with %d torrents: %x, %v", len(tors)-i, k, ok)
		}
		if err := tor.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := c.served.skey(mse.Req2(&first)); ok || len(c.served.firsts) != 0 {
		t.Error("it is found after the last of them was closed")
	}
	// Nor is a closed swarm found by it.
	tor, err := c.Share(t.Context(), filepath.Join(dir, "a"), TorrentOptions{SwarmKey: &[32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitMetadata(t.Context()); err != nil || len(c.served.firsts) != 0 {
		t.Errorf("%d, %v", len(c.served.firsts), err)
	}
}

// A peer that asks by the hash of the first piece gets the session that its hello asks for.
func TestMSEByFirstPiece(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 50_000), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := quietClient(t, Config{})
	tor, err := c.Share(t.Context(), path, TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitMetadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", c.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var o peer.Opening
	hello := classic.AppendHello(nil, classic.Hello{InfoHash: tor.InfoHash(), PeerID: bt.PeerID{1}})
	if err := o.Init(peer.OpeningConfig{Rand: rand.Reader, Hello: HelloMSE, Secret: veil.Secret(tor.Metainfo().Info.PieceHash(0)), IA: hello}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for o.Step() != peer.OpeningDone {
		if o.Step() == peer.OpeningFailed {
			t.Fatal(o.Err())
		}
		if _, err := nc.Write(o.AppendOutput(nil)); err != nil {
			t.Fatal(err)
		}
		n, err := nc.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		o.Feed(buf[:n])
	}
	_, rest := o.Rest()
	var got []byte
	for {
		plain, _, err := o.Streams().Opener.Open(rest)
		if got = append(got, plain...); err != nil || len(got) >= classic.HelloBytes {
			break
		}
		n, err := nc.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		rest = buf[:n]
	}
	if h, complete, err := classic.ParseHello(got[:min(len(got), classic.HelloBytes)]); err != nil || !complete || h.InfoHash != tor.InfoHash() || h.PeerID != c.PeerID() {
		t.Errorf("the answer is %x (%v)", got, err)
	}
}
