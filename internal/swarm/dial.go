package swarm

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/peer"
)

// candidate is an address that is being dialled, connected or left alone for a while; of those that the user named also one that waits. It belongs to the owner. What others
// named waits in Torrent.pool, and its failures are in Torrent.backoff.
type candidate struct {
	addr     netip.AddrPort
	source   dialguard.Source
	busy     bool // being dialled or connected
	failures int  // of an address that others named: not 0 if it failed
	ladder   ladder
	next     time.Time
}

// learned reports whether somebody other than the user named the address.
func (c *candidate) learned() bool { return c.source.Origin != dialguard.User }

// Bounds of dialling.
const (
	maxDialing    = 16
	maxOpening    = 32   // dials and outgoing hellos of one torrent; over all torrents see Shared
	maxCandidates = 4096 // that the user named
	maxLearned    = 2048 // that others named and that are not waiting: those are at most dialguard.MaxPool
	maxLearnOnce  = 1000 // addresses that are looked at of one list
	dialTimeout   = 8 * time.Second
	firstRetry    = time.Second
	lastRetry     = 30 * time.Second
	faultRetry    = 10 * time.Minute
	selfRetry     = 24 * time.Hour // an address that turned out to be our own
	redundantWait = 10 * time.Minute
	fullWait      = 10 * time.Minute // an address for which there is no room
	hopeless      = 8                // failures in a row after which an address that others named is forgotten: after three quarters of an hour
)

// AddPeers adds addresses to dial, on the user's word: they are dialled for as long as the torrent runs, whatever they are. Those known already are dialled again now if they
// are not connected.
func (t *Torrent) AddPeers(addrs ...netip.AddrPort) {
	t.post(envelope{kind: envCall, f: func() {
		for _, a := range addrs {
			a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			if c := t.candidates[a]; c != nil {
				if c.learned() { // from now on it is the user's
					t.learned--
					c.source = dialguard.Source{}
				}
				c.next, c.failures = time.Time{}, 0
			} else if len(t.candidates)-t.learned < maxCandidates {
				t.candidates[a] = &candidate{addr: a}
			}
		}
		t.dial(t.cfg.Now())
	}})
}

// Learn takes in addresses that somebody else named: a tracker, a peer, the DHT, local discovery or a magnet link. by is how local whoever named them is, which
// bounds how local the addresses may be (package netpolicy). What may not be dialled is dropped in silence; so is what is beyond the bounds of package dialguard, what
// is known, and what failed lately. Of a private torrent only trackers and links may name peers (BEP 27). Addresses where nobody answers are dialled less and less often
// and then forgotten. addrs is not kept. It is safe for concurrent use, and returns before anything is dialled.
func (t *Torrent) Learn(src dialguard.Source, by netpolicy.Class, addrs ...netip.AddrPort) {
	addrs = t.cfg.Policy.Filter(slices.Clone(addrs[:min(len(addrs), maxLearnOnce)]), by)
	if len(addrs) > 0 {
		t.post(envelope{kind: envCall, f: func() { t.learn(src, by, addrs) }})
	}
}

// learn does what Learn says. addrs is used up.
func (t *Torrent) learn(src dialguard.Source, by netpolicy.Class, addrs []netip.AddrPort) {
	if t.closing || t.err != nil || !t.mayLearnFrom(src.Origin) {
		return
	}
	now := t.cfg.Now()
	addrs = slices.DeleteFunc(addrs, func(a netip.AddrPort) bool {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		return t.candidates[a] != nil || t.pex.Has(a) || !t.backoff.Ready(now, a)
	})
	if t.pool.Add(now, src, t.cfg.Policy, by, addrs...) > 0 {
		t.dial(now)
	}
}

// redial lets addresses be tried again at once that were left alone because sessions with them were of no use: there may be something to say now.
func (t *Torrent) redial() {
	for _, c := range t.candidates {
		if c.failures == 0 {
			c.next = time.Time{}
		}
	}
	t.dial(t.cfg.Now())
}

// perHost returns how many connections the host of a may have; 0 is no bound.
func (t *Torrent) perHost(a netip.Addr) int {
	if netpolicy.ClassOf(a) < netpolicy.Global {
		return t.cfg.MaxPerNear
	}
	return t.cfg.MaxPerAddress
}

