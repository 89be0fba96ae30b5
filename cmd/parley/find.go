package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/dht"
	"github.com/parley-bt/parley/tracker"
)

// findFlags say how peers are found beside those that are named.
type findFlags struct {
	trackers   []string
	noTrackers bool
	lsd        bool
	dht        bool
	dhtNodes   []string

	node *dht.Node // while a client runs with --dht
}

func (f *findFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.trackers, "tracker", nil, "announce to the tracker at `URL` too, such as http://127.0.0.1:6969/announce or udp://tracker.example.org:6969; may be repeated")
	cmd.Flags().BoolVar(&f.noTrackers, "no-trackers", false, "announce to no tracker, not even those of the torrent or link")
	cmd.Flags().BoolVar(&f.lsd, "lsd", false, "find peers on the local network, which can read what is announced there (BEP 14)")
	cmd.Flags().BoolVar(&f.dht, "dht", false, "find peers of torrents that are not private in the DHT, and tell it of this one (BEP 5); it begins with public nodes, or those of --dht-node")
	cmd.Flags().StringArrayVar(&f.dhtNodes, "dht-node", nil, "with --dht, which it implies: begin with the node at `ADDR`, as host:port, and no other; may be repeated, or hold several with commas")
	noFiles(cmd, "tracker", "dht-node")
}

// check refuses what is no tracker.
func (f *findFlags) check() error {
	for _, u := range f.trackers {
		if _, err := tracker.ParseURL(u); err != nil {
			return failf(exitUsage, "--tracker wants a URL such as http://127.0.0.1:6969/announce or udp://tracker.example.org:6969", "--tracker %q: %w", u, err)
		}
	}
	if f.noTrackers && len(f.trackers) > 0 {
		return failf(exitUsage, "leave one of them out", "--tracker and --no-trackers contradict each other")
	}
	return nil
}

// tiers are the trackers that the user named: every one is announced to.
func (f *findFlags) tiers() (tiers [][]string) {
	for _, u := range f.trackers {
		tiers = append(tiers, []string{u})
	}
	return tiers
}

// can reports whether peers of s may be found without anybody naming one.
func (f *findFlags) can(s source) bool {
	named := len(f.trackers) > 0 || len(s.magnet.Trackers) > 0 || s.torrent != nil && slices.ContainsFunc(s.torrent.Announce, func(tier []string) bool { return len(tier) > 0 })
	return !private(s) && (f.lsd || f.wantsDHT()) || named && !f.noTrackers
}

// private reports whether peers of s may come from its trackers only (BEP 27), as far as that is known yet.
func private(s source) bool { return s.torrent != nil && s.torrent.Info.Private }

// notePrivate says that the flags ask for what is not done for a private torrent.
func (f *findFlags) notePrivate(u *ui, s source) {
	if private(s) && (f.lsd || f.wantsDHT()) {
		u.note("the torrent is private: neither the DHT nor the local network is asked for its peers")
	}
}

// trackerEvent is what came of one announce.
type trackerEvent struct {
	head
	Tracker  string     `json:"tracker"`
	InfoHash string     `json:"info_hash"`
	Peers    int        `json:"peers"`
	Dropped  int        `json:"dropped"`
	Seeders  *int       `json:"seeders,omitempty"`
	Leechers *int       `json:"leechers,omitempty"`
	Failures int        `json:"failures"`
	Next     *time.Time `json:"next,omitempty"`
	Warning  string     `json:"warning,omitempty"`
	Error    string     `json:"error,omitempty"`
}

func trackerJSON(h head, s parley.TrackerStatus) trackerEvent {
	e := trackerEvent{head: h, Tracker: s.Tracker, InfoHash: s.InfoHash.String(), Peers: s.Peers, Dropped: s.Dropped, Failures: s.Failures, Warning: s.Warning}
	if s.Seeders >= 0 {
		e.Seeders = &s.Seeders
	}
	if s.Leechers >= 0 {
		e.Leechers = &s.Leechers
	}
	if !s.Next.IsZero() {
		e.Next = new(s.Next.UTC())
	}
	if s.Err != nil {
		e.Error = s.Err.Error()
	}
	return e
}

// trackerText says what is wrong with a tracker, or what it has to say; empty if all is well.
func trackerText(s parley.TrackerStatus, at time.Time) string {
	if s.Err == nil {
		if s.Warning == "" {
			return ""
		}
		return fmt.Sprintf("tracker %s says: %s", s.Tracker, safe.Clip(s.Warning, 200))
	}
	return fmt.Sprintf("tracker %s: %s; %s", s.Tracker, safe.Clip(trackerReason(s.Err), 300), nextTry(s.Next, at))
}

