package choker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// swarm drives a Choker and does what it says.
type swarm struct {
	t       *testing.T
	c       Choker
	rng     *rand.Rand
	now     time.Time
	peers   []Peer
	slots   int
	seeding bool
	changes int // peers unchoked or choked so far
}

func newSwarm(t *testing.T, slots int) *swarm {
	return &swarm{t: t, rng: rand.New(rand.NewPCG(1, 2)), now: epoch, slots: slots}
}

func (s *swarm) add(p Peer) {
	if p.Since.IsZero() {
		p.Since = s.now
	}
	if p.Connected.IsZero() {
		p.Connected = p.Since
	}
	s.peers = append(s.peers, p)
}

// interested adds n interested old peers that give and take the given rate.
func (s *swarm) interested(n int, rate float64) {
	for range n {
		s.add(Peer{Key: Key(len(s.peers)), Interested: true, RateDown: rate, RateUp: rate, Since: s.now.Add(-time.Hour)})
	}
}

func (s *swarm) choose() []Key {
	s.t.Helper()
	got := s.c.Choose(nil, s.now, s.peers, s.slots, s.seeding, s.rng)
	slices.Sort(got)
	interested := 0
	for k := range s.peers {
		p := &s.peers[k]
		if p.Interested {
			interested++
		}
		in := slices.Contains(got, p.Key)
		if in && !p.Interested {
			s.t.Fatalf("peer %d has a slot without being interested", p.Key)
		}
		if in != p.Unchoked {
			p.Unchoked, p.Since = in, s.now
			s.changes++
		}
	}
	if want := min(interested, s.slots); s.slots >= 0 && len(got) != want {
		s.t.Fatalf("%d unchoked, want %d: %v", len(got), want, got)
	}
	if len(slices.Compact(slices.Clone(got))) != len(got) {
		s.t.Fatalf("a peer is unchoked twice: %v", got)
	}
	return got
}

func (s *swarm) round() []Key {
	s.t.Helper()
	s.now = s.now.Add(RoundEvery)
	return s.choose()
}

func TestFewPeersAllGetSlots(t *testing.T) {
	for _, seeding := range []bool{false, true} {
		s := newSwarm(t, 4)
		s.seeding = seeding
		s.interested(3, 0)
		s.peers[1].Snubbed = true
		s.add(Peer{Key: 9})
		if got := s.choose(); !slices.Equal(got, []Key{0, 1, 2}) {
			t.Errorf("seeding %v: unchoked %v, want all three interested", seeding, got)
		}
		// Another becomes interested in the middle of a round and is unchoked at once.
		s.now = s.now.Add(time.Second)
		s.peers[3].Interested = true
		if got := s.choose(); !slices.Equal(got, []Key{0, 1, 2, 9}) {
			t.Errorf("seeding %v: unchoked %v, want all four interested", seeding, got)
		}
	}
}

func TestSlots(t *testing.T) {
	s := newSwarm(t, 0)
	s.interested(5, 10)
	if got := s.choose(); len(got) != 0 {
		t.Errorf("unchoked %v with no slots", got)
	}
	s.slots = -1
	if got := s.choose(); len(got) != 5 {
		t.Errorf("unchoked %v without a limit, want all", got)
	}
	s.slots = 2 // between rounds, too
	s.choose()
	s.peers = nil
	if got := s.choose(); len(got) != 0 {
		t.Errorf("unchoked %v of no peers", got)
	}
}

func TestTitForTat(t *testing.T) {
	s := newSwarm(t, 4)
	s.interested(20, 0)
	for k, rate := range []float64{5: 50, 6: 60, 7: 70, 8: 80, 9: 90} {
		s.peers[k].RateDown = rate
	}
	s.peers[9].Snubbed = true
	for range 20 {
		got := s.round()
		for _, k := range []Key{6, 7, 8} {
			if !slices.Contains(got, k) {
				t.Fatalf("unchoked %v, want the fastest that do not snub us, 6, 7 and 8, among them", got)
			}
		}
	}
}

// TestLoyalty: a little faster is not enough to take another's slot; much faster is.
func TestLoyalty(t *testing.T) {
	s := newSwarm(t, 3)
	s.interested(12, 0)
	s.peers[3].RateDown, s.peers[4].RateDown = 100, 100
	s.round()
	s.peers[5].RateDown = 105
	for range 12 {
		if got := s.round(); !slices.Contains(got, 3) || !slices.Contains(got, 4) {
			t.Fatalf("unchoked %v, want 3 and 4 to stay", got)
		}
	}
	s.peers[5].RateDown = 120
	if got := s.round(); !slices.Contains(got, 5) {
		t.Errorf("unchoked %v, want 5 among them", got)
	}
}

