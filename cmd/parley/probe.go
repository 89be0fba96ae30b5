package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/probe"
	"github.com/parley-bt/parley/wire"
)

type probeFlags struct {
	hello    []string
	swarmKey string
	timeout  time.Duration
}

// probeEvent is what was seen of a peer.
type probeEvent struct {
	head
	Addr      string      `json:"addr"`
	InfoHash  string      `json:"info_hash,omitempty"`
	SwarmKey  bool        `json:"swarm_key"`
	Reachable bool        `json:"reachable"`
	Accepted  []string    `json:"accepted"`
	Steps     []probeStep `json:"steps"`
}

// probeStep is what came of one try. Times are seconds, and missing where the thing was not seen.
type probeStep struct {
	Try                string        `json:"try"`
	Outcome            string        `json:"outcome"`
	Text               string        `json:"text"`
	Error              string        `json:"error,omitempty"`
	Connect            float64       `json:"connect_seconds,omitempty"`
	FirstByte          float64       `json:"first_byte_seconds,omitempty"`
	Handshake          float64       `json:"handshake_seconds,omitempty"`
	Hello              float64       `json:"hello_seconds,omitempty"`
	Exchange           float64       `json:"exchange_seconds,omitempty"`
	End                float64       `json:"end_seconds,omitempty"`
	RoundTrips         int           `json:"round_trips,omitempty"`
	ExchangeRoundTrips int           `json:"exchange_round_trips,omitempty"`
	ReceivedBytes      int64         `json:"received_bytes"`
	FirstTry           *probeStep    `json:"first_try,omitempty"`
	Session            *probeSession `json:"session,omitempty"`
}

// probeSession is what a peer has said of itself. What it has not said is missing.
type probeSession struct {
	Dialect      string           `json:"dialect"`
	Reserved     string           `json:"reserved,omitempty"`
	ReservedBits []string         `json:"reserved_bits,omitempty"`
	PeerID       string           `json:"peer_id,omitempty"`
	Guess        string           `json:"peer_id_client,omitempty"`
	Identity     string           `json:"identity,omitempty"`
	Error        string           `json:"error,omitempty"`
	Exchange     bool             `json:"exchange"`
	Client       string           `json:"client,omitempty"`
	Extensions   map[string]uint8 `json:"extensions,omitempty"`
	MetadataSize int64            `json:"metadata_size,omitempty"`
	ReqQ         int              `json:"reqq,omitempty"`
	UploadOnly   bool             `json:"upload_only,omitempty"`
	Port         uint16           `json:"port,omitempty"`
	EMP          *probeEMP        `json:"emp,omitempty"`
}

// probeEMP is what a peer says of enhanced messages.
type probeEMP struct {
	Version     int         `json:"version"`
	Mux         bool        `json:"mux"`
	Veil        bool        `json:"veil"`
	WindowBytes int         `json:"window_bytes"`
	Requests    int         `json:"requests"`
	Types       []probeType `json:"types"`
}

type probeType struct {
	Type       string `json:"type"`
	ID         uint16 `json:"id"`
	MinVersion uint8  `json:"min_version"`
	MaxVersion uint8  `json:"max_version"`
	MaxBytes   uint32 `json:"max_bytes"`
}

