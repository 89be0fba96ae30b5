//go:build !parley_any_unsent

package peerconn

import (
	"net"
	"syscall"
	"unsafe"
)

// outletOf returns how to keep little unsent in nc, nil if there is no way.
func outletOf(nc net.Conn) outlet {
	if r, ok := nc.(outlet); ok {
		return r
	}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return &socketOutlet{raw}
		}
	}
	return nil
}

// socketOutlet is the outlet of a TCP socket.
type socketOutlet struct{ raw syscall.RawConn }

// KeepUnsent implements [outlet]. Where it fails messages are merely later.
func (r *socketOutlet) KeepUnsent(n int) {
	const tcpNotsentLowat = 25 // TCP_NOTSENT_LOWAT, which package syscall lacks
	r.raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, n) })
}

// AwaitRoom implements [outlet]: with TCP_NOTSENT_LOWAT a socket is writable once less than half of it is unsent. The error of a socket that has failed is that of the
// write to come.
func (r *socketOutlet) AwaitRoom() { r.raw.Write(writable) }

// writable asks whether a write would go in now. If not, the question has told the kernel to say when.
func writable(fd uintptr) bool {
	const pollOut = 4
	ask := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: pollOut}
	var now syscall.Timespec
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&ask)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return errno != 0 || n != 0
}
