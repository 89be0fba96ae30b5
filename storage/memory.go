package storage

import (
	"fmt"
	"io"
	"sync"

	"github.com/parley-bt/parley/bt"
)

// segmentBytes is how much memory the memory backend takes at a time.
const segmentBytes = 1 << 20

// Memory keeps a torrent in memory, in segments of 1 MiB that are taken when first written. It suits
// tests and short-lived torrents: nothing bounds it but the torrent's length.
type Memory struct {
	geom bt.Geometry

	mu       sync.Mutex // guards the map and closed, not the bytes of the segments
	segments map[int64][]byte
	closed   bool
}

var _ Storage = (*Memory)(nil)

// NewMemory returns an empty memory backend for a torrent of geometry geom.
func NewMemory(geom bt.Geometry) *Memory {
	return &Memory{geom: geom, segments: make(map[int64][]byte)}
}

// ReadAt implements [Storage]. A segment in which nothing was written is io.ErrUnexpectedEOF.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	p, end, err := clipRead(p, off, m.geom.TotalBytes)
	if err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		seg, err := m.segment(off+int64(n), false)
		if err != nil {
			return n, err
		}
		if seg == nil {
			return n, fmt.Errorf("storage: nothing written at offset %d: %w", off+int64(n), io.ErrUnexpectedEOF)
		}
		n += copy(p[n:], seg)
	}
	return n, end
}

// WriteAt implements [Storage].
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > m.geom.TotalBytes-int64(len(p)) {
		return 0, rangeError(len(p), off, m.geom.TotalBytes)
	}
	n := 0
	for n < len(p) {
		seg, err := m.segment(off+int64(n), true)
		if err != nil {
			return n, err
		}
		n += copy(seg, p[n:])
	}
	return n, nil
}

// segment returns the bytes from off to the end of its segment; nil if there is none and create is false.
func (m *Memory) segment(off int64, create bool) ([]byte, error) {
	i, begin := off/segmentBytes, off%segmentBytes
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	seg := m.segments[i]
	if seg == nil {
		if !create {
			return nil, nil
		}
		seg = make([]byte, min(segmentBytes, m.geom.TotalBytes-i*segmentBytes))
		m.segments[i] = seg
	}
	return seg[begin:], nil
}

// Verified implements [Storage]; memory has nothing to finalise.
func (m *Memory) Verified(i bt.PieceIndex) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if int64(i) >= int64(m.geom.NumPieces()) {
		return fmt.Errorf("%w: piece %d of %d", ErrRange, i, m.geom.NumPieces())
	}
	return nil
}

// Close implements [Storage] and lets go of the memory.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	m.closed, m.segments = true, nil
	return nil
}

// clipRead cuts p to what the torrent has at off, and returns the error that a full read of the rest ends
// with: io.EOF if p was cut, else nil.
func clipRead(p []byte, off, total int64) (clipped []byte, end, err error) {
	switch {
	case off < 0:
		return nil, nil, rangeError(len(p), off, total)
	case len(p) == 0:
		return nil, nil, nil
	case off >= total:
		return nil, nil, io.EOF
	case int64(len(p)) > total-off:
		return p[:total-off], io.EOF, nil
	}
	return p, nil, nil
}
