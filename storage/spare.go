package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/parley-bt/parley/internal/blockbuf"
)

// spare is the file that holds the ends of unwanted files: what their neighbours need to have whole pieces. Every file has its places in
// it, of no more than two pieces, whether they are used or not; the file is sparse. Its file is always missing or a part.
type spare struct {
	file
	moving sync.Mutex // held while the file tmp is in use; taken after the mu of the file that moves
	tmp    string
	old    bool // it was there when the torrent was opened, and may hold anything
}

// slots says where the ends of a file go in the spare file.
type slots struct {
	off  int64 // in the spare file; the tail follows the head
	head int64 // how many bytes at the beginning of the file
	tail int64 // how many bytes at its end
}

// layOutSpare gives every file its places and looks for the spare file of an earlier run.
func (s *Files) layOutSpare() error {
	sp := &spare{}
	piece := int64(s.geom.PieceBytes)
	for _, f := range s.files {
		f.slots.off = sp.length
		switch {
		case f.length == 0 || f.off%piece == 0 && f.end()%piece == 0:
		case f.off/piece == (f.end()-1)/piece:
			f.slots.head = f.length
		default:
			f.slots.tail = f.end() % piece
			if f.off%piece != 0 {
				f.slots.head = piece - f.off%piece
			}
		}
		sp.length += f.slots.head + f.slots.tail
	}
	sp.part = s.parts.free("." + s.keep.infoHash.String() + ".parley-parts")
	sp.tmp = s.parts.free(sp.part + ".new")
	sp.name, sp.path, sp.index = sp.part, s.full(sp.part), len(s.files)
	s.spare = sp
	fi, err := s.root.Lstat(sp.part)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return pathError("open", sp.path, err)
	case !fi.Mode().IsRegular():
		return &ConflictError{sp.path, irregular(fi)}
	}
	sp.state, sp.old = statePart, true
	sp.saw(fi)
	return nil
}

// onDisk returns all files that have a state on disk: the torrent's and the spare one.
func (s *Files) onDisk() []*file {
	if s.spare == nil {
		return s.files
	}
	return append(s.files[:len(s.files):len(s.files)], &s.spare.file)
}

// spareOf returns where n bytes at offset at of f go in the spare file; false if they have no place there.
func (s *Files) spareOf(f *file, at int64, n int) (int64, bool) {
	if s.spare == nil || f == &s.spare.file {
		return 0, false
	}
	if at+int64(n) <= f.slots.head {
		return f.slots.off + at, true
	}
	if tail := f.length - f.slots.tail; f.slots.tail > 0 && at >= tail {
		return f.slots.off + f.slots.head + at - tail, true
	}
	return 0, false
}

// readSpare reads from a file that is missing: its ends may be in the spare file. The caller holds f.mu.
func (s *Files) readSpare(f *file, p []byte, at int64) (int, error) {
	in, ok := s.spareOf(f, at, len(p))
	if !ok {
		return 0, absentError{f.path}
	}
	sp := &s.spare.file
	sp.mu.RLock()
	missing := sp.state == stateMissing
	sp.mu.RUnlock()
	if missing {
		return 0, absentError{f.path}
	}
	return s.readFile(sp, p, in)
}

// inSpare reports whether the spare file reaches as far as all of f would lie in it; the caller holds f.mu.
func (s *Files) inSpare(f *file) bool {
	if s.spare == nil || f.slots.head+f.slots.tail < f.length {
		return false
	}
	sp := &s.spare.file
	sp.mu.RLock()
	defer sp.mu.RUnlock()
	return sp.state == statePart
}

// moveFromSpare makes f's part of what the spare file has of it; the caller holds f.mu. The part gets its name once that is on disk, so
// that at any time what is verified is in one of them.
func (s *Files) moveFromSpare(f *file) error {
	s.spare.moving.Lock()
	defer s.spare.moving.Unlock()
	tmp := s.spare.tmp
	if err := s.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a run that was cut off
		return pathError("remove", s.full(tmp), err)
	}
	if err := s.createFolder(f, f.part); err != nil {
		return err
	}
	d, err := s.create(f, tmp, os.O_RDWR)
	if err != nil {
		return err
	}
	err = s.provide(f, d)
	if err == nil {
		err = s.fromSpare(f, d)
	}
	var fi fs.FileInfo
	if err == nil {
		fi, err = d.Stat()
	}
	if err == nil {
		err = d.Sync()
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return errors.Join(pathError("write", s.full(tmp), err), s.root.Remove(tmp))
	}
	moved, err := s.move(tmp, f.part)
	if moved {
		f.state = statePart
		f.saw(fi)
	}
	return err
}

