package peer

import (
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// Deadline returns when Advance must be called next; the zero time if there is nothing to wait for.
func (m *Machine) Deadline() time.Time {
	switch m.phase {
	case PhaseHello:
		d := m.started.Add(m.cfg.HelloTimeout)
		if m.awaitsFirstAnswer() {
			d = earliest(d, m.started.Add(FirstAnswerTimeout))
		}
		return d
	case PhaseOpen:
		d := earliest(m.lastRecv.Add(IdleTimeout), m.lastSent.Add(m.cfg.KeepAlive))
		if len(m.partial) > 0 {
			d = earliest(d, m.partialSince.Add(FrameTimeout))
		}
		if m.holdsBuffers() {
			d = earliest(d, m.quietFrom().Add(trimAfter))
		}
		return d
	}
	return time.Time{}
}

// Hold says that the owner has memory of its own that a quiet session need not keep: Advance reports when it is time to give that back.
func (m *Machine) Hold() { m.ownerHolds = true }

// HelloEnd returns when the time for the hellos is over, or was.
func (m *Machine) HelloEnd() time.Time { return m.started.Add(m.cfg.HelloTimeout) }

// Advance does what time demands: it closes a session that took too long, sends a keep-alive, and gives back the buffers of a quiet one, which it
// reports: the owner may have something to give back too.
func (m *Machine) Advance(now time.Time) (trimmed bool) {
	switch m.phase {
	case PhaseHello:
		late := !now.Before(m.started.Add(m.cfg.HelloTimeout))
		if late || m.awaitsFirstAnswer() && !now.Before(m.started.Add(FirstAnswerTimeout)) {
			m.Close(ErrHandshakeTimeout)
		}
	case PhaseOpen:
		if !now.Before(m.lastRecv.Add(IdleTimeout)) {
			m.Close(ErrIdle)
			return false
		}
		// Without this a stranger who sends a byte now and then could hold a frame of 1 MiB for ever.
		if len(m.partial) > 0 && !now.Before(m.partialSince.Add(FrameTimeout)) {
			m.Close(ErrSlowFrame)
			return false
		}
		if !now.Before(m.lastSent.Add(m.cfg.KeepAlive)) {
			m.lastSent = now
			m.out = classic.AppendKeepAlive(m.out)
		}
		if m.holdsBuffers() && !now.Before(m.quietFrom().Add(trimAfter)) {
			m.trim()
			trimmed = true
		}
	}
	return trimmed
}

// Excuse says that the owner has not been reading, so that the peer's silence up to now proves nothing.
func (m *Machine) Excuse(now time.Time) {
	if m.phase == PhaseOpen {
		m.lastRecv, m.partialSince = now, now
	}
}

func (m *Machine) awaitsFirstAnswer() bool {
	return m.cfg.Role == Initiator && !m.heard && len(m.partial) == 0 && m.phase == PhaseHello
}

func (m *Machine) quietFrom() time.Time {
	if m.lastSent.After(m.lastRecv) {
		return m.lastSent
	}
	return m.lastRecv
}

// holdsBuffers reports whether there are empty buffers that a quiet session need not keep.
func (m *Machine) holdsBuffers() bool {
	return cap(m.partial) > 0 && len(m.partial) == 0 || cap(m.out) > 0 && len(m.out) == 0 || cap(m.app) > 0 && len(m.app) == 0 ||
		cap(m.requests.items) > 0 && m.requests.len() == 0 || cap(m.metaWants.items) > 0 && m.metaWants.len() == 0 ||
		m.ownerHolds || m.hashes != nil && (cap(m.hashes.wants.items) > 0 && m.hashes.wants.len() == 0 || cap(m.hashes.asks) > 0 && len(m.hashes.asks) == 0)
}

func (m *Machine) trim() {
	m.ownerHolds = false
	if len(m.partial) == 0 {
		m.partial = nil
	}
	if len(m.out) == 0 {
		m.out = nil
	}
	if len(m.app) == 0 {
		m.app = nil
	}
	if m.requests.len() == 0 {
		m.requests = queue[bt.Block]{}
	}
	if m.metaWants.len() == 0 {
		m.metaWants = queue[uint32]{}
	}
	if m.hashes != nil && m.hashes.wants.len() == 0 {
		m.hashes.wants = queue[wire.HashSpan]{}
	}
	if m.hashes != nil && len(m.hashes.asks) == 0 {
		m.hashes.asks = nil
	}
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
