package peerconn

import (
	"net"

	"github.com/parley-bt/parley/internal/blockbuf"
)

// smallRead is the size of the buffer that waits for bytes where the system cannot say that a socket is readable.
const smallRead = 2 << 10

// streamReader reads any net.Conn. While little comes it waits with a small buffer of its own; as long as reads fill their buffer it borrows
// a large one.
type streamReader struct {
	nc    net.Conn
	small []byte
	busy  bool
	most  int // bytes to read at once, at least smallRead
}

func (r *streamReader) setMost(n int) { r.most = n }

// read returns a borrowed buffer with n bytes in it; the caller releases it. Both bytes and an error may come at once.
func (r *streamReader) read() (*blockbuf.Large, int, error) {
	if r.busy {
		buf := blockbuf.GetLarge()
		n, err := r.nc.Read(buf.Bytes()[:r.most])
		r.busy = n >= smallRead
		return buf, n, err
	}
	if r.small == nil {
		r.small = make([]byte, smallRead)
	}
	n, err := r.nc.Read(r.small)
	r.busy = n == len(r.small)
	if n == 0 {
		return nil, 0, err
	}
	buf := blockbuf.GetLarge()
	copy(buf.Bytes(), r.small[:n])
	return buf, n, err
}
