package storage

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/resume"
)

var testHash = bt.InfoHash{0xab, 19: 0xcd}

const resumeName = ".ab000000000000000000000000000000000000cd.parley-resume"

var remember = Options{RememberComplete: true, InfoHash: testHash}

// resumeAll opens the torrent's files and finds out what is there. It returns how many bytes that took to read.
func (tor *torrent) resumeAll(t *testing.T, dir string, o Options) (s *Files, have *bitfield.Set, read int64) {
	t.Helper()
	s = tor.open(t, dir, o)
	c := &counting{Files: s}
	have, err := ResumePieces(t.Context(), c, tor.geom, V1Hashes(tor.hashes), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, have, c.read
}

// counting counts what is read.
type counting struct {
	*Files
	mu   sync.Mutex
	read int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Files.ReadAt(p, off)
	c.mu.Lock()
	c.read += int64(n)
	c.mu.Unlock()
	return n, err
}

func members(s *bitfield.Set) []int { return slices.Collect(s.All()) }

func wantPieces(t *testing.T, what string, got *bitfield.Set, want ...int) {
	t.Helper()
	if !slices.Equal(members(got), want) {
		t.Errorf("%s: pieces %v, want %v", what, members(got), want)
	}
}

func closeStorage(t *testing.T, s Storage) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// kill lets go of the folder as the end of the process does: nothing is saved.
func kill(t *testing.T, s *Files) {
	t.Helper()
	if err := errors.Join(s.keep.close(), s.handles.closeAll(), s.root.Close()); err != nil {
		t.Fatal(err)
	}
	s.closed = true
}

func resumeTorrent(t *testing.T) *torrent {
	return newTorrent(t, 100, []string{"n/a", "n/empty", "n/b", "n/c"}, []int64{450, 0, 1000, 550}) // 20 pieces; 4 and 14 lie in two files
}

func TestResumeReadsNothing(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, have, _ := tor.resumeAll(t, dir, remember)
	wantPieces(t, "at first", have)
	tor.write(t, s, 0, 1, 2, 3, 4, 9)
	closeStorage(t, s)
	wantTree(t, dir, resumeName+" n/ n/a n/b.part")

	s, have, read := tor.resumeAll(t, dir, remember)
	wantPieces(t, "again", have, 0, 1, 2, 3, 4, 9)
	if read != 0 {
		t.Errorf("%d bytes were read", read)
	}
	before, err := os.ReadFile(filepath.Join(dir, resumeName))
	if err != nil {
		t.Fatal(err)
	}
	closeStorage(t, s)
	wantFile(t, filepath.Join(dir, resumeName), before) // nothing was new

	s, _, _ = tor.resumeAll(t, dir, remember)
	for i := range 20 {
		if !have.Has(i) {
			tor.write(t, s, i)
		}
	}
	closeStorage(t, s)
	s, have, read = tor.resumeAll(t, dir, remember)
	if !have.Full() || read != 0 {
		t.Errorf("%d pieces after %d bytes were read", have.Count(), read)
	}
	wantTree(t, dir, resumeName+" n/ n/a n/b n/c n/empty")
	closeStorage(t, s)
}

// Nothing is left beside a complete download, whenever it became complete, unless that is asked for.
func TestCompleteLeavesNothing(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	forget := Options{InfoHash: testHash}
	s, _, _ := tor.resumeAll(t, dir, forget)
	tor.write(t, s, 0, 1, 2)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for i := 3; i < 20; i++ {
		tor.write(t, s, i)
	}
	wantTree(t, dir, "n/ n/a n/b n/c n/empty")
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, "n/ n/a n/b n/c n/empty")
	closeStorage(t, s)
	s, have, read := tor.resumeAll(t, dir, forget)
	if !have.Full() || read != 2000 {
		t.Errorf("%d pieces after %d bytes were read, want all after 2000", have.Count(), read)
	}
	closeStorage(t, s)
	wantTree(t, dir, "n/ n/a n/b n/c n/empty")
	s, _, _ = tor.resumeAll(t, dir, remember) // one run remembers, the next cleans up
	closeStorage(t, s)
	wantTree(t, dir, resumeName+" n/ n/a n/b n/c n/empty")
	s, _, _ = tor.resumeAll(t, dir, forget)
	closeStorage(t, s)
	wantTree(t, dir, "n/ n/a n/b n/c n/empty")
}

