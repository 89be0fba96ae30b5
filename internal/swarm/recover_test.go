package swarm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// A torrent that an error has stopped starts again in place once the cause is gone, with what was good, and stops again while it is not.
func TestRetry(t *testing.T) {
	for _, tt := range []struct {
		name string
		disk func(broken *atomic.Bool, dir string) (*faulty, func() error)
		kept bool
	}{
		{"a full disk", func(broken *atomic.Bool, _ string) (*faulty, func() error) {
			var n atomic.Int32
			return &faulty{write: func(int64) error {
				if n.Add(1) > 30 && broken.Load() {
					return syscall.ENOSPC
				}
				return nil
			}}, nil
		}, true},
		{"nothing can be saved", func(broken *atomic.Bool, _ string) (*faulty, func() error) {
			var n atomic.Int32
			return &faulty{checkpoint: func() error {
				if n.Add(1) > 2 && broken.Load() {
					return syscall.EIO
				}
				return nil
			}}, nil
		}, true},
		{"the file vanishes", func(broken *atomic.Bool, dir string) (*faulty, func() error) {
			var n atomic.Int32
			return &faulty{write: func(int64) error {
				if n.Add(1) > 30 && broken.Load() {
					_ = os.Remove(filepath.Join(dir, "content.part"))
				}
				return nil
			}}, nil
		}, false},
		{"it cannot be opened", func(broken *atomic.Bool, _ string) (*faulty, func() error) {
			return &faulty{}, func() error {
				if broken.Load() {
					return &fs.PathError{Op: "open", Path: "dir", Err: syscall.EACCES}
				}
				return nil
			}
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				link := slow
				link.Rate = 64 << 10
				w := newWorld(t, 100*piece, piece, link)
				seed := w.start(seeding)
				var broken atomic.Bool
				broken.Store(true)
				disk, open := tt.disk(&broken, dir)
				n := w.start(on(dir, disk), func(_ *node, cfg *Config) {
					if really := cfg.Open; open != nil {
						cfg.Open = func(info *metainfo.Info) (storage.Storage, error) {
							if err := open(); err != nil {
								return nil, err
							}
							return really(info)
						}
					}
				})
				n.tor.AddPeers(seed.addr)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				first := n.tor.WaitComplete(ctx)
				if first == nil || ctx.Err() != nil {
					t.Fatalf("it did not stop: %v", first)
				}
				had := n.tor.Stats().HavePieces
				if tt.kept && had == 0 {
					t.Fatal("nothing was downloaded: the test is none")
				}
				if err := n.tor.Retry(); err != nil {
					t.Fatal(err)
				}
				if open != nil { // nothing has changed yet
					if err := n.tor.WaitComplete(ctx); err == nil || ctx.Err() != nil {
						t.Fatalf("it did not stop again: %v", err)
					}
				}
				broken.Store(false)
				if err := n.tor.Retry(); err != nil {
					t.Fatal(err)
				}
				if err := n.tor.WaitReady(ctx); err != nil {
					t.Fatal(err)
				}
				if s := n.tor.Stats(); tt.kept && s.HavePieces < had || s.Err != nil {
					t.Errorf("%d pieces are left of %d; %v", s.HavePieces, had, s.Err)
				}
				n.tor.AddPeers(seed.addr)
				n.waitComplete(10 * time.Minute)
				if err := n.tor.Retry(); err != nil {
					t.Errorf("a torrent that runs: %v", err)
				}
				n.close()
				if err := n.tor.Retry(); !errors.Is(err, ErrClosed) {
					t.Errorf("a closed torrent: %v", err)
				}
				if got, err := os.ReadFile(filepath.Join(dir, "content")); err != nil || string(got) != string(w.content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		})
	}
}

// What was changed on disk, or has gone, is found, no longer offered, and downloaded again, while the torrent seeds and while it downloads.
func TestVerifyAgain(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(path string) error
		lost  func(have int) int
	}{
		{"nothing", func(string) error { return nil }, func(int) int { return 0 }},
		{"bytes changed", func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("changed"), 3*piece+5)
			return errors.Join(err, f.Close())
		}, func(int) int { return 1 }},
		{"cut short", func(path string) error { return os.Truncate(path, 2*piece) }, func(have int) int { return have - 2 }},
		{"removed", os.Remove, func(have int) int { return have }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 40*piece+9, piece, slow)
				seed := w.start(seeding)
				n := w.start(on(dir, &faulty{}))
				n.tor.AddPeers(seed.addr)
				n.waitComplete(10 * time.Minute)
				path := filepath.Join(dir, "content")
				if err := tt.spoil(path); err != nil {
					t.Fatal(err)
				}
				var calls atomic.Int32
				lost, err := n.tor.Verify(t.Context(), VerifyOptions{Progress: func(int, int) { calls.Add(1) }})
				if want := tt.lost(41); err != nil || lost != want || calls.Load() != 41 {
					t.Errorf("%d lost, %v, %d calls; want %d lost", lost, err, calls.Load(), want)
				}
				n.tor.AddPeers(seed.addr)
				n.waitComplete(10 * time.Minute)
				if got, err := os.ReadFile(path); err != nil || string(got) != string(w.content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if lost, err := n.tor.Verify(t.Context(), VerifyOptions{}); lost != 0 || err != nil {
					t.Errorf("afterwards: %d lost, %v", lost, err)
				}
				if s := n.tor.Stats(); s.State != StateSeeding || s.Err != nil {
					t.Errorf("%+v", s)
				}
				n.close()
				if _, err := n.tor.Verify(t.Context(), VerifyOptions{}); !errors.Is(err, ErrClosed) {
					t.Errorf("closed: %v", err)
				}
			})
		})
	}
}