// TestNoChangeBetweenRounds: whatever the rates do, slots change hands only in rounds.
func TestNoChangeBetweenRounds(t *testing.T) {
	s := newSwarm(t, 5)
	s.interested(5, 10)
	before := s.choose()
	// Slots become scarce.
	s.add(Peer{Key: 50, Interested: true, RateDown: 1000})
	s.now = s.now.Add(time.Second)
	if got := s.choose(); !slices.Equal(got, before) {
		t.Errorf("unchoked %v, want still %v", got, before)
	}
	s.interested(10, 500)
	before = s.round()
	for range 9 {
		s.now = s.now.Add(time.Second)
		for k := range s.peers {
			s.peers[k].RateDown = s.rng.Float64() * 1000
		}
		if got := s.choose(); !slices.Equal(got, before) {
			t.Fatalf("unchoked %v, want still %v", got, before)
		}
	}
	// A slot that is free goes to someone at once, and the others keep theirs.
	gone := before[0]
	k := slices.IndexFunc(s.peers, func(p Peer) bool { return p.Key == gone })
	s.peers[k].Interested = false
	got := s.choose()
	for _, key := range before[1:] {
		if !slices.Contains(got, key) {
			t.Errorf("unchoked %v, want %v among them", got, before[1:])
		}
	}
}

// TestOptimistic: every peer gets the slot in time, each for about thirty seconds, and new ones sooner.
func TestOptimistic(t *testing.T) {
	s := newSwarm(t, 3)
	s.interested(12, 0)
	s.peers[0].RateDown, s.peers[1].RateDown = 100, 100
	seen := map[Key]int{}
	for range 3 * 200 {
		for _, k := range s.round() {
			seen[k]++
		}
	}
	for k := range Key(12) {
		if n := seen[k]; n < 3*5 || k < 2 && n != 600 {
			t.Errorf("peer %d was unchoked in %d of 600 rounds", k, n)
		}
	}
	if s.changes > 2*200+10 {
		t.Errorf("%d changes in 200 turns of the optimistic slot", s.changes)
	}

	fresh := 0
	for seed := range uint64(300) {
		s := newSwarm(t, 2)
		s.rng = rand.New(rand.NewPCG(seed, 0))
		s.interested(7, 0)
		s.peers[0].RateDown = 100
		s.add(Peer{Key: 77, Interested: true}) // has 3 chances of 9
		if slices.Contains(s.choose(), 77) {
			fresh++
		}
	}
	if fresh < 70 || fresh > 130 {
		t.Errorf("the new peer came first in %d of 300 swarms, want about 100", fresh)
	}
}

// TestOneSlot: the only slot is not lost to a peer that gives nothing, and not kept by it either.
func TestOneSlot(t *testing.T) {
	s := newSwarm(t, 1)
	s.interested(5, 0)
	seen := map[Key]bool{}
	for range 3 * 40 {
		for _, k := range s.round() {
			seen[k] = true
		}
	}
	if len(seen) != 5 {
		t.Errorf("only %v had the slot", seen)
	}
	s.peers[3].RateDown = 10
	s.round()
	for range 30 {
		if got := s.round(); !slices.Equal(got, []Key{3}) {
			t.Fatalf("unchoked %v, want 3, the only one that gives", got)
		}
	}
}

