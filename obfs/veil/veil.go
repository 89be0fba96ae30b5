// Package veil is EMP/1's Part A: a hello that looks uniformly random to whoever does not know the secret of a swarm, in sizes and turns like
// MSE's, and the sealed records that follow. It is Noise_NNpsk0_25519_ChaChaPoly_SHA256 (Noise revision 34) in disguise. [Initiator] and
// [Responder] are the two sides' handshakes; they yield an Opener and a Sealer, one for each direction (see package obfs).
//
//	initiator → responder                            responder → initiator
//	  IV      16     random                            E_r     32     masked ephemeral key
//	  TAG     20     SHA1(IV || secret)                BOX_r   12+16  HELLO, sealed
//	  E_i     32     masked ephemeral key              PAD_r   36..548 random bytes
//	  BOX_i   12+16  HELLO, sealed
//	  PAD_i   0..512 random bytes
//
//	HELLO     version (1) | flags (1) | padlen (2) | reserved (8)
//	record    LEN (2), masked | BODY, sealed: padlen (2) | payload | padlen bytes
//
// Which torrents are served, whether a hello that is refused goes on as MSE, what drains and when anything is sent are decided elsewhere
// (EMP/1 sections 2, 3 and 5). Nothing here does I/O, knows a clock or has randomness of its own, and nothing is safe for concurrent use unless
// it says so.
package veil

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/parley-bt/parley/obfs"
)

// The sizes of a veiled hello, bytes (EMP/1 section 3).
const (
	IVBytes     = ivBytes                                  // what a hello begins with: random, and of that hello alone
	HelloBytes  = ivBytes + tagBytes + keyBytes + boxBytes // what an initiator's first flight has before its padding
	AnswerBytes = keyBytes + boxBytes                      // what a responder's has

	MaxHelloPad                = 512     // PAD_i is 0..512
	MinAnswerPad, MaxAnswerPad = 36, 548 // PAD_r; so either flight is 96..608

	// MaxFlightBytes is the longest first flight of either side.
	MaxFlightBytes = HelloBytes + MaxHelloPad
)

const (
	ivBytes    = 16
	tagBytes   = sha1.Size
	keyBytes   = 32
	plainBytes = 12 // of a HELLO
	boxBytes   = plainBytes + sealBytes
	sealBytes  = 16 // what ChaCha20-Poly1305 adds
)

// version is the only version of Part A there is (EMP/1 section 3, HELLO).
const version = 1

// Secret is what both sides must know: the info-hash of the swarm as it stands in a BEP 3 handshake, or what [SecretOfSwarmKey] returns. For
// torrents with an info-hash that is public it is no secret; see EMP/1 section 5.2 for what the veil protects then.
type Secret [20]byte

// SecretOfSwarmKey returns the secret of a closed swarm, which stands for its info-hash in every place (EMP/1 section 3).
func SecretOfSwarmKey(key *[32]byte) Secret { return sha1.Sum(key[:]) }

// Tag returns TAG for the first 16 bytes of iv, which must have them, and a secret (EMP/1 section 3).
func Tag(iv []byte, s *Secret) [20]byte {
	var b [ivBytes + len(s)]byte
	copy(b[:], iv[:ivBytes])
	copy(b[ivBytes:], s[:])
	return sha1.Sum(b[:])
}

// Find returns the index of the first secret for which hello, of which the first 36 bytes matter, carries the TAG; -1 if there is none, or if
// hello is shorter than [HelloBytes], since nothing is decided before those are there (EMP/1 section 2). It takes one block of SHA-1 for each
// secret, which the caller bounds, and allocates nothing. Whoever keeps its secrets in several tables calls it for each.
func Find(hello []byte, secrets []Secret) int {
	if len(hello) < HelloBytes {
		return -1
	}
	var b [ivBytes + len(Secret{})]byte
	copy(b[:], hello)
	tag := [tagBytes]byte(hello[ivBytes:])
	for i := range secrets {
		*(*Secret)(b[ivBytes:]) = secrets[i]
		// One byte first, since the whole comparison costs 4 ns. A TAG is no secret from those who can make it, so it may tell by its time how much was right.
		if sum := sha1.Sum(b[:]); sum[0] == tag[0] && sum == tag {
			return i
		}
	}
	return -1
}

// Config is what a handshake needs from outside.
type Config struct {
	// Rand is where everything random comes from; it must be as good as crypto/rand's Reader, and is not kept. What is drawn, in this order:
	//
	//	1. 32 bytes   the private key, if Key is nil
	//	2. 16 bytes   IV, initiators only
	//	3.  1 byte    its highest bit becomes bit 255 of E_i or E_r
	//	4. 20 bytes   5 numbers of 4 bytes, big-endian, each mod 513: the length of the padding of the hello (for a responder less 36), then that of
	//	              records 0 to 3
	//	5.            PAD_i or PAD_r
	//
	// (A remainder of 2^32 is uneven by one in eight million, which nobody can observe.)
	Rand io.Reader

	// Key is the ephemeral key, which is used up; nil means that one is made from Rand.
	Key *Key
}

// drawBytes is how much of [Config] Rand is drawn as numbers: steps 3 and 4.
const drawBytes = 1 + 4*(1+paddedRecords)

