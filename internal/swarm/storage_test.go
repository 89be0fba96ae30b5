package swarm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// faulty is a torrent's files on a disk that misbehaves as the test wants it.
type faulty struct {
	*storage.Files
	write      func(off int64) error
	verified   func(i bt.PieceIndex) error
	checkpoint func() error
}

func (s *faulty) WriteAt(p []byte, off int64) (int, error) {
	if s.write != nil {
		if err := s.write(off); err != nil {
			return 0, err
		}
	}
	return s.Files.WriteAt(p, off)
}

func (s *faulty) Verified(i bt.PieceIndex) error {
	if s.verified != nil {
		if err := s.verified(i); err != nil {
			return err
		}
	}
	return s.Files.Verified(i)
}

func (s *faulty) Checkpoint() error {
	if s.checkpoint != nil {
		if err := s.checkpoint(); err != nil {
			return err
		}
	}
	return s.Files.Checkpoint()
}

// on puts a node's files into dir, behind f.
func on(dir string, f *faulty) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		cfg.Open = func(info *metainfo.Info) (storage.Storage, error) {
			s, err := storage.OpenFiles(dir, []storage.File{{Path: []string{info.Name}, Length: info.Geometry.TotalBytes}}, info.Geometry,
				storage.Options{InfoHash: n.w.ih, RememberComplete: true})
			if err != nil {
				return nil, err
			}
			f.Files = s
			n.store = f
			return f, nil
		}
	}
}

// A disk that fails stops the torrent, nobody is asked for anything more, and what was good is continued once the disk is well again.
func TestDiskRecovers(t *testing.T) {
	var dir string
	after := func(n int32, do func() error) func() error {
		var left atomic.Int32
		left.Store(n)
		return func() error {
			if left.Add(-1) < 0 {
				return do()
			}
			return nil
		}
	}
	failing := func(err error) func() error {
		return func() error { return &fs.PathError{Op: "write", Path: "content.part", Err: err} }
	}
	vanish := func() error {
		// Every time: the file is made only once.
		if err := os.Remove(filepath.Join(dir, "content.part")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	writes := func(f func() error) *faulty { return &faulty{write: func(int64) error { return f() }} }
	tests := []struct {
		name string
		disk func() *faulty
		want error
		kept bool // whether anything of what was good is left
	}{
		{"full at once", func() *faulty { return writes(failing(syscall.ENOSPC)) }, syscall.ENOSPC, false},
		{"full after some", func() *faulty { return writes(after(12, failing(syscall.ENOSPC))) }, syscall.ENOSPC, true},
		{"over quota", func() *faulty { return writes(after(12, failing(syscall.EDQUOT))) }, syscall.EDQUOT, true},
		{"broken", func() *faulty { return writes(after(12, failing(syscall.EIO))) }, syscall.EIO, true},
		{"read-only from now on", func() *faulty { return writes(after(12, failing(syscall.EROFS))) }, syscall.EROFS, true},
		{"cannot remember", func() *faulty {
			f := after(12, failing(syscall.EIO))
			return &faulty{verified: func(bt.PieceIndex) error { return f() }}
		}, syscall.EIO, true},
		{"cannot save", func() *faulty { return &faulty{checkpoint: after(2, failing(syscall.EIO))} }, syscall.EIO, true},
		{"the file vanishes", func() *faulty { return writes(after(12, vanish)) }, fs.ErrNotExist, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir = t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				link := slow
				link.Rate = 64 << 10 // so that it is saved on the way
				w := newWorld(t, 100*piece, piece, link)
				seed := w.start(seeding)
				n := w.start(on(dir, tt.disk()))
				n.tor.AddPeers(seed.addr)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				if err := n.tor.WaitComplete(ctx); !errors.Is(err, tt.want) {
					t.Fatalf("WaitComplete = %v, want %v", err, tt.want)
				}
				if s := n.tor.Stats(); s.State != StateStopped || !errors.Is(s.Err, tt.want) || n.count(EventError) != 1 {
					t.Errorf("%+v, %d errors were reported, want it stopped with one", s, n.count(EventError))
				}
				time.Sleep(5 * time.Second) // what is on the way may arrive
				sent := seed.tor.Stats().Uploaded
				time.Sleep(10 * time.Minute)
				if s := seed.tor.Stats(); s.Uploaded != sent || s.Peers != 0 {
					t.Errorf("%d more bytes were asked for after the stop, %d peers", s.Uploaded-sent, s.Peers)
				}
				had := n.tor.Stats().HavePieces
				if tt.kept && had == 0 {
					t.Error("nothing was downloaded before the disk failed: the test is none")
				}
				n.close()

				again := w.start(on(dir, &faulty{}))
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := again.tor.WaitReady(ctx); err != nil {
					t.Fatal(err)
				}
				if got := again.tor.Stats().HavePieces; tt.kept && got < had {
					t.Errorf("%d pieces are left of %d", got, had)
				}
				again.tor.AddPeers(seed.addr)
				again.waitComplete(10 * time.Minute)
				if s := again.tor.Stats(); tt.kept && s.Downloaded-s.Wasted > int64(100-had)*piece {
					t.Errorf("%d bytes were downloaded, with %d of 100 pieces there", s.Downloaded, had)
				}
				again.close()
				if got, err := os.ReadFile(filepath.Join(dir, "content")); err != nil || string(got) != string(w.content) {
					t.Errorf("the file afterwards: %d bytes, %v", len(got), err)
				}
			})
		})
	}
}

