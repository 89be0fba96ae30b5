package gate

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// host returns an address of the i-th of many sources.
func host(i int) netip.Addr { return netip.AddrFrom4([4]byte{9, byte(i >> 8), byte(i), 1}) }

func TestPrefix(t *testing.T) {
	for _, tt := range []struct {
		name, a, b string
		same       bool
	}{
		{"IPv4, in one /24", "192.0.2.1", "192.0.2.254", true},
		{"IPv4, in two", "192.0.2.1", "192.0.3.1", false},
		{"IPv4-mapped", "192.0.2.1", "::ffff:192.0.2.9", true},
		{"IPv6, in one /56", "2001:db8:0:aa00::1", "2001:db8:0:aaff::2", true},
		{"IPv6, in two", "2001:db8:0:aa00::1", "2001:db8:0:ab00::1", false},
		{"zone", "fe80::1%eth0", "fe80::1%eth1", true},
	} {
		if same := prefixOf(addr(tt.a)) == prefixOf(addr(tt.b)); same != tt.same {
			t.Errorf("%s: one source: %v", tt.name, same)
		}
	}
	if prefixOf(netip.Addr{}).IsValid() {
		t.Error("no address has a network")
	}
}

func TestDefaults(t *testing.T) {
	for _, tt := range []struct {
		name      string
		give, got Config
	}{
		{"zero", Config{}, Config{20, 100, 2e6, 1024, 4 * time.Second}},
		{"none", Config{-1, -1, -1, -1, -1}, Config{0, 100, 0, 0, 4 * time.Second}},
		{"own", Config{1, 2, 3, 4, 5}, Config{1, 2, 3, 4, 5}},
		{"a burst of less than one", Config{Burst: 0.5}, Config{20, 1, 2e6, 1024, 4 * time.Second}},
	} {
		if got := tt.give.resolved(); got != tt.got {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.got)
		}
	}
}

// A story is a budget and a clock.
type story struct {
	*testing.T
	b   *budget
	now time.Time
}

func tell(t *testing.T, cfg Config, maxSources int) *story {
	return &story{t, newBudget(cfg.resolved(), maxSources, 4), epoch}
}

// ask checks what the answer is, and returns who waits.
func (s *story) ask(a netip.Addr, cost int, want verdict) *waiter {
	s.Helper()
	w, v := s.b.ask(s.now, a, cost)
	if v != want {
		s.Fatalf("%v: verdict %d, want %d", a, v, want)
	}
	return w
}

// after lets time pass and checks whose wait ended so, in order.
func (s *story) after(d time.Duration, v verdict, want ...*waiter) {
	s.Helper()
	s.now = s.now.Add(d)
	s.b.advance(s.now)
	s.ended(v, want...)
}

func (s *story) ended(v verdict, want ...*waiter) {
	s.Helper()
	if !slices.Equal(s.b.decided, want) {
		s.Fatalf("%d waits ended, want %d, in order", len(s.b.decided), len(want))
	}
	for i, w := range want {
		if w.verdict != v {
			s.Fatalf("wait %d: verdict %d, want %d", i, w.verdict, v)
		}
	}
	s.b.decided = s.b.decided[:0]
}

func TestBurstThenRate(t *testing.T) {
	s := tell(t, Config{}, 10)
	for range 100 {
		s.ask(host(1), 1, granted)
	}
	first := s.ask(host(1), 1, waiting)
	second := s.ask(addr("9.0.1.77"), 1, waiting) // of the same /24
	other := host(2)
	s.ask(other, 1, granted) // nobody waits for another's source
	if at := s.b.next(); !at.Equal(epoch.Add(50 * time.Millisecond)) {
		t.Errorf("next at %v", at.Sub(epoch))
	}
	s.after(49*time.Millisecond, granted)
	s.after(time.Millisecond, granted, first)
	s.after(49*time.Millisecond, granted)
	s.after(time.Millisecond, granted, second)
	if !s.b.next().IsZero() {
		t.Error("nobody waits, and there is something to do")
	}
}

// One source keeps 80 waiting, which is what can have its turn in time.
func TestHopeless(t *testing.T) {
	s := tell(t, Config{}, 10)
	for range 100 {
		s.ask(host(1), 1, granted)
	}
	for range 80 {
		s.ask(host(1), 1, waiting)
	}
	s.ask(host(1), 1, refused)
	s.now = s.now.Add(4 * time.Second)
	s.b.advance(s.now)
	if st := s.b.stats; st.Granted != 180 || st.TimedOut != 0 {
		t.Errorf("%+v", st)
	}
}

func TestLoopback(t *testing.T) {
	s := tell(t, Config{Total: 1, Queue: -1}, 10)
	s.ask(host(1), 100, granted)
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"} {
		for range 200 {
			s.ask(addr(a), 1000, granted)
		}
	}
	s.ask(host(2), 1, refused)
}

