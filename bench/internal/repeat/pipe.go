package repeat

import (
	"io"
	"net"
	"sync"
	"time"
)

// Pipe returns both ends of a connection in memory. Unlike net.Pipe, and like a socket, it takes what is written before it is read. Deadlines mean nothing.
func Pipe() (a, b net.Conn) {
	x, y := newHalf(), newHalf()
	return &end{in: x, out: y}, &end{in: y, out: x}
}

// Both runs the two sides of a handshake over a new pipe, the accepting one on a goroutine of its own.
func Both(dial, accept func(net.Conn) error) error {
	a, b := Pipe()
	done := make(chan error, 1)
	go func() { // ends with its handshake, or with the pipe
		err := accept(b)
		if err != nil {
			b.Close()
		}
		done <- err
	}()
	err := dial(a)
	if err != nil {
		a.Close()
	}
	if e := <-done; e != nil {
		return e
	}
	return err
}

type half struct {
	mu     sync.Mutex
	some   sync.Cond
	b      []byte
	at     int
	closed bool
}

func newHalf() *half {
	h := &half{b: make([]byte, 0, 2048)}
	h.some.L = &h.mu
	return h
}

type end struct{ in, out *half }

func (e *end) Read(p []byte) (int, error) {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.at == len(h.b) && !h.closed {
		h.some.Wait()
	}
	if h.at == len(h.b) {
		return 0, io.EOF
	}
	n := copy(p, h.b[h.at:])
	if h.at += n; h.at == len(h.b) {
		h.b, h.at = h.b[:0], 0
	}
	return n, nil
}

func (e *end) Write(p []byte) (int, error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, io.ErrClosedPipe
	}
	h.b = append(h.b, p...)
	h.some.Signal()
	return len(p), nil
}

func (e *end) Close() error {
	for _, h := range []*half{e.in, e.out} {
		h.mu.Lock()
		h.closed = true
		h.some.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

type nowhere struct{}

func (nowhere) Network() string { return "memory" }
func (nowhere) String() string  { return "memory" }

func (*end) LocalAddr() net.Addr              { return nowhere{} }
func (*end) RemoteAddr() net.Addr             { return nowhere{} }
func (*end) SetDeadline(time.Time) error      { return nil }
func (*end) SetReadDeadline(time.Time) error  { return nil }
func (*end) SetWriteDeadline(time.Time) error { return nil }
