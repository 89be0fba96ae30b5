package pipeline

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
)

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// link is a peer that answers requests in order over a link with a delay and a bandwidth.
type link struct {
	trip      time.Duration   // there and back
	bandwidth float64         // bytes/s
	free      time.Duration   // when the link to us has sent what it was given
	requests  []time.Duration // when those not answered yet reach the peer
}

// request asks for n blocks at time now.
func (l *link) request(now time.Duration, n int) {
	for range n {
		l.requests = append(l.requests, now+l.trip/2)
	}
}

// next answers a request and returns when the block is here.
func (l *link) next() time.Duration {
	l.free = max(l.requests[0], l.free) + time.Duration(bt.BlockBytes/l.bandwidth*float64(time.Second))
	l.requests = l.requests[1:]
	return l.free + l.trip/2
}

// run drives p over l for a time and returns how many bytes arrived in its last part, from the given time on.
func run(p *Pipeline, l *link, from, until time.Duration, each func(now time.Duration, arrived int)) int {
	bytes, arrived := 0, 0
	send := func(now time.Duration) {
		if n := p.Room(); n > 0 {
			p.Sent(epoch.Add(now), n)
			l.request(now, n)
		}
	}
	send(0)
	for len(l.requests) > 0 {
		now := l.next()
		if now >= until {
			break
		}
		p.Arrived(epoch.Add(now), bt.BlockBytes)
		arrived++
		if now >= from {
			bytes += bt.BlockBytes
		}
		if each != nil {
			each(now, arrived)
		}
		send(now)
	}
	return bytes
}

// TestFillsLink: at least 0.9 of the link is used once under way, and no more is in flight than the margin
// asks for.
func TestFillsLink(t *testing.T) {
	const mib = 1 << 20
	for _, trip := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		for _, bandwidth := range []float64{50 << 10, mib, 5 * mib, 10 * mib} {
			if need := bandwidth * trip.Seconds() / bt.BlockBytes; need > 0.9*MaxDepth {
				continue // no depth in bounds can fill that
			}
			t.Run(fmt.Sprintf("%v %.1f MiB per s", trip, bandwidth/mib), func(t *testing.T) {
				p := &Pipeline{}
				p.SetLimit(2000)
				l := &link{trip: trip, bandwidth: bandwidth}
				from, until := 3*time.Second+10*trip, 20*time.Second+10*trip
				got := float64(run(p, l, from, until, nil)) / (until - from).Seconds()
				if got < 0.9*bandwidth {
					t.Errorf("%.0f bytes/s, want at least 0.9 of %.0f; depth %d", got, bandwidth, p.Depth())
				}
				most := int(bandwidth*1.2*(2*trip+margin).Seconds()/bt.BlockBytes) + 2*MinDepth
				if p.Depth() > most {
					t.Errorf("depth %d, want at most %d", p.Depth(), most)
				}
			})
		}
	}
}

// TestStartsFast: on a fast link several hundred are in flight within the first few MiB, and a link with a
// long delay is full after a few round trips.
func TestStartsFast(t *testing.T) {
	p := &Pipeline{}
	p.SetLimit(500)
	run(p, &link{trip: 100 * time.Microsecond, bandwidth: 1 << 30}, 0, time.Second, func(_ time.Duration, arrived int) {
		if bytes := arrived * bt.BlockBytes; bytes == 3<<20 && p.Depth() < 300 {
			t.Errorf("depth %d after 3 MiB, want at least 300", p.Depth())
		}
	})
	if p.Depth() != MaxDepth {
		t.Errorf("depth %d at 1 GiB/s, want %d", p.Depth(), MaxDepth)
	}

	p = &Pipeline{}
	p.SetLimit(500)
	bytes := run(p, &link{trip: 200 * time.Millisecond, bandwidth: 10 << 20}, time.Second, 2*time.Second, nil)
	if bytes < 9<<20 {
		t.Errorf("%d bytes in the second second, want at least 9 MiB", bytes)
	}
}

