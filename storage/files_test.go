package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
)

func TestDownloadLeavesExactlyTheFiles(t *testing.T) {
	names := []string{"n/sub/a", "n/leer", "n/日本語 – ü.txt", "", "n/one", "n/sub/z", "n/last empty"}
	tor := newTorrent(t, 16, names, []int64{20, 0, 40, 4, 1, 63, 0})
	dir := filepath.Join(t.TempDir(), "to", "be", "created")
	s := tor.open(t, dir, Options{})
	wantTree(t, dir, "")
	tor.writeAll(t, s)
	wantTree(t, dir, "n/ n/last empty n/leer n/one n/sub/ n/sub/a n/sub/z n/日本語 – ü.txt")
	for _, name := range names {
		if name != "" {
			wantFile(t, filepath.Join(dir, name), tor.content(t, name))
		}
	}
	if err := s.Finish(); err != nil {
		t.Errorf("finish: %v", err)
	}
}

// A file gets its name with the last of its pieces, in whatever order they come, and not before.
func TestFinalNameWithTheLastPiece(t *testing.T) {
	// Pieces:    0          1          2          3
	// Files:     aaaaaaaaaaaaaab1cccccccccccccccccccc
	tor := newTorrent(t, 10, []string{"a", "b", "c"}, []int64{14, 1, 20})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	tor.write(t, s, 0)
	wantTree(t, dir, "a.part")
	tor.write(t, s, 2)
	wantTree(t, dir, "a.part c.part")
	tor.write(t, s, 1)
	wantTree(t, dir, "a b c.part")
	if err := s.Finish(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("finish with a piece to come: %v, want ErrIncomplete", err)
	}
	tor.write(t, s, 3)
	wantTree(t, dir, "a b c")
	for _, name := range []string{"a", "b", "c"} {
		wantFile(t, filepath.Join(dir, name), tor.content(t, name))
	}
}

func TestOneByteFilesShareAPiece(t *testing.T) {
	var names []string
	var lengths []int64
	for i := range 20 {
		names, lengths = append(names, fmt.Sprintf("f%02d", i)), append(lengths, 1)
	}
	tor := newTorrent(t, 16, names, lengths)
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	tor.write(t, s, 0)
	for i, name := range names[:16] {
		wantFile(t, filepath.Join(dir, name), tor.data[i:i+1])
	}
	wantMissing(t, filepath.Join(dir, names[16]))
	tor.write(t, s, 1)
	for i, name := range names {
		wantFile(t, filepath.Join(dir, name), tor.data[i:i+1])
	}
}

func TestVerifiedTwice(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a"}, []int64{20})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	tor.write(t, s, 0)
	for range 3 {
		if err := s.Verified(0); err != nil {
			t.Fatal(err)
		}
	}
	wantTree(t, dir, "a.part")
	tor.write(t, s, 1, 1, 0)
	wantTree(t, dir, "a")
}

func TestNothingWrittenButVerified(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a"}, []int64{10})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	if err := s.Verified(0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("verified: %v, want fs.ErrNotExist", err)
	}
	wantTree(t, dir, "")
	// Half a file never gets the final name.
	if _, err := s.WriteAt(tor.data[:5], 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Verified(0); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "5 of 10 bytes") {
		t.Errorf("verified: %v, want io.ErrUnexpectedEOF with the sizes", err)
	}
	wantTree(t, dir, "a.part")
	tor.write(t, s, 0)
	wantTree(t, dir, "a")
}

func TestTorrentOfNoBytes(t *testing.T) {
	tor := newTorrent(t, 16, []string{"n/a", "n/sub/b"}, []int64{0, 0})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	wantTree(t, dir, "n/ n/a n/sub/ n/sub/b")
	if err := s.Finish(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	tor.open(t, dir, Options{})
	tor.open(t, dir, Options{ReadOnly: true})
}

func TestResume(t *testing.T) {
	tor := newTorrent(t, 10, []string{"n/a", "n/empty", "n/b"}, []int64{25, 0, 30})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	tor.write(t, s, 0, 1, 2) // n/a done, n/b begun
	tor.write(t, s, 4)
	// A block of a piece that was never completed.
	if _, err := s.WriteAt(tor.data[50:53], 50); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, "n/ n/a n/b.part")

	s = tor.open(t, dir, Options{})
	have, err := VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, true, false, true, false} {
		if have.Has(i) != want {
			t.Errorf("piece %d: have %v, want %v", i, have.Has(i), want)
		}
	}
	tor.write(t, s, 3, 5)
	wantTree(t, dir, "n/ n/a n/b n/empty")
	wantFile(t, filepath.Join(dir, "n/a"), tor.content(t, "n/a"))
	wantFile(t, filepath.Join(dir, "n/b"), tor.content(t, "n/b"))
}

