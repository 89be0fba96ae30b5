// Package blockbuf lends out the two sizes of buffer that piece data moves through: [Buf], one block of
// 16 KiB, and [Large], 256 KiB for reading from sockets and disks. A buffer has one owner at a time; the
// owner hands it on or releases it, once, and does not touch it afterwards.
//
// The package decides how buffers are reused and counts those that are out, so that a test can find a
// leak. It does not decide how many may be out: that is for whoever requests blocks.
package blockbuf

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/parley-bt/parley/bt"
)

const (
	// BlockBytes is the capacity of a [Buf]: one block, 16 KiB.
	BlockBytes = bt.BlockBytes
	// LargeBytes is the size of a [Large], 256 KiB: enough that a system call costs little per byte.
	LargeBytes = 256 << 10
)

// Buf holds up to one block. It is not safe for concurrent use; passing it to another goroutine passes
// the ownership.
type Buf struct {
	b   *[BlockBytes]byte
	n   int
	out atomic.Bool // lent and not yet released
}

// Large is a buffer of [LargeBytes]. It is not safe for concurrent use.
type Large struct {
	b   *[LargeBytes]byte
	out atomic.Bool
}

// The bytes are allocated by themselves, so that they begin on a page: where they began four or twelve bytes behind one, the kernel took three times as long to
// copy them to and from files.

var (
	bufs      = sync.Pool{New: func() any { return &Buf{b: new([BlockBytes]byte)} }}
	larges    = sync.Pool{New: func() any { return &Large{b: new([LargeBytes]byte)} }}
	live      atomic.Int64
	liveLarge atomic.Int64
)

// Get returns a buffer of length [BlockBytes] that the caller owns. Its content is whatever the last
// owner left: write before reading.
func Get() *Buf {
	b := bufs.Get().(*Buf)
	b.n = BlockBytes
	b.out.Store(true)
	live.Add(1)
	return b
}

// Bytes returns the buffer's bytes, as many as [Buf.SetLen] said. The slice is valid until Release and
// has no spare capacity, so appending to it copies.
func (b *Buf) Bytes() []byte { return b.b[:b.n:b.n] }

// Len returns the number of bytes in use.
func (b *Buf) Len() int { return b.n }

// SetLen sets the number of bytes in use. Bytes that come into use keep their content. It panics if n
// is not within 0 and [BlockBytes]: lengths from peers are checked before they come here.
func (b *Buf) SetLen(n int) {
	if uint(n) > BlockBytes {
		panic(fmt.Sprintf("blockbuf: length %d out of range, want 0 to %d", n, BlockBytes))
	}
	b.n = n
}

// Release gives the buffer back; the caller no longer owns it. Releasing twice panics, unless the buffer
// has been lent out again meanwhile, which cannot be noticed.
func (b *Buf) Release() {
	if !b.out.CompareAndSwap(true, false) {
		panic("blockbuf: block buffer released twice")
	}
	live.Add(-1)
	bufs.Put(b)
}

// Live returns how many block buffers are lent out in this process. Tests compare it before and after.
func Live() int { return int(live.Load()) }

// GetLarge returns a large buffer that the caller owns, with whatever content the last owner left.
func GetLarge() *Large {
	l := larges.Get().(*Large)
	l.out.Store(true)
	liveLarge.Add(1)
	return l
}

// Bytes returns all [LargeBytes] of the buffer. The slice is valid until Release.
func (l *Large) Bytes() []byte { return l.b[:] }

// Release gives the buffer back; the caller no longer owns it. Releasing twice panics as for [Buf.Release].
func (l *Large) Release() {
	if !l.out.CompareAndSwap(true, false) {
		panic("blockbuf: large buffer released twice")
	}
	liveLarge.Add(-1)
	larges.Put(l)
}

// LiveLarge returns how many large buffers are lent out in this process.
func LiveLarge() int { return int(liveLarge.Load()) }
