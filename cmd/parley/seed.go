package main

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
)

type listeningEvent struct {
	head
	InfoHash string           `json:"info_hash"`
	HashV2   string           `json:"info_hash_v2,omitempty"`
	Name     string           `json:"name"`
	Magnet   string           `json:"magnet"`
	Addrs    []netip.AddrPort `json:"addrs"`
	Types    []string         `json:"types,omitempty"`
	Skipped  []string         `json:"skipped,omitempty"`
}

// stoppedEvent is how seed and listen end.
type stoppedEvent struct {
	head
	InfoHash   string  `json:"info_hash"`
	Seconds    float64 `json:"seconds"`
	Sessions   int     `json:"sessions"`
	Downloaded int64   `json:"downloaded"`
	Uploaded   int64   `json:"uploaded"`
	Messages   int64   `json:"messages"`
	Requests   int64   `json:"requests"`
}

func (a *app) seedCmd() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "seed PATH|TORRENT…",
		Short: "Share files or folders, or the content of .torrent files",
		Long: `Serve a file or folder to every peer that asks, until Ctrl-C or until --ratio or --seed-time is reached. Of a .torrent file the content is served, which is looked for beside
it, or at --data. Files are only read, never written. The magnet link and the address are printed first, then a command line for
the other side. Several are served at once, or with --active so many at a time, in their order: the next one when one of them has reached its goal.

` + helloHelp,
		Example: "  parley seed holiday/\n  parley seed one.torrent two.torrent --active 1 --ratio 2 --up 500k\n  parley seed holiday.torrent --data ~/pictures --listen :6881",
		Args:    wantsSome("the PATH of a file, folder or .torrent"),
		RunE:    a.runs(func(ctx context.Context, args []string) error { return a.seed(ctx, args, data) }),
	}
	cmd.Flags().StringVarP(&data, "data", "d", "", "`PATH` of a .torrent's content, or of the folder that holds it")
	cmd.Flags().BoolVar(&a.super, "super", false, "as the only seed of a new swarm: show each peer only a few pieces until it passes them on, so that little more than one copy is sent")
	cmd.Flags().StringVar(&a.net.state, "state", "", "remember in `DIR` what was verified, so that the next start of the same .torrent hashes only what has changed")
	cmd.Flags().IntVar(&a.net.active, "active", 0, "serve `N` torrents at a time; by default all")
	noFiles(cmd, "active")
	a.net.rates.add(cmd)
	a.net.goal.add(cmd, "ratio", "serve each torrent")
	a.net.add(cmd, listenStandard)
	return cmd
}

// seedSource finds what arg is, and where its content lies.
func seedSource(arg, data string) (s source, content string, err error) {
	if s, err = parseSource(arg, false); err != nil {
		return s, "", err
	}
	switch s.kind {
	case sourceMagnet, sourceHash:
		return s, "", failf(exitUsage, "parley get fetches it first; --seed then goes on serving it", "%s: is no file, folder or .torrent", arg)
	case sourceContent:
		if data != "" {
			return s, "", failf(exitUsage, "leave --data out: PATH is the content", "--data belongs to a .torrent, and %s is none", arg)
		}
		return s, s.path, nil
	}
	content, err = findContent(s.torrent.Info, s.path, data)
	return s, content, err
}

