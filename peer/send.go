package peer

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// Send puts one control message into the outbox. msg is a plain value of package wire, or a PEX, DontHave or UploadOnly of package ltep; pieces, application
// messages, metadata and exchanges have calls of their own. How often PEX goes out, and how long it is, is up to the caller. The errors are [ErrNotOpen] and
// [ErrUnsupported] (also for an extension that the peer has no id for), [ErrTooManyHashRequests], and [ErrControlBacklog] from a Choke that rejects too much: that one has closed
// the session.
func (m *Machine) Send(msg wire.Message) error {
	if m.phase != PhaseOpen {
		return ErrNotOpen
	}
	// A switch over concrete types keeps callers' values off the heap.
	switch t := msg.(type) {
	case wire.KeepAlive:
		m.out = classic.AppendKeepAlive(m.out)
	case wire.Choke:
		if !m.amChoking {
			m.amChoking = true
			m.out = classic.AppendChoke(m.out)
			return m.dropRequests()
		}
	case wire.Unchoke:
		if m.amChoking {
			m.amChoking = false
			m.out = classic.AppendUnchoke(m.out)
		}
	case wire.Interested:
		if !m.amInterested {
			m.amInterested = true
			m.out = classic.AppendInterested(m.out)
		}
	case wire.NotInterested:
		if m.amInterested {
			m.amInterested = false
			m.out = classic.AppendNotInterested(m.out)
		}
	case wire.Have:
		m.out = classic.AppendHave(m.out, t)
	case wire.Bitfield:
		m.out = classic.AppendBitfield(m.out, t)
	case wire.HaveAll:
		if !m.fast {
			return ErrUnsupported
		}
		m.out = classic.AppendHaveAll(m.out)
	case wire.HaveNone:
		if !m.fast {
			return ErrUnsupported
		}
		m.out = classic.AppendHaveNone(m.out)
	case wire.Request:
		m.largestBlock = max(m.largestBlock, t.Length)
		m.out = classic.AppendRequest(m.out, t)
	case wire.Cancel:
		m.out = classic.AppendCancel(m.out, t)
	case wire.Reject:
		if !m.fast {
			return ErrUnsupported
		}
		m.out = classic.AppendReject(m.out, t)
	case wire.Port:
		m.out = classic.AppendPort(m.out, t)
	case wire.HashRequest:
		return m.sendHashRequest(t)
	case ltep.PEX:
		head, ok := m.beginExtension(ltep.NamePEX)
		if !ok {
			return ErrUnsupported
		}
		m.out = ltep.AppendPEX(m.out, t)
		m.endExtension(head)
	case ltep.DontHave:
		head, ok := m.beginExtension(ltep.NameDontHave)
		if !ok {
			return ErrUnsupported
		}
		m.out = ltep.AppendDontHave(m.out, t)
		m.endExtension(head)
	case ltep.UploadOnly:
		head, ok := m.beginExtension(ltep.NameUploadOnly)
		if !ok {
			return ErrUnsupported
		}
		m.out = ltep.AppendUploadOnly(m.out, t)
		m.endExtension(head)
	default:
		return ErrUnsupported
	}
	return nil
}

// beginExtension begins a message of an extension in the outbox and returns where; false if the peer has no id for it.
func (m *Machine) beginExtension(name string) (head int, ok bool) {
	id := m.theyUse.ID(name)
	if id == 0 || !m.extended() {
		return 0, false
	}
	head = len(m.out)
	m.out = classic.AppendExtendedHead(m.out, id, 0)
	return head, true
}

// endExtension puts the length of what was appended since into the frame that begins at head.
func (m *Machine) endExtension(head int) {
	binary.BigEndian.PutUint32(m.out[head:], uint32(len(m.out)-head-classic.LengthBytes))
}

// dropRequests forgets what the peer asked for, because it has been choked; with Fast it is told (BEP 6).
func (m *Machine) dropRequests() error {
	for _, b := range m.requests.all() {
		if err := m.refuse(b); err != nil {
			m.Close(err)
			return err
		}
	}
	m.requests.clear()
	return nil
}

