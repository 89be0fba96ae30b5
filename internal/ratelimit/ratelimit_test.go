package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

const block = 16 << 10

// sim drives a tree: leaves that always want more, in virtual time.
type sim struct {
	t     *testing.T
	tree  Tree
	now   time.Time
	given map[*Node]int64
	most  map[*Node]int // the largest grant of each node's subtree
	size  func(n *Node) int
	idle  map[*Node]bool // leaves that want nothing for now
	seen  func(n *Node, bytes int)
}

func newSim(t *testing.T) *sim {
	return &sim{t: t, now: epoch, given: map[*Node]int64{}, most: map[*Node]int{}, idle: map[*Node]bool{}, size: func(*Node) int { return block }}
}

func (s *sim) node(parent *Node, rate int64) *Node {
	n := &Node{}
	s.tree.Add(parent, n)
	s.tree.SetRate(s.now, n, rate)
	return n
}

func (s *sim) got(leaf *Node, n int) {
	for m := leaf; m != nil; m = m.parent {
		s.given[m] += int64(n)
		s.most[m] = max(s.most[m], n)
	}
	if s.seen != nil {
		s.seen(leaf, n)
	}
}

// ask lets a leaf take until it has to wait, at most a thousand times.
func (s *sim) ask(leaf *Node) {
	for range 1000 {
		if leaf.Waiting() || s.idle[leaf] {
			return
		}
		n := s.size(leaf)
		if s.tree.Take(s.now, leaf, n) {
			s.got(leaf, n)
		}
	}
}

// run lets all leaves take for a time.
func (s *sim) run(d time.Duration, leaves ...*Node) {
	s.t.Helper()
	end := s.now.Add(d)
	for {
		for {
			leaf, n := s.tree.Grant(s.now)
			if leaf == nil {
				break
			}
			s.got(leaf, n)
			s.ask(leaf)
		}
		for _, l := range leaves {
			s.ask(l)
		}
		next := s.tree.Next()
		if next.IsZero() {
			s.t.Fatal("nobody waits, and nobody is served")
		}
		if !next.After(s.now) {
			s.t.Fatalf("asked to come back at %v, which has passed", next.Sub(epoch))
		}
		if next.After(end) {
			s.now = end
			return
		}
		s.now = next
	}
}

// within checks that a node was given what its rate allows, no more and hardly less.
func (s *sim) within(name string, n *Node, rate float64, d time.Duration) {
	s.t.Helper()
	most := rate*d.Seconds() + float64(Burst(int64(rate))) + float64(s.most[n]) + 1
	if got := float64(s.given[n]); got > most || got < 0.95*rate*d.Seconds()-float64(s.most[n]) {
		s.t.Errorf("%s: %.0f bytes in %v, want about %.0f", name, got, d, rate*d.Seconds())
	}
}

func TestRateHolds(t *testing.T) {
	for _, rate := range []int64{1, 100, 1 << 10, 20 << 10, 1 << 20, 5_000_000, 1 << 30} {
		for _, size := range []int{1, 1000, block, 128 << 10} {
			t.Run(fmt.Sprint(rate, " ", size), func(t *testing.T) {
				s := newSim(t)
				s.size = func(*Node) int { return size }
				torrent := s.node(s.tree.Root(), 0)
				leaf := s.node(torrent, 0)
				s.tree.SetRate(s.now, s.tree.Root(), rate)
				d := 10 * time.Second
				if float64(rate)*d.Seconds() < 100*float64(size) {
					d = time.Duration(100 * float64(size) / float64(rate) * float64(time.Second))
				} else if rate > 1000*int64(size) {
					return // a test of the machine that runs it
				}
				s.run(d, leaf)
				s.within("all", leaf, float64(rate), d)
			})
		}
	}
}

