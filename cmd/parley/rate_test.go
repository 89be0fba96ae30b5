package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "0": 0, "0k": 0, "1024": 1024, "1024b": 1024, "500k": 500_000, "500K": 500_000, "500kB": 500_000, "2M": 2_000_000, "1.5M": 1_500_000, "10MiB": 10 << 20,
		"10Mi": 10 << 20, "10MiB/s": 10 << 20, "1KiB": 1024, "1G": 1_000_000_000, "1GiB": 1 << 30, "1000G": 1_000_000_000_000, "2.": -1, ".5M": -1, "1..5M": -1,
		"k": -1, "-5k": -1, "+5k": -1, "5 k": -1, " 5k": -1, "5x": -1, "5kk": -1, "5k/h": -1, "1e6": -1, "0x10k": -1, "Inf": -1, "NaN": -1, "1": -1, "1023": -1, "0.1k": -1,
		"1001G": -1, "99999999999999999999999G": -1, "5k\n": -1, "٥k": -1,
	} {
		got, err := parseRate("--up", in)
		if want < 0 {
			if err == nil {
				t.Errorf("%q: %d, want an error", in, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
}

func TestBadRatesAndGoals(t *testing.T) {
	file := write(t, t.TempDir(), "x", "x")
	for _, args := range [][]string{
		{"seed", file, "--up", "fast"}, {"seed", file, "--down", "5"}, {"seed", file, "--ratio", "-1"}, {"seed", file, "--ratio", "NaN"}, {"seed", file, "--seed-time", "-1s"},
		{"seed", file, "--active", "-1"}, {"seed", file, file, "--data", "."}, {"seed"},
		{"get", "x.torrent", "--up", "1/s"}, {"get", "x.torrent", "--seed-ratio", "x"}, {"listen", file, "--type", "a", "--up", "2 M"},
	} {
		cli(t, args...).check(t, exitUsage)
	}
}

// ends waits for a command that ends by itself.
func (r *running) ends(t *testing.T, want int) {
	t.Helper()
	select {
	case code := <-r.ended:
		if code != want {
			t.Errorf("exit code %d, want %d", code, want)
		}
	case <-time.After(patience):
		t.Fatal("does not end")
	}
}

// Seeds end by themselves when they have served enough, whatever they are.
func TestSeedUntilEnough(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", strings.Repeat("talk ", 10_000))
	seed, magnet, addr := seedOf(t, file, "--ratio", "1")
	second := start(t, "get", magnet, "--peer", addr, "-o", t.TempDir(), "--seed-ratio", "0.5", "--listen", loopback, "--json")
	seed.ends(t, exitOK)
	seed.err.wait(t, `that was the goal`)
	seed.err.wait(t, `stopped after`)
	second.out.wait(t, `"listening"`)
	from := find(t, jsonLines(t, second.out.String()), "listening")["addrs"].([]any)[0].(string)
	cli(t, "get", magnet, "--peer", from, "-o", t.TempDir()).check(t, exitOK)
	second.ends(t, exitOK)
	lines := jsonLines(t, second.out.String())
	if goal := find(t, lines, "seed_goal"); goal["state"] != "paused" || goal["uploaded"].(float64) < 25_000 {
		t.Errorf("goal %v", goal)
	}
	find(t, lines, "stopped")
}

// Of several torrents as many are served at a time as was asked for, the next when one has been served enough.
func TestSeedSeveral(t *testing.T) {
	dir := t.TempDir()
	one := write(t, dir, "one.txt", strings.Repeat("one ", 10_000))
	two := write(t, dir, "two.txt", strings.Repeat("two ", 10_000))
	seed := start(t, "seed", one, two, "--listen", loopback, "--active", "1", "--ratio", "1", "--up", "100M", "--json")
	seed.out.wait(t, `(?s)"listening".*"listening"`)
	var magnets []string
	addr := ""
	for _, l := range jsonLines(t, seed.out.String()) {
		if l["event"] == "listening" {
			magnets = append(magnets, l["magnet"].(string))
			addr = l["addrs"].([]any)[0].(string)
		}
	}
	// The second is asked for first, and comes once the first has been served.
	dst := t.TempDir()
	later := start(t, "get", magnets[1], "--peer", addr, "-o", dst)
	later.err.wait(t, `ends the connection at once`)
	cli(t, "get", magnets[0], "--peer", addr, "-o", dst).check(t, exitOK)
	later.ends(t, exitOK)
	seed.ends(t, exitOK)
	for _, name := range []string{"one.txt", "two.txt"} {
		if read(t, filepath.Join(dst, name)) != read(t, filepath.Join(dir, name)) {
			t.Errorf("%s: different content", name)
		}
	}
	lines := jsonLines(t, seed.out.String())
	find(t, lines, "resumed")
	n := 0
	for _, l := range lines {
		if l["event"] == "stopped" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d torrents were told to have stopped, want 2", n)
	}

	both := start(t, "seed", one, two, "--listen", loopback)
	both.out.wait(t, `(?s)magnet:.*magnet:`)
	both.interrupt(t)
}
