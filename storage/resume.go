package storage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/resume"
)

// defaultMaxUnsaved is Options.MaxUnsavedBytes where it is 0.
const defaultMaxUnsaved = 256 << 20

// Resumer is a [Storage] that remembers across runs which pieces are verified. [Files] is one.
type Resumer interface {
	Storage

	// Resume takes in what an earlier run has left. It returns the pieces that need not be read again, which count as
	// [Storage.Verified], and those that are to be hashed; what is in neither is not there. It is called once, before
	// anything is written.
	Resume() (trusted, check *bitfield.Set, err error)

	// Checkpoint waits until all that was said to be verified is on disk, and then saves which pieces those are. It does
	// nothing if there is nothing new. It may be called at any time once the pieces of Resume have been checked.
	Checkpoint() error
}

var _ Resumer = (*Files)(nil)

// ResumePieces finds out which pieces s has, as [VerifyPieces] does, and hashes only what it must if s is a [Resumer]. What it finds out is saved at once.
func ResumePieces(ctx context.Context, s Storage, geom bt.Geometry, hashes Hashes, progress func(done, total int)) (*bitfield.Set, error) {
	r, ok := s.(Resumer)
	if !ok {
		return VerifyPieces(ctx, s, geom, hashes, progress)
	}
	have, check, err := r.Resume()
	if err != nil {
		return have, err
	}
	if check.Count() > 0 {
		found, err := Verify(ctx, s, geom, hashes, VerifyOptions{Pieces: check, Progress: progress})
		for i := range found.All() {
			have.Add(i)
		}
		if err != nil {
			return have, err
		}
	}
	return have, r.Checkpoint()
}

// keeper keeps the resume data of one torrent. A nil *keeper keeps nothing. See docs/adr/0005.
//
// A base says which pieces are on disk. It is written beside the old one and takes its place as a whole, after what it
// claims has been synced. Pieces verified since then are named in a journal behind it, which is not synced: it survives
// the end of the process, though not of the machine, and says what must be hashed again.
type keeper struct {
	infoHash   bt.InfoHash
	root       folder // where it lies: the torrent's folder, or Options.State
	dir        string // the name of that folder, for people
	name, tmp  string // in root
	maxUnsaved int64
	always     bool // Options.RememberComplete
	now        func() time.Time

	saving sync.Mutex // held while a base is written; taken before Files.progress

	// lastActive is the time that the journal or base on disk says something was written at, nanoseconds since 1970;
	// 0 if they say that nothing is being written. It is set under Files.progress.
	lastActive atomic.Int64

	// Guarded by Files.progress.

	ready   bool // what is verified is known, so that it can be saved
	hasBase bool // there is a usable base on disk
	salt    resume.Salt
	end     int64    // where the next record goes
	journal diskFile // nil until the first record
	changed bool     // since the base
	closed  bool     // the base says so, and nothing was recorded since
	unsaved int64    // bytes of pieces verified since the base
	pending []bt.PieceIndex
	collect bool // a base is being written: pieces are collected in pending
	buf     []byte
}

// newKeeper decides where the resume data of s lie: beside its files, under names that none of them has, or in Options.State, under a name that says of
// which folder they speak, since one torrent may lie in several.
func newKeeper(s *Files, opts Options) (*keeper, error) {
	k := &keeper{infoHash: opts.InfoHash, maxUnsaved: cmp.Or(opts.MaxUnsavedBytes, defaultMaxUnsaved), always: opts.RememberComplete, now: time.Now, changed: true}
	if opts.State == nil {
		k.root, k.dir = s.root, s.dir
		k.name = s.parts.free("." + opts.InfoHash.String() + ".parley-resume")
		k.tmp = s.parts.free(k.name + ".new")
		return k, nil
	}
	var err error
	k.root, k.dir, k.always = rootFolder{Root: opts.State}, opts.State.Name(), true
	if k.name, err = stateName(opts.InfoHash, s.dir); err != nil {
		return nil, err
	}
	k.tmp = k.name + ".new"
	return k, nil
}

