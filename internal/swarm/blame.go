package swarm

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// Who sent what is wrong.
//
// A piece whose hash is wrong and that came from one peer was spoilt by that one. Of one that several had a part in, it is remembered who sent which block and a digest of each: a trial.
// The piece is then fetched anew from a single peer (parole): whoever delivers most and had the least part in what failed, for its size. Either that copy fails too, and there is
// no doubt about its sender, or it is good, and whoever sent a block that differs from it in any copy before is guilty, connected or not. So the choice decides how soon the
// verdict comes, not which it is. Nobody is banned on suspicion.

// Bounds of what is remembered about pieces that failed.
const (
	// maxEvidenceBlocks is for how many blocks it is known who sent them and their digest, about 24 bytes each; beyond it the oldest copies are forgotten.
	maxEvidenceBlocks = 1 << 16
	// maxCopies is how many failed copies of one piece are remembered; the newest ones.
	maxCopies = 8
	// maxParole is how many pieces are fetched from single peers at once.
	maxParole = 4
	// firstParole and lastParole bound for how long a peer may take for a piece of its own while others could; it is three times as long as its rate says it takes.
	firstParole = 20 * time.Second
	lastParole  = 5 * time.Minute
	// paroleSilence is for how long it may deliver nothing at all meanwhile: a piece on trial is nobody else's, and those who spoilt it may keep it from being finished.
	paroleSilence = 5 * time.Second
)

// origin is who a block came from. It outlives the session.
type origin struct {
	id       bt.PeerID
	addr     netip.AddrPort
	incoming bool     // addr has a port of the moment
	web      *webSeed // instead of all that, for what comes from a web seed
}

// same reports whether two sessions were with the same peer, as far as can be told.
func (o *origin) same(q *origin) bool {
	return o == q || o.web == nil && q.web == nil && o.id == q.id && hostOf(o.addr.Addr()) == hostOf(q.addr.Addr())
}

// from returns the peer as the origin of blocks.
func (p *Peer) from() *origin {
	if p.source == nil {
		p.source = &origin{id: p.id, addr: p.addr, incoming: p.incoming}
	}
	return p.source
}

// digest stands for a block's content. It is cut from a hash for which nobody can make another block to match.
type digest [16]byte

func digestsOf(blocks []*blockbuf.Buf) []digest {
	ds := make([]digest, len(blocks))
	for i, b := range blocks {
		if b != nil { // padding is from nobody
			sum := sha256.Sum256(b.Bytes())
			copy(ds[i][:], sum[:])
		}
	}
	return ds
}

// evidence is one copy of a piece that failed its hash.
type evidence struct {
	from    []*origin // of each block
	digests []digest  // of each block
	who     []*origin // from, each once
}

// trial is a piece that failed its hash and of which no good copy has come yet.
type trial struct {
	index  bt.PieceIndex
	copies []evidence // oldest first

	holder *Peer // who is asked for a copy of its own; nil if nobody is
	until  time.Time
	expiry int // how many holders were too slow
}

// blame is what a torrent remembers of pieces that failed. It belongs to the owner.
type blame struct {
	trials map[bt.PieceIndex]*trial
	order  []*trial // oldest first
	blocks int      // in copies
	shared int      // copies ever that failed and that several had a part in
}

// sole returns the one who sent every block of a piece; nil if there were several. Blocks that are padding have no origin.
func sole(from []*origin) (only *origin) {
	for _, o := range from {
		switch {
		case o == nil:
		case only == nil:
			only = o
		case !o.same(only):
			return nil
		}
	}
	return only
}

