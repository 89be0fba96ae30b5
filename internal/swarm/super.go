package swarm

import (
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
)

const (
	// superAhead is how many pieces a peer is shown beyond those it has passed on: it fetches one while another spreads.
	superAhead = 2
	// superAlone is the same for the only peer that gets anything: there is nobody to pass them on to, and it would have nothing to do most of the time.
	superAlone = 16
	// superPatience is how long a piece is left to the peer that was shown it. If it has not been fetched then, others may be shown it; if it has been but
	// nobody got it from there, the peer is shown another: perhaps nobody can connect to it.
	superPatience = time.Minute
	// superIdle is for how long a peer may leave lying what it was shown before others no longer wait for it: those who are here and fetch nothing must not keep the rest from
	// getting anything.
	superIdle = 10 * time.Second
)

// superSeed is the state of super-seeding (BEP 16): the only seed of a swarm says that it has nothing, and shows each peer few pieces, ones that hardly anybody
// has. The next is shown when another peer turns out to have got the last. So what the seed sends is spread by the others, and is sent once or little
// more. It belongs to the owner.
type superSeed struct {
	had      []int32 // how many peers, not seeds, have each piece
	assigned []int32 // to how many a piece was shown that have not fetched it yet
}

// superPeer is what super-seeding knows of a peer that is not a seed.
type superPeer struct {
	has     *bitfield.Set
	due     []reveal
	upSeen  int64     // what has been sent to it
	fetched time.Time // when that was
	claimed int64     // bytes of pieces that it says it has got and that nobody but us could give it, as far as we know
}

// reveal is a piece that was shown to a peer, until others have it.
type reveal struct {
	piece bt.PieceIndex
	since time.Time // when it was shown; when it was fetched, once it was
	got   bool
	stale bool // no longer in assigned
}

// shown is the pieces that a peer may ask for. The owner adds, and the connection's writer looks.
type shown struct {
	mu  sync.Mutex
	set *bitfield.Set
}

func (s *shown) has(i bt.PieceIndex) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.Has(int(i))
}

func (s *shown) add(i bt.PieceIndex) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.Add(int(i))
}

// beginSuper begins to super-seed: before any peer was told that we have something.
func (t *Torrent) beginSuper() {
	n := t.geom.NumPieces()
	t.super = &superSeed{had: make([]int32, n), assigned: make([]int32, n)}
	for p := range t.peers {
		p.shown.Store(&shown{set: bitfield.New(n)})
	}
}

// endSuper shows everything to everybody.
func (t *Torrent) endSuper() {
	if t.super == nil {
		return
	}
	t.super = nil
	for p := range t.peers {
		s := p.shown.Swap(nil)
		p.super = nil
		for i := range t.have.All() {
			if s == nil || s.add(bt.PieceIndex(i)) {
				t.send(p, wire.Have{Index: bt.PieceIndex(i)})
			}
		}
	}
}

// superHas takes in what a peer says it has, all at once, and shows it its first pieces.
func (t *Torrent) superHas(p *Peer, has *bitfield.Set, all bool) {
	if t.super == nil {
		return
	}
	if all {
		t.superGone(p)
		return
	}
	if p.super == nil {
		p.super = &superPeer{has: bitfield.New(t.geom.NumPieces()), fetched: t.cfg.Now()}
	}
	if has != nil {
		for i := range has.All() {
			t.superHave(p, bt.PieceIndex(i))
		}
	}
	t.reveal(p)
}

// superHave takes in that a peer has a piece: whoever was shown it and has it has passed it on.
func (t *Torrent) superHave(p *Peer, i bt.PieceIndex) {
	if t.super == nil || p.super == nil || !p.super.has.Add(int(i)) {
		return
	}
	t.super.had[i]++
	for k := range p.super.due {
		if d := &p.super.due[k]; d.piece == i && !d.got {
			t.unassign(d)
			d.got, d.since = true, t.cfg.Now()
			if t.super.had[i] == 1 {
				p.super.claimed += int64(t.geom.PieceLen(i))
			}
		}
	}
	for q := range t.peers {
		if q.super == nil {
			continue
		}
		for _, d := range q.super.due {
			if d.piece == i && d.got {
				t.reveal(q)
				break
			}
		}
	}
}