// stateName returns under which name a folder of the program's own has the resume data of a torrent in the folder dir.
func stateName(ih bt.InfoHash, dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", pathError("resolve", dir, err)
	}
	where := sha256.Sum256([]byte(abs))
	return fmt.Sprintf("%v-%x.parley-resume", ih, where[:8]), nil
}

// full returns the path of one of the keeper's files, for people.
func (k *keeper) full(name string) string { return filepath.Join(k.dir, name) }

// append writes one record to the journal; the caller holds Files.progress.
func (k *keeper) append(record []byte, sync bool) error {
	if k.journal == nil {
		d, err := k.root.OpenFile(k.name, os.O_RDWR)
		if err != nil {
			return pathError("open", k.full(k.name), err)
		}
		k.journal = d
	}
	if _, err := k.journal.WriteAt(record, k.end); err != nil {
		return pathError("write", k.full(k.name), err)
	}
	k.end += int64(len(record))
	k.closed = false
	if sync {
		if err := k.journal.Sync(); err != nil {
			return pathError("sync", k.full(k.name), err)
		}
	}
	return nil
}

// active is called before anything is written to a part: after a crash its modification time is explained only if the
// journal says that we were at work then.
func (k *keeper) active(s *Files) error {
	if k == nil {
		return nil
	}
	now := k.now()
	if k.recent(now) {
		return nil
	}
	s.progress.Lock()
	defer s.progress.Unlock()
	if !k.hasBase || k.recent(now) {
		return nil
	}
	k.changed = true
	k.buf = resume.AppendActivity(k.buf[:0], k.salt, now)
	if err := k.append(k.buf, true); err != nil {
		return err
	}
	k.lastActive.Store(now.UnixNano())
	return nil
}

func (k *keeper) recent(now time.Time) bool {
	age := now.UnixNano() - k.lastActive.Load()
	return 0 <= age && age < int64(resume.ActivityEvery)
}

// record notes that piece i is verified; the caller holds s.progress.
func (k *keeper) record(s *Files, i bt.PieceIndex) error {
	if k == nil {
		return nil
	}
	k.changed = true
	if !k.ready {
		return nil // what is on disk is being verified: once that is done it is saved
	}
	k.unsaved += int64(s.geom.PieceLen(i))
	if k.collect {
		k.pending = append(k.pending, i)
	}
	if !k.hasBase {
		return nil
	}
	k.buf = resume.AppendPiece(k.buf[:0], k.salt, i, k.now())
	return k.append(k.buf, false)
}

// due reports whether too much is unsaved; the caller holds Files.progress.
func (k *keeper) due() bool { return k != nil && k.unsaved >= k.maxUnsaved }

// forget notes that a piece is not verified after all; the caller holds Files.progress.
func (k *keeper) forget() {
	if k != nil {
		k.changed = true
	}
}

// close closes the journal. No call is under way.
func (k *keeper) close() error {
	if k == nil || k.journal == nil {
		return nil
	}
	err := k.journal.Close()
	k.journal = nil
	return err
}

// Checkpoint implements [Resumer]. After it, a crash of the process or the machine costs none of the pieces that were
// verified before it was called; they are not even read again. Without Options.InfoHash it does nothing.
//
// An error means that what is on disk is uncertain: the last save still stands.
func (s *Files) Checkpoint() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	if s.keep == nil {
		return nil
	}
	s.progress.Lock()
	s.keep.ready = true
	s.progress.Unlock()
	return s.save(false)
}

// save writes a new base if there is something new. closing says that nothing is written any more.
func (s *Files) save(closing bool) error {
	k := s.keep
	if k == nil {
		return nil
	}
	k.saving.Lock()
	defer k.saving.Unlock()

	s.progress.Lock()
	if s.finished && !k.always {
		defer s.progress.Unlock()
		return k.remove(s)
	}
	if !k.ready || !k.changed && (!closing || k.closed) {
		s.progress.Unlock()
		return nil
	}
	d := &resume.Data{InfoHash: k.infoHash, Geometry: s.geom, Have: s.verified.Clone(), SavedAt: k.now(), Closed: closing || s.finished || s.readOnly}
	unsaved := k.unsaved
	k.changed, k.pending, k.collect = false, nil, true
	s.progress.Unlock()

	err := s.writeBase(d)
	if err == nil {
		if err = k.root.SyncDir("."); err != nil {
			err = pathError("sync folder", k.dir, err)
		}
	}

	s.progress.Lock()
	k.collect = false
	if err != nil {
		k.changed = true
	} else {
		k.unsaved -= unsaved
	}
	s.progress.Unlock()
	return err
}

