package parley

import (
	"net"
	"net/netip"
	"sync"

	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/netpolicy"
)

// hostSlots bounds how many of something each host has at once. A host is what [dialguard.Host] says.
type hostSlots struct {
	max, near int // of hosts beyond this machine, and on it; 0: no bound

	mu    sync.Mutex
	taken map[netip.Prefix]int // of those that are bounded
}

func newHostSlots(most, near int) *hostSlots {
	return &hostSlots{max: most, near: near, taken: make(map[netip.Prefix]int)}
}

// bound returns how many the host of a may have; 0: no bound.
func (s *hostSlots) bound(a netip.Addr) int {
	if netpolicy.ClassOf(a) == netpolicy.Loopback {
		return s.near
	}
	return s.max
}

// take takes one for the host of a; false if it has as many as it may.
func (s *hostSlots) take(a netip.Addr) bool {
	most := s.bound(a)
	if most == 0 {
		return true
	}
	h := dialguard.Host(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[h] >= most {
		return false
	}
	s.taken[h]++
	return true
}

// give gives one of the host of a back.
func (s *hostSlots) give(a netip.Addr) {
	if s.bound(a) == 0 {
		return
	}
	h := dialguard.Host(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[h]--; s.taken[h] == 0 {
		delete(s.taken, h)
	}
}

// admit decides about a connection that has just been accepted, before it costs anything. If it stays its hello and the connection are counted.
func (c *Client) admit(from netip.Addr) bool {
	if !c.byHost.take(from) {
		return false
	}
	if !c.shared.Connected() {
		c.byHost.give(from)
		return false
	}
	return true
}

// helloDone gives back the places of an incoming connection's hello.
func (c *Client) helloDone(from netip.Addr) {
	c.byHost.give(from)
	c.hellos.give()
}

// remoteAddr returns the address at the other end of a connection that was accepted.
func remoteAddr(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// refuse closes a connection that there is no place for. A reset leaves nothing behind in the kernel, however many there are.
func refuse(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetLinger(0) // if it fails the connection is gone, or closes in the ordinary way
	}
	nc.Close()
}
