//go:build linux

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// rtorrent is a running rtorrent without a terminal.
type rtorrent struct {
	*process
	addr string // where it accepts peers
	done string // a file that appears when the download is complete
}

// nowhere is a tracker that nobody runs: rtorrent does not load a torrent without one.
const nowhere = "http://127.0.0.1:9/announce"

// newRtorrent starts rtorrent with a .torrent file whose content it keeps in dir. It finds peers by the torrent's tracker, of which there must be one, or they dial it.
func newRtorrent(t *testing.T, dir, torrent string) *rtorrent {
	t.Helper()
	return newRtorrentAt(t, "127.0.0.1", dir, torrent)
}

// newRtorrentAt is newRtorrent at another address of loopback.
func newRtorrentAt(t *testing.T, host, dir, torrent string) *rtorrent {
	t.Helper()
	session := t.TempDir()
	port := freePort(t)
	r := &rtorrent{addr: fmt.Sprintf("%s:%d", host, port), done: filepath.Join(session, "complete")}
	config := strings.Join([]string{
		"system.daemon.set = true",
		"network.scgi.open_local = " + filepath.Join(session, "rpc.socket"),
		"network.bind_address.set = " + host,
		fmt.Sprintf("network.port_range.set = %d-%d", port, port),
		"network.port_random.set = no",
		"dht.mode.set = disable",
		"protocol.pex.set = no",
		"protocol.encryption.set = allow_incoming",
		"trackers.use_udp.set = no",
		"session.path.set = " + session,
		`directory.default.set = "` + dir + `"`,
		"pieces.hash.on_completion.set = no",
		`method.set_key = event.download.finished, told, "execute.nothrow=touch,` + r.done + `"`,
		`load.start = "` + torrent + `"`,
		"",
	}, "\n")
	path := filepath.Join(session, "rtorrent.rc")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r.process = start(t, "rtorrent", "rtorrent", "-n", "-o", "import="+path)
	waitAddr(t, r.process, r.addr)
	return r
}

// waitComplete waits until the download is complete.
func (r *rtorrent) waitComplete() {
	r.t.Helper()
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(r.done); err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatal("rtorrent: not complete")
		}
	}
}

// TestRtorrentDownloadsFromParley: it is told of us by a tracker and dials.
func TestRtorrentDownloadsFromParley(t *testing.T) {
	t.Parallel()
	for i, c := range []*content{single, multi} {
		way := bothWays[i%len(bothWays)]
		t.Run(way.name+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			_, addr := way.ours.seed(t, c)
			r := newRtorrent(t, dir, createTorrent(t, c, "--tracker", tracker(t, addr)))
			r.waitComplete()
			wantContent(t, c, dir)
		})
	}
}

// TestParleyDownloadsFromRtorrent: it has the content, and we dial it.
func TestParleyDownloadsFromRtorrent(t *testing.T) {
	t.Parallel()
	for i, c := range []*content{single, multi} {
		way := bothWays[i%len(bothWays)]
		t.Run(way.name+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			torrent := createTorrent(t, c, "--tracker", nowhere)
			r := newRtorrent(t, filepath.Dir(c.path(t)), torrent)
			way.ours.get(t, torrent, dir, r.addr)
			wantContent(t, c, dir)
		})
	}
	t.Run("magnet", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		torrent := createTorrent(t, single, "--tracker", nowhere)
		mi, err := parley.LoadTorrent(torrent)
		if err != nil {
			t.Fatal(err)
		}
		r := newRtorrent(t, filepath.Dir(single.path(t)), torrent)
		command{}.get(t, "magnet:?xt=urn:btih:"+mi.InfoHash.String(), dir, r.addr)
		wantContent(t, single, dir)
	})
}
