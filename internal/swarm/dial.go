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

// candidate is an address that may be dialled. It belongs to the owner.
type candidate struct {
	addr     netip.AddrPort
	busy     bool // being dialled or connected
	failures int
	next     time.Time // not before
}

// Bounds of dialling.
const (
	maxDialing    = 16
	maxCandidates = 4096
	dialTimeout   = 8 * time.Second
	firstRetry    = time.Second
	lastRetry     = 30 * time.Second
	faultRetry    = 10 * time.Minute
	selfRetry     = 24 * time.Hour // an address that turned out to be our own
	redundantWait = 10 * time.Minute
)

// AddPeers adds addresses to dial; those known already are dialled again now if they are not connected.
func (t *Torrent) AddPeers(addrs ...netip.AddrPort) {
	t.post(envelope{kind: envCall, f: func() {
		for _, a := range addrs {
			a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			if c := t.candidates[a]; c != nil {
				c.next, c.failures = time.Time{}, 0
			} else if len(t.candidates) < maxCandidates {
				t.candidates[a] = &candidate{addr: a}
			}
		}
		t.dial(t.cfg.Now())
	}})
}

// Learn takes in addresses that somebody else named: a tracker, a peer, the DHT, local discovery or a magnet link. by is how local whoever named them is, which
// bounds how local the addresses may be (package netpolicy). What may not be dialled is dropped in silence; so is what is beyond the bounds of package dialguard. addrs is
// not kept.
func (t *Torrent) Learn(src dialguard.Source, by netpolicy.Class, addrs ...netip.AddrPort) {
	addrs = t.cfg.Policy.Filter(slices.Clone(addrs), by)
	if len(addrs) > 0 {
		t.AddPeers(addrs...)
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

// dial dials addresses whose time has come.
func (t *Torrent) dial(now time.Time) {
	if t.closing || t.err != nil || t.state == StateVerifying {
		return
	}
	for _, c := range t.candidates {
		if t.dialing >= maxDialing || len(t.peers)+int(t.lingering.Load())+t.dialing+t.halfOpen >= t.cfg.MaxPeers {
			return
		}
		if c.busy || now.Before(c.next) {
			continue
		}
		c.busy = true
		t.dialing++
		t.group.Go(func() {
			ctx, cancel := context.WithTimeout(t.ctx, dialTimeout)
			defer cancel()
			nc, err := t.cfg.Dial(ctx, c.addr)
			if !t.post(envelope{kind: envCall, f: func() { t.dialled(c, nc, err) }}) && nc != nil {
				nc.Close()
			}
		})
	}
}

// dialled goes on after a dial.
func (t *Torrent) dialled(c *candidate, nc net.Conn, err error) {
	t.dialing--
	if err != nil {
		t.dialFailed(c, err)
		return
	}
	if t.closing || t.err != nil {
		nc.Close()
		return
	}
	p := t.newPeer(c.addr)
	p.candidate, p.half = c, true
	t.halfOpen++
	cfg := peer.Config{Role: peer.Initiator, PeerID: t.cfg.PeerID, Reserved: OurReserved, HelloTimeout: peer.InitiatorTimeout,
		KeepAlive: t.keepAlive(), Local: t.local()}
	pc := peerconn.Start(nc, t.cfg.Conn, cfg, p)
	if !t.greeting.begin(p, pc) {
		pc.Close(peer.ErrUnknownTorrent) // unreachable: only the owner closes, and it runs this
	}
}

// greeted says that the hello of a connection that we opened is complete, or will never be.
func (t *Torrent) greeted(p *Peer) {
	if p.half {
		p.half = false
		t.halfOpen--
	}
}

// keepAlive draws the time between keep-alives (EMP/1 section 8).
func (t *Torrent) keepAlive() time.Duration {
	return peer.MinKeepAlive + time.Duration(t.rng.Int64N(int64(peer.MaxKeepAlive-peer.MinKeepAlive)))
}

func (t *Torrent) dialFailed(c *candidate, err error) {
	c.busy = false
	if t.closing {
		return
	}
	c.next = t.cfg.Now().Add(t.backoff(c))
	c.failures++
	t.notify(Event{Kind: EventDialFailed, Addr: c.addr, Err: err})
}

// backoff returns how long to leave an address alone after another failure: doubling, with a quarter of chance.
func (t *Torrent) backoff(c *candidate) time.Duration {
	d := min(firstRetry<<min(c.failures, 10), lastRetry)
	return d + time.Duration(t.rng.Int64N(int64(d)/4+1))
}

// candidateClosed decides when an address is dialled again after its session has ended.
func (t *Torrent) candidateClosed(p *Peer, now time.Time, err error) {
	c := p.candidate
	c.busy = false
	if p.opened.Load() && now.Sub(p.since) > time.Minute {
		c.failures = 0
	}
	switch {
	case errors.Is(err, peer.ErrSelfConnection):
		c.next = now.Add(selfRetry)
	case peer.FaultOf(err) == peer.FaultPeer:
		c.next = now.Add(faultRetry)
	case !p.opened.Load():
		c.next = now.Add(t.backoff(c))
		c.failures++
		if !t.closing {
			t.notify(Event{Kind: EventDialFailed, Addr: c.addr, Err: err})
		}
	case err == errRedundant || t.state == StateSeeding && (p.seed || p.uploadOnly) && !t.cfg.Types.Usable(p.types):
		c.next = now.Add(redundantWait)
	default:
		c.next = now.Add(t.backoff(c))
		c.failures++
	}
}
