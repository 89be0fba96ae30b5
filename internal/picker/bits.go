package picker

import (
	"encoding/binary"
	"math/bits"

	"github.com/parley-bt/parley/bitfield"
)

// Sets of the picker's own: 64 pieces a word, the most significant bit first, so that a word lines up
// with eight bytes of a peer's bitfield.

func hasBit(set []uint64, i uint32) bool { return set[i>>6]&(1<<63>>(i&63)) != 0 }
func setBit(set []uint64, i uint32)      { set[i>>6] |= 1 << 63 >> (i & 63) }
func clearBit(set []uint64, i uint32)    { set[i>>6] &^= 1 << 63 >> (i & 63) }

// firstBit returns the number of the first bit set in w, which is not 0.
func firstBit(w uint64) int { return bits.LeadingZeros64(w) }

// words copies a peer's set to p.wire, padded to whole words, and returns how many there are, never more
// than the torrent has.
func (p *Picker) words(has *bitfield.Set) int {
	p.wire = has.AppendWire(p.wire[:0])
	for len(p.wire)%8 != 0 {
		p.wire = append(p.wire, 0)
	}
	return min(len(p.wire)/8, len(p.lack))
}

// word returns word k of a padded wire form.
func word(wire []byte, k int) uint64 { return binary.BigEndian.Uint64(wire[k*8:]) }
