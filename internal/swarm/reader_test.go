package swarm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// wan is a link on which the torrents of the reader's tests take minutes.
var wan = simnet.Link{Latency: 20 * time.Millisecond, Rate: 512 << 10}

func openReader(t *testing.T, n *node, file int) *Reader {
	t.Helper()
	if err := n.tor.WaitReady(context.Background()); err != nil {
		t.Fatal(err)
	}
	r, err := n.tor.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The first bytes of a file come long before all of it, its end is read without what lies between, and what is read is the content.
func TestReaderAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, 16*piece, wan, 700*piece, 2000*piece+77)
		n := w.start()
		n.tor.AddPeers(w.start(seeding).addr, w.start(seeding).addr)
		began := time.Now()
		r := openReader(t, n, 1)
		defer r.Close()
		var b [1000]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			t.Fatal(err)
		}
		first := time.Since(began)
		if !bytes.Equal(b[:], w.file(1)[:1000]) {
			t.Error("what was read is not what the file begins with")
		}
		if at, err := r.Seek(-1000, io.SeekEnd); err != nil || at != r.Size()-1000 {
			t.Fatalf("at %d: %v", at, err)
		}
		soughtAt := time.Now()
		if _, err := io.ReadFull(r, b[:]); err != nil {
			t.Fatal(err)
		}
		sought := time.Since(soughtAt)
		if !bytes.Equal(b[:], w.file(1)[r.Size()-1000:]) {
			t.Error("what was read is not what the file ends with")
		}
		if n, err := r.Read(b[:]); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
		here := n.tor.Stats().HaveBytes
		n.waitComplete(time.Hour)
		all := time.Since(began)
		t.Logf("first byte after %v, the end %v after seeking to it with %.1f%% of the content here, everything after %v", first, sought, 100*float64(here)/float64(len(w.content)), all)
		if first > all/10 || sought > all/10 {
			t.Errorf("the first byte came after %v, the end after %v more, everything after %v", first, sought, all)
		}
	})
}

// Whoever reads a file from its beginning to its end has it nearly as soon as it could be downloaded at all, without stalls; several do at once, at their own places.
func TestReadersStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, 4*piece, wan, 300*piece+5, 500*piece+7)
		n := w.start(wanting(Normal, Low))
		n.tor.AddPeers(w.start(seeding).addr, w.start(seeding).addr)
		var wg sync.WaitGroup
		for k, from := range []int64{0, 0, 250 * piece} {
			file := min(k, 1)
			r := openReader(t, n, file)
			wg.Go(func() {
				defer r.Close()
				if _, err := r.Seek(from, io.SeekStart); err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(iotest.HalfReader(r))
				if err != nil || !bytes.Equal(got, w.file(file)[from:]) {
					t.Errorf("reader %d: %d bytes, %v", k, len(got), err)
				}
			})
		}
		wg.Wait()
		n.waitComplete(time.Hour)
		n.tor.do(func() {
			if len(n.tor.readers) != 0 {
				t.Errorf("%d readers are left", len(n.tor.readers))
			}
		})
	})
}

// A reader that jumps around gets what is at each place.
func TestReaderSeeks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, 2*piece, wan, 11, 400*piece)
		n := w.start()
		n.tor.AddPeers(w.start(seeding).addr)
		r := openReader(t, n, 1)
		rng := rand.New(rand.NewPCG(w.seed, 3))
		for range 40 {
			at := rng.Int64N(r.Size())
			if got, err := r.Seek(at-r.pos, io.SeekCurrent); err != nil || got != at {
				t.Fatalf("sought %d, got to %d: %v", at, got, err)
			}
			p := make([]byte, min(1+rng.Int64N(5*piece), r.Size()-at))
			if _, err := io.ReadFull(r, p); err != nil || !bytes.Equal(p, w.file(1)[at:at+int64(len(p))]) {
				t.Fatalf("%d bytes at %d are not right: %v", len(p), at, err)
			}
		}
		for _, bad := range []struct {
			off    int64
			whence int
		}{{-1, io.SeekStart}, {0, 3}, {-r.Size() - 1, io.SeekEnd}} {
			before := r.pos
			if at, err := r.Seek(bad.off, bad.whence); err == nil || at != before {
				t.Errorf("seeking %+v: %d, %v", bad, at, err)
			}
		}
		if _, err := r.Seek(1000, io.SeekEnd); err != nil {
			t.Error(err)
		}
		if c, err := r.Read(make([]byte, 1)); c != 0 || err != io.EOF {
			t.Errorf("behind the end: %d, %v", c, err)
		}
	})
}

// A read that waits ends with the context, the reader, the file's being wanted, or the torrent.
func TestReaderEnds(t *testing.T) {
	stop := errors.New("enough")
	for name, c := range map[string]struct {
		end  func(n *node, r *Reader, cancel context.CancelCauseFunc)
		want error
	}{
		"context": {func(_ *node, _ *Reader, cancel context.CancelCauseFunc) { cancel(stop) }, stop},
		"closed":  {func(_ *node, r *Reader, _ context.CancelCauseFunc) { r.Close() }, fs.ErrClosed},
		"skipped": {func(n *node, _ *Reader, _ context.CancelCauseFunc) {
			if err := n.tor.SetPriority(Skip, 0); err != nil {
				n.t.Error(err)
			}
		}, ErrSkipped},
		"torrent closed": {func(n *node, _ *Reader, _ context.CancelCauseFunc) { n.close() }, ErrClosed},
		"torrent failed": {func(n *node, _ *Reader, _ context.CancelCauseFunc) { n.tor.do(func() { n.tor.fail(errTest) }) }, errTest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFilesWorld(t, piece, slow, 10*piece, 10*piece)
				n := w.start()
				r := openReader(t, n, 0)
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				done := make(chan error, 1)
				go func() {
					_, err := r.ReadContext(ctx, make([]byte, 1))
					done <- err
				}()
				time.Sleep(5 * time.Second)
				select {
				case err := <-done:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
				c.end(n, r, cancel)
				synctest.Wait()
				select {
				case err := <-done:
					if !errors.Is(err, c.want) {
						t.Errorf("%v, want %v", err, c.want)
					}
				default:
					t.Fatal("it still waits")
				}
				cancel(nil)
				r.Close()
			})
		})
	}
}