// trackerReason returns an error of a tracker without the tracker, which is said already.
func trackerReason(err error) string {
	if te, ok := err.(*tracker.Error); ok {
		err = te.Err
	}
	return reason(err)
}

func nextTry(next, at time.Time) string {
	if next.IsZero() {
		return "it will not be asked again"
	}
	if wait := max(next.Sub(at), 0); wait >= time.Minute {
		return "next try in " + spanText(wait)
	} else {
		return fmt.Sprintf("next try in %d s", (wait+time.Second-1)/time.Second)
	}
}

// scrapeEvent is what a tracker says of a torrent.
type scrapeEvent struct {
	head
	Tracker    string `json:"tracker"`
	InfoHash   string `json:"info_hash"`
	Seeders    int    `json:"seeders"`
	Leechers   int    `json:"leechers"`
	Downloaded int    `json:"downloaded"`
	Error      string `json:"error,omitempty"`
}

// scrapeTimeout bounds how long show waits for all trackers.
const scrapeTimeout = 20 * time.Second

// scrape asks the trackers that the user named and those of a torrent or link how many peers there are. It is an error if none of them says.
func (a *app) scrape(ctx context.Context, h bt.InfoHash, own [][]string) error {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	counts := parley.ScrapeTrackers(ctx, h, parley.ScrapeOptions{Trackers: a.net.find.trackers, Strangers: slices.Concat(own...), AllowNetworks: a.net.nets})
	if len(counts) == 0 {
		return failf(exitUsage, "name one with --tracker URL", "--scrape: there is no tracker to ask")
	}
	answered, refused := 0, "check the tracker's URL, or try again later"
	if len(a.net.find.trackers) == 0 {
		refused = "trackers on this machine or a private network are asked if you name them with --tracker URL, or allow them with --allow-network"
	}
	for _, c := range counts {
		e := scrapeEvent{head: now("scrape"), Tracker: c.Tracker, InfoHash: h.String(), Seeders: c.Seeders, Leechers: c.Leechers, Downloaded: c.Downloaded}
		if c.Err != nil {
			e.Error = c.Err.Error()
			a.ui.event(e)
			a.ui.say("scrape:     %s: %s", c.Tracker, safe.Clip(trackerReason(c.Err), 300))
			continue
		}
		answered++
		a.ui.event(e)
		a.ui.say("scrape:     %s: %s, %s, completed %d times", c.Tracker, plural(c.Seeders, "seed"), plural(c.Leechers, "downloader"), c.Downloaded)
	}
	if answered == 0 {
		return failf(exitFailure, refused, "--scrape: no tracker has answered")
	}
	return nil
}

func (f *findFlags) wantsDHT() bool { return f.dht || len(f.dhtNodes) > 0 }

// openDHT starts a node of the DHT, if one is wanted. One that runs for the time of a download asks and does not answer (BEP 43): whoever remembered it would soon wait in vain.
func (a *app) openDHT(ctx context.Context, lasting bool) error {
	f := &a.net.find
	if !f.wantsDHT() {
		return nil
	}
	cfg := dht.Config{Bootstrap: dht.Bootstrap, ReadOnly: !lasting, AllowNetworks: a.net.nets, Logger: a.logger}
	if len(f.dhtNodes) > 0 {
		nodes, err := resolveAll(ctx, "--dht-node", f.dhtNodes)
		if err != nil {
			return err
		}
		cfg.Bootstrap = nil
		for _, n := range nodes {
			cfg.Bootstrap = append(cfg.Bootstrap, n.String()) // as an address, which is the user's word
		}
	}
	// The port of the client, where it was chosen, or any.
	cfg.ListenAddr = a.net.listen
	node, err := dht.Start(cfg)
	if err != nil && a.net.listen != "" {
		a.logger.Debug("DHT: the port is not free for UDP", "addr", a.net.listen, "err", err)
		host, _, _ := net.SplitHostPort(a.net.listen) // check has seen it
		cfg.ListenAddr = net.JoinHostPort(host, "0")
		node, err = dht.Start(cfg)
	}
	if err != nil {
		return failf(exitListen, "leave --dht out, or choose another address with --listen", "%w", err)
	}
	f.node = node
	return nil
}

// closeDHT ends the node, which no client uses any more.
func (f *findFlags) closeDHT() error {
	if f.node == nil {
		return nil
	}
	defer func() { f.node = nil }()
	return f.node.Close()
}
