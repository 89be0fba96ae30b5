package storage

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
)

func TestHashPieces(t *testing.T) {
	tests := []struct {
		name       string
		pieceBytes int64
		length     int64
	}{
		{"one byte", 16, 1},
		{"pieces of one byte", 1, 1000},
		{"many small", 16 << 10, 3<<20 + 5},
		{"odd", 10007, 1 << 20},
		{"of one buffer", blockbuf.LargeBytes, 3*blockbuf.LargeBytes + 1},
		{"more than half a buffer", blockbuf.LargeBytes/2 + 1, 1 << 20},
		{"larger than a buffer", 1<<20 + 7, 5 << 20},
		{"one piece", 4 << 20, 1<<20 + 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := blockbuf.LiveLarge()
			tor := newTorrent(t, tt.pieceBytes, []string{"a"}, []int64{tt.length})
			// Holes: a run of zeros that begins, ends and fills pieces.
			if tt.length > 1000 {
				clear(tor.data[tt.length/4 : tt.length/2])
				fixHashes(tor)
			}
			m := NewMemory(tor.geom)
			tor.writeAll(t, m)
			seen := make([]int, tor.geom.NumPieces())
			var inside atomic.Int32
			err := HashPieces(t.Context(), m, tor.geom, V1Hashes(nil), func(i bt.PieceIndex, sum *Sums, err error) bool {
				if inside.Add(1) != 1 {
					t.Error("two calls at once")
				}
				defer inside.Add(-1)
				seen[i]++
				if err != nil || !bytes.Equal(sum.V1[:], tor.hashes[i*20:i*20+20]) {
					t.Errorf("piece %d: %x, %v, want %x", i, sum, err, tor.hashes[i*20:i*20+20])
				}
				return true
			})
			if err != nil {
				t.Error(err)
			}
			for i, n := range seen {
				if n != 1 {
					t.Errorf("piece %d reported %d times", i, n)
				}
			}
			if n := blockbuf.LiveLarge(); n != before {
				t.Errorf("%d buffers out, %d before", n, before)
			}
		})
	}
}

// fixHashes recomputes the hashes after a change of the content.
func fixHashes(tor *torrent) {
	for i := range tor.geom.NumPieces() {
		sum := sha1.Sum(tor.piece(i))
		copy(tor.hashes[i*20:], sum[:])
	}
}

func TestHashPiecesOfNothing(t *testing.T) {
	for _, geom := range []bt.Geometry{{}, {PieceBytes: 16}} {
		err := HashPieces(t.Context(), NewMemory(geom), geom, V1Hashes(nil), func(bt.PieceIndex, *Sums, error) bool {
			t.Error("a piece was reported")
			return true
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestHashPiecesGoesOnBehindWhatIsMissing(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a", "b", "c", "d"}, []int64{20, 20, 20, 20})
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), tor.content(t, "a"))
	// b is missing.
	writeFile(t, filepath.Join(dir, "c.part"), tor.content(t, "c")[:15])
	writeFile(t, filepath.Join(dir, "d"), tor.content(t, "d"))
	s := tor.open(t, dir, Options{})
	want := []error{nil, nil, fs.ErrNotExist, fs.ErrNotExist, nil, io.ErrUnexpectedEOF, nil, nil}
	count := 0
	err := HashPieces(t.Context(), s, tor.geom, V1Hashes(nil), func(i bt.PieceIndex, sum *Sums, err error) bool {
		count++
		if !errors.Is(err, want[i]) {
			t.Errorf("piece %d: %v, want %v", i, err, want[i])
		}
		if (err == nil) != bytes.Equal(sum.V1[:], tor.hashes[i*20:i*20+20]) {
			t.Errorf("piece %d: sum %x with %v", i, sum, err)
		}
		return true
	})
	if err != nil || count != len(want) {
		t.Errorf("%d pieces, %v, want %d", count, err, len(want))
	}
}

func TestHashPiecesStops(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a"}, []int64{500000})
	m := NewMemory(tor.geom)
	tor.writeAll(t, m)
	t.Run("when told", func(t *testing.T) {
		n := 0
		err := HashPieces(t.Context(), m, tor.geom, V1Hashes(nil), func(bt.PieceIndex, *Sums, error) bool { n++; return n < 5 })
		if err != nil || n != 5 {
			t.Errorf("%d calls, %v, want 5, nil", n, err)
		}
	})
	t.Run("by context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := HashPieces(ctx, m, tor.geom, V1Hashes(nil), func(bt.PieceIndex, *Sums, error) bool {
			if n++; n == 5 {
				cancel()
			}
			return true
		})
		if !errors.Is(err, context.Canceled) || n != 5 {
			t.Errorf("%d calls, %v, want 5 and the context's error", n, err)
		}
		if _, err := VerifyPieces(ctx, m, tor.geom, V1Hashes(tor.hashes), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("verify: %v, want the context's error", err)
		}
	})
}

