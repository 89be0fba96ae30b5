// Package classic is BEP 3's wire: the 68-byte hello, length-prefixed frames, and the messages of BEP 3, BEP 5 (port) and BEP 6.
// It says what bytes mean, not when they are legal (package peer does).
//
//	hello    0x13 "BitTorrent protocol" | reserved (8) | info-hash (20) | peer ID (20)
//	frame    length (4, big-endian) | id (1) | payload (length-1); length 0 is a keep-alive
package classic

import (
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
)

// Prefix is the first 20 bytes of a classic hello (BEP 3).
const Prefix = "\x13BitTorrent protocol"

// Lengths of the parts of a hello.
const (
	PrefixBytes = len(Prefix) // enough to tell a classic hello from anything else (EMP/1 section 2)
	AnswerBytes = 48          // a responder may answer here: the info-hash is known
	HelloBytes  = 68
)

// Hello is a classic hello (BEP 3, "handshake").
type Hello struct {
	Reserved wire.Reserved
	InfoHash bt.InfoHash
	PeerID   bt.PeerID
}

// AppendHello appends the 68 bytes of h.
func AppendHello(dst []byte, h Hello) []byte {
	dst = append(dst, Prefix...)
	dst = append(dst, h.Reserved[:]...)
	dst = append(dst, h.InfoHash[:]...)
	return append(dst, h.PeerID[:]...)
}

// ParseHello reads as much of a hello as b holds, and reports how much that is: fields past the end of b are zero. It
// fails with a [wire.SyntaxError] as soon as 20 bytes are there and are not [Prefix].
func ParseHello(b []byte) (h Hello, complete bool, err error) {
	if len(b) < PrefixBytes {
		return h, false, nil
	}
	if string(b[:PrefixBytes]) != Prefix {
		return h, false, &wire.SyntaxError{Dialect: wire.DialectClassic, Reason: "not a plaintext BitTorrent hello"}
	}
	copy(h.Reserved[:], b[PrefixBytes:])
	if len(b) >= AnswerBytes {
		copy(h.InfoHash[:], b[28:])
	}
	if len(b) >= HelloBytes {
		copy(h.PeerID[:], b[48:])
		return h, true, nil
	}
	return h, false, nil
}