// A file that is wanted again is read on; one that is here is read although it is no longer wanted.
func TestReaderOfSkippedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, piece, slow, 10*piece, 10*piece)
		n := w.start()
		r := openReader(t, n, 1)
		if err := n.tor.SetPriority(Skip, 1); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 10*piece)
		if _, err := r.Read(p); !errors.Is(err, ErrSkipped) {
			t.Errorf("of a skipped file: %v", err)
		}
		if err := n.tor.SetPriority(Normal, 1); err != nil {
			t.Fatal(err)
		}
		n.tor.AddPeers(w.start(seeding).addr)
		if _, err := io.ReadFull(r, p); err != nil || !bytes.Equal(p, w.file(1)) {
			t.Errorf("wanted again: %v", err)
		}
		n.waitComplete(time.Minute)
		if err := n.tor.SetPriority(Skip, 1); err != nil {
			t.Fatal(err)
		}
		r2 := openReader(t, n, 1)
		if got, err := io.ReadAll(r2); err != nil || !bytes.Equal(got, p) {
			t.Errorf("not wanted, but here: %d bytes, %v", len(got), err)
		}
		r2.Close()
	})
}

// A peer that was asked for what a reader waits for, and is silent, costs seconds and not the minute after which it counts as snubbing us.
func TestReaderPastSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, piece, wan, 1000*piece)
		n := w.start()
		var mu sync.Mutex
		asked := map[bt.Block]bool{}
		n.tor.AddPeers(w.listenRaw(func(p *rawpeer.Peer) {
			p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
			p.Until(func(m wire.Message) bool {
				if r, ok := m.(*wire.Request); ok {
					mu.Lock()
					asked[r.Block] = true
					mu.Unlock()
				}
				return false
			})
		}))
		r := openReader(t, n, 0)
		defer r.Close()
		time.Sleep(time.Second)
		mu.Lock()
		if !asked[bt.Block{Index: 0, Length: piece}] {
			t.Fatal("the silent peer was not asked for the first piece: the test is none")
		}
		mu.Unlock()
		n.tor.AddPeers(w.start(seeding).addr)
		began := time.Now()
		if _, err := io.ReadFull(r, make([]byte, 2*piece)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > 8*time.Second {
			t.Errorf("it waited %v for a silent peer", d)
		}
	})
}

// Pieces come in their order if that is asked for, also in the middle of a download.
func TestSequentialDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 400*piece, piece, simnet.Link{Latency: 20 * time.Millisecond, Rate: 256 << 10})
		n := w.start(with(func(cfg *Config) { cfg.Sequential = true }))
		n.tor.AddPeers(w.start(seeding).addr)
		await(t, "something has come", func() bool { return n.tor.Stats().HavePieces > 50 })
		n.tor.do(func() {
			last := 0
			for i := range n.tor.have.All() {
				last = i
			}
			if gap := last + 1 - n.tor.have.Count(); gap > 16 {
				t.Errorf("%d pieces are missing before the last that is here, %d", gap, last)
			}
		})
		if err := n.tor.SetSequential(false); err != nil {
			t.Fatal(err)
		}
		await(t, "more has come", func() bool { return n.tor.Stats().HavePieces > 250 })
		n.tor.do(func() {
			last := 0
			for i := range n.tor.have.All() {
				last = i
			}
			if last < 300 {
				t.Errorf("the last piece here is %d: they still come in order", last)
			}
		})
		n.waitComplete(time.Hour)
	})
}

// A read that has looked at what is here while the torrent starts again meets neither the storage of before, which is closed, nor none.
func TestReadWhileTheTorrentStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*piece, piece, wan)
		opened, goOn := 0, make(chan struct{})
		n := w.start(seeding, with(func(cfg *Config) {
			open := cfg.Open
			cfg.Open = func(info *metainfo.Info) (storage.Storage, error) {
				if opened++; opened == 1 {
					return open(info)
				}
				<-goOn
				again := storage.NewMemory(info.Geometry)
				_, err := again.WriteAt(w.content, 0)
				return again, err
			}
		}))
		synctest.Wait()
		r, err := n.tor.NewReader(0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		before := n.tor.shared.Load()
		n.tor.do(func() { n.tor.fail(errors.New("broken")) })
		if err := n.tor.Retry(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, s := range []*sharedState{before, n.tor.shared.Load()} {
			if got, _ := r.here(s, 100); got != 0 {
				t.Errorf("%d bytes are here while nothing is known to be", got)
			}
		}
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(r, make([]byte, 3*piece))
			read <- err
		}()
		synctest.Wait()
		select {
		case err := <-read:
			t.Fatalf("a read ends with %v while what is here is verified", err)
		default:
		}
		close(goOn)
		if err := <-read; err != nil {
			t.Error(err)
		}
	})
}
