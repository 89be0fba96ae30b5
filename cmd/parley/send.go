package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

// maxMessageBytes is the largest message that is sent or accepted: what deployed BEP 10 clients take (EMP/1 table 7.6).
const maxMessageBytes = 65_534

// stillWaiting is when a command that has nobody to talk to says what it waits for.
const stillWaiting = 3 * time.Second

type sendFlags struct {
	typeName string
	to       string
	wait     time.Duration
	answers  int
	timeout  time.Duration
}

type sentEvent struct {
	head
	Type   string `json:"type"`
	Peer   string `json:"peer"`
	Client string `json:"client"`
	Bytes  int    `json:"bytes"`
}

func (a *app) sendCmd() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send SOURCE --type NAME MESSAGE",
		Short: "Send a message to a peer of a swarm",
		Long: `Join a swarm without downloading anything, wait until a peer that receives the message type has taken the message, and end.
` + sourceHelp + `. Of a path only the info-hash is needed, so it is hashed, and not served.
MESSAGE is the text to send, or "-" for what comes on standard input. The first peer that receives the type gets it; if its connection breaks
before it has surely taken it, the next one does. With --wait, what that peer sends under the same type is printed, one line per answer.`,
		Example: "  parley send 'magnet:?xt=urn:btih:…' --peer 127.0.0.1:6881 --type example_chat --wait 2s 'Hi there'",
		Args:    wants(2, "SOURCE or MESSAGE"),
		RunE:    a.runs(func(ctx context.Context, args []string) error { return a.send(ctx, args[0], args[1], f) }),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.typeName, "type", "", "message type `NAME`")
	must(cmd.MarkFlagRequired("type"))
	fl.StringVar(&f.to, "to", "", "send to the peer at `ADDR` only, and dial it")
	fl.DurationVar(&f.wait, "wait", 0, "print answers for `TIME` after the message was taken, such as 2s")
	fl.IntVar(&f.answers, "answers", 0, "with --wait: end after `N` answers; fewer in time is an error")
	fl.DurationVar(&f.timeout, "timeout", time.Minute, "give up after `TIME` if no peer has taken the message; 0 is never")
	noFiles(cmd, "type", "to", "wait", "answers", "timeout")
	a.net.add(cmd, listenAny)
	return cmd
}

func (a *app) send(ctx context.Context, arg, message string, f sendFlags) (err error) {
	if err := a.net.check(); err != nil {
		return err
	}
	if f.wait < 0 || f.timeout < 0 || f.answers < 0 {
		return failf(exitUsage, "such as --wait 2s --answers 1 --timeout 30s", "--wait, --answers and --timeout must not be negative")
	}
	if err := checkTypeName(f.typeName); err != nil {
		return err
	}
	if f.answers > 0 && f.wait == 0 {
		return failf(exitUsage, "add --wait TIME, such as --wait 2s", "--answers %d: without --wait no answer is waited for", f.answers)
	}
	s, err := parseSource(arg, false)
	if err != nil {
		return err
	}
	peers, err := a.net.resolve(ctx)
	if err != nil {
		return err
	}
	var to []netip.AddrPort
	if f.to != "" {
		flags := netFlags{peers: []string{f.to}}
		if to, err = flags.resolve(ctx); err != nil {
			code, hint := classify(err)
			return failf(code, strings.ReplaceAll(hint, "--peer", "--to"), "%s", strings.Replace(err.Error(), "--peer", "--to", 1))
		}
		peers = append(peers, to...)
	}
	if len(peers) == 0 && a.net.listen == "" && len(parley.LinkPeers(s.magnet, a.net.nets...)) == 0 && !a.net.find.can(s) {
		return errNoPeers(s.magnet)
	}
	payload, err := a.payload(ctx, message)
	if err != nil {
		return interrupted(ctx, err, "nothing was sent")
	}
	if s.kind == sourceContent {
		if s.hash, err = a.hashOf(ctx, s.path); err != nil {
			return interrupted(ctx, err, "nothing was sent")
		}
	}
	c, err := a.openClient(ctx, false)
	if err != nil {
		return err
	}
	defer a.closeClient(c, &err)
	o := parley.TorrentOptions{NoDownload: true, Trackers: a.net.find.tiers()}
	var t *parley.Torrent
	if s.kind == sourceMagnet {
		magnet, linked := a.net.quietly(s.magnet)
		peers = append(peers, linked...)
		t, err = c.AddMagnet(magnet, o)
	} else {
		t, err = c.AddMagnet(s.link(), o)
	}
	if err != nil {
		return err
	}
	in := &answers{ui: a.ui, wanted: f.wait > 0, limit: f.answers, enough: make(chan struct{})}
	// Registered even if no answer is waited for: the peer may answer all the same, and should find the type shared.
	if _, err := t.Register(parley.MessageType{Name: f.typeName, Handler: in.handle}); err != nil {
		code, hint := classify(err)
		return failf(code, hint, "--type %q: %w", f.typeName, err)
	}
	if err := a.deliver(ctx, t, in, payload, peers, to, f); err != nil {
		return interrupted(ctx, err, "no peer is known to have taken the message")
	}
	return interrupted(ctx, in.await(ctx, f.wait), "the message was taken, but answers were still waited for")
}

