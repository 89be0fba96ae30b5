package classic

import (
	"encoding/binary"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
)

// LengthBytes is the size of a frame's length field.
const LengthBytes = 4

// Message ids (BEP 3, 5, 6, 10, 52).
const (
	IDChoke         = 0
	IDUnchoke       = 1
	IDInterested    = 2
	IDNotInterested = 3
	IDHave          = 4
	IDBitfield      = 5
	IDRequest       = 6
	IDPiece         = 7
	IDCancel        = 8
	IDPort          = 9
	IDSuggest       = 13
	IDHaveAll       = 14
	IDHaveNone      = 15
	IDReject        = 16
	IDAllowedFast   = 17
	IDExtended      = 20
	IDHashRequest   = 21
	IDHashes        = 22
	IDHashReject    = 23
)

// kinds maps ids to kinds; what is not there is unknown.
var kinds = [256]wire.Kind{
	IDChoke: wire.KindChoke, IDUnchoke: wire.KindUnchoke, IDInterested: wire.KindInterested, IDNotInterested: wire.KindNotInterested,
	IDHave: wire.KindHave, IDBitfield: wire.KindBitfield, IDRequest: wire.KindRequest, IDPiece: wire.KindPiece,
	IDCancel: wire.KindCancel, IDPort: wire.KindPort, IDSuggest: wire.KindSuggest, IDHaveAll: wire.KindHaveAll,
	IDHaveNone: wire.KindHaveNone, IDReject: wire.KindReject, IDAllowedFast: wire.KindAllowedFast, IDExtended: wire.KindExtended,
	IDHashRequest: wire.KindHashRequest, IDHashes: wire.KindHashes, IDHashReject: wire.KindHashReject,
}

// KindOf returns the kind of message that id announces, [wire.KindUnknown] for ids this package does not know.
func KindOf(id uint8) wire.Kind { return kinds[id] }

// appendHead appends length and id of a frame with n bytes of payload.
func appendHead(dst []byte, n int, id uint8) []byte {
	l := uint32(n) + 1
	return append(dst, byte(l>>24), byte(l>>16), byte(l>>8), byte(l), id)
}

func appendBlock(dst []byte, id uint8, b bt.Block) []byte {
	dst = appendHead(dst, 12, id)
	dst = binary.BigEndian.AppendUint32(dst, uint32(b.Index))
	dst = binary.BigEndian.AppendUint32(dst, b.Begin)
	return binary.BigEndian.AppendUint32(dst, b.Length)
}

func appendIndex(dst []byte, id uint8, i bt.PieceIndex) []byte {
	return binary.BigEndian.AppendUint32(appendHead(dst, 4, id), uint32(i))
}

// AppendKeepAlive appends a keep-alive.
func AppendKeepAlive(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// AppendChoke appends a choke.
func AppendChoke(dst []byte) []byte { return appendHead(dst, 0, IDChoke) }

// AppendUnchoke appends an unchoke.
func AppendUnchoke(dst []byte) []byte { return appendHead(dst, 0, IDUnchoke) }

// AppendInterested appends an interested.
func AppendInterested(dst []byte) []byte { return appendHead(dst, 0, IDInterested) }

// AppendNotInterested appends a not interested.
func AppendNotInterested(dst []byte) []byte { return appendHead(dst, 0, IDNotInterested) }

// AppendHave appends a have.
func AppendHave(dst []byte, m wire.Have) []byte { return appendIndex(dst, IDHave, m.Index) }

// AppendBitfield appends a bitfield.
func AppendBitfield(dst []byte, m wire.Bitfield) []byte {
	return append(appendHead(dst, len(m.Bits), IDBitfield), m.Bits...)
}

// AppendRequest appends a request.
func AppendRequest(dst []byte, m wire.Request) []byte { return appendBlock(dst, IDRequest, m.Block) }

// AppendCancel appends a cancel.
func AppendCancel(dst []byte, m wire.Cancel) []byte { return appendBlock(dst, IDCancel, m.Block) }

// AppendReject appends a reject (BEP 6).
func AppendReject(dst []byte, m wire.Reject) []byte { return appendBlock(dst, IDReject, m.Block) }

// PieceHeadBytes is what stands before the data in a piece frame, its length field included.
const PieceHeadBytes = LengthBytes + wire.PieceOverhead

// PutPieceHead writes the head of a piece frame for block b into dst, which must have [PieceHeadBytes]; the block's data follow it. It
// serves writers that read the data directly into place.
func PutPieceHead(dst []byte, b bt.Block) {
	_ = dst[PieceHeadBytes-1]
	binary.BigEndian.PutUint32(dst, b.Length+wire.PieceOverhead)
	dst[4] = IDPiece
	binary.BigEndian.PutUint32(dst[5:], uint32(b.Index))
	binary.BigEndian.PutUint32(dst[9:], b.Begin)
}

// AppendPiece appends a piece frame with its data.
func AppendPiece(dst []byte, m wire.Piece) []byte {
	dst = appendHead(dst, 8+len(m.Data), IDPiece)
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Index))
	dst = binary.BigEndian.AppendUint32(dst, m.Begin)
	return append(dst, m.Data...)
}

