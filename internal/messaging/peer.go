package messaging

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire/emp"
)

// Peer is the application side of one session: the types the peer accepts, and the queues of what it has sent.
type Peer struct {
	hub   *Hub
	Owner any // whatever the layer above needs to find its own peer again

	conn Conn // set before anything comes

	shared atomic.Pointer[peer.Shared]
	found  atomic.Pointer[found]

	ctx  context.Context // ends with the session
	stop context.CancelFunc

	used    atomic.Int64 // bytes that wait or are being handled, with their overhead
	waiting atomic.Bool  // the read loop waits for room
	// interrupted says that the connection is being closed: nothing more is read, so nobody need wait.
	interrupted atomic.Bool
	roomCh      chan struct{} // capacity 1; made before the first worker
	Refused     atomic.Int64  // messages of ours that the peer refused after they had gone

	// Of messages in mux frames: see mux.go and request.go.
	stage   stage
	owed    atomic.Int64 // bytes of window that handlers have given back and the connection has not been told of
	timer   *time.Timer  // tells it at last
	unsent  atomic.Int64 // bytes of answers that wait to be written
	granted int64        // of the budget
	held    int64        // of granted: what lies in memory

	mu         sync.Mutex
	in         int64 // messages and requests received
	queues     []*queue
	partials   map[uint32]*inbound // messages of which more is to come, by id
	requests   map[uint32]*inbound // not answered yet, by id
	spareCalls []*Call             // see newCall
	counters   map[string]*Counters
	tallied    bool          // the hub has added them up from here on; it is told once, because it locks us while it has its own lock
	news       chan struct{} // closed when shared changes; nil while nobody waits
	drained    func()        // called once when the session has ended and nothing waits
	ended      bool
}

// Conn is what a session's connection does for its messages: package peerconn has it.
type Conn interface {
	Submit(o *peer.Outgoing, payload []byte) error
	Abandon(o *peer.Outgoing, code emp.Code)
	OutErr(o *peer.Outgoing) error
	Respond(id uint32, status emp.Status, payload []byte, credit int64)
	Credit(n int64)
	// Do calls f with the machine, locked: whatever depends on what has come until now is decided and done in one. f must not block.
	Do(f func(m *peer.Machine))
}

// queue is the messages of one type that wait. Pending grows while the worker handles what it took before.
type queue struct {
	t        *Type
	counters *Counters
	pending  []*[]byte  // records, in order: see put
	large    []*inbound // the payloads of those records that have theirs elsewhere, in order
	usual    int        // how long the last of those was: the next begins with a buffer of that length
	running  bool

	requests []*inbound
	handling int      // workers of requests
	serving  int      // those of them that have one
	spare    *Message // for the next of them
}

// A record of a queue is its length (4, little-endian), how it came (1), its version (1), and the payload.
const recordHead = 6

// How a message came.
const (
	viaMux   = 1 << iota // in mux frames: its cost is owed to the peer
	viaLarge             // its payload is the next of queue.large
)

// put adds a record.
func (q *queue) put(via, version byte, payload []byte) {
	n := len(q.pending)
	if n == 0 || len(*q.pending[n-1]) >= fullBuffer {
		q.pending = append(q.pending, buffers.Get().(*[]byte))
		n++
	}
	record(q.pending[n-1], via, version, payload)
}

func record(to *[]byte, via, version byte, payload []byte) {
	b := binary.LittleEndian.AppendUint32(*to, uint32(len(payload)))
	*to = append(append(b, via, version), payload...)
}

// stage is messages of one type that the read loop has taken and not handed over: a lock for each would cost a good part of what a small message costs. It belongs to the
// read loop.
type stage struct {
	q     *queue
	buf   *[]byte // records
	count int64
	room  int64 // of the budget: what was taken for messages to come
}

// buffers holds the byte buffers of queues while they are empty, so that idle peers hold none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const (
	fullBuffer = 128 << 10 // from here on records go to another buffer
	maxPooled  = 2 << 20   // the largest buffer that is kept for others
)

// NewPeer returns the application side of a new session.
func (h *Hub) NewPeer(owner any) *Peer {
	return &Peer{hub: h, Owner: owner}
}

// Opened gives the session its connection, before anything comes over it.
func (p *Peer) Opened(c *peerconn.Conn) { p.conn = c }

// SetShared says what the peer accepts now.
func (p *Peer) SetShared(s peer.Shared) {
	p.shared.Store(&s)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.news != nil {
		close(p.news)
		p.news = nil
	}
}

