package dialguard

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/parley-bt/parley/internal/netpolicy"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// number returns the i-th of many global addresses.
func number(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)
}

func numbers(from, to int) (all []netip.AddrPort) {
	for i := from; i < to; i++ {
		all = append(all, number(i))
	}
	return all
}

var (
	user    = Source{Origin: User}
	tracker = Source{Tracker, "http://tracker.example/announce"}
	dht     = Source{Origin: DHT}
)

func peer(i int) Source { return Source{Peer, fmt.Sprint(i)} }

// add adds addresses that a global source names.
func (p *Pool) add(now time.Time, s Source, addrs ...netip.AddrPort) int {
	return p.Add(now, s, netpolicy.Policy{}, netpolicy.Global, addrs...)
}

// drain takes all that may be dialled now and counts it by source.
func (p *Pool) drain(now time.Time) map[Source]int {
	n := make(map[Source]int)
	for c, ok := p.Next(now); ok; c, ok = p.Next(now) {
		n[c.Source]++
	}
	return n
}

func TestOrigins(t *testing.T) {
	seen := map[string]bool{}
	for o := User; o <= Link; o++ {
		seen[o.String()] = true
	}
	if len(seen) != 6 || Origin(99).String() != "link" {
		t.Errorf("origins are called %v", seen)
	}
}

// A source gets so many dials a minute, however many addresses it names, and others do not wait for it.
func TestDialsPerSource(t *testing.T) {
	var p Pool
	if n := p.add(epoch, peer(1), numbers(0, 150)...); n != 150 {
		t.Fatalf("kept %d", n)
	}
	p.add(epoch, tracker, numbers(1000, 1010)...)
	p.add(epoch, user, numbers(2000, 2100)...)
	got := p.drain(epoch)
	if got[peer(1)] != DialsPerMinute || got[tracker] != 10 || got[user] != 100 {
		t.Errorf("dialled %v", got)
	}
	if at := p.NextAt(epoch); !at.Equal(epoch.Add(time.Minute)) {
		t.Errorf("next at %v", at.Sub(epoch))
	}
	if got := p.drain(epoch.Add(time.Minute - 1)); len(got) != 0 {
		t.Errorf("dialled %v within the minute", got)
	}
	if got := p.drain(epoch.Add(time.Minute)); got[peer(1)] != DialsPerMinute {
		t.Errorf("dialled %v in the next minute", got)
	}
	// In any minute, not only in those that begin with a dial.
	var q Pool
	q.add(epoch, peer(1), numbers(0, 200)...)
	var at []time.Time
	for s := range 300 {
		now := epoch.Add(time.Duration(s) * time.Second)
		for range 3 {
			if _, ok := q.Next(now); ok {
				at = append(at, now)
			}
		}
	}
	for i := range at {
		if j := i + DialsPerMinute; j < len(at) && at[j].Sub(at[i]) < time.Minute {
			t.Fatalf("more than %d dials between %v and %v", DialsPerMinute, at[i].Sub(epoch), at[j].Sub(epoch))
		}
	}
	if len(at) < 4*DialsPerMinute {
		t.Errorf("only %d dials in five minutes", len(at))
	}
}

func TestTurns(t *testing.T) {
	var p Pool
	p.add(epoch, peer(1), numbers(0, 3)...)
	p.add(epoch, peer(2), numbers(10, 13)...)
	p.add(epoch, user, number(20))
	var order []string
	for c, ok := p.Next(epoch); ok; c, ok = p.Next(epoch) {
		order = append(order, c.Source.Name)
	}
	if fmt.Sprintf("%q", order) != `["" "1" "2" "1" "2" "1" "2"]` {
		t.Errorf("order %q", order)
	}
	if at := p.NextAt(epoch); !at.IsZero() || p.Len() != 0 {
		t.Errorf("next at %v, %d wait", at, p.Len())
	}
}

