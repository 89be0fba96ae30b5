package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/tracker/proto"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func hashOf(n int) (h bt.InfoHash) {
	binary.BigEndian.PutUint64(h[:], uint64(n))
	return h
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// httpAnnounce makes an announce from remote without a network.
func httpAnnounce(t *testing.T, s *Server, remote string, a proto.Announce, extra string) (*proto.AnnounceReply, error) {
	t.Helper()
	return proto.ParseAnnounceReply(get(s, remote, "/announce?"+string(proto.AppendAnnounceQuery(nil, &a))+extra).Body.Bytes())
}

func get(s *Server, remote, target string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodGet, target, nil)
	req.RemoteAddr = remote
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w
}

func addrs(list []netip.AddrPort) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestAnnounceStory(t *testing.T) {
	s := New(Config{})
	h := hashOf(1)
	step := func(remote string, port uint16, left int64, e proto.Event, wantPeers string, seeders, leechers int) {
		t.Helper()
		r, err := httpAnnounce(t, s, remote+":50000", proto.Announce{InfoHash: h, Port: port, Left: left, Event: e}, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := addrs(r.Peers); got != wantPeers || r.Seeders != seeders || r.Leechers != leechers {
			t.Errorf("%s:%d: peers %q seeders %d leechers %d, want %q %d %d", remote, port, got, r.Seeders, r.Leechers, wantPeers, seeders, leechers)
		}
		if want := netip.MustParseAddr(strings.Trim(remote, "[]")); r.ExternalIP != want || r.Interval != 30*time.Minute || r.MinInterval != 5*time.Minute {
			t.Errorf("%s: external ip %v, intervals %v %v", remote, r.ExternalIP, r.Interval, r.MinInterval)
		}
	}
	step("192.0.2.1", 1, 10, proto.EventStarted, "", 0, 1)
	step("192.0.2.2", 2, 0, proto.EventStarted, "192.0.2.1:1", 1, 1)
	step("[2001:db8::3]", 3, 0, proto.EventStarted, "192.0.2.1:1", 2, 1)                         // seeds are not told of seeds
	step("192.0.2.1", 1, 5, proto.EventNone, "192.0.2.2:2 [2001:db8::3]:3", 2, 1)                // nor anybody of itself
	step("192.0.2.1", 1, 0, proto.EventCompleted, "", 3, 0)                                      // it counts once
	step("192.0.2.1", 1, 0, proto.EventCompleted, "", 3, 0)                                      // and not twice
	step("192.0.2.4", 0, 9, proto.EventStarted, "192.0.2.1:1 192.0.2.2:2 [2001:db8::3]:3", 3, 0) // without a port it is not listed
	step("192.0.2.5", 5, 0, proto.EventCompleted, "", 4, 0)                                      // nor does one who was never seen without
	step("192.0.2.5", 5, 0, proto.EventStopped, "", 3, 0)
	step("192.0.2.2", 2, 0, proto.EventStopped, "", 2, 0)
	step("192.0.2.9", 2, 0, proto.EventStopped, "", 2, 0) // a stranger's stop stops nobody

	body := get(s, "192.0.2.1:1", "/scrape?"+string(proto.AppendScrapeQuery(nil, []bt.InfoHash{h}))).Body.Bytes()
	counts, err := proto.ParseScrapeReply(body, []bt.InfoHash{h})
	if err != nil || len(counts) != 1 || counts[0] != (proto.Counts{InfoHash: h, Seeders: 2, Downloaded: 1}) {
		t.Errorf("scrape: %+v %v", counts, err)
	}
	if st := s.Stats(); st.Torrents != 1 || st.Peers != 2 || st.Announces != 11 || st.Scrapes != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestHTTPRequests(t *testing.T) {
	known := hashOf(1)
	s := New(Config{Allow: func(h bt.InfoHash) bool { return h == known }})
	ok := "/announce?" + string(proto.AppendAnnounceQuery(nil, &proto.Announce{InfoHash: known, Port: 7, PeerID: bt.PeerID([]byte("-PA0000-0123456789ab"))}))
	get(s, "127.0.0.1:9", ok)
	tests := []struct {
		name, remote, target string
		status               int
		want                 string // part of the body
	}{
		{"compact", "127.0.0.1:1", ok + "&x=y", 200, "5:peers0:"},
		{"dictionaries", "127.0.0.1:1", strings.Replace(ok, "port=7", "port=8&left=1&x", 1) + "&compact=0", 200, "d8:complete"},
		{"not tracked", "127.0.0.1:1", strings.ReplaceAll(ok, "%01", "%02"), 200, "failure reason22:torrent is not tracked8:retry in5:never"},
		{"nonsense", "127.0.0.1:1", "/announce?info_hash=1", 200, "failure reason"},
		{"scrape of all", "127.0.0.1:1", "/scrape", 200, "failure reason"},
		{"source is no address", "@", ok, 200, "address not usable"},
		{"source is multicast", "224.0.0.1:1", ok, 200, "address not usable"},
		{"elsewhere", "127.0.0.1:1", "/", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := get(s, tt.remote, tt.target)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("status %d, body %q, want %d with %q", w.Code, w.Body, tt.status, tt.want)
			}
		})
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, ok, nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", w.Code)
	}
	if n := s.Stats().Refused; n != 5 {
		t.Errorf("%d refused, want 5", n)
	}
}

