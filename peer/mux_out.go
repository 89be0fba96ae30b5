package peer

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
)

// outState is how far an outgoing message has come.
type outState uint8

const (
	outNew     outState = iota
	outWaiting          // for window, for its type, for room, or for an answer to an earlier request
	outOpen             // its beginning is in the outbox, its end is not
	outSent             // a request that is wholly in the outbox and waits for its answer
	outDone             // nothing more happens to it
)

// Outgoing is a message, a request or an answer on its way to the peer. It belongs to the machine from Submit or Respond until it is done; the owner reads its
// exported fields and state then. A message is done once its last byte stands in what [Machine.AppendOutput] returned or is about to; a request once its answer is
// complete.
type Outgoing struct {
	Type     *MuxType
	Version  uint8
	Priority int8   // those with a higher one are opened first
	Total    uint32 // bytes in all
	Request  bool
	ReplyMax uint32 // of a request: the longest answer that is taken, bytes; above [wire.MaxMessage] counts as that
	Owner    any    // whatever the owner needs to know it again
	Code     emp.Code

	data    []byte // not taken yet; the owner's memory
	id      uint32
	sent    uint32
	startAt int64 // where in the queue of whole frames the one that opened it ends
	state   outState
	noted   bool
	left    bool // to itself: nobody waits for it any more
	err     error

	answer               bool
	status               emp.Status
	begun                bool // an answer: its first frame has gone
	replyBegun, discard  bool
	replyTotal, replyGot uint32
}

// Done reports whether nothing more happens to the message.
func (o *Outgoing) Done() bool { return o.state == outDone }

// Hungry reports whether the machine has taken all the data that it was given, and more is to come: see [Machine.Supply].
func (o *Outgoing) Hungry() bool { return o.state == outOpen && len(o.data) == 0 && o.sent < o.Total }

// TailBytes is the most that [Machine.TakeTail] takes.
const TailBytes = 128 << 10

// Tail returns how many bytes are left of a message of which the machine has all the rest, if they are no more than [TailBytes]; else 0. It is reported by
// [Machine.MuxChanged] once.
func (o *Outgoing) Tail() int {
	if o.state != outOpen || o.answer || len(o.data) > TailBytes || uint32(len(o.data)) != o.Total-o.sent {
		return 0
	}
	return len(o.data)
}

// TakeTail copies what is left of a message, see [Outgoing.Tail], behind buf, which from then on takes the place of the owner's memory. It returns what it has appended to.
func (m *Machine) TakeTail(o *Outgoing, buf []byte) []byte {
	n := len(buf)
	buf = append(buf, o.data...)
	o.data, o.left = buf[n:], true
	return buf
}

// Err returns why the message failed: [ErrRefused] (see Code), [ErrTypeNotShared], [ErrVersionNotShared], [ErrMessageTooLarge], [ErrNotOpen].
func (o *Outgoing) Err() error { return o.err }

// fail ends a message with an error.
func (x *muxState) fail(o *Outgoing, err error) {
	if o.state == outOpen && o.Type != nil && o.Type.open == o {
		o.Type.open = nil
	}
	o.state, o.err, o.data = outDone, err, nil
	x.note(o)
}

// check says whether the peer takes a message of n bytes.
func (t *MuxType) check(version uint8, n uint32) error {
	switch {
	case t == nil || !t.offered:
		return ErrTypeNotShared
	case version < t.min || version > t.max:
		return fmt.Errorf("%w: version %d, it receives %d to %d", ErrVersionNotShared, version, t.min, t.max)
	case n > t.maxLen:
		return fmt.Errorf("%w: %d bytes, it receives %d", ErrMessageTooLarge, n, t.maxLen)
	}
	return nil
}

