package parley

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/gate"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/internal/webseed"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// A Client takes part in swarms: it listens for peers, dials them, and owns the torrents added to it. Its methods are safe
// for concurrent use.
type Client struct {
	cfg    Config // resolved
	peerID bt.PeerID
	ln     net.Listener // nil if we do not listen
	addr   netip.AddrPort
	conn   *peerconn.Options
	state  *os.Root // Config.StateDir, nil without
	policy netpolicy.Policy
	stop   chan struct{}
	conns  sync.WaitGroup // goroutines of connections
	group  sync.WaitGroup // the listener and the timers
	hellos *slots         // incoming connections in their hello
	byHost *hostSlots     // of those, how many each host has
	shared *swarm.Shared  // how many connections there are, and are being opened

	served           *served    // what obfuscated hellos may ask for
	scans, exchanges *gate.Gate // what hellos may cost
	ladders          *ladders   // which hellos to dial with

	discovery *discoverer     // how torrents find peers
	web       *webseed.Client // nil if web seeds are not used

	up, down *peerconn.Shaper  // the limits of the rates
	uploads  *swarm.UploadPool // nil without Config.MaxUploads
	queue    *queue
	budget   *messaging.Budget // of messages that were received and are not handled yet

	mu       sync.Mutex
	torrents map[bt.InfoHash]*Torrent    // each under all of its names, see identity
	greeting map[*peerconn.Conn]struct{} // incoming connections without a torrent
	closed   bool
}

// NewClient starts a client. It fails if it cannot listen, with an error that wraps the one of package net, or if the configuration makes no sense.
func NewClient(cfg Config) (*Client, error) {
	cfg, err := cfg.resolved()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, stop: make(chan struct{}), torrents: make(map[bt.InfoHash]*Torrent), greeting: make(map[*peerconn.Conn]struct{}),
		hellos: newSlots(cfg.MaxHandshakes), policy: netpolicy.Policy{Allow: cfg.AllowNetworks},
		byHost: newHostSlots(cfg.MaxHandshakesPerAddress, cfg.nearHandshakes), shared: swarm.NewShared(cfg.MaxHalfOpen, cfg.MaxConnections),
		budget: messaging.NewBudget(int64(cfg.MessageMemoryBytes))}
	copy(c.peerID[:], peerIDPrefix)
	rand.Read(c.peerID[len(peerIDPrefix):]) // never fails: it would end the program
	timers := peerconn.NewTimers(time.Now)
	c.conn = &peerconn.Options{Host: host{c}, Timers: timers, Group: &c.conns, SendQueueBytes: cfg.SendQueueBytes, Now: time.Now,
		Ended: func(*peerconn.Conn) { c.shared.Disconnected() }, Drains: new(peerconn.Drains), OwnIVs: new(peerconn.IVs)}
	c.served, c.scans, c.exchanges = newServed(), gate.New(scanBudget), gate.New(keyExchangeBudget)
	if cfg.StateDir != "" {
		if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
			return nil, fmt.Errorf("folder for what is remembered: %w", err)
		}
		if c.state, err = os.OpenRoot(cfg.StateDir); err != nil {
			return nil, fmt.Errorf("folder for what is remembered: %w", err)
		}
	}
	c.ladders = c.newLadders()
	if !cfg.NoListen {
		ln, err := listenConfig.Listen(context.Background(), "tcp", cfg.ListenAddr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listening for peers: %w", err), c.closeState())
		}
		c.ln = ln
		ap := ln.Addr().(*net.TCPAddr).AddrPort()
		c.addr = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		c.group.Go(c.listen)
	}
	c.group.Go(func() { timers.Run(c.stop) })
	if c.state != nil {
		c.group.Go(c.keepHellos)
	}
	c.newRates(timers)
	c.discovery = newDiscoverer(c)
	c.recallNodes()
	c.web = c.newWeb()
	return c, nil
}

// Addr returns the address the client listens on, the zero AddrPort if it does not.
func (c *Client) Addr() netip.AddrPort { return c.addr }

// PeerID returns the peer ID this client shows to others: made anew for each client.
func (c *Client) PeerID() bt.PeerID { return c.peerID }

