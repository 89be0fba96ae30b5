package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
)

// moving is a torrent with every odd kind of file: the files b and c share pieces with their neighbours.
func moving(t testing.TB) *torrent {
	return newTorrent(t, 16, []string{"n/a", "n/empty", "n/b", "", "n/sub/one", "n/sub/c"}, []int64{20, 0, 37, 7, 1, 50})
}

// noLinks is for file systems that have no links, or two of them.
func noLinks(string, string, string, string) error { return errors.ErrUnsupported }

// ways runs f with links and with copies.
func ways(t *testing.T, f func(t *testing.T, across func(from, name, to, tmp string) error)) {
	t.Run("linked", func(t *testing.T) { f(t, linkAcross) })
	t.Run("copied", func(t *testing.T) { f(t, noLinks) })
}

// wantAll makes sure that the pieces before n are there and right, and no others.
func (tor *torrent) wantFirst(t *testing.T, s Storage, n int) {
	t.Helper()
	for i := range tor.geom.NumPieces() {
		p := make([]byte, tor.geom.PieceLen(bt.PieceIndex(i)))
		_, err := s.ReadAt(p, tor.geom.PieceStart(bt.PieceIndex(i)))
		if right := err == nil && bytes.Equal(p, tor.piece(i)); right != (i < n) {
			t.Errorf("piece %d: right %v (%v), want the first %d", i, right, err, n)
		}
	}
}

