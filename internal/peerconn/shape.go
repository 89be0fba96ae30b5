package peerconn

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/ratelimit"
	"github.com/parley-bt/parley/wire/classic"
)

// Rates in one direction. What waits for its share is the data of pieces: a block to upload is neither read from storage nor written before its turn has come, and a connection
// is not read while the blocks that came last are not paid for. All other bytes, of control and of application messages, are counted and never wait, since they
// keep the swarm going and are few; what they take is missing for pieces, for a second at most.
//
// While there is no limit none of this costs more than two atomic loads per read or write.

// A Shaper has the limit of one direction for all connections of a client, and shares it out between groups, one for each torrent, and the connections of each. Its
// methods are safe for concurrent use.
type Shaper struct {
	timers *Timers
	rate   atomic.Int64

	mu    sync.Mutex // taken with Conn.mu held, never the other way round
	tree  ratelimit.Tree
	armed time.Time // when Timers will call; zero if it will not
}

// NewShaper makes a shaper without a limit. Its waits end only while t runs.
func NewShaper(t *Timers) *Shaper {
	s := &Shaper{timers: t}
	t.mu.Lock()
	t.shapers = append(t.shapers, s)
	t.mu.Unlock()
	return s
}

// SetRate sets the limit of all groups together in bytes a second; 0 is none. It holds at once.
func (s *Shaper) SetRate(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate.Store(rate)
	s.tree.SetRate(s.timers.now(), s.tree.Root(), rate)
	s.rearm(true)
}

// Rate returns the limit, 0 for none.
func (s *Shaper) Rate() int64 { return s.rate.Load() }

// rearm has Timers call when somebody may go; now, if somebody may go already. The lock is held.
func (s *Shaper) rearm(now bool) {
	next := s.tree.Next()
	switch {
	case now:
		s.armed = s.timers.now()
	case next.IsZero() || !s.armed.IsZero() && !next.Before(s.armed):
		return
	default:
		s.armed = next
	}
	s.timers.poke()
}

// run lets those go whose turn has come, and returns when it is to be called again, the zero time if nobody waits. Timers calls it.
func (s *Shaper) run(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed.IsZero() || now.Before(s.armed) {
		return s.armed
	}
	for {
		leaf, n := s.tree.Grant(now)
		if leaf == nil {
			break
		}
		w := leaf.User.(granter)
		s.mu.Unlock()
		w.granted(n)
		s.mu.Lock()
	}
	s.armed = s.tree.Next()
	return s.armed
}

// granter is who waits.
type granter interface{ granted(n int) }

// A Group is the share of one torrent in a shaper, with a limit of its own. A nil Group has no limits. Its methods are safe for concurrent use.
type Group struct {
	s    *Shaper
	rate atomic.Int64
	node ratelimit.Node // guarded by s.mu
}

// NewGroup adds a group without a limit of its own. One that nobody uses any more is forgotten with its last reference.
func (s *Shaper) NewGroup() *Group {
	g := &Group{s: s}
	s.mu.Lock()
	s.tree.Add(s.tree.Root(), &g.node)
	s.mu.Unlock()
	return g
}

// SetRate sets the group's own limit in bytes a second; 0 is none. It holds at once.
func (g *Group) SetRate(rate int64) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	g.rate.Store(rate)
	g.s.tree.SetRate(g.s.timers.now(), &g.node, rate)
	g.s.rearm(true)
}

// Rate returns the group's own limit, 0 for none.
func (g *Group) Rate() int64 {
	if g == nil {
		return 0
	}
	return g.rate.Load()
}

// Limit returns the most that the group may get in bytes a second: the lesser of its limit and the shaper's, 0 if there is neither.
func (g *Group) Limit() int64 {
	if g == nil {
		return 0
	}
	own, all := g.rate.Load(), g.s.rate.Load()
	if own == 0 || all != 0 && all < own {
		return all
	}
	return own
}

// readMost returns how many bytes a connection of the group should read at once: all that a buffer holds without a limit, else about a thirtieth of a second, so that
// nobody takes seconds' worth in one go.
func (g *Group) readMost() int {
	limit := g.Limit()
	if limit == 0 {
		return blockbuf.LargeBytes
	}
	const least = 16 << 10
	return int(min(max(limit/32, least), blockbuf.LargeBytes))
}

// share is a connection's part in a group, in one direction. It exists once there was a limit.
type share struct {
	node   ratelimit.Node // guarded by the shaper's mutex
	g      *Group
	wait   func(n int) // told that n bytes may go
	credit int         // bytes that may go and have not; the connection's
	held   bool        // it waits; the connection's
}

func newShare(g *Group, granted func(n int)) *share {
	s := &share{g: g, wait: granted}
	s.node.User = s
	g.s.mu.Lock()
	g.s.tree.Add(&g.node, &s.node)
	g.s.mu.Unlock()
	return s
}

func (s *share) granted(n int) { s.wait(n) }

// take asks for n bytes, above 0; false if it has to wait.
func (s *share) take(n int) bool {
	sh := s.g.s
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.tree.Take(sh.timers.now(), &s.node, n) {
		return true
	}
	sh.rearm(false)
	return false
}

// charge counts n bytes that do not wait.
func (s *share) charge(n int) {
	sh := s.g.s
	sh.mu.Lock()
	sh.tree.Charge(sh.timers.now(), &s.node, n)
	sh.mu.Unlock()
}

