//go:build !linux

package peerconn

import "net"

// keepUnsentSmall is not known to this system: messages wait behind what it has not sent yet.
func keepUnsentSmall(net.Conn) {}
