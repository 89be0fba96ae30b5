//go:build !linux

package peerconn

import "net"

// unacknowledged cannot be known here.
func unacknowledged(net.Conn) (int, bool) { return 0, false }
