package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parley-bt/parley/internal/blockbuf"
)

// A move goes through these states on disk, so that a crash at any point leaves one folder, the old or the new one, in which nothing is missing:
//
//	1 the old folder has everything; the new one gets it too, under hidden names: as further links to the same files where that can be, else as copies
//	2 everything is in the new folder and synced: it gets its names there, none of which is ever replaced
//	3 a note in the old folder says where everything is now; whoever opens the torrent there is told
//	4 what the old folder has is removed, the note last
//
// Only the end of state 1, when what was written meanwhile is brought up to date, and states 2 and 3 hold up readers and writers.

// MovedError says that the files of a torrent were moved and that the move was cut off after they had arrived: they are to be opened where they are now. What
// is left of them in the folder they came from has been removed, as far as that could be done.
type MovedError struct {
	From, To string
}

// Error says where the files are.
func (e *MovedError) Error() string {
	return fmt.Sprintf("storage: the torrent's files were moved from %s to %s: open them there", e.From, e.To)
}

// mover is one move under way.
type mover struct {
	s       *Files
	dir     string // the new folder
	to      folder
	link    func(name, tmp string) error // from the old folder to the new one; nil once it has failed
	staged  map[*file]*staged
	handled []string // names in the new folder that we made: hidden ones
}

// staged is a file that is in the new folder under a hidden name.
type staged struct {
	tmp    string
	copied bool      // rather than linked
	log    *writeLog // of what was written to the file since it was copied; nil if it is linked
}

// writeLog remembers which ranges of a file were written.
type writeLog struct {
	mu   sync.Mutex
	list []writtenRange
}

type writtenRange struct{ from, to int64 }

// add notes n bytes written at off. Ranges that follow each other, as those of a piece do, become one.
func (l *writeLog) add(off int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := len(l.list) - 1; last >= 0 && l.list[last].to == off {
		l.list[last].to += int64(n)
		return
	}
	l.list = append(l.list, writtenRange{off, off + int64(n)})
}

