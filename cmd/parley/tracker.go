package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/tracker/server"
)

// trackerPort is the port that trackers have by custom.
const trackerPort = "6969"

type trackerFlags struct {
	listen      string
	udp         bool
	interval    time.Duration
	allow       []string
	maxTorrents int
	stats       time.Duration
}

// trackingEvent says that the tracker runs.
type trackingEvent struct {
	head
	Addr netip.AddrPort `json:"addr"`
	URLs []string       `json:"urls"`
}

// trackerStatsEvent is what the tracker has done so far.
type trackerStatsEvent struct {
	head
	Torrents           int    `json:"torrents"`
	Peers              int    `json:"peers"`
	Announces          uint64 `json:"announces"`
	Scrapes            uint64 `json:"scrapes"`
	Refused            uint64 `json:"refused"`
	Limited            uint64 `json:"limited"`
	BadConnectionIDs   uint64 `json:"bad_connection_ids"`
	MalformedDatagrams uint64 `json:"malformed_datagrams"`
}

func (a *app) trackerCmd() *cobra.Command {
	var f trackerFlags
	cmd := &cobra.Command{
		Use:   "tracker",
		Short: "Run a tracker",
		Long: `Run a tracker, over HTTP and UDP on one port number, until Ctrl-C. The URLs to announce to are printed first. What it knows is kept in
memory only: peers announce again.

It can stand on the open internet: what it keeps and whom it answers is bounded, and a UDP reply is no longer than its request before
the sender's address has been proved. By default it listens on this machine only, and tracks every torrent that is announced to it.` + statsSignalHelp,
		Example: "  parley tracker\n  parley tracker --listen :6969 --allow torrents.txt\n  parley seed holiday/ --tracker http://127.0.0.1:6969/announce",
		Args:    wants(0, ""),
		RunE:    a.runs(func(ctx context.Context, _ []string) error { return a.tracker(ctx, f) }),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.listen, "listen", "127.0.0.1:"+trackerPort, "answer on `ADDR`, as host:port or :port")
	fl.BoolVar(&f.udp, "udp", true, "answer over UDP as well; --udp=false leaves HTTP")
	fl.DurationVar(&f.interval, "interval", 30*time.Minute, "have peers announce every `TIME`")
	fl.StringArrayVar(&f.allow, "allow", nil, "track only the torrents that `FILE` names: a .torrent, or a text with one info-hash or magnet link a line; may be repeated")
	fl.IntVar(&f.maxTorrents, "max-torrents", 10_000, "keep at most `N` torrents")
	fl.DurationVar(&f.stats, "stats", 0, "print what it has done every `TIME`; 0 is never")
	noFiles(cmd, "listen", "interval", "max-torrents", "stats")
	return cmd
}

func (a *app) tracker(ctx context.Context, f trackerFlags) error {
	if f.interval < time.Second || f.maxTorrents < 1 || f.stats < 0 || f.stats > 0 && f.stats < time.Second {
		return failf(exitUsage, "such as --interval 30m --max-torrents 1000 --stats 1m", "--interval and --stats must be at least a second, and --max-torrents at least 1")
	}
	if err := (&netFlags{listen: f.listen}).check(); err != nil {
		return err
	}
	cfg := server.Config{Interval: f.interval, MaxTorrents: f.maxTorrents}
	if len(f.allow) > 0 {
		allowed := allowList{}
		for _, path := range f.allow {
			if err := readAllowed(path, allowed); err != nil {
				return err
			}
		}
		cfg.Allow = func(h bt.InfoHash) bool { _, ok := allowed[h]; return ok }
		a.ui.note("%s tracked, others are refused", plural(allowed.torrents(), "torrent"))
	}
	open := server.Listen
	if !f.udp {
		open = server.ListenHTTP
	}
	l, err := open(f.listen)
	if err != nil {
		_, hint := classify(err)
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // the address is said already
		}
		return failf(exitListen, hint, "--listen %s: %w", f.listen, err)
	}
	srv := server.New(cfg)
	var urls []string
	for _, at := range reachableAt(l.Addr()) {
		urls = append(urls, "http://"+at.String()+"/announce")
		if l.UDP() {
			urls = append(urls, "udp://"+at.String()+"/announce")
		}
	}
	a.ui.event(trackingEvent{now("tracking"), l.Addr(), urls})
	for _, u := range urls {
		a.ui.say("announce to: %s", u)
	}
	a.ui.note("tracking; Ctrl-C ends")

	done := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		a.tellStats(srv, f.stats, done)
	}()
	err = srv.Run(ctx, l)
	close(done)
	<-told
	if err != nil {
		return err
	}
	a.printStats("stopped", srv.Stats())
	return nil
}

