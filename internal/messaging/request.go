package messaging

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// request queues a request that has come whole. The lock is held.
func (p *Peer) request(in *inbound) {
	if p.requests == nil {
		p.requests = make(map[uint32]*inbound)
	}
	p.requests[in.id] = in
	q := p.queueOf(in.t)
	q.requests = append(q.requests, in)
}

// cancelled stops the handler of a request that the peer no longer waits for; one that no handler has seen is confirmed at once (EMP/1 section 7.5).
func (p *Peer) cancelled(m *peer.Machine, id uint32) {
	p.mu.Lock()
	in := p.requests[id]
	if in == nil || in.started {
		if in != nil { // else its answer is about to be given, which confirms it
			in.ctx.end(context.Canceled)
		}
		p.mu.Unlock()
		return
	}
	delete(p.requests, id)
	q := p.queueOf(in.t)
	q.requests = slices.DeleteFunc(q.requests, func(o *inbound) bool { return o == in })
	p.freeAll(in)
	p.mu.Unlock()
	var o peer.Outgoing
	m.Respond(&o, id, emp.StatusAnswered, nil) // cancelled, so that it is confirmed at once; an error has closed the session
	m.Credit(cost(in.total))
}

// mayHandle reports whether another request may be handed to a handler: not while too much of the answers is unsent (EMP/1 section 7.3).
func (p *Peer) mayHandle() bool { return p.unsent.Load() <= wire.MaxUnsentResponses }

// workRequests answers requests of a queue until there are none, or too much is unsent.
func (p *Peer) workRequests(q *queue) {
	defer p.hub.group.Done()
	var m *Message
	var ctx *handlerContext
	for {
		p.mu.Lock()
		if len(q.requests) == 0 || !p.mayHandle() {
			q.handling--
			if m != nil {
				q.spare = m
			}
			f := p.takeDrained()
			p.mu.Unlock()
			if f != nil {
				f()
			}
			return
		}
		if m == nil {
			if m, q.spare = q.spare, nil; m == nil {
				m = &Message{Peer: p, Type: q.t}
			}
		}
		in := q.requests[0]
		q.requests[0] = nil
		if q.requests = q.requests[1:]; len(q.requests) == 0 && cap(q.requests) == 0 {
			q.requests = nil
		}
		if ctx == nil {
			ctx = newHandlerContext(p)
		}
		in.started, in.ctx = true, ctx
		q.serving++
		p.mu.Unlock()
		if p.serve(q, m, in) {
			ctx = nil // somebody may still hold it, or it has ended
		}
	}
}

// serve has one request answered. It reports whether its context is not to be used again.
func (p *Peer) serve(q *queue, m *Message, in *inbound) (used bool) {
	t := q.t
	m.Version, m.Payload = in.version, deref(in.buf)
	var answer []byte
	status := emp.StatusNoHandler
	if !q.gone() {
		out, err := t.spec.Requests(in.ctx, m, int(in.replyMax))
		status, answer = outcome(in.ctx, out, err)
		q.counters.RequestsIn.Add(1)
		q.counters.BytesIn.Add(int64(in.total))
		switch {
		case status == emp.StatusRefused:
			q.counters.RefusedIn.Add(1)
		case err != nil:
			q.counters.Errors.Add(1)
			if status == emp.StatusFailed && !in.ctx.ended() { // else it does what it should
				t.failures.tell(p.hub.o.Logger, "request handler failed", t.name, err)
			}
		}
	}
	m.Payload = nil
	p.mu.Lock()
	delete(p.requests, in.id) // and from now on nobody ends its context
	used = in.ctx.finish() || in.ctx.ended()
	id, credit := in.id, cost(in.total)
	// The answer may lie in the request.
	p.mu.Unlock()
	n := int64(len(answer))
	p.unsent.Add(n)
	p.conn.Respond(id, status, answer, credit)
	p.unsent.Add(-n)
	p.mu.Lock()
	q.serving--
	p.freeAll(in)
	inbounds.Put(in)
	if n > 0 {
		p.start() // others may have waited for what was unsent
	}
	p.mu.Unlock()
	return used
}

// ErrRefuse, returned by a request handler, says that it refuses to answer (status 2 of EMP/1 section 7.5).
var ErrRefuse = errors.New("request refused")

// outcome says what a handler's result is to the peer: EMP/1 section 7.5.
func outcome(ctx context.Context, out []byte, err error) (emp.Status, []byte) {
	switch {
	case err == nil:
		return emp.StatusAnswered, out
	case errors.Is(err, ErrRefuse):
		return emp.StatusRefused, nil
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return emp.StatusTimedOut, nil
	}
	return emp.StatusFailed, []byte(err.Error())
}

