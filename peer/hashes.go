package peer

import (
	"errors"
	"fmt"
	"slices"

	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// maxHashWants bounds how many of a peer's requests for hashes wait; more are rejected. BEP 52 names no number; libtorrent asks for far fewer at once.
const maxHashWants = 64

// MaxHashRequests bounds how many of our own requests for hashes may be unanswered.
const MaxHashRequests = 64

// ErrTooManyHashRequests: [MaxHashRequests] are unanswered. The session goes on.
var ErrTooManyHashRequests = errors.New("too many requests for hashes are unanswered")

// hashState is what a session of a v2 torrent has beside others (BEP 52).
type hashState struct {
	wants queue[wire.HashSpan] // of the peer, not yet taken by the owner
	// The owner takes one at a time, and the next once the answer to the last has been written: answers of 256 KiB do not pile up.
	owed    wire.HashSpan // taken and not answered, if owing
	owing   bool
	waiting bool            // an answer stands in the outbox
	asks    []wire.HashSpan // ours, unanswered, in order
}

func rangeOf(s *wire.HashSpan) merkle.Range {
	return merkle.Range{Base: s.BaseLayer, Index: s.Index, Length: s.Length, Proof: s.ProofLayers}
}

// hashesFrame returns the length field of the answer to a span that has passed its check.
func hashesFrame(s *wire.HashSpan) uint32 {
	return wire.HashesOverhead + uint32(rangeOf(s).NumHashes())*wire.HashBytes
}

// limit returns the largest length field of a hashes frame: EMP/1 section 8, "what was requested".
func (h *hashState) limit() uint32 {
	n := uint32(wire.HashesOverhead)
	for i := range h.asks {
		n = max(n, hashesFrame(&h.asks[i]))
	}
	return n
}

// ready reports whether the owner may take the next request.
func (h *hashState) ready() bool { return h != nil && h.wants.len() > 0 && !h.owing && !h.waiting }

// take takes one of our requests out, or returns false if there is none like it.
func (h *hashState) take(s *wire.HashSpan) bool {
	i := slices.Index(h.asks, *s)
	if i < 0 {
		return false
	}
	h.asks = slices.Delete(h.asks, i, i+1)
	return true
}

// handleHashRequest queues what the peer wants to know. One that makes no sense for any torrent is rejected like one that makes none for this,
// as libtorrent does: which those are is for the owner to say.
func (m *Machine) handleHashRequest(r *wire.HashRequest) error {
	if rangeOf(&r.HashSpan).Check() != nil || m.hashes.wants.len() >= maxHashWants {
		return m.rejectHashes(&r.HashSpan)
	}
	m.hashes.wants.push(r.HashSpan)
	return nil
}

func (m *Machine) rejectHashes(s *wire.HashSpan) error {
	n := len(m.out)
	m.out = classic.AppendHashReject(m.out, wire.HashReject{HashSpan: *s})
	return m.answered(n)
}

// handleHashes lets hashes through that were asked for, all of them and no more. Whether they are true is for the owner to find out.
func (m *Machine) handleHashes(h *wire.Hashes) error {
	if !m.hashes.take(&h.HashSpan) {
		return m.protocolError(ErrBadState, h.Kind(), "nobody asked for %d of layer %d from %d", h.Length, h.BaseLayer, h.Index)
	}
	got, want := uint32(len(h.Data))+wire.HashesOverhead, hashesFrame(&h.HashSpan)
	if got > want {
		return m.tooLarge(h.Kind(), got, want)
	}
	if got < want {
		return m.protocolError(ErrBadState, h.Kind(), "length %d, what was asked for takes %d", got, want)
	}
	return nil
}

// sendHashRequest is Send for a [wire.HashRequest].
func (m *Machine) sendHashRequest(r wire.HashRequest) error {
	if m.hashes == nil {
		return ErrUnsupported
	}
	if err := rangeOf(&r.HashSpan).Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if len(m.hashes.asks) >= MaxHashRequests {
		return ErrTooManyHashRequests
	}
	m.hashes.asks = append(m.hashes.asks, r.HashSpan)
	m.out = classic.AppendHashRequest(m.out, r)
	return nil
}

// SendHashes answers the request for hashes that NextUpload gave last; [Machine.Refuse] is the other answer. The errors are [ErrNotOpen] and
// [ErrUnsupported]: not the answer that is owed, or not as many hashes.
func (m *Machine) SendHashes(h wire.Hashes) error {
	if m.phase != PhaseOpen {
		return ErrNotOpen
	}
	if m.hashes == nil || !m.hashes.owing || h.HashSpan != m.hashes.owed || uint32(len(h.Data))+wire.HashesOverhead != hashesFrame(&h.HashSpan) {
		return fmt.Errorf("%w: these hashes are not what the peer is owed", ErrUnsupported)
	}
	m.hashes.owing, m.hashes.waiting = false, true
	m.out = classic.AppendHashes(m.out, h)
	return nil
}

// refuseHashes answers a request for hashes that the owner took and cannot serve.
func (m *Machine) refuseHashes(s *wire.HashSpan) error {
	if m.phase != PhaseOpen || m.hashes == nil || !m.hashes.owing || m.hashes.owed != *s {
		return nil // it has been answered, or the session is over
	}
	m.hashes.owing = false
	return m.rejectHashes(s)
}
