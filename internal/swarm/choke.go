package swarm

import (
	"time"

	"github.com/parley-bt/parley/internal/choker"
	"github.com/parley-bt/parley/wire"
)

// reciprocity is over how long a peer's rate is averaged that decides whether it earns a slot: two rounds, as in BEP 3. The blocks of a slow peer come seconds apart.
const reciprocity = 20 * time.Second

// rechoke decides anew whom to upload to.
func (t *Torrent) rechoke(now time.Time) {
	if t.closing || t.err != nil || t.have == nil {
		return
	}
	t.cpeers = t.cpeers[:0]
	interested, unchoked := 0, 0
	for p := range t.peers {
		if !p.peerInterested && !p.unchoked {
			continue
		}
		if p.peerInterested {
			interested++
		}
		t.cpeers = append(t.cpeers, choker.Peer{Key: choker.Key(p.key), Interested: p.peerInterested, Unchoked: p.unchoked, Snubbed: p.snubbed,
			RateDown: p.down.Rate(now), RateUp: p.up.Rate(now), Owes: p.uploaded.Load() - p.downloaded, Since: p.chokeSince, Connected: p.since})
	}
	t.ckeys = t.choker.Choose(t.ckeys[:0], now, t.cpeers, t.slots(now, interested), t.state == StateSeeding, t.rng)
	for p := range t.peers {
		p.wanted = false
	}
	for _, k := range t.ckeys {
		if p := t.byKey[pickerKey(k)]; p != nil {
			p.wanted = true
			unchoked++
		}
	}
	t.usedSlots(unchoked)
	for p := range t.peers {
		if p.wanted == p.unchoked {
			continue
		}
		p.unchoked, p.chokeSince = p.wanted, now
		if p.wanted {
			t.send(p, wire.Unchoke{})
		} else {
			t.send(p, wire.Choke{})
		}
	}
}
