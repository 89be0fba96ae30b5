package tracker

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Bounds of what trackers say about time, and what holds if they say nothing.
const (
	// MinInterval is the shortest time between two regular announces to a tracker, whatever it says.
	MinInterval = 30 * time.Second
	// MaxInterval is the longest.
	MaxInterval = 6 * time.Hour
	// DefaultInterval holds if a tracker names none.
	DefaultInterval = 30 * time.Minute
	// DefaultMinInterval is how early peers may be asked for ahead of time if the tracker does not say.
	DefaultMinInterval = 5 * time.Minute
	// minBackoff and maxBackoff bound the pause after failures, which doubles with each.
	minBackoff = 30 * time.Second
	maxBackoff = time.Hour
	// maxRetryIn bounds a pause that the tracker asks for.
	maxRetryIn = 24 * time.Hour
)

// URL is a tracker's URL and who named it.
type URL struct {
	URL  string
	From Origin // zero: a stranger
}

// Task is one announce to make.
type Task struct {
	Tracker int // its number, for [Tiers.Done]
	URL     URL
	Event   Event
	ID      string // the tracker id to send
	// Owed, of a last announce, says that [EventCompleted] is to be announced before it: the download became complete just before the end.
	Owed bool
}

// Outcome is what came of a task.
type Outcome struct {
	// Failed says that the tracker did not answer, or refused.
	Failed bool
	// RetryIn is when the tracker wants to be asked again after it refused; 0: not said.
	RetryIn time.Duration
	// Never says that asking again is of no use (BEP 31 "never", a URL that is none).
	Never bool

	// What the tracker answered: see [proto.AnnounceReply].
	Interval, MinInterval time.Duration
	TrackerID             string
}

// Tiers decides which tracker of one torrent is asked next, when, and with which event (BEP 12). It is plain data: it takes
// the time, and its owner makes the announces. It is not safe for concurrent use.
//
// Each tier is shuffled once. The first tracker in order that is not recovering from a failure is asked; one that answers
// moves to the front of its tier. One that fails is left alone for a time that doubles with each failure, and the next one
// is asked meanwhile: a better one, in order, is asked again as soon as its pause is over.
//
// A tracker hears [EventStarted] until it has answered that once, [EventCompleted] likewise if it had heard of the download
// before it was complete, and [EventStopped] if it ever answered.
type Tiers struct {
	rng   *rand.Rand
	tiers [][]int // numbers of trackers, in the order they are asked
	all   []track
	busy  bool // a task is out
	task  Task
	want  bool // more peers are wanted before the interval is over
	ended bool
}

// track is what is known of one tracker.
type track struct {
	url      URL
	id       string
	started  bool      // it has answered a start
	owes     bool      // it is to hear that the download is complete
	asked    bool      // it has answered at least once since, so due and early hold
	due      time.Time // the next regular announce
	early    time.Time // not before this if peers are wanted
	failures int
	paused   time.Time // not before this, after a failure
	dead     bool
}

// NewTiers returns the tiers of a torrent. Within each the order is random. URLs that appear twice are asked once.
func NewTiers(tiers [][]URL, rng *rand.Rand) *Tiers {
	t := &Tiers{rng: rng}
	seen := map[string]bool{}
	for _, tier := range tiers {
		var order []int
		for _, u := range tier {
			if !seen[u.URL] {
				seen[u.URL] = true
				order = append(order, len(t.all))
				t.all = append(t.all, track{url: u})
			}
		}
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		if len(order) > 0 {
			t.tiers = append(t.tiers, order)
		}
	}
	return t
}

// Len returns the number of trackers, which are numbered from 0 in the order they were given.
func (t *Tiers) Len() int { return len(t.all) }

// Next returns the announce to make now, which is then out until [Tiers.Done]. If there is none it returns when to ask
// again; the zero time means not before something else happens.
func (t *Tiers) Next(now time.Time) (task Task, wake time.Time, ok bool) {
	if t.busy || t.ended {
		return Task{}, time.Time{}, false
	}
	later := func(at time.Time) {
		if wake.IsZero() || at.Before(wake) {
			wake = at
		}
	}
	// What is owed does not wait for an interval: "completed" is said once, and it is news.
	for i := range t.all {
		if tr := &t.all[i]; tr.owes && !tr.dead {
			if tr.paused.After(now) {
				later(tr.paused)
				continue
			}
			return t.start(i, EventCompleted), time.Time{}, true
		}
	}
	for _, tier := range t.tiers {
		for _, i := range tier {
			tr := &t.all[i]
			switch {
			case tr.dead:
				continue
			case tr.paused.After(now):
				later(tr.paused)
				continue
			}
			at := tr.due
			if t.want && tr.early.Before(at) {
				at = tr.early
			}
			if tr.asked && at.After(now) {
				later(at)
				return Task{}, wake, false // this is the tracker to ask, and it is not time yet
			}
			event := EventNone
			if !tr.started {
				event = EventStarted
			}
			return t.start(i, event), time.Time{}, true
		}
	}
	return Task{}, wake, false
}

