// Package peer is one connection's state from the first byte to the close: which bytes are legal when, what they change, and what is
// sent in answer. It does no I/O and knows no clock: its owner feeds it bytes and the time, and writes what it puts out.
//
//	        Feed(now, bytes) ──►┌─────────┐──► Next() events
//	                            │ Machine │
//	Send(message), Advance(now)►└─────────┘──► AppendOutput(dst), NextUpload(), Deadline()
//
// The phases follow one another and never go back:
//
//	hello ──► open ──► closed        (responder: hello waits for Accept once the info-hash is known)
//
// Before the machine there may be an [Opening], which finds out how an incoming connection begins, or performs an obfuscated hello. The machine is told what came of it by Begin;
// what the streams of that hello open is what it is fed, and what it puts out is sealed before it is written: both are its owner's business, so that neither holds up the other.
//
// What a peer asks of us (blocks, metadata) is queued here under the limits of EMP/1 section 8 and pulled by the owner when it has room to
// write; piece data never waits in memory ahead of need.
package peer

import (
	"crypto/ed25519"
	"encoding/binary"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// Role says who opened the connection.
type Role uint8

// The roles.
const (
	Initiator Role = iota
	Responder
)

// Phase is how far a session has come.
type Phase uint8

// The phases.
const (
	PhaseHello  Phase = iota // the hellos are not both complete
	PhaseOpen                // messages flow
	PhaseClosed              // over; see Err
)

// String returns the phase's name.
func (p Phase) String() string {
	return [...]string{"hello", "open", "closed"}[min(p, PhaseClosed)]
}

// Times of EMP/1 sections 2 and 8.
const (
	FirstAnswerTimeout = 8 * time.Second   // an initiator's patience for the first byte
	InitiatorTimeout   = 15 * time.Second  // and for the whole hello
	MinHelloTimeout    = 15 * time.Second  // a responder's deadline is drawn from here
	MaxHelloTimeout    = 30 * time.Second  // to here
	MinKeepAlive       = 60 * time.Second  // our keep-alive is drawn from here
	MaxKeepAlive       = 100 * time.Second // to here
	IdleTimeout        = 240 * time.Second
	FrameTimeout       = 10 * time.Minute // for a frame from its first byte to its last, though bytes keep coming
	trimAfter          = 10 * time.Second // buffers of a quiet session are given back after this
)

// Config is what a machine must know from the start. It is copied.
type Config struct {
	Role     Role
	PeerID   bt.PeerID
	Reserved wire.Reserved // what we offer; must not hold the AZMP bit, which is not spoken yet
	// HelloTimeout is how long the hellos may take: InitiatorTimeout, or drawn from MinHelloTimeout..MaxHelloTimeout by a responder.
	HelloTimeout time.Duration
	// KeepAlive is after how long without sending a keep-alive goes out, drawn from MinKeepAlive..MaxKeepAlive.
	KeepAlive time.Duration
	// SendQueueBytes bounds the messages of mux frames that wait in the outbox; one that is larger goes in when it is empty. See [Machine.SendMessage].
	SendQueueBytes int
	// AnswersAtOnce, if it is not 0, is over how many bytes of answers to mux frames that are not written Next stops in the middle of what was fed: see [Machine.Paused].
	AnswersAtOnce int
	// Local is the torrent an initiator asks for; a responder gets it by Accept.
	Local Local
	// Hello is how an initiator begins; 0 means plaintext. A responder learns it, see [Machine.Begin].
	Hello wire.Hello
}

// Local is this side's view of the torrent of a session.
type Local struct {
	InfoHash bt.InfoHash
	Geometry bt.Geometry // unknown before metadata
	V2       bool        // the torrent is spoken of in its v2 form: hashes may be asked for (BEP 52)
	// InfoHashV2 is the v2 info-hash, cut to 20 bytes, of a torrent that is known to have one; zero otherwise. A session under it speaks
	// of the torrent in its v2 form. If InfoHash is another, which is then the v1 info-hash of a hybrid torrent, a session that began
	// under that goes on under InfoHashV2 if both sides can (BEP 52, "upgrade path").
	InfoHashV2 bt.InfoHash
	ReqQ       int // how many requests a peer may have waiting; 0 means wire.DefaultReqQ
}

// EventKind says what an [Event] is.
type EventKind uint8

// The kinds of events.
const (
	// EventHello: a responder knows the info-hash the peer asks for, and after a veiled hello that the peer is there. Nothing more happens until Accept or Close is called, and the
	// bytes that were fed stay borrowed until then.
	EventHello EventKind = iota + 1
	// EventOpen: both hellos are complete, or after a veiled hello the peer's type exchange is there; dialect, peer ID and reserved bits are known.
	EventOpen
	// EventMessage: Msg has arrived and been found legal.
	EventMessage
	// EventMux: a mux frame has brought something; see MuxEvent.
	EventMux
	// EventClosed: the session is over; see Err. The last event.
	EventClosed
)

// Event is one thing that came out of the machine. Msg and its slices are valid until the next call of Next or Feed.
type Event struct {
	Kind EventKind
	Msg  wire.Message
	Mux  *MuxEvent // EventMux; likewise
}

// Upload is something the peer asked for and may have now: a block, a piece of the metadata, or hashes.
type Upload struct {
	Block      bt.Block
	IsMetadata bool
	Metadata   uint32 // which 16 KiB of the info dictionary
	IsHashes   bool
	Hashes     wire.HashSpan // see SendHashes
}

// Machine is one session's state. It belongs to one owner: no method is safe for concurrent use. Use [Machine.Init] before anything else.
type Machine struct {
	cfg     Config
	phase   Phase
	dialect wire.Dialect
	fast    bool // both sides set the Fast bit
	err     error

	// input: in is borrowed from the caller of Feed until Next has nothing more; partial holds an incomplete frame over several Feeds.
	in           []byte
	partial      []byte
	partialSince time.Time // when the frame in partial began, if there is one
	used         int       // bytes at the head that the last event aliases; released by the next call of Next
	now          time.Time
	dec          classic.Decoder

	// hello phase
	binding    [32]byte // of a veiled hello: what identities are bound to
	heard      bool     // an obfuscated hello was answered
	helloSeen  bool     // responder: EventHello was delivered
	accepted   bool     // our own hello is in the outbox
	openTold   bool
	closedTold bool

	// the peer
	identity ed25519.PublicKey // proven in its first exchange; nil if it was not
	peerID   bt.PeerID
	reserved wire.Reserved
	theyUse  ltep.TheyUse
	pexNext  time.Time // when the next ut_pex counts

	// scratch for the last message received of each kind
	exchange   ltep.Exchange
	metadata   ltep.Metadata
	dontHave   ltep.DontHave
	uploadOnly ltep.UploadOnly

	// the torrent
	geom        bt.Geometry
	has         *bitfield.Set // nil until known, or while hasAll
	hasAll      bool
	loses       bool            // it has taken a Have back, and may do so often
	spareHas    *bitfield.Set   // a full set for a peer that loses pieces and has all now, so that none is made each time
	earlyBits   []byte          // a bitfield that came before the metadata; not nil, even if it is empty
	earlyHave   []bt.PieceIndex // gained, or lost where marked with earlyGone, in order
	bitfieldGot bool

	weUse *WeUse

	amChoking, amInterested     bool
	peerChoking, peerInterested bool
	largestBlock                uint32

	requests  queue[bt.Block]
	metaWants queue[uint32]
	metaSent  int // pieces of metadata in this session
	metaLimit int // how many at most; 0 until the first tells how large the metadata is
	reqQ      int
	hashes    *hashState // nil unless the torrent is spoken of in its v2 form

	out         []byte // control frames, in order
	app         []byte // application messages, whole frames; appHead is how much of it has gone
	appHead     int
	appEnd      int64 // bytes that ever joined app
	streamed    int64 // bytes of fragments that went without having been in app
	answerBytes int   // how much of out answers the peer (EMP/1 section 7.5)
	paused      bool  // Next has stopped for it, and nothing was taken out since

	mux        *muxState // nil until the peer offers mux frames, or we offer them again
	firstOffer *MuxUse   // what we have offered, while that is all
	sharedNew  bool      // what the peer accepts may have changed

	exchangesIn, exchangesOut int
	quietFrames               int
	quietSince                time.Time

	ownerHolds bool // see Hold

	started, lastRecv, lastSent time.Time
}

// Init makes m ready: an initiator's hello is then in the outbox. It panics if cfg offers a dialect that is not there.
func (m *Machine) Init(now time.Time, cfg Config) {
	if cfg.Reserved.AZMP() {
		panic("peer: the AZMP bit must not be offered: the dialect is not spoken")
	}
	*m = Machine{cfg: cfg, started: now, lastRecv: now, lastSent: now, now: now, amChoking: true, peerChoking: true, largestBlock: bt.BlockBytes}
	if cfg.Hello == wire.HelloUnknown {
		m.cfg.Hello = wire.HelloPlaintext
	}
	if cfg.Role == Initiator {
		m.setLocal(cfg.Local)
		m.putHello()
	}
}

func (m *Machine) setLocal(l Local) {
	m.cfg.Local = l
	m.geom = l.Geometry
	if m.reqQ = l.ReqQ; m.reqQ <= 0 {
		m.reqQ = wire.DefaultReqQ
	}
	if !l.InfoHashV2.IsZero() {
		m.cfg.Reserved[7] |= reservedV2
	}
	if l.V2 || !l.InfoHashV2.IsZero() && l.InfoHash == l.InfoHashV2 {
		m.hashes = new(hashState)
	}
}

// reservedV2 is the bit of the last reserved byte that says that we know the torrent's v2 form (BEP 52). A torrent without one must not have it:
// libtorrent closes on that.
const reservedV2 = 0x10

func (m *Machine) putHello() {
	m.accepted = true
	if m.veiled() {
		return // what a classic hello says is in the type exchange (EMP/1 section 6.2)
	}
	m.out = classic.AppendHello(m.out, classic.Hello{Reserved: m.cfg.Reserved, InfoHash: m.cfg.Local.InfoHash, PeerID: m.cfg.PeerID})
}

// Phase returns how far the session has come.
func (m *Machine) Phase() Phase { return m.phase }

// Dialect returns the dialect, [wire.DialectUnknown] before the session is open.
func (m *Machine) Dialect() wire.Dialect { return m.dialect }

// Err returns why the session is over; nil before that, and after a normal end.
func (m *Machine) Err() error { return m.err }

// PeerID returns the peer's ID, zero before the session is open.
func (m *Machine) PeerID() bt.PeerID { return m.peerID }

// Reserved returns the reserved bits of the peer's hello.
func (m *Machine) Reserved() wire.Reserved { return m.reserved }

// Opened reports whether the session has been open, though it may have ended since.
func (m *Machine) Opened() bool { return m.openTold }

// InfoHash returns the torrent of the session; a responder knows it from EventHello on. It is that of the torrent's v2 form once both sides have
// agreed on that.
func (m *Machine) InfoHash() bt.InfoHash { return m.cfg.Local.InfoHash }

// V2 reports whether the session speaks of the torrent in its v2 form, so that hashes can be asked for (BEP 52).
func (m *Machine) V2() bool { return m.hashes != nil }

// Role returns who opened the connection.
func (m *Machine) Role() Role { return m.cfg.Role }

// Fast reports whether both sides speak the Fast extension (BEP 6).
func (m *Machine) Fast() bool { return m.fast }

// TheyUse returns the peer's table of extended ids. It belongs to the machine.
func (m *Machine) TheyUse() *ltep.TheyUse { return &m.theyUse }

// Choke states, as in BEP 3.
func (m *Machine) Choke() (amChoking, amInterested, peerChoking, peerInterested bool) {
	return m.amChoking, m.amInterested, m.peerChoking, m.peerInterested
}

// LastReceived returns when the last byte of the peer came.
func (m *Machine) LastReceived() time.Time { return m.lastRecv }

// Hello returns how the session began.
func (m *Machine) Hello() wire.Hello { return m.cfg.Hello }

// Identity returns the key that the peer has proven to have (EMP/1 section 5.1); nil if it has proven none. It is not to be changed.
func (m *Machine) Identity() ed25519.PublicKey { return m.identity }

// Binding returns what identities are bound to in a veiled session, zero in others.
func (m *Machine) Binding() [32]byte { return m.binding }

// Accept lets a responder answer the hello it was told of by EventHello. The InfoHash of l is not looked at: it is what the peer asked for.
func (m *Machine) Accept(l Local) {
	if m.phase != PhaseHello || m.accepted {
		return
	}
	l.InfoHash = m.cfg.Local.InfoHash
	if !l.InfoHashV2.IsZero() && m.reserved.V2() && !m.veiled() {
		l.InfoHash = l.InfoHashV2
	}
	m.setLocal(l)
	m.putHello()
}

// Close ends the session; err is why, nil for a normal end. What is in the outbox can still be written.
func (m *Machine) Close(err error) {
	if m.phase == PhaseClosed {
		return
	}
	m.phase = PhaseClosed
	m.err = err
	m.in, m.partial, m.used = nil, nil, 0
	m.requests, m.metaWants, m.hashes = queue[bt.Block]{}, queue[uint32]{}, nil
	m.earlyBits, m.earlyHave, m.spareHas = nil, nil, nil
	m.closeMux()
}

// Feed gives the machine the next bytes of the peer. b is borrowed until Next returns false, and may be changed in place. The caller must drain Next
// before it feeds again.
func (m *Machine) Feed(now time.Time, b []byte) {
	if m.phase == PhaseClosed {
		return
	}
	if len(m.in) > 0 {
		panic("peer: Feed before Next was drained")
	}
	m.now = now
	if len(b) > 0 {
		m.lastRecv = now
		m.in = b
	}
}

// Next returns the next event, or false when there is none until more bytes come.
func (m *Machine) Next() (Event, bool) {
	m.release()
	for {
		switch m.phase {
		case PhaseHello:
			next := m.nextHello
			if m.veiled() {
				next = m.nextVeiled
			}
			ev, ok := next()
			if ok || m.phase == PhaseHello {
				return ev, ok
			}
		case PhaseOpen:
			if !m.openTold {
				m.openTold = true
				return Event{Kind: EventOpen}, true
			}
			ev, ok, err := m.nextFrame()
			if err != nil {
				m.Close(err)
				continue
			}
			if !ok && m.phase == PhaseClosed { // a frame made way for a message that no id was left for
				continue
			}
			if !ok {
				m.forget()
			}
			return ev, ok
		case PhaseClosed:
			if !m.closedTold {
				m.closedTold = true
				return Event{Kind: EventClosed}, true
			}
			return Event{}, false
		}
	}
}

// forget lets go of what was fed, which the last messages alias: it may be a large buffer, and the session quiet from now on.
func (m *Machine) forget() {
	m.dec.Forget()
	m.metadata.Data = nil
	if m.mux != nil {
		m.mux.frame.Data, m.mux.ev.Data = nil, nil
	}
}

// head returns the first n bytes that wait, or false if they are not all there; then everything there is has moved to partial.
func (m *Machine) head(n int) ([]byte, bool) {
	if len(m.partial) == 0 {
		if len(m.in) >= n {
			return m.in[:n], true
		}
		if len(m.in) > 0 {
			m.partialSince = m.now
		}
		m.partial = append(m.partial, m.in...)
		m.in = nil
		return nil, false
	}
	if missing := n - len(m.partial); missing > 0 {
		take := min(missing, len(m.in))
		m.partial = append(m.partial, m.in[:take]...)
		if m.in = m.in[take:]; len(m.in) == 0 {
			m.in = nil
		}
		if take < missing {
			return nil, false
		}
	}
	return m.partial[:n], true
}

// release gives up the bytes that the last event aliased.
func (m *Machine) release() {
	if m.used == 0 {
		return
	}
	if len(m.partial) > 0 {
		m.partial = m.partial[:0] // head never takes more into partial than one frame
	} else if m.in = m.in[m.used:]; len(m.in) == 0 {
		m.in = nil
	}
	m.used = 0
}

// nextHello reads the peer's classic hello (BEP 3; EMP/1 section 2, step 1).
func (m *Machine) nextHello() (Event, bool) {
	want := classic.PrefixBytes
	for {
		b, ok := m.head(want)
		if !ok {
			return Event{}, false
		}
		h, complete, err := classic.ParseHello(b)
		if err != nil {
			m.Close(m.protocolError(ErrBadHello, wire.KindUnknown, "not a plaintext BitTorrent hello"))
			return Event{}, false
		}
		switch {
		case want == classic.PrefixBytes:
			want = classic.AnswerBytes
		case !complete:
			if m.cfg.Role == Responder {
				if !m.helloSeen {
					m.helloSeen = true
					m.cfg.Local.InfoHash, m.reserved = h.InfoHash, h.Reserved
					return Event{Kind: EventHello}, true
				}
				if !m.accepted {
					return Event{}, false
				}
			} else if v2 := m.cfg.Local.InfoHashV2; h.InfoHash == v2 && !v2.IsZero() && m.hashes == nil {
				m.cfg.Local.InfoHash, m.hashes = v2, new(hashState)
			} else if h.InfoHash != m.cfg.Local.InfoHash {
				m.Close(m.protocolError(ErrWrongTorrent, wire.KindUnknown, "it answered for %v", h.InfoHash))
				return Event{}, false
			}
			want = classic.HelloBytes
		default:
			m.peerID, m.reserved = h.PeerID, h.Reserved
			m.used = classic.HelloBytes
			m.release()
			m.open()
			return Event{}, false
		}
	}
}

// open is the change from the hello to the open phase.
func (m *Machine) open() {
	if m.peerID == m.cfg.PeerID {
		m.Close(m.protocolError(ErrSelfConnection, wire.KindUnknown, "the peer has our own peer ID"))
		return
	}
	m.phase = PhaseOpen
	if m.dialect = wire.DialectEMP; !m.veiled() {
		m.dialect = ChooseDialect(m.cfg.Reserved, m.reserved)
	}
	m.fast = m.cfg.Reserved.Fast() && m.reserved.Fast()
	m.quietSince = m.now
}

// Paused reports whether Next has returned false before the end of what was fed, because answers to mux frames in it pile up: more of them would end the session, though the peer may
// well read them, and could not know how many there would be: of a type, say, that was withdrawn a moment ago. The owner writes what there is, and calls Next again, which goes on
// whether or not that has helped.
func (m *Machine) Paused() bool { return m.paused && m.phase == PhaseOpen && len(m.in) > 0 }

// nextFrame reads frames until one makes an event.
func (m *Machine) nextFrame() (Event, bool, error) {
	for {
		if m.mux != nil && m.cfg.AnswersAtOnce > 0 && m.mux.answers > m.cfg.AnswersAtOnce && !m.paused && len(m.in) > 0 {
			m.paused = true
			return Event{}, false, nil
		}
		b, ok := m.head(classic.LengthBytes)
		if !ok {
			return Event{}, false, nil
		}
		n := binary.BigEndian.Uint32(b)
		var id uint8
		kind := wire.KindKeepAlive
		if n > 0 {
			// The limit depends on the id, and must hold before the frame is awaited.
			if b, ok = m.head(classic.LengthBytes + 1); !ok {
				return Event{}, false, nil
			}
			id = b[classic.LengthBytes]
			kind = classic.KindOf(id)
			if limit := m.frameLimit(kind); n > limit {
				return Event{}, false, m.tooLarge(kind, n, limit)
			}
			if b, ok = m.head(classic.LengthBytes + int(n)); !ok {
				return Event{}, false, nil
			}
		}
		m.used = classic.LengthBytes + int(n)
		msg, err := m.frame(b[classic.LengthBytes:])
		if err != nil {
			return Event{}, false, err
		}
		if msg != nil {
			return Event{Kind: EventMessage, Msg: msg}, true, nil
		}
		if x := m.mux; x != nil && x.hasEv {
			x.hasEv = false
			return Event{Kind: EventMux, Mux: &x.ev}, true, nil
		}
		m.release()
	}
}

func (m *Machine) tooLarge(k wire.Kind, n, limit uint32) error {
	if k == wire.KindBitfield {
		return m.protocolError(ErrBadBitfield, k, "length %d, the limit is %d", n, limit)
	}
	return m.protocolError(ErrFrameTooLarge, k, "length %d, the limit is %d", n, limit)
}

// SetGeometry tells the machine the torrent's geometry once its metadata is known. What the peer said before is checked against it; an error
// has closed the session.
func (m *Machine) SetGeometry(g bt.Geometry) error {
	if m.geom.Known() || m.phase == PhaseClosed {
		return nil
	}
	m.geom = g
	early, haves := m.earlyBits, m.earlyHave
	m.earlyBits, m.earlyHave = nil, nil
	if early != nil {
		if err := m.setHas(early); err != nil {
			m.Close(err)
			return err
		}
	}
	for _, i := range haves {
		kind, gone := wire.KindHave, i&earlyGone != 0
		if gone {
			kind, i = wire.KindDontHave, i&^earlyGone
		}
		if int(i) >= g.NumPieces() {
			err := m.protocolError(ErrBadState, kind, "piece %d of %d", i, g.NumPieces())
			m.Close(err)
			return err
		}
		if gone {
			m.unmarkHas(i)
		} else {
			m.markHas(i)
		}
	}
	return nil
}

// Has reports what the peer has: all, or the set, which belongs to the machine; nil and false mean nothing, or nothing known yet.
func (m *Machine) Has() (set *bitfield.Set, all bool) { return m.has, m.hasAll }

// setHas takes a bitfield for what the peer has, together with the haves that came before it.
func (m *Machine) setHas(bits []byte) error {
	set, err := bitfield.Parse(bits, m.geom.NumPieces())
	if err != nil {
		return m.protocolError(ErrBadBitfield, wire.KindBitfield, "%v: %d bytes for %d pieces", err, len(bits), m.geom.NumPieces())
	}
	if m.hasAll {
		return nil
	}
	if m.has != nil {
		for i := range m.has.All() {
			set.Add(i)
		}
	}
	if m.has = set; set.Full() {
		m.has, m.hasAll = nil, true
	}
	return nil
}

func (m *Machine) markHas(i bt.PieceIndex) bool {
	if m.hasAll {
		return false
	}
	if m.has == nil {
		m.has = bitfield.New(m.geom.NumPieces())
	}
	if !m.has.Add(int(i)) {
		return false
	}
	if m.has.Full() {
		if m.loses {
			m.spareHas = m.has
		}
		m.has, m.hasAll = nil, true
	}
	return true
}

// unmarkHas takes a piece from what the peer has, and reports whether it was there.
func (m *Machine) unmarkHas(i bt.PieceIndex) bool {
	if m.loses = true; m.hasAll {
		if m.has, m.spareHas = m.spareHas, nil; m.has == nil {
			m.has = bitfield.NewFull(m.geom.NumPieces())
		}
		m.hasAll = false
	}
	return m.has != nil && m.has.Remove(int(i))
}

func bitfieldBytes(g bt.Geometry) int { return bitfield.Bytes(g.NumPieces()) }
