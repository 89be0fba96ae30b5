package swarm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// A disk that fails stops the torrent: whoever waits is told why, peers are let go, and what is good stays.
func TestStorageFails(t *testing.T) {
	pathErr := func(err error) error { return &fs.PathError{Op: "write", Path: "content", Err: err} }
	writes := func(n int32, err error) *wrapped {
		var left atomic.Int32
		left.Store(n)
		return &wrapped{write: func([]byte, int64) error {
			if left.Add(-1) < 0 {
				return pathErr(err)
			}
			return nil
		}}
	}
	tests := []struct {
		name  string
		store *wrapped
		want  error
		good  int // pieces that must have survived, at least
	}{
		{"no space left at once", writes(0, syscall.ENOSPC), syscall.ENOSPC, 0},
		{"no space left after some", writes(12, syscall.ENOSPC), syscall.ENOSPC, 5},
		{"the disk is broken", writes(5, syscall.EIO), syscall.EIO, 1},
		{"finishing a file fails", &wrapped{verified: func(i bt.PieceIndex) error {
			if i == 15 {
				return pathErr(syscall.EIO)
			}
			return nil
		}}, syscall.EIO, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 20*piece, piece, slow)
				seed := w.start(seeding)
				n := w.start(onto(tt.store))
				n.tor.AddPeers(seed.addr)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				if err := n.tor.WaitComplete(ctx); !errors.Is(err, tt.want) {
					t.Fatalf("WaitComplete = %v, want %v", err, tt.want)
				}
				s := n.tor.Stats()
				if s.State != StateStopped || !errors.Is(s.Err, tt.want) {
					t.Errorf("%+v, want it stopped with the error", s)
				}
				if n.count(EventError) != 1 || n.count(EventComplete) != 0 {
					t.Errorf("%d errors and %d completions were reported, want 1 and 0", n.count(EventError), n.count(EventComplete))
				}
				time.Sleep(5 * time.Second)
				if s := n.tor.Stats(); s.Peers != 0 || s.State != StateStopped || s.HavePieces < tt.good {
					t.Errorf("later: %+v, want no peers and at least %d pieces", s, tt.good)
				}
				// What counts as there is there.
				n.tor.haveMu.RLock()
				for i := range n.tor.have.All() {
					at := int64(i) * piece
					got := make([]byte, piece)
					if _, err := n.store.ReadAt(got, at); err != nil || !bytes.Equal(got, w.content[at:at+piece]) {
						t.Errorf("piece %d counts as there and is not: %v", i, err)
					}
				}
				n.tor.haveMu.RUnlock()
				// Nobody is dialled or taken in any more.
				before := len(n.dialled())
				n.tor.AddPeers(w.addr(), seed.addr)
				time.Sleep(time.Minute)
				if got := len(n.dialled()); got != before {
					t.Errorf("%d dials after it stopped", got-before)
				}
				nc, err := w.net.Dial(t.Context(), netip.AddrPortFrom(w.addr().Addr(), 0), n.addr)
				if err != nil {
					t.Fatal(err)
				}
				p := rawpeer.New(t, nc)
				if _, err := p.Greet(w.ih, bt.PeerID{9}, rawpeer.LTEP); err == nil {
					t.Error("a stopped torrent answers hellos")
				}
				n.close()
				if tt.store.closes != 1 {
					t.Errorf("the storage was closed %d times, want once", tt.store.closes)
				}
			})
		})
	}
}

// What was verified and can no longer be read stops a seed too, and the peer that asked is not to blame.
func TestReadingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*piece, piece, slow)
		seed := w.start(seeding, onto(&wrapped{read: func(_ []byte, off int64) error {
			if off == 7*piece {
				return syscall.EIO
			}
			return nil
		}}))
		n := w.start()
		n.tor.AddPeers(seed.addr)
		select {
		case <-seed.tor.stopped.Load().ch:
		case <-time.After(time.Minute):
			t.Fatal("the seed goes on")
		}
		if s := seed.tor.Stats(); s.State != StateStopped || !errors.Is(s.Err, syscall.EIO) {
			t.Errorf("%+v, want it stopped with the error", s)
		}
		time.Sleep(10 * time.Second)
		good := w.start(seeding)
		n.tor.AddPeers(good.addr)
		n.waitComplete(5 * time.Minute)
	})
}

func TestOpeningStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*piece, piece, slow)
		n := w.start(with(func(cfg *Config) {
			cfg.Open = func(*metainfo.Info) (storage.Storage, error) { return nil, errTest }
		}))
		if err := n.tor.WaitReady(t.Context()); !errors.Is(err, errTest) {
			t.Errorf("WaitReady = %v, want %v", err, errTest)
		}
		if err := n.tor.WaitComplete(t.Context()); !errors.Is(err, errTest) {
			t.Errorf("WaitComplete = %v, want %v", err, errTest)
		}
		n.close()
		if err := n.tor.WaitComplete(t.Context()); !errors.Is(err, errTest) {
			t.Errorf("WaitComplete after Close = %v, want %v", err, errTest)
		}
	})
}

