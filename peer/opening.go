package peer

import (
	"errors"
	"fmt"
	"io"

	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// OpeningConfig is what an [Opening] must know from the start.
type OpeningConfig struct {
	Role Role
	Rand io.Reader   // keys and padding; a failure of it is the opening's
	MSE  mse.Methods // of MSE, what is offered or accepted; 0 is both

	Accept wire.Hellos // responder: which hellos are answered

	Hello  wire.Hello  // initiator: HelloMSE or HelloVeil
	Secret veil.Secret // initiator: what the hello is keyed by; of MSE that is SKEY
	IA     []byte      // initiator, MSE: what goes with the hello, the classic hello; copied
}

// OpeningStep is what an [Opening] waits for.
type OpeningStep uint8

// The steps.
const (
	// OpeningBytes: more bytes of the peer.
	OpeningBytes OpeningStep = iota
	// OpeningScan: Found must be called with the secret, of those that are served, that what First returns was made for, if it is a veiled hello.
	OpeningScan
	// OpeningKey: Key must be called once a key exchange of MSE may be paid for.
	OpeningKey
	// OpeningTorrent: Torrent must be called with the SKEY of Asked.
	OpeningTorrent
	// OpeningDone: the hello is known, and its streams are there.
	OpeningDone
	// OpeningDrains: nothing more is said; the owner reads on, and closes when the time for hellos is over (EMP/1 section 5). See Err.
	OpeningDrains
	// OpeningFailed: an initiator's hello has failed. See Err.
	OpeningFailed
)

// ErrRefusedHello is why a hello comes to nothing that this side does not take.
var ErrRefusedHello = errors.New("hello not accepted here")

// openingFill is how many bytes are looked at before anything is decided that is not a plaintext hello (EMP/1 section 2, step 2). It is also the length of MSE's Ya.
const openingFill = veil.HelloBytes

// Opening is a connection before its frames flow: it finds out which hello an incoming connection begins with, or performs an obfuscated one (EMP/1 section 2). It does no I/O: its
// owner feeds it, writes what it puts out, and does what Step says until that is OpeningBytes or the end.
//
//	             ┌─ 20 bytes: plaintext, and accepted ────────────────────────────────► done
//	detecting ───┤             ┌─ opens ──────────────────────────► PAD_i ────────────► done
//	             └─ 96 ── scan ┤        ┌─ accepted ── Yb ── req1 ── SKEY ── VC … IA ─► done
//	                           └─ MSE? ─┤                      └─ any failure ──► drains
//	                                    └─ not ── random bytes ─────────────────► drains
type Opening struct {
	cfg  OpeningConfig
	step OpeningStep
	err  error

	head [openingFill]byte // what came first, as far as it was needed
	n    int
	in   []byte // borrowed: what was fed and is not used
	out  []byte

	hello   wire.Hello
	hs      obfs.Handshake
	mse     *mse.Responder // hs, if it is that
	mseOut  *mse.Initiator
	veilIn  *veil.Responder
	veilOut *veil.Initiator
	streams obfs.Streams
}

// Init makes o ready. An initiator's first bytes are then in its output. The error is that of cfg.Rand.
func (o *Opening) Init(cfg OpeningConfig) error {
	*o = Opening{cfg: cfg, hello: cfg.Hello}
	if cfg.Role == Responder {
		return nil
	}
	switch cfg.Hello {
	case wire.HelloMSE:
		o.mseOut = new(mse.Initiator)
		o.hs = o.mseOut
		if err := o.mseOut.Init(mse.Config{Rand: cfg.Rand, Methods: cfg.MSE}, cfg.Secret, cfg.IA); err != nil {
			return err
		}
	case wire.HelloVeil:
		o.veilOut = new(veil.Initiator)
		o.hs = o.veilOut
		if err := o.veilOut.Init(veil.Config{Rand: cfg.Rand}, &cfg.Secret); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%v hello: no obfuscated one", cfg.Hello)
	}
	o.out = o.hs.AppendOutput(nil)
	return nil
}

// Feed gives the opening the next bytes of the peer, borrowed until the opening is done or Step returns OpeningBytes.
func (o *Opening) Feed(b []byte) { o.in = b }

// AppendOutput appends what is to be sent now, once.
func (o *Opening) AppendOutput(dst []byte) []byte {
	dst = append(dst, o.out...)
	o.out = nil
	return dst
}

// Step goes on as far as it can, and says what is missing.
func (o *Opening) Step() OpeningStep {
	for {
		switch {
		case o.step == OpeningDrains || o.step == OpeningFailed:
			o.in = nil
			return o.step
		case o.step != OpeningBytes:
			return o.step
		case o.hs == nil:
			if !o.detect() {
				return o.step
			}
		default:
			if !o.shake() {
				return o.step
			}
		}
	}
}

// detect is the one place that tells hellos apart by their first bytes (EMP/1 section 2). It returns false when something is missing, or all is known.
func (o *Opening) detect() bool {
	if o.cfg.Accept.Has(wire.HelloPlaintext) {
		b := o.in
		if o.n > 0 || len(b) < classic.PrefixBytes {
			if !o.fill(classic.PrefixBytes) {
				return false
			}
			b = o.head[:]
		}
		if _, _, err := classic.ParseHello(b[:classic.PrefixBytes]); err == nil {
			o.hello, o.step = wire.HelloPlaintext, OpeningDone
			return false
		}
	}
	if !o.fill(openingFill) {
		return false
	}
	if o.cfg.Accept.Has(wire.HelloVeil) {
		o.step = OpeningScan
		return false
	}
	o.asMSE()
	return false
}

// fill moves what was fed to head until that has n bytes.
func (o *Opening) fill(n int) bool {
	if o.n < n {
		m := copy(o.head[o.n:n], o.in)
		o.n += m
		o.in = o.in[m:]
	}
	return o.n >= n
}

// First returns the 96 bytes that a connection of OpeningScan begins with. They belong to the opening.
func (o *Opening) First() *[openingFill]byte { return &o.head }

// Found answers OpeningScan. An error has the connection drain: the hello was not looked at.
func (o *Opening) Found(secret *veil.Secret, found bool, err error) {
	if o.step != OpeningScan {
		return
	}
	if err != nil {
		o.drain(err)
		return
	}
	if found {
		r := new(veil.Responder)
		if r.Open(veil.Config{Rand: o.cfg.Rand}, &o.head, secret) == nil {
			o.hello, o.veilIn, o.hs, o.step = wire.HelloVeil, r, r, OpeningBytes
			o.out = r.AppendOutput(o.out)
			return
		}
		// A replay for which nothing opens, or a guess: it goes on as what it may be as well.
	}
	o.asMSE()
}

// asMSE takes the first 96 bytes for MSE's Ya (EMP/1 section 2, step 3).
func (o *Opening) asMSE() {
	if o.cfg.Accept.Has(wire.HelloMSE) {
		o.step = OpeningKey
		return
	}
	// As many random bytes as MSE would answer with: who probes learns nothing from it.
	out, err := mse.AppendDecoy(o.out, o.cfg.Rand)
	if err == nil {
		o.out, err = out, ErrRefusedHello
	}
	o.drain(err)
}

// Key answers OpeningKey. An error has the connection drain, without an answer.
func (o *Opening) Key(err error) {
	if o.step != OpeningKey {
		return
	}
	if err == nil {
		o.hello, o.mse, o.step = wire.HelloMSE, new(mse.Responder), OpeningBytes
		o.hs = o.mse
		err = o.mse.Begin(mse.Config{Rand: o.cfg.Rand, Methods: o.cfg.MSE}, &o.head)
	}
	if err != nil {
		o.drain(err)
		return
	}
	o.out = o.mse.AppendOutput(o.out)
}

// Asked returns what OpeningTorrent asks for: see [mse.Req2].
func (o *Opening) Asked() [20]byte {
	h, _ := o.mse.Asked()
	return h
}

// Torrent answers OpeningTorrent.
func (o *Opening) Torrent(skey [20]byte, found bool) {
	if o.step == OpeningTorrent {
		o.mse.Answer(skey, found)
		o.step = OpeningBytes
	}
}

// shake goes on with a handshake. It returns false when something is missing, or all is known.
func (o *Opening) shake() bool {
	rest, err := o.hs.Feed(o.in)
	o.in = rest
	o.out = o.hs.AppendOutput(o.out)
	if err != nil {
		o.drain(err)
		return false
	}
	if s, ok := o.hs.Done(); ok {
		o.streams, o.step = s, OpeningDone
		return false
	}
	if o.mse != nil {
		if _, asked := o.mse.Asked(); asked {
			o.step = OpeningTorrent
		}
	}
	return false
}

// drain ends the opening without a word: an initiator's closes.
func (o *Opening) drain(err error) {
	if o.step = OpeningDrains; o.cfg.Role == Initiator {
		o.step = OpeningFailed
	}
	o.err, o.in = err, nil
}

// Err says why the connection drains, or the hello has failed.
func (o *Opening) Err() error { return o.err }

// Hello returns which hello it is, [wire.HelloUnknown] of a responder that does not know yet.
func (o *Opening) Hello() wire.Hello { return o.hello }

// Answered reports whether an initiator has had the first part of the answer: of MSE all of Yb.
func (o *Opening) Answered() bool {
	return o.mseOut != nil && o.mseOut.Answered() || o.step == OpeningDone
}

// Streams returns the streams of an obfuscated hello that is done; the zero value of a plaintext one.
func (o *Opening) Streams() obfs.Streams { return o.streams }

// Binding returns what identities are bound to, zero unless the hello is veiled and done.
func (o *Opening) Binding() [32]byte {
	switch {
	case o.step != OpeningDone:
	case o.veilIn != nil:
		return o.veilIn.Hash()
	case o.veilOut != nil:
		return o.veilOut.Hash()
	}
	return [32]byte{}
}

// Rest returns, once the opening is done, what was fed and is not part of it: first what is the opening's own memory, then what lies in what was fed last. Of an obfuscated hello there
// is only the second, which is to be opened.
func (o *Opening) Rest() (kept, fed []byte) {
	if o.hello == wire.HelloPlaintext {
		kept = o.head[:o.n]
	}
	return kept, o.in
}