// AppendPort appends a port (BEP 5).
func AppendPort(dst []byte, m wire.Port) []byte {
	return binary.BigEndian.AppendUint16(appendHead(dst, 2, IDPort), m.Port)
}

// AppendSuggest appends a suggest (BEP 6).
func AppendSuggest(dst []byte, m wire.Suggest) []byte { return appendIndex(dst, IDSuggest, m.Index) }

// AppendHaveAll appends a have all (BEP 6).
func AppendHaveAll(dst []byte) []byte { return appendHead(dst, 0, IDHaveAll) }

// AppendHaveNone appends a have none (BEP 6).
func AppendHaveNone(dst []byte) []byte { return appendHead(dst, 0, IDHaveNone) }

// AppendAllowedFast appends an allowed fast (BEP 6).
func AppendAllowedFast(dst []byte, m wire.AllowedFast) []byte {
	return appendIndex(dst, IDAllowedFast, m.Index)
}

// AppendExtendedHead appends length, id and extended id of an extended frame whose payload of n bytes follows (BEP 10).
func AppendExtendedHead(dst []byte, id uint8, n int) []byte {
	return append(appendHead(dst, n+1, IDExtended), id)
}

// AppendExtended appends an extended frame (BEP 10).
func AppendExtended(dst []byte, m wire.Extended) []byte {
	return append(AppendExtendedHead(dst, m.ID, len(m.Payload)), m.Payload...)
}

// spanBytes is the length of a [wire.HashSpan].
const spanBytes = wire.HashesOverhead - 1

func appendSpan(dst []byte, id uint8, s *wire.HashSpan, n int) []byte {
	dst = appendHead(dst, spanBytes+n, id)
	dst = append(dst, s.Root[:]...)
	dst = binary.BigEndian.AppendUint32(dst, s.BaseLayer)
	dst = binary.BigEndian.AppendUint32(dst, s.Index)
	dst = binary.BigEndian.AppendUint32(dst, s.Length)
	return binary.BigEndian.AppendUint32(dst, s.ProofLayers)
}

// readSpan reads the [spanBytes] that p starts with.
func readSpan(s *wire.HashSpan, p []byte) {
	n := copy(s.Root[:], p)
	s.BaseLayer = binary.BigEndian.Uint32(p[n:])
	s.Index = binary.BigEndian.Uint32(p[n+4:])
	s.Length = binary.BigEndian.Uint32(p[n+8:])
	s.ProofLayers = binary.BigEndian.Uint32(p[n+12:])
}

// AppendHashRequest appends a hash request (BEP 52).
func AppendHashRequest(dst []byte, m wire.HashRequest) []byte {
	return appendSpan(dst, IDHashRequest, &m.HashSpan, 0)
}

// AppendHashes appends a hashes frame with its hashes (BEP 52).
func AppendHashes(dst []byte, m wire.Hashes) []byte {
	return append(appendSpan(dst, IDHashes, &m.HashSpan, len(m.Data)), m.Data...)
}

// AppendHashReject appends a hash reject (BEP 52).
func AppendHashReject(dst []byte, m wire.HashReject) []byte {
	return appendSpan(dst, IDHashReject, &m.HashSpan, 0)
}

// A Decoder turns frames into messages. The messages it returns are its own scratch values: each is valid until the next call, and its
// slices alias the frame. The zero Decoder is ready.
type Decoder struct {
	have     wire.Have
	bits     wire.Bitfield
	request  wire.Request
	piece    wire.Piece
	cancel   wire.Cancel
	port     wire.Port
	suggest  wire.Suggest
	reject   wire.Reject
	fast     wire.AllowedFast
	extended wire.Extended
	unknown  wire.Unknown
	hashes   *hashScratch // made with the first of its messages, which most sessions never see
}

// Forget lets go of the input that the messages decoded last alias: a session that is quiet afterwards must not hold the buffer that it was read into.
func (d *Decoder) Forget() {
	d.bits.Bits, d.piece.Data, d.extended.Payload, d.unknown.Payload = nil, nil, nil, nil
	if d.hashes != nil {
		d.hashes.hashes.Data = nil
	}
}

// hashScratch is the scratch for the messages of BEP 52.
type hashScratch struct {
	request wire.HashRequest
	hashes  wire.Hashes
	reject  wire.HashReject
}

