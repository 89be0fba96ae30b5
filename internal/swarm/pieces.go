package swarm

import (
	"fmt"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/internal/picker"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
)

// zeroBlock is a block of padding.
var zeroBlock [bt.BlockBytes]byte

// assembly is a piece on its way: its blocks as they arrive, nil for what is padding. Once complete it belongs to the worker that verifies it.
type assembly struct {
	index  bt.PieceIndex
	blocks []*blockbuf.Buf
	from   []*origin // who sent each block
	bytes  int

	compare bool     // a copy failed before: take digests
	digests []digest // of a copy that failed or is to be compared, once verified
	// learned is the hash of a right piece of a hybrid in its v2 form, if nobody has told it.
	learned *merkle.Hash
}

func (a *assembly) release() {
	for _, b := range a.blocks {
		if b != nil {
			b.Release()
		}
	}
	a.blocks = nil
}

// block takes in a block that arrived. It owns data.
func (t *Torrent) block(p *Peer, now time.Time, b bt.Block, data *blockbuf.Buf) {
	n := int(b.Length)
	t.downloaded += int64(n)
	p.downloaded += int64(n)
	t.down.Add(now, n)
	if t.picker == nil {
		t.waste(p, b, data)
		return
	}
	owed := t.picker.Outstanding(p.key)
	r := t.picker.Received(p.key, b)
	// What nobody asked of this peer is no merit of its; it may have been asked for once and come too late. What is here already counts like what nobody
	// wants: it could be sent without end.
	switch asked := t.picker.Outstanding(p.key) < owed; {
	case asked:
		p.pipe.Arrived(now, n)
		p.down.Window = reciprocity
		p.down.Add(now, n)
		p.snubbed = false
	case p.late > 0:
		p.late--
		if r.Outcome == picker.BlockUnrequested {
			r = t.picker.Accept(p.key, b)
		}
	default:
		r.Outcome = picker.BlockUnrequested
	}
	switch r.Outcome {
	case picker.BlockNew:
	case picker.BlockDuplicate:
		t.wasted += int64(n)
		data.Release()
		return
	default:
		t.waste(p, b, data)
		return
	}
	if r.Others > 0 {
		t.cancelOthers(p, b, now)
	}
	t.assemble(p.from(), b, data, r.PieceComplete)
}

// assemble keeps a new block, and has its piece verified once that is complete. It owns data; from is who sent it.
func (t *Torrent) assemble(from *origin, b bt.Block, data *blockbuf.Buf, complete bool) {
	a := t.open[b.Index]
	if a == nil {
		a = &assembly{index: b.Index, blocks: make([]*blockbuf.Buf, t.geom.NumBlocks(b.Index)), from: make([]*origin, t.geom.NumBlocks(b.Index))}
		t.open[b.Index] = a
	}
	a.blocks[b.Begin/bt.BlockBytes], a.from[b.Begin/bt.BlockBytes] = data, from
	a.bytes += data.Len()
	if complete {
		delete(t.open, b.Index)
		t.verifying += a.bytes
		t.jobs = append(t.jobs, a)
		t.startJobs()
	}
}

// waste drops a block that nobody wants, and shuts a peer out that sends too many of them: were it to come back, they would take up a limit of the download rate.
func (t *Torrent) waste(p *Peer, b bt.Block, data *blockbuf.Buf) {
	data.Release()
	t.wasted += int64(b.Length)
	if p.shut {
		return // what was under way
	}
	if p.unwanted += int(b.Length); p.unwanted > unwantedLimit {
		t.convictPeer(p.from(), fmt.Errorf("%w: %d bytes", peer.ErrUnwantedData, p.unwanted))
	}
}

// cancelOthers takes requests for a block back that has come from somebody else.
func (t *Torrent) cancelOthers(p *Peer, b bt.Block, now time.Time) {
	t.keys = t.picker.Others(t.keys[:0], b)
	for _, k := range t.keys {
		if q := t.byKey[k]; q != nil && q != p {
			t.send(q, wire.Cancel{Block: b})
			q.pipe.Dropped(now, 1)
			q.late++ // it may be on its way
		}
		t.picker.Release(k, b)
	}
}

// startJobs starts workers for complete pieces.
func (t *Torrent) startJobs() {
	for len(t.jobs) > 0 && t.working < workers() {
		a := t.jobs[0]
		t.jobs = append(t.jobs[:0], t.jobs[1:]...)
		t.working++
		a.compare = t.blame.trials[a.index] != nil
		t.group.Go(func() { t.verify(a) })
	}
}

