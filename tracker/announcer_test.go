package tracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/tracker/proto"
)

// world runs HTTP trackers by address, within a bubble, over pipes.
type world struct {
	mu    sync.Mutex
	start time.Time
	log   []string // "time address event left"
	reply map[string]func(a proto.Announce) []byte
	hang  map[string]bool
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// newWorld returns a world that ends with the test, and the client that lives in it.
func newWorld(t *testing.T) (*world, *Client) {
	w := &world{start: time.Now(), reply: map[string]func(proto.Announce) []byte{}, hang: map[string]bool{}}
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: w}
	var served sync.WaitGroup
	served.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		srv.Close()
		served.Wait()
	})
	return w, NewClient(Config{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case l.conns <- far:
			return near, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	a, _, err := proto.ParseAnnounceQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	event := a.Event.String()
	if event == "" {
		event = "regular"
	}
	w.log = append(w.log, fmt.Sprintf("%v %s %s %d", time.Since(w.start).Round(time.Second), r.Host, event, a.Left))
	reply, hang := w.reply[r.Host], w.hang[r.Host]
	w.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	if reply == nil {
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	rw.Write(reply(a))
}

// want compares what the trackers heard since the last call.
func (w *world) want(t *testing.T, lines ...string) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.log, lines) {
		t.Errorf("heard\n\t%s\nwant\n\t%s", strings.Join(w.log, "\n\t"), strings.Join(lines, "\n\t"))
	}
	w.log = nil
}

func (w *world) set(host string, reply func(a proto.Announce) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reply[host] = reply
}

func fixed(r *proto.AnnounceReply) func(proto.Announce) []byte {
	return func(proto.Announce) []byte { return proto.AppendAnnounceReply(nil, r) }
}

func TestAnnouncerLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWorld(t)
		peer := netip.MustParseAddrPort("192.0.2.50:1")
		w.set("192.0.2.1", fixed(&proto.AnnounceReply{Interval: 10 * time.Minute, MinInterval: 2 * time.Minute, Seeders: 4, Leechers: 5, Warning: "hm",
			ExternalIP: netip.MustParseAddr("198.51.100.9"), Peers: []netip.AddrPort{peer, netip.MustParseAddrPort("10.0.0.1:1")}}))
		var left atomic.Int64
		left.Store(100)
		var got []netip.AddrPort
		changed := 0
		a := NewAnnouncer(AnnouncerConfig{Client: c, InfoHash: bt.InfoHash{1}, PeerID: bt.PeerID{2}, Rand: testRand(),
			Tiers:   [][]URL{{{URL: "http://192.0.2.1/key/announce"}}, {{URL: "http://192.0.2.2/announce"}}, {{URL: "gopher://x"}}},
			Report:  func() Progress { return Progress{Port: 6881, Left: left.Load()} },
			Changed: func(Status) { changed++ },
			Peers: func(peers []netip.AddrPort, _ string, by Origin) {
				if by != netpolicy.Global {
					t.Errorf("peers named by %v", by)
				}
				got = append(got, peers...)
			}})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { a.Run(ctx) })

		w.want(t, "0s 192.0.2.1 started 100")
		if !slices.Equal(got, []netip.AddrPort{peer}) || changed != 1 {
			t.Errorf("peers %v, changed %d times", got, changed)
		}
		st := a.Status()
		if s := st[0]; len(st) != 3 || s.Tracker != "http://192.0.2.1" || s.Err != nil || s.Seeders != 4 || s.Leechers != 5 || s.Warning != "hm" || s.Peers != 1 ||
			s.Dropped != 1 || s.ExternalIP != netip.MustParseAddr("198.51.100.9") || s.Next.Sub(s.Last) != 10*time.Minute || s.Announcing {
			t.Errorf("status %+v", st)
		}
		if s := st[1]; s.Seeders != -1 || !s.Last.IsZero() {
			t.Errorf("the other's %+v", s)
		}
		time.Sleep(10 * time.Minute)
		w.want(t, "10m0s 192.0.2.1 regular 100")
		a.WantPeers()
		w.want(t)
		time.Sleep(2 * time.Minute)
		w.want(t, "12m0s 192.0.2.1 regular 100")
		left.Store(0)
		a.Complete()
		w.want(t, "12m0s 192.0.2.1 completed 0")

		// It goes away; the next one takes over, as a seed that it has not seen before; the third is no tracker.
		w.set("192.0.2.1", nil)
		w.set("192.0.2.2", fixed(&proto.AnnounceReply{Interval: time.Hour}))
		time.Sleep(10 * time.Minute)
		w.want(t, "22m0s 192.0.2.1 regular 0", "22m0s 192.0.2.2 started 0")
		st = a.Status()
		if s, ok := errors.AsType[*StatusError](st[0].Err); !ok || s.Code != 502 || st[0].Failures != 1 || st[1].Err != nil {
			t.Errorf("status %+v", st)
		}
		cancel()
		run.Wait()
		synctest.Wait()
		w.mu.Lock()
		slices.Sort(w.log) // both are told at once
		w.mu.Unlock()
		w.want(t, "22m0s 192.0.2.1 stopped 0", "22m0s 192.0.2.2 stopped 0")
	})
}

func TestAnnouncerWithoutATrackerThatIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newWorld(t)
		a := NewAnnouncer(AnnouncerConfig{Client: c, Tiers: [][]URL{{{URL: "gopher://x"}, {URL: "%"}}}, Report: func() Progress { return Progress{} }})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { a.Run(ctx) })
		time.Sleep(1000 * time.Hour)
		for _, s := range a.Status() {
			if _, ok := errors.AsType[*URLError](s.Err); !ok || s.Failures != 1 || !s.Next.IsZero() {
				t.Errorf("%+v", s)
			}
		}
		cancel()
		run.Wait()
	})
}

// TestAnnouncerStopsInTime checks that a tracker that hangs does not hold up the end, and is told if it may have heard us.
func TestAnnouncerStopsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWorld(t)
		w.hang["192.0.2.1"] = true
		a := NewAnnouncer(AnnouncerConfig{Client: c, Tiers: [][]URL{{{URL: "http://192.0.2.1/announce"}}}, Report: func() Progress { return Progress{Port: 1, Left: 1} }})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { a.Run(ctx) })
		synctest.Wait()
		if s := a.Status()[0]; !s.Announcing {
			t.Errorf("status %+v", s)
		}
		time.Sleep(time.Second)
		cancel()
		run.Wait()
		if took := time.Since(w.start); took != time.Second+DefaultStopTimeout {
			t.Errorf("ended after %v", took)
		}
		w.want(t, "0s 192.0.2.1 started 1", "1s 192.0.2.1 stopped 1")
		if s := a.Status()[0]; s.Announcing || !errors.Is(s.Err, context.DeadlineExceeded) {
			t.Errorf("status %+v", s)
		}
	})
}

// TestAnnouncerEndsRightAfterCompletion checks that a download that ends as soon as it is complete counts.
func TestAnnouncerEndsRightAfterCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWorld(t)
		w.set("192.0.2.1", fixed(&proto.AnnounceReply{Interval: time.Hour}))
		left := int64(5)
		a := NewAnnouncer(AnnouncerConfig{Client: c, Tiers: [][]URL{{{URL: "http://192.0.2.1/announce"}}}, Report: func() Progress { return Progress{Port: 1, Left: left} }})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { a.Run(ctx) })
		w.want(t, "0s 192.0.2.1 started 5")
		left = 0
		a.mu.Lock() // so that the announcer does not see the one before the other
		a.tiers.Complete()
		a.mu.Unlock()
		cancel()
		run.Wait()
		w.want(t, "0s 192.0.2.1 completed 0", "0s 192.0.2.1 stopped 0")
	})
}

// TestAnnouncerHurries checks that the last announces end when the program cannot wait.
func TestAnnouncerHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWorld(t)
		w.hang["192.0.2.1"] = true
		hurry := make(chan struct{})
		a := NewAnnouncer(AnnouncerConfig{Client: c, Tiers: [][]URL{{{URL: "http://192.0.2.1/announce"}}}, Report: func() Progress { return Progress{Port: 1, Left: 1} }, Hurry: hurry})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { a.Run(ctx) })
		synctest.Wait()
		cancel()
		time.Sleep(time.Second)
		w.want(t, "0s 192.0.2.1 started 1", "0s 192.0.2.1 stopped 1")
		close(hurry)
		run.Wait()
		if took := time.Since(w.start); took != time.Second {
			t.Errorf("ended after %v", took)
		}
	})
}

// TestAnnouncerRefusal checks that a tracker which says "never" is left alone, and one that names a time is taken at its word.
func TestAnnouncerRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWorld(t)
		w.set("192.0.2.1", func(proto.Announce) []byte { return proto.AppendFailure(nil, &FailureError{Reason: "no", Never: true}) })
		w.set("192.0.2.2", func(proto.Announce) []byte {
			return proto.AppendFailure(nil, &FailureError{Reason: "later", RetryIn: 20 * time.Minute})
		})
		a := NewAnnouncer(AnnouncerConfig{Client: c, Tiers: [][]URL{{{URL: "http://192.0.2.1/announce"}}, {{URL: "http://192.0.2.2/announce"}}},
			Report: func() Progress { return Progress{Port: 1, Left: 1} }})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { a.Run(ctx) })
		w.want(t, "0s 192.0.2.1 started 1", "0s 192.0.2.2 started 1")
		time.Sleep(time.Hour)
		w.want(t, "20m0s 192.0.2.2 started 1", "40m0s 192.0.2.2 started 1", "1h0m0s 192.0.2.2 started 1")
		cancel()
		run.Wait()
		w.want(t) // nobody answered a start, so nobody hears of the end
	})
}

// TestAnnouncerTrackerID checks that the tracker's id comes back to it (BEP 3).
func TestAnnouncerTrackerID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWorld(t)
		var ids []string
		w.set("192.0.2.1", func(a proto.Announce) []byte {
			ids = append(ids, a.TrackerID)
			return proto.AppendAnnounceReply(nil, &proto.AnnounceReply{Interval: time.Minute, TrackerID: "id\x00"})
		})
		a := NewAnnouncer(AnnouncerConfig{Client: c, Tiers: [][]URL{{{URL: "http://192.0.2.1/announce"}}}, Report: func() Progress { return Progress{Port: 1} }})
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		a.Run(ctx)
		if !slices.Equal(ids, []string{"", "id\x00", "id\x00"}) {
			t.Errorf("ids %q", ids)
		}
	})
}
