//go:build linux

package interop

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// identityOf makes an identity with the command, and returns its file and its public key.
func identityOf(t *testing.T, name string) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	p := start(t, "parley identity new", parleyBin, "identity", "new", file, "--json")
	p.succeed(patience)
	for _, l := range p.output() {
		var r record
		if json.Unmarshal([]byte(l), &r) == nil && len(r.text("public_key")) == 64 {
			return file, r.text("public_key")
		}
	}
	t.Fatalf("no public key in %q", p.output())
	return "", ""
}

// TestCommandsVeiled: two programs of ours over the veil, through a tap on which nothing can be read: with the info-hash as the secret, with identities, and in a closed swarm.
func TestCommandsVeiled(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "swarm.key")
	start(t, "parley identity swarm-key", parleyBin, "identity", "swarm-key", key).succeed(patience)
	other := filepath.Join(t.TempDir(), "other.key")
	start(t, "parley identity swarm-key", parleyBin, "identity", "swarm-key", other).succeed(patience)
	seedFile, seedKey := identityOf(t, "seed.key")
	getFile, getKey := identityOf(t, "get.key")
	for _, tt := range []struct {
		name       string
		seed, get  []string
		hello      string // of the session; "" if there must be none
		identities bool
	}{
		{"mse", []string{"--accept", "mse", "--mse", "rc4"}, []string{"--hello", "mse", "--mse", "rc4"}, "mse", false},
		{"veil", []string{"--accept", "veil"}, []string{"--hello", "veil"}, "veil", false},
		{"identities", []string{"--accept", "veil", "--identity", seedFile}, []string{"--hello", "veil", "--identity", getFile, "--expect-identity", seedKey}, "veil", true},
		{"swarm key", []string{"--swarm-key", key}, []string{"--swarm-key", key}, "veil", false},
		{"another swarm key", []string{"--swarm-key", key}, []string{"--swarm-key", other}, "", false},
		{"no swarm key", []string{"--swarm-key", key}, nil, "", false},
		{"swarm key and identities", []string{"--swarm-key", key, "--identity", seedFile}, []string{"--swarm-key", key, "--identity", getFile}, "veil", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed := start(t, "parley seed", parleyBin, append([]string{"seed", single.path(t), "--listen", "127.0.0.1:0", "--json"}, tt.seed...)...)
			magnet, addr := announced(seed)
			x, dir := newTap(t, addr), t.TempDir()
			get := start(t, "parley get", parleyBin, append([]string{"get", magnet, "-o", dir, "--peer", x.addr, "--listen", "127.0.0.1:0", "--json"}, tt.get...)...)
			if tt.hello == "" {
				get.line("a failure to dial", func(l string) bool { return strings.Contains(l, `"dial_failed"`) })
				if i := connectedPeer(get); i != nil {
					t.Errorf("a session: %v", i)
				}
				return
			}
			get.succeed(patience)
			wantContent(t, single, dir)
			x.wantSealed(single)
			for _, side := range []struct {
				p        *process
				identity string
			}{{seed, getKey}, {get, seedKey}} {
				if !tt.identities {
					side.identity = ""
				}
				i := connectedPeer(side.p)
				if i == nil {
					t.Errorf("%s: no session", side.p.name)
				} else if i.text("hello") != tt.hello || i.text("identity") != side.identity {
					t.Errorf("%s: hello %q, identity %q; want %q, %q", side.p.name, i.text("hello"), i.text("identity"), tt.hello, side.identity)
				}
			}
		})
	}
}

// connectedPeer returns what a command has last told of a session, nil if there was none.
func connectedPeer(p *process) (last record) {
	for _, l := range p.output() {
		var r record
		if json.Unmarshal([]byte(l), &r) == nil && (r.text("event") == "peer_connected" || r.text("event") == "peer_types") {
			last = r
		}
	}
	return last
}