// verify hashes a complete piece and writes it if it is right. It runs on a worker; storage, info and geometry no longer change.
func (t *Torrent) verify(a *assembly) {
	s := t.shared.Load()
	want := s.hashes.Piece(a.index)
	var h storage.PieceHasher
	h.Reset(want)
	for n, b := range a.blocks {
		if b == nil { // padding, which nobody was asked for
			h.Write(zeroBlock[:s.geom.Block(a.index, n).Length])
			continue
		}
		h.Write(b.Bytes())
	}
	sums := h.Sums()
	ok, err := want.Check(&sums)
	if ok {
		if want.V2 && want.Unknown {
			a.learned = &sums.V2
		}
		off := s.geom.PieceStart(a.index)
		for n, b := range a.blocks {
			if b != nil {
				if _, err = s.store.WriteAt(b.Bytes(), off); err != nil {
					break
				}
			}
			off += int64(s.geom.Block(a.index, n).Length)
		}
		if err == nil {
			err = s.store.Verified(a.index)
		}
	}
	if !ok || a.compare {
		a.digests = digestsOf(a.blocks)
	}
	a.release()
	f := func() { t.pieceDone(a, ok, err) }
	t.post(envelope{kind: envCall, f: f}) // the owner waits for working to become 0
}

// pieceDone goes on after a piece was verified.
func (t *Torrent) pieceDone(a *assembly, ok bool, err error) {
	t.working--
	t.verifying -= a.bytes
	if t.picker == nil {
		return // stopped meanwhile
	}
	now := t.cfg.Now()
	switch {
	case err != nil:
		t.picker.Failed(a.index)
		t.fail(fmt.Errorf("piece %d: %w", a.index, err))
		return
	case !ok && a.bytes == 0:
		t.fail(fmt.Errorf("piece %d: %w", a.index, errPadding))
		return
	case !ok:
		t.corruptPiece(a)
	case a.learned != nil && t.learnHash(a) != nil:
		return
	default:
		t.haveMu.Lock()
		t.have.Add(int(a.index))
		t.haveMu.Unlock()
		t.picker.Verified(a.index)
		t.countPiece(a.index, 1)
		t.wakeReaders()
		t.progress, t.unsaved = true, true
		t.goodPiece(a)
		for p := range t.peers {
			if !p.seed {
				t.send(p, wire.Have{Index: a.index})
			}
		}
		if t.completeIfAll() {
			return
		}
		for p := range t.peers {
			if p.amInterested && !t.picker.Interesting(p.key, p.has) {
				t.updateInterest(p)
			}
		}
	}
	t.startJobs()
	t.fillAll(now)
}

// fillAll asks every peer for what fits its pipeline: first those that have kept their word before, last those that are snubbed. In the endgame few may be
// asked for one block, and what is given up by some who keep silent must not go to others of their kind.
func (t *Torrent) fillAll(now time.Time) {
	for pass := range 3 {
		for p := range t.peers {
			if p.trust() == pass {
				t.fill(p, now)
			}
		}
	}
	t.fillWeb(now)
}

// trust ranks a peer by what it has sent, the best first.
func (p *Peer) trust() int {
	switch {
	case p.snubbed:
		return 2
	case p.downloaded == 0:
		return 1
	}
	return 0
}

// fill asks a peer for as many blocks as fit its pipeline.
func (t *Torrent) fill(p *Peer, now time.Time) {
	if t.picker == nil || t.closing || !p.amInterested || t.verifying > t.cfg.BufferBytes/2 {
		return
	}
	room := t.limitRoom(p, p.pipe.Room())
	if p.snubbed { // one block at a time, to learn whether it is alive again
		room = min(room, 1-p.pipe.Outstanding())
	}
	if room <= 0 {
		return
	}
	switch {
	case !p.peerChoking:
		t.blocks = t.picker.Pick(t.blocks[:0], p.key, p.has, room)
	case p.fast && len(p.allowed) > 0:
		t.blocks = t.picker.PickAllowed(t.blocks[:0], p.key, p.has, p.allowed, room)
	default:
		return
	}
	if len(t.blocks) == 0 {
		return
	}
	if err := p.conn.SendRequests(t.blocks); err != nil {
		t.picker.ReleaseAll(p.key) // the session has ended; its Closed is on the way
		return
	}
	p.pipe.Sent(now, len(t.blocks))
}

// releaseAll gives up what a peer owes.
func (t *Torrent) releaseAll(p *Peer, now time.Time) {
	if t.picker == nil {
		return
	}
	n := t.picker.ReleaseAll(p.key)
	p.pipe.Dropped(now, n)
	p.late += n
	if n == 0 {
		return // it choked us before it owed anything, and may do so a thousand times
	}
	t.fillAll(now) // p has choked us
}

// abandonStalled gives up open pieces that no connected peer has, when they keep others from being opened: their blocks hold memory.
func (t *Torrent) abandonStalled() {
	if len(t.open) < max(2, t.cfg.BufferBytes/2/int(t.geom.PieceBytes)) {
		return
	}
	for i, a := range t.open {
		if t.picker.Availability(i) == 0 && t.picker.Abandon(i) {
			t.wasted += int64(a.bytes)
			a.release()
			delete(t.open, i)
		}
	}
}

// discardOpen lets go of the blocks of pieces that will not be completed.
func (t *Torrent) discardOpen() {
	for i, a := range t.open {
		a.release()
		delete(t.open, i)
	}
	for _, a := range t.jobs {
		t.verifying -= a.bytes
		a.release()
	}
	t.jobs = nil
}
