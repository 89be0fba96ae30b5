// Package simnet is a simulated network of stream connections for tests: bandwidth, latency, bounded buffers, reads split at random,
// and connections that are cut. It decides how bytes travel and nothing about what they mean.
//
//	Write ──► buffer of Link.Buffer bytes, see KeepUnsent ──► Link.Rate, Host.Up ──► Link.Latency ──► Host.Down ──► Read (1..Link.Split bytes at a time)
//
// It works on the ordinary clock as well as in a testing/synctest bubble, where hours pass at once: nobody who waits here
// waits on a mutex. A [Network] or pipe used in a bubble must have been made in that bubble.
//
// A connection behaves as TCP does where it matters to those above: what was written before Close or CloseWrite arrives, followed by the end
// of the stream; the other direction of a half-closed connection goes on; who writes to an end that was closed finds out one latency later; a cut
// connection fails with ECONNRESET on both sides and loses what was in flight. Unlike in TCP, closing an end with unread bytes does not
// endanger what that end has sent.
package simnet

import (
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// DefaultBuffer is the buffer of each direction of a connection if [Link.Buffer] is 0.
const DefaultBuffer = 64 << 10

// Link says how the bytes of a connection travel, the same in both directions. The zero Link is instant and unlimited but for its
// buffer.
type Link struct {
	// Rate is in bytes a second; 0 is unlimited.
	Rate int
	// Latency is how long a byte travels one way.
	Latency time.Duration
	// Buffer is how many bytes fit between Write and Read: in flight, or arrived and unread. 0 is DefaultBuffer. A write blocks when it
	// is full, so that no more than Buffer bytes travel in one Latency.
	Buffer int
	// Split makes every Read return a random number of bytes from 1 to Split; 0 is as many as have arrived.
	Split int
	// CutWithin breaks the connection after a number of bytes read in either direction that is drawn from 1 to CutWithin; 0 is never.
	CutWithin int64
}

// sendTime returns how long the link is busy with n bytes.
func (l Link) sendTime(n int) time.Duration {
	if l.Rate <= 0 {
		return 0
	}
	return time.Duration(int64(n) * int64(time.Second) / int64(l.Rate))
}

// Conn is one end of a connection. It is a [net.Conn] with CloseWrite; its methods are safe for concurrent use.
type Conn struct {
	in, out       *half
	local, remote netip.AddrPort
	closed        func() // tells the network
}

var _ net.Conn = (*Conn)(nil)

// Pipe returns the two ends of a connection over l. Splits and cuts follow from seed.
func Pipe(seed uint64, l Link) (a, b *Conn) {
	return pipe(seed, l, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"))
}

func pipe(seed uint64, l Link, from, to netip.AddrPort) (a, b *Conn) {
	if l.Buffer <= 0 {
		l.Buffer = DefaultBuffer
	}
	ab := newHalf(l, rand.New(rand.NewPCG(seed, 1)))
	ba := newHalf(l, rand.New(rand.NewPCG(seed, 2)))
	nothing := func() {}
	return &Conn{in: ba, out: ab, local: from, remote: to, closed: nothing}, &Conn{in: ab, out: ba, local: to, remote: from, closed: nothing}
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	n, cut, err := c.in.read(p)
	if cut {
		c.Cut()
	}
	return n, c.wrap("read", err)
}

// Write implements [net.Conn]. It blocks while the buffer of the direction is full.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// KeepUnsent lets a write in only while less than n bytes are written and not sent yet; then all of it goes in that the buffer has room for, as in Linux with
// TCP_NOTSENT_LOWAT. Without it, or with 0, the buffer alone is the limit.
func (c *Conn) KeepUnsent(n int) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.unsent = n
	c.out.cond.Broadcast()
}

// AwaitRoom waits until less than half of what KeepUnsent allows is unsent and the buffer has room, or until a write would fail.
func (c *Conn) AwaitRoom() { c.out.awaitRoom() }

// Close implements [net.Conn]: what was written still arrives. A second call fails with [net.ErrClosed].
func (c *Conn) Close() error {
	if err := c.out.closeWrite(true); err != nil {
		return c.wrap("close", err)
	}
	c.in.closeRead()
	c.closed()
	return nil
}

// CloseWrite ends the direction to the peer, which reads what was written and then [io.EOF]; the other direction goes on.
func (c *Conn) CloseWrite() error {
	return c.wrap("close", c.out.closeWrite(false))
}

// Cut breaks the connection, as when a router reboots: both ends fail with ECONNRESET, and what was in flight is lost.
func (c *Conn) Cut() {
	c.in.cut()
	c.out.cut()
}

// LocalAddr implements [net.Conn]; it is a [*net.TCPAddr].
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements [net.Conn]; it is a [*net.TCPAddr].
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.wrap("set", c.in.setReadDeadline(t)) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.wrap("set", c.out.setWriteDeadline(t)) }
