package peerconn

import (
	"context"
	"errors"
	"io"

	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire/emp"
)

// This file sends messages in mux frames (EMP/1 section 7). What may go when is the machine's decision; here callers wait for it.

// An Owner has submitted an outgoing message. OutChanged is called with the connection locked when the message is done, has failed, or wants more data; it must not block
// and must not call the connection.
type Owner interface{ OutChanged(o *peer.Outgoing) }

// note tells the owners of outgoing messages what has changed. The lock is held.
func (c *Conn) note() {
	for _, o := range c.m.MuxChanged() {
		o.Owner.(Owner).OutChanged(o)
	}
}

// relock locks the connection for one whose message may have changed. Nothing of the message is then left to be told, so that it may be given back.
func (c *Conn) relock() {
	c.mu.Lock()
	c.note()
}

// sending is a message whose sender waits. It is its own owner.
type sending struct {
	c     *Conn
	out   peer.Outgoing
	ready chan struct{}   // capacity 1
	tail  *blockbuf.Large // the end of a large message, for which its sender does not wait
	watch bool            // somebody waits, and has not seen yet that it need not
}

// maxSpare is how many sendings a connection keeps for others. They are not shared by connections: a channel that was made in one synctest bubble must not be used in
// another.
const maxSpare = 4

// newSending returns one that the caller releases. The lock is held.
func (c *Conn) newSending() *sending {
	n := len(c.spare)
	if n == 0 {
		return &sending{ready: make(chan struct{}, 1)}
	}
	s := c.spare[n-1]
	c.spare = c.spare[:n-1]
	return s
}

// release takes s back. The machine must have forgotten it. The lock is held.
func (c *Conn) release(s *sending) {
	if s.tail != nil {
		s.tail.Release()
		s.tail = nil
	}
	if len(c.spare) == maxSpare {
		return
	}
	select {
	case <-s.ready:
	default:
	}
	s.out, s.c, s.watch = peer.Outgoing{}, nil, false
	c.spare = append(c.spare, s)
}

// takeTail lets the sender of a message go on whose end is near: the next message of its type can be there when this one has gone, and the socket need not wait for a
// goroutine to wake up. It reports whether it did. The lock is held.
func (s *sending) takeTail() bool {
	if s.c == nil || s.tail != nil || s.out.Tail() == 0 {
		return false
	}
	s.tail = blockbuf.GetLarge()
	s.c.m.TakeTail(&s.out, s.tail.Bytes()[:0])
	return true
}