// Everything was written but nothing renamed, as after a crash: checking the pieces finishes the files.
func TestVerifyingFinishesFiles(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a", "e", "b"}, []int64{25, 0, 30})
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.part"), tor.content(t, "a"))
	writeFile(t, filepath.Join(dir, "b.part"), tor.content(t, "b"))
	s := tor.open(t, dir, Options{})
	have, err := VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
	if err != nil || !have.Full() {
		t.Fatalf("%d pieces, %v", have.Count(), err)
	}
	wantTree(t, dir, "a b e")
}

func TestCutOffBetweenLinkAndRemove(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a", "b"}, []int64{10, 10})
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), tor.content(t, "a"))
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "a.part")); err != nil {
		t.Fatal(err)
	}
	// This part is another file: somebody else's, or a stale one.
	writeFile(t, filepath.Join(dir, "b"), tor.content(t, "b"))
	writeFile(t, filepath.Join(dir, "b.part"), []byte("other"))
	s := tor.open(t, dir, Options{})
	wantTree(t, dir, "a b b.part")
	tor.writeAll(t, s)
	wantFile(t, filepath.Join(dir, "a"), tor.content(t, "a"))
	wantFile(t, filepath.Join(dir, "b.part"), []byte("other"))
}

func TestExistingFilesAreUsed(t *testing.T) {
	tor := newTorrent(t, 10, []string{"a", "b"}, []int64{15, 15})
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	writeFile(t, path, tor.content(t, "a"))
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s := tor.open(t, dir, Options{})
	have, err := VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
	if err != nil || have.Count() != 1 || !have.Has(0) {
		t.Fatalf("%d pieces, %v, want piece 0", have.Count(), err)
	}
	tor.write(t, s, 1, 2)
	wantTree(t, dir, "a b")
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the existing file was touched")
	}
}

func TestConflictsAtOpen(t *testing.T) {
	tor := newTorrent(t, 10, []string{"n/a", "n/empty", "n/sub/b"}, []int64{15, 0, 15})
	tests := []struct {
		name   string
		path   string // of what is in the way, and of what is reported
		make   func(t *testing.T, path string)
		says   string
		report string // if not path
	}{
		{"shorter", "n/a", func(t *testing.T, p string) { writeFile(t, p, []byte("user's")) }, "has 6 bytes, the torrent's file has 15", ""},
		{"longer", "n/a", func(t *testing.T, p string) { writeFile(t, p, make([]byte, 16)) }, "has 16 bytes", ""},
		{"not empty", "n/empty", func(t *testing.T, p string) { writeFile(t, p, []byte("x")) }, "has 1 bytes, the torrent's file has 0", ""},
		{"folder", "n/a", func(t *testing.T, p string) { writeFile(t, filepath.Join(p, "inside"), nil) }, "is a folder", ""},
		{"link to a fitting file", "n/a", func(t *testing.T, p string) {
			writeFile(t, p+"-target", make([]byte, 15))
			if err := os.Symlink("a-target", p); err != nil {
				t.Fatal(err)
			}
		}, "is a symbolic link", ""},
		{"file where a folder is needed", "n/sub", func(t *testing.T, p string) { writeFile(t, p, []byte("x")) }, "a file is where its folder should be", "n/sub/b"},
		{"part is a folder", "n/a.part", func(t *testing.T, p string) { writeFile(t, filepath.Join(p, "inside"), nil) }, "is a folder", ""},
		{"part is a link", "n/a.part", func(t *testing.T, p string) {
			writeFile(t, p+"-target", make([]byte, 15))
			if err := os.Symlink("a.part-target", p); err != nil {
				t.Fatal(err)
			}
		}, "is a symbolic link", ""},
		{"part is not ours", "n/a.part", func(t *testing.T, p string) { writeFile(t, p, make([]byte, 99)) }, "has 99 bytes, more than", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "n"), 0o777); err != nil {
				t.Fatal(err)
			}
			tt.make(t, filepath.Join(dir, filepath.FromSlash(tt.path)))
			before := tree(t, dir)
			s, err := OpenFiles(dir, tor.files, tor.geom, Options{})
			if err == nil {
				s.Close()
			}
			e, ok := errors.AsType[*ConflictError](err)
			if !ok || !errors.Is(err, ErrConflict) {
				t.Fatalf("open: %v, want a conflict", err)
			}
			want := tt.path
			if tt.report != "" {
				want = tt.report
			}
			if e.Path != filepath.Join(dir, filepath.FromSlash(want)) {
				t.Errorf("conflict about %s, want %s", e.Path, want)
			}
			if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "choose another folder") {
				t.Errorf("%q, want that it says %q and what to do", err, tt.says)
			}
			wantTree(t, dir, before)
		})
	}
}

