//go:build linux

package interop

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// libtorrent runs drivers/lt_peer.py and returns it with the address it listens on.
func libtorrent(t *testing.T, args ...string) (*process, string) {
	t.Helper()
	script, err := filepath.Abs("drivers/lt_peer.py")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "libtorrent", python(), append([]string{script, "run"}, args...)...)
	return p, fmt.Sprintf("127.0.0.1:%.0f", p.event("listening").num("port"))
}

// libtorrentSeed seeds a content from a .torrent file, everything checked before it returns.
func libtorrentSeed(t *testing.T, c *content, torrent string, args ...string) (*process, string) {
	t.Helper()
	p, addr := libtorrent(t, append([]string{"--torrent", torrent, "--dir", filepath.Dir(c.path(t))}, args...)...)
	p.event("seeding")
	return p, addr
}

// libtorrentCreate makes a .torrent with libtorrent and returns its path and info-hash.
func libtorrentCreate(t *testing.T, c *content, args ...string) (torrent, infoHash string) {
	t.Helper()
	script, err := filepath.Abs("drivers/lt_peer.py")
	if err != nil {
		t.Fatal(err)
	}
	torrent = filepath.Join(t.TempDir(), "made by libtorrent.torrent")
	p := start(t, "libtorrent create", python(), append([]string{script, "create", c.path(t), torrent}, args...)...)
	infoHash = p.event("created").text("infohash")
	p.succeed(patience)
	return torrent, infoHash
}

func logRate(t *testing.T, c *content, from time.Time) {
	t.Helper()
	d := time.Since(from)
	t.Logf("%s: %.1f MiB in %.2f s, start of the program included", c.name, float64(c.total())/(1<<20), d.Seconds())
}

// TestLibtorrentDownloadsFromParley: content made, described and seeded by us, fetched by libtorrent, which dials.
func TestLibtorrentDownloadsFromParley(t *testing.T) {
	for _, way := range bothWays {
		for _, c := range []*content{single, multi, large} {
			t.Run(way.name+"/"+c.name, func(t *testing.T) {
				dir := t.TempDir()
				// The seed hashes the content for itself: that libtorrent finds it by the .torrent's info-hash shows that
				// creating and seeding agree.
				torrent := createTorrent(t, c)
				_, addr := way.ours.seed(t, c)
				from := time.Now()
				lt, _ := libtorrent(t, "--torrent", torrent, "--dir", dir, "--peer", addr)
				lt.eventWithin(2*patience, "complete")
				logRate(t, c, from)
				wantContent(t, c, dir)
			})
		}
	}
}

// TestParleyDownloadsFromLibtorrent: content described and seeded by libtorrent, fetched by us.
func TestParleyDownloadsFromLibtorrent(t *testing.T) {
	for _, way := range bothWays {
		for _, c := range []*content{single, multi, large} {
			t.Run(way.name+"/"+c.name, func(t *testing.T) {
				dir := t.TempDir()
				torrent, _ := libtorrentCreate(t, c)
				_, addr := libtorrentSeed(t, c, torrent)
				from := time.Now()
				way.ours.get(t, torrent, dir, addr)
				logRate(t, c, from)
				wantContent(t, c, dir)
			})
		}
	}
}

// TestLibtorrentDials: who opens the connection does not decide who has the content.
func TestLibtorrentDials(t *testing.T) {
	dir := t.TempDir()
	torrent, infoHash := libtorrentCreate(t, multi)
	client := newClient(t)
	tor := add(t, client, torrent, dir, "")
	if got := tor.InfoHash().String(); got != infoHash {
		t.Errorf("info-hash %s, libtorrent says %s", got, infoHash)
	}
	libtorrentSeed(t, multi, torrent, "--peer", client.Addr().String())
	complete(t, tor)
	wantContent(t, multi, dir)
}

// TestHybridTorrent: a torrent with v1 and v2 metadata and padding files (BEP 47, BEP 52) is used as v1, both ways.
func TestHybridTorrent(t *testing.T) {
	torrent, infoHash := libtorrentCreate(t, multi, "--hybrid", "--piece-size", "65536")
	mi, err := parley.LoadTorrent(torrent)
	if err != nil {
		t.Fatal(err)
	}
	if !mi.Info.Hybrid || mi.InfoHash.String() != infoHash {
		t.Fatalf("hybrid %t, info-hash %s; want a hybrid torrent with %s", mi.Info.Hybrid, mi.InfoHash, infoHash)
	}
	t.Run("parley downloads", func(t *testing.T) {
		dir := t.TempDir()
		_, addr := libtorrentSeed(t, multi, torrent)
		library{}.get(t, torrent, dir, addr)
		wantContent(t, multi, dir)
	})
	t.Run("libtorrent downloads", func(t *testing.T) {
		dir := t.TempDir()
		client := newClient(t)
		if _, err := client.SeedTorrent(t.Context(), mi, multi.path(t), parley.TorrentOptions{}); err != nil {
			t.Fatal(err)
		}
		lt, _ := libtorrent(t, "--torrent", torrent, "--dir", dir, "--peer", client.Addr().String())
		lt.event("complete")
		wantContent(t, multi, dir)
	})
}

// TestMagnets: the metadata comes from the other side (BEP 9), then the content.
func TestMagnets(t *testing.T) {
	for _, way := range bothWays {
		for _, c := range []*content{single, multi} {
			t.Run("libtorrent asks "+way.name+"/"+c.name, func(t *testing.T) {
				dir := t.TempDir()
				magnet, addr := way.ours.seed(t, c)
				lt, _ := libtorrent(t, "--magnet", magnet, "--dir", dir, "--peer", addr)
				lt.event("metadata")
				lt.event("complete")
				wantContent(t, c, dir)
			})
			t.Run(way.name+" asks libtorrent/"+c.name, func(t *testing.T) {
				dir := t.TempDir()
				// Small pieces make the metadata larger than one ut_metadata piece of 16 KiB.
				torrent, infoHash := libtorrentCreate(t, c, "--piece-size", "16384")
				_, addr := libtorrentSeed(t, c, torrent)
				way.ours.get(t, "magnet:?xt=urn:btih:"+infoHash, dir, addr)
				wantContent(t, c, dir)
			})
		}
	}
}
