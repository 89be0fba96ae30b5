package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/dht"
)

// trackerOf starts a tracker and returns its announce URLs, over HTTP and UDP.
func trackerOf(t *testing.T, args ...string) (r *running, http, udp string) {
	t.Helper()
	r = start(t, append([]string{"tracker", "--listen", loopback}, args...)...)
	http = r.out.wait(t, `(?m)^announce to: (http:\S+)$`)[1]
	udp = r.out.wait(t, `(?m)^announce to: (udp:\S+)$`)[1]
	return r, http, udp
}

// A seed and a download find each other by a tracker alone, which show can ask, and which says in the end what it did.
func TestTracker(t *testing.T) {
	for _, kind := range []string{"http", "udp"} {
		t.Run(kind, func(t *testing.T) {
			tr, url, udp := trackerOf(t)
			if kind == "udp" {
				url = udp
			}
			src := content(t, t.TempDir())
			seed := start(t, "seed", src, "--listen", loopback, "--tracker", url, "--json")
			seed.out.wait(t, `"event":"tracker".*"failures":0`)
			magnet := find(t, jsonLines(t, seed.out.String()), "listening")["magnet"].(string)
			if !strings.Contains(magnet, "&tr="+kind) {
				t.Errorf("the link %s does not name the tracker", magnet)
			}
			dst := t.TempDir()
			// The link's own word is a stranger's, so the tracker is named.
			r := cli(t, "get", magnet, "--tracker", url, "-o", dst)
			r.check(t, exitOK, "waiting for metadata from peers that are still to be found", "complete: ")
			sameTree(t, filepath.Join(dst, "holiday"), src)
			cli(t, "show", magnet, "--scrape", "--tracker", url).check(t, exitOK, ": 1 seed, 0 downloaders, completed 1 times")
			r = cli(t, "show", magnet, "--scrape", "--json", "--allow-network", "127.0.0.0/8")
			r.check(t, exitOK)
			if e := find(t, jsonLines(t, r.out), "scrape"); e["seeders"] != 1.0 || e["downloaded"] != 1.0 || e["error"] != nil {
				t.Errorf("%v", e)
			}
			cli(t, "show", magnet, "--scrape").check(t, exitFailure, "is loopback, and a global source named it", "no tracker has answered", "--allow-network")
			seed.interrupt(t)
			tr.interrupt(t)
			tr.out.wait(t, `(?m)^1 torrent, 0 peers; \d+ announces and \d scrapes answered, 0 refused`)
		})
	}
}

func TestTrackerJSON(t *testing.T) {
	tr := start(t, "tracker", "--listen", loopback, "--json", "--stats", "1s", "--udp=false")
	tr.out.wait(t, `"event":"tracker_stats"`)
	tr.interrupt(t)
	lines := jsonLines(t, tr.out.String())
	if e := find(t, lines, "tracking"); len(e["urls"].([]any)) != 1 || !strings.HasPrefix(e["urls"].([]any)[0].(string), "http://127.0.0.1:") {
		t.Errorf("%v", e)
	}
	if e := find(t, lines, "stopped"); e["torrents"] != 0.0 {
		t.Errorf("%v", e)
	}
}

// Only the torrents of a list are tracked.
func TestTrackerAllow(t *testing.T) {
	dir := t.TempDir()
	torrent := filepath.Join(dir, "x.torrent")
	write(t, dir, "one", "1")
	cli(t, "create", filepath.Join(dir, "one"), "-o", torrent).check(t, exitOK)
	list := write(t, dir, "list.txt", "# ours\n\n"+someHash+"\n  magnet:?xt=urn:btih:"+strings.Repeat("7", 40)+"\n")
	tr, url, _ := trackerOf(t, "--allow", list, "--allow", torrent)
	tr.err.wait(t, "3 torrents tracked, others are refused")
	for hash, ok := range map[string]bool{someHash: true, strings.Repeat("7", 40): true, strings.Repeat("8", 40): false} {
		want := `"failures":0`
		if !ok {
			want = `the tracker refuses: \\"torrent is not tracked`
		}
		r := start(t, "listen", hash, "--type", "a", "--listen", loopback, "--tracker", url)
		r.out.wait(t, `"event":"tracker".*`+want)
		r.interrupt(t)
	}
	tr.interrupt(t)

	for name, text := range map[string]string{"nonsense": someHash + "\nnonsense\n", "zero": "\n" + strings.Repeat("0", 40), "long": "\n" + strings.Repeat("x", 2*maxAllowedLine)} {
		bad := write(t, dir, name, text)
		cli(t, "tracker", "--listen", loopback, "--allow", bad).check(t, exitInput, bad+": line 2")
	}
	cli(t, "tracker", "--listen", loopback, "--allow", filepath.Join(dir, "none")).check(t, exitInput, "none")
	cli(t, "tracker", "--listen", loopback, "--allow", write(t, dir, "bad.torrent", "x")).check(t, exitTorrent, "bad.torrent")
	allowed := allowList{}
	if err := readAllowed(list, allowed); err != nil || len(allowed) != 2 {
		t.Errorf("%v, %v", allowed, err)
	}
}