// SendMessage puts a message into the outbox if that can be done at once: false means that it must wait its turn, by [Machine.Submit]. payload is copied. The errors are
// [ErrNotOpen], [ErrTypeNotShared], [ErrVersionNotShared] and [ErrMessageTooLarge]; nothing has been written then.
func (m *Machine) SendMessage(t *MuxType, version uint8, priority int8, payload []byte) (sent bool, err error) {
	x := m.mux
	if x == nil || !x.active {
		return false, ErrNotOpen
	}
	if uint64(len(payload)) > wire.MaxMessage {
		return false, fmt.Errorf("%w: %d bytes", ErrMessageTooLarge, len(payload))
	}
	total := uint32(len(payload))
	if err := t.check(version, total); err != nil {
		return false, err
	}
	if total > wire.MaxFragment || t.open != nil || messageCost(total) > x.spend || !m.appRoom(int(total)) || x.ahead(t, priority) {
		return false, nil
	}
	if x.nextOut > math.MaxUint32 {
		return false, m.closeOn(ErrIDsExhausted)
	}
	head := m.openFrame(total)
	m.app = append(emp.AppendMessageHead(m.app, uint32(x.nextOut), t.id, version, total), payload...)
	m.closeFrame(head)
	x.useID(t)
	x.spend -= messageCost(total)
	return true, nil
}

// ahead reports whether one of those that wait must go before a new message: one of its type, or one that is no less urgent and would go if there were window and room.
func (x *muxState) ahead(t *MuxType, priority int8) bool {
	if len(x.waiting) == 0 {
		return false
	}
	x.pass++
	for _, o := range x.waiting {
		switch {
		case o.Type == t:
			return true
		case o.Type.passed == x.pass: // it waits behind another of its type
		case o.Type.open != nil, o.Request && len(x.calls) >= x.they.Requests(), o.Priority < priority:
			o.Type.passed = x.pass
		default:
			return true
		}
	}
	return false
}

// Submit takes a message or request that is to go when its turn comes. data is its beginning or all of it, at least one byte unless Total is 0; it is not copied,
// and must not change until o is reported by [Machine.MuxChanged], or, of a request, its answer or its end is told. The errors are those of SendMessage, and say that nothing has been taken.
func (m *Machine) Submit(o *Outgoing, data []byte) error {
	x := m.mux
	if x == nil || !x.active {
		return ErrNotOpen
	}
	if err := o.Type.check(o.Version, o.Total); err != nil {
		return err
	}
	if o.Request && x.they.Requests() == 0 {
		return ErrUnsupported // it takes no requests at all
	}
	if o.Total > 0 && len(data) == 0 || uint64(len(data)) > uint64(o.Total) {
		panic("peer: Submit wants some of the message, and no more than it has")
	}
	o.ReplyMax = min(o.ReplyMax, wire.MaxMessage)
	o.state, o.data = outWaiting, data
	// It goes before the first that is less urgent, but never before one of its type: their order stays (EMP/1 section 7.4).
	at := slices.IndexFunc(x.waiting, func(w *Outgoing) bool { return w.Priority < o.Priority })
	if at < 0 {
		at = len(x.waiting)
	}
	for i := len(x.waiting); i > at; i-- {
		if x.waiting[i-1].Type == o.Type {
			at = i
		}
	}
	x.waiting = slices.Insert(x.waiting, at, o)
	m.openWaiting()
	return nil
}

// Supply gives more of a message that is hungry.
func (m *Machine) Supply(o *Outgoing, data []byte) {
	if o.Hungry() {
		o.data = data[:min(len(data), int(o.Total-o.sent))]
	}
}

// Abandon gives a message, request or answer up: it is not written any further, and the owner's memory is not used any more. The peer is told if it has seen any of it. A request that has gone as a
// whole counts until the peer confirms (EMP/1 section 7.5). An error has closed the session.
func (m *Machine) Abandon(o *Outgoing, code emp.Code) error {
	x := m.mux
	if x == nil || !x.active {
		return nil
	}
	switch o.state {
	case outWaiting:
		x.waiting = slices.DeleteFunc(x.waiting, func(w *Outgoing) bool { return w == o })
		o.state, o.data = outDone, nil
		m.openWaiting() // what it held up may go
	case outOpen:
		m.dropStream(o)
		if o.answer {
			x.forget(o.id)
		} else if o.Request {
			delete(x.calls, o.id)
		}
		o.state = outDone
		if err := m.closeOn(m.resetOut(o, code)); err != nil {
			return err
		}
		m.openWaiting()
	case outSent:
		if o.discard {
			return nil
		}
		o.discard = true
		if o.replyBegun { // a RESET would be confirmed by all the rest of the answer, STOP is by RESET (EMP/1 section 7.5)
			return m.closeOn(m.sendStop(o.id, true, code))
		}
		return m.closeOn(m.resetOut(o, code))
	}
	return nil
}