func (a *app) probeCmd() *cobra.Command {
	var f probeFlags
	cmd := &cobra.Command{
		Use:   "probe ADDR [SOURCE]",
		Short: "Show how a peer can be spoken to",
		Long: `Try one hello after the other at the peer at ADDR, each by a connection of its own: plaintext, MSE with RC4 alone, MSE with plaintext alone, and the veil. Print
what came of each and how long it took, and what the peer says of itself: its reserved bits, its client, the extensions and the message types that it takes.

SOURCE names a torrent that the peer may serve: a .torrent file, a magnet link, or an info-hash. Without it no hello can be accepted, and what is seen is
whether the peer can be reached, and what it does when it is told nothing, or 96 random bytes.

TURNS is how often something was sent and an answer came, up to the peer's hello, and how often more up to its account of itself; connecting is one besides.

Only what was seen is said. A peer that refuses a hello, one that does not serve the torrent, and one that is full can look the same from outside; the torrent's trackers
are not asked. With --swarm-key the veiled hello is keyed by that key; the other hellos still name the torrent in the open, unless --hello veil leaves them out.`,
		Example: "  parley probe 192.0.2.7:6881 'magnet:?xt=urn:btih:…'\n  parley probe seed.example.org:6881\n  parley probe 127.0.0.1:6881 holiday.torrent --hello veil --json",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return failf(exitUsage, "usage: parley "+cmd.Use, "probe: ADDR is missing")
			case len(args) > 2:
				return failf(exitUsage, "usage: parley "+cmd.Use+"; put what holds spaces or & in quotes", "probe: too many arguments, from %q on", args[2])
			}
			return nil
		},
		RunE: a.runs(func(ctx context.Context, args []string) error { return a.probe(ctx, args, f) }),
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.hello, "hello", nil, "try the hellos in `LIST` only, of plaintext, mse and veil, with commas")
	fl.StringVar(&f.swarmKey, "swarm-key", "", "make the veiled hello with the key of a closed swarm in `FILE`, see parley identity")
	fl.DurationVar(&f.timeout, "timeout", probe.FirstAnswer, "wait `TIME` for a connection, for the first byte of an answer, and for the peer's account of itself; each hello takes no longer than about twice that")
	must(cmd.MarkFlagFilename("swarm-key"))
	noFiles(cmd, "hello", "timeout")
	return cmd
}

func (a *app) probe(ctx context.Context, args []string, f probeFlags) error {
	hellos := helloFlags{hello: f.hello, swarmKey: f.swarmKey}
	if err := hellos.check(); err != nil {
		return err
	}
	if f.timeout <= 0 || f.timeout > time.Hour {
		return failf(exitUsage, "such as 8s", "--timeout %s: want more than nothing, and an hour at most", f.timeout)
	}
	o := probe.Options{SwarmKey: hellos.swarm, Hellos: wire.HellosOf(hellos.dials...), FirstAnswer: f.timeout, Whole: time.Duration(float64(f.timeout) * float64(probe.Whole) / float64(probe.FirstAnswer)),
		ClientName: "Parley " + parley.Version}
	if len(args) > 1 {
		s, err := parseSource(args[1], true)
		if err != nil {
			return err
		}
		if s.kind == sourceContent {
			return failf(exitUsage, "name a .torrent, a magnet link or an info-hash; parley create makes a .torrent of it", "%s: is no torrent", args[1])
		}
		o.InfoHash = s.hash
	}
	if len(f.hello) > 0 && o.InfoHash.IsZero() && (o.SwarmKey == nil || !o.Hellos.Has(wire.HelloVeil)) {
		return failf(exitUsage, "name it with SOURCE: a .torrent, a magnet link or an info-hash", "--hello %s: without a torrent there is none to ask for", hellosText(hellos.dials))
	}
	addrs, err := resolveAll(ctx, "ADDR", args[:1])
	if err != nil {
		return err
	}
	o.Trying = func(t probe.Try) { a.ui.note("trying: %s", tryText(t)) }
	var r *probe.Report
	for _, addr := range addrs { // a name may have several; the first that can be reached is meant
		if r, err = probe.Run(ctx, new(net.Dialer), addr.String(), o); err != nil {
			return interrupted(ctx, err, "what was seen until then is not told")
		}
		if r.Reached() {
			break
		}
	}
	a.printProbe(r)
	return probeError(r)
}

// probeError is what the exit code says of a report.
func probeError(r *probe.Report) error {
	switch {
	case !r.Reached():
		return failf(exitNotAccepted, "check that a peer runs there, and that nothing between blocks the way", "%s: cannot be reached: %s", r.Addr, reason(r.Steps[0].Err))
	case !r.InfoHash.IsZero() && !r.Accepted(), r.Closed && !r.Accepted():
		return failf(exitNotAccepted, "the peer may not serve the torrent, may be full, or may take none of these hellos: from outside these look the same", "%s: no hello was accepted", r.Addr)
	}
	return nil
}

