// Package peerconn runs one peer.Machine over one net.Conn: a read loop, a writer only while there is output, and shared timers. It contains no
// protocol rules; what the machine says is done, what it yields is handed to the session.
//
// An idle connection costs one blocked goroutine and no buffer: a read buffer is borrowed when the socket has become readable, a write buffer while there
// is something to write (docs/adr/0002). Lock order: Conn.mu, then whatever Session.App takes, then Timers.mu; Conn.mu is never held across I/O or a channel
// operation.
package peerconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// closeGrace is how long a connection that is closed in good order may take to write what is queued and to see the peer's end.
const closeGrace = time.Second

// writeStall is how long a single write may make no progress before the connection is given up.
const writeStall = 240 * time.Second

// ErrStalled ends a connection whose peer does not read what is written to it.
var ErrStalled = errors.New("write: no progress")

// What a peer sends at once may bring about more answers than may wait, all of them before the first could be written: thousands of requests, or messages of a type that was
// withdrawn meanwhile. Who reads its answers is given the time for that.
const (
	answersAtOnce = wire.MaxControlBacklog / 4
	answersWait   = 500 * time.Millisecond
)

// A Session is what a connection belongs to: one torrent's view of one peer. Its methods are called from the connection's goroutines.
type Session interface {
	// Veiled is called once, on the read loop, when a veiled hello of ours has been answered, before Open: the session sends its type exchange, which the machine then takes.
	Veiled(c *Conn)
	// Open is called once, on the read loop, when both hellos are complete, before any Deliver.
	Open(c *Conn)
	// App is called for each application message, in order, with the connection locked: it must copy payload, must not block and must not
	// call the connection.
	App(id uint8, payload []byte)
	// Mux is called for each event of mux frames, in order, with the connection locked: it must copy ev.Data, must not block and must not call the connection. It may
	// answer by m's RefuseMessage, Respond and Credit.
	Mux(m *peer.Machine, ev *peer.MuxEvent)
	// Shared is called with the connection locked when what the peer accepts may have changed, before any App or Mux behind that.
	Shared(s peer.Shared)
	// AppsDone is called on the read loop after the last App or Mux of one read. While it blocks the connection is not read.
	AppsDone()
	// Interrupt is called with the connection locked, any number of times, once the connection is being closed: AppsDone must not block any longer.
	Interrupt()
	// Deliver hands over the other messages of one read, in order, with their buffers. It may block.
	Deliver(c *Conn, b *Batch)
	// ReadBlock reads a block to upload into dst, which is as long as the block. An error refuses the request.
	ReadBlock(dst []byte, b bt.Block) error
	// Uploaded tells of n bytes of piece data that were written.
	Uploaded(n int)
	// Metadata returns the info dictionary, nil if it is not known or not shared. It is not changed.
	Metadata() []byte
	// UploadGroup and DownloadGroup return the session's share of the rates, nil for no limits. They return the same each time.
	UploadGroup() *Group
	DownloadGroup() *Group
	// Hashes appends the hashes that answer a request to dst: BEP 52 says how many. It may block. An error refuses the request.
	Hashes(dst []byte, s wire.HashSpan) ([]byte, error)
	// Closed is called once, last; err is why. No other method is called any more.
	Closed(c *Conn, err error)
}

// A Host owns the incoming connections that have no session yet.
type Host interface {
	// Accept finds the session for a connection that asks for ih by the given hello. An error closes the connection.
	Accept(c *Conn, hello wire.Hello, ih bt.InfoHash) (Session, peer.Local, error)
	// Scan finds the secret that a veiled hello was made for, and the torrent; nil if there is none. It may wait for its turn. An error has the connection drain.
	Scan(c *Conn, hello *[veil.HelloBytes]byte) (*veil.Secret, bt.InfoHash, error)
	// KeyExchange waits until a key exchange of MSE may be made. An error has the connection drain.
	KeyExchange(c *Conn) error
	// SKEY finds what [mse.Req2] makes hash of; false if no torrent has it.
	SKEY(hash [20]byte) (skey [20]byte, ok bool)
	// Refused is called once, last, for a connection that ended before it had a session.
	Refused(c *Conn, err error)
}

