package swarm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/picker"
	"github.com/parley-bt/parley/internal/pipeline"
)

// Bounds of what is fetched ahead of a reader.
const (
	readAheadSpan  = 20 * time.Second // of reading at the present rate
	minReadAhead   = 4 << 20          // bytes
	maxReadAhead   = 64 << 20
	minAheadPieces = 3
	// rushAfter is how long a reader waits for a piece before its blocks are asked of several peers.
	rushAfter = 2 * time.Second
)

// ErrReaderClosed is returned by reads of a closed reader.
var ErrReaderClosed = fmt.Errorf("reader: %w", fs.ErrClosed)

// Reader reads a file of a torrent while it comes. The pieces ahead of it are fetched first. A read waits for what is missing and returns verified bytes only.
//
// One goroutine may read and seek; Close may be called by any.
type Reader struct {
	t     *Torrent
	file  int
	start int64 // of the file in the torrent
	size  int64
	wake  chan struct{} // capacity 1: something may have changed
	done  chan struct{} // closed
	once  sync.Once

	pos  int64         // the reading goroutine's
	told bt.PieceIndex // the piece that the owner was told of last
	any  bool          // it was told of one
	read int           // bytes read since then

	// The owner's.
	at      int64 // in the torrent
	meter   pipeline.Meter
	waiting time.Time // since when it waits for the piece at at; zero if it does not
}

// NewReader returns a reader at the beginning of a file.
func (t *Torrent) NewReader(file int) (*Reader, error) {
	var r *Reader
	err := ErrClosed
	t.do(func() {
		switch {
		case t.cfg.NoDownload:
			err = ErrNoDownload
		case t.info == nil:
			err = ErrNoMetadata
		case t.err != nil:
			err = t.err
		case t.closing:
		case file < 0 || file >= len(t.info.Files) || t.info.Files[file].Padding:
			err = fmt.Errorf("%w: file %d of %d", ErrNoFile, file, len(t.info.Files))
		case t.skipped(file):
			err = ErrSkipped
		default:
			f := &t.info.Files[file]
			r, err = &Reader{t: t, file: file, start: f.Offset, size: f.Length, at: f.Offset, wake: make(chan struct{}, 1), done: make(chan struct{})}, nil
			t.readers[r] = struct{}{}
			t.urge()
			t.fillAll(t.cfg.Now())
		}
	})
	return r, err
}

// skipped reports whether a file is not wanted and not all here.
func (t *Torrent) skipped(file int) bool {
	return t.want.files != nil && t.want.files[file] == Skip && t.doneOf(file) < t.info.Files[file].Length
}

// Size returns the length of the file in bytes.
func (r *Reader) Size() int64 { return r.size }

// Read implements [io.Reader].
func (r *Reader) Read(p []byte) (int, error) { return r.ReadContext(context.Background(), p) }

// ReadContext reads up to len(p) bytes at the present position, waiting while none are here. It returns io.EOF at the end of the file, the context's cause,
// [ErrReaderClosed], [ErrSkipped] if the file is not wanted any longer, and what stopped the torrent.
func (r *Reader) ReadContext(ctx context.Context, p []byte) (int, error) {
	for {
		select {
		case <-r.done:
			return 0, ErrReaderClosed
		default:
		}
		if err := ctx.Err(); err != nil {
			return 0, context.Cause(ctx)
		}
		if r.pos >= r.size {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		s := r.t.shared.Load()
		if n, piece := r.here(s, int64(len(p))); n > 0 {
			n, err := r.readHere(s, p[:n], piece)
			if n == 0 && r.t.shared.Load().store != s.store {
				continue // the torrent has started again meanwhile
			}
			return n, err
		}
		if err := r.wait(ctx); err != nil {
			return 0, err
		}
	}
}

// here returns how many bytes, up to most, are verified at the present position, and the piece that it is in. Looking at a few pieces is enough.
func (r *Reader) here(s *sharedState, most int64) (n int64, piece bt.PieceIndex) {
	t := r.t
	if s.store == nil {
		return 0, 0
	}
	off := r.start + r.pos
	piece = bt.PieceIndex(off / int64(s.geom.PieceBytes))
	most = min(most, r.size-r.pos)
	t.haveMu.RLock()
	defer t.haveMu.RUnlock()
	if t.have == nil { // the torrent starts again
		return 0, piece
	}
	for i := piece; n < most && int(i) < s.geom.NumPieces() && t.have.Has(int(i)); i++ {
		n = min(most, s.geom.PieceStart(i)+int64(s.geom.PieceLen(i))-off)
	}
	return n, piece
}

// readHere reads bytes that are verified.
func (r *Reader) readHere(s *sharedState, p []byte, piece bt.PieceIndex) (int, error) {
	n, err := s.store.ReadAt(p, r.start+r.pos)
	if n == 0 {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the storage has less than it said
		}
		if stopped := r.t.stoppedBy(); stopped != nil {
			err = stopped
		}
		return 0, err
	}
	r.pos += int64(n)
	r.read += n
	if next := bt.PieceIndex((r.start + r.pos) / int64(s.geom.PieceBytes)); !r.any || next != r.told || next != piece {
		r.tell(next, false)
	}
	return n, nil
}

