package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Torrents of every form go from create to get, by the .torrent, by the link, and by each info-hash.
func TestFormsEndToEnd(t *testing.T) {
	for _, form := range []struct {
		flag, form string
		hashes     []string // of the "created" line
		padding    bool
	}{
		{"", "v1", []string{"info_hash"}, false},
		{"--v2", "v2", []string{"info_hash_v2"}, false},
		{"--hybrid", "hybrid", []string{"info_hash", "info_hash_v2"}, true},
	} {
		t.Run(form.form, func(t *testing.T) {
			dir := t.TempDir()
			src := content(t, dir)
			write(t, src, "one byte", "x")
			files := 0
			if err := filepath.WalkDir(src, func(_ string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					files++
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			made := filepath.Join(dir, "made.torrent")
			args := []string{"create", src, "-o", made, "--json"}
			if form.flag != "" {
				args = append(args, form.flag)
			}
			r := cli(t, args...)
			r.check(t, exitOK)
			created := find(t, jsonLines(t, r.out), "created")
			if created["files"] != float64(files) {
				t.Errorf("%v files, want %d: padding is nobody's file", created["files"], files)
			}
			shown := cli(t, "show", made, "--json")
			shown.check(t, exitOK)
			torrent := find(t, jsonLines(t, shown.out), "torrent")
			if torrent["form"] != form.form || torrent["magnet"] != created["magnet"] {
				t.Errorf("show says %v", torrent)
			}
			if padded := strings.Contains(shown.out, `"padding":true`); padded != form.padding {
				t.Errorf("padding %v, want %v", padded, form.padding)
			}
			link := cli(t, "show", created["magnet"].(string), "--json")
			if size := find(t, jsonLines(t, link.out), "magnet")["total_bytes"]; size != created["total_bytes"] {
				t.Errorf("the link says %v bytes, the torrent %v", size, created["total_bytes"])
			}

			seed, magnet, addr := seedOf(t, made, "--data", src)
			sources := map[string]string{"torrent": made, "link": magnet}
			for _, name := range form.hashes {
				sources[name] = created[name].(string)
			}
			for name, source := range sources {
				dst := t.TempDir()
				cli(t, "get", source, "--peer", addr, "-o", dst).check(t, exitOK, "complete: ")
				sameTree(t, filepath.Join(dst, "holiday"), src)
				cli(t, "verify", made, "-d", dst).check(t, exitOK, "all "+plural(files, "file")+" ok")
				if t.Failed() {
					t.Fatalf("by %s", name)
				}
			}
			seed.interrupt(t)
		})
	}
}

// Of several torrents that are seeded at once every line says which one it is about.
func TestSeveralAreToldApart(t *testing.T) {
	dir := t.TempDir()
	one, two := write(t, dir, "one.txt", strings.Repeat("one ", 10_000)), write(t, dir, "two.txt", strings.Repeat("two ", 10_000))
	seed := start(t, "seed", one, two, "--listen", loopback, "--json")
	seed.out.wait(t, `(?s)"listening".*"listening"`)
	hashes, addr := map[string]string{}, "" // by name
	for _, l := range jsonLines(t, seed.out.String()) {
		if l["event"] == "listening" {
			hashes[l["name"].(string)] = l["info_hash"].(string)
			addr = l["addrs"].([]any)[0].(string)
		}
	}
	cli(t, "get", hashes["two.txt"], "--peer", addr, "-o", t.TempDir()).check(t, exitOK)
	seed.out.wait(t, `"peer_disconnected"`)
	seed.interrupt(t)
	for _, l := range jsonLines(t, seed.out.String()) {
		switch event := l["event"].(string); {
		case event == "progress":
			if l["info_hash"] != nil {
				t.Errorf("the figures of all are said to be those of one: %v", l)
			}
		case strings.HasPrefix(event, "peer_"):
			if l["info_hash"] != hashes["two.txt"] {
				t.Errorf("a peer of two.txt is told of as %v", l)
			}
		case l["info_hash"] != hashes["one.txt"] && l["info_hash"] != hashes["two.txt"]:
			t.Errorf("nobody knows of what this is told: %v", l)
		}
	}

	people := start(t, "seed", one, two, "--listen", loopback)
	people.err.wait(t, `serving 2 torrents`)
	at := people.out.wait(t, `(?m)^address: (\S+)$`)[1]
	cli(t, "get", hashes["two.txt"], "--peer", at, "-o", t.TempDir()).check(t, exitOK)
	people.err.wait(t, `(?m)^two\.txt: peer \S+ .*left`)
	people.interrupt(t)
	for _, want := range []string{`(?m)^one\.txt: stopped after .*: 0 B sent`, `(?m)^two\.txt: stopped after .*: 39\.1 KiB sent`} {
		if !regexp.MustCompile(want).MatchString(people.err.String()) {
			t.Errorf("no line matches %s", want)
		}
	}
}

// A download's lines say of which torrent they are, each of them.
func TestGetLinesNameTheTorrent(t *testing.T) {
	src := content(t, t.TempDir())
	_, magnet, addr := seedOf(t, src)
	r := cli(t, "get", magnet, "--peer", addr, "-o", t.TempDir(), "--json")
	r.check(t, exitOK)
	hash := regexp.MustCompile(`btih:([0-9a-f]{40})`).FindStringSubmatch(magnet)[1]
	for line := range strings.Lines(r.out) {
		var l struct {
			Event    string `json:"event"`
			InfoHash string `json:"info_hash"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.InfoHash != hash {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Nobody is asked for the peers of a private torrent but its trackers, whatever the flags say; that is said rather than waited for.
func TestPrivateIsNotLookedFor(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "secret.txt", "secret")
	made := filepath.Join(dir, "secret.torrent")
	cli(t, "create", file, "--private", "-o", made).check(t, exitOK, "private and without a --tracker")
	cli(t, "get", made, "-o", t.TempDir(), "--lsd").check(t, exitUsage, "neither the DHT nor the local network", "no peer to ask", "the torrent is private")
}
