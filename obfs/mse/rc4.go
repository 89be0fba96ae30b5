package mse

import "encoding/binary"

// An rc4 is a key stream of RC4 at some place. crypto/rc4 has the same, with states of 1 KiB where these have 258 bytes (each connection keeps two), and gives 0.56 GB/s where this
// gives 0.9, by taking eight bytes at a time.
type rc4 struct {
	s    [256]uint8
	i, j uint8
	_    [320 - 258]byte // whole cache lines: the two directions of a connection may run on two cores at once
}

// discarded is how much of each key stream nobody uses (azmp.md section 9.1).
const discarded = 1024

// init starts the key stream and throws its head away.
func (c *rc4) init(key *[20]byte) {
	for i := range c.s {
		c.s[i] = uint8(i)
	}
	var j uint8
	k := 0
	for i := range c.s {
		j += c.s[i] + key[k]
		c.s[i], c.s[j] = c.s[j], c.s[i]
		if k++; k == len(key) {
			k = 0
		}
	}
	c.i, c.j = 0, 0
	c.skip(discarded)
}

// skip passes over n bytes of the key stream, at most as many as are discarded.
func (c *rc4) skip(n int) {
	var b [discarded]byte
	c.xor(b[:n])
}

// xor encrypts or decrypts b in place.
func (c *rc4) xor(b []byte) {
	i, j := c.i, c.j
	s := &c.s
	for len(b) >= 8 {
		// The next x is read before the swap writes, so that it need not wait for where that writes, and mended if it wrote there.
		var y, n uint8
		var w uint64
		x := s[i+1]
		i++
		j += x
		y = s[j]
		n = s[i+1]
		s[i], s[j] = y, x
		w |= uint64(s[x+y])
		if j == i+1 {
			n = x
		}
		x = n
		i++
		j += x
		y = s[j]
		n = s[i+1]
		s[i], s[j] = y, x
		w |= uint64(s[x+y]) << 8
		if j == i+1 {
			n = x
		}
		x = n
		i++
		j += x
		y = s[j]
		n = s[i+1]
		s[i], s[j] = y, x
		w |= uint64(s[x+y]) << 16
		if j == i+1 {
			n = x
		}
		x = n
		i++
		j += x
		y = s[j]
		n = s[i+1]
		s[i], s[j] = y, x
		w |= uint64(s[x+y]) << 24
		if j == i+1 {
			n = x
		}
		x = n
		i++
		j += x
		y = s[j]
		n = s[i+1]
		s[i], s[j] = y, x
		w |= uint64(s[x+y]) << 32
		if j == i+1 {
			n = x
		}
		x = n
		i++
		j += x
		y = s[j]
		n = s[i+1]
		s[i], s[j] = y, x
		w |= uint64(s[x+y]) << 40
		if j == i+1 {
			n = x
		}
		x = n
		i++
		j += x
		y = s[j]
		n = s[i+1]
		s[i], s[j] = y, x
		w |= uint64(s[x+y]) << 48
		if j == i+1 {
			n = x
		}
		x = n
		i++
		j += x
		y = s[j]
		s[i], s[j] = y, x
		w |= uint64(s[x+y]) << 56
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^w)
		b = b[8:]
	}
	for k := range b {
		i++
		x := s[i]
		j += x
		y := s[j]
		s[i], s[j] = y, x
		b[k] ^= s[x+y]
	}
	c.i, c.j = i, j
}
