// Package choker decides whom to unchoke: to whom to upload (BEP 3, "choking").
//
// There is a number of slots, and only interested peers take them. With fewer of them than slots all are
// unchoked. Else decisions are made in rounds of ten seconds, so that TCP gets up to speed between them:
//
//   - While downloading, slots go to the peers that deliver fastest (tit for tat). Who is unchoked keeps a
//     slot against one that is less than a tenth faster. Peers that snub us get none of these.
//   - While seeding, half of the slots go to the peers that take fastest, half go round: to those that
//     waited longest, for a turn each.
//   - One slot is optimistic: for thirty seconds anyone may have it, new peers with three times the chance,
//     to find out what they are worth and to let newcomers get something to give. Who has been given much for
//     nothing while we download has less of a chance, down to a sixteenth, and comes last where slots are left
//     for those who give nothing: otherwise a swarm of downloaders feeds free riders as well as each other.
//
// Between rounds no one loses a slot to another, but a slot that is free is given at once.
//
// The package does not count bytes or send anything. It has no clock and no source of chance of its own.
package choker

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// RoundEvery is the time between two decisions about all slots.
	RoundEvery = 10 * time.Second
	// OptimisticEvery is how long a peer keeps the optimistic slot.
	OptimisticEvery = 30 * time.Second
	// TurnLasts is how long a peer keeps one of the slots that go round while seeding.
	TurnLasts = 60 * time.Second
	// NewFor is how long after connecting a peer is preferred for the optimistic slot.
	NewFor = 60 * time.Second

	newWeight  = 3         // chances of a new peer against 1 of others
	trustBytes = 256 << 10 // what is given without anything in return before it counts
	maxDebt    = 4
	loyalty    = 1.1 // a slot's holder counts as that much faster than it is
	minTurn    = 20 * time.Second
	tooSlowBps = 1.0 // bytes/s at which a turn is not used at all
)

// Key is the caller's handle for a peer.
type Key uint32

// Peer is what the decision about one peer depends on.
type Peer struct {
	Key        Key
	Interested bool      // in us: without, it takes no slot
	Unchoked   bool      // by us, now
	Snubbed    bool      // it owes us blocks and has not delivered for long
	RateDown   float64   // from it, bytes/s
	RateUp     float64   // to it, bytes/s
	Owes       int64     // how many bytes more it was given than it gave, while downloading; less than 0 if it gave more
	Since      time.Time // when Unchoked last changed; when it connected, if it never did
	Connected  time.Time
}

// Choker remembers between decisions what makes them steady. The zero Choker is ready to use. It is not safe
// for concurrent use.
type Choker struct {
	round      time.Time // the last one
	rotated    time.Time // when the optimistic slot was last given
	optimistic Key
	hasOpt     bool
	seeding    bool

	ranked []rankedPeer // scratch
	out    map[Key]bool // scratch
}

type rankedPeer struct {
	Peer
	score float64
	tie   uint64
}

// debt is how deep a peer is in debt, from 0 for what anybody needs to get something to give, a step more for each doubling.
func (p *rankedPeer) debt() int { return min(bits.Len64(uint64(max(p.Owes, 0)/trustBytes)), maxDebt) }

// Choose appends to dst the keys of the peers that should be unchoked now, in no order; all others should be
// choked. peers are all peers of the torrent, each once. slots is how many may be unchoked, the optimistic
// slot among them; less than 0 means any number. seeding says whether we are complete. It may be called at
// any time, and should be when a peer becomes interested, loses interest or leaves, and at [Choker.Next].
func (c *Choker) Choose(dst []Key, now time.Time, peers []Peer, slots int, seeding bool, rng *rand.Rand) []Key {
	c.ranked = c.ranked[:0]
	for _, p := range peers {
		if seeding {
			p.Owes = 0 // nobody can give us anything
		}
		if p.Interested {
			c.ranked = append(c.ranked, rankedPeer{Peer: p, tie: rng.Uint64()})
		}
	}
	if c.out == nil {
		c.out = make(map[Key]bool)
	}
	clear(c.out)

	due := c.round.IsZero() || now.Sub(c.round) >= RoundEvery || seeding != c.seeding
	if due {
		c.round, c.seeding = now, seeding
	}
	if slots < 0 || len(c.ranked) <= slots {
		// The optimistic slot is nobody's while there is one for all.
		c.hasOpt = false
		for _, p := range c.ranked {
			dst = append(dst, p.Key)
		}
		return dst
	}
	if slots == 0 {
		c.hasOpt = false
		return dst
	}
	c.score(now, seeding)

	if c.hasOpt && !slices.ContainsFunc(c.ranked, func(p rankedPeer) bool { return p.Key == c.optimistic }) {
		c.hasOpt = false
	}
	optimistic := c.wantsOptimistic(slots, seeding)
	if !optimistic {
		c.hasOpt = false
	}
	regular := slots
	if optimistic {
		regular--
	}
	if due {
		c.fillRound(regular, seeding)
	} else {
		c.keep(regular)
	}
	if optimistic {
		if !due && !c.hasOpt {
			c.inherit(now)
		}
		if !c.hasOpt || c.out[c.optimistic] || due && now.Sub(c.rotated) >= OptimisticEvery {
			c.rotate(now, rng)
		}
		if c.hasOpt {
			c.out[c.optimistic] = true
		}
	}
	for _, p := range c.ranked {
		if len(c.out) >= slots {
			break
		}
		c.out[p.Key] = true
	}
	for _, p := range c.ranked {
		if c.out[p.Key] {
			dst = append(dst, p.Key)
		}
	}
	return dst
}