// side is what both sides of a handshake have.
type side struct {
	noise        noise
	maskI, maskR [32]byte
	key          ephemeral
	drawn        draws
	streams      *session // nil until the handshake is done
	err          error
	outBytes     int
	out          [MaxFlightBytes]byte // out[:outBytes] is to be sent
}

// draws are the numbers that are drawn for a handshake.
type draws struct {
	topBit  byte // 0 or 0x80
	pad     int  // 0..512
	records [paddedRecords]uint16
}

// parseDraws reads steps 3 and 4 of [Config] Rand.
func parseDraws(b []byte) (d draws) {
	d.topBit, b = b[0]&0x80, b[1:]
	d.pad, b = int(drawPad(b)), b[4:]
	for i := range d.records {
		d.records[i], b = drawPad(b), b[4:]
	}
	return d
}

// drawPad makes of four random bytes a length of padding, 0..512.
func drawPad(b []byte) uint16 { return uint16(binary.BigEndian.Uint32(b) % (maxPad + 1)) }

// maxPad is the longest padding of a record, and the range of that of either hello.
const maxPad = 512

// start derives what depends on the secret and IV alone, and begins the Noise handshake (EMP/1 section 3).
func (s *side) start(iv *[ivBytes]byte, tag *[tagBytes]byte, secret *Secret) {
	prk := hmacSHA256(iv[:], secret[:])
	psk := expand(&prk, nil, "EMP/1 psk", 1)
	s.maskI = expand(&prk, nil, "EMP/1 initiator mask", 1)
	s.maskR = expand(&prk, nil, "EMP/1 responder mask", 1)

	const label = "EMP/1 veiled hello"
	var prologue [len(label) + ivBytes + tagBytes]byte
	n := copy(prologue[:], label)
	n += copy(prologue[n:], iv[:])
	copy(prologue[n:], tag[:])
	s.noise.start(prologue[:])
	s.noise.mixKeyAndHash(&psk)
}

// disguiseKey puts our ephemeral key into dst as it is sent.
func (s *side) disguiseKey(dst *[keyBytes]byte, mask *[32]byte) {
	*dst = s.key.public
	dst[31] = dst[31]&0x7f | s.drawn.topBit
	xor(dst, mask)
}

// receiveKey mixes the peer's ephemeral key into the handshake and returns it. Bit 255 says nothing and is cleared before Noise sees the key.
func (s *side) receiveKey(src *[keyBytes]byte, mask *[32]byte) [keyBytes]byte {
	e := *src
	xor(&e, mask)
	e[31] &= 0x7f
	s.noise.mixEphemeral(&e)
	return e
}

func xor(dst, mask *[32]byte) {
	for i := range dst {
		dst[i] ^= mask[i]
	}
}

// sealHello puts a HELLO into dst.
func (s *side) sealHello(dst *[boxBytes]byte, padlen int) {
	var hello [plainBytes]byte // flags and reserved bytes are sent as 0
	hello[0] = version
	binary.BigEndian.PutUint16(hello[2:], uint16(padlen))
	s.noise.seal(dst, &hello)
}

// openHello reads a HELLO. Flags and reserved bytes are ignored.
func (s *side) openHello(box *[boxBytes]byte) (version byte, padlen int, err error) {
	hello, ok := s.noise.open(box)
	if !ok {
		return 0, 0, errBox
	}
	return hello[0], int(binary.BigEndian.Uint16(hello[2:])), nil
}

// begin makes the streams of a handshake that has come to its end; skip is how many bytes of padding come before the peer's first record.
func (s *side) begin(initiator bool, skip int) {
	mine, theirs := s.noise.split()
	if !initiator { // Noise's first key is initiator → responder (EMP/1 section 3)
		mine, theirs = theirs, mine
	}
	s.streams = &session{}
	s.streams.opener.init(&theirs)
	s.streams.opener.skip = skip
	s.streams.sealer.init(&mine)
	s.streams.sealer.pads = s.drawn.records
	s.key = ephemeral{}
}

// AppendOutput appends what is to be sent now, once: see [obfs.Handshake].
func (s *side) AppendOutput(dst []byte) []byte {
	dst = append(dst, s.out[:s.outBytes]...)
	s.outBytes = 0
	return dst
}

// Done returns the streams once there are any, always the same: see [obfs.Handshake]. They do not keep the handshake alive.
func (s *side) Done() (obfs.Streams, bool) {
	if s.streams == nil {
		return obfs.Streams{}, false
	}
	return obfs.Streams{Opener: &s.streams.opener, Sealer: &s.streams.sealer}, true
}

// Hash returns Noise's final h, which is the same on both sides and binds identities to the session (EMP/1 section 5.1); zeros before the
// handshake is done.
func (s *side) Hash() [32]byte {
	if s.streams == nil {
		return [32]byte{}
	}
	return s.noise.h
}

// What the bytes of a peer may be refused for. Each wraps [obfs.ErrHandshake]; which one it was is for people, and no difference to a peer.
var (
	errTag       = refused("TAG is not that of the secret")
	errBox       = refused("box does not open")
	errVersion   = refused("version")
	errPad       = refused("padlen out of range")
	errSharedKey = refused("all-zero shared secret")
)

func refused(reason string) error { return fmt.Errorf("veil: %w: %s", obfs.ErrHandshake, reason) }

// errNotStarted is what Feed returns before Init or Open, or after they failed.
var errNotStarted = errors.New("veil: handshake has not been started")
