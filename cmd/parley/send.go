package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

// stillWaiting is when a command that has nobody to talk to says what it waits for.
const stillWaiting = 3 * time.Second

type sendFlags struct {
	typeName string
	to       string
	wait     time.Duration
	answers  int
	timeout  time.Duration
	file     string
	request  bool
	version  int // -1: the highest that both know

	// By check.
	spec     typeSpec
	replyMax int
}

type sentEvent struct {
	head
	Type    string `json:"type"`
	Peer    string `json:"peer"`
	Client  string `json:"client"`
	Version uint8  `json:"version"`
	Bytes   int64  `json:"bytes"`
}

func (a *app) sendCmd() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send SOURCE --type NAME MESSAGE",
		Short: "Send a message or request to a peer of a swarm",
		Long: `Join a swarm without downloading anything, wait until a peer that receives the message type has taken the message, and end.
` + sourceHelp + `. Of a path only the info-hash is needed, so it is hashed, and not served.
MESSAGE is the text to send, or "-" for what comes on standard input; with --file FILE there is none. The first peer that receives the type gets
it; if its connection breaks before it has surely taken it, the next one does. How much a peer takes is its own choice; no message is larger than 16 MiB.
With --wait, what that peer sends under the same type is printed, one line per answer.

With --request the message is a request, and what the peer answers is written to standard output, byte for byte unless that is a terminal. Who does not
answer says why: "parley help exit-codes" has the reasons.

` + typeHelp + `
Of the versions that both sides know the highest is sent, or the one of --version.

` + helloHelp,
		Example: "  parley send 'magnet:?xt=urn:btih:…' --peer 127.0.0.1:6881 --type example_chat --wait 2s 'Hi there'\n" +
			"  parley send notes.txt --peer 127.0.0.1:6881 --type example_chat --request 'What time is it?'",
		Args: func(cmd *cobra.Command, args []string) error {
			if f.file != "" && len(args) == 1 {
				return nil
			}
			if f.file != "" && len(args) == 2 {
				return failf(exitUsage, "leave one of them out", "send: both MESSAGE and --file are given")
			}
			return wants(2, "SOURCE or MESSAGE")(cmd, args)
		},
	}
	cmd.RunE = a.runs(func(ctx context.Context, args []string) error {
		message := ""
		if len(args) > 1 {
			message = args[1]
		}
		return a.send(ctx, cmd, args[0], message, f)
	})
	fl := cmd.Flags()
	fl.StringVar(&f.typeName, "type", "", "message type `NAME`, NAME:VERSION or NAME:MIN-MAX")
	must(cmd.MarkFlagRequired("type"))
	fl.StringVar(&f.file, "file", "", "send what is in `FILE`")
	fl.BoolVar(&f.request, "request", false, "send a request, and write its answer to standard output")
	fl.IntVar(&f.version, "version", 0, "send `VERSION` of the type, and no other; by default the highest that both sides know")
	fl.StringVar(&f.to, "to", "", "send to the peer at `ADDR` only, and dial it")
	fl.DurationVar(&f.wait, "wait", 0, "print answers for `TIME` after the message was taken, such as 2s")
	fl.IntVar(&f.answers, "answers", 0, "with --wait: end after `N` answers; fewer in time is an error")
	fl.DurationVar(&f.timeout, "timeout", time.Minute, "give up after `TIME` if no peer has taken the message or answered the request; 0 is never")
	a.msg.add(cmd, "with --wait: take answers of up to `BYTES` each, such as 1MiB; by default 16MiB, the most there is", "with --request: take an answer of up to `BYTES`; by default 16MiB, the most there is")
	must(cmd.MarkFlagFilename("file"))
	noFiles(cmd, "type", "to", "wait", "answers", "timeout", "version")
	a.net.add(cmd, listenAny)
	return cmd
}

// check refuses flags that cannot be, or contradict each other.
func (f *sendFlags) check(a *app, cmd *cobra.Command) (err error) {
	given := cmd.Flags().Changed
	if f.wait < 0 || f.timeout < 0 || f.answers < 0 {
		return failf(exitUsage, "such as --wait 2s --answers 1 --timeout 30s", "--wait, --answers and --timeout must not be negative")
	}
	if f.spec, err = parseType(f.typeName); err != nil {
		return err
	}
	if !given("version") {
		f.version = -1
	} else {
		switch {
		case f.version < 0 || f.version > 255:
			return failf(exitUsage, "versions are 0 to 255", "--version %d: no such version", f.version)
		case f.typeName == f.spec.name: // no range was given
			f.spec.min, f.spec.max = uint8(f.version), uint8(f.version)
		case f.version < int(f.spec.min) || f.version > int(f.spec.max):
			return failf(exitUsage, "choose one of them, or leave the range in --type out", "--version %d: --type %q has %s", f.version, f.typeName, versionsText(f.spec.min, f.spec.max))
		}
	}
	switch {
	case a.msg.noEMP && f.version > 0:
		return failf(exitUsage, "leave one of them out", "--version %d with --no-emp: plain BEP 10 frames have no version but 0", f.version)
	case f.request && (f.wait > 0 || f.answers > 0):
		return failf(exitUsage, "leave --wait and --answers out: a request has one answer, which is waited for as long as --timeout says", "--request with --wait or --answers")
	case f.answers > 0 && f.wait == 0:
		return failf(exitUsage, "add --wait TIME, such as --wait 2s", "--answers %d: without --wait no answer is waited for", f.answers)
	case given("reply-max") && !f.request:
		return failf(exitUsage, "add --request; of messages that answer, --max says how long they may be", "--reply-max %s: without --request there is no answer to a request", a.msg.replyMax)
	}
	a.msg.req = usualRequests
	if err := a.msg.check(cmd, maxMessageBytes, []typeSpec{f.spec}, "request"); err != nil {
		return err
	}
	f.replyMax = a.msg.replyBytes
	return nil
}

