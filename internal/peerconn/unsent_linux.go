package peerconn

import (
	"net"
	"syscall"
)

// unsentBytes is how much the system keeps at most of what is written and not sent yet, beside what is on its way: about a block.
const unsentBytes = 16 << 10

// keepUnsentSmall has the system keep little that is not sent: what lies there has its order, and a message that comes later waits behind it (EMP/1 section 7.4). It costs no
// throughput that could be measured on loopback. Where it fails messages are merely later.
func keepUnsentSmall(nc net.Conn) {
	const tcpNotsentLowat = 25 // TCP_NOTSENT_LOWAT, which package syscall lacks
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, unsentBytes) })
		}
	}
}