func TestConflictingContentIsNeverModified(t *testing.T) {
	tor := newTorrent(t, 600<<10, []string{"a", "b"}, []int64{500 << 10, 200 << 10})
	for _, at := range []int{0, 1000, 300 << 10, 500<<10 - 1} {
		dir := t.TempDir()
		theirs := bytes.Clone(tor.content(t, "a"))
		theirs[at] ^= 1
		writeFile(t, filepath.Join(dir, "a"), theirs)
		s := tor.open(t, dir, Options{})
		n, err := s.WriteAt(tor.piece(0), 0)
		e, ok := errors.AsType[*ConflictError](err)
		if !ok || e.Path != filepath.Join(dir, "a") {
			t.Errorf("byte %d differs: %v, want a conflict about a", at, err)
		}
		if n > at {
			t.Errorf("byte %d differs, but %d bytes are said to be there", at, n)
		}
		wantFile(t, filepath.Join(dir, "a"), theirs)
		// What is the same is accepted, wherever it is.
		if _, err := s.WriteAt(tor.data[at+1:], int64(at)+1); err != nil {
			t.Errorf("the same bytes behind byte %d: %v", at, err)
		}
		if _, err := s.WriteAt(tor.data[:at], 0); err != nil {
			t.Errorf("the same bytes before byte %d: %v", at, err)
		}
		wantFile(t, filepath.Join(dir, "a"), theirs)
	}
	if n := blockbuf.LiveLarge(); n != 0 {
		t.Errorf("%d buffers are still out", n)
	}
}

func TestFinishedFileIsNotModifiedByLateBlocks(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a"}, []int64{40})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	tor.writeAll(t, s)
	if _, err := s.WriteAt(tor.data[3:9], 3); err != nil {
		t.Errorf("the same block again: %v", err)
	}
	if _, err := s.WriteAt([]byte("garbage"), 3); !errors.Is(err, ErrConflict) {
		t.Errorf("another block: %v, want a conflict", err)
	}
	wantFile(t, filepath.Join(dir, "a"), tor.data)
}

func TestFinalNameTakenMeanwhile(t *testing.T) {
	tor := newTorrent(t, 16, []string{"n/a", "n/empty"}, []int64{40, 0})
	noLinks := func(string, string) error { return syscall.EPERM }
	tests := []struct {
		name string
		when func(t *testing.T, s *Files, take func())
	}{
		{"before the first write", func(t *testing.T, s *Files, take func()) {
			take()
			_, err := s.WriteAt(tor.piece(0), 0)
			wantConflict(t, err)
		}},
		{"before the last piece", func(t *testing.T, s *Files, take func()) {
			tor.write(t, s, 0, 1)
			if _, err := s.WriteAt(tor.piece(2), 32); err != nil {
				t.Fatal(err)
			}
			take()
			wantConflict(t, s.Verified(2))
			wantConflict(t, s.Verified(2))
			wantConflict(t, s.Finish())
		}},
		{"between look and link", func(t *testing.T, s *Files, take func()) {
			tor.write(t, s, 0, 1)
			link := s.link
			s.link = func(o, n string) error { take(); return link(o, n) }
			if _, err := s.WriteAt(tor.piece(2), 32); err != nil {
				t.Fatal(err)
			}
			wantConflict(t, s.Verified(2))
		}},
		{"without links", func(t *testing.T, s *Files, take func()) {
			tor.write(t, s, 0, 1)
			s.link = func(o, n string) error { take(); return noLinks(o, n) }
			if _, err := s.WriteAt(tor.piece(2), 32); err != nil {
				t.Fatal(err)
			}
			wantConflict(t, s.Verified(2))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := tor.open(t, dir, Options{})
			theirs := []byte("somebody else's")
			taken := filepath.Join(dir, "n", "a")
			tt.when(t, s, func() { writeFile(t, taken, theirs) })
			wantFile(t, taken, theirs)
			part := taken + ".part"
			if _, err := os.Stat(part); err == nil {
				wantFile(t, part, tor.content(t, "n/a"))
				// Once it is out of the way, the download finishes.
				if err := os.Rename(taken, taken+".moved"); err != nil {
					t.Fatal(err)
				}
				s.link = s.root.Link
				if err := s.Finish(); err != nil {
					t.Errorf("finish: %v", err)
				}
				wantFile(t, taken, tor.content(t, "n/a"))
				wantFile(t, taken+".moved", theirs)
				wantMissing(t, part)
			}
		})
	}
}

func wantConflict(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
}

