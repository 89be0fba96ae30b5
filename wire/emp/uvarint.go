package emp

import (
	"encoding/binary"
	"math/bits"
)

// maxUvarintBytes is the length of the largest uvarint.
const maxUvarintBytes = 5

// AppendUvarint appends v as a uvarint: unsigned LEB128 in its shortest form, 1 to 5 bytes (EMP/1, "Words").
func AppendUvarint(dst []byte, v uint32) []byte { return binary.AppendUvarint(dst, uint64(v)) }

// UvarintLen returns how many bytes [AppendUvarint] appends for v.
func UvarintLen(v uint32) int { return (bits.Len32(v|1) + 6) / 7 }

// Uvarint reads the uvarint at the start of b and returns it with its length in bytes. The length is 0 if b ends before the uvarint does, and
// negative if it is none, whatever follows: in a form longer than the shortest, or 2^32 and above (EMP/1, "Words").
func Uvarint(b []byte) (v uint32, n int) {
	for i, c := range b {
		if i == maxUvarintBytes-1 && c > 0x0f { // 4 bits are left of 32; more bits or another byte is beyond them
			return 0, -1
		}
		if c < 0x80 {
			if c == 0 && i > 0 { // the byte adds nothing: the form without it is shorter
				return 0, -1
			}
			return v | uint32(c)<<(7*uint(i)), i + 1
		}
		v |= uint32(c&0x7f) << (7 * uint(i))
	}
	return 0, 0
}