// listen accepts peers until the client is closed.
func (c *Client) listen() {
	pause := time.Duration(0)
	for {
		// Wait for a free place before accepting: what waits in the kernel costs us nothing.
		if !c.hellos.take(c.stop) {
			return
		}
		nc, err := c.ln.Accept()
		if err != nil {
			c.hellos.give()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: what is open goes on, and new peers wait.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			c.cfg.Logger.Warn("accepting a peer", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-c.stop:
				return
			}
			continue
		}
		pause = 0
		from := remoteAddr(nc)
		if !c.admit(from) {
			c.hellos.give()
			refuse(nc)
			continue
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			c.shared.Disconnected()
			c.helloDone(from)
			nc.Close()
			return
		}
		pc := peerconn.Start(nc, c.conn, peer.Config{Role: peer.Responder, PeerID: c.peerID, Reserved: swarm.ReservedWith(c.cfg.DHT != nil),
			HelloTimeout: draw(peer.MinHelloTimeout, peer.MaxHelloTimeout), KeepAlive: draw(peer.MinKeepAlive, peer.MaxKeepAlive)}, c.cfg.opening(), nil)
		c.greeting[pc] = struct{}{}
		c.mu.Unlock()
	}
}

// draw returns a random duration from lo to hi.
func draw(lo, hi time.Duration) time.Duration { return lo + mrand.N(hi-lo+1) }

// host is a client as incoming connections see it.
type host struct{ c *Client }

// Accept finds the torrent of an incoming connection.
func (h host) Accept(pc *peerconn.Conn, hello wire.Hello, ih bt.InfoHash) (peerconn.Session, peer.Local, error) {
	c := h.c
	if hello == wire.HelloVeil {
		c.scans.Proven(time.Now(), pc.Addr().Addr())
	}
	c.mu.Lock()
	delete(c.greeting, pc)
	t := c.torrents[ih]
	c.mu.Unlock()
	var err error = peer.ErrUnknownTorrent
	if t != nil && (t.secret == nil || hello == wire.HelloVeil) { // a closed swarm is not served under its info-hash
		s, local, serr := t.sw.NewIncoming(pc, func() { c.helloDone(pc.Addr().Addr()) })
		if serr == nil {
			return s, local, nil
		}
		err = serr
	}
	c.mu.Lock()
	c.greeting[pc] = struct{}{} // until Refused
	c.mu.Unlock()
	return nil, peer.Local{}, err
}

// Refused forgets an incoming connection that never had a torrent.
func (h host) Refused(pc *peerconn.Conn, err error) {
	c := h.c
	c.helloDone(pc.Addr().Addr())
	c.mu.Lock()
	delete(c.greeting, pc)
	c.mu.Unlock()
	c.cfg.Logger.Debug("incoming connection ended before its hello", "addr", pc.Addr(), "error", err)
}

// add starts a torrent.
func (c *Client) add(ih bt.InfoHash, v2 metainfo.InfoHashV2, o TorrentOptions, prepare func(t *Torrent, cfg *swarm.Config)) (*Torrent, error) {
	if err := checkTrackers(o.Trackers); err != nil {
		return nil, err
	}
	if err := checkWebSeeds(o.WebSeeds); err != nil {
		return nil, err
	}
	t := newTorrent(c, ih, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	id := identityOf(ih, v2)
	for _, h := range id.names {
		if c.torrents[h] != nil {
			return nil, fmt.Errorf("%v: %w", h, ErrTorrentExists)
		}
	}
	if t.secret != nil && c.served.has(*t.secret) {
		return nil, fmt.Errorf("%v: %w", ih, ErrSwarmKeyUsed)
	}
	cfg := swarm.Config{
		InfoHash: ih, InfoHashV2: v2, PeerID: c.peerID, ClientName: c.cfg.ClientName, ListenPort: c.addr.Port(), Log: c.cfg.Logger.With("infohash", ih.String()),
		Conn: c.conn, Now: time.Now, Dial: c.dial, Policy: c.policy, Shared: c.shared, NoPEX: c.cfg.NoPeerExchange,
		MaxPeers: c.cfg.MaxPeers, MaxPerAddress: c.cfg.MaxPerAddress, MaxPerNear: c.cfg.nearPerAddress, UploadSlots: c.cfg.UploadSlots, BufferBytes: c.cfg.BufferBytes,
		Open: t.openFiles, OnVerify: o.OnVerify, NoDownload: o.NoDownload, Want: o.want(), Sequential: o.Sequential, SuperSeed: o.SuperSeed,
		Types: t.hub, NewApps: t.newApps, Notify: t.notify,
	}
	c.useHellos(t, &cfg)
	c.useDHTPorts(&cfg)
	if o.Storage != nil {
		cfg.Open = o.Storage
	}
	cfg.Open = t.identified(cfg.Open)
	prepare(t, &cfg)
	t.useWeb(&cfg)
	if err := t.useRates(&cfg); err != nil {
		return nil, err
	}
	t.id.Store(id)
	t.find.Store(c.discovery.newFinder(t))
	cfg.Paused = c.queue.add(t, cfg.Complete)
	t.sw = swarm.Start(cfg)
	close(t.started)
	c.nameTorrent(t, id)
	if cfg.Paused {
		t.stopFinding() // until there is a place for it
	} else {
		t.find.Load().start()
	}
	if t.remember {
		c.group.Go(t.rememberMetainfo)
	}
	t.sw.AddPeers(o.Peers...)
	return t, nil
}

// The protocol has keep-alives of its own, and TCP's would cost five system calls a connection.
var (
	listenConfig = net.ListenConfig{KeepAlive: -1}
	dialer       = net.Dialer{KeepAlive: -1}
)

func (c *Client) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return dialer.DialContext(ctx, "tcp", addr.String())
}

