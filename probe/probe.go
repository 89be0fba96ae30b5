// Package probe finds out how a peer may be spoken to: which hellos it answers, and what it says of itself in each session. It decides what is tried and in which order, what counts as
// an answer, and how long that is waited for. It does not decide what a refusal means: a peer that does not serve a torrent, has no room, or knows no obfuscation can look the same
// from outside, and a [Report] says only what was seen.
//
// Each try has a connection of its own, and a peer ID of its own, one after the other:
//
//	connect ──► our flight ──► first byte ──► hello done ──► exchange ──► leave
//	                 └── no answer in 8 s       └───────── 15 s in all
//
// The work of a session is done by package peer, with all its limits, so that a peer that lies about lengths, floods or says nothing costs bounded memory and time.
package probe

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/clientid"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// Try is one way to begin a connection.
type Try uint8

// The tries. The last two need no torrent, and begin no session.
const (
	Plaintext    Try = iota + 1 // a classic hello
	MSERC4                      // a hello by MSE that offers RC4 alone
	MSEPlaintext                // a hello by MSE that offers plaintext alone
	Veil                        // a veiled hello (EMP/1 section 3)
	Silence                     // nothing is sent
	Random                      // 96 random bytes, as a hello by MSE and a veiled one look to who does not know the torrent
)

var tryNames = [...]string{Plaintext: "plaintext", MSERC4: "mse-rc4", MSEPlaintext: "mse-plaintext", Veil: "veil", Silence: "silence", Random: "random"}

// String returns the try's name, as JSON has it.
func (t Try) String() string {
	if int(t) < len(tryNames) && tryNames[t] != "" {
		return tryNames[t]
	}
	return fmt.Sprintf("try %d", uint8(t))
}

// Hello returns which hello a try begins with, [wire.HelloUnknown] if with none.
func (t Try) Hello() wire.Hello {
	switch t {
	case Plaintext:
		return wire.HelloPlaintext
	case MSERC4, MSEPlaintext:
		return wire.HelloMSE
	case Veil:
		return wire.HelloVeil
	}
	return wire.HelloUnknown
}

// Outcome is what came of a try, as far as it was seen.
type Outcome uint8

// The outcomes.
const (
	// Unreachable: there was no connection.
	Unreachable Outcome = iota + 1
	// Accepted: the hello was answered by one for the same torrent; after a veiled hello, by what only who knows the torrent can make.
	Accepted
	// Closed: the peer has closed the connection.
	Closed
	// NoAnswer: not one byte came in time.
	NoAnswer
	// Other: bytes came that are no answer to the hello, or no whole one in time.
	Other
)

var outcomeNames = [...]string{Unreachable: "unreachable", Accepted: "accepted", Closed: "closed", NoAnswer: "no_answer", Other: "other"}

// String returns the outcome's name, as JSON has it.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) && outcomeNames[o] != "" {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// The times and sizes that bound a try.
const (
	// FirstAnswer is how long the first byte of an answer is waited for, and the exchange once the hello is answered, unless [Options] has another time. It is that of EMP/1 section 2.
	FirstAnswer = peer.FirstAnswerTimeout
	// Whole is how long a try takes at most, likewise.
	Whole = peer.InitiatorTimeout
	// MaxBytes is how much is read in one try: more than any exchange with the bitfield before it.
	MaxBytes = 4 << 20
)

const (
	randomBytes = veil.HelloBytes        // of Random
	quiet       = 500 * time.Millisecond // after which an answer to Random is over
	goodbye     = 200 * time.Millisecond // that the peer has to read what was sent last
	pause       = 50 * time.Millisecond  // between two connections: some clients count one that they have not forgotten yet
)

