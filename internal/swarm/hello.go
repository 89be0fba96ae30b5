package swarm

import (
	"crypto/ed25519"
	"errors"
	"net/netip"
	"time"

	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// Hellos says which hellos an address is dialled with, and remembers what worked there (EMP/1 section 2). It is safe for concurrent use, and does not block.
type Hellos interface {
	// Steps returns the ladder for an address now; not empty, and not changed afterwards.
	Steps(now time.Time, a netip.AddrPort) []wire.Hello
	// Worked says that a session with the address began with h.
	Worked(now time.Time, a netip.AddrPort, h wire.Hello)
	// Says says whether the peer that listens there takes veiled hellos, by its own word.
	Says(now time.Time, a netip.AddrPort, veil bool)
}

// ladder is how far an address has been tried with one hello after the other. The zero value has not begun.
type ladder struct {
	steps []wire.Hello
	at    int
	again bool // the step is tried a second time
}

// begin fetches the steps, unless the ladder is under way.
func (l *ladder) begin(t *Torrent, a netip.AddrPort) {
	if l.steps == nil && t.cfg.Hellos != nil {
		*l = ladder{steps: t.cfg.Hellos.Steps(t.cfg.Now(), a)}
	}
}

// under reports whether a hello has failed and the next is due.
func (l *ladder) under() bool { return l.at > 0 || l.again }

// hello returns the hello of the step.
func (l *ladder) hello() wire.Hello {
	if l.at < len(l.steps) {
		return l.steps[l.at]
	}
	return wire.HelloPlaintext
}

// helloFailed reports whether a connection that ended with err before it was open may have been refused for its hello.
func helloFailed(err error) bool {
	switch {
	case errors.Is(err, peer.ErrBadHello), errors.Is(err, obfs.ErrHandshake), errors.Is(err, peer.ErrTypeExchangeExpected), errors.Is(err, peer.ErrBadTypeExchange):
		return true
	}
	return peer.FaultOf(err) == peer.FaultNetwork
}

// nextHello dials an address again at once, by a new connection, with the next hello of its ladder; false if there is none. An MSE hello that came to an end after the first part of the
// answer is tried once more with a fresh key: libtorrent 2.0.8 fails with every 256th.
func (t *Torrent) nextHello(c *candidate, heard bool, now time.Time, err error) bool {
	l := &c.ladder
	tried := l.hello()
	switch {
	case t.closing || t.paused || t.err != nil:
		return false
	case tried == wire.HelloMSE && heard && !l.again && !errors.Is(err, peer.ErrHandshakeTimeout):
		l.again = true
	case l.at+1 < len(l.steps):
		l.at, l.again = l.at+1, false
	default:
		return false
	}
	if c.learned() && !t.cfg.Shared.allow(now, c.addr.Addr()) {
		return false // whoever named the address has no more of its connections to give away
	}
	if !l.again {
		t.notifyFailed(c, &HelloError{Hello: tried, Next: l.hello(), Err: err})
	}
	c.busy, c.next = false, now
	if t.mayOpen() {
		t.start(c)
	} // else when there is room
	return true
}

// HelloError says that an address that was dialled did not take a hello, where more than one is tried.
type HelloError struct {
	Hello wire.Hello // which was tried
	Next  wire.Hello // which is tried next, at once; HelloUnknown after the last
	Err   error
}

// Error implements error.
func (e *HelloError) Error() string {
	s := e.Hello.String() + " hello: " + e.Err.Error()
	if e.Next != wire.HelloUnknown {
		s += "; next is " + e.Next.String()
	}
	return s
}

// Unwrap returns what the connection ended with.
func (e *HelloError) Unwrap() error { return e.Err }

// helloWorked remembers what an address takes.
func (t *Torrent) helloWorked(c *candidate, h wire.Hello) {
	c.ladder = ladder{}
	if t.cfg.Hellos != nil {
		t.cfg.Hellos.Worked(t.cfg.Now(), c.addr, h)
	}
}

// saysVeil remembers whether a peer takes veiled hellos where it listens.
func (t *Torrent) saysVeil(p *Peer) {
	a := p.addr
	if p.incoming {
		if p.exchange.Port == 0 {
			return
		}
		a = netip.AddrPortFrom(a.Addr(), p.exchange.Port)
	}
	var takes, known bool
	p.conn.Do(func(m *peer.Machine) { takes, known = m.TakesVeil() })
	if known && t.cfg.Hellos != nil {
		t.cfg.Hellos.Says(t.cfg.Now(), a, takes)
	}
}

// secret returns what obfuscated hellos for ih are keyed by.
func (t *Torrent) secret(ih [20]byte) veil.Secret {
	if t.cfg.Secret != nil {
		return *t.cfg.Secret
	}
	return ih
}

// openingOf says how an outgoing connection begins; nil: in plaintext.
func (t *Torrent) openingOf(cfg peer.Config) *peer.OpeningConfig {
	if cfg.Hello == wire.HelloPlaintext || cfg.Hello == wire.HelloUnknown {
		return nil
	}
	return &peer.OpeningConfig{Hello: cfg.Hello, MSE: t.cfg.MSE, Secret: t.secret(cfg.Local.InfoHash)}
}

// Veiled implements [peerconn.Session]: what a classic hello would have said is in the exchange, which goes before the peer's has come.
func (p *Peer) Veiled(c *peerconn.Conn) {
	p.conn, p.hello = c, wire.HelloVeil
	p.t.do(func() { p.t.sendExchange(p, p.t.cfg.Now()) })
}

// bareOffer is an "emp" key that says no more than that the enhanced protocol is known.
func bareOffer() *emp.Offer { return &emp.Offer{Version: 1, Requests: -1} }

// offerVeil adds to what the "emp" key says, if there is one, that veiled hellos are accepted.
func (t *Torrent) offerVeil(o *emp.Offer) *emp.Offer {
	if !t.cfg.TakesVeil || t.cfg.ListenPort == 0 {
		return o
	}
	if o == nil {
		o = bareOffer()
	}
	o.Veil = true
	return o
}

// introduce returns the "emp" key with what it must have after a veiled hello (EMP/1 section 6.2): what a classic hello says, and the proof of our identity if we have one.
func (t *Torrent) introduce(p *Peer) []byte {
	o := bareOffer()
	if t.weOffer != nil {
		*o = *t.weOffer
	}
	o.HasPeerID, o.PeerID = true, t.cfg.PeerID
	o.HasReserved, o.Reserved = true, ReservedWith(t.cfg.OnDHTNode != nil)
	if key := t.cfg.Identity; key != nil {
		var binding [32]byte
		p.conn.Do(func(m *peer.Machine) { binding = m.Binding() })
		s := veil.SignIdentity(key, !p.incoming, &binding)
		o.Key, o.Signature = key.Public().(ed25519.PublicKey), s[:]
	}
	return emp.AppendOffer(nil, o)
}