func TestPoolBounds(t *testing.T) {
	t.Run("a source", func(t *testing.T) {
		var p Pool
		if n := p.add(epoch, dht, numbers(0, MaxPerSource+50)...); n != MaxPerSource+50 || p.Len() != MaxPerSource {
			t.Errorf("kept %d, %d wait", n, p.Len())
		}
		if c, _ := p.Next(epoch); c.Addr != number(50) {
			t.Errorf("the oldest that waits is %v", c.Addr)
		}
	})
	t.Run("the pool: the many lose, the few stay", func(t *testing.T) {
		var p Pool
		p.add(epoch, tracker, numbers(0, 5)...)
		for i := range 100 {
			p.add(epoch, peer(i), numbers(1000*(i+1), 1000*(i+1)+MaxPerSource)...)
		}
		if p.Len() != MaxPool {
			t.Errorf("%d wait", p.Len())
		}
		if got := p.drain(epoch); got[tracker] != 5 {
			t.Errorf("of the tracker's five, %d are left", got[tracker])
		}
	})
	t.Run("sources", func(t *testing.T) {
		var p Pool
		for i := range MaxSources {
			if p.add(epoch, peer(i), number(i)) != 1 {
				t.Fatalf("source %d is refused", i)
			}
		}
		if p.add(epoch, peer(9999), number(9999)) != 0 || p.add(epoch, user, number(8888)) != 1 {
			t.Error("one source too many is taken, or the user refused")
		}
		if p.add(epoch, tracker, number(7777)) != 1 || p.Has(number(1)) || !p.Has(number(2)) || len(p.sources) != MaxSources {
			t.Error("a tracker does not get the place of a peer, the oldest one")
		}
		p.drain(epoch)
		if p.add(epoch, peer(9998), number(9998)) != 1 {
			t.Error("the user's place is not free although nothing of the user's waits")
		}
		p.drain(epoch)
		if p.add(epoch, peer(9999), number(9999)) != 0 {
			t.Error("a source can be forgotten, and its dials with it")
		}
		if p.add(epoch.Add(time.Minute), peer(9999), number(9999)) != 1 || len(p.sources) > 2 {
			t.Errorf("sources that have nothing to say are kept: %d", len(p.sources))
		}
	})
}

// What a source names again, or another has named, waits once.
func TestPoolDuplicates(t *testing.T) {
	var p Pool
	mapped := netip.AddrPortFrom(netip.AddrFrom16(number(1).Addr().As16()), 6881)
	p.add(epoch, peer(1), number(1), number(1), mapped)
	if p.add(epoch, peer(2), number(1)) != 0 || p.Len() != 1 {
		t.Errorf("%d wait", p.Len())
	}
	// The user's word makes it the user's.
	if p.add(epoch, user, number(1)) != 1 || p.Len() != 1 {
		t.Errorf("%d wait", p.Len())
	}
	if c, ok := p.Next(epoch); !ok || c.Source != user || c.Addr != number(1) {
		t.Errorf("%+v", c)
	}
}