// Options says how to run a connection.
type Options struct {
	Host           Host            // of incoming connections
	Timers         *Timers         // calls the machines when their time has come
	Group          *sync.WaitGroup // every goroutine of the connections is counted here
	SendQueueBytes int             // bound of the application messages that wait to be written to one peer
	Now            func() time.Time
	Ended          func(c *Conn) // if set: called once, last, for each connection, after Session.Closed or Host.Refused
	OwnIVs         *IVs          // of the veiled hellos that are under way; nil: a connection to ourselves is found out by the peer ID alone
	Drains         *Drains       // where connections drain; nil: they are closed instead
}

// Conn is one connection. Its methods are safe for concurrent use.
type Conn struct {
	nc     net.Conn
	reader reader
	o      *Options // shared by connections where possible; read only
	addr   netip.AddrPort
	write  func() // c.writeLoop, made once so that starting it allocates nothing
	read   func() // c.readLoop, likewise

	ownSeen atomic.Bool        // it has come to ourselves, see IVs
	iv      [veil.IVBytes]byte // of our veiled hello, while it is under way
	opening *peer.Opening      // before the streams are known; the read loop's, which makes it nil with the lock held
	opener  obfs.Opener        // of an obfuscated connection; the read loop's
	asked   bt.InfoHash        // the torrent of a veiled hello; the read loop's
	told    bool               // the session, or the host, has been told of the end; the read loop's

	mu       sync.Mutex
	m        peer.Machine
	sealer   obfs.Sealer // of an obfuscated connection; used by who writes, set before
	draining bool        // nothing is delivered or sent any more; see Drains
	drainEnd time.Time   // when a draining connection is closed
	session  Session
	writing  bool          // a write loop runs
	corked   bool          // the read loop handles what came: what that makes us send goes out in one write afterwards
	busy     bool          // the session has what was read and may block: the peer's silence is ours
	graceful bool          // closing in good order
	fresh    bool          // the read loop is to be replaced by a fresh one
	relief   chan struct{} // closed when something was taken out of the machine; nil unless the read loop waits for that
	netErr   error
	waiters  []*waiter
	flushers []flusher
	appOut   mark      // how much of the messages was written
	burst    burst     // how much is gathered for one write
	ahead    int       // by how many units messages are ahead of pieces, see gather
	outlet   outlet    // where little is to lie unsent, since messages must not wait behind it; nil before there are any, or if the system has no means
	taken    bool      // when the connection ended, the peer's system had acknowledged all that was written
	timerAt  time.Time // when Timers will call; zero if it will not
	timerPos int       // in the heap of Timers, guarded by Timers.mu
	unsent   []byte    // what answer could not write; the writer does it first
	spare    []*sending
	// writeSince is when the write under way began; zero if none is.
	writeSince time.Time

	up, down *share        // parts of the session's groups; nil until there is a limit
	unpaid   int           // the read loop's: bytes that came and are not counted yet, see pace
	resume   chan struct{} // capacity 1: the paused read loop may go on; nil until there is a limit
}

// waiter is a send that waits for room, in order. Whoever makes room queues the message for it.
type waiter struct {
	id      uint8
	payload []byte // the waiting caller's
	ready   chan struct{}
	err     error // once ready is closed
}

// mark is a point in the messages that go to the peer: bytes of whole frames, and of the fragments of large messages, which go past them.
type mark struct{ frames, fragments int64 }

// reaches reports whether everything up to at lies before m.
func (m mark) reaches(at mark) bool { return m.frames >= at.frames && m.fragments >= at.fragments }

// flusher waits until the messages up to at have been written.
type flusher struct {
	at   mark
	done chan struct{}
}

