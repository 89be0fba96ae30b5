package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

type listenFlags struct {
	types []string
	echo  bool
	get   bool
	dir   string // empty: not given
}

func (a *app) listenCmd() *cobra.Command {
	var f listenFlags
	cmd := &cobra.Command{
		Use:   "listen SOURCE --type NAME… [--echo]",
		Short: "Receive messages from the peers of a swarm",
		Long: `Join a swarm, serve what there is of it, and print one JSON object per event and message on standard output, until Ctrl-C.
The first line has the magnet link and the address. "parley help events" describes the lines.

` + sourceHelp + `.
A file or folder is shared as by seed. Of a .torrent the content is served if all of it lies beside the .torrent or in the folder
of -o. Nothing is downloaded, unless --get is given: then what lies in that folder is verified and served, and what is missing fetched.

While nobody reads standard output, peers have to wait; no message is lost.`,
		Example: "  parley listen notes.txt --type example_chat --echo",
		Args:    wants(1, "SOURCE"),
		RunE: a.runs(func(ctx context.Context, args []string) error {
			a.ui.json = true // notes for people stay on standard error, unless --json was given
			return a.listen(ctx, args[0], f)
		}),
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.types, "type", nil, "receive messages of type `NAME`; may be repeated")
	must(cmd.MarkFlagRequired("type"))
	fl.BoolVar(&f.echo, "echo", false, "return each message to its sender under the same type")
	fl.BoolVar(&f.get, "get", false, "download what is missing into the folder of -o")
	fl.StringVarP(&f.dir, "output", "o", "", "`DIR` that holds the content of SOURCE; by default the current folder, and that of a .torrent")
	must(cmd.MarkFlagDirname("output"))
	noFiles(cmd, "type")
	a.net.rates.add(cmd)
	a.net.add(cmd, listenStandard)
	return cmd
}

func (a *app) listen(ctx context.Context, arg string, f listenFlags) (err error) {
	if err := a.net.check(); err != nil {
		return err
	}
	for i, name := range f.types {
		if err := checkTypeName(name); err != nil {
			return err
		}
		if slices.Contains(f.types[:i], name) {
			return failf(exitUsage, "name each --type once", "--type %q: given twice", name)
		}
	}
	s, err := parseSource(arg, false)
	if err != nil {
		return err
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
	if s.kind == sourceMagnet {
		var linked []netip.AddrPort
		s.magnet, linked = a.net.quietly(s.magnet)
		peers = append(peers, linked...)
	}
	t, skipped, err := a.join(ctx, c, s, f)
	if err != nil {
		return interrupted(ctx, err, "nothing was served yet")
	}
	a.announce(c, t, f.types, skipped)
	start := time.Now()
	var received atomic.Int64
	for _, name := range f.types {
		_, err := t.Register(parley.MessageType{Name: name, Handler: a.handler(ctx, f.echo, &received)})
		if err != nil {
			code, hint := classify(err)
			return failf(code, hint, "--type %q: %w", name, err)
		}
	}
	events := t.Events(ctx)
	a.net.dial(t, peers) // now that there are types to tell them of
	log := a.logOf(t)
	err = follow(ctx, events, log.handle)
	return a.stopped(ctx, t, err, start, log.sessions, received.Load())
}

// join adds what s is, and returns what of a folder is not served, too. Only with --get is anything written.
func (a *app) join(ctx context.Context, c *parley.Client, s source, f listenFlags) (t *parley.Torrent, skipped []string, err error) {
	o := parley.TorrentOptions{Dir: f.dir, NoDownload: !f.get, Trackers: a.net.find.tiers()}
	switch s.kind {
	case sourceContent:
		if f.get || f.dir != "" {
			return nil, nil, failf(exitUsage, "leave --get and -o out: "+s.path+" is shared from where it is", "%s: is no torrent to download", s.path)
		}
		return a.share(ctx, c, s, s.path)
	case sourceMagnet:
		t, err = c.AddMagnet(s.magnet, o)
		return t, nil, err
	case sourceHash:
		t, err = c.AddMagnet(s.link(), o)
		return t, nil, err
	}
	if !f.get {
		content, err := findContent(s.torrent.Info, s.path, f.dir)
		if err == nil {
			t, _, serr := a.share(ctx, c, s, content)
			if serr == nil || ctx.Err() != nil {
				return t, nil, serr
			}
			err = serr
		}
		if ce, ok := errors.AsType[*cmdError](err); !ok || ce.code != exitInput && ce.code != exitTorrent {
			return nil, nil, err
		}
		a.ui.note("nothing is served: %s", safe.Escape(err.Error()))
	}
	t, err = c.AddTorrent(s.torrent, o)
	return t, nil, err
}

// handler prints messages, counts them, and returns them to their senders if echo is set.
func (a *app) handler(ctx context.Context, echo bool, received *atomic.Int64) parley.Handler {
	// Sends use the command's context: that of the handler ends after a while, and an echo to a slow reader would be lost with it.
	return func(_ context.Context, m *parley.Message) error {
		a.ui.emit(messageJSON("message", m))
		received.Add(1)
		if !echo {
			return nil
		}
		if err := m.Peer.Send(ctx, m.Type, m.Payload); err != nil && ctx.Err() == nil {
			a.ui.emit(echoFailedEvent{head: now("echo_failed"), Type: m.Type, Peer: m.Peer.String(), Error: err.Error()})
		}
		return nil
	}
}
