package ltep

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
)

// Names in "m" of the extensions that correct what a peer has said of itself.
const (
	NameDontHave   = "lt_donthave" // BEP 54
	NameUploadOnly = "upload_only" // BEP 21, as deployed: a message beside the key of the exchange
)

// DontHave takes a Have back: the sender has lost the piece (BEP 54).
//
//	index (4)
type DontHave struct{ Index bt.PieceIndex }

// Kind implements [wire.Message].
func (DontHave) Kind() wire.Kind { return wire.KindDontHave }

// ParseDontHave reads the payload of an lt_donthave message. That the piece exists is for the caller to check. The error is a [*wire.SyntaxError].
func ParseDontHave(payload []byte) (DontHave, error) {
	if len(payload) != 4 {
		return DontHave{}, &wire.SyntaxError{Dialect: wire.DialectLTEP, Kind: wire.KindDontHave, Offset: 2,
			Reason: fmt.Sprintf("payload is %d bytes, not 4", len(payload))}
	}
	return DontHave{bt.PieceIndex(binary.BigEndian.Uint32(payload))}, nil
}

// AppendDontHave appends the payload of an lt_donthave message.
func AppendDontHave(dst []byte, m DontHave) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(m.Index))
}

// UploadOnly says that the sender wants nothing more, or does again, without an exchange (BEP 21).
//
//	1 or 0 (1)
type UploadOnly struct{ On bool }

// Kind implements [wire.Message].
func (UploadOnly) Kind() wire.Kind { return wire.KindUploadOnly }

// ParseUploadOnly reads the payload of an upload_only message: its first byte counts, as deployed clients have it. The error is a [*wire.SyntaxError].
func ParseUploadOnly(payload []byte) (UploadOnly, error) {
	if len(payload) == 0 {
		return UploadOnly{}, &wire.SyntaxError{Dialect: wire.DialectLTEP, Kind: wire.KindUploadOnly, Offset: 2, Reason: "payload is empty"}
	}
	return UploadOnly{payload[0] != 0}, nil
}

// AppendUploadOnly appends the payload of an upload_only message.
func AppendUploadOnly(dst []byte, m UploadOnly) []byte {
	if m.On {
		return append(dst, 1)
	}
	return append(dst, 0)
}