// openWaiting opens what can be opened: in order, but for those that wait for their own type, or for answers, which hold up nobody else (EMP/1 section 7.3).
func (m *Machine) openWaiting() {
	x := m.mux
	if len(x.waiting) == 0 || !x.active {
		return
	}
	x.pass++
	kept := x.waiting[:0]
	held := false // by the window or for want of room, which holds up all that come later
	exhausted := false
	for _, o := range x.waiting {
		t := o.Type
		if err := t.check(o.Version, o.Total); err != nil { // the type was withdrawn, or offered with a smaller range, while it waited
			x.fail(o, err)
			continue
		}
		switch {
		case held || t.passed == x.pass:
		case t.open != nil, o.Request && len(x.calls) >= x.they.Requests():
			t.passed = x.pass
		case messageCost(o.Total) > x.spend, !m.appRoom(min(len(o.data), wire.MaxFragment)):
			held = true
		case x.nextOut > math.MaxUint32: // EMP/1 section 7.2: after the last id the session closes
			held, exhausted = true, true
		default:
			m.openOut(o)
			continue
		}
		kept = append(kept, o)
	}
	clear(x.waiting[len(kept):])
	if x.waiting = kept; exhausted {
		m.Close(ErrIDsExhausted)
	}
}

// openOut puts the first frame of a message into the queue of whole frames: ids are in the order of these.
func (m *Machine) openOut(o *Outgoing) {
	x := m.mux
	o.id = x.useID(o.Type)
	x.spend -= messageCost(o.Total)
	n := min(len(o.data), wire.MaxFragment)
	head := m.openFrame(uint32(n))
	if o.Request {
		m.app = emp.AppendRequestHead(m.app, o.id, o.Type.id, o.Version, o.Total, o.ReplyMax)
	} else {
		m.app = emp.AppendMessageHead(m.app, o.id, o.Type.id, o.Version, o.Total)
	}
	m.app = append(m.app, o.data[:n]...)
	m.closeFrame(head)
	o.startAt = m.appEnd
	o.sent, o.data = uint32(n), o.data[n:]
	if o.Request {
		if x.calls == nil {
			x.calls = make(map[uint32]*Outgoing)
		}
		x.calls[o.id] = o
	}
	if o.sent == o.Total {
		x.finish(o)
		return
	}
	o.state = outOpen
	o.Type.open = o
	x.streams = append(x.streams, o)
	if len(o.data) == 0 {
		x.note(o) // hungry
	}
}

// recentIDs is for how many of our messages it is known of which type they were, though they have gone: STOP may come for them.
const recentIDs = 32

// useID takes the next id for a message of a type.
func (x *muxState) useID(t *MuxType) uint32 {
	if x.recent == nil {
		x.recent = new([recentIDs]*MuxType)
	}
	id := uint32(x.nextOut)
	x.recent[id%recentIDs] = t
	x.nextOut++
	return id
}

// refused tells that one of our messages was refused for which nobody waits any more.
func (x *muxState) refused(id uint32, code emp.Code) {
	ev := x.event(MuxRefused, id)
	ev.Code = code
	if x.nextOut-uint64(id) <= recentIDs {
		ev.Refusee = x.recent[id%recentIDs]
	}
}

// finish notes that the last byte of a message has gone.
func (x *muxState) finish(o *Outgoing) {
	o.data = nil
	if o.Type != nil && o.Type.open == o {
		o.Type.open = nil
	}
	if o.Request {
		o.state = outSent
		return
	}
	if o.answer {
		x.forget(o.id)
	}
	o.state = outDone
	x.note(o)
}

