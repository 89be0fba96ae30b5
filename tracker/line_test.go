package tracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/tracker/proto"
)

// crowd announces n torrents at once and returns how long each took, in virtual time, and its error.
func crowd(c *Client, n int, url func(i int) string) (took []time.Duration, errs []error) {
	took, errs = make([]time.Duration, n), make([]error, n)
	start := time.Now()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			_, errs[i] = c.Announce(context.Background(), url(i), FromUser, &Request{InfoHash: bt.InfoHash{byte(i >> 8), byte(i)}})
			took[i] = time.Since(start)
		})
	}
	all.Wait()
	return took, errs
}

// Two thousand torrents of one tracker are never more than 16 sockets, and of many trackers never more than 64.
func TestAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name     string
		trackers int
		want     int64
	}{{"one tracker", 1, maxAtOnceTracker}, {"many trackers", 50, maxAtOnce}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var open, most int64
				var mu sync.Mutex
				count := func(n int64) {
					mu.Lock()
					open += n
					most = max(most, open)
					mu.Unlock()
				}
				cfg := udpWorld(func(now time.Duration, in []byte) [][]byte {
					q, err := proto.ParseUDPRequest(in)
					if err != nil {
						t.Error(err)
					}
					return honest(q)
				})
				dial := cfg.Dial
				cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					count(1)
					time.Sleep(50 * time.Millisecond)
					c, err := dial(ctx, network, address)
					return &countedConn{Conn: c, count: count}, err
				}
				cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) { return ips("192.0.2.1"), nil }
				c := NewClient(cfg)
				_, errs := crowd(c, 2000, func(i int) string { return fmt.Sprintf("udp://t%d.example:80/announce", i%tt.trackers) })
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
				if most != tt.want || open != 0 {
					t.Errorf("%d sockets at once, %d left, want %d and 0", most, open, tt.want)
				}
				if c.line.active != 0 || len(c.line.hosts) != 0 {
					t.Errorf("left in the line: %d, %v", c.line.active, c.line.hosts)
				}
			})
		})
	}
}

type countedConn struct {
	net.Conn
	count func(int64)
	once  sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.count(-1) })
	return c.Conn.Close()
}

// A dead tracker is found dead by those whose turn it is, and nobody behind them waits for the same; a live one beside it is not held up.
func TestDeadTrackerIsFoundDeadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := udpWorld(nil)
		live := udpWorld(func(_ time.Duration, in []byte) [][]byte {
			q, _ := proto.ParseUDPRequest(in)
			return honest(q)
		})
		cfg.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "dead.example" {
				return ips("192.0.2.66"), nil
			}
			return ips("192.0.2.1"), nil
		}
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "192.0.2.66:80" {
				<-ctx.Done()
				return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
			}
			return live.Dial(ctx, network, address)
		}
		took, errs := crowd(NewClient(cfg), 2000, func(i int) string {
			if i%2 == 0 {
				return "udp://dead.example:80/announce"
			}
			return "udp://live.example:80/announce"
		})
		for i := range took {
			if i%2 == 1 && (errs[i] != nil || took[i] > time.Second) {
				t.Fatalf("the live tracker, %d: %v after %v", i, errs[i], took[i])
			}
			if i%2 == 0 && (errs[i] == nil || took[i] != DefaultTimeout) {
				t.Fatalf("the dead tracker, %d: %v after %v", i, errs[i], took[i])
			}
		}
	})
}