func TestDictionaryReply(t *testing.T) {
	s := New(Config{})
	id := bt.PeerID([]byte("-PA0000-0123456789ab"))
	if _, err := httpAnnounce(t, s, "192.0.2.1:1", proto.Announce{Port: 7, Left: 1, PeerID: id}, ""); err != nil {
		t.Fatal(err)
	}
	q := "/announce?" + strings.Replace(string(proto.AppendAnnounceQuery(nil, &proto.Announce{Port: 8, Left: 1})), "compact=1", "compact=0", 1)
	for extra, want := range map[string]string{
		"":              "5:peersld2:ip9:192.0.2.17:peer id20:-PA0000-0123456789ab4:porti7eee",
		"&no_peer_id=1": "5:peersld2:ip9:192.0.2.14:porti7eee",
	} {
		if got := get(s, "192.0.2.2:1", q+extra).Body.String(); !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q in it", extra, got, want)
		}
	}
}

// TestIPParameter checks who may claim another address, and what for.
func TestIPParameter(t *testing.T) {
	tests := []struct{ source, claim, want string }{
		{"192.0.2.1", "198.51.100.7", "192.0.2.1"},
		{"192.0.2.1", "127.0.0.1", "192.0.2.1"},
		{"127.0.0.1", "198.51.100.7", "198.51.100.7"},
		{"127.0.0.1", "10.0.0.9", "10.0.0.9"},
		{"10.0.0.1", "198.51.100.7", "198.51.100.7"},
		{"10.0.0.1", "10.0.0.9", "10.0.0.9"},
		{"10.0.0.1", "127.0.0.1", "10.0.0.1"},
		{"10.0.0.1", "224.0.0.1", "10.0.0.1"},
		{"127.0.0.1", "example.org", "127.0.0.1"},
		{"127.0.0.1", "", "127.0.0.1"},
	}
	for _, tt := range tests {
		s := New(Config{})
		if _, err := httpAnnounce(t, s, tt.source+":1", proto.Announce{Port: 7, Left: 1}, "&ip="+tt.claim); err != nil {
			t.Fatal(err)
		}
		// Loopback is told of everybody.
		r, err := httpAnnounce(t, s, "127.0.0.1:1", proto.Announce{Port: 8, Left: 1}, "")
		if err != nil || addrs(r.Peers) != tt.want+":7" {
			t.Errorf("%s claims %q: listed as %v %v, want %s", tt.source, tt.claim, r.Peers, err, tt.want)
		}
	}
}