// Start runs a connection until it ends. o is shared and must not change; s is the session of an outgoing connection, nil for an incoming one, which gets
// its session from o.Host. oc says how the connection begins, if not in plaintext alone; its Role and IA are filled in.
func Start(nc net.Conn, o *Options, cfg peer.Config, oc *peer.OpeningConfig, s Session) *Conn {
	c := &Conn{nc: nc, o: o, session: s, timerPos: -1, burst: burst{bytes: blockbuf.LargeBytes}}
	cfg.SendQueueBytes, cfg.AnswersAtOnce = o.SendQueueBytes, answersAtOnce
	c.addr = addrPort(nc.RemoteAddr())
	c.write, c.read = c.writeLoop, c.readLoop
	c.reader.init(nc)
	o.Group.Add(1)
	c.mu.Lock()
	c.m.Init(o.Now(), cfg)
	if oc != nil {
		c.begin(*oc, cfg.Role)
	}
	c.after()
	c.mu.Unlock()
	go c.read()
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	switch t := a.(type) {
	case *net.TCPAddr:
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	case interface{ AddrPort() netip.AddrPort }:
		return t.AddrPort()
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}

// Addr returns the remote end of the connection.
func (c *Conn) Addr() netip.AddrPort { return c.addr }

// LocalAddr returns the local end of the connection.
func (c *Conn) LocalAddr() netip.AddrPort { return addrPort(c.nc.LocalAddr()) }

// Do calls f with the machine, locked. f must not block. What it queues is written afterwards.
func (c *Conn) Do(f func(m *peer.Machine)) {
	c.mu.Lock()
	f(&c.m)
	c.after()
	c.mu.Unlock()
}

// Send queues one control message; see [peer.Machine.Send].
func (c *Conn) Send(msg wire.Message) error {
	c.mu.Lock()
	err := c.m.Send(msg)
	c.after()
	c.mu.Unlock()
	return err
}

// SendRequests queues requests for blocks, in one go.
func (c *Conn) SendRequests(blocks []bt.Block) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range blocks {
		if err := c.m.Send(wire.Request{Block: b}); err != nil {
			return err
		}
	}
	c.after()
	return nil
}

// after does what every change of the machine demands. The lock is held.
func (c *Conn) after() {
	c.note()
	if c.m.Phase() == peer.PhaseClosed {
		c.shut()
		return
	}
	c.tellShared()
	c.kick()
	c.schedule()
}

// tellShared tells the session what the peer accepts if that has changed. The lock is held.
func (c *Conn) tellShared() {
	if !c.m.SharedChanged() || c.session == nil || !c.m.Opened() {
		return
	}
	s := c.m.Shared()
	if s.Mux != nil && !c.burst.prompt {
		c.burst = burst{bytes: leastBurst, prompt: true, since: c.o.Now()} // until it is known how fast the link is
		if c.outlet = outletOf(c.nc); c.outlet != nil {
			c.outlet.KeepUnsent(unsentBytes)
		}
	}
	c.session.Shared(s)
}

// kick starts the writer if there is something to write and none runs. The lock is held.
func (c *Conn) kick() {
	if !c.writing && !c.corked && c.netErr == nil && c.ready() {
		c.writing = true
		c.o.Group.Add(1)
		go c.write()
	}
}

// schedule sees to it that Timers calls at the machine's deadline or before. The lock is held.
func (c *Conn) schedule() {
	d := c.m.Deadline()
	if c.draining {
		d = c.drainEnd // and no write that makes no progress ends it before, see tick
	} else if stall := c.writeSince.Add(writeStall); !c.writeSince.IsZero() && stall.Before(d) {
		d = stall
	}
	if !d.IsZero() && (c.timerAt.IsZero() || d.Before(c.timerAt)) {
		c.timerAt = d
		c.o.Timers.set(c, d)
	}
}

// tick is called by Timers.
func (c *Conn) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timerAt = time.Time{}
	if c.draining {
		if !now.Before(c.drainEnd) {
			c.fail(net.ErrClosed)
			return
		}
		c.schedule()
	}
	if c.m.Phase() == peer.PhaseClosed {
		return
	}
	if !c.writeSince.IsZero() && !now.Before(c.writeSince.Add(writeStall)) {
		err := fmt.Errorf("%w for %v", ErrStalled, writeStall)
		c.m.Close(err)
		c.fail(err)
		return
	}
	if c.busy {
		c.m.Excuse(now)
	}
	if c.m.Advance(now) && c.reader.parks() && !c.graceful {
		// A goroutine's stack that has grown never shrinks to where it began, so the blocked reader makes way for a fresh one.
		c.fresh = c.nc.SetReadDeadline(longAgo) == nil
	}
	c.after()
}

// longAgo is a deadline that ends a blocked read at once.
var longAgo = time.Unix(1, 0)

