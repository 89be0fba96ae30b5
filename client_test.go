package parley_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/wire"
)

// newClient starts a client on loopback that the test's end closes.
func newClient(t *testing.T, cfg parley.Config) *parley.Client {
	t.Helper()
	if cfg.ListenAddr == "" {
		cfg.ListenAddr = "127.0.0.1:0"
	}
	c, err := parley.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing the client: %v", err)
		}
	})
	return c
}

// writeFile makes a file of n random bytes and returns its content.
func writeFile(t *testing.T, path string, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

func share(t *testing.T, c *parley.Client, path string) *parley.Torrent {
	t.Helper()
	tor, err := c.Share(t.Context(), path, parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tor
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestSeedAndGet(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]int
	}{
		{"one file", map[string]int{"one.bin": 3<<20 + 17}},
		{"exact pieces", map[string]int{"even.bin": 1 << 20}},
		{"one byte", map[string]int{"tiny": 1}},
		{"folder", map[string]int{"f/a.bin": 1 << 20, "f/empty": 0, "f/ünïcödé ☃.txt": 100_000, "f/sub/one": 1, "f/z": 0}},
		{"only empty files", map[string]int{"e/a": 0, "e/b": 0}},
	}
	for _, tt := range tests {
		for _, how := range []string{"torrent", "magnet"} {
			t.Run(tt.name+" by "+how, func(t *testing.T) {
				src, dst := t.TempDir(), t.TempDir()
				want := map[string][]byte{}
				root := ""
				for name, n := range tt.files {
					want[name] = writeFile(t, filepath.Join(src, name), n)
					root = filepath.Join(src, filepath.SplitList(name)[0])
				}
				for len(filepath.Dir(root)) > len(src) {
					root = filepath.Dir(root)
				}
				seed := newClient(t, parley.Config{})
				st := share(t, seed, root)
				leech := newClient(t, parley.Config{})
				o := parley.TorrentOptions{Dir: dst, Peers: []netip.AddrPort{seed.Addr()}}
				var lt *parley.Torrent
				var err error
				if how == "torrent" {
					lt, err = leech.AddTorrent(st.Metainfo(), o)
				} else {
					lt, err = leech.AddMagnet(st.Magnet(), o)
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := lt.WaitComplete(within(t, 20*time.Second)); err != nil {
					t.Fatalf("%v; %+v", err, lt.Stats())
				}
				for name, b := range want {
					got, err := os.ReadFile(filepath.Join(dst, name))
					if err != nil || !bytes.Equal(got, b) {
						t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(b))
					}
				}
				if s := lt.Stats(); s.State != parley.StateSeeding || s.HaveBytes != s.TotalBytes {
					t.Errorf("stats after completion: %+v", s)
				}
			})
		}
	}
}

func TestMessagesBothWays(t *testing.T) {
	t.Run("ltep", func(t *testing.T) { messagesBothWays(t, parley.Config{NoEMP: true}, wire.DialectLTEP) })
	t.Run("emp", func(t *testing.T) { messagesBothWays(t, parley.Config{}, wire.DialectEMP) })
}

func messagesBothWays(t *testing.T, cfg parley.Config, dialect parley.Dialect) {
	path := filepath.Join(t.TempDir(), "talk.txt")
	writeFile(t, path, 1000)
	a := newClient(t, cfg)
	at := share(t, a, path)
	echo, err := at.Register(parley.MessageType{Name: "test_echo", Handler: func(ctx context.Context, m *parley.Message) error {
		return m.Peer.Send(ctx, m.Type, m.Payload)
	}})
	if err != nil {
		t.Fatal(err)
	}
	b := newClient(t, cfg)
	bt, err := b.AddInfoHash(at.InfoHash(), parley.TorrentOptions{NoDownload: true, Peers: []netip.AddrPort{a.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := bt.Register(parley.MessageType{Name: "test_echo"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 20*time.Second)
	var peer parley.Peer
	for e := range bt.Events(ctx) {
		if e.Kind == parley.EventPeerTypes && e.Peer.Shares("test_echo") {
			peer = e.Peer
			break
		}
	}
	if d := peer.Info().Dialect; d != dialect {
		t.Errorf("the dialect is %v, want %v", d, dialect)
	}
	const n = 20_000
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if err := in.Send(ctx, peer, fmt.Appendf(nil, "message %d", i)); err != nil {
				sent <- fmt.Errorf("message %d: %w", i, err)
				return
			}
		}
		sent <- nil
	}()
	got := 0
	for m, err := range in.Messages(ctx) {
		if err != nil {
			t.Fatalf("after %d messages: %v", got, err)
		}
		if want := fmt.Sprintf("message %d", got); string(m.Payload) != want {
			t.Fatalf("got %q, want %q", m.Payload, want)
		}
		if got++; got == n {
			break
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if err := peer.Send(ctx, "nobody_has_this", nil); !errors.Is(err, parley.ErrTypeNotShared) {
		t.Errorf("sending an unknown type: %v", err)
	}
	if err := peer.Send(ctx, "test_echo", make([]byte, 65535)); !errors.Is(err, parley.ErrMessageTooLarge) {
		t.Errorf("sending too much: %v", err)
	}
	wantErr := parley.ErrRequestsUnsupported
	if peer.Info().Dialect == wire.DialectEMP {
		wantErr = parley.ErrNoHandler
	}
	if _, err := in.Request(ctx, peer, nil, 10); !errors.Is(err, wantErr) {
		t.Errorf("a request: %v, want %v", err, wantErr)
	}
	if err := in.SendMessage(ctx, peer, parley.Outgoing{Version: 1}); !errors.Is(err, parley.ErrVersionUnsupported) {
		t.Errorf("version 1 of a type that has 0: %v", err)
	}
	events := bt.Events(ctx)
	if err := echo.Withdraw(); err != nil {
		t.Fatal(err)
	}
	for e := range events {
		if e.Kind == parley.EventPeerTypes && !e.Peer.Shares("test_echo") {
			break
		}
	}
	if err := in.Send(ctx, peer, nil); !errors.Is(err, parley.ErrTypeNotShared) {
		t.Errorf("sending a withdrawn type: %v", err)
	}
	events = bt.Events(ctx)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	for e := range events {
		if e.Kind == parley.EventPeerDisconnected {
			break
		}
	}
	if err := in.Send(ctx, peer, nil); !errors.Is(err, parley.ErrTypeNotShared) && !errors.Is(err, net.ErrClosed) {
		t.Errorf("sending to a peer that is gone: %v", err)
	}
}
