//go:build unix

package peerconn

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/parley-bt/parley/internal/blockbuf"
)

// reader waits until a socket is readable and only then borrows a buffer, so that an idle connection holds none.
type reader struct {
	stream streamReader // for connections that are no sockets
	raw    syscall.RawConn
	try    func(fd uintptr) bool // r.tryRead, made once
	buf    *blockbuf.Large
	n      int
	err    error
}

func (r *reader) init(nc net.Conn) {
	r.stream.nc = nc
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw, r.try = raw, r.tryRead
		}
	}
}

// read returns a borrowed buffer with n bytes in it, which the caller releases; the buffer may be nil where n is 0.
func (r *reader) read() (*blockbuf.Large, int, error) {
	if r.raw == nil {
		return r.stream.read()
	}
	r.buf, r.n, r.err = nil, 0, nil
	if err := r.raw.Read(r.try); err != nil {
		return nil, 0, err
	}
	if r.err == nil && r.n == 0 {
		r.err = io.EOF
	}
	buf := r.buf
	r.buf = nil
	return buf, r.n, r.err
}

// tryRead reads once without blocking; false means that nothing is there yet.
func (r *reader) tryRead(fd uintptr) bool {
	buf := blockbuf.GetLarge()
	for {
		n, err := syscall.Read(int(fd), buf.Bytes())
		switch err {
		case nil:
			r.buf, r.n = buf, n
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			buf.Release()
			return false
		}
		buf.Release()
		r.err = os.NewSyscallError("read", err)
		return true
	}
}

// parks reports whether a reader that waits holds nothing but its stack, so that replacing its goroutine pays.
func (r *reader) parks() bool { return r.raw != nil }
