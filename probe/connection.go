package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// metadataID is the extended id under which we say to take metadata. Nobody is asked for any; but some clients take who knows no extension for a broken one.
const metadataID = 1

// offered are our reserved bits: the extension protocol. What else the peer can do it says all the same.
var offered = wire.Reserved{5: 0x10}

// errTooMuch ends a try whose peer goes on sending.
var errTooMuch = fmt.Errorf("more than %d bytes came without what was waited for", MaxBytes)

// connection is one try: it moves bytes between the connection and package peer, and notes what it sees.
type connection struct {
	ctx   context.Context
	o     *Options
	s     *Step
	nc    net.Conn
	begin time.Time
	asked bool // something was sent since something came
	turns int
	id    bt.PeerID // ours
	sees  watcher

	m       peer.Machine
	opening *peer.Opening // nil in plaintext, and once it is done
	streams obfs.Streams
	done    bool
	buf     [16 << 10]byte
}

// run does the try up to what is to be seen of it.
func (c *connection) run() {
	switch c.s.Try {
	case Silence, Random:
		c.watch()
		return
	}
	if err := c.start(); err != nil {
		c.s.Outcome, c.s.Err = Other, err
		return
	}
	for !c.done {
		n, err := c.read(c.patience())
		c.feed(c.buf[:n])
		if err != nil && !c.done {
			c.ended(err)
		}
		if c.s.Received > MaxBytes && !c.done {
			c.fail(errTooMuch)
		}
	}
}

// start sends our first flight.
func (c *connection) start() error {
	hello := c.s.Try.Hello()
	if hello != wire.HelloVeil {
		c.sees.skip = classic.HelloBytes
	}
	c.id = newPeerID()
	cfg := peer.Config{Role: peer.Initiator, PeerID: c.id, Reserved: offered, HelloTimeout: c.o.Whole, KeepAlive: peer.MinKeepAlive, Hello: hello, Local: peer.Local{InfoHash: c.o.InfoHash}}
	c.m.Init(time.Now(), cfg)
	if hello == wire.HelloPlaintext {
		c.flush()
		return nil
	}
	oc := peer.OpeningConfig{Role: peer.Initiator, Rand: rand.Reader, Hello: hello, Secret: c.o.secret(c.s.Try)}
	switch c.s.Try {
	case MSERC4:
		oc.MSE = mse.RC4
	case MSEPlaintext:
		oc.MSE = mse.Plaintext
	}
	if hello == wire.HelloMSE {
		oc.IA = c.m.AppendOutput(time.Now(), nil, 0) // our classic hello
	}
	c.opening = new(peer.Opening)
	if err := c.opening.Init(oc); err != nil {
		return err
	}
	c.write(c.opening.AppendOutput(nil))
	return nil
}

// patience returns until when the next bytes are waited for.
func (c *connection) patience() time.Time {
	end := c.begin.Add(c.o.Whole)
	var soon time.Time
	switch {
	case c.s.Received == 0:
		soon = c.begin.Add(c.o.FirstAnswer)
	case c.s.Outcome == Accepted: // its exchange, or none: BEP 10 says not when it comes
		soon = c.begin.Add(c.s.Hello + c.o.FirstAnswer)
	default:
		return end
	}
	if soon.Before(end) {
		return soon
	}
	return end
}

