package swarm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// Bounds of asking for piece layers (BEP 52, "hash request").
const (
	hashesAsked    = 4 // of one peer at once
	hashesPatience = 15 * time.Second
	hashesAgain    = 5 * time.Second // before a peer that rejected is asked again; doubled each time
	hashesLastWait = time.Minute
)

// Bounds of what hashing blocks for others costs: bytes that are read and hashed for one peer, and for all.
const (
	leavesBurst, leavesRate       = 64 << 20, 2 << 20 // rates a second
	leavesBurstAll, leavesRateAll = 256 << 20, 16 << 20
	leavesKept                    = 16 // pieces whose blocks' hashes are kept: they are asked for in parts
)

// hashAsk is a question to one peer.
type hashAsk struct {
	layerAsk
	at   time.Time
	late bool // others are asked by now
}

// hashesOf is what a peer is asked for and has said of piece layers. It belongs to the owner.
type hashesOf struct {
	asks    []hashAsk
	next    time.Time // not asked before
	refused int       // in a row
}

// open returns how many questions are not late.
func (h *hashesOf) open() (n int) {
	for i := range h.asks {
		if !h.asks[i].late {
			n++
		}
	}
	return n
}

// infoHashes returns the info-hashes of a torrent, as hellos have them: the one by which it goes first and, if it is known to have one, that of its v2 form. The two may be the same.
func infoHashes(info *metainfo.Info, ih bt.InfoHash, v2 metainfo.InfoHashV2) (first, second bt.InfoHash) {
	if info != nil && info.V2 {
		ih, v2 = info.InfoHash(), info.InfoHashV2()
	}
	return ih, v2.Truncated()
}

// needTrees goes on once the metadata of a torrent with a v2 description is known: its trees are made, off the owner.
func (t *Torrent) needTrees(layers map[merkle.Hash][]byte) {
	info := t.info
	t.group.Go(func() {
		ts, err := newTrees(info, layers)
		t.post(envelope{kind: envCall, f: func() { t.gotTrees(ts, err) }})
	})
}

func (t *Torrent) gotTrees(ts *trees, err error) {
	if t.closing || t.err != nil {
		return
	}
	if err != nil {
		t.fail(fmt.Errorf("metadata: %w", err))
		return
	}
	t.trees = ts
	t.toAsk = ts.missing()
	t.publish()
	// A v2 torrent's layers are part of what must be known before its pieces are: they stand where "pieces" stands in v1. A hybrid's are not waited for, since its
	// pieces have other hashes.
	if ts.complete() || t.info.Hybrid {
		t.openStorage()
	}
	t.askHashes(t.cfg.Now())
}

// wantsHashes reports whether there are layers to be asked for.
func (t *Torrent) wantsHashes() bool {
	return t.trees != nil && t.err == nil && !t.closing && !t.trees.complete()
}

// askHashes asks peers for what is missing of the piece layers, a little of each, so that they come from as many as can be.
func (t *Torrent) askHashes(now time.Time) {
	if !t.wantsHashes() {
		return
	}
	for round := range hashesAsked {
		for p := range t.peers {
			if !p.v2 || p.hashes.open() > round || now.Before(p.hashes.next) {
				continue
			}
			a, ok := t.nextAsk(p)
			if !ok {
				continue
			}
			if err := p.conn.Send(wire.HashRequest{HashSpan: a.span()}); err != nil {
				t.toAsk = append(t.toAsk, a)
				p.hashes.next = now.Add(hashesPatience) // too many are unanswered, or the session has ended
				continue
			}
			p.hashes.asks = append(p.hashes.asks, hashAsk{layerAsk: a, at: now})
		}
	}
}

