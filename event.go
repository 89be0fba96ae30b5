package parley

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/internal/swarm"
)

// EventKind says what an [Event] reports.
type EventKind uint8

// The kinds of events, and the fields of Event that each sets beside Kind and Time.
const (
	EventPeerConnected    EventKind = iota + 1 // Peer: its hello is complete
	EventPeerTypes                             // Peer: its message types are known or have changed
	EventPeerDisconnected                      // Peer, Err: why the session ended, nil for a clean end
	EventDialFailed                            // Addr, Err: an address of the user or of a link could not be connected; will be tried again
	EventMetadata                              // the metadata has been received and checked
	EventVerified                              // Stats: existing data has been verified
	EventProgress                              // Stats: pieces were verified since the last one
	EventComplete                              // Stats: every piece is in place
	EventError                                 // Err: the torrent has stopped
	EventMissed                                // Missed: how many events this consumer lost before this one
	EventClosed                                // the torrent has been closed; the last event
	EventTracker                               // Tracker, Err: what came of an announce; it will be tried again at Tracker.Next
	EventWebSeedFailed                         // WebSeed (its URL), Err: what went wrong; WebSeeds says whether it will be asked again
	EventPaused                                // Stats: the torrent has left the swarm, see Torrent.Pause and StateQueued
	EventResumed                               // Stats: it is back
	EventSeedGoal                              // Stats: a goal of seeding was reached, and the torrent is paused; see Config.SeedRatio
)

// String returns the kind's name in lower case with underscores, as in JSON output.
func (k EventKind) String() string {
	names := [...]string{"unknown", "peer_connected", "peer_types", "peer_disconnected", "dial_failed", "metadata", "verified",
		"progress", "complete", "error", "missed", "closed", "tracker", "web_seed_failed",
		"paused", "resumed", "seed_goal"}
	if int(k) < len(names) {
		return names[k]
	}
	return names[0]
}

// Event is something that happened to a torrent.
type Event struct {
	Kind    EventKind
	Time    time.Time
	Peer    Peer
	Addr    netip.AddrPort
	Stats   Stats
	Err     error
	Missed  int
	Tracker TrackerStatus
	WebSeed string
}

// maxWaiting is how many events may wait for a slow consumer.
const maxWaiting = 1024

// subscribers are the consumers of a torrent's events. The zero value has none.
type subscribers struct {
	mu     sync.Mutex
	set    map[*subscriber]struct{}
	closed bool
}

// subscriber is one consumer: what waits for it, and how many events it has lost.
type subscriber struct {
	waiting []Event
	missed  int
	wake    chan struct{} // capacity 1
}

func (s *subscribers) add(x *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		s.set = make(map[*subscriber]struct{})
	}
	s.set[x] = struct{}{}
	if s.closed {
		x.put(Event{Kind: EventClosed, Time: time.Now()})
	}
}

func (s *subscribers) remove(x *subscriber) {
	s.mu.Lock()
	delete(s.set, x)
	s.mu.Unlock()
}

func (s *subscribers) publish(e Event) {
	s.mu.Lock()
	for x := range s.set {
		x.put(e)
	}
	s.mu.Unlock()
}

func (s *subscribers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for x := range s.set {
		x.put(Event{Kind: EventClosed, Time: time.Now()})
	}
}

// put adds an event; the lock of subscribers is held. Progress replaces progress, and the last event always finds room.
func (x *subscriber) put(e Event) {
	n := len(x.waiting)
	switch {
	case e.Kind == EventProgress && n > 0 && x.waiting[n-1].Kind == EventProgress:
		x.waiting[n-1] = e
	case n >= maxWaiting && e.Kind != EventClosed:
		x.missed++
	default:
		x.waiting = append(x.waiting, e)
	}
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// take returns what waits.
func (s *subscribers) take(x *subscriber) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	es := x.waiting
	x.waiting = nil
	if x.missed > 0 {
		e := Event{Kind: EventMissed, Time: time.Now(), Missed: x.missed}
		x.missed = 0
		at := len(es)
		if at > 0 && es[at-1].Kind == EventClosed {
			at--
		}
		es = slices.Insert(es, at, e)
	}
	return es
}