// renew starts a fresh read loop if err is the end of a read that tick asked for.
func (c *Conn) renew(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.fresh {
		return false
	}
	c.fresh = false
	if c.opener != nil {
		_, _, _ = c.opener.Open(nil) // gives back memory; an error has been seen before
	}
	if !c.graceful && c.nc.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	go c.read()
	return true
}

// Close ends the connection; err is why, nil for our own wish. With a nil err, or one that blames nobody, what is queued is still written, and the peer's
// end is awaited for a second: closing a socket with unread bytes would make the kernel throw away what the peer has not read yet.
func (c *Conn) Close(err error) {
	c.mu.Lock()
	c.m.Close(err)
	c.shut()
	c.mu.Unlock()
}

// shut puts an end to the connection after the machine has closed. The lock is held; it is called any number of times.
func (c *Conn) shut() {
	if c.graceful || c.draining || c.netErr != nil {
		return
	}
	if c.session != nil {
		c.session.Interrupt()
	}
	// Who connects to itself must hear of it: its other end would try again and again otherwise.
	if end := c.m.Err(); peer.FaultOf(end) == peer.FaultNone && c.m.Opened() || errors.Is(end, peer.ErrSelfConnection) && c.m.Role() == peer.Responder {
		c.graceful = true
		c.unshape()
		end := time.Now().Add(closeGrace) // the operating system's clock: deadlines are its business
		if err := c.nc.SetDeadline(end); err != nil {
			c.fail(err)
			return
		}
		if !c.writing {
			c.writing = true
			c.o.Group.Add(1)
			go c.write()
		}
		return
	}
	c.fail(net.ErrClosed)
}

// fail closes the socket at once. The lock is held.
func (c *Conn) fail(err error) {
	if c.netErr == nil {
		c.netErr = err
		c.unshape()
		if c.session != nil {
			c.session.Interrupt()
		}
		if c.appOut != (mark{}) { // somebody may want to know
			n, known := unacknowledged(c.nc)
			c.taken = known && n == 0
		}
		if end := c.m.Err(); c.m.Opened() && (peer.FaultOf(end) == peer.FaultPeer || errors.Is(end, ErrStalled)) {
			c.abandon()
		}
		c.nc.Close() // the read loop reports the end; the error of a second close says nothing
		c.wake(true)
	}
}

// abandon has the system throw away what the peer has not taken: of one who reads nothing it would keep megabytes for minutes after the end, and as often as such a one came back.
func (c *Conn) abandon() {
	if tc, ok := c.nc.(interface{ SetLinger(sec int) error }); ok {
		_ = tc.SetLinger(0) // if it fails the connection is gone, or closes in the ordinary way
	}
}

// SendApp queues one application message under an extended id of the peer. It waits while the queue is full; a message larger than the
// whole queue goes in when the queue is empty. payload is copied. The errors are ctx's, those of [peer.Machine.SendExtended], and [net.ErrClosed] wrapped.
func (c *Conn) SendApp(ctx context.Context, id uint8, payload []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.mu.Lock()
	if len(c.waiters) == 0 && c.room(len(payload)) {
		err := c.sendApp(id, payload)
		c.mu.Unlock()
		return err
	}
	w := &waiter{id: id, payload: payload, ready: make(chan struct{})}
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiters, w)
	if i < 0 {
		return w.err // its turn came at the same moment
	}
	c.waiters = slices.Delete(c.waiters, i, i+1)
	c.wake(false) // the next may need less room
	return context.Cause(ctx)
}

// TrySendApp is SendApp that does not wait: it reports false if there is no room now.
func (c *Conn) TrySendApp(id uint8, payload []byte) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiters) > 0 || !c.room(len(payload)) {
		return false, nil
	}
	return true, c.sendApp(id, payload)
}

func (c *Conn) sendApp(id uint8, payload []byte) error {
	if err := c.m.SendExtended(id, payload); err != nil {
		if c.m.Phase() == peer.PhaseClosed {
			return c.closedErr()
		}
		return err
	}
	c.kick()
	return nil
}