// nextAsk takes the next thing to ask p for. What it was asked for before and has not answered is left to others.
func (t *Torrent) nextAsk(p *Peer) (layerAsk, bool) {
	for i := len(t.toAsk) - 1; i >= 0; i-- {
		a := t.toAsk[i]
		if t.trees.known(&a) {
			t.toAsk = slices.Delete(t.toAsk, i, i+1)
			continue
		}
		if !slices.ContainsFunc(p.hashes.asks, func(h hashAsk) bool { return h.layerAsk == a }) {
			t.toAsk = slices.Delete(t.toAsk, i, i+1)
			return a, true
		}
	}
	return layerAsk{}, false
}

// peerHashes handles hashes that a peer was asked for, or its refusal if there are none.
func (t *Torrent) peerHashes(p *Peer, now time.Time, h *wire.Hashes) {
	i := slices.IndexFunc(p.hashes.asks, func(a hashAsk) bool { return a.span() == h.HashSpan })
	if i < 0 || !t.wantsHashes() {
		return // of another time: everything is known
	}
	a := p.hashes.asks[i]
	p.hashes.asks = slices.Delete(p.hashes.asks, i, i+1)
	if h.Data == nil {
		if !a.late {
			t.toAsk = append(t.toAsk, a.layerAsk)
		}
		p.hashes.next = now.Add(min(hashesAgain<<min(p.hashes.refused, 8), hashesLastWait))
		p.hashes.refused++
		t.askHashes(now)
		return
	}
	p.hashes.refused = 0
	switch err := t.trees.add(&a.layerAsk, h.Data); {
	case errors.Is(err, merkle.ErrMismatch):
		if !a.late {
			t.toAsk = append(t.toAsk, a.layerAsk)
		}
		t.convict(p.from(), fmt.Errorf("%w: %d of layer %d from %d", peer.ErrCorruptHashes, a.r.Length, a.r.Base, a.r.Index))
	case err != nil:
		t.fail(fmt.Errorf("piece layers: %w", err)) // what was asked for makes no sense: our own mistake
		return
	}
	if !t.trees.complete() {
		t.askHashes(now)
		return
	}
	t.toAsk = nil
	for q := range t.peers {
		q.hashes = hashesOf{}
	}
	if t.state == StateMetadata {
		t.openStorage()
	}
}

// dropHashes lets others answer what a peer was asked for, because its session has ended.
func (t *Torrent) dropHashes(p *Peer, now time.Time) {
	for _, a := range p.hashes.asks {
		if !a.late {
			t.toAsk = append(t.toAsk, a.layerAsk)
		}
	}
	p.hashes = hashesOf{}
	t.askHashes(now)
}

// tickHashes lets others answer what a peer does not.
func (t *Torrent) tickHashes(now time.Time) {
	if !t.wantsHashes() {
		return
	}
	for p := range t.peers {
		for i := range p.hashes.asks {
			if a := &p.hashes.asks[i]; !a.late && now.Sub(a.at) >= hashesPatience {
				a.late = true
				t.toAsk = append(t.toAsk, a.layerAsk)
				p.hashes.next = now.Add(hashesPatience)
			}
		}
	}
	t.askHashes(now)
}

// learnHash takes in the v2 hash of a piece of a hybrid that was right by its v1 hash. An error has stopped the torrent.
func (t *Torrent) learnHash(a *assembly) error {
	err := t.trees.learn(a.index, *a.learned)
	if err != nil {
		t.fail(fmt.Errorf("piece %d: %w", a.index, err))
	}
	return err
}

// Serving hashes.

// Hashes implements [peerconn.Session].
func (p *Peer) Hashes(dst []byte, s wire.HashSpan) ([]byte, error) {
	ts := p.t.shared.Load().trees
	if ts == nil {
		return dst, errNoHashes
	}
	r := merkle.Range{Base: s.BaseLayer, Index: s.Index, Length: s.Length, Proof: s.ProofLayers}
	tree, first, err := ts.find(s.Root, r)
	if err != nil {
		return dst, err
	}
	var leaves []byte
	if piece, needed := tree.NeedsLeaves(r); needed {
		// A range of many pieces' leaves, or of a layer between, is not served: BEP 52 asks for neither.
		if r.Base != 0 || int(r.Length) > 1<<tree.Shape().PieceLayer() {
			return dst, errNoHashes
		}
		if leaves, err = p.leaves(first+bt.PieceIndex(piece), tree.Shape().PieceLeaves(piece)); err != nil {
			return dst, err
		}
	}
	return tree.AppendHashes(dst, r, leaves)
}