// tidy removes the resume data of a download that is complete, unless they are to be kept.
func (k *keeper) tidy(s *Files) error {
	if k == nil || k.always {
		return nil
	}
	k.saving.Lock()
	defer k.saving.Unlock()
	s.progress.Lock()
	defer s.progress.Unlock()
	return k.remove(s)
}

// remove takes the resume data away, because the download is complete: every file is synced and has its name. The caller holds k.saving and Files.progress.
func (k *keeper) remove(s *Files) error {
	if !k.hasBase && !k.changed {
		return nil
	}
	err := k.close()
	for _, name := range []string{k.name, k.tmp} {
		if e := k.root.Remove(name); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, pathError("remove", k.full(name), e))
		}
	}
	k.hasBase, k.changed, k.unsaved = err != nil, err != nil, 0
	return err
}

// writeBase puts d, all but whose files are known, in the place of the base; the caller holds k.saving.
func (s *Files) writeBase(d *resume.Data) error {
	k := s.keep
	// What is claimed comes first: content, then names, then the claim.
	files := s.onDisk()
	d.Files = make([]resume.File, len(files))
	for i, f := range files {
		if err := s.syncFile(f); err != nil {
			return err
		}
		d.Files[i] = f.look()
	}
	if err := s.syncDirs(); err != nil {
		return err
	}
	if err := k.root.Remove(k.tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return pathError("remove", k.full(k.tmp), err)
	}
	out, err := k.root.OpenFile(k.tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return pathError("create", k.full(k.tmp), err)
	}
	b, salt := resume.Append(nil, d)
	if _, err = out.WriteAt(b, 0); err == nil {
		err = out.Sync()
	}
	if err != nil {
		return errors.Join(pathError("write", k.full(k.tmp), err), out.Close(), k.root.Remove(k.tmp))
	}

	// From here on records go behind the new base, with those made meanwhile. Nothing is open while names change: not every
	// system could do it.
	s.progress.Lock()
	defer s.progress.Unlock()
	var records []byte
	for _, i := range k.pending {
		records = resume.AppendPiece(records, salt, i, k.now())
	}
	if _, err = out.WriteAt(records, int64(len(b))); err != nil {
		return errors.Join(pathError("write", k.full(k.tmp), err), out.Close(), k.root.Remove(k.tmp))
	}
	if err = out.Close(); err != nil {
		return errors.Join(pathError("close", k.full(k.tmp), err), k.root.Remove(k.tmp))
	}
	_ = k.close() // its records are in the new file, so nothing can be lost
	if err = k.root.Rename(k.tmp, k.name); err != nil {
		return errors.Join(pathError("rename", k.full(k.tmp), err), k.root.Remove(k.tmp))
	}
	k.hasBase, k.salt, k.end = true, salt, int64(len(b)+len(records))
	if k.closed = d.Closed && len(records) == 0; k.closed {
		k.lastActive.Store(0)
	} else {
		k.lastActive.Store(d.SavedAt.UnixNano())
	}
	return nil
}

// look returns f as the resume data describes it, as of the last sync.
func (f *file) look() resume.File {
	f.mu.RLock()
	defer f.mu.RUnlock()
	seen := f.seen.Load()
	if f.state == stateMissing || seen == nil {
		return resume.File{}
	}
	r := *seen
	r.State = resume.Part
	if f.state == stateFinal {
		r.State = resume.Final
	}
	return r
}

