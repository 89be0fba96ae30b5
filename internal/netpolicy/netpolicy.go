// Package netpolicy decides which addresses may be contacted on whose word: an address may not be more local than whoever
// named it.
//
// A torrent, a tracker's reply, a peer list or a redirect comes from somewhere. What comes from the internet must not make
// this program talk to the machine it runs on or to the network behind the router, where services trust whoever reaches
// them; what the user typed may. Every address has a class,
//
//	unusable | loopback < link-local < private < global
//
// and every source of addresses has one too: its own address's class, or [Loopback] for the user, who sits at this machine.
// An address is refused if its class is below that of its source, unless the user allowed it ([Policy.Allow]). Unusable
// addresses (unspecified, multicast, reserved) are always refused.
//
// The package does not resolve names and opens no connection. Whoever does must check each address that a name resolves to,
// and connect to an address that was checked, not to the name.
package netpolicy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Class says how local an address is. A higher class is less local. As a source, the zero Class counts as [Global], so
// that forgetting to say who named an address is safe.
type Class uint8

// The classes, from the most local to the least.
const (
	Unusable  Class = iota // unspecified, multicast, reserved, not an address
	Loopback               // this machine
	LinkLocal              // this network segment
	Private                // networks behind a router or a provider's NAT (RFC 1918, RFC 6598, RFC 4193)
	Global                 // everything else
)

// String returns the name of the class.
func (c Class) String() string {
	switch c {
	case Loopback:
		return "loopback"
	case LinkLocal:
		return "link-local"
	case Private:
		return "private"
	case Global:
		return "global"
	}
	return "unusable"
}

type entry struct {
	prefix netip.Prefix
	class  Class
}

// The first prefix that contains an address decides. Addresses for documentation count as global: they lead nowhere, and
// the rule is about places that are near.
var (
	table4 = []entry{
		{netip.MustParsePrefix("0.0.0.0/8"), Unusable}, // some systems take 0.0.0.0 for themselves
		{netip.MustParsePrefix("127.0.0.0/8"), Loopback},
		{netip.MustParsePrefix("169.254.0.0/16"), LinkLocal},
		{netip.MustParsePrefix("10.0.0.0/8"), Private},
		{netip.MustParsePrefix("172.16.0.0/12"), Private},
		{netip.MustParsePrefix("192.168.0.0/16"), Private},
		{netip.MustParsePrefix("100.64.0.0/10"), Private}, // RFC 6598: provider NAT
		{netip.MustParsePrefix("192.0.0.0/24"), Private},  // RFC 6890: between a host and its gateway
		{netip.MustParsePrefix("198.18.0.0/15"), Private}, // RFC 2544: test networks
		{netip.MustParsePrefix("224.0.0.0/3"), Unusable},  // multicast, reserved, broadcast
		{netip.MustParsePrefix("0.0.0.0/0"), Global},
	}
	table6 = []entry{
		{netip.MustParsePrefix("::1/128"), Loopback},
		{netip.MustParsePrefix("fe80::/10"), LinkLocal},
		{netip.MustParsePrefix("fc00::/7"), Private},
		{netip.MustParsePrefix("fec0::/10"), Private},      // the former site-local addresses
		{netip.MustParsePrefix("64:ff9b:1::/48"), Private}, // RFC 8215: a network's own translation
		{netip.MustParsePrefix("2000::/3"), Global},        // all that is assigned as global unicast
		{netip.MustParsePrefix("::/0"), Unusable},          // unspecified, multicast, discard, unassigned
	}
)

// embeds lists the IPv6 prefixes whose addresses lead to an IPv4 address written inside: the offset of its four bytes.
// Mapped addresses (::ffff:0:0/96) are IPv4 addresses already.
var embeds = []struct {
	prefix   netip.Prefix
	at       int
	inverted bool
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12, false},    // RFC 6052: NAT64
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12, false}, // RFC 2765: stateless translation
	{netip.MustParsePrefix("2002::/16"), 2, false},        // RFC 3056: 6to4
	{netip.MustParsePrefix("2001::/32"), 12, true},        // RFC 4380: Teredo, the client
	{netip.MustParsePrefix("2001::/32"), 4, false},        // and its server
}

// ClassOf returns the class of a. An IPv6 address that leads to an IPv4 address by translation or tunnel has the class of
// that address.
func ClassOf(a netip.Addr) Class {
	if !a.IsValid() {
		return Unusable
	}
	a = a.WithZone("").Unmap()
	if a.Is4() {
		return lookup(table4, a)
	}
	class, found := Global, false
	for _, e := range embeds {
		if e.prefix.Contains(a) {
			b := a.As16()
			v4 := [4]byte(b[e.at : e.at+4])
			if e.inverted {
				for i := range v4 {
					v4[i] ^= 0xff
				}
			}
			class, found = min(class, lookup(table4, netip.AddrFrom4(v4))), true
		}
	}
	if found {
		return class
	}
	return lookup(table6, a)
}

func lookup(table []entry, a netip.Addr) Class {
	for _, e := range table {
		if e.prefix.Contains(a) {
			return e.class
		}
	}
	return Unusable
}

// Policy says what the user allows beyond the rule. The zero Policy is the rule alone. It is read only and safe for
// concurrent use.
type Policy struct {
	// Allow lists networks that anyone may name. Unusable addresses stay refused.
	Allow []netip.Prefix
}

// Check returns nil if a may be contacted on the word of a source of class by, else a [*RefusedError].
func (p Policy) Check(a netip.Addr, by Class) error {
	if by == Unusable {
		by = Global
	}
	class := ClassOf(a)
	if class >= by {
		return nil
	}
	plain := a.WithZone("").Unmap()
	if class != Unusable && slices.ContainsFunc(p.Allow, func(n netip.Prefix) bool { return n.Contains(plain) }) {
		return nil
	}
	return &RefusedError{Addr: a, Class: class, By: by}
}

// Filter keeps the peers of list, in place, that a source of class by may name and whose port is not 0, and returns them
// with mapped addresses made plain.
func (p Policy) Filter(list []netip.AddrPort, by Class) []netip.AddrPort {
	kept := list[:0]
	for _, ap := range list {
		if ap.Port() != 0 && p.Check(ap.Addr(), by) == nil {
			kept = append(kept, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
		}
	}
	return kept
}

// RefusedError says that an address was not contacted because of who named it.
type RefusedError struct {
	Addr  netip.Addr
	Class Class // of Addr
	By    Class // of whoever named it
}

// Error says what was refused and what the user can do.
func (e *RefusedError) Error() string {
	if e.Class == Unusable {
		return fmt.Sprintf("address %v cannot be a host's", e.Addr)
	}
	return fmt.Sprintf("address %v is %v, and a %v source named it: allow it explicitly if that is meant", e.Addr, e.Class, e.By)
}
