package swarm

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// remembering is a storage that counts how often it is asked to remember.
type remembering struct {
	storage.Storage
	pieces int
	saves  atomic.Int64
}

func (s *remembering) Resume() (trusted, check *bitfield.Set, err error) {
	return bitfield.New(s.pieces), bitfield.NewFull(s.pieces), nil
}

func (s *remembering) Checkpoint() error {
	s.saves.Add(1)
	return nil
}

// What is lost is remembered as soon as what is verified, and nothing is written while nothing changes.
func TestLossIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100<<10, 16<<10, slow)
		store := &remembering{pieces: w.info.NumPieces()}
		seed := w.start(seeding, func(n *node, cfg *Config) {
			store.Storage = n.store
			cfg.Open = func(*metainfo.Info) (storage.Storage, error) { return store, nil }
		})
		time.Sleep(time.Minute)
		store.saves.Store(0)
		time.Sleep(time.Hour)
		if n := store.saves.Load(); n != 0 {
			t.Errorf("%d checkpoints while nothing changed, want 0", n)
		}
		seed.tor.do(func() { seed.tor.lose([]bt.PieceIndex{2}) })
		time.Sleep(2 * saveEvery)
		if n := store.saves.Load(); n != 1 {
			t.Errorf("%d checkpoints after a piece was lost, want 1", n)
		}
	})
}