// TestNobodyLearnsOfMoreLocalPeers checks whom each kind of requester is told of.
func TestNobodyLearnsOfMoreLocalPeers(t *testing.T) {
	s := New(Config{})
	for _, a := range []string{"127.0.0.1", "10.0.0.1", "192.0.2.1"} {
		if _, err := httpAnnounce(t, s, a+":1", proto.Announce{Port: 7, Left: 1}, ""); err != nil {
			t.Fatal(err)
		}
	}
	for source, want := range map[string]string{
		"127.0.0.2":    "10.0.0.1:7 127.0.0.1:7 192.0.2.1:7",
		"10.0.0.2":     "10.0.0.1:7 192.0.2.1:7",
		"198.51.100.1": "192.0.2.1:7",
	} {
		r, err := httpAnnounce(t, s, source+":1", proto.Announce{Left: 1}, "")
		if err != nil || addrs(r.Peers) != want {
			t.Errorf("%s is told of %v %v, want %s", source, r.Peers, err, want)
		}
	}
}

func testStore(cfg Config) *store { return newStore(cfg.resolved(), rand.New(rand.NewPCG(1, 2))) }

// check compares the store's counts with what it holds.
func (s *store) check(t *testing.T) {
	t.Helper()
	total := 0
	for h, sw := range s.torrents {
		seeds, sources := 0, map[netip.Addr]int{}
		for i, p := range sw.list {
			if sw.index[p.addr] != i {
				t.Errorf("%v: index of %v is wrong", h, p.addr)
			}
			if p.seed {
				seeds++
			}
			sources[p.source]++
		}
		total += len(sw.list)
		if len(sw.index) != len(sw.list) || seeds != sw.seeders || len(sources) != len(sw.sources) {
			t.Errorf("%v: %d peers, index of %d, %d seeds counted as %d, %d sources counted as %d", h, len(sw.list), len(sw.index), seeds, sw.seeders, len(sources), len(sw.sources))
		}
	}
	if total != s.peers {
		t.Errorf("%d peers counted as %d", total, s.peers)
	}
}

func (s *store) put(now time.Time, hash int, addr string, port uint16, left int64) int {
	a := &proto.Announce{InfoHash: hashOf(hash), Port: port, Left: left}
	r, _ := s.announce(now, a, ip(addr), ip(addr), 50, true, true)
	return len(r.Peers)
}

func TestStoreExpires(t *testing.T) {
	s := testStore(Config{Expiry: time.Hour})
	s.put(t0, 1, "192.0.2.1", 1, 0)
	s.put(t0.Add(30*time.Minute), 1, "192.0.2.2", 1, 1)
	s.put(t0, 2, "192.0.2.1", 1, 0)
	if n := s.put(t0.Add(time.Hour), 1, "192.0.2.3", 1, 1); n != 2 {
		t.Errorf("at the hour: %d peers, want 2", n)
	}
	if n := s.put(t0.Add(time.Hour+time.Second), 1, "192.0.2.4", 1, 1); n != 2 {
		t.Errorf("just past, before anything is swept: %d peers, want 2", n)
	}
	s.check(t)
	if c := s.counts(t0.Add(time.Hour+2*time.Minute), hashOf(1)); c.Seeders != 0 || c.Leechers != 3 {
		t.Errorf("swept: %+v", c)
	}
	if len(s.torrents) != 1 {
		t.Errorf("%d torrents, want the empty one gone", len(s.torrents))
	}
	s.check(t)
}