// TestFollowsLink: the depth shrinks with the link, and grows with it again without a restart.
func TestFollowsLink(t *testing.T) {
	p := &Pipeline{}
	p.SetLimit(500)
	l := &link{trip: 50 * time.Millisecond, bandwidth: 5 << 20}
	run(p, l, 0, 160*time.Second, func(now time.Duration, _ int) {
		switch {
		case now > 140*time.Second:
			l.bandwidth = 5 << 20
		case now > 20*time.Second:
			l.bandwidth = 100 << 10
		}
		if now > 120*time.Second && now < 140*time.Second && p.Depth() > 20 {
			t.Fatalf("at %v: depth %d at 100 KiB/s, want at most 20", now, p.Depth())
		}
	})
	if p.Depth() < 300 {
		t.Errorf("depth %d twenty seconds after the link got faster, want at least 300", p.Depth())
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name        string
		reqq        int
		first, last int
	}{
		{"said nothing", 0, StartDepth, DefaultReqq},
		{"nonsense", -5, StartDepth, DefaultReqq},
		{"less than the floor", 2, 2, 2},
		{"floor", 4, 4, 4},
		{"small", 50, StartDepth, 50},
		{"ours", 500, StartDepth, 500},
		{"more than ours", 1 << 30, StartDepth, 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &Pipeline{}
			p.SetLimit(tt.reqq)
			if p.Depth() != tt.first {
				t.Errorf("depth %d at first, want %d", p.Depth(), tt.first)
			}
			most := 0
			run(p, &link{trip: time.Millisecond, bandwidth: 1 << 30}, 0, time.Second, func(time.Duration, int) {
				most = max(most, p.Depth(), p.Outstanding())
			})
			if most != tt.last {
				t.Errorf("depth up to %d, want %d", most, tt.last)
			}
			p.SetLimit(3)
			if p.Depth() != min(tt.last, 3) || p.Room() != max(0, p.Depth()-p.Outstanding()) {
				t.Errorf("depth %d and room for %d after the limit fell to 3", p.Depth(), p.Room())
			}
		})
	}
	t.Run("never set", func(t *testing.T) {
		var p Pipeline
		if p.Depth() != StartDepth || p.Room() != StartDepth {
			t.Errorf("depth %d, room %d, want %d", p.Depth(), p.Room(), StartDepth)
		}
	})
}

// TestRoomInBatches: requests are let out several at a time once there are many in flight.
func TestRoomInBatches(t *testing.T) {
	p := &Pipeline{depth: 100, limit: 500}
	p.Sent(epoch, 100)
	for k := 1; k < 12; k++ {
		p.Dropped(epoch, 1)
		if p.Room() != 0 {
			t.Fatalf("room for %d with %d of 100 in flight", p.Room(), p.Outstanding())
		}
	}
	p.Dropped(epoch, 1)
	if p.Room() != 12 {
		t.Errorf("room for %d, want 12", p.Room())
	}
}

func TestSnubbed(t *testing.T) {
	at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }
	want := func(p *Pipeline, s float64, snubbed bool) {
		t.Helper()
		if got := p.Snubbed(at(s)); got != snubbed {
			t.Errorf("snubbed after %v s: %v, want %v", s, got, snubbed)
		}
		if due := p.SnubAt(); !due.IsZero() && !at(s).Before(due) != snubbed {
			t.Errorf("snub due at %v", due.Sub(epoch))
		}
	}
	p := &Pipeline{}
	want(p, 1000, false) // owes nothing
	p.Sent(at(0), 4)
	want(p, 59.9, false)
	want(p, 60, true)
	p.Arrived(at(70), bt.BlockBytes)
	want(p, 99.9, false)
	want(p, 100, true)
	p.Sent(at(99), 1) // asking more is no excuse
	want(p, 100, true)
	p.Dropped(at(101), 100)
	want(p, 200, false)
	if p.Outstanding() != 0 || !p.SnubAt().IsZero() {
		t.Errorf("%d outstanding after all were dropped", p.Outstanding())
	}
	p.Sent(at(300), 4) // after a pause it starts anew
	want(p, 359.9, false)
	want(p, 360, true)
}

