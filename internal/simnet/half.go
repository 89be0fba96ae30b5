package simnet

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// segmentBytes is how much a write puts under one time of arrival, so that a large write arrives bit by bit.
const segmentBytes = 4 << 10

// mark is a run of bytes in flight and the time at which its last byte arrives.
type mark struct {
	n  int
	at time.Time
}

// half is one direction of a connection. All waiting is done on cond, never on the mutex, which is what lets a synctest bubble
// see that nobody runs.
type half struct {
	link     Link
	up, down *pacer // of the hosts at the two ends; nil without limits

	mu   sync.Mutex
	cond *sync.Cond
	rng  *rand.Rand

	buf      []byte // bytes between write and read, from head on
	head     int
	marks    []mark // covers buf[head:], in order
	markHead int
	linkFree time.Time // when the link has sent all that was written

	delivered int64 // bytes read so far
	cutAt     int64 // the direction breaks here; 0 for never

	unsent  int       // see Conn.KeepUnsent; 0 is any number
	writing bool      // one Write at a time, as in TCP
	fin     bool      // the writer sends no more
	finAt   time.Time // when the reader learns of it
	wclosed bool      // the writer has closed its end
	rclosed bool      // the reader has closed its end
	goneAt  time.Time // when the writer learns of that
	broken  bool      // cut

	readDeadline, writeDeadline time.Time
	readTimer, writeTimer       *time.Timer // wake those who wait
}

func newHalf(l Link, rng *rand.Rand) *half {
	h := &half{link: l, rng: rng}
	h.cond = sync.NewCond(&h.mu)
	if l.CutWithin > 0 {
		h.cutAt = 1 + rng.Int64N(l.CutWithin)
	}
	return h
}

func (h *half) waiting() int { return len(h.buf) - h.head }

// arrived returns how many bytes can be read now, and when the next ones come if none can.
func (h *half) arrived(now time.Time) (n int, next time.Time) {
	for _, m := range h.marks[h.markHead:] {
		if now.Before(m.at) {
			return n, m.at
		}
		n += m.n
	}
	return n, time.Time{}
}

// wait sleeps until something changes or the earliest of the given times, of which zero ones mean never. The mutex must be held.
func (h *half) wait(timer **time.Timer, times ...time.Time) {
	var until time.Time
	for _, t := range times {
		if !t.IsZero() && (until.IsZero() || t.Before(until)) {
			until = t
		}
	}
	if !until.IsZero() {
		d := time.Until(until)
		if *timer == nil {
			*timer = time.AfterFunc(d, func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.cond.Broadcast()
			})
		} else {
			(*timer).Reset(d)
		}
	}
	h.cond.Wait()
}

func past(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

// read returns cut if this read was the one that broke the connection: then both halves must be broken.
func (h *half) read(p []byte) (n int, cut bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case h.rclosed:
			return 0, false, net.ErrClosed
		case past(h.readDeadline, now):
			return 0, false, os.ErrDeadlineExceeded
		case h.broken:
			return 0, false, syscall.ECONNRESET
		case len(p) == 0:
			return 0, false, nil
		}
		ready, next := h.arrived(now)
		if ready > 0 {
			ready, next = h.down.most(now, ready)
		}
		if ready > 0 {
			n = min(ready, len(p))
			if h.link.Split > 0 {
				n = min(n, 1+h.rng.IntN(h.link.Split))
			}
			if h.cutAt > 0 {
				n = int(min(int64(n), h.cutAt-h.delivered))
			}
			h.down.take(now, n)
			copy(p, h.buf[h.head:h.head+n])
			h.take(n)
			h.delivered += int64(n)
			h.cond.Broadcast()
			return n, h.cutAt > 0 && h.delivered == h.cutAt, nil
		}
		if h.fin && h.waiting() == 0 {
			if !now.Before(h.finAt) {
				return 0, false, io.EOF
			}
			next = h.finAt
		}
		h.wait(&h.readTimer, next, h.readDeadline)
	}
}

// take drops the first n bytes, which have arrived.
func (h *half) take(n int) {
	h.head += n
	for n > 0 {
		m := &h.marks[h.markHead]
		k := min(n, m.n)
		n -= k
		if m.n -= k; m.n == 0 {
			h.markHead++
		}
	}
	if h.head == len(h.buf) {
		h.buf, h.head, h.marks, h.markHead = h.buf[:0], 0, h.marks[:0], 0
	}
}

// sentTo returns when fewer than n bytes will be left that the link has not sent; the zero time if that is so now. Part of a segment counts as all of it.
func (h *half) sentTo(n int, now time.Time) time.Time {
	for i := len(h.marks) - 1; i >= h.markHead; i-- {
		m := h.marks[i]
		sent := m.at.Add(-h.link.Latency)
		if !now.Before(sent) {
			break
		}
		if n -= m.n; n <= 0 {
			return sent
		}
	}
	return time.Time{}
}