func TestResumeAfterKill(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, remember)
	tor.write(t, s, 0, 1, 2, 3, 4, 9)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	tor.write(t, s, 10, 19)
	if _, err := s.WriteAt(tor.piece(12)[:50], 1200); err != nil { // never verified
		t.Fatal(err)
	}
	kill(t, s)

	s = tor.open(t, dir, remember)
	trusted, check, err := s.Resume()
	if err != nil {
		t.Fatal(err)
	}
	wantPieces(t, "trusted", trusted, 0, 1, 2, 3, 4, 9)
	wantPieces(t, "to be read", check, 10, 19)
	kill(t, s) // in the middle of the verification: it begins anew

	s, have, read := tor.resumeAll(t, dir, remember)
	wantPieces(t, "in the end", have, 0, 1, 2, 3, 4, 9, 10, 19)
	if read != 200 {
		t.Errorf("%d bytes were read, want 200", read)
	}
	kill(t, s) // what was found is saved
	s, have, read = tor.resumeAll(t, dir, remember)
	wantPieces(t, "once more", have, 0, 1, 2, 3, 4, 9, 10, 19)
	if read != 0 {
		t.Errorf("%d bytes were read, want 0", read)
	}
	closeStorage(t, s)
}

// A file gets its name when it is complete even if the process ended just before.
func TestResumeFinalises(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, remember)
	s.link = func(string, string) error { return syscall.EIO }
	s.root = noRename{s.root, func(name string) bool { return name == filepath.Join("n", "a.part") }}
	tor.write(t, s, 0, 1, 2, 3)
	if _, err := s.WriteAt(tor.piece(4), 400); err != nil {
		t.Fatal(err)
	}
	if err := s.Verified(4); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v, want EIO", err)
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	kill(t, s)
	wantTree(t, dir, resumeName+" n/ n/a.part n/b.part")
	s, have, read := tor.resumeAll(t, dir, remember)
	wantPieces(t, "have", have, 0, 1, 2, 3, 4)
	if read != 0 {
		t.Errorf("%d bytes were read", read)
	}
	wantTree(t, dir, resumeName+" n/ n/a n/b.part")
	closeStorage(t, s)
}

// noRename is a folder in which some names cannot be renamed.
type noRename struct {
	folder
	fails func(name string) bool
}

func (f noRename) Rename(o, n string) error {
	if f.fails(o) {
		return syscall.EIO
	}
	return f.folder.Rename(o, n)
}