func TestHashPiecesDoneBeforeTheContext(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a"}, []int64{1000})
	m := NewMemory(tor.geom)
	tor.writeAll(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := HashPieces(ctx, m, tor.geom, V1Hashes(nil), func(bt.PieceIndex, *Sums, error) bool {
		if n++; n == tor.geom.NumPieces() {
			cancel()
		}
		return true
	})
	if err != nil {
		t.Errorf("%v, though every piece was reported", err)
	}
}

// cancellingStorage cancels a context in the second read.
type cancellingStorage struct {
	Storage
	reads  atomic.Int32
	cancel func()
}

func (s *cancellingStorage) ReadAt(p []byte, off int64) (int, error) {
	if s.reads.Add(1) == 2 {
		s.cancel()
	}
	return s.Storage.ReadAt(p, off)
}

// A large piece is given up in the middle.
func TestHashPiecesStopsWithinAPiece(t *testing.T) {
	tor := newTorrent(t, 8<<20, []string{"a"}, []int64{4 << 20})
	m := NewMemory(tor.geom)
	tor.writeAll(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	s := &cancellingStorage{Storage: m, cancel: cancel}
	err := HashPieces(ctx, s, tor.geom, V1Hashes(nil), func(bt.PieceIndex, *Sums, error) bool { t.Error("reported"); return true })
	if !errors.Is(err, context.Canceled) || s.reads.Load() != 2 {
		t.Errorf("%v after %d reads, want the context's error after 2", err, s.reads.Load())
	}
}

func TestVerifyPieces(t *testing.T) {
	tor := newTorrent(t, 1000, []string{"n/a", "n/b"}, []int64{5500, 4500})
	dir := t.TempDir()
	bad := bytes.Clone(tor.data)
	bad[2500] ^= 0x80
	s := tor.open(t, dir, Options{})
	if _, err := s.WriteAt(bad, 0); err != nil {
		t.Fatal(err)
	}
	last, calls := 0, 0
	have, err := VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), func(done, total int) {
		calls++
		if total != 10 || done != last+1 {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil || have.Count() != 9 || have.Has(2) || calls != 10 {
		t.Errorf("%d pieces, piece 2 %v, %d calls, %v", have.Count(), have.Has(2), calls, err)
	}
	wantTree(t, dir, "n/ n/a.part n/b")
	tor.write(t, s, 2)
	wantTree(t, dir, "n/ n/a n/b")
	wantFile(t, filepath.Join(dir, "n/a"), tor.content(t, "n/a"))
}

// Pieces that are holes of a sparse part cost no hashing and are still right: here they belong so.
func TestHolesThatAreContent(t *testing.T) {
	tor := newTorrent(t, 64<<10, []string{"a"}, []int64{1 << 20})
	clear(tor.data[100<<10 : 900<<10])
	fixHashes(tor)
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "a.part"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 900 << 10} {
		if _, err := io.Copy(io.NewOffsetWriter(f, at), strings.NewReader(string(tor.data[at:at+124<<10]))); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s := tor.open(t, dir, Options{})
	have, err := VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
	if err != nil || !have.Full() {
		t.Errorf("%d of %d pieces, %v", have.Count(), have.Len(), err)
	}
	wantFile(t, filepath.Join(dir, "a"), tor.data)
}

func TestVerifyPiecesWantsAllHashes(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a"}, []int64{20})
	for _, hashes := range [][]byte{nil, tor.hashes[:20], tor.hashes[:39], append(tor.hashes[:40:40], 0)} {
		if _, err := VerifyPieces(t.Context(), NewMemory(tor.geom), tor.geom, V1Hashes(hashes), nil); err == nil {
			t.Errorf("%d bytes of hashes were accepted for 2 pieces", len(hashes))
		}
	}
}

// A download of 1 TiB that has not begun is checked without reading, and quickly.
func TestVerifyingNothingReadsNothing(t *testing.T) {
	const size = 1 << 40
	geom, err := bt.NewGeometry(size, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenFiles(t.TempDir(), []File{{Path: []string{"huge"}, Length: size}}, geom, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.handles.open = func(*file) (diskFile, error) { t.Error("a file was opened"); return nil, fs.ErrInvalid }
	have, err := VerifyPieces(t.Context(), s, geom, V1Hashes(make([]byte, geom.NumPieces()*20)), nil)
	if err != nil || have.Count() != 0 {
		t.Errorf("%d pieces, %v", have.Count(), err)
	}
}

func BenchmarkHashPieces(b *testing.B) {
	tor := newTorrent(b, 256<<10, []string{"a"}, []int64{64 << 20})
	s := tor.open(b, b.TempDir(), Options{})
	tor.writeAll(b, s)
	b.SetBytes(tor.geom.TotalBytes)
	b.ReportAllocs()
	for b.Loop() {
		if err := HashPieces(b.Context(), s, tor.geom, V1Hashes(nil), func(bt.PieceIndex, *Sums, error) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}