// Call is a request of ours that waits for its answer.
type Call struct {
	out      peer.Outgoing
	p        *Peer
	done     chan struct{} // capacity 1
	finished bool          // guarded by the connection's lock, until done
	err      error
	buf      []byte
}

// maxSpareCalls is how many calls that are over a peer keeps for others. They are not shared by peers: a channel that was made in one synctest bubble must not be used in
// another.
const maxSpareCalls = 4

// newCall returns one that is not under way.
func (p *Peer) newCall() *Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.spareCalls)
	if n == 0 {
		return &Call{p: p, done: make(chan struct{}, 1)}
	}
	c := p.spareCalls[n-1]
	p.spareCalls = p.spareCalls[:n-1]
	return c
}

// putCall takes one back that nobody else knows any more.
func (p *Peer) putCall(c *Call) {
	c.finished, c.err, c.buf = false, nil, nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.spareCalls) < maxSpareCalls {
		p.spareCalls = append(p.spareCalls, c)
	}
}

// A CallError says why a request was not answered: the status that the peer gave, or the code of its STOP or RESET.
type CallError struct {
	Status emp.Status
	Text   string   // of a handler that failed, from the peer
	Code   emp.Code // if Reset or Refused
	// Refused: the request was stopped. Reset: the answer was abandoned.
	Refused, Reset bool
}

// Error implements error.
func (e *CallError) Error() string {
	switch {
	case e.Refused:
		return fmt.Sprintf("the peer refuses the request: %v", e.Code)
	case e.Reset:
		return fmt.Sprintf("the peer has given up answering: %v", e.Code)
	case e.Text != "":
		return fmt.Sprintf("the peer answers: %v: %s", e.Status, e.Text)
	}
	return fmt.Sprintf("the peer answers: %v", e.Status)
}

// finish ends a call. The connection is locked.
func (c *Call) finish(err error) {
	if c.finished {
		return
	}
	c.finished, c.err = true, err
	c.done <- struct{}{}
}

// OutChanged implements peerconn.Owner: the request has failed before it could be answered.
func (c *Call) OutChanged(o *peer.Outgoing) {
	if o.Done() && o.Err() != nil {
		c.finish(errOutgoing)
	}
}

// errOutgoing: the connection knows why.
var errOutgoing = errors.New("not sent")

// reply takes a fragment of the answer. The connection is locked.
func (c *Call) reply(ev *peer.MuxEvent) {
	if c.finished {
		return
	}
	if ev.First {
		c.buf = append(make([]byte, 0, min(ev.Total, 4*wire.MaxFragment)), ev.Data...) // beyond that memory is taken as bytes arrive
	} else {
		c.buf = append(c.buf, ev.Data...)
	}
	if !ev.Last {
		return
	}
	if ev.Status == emp.StatusAnswered {
		c.finish(nil)
		return
	}
	e := &CallError{Status: ev.Status}
	if ev.Status == emp.StatusFailed {
		e.Text = string(c.buf)
	}
	c.finish(e)
}

// ended takes the end of a call without an answer. The connection is locked.
func (c *Call) ended(ev *peer.MuxEvent) {
	c.finish(&CallError{Status: ev.Status, Code: ev.Code, Refused: ev.Refused, Reset: !ev.Refused && ev.Status == emp.StatusAnswered})
}

// Request sends a request and waits for its answer, which is the caller's. The errors are ctx's, those of peerconn.Conn.Submit, a [*CallError], and net.ErrClosed wrapped.
func (p *Peer) Request(ctx context.Context, t Target, version uint8, priority int8, payload []byte, replyMax int) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c := p.newCall()
	c.out = peer.Outgoing{Type: t.Mux.Type, Version: version, Priority: priority, Total: uint32(len(payload)), Request: true,
		ReplyMax: uint32(min(replyMax, wire.MaxMessage)), Owner: c}
	if err := p.conn.Submit(&c.out, payload); err != nil {
		p.putCall(c)
		return nil, err
	}
	t.Counters.RequestsOut.Add(1)
	t.Counters.BytesOut.Add(int64(len(payload)))
	select {
	case <-c.done:
	case <-ctx.Done():
		p.conn.Abandon(&c.out, emp.CodeCancelled)
		select {
		case <-c.done: // it ended at the same moment
		default:
			return nil, context.Cause(ctx) // the machine keeps the call until the peer confirms
		}
	}
	buf, err := c.buf, c.err
	if err == errOutgoing {
		err = p.conn.OutErr(&c.out)
	}
	if err != nil {
		return nil, err
	}
	if buf == nil {
		buf = []byte{}
	}
	p.putCall(c)
	return buf, nil
}