// AddTorrent adds a torrent by its metadata. What already lies in Dir is verified and kept, see TorrentOptions; the call returns at once, and
// [Torrent.WaitMetadata] waits for the verification. [ErrTorrentExists] if the client has it already.
func (c *Client) AddTorrent(mi *metainfo.MetaInfo, o TorrentOptions) (*Torrent, error) {
	return c.add(mi.InfoHash, mi.InfoHashV2, o, func(t *Torrent, cfg *swarm.Config) {
		t.mi.Store(mi)
		describe(cfg, mi)
	})
}

// AddMagnet adds a torrent by its magnet link; the metadata comes from peers (BEP 9), once if there is a Config.StateDir. The link's peer addresses (x.pe) are a stranger's word, see [LinkPeers].
// Pass those that you know in o.Peers.
func (c *Client) AddMagnet(m metainfo.Magnet, o TorrentOptions) (*Torrent, error) {
	mi := c.remembered(m)
	t, err := c.add(m.InfoHash, m.InfoHashV2, o, func(t *Torrent, cfg *swarm.Config) {
		t.magnet = m
		if t.remember = c.state != nil && mi == nil; mi != nil {
			t.mi.Store(mi)
			describe(cfg, mi)
		}
	})
	if err != nil {
		return nil, err
	}
	t.LearnPeers(LinkPeers(m, c.cfg.AllowNetworks...)...)
	return t, nil
}

// maxLinkPeers is how many of a link's addresses are looked at.
const maxLinkPeers = 200

// LinkPeers returns the peer addresses of a magnet link (x.pe) that may be dialled on the link's word: those at public IP addresses, and those in the networks
// that the user allowed, see Config.AllowNetworks. A link must not point this program at private networks, nor make it look names up.
func LinkPeers(m metainfo.Magnet, allow ...netip.Prefix) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range m.Peers[:min(len(m.Peers), maxLinkPeers)] {
		if a, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, a)
		}
	}
	return netpolicy.Policy{Allow: allow}.Filter(out, netpolicy.Global)
}

// AddInfoHash adds a torrent of which nothing but the info-hash is known.
func (c *Client) AddInfoHash(ih bt.InfoHash, o TorrentOptions) (*Torrent, error) {
	return c.AddMagnet(metainfo.Magnet{InfoHash: ih}, o)
}

// Torrents yields the client's torrents.
func (c *Client) Torrents() iter.Seq[*Torrent] {
	c.mu.Lock()
	ts := make([]*Torrent, 0, len(c.torrents))
	for h, t := range c.torrents {
		if h == t.ih { // once, under whatever names it goes
			ts = append(ts, t)
		}
	}
	c.mu.Unlock()
	return slices.Values(ts)
}

// Close leaves all swarms, closes every connection in good order within a second, and waits until nothing of the client runs, for handlers of messages no
// longer than a second. Trackers are told, as far as they listen within Config.StopTimeout. It can be called more than once.
func (c *Client) Close() error {
	c.mu.Lock()
	already := c.closed
	c.closed = true
	greeting := make([]*peerconn.Conn, 0, len(c.greeting))
	for pc := range c.greeting {
		greeting = append(greeting, pc)
	}
	c.mu.Unlock()
	begin := time.Now()
	if !already {
		close(c.stop)
		if c.ln != nil {
			c.ln.Close() // nothing is lost with a listener
		}
	}
	for _, pc := range greeting {
		pc.Close(ErrClosed)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for t := range c.Torrents() {
		wg.Go(func() {
			if err := t.Close(); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	errs = append(errs, c.discovery.close(begin))
	if c.web != nil {
		c.web.Close()
	}
	c.conn.Drains.Close()
	c.group.Wait()
	c.conns.Wait()
	c.scans.Close()
	c.exchanges.Close()
	if !already {
		c.saveHellos()
		c.rememberNodes()
		errs = append(errs, c.closeState())
	}
	return errors.Join(errs...)
}

// closeState closes the folder of Config.StateDir; torrents no longer use it.
func (c *Client) closeState() error {
	if c.state == nil {
		return nil
	}
	return c.state.Close()
}

// discard is the logger of a client that was given none.
var discard = slog.New(slog.DiscardHandler)