// Target is how the peer accepts a type: in mux frames, or in plain frames under an extended id. The zero Target is not at all.
type Target struct {
	Mux      peer.MuxOffer // its Type is nil if it is not in mux frames
	Plain    uint8
	Counters *Counters // of the type with this peer
}

// Target returns how the peer accepts a type: a type that is offered in mux frames travels in nothing else (EMP/1 section 6.2).
func (p *Peer) Target(name string) Target {
	s := p.shared.Load()
	if s == nil {
		return Target{}
	}
	e := p.found.Load()
	if e != nil && e.shared == s && e.name == name {
		return e.Target
	}
	var t Target
	if o, ok := s.Mux[name]; ok {
		t.Mux = o
	} else if t.Plain = s.Plain[name]; t.Plain == 0 {
		return t
	}
	t.Counters = p.Counters(name)
	if e == nil || e.shared != s { // the first name that is asked for: most peers are sent one type
		p.found.Store(&found{s, name, t})
	}
	return t
}

// found is an answer of Target, good for one state of things: looking a name up in a map took two fifths of sending a small message.
type found struct {
	shared *peer.Shared
	name   string
	Target
}

// Counters returns the counters of a type with this peer.
func (p *Peer) Counters(name string) *Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.countersOf(name)
}

// countersOf does what Counters says. The lock is held.
func (p *Peer) countersOf(name string) *Counters {
	c := p.counters[name]
	if c == nil {
		if p.counters == nil {
			p.counters = make(map[string]*Counters)
		}
		c = new(Counters)
		p.counters[name] = c
		if !p.tallied && !p.ended { // what is counted afterwards is not added up: nothing would take the peer out again
			p.tallied = true
			p.hub.counted(p)
		}
	}
	return c
}

// Received returns how many messages and requests have come whole.
func (p *Peer) Received() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in
}

// SentMessages returns how many messages were sent, of all types.
func (p *Peer) SentMessages() (n int64) {
	for _, c := range p.AllCounters() {
		n += c.MessagesOut.Load()
	}
	return n
}

// AllCounters returns the counters of every type that was sent or received with this peer, by name.
func (p *Peer) AllCounters() map[string]*Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counters)
}

// Shared returns what the peer accepts, nil before its type exchange; it must not be changed.
func (p *Peer) Shared() *peer.Shared { return p.shared.Load() }

