package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"

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
	a.net.add(cmd, listenStandard)
	return cmd
}

func (a *app) listen(ctx context.Context, arg string, f listenFlags) (err error) {
	if err := a.net.check(); err != nil {
		return err
	}
	for i, name := range f.types {
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
	c, err := a.openClient(true)
	if err != nil {
		return err
	}
	defer a.closeClient(c, &err)
	if s.kind == sourceMagnet {
		var linked []netip.AddrPort
		s.magnet, linked = quietly(s.magnet)
		peers = append(peers, linked...)
	}
	t, err := a.join(ctx, c, s, f)
	if err != nil {
		return err
	}
	a.announce(c, t, f.types)
	for _, name := range f.types {
		_, err := t.Register(parley.MessageType{Name: name, Handler: a.handler(ctx, f.echo)})
		if err != nil {
			code, hint := classify(err)
			return failf(code, hint, "--type %q: %w", name, err)
		}
	}
	t.AddPeers(peers...) // now that there are types to tell them of
	return follow(ctx, t, newSessionLog(a.ui).handle)
}

// join adds what s is. Only with --get is anything written.
func (a *app) join(ctx context.Context, c *parley.Client, s source, f listenFlags) (*parley.Torrent, error) {
	o := parley.TorrentOptions{Dir: f.dir, NoDownload: !f.get}
	switch s.kind {
	case sourceContent:
		if f.get || f.dir != "" {
			return nil, failf(exitUsage, "leave --get and -o out: "+s.path+" is shared from where it is", "%s: is no torrent to download", s.path)
		}
		return a.share(ctx, c, s, s.path, nil)
	case sourceMagnet:
		return c.AddMagnet(s.magnet, o)
	case sourceHash:
		return c.AddInfoHash(s.hash, o)
	}
	if f.get {
		return c.AddTorrent(s.torrent, o)
	}
	content, err := findContent(s.torrent.Info, s.path, f.dir)
	if err == nil {
		t, serr := a.share(ctx, c, s, content, nil)
		if serr == nil || ctx.Err() != nil {
			return t, serr
		}
		err = serr
	}
	if ce, ok := errors.AsType[*cmdError](err); !ok || ce.code != exitInput && ce.code != exitTorrent {
		return nil, err
	}
	a.ui.note("nothing is served: %s", safe.Escape(err.Error()))
	return c.AddTorrent(s.torrent, o)
}

// handler prints messages, and returns them to their senders if echo is set.
func (a *app) handler(ctx context.Context, echo bool) parley.Handler {
	// Sends use the command's context: that of the handler ends after a while, and an echo to a slow reader would be lost with it.
	return func(_ context.Context, m *parley.Message) error {
		a.ui.emit(messageJSON("message", m))
		if !echo {
			return nil
		}
		if err := m.Peer.Send(ctx, m.Type, m.Payload); err != nil && ctx.Err() == nil {
			a.ui.emit(echoFailedEvent{head: now("echo_failed"), Type: m.Type, Peer: m.Peer.String(), Error: err.Error()})
		}
		return nil
	}
}