// The client's rate is shared evenly by torrents, and a torrent's by its peers, however many they are and whatever they take at a time.
func TestFair(t *testing.T) {
	s := newSim(t)
	const rate, d = 1 << 20, time.Minute
	s.tree.SetRate(s.now, s.tree.Root(), rate)
	var leaves, torrents []*Node
	sizes := map[*Node]int{}
	for i, peers := range []int{1, 3, 20} {
		torrents = append(torrents, s.node(s.tree.Root(), 0))
		for k := range peers {
			l := s.node(torrents[i], 0)
			sizes[l] = []int{block, 1000, 100_000}[k%3]
			leaves = append(leaves, l)
		}
	}
	s.size = func(n *Node) int { return sizes[n] }
	s.run(d, leaves...)
	s.within("client", s.tree.Root(), rate, d)
	for i, tor := range torrents {
		s.within(fmt.Sprint("torrent ", i), tor, rate/3., d)
	}
	for i, l := range leaves {
		share := rate / 3. / float64([]int{1, 3, 3, 3}[min(i, 3)])
		if i > 3 {
			share = rate / 3. / 20
		}
		got := float64(s.given[l])
		if want := share * d.Seconds(); got < want-200_000 || got > want+200_000 {
			t.Errorf("leaf %d: %.0f bytes, want about %.0f", i, got, want)
		}
	}
}

// A torrent that cannot use its share, since it has a limit of its own, leaves the rest to others; and one without any limit above it is not held up.
func TestUnusedShareGoesToOthers(t *testing.T) {
	s := newSim(t)
	const d = time.Minute
	s.tree.SetRate(s.now, s.tree.Root(), 1_000_000)
	slow, fast := s.node(s.tree.Root(), 100_000), s.node(s.tree.Root(), 0)
	a, b, c := s.node(slow, 0), s.node(slow, 30_000), s.node(fast, 0)
	s.run(d, a, b, c)
	s.within("slow", slow, 100_000, d)
	s.within("its slow peer", b, 30_000, d)
	s.within("its other peer", a, 70_000, d)
	s.within("fast", fast, 900_000, d)

	s = newSim(t)
	slow, fast = s.node(s.tree.Root(), 100_000), s.node(s.tree.Root(), 0)
	a, c = s.node(slow, 0), s.node(fast, 0)
	s.run(d, a)
	for range 1000 {
		if !s.tree.Take(s.now, c, block) {
			t.Fatal("a torrent without a limit waits for one that has a limit")
		}
	}
}

// Whoever comes back after a pause gets its share from then on, no more.
func TestPausesAreNotPaidFor(t *testing.T) {
	s := newSim(t)
	s.tree.SetRate(s.now, s.tree.Root(), 1_000_000)
	tor := s.node(s.tree.Root(), 0)
	a, b := s.node(tor, 0), s.node(tor, 0)
	s.run(time.Minute, a)
	before := s.given[a]
	s.run(10*time.Second, a, b)
	if got := s.given[a] - before; got < 4_900_000 {
		t.Errorf("%d bytes for who was there before, want half of 10,000,000", got)
	}
	if s.given[b] < 4_900_000 {
		t.Errorf("%d bytes for the newcomer, want half of 10,000,000", s.given[b])
	}
}

func TestChangesHoldAtOnce(t *testing.T) {
	s := newSim(t)
	root := s.tree.Root()
	tor := s.node(root, 0)
	a, b := s.node(tor, 0), s.node(tor, 0)
	s.tree.SetRate(s.now, root, 1<<30)
	s.run(time.Second, a, b)
	clear(s.given)
	s.tree.SetRate(s.now, root, 20<<10)
	s.run(time.Minute, a, b)
	if got := s.given[root]; got < 19<<10*60 || got > 21<<10*60 {
		t.Errorf("%d bytes in a minute after the change to 20 KiB/s", got)
	}
	s.tree.SetRate(s.now, root, 0)
	for range 2 {
		if l, n := s.tree.Grant(s.now); l == nil || n != block {
			t.Fatal("without a limit somebody still waits")
		}
	}
	if l, _ := s.tree.Grant(s.now); l != nil || !s.tree.Next().IsZero() {
		t.Error("somebody waits who was served")
	}
	if !s.tree.Take(s.now, a, block) {
		t.Error("without a limit a leaf has to wait")
	}
}