// Whatever somebody does to the files, what changed is read again, and only that.
func TestResumeNoticesChanges(t *testing.T) {
	later := time.Now().Add(time.Hour)
	flip := func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		writeFile(t, path, b)
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	all := []int{0, 1, 2, 3, 4, 5, 9}
	tests := []struct {
		name   string
		change func(t *testing.T, dir string)
		check  []int // what is read again; nil is all
		want   []int
	}{
		{"nothing", func(*testing.T, string) {}, []int{}, all},
		{"a final file is changed", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "n", "a")) }, []int{0, 1, 2, 3, 4}, []int{1, 2, 3, 4, 5, 9}},
		{"a part is changed", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "n", "b.part")) }, []int{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, []int{0, 1, 2, 3, 5, 9}},
		{"a part is cut", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "n", "b.part"), 300); err != nil {
				t.Fatal(err)
			}
		}, []int{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, []int{0, 1, 2, 3, 4, 5}},
		{"a part vanishes", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "n", "b.part")); err != nil {
				t.Fatal(err)
			}
		}, []int{4, 5, 9}, []int{0, 1, 2, 3}},
		{"a final file vanishes", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "n", "a")); err != nil {
				t.Fatal(err)
			}
		}, []int{0, 1, 2, 3, 4}, []int{5, 9}},
		{"a file appears", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "n", "c"), bytes.Repeat([]byte{7}, 550))
		}, []int{14, 15, 16, 17, 18, 19}, all},
		{"the resume data vanishes", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, resumeName)); err != nil {
				t.Fatal(err)
			}
		}, nil, all},
		{"the resume data is damaged", func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, resumeName))
			if err != nil {
				t.Fatal(err)
			}
			b[60] ^= 4
			writeFile(t, filepath.Join(dir, resumeName), b)
		}, nil, all},
		{"the resume data is endless", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, resumeName), 1<<40); err != nil {
				t.Fatal(err)
			}
		}, nil, all},
		{"the resume data is a link", func(t *testing.T, dir string) {
			name := filepath.Join(dir, resumeName)
			if err := errors.Join(os.Rename(name, name+".elsewhere"), os.Symlink(resumeName+".elsewhere", name)); err != nil {
				t.Fatal(err)
			}
		}, nil, all},
		// Claims that the files are too short for are not believed, whoever made them.
		{"the resume data claims too much", func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, resumeName))
			if err != nil {
				t.Fatal(err)
			}
			d, _, _, err := resume.Parse(b, testHash, bt.Geometry{TotalBytes: 2000, PieceBytes: 100}, 5)
			if err != nil {
				t.Fatal(err)
			}
			d.Have.Fill()
			b, _ = resume.Append(nil, d)
			writeFile(t, filepath.Join(dir, resumeName), b)
		}, []int{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tor, dir := resumeTorrent(t), t.TempDir()
			s, _, _ := tor.resumeAll(t, dir, remember)
			tor.write(t, s, all...)
			closeStorage(t, s)
			tt.change(t, dir)
			s = tor.open(t, dir, remember)
			trusted, check, err := s.Resume()
			if err != nil {
				t.Fatal(err)
			}
			if tt.check == nil {
				if !check.Full() || trusted.Count() != 0 {
					t.Errorf("trusted %v, to be read %v, want all to be read", members(trusted), members(check))
				}
			} else {
				wantPieces(t, "to be read", check, tt.check...)
			}
			found, err := Verify(t.Context(), s, tor.geom, V1Hashes(tor.hashes), VerifyOptions{Pieces: check})
			if err != nil {
				t.Fatal(err)
			}
			for i := range trusted.All() {
				found.Add(i)
			}
			wantPieces(t, "in the end", found, tt.want...)
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			closeStorage(t, s)
			if fi, err := os.Lstat(filepath.Join(dir, resumeName)); err != nil || !fi.Mode().IsRegular() || fi.Size() > 1000 {
				t.Errorf("the resume data afterwards: %v, %v", fi, err)
			}
		})
	}
}

// The journal says when we were at work, and a part that changed at another time is read again.
func TestResumeNoticesChangesAfterKill(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, remember)
	clock := time.Now()
	s.keep.now = func() time.Time { return clock }
	tor.write(t, s, 6, 7)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "n", "b.part")
	// A long pause, and on: the part's new time is explained.
	clock = clock.Add(3 * time.Hour)
	if _, err := s.WriteAt(tor.piece(8), 800); err != nil {
		t.Fatal(err)
	}
	kill(t, s)
	set := func(at time.Time) {
		t.Helper()
		if err := os.Chtimes(part, at, at); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want ...int) {
		t.Helper()
		s := tor.open(t, dir, remember)
		_, check, err := s.Resume()
		if err != nil {
			t.Fatal(err)
		}
		wantPieces(t, "to be read", check, want...)
		kill(t, s)
	}
	set(clock.Add(time.Second))
	check()
	set(clock.Add(resume.Grace + time.Second))
	check(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
}

// Verified saves by itself before too much would have to be read again.
func TestMaxUnsavedBytes(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	o := remember
	o.MaxUnsavedBytes = 300
	for want := range 20 {
		s, have, read := tor.resumeAll(t, dir, o)
		if have.Count() < want || read > 300 {
			t.Fatalf("%d pieces with %d bytes read, want %d with at most 300", have.Count(), read, want)
		}
		for i := range 20 {
			if i < want+7 && !have.Has(i) {
				tor.write(t, s, i)
			}
		}
		kill(t, s)
	}
}

