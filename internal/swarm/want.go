package swarm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/picker"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// Priority says how much a file is wanted.
type Priority = picker.Priority

// The priorities.
const (
	Skip   = picker.Skip
	Low    = picker.Low
	Normal = picker.Normal
	High   = picker.High
)

// Errors of what is said about files.
var (
	// ErrNoMetadata: the files of the torrent are not known yet.
	ErrNoMetadata = errors.New("the torrent's metadata is not known yet")
	// ErrNoFile: the torrent has no such file, or it is padding.
	ErrNoFile = errors.New("no such file in the torrent")
	// ErrSkipped: what was asked for is in a file that is not wanted, and not here.
	ErrSkipped = errors.New("the file is not wanted, see its priority")
	// ErrNoDownload: the torrent takes part without downloading.
	ErrNoDownload = errors.New("the torrent does not download")
)

// errPadding stops a torrent whose padding is not made of zeros, as BEP 47 has it: what its pieces are made of nobody can say.
var errPadding = errors.New("the torrent contradicts itself: a piece that is nothing but padding has not the hash of zeros")

// wants is what of a torrent is wanted. It belongs to the owner.
type wants struct {
	files       []Priority // by the index of the metadata's files; nil while all are Normal
	bytes, have int64      // of the wanted files: their length, and what is verified of it; only with files

	stored  []bool // which files the storage takes for wanted; nil means all
	storing bool   // it is being told of others
}

// File is one file of a torrent.
type File struct {
	Index    int // in the metadata's files
	Path     []string
	Offset   int64 // in the torrent
	Length   int64
	Done     int64 // bytes verified
	Priority Priority
}

// initialWants says what is wanted of a torrent whose metadata has just become known.
func (t *Torrent) initialWants() {
	t.want = wants{}
	if t.cfg.Want == nil || t.cfg.Complete {
		return
	}
	prio := make([]Priority, len(t.info.Files))
	for i := range t.info.Files {
		if f := &t.info.Files[i]; !f.Padding {
			prio[i] = min(t.cfg.Want(i, f), High)
		}
	}
	inheritPadding(t.info, prio)
	if slices.ContainsFunc(prio, func(p Priority) bool { return p != Normal }) {
		t.want.files = prio
		t.recount()
	}
}

// inheritPadding gives padding the priority of the file that it follows.
func inheritPadding(info *metainfo.Info, prio []Priority) {
	last := Normal
	for i := range info.Files {
		if info.Files[i].Padding {
			prio[i] = last
		}
		last = prio[i]
	}
}

// wantedFiles returns which files are wanted; nil means all.
func (w *wants) wantedFiles() []bool {
	if w.files == nil || !slices.Contains(w.files, Skip) {
		return nil
	}
	out := make([]bool, len(w.files))
	for i, p := range w.files {
		out[i] = p != Skip
	}
	return out
}

// piecePriorities returns the priority of each piece, that of the file in it that is wanted most; nil if all are Normal.
func (t *Torrent) piecePriorities() []Priority {
	if t.want.files == nil {
		return nil
	}
	prio := make([]Priority, t.geom.NumPieces())
	for i := range t.info.Files {
		first, end := t.piecesOf(i)
		for k := first; k < end; k++ {
			prio[k] = max(prio[k], t.want.files[i])
		}
	}
	return prio
}

// piecesOf returns the first piece of file i, and the one behind its last.
func (t *Torrent) piecesOf(i int) (first, end bt.PieceIndex) {
	f, size := &t.info.Files[i], int64(t.info.Geometry.PieceBytes)
	if f.Length == 0 {
		return 0, 0
	}
	return bt.PieceIndex(f.Offset / size), bt.PieceIndex((f.Offset+f.Length-1)/size) + 1
}

// overlap returns how many bytes of file i are in piece k.
func (t *Torrent) overlap(i int, k bt.PieceIndex) int64 {
	f, start := &t.info.Files[i], t.info.Geometry.PieceStart(k)
	return max(0, min(f.Offset+f.Length, start+int64(t.info.Geometry.PieceLen(k)))-max(f.Offset, start))
}

// doneOf returns how many bytes of file i are verified.
func (t *Torrent) doneOf(i int) (n int64) {
	switch {
	case t.have == nil:
		return 0
	case t.have.Full():
		return t.info.Files[i].Length
	}
	first, end := t.piecesOf(i)
	for k := first; k < end; k++ {
		if t.have.Has(int(k)) {
			n += t.overlap(i, k)
		}
	}
	return n
}

// recount sums up the wanted files.
func (t *Torrent) recount() {
	t.want.bytes, t.want.have = 0, 0
	for i := range t.info.Files {
		if t.want.files != nil && t.want.files[i] != Skip && !t.info.Files[i].Padding {
			t.want.bytes += t.info.Files[i].Length
			t.want.have += t.doneOf(i)
		}
	}
}