// dial dials addresses whose time has come: those of the user first.
func (t *Torrent) dial(now time.Time) {
	defer t.cfg.Shared.decline(t.turn) // what was granted and is not needed
	if t.closing || t.paused || t.err != nil || t.state == StateVerifying {
		return
	}
	full := t.full()
	for _, again := range [...]bool{false, true} { // those that have failed after those that have not
		for _, c := range t.candidates {
			switch {
			case c.busy || now.Before(c.next) || t.bans.avoids(now, c.addr):
			case c.learned() && !c.ladder.under(): // its rest is over: it queues behind what its source named meanwhile. The policy has been asked
				t.forget(c)
				t.pool.Add(now, c.source, t.cfg.Policy, netpolicy.Loopback, c.addr)
			case again != (c.failures > 0), full && !t.mayWeigh(now):
			case !t.mayOpen():
				return
			case full && !t.makeRoom(c.addr, true, now):
				t.cfg.Shared.opened(false)
			default:
				t.start(c)
				full = t.full()
			}
		}
	}
	for t.learnedDue(now) && t.dialing < maxDialing {
		if full && !t.mayWeigh(now) || !t.mayOpen() {
			return
		}
		// The place is given back if there is nobody to dial.
		if c := t.nextLearned(now, full); c != nil {
			t.start(c)
		} else {
			t.cfg.Shared.opened(false)
		}
		if full {
			return // one at a time
		}
		full = t.full()
	}
}

// full reports whether there are as many peers, dialled ones among them, as there may be.
func (t *Torrent) full() bool {
	return len(t.peers)+int(t.lingering.Load())+t.dialing+t.halfOpen >= t.cfg.MaxPeers
}

// mayOpen takes a place for another connection, if there is one.
func (t *Torrent) mayOpen() bool {
	return t.dialing < maxDialing && t.dialing+t.halfOpen < maxOpening && t.cfg.Shared.take(t.turn)
}

// learnedDue reports whether an address that others named may be dialled now.
func (t *Torrent) learnedDue(now time.Time) bool {
	at := t.pool.NextAt(now)
	return !at.IsZero() && !now.Before(at)
}

// nextLearned takes an address from the pool that may be dialled now, nil if none may. If the torrent is full, one session makes room, or the address waits.
func (t *Torrent) nextLearned(now time.Time, full bool) *candidate {
	for t.learnedDue(now) {
		next, ok := t.pool.Next(now)
		if !ok {
			return nil
		}
		a := next.Addr
		if t.candidates[a] != nil || t.pex.Has(a) || !t.backoff.Ready(now, a) || t.bans.avoids(now, a) {
			continue // it has become known in another way while it waited
		}
		c := &candidate{addr: a, source: next.Source}
		t.candidates[a] = c
		t.learned++
		switch {
		case t.greeting.full(a.Addr(), t.perHost(a.Addr())), full && !t.makeRoom(a, false, now):
			t.rest(c, now.Add(fullWait), 0)
			if full {
				return nil
			}
		case !t.cfg.Shared.allow(now, a.Addr()):
			t.failed(c, now)
		default:
			return c
		}
	}
	return nil
}

// rest leaves an address alone until then. One that others named is forgotten if there are too many.
func (t *Torrent) rest(c *candidate, until time.Time, failures int) {
	c.busy, c.next, c.failures = false, until, failures
	if c.learned() && t.learned > maxLearned {
		t.forget(c)
	}
}

// failed leaves an address alone for longer each time. One that others named is forgotten in the end.
func (t *Torrent) failed(c *candidate, now time.Time) {
	if !c.learned() {
		t.rest(c, now.Add(t.patience(c)), c.failures+1)
		return
	}
	next := t.backoff.Failed(now, c.addr, t.rng)
	if n := t.backoff.Failures(c.addr); n < hopeless {
		t.rest(c, next, n)
	} else {
		t.forget(c)
	}
}

// forget drops an address that others named. What is known of its failures stays for a while.
func (t *Torrent) forget(c *candidate) {
	delete(t.candidates, c.addr)
	t.learned--
}

// start dials an address. A place has been taken.
func (t *Torrent) start(c *candidate) {
	c.busy = true
	c.ladder.begin(t, c.addr)
	t.dialing++
	t.group.Go(func() {
		ctx, cancel := context.WithTimeout(t.ctx, dialTimeout)
		defer cancel()
		nc, err := t.cfg.Dial(ctx, c.addr)
		if !t.post(envelope{kind: envCall, f: func() { t.dialled(c, nc, err) }}) {
			t.cfg.Shared.opened(false)
			if nc != nil {
				nc.Close()
			}
		}
	})
}

