package messaging

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Peer is the application side of one session: the types the peer accepts, and the queues of what it has sent.
type Peer struct {
	hub   *Hub
	Owner any // whatever the layer above needs to find its own peer again

	types atomic.Pointer[map[string]uint8]
	found atomic.Pointer[foundID]

	ctx  context.Context // ends with the session
	stop context.CancelFunc

	used    atomic.Int64 // bytes that wait or are being handled, with their overhead
	waiting atomic.Bool  // the read loop waits for room
	// interrupted says that the connection is being closed: nothing more is read, so nobody need wait.
	interrupted atomic.Bool
	roomCh      chan struct{} // capacity 1; made before the first worker
	In          atomic.Int64  // messages received

	mu      sync.Mutex
	queues  []*queue
	drained func() // called once when the session has ended and nothing waits
	ended   bool
}

// queue is the messages of one type that wait. Pending grows while the worker handles what it took before.
type queue struct {
	t       *Type
	pending *[]byte // length (4), payload, ...
	running bool
}

// buffers holds the byte buffers of queues while they are empty, so that idle peers hold none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled is the largest buffer that is kept for others.
const maxPooled = 2 << 20

// NewPeer returns the application side of a new session.
func (h *Hub) NewPeer(owner any) *Peer {
	return &Peer{hub: h, Owner: owner}
}

// SetTypes says what the peer accepts now: names with their ids, 0 for none. The map must not change afterwards.
func (p *Peer) SetTypes(types map[string]uint8) { p.types.Store(&types) }

// TypeID returns the id under which the peer accepts a type; 0 if it does not.
func (p *Peer) TypeID(name string) uint8 {
	m := p.types.Load()
	if m == nil {
		return 0
	}
	e := p.found.Load()
	if e != nil && e.types == m && e.name == name {
		return e.id
	}
	id := (*m)[name]
	if e == nil || e.types != m { // the first name that is asked for: most peers are sent one type
		p.found.Store(&foundID{m, name, id})
	}
	return id
}

// foundID is an answer of TypeID, good for one table: looking a name up in a map took two fifths of sending a small message.
type foundID struct {
	types *map[string]uint8
	name  string
	id    uint8
}

// Types returns the peer's table; it must not be changed.
func (p *Peer) Types() map[string]uint8 {
	if m := p.types.Load(); m != nil {
		return *m
	}
	return nil
}

// App queues one message; see peerconn.Session. Messages of types that are gone have no effect.
func (p *Peer) App(id uint8, payload []byte) {
	t := p.hub.byID[id].Load()
	if t == nil {
		return
	}
	p.In.Add(1)
	p.used.Add(int64(len(payload)) + messageOverhead)
	p.mu.Lock()
	q := p.queueOf(t)
	if q.pending == nil {
		q.pending = buffers.Get().(*[]byte)
	}
	b := binary.LittleEndian.AppendUint32(*q.pending, uint32(len(payload)))
	*q.pending = append(b, payload...)
	p.mu.Unlock()
}

// queueOf returns the queue of a type; p.mu is held.
func (p *Peer) queueOf(t *Type) *queue {
	for _, q := range p.queues {
		if q.t == t {
			return q
		}
	}
	p.queues = slices.DeleteFunc(p.queues, func(q *queue) bool { return !q.running && q.pending == nil && q.gone() })
	q := &queue{t: t}
	p.queues = append(p.queues, q)
	return q
}

// AppsDone starts the workers of the queues that have something, and waits while the peer's queues are full; see peerconn.Session.
func (p *Peer) AppsDone() {
	p.mu.Lock()
	for _, q := range p.queues {
		if q.pending != nil && !q.running {
			q.running = true
			if p.ctx == nil {
				p.ctx, p.stop = context.WithCancel(p.hub.end)
				p.roomCh = make(chan struct{}, 1)
			}
			p.hub.group.Add(1)
			go p.work(q)
		}
	}
	p.mu.Unlock()
	for p.used.Load() > int64(p.hub.o.QueueBytes) && !p.interrupted.Load() {
		p.waiting.Store(true)
		if p.used.Load() <= int64(p.hub.o.QueueBytes) {
			p.waiting.Store(false)
			return
		}
		select {
		case <-p.roomCh:
		case <-p.hub.end.Done():
			return
		}
	}
}

// Interrupt lets AppsDone return although the queues are full, because the connection is being closed; see peerconn.Session.
func (p *Peer) Interrupt() {
	p.interrupted.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.roomCh <- struct{}{}: // nil, and so never ready, before the first worker
	default:
	}
}

// release gives back the room of a message, and lets the read loop go on when half of the queue is free: waking it for every message
// would cost more than the message.
func (p *Peer) release(n int) {
	left := p.used.Add(-int64(n) - messageOverhead)
	if left <= int64(p.hub.o.QueueBytes)/2 && p.waiting.Load() && p.waiting.CompareAndSwap(true, false) {
		select {
		case p.roomCh <- struct{}{}:
		default:
		}
	}
}

