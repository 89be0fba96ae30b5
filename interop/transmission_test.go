//go:build linux

package interop

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// transmission is a running transmission-daemon, driven over its RPC port.
type transmission struct {
	*process
	addr    string // where it accepts peers
	rpc     string
	session string
}

// newTransmission starts transmission-daemon with nothing but the connections it is given. It never dials an address in 127/8 by itself,
// so whoever is to talk to it must dial it.
func newTransmission(t *testing.T, dir string, torrent string) *transmission {
	t.Helper()
	return newTransmissionWith(t, dir, torrent, nil)
}

// newTransmissionWith is newTransmission with other settings.
func newTransmissionWith(t *testing.T, dir, torrent string, other map[string]any) *transmission {
	t.Helper()
	cfg := t.TempDir()
	port, rpcPort := freePort(t), freePort(t)
	all := map[string]any{
		"bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": "::1", "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
		"port-forwarding-enabled": false, "peer-port": port, "encryption": 1, "rpc-bind-address": "127.0.0.1", "rpc-port": rpcPort, "rpc-whitelist-enabled": true,
		"download-dir": dir, "preallocation": 0, "ratio-limit-enabled": false, "incomplete-dir-enabled": false, "rename-partial-files": false,
		"script-torrent-done-enabled": false,
	}
	maps.Copy(all, other)
	settings, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg, "settings.json"), settings, 0o600); err != nil {
		t.Fatal(err)
	}
	d := &transmission{process: start(t, "transmission", "transmission-daemon", "-f", "-g", cfg), addr: fmt.Sprintf("127.0.0.1:%d", port),
		rpc: fmt.Sprintf("http://127.0.0.1:%d/transmission/rpc", rpcPort)}
	waitPort(t, d.process, rpcPort)
	b, err := os.ReadFile(torrent)
	if err != nil {
		t.Fatal(err)
	}
	d.call("torrent-add", map[string]any{"metainfo": base64.StdEncoding.EncodeToString(b)}, nil)
	waitPort(t, d.process, port)
	return d
}

// call makes one RPC call. The first is answered with the session's id and made again.
func (d *transmission) call(method string, args map[string]any, result any) {
	d.t.Helper()
	body, err := json.Marshal(map[string]any{"method": method, "arguments": args})
	if err != nil {
		d.t.Fatal(err)
	}
	client := http.Client{Timeout: patience}
	for range 2 {
		req, err := http.NewRequest(http.MethodPost, d.rpc, bytes.NewReader(body))
		if err != nil {
			d.t.Fatal(err)
		}
		req.Header.Set("X-Transmission-Session-Id", d.session)
		resp, err := client.Do(req)
		if err != nil {
			d.t.Fatalf("transmission: %s: %v", method, err)
		}
		if resp.StatusCode == http.StatusConflict {
			d.session = resp.Header.Get("X-Transmission-Session-Id")
			resp.Body.Close()
			continue
		}
		var answer struct {
			Result    string
			Arguments json.RawMessage
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if err != nil || answer.Result != "success" {
			d.t.Fatalf("transmission: %s: %v %q", method, err, answer.Result)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Arguments, result); err != nil {
				d.t.Fatal(err)
			}
		}
		return
	}
	d.t.Fatalf("transmission: %s: refused twice", method)
}

// waitState waits until what transmission says about its torrent pleases.
func (d *transmission) waitState(what string, ok func(status int, left, have int64) bool) {
	d.t.Helper()
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(100 * time.Millisecond) {
		var all struct {
			Torrents []struct {
				Status                   int
				LeftUntilDone, HaveValid int64
				RecheckProgress          float64
				ErrorString              string
			}
		}
		d.call("torrent-get", map[string]any{"fields": []string{"status", "leftUntilDone", "haveValid", "recheckProgress", "errorString"}}, &all)
		if len(all.Torrents) == 1 && ok(all.Torrents[0].Status, all.Torrents[0].LeftUntilDone, all.Torrents[0].HaveValid) {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("transmission: not %s: %+v", what, all.Torrents)
		}
	}
}

// What "status" says in torrent-get.
const (
	transmissionDownloading = 4
	transmissionSeeding     = 6
)

func (d *transmission) waitSeeding() {
	d.waitState("seeding", func(status int, left, _ int64) bool { return status == transmissionSeeding && left == 0 })
}

// TestTransmissionDownloadsFromParley: we dial it, and it fetches from us. It takes ten to fifteen seconds before it asks for anything.
func TestTransmissionDownloadsFromParley(t *testing.T) {
	t.Parallel()
	for i, c := range []*content{single, multi} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			torrent := createTorrent(t, c)
			d := newTransmission(t, dir, torrent)
			if i == 0 {
				start(t, "parley seed", parleyBin, "seed", c.path(t), "--listen", "127.0.0.1:0", "--peer", d.addr)
			} else {
				seedTo(t, c, torrent, d.addr)
			}
			d.waitSeeding()
			if c == multi { // transmission 3.00 does not make empty files
				if err := os.WriteFile(filepath.Join(dir, c.name, "empty.dat"), nil, 0o600); err != nil {
					t.Error(err)
				}
			}
			wantContent(t, c, dir)
		})
	}
}

// TestParleyDownloadsFromTransmission: it has the content, and we dial it.
func TestParleyDownloadsFromTransmission(t *testing.T) {
	t.Parallel()
	for i, c := range []*content{single, multi} {
		way := bothWays[i%len(bothWays)]
		t.Run(way.name+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			torrent := createTorrent(t, c)
			d := newTransmission(t, filepath.Dir(c.path(t)), torrent)
			d.waitSeeding()
			way.ours.get(t, torrent, dir, d.addr)
			wantContent(t, c, dir)
		})
	}
	t.Run("magnet", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		torrent, infoHash := libtorrentCreate(t, single, "--piece-size", "16384")
		d := newTransmission(t, filepath.Dir(single.path(t)), torrent)
		d.waitSeeding()
		command{}.get(t, "magnet:?xt=urn:btih:"+infoHash, dir, d.addr)
		wantContent(t, single, dir)
	})
}
