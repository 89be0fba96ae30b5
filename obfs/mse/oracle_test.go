package mse

import (
	"bytes"
	stdrc4 "crypto/rc4"
	"crypto/sha1"
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parley-bt/parley/obfs"
)

// A session is one whole handshake as azmp.md section 9 has it, written down with math/big and crypto/rc4: what the package is compared with. Its fields may be what no honest
// peer would send.
type session struct {
	xa, xb                 exponent
	padA, padB, padC, padD []byte
	skey                   [20]byte
	vcA, vcB               [8]byte
	provide, choice        uint32
	ia                     []byte
	lenPadC, lenPadD       int // 0: as they are

	ya, yb, s        [KeyBytes]byte
	req1, req2, req3 [20]byte
	step1, step2     []byte
	step3, step4     []byte
	inA, inB         *stdrc4.Cipher // what the responder, the initiator sends in afterwards
}

func sum(parts ...[]byte) [20]byte { return sha1.Sum(bytes.Join(parts, nil)) }

func stdStream(key [20]byte) *stdrc4.Cipher {
	c, err := stdrc4.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	c.XORKeyStream(make([]byte, 1024), make([]byte, 1024))
	return c
}

// compute fills in what follows from the rest.
func (s *session) compute() *session {
	xa, xb := new(big.Int).SetBytes(s.xa[:]), new(big.Int).SetBytes(s.xb[:])
	ya := new(big.Int).Exp(big2, xa, bigP)
	s.ya, s.yb = left(ya), left(new(big.Int).Exp(big2, xb, bigP))
	s.s = left(new(big.Int).Exp(ya, xb, bigP))
	s.req1, s.req2, s.req3 = sum([]byte("req1"), s.s[:]), sum([]byte("req2"), s.skey[:]), sum([]byte("req3"), s.s[:])
	s.inA, s.inB = stdStream(sum([]byte("keyB"), s.s[:], s.skey[:])), stdStream(sum([]byte("keyA"), s.s[:], s.skey[:]))
	s.step1, s.step2 = slices.Concat(s.ya[:], s.padA), slices.Concat(s.yb[:], s.padB)

	u16 := func(b []byte, n int) []byte { return binary.BigEndian.AppendUint16(b, uint16(n)) }
	clear3 := binary.BigEndian.AppendUint32(s.vcA[:len(s.vcA):len(s.vcA)], s.provide)
	clear3 = append(u16(clear3, max(len(s.padC), s.lenPadC)), s.padC...)
	clear3 = append(u16(clear3, len(s.ia)), s.ia...)
	s.inB.XORKeyStream(clear3, clear3)
	who := s.req2
	for i := range who {
		who[i] ^= s.req3[i]
	}
	s.step3 = slices.Concat(s.req1[:], who[:], clear3)
	s.step4 = binary.BigEndian.AppendUint32(s.vcB[:len(s.vcB):len(s.vcB)], s.choice)
	s.step4 = append(u16(s.step4, max(len(s.padD), s.lenPadD)), s.padD...)
	s.inA.XORKeyStream(s.step4, s.step4)
	return s
}

// say returns what one side of an honest session sends for b: in, the cipher of that direction, goes on.
func (s *session) say(in *stdrc4.Cipher, b []byte) []byte {
	b = bytes.Clone(b)
	if s.choice == uint32(RC4) {
		in.XORKeyStream(b, b)
	}
	return b
}

// script is randomness that makes the package draw what a session has: an exponent, a pad, and the length of another.
func script(x exponent, pad []byte, zeros int) *bytes.Reader {
	b := binary.BigEndian.AppendUint16(slices.Clone(x[:]), uint16(len(pad)))
	b = binary.BigEndian.AppendUint16(b, uint16(zeros))
	return bytes.NewReader(append(b, pad...))
}

// randomSession draws one in which both accept everything and RC4 is chosen.
func randomSession(r *rand.ChaCha8, ia int) *session {
	n := rand.New(r)
	return &session{xa: exponent(randomBytes(r, 20)), xb: exponent(randomBytes(r, 20)), padA: randomBytes(r, n.IntN(513)), padB: randomBytes(r, n.IntN(513)),
		padC: make([]byte, n.IntN(513)), padD: make([]byte, n.IntN(513)), skey: [20]byte(randomBytes(r, 20)), provide: 3, choice: 2, ia: randomBytes(r, ia)}
}

// initiator returns the initiator of a session, its step 1 still to be sent.
func (s *session) initiator(t testing.TB) *Initiator {
	t.Helper()
	i := new(Initiator)
	if err := i.Init(Config{Rand: script(s.xa, s.padA, len(s.padC)), Methods: Methods(s.provide)}, s.skey, s.ia); err != nil {
		t.Fatal(err)
	}
	return i
}

// responder returns the responder of a session that accepts methods, its step 2 still to be sent.
func (s *session) responder(t testing.TB, methods Methods) *Responder {
	t.Helper()
	r := new(Responder)
	if err := r.Begin(Config{Rand: script(s.xb, s.padB, len(s.padD)), Methods: methods}, &s.ya); err != nil {
		t.Fatal(err)
	}
	return r
}

// A side is a handshake with what it has put out and what its Opener has yielded. It is fed in pieces, as a connection would.
type side struct {
	obfs.Handshake
	skey   *[20]byte // what a responder answers with; nil: not found
	out    []byte
	plain  []byte
	stream obfs.Streams
	done   bool
}

// feed gives the side a copy of b and returns what it failed with.
func (s *side) feed(b []byte) error {
	b = bytes.Clone(b)
	if !s.done {
		var err error
		if b, err = s.Feed(b); err != nil {
			return err
		}
		if r, ok := s.Handshake.(*Responder); ok {
			if asked, ok := r.Asked(); ok {
				if rest, err := r.Feed(b); err != nil || !bytes.Equal(rest, b) {
					panic("did not wait for an answer")
				}
				if s.skey != nil && asked == Req2(s.skey) {
					r.Answer(*s.skey, true)
				} else {
					r.Answer([20]byte{}, false)
				}
				if b, err = r.Feed(b); err != nil {
					return err
				}
			}
		}
		s.out = s.AppendOutput(s.out)
		if s.stream, s.done = s.Done(); !s.done {
			if len(b) > 0 {
				panic("left something without being done")
			}
			return nil
		}
	}
	for len(b) > 0 {
		plain, rest, err := s.stream.Opener.Open(b)
		if err != nil {
			return err
		}
		s.plain = append(s.plain, plain...)
		b = rest
	}
	return nil
}

// feedIn gives the side b in pieces of at most n bytes.
func (s *side) feedIn(b []byte, n int) error {
	if len(b) == 0 {
		return s.feed(nil)
	}
	for part := range slices.Chunk(b, n) {
		if err := s.feed(part); err != nil {
			return err
		}
	}
	return nil
}

// seal returns b as the side sends it.
func (s *side) seal(b []byte) []byte {
	return s.stream.Sealer.Seal(nil, append(make([]byte, obfs.Headroom), b...))
}