// End says that the session is over. What was received whole is still handled; drained is called, once, when that is done.
func (p *Peer) End(drained func()) {
	p.mu.Lock()
	p.ended, p.drained = true, drained
	if p.stop != nil {
		p.stop()
	}
	f := p.takeDrained()
	p.mu.Unlock()
	if f != nil {
		f()
	}
}

// takeDrained returns what to call if the session has ended and nothing waits; p.mu is held.
func (p *Peer) takeDrained() func() {
	if !p.ended {
		return nil
	}
	for _, q := range p.queues {
		if q.running || q.pending != nil {
			return nil
		}
	}
	f := p.drained
	p.drained = nil
	return f
}

// work handles what is in q until it is empty.
func (p *Peer) work(q *queue) {
	defer p.hub.group.Done()
	m := &Message{Peer: p, Type: q.t}
	if q.t.feed != nil {
		m.taken = make(chan struct{})
	}
	ctx := newHandlerContext(p)
	var batch *[]byte
	for {
		p.mu.Lock()
		if batch != nil {
			recycle(batch)
		}
		if q.pending == nil {
			q.running = false
			f := p.takeDrained()
			p.mu.Unlock()
			if f != nil {
				f()
			}
			return
		}
		batch, q.pending = q.pending, nil
		p.mu.Unlock()
		for b := *batch; len(b) > 0; {
			n := int(binary.LittleEndian.Uint32(b))
			m.Payload = b[4 : 4+n : 4+n]
			b = b[4+n:]
			ctx = p.handle(ctx, q.t, m)
			p.release(n)
		}
	}
}

// gone reports whether the queue's type has been withdrawn: nothing more comes for it.
func (q *queue) gone() bool {
	select {
	case <-q.t.withdrawn:
		return true
	default:
		return false
	}
}

func recycle(b *[]byte) {
	if cap(*b) > maxPooled {
		return
	}
	*b = (*b)[:0]
	buffers.Put(b)
}

// handle gives one message to the application. It returns the context for the next one.
func (p *Peer) handle(ctx *handlerContext, t *Type, m *Message) *handlerContext {
	select {
	case <-t.withdrawn:
		return ctx // taken back while the message waited (EMP/1 section 7.1)
	default:
	}
	if t.handler == nil {
		select {
		case t.feed <- m:
			<-m.taken
			t.MessagesIn.Add(1)
		case <-t.withdrawn:
		}
		return ctx
	}
	if ctx.parent == p.ctx && p.ctx.Err() != nil {
		ctx.parent = p.hub.end
	}
	err := t.handler(ctx, m)
	t.MessagesIn.Add(1)
	if err != nil {
		t.Errors.Add(1)
		p.hub.o.Logger.Warn("message handler failed", "type", t.name, "error", err)
	}
	if ctx.finish() {
		return newHandlerContext(p) // somebody may still hold the old one
	}
	return ctx
}

// Done says that the caller of Take no longer uses the message.
func (m *Message) Done() { m.taken <- struct{}{} }

// handlerContext is the context of handlers. It costs nothing until somebody asks whether or when it ends; from then on it ends after the handler timeout,
// with the session, or when the handler returns.
type handlerContext struct {
	p      *Peer
	parent context.Context // the session's while it lasts, else the torrent's: a message that came whole is still worth handling

	mu       sync.Mutex
	done     chan struct{}
	err      error
	deadline time.Time
	timer    *time.Timer
	unhook   func() bool
}

func newHandlerContext(p *Peer) *handlerContext { return &handlerContext{p: p, parent: p.ctx} }

// arm starts the clock; c.mu is held.
func (c *handlerContext) arm() {
	if c.done != nil {
		return
	}
	c.done = make(chan struct{})
	if c.err != nil {
		close(c.done)
		return
	}
	d := c.p.hub.o.HandlerTimeout
	c.deadline = time.Now().Add(d)
	c.timer = time.AfterFunc(d, func() { c.end(context.DeadlineExceeded) })
	c.unhook = context.AfterFunc(c.parent, func() { c.end(context.Canceled) })
}

func (c *handlerContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		if c.done != nil {
			close(c.done)
		}
	}
}

// finish ends the context because the handler has returned, and reports whether anybody had asked for it, so that it must not be used again.
func (c *handlerContext) finish() bool {
	c.mu.Lock()
	if c.done == nil {
		c.mu.Unlock()
		return false
	}
	timer, unhook := c.timer, c.unhook
	c.mu.Unlock()
	if timer != nil {
		timer.Stop()
		unhook()
	}
	c.end(context.Canceled)
	return true
}

// Deadline implements [context.Context].
func (c *handlerContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arm()
	return c.deadline, !c.deadline.IsZero()
}

// Done implements [context.Context].
func (c *handlerContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arm()
	return c.done
}

// Err implements [context.Context].
func (c *handlerContext) Err() error {
	c.mu.Lock()
	c.arm() // whoever asks for nothing else, again and again, must see the end too
	err := c.err
	c.mu.Unlock()
	if err == nil {
		err = c.parent.Err()
	}
	return err
}

// Value implements [context.Context].
func (c *handlerContext) Value(key any) any { return c.parent.Value(key) }
