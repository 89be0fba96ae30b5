package swarm

import (
	"context"
	"errors"
	"fmt"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/storage"
)

// Errors of what is asked of a torrent's content.
var (
	// ErrNotReady: the torrent's content is not known yet, or is being verified.
	ErrNotReady = errors.New("the torrent's content is not known yet")
	// ErrCannotMove: the torrent's storage has no way to move.
	ErrCannotMove = errors.New("the torrent's storage cannot be moved")
)

// Retry starts a torrent again that an error has stopped: storage is opened anew, which finds what is good there, and the torrent goes on from that. It does nothing
// for a torrent that has not stopped. The error is ErrClosed, or the one that stopped the torrent if trying again is of no use.
func (t *Torrent) Retry() error {
	err := ErrClosed
	t.do(func() { err = t.retry() })
	return err
}

func (t *Torrent) retry() error {
	switch {
	case t.closing:
		return ErrClosed
	case t.err == nil || t.retrying:
		return nil
	case t.info != nil && t.info.V2 && t.trees == nil:
		return t.err // its metadata contradict themselves
	}
	t.retrying = true
	t.complete.Store(newLatch())
	t.ready.Store(newLatch())
	t.stopped.Store(newLatch())
	t.tickRetry()
	return nil
}

// tickRetry starts the torrent again once nothing of what was stopped runs any more.
func (t *Torrent) tickRetry() {
	if !t.retrying || t.closing || t.working > 0 || t.saving || t.want.storing || t.webFetching > 0 || len(t.peers) > 0 {
		return
	}
	t.retrying, t.err = false, nil
	t.reopen, t.store = t.store, nil
	t.haveMu.Lock()
	t.have = nil
	t.haveMu.Unlock()
	if t.info != nil {
		t.recount()
	}
	t.endSuper()
	t.meta = metadataState{} // nobody is asked any more
	t.unsaved, t.progress = false, false
	t.cfg.Complete = false // who knows, after an error
	t.uploads = t.cfg.Uploads.join()
	t.publish()
	t.cfg.Log.Info("torrent starts again")
	t.notify(Event{Kind: EventRestarted})
	if t.info == nil || t.info.V2 && !t.trees.complete() && !t.info.Hybrid {
		t.state = StateMetadata
		t.redial()
		return
	}
	t.openStorage()
}

// closeForReopen closes the storage of a torrent that starts again. What it could not save is found by reading.
func (t *Torrent) closeForReopen(old storage.Storage) {
	if old == nil {
		return
	}
	if err := old.Close(); err != nil {
		t.cfg.Log.Warn("closing storage", "error", err)
	}
}

// VerifyOptions tunes [Torrent.Verify].
type VerifyOptions struct {
	BytesPerSecond int64                 // 0: as fast as the machine can
	Progress       func(done, total int) // pieces; from one goroutine at a time
}

// Verify hashes every piece that is here again, while the torrent goes on, and returns how many were wrong or gone. Those are no longer offered, peers are
// told (BEP 54), and what is wanted of them is downloaded again. An error of the disk stops the torrent.
func (t *Torrent) Verify(ctx context.Context, o VerifyOptions) (lost int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.ctx, func() { cancel(ErrClosed) })()
	var pieces *bitfield.Set
	state := ErrClosed
	var s *sharedState
	t.do(func() {
		switch {
		case t.closing:
		case t.err != nil:
			state = t.err
		case t.have == nil || t.store == nil:
			state = ErrNotReady
		default:
			state, pieces, s = nil, t.have.Clone(), t.shared.Load()
		}
	})
	if state != nil {
		return 0, state
	}
	if r, ok := s.store.(interface{ Refresh() error }); ok {
		if err := r.Refresh(); err != nil {
			return 0, err
		}
	}
	again := &verifyAgain{Storage: s.store, lost: bitfield.New(s.geom.NumPieces())}
	again.lose = func(pieces []bt.PieceIndex) { t.do(func() { t.lose(pieces) }) }
	_, err = storage.Verify(ctx, again, s.geom, s.hashes, storage.VerifyOptions{Pieces: pieces, BytesPerSecond: o.BytesPerSecond, Progress: o.Progress})
	if err != nil {
		if ctx.Err() != nil {
			return again.lost.Count(), context.Cause(ctx)
		}
		err = fmt.Errorf("verifying: %w", err)
		t.post(envelope{kind: envCall, f: func() {
			if t.store == s.store {
				t.fail(err)
			}
		}})
	}
	return again.lost.Count(), err
}

// verifyAgain is a storage that is told which of its pieces turned out to be wrong.
type verifyAgain struct {
	storage.Storage
	lost *bitfield.Set
	lose func([]bt.PieceIndex)
}

// Forget is called by [storage.Verify] for a piece that is wrong, one call at a time. Its files can be written to again before the torrent downloads it.
func (v *verifyAgain) Forget(i bt.PieceIndex) error {
	if v.lost.Has(int(i)) {
		return nil // it is on its way again, or here: what was read is old
	}
	if f, ok := v.Storage.(interface{ Forget(bt.PieceIndex) error }); ok {
		if err := f.Forget(i); err != nil {
			return err
		}
	}
	lost := []bt.PieceIndex{i}
	if r, ok := v.Storage.(interface {
		Reopen(bt.PieceIndex) ([]bt.PieceIndex, error)
	}); ok {
		more, err := r.Reopen(i)
		lost = append(lost, more...)
		if err != nil {
			return fmt.Errorf("piece %d is wrong: %w", i, err)
		}
	}
	for _, i := range lost {
		v.lost.Add(int(i))
	}
	v.lose(lost)
	return nil
}

// Move moves the torrent's content to the folder dir, see [storage.Files.Move], while the torrent goes on. It returns where the content is, whatever the error.
func (t *Torrent) Move(ctx context.Context, dir string) (now string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.ctx, func() { cancel(ErrClosed) })()
	s := t.shared.Load()
	if s.store == nil {
		return "", ErrNotReady
	}
	m, ok := s.store.(interface {
		Move(ctx context.Context, dir string) error
		Dir() string
	})
	if !ok {
		return "", ErrCannotMove
	}
	err = m.Move(ctx, dir)
	return m.Dir(), err
}
