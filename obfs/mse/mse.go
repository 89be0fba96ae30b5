// Package mse is Message Stream Encryption, also called Protocol Encryption, the obfuscated hello that deployed clients speak: both roles, as handshakes of package obfs. It does no
// I/O and knows no clock; timeouts, what happens after a failure (EMP/1 section 2: the connection drains), how many Diffie-Hellmans there may be, and which torrents are served
// are the owner's. The source is azmp.md section 9, which was tried against BiglyBT, and EMP/1 section 2.
//
//	1  initiator → responder   Ya (96)  PadA
//	2  responder → initiator   Yb (96)  PadB
//	3  initiator → responder   HASH("req1" S) (20)  HASH("req2" SKEY) xor HASH("req3" S) (20)
//	                           RC4( VC (8)  crypto_provide (4)  len(PadC) (2)  PadC  len(IA) (2)  IA )
//	4  responder → initiator   RC4( VC (8)  crypto_select (4)  len(PadD) (2)  PadD )
//
// HASH is SHA-1, S what both sides' Diffie-Hellman yields, 96 bytes as Ya and Yb, SKEY the info-hash, VC eight zeros. IA, the initial payload, is the head of what the initiator has
// to say. Numbers are big-endian. What follows goes on in the same RC4 streams, or in plaintext, as selected.
//
// MSE hides what is spoken from those who only watch. Whoever knows the info-hash and stands between the peers can play each to the other and read all of it, and nothing tells
// whether bytes were altered.
package mse

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/parley-bt/parley/obfs"
)

// Methods are ways to go on after the handshake: bits of crypto_provide, of which crypto_select has one (azmp.md section 9.1).
type Methods uint8

// The methods there are. XOR (4) and AES (8) have numbers and no users.
const (
	Plaintext Methods = 1 << iota // IA is still RC4
	RC4
)

// String returns the methods as configurations name them.
func (m Methods) String() string {
	switch m {
	case 0:
		return "none"
	case Plaintext:
		return "plaintext"
	case RC4:
		return "rc4"
	case RC4 | Plaintext:
		return "rc4 or plaintext"
	}
	return "methods " + strconv.Itoa(int(m))
}

// The sizes of MSE (azmp.md sections 9.1 and 9.3).
const (
	KeyBytes = 96     // Ya, Yb and S, with zeros on their left
	MaxPad   = 512    // PadA, PadB, PadC and PadD each, sent and received. BiglyBT takes a PadD of 65,535 bytes; nobody sends one
	MaxIA    = 65_535 // the initial payload

	hashBytes = 20
	vcBytes   = 8
	headBytes = vcBytes + 4 + 2 // VC, crypto_provide or crypto_select, the length of PadC or PadD
)

// Config is what both roles need.
type Config struct {
	// Rand is where the private key and padding come from: crypto/rand.Reader. It is read in Init or Begin only, in this order: 20 bytes, the exponent, most significant byte
	// first; two bytes n, big-endian, where n mod 513 is how long PadA or PadB is, drawn again while n is 65,151 (127·513) or more; two bytes in the same way for PadC or PadD,
	// which is zeros, as BiglyBT's; the bytes of PadA or PadB.
	Rand io.Reader
	// Methods are what an initiator offers and a responder accepts; 0 stands for RC4|Plaintext. A responder that may choose takes RC4.
	Methods Methods
}

// methods returns what c.Methods means.
func (c *Config) methods() (Methods, error) {
	if c.Methods&^(RC4|Plaintext) != 0 {
		return 0, fmt.Errorf("mse: there are no %v", c.Methods)
	}
	if c.Methods == 0 {
		return RC4 | Plaintext, nil
	}
	return c.Methods, nil
}

// Reasons for a handshake to fail that an [*Error] may unwrap to, besides [obfs.ErrHandshake].
var (
	ErrBadKey      = errors.New("public key that gives the secret away") // outside 2..P-2
	ErrUnknownSKEY = errors.New("torrent not served here")
	ErrNoMethod    = errors.New("no method in common")
)

// An Error says at which of the four steps a handshake failed by what the peer sent, and why. It wraps [obfs.ErrHandshake], and Err if that is set.
type Error struct {
	Step   int    // 1 to 4, of which the peer sends 1 and 3, or 2 and 4
	Reason string // for people
	Err    error  // ErrBadKey, ErrUnknownSKEY, ErrNoMethod or nil
}