// What goes without being asked for is counted, and cannot starve what asks.
func TestCharge(t *testing.T) {
	s := newSim(t)
	const rate = 100_000
	root := s.tree.Root()
	s.tree.SetRate(s.now, root, rate)
	tor := s.node(root, 0)
	leaf := s.node(tor, 0)
	for range 60 { // half of the rate
		s.tree.Charge(s.now, leaf, rate/2)
		s.run(time.Second, leaf)
	}
	if got := s.given[leaf]; got < rate*60*45/100 || got > rate*60*55/100 {
		t.Errorf("%d bytes beside a charge of half the rate, want half of %d", got, rate*60)
	}
	s.tree.Charge(s.now, leaf, 1<<30)
	before := s.given[leaf]
	s.run(2*time.Second, leaf)
	if s.given[leaf] == before {
		t.Error("nothing went within two seconds of a large charge")
	}
}

func TestRefundAndCancel(t *testing.T) {
	s := newSim(t)
	root := s.tree.Root()
	s.tree.SetRate(s.now, root, block)
	tor := s.node(root, 0)
	a, b := s.node(tor, 0), s.node(tor, 0)
	s.now = s.now.Add(time.Second)
	if !s.tree.Take(s.now, a, block) || s.tree.Take(s.now, b, block) {
		t.Fatal("the first should go, the second wait")
	}
	s.tree.Refund(a, block)
	s.now = s.tree.Next()
	if l, _ := s.tree.Grant(s.now); l != b {
		t.Fatal("what was given back is not there for the next")
	}
	if s.tree.Take(s.now, a, block) || s.tree.Take(s.now, b, block) {
		t.Fatal("both should wait")
	}
	s.tree.Cancel(a)
	s.tree.Cancel(a)
	if l, _ := s.tree.Grant(s.tree.Next()); l != b {
		t.Error("the other one was to be served")
	}
	if !s.tree.Next().IsZero() {
		t.Error("somebody still waits")
	}
	s.tree.Refund(a, 1<<30)
	if root.tokens > float64(Burst(block)) {
		t.Errorf("%.0f tokens, more than an idle bucket saves", root.tokens)
	}
}