// add remembers a failed copy.
func (b *blame) add(i bt.PieceIndex, from []*origin, digests []digest) {
	if b.trials == nil {
		b.trials = make(map[bt.PieceIndex]*trial)
	}
	tr := b.trials[i]
	if tr == nil {
		tr = &trial{index: i}
		b.trials[i] = tr
		b.order = append(b.order, tr)
	}
	e := evidence{from: from, digests: digests}
	for _, o := range from {
		if o != nil && !slices.ContainsFunc(e.who, o.same) {
			e.who = append(e.who, o)
		}
	}
	tr.copies = append(tr.copies, e)
	b.shared++
	b.blocks += len(from)
	for len(tr.copies) > maxCopies {
		b.forgetCopy(tr)
	}
	for k := 0; b.blocks > maxEvidenceBlocks && k < len(b.order); k++ {
		for b.blocks > maxEvidenceBlocks && len(b.order[k].copies) > 0 {
			b.forgetCopy(b.order[k])
		}
	}
}

func (b *blame) forgetCopy(tr *trial) {
	b.blocks -= len(tr.copies[0].from)
	tr.copies = slices.Delete(tr.copies, 0, 1)
}

// end forgets a trial.
func (b *blame) end(i bt.PieceIndex) {
	tr := b.trials[i]
	if tr == nil {
		return
	}
	for len(tr.copies) > 0 {
		b.forgetCopy(tr)
	}
	delete(b.trials, i)
	b.order = slices.DeleteFunc(b.order, func(x *trial) bool { return x == tr })
}

// judge returns who sent what differs from a good copy of the piece, each once, and ends the trial.
func (b *blame) judge(i bt.PieceIndex, good []digest) (guilty []*origin) {
	tr := b.trials[i]
	if tr == nil {
		return nil
	}
	for _, e := range tr.copies {
		for n, d := range e.digests {
			if d != good[n] && e.from[n] != nil && !slices.ContainsFunc(guilty, e.from[n].same) {
				guilty = append(guilty, e.from[n])
			}
		}
	}
	b.end(i)
	return guilty
}

// suspicion returns in how many failed copies somebody had a part.
func (b *blame) suspicion(o *origin) (n int) {
	for _, tr := range b.order {
		for _, e := range tr.copies {
			if slices.ContainsFunc(e.who, o.same) {
				n++
			}
		}
	}
	return n
}

// corruptPiece deals with a piece whose hash was wrong.
func (t *Torrent) corruptPiece(a *assembly) {
	t.corrupt++
	t.wasted += int64(a.bytes)
	t.picker.Failed(a.index)
	o := sole(a.from)
	if t.corrupt&(t.corrupt-1) == 0 { // the first, the second, the fourth and so on: strangers must not be able to fill a log
		t.cfg.Log.Info("piece failed its hash", "piece", a.index, "from one peer", o != nil, "failed so far", t.corrupt)
	}
	if o != nil {
		t.convict(o, fmt.Errorf("%w: piece %d", peer.ErrCorruptPiece, a.index))
	} else if a.from != nil { // not all of it is padding
		t.blame.add(a.index, a.from, a.digests)
	}
	if tr := t.blame.trials[a.index]; tr != nil {
		tr.holder = nil
	}
	t.parole(t.cfg.Now())
}

// goodPiece deals with the trial of a piece that has been verified.
func (t *Torrent) goodPiece(a *assembly) {
	if a.digests == nil {
		t.blame.end(a.index)
		return
	}
	for _, o := range t.blame.judge(a.index, a.digests) {
		t.convict(o, fmt.Errorf("%w: piece %d, by comparison with a good copy", peer.ErrCorruptPiece, a.index))
	}
}

// convict shuts somebody out who sent what is wrong: sessions with it end, and what it sent of unfinished pieces is fetched again.
func (t *Torrent) convict(o *origin, why error) {
	if o.web != nil {
		t.dropWeb(o.web, why)
	} else {
		t.convictPeer(o, why)
	}
	if t.picker == nil {
		return
	}
	for i, a := range t.open {
		for n, from := range a.from {
			if from == nil || !o.same(from) || !t.picker.Retract(t.geom.Block(i, n)) {
				continue
			}
			b := a.blocks[n]
			a.blocks[n], a.from[n] = nil, nil
			a.bytes -= b.Len()
			t.wasted += int64(b.Len())
			b.Release()
		}
	}
}