func TestForget(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, remember)
	tor.write(t, s, 6, 7, 8)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAt([]byte("wrong"), 720); err != nil {
		t.Fatal(err)
	}
	good, err := Verify(t.Context(), s, tor.geom, V1Hashes(tor.hashes), VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantPieces(t, "right", good, 6, 8)
	closeStorage(t, s)
	s, have, _ := tor.resumeAll(t, dir, remember)
	wantPieces(t, "afterwards", have, 6, 8)
	if err := s.Forget(20); !errors.Is(err, ErrRange) {
		t.Errorf("%v, want ErrRange", err)
	}
	// What is forgotten and written again counts once.
	tor.write(t, s, 7, 4, 5, 9, 10, 11, 12, 13, 14)
	wantFile(t, filepath.Join(dir, "n", "b"), tor.content(t, "n/b"))
	closeStorage(t, s)
}

// A verification that was stopped must not take the place of what is saved.
func TestStoppedVerificationSavesNothing(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, remember)
	tor.write(t, s, 0, 1, 6, 7)
	kill(t, s)
	s = tor.open(t, dir, remember)
	if _, _, err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	closeStorage(t, s)
	_, have, _ := tor.resumeAll(t, dir, remember)
	wantPieces(t, "afterwards", have, 0, 1, 6, 7)
}

// The folder may be one in which nothing can be made: what is complete is still seeded, and the error says what is wrong.
func TestCheckpointFails(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, remember)
	tor.write(t, s, 6)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	tor.write(t, s, 7)
	good := s.root
	s.root = noRename{good, func(string) bool { return true }}
	s.keep.root = s.root
	pe := (*fs.PathError)(nil)
	if err := s.Checkpoint(); !errors.Is(err, syscall.EIO) || !errors.As(err, &pe) || pe.Path != filepath.Join(dir, resumeName+".new") {
		t.Fatalf("%v, want EIO about the resume data", err)
	}
	tor.write(t, s, 8)
	kill(t, s)
	_, have, read := tor.resumeAll(t, dir, remember)
	wantPieces(t, "afterwards", have, 6, 7, 8)
	if read != 200 {
		t.Errorf("%d bytes were read, want 200", read)
	}
	wantTree(t, dir, resumeName+" n/ n/b.part")
}

func TestNothingIsRememberedUnasked(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, Options{})
	tor.writeAll(t, s)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	closeStorage(t, s)
	s, have, read := tor.resumeAll(t, dir, Options{RememberComplete: true, InfoHash: testHash, ReadOnly: true})
	if !have.Full() || read != 2000 {
		t.Errorf("%d pieces after %d bytes, want 20 after 2000", have.Count(), read)
	}
	closeStorage(t, s)
	wantTree(t, dir, "n/ n/a n/b n/c n/empty")
}

// A torrent may have a file of any name.
func TestResumeNameIsFree(t *testing.T) {
	dir := t.TempDir()
	tor := newTorrent(t, 100, []string{resumeName, resumeName + "2.NEW"}, []int64{200, 100})
	s, _, _ := tor.resumeAll(t, dir, remember)
	tor.writeAll(t, s)
	closeStorage(t, s)
	wantTree(t, dir, resumeName+" "+resumeName+"2 "+resumeName+"2.NEW")
	wantFile(t, filepath.Join(dir, resumeName), tor.content(t, resumeName))
}

// Checkpoints and verifications at once.
func TestCheckpointWhileVerifying(t *testing.T) {
	tor, dir := newTorrent(t, 10, []string{"n/a", "n/b"}, []int64{3000, 5000}), t.TempDir()
	o := remember
	o.MaxUnsavedBytes = 500
	s, _, _ := tor.resumeAll(t, dir, o)
	var wg sync.WaitGroup
	const workers = 4
	for w := range workers {
		wg.Go(func() {
			for i := w; i < 700; i += workers {
				if _, err := s.WriteAt(tor.piece(i), int64(i)*10); err != nil {
					t.Error(err)
				}
				if err := s.Verified(bt.PieceIndex(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if err := s.Checkpoint(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	wg.Wait()
	close(stop)
	<-done
	kill(t, s)
	_, have, read := tor.resumeAll(t, dir, o)
	if have.Count() != 700 || read > 500+workers*10 {
		t.Errorf("%d pieces after %d bytes, want 700 after at most %d", have.Count(), read, 500+workers*10)
	}
}
