package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// subfolders keeps the folders below a root open that were used a moment ago. A root opens every folder on the way to a file anew for each call, which for
// thousands of small files is most of the work. An open folder stays what it was if something else takes its name, so none is used for longer than
// subfolderAge: whoever moves folders while a torrent uses them confuses it no longer than that, and still cannot lead it out of the root.
type subfolders struct {
	mu   sync.Mutex
	open map[string]*subfolder
}

const (
	subfolderAge = time.Second
	maxSubfolder = 8
)

// subfolder is an open folder. Its fields are guarded by subfolders.mu.
type subfolder struct {
	root   *os.Root
	opened time.Time
	refs   int
	gone   bool // no longer in the map: whoever uses it last closes it
}

// keepSubfolders: an open folder cannot be removed or renamed on Windows.
const keepSubfolders = runtime.GOOS != "windows"

// in runs f in the folder of name, below root, with the rest of the name.
func (s *subfolders) in(root *os.Root, name string, f func(root *os.Root, name string) error) error {
	dir, base := filepath.Split(name)
	if dir == "" || base == "" || s == nil || !keepSubfolders {
		return f(root, name)
	}
	sub, err := s.take(root, filepath.Clean(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err // as of the file, which is not there either
	case err != nil:
		return f(root, name) // which says what is wrong with the file, not with its folder
	}
	defer s.give(sub)
	return f(sub.root, base)
}

// take returns an open folder, which the caller gives back.
func (s *subfolders) take(root *os.Root, dir string) (*subfolder, error) {
	now := time.Now()
	s.mu.Lock()
	if sub := s.open[dir]; sub != nil {
		if age := now.Sub(sub.opened); 0 <= age && age < subfolderAge {
			sub.refs++
			s.mu.Unlock()
			return sub, nil
		}
		s.drop(dir)
	}
	s.mu.Unlock()
	r, err := root.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	sub := &subfolder{root: r, opened: now, refs: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[string]*subfolder)
	}
	s.drop(dir) // another caller was as quick
	for len(s.open) >= maxSubfolder {
		oldest := ""
		for d, o := range s.open {
			if oldest == "" || o.opened.Before(s.open[oldest].opened) {
				oldest = d
			}
		}
		s.drop(oldest)
	}
	s.open[dir] = sub
	return sub, nil
}

func (s *subfolders) give(sub *subfolder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.refs--; sub.refs == 0 && sub.gone {
		sub.root.Close() // nothing is lost with a folder
	}
}

// drop forgets a folder; s.mu is held.
func (s *subfolders) drop(dir string) {
	sub := s.open[dir]
	if sub == nil {
		return
	}
	delete(s.open, dir)
	sub.gone = true
	if sub.refs == 0 {
		sub.root.Close()
	}
}

// closeAll forgets every folder.
func (s *subfolders) closeAll() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for dir := range s.open {
		s.drop(dir)
	}
}

// The calls of a folder that go through an open folder.

func (r rootFolder) Lstat(name string) (fi fs.FileInfo, err error) {
	err = r.subs.in(r.Root, name, func(root *os.Root, name string) (err error) {
		fi, err = root.Lstat(name)
		return err
	})
	return fi, err
}

func (r rootFolder) OpenFile(name string, flag int) (d diskFile, err error) {
	err = r.subs.in(r.Root, name, func(root *os.Root, name string) error {
		f, err := root.OpenFile(name, flag|largeFile, 0o666)
		if err == nil { // else there is a nil *os.File in an interface
			d = f
		}
		return err
	})
	return d, err
}

func (r rootFolder) MkdirAll(dir string) error {
	if r.subs != nil && keepSubfolders {
		if sub, err := r.subs.take(r.Root, filepath.Clean(dir)); err == nil { // it is there
			r.subs.give(sub)
			return nil
		}
	}
	return r.Root.MkdirAll(dir, 0o777)
}

func (r rootFolder) Link(oldname, newname string) error {
	if filepath.Dir(oldname) != filepath.Dir(newname) {
		return r.Root.Link(oldname, newname)
	}
	return r.subs.in(r.Root, oldname, func(root *os.Root, name string) error { return root.Link(name, filepath.Base(newname)) })
}

func (r rootFolder) Remove(name string) error {
	if r.subs != nil { // it may be one of them
		r.subs.mu.Lock()
		r.subs.drop(filepath.Clean(name))
		r.subs.mu.Unlock()
	}
	return r.subs.in(r.Root, name, func(root *os.Root, name string) error { return root.Remove(name) })
}

func (r rootFolder) Close() error {
	r.subs.closeAll()
	return r.Root.Close()
}
