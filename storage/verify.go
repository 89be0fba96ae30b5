package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
)

// HashPieces computes the hashes that h says the pieces have, on all cores and in bounded memory (one 256 KiB buffer a
// core). It calls onPiece once for each piece, from one goroutine at a time and in no particular order,
// until it returns false. err is why the piece could not be read; content that is not there is
// [fs.ErrNotExist] or [io.ErrUnexpectedEOF], and costs no reading where the file is missing.
//
// HashPieces returns nil if all pieces were reported or onPiece said stop, else ctx's error.
func HashPieces(ctx context.Context, s Storage, geom bt.Geometry, h Hashes, onPiece func(i bt.PieceIndex, sums *Sums, err error) bool) error {
	return hashPieces(ctx, s, geom, h, VerifyOptions{}, func(i bt.PieceIndex, _ *PieceHash, sums *Sums, err error) bool { return onPiece(i, sums, err) })
}

// pieceFunc is told what a piece should hash to and does, or why it could not be read; it returns whether to go on.
type pieceFunc func(i bt.PieceIndex, want *PieceHash, sums *Sums, err error) bool

// hashPieces is [HashPieces] for some of the pieces, at a rate, on so many cores.
func hashPieces(ctx context.Context, s Storage, geom bt.Geometry, h Hashes, o VerifyOptions, onPiece pieceFunc) error {
	n := geom.NumPieces()
	total := n
	if o.Pieces != nil {
		total = o.Pieces.Count()
	}
	pace := pacer{rate: o.BytesPerSecond}
	// A worker claims as many pieces as one buffer holds, so that small pieces are read in large reads too.
	group := 1
	if n > 0 {
		group = max(1, blockbuf.LargeBytes/int(geom.PieceBytes))
	}
	var (
		next     atomic.Int64 // first piece that nobody has claimed
		mu       sync.Mutex   // guards reported and stopped, and serialises onPiece
		reported int
		stopped  bool
		wg       sync.WaitGroup
	)
	report := func(i bt.PieceIndex, want *PieceHash, sums *Sums, err error) bool {
		mu.Lock()
		defer mu.Unlock()
		if stopped || ctx.Err() != nil {
			return false
		}
		reported++
		stopped = !onPiece(i, want, sums, err)
		return !stopped
	}
	for range min(cmp.Or(o.Workers, runtime.GOMAXPROCS(0)), (n+group-1)/group, total) {
		wg.Go(func() {
			buf := blockbuf.GetLarge()
			defer buf.Release()
			w := hasher{ctx: ctx, s: s, geom: geom, hashes: h, buf: buf.Bytes(), pace: &pace}
			for {
				first := int(next.Add(int64(group))) - group
				if first >= n || !w.wanted(o.Pieces, first, min(first+group, n), report) {
					return
				}
			}
		})
	}
	wg.Wait()
	if stopped || reported == total {
		return nil
	}
	return ctx.Err()
}

// hasher hashes pieces for one goroutine.
type hasher struct {
	ctx    context.Context
	s      Storage
	geom   bt.Geometry
	hashes Hashes
	buf    []byte
	sha    PieceHasher
	pace   *pacer

	want PieceHash // what is passed on of the piece in hand
	sums Sums
}

// wanted hashes and reports the pieces from first to end-1 that are in set; all if it is nil.
func (w *hasher) wanted(set *bitfield.Set, first, end int, report pieceFunc) bool {
	if set == nil {
		return w.pieces(first, end, report)
	}
	for first < end {
		if !set.Has(first) {
			first++
			continue
		}
		run := first + 1
		for run < end && set.Has(run) {
			run++
		}
		if !w.pieces(first, run, report) {
			return false
		}
		first = run
	}
	return true
}

// pieces hashes and reports pieces first to end-1, which fit the buffer together or are one.
func (w *hasher) pieces(first, end int, report pieceFunc) bool {
	have := 0 // bytes of the buffer read in one go
	if end-first > 1 {
		start := w.geom.PieceStart(bt.PieceIndex(first))
		size := w.geom.PieceStart(bt.PieceIndex(end-1)) + int64(w.geom.PieceLen(bt.PieceIndex(end-1))) - start
		if w.pace.wait(w.ctx, int(size)) != nil {
			return false // as the others will see for themselves
		}
		// An error is met again, and then reported, by the piece that it belongs to.
		have, _ = w.s.ReadAt(w.buf[:size], start)
	}
	start := w.geom.PieceStart(bt.PieceIndex(first))
	for i := bt.PieceIndex(first); i < bt.PieceIndex(end); i++ {
		at, size := int(w.geom.PieceStart(i)-start), int(w.geom.PieceLen(i))
		w.want = w.hashes.Piece(i)
		w.sha.Reset(w.want)
		var err error
		if at+size <= have {
			w.sha.Write(w.buf[at : at+size]) // never fails
		} else {
			// This overwrites the buffer; the pieces behind do not lie within have either.
			err = w.piece(i)
		}
		if w.sums = (Sums{}); err == nil {
			w.sums = w.sha.Sums()
		}
		if !report(i, &w.want, &w.sums, err) {
			return false
		}
	}
	return true
}

