package swarm

import (
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// rivalPatience is for how long an older session must have been silent before a newer one may replace it, and how long it gets to answer
// (EMP/1 section 7.7).
const rivalPatience = 10 * time.Second

// verdict says which of two sessions with one peer stays.
type verdict uint8

const (
	keepOld verdict = iota
	keepNew
	askOld   // the old one stays if it answers in time; until then both run
	keepBoth // as long as they last
)

// rivals decides between two sessions with the same peer ID: EMP/1 section 7.7. ours is our own peer ID, theirs the peer's; oldIncoming and newIncoming say whether the peer
// initiated them; quiet is how long the old one has been silent.
func rivals(ours, theirs bt.PeerID, oldIncoming, newIncoming, sameAddr bool, quiet time.Duration) verdict {
	if !sameAddr {
		return keepOld // a stranger may use a known ID
	}
	if oldIncoming != newIncoming {
		theirsIsGreater := string(theirs[:]) > string(ours[:])
		if newIncoming == theirsIsGreater {
			return keepNew
		}
		return keepOld
	}
	if quiet < rivalPatience {
		return keepOld
	}
	return askOld
}

// proven takes into account that a session with a proved identity is not closed in favour of one without (EMP/1 section 7.7); old and new say whether either side has proven one there. Anybody can
// prove some identity, so a stranger who does that with an ID that he has seen closes nobody's session either: both stay.
func proven(v verdict, old, new, sameAddr bool) verdict {
	switch {
	case old == new:
		return v
	case old:
		return keepOld
	case sameAddr:
		return keepNew
	}
	return keepBoth
}

// admitRival decides about a new session with a peer that has one.
func (t *Torrent) admitRival(old, p *Peer) error {
	now := t.cfg.Now()
	judge := func(q *Peer) verdict {
		sameAddr := q.addr.Addr() == p.addr.Addr()
		v := rivals(t.cfg.PeerID, p.id, q.incoming, p.incoming, sameAddr, now.Sub(lastReceived(q)))
		return proven(v, q.proved, p.proved, sameAddr)
	}
	// One that waits for the place of the old one is a session like others, and older than p.
	if q := old.successor; q != nil {
		if _, here := t.peers[q]; here && judge(q) == keepOld {
			return peer.ErrDuplicatePeer
		}
	}
	switch judge(old) {
	case keepOld:
		return peer.ErrDuplicatePeer
	case keepNew:
		old.conn.Close(peer.ErrDuplicatePeer)
		if t.byID[p.id] == old {
			delete(t.byID, p.id)
		}
	case askOld:
		old.successor = p
		p.rival, p.rivalSince, p.rivalUntil = old, now, now.Add(rivalPatience)
		t.send(old, wire.KeepAlive{})
	}
	return nil
}

// settleDuplicate closes one of two sessions with one peer once it is clear which is alive.
func (t *Torrent) settleDuplicate(p *Peer, now time.Time) {
	old := p.rival
	if old == nil {
		return
	}
	_, here := t.peers[old]
	switch {
	case !here:
	case lastReceived(old).After(p.rivalSince):
		p.conn.Close(peer.ErrDuplicatePeer)
	case now.Before(p.rivalUntil):
		return
	default:
		old.conn.Close(peer.ErrDuplicatePeer)
	}
	p.rival = nil
}

func lastReceived(p *Peer) (at time.Time) {
	p.conn.Do(func(m *peer.Machine) { at = m.LastReceived() })
	return at
}
