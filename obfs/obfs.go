// Package obfs says what an obfuscated transport is: a handshake that is fed bytes and appends what is to be sent, until it yields two streams, one for each direction, through
// which everything else goes. Packages obfs/mse and obfs/veil are the two there are. Nothing here does I/O or knows a clock.
//
//	Feed(bytes of the peer) ──►┌───────────┐──► Done: Opener, Sealer
//	                           │ Handshake │
//	         AppendOutput ◄────└───────────┘
package obfs

import "errors"

// A Handshake is one side's part of an obfuscated hello. Its owner feeds it what comes and sends what it appends, in turn, until Done yields the streams or Feed fails.
type Handshake interface {
	// Feed gives the handshake the next bytes of the peer, which are borrowed until it returns and may be changed. It returns what it did not use: all that is left once the
	// handshake is done, and then it is the head of what the Opener gets; or all that is left while the handshake waits for an answer of its owner, to be fed again
	// afterwards. Fed nothing it may still go on. After an error the handshake is of no use.
	Feed(b []byte) (rest []byte, err error)
	// AppendOutput appends what is to be sent now, once.
	AppendOutput(dst []byte) []byte
	// Done returns the streams once there are any. What AppendOutput has is sent before anything that is sealed.
	Done() (Streams, bool)
}

// Streams are what a handshake yields. Each direction has its own, and they may be used at the same time.
type Streams struct {
	Opener Opener
	Sealer Sealer
}

// An Opener gives back what the peer sealed. It has one owner.
type Opener interface {
	// Open opens the head of b, in place as far as it can: plain is what came out of it, possibly nothing, and lies in b or in the opener's own memory; it is valid until the
	// next call. rest is the part of b that was not looked at: the caller goes on with it until it is empty. After an error everything fails; what was
	// returned before it was whole and in order. Open of nothing gives back memory in which nothing is kept: it is for sessions that have become quiet.
	Open(b []byte) (plain, rest []byte, err error)
	// Held returns how many bytes of an incomplete record are kept from one call to the next.
	Held() int
}

// A Sealer makes of bytes what only the peer can open. It has one owner.
type Sealer interface {
	// Seal seals b[Headroom:] and returns the result, which it appends to dst if it has to be longer than what is sealed, and otherwise leaves in b, with dst unused. It
	// destroys b. Nothing to be sealed yields nothing.
	Seal(dst, b []byte) []byte
	// SealedBytes returns how many bytes at most Seal appends to dst for n bytes; 0 if it works in b.
	SealedBytes(n int) int
}

// Headroom is how many bytes a Sealer may use before what is to be sealed.
const Headroom = 2

// ErrHandshake is what every failure of a handshake wraps that the bytes of the peer have brought about; ErrRecord that of an Opener.
var (
	ErrHandshake = errors.New("obfuscated handshake failed")
	ErrRecord    = errors.New("bytes that do not open")
)
