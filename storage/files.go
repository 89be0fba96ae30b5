package storage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/resume"
)

// defaultOpenFiles is Options.OpenFiles where it is 0.
const defaultOpenFiles = 64

// Options tunes [OpenFiles]. The zero value is right for a download.
type Options struct {
	// ReadOnly opens files that are complete, to seed them where they are: nothing is created, renamed
	// or written, and opening fails if a file is missing or has another size.
	ReadOnly bool
	// OpenFiles is how many files of the torrent are kept open; 0 means 64, and with a negative value
	// none stays open between calls. Each call under way may hold one more.
	OpenFiles int
	// InfoHash, unless it is zero, makes the storage remember across runs which pieces are verified, in a
	// hidden file in the folder, see [Files.Resume]. With ReadOnly nothing is remembered, unless State is set.
	InfoHash bt.InfoHash
	// State, if set, is a folder of the program's own in which that is remembered instead, as if with RememberComplete, and with
	// ReadOnly too: whoever seeds thousands of torrents hashes them once. It stays the caller's, may be shared by any number of
	// torrents, and must stay open as long as they are.
	State *os.Root
	// RememberComplete keeps that file once everything is verified and in place, so that the next start hashes nothing. Without
	// it the file is removed then: a download leaves nothing beside what was downloaded.
	RememberComplete bool
	// MaxUnsavedBytes is how many bytes of pieces may be verified before that is saved; 0 means 256 MiB.
	// [Files.Verified] waits for the disk then.
	MaxUnsavedBytes int64
	// Wanted says which files are wanted, by their index in the files given; nil means all. What is written to the
	// others where they share pieces with their neighbours is kept apart, in one hidden file, see [Files.SetWanted].
	// It needs InfoHash, and does nothing with ReadOnly.
	Wanted []bool
	// Allocate takes the disk space of a file as it is begun, where the file system can do so without
	// writing zeros: the disk cannot fill up in the middle, and files are in one piece. Elsewhere it has
	// no effect.
	Allocate bool
}

// Files keeps a torrent in files below one folder. The package comment says how it treats what is there
// already.
//
// Files are sparse unless Options.Allocate says otherwise: they grow as they are written, and no disk space is
// taken ahead of need. The content reaches the disk when the system sees fit, when a file is finalised, or at
// [Files.Sync] and [Files.Checkpoint].
type Files struct {
	dir      string
	root     folder
	geom     bt.Geometry
	readOnly bool
	allocate bool
	keep     *keeper // nil if nothing is remembered
	files    []*file // all but padding, in the torrent's order
	spans    []*file // all that have bytes, padding included, in the torrent's order
	given    []*file // by the index of the files given; nil for padding
	spare    *spare  // nil without Options.InfoHash
	handles  handles
	parts    partNames

	link func(oldname, newname string) error // root.Link, but for tests

	in   []File // with opts, what it was opened with
	opts Options

	moveMu     sync.Mutex                             // held by Move; taken before all others
	mark       string                                 // the note that the files were moved, see Move; "" if they cannot be
	openFolder func(dir string) (folder, error)       // openRealFolder, but for tests
	linkAcross func(from, name, to, tmp string) error // the function of that name, but for tests

	// gate is held shared by every call and exclusively by Close.
	gate   sync.RWMutex
	closed bool

	progress sync.Mutex // guards verified, finished, every file.unverified, and the keeper where it says so
	verified *bitfield.Set
	finished bool // every file has its final name

	dirsMu sync.Mutex
	dirs   map[string]struct{} // folders whose names have changed since they were synced; guarded by dirsMu
}

var _ Storage = (*Files)(nil)

// state is where a file stands on disk.
type state uint8

const (
	stateMissing state = iota // nothing on disk
	statePart                 // downloaded under its part name
	stateFinal                // under its final name, never modified
)