// put appends bytes under their time of arrival. Room for them must be there.
func (h *half) put(now time.Time, p []byte) {
	// Moving what waits is worth it once it is less than what has been read: what is written in crumbs would otherwise move a full buffer each time.
	if h.head > len(h.buf)/2 && len(h.buf)+len(p) > cap(h.buf) {
		h.buf, h.head = h.buf[:copy(h.buf, h.buf[h.head:])], 0
		h.marks, h.markHead = h.marks[:copy(h.marks, h.marks[h.markHead:])], 0
	}
	h.buf = append(h.buf, p...)
	if h.link.Rate <= 0 && h.link.Latency <= 0 && (h.up == nil || h.up.rate <= 0) {
		h.mark(len(p), time.Time{})
		return
	}
	if h.linkFree.Before(now) {
		h.linkFree = now
	}
	for len(p) > 0 {
		k := min(len(p), segmentBytes)
		h.linkFree = h.linkFree.Add(h.link.sendTime(k))
		if at := h.up.take(now, k); h.linkFree.Before(at) {
			h.linkFree = at
		}
		h.mark(k, h.linkFree.Add(h.link.Latency))
		p = p[k:]
	}
}

// mark notes when the next n bytes arrive.
func (h *half) mark(n int, at time.Time) {
	if last := len(h.marks) - 1; last >= h.markHead && h.marks[last].at.Equal(at) {
		h.marks[last].n += n
		return
	}
	h.marks = append(h.marks, mark{n, at})
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	mine := false // it is our turn to write
	defer func() {
		if mine {
			h.writing = false
			h.cond.Broadcast()
		}
	}()
	for {
		now := time.Now()
		if err := h.writeErr(now); err != nil {
			return n, err
		}
		var sent time.Time
		if mine || !h.writing {
			mine, h.writing = true, true
			if h.unsent > 0 && len(p) > 0 {
				sent = h.sentTo(h.unsent, now)
			}
			switch room := h.link.Buffer - h.waiting(); {
			case h.rclosed: // what still travels to a closed end is lost
				n, p = n+len(p), nil
			case room > 0 && len(p) > 0 && sent.IsZero():
				k := min(room, len(p))
				h.put(now, p[:k])
				n, p = n+k, p[k:]
				h.cond.Broadcast()
			}
			if len(p) == 0 {
				return n, nil
			}
		}
		h.waitToWrite(sent)
	}
}

// waitToWrite waits until something changes, the write deadline or, if it is not zero, until sent. Several may wait, for different times.
func (h *half) waitToWrite(sent time.Time) {
	if !sent.IsZero() {
		var mine *time.Timer
		defer func() { mine.Stop() }()
		h.wait(&mine, sent, h.writeDeadline)
		return
	}
	h.wait(&h.writeTimer, h.writeDeadline)
}

// writeErr returns why nothing can be written.
func (h *half) writeErr(now time.Time) error {
	switch {
	case h.wclosed:
		return net.ErrClosed
	case past(h.writeDeadline, now):
		return os.ErrDeadlineExceeded
	case h.broken:
		return syscall.ECONNRESET
	case h.fin:
		return syscall.EPIPE
	case h.rclosed && !now.Before(h.goneAt):
		return syscall.EPIPE
	}
	return nil
}

// awaitRoom waits until less than half of what may lie unsent does, and there is room in the buffer, or until a write would fail.
func (h *half) awaitRoom() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		now := time.Now()
		var sent time.Time
		if h.unsent > 0 {
			sent = h.sentTo(max(h.unsent/2, 1), now)
		}
		if h.writeErr(now) != nil || h.rclosed || sent.IsZero() && h.waiting() < h.link.Buffer {
			return
		}
		h.waitToWrite(sent)
	}
}

// closeWrite lets the reader have what is in flight, and then the end of the stream.
func (h *half) closeWrite(closed bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wclosed {
		return net.ErrClosed
	}
	h.wclosed = closed
	if !h.fin {
		h.fin = true
		h.finAt = time.Now().Add(h.link.Latency) // or once all that was written has been read, if that is later
	}
	if closed {
		stop(h.writeTimer)
	}
	h.cond.Broadcast()
	return nil
}

// closeRead drops what is in flight to the reader, who has gone.
func (h *half) closeRead() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rclosed = true
	h.goneAt = time.Now().Add(h.link.Latency)
	h.drop()
	stop(h.readTimer)
	h.cond.Broadcast()
}

// cut loses what is in flight.
func (h *half) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = true
	h.drop()
	h.cond.Broadcast()
}

func (h *half) drop() { h.buf, h.head, h.marks, h.markHead = nil, 0, nil, 0 }

func stop(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

func (h *half) setReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rclosed {
		return net.ErrClosed
	}
	h.readDeadline = t
	h.cond.Broadcast()
	return nil
}

func (h *half) setWriteDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wclosed {
		return net.ErrClosed
	}
	h.writeDeadline = t
	h.cond.Broadcast()
	return nil
}