// A seed that must not write stops with what is wrong; a disk that cannot be read stops the torrent too, and one that is told to stop does.
func TestVerifyAgainFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*piece, piece, slow)
		bad := &wrapped{read: func(_ []byte, off int64) error {
			if off > 7*piece {
				return syscall.EIO
			}
			return nil
		}}
		n := w.start(seeding, onto(bad))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := n.tor.WaitComplete(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := n.tor.Verify(ctx, VerifyOptions{}); !errors.Is(err, syscall.EIO) {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if s := n.tor.Stats(); s.State != StateStopped || !errors.Is(s.Err, syscall.EIO) {
			t.Errorf("%+v", s)
		}
		other := w.start(seeding)
		if err := other.tor.WaitComplete(ctx); err != nil {
			t.Fatal(err)
		}
		off, end := context.WithCancel(ctx)
		end()
		if _, err := other.tor.Verify(off, VerifyOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if s := other.tor.Stats(); s.State != StateSeeding {
			t.Errorf("%+v", s)
		}
	})
}

// A download moves while it runs.
func TestMoveRunning(t *testing.T) {
	base := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		link := slow
		link.Rate = 256 << 10
		w := newWorld(t, 100*piece, piece, link)
		seed := w.start(seeding)
		disk := &faulty{}
		n := w.start(on(filepath.Join(base, "0"), disk))
		n.tor.AddPeers(seed.addr)
		for i := 1; i <= 3; i++ {
			time.Sleep(time.Second)
			to := filepath.Join(base, string(rune('0'+i)))
			if now, err := n.tor.Move(t.Context(), to); err != nil || now != to {
				t.Fatalf("%q, %v", now, err)
			}
		}
		if s := n.tor.Stats(); s.HavePieces == 0 || s.HavePieces == s.Pieces {
			t.Errorf("the moves did not come in the middle: %+v", s)
		}
		n.waitComplete(10 * time.Minute)
		n.close()
		if got, err := os.ReadFile(filepath.Join(base, "3", "content")); err != nil || string(got) != string(w.content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		memory := w.start()
		if err := memory.tor.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := memory.tor.Move(t.Context(), base); !errors.Is(err, ErrCannotMove) {
			t.Errorf("memory: %v", err)
		}
	})
}