// SendExtended puts one application message into the outbox, under an id that the peer gave out. The errors are [ErrNotOpen] and
// [ErrUnsupported] (no extension protocol, or id 0). Nothing here bounds the queue: see AppQueued.
func (m *Machine) SendExtended(id uint8, payload []byte) error {
	if m.phase != PhaseOpen {
		return ErrNotOpen
	}
	if !m.extended() || id == 0 || len(payload) > wire.MaxExtendedFrame-2 {
		return ErrUnsupported
	}
	m.makeRoom(len(payload) + muxHead)
	n := len(m.app)
	m.app = append(classic.AppendExtendedHead(m.app, id, len(payload)), payload...)
	m.appEnd += int64(len(m.app) - n)
	return nil
}

// AppQueued returns how many bytes of application messages wait in the outbox, their framing included.
func (m *Machine) AppQueued() int { return len(m.app) - m.appHead }

// NextApp returns how many bytes at most the next frame of application output takes; 0 if none waits.
func (m *Machine) NextApp() (n int) {
	if m.AppQueued() > 0 {
		n = m.nextQueued()
	}
	if m.anyStream() { // whose turn may come first
		n = max(n, muxUnit)
	}
	return n
}

// SendExchange puts a type exchange into the outbox; use is the table that it announces, and holds from now on. The errors are [ErrNotOpen], [ErrUnsupported] (the peer does not speak
// the extension protocol), [ErrTooManyExchanges], [ErrMessageTooLarge] (its dictionary exceeds [wire.MaxExchangeSent]), with all of which nothing has happened; and
// [ErrControlBacklog], which has closed the session (EMP/1 section 7.5 counts exchanges among the answers). After a veiled hello it is the first that an initiator sends, before the
// session is open.
func (m *Machine) SendExchange(e *ltep.Exchange, use *WeUse) error {
	if m.phase != PhaseOpen && !(m.phase == PhaseHello && m.veiled() && m.cfg.Role == Initiator && m.heard) {
		return ErrNotOpen
	}
	if !m.extended() {
		return ErrUnsupported
	}
	if m.exchangesOut >= wire.MaxExchanges {
		return ErrTooManyExchanges
	}
	start := len(m.out)
	m.out = classic.AppendExtendedHead(m.out, ltep.ExchangeID, 0)
	body := len(m.out)
	m.out = ltep.AppendExchange(m.out, e)
	if n := len(m.out) - body; n > wire.MaxExchangeSent {
		m.out = m.out[:start]
		return fmt.Errorf("%w: a type exchange of %d bytes, the limit is %d: share fewer types", ErrMessageTooLarge, n, wire.MaxExchangeSent)
	}
	binary.BigEndian.PutUint32(m.out[start:], uint32(len(m.out)-start-classic.LengthBytes))
	m.exchangesOut++
	m.weUse = use
	m.weOffer(use.Mux)
	if err := m.answered(start); err != nil {
		m.Close(err)
		return err
	}
	return nil
}

// SendMetadata puts a ut_metadata message into the outbox, if the peer has an id for it: [ErrUnsupported] otherwise. An error of the backlog has closed
// the session.
func (m *Machine) SendMetadata(md ltep.Metadata) error {
	if m.phase != PhaseOpen {
		return ErrNotOpen
	}
	start, ok := m.beginExtension(ltep.NameMetadata)
	if !ok {
		return ErrUnsupported
	}
	m.out = ltep.AppendMetadata(m.out, md)
	m.endExtension(start)
	if md.Type == ltep.MetadataRequest {
		return nil
	}
	if md.Type == ltep.MetadataData {
		m.metaSent++
		m.metaLimit = metaTimes*int((md.TotalSize+ltep.MetadataPieceBytes-1)/ltep.MetadataPieceBytes) + metaSpare
	}
	if err := m.answered(start); err != nil {
		m.Close(err)
		return err
	}
	return nil
}

// HasOutput reports whether there is anything to write: control, messages, or uploads the peer waits for.
func (m *Machine) HasOutput() bool {
	return len(m.out) > 0 || m.HasApp() || m.phase == PhaseOpen && m.HasUploads()
}

// HasApp reports whether messages, or what keeps them flowing, wait to be written.
func (m *Machine) HasApp() bool { return len(m.app) > m.appHead || m.muxOutput() }

