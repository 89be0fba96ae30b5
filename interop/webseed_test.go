//go:build linux

package interop

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// pythonServer serves the folder of a content with python3 -m http.server, which knows no ranges, and returns its URL.
func pythonServer(t *testing.T, c *content) string {
	t.Helper()
	port := freePort(t)
	p := start(t, "python3 -m http.server", python(), "-m", "http.server", fmt.Sprint(port), "--bind", "127.0.0.1", "--directory", filepath.Dir(c.path(t)))
	waitPort(t, p, port)
	return "http://" + net.JoinHostPort("127.0.0.1", fmt.Sprint(port)) + "/"
}

// TestWebSeed: content that no peer has comes from a plain web server, and beside libtorrent from both.
func TestWebSeed(t *testing.T) {
	for _, c := range []*content{single, multi, large} {
		t.Run("alone/"+c.name, func(t *testing.T) {
			torrent, url, dir := createTorrent(t, c), pythonServer(t, c), t.TempDir()
			from := time.Now()
			start(t, "parley get", parleyBin, "get", torrent, "-o", dir, "--web-seed", url, "--timeout", "2m").succeed(2 * patience)
			logRate(t, c, from)
			wantContent(t, c, dir)
		})
	}
	t.Run("beside libtorrent", func(t *testing.T) {
		torrent, url, dir := createTorrent(t, large), pythonServer(t, large), t.TempDir()
		_, addr := libtorrentSeed(t, large, torrent)
		from := time.Now()
		start(t, "parley get", parleyBin, "get", torrent, "-o", dir, "--web-seed", url, "--peer", addr, "--timeout", "2m").succeed(2 * patience)
		logRate(t, large, from)
		wantContent(t, large, dir)
	})
}
