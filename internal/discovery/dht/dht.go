// Package dht finds peers without a tracker: a node of the distributed hash table (BEP 5), by github.com/anacrolix/dht. It is the one place that knows that library, and it does not trust it with the
// network: every datagram is read here first and handed on in a form that the library can handle (message.go), traffic is bounded per host in both directions (gate.go), and so is what other nodes may
// store here (store.go). Addresses obey package netpolicy. Private torrents must not come near it (BEP 27). What it finds is a claim: whether to dial is up to its owner.
//
// A [Node] is of one address family, as BEP 32 has it: two families are two nodes on two sockets.
package dht

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	library "github.com/anacrolix/dht/v2"
	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/log"
	"golang.org/x/time/rate"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
)

// Bootstrap are nodes that everybody may begin with, for [Config.Bootstrap].
var Bootstrap = []string{"router.bittorrent.com:6881", "dht.transmissionbt.com:6881", "dht.libtorrent.org:25401"}

// Times and bounds of a node.
const (
	startEvery   = time.Minute      // how often to look for nodes while there are none
	resolveLimit = 10 * time.Second // for the names of all bootstrap nodes
	maxPeers     = 2000             // that one lookup yields

	sendPerSecond = 50 // datagrams; what is over waits, and answers that would have to wait are not given
)

// ErrNoNodes says that no node is known yet: there is nobody to ask. Later there may be.
var ErrNoNodes = errors.New("no DHT node known yet")

// ErrClosed says that the node has been closed.
var ErrClosed = fmt.Errorf("DHT node closed: %w", net.ErrClosed)

// Config is what a [Node] needs. It is copied.
type Config struct {
	// Conn is a UDP socket of one address family; it belongs to the node, which closes it.
	Conn net.PacketConn
	// Bootstrap are the first nodes to ask, as host:port; names are resolved when there are no nodes. None means that AddNode brings the first one.
	Bootstrap []string
	// PublicIP is our address as others see it; the node ID is made of it, so that nodes which enforce BEP 42 take us in. The zero Addr means that it is not known.
	PublicIP netip.Addr
	// ReadOnly is for those who cannot be reached, or do not want to: they ask and never answer (BEP 43).
	ReadOnly bool
	// Policy refuses addresses beyond the rule that none may be more local than whoever named it.
	Policy netpolicy.Policy
	// Log gets what goes wrong; nil means nowhere.
	Log *slog.Logger
}

// Node is a node of the DHT. Its methods are safe for concurrent use.
type Node struct {
	cfg    Config
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

// New starts a node, which looks for others by itself. An error leaves cfg.Conn open.
func New(cfg Config) (*Node, error) {
	local, ok := cfg.Conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return nil, fmt.Errorf("DHT: %v is no UDP socket", cfg.Conn.LocalAddr())
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: cfg, is6: local.AddrPort().Addr().Unmap().Is6()}
	var id krpc.ID
	rand.Read(id[:]) // never fails
	if ip := cfg.PublicIP.Unmap(); ip.IsValid() && ip.Is6() == n.is6 {
		library.SecureNodeId(&id, ip.AsSlice())
	}
	n.gate = newGate(cfg.Conn, rules{self: bt.InfoHash(id), is6: n.is6, policy: cfg.Policy})
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

// maintain looks for first nodes until there are some; then the library keeps its table by itself.
func (n *Node) maintain() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-timer.C:
		}
		// The library's own way to begin leaves a goroutine behind each time that it finds no node, so it is not begun before there is one.
		if n.server.NumNodes() > 0 {
			n.server.TableMaintainer() // until the node is closed
			return
		}
		for _, a := range n.resolve() {
			n.ping(a)
		}
		timer.Reset(startEvery)
		if n.server.NumNodes() > 0 {
			timer.Reset(0)
		}
	}
}

