package wire

import (
	"fmt"

	"github.com/parley-bt/parley/bt"
)

// Kind names a message of the shared vocabulary.
type Kind uint8

// The kinds of messages, with their sources.
const (
	KindUnknown       Kind = iota // an id this project does not know
	KindKeepAlive                 // BEP 3
	KindChoke                     // BEP 3
	KindUnchoke                   // BEP 3
	KindInterested                // BEP 3
	KindNotInterested             // BEP 3
	KindHave                      // BEP 3
	KindBitfield                  // BEP 3
	KindRequest                   // BEP 3
	KindPiece                     // BEP 3
	KindCancel                    // BEP 3
	KindPort                      // BEP 5
	KindSuggest                   // BEP 6
	KindHaveAll                   // BEP 6
	KindHaveNone                  // BEP 6
	KindReject                    // BEP 6
	KindAllowedFast               // BEP 6
	KindExtended                  // BEP 10, any extended message; see wire/ltep for those with a meaning here
	KindExchange                  // BEP 10, the extended handshake; EMP/1 section 6, the type exchange
	KindMetadata                  // BEP 9, ut_metadata
	KindPEX                       // BEP 11, ut_pex
	KindDontHave                  // BEP 54, lt_donthave
	KindUploadOnly                // BEP 21, upload_only as a message of its own
	KindHashRequest               // BEP 52
	KindHashes                    // BEP 52
	KindHashReject                // BEP 52
	NumKinds                      // how many kinds there are
)

var kindNames = [NumKinds]string{"unknown", "keep-alive", "choke", "unchoke", "interested", "not interested", "have", "bitfield",
	"request", "piece", "cancel", "port", "suggest", "have all", "have none", "reject", "allowed fast", "extended",
	"extended handshake", "ut_metadata", "ut_pex", "lt_donthave", "upload_only", "hash request", "hashes", "hash reject"}

// String returns the kind's name as in its specification.
func (k Kind) String() string {
	if k < NumKinds {
		return kindNames[k]
	}
	return kindNames[KindUnknown]
}

// Message is one message of the shared vocabulary. Decoders return pointers to their own scratch values, which are valid until their next call;
// senders take plain values.
type Message interface{ Kind() Kind }

// HashBytes is the length of a hash in the trees of BEP 52.
const HashBytes = 32

// HashSpan names hashes of the merkle tree of one file, and the proof that goes with them (BEP 52, "hash request"). Its numbers are as they came:
// package internal/merkle says which make sense.
type HashSpan struct {
	Root        [HashBytes]byte // of the file's tree, which names the file
	BaseLayer   uint32          // the layer of the hashes; 0 is that of the leaves
	Index       uint32          // the first of them
	Length      uint32          // how many
	ProofLayers uint32          // how many layers above the base are proven
}

// The messages of BEP 3, 5, 6 and 52. Slices in decoded messages alias the decoder's input.
type (
	// KeepAlive is a frame of length 0.
	KeepAlive struct{}
	// Choke says that requests will not be answered.
	Choke struct{}
	// Unchoke says that requests will be answered.
	Unchoke struct{}
	// Interested says that the sender wants pieces of the receiver.
	Interested struct{}
	// NotInterested takes Interested back.
	NotInterested struct{}
	// Have says that the sender has one more piece.
	Have struct{ Index bt.PieceIndex }
	// Bitfield says which pieces the sender has; see package bitfield for its form.
	Bitfield struct{ Bits []byte }
	// Request asks for a block.
	Request struct{ bt.Block }
	// Piece carries a block; Data is Block.Length bytes.
	Piece struct {
		Index bt.PieceIndex
		Begin uint32
		Data  []byte
	}
	// Cancel takes a Request back.
	Cancel struct{ bt.Block }
	// Port names the sender's DHT port.
	Port struct{ Port uint16 }
	// Suggest proposes a piece to ask for.
	Suggest struct{ Index bt.PieceIndex }
	// HaveAll stands for a full Bitfield.
	HaveAll struct{}
	// HaveNone stands for an empty Bitfield.
	HaveNone struct{}
	// Reject says that a Request will not be answered.
	Reject struct{ bt.Block }
	// AllowedFast names a piece that may be requested while choked.
	AllowedFast struct{ Index bt.PieceIndex }
	// HashRequest asks for hashes of a file's tree.
	HashRequest struct{ HashSpan }
	// Hashes answers a HashRequest. Data are the hashes of the base layer, then those that prove them from there upwards, [HashBytes] each.
	Hashes struct {
		HashSpan
		Data []byte
	}
	// HashReject says that a HashRequest will not be answered.
	HashReject struct{ HashSpan }
	// Extended is an extended message under an id that the receiver gave out (BEP 10).
	Extended struct {
		ID      uint8
		Payload []byte
	}
	// Unknown is a frame with an id this project does not know.
	Unknown struct {
		ID      uint8
		Payload []byte
	}
)

// Block returns the block that the message carries.
func (m *Piece) Block() bt.Block {
	return bt.Block{Index: m.Index, Begin: m.Begin, Length: uint32(len(m.Data))}
}

func (KeepAlive) Kind() Kind     { return KindKeepAlive }     // Kind implements Message.
func (Choke) Kind() Kind         { return KindChoke }         // Kind implements Message.
func (Unchoke) Kind() Kind       { return KindUnchoke }       // Kind implements Message.
func (Interested) Kind() Kind    { return KindInterested }    // Kind implements Message.
func (NotInterested) Kind() Kind { return KindNotInterested } // Kind implements Message.
func (Have) Kind() Kind          { return KindHave }          // Kind implements Message.
func (Bitfield) Kind() Kind      { return KindBitfield }      // Kind implements Message.
func (Request) Kind() Kind       { return KindRequest }       // Kind implements Message.
func (Piece) Kind() Kind         { return KindPiece }         // Kind implements Message.
func (Cancel) Kind() Kind        { return KindCancel }        // Kind implements Message.
func (Port) Kind() Kind          { return KindPort }          // Kind implements Message.
func (Suggest) Kind() Kind       { return KindSuggest }       // Kind implements Message.
func (HaveAll) Kind() Kind       { return KindHaveAll }       // Kind implements Message.
func (HaveNone) Kind() Kind      { return KindHaveNone }      // Kind implements Message.
func (Reject) Kind() Kind        { return KindReject }        // Kind implements Message.
func (AllowedFast) Kind() Kind   { return KindAllowedFast }   // Kind implements Message.
func (HashRequest) Kind() Kind   { return KindHashRequest }   // Kind implements Message.
func (Hashes) Kind() Kind        { return KindHashes }        // Kind implements Message.
func (HashReject) Kind() Kind    { return KindHashReject }    // Kind implements Message.
func (Extended) Kind() Kind      { return KindExtended }      // Kind implements Message.
func (Unknown) Kind() Kind       { return KindUnknown }       // Kind implements Message.

// SyntaxError reports bytes that do not parse as what they claim to be.
type SyntaxError struct {
	Dialect Dialect
	Kind    Kind
	Offset  int // in the frame behind its length field, bytes
	Reason  string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%v: %v: %s (at byte %d of the frame)", e.Dialect, e.Kind, e.Reason, e.Offset)
}
