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
	most   int // bytes to read at once

	put     func(fd uintptr) bool // r.tryWrite, made once
	out     []byte
	written int
	outErr  error
}

func (r *reader) init(nc net.Conn) {
	r.stream.nc = nc
	r.setMost(blockbuf.LargeBytes)
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw, r.try, r.put = raw, r.tryRead, r.tryWrite
		}
	}
}

// setMost bounds a read to n bytes.
func (r *reader) setMost(n int) {
	r.most = n
	r.stream.setMost(n)
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
		n, err := syscall.Read(int(fd), buf.Bytes()[:r.most])
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

// writeNow writes as much of b as the socket takes at once. Nothing else may write meanwhile.
func (r *reader) writeNow(b []byte) (int, error) {
	r.out, r.written, r.outErr = b, 0, nil
	err := r.raw.Write(r.put)
	r.out = nil
	if err == nil {
		err = r.outErr
	}
	return r.written, err
}

// tryWrite writes once without blocking.
func (r *reader) tryWrite(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), r.out)
		switch err {
		case nil:
			r.written = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
		default:
			r.outErr = os.NewSyscallError("write", err)
		}
		return true
	}
}
