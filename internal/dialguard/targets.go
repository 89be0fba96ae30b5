package dialguard

import (
	"net/netip"
	"slices"
	"time"
)

// Bounds of [Targets].
const (
	DialsPerTarget = 16 // to one host in TargetWindow
	TargetWindow   = 10 * time.Minute
	MaxTargets     = 8192
)

// Targets counts the dials to every host over all torrents and sources, so that no list of addresses, however it is spread over sources and ports, becomes a flood at one host. A host is an
// IPv4 address or an IPv6 network of 64 bits, which is what one customer gets. The zero Targets is ready. It is not safe for concurrent use: one for a program needs a lock around it.
type Targets struct {
	hosts map[netip.Prefix][]time.Time // dials in the last TargetWindow, oldest first
	swept time.Time
}

// Allow reports whether a may be dialled now, and counts the dial if so. Where the user named the address itself, the caller need not ask. If more hosts than [MaxTargets] were dialled in the
// window, others must wait: an honest swarm is much smaller.
func (t *Targets) Allow(now time.Time, a netip.Addr) bool {
	h := Host(a)
	dials, known := t.hosts[h]
	if !known && len(t.hosts) >= MaxTargets {
		if now.Sub(t.swept) < TargetWindow/60 {
			return false
		}
		t.swept = now
		for h, d := range t.hosts {
			if recent(now, d) == 0 {
				delete(t.hosts, h)
			}
		}
		if len(t.hosts) >= MaxTargets {
			return false
		}
	}
	if old := len(dials) - recent(now, dials); old > 0 {
		dials = slices.Delete(dials, 0, old)
	}
	allowed := len(dials) < DialsPerTarget
	if allowed {
		dials = append(dials, now)
	}
	if t.hosts == nil {
		t.hosts = make(map[netip.Prefix][]time.Time)
	}
	t.hosts[h] = dials
	return allowed
}

// Answered takes the last dial to a back, because a peer of the torrent was there: it proved that it wants to be dialled. Many peers may share an address.
func (t *Targets) Answered(a netip.Addr) {
	h := Host(a)
	if d := t.hosts[h]; len(d) > 1 {
		t.hosts[h] = d[:len(d)-1]
	} else {
		delete(t.hosts, h)
	}
}

// recent returns how many dials still count.
func recent(now time.Time, dials []time.Time) int {
	for i, at := range dials {
		if now.Before(at.Add(TargetWindow)) {
			return len(dials) - i
		}
	}
	return 0
}

// Host returns the network that counts as one host: an IPv4 address, or an IPv6 network of 64 bits. Addresses that are the same in another form are the same host.
func Host(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // fails for the zero Addr alone, which then is a host of its own
	return p
}
