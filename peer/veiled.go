package peer

import (
	"bytes"
	"encoding/binary"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// This file holds what a veiled hello changes for a session (EMP/1 sections 3 and 6.1): there is no classic hello; what that says is in the type exchange, which comes first.

// Begin tells the machine what came of the [Opening] before it, once the streams are there and before anything of them is fed: which hello it was, of a veiled one the torrent
// that it asks for, and what identities are bound to.
func (m *Machine) Begin(h wire.Hello, ih bt.InfoHash, binding [32]byte) {
	if m.phase != PhaseHello {
		return
	}
	m.heard = true
	m.cfg.Hello = h
	if h != wire.HelloVeil {
		return
	}
	m.binding = binding
	if m.cfg.Role == Responder {
		m.cfg.Local.InfoHash = ih
	}
}

// Heard tells the machine that the peer has answered an obfuscated hello, though not completely.
func (m *Machine) Heard() { m.heard = true }

// HasHeard reports what Heard and Begin have said.
func (m *Machine) HasHeard() bool { return m.heard }

func (m *Machine) veiled() bool { return m.cfg.Hello == wire.HelloVeil }

// nextVeiled reads what comes before the session is open. A responder does nothing before the first bytes of the initiator have opened: until then the hello may be a replayed one.
func (m *Machine) nextVeiled() (Event, bool) {
	if m.cfg.Role == Responder && !m.accepted {
		if m.helloSeen || len(m.in) == 0 {
			return Event{}, false
		}
		m.helloSeen = true
		return Event{Kind: EventHello}, true
	}
	const heads = classic.LengthBytes + 2
	for {
		b, ok := m.head(classic.LengthBytes)
		if !ok {
			return Event{}, false
		}
		n := binary.BigEndian.Uint32(b)
		if n == 0 { // a keep-alive
			if err := m.quiet(); err != nil {
				m.Close(err)
				return Event{}, false
			}
			m.used = classic.LengthBytes
			m.release()
			continue
		}
		if b, ok = m.head(classic.LengthBytes + 1); !ok {
			return Event{}, false
		}
		if k := classic.KindOf(b[classic.LengthBytes]); k != wire.KindExtended || n < 2 {
			m.Close(m.protocolError(ErrTypeExchangeExpected, k, "another frame came first"))
			return Event{}, false
		}
		if b, ok = m.head(heads); !ok {
			return Event{}, false
		}
		if id := b[heads-1]; id != ltep.ExchangeID {
			m.Close(m.protocolError(ErrTypeExchangeExpected, wire.KindExtended, "an extended frame with id %d came first", id))
			return Event{}, false
		}
		if n > wire.MaxExchangeBytes+2 {
			m.Close(m.protocolError(ErrBadTypeExchange, wire.KindExchange, "%d bytes, the limit is %d", n-2, wire.MaxExchangeBytes))
			return Event{}, false
		}
		if b, ok = m.head(classic.LengthBytes + int(n)); !ok {
			return Event{}, false
		}
		if err := m.introduced(b[heads:]); err != nil {
			m.Close(err)
			return Event{}, false
		}
		m.open() // the frame stays where it is, and is the first of the open session
		return Event{}, false
	}
}

// introduced takes from the peer's first exchange what a classic hello would have said, and the proof of its identity.
func (m *Machine) introduced(payload []byte) error {
	e, err := ltep.ParseExchange(payload)
	if err != nil {
		return m.protocolError(ErrBadTypeExchange, wire.KindExchange, "%v", err)
	}
	var o emp.Offer
	if len(e.EMP) > 0 {
		if o, err = emp.ParseOffer(e.EMP); err != nil {
			return m.protocolError(ErrBadTypeExchange, wire.KindExchange, "%v", err)
		}
	}
	if err := o.CheckVeiled(); err != nil {
		return m.protocolError(ErrBadTypeExchange, wire.KindExchange, "%v", err)
	}
	if o.Key != nil { // a signature without a key is ignored (EMP/1 section 5.1)
		if err := veil.VerifyIdentity(o.Key, o.Signature, m.cfg.Role == Responder, &m.binding); err != nil {
			return m.protocolError(ErrBadIdentity, wire.KindExchange, "%v", err)
		}
		m.identity = bytes.Clone(o.Key)
	}
	m.peerID = o.PeerID
	// Which dialect is spoken is settled, and so is the form of the torrent (EMP/1 sections 3 and 6.2).
	m.reserved = o.Reserved.Veiled()
	return nil
}
