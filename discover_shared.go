package parley

import (
	"context"
	"errors"
	"iter"
	mrand "math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/discovery"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/swarm"
)

// A DHT finds peers in a distributed hash table (BEP 5). Package dht has one; programs that do not use it do not compile it. It must be safe for concurrent use.
type DHT interface {
	// Announce looks a torrent up and yields what it finds, as it finds it; peers may be yielded more than once. If port is not 0 it then tells the nodes that are near the torrent that peers are
	// accepted there. It ends when that is done, or soon after ctx is. An error is the last thing that it yields; nothing found is none.
	Announce(ctx context.Context, h bt.InfoHash, port uint16) iter.Seq2[DHTPeer, error]
}

// DHTNode is a [DHT] of which peers may be told, that takes in the nodes of peers (BEP 5, "port"), and whose nodes are remembered in Config.StateDir when the client is closed. Config.DHT may be
// one. Its methods must not block, and may be called until [Client.Close] has returned.
type DHTNode interface {
	DHT
	// Port is the UDP port at which the node answers; 0 if it does not. It does not change.
	Port() uint16
	// LearnNode takes in where a peer says that its node is, which is at the peer's own address.
	LearnNode(addr netip.AddrPort)
	// Nodes returns the nodes that it knows, AddNodes takes in those that it knew the last time.
	Nodes() []netip.AddrPort
	AddNodes(addrs ...netip.AddrPort)
}

// useDHTPorts has a torrent's peers told of our node, and our node of theirs.
func (c *Client) useDHTPorts(cfg *swarm.Config) {
	if c.cfg.DHT == nil {
		return
	}
	cfg.OnDHTNode = func(netip.AddrPort) {}
	if n, ok := c.cfg.DHT.(DHTNode); ok {
		cfg.DHTPort, cfg.OnDHTNode = n.Port(), n.LearnNode
	}
}

// DHTPeer is a peer that a node of a [DHT] named.
type DHTPeer struct {
	Addr netip.AddrPort
	// From is the node. An address that is more local than it is will not be dialled, unless Config.AllowNetworks has it. The zero Addr counts as one on the internet.
	From netip.Addr
}

// Times of lookups in the DHT.
const (
	// dhtEvery is how often a torrent is announced: nodes forget after half an hour.
	dhtEvery = 25 * time.Minute
	// dhtNeedy is how often, if it has too few peers.
	dhtNeedy = 5 * time.Minute
	// dhtAlone is how soon, if it has no peer at all; the pause doubles up to dhtNeedy. Who is to be found may announce itself just after a lookup.
	dhtAlone = 10 * time.Second
	// dhtAtOnce bounds the lookups that are under way for all torrents: each asks dozens of nodes.
	dhtAtOnce = 4
	// dhtTimeout bounds one lookup.
	dhtTimeout = 2 * time.Minute
	// dhtRetryMin and dhtRetryMax bound the pause after a lookup that failed, which doubles each time: a node that has just started knows nobody.
	dhtRetryMin, dhtRetryMax = time.Second, 5 * time.Minute
)

// rounds looks up the torrents of a client in its DHT, a few at a time, each when it is due. Its methods are safe for concurrent use.
type rounds struct {
	node DHT
	port uint16
	wake chan struct{}

	mu    sync.Mutex
	turns map[*finder]*round
}

// round is what is known of one torrent.
type round struct {
	due    time.Time
	busy   bool
	again  bool // it was added once more while it was busy
	failed int  // in a row
	alone  int  // lookups in a row after which there was no peer
}

func newRounds(node DHT, port uint16) *rounds {
	return &rounds{node: node, port: port, wake: make(chan struct{}, 1), turns: make(map[*finder]*round)}
}

// add has a torrent looked up as soon as there is a place, even if it has just been: it may have got another hash since.
func (r *rounds) add(f *finder) {
	r.mu.Lock()
	if x := r.turns[f]; x == nil {
		r.turns[f] = &round{due: time.Now()}
	} else {
		x.due, x.again = time.Now(), x.busy
	}
	r.mu.Unlock()
	r.poke()
}

func (r *rounds) remove(f *finder) {
	r.mu.Lock()
	delete(r.turns, f)
	r.mu.Unlock()
}

func (r *rounds) poke() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// next takes the torrent that has waited longest, if it is due; else it returns when one will be, the zero time if never.
func (r *rounds) next(now time.Time) (*finder, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first *finder
	var at time.Time
	for f, x := range r.turns {
		if !x.busy && (first == nil || x.due.Before(at)) {
			first, at = f, x.due
		}
	}
	if first == nil || at.After(now) {
		return nil, at
	}
	r.turns[first].busy = true
	return first, at
}

