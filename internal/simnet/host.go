package simnet

import (
	"net/netip"
	"sync"
	"time"
)

// Host says how fast a host is, whatever the links of its connections: they share it.
type Host struct {
	// Up and Down are in bytes a second; 0 is unlimited.
	Up, Down int
}

// readShare is how much one connection reads at once while its host's rate is limited, so that the others get their turn.
const readShare = 16 << 10

// SetHost sets how fast a host is, on connections made from now on. Setting it again begins anew for these.
//
// What is written is sent in the order of the writes of all connections; a connection has at most its [Link.Buffer] waiting. What arrives faster than the host can take waits
// in the buffers of its connections, which in the end holds up those who send.
func (n *Network) SetHost(a netip.Addr, h Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = make(map[netip.Addr]*hostLink)
	}
	n.hosts[a] = &hostLink{up: pacer{rate: h.Up}, down: pacer{rate: h.Down}}
}

// hostLink is the rates of one host.
type hostLink struct{ up, down pacer }

// pacer is a rate that several connections share. Nobody waits while its mutex is held.
type pacer struct {
	rate int // bytes a second; 0 is unlimited

	mu   sync.Mutex
	free time.Time // when all that was given to it has gone through
}

// take puts n bytes behind all that came before, and returns when they have gone through; the zero time if there is no limit.
func (p *pacer) take(now time.Time, n int) time.Time {
	if p == nil || p.rate <= 0 {
		return time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(Link{Rate: p.rate}.sendTime(n))
	return p.free
}

// most returns how many of n bytes may go through now: 0 until the time it returns with it.
func (p *pacer) most(now time.Time, n int) (int, time.Time) {
	if p == nil || p.rate <= 0 {
		return n, time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.free) {
		return 0, p.free
	}
	return min(n, readShare), time.Time{}
}