func hashOf(t *testing.T, s string) bt.InfoHash {
	t.Helper()
	h, err := bt.ParseInfoHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// A torrent with a v2 description is tracked under every hash that peers announce it by.
func TestTrackerAllowV2(t *testing.T) {
	v1, v2, short := strings.Repeat("7", 40), strings.Repeat("89", 32), strings.Repeat("89", 20)
	dir := t.TempDir()
	write(t, dir, "one", "1")
	made := filepath.Join(dir, "x.torrent")
	cli(t, "create", "--hybrid", filepath.Join(dir, "one"), "-o", made).check(t, exitOK)
	mi, err := parley.LoadTorrent(made)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		torrents   int
		want       []string
	}{
		{"a v2 info-hash", write(t, dir, "a", v2), 1, []string{short}},
		{"a v2 link", write(t, dir, "b", "magnet:?xt=urn:btmh:1220"+v2), 1, []string{short}},
		{"a hybrid link", write(t, dir, "c", "magnet:?xt=urn:btih:"+v1+"&xt=urn:btmh:1220"+v2), 1, []string{v1, short}},
		{"each hash by itself", write(t, dir, "d", v1+"\n"+v2+"\n"+short), 2, []string{v1, short}},
		{"a hybrid .torrent", made, 1, []string{mi.InfoHash.String(), mi.InfoHashV2.Truncated().String()}},
	} {
		allowed := allowList{}
		err := readAllowed(tt.path, allowed)
		for _, h := range tt.want {
			if _, ok := allowed[hashOf(t, h)]; !ok {
				t.Errorf("%s: %s is not tracked", tt.name, h)
			}
		}
		if err != nil || len(allowed) != len(tt.want) || allowed.torrents() != tt.torrents {
			t.Errorf("%s: %v, %v", tt.name, allowed, err)
		}
	}
	cli(t, "tracker", "--listen", loopback, "--allow", write(t, dir, "e", strings.Repeat("0", 64))).check(t, exitInput, "line 1: not an info-hash")
}

func TestTrackerUsage(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cli(t, "tracker", "--listen", ln.Addr().String()).check(t, exitListen, "--listen "+ln.Addr().String(), "--listen")
	cli(t, "tracker", "--listen", "nonsense").check(t, exitUsage, "not an address with a port")
	cli(t, "tracker", "--interval", "1ms").check(t, exitUsage, "--interval")
	cli(t, "tracker", "--stats", "-1s").check(t, exitUsage, "--stats")
	cli(t, "tracker", "now").check(t, exitUsage, "too many arguments")
	with := func(c, link string, more ...string) result {
		return cli(t, append(strings.Fields(fmt.Sprintf(c, link)), more...)...)
	}
	for _, c := range []string{"get %s", "send --type a %s hi"} {
		with(c, someMagnet, "--tracker", "ftp://tracker.example/").check(t, exitUsage, "--tracker wants a URL", "scheme")
		with(c, someMagnet, "--tracker", "http://127.0.0.1:1/", "--no-trackers").check(t, exitUsage, "contradict")
		with(c, someMagnet+"&tr=http://127.0.0.1:1/", "--no-trackers").check(t, exitUsage, "no peer to ask")
	}
	cli(t, "show", someMagnet, "--scrape").check(t, exitUsage, "there is no tracker to ask")
}

// What is wrong with a tracker is said once, in words; what it says is escaped.
func TestTrackerTrouble(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "d14:failure reason12:\x1b[31mgo away8:retry ini7ee")
	}))
	defer page.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // nobody is there now
	url := "http://" + ln.Addr().String()
	r := start(t, "seed", write(t, t.TempDir(), "x", "1"), "--listen", loopback, "--tracker", url+"/secret/announce", "--tracker", page.URL+"/announce")
	r.err.wait(t, `(?m)^tracker `+url+`: connection refused; next try in \d+ s$`)
	r.err.wait(t, `(?m)^tracker `+page.URL+`: the tracker refuses: "\S*\[31mgo away"; next try in 7:00$`)
	r.interrupt(t)
	if s := r.err.String(); strings.Contains(s, "\x1b") || strings.Contains(s, "secret") {
		t.Errorf("on the terminal: %q", s)
	}
}

// A seed and a download find each other in a DHT of a few nodes, of which each knows one.
func TestDHT(t *testing.T) {
	first, err := dht.Start(dht.Config{ListenAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	at := first.Addrs()[0].String()
	for range 3 {
		n, err := dht.Start(dht.Config{ListenAddr: "127.0.0.1:0", Bootstrap: []string{at}})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
	}
	src := content(t, t.TempDir())
	seed, magnet, _ := seedOf(t, src, "--dht-node", at)
	dst := t.TempDir()
	cli(t, "get", magnet, "--dht-node", at, "--listen", loopback, "-o", dst).check(t, exitOK, "peers that are still to be found", "complete: ")
	sameTree(t, filepath.Join(dst, "holiday"), src)
	seed.interrupt(t)
	cli(t, "get", magnet, "--dht-node", "nowhere").check(t, exitUsage, `--dht-node "nowhere": not an address with a port`)
}
