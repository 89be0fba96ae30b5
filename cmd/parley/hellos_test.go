package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/cmd/parley/internal/keyfile"
)

func TestHelloFlagsRefused(t *testing.T) {
	dir := t.TempDir()
	swarm := filepath.Join(dir, "swarm")
	if _, err := keyfile.CreateSwarmKey(swarm, false); err != nil {
		t.Fatal(err)
	}
	commands := map[string][]string{
		"seed":   {"seed", write(t, dir, "f", "f")},
		"get":    {"get", someMagnet},
		"listen": {"listen", someMagnet, "--type", "x"},
		"send":   {"send", someMagnet, "--type", "x", "hi"},
	}
	for _, tt := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"--accept", "rc4"}, exitUsage, []string{`--accept "rc4": want plaintext, mse or veil`}},
		{[]string{"--accept", ""}, exitUsage, []string{`--accept "": want plaintext, mse or veil`}},
		{[]string{"--accept", "mse,Veil"}, exitUsage, []string{`--accept "Veil"`}},
		{[]string{"--hello", "veil,mse,veil"}, exitUsage, []string{"--hello: veil stands there twice"}},
		{[]string{"--hello", "veil, mse"}, exitUsage, []string{`--hello " mse"`}},
		{[]string{"--mse", "plaintext"}, exitUsage, []string{`--mse "plaintext": want rc4 or any`}},
		{[]string{"--expect-identity", "abc"}, exitUsage, []string{`--expect-identity "abc": want 64 hexadecimal digits`, "parley identity show"}},
		{[]string{"--expect-identity", strings.Repeat("ab", 32) + ",cd"}, exitUsage, []string{`--expect-identity "cd"`}},
		{[]string{"--identity", filepath.Join(dir, "none")}, exitInput, []string{"none: no such file"}},
		{[]string{"--identity", swarm}, exitInput, []string{"it is a swarm key", "parley identity new"}},
		{[]string{"--swarm-key", swarm, "--accept", "plaintext,mse"}, exitUsage, []string{"--accept plaintext,mse with --swarm-key", "veiled hellos only"}},
		{[]string{"--swarm-key", swarm, "--hello", "mse"}, exitUsage, []string{"--hello mse with --swarm-key"}},
	} {
		for name, command := range commands {
			if r := cli(t, append(command, tt.args...)...); r.code != tt.code {
				t.Errorf("%s %q: %v", name, tt.args, r)
			} else {
				r.check(t, tt.code, tt.want...)
			}
		}
	}
}

// A key file that others may read is refused before anything is done with it.
func TestKeyFileModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no such modes")
	}
	dir := t.TempDir()
	for flag, path := range map[string]string{"--identity": filepath.Join(dir, "id"), "--swarm-key": filepath.Join(dir, "swarm")} {
		var err error
		if flag == "--identity" {
			_, err = keyfile.CreateIdentity(path, false)
		} else {
			_, err = keyfile.CreateSwarmKey(path, false)
		}
		if err == nil {
			err = os.Chmod(path, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		cli(t, "get", someMagnet, "--peer", loopback[:10]+"1", flag, path).check(t, exitInput, path+": others can read or write it (mode 0644)", "chmod 600 "+path)
	}
}

// helloOf returns how the sessions of a command's JSON lines began.
func helloOf(t *testing.T, out string) (hello, identity any) {
	t.Helper()
	e := find(t, jsonLines(t, out), "peer_connected")
	return e["hello"], e["identity"]
}

func TestTransferByEachHello(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", strings.Repeat("talk ", 10_000))
	for _, tt := range []struct {
		name      string
		seed, get []string
		want      string
	}{
		{"default", nil, nil, "plaintext"},
		{"veil alone", []string{"--accept", "veil"}, []string{"--hello", "veil"}, "veil"},
		{"MSE alone", []string{"--accept", "mse"}, []string{"--hello", "mse"}, "mse"},
		{"RC4 alone", []string{"--accept", "mse", "--mse", "rc4"}, []string{"--hello", "mse", "--mse", "rc4"}, "mse"},
		{"to everybody", nil, []string{"--hello", "veil,mse", "--accept", "mse,veil"}, "veil"},
		{"the next one of the ladder", []string{"--accept", "mse"}, []string{"--hello", "veil,mse"}, "mse"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed, magnet, addr := seedOf(t, file, tt.seed...)
			dst := t.TempDir()
			r := cli(t, append([]string{"get", magnet, "--peer", addr, "-o", dst, "--json"}, tt.get...)...)
			r.check(t, exitOK)
			if hello, _ := helloOf(t, r.out); hello != tt.want {
				t.Errorf("began by %v, want %v", hello, tt.want)
			}
			if read(t, filepath.Join(dst, "talk.txt")) != read(t, file) {
				t.Error("different content")
			}
			seed.interrupt(t)
		})
	}
}