// take returns what was noted since the last call.
func (l *writeLog) take() []writtenRange {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

// Bounds of a move.
const (
	movePasses   = 8       // over what is being written, at most, before everybody is held up for the rest
	moveAtOnce   = 4 << 20 // bytes for which everybody may be held up
	moveMarkSize = 64 << 10
)

// Move moves the torrent's files, finished or not, to the folder dir, which is created if it is missing, also on another file system. Reading and writing go on
// meanwhile, but for a moment at the end. Nothing in dir is ever replaced: what is in the way is a [*ConflictError], and everything stays where it was, as it
// does with every other error but one that says so.
//
// Within a file system files are linked, where it has links; else they are copied with their times, and the copies are synced and as long as the files are
// before anything of the old is removed. A crash at any point loses nothing. If it comes before the files have their names in dir, the old folder is as it was,
// and hidden files in dir are left, which the next move there removes; after that [OpenFiles] of the old folder finishes the work and
// returns a [*MovedError].
//
// It needs Options.InfoHash, and does nothing for storage that is read only. It ends early with ctx.
func (s *Files) Move(ctx context.Context, dir string) error {
	s.moveMu.Lock()
	defer s.moveMu.Unlock()
	if err := s.enter(); err != nil {
		return err
	}
	m, err := s.beginMove(dir)
	if m == nil || err != nil {
		s.gate.RUnlock()
		return err
	}
	err = m.stageAll(ctx)
	s.gate.RUnlock()
	var old folder
	var oldDir string
	var left []string
	if err == nil {
		s.gate.Lock()
		oldDir = s.dir
		if old, left, err = m.arrive(ctx); err != nil {
			err = errors.Join(err, m.clean())
		}
		s.gate.Unlock()
	} else {
		err = errors.Join(err, m.clean())
	}
	m.stopLogs()
	if err != nil {
		return errors.Join(err, m.to.Close())
	}
	if err := errors.Join(s.leave(old, left), old.Close()); err != nil {
		return fmt.Errorf("storage: everything is in %s now, but not all could be removed from %s: %w", dir, oldDir, err)
	}
	return nil
}

// beginMove opens the new folder and makes sure that nothing is in the way there. It returns nil without an error if the new folder is the old one. The caller
// holds the gate, shared.
func (s *Files) beginMove(dir string) (*mover, error) {
	switch {
	case s.readOnly:
		return nil, ErrReadOnly
	case s.mark == "":
		return nil, errors.New("storage: the files cannot be moved: the storage was opened without an info-hash")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, pathError("resolve", dir, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, pathError("create folder", dir, err)
	}
	here, err := os.Stat(s.dir)
	if err != nil {
		return nil, pathError("open folder", s.dir, err)
	}
	there, err := os.Stat(dir)
	if err != nil {
		return nil, pathError("open folder", dir, err)
	}
	if os.SameFile(here, there) {
		return nil, nil
	}
	to, err := s.openFolder(dir)
	if err != nil {
		return nil, pathError("open folder", dir, err)
	}
	m := &mover{s: s, dir: dir, to: to, staged: make(map[*file]*staged)}
	m.link = func(name, tmp string) error { return s.linkAcross(s.dir, name, abs, tmp) }
	for _, f := range s.onDisk() {
		for _, name := range []string{f.name, f.part} {
			if name == "" {
				continue
			}
			if m.same(name, name) { // linked by a move that was cut off; the old folder has it
				if err := m.drop(name); err != nil {
					return nil, errors.Join(err, to.Close())
				}
			}
			if err := m.vacant(name); err != nil {
				return nil, errors.Join(err, to.Close())
			}
		}
	}
	if s.keep != nil && s.keep.root == s.root {
		if err := m.vacant(s.keep.name); err != nil {
			return nil, errors.Join(err, to.Close())
		}
	}
	if err := m.vacant(s.mark); err != nil {
		return nil, errors.Join(err, to.Close())
	}
	return m, nil
}

// vacant makes sure that nothing has a name in the new folder.
func (m *mover) vacant(name string) error {
	_, err := m.to.Lstat(name)
	path := filepath.Join(m.dir, name)
	switch {
	case err == nil:
		return &ConflictError{path, "is there already"}
	case notFolder(err):
		return &ConflictError{path, "cannot be: a file is where its folder should be"}
	case !errors.Is(err, fs.ErrNotExist):
		return pathError("open", path, err)
	}
	return nil
}

// stageAll brings everything into the new folder under hidden names, until little of it is out of date. The caller holds the gate, shared.
func (m *mover) stageAll(ctx context.Context) error {
	for range movePasses {
		written, err := m.pass(ctx)
		if err != nil || written <= moveAtOnce {
			return err
		}
	}
	return nil
}

// pass stages the files that are not, and brings copies up to date. It returns how many bytes it wrote.
func (m *mover) pass(ctx context.Context) (written int64, err error) {
	for _, f := range m.s.onDisk() {
		if err := ctx.Err(); err != nil {
			return written, context.Cause(ctx)
		}
		st := m.staged[f]
		var n int64
		switch {
		case st == nil:
			n, err = m.stage(ctx, f)
		case st.log != nil:
			n, err = m.update(ctx, f, st)
		}
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// stage brings a file into the new folder, if it is on disk.
func (m *mover) stage(ctx context.Context, f *file) (int64, error) {
	st := &staged{tmp: fmt.Sprintf("%s-%d", m.s.mark, f.index)}
	if err := m.drop(st.tmp); err != nil { // of a move that was cut off
		return 0, err
	}
	// Whoever writes to the file is through, or sees the log.
	f.mu.Lock()
	state, name := f.state, f.nameOnDisk()
	linked := false
	var err error
	if state != stateMissing {
		if linked, err = m.tryLink(name, st.tmp); !linked {
			st.log = &writeLog{}
			f.log.Store(st.log)
		}
		m.staged[f] = st
	}
	f.mu.Unlock()
	if state == stateMissing || linked || err != nil {
		return 0, err
	}
	st.copied = true
	out, err := m.create(st.tmp)
	if err != nil {
		return 0, err
	}
	n, err := m.copy(ctx, f, out)
	if err == nil {
		if err = out.Sync(); err != nil {
			err = pathError("sync", filepath.Join(m.dir, st.tmp), err)
		}
	}
	return n, errors.Join(err, out.Close())
}

// tryLink gives a file of the old folder a hidden name in the new one, and reports whether that worked. If it did not, it does for no other file.
func (m *mover) tryLink(name, tmp string) (bool, error) {
	if m.link == nil {
		return false, nil
	}
	if err := m.link(name, tmp); err != nil {
		m.link = nil
		return false, nil
	}
	m.handled = append(m.handled, tmp)
	if m.same(name, tmp) {
		return true, nil
	}
	m.link = nil // a path that means something else by now; what was linked is not ours
	return false, m.drop(tmp)
}

// same reports whether a name in the old folder and one in the new are one file.
func (m *mover) same(name, tmp string) bool {
	old, err := m.s.root.Lstat(name)
	if err != nil {
		return false
	}
	now, err := m.to.Lstat(tmp)
	return err == nil && os.SameFile(old, now)
}

// drop removes a hidden name of ours from the new folder.
func (m *mover) drop(tmp string) error {
	if err := m.to.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pathError("remove", filepath.Join(m.dir, tmp), err)
	}
	return nil
}

func (m *mover) create(tmp string) (diskFile, error) {
	out, err := m.to.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, pathError("create", filepath.Join(m.dir, tmp), err)
	}
	m.handled = append(m.handled, tmp)
	if file, ok := out.(*os.File); ok {
		_ = makeSparse(file) // a file system without holes refuses, and nothing else changes
	}
	return out, nil
}

// copy copies a file of the torrent, holes as holes, to out.
func (m *mover) copy(ctx context.Context, f *file, out diskFile) (int64, error) {
	buf := blockbuf.GetLarge()
	defer buf.Release()
	var at, written int64
	for at < f.length {
		if err := ctx.Err(); err != nil {
			return written, context.Cause(ctx)
		}
		p := buf.Bytes()[:min(f.length-at, blockbuf.LargeBytes)]
		n, err := m.s.readFile(f, p, at)
		at += int64(n)
		if !allZero(p[:n]) {
			if _, err := out.WriteAt(p[:n], at-int64(n)); err != nil {
				return written, pathError("write", m.dir, err)
			}
			written += int64(n)
		}
		if n < len(p) {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				return written, err
			}
			break // a part is as long as what was written; settle compares
		}
	}
	return written, m.grow(out, at)
}

// grow makes out at least size bytes long.
func (m *mover) grow(out diskFile, size int64) error {
	fi, err := out.Stat()
	if err == nil && fi.Size() < size {
		_, err = out.WriteAt([]byte{0}, size-1)
	}
	if err != nil {
		return pathError("write", m.dir, err)
	}
	return nil
}

// update copies what was written to a file since it was copied.
func (m *mover) update(ctx context.Context, f *file, st *staged) (written int64, err error) {
	list := st.log.take()
	if len(list) == 0 {
		return 0, nil
	}
	out, err := m.to.OpenFile(st.tmp, os.O_RDWR)
	if err != nil {
		return 0, pathError("open", filepath.Join(m.dir, st.tmp), err)
	}
	buf := blockbuf.GetLarge()
	defer buf.Release()
	err = func() error {
		for _, r := range list {
			for at := r.from; at < r.to; {
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				p := buf.Bytes()[:min(r.to-at, blockbuf.LargeBytes)]
				if n, err := m.s.readFile(f, p, at); n < len(p) {
					return err
				}
				if _, err := out.WriteAt(p, at); err != nil {
					return pathError("write", m.dir, err)
				}
				at += int64(len(p))
				written += int64(len(p))
			}
		}
		if err := out.Sync(); err != nil {
			return pathError("sync", m.dir, err)
		}
		return nil
	}()
	return written, errors.Join(err, out.Close())
}

// arrive makes the new folder the torrent's: nobody else is at work, the caller holds the gate exclusively. It returns the old folder and what is to be
// removed there; with an error the storage is where it was.
func (m *mover) arrive(ctx context.Context) (old folder, left []string, err error) {
	s := m.s
	if s.closed {
		return nil, nil, ErrClosed
	}
	if _, err := m.pass(ctx); err != nil {
		return nil, nil, err
	}
	// The names of files change: nothing may be open.
	if err := s.handles.closeAll(); err != nil {
		return nil, nil, err
	}
	k := s.keep
	if k != nil {
		if err := k.close(); err != nil {
			return nil, nil, pathError("close", k.full(k.name), err)
		}
	}
	var names [][2]string // hidden and final
	for _, f := range s.onDisk() {
		st := m.staged[f]
		switch {
		case f.state == stateMissing && st == nil:
			continue
		case f.state == stateMissing: // it has gone meanwhile
			if err := m.drop(st.tmp); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err := m.settle(f, st); err != nil {
			return nil, nil, err
		}
		names = append(names, [2]string{st.tmp, f.nameOnDisk()})
	}
	if k != nil && k.root == s.root && k.hasBase {
		tmp := s.mark + "-resume"
		if err := m.stageByName(k.name, tmp); err != nil {
			return nil, nil, err
		}
		names = append(names, [2]string{tmp, k.name})
	}

	// From here on s is in the new folder; undo brings it back.
	old, oldDir, oldLink := s.root, s.dir, s.link
	here := func(root folder, dir string, link func(string, string) error) {
		if k != nil && k.root == s.root {
			k.root, k.dir = root, dir
		}
		s.root, s.dir, s.link = root, dir, link
		for _, f := range s.onDisk() {
			f.path = filepath.Join(dir, f.name)
		}
	}
	here(m.to, m.dir, m.to.Link)
	var named []string
	err = func() error {
		for _, n := range names {
			left = append(left, n[1])
			if err := s.createFolder(&file{path: s.full(n[1])}, n[1]); err != nil {
				return err
			}
			moved, err := s.move(n[0], n[1])
			if moved {
				named = append(named, n[1])
			}
			if err != nil {
				return err
			}
		}
		if err := s.syncDirs(); err != nil {
			return err
		}
		return m.note(old, oldDir)
	}()
	if err != nil {
		for _, name := range named {
			if e := m.drop(name); e != nil {
				err = errors.Join(err, e)
			}
			removeFolders(m.to, name)
		}
		here(old, oldDir, oldLink)
		return nil, nil, err
	}
	if k != nil {
		k.changed = true
		if k.root != s.root {
			m.rename(k)
		}
	}
	m.handled = nil
	return old, left, nil
}

// settle makes sure that what was staged of f is what f is now. Nobody else is at work.
func (m *mover) settle(f *file, st *staged) error {
	name := f.nameOnDisk()
	was, err := m.s.root.Lstat(name)
	if err != nil {
		return pathError("open", m.s.full(name), err)
	}
	now, err := m.to.Lstat(st.tmp)
	if err != nil {
		return pathError("open", filepath.Join(m.dir, st.tmp), err)
	}
	if !st.copied {
		if !os.SameFile(was, now) {
			return &ConflictError{m.s.full(name), "was replaced while it was being moved"}
		}
		return nil
	}
	if was.Size() != now.Size() {
		return fmt.Errorf("storage: the copy of %s has %d bytes, the file %d", m.s.full(name), now.Size(), was.Size())
	}
	return m.keepTime(st.tmp, was)
}

// keepTime gives a copy the time of its original, by which resume data know it. Where that cannot be done it is hashed again one day.
func (m *mover) keepTime(tmp string, was fs.FileInfo) error {
	c, ok := m.to.(interface {
		Chtimes(name string, atime, mtime time.Time) error
	})
	if !ok {
		return nil
	}
	if err := c.Chtimes(tmp, time.Time{}, was.ModTime()); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return pathError("set the time of", filepath.Join(m.dir, tmp), err)
	}
	return nil
}

// stageByName stages a file that is none of the torrent's, and small.
func (m *mover) stageByName(name, tmp string) error {
	if err := m.drop(tmp); err != nil {
		return err
	}
	if linked, err := m.tryLink(name, tmp); linked || err != nil {
		return err
	}
	in, err := m.s.root.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return pathError("open", m.s.full(name), err)
	}
	defer in.Close() // it was only read
	fi, err := in.Stat()
	if err != nil {
		return pathError("open", m.s.full(name), err)
	}
	b := make([]byte, fi.Size())
	if n, err := in.ReadAt(b, 0); n < len(b) {
		return pathError("read", m.s.full(name), err)
	}
	out, err := m.create(tmp)
	if err != nil {
		return err
	}
	_, err = out.WriteAt(b, 0)
	if err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return pathError("write", filepath.Join(m.dir, tmp), err)
	}
	return nil
}

