package wire

// Limits of EMP/1 section 8. All sizes are values of the length field of a frame. They live here, in one place, and
// are compared before anything is allocated.
const (
	// MaxPlainFrame is for frames other than piece, bitfield, hashes and extended.
	MaxPlainFrame = 64 << 10
	// PieceOverhead is what a piece frame holds beside its block: id, index, begin.
	PieceOverhead = 9
	// MaxRequest is the largest block a peer may request.
	MaxRequest = 128 << 10
	// MaxEarlyBitfield is for a bitfield before the metadata is known; afterwards it must fit the torrent exactly.
	MaxEarlyBitfield = 2 << 20
	// HashesOverhead is what a hashes frame holds beside its hashes: id, root, base layer, index, length, proof layers (BEP 52).
	HashesOverhead = 49
	// MaxExtendedFrame is for extended frames received.
	MaxExtendedFrame = 1 << 20
	// MaxExchangeBytes is the largest type exchange (extended handshake dictionary) that is read.
	MaxExchangeBytes = 64 << 10
	// MaxExchangeSent is the largest type exchange that is sent.
	MaxExchangeSent = 16 << 10
	// MaxExchanges is how many type exchanges a session may have each way, malformed ones counted.
	MaxExchanges = 32
	// MaxTypeEntries is how many entries of "m" count.
	MaxTypeEntries = 1024
	// MaxTypeName is the longest name of a message type, bytes.
	MaxTypeName = 64
	// DefaultReqQ is how many requests a peer may have waiting (BEP 10, "reqq").
	DefaultReqQ = 500
	// MaxControlBacklog is how many bytes of answers may wait in our own outbox (EMP/1 section 7.5).
	MaxControlBacklog = 64 << 10
	// MaxIdleFrames is how many frames without effect a peer may send in IdleFramesSeconds.
	MaxIdleFrames = 1000
	// IdleFramesSeconds is the span over which frames without effect are counted.
	IdleFramesSeconds = 10
)
