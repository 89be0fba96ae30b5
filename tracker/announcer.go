package tracker

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/tracker/proto"
)

// DefaultStopTimeout bounds the last announces of an [Announcer].
const DefaultStopTimeout = 5 * time.Second

// Progress is what trackers are told about a torrent.
type Progress struct {
	Port       uint16 // on which peers are accepted
	Uploaded   int64  // bytes in this run
	Downloaded int64  // bytes in this run
	Left       int64  // bytes still missing; 0 is a seed, [proto.LeftUnknown] unknown
	NumWant    int    // peers wanted: 0 leaves it to the tracker, [proto.NoPeers] is none
}

// AnnouncerConfig configures an [Announcer]. Client, Report and Peers are required.
type AnnouncerConfig struct {
	Client   *Client
	InfoHash bt.InfoHash
	PeerID   bt.PeerID
	// Tiers are the torrent's trackers (BEP 12).
	Tiers [][]URL
	// Report returns what to tell a tracker now. It is called on the announcer's goroutines, before each announce.
	Report func() Progress
	// Peers takes the peers of a reply, which are its to keep; from is the tracker, as in [Status.Tracker], and by says how local it is.
	// It is called on the announcer's goroutine, and announces wait for its return.
	Peers func(peers []netip.AddrPort, from string, by Origin)
	// Changed, if not nil, is called after each announce with the tracker's new status, on the announcer's goroutine.
	Changed func(Status)
	// Missed, if not nil, is asked when the last announces are made whether anybody may miss the torrent: it had peers. When a program with many torrents ends, trackers hear of those first, and
	// before announces of torrents that go on.
	Missed func() bool
	// StopTimeout bounds the last announces; 0 means [DefaultStopTimeout].
	StopTimeout time.Duration
	// Hurry, if not nil, ends the last announces when it is closed: the program does not wait for them any longer.
	Hurry <-chan struct{}
	// Rand orders trackers and spreads retries; nil means a new source. The announcer owns it while it runs.
	Rand *rand.Rand
}

// Status is what is known of one tracker of a torrent.
type Status struct {
	Tracker    string // scheme and host; the rest of a URL may be secret
	URL        string // as given
	InfoHash   bt.InfoHash
	Announcing bool // an announce is out
	Last       time.Time
	Next       time.Time // when it may be asked next; zero: when its turn comes, or never
	Failures   int       // in a row
	Err        error     // of the last announce; nil if it succeeded or there was none
	Warning    string    // of the last reply
	Seeders    int       // -1: not known
	Leechers   int       // -1: not known
	Peers      int       // taken from the last reply
	Dropped    int       // not taken from the last reply
	ExternalIP netip.Addr
}

// Announcer keeps one torrent announced. Its methods are safe for concurrent use.
type Announcer struct {
	cfg  AnnouncerConfig
	key  uint32
	wake chan struct{}

	mu     sync.Mutex
	tiers  *Tiers
	status []Status
}

// NewAnnouncer returns an announcer. URLs that are none are kept and show their error in [Announcer.Status].
func NewAnnouncer(cfg AnnouncerConfig) *Announcer {
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = DefaultStopTimeout
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	a := &Announcer{cfg: cfg, key: newTransaction(), wake: make(chan struct{}, 1), tiers: NewTiers(cfg.Tiers, cfg.Rand)}
	for _, tr := range a.tiers.all {
		a.status = append(a.status, Status{Tracker: DisplayRaw(tr.url.URL), URL: tr.url.URL, InfoHash: cfg.InfoHash, Seeders: -1, Leechers: -1})
	}
	return a
}

// DisplayRaw is [Display] for what may not be a URL.
func DisplayRaw(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return "(not a URL)"
	}
	return Display(u)
}

// Run announces until ctx is done, then tells the trackers that the torrent has stopped, for no longer than the stop
// timeout, and returns. It is called once. Errors do not end it: they are in [Announcer.Status].
func (a *Announcer) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		a.mu.Lock()
		task, at, ok := a.tiers.Next(time.Now())
		if ok {
			a.status[task.Tracker].Announcing = true
		}
		a.mu.Unlock()
		if ok {
			a.announce(ctx, task)
			continue
		}
		var due <-chan time.Time
		if !at.IsZero() {
			timer.Reset(time.Until(at))
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-a.wake:
		case <-due:
		}
	}
	a.stop(ctx)
}

