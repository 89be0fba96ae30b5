// Package bitfield holds sets of pieces in the form the wire uses: one bit a piece, the most
// significant bit of the first byte first (BEP 3, "bitfield").
package bitfield

import (
	"errors"
	"iter"
	"math/bits"
)

// ErrLength is returned for a wire bitfield that is not exactly as long as the torrent needs.
var ErrLength = errors.New("bitfield: wrong length")

// ErrSpareBits is returned for a wire bitfield whose bits past the last piece are not zero.
var ErrSpareBits = errors.New("bitfield: spare bits set")

// Set is a set of pieces 0..Len()-1. The zero Set is empty and of length 0. It is not safe for
// concurrent use.
type Set struct {
	b     []byte
	n     int
	count int
}

// New returns an empty set for n pieces.
func New(n int) *Set { return &Set{b: make([]byte, Bytes(n)), n: n} }

// NewFull returns a set that holds all of n pieces.
func NewFull(n int) *Set {
	s := New(n)
	s.Fill()
	return s
}

// Bytes returns how many bytes the wire form of n pieces takes.
func Bytes(n int) int { return (n + 7) / 8 }

// Parse returns a set for n pieces from its wire form, which is copied. The errors are [ErrLength] and
// [ErrSpareBits].
func Parse(wire []byte, n int) (*Set, error) {
	if len(wire) != Bytes(n) {
		return nil, ErrLength
	}
	if n%8 != 0 && wire[len(wire)-1]<<(n%8) != 0 {
		return nil, ErrSpareBits
	}
	s := &Set{b: append([]byte(nil), wire...), n: n}
	for _, c := range wire {
		s.count += bits.OnesCount8(c)
	}
	return s, nil
}

// Len returns the number of pieces the set ranges over.
func (s *Set) Len() int { return s.n }

// Count returns how many pieces are in the set.
func (s *Set) Count() int { return s.count }

// Full reports whether every piece is in the set. A set of length 0 is full.
func (s *Set) Full() bool { return s.count == s.n }

// Has reports whether piece i is in the set; false if i is out of range.
func (s *Set) Has(i int) bool {
	return uint(i) < uint(s.n) && s.b[i>>3]&(0x80>>(i&7)) != 0
}

// Add puts piece i into the set and reports whether it was not there before. Out of range it does nothing.
func (s *Set) Add(i int) bool {
	if uint(i) >= uint(s.n) || s.Has(i) {
		return false
	}
	s.b[i>>3] |= 0x80 >> (i & 7)
	s.count++
	return true
}

// Remove takes piece i out of the set and reports whether it was there.
func (s *Set) Remove(i int) bool {
	if !s.Has(i) {
		return false
	}
	s.b[i>>3] &^= 0x80 >> (i & 7)
	s.count--
	return true
}

// Fill puts every piece into the set.
func (s *Set) Fill() {
	for i := range s.b {
		s.b[i] = 0xff
	}
	if s.n%8 != 0 {
		s.b[len(s.b)-1] = 0xff << (8 - s.n%8)
	}
	s.count = s.n
}

// Clear empties the set.
func (s *Set) Clear() {
	clear(s.b)
	s.count = 0
}

// Clone returns a copy that shares nothing with s.
func (s *Set) Clone() *Set {
	return &Set{b: append([]byte(nil), s.b...), n: s.n, count: s.count}
}

// AppendWire appends the wire form of s to dst.
func (s *Set) AppendWire(dst []byte) []byte { return append(dst, s.b...) }

// All yields the pieces in the set in ascending order. The set must not change meanwhile.
func (s *Set) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, c := range s.b {
			for c != 0 {
				z := bits.LeadingZeros8(c)
				if !yield(i*8 + z) {
					return
				}
				c &^= 0x80 >> z
			}
		}
	}
}

// AnyOutside reports whether s holds a piece that other lacks: whether a peer who has s is interesting
// to one who has other. Both must be of one length.
func (s *Set) AnyOutside(other *Set) bool {
	for i, c := range s.b {
		if c&^other.b[i] != 0 {
			return true
		}
	}
	return false
}
