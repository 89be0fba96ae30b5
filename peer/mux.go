package peer

import (
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// This file holds what the messaging phase of EMP/1 (sections 6.2 and 7) is to a machine: what each side offers, when mux frames become legal, and what the
// owner is told. mux_in.go reads the peer's messages, mux_out.go writes ours.
//
//	FIRST ──► open ──► last byte ──► with the application ──► Credit        what the peer sends
//	Submit ──► waiting ──► open ──► last byte ──► done, or awaiting its answer   what we send

// OurType is one application type as this side offers it in mux frames. A withdrawn type keeps its limits, by which late messages are judged.
type OurType struct {
	Offered                bool
	MinVersion, MaxVersion uint8
	MaxLen                 uint32 // bytes
}

// MuxUse is the part of [WeUse] that the "emp" key announces. ID, Window and Requests count when they are first sent in a session (EMP/1 section 6.2).
type MuxUse struct {
	ID       uint8     // the extended id under which we accept mux frames, "emp_mux"
	Window   uint32    // "win"; no MaxLen may be above Window - [wire.MessageCost]
	Requests int       // "req"
	Types    []OurType // by their id; 0 is none
}

// MuxType is one application type as the peer offers it in this session. What it points to belongs to the machine and is locked with it; the pointer stays
// good for the session, and can be compared.
type MuxType struct {
	name     string
	id       uint16
	offered  bool
	min, max uint8
	maxLen   uint32
	open     *Outgoing // our message of this type whose last byte has not gone: no other begins meanwhile (EMP/1 section 7.4)
	passed   uint64    // the pass of openWaiting that found it blocked
}

// Name returns the type's name. It never changes.
func (t *MuxType) Name() string { return t.name }

// MuxOffer is what is known of a [MuxType] at one moment.
type MuxOffer struct {
	Type                   *MuxType
	MinVersion, MaxVersion uint8
	MaxLen                 uint32 // the largest message that can be sent, bytes
}

// Shared is what a peer accepts at one moment, by type name. The maps are never changed.
type Shared struct {
	Plain map[string]uint8    // extended ids of plain frames; 0 is withdrawn
	Mux   map[string]MuxOffer // nil unless mux frames are legal in both directions
	// Offers says that the peer has announced mux frames, though they may not be legal yet because we have not.
	Offers bool
}

// MuxEventKind says what a [MuxEvent] is.
type MuxEventKind uint8

// The kinds of mux events.
const (
	// MuxData: a fragment of a message or a request of the peer. The owner owes [Machine.Credit] or [Machine.RefuseMessage] for each that it is given with Last set, and
	// for each request [Machine.Respond] beside that.
	MuxData MuxEventKind = iota + 1
	// MuxDropped: a message of which some was given to the owner will not be completed. Nothing is owed for it.
	MuxDropped
	// MuxCancelled: the peer no longer waits for the answer to a whole request. The owner still owes Respond, soon, and Credit.
	MuxCancelled
	// MuxReply: a fragment of the answer to a request of ours, which is Call.
	MuxReply
	// MuxCallEnded: a request of ours, Call, ends without the rest of an answer. See Refused, Status and Code.
	MuxCallEnded
	// MuxRefused: a message of ours, wholly sent before or left to itself, was refused with Code.
	MuxRefused
)

// MuxEvent is one thing that mux frames have brought. It belongs to the machine and is valid until the next call of Next or Feed, as Data is.
type MuxEvent struct {
	Kind        MuxEventKind
	ID          uint32 // of the peer's message or request; of ours for MuxRefused
	Type        uint16 // MuxData: the id that we gave the type
	Version     uint8  // MuxData
	Request     bool   // MuxData
	First, Last bool   // MuxData, MuxReply
	Total       uint32 // of the whole message or answer, bytes
	ReplyMax    uint32 // MuxData of a request, with First: the longest answer the peer takes, at most [wire.MaxMessage]
	Data        []byte
	Call        *Outgoing
	Status      emp.Status // MuxReply; MuxCallEnded: StatusTooLarge if the answer was longer than asked for, else StatusAnswered
	Refused     bool       // MuxCallEnded: by STOP of the request; else the answer was RESET
	Code        emp.Code   // MuxCallEnded, MuxRefused
	Refusee     *MuxType   // MuxRefused: the type of what was refused; nil if that is long ago
}

// muxState is a machine's part in the messaging phase. See [Machine.muxed].
type muxState struct {
	they   emp.TheyOffer
	types  map[string]*MuxType // every type that the peer has ever offered
	we     *MuxUse             // what we offer, as our last exchange with the "emp" key said; nil before the first
	id     uint8               // under which we accept mux frames, as the first one said
	active bool                // both offers are there: mux frames are legal

	ev      MuxEvent
	hasEv   bool
	frame   emp.Frame
	changed []*Outgoing // whose state the owner has not looked at yet
	shown   int         // how many it looked at last: they lie there still

	// The peer's messages: mux_in.go.
	window   int64 // what the peer may spend
	owed     int64 // what it gets back with the next write
	requests int   // how many unanswered requests it may have
	nextIn   uint64
	offered  []uint64 // bit set of the ids that were ever offered in this session
	opened   []uint64 // bit set of the ids that have a message open
	in       map[uint32]*incoming
	spare    *incoming
	served   map[uint32]served
	past     int // how many of those do not count any more
	answers  int // bytes of control output that have not been taken

	// Ours: mux_out.go.
	spend   int64 // what we may spend of the peer's window
	nextOut uint64
	recent  *[recentIDs]*MuxType // by their ids modulo recentIDs
	waiting []*Outgoing          // not opened yet: by priority, then in the order of submission
	streams []*Outgoing          // opened, or answers, of which something has not gone yet
	turn    int                  // whose turn it is: 0 is what is whole, i+1 is streams[i]
	missed  bool                 // there was nothing whole when it last had its turn
	calls   map[uint32]*Outgoing
	unsent  int // bytes of answers in streams
	pass    uint64
}

// theyOffer takes what an exchange says of mux frames. An error ends the session.
func (m *Machine) theyOffer(e *ltep.Exchange) error {
	if len(e.EMP) == 0 {
		return nil
	}
	o, err := emp.ParseOffer(e.EMP)
	e.EMP = nil // the machine keeps its last exchange, and this may be long
	if err != nil {
		return nil // a malformed key is as good as none: the dictionary around it counts (EMP/1 section 6.1)
	}
	x := m.muxed()
	var mux uint8 // as this very exchange has it, and if it counts
	for _, t := range e.M {
		if t.Name == ltep.NameMux && t.ID == m.theyUse.ID(ltep.NameMux) {
			mux = t.ID
		}
	}
	if _, err := x.they.Apply(&o, mux); err != nil {
		return m.protocolError(ErrWindowExceeded, wire.KindExchange, "%v", err)
	}
	m.updateTypes()
	m.activate()
	return nil
}

// updateTypes brings the table of types in line with what the peer offers.
func (m *Machine) updateTypes() {
	x := m.mux
	for _, t := range x.types {
		t.offered = false
	}
	for o := range x.they.All() {
		t := x.types[o.Name]
		if t == nil {
			if x.types == nil {
				x.types = make(map[string]*MuxType)
			}
			t = &MuxType{name: o.Name, id: o.ID}
			x.types[o.Name] = t
		}
		t.offered, t.min, t.max, t.maxLen = true, o.MinVersion, o.MaxVersion, o.MaxLen
	}
	m.openWaiting() // some that wait may have lost their type
}

// muxed returns the state of mux frames, which is made when there is something to keep in it: most peers never offer any, and then our first offer is all there is.
func (m *Machine) muxed() *muxState {
	if m.mux == nil {
		m.mux = new(muxState)
		if first := m.firstOffer; first != nil {
			m.firstOffer = nil
			m.noteOffer(first)
		}
	}
	return m.mux
}

// muxFrames reports whether we have given out id for mux frames.
func (m *Machine) muxFrames(id uint8) bool {
	return m.mux != nil && m.mux.we != nil && id == m.mux.id || m.firstOffer != nil && id == m.firstOffer.ID
}

// weOffer notes what SendExchange has announced of mux frames. An exchange without "emp" leaves all as it was.
func (m *Machine) weOffer(use *MuxUse) {
	switch {
	case use == nil:
	case m.mux == nil && m.firstOffer == nil:
		m.firstOffer = use
	default:
		m.muxed()
		m.noteOffer(use)
	}
}

// noteOffer does what weOffer says once there is a state.
func (m *Machine) noteOffer(use *MuxUse) {
	x := m.mux
	if x.we == nil {
		x.id, x.window, x.requests = use.ID, int64(max(use.Window, wire.MinWindow)), use.Requests // a smaller window counts as that (EMP/1 section 6.2)
	}
	x.we = use
	if n := len(use.Types)/64 + 1; n > len(x.offered) {
		x.offered = append(x.offered, make([]uint64, n-len(x.offered))...)
		x.opened = append(x.opened, make([]uint64, n-len(x.opened))...)
	}
	for id, t := range use.Types {
		if t.Offered {
			x.offered[id/64] |= 1 << (id % 64)
		}
	}
	m.activate()
}

// activate makes mux frames legal once both sides have offered them (EMP/1 section 6.2).
func (m *Machine) activate() {
	x := m.mux
	m.sharedNew = true
	if x.active || x.we == nil || !x.they.Active() {
		return
	}
	x.active = true
	x.spend = int64(x.they.Window())
	m.dialect = wire.DialectEMP
}

// Shared returns what the peer accepts now, in a form that may be kept.
func (m *Machine) Shared() Shared {
	s := Shared{Plain: m.theyUse.Snapshot()}
	if s.Plain == nil {
		s.Plain = map[string]uint8{}
	}
	m.sharedNew = false
	x := m.mux
	if x == nil {
		return s
	}
	s.Offers = x.they.Active()
	if !x.active {
		return s
	}
	s.Mux = make(map[string]MuxOffer, len(x.types))
	for name, t := range x.types {
		if t.offered {
			s.Mux[name] = MuxOffer{Type: t, MinVersion: t.min, MaxVersion: t.max, MaxLen: t.maxLen}
		}
	}
	return s
}

// SharedChanged reports whether what [Machine.Shared] returns may have changed since it was last called.
func (m *Machine) SharedChanged() bool { return m.sharedNew }

// MuxChanged takes the outgoing messages whose state has changed since the last call: those that are done, have failed, or want more data. The slice is
// valid until the machine is used again.
func (m *Machine) MuxChanged() []*Outgoing {
	x := m.mux
	if x == nil {
		return nil
	}
	all := x.changed
	clear(all[len(all):max(len(all), x.shown)]) // the machine keeps nothing that is over
	x.changed, x.shown = x.changed[:0], len(all)
	for _, o := range all {
		o.noted = false
	}
	return all
}

func (x *muxState) note(o *Outgoing) {
	if !o.noted {
		o.noted = true
		x.changed = append(x.changed, o)
	}
}

// closeMux ends everything that is under way.
func (m *Machine) closeMux() {
	x := m.mux
	if x == nil {
		return
	}
	x.active = false
	for _, list := range [][]*Outgoing{x.waiting, x.streams} {
		for _, o := range list {
			x.fail(o, ErrNotOpen)
		}
	}
	for _, o := range x.calls {
		if o.state = outDone; !o.discard { // of those that are discarded the owner knows, or wants to know no more
			x.fail(o, ErrNotOpen)
		}
	}
	x.waiting, x.streams, x.turn, x.unsent = nil, nil, 0, 0
	x.in, x.spare, x.served, x.past, x.calls, x.owed = nil, nil, nil, 0, nil, 0
}

// control begins a mux frame among the control output and returns where; endExtension ends it.
func (m *Machine) control() int {
	head := len(m.out)
	m.out = classic.AppendExtendedHead(m.out, m.mux.they.Mux(), 0)
	return head
}

// PeerMuxWindow returns what we may spend of the peer's window now, and what we have left of ours, bytes; for tests and people.
func (m *Machine) PeerMuxWindow() (spend, window int64) {
	if m.mux == nil {
		return 0, 0
	}
	return m.mux.spend, m.mux.window
}

// TakesVeil reports whether the peer has said that it accepts veiled hellos where it listens; known is false before its exchange had the "emp" key.
func (m *Machine) TakesVeil() (takes, known bool) {
	if m.mux == nil {
		return false, false
	}
	return m.mux.they.Veil(), m.mux.they.Known()
}

// MuxLimits returns what the peer has advertised: its window, and how many unanswered requests it takes; false without mux frames.
func (m *Machine) MuxLimits() (window uint32, requests int, ok bool) {
	if m.mux == nil || !m.mux.they.Known() {
		return 0, 0, false
	}
	return m.mux.they.Window(), m.mux.they.Requests(), true
}