// file is one file of the torrent, or a run of padding.
type file struct {
	off, length int64 // in the torrent, bytes
	padding     bool
	name, part  string // relative to the root
	path        string // of name, for people

	// mu guards state: shared for reading and writing the file, exclusively for creating and renaming
	// it. It is taken before progress and handles.mu, never after.
	mu       sync.RWMutex
	state    state
	unwanted bool // guarded by mu too

	slots  slots       // where its ends are kept while it is unwanted
	spared atomic.Bool // something was written there since the torrent was opened

	dirty atomic.Bool                 // written since the last sync
	seen  atomic.Pointer[resume.File] // size and time on disk at the last look or sync; nil while missing. State is not set
	index int                         // in Files.files

	log atomic.Pointer[writeLog] // of a move under way; set under mu

	unverified int     // pieces that touch the file and are not verified; guarded by Files.progress
	handle     *handle // guarded by handles.mu
	lost       error   // the first error in closing a handle; guarded by handles.mu
}

func (f *file) end() int64 { return f.off + f.length }

// OpenFiles opens the files of a torrent below dir, which is created if missing (unless read-only). The
// files' lengths must sum up to geom's total. What is on disk already is taken as it is: the caller finds
// out what it is worth, with [VerifyPieces].
//
//   - A file under its final name with the right size is used, and never modified.
//   - One of another size, or something that is not a regular file, is a [*ConflictError].
//   - A part left by an earlier download is continued.
//
// A torrent of no bytes is complete as it is opened, so its empty files are created at once.
func OpenFiles(dir string, files []File, geom bt.Geometry, opts Options) (*Files, error) {
	s, err := prepare(dir, files, geom, opts)
	if err != nil {
		return nil, err
	}
	if !opts.ReadOnly {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, pathError("create folder", dir, err)
		}
	}
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, pathError("open folder", dir, err)
	}
	return s.openIn(newRootFolder(r), opts)
}

// prepare makes a Files that has not seen the disk.
func prepare(dir string, files []File, geom bt.Geometry, opts Options) (*Files, error) {
	if !geom.Known() {
		return nil, errors.New("storage: the torrent's geometry is not known yet")
	}
	s := &Files{dir: dir, geom: geom, readOnly: opts.ReadOnly, allocate: opts.Allocate, verified: bitfield.New(geom.NumPieces()),
		dirs: make(map[string]struct{})}
	s.in, s.opts = files, opts
	if err := s.layOut(files); err != nil {
		return nil, err
	}
	s.handles.limit = cmp.Or(opts.OpenFiles, defaultOpenFiles)
	s.handles.open = s.openFile
	s.openFolder, s.linkAcross = openRealFolder, linkAcross
	return s, nil
}