func TestStoreLimits(t *testing.T) {
	t.Run("peers of a torrent", func(t *testing.T) {
		s := testStore(Config{MaxPeersPerTorrent: 10})
		for i := range 50 {
			s.put(t0.Add(time.Duration(i)*time.Second), 1, fmt.Sprintf("192.0.2.%d", i), 1, int64(i%2))
			s.check(t)
		}
		if s.peers != 10 {
			t.Errorf("%d peers, want 10", s.peers)
		}
		if _, ok := s.torrents[hashOf(1)].index[netip.MustParseAddrPort("192.0.2.49:1")]; !ok {
			t.Error("the latest is not listed")
		}
	})
	t.Run("peers in all", func(t *testing.T) {
		s := testStore(Config{MaxPeers: 10})
		for i := range 50 {
			s.put(t0, i%7, fmt.Sprintf("192.0.2.%d", i), 1, 1)
			s.check(t)
		}
		if s.peers != 10 {
			t.Errorf("%d peers, want 10", s.peers)
		}
	})
	t.Run("peers of a source", func(t *testing.T) {
		s := testStore(Config{MaxPeersPerSource: 3})
		for i := range 10 {
			s.put(t0, 1, "192.0.2.1", uint16(i+1), 1)
			s.put(t0, 1, fmt.Sprintf("2001:db8::%x", i+1), 1, 1) // one /64
			s.put(t0, 1, "127.0.0.1", uint16(i+1), 1)
			s.put(t0, 1, "::1", uint16(i+1), 1)
		}
		s.check(t)
		if s.peers != 3+3+10+10 {
			t.Errorf("%d peers, want 26", s.peers)
		}
	})
	t.Run("torrents", func(t *testing.T) {
		s := testStore(Config{MaxTorrents: 20})
		for i := range 2 {
			s.put(t0, -1, fmt.Sprintf("192.0.2.%d", i), 1, 1)
		}
		for i := range 500 { // a flood of invented ones does not replace one in which peers met
			s.put(t0.Add(time.Duration(i)*time.Millisecond), i, "198.51.100.1", 1, 1)
		}
		s.check(t)
		if len(s.torrents) != 20 || s.torrents[hashOf(-1)] == nil {
			t.Errorf("%d torrents; the real one is there: %t", len(s.torrents), s.torrents[hashOf(-1)] != nil)
		}
		if s.torrents[hashOf(499)] == nil {
			t.Error("the latest is not known")
		}
	})
	t.Run("no room for a torrent", func(t *testing.T) {
		s := testStore(Config{MaxTorrents: 1})
		s.put(t0, 1, "192.0.2.1", 1, 1)
		s.put(t0, 1, "192.0.2.2", 1, 1)
		s.put(t0, 2, "192.0.2.3", 1, 1)
		if s.check(t); len(s.torrents) != 1 || s.peers != 2 {
			t.Errorf("%d torrents, %d peers", len(s.torrents), s.peers)
		}
	})
	t.Run("reply", func(t *testing.T) {
		srv := New(Config{MaxNumWant: 20})
		for i := range 100 {
			if _, err := httpAnnounce(t, srv, fmt.Sprintf("192.0.2.%d:1", i), proto.Announce{Port: 1, Left: 1}, ""); err != nil {
				t.Fatal(err)
			}
		}
		for want, got := range map[int]int{0: 20, 5: 5, 1000: 20, proto.NoPeers: 0} {
			r, err := httpAnnounce(t, srv, "198.51.100.1:1", proto.Announce{Left: 1, NumWant: want}, "")
			if err != nil || len(r.Peers) != got {
				t.Errorf("numwant %d: %d peers %v, want %d", want, len(r.Peers), err, got)
			}
		}
	})
}

func TestLimiter(t *testing.T) {
	l := newLimiter(60, 100)
	ask := func(now time.Time, source string, n int) (got int) {
		for range n {
			if l.take(now, ip(source)) {
				got++
			}
		}
		return got
	}
	if got := ask(t0, "192.0.2.1", 100); got != 60 {
		t.Errorf("at once: %d, want 60", got)
	}
	if got := ask(t0, "192.0.2.2", 1); got != 1 {
		t.Error("another source is limited too")
	}
	if got := ask(t0.Add(10*time.Second), "192.0.2.1", 100); got != 10 {
		t.Errorf("10 s later: %d, want 10", got)
	}
	if got := ask(t0.Add(time.Hour), "192.0.2.1", 100); got != 60 {
		t.Errorf("an hour later: %d, want 60", got)
	}
	for i := range 10_000 {
		l.take(t0, netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}))
	}
	if len(l.all) > 100 {
		t.Errorf("%d sources kept, want at most 100", len(l.all))
	}
}

