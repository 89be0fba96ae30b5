package swarm

import (
	"time"

	"github.com/parley-bt/parley/peer"
)

// A paused torrent is in no swarm: it has no connections and takes none, dials nobody and asks nobody for anything. Its storage stays open, and what is being
// verified goes on being verified.

// SetPaused leaves the swarm, or enters it again, and waits until that is so; connections may take another second to end. It reports whether anything changed, which it does not
// once the torrent has ended.
func (t *Torrent) SetPaused(paused bool) (changed bool) {
	t.do(func() {
		if changed = t.paused != paused && !t.closing && t.err == nil; changed {
			t.setPaused(paused)
		}
	})
	return changed
}

// setPaused does it on the owner.
func (t *Torrent) setPaused(paused bool) {
	now := t.cfg.Now()
	t.countSeeding(now)
	t.paused = paused
	t.countSeeding(now)
	t.greeting.setPaused(paused)
	if !paused {
		t.notify(Event{Kind: EventResumed})
		for _, c := range t.candidates { // the user does not wait
			if !c.learned() && c.next.Sub(now) <= 2*lastRetry {
				c.next = time.Time{}
			}
		}
		t.fillAll(now)
		t.dial(now)
		return
	}
	for p := range t.peers {
		p.conn.Close(nil)
	}
	t.restWeb()
	t.notify(Event{Kind: EventPaused})
}

// setPaused refuses connections from now on, and closes those in their hello; or takes them again.
func (g *greeting) setPaused(paused bool) {
	g.mu.Lock()
	g.paused = paused
	g.mu.Unlock()
	if paused {
		g.closePending(peer.ErrUnknownTorrent)
	}
}

// SeedGoal says when a torrent has been seeded enough. The zero SeedGoal is never reached.
type SeedGoal struct {
	Ratio float64       // bytes uploaded per byte that we have; 0 for none
	Time  time.Duration // of being complete and not paused; 0 for none
}

// goalState is how far a torrent is on the way to its goal.
type goalState struct {
	met    bool          // once: who resumes the torrent wants more
	seeded time.Duration // so long
	last   time.Time     // when seeded was right; zero while not seeding
}

// countSeeding adds the time since it was called last, if the torrent has been seeding since.
func (t *Torrent) countSeeding(now time.Time) {
	if !t.goal.last.IsZero() {
		t.goal.seeded += now.Sub(t.goal.last)
		t.goal.last = time.Time{}
	}
	if !t.paused && t.state == StateSeeding {
		t.goal.last = now
	}
}

// goalAt returns when the goal for the time of seeding will be reached, zero for never.
func (t *Torrent) goalAt() time.Time {
	if t.cfg.SeedGoal.Time <= 0 || t.goal.met || t.goal.last.IsZero() {
		return time.Time{}
	}
	return t.goal.last.Add(t.cfg.SeedGoal.Time - t.goal.seeded)
}

// tickGoal pauses the torrent when its goal is reached.
func (t *Torrent) tickGoal(now time.Time) {
	t.countSeeding(now)
	if t.paused || t.state != StateSeeding {
		return
	}
	goal := t.cfg.SeedGoal
	enough := goal.Time > 0 && t.goal.seeded >= goal.Time
	if goal.Ratio > 0 {
		have := t.stats().HaveBytes
		enough = enough || have > 0 && float64(t.uploaded.Load()) >= goal.Ratio*float64(have)
	}
	if !enough || t.goal.met {
		return
	}
	t.goal.met = true
	t.setPaused(true)
	t.notify(Event{Kind: EventSeedGoal})
}