func (a *app) seed(ctx context.Context, args []string, data string) (err error) {
	if err := a.net.check(); err != nil {
		return err
	}
	if err := a.net.goal.check("ratio"); err != nil {
		return err
	}
	if a.net.active < 0 {
		return failf(exitUsage, "such as 5; 0 for all", "--active %d: must not be negative", a.net.active)
	}
	if data != "" && len(args) > 1 {
		return failf(exitUsage, "seed each with its own --data by a command of its own", "--data belongs to one .torrent, and there are %d arguments", len(args))
	}
	if a.net.hellos.swarm != nil && len(args) > 1 {
		return failf(exitUsage, "seed each with a key of its own, see parley identity swarm-key", "--swarm-key belongs to one torrent, and there are %d arguments", len(args))
	}
	sources, contents := make([]source, len(args)), make([]string, len(args))
	for i, arg := range args {
		if sources[i], contents[i], err = seedSource(arg, data); err != nil {
			return err
		}
	}
	peers, err := a.net.resolve(ctx)
	if err != nil {
		return err
	}
	c, err := a.openClient(ctx, true)
	if err != nil {
		return err
	}
	defer a.closeClient(c, &err)
	all := make([]served, len(args))
	for i := range args {
		x := &all[i]
		if x.t, x.skipped, err = a.share(ctx, c, sources[i], contents[i]); err != nil {
			if errors.Is(err, parley.ErrTorrentExists) {
				return failf(exitUsage, "name each once", "%s: the same torrent as one named before it", args[i])
			}
			return interrupted(ctx, err, "nothing was served yet")
		}
		x.events = x.t.Events(ctx) // before anybody is told where to connect to
	}
	for _, x := range all {
		a.announce(c, x.t, nil, x.skipped)
	}
	if len(all) == 1 {
		return a.keepSeeding(ctx, all[0].t, all[0].events, peers)
	}
	for _, x := range all {
		a.net.dial(x.t, peers)
	}
	return a.seedAll(ctx, all)
}

// share adds what s is, whose content lies at content, to be served from there. It returns what of a folder is not served, too.
func (a *app) share(ctx context.Context, c *parley.Client, s source, content string) (t *parley.Torrent, skipped []string, err error) {
	title := "hashing"
	if s.kind == sourceTorrent {
		title = "verifying"
	}
	m, onVerify := a.ui.hashing(title, false)
	defer m.end()
	o := parley.TorrentOptions{SuperSeed: a.super, SwarmKey: a.net.hellos.swarm, Trackers: a.net.find.tiers(), OnVerify: onVerify, OnSkip: func(path string) { skipped = append(skipped, path) }}
	if s.kind == sourceTorrent {
		t, err = c.SeedTorrent(ctx, s.torrent, content, o)
		if err != nil && ctx.Err() == nil {
			err = seedError(err)
		}
		return t, nil, err
	}
	if t, err = c.Share(ctx, content, o); err != nil {
		return nil, nil, createError(err)
	}
	return t, skipped, nil
}

// noteSkipped names what of a folder was left out, or the first of it.
func (a *app) noteSkipped(skipped []string) {
	const enough = 10
	for i, s := range skipped {
		if i == enough {
			a.ui.note("left out besides, for the same reason: %d more", len(skipped)-enough)
			return
		}
		a.ui.note("left out, not a regular file: %s", safe.Escape(s))
	}
}

// seedError is the error for content that does not fit its torrent.
func seedError(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return inputError(err)
	}
	text := strings.Replace(describe(err), parley.ErrContentDiffers.Error(), strings.TrimPrefix(parley.ErrContentDiffers.Error(), "parley: "), 1)
	return failf(exitTorrent, "--data PATH says where the right content lies; parley get with the torrent fetches what is missing", "%s", text)
}

// findContent returns the path of a torrent's content: at data if that is given, else beside the .torrent file.
func findContent(info *metainfo.Info, torrent, data string) (string, error) {
	dir := data
	if data == "" {
		dir = filepath.Dir(torrent)
	} else if fi, err := os.Stat(data); err != nil {
		return "", inputError(err)
	} else if !fi.IsDir() {
		return data, nil
	}
	below, err := contentPath(dir, info)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(below); err == nil {
		return below, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", inputError(err)
	}
	if data != "" && !info.SingleFile {
		return data, nil // the folder itself, under whatever name
	}
	return "", failf(exitInput, "--data PATH says where it lies", "%s: the content of %s is not there", below, torrent)
}