// note says in the old folder where the files are. It is the point of no return.
func (m *mover) note(old folder, oldDir string) error {
	abs, err := filepath.Abs(m.dir)
	if err != nil {
		return pathError("resolve", m.dir, err)
	}
	path := filepath.Join(oldDir, m.s.mark)
	out, err := old.OpenFile(m.s.mark, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return pathError("create", path, err)
	}
	_, err = out.WriteAt(appendMark(nil, abs), 0)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = old.SyncDir(".")
	}
	if err != nil {
		return errors.Join(pathError("write", path, err), old.Remove(m.s.mark))
	}
	return nil
}

// rename lets resume data that lie in a folder of their own speak of the new folder. If that fails everything is hashed once more.
func (m *mover) rename(k *keeper) {
	name, err := stateName(k.infoHash, m.s.dir)
	if err != nil {
		return
	}
	if err := k.root.Rename(k.name, name); err != nil {
		k.hasBase = false
	}
	k.name, k.tmp = name, name+".new"
}

// leave removes the torrent's files from the folder they were in, and then the note that they have moved.
func (s *Files) leave(old folder, names []string) error {
	var errs []error
	for _, name := range names {
		if err := old.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, name := range names {
		removeFolders(old, name)
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // the note stays
	}
	return errors.Join(old.SyncDir("."), old.Remove(s.mark))
}

// removeFolders removes the folders above name in root that are empty.
func removeFolders(root folder, name string) {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if root.Remove(dir) != nil {
			return // it is not empty, or has gone
		}
	}
}