// leafCache is the hashes of blocks of a few pieces that somebody asked for.
type leafCache struct {
	mu     sync.Mutex
	budget allowance
	pieces []leavesOfPiece // the last one used last
}

type leavesOfPiece struct {
	index  bt.PieceIndex
	leaves []byte
}

// allowance is how many bytes may be read for hashes that others want: so many at once, and then so many a second.
type allowance struct {
	left int64
	at   time.Time // zero: never used
}

// take takes n bytes, and reports false if they are not there. More than everything may be taken when everything is there.
func (a *allowance) take(now time.Time, n, burst, rate int64) bool {
	if a.at.IsZero() {
		a.left = burst
	} else {
		a.left = min(burst, a.left+int64(now.Sub(a.at).Seconds()*float64(rate)))
	}
	a.at = now
	if a.left < min(n, burst) {
		return false
	}
	a.left -= n
	return true
}

// leaves returns the hashes of the blocks of a piece that we have, as many as it has. One piece of the torrent is hashed at a time.
func (p *Peer) leaves(i bt.PieceIndex, blocks int) ([]byte, error) {
	t := p.t
	c := &t.leafCache
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := slices.IndexFunc(c.pieces, func(l leavesOfPiece) bool { return l.index == i }); at >= 0 {
		l := c.pieces[at]
		c.pieces = append(slices.Delete(c.pieces, at, at+1), l)
		return l.leaves, nil
	}
	geom := t.shared.Load().geom
	now, size := t.cfg.Now(), int64(geom.PieceLen(i))
	if !t.hasPiece(i) || !p.leavesBudget.take(now, size, leavesBurst, leavesRate) || !c.budget.take(now, size, leavesBurstAll, leavesRateAll) {
		return nil, errNoHashes
	}
	leaves := make([]byte, 0, blocks*merkle.HashBytes)
	buf := make([]byte, bt.BlockBytes)
	for n := range geom.NumBlocks(i) {
		if t.ctx.Err() != nil {
			return nil, errNoHashes
		}
		b := geom.Block(i, n)
		if err := p.ReadBlock(buf[:b.Length], b); err != nil {
			return nil, err
		}
		h := merkle.Leaf(buf[:b.Length])
		leaves = append(leaves, h[:]...)
	}
	if len(c.pieces) == leavesKept {
		c.pieces = slices.Delete(c.pieces, 0, 1)
	}
	c.pieces = append(c.pieces, leavesOfPiece{i, leaves})
	return leaves, nil
}

// hasPiece reports whether a piece is here. Anyone may call it.
func (t *Torrent) hasPiece(i bt.PieceIndex) bool {
	t.haveMu.RLock()
	defer t.haveMu.RUnlock()
	return t.have != nil && t.have.Has(int(i))
}

// WaitLayers waits until the metadata is known and, of a torrent with a v2 description, all piece layers. Those of a hybrid may come long after WaitReady, or never if no
// peer has them and not everything is wanted.
func (t *Torrent) WaitLayers(ctx context.Context) error {
	if err := t.WaitReady(ctx); err != nil {
		return err
	}
	if ts := t.shared.Load().trees; ts != nil {
		return t.wait(ctx, ts.all)
	}
	return nil
}

// Layers returns the piece layers of a torrent with a v2 description by their roots, nil if there is none or not all of them are known.
func (t *Torrent) Layers() map[merkle.Hash][]byte {
	if ts := t.shared.Load().trees; ts != nil {
		return ts.layers()
	}
	return nil
}