// Whoever creates the final name first keeps it, however close the race.
func TestFinalNameRace(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a"}, []int64{16})
	theirs := []byte("theirs")
	won := 0
	for range 100 {
		dir := t.TempDir()
		s := tor.open(t, dir, Options{})
		if _, err := s.WriteAt(tor.data, 0); err != nil {
			t.Fatal(err)
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		var theirErr, ourErr error
		wg.Go(func() {
			<-start
			var f *os.File
			f, theirErr = os.OpenFile(filepath.Join(dir, "a"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
			if theirErr == nil {
				_, theirErr = f.Write(theirs)
				theirErr = errors.Join(theirErr, f.Close())
			}
		})
		wg.Go(func() {
			<-start
			ourErr = s.Verified(0)
		})
		close(start)
		wg.Wait()
		switch {
		case ourErr == nil && errors.Is(theirErr, fs.ErrExist):
			won++
			wantFile(t, filepath.Join(dir, "a"), tor.data)
		case theirErr == nil && errors.Is(ourErr, ErrConflict):
			wantFile(t, filepath.Join(dir, "a"), theirs)
			wantFile(t, filepath.Join(dir, "a.part"), tor.data)
		default:
			t.Fatalf("we: %v, they: %v", ourErr, theirErr)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("we won %d of 100 races", won)
}

func TestWithoutLinks(t *testing.T) {
	tor := newTorrent(t, 16, []string{"n/a", "n/b"}, []int64{40, 3})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	s.link = func(string, string) error { return syscall.ENOSYS }
	tor.writeAll(t, s)
	wantTree(t, dir, "n/ n/a n/b")
	wantFile(t, filepath.Join(dir, "n", "a"), tor.content(t, "n/a"))
}

func TestUnsafePaths(t *testing.T) {
	tests := [][]string{
		nil, {}, {""}, {"."}, {".."}, {"a", ".."}, {"..", "a"}, {"a", "", "b"}, {"a", "..", "..", "b"},
		{"/etc"}, {"a/b"}, {"a/../../b"}, {"/"}, {"a\x00b"},
	}
	if runtime.GOOS == "windows" {
		tests = append(tests, []string{`a\b`}, []string{`C:`}, []string{`C:\x`}, []string{"NUL"}, []string{"a", "COM1"})
	}
	geom, err := bt.NewGeometry(1, 16)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tests {
		dir := filepath.Join(t.TempDir(), "d")
		s, err := OpenFiles(dir, []File{{Path: path, Length: 1}}, geom, Options{})
		if !errors.Is(err, ErrUnsafePath) {
			t.Errorf("%q: %v, want ErrUnsafePath", path, err)
		}
		if err == nil {
			s.Close()
		}
		wantMissing(t, dir)
	}
}

func TestImpossibleLists(t *testing.T) {
	tests := []struct {
		name   string
		files  []File
		wantIs error
	}{
		{"too short", []File{{Path: []string{"a"}, Length: 9}}, ErrRange},
		{"too long", []File{{Path: []string{"a"}, Length: 11}}, ErrRange},
		{"negative", []File{{Path: []string{"a"}, Length: -1}, {Path: []string{"b"}, Length: 11}}, ErrRange},
		{"overflowing", []File{{Path: []string{"a"}, Length: 1<<63 - 1}, {Path: []string{"b"}, Length: 1<<63 - 1}}, ErrRange},
		{"none", nil, ErrRange},
		{"twice", []File{{Path: []string{"a"}, Length: 5}, {Path: []string{"a"}, Length: 5}}, ErrUnsafePath},
		{"file and folder", []File{{Path: []string{"a"}, Length: 5}, {Path: []string{"a", "b"}, Length: 5}}, ErrUnsafePath},
	}
	geom, err := bt.NewGeometry(10, 16)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		if _, err := OpenFiles(t.TempDir(), tt.files, geom, Options{}); !errors.Is(err, tt.wantIs) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.wantIs)
		}
	}
	if _, err := OpenFiles(t.TempDir(), nil, bt.Geometry{}, Options{}); err == nil {
		t.Error("a torrent without geometry was opened")
	}
}

// Links that lead out of the folder are not followed: not at open, and not if they appear later.
func TestLinksOutOfTheFolder(t *testing.T) {
	tor := newTorrent(t, 16, []string{"n/a"}, []int64{40})
	link := func(t *testing.T, target, path string) {
		t.Helper()
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("folder", func(t *testing.T) {
		outside, dir := t.TempDir(), t.TempDir()
		link(t, outside, filepath.Join(dir, "n"))
		if _, err := OpenFiles(dir, tor.files, tor.geom, Options{}); err == nil {
			t.Error("opened through a link")
		}
		wantTree(t, outside, "")
	})
	t.Run("folder, later", func(t *testing.T) {
		outside, dir := t.TempDir(), t.TempDir()
		s := tor.open(t, dir, Options{})
		link(t, outside, filepath.Join(dir, "n"))
		if _, err := s.WriteAt(tor.data, 0); err == nil {
			t.Error("written through a link")
		}
		wantTree(t, outside, "")
	})
	t.Run("folder, relative", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		outside := filepath.Join(parent, "out")
		for _, d := range []string{dir, outside} {
			if err := os.Mkdir(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		link(t, filepath.Join("..", "out"), filepath.Join(dir, "n"))
		if _, err := OpenFiles(dir, tor.files, tor.geom, Options{}); err == nil {
			t.Error("opened through a link")
		}
		wantTree(t, outside, "")
	})
	t.Run("part, later", func(t *testing.T) {
		// The part is exchanged for a link to a file of the user's in the same folder, which os.Root
		// alone would follow.
		dir := t.TempDir()
		s := tor.open(t, dir, Options{OpenFiles: -1})
		if _, err := s.WriteAt(tor.piece(0), 0); err != nil {
			t.Fatal(err)
		}
		part := filepath.Join(dir, "n", "a.part")
		precious := filepath.Join(dir, "precious")
		writeFile(t, precious, []byte("precious"))
		if err := os.Remove(part); err != nil {
			t.Fatal(err)
		}
		link(t, filepath.Join("..", "precious"), part)
		_, err := s.WriteAt(tor.piece(1), 16)
		wantConflict(t, err)
		if !strings.Contains(err.Error(), "is a symbolic link") {
			t.Errorf("%q does not say that it is a link", err)
		}
		_, err = s.ReadAt(make([]byte, 4), 0)
		wantConflict(t, err)
		wantFile(t, precious, []byte("precious"))
	})
}

func TestPartReplacedWhileOpen(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a"}, []int64{16})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	if _, err := s.WriteAt(tor.data, 0); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "a.part")
	if err := os.Rename(part, part+".moved"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, part, make([]byte, 16))
	wantConflict(t, s.Verified(0))
	wantMissing(t, filepath.Join(dir, "a"))
	wantFile(t, part, make([]byte, 16))
}

func TestPartNames(t *testing.T) {
	long := strings.Repeat("ü", 127) // 254 bytes
	names := []string{"a", "a.part", "b", "B.PART", "d", "d.part/x", "n/" + long, "n/" + long + "1", "n/x.part", "x"}
	tor := newTorrent(t, 1<<10, names, []int64{3, 3, 3, 3, 3, 3, 3, 3, 3, 3})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	want := []string{
		"a.part2", "a.part.part", "b.part2", "B.PART.part", "d.part2", "d.part/x.part",
		"n/" + strings.Repeat("ü", 125) + ".part", "n/" + strings.Repeat("ü", 124) + ".part2", "n/x.part.part", "x.part",
	}
	for i, f := range s.files {
		if got := filepath.ToSlash(f.part); got != want[i] {
			t.Errorf("%s: part %s, want %s", names[i], got, want[i])
		}
		if n := len(filepath.Base(f.part)); n > maxNameBytes {
			t.Errorf("%s: part name of %d bytes", names[i], n)
		}
	}
	if _, err := s.WriteAt(tor.data, 0); err != nil {
		t.Fatal(err)
	}
	for i, part := range want {
		wantFile(t, filepath.Join(dir, part), tor.data[3*i:3*i+3])
	}
	if err := s.Verified(0); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		wantFile(t, filepath.Join(dir, name), tor.data[3*i:3*i+3])
	}
	wantTree(t, dir, "B.PART a a.part b d d.part/ d.part/x n/ n/x.part n/"+long+" n/"+long+"1 x")
}

func TestReadOnly(t *testing.T) {
	tor := newTorrent(t, 16, []string{"n/a", "n/empty", "n/b"}, []int64{20, 0, 30})
	fill := func(t *testing.T) string {
		dir := t.TempDir()
		for _, name := range []string{"n/a", "n/empty", "n/b"} {
			writeFile(t, filepath.Join(dir, name), tor.content(t, name))
		}
		return dir
	}
	t.Run("serves", func(t *testing.T) {
		dir := fill(t)
		s := tor.open(t, dir, Options{ReadOnly: true})
		have, err := VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
		if err != nil || !have.Full() {
			t.Fatalf("%d pieces, %v", have.Count(), err)
		}
		for _, p := range [][]byte{tor.data[:3], []byte("xyz")} {
			if _, err := s.WriteAt(p, 0); !errors.Is(err, ErrReadOnly) {
				t.Errorf("write: %v, want ErrReadOnly", err)
			}
		}
		if err := s.Finish(); err != nil {
			t.Errorf("finish: %v", err)
		}
		if err := s.Sync(); err != nil {
			t.Errorf("sync: %v", err)
		}
		wantTree(t, dir, "n/ n/a n/b n/empty")
	})
	t.Run("leaves parts alone", func(t *testing.T) {
		dir := fill(t)
		if err := os.Link(filepath.Join(dir, "n/a"), filepath.Join(dir, "n/a.part")); err != nil {
			t.Fatal(err)
		}
		tor.open(t, dir, Options{ReadOnly: true})
		wantTree(t, dir, "n/ n/a n/a.part n/b n/empty")
	})
	for _, name := range []string{"n/a", "n/empty", "n/b"} {
		t.Run("missing "+filepath.Base(name), func(t *testing.T) {
			dir := fill(t)
			path := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			_, err := OpenFiles(dir, tor.files, tor.geom, Options{ReadOnly: true})
			if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want that %s does not exist", err, path)
			}
			wantMissing(t, path)
		})
	}
	t.Run("other size", func(t *testing.T) {
		dir := fill(t)
		writeFile(t, filepath.Join(dir, "n/b"), []byte("short"))
		_, err := OpenFiles(dir, tor.files, tor.geom, Options{ReadOnly: true})
		wantConflict(t, err)
	})
	t.Run("no folder", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "nowhere")
		if _, err := OpenFiles(dir, tor.files, tor.geom, Options{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, want fs.ErrNotExist", err)
		}
		wantMissing(t, dir)
	})
}

// A file that shrinks while it is seeded is an error, not the end of the torrent.
func TestFileShrinks(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a"}, []int64{40})
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), tor.data)
	s := tor.open(t, dir, Options{ReadOnly: true})
	if err := os.Truncate(filepath.Join(dir, "a"), 10); err != nil {
		t.Fatal(err)
	}
	n, err := s.ReadAt(make([]byte, 40), 0)
	if n != 10 || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), filepath.Join(dir, "a")) {
		t.Errorf("%d, %v, want 10 bytes and io.ErrUnexpectedEOF about the file", n, err)
	}
}