// Close returns within two seconds whatever the torrent is doing, and leaves nothing behind: the bubble and TestMain see to that.
func TestCloseInEveryState(t *testing.T) {
	silent := func(nc net.Conn, _ netip.AddrPort) {
		var b [1000]byte
		for {
			if _, err := nc.Read(b[:]); err != nil {
				return
			}
		}
	}
	type setting struct {
		options []func(*node, *Config)
		prepare func(w *world, n *node)
		state   State
		pieces  int64 // 0: 20
	}
	slowly := func() *wrapped {
		return &wrapped{read: func([]byte, int64) error { time.Sleep(500 * time.Millisecond); return nil }}
	}
	tests := map[string]setting{
		"metadata, alone": {options: []func(*node, *Config){magnet}, state: StateMetadata},
		"metadata, asking": {options: []func(*node, *Config){magnet}, state: StateMetadata, prepare: func(w *world, n *node) {
			n.tor.AddPeers(w.listenRaw(offer(100_000, func(uint32) []ltep.Metadata { return []ltep.Metadata{} })))
		}},
		"verifying": {options: []func(*node, *Config){seeding, onto(slowly()), with(func(cfg *Config) { cfg.Complete = false })}, state: StateVerifying, pieces: 400},
		"verifying, with a peer": {options: []func(*node, *Config){seeding, onto(slowly()), with(func(cfg *Config) { cfg.Complete = false })}, state: StateVerifying, pieces: 400,
			prepare: func(w *world, n *node) { w.raw(n) }},
		"opening storage": {options: []func(*node, *Config){with(func(cfg *Config) {
			open := cfg.Open
			cfg.Open = func(info *metainfo.Info) (storage.Storage, error) {
				time.Sleep(4500 * time.Millisecond)
				return open(info)
			}
		})}, state: StateVerifying},
		"downloading, alone": {state: StateDownloading},
		"downloading": {state: StateDownloading, prepare: func(w *world, n *node) {
			n.tor.AddPeers(w.start(seeding).addr)
		}},
		"dialling": {state: StateDownloading, options: []func(*node, *Config){with(func(cfg *Config) {
			cfg.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})}, prepare: func(w *world, n *node) { n.tor.AddPeers(w.addr(), w.addr(), w.addr()) }},
		"greeting": {state: StateDownloading, prepare: func(w *world, n *node) {
			n.tor.AddPeers(w.listen(silent), w.listen(silent))
		}},
		"peers that do not read": {state: StateSeeding, options: []func(*node, *Config){seeding}, prepare: func(w *world, n *node) {
			for range 3 {
				p := w.raw(n)
				p.Write(classic.AppendInterested(nil))
				for i := range bt.PieceIndex(100) {
					p.Write(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Index: i % 20, Length: piece}}))
				}
			}
		}},
		"seeding, alone": {state: StateSeeding, options: []func(*node, *Config){seeding}},
		"idle": {state: StateIdle, options: []func(*node, *Config){with(func(cfg *Config) { cfg.NoDownload = true })}, prepare: func(w *world, n *node) {
			n.tor.AddPeers(w.start(seeding).addr)
		}},
		"a handler that is slow": {state: StateSeeding, options: []func(*node, *Config){seeding}, prepare: func(w *world, n *node) {
			ty, err := n.hub.Register(messaging.Spec{Name: "x", MaxBytes: 1 << 16, Handler: func(ctx context.Context, _ *messaging.Message) error {
				<-ctx.Done()
				return nil
			}})
			if err != nil {
				w.t.Fatal(err)
			}
			p := w.raw(n)
			var id uint8
			for id == 0 {
				e, err := p.UntilExchange()
				if err != nil {
					w.t.Fatal(err)
				}
				for _, x := range e.M {
					if x.Name == ty.Name() {
						id = x.ID
					}
				}
			}
			go func() {
				for p.Extended(id, make([]byte, 60_000)) == nil { // until the queue is full and nothing is read
				}
			}()
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, cmp.Or(tt.pieces, 20)*piece, piece, simnet.Link{Latency: 10 * time.Millisecond, Rate: 20 << 10})
				n := w.start(tt.options...)
				if tt.prepare != nil {
					tt.prepare(w, n)
				}
				time.Sleep(3 * time.Second)
				if s := n.tor.Stats().State; s != tt.state {
					t.Fatalf("state %v, want %v", s, tt.state)
				}
				if _, err := n.tor.Info(), n.tor.WaitComplete(ended()); tt.state == StateSeeding && err != nil {
					t.Errorf("WaitComplete of a seed: %v", err)
				}
				waiting := make(chan error, 1)
				if tt.state != StateSeeding {
					go func() { waiting <- n.tor.WaitComplete(context.Background()) }()
				}
				n.close()
				if n.taken > 2*time.Second {
					t.Errorf("Close took %v", n.taken)
				}
				if tt.state != StateSeeding {
					if err := <-waiting; !errors.Is(err, ErrClosed) {
						t.Errorf("a WaitComplete that waited: %v, want %v", err, ErrClosed)
					}
				}
				// Calls on what has been closed return.
				if s := n.tor.Stats(); s.State != StateStopped || s.Peers != 0 {
					t.Errorf("after Close: %+v", s)
				}
				n.tor.AddPeers(w.addr())
				n.tor.Announce()
				n.tor.Close()
				if ps := n.tor.Peers(); len(ps) != 0 {
					t.Errorf("after Close: %d peers", len(ps))
				}
				if n.tor.Call(func(map[*Peer]struct{}, Stats) {}) {
					t.Error("after Close: Call ran")
				}
				select {
				case <-n.tor.Done():
				default:
					t.Error("Done is not closed")
				}
			})
		})
	}
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Hundreds of sessions that end at once, with more in the inbox than it holds, do not make the owner wait for itself.
func TestManyEndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 500
		w := newWorld(t, 20*piece, piece, simnet.Link{Buffer: 4 << 10})
		n := w.start(with(func(cfg *Config) { cfg.MaxPeers = many }))
		handled := atomic.Int32{}
		ty, err := n.hub.Register(messaging.Spec{Name: "x", MaxBytes: 1000, Handler: func(context.Context, *messaging.Message) error {
			handled.Add(1)
			time.Sleep(time.Second)
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		ids, _, _ := n.hub.Exchange()
		from := w.addr()
		var raws []*rawpeer.Peer
		for i := range many {
			nc, err := w.net.Dial(t.Context(), netip.AddrPortFrom(from.Addr(), 0), n.addr)
			if err != nil {
				t.Fatal(err)
			}
			p := rawpeer.New(t, nc)
			if _, err := p.Greet(w.ih, bt.PeerID{1, byte(i), byte(i >> 8)}, rawpeer.LTEP); err != nil {
				t.Fatalf("peer %d: %v", i, err)
			}
			raws = append(raws, p)
		}
		if got := len(n.tor.Peers()); got != many {
			t.Fatalf("%d peers are connected, want %d", got, many)
		}
		// The owner is held up while every peer says something and ends.
		release := make(chan struct{})
		go n.tor.do(func() { <-release })
		synctest.Wait()
		for i, p := range raws {
			if i%2 == 0 {
				p.Extended(ids[0].ID, []byte("last words"))
			}
			p.Write(classic.AppendInterested(nil))
			p.Close()
		}
		synctest.Wait()
		close(release)
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.tor.Stats()
			time.Sleep(10 * time.Second)
		}()
		<-done
		if s := n.tor.Stats(); s.Peers != 0 {
			t.Errorf("%d peers are left", s.Peers)
		}
		if handled.Load() != many/2 {
			t.Errorf("%d of %d messages were handled: what came whole is handled", handled.Load(), many/2)
		}
		if l := n.tor.lingering.Load(); l != 0 {
			t.Errorf("%d sessions still linger", l)
		}
		if got := n.count(EventPeerDisconnected); got != many {
			t.Errorf("%d ends were reported, want %d", got, many)
		}
		if ty.Total().MessagesIn.Load() != many/2 {
			t.Errorf("the type counts %d messages", ty.Total().MessagesIn.Load())
		}
	})
}

// Data that is there already is verified and kept; the rest is fetched.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*piece+5, piece, slow)
		seed := w.start(seeding)
		var verified []int
		n := w.start(func(n *node, cfg *Config) {
			if _, err := n.store.WriteAt(w.content, 0); err != nil {
				t.Fatal(err)
			}
			for _, i := range []int64{0, 7, 20} {
				if _, err := n.store.WriteAt([]byte{w.content[i*piece] ^ 1}, i*piece); err != nil {
					t.Fatal(err)
				}
			}
			cfg.OnVerify = func(done, _ int) { verified = append(verified, done) }
		})
		if err := n.tor.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := n.tor.Stats(); s.HavePieces != 18 || s.HaveBytes != 18*piece || s.State != StateDownloading {
			t.Errorf("%+v, want 18 of 21 pieces", s)
		}
		if len(verified) == 0 || verified[len(verified)-1] != 21 {
			t.Errorf("verification was told as %v, want 21 at the end", verified)
		}
		n.tor.AddPeers(seed.addr)
		n.waitComplete(time.Minute)
		if s := n.tor.Stats(); s.Downloaded != 2*piece+5 || s.HaveBytes != 20*piece+5 {
			t.Errorf("%+v, want three pieces downloaded", s)
		}
	})
}