// stopLogs ends the notes of what is written.
func (m *mover) stopLogs() {
	for f := range m.staged {
		f.log.Store(nil)
	}
}

// clean removes what a move that failed has left in the new folder.
func (m *mover) clean() error {
	var errs []error
	for _, tmp := range m.handled {
		errs = append(errs, m.drop(tmp))
	}
	m.handled = nil
	return errors.Join(errs...)
}

// The note that files have moved: the new folder between two lines that show that it is whole.
const markHead, markTail = "parley: this torrent's files were moved to\n", "\nas said by the program that moved them\n"

func appendMark(dst []byte, to string) []byte {
	return append(append(append(dst, markHead...), to...), markTail...)
}

// moved returns where a note in the folder says that the files are; "" if there is no note, or one that was never finished.
func (s *Files) moved() (string, error) {
	fi, err := s.root.Lstat(s.mark)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", pathError("open", s.full(s.mark), err)
	}
	if !fi.Mode().IsRegular() || fi.Size() > moveMarkSize {
		return "", &ConflictError{s.full(s.mark), "is not a note of ours"}
	}
	in, err := s.root.OpenFile(s.mark, os.O_RDONLY)
	if err != nil {
		return "", pathError("open", s.full(s.mark), err)
	}
	defer in.Close() // it was only read
	b := make([]byte, fi.Size())
	if n, err := in.ReadAt(b, 0); n < len(b) {
		return "", pathError("read", s.full(s.mark), err)
	}
	rest, ok := bytes.CutPrefix(b, []byte(markHead))
	to, ok2 := bytes.CutSuffix(rest, []byte(markTail))
	if !ok || !ok2 || !filepath.IsAbs(string(to)) {
		// The crash came before the note was whole, and so before anything was removed.
		if err := s.root.Remove(s.mark); err != nil {
			return "", pathError("remove", s.full(s.mark), err)
		}
		return "", nil
	}
	return string(to), nil
}

