package messaging

import (
	"sync"
	"time"

	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// inbound is a message or request of which more is to come, or a large one that waits.
type inbound struct {
	id, total uint32
	t         *Type
	p         *Peer
	version   uint8
	replyMax  uint32
	isRequest bool
	started   bool            // a request: its handler has begun
	ctx       *handlerContext // its, then
	buf       *[]byte         // what has come, if it does not go to stream
	charged   int64           // what it holds of the budget
	stream    *Stream         // of a type with a stream handler
}

// inbounds holds requests that were answered. Messages are not given back: a stream may be held by whoever reads it.
var inbounds = sync.Pool{New: func() any { return new(inbound) }}

// creditDelay is the longest that window which handlers have given back is kept from the peer, while more is likely to follow at once: a frame for every small
// message would cost as much as the message.
const creditDelay = time.Millisecond

func cost(total uint32) int64 { return int64(total) + wire.MessageCost }

// Mux takes an event of mux frames; see peerconn.Session.
func (p *Peer) Mux(m *peer.Machine, ev *peer.MuxEvent) {
	switch ev.Kind {
	case peer.MuxData:
		p.data(m, ev)
	case peer.MuxDropped:
		p.mu.Lock()
		if in := p.partials[ev.ID]; in != nil {
			p.forget(in, ErrAbandoned)
		}
		p.mu.Unlock()
	case peer.MuxCancelled:
		p.cancelled(m, ev.ID)
	case peer.MuxReply:
		ev.Call.Owner.(*Call).reply(ev)
	case peer.MuxCallEnded:
		ev.Call.Owner.(*Call).ended(ev)
	case peer.MuxRefused:
		p.Refused.Add(1)
		if ev.Refusee != nil {
			p.Counters(ev.Refusee.Name()).RefusedOut.Add(1)
		}
	}
}

// refuse answers STOP. An error has closed the session, which the caller of Mux sees. The lock is held, unless t is nil.
func (p *Peer) refuse(m *peer.Machine, ev *peer.MuxEvent, t *Type, code emp.Code) {
	if t != nil {
		p.countersOf(t.name).RefusedIn.Add(1)
	}
	m.RefuseMessage(ev.ID, ev.Total, code)
}

// answer answers a request that no handler sees.
func (p *Peer) answer(m *peer.Machine, ev *peer.MuxEvent, s emp.Status) {
	var o peer.Outgoing
	m.Respond(&o, ev.ID, s, nil) // without payload it is dealt with at once; and gives back the cost of one that is not whole
	if ev.Last {
		m.Credit(cost(ev.Total))
	}
}

// data takes a fragment.
func (p *Peer) data(m *peer.Machine, ev *peer.MuxEvent) {
	if !ev.First {
		p.more(m, ev)
		return
	}
	t := p.hub.typeOf(ev.Type)
	switch {
	case t == nil && ev.Request: // withdrawn, which the machine has not announced yet (EMP/1 section 7.5)
		p.answer(m, ev, emp.StatusNoHandler)
		return
	case t == nil:
		p.refuse(m, ev, nil, emp.CodeWithdrawn)
		return
	case ev.Request && t.spec.Requests == nil:
		p.answer(m, ev, emp.StatusNoHandler)
		return
	case !ev.Request && t.spec.OnlyRequests:
		p.mu.Lock()
		p.refuse(m, ev, t, emp.CodeRefused)
		p.mu.Unlock()
		return
	}
	if ev.Last && !ev.Request { // the usual case
		if p.stageMessage(t, ev) {
			return
		}
		p.mu.Lock()
		p.refuse(m, ev, t, emp.CodeBusy)
		p.mu.Unlock()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handOver() // the order of a type's messages is that of their coming
	if !p.hold(wire.MessageCost) {
		p.refuse(m, ev, t, emp.CodeBusy)
		return
	}
	in := inbounds.Get().(*inbound)
	*in = inbound{id: ev.ID, total: ev.Total, t: t, p: p, version: ev.Version, replyMax: ev.ReplyMax, isRequest: ev.Request, charged: wire.MessageCost}
	if t.spec.Streams && !ev.Request {
		in.stream = newStream(in)
	}
	if !p.add(in, ev.Data) {
		p.freeAll(in)
		p.refuse(m, ev, t, emp.CodeBusy)
		return
	}
	if in.stream != nil { // its handler begins at once
		q := p.queueOf(t)
		q.put(viaMux|viaLarge, ev.Version, nil)
		q.large = append(q.large, in)
	}
	if ev.Last {
		p.complete(in)
		return
	}
	if p.partials == nil {
		p.partials = make(map[uint32]*inbound)
	}
	p.partials[ev.ID] = in
	p.queueOf(t)  // by which the hub knows where to look for it: see dropPartials
	if t.Gone() { // perhaps too late for dropPartials to have found it
		p.dropWithdrawn(m, in)
	}
}

// stageUnit is how much of the budget is taken at once for messages to come.
const stageUnit = 4 << 10

// stageMessage takes a whole message; false if the budget does not allow it.
func (p *Peer) stageMessage(t *Type, ev *peer.MuxEvent) bool {
	s, n := &p.stage, cost(ev.Total)
	if s.q == nil || s.q.t != t || s.room < n || s.buf != nil && len(*s.buf) >= fullBuffer {
		p.mu.Lock()
		p.handOver()
		s.q = p.queueOf(t)
		ok := s.room >= n
		if !ok {
			want := max(n, stageUnit) - s.room
			if ok = p.hold(want); !ok {
				want = n - s.room
				ok = p.hold(want)
			}
			if ok {
				s.room += want
			}
		}
		p.mu.Unlock()
		if !ok {
			return false
		}
	}
	if s.buf == nil {
		s.buf = buffers.Get().(*[]byte)
	}
	record(s.buf, viaMux, ev.Version, ev.Data)
	s.count++
	s.room -= n
	return true
}

// more takes a later fragment.
func (p *Peer) more(m *peer.Machine, ev *peer.MuxEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handOver()
	in := p.partials[ev.ID]
	if in == nil {
		return // it was refused a moment ago
	}
	if !p.add(in, ev.Data) {
		p.forget(in, ErrBusy)
		p.refuse(m, ev, in.t, emp.CodeBusy)
		return
	}
	if ev.Last {
		delete(p.partials, in.id)
		p.complete(in)
	}
}

// complete hands on what has come whole. The lock is held.
func (p *Peer) complete(in *inbound) {
	p.in++
	switch {
	case in.isRequest:
		p.request(in)
	case in.stream != nil:
		in.stream.finish(nil)
	default:
		q := p.queueOf(in.t)
		q.put(viaMux|viaLarge, in.version, nil)
		q.large = append(q.large, in)
		q.usual = int(in.total)
	}
}

// Sizes of the buffers that large messages are put together in. One that is full makes way for one of four times its size, or for the message, so that memory is taken as bytes arrive and what is
// moved is a third of the message.
const (
	firstBuffer = 1 << 10 // what a small request takes
	growth      = 4
	bufferSizes = 15 // up to 16 MiB, each twice the one before
)

var assembly [bufferSizes]sync.Pool

func getBuffer(class int) *[]byte {
	if b, ok := assembly[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, firstBuffer<<class)
	return &b
}

func putBuffer(b *[]byte) {
	for class := range bufferSizes {
		if cap(*b) == firstBuffer<<class {
			*b = (*b)[:0]
			assembly[class].Put(b)
			return
		}
	}
}

// add adds data to what has come of a message; false if the budget does not allow it. The lock is held.
func (p *Peer) add(in *inbound, data []byte) bool {
	if in.stream != nil {
		if !p.hold(in.stream.need(len(data))) {
			return false
		}
		in.stream.add(data)
		return true
	}
	have := len(deref(in.buf))
	if in.buf == nil || have+len(data) > cap(*in.buf) {
		want := have + len(data)
		if want < int(in.total) { // more will come: four times as much as has, or as much as the last time
			want = min(max(growth*have, p.queueOf(in.t).usual, want), int(in.total))
		}
		class := 0
		for firstBuffer<<class < want {
			class++
		}
		size := int64(firstBuffer) << class
		old := int64(cap(deref(in.buf)))
		if !p.hold(size - old) { // both are there while one is copied into the other
			return false
		}
		b := getBuffer(class)
		*b = append(*b, deref(in.buf)...)
		if in.buf != nil {
			putBuffer(in.buf)
		}
		in.buf = b
		in.charged += size - old
	}
	*in.buf = append(*in.buf, data...)
	return true
}

func deref(b *[]byte) []byte {
	if b == nil {
		return nil
	}
	return *b
}

// freeBuffer gives the buffer of a message back. The lock is held.
func (p *Peer) freeBuffer(in *inbound) {
	if in.buf == nil {
		return
	}
	n := int64(cap(*in.buf))
	putBuffer(in.buf)
	in.buf = nil
	in.charged -= n
	p.drop(n)
}

// freeAll gives back all memory of a message. The lock is held.
func (p *Peer) freeAll(in *inbound) {
	p.freeBuffer(in)
	p.drop(in.charged)
	in.charged = 0
}

// forget drops a message that will not be completed. The lock is held.
func (p *Peer) forget(in *inbound, why error) {
	delete(p.partials, in.id)
	if in.stream != nil {
		in.stream.finish(why) // its handler gives back the rest
		return
	}
	p.freeAll(in)
}

// dropAll drops what can no longer be completed or answered, because the session has ended. The lock is held.
func (p *Peer) dropAll() {
	for _, in := range p.partials {
		p.forget(in, ErrSessionEnded)
	}
	for _, q := range p.queues {
		for _, in := range q.requests {
			p.freeAll(in)
			delete(p.requests, in.id)
		}
		q.requests = nil
	}
	if p.timer != nil {
		p.timer.Stop()
	}
}

// dropPartials refuses what is on its way of a type that was withdrawn (EMP/1 section 7.5).
func (t *Type) dropPartials() {
	for _, p := range t.hub.peers() {
		p.mu.Lock()
		some := p.hasPartials(t)
		p.mu.Unlock()
		if !some {
			continue
		}
		// Their ends, or RESETs, may come until the connection is locked.
		p.conn.Do(func(m *peer.Machine) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, in := range p.partials {
				if in.t == t {
					p.dropWithdrawn(m, in)
				}
			}
		})
	}
}

// hasPartials reports whether some of a message of a type has come, and not all. The lock is held.
func (p *Peer) hasPartials(t *Type) bool {
	for _, in := range p.partials {
		if in.t == t {
			return true
		}
	}
	return false
}

// dropWithdrawn refuses one message of which some has come and whose type was withdrawn. The lock is held.
func (p *Peer) dropWithdrawn(m *peer.Machine, in *inbound) {
	p.forget(in, ErrClosed)
	if in.isRequest {
		var o peer.Outgoing
		m.Respond(&o, in.id, emp.StatusNoHandler, nil) // gives the cost back as well; an error has closed the session
	} else {
		m.RefuseMessage(in.id, in.total, emp.CodeWithdrawn)
	}
}

// handleLarge gives one message with a buffer of its own, or a stream, to the application.
func (p *Peer) handleLarge(ctx *handlerContext, q *queue, m *Message, in *inbound) *handlerContext {
	if in.stream == nil {
		m.Payload = *in.buf
		ctx = p.handle(ctx, q, m)
		m.Payload = nil
		p.mu.Lock()
		p.freeAll(in)
		p.mu.Unlock()
		p.owe(cost(in.total))
		return ctx
	}
	m.Stream = in.stream
	ctx = p.handle(ctx, q, m)
	m.Stream = nil
	p.closeStream(in)
	return ctx
}

// owe gives n bytes of window back to the peer: at once if it is much, else with more of it, but soon.
func (p *Peer) owe(n int64) {
	switch owed := p.owed.Add(n); {
	case owed >= p.hub.creditSoon.Load():
		p.flushCredit()
	case owed == n:
		p.armCredit()
	}
}

// armCredit sees to it that what is owed is told soon.
func (p *Peer) armCredit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if p.timer == nil {
		p.timer = time.AfterFunc(creditDelay, p.flushCredit)
	} else {
		p.timer.Reset(creditDelay)
	}
}

// flushCredit tells the connection what is owed.
func (p *Peer) flushCredit() {
	if n := p.owed.Swap(0); n > 0 {
		p.conn.Credit(n)
	}
}
