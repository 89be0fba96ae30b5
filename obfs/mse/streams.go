package mse

import "github.com/parley-bt/parley/obfs"

// rc4Stream is one direction of a connection whose method is RC4.
type rc4Stream struct{ c rc4 }

// plainStream is one direction of a connection whose method is plaintext.
type plainStream struct{}

// iaOpener is what a responder opens with if the method is plaintext: IA is RC4 always, and what follows it is not (azmp.md section 9.2).
type iaOpener struct {
	ia   *rc4Stream // nil once IA is through: a connection does not keep the state of a key stream that has ended
	left int        // bytes of IA to come
}

// newStreams returns what a handshake that selected method has agreed on, where ia bytes of IA are still to come in.
func newStreams(method Methods, in, out *rc4Stream, ia int) obfs.Streams {
	switch {
	case method == RC4:
		return obfs.Streams{Opener: in, Sealer: out}
	case ia > 0:
		return obfs.Streams{Opener: &iaOpener{ia: in, left: ia}, Sealer: plainStream{}}
	}
	return obfs.Streams{Opener: plainStream{}, Sealer: plainStream{}}
}

func (s *rc4Stream) Open(b []byte) (plain, rest []byte, err error) {
	s.c.xor(b)
	return b, nil, nil
}

func (s *rc4Stream) Seal(_, b []byte) []byte {
	b = b[obfs.Headroom:]
	s.c.xor(b)
	return b
}

func (*rc4Stream) Held() int           { return 0 }
func (*rc4Stream) SealedBytes(int) int { return 0 }

func (plainStream) Open(b []byte) (plain, rest []byte, err error) { return b, nil, nil }
func (plainStream) Seal(_, b []byte) []byte                       { return b[obfs.Headroom:] }
func (plainStream) Held() int                                     { return 0 }
func (plainStream) SealedBytes(int) int                           { return 0 }

func (o *iaOpener) Open(b []byte) (plain, rest []byte, err error) {
	if o.left > 0 {
		n := min(o.left, len(b))
		o.ia.c.xor(b[:n])
		if o.left -= n; o.left == 0 {
			o.ia = nil
		}
	}
	return b, nil, nil
}

func (*iaOpener) Held() int { return 0 }
