package gate

import (
	"container/heap"
	"container/list"
	"net/netip"
	"time"
)

// A verdict is what becomes of one who asked.
type verdict uint8

const (
	waiting verdict = iota
	granted
	refused  // no place in the queue, or driven out of it
	timedOut // in the queue
	stopped  // gave up, or the gate was closed
)

// A waiter stands in the queue until its verdict is another than waiting.
type waiter struct {
	verdict  verdict
	cost     float64
	seq      uint64 // of its arrival
	deadline time.Time
	src      *source
	inOrder  *list.Element // of budget.order
	inSource *list.Element // of source.waiters
	done     chan struct{} // Gate's: closed with the verdict
}

// A source is one network, or all those that found no room in the table.
type source struct {
	prefix  netip.Prefix
	shared  bool // an overflow bucket
	proven  bool
	bucket  bucket
	waiters list.List // of *waiter, in the order of their arrival

	in  *sourceHeap // which it is in; nil for a shared one without waiters
	pos int
	key time.Time // idle: when the bucket is full; parked: when it has a token
}

func (s *source) first() *waiter { return s.waiters.Front().Value.(*waiter) }

// sourceHeap is a heap of sources, the first by before at its top.
type sourceHeap struct {
	list   []*source
	before func(a, b *source) bool
}

func (h *sourceHeap) Len() int           { return len(h.list) }
func (h *sourceHeap) Less(i, j int) bool { return h.before(h.list[i], h.list[j]) }
func (h *sourceHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].pos, h.list[j].pos = i, j
}
func (h *sourceHeap) Push(x any) {
	s := x.(*source)
	s.in, s.pos = h, len(h.list)
	h.list = append(h.list, s)
}
func (h *sourceHeap) Pop() any {
	last := len(h.list) - 1
	s := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	s.in = nil
	return s
}

func earlier(a, b *source) bool { return a.key.Before(b.key) }

// nextServed is the order in which sources are served: the proven first, else by who waits longest.
func nextServed(a, b *source) bool {
	if a.proven != b.proven {
		return a.proven
	}
	return a.first().seq < b.first().seq
}

// budget decides who may go, who waits and who is turned away. It knows no clock and is not safe for concurrent use.
type budget struct {
	cfg        Config // resolved
	maxSources int
	maxProven  int

	last  time.Time // no time before this one is believed
	total bucket

	// A source is in exactly one of the heaps, and in the table unless it is shared. Idle ones have nobody waiting; the others have: parked
	// ones no token, ready ones a token, so that they wait for the total alone.
	sources             map[netip.Prefix]*source
	idle, parked, ready sourceHeap
	overflow            [2]source // of unproven and of proven sources
	spare               *source   // to be used again

	proven map[netip.Prefix]*list.Element
	recent list.List // of provenSource, the last to be proven first

	order   list.List // of *waiter: all, in the order of their arrival, which is that of their deadlines
	seq     uint64
	decided []*waiter // since the caller looked last
	stats   Stats
}

type provenSource struct {
	prefix netip.Prefix
	at     time.Time
}

func newBudget(cfg Config, maxSources, maxProven int) *budget {
	b := &budget{
		cfg: cfg, maxSources: maxSources, maxProven: maxProven,
		total:   bucket{rate: cfg.Total, burst: cfg.Total * totalBurst.Seconds()},
		sources: make(map[netip.Prefix]*source), proven: make(map[netip.Prefix]*list.Element),
		idle: sourceHeap{before: earlier}, parked: sourceHeap{before: earlier}, ready: sourceHeap{before: nextServed},
	}
	b.total.tokens = b.total.burst
	for i := range b.overflow {
		b.overflow[i] = source{shared: true, proven: i == 1, bucket: b.newBucket()}
	}
	return b
}

func (b *budget) newBucket() bucket {
	return bucket{rate: b.cfg.PerSource, burst: b.cfg.Burst, tokens: b.cfg.Burst}
}

