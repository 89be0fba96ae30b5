package parley

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/discovery"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/tracker"
	"github.com/parley-bt/parley/tracker/proto"
)

const (
	// maxTrackers is how many trackers of one torrent file or magnet link are used; the user may name as many as they like.
	maxTrackers = 100
	// fewPeers is below how many peers a torrent that is not complete asks for more, as early as those whom it asks permit.
	fewPeers = 8
	// maxWanted is how many peers one announce asks for.
	maxWanted = 100
	// farewell is how long the trackers of a torrent that is closed have to hear of it, or Config.StopTimeout if that is longer.
	farewell = 5 * time.Second
	// scrapesAtOnce bounds how many trackers one Scrape asks at once.
	scrapesAtOnce = 8
)

// TrackerStatus is what is known of one tracker of a torrent. Its texts have been cleaned of what no terminal should see, but for URL, which may also hold a secret: the passkeys of private trackers are
// part of their URLs.
type TrackerStatus = tracker.Status

// TrackerCounts is what a tracker says about a torrent (BEP 48).
type TrackerCounts struct {
	Tracker  string // scheme and host
	URL      string // as given
	InfoHash bt.InfoHash
	// Seeders, Leechers and Downloaded (how often the torrent was completed) are zero for a torrent that the tracker does not know.
	Seeders, Leechers, Downloaded int
	Err                           error // why the tracker did not say
}

// discoverer is how the torrents of a client find peers. Its methods are safe for concurrent use.
type discoverer struct {
	c        *Client
	trackers *tracker.Client
	group    sync.WaitGroup // announcers, and what else looks for peers
	ctx      context.Context
	cancel   context.CancelFunc
	hurry    chan struct{} // closed when the client's end does not wait for trackers any longer
	once     sync.Once     // of that

	dht   *rounds          // nil without Config.DHT
	local *discovery.Local // nil without Config.LocalDiscovery, or if it is not possible

	mu   sync.Mutex
	seen map[string]netip.Addr // our address as trackers saw it, by tracker
}

