package parley_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
)

// A folder on a web server completes a torrent that nobody else has; a torrent that names the same server itself does not reach it, since it is on this machine.
func TestWebSeeds(t *testing.T) {
	src := t.TempDir()
	want := map[string][]byte{"a b.txt": bytes.Repeat([]byte("first "), 40_000), "sub/c#.bin": bytes.Repeat([]byte("second"), 50_001), "empty": {}}
	for name, b := range want {
		path := filepath.Join(src, "thing", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewServer(http.FileServer(http.Dir(src)))
	defer srv.Close()
	mi, err := parley.Create(t.Context(), filepath.Join(src, "thing"), parley.CreateOptions{WebSeeds: []string{srv.URL}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, tt := range []struct {
		name    string
		cfg     parley.Config
		o       parley.TorrentOptions
		reached bool
		listed  int
	}{
		{"named by the user", parley.Config{}, parley.TorrentOptions{WebSeeds: []string{srv.URL + "/"}}, true, 2},
		{"named by the torrent", parley.Config{}, parley.TorrentOptions{}, false, 1},
		{"not wanted", parley.Config{NoWebSeeds: true}, parley.TorrentOptions{WebSeeds: []string{srv.URL + "/"}}, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.NoListen = true
			c, err := parley.NewClient(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			dir := t.TempDir()
			tt.o.Dir = dir
			tor, err := c.AddTorrent(mi.MetaInfo, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.reached {
				if err := tor.WaitMetadata(ctx); err != nil {
					t.Fatal(err)
				}
				for tt.listed > 0 && !tor.WebSeeds()[0].Off {
					select {
					case <-ctx.Done():
						t.Fatalf("%+v", tor.WebSeeds())
					case <-time.After(5 * time.Millisecond):
					}
				}
				st := tor.WebSeeds()
				if len(st) != tt.listed || len(st) == 1 && (!st[0].Off || !strings.Contains(st[0].Err.Error(), "loopback")) {
					t.Errorf("%+v", st)
				}
				return
			}
			if err := tor.WaitComplete(ctx); err != nil {
				t.Fatalf("%v; %+v", err, tor.WebSeeds())
			}
			for name, b := range want {
				if got, err := os.ReadFile(filepath.Join(dir, "thing", filepath.FromSlash(name))); err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
			if st := tor.WebSeeds(); len(st) != tt.listed || st[0].Downloaded == 0 || st[0].Err != nil {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestWebSeedURL(t *testing.T) {
	c, err := parley.NewClient(parley.Config{NoListen: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.AddMagnet(metainfo.Magnet{InfoHash: [20]byte{1}}, parley.TorrentOptions{WebSeeds: []string{"ftp://h/"}}); err == nil {
		t.Error("ftp is accepted")
	}
}