// superLost takes in that a peer has lost a piece. One that was a seed is from then on like one of which nothing is known.
func (t *Torrent) superLost(p *Peer, i bt.PieceIndex) {
	if t.super != nil && p.super != nil && p.super.has.Remove(int(i)) {
		t.super.had[i]--
	}
}

// superGone forgets a peer that has left, or has everything.
func (t *Torrent) superGone(p *Peer) {
	sp := p.super
	if t.super == nil || sp == nil {
		return
	}
	p.super = nil
	for i := range sp.has.All() {
		t.super.had[i]--
	}
	for k := range sp.due {
		if d := &sp.due[k]; !d.got {
			t.unassign(d)
		}
	}
}

func (t *Torrent) unassign(d *reveal) {
	if !d.stale {
		d.stale = true
		t.super.assigned[d.piece]--
	}
}

// tickSuper does what depends on time.
func (t *Torrent) tickSuper(now time.Time) {
	if t.super == nil {
		return
	}
	for p := range t.peers {
		if p.super == nil {
			// A peer that has nothing may say nothing (BEP 3).
			if !p.seed && now.Sub(p.since) >= tickEvery {
				t.superHas(p, nil, false)
			}
			continue
		}
		if up := p.uploaded.Load(); up != p.super.upSeen {
			p.super.fetched, p.super.upSeen = now, up
		}
		for k := range p.super.due {
			if d := &p.super.due[k]; !d.got && now.Sub(d.since) >= superPatience {
				t.unassign(d)
			}
		}
		t.reveal(p)
	}
}

// reveal shows a peer more pieces, as many as it has passed on.
func (t *Torrent) reveal(p *Peer) {
	now := t.cfg.Now()
	sp, s := p.super, p.shown.Load()
	if sp == nil || s == nil || !p.toldHave { // have none comes first (BEP 6): libtorrent takes what was shown before it as taken back
		return
	}
	open := sp.due[:0]
	for _, d := range sp.due {
		if !d.got || !t.passedOn(p, d, now) {
			open = append(open, d)
		}
	}
	sp.due = open
	for most := t.superAhead(now); len(sp.due) < most; {
		i, ok := t.rarest(p, s)
		if !ok {
			return
		}
		s.add(i)
		t.super.assigned[i]++
		sp.due = append(sp.due, reveal{piece: i, since: now})
		t.send(p, wire.Have{Index: i})
	}
}

// superIdles reports whether a peer leaves lying what it was shown, or says that it has got what it has not: nobody needs to wait until it fetches what others have.
func (t *Torrent) superIdles(p *Peer, now time.Time) bool {
	sp := p.super
	if p.uploaded.Load() < sp.claimed {
		return true
	}
	return now.Sub(sp.fetched) >= superIdle && slices.ContainsFunc(sp.due, func(d reveal) bool { return !d.got && now.Sub(d.since) >= superIdle })
}

// superAhead returns how many pieces a peer is shown beyond those it has passed on.
func (t *Torrent) superAhead(now time.Time) int {
	n := 0
	for p := range t.peers {
		if p.super != nil && !t.superIdles(p, now) {
			n++
		}
	}
	if n == 1 {
		return superAlone
	}
	return superAhead
}

// passedOn reports whether a piece that a peer has fetched is elsewhere too, or nobody wants it who could get it there.
func (t *Torrent) passedOn(p *Peer, d reveal, now time.Time) bool {
	if t.super.had[d.piece] > 1 || now.Sub(d.since) >= superPatience {
		return true
	}
	for q := range t.peers {
		if q != p && q.super != nil && !t.superIdles(q, now) && q.peerInterested && !q.super.has.Has(int(d.piece)) {
			return false
		}
	}
	return true
}

// rarest returns the piece that the fewest have, or are about to fetch, of those that a peer lacks and was not shown. It begins anywhere.
func (t *Torrent) rarest(p *Peer, s *shown) (best bt.PieceIndex, ok bool) {
	n := t.geom.NumPieces()
	from := t.rng.IntN(max(n, 1))
	lowest := int32(0)
	for k := range n {
		i := (from + k) % n
		c := t.super.had[i] + t.super.assigned[i]
		if ok && c >= lowest || p.super.has.Has(i) || s.has(bt.PieceIndex(i)) {
			continue
		}
		best, lowest, ok = bt.PieceIndex(i), c, true
		if c == 0 {
			break
		}
	}
	return best, ok
}