// tellStats prints what the tracker has done whenever it is asked to, until done.
func (a *app) tellStats(srv *server.Server, every time.Duration, done <-chan struct{}) {
	asked, stop := statsSignal()
	defer stop()
	var due <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		due = ticker.C
	}
	for {
		select {
		case <-asked:
		case <-due:
		case <-done:
			return
		}
		a.printStats("tracker_stats", srv.Stats())
	}
}

func (a *app) printStats(event string, s server.Stats) {
	a.ui.event(trackerStatsEvent{head: now(event), Torrents: s.Torrents, Peers: s.Peers, Announces: s.Announces, Scrapes: s.Scrapes, Refused: s.Refused, Limited: s.Limited,
		BadConnectionIDs: s.BadConnectionIDs, MalformedDatagrams: s.MalformedDatagrams})
	a.ui.say("%s, %s; %s and %s answered, %d refused (%d asked too often), %d datagrams unusable",
		plural(s.Torrents, "torrent"), plural(s.Peers, "peer"), plural(int64(s.Announces), "announce"), plural(int64(s.Scrapes), "scrape"), s.Refused, s.Limited, s.BadConnectionIDs+s.MalformedDatagrams)
}

// maxAllowedLine is the longest line of a list of torrents.
const maxAllowedLine = 64 << 10

// allowList holds the hashes that peers announce the torrents of a list by, and which of them is the first of its torrent.
type allowList map[bt.InfoHash]bool

// add adds a torrent: a hybrid goes by two hashes, and a v2 info-hash is cut to 20 bytes (BEP 52).
func (l allowList) add(v1 bt.InfoHash, v2 metainfo.InfoHashV2) {
	first := true
	for _, h := range [...]bt.InfoHash{v1, v2.Truncated()} {
		if !h.IsZero() {
			l[h] = l[h] || first
			first = false
		}
	}
}

// torrents returns how many torrents it names.
func (l allowList) torrents() (n int) {
	for _, first := range l {
		if first {
			n++
		}
	}
	return n
}

// readAllowedLine reads a line of a list of torrents.
func readAllowedLine(line string) (m metainfo.Magnet, err error) {
	switch {
	case len(line) >= 7 && strings.EqualFold(line[:7], "magnet:"):
		return metainfo.ParseMagnetV2(line)
	case len(line) == 2*metainfo.TreeHashBytes:
		m.InfoHashV2, err = metainfo.ParseInfoHashV2(line)
	default:
		m.InfoHash, err = bt.ParseInfoHash(line)
	}
	if err == nil && m.InfoHash.IsZero() && m.InfoHashV2.Truncated().IsZero() {
		err = errors.New("an info-hash of zeros")
	}
	return m, err
}

// readAllowed adds the torrents that a file names.
func readAllowed(path string, allowed allowList) error {
	if strings.HasSuffix(strings.ToLower(path), ".torrent") {
		mi, err := loadTorrent(path)
		if err != nil {
			return err
		}
		allowed.add(mi.InfoHash, mi.InfoHashV2)
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return inputError(err)
	}
	defer file.Close() // only read
	const hint = "a line is an info-hash of 40 hexadecimal digits or 32 base32 characters, a v2 info-hash of 64 hexadecimal digits, a magnet link, empty, or begins with #"
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxAllowedLine)
	n := 0
	for n = 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		m, err := readAllowedLine(line)
		if err != nil {
			return failf(exitInput, hint, "%s: line %d: not an info-hash", path, n)
		}
		allowed.add(m.InfoHash, m.InfoHashV2)
	}
	if err := lines.Err(); err != nil {
		return failf(exitInput, hint, "%s: line %d: %w", path, n, err)
	}
	return nil
}