// A cost above what the total saves can be had, and is paid off by those behind.
func TestDebt(t *testing.T) {
	s := tell(t, Config{Total: 100}, 10)
	s.ask(host(1), 225, granted) // 25 saved
	a := s.ask(host(1), 50, waiting)
	b := s.ask(host(2), 1, waiting)
	s.after(2*time.Second, granted)
	s.after(10*time.Millisecond, granted, a)
	s.after(400*time.Millisecond, granted)
	s.after(200*time.Millisecond, granted, b)
}

func TestTimeout(t *testing.T) {
	s := tell(t, Config{Total: 1}, 10)
	s.ask(host(1), 1000, granted)
	a := s.ask(host(1), 1, waiting)
	s.after(time.Second, granted)
	b := s.ask(host(2), 1, waiting)
	s.after(3*time.Second-1, granted)
	s.after(1, timedOut, a)
	s.after(time.Second, timedOut, b)
}

func TestProvenFirst(t *testing.T) {
	s := tell(t, Config{Total: 1000, Queue: 3}, 10)
	s.ask(host(9), 1250, granted) // closed for 1 s
	s.b.prove(s.now, addr("9.0.5.200"))
	a, b, c := s.ask(host(1), 2, waiting), s.ask(host(2), 2, waiting), s.ask(host(3), 2, waiting)
	s.ask(host(4), 2, refused)
	p := s.ask(host(5), 2, waiting) // displaces the newest
	s.ended(refused, c)
	q := s.ask(host(5), 2, waiting)
	s.ended(refused, b)
	s.b.prove(s.now, host(1)) // who waits is promoted, and was first
	s.ask(host(2), 2, refused)
	s.ask(host(5), 2, refused) // none but proven ones wait
	s.after(2*time.Second, granted, a, p, q)
}

// The proven go first, but their source has a budget too.
func TestProvenHasABudget(t *testing.T) {
	s := tell(t, Config{PerSource: 1, Burst: 1}, 10)
	s.b.prove(s.now, host(1))
	s.ask(host(1), 1, granted)
	s.ask(host(1), 1, waiting)
	s.ask(host(2), 1, granted)
}

func TestProvenIsBounded(t *testing.T) {
	s := tell(t, Config{}, 10)
	for i := range 5 {
		s.b.prove(s.now, host(i))
		s.b.prove(s.now, host(0)) // stays
	}
	s.b.prove(s.now, addr("127.0.0.1"))
	for i, want := range []bool{true, false, true, true, true} {
		if got := s.b.isProven(prefixOf(host(i))); got != want {
			t.Errorf("source %d is proven: %v", i, got)
		}
	}
	s.after(provenFor-1, granted)
	if !s.b.isProven(prefixOf(host(0))) {
		t.Error("forgotten too soon")
	}
	s.after(1, granted)
	if s.b.isProven(prefixOf(host(0))) || len(s.b.proven) != 3 || s.b.recent.Len() != 3 {
		t.Error("not forgotten")
	}
}

// A bucket in use is never dropped for others: those share one.
func TestTableFull(t *testing.T) {
	s := tell(t, Config{PerSource: 1, Burst: 2, Queue: -1}, 3)
	for i := range 3 {
		s.ask(host(i), 1, granted)
	}
	s.ask(host(3), 1, granted) // from the shared bucket
	s.ask(host(4), 1, granted)
	s.ask(host(5), 1, refused)
	s.ask(host(0), 1, granted)
	s.ask(host(0), 1, refused) // it is what it was
	s.b.prove(s.now, host(6))
	s.ask(host(6), 1, granted) // the proven share another
	s.after(time.Second, granted)
	for i := 7; i < 9; i++ { // two have a full bucket by now
		s.ask(host(i), 1, granted)
		s.ask(host(i), 1, granted)
		s.ask(host(i), 1, refused)
	}
	s.ask(host(0), 1, granted) // one token of its own
	s.ask(host(0), 1, refused)
	if len(s.b.sources) != 3 {
		t.Errorf("%d sources", len(s.b.sources))
	}
}

// Who is not at it any more leaves no entry behind once others come.
func TestTableShrinks(t *testing.T) {
	s := tell(t, Config{}, 4096)
	for i := range 1000 {
		s.ask(host(i), 1, granted)
	}
	s.after(time.Minute, granted)
	for i := range 500 {
		s.ask(host(1000+i), 1, granted)
	}
	if n := len(s.b.sources); n != 500 {
		t.Errorf("%d sources", n)
	}
}

func TestClockGoesBack(t *testing.T) {
	s := tell(t, Config{PerSource: 1, Burst: 1}, 4)
	s.ask(host(1), 1, granted)
	s.now = epoch.Add(-time.Hour)
	w := s.ask(host(1), 1, waiting)
	s.now = epoch
	s.after(time.Second, granted, w)
}

