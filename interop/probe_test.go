//go:build linux

package interop

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// probed is what parley probe says of a peer.
type probed struct {
	Reachable bool     `json:"reachable"`
	Accepted  []string `json:"accepted"`
	Steps     []struct {
		Try                string          `json:"try"`
		Outcome            string          `json:"outcome"`
		Text               string          `json:"text"`
		Hello              float64         `json:"hello_seconds"`
		Exchange           float64         `json:"exchange_seconds"`
		RoundTrips         int             `json:"round_trips"`
		ExchangeRoundTrips int             `json:"exchange_round_trips"`
		FirstTry           json.RawMessage `json:"first_try"`
		Session            *struct {
			Dialect      string         `json:"dialect"`
			Bits         []string       `json:"reserved_bits"`
			Client       string         `json:"client"`
			PeerIDClient string         `json:"peer_id_client"`
			Extensions   map[string]int `json:"extensions"`
			MetadataSize int            `json:"metadata_size"`
			EMP          any            `json:"emp"`
		} `json:"session"`
	} `json:"steps"`
}

// probePeer runs parley probe against a peer.
func probePeer(t *testing.T, addr, torrent string) probed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), parleyBin, "probe", addr, torrent, "--json", "--timeout", "3s").Output()
	if err != nil {
		t.Fatalf("parley probe: %v\n%s", err, out)
	}
	var p probed
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, s := range p.Steps {
		t.Logf("%-14s %s; hello %.4f s, exchange %.4f s, %d and %d round trips", s.Try, s.Text, s.Hello, s.Exchange, s.RoundTrips, s.ExchangeRoundTrips)
	}
	return p
}

// TestProbe: what each client takes under each of its policies is seen as that, and none is said to take the veil.
func TestProbe(t *testing.T) {
	torrent := createTorrent(t, single)
	libtorrentAt := func(args ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			t.Helper()
			_, addr := libtorrentSeed(t, single, torrent, args...)
			return addr
		}
	}
	by := func(name string, level cipher) func(t *testing.T) string {
		return func(t *testing.T) string {
			t.Helper()
			for _, p := range msePeers {
				if p.name != name {
					continue
				}
				addr := p.seed(t, single, torrent, level)
				if name == "transmission" {
					// It closes a connection from an address of which another is still in its handshake, as that is with which it was waited for its port.
					time.Sleep(2 * time.Second)
				}
				return addr
			}
			t.Fatalf("no peer %s", name)
			return ""
		}
	}
	for _, tt := range []struct {
		name, client string
		seed         func(t *testing.T) string
		want         string // accepted
	}{
		{"libtorrent", "libtorrent/", libtorrentAt("--enc", "default"), "plaintext mse-rc4 mse-plaintext"},
		{"libtorrent, RC4 forced", "libtorrent/", libtorrentAt("--enc", "forced", "--level", "rc4"), "mse-rc4"},
		{"libtorrent, plaintext in MSE", "libtorrent/", libtorrentAt("--enc", "forced", "--level", "plaintext"), "mse-plaintext"},
		{"libtorrent, MSE disabled", "libtorrent/", libtorrentAt("--enc", "disabled"), "plaintext"},
		// 3.00 takes RC4 of those that it is offered, and never plaintext alone.
		{"transmission", "Transmission ", by("transmission", byDefault), "plaintext mse-rc4"},
		{"transmission, MSE required", "Transmission ", by("transmission", forcedRC4), "mse-rc4"},
		{"aria2", "aria2/", by("aria2", byDefault), "plaintext mse-rc4 mse-plaintext"},
		{"aria2, RC4 required", "aria2/", by("aria2", forcedRC4), "mse-rc4"},
		{"parley", "Parley ", func(t *testing.T) string {
			t.Helper()
			p := start(t, "parley seed", parleyBin, "seed", torrent, "--data", single.path(t), "--listen", "127.0.0.1:0")
			_, addr := announced(p)
			return addr
		}, "plaintext mse-rc4 mse-plaintext veil"},
		{"parley, veil alone", "Parley ", func(t *testing.T) string {
			t.Helper()
			p := start(t, "parley seed", parleyBin, "seed", torrent, "--data", single.path(t), "--listen", "127.0.0.1:0", "--accept", "veil")
			_, addr := announced(p)
			return addr
		}, "veil"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := probePeer(t, tt.seed(t), torrent)
			if got := strings.Join(p.Accepted, " "); got != tt.want || !p.Reachable || len(p.Steps) != 4 {
				t.Errorf("accepted %q, want %q", got, tt.want)
			}
			for _, s := range p.Steps {
				if s.Outcome != "accepted" {
					continue
				}
				x := s.Session
				if x == nil || !strings.HasPrefix(x.Client, tt.client) || x.Extensions["ut_metadata"] == 0 || x.MetadataSize == 0 || len(x.Bits) == 0 || s.Exchange == 0 {
					t.Errorf("%s: %+v", s.Try, x)
					continue
				}
				if ours := tt.client == "Parley "; (x.EMP != nil) != ours || ours != (x.Dialect == "emp") {
					t.Errorf("%s: dialect %s, emp %v", s.Try, x.Dialect, x.EMP)
				}
			}
		})
	}
}