// Dialer makes the connections: [net.Dialer], for instance.
type Dialer interface {
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// Options say what a peer is asked for.
type Options struct {
	// InfoHash names the torrent, as it stands in a BEP 3 handshake. Zero is none: only what needs no torrent is tried.
	InfoHash bt.InfoHash
	// SwarmKey, if set, keys the veiled hello in place of InfoHash (EMP/1 section 3).
	SwarmKey *[32]byte
	// Hellos are the hellos to be tried. Zero is all that InfoHash and SwarmKey allow.
	Hellos wire.Hellos
	// FirstAnswer and Whole are the times of a try; zero is what the constants of these names say. A FirstAnswer above Whole counts as Whole.
	FirstAnswer, Whole time.Duration
	// ClientName is what the peer is told about this program (BEP 10, "v"), nothing if it is empty.
	ClientName string
	// Trying, if set, is called before each try.
	Trying func(Try)
}

// Report is what was seen of a peer.
type Report struct {
	Addr     string
	InfoHash bt.InfoHash
	Closed   bool // the veiled hello was keyed by a swarm key
	Steps    []Step
}

// Reached reports whether there was a connection at all.
func (r *Report) Reached() bool {
	for i := range r.Steps {
		if r.Steps[i].Outcome != Unreachable {
			return true
		}
	}
	return false
}

// Accepted reports whether a hello was accepted.
func (r *Report) Accepted() bool {
	for i := range r.Steps {
		if r.Steps[i].Outcome == Accepted {
			return true
		}
	}
	return false
}

// Step is what came of one try.
//
// Connect is how long the connection took. The other times count from when it was there, to the first byte of the peer, the end of the obfuscation's own part, the peer's hello, its
// exchange, and the end of what was watched. 0 means that it was not seen.
type Step struct {
	Try     Try
	Outcome Outcome
	Err     error // for people: why it was not accepted; nil if nothing more is known than Outcome says

	Connect, FirstByte, Handshake, Hello, Exchange, End time.Duration

	// RoundTrips counts how often something has come after something was sent, up to the peer's hello; ExchangeRoundTrips up to its exchange, 0 if that was not seen. Connecting is one more.
	// A peer that speaks without having been answered makes it one more than had to be.
	RoundTrips, ExchangeRoundTrips int

	Received   int64    // bytes
	KeyAnswer  bool     // of a hello by MSE: as many bytes came as its key has, and make one
	Session    *Session // of an accepted hello
	FirstTry   *Step    // set if this is the second: a hello by MSE is tried again if the peer closes after its key, as libtorrent 2.0.8 does in one of 256
	WholeTime  time.Duration
	AnswerTime time.Duration // how long the first byte was waited for at most
}

// AsMSE reports whether what came after 96 random bytes has at least the length of what responders of MSE send there, with [mse.MaxPad] more at most. That proves nothing.
func (s *Step) AsMSE() bool {
	return s.Try == Random && s.Received >= mse.KeyBytes && s.Received <= mse.KeyBytes+mse.MaxPad
}

// Session is what a peer has said of itself in one session. All of it is the peer's word but Identity.
type Session struct {
	// Dialect is what peer and this library could speak: with enhanced messages (emp) if the peer offers them, whether or not it would have been offered any.
	Dialect wire.Dialect
	// HasHello says that PeerID and Reserved are known, which after a veiled hello are in the exchange.
	HasHello bool
	PeerID   bt.PeerID
	Reserved wire.Reserved
	// Guess is the client that PeerID stands for, empty if it is in no known style.
	Guess string
	// Exchange is the peer's first type exchange (BEP 10's extended handshake), nil if none came that can be read.
	Exchange *ltep.Exchange
	// Offer is what it has for enhanced messages, nil if nothing that can be read. Its values are as they came; Messages has what they mean.
	Offer    *emp.Offer
	Messages Messages
	// Identity is the key that the peer has proven to have, bound to this very session (EMP/1 section 5.1); nil if it has proven none.
	Identity ed25519.PublicKey
	// Err is what ended the session before an exchange had come; nil if it was left by this side.
	Err error
}

// Messages is what a peer receives as enhanced messages: limits that it has left out have their default values (EMP/1 section 6.2).
type Messages struct {
	Mux                   bool // it takes mux frames
	WindowBytes, Requests int
	Types                 []emp.TypeOffer // sorted by name; MaxLen is the largest message that it takes
}

// Run tries the hellos one after the other at addr, as host:port, and says what came of each. An error is that of ctx, or of o; what the peer does, or does not, is no error.
func Run(ctx context.Context, d Dialer, addr string, o Options) (*Report, error) {
	if o.FirstAnswer < 0 || o.Whole < 0 {
		return nil, errors.New("probe: times must not be negative")
	}
	if o.Whole == 0 {
		o.Whole = Whole
	}
	if o.FirstAnswer == 0 {
		o.FirstAnswer = FirstAnswer
	}
	o.FirstAnswer = min(o.FirstAnswer, o.Whole)
	r := &Report{Addr: addr, InfoHash: o.InfoHash, Closed: o.SwarmKey != nil}
	for i, try := range o.tries() {
		if i > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
		if o.Trying != nil {
			o.Trying(try)
		}
		s := attempt(ctx, d, addr, &o, try)
		if s.Outcome == Closed && s.KeyAnswer && ctx.Err() == nil {
			again := attempt(ctx, d, addr, &o, try)
			first := s
			again.FirstTry = &first
			s = again
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		r.Steps = append(r.Steps, s)
		if s.Outcome == Unreachable {
			break // the others cannot do better
		}
	}
	return r, nil
}

// tries returns what is to be tried.
func (o *Options) tries() (out []Try) {
	hellos := o.Hellos
	if hellos == 0 {
		hellos = wire.AllHellos
	}
	for _, t := range []Try{Plaintext, MSERC4, MSEPlaintext, Veil} {
		named := !o.InfoHash.IsZero() || t == Veil && o.SwarmKey != nil
		if named && hellos.Has(t.Hello()) {
			out = append(out, t)
		}
	}
	if o.InfoHash.IsZero() {
		out = append(out, Silence, Random)
	}
	return out
}

// secret is what obfuscated hellos of a try are keyed by.
func (o *Options) secret(t Try) veil.Secret {
	if t == Veil && o.SwarmKey != nil {
		return veil.SecretOfSwarmKey(o.SwarmKey)
	}
	return veil.Secret(o.InfoHash)
}

// attempt makes one connection and one try.
func attempt(ctx context.Context, d Dialer, addr string, o *Options, try Try) Step {
	s := Step{Try: try, WholeTime: o.Whole, AnswerTime: o.FirstAnswer}
	begin := time.Now()
	dctx, cancel := context.WithTimeout(ctx, o.FirstAnswer)
	nc, err := d.DialContext(dctx, "tcp", addr)
	cancel()
	s.Connect = since(begin)
	if err != nil {
		s.Outcome, s.Err, s.Connect = Unreachable, err, 0
		return s
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) }) // an error means that it is closed already
	defer stop()
	c := &connection{ctx: ctx, o: o, s: &s, nc: nc, begin: time.Now()}
	c.run()
	s.End = since(c.begin)
	c.leave()
	return s
}

// since is time.Since for what has been seen: never 0, which on systems with a coarse clock it could be.
func since(t time.Time) time.Duration { return max(time.Since(t), 1) }

// newPeerID returns the peer ID of one connection: clients close a second one with a peer ID that they know.
func newPeerID() (id bt.PeerID) {
	copy(id[:], "-PY0000-")
	if _, err := io.ReadFull(rand.Reader, id[8:]); err != nil {
		panic("probe: no randomness: " + err.Error()) // which crypto/rand promises not to happen
	}
	for i := 8; i < len(id); i++ {
		id[i] = "0123456789abcdefghijklmnopqrstuv"[id[i]&31]
	}
	return id
}

// clientOf returns what client a peer ID stands for.
func clientOf(id bt.PeerID) string { return clientid.Of(id) }
