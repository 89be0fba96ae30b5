package parley

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/discovery"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/tracker"
	"github.com/parley-bt/parley/tracker/proto"
	"github.com/parley-bt/parley/tracker/server"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	cfg.ListenAddr = "127.0.0.1:0"
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing the client: %v", err)
		}
	})
	return c
}

// someFile makes a file and its torrent.
func someFile(t *testing.T, o CreateOptions) (path string, mi *metainfo.MetaInfo) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "some.bin")
	if err := os.WriteFile(path, bytes.Repeat([]byte("0123456789abcdef"), 20_000), 0o644); err != nil {
		t.Fatal(err)
	}
	made, err := Create(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	return path, made.MetaInfo
}

// seed serves the torrent of someFile.
func seed(t *testing.T, c *Client, mi *metainfo.MetaInfo, path string, o TorrentOptions) *Torrent {
	t.Helper()
	tor, err := c.SeedTorrent(t.Context(), mi, path, o)
	if err != nil {
		t.Fatal(err)
	}
	return tor
}

func complete(t *testing.T, tor *Torrent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tor.WaitComplete(ctx); err != nil {
		t.Fatalf("%v; %+v; trackers %+v", err, tor.Stats(), tor.Trackers())
	}
}

// until waits for the first event for which ok holds.
func until(t *testing.T, tor *Torrent, what string, ok func(Event) bool) Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for ev := range tor.Events(ctx) {
		if ok(ev) {
			return ev
		}
	}
	t.Fatalf("%s: never; trackers %+v", what, tor.Trackers())
	return Event{}
}

func announced(ev Event) bool { return ev.Kind == EventTracker }

// embedded runs an embedded tracker on loopback and returns its announce URLs.
func embedded(t *testing.T) (srv *server.Server, httpURL, udpURL string) {
	t.Helper()
	srv = server.New(server.Config{})
	l, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return srv, "http://" + l.Addr().String() + "/announce", "udp://" + l.Addr().String() + "/announce"
}

