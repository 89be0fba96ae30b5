package swarm

import (
	"math"
	"net/netip"
	"time"

	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/peer"
)

// When a torrent has as many peers as it may, a session with a low priority makes room for one with a higher (BEP 40), so that a swarm becomes one well-mixed graph and
// nobody is shut out who came late. What is of use stays, whatever its priority.
const (
	makeRoomEvery = 10 * time.Second // so many sessions at most make room
	weighEvery    = time.Second      // so often at most it is looked for one
	evictAge      = 2 * time.Minute  // for so long a session may show what it is good for
	evictRate     = 1 << 10          // bytes a second in either direction that make a session of use
)

// makeRoom closes the session of the lowest priority for one with a peer at addr, if that has a higher one, or the user wants it, and a session can be spared; false if none
// is closed. The closed one counts until it has ended: for that second there is one more.
func (t *Torrent) makeRoom(addr netip.AddrPort, wanted bool, now time.Time) bool {
	if !t.mayWeigh(now) {
		return false
	}
	t.weighed = now
	ours := t.selves()
	var worst *Peer
	lowest := int64(dialguard.Priority(ours.seenBy(addr.Addr()), addr))
	if wanted {
		lowest = math.MaxInt64
	}
	for p := range t.peers {
		if !t.spare(p, now) {
			continue
		}
		at := p.addr
		if p.listens.IsValid() {
			at = p.listens
		}
		if n := int64(dialguard.Priority(ours.seenBy(at.Addr()), at)); n < lowest {
			worst, lowest = p, n
		}
	}
	if worst == nil {
		return false
	}
	t.evicted = now
	worst.conn.Close(peer.ErrTooManyConnections)
	return true
}

// spare reports whether a session may make room for another: it has been there for a while, and next to nothing goes over it; the user did not ask for it, no message type
// is shared, and no metadata comes from it. One that was just unchoked, or of which something was just asked, has its chance first.
func (t *Torrent) spare(p *Peer, now time.Time) bool {
	switch {
	case now.Sub(p.since) < evictAge,
		p.candidate != nil && !p.candidate.learned(),
		p.pipe.Rate(now) >= evictRate || p.up.Rate(now) >= evictRate,
		p.unchoked && p.peerInterested,
		p.pipe.Outstanding() > 0 && !p.snubbed,
		p.meta != nil && p.meta.active,
		p.rival != nil,
		t.cfg.Types.Usable(p.shared.Load()):
		return false
	}
	return true
}

// selves is our own addresses as others see us, which BEP 40 compares: for each family the one that most peers tell us ("yourip", BEP 10). A peer can lie, and many can win
// the vote; they gain a say in which of our idle sessions yields first, and no more.
type selves struct {
	v4, v6 netip.Addr
	port   uint16
}

func (t *Torrent) selves() selves {
	votes := make(map[netip.Addr]int)
	voted := make(map[netip.Prefix]bool)
	s := selves{v4: netip.IPv4Unspecified(), v6: netip.IPv6Unspecified(), port: t.cfg.ListenPort}
	for p := range t.peers {
		ip, host := p.exchange.YourIP.Unmap().WithZone(""), dialguard.Host(p.addr.Addr())
		if voted[host] || netpolicy.ClassOf(ip) == netpolicy.Unusable {
			continue
		}
		voted[host] = true
		votes[ip]++
		best := &s.v6
		if ip.Is4() {
			best = &s.v4
		}
		if n := votes[ip]; n > votes[*best] || n == votes[*best] && ip.Less(*best) { // of as many votes the same one each time
			*best = ip
		}
	}
	return s
}

// seenBy returns the address under which a peer at a knows us, the unspecified one if nobody has told.
func (s selves) seenBy(a netip.Addr) netip.AddrPort {
	if a.Unmap().Is4() {
		return netip.AddrPortFrom(s.v4, s.port)
	}
	return netip.AddrPortFrom(s.v6, s.port)
}

// mayWeigh reports whether it may be looked for a session that makes room.
func (t *Torrent) mayWeigh(now time.Time) bool {
	return now.Sub(t.evicted) >= makeRoomEvery && now.Sub(t.weighed) >= weighEvery
}
