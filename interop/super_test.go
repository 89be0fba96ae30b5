//go:build linux

package interop

import (
	"testing"
	"time"
)

// TestLibtorrentDownloadsFromSuperSeed: a seed that says that it has nothing, and shows piece by piece (BEP 16), is fetched from to the end.
func TestLibtorrentDownloadsFromSuperSeed(t *testing.T) {
	c, dir := multi, t.TempDir()
	torrent := createTorrent(t, c)
	p := start(t, "parley seed", parleyBin, "seed", c.path(t), "--listen", "127.0.0.1:0", "--super")
	t.Cleanup(func() { interrupt(t, p) })
	_, addr := announced(p)
	from := time.Now()
	lt, _ := libtorrent(t, "--torrent", torrent, "--dir", dir, "--peer", addr)
	lt.eventWithin(2*patience, "complete")
	logRate(t, c, from)
	wantContent(t, c, dir)
}