// resolve returns the addresses of the bootstrap nodes that may be asked. The user named them.
func (n *Node) resolve() (addrs []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(n.ctx, resolveLimit)
	defer cancel()
	network := "ip4"
	if n.is6 {
		network = "ip6"
	}
	for _, hp := range n.cfg.Bootstrap {
		host, p, err := net.SplitHostPort(hp)
		if err != nil {
			n.cfg.Log.Warn("DHT: not a bootstrap node", "node", hp, "error", err)
			continue
		}
		port, err := strconv.ParseUint(p, 10, 16)
		if err != nil || port == 0 {
			n.cfg.Log.Warn("DHT: not a bootstrap node: the port is not from 1 to 65535", "node", hp)
			continue
		}
		by := netpolicy.Global // a name means what its owner says
		if _, err := netip.ParseAddr(host); err == nil {
			by = netpolicy.Loopback
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
		if err != nil {
			n.cfg.Log.Debug("DHT: a bootstrap node's name cannot be resolved", "node", hp, "error", err)
			continue
		}
		for _, ip := range ips {
			if n.cfg.Policy.Check(ip, by) == nil {
				addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
			}
		}
	}
	return addrs
}

// ping asks an address whether it is a node; one that answers is in the table afterwards.
func (n *Node) ping(a netip.AddrPort) {
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	defer cancel()
	n.server.Query(ctx, library.NewAddr(net.UDPAddrFromAddrPort(a)), "ping", library.QueryInput{})
}

// AddNode tells of an address that may be a node: what a peer says by Port (BEP 5), or the "nodes" of a .torrent. by is the class of whoever says so. An address of the other family, or one that the
// policy refuses, is ignored. It does not wait.
func (n *Node) AddNode(a netip.AddrPort, by netpolicy.Class) {
	a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	if a.Port() == 0 || a.Addr().Is6() != n.is6 || n.cfg.Policy.Check(a.Addr(), by) != nil {
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

// Nodes returns the nodes that are known, to begin with them next time.
func (n *Node) Nodes() (all []netip.AddrPort) {
	for _, i := range n.server.Nodes() {
		if ip, ok := netip.AddrFromSlice(i.Addr.IP); ok {
			all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(i.Addr.Port)))
		}
	}
	return all
}

// Peers looks a torrent up and yields its peers as they are found, each once, 2,000 at most. An error, which comes last, is [ErrNoNodes], [ErrClosed], or that of ctx.
func (n *Node) Peers(ctx context.Context, h bt.InfoHash) iter.Seq2[netip.AddrPort, error] {
	return n.lookup(ctx, h, 0)
}

// Announce looks a torrent up and tells the nodes nearest to it that we listen on port, which must not be 0; it yields what it finds as Peers does. It has told them when the iterator has run to its
// end. Nodes forget after half an hour or so.
func (n *Node) Announce(ctx context.Context, h bt.InfoHash, port uint16) iter.Seq2[netip.AddrPort, error] {
	return n.lookup(ctx, h, port)
}

func (n *Node) lookup(ctx context.Context, h bt.InfoHash, port uint16) iter.Seq2[netip.AddrPort, error] {
	return func(yield func(netip.AddrPort, error) bool) {
		if n.ctx.Err() != nil {
			yield(netip.AddrPort{}, ErrClosed)
			return
		}
		if n.server.NumNodes() == 0 {
			yield(netip.AddrPort{}, ErrNoNodes)
			return
		}
		var opts []library.AnnounceOpt
		if port != 0 {
			opts = append(opts, library.AnnouncePeer(library.AnnouncePeerOpts{Port: int(port)}))
		}
		a, err := n.server.AnnounceTraversal(h, opts...)
		if err != nil {
			yield(netip.AddrPort{}, fmt.Errorf("DHT: looking up %v: %w", h, err))
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
				yield(netip.AddrPort{}, ctx.Err())
				return
			case <-n.ctx.Done():
				yield(netip.AddrPort{}, ErrClosed)
				return
			case found, more := <-a.Peers:
				if !more {
					return
				}
				for _, p := range found.Peers {
					addr, ok := peerAddr(p)
					if _, again := seen[addr]; !ok || again || len(seen) >= maxPeers {
						continue
					}
					seen[addr] = struct{}{}
					if !yield(addr, nil) {
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

// Close ends the node and its lookups. What the library still has under way ends soon after, without a socket.
func (n *Node) Close() error {
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