// A seed and a download that know nothing but a tracker find each other, and the tracker hears how it begins, completes and ends.
func TestTrackers(t *testing.T) {
	for _, kind := range []string{"http", "udp"} {
		for _, how := range []string{"torrent", "magnet"} {
			t.Run(kind+" "+how, func(t *testing.T) {
				srv, url, udp := embedded(t)
				if kind == "udp" {
					url = udp
				}
				o := TorrentOptions{Trackers: [][]string{{url}}, Dir: t.TempDir()}
				path, mi := someFile(t, CreateOptions{})
				s, l := client(t, Config{}), client(t, Config{})
				st := seed(t, s, mi, path, o)
				until(t, st, "the seed is announced", announced)
				var lt *Torrent
				var err error
				if how == "magnet" {
					lt, err = l.AddMagnet(mi.Magnet(), o)
				} else {
					lt, err = l.AddTorrent(mi, o)
				}
				if err != nil {
					t.Fatal(err)
				}
				complete(t, lt)
				until(t, lt, "the tracker hears of the completion", func(ev Event) bool {
					c := lt.Scrape(t.Context())
					if len(c) != 1 || c[0].Err != nil {
						t.Fatalf("scrape: %+v", c)
					}
					// With a magnet link the first announce may have come after the metadata: it was a download in any case.
					return c[0].Seeders == 2 && c[0].Downloaded == 1
				})
				if st := lt.Trackers(); len(st) != 1 || st[0].Err != nil || st[0].Failures != 0 || st[0].URL != url || st[0].InfoHash != mi.InfoHash || st[0].ExternalIP != netip.MustParseAddr("127.0.0.1") && kind == "http" {
					t.Errorf("status %+v", st)
				}
				if ip, ok := l.ExternalIP(); ok {
					t.Errorf("the public address is said to be %v", ip)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				if st := srv.Stats(); st.Peers != 0 {
					t.Errorf("the tracker still lists %d peers", st.Peers)
				}
			})
		}
	}
}

// A program that has the torrent already has not completed a download.
func TestNothingCompletedByVerification(t *testing.T) {
	srv, url, _ := embedded(t)
	path, mi := someFile(t, CreateOptions{Trackers: []string{url}})
	c := client(t, Config{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	tor, err := c.AddTorrent(mi, TorrentOptions{Dir: filepath.Dir(path)})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, tor)
	until(t, tor, "it is announced", announced)
	if s := tor.Scrape(t.Context()); len(s) != 1 || s[0].Downloaded != 0 || s[0].Seeders != 1 || s[0].Leechers != 0 {
		t.Errorf("scrape %+v", s)
	}
	if st := srv.Stats(); st.Announces != 1 {
		t.Errorf("%d announces", st.Announces)
	}
}

// What a torrent or a link names may not be on this machine, unless the user says so; what the user names may.
func TestStrangersTrackersAreNotLocal(t *testing.T) {
	for _, tt := range []struct {
		name   string
		magnet bool
		allow  string
		user   bool
		asked  bool
	}{
		{name: "a torrent"}, {name: "a link", magnet: true},
		{name: "a torrent, allowed", allow: "127.0.0.1/32", asked: true}, {name: "a link, allowed", magnet: true, allow: "127.0.0.1/32", asked: true},
		{name: "a torrent, and the user", user: true, asked: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv, url, udp := embedded(t)
			_, mi := someFile(t, CreateOptions{Trackers: []string{url, udp}})
			cfg := Config{}
			if tt.allow != "" {
				cfg.AllowNetworks = []netip.Prefix{netip.MustParsePrefix(tt.allow)}
			}
			c := client(t, cfg)
			o := TorrentOptions{Dir: t.TempDir(), NoDownload: true}
			if tt.user {
				o.Trackers = [][]string{{url}}
			}
			var tor *Torrent
			var err error
			if tt.magnet {
				tor, err = c.AddMagnet(mi.Magnet(), o)
			} else {
				tor, err = c.AddTorrent(mi, o)
			}
			if err != nil {
				t.Fatal(err)
			}
			ev := until(t, tor, "an announce", func(ev Event) bool { return announced(ev) && (ev.Err == nil) == tt.asked })
			if _, refused := errors.AsType[*netpolicy.RefusedError](ev.Err); refused == tt.asked {
				t.Errorf("the announce ended with %v", ev.Err)
			}
			if !tt.asked { // the other one as well
				until(t, tor, "the second tracker", func(Event) bool {
					s := tor.Trackers()
					return len(s) == 2 && s[0].Failures > 0 && s[1].Failures > 0
				})
				for _, s := range tor.Scrape(t.Context()) {
					if _, refused := errors.AsType[*netpolicy.RefusedError](s.Err); !refused {
						t.Errorf("a scrape ended with %v", s.Err)
					}
				}
			}
			if err := tor.Close(); err != nil {
				t.Error(err)
			}
			if st := srv.Stats(); st.Announces+st.Scrapes+st.MalformedDatagrams+st.BadConnectionIDs != 0 != tt.asked {
				t.Errorf("the tracker was asked: %+v, want %v", st, tt.asked)
			}
		})
	}
}

// A tracker on the internet cannot make us dial this machine or a private network.
func TestTrackerNamesPrivateAddresses(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprint("allowed ", allowed), func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			at := ln.Addr().(*net.TCPAddr).AddrPort()
			named := []netip.AddrPort{at, netip.MustParseAddrPort("10.1.2.3:6881"), netip.MustParseAddrPort("192.168.1.1:80"), netip.MustParseAddrPort("169.254.1.1:80"),
				netip.MustParseAddrPort("[::1]:6881"), netip.MustParseAddrPort("[fd00::1]:6881"), netip.MustParseAddrPort("[64:ff9b::7f00:1]:6881")}
			page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Write(proto.AppendAnnounceReply(nil, &proto.AnnounceReply{Interval: time.Hour, ExternalIP: netip.MustParseAddr("203.0.113.9"), Peers: named}))
			}))
			defer page.Close()
			cfg := Config{trackers: tracker.Config{
				Resolve: func(context.Context, string) ([]netip.Addr, error) {
					return []netip.Addr{netip.MustParseAddr("9.9.9.9")}, nil
				},
				Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, page.Listener.Addr().String())
				},
			}}
			dropped := len(named)
			if allowed {
				cfg.AllowNetworks = []netip.Prefix{netip.PrefixFrom(at.Addr(), 32)}
				dropped--
			}
			c := client(t, cfg)
			tor, err := c.AddMagnet(metainfo.Magnet{InfoHash: bt.InfoHash{1}, Trackers: []string{"http://tracker.example/announce"}}, TorrentOptions{NoDownload: true})
			if err != nil {
				t.Fatal(err)
			}
			ev := until(t, tor, "an announce", announced)
			if ev.Err != nil || ev.Tracker.Dropped != dropped || ev.Tracker.Peers != len(named)-dropped {
				t.Errorf("%v: %d peers, %d dropped, want %d dropped of %d", ev.Err, ev.Tracker.Peers, ev.Tracker.Dropped, dropped, len(named))
			}
			if ip, ok := c.ExternalIP(); !ok || ip.String() != "203.0.113.9" {
				t.Errorf("our address is %v, %v", ip, ok)
			}
			if allowed { // the test can tell: this one is dialled
				if _, err := ln.Accept(); err != nil {
					t.Error(err)
				}
				return
			}
			if err := tor.Close(); err != nil { // every dial has ended
				t.Error(err)
			}
			if err := ln.(*net.TCPListener).SetDeadline(time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			if nc, err := ln.Accept(); err == nil {
				nc.Close()
				t.Error("a local address was dialled")
			}
		})
	}
}

