package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
)

// lossy is a folder on a machine that can lose power: of what was written since the last sync, any part may be gone, and of the names
// that changed in a folder since it was synced, the later ones.
type lossy struct {
	folder // the folder as programs see it

	mu      sync.Mutex
	inodes  map[string]*inode // by present name
	durable map[string]*inode // by the name that survives for certain; nil is a folder
	changes []change          // of names, in order
}

// inode is a file whatever its name.
type inode struct {
	content []byte // that survives for certain
	mtime   time.Time
	live    time.Time // mtime as programs see it
	writes  []write   // that may survive
}

type write struct {
	off  int64
	data []byte
}

// change makes or removes a name.
type change struct {
	name string
	to   *inode
	gone bool
}

func newLossy(t *testing.T, dir string) *lossy {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{folder: newRootFolder(root), inodes: make(map[string]*inode), durable: make(map[string]*inode)}
	// What is there has survived the last loss.
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if e.IsDir() {
			l.durable[rel] = nil
			return nil
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		l.inodes[rel] = &inode{content: content, mtime: fi.ModTime(), live: fi.ModTime()}
		l.durable[rel] = l.inodes[rel]
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lossy) OpenFile(name string, flag int) (diskFile, error) {
	f, err := l.folder.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if flag&os.O_CREATE != 0 {
		fi, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		l.inodes[name] = &inode{mtime: fi.ModTime(), live: fi.ModTime()}
		l.changes = append(l.changes, change{name: name, to: l.inodes[name]})
	}
	return &lossyFile{diskFile: f, l: l, in: l.inodes[name]}, nil
}

func (l *lossy) MkdirAll(dir string) error {
	if err := l.folder.MkdirAll(dir); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; dir != "."; dir = filepath.Dir(dir) {
		if _, ok := l.durable[dir]; !ok {
			l.changes = append(l.changes, change{name: dir})
		}
	}
	return nil
}

func (l *lossy) Link(o, n string) error {
	if err := l.folder.Link(o, n); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inodes[n] = l.inodes[o]
	l.changes = append(l.changes, change{name: n, to: l.inodes[o]})
	return nil
}

func (l *lossy) Rename(o, n string) error {
	if err := l.folder.Rename(o, n); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inodes[n] = l.inodes[o]
	delete(l.inodes, o)
	l.changes = append(l.changes, change{name: n, to: l.inodes[n]}, change{name: o, gone: true})
	return nil
}

func (l *lossy) Remove(name string) error {
	if err := l.folder.Remove(name); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.inodes, name)
	l.changes = append(l.changes, change{name: name, gone: true})
	return nil
}

func (l *lossy) SyncDir(dir string) error {
	if err := l.folder.SyncDir(dir); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = slices.DeleteFunc(l.changes, func(c change) bool {
		if filepath.Dir(c.name) != dir {
			return false
		}
		apply(l.durable, c)
		return true
	})
	return nil
}

func apply(names map[string]*inode, c change) {
	if c.gone {
		delete(names, c.name)
	} else {
		names[c.name] = c.to
	}
}

// lossyFile is an open file of a lossy folder.
type lossyFile struct {
	diskFile
	l  *lossy
	in *inode
}

func (f *lossyFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.diskFile.WriteAt(p, off)
	if err != nil {
		return n, err
	}
	fi, err := f.diskFile.Stat()
	if err != nil {
		return n, err
	}
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	f.in.writes = append(f.in.writes, write{off, bytes.Clone(p)})
	f.in.live = fi.ModTime()
	return n, nil
}

func (f *lossyFile) Sync() error {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	for _, w := range f.in.writes {
		f.in.content = w.apply(f.in.content)
	}
	f.in.writes, f.in.mtime = nil, f.in.live
	return nil
}

func (w write) apply(content []byte) []byte {
	if short := w.off + int64(len(w.data)) - int64(len(content)); short > 0 {
		content = append(content, make([]byte, short)...)
	}
	copy(content[w.off:], w.data)
	return content
}