// tell tells the owner where the reader is.
func (r *Reader) tell(piece bt.PieceIndex, waits bool) {
	at, read := r.start+r.pos, r.read
	r.told, r.any, r.read = piece, true, 0
	r.t.post(envelope{kind: envCall, f: func() { r.t.readerAt(r, at, read, waits) }})
}

// wait waits until something may have changed.
func (r *Reader) wait(ctx context.Context) error {
	t := r.t
	var err error
	// The answer comes from the owner, so that nothing that changes afterwards is missed: it wakes readers.
	at, read := r.start+r.pos, r.read
	r.read, r.any = 0, false
	if !t.do(func() {
		switch {
		case t.err != nil:
			err = t.err
		case t.closing:
			err = ErrClosed
		case t.skipped(r.file):
			err = ErrSkipped
		default:
			t.readerAt(r, at, read, true)
		}
	}) {
		return ErrClosed
	}
	if err != nil {
		return err
	}
	select {
	case <-r.wake:
		return nil
	case <-r.done:
		return ErrReaderClosed
	case <-t.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Seek implements [io.Seeker]. Nothing is fetched before the next read; a position behind the end is one at the end.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	default:
		return r.pos, fmt.Errorf("reader: seek: whence is %d, want 0 to 2", whence)
	}
	if offset < 0 {
		return r.pos, fmt.Errorf("reader: seek: position %d is before the beginning", offset)
	}
	r.pos, r.any = offset, false
	return r.pos, nil
}

// Close ends the reader; a read that waits returns. What it has fetched ahead stays.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.done)
		r.t.post(envelope{kind: envCall, f: func() {
			delete(r.t.readers, r)
			r.t.urge()
		}})
	})
	return nil
}

// The owner's side.

// wakeUp makes a read that waits look again.
func (r *Reader) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// stoppedBy returns what has stopped the torrent; nil if it runs.
func (t *Torrent) stoppedBy() (err error) {
	if t.do(func() { err = t.err }) {
		return err
	}
	t.endMu.Lock()
	defer t.endMu.Unlock()
	return cmp.Or(t.err, ErrClosed)
}

// readerAt takes in where a reader is, and that it has read n bytes since it said so last.
func (t *Torrent) readerAt(r *Reader, at int64, n int, waits bool) {
	if _, here := t.readers[r]; !here || t.closing {
		return
	}
	now := t.cfg.Now()
	r.meter.Add(now, n)
	moved := r.at != at
	switch r.at = at; {
	case !waits:
		r.waiting = time.Time{}
	case moved || r.waiting.IsZero():
		r.waiting = now
	}
	t.urge()
	if waits && t.have != nil && t.have.Has(int(at/int64(t.geom.PieceBytes))) {
		r.wakeUp() // it came in between
	}
	if moved || waits {
		t.fillAll(now)
	}
}

// wakeReaders tells readers that a piece has come.
func (t *Torrent) wakeReaders() {
	for r := range t.readers {
		if !r.waiting.IsZero() {
			r.wakeUp()
		}
	}
}

// ahead returns the first piece that a reader needs and the one behind the last that is fetched ahead for it.
func (t *Torrent) ahead(r *Reader, now time.Time) (first, end bt.PieceIndex) {
	if r.at >= r.start+r.size {
		return 0, 0
	}
	size := int64(t.geom.PieceBytes)
	span := int64(r.meter.Rate(now) * readAheadSpan.Seconds())
	most := min(maxReadAhead, int64(t.cfg.BufferBytes/4))
	span = min(max(span, minReadAhead), max(most, size))
	first = bt.PieceIndex(r.at / size)
	end = bt.PieceIndex((min(r.at+span, r.start+r.size)-1)/size) + 1
	_, last := t.piecesOf(r.file)
	return first, min(max(end, first+minAheadPieces), last)
}

// urge tells the picker what will be read next: of each reader's pieces the first, then the second, and so on.
func (t *Torrent) urge() {
	if t.picker == nil {
		return
	}
	now := t.cfg.Now()
	t.urgent, t.rushed = t.urgent[:0], t.rushed[:0]
	for k, more := bt.PieceIndex(0), true; more && len(t.urgent) < picker.MaxUrgent; k++ {
		more = false
		for r := range t.readers {
			first, end := t.ahead(r, now)
			if t.skipped(r.file) || first+k >= end {
				continue
			}
			more = true
			if i := first + k; !t.have.Has(int(i)) {
				t.urgent = append(t.urgent, i)
				if k == 0 && !r.waiting.IsZero() && now.Sub(r.waiting) >= rushAfter {
					t.rushed = append(t.rushed, i)
				}
			}
		}
	}
	t.picker.SetUrgent(t.urgent, t.rushed)
}