// endOfInput is the key that ends standard input on a terminal of this system.
var endOfInput = map[bool]string{false: "Ctrl-D", true: "Ctrl-Z and Enter"}[runtime.GOOS == "windows"]

// payload returns the message to send.
func (a *app) payload(ctx context.Context, message string) ([]byte, error) {
	const hint = "send less, or in several messages"
	if message != "-" {
		if len(message) > maxMessageBytes {
			return nil, failf(exitUsage, hint, "MESSAGE: %d bytes, the limit is %d", len(message), maxMessageBytes)
		}
		return []byte(message), nil
	}
	type result struct {
		b   []byte
		err error
	}
	a.logger.Debug("reading the message from standard input")
	if a.ui.inTTY {
		a.ui.note("type the message; %s on a line of its own ends it", endOfInput)
	}
	read := make(chan result, 1)
	// A read of standard input cannot be interrupted. If ctx ends first the goroutine ends with the process.
	go func() {
		b, err := io.ReadAll(io.LimitReader(a.ui.in, maxMessageBytes+1))
		read <- result{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-read:
		if r.err != nil {
			return nil, failf(exitInput, "", "standard input: %w", r.err)
		}
		if len(r.b) > maxMessageBytes {
			return nil, failf(exitUsage, hint, "standard input: more than %d bytes, the limit of a message", maxMessageBytes)
		}
		return r.b, nil
	}
}

// hashOf returns the info-hash under which path would be shared.
func (a *app) hashOf(ctx context.Context, path string) (bt.InfoHash, error) {
	m, onProgress := a.ui.hashing("hashing", false)
	defer m.end()
	c, err := parley.Create(ctx, path, parley.CreateOptions{OnProgress: onProgress})
	if err != nil {
		return bt.InfoHash{}, createError(err)
	}
	return c.InfoHash, nil
}

// deliver dials peers and waits until one has taken the message. The type must have been registered, to tell them of it.
func (a *app) deliver(ctx context.Context, t *parley.Torrent, in *answers, payload []byte, peers, to []netip.AddrPort, f sendFlags) error {
	parent := ctx
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	log := a.logOf(t)
	waiting := a.explainWait(ctx, func() string {
		return fmt.Sprintf("still waiting for a peer that receives %s: %s connected", safe.Escape(f.typeName), plural(t.Stats().Peers, "peer"))
	})
	defer waiting()
	events := t.Events(ctx)
	a.net.dial(t, peers)
	var last error // why the last peer did not take it
	for ev := range events {
		log.handle(ev)
		switch ev.Kind {
		case parley.EventError:
			if ev.Err != nil {
				return ev.Err
			}
		case parley.EventPeerConnected, parley.EventPeerTypes:
			p := ev.Peer
			if !p.Shares(f.typeName) || !addressed(p, to) {
				// Before its first exchange of types a peer receives none: that says nothing yet.
				if ev.Kind == parley.EventPeerTypes {
					a.ui.note("peer %s %s; waiting for one that does", p, notReceiving(p, f.typeName, to))
				}
				continue
			}
			waiting()
			err := in.during(p, func() error {
				if err := p.Send(ctx, f.typeName, payload); err != nil {
					return err
				}
				if err := p.Flush(ctx); err != nil {
					return err
				}
				a.ui.event(sentEvent{now("sent"), f.typeName, p.String(), p.Info().Client, len(payload)})
				a.ui.say("taken by %s: %s of type %s", peerText(p), plural(len(payload), "byte"), safe.Escape(f.typeName))
				return nil
			})
			switch {
			case err == nil:
				return nil
			case errors.Is(err, parley.ErrMessageTooLarge):
				return fmt.Errorf("a message of %d bytes to %s: %w", len(payload), p, err)
			case ctx.Err() == nil:
				a.ui.note("peer %s has not taken it: %s", peerText(p), safe.Escape(err.Error()))
			}
			last = err
		}
	}
	if err := context.Cause(parent); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return parley.ErrClosed
	}
	return notTaken(t, f, last)
}