// dropStream takes a message out of those that are being sent; its type is free for the next.
func (m *Machine) dropStream(o *Outgoing) {
	x := m.mux
	i := slices.Index(x.streams, o)
	if i < 0 {
		return
	}
	x.removeStream(i)
	if o.answer {
		x.unsent -= int(o.Total - o.sent)
	}
	if o.Type != nil && o.Type.open == o {
		o.Type.open = nil
	}
	o.data = nil
}

func (x *muxState) removeStream(i int) {
	x.streams = slices.Delete(x.streams, i, i+1)
	if x.turn > i+1 {
		x.turn--
	}
}

// resetOut says RESET of a message, request or answer of ours: behind its first frame, wherever that is.
func (m *Machine) resetOut(o *Outgoing, code emp.Code) error {
	if o.answer || m.appGone() >= o.startAt {
		return m.sendReset(o.id, o.answer, code)
	}
	head := m.openFrame(0)
	m.app = emp.AppendReset(m.app, o.id, false, code)
	m.closeFrame(head)
	return nil
}

// The queue of whole frames: app. Messages of one fragment, and the first fragments of larger ones, in the order of their ids.

// appGone returns how many bytes of the queue have ever been taken from it.
func (m *Machine) appGone() int64 { return m.appEnd - int64(m.AppQueued()) }

// nextQueued returns how many bytes the first frame of the queue takes. There must be one.
func (m *Machine) nextQueued() int {
	return classic.LengthBytes + int(binary.BigEndian.Uint32(m.app[m.appHead:]))
}

// appRoom reports whether a message with n bytes in its first frame may join the queue.
func (m *Machine) appRoom(n int) bool {
	q := m.AppQueued()
	return q == 0 || q+n <= m.cfg.SendQueueBytes
}

// openFrame begins a mux frame with n bytes of data in the queue and returns where; closeFrame ends it.
func (m *Machine) openFrame(n uint32) int {
	m.makeRoom(int(n) + muxOverhead)
	head := len(m.app)
	m.app = appendMuxHead(m.app, m.mux.they.Mux())
	return head
}

func (m *Machine) closeFrame(head int) {
	putLength(m.app, head)
	m.appEnd += int64(len(m.app) - head)
}

// makeRoom moves what waits in the queue to its beginning if n more bytes would not fit behind it.
func (m *Machine) makeRoom(n int) {
	if m.appHead > 0 && len(m.app)+n > cap(m.app) {
		m.app = m.app[:copy(m.app, m.app[m.appHead:])]
		m.appHead = 0
	}
}

const (
	muxHead     = classic.LengthBytes + 2        // length, id 20, extended id
	muxOverhead = muxHead + emp.MaxHeadBytes     // the most that a mux frame has beside its fragment
	muxUnit     = wire.MaxFragment + muxOverhead // the most that has its turn at once: EMP/1 section 7.4
)

// appendMuxHead begins a mux frame of which the length is not known yet.
func appendMuxHead(dst []byte, id uint8) []byte {
	return append(dst, 0, 0, 0, 0, classic.IDExtended, id)
}

// putLength puts the length of what was appended since into the frame that begins at head.
func putLength(b []byte, head int) {
	binary.BigEndian.PutUint32(b[head:], uint32(len(b)-head-classic.LengthBytes))
}

// muxOutput reports whether there is a mux frame to write that is not in a queue: credit, or a fragment.
func (m *Machine) muxOutput() bool {
	x := m.mux
	return x != nil && (x.owed > 0 || m.anyStream())
}

// anyStream reports whether one of those being sent has a fragment that may go.
func (m *Machine) anyStream() bool {
	if m.mux == nil {
		return false
	}
	return slices.ContainsFunc(m.mux.streams, m.streamReady)
}

// streamReady reports whether a fragment may go: there is data, and the frame that opened the message has gone.
func (m *Machine) streamReady(o *Outgoing) bool {
	return len(o.data) > 0 && (o.answer || m.appGone() >= o.startAt)
}

// nextFragment returns how long the next frame of a stream will be at most.
func nextFragment(o *Outgoing) int { return muxOverhead + min(len(o.data), wire.MaxFragment) }

