package mse

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-bt/parley/obfs"
)

// An Initiator is the side that dials. The zero value is of no use before Init. It has one owner.
type Initiator struct {
	outbox
	state   initiatorState
	offered Methods
	method  Methods
	err     error

	x    exponent
	skey [20]byte
	key  [KeyBytes]byte // Yb as it comes
	padC int

	n      int             // bytes of Yb; of PadB and VC; of head; of PadD, as the state says
	window uint64          // the last 8 bytes in the search for VC
	vc     uint64          // VC as the responder encrypts it
	head   [headBytes]byte // step 4 from VC on; VC itself is not written here
	padD   int
	in     *rc4Stream
	out    *rc4Stream

	streams obfs.Streams // once done
}

type initiatorState uint8

const (
	awaitingYb initiatorState = iota
	searchingVC
	readingSelect
	skippingPadD
	initiatorDone
)

// Init prepares the handshake for a torrent, after which there is step 1 to be sent. ia is what is sent in step 3 as the initial payload, up to MaxIA bytes; it is copied. The
// error says that ia is too long, that c.Methods names none that exists, or that c.Rand failed, and is not the peer's.
//
// BiglyBT holds step 4 back until it has all of what begins like a classic hello in IA: put at least its first 48 bytes there, or nothing (azmp.md section 9.7).
func (i *Initiator) Init(c Config, skey [20]byte, ia []byte) error {
	methods, err := c.methods()
	if err != nil {
		return err
	}
	if len(ia) > MaxIA {
		return fmt.Errorf("mse: IA of %d bytes, at most %d", len(ia), MaxIA)
	}
	*i = Initiator{offered: methods, skey: skey}
	flights, padA, padC, err := c.begin(&i.x, i.head[:], 2*hashBytes+headBytes+2+len(ia))
	if err != nil {
		*i = Initiator{}
		return err
	}
	i.padC = padC
	i.flights, i.open = flights, KeyBytes+padA
	copy(flights[len(flights)-len(ia):], ia)
	return nil
}

// Feed implements [obfs.Handshake]. Step 3 may be sent as soon as Yb is there: the peer may send the rest of PadB only after it (azmp.md section 9.3). The error is an [*Error].
func (i *Initiator) Feed(b []byte) (rest []byte, err error) {
	for i.err == nil {
		switch i.state {
		case awaitingYb:
			n := copy(i.key[i.n:], b)
			b = b[n:]
			if i.n += n; i.n < KeyBytes {
				return nil, nil
			}
			i.n = 0
			if !validKey(&i.key) {
				return nil, i.fail(&Error{Step: 2, Reason: "Yb is outside 2..P-2", Err: ErrBadKey})
			}
			i.ask()
			i.state = searchingVC
		case searchingVC:
			k := 0
			for ; k < len(b); k++ {
				i.window = i.window<<8 | uint64(b[k])
				if i.n++; i.n >= vcBytes && i.window == i.vc {
					break
				}
				if i.n == MaxPad+vcBytes {
					return nil, i.fail(&Error{Step: 4, Reason: fmt.Sprintf("no VC within %d bytes", i.n)})
				}
			}
			if k == len(b) {
				return nil, nil
			}
			b = b[k+1:]
			i.n, i.state = vcBytes, readingSelect
		case readingSelect:
			n := copy(i.head[i.n:], b)
			b = b[n:]
			if i.n += n; i.n < headBytes {
				return nil, nil
			}
			i.in.c.xor(i.head[vcBytes:])
			// As with crypto_provide, only the lowest byte counts.
			i.method = Methods(i.head[vcBytes+3])
			if i.method != RC4 && i.method != Plaintext || i.method&i.offered == 0 {
				return nil, i.fail(&Error{Step: 4, Reason: fmt.Sprintf("crypto_select is %#x, where %v was offered", i.head[vcBytes:vcBytes+4], i.offered), Err: ErrNoMethod})
			}
			if i.padD = int(binary.BigEndian.Uint16(i.head[vcBytes+4:])); i.padD > MaxPad {
				return nil, i.fail(&Error{Step: 4, Reason: fmt.Sprintf("PadD of %d bytes", i.padD)})
			}
			i.n, i.state = 0, skippingPadD
		case skippingPadD:
			n := min(i.padD-i.n, len(b))
			i.in.c.skip(n) // what is in PadD means nothing
			b = b[n:]
			if i.n += n; i.n < i.padD {
				return nil, nil
			}
			i.streams = newStreams(i.method, i.in, i.out, 0)
			i.in, i.out, i.state = nil, nil, initiatorDone
		default:
			return b, nil
		}
	}
	return nil, i.err
}

// ask writes step 3 and forgets what S was made of.
func (i *Initiator) ask() {
	s := i.x.secret(&i.key)
	i.out, i.in = newStream("keyA", &s, &i.skey), newStream("keyB", &s, &i.skey)
	req1, req2, req3 := hash("req1", s[:], nil), Req2(&i.skey), hash("req3", s[:], nil)
	clear(s[:])
	clear(i.x[:])

	b := i.openSecond() // zeros up to IA
	copy(b, req1[:])
	for k := range req2 {
		b[hashBytes+k] = req2[k] ^ req3[k]
	}
	b = b[2*hashBytes:]
	b[vcBytes+3] = byte(i.offered)
	binary.BigEndian.PutUint16(b[vcBytes+4:], uint16(i.padC))
	binary.BigEndian.PutUint16(b[headBytes+i.padC:], uint16(len(b)-headBytes-i.padC-2))
	i.out.c.xor(b)

	var vc [vcBytes]byte
	i.in.c.xor(vc[:])
	i.vc = binary.BigEndian.Uint64(vc[:])
}

func (i *Initiator) fail(err *Error) error {
	clear(i.x[:])
	i.method, i.in, i.out, i.err = 0, nil, nil, err
	return err
}

// Done implements [obfs.Handshake].
func (i *Initiator) Done() (obfs.Streams, bool) {
	return i.streams, i.state == initiatorDone
}

// Method returns which method the responder selected, 0 before the handshake is done.
func (i *Initiator) Method() Methods {
	if i.state != initiatorDone {
		return 0
	}
	return i.method
}

// Answered reports whether all of Yb has come, and is a key. If the connection closes after that and before the handshake is done, the same again may succeed: libtorrent 2.0.8 as responder fails
// whenever S begins with a zero byte, once in 256 handshakes (reference/peers.md, traps).
func (i *Initiator) Answered() bool { return i.state > awaitingYb }
