package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
)

type getFlags struct {
	dir     string
	seed    bool
	timeout time.Duration
	web     webFlags
	alloc   string
	save    string // --save-torrent
	choose  chooseFlags
}

type doneEvent struct {
	head
	InfoHash string  `json:"info_hash"`
	Name     string  `json:"name"`
	Path     string  `json:"path"`
	Seconds  float64 `json:"seconds"`
	statsFields
}

func (a *app) getCmd() *cobra.Command {
	var f getFlags
	cmd := &cobra.Command{
		Use:   "get SOURCE [-o DIR]",
		Short: "Download a torrent",
		Long: `Download a torrent into a folder and end when it is complete. ` + sourceHelp + `.
For get a path is that of a .torrent file. What lies in the folder already is verified and kept; files under their final name are never
overwritten, and incomplete ones are called NAME.part. The same command goes on where it was interrupted.

` + chooseHelp + `
With --cat the file is written to standard output from its beginning, while it comes, for a player or another program; it is stored
below the folder all the same.

` + helloHelp,
		Example: "  parley get 'magnet:?xt=urn:btih:…' --peer 192.0.2.7:6881\n  parley get holiday.torrent --peer seed.example.org:6881 -o ~/pictures" +
			"\n  parley get album.torrent --file '*.flac' --skip extras\n  parley get film.torrent --cat film.mkv | mpv -" +
			"\n  parley get 'magnet:?xt=urn:btih:…' --dht --list --save-torrent film.torrent",
		Args: wants(1, "SOURCE"),
		RunE: a.runs(func(ctx context.Context, args []string) error { return a.get(ctx, args[0], f) }),
	}
	cmd.Flags().StringVarP(&f.dir, "output", "o", ".", "download into the folder `DIR`, which is created if it is missing")
	cmd.Flags().BoolVar(&f.seed, "seed", false, "go on serving when complete, until Ctrl-C")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "give up after `TIME`, such as 90s or 2h; by default never")
	must(cmd.MarkFlagDirname("output"))
	noFiles(cmd, "timeout")
	f.web.add(cmd)
	cmd.Flags().StringVar(&f.alloc, "allocate", "sparse", "take disk space as files are written (`sparse`), or all of a file as it is begun (full)")
	noFiles(cmd, "allocate")
	f.choose.add(cmd)
	cmd.Flags().StringVar(&f.save, "save-torrent", "", "write the .torrent of a link or info-hash to `FILE`, which must not exist, as soon as all of it is known")
	a.net.rates.add(cmd)
	a.net.goal.add(cmd, "seed-ratio", "go on serving when complete,")
	a.net.add(cmd, listenAny)
	return cmd
}

