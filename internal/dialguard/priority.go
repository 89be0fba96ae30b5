package dialguard

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Priority returns the canonical priority of a connection between two peers (BEP 40): both ends compute the same number, and those who must choose keep the connections with
// the highest ones, so that a swarm becomes one well-mixed graph that nobody can arrange from outside. The addresses are those that the internet sees. If one is IPv4 and the other
// IPv6, which BEP 40 leaves open, the former counts as mapped into IPv6.
func Priority(a, b netip.AddrPort) uint32 {
	x, y := a.Addr().Unmap().WithZone(""), b.Addr().Unmap().WithZone("")
	if x == y {
		var p [4]byte
		binary.BigEndian.PutUint16(p[:], min(a.Port(), b.Port()))
		binary.BigEndian.PutUint16(p[2:], max(a.Port(), b.Port()))
		return crc32.Checksum(p[:], castagnoli)
	}
	if x.Is4() && y.Is4() {
		p, q := x.As4(), y.As4()
		return masked(p[:], q[:], 2) // FF.FF.55.55, in one /16 FF.FF.FF.55, in one /24 all of it
	}
	p, q := x.As16(), y.As16()
	return masked(p[:], q[:], 6) // in the same way behind the first 48 bits
}

// masked is the priority of two addresses of which the first whole bytes count in full, and one more for each further byte that they share; of the rest every second bit does.
func masked(p, q []byte, whole int) uint32 {
	for shared := whole; shared < len(p) && bytes.Equal(p[:shared], q[:shared]); shared++ {
		whole = shared + 1
	}
	for i := whole; i < len(p); i++ {
		p[i] &= 0x55
		q[i] &= 0x55
	}
	if bytes.Compare(p, q) > 0 {
		p, q = q, p
	}
	return crc32.Update(crc32.Checksum(p, castagnoli), castagnoli, q)
}
