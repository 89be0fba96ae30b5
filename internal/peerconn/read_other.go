//go:build !unix

package peerconn

import "net"

// reader is the plain stream reader where sockets cannot be asked whether they are readable without a buffer.
type reader struct{ streamReader }

func (r *reader) init(nc net.Conn) { r.nc = nc }
