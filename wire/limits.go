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
	// MaxTypeEntries is how many entries of "m", and of "t" under "emp", count in one exchange; and how many names are remembered in a session.
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

// Limits of application messages in mux frames (EMP/1 sections 6.2, 7.2 and 7.3). Sizes are bytes of the message itself, frames not counted.
const (
	// MaxFragment is the largest part of a message in one mux frame (section 7.2).
	MaxFragment = 16 << 10
	// MaxMessage is the largest message there is: "max", maxlen and reply-max above it count as this (sections 6.2 and 7.3).
	MaxMessage = 16 << 20
	// DefaultMaxMessage is what an absent "max" means (section 6.2).
	DefaultMaxMessage = 65_536
	// MessageCost is what opening a message takes from the receiver's window beyond its total length (section 7.3).
	MessageCost = 64
	// MinWindow is what an absent or smaller "win" means (section 6.2): room for one message of DefaultMaxMessage.
	MinWindow = 65_600
	// MaxWindow is the largest window, "win" and all credit together (section 7.3).
	MaxWindow = 1<<31 - 1
	// DefaultRequests is what an absent "req" means: how many requests may be unanswered at once (section 6.2).
	DefaultRequests = 64
	// MaxUnsentResponses is over how many unsent bytes of responses no further request of that peer is handed to handlers (section 7.3).
	MaxUnsentResponses = 4 << 20
	// MaxTypeID is the largest id of an application type under "t"; the smallest is 1 (section 6.2).
	MaxTypeID = 65535
)