// TestRestart: after a long pause a peer is not asked for hundreds of blocks on the strength of the past.
func TestRestart(t *testing.T) {
	p := &Pipeline{}
	p.SetLimit(500)
	run(p, &link{trip: time.Millisecond, bandwidth: 1 << 28}, 0, 5*time.Second, nil)
	if p.Depth() != MaxDepth {
		t.Fatalf("depth %d, want %d", p.Depth(), MaxDepth)
	}
	p.Dropped(epoch.Add(5*time.Second), p.Outstanding())
	p.Sent(epoch.Add(6*time.Second), 1)
	if p.Depth() != MaxDepth {
		t.Errorf("depth %d after a short pause, want %d", p.Depth(), MaxDepth)
	}
	p.Dropped(epoch.Add(6*time.Second), 1)
	p.Sent(epoch.Add(60*time.Second), 1)
	if p.Depth() != StartDepth {
		t.Errorf("depth %d after a long pause, want %d", p.Depth(), StartDepth)
	}
}

func TestMeter(t *testing.T) {
	var m Meter
	if m.Rate(epoch) != 0 {
		t.Errorf("rate %v before anything was added", m.Rate(epoch))
	}
	near := func(now time.Time, want, within float64) {
		t.Helper()
		if got := m.Rate(now); math.Abs(got-want) > want*within {
			t.Errorf("rate %.0f at %v, want %.0f", got, now.Sub(epoch), want)
		}
	}
	// 1,000 per 10 ms: right from the first second on.
	now := epoch
	for ; now.Before(epoch.Add(30 * time.Second)); now = now.Add(10 * time.Millisecond) {
		m.Add(now, 1000)
		if now.Sub(epoch) == time.Second || now.Sub(epoch) == 20*time.Second {
			near(now, 100_000, 0.03)
		}
	}
	near(now, 100_000, 0.03)
	// A third is left after the window, and nothing after many.
	near(now.Add(DefaultWindow), 100_000/math.E, 0.03)
	if r := m.Rate(now.Add(time.Hour)); r > 1 {
		t.Errorf("rate %v an hour later", r)
	}
	// Time going backwards is taken as standing still.
	before := m.Rate(now.Add(time.Hour))
	if got := m.Rate(now); got != before {
		t.Errorf("rate %v in the past, want %v", got, before)
	}
	m.Reset()
	if m.Rate(now) != 0 {
		t.Errorf("rate %v after a reset", m.Rate(now))
	}
	// One burst is not infinitely fast.
	m.Add(now, 1<<20)
	if r := m.Rate(now); r > 1<<20*4.2 || r < 1<<20 {
		t.Errorf("rate %.0f after one burst of 1 MiB", r)
	}
}

func TestNoAllocations(t *testing.T) {
	p := &Pipeline{}
	now := epoch
	if n := testing.AllocsPerRun(1000, func() {
		p.Sent(now, p.Room())
		now = now.Add(time.Millisecond)
		p.Arrived(now, bt.BlockBytes)
		p.Snubbed(now)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkArrived(b *testing.B) {
	p := &Pipeline{}
	now := epoch
	for b.Loop() {
		p.Sent(now, p.Room())
		now = now.Add(time.Millisecond)
		p.Arrived(now, bt.BlockBytes)
	}
}

// TestSlowPeer: a peer that takes seconds for a block owes two, from the first one on, and what it owes is due when it says.
func TestSlowPeer(t *testing.T) {
	p := &Pipeline{}
	if _, known := p.Due(epoch, 0); known || p.Silence(epoch) != 0 {
		t.Error("something is known of a peer that was asked for nothing")
	}
	most := 0
	run(p, &link{trip: 50 * time.Millisecond, bandwidth: 4 << 10}, 0, time.Minute, func(_ time.Duration, arrived int) {
		if arrived > 4 {
			most = max(most, p.Depth(), p.Outstanding())
		}
	})
	if most > MinDepth+1 {
		t.Errorf("up to %d in flight, want at most %d", most, MinDepth+1)
	}
	now := epoch.Add(time.Minute)
	one, known := p.Due(now, 0)
	two, _ := p.Due(now, p.Outstanding())
	if !known || (two-2*one).Abs() > time.Microsecond || one < 2*time.Second || one > time.Minute {
		t.Errorf("%d blocks are due in %v, twice as many in %v", p.Outstanding(), one, two)
	}
	if s := p.Silence(now.Add(time.Second)); s < time.Second || s > 6*time.Second {
		t.Errorf("silent for %v", s)
	}
}
