// Package pipeline decides how many requests to keep in flight with one peer, so that its link is never idle
// and not much more than that is owed: what is owed is lost on a choke, late on a cancel, and asked of others
// in the endgame.
//
// It starts with a few and adds two for each block that arrives, which triples them every round trip, until
// they exceed what the measured rate delivers in a round trip plus a margin:
//
//	depth = rate × (round trip + margin) / block + floor
//
// which it then follows. The margin is generous because requests queue at the peer, not in the network; it
// covers pauses of the peer's disk and lets the depth grow by itself when the link gets faster. The bounds are
// the peer's reqq (BEP 10) and [MaxDepth].
//
// The package also tells when a peer is snubbed and has the rate [Meter] that serves for statistics elsewhere.
// It does not know which blocks are in flight (internal/picker does), and has no clock: times are passed in.
package pipeline

import (
	"time"

	"github.com/parley-bt/parley/bt"
)

const (
	// MinDepth is the fewest requests kept in flight, unless the peer allows fewer still: one that is on its way and one behind it. What a slow peer owes
	// beyond that keeps others waiting, or comes twice.
	MinDepth = 2
	// StartDepth is how many are in flight before anything has arrived.
	StartDepth = 4
	// MaxDepth is the most requests kept in flight, 8 MiB of blocks, whatever the peer allows.
	MaxDepth = 500
	// DefaultReqq is what a peer is taken to allow that does not say: what BEP 10 names as usual.
	DefaultReqq = 250

	// SnubFirst is how long a peer may owe its first block before it counts as snubbed, SnubNext how long the
	// peer that delivered before may pause.
	SnubFirst = 60 * time.Second
	SnubNext  = 30 * time.Second

	rateWindow  = 2 * time.Second
	margin      = time.Second
	maxTrip     = 2 * time.Second // a longer one is taken as the queue at the peer
	growth      = 2               // requests added for each block while starting
	startAtMost = time.Second     // before the rate counts; long enough to be measured
	idleRestart = 5 * time.Second // with nothing in flight that long, start again
	maxBatch    = 16
)

// Pipeline sizes the requests in flight with one peer. The zero Pipeline is ready to use. Times passed must
// not go backwards. It is not safe for concurrent use.
type Pipeline struct {
	limit       int // 0: not set
	outstanding int
	depth       int // 0: not begun
	steady      bool
	delivered   bool      // since the start
	first       time.Time // the first block since the start
	waiting     time.Time // since when the peer has owed us something without delivering anything
	emptied     time.Time // when nothing was in flight last
	meter       Meter
	minTrip     time.Duration // 0: not measured

	// One round trip is measured at a time: of the last of a batch of requests sent at probeAt, which has
	// come back when probeLeft more blocks have arrived.
	probeAt   time.Time
	probeLeft int
}

// SetLimit sets how many requests the peer keeps waiting, its reqq (BEP 10); 0 or less, as when it did not
// say, means [DefaultReqq].
func (p *Pipeline) SetLimit(reqq int) {
	if reqq <= 0 {
		reqq = DefaultReqq
	}
	p.limit = min(reqq, MaxDepth)
	p.depth = p.clamp(p.depth)
}

func (p *Pipeline) clamp(depth int) int {
	limit := p.limit
	if limit == 0 {
		limit = DefaultReqq
	}
	return min(max(depth, MinDepth), limit)
}

// Depth returns how many requests should be in flight now.
func (p *Pipeline) Depth() int {
	if !p.delivered {
		return p.clamp(max(p.depth, StartDepth))
	}
	return p.clamp(p.depth)
}

// Outstanding returns how many are.
func (p *Pipeline) Outstanding() int { return p.outstanding }

// Room returns how many requests to send now. It is 0 while only a few are wanting, an eighth of the depth,
// so that requests go out several at a time.
func (p *Pipeline) Room() int {
	depth := p.Depth()
	room := depth - p.outstanding
	if room < min(max(depth/8, 1), maxBatch) {
		return 0
	}
	return room
}