// addressed reports whether p is meant by --to, or --to was not given.
func addressed(p parley.Peer, to []netip.AddrPort) bool {
	return len(to) == 0 || slices.Contains(to, p.Addr()) || slices.Contains(to, p.Info().Listen)
}

// notReceiving says why p does not get the message.
func notReceiving(p parley.Peer, typeName string, to []netip.AddrPort) string {
	if !addressed(p, to) {
		return "is not the one of --to"
	}
	return fmt.Sprintf("receives %s, not %s", typesText(p), safe.Escape(typeName))
}

// typesText names the message types that a peer receives.
func typesText(p parley.Peer) string {
	if types := p.Types(); len(types) > 0 {
		return safe.Clip(strings.Join(types, ", "), 200)
	}
	return "no message type"
}

// explainWait prints what text returns after a while, once, unless the function it returns is called before, or the text is empty. The
// text must be escaped.
func (a *app) explainWait(ctx context.Context, text func() string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(stillWaiting)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
			if s := text(); s != "" {
				a.ui.note("%s", s)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// notTaken says what was in the way.
func notTaken(t *parley.Torrent, f sendFlags, last error) error {
	var seen []string
	connected := 0
	for p := range t.Peers() {
		connected++
		if len(seen) == 3 {
			continue // enough to see what is wrong
		}
		seen = append(seen, fmt.Sprintf("%s receives %s", peerText(p), typesText(p)))
	}
	switch {
	case last != nil && !errors.Is(last, context.DeadlineExceeded):
		return failf(exitTimeout, "try again; the last one may have received it", "nobody has taken the message within %s: %w", f.timeout, last)
	case last != nil:
		return failf(exitTimeout, "it is connected but does not read; try again later", "nobody has taken the message within %s: the peer did not confirm it", f.timeout)
	case connected == 0:
		return failf(exitTimeout, "check --peer: the other side must run, under this info-hash, and be reachable", "nobody has taken the message within %s: no peer is connected", f.timeout)
	}
	return failf(exitTimeout, "use a type that the other side receives, or register this one there: "+pasteLine("parley", "listen", "SOURCE", "--type", f.typeName),
		"nobody has taken the message within %s: %s connected, none that was meant receives type %q; %s", f.timeout, plural(connected, "peer"), f.typeName, strings.Join(seen, "; "))
}

// answers prints what one peer sends.
type answers struct {
	ui     *ui
	wanted bool          // --wait was given
	limit  int           // 0: none
	enough chan struct{} // closed at the limit

	mu    sync.Mutex
	peer  parley.Peer // whose messages are answers; the zero Peer: nobody's
	count int
}

// during runs send, which sends the message to p. Messages that arrive meanwhile wait until it is known whether they are
// answers: they are if it succeeds, and then follow what it printed.
func (in *answers) during(p parley.Peer, send func() error) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	err := send()
	if err == nil {
		in.peer = p
	}
	return err
}

// handle is the handler of the message type.
func (in *answers) handle(_ context.Context, m *parley.Message) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.wanted || m.Peer != in.peer || in.limit > 0 && in.count == in.limit {
		return nil
	}
	in.count++
	in.ui.event(messageJSON("answer", m))
	in.ui.say("%s: %s", m.Peer, safe.Escape(string(m.Payload)))
	if in.count == in.limit {
		close(in.enough)
	}
	return nil
}

// await waits for answers for as long as --wait says.
func (in *answers) await(ctx context.Context, wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-in.enough:
		return nil
	case <-timer.C:
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.count < in.limit {
		return failf(exitTimeout, "wait longer with --wait TIME", "the message was taken, but only %s came within %s", plural(in.count, "answer"), wait)
	}
	if in.count == 0 {
		in.ui.note("no answer within %s", wait)
	}
	return nil
}