// dialled goes on after a dial.
func (t *Torrent) dialled(c *candidate, nc net.Conn, err error) {
	t.dialing--
	if err != nil {
		t.cfg.Shared.opened(false)
		t.dialFailed(c, err)
		return
	}
	if t.closing || t.paused || t.err != nil || !t.mayLearnFrom(c.source.Origin) {
		t.cfg.Shared.opened(false)
		nc.Close()
		c.ladder = ladder{}
		if t.mayLearnFrom(c.source.Origin) {
			t.rest(c, t.cfg.Now(), c.failures)
		} else {
			t.forget(c)
		}
		return
	}
	t.greeting.reserve(c.addr.Addr(), 0)
	p := t.newPeer(c.addr)
	p.candidate, p.half = c, true
	t.halfOpen++
	cfg := peer.Config{Role: peer.Initiator, PeerID: t.cfg.PeerID, Reserved: ReservedWith(t.cfg.OnDHTNode != nil), HelloTimeout: peer.InitiatorTimeout,
		KeepAlive: t.keepAlive(), Local: t.local()}
	if l := &cfg.Local; c.failures%2 == 1 && !l.InfoHashV2.IsZero() {
		l.InfoHash = l.InfoHashV2 // who knows a hybrid torrent in its v2 form alone does not answer to the other
	}
	cfg.Hello = c.ladder.hello()
	pc := peerconn.Start(nc, t.cfg.Conn, cfg, t.openingOf(cfg), p)
	if !t.greeting.begin(p, pc) {
		pc.Close(peer.ErrUnknownTorrent) // unreachable: only the owner closes, and it runs this
	}
}

// greeted says that the hello of a connection that we opened is complete, or will never be.
func (t *Torrent) greeted(p *Peer) {
	if p.half {
		p.half = false
		t.halfOpen--
		t.cfg.Shared.opened(true)
	}
}

// answered says that a peer of the torrent is at an address.
func (t *Torrent) answered(c *candidate) {
	if c.learned() {
		t.cfg.Shared.answered(c.addr.Addr())
	}
}

// keepAlive draws the time between keep-alives (EMP/1 section 8).
func (t *Torrent) keepAlive() time.Duration {
	return peer.MinKeepAlive + time.Duration(t.rng.Int64N(int64(peer.MaxKeepAlive-peer.MinKeepAlive)))
}

func (t *Torrent) dialFailed(c *candidate, err error) {
	if t.closing {
		c.busy = false
		return
	}
	c.ladder = ladder{}
	t.failed(c, t.cfg.Now())
	t.notifyFailed(c, err)
}

// notifyFailed tells of a dial that came to nothing. Of what trackers, peers and the DHT name most comes to nothing, and nobody waits for one of them.
func (t *Torrent) notifyFailed(c *candidate, err error) {
	if o := c.source.Origin; o == dialguard.User || o == dialguard.Link {
		t.notify(Event{Kind: EventDialFailed, Addr: c.addr, Err: err})
	}
}

// patience returns how long to leave an address of the user's alone after another failure: doubling, with a quarter of chance.
func (t *Torrent) patience(c *candidate) time.Duration {
	d := min(firstRetry<<min(c.failures, 10), lastRetry)
	return d + time.Duration(t.rng.Int64N(int64(d)/4+1))
}

// candidateClosed decides when an address is dialled again after its session has ended.
func (t *Torrent) candidateClosed(p *Peer, now time.Time, err error) {
	c, last := p.candidate, err
	if !t.mayLearnFrom(c.source.Origin) { // the torrent has turned out to be private
		t.forget(c)
		return
	}
	if l := &c.ladder; !p.opened.Load() && len(l.steps) > 1 {
		last = &HelloError{Hello: l.hello(), Err: err}
	}
	if p.opened.Load() && now.Sub(p.since) > time.Minute {
		c.failures = 0
		t.backoff.Succeeded(c.addr)
	}
	if !p.opened.Load() && helloFailed(err) && t.nextHello(c, p.heard, now, err) {
		return
	}
	c.ladder = ladder{} // when it is dialled again that is no step of this one, which has been allowed
	switch {
	case errors.Is(err, peer.ErrSelfConnection):
		t.ban(c, now.Add(selfRetry))
	case peer.FaultOf(err) == peer.FaultPeer:
		t.ban(c, now.Add(faultRetry))
	case t.paused || t.err != nil || t.closing: // we have ended it, and may want it again
		t.rest(c, now, c.failures)
	case !p.opened.Load():
		t.failed(c, now)
		t.notifyFailed(c, last)
	case err == errRedundant || t.state == StateSeeding && (p.seed || p.uploadOnly) && !t.wantsHashes() && !t.cfg.Types.Usable(p.shared.Load()):
		t.rest(c, now.Add(redundantWait), c.failures)
	case c.learned() && (errors.Is(err, peer.ErrTooManyConnections) || errors.Is(err, peer.ErrDuplicatePeer)): // we closed it, and would again
		t.rest(c, now.Add(fullWait), c.failures)
	default:
		t.failed(c, now)
	}
}

// ban leaves an address alone until then. One that others named is forgotten, and not learned before.
func (t *Torrent) ban(c *candidate, until time.Time) {
	if !c.learned() {
		t.rest(c, until, c.failures)
		return
	}
	t.forget(c)
	t.backoff.Ban(c.addr, until)
}
