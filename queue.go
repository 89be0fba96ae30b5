package parley

import (
	"cmp"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/swarm"
)

// MinLimit is the lowest limit of a rate that can be set, in bytes a second: below it a block would take so long that peers give up.
const MinLimit = 1 << 10

// checkLimit refuses limits that are none.
func checkLimit(name string, v int64) error {
	if v != 0 && v < MinLimit {
		return fmt.Errorf("%s is %d, want 0 for no limit, or at least %d bytes a second", name, v, MinLimit)
	}
	return nil
}

// checkGoal refuses goals of seeding that are none. Negative ones mean never where that is allowed.
func checkGoal(ratio float64, d time.Duration, never bool) error {
	switch {
	case math.IsNaN(ratio) || math.IsInf(ratio, 0) || ratio < 0 && !never:
		return fmt.Errorf("SeedRatio is %v, want 0 for none, or more", ratio)
	case d < 0 && !never:
		return fmt.Errorf("SeedTime is %v, want 0 for none, or more", d)
	}
	return nil
}

// SetLimits sets how many bytes all torrents together may send and receive in a second, 0 for any number; see Config.UploadLimit. It holds at once. A limit below [MinLimit] is an
// error, and changes nothing.
func (c *Client) SetLimits(up, down int64) error {
	if err := cmp.Or(checkLimit("upload limit", up), checkLimit("download limit", down)); err != nil {
		return err
	}
	c.up.SetRate(up)
	c.down.SetRate(down)
	return nil
}

// Limits returns the limits of all torrents together in bytes a second, 0 for none.
func (c *Client) Limits() (up, down int64) { return c.up.Rate(), c.down.Rate() }

// SetLimits sets how many bytes the torrent may send and receive in a second, 0 for any number; the limits of the client hold besides. It holds at once. A limit below [MinLimit] is
// an error, and changes nothing.
func (t *Torrent) SetLimits(up, down int64) error {
	if err := cmp.Or(checkLimit("upload limit", up), checkLimit("download limit", down)); err != nil {
		return err
	}
	t.up.SetRate(up)
	t.down.SetRate(down)
	return nil
}

// Limits returns the torrent's own limits in bytes a second, 0 for none.
func (t *Torrent) Limits() (up, down int64) { return t.up.Rate(), t.down.Rate() }

// Pause leaves the swarm until [Torrent.Resume]: nobody is connected, and trackers are told. What is there stays, and the torrent's place is free for one that is queued. It returns when no
// more is asked for or accepted; connections may take another second to end.
func (t *Torrent) Pause() {
	t.client.queue.set(t, func(p *place) { p.paused = true })
	t.client.queue.apply()
}

// Resume undoes [Torrent.Pause], and goes on after a goal of seeding was reached, which is then reached once and for all. If there is no place for the torrent it is queued. A torrent
// that was stopped by an error stays so.
func (t *Torrent) Resume() {
	t.client.queue.set(t, func(p *place) { p.paused = false })
	t.client.queue.apply()
}

// useRates gives a torrent its part in the limits and slots of the client.
func (t *Torrent) useRates(cfg *swarm.Config) error {
	o, c := &t.o, t.client
	if err := cmp.Or(checkLimit("UploadLimit", o.UploadLimit), checkLimit("DownloadLimit", o.DownloadLimit), checkGoal(o.SeedRatio, o.SeedTime, true)); err != nil {
		return err
	}
	t.up, t.down = c.up.NewGroup(), c.down.NewGroup()
	t.up.SetRate(o.UploadLimit)
	t.down.SetRate(o.DownloadLimit)
	cfg.Up, cfg.Down, cfg.Uploads = t.up, t.down, c.uploads
	cfg.SeedGoal = swarm.SeedGoal{Ratio: max(0, cmp.Or(o.SeedRatio, c.cfg.SeedRatio)), Time: max(0, cmp.Or(o.SeedTime, c.cfg.SeedTime))}
	return nil
}

// newRates makes what the torrents share.
func (c *Client) newRates(timers *peerconn.Timers) {
	c.up, c.down = peerconn.NewShaper(timers), peerconn.NewShaper(timers)
	c.up.SetRate(c.cfg.UploadLimit)
	c.down.SetRate(c.cfg.DownloadLimit)
	if c.cfg.MaxUploads > 0 {
		c.uploads = swarm.NewUploadPool(c.cfg.MaxUploads)
	}
	c.queue = &queue{maxDownloads: c.cfg.MaxActiveDownloads, maxSeeds: c.cfg.MaxActiveSeeds, wake: make(chan struct{}, 1)}
	c.group.Go(func() { c.queue.run(c.stop) })
}

// queue decides which torrents of a client are active. Who is active stays so; a place that becomes free goes to the first torrent that waits, in the order in which they were
// added. Downloads and seeds have places of their own, so that a download that completes needs one of the other kind. Every torrent that is not paused counts, however slow
// it is, but for those that only take part to exchange messages.
//
// Its methods are safe for concurrent use, those of torrents' owners too, but for apply, which waits for owners.
type queue struct {
	maxDownloads, maxSeeds int // 0: any number
	wake                   chan struct{}

	applying sync.Mutex // one at a time; taken before mu
	mu       sync.Mutex // held for moments only: owners take it
	places   []*place   // in order
}