// tryText names a try for people.
func tryText(t probe.Try) string {
	switch t {
	case probe.MSERC4:
		return "MSE, RC4 alone"
	case probe.MSEPlaintext:
		return "MSE, plaintext alone"
	case probe.Silence:
		return "nothing sent"
	case probe.Random:
		return "96 random bytes"
	}
	return t.String()
}

// outcomeText says for people what came of a try; escaped.
func outcomeText(s *probe.Step) string {
	text := ""
	got := "after " + plural(s.Received, "byte")
	switch s.Outcome {
	case probe.Unreachable:
		text = "cannot be reached: " + safe.Escape(reason(s.Err))
	case probe.Accepted:
		text = "accepted"
	case probe.NoAnswer:
		text = "no answer in " + spanText(s.AnswerTime)
	case probe.Closed:
		text = "closed after " + tookText(s.End)
		switch {
		case s.Handshake > 0:
			text += ", MSE itself was done"
		case s.Received > 0:
			text += ", " + got
		}
		if s.Err != nil && !strings.HasPrefix(s.Err.Error(), "closed") {
			text += " (" + safe.Escape(s.Err.Error()) + ")"
		}
	case probe.Other:
		switch {
		case s.AsMSE():
			text = fmt.Sprintf("answers as MSE responders do (seen: %s after %s), no proof", plural(s.Received, "byte"), tookText(s.FirstByte))
		case s.Try == probe.Random || s.Try == probe.Silence:
			text = fmt.Sprintf("answered something: %s after %s", plural(s.Received, "byte"), tookText(s.FirstByte))
		default:
			text = "answered something else, " + got
			if s.Err != nil {
				text += ": " + safe.Clip(handshakeText(s), 160)
			}
		}
	}
	if s.FirstTry != nil {
		text += " (second try; first " + outcomeText(s.FirstTry) + ")"
	}
	return text
}

// handshakeText is why a hello has failed, without the names of packages.
func handshakeText(s *probe.Step) string {
	text := s.Err.Error()
	if s.Try == probe.Veil && errors.Is(s.Err, obfs.ErrHandshake) {
		return "nothing that opens as the veil's"
	}
	if _, why, ok := strings.Cut(text, obfs.ErrHandshake.Error()+": "); ok {
		return why
	}
	return text
}

// reservedNames are the bits that mean something (EMP/1 section 1).
var reservedNames = []struct {
	at   int
	mask byte
	name string
}{{0, 0x80, "AZMP"}, {5, 0x10, "extension protocol"}, {5, 0x01, "negotiation 1"}, {5, 0x02, "negotiation 2"}, {7, 0x01, "DHT"}, {7, 0x04, "Fast"}, {7, 0x10, "v2"}}

// bitsOf names the reserved bits that are set; those that have no name by their byte and mask.
func bitsOf(r wire.Reserved) (out []string) {
	for _, b := range reservedNames {
		if r[b.at]&b.mask != 0 {
			out = append(out, b.name)
			r[b.at] &^= b.mask
		}
	}
	for i, b := range r {
		if b != 0 {
			out = append(out, fmt.Sprintf("[%d]&0x%02x", i, b))
		}
	}
	return out
}

func stepJSON(s *probe.Step) probeStep {
	out := probeStep{Try: s.Try.String(), Outcome: s.Outcome.String(), Text: outcomeText(s), Connect: s.Connect.Seconds(), FirstByte: s.FirstByte.Seconds(), Handshake: s.Handshake.Seconds(),
		Hello: s.Hello.Seconds(), Exchange: s.Exchange.Seconds(), End: s.End.Seconds(), RoundTrips: s.RoundTrips, ExchangeRoundTrips: s.ExchangeRoundTrips, ReceivedBytes: s.Received}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	if s.FirstTry != nil {
		first := stepJSON(s.FirstTry)
		out.FirstTry = &first
	}
	if s.Session != nil {
		out.Session = sessionJSON(s.Session)
	}
	return out
}