// announce prints under which link and addresses the torrent is served, and for people a command line for the other side: for messages if there are types. It does
// so before anything else reaches standard output.
func (a *app) announce(c *parley.Client, t *parley.Torrent, types []typeSpec, skipped []string) {
	link := t.Magnet()
	for _, u := range a.net.find.trackers {
		if !slices.Contains(link.Trackers, u) {
			link.Trackers = append(link.Trackers, u)
		}
	}
	magnet, addrs := link.String(), reachableAt(c.Addr())
	var names []string
	for _, ty := range types {
		names = append(names, ty.name)
	}
	a.ui.event(listeningEvent{head: now("listening"), InfoHash: t.InfoHash().String(), HashV2: hashText(t.InfoHashV2()), Name: t.Name(), Magnet: magnet, Addrs: orEmpty(addrs), Types: names, Skipped: skipped})
	say := a.ui.say
	if types != nil {
		say = a.ui.note // listen: standard output carries JSON
	}
	list := make([]string, len(addrs))
	for i, ap := range addrs {
		list[i] = ap.String()
	}
	say("magnet:  %s", safe.Escape(magnet))
	say("address: %s", strings.Join(list, ", "))
	a.noteSkipped(skipped)
	peer := "ADDR"
	if len(list) > 0 {
		peer = list[0]
	}
	where := ""
	if len(list) > 1 {
		where = " on this machine (on another: --peer with another address)"
	}
	if types == nil {
		say("fetch it%s with:\n  %s", where, safe.Escape(pasteLine(append([]string{"parley", "get", magnet, "--peer", peer}, a.net.hellos.forOthers()...)...)))
	} else {
		say("talk to it%s with:\n  %s", where, safe.Escape(pasteLine(append(append([]string{"parley", "send", magnet, "--peer", peer}, a.net.hellos.forOthers()...), "--type", types[0].String(), "--wait", "2s", "hello")...)))
	}
}

// keepSeeding dials peers and serves until ctx ends or a goal is reached, which are the normal ends, or the torrent stops, whose error it returns.
func (a *app) keepSeeding(ctx context.Context, t *parley.Torrent, events iter.Seq[parley.Event], peers []netip.AddrPort) error {
	a.ui.note("serving; Ctrl-C ends")
	start := time.Now()
	m := a.ui.meter("seeding", false)
	defer m.end()
	stop := a.watch(ctx, m, t, seedText)
	defer stop()
	log := a.logOf(t)
	a.net.dial(t, peers)
	err := serve(ctx, events, log.handle)
	stop()
	m.end()
	return a.stopped(ctx, t, err, start, log.sessions, nil)
}

// received counts what peers have sent.
type received struct{ messages, requests atomic.Int64 }

// stopped ends a command that goes on until it is interrupted or has served enough: in that case it says what was done, and all is well. got is
// nil if messages are not what the command is for.
func (a *app) stopped(ctx context.Context, t *parley.Torrent, err error, start time.Time, sessions int, got *received) error {
	if !errors.Is(context.Cause(ctx), context.Canceled) && !errors.Is(err, errEnough) {
		return err
	}
	a.sayStopped(t, "", start, sessions, got)
	return nil
}

// sayStopped says what was done in all; the prefix of the line is escaped.
func (a *app) sayStopped(t *parley.Torrent, prefix string, start time.Time, sessions int, got *received) {
	s, took := t.Stats(), time.Since(start)
	e := stoppedEvent{head: now("stopped"), InfoHash: t.InfoHash().String(), Seconds: took.Seconds(), Sessions: sessions, Downloaded: s.Downloaded, Uploaded: s.Uploaded}
	text := ""
	if got != nil {
		e.Messages, e.Requests = got.messages.Load(), got.requests.Load()
		text = ", " + plural(e.Messages, "message")
		if e.Requests > 0 {
			text += " and " + plural(e.Requests, "request")
		}
		text += " received"
	}
	a.ui.event(e)
	a.ui.note("%sstopped after %s: %s sent in %s with peers%s", prefix, spanText(took), sizeText(s.Uploaded), plural(sessions, "session"), text)
}

// watch runs m.watch until the function it returns is called, which may be more than once.
func (a *app) watch(ctx context.Context, m *meter, t *parley.Torrent, text func(parley.Stats) string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.watch(ctx, t, text)
	}()
	return func() { cancel(); <-done }
}
