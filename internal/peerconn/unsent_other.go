// The tag parley_any_unsent makes Linux such a system, for comparison in the benchmarks.

//go:build !linux || parley_any_unsent

package peerconn

import "net"

// outletOf returns how to keep little unsent in nc, nil if there is no way, which is so for this system's sockets.
func outletOf(nc net.Conn) outlet {
	r, _ := nc.(outlet)
	return r
}