// wantsOptimistic reports whether one of the slots is optimistic. A single one is only while nobody who
// would otherwise have it gives us anything.
func (c *Choker) wantsOptimistic(slots int, seeding bool) bool {
	if slots > 1 {
		return true
	}
	return !seeding && !slices.ContainsFunc(c.ranked, func(p rankedPeer) bool { return !p.Snubbed && p.RateDown > 0 })
}

func (c *Choker) isOptimistic(k Key) bool { return c.hasOpt && c.optimistic == k }

// holds reports whether a peer has a regular slot: the optimistic one earns no loyalty.
func (c *Choker) holds(p *rankedPeer) bool {
	return p.Unchoked && !c.isOptimistic(p.Key)
}

// score sorts c.ranked, those that earned a regular slot first.
func (c *Choker) score(now time.Time, seeding bool) {
	for k := range c.ranked {
		p := &c.ranked[k]
		switch {
		case seeding:
			p.score = p.RateUp
		case p.Snubbed:
			p.score = -1
		default:
			p.score = p.RateDown
		}
		if p.score > 0 && c.holds(p) {
			p.score *= loyalty
		}
	}
	stays := func(p rankedPeer) bool {
		return c.holds(&p) && (p.score > 0 || now.Sub(p.Since) < TurnLasts)
	}
	slices.SortFunc(c.ranked, func(a, b rankedPeer) int {
		if d := cmp.Compare(b.score, a.score); d != 0 {
			return d
		}
		// Among those who give nothing, those come last who have been given most for nothing.
		if d := cmp.Compare(a.debt(), b.debt()); d != 0 && a.score <= 0 {
			return d
		}
		// A change must be worth something; but who gives nothing gets a turn, not a slot for good.
		if sa, sb := stays(a), stays(b); sa != sb {
			if sa {
				return -1
			}
			return 1
		}
		if a.score <= 0 && a.Unchoked != b.Unchoked {
			if b.Unchoked {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.tie, b.tie)
	})
}

// fillRound gives the regular slots anew.
func (c *Choker) fillRound(regular int, seeding bool) {
	fastest := regular
	if seeding {
		fastest = regular / 2
	}
	for _, p := range c.ranked {
		if len(c.out) >= fastest {
			break
		}
		c.out[p.Key] = true
	}
	if seeding {
		c.goRound(regular)
	}
}

// goRound gives the slots up to regular in turns.
func (c *Choker) goRound(regular int) {
	now := c.round
	turn := func(p rankedPeer) bool {
		held := now.Sub(p.Since)
		if !c.holds(&p) {
			return false
		}
		return held < minTurn || held < TurnLasts && p.RateUp >= tooSlowBps
	}
	slices.SortFunc(c.ranked, func(a, b rankedPeer) int {
		ta, tb := turn(a), turn(b)
		if ta != tb {
			if ta {
				return -1
			}
			return 1
		}
		// Who waits comes before who has had its turn, and who waited longest first.
		if a.Unchoked != b.Unchoked {
			if b.Unchoked {
				return -1
			}
			return 1
		}
		if d := a.Since.Compare(b.Since); d != 0 {
			return d
		}
		return cmp.Compare(a.tie, b.tie)
	})
	for _, p := range c.ranked {
		if len(c.out) >= regular {
			return
		}
		c.out[p.Key] = true
	}
}

// keep leaves the regular slots to who has them, and gives free ones to the next in rank.
func (c *Choker) keep(regular int) {
	for _, unchoked := range []bool{true, false} {
		for _, p := range c.ranked {
			if len(c.out) >= regular {
				return
			}
			if p.Unchoked == unchoked && !c.isOptimistic(p.Key) {
				c.out[p.Key] = true
			}
		}
	}
}

// inherit makes an unchoked peer without a regular slot the optimistic one, if there is one: so that nobody
// loses a slot between rounds because slots became scarce.
func (c *Choker) inherit(now time.Time) {
	for _, p := range c.ranked {
		if p.Unchoked && !c.out[p.Key] {
			c.optimistic, c.hasOpt, c.rotated = p.Key, true, now
			return
		}
	}
}

// rotate gives the optimistic slot to a peer without a regular one, if possible not to who had it.
func (c *Choker) rotate(now time.Time, rng *rand.Rand) {
	total := 0
	weight := func(p rankedPeer) int {
		w := 1
		switch {
		case c.out[p.Key] || c.isOptimistic(p.Key):
			return 0
		case now.Sub(p.Connected) < NewFor:
			w = newWeight
		}
		return w << maxDebt >> p.debt()
	}
	for _, p := range c.ranked {
		total += weight(p)
	}
	c.rotated = now
	if total == 0 {
		return // nobody else wants it
	}
	at := rng.IntN(total)
	for _, p := range c.ranked {
		if at -= weight(p); at < 0 {
			c.optimistic, c.hasOpt = p.Key, true
			return
		}
	}
}

// Next returns when Choose should be called at the latest; the zero time before the first call.
func (c *Choker) Next() time.Time {
	if c.round.IsZero() {
		return time.Time{}
	}
	return c.round.Add(RoundEvery)
}