// At every stage of a download everything moves, goes on in the new folder, and is known there the next time without being read.
func TestMove(t *testing.T) {
	ways(t, func(t *testing.T, across func(from, name, to, tmp string) error) {
		tor := moving(t)
		n := tor.geom.NumPieces()
		for have := range n + 1 {
			for _, wanted := range [][]bool{nil, {true, true, false, true, true, false}} {
				base := t.TempDir()
				from, to := filepath.Join(base, "from"), filepath.Join(base, "far", "to")
				o := remember
				o.Wanted = wanted
				s, _, _ := tor.resumeAll(t, from, o)
				s.linkAcross = across
				for i := range have {
					tor.write(t, s, i)
				}
				before := tree(t, from)
				if err := s.Move(t.Context(), to); err != nil {
					t.Fatalf("%d pieces: %v", have, err)
				}
				wantTree(t, from, "")
				if after := tree(t, to); after != before {
					t.Errorf("%d pieces: %q in the new folder, %q in the old", have, after, before)
				}
				tor.wantFirst(t, s, have)
				if have == n/2 { // and back
					if err := s.Move(t.Context(), from); err != nil {
						t.Fatal(err)
					}
					wantTree(t, to, "")
					if err := s.Move(t.Context(), to); err != nil {
						t.Fatal(err)
					}
				}
				if have < n {
					tor.write(t, s, have)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				again, found, read := tor.resumeAll(t, to, o)
				if found.Count() != min(have+1, n) || read != 0 {
					t.Errorf("%d pieces and one more: %d are found, %d bytes were read", have, found.Count(), read)
				}
				for i := range n {
					tor.write(t, again, i)
				}
				if wanted == nil {
					for _, f := range tor.files {
						if name := strings.Join(f.Path, "/"); name != "" {
							wantFile(t, filepath.Join(to, filepath.FromSlash(name)), tor.content(t, name))
						}
					}
				}
				if err := again.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// Resume data in a folder of the program's own speak of the new folder.
func TestMoveState(t *testing.T) {
	tor := moving(t)
	state, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	o := Options{InfoHash: testHash, State: state}
	from, to := t.TempDir(), t.TempDir()
	s, _, _ := tor.resumeAll(t, from, o)
	tor.write(t, s, 0, 1, 2)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if err := s.Move(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	tor.write(t, s, 3)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, found, read := tor.resumeAll(t, to, o)
	if wantPieces(t, "after the move", found, 0, 1, 2, 3); read != 0 {
		t.Errorf("%d bytes were read", read)
	}
}

// What is in the way stays, and so does everything else.
func TestMoveConflicts(t *testing.T) {
	for _, name := range []string{"n/a", "n/a.part", "n/b.part", "n", "n/sub", resumeName, ".ab000000000000000000000000000000000000cd.parley-moved"} {
		t.Run(name, func(t *testing.T) {
			tor := moving(t)
			from, to := t.TempDir(), t.TempDir()
			s, _, _ := tor.resumeAll(t, from, remember)
			tor.write(t, s, 0, 1, 2, 6)
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			before := tree(t, from)
			writeFile(t, filepath.Join(to, filepath.FromSlash(name)), []byte("mine"))
			there := tree(t, to)
			if err := s.Move(t.Context(), to); !errors.Is(err, ErrConflict) {
				t.Fatalf("%v, want a conflict", err)
			}
			wantTree(t, from, before)
			wantTree(t, to, there)
			wantFile(t, filepath.Join(to, filepath.FromSlash(name)), []byte("mine"))
			tor.writeAll(t, s)
			if err := s.Move(t.Context(), filepath.Join(to, "else")); err != nil {
				t.Error(err)
			}
		})
	}
}

// Something that appears in the new folder while the move is under way is not replaced either, and everything is as it was.
func TestMoveConflictAtTheEnd(t *testing.T) {
	ways(t, func(t *testing.T, across func(from, name, to, tmp string) error) {
		tor := moving(t)
		from, to := t.TempDir(), t.TempDir()
		s, _, _ := tor.resumeAll(t, from, remember)
		tor.write(t, s, 0, 1, 2, 6)
		before := tree(t, from)
		s.linkAcross = across
		s.openFolder = func(dir string) (folder, error) {
			f, err := openRealFolder(dir)
			return &watched{f, func(op, name string) error {
				if op == "link" && strings.HasSuffix(name, "b.part") {
					writeFile(t, filepath.Join(to, "n", "b.part"), []byte("mine"))
				}
				return nil
			}}, err
		}
		if err := s.Move(t.Context(), to); !errors.Is(err, ErrConflict) {
			t.Fatalf("%v, want a conflict", err)
		}
		wantTree(t, from, before)
		wantTree(t, to, "n/ n/b.part")
		wantFile(t, filepath.Join(to, "n", "b.part"), []byte("mine"))
		tor.writeAll(t, s)
		wantFile(t, filepath.Join(from, "n", "b"), tor.content(t, "n/b"))
	})
}

// watched tells of what is done to a folder, which may be made to fail.
type watched struct {
	folder
	do func(op, name string) error
}

func (w *watched) OpenFile(name string, flag int) (diskFile, error) {
	if flag&os.O_CREATE != 0 {
		if err := w.do("create", name); err != nil {
			return nil, err
		}
	}
	f, err := w.folder.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return &watchedFile{f, w, name}, nil
}

func (w *watched) MkdirAll(dir string) error {
	if err := w.do("mkdir", dir); err != nil {
		return err
	}
	return w.folder.MkdirAll(dir)
}

func (w *watched) Link(from, to string) error {
	if err := w.do("link", to); err != nil {
		return err
	}
	return w.folder.Link(from, to)
}

func (w *watched) Rename(from, to string) error {
	if err := w.do("rename", to); err != nil {
		return err
	}
	return w.folder.Rename(from, to)
}

func (w *watched) Remove(name string) error {
	if err := w.do("remove", name); err != nil {
		return err
	}
	return w.folder.Remove(name)
}

func (w *watched) SyncDir(dir string) error {
	if err := w.do("syncdir", dir); err != nil {
		return err
	}
	return w.folder.SyncDir(dir)
}

func (w *watched) Chtimes(name string, a, m time.Time) error {
	if err := w.do("chtimes", name); err != nil {
		return err
	}
	return w.folder.(rootFolder).Chtimes(name, a, m)
}

type watchedFile struct {
	diskFile
	w    *watched
	name string
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.w.do("write", f.name); err != nil {
		n, _ := f.diskFile.WriteAt(p[:len(p)/2], off) // torn
		return n, err
	}
	return f.diskFile.WriteAt(p, off)
}

func (f *watchedFile) Sync() error {
	if err := f.w.do("sync", f.name); err != nil {
		return err
	}
	return f.diskFile.Sync()
}

// The process may end at any step of a move: the torrent is whole in one of the two folders, and which one it is told by opening the old.
func TestMoveCutOff(t *testing.T) {
	errCut := errors.New("cut off")
	ways(t, func(t *testing.T, across func(from, name, to, tmp string) error) {
		t.Parallel()
		tor := moving(t)
		for _, have := range []int{3, tor.geom.NumPieces()} {
			for steps := 0; ; steps++ {
				if steps > 500 {
					t.Fatal("a move has no end")
				}
				base := t.TempDir()
				from, to := filepath.Join(base, "from"), filepath.Join(base, "to")
				s, _, _ := tor.resumeAll(t, from, remember)
				for i := range have {
					tor.write(t, s, i)
				}
				if err := s.Checkpoint(); err != nil {
					t.Fatal(err)
				}
				var did atomic.Int64
				do := func(string, string) error {
					if did.Add(1) > int64(steps) {
						return errCut
					}
					return nil
				}
				onKeeper := s.keep.root == s.root
				s.root = &watched{s.root, do}
				if onKeeper {
					s.keep.root = s.root
				}
				s.link = s.root.Link
				s.openFolder = func(dir string) (folder, error) {
					f, err := openRealFolder(dir)
					return &watched{f, do}, err
				}
				s.linkAcross = func(from, name, to, tmp string) error {
					if err := do("link across", tmp); err != nil {
						return err
					}
					return across(from, name, to, tmp)
				}
				err := s.Move(t.Context(), to)
				if err != nil && !errors.Is(err, errCut) {
					t.Fatalf("%d steps: %v", steps, err)
				}
				done := err == nil
				_ = s.Close() // cut off too
				where := from
				again, err := OpenFiles(from, tor.files, tor.geom, remember)
				if moved, ok := errors.AsType[*MovedError](err); ok {
					if moved.To != to {
						t.Errorf("%d steps: moved to %q", steps, moved.To)
					}
					where = to
					if !done {
						wantTree(t, from, "") // what was cut off is finished
					}
				} else if err != nil {
					t.Fatalf("%d steps: %v", steps, err)
				} else if err := again.Close(); err != nil {
					t.Fatal(err)
				}
				if done {
					where = to
				}
				s, found, _ := tor.resumeAll(t, where, remember)
				if found.Count() != have {
					t.Errorf("%d steps, %s: %d of %d pieces are left", steps, where, found.Count(), have)
				}
				// From the old folder it can be tried again, whatever was left in the new one, unless copies have their names there.
				if where == from && (steps%4 == 0 || done) {
					s.linkAcross = across
					err := s.Move(t.Context(), to)
					if c, ok := errors.AsType[*ConflictError](err); ok && !strings.HasPrefix(c.Path, to) || !ok && err != nil {
						t.Errorf("%d steps, again: %v", steps, err)
					}
				}
				if steps%8 == 0 || done {
					tor.writeAll(t, s)
					tor.wantFirst(t, s, tor.geom.NumPieces())
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if done {
					t.Logf("%d pieces: %d steps", have, steps)
					break
				}
			}
		}
	})
}

// A move that is called off, or for which there is no space, leaves nothing.
func TestMoveFails(t *testing.T) {
	tor := moving(t)
	from, to := t.TempDir(), t.TempDir()
	s, _, _ := tor.resumeAll(t, from, remember)
	tor.write(t, s, 0, 1, 2)
	s.linkAcross = noLinks
	before := tree(t, from)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Move(ctx, to); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	full := errors.New("no space")
	s.openFolder = func(dir string) (folder, error) {
		f, err := openRealFolder(dir)
		return &watched{f, func(op, name string) error {
			if op == "write" {
				return full
			}
			return nil
		}}, err
	}
	if err := s.Move(t.Context(), to); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	wantTree(t, to, "")
	wantTree(t, from, before)
	if err := s.Move(t.Context(), from); err != nil {
		t.Errorf("to where it is: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Move(t.Context(), to); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	plain := tor.open(t, t.TempDir(), Options{})
	if err := plain.Move(t.Context(), to); err == nil {
		t.Error("moved without an info-hash")
	}
}

// Reading and writing go on during a move, and nothing that is written meanwhile is lost.
func TestMoveMeanwhile(t *testing.T) {
	ways(t, func(t *testing.T, across func(from, name, to, tmp string) error) {
		names, lengths := []string{}, []int64{}
		for i := range 20 {
			names, lengths = append(names, fmt.Sprintf("n/%d", i)), append(lengths, int64(50_000+i*997))
		}
		tor := newTorrent(t, 4096, names, lengths)
		n := tor.geom.NumPieces()
		base := t.TempDir()
		s, _, _ := tor.resumeAll(t, filepath.Join(base, "0"), remember)
		s.linkAcross = across
		var done atomic.Int64
		var group sync.WaitGroup
		stop := make(chan struct{})
		group.Go(func() {
			for i := range n {
				tor.write(t, s, i)
				done.Add(1)
			}
		})
		for range 2 {
			group.Go(func() {
				for k := 0; ; k++ {
					select {
					case <-stop:
						return
					default:
					}
					if have := int(done.Load()); have > 0 {
						i := k % have
						p := make([]byte, tor.geom.PieceLen(bt.PieceIndex(i)))
						if _, err := s.ReadAt(p, tor.geom.PieceStart(bt.PieceIndex(i))); err != nil || !bytes.Equal(p, tor.piece(i)) {
							t.Errorf("piece %d during a move: %v", i, err)
							return
						}
					}
				}
			})
		}
		moves := 0
		for int(done.Load()) < n {
			moves++
			if err := s.Move(t.Context(), filepath.Join(base, fmt.Sprint(moves))); err != nil {
				t.Errorf("move %d: %v", moves, err)
				break
			}
		}
		close(stop)
		group.Wait()
		t.Logf("%d moves", moves)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, found, read := tor.resumeAll(t, filepath.Join(base, fmt.Sprint(moves)), remember)
		if found.Count() != n || read != 0 {
			t.Errorf("%d of %d pieces, %d bytes read", found.Count(), n, read)
		}
		for i, name := range names {
			wantFile(t, filepath.Join(base, fmt.Sprint(moves), filepath.FromSlash(name)), tor.content(t, names[i]))
		}
	})
}

// Holes stay holes.
func TestMoveSparse(t *testing.T) {
	const size = 256 << 20
	geom, err := bt.NewGeometry(size, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	from, to := t.TempDir(), t.TempDir()
	s, err := OpenFiles(from, []File{{Path: []string{"huge"}, Length: size}}, geom, Options{InfoHash: testHash})
	if err != nil {
		t.Fatal(err)
	}
	s.linkAcross = noLinks
	var written atomic.Int64
	s.openFolder = func(dir string) (folder, error) {
		f, err := openRealFolder(dir)
		return &watched{f, func(op, name string) error {
			if op == "write" {
				written.Add(1)
			}
			return nil
		}}, err
	}
	if _, err := s.WriteAt([]byte("x"), size/2); err != nil {
		t.Fatal(err)
	}
	if err := s.Move(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if written.Load() > 3 {
		t.Errorf("%d writes for one byte", written.Load())
	}
	p := make([]byte, 1)
	if _, err := s.ReadAt(p, size/2); err != nil || p[0] != 'x' {
		t.Errorf("%q, %v", p, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(from, "huge.part")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A piece of a finished file that is wrong can be written again; the file has its name once it is right.
func TestReopen(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a", "b", "c"}, []int64{40, 40, 40})
	dir := t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, remember)
	tor.writeAll(t, s)
	wantTree(t, dir, resumeName+" a b c")
	if err := s.Forget(2); err != nil { // in a and b
		t.Fatal(err)
	}
	if more, err := s.Reopen(2); err != nil || len(more) != 0 {
		t.Fatalf("%v, %v", more, err)
	}
	wantTree(t, dir, resumeName+" a.part b.part c")
	tor.write(t, s, 2)
	wantTree(t, dir, resumeName+" a b c")

	// What a file that has gone had is forgotten at once: it must not get its name from one piece alone.
	if err := os.Remove(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Refresh(), s.Forget(4)); err != nil {
		t.Fatal(err)
	}
	more, err := s.Reopen(4) // in b alone
	if err != nil || fmt.Sprint(more) != "[2 3]" {
		t.Fatalf("%v, %v", more, err)
	}
	tor.write(t, s, 4)
	wantTree(t, dir, resumeName+" a b.part c")
	tor.write(t, s, 2, 3)
	wantFile(t, filepath.Join(dir, "b"), tor.content(t, "b"))

	// What is longer than it should be is not ours.
	writeFile(t, filepath.Join(dir, "c"), make([]byte, 41))
	if err := s.Forget(6); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reopen(6); !errors.Is(err, ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
}
