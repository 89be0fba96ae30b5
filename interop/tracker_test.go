//go:build linux

package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/dht"
	"github.com/parley-bt/parley/metainfo"
)

// opentracker runs opentracker on a free port of loopback, over HTTP and UDP, for one torrent, and returns its announce URLs. As root it goes into its folder and becomes nobody; else it stays who it is.
func opentracker(t *testing.T, infoHash string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "torrents"), []byte(infoHash+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	n := fmt.Sprint(port)
	p := start(t, "opentracker", "opentracker", "-i", "127.0.0.1", "-p", n, "-P", n, "-d", dir, "-w", "torrents")
	waitPort(t, p, port)
	return map[string]string{"http": "http://127.0.0.1:" + n + "/announce", "udp": "udp://127.0.0.1:" + n + "/announce"}
}

// parleyTracker runs parley tracker, whose clean end is checked, and returns its announce URLs.
func parleyTracker(t *testing.T) map[string]string {
	t.Helper()
	p := start(t, "parley tracker", parleyBin, "tracker", "--listen", "127.0.0.1:0")
	t.Cleanup(func() { interrupt(t, p) })
	urls := map[string]string{}
	re := regexp.MustCompile(`^announce to: ((http|udp)://\S+)$`)
	p.line("its URLs", func(l string) bool {
		if m := re.FindStringSubmatch(l); m != nil {
			urls[m[2]] = m[1]
		}
		return len(urls) == 2
	})
	return urls
}

// seedAt seeds a content with the command, which announces to a tracker, and returns when the tracker has answered.
func seedAt(t *testing.T, c *content, flag, value string) (magnet string) {
	t.Helper()
	p := start(t, "parley seed", parleyBin, "seed", c.path(t), "--listen", "127.0.0.1:0", flag, value, "--json")
	t.Cleanup(func() { interrupt(t, p) })
	magnet, _ = announced(p)
	if flag == "--tracker" {
		p.line("the tracker's answer", func(l string) bool {
			return strings.Contains(l, `"event":"tracker"`) && strings.Contains(l, `"failures":0`)
		})
	}
	return magnet
}

// hexHash returns the info-hash of a .torrent as hexadecimal digits.
func hexHash(t *testing.T, torrent string) string {
	t.Helper()
	mi, err := parley.LoadTorrent(torrent)
	if err != nil {
		t.Fatal(err)
	}
	return mi.InfoHash.String()
}

// fetch downloads a link by the library, which knows a tracker and no peer.
func fetch(t *testing.T, magnet, url string, c *content) *parley.Torrent {
	t.Helper()
	m, err := metainfo.ParseMagnet(magnet)
	if err != nil {
		t.Fatal(err)
	}
	m.Trackers, m.Peers = nil, nil
	dir := t.TempDir()
	tor, err := newClient(t).AddMagnet(m, parley.TorrentOptions{Dir: dir, Trackers: [][]string{{url}}})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, tor)
	wantContent(t, c, dir)
	return tor
}

// TestOpentracker: two of ours find each other through opentracker, which counts them rightly.
func TestOpentracker(t *testing.T) {
	for _, kind := range []string{"http", "udp"} {
		t.Run(kind, func(t *testing.T) {
			url := opentracker(t, hexHash(t, createTorrent(t, single)))[kind]
			tor := fetch(t, seedAt(t, single, "--tracker", url), url, single)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var got []parley.TrackerCounts
			for {
				got = tor.Scrape(ctx)
				if len(got) != 1 || got[0].Err != nil {
					t.Fatalf("scrape: %+v", got)
				}
				if got[0].Seeders == 2 && got[0].Downloaded == 1 {
					break
				}
				select { // until it has heard that the download is complete
				case <-ctx.Done():
					t.Fatalf("scrape: %+v, want two seeds and one completed download", got)
				case <-time.After(100 * time.Millisecond):
				}
			}
			t.Logf("opentracker over %s: %d seeds, %d leechers, %d completed", kind, got[0].Seeders, got[0].Leechers, got[0].Downloaded)
		})
	}
	t.Run("refusal", func(t *testing.T) {
		url := opentracker(t, strings.Repeat("1", 40))["http"]
		p := start(t, "parley seed", parleyBin, "seed", single.path(t), "--listen", "127.0.0.1:0", "--tracker", url, "--json")
		p.line("what the tracker refuses", func(l string) bool {
			return strings.Contains(l, "the tracker refuses:") && strings.Contains(l, "not authorized")
		})
		interrupt(t, p)
	})
}

// TestOthersAtOurTracker: libtorrent and aria2 find us through our tracker, and we libtorrent.
func TestOthersAtOurTracker(t *testing.T) {
	torrent := createTorrent(t, multi)
	for _, kind := range []string{"http", "udp"} {
		t.Run("libtorrent downloads/"+kind, func(t *testing.T) {
			url, dir := parleyTracker(t)[kind], t.TempDir()
			seedAt(t, multi, "--tracker", url)
			lt, _ := libtorrent(t, "--torrent", torrent, "--dir", dir, "--tracker", url)
			lt.eventWithin(2*patience, "complete")
			wantContent(t, multi, dir)
		})
		t.Run("libtorrent seeds/"+kind, func(t *testing.T) {
			url := parleyTracker(t)[kind]
			lt, _ := libtorrentSeed(t, multi, torrent, "--tracker", url)
			lt.event("tracker")
			fetch(t, "magnet:?xt=urn:btih:"+hexHash(t, torrent), url, multi)
		})
		if kind == "udp" {
			continue // aria2 1.36 asks no UDP tracker while its DHT is off
		}
		t.Run("aria2 downloads/"+kind, func(t *testing.T) {
			url, dir := parleyTracker(t)[kind], t.TempDir()
			seedAt(t, multi, "--tracker", url)
			aria2(t, freePort(t), dir, "--seed-time=0", "--bt-exclude-tracker=*", "--bt-tracker="+url, torrent).succeed(2 * patience)
			wantContent(t, multi, dir)
		})
	}
}

// nodes runs a few DHT nodes of ours that know each other, and returns the address of one.
func nodes(t *testing.T) string {
	t.Helper()
	first := ""
	for range 5 {
		cfg := dht.Config{ListenAddr: "127.0.0.1:0"}
		if first != "" {
			cfg.Bootstrap = []string{first}
		}
		n, err := dht.Start(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		if first == "" {
			first = n.Addrs()[0].String()
		}
	}
	return first
}

// TestDHTWithLibtorrent: libtorrent's node and ours share a table; each finds what the other announces.
func TestDHTWithLibtorrent(t *testing.T) {
	torrent := createTorrent(t, multi)
	t.Run("libtorrent downloads", func(t *testing.T) {
		node, dir := nodes(t), t.TempDir()
		seedAt(t, multi, "--dht-node", node)
		lt, _ := libtorrent(t, "--torrent", torrent, "--dir", dir, "--dht-node", node)
		lt.eventWithin(2*patience, "complete")
		wantContent(t, multi, dir)
	})
	t.Run("libtorrent seeds", func(t *testing.T) {
		node, dir := nodes(t), t.TempDir()
		libtorrentSeed(t, multi, torrent, "--dht-node", node)
		start(t, "parley get", parleyBin, "get", hexHash(t, torrent), "-o", dir, "--listen", "127.0.0.1:0", "--dht-node", node).succeed(2 * patience)
		wantContent(t, multi, dir)
	})
}
