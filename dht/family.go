package dht

import (
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	library "github.com/anacrolix/dht/v2"
	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/log"
	"golang.org/x/time/rate"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
)

// Times and bounds of a node.
const (
	startEvery   = time.Minute      // how often to look for nodes while there are none
	resolveLimit = 10 * time.Second // for the names of all bootstrap nodes
	maxPeers     = 2000             // that one lookup yields

	sendPerSecond = 50 // datagrams; what is over waits, and answers that would have to wait are not given
)

// family is a node of one address family, as BEP 32 has it: two families are two nodes on two sockets. Its methods are safe for concurrent use.
type family struct {
	cfg    Config
	policy netpolicy.Policy
	gate   *gate
	server *library.Server
	store  *store
	is6    bool

	ctx    context.Context // done when the node is closed
	cancel context.CancelFunc
	mu     sync.Mutex // guards the start of goroutines against Close
	closed bool
	group  sync.WaitGroup
}

// startFamily starts a node on a UDP socket of one address family, which it closes. It looks for others by itself. An error leaves the socket open.
func startFamily(conn net.PacketConn, cfg Config) (*family, error) {
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return nil, fmt.Errorf("DHT: %v is no UDP socket", conn.LocalAddr())
	}
	n := &family{cfg: cfg, policy: netpolicy.Policy{Allow: cfg.AllowNetworks}, is6: local.AddrPort().Addr().Unmap().Is6()}
	var id krpc.ID
	rand.Read(id[:]) // never fails
	if ip := cfg.PublicIP.Unmap(); ip.IsValid() && ip.Is6() == n.is6 {
		library.SecureNodeId(&id, ip.AsSlice())
	}
	n.gate = newGate(conn, rules{self: bt.InfoHash(id), is6: n.is6, policy: n.policy})
	want := krpc.WantNodes
	if n.is6 {
		want = krpc.WantNodes6
	}
	quiet := log.NewLogger("dht")
	quiet.Handlers = []log.Handler{log.DiscardHandler}
	n.store = newStore()
	server, err := library.NewServer(&library.ServerConfig{
		NodeId:      id,
		Conn:        n.gate,
		Passive:     cfg.ReadOnly,
		NoSecurity:  true, // nodes whose ID does not fit their address are many; as deployed, they are not shut out
		DefaultWant: []krpc.Want{want},
		PeerStore:   n.store,
		Logger:      quiet,
		SendLimiter: rate.NewLimiter(sendPerSecond, 2*sendPerSecond), // its own: by default all nodes of a process share one
	})
	if err != nil {
		return nil, fmt.Errorf("DHT: %w", err)
	}
	n.server = server
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.group.Go(n.maintain)
	return n, nil
}

// maintain looks for nodes whenever there are none: at the beginning, and if all of them have gone. The library keeps its table by itself while there are some.
func (n *family) maintain() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	maintained := false
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(startEvery)
		if n.server.NumNodes() == 0 {
			for _, a := range n.resolve() {
				n.ping(a)
			}
		}
		// The library's own way to begin leaves a goroutine behind each time that it finds no node, so it is not begun before there is one.
		if !maintained && n.server.NumNodes() > 0 {
			maintained = true
			n.group.Go(n.server.TableMaintainer) // until the node is closed
		}
	}
}

