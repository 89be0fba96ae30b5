package storage

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/parley-bt/parley/bt"
)

// torrent is a made-up torrent: files, geometry, content and hashes.
type torrent struct {
	files  []File
	geom   bt.Geometry
	data   []byte
	hashes []byte
}

// newTorrent makes a torrent of pieces of pieceBytes with pseudo-random content, the same each time. A
// file is given as "dir/name"; lengths follow in order; a name "" is padding.
func newTorrent(t testing.TB, pieceBytes int64, names []string, lengths []int64) *torrent {
	t.Helper()
	tor := &torrent{}
	rnd := rand.NewChaCha8([32]byte{1})
	for i, name := range names {
		f := File{Length: lengths[i], Padding: name == ""}
		part := make([]byte, f.Length)
		if !f.Padding {
			f.Path = strings.Split(name, "/")
			rnd.Read(part)
		}
		tor.data = append(tor.data, part...)
		tor.files = append(tor.files, f)
	}
	var err error
	if tor.geom, err = bt.NewGeometry(int64(len(tor.data)), pieceBytes); err != nil {
		t.Fatal(err)
	}
	for i := range tor.geom.NumPieces() {
		sum := sha1.Sum(tor.piece(i))
		tor.hashes = append(tor.hashes, sum[:]...)
	}
	return tor
}

func (tor *torrent) piece(i int) []byte {
	start := tor.geom.PieceStart(bt.PieceIndex(i))
	return tor.data[start : start+int64(tor.geom.PieceLen(bt.PieceIndex(i)))]
}

// content returns the bytes of the file called name.
func (tor *torrent) content(t testing.TB, name string) []byte {
	t.Helper()
	var off int64
	for _, f := range tor.files {
		if strings.Join(f.Path, "/") == name {
			return tor.data[off : off+f.Length]
		}
		off += f.Length
	}
	t.Fatalf("no file %q in the torrent", name)
	return nil
}

func (tor *torrent) open(t testing.TB, dir string, opts Options) *Files {
	t.Helper()
	s, err := OpenFiles(dir, tor.files, tor.geom, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// write writes piece i and says that it is verified.
func (tor *torrent) write(t testing.TB, s Storage, pieces ...int) {
	t.Helper()
	for _, i := range pieces {
		if n, err := s.WriteAt(tor.piece(i), tor.geom.PieceStart(bt.PieceIndex(i))); err != nil || n != len(tor.piece(i)) {
			t.Fatalf("write piece %d: %d bytes, %v", i, n, err)
		}
		if err := s.Verified(bt.PieceIndex(i)); err != nil {
			t.Fatalf("piece %d verified: %v", i, err)
		}
	}
}

func (tor *torrent) writeAll(t testing.TB, s Storage) {
	t.Helper()
	for i := range tor.geom.NumPieces() {
		tor.write(t, s, i)
	}
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t testing.TB, path string, content []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	} else if !bytes.Equal(got, content) {
		t.Errorf("%s: %d bytes with SHA-1 %x, want %d with %x", path, len(got), sha1.Sum(got), len(content), sha1.Sum(content))
	}
}

func wantMissing(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want that it does not exist", path, err)
	}
}

