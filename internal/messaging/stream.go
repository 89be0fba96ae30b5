package messaging

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// Why a message ends before its last byte.
var (
	ErrAbandoned    = errors.New("the sender has abandoned the message")
	ErrBusy         = errors.New("no memory left for messages")
	ErrSessionEnded = errors.New("the session has ended")
	ErrStalled      = errors.New("the sender has sent nothing for too long")
)

// streamStall is how long a reader waits for the next fragment: as long as a session may be silent (EMP/1 section 8). A sender that opens a message and leaves it at that would
// otherwise have a handler wait, with all that it holds, for as long as keep-alives come.
const streamStall = 240 * time.Second

// Stream is the payload of a message as it comes. It is read by one goroutine, the handler's. What has come and is not read yet lies in blocks, each of which counts whole:
// a byte takes a block.
type Stream struct {
	in    *inbound // nil for one that came whole
	total int64

	mu     sync.Mutex
	blocks []*blockbuf.Buf
	head   int    // bytes of the first block that have been read
	rest   []byte // of one that came whole
	read   int64
	err    error         // why no more comes; io.EOF once it is whole
	more   chan struct{} // capacity 1
	stall  *time.Timer   // the reader's, once it has waited
	closed bool
}

func newStream(in *inbound) *Stream {
	return &Stream{in: in, total: int64(in.total), more: make(chan struct{}, 1)}
}

// whole returns the stream of a message that has come whole.
func whole(payload []byte) *Stream {
	return &Stream{total: int64(len(payload)), rest: payload, err: io.EOF}
}

// Len returns the length of the message, bytes.
func (s *Stream) Len() int64 { return s.total }

// need returns how much memory n more bytes take. Nothing but add makes it more.
func (s *Stream) need(n int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := len(s.blocks); k > 0 {
		n -= wire.MaxFragment - s.blocks[k-1].Len()
	}
	return int64(max(n, 0)+wire.MaxFragment-1) / wire.MaxFragment * wire.MaxFragment
}

// add adds what has come. It copies data.
func (s *Stream) add(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(data) > 0 {
		var b *blockbuf.Buf
		if n := len(s.blocks); n > 0 && s.blocks[n-1].Len() < wire.MaxFragment {
			b = s.blocks[n-1]
		} else {
			b = blockbuf.Get()
			b.SetLen(0)
			s.blocks = append(s.blocks, b)
		}
		have := b.Len()
		n := min(len(data), wire.MaxFragment-have)
		b.SetLen(have + n)
		copy(b.Bytes()[have:], data[:n])
		data = data[n:]
	}
	s.wake()
}

// finish says that no more comes: err is why, nil if it is whole.
func (s *Stream) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		if s.err = err; err == nil {
			s.err = io.EOF
		}
		s.wake()
	}
}

func (s *Stream) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// Read implements [io.Reader]. Its errors are io.EOF after the last byte, [ErrAbandoned], [ErrBusy], [ErrStalled], [ErrSessionEnded], and [ErrClosed] if the type was withdrawn.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		s.mu.Lock()
		if n := copy(p, s.rest); n > 0 {
			s.rest = s.rest[n:]
			s.read += int64(n)
			s.mu.Unlock()
			return n, nil
		}
		n, freed := 0, int64(0)
		for n < len(p) && len(s.blocks) > 0 {
			b := s.blocks[0]
			k := copy(p[n:], b.Bytes()[s.head:])
			n += k
			if s.head += k; s.head == b.Len() {
				if len(s.blocks) == 1 && s.err == nil && b.Len() < wire.MaxFragment {
					break // the next fragment goes into it
				}
				b.Release()
				freed += wire.MaxFragment
				s.blocks[0] = nil
				s.blocks, s.head = s.blocks[1:], 0
			}
		}
		s.read += int64(n)
		err, closed := s.err, s.closed
		s.mu.Unlock()
		if freed > 0 {
			p := s.in.p
			p.mu.Lock()
			p.drop(freed)
			p.mu.Unlock()
		}
		switch {
		case n > 0:
			return n, nil
		case closed:
			return 0, io.ErrClosedPipe
		case err != nil:
			return 0, err
		}
		if !s.wait() {
			return 0, ErrStalled
		}
	}
}

// wait waits for more, or for the end of the message or the session; false if nothing has come for too long.
func (s *Stream) wait() bool {
	if s.stall == nil {
		s.stall = time.NewTimer(streamStall)
	} else {
		s.stall.Reset(streamStall)
	}
	defer s.stall.Stop()
	select {
	case <-s.more:
		return true
	case <-s.stall.C:
		return false
	}
}

// close takes back what was not read, and reports how much memory that was.
func (s *Stream) close() (unread int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	unread = int64(len(s.blocks)) * wire.MaxFragment
	for _, b := range s.blocks {
		b.Release()
	}
	s.blocks = nil
	return unread
}

// closeStream ends a streamed message whose handler has returned: what is still to come is refused, and its cost given back to the peer.
func (p *Peer) closeStream(in *inbound) {
	p.mu.Lock()
	if p.partials[in.id] != in { // whole, or no more comes
		p.freeStream(in)
		p.mu.Unlock()
		if in.stream.complete() {
			p.owe(cost(in.total))
		}
		return
	}
	p.mu.Unlock()
	// Its end, or its RESET, may come meanwhile.
	p.conn.Do(func(m *peer.Machine) {
		p.mu.Lock()
		defer p.mu.Unlock()
		partial := p.partials[in.id] == in
		if partial {
			p.forget(in, ErrClosed)
		}
		p.freeStream(in)
		switch {
		case partial:
			m.RefuseMessage(in.id, in.total, emp.CodeRefused) // an error has closed the session, which Do sees
		case in.stream.complete():
			m.Credit(cost(in.total))
		}
	})
}

// freeStream gives back the memory of a streamed message that nobody reads any more. The lock is held.
func (p *Peer) freeStream(in *inbound) {
	p.drop(in.stream.close() + in.charged)
	in.charged = 0
}

// taken returns how many bytes have been read.
func (s *Stream) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.read)
}

// complete reports whether all of the message has come.
func (s *Stream) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == io.EOF
}
