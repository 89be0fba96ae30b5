// Package dht finds peers without a tracker: a node of the distributed hash table (BEP 5), for [parley.Config].
//
//	node, err := dht.Start(dht.Config{Bootstrap: dht.Bootstrap})
//	…
//	client, err := parley.NewClient(parley.Config{DHT: node})
//
// It decides what is let through between the network and github.com/anacrolix/dht, the library that keeps the routing table and makes the lookups, and that nothing else of this module knows. It does not
// trust it with the network: every datagram is read here first and handed on in a form that the library can handle (message.go), traffic is bounded per host in both directions (gate.go), and so is what
// other nodes may store here (store.go). A node may not name addresses that are more local than it is. Which torrents are looked up, and whether to dial what is found, is up to the client; private ones
// must not come near it (BEP 27).
//
// What it does of which BEP: 5, for which the client hands it the Port messages of peers; 32 with a node of its own for each address family, which asks and tells nodes and peers of its family only and ignores "want"; 42 for
// the ID of a node whose public address is known when it starts, while other nodes' IDs are not enforced; 43.
package dht

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
)

// Bootstrap are nodes that everybody may begin with, for [Config.Bootstrap].
var Bootstrap = []string{"router.bittorrent.com:6881", "dht.transmissionbt.com:6881", "dht.libtorrent.org:25401"}

// ErrNoNodes says that no node is known yet: there is nobody to ask. Later there may be.
var ErrNoNodes = errors.New("no DHT node known yet")

// ErrClosed says that the node has been closed.
var ErrClosed = fmt.Errorf("DHT node closed: %w", net.ErrClosed)

// Config configures a [Node]. The zero value is usable, but knows nobody to begin with. It is copied.
type Config struct {
	// ListenAddr is the UDP address ("host:port") of the node; empty means ":0". Without a host there is a node for IPv4 and, where the system has it, one for IPv6, on one port number.
	ListenAddr string
	// Bootstrap are the first nodes to ask, as host:port, see [Bootstrap]. An IP address is the user's word and may be anywhere; names are resolved when there are no nodes, and may not lead to this
	// machine or a private network. None means that [Node.AddNodes] brings the first ones.
	Bootstrap []string
	// PublicIP is our address as others see it; the node ID of its family is made of it, so that nodes which enforce BEP 42 take us in. The zero Addr means that it is not known.
	PublicIP netip.Addr
	// ReadOnly is for programs that cannot be reached, or run for minutes: they ask and never answer (BEP 43), so that nobody waits for them in vain.
	ReadOnly bool
	// AllowNetworks are networks that anybody may name addresses of, local ones as a rule.
	AllowNetworks []netip.Prefix
	// Logger gets what goes wrong; nil means nowhere.
	Logger *slog.Logger
}

// Node takes part in the DHT. It implements [parley.DHT]. Its methods are safe for concurrent use.
type Node struct {
	families []*family
	readOnly bool
}

// Start opens the sockets and starts a node, which looks for others by itself. An error is that of listening.
func Start(cfg Config) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Bootstrap, cfg.AllowNetworks = slices.Clone(cfg.Bootstrap), slices.Clone(cfg.AllowNetworks)
	if cfg.ListenAddr == "" {
		cfg.ListenAddr = ":0"
	}
	host, port, err := net.SplitHostPort(cfg.ListenAddr)
	if err != nil {
		return nil, fmt.Errorf("DHT: %w", err)
	}
	n := &Node{readOnly: cfg.ReadOnly}
	for _, network := range []string{"udp4", "udp6"} {
		if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() != (network == "udp4") {
			continue
		}
		conn, err := new(net.ListenConfig).ListenPacket(context.Background(), network, net.JoinHostPort(host, port))
		if err != nil {
			if host != "" && len(n.families) == 0 || network == "udp4" {
				return nil, errors.Join(fmt.Errorf("DHT: %w", err), n.Close())
			}
			cfg.Logger.Debug("DHT: not over IPv6", "error", err) // a system without it, or a name that has no address of it
			continue
		}
		f, err := startFamily(conn, cfg)
		if err != nil {
			return nil, errors.Join(err, conn.Close(), n.Close())
		}
		n.families = append(n.families, f)
		port = fmt.Sprint(conn.LocalAddr().(*net.UDPAddr).Port)
	}
	return n, nil
}

// Addrs returns the addresses of the node's sockets, one for each family.
func (n *Node) Addrs() (all []netip.AddrPort) {
	for _, f := range n.families {
		all = append(all, f.addr())
	}
	return all
}

// AddNodes has addresses asked whether they are nodes, on the user's word: those that [Node.Nodes] returned the last time, for instance. It does not wait.
func (n *Node) AddNodes(addrs ...netip.AddrPort) {
	for _, a := range addrs {
		for _, f := range n.families {
			f.addNode(a, netpolicy.Loopback)
		}
	}
}

// Port returns the UDP port of the node; 0 if it is read-only, since nobody is to be told of it then.
func (n *Node) Port() uint16 {
	if n.readOnly {
		return 0
	}
	return n.families[0].addr().Port()
}

// LearnNode has an address asked whether it is a node, on the word of a peer at that host. It does not wait.
func (n *Node) LearnNode(addr netip.AddrPort) {
	for _, f := range n.families {
		f.addNode(addr, netpolicy.ClassOf(addr.Addr()))
	}
}

var _ parley.DHTNode = (*Node)(nil)

// Nodes returns the nodes that are known, to begin with them next time.
func (n *Node) Nodes() (all []netip.AddrPort) {
	for _, f := range n.families {
		all = append(all, f.nodes()...)
	}
	return all
}

// Announce looks a torrent up and yields its peers as they are found, each once in each family, 2,000 at most. If port is not 0 it then tells the nodes nearest to the torrent that we accept peers there,
// which they forget after half an hour or so; they have been told when the iterator has run to its end. An error, which comes last, is [ErrNoNodes], [ErrClosed], or that of ctx.
func (n *Node) Announce(ctx context.Context, h bt.InfoHash, port uint16) iter.Seq2[parley.DHTPeer, error] {
	return func(yield func(parley.DHTPeer, error) bool) {
		unknown := 0
		for _, f := range n.families {
			for p, err := range f.lookup(ctx, h, port) {
				if errors.Is(err, ErrNoNodes) {
					if unknown++; unknown < len(n.families) {
						break // the other family may know some
					}
				}
				if !yield(p, err) || err != nil {
					return
				}
			}
		}
	}
}

// Close ends the node and its lookups. It can be called more than once.
func (n *Node) Close() error {
	var errs []error
	for _, f := range n.families {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}