func TestPoolPolicy(t *testing.T) {
	for name, tt := range map[string]struct {
		src   Source
		by    netpolicy.Class
		allow string
		addr  string
		want  int
	}{
		"global":                       {peer(1), netpolicy.Global, "", "9.9.9.9:1", 1},
		"private by global":            {peer(1), netpolicy.Global, "", "10.0.0.1:1", 0},
		"loopback by private":          {peer(1), netpolicy.Private, "", "127.0.0.1:1", 0},
		"private by private":           {peer(1), netpolicy.Private, "", "10.0.0.1:1", 1},
		"private by nobody knows whom": {peer(1), 0, "", "10.0.0.1:1", 0},
		"private, allowed":             {peer(1), netpolicy.Global, "10.0.0.0/8", "10.0.0.1:1", 1},
		"loopback by the user":         {user, netpolicy.Global, "", "127.0.0.1:1", 1},
		"nonsense by the user":         {user, netpolicy.Loopback, "", "0.0.0.0:1", 0},
		"port 0 by the user":           {user, netpolicy.Loopback, "", "9.9.9.9:0", 0},
		"mapped private":               {peer(1), netpolicy.Global, "", "[::ffff:10.0.0.1]:1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var p Pool
			var policy netpolicy.Policy
			if tt.allow != "" {
				policy.Allow = []netip.Prefix{netip.MustParsePrefix(tt.allow)}
			}
			if got := p.Add(epoch, tt.src, policy, tt.by, netip.MustParseAddrPort(tt.addr)); got != tt.want || p.Len() != tt.want {
				t.Errorf("kept %d, %d wait", got, p.Len())
			}
		})
	}
	var p Pool
	if p.add(epoch, user, netip.AddrPort{}) != 0 || len(p.sources) != 0 {
		t.Error("no address at all is kept")
	}
}

// Who lies loses what waits, and no dials come back by it.
func TestForget(t *testing.T) {
	var p Pool
	p.add(epoch, peer(1), numbers(0, 100)...)
	p.add(epoch, peer(2), numbers(200, 201)...)
	p.Forget(peer(3))
	for range 2 * 10 {
		p.Next(epoch)
	}
	p.Forget(peer(1))
	if p.Len() > 1 {
		t.Errorf("%d wait", p.Len())
	}
	p.add(epoch, peer(1), numbers(300, 400)...)
	if got := p.drain(epoch)[peer(1)]; got > DialsPerMinute-19 {
		t.Errorf("%d more dials", got)
	}
}

// However many torrents, sources and ports name it, a host is dialled so often in any ten minutes.
func TestTargets(t *testing.T) {
	var ts Targets
	victim := netip.MustParseAddr("9.9.9.9")
	var at []time.Time
	for s := range 3600 {
		now := epoch.Add(time.Duration(s) * time.Second)
		if ts.Allow(now, victim) {
			at = append(at, now)
		}
		if !ts.Allow(now, number(s).Addr()) {
			t.Fatal("another host is refused")
		}
	}
	if len(at) != 6*DialsPerTarget {
		t.Errorf("%d dials in an hour", len(at))
	}
	for i := range at {
		if j := i + DialsPerTarget; j < len(at) && at[j].Sub(at[i]) < TargetWindow {
			t.Fatalf("more than %d dials within %v", DialsPerTarget, at[j].Sub(at[i]))
		}
	}
}

func TestTargetsByNetwork(t *testing.T) {
	for name, addr := range map[string]func(i int) string{
		"one address":           func(int) string { return "9.9.9.9" },
		"mapped":                func(i int) string { return []string{"9.9.9.9", "::ffff:9.9.9.9"}[i%2] },
		"one IPv6 network":      func(i int) string { return fmt.Sprintf("2a00:1:2:3::%x", i) },
		"with and without zone": func(i int) string { return []string{"fe80::1", "fe80::1%eth0"}[i%2] },
	} {
		t.Run(name, func(t *testing.T) {
			var ts Targets
			n := 0
			for i := range 100 {
				if ts.Allow(epoch, netip.MustParseAddr(addr(i))) {
					n++
				}
			}
			if n != DialsPerTarget {
				t.Errorf("%d dials", n)
			}
		})
	}
	var ts Targets
	for i := range 100 {
		if !ts.Allow(epoch, netip.MustParseAddr(fmt.Sprintf("2a00:1:2:%x::1", i))) {
			t.Fatal("another network is refused")
		}
	}
}

