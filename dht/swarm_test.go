package dht

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// Three clients that know nothing but nodes of their own find each other through a DHT of a handful of others: one seeds, two fetch it by its link.
func TestClientsFindEachOther(t *testing.T) {
	nodes := []*Node{start(t, nil)}
	for range 4 {
		nodes = append(nodes, start(t, nil, nodes[0]))
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	path := filepath.Join(t.TempDir(), "some.bin")
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	client := func(readOnly bool) *parley.Client {
		n := start(t, func(c *Config) { c.ReadOnly = readOnly }, nodes[1])
		c, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0", DHT: n})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return c
	}
	seed, err := client(false).Share(t.Context(), path, parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 {
		dir := t.TempDir()
		got, err := client(true).AddMagnet(seed.Magnet(), parley.TorrentOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if err := got.WaitComplete(ctx); err != nil {
			t.Fatalf("%v: %+v", err, got.Stats())
		}
		if b, err := os.ReadFile(filepath.Join(dir, "some.bin")); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
}