// read waits for the next bytes.
func (c *connection) read(until time.Time) (int, error) {
	if err := c.nc.SetReadDeadline(until); err != nil {
		return 0, err
	}
	if c.ctx.Err() != nil { // after the deadline is set: the one that ends the wait must not be lost
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.nc.Read(c.buf[:])
	if n > 0 {
		if c.s.Received == 0 {
			c.s.FirstByte = since(c.begin)
		}
		c.s.Received += int64(n)
		if c.asked {
			c.asked = false
			c.turns++
		}
	}
	return n, err
}

// write sends bytes. What goes wrong with it is found by reading, which says more: a peer may answer and then close.
func (c *connection) write(b []byte) {
	if len(b) == 0 {
		return
	}
	c.asked = true
	if err := c.nc.SetWriteDeadline(c.begin.Add(c.o.Whole)); err == nil {
		_, _ = c.nc.Write(b)
	}
}

// flush sends what the machine has to say.
func (c *connection) flush() {
	seal := c.streams.Sealer
	if seal == nil {
		c.write(c.m.AppendOutput(time.Now(), nil, 0))
		return
	}
	out := c.m.AppendOutput(time.Now(), make([]byte, obfs.Headroom, 1024), 0)
	if n := len(out) - obfs.Headroom; n > 0 {
		c.write(seal.Seal(make([]byte, 0, seal.SealedBytes(n)), out))
	}
}

// feed takes what has come.
func (c *connection) feed(b []byte) {
	if c.opening != nil {
		var ok bool
		if b, ok = c.open(b); !ok {
			return
		}
	}
	for len(b) > 0 && !c.done {
		plain := b
		if c.streams.Opener == nil {
			b = nil
		} else {
			var err error
			if plain, b, err = c.streams.Opener.Open(b); err != nil {
				c.fail(err)
				return
			}
		}
		c.hear(plain)
	}
}

// open goes on with an obfuscated hello. Once that is done it returns what is left of b, and true.
func (c *connection) open(b []byte) ([]byte, bool) {
	o := c.opening
	if len(b) > 0 {
		o.Feed(b)
	}
	step := o.Step()
	c.s.KeyAnswer = c.s.Try.Hello() == wire.HelloMSE && o.Answered()
	c.write(o.AppendOutput(nil))
	switch step {
	case peer.OpeningDone:
	case peer.OpeningFailed:
		c.fail(o.Err())
		return nil, false
	default:
		return nil, false
	}
	c.opening, c.streams = nil, o.Streams()
	c.s.Handshake = since(c.begin)
	c.m.Begin(o.Hello(), c.o.InfoHash, o.Binding())
	if o.Hello() == wire.HelloVeil {
		c.accepted()
		c.introduce()
	}
	_, fed := o.Rest()
	return fed, true
}

// hear gives the machine plain bytes.
func (c *connection) hear(b []byte) {
	c.sees.see(b) // first: the machine may change what it is fed
	c.m.Feed(time.Now(), b)
	for {
		ev, ok := c.m.Next()
		if !ok {
			break
		}
		switch ev.Kind {
		case peer.EventOpen:
			c.opened()
		case peer.EventMessage:
			if _, ok := ev.Msg.(*ltep.Exchange); ok && c.sees.exchange != nil {
				c.exchanged(c.sees.exchange)
			}
		case peer.EventClosed:
			c.fail(c.m.Err())
			return
		}
		if c.done {
			return
		}
	}
	c.flush()
}

// accepted notes that the hello was answered.
func (c *connection) accepted() {
	c.s.Outcome, c.s.Hello, c.s.RoundTrips = Accepted, since(c.begin), c.turns
	c.s.Session = &Session{Dialect: c.m.Dialect()}
	if c.s.Try == Veil {
		c.s.Session.Dialect = wire.DialectEMP // which is settled (EMP/1 section 1)
	}
}

// opened notes what the peer's hello says, which after a veiled one is in its exchange.
func (c *connection) opened() {
	if c.s.Session == nil {
		c.accepted()
	}
	x := c.s.Session
	x.HasHello, x.PeerID, x.Reserved, x.Guess = true, c.m.PeerID(), c.m.Reserved(), clientOf(c.m.PeerID())
	if c.s.Try == Veil {
		x.Identity = slices.Clone(c.m.Identity())
		return
	}
	if !x.Reserved.LTEP() {
		c.done = true // there will be no exchange
		return
	}
	c.introduce()
}

// introduce sends our exchange.
func (c *connection) introduce() {
	e := &ltep.Exchange{Client: c.o.ClientName, M: []ltep.Entry{{Name: ltep.NameMetadata, ID: metadataID}}}
	if c.s.Try == Veil {
		o := emp.Offer{Version: 1, Requests: -1, HasPeerID: true, PeerID: c.id, HasReserved: true}
		o.Reserved = offered
		e.EMP = emp.AppendOffer(nil, &o)
	}
	if err := c.m.SendExchange(e, &peer.WeUse{Metadata: metadataID}); err == nil { // else the session is over, which is told by its next event
		c.flush()
	}
}

// exchanged notes the peer's exchange.
func (c *connection) exchanged(e *ltep.Exchange) {
	s, x := c.s, c.s.Session
	s.Exchange, s.ExchangeRoundTrips = since(c.begin), c.turns
	x.Exchange, c.done = e, true
	if len(e.EMP) == 0 {
		return
	}
	o, err := emp.ParseOffer(e.EMP)
	if err != nil {
		return
	}
	x.Offer = &o
	if c.s.Try == Veil {
		x.Reserved = o.Reserved // as they came, with the bits that do not count there
	}
	var they emp.TheyOffer
	mux := uint8(0)
	for _, m := range e.M {
		if m.Name == ltep.NameMux {
			mux = m.ID
			break
		}
	}
	if _, err := they.Apply(&o, mux); err != nil {
		return
	}
	x.Messages = Messages{Mux: they.Active(), WindowBytes: int(they.Window()), Requests: they.Requests(), Types: slices.Collect(they.All())}
	if x.Messages.Mux {
		x.Dialect = wire.DialectEMP
	}
}

// fail ends the try: what came is no answer, or after one breaks the protocol.
func (c *connection) fail(err error) {
	c.done = true
	if c.s.Session != nil {
		c.s.Session.Err = err
		return
	}
	c.s.Outcome, c.s.Err = Other, err
}

// ended ends the try: nothing more comes, or not in time.
func (c *connection) ended(err error) {
	c.done = true
	timeout := errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case c.s.Session != nil && timeout: // no exchange came, which says all
	case c.s.Session != nil:
		c.s.Session.Err = closing(err)
	case timeout && c.s.Received == 0:
		c.s.Outcome = NoAnswer
	case timeout:
		c.s.Outcome, c.s.Err = Other, fmt.Errorf("no whole answer in %v", c.o.Whole)
	default:
		c.s.Outcome, c.s.Err = Closed, closing(err)
	}
}