// tree returns the names of all files below dir, slash-separated, folders with a slash behind.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		rel = filepath.ToSlash(rel)
		if e.IsDir() {
			rel += "/"
		}
		names = append(names, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func wantTree(t testing.TB, dir, want string) {
	t.Helper()
	if got := tree(t, dir); got != want {
		t.Errorf("on disk: %q, want %q", got, want)
	}
}

// backends runs f over every backend, with a torrent that has every odd kind of file.
func backends(t *testing.T, f func(t *testing.T, tor *torrent, s Storage)) {
	tor := newTorrent(t, 16, []string{"n/a", "n/empty", "n/b", "", "n/one", "n/c"}, []int64{20, 0, 37, 7, 1, 50})
	t.Run("memory", func(t *testing.T) { f(t, tor, NewMemory(tor.geom)) })
	t.Run("files", func(t *testing.T) { f(t, tor, tor.open(t, t.TempDir(), Options{})) })
}

func TestReadBackAcrossFiles(t *testing.T) {
	backends(t, func(t *testing.T, tor *torrent, s Storage) {
		tor.writeAll(t, s)
		total := int64(len(tor.data))
		for off := range total {
			for n := int64(1); off+n <= total; n++ {
				p := bytes.Repeat([]byte{0xff}, int(n))
				if k, err := s.ReadAt(p, off); int64(k) != n || err != nil || !bytes.Equal(p, tor.data[off:off+n]) {
					t.Fatalf("read %d bytes at %d: %d, %v, or wrong bytes", n, off, k, err)
				}
			}
		}
	})
}

func TestReadAtFollowsReaderAt(t *testing.T) {
	backends(t, func(t *testing.T, tor *torrent, s Storage) {
		tor.writeAll(t, s)
		total := int64(len(tor.data))
		tests := []struct {
			name   string
			off    int64
			n      int
			wantN  int
			wantIs error
		}{
			{"nothing", 3, 0, 0, nil},
			{"nothing at the end", total, 0, 0, nil},
			{"the last byte", total - 1, 1, 1, nil},
			{"past the end", total - 3, 10, 3, io.EOF},
			{"at the end", total, 1, 0, io.EOF},
			{"far behind", 1 << 62, 1, 0, io.EOF},
			{"before the start", -1, 1, 0, ErrRange},
		}
		for _, tt := range tests {
			n, err := s.ReadAt(make([]byte, tt.n), tt.off)
			if n != tt.wantN || !errors.Is(err, tt.wantIs) {
				t.Errorf("%s: %d, %v, want %d, %v", tt.name, n, err, tt.wantN, tt.wantIs)
			}
		}
		// The whole of it through the standard library's idea of an io.ReaderAt.
		got, err := io.ReadAll(io.NewSectionReader(s, 0, total))
		if err != nil || !bytes.Equal(got, tor.data) {
			t.Errorf("section reader: %d bytes, %v", len(got), err)
		}
	})
}

func TestOutsideTheTorrent(t *testing.T) {
	backends(t, func(t *testing.T, tor *torrent, s Storage) {
		total := int64(len(tor.data))
		for _, off := range []int64{-1, total - 3, total, 1<<63 - 1} {
			if n, err := s.WriteAt(make([]byte, 4), off); n != 0 || !errors.Is(err, ErrRange) {
				t.Errorf("write at %d: %d, %v, want ErrRange", off, n, err)
			}
		}
		if n, err := s.ReadAt(make([]byte, 3), total-3); n != 0 || err == nil {
			t.Errorf("a refused write left %d bytes (%v)", n, err)
		}
		for _, i := range []bt.PieceIndex{bt.PieceIndex(tor.geom.NumPieces()), 1<<32 - 1} {
			if err := s.Verified(i); !errors.Is(err, ErrRange) {
				t.Errorf("piece %d verified: %v, want ErrRange", i, err)
			}
		}
	})
}

func TestNeverWrittenIsAnError(t *testing.T) {
	backends(t, func(t *testing.T, tor *torrent, s Storage) {
		n, err := s.ReadAt(make([]byte, 10), 0)
		if n != 0 || !(errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF)) {
			t.Errorf("read of nothing: %d, %v", n, err)
		}
	})
}

func TestClosed(t *testing.T) {
	backends(t, func(t *testing.T, tor *torrent, s Storage) {
		tor.write(t, s, 0)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("read: %v, want ErrClosed", err)
		}
		if _, err := s.WriteAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("write: %v, want ErrClosed", err)
		}
		if err := s.Verified(0); !errors.Is(err, ErrClosed) {
			t.Errorf("verified: %v, want ErrClosed", err)
		}
		if err := s.Close(); !errors.Is(err, ErrClosed) {
			t.Errorf("close: %v, want ErrClosed", err)
		}
	})
}

func TestMemoryAcrossSegments(t *testing.T) {
	tor := newTorrent(t, 256<<10, []string{"big"}, []int64{2*segmentBytes + 12345})
	m := NewMemory(tor.geom)
	tor.writeAll(t, m)
	got, err := io.ReadAll(io.NewSectionReader(m, 0, tor.geom.TotalBytes))
	if err != nil || !bytes.Equal(got, tor.data) {
		t.Errorf("%d bytes, %v, or other bytes", len(got), err)
	}
	if _, err := m.WriteAt(tor.data[:100], segmentBytes-50); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if _, err := m.ReadAt(p, segmentBytes-50); err != nil || !bytes.Equal(p, tor.data[:100]) {
		t.Errorf("a block across two segments: %v, or other bytes", err)
	}
}

// Writers that meet in a segment that does not exist yet share one.
func TestMemoryFirstWritesMeet(t *testing.T) {
	tor := newTorrent(t, 16<<10, []string{"a"}, []int64{128 << 10})
	for range 20 {
		m := NewMemory(tor.geom)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range tor.geom.NumPieces() {
			wg.Go(func() {
				<-start
				if _, err := m.WriteAt(tor.piece(i), tor.geom.PieceStart(bt.PieceIndex(i))); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		got := make([]byte, len(tor.data))
		if _, err := m.ReadAt(got, 0); err != nil || !bytes.Equal(got, tor.data) {
			t.Fatalf("a write was lost (%v)", err)
		}
	}
}

func TestPathErrorNamesThePathOnce(t *testing.T) {
	inner := &fs.PathError{Op: "openat", Path: "x", Err: &os.SyscallError{Syscall: "open", Err: syscall.ENOSPC}}
	err := pathError("write", "/d/x", inner)
	if want := "storage: write /d/x: " + syscall.ENOSPC.Error(); err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v is not ENOSPC", err)
	}
}