func TestTrackerOptions(t *testing.T) {
	c := client(t, Config{})
	ih := bt.InfoHash{2}
	for _, bad := range []string{"", "ftp://tracker.example/", "udp://tracker.example/announce", "http://"} {
		if _, err := c.AddInfoHash(ih, TorrentOptions{Trackers: [][]string{{bad}}}); err == nil {
			t.Errorf("%q is taken for a tracker", bad)
		} else if _, is := errors.AsType[*tracker.URLError](err); !is {
			t.Errorf("%q: %v", bad, err)
		}
	}
	m := metainfo.Magnet{InfoHash: ih, Trackers: []string{"http://127.0.0.1:1/own", "http://127.0.0.1:1/a"}}
	for i := range 2 * maxTrackers {
		m.Trackers = append(m.Trackers, fmt.Sprintf("http://127.0.0.1:1/%d", i))
	}
	// The user's come first, each tier by itself; none is asked twice; a link cannot name thousands.
	tor, err := c.AddMagnet(m, TorrentOptions{NoDownload: true, Trackers: [][]string{{"http://127.0.0.1:1/a", "http://127.0.0.1:1/b"}, {"http://127.0.0.1:1/c"}, {"http://127.0.0.1:1/a"}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range tor.Trackers() {
		got = append(got, s.URL[len("http://127.0.0.1:1/"):])
	}
	if len(got) != 3+maxTrackers || !slices.Equal(got[:5], []string{"a", "b", "c", "own", "0"}) || len(tor.find.Load().all()) != 3 {
		t.Errorf("%d trackers of %d announcers: %v", len(got), len(tor.find.Load().all()), got)
	}
	none := client(t, Config{NoTrackers: true})
	if tor, err = none.AddMagnet(m, TorrentOptions{}); err != nil || len(tor.Trackers()) != 0 {
		t.Errorf("without trackers: %v, %v", tor.Trackers(), err)
	}
	if _, err := NewClient(Config{NoListen: true, LocalDiscovery: true}); err == nil {
		t.Error("local discovery without a listener is taken")
	}
}

// A tracker that hangs does not hold up the end for good, and is told of it.
func TestCloseTellsAHangingTracker(t *testing.T) {
	heard := make(chan string, 10)
	release := make(chan struct{})
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard <- r.URL.Query().Get("event")
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer page.Close()
	defer close(release)
	c := client(t, Config{})
	if _, err := c.AddInfoHash(bt.InfoHash{3}, TorrentOptions{NoDownload: true, Trackers: [][]string{{page.URL + "/announce"}}}); err != nil {
		t.Fatal(err)
	}
	if e := <-heard; e != "started" {
		t.Errorf("event %q", e)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if e := <-heard; e != "stopped" {
		t.Errorf("event %q", e)
	}
}

// table is a DHT in memory, which notes who is looked up.
type table struct {
	mu     sync.Mutex
	peers  map[bt.InfoHash][]DHTPeer
	asked  chan bt.InfoHash
	failed int // how many lookups fail yet
}

func newTable() *table {
	return &table{peers: map[bt.InfoHash][]DHTPeer{}, asked: make(chan bt.InfoHash, 1000)}
}

func (d *table) Announce(_ context.Context, h bt.InfoHash, port uint16) iter.Seq2[DHTPeer, error] {
	return func(yield func(DHTPeer, error) bool) {
		d.asked <- h
		d.mu.Lock()
		if d.failed > 0 {
			d.failed--
			d.mu.Unlock()
			yield(DHTPeer{}, errors.New("nobody is known"))
			return
		}
		found := slices.Clone(d.peers[h])
		here := netip.MustParseAddr("127.0.0.1")
		if port != 0 {
			d.peers[h] = append(d.peers[h], DHTPeer{Addr: netip.AddrPortFrom(here, port), From: here})
		}
		d.mu.Unlock()
		for _, p := range found {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// Two that know nothing but a DHT find each other, although it is not ready at first.
func TestDHT(t *testing.T) {
	d := newTable()
	d.failed = 2
	path, mi := someFile(t, CreateOptions{})
	s := client(t, Config{DHT: d})
	seed(t, s, mi, path, TorrentOptions{})
	for range 3 {
		if h := <-d.asked; h != mi.InfoHash {
			t.Errorf("%v is looked up", h)
		}
	}
	l := client(t, Config{DHT: d})
	lt, err := l.AddMagnet(mi.Magnet(), TorrentOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, lt)
}

// A node on the internet cannot make us dial this machine.
func TestDHTNamesPrivateAddresses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := newTable()
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	d.peers[bt.InfoHash{4}] = []DHTPeer{{Addr: at, From: netip.MustParseAddr("9.9.9.9")}, {Addr: at}}
	d.peers[bt.InfoHash{5}] = []DHTPeer{{Addr: at, From: at.Addr()}}
	c := client(t, Config{DHT: d})
	far, err := c.AddInfoHash(bt.InfoHash{4}, TorrentOptions{NoDownload: true})
	if err != nil {
		t.Fatal(err)
	}
	<-d.asked
	near, err := c.AddInfoHash(bt.InfoHash{5}, TorrentOptions{NoDownload: true})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 68)
	if _, err := nc.Read(b); err != nil || bt.InfoHash(b[28:48]) != near.InfoHash() {
		t.Errorf("dialled for %x, %v", b[28:48], err)
	}
	nc.Close()
	if err := far.Close(); err != nil {
		t.Error(err)
	}
	if err := near.Close(); err != nil {
		t.Error(err)
	}
}

// Private torrents are looked for at their trackers only (BEP 27), those whose metadata comes later from then on.
func TestPrivate(t *testing.T) {
	d := newTable()
	path, mi := someFile(t, CreateOptions{Private: true})
	sock := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ear, mouth := sock(), sock()
	defer ear.Close()
	c := client(t, Config{DHT: d, LocalDiscovery: true, localEndpoints: []discovery.Endpoint{{Receive: mouth, Send: mouth, Group: ear.LocalAddr().(*net.UDPAddr).AddrPort()}}})
	st := seed(t, c, mi, path, TorrentOptions{})
	open, err := c.AddInfoHash(bt.InfoHash{6}, TorrentOptions{NoDownload: true})
	if err != nil {
		t.Fatal(err)
	}
	if h := <-d.asked; h != open.InfoHash() {
		t.Errorf("%v is looked up, the private one", h)
	}
	b := make([]byte, 2000)
	n, _, err := ear.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := discovery.ParseSearch(b[:n]); err != nil || !slices.Equal(s.InfoHashes, []bt.InfoHash{open.InfoHash()}) {
		t.Errorf("the network hears of %v, %v", s.InfoHashes, err)
	}
	c.discovery.heard(mi.InfoHash, netip.MustParseAddrPort("127.0.0.1:1"))
	if s := st.Stats(); s.Peers != 0 || st.find.Load().public() {
		t.Errorf("%+v", s)
	}

	d2 := newTable()
	l := client(t, Config{DHT: d2})
	lt, err := l.AddMagnet(mi.Magnet(), TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{c.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, lt)
	l.discovery.dht.mu.Lock()
	defer l.discovery.dht.mu.Unlock()
	if n := len(l.discovery.dht.turns); n != 0 {
		t.Errorf("%d torrents are still looked up", n)
	}
}

// Two on one network find each other.
func TestLocalDiscovery(t *testing.T) {
	socks := make([]*net.UDPConn, 2)
	for i := range socks {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		socks[i] = c
	}
	group := func(i int) []discovery.Endpoint {
		return []discovery.Endpoint{{Receive: socks[i], Send: socks[i], Group: socks[1-i].LocalAddr().(*net.UDPAddr).AddrPort()}}
	}
	path, mi := someFile(t, CreateOptions{})
	s := client(t, Config{LocalDiscovery: true, localEndpoints: group(0)})
	seed(t, s, mi, path, TorrentOptions{})
	l := client(t, Config{LocalDiscovery: true, localEndpoints: group(1)})
	lt, err := l.AddMagnet(mi.Magnet(), TorrentOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, lt)
}

// Lookups take turns: those that are due first, those that failed later and later.
func TestRounds(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := newRounds(nil, 1)
	a, b := &finder{}, &finder{}
	a.wants.Store(true)
	r.turns[a], r.turns[b] = &round{due: now}, &round{due: now.Add(time.Second)}
	if f, _ := r.next(now); f != a {
		t.Error("not the first")
	}
	if f, at := r.next(now); f != nil || !at.Equal(now.Add(time.Second)) {
		t.Errorf("%p at %v", f, at)
	}
	if f, _ := r.next(now.Add(time.Minute)); f != b {
		t.Error("not the second")
	}
	if f, at := r.next(now); f != nil || !at.IsZero() {
		t.Errorf("%p at %v while all are under way", f, at)
	}
	between := func(f *finder, lo time.Duration) {
		t.Helper()
		if got := r.turns[f].due.Sub(now); got < lo || got > lo+lo/8 {
			t.Errorf("due in %v, want %v and an eighth at most", got, lo)
		}
	}
	for i, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, dhtNeedy, dhtNeedy, dhtNeedy, dhtNeedy, dhtNeedy, dhtNeedy, dhtNeedy} {
		r.done(now, a, nil)
		if between(a, wait); t.Failed() {
			t.Fatalf("after %d lookups without a peer", i+1)
		}
	}
	a.peers.Store(1)
	r.done(now, a, nil)
	between(a, dhtNeedy)
	a.peers.Store(0)
	r.done(now, a, nil)
	between(a, dhtAlone) // from the beginning, as there was a peer meanwhile
	r.done(now, b, nil)
	between(b, dhtEvery)
	wait := dhtRetryMin
	for range 20 {
		r.done(now, a, errors.New("x"))
		between(a, wait)
		wait = min(2*wait, dhtRetryMax)
	}
	r.done(now, a, nil)
	r.done(now, a, errors.New("x"))
	between(a, dhtRetryMin)
	r.remove(a)
	r.done(now, a, nil)
	if len(r.turns) != 1 {
		t.Error("a torrent that was removed is back")
	}
}