// convictPeer ends the sessions of a peer, and allows it no others.
func (t *Torrent) convictPeer(o *origin, why error) {
	t.bans.add(t.cfg.Now(), o)
	if n := len(t.bans.peers.order); n&(n-1) == 0 {
		t.cfg.Log.Info("peer banned", "peer", o.addr, "error", why, "banned so far", n)
	}
	for q := range t.peers {
		if o.same(q.from()) {
			q.shut = true
			q.conn.Close(why)
		}
	}
}

// parole sees to it that the oldest pieces on trial are fetched from single peers.
func (t *Torrent) parole(now time.Time) {
	if t.picker == nil {
		return
	}
	for _, tr := range t.blame.order[:min(maxParole, len(t.blame.order))] {
		h := tr.holder
		if h != nil && t.mayHold(h, tr.index) {
			late, silent := !now.Before(tr.until), silentHolder(h, now)
			if !late && !silent {
				continue
			}
			// Too slow for its own good. The next one begins anew, if there is one that does better.
			next := t.nextHolder(tr, h)
			switch {
			case late && next == nil:
				tr.until = now.Add(firstParole)
				continue
			case next == nil, !late && silentHolder(next, now):
				continue
			}
			h.forfeits++
			t.abandonPiece(tr.index, now)
			tr.expiry++
			t.hold(tr, next, now)
			continue
		}
		if next := t.nextHolder(tr, nil); next != nil {
			t.hold(tr, next, now)
		} else if h != nil {
			tr.holder = nil
			t.picker.Unreserve(tr.index) // who unchokes us first may help
		}
	}
}

// mayHold reports whether a peer can be asked for a piece of its own.
func (t *Torrent) mayHold(p *Peer, i bt.PieceIndex) bool {
	return t.byKey[p.key] == p && !p.shut && !p.peerChoking && !p.snubbed && p.amInterested && p.has != nil && p.has.Has(int(i))
}

// silentHolder reports whether a peer owes us blocks and delivers none, for so long that no piece on trial is left to it while another could have it.
func silentHolder(p *Peer, now time.Time) bool { return p.pipe.Silence(now) >= paroleSilence }

// nextHolder returns who is best asked for a copy of its own: one who delivers, has not been too slow with such a copy before, and promises most. It is nil if nobody can be asked.
func (t *Torrent) nextHolder(tr *trial, but *Peer) *Peer {
	var best *Peer
	var bestSilent int
	var bestPromise float64
	now := t.cfg.Now()
	for p := range t.peers {
		if p == but || !t.mayHold(p, tr.index) {
			continue
		}
		silent, promise := 0, t.promise(p, now)
		if silentHolder(p, now) {
			silent = 1
		}
		if best == nil || cmp.Or(cmp.Compare(silent, bestSilent), cmp.Compare(p.forfeits, best.forfeits), cmp.Compare(bestPromise, promise), cmp.Compare(p.key, best.key)) < 0 {
			best, bestSilent, bestPromise = p, silent, promise
		}
	}
	return best
}

// promise says how good a copy of a piece is to be expected of a peer, and how soon: its rate, over the share of what it sent that became part of failed copies. The count of
// those alone would not do: a peer that brings nearly everything has a part in what each of the others spoils.
func (t *Torrent) promise(p *Peer, now time.Time) float64 {
	piece := float64(t.geom.PieceBytes)
	doubt := float64(1+t.blame.suspicion(p.from())) * piece / (float64(p.downloaded) + piece)
	return max(p.pipe.Rate(now), 1) / doubt
}

// hold leaves a piece on trial to one peer.
func (t *Torrent) hold(tr *trial, p *Peer, now time.Time) {
	if !t.picker.Reserve(tr.index, p.key) {
		return // complete, and being verified
	}
	takes := lastParole
	if r := p.pipe.Rate(now); r > 0 {
		takes = time.Duration(min(3*float64(t.geom.PieceLen(tr.index))/r*float64(time.Second), float64(lastParole)))
	}
	tr.holder = p
	tr.until = now.Add(max(takes, firstParole) << min(tr.expiry, 4))
}

