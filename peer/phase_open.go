package peer

import (
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// maxEarlyHave bounds the haves that are remembered until the metadata is known.
const maxEarlyHave = 16 << 10

// maxMetaWants bounds how many pieces of metadata a peer may have asked for at once; more are rejected. It covers 4 MiB at once.
const maxMetaWants = 256

// A peer may have the metadata metaTimes in a session, and metaSpare pieces of it more: BEP 9 has such a bound against floods. What goes beyond is rejected,
// and counts as a frame without effect. Metadata goes before blocks, whatever the limit of the rate.
const (
	metaTimes = 4
	metaSpare = 64
)

// Of ut_pex one message a minute counts (EMP/1 section 8). Networks bunch messages up, so one may come a little early: the next is then due a minute after it should have come.
const (
	pexEvery = time.Minute
	pexSlack = 10 * time.Second
)

// earlyGone marks what stands in earlyHave for a piece that the peer has lost: higher than any index of a piece.
const earlyGone bt.PieceIndex = 1 << 31

// WeUse is the table of extended ids that this side gave out; 0 is an extension that is not offered. It is never changed once sessions use it, so that they
// can share it.
type WeUse struct {
	Metadata   uint8 // ut_metadata (BEP 9)
	PEX        uint8 // ut_pex (BEP 11); must be 0 for a private torrent (BEP 27)
	DontHave   uint8 // lt_donthave (BEP 54)
	UploadOnly uint8 // upload_only (BEP 21)
	// MaxBytes holds, for each id that names an application type, the largest message accepted, plus one; 0 for ids that name none. Withdrawn ids are 0 too:
	// what still comes for them has no effect (EMP/1 section 7.1).
	MaxBytes [256]uint32
	// Mux is what the "emp" key announces (EMP/1 section 6.2); nil if there is none.
	Mux *MuxUse
}

// frame handles one whole frame. It returns the message if the owner should see it, nil if it had no effect beyond the machine.
func (m *Machine) frame(b []byte) (wire.Message, error) {
	kind := wire.KindKeepAlive
	if len(b) > 0 {
		kind = classic.KindOf(b[0])
	}
	switch m.judge(kind) {
	case unlawful:
		return nil, m.protocolError(ErrBadState, kind, "not legal in the %v dialect", m.dialect)
	case ignored:
		return nil, m.quiet() // without a look at its payload, whose form may be another's
	}
	msg, err := m.dec.Decode(b)
	if err != nil {
		return nil, err
	}
	switch t := msg.(type) {
	case *wire.Unknown: // an extended frame without an extended id
		return nil, m.quiet()
	case *wire.KeepAlive:
		return nil, m.quiet()
	case *wire.Choke:
		if m.peerChoking {
			return nil, m.quiet()
		}
		m.peerChoking = true
	case *wire.Unchoke:
		if !m.peerChoking {
			return nil, m.quiet()
		}
		m.peerChoking = false
	case *wire.Interested:
		if m.peerInterested {
			return nil, m.quiet()
		}
		m.peerInterested = true
	case *wire.NotInterested:
		if !m.peerInterested {
			return nil, m.quiet()
		}
		m.peerInterested = false
	case *wire.Have:
		return m.handleHave(t)
	case *wire.Bitfield:
		return t, m.handleBitfield(t)
	case *wire.HaveAll:
		if err := m.repeatedBitfield(); err != nil {
			return nil, err
		}
		m.has, m.hasAll, m.earlyHave = nil, true, nil
	case *wire.HaveNone:
		if m.bitfieldGot {
			return nil, m.quiet() // nothing is taken back
		}
		m.bitfieldGot = true
	case *wire.Request:
		return nil, m.handleRequest(t.Block)
	case *wire.Cancel:
		return nil, m.handleCancel(t.Block)
	case *wire.Suggest:
		return t, m.inRange(t.Kind(), t.Index)
	case *wire.AllowedFast:
		return t, m.inRange(t.Kind(), t.Index)
	case *wire.HashRequest:
		return nil, m.handleHashRequest(t)
	case *wire.Hashes:
		return t, m.handleHashes(t)
	case *wire.HashReject:
		if !m.hashes.take(&t.HashSpan) {
			return nil, m.quiet()
		}
	case *wire.Extended:
		return m.handleExtended(t)
	}
	return msg, nil
}

// quiet counts a frame without effect (EMP/1 section 8).
func (m *Machine) quiet() error {
	if m.now.Sub(m.quietSince) > wire.IdleFramesSeconds*time.Second {
		m.quietSince, m.quietFrames = m.now, 0
	}
	if m.quietFrames++; m.quietFrames > wire.MaxIdleFrames {
		return m.protocolError(ErrFlood, wire.KindUnknown, "more than %d in %d s", wire.MaxIdleFrames, wire.IdleFramesSeconds)
	}
	return nil
}

func (m *Machine) inRange(k wire.Kind, i bt.PieceIndex) error {
	if m.geom.Known() && int64(i) >= int64(m.geom.NumPieces()) {
		return m.protocolError(ErrBadState, k, "piece %d of %d", i, m.geom.NumPieces())
	}
	return nil
}

func (m *Machine) handleHave(h *wire.Have) (wire.Message, error) {
	if err := m.inRange(h.Kind(), h.Index); err != nil {
		return nil, err
	}
	if !m.geom.Known() {
		if m.hasAll && len(m.earlyHave) == 0 {
			return nil, m.quiet()
		}
		return nil, m.rememberHave(h.Kind(), h.Index, 0)
	}
	if !m.markHas(h.Index) {
		return nil, m.quiet()
	}
	return h, nil
}

// rememberHave keeps what the peer gained or lost (mark is then [earlyGone]) until the metadata is known.
func (m *Machine) rememberHave(k wire.Kind, i, mark bt.PieceIndex) error {
	if len(m.earlyHave) >= maxEarlyHave || int64(i) >= bt.MaxPieces {
		return m.protocolError(ErrBadState, k, "too many or too high before the metadata is known")
	}
	m.earlyHave = append(m.earlyHave, i|mark)
	return nil
}

// handleDontHave takes a Have back (BEP 54). The owner is told only if the peer had the piece.
func (m *Machine) handleDontHave(payload []byte) (wire.Message, error) {
	d, err := ltep.ParseDontHave(payload)
	if err != nil {
		return nil, err
	}
	if err := m.inRange(d.Kind(), d.Index); err != nil {
		return nil, err
	}
	if !m.geom.Known() {
		return nil, m.rememberHave(d.Kind(), d.Index, earlyGone)
	}
	if !m.unmarkHas(d.Index) {
		return nil, m.quiet()
	}
	m.dontHave = d
	return &m.dontHave, nil
}

// handlePEX hands on who joined and left (BEP 11), at most once a minute; what comes sooner is ignored unread (EMP/1 section 8).
func (m *Machine) handlePEX(payload []byte) (wire.Message, error) {
	if m.now.Before(m.pexNext.Add(-pexSlack)) {
		return nil, nil
	}
	p, err := ltep.ParsePEX(payload)
	if err != nil {
		return nil, err
	}
	if m.pexNext.Before(m.now) {
		m.pexNext = m.now
	}
	m.pexNext = m.pexNext.Add(pexEvery)
	return &p, nil // no scratch: a quiet session must not hold it until the next one
}

func (m *Machine) handleUploadOnly(payload []byte) (wire.Message, error) {
	u, err := ltep.ParseUploadOnly(payload)
	if err != nil {
		return nil, err
	}
	m.uploadOnly = u
	return &m.uploadOnly, nil
}

// repeatedBitfield counts a Bitfield or HaveAll that is not the session's first. BEP 3 and BEP 6 have one, before anything else; deployed clients send it after other
// messages, the extended handshake among them, and aria2 1.36 sends another when its download goes on. What the peer has only grows by it.
func (m *Machine) repeatedBitfield() error {
	if m.bitfieldGot {
		return m.quiet()
	}
	m.bitfieldGot = true
	return nil
}

func (m *Machine) handleBitfield(b *wire.Bitfield) error {
	if err := m.repeatedBitfield(); err != nil {
		return err
	}
	if !m.geom.Known() {
		if m.earlyBits == nil || len(m.earlyBits) != len(b.Bits) { // one of two lengths is wrong: SetGeometry finds out about the last
			m.earlyBits = append([]byte{}, b.Bits...)
			return nil
		}
		for i, x := range b.Bits {
			m.earlyBits[i] |= x
		}
		return nil
	}
	return m.setHas(b.Bits)
}

// handleRequest queues a block that the peer wants: EMP/1 section 8, "request received".
func (m *Machine) handleRequest(b bt.Block) error {
	if b.Length > wire.MaxRequest {
		return m.protocolError(ErrBadRequest, wire.KindRequest, "%d bytes, the limit is %d", b.Length, wire.MaxRequest)
	}
	if m.geom.Known() && !m.geom.Contains(b) {
		return m.protocolError(ErrBadRequest, wire.KindRequest, "block %v is outside the torrent", b)
	}
	if m.amChoking || !m.geom.Known() || m.requests.len() >= m.reqQ {
		return m.refuse(b)
	}
	m.requests.push(b)
	return nil
}

// refuse answers a request that will not be served: with Reject if Fast is spoken (BEP 6), else not at all, as deployed clients do.
func (m *Machine) refuse(b bt.Block) error {
	if !m.fast {
		return nil
	}
	n := len(m.out)
	m.out = classic.AppendReject(m.out, wire.Reject{Block: b})
	return m.answered(n)
}

// answered counts what stands in the outbox behind offset from as an answer to the peer, and closes on one who asks and does not read.
func (m *Machine) answered(from int) error {
	if m.answerBytes += len(m.out) - from; m.answerBytes > wire.MaxControlBacklog {
		return m.protocolError(ErrControlBacklog, wire.KindUnknown, "%d bytes of answers wait", m.answerBytes)
	}
	return nil
}

// handleCancel takes a request back. With Fast it is answered, by the block or by a Reject (BEP 6).
func (m *Machine) handleCancel(b bt.Block) error {
	for i, r := range m.requests.all() {
		if r == b {
			m.requests.removeAt(i)
			return m.refuse(b)
		}
	}
	return nil // the block has gone, or was never asked for: common in an endgame, and no frame without effect by EMP/1 section 8
}

func (m *Machine) handleExtended(e *wire.Extended) (wire.Message, error) {
	switch {
	case e.ID == ltep.ExchangeID:
		return m.handleExchange(e.Payload)
	case m.weUse == nil:
		return nil, m.quiet()
	case m.muxFrames(e.ID):
		m.muxed()
		return nil, m.handleMux(e.Payload)
	case e.ID == m.weUse.Metadata:
		return m.handleMetadata(e.Payload)
	case e.ID == m.weUse.PEX:
		return m.handlePEX(e.Payload)
	case e.ID == m.weUse.DontHave:
		return m.handleDontHave(e.Payload)
	case e.ID == m.weUse.UploadOnly:
		return m.handleUploadOnly(e.Payload)
	}
	limit := m.weUse.MaxBytes[e.ID]
	if limit == 0 {
		// Some clients in the wild send ids that nobody offered, and withdrawn ids may be on their way: EMP/1 section 7.1.
		return nil, m.quiet()
	}
	if uint32(len(e.Payload)) >= limit {
		return nil, m.protocolError(ErrMessageTooLarge, wire.KindExtended, "%d bytes under id %d, the limit is %d", len(e.Payload), e.ID, limit-1)
	}
	return e, nil
}

// handleExchange reads a type exchange: EMP/1 section 6.1.
func (m *Machine) handleExchange(payload []byte) (wire.Message, error) {
	if m.exchangesIn++; m.exchangesIn > wire.MaxExchanges {
		return nil, m.protocolError(ErrBadTypeExchange, wire.KindExchange, "more than %d in one session", wire.MaxExchanges)
	}
	e, err := ltep.ParseExchange(payload)
	if err != nil && m.veiled() {
		return nil, m.protocolError(ErrBadTypeExchange, wire.KindExchange, "%v", err)
	}
	if err != nil {
		return nil, nil // a malformed one is ignored in this dialect
	}
	m.exchange = e
	if m.theyUse.Apply(e.M) {
		m.sharedNew = true
	}
	if err := m.theyOffer(&m.exchange); err != nil {
		return nil, err
	}
	return &m.exchange, nil
}

// handleMetadata queues what the peer wants of the info dictionary, and hands what it gives to the owner (BEP 9).
func (m *Machine) handleMetadata(payload []byte) (wire.Message, error) {
	md, err := ltep.ParseMetadata(payload)
	if err != nil {
		return nil, err
	}
	switch md.Type {
	case ltep.MetadataRequest:
		if m.metaWants.len() >= maxMetaWants {
			return nil, m.rejectMetadata(md.Piece)
		}
		if m.metaLimit > 0 && m.metaSent >= m.metaLimit {
			if err := m.rejectMetadata(md.Piece); err != nil {
				return nil, err
			}
			return nil, m.quiet()
		}
		m.metaWants.push(md.Piece)
		return nil, nil
	case ltep.MetadataData, ltep.MetadataReject:
		m.metadata = md
		return &m.metadata, nil
	}
	return nil, m.quiet() // BEP 9: unknown types are ignored
}

func (m *Machine) rejectMetadata(piece uint32) error {
	id := m.theyUse.ID(ltep.NameMetadata)
	if id == 0 {
		return nil // it has no id to be answered under
	}
	n := len(m.out)
	var scratch [64]byte
	p := ltep.AppendMetadata(scratch[:0], ltep.Metadata{Type: ltep.MetadataReject, Piece: piece})
	m.out = classic.AppendExtended(m.out, wire.Extended{ID: id, Payload: p})
	return m.answered(n)
}