// prefixOf returns the network that counts as one source. An address that is none is one too.
func prefixOf(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := bits6
	if a.Is4() {
		bits = bits4
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// ask asks for one to go. With the verdict waiting the waiter is returned, which is in the queue.
func (b *budget) ask(now time.Time, a netip.Addr, cost int) (*waiter, verdict) {
	now = b.advance(now)
	if a.Unmap().IsLoopback() {
		b.stats.Granted++
		return nil, granted
	}
	s := b.source(now, prefixOf(a))
	s.bucket.refill(now)
	// If the total has tokens, advance has served all who had one of their source's: nobody is overtaken.
	if b.open() && s.bucket.has(1) {
		s.bucket.take(1)
		b.total.take(float64(max(cost, 0)))
		b.stats.Granted++
		b.place(now, s)
		return nil, granted
	}
	if !b.hasRoom(now, s) {
		b.stats.Refused++
		b.place(now, s)
		return nil, refused
	}
	b.seq++
	b.stats.Waited++
	w := &waiter{cost: float64(max(cost, 0)), seq: b.seq, deadline: now.Add(b.cfg.MaxWait), src: s}
	w.inOrder, w.inSource = b.order.PushBack(w), s.waiters.PushBack(w)
	b.place(now, s)
	return w, waiting
}

// hasRoom reports whether one more of s may wait, and makes room in a full queue if s is proven. One whose turn in its own source cannot come
// in time takes no place: so a single source holds no more of the queue than Burst + MaxWait·PerSource, however often it comes.
func (b *budget) hasRoom(now time.Time, s *source) bool {
	if turn := s.bucket.until(float64(s.waiters.Len() + 1)); turn.Sub(now) > b.cfg.MaxWait {
		return false
	}
	if b.order.Len() < b.cfg.Queue {
		return true
	}
	if !s.proven {
		return false
	}
	for e := b.order.Back(); e != nil; e = e.Prev() {
		if w := e.Value.(*waiter); !w.src.proven {
			b.decide(now, w, refused)
			return true
		}
	}
	return false
}

// open reports whether the total lets the next one go, whatever it costs: a cost above the burst could never go else. It may be in debt then.
func (b *budget) open() bool { return b.total.unlimited() || b.total.tokens > 0 }

// source returns the bucket that p is counted in.
func (b *budget) source(now time.Time, p netip.Prefix) *source {
	proven := b.isProven(p)
	shared := &b.overflow[0]
	if proven {
		shared = &b.overflow[1]
	}
	if b.cfg.PerSource == 0 {
		return shared // without a limit there is nothing to count
	}
	if s := b.sources[p]; s != nil {
		return s
	}
	// A full bucket is the same as one that is made anew: only those are dropped, or who is over budget could wash itself clean by making others
	// come. Two for each new one, so that the table is as small as its use.
	for range 2 {
		if b.idle.Len() == 0 || now.Before(b.idle.list[0].key) {
			break
		}
		s := heap.Pop(&b.idle).(*source)
		delete(b.sources, s.prefix)
		b.spare = s
	}
	if len(b.sources) >= b.maxSources {
		return shared
	}
	s := b.spare
	if b.spare = nil; s == nil {
		s = new(source)
	}
	*s = source{prefix: p, proven: proven, bucket: b.newBucket()}
	s.bucket.at = now
	b.sources[p] = s
	return s
}

// place puts s in the heap where it belongs now.
func (b *budget) place(now time.Time, s *source) {
	s.bucket.refill(now)
	var to *sourceHeap
	switch {
	case s.waiters.Len() > 0:
		to, s.key = &b.parked, s.bucket.until(1)
		if s.bucket.has(1) {
			to = &b.ready
		}
	case !s.shared:
		to, s.key = &b.idle, s.bucket.until(s.bucket.burst)
	}
	if s.in == to && to != nil {
		heap.Fix(to, s.pos)
		return
	}
	if s.in != nil {
		heap.Remove(s.in, s.pos)
	}
	if to != nil {
		heap.Push(to, s)
	}
}

// decide ends the wait of w.
func (b *budget) decide(now time.Time, w *waiter, v verdict) {
	w.verdict = v
	switch v {
	case granted:
		b.stats.Granted++
		w.src.bucket.refill(now) // first, or what a full bucket did not gain would be had
		w.src.bucket.take(1)
		b.total.take(w.cost)
	case refused:
		b.stats.Refused++
	case timedOut:
		b.stats.TimedOut++
	}
	s := w.src
	b.order.Remove(w.inOrder)
	s.waiters.Remove(w.inSource)
	b.place(now, s)
	b.decided = append(b.decided, w)
}

// leave ends the wait of one who gave up.
func (b *budget) leave(now time.Time, w *waiter) {
	if now = b.advance(now); w.verdict == waiting {
		b.decide(now, w, stopped)
	}
}

// advance decides what time has brought, and returns the time that it takes for now.
func (b *budget) advance(now time.Time) time.Time {
	if now.Before(b.last) {
		now = b.last
	}
	b.last = now
	b.total.refill(now)
	for b.parked.Len() > 0 && !now.Before(b.parked.list[0].key) {
		b.place(now, b.parked.list[0])
	}
	for b.ready.Len() > 0 && b.open() {
		b.decide(now, b.ready.list[0].first(), granted)
	}
	for e := b.order.Front(); e != nil; e = b.order.Front() {
		w := e.Value.(*waiter)
		if now.Before(w.deadline) {
			break
		}
		b.decide(now, w, timedOut)
	}
	return now
}

// next returns when advance has something to decide, the zero time if nobody waits.
func (b *budget) next() time.Time {
	e := b.order.Front()
	if e == nil {
		return time.Time{}
	}
	at := e.Value.(*waiter).deadline
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if b.parked.Len() > 0 {
		sooner(b.parked.list[0].key)
	}
	if b.ready.Len() > 0 { // tokens are gathered for a while, or a busy gate would set its timer for each one
		sooner(b.total.until(b.total.rate * gather.Seconds()))
	}
	return at
}

// prove notes that the source of a has completed a veiled hello.
func (b *budget) prove(now time.Time, a netip.Addr) {
	now = b.advance(now)
	if a.Unmap().IsLoopback() {
		return
	}
	p := prefixOf(a)
	if e := b.proven[p]; e != nil {
		e.Value = provenSource{p, now}
		b.recent.MoveToFront(e)
		return
	}
	for len(b.proven) >= b.maxProven {
		b.unprove(b.recent.Back())
	}
	b.proven[p] = b.recent.PushFront(provenSource{p, now})
	b.setProven(p, true)
}

// isProven reports whether p goes first.
func (b *budget) isProven(p netip.Prefix) bool {
	e := b.proven[p]
	if e == nil {
		return false
	}
	if b.last.Sub(e.Value.(provenSource).at) >= provenFor {
		b.unprove(e)
		return false
	}
	return true
}

func (b *budget) unprove(e *list.Element) {
	p := b.recent.Remove(e).(provenSource).prefix
	delete(b.proven, p)
	b.setProven(p, false)
}

func (b *budget) setProven(p netip.Prefix, proven bool) {
	if s := b.sources[p]; s != nil {
		s.proven = proven
		if s.in != nil {
			heap.Fix(s.in, s.pos)
		}
	}
}