// appendTurns appends application output in turns, as far as it fits into limit bytes: a run of what is whole, which is the queue and short answers, then a fragment of each
// message that is being sent (EMP/1 section 7.4). What is whole and comes when its turn has passed unused need not wait for the next. If nothing fits, the first goes
// all the same.
func (m *Machine) appendTurns(dst []byte, limit int) []byte {
	x := m.mux
	from := len(dst)
	for idle := 0; idle <= len(x.streams); {
		room := limit - (len(dst) - from)
		took := len(dst)
		if x.turn > len(x.streams) {
			x.turn = 0
		}
		if x.turn == 0 || x.missed && m.anyWhole() {
			var full bool
			if dst, full = m.appendWhole(dst, min(room, muxUnit), len(dst) == from); full && len(dst) == took {
				return dst
			}
			x.missed = len(dst) == took
			x.turn = max(x.turn, 1)
		} else {
			turn := x.turn
			o := x.streams[turn-1]
			x.turn++
			if !m.streamReady(o) {
				idle++
				continue
			}
			if len(dst) > from && nextFragment(o) > room {
				x.turn = turn // it is still its turn
				return dst
			}
			dst = m.appendFragment(dst, o)
			if o.sent == o.Total {
				x.removeStream(turn - 1)
				x.finish(o)
				m.openWaiting()
			} else if len(o.data) == 0 || o.Tail() > 0 && o.Tail()+wire.MaxFragment > TailBytes {
				x.note(o) // hungry, or with the tail beginning
			}
		}
		if idle++; len(dst) > took {
			idle = 0
		}
	}
	return dst
}

// isShort reports whether an answer goes in one frame, and has not gone.
func (o *Outgoing) isShort() bool { return o.answer && !o.begun && o.Total <= wire.MaxFragment }

// anyWhole reports whether there is something that appendWhole appends.
func (m *Machine) anyWhole() bool {
	return m.AppQueued() > 0 || slices.ContainsFunc(m.mux.streams, (*Outgoing).isShort)
}

// appendWhole appends whole frames of the queue and short answers as far as they fit into limit bytes, and if force is set the first in any case; full says that there are more.
func (m *Machine) appendWhole(dst []byte, limit int, force bool) (_ []byte, full bool) {
	x := m.mux
	from := len(dst)
	if m.AppQueued() > 0 {
		if !force && m.nextQueued() > limit {
			return dst, true
		}
		if dst = m.appendQueued(dst, limit); m.AppQueued() > 0 {
			return dst, true
		}
	}
	for i := 0; i < len(x.streams); {
		o := x.streams[i]
		if !o.isShort() {
			i++
			continue
		}
		if n := len(dst) - from; n+nextFragment(o) > limit && (n > 0 || !force) {
			return dst, true
		}
		dst = m.appendFragment(dst, o)
		x.removeStream(i)
		x.finish(o)
	}
	return dst, false
}

// appendFragment appends the next fragment of a message that is being sent.
func (m *Machine) appendFragment(dst []byte, o *Outgoing) []byte {
	n := min(len(o.data), wire.MaxFragment)
	head := len(dst)
	dst = appendMuxHead(dst, m.mux.they.Mux())
	if o.answer && !o.begun {
		o.begun = true
		dst = emp.AppendResponseHead(dst, o.id, o.status, o.Total)
	} else {
		dst = emp.AppendFragmentHead(dst, o.id, o.answer)
	}
	dst = append(dst, o.data[:n]...)
	putLength(dst, head)
	o.data = o.data[n:]
	o.sent += uint32(n)
	m.streamed += int64(len(dst) - head)
	if o.answer {
		m.mux.unsent -= n
	}
	return dst
}

// appendQueued appends whole frames of the queue as far as they fit into limit bytes; the first goes all the same.
func (m *Machine) appendQueued(dst []byte, limit int) []byte {
	wait := m.app[m.appHead:]
	take := len(wait)
	if take > limit {
		take = m.nextQueued()
		for next := take; next <= limit; {
			take = next
			next += classic.LengthBytes + int(binary.BigEndian.Uint32(wait[take:]))
		}
	}
	dst = append(dst, wait[:take]...)
	if m.appHead += take; m.appHead == len(m.app) {
		m.app, m.appHead = m.app[:0], 0
	}
	return dst
}
