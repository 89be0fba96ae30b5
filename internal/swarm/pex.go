package swarm

import (
	"net/netip"
	"slices"
	"time"

	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/pexset"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire/ltep"
)

// pexID is our extended id of ut_pex; below those of the message types (package messaging).
const pexID = 1

// pexLook is how often it is looked who is to be told of whom. How often one peer is told is up to [pexset.Set].
const pexLook = 5 * time.Second

// Private reports whether the torrent is private (BEP 27): its peers come from its trackers and the user, and it is neither announced nor looked for anywhere else. While
// the metadata is not known it is not private: there is no other way to get it. It is safe for concurrent use.
func (t *Torrent) Private() bool {
	info := t.shared.Load().info
	return info != nil && info.Private
}

// private is Private for the owner.
func (t *Torrent) private() bool { return t.info != nil && t.info.Private }

// mayLearnFrom is the one place that says from where a torrent may have peers. A private one has them from its trackers, and from what the user typed or handed over
// (BEP 27).
func (t *Torrent) mayLearnFrom(o dialguard.Origin) bool {
	return !t.private() || o == dialguard.User || o == dialguard.Tracker || o == dialguard.Link
}

// keepPrivate drops what a torrent may not know, once its metadata says that it is private: addresses from elsewhere, and the sessions that came of them. Who connected to
// us may have our address from the tracker, and stays.
func (t *Torrent) keepPrivate() {
	if !t.private() {
		return
	}
	t.pool.Keep(func(s dialguard.Source) bool { return t.mayLearnFrom(s.Origin) })
	for _, c := range t.candidates {
		if !c.busy && !t.mayLearnFrom(c.source.Origin) {
			t.forget(c)
		}
	}
	for p := range t.peers {
		if p.candidate != nil && !t.mayLearnFrom(p.candidate.source.Origin) {
			p.conn.Close(peer.ErrUnknownTorrent)
		}
	}
}

// offerPEX adds ut_pex to what an exchange says, or takes it back once the torrent turns out to be private.
func (t *Torrent) offerPEX(m []ltep.Entry, use *peer.WeUse) ([]ltep.Entry, *peer.WeUse) {
	switch {
	case !t.cfg.NoPEX && !t.private():
		t.pexOffered = true
		u := *use // others share it
		u.PEX = pexID
		return append(m, ltep.Entry{Name: ltep.NamePEX, ID: pexID}), &u
	case t.pexOffered:
		return append(m, ltep.Entry{Name: ltep.NamePEX}), use
	}
	return m, use
}

// joinPEX counts a peer among those that others are told of, once it is known where it listens, with what is known of it now.
func (t *Torrent) joinPEX(p *Peer) {
	var flags ltep.PEXFlags
	switch {
	case !p.incoming:
		p.listens = p.addr
		flags = ltep.PEXReachable
	case p.exchange.Port != 0 && !p.listens.IsValid(): // by its own word; what it says later is no news
		p.listens = netip.AddrPortFrom(p.addr.Addr(), p.exchange.Port)
	case !p.listens.IsValid():
		return
	}
	if p.seed || p.uploadOnly {
		flags |= ltep.PEXUploadOnly
	}
	t.pex.Join(p.listens, flags)
}

// leavePEX forgets a peer that has left, unless it has another session.
func (t *Torrent) leavePEX(p *Peer) {
	if !p.listens.IsValid() {
		return
	}
	for q := range t.peers {
		if q.listens == p.listens {
			return
		}
	}
	t.pex.Leave(p.listens)
}

// tickPEX tells peers of each other.
func (t *Torrent) tickPEX(now time.Time) {
	if t.cfg.NoPEX || t.private() || now.Before(t.pexNext) {
		return
	}
	t.pexNext = now.Add(pexLook)
	for p := range t.peers {
		t.joinPEX(p)
	}
	for p := range t.peers {
		if !p.accepts(ltep.NamePEX) {
			continue
		}
		to := pexset.Receiver{Addr: p.addr, Listen: p.listens, Seed: p.seed || p.uploadOnly}
		if msg, ok := t.pex.Next(now, &p.told, to, t.rng); ok {
			t.send(p, msg)
		}
	}
}

// peerPEX takes in whom a peer tells of. Who has left is not looked at: a peer is gone when it does not answer.
func (t *Torrent) peerPEX(p *Peer, m *ltep.PEX) {
	if t.cfg.NoPEX || t.private() {
		return
	}
	// Two seeds have nothing to say to each other, unless messages.
	useless := ltep.PEXFlags(0)
	if t.state == StateSeeding && !t.hasTypes() {
		useless = ltep.PEXUploadOnly
	}
	addrs := make([]netip.AddrPort, 0, len(m.Added))
	for _, a := range m.Added {
		if a.Flags&useless == 0 {
			addrs = append(addrs, a.Addr)
		}
	}
	by := p.addr.Addr()
	t.learn(dialguard.Source{Origin: dialguard.Peer, Name: dialguard.Host(by).String()}, netpolicy.ClassOf(by), addrs)
}

// hasTypes reports whether there are message types that peers can be told of.
func (t *Torrent) hasTypes() bool {
	m, use, _ := t.cfg.Types.Exchange()
	for _, e := range m {
		if e.ID != 0 && e.Name != ltep.NameMux {
			return true
		}
	}
	return use.Mux != nil && slices.ContainsFunc(use.Mux.Types, func(o peer.OurType) bool { return o.Offered })
}