// OutChanged implements [Owner].
func (s *sending) OutChanged(*peer.Outgoing) {
	switch {
	case s.tail != nil:
		if s.out.Done() && !s.watch {
			s.c.release(s)
		}
		return
	case !s.out.Done():
		s.takeTail()
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// muxErr puts an error of the machine into the words of the connection. The lock is held.
func (c *Conn) muxErr(err error) error {
	if errors.Is(err, peer.ErrNotOpen) || err != nil && c.m.Phase() == peer.PhaseClosed {
		return c.closedErr()
	}
	return err
}

// push writes what there is at once, from the calling goroutine, if nobody else writes and the socket takes it: whoever waits for an answer should not wait for
// another goroutine first. The lock is held, and released while writing.
func (c *Conn) push() {
	if !c.writing && !c.corked && c.netErr == nil && c.reader.parks() && c.m.HasOutput() && !c.m.HasUploads() {
		buf := blockbuf.GetLarge()
		c.answer(buf.Bytes()[:0])
		buf.Release()
	}
	c.after()
}

// SendMux sends one message in mux frames. It waits for the peer's window, for its turn, and, if the message is large, until no more than [peer.TailBytes] of it are
// left, which are then copied: payload is not used any more. The errors are ctx's, those of [peer.Machine.SendMessage], a [*RefusedError], and [net.ErrClosed] wrapped.
func (c *Conn) SendMux(ctx context.Context, t *peer.MuxType, version uint8, priority int8, payload []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.mu.Lock()
	if sent, err := c.m.SendMessage(t, version, priority, payload); sent || err != nil {
		if c.kick(); err != nil {
			c.after() // the ids may have run out, which closes the session
		}
		err = c.muxErr(err)
		c.mu.Unlock()
		return err
	}
	s := c.newSending()
	s.c = c
	s.out = peer.Outgoing{Type: t, Version: version, Priority: priority, Total: uint32(len(payload)), Owner: s}
	if err := c.m.Submit(&s.out, payload); err != nil {
		err = c.muxErr(err)
		c.release(s)
		c.mu.Unlock()
		return err
	}
	c.after()
	if s.takeTail() {
		c.mu.Unlock()
		return nil
	}
	return c.await(ctx, s)
}

// TrySendMux is SendMux that does not wait: it reports false if the message cannot go now.
func (c *Conn) TrySendMux(t *peer.MuxType, version uint8, priority int8, payload []byte) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent, err := c.m.SendMessage(t, version, priority, payload)
	if c.kick(); err != nil {
		c.after() // as in SendMux
	}
	return sent, c.muxErr(err)
}

// await waits until a message is done or only its tail is left, and releases s. The lock is held, and released.
func (c *Conn) await(ctx context.Context, s *sending) error {
	s.watch = true
	for !s.out.Done() && s.tail == nil {
		c.mu.Unlock()
		select {
		case <-s.ready:
			c.relock()
		case <-ctx.Done():
			if c.relock(); s.out.Done() || s.tail != nil {
				break
			}
			c.m.Abandon(&s.out, emp.CodeCancelled) // an error has closed the session, which after sees
			c.after()
			c.release(s)
			c.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	if s.watch = false; s.tail != nil && !s.out.Done() {
		c.mu.Unlock()
		return nil // OutChanged releases it
	}
	err := c.outErr(&s.out)
	c.release(s)
	c.mu.Unlock()
	return err
}

// A RefusedError says that the peer has refused a message, and why.
type RefusedError struct{ Code emp.Code }

// Error implements error.
func (e *RefusedError) Error() string { return "refused by the peer: " + e.Code.String() }

// Unwrap returns [peer.ErrRefused].
func (e *RefusedError) Unwrap() error { return peer.ErrRefused }

// outErr returns why a message failed. The lock is held.
func (c *Conn) outErr(o *peer.Outgoing) error {
	if errors.Is(o.Err(), peer.ErrRefused) {
		return &RefusedError{o.Code}
	}
	return c.muxErr(o.Err())
}

// OutErr returns why an outgoing message that is done failed.
func (c *Conn) OutErr(o *peer.Outgoing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outErr(o)
}

// Submit hands a request to the machine, whose answer comes by Session.Mux; o.Owner must be an [Owner]. payload is not used any more once an answer has come or Abandon
// was called.
func (c *Conn) Submit(o *peer.Outgoing, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.m.Submit(o, payload); err != nil {
		return c.muxErr(err)
	}
	c.push()
	return nil
}

// Abandon gives an outgoing message or request up; see [peer.Machine.Abandon].
func (c *Conn) Abandon(o *peer.Outgoing, code emp.Code) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Abandon(o, code) // an error has closed the session, which after sees
	c.after()
}

// Respond answers a request of the peer, see [peer.Machine.Respond], gives credit bytes of window back, and waits until the answer is on its way or the session has ended.
func (c *Conn) Respond(id uint32, status emp.Status, payload []byte, credit int64) {
	c.mu.Lock()
	c.m.Credit(credit)
	s := c.newSending()
	s.out.Owner = s
	done, _ := c.m.Respond(&s.out, id, status, payload) // an error has closed the session, which after sees
	c.push()
	for !done && !s.out.Done() {
		c.mu.Unlock()
		<-s.ready // the end of the session comes here too
		c.relock()
	}
	c.release(s)
	c.mu.Unlock()
}

// Credit gives the peer n bytes of window back; see [peer.Machine.Credit].
func (c *Conn) Credit(n int64) {
	c.mu.Lock()
	c.m.Credit(n)
	c.kick()
	c.mu.Unlock()
}

// A MuxWriter writes one message bit by bit. Its total length was said at the beginning. It belongs to one goroutine.
type MuxWriter struct {
	c    *Conn
	ctx  context.Context
	s    *sending // nil once it has ended
	left int64
	sub  bool
	err  error
}

// NewMuxWriter begins a message of total bytes. Nothing is sent before the first Write, or Close of an empty one.
func (c *Conn) NewMuxWriter(ctx context.Context, t *peer.MuxType, version uint8, priority int8, total uint32) *MuxWriter {
	c.mu.Lock()
	s := c.newSending()
	c.mu.Unlock()
	s.out = peer.Outgoing{Type: t, Version: version, Priority: priority, Total: total, Owner: s}
	return &MuxWriter{c: c, ctx: ctx, s: s, left: int64(total)}
}

// ErrMessageLength: more, or less, was written than the message was said to be long.
var ErrMessageLength = errors.New("not as long as the message was said to be")

// Write implements [io.Writer]: it returns when p is on its way. Its errors are those of [Conn.SendMux], and [ErrMessageLength].
func (w *MuxWriter) Write(p []byte) (int, error) {
	switch {
	case w.err != nil:
		return 0, w.err
	case w.s == nil:
		return 0, io.ErrClosedPipe
	case int64(len(p)) > w.left:
		return 0, w.end(ErrMessageLength)
	case len(p) == 0:
		return 0, nil
	case w.ctx.Err() != nil:
		return 0, w.end(context.Cause(w.ctx))
	}
	if err := w.feed(p); err != nil {
		return 0, err
	}
	w.left -= int64(len(p))
	return len(p), nil
}

// feed hands p to the machine and waits until it has been taken.
func (w *MuxWriter) feed(p []byte) error {
	c, o := w.c, &w.s.out
	c.mu.Lock()
	if !w.sub {
		if err := c.m.Submit(o, p); err != nil {
			err = c.muxErr(err)
			c.mu.Unlock()
			return w.end(err)
		}
		w.sub = true
	} else {
		c.m.Supply(o, p)
	}
	c.after()
	for !o.Done() && !o.Hungry() {
		c.mu.Unlock()
		select {
		case <-w.s.ready:
		case <-w.ctx.Done():
			return w.end(context.Cause(w.ctx))
		}
		c.relock()
	}
	err := c.outErr(o)
	c.mu.Unlock()
	if err != nil {
		return w.end(err)
	}
	return nil
}

// end gives the message up because of err.
func (w *MuxWriter) end(err error) error {
	w.err = err
	w.c.relock()
	if w.sub && !w.s.out.Done() {
		w.c.m.Abandon(&w.s.out, emp.CodeCancelled) // an error has closed the session, which after sees
		w.c.after()
	}
	w.c.release(w.s)
	w.c.mu.Unlock()
	w.s = nil
	return err
}

// Close ends the message. If less was written than it is long, or the context has ended, the peer is told that it is abandoned, and the error says so.
func (w *MuxWriter) Close() error {
	switch {
	case w.err != nil || w.s == nil:
		return w.err
	case w.left > 0:
		return w.end(ErrMessageLength)
	case !w.sub: // an empty one
		if err := w.feed(nil); err != nil {
			return err
		}
	}
	w.c.mu.Lock()
	w.c.release(w.s)
	w.c.mu.Unlock()
	w.s = nil
	return nil
}
