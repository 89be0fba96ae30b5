//go:build linux

package interop

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// tracker serves an HTTP tracker on loopback that answers every announce with one address (BEP 3, BEP 23), and returns its
// announce URL: aria2 has no other way to be told of a peer.
func tracker(t *testing.T, peer string) string {
	t.Helper()
	addr := netip.MustParseAddrPort(peer)
	ip := addr.Addr().As4()
	answer := append([]byte("d8:completei1e10:incompletei1e8:intervali3600e5:peers6:"), ip[:]...)
	answer = append(answer, byte(addr.Port()>>8), byte(addr.Port()), 'e')
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		if _, err := w.Write(answer); err != nil {
			t.Logf("tracker: %v", err)
		}
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("tracker: %v", err)
		}
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("tracker: %v", err)
		}
		if asked.Load() == 0 {
			t.Error("tracker: nobody asked")
		}
	})
	return "http://" + l.Addr().String() + "/announce"
}

// aria2 runs aria2c with nothing but the one connection: no DHT, no local discovery, no peer exchange, no configuration.
func aria2(t *testing.T, port int, dir string, args ...string) *process {
	t.Helper()
	return start(t, "aria2", "aria2c", append([]string{"--no-conf", "--dir=" + dir, fmt.Sprintf("--listen-port=%d", port),
		"--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--disable-ipv6=true",
		"--interface=127.0.0.1", "--file-allocation=none", "--async-dns=false", "--auto-save-interval=0",
		"--summary-interval=5", "--console-log-level=notice", "--download-result=full", "--follow-torrent=mem"}, args...)...)
}

// aria2Seed seeds a content from a .torrent file; aria2 checks it first.
func aria2Seed(t *testing.T, c *content, torrent string, args ...string) string {
	t.Helper()
	port := freePort(t)
	p := aria2(t, port, filepath.Dir(c.path(t)), append([]string{"--check-integrity=true", "--seed-ratio=0.0", "--bt-exclude-tracker=*", torrent}, args...)...)
	waitPort(t, p, port)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// aria2Get downloads from one peer and waits until aria2 is done and gone.
func aria2Get(t *testing.T, source, dir, peer string, args ...string) {
	t.Helper()
	aria2(t, freePort(t), dir, append([]string{"--seed-time=0", "--bt-exclude-tracker=*", "--bt-tracker=" + tracker(t, peer), source}, args...)...).succeed(2 * patience)
}

// TestAria2DownloadsFromParley: aria2 dials with an MSE hello first, which we take.
func TestAria2DownloadsFromParley(t *testing.T) {
	for i, c := range []*content{single, multi, large} {
		way := bothWays[i%len(bothWays)]
		t.Run(way.name+"/"+c.name, func(t *testing.T) {
			dir := t.TempDir()
			torrent := createTorrent(t, c)
			_, addr := way.ours.seed(t, c)
			from := time.Now()
			aria2Get(t, torrent, dir, addr)
			logRate(t, c, from)
			wantContent(t, c, dir)
		})
	}
	t.Run("magnet", func(t *testing.T) {
		dir := t.TempDir()
		magnet, addr := command{}.seed(t, multi)
		aria2Get(t, magnet, dir, addr)
		wantContent(t, multi, dir)
	})
}

// TestParleyDownloadsFromAria2: content described by us, seeded by aria2, fetched by us.
func TestParleyDownloadsFromAria2(t *testing.T) {
	for i, c := range []*content{single, multi, large} {
		way := bothWays[i%len(bothWays)]
		t.Run(way.name+"/"+c.name, func(t *testing.T) {
			dir := t.TempDir()
			torrent := createTorrent(t, c)
			addr := aria2Seed(t, c, torrent)
			from := time.Now()
			way.ours.get(t, torrent, dir, addr)
			logRate(t, c, from)
			wantContent(t, c, dir)
		})
	}
	t.Run("magnet", func(t *testing.T) {
		dir := t.TempDir()
		torrent, infoHash := libtorrentCreate(t, multi)
		addr := aria2Seed(t, multi, torrent)
		command{}.get(t, "magnet:?xt=urn:btih:"+infoHash, dir, addr)
		wantContent(t, multi, dir)
	})
}

// TestParleyInTheMiddle: while we download from libtorrent, aria2 downloads from us what we have so far.
func TestParleyInTheMiddle(t *testing.T) {
	ourDir, theirDir := t.TempDir(), t.TempDir()
	torrent, _ := libtorrentCreate(t, single, "--piece-size", "65536")
	_, source := libtorrentSeed(t, single, torrent, "--upload-rate", "2000000")
	client := newClient(t)
	tor := add(t, client, torrent, ourDir, source)
	done := make(chan time.Time, 1)
	go func() {
		for ev := range tor.Events(t.Context()) {
			if ev.Kind == parley.EventComplete {
				done <- time.Now()
				return
			}
		}
	}()
	from := time.Now()
	theirs := aria2(t, freePort(t), theirDir, "--seed-time=0", "--bt-exclude-tracker=*",
		"--bt-tracker="+tracker(t, client.Addr().String()), torrent)
	// At 2 MB/s we need more than two seconds; aria2 must have got some of it before we had all of it.
	var early int64
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		select {
		case at := <-done:
			t.Logf("complete after %v, aria2 had %d of %d bytes by then", at.Sub(from).Round(time.Millisecond), early, single.total())
		case <-deadline:
			t.Fatalf("not complete: %+v", tor.Stats())
		case <-tick.C:
			early = tor.Stats().Uploaded
			continue
		}
		break
	}
	if early == 0 {
		t.Error("nothing was uploaded before the download was complete")
	}
	theirs.succeed(patience)
	wantContent(t, single, ourDir)
	wantContent(t, single, theirDir)
}

// TestOthersAlone shows that the other clients, the drivers and this machine work without us: a failure here is not ours.
func TestOthersAlone(t *testing.T) {
	torrent, infoHash := libtorrentCreate(t, multi)
	t.Run("libtorrent to aria2", func(t *testing.T) {
		dir := t.TempDir()
		_, addr := libtorrentSeed(t, multi, torrent)
		aria2Get(t, torrent, dir, addr)
		wantContent(t, multi, dir)
	})
	t.Run("aria2 to libtorrent by magnet", func(t *testing.T) {
		dir := t.TempDir()
		addr := aria2Seed(t, multi, torrent)
		lt, _ := libtorrent(t, "--magnet", "magnet:?xt=urn:btih:"+infoHash, "--dir", dir, "--peer", addr)
		lt.event("metadata")
		lt.event("complete")
		wantContent(t, multi, dir)
	})
}