func TestFolderCannotBeCreated(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), nil)
	tor := newTorrent(t, 16, []string{"a"}, []int64{1})
	_, err := OpenFiles(filepath.Join(dir, "file", "sub"), tor.files, tor.geom, Options{})
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "file")) {
		t.Errorf("%v, want an error about the file", err)
	}
}

// countingFile counts the handles that are open.
type countingFile struct {
	diskFile
	mu         *sync.Mutex
	open, most *int
}

func (c countingFile) Close() error {
	c.mu.Lock()
	*c.open--
	c.mu.Unlock()
	return c.diskFile.Close()
}

func TestOpenFilesAreBounded(t *testing.T) {
	var names []string
	var lengths []int64
	for i := range 50 {
		names, lengths = append(names, fmt.Sprintf("f%02d", i)), append(lengths, 32)
	}
	tor := newTorrent(t, 32, names, lengths)
	for _, limit := range []int{-1, 1, 4} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range names { // parts, so that every handle goes through open below
				writeFile(t, filepath.Join(dir, name+".part"), nil)
			}
			s := tor.open(t, dir, Options{OpenFiles: limit})
			var mu sync.Mutex
			open, most, opened := 0, 0, 0
			s.handles.open = func(f *file) (diskFile, error) {
				d, err := s.openFile(f)
				if err != nil {
					return nil, err
				}
				mu.Lock()
				defer mu.Unlock()
				open, opened = open+1, opened+1
				most = max(most, open)
				return countingFile{d, &mu, &open, &most}, nil
			}
			const callers = 3
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					for i := c; i < len(names); i += callers {
						if _, err := s.WriteAt(tor.piece(i), tor.geom.PieceStart(bt.PieceIndex(i))); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if got := open; got != max(limit, 0) {
				t.Errorf("%d files open at rest, want %d", got, max(limit, 0))
			}
			if most > max(limit, 0)+callers {
				t.Errorf("%d files open at once, want at most %d", most, max(limit, 0)+callers)
			}
			// The most recently used stay open.
			before := opened
			for range 3 {
				if _, err := s.ReadAt(make([]byte, 32), 0); err != nil {
					t.Error(err)
				}
			}
			if got, want := opened-before, 1; limit > 0 && got != want {
				t.Errorf("file 0 was opened %d times for 3 reads, want %d", got, want)
			}
			for i := range names {
				p := make([]byte, 32)
				if _, err := s.ReadAt(p, int64(i)*32); err != nil || !bytes.Equal(p, tor.piece(i)) {
					t.Errorf("file %d: %v, or other bytes", i, err)
				}
			}
			if err := s.Close(); err != nil || open != 0 {
				t.Errorf("close: %v, %d files open", err, open)
			}
		})
	}
}