// The command line for the other side has what it takes to connect.
func TestPastedHello(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "f", "f")
	swarm := filepath.Join(dir, "swarm")
	if _, err := keyfile.CreateSwarmKey(swarm, false); err != nil {
		t.Fatal(err)
	}
	seed, _, _ := seedOf(t, file, "--accept", "veil,mse")
	seed.out.wait(t, `(?m)--peer \S+ --hello '?veil,mse'?$`)
	seed.interrupt(t)
	cli(t, "seed", file, swarm, "--swarm-key", swarm).check(t, exitUsage, "--swarm-key belongs to one torrent, and there are 2 arguments", "a key of its own")
	closed, _, _ := seedOf(t, file, "--swarm-key", swarm)
	closed.out.wait(t, `(?m)--peer \S+ --swarm-key \S+swarm'?$`)
	closed.interrupt(t)
}

// Who begins in plaintext where only the veil is taken hears nothing, not even that the connection is closed.
func TestPlaintextNotAccepted(t *testing.T) {
	seed, magnet, addr := seedOf(t, write(t, t.TempDir(), "f", "f"), "--accept", "veil")
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hash, err := parseSource(magnet, false)
	if err != nil {
		t.Fatal(err)
	}
	hello := append([]byte("\x13BitTorrent protocol\x00\x00\x00\x00\x00\x10\x00\x05"), hash.hash[:]...)
	if _, err := c.Write(append(hello, "-XX0001-abcdefghijkl"...)); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(c, make([]byte, 1)); n != 0 || !isTimeout(err) {
		t.Errorf("%d bytes, %v", n, err)
	}
	seed.interrupt(t)
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

func TestSwarmKey(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "talk.txt", strings.Repeat("talk ", 10_000))
	ours, other := filepath.Join(dir, "ours"), filepath.Join(dir, "other")
	for _, path := range []string{ours, other} {
		if _, err := keyfile.CreateSwarmKey(path, false); err != nil {
			t.Fatal(err)
		}
	}
	seed, magnet, addr := seedOf(t, file, "--swarm-key", ours)
	dst := t.TempDir()
	r := cli(t, "get", magnet, "--peer", addr, "-o", dst, "--swarm-key", ours, "--json")
	r.check(t, exitOK)
	if hello, _ := helloOf(t, r.out); hello != "veil" {
		t.Errorf("began by %v", hello)
	}
	if read(t, filepath.Join(dst, "talk.txt")) != read(t, file) {
		t.Error("different content")
	}
	for name, args := range map[string][]string{"no key": nil, "another key": {"--swarm-key", other}, "the veil of the info-hash": {"--hello", "veil"}} {
		r := cli(t, append([]string{"get", magnet, "--peer", addr, "-o", t.TempDir(), "--timeout", "2s"}, args...)...)
		if r.check(t, exitTimeout); strings.Contains(r.err, "connected,") {
			t.Errorf("%s: %v", name, r)
		}
	}
	seed.interrupt(t)
	listen, magnet, addr := listenTo(t, file, "--type", "chat", "--echo", "--swarm-key", ours)
	cli(t, "send", magnet, "--peer", addr, "--type", "chat", "--wait", "5s", "--answers", "1", "--swarm-key", ours, "hi there").check(t, exitOK, "taken by", ": hi there")
	listen.interrupt(t)
}

func TestIdentities(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "f", "f")
	seedID, getID := filepath.Join(dir, "seed"), filepath.Join(dir, "get")
	public := map[string]string{}
	for _, path := range []string{seedID, getID} {
		key, err := keyfile.CreateIdentity(path, false)
		if err != nil {
			t.Fatal(err)
		}
		public[path] = publicKey(key)
	}
	seed, magnet, addr := seedOf(t, file, "--identity", seedID, "--expect-identity", public[getID])
	seed.out.wait(t, `(?m) --expect-identity `+public[seedID]+`$`)

	r := cli(t, "get", magnet, "--peer", addr, "-o", t.TempDir(), "--identity", getID, "--expect-identity", public[getID]+","+public[seedID], "--json")
	r.check(t, exitOK)
	if hello, id := helloOf(t, r.out); hello != "veil" || id != public[seedID] {
		t.Errorf("%v, identity %v, want %s", hello, id, public[seedID])
	}
	if strings.Contains(r.out, "identity_missing") {
		t.Error("warned of the peer that was expected")
	}
	seed.err.wait(t, `connected, veiled, with identity `+public[getID])

	// One that proves another identity, and one that has none, are told; the session goes on.
	r = cli(t, "get", magnet, "--peer", addr, "-o", t.TempDir(), "--expect-identity", public[getID], "--json")
	r.check(t, exitOK)
	e := find(t, jsonLines(t, r.out), "identity_missing")
	if e["identity"] != public[seedID] || e["hello"] != "veil" || e["peer"] != addr || len(e["expected"].([]any)) != 1 || e["info_hash"] == nil {
		t.Errorf("%v", e)
	}
	seed.err.wait(t, `warning: peer \S+ .*has proven no identity, and one of --expect-identity was expected`)
	r = cli(t, "get", magnet, "--peer", addr, "-o", t.TempDir(), "--expect-identity", public[getID])
	r.check(t, exitOK, "has proven another identity than those of --expect-identity: "+public[seedID])
	r = cli(t, "get", magnet, "--peer", addr, "-o", t.TempDir(), "--expect-identity", public[seedID], "--hello", "plaintext")
	r.check(t, exitOK, "the session is not veiled, and others have none")
	seed.interrupt(t)
}
