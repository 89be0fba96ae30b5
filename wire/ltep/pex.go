package ltep

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/wire"
)

// NamePEX is the name of peer exchange in "m" (BEP 11).
const NamePEX = "ut_pex"

// MaxPEXReceived is how many added addresses, and how many dropped ones, are read of one message; further ones are ignored (EMP/1 section 8).
const MaxPEXReceived = 100

// MaxPEXSent is how many added addresses, and how many dropped ones, a message may carry, IPv4 and IPv6 together (BEP 11).
const MaxPEXSent = 50

// PEXFlags is what the teller knows of an added peer (BEP 11, "added.f"). Unknown bits are kept.
type PEXFlags uint8

// The flags of BEP 11.
const (
	PEXEncryption PEXFlags = 0x01 // prefers an encrypted connection
	PEXUploadOnly PEXFlags = 0x02 // is a seed, or wants nothing more
	PEXUTP        PEXFlags = 0x04 // speaks uTP
	PEXHolepunch  PEXFlags = 0x08 // speaks ut_holepunch
	PEXReachable  PEXFlags = 0x10 // the teller connected to it, so it can be reached
)

// PEXPeer is an address that a peer tells of.
type PEXPeer struct {
	Addr  netip.AddrPort
	Flags PEXFlags
}

// PEX is a ut_pex message (BEP 11): who joined and who left since the last one. Addresses are never IPv4-mapped. Nothing in it is true because a peer says so: see
// the caller's policy of addresses.
type PEX struct {
	Added   []PEXPeer
	Dropped []netip.AddrPort
}

// Kind implements [wire.Message].
func (PEX) Kind() wire.Kind { return wire.KindPEX }

// ParsePEX reads the payload of a ut_pex message. It is strict about the dictionary and tolerant inside it: absent keys and keys of another kind are
// empty; half an address at the end, missing flags, addresses with port 0, IPv4 written as IPv6 and whatever is beyond [MaxPEXReceived] are ignored. The
// error is a [*wire.SyntaxError]. The result owns its memory.
func ParsePEX(payload []byte) (PEX, error) {
	bad := func(reason string) (PEX, error) {
		return PEX{}, &wire.SyntaxError{Dialect: wire.DialectLTEP, Kind: wire.KindPEX, Offset: 2, Reason: reason}
	}
	v, _, err := bencode.Parse(payload, bencode.Limits{Bytes: wire.MaxExtendedFrame, Depth: 8})
	if err != nil {
		return bad(err.Error())
	}
	if v.Kind() != bencode.KindDict {
		return bad("not a dictionary")
	}
	text := func(key string) []byte {
		val, _ := v.Get(key)
		b, _ := val.Bytes()
		return b
	}
	var p PEX
	for _, l := range pexLists {
		flags := text(l.added + ".f")
		for i, a := range compact(text(l.added), l.size) {
			if len(p.Added) == MaxPEXReceived {
				break
			}
			var f PEXFlags
			if i < len(flags) {
				f = PEXFlags(flags[i])
			}
			p.Added = append(p.Added, PEXPeer{a, f})
		}
		for _, a := range compact(text(l.dropped), l.size) {
			if len(p.Dropped) == MaxPEXReceived {
				break
			}
			p.Dropped = append(p.Dropped, a)
		}
	}
	return p, nil
}

// pexLists are the keys of each address family and the length of its compact addresses (BEP 23, BEP 7).
var pexLists = [2]struct {
	added, dropped string
	size           int
}{{"added", "dropped", 4 + 2}, {"added6", "dropped6", 16 + 2}}

// compact yields the places and the addresses of a compact list that can be meant.
func compact(b []byte, size int) iter.Seq2[int, netip.AddrPort] {
	return func(yield func(int, netip.AddrPort) bool) {
		for i := 0; len(b) >= size; i, b = i+1, b[size:] {
			ip, _ := netip.AddrFromSlice(b[:size-2]) // 4 or 16 bytes are always an address
			port := binary.BigEndian.Uint16(b[size-2:])
			if port == 0 || ip.Is4In6() {
				continue
			}
			if !yield(i, netip.AddrPortFrom(ip, port)) {
				return
			}
		}
	}
}

// AppendPEX appends the payload of a ut_pex message. Empty lists are left out. Addresses must be valid; IPv4 written as IPv6 goes out as IPv4. The limit [MaxPEXSent] is the
// caller's to keep.
func AppendPEX(dst []byte, p PEX) []byte {
	var d bencode.Dict
	for i, l := range pexLists {
		var addrs, flags, gone []byte
		for _, a := range p.Added {
			if ip := a.Addr.Addr().Unmap(); ip.Is6() == (i == 1) {
				addrs = binary.BigEndian.AppendUint16(append(addrs, ip.AsSlice()...), a.Addr.Port())
				flags = append(flags, byte(a.Flags))
			}
		}
		for _, a := range p.Dropped {
			if ip := a.Addr().Unmap(); ip.Is6() == (i == 1) {
				gone = binary.BigEndian.AppendUint16(append(gone, ip.AsSlice()...), a.Port())
			}
		}
		if len(addrs) > 0 {
			d.SetBytes(l.added, addrs)
			d.SetBytes(l.added+".f", flags)
		}
		if len(gone) > 0 {
			d.SetBytes(l.dropped, gone)
		}
	}
	return d.Append(dst)
}