func (a *app) get(ctx context.Context, arg string, f getFlags) (err error) {
	if err := a.net.check(); err != nil {
		return err
	}
	if err := a.net.goal.check("seed-ratio"); err != nil {
		return err
	}
	if err := f.web.check(); err != nil {
		return err
	}
	if err := f.choose.check(a.ui.json, f.seed); err != nil {
		return err
	}
	if f.choose.cat != "" && a.ui.outTTY {
		return failf(exitUsage, "pipe it into a program, or redirect it into a file", "--cat: what strangers have put into a file is not written to a terminal")
	}
	a.net.noWeb = f.web.none
	alloc, err := parseAllocation(f.alloc)
	if err != nil {
		return err
	}
	if f.timeout < 0 {
		return failf(exitUsage, "such as 90s or 2h", "--timeout %s: must not be negative", f.timeout)
	}
	s, err := parseSource(arg, true)
	if err != nil {
		return err
	}
	if s.kind == sourceContent {
		return failf(exitUsage, "parley seed shares a folder; get wants a .torrent, a magnet link or an info-hash", "%s: is a folder", arg)
	}
	if err := checkSave(f.save, s); err != nil {
		return err
	}
	if s.kind == sourceTorrent {
		files := filesOf(s.torrent.Info)
		if f.choose.list {
			a.printList(files, &f.choose)
			return nil
		}
		if _, err := f.choose.judge(files); err != nil {
			return err
		}
	}
	if fi, err := os.Stat(f.dir); err == nil && !fi.IsDir() {
		return failf(exitStorage, "-o wants a folder, existing or new", "%s: is no folder", f.dir)
	}
	peers, err := a.net.resolve(ctx)
	if err != nil {
		return err
	}
	a.net.find.notePrivate(a.ui, s)
	alone := len(peers) == 0 && a.net.listen == "" && len(parley.LinkPeers(s.magnet, a.net.nets...)) == 0 && !a.net.find.can(s)
	if alone && s.kind != sourceTorrent {
		return errNoPeers(s.magnet)
	}
	if s.kind == sourceTorrent && f.web.any(s.torrent.WebSeeds) {
		alone = false
	}
	c, err := a.openClient(ctx, false)
	if err != nil {
		return err
	}
	defer a.closeClient(c, &err)

	start := time.Now()
	m := a.ui.meter("downloading", true)
	defer m.end()
	o := parley.TorrentOptions{Dir: f.dir, Trackers: a.net.find.tiers(), WebSeeds: f.web.urls, Allocate: alloc, SwarmKey: a.net.hellos.swarm}
	f.choose.apply(&o)
	var t *parley.Torrent
	switch s.kind {
	case sourceTorrent:
		t, err = c.AddTorrent(s.torrent, o)
	case sourceMagnet:
		magnet, linked := a.net.quietly(s.magnet)
		peers = append(peers, linked...)
		t, err = c.AddMagnet(magnet, o)
	default:
		t, err = c.AddMagnet(s.link(), o)
	}
	if err != nil {
		return err
	}
	if s.kind != sourceTorrent {
		a.ui.note("waiting for metadata from %s", a.fromWhom(c, s, peers))
	}
	if err := a.download(ctx, t, m, f, peers, alone); err != nil {
		return err
	}
	m.end()
	if f.choose.list {
		a.printList(t.Files(), &f.choose)
		return nil
	}
	if err := a.printDone(t, f, time.Since(start)); err != nil {
		return err
	}
	if f.seed || a.net.goal.any() {
		events := t.Events(ctx)
		a.announce(c, t, nil, nil)
		return a.keepSeeding(ctx, t, events, nil)
	}
	return nil
}

// download dials peers and waits until the torrent is complete. alone says that no peer can be found.
func (a *app) download(ctx context.Context, t *parley.Torrent, m *meter, f getFlags, peers []netip.AddrPort, alone bool) error {
	parent := ctx
	if f.timeout > 0 {
		var cancelTimeout context.CancelFunc
		ctx, cancelTimeout = context.WithTimeout(ctx, f.timeout)
		defer cancelTimeout()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := a.watch(ctx, m, t, downloadText)
	log := a.logOf(t)
	if len(peers) > 0 {
		waiting := a.explainWait(ctx, func() string {
			if log.told.Load() {
				return ""
			}
			return "no answer yet from " + addrList(peers)
		})
		defer waiting()
	}
	events := t.Events(ctx)
	a.net.dial(t, peers)
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		// How it ends is what WaitComplete says.
		_ = follow(ctx, events, func(ev parley.Event) {
			log.handle(ev)
			if ev.Kind == parley.EventMetadata {
				a.ui.note("metadata received: %s, %s", safe.Escape(t.Name()), sizeText(t.Stats().TotalBytes))
			}
		})
	}()
	save := a.saveTorrent(ctx, t, f.save)
	defer save.stop()
	err := t.WaitMetadata(ctx)
	if err == nil && alone {
		if s := t.Stats(); s.WantedHave < s.WantedBytes {
			if err = errNoPeers(t.Magnet()); t.Metainfo().Info.Private {
				err = errNoPeersOfPrivate()
			}
		}
	}
	if err == nil && !f.choose.list {
		a.noteRenamed(t.Metainfo().Info, &f.choose)
		err = a.fetch(ctx, t, &f.choose)
	}
	if err == nil {
		err = save.finish()
	}
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded) && parent.Err() == nil
	cancel()
	stop()
	<-logged
	if err == nil {
		return nil
	}
	m.end()
	s := t.Stats()
	have := fmt.Sprintf("%d of %d pieces", s.HavePieces, s.Pieces)
	if s.Pieces == 0 {
		have = "no metadata"
	}
	kept := "nothing was received yet"
	if s.HavePieces > 0 {
		kept = fmt.Sprintf("%s; what was received stays in %s and is continued by the same command", have, f.dir)
	}
	if !timedOut {
		return interrupted(parent, err, kept)
	}
	hint := "what was received stays in " + f.dir + " and is continued by the same command"
	switch {
	case s.Peers > 0:
	case len(peers) > 0:
		hint = "check --peer: the other side must run, have this torrent, and be reachable; what was received is kept"
	case f.web.any(nil):
		hint = "check --web-seed, or name a peer with --peer ADDR; what was received is kept"
	default:
		hint = "nobody was found who has it: name a peer with --peer ADDR, or a tracker with --tracker URL; what was received is kept"
	}
	return failf(exitTimeout, hint, "not complete after %s: %s, %s connected", f.timeout, have, plural(s.Peers, "peer"))
}