func TestRequestsAreLimitedPerSource(t *testing.T) {
	s := New(Config{RequestsPerMinute: 5})
	for i := range 10 {
		_, err := httpAnnounce(t, s, "192.0.2.1:1", proto.Announce{Port: 1}, "")
		f, refused := errors.AsType[*proto.FailureError](err)
		if refused != (i >= 5) || refused && f.RetryIn != time.Minute {
			t.Errorf("request %d: %v", i, err)
		}
		if _, err := httpAnnounce(t, s, "127.0.0.1:1", proto.Announce{Port: 1}, ""); err != nil {
			t.Errorf("loopback, request %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Limited != 5 {
		t.Errorf("%d limited, want 5", st.Limited)
	}
	// UDP draws on the same account.
	now := time.Now()
	out := s.handleUDP(now, proto.AppendUDPScrape(nil, s.connectionID(now, ip("192.0.2.1"), 0), 1, make([]bt.InfoHash, 1)), ip("192.0.2.1"), nil)
	if r, err := proto.ParseUDPReply(out, false); err != nil || r.Failure == nil || r.Failure.Reason != refuseLimit.Reason {
		t.Errorf("over UDP: %+v %v", r, err)
	}
}

func TestConnectionIDs(t *testing.T) {
	s := New(Config{})
	a := ip("192.0.2.1")
	start := t0.Truncate(idEpoch)
	for _, at := range []time.Duration{0, idEpoch - time.Second} {
		id := s.connectionID(start.Add(at), a, 0)
		for _, tt := range []struct {
			name string
			addr netip.Addr
			age  time.Duration
			ok   bool
		}{
			{"at once", a, 0, true},
			{"two minutes", a, 2 * time.Minute, true},
			{"three minutes", a, 3 * time.Minute, false},
			{"before it was made", a, -2 * time.Minute, false},
			{"another address", ip("192.0.2.2"), 0, false},
		} {
			if got := s.validConnectionID(start.Add(at+tt.age), tt.addr, id); got != tt.ok {
				t.Errorf("made at %v, %s: %t", at, tt.name, got)
			}
		}
		if New(Config{}).validConnectionID(start.Add(at), a, id) {
			t.Error("another server takes it")
		}
	}
}

// TestUDPDoesNotAmplify sends every kind of datagram without a valid connection id.
func TestUDPDoesNotAmplify(t *testing.T) {
	s := New(Config{})
	for i := range 500 {
		if _, err := httpAnnounce(t, s, fmt.Sprintf("192.0.%d.%d:1", 2+i/250, i%250), proto.Announce{Port: 1, Left: 1}, ""); err != nil {
			t.Fatal(err)
		}
	}
	announce := proto.AppendUDPAnnounce(nil, 1, 2, &proto.Announce{Port: 1, Left: 1, NumWant: 1000}, "")
	victim := ip("198.51.100.1")
	for name, in := range map[string][]byte{
		"empty":    nil,
		"zeros":    make([]byte, 2000),
		"connect":  proto.AppendConnect(nil, 1),
		"announce": announce,
		"scrape":   proto.AppendUDPScrape(nil, 1, 2, make([]bt.InfoHash, 1)),
		"cut":      announce[:97],
		"action":   append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9}, make([]byte, 20)...),
	} {
		if out := s.handleUDP(t0, in, victim, nil); len(out) > len(in) {
			t.Errorf("%s: %d bytes for %d", name, len(out), len(in))
		}
	}
	// With one it is bounded.
	valid := proto.AppendUDPAnnounce(nil, s.connectionID(t0, victim, 0), 2, &proto.Announce{Port: 1, Left: 1, NumWant: 1000}, "")
	out := s.handleUDP(t0, valid, victim, nil)
	r, err := proto.ParseUDPReply(out, false)
	if err != nil || len(out) > proto.ReplyDatagramBytes || len(r.Announce.Peers) < 190 {
		t.Errorf("%d bytes, %d peers, %v", len(out), len(r.Announce.Peers), err)
	}
	if st := s.Stats(); st.BadConnectionIDs != 2 || st.MalformedDatagrams != 4 {
		t.Errorf("stats %+v", st)
	}
}

