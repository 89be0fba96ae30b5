package dht

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of traffic, per minute.
const (
	window        = time.Minute
	sentPerHost   = 60 // datagrams to one host: an answer or a question a second
	readPerHost   = 120
	readPerMinute = 12_000
	maxHosts      = 4096 // other hosts wait for the next minute
	pauseOnError  = 50 * time.Millisecond
)

// gate stands between the library and the socket: what comes in is a message that the library can handle ([rules.admit]), and neither direction is a flood. Its reading side fails when it is closed and
// not before: the library takes any other failure for the end of the program.
type gate struct {
	net.PacketConn
	rules rules

	closed chan struct{}
	once   sync.Once
	err    error

	mu   sync.Mutex
	from time.Time
	sent map[netip.Addr]int
	read map[netip.Addr]int
	all  int

	buf [maxDatagram + 1]byte // of the one reader
	out []byte

	dropped atomic.Uint64 // datagrams that were not let through
}

func newGate(c net.PacketConn, r rules) *gate {
	return &gate{PacketConn: c, rules: r, closed: make(chan struct{}), sent: make(map[netip.Addr]int), read: make(map[netip.Addr]int)}
}

// ReadFrom returns the next datagram that is let through. It must be called from one goroutine.
func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := g.PacketConn.ReadFrom(g.buf[:])
		select {
		case <-g.closed:
			return 0, nil, net.ErrClosed
		default:
		}
		if err != nil {
			select {
			case <-g.closed:
			case <-time.After(pauseOnError): // a network that comes and goes; ICMP errors on Windows
			}
			continue
		}
		u, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		ap := u.AddrPort()
		host := ap.Addr().Unmap().WithZone("")
		if ap.Port() == 0 || host.Is6() != g.rules.is6 || !g.count(time.Now(), host, false) {
			g.dropped.Add(1)
			continue
		}
		if g.out, ok = g.rules.admit(g.out[:0], g.buf[:n], host); !ok || len(g.out) > len(p) {
			g.dropped.Add(1)
			continue
		}
		return copy(p, g.out), from, nil
	}
}

// errTooMany is what the library is told instead of a flood; it tries no other way.
var errTooMany = errors.New("too many datagrams to one host")

// WriteTo sends a datagram, if its host has not had its share.
func (g *gate) WriteTo(p []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok || !g.count(time.Now(), u.AddrPort().Addr().Unmap().WithZone(""), true) {
		return 0, errTooMany
	}
	return g.PacketConn.WriteTo(p, to)
}

// count counts a datagram and reports whether it is within bounds. A host is an IPv4 address or an IPv6 network of 64 bits; this machine is no stranger, and may hold many nodes.
func (g *gate) count(now time.Time, host netip.Addr, sent bool) bool {
	near := host.IsLoopback()
	if host.Is6() {
		p, _ := host.Prefix(64) // 64 bits are always there
		host = p.Addr()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.from) >= window {
		g.from, g.all = now, 0
		clear(g.sent)
		clear(g.read)
	}
	hosts, limit := g.read, readPerHost
	if sent {
		hosts, limit = g.sent, sentPerHost
	} else if g.all >= readPerMinute {
		return false
	}
	n, known := hosts[host]
	if !near && (n >= limit || !known && len(hosts) >= maxHosts) {
		return false
	}
	hosts[host]++
	if !sent {
		g.all++
	}
	return true
}

// Close closes the socket; the library calls it too.
func (g *gate) Close() error {
	g.once.Do(func() {
		close(g.closed)
		g.err = g.PacketConn.Close()
	})
	return g.err
}