// finishMove removes what a move to the folder to has left here, as far as it is there, and returns the [*MovedError].
func (s *Files) finishMove(to string) error {
	moved := &MovedError{From: s.dir, To: to}
	r, err := s.openFolder(to)
	if err != nil {
		return errors.Join(moved, pathError("open folder", to, err))
	}
	has := func(name string) bool {
		if name == "" {
			return false
		}
		fi, err := r.Lstat(name)
		return err == nil && fi.Mode().IsRegular()
	}
	var names []string
	whole, all := true, true
	for _, f := range s.files {
		there := has(f.name) || has(f.part)
		all = all && has(f.name)
		for _, name := range []string{f.name, f.part} {
			if name == "" {
				continue
			}
			if there {
				names = append(names, name)
			} else if _, err := s.root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
				whole = false
			}
		}
	}
	if s.spare != nil && (all || has(s.spare.part)) {
		names = append(names, s.spare.part, s.spare.tmp)
	}
	if s.keep != nil && s.keep.root == s.root {
		names = append(names, s.keep.name, s.keep.tmp)
	}
	if !whole {
		return errors.Join(moved, r.Close()) // what is there is not what the note says: nothing is removed
	}
	return errors.Join(moved, s.leave(s.root, names), r.Close())
}

// linkAcross gives the file name of the folder from the name tmp in the folder to, through a folder above both, so that neither name leads anywhere else. Both
// folders must be on one file system that has links.
func linkAcross(from, name, to, tmp string) error {
	var dirs [2][]string
	for i, dir := range []string{from, to} {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return err
		}
		dirs[i] = strings.Split(filepath.Clean(abs), string(os.PathSeparator))
	}
	common := 0
	for common < min(len(dirs[0]), len(dirs[1])) && dirs[0][common] == dirs[1][common] {
		common++
	}
	if common == 0 {
		return errors.ErrUnsupported // two drives
	}
	top := strings.Join(dirs[0][:common], string(os.PathSeparator)) + string(os.PathSeparator)
	r, err := os.OpenRoot(top)
	if err != nil {
		return err
	}
	in := func(dir []string, name string) string {
		return filepath.Join(append(slices.Clone(dir[common:]), name)...)
	}
	return errors.Join(r.Link(in(dirs[0], name), in(dirs[1], tmp)), r.Close())
}

// openRealFolder is Files.openFolder but for tests.
func openRealFolder(dir string) (folder, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return newRootFolder(r), nil
}
