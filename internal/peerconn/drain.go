package peerconn

import (
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// MaxDraining is how many connections of a client drain at once; beyond it the oldest is closed (EMP/1 section 5).
const MaxDraining = 256

// Bounds of the time for which a connection drains that had been a session.
const (
	minDrain = 5 * time.Second
	maxDrain = 30 * time.Second
)

// Drains is the connections that fail quietly (EMP/1 section 5): their sessions have ended, nothing is sent, what comes is read and thrown away, and they are closed at a time that says
// nothing about what was wrong. It is safe for concurrent use.
type Drains struct {
	mu     sync.Mutex
	conns  []*Conn // the oldest first
	closed bool
	total  int64
	early  int64
}

// DrainStats counts connections that drained.
type DrainStats struct {
	Now   int   // that drain now
	Total int64 // that ever did
	Early int64 // of those, closed before their time since there were too many
}

// Stats returns how many connections drain and have drained.
func (d *Drains) Stats() DrainStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return DrainStats{len(d.conns), d.total, d.early}
}

// add takes a connection in, and closes the oldest if there are too many. No connection's lock is held.
func (d *Drains) add(c *Conn) {
	d.mu.Lock()
	d.total++
	var out *Conn
	switch {
	case d.closed:
		out = c
	case len(d.conns) >= MaxDraining:
		out = d.conns[0]
		d.early++
		copy(d.conns, d.conns[1:])
		d.conns[len(d.conns)-1] = c
	default:
		d.conns = append(d.conns, c)
	}
	d.mu.Unlock()
	if out != nil {
		out.endDraining()
	}
}

func (d *Drains) drop(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.conns, c); i >= 0 {
		d.conns = slices.Delete(d.conns, i, i+1)
	}
}

// Close closes what drains, and what would drain from now on.
func (d *Drains) Close() {
	d.mu.Lock()
	conns := slices.Clone(d.conns)
	d.closed = true
	d.mu.Unlock()
	for _, c := range conns {
		c.endDraining()
	}
}

func (c *Conn) endDraining() {
	c.mu.Lock()
	c.fail(net.ErrClosed)
	c.mu.Unlock()
}

// quietly reports whether what ended the session is among the failures that nobody may see: those of the hello inside MSE. The lock is held.
func (c *Conn) quietly() bool {
	if c.m.Hello() != wire.HelloMSE || c.m.Opened() || c.m.Role() != peer.Responder {
		return false
	}
	err := c.m.Err()
	return peer.FaultOf(err) == peer.FaultPeer || errors.Is(err, peer.ErrUnknownTorrent)
}

// drain ends the session quietly: [Conn.beginDraining] follows once the lock is given up. The lock is held.
func (c *Conn) drain(err error) {
	if c.draining || c.graceful || c.netErr != nil {
		return
	}
	if c.o.Drains == nil {
		c.m.Close(err)
		return
	}
	if c.drainEnd = c.m.HelloEnd(); c.m.Opened() {
		c.drainEnd = c.o.Now().Add(minDrain + rand.N(maxDrain-minDrain+1))
		c.unsent = nil
	}
	c.m.Close(err)
	c.draining = true
	c.unshape()
	if c.session != nil {
		c.session.Interrupt()
	}
	c.wake(true)
	c.kick() // an answer that says nothing may be due
	c.schedule()
}

// beginDraining tells of the end of the session. It is the read loop's.
func (c *Conn) beginDraining() {
	if c.told {
		return
	}
	c.tell()
	c.o.Drains.add(c)
}