// lose makes dir what the folder is after a loss of power now.
func (l *lossy) lose(t *testing.T, rng *rand.Rand, dir string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make(map[string]*inode)
	maps.Copy(names, l.durable)
	// Each folder keeps its own order; what it gets done ends somewhere.
	left := make(map[string]int)
	for _, c := range l.changes {
		d := filepath.Dir(c.name)
		if _, ok := left[d]; !ok {
			left[d] = rng.IntN(len(l.changes) + 1)
		}
		if left[d]--; left[d] >= 0 {
			apply(names, c)
		}
	}
	content := make(map[*inode][]byte)
	for name, in := range names {
		reachable := true
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			if parent, ok := names[d]; !ok || parent != nil {
				reachable = false
			}
		}
		full := filepath.Join(dir, name)
		switch {
		case !reachable:
			continue
		case in == nil:
			if err := os.MkdirAll(full, 0o777); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if _, ok := content[in]; !ok {
			b := bytes.Clone(in.content)
			for _, w := range in.writes {
				switch rng.IntN(3) {
				case 0: // lost
				case 1:
					b = w.apply(b)
				case 2: // torn
					w.data = w.data[:rng.IntN(len(w.data)+1)]
					b = w.apply(b)
				}
			}
			content[in] = b
		}
		writeFile(t, full, content[in])
		mtime := in.mtime
		if len(in.writes) > 0 && rng.IntN(2) == 0 {
			mtime = in.live
		}
		if err := os.Chtimes(full, mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
}

func (tor *torrent) openLossy(t *testing.T, dir string, wanted []bool) (*Files, *lossy) {
	t.Helper()
	o := Options{RememberComplete: true, InfoHash: testHash, MaxUnsavedBytes: 1 << 40, OpenFiles: 2, Wanted: wanted}
	s, err := prepare(dir, tor.files, tor.geom, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	l := newLossy(t, dir)
	if s, err = s.openIn(l, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return s, l
}

// Whenever the power goes, what is trusted afterwards is there, and what was saved is not lost.
func TestPowerLoss(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	resumed, reread := 0, 0
	for i := range rounds {
		if t.Failed() {
			break
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			tor := newTorrent(t, 100, []string{"n/a", "n/empty", "n/s", "n/d/b", "", "n/d/e/c"}, []int64{250, 0, 30, 1670, 50, 900})
			base := t.TempDir()
			dir := filepath.Join(base, "0")
			for life := range 4 {
				wanted := make([]bool, len(tor.files))
				for i := range wanted {
					wanted[i] = rng.IntN(3) > 0
				}
				s, l := tor.openLossy(t, dir, wanted)
				have, err := ResumePieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
				if err != nil {
					t.Fatalf("seed %d, life %d: %v", seed, life, err)
				}
				var missing []int
				for i := range have.Len() {
					if !have.Has(i) {
						missing = append(missing, i)
					}
				}
				rng.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
				saved := have.Clone()
				for _, i := range missing[:rng.IntN(len(missing)+1)] {
					tor.write(t, s, i)
					have.Add(i)
					if rng.IntN(10) == 0 {
						if err := s.SetWanted(rng.IntN(len(wanted)), rng.IntN(3) > 0); err != nil {
							t.Fatalf("seed %d: %v", seed, err)
						}
					}
					if rng.IntN(6) == 0 {
						if err := s.Checkpoint(); err != nil {
							t.Fatalf("seed %d: %v", seed, err)
						}
						saved = have.Clone()
					}
				}

				dir = filepath.Join(base, string(rune('1'+life)))
				if err := os.MkdirAll(dir, 0o777); err != nil {
					t.Fatal(err)
				}
				l.lose(t, rng, dir)

				look, _ := tor.openLossy(t, dir, nil)
				if _, _, _, err := look.readResume(); err != nil {
					t.Errorf("seed %d, life %d: nothing is left of what was saved: %v", seed, life, err)
				}
				trusted, check, err := look.Resume()
				if err != nil {
					t.Fatalf("seed %d, life %d: %v", seed, life, err)
				}
				for i := range trusted.All() {
					got := make([]byte, len(tor.piece(i)))
					if _, err := look.ReadAt(got, tor.geom.PieceStart(bt.PieceIndex(i))); err != nil || !bytes.Equal(got, tor.piece(i)) {
						t.Errorf("seed %d, life %d: piece %d is trusted and is not there: %v", seed, life, i, err)
					}
				}
				found, err := Verify(t.Context(), look, tor.geom, V1Hashes(tor.hashes), VerifyOptions{Pieces: check})
				if err != nil {
					t.Fatalf("seed %d, life %d: %v", seed, life, err)
				}
				for i := range saved.All() {
					if !trusted.Has(i) && !found.Has(i) {
						t.Errorf("seed %d, life %d: piece %d was saved and is lost", seed, life, i)
					}
				}
				resumed += trusted.Count()
				reread += check.Count()
				if err := look.Checkpoint(); err != nil {
					t.Fatal(err)
				}
				if err := look.Close(); err != nil {
					t.Fatal(err)
				}
			}
			s := tor.open(t, dir, Options{RememberComplete: true, InfoHash: testHash})
			have, err := ResumePieces(t.Context(), s, tor.geom, V1Hashes(tor.hashes), nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := range have.Len() {
				if !have.Has(i) {
					tor.write(t, s, i)
				}
			}
			for _, name := range []string{"n/a", "n/s", "n/d/b", "n/d/e/c"} {
				wantFile(t, filepath.Join(dir, name), tor.content(t, name))
			}
		})
	}
	t.Logf("%d pieces trusted, %d read again", resumed, reread)
	if resumed == 0 || reread == 0 {
		t.Error("nothing was resumed: the test is none")
	}
}
