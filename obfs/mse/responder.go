package mse

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-bt/parley/obfs"
)

// A Responder is the side that was dialled. The zero value is of no use before Begin. It has one owner.
type Responder struct {
	outbox
	state    responderState
	accepted Methods
	method   Methods
	answered bool
	found    bool
	err      error

	x    exponent
	skey [20]byte
	key  [KeyBytes]byte // Ya, then S until the torrent is known
	padD int

	n      int // bytes of PadA and req1; of asked; of head; of PadC; of the length of IA, as the state says
	window hashWindow
	req1   hashWindow
	req3   [hashBytes]byte
	asked  [hashBytes]byte
	head   [headBytes]byte
	padC   int
	lenIA  [2]byte
	in     *rc4Stream
	out    *rc4Stream

	streams obfs.Streams // once done
}

type responderState uint8

const (
	holdingYa responderState = iota
	searchingReq1
	readingSKEY
	awaitingAnswer
	readingProvide
	skippingPadC
	readingLenIA
	responderDone
)

// hashWindow is 20 bytes as numbers, to which others are appended one by one.
type hashWindow struct {
	high uint32
	low  [2]uint64
}

func (w *hashWindow) push(b byte) {
	w.high = w.high<<8 | uint32(w.low[0]>>56)
	w.low[0] = w.low[0]<<8 | w.low[1]>>56
	w.low[1] = w.low[1]<<8 | uint64(b)
}

// Begin prepares the handshake, after which there is step 2 to be sent. ya is what the peer sent first; it is borrowed. It is not looked at before step 2 has gone, so that the
// answer does not tell what it was (EMP/1 section 2): one outside 2..P-2 fails at the next Feed. The error says that c.Methods names none that exists, or that c.Rand failed, and is
// not the peer's.
func (r *Responder) Begin(c Config, ya *[KeyBytes]byte) error {
	methods, err := c.methods()
	if err != nil {
		return err
	}
	*r = Responder{accepted: methods, key: *ya}
	flights, padB, padD, err := c.begin(&r.x, r.head[:], headBytes)
	if err != nil {
		*r = Responder{}
		return err
	}
	r.padD = padD
	r.flights, r.open = flights, KeyBytes+padB
	return nil
}

// Feed implements [obfs.Handshake]. The first it is fed is what follows Ya. Once the torrent that is asked for is known ([Responder.Asked]) it returns what is left, until [Responder.Answer]
// has been called. The error is an [*Error].
//
// The handshake is done when the length of IA is known: IA is the head of what the Opener gets. So step 4 does not wait for IA, as BiglyBT's does.
func (r *Responder) Feed(b []byte) (rest []byte, err error) {
	for r.err == nil {
		switch r.state {
		case holdingYa:
			if !validKey(&r.key) {
				return nil, r.fail(&Error{Step: 1, Reason: "Ya is outside 2..P-2", Err: ErrBadKey})
			}
			if len(b) == 0 {
				return nil, nil // S is computed for those only who go on
			}
			r.agree()
			r.state = searchingReq1
		case searchingReq1:
			k := 0
			for ; k < len(b); k++ {
				r.window.push(b[k])
				if r.n++; r.n >= hashBytes && r.window == r.req1 {
					break
				}
				if r.n == MaxPad+hashBytes {
					return nil, r.fail(&Error{Step: 3, Reason: fmt.Sprintf("no req1 hash within %d bytes", r.n)})
				}
			}
			if k == len(b) {
				return nil, nil
			}
			b = b[k+1:]
			r.n, r.state = 0, readingSKEY
		case readingSKEY:
			n := copy(r.asked[r.n:], b)
			b = b[n:]
			if r.n += n; r.n < hashBytes {
				return nil, nil
			}
			for k := range r.asked {
				r.asked[k] ^= r.req3[k]
			}
			r.state = awaitingAnswer
		case awaitingAnswer:
			if !r.answered {
				return b, nil
			}
			if !r.found {
				return nil, r.fail(&Error{Step: 3, Reason: ErrUnknownSKEY.Error(), Err: ErrUnknownSKEY})
			}
			r.in, r.out = newStream("keyA", &r.key, &r.skey), newStream("keyB", &r.key, &r.skey)
			clear(r.key[:])
			r.n, r.state = 0, readingProvide
		case readingProvide:
			n := copy(r.head[r.n:], b)
			b = b[n:]
			if r.n += n; r.n < headBytes {
				return nil, nil
			}
			if err := r.choose(); err != nil {
				return nil, r.fail(err)
			}
			r.n, r.state = 0, skippingPadC
		case skippingPadC:
			n := min(r.padC-r.n, len(b))
			r.in.c.skip(n) // what is in PadC means nothing
			b = b[n:]
			if r.n += n; r.n < r.padC {
				return nil, nil
			}
			r.n, r.state = 0, readingLenIA
		case readingLenIA:
			n := copy(r.lenIA[r.n:], b)
			b = b[n:]
			if r.n += n; r.n < len(r.lenIA) {
				return nil, nil
			}
			r.in.c.xor(r.lenIA[:])
			r.tell()
			r.streams = newStreams(r.method, r.in, r.out, int(binary.BigEndian.Uint16(r.lenIA[:])))
			r.in, r.out, r.state = nil, nil, responderDone
		default:
			return b, nil
		}
	}
	return nil, r.err
}

