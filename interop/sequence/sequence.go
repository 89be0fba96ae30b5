// Package sequence makes the messages that the interop tests send: the same ones in every language that implements the
// dozen lines below (node/sequence.mjs is the other), so that neither side has to be told what it should receive. It
// decides sizes, bytes and how a whole sequence is summed up in one hash.
package sequence

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// MaxBytes is the size of the largest message: 60 KiB.
const MaxBytes = 60 << 10

// A Direction keeps the messages of the two ways apart.
type Direction uint32

// The two directions.
const (
	FromParley Direction = 1
	ToParley   Direction = 2
)

// Append appends message i of a direction to dst. Of every 50 messages one is empty and one has MaxBytes; the sizes of the
// others are spread evenly between.
func Append(dst []byte, d Direction, i uint32) []byte {
	x := i*2654435761 + uint32(d)*40503 + 1
	if x == 0 {
		x = 1
	}
	next := func() uint32 { // xorshift32 (Marsaglia, "Xorshift RNGs", 2003)
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		return x
	}
	size := int(next() % (MaxBytes + 1))
	switch i % 50 {
	case 0:
		size = 0
	case 1:
		size = MaxBytes
	}
	end := len(dst) + size
	for len(dst) < end {
		dst = binary.LittleEndian.AppendUint32(dst, next())
	}
	return dst[:end]
}

// A Sum is the hash of messages in their order: SHA-256 over each one's length (4 bytes, big-endian) and bytes, so that
// neither a swap nor a different cut goes unnoticed. The zero value is not usable, see [NewSum].
type Sum struct {
	h     hash.Hash
	Count int
	Bytes int64
}

// NewSum returns the sum of no messages.
func NewSum() *Sum { return &Sum{h: sha256.New()} }

// Add adds the next message.
func (s *Sum) Add(msg []byte) {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(msg)))
	s.h.Write(n[:]) // never fails, as hash.Hash promises
	s.h.Write(msg)
	s.Count++
	s.Bytes += int64(len(msg))
}

// Hex returns the hash of the messages added so far.
func (s *Sum) Hex() string { return hex.EncodeToString(s.h.Sum(nil)) }

// Of returns the sum of messages 0 to n-1 of a direction.
func Of(d Direction, n int) *Sum {
	s := NewSum()
	buf := make([]byte, 0, MaxBytes+4)
	for i := range n {
		s.Add(Append(buf, d, uint32(i)))
	}
	return s
}
