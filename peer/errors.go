package peer

import (
	"errors"
	"fmt"

	"github.com/parley-bt/parley/wire"
)

// What ends a session, by the names of EMP/1 section 8. Structured errors ([ProtocolError]) unwrap to these.
var (
	ErrHandshakeTimeout     = errors.New("handshake timed out")
	ErrIdle                 = errors.New("peer silent for too long")
	ErrSlowFrame            = errors.New("frame takes too long to come")
	ErrBadHello             = errors.New("bad hello")
	ErrFrameTooLarge        = errors.New("frame too large")
	ErrMessageTooLarge      = errors.New("message too large")
	ErrBadRequest           = errors.New("bad request")
	ErrBadBitfield          = errors.New("bad bitfield")
	ErrBadState             = errors.New("message not legal now")
	ErrTypeExchangeExpected = errors.New("type exchange expected first")
	ErrBadIdentity          = errors.New("bad proof of identity")
	ErrBadTypeExchange      = errors.New("bad type exchange")
	ErrFlood                = errors.New("too many frames without effect")
	ErrControlBacklog       = errors.New("peer does not read the answers it asks for")
	ErrTooEarly             = errors.New("mux frame before both type exchanges")
	ErrBadFrame             = errors.New("bad mux frame")
	ErrBadOrder             = errors.New("message out of order")
	ErrUnknownMessage       = errors.New("message that is not open")
	ErrTypeNeverOffered     = errors.New("message type never offered")
	ErrWindowExceeded       = errors.New("window exceeded")
	ErrIDsExhausted         = errors.New("all message ids of the session are used")
	ErrSelfConnection       = errors.New("connected to ourselves")
	ErrDuplicatePeer        = errors.New("already connected to this peer")
	ErrUnknownTorrent       = errors.New("torrent not served here")
	ErrWrongTorrent         = errors.New("peer answered for another torrent")
	ErrCorruptPiece         = errors.New("piece failed its hash")
	ErrCorruptMetadata      = errors.New("metadata failed its hash")
	ErrCorruptHashes        = errors.New("hashes do not lead to the root of their file")
	ErrUnwantedData         = errors.New("peer sends blocks that nobody asked for")
	ErrTooManyConnections   = errors.New("too many connections")
)

// Errors of local calls; the session goes on.
var (
	// ErrNotOpen: the call needs a session whose hellos are complete, or one that has not ended.
	ErrNotOpen = errors.New("session not open")
	// ErrUnsupported: the session's dialect cannot carry the message.
	ErrUnsupported = errors.New("message unsupported in this dialect")
	// ErrTypeNotShared: the peer does not receive the type (EMP/1 section 6.2).
	ErrTypeNotShared = errors.New("message type not shared by the peer")
	// ErrVersionNotShared: the peer receives the type, but not in this version.
	ErrVersionNotShared = errors.New("version not received by the peer")
	// ErrRefused: the peer has refused the message; its code says why.
	ErrRefused = errors.New("refused by the peer")
	// ErrTooManyExchanges: this session has had its share of type exchanges (EMP/1 section 6.1).
	ErrTooManyExchanges = errors.New("too many type exchanges in one session")
)

// ProtocolError reports bytes that parse and yet break the protocol.
type ProtocolError struct {
	Code   error // one of the sentinels above
	Phase  Phase
	Kind   wire.Kind
	Reason string
}

// Error implements error.
func (e *ProtocolError) Error() string {
	s := e.Code.Error() + " (" + e.Phase.String() + " phase"
	if e.Kind != wire.KindUnknown {
		s += ", " + e.Kind.String()
	}
	s += ")"
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// Unwrap returns the sentinel.
func (e *ProtocolError) Unwrap() error { return e.Code }

// Fault says who is to blame for the end of a session, and so what to do next.
type Fault uint8

// The faults.
const (
	FaultNone    Fault = iota // a normal end, or our own decision: nobody is to blame
	FaultPeer                 // the peer broke the protocol: do not come back soon
	FaultNetwork              // time or the network: try again later
)

// String returns the fault's name.
func (f Fault) String() string {
	return [...]string{"none", "peer", "network"}[min(f, FaultNetwork)]
}

// FaultOf returns who is to blame for err. It is the one place that decides this. Records that do not open ([obfs.ErrRecord]) are blamed on the network: somebody on the way
// may have changed them, and must not be able to have honest peers left alone for it.
func FaultOf(err error) Fault {
	switch {
	case err == nil, errors.Is(err, ErrSelfConnection), errors.Is(err, ErrDuplicatePeer), errors.Is(err, ErrTooManyConnections),
		errors.Is(err, ErrUnknownTorrent), errors.Is(err, ErrNotOpen), errors.Is(err, ErrIDsExhausted):
		return FaultNone
	case errors.Is(err, ErrHandshakeTimeout), errors.Is(err, ErrIdle):
		return FaultNetwork
	}
	if errors.Is(err, ErrCorruptPiece) || errors.Is(err, ErrCorruptMetadata) || errors.Is(err, ErrCorruptHashes) ||
		errors.Is(err, ErrUnwantedData) {
		return FaultPeer
	}
	var p *ProtocolError
	var s *wire.SyntaxError
	if errors.As(err, &p) || errors.As(err, &s) {
		return FaultPeer
	}
	return FaultNetwork
}

func (m *Machine) protocolError(code error, k wire.Kind, format string, args ...any) error {
	return &ProtocolError{Code: code, Phase: m.phase, Kind: k, Reason: fmt.Sprintf(format, args...)}
}