// A host where peers answer may be dialled as often as they do.
func TestTargetsAnswered(t *testing.T) {
	var ts Targets
	a := number(1).Addr()
	for i := range 100 {
		if !ts.Allow(epoch, a) {
			t.Fatalf("dial %d is refused", i)
		}
		ts.Answered(a)
	}
	if len(ts.hosts) != 0 {
		t.Errorf("%d hosts kept", len(ts.hosts))
	}
	for i := range DialsPerTarget {
		if !ts.Allow(epoch, a) {
			t.Fatalf("dial %d is refused", i)
		}
	}
	ts.Answered(a)
	if !ts.Allow(epoch, a) || ts.Allow(epoch, a) {
		t.Error("one answer gives not one dial")
	}
	ts.Answered(number(2).Addr()) // nobody dialled it
	ts.Answered(netip.Addr{})
}

func TestTargetsAreBounded(t *testing.T) {
	var ts Targets
	for i := range MaxTargets {
		if !ts.Allow(epoch, number(i).Addr()) {
			t.Fatalf("host %d is refused", i)
		}
	}
	later := epoch.Add(TargetWindow / 2)
	if ts.Allow(later, number(MaxTargets).Addr()) || !ts.Allow(later, number(0).Addr()) {
		t.Error("one host too many is taken, or one that is known refused")
	}
	after := epoch.Add(TargetWindow)
	if !ts.Allow(after, number(MaxTargets).Addr()) || len(ts.hosts) != 2 {
		t.Errorf("%d hosts kept after the window", len(ts.hosts))
	}
}

func TestBackoff(t *testing.T) {
	var b Backoff
	rng := rand.New(rand.NewPCG(1, 0))
	now := epoch
	want := FirstRetry
	for i := range 40 {
		next := b.Failed(now, number(1), rng)
		if d := next.Sub(now); d < want || d > want+want/4 {
			t.Fatalf("failure %d: wait %v, want %v and up to a quarter", i, d, want)
		}
		if b.Ready(next.Add(-1), number(1)) || !b.Ready(next, number(1)) || !b.Ready(now, number(2)) {
			t.Fatalf("failure %d: ready at the wrong time", i)
		}
		now, want = next, min(2*want, LastRetry)
	}
	b.Succeeded(number(1))
	if !b.Ready(now, number(1)) || b.Len() != 0 {
		t.Error("a success leaves something behind")
	}
	b.Ban(number(1), now.Add(time.Hour))
	b.Ban(number(1), now.Add(time.Minute))
	if b.Ready(now.Add(time.Hour-1), number(1)) || !b.Ready(now.Add(time.Hour), number(1)) {
		t.Error("a ban ends at the wrong time")
	}
}

// The table is bounded, and the oldest failures are those that are forgotten.
func TestBackoffIsBounded(t *testing.T) {
	var b Backoff
	rng := rand.New(rand.NewPCG(1, 0))
	b.Ban(number(-1), epoch.Add(time.Hour))
	for i := range 3 * MaxBackoff {
		b.Failed(epoch, number(i), rng)
		b.Failed(epoch, number(i), rng)
		if i%7 == 0 {
			b.Ban(number(-1), epoch.Add(time.Hour+time.Duration(i))) // new again and again: it stays
		}
		if i%3 == 0 {
			b.Succeeded(number(i))
		}
	}
	if b.Len() != MaxBackoff || len(b.order) > 2*MaxBackoff {
		t.Errorf("%d entries, %d places", b.Len(), len(b.order))
	}
	if b.Ready(epoch, number(-1)) || b.Ready(epoch, number(3*MaxBackoff-1)) || !b.Ready(epoch, number(1)) {
		t.Error("the wrong ones are forgotten")
	}
	// Two addresses that fail for ever do not push out the others.
	held := b.Len()
	for range 5 * MaxBackoff {
		b.Failed(epoch, number(-1), rng)
		b.Failed(epoch, number(3*MaxBackoff-1), rng)
	}
	if b.Len() != held || len(b.order) > 2*MaxBackoff {
		t.Errorf("%d entries of %d, %d places", b.Len(), held, len(b.order))
	}
}

