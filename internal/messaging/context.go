package messaging

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// handlerContext is the context of handlers. It costs nothing until somebody asks whether or when it ends; from then on it ends after the handler timeout,
// with the session, or when the handler returns.
type handlerContext struct {
	p      *Peer
	parent context.Context // the session's while it lasts, else the torrent's: a message that came whole is still worth handling

	armed    atomic.Bool // somebody has asked
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
	c.armed.Store(true)
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

// ended reports whether the context has ended, though nobody may have asked.
func (c *handlerContext) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// finish ends the context because the handler has returned, and reports whether anybody had asked for it, so that it must not be used again.
func (c *handlerContext) finish() bool {
	if !c.armed.Load() {
		return false
	}
	c.mu.Lock()
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