func (a *app) send(ctx context.Context, cmd *cobra.Command, arg, message string, f sendFlags) (err error) {
	if err := a.net.check(); err != nil {
		return err
	}
	if err := f.check(a, cmd); err != nil {
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
	most := maxMessageBytes
	if a.msg.noEMP {
		most = maxPlainBytes
	}
	l, err := a.letter(ctx, message, f.file, most, f.request)
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
	o := parley.TorrentOptions{NoDownload: true, SwarmKey: a.net.hellos.swarm, Trackers: a.net.find.tiers()}
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
	in := &answers{ui: a.ui, full: a.msg.full, wanted: f.wait > 0, limit: f.answers, enough: make(chan struct{})}
	// Registered even if no answer is waited for: the peer may answer all the same, and should find the type shared.
	ty, err := t.Register(parley.MessageType{Name: f.spec.name, MinVersion: f.spec.min, MaxVersion: f.spec.max, MaxBytes: a.msg.maxBytes, Handler: in.handle})
	if err != nil {
		code, hint := classify(err)
		return failf(code, hint, "--type %q: %w", f.typeName, err)
	}
	d := &delivery{a: a, t: t, ty: ty, in: in, l: l, f: f, to: to}
	d.sole = len(to) > 0 || len(peers) == 1 && a.net.listen == "" && !a.net.find.can(s)
	if err := d.run(ctx, peers); err != nil {
		if f.request {
			return interrupted(ctx, err, "no answer has come")
		}
		return interrupted(ctx, err, "no peer is known to have taken the message")
	}
	return interrupted(ctx, in.await(ctx, f.wait), "the message was taken, but answers were still waited for")
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

// A delivery brings one letter to one peer.
type delivery struct {
	a    *app
	t    *parley.Torrent
	ty   *parley.Type
	in   *answers
	l    *letter
	f    sendFlags
	to   []netip.AddrPort // of --to
	sole bool             // one peer is meant, or known: if it is unfit there is nobody to wait for
}

// run dials peers and waits until one has taken the message, or answered the request. The type must have been registered, to tell them of it.
func (d *delivery) run(ctx context.Context, peers []netip.AddrPort) error {
	a, f := d.a, &d.f
	parent := ctx
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	log := a.logOf(d.t)
	log.talks, log.types = true, []*parley.Type{d.ty}
	waiting := a.explainWait(ctx, func() string {
		return fmt.Sprintf("still waiting for a peer that receives %s: %s connected", safe.Escape(f.spec.name), plural(d.t.Stats().Peers, "peer"))
	})
	defer waiting()
	events := d.t.Events(ctx)
	a.net.dial(d.t, peers)
	var last error // why the last peer did not take it
	for ev := range events {
		log.handle(ev)
		switch ev.Kind {
		case parley.EventError:
			if ev.Err != nil {
				return ev.Err
			}
		case parley.EventPeerTypes:
			p := ev.Peer
			if !p.Shares(f.spec.name) || !addressed(p, d.to) {
				a.ui.note("peer %s %s; waiting for one that does", p, notReceiving(p, f.spec.name, d.to))
				continue
			}
			waiting()
			err := d.hand(ctx, p)
			u, isUnfit := errors.AsType[*unfit](err)
			ce, known := errors.AsType[*cmdError](err)
			switch {
			case err == nil:
				return nil
			case known && !isUnfit, isUnfit && d.sole:
				return ce
			case isUnfit:
				a.ui.note("%s; waiting for another peer", safe.Escape(u.Error()))
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
	return notTaken(d.t, d.f, last)
}

// hand gives the letter to p. Its error is an unfit one, a cmdError if p is known to have said no, or else says why it is not known to have it.
func (d *delivery) hand(ctx context.Context, p parley.Peer) error {
	version, err := d.f.choose(d.ty, p, d.l.size)
	if err != nil {
		return err
	}
	if d.f.request {
		return d.ask(ctx, p, version)
	}
	refused := p.Info().MessagesRefused
	return d.in.during(p, func() error {
		if err := d.l.post(ctx, d.ty, p, version); err != nil {
			return d.f.refusal(p, d.l.size, err)
		}
		if err := p.Flush(ctx); err != nil {
			return err
		}
		if settle(ctx, p); p.Info().MessagesRefused > refused {
			return d.f.refusal(p, d.l.size, parley.ErrRefused)
		}
		u := d.a.ui
		u.event(sentEvent{now("sent"), d.f.spec.name, p.String(), p.Info().Client, version, d.l.size})
		as := ""
		if version > 0 {
			as = fmt.Sprintf(", version %d", version)
		}
		u.say("taken by %s: %s of type %s%s", peerText(p), plural(d.l.size, "byte"), safe.Escape(d.f.spec.name), as)
		return nil
	})
}

// settleTime is how long a peer has to say that it refuses a message that has reached it whole. One that its handler is done with before is taken.
const settleTime = 250 * time.Millisecond

// settle waits until p's handlers are done with all that was sent to it, or it has refused that, or it might have.
func settle(ctx context.Context, p parley.Peer) {
	until := time.Now().Add(settleTime)
	for done := false; !done && time.Now().Before(until) && ctx.Err() == nil; {
		l, flow := p.MessageLimits()
		done = !flow || l.FreeBytes >= l.WindowBytes
		if flow {
			time.Sleep(2 * time.Millisecond) // also when it is done: a refusal may follow what is given back
		}
	}
}

// ask sends the letter as a request, and prints the answer.
func (d *delivery) ask(ctx context.Context, p parley.Peer, version uint8) error {
	u, name := d.a.ui, d.f.spec.name
	start := time.Now()
	before := p.TypeStats()[name].RequestsOut
	answer, err := d.ty.RequestMessage(ctx, p, parley.Outgoing{Payload: d.l.payload, Version: version, ReplyMax: d.f.replyMax})
	took := time.Since(start)
	if err != nil {
		err = d.f.refusal(p, d.l.size, err)
		_, known := errors.AsType[*cmdError](err)
		if !known && ctx.Err() == nil && p.TypeStats()[name].RequestsOut > before {
			return failf(exitFailure, "ask again if it does no harm twice", "the connection to %s has ended before the answer came; whether the request was handled is not known: %w", peerText(p), err)
		}
		return err
	}
	if u.json {
		e := answerEvent{messageEvent: messageEvent{head: now("answer"), Type: name, Peer: p.String(), Version: version, Request: true}, Client: p.Info().Client, Seconds: took.Seconds()}
		e.setPayload(answer, d.a.msg.full)
		u.emit(e)
		return nil
	}
	u.note("answered by %s: %s in %s", peerText(p), plural(len(answer), "byte"), tookText(took))
	if u.outTTY {
		u.say("%s", payloadText(answer, d.a.msg.full, true))
	} else {
		u.writeRaw(answer)
	}
	return nil
}

// tookText is spanText for what may have taken no more than milliseconds.
func tookText(d time.Duration) string {
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return spanText(d)
}

// payloadText returns a payload for people, escaped but for line breaks if lines is set. A long one is cut unless full is set.
func payloadText(b []byte, full, lines bool) string {
	rest := ""
	if !full && len(b) > cutAbove {
		text := utf8.Valid(b)
		rest = fmt.Sprintf("(%d bytes in all, SHA-256 %s)", len(b), sha256Hex(b))
		if !text {
			return rest
		}
		b, rest = beginning(b, text), "… "+rest
	}
	if !lines {
		return safe.Escape(string(b)) + rest
	}
	all := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	for i, l := range all {
		all[i] = safe.Escape(l)
	}
	return strings.Join(all, "\n") + rest
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
	if u, ok := errors.AsType[*unfit](last); ok {
		return u.error
	}
	done := "taken the message"
	if f.request {
		done = "answered the request"
	}
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
		return failf(exitTimeout, "try again; the last one may have received it", "nobody has %s within %s: %w", done, f.timeout, last)
	case last != nil && f.request:
		return failf(exitTimeout, "wait longer with --timeout TIME", "nobody has %s within %s: the peer was asked, and has not answered in time", done, f.timeout)
	case last != nil:
		return failf(exitTimeout, "it is connected but does not read; try again later", "nobody has %s within %s: the peer did not confirm it", done, f.timeout)
	case connected == 0:
		return failf(exitTimeout, "check --peer: the other side must run, under this info-hash, and be reachable", "nobody has %s within %s: no peer is connected", done, f.timeout)
	}
	return failf(exitTimeout, "use a type that the other side receives, or register this one there: "+pasteLine("parley", "listen", "SOURCE", "--type", f.spec.String()),
		"nobody has %s within %s: %s connected, none that was meant receives type %q; %s", done, f.timeout, plural(connected, "peer"), f.spec.name, strings.Join(seen, "; "))
}

// answers prints what one peer sends.
type answers struct {
	ui     *ui
	full   bool          // print long ones whole
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
	in.ui.event(messageJSON("answer", m, in.full))
	in.ui.say("%s: %s", m.Peer, payloadText(m.Payload, in.full, false))
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