// refund gives n bytes back that were granted and have not gone.
func (s *share) refund(n int) {
	sh := s.g.s
	sh.mu.Lock()
	sh.tree.Refund(&s.node, n)
	sh.mu.Unlock()
}

// cancel ends a wait. A grant may be on its way already.
func (s *share) cancel() {
	sh := s.g.s
	sh.mu.Lock()
	sh.tree.Cancel(&s.node)
	sh.mu.Unlock()
}

// A Turn is a part of a group for bytes that come or go by another way than a connection of this package. It is not safe for concurrent use.
type Turn struct {
	share *share
	ready chan struct{} // capacity 1
}

// NewTurn adds a part to the group. One that nobody uses any more is forgotten with its last reference.
func (g *Group) NewTurn() *Turn {
	t := &Turn{ready: make(chan struct{}, 1)}
	if g != nil {
		t.share = newShare(g, func(int) { t.ready <- struct{}{} })
	}
	return t
}

// Wait waits until n bytes have their turn. After an error, which is ctx's, the Turn is not to be used any more.
func (t *Turn) Wait(ctx context.Context, n int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if n <= 0 || t.share == nil || !t.share.g.limited() || t.share.take(n) {
		return nil
	}
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		t.share.cancel()
		return context.Cause(ctx)
	}
}

// Connections, upwards.

// limited reports whether a group has a limit now.
func (g *Group) limited() bool { return g != nil && (g.rate.Load() != 0 || g.s.rate.Load() != 0) }

// ready reports whether there is something to write now: blocks that wait for their turn do not count. The lock is held.
func (c *Conn) ready() bool {
	if len(c.unsent) > 0 {
		return true
	}
	if c.opening != nil || c.draining {
		return false
	}
	if c.up != nil && c.up.held {
		return c.m.HasUrgentOutput()
	}
	return c.m.HasOutput()
}

// mayUpload reports whether a block of n bytes may go now; if not, upGranted is called when it may. The lock is held.
func (c *Conn) mayUpload(n int) bool {
	if !c.session.UploadGroup().limited() {
		return true // with a wait from before: its grant is on the way, and is given back
	}
	if c.up == nil {
		c.up = newShare(c.session.UploadGroup(), c.upGranted)
	}
	if c.up.held {
		return false
	}
	if c.up.credit >= n {
		c.up.credit -= n
		return true
	}
	if c.up.take(n - c.up.credit) {
		c.up.credit = 0
		return true
	}
	c.up.held = true
	return false
}

// upGranted lets the connection write n bytes of blocks.
func (c *Conn) upGranted(n int) {
	c.mu.Lock()
	c.up.held = false
	c.up.credit += n
	c.kick()
	if !c.writing {
		c.settle()
	}
	c.mu.Unlock()
}

// settle gives back what was granted for blocks that the peer no longer wants. The lock is held.
func (c *Conn) settle() {
	if c.up != nil && c.up.credit > 0 {
		c.up.refund(c.up.credit)
		c.up.credit = 0
	}
}

// chargeUp counts n written bytes that did not wait. The lock is held.
func (c *Conn) chargeUp(n int) {
	if n <= 0 || c.session == nil || !c.session.UploadGroup().limited() {
		return
	}
	if c.up == nil {
		c.up = newShare(c.session.UploadGroup(), c.upGranted)
	}
	c.up.charge(n)
}

// Connections, downwards. The read loop has all of it but for what says otherwise.

// pace waits until what was read may have been: n bytes, with payload bytes of blocks among them.
func (c *Conn) pace(n, payload int) {
	if c.session == nil {
		return
	}
	g := c.session.DownloadGroup()
	if !g.limited() {
		c.unpaid = 0
		return
	}
	c.mu.Lock()
	if c.netErr != nil || c.graceful {
		c.mu.Unlock()
		return
	}
	if c.down == nil {
		c.down = newShare(g, c.downGranted)
		c.resume = make(chan struct{}, 1)
	}
	// A frame counts as a block's once it is complete, so less than one frame of what came is not counted yet.
	const most = classic.PieceHeadBytes + bt.BlockBytes
	c.unpaid += n - payload
	if other := c.unpaid - most; other > 0 {
		c.unpaid -= other
		c.down.charge(other)
	}
	held := payload > 0 && !c.down.take(payload)
	c.down.held, c.busy = held, held
	c.mu.Unlock()
	if !held {
		return
	}
	<-c.resume
	c.mu.Lock()
	c.down.held, c.busy = false, false
	c.mu.Unlock()
}

// downGranted lets the read loop go on.
func (c *Conn) downGranted(int) {
	select {
	case c.resume <- struct{}{}:
	default: // it was told to go on already, since the connection ends
	}
}

// Paused reports whether the connection is not read at the moment, since what came has to wait for its share of the limit: what is missing of the peer is not the peer's fault.
func (c *Conn) Paused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down != nil && c.down.held
}

// unshape ends all waits, since the connection ends. The lock is held.
func (c *Conn) unshape() {
	if c.up != nil {
		c.up.cancel()
		c.up.held = false
		c.settle()
	}
	if c.down != nil {
		c.down.cancel()
		if c.down.held {
			c.downGranted(0)
		}
	}
}
