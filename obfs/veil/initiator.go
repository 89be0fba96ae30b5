package veil

import (
	"fmt"
	"io"

	"github.com/parley-bt/parley/obfs"
)

// Initiator is the handshake of the side that opened the connection, an [obfs.Handshake]. [Initiator.Init] starts it. It is done, and its owner may
// send, as soon as the 60 bytes of the answer have opened (EMP/1 section 3: "and then its exchange at once"); the padding behind them is left to
// the Opener, which skips it. On an error the owner closes.
type Initiator struct {
	side
	in      [AnswerBytes]byte
	inBytes int
	started bool
}

var _ obfs.Handshake = (*Initiator)(nil)

// Init starts a handshake for a secret, which is borrowed, and forgets any former one: AppendOutput then has a first flight of 96 to 608 bytes. The
// error is that of c.Rand, or [ErrKeyUsed], and then the Initiator is of no use.
func (i *Initiator) Init(c Config, secret *Secret) error {
	*i = Initiator{}
	key, err := c.take()
	if err != nil {
		return err
	}
	// The draws stand for a moment where TAG will be.
	if _, err := io.ReadFull(c.Rand, i.out[:ivBytes+drawBytes]); err != nil {
		return fmt.Errorf("veil: hello: %w", err)
	}
	drawn := parseDraws(i.out[ivBytes:])
	n := HelloBytes + drawn.pad
	if _, err := io.ReadFull(c.Rand, i.out[HelloBytes:n]); err != nil {
		return fmt.Errorf("veil: padding: %w", err)
	}
	i.key, i.drawn = key, drawn

	iv, tag := (*[ivBytes]byte)(i.out[:]), (*[tagBytes]byte)(i.out[ivBytes:])
	*tag = Tag(iv[:], secret)
	i.start(iv, tag, secret)
	i.noise.mixEphemeral(&i.key.public)
	i.disguiseKey((*[keyBytes]byte)(i.out[ivBytes+tagBytes:]), &i.maskI)
	i.sealHello((*[boxBytes]byte)(i.out[ivBytes+tagBytes+keyBytes:]), drawn.pad)
	i.outBytes, i.started = n, true
	return nil
}

// Feed gives the handshake the next bytes of the responder: see [obfs.Handshake]. The error wraps [obfs.ErrHandshake].
func (i *Initiator) Feed(b []byte) (rest []byte, err error) {
	switch {
	case i.err != nil:
		return nil, i.err
	case !i.started:
		return nil, errNotStarted
	case i.streams != nil:
		return b, nil
	}
	n := copy(i.in[i.inBytes:], b)
	i.inBytes, b = i.inBytes+n, b[n:]
	if i.inBytes < AnswerBytes {
		return b, nil
	}
	if i.err = i.answer(); i.err != nil {
		return nil, i.err
	}
	return b, nil
}

// answer reads Noise message 2.
func (i *Initiator) answer() error {
	e := i.receiveKey((*[keyBytes]byte)(i.in[:]), &i.maskR)
	if err := i.mixSharedKey(&e); err != nil {
		return err
	}
	chosen, padlen, err := i.openHello((*[boxBytes]byte)(i.in[keyBytes:]))
	switch {
	case err != nil:
		return err
	case chosen != version: // 1..offered, and 1 is what was offered
		return errVersion
	case padlen < MinAnswerPad || padlen > MaxAnswerPad:
		return errPad
	}
	i.begin(true, padlen)
	return nil
}