func newDiscoverer(c *Client) *discoverer {
	d := &discoverer{c: c, hurry: make(chan struct{}), seen: make(map[string]netip.Addr)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	cfg := c.cfg.trackers
	cfg.UserAgent, cfg.Allow = c.cfg.ClientName, c.cfg.AllowNetworks
	d.trackers = tracker.NewClient(cfg)
	d.startShared()
	return d
}

// close ends it, for trackers after the time of Config.StopTimeout since begin. Every torrent has been closed. It can be called more than once.
func (d *discoverer) close(begin time.Time) (err error) {
	d.cancel()
	if d.local != nil {
		err = d.local.Close()
	}
	timer := time.AfterFunc(d.c.cfg.StopTimeout-time.Since(begin), func() { d.once.Do(func() { close(d.hurry) }) })
	d.group.Wait()
	timer.Stop()
	return err
}

// maxSeen bounds the trackers whose word on our address is kept.
const maxSeen = 64

// sawUs notes our address as a tracker saw it (BEP 24).
func (d *discoverer) sawUs(by string, a netip.Addr) {
	if netpolicy.ClassOf(a) != netpolicy.Global {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.seen[by]; known || len(d.seen) < maxSeen {
		d.seen[by] = a.Unmap()
	}
}

// ExternalIP returns the public address of this machine as most trackers saw it (BEP 24); false if none has said. It is what strangers say.
func (c *Client) ExternalIP() (netip.Addr, bool) {
	d := c.discovery
	d.mu.Lock()
	defer d.mu.Unlock()
	votes := map[netip.Addr]int{}
	var best netip.Addr
	for _, a := range d.seen {
		votes[a]++
		if n := votes[a] - votes[best]; !best.IsValid() || n > 0 || n == 0 && a.Less(best) {
			best = a
		}
	}
	return best, best.IsValid()
}

// finder is how one torrent finds peers.
type finder struct {
	t      *Torrent
	d      *discoverer
	ctx    context.Context // done when the torrent does not look for peers any more
	cancel context.CancelFunc

	mu         sync.Mutex
	hashes     []bt.InfoHash        // under which it looks
	announcers []*tracker.Announcer // of each hash; it only grows

	peers   atomic.Int64
	missed  atomic.Bool // it had peers when it was stopped
	missing atomic.Bool // the torrent was incomplete when last heard of: then its completion is news
	wants   atomic.Bool // it wants peers: not complete, and not merely listening
}

// newFinder returns the finder of a torrent, which has not started.
func (d *discoverer) newFinder(t *Torrent) *finder {
	f := &finder{t: t, d: d}
	f.ctx, f.cancel = context.WithCancel(d.ctx)
	f.wants.Store(true)
	for _, h := range t.announced() {
		f.take(h)
	}
	return f
}

// take adds a hash to look under, and returns the announcers that it brings, which have not started.
func (f *finder) take(h bt.InfoHash) (added []*tracker.Announcer) {
	if !f.d.c.cfg.NoTrackers {
		for _, tiers := range f.t.trackers() {
			var a *tracker.Announcer
			a = tracker.NewAnnouncer(tracker.AnnouncerConfig{
				Client: f.d.trackers, InfoHash: h, PeerID: f.d.c.peerID, Tiers: tiers, Report: f.report, Peers: f.learn,
				Changed: func(s tracker.Status) { f.announced(a, s) }, Missed: f.missed.Load, StopTimeout: max(farewell, f.d.c.cfg.StopTimeout), Hurry: f.d.hurry,
			})
			added = append(added, a)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hashes = append(f.hashes, h)
	f.announcers = append(f.announcers, added...)
	return added
}

// under returns the hashes that the torrent is looked for under.
func (f *finder) under() []bt.InfoHash {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hashes
}

// all returns the announcers.
func (f *finder) all() []*tracker.Announcer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.announcers
}

// renamed looks under the hashes too that the torrent's metadata have brought: a magnet link may have had one of a hybrid's two. The client is locked, and not closed.
func (f *finder) renamed() {
	if f.ctx.Err() != nil {
		return // whoever looks next knows them
	}
	known := f.under()
	more := false
	for _, h := range f.t.announced() {
		if slices.Contains(known, h) {
			continue
		}
		more = true
		for _, a := range f.take(h) {
			f.d.group.Go(func() { f.announce(a) })
		}
	}
	if more {
		f.shareOut()
	}
}

// trackers returns the torrent's trackers: those of the .torrent or the magnet link as one list of tiers, of which the first tracker that answers is the one that is announced to (BEP 12), and before them
// each tier that the user named by itself, since whoever names one wants it to be asked.
func (t *Torrent) trackers() (lists [][][]tracker.URL) {
	named := map[string]bool{}
	for _, tier := range t.o.Trackers {
		var urls []tracker.URL
		for _, u := range tier {
			if !named[u] {
				named[u] = true
				urls = append(urls, tracker.URL{URL: u, From: tracker.FromUser})
			}
		}
		if len(urls) > 0 {
			lists = append(lists, [][]tracker.URL{urls})
		}
	}
	var own [][]tracker.URL
	n := 0
	for _, tier := range t.ownTrackers() {
		var urls []tracker.URL
		for _, u := range tier {
			if u != "" && !named[u] && n < maxTrackers {
				named[u] = true
				n++
				urls = append(urls, tracker.URL{URL: u, From: tracker.FromStranger})
			}
		}
		if len(urls) > 0 {
			own = append(own, urls)
		}
	}
	if len(own) > 0 {
		lists = append(lists, own)
	}
	return lists
}

// ownTrackers returns the tiers that the torrent itself names. It does not ask the swarm.
func (t *Torrent) ownTrackers() (tiers [][]string) {
	if mi := t.mi.Load(); mi != nil {
		return mi.Announce
	}
	for _, u := range t.magnet.Trackers {
		tiers = append(tiers, []string{u})
	}
	return tiers
}

// start begins to look for peers. The client is locked, and not closed.
func (f *finder) start() {
	for _, a := range f.all() {
		f.d.group.Go(func() { f.announce(a) })
	}
	f.shareOut()
}

// stop ends it, and returns at once: trackers hear of it within the time of farewell.
func (f *finder) stop() {
	if f.ctx.Err() == nil {
		f.missed.Store(f.peers.Load() > 0)
	}
	f.cancel()
	f.withdraw()
}

// announce runs an announcer from when it is known what the torrent has: a tracker that is told that everything is missing would count a download that never was.
func (f *finder) announce(a *tracker.Announcer) {
	if (f.t.mi.Load() != nil || f.t.sw.Info() != nil) && f.t.sw.WaitReady(f.ctx) != nil {
		return // it has ended before anybody heard of it
	}
	a.Run(f.ctx)
}

// report says what trackers are told.
func (f *finder) report() tracker.Progress {
	s := f.t.sw.Stats()
	p := tracker.Progress{Port: f.d.c.addr.Port(), Uploaded: s.Uploaded, Downloaded: s.Downloaded, Left: proto.LeftUnknown}
	if s.Pieces > 0 {
		p.Left = s.TotalBytes - s.HaveBytes
	}
	if room := f.d.c.cfg.MaxPeers - s.Peers; room > 0 {
		p.NumWant = min(room, maxWanted)
	} else {
		p.NumWant = proto.NoPeers
	}
	return p
}

// learn takes the peers of a tracker's reply.
func (f *finder) learn(peers []netip.AddrPort, from string, by tracker.Origin) {
	f.t.sw.Learn(dialguard.Source{Origin: dialguard.Tracker, Name: from}, by, peers...)
}

// announced is told what came of an announce.
func (f *finder) announced(a *tracker.Announcer, s tracker.Status) {
	if s.ExternalIP.IsValid() {
		f.d.sawUs(s.Tracker, s.ExternalIP)
	}
	if s.Err == nil && f.needy() {
		a.WantPeers() // those that it has just named may not do
	}
	f.t.subs.publish(Event{Kind: EventTracker, Time: time.Now(), Tracker: s, Err: s.Err})
}

// needy reports whether the torrent wants more peers than it has.
func (f *finder) needy() bool { return f.wants.Load() && f.peers.Load() < fewPeers }

// event takes an event of the swarm, on its owner: it must not block.
func (f *finder) event(e swarm.Event) {
	switch e.Kind {
	case swarm.EventPeerConnected:
		f.peers.Add(1)
	case swarm.EventPeerDisconnected:
		f.peers.Add(-1)
		if f.needy() {
			for _, a := range f.all() {
				a.WantPeers()
			}
		}
	case swarm.EventMetadata:
		if !f.public() {
			f.withdraw()
		}
	case swarm.EventVerified, swarm.EventProgress:
		if e.Stats.HaveBytes < e.Stats.TotalBytes {
			f.missing.Store(true)
			f.wants.Store(true)
		}
	case swarm.EventComplete:
		f.wants.Store(false)
		// "completed" is for who has just become a seed (BEP 3), which who has all that they want need not be (BEP 21).
		if e.Stats.HaveBytes == e.Stats.TotalBytes && f.missing.Swap(false) {
			for _, a := range f.all() {
				a.Complete()
			}
		}
	case swarm.EventError:
		f.stop()
	}
}

// Trackers returns what is known of each tracker of the torrent, in the order in which they were given: the user's first. Empty with Config.NoTrackers.
func (t *Torrent) Trackers() (all []TrackerStatus) {
	for _, a := range t.find.Load().all() {
		all = append(all, a.Status()...)
	}
	return all
}

// Scrape asks every tracker of the torrent how many peers it knows, without announcing anything (BEP 48, BEP 15). The counts come in the order of the trackers; what went wrong with one stands in its Err.
func (t *Torrent) Scrape(ctx context.Context) []TrackerCounts {
	return scrapeAll(ctx, t.client.discovery.trackers, t.announced(), t.trackers())
}

func scrapeAll(ctx context.Context, c *tracker.Client, hashes []bt.InfoHash, lists [][][]tracker.URL) []TrackerCounts {
	var all []TrackerCounts
	var from []tracker.Origin
	for _, h := range hashes {
		for _, list := range lists {
			for _, u := range slices.Concat(list...) {
				all = append(all, TrackerCounts{URL: u.URL, InfoHash: h})
				from = append(from, u.From)
			}
		}
	}
	slots := make(chan struct{}, scrapesAtOnce)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			scrape(ctx, c, &all[i], from[i])
		})
	}
	wg.Wait()
	return all
}