// The vectors of BEP 40, and what follows from its text.
func TestPriority(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want uint32
	}{
		{"123.213.32.10:1", "98.76.54.32:2", 0xec2d7224},
		{"123.213.32.10:1", "123.213.32.234:2", 0x99568189},
	} {
		a, b := netip.MustParseAddrPort(tt.a), netip.MustParseAddrPort(tt.b)
		if got, back := Priority(a, b), Priority(b, a); got != tt.want || back != tt.want {
			t.Errorf("%v and %v: %08x, %08x; want %08x", a, b, got, back, tt.want)
		}
	}
	for _, tt := range []struct {
		name, a, b, c string
		same          bool // the priority of a and b is that of a and c
	}{
		{"far away, every second bit", "1.2.3.4:1", "9.8.0.0:1", "9.8.170.170:1", true},
		{"far away, the other bits", "1.2.3.4:1", "9.8.0.0:1", "9.8.0.1:1", false},
		{"in one /16, the third byte", "1.2.3.4:1", "1.2.0.0:1", "1.2.170.0:1", false},
		{"in one /16, the fourth", "1.2.3.4:1", "1.2.0.0:1", "1.2.0.170:1", true},
		{"in one /24", "1.2.3.4:1", "1.2.3.0:1", "1.2.3.170:1", false},
		{"ports do not count", "1.2.3.4:1", "9.8.0.0:1", "9.8.0.0:2", true},
		{"one address: ports count", "1.2.3.4:1", "1.2.3.4:2", "1.2.3.4:3", false},
		{"mapped", "1.2.3.4:1", "9.8.0.0:1", "[::ffff:9.8.0.0]:1", true},
		{"IPv6, far away, every second bit", "[2a00:1:2:3::]:1", "[2a00:1:3:0::]:1", "[2a00:1:3:aaaa::aaaa]:1", true},
		{"IPv6, in one /48", "[2a00:1:2:300::]:1", "[2a00:1:2:0::]:1", "[2a00:1:2:aa00::]:1", false},
		{"IPv6, in one /48, behind /56", "[2a00:1:2:300::]:1", "[2a00:1:2:0::]:1", "[2a00:1:2:aa::aaaa]:1", true},
		{"IPv6, in one /56", "[2a00:1:2:300::]:1", "[2a00:1:2:301::]:1", "[2a00:1:2:3ab::]:1", false},
	} {
		p := netip.MustParseAddrPort
		if got := Priority(p(tt.a), p(tt.b)) == Priority(p(tt.a), p(tt.c)); got != tt.same {
			t.Errorf("%s: same %v", tt.name, got)
		}
	}
	// Of two families, whichever way round.
	a, b := netip.MustParseAddrPort("1.2.3.4:1"), netip.MustParseAddrPort("[2a00::1]:1")
	if Priority(a, b) != Priority(b, a) {
		t.Error("not symmetric")
	}
	Priority(netip.AddrPort{}, a) // no address is no reason to panic
}

func TestKeep(t *testing.T) {
	var p Pool
	p.add(epoch, tracker, numbers(0, 5)...)
	p.add(epoch, dht, numbers(10, 15)...)
	p.Keep(func(s Source) bool { return s.Origin == Tracker })
	if p.Len() != 5 || !p.Has(number(0)) || p.Has(number(10)) {
		t.Errorf("%d are left", p.Len())
	}
	if got := p.drain(epoch); got[tracker] != 5 || len(got) != 1 {
		t.Errorf("dialled %v", got)
	}
}

func TestFailures(t *testing.T) {
	var b Backoff
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 3 {
		if got := b.Failures(number(1)); got != i {
			t.Errorf("%d failures are known of %d", got, i)
		}
		b.Failed(epoch, number(1), rng)
	}
	if b.Succeeded(number(1)); b.Failures(number(1)) != 0 || b.Failures(number(2)) != 0 {
		t.Error("failures that never were")
	}
}
