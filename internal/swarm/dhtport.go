package swarm

import (
	"net/netip"

	"github.com/parley-bt/parley/wire"
)

// ReservedWith returns what we set in a hello: [OurReserved], and that we take part in the DHT if so (BEP 5, "BitTorrent Protocol Extension").
func ReservedWith(dht bool) wire.Reserved {
	r := OurReserved
	if dht {
		r[7] |= 0x01
	}
	return r
}

// tellPort tells a peer that takes part in the DHT where our node is.
func (t *Torrent) tellPort(p *Peer) {
	if t.cfg.DHTPort != 0 && p.reserved.DHT() && !t.private() {
		t.send(p, wire.Port{Port: t.cfg.DHTPort})
	}
}

// peerPort takes in where a peer says that its node is: at its own address, so that it names nobody else, and once in a session, so that it does not have us ask every port of its host.
func (t *Torrent) peerPort(p *Peer, port uint16) {
	if t.cfg.OnDHTNode == nil || p.namedPort || port == 0 || t.private() {
		return
	}
	p.namedPort = true
	t.cfg.OnDHTNode(netip.AddrPortFrom(p.addr.Addr(), port))
}