// countPiece adds a piece that was verified, or takes one away that was lost (by is -1), to what is here of the wanted files.
func (t *Torrent) countPiece(k bt.PieceIndex, by int64) {
	if t.want.files == nil {
		return
	}
	start := t.geom.PieceStart(k)
	end := start + int64(t.geom.PieceLen(k))
	i, _ := slices.BinarySearchFunc(t.info.Files, start, func(f metainfo.File, start int64) int {
		if f.Offset+f.Length <= start {
			return -1
		}
		return 1
	})
	for ; i < len(t.info.Files) && t.info.Files[i].Offset < end; i++ {
		if t.want.files[i] != Skip && !t.info.Files[i].Padding {
			t.want.have += by * t.overlap(i, k)
		}
	}
}

// newPicker makes the picker of a torrent of which not everything is here. The caller adds the peers.
func (t *Torrent) newPicker() {
	t.picker = picker.New(t.geom, t.have, t.rng, picker.Options{MaxOpen: max(2, t.cfg.BufferBytes/2/int(t.geom.PieceBytes)), Padding: paddingOf(t.info),
		Sequential: t.cfg.Sequential, Redundant: t.redundant})
	if prio := t.piecePriorities(); prio != nil {
		t.picker.SetPriorities(nil, prio)
	}
	// Nobody needs to be asked for pieces that are nothing but padding, though their hash may say that they are not.
	for i := range t.picker.Blank {
		t.jobs = append(t.jobs, &assembly{index: i, blocks: make([]*blockbuf.Buf, t.geom.NumBlocks(i))})
	}
	t.startJobs()
}

// paddingOf returns the ranges of a torrent that are padding.
func paddingOf(info *metainfo.Info) (spans []picker.Span) {
	for i := range info.Files {
		f := &info.Files[i]
		if !f.Padding || f.Length == 0 {
			continue
		}
		if last := len(spans) - 1; last >= 0 && spans[last].To == f.Offset {
			spans[last].To += f.Length
		} else {
			spans = append(spans, picker.Span{From: f.Offset, To: f.Offset + f.Length})
		}
	}
	return spans
}

// selector is a storage that can keep what belongs to unwanted files apart; [storage.Files] is one.
type selector interface {
	SetWanted(file int, wanted bool) error
	CreateEmpty() error
}

// tellSelector says which files are wanted, where that differs from what was said. It waits for the disk.
func tellSelector(store storage.Storage, from, to []bool) error {
	s, ok := store.(selector)
	if !ok || to == nil && from == nil {
		return nil
	}
	for i := range max(len(from), len(to)) {
		now := to == nil || to[i]
		if now == (from == nil || from[i]) {
			continue
		}
		if err := s.SetWanted(i, now); err != nil {
			return err
		}
	}
	return s.CreateEmpty()
}

// tellStorage tells the storage, off the owner, which files are wanted now. Until it has been told nothing is complete.
func (t *Torrent) tellStorage() {
	to := t.want.wantedFiles()
	if t.want.storing || slices.Equal(to, t.want.stored) {
		return
	}
	t.want.storing = true
	store, from := t.store, t.want.stored
	t.group.Go(func() {
		err := tellSelector(store, from, to)
		t.post(envelope{kind: envCall, f: func() {
			t.want.storing, t.want.stored, t.unsaved = false, to, true
			if t.closing || t.err != nil {
				return
			}
			if err != nil {
				t.fail(fmt.Errorf("choosing files: %w", err))
				return
			}
			t.tellStorage()
			t.completeIfAll()
		}})
	})
}

// completeIfAll goes over to seeding if everything that is wanted is in place, and reports whether it did.
func (t *Torrent) completeIfAll() bool {
	if t.state != StateDownloading || t.want.storing || t.picker != nil && !t.picker.Complete() {
		return false
	}
	t.completed()
	return true
}

// SetPriority says how much files are wanted, by their index in the metadata. What is here of files that are no longer wanted stays. Storage follows, and the
// torrent downloads again if something is missing now.
func (t *Torrent) SetPriority(pr Priority, files ...int) error {
	err := ErrClosed
	t.do(func() { err = t.setPriority(min(pr, High), files) })
	return err
}

func (t *Torrent) setPriority(pr Priority, files []int) error {
	switch {
	case t.cfg.NoDownload:
		return ErrNoDownload
	case t.info == nil:
		return ErrNoMetadata
	case t.closing:
		return ErrClosed
	case t.err != nil:
		return t.err
	}
	for _, i := range files {
		if i < 0 || i >= len(t.info.Files) || t.info.Files[i].Padding {
			return fmt.Errorf("%w: file %d of %d", ErrNoFile, i, len(t.info.Files))
		}
	}
	if t.want.files == nil {
		t.want.files = slices.Repeat([]Priority{Normal}, len(t.info.Files))
	}
	for _, i := range files {
		t.want.files[i] = pr
	}
	inheritPadding(t.info, t.want.files)
	t.recount()
	if t.state == StateDownloading || t.state == StateSeeding { // else that begins with it
		t.choose()
	}
	return nil
}

