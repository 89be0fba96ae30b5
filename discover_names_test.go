package parley

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/discovery"
	"github.com/parley-bt/parley/metainfo"
)

func udpSocket(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A link has but one info-hash of a hybrid torrent: once the metadata brings the other, trackers, the DHT and the local network hear of both.
func TestBothHashesOfAHybridAnnounced(t *testing.T) {
	for _, link := range []string{"v1", "v2"} {
		t.Run(link, func(t *testing.T) {
			path, mi := someFile(t, CreateOptions{Form: metainfo.FormHybrid})
			m, other := metainfo.Magnet{InfoHash: mi.InfoHash}, mi.InfoHashV2.Truncated()
			if link == "v2" {
				m, other = metainfo.Magnet{InfoHash: other, InfoHashV2: mi.InfoHashV2}, mi.InfoHash
			}
			_, url, _ := embedded(t)
			d := newTable()
			sock, ear := udpSocket(t), udpSocket(t)
			defer ear.Close()
			s := client(t, Config{})
			seed(t, s, mi, path, TorrentOptions{})
			l := client(t, Config{DHT: d, LocalDiscovery: true, localEndpoints: []discovery.Endpoint{{Receive: sock, Send: sock, Group: ear.LocalAddr().(*net.UDPAddr).AddrPort()}}})
			lt, err := l.AddMagnet(m, TorrentOptions{Dir: t.TempDir(), Trackers: [][]string{{url}}, Peers: []netip.AddrPort{s.Addr()}})
			if err != nil {
				t.Fatal(err)
			}
			complete(t, lt)
			until(t, lt, "the tracker lists a seed under both hashes", func(Event) bool {
				seeds := map[bt.InfoHash]int{}
				for _, c := range lt.Scrape(t.Context()) {
					if c.Err != nil {
						t.Fatalf("scrape: %+v", c)
					}
					seeds[c.InfoHash] += c.Seeders
				}
				return len(seeds) == 2 && seeds[m.InfoHash] == 1 && seeds[other] == 1
			})
			var hashes []bt.InfoHash
			for _, s := range lt.Trackers() {
				hashes = append(hashes, s.InfoHash)
			}
			if !slices.Equal(hashes, []bt.InfoHash{m.InfoHash, other}) {
				t.Errorf("announced as %v", hashes)
			}
			for h := range d.asked { // a test that is not told of it never ends
				if h == other {
					break
				}
			}
			if lan := l.discovery.local; !lan.Has(m.InfoHash) || !lan.Has(other) {
				t.Error("the local network does not hear of both")
			}
			if err := lt.Close(); err != nil {
				t.Error(err)
			}
			if lan := l.discovery.local; lan.Has(m.InfoHash) || lan.Has(other) {
				t.Error("the local network still hears of a torrent that has been closed")
			}
		})
	}
}

// What an error has stopped leaves its trackers, and Retry brings it back to them, unless it is paused meanwhile.
func TestRetryAnnouncesAgain(t *testing.T) {
	srv, url, _ := embedded(t)
	path, mi := someFile(t, CreateOptions{})
	s := client(t, Config{})
	seed(t, s, mi, path, TorrentOptions{Trackers: [][]string{{url}}})
	d := newTable()
	l := client(t, Config{DHT: d})
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(inTheWay, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	lt, err := l.AddTorrent(mi, TorrentOptions{Dir: dir, Trackers: [][]string{{url}}})
	if err != nil {
		t.Fatal(err)
	}
	stops := func() {
		t.Helper()
		if err := lt.WaitComplete(t.Context()); err == nil {
			t.Fatal("complete, with a file in the way")
		}
		for end := time.Now().Add(patience); lt.finding(); time.Sleep(10 * time.Millisecond) { // the queue may be about to undo the retry
			if time.Now().After(end) {
				t.Fatal("it still looks for peers")
			}
		}
	}
	stops()
	if err := lt.Retry(); err != nil { // still in the way
		t.Fatal(err)
	}
	stops()
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := lt.Retry(); err != nil {
		t.Fatal(err)
	}
	complete(t, lt) // nobody but the tracker names the seed
	until(t, lt, "the tracker lists it", func(Event) bool { return srv.Stats().Peers == 2 })
	if !lt.finding() {
		t.Error("it does not look for peers")
	}
}

// Trackers are told with more urgency of the end of a torrent that had peers when its end began.
func TestEndIsMissed(t *testing.T) {
	c := client(t, Config{StopTimeout: time.Minute})
	for i, peers := range []int64{0, 1} {
		tor, err := c.AddInfoHash(bt.InfoHash{byte(i + 1)}, TorrentOptions{NoDownload: true})
		if err != nil {
			t.Fatal(err)
		}
		f := tor.find.Load()
		f.peers.Store(peers)
		f.stop()
		f.peers.Store(1 - peers) // connections end, or begin, meanwhile
		f.stop()
		if f.missed.Load() != (peers > 0) {
			t.Errorf("with %d peers missed is %v", peers, f.missed.Load())
		}
		if err := tor.Close(); err != nil {
			t.Error(err)
		}
	}
}

// dhtNode is a DHT node that does nothing but note what it is told.
type dhtNode struct {
	*table
	port  uint16
	knows []netip.AddrPort

	mu             sync.Mutex
	learned, added []netip.AddrPort
}

func (n *dhtNode) Port() uint16            { return n.port }
func (n *dhtNode) Nodes() []netip.AddrPort { return n.knows }
func (n *dhtNode) AddNodes(a ...netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.added = append(n.added, a...)
}
func (n *dhtNode) LearnNode(a netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.learned = append(n.learned, a)
}

// The nodes of two clients hear of each other by their peers, whoever dialled, and each client remembers what its node knows.
func TestDHTNodes(t *testing.T) {
	path, mi := someFile(t, CreateOptions{})
	known := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6881"), netip.MustParseAddrPort("[2001:db8::1]:6881")}
	a, b := &dhtNode{table: newTable(), port: 7001, knows: known}, &dhtNode{table: newTable(), port: 7002}
	state := t.TempDir()
	s, l := client(t, Config{DHT: a, StateDir: state}), client(t, Config{DHT: b})
	st := seed(t, s, mi, path, TorrentOptions{})
	lt, err := l.AddTorrent(mi, TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{s.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, lt)
	for _, x := range []struct {
		n    *dhtNode
		tor  *Torrent
		want string
	}{{a, st, "127.0.0.1:7002"}, {b, lt, "127.0.0.1:7001"}} {
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			x.n.mu.Lock()
			got := slices.Clone(x.n.learned)
			x.n.mu.Unlock()
			if len(got) == 1 && got[0].String() == x.want {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("learned %v, want %s", got, x.want)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		file string // instead of what was remembered
		want []netip.AddrPort
	}{{"", known}, {"nonsense\n\n192.0.2.1:6881\n", known[:1]}, {strings.Repeat("192.0.2.1:6881\n", maxNodes), slices.Repeat(known[:1], maxNodes)}, {strings.Repeat("x", 100*maxNodes), nil}} {
		if tt.file != "" {
			if err := os.WriteFile(filepath.Join(state, nodesName), []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		again := &dhtNode{table: newTable()}
		if err := client(t, Config{DHT: again, StateDir: state}).Close(); err != nil {
			t.Error(err)
		}
		if !slices.Equal(again.added, tt.want) {
			t.Errorf("%.40q: begins with %v, want %v", tt.file, again.added, tt.want)
		}
	}
}