func FuzzHandleUDP(f *testing.F) {
	s := New(Config{MaxTorrents: 100, RequestsPerMinute: 1 << 30})
	a := ip("192.0.2.1")
	id := s.connectionID(t0, a, 0)
	f.Add(proto.AppendConnect(nil, 1))
	f.Add(proto.AppendUDPAnnounce(nil, id, 2, &proto.Announce{Port: 1}, "/x"))
	f.Add(proto.AppendUDPScrape(nil, id, 2, make([]bt.InfoHash, 3)))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) >= 16 && binary.BigEndian.Uint64(in) != id {
			if out := s.handleUDP(t0, in, a, nil); len(out) > len(in) {
				t.Errorf("%d bytes for %d without a connection id", len(out), len(in))
			}
			binary.BigEndian.PutUint64(in, id)
		}
		if out := s.handleUDP(t0, in, a, nil); len(out) > proto.ReplyDatagramBytes {
			t.Errorf("%d bytes", len(out))
		}
		s.store.check(t)
	})
}

// serve runs a server on loopback until the test ends.
func serve(t *testing.T, s *Server) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr()
}

// TestServeEndsWithConnectionsOpen checks that clients which do nothing do not hold up the end.
func TestServeEndsWithConnectionsOpen(t *testing.T) {
	addr := serve(t, New(Config{MaxConns: 2}))
	for range 3 { // the third waits to be accepted
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /announce HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServeFreesPlaces checks that a closed connection gives its place back.
func TestServeFreesPlaces(t *testing.T) {
	addr := serve(t, New(Config{MaxConns: 1}))
	tr := &http.Transport{DisableKeepAlives: true}
	for i := range 5 {
		resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("http://" + addr.String() + "/scrape")
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
	}
}

// pipeListener hands out connections of chosen remote addresses.
type pipeListener struct{ conns chan net.Conn }

func (l *pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *pipeListener) Close() error   { return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

type fromConn struct {
	net.Conn
	from string
}

func (c fromConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}

func TestConnectionsPerSource(t *testing.T) {
	l := &pipeListener{conns: make(chan net.Conn, 16)}
	limited := &limitListener{Listener: l, slots: make(chan struct{}, 8), done: make(chan struct{}), perSource: 2, sources: map[netip.Addr]int{}}
	for _, from := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.2:1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"} {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		l.conns <- fromConn{a, from}
	}
	close(l.conns)
	var got []string
	var conns []net.Conn
	for {
		c, err := limited.Accept()
		if err != nil {
			break
		}
		got, conns = append(got, c.RemoteAddr().String()), append(conns, c)
	}
	if want := "192.0.2.1:1 192.0.2.1:2 192.0.2.2:1 127.0.0.1:1 127.0.0.1:2 127.0.0.1:3"; strings.Join(got, " ") != want {
		t.Errorf("accepted %v, want %s", got, want)
	}
	for _, c := range conns {
		c.Close()
		c.Close() // twice gives one place back
	}
	if len(limited.slots) != 0 || len(limited.sources) != 0 {
		t.Errorf("%d slots and %d sources still taken", len(limited.slots), len(limited.sources))
	}
}

func TestCloseEndsAnAcceptThatWaitsForAPlace(t *testing.T) {
	limited := &limitListener{Listener: &pipeListener{}, slots: make(chan struct{}), done: make(chan struct{})}
	ended := make(chan error)
	go func() {
		_, err := limited.Accept()
		ended <- err
	}()
	if err := limited.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	limited.Close() // again is fine
}

func TestServeUDPEnds(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(Config{}).ServeUDP(ctx, conn) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := New(Config{}).ServeUDP(t.Context(), conn); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed socket: %v", err)
	}
}