// ScrapeOptions says whom [ScrapeTrackers] asks. The zero value asks nobody.
type ScrapeOptions struct {
	// Trackers are URLs that the user named.
	Trackers []string
	// Strangers are URLs from a torrent or link: they may not be more local than the internet, but for those in AllowNetworks. 100 of them are asked.
	Strangers     []string
	AllowNetworks []netip.Prefix
	ClientName    string // what trackers are told about this program; empty means "Parley" and the version
}

// ScrapeTrackers asks trackers how many peers of a torrent they know, all at once, without joining anything (BEP 48, BEP 15). The counts come in the order of the trackers, each once; what went wrong
// with one stands in its Err. It takes as long as the slowest, a minute at most beside the waits for those before it: bound it by ctx.
func ScrapeTrackers(ctx context.Context, h bt.InfoHash, o ScrapeOptions) []TrackerCounts {
	if o.ClientName == "" {
		o.ClientName = "Parley " + Version
	}
	c := tracker.NewClient(tracker.Config{UserAgent: o.ClientName, Allow: o.AllowNetworks})
	t := &Torrent{o: TorrentOptions{Trackers: [][]string{o.Trackers}}, magnet: metainfo.Magnet{Trackers: o.Strangers}}
	return scrapeAll(ctx, c, []bt.InfoHash{h}, t.trackers())
}

// scrape fills in what a tracker says.
func scrape(ctx context.Context, c *tracker.Client, t *TrackerCounts, from tracker.Origin) {
	t.Tracker = tracker.DisplayRaw(t.URL)
	counts, err := c.Scrape(ctx, t.URL, from, []bt.InfoHash{t.InfoHash})
	t.Err = err
	for _, n := range counts {
		if n.InfoHash == t.InfoHash {
			t.Seeders, t.Leechers, t.Downloaded = n.Seeders, n.Leechers, n.Downloaded
		}
	}
}

// checkTrackers refuses URLs of the user that are not a tracker's.
func checkTrackers(tiers [][]string) error {
	for _, u := range slices.Concat(tiers...) {
		if _, err := tracker.ParseURL(u); err != nil {
			return fmt.Errorf("tracker %q: %w", strings.ToValidUTF8(u, "\uFFFD"), err)
		}
	}
	return nil
}