// A refusal says nothing about others, and who gives up leaves the line.
func TestLine(t *testing.T) {
	var l line
	for range maxAtOnceTracker {
		if err := l.enter(t.Context(), "a", ordinary); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.enter(ctx, "a", ordinary); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := len(l.hosts["a"].waiting); n != 0 {
		t.Errorf("%d wait", n)
	}
	got := make(chan error)
	for range 2 {
		go func() { got <- l.enter(t.Context(), "a", ordinary) }()
	}
	for waiting := 0; waiting < 2; {
		l.mu.Lock()
		waiting = len(l.hosts["a"].waiting)
		l.mu.Unlock()
	}
	l.leave("a", nil)
	if err := <-got; err != nil {
		t.Error(err)
	}
	down := errors.New("down")
	l.leave("a", down)
	if err := <-got; err != down {
		t.Error(err)
	}
	for range maxAtOnceTracker - 1 {
		l.leave("a", nil)
	}
	if l.active != 0 || len(l.hosts) != 0 {
		t.Errorf("left: %d, %v", l.active, l.hosts)
	}
	for err, want := range map[error]bool{
		&FailureError{Reason: "no"}: false, &StatusError{Code: 500}: false, errNoReply: true, context.DeadlineExceeded: true, context.Canceled: false,
		&net.OpError{Op: "read", Err: errors.New("reset")}: false, &net.OpError{Op: "dial", Err: errors.New("refused")}: true, &net.DNSError{}: true,
	} {
		if (unreachable(t.Context(), err) != nil) != want {
			t.Errorf("%v: unreachable is not %v", err, want)
		}
		if unreachable(ctx, err) != nil {
			t.Errorf("%v: unreachable although the caller gave up", err)
		}
	}
}

// Last announces do not wait for ordinary ones, nor those that matter for others; of equals UDP comes first, and then who has waited longest.
func TestLineUrgency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		enter := func(host string, u urgency) {
			if err := l.enter(t.Context(), host, u); err != nil {
				t.Error(err)
			}
		}
		for i := range maxAtOnce { // nobody has a place to spare
			enter(fmt.Sprint("busy", i%8), ordinary)
		}
		var got []string
		var all sync.WaitGroup
		for i, w := range []struct {
			host string
			u    urgency
		}{{"a", ordinary}, {"b", last}, {"a", lastMatters}, {"u", lastUDP}, {"b", lastMatters}, {"u", lastMattersUDP}, {"c", ordinary}, {"a", last}, {"c", lastMatters}} {
			all.Go(func() {
				enter(w.host, w.u)
				got = append(got, fmt.Sprint(w.host, w.u))
			})
			synctest.Wait()
			if len(got) != 0 {
				t.Fatalf("number %d did not wait", i)
			}
		}
		for i := range 9 {
			l.leave(fmt.Sprint("busy", i%8), nil)
			synctest.Wait()
			if len(got) != i+1 {
				t.Fatalf("after %d places: %v", i+1, got)
			}
		}
		all.Wait()
		order := func(s []string) []string { slices.Sort(s); return s }
		if got[0] != "u4" || !slices.Equal(order(got[1:4]), []string{"a3", "b3", "c3"}) || got[4] != "u2" || !slices.Equal(order(got[5:7]), []string{"a1", "b1"}) || !slices.Equal(order(got[7:]), []string{"a0", "c0"}) {
			t.Errorf("the order is %v", got)
		}
	})
}

// When there is no time to tell a tracker of the end of all torrents, it hears of those that somebody misses.
func TestEndOfManyTorrents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const torrents, each = 400, 10 // of which every tenth is missed
		var mu sync.Mutex
		started, stopped := map[bt.InfoHash]bool{}, map[bt.InfoHash]bool{}
		cfg := udpWorld(func(_ time.Duration, in []byte) [][]byte {
			q, err := proto.ParseUDPRequest(in)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if q.Action == proto.ActionAnnounce {
				switch q.Announce.Event {
				case EventStarted:
					started[q.Announce.InfoHash] = true
				case EventStopped:
					stopped[q.Announce.InfoHash] = true
				}
			}
			return honest(q)
		})
		dial := cfg.Dial
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			time.Sleep(50 * time.Millisecond)
			return dial(ctx, network, address)
		}
		cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) { return ips("192.0.2.1"), nil }
		c := NewClient(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		hurry := make(chan struct{})
		var all sync.WaitGroup
		for i := range torrents {
			a := NewAnnouncer(AnnouncerConfig{Client: c, InfoHash: bt.InfoHash{byte(i >> 8), byte(i), 1}, Tiers: [][]URL{{{URL: "udp://tracker.example:80", From: FromUser}}},
				Report: func() Progress { return Progress{Left: 1} }, Peers: func([]netip.AddrPort, string, Origin) {}, Missed: func() bool { return i%each == each-1 }, Hurry: hurry})
			all.Go(func() { a.Run(ctx) })
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		cancel()
		time.Sleep(500 * time.Millisecond)
		close(hurry)
		all.Wait()
		mu.Lock() // the tracker may be at the last request still
		defer mu.Unlock()
		if len(started) != torrents || len(stopped) >= torrents || len(stopped) < 2*torrents/each {
			t.Fatalf("%d began and %d ended: the test shows nothing", len(started), len(stopped))
		}
		for i := each - 1; i < torrents; i += each {
			if !stopped[bt.InfoHash{byte(i >> 8), byte(i), 1}] {
				t.Errorf("the tracker did not hear of the end of torrent %d, which had peers", i)
			}
		}
		t.Logf("%d of %d ends were heard of, all %d that matter among them", len(stopped), torrents, torrents/each)
	})
}