// choose follows a change of what is wanted.
func (t *Torrent) choose() {
	if t.picker != nil {
		for _, i := range t.picker.SetPriorities(nil, t.piecePriorities()) {
			t.giveUp(i)
		}
	}
	t.tellStorage()
	if t.picker != nil && !t.picker.Complete() {
		t.downloadAgain()
	}
	for r := range t.readers {
		r.wakeUp() // its file may have been left out
	}
	t.urge()
	if t.completeIfAll() || t.picker == nil {
		return
	}
	for p := range t.peers {
		t.updateInterest(p)
	}
	t.fillAll(t.cfg.Now())
}

// downloadAgain goes back from seeding because something that is wanted is missing.
func (t *Torrent) downloadAgain() {
	if t.state != StateSeeding {
		return
	}
	t.state = StateDownloading
	t.endSuper()
	t.complete.Store(newLatch())
	t.announce() // no longer upload_only (BEP 21)
	t.redial()   // those that had nothing for us may have now
}

// giveUp drops an open piece that is no longer wanted.
func (t *Torrent) giveUp(i bt.PieceIndex) {
	now := t.cfg.Now()
	for n := range t.geom.NumBlocks(i) {
		b := t.geom.Block(i, n)
		t.keys = t.picker.Requesters(t.keys[:0], b)
		for _, k := range t.keys {
			if p := t.byKey[k]; p != nil {
				t.send(p, wire.Cancel{Block: b})
				p.pipe.Dropped(now, 1)
				p.unwanted -= int(b.Length) // it was asked for: it may be on its way
			}
		}
	}
	t.picker.Abandon(i)
	if a := t.open[i]; a != nil {
		t.wasted += int64(a.bytes)
		a.release()
		delete(t.open, i)
	}
}

// SetSequential says whether pieces are asked for in their order rather than the rarest first.
func (t *Torrent) SetSequential(on bool) error {
	ran := t.do(func() {
		t.cfg.Sequential = on
		if t.picker != nil {
			t.picker.SetSequential(on)
		}
	})
	if !ran {
		return ErrClosed
	}
	return nil
}

// Files returns the files of the torrent, padding excepted; nil while they are not known.
func (t *Torrent) Files() (files []File) {
	t.look(func() {
		if t.info == nil {
			return
		}
		for i := range t.info.Files {
			f := &t.info.Files[i]
			if f.Padding {
				continue
			}
			x := File{Index: i, Path: f.Path, Offset: f.Offset, Length: f.Length, Done: t.doneOf(i), Priority: Normal}
			if t.want.files != nil {
				x.Priority = t.want.files[i]
			}
			files = append(files, x)
		}
	})
	return files
}

// lose takes verified pieces back that turned out not to be there: peers are told (BEP 54), and what is wanted of them is downloaded again.
func (t *Torrent) lose(pieces []bt.PieceIndex) {
	if t.have == nil || t.closing || t.err != nil {
		return
	}
	fresh := t.picker == nil
	lost := pieces[:0:0]
	for _, i := range pieces {
		if !t.have.Has(int(i)) {
			continue
		}
		t.haveMu.Lock()
		t.have.Remove(int(i))
		t.haveMu.Unlock()
		t.countPiece(i, -1)
		lost = append(lost, i)
		if !fresh && !t.picker.Lost(i) { // it has forgotten what a download needs
			fresh = true
		}
	}
	if len(lost) == 0 {
		return
	}
	t.unsaved = true
	if fresh {
		t.newPicker()
		for p := range t.peers {
			p.has = nil
			t.learnGeometry(p)
		}
	}
	for p := range t.peers {
		for _, i := range lost {
			t.send(p, ltep.DontHave{Index: i}) // who does not speak it gets its requests rejected
		}
	}
	if !t.picker.Complete() {
		t.downloadAgain()
	}
	for p := range t.peers {
		t.updateInterest(p)
	}
	t.fillAll(t.cfg.Now())
}

// Lose says that verified pieces turned out not to be there.
func (t *Torrent) Lose(pieces ...bt.PieceIndex) error {
	if !t.do(func() { t.lose(pieces) }) {
		return ErrClosed
	}
	return nil
}

// peerLost takes in that a peer no longer has a piece (BEP 54).
func (t *Torrent) peerLost(p *Peer, i bt.PieceIndex) {
	p.seed = false
	t.superLost(p, i)
	if t.picker == nil || p.has == nil || !p.has.Remove(int(i)) {
		return
	}
	before := t.picker.Outstanding(p.key)
	t.picker.PeerLost(p.key, i)
	if n := before - t.picker.Outstanding(p.key); n > 0 {
		p.pipe.Dropped(t.cfg.Now(), n)
		p.late += n
	}
	p.interestDue = true // to look at every piece for every piece lost would let a peer keep us busy
}