// done says what came of a lookup.
func (r *rounds) done(now time.Time, f *finder, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.turns[f]
	if x == nil {
		return // it has been removed meanwhile
	}
	x.busy = false
	if x.again {
		x.again, x.due = false, now
		return
	}
	wait := dhtEvery
	switch {
	case err != nil:
		wait = dhtRetryMax
		if x.failed < 9 {
			wait = min(dhtRetryMin<<x.failed, dhtRetryMax)
		}
		x.failed++
	case f.needy() && f.peers.Load() == 0:
		wait = min(dhtAlone<<x.alone, dhtNeedy)
		x.alone, x.failed = min(x.alone+1, 9), 0
	case f.needy():
		wait = dhtNeedy
		x.alone, x.failed = 0, 0
	default:
		x.alone, x.failed = 0, 0
	}
	x.due = now.Add(wait + mrand.N(wait/8)) // so that what was added together spreads out
}

// run makes lookups until ctx is done.
func (r *rounds) run(ctx context.Context) {
	var lookups sync.WaitGroup
	defer lookups.Wait()
	slots := make(chan struct{}, dhtAtOnce)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		f, at := r.next(time.Now())
		if f != nil {
			lookups.Go(func() {
				err := r.lookup(ctx, f)
				r.done(time.Now(), f, err)
				<-slots
				r.poke()
			})
			continue
		}
		<-slots
		var due <-chan time.Time
		if !at.IsZero() {
			timer.Reset(time.Until(at))
			due = timer.C
		}
		select {
		case <-r.wake:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// lookup looks one torrent up, and announces it.
func (r *rounds) lookup(ctx context.Context, f *finder) error {
	ctx, cancel := context.WithTimeout(ctx, dhtTimeout)
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()
	var errs []error
	for _, h := range f.under() {
		for p, err := range r.node.Announce(ctx, h, r.port) {
			if err != nil {
				errs = append(errs, err)
				break
			}
			f.t.sw.Learn(dialguard.Source{Origin: dialguard.DHT}, netpolicy.ClassOf(p.From), p.Addr)
		}
	}
	if err := errors.Join(errs...); err != nil {
		if ctx.Err() == nil {
			f.d.c.cfg.Logger.Debug("DHT lookup", "infohash", f.t.ih.String(), "error", err)
		}
		return err
	}
	return nil
}

// startShared begins what the torrents of a client share: the rounds through the DHT, and local discovery. It does without what cannot be had, and says so.
func (d *discoverer) startShared() {
	c := d.c
	if c.cfg.DHT != nil {
		d.dht = newRounds(c.cfg.DHT, c.addr.Port())
		d.group.Go(func() { d.dht.run(d.ctx) })
	}
	if c.cfg.LocalDiscovery {
		l, err := discovery.Start(discovery.Config{Port: c.addr.Port(), OnPeer: d.heard, Log: c.cfg.Logger, Endpoints: c.cfg.localEndpoints})
		if err != nil {
			c.cfg.Logger.Warn("local discovery is not possible here", "error", err)
			return
		}
		d.local = l
	}
}

// heard is told of a peer on the local network, by an address that has been seen to send.
func (d *discoverer) heard(h bt.InfoHash, addr netip.AddrPort) {
	d.c.mu.Lock()
	t := d.c.torrents[h]
	d.c.mu.Unlock()
	if t != nil && t.find.Load().public() {
		t.sw.Learn(dialguard.Source{Origin: dialguard.Local, Name: addr.Addr().String()}, netpolicy.ClassOf(addr.Addr()), addr)
	}
}

// public reports whether the torrent may be looked for outside its trackers: whether it is not known to be private (BEP 27). Of a magnet link that is known once the metadata is here.
func (f *finder) public() bool {
	if mi := f.t.mi.Load(); mi != nil {
		return !mi.Info.Private
	}
	info := f.t.sw.Info()
	return info == nil || !info.Private
}

// shareOut announces the torrent in the DHT and on the local network, again if it goes by more hashes than before.
func (f *finder) shareOut() {
	if !f.public() {
		return
	}
	if f.d.dht != nil {
		f.d.dht.add(f)
	}
	if f.d.local != nil {
		for _, h := range f.under() {
			f.d.local.Add(h)
		}
	}
	if f.ctx.Err() != nil { // it has been stopped at the same time
		f.withdraw()
	}
}

// withdraw ends that.
func (f *finder) withdraw() {
	if f.d.dht != nil {
		f.d.dht.remove(f)
	}
	if f.d.local != nil {
		for _, h := range f.under() {
			f.d.local.Remove(h)
		}
	}
}