// TestIdlersDoNotStay: while fewer peers give than there are slots, the rest of the slots goes round.
func TestIdlersDoNotStay(t *testing.T) {
	s := newSwarm(t, 6)
	s.interested(20, 0)
	seen := map[Key]bool{}
	for range 60 {
		for _, k := range s.round() {
			seen[k] = true
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20 peers had a slot within ten minutes", len(seen))
	}
	if most := 6 * 60 * 10 * 2 / 20; s.changes > most { // nobody loses a slot before twenty seconds are over
		t.Errorf("%d changes, want at most %d", s.changes, most)
	}
}

// TestSeeding: the fastest takers are served, and yet everyone is in turn.
func TestSeeding(t *testing.T) {
	s := newSwarm(t, 9)
	s.seeding = true
	s.interested(40, 0)
	last := map[Key]time.Time{}
	for r := range 240 {
		got := s.round()
		for k := range s.peers {
			p := &s.peers[k]
			p.RateUp = 0
			if p.Unchoked {
				p.RateUp = float64(100 + 10*k)
			}
		}
		for _, k := range got {
			last[k] = s.now
		}
		if r > 120 {
			for _, k := range []Key{37, 38, 39} {
				if !slices.Contains(got, k) {
					t.Fatalf("round %d: unchoked %v, want the fastest, 37 to 39, among them", r, got)
				}
			}
		}
		if r > 80 {
			for k := range Key(40) {
				if since := s.now.Sub(last[k]); since > 13*time.Minute {
					t.Fatalf("round %d: peer %d has waited for %v", r, k, since)
				}
			}
		}
	}
	// 4 slots go round in turns of a minute, one in turns of half a minute: 6 peers a minute.
	if s.changes > 2*6*40+50 {
		t.Errorf("%d changes in 40 minutes, want about %d", s.changes, 2*6*40)
	}
}

// TestNoiseDoesNotFlap: peers of about the same speed do not take turns because of noise.
func TestNoiseDoesNotFlap(t *testing.T) {
	s := newSwarm(t, 5)
	s.interested(10, 0)
	for range 180 {
		for k := range s.peers {
			s.peers[k].RateDown = 1000 * (0.96 + 0.08*s.rng.Float64())
		}
		s.round()
	}
	if turns := 180 / 3; s.changes > 2*turns+20 {
		t.Errorf("%d changes in 180 rounds, want those of the optimistic slot, %d", s.changes, 2*turns)
	}
}

func TestNext(t *testing.T) {
	var s = newSwarm(t, 2)
	if !s.c.Next().IsZero() {
		t.Errorf("next %v before the first round", s.c.Next())
	}
	s.interested(5, 1)
	s.choose()
	if got := s.c.Next().Sub(epoch); got != RoundEvery {
		t.Errorf("next after %v, want %v", got, RoundEvery)
	}
	s.now = s.now.Add(3 * time.Second)
	s.choose()
	if got := s.c.Next().Sub(epoch); got != RoundEvery {
		t.Errorf("next after %v, want %v", got, RoundEvery)
	}
	s.seeding = true // another set of rules begins with a round
	s.choose()
	if got := s.c.Next().Sub(epoch); got != 13*time.Second {
		t.Errorf("next after %v, want 13s", got)
	}
}

// TestRandom: any calls in any order keep what choose checks, and the same calls give the same answers.
func TestRandom(t *testing.T) {
	history := func(seed uint64) string {
		s := newSwarm(t, 4)
		s.rng = rand.New(rand.NewPCG(seed, 7))
		rng := rand.New(rand.NewPCG(seed, 8))
		var all []byte
		for range 500 {
			s.now = s.now.Add(time.Duration(rng.IntN(15)) * time.Second)
			switch rng.IntN(8) {
			case 0:
				s.add(Peer{Key: Key(rng.Uint32()), Interested: rng.IntN(2) == 0})
			case 1:
				if len(s.peers) > 0 {
					k := rng.IntN(len(s.peers))
					s.peers = slices.Delete(s.peers, k, k+1)
				}
			case 2:
				s.slots = rng.IntN(8)
			case 3:
				s.seeding = rng.IntN(2) == 0
			}
			for k := range s.peers {
				p := &s.peers[k]
				p.Interested = p.Interested != (rng.IntN(10) == 0)
				p.Snubbed = rng.IntN(5) == 0
				p.RateDown, p.RateUp = float64(rng.IntN(5)), float64(rng.IntN(5))
			}
			all = fmt.Append(all, s.choose())
		}
		return string(all)
	}
	for seed := range uint64(30) {
		first, second := history(seed), history(seed)
		if first != second {
			t.Fatalf("seed %d: two answers to the same calls", seed)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	s := newSwarm(t, 50)
	s.interested(500, 10)
	buf := make([]Key, 0, 64)
	turn := func() {
		s.now = s.now.Add(RoundEvery)
		s.seeding = !s.seeding
		buf = s.c.Choose(buf[:0], s.now, s.peers, s.slots, s.seeding, s.rng)
	}
	turn()
	turn()
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkChoose1000(b *testing.B) {
	var c Choker
	rng := rand.New(rand.NewPCG(1, 2))
	var peers []Peer
	for k := range 1000 {
		peers = append(peers, Peer{Key: Key(k), Interested: true, RateDown: float64(k * 7 % 100)})
	}
	now := epoch
	var buf []Key
	for b.Loop() {
		now = now.Add(RoundEvery)
		buf = c.Choose(buf[:0], now, peers, 50, false, rng)
	}
}

// Who was given much for nothing gets what is left last, and is seldom the optimistic one; while seeding nobody can be in debt.
func TestDebt(t *testing.T) {
	const riders, fair = 10, 10
	held := func(seeding bool) (rider, other int) {
		s := newSwarm(t, 4)
		s.seeding = seeding
		s.interested(riders+fair, 0)
		for k := range riders {
			s.peers[k].Owes = 64 << 20
		}
		for range 600 {
			for _, k := range s.round() {
				if k < riders {
					rider++
				} else {
					other++
				}
			}
		}
		return rider, other
	}
	rider, other := held(false)
	if rider == 0 || rider*8 > other {
		t.Errorf("those in debt had %d slots, the others %d", rider, other)
	}
	if rider, other := held(true); rider*3 < other*2 || other*3 < rider*2 {
		t.Errorf("while seeding those in debt had %d slots, the others %d", rider, other)
	}
	for owes, want := range map[int64]int{-1 << 40: 0, 0: 0, trustBytes - 1: 0, trustBytes: 1, 2 * trustBytes: 2, 1 << 62: maxDebt} {
		if got := (&rankedPeer{Peer: Peer{Owes: owes}}).debt(); got != want {
			t.Errorf("who owes %d bytes is at step %d, want %d", owes, got, want)
		}
	}
}
