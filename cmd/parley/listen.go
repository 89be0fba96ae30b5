package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

type listenFlags struct {
	types    []string
	echo     bool
	fail     string
	failing  bool // --fail was given
	refuse   bool
	delay    time.Duration
	parallel int
	withdraw time.Duration
	get      bool
	dir      string // empty: not given
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

` + typeHelp + `

With --echo each message is returned by a message of its type and version, and each request answered with what it asked. Without, requests
are told that there is no handler for them. What a peer receives is printed when it is known.

While nobody reads standard output, peers have to wait; no message is lost.

` + helloHelp + `

For tests of other programs: --delay, --fail and --refuse make handlers slow or unwilling, --withdraw-after takes the types back, and
--max, --window, --req, --parallel, --memory, --handler-timeout and --reply-max set the limits.`,
		Example: "  parley listen notes.txt --type example_chat --echo\n  parley listen notes.txt --type example_chat:1-3 --max 1MiB",
		Args:    wants(1, "SOURCE"),
	}
	cmd.RunE = a.runs(func(ctx context.Context, args []string) error {
		a.ui.json = true // notes for people stay on standard error, unless --json was given
		f.failing = cmd.Flags().Changed("fail")
		return a.listen(ctx, cmd, args[0], f)
	})
	fl := cmd.Flags()
	fl.StringArrayVar(&f.types, "type", nil, "receive messages of type `NAME`, NAME:VERSION or NAME:MIN-MAX; may be repeated")
	must(cmd.MarkFlagRequired("type"))
	fl.BoolVar(&f.echo, "echo", false, "return each message to its sender under the same type, and answer each request with what it asked")
	fl.StringVar(&f.fail, "fail", "", "have handlers fail, and those who sent requests be told `TEXT`")
	fl.BoolVar(&f.refuse, "refuse", false, "refuse every message and request")
	fl.DurationVar(&f.delay, "delay", 0, "have handlers take `TIME`, such as 200ms")
	fl.DurationVar(&f.withdraw, "withdraw-after", 0, "receive no messages any more after `TIME`, and tell peers so")
	fl.IntVar(&a.msg.req, "req", usualRequests, "let a peer have `N` requests unanswered; 0 is none")
	fl.IntVar(&f.parallel, "parallel", 4, "handle up to `N` requests of one peer and type at the same time")
	fl.StringVar(&a.msg.memory, "memory", "", "hold up to `BYTES` of messages in memory over all peers, beside 64 KiB for each; by default 256MiB. A peer that would need more than a quarter of what is left is told that this side is busy")
	fl.DurationVar(&a.msg.handlerTime, "handler-timeout", 30*time.Second, "let a handler take `TIME` at most: later a request is answered that time ran out")
	fl.BoolVar(&f.get, "get", false, "download what is missing into the folder of -o")
	fl.StringVarP(&f.dir, "output", "o", "", "`DIR` that holds the content of SOURCE; by default the current folder, and that of a .torrent")
	must(cmd.MarkFlagDirname("output"))
	a.msg.add(cmd, "receive messages of up to `BYTES`, such as 1MiB; by default 65534, at most 16MiB", "with --echo: answer requests with `BYTES` at most, and fail those whose answer would be longer; by default 16MiB, the most there is")
	noFiles(cmd, "type", "fail", "delay", "withdraw-after", "req", "parallel", "memory", "handler-timeout")
	a.net.rates.add(cmd)
	a.net.add(cmd, listenStandard)
	return cmd
}

// check refuses flags that cannot be, or contradict each other, and returns the types.
func (f *listenFlags) check(a *app, cmd *cobra.Command) ([]typeSpec, error) {
	types, err := parseTypes(f.types)
	if err != nil {
		return nil, err
	}
	if err := a.msg.check(cmd, maxPlainBytes, types, "req", "parallel", "memory", "refuse"); err != nil {
		return nil, err
	}
	var ways []string
	for _, way := range []struct {
		name  string
		given bool
	}{{"--echo", f.echo}, {"--fail", f.failing}, {"--refuse", f.refuse}} {
		if way.given {
			ways = append(ways, way.name)
		}
	}
	switch {
	case len(ways) > 1:
		return nil, failf(exitUsage, "leave all but one of them out", "%s contradict each other", strings.Join(ways, " and "))
	case a.msg.replyMax != "" && !f.echo:
		return nil, failf(exitUsage, "add --echo, or leave --reply-max out", "--reply-max %s: without --echo no request is answered", a.msg.replyMax)
	case f.delay < 0 || f.withdraw < 0:
		return nil, failf(exitUsage, "such as --delay 200ms --withdraw-after 10s", "--delay and --withdraw-after must not be negative")
	case f.parallel < 1:
		return nil, failf(exitUsage, "such as 4", "--parallel %d: must be 1 or more; --req 0 takes no requests", f.parallel)
	}
	return types, nil
}

func (a *app) listen(ctx context.Context, cmd *cobra.Command, arg string, f listenFlags) (err error) {
	if err := a.net.check(); err != nil {
		return err
	}
	types, err := f.check(a, cmd)
	if err != nil {
		return err
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
	h := &hearing{ui: a.ui, f: f, full: a.msg.full, replyMax: a.msg.replyBytes, ctx: ctx, announced: make(chan struct{})}
	for _, spec := range types {
		if err := h.register(t, spec, a.msg.maxBytes); err != nil {
			close(h.announced)
			code, hint := classify(err)
			return failf(code, hint, "--type %q: %w", spec, err)
		}
	}
	events := t.Events(ctx) // before anybody is told where to connect to
	a.announce(c, t, types, skipped)
	close(h.announced)
	start := time.Now()
	a.net.dial(t, peers) // now that there are types to tell them of
	log := a.logOf(t)
	log.talks, log.types = true, h.types
	defer h.withdrawLater()()
	err = follow(ctx, events, log.handle)
	// Handlers that run come to their end, and print what they have, before it is said what was done; an error comes again when the client is closed.
	_ = t.Close()
	return a.stopped(ctx, t, err, start, log.sessions, &h.got)
}

// join adds what s is, and returns what of a folder is not served, too. Only with --get is anything written.
func (a *app) join(ctx context.Context, c *parley.Client, s source, f listenFlags) (t *parley.Torrent, skipped []string, err error) {
	o := parley.TorrentOptions{Dir: f.dir, NoDownload: !f.get, SwarmKey: a.net.hellos.swarm, Trackers: a.net.find.tiers()}
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

// hearing is what listen does with what peers send. Its handlers run at the same time.
type hearing struct {
	ui       *ui
	f        listenFlags
	full     bool
	replyMax int
	ctx      context.Context // of the command
	types    []*parley.Type
	got      received

	announced chan struct{} // closed once the first line has been printed, and types is complete: no message is printed before
}

// register registers one type as the flags have it.
func (h *hearing) register(t *parley.Torrent, spec typeSpec, maxBytes int) error {
	mt := parley.MessageType{Name: spec.name, MinVersion: spec.min, MaxVersion: spec.max, MaxBytes: maxBytes, Parallel: h.f.parallel}
	var ty *parley.Type // once announced
	if !h.f.refuse {    // with nothing but a handler of requests messages are refused
		mt.Handler = func(ctx context.Context, m *parley.Message) error {
			<-h.announced
			return h.message(ctx, ty, m)
		}
	}
	if h.f.echo || h.f.failing || h.f.refuse {
		mt.Requests = h.request
	}
	ty, err := t.Register(mt)
	if err != nil {
		return err
	}
	h.types = append(h.types, ty)
	return nil
}

// message prints a message, and returns it to its sender with --echo.
func (h *hearing) message(ctx context.Context, ty *parley.Type, m *parley.Message) error {
	h.ui.emit(messageJSON("message", m, h.full))
	h.got.messages.Add(1)
	err := h.work(ctx)
	if err != nil {
		h.failed(m, false, err)
		return err
	}
	if !h.f.echo {
		return nil
	}
	// What there is no flow control for goes by the command's context: that of the handler ends after a while, and an echo to a slow reader would be lost with it. With
	// flow control two peers that return each other's messages may wait for each other, and EMP/1 section 7.3 wants them to give up.
	if _, flow := m.Peer.MessageLimits(); !flow {
		ctx = h.ctx
	}
	err = ty.SendMessage(ctx, m.Peer, parley.Outgoing{Payload: m.Payload, Version: m.Version})
	if errors.Is(err, parley.ErrVersionUnsupported) { // it sends more than it receives
		err = ty.Send(ctx, m.Peer, m.Payload)
	}
	if err != nil && h.ctx.Err() == nil {
		h.ui.emit(echoFailedEvent{head: now("echo_failed"), Type: m.Type, Peer: m.Peer.String(), Version: m.Version, Error: err.Error()})
	}
	return nil
}

// request prints a request, and answers it.
func (h *hearing) request(ctx context.Context, m *parley.Message) ([]byte, error) {
	<-h.announced
	e := messageJSON("message", m, h.full)
	e.Request = true
	h.ui.emit(e)
	h.got.requests.Add(1)
	err := h.work(ctx)
	if err == nil && len(m.Payload) > h.replyMax {
		err = fmt.Errorf("the answer would have %d bytes, this side gives %d at most", len(m.Payload), h.replyMax)
	}
	switch {
	case err != nil:
		h.failed(m, true, err)
		return nil, err
	case len(m.Payload) > m.ReplyMax: // the library tells the peer so
		h.failed(m, true, fmt.Errorf("the answer has %d bytes, the peer takes %d", len(m.Payload), m.ReplyMax))
	}
	return bytes.Clone(m.Payload), nil // it is sent when the request's memory is another's already
}

// work does what handlers of messages and requests have in common: what --delay, --fail and --refuse say.
func (h *hearing) work(ctx context.Context) error {
	if h.f.delay > 0 {
		timer := time.NewTimer(h.f.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch {
	case h.f.refuse:
		return parley.ErrRefused
	case h.f.failing:
		return errors.New(h.f.fail)
	}
	return nil
}

// failed says why a handler has failed.
func (h *hearing) failed(m *parley.Message, request bool, err error) {
	text := err.Error()
	switch {
	case errors.Is(err, parley.ErrRefused):
		text = "refused"
	case errors.Is(err, context.DeadlineExceeded):
		text = "no time left for the handler"
	case errors.Is(err, context.Canceled):
		text = "the peer has gone, or does not wait any longer"
	}
	h.ui.emit(handlerFailedEvent{head: now("handler_failed"), Type: m.Type, Peer: m.Peer.String(), Version: m.Version, Request: request, Error: text})
}

// withdrawLater takes the types back after the time of --withdraw-after, unless the function that it returns is called before.
func (h *hearing) withdrawLater() (stop func()) {
	if h.f.withdraw == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(h.ctx)
	var group sync.WaitGroup
	group.Go(func() {
		timer := time.NewTimer(h.f.withdraw)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		var names []string
		for _, ty := range h.types {
			if ty.Withdraw() == nil { // else the torrent has been closed
				names = append(names, ty.Name())
			}
		}
		h.ui.emit(withdrawnEvent{now("withdrawn"), names})
		h.ui.note("not received any more: %s", safe.Clip(strings.Join(names, ", "), 200))
	})
	return func() { cancel(); group.Wait() }
}
