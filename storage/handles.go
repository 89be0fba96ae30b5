package storage

import (
	"container/list"
	"errors"
	"io"
	"io/fs"
	"sync"
)

// diskFile is what an open file must do; *os.File does.
type diskFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
}

// handles keeps the most recently used files of one torrent open. It holds more than its limit only while
// more than that many calls are under way at once.
type handles struct {
	open  func(*file) (diskFile, error) // for the file's present state
	limit int

	mu     sync.Mutex
	recent list.List // of *handle, most recently used first
}

// handle is an open file. Its fields and file.handle are guarded by handles.mu.
type handle struct {
	diskFile
	of   *file
	refs int
	elem *list.Element
}

// acquire returns f's handle, opening it if need be; the caller releases it. The caller holds f.mu, shared
// or exclusively, so that the file cannot be renamed between opening and use.
func (hs *handles) acquire(f *file) (*handle, error) {
	hs.mu.Lock()
	if h := f.handle; h != nil {
		h.refs++
		hs.recent.MoveToFront(h.elem)
		hs.mu.Unlock()
		return h, nil
	}
	hs.mu.Unlock()

	// Opened without the lock: a slow disk holds up this file only.
	d, err := hs.open(f)
	if err != nil {
		return nil, err
	}
	return hs.insert(f, d), nil
}

// insert makes d the handle of f, or closes it if another caller was first.
func (hs *handles) insert(f *file, d diskFile) *handle {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := f.handle
	if h == nil {
		h = &handle{diskFile: d, of: f}
		h.elem = hs.recent.PushFront(h)
		f.handle = h
	} else {
		_ = d.Close() // never used, so nothing can be lost
		hs.recent.MoveToFront(h.elem)
	}
	h.refs++
	hs.evict()
	return h
}

// release ends one use of h.
func (hs *handles) release(h *handle) {
	hs.mu.Lock()
	h.refs--
	hs.evict()
	hs.mu.Unlock()
}

// evict closes unused handles, the least recently used first, until the limit holds.
func (hs *handles) evict() {
	for e := hs.recent.Back(); e != nil && hs.recent.Len() > hs.limit; {
		h := e.Value.(*handle)
		e = e.Prev()
		if h.refs == 0 {
			hs.close(h)
		}
	}
}

// close closes h and remembers an error with the file: some file systems report a lost write only now.
func (hs *handles) close(h *handle) {
	hs.recent.Remove(h.elem)
	h.of.handle = nil
	if err := h.Close(); err != nil && h.of.lost == nil {
		h.of.lost = err
	}
}

// drop closes f's handle, if any. The caller holds f.mu exclusively, so that it is not in use. The error
// is the first that any handle of f met in closing, and f keeps it.
func (hs *handles) drop(f *file) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if f.handle != nil {
		hs.close(f.handle)
	}
	return f.lost
}

// lost returns the first error that a handle of f met in closing.
func (hs *handles) lost(f *file) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return f.lost
}

// closeAll closes every handle. None is in use.
func (hs *handles) closeAll() error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	var errs []error
	for hs.recent.Len() > 0 {
		h := hs.recent.Front().Value.(*handle)
		hs.close(h)
		if h.of.lost != nil {
			errs = append(errs, pathError("close", h.of.path, h.of.lost))
		}
	}
	return errors.Join(errs...)
}