// place is one torrent in a queue, guarded by its mutex.
type place struct {
	t        *Torrent
	complete bool // a seed
	free     bool // it needs no place
	paused   bool // by the user, or because its goal was reached
	stopped  bool // by an error
	active   bool
	asleep   bool // what the swarm was told last: paused
}

// wants reports whether the torrent would be active.
func (p *place) wants() bool { return !p.paused && !p.stopped }

// add takes a torrent in, before it starts. It reports whether the torrent is to start asleep.
func (q *queue) add(t *Torrent, complete bool) (asleep bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := &place{t: t, complete: complete, free: t.o.NoDownload, paused: t.o.Paused}
	t.place = p
	q.places = append(q.places, p)
	q.assign()
	p.asleep = !p.active
	return p.asleep
}

// remove takes a torrent out.
func (q *queue) remove(t *Torrent) {
	q.mu.Lock()
	for i, p := range q.places {
		if p == t.place {
			q.places = append(q.places[:i], q.places[i+1:]...)
			break
		}
	}
	q.mu.Unlock()
	q.changed()
}

// set changes what is known of a torrent.
func (q *queue) set(t *Torrent, f func(p *place)) {
	q.mu.Lock()
	f(t.place)
	q.mu.Unlock()
}

// queued reports whether a torrent waits for a place.
func (q *queue) queued(t *Torrent) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return t.place.wants() && !t.place.active
}

// stopped reports whether a torrent was stopped by an error.
func (q *queue) stopped(t *Torrent) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return t.place.stopped
}

// event takes an event of a torrent, on its owner.
func (q *queue) event(t *Torrent, e swarm.Event) {
	switch e.Kind {
	case swarm.EventVerified, swarm.EventProgress, swarm.EventComplete:
		complete := e.Kind == swarm.EventComplete
		if !complete && e.Stats.WantedHave == e.Stats.WantedBytes {
			return // that it is complete comes next, and a seed keeps its place until then
		}
		changed := false
		q.set(t, func(p *place) {
			if changed = p.complete != complete; changed {
				p.complete, p.active = complete, false
			}
		})
		if !changed {
			return
		}
	case swarm.EventError:
		q.set(t, func(p *place) { p.stopped = true })
	case swarm.EventRestarted:
		q.set(t, func(p *place) { p.stopped = false })
	case swarm.EventSeedGoal: // the torrent has paused itself
		q.set(t, func(p *place) { p.paused, p.asleep = true, true })
	default:
		return
	}
	q.changed()
}

// changed has apply called soon.
func (q *queue) changed() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run applies changes until stop is closed.
func (q *queue) run(stop <-chan struct{}) {
	for {
		select {
		case <-q.wake:
			q.apply()
		case <-stop:
			return
		}
	}
}

// assign gives free places to those who wait. The lock is held.
func (q *queue) assign() {
	used := map[bool]int{} // by complete
	for _, p := range q.places {
		if p.active = p.active && p.wants(); p.active && !p.free {
			used[p.complete]++
		}
	}
	most := map[bool]int{false: q.maxDownloads, true: q.maxSeeds}
	for _, p := range q.places {
		switch {
		case p.active || !p.wants():
		case p.free:
			p.active = true
		case most[p.complete] == 0 || used[p.complete] < most[p.complete]:
			p.active = true
			used[p.complete]++
		}
	}
}

// apply tells torrents what has been decided about them, those that end first, and waits until they do so.
func (q *queue) apply() {
	q.applying.Lock()
	defer q.applying.Unlock()
	q.mu.Lock()
	q.assign()
	var sleep, wake []*Torrent
	for _, p := range q.places {
		if p.stopped {
			continue
		}
		switch asleep := !p.active; {
		case asleep && (!p.asleep || p.t.finding()):
			sleep = append(sleep, p.t)
		case !asleep && (p.asleep || !p.t.finding()): // it was asleep, or stopped by an error
			wake = append(wake, p.t)
		}
		p.asleep = !p.active
	}
	q.mu.Unlock()
	for _, t := range sleep {
		<-t.started // it is being added: that waits for nobody
		t.sw.SetPaused(true)
		t.stopFinding()
	}
	for _, t := range wake {
		<-t.started
		t.sw.SetPaused(false)
		t.resumeFinding()
	}
}

// finding reports whether the torrent looks for peers.
func (t *Torrent) finding() bool { return t.find.Load().ctx.Err() == nil }

// stopFinding ends the search for peers; trackers are told.
func (t *Torrent) stopFinding() { t.find.Load().stop() }

// resumeFinding begins it anew, unless the torrent is being closed.
func (t *Torrent) resumeFinding() {
	c := t.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || t.closing {
		return
	}
	old := t.find.Load()
	f := c.discovery.newFinder(t)
	f.peers.Store(old.peers.Load())
	f.missing.Store(old.missing.Load())
	f.wants.Store(old.wants.Load())
	t.find.Store(f)
	f.start()
	if c.queue.stopped(t) {
		f.stop() // an error came at the same time, and may have met the old one
	}
}