func TestNoLimits(t *testing.T) {
	s := tell(t, Config{PerSource: -1, Total: -1, Queue: -1}, 4)
	for i := range 10000 {
		s.ask(host(i%7), 1000, granted)
	}
	s = tell(t, Config{PerSource: -1, Total: 1}, 4)
	s.ask(host(1), 2, granted)
	s.ask(host(1), 2, waiting)
}

// A model is the same rules in the plainest way: lists that are searched from the front.
type model struct {
	cfg     Config
	max     int
	total   bucket
	buckets map[netip.Prefix]*bucket // of all that ever came
	shared  [2]bucket
	proven  map[netip.Prefix]bool
	queue   []*modelWaiter
	ended   []*modelWaiter
}

type modelWaiter struct {
	b        *bucket
	proven   func() bool
	cost     float64
	deadline time.Time
	verdict  verdict
	twin     *waiter
}

func newModel(cfg Config, maxSources int) *model {
	one := bucket{rate: cfg.PerSource, burst: cfg.Burst, tokens: cfg.Burst, at: epoch}
	return &model{
		cfg: cfg, max: maxSources, total: bucket{rate: cfg.Total, burst: cfg.Total / 4, tokens: cfg.Total / 4, at: epoch},
		buckets: map[netip.Prefix]*bucket{}, shared: [2]bucket{one, one}, proven: map[netip.Prefix]bool{},
	}
}

func (m *model) waits(b *bucket) (n int) {
	for _, w := range m.queue {
		if w.b == b {
			n++
		}
	}
	return n
}

func (m *model) end(w *modelWaiter, v verdict) {
	if w.verdict = v; v == granted {
		w.b.tokens--
		m.total.tokens -= w.cost
	}
	m.queue = slices.DeleteFunc(m.queue, func(x *modelWaiter) bool { return x == w })
	m.ended = append(m.ended, w)
}

func (m *model) advance(now time.Time) {
	m.total.refill(now)
	for _, b := range m.buckets {
		b.refill(now)
	}
	m.shared[0].refill(now)
	m.shared[1].refill(now)
	for m.total.tokens > 0 {
		var next *modelWaiter
		for _, w := range m.queue {
			if w.b.has(1) && (next == nil || w.proven() && !next.proven()) {
				next = w
			}
		}
		if next == nil {
			break
		}
		m.end(next, granted)
	}
	for len(m.queue) > 0 && !now.Before(m.queue[0].deadline) {
		m.end(m.queue[0], timedOut)
	}
}

func (m *model) ask(now time.Time, a netip.Addr, cost int) (*modelWaiter, verdict) {
	m.advance(now)
	p := prefixOf(a)
	proven := func() bool { return m.proven[p] }
	inUse := func(b *bucket) bool { return !b.has(b.burst) || m.waits(b) > 0 }
	b := m.buckets[p]
	if b == nil || !inUse(b) {
		used := 0
		for _, x := range m.buckets {
			if inUse(x) {
				used++
			}
		}
		if b == nil && used < m.max {
			b = &bucket{rate: m.cfg.PerSource, burst: m.cfg.Burst, tokens: m.cfg.Burst, at: now}
			m.buckets[p] = b
		} else if used >= m.max {
			i := 0
			if m.proven[p] {
				i = 1
			}
			b, proven = &m.shared[i], func() bool { return i == 1 }
		}
	}
	if m.total.tokens > 0 && b.has(1) {
		b.tokens--
		m.total.tokens -= float64(cost)
		return nil, granted
	}
	if b.until(float64(m.waits(b)+1)).Sub(now) > m.cfg.MaxWait {
		return nil, refused
	}
	if len(m.queue) >= m.cfg.Queue {
		var victim *modelWaiter
		for _, w := range m.queue {
			if !w.proven() {
				victim = w
			}
		}
		if !proven() || victim == nil {
			return nil, refused
		}
		m.end(victim, refused)
	}
	w := &modelWaiter{b: b, proven: proven, cost: float64(cost), deadline: now.Add(m.cfg.MaxWait)}
	m.queue = append(m.queue, w)
	return w, waiting
}