// announce makes one announce and records what came of it, unless ctx ended it.
func (a *Announcer) announce(ctx context.Context, task Task) {
	r, err := a.cfg.Client.Announce(ctx, task.URL.URL, task.URL.From, a.request(task))
	if ctx.Err() != nil && err != nil {
		return // the task stays out: the tracker may have heard it
	}
	now := time.Now()
	a.mu.Lock()
	a.tiers.Done(now, outcome(r, err))
	s := &a.status[task.Tracker]
	s.Announcing, s.Last, s.Err = false, now, err
	s.Next, _ = a.tiers.NextTry(task.Tracker)
	if err != nil {
		s.Failures++
	} else {
		s.Failures, s.Warning, s.Seeders, s.Leechers = 0, r.Warning, r.Seeders, r.Leechers
		s.Peers, s.Dropped = len(r.Peers), r.Dropped
		if r.ExternalIP.IsValid() {
			s.ExternalIP = r.ExternalIP
		}
	}
	status := *s
	a.mu.Unlock()
	if a.cfg.Changed != nil {
		a.cfg.Changed(status)
	}
	if err == nil && len(r.Peers) > 0 {
		a.cfg.Peers(r.Peers, status.Tracker, netpolicy.ClassOf(r.From))
	}
}

func (a *Announcer) request(task Task) *Request {
	p := a.cfg.Report()
	return &Request{InfoHash: a.cfg.InfoHash, PeerID: a.cfg.PeerID, Port: p.Port, Uploaded: p.Uploaded, Downloaded: p.Downloaded,
		Left: p.Left, Event: task.Event, NumWant: p.NumWant, Key: a.key, TrackerID: task.ID}
}

// outcome says what the tiers need to know of a reply or an error.
func outcome(r *Reply, err error) Outcome {
	if err == nil {
		return Outcome{Interval: r.Interval, MinInterval: r.MinInterval, TrackerID: r.TrackerID}
	}
	o := Outcome{Failed: true}
	if f, ok := errors.AsType[*FailureError](err); ok {
		o.RetryIn, o.Never = f.RetryIn, f.Never
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		o.RetryIn = s.RetryIn
	}
	if _, ok := errors.AsType[*URLError](err); ok {
		o.Never = true
	}
	return o
}

// stop makes the last announces.
func (a *Announcer) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.StopTimeout)
	defer cancel()
	if a.cfg.Hurry != nil {
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			select {
			case <-a.cfg.Hurry:
				cancel()
			case <-ended:
			}
		}()
	}
	a.mu.Lock()
	tasks := a.tiers.Stop()
	for i := range a.status {
		a.status[i].Announcing, a.status[i].Next = false, time.Time{}
	}
	a.mu.Unlock()
	how := last
	if a.cfg.Missed != nil && a.cfg.Missed() {
		how = lastMatters
	}
	var all sync.WaitGroup
	for _, task := range tasks {
		all.Go(func() {
			req := a.request(task)
			req.NumWant = proto.NoPeers
			if task.Owed {
				// Programs that fetch one torrent and end would never be counted otherwise. If it fails, the end is news all the same.
				completed := *req
				completed.Event = EventCompleted
				if _, err := a.cfg.Client.announce(ctx, task.URL.URL, task.URL.From, &completed, how); err != nil {
					a.mu.Lock()
					a.status[task.Tracker].Err = err
					a.mu.Unlock()
				}
			}
			_, err := a.cfg.Client.announce(ctx, task.URL.URL, task.URL.From, req, how)
			a.mu.Lock()
			defer a.mu.Unlock()
			s := &a.status[task.Tracker]
			s.Last, s.Err = time.Now(), err
		})
	}
	all.Wait()
}

// Complete says that the download has just become complete.
func (a *Announcer) Complete() { a.poke((*Tiers).Complete) }

// WantPeers asks for more peers as soon as the trackers permit.
func (a *Announcer) WantPeers() { a.poke((*Tiers).WantPeers) }

func (a *Announcer) poke(do func(*Tiers)) {
	a.mu.Lock()
	do(a.tiers)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Status returns what is known of each tracker, in the order of the tiers as given.
func (a *Announcer) Status() []Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Status(nil), a.status...)
}