// piece reads and hashes piece i.
func (w *hasher) piece(i bt.PieceIndex) error {
	off, left := w.geom.PieceStart(i), int64(w.geom.PieceLen(i))
	for left > 0 {
		if err := w.ctx.Err(); err != nil {
			return err // not reported
		}
		p := w.buf[:min(int64(len(w.buf)), left)]
		if err := w.pace.wait(w.ctx, len(p)); err != nil {
			return err // not reported
		}
		n, err := w.s.ReadAt(p, off)
		if n < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		w.sha.Write(p) // never fails
		off += int64(n)
		left -= int64(n)
	}
	return nil
}

// VerifyPieces compares every piece in s with its hash and returns the set of those that are right, each of
// which s has been told as [Storage.Verified]; complete files have thus been finalised. A piece whose hash is unknown is
// not right.
//
// progress, if not nil, is called after each piece, from one goroutine at a time. Missing content is a
// piece that is not there; any other error of s ends the verification, and so do [ErrInconsistent] and ctx. The set is valid,
// as far as it goes, with an error too.
func VerifyPieces(ctx context.Context, s Storage, geom bt.Geometry, hashes Hashes, progress func(done, total int)) (*bitfield.Set, error) {
	return Verify(ctx, s, geom, hashes, VerifyOptions{Progress: progress})
}

// VerifyOptions tunes [Verify]. The zero value verifies everything as fast as the machine can.
type VerifyOptions struct {
	// Pieces are those to verify; nil means all.
	Pieces *bitfield.Set
	// BytesPerSecond bounds how fast is read, so that a verification in the background leaves the disk to
	// others; 0 means no bound.
	BytesPerSecond int64
	// Workers is how many pieces are hashed at once; 0 means one for each core.
	Workers int
	// Progress is called after each piece, from one goroutine at a time.
	Progress func(done, total int)
}

// Verify is [VerifyPieces] with options. It may run while s is being read and written: a piece that is being
// written meanwhile may be found wrong. Pieces found wrong that s was told of as verified earlier are
// forgotten, if s can do that as [Files.Forget] does: at its next checkpoint they are no longer claimed.
func Verify(ctx context.Context, s Storage, geom bt.Geometry, hashes Hashes, o VerifyOptions) (*bitfield.Set, error) {
	n := geom.NumPieces()
	have := bitfield.New(n)
	if err := checkCount(hashes, n); err != nil {
		return have, err
	}
	if o.Pieces != nil && o.Pieces.Len() != n {
		return have, fmt.Errorf("storage: a set of %d pieces to verify for a torrent of %d", o.Pieces.Len(), n)
	}
	total := n
	if o.Pieces != nil {
		total = o.Pieces.Count()
	}
	forgetter, _ := s.(interface{ Forget(bt.PieceIndex) error })
	done := 0
	var failed error
	err := hashPieces(ctx, s, geom, hashes, o, func(i bt.PieceIndex, want *PieceHash, sums *Sums, err error) bool {
		missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF)
		right := false
		if err == nil {
			if right, err = want.Check(sums); err != nil {
				err = fmt.Errorf("piece %d: %w", i, err)
			}
		}
		switch {
		case err != nil && !missing:
			failed = err
		case right:
			have.Add(int(i))
			failed = s.Verified(i)
		case forgetter != nil:
			failed = forgetter.Forget(i)
		}
		if failed != nil {
			return false
		}
		done++
		if o.Progress != nil {
			o.Progress(done, total)
		}
		return true
	})
	return have, errors.Join(failed, err)
}

// checkCount reports hashes that are not as many as the pieces.
func checkCount(hashes Hashes, n int) error {
	if got := hashes.NumPieces(); got != n {
		return fmt.Errorf("storage: hashes of %d pieces for %d", got, n)
	}
	return nil
}

// pacer bounds a rate over several goroutines. The zero pacer does not.
type pacer struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	next time.Time // when the bytes let through so far are used up
}

// wait waits until n bytes more may be read; ctx's error if it ends before.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p.rate <= 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	delay := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	if delay == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