// Random trees under random use: no bucket passes more than it may in any span, nobody is forgotten, and the tree's own order holds.
func TestModel(t *testing.T) {
	for range 300 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		s := newSim(t)
		root := s.tree.Root()
		rate := func() int64 {
			return []int64{0, 1000, 20 << 10, 1 << 20}[rng.IntN(4)]
		}
		s.tree.SetRate(s.now, root, rate())
		var inner, leaves []*Node
		for range 1 + rng.IntN(4) {
			tor := s.node(root, rate())
			inner = append(inner, tor)
			for range 1 + rng.IntN(5) {
				leaves = append(leaves, s.node(tor, rate()*int64(rng.IntN(2))))
			}
		}
		nodes := append(append([]*Node{root}, inner...), leaves...)
		// A reference bucket beside each: what has passed since it was last changed.
		type ref struct {
			since time.Time
			bytes int64
			most  int
		}
		refs := map[*Node]*ref{}
		for _, n := range nodes {
			refs[n] = &ref{since: s.now}
		}
		s.seen = func(leaf *Node, n int) {
			for m := leaf; m != nil; m = m.parent {
				r := refs[m]
				r.bytes += int64(n)
				r.most = max(r.most, n)
				if m.rate == 0 {
					continue
				}
				if limit := float64(m.rate)*s.now.Sub(r.since).Seconds() + float64(Burst(m.rate)) + float64(r.most) + 1; float64(r.bytes) > limit {
					t.Fatalf("seed %d: %d bytes passed a bucket of %d/s, the limit is %.0f", seed, r.bytes, m.rate, limit)
				}
			}
		}
		waited := map[*Node]time.Time{}
		for range 2000 {
			switch l := leaves[rng.IntN(len(leaves))]; rng.IntN(8) {
			case 0:
				s.tree.Cancel(l)
				delete(waited, l)
			case 1:
				n := nodes[rng.IntN(len(nodes))]
				if rng.IntN(20) == 0 {
					s.tree.SetRate(s.now, n, rate())
					*refs[n] = ref{since: s.now, most: 40_000}
				}
			case 2:
				s.now = s.now.Add(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
			default:
				if !l.Waiting() {
					if n := 1 + rng.IntN(40_000); s.tree.Take(s.now, l, n) {
						s.seen(l, n)
					} else {
						waited[l] = s.now
					}
				}
			}
			for {
				l, n := s.tree.Grant(s.now)
				if l == nil {
					break
				}
				if _, ok := waited[l]; !ok || l.Waiting() {
					t.Fatalf("seed %d: somebody was served who did not wait", seed)
				}
				delete(waited, l)
				s.seen(l, n)
			}
			if next := s.tree.Next(); next.IsZero() != (len(waited) == 0) || !next.IsZero() && !next.After(s.now) {
				t.Fatalf("seed %d: %d wait, and the next is asked for at %v, now is %v", seed, len(waited), next, s.now)
			}
			checkOrder(t, seed, &s.tree, nodes)
		}
		// Everybody is served in the end.
		for range 100_000 {
			next := s.tree.Next()
			if next.IsZero() {
				break
			}
			s.now = next
			for {
				l, _ := s.tree.Grant(s.now)
				if l == nil {
					break
				}
				delete(waited, l)
			}
		}
		if len(waited) != 0 {
			t.Fatalf("seed %d: %d are never served", seed, len(waited))
		}
	}
}

// checkOrder checks that every node with demand stands in exactly the one place where it is found.
func checkOrder(t *testing.T, seed uint64, tree *Tree, nodes []*Node) {
	throttled := map[*Node]bool{}
	for _, n := range tree.throttled {
		throttled[n] = true
	}
	for _, n := range nodes {
		queued := n.parent != nil && n.pos >= 0 && n.parent.queue[n.pos] == n
		ok := n.throttled == throttled[n] && queued == (n.pos >= 0)
		switch {
		case n.throttled:
			ok = ok && n.demand() && !queued
		case n.parent == nil:
		default:
			ok = ok && queued == n.demand()
		}
		if !ok {
			t.Fatalf("seed %d: a node with demand %v: throttled %v (%v), queued %v, pos %d", seed, n.demand(), n.throttled, throttled[n], queued, n.pos)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	s := newSim(t)
	tor := s.node(s.tree.Root(), 0)
	a, b := s.node(tor, 0), s.node(tor, 0)
	for _, rate := range []int64{0, 1 << 20} {
		s.tree.SetRate(s.now, s.tree.Root(), rate)
		if n := testing.AllocsPerRun(1000, func() {
			for _, l := range []*Node{a, b} {
				if !l.Waiting() {
					s.tree.Take(s.now, l, block)
				}
			}
			s.now = s.now.Add(10 * time.Millisecond)
			s.tree.Charge(s.now, a, 100)
			s.tree.Grant(s.now)
			s.tree.Next()
		}); n != 0 {
			t.Errorf("%v allocations at a rate of %d, want 0", n, rate)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	for _, rate := range []int64{0, 1 << 40} {
		b.Run(fmt.Sprint(rate), func(b *testing.B) {
			var tree Tree
			var tor, leaf Node
			tree.Add(tree.Root(), &tor)
			tree.Add(&tor, &leaf)
			now := epoch
			tree.SetRate(now, tree.Root(), rate)
			for b.Loop() {
				now = now.Add(time.Millisecond)
				tree.Take(now, &leaf, block)
			}
		})
	}
}