// AppBytes returns how many bytes of messages have ever been accepted, and how many of them have been taken by AppendOutput. Fragments of messages that are larger
// than one frame are counted by themselves, since they are accepted and taken at once.
func (m *Machine) AppBytes() (in, gone, fragments int64) { return m.appEnd, m.appGone(), m.streamed }

// extended reports whether the session has the extension protocol (BEP 10).
func (m *Machine) extended() bool {
	return m.dialect == wire.DialectLTEP || m.dialect == wire.DialectEMP || m.veiled()
}

// HasUploads reports whether the peer waits for something it asked for: see [Machine.NextUpload].
func (m *Machine) HasUploads() bool {
	return m.requests.len() > 0 || m.metaWants.len() > 0 || m.hashes.ready()
}

// HasUrgentOutput is HasOutput without the blocks that the peer waits for: what no limit of the rate should hold up.
func (m *Machine) HasUrgentOutput() bool {
	return len(m.out) > 0 || m.HasApp() || m.phase == PhaseOpen && (m.metaWants.len() > 0 || m.hashes.ready())
}

// NextBlock returns the block that NextUpload would take next; false if it would take something else or nothing.
func (m *Machine) NextBlock() (bt.Block, bool) {
	if m.phase != PhaseOpen || m.metaWants.len() > 0 || m.hashes.ready() || m.requests.len() == 0 {
		return bt.Block{}, false
	}
	return m.requests.all()[0], true
}

// AppendOutput appends what is to be written next to dst and forgets it: all control frames, then whole application messages as far as they fit
// into appLimit bytes; a first one that does not fit goes all the same, if appLimit is above 0.
func (m *Machine) AppendOutput(now time.Time, dst []byte, appLimit int) []byte {
	n := len(dst)
	dst = append(dst, m.out...)
	m.out, m.answerBytes, m.paused = m.out[:0], 0, false
	if m.hashes != nil {
		m.hashes.waiting = false
	}
	if m.mux != nil {
		m.mux.answers = 0
	}
	if m.mux != nil && m.mux.owed > 0 && m.mux.active {
		dst = m.appendCredit(dst)
	}
	if appLimit > 0 {
		dst = m.appendApp(dst, appLimit)
	}
	if len(dst) > n {
		m.lastSent = now
	}
	return dst
}

// appendApp appends application messages up to limit.
func (m *Machine) appendApp(dst []byte, limit int) []byte {
	if m.mux != nil && len(m.mux.streams) > 0 {
		dst = m.appendTurns(dst, limit)
	} else if m.AppQueued() > 0 {
		dst = m.appendQueued(dst, limit)
	}
	if m.mux != nil {
		m.openWaiting() // there is room now
	}
	return dst
}

// NextUpload takes the next thing the peer asked for out of its queue. Metadata goes first: without it the peer can do nothing. Then come hashes, without
// which it cannot tell what blocks are worth: one request, which is owed an answer by SendHashes or Refuse, and no other before that has been written.
func (m *Machine) NextUpload() (Upload, bool) {
	switch {
	case m.phase != PhaseOpen:
	case m.metaWants.len() > 0:
		return Upload{IsMetadata: true, Metadata: m.metaWants.pop()}, true
	case m.hashes.ready():
		m.hashes.owed, m.hashes.owing = m.hashes.wants.pop(), true
		return Upload{IsHashes: true, Hashes: m.hashes.owed}, true
	case m.requests.len() > 0:
		return Upload{Block: m.requests.pop()}, true
	}
	return Upload{}, false
}

// Refuse answers an upload that turned out to be impossible. An error has closed the session.
func (m *Machine) Refuse(u Upload) error {
	var err error
	switch {
	case u.IsMetadata:
		err = m.rejectMetadata(u.Metadata)
	case u.IsHashes:
		err = m.refuseHashes(&u.Hashes)
	default:
		err = m.refuse(u.Block)
	}
	if err != nil {
		m.Close(err)
	}
	return err
}

// FinishPiece completes a piece frame that the owner has built in place: frame is [classic.PieceHeadBytes] to be filled in here, and the data behind them. It must be written right
// after what AppendOutput last returned. It reports whether the peer may still have it.
func (m *Machine) FinishPiece(now time.Time, b bt.Block, frame []byte) bool {
	if m.phase != PhaseOpen {
		return false
	}
	classic.PutPieceHead(frame, b)
	m.lastSent = now
	return true
}