// notify turns the swarm's events into ours. It runs on the torrent's owner and must not block.
func (t *Torrent) notify(e swarm.Event) {
	if e.Kind == swarm.EventRestarted { // who called Retry knows
		t.client.queue.event(t, e)
		return
	}
	kinds := [...]EventKind{swarm.EventPeerConnected: EventPeerConnected, swarm.EventPeerTypes: EventPeerTypes,
		swarm.EventPeerDisconnected: EventPeerDisconnected, swarm.EventDialFailed: EventDialFailed, swarm.EventMetadata: EventMetadata,
		swarm.EventVerified: EventVerified, swarm.EventProgress: EventProgress, swarm.EventComplete: EventComplete, swarm.EventError: EventError,
		swarm.EventWebSeedFailed: EventWebSeedFailed, swarm.EventPaused: EventPaused, swarm.EventResumed: EventResumed, swarm.EventSeedGoal: EventSeedGoal}
	out := Event{Kind: kinds[e.Kind], Time: time.Now(), Addr: e.Addr, Err: e.Err, WebSeed: e.WebSeed}
	if e.Peer != nil {
		out.Peer = peerOf(e.Peer)
	}
	t.client.queue.event(t, e) // first: who begins to look for peers at this moment asks it whether the torrent has stopped
	t.find.Load().event(e)
	out.Stats = t.statsOf(e.Stats)
	t.subs.publish(out)
}

// Events yields what happens to the torrent from the call on, until the context ends or the torrent is closed (after [EventClosed]). A consumer that
// is slow finds progress events merged and, past 1,024 waiting ones, an [EventMissed] that says how many were lost; messages are never among
// them (see [Type.Messages]). What holds at the time of the call is reported first: that existing data was verified, that the torrent is complete, that its goal of seeding was reached and it is paused,
// what trackers said last, who is connected.
func (t *Torrent) Events(ctx context.Context) iter.Seq[Event] {
	x := &subscriber{wake: make(chan struct{}, 1)}
	ok := t.sw.Call(func(peers map[*swarm.Peer]struct{}, s swarm.Stats) {
		stats := t.statsOf(s)
		verified := stats.State == StateDownloading || stats.State == StateSeeding || (stats.State == StatePaused || stats.State == StateQueued) && stats.Pieces > 0
		if verified {
			x.waiting = append(x.waiting, Event{Kind: EventVerified, Time: time.Now(), Stats: stats})
		}
		if stats.State == StateSeeding || verified && stats.State != StateDownloading && stats.WantedHave == stats.WantedBytes {
			x.waiting = append(x.waiting, Event{Kind: EventComplete, Time: time.Now(), Stats: stats})
		}
		if stats.SeedGoalReached && stats.State == StatePaused {
			x.waiting = append(x.waiting, Event{Kind: EventSeedGoal, Time: time.Now(), Stats: stats})
		}
		for _, s := range t.Trackers() {
			if !s.Last.IsZero() {
				x.waiting = append(x.waiting, Event{Kind: EventTracker, Time: s.Last, Tracker: s, Err: s.Err})
			}
		}
		for p := range peers {
			for _, k := range []EventKind{EventPeerConnected, EventPeerTypes} {
				x.waiting = append(x.waiting, Event{Kind: k, Time: time.Now(), Peer: peerOf(p)})
			}
		}
		t.subs.add(x)
	})
	if !ok {
		t.subs.add(x)
	}
	unhook := context.AfterFunc(ctx, func() { t.subs.remove(x) })
	return func(yield func(Event) bool) {
		defer t.subs.remove(x)
		defer unhook()
		for {
			for _, e := range t.subs.take(x) {
				if !yield(e) || e.Kind == EventClosed {
					return
				}
			}
			select {
			case <-x.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}