// The messages without fields are shared.
var (
	keepAlive     = &wire.KeepAlive{}
	choke         = &wire.Choke{}
	unchoke       = &wire.Unchoke{}
	interested    = &wire.Interested{}
	notInterested = &wire.NotInterested{}
	haveAll       = &wire.HaveAll{}
	haveNone      = &wire.HaveNone{}
)

func syntax(k wire.Kind, off int, reason string) error {
	return &wire.SyntaxError{Dialect: wire.DialectClassic, Kind: k, Offset: off, Reason: reason}
}

// Decode decodes one frame without its length field. Its error is a [*wire.SyntaxError]. An extended frame without an extended
// id decodes to [wire.Unknown], since it has no effect (EMP/1 section 8).
func (d *Decoder) Decode(frame []byte) (wire.Message, error) {
	if len(frame) == 0 {
		return keepAlive, nil
	}
	k, p := kinds[frame[0]], frame[1:]
	switch k {
	case wire.KindChoke, wire.KindUnchoke, wire.KindInterested, wire.KindNotInterested, wire.KindHaveAll, wire.KindHaveNone:
		if len(p) != 0 {
			return nil, syntax(k, 1, "payload where none belongs")
		}
		switch k {
		case wire.KindChoke:
			return choke, nil
		case wire.KindUnchoke:
			return unchoke, nil
		case wire.KindInterested:
			return interested, nil
		case wire.KindNotInterested:
			return notInterested, nil
		case wire.KindHaveAll:
			return haveAll, nil
		}
		return haveNone, nil
	case wire.KindHave, wire.KindSuggest, wire.KindAllowedFast:
		if len(p) != 4 {
			return nil, syntax(k, 1, "payload is not 4 bytes")
		}
		i := bt.PieceIndex(binary.BigEndian.Uint32(p))
		switch k {
		case wire.KindHave:
			d.have.Index = i
			return &d.have, nil
		case wire.KindSuggest:
			d.suggest.Index = i
			return &d.suggest, nil
		}
		d.fast.Index = i
		return &d.fast, nil
	case wire.KindRequest, wire.KindCancel, wire.KindReject:
		if len(p) != 12 {
			return nil, syntax(k, 1, "payload is not 12 bytes")
		}
		b := bt.Block{Index: bt.PieceIndex(binary.BigEndian.Uint32(p)), Begin: binary.BigEndian.Uint32(p[4:]), Length: binary.BigEndian.Uint32(p[8:])}
		switch k {
		case wire.KindRequest:
			d.request.Block = b
			return &d.request, nil
		case wire.KindCancel:
			d.cancel.Block = b
			return &d.cancel, nil
		}
		d.reject.Block = b
		return &d.reject, nil
	case wire.KindPiece:
		if len(p) < 8 {
			return nil, syntax(k, 1, "payload is shorter than 8 bytes")
		}
		d.piece.Index = bt.PieceIndex(binary.BigEndian.Uint32(p))
		d.piece.Begin = binary.BigEndian.Uint32(p[4:])
		d.piece.Data = p[8:]
		return &d.piece, nil
	case wire.KindBitfield:
		d.bits.Bits = p
		return &d.bits, nil
	case wire.KindPort:
		if len(p) != 2 {
			return nil, syntax(k, 1, "payload is not 2 bytes")
		}
		d.port.Port = binary.BigEndian.Uint16(p)
		return &d.port, nil
	case wire.KindHashRequest, wire.KindHashes, wire.KindHashReject:
		return d.decodeHashes(k, p)
	case wire.KindExtended:
		if len(p) > 0 {
			d.extended.ID, d.extended.Payload = p[0], p[1:]
			return &d.extended, nil
		}
	}
	d.unknown.ID, d.unknown.Payload = frame[0], p
	return &d.unknown, nil
}

func (d *Decoder) decodeHashes(k wire.Kind, p []byte) (wire.Message, error) {
	switch {
	case k == wire.KindHashes && len(p) < spanBytes:
		return nil, syntax(k, 1, "payload is shorter than 48 bytes")
	case k == wire.KindHashes && (len(p)-spanBytes)%wire.HashBytes != 0:
		return nil, syntax(k, 1+spanBytes, "hashes are not 32 bytes each")
	case k != wire.KindHashes && len(p) != spanBytes:
		return nil, syntax(k, 1, "payload is not 48 bytes")
	}
	if d.hashes == nil {
		d.hashes = new(hashScratch)
	}
	switch k {
	case wire.KindHashRequest:
		readSpan(&d.hashes.request.HashSpan, p)
		return &d.hashes.request, nil
	case wire.KindHashReject:
		readSpan(&d.hashes.reject.HashSpan, p)
		return &d.hashes.reject, nil
	}
	readSpan(&d.hashes.hashes.HashSpan, p)
	d.hashes.hashes.Data = p[spanBytes:]
	return &d.hashes.hashes, nil
}
