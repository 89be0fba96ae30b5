package ltep

import (
	"math"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/wire"
)

// MetadataPieceBytes is the unit in which the info dictionary travels (BEP 9).
const MetadataPieceBytes = 16 << 10

// MaxMetadataBytes is the largest info dictionary that is fetched from peers: 32 MiB, enough for the hashes of 1.6 million pieces.
const MaxMetadataBytes = 32 << 20

// MetadataType is what a ut_metadata message does (BEP 9, "msg_type").
type MetadataType uint8

// The ut_metadata messages.
const (
	MetadataRequest MetadataType = 0
	MetadataData    MetadataType = 1
	MetadataReject  MetadataType = 2
)

// Metadata is a ut_metadata message (BEP 9). Data aliases the frame.
type Metadata struct {
	Type      MetadataType
	Piece     uint32
	TotalSize int64 // with data: the size of the whole info dictionary
	Data      []byte
}

// Kind implements [wire.Message].
func (Metadata) Kind() wire.Kind { return wire.KindMetadata }

// ParseMetadata reads the payload of a ut_metadata message. Of a type past 2, which BEP 9 wants ignored, it reads nothing but the type; those past
// 255 count as 255. The error is a [*wire.SyntaxError].
func ParseMetadata(payload []byte) (Metadata, error) {
	bad := func(reason string) (Metadata, error) {
		return Metadata{}, &wire.SyntaxError{Dialect: wire.DialectLTEP, Kind: wire.KindMetadata, Offset: 2, Reason: reason}
	}
	v, rest, err := bencode.Parse(payload, bencode.Limits{Bytes: wire.MaxExtendedFrame, Depth: 8})
	if err != nil {
		return bad(err.Error())
	}
	var m Metadata
	typ, _ := v.Get("msg_type")
	n, ok := typ.Int()
	if !ok || n < 0 {
		return bad("msg_type is missing or odd")
	}
	if m.Type = MetadataType(min(n, math.MaxUint8)); m.Type > MetadataReject {
		return m, nil
	}
	piece, _ := v.Get("piece")
	n, ok = piece.Int()
	if !ok || n < 0 || n >= MaxMetadataBytes/MetadataPieceBytes {
		return bad("piece is missing or out of range")
	}
	m.Piece = uint32(n)
	if m.Type == MetadataData {
		size, _ := v.Get("total_size")
		m.TotalSize, _ = size.Int()
		if len(rest) > MetadataPieceBytes {
			return bad("more than 16 KiB of data")
		}
		m.Data = rest
	}
	return m, nil
}

// AppendMetadata appends the payload of a ut_metadata message.
func AppendMetadata(dst []byte, m Metadata) []byte {
	dst = append(dst, "d8:msg_type"...)
	dst = bencode.AppendInt(dst, int64(m.Type))
	dst = append(dst, "5:piece"...)
	dst = bencode.AppendInt(dst, int64(m.Piece))
	if m.Type == MetadataData {
		dst = append(dst, "10:total_size"...)
		dst = bencode.AppendInt(dst, m.TotalSize)
	}
	dst = append(dst, 'e')
	if m.Type == MetadataData {
		dst = append(dst, m.Data...)
	}
	return dst
}