func sessionJSON(x *probe.Session) *probeSession {
	out := &probeSession{Dialect: x.Dialect.String(), Identity: identityText(x.Identity)}
	if x.HasHello {
		out.Reserved, out.ReservedBits, out.PeerID, out.Guess = hex.EncodeToString(x.Reserved[:]), bitsOf(x.Reserved), x.PeerID.String(), x.Guess
	}
	if x.Err != nil {
		out.Error = x.Err.Error()
	}
	if e := x.Exchange; e != nil {
		out.Exchange, out.Client, out.MetadataSize, out.ReqQ, out.UploadOnly, out.Port = true, e.Client, e.MetadataSize, e.ReqQ, e.UploadOnly, e.Port
		out.Extensions = make(map[string]uint8, len(e.M))
		for _, m := range e.M {
			if _, there := out.Extensions[m.Name]; !there { // the first counts
				out.Extensions[m.Name] = m.ID
			}
		}
	}
	if x.Offer != nil {
		m := &x.Messages
		out.EMP = &probeEMP{Version: x.Offer.Version, Mux: m.Mux, Veil: x.Offer.Veil, WindowBytes: m.WindowBytes, Requests: m.Requests, Types: []probeType{}}
		for _, t := range m.Types {
			out.EMP.Types = append(out.EMP.Types, probeType{t.Name, t.ID, t.MinVersion, t.MaxVersion, t.MaxLen})
		}
	}
	return out
}

