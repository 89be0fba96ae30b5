package peer

import (
	"math"

	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// incoming is a message of the peer of which more fragments come.
type incoming struct {
	id, total, got uint32
	typ            uint16
	version        uint8
	request        bool
	discard        bool // refused, or answered already: the rest is read past, and its cost has been given back
}

// served is a request of the peer that is not answered yet, so that it counts (EMP/1 section 7.3).
type served struct {
	replyMax  uint32
	cancelled bool      // the peer no longer waits: RESET with RESPONSE is owed
	past      bool      // its rest was RESET while the answer is under way: it does not count any more
	out       *Outgoing // the answer, once there is one
}

func messageCost(total uint32) int64 { return int64(total) + wire.MessageCost }

func (m *Machine) muxError(code error, format string, args ...any) error {
	return m.protocolError(code, wire.KindExtended, format, args...)
}

// handleMux reads one mux frame (EMP/1 section 7.2).
func (m *Machine) handleMux(payload []byte) error {
	x := m.mux
	if x == nil || !x.active {
		return m.muxError(ErrTooEarly, "a mux frame before both exchanges")
	}
	f := &x.frame
	if err := f.Parse(payload); err != nil {
		return m.muxError(ErrBadFrame, "%v", err)
	}
	switch f.Kind {
	case emp.Data:
		switch {
		case f.Response:
			return m.muxReply(f)
		case f.First:
			return m.muxFirst(f)
		}
		return m.muxFragment(f)
	case emp.Credit:
		return m.muxCredit(f)
	case emp.Reset:
		if f.Response {
			return m.muxReplyReset(f)
		}
		return m.muxReset(f)
	case emp.Stop:
		if f.Response {
			return m.muxReplyStop(f)
		}
		return m.muxStop(f)
	}
	return m.quiet() // EMP/1 section 7.2: kinds 4 to 7 are ignored
}

// event returns the scratch event, which is then told.
func (x *muxState) event(k MuxEventKind, id uint32) *MuxEvent {
	x.hasEv = true
	x.ev = MuxEvent{Kind: k, ID: id}
	return &x.ev
}

// ourType returns what we offer under an id, and whether it was ever offered in this session.
func (m *Machine) ourType(id uint32) (*OurType, bool) {
	x, use := m.mux, m.mux.we
	if id >= uint32(len(use.Types)) || id/64 >= uint32(len(x.offered)) || x.offered[id/64]>>(id%64)&1 == 0 {
		return nil, false
	}
	return &use.Types[id], true
}

// muxFirst opens a message or a request of the peer: EMP/1 sections 7.2 to 7.4.
func (m *Machine) muxFirst(f *emp.Frame) error {
	x := m.mux
	if uint64(f.ID) != x.nextIn {
		return m.muxError(ErrBadOrder, "id %d opened, the next one is %d", f.ID, x.nextIn)
	}
	t, ever := m.ourType(f.Type)
	if !ever || f.Version < t.MinVersion || f.Version > t.MaxVersion {
		return m.muxError(ErrTypeNeverOffered, "type %d, version %d", f.Type, f.Version)
	}
	if f.Total > t.MaxLen {
		return m.muxError(ErrMessageTooLarge, "%d bytes of type %d, the limit is %d", f.Total, f.Type, t.MaxLen)
	}
	if x.opened[f.Type/64]>>(f.Type%64)&1 != 0 {
		return m.muxError(ErrBadOrder, "id %d opened while another message of type %d is open", f.ID, f.Type)
	}
	cost := messageCost(f.Total)
	if cost > x.window {
		return m.muxError(ErrWindowExceeded, "id %d costs %d bytes, the window has %d", f.ID, cost, x.window)
	}
	x.nextIn++
	x.window -= cost
	discard := false
	switch {
	case !t.Offered && f.Request: // withdrawn: EMP/1 section 7.5
		discard = true
		x.owed += cost
		if err := m.sendStatus(f.ID, emp.StatusNoHandler); err != nil {
			return err
		}
	case !t.Offered:
		discard = true
		x.owed += cost
		if err := m.sendStop(f.ID, false, emp.CodeWithdrawn); err != nil {
			return err
		}
	case f.Request && len(x.served)-x.past >= x.requests: // EMP/1 section 7.3: above "req"
		discard = true
		x.owed += cost
		if err := m.sendStatus(f.ID, emp.StatusBusy); err != nil {
			return err
		}
	case f.Request:
		if x.served == nil {
			x.served = make(map[uint32]served)
		}
		x.served[f.ID] = served{replyMax: min(f.ReplyMax, wire.MaxMessage)}
	}
	last := len(f.Data) == int(f.Total)
	if !last {
		in := x.spare
		if x.spare = nil; in == nil {
			in = new(incoming)
		}
		*in = incoming{id: f.ID, total: f.Total, got: uint32(len(f.Data)), typ: uint16(f.Type), version: f.Version, request: f.Request, discard: discard}
		if x.in == nil {
			x.in = make(map[uint32]*incoming)
		}
		x.in[f.ID] = in
		x.opened[f.Type/64] |= 1 << (f.Type % 64)
	}
	if discard {
		return nil
	}
	ev := x.event(MuxData, f.ID)
	ev.Type, ev.Version, ev.Request, ev.First, ev.Last, ev.Total, ev.Data = uint16(f.Type), f.Version, f.Request, true, last, f.Total, f.Data
	ev.ReplyMax = min(f.ReplyMax, wire.MaxMessage)
	return nil
}

// end forgets a message of the peer: nothing more may come of it.
func (x *muxState) end(in *incoming) {
	delete(x.in, in.id)
	x.opened[in.typ/64] &^= 1 << (in.typ % 64)
	x.spare = in
}

// muxFragment takes more of an open message.
func (m *Machine) muxFragment(f *emp.Frame) error {
	x := m.mux
	in := x.in[f.ID]
	if in == nil {
		return m.muxError(ErrUnknownMessage, "a fragment of id %d, which is not open", f.ID)
	}
	if uint32(len(f.Data)) > in.total-in.got {
		return m.muxError(ErrBadFrame, "id %d runs past its total length of %d", f.ID, in.total)
	}
	in.got += uint32(len(f.Data))
	last := in.got == in.total
	if !in.discard {
		ev := x.event(MuxData, f.ID)
		ev.Type, ev.Version, ev.Request, ev.Last, ev.Total, ev.Data = in.typ, in.version, in.request, last, in.total, f.Data
	}
	if last {
		x.end(in)
	}
	return nil
}

// muxCredit gives us more of the peer's window: EMP/1 section 7.3.
func (m *Machine) muxCredit(f *emp.Frame) error {
	if f.Bytes == 0 {
		return m.quiet()
	}
	x := m.mux
	if x.spend += int64(f.Bytes); x.spend > wire.MaxWindow {
		return m.muxError(ErrWindowExceeded, "a window of %d bytes", x.spend)
	}
	m.openWaiting()
	return nil
}

// muxReset ends a message or request that the peer abandons: EMP/1 section 7.5.
func (m *Machine) muxReset(f *emp.Frame) error {
	x := m.mux
	if uint64(f.ID) >= x.nextIn {
		return m.muxError(ErrUnknownMessage, "RESET of id %d, which was never opened", f.ID)
	}
	if in := x.in[f.ID]; in != nil {
		// It counts until this RESET, which is not confirmed.
		x.end(in)
		s, waits := x.served[f.ID]
		switch {
		case !in.discard:
			x.owed += messageCost(in.total)
			x.forget(f.ID)
			x.event(MuxDropped, f.ID)
		case waits && s.out.begun: // the peer may have given up the rest because the answer has begun: that goes on
			s.past = true
			x.served[f.ID] = s
			x.past++
		case waits:
			m.dropAnswer(f.ID, s.out, f.Code)
		}
		return nil
	}
	return m.cancelServed(f.ID, f.Code)
}

// forget ends a request of the peer. It need not be one that waits.
func (x *muxState) forget(id uint32) {
	if x.served[id].past {
		x.past--
	}
	delete(x.served, id)
}

// dropAnswer ends a request whose answer the peer does not want.
func (m *Machine) dropAnswer(id uint32, o *Outgoing, code emp.Code) {
	m.dropStream(o)
	m.mux.forget(id)
	o.Code = code
	m.mux.fail(o, ErrRefused)
}

// cancelServed notes that the peer no longer waits for the answer to a whole request. Finished ids are ignored. If the answer has begun its rest confirms it;
// else RESET does: at once if there is an answer, or the owner is told, whose handler must return first (EMP/1 section 7.5).
func (m *Machine) cancelServed(id uint32, code emp.Code) error {
	x := m.mux
	s, waits := x.served[id]
	switch {
	case !waits || s.cancelled:
	case s.out == nil:
		s.cancelled = true
		x.served[id] = s
		x.event(MuxCancelled, id)
	case !s.out.begun:
		m.dropAnswer(id, s.out, code)
		return m.sendReset(id, true, emp.CodeCancelled)
	}
	return nil
}

// muxReplyStop handles the peer's refusal of an answer: EMP/1 section 7.5.
func (m *Machine) muxReplyStop(f *emp.Frame) error {
	x := m.mux
	s, waits := x.served[f.ID]
	if !waits {
		return nil
	}
	if s.out != nil { // a sender that has not yet sent the last byte answers RESET
		m.dropAnswer(f.ID, s.out, f.Code)
		return m.sendReset(f.ID, true, emp.CodeCancelled)
	}
	if in := x.in[f.ID]; in != nil && !in.discard { // no handler has seen it, since it is not whole
		in.discard = true
		x.owed += messageCost(in.total)
		x.forget(f.ID)
		x.event(MuxDropped, f.ID)
		return m.sendReset(f.ID, true, emp.CodeCancelled)
	}
	return m.cancelServed(f.ID, f.Code)
}

// muxReply takes a fragment of an answer: EMP/1 sections 7.2, 7.3 and 7.5.
func (m *Machine) muxReply(f *emp.Frame) error {
	x := m.mux
	o := x.calls[f.ID]
	if o == nil {
		return nil // an answer to an unknown or cancelled request is discarded
	}
	switch {
	case f.First && o.replyBegun:
		return m.muxError(ErrBadOrder, "a second answer to request %d", f.ID)
	case f.First:
		o.replyBegun, o.replyTotal, o.replyGot = true, f.Total, 0
		o.status = f.Status
	case !o.replyBegun:
		return m.muxError(ErrUnknownMessage, "a fragment of an answer to request %d, which has not begun", f.ID)
	case uint32(len(f.Data)) > o.replyTotal-o.replyGot:
		return m.muxError(ErrBadFrame, "the answer to request %d runs past its total length of %d", f.ID, o.replyTotal)
	}
	o.replyGot += uint32(len(f.Data))
	last := o.replyGot == o.replyTotal
	early := f.First && o.state == outOpen
	if early { // an answer before the request's last byte: the rest is of no use
		m.dropStream(o)
		o.state = outSent
		if err := m.resetOut(o, emp.CodeCancelled); err != nil {
			return err
		}
	}
	switch {
	case o.discard:
	case f.First && f.Total > o.ReplyMax: // EMP/1 section 7.3
		if !last {
			if err := m.sendStop(f.ID, true, emp.CodeTooLarge); err != nil {
				return err
			}
		}
		o.discard = true
		ev := x.event(MuxCallEnded, f.ID)
		ev.Call, ev.Status = o, emp.StatusTooLarge
	default:
		ev := x.event(MuxReply, f.ID)
		ev.Call, ev.Status, ev.First, ev.Last, ev.Total, ev.Data = o, o.status, f.First, last, o.replyTotal, f.Data
	}
	switch {
	case last:
		m.callOver(o)
	case early:
		m.openWaiting() // the next of its type may go
	}
	return nil
}

// callOver forgets a request of ours that no longer counts, which may let another go.
func (m *Machine) callOver(o *Outgoing) {
	delete(m.mux.calls, o.id)
	o.state = outDone
	m.openWaiting()
}

// muxReplyReset ends a request whose answer the peer abandons, or confirms that we no longer wait.
func (m *Machine) muxReplyReset(f *emp.Frame) error {
	o := m.mux.calls[f.ID]
	if o == nil {
		return nil
	}
	return m.endCall(o, f.Code, false)
}

// muxStop handles the peer's refusal of a message or request of ours: EMP/1 section 7.5.
func (m *Machine) muxStop(f *emp.Frame) error {
	x := m.mux
	if uint64(f.ID) >= x.nextOut {
		return m.muxError(ErrUnknownMessage, "STOP of id %d, which was never opened", f.ID)
	}
	if o := x.calls[f.ID]; o != nil {
		return m.endCall(o, f.Code, true)
	}
	for _, o := range x.streams {
		if o.id == f.ID && !o.answer {
			m.dropStream(o)
			o.Code = f.Code
			x.fail(o, ErrRefused)
			if o.left {
				x.refused(f.ID, f.Code)
			}
			if err := m.resetOut(o, emp.CodeCancelled); err != nil {
				return err
			}
			m.openWaiting() // the next of its type may go
			return nil
		}
	}
	// It has gone as a whole. The text ignores this; whoever counts what was refused wants to know.
	x.refused(f.ID, f.Code)
	return nil
}

// endCall ends a request of ours without a whole answer.
func (m *Machine) endCall(o *Outgoing, code emp.Code, refused bool) error {
	x := m.mux
	if o.state == outOpen {
		m.dropStream(o)
		if err := m.resetOut(o, emp.CodeCancelled); err != nil {
			return err
		}
	}
	if !o.discard {
		ev := x.event(MuxCallEnded, o.id)
		ev.Call, ev.Code, ev.Refused = o, code, refused
	}
	m.callOver(o)
	return nil
}

// What the owner owes for what it was given.

// Credit gives the peer back what n bytes of messages and their costs took of our window: the application has taken them (EMP/1 section 7.3). It goes out
// with the next write.
func (m *Machine) Credit(n int64) {
	if m.mux != nil && m.mux.active {
		m.mux.owed += n
	}
}

// RefuseMessage answers STOP to a message or request of the peer and gives its cost back; total is its length. Without Last, what still comes of it is read
// past and not told. It replaces Credit, and Respond; a message that was told to be dropped has been given back already. An error has closed the session.
func (m *Machine) RefuseMessage(id, total uint32, code emp.Code) error {
	x := m.mux
	if x == nil || !x.active {
		return nil
	}
	x.owed += messageCost(total)
	if in := x.in[id]; in != nil {
		in.discard = true
	}
	cancelled := x.served[id].cancelled
	x.forget(id)
	if cancelled { // that is always confirmed, by RESET with RESPONSE (EMP/1 section 7.5)
		return m.closeOn(m.sendReset(id, true, emp.CodeCancelled))
	}
	return m.closeOn(m.sendStop(id, false, code))
}

// Respond answers a request of the peer. payload is not copied: it must not change until o is reported by [Machine.MuxChanged], unless the call
// returns true: then it has been dealt with. o is the owner's, for this one answer. An answer longer than the peer takes becomes StatusTooLarge, or, if it is the text of a
// failure, is cut; a request that was cancelled is confirmed as such instead (EMP/1 sections 7.3 and 7.5). An error has closed the session.
func (m *Machine) Respond(o *Outgoing, id uint32, status emp.Status, payload []byte) (done bool, err error) {
	x := m.mux
	if x == nil || !x.active {
		return true, ErrNotOpen
	}
	s, waits := x.served[id]
	if !waits {
		return true, nil
	}
	if in := x.in[id]; in != nil && !in.discard { // answered before its last byte: the rest is read past
		in.discard = true
		x.owed += messageCost(in.total)
	}
	if s.cancelled {
		x.forget(id)
		return true, m.closeOn(m.sendReset(id, true, emp.CodeCancelled))
	}
	if uint64(len(payload)) > uint64(s.replyMax) {
		if status == emp.StatusFailed {
			payload = cutText(payload, int(s.replyMax))
		} else {
			status, payload = emp.StatusTooLarge, nil
		}
	}
	if len(payload) == 0 {
		x.forget(id)
		return true, m.closeOn(m.sendStatus(id, status))
	}
	*o = Outgoing{Owner: o.Owner, Total: uint32(len(payload)), data: payload, id: id, status: status, answer: true, state: outOpen}
	s.out = o
	x.served[id] = s
	x.streams = append(x.streams, o)
	x.unsent += len(payload)
	return false, nil
}

// cutText cuts UTF-8 text to n bytes, between characters.
func cutText(b []byte, n int) []byte {
	for n > 0 && n < len(b) && b[n]&0xc0 == 0x80 {
		n--
	}
	return b[:n]
}

// UnsentResponses returns how many bytes of answers to the peer wait to be written: beyond [wire.MaxUnsentResponses] no further request of it may be handed to
// handlers (EMP/1 section 7.3).
func (m *Machine) UnsentResponses() int {
	if m.mux == nil {
		return 0
	}
	return m.mux.unsent
}

// Control output. It goes before anything else, and is bounded: see answered.

func (m *Machine) closeOn(err error) error {
	if err != nil {
		m.Close(err)
	}
	return err
}

// muxAnswered is answered for what answers mux frames: no honest peer knows how much of that it brings about, see Paused.
func (m *Machine) muxAnswered(head int) error {
	m.mux.answers += len(m.out) - head
	return m.answered(head)
}

func (m *Machine) sendStatus(id uint32, s emp.Status) error {
	head := m.control()
	m.out = emp.AppendResponseHead(m.out, id, s, 0)
	m.endExtension(head)
	return m.muxAnswered(head)
}

func (m *Machine) sendStop(id uint32, response bool, c emp.Code) error {
	head := m.control()
	m.out = emp.AppendStop(m.out, id, response, c)
	m.endExtension(head)
	return m.muxAnswered(head)
}

// sendReset says that nothing more comes of a message, or answer, of ours whose beginning has gone.
func (m *Machine) sendReset(id uint32, response bool, c emp.Code) error {
	head := m.control()
	m.out = emp.AppendReset(m.out, id, response, c)
	m.endExtension(head)
	return m.muxAnswered(head)
}

// appendCredit appends what is owed, in one frame.
func (m *Machine) appendCredit(dst []byte) []byte {
	x := m.mux
	n := min(x.owed, math.MaxUint32)
	x.owed -= n
	x.window += n
	head := len(dst)
	dst = appendMuxHead(dst, x.they.Mux())
	dst = emp.AppendCredit(dst, uint32(n))
	putLength(dst, head)
	return dst
}
