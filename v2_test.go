package parley_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
)

// TestV2RoundTrip: what Create makes in each form is seeded, fetched by its link, and the same; and all its info-hashes name one torrent.
func TestV2RoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "content")
	for i, n := range []int{0, 1, 16 << 10, 16<<10 + 1, 100_001, 0} {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("sub%d", i%2), fmt.Sprint(i)), n)
	}
	for _, form := range []metainfo.Form{metainfo.FormV1, metainfo.FormV2, metainfo.FormHybrid} {
		t.Run(form.String(), func(t *testing.T) {
			made, err := parley.Create(t.Context(), dir, parley.CreateOptions{Form: form, PieceBytes: 16 << 10})
			if err != nil {
				t.Fatal(err)
			}
			seed, client := newClient(t, parley.Config{}), newClient(t, parley.Config{})
			if _, err := seed.SeedTorrent(t.Context(), made.MetaInfo, dir, parley.TorrentOptions{}); err != nil {
				t.Fatal(err)
			}
			to := t.TempDir()
			tor, err := client.AddMagnet(made.Magnet(), parley.TorrentOptions{Dir: to, Peers: []netip.AddrPort{seed.Addr()}})
			if err != nil {
				t.Fatal(err)
			}
			if err := tor.WaitComplete(within(t, 30*time.Second)); err != nil {
				t.Fatalf("%v; %+v", err, tor.Stats())
			}
			err = filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				rel, err := filepath.Rel(filepath.Dir(dir), p)
				if err != nil {
					return err
				}
				want, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				if got, err := os.ReadFile(filepath.Join(to, rel)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes, %v, want %d", rel, len(got), err, len(want))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if tor.InfoHashV2() != made.InfoHashV2 || tor.InfoHash() != made.InfoHash || tor.Magnet().InfoHashV2 != made.InfoHashV2 {
				t.Errorf("known by %v and %v, want %v and %v", tor.InfoHash(), tor.InfoHashV2(), made.InfoHash, made.InfoHashV2)
			}
			if _, err := client.AddTorrent(made.MetaInfo, parley.TorrentOptions{}); !errors.Is(err, parley.ErrTorrentExists) {
				t.Errorf("added again: %v", err)
			}
			if v2 := made.InfoHashV2; !v2.IsZero() {
				if _, err := client.AddMagnet(metainfo.Magnet{InfoHash: v2.Truncated(), InfoHashV2: v2}, parley.TorrentOptions{}); !errors.Is(err, parley.ErrTorrentExists) {
					t.Errorf("added again by its v2 info-hash: %v", err)
				}
			}
			n := 0
			for range client.Torrents() {
				n++
			}
			if err := tor.Close(); err != nil || n != 1 {
				t.Errorf("%d torrents, closed with %v", n, err)
			}
			again, err := client.AddMagnet(made.Magnet(), parley.TorrentOptions{NoDownload: true})
			if err != nil {
				t.Fatalf("after the close: %v", err)
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHybridAddedTwice: two links, each with one info-hash of a hybrid, are one torrent, which is found out by the metadata: the second stops.
func TestHybridAddedTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "content")
	writeFile(t, dir, 50_000)
	made, err := parley.Create(t.Context(), dir, parley.CreateOptions{Form: metainfo.FormHybrid})
	if err != nil {
		t.Fatal(err)
	}
	seed, client := newClient(t, parley.Config{}), newClient(t, parley.Config{})
	if _, err := seed.SeedTorrent(t.Context(), made.MetaInfo, dir, parley.TorrentOptions{}); err != nil {
		t.Fatal(err)
	}
	first, err := client.AddMagnet(metainfo.Magnet{InfoHash: made.InfoHash}, parley.TorrentOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.AddMagnet(metainfo.Magnet{InfoHash: made.InfoHashV2.Truncated(), InfoHashV2: made.InfoHashV2}, parley.TorrentOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	first.AddPeers(seed.Addr()) // not before both are there: with its metadata the first would be known as the second
	if err := first.WaitComplete(within(t, 30*time.Second)); !errors.Is(err, parley.ErrTorrentExists) {
		t.Errorf("the one whose metadata came last is complete with %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}