// closedErr says why nothing can be sent any more. The lock is held.
func (c *Conn) closedErr() error {
	if err := c.m.Err(); err != nil {
		return fmt.Errorf("peer %v: %w: %w", c.addr, net.ErrClosed, err)
	}
	return fmt.Errorf("peer %v: %w", c.addr, net.ErrClosed)
}

// room reports whether n more bytes of messages may be queued. The lock is held.
func (c *Conn) room(n int) bool {
	q := c.m.AppQueued()
	return q == 0 || q+n <= c.o.SendQueueBytes || c.m.Phase() == peer.PhaseClosed
}

// wake lets waiting sends go on as far as there is room, in order; all of them if the connection has ended. The lock is held.
func (c *Conn) wake(all bool) {
	c.note()
	if c.relief != nil {
		close(c.relief)
		c.relief = nil
	}
	n := 0
	for _, w := range c.waiters {
		if !all && !c.room(len(w.payload)) {
			break
		}
		w.err = c.sendApp(w.id, w.payload)
		close(w.ready)
		n++
	}
	c.waiters = slices.Delete(c.waiters, 0, n)
	c.flushers = slices.DeleteFunc(c.flushers, func(f flusher) bool {
		if !all && !c.appOut.reaches(f.at) {
			return false
		}
		close(f.done)
		return true
	})
	if len(c.flushers) == 0 {
		c.flushers = nil
	}
}