// fromSpare copies what the spare file has of f; the caller holds f.mu.
func (s *Files) fromSpare(f *file, to diskFile) error {
	buf := blockbuf.GetLarge()
	defer buf.Release()
	for _, end := range []struct{ at, n int64 }{{0, f.slots.head}, {f.length - f.slots.tail, f.slots.tail}} {
		for done := int64(0); done < end.n; {
			p := buf.Bytes()[:min(end.n-done, int64(blockbuf.LargeBytes))]
			n, err := s.readSpare(f, p, end.at+done)
			if n > 0 {
				if err := s.keep.active(s); err != nil {
					return err
				}
				if _, err := to.WriteAt(p[:n], end.at+done); err != nil {
					return err
				}
			}
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist) {
				break // it was never written
			}
			if err != nil {
				return err
			}
			done += int64(n)
		}
	}
	return nil
}

// SetWanted says whether the file of index i, in the files that the storage was opened with, is wanted. What is written to an unwanted file
// where it shares a piece with a neighbour does not bring it into being: it is kept in a hidden file. When the file becomes
// wanted its bytes move, and if all its pieces are verified it gets its name. A file that has been begun is continued, wanted or not.
//
// It needs Options.InfoHash. Padding is never wanted, and saying so is no error.
func (s *Files) SetWanted(i int, wanted bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	switch {
	case i < 0 || i >= len(s.given):
		return fmt.Errorf("%w: file %d of %d", ErrRange, i, len(s.given))
	case s.readOnly:
		return ErrReadOnly
	case s.spare == nil:
		return errors.New("storage: files cannot be left out: the storage was opened without an info-hash")
	}
	f := s.given[i]
	if f == nil {
		return nil
	}
	f.mu.Lock()
	f.unwanted = !wanted
	var err error
	if wanted && f.state == stateMissing && s.mayHold(f) && s.begun(f) {
		err = s.createPartLocked(f)
	}
	f.mu.Unlock()
	if err != nil || !wanted {
		return err
	}
	s.progress.Lock()
	complete := f.unverified == 0 && (f.length > 0 || s.finished)
	s.keep.changed = true
	s.progress.Unlock()
	if !complete {
		return nil
	}
	if err := s.finalise(f); err != nil {
		return err
	}
	return s.dropSpare()
}

// begun reports whether a piece at one of f's ends is verified. If there is none, what the spare file has of f is worth nothing yet.
func (s *Files) begun(f *file) bool {
	s.progress.Lock()
	defer s.progress.Unlock()
	first, last := f.off/int64(s.geom.PieceBytes), (f.end()-1)/int64(s.geom.PieceBytes)
	return s.verified.Has(int(first)) || s.verified.Has(int(last))
}

// mayHold reports whether one of f's places in the spare file may have been written; the caller holds f.mu.
func (s *Files) mayHold(f *file) bool {
	return s.spare != nil && f.slots.head+f.slots.tail > 0 && (s.spare.old || f.spared.Load())
}

// dropSpare removes the spare file once every file has its name.
func (s *Files) dropSpare() error {
	if s.spare == nil {
		return nil
	}
	for _, f := range s.files {
		f.mu.RLock()
		final := f.state == stateFinal
		f.mu.RUnlock()
		if !final {
			return nil
		}
	}
	sp := &s.spare.file
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.state == stateMissing {
		return nil
	}
	if err := errors.Join(s.syncDirs(), s.handles.drop(sp)); err != nil {
		return err
	}
	if err := s.root.Remove(sp.part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pathError("remove", sp.path, err)
	}
	s.renamed(sp.part)
	sp.state = stateMissing
	return nil
}

// CreateEmpty creates the wanted files of no bytes. Without files left out that happens with the last piece, see [Files.Verified]; with some left out
// that piece may never come.
func (s *Files) CreateEmpty() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	if s.readOnly {
		return ErrReadOnly
	}
	for _, f := range s.files {
		if f.length > 0 {
			continue
		}
		f.mu.RLock()
		unwanted := f.unwanted
		f.mu.RUnlock()
		if unwanted {
			continue
		}
		if err := s.finalise(f); err != nil {
			return err
		}
	}
	return nil
}
