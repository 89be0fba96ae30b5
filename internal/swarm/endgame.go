package swarm

import (
	"time"

	"github.com/parley-bt/parley/internal/picker"
)

// Near the end, when every block has been asked for, blocks are asked of several peers (the picker's endgame). What comes twice is lost, and cancels come too late for what
// waits in a peer's send buffer, so that is done where it gains something, and only there.
const (
	// endgameGain is how much sooner than its owner a peer must be expected to deliver a block to be asked for it too, beside being four times as fast.
	endgameGain = 2 * time.Second
	// endgameSilence is for how long a peer that has not delivered yet may keep silent in the endgame while others have nothing to do: it may owe the last blocks.
	endgameSilence = 10 * time.Second
)

// redundant reports whether there is no point in asking peer for a block that owner was asked for: see [picker.Options].
func (t *Torrent) redundant(peer, owner picker.PeerKey) bool {
	p, q := t.byKey[peer], t.byKey[owner]
	if p == nil || q == nil || q.snubbed || q.peerChoking {
		return false // web seeds know no better, and who chokes us may have forgotten
	}
	now := t.cfg.Now()
	theirs, known := q.pipe.Due(now, 0)
	if !known {
		return q.pipe.Silence(now) < endgameGain // it has just been asked
	}
	ours, known := p.pipe.Due(now, 1)
	return !known || theirs < 4*ours+endgameGain
}

// keepsAll reports whether a peer that has not delivered anything keeps others idle that have.
func (t *Torrent) keepsAll(p *Peer, now time.Time) bool {
	if p.downloaded > 0 || p.pipe.Silence(now) < endgameSilence || !t.picker.Endgame() {
		return false
	}
	for q := range t.peers {
		if q != p && q.downloaded > 0 && !q.snubbed && !q.peerChoking && q.amInterested {
			return true
		}
	}
	return false
}
