// Package dialguard decides which of the addresses that others name may be dialled, and when. Trackers, peers and the DHT name addresses that nobody has proved to be a peer, so whoever
// controls one of them could make every client of a swarm knock at a stranger's door. Therefore
//
//   - a source fills its own queue and no other's: see [Pool], one for each torrent;
//   - a source has so many of its addresses dialled a minute: see [Pool.Next];
//   - an address is dialled so often in ten minutes for all torrents and sources together: see [Targets], one for the whole program;
//   - an address where nobody answered is left alone for longer each time: see [Backoff];
//   - and nothing is kept that the policy of package netpolicy refuses.
//
// [Priority] is BEP 40: which of two connections to keep. The package dials nothing, knows no clock, and all its tables are bounded.
package dialguard

import (
	"net/netip"
	"slices"
	"time"

	"github.com/parley-bt/parley/internal/netpolicy"
)

// Origin is a way in which addresses become known.
type Origin uint8

// The origins. User is whoever runs the program: its addresses are neither filtered nor slowed down.
const (
	User Origin = iota
	Tracker
	Peer // ut_pex, or an address that a peer gave for itself
	DHT
	Local // local service discovery
	Link  // a magnet link (x.pe), or another list that the user has from a stranger
)

// String returns the origin's name.
func (o Origin) String() string {
	return [...]string{"user", "tracker", "peer exchange", "DHT", "local discovery", "link"}[min(o, Link)]
}

// Source is one namer of addresses: a tracker by its URL, a peer by its [Host] (not by its port, or one host would be thousands), the DHT as a whole.
type Source struct {
	Origin Origin
	Name   string
}

// Bounds of a [Pool].
const (
	MaxPerSource   = 200 // addresses that wait from one source; User has MaxPool
	MaxSources     = 256
	MaxPool        = 2048
	DialsPerMinute = 30 // of one source's addresses; User has no limit
	dialWindow     = time.Minute
)

// Candidate is an address that may be dialled now.
type Candidate struct {
	Addr   netip.AddrPort
	Source Source
}

// Pool is the addresses of one torrent that wait to be dialled for the first time. The zero Pool is empty and ready. It has one owner and is not safe for concurrent use.
type Pool struct {
	sources []*source
	waits   map[netip.AddrPort]*source
	turn    int // of sources
}

type source struct {
	Source
	queue []netip.AddrPort
	dials []time.Time // in the last minute
}

// Add queues the addresses that src names, and returns how many were kept. policy refuses what a source of class by may not name; the user may name anything that a host can have.
// A source that names more than it may have waiting loses its oldest ones, and no source can displace those of another that has fewer.
func (p *Pool) Add(now time.Time, src Source, policy netpolicy.Policy, by netpolicy.Class, addrs ...netip.AddrPort) (kept int) {
	if src.Origin == User {
		by = netpolicy.Loopback
	}
	var s *source
	for _, a := range addrs {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if a.Port() == 0 || policy.Check(a.Addr(), by) != nil {
			continue
		}
		if owner := p.waits[a]; owner != nil {
			if src.Origin != User || owner.Origin == User {
				continue
			}
			p.take(owner, slices.Index(owner.queue, a)) // what the user wants does not wait for another's turn
		}
		if s == nil {
			if s = p.source(now, src); s == nil {
				return kept
			}
		}
		if src.Origin != User && len(s.queue) >= MaxPerSource {
			p.take(s, 0)
		}
		if len(p.waits) >= MaxPool {
			largest := slices.MaxFunc(p.sources, func(a, b *source) int { return len(a.queue) - len(b.queue) })
			if len(largest.queue) <= len(s.queue) {
				largest = s
			}
			p.take(largest, 0)
		}
		if p.waits == nil {
			p.waits = make(map[netip.AddrPort]*source)
		}
		s.queue = append(s.queue, a)
		p.waits[a] = s
		kept++
	}
	return kept
}

// source returns the entry of src, a new one if there is room: one that has nothing waiting and no dials that count makes room. Peers are many, and anybody can be one: they
// do not take the places of the others.
func (p *Pool) source(now time.Time, src Source) *source {
	for _, s := range p.sources {
		if s.Source == src {
			return s
		}
	}
	if len(p.sources) >= MaxSources {
		p.sources = slices.DeleteFunc(p.sources, func(s *source) bool {
			s.expire(now)
			return len(s.queue) == 0 && len(s.dials) == 0
		})
		if len(p.sources) >= MaxSources && (src.Origin == Peer || !p.dropPeer()) && src.Origin != User {
			return nil
		}
	}
	s := &source{Source: src}
	p.sources = append(p.sources, s)
	return s
}

// dropPeer forgets one of the peers that are sources, of which the first has had most time to have its addresses dialled; false if there is none.
func (p *Pool) dropPeer() bool {
	i := slices.IndexFunc(p.sources, func(s *source) bool { return s.Origin == Peer })
	if i < 0 {
		return false
	}
	p.Forget(p.sources[i].Source)
	p.sources = slices.Delete(p.sources, i, i+1)
	return true
}

// take removes the i-th waiting address of s.
func (p *Pool) take(s *source, i int) netip.AddrPort {
	a := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	delete(p.waits, a)
	return a
}

// expire forgets dials that no longer count.
func (s *source) expire(now time.Time) {
	s.dials = slices.DeleteFunc(s.dials, func(at time.Time) bool { return !now.Before(at.Add(dialWindow)) })
}

// Next takes the next address that may be dialled: the sources take turns, the user's come first. False if none may be: see [Pool.NextAt]. The dial counts against its source
// whatever comes of it.
func (p *Pool) Next(now time.Time) (Candidate, bool) {
	for _, s := range p.sources {
		if s.Origin == User && len(s.queue) > 0 {
			return Candidate{p.take(s, 0), s.Source}, true
		}
	}
	for i := range p.sources {
		at := (p.turn + i) % len(p.sources)
		s := p.sources[at]
		if len(s.queue) == 0 {
			continue
		}
		if s.expire(now); len(s.dials) >= DialsPerMinute {
			continue
		}
		s.dials = append(s.dials, now)
		p.turn = at + 1
		return Candidate{p.take(s, 0), s.Source}, true
	}
	return Candidate{}, false
}

// NextAt returns when Next has an address; the zero time if none waits.
func (p *Pool) NextAt(now time.Time) (at time.Time) {
	for _, s := range p.sources {
		if len(s.queue) == 0 {
			continue
		}
		if s.expire(now); s.Origin == User || len(s.dials) < DialsPerMinute {
			return now
		}
		if due := s.dials[0].Add(dialWindow); at.IsZero() || due.Before(at) {
			at = due
		}
	}
	return at
}

// Forget drops what waits from a source, one that has been found to lie for instance. The dials of its addresses still count.
func (p *Pool) Forget(src Source) {
	for _, s := range p.sources {
		if s.Source == src {
			for len(s.queue) > 0 {
				p.take(s, len(s.queue)-1)
			}
		}
	}
}

// Keep drops what waits from the sources of which keep says no. The dials of their addresses still count.
func (p *Pool) Keep(keep func(Source) bool) {
	for _, s := range p.sources {
		if !keep(s.Source) {
			p.Forget(s.Source)
		}
	}
}

// Has reports whether a waits.
func (p *Pool) Has(a netip.AddrPort) bool { return p.waits[key(a)] != nil }

// Len returns how many addresses wait.
func (p *Pool) Len() int { return len(p.waits) }