// resolve returns the addresses of the bootstrap nodes that may be asked. The user named them.
func (n *family) resolve() (addrs []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(n.ctx, resolveLimit)
	defer cancel()
	network := "ip4"
	if n.is6 {
		network = "ip6"
	}
	for _, hp := range n.cfg.Bootstrap {
		host, p, err := net.SplitHostPort(hp)
		if err != nil {
			n.cfg.Logger.Warn("DHT: not a bootstrap node", "node", hp, "error", err)
			continue
		}
		port, err := strconv.ParseUint(p, 10, 16)
		if err != nil || port == 0 {
			n.cfg.Logger.Warn("DHT: not a bootstrap node: the port is not from 1 to 65535", "node", hp)
			continue
		}
		by := netpolicy.Global // a name means what its owner says
		if _, err := netip.ParseAddr(host); err == nil {
			by = netpolicy.Loopback
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
		if err != nil {
			n.cfg.Logger.Debug("DHT: a bootstrap node's name cannot be resolved", "node", hp, "error", err)
			continue
		}
		for _, ip := range ips {
			if err := n.policy.Check(ip, by); err != nil {
				n.cfg.Logger.Warn("DHT: a bootstrap node is not asked", "node", hp, "error", err)
				continue
			}
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
		}
	}
	return addrs
}

// ping asks an address whether it is a node; one that answers is in the table afterwards.
func (n *family) ping(a netip.AddrPort) {
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	defer cancel()
	n.server.Query(ctx, library.NewAddr(net.UDPAddrFromAddrPort(a)), "ping", library.QueryInput{})
}

// addNode asks an address that may be a node. by is the class of whoever says so. An address of the other family, or one that the policy refuses, is ignored. It does not wait.
func (n *family) addNode(a netip.AddrPort, by netpolicy.Class) {
	a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	if a.Port() == 0 || a.Addr().Is6() != n.is6 || n.policy.Check(a.Addr(), by) != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	select {
	case pings <- struct{}{}:
	default:
		return // enough are being asked
	}
	n.group.Go(func() {
		defer func() { <-pings }()
		n.ping(a)
	})
}

// pings bounds how many addresses are being asked whether they are nodes, by all nodes of this program.
var pings = make(chan struct{}, 32)

func (n *family) addr() netip.AddrPort {
	ap := n.gate.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// nodes returns the nodes that are known.
func (n *family) nodes() (all []netip.AddrPort) {
	for _, i := range n.server.Nodes() {
		if ip, ok := netip.AddrFromSlice(i.Addr.IP); ok {
			all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(i.Addr.Port)))
		}
	}
	return all
}

// lookup is [Node.Announce] for this family.
func (n *family) lookup(ctx context.Context, h bt.InfoHash, port uint16) iter.Seq2[parley.DHTPeer, error] {
	return func(yield func(parley.DHTPeer, error) bool) {
		if n.ctx.Err() != nil {
			yield(parley.DHTPeer{}, ErrClosed)
			return
		}
		if n.server.NumNodes() == 0 {
			yield(parley.DHTPeer{}, ErrNoNodes)
			return
		}
		var opts []library.AnnounceOpt
		if port != 0 {
			opts = append(opts, library.AnnouncePeer(library.AnnouncePeerOpts{Port: int(port)}))
		}
		a, err := n.server.AnnounceTraversal(h, opts...)
		if err != nil {
			yield(parley.DHTPeer{}, fmt.Errorf("DHT: looking up %v: %w", h, err))
			return
		}
		// The library's lookup ends only if what it finds is taken to the last, so it is closed and then drained, whatever happens.
		defer func() {
			a.Close()
			for range a.Peers {
			}
		}()
		seen := make(map[netip.AddrPort]struct{})
		for {
			select {
			case <-ctx.Done():
				yield(parley.DHTPeer{}, ctx.Err())
				return
			case <-n.ctx.Done():
				yield(parley.DHTPeer{}, ErrClosed)
				return
			case found, more := <-a.Peers:
				if !more {
					return
				}
				from, _ := netip.AddrFromSlice(found.NodeInfo.Addr.IP)
				for _, p := range found.Peers {
					addr, ok := peerAddr(p)
					if _, again := seen[addr]; !ok || again || len(seen) >= maxPeers {
						continue
					}
					seen[addr] = struct{}{}
					if !yield(parley.DHTPeer{Addr: addr, From: from.Unmap()}, nil) {
						return
					}
				}
			}
		}
	}
}

// peerAddr makes an address of what a node said; the gate has checked it.
func peerAddr(p library.Peer) (netip.AddrPort, bool) {
	ip, ok := netip.AddrFromSlice(p.IP)
	return netip.AddrPortFrom(ip.Unmap(), uint16(p.Port)), ok && p.Port > 0 && p.Port <= 65535
}

// close ends the node and its lookups. What the library still has under way ends soon after, without a socket.
func (n *family) close() error {
	n.mu.Lock()
	again := n.closed
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	if !again {
		n.server.Close()
	}
	err := n.gate.Close()
	n.group.Wait()
	return err
}
