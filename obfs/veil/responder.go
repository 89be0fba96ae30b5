package veil

import (
	"fmt"
	"io"

	"github.com/parley-bt/parley/obfs"
)

// Responder is the handshake of the side that accepted the connection, an [obfs.Handshake]. [Responder.Open] starts it, with the first 96 bytes of
// the connection and the secret that [Find] found for them; what follows those goes to Feed. It answers at once and is done when PAD_i has come.
//
// Its owner sends nothing else until the first record of the initiator has opened (EMP/1 section 3).
type Responder struct {
	side
	skip    int // bytes of PAD_i still to come
	started bool
}

var _ obfs.Handshake = (*Responder)(nil)

// Open opens hello, the first 96 bytes, both borrowed, and forgets any former one. On success AppendOutput has a flight of 96 to 608 bytes.
// If the hello is not one for secret, or not one that may be answered, the error wraps [obfs.ErrHandshake] and the same bytes go on as MSE (EMP/1
// section 2, step 3); a key has been spent then only on an E_i for which every shared secret is zero. Any other error is that of c.Rand, or
// [ErrKeyUsed]. After an error Open may be called again.
func (r *Responder) Open(c Config, hello *[HelloBytes]byte, secret *Secret) error {
	*r = Responder{}
	if err := r.open(c, hello, secret); err != nil {
		*r = Responder{}
		return err
	}
	r.started = true
	r.end()
	return nil
}

func (r *Responder) open(c Config, hello *[HelloBytes]byte, secret *Secret) error {
	iv, tag := (*[ivBytes]byte)(hello[:]), (*[tagBytes]byte)(hello[ivBytes:])
	if *tag != Tag(iv[:], secret) {
		return errTag
	}
	r.start(iv, tag, secret)
	e := r.receiveKey((*[keyBytes]byte)(hello[ivBytes+tagBytes:]), &r.maskI)
	offered, padlen, err := r.openHello((*[boxBytes]byte)(hello[ivBytes+tagBytes+keyBytes:]))
	switch {
	case err != nil:
		return err
	case offered < version: // a higher one is answered with ours
		return errVersion
	case padlen > MaxHelloPad:
		return errPad
	}
	r.skip = padlen

	// Up to here nothing is spent on those who do not know the secret: X25519 comes last.
	if r.key, err = c.take(); err != nil {
		return err
	}
	r.noise.mixEphemeral(&r.key.public)
	if err := r.mixSharedKey(&e); err != nil {
		return err
	}
	return r.answer(c.Rand)
}

// answer makes Noise message 2.
func (r *Responder) answer(rand io.Reader) error {
	if _, err := io.ReadFull(rand, r.out[:drawBytes]); err != nil {
		return fmt.Errorf("veil: answer: %w", err)
	}
	r.drawn = parseDraws(r.out[:drawBytes])
	padlen := MinAnswerPad + r.drawn.pad
	n := AnswerBytes + padlen
	if _, err := io.ReadFull(rand, r.out[AnswerBytes:n]); err != nil {
		return fmt.Errorf("veil: padding: %w", err)
	}
	r.disguiseKey((*[keyBytes]byte)(r.out[:]), &r.maskR)
	r.sealHello((*[boxBytes]byte)(r.out[keyBytes:]), padlen)
	r.outBytes = n
	return nil
}

// Feed gives the handshake the next bytes of the initiator, those behind the first 96: see [obfs.Handshake]. After [Responder.Open] it does not
// fail.
func (r *Responder) Feed(b []byte) (rest []byte, err error) {
	if !r.started {
		return nil, errNotStarted
	}
	n := min(r.skip, len(b))
	r.skip -= n
	r.end()
	return b[n:], nil
}

// end makes the streams once PAD_i has come.
func (r *Responder) end() {
	if r.skip == 0 && r.streams == nil {
		r.begin(false, 0)
	}
}