// fetch waits until what was chosen is there, and writes the file of --cat on the way.
func (a *app) fetch(ctx context.Context, t *parley.Torrent, f *chooseFlags) error {
	file, err := f.judge(t.Files())
	if err != nil {
		return err
	}
	if f.cat != "" {
		if err := a.cat(ctx, t, file); err != nil {
			return err
		}
	}
	return t.WaitComplete(ctx)
}

// fromWhom names those that may have the metadata.
func (a *app) fromWhom(c *parley.Client, s source, peers []netip.AddrPort) string {
	switch {
	case len(peers) > 0:
	case a.net.find.can(s):
		return "peers that are still to be found"
	default:
		return fmt.Sprintf("peers that connect to %s", c.Addr())
	}
	return addrList(peers)
}

func addrList(peers []netip.AddrPort) string {
	list := make([]string, len(peers))
	for i, p := range peers {
		list[i] = p.String()
	}
	return strings.Join(list, ", ")
}

// noteRenamed says that files that are wanted do not get the names that they have in the torrent, if so, and gives an example.
func (a *app) noteRenamed(info *metainfo.Info, choose *chooseFlags) {
	paths, err := metainfo.SafePaths(info)
	if err != nil {
		return // the torrent's storage has told already
	}
	changed, example := 0, ""
	for i, f := range info.Files {
		named := f.Path
		if !info.SingleFile {
			named = append([]string{info.Name}, f.Path...)
		}
		if f.Padding || !choose.wants(f.Path) || slices.Equal(named, paths[i]) {
			continue
		}
		if changed++; changed == 1 {
			example = fmt.Sprintf("%s as %s", safe.Clip(strings.Join(named, "/"), 100), safe.Clip(filepath.Join(paths[i]...), 100))
		}
	}
	if changed > 0 {
		a.ui.note("%s stored under another name, one that every system allows: %s", plural(changed, "file"), example)
	}
}

func (a *app) printDone(t *parley.Torrent, f getFlags, took time.Duration) error {
	say := a.ui.say
	if f.choose.cat != "" {
		say = a.ui.note // standard output is the file's
	}
	path, err := contentPath(f.dir, t.Metainfo().Info)
	if err != nil {
		return err
	}
	s := t.Stats()
	a.ui.event(doneEvent{head: now("done"), InfoHash: t.InfoHash().String(), Name: t.Name(), Path: path, Seconds: took.Seconds(), statsFields: statsJSON(s)})
	if s.Downloaded == 0 {
		say("complete already: %s, %s verified", safe.Escape(path), sizeText(s.WantedBytes))
		return nil
	}
	kept := ""
	if f.choose.some() {
		files, chosen := t.Files(), 0
		for _, x := range files {
			if x.Priority != parley.PrioritySkip {
				chosen++
			}
		}
		kept = fmt.Sprintf(", %d of %s", chosen, plural(len(files), "file"))
	} else if n := s.TotalBytes - s.Downloaded + s.Wasted; n > 0 {
		kept = fmt.Sprintf(", %s were there already", sizeText(n))
	}
	rate := sizeText(int64(float64(s.Downloaded) / max(took.Seconds(), 1e-3)))
	say("complete: %s, %s received in %s (%s/s)%s", safe.Escape(path), sizeText(s.Downloaded), spanText(took), rate, kept)
	if s.CorruptPieces > 0 {
		a.ui.note("%s failed the hash and came again", plural(s.CorruptPieces, "piece"))
	}
	return nil
}
