//go:build linux

package interop

import (
	"fmt"
	"path/filepath"
	"testing"
)

// webtorrent runs webtorrent/peer.mjs, over TCP, and returns it with the address it listens on.
func webtorrent(t *testing.T, source, dir string, peers ...string) (*process, string) {
	t.Helper()
	here, err := filepath.Abs("webtorrent")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--import", filepath.Join(here, "register.mjs"), filepath.Join(here, "peer.mjs"), source, dir}
	for _, p := range peers {
		args = append(args, "--peer", p)
	}
	p := start(t, "webtorrent", "node", args...)
	return p, fmt.Sprintf("127.0.0.1:%.0f", p.event("listening").num("port"))
}

// TestWebtorrentDownloadsFromParley: it dials us.
func TestWebtorrentDownloadsFromParley(t *testing.T) {
	for i, c := range []*content{single, multi} {
		way := bothWays[i%len(bothWays)]
		t.Run(way.name+"/"+c.name, func(t *testing.T) {
			dir := t.TempDir()
			torrent := createTorrent(t, c)
			_, addr := way.ours.seed(t, c)
			p, _ := webtorrent(t, torrent, dir, addr)
			p.event("complete")
			wantContent(t, c, dir)
		})
	}
	t.Run("magnet", func(t *testing.T) {
		dir := t.TempDir()
		magnet, addr := command{}.seed(t, single)
		p, _ := webtorrent(t, magnet, dir, addr)
		p.event("metadata")
		p.event("complete")
		wantContent(t, single, dir)
	})
}

// TestParleyDownloadsFromWebtorrent: it has the content, and we dial it.
func TestParleyDownloadsFromWebtorrent(t *testing.T) {
	for i, c := range []*content{single, multi} {
		way := bothWays[i%len(bothWays)]
		t.Run(way.name+"/"+c.name, func(t *testing.T) {
			dir := t.TempDir()
			torrent := createTorrent(t, c)
			p, addr := webtorrent(t, torrent, filepath.Dir(c.path(t)))
			p.event("complete")
			way.ours.get(t, torrent, dir, addr)
			wantContent(t, c, dir)
		})
	}
	t.Run("magnet", func(t *testing.T) {
		dir := t.TempDir()
		torrent, infoHash := libtorrentCreate(t, single, "--piece-size", "16384")
		p, addr := webtorrent(t, torrent, filepath.Dir(single.path(t)))
		p.event("complete")
		command{}.get(t, "magnet:?xt=urn:btih:"+infoHash, dir, addr)
		wantContent(t, single, dir)
	})
}