// The budget and the model decide the same, whatever comes; and no more goes than is allowed.
func TestAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	if testing.Verbose() {
		t.Logf("seed %d", seed)
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 200 {
		cfg := Config{
			PerSource: []float64{1, 4, 16}[rng.IntN(3)], Burst: float64(1 + rng.IntN(5)), Total: []float64{4, 64, 1024}[rng.IntN(3)],
			Queue: 1 + rng.IntN(12), MaxWait: time.Duration(1+rng.IntN(16)) * 250 * time.Millisecond,
		}.resolved()
		// Steps of 1/64 s and rates that are powers of two: no sum is rounded, so both see the same tokens.
		const step = time.Second / 64
		sources, hosts := 1+rng.IntN(6), 1+rng.IntN(9)
		b, m := newBudget(cfg, sources, 1000), newModel(cfg, sources)
		now := epoch
		var spent, dearest float64
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, round %d, %+v, %d sources: "+format, append([]any{seed, round, cfg, sources}, args...)...)
		}
		for range 400 {
			switch rng.IntN(12) {
			case 0:
				p := host(rng.IntN(hosts))
				m.advance(now) // as the budget does first
				b.prove(now, p)
				m.proven[prefixOf(p)] = true
			case 1:
				if len(m.queue) > 0 {
					w := m.queue[rng.IntN(len(m.queue))]
					m.advance(now)
					b.leave(now, w.twin)
					if w.verdict == waiting {
						m.end(w, stopped)
					}
				}
			case 2, 3, 4:
				now = now.Add(step * time.Duration(rng.IntN(40)))
				b.advance(now)
				m.advance(now)
			default:
				a, cost := host(rng.IntN(hosts)), rng.IntN(6)
				if rng.IntN(10) == 0 {
					cost = rng.IntN(600)
				}
				dearest = max(dearest, float64(cost))
				w, v := b.ask(now, a, cost)
				mw, mv := m.ask(now, a, cost)
				if v != mv {
					fail("verdict %d on arrival, the model says %d", v, mv)
				}
				if v == granted {
					spent += float64(cost)
				}
				if w != nil {
					mw.twin = w
				}
			}
			if len(b.decided) != len(m.ended) {
				fail("%d waits ended, in the model %d", len(b.decided), len(m.ended))
			}
			for i, w := range b.decided {
				if m.ended[i].twin != w || m.ended[i].verdict != w.verdict {
					fail("wait %d ended otherwise than in the model", i)
				}
				if w.verdict == granted {
					spent += w.cost
				}
			}
			b.decided, m.ended = b.decided[:0], nil
			if most := cfg.Total*(now.Sub(epoch).Seconds()+0.25) + dearest; spent > most+1e-6 {
				fail("%v spent after %v, at most %v may be", spent, now.Sub(epoch), most)
			}
			if b.order.Len() != len(m.queue) || b.order.Len() > cfg.Queue || len(b.sources) > sources {
				fail("%d wait, %d sources", b.order.Len(), len(b.sources))
			}
			for p, s := range b.sources {
				have := s.bucket
				have.refill(now)
				if mb := m.buckets[p]; mb != nil && (have.tokens != mb.tokens || s.waiters.Len() != m.waits(mb)) {
					fail("%v has %v tokens, in the model %v", p, have.tokens, mb.tokens)
				}
			}
			if err := b.check(now); err != nil {
				fail("%v", err)
			}
		}
	}
}

// check returns what is wrong in how a budget keeps its sources.
func (b *budget) check(now time.Time) error {
	in := 0
	for _, h := range []*sourceHeap{&b.idle, &b.parked, &b.ready} {
		for i, s := range h.list {
			if s.in != h || s.pos != i {
				return fmt.Errorf("source %v is not where it thinks", s.prefix)
			}
			if (s.waiters.Len() == 0) != (h == &b.idle) {
				return fmt.Errorf("source %v with %d waiters is in the wrong heap", s.prefix, s.waiters.Len())
			}
			if i > 0 && h.Less(i, (i-1)/2) {
				return fmt.Errorf("heap out of order at %d", i)
			}
			if !s.shared {
				in++
			}
		}
	}
	if in != len(b.sources) {
		return fmt.Errorf("%d sources in the table, %d in the heaps", len(b.sources), in)
	}
	if at := b.next(); (b.order.Len() == 0) != at.IsZero() || !at.IsZero() && !at.After(now) {
		return fmt.Errorf("next is %v after now, with %d waiting", at.Sub(now), b.order.Len())
	}
	return nil
}

// At the time that next names there is something to do.
func TestNext(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := newBudget(Config{PerSource: 3, Burst: 2, Total: 7}.resolved(), 10, 10)
	now := epoch
	idle := 0
	for range 5000 {
		if rng.IntN(3) == 0 {
			b.ask(now, host(rng.IntN(20)), rng.IntN(9))
			now = now.Add(time.Duration(rng.Int64N(int64(time.Second / 5))))
			continue
		}
		if at := b.next(); !at.IsZero() {
			b.decided = b.decided[:0]
			before := b.ready.Len()
			now = at
			if b.advance(now); len(b.decided) == 0 && b.ready.Len() == before {
				idle++ // a waiter's deadline or token, or the total's
			}
		}
	}
	if idle > 0 {
		t.Errorf("woken %d times for nothing", idle)
	}
	if b.stats.Granted == 0 || b.stats.TimedOut == 0 {
		t.Errorf("%+v", b.stats)
	}
}