// The file that was used longest ago is closed first, not the one that was opened first.
func TestRecentlyUsedStaysOpen(t *testing.T) {
	tor := newTorrent(t, 8, []string{"a", "b", "c"}, []int64{8, 8, 8})
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		writeFile(t, filepath.Join(dir, name), tor.content(t, name))
	}
	s := tor.open(t, dir, Options{OpenFiles: 2})
	var opened strings.Builder
	s.handles.open = func(f *file) (diskFile, error) {
		opened.WriteString(f.name)
		return s.openFile(f)
	}
	for _, i := range []int64{0, 1, 0, 2, 0, 1} {
		if _, err := s.ReadAt(make([]byte, 8), i*8); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := opened.String(), "abcb"; got != want {
		t.Errorf("opened %s, want %s", got, want)
	}
}

// Many writers, readers and verifiers at once, over files that become final meanwhile and few handles.
func TestConcurrentUse(t *testing.T) {
	var names []string
	var lengths []int64
	for i := range 40 {
		names, lengths = append(names, fmt.Sprintf("d%d/f%02d", i%3, i)), append(lengths, int64(i*i*7%4000))
	}
	tor := newTorrent(t, 1000, names, lengths)
	dir := t.TempDir()
	s := tor.open(t, dir, Options{OpenFiles: 3})
	work := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range work {
				start := tor.geom.PieceStart(bt.PieceIndex(i))
				want := tor.piece(i)
				for at := 0; at < len(want); at += 100 {
					if _, err := s.WriteAt(want[at:min(at+100, len(want))], start+int64(at)); err != nil {
						t.Error(err)
					}
				}
				got := make([]byte, len(want))
				if _, err := s.ReadAt(got, start); err != nil || !bytes.Equal(got, want) {
					t.Errorf("piece %d: %v, or other bytes", i, err)
				}
				if err := s.Verified(bt.PieceIndex(i)); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					if err := s.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(tor.geom.NumPieces()) {
		work <- i
	}
	close(work)
	wg.Wait()
	for _, name := range names {
		wantFile(t, filepath.Join(dir, name), tor.content(t, name))
	}
	if strings.Contains(tree(t, dir), ".part") {
		t.Errorf("parts are left: %s", tree(t, dir))
	}
}

func TestCloseDuringUse(t *testing.T) {
	tor := newTorrent(t, 100, []string{"a", "b"}, []int64{5000, 5000})
	s := tor.open(t, t.TempDir(), Options{OpenFiles: 1})
	var wg, begun sync.WaitGroup
	for g := range 4 {
		begun.Add(1)
		wg.Go(func() {
			first := sync.OnceFunc(begun.Done)
			defer first()
			for i := g; ; i = (i + 4) % tor.geom.NumPieces() {
				_, err := s.WriteAt(tor.piece(i), tor.geom.PieceStart(bt.PieceIndex(i)))
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				first()
			}
		})
	}
	begun.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// faultyFile fails where told to.
type faultyFile struct {
	diskFile
	fail *faults
}

type faults struct{ write, sync, close, read, stat error }

func (f faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if f.fail.read != nil {
		return 0, f.fail.read
	}
	return f.diskFile.ReadAt(p, off)
}

func (f faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fail.write != nil {
		n, _ := f.diskFile.WriteAt(p[:len(p)/2], off)
		return n, f.fail.write
	}
	return f.diskFile.WriteAt(p, off)
}

func (f faultyFile) Sync() error {
	if f.fail.sync != nil {
		return f.fail.sync
	}
	return f.diskFile.Sync()
}

func (f faultyFile) Close() error { return errors.Join(f.diskFile.Close(), f.fail.close) }

func (f faultyFile) Stat() (fs.FileInfo, error) {
	if f.fail.stat != nil {
		return nil, f.fail.stat
	}
	return f.diskFile.Stat()
}

func openFaulty(t *testing.T, tor *torrent, dir string, fail *faults) *Files {
	t.Helper()
	writeFile(t, filepath.Join(dir, "a.part"), nil) // so that the handle goes through open below
	s, err := OpenFiles(dir, tor.files, tor.geom, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.handles.open = func(f *file) (diskFile, error) {
		d, err := s.openFile(f)
		if err != nil {
			return nil, err
		}
		return faultyFile{d, fail}, nil
	}
	return s
}

func TestDiskErrors(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a"}, []int64{16})
	wantErr := func(t *testing.T, err, is error, path string) {
		t.Helper()
		if !errors.Is(err, is) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %v about %s", err, is, path)
		}
	}
	t.Run("full", func(t *testing.T) {
		dir := t.TempDir()
		part := filepath.Join(dir, "a.part")
		fail := &faults{write: &fs.PathError{Op: "write", Path: "a.part", Err: syscall.ENOSPC}}
		s := openFaulty(t, tor, dir, fail)
		n, err := s.WriteAt(tor.data, 0)
		wantErr(t, err, syscall.ENOSPC, part)
		if n != 8 {
			t.Errorf("%d bytes written, want 8", n)
		}
		fail.write = nil // space again
		tor.write(t, s, 0)
		wantFile(t, filepath.Join(dir, "a"), tor.data)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("sync", func(t *testing.T) {
		dir := t.TempDir()
		part := filepath.Join(dir, "a.part")
		fail := &faults{sync: syscall.EIO}
		s := openFaulty(t, tor, dir, fail)
		if _, err := s.WriteAt(tor.data, 0); err != nil {
			t.Fatal(err)
		}
		wantErr(t, s.Sync(), syscall.EIO, part)
		wantErr(t, s.Sync(), syscall.EIO, part)
		wantErr(t, s.Verified(0), syscall.EIO, part)
		wantMissing(t, filepath.Join(dir, "a"))
		fail.sync = nil
		if err := s.Sync(); err != nil {
			t.Error(err)
		}
		if err := s.Verified(0); err != nil {
			t.Error(err)
		}
		wantFile(t, filepath.Join(dir, "a"), tor.data)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("close", func(t *testing.T) {
		dir := t.TempDir()
		part := filepath.Join(dir, "a.part")
		fail := &faults{close: syscall.EDQUOT}
		s := openFaulty(t, tor, dir, fail)
		s.handles.limit = 0
		if _, err := s.WriteAt(tor.data, 0); err != nil {
			t.Fatal(err)
		}
		// The handle was evicted and the write lost: the file must not be believed again.
		wantErr(t, s.Sync(), syscall.EDQUOT, part)
		wantErr(t, s.Verified(0), syscall.EDQUOT, part)
		wantMissing(t, filepath.Join(dir, "a"))
		if err := s.Close(); err != nil {
			t.Errorf("close with nothing open: %v", err)
		}
	})
	t.Run("close at the end", func(t *testing.T) {
		dir := t.TempDir()
		s := openFaulty(t, tor, dir, &faults{close: syscall.EDQUOT})
		if _, err := s.WriteAt(tor.data, 0); err != nil {
			t.Fatal(err)
		}
		wantErr(t, s.Close(), syscall.EDQUOT, filepath.Join(dir, "a"))
	})
	t.Run("read", func(t *testing.T) {
		dir := t.TempDir()
		s := openFaulty(t, tor, dir, &faults{read: syscall.EIO})
		_, err := s.ReadAt(make([]byte, 4), 0)
		wantErr(t, err, syscall.EIO, filepath.Join(dir, "a.part"))
		// A disk that fails is not a piece that is missing.
		_, err = VerifyPieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
		wantErr(t, err, syscall.EIO, filepath.Join(dir, "a.part"))
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("stat", func(t *testing.T) {
		dir := t.TempDir()
		s := openFaulty(t, tor, dir, &faults{stat: syscall.EIO})
		if _, err := s.WriteAt(tor.data, 0); err != nil {
			t.Fatal(err)
		}
		wantErr(t, s.Verified(0), syscall.EIO, filepath.Join(dir, "a.part"))
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSyncThenReopen(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a", "b"}, []int64{32, 32})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{OpenFiles: -1})
	if _, err := s.WriteAt(tor.data[:60], 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(dir, "a.part"), tor.data[:32])
	wantFile(t, filepath.Join(dir, "b.part"), tor.data[32:60])
}

func BenchmarkWriteAt16K(b *testing.B) {
	tor := newTorrent(b, 256<<10, []string{"a"}, []int64{64 << 20})
	for _, backend := range []string{"files", "memory"} {
		b.Run(backend, func(b *testing.B) {
			var s Storage = NewMemory(tor.geom)
			if backend == "files" {
				s = tor.open(b, b.TempDir(), Options{})
			}
			b.SetBytes(bt.BlockBytes)
			b.ReportAllocs()
			var off int64
			for b.Loop() {
				if _, err := s.WriteAt(tor.data[off:off+bt.BlockBytes], off); err != nil {
					b.Fatal(err)
				}
				off = (off + bt.BlockBytes) % int64(len(tor.data))
			}
		})
	}
}

func BenchmarkReadAt16K(b *testing.B) {
	tor := newTorrent(b, 256<<10, []string{"a"}, []int64{64 << 20})
	s := tor.open(b, b.TempDir(), Options{})
	tor.writeAll(b, s)
	b.SetBytes(bt.BlockBytes)
	b.ReportAllocs()
	p := make([]byte, bt.BlockBytes)
	var off int64
	for b.Loop() {
		if _, err := s.ReadAt(p, off); err != nil {
			b.Fatal(err)
		}
		off = (off + bt.BlockBytes) % int64(len(tor.data))
	}
}