// openIn finds out what there is in root, which it closes with an error.
func (s *Files) openIn(root folder, opts Options) (*Files, error) {
	s.root, s.link = root, root.Link
	if (!opts.ReadOnly || opts.State != nil) && opts.InfoHash != (bt.InfoHash{}) && len(s.files) <= resume.MaxFiles {
		var err error
		if s.keep, err = newKeeper(s, opts); err != nil {
			return nil, errors.Join(err, root.Close())
		}
		if err := s.layOutSpare(); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	if opts.Wanted != nil && !opts.ReadOnly {
		if len(opts.Wanted) != len(s.given) || s.spare == nil {
			return nil, errors.Join(fmt.Errorf("storage: Options.Wanted says of %d files whether they are wanted, of %d: it needs InfoHash too", len(opts.Wanted), len(s.given)), root.Close())
		}
		for i, f := range s.given {
			if f != nil {
				f.unwanted = !opts.Wanted[i]
			}
		}
	}
	if !opts.ReadOnly && opts.InfoHash != (bt.InfoHash{}) {
		s.mark = "." + opts.InfoHash.String() + ".parley-moved"
		to, err := s.moved()
		if err == nil && to != "" {
			err = s.finishMove(to)
		}
		if err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	for _, f := range s.files {
		if err := s.look(f); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	if !opts.ReadOnly && s.geom.NumPieces() == 0 {
		if err := s.finish(); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return s, nil
}

// layOut places files in the torrent's byte range and names them, without looking at the disk.
func (s *Files) layOut(files []File) error {
	var off int64
	var names []string
	for i, in := range files {
		if in.Length < 0 || in.Length > s.geom.TotalBytes-off {
			return fmt.Errorf("%w: file %d of %d bytes at offset %d of %d", ErrRange, i, in.Length, off, s.geom.TotalBytes)
		}
		f := &file{off: off, length: in.Length, padding: in.Padding}
		off += in.Length
		if f.length > 0 {
			s.spans = append(s.spans, f)
			first, last := f.off/int64(s.geom.PieceBytes), (f.end()-1)/int64(s.geom.PieceBytes)
			f.unverified = int(last - first + 1)
		}
		s.given = append(s.given, f)
		if f.padding {
			s.given[i] = nil
			continue
		}
		name, err := localPath(in.Path)
		if err != nil {
			return err
		}
		f.name, f.path, f.index = name, filepath.Join(s.dir, name), len(s.files)
		s.files = append(s.files, f)
		names = append(names, name)
	}
	if off != s.geom.TotalBytes {
		return fmt.Errorf("%w: the files have %d bytes, the torrent %d", ErrRange, off, s.geom.TotalBytes)
	}
	if err := s.parts.reserve(names); err != nil {
		return err
	}
	for _, f := range s.files {
		if f.length > 0 {
			f.part = s.parts.choose(f.name)
		}
	}
	return nil
}

// look finds f's state on disk.
func (s *Files) look(f *file) error {
	fi, err := s.root.Lstat(f.name)
	switch {
	case err == nil:
		if reason := unfit(fi, f.length); reason != "" {
			return &ConflictError{f.path, reason}
		}
		f.state = stateFinal
		f.saw(fi)
		return s.removeTwin(f, fi)
	case notFolder(err):
		return &ConflictError{f.path, "cannot be: a file is where its folder should be"}
	case !errors.Is(err, fs.ErrNotExist):
		return pathError("open", f.path, err)
	case s.readOnly:
		return pathError("open", f.path, fs.ErrNotExist)
	case f.length == 0:
		return nil
	}
	fi, err = s.root.Lstat(f.part)
	switch {
	case err == nil:
		if !fi.Mode().IsRegular() {
			return &ConflictError{s.full(f.part), irregular(fi)}
		}
		if fi.Size() > f.length {
			// Not ours: parts never grow past the file's length.
			return &ConflictError{s.full(f.part), fmt.Sprintf("has %d bytes, more than the torrent's file, which has %d", fi.Size(), f.length)}
		}
		f.state = statePart
		f.saw(fi)
	case !errors.Is(err, fs.ErrNotExist):
		return pathError("open", s.full(f.part), err)
	}
	return nil
}

// removeTwin removes the part of a final file if both are names of one file: finalising was cut off
// between linking and removing. A part that is another file is left alone.
func (s *Files) removeTwin(f *file, final fs.FileInfo) error {
	if s.readOnly || f.part == "" {
		return nil
	}
	twin, err := s.root.Lstat(f.part)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return pathError("open", s.full(f.part), err)
	}
	if !os.SameFile(final, twin) {
		return nil
	}
	if err := s.root.Remove(f.part); err != nil {
		return pathError("remove", s.full(f.part), err)
	}
	return nil
}

// unfit says why what fi describes cannot be a final file of length bytes; "" if it can.
func unfit(fi fs.FileInfo, length int64) string {
	if !fi.Mode().IsRegular() {
		return irregular(fi)
	}
	if fi.Size() != length {
		return fmt.Sprintf("has %d bytes, the torrent's file has %d", fi.Size(), length)
	}
	return ""
}

func irregular(fi fs.FileInfo) string {
	switch {
	case fi.IsDir():
		return "is a folder, not a file"
	case fi.Mode()&fs.ModeSymlink != 0:
		return "is a symbolic link, not a file"
	}
	return "is not a regular file"
}

// saw notes how f looks on disk.
func (f *file) saw(fi fs.FileInfo) {
	f.seen.Store(&resume.File{Size: fi.Size(), MTime: fi.ModTime().UnixNano()})
}

func (s *Files) full(name string) string { return filepath.Join(s.dir, name) }

// nameOnDisk returns the path of f in its present state, relative to the root. The caller holds f.mu.
func (f *file) nameOnDisk() string {
	if f.state == statePart {
		return f.part
	}
	return f.name
}

// enter admits a call unless the storage is closed; the caller leaves through s.gate.RUnlock.
func (s *Files) enter() error {
	s.gate.RLock()
	if s.closed {
		s.gate.RUnlock()
		return ErrClosed
	}
	return nil
}

// between returns the spans that overlap the n bytes at off.
func (s *Files) between(off, n int64) []*file {
	first, _ := slices.BinarySearchFunc(s.spans, off, func(f *file, off int64) int {
		if f.end() <= off {
			return -1
		}
		return 1
	})
	last := first
	for last < len(s.spans) && s.spans[last].off < off+n {
		last++
	}
	return s.spans[first:last]
}

// ReadAt implements [Storage]. Errors of files name them.
func (s *Files) ReadAt(p []byte, off int64) (int, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.gate.RUnlock()
	p, end, err := clipRead(p, off, s.geom.TotalBytes)
	if err != nil {
		return 0, err
	}
	done := 0
	for _, f := range s.between(off, int64(len(p))) {
		at := off + int64(done) - f.off
		k := int(min(int64(len(p)-done), f.length-at))
		n, err := s.readFile(f, p[done:done+k], at)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, end
}

func (s *Files) readFile(f *file, p []byte, at int64) (int, error) {
	if f.padding {
		clear(p)
		return len(p), nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.state == stateMissing {
		return s.readSpare(f, p, at)
	}
	h, err := s.handles.acquire(f)
	if err != nil {
		return 0, err
	}
	defer s.handles.release(h)
	n, err := h.ReadAt(p, at)
	if n == len(p) {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, pathError("read", s.full(f.nameOnDisk()), err)
}

// WriteAt implements [Storage].
//
// A range of a file that has its final name is compared instead: the same bytes are accepted, others are a
// [*ConflictError]. The comparison cannot tell a file that does not belong to the torrent from a block
// that a peer made up; who writes before verifying must find that out before believing the error.
//
// Bytes of padding are dropped. The system's errors can be compared as usual, such as
// errors.Is(err, syscall.ENOSPC) for a full disk; the write may be repeated when there is space again.
func (s *Files) WriteAt(p []byte, off int64) (int, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.gate.RUnlock()
	if s.readOnly {
		return 0, ErrReadOnly
	}
	if off < 0 || off > s.geom.TotalBytes-int64(len(p)) {
		return 0, rangeError(len(p), off, s.geom.TotalBytes)
	}
	done := 0
	for _, f := range s.between(off, int64(len(p))) {
		at := off + int64(done) - f.off
		k := int(min(int64(len(p)-done), f.length-at))
		n, err := s.writeFile(f, p[done:done+k], at)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (s *Files) writeFile(f *file, p []byte, at int64) (int, error) {
	if f.padding {
		return len(p), nil
	}
	f.mu.RLock()
	for f.state == stateMissing {
		if in, ok := s.spareOf(f, at, len(p)); ok && f.unwanted {
			// f stays locked, so that it is not created meanwhile.
			defer f.mu.RUnlock()
			f.spared.Store(true)
			return s.writeFile(&s.spare.file, p, in)
		}
		f.mu.RUnlock()
		if err := s.createPart(f); err != nil {
			return 0, err
		}
		f.mu.RLock()
	}
	defer f.mu.RUnlock()
	h, err := s.handles.acquire(f)
	if err != nil {
		return 0, err
	}
	defer s.handles.release(h)
	if f.state == stateFinal {
		return s.compare(h, p, at)
	}
	if err := s.keep.active(s); err != nil {
		return 0, err
	}
	n, err := h.WriteAt(p, at)
	if log := f.log.Load(); log != nil {
		log.add(at, n)
	}
	f.dirty.Store(true) // only now, or a Sync in between would take it back
	if err != nil {
		return n, pathError("write", s.full(f.part), err)
	}
	return n, nil
}

// compare returns how many leading bytes of p the file has at offset at already, and an error if that is
// not all.
func (s *Files) compare(h *handle, p []byte, at int64) (int, error) {
	buf := blockbuf.GetLarge()
	defer buf.Release()
	done := 0
	for done < len(p) {
		have := buf.Bytes()[:min(blockbuf.LargeBytes, len(p)-done)]
		n, err := h.ReadAt(have, at+int64(done))
		if !bytes.Equal(have[:n], p[done:done+n]) {
			return done, &ConflictError{h.of.path, "exists and is not the torrent's file"}
		}
		done += n
		if n < len(have) {
			if err == io.EOF {
				return done, &ConflictError{h.of.path, "has become shorter than the torrent's file"}
			}
			return done, pathError("read", h.of.path, err)
		}
	}
	return done, nil
}

// openFile opens f in its present state; the caller holds f.mu.
func (s *Files) openFile(f *file) (diskFile, error) {
	name, flag := f.nameOnDisk(), os.O_RDONLY
	if f.state == statePart && !s.readOnly {
		flag = os.O_RDWR
	}
	// The name must still mean a file of its own: behind a link that appeared since we looked there could
	// be another file of the folder, which is not ours to write or to serve.
	before, err := s.root.Lstat(name)
	if err != nil {
		return nil, pathError("open", s.full(name), err)
	}
	if !before.Mode().IsRegular() {
		return nil, &ConflictError{s.full(name), irregular(before)}
	}
	d, err := s.root.OpenFile(name, flag)
	if err != nil {
		return nil, pathError("open", s.full(name), err)
	}
	fi, err := d.Stat()
	if err != nil {
		return nil, errors.Join(pathError("open", s.full(name), err), d.Close())
	}
	if !os.SameFile(before, fi) {
		return nil, errors.Join(&ConflictError{s.full(name), "was replaced"}, d.Close())
	}
	return d, nil
}

// createPart creates the part of a missing file, and its folders.
func (s *Files) createPart(f *file) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.createPartLocked(f)
}

// createPartLocked is createPart for a caller that holds f.mu.
func (s *Files) createPartLocked(f *file) error {
	if f.state != stateMissing {
		return nil // another writer was first
	}
	if err := s.vacant(f.name); err != nil {
		return err
	}
	if s.mayHold(f) {
		return s.moveFromSpare(f)
	}
	d, err := s.create(f, f.part, os.O_RDWR)
	if err != nil {
		return err
	}
	if err := s.provide(f, d); err != nil {
		return errors.Join(err, d.Close(), s.root.Remove(f.part))
	}
	f.state = statePart
	s.handles.release(s.handles.insert(f, d))
	return nil
}

// provide takes disk space for the new part d of f, or makes it sparse, as Options.Allocate says.
func (s *Files) provide(f *file, d diskFile) error {
	file, ok := d.(*os.File)
	switch {
	case !ok:
	case !s.allocate || s.spare != nil && f == &s.spare.file:
		// A file system without holes refuses, and then takes the space as it must; nothing else changes.
		_ = makeSparse(file)
	default:
		if err := allocate(file, f.length); err != nil {
			return pathError("allocate", s.full(f.part), err)
		}
	}
	return nil
}

// create creates the file name, which must not exist, and its folders.
func (s *Files) create(f *file, name string, flag int) (diskFile, error) {
	if err := s.createFolder(f, name); err != nil {
		return nil, err
	}
	d, err := s.root.OpenFile(name, flag|os.O_CREATE|os.O_EXCL)
	if errors.Is(err, fs.ErrExist) {
		return nil, &ConflictError{s.full(name), "has appeared since the torrent was opened"}
	}
	if err != nil {
		return nil, pathError("create", s.full(name), err)
	}
	s.renamed(name)
	return d, nil
}

// createFolder creates the folders above name, which is to be one of f's.
func (s *Files) createFolder(f *file, name string) error {
	dir := filepath.Dir(name)
	if dir == "." {
		return nil
	}
	err := s.root.MkdirAll(dir)
	if notFolder(err) || errors.Is(err, fs.ErrExist) {
		return &ConflictError{f.path, "cannot be: a file is where its folder should be"}
	}
	if err != nil {
		return pathError("create folder", s.full(dir), err)
	}
	return nil
}

// renamed notes that a name has changed: its folder, and those above that may be new, are to be synced.
func (s *Files) renamed(name string) {
	s.dirsMu.Lock()
	defer s.dirsMu.Unlock()
	for dir := filepath.Dir(name); ; dir = filepath.Dir(dir) {
		s.dirs[dir] = struct{}{}
		if dir == "." {
			return
		}
	}
}

// syncDirs waits until the names of files and folders are on disk.
func (s *Files) syncDirs() error {
	s.dirsMu.Lock()
	dirs := s.dirs
	s.dirs = make(map[string]struct{})
	s.dirsMu.Unlock()
	var errs []error
	for dir := range dirs {
		if err := s.root.SyncDir(dir); err != nil {
			errs = append(errs, pathError("sync folder", s.full(dir), err))
			s.dirsMu.Lock()
			s.dirs[dir] = struct{}{}
			s.dirsMu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// vacant makes sure that nothing has taken a name.
func (s *Files) vacant(name string) error {
	_, err := s.root.Lstat(name)
	switch {
	case err == nil:
		return &ConflictError{s.full(name), "has appeared since the torrent was opened"}
	case notFolder(err):
		return &ConflictError{s.full(name), "cannot be: a file is where its folder should be"}
	case !errors.Is(err, fs.ErrNotExist):
		return pathError("open", s.full(name), err)
	}
	return nil
}

// Verified implements [Storage]. Files all of whose pieces are verified are synced and get their final
// names; with the last piece the empty files are created too. It waits for the disk.
func (s *Files) Verified(i bt.PieceIndex) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	if int64(i) >= int64(s.geom.NumPieces()) {
		return fmt.Errorf("%w: piece %d of %d", ErrRange, i, s.geom.NumPieces())
	}
	touched := s.touched(int(i))
	s.progress.Lock()
	var recordErr error
	if s.verified.Add(int(i)) {
		for _, f := range touched {
			f.unverified--
		}
		recordErr = s.keep.record(s, i)
	}
	if s.readOnly { // every file has its name, and whatever is to be remembered is not saved here
		s.progress.Unlock()
		return recordErr
	}
	var complete []*file
	for _, f := range touched {
		if f.unverified == 0 {
			complete = append(complete, f)
		}
	}
	last := s.verified.Full() && !s.finished
	due := s.keep.due()
	s.progress.Unlock()

	if last {
		return errors.Join(recordErr, s.finish())
	}
	errs := []error{recordErr}
	for _, f := range complete {
		errs = append(errs, s.finalise(f))
	}
	if due {
		errs = append(errs, s.save(false))
	}
	return errors.Join(errs...)
}

// touched returns the spans that piece i lies in.
func (s *Files) touched(i int) []*file {
	return s.between(s.geom.PieceStart(bt.PieceIndex(i)), int64(s.geom.PieceLen(bt.PieceIndex(i))))
}

// Forget takes [Files.Verified] back for a piece that has turned out to be wrong after all, so that it is not
// claimed in the next run. Nothing on disk changes: a file that has its final name keeps it.
func (s *Files) Forget(i bt.PieceIndex) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	if int64(i) >= int64(s.geom.NumPieces()) {
		return fmt.Errorf("%w: piece %d of %d", ErrRange, i, s.geom.NumPieces())
	}
	s.progress.Lock()
	defer s.progress.Unlock()
	if s.verified.Remove(int(i)) {
		for _, f := range s.touched(int(i)) {
			f.unverified++
		}
		s.keep.forget()
	}
	return nil
}

// Reopen lets piece i, which [Files.Forget] was told of, be written again: a file that has its final name and of which the piece is a part gets back the name that it
// had while it was incomplete, and one that has gone is missing. What else is in such a file stays, and whatever was changed in it since it was complete is replaced
// as it is downloaded. Files that have become longer than they should be are a [*ConflictError].
//
// Where a file has gone or become shorter, the pieces in what it lacks are forgotten too, and returned: it must not be taken for complete before they are
// written again.
func (s *Files) Reopen(i bt.PieceIndex) (forgotten []bt.PieceIndex, err error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.gate.RUnlock()
	switch {
	case int64(i) >= int64(s.geom.NumPieces()):
		return nil, fmt.Errorf("%w: piece %d of %d", ErrRange, i, s.geom.NumPieces())
	case s.readOnly:
		return nil, ErrReadOnly
	}
	s.progress.Lock()
	s.finished = false
	if s.keep != nil {
		s.keep.changed = true
	}
	s.progress.Unlock()
	for _, f := range s.touched(int(i)) {
		more, err := s.reopen(f)
		forgotten = append(forgotten, more...)
		if err != nil {
			return forgotten, err
		}
	}
	return forgotten, nil
}

// forgetFrom forgets the verified pieces of f that reach beyond its first size bytes.
func (s *Files) forgetFrom(f *file, size int64) (forgotten []bt.PieceIndex) {
	if size >= f.length {
		return nil
	}
	s.progress.Lock()
	defer s.progress.Unlock()
	for i := (f.off + size) / int64(s.geom.PieceBytes); i <= (f.end()-1)/int64(s.geom.PieceBytes); i++ {
		if s.verified.Remove(int(i)) {
			for _, g := range s.touched(int(i)) {
				g.unverified++
			}
			forgotten = append(forgotten, bt.PieceIndex(i))
		}
	}
	return forgotten
}

func (s *Files) reopen(f *file) (forgotten []bt.PieceIndex, err error) {
	if f.padding {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == stateMissing {
		return nil, nil
	}
	name := f.nameOnDisk()
	fi, err := s.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || notFolder(err):
		if err := s.handles.drop(f); err != nil {
			return nil, pathError("close", s.full(name), err)
		}
		f.state = stateMissing
		f.seen.Store(nil)
		f.dirty.Store(false)
		return s.forgetFrom(f, 0), nil
	case err != nil:
		return nil, pathError("open", s.full(name), err)
	case !fi.Mode().IsRegular():
		return nil, &ConflictError{s.full(name), irregular(fi)}
	case fi.Size() > f.length:
		return nil, &ConflictError{s.full(name), fmt.Sprintf("has %d bytes, more than the torrent's file, which has %d", fi.Size(), f.length)}
	}
	f.saw(fi)
	if f.state == statePart {
		return s.forgetFrom(f, fi.Size()), nil
	}
	if err := s.handles.drop(f); err != nil {
		return nil, pathError("close", s.full(name), err)
	}
	moved, err := s.move(f.name, f.part)
	if moved {
		f.state = statePart
	}
	return s.forgetFrom(f, fi.Size()), err
}

// Refresh closes the files that are open, so that the next use of each finds out what its name stands for now: a file that was removed or replaced can be read
// for as long as it is open.
func (s *Files) Refresh() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	var errs []error
	for _, f := range s.onDisk() {
		f.mu.Lock()
		if err := s.handles.drop(f); err != nil {
			errs = append(errs, pathError("close", s.full(f.nameOnDisk()), err))
		}
		f.mu.Unlock()
	}
	return errors.Join(errs...)
}

// OpenAgain opens, as [OpenFiles] does, what s was opened with, in the folder where it is now. s must have been closed.
func (s *Files) OpenAgain() (*Files, error) { return OpenFiles(s.Dir(), s.in, s.geom, s.opts) }

// Dir returns the folder in which the torrent's files are now, see [Files.Move].
func (s *Files) Dir() string {
	s.gate.RLock()
	defer s.gate.RUnlock()
	return s.dir
}

// Finish gives every file its final name and creates the empty ones. It is needed only to repeat what
// failed when the last piece was verified, and harmless otherwise. It returns [ErrIncomplete] while a piece
// is unverified.
func (s *Files) Finish() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	if s.readOnly {
		return nil
	}
	s.progress.Lock()
	have, want := s.verified.Count(), s.verified.Len()
	s.progress.Unlock()
	if have < want {
		return fmt.Errorf("%w: %d of %d pieces verified", ErrIncomplete, have, want)
	}
	return s.finish()
}

// finish finalises every file; all pieces are verified.
func (s *Files) finish() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, s.finalise(f))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.progress.Lock()
	s.finished = true
	s.progress.Unlock()
	return errors.Join(s.dropSpare(), s.keep.tidy(s))
}

// finalise gives f its final name, once all pieces that touch it are verified.
func (s *Files) finalise(f *file) error {
	if f.padding {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.state == stateFinal, f.state == stateMissing && f.unwanted:
		return nil
	case f.length == 0:
		if err := s.vacant(f.name); err != nil {
			return err
		}
		d, err := s.create(f, f.name, os.O_WRONLY)
		if err != nil {
			return err
		}
		f.state = stateFinal
		fi, err := d.Stat()
		if err := errors.Join(err, d.Close()); err != nil {
			return pathError("create", f.path, err)
		}
		f.saw(fi)
		return nil
	case f.state == stateMissing && !s.inSpare(f):
		return pathError("finish", f.path, fs.ErrNotExist)
	}
	if err := s.createPartLocked(f); err != nil {
		return err
	}
	if err := s.settle(f); err != nil {
		return err
	}
	return s.promote(f)
}

// settle makes sure that the whole part is on disk and closes it, so that it can be renamed anywhere.
func (s *Files) settle(f *file) error {
	part := s.full(f.part)
	h, err := s.handles.acquire(f)
	if err != nil {
		return err
	}
	err = func() error {
		defer s.handles.release(h)
		fi, err := h.Stat()
		if err != nil {
			return pathError("finish", part, err)
		}
		if fi.Size() != f.length {
			return fmt.Errorf("%w: it has %d of %d bytes", pathError("finish", part, io.ErrUnexpectedEOF), fi.Size(), f.length)
		}
		named, err := s.root.Lstat(f.part)
		if err != nil {
			return pathError("finish", part, err)
		}
		if !os.SameFile(fi, named) {
			return &ConflictError{part, "was replaced while it was being downloaded"}
		}
		if err := h.Sync(); err != nil {
			return pathError("sync", part, err)
		}
		f.saw(fi) // nobody writes meanwhile
		return nil
	}()
	if err != nil {
		return err
	}
	if err := s.handles.drop(f); err != nil {
		return pathError("close", part, err)
	}
	f.dirty.Store(false)
	return nil
}

// promote renames the part to the final name, never replacing anything.
func (s *Files) promote(f *file) error {
	moved, err := s.move(f.part, f.name)
	if moved {
		f.state = stateFinal
	}
	return err
}

// move renames a file of ours and reports whether it has the new name, which may be so with an error too. It replaces nothing: a link fails if the
// name is taken. Where the file system has no links, a look and a rename must do.
func (s *Files) move(from, to string) (moved bool, err error) {
	s.renamed(to)
	err = s.link(from, to)
	if errors.Is(err, fs.ErrExist) {
		return false, &ConflictError{s.full(to), "has appeared since the torrent was opened"}
	}
	if err != nil {
		if err := s.vacant(to); err != nil {
			return false, err
		}
		if err := s.root.Rename(from, to); err != nil {
			return false, pathError("rename", s.full(from), err)
		}
		return true, nil
	}
	if err := s.root.Remove(from); err != nil {
		return true, pathError("remove", s.full(from), err)
	}
	return true, nil
}

// Sync waits until all that was written is on disk.
func (s *Files) Sync() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	var errs []error
	for _, f := range s.onDisk() {
		errs = append(errs, s.syncFile(f))
	}
	return errors.Join(errs...)
}

func (s *Files) syncFile(f *file) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if err := s.handles.lost(f); err != nil {
		return pathError("close", s.full(f.nameOnDisk()), err)
	}
	if f.state != statePart || !f.dirty.Swap(false) {
		return nil
	}
	h, err := s.handles.acquire(f)
	if err != nil {
		f.dirty.Store(true)
		return err
	}
	defer s.handles.release(h)
	// The look comes first: what it says is on disk then, whatever is written meanwhile.
	fi, err := h.Stat()
	if err == nil {
		err = h.Sync()
	}
	if err != nil {
		f.dirty.Store(true)
		return pathError("sync", s.full(f.part), err)
	}
	f.saw(fi)
	return nil
}

// Close implements [Storage]. What is incomplete stays under its part name, to be continued. With
// Options.InfoHash what is verified is saved, which waits for the disk.
func (s *Files) Close() error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.closed = true
	return errors.Join(s.save(true), s.keep.close(), s.handles.closeAll(), s.root.Close())
}