// printProbe prints a report.
func (a *app) printProbe(r *probe.Report) {
	if a.ui.json {
		e := probeEvent{head: now("probe"), Addr: r.Addr, SwarmKey: r.Closed, Reachable: r.Reached(), Accepted: []string{}, Steps: []probeStep{}}
		if !r.InfoHash.IsZero() {
			e.InfoHash = r.InfoHash.String()
		}
		for i := range r.Steps {
			s := &r.Steps[i]
			if s.Outcome == probe.Accepted {
				e.Accepted = append(e.Accepted, s.Try.String())
			}
			e.Steps = append(e.Steps, stepJSON(s))
		}
		a.ui.emit(e)
		return
	}
	a.ui.say("peer:    %s", r.Addr)
	if !r.InfoHash.IsZero() {
		a.ui.say("torrent: %s", r.InfoHash)
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nHELLO\tCONNECT\tFIRST BYTE\tHELLO\tEXCHANGE\tTURNS\tWHAT CAME")
	for i := range r.Steps {
		s := &r.Steps[i]
		turns := "-"
		if s.ExchangeRoundTrips > 0 {
			turns = fmt.Sprintf("%d+%d", s.RoundTrips, s.ExchangeRoundTrips-s.RoundTrips)
		} else if s.RoundTrips > 0 {
			turns = fmt.Sprint(s.RoundTrips)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", tryText(s.Try), seenText(s.Connect), seenText(s.FirstByte), seenText(s.Hello), seenText(s.Exchange), turns, outcomeText(s))
	}
	_ = w.Flush() // it writes to memory
	a.ui.say("%s", strings.TrimSuffix(b.String(), "\n"))
	a.sayProbeNotes(r)
	// Most peers say the same in each session: then it is printed once.
	var texts []string
	by := map[string][]string{}
	for i := range r.Steps {
		if s := &r.Steps[i]; s.Session != nil {
			text := sessionText(s.Session)
			if by[text] == nil {
				texts = append(texts, text)
			}
			by[text] = append(by[text], tryText(s.Try))
		}
	}
	for _, text := range texts {
		a.ui.say("\nby %s:\n%s", strings.Join(by[text], "; "), text)
	}
}

// sayProbeNotes says what may be concluded from a report, and what not.
func (a *app) sayProbeNotes(r *probe.Report) {
	refused := slices.ContainsFunc(r.Steps, func(s probe.Step) bool { return s.Outcome != probe.Accepted && s.Outcome != probe.Unreachable })
	switch {
	case !r.Reached():
	case r.InfoHash.IsZero() && !r.Closed:
		a.ui.say("\nNo torrent was named, so that no hello could be accepted: with SOURCE it is tried which are.")
	case !r.Accepted():
		a.ui.say("\nNothing was accepted. This does not tell a peer that does not serve the torrent, or is full, from one that takes none of these hellos.")
	case refused:
		a.ui.say("\nThe peer serves the torrent. What it did not accept it may still accept at another time: it may limit how often it is connected to.")
	}
}

// seenText is tookText for what may not have been seen.
func seenText(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return tookText(d)
}

// sessionText is what a peer has said of itself in one session; escaped.
func sessionText(x *probe.Session) string {
	var b strings.Builder
	line := func(title, format string, args ...any) {
		fmt.Fprintf(&b, "  %-14s "+format+"\n", append([]any{title + ":"}, args...)...)
	}
	line("dialect", "%s", x.Dialect)
	if x.HasHello {
		bits := "none that is known is set"
		if names := bitsOf(x.Reserved); len(names) > 0 {
			bits = strings.Join(names, ", ")
		}
		line("reserved bits", "%x (%s)", x.Reserved[:], bits)
		// Most of a peer ID is drawn anew for each connection or run; its beginning names the client.
		guess := ""
		if x.Guess != "" {
			guess = ", which " + safe.Clip(x.Guess, 60) + " would have"
		}
		line("peer ID", "begins with %s%s", safe.Clip(string(x.PeerID[:8]), 40), guess)
	}
	switch {
	case x.Identity != nil:
		line("identity", "%s (proven)", identityText(x.Identity))
	case x.Dialect == wire.DialectEMP && x.Exchange != nil && x.Offer != nil && x.Offer.HasPeerID:
		line("identity", "none proven")
	}
	if x.Err != nil {
		line("ended early", "%s", safe.Clip(x.Err.Error(), 160))
	}
	e := x.Exchange
	if e == nil {
		if x.HasHello && !x.Reserved.LTEP() {
			line("exchange", "none seen; the bit of the extension protocol is not set")
		} else {
			line("exchange", "none seen that can be read")
		}
		return strings.TrimSuffix(b.String(), "\n")
	}
	if e.Client != "" {
		line("client", "%s", safe.Clip(e.Client, 100))
	}
	var names []string
	for i, m := range e.M {
		if i == mostListed {
			names = append(names, fmt.Sprintf("and %d more", len(e.M)-mostListed))
			break
		}
		names = append(names, fmt.Sprintf("%s %d", safe.Clip(m.Name, 40), m.ID))
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	line("extensions", "%s", strings.Join(names, ", "))
	if e.MetadataSize > 0 {
		line("metadata", "%s", exactSize(e.MetadataSize))
	}
	if e.ReqQ > 0 {
		line("requests", "%d of blocks may wait", e.ReqQ)
	}
	if e.UploadOnly {
		line("upload only", "yes")
	}
	if e.Port > 0 {
		line("listens at", "port %d", e.Port)
	}
	if o := x.Offer; o == nil {
		line("messages", "no \"emp\" was seen")
	} else {
		veil := "does not say that it takes veiled hellos"
		if o.Veil {
			veil = "says that it takes veiled hellos"
		}
		line("messages", "EMP %d; %s; window %s, %s at once", o.Version, veil, sizeText(int64(x.Messages.WindowBytes)), plural(x.Messages.Requests, "request"))
		for i, t := range x.Messages.Types {
			if i == mostListed {
				line("type", "and %d more", len(x.Messages.Types)-mostListed)
				break
			}
			line("type", "%s, id %d, %s, up to %s", safe.Clip(t.Name, 40), t.ID, versionsText(t.MinVersion, t.MaxVersion), sizeText(int64(t.MaxLen)))
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