// Resume implements [Resumer]. A file whose size or time have changed since they were saved is hashed again, and
// everything is if there is no resume data, or none that can be read: then check holds all pieces. What lies in files that have not changed and was not
// claimed was never verified, and is neither trusted nor read.
//
// After the process was killed, check holds the pieces that were verified since the last save: no more than Options.MaxUnsavedBytes, and one piece for
// each call of [Files.Verified] that was under way. After a loss of power it may hold fewer than were verified, and never trusts one that was
// not on disk.
func (s *Files) Resume() (trusted, check *bitfield.Set, err error) {
	n := s.geom.NumPieces()
	trusted, check = bitfield.New(n), bitfield.NewFull(n)
	if err := s.enter(); err != nil {
		return trusted, check, err
	}
	defer s.gate.RUnlock()
	k := s.keep
	if k == nil {
		return trusted, check, nil
	}
	d, salt, length, err := s.readResume()
	if err != nil {
		// To hash everything is always right, and the next save puts a good one in its place.
		return trusted, check, nil
	}
	check.Clear()
	files := s.onDisk()
	same := make([]bool, len(files))
	changed := len(d.Journal) > 0
	for i, f := range files {
		now := f.look()
		if same[i] = d.Unchanged(i, now); !same[i] {
			changed = true
			if i < len(s.files) && now.State != resume.Missing && f.length > 0 {
				for p := f.off / int64(s.geom.PieceBytes); p <= (f.end()-1)/int64(s.geom.PieceBytes); p++ {
					check.Add(int(p))
				}
			}
		}
	}
	for i := range d.Have.All() {
		if !check.Has(i) && s.holds(i, same) {
			trusted.Add(i)
		} else {
			check.Add(i)
		}
	}
	for _, i := range d.Journal {
		if !trusted.Has(int(i)) {
			check.Add(int(i))
		}
	}

	s.progress.Lock()
	for i := range trusted.All() {
		if s.verified.Add(i) {
			for _, f := range s.touched(i) {
				f.unverified--
			}
		}
	}
	var complete []*file
	for _, f := range s.files {
		if f.length > 0 && f.unverified == 0 {
			complete = append(complete, f)
		}
	}
	k.hasBase, k.salt, k.end = true, salt, int64(length)
	k.changed, k.closed, k.ready = changed || check.Count() > 0, d.Closed, check.Count() == 0
	full := s.verified.Full()
	s.progress.Unlock()

	if s.readOnly {
		return trusted, check, nil
	}
	// A crash may have come between the last piece of a file and its name.
	if full {
		return trusted, check, s.finish()
	}
	var errs []error
	for _, f := range complete {
		errs = append(errs, s.finalise(f))
	}
	return trusted, check, errors.Join(errs...)
}

// holds reports whether the files in which piece i lies are the same and long enough for it.
func (s *Files) holds(i int, same []bool) bool {
	start := s.geom.PieceStart(bt.PieceIndex(i))
	end := start + int64(s.geom.PieceLen(bt.PieceIndex(i)))
	for _, f := range s.touched(i) {
		if f.padding {
			continue
		}
		now, in, upTo := f.look(), f, min(end, f.end())-f.off
		if now.State == resume.Missing {
			at := max(start, f.off) - f.off
			slot, ok := s.spareOf(f, at, int(upTo-at))
			if !ok {
				return false
			}
			in, upTo = &s.spare.file, slot+upTo-at
			now = in.look()
		}
		if !same[f.index] || !same[in.index] || now.State == resume.Missing || now.Size < upTo {
			return false
		}
	}
	return true
}

// readResume reads what an earlier run has saved.
func (s *Files) readResume() (*resume.Data, resume.Salt, int, error) {
	k := s.keep
	before, err := k.root.Lstat(k.name)
	if err != nil {
		return nil, resume.Salt{}, 0, err
	}
	count := len(s.onDisk())
	limit := resume.MaxBytes(s.geom, count)
	if !before.Mode().IsRegular() || before.Size() > limit {
		return nil, resume.Salt{}, 0, fmt.Errorf("%w: not a regular file of at most %d bytes", resume.ErrFormat, limit)
	}
	in, err := k.root.OpenFile(k.name, os.O_RDONLY)
	if err != nil {
		return nil, resume.Salt{}, 0, err
	}
	defer in.Close() // it was only read
	b := make([]byte, before.Size())
	if _, err := io.ReadFull(io.NewSectionReader(in, 0, before.Size()), b); err != nil {
		return nil, resume.Salt{}, 0, err
	}
	return resume.Parse(b, k.infoHash, s.geom, count)
}
