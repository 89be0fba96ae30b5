package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSubfolders(t *testing.T) {
	if !keepSubfolders {
		t.Skip("no folder is kept open on this system")
	}
	dir := t.TempDir()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := newRootFolder(r)
	synctest.Test(t, func(t *testing.T) {
		defer f.Close()
		if err := f.MkdirAll(filepath.Join("a", "b")); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join("a", "b", "file")
		d, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		if err := f.Link(name, name+"2"); err != nil {
			t.Fatal(err)
		}
		if err := f.Link(name, "elsewhere"); err != nil {
			t.Fatal(err)
		}
		if err := f.Remove(name); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{name + "2", "elsewhere"} {
			if _, err := os.Lstat(filepath.Join(dir, n)); err != nil {
				t.Error(err)
			}
		}
		if _, err := f.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, want that it does not exist", err)
		}
		if len(f.subs.open) != 1 {
			t.Errorf("%d folders open, want 1", len(f.subs.open))
		}

		// Something else has taken the folder's name: a moment later it is seen.
		if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "old")); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(subfolderAge)
		if _, err := f.Lstat(name + "2"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, want that the new folder is empty", err)
		}

		// An empty folder that is kept open can be removed and made again.
		if err := f.Remove(filepath.Join("a", "b")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, want that the folder does not exist", err)
		}
		if err := f.MkdirAll(filepath.Join("a", "b")); err != nil {
			t.Fatal(err)
		}
		if d, err = f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL); err != nil {
			t.Fatal(err)
		}
		d.Close()
	})
}

// What leads out of the root is refused, whether its folder was open or not.
func TestSubfoldersEscape(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "way")); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := newRootFolder(r)
	defer f.Close()
	for range 2 {
		if _, err := f.OpenFile(filepath.Join("way", "secret"), os.O_RDONLY); err == nil {
			t.Error("a symbolic link led out")
		}
	}
}

// Many users of many folders.
func TestSubfoldersConcurrent(t *testing.T) {
	r, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := newRootFolder(r)
	var group sync.WaitGroup
	for k := range 8 {
		group.Go(func() {
			for i := range 200 {
				dir := fmt.Sprintf("%d", (i+k)%(2*maxSubfolder))
				if err := f.MkdirAll(dir); err != nil && !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
				name := filepath.Join(dir, fmt.Sprintf("%d-%d", k, i))
				d, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
				if err != nil {
					t.Error(err)
					continue
				}
				d.Close()
				if err := f.Remove(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := len(f.subs.open); n > maxSubfolder {
		t.Errorf("%d folders open, want at most %d", n, maxSubfolder)
	}
	for dir, sub := range f.subs.open {
		if sub.refs != 0 {
			t.Errorf("%s: still in use", dir)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
