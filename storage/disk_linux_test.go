package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/mounttest"
)

// A real full disk, where the test may mount one; TestDiskErrors covers the logic everywhere.
func TestFullDisk(t *testing.T) {
	mount, _ := mounttest.Tmpfs(t, "1m")
	filler := filepath.Join(mount, "filler")
	writeFile(t, filler, make([]byte, 512<<10))

	dir := filepath.Join(mount, "get")
	tor := newTorrent(t, 64<<10, []string{"n/a", "n/b"}, []int64{300 << 10, 500 << 10})
	s := tor.open(t, dir, Options{})
	_, err := s.WriteAt(tor.data, 0)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), filepath.Join(dir, "n", "b.part")) {
		t.Fatalf("%v, want ENOSPC about n/b.part", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s = tor.open(t, dir, Options{})
	have, err := VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
	if err != nil || have.Count() == 0 || have.Full() {
		t.Fatalf("%d of %d pieces, %v, want some", have.Count(), have.Len(), err)
	}
	for i := range have.Len() {
		if !have.Has(i) {
			tor.write(t, s, i)
		}
	}
	wantFile(t, filepath.Join(dir, "n", "a"), tor.content(t, "n/a"))
	wantFile(t, filepath.Join(dir, "n", "b"), tor.content(t, "n/b"))
	wantTree(t, dir, "n/ n/a n/b")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// One byte at 8 GiB takes no 8 GiB, and is possible on 32-bit systems too.
func TestSparse(t *testing.T) {
	const size = 1 << 40 // 1 TiB
	geom, err := bt.NewGeometry(size, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := OpenFiles(dir, []File{{Path: []string{"huge"}, Length: size}}, geom, Options{OpenFiles: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.WriteAt(make([]byte, 1), 1<<33); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil { // the handle is closed by now, so this opens it again
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dir, "huge.part"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 1<<33+1 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes long, %d on disk", st.Size, st.Blocks*512)
	}
}

// With full allocation the disk space is taken at once, and the file is as long as what was written all the same.
func TestAllocate(t *testing.T) {
	const size = 4 << 20
	tor := newTorrent(t, 64<<10, []string{"a"}, []int64{size})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{Allocate: true})
	tor.write(t, s, 0)
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dir, "a.part"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 < size {
		t.Skip("this file system takes no space ahead")
	}
	if st.Size != 64<<10 {
		t.Errorf("%d bytes long after one piece of %d", st.Size, 64<<10)
	}
	tor.writeAll(t, s)
	wantFile(t, filepath.Join(dir, "a"), tor.data)
}

// A disk that is too small says so before anything is downloaded, and nothing is left behind.
func TestAllocateTooMuch(t *testing.T) {
	mount, _ := mounttest.Tmpfs(t, "1m")
	tor := newTorrent(t, 64<<10, []string{"a"}, []int64{2 << 20})
	s := tor.open(t, mount, Options{Allocate: true})
	if _, err := s.WriteAt(tor.piece(0), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	wantTree(t, mount, "")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// To another file system everything is copied; if it does not fit there, everything stays.
func TestMoveAcross(t *testing.T) {
	mount, resize := mounttest.Tmpfs(t, "1m")
	tor := newTorrent(t, 64<<10, []string{"n/a", "n/b", "n/c"}, []int64{900 << 10, 900 << 10, 100})
	from, to := t.TempDir(), filepath.Join(mount, "to")
	s, _, _ := tor.resumeAll(t, from, remember)
	n := tor.geom.NumPieces()
	for i := range n - 2 {
		tor.write(t, s, i)
	}
	before := tree(t, from)
	if err := s.Move(t.Context(), to); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v, want ENOSPC", err)
	}
	wantTree(t, from, before)
	wantTree(t, to, "")
	resize("8m")
	if err := s.Move(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	wantTree(t, from, "")
	wantTree(t, to, before)
	tor.write(t, s, n-2, n-1)
	wantFile(t, filepath.Join(to, "n", "b"), tor.content(t, "n/b"))
	if err := s.Move(t.Context(), from); err != nil { // and back
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, found, read := tor.resumeAll(t, from, remember)
	if found.Count() != n || read != 0 {
		t.Errorf("%d of %d pieces, %d bytes read", found.Count(), n, read)
	}
}
