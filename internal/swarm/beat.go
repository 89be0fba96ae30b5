package swarm

import "time"

// beat is the owner's clock: a tick each second while there is something to watch, and none once nothing has happened for a while, so that thousands of torrents
// that nobody asks for cost nothing. Whatever reaches the owner wakes it.
type beat struct {
	ticker  *time.Ticker
	quiet   int // ticks at which there was nothing to do since the owner last did something
	resting bool
}

// restAfter is how many ticks without anything to watch come before the rest.
const restAfter = 5

func (b *beat) start() { b.ticker = time.NewTicker(tickEvery) }

func (b *beat) stop() { b.ticker.Stop() }

// wake says that the owner does something.
func (b *beat) wake() {
	b.quiet = 0
	if b.resting {
		b.resting = false
		b.ticker.Reset(tickEvery)
	}
}

// ticked says that a tick is over, and whether there is something to watch. While there is not, the next tick comes at the time that next names, if it names one.
func (b *beat) ticked(now func() time.Time, busy bool, next func() time.Time) {
	if busy {
		b.wake()
		return
	}
	if b.quiet++; b.quiet < restAfter {
		return
	}
	b.resting = true
	at := next()
	if at.IsZero() {
		b.ticker.Stop()
		return
	}
	b.ticker.Reset(max(at.Sub(now()), tickEvery))
}

// busy reports whether anything that the owner watches can come due without somebody telling it, dials to come excepted.
func (t *Torrent) busy() bool {
	return len(t.peers) > 0 || t.dialing > 0 || t.unsaved || t.saving || t.progress || t.webFetching > 0 || t.retrying
}

// nextDial returns when an address may be dialled or a web seed be asked next, as far as that is known; zero if none waits.
func (t *Torrent) nextDial() time.Time {
	if t.paused {
		return time.Time{}
	}
	at := t.pool.NextAt(t.cfg.Now())
	for _, c := range t.candidates {
		if !c.busy && (at.IsZero() || c.next.Before(at)) {
			at = c.next
		}
	}
	if next := t.nextWeb(); !next.IsZero() && (at.IsZero() || next.Before(at)) {
		at = next
	}
	return at
}

// nextTick returns when there is something to do next although nothing happens, as far as that is known; zero for never.
func (t *Torrent) nextTick() time.Time {
	at := t.nextDial()
	if goal := t.goalAt(); at.IsZero() || !goal.IsZero() && goal.Before(at) {
		return goal
	}
	return at
}
