package simnet

import (
	"cmp"
	"context"
	"encoding/binary"
	"hash/fnv"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// backlog is how many connections wait to be accepted; a dialer beyond it waits.
const backlog = 128

// firstEphemeral is where the ports that the network picks begin.
const firstEphemeral = 49152

// pair names the two hosts of a link, the lesser address first.
type pair struct{ a, b netip.Addr }

func pairOf(a, b netip.Addr) pair {
	if b.Less(a) {
		a, b = b, a
	}
	return pair{a, b}
}

// Network joins hosts that are known by their addresses. Any host reaches any other. Its methods are safe for concurrent use.
type Network struct {
	seed uint64
	link Link

	mu        sync.Mutex
	links     map[pair]Link
	hosts     map[netip.Addr]*hostLink
	listeners map[netip.AddrPort]*listener
	conns     map[*Conn]struct{} // ends that are not closed
	dials     map[[2]netip.Addr]uint64
	nextPort  map[netip.Addr]uint16
}

// New returns a network in which every connection travels over l unless [Network.SetLink] says otherwise. Splits and cuts
// follow from seed: the same dials between two hosts in the same order get the same ones.
func New(seed uint64, l Link) *Network {
	return &Network{
		seed: seed, link: l,
		links: make(map[pair]Link), listeners: make(map[netip.AddrPort]*listener), conns: make(map[*Conn]struct{}),
		dials: make(map[[2]netip.Addr]uint64), nextPort: make(map[netip.Addr]uint16),
	}
}

// SetLink sets how connections made from now on between two hosts travel.
func (n *Network) SetLink(a, b netip.Addr, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[pairOf(a, b)] = l
}

// Cut breaks all connections between two hosts and reports how many there were. New ones can be made.
func (n *Network) Cut(a, b netip.Addr) int {
	n.mu.Lock()
	var ends []*Conn
	for c := range n.conns {
		if c.local.Addr() == a && c.remote.Addr() == b || c.local.Addr() == b && c.remote.Addr() == a {
			ends = append(ends, c)
		}
	}
	n.mu.Unlock()
	whole := make(map[*half]bool) // both ends of a connection may still be there: count it once
	for _, c := range ends {
		c.Cut()
		if !whole[c.in] && !whole[c.out] {
			whole[c.in] = true
		}
	}
	return len(whole)
}

// Conns returns how many ends of connections are not closed: 0 when everybody has tidied up.
func (n *Network) Conns() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// port picks a free port of a host. The mutex must be held.
func (n *Network) port(a netip.Addr) uint16 {
	for {
		p := max(n.nextPort[a], firstEphemeral)
		n.nextPort[a] = p + 1 // wraps to 0, hence to the first one
		if _, taken := n.listeners[netip.AddrPortFrom(a, p)]; !taken {
			return p
		}
	}
}

// Listen listens on addr; port 0 picks one. The listener is closed by its Close; connections that were not accepted by then are cut. The error
// wraps EADDRINUSE.
func (n *Network) Listen(addr netip.AddrPort) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), n.port(addr.Addr()))
	}
	if _, taken := n.listeners[addr]; taken {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, addr: addr, queue: make(chan *Conn, backlog), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects from one host to a listener of another; port 0 of from picks one. It takes one round trip of the link, during which it
// heeds ctx. The error wraps ECONNREFUSED if nobody listens there.
func (n *Network) Dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	c, err := n.dial(ctx, from, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Source: net.TCPAddrFromAddrPort(from), Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

func (n *Network) dial(ctx context.Context, from, to netip.AddrPort) (*Conn, error) {
	n.mu.Lock()
	link, ok := n.links[pairOf(from.Addr(), to.Addr())]
	if !ok {
		link = n.link
	}
	if from.Port() == 0 {
		from = netip.AddrPortFrom(from.Addr(), n.port(from.Addr()))
	}
	source, target := n.hosts[from.Addr()], n.hosts[to.Addr()]
	way := [2]netip.Addr{from.Addr(), to.Addr()}
	nth := n.dials[way]
	n.dials[way]++
	n.mu.Unlock()

	if err := sleep(ctx, link.Latency); err != nil {
		return nil, err
	}
	n.mu.Lock()
	l := n.listeners[to]
	n.mu.Unlock()
	if l == nil {
		return nil, cmp.Or(sleep(ctx, link.Latency), error(syscall.ECONNREFUSED))
	}
	a, b := pipe(n.seedOf(way, nth), link, from, to)
	if source != nil {
		a.out.up, a.in.down = &source.up, &source.down
	}
	if target != nil {
		b.out.up, b.in.down = &target.up, &target.down
	}
	n.add(a)
	n.add(b)
	if err := l.offer(ctx, b); err != nil {
		a.Close()
		b.Close()
		return nil, err
	}
	if err := sleep(ctx, link.Latency); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// seedOf makes the seed of a connection depend on its hosts and its number between them, and not on what other hosts do
// meanwhile.
func (n *Network) seedOf(way [2]netip.Addr, nth uint64) uint64 {
	h := fnv.New64a()
	var b [8]byte
	for _, v := range []uint64{n.seed, nth} {
		binary.BigEndian.PutUint64(b[:], v)
		h.Write(b[:]) // a hash never fails
	}
	for _, a := range way {
		h.Write(a.AsSlice())
	}
	return h.Sum64()
}

func (n *Network) add(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[c] = struct{}{}
	c.closed = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.conns, c)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listener is a [net.Listener] of a Network.
type listener struct {
	net   *Network
	addr  netip.AddrPort
	queue chan *Conn

	mu     sync.RWMutex // held for reading while a connection is put into queue, so that none gets in behind Close
	closed bool
	done   chan struct{}
}

// offer hands a connection to whoever accepts.
func (l *listener) offer(ctx context.Context, c *Conn) error {
	for {
		l.mu.RLock()
		if l.closed {
			l.mu.RUnlock()
			return syscall.ECONNREFUSED
		}
		select {
		case l.queue <- c:
			l.mu.RUnlock()
			return nil
		default:
		}
		l.mu.RUnlock()
		// The backlog is full. TCP would send its SYN again after a second.
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	l.mu.Unlock()
	if again {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	close(l.done)
	l.net.mu.Lock()
	delete(l.net.listeners, l.addr)
	l.net.mu.Unlock()
	for {
		select {
		case c := <-l.queue:
			c.Cut()
			c.Close()
		default:
			return nil
		}
	}
}

// Addr implements [net.Listener]; it is a [*net.TCPAddr].
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