// abandonPiece gives an open piece up, with what is here of it and what was asked.
func (t *Torrent) abandonPiece(i bt.PieceIndex, now time.Time) {
	for n := range t.geom.NumBlocks(i) {
		b := t.geom.Block(i, n)
		t.keys = t.picker.Requesters(t.keys[:0], b)
		for _, k := range t.keys {
			if q := t.byKey[k]; q != nil {
				t.send(q, wire.Cancel{Block: b})
				q.pipe.Dropped(now, 1)
				q.late++ // it may be on its way
			}
		}
	}
	if a := t.open[i]; t.picker.Abandon(i) && a != nil {
		t.wasted += int64(a.bytes)
		a.release()
		delete(t.open, i)
	}
}

// Bounds of bans.
const (
	// banFor is for how long an address is left alone whose peer sent what is wrong.
	banFor = time.Hour
	// hostOffences is how many peer IDs of one host (an IPv4 address, an IPv6 /64) must have sent what is wrong before all of that host are refused: many honest peers
	// may share an address.
	hostOffences = 3
	// maxBans is how many are remembered of each kind; the oldest give way.
	maxBans = 4096
)

// hostOf returns what counts as one host: an IPv4 address, or the /64 of an IPv6 address, of which anybody has as many as they like.
func hostOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero Prefix for the zero Addr
	return p
}

// banned names a peer: its ID alone would not do, since anybody can use the ID of an honest peer.
type banned struct {
	id   bt.PeerID
	host netip.Prefix
}

// bans is who is shut out of a torrent. The zero bans is ready to use. It belongs to the owner.
type bans struct {
	peers     aged[banned, struct{}]     // until the torrent ends
	addrs     aged[netip.AddrPort, bool] // not dialled for banFor
	offenders aged[netip.Prefix, int]    // how many peer IDs of a host
}

// add shuts somebody out.
func (b *bans) add(now time.Time, o *origin) {
	host := hostOf(o.addr.Addr())
	if _, known := b.peers.get(banned{o.id, host}); !known {
		n, _ := b.offenders.get(host)
		b.offenders.put(host, now, n+1)
	}
	b.peers.put(banned{o.id, host}, now, struct{}{})
	if !o.incoming {
		b.addrs.put(o.addr, now, true)
	}
}

// refuses reports whether a peer may have no session.
func (b *bans) refuses(now time.Time, id bt.PeerID, addr netip.Addr) bool {
	host := hostOf(addr)
	if _, bad := b.peers.get(banned{id, host}); bad {
		return true
	}
	n, _ := b.offenders.get(host)
	return n >= hostOffences && now.Sub(b.offenders.since(host)) < banFor
}

// avoids reports whether an address is not to be dialled.
func (b *bans) avoids(now time.Time, addr netip.AddrPort) bool {
	if _, bad := b.addrs.get(addr); bad && now.Sub(b.addrs.since(addr)) < banFor {
		return true
	}
	host := hostOf(addr.Addr())
	n, _ := b.offenders.get(host)
	return n >= hostOffences && now.Sub(b.offenders.since(host)) < banFor
}

// aged is a map of at most maxBans entries of which the oldest gives way.
type aged[K comparable, V any] struct {
	m     map[K]agedEntry[V]
	order []K // oldest first; each key once
}

type agedEntry[V any] struct {
	at time.Time
	v  V
}

func (a *aged[K, V]) get(k K) (V, bool) {
	e, ok := a.m[k]
	return e.v, ok
}

func (a *aged[K, V]) since(k K) time.Time { return a.m[k].at }

func (a *aged[K, V]) put(k K, now time.Time, v V) {
	if a.m == nil {
		a.m = make(map[K]agedEntry[V])
	}
	if _, ok := a.m[k]; ok {
		a.order = slices.DeleteFunc(a.order, func(x K) bool { return x == k })
	} else if len(a.order) >= maxBans {
		delete(a.m, a.order[0])
		a.order = slices.Delete(a.order, 0, 1)
	}
	a.m[k] = agedEntry[V]{now, v}
	a.order = append(a.order, k)
}
