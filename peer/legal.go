package peer

import "github.com/parley-bt/parley/wire"

// verdict says what to do with a message of a kind.
type verdict uint8

const (
	legal     verdict = iota
	ignored           // read past; counts as a frame without effect (EMP/1 section 8)
	unlawful          // ErrBadState
	wantsV2           // legal if the torrent is spoken of in its v2 form (BEP 52), else the id is unknown to us: ignored
	wantsFast         // legal if both sides set the Fast bit (BEP 6), else the id is unknown to us: ignored
)

// legality is the one table that says which kind of message is legal in which dialect once a session is open (BEP 3, 5, 6, 10, 52;
// EMP/1 sections 1 and 7.1). Before that only hellos are legal, which are no frames. Kinds that are legal once only are watched where they are handled.
var legality = [wire.DialectEMP + 1][wire.NumKinds]verdict{
	wire.DialectClassic: {
		wire.KindUnknown:     ignored,
		wire.KindSuggest:     wantsFast,
		wire.KindReject:      wantsFast,
		wire.KindAllowedFast: wantsFast,
		// HaveAll and HaveNone are taken from anyone: BiglyBT sends HaveNone while super-seeding without the bit.
		wire.KindHaveAll:  legal,
		wire.KindHaveNone: legal,
		// Without the extension protocol bit on both sides its frames are unknown frames; deployed clients ignore them too.
		wire.KindExtended:    ignored,
		wire.KindHashRequest: wantsV2,
		wire.KindHashes:      wantsV2,
		wire.KindHashReject:  wantsV2,
	},
	wire.DialectLTEP: extendedRow,
	wire.DialectEMP:  extendedRow, // mux frames are extended frames: handleMux says which are legal
}

var extendedRow = [wire.NumKinds]verdict{
	wire.KindUnknown:     ignored,
	wire.KindSuggest:     wantsFast,
	wire.KindReject:      wantsFast,
	wire.KindAllowedFast: wantsFast,
	wire.KindHashRequest: wantsV2,
	wire.KindHashes:      wantsV2,
	wire.KindHashReject:  wantsV2,
}

// judge looks a kind up in the table.
func (m *Machine) judge(k wire.Kind) verdict {
	if m.phase != PhaseOpen {
		return unlawful
	}
	switch v := legality[m.dialect][k]; {
	case v == wantsFast && m.fast, v == wantsV2 && m.hashes != nil:
		return legal
	case v == wantsFast, v == wantsV2:
		return ignored
	default:
		return v
	}
}

// frameLimit returns the largest length field accepted for a frame that begins with id: EMP/1 section 8, the one place for it.
func (m *Machine) frameLimit(k wire.Kind) uint32 {
	switch k {
	case wire.KindPiece:
		return m.largestBlock + wire.PieceOverhead
	case wire.KindBitfield:
		if m.geom.Known() {
			return 1 + uint32(bitfieldBytes(m.geom))
		}
		return wire.MaxEarlyBitfield
	case wire.KindExtended:
		return wire.MaxExtendedFrame
	case wire.KindHashes:
		if m.hashes != nil {
			return m.hashes.limit()
		}
	}
	return wire.MaxPlainFrame
}