func (e *Error) Error() string { return "mse: step " + strconv.Itoa(e.Step) + ": " + e.Reason }

// Unwrap returns what the error is one of.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{obfs.ErrHandshake}
	}
	return []error{obfs.ErrHandshake, e.Err}
}

// Req2 returns HASH("req2" SKEY), by which a responder is told the torrent ([Responder.Asked]): the key of its owner's table. An SKEY is an info-hash; BiglyBT serves a torrent also
// under the SHA-1 of piece 0 (azmp.md section 9.4).
func Req2(skey *[20]byte) [20]byte { return hash("req2", skey[:], nil) }

// hash returns SHA-1 of a word and what follows it.
func hash(word string, a, b []byte) [hashBytes]byte {
	var buf [4 + KeyBytes + hashBytes]byte
	n := copy(buf[:], word)
	n += copy(buf[n:], a)
	n += copy(buf[n:], b)
	h := sha1.Sum(buf[:n])
	clear(buf[:])
	return h
}

// newStream returns the key stream that the initiator ("keyA") or the responder ("keyB") sends in.
func newStream(word string, s *[KeyBytes]byte, skey *[20]byte) *rc4Stream {
	key := hash(word, s[:], skey[:])
	stream := new(rc4Stream)
	stream.c.init(&key)
	clear(key[:])
	return stream
}

// readFull fills b from c.Rand.
func (c *Config) readFull(b []byte) error {
	if _, err := io.ReadFull(c.Rand, b); err != nil {
		return fmt.Errorf("mse: randomness: %w", err)
	}
	return nil
}

// padBytes draws how long a pad is: 0 to MaxPad, all equally likely (EMP/1 section 2). What it draws goes through two bytes of scratch.
func (c *Config) padBytes(scratch []byte) (int, error) {
	const n = MaxPad + 1
	for {
		if err := c.readFull(scratch[:2]); err != nil {
			return 0, err
		}
		if v := int(binary.BigEndian.Uint16(scratch)); v < 1<<16/n*n {
			return v % n, nil
		}
	}
}

// AppendDecoy appends what looks like the first flight of a responder to who does not go on: as many bytes, all random. The error is that of rand.
func AppendDecoy(dst []byte, rand io.Reader) ([]byte, error) {
	c := Config{Rand: rand}
	var scratch [2]byte
	pad, err := c.padBytes(scratch[:])
	if err != nil {
		return dst, err
	}
	at := len(dst)
	dst = append(dst, make([]byte, KeyBytes+pad)...)
	return dst, c.readFull(dst[at:])
}

// begin draws what either role draws, with two bytes of scratch: the exponent and the lengths of two pads. It returns room for both flights of a side, of which the first, the
// public key and a pad, is written; the second has the given number of bytes besides its pad.
func (c *Config) begin(x *exponent, scratch []byte, second int) (flights []byte, pad, pad2 int, err error) {
	if err = c.readFull(x[:]); err != nil {
		return nil, 0, 0, err
	}
	if pad, err = c.padBytes(scratch); err != nil {
		return nil, 0, 0, err
	}
	if pad2, err = c.padBytes(scratch); err != nil {
		return nil, 0, 0, err
	}
	flights = make([]byte, KeyBytes+pad+second+pad2)
	if err = c.readFull(flights[KeyBytes : KeyBytes+pad]); err != nil {
		return nil, 0, 0, err
	}
	y := x.publicKey()
	copy(flights, y[:])
	return flights, pad, pad2, nil
}

// outbox is what a side sends in its two flights. The bytes of the second lie there before they may go.
type outbox struct {
	flights     []byte
	taken, open int // how much of flights is gone, and may go
}

// AppendOutput appends what is to be sent now, once.
func (o *outbox) AppendOutput(dst []byte) []byte {
	dst = append(dst, o.flights[o.taken:o.open]...)
	if o.taken = o.open; o.taken == len(o.flights) {
		*o = outbox{} // nothing more will come
	}
	return dst
}

// openSecond lets the second flight go and returns it, to be written.
func (o *outbox) openSecond() []byte {
	second := o.flights[o.open:]
	o.open = len(o.flights)
	return second
}