// What is verified is saved on the way, not at the end alone.
func TestSavedOnTheWay(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		link := slow
		link.Rate = 64 << 10
		w := newWorld(t, 200*piece, piece, link)
		seed := w.start(seeding)
		var saves atomic.Int32
		n := w.start(on(dir, &faulty{checkpoint: func() error { saves.Add(1); return nil }}))
		n.tor.AddPeers(seed.addr)
		n.waitComplete(10 * time.Minute)
		if got := saves.Load(); got < 4 || got > 12 {
			t.Errorf("saved %d times in a download of 50 s, want about every 10 s", got)
		}
		before := n.tor.Stats().HavePieces
		n.close()
		again := w.start(on(dir, &faulty{}), with(func(cfg *Config) {
			cfg.OnVerify = func(int, int) { t.Error("something was hashed again") }
		}))
		if err := again.tor.WaitReady(t.Context()); err != nil || again.tor.Stats().HavePieces != before {
			t.Errorf("%v, %d pieces, want %d", err, again.tor.Stats().HavePieces, before)
		}
	})
}

// resumeIn returns the name of the resume data in a folder.
func resumeIn(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".*.parley-resume"))
	if err != nil || len(names) != 1 || strings.HasSuffix(names[0], ".new") {
		t.Fatalf("%q, %v, want one", names, err)
	}
	return names[0]
}

// Resume data that somebody has tampered with costs a verification, and never makes us serve what is wrong, or stop.
func TestResumeTampered(t *testing.T) {
	tests := []struct {
		name   string
		tamper func(b []byte) []byte
	}{
		{"emptied", func([]byte) []byte { return nil }},
		{"cut", func(b []byte) []byte { return b[:len(b)-20] }},
		{"a bit of the bitfield", func(b []byte) []byte { b[60] ^= 1; return b }},
		{"of another version", func(b []byte) []byte { b[7]++; return b }},
		{"something behind", func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }},
		{"noise", func(b []byte) []byte { return []byte(strings.Repeat("\xff", len(b))) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 20*piece, piece, slow)
				seed := w.start(seeding)
				n := w.start(on(dir, &faulty{}))
				n.tor.AddPeers(seed.addr)
				n.waitComplete(time.Minute)
				n.close()
				name := resumeIn(t, dir)
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, tt.tamper(b), 0o666); err != nil {
					t.Fatal(err)
				}
				again := w.start(on(dir, &faulty{}))
				again.waitComplete(time.Minute)
			})
		})
	}
}
