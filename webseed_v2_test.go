package parley_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
)

// A web seed alone completes torrents of every form, whether it serves ranges or not; with files missing there a peer has the rest. In a v2 torrent each file begins a piece, and what
// lies between two is asked of nobody.
func TestWebSeedsOfEveryForm(t *testing.T) {
	src := t.TempDir()
	lengths := []int{0, 1, 16 << 10, 16<<10 + 1, 100_001, 48 << 10, 0, 70_000}
	name := func(i int) string { return filepath.Join("thing", fmt.Sprintf("sub%d", i%2), fmt.Sprint(i)) }
	for i, n := range lengths {
		writeFile(t, filepath.Join(src, name(i)), n)
	}
	files := http.FileServer(http.Dir(src))
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		peer    bool // beside
		magnet  bool
	}{
		{name: "ranges", handler: files.ServeHTTP},
		{name: "no ranges", handler: func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			files.ServeHTTP(w, r)
		}},
		{name: "a file is missing", peer: true, handler: func(w http.ResponseWriter, r *http.Request) {
			if filepath.Base(r.URL.Path) == "4" {
				http.NotFound(w, r)
				return
			}
			files.ServeHTTP(w, r)
		}},
		{name: "link", handler: files.ServeHTTP, peer: true, magnet: true},
	} {
		for _, form := range []metainfo.Form{metainfo.FormV1, metainfo.FormV2, metainfo.FormHybrid} {
			t.Run(tt.name+" "+form.String(), func(t *testing.T) {
				srv := httptest.NewServer(tt.handler)
				defer srv.Close()
				made, err := parley.Create(t.Context(), filepath.Join(src, "thing"), parley.CreateOptions{Form: form, PieceBytes: 32 << 10})
				if err != nil {
					t.Fatal(err)
				}
				o := parley.TorrentOptions{Dir: t.TempDir(), WebSeeds: []string{srv.URL + "/"}}
				if tt.peer {
					seed := newClient(t, parley.Config{})
					if _, err := seed.SeedTorrent(t.Context(), made.MetaInfo, filepath.Join(src, "thing"), parley.TorrentOptions{}); err != nil {
						t.Fatal(err)
					}
					o.Peers = []netip.AddrPort{seed.Addr()}
				}
				c := newClient(t, parley.Config{NoListen: true})
				var tor *parley.Torrent
				if tt.magnet {
					tor, err = c.AddMagnet(made.Magnet(), o)
				} else {
					tor, err = c.AddTorrent(made.MetaInfo, o)
				}
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := tor.WaitComplete(ctx); err != nil {
					t.Fatalf("%v; %+v; %+v", err, tor.Stats(), tor.WebSeeds())
				}
				for i, n := range lengths {
					want, err := os.ReadFile(filepath.Join(src, name(i)))
					if err != nil {
						t.Fatal(err)
					}
					if got, err := os.ReadFile(filepath.Join(o.Dir, name(i))); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes, %v, want %d", name(i), len(got), err, n)
					}
				}
				s, web := tor.Stats(), tor.WebSeeds()
				if len(web) != 1 || !tt.peer && (web[0].Err != nil || web[0].Downloaded != s.Downloaded) || s.CorruptPieces != 0 {
					t.Errorf("%+v; %+v", s, web)
				}
			})
		}
	}
}
