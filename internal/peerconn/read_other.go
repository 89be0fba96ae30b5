//go:build !unix

package peerconn

import (
	"net"

	"github.com/parley-bt/parley/internal/blockbuf"
)

// reader is the plain stream reader where sockets cannot be asked whether they are readable without a buffer.
type reader struct{ streamReader }

func (r *reader) init(nc net.Conn) { r.nc, r.most = nc, blockbuf.LargeBytes }

// parks reports whether a reader that waits holds nothing but its stack; here it holds a buffer.
func (r *reader) parks() bool { return false }

// writeNow is never called where readers do not park.
func (r *reader) writeNow([]byte) (int, error) { return 0, nil }
