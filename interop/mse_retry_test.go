//go:build linux

package interop

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
)

// TestMSERetry: libtorrent 2.0.8 fails with every 256th MSE hello that it answers, when the secret of both begins with a zero. Hundreds of clients dial it, once each, and each is connected,
// since a hello that was answered and came to nothing is tried once more with another key, at once. PARLEY_MSE_DIALS says how many clients, for who wants to measure.
func TestMSERetry(t *testing.T) {
	dials := 300
	if s := os.Getenv("PARLEY_MSE_DIALS"); s != "" {
		var err error
		if dials, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	torrent := createTorrent(t, single)
	mi, err := parley.LoadTorrent(torrent)
	if err != nil {
		t.Fatal(err)
	}
	p, addr := libtorrent(t, "--torrent", torrent, "--dir", t.TempDir(), "--enc", "forced", "--level", "rc4")
	p.event("added") // before that it would close without a word
	to := newCounter(t, addr)
	var mu sync.Mutex
	var all, slowest []time.Duration
	failed := 0
	from := time.Now()
	work := make(chan struct{})
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for range work {
				took, failures := dialOnce(t, mi, to.addr)
				mu.Lock()
				all = append(all, took)
				failed += failures
				mu.Unlock()
			}
		})
	}
	for range dials {
		work <- struct{}{}
	}
	close(work)
	workers.Wait()
	took := time.Since(from)
	slices.Sort(all)
	slowest = all[max(0, len(all)-8):]
	n, refused := to.counts()
	t.Logf("%d clients in %v: %d connections, so %d hellos tried again; %d closed by libtorrent after its key; %d ladders came to nothing", dials, took.Round(time.Millisecond), n, n-dials, refused, failed)
	t.Logf("connected after %v (median), the slowest %v", all[len(all)/2].Round(100*time.Microsecond), slowest)
	// Two failures in a row are one in 65,536.
	if most := 1 + dials/5000; failed > most {
		t.Errorf("%d ladders came to nothing, want %d at most", failed, most)
	}
	if most := 5 + dials/50; n-dials > most {
		t.Errorf("%d connections for %d clients, want %d at most", n, dials, dials+most)
	}
}

// dialOnce connects a client of its own to addr, and returns how long it took and how often the whole of the ladder failed.
func dialOnce(t *testing.T, mi *metainfo.MetaInfo, addr string) (took time.Duration, failures int) {
	cfg := mseOnly(parley.MSEOnlyRC4)
	cfg.NoListen = true
	client, err := parley.NewClient(cfg)
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	defer client.Close()
	defer time.AfterFunc(patience, func() { client.Close() }).Stop()
	tor, err := client.AddTorrent(mi, parley.TorrentOptions{NoDownload: true})
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	events := tor.Events(t.Context())
	from := time.Now()
	tor.AddPeers(netip.MustParseAddrPort(addr))
	for ev := range events {
		switch ev.Kind {
		case parley.EventPeerConnected:
			if h := ev.Peer.Info().Hello; h != parley.HelloMSE {
				t.Errorf("hello %v", h)
			}
			return time.Since(from), failures
		case parley.EventDialFailed:
			t.Logf("dial failed: %v", ev.Err)
			failures++
		}
	}
	t.Errorf("not connected after %v", time.Since(from))
	return time.Since(from), failures
}

// A counter leads to another address, and counts what becomes of the connections.
type counter struct {
	addr    string
	mu      sync.Mutex
	n       int
	refused int // closed by who was dialled after it had said something
}

func newCounter(t *testing.T, to string) *counter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &counter{addr: l.Addr().String()}
	var group sync.WaitGroup
	t.Cleanup(func() { l.Close(); group.Wait() })
	group.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.n++
			s.mu.Unlock()
			group.Go(func() { s.lead(a, to) })
		}
	})
	return s
}

func (s *counter) lead(a net.Conn, to string) {
	defer a.Close()
	b, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer b.Close()
	ours := make(chan struct{})
	go func() {
		pass(b, a)
		close(ours)
		b.Close()
	}()
	said := pass(a, b)
	select {
	case <-ours:
	default:
		if said > 0 {
			s.mu.Lock()
			s.refused++
			s.mu.Unlock()
		}
	}
	a.Close()
	<-ours
}

// pass passes on what comes until something fails, and returns how much it was.
func pass(dst, src net.Conn) (n int) {
	buf := make([]byte, 16<<10)
	for {
		m, err := src.Read(buf)
		n += m
		if err != nil {
			return n
		}
		if _, err := dst.Write(buf[:m]); err != nil {
			return n
		}
	}
}

// counts returns how many connections there were, and how many of them the other side closed after it had answered.
func (s *counter) counts() (connections, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.refused
}