func (t *Tiers) start(i int, event Event) Task {
	t.busy = true
	t.task = Task{Tracker: i, URL: t.all[i].url, Event: event, ID: t.all[i].id}
	return t.task
}

// Done says what came of the task that is out.
func (t *Tiers) Done(now time.Time, o Outcome) {
	if !t.busy {
		panic("tracker: Done without a task: want one Done for each Next")
	}
	t.busy = false
	tr := &t.all[t.task.Tracker]
	if o.Failed {
		t.failed(tr, now, o)
		return
	}
	tr.failures, tr.paused, tr.asked = 0, time.Time{}, true
	switch t.task.Event {
	case EventStarted:
		tr.started = true
	case EventCompleted:
		tr.owes = false
	}
	if o.TrackerID != "" { // BEP 3: an absent one does not replace the previous
		tr.id = o.TrackerID
	}
	interval, early := o.Interval, o.MinInterval
	if interval <= 0 {
		interval = max(DefaultInterval, early)
	}
	if early <= 0 {
		early = DefaultMinInterval
	}
	early = min(max(early, MinInterval), MaxInterval)
	interval = min(max(interval, MinInterval), MaxInterval)
	if o.MinInterval > 0 {
		interval = max(interval, early) // "min interval" holds for regular announces too
	}
	tr.due, tr.early = now.Add(interval), now.Add(min(early, interval))
	t.want = false
	for _, tier := range t.tiers {
		if at := slices.Index(tier, t.task.Tracker); at > 0 {
			copy(tier[1:at+1], tier[:at])
			tier[0] = t.task.Tracker
		}
	}
}

func (t *Tiers) failed(tr *track, now time.Time, o Outcome) {
	tr.failures++
	pause := maxBackoff
	if shift := tr.failures - 1; shift < 7 {
		pause = min(minBackoff<<shift, maxBackoff)
	}
	// Up to a quarter more, so that the peers of a tracker that was away do not come back all at once.
	pause += time.Duration(t.rng.Int64N(int64(pause / 4)))
	if o.RetryIn > 0 {
		pause = min(max(o.RetryIn, MinInterval), maxRetryIn)
	}
	tr.paused, tr.dead = now.Add(pause), o.Never
}

// Complete says that the download has just become complete: trackers that have heard of it are to know. A start that is out
// at this moment is counted among those, as it said that bytes were missing.
func (t *Tiers) Complete() {
	for i := range t.all {
		tr := &t.all[i]
		if tr.started || t.busy && t.task.Tracker == i && t.task.Event == EventStarted {
			tr.owes = true
		}
	}
}

// WantPeers asks for an announce ahead of time, as soon as the tracker permits one. It holds until the next success.
func (t *Tiers) WantPeers() { t.want = true }

// Stop ends the announces and returns the last ones: each tracker that has answered a start, or that may have received one
// that is still out, is to hear [EventStopped]. They need no Done, and may be made all at once.
func (t *Tiers) Stop() []Task {
	if t.ended {
		return nil
	}
	t.ended = true
	var last []Task
	for i, tr := range t.all {
		if tr.started || t.busy && t.task.Tracker == i && t.task.Event == EventStarted {
			last = append(last, Task{Tracker: i, URL: tr.url, Event: EventStopped, ID: tr.id, Owed: tr.owes})
		}
	}
	return last
}

// NextTry returns when a tracker may be asked next, as far as it alone is concerned; false if never. It may be in the past.
func (t *Tiers) NextTry(tracker int) (time.Time, bool) {
	tr := &t.all[tracker]
	switch {
	case tr.dead || t.ended:
		return time.Time{}, false
	case tr.failures > 0:
		return tr.paused, true
	}
	return tr.due, true
}