// Flush waits until the messages queued before have been written to the socket; what is queued afterwards, and what the peer downloads meanwhile, is not
// waited for. The errors are ctx's, and [net.ErrClosed] wrapped once the connection has ended, unless it is known that the peer's system had
// acknowledged everything by then.
func (c *Conn) Flush(ctx context.Context) error {
	c.mu.Lock()
	frames, _, fragments := c.m.AppBytes()
	at := mark{frames, fragments}
	if !c.appOut.reaches(at) && c.netErr == nil && !c.draining {
		f := flusher{at, make(chan struct{})}
		c.flushers = append(c.flushers, f)
		c.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if (c.netErr != nil || c.draining) && (!c.taken || !c.appOut.reaches(at)) {
		return c.closedErr()
	}
	return nil
}

// Unacknowledged returns how many written bytes the peer's system has not acknowledged yet, and whether this system can tell.
func (c *Conn) Unacknowledged() (int, bool) { return unacknowledged(c.nc) }

// writeLoop writes until there is nothing left.
func (c *Conn) writeLoop() {
	defer c.o.Group.Done()
	large := blockbuf.GetLarge()
	defer large.Release()
	var sealed sealing
	defer sealed.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.burst.begin(c.o.Now())
	for {
		out := c.unsent
		var sealer obfs.Sealer
		if c.unsent = nil; len(out) == 0 {
			if !c.ready() {
				break
			}
			if c.outlet != nil && !c.burst.fast {
				c.writeSince = c.o.Now()
				c.schedule()
				c.mu.Unlock()
				c.outlet.AwaitRoom() // what goes then is decided when it can go
				c.mu.Lock()
				c.writeSince = time.Time{}
			}
			sealer = c.sealer
			out = c.gather(roomFor(large.Bytes(), sealer))
		}
		if len(out) <= headroom(sealer) {
			break
		}
		c.wake(false)
		gone := c.gone()
		c.writeSince = c.o.Now()
		c.schedule()
		c.mu.Unlock()
		out = sealed.seal(sealer, out)
		_, err := c.nc.Write(out)
		c.mu.Lock()
		fast := c.burst.fast
		if c.burst.wrote(c.o.Now(), len(out)); c.outlet != nil && c.burst.fast != fast {
			c.outlet.KeepUnsent(c.burst.unsent())
		}
		c.writeSince = time.Time{}
		if err != nil {
			c.writing = false
			c.m.Close(&ioError{"write", err})
			c.fail(err)
			return
		}
		c.wrote(gone)
	}
	c.writing = false
	c.settle()
	c.schedule()
	c.wake(false)
	if c.graceful {
		if cw, ok := c.nc.(interface{ CloseWrite() error }); !ok || cw.CloseWrite() != nil {
			c.fail(net.ErrClosed)
		}
	}
}

// gone returns how much of the messages has been taken out of the machine. The lock is held.
func (c *Conn) gone() mark {
	_, frames, fragments := c.m.AppBytes()
	return mark{frames, fragments}
}

// wrote records that the messages up to m have been written. What was on its way when the connection ended does not count: taken was
// found out without it. The lock is held.
func (c *Conn) wrote(m mark) {
	if c.netErr == nil {
		c.appOut = m
	}
}

// gather collects what to write next behind buf: control first, then messages and pieces in turn with equal shares by bytes (EMP/1 section 7.4), as far as the burst and the
// rate reach; one of them at least. The lock is held, and released while a block is read.
func (c *Conn) gather(buf []byte) []byte {
	now, head := c.o.Now(), len(buf)
	out := c.m.AppendOutput(now, buf, 0)
	paid, held := 0, false
	for first := true; ; first = false {
		room := min(c.burst.bytes, cap(out)) - len(out)
		message := c.m.NextApp()
		pieces := !held && c.m.Phase() == peer.PhaseOpen && c.m.HasUploads()
		// Who has nothing to send saves nothing up.
		if message == 0 {
			c.ahead = max(c.ahead, 0)
		}
		if !pieces {
			c.ahead = min(c.ahead, 0)
		}
		if message > 0 && (!pieces || c.ahead <= 0) {
			if !first && message > room {
				break
			}
			n, limit := len(out), max(room, 1)
			if pieces {
				limit = min(limit, turnBytes)
			}
			if out = c.m.AppendOutput(now, out, limit); len(out) == n {
				break
			}
			c.ahead += units(len(out) - n)
			continue
		}
		if !pieces {
			break
		}
		b, isBlock := c.m.NextBlock()
		if isBlock {
			if !first && classic.PieceHeadBytes+int(b.Length) > room {
				break
			}
			if !c.mayUpload(int(b.Length)) { // no piece may go now, so messages may have all of the burst
				held = true
				continue
			}
		}
		u, ok := c.m.NextUpload()
		if !ok {
			break
		}
		if u.IsMetadata {
			c.uploadMetadata(u)
			out = c.m.AppendOutput(now, out, 0)
		} else if u.IsHashes {
			c.uploadHashes(u)
			out = c.m.AppendOutput(now, out, 0)
			break // an answer may be as long as the buffer
		} else {
			n := len(out)
			out = c.uploadBlock(now, out, u)
			c.ahead -= units(len(out) - n)
			if len(out)-n >= int(u.Block.Length) {
				paid += int(u.Block.Length)
			} else if c.up != nil {
				c.up.credit += int(u.Block.Length) // refused
			}
		}
	}
	c.chargeUp(len(out) - head - paid)
	return out
}

// uploadBlock appends a piece frame for u to out. The lock is held, and released while the block is read.
func (c *Conn) uploadBlock(now time.Time, out []byte, u peer.Upload) []byte {
	n := len(out)
	need := classic.PieceHeadBytes + int(u.Block.Length)
	if cap(out)-n < need { // only for blocks that are larger than anybody's
		out = append(make([]byte, 0, n+need), out...)
	}
	frame := out[n : n+need]
	c.mu.Unlock()
	err := c.session.ReadBlock(frame[classic.PieceHeadBytes:], u.Block)
	c.mu.Lock()
	switch {
	case err != nil:
		if c.m.Refuse(u) != nil {
			c.shut()
		}
	case c.m.FinishPiece(now, u.Block, frame):
		out = out[:n+need]
		c.session.Uploaded(int(u.Block.Length))
	}
	return c.m.AppendOutput(now, out, 0)
}

func (c *Conn) uploadMetadata(u peer.Upload) {
	info := c.session.Metadata()
	from := int(u.Metadata) * ltep.MetadataPieceBytes
	if from >= len(info) {
		if c.m.Refuse(u) != nil {
			c.shut()
		}
		return
	}
	err := c.m.SendMetadata(ltep.Metadata{Type: ltep.MetadataData, Piece: u.Metadata, TotalSize: int64(len(info)),
		Data: info[from:min(from+ltep.MetadataPieceBytes, len(info))]})
	if err != nil && !errors.Is(err, peer.ErrUnsupported) {
		c.shut()
	}
}

// uploadHashes answers a request for hashes. The lock is held, and released while they are found.
func (c *Conn) uploadHashes(u peer.Upload) {
	c.mu.Unlock()
	data, err := c.session.Hashes(nil, u.Hashes)
	c.mu.Lock()
	if err == nil {
		err = c.m.SendHashes(wire.Hashes{HashSpan: u.Hashes, Data: data})
	}
	if err != nil && c.m.Refuse(u) != nil {
		c.shut()
	}
}

// readLoop reads until the connection ends, and reports the end.
func (c *Conn) readLoop() {
	for {
		if c.session != nil && !c.told {
			c.reader.setMost(c.session.DownloadGroup().readMost())
		}
		buf, n, err := c.reader.read()
		if n > 0 {
			if payload := c.handle(buf, n); !c.told {
				c.pace(n, payload)
			}
		} else if buf != nil {
			buf.Release()
		}
		if err == nil {
			continue
		}
		if !c.renew(err) {
			c.finish(err)
			c.o.Group.Done()
		}
		return
	}
}

// intake is what one read has brought.
type intake struct {
	batch   *Batch
	apps    bool
	payload int // bytes of blocks
}

// handle feeds what was read to the machine, through what the hello was about, and the machine's events to the session. It returns how many bytes of blocks there were.
func (c *Conn) handle(buf *blockbuf.Large, n int) (payload int) {
	b := buf.Bytes()[:n]
	var kept []byte
	if c.told { // it drains
		buf.Release()
		return 0
	}
	if c.opening != nil {
		var ok bool
		if kept, b, ok = c.open(b); !ok {
			buf.Release()
			return 0
		}
	}
	var in intake
	c.mu.Lock()
	c.corked = true
	if len(kept) > 0 {
		c.feed(kept, &in)
	}
	for len(b) > 0 && c.m.Phase() != peer.PhaseClosed {
		plain := b
		if b = nil; c.opener != nil {
			var err error
			c.mu.Unlock() // nobody waits for a cipher
			plain, b, err = c.opener.Open(plain)
			c.mu.Lock()
			c.m.Hold()
			if err != nil {
				c.drain(err)
				break
			}
		}
		if len(plain) > 0 {
			c.feed(plain, &in)
		}
	}
	if c.m.Phase() == peer.PhaseClosed && c.quietly() {
		c.drain(c.m.Err())
	}
	batch, apps := in.batch, in.apps
	c.corked = false
	c.busy = batch != nil || apps
	c.answer(buf.Bytes())
	c.after()
	drains := c.draining
	c.mu.Unlock()
	buf.Release() // before anything blocks
	if batch != nil {
		c.session.Deliver(c, batch)
	}
	if apps {
		c.session.AppsDone()
	}
	if batch != nil || apps {
		c.mu.Lock()
		c.busy = false
		c.mu.Unlock()
	}
	if drains {
		c.beginDraining()
	}
	return in.payload
}

// feed gives the machine what was opened, and does what comes of it. The lock is held, and released while others are asked.
func (c *Conn) feed(b []byte, in *intake) {
	c.m.Feed(c.o.Now(), b)
	for {
		ev, ok := c.m.Next()
		if !ok && c.m.Paused() {
			c.relieve()
			continue
		}
		if !ok {
			break
		}
		switch ev.Kind {
		case peer.EventHello:
			hello, ih := c.m.Hello(), c.m.InfoHash()
			c.mu.Unlock()
			s, local, err := c.o.Host.Accept(c, hello, ih)
			c.mu.Lock()
			if err != nil {
				c.m.Close(err)
				break
			}
			c.session = s
			c.m.Accept(local)
		case peer.EventOpen:
			c.mu.Unlock()
			c.session.Open(c)
			c.mu.Lock()
		case peer.EventMux:
			c.session.Mux(&c.m, ev.Mux)
			in.apps = true
		case peer.EventMessage:
			c.tellShared()
			if x, ok := ev.Msg.(*wire.Extended); ok {
				c.session.App(x.ID, x.Payload)
				in.apps = true
				break
			}
			if x, ok := ev.Msg.(*wire.Piece); ok {
				in.payload += len(x.Data)
			}
			if in.batch == nil {
				in.batch = newBatch()
			}
			in.batch.add(&c.m, ev.Msg)
			if in.batch.full() {
				c.handOver(in.batch)
				in.batch = nil
			}
		}
	}
}

// answer writes what the machine has to say to what was just read, from the read loop itself if the socket takes it: a writer of its own would cost more than
// so few bytes. Blocks are left to the writer, since reading them may block. buf is borrowed. The lock is held, and released while writing.
func (c *Conn) answer(buf []byte) {
	if c.writing || c.draining || len(c.unsent) > 0 || c.netErr != nil || c.m.Phase() != peer.PhaseOpen || !c.reader.parks() || c.m.HasUploads() || !c.m.HasOutput() {
		return
	}
	c.writing = true
	sealer := c.sealer
	buf = roomFor(buf, sealer)
	out := c.m.AppendOutput(c.o.Now(), buf, min(c.burst.bytes, cap(buf)-len(buf)))
	c.chargeUp(len(out) - len(buf))
	c.wake(false)
	gone := c.gone()
	c.mu.Unlock()
	var sealed sealing
	defer sealed.release()
	out = sealed.seal(sealer, out)
	n, err := c.reader.writeNow(out)
	c.mu.Lock()
	switch {
	case err != nil:
		c.writing = false
		c.m.Close(&ioError{"write", err})
		c.fail(err)
	case n < len(out) || c.graceful:
		c.unsent = append([]byte(nil), out[n:]...)
		c.o.Group.Add(1)
		go c.write()
	default:
		c.writing = false
		c.wrote(gone)
		c.wake(false)
	}
}

// relieve writes the answers that pile up, or waits a moment for the writer to take them. The lock is held, and released meanwhile.
func (c *Conn) relieve() {
	buf := blockbuf.GetLarge()
	c.answer(buf.Bytes())
	buf.Release()
	c.corked = false
	c.after()
	var timer *time.Timer
	for c.m.Paused() && c.writing && c.netErr == nil {
		if timer == nil {
			timer = time.NewTimer(answersWait)
			defer timer.Stop()
		}
		relief := make(chan struct{})
		c.relief = relief
		c.mu.Unlock()
		late := false
		select {
		case <-relief:
		case <-timer.C:
			late = true
		}
		c.mu.Lock()
		if c.relief = nil; late {
			break
		}
	}
	c.corked = true
}

// handOver delivers a batch that is full in the middle of a read. The lock is held, and released meanwhile; what others send is not held up.
func (c *Conn) handOver(b *Batch) {
	c.corked, c.busy = false, true
	c.after()
	c.mu.Unlock()
	c.session.Deliver(c, b)
	c.mu.Lock()
	c.corked, c.busy = true, false
}

// ioError says what the socket was used for when it failed. Most connections end with one that nobody reads, so it is not put into words before.
type ioError struct {
	op  string
	err error
}

// Error implements error.
func (e *ioError) Error() string { return e.op + ": " + e.err.Error() }

// Unwrap returns the system's error.
func (e *ioError) Unwrap() error { return e.err }

// finish reports the end of the connection.
func (c *Conn) finish(end error) {
	c.mu.Lock()
	switch {
	case c.m.Phase() == peer.PhaseClosed:
	case errors.Is(end, io.EOF) && c.m.Phase() == peer.PhaseOpen:
		c.m.Close(nil)
	case errors.Is(end, io.EOF):
		c.m.Close(fmt.Errorf("closed by the peer during the hello: %w", io.ErrUnexpectedEOF))
	default:
		c.m.Close(&ioError{"read", end})
	}
	c.fail(end)
	c.o.Timers.drop(c)
	c.mu.Unlock()
	c.tell()
	c.o.OwnIVs.drop(c)
	if c.o.Drains != nil {
		c.o.Drains.drop(c)
	}
	if c.o.Ended != nil {
		c.o.Ended(c)
	}
}

// tell tells the session, or the host if there is none, of the end. It is the read loop's.
func (c *Conn) tell() {
	if c.told {
		return
	}
	c.told = true
	c.mu.Lock()
	err, s := c.m.Err(), c.session
	c.mu.Unlock()
	if s != nil {
		s.Closed(c, err)
	} else if c.o.Host != nil {
		c.o.Host.Refused(c, err)
	}
}