// agree computes S, in place of Ya, and what is to be looked for.
func (r *Responder) agree() {
	r.key = r.x.secret(&r.key)
	clear(r.x[:])
	req1 := hash("req1", r.key[:], nil)
	for _, b := range req1 {
		r.req1.push(b)
	}
	r.req3 = hash("req3", r.key[:], nil)
}

// choose reads VC, crypto_provide and the length of PadC.
func (r *Responder) choose() *Error {
	r.in.c.xor(r.head[:])
	// BiglyBT does not look at VC (azmp.md section 9.3). All that is known send zeros there, and without them the method and lengths that follow are noise: whoever sends
	// something else knows S and the torrent but not the protocol.
	if binary.BigEndian.Uint64(r.head[:]) != 0 {
		return &Error{Step: 3, Reason: "VC is not zero"}
	}
	// Only the lowest byte counts, as with BiglyBT (azmp.md section 9.3; transcript 12e offers 0x102).
	provided := Methods(r.head[vcBytes+3])
	switch both := provided & r.accepted; {
	case both&RC4 != 0: // BiglyBT prefers plaintext; that is no obfuscation for those who want some
		r.method = RC4
	case both != 0:
		r.method = Plaintext
	default:
		return &Error{Step: 3, Reason: fmt.Sprintf("crypto_provide is %#x, where %v is accepted", r.head[vcBytes:vcBytes+4], r.accepted), Err: ErrNoMethod}
	}
	if r.padC = int(binary.BigEndian.Uint16(r.head[vcBytes+4:])); r.padC > MaxPad {
		return &Error{Step: 3, Reason: fmt.Sprintf("PadC of %d bytes", r.padC)}
	}
	return nil
}

// tell writes step 4.
func (r *Responder) tell() {
	b := r.openSecond() // zeros
	b[vcBytes+3] = byte(r.method)
	binary.BigEndian.PutUint16(b[vcBytes+4:], uint16(r.padD))
	r.out.c.xor(b)
}

func (r *Responder) fail(err *Error) error {
	clear(r.x[:])
	clear(r.key[:])
	r.method, r.in, r.out, r.err = 0, nil, nil, err
	return err
}

// Asked returns HASH("req2" SKEY) of the torrent that the peer asks for, which [Req2] computes, while it is known and Answer has not been called.
func (r *Responder) Asked() (hash [20]byte, ok bool) {
	if r.state != awaitingAnswer || r.answered || r.err != nil {
		return [20]byte{}, false
	}
	return r.asked, true
}

// Answer says which torrent's SKEY has the hash that Asked returned, or that none has, which makes the next Feed fail. Feed goes on afterwards, with what it returned. It does nothing
// if nothing is asked.
func (r *Responder) Answer(skey [20]byte, found bool) {
	if _, ok := r.Asked(); ok {
		r.skey, r.answered, r.found = skey, true, found
	}
}

// Done implements [obfs.Handshake].
func (r *Responder) Done() (obfs.Streams, bool) {
	return r.streams, r.state == responderDone
}

// Method returns the selected method, 0 before the handshake is done.
func (r *Responder) Method() Methods {
	if r.state != responderDone {
		return 0
	}
	return r.method
}