// Settled waits while the peer has offered mux frames and our own offer is on its way to it: what it accepts is about to change.
func (p *Peer) Settled(ctx context.Context) error {
	for {
		p.mu.Lock()
		s := p.shared.Load()
		if s == nil || s.Mux != nil || !s.Offers || p.ended || !p.hub.Offers() {
			p.mu.Unlock()
			return nil
		}
		if p.news == nil {
			p.news = make(chan struct{})
		}
		news := p.news
		p.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// App queues one message; see peerconn.Session. Messages of types that are gone have no effect.
func (p *Peer) App(id uint8, payload []byte) {
	t := p.hub.byID[id].Load()
	if t == nil {
		return
	}
	if t.spec.OnlyRequests {
		p.Counters(t.name).RefusedIn.Add(1) // there is no way to say so in a plain frame
		return
	}
	p.used.Add(int64(len(payload)) + messageOverhead)
	p.mu.Lock()
	p.handOver()
	p.in++
	p.queueOf(t).put(0, 0, payload)
	p.mu.Unlock()
}

// queueOf returns the queue of a type. Only the read loop calls it; p.mu is held.
func (p *Peer) queueOf(t *Type) *queue {
	for _, q := range p.queues {
		if q.t == t {
			return q
		}
	}
	p.queues = slices.DeleteFunc(p.queues, func(q *queue) bool { return q != p.stage.q && q.idle() && q.gone() }) // what is staged may still be for one that looks idle
	q := &queue{t: t, counters: p.countersOf(t.name)}
	p.queues = append(p.queues, q)
	return q
}

// AppsDone starts the workers of the queues that have something, and waits while the peer's queues are full; see peerconn.Session.
func (p *Peer) AppsDone() {
	p.Start()
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

// Start hands over what has come, and starts the workers of what waits. It does not block.
func (p *Peer) Start() {
	p.mu.Lock()
	p.handOver()
	p.start()
	p.mu.Unlock()
}

// handOver moves what is staged to its queue. The lock is held.
func (p *Peer) handOver() {
	s := &p.stage
	if s.count > 0 {
		s.q.pending = append(s.q.pending, s.buf)
		p.in += s.count
		s.buf, s.count = nil, 0
	}
	if s.room > 0 {
		p.drop(s.room)
		s.room = 0
	}
}

// start starts the workers of what waits. The lock is held.
func (p *Peer) start() {
	for _, q := range p.queues {
		if len(q.pending) > 0 && !q.running {
			q.running = true
			p.begin()
			go p.work(q)
		}
		for len(q.requests) > q.handling-q.serving && q.handling < max(q.t.spec.Parallel, 1) && p.mayHandle() {
			q.handling++
			p.begin()
			go p.workRequests(q)
		}
	}
}

// begin counts a worker, of which the first makes what workers need. The lock is held.
func (p *Peer) begin() {
	if p.ctx == nil {
		p.ctx, p.stop = context.WithCancel(p.hub.end)
		p.roomCh = make(chan struct{}, 1)
	}
	p.hub.group.Add(1)
}

// idle reports whether nothing waits and nothing is handled. The lock is held.
func (q *queue) idle() bool {
	return !q.running && len(q.pending) == 0 && len(q.requests) == 0 && q.handling == 0
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
	if p.news != nil {
		close(p.news) // none will come
		p.news = nil
	}
	if p.stop != nil {
		p.stop()
	}
	p.dropAll()
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
		if !q.idle() {
			return nil
		}
	}
	p.returnBudget(0)
	f := p.drained
	p.drained = nil
	if !p.tallied {
		return f
	}
	return func() {
		p.hub.retire(p)
		if f != nil {
			f()
		}
	}
}

// work handles what is in q until it is empty.
func (p *Peer) work(q *queue) {
	defer p.hub.group.Done()
	m := &Message{Peer: p, Type: q.t}
	if q.t.feed != nil {
		m.taken = make(chan struct{})
	}
	ctx := newHandlerContext(p)
	var batch []*[]byte
	var large []*inbound
	for {
		p.mu.Lock()
		clear(batch)
		if cap(batch) > cap(q.pending) && len(q.pending) == 0 {
			q.pending = batch[:0] // so that the next need not make a list
		}
		if len(q.pending) == 0 {
			q.running = false
			f := p.takeDrained()
			p.mu.Unlock()
			p.flushCredit()
			if f != nil {
				f()
			}
			return
		}
		batch, q.pending = q.pending, nil
		large, q.large = q.large, nil
		p.mu.Unlock()
		for _, buf := range batch {
			var held int64 // by what came in mux frames: the buffer is given back as a whole
			for b := *buf; len(b) > 0; {
				n, via := int(binary.LittleEndian.Uint32(b)), b[4]
				m.Version, m.Payload = b[5], b[recordHead:recordHead+n:recordHead+n]
				b = b[recordHead+n:]
				switch {
				case via == 0:
					ctx = p.handle(ctx, q, m)
					m.Stream = nil
					p.release(n)
				case via&viaLarge != 0:
					in := large[0]
					large = large[1:]
					ctx = p.handleLarge(ctx, q, m, in)
				default:
					ctx = p.handle(ctx, q, m)
					m.Stream = nil
					held += cost(uint32(n))
					p.owe(cost(uint32(n)))
				}
			}
			recycle(buf)
			if held > 0 {
				p.mu.Lock()
				p.drop(held)
				p.mu.Unlock()
			}
		}
	}
}

// gone reports whether the queue's type has been withdrawn: nothing more comes for it.
func (q *queue) gone() bool { return q.t.Gone() }

// handled counts a message of n bytes.
func (q *queue) handled(n int, err error) {
	q.counters.MessagesIn.Add(1)
	q.counters.BytesIn.Add(int64(n))
	if err != nil {
		q.counters.Errors.Add(1)
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
func (p *Peer) handle(ctx *handlerContext, q *queue, m *Message) *handlerContext {
	t := q.t
	if t.Gone() {
		return ctx // taken back while the message waited (EMP/1 section 7.1)
	}
	if t.handler == nil {
		select {
		case t.feed <- m:
			<-m.taken
			q.handled(len(m.Payload), nil)
		case <-t.withdrawn:
		}
		return ctx
	}
	if ctx.parent == p.ctx && p.ctx.Err() != nil {
		ctx.parent = p.hub.end
	}
	if t.spec.Streams && m.Stream == nil {
		m.Stream = whole(m.Payload)
	}
	err := t.handler(ctx, m)
	n := len(m.Payload)
	if m.Stream != nil {
		n = m.Stream.taken()
	}
	q.handled(n, err)
	if err != nil {
		t.failures.tell(p.hub.o.Logger, "message handler failed", t.name, err)
	}
	if ctx.finish() {
		return newHandlerContext(p) // somebody may still hold the old one
	}
	return ctx
}

// Done says that the caller of Take no longer uses the message.
func (m *Message) Done() { m.taken <- struct{}{} }