// Sent records that n requests were sent.
func (p *Pipeline) Sent(now time.Time, n int) {
	if n <= 0 {
		return
	}
	if p.outstanding == 0 {
		p.waiting = now
		if !p.emptied.IsZero() && now.Sub(p.emptied) >= idleRestart {
			p.restart()
		}
	}
	if !p.delivered { // the first block's way counts, lest a slow peer look fast
		p.meter.Window = rateWindow
		p.meter.Add(now, 0)
	}
	if p.probeLeft == 0 {
		p.probeAt, p.probeLeft = now, p.outstanding+1
	}
	p.outstanding += n
}

// restart begins anew, except for what is known of the path.
func (p *Pipeline) restart() {
	p.depth, p.steady, p.delivered, p.first = 0, false, false, time.Time{}
	p.meter.Reset()
}

// Arrived records that a requested block of n bytes arrived.
func (p *Pipeline) Arrived(now time.Time, n int) {
	p.waiting = now
	p.meter.Window = rateWindow
	p.meter.Add(now, n)
	if !p.delivered {
		p.delivered, p.first = true, now
	}
	if p.probeLeft > 0 {
		if p.probeLeft--; p.probeLeft == 0 {
			trip := max(now.Sub(p.probeAt), time.Microsecond)
			if p.minTrip == 0 || trip < p.minTrip {
				p.minTrip = trip
			}
		}
	}
	p.less(now, 1)

	trip := min(p.minTrip, maxTrip)
	byRate := int(p.meter.Rate(now)*(trip+margin).Seconds()/bt.BlockBytes) + MinDepth
	if !p.steady {
		grown := p.clamp(max(p.depth, StartDepth) + growth)
		if p.minTrip > maxTrip {
			// Nothing is gained by more requests: they wait at the peer.
		} else if now.Sub(p.first) < startAtMost+trip || grown < byRate {
			p.depth = grown
			return
		}
		p.steady = true
	}
	p.depth = p.clamp(byRate)
}

// Dropped records that n requests will not be answered: rejected, cancelled, timed out, or lost in a choke.
func (p *Pipeline) Dropped(now time.Time, n int) {
	if n <= 0 {
		return
	}
	p.probeLeft = 0 // which of those before it went is not known
	p.less(now, n)
}

func (p *Pipeline) less(now time.Time, n int) {
	p.outstanding = max(p.outstanding-n, 0)
	if p.outstanding == 0 {
		p.emptied = now
		p.probeLeft = 0
	}
}

// Due returns when all that is in flight, and more blocks behind it, should have arrived at the rate of late, from now on; false if nothing arrived of late.
func (p *Pipeline) Due(now time.Time, more int) (time.Duration, bool) {
	rate := p.meter.Rate(now)
	if rate < 1 {
		return 0, false
	}
	due := time.Duration(float64(p.outstanding+more) * bt.BlockBytes / rate * float64(time.Second))
	if more > 0 {
		due = max(due, min(p.minTrip, maxTrip))
	}
	return due, true
}

// Silence returns for how long the peer has owed us something without delivering anything.
func (p *Pipeline) Silence(now time.Time) time.Duration {
	if p.outstanding == 0 {
		return 0
	}
	return now.Sub(p.waiting)
}

// Rate returns how fast blocks arrive, bytes per second averaged over some seconds.
func (p *Pipeline) Rate(now time.Time) float64 { return p.meter.Rate(now) }

// Snubbed reports whether the peer owes us blocks and has delivered none for [SnubNext], or [SnubFirst] if
// it never did.
func (p *Pipeline) Snubbed(now time.Time) bool {
	if p.outstanding == 0 {
		return false
	}
	return now.Sub(p.waiting) >= p.patience()
}

// Excuse says that it was our doing that nothing arrived up to now.
func (p *Pipeline) Excuse(now time.Time) {
	if p.outstanding > 0 {
		p.waiting = now
	}
}

func (p *Pipeline) patience() time.Duration {
	if p.delivered {
		return SnubNext
	}
	return SnubFirst
}

// SnubAt returns when [Pipeline.Snubbed] becomes true if nothing arrives; the zero time if nothing is owed.
func (p *Pipeline) SnubAt() time.Time {
	if p.outstanding == 0 {
		return time.Time{}
	}
	return p.waiting.Add(p.patience())
}