// closing is how a connection has ended, for people.
func closing(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("closed in good order")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if sc, ok := errors.AsType[*os.SyscallError](err); ok {
		err = sc.Err
	}
	return err
}

// watch sees what a peer does that is told nothing it could understand.
func (c *connection) watch() {
	if c.s.Try == Random {
		b := make([]byte, randomBytes)
		if _, err := io.ReadFull(rand.Reader, b); err != nil {
			c.s.Outcome, c.s.Err = Other, err
			return
		}
		c.write(b)
	}
	const enough = veil.MaxFlightBytes + 1 // more than any first flight has
	for c.s.Received < enough {
		until := c.patience()
		if soon := time.Now().Add(quiet); c.s.Received > 0 && soon.Before(until) {
			until = soon
		}
		if _, err := c.read(until); err != nil {
			if c.s.Received > 0 {
				break
			}
			c.ended(err)
			return
		}
	}
	c.s.Outcome = Other
}

// leave ends the connection so that the peer sees a normal end: what lies unread would make of it a reset.
func (c *connection) leave() {
	if c.s.Session != nil {
		c.m.Close(nil)
		c.flush()
	}
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		end := time.Now().Add(goodbye)
		if c.nc.SetReadDeadline(end) == nil {
			for left := 256 << 10; left > 0 && time.Now().Before(end); {
				n, err := c.nc.Read(c.buf[:])
				if left -= n; err != nil {
					break
				}
			}
		}
	}
	_ = c.nc.Close() // there is nothing left that could be lost
}
