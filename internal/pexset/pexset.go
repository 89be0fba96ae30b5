// Package pexset decides what to tell a peer of the others (BEP 11): who joined and who left since it was told last, at most 50 of each at a time and one message a minute.
// Nobody is told of itself, seeds are not told of seeds, and nobody of an address that is more local than its own. The package knows neither connections nor clocks; which
// peers can be reached, and that a private torrent tells nobody (BEP 27), is up to its owner.
//
// What happened is kept once for the whole swarm, in the order in which it happened, and a peer only needs its place in it, so that a swarm of thousands costs no table per pair:
//
//	joined   … 17 18 19 20 …      left   … 5 6 7 …
//	               ▲ Cursor                ▲ Cursor
package pexset

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/wire/ltep"
)

// Interval is the least time between two messages to one peer (BEP 11).
const Interval = time.Minute

// maxLeft is how many departures are remembered. A peer that has not been told of older ones never is: it will find out when it dials.
const maxLeft = 1000

// Set is the peers of a swarm that others may be told of. The zero Set is empty and ready. It belongs to one owner and is not safe for concurrent use. Its memory is bounded by the
// number of members and a constant.
type Set struct {
	members   map[netip.AddrPort]uint64 // number of the member's join
	joined    []join                    // in order of number; those that left are taken out now and then
	left      []departure               // in order of number
	gone      int                       // how many of joined have left
	joins     uint64                    // the next join's number
	departure uint64                    // the next departure's number
}

type join struct {
	number uint64
	addr   netip.AddrPort
	flags  ltep.PEXFlags
	class  netpolicy.Class
	gone   bool
}

type departure struct {
	number uint64
	join   join
}

// Join adds a peer by the address at which it listens, or changes its flags. Addresses that no host can have are ignored.
func (s *Set) Join(addr netip.AddrPort, flags ltep.PEXFlags) {
	addr = plain(addr)
	class := netpolicy.ClassOf(addr.Addr())
	if class == netpolicy.Unusable || addr.Port() == 0 {
		return
	}
	if n, known := s.members[addr]; known {
		i, _ := s.find(n)
		s.joined[i].flags = flags
		return
	}
	if s.members == nil {
		s.members = make(map[netip.AddrPort]uint64)
	}
	s.members[addr] = s.joins
	s.joined = append(s.joined, join{number: s.joins, addr: addr, flags: flags, class: class})
	s.joins++
}

// Leave takes a peer out.
func (s *Set) Leave(addr netip.AddrPort) {
	addr = plain(addr)
	n, known := s.members[addr]
	if !known {
		return
	}
	delete(s.members, addr)
	i, _ := s.find(n)
	s.joined[i].gone = true
	s.left = append(s.left, departure{s.departure, s.joined[i]})
	s.departure++
	if len(s.left) >= 2*maxLeft {
		s.left = append([]departure(nil), s.left[len(s.left)-maxLeft:]...)
	}
	if s.gone++; s.gone > 64 && s.gone > len(s.joined)/2 {
		s.joined = slices.DeleteFunc(s.joined, func(j join) bool { return j.gone })
		s.gone = 0
	}
}

// Has reports whether a peer that listens at addr is a member.
func (s *Set) Has(addr netip.AddrPort) bool {
	_, known := s.members[plain(addr)]
	return known
}

// Len returns the number of members.
func (s *Set) Len() int { return len(s.members) }

// find returns the place of the first join whose number is n or more, and whether it is n.
func (s *Set) find(n uint64) (int, bool) {
	return slices.BinarySearchFunc(s.joined, n, func(j join, n uint64) int { return cmp.Compare(j.number, n) })
}

// plain makes one form of the forms an address may have.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Cursor is what one peer has been told. The zero Cursor is that of a peer that has been told nothing.
type Cursor struct {
	started     bool
	first, join uint64 // told of the joins from first up to join, as far as they were its business
	left        uint64 // told of the departures up to here, of 50 each time
	next        time.Time
}

// Receiver is the peer that is to be told.
type Receiver struct {
	Addr   netip.AddrPort // its end of the connection
	Listen netip.AddrPort // where it listens, as far as known: it is never told of either
	Seed   bool           // it has everything, or wants nothing more: it has no use for seeds
}

// Next returns the message that is due to the peer of c, and notes that it was told; false if there is nothing to say, or it is too early. Joins that do not fit wait for the next
// message, departures beyond 50 in one minute go untold. Call it every few seconds. A newcomer
// to a large swarm begins at a place of chance, so that the oldest members are not the ones whom everybody dials.
func (s *Set) Next(now time.Time, c *Cursor, to Receiver, rng *rand.Rand) (ltep.PEX, bool) {
	if now.Before(c.next) {
		return ltep.PEX{}, false
	}
	if !c.started {
		*c = Cursor{started: true, left: s.departure}
		if i := len(s.joined) - ltep.MaxPEXSent; i > 0 {
			c.first = s.joined[rng.IntN(i+1)].number
		}
		c.join = c.first
	}
	to.Addr, to.Listen = plain(to.Addr), plain(to.Listen)
	class := netpolicy.ClassOf(to.Addr.Addr())
	concerns := func(j join) bool {
		return j.addr != to.Addr && j.addr != to.Listen && j.class >= class && !(to.Seed && j.flags&ltep.PEXUploadOnly != 0)
	}
	var p ltep.PEX
	told := c.join // departures of later joins are no news: they were never told
	at, _ := s.find(c.join)
	c.join = s.joins
	for _, j := range s.joined[at:] {
		if len(p.Added) == ltep.MaxPEXSent {
			c.join = j.number
			break
		}
		if !j.gone && concerns(j) {
			p.Added = append(p.Added, ltep.PEXPeer{Addr: j.addr, Flags: j.flags})
		}
	}
	at, _ = slices.BinarySearchFunc(s.left, c.left, func(d departure, n uint64) int { return cmp.Compare(d.number, n) })
	c.left = s.departure
	for _, d := range s.left[at:] {
		if len(p.Dropped) == ltep.MaxPEXSent {
			break // later it could not be said any more which of the rest had been told of; the peer finds out when it dials
		}
		_, back := s.members[d.join.addr] // gone and back: there is nothing to take back
		if d.join.number >= c.first && d.join.number < told && !back && concerns(d.join) {
			p.Dropped = append(p.Dropped, d.join.addr)
		}
	}
	if len(p.Added)+len(p.Dropped) == 0 {
		return ltep.PEX{}, false
	}
	c.next = now.Add(Interval)
	return p, true
}
