package mse

import (
	"encoding/binary"
	"math/bits"
)

//go:generate go test -run TestUnrolled -update

// The Diffie-Hellman of MSE is done modulo a prime P of 768 bits, with the generator 2 and exponents of 160 bits (azmp.md section 9.1). A handshake takes four powers, two of 2 and
// two of what the peer sent. math/big needs 70 to 90 µs for each, and a time that depends on the exponent. Here they take 15 and 54 µs, and the same time for all exponents: no
// branch and no index below depends on a secret.
//
// Numbers are in Montgomery's form, x·R mod P with R = 2^768. They may be anything below R, not only below P: all of a product's reduction that then remains is one
// subtraction where it overflows R, and only what leaves here is brought below P.

// limbs is the number of words in P.
const limbs = 12

// P, least significant word first, and -1/P mod 2^64.
const (
	p0  = 0x0000000000090563
	p1  = 0xf44c42e9a63a3621
	p2  = 0xe485b576625e7ec6
	p3  = 0x4fe1356d6d51c245
	p4  = 0x302b0a6df25f1437
	p5  = 0xef9519b3cd3a431b
	p6  = 0x514a08798e3404dd
	p7  = 0x020bbea63b139b22
	p8  = 0x29024e088a67cc74
	p9  = 0xc4c6628b80dc1cd1
	p10 = 0xc90fdaa22168c234
	p11 = 0xffffffffffffffff

	pInverse = 0x6d5d6e6995075bb5
)

type (
	element [limbs]uint64     // a number below R, least significant word first
	wide    [2 * limbs]uint64 // a product of two
)

var modulus = element{p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11}

// add adds x to the number c2:c1:c0.
func add(c0, c1, c2, x uint64) (uint64, uint64, uint64) {
	c0, c := bits.Add64(c0, x, 0)
	c1, c = bits.Add64(c1, 0, c)
	return c0, c1, c2 + c
}

// addMul adds x·y to the number c2:c1:c0.
func addMul(c0, c1, c2, x, y uint64) (uint64, uint64, uint64) {
	hi, lo := bits.Mul64(x, y)
	c0, c := bits.Add64(c0, lo, 0)
	c1, c = bits.Add64(c1, hi, c)
	c2, _ = bits.Add64(c2, 0, c)
	return c0, c1, c2
}

// addTwice adds d2:d1:d0 twice to the number c2:c1:c0.
func addTwice(c0, c1, c2, d0, d1, d2 uint64) (uint64, uint64, uint64) {
	d2 = d2<<1 | d1>>63
	d1 = d1<<1 | d0>>63
	c0, c := bits.Add64(c0, d0<<1, 0)
	c1, c = bits.Add64(c1, d1, c)
	c2, _ = bits.Add64(c2, d2, c)
	return c0, c1, c2
}

// subtractModulus takes P off z if carry, which is 0 or 1, is 1.
func (z *element) subtractModulus(carry uint64) {
	mask := -carry
	var c uint64
	for i := range z {
		z[i], c = bits.Sub64(z[i], modulus[i]&mask, c)
	}
}

// mul sets z to a·b / R. z may be a or b.
func (z *element) mul(a, b *element) {
	var t wide
	wideMul(&t, a, b)
	reduce(z, &t)
}

// square sets z to a² / R. z may be a.
func (z *element) square(a *element) {
	var t wide
	wideSquare(&t, a)
	reduce(z, &t)
}

// double sets z, which is below P, to 2·z, below P too.
func (z *element) double() {
	var c uint64
	for i := range z {
		z[i], c = bits.Add64(z[i], z[i], c)
	}
	z.subtractModulus(c)
	z.settle()
}

// settle brings z, if it is below 2P, below P.
func (z *element) settle() {
	var d element
	var borrow uint64
	for i := range z {
		d[i], borrow = bits.Sub64(z[i], modulus[i], borrow)
	}
	mask := borrow - 1 // all ones if z was not below P
	for i := range z {
		z[i] ^= (z[i] ^ d[i]) & mask
	}
}

// setBytes sets z to 96 bytes, most significant first, in Montgomery's form. They may be P or more.
func (z *element) setBytes(b *[KeyBytes]byte) {
	for i := range z {
		z[i] = binary.BigEndian.Uint64(b[KeyBytes-8*(i+1):])
	}
	z.mul(z, &rSquared)
}

// bytes writes z, which is in Montgomery's form, as 96 bytes, most significant first: the number below P, with the zeros on its left.
func (z *element) bytes(b *[KeyBytes]byte) {
	t := wide{}
	copy(t[:], z[:])
	var plain element
	reduce(&plain, &t)
	plain.settle() // it is at most P
	for i, w := range plain {
		binary.BigEndian.PutUint64(b[KeyBytes-8*(i+1):], w)
	}
}

// pick sets z to table[index] in a time that does not depend on the index: it reads all of the table.
func (z *element) pick(table *[16]element, index uint64) {
	var m [16]uint64
	for i := range m {
		m[i] = -(((uint64(i) ^ index) - 1) >> 63) // all ones if i is the index, as both are small
	}
	t := table
	for k := range z {
		z[k] = t[0][k]&m[0] | t[1][k]&m[1] | t[2][k]&m[2] | t[3][k]&m[3] | t[4][k]&m[4] | t[5][k]&m[5] | t[6][k]&m[6] | t[7][k]&m[7] |
			t[8][k]&m[8] | t[9][k]&m[9] | t[10][k]&m[10] | t[11][k]&m[11] | t[12][k]&m[12] | t[13][k]&m[13] | t[14][k]&m[14] | t[15][k]&m[15]
	}
}

// The powers of 2 are taken from tables: an exponent is cut into four rows of 40 bits, and these into five blocks of 8. Column k of a block is four bits, one of each row, and
// generator[block] has the power of 2 for each value of column 0. For all columns that makes 39 products and 7 squares, where there would be 160 squares.
const (
	rows   = 4
	blocks = 5
)

// What follows from P, computed when the program starts, in about 50 µs; as text it would be 85 lines of digits.
var (
	one       = montgomeryOne()
	rSquared  = montgomeryRSquared() // R² in plain form, thus R in Montgomery's: a product with it puts a number into that form
	generator = powersOfTwo()
)

// montgomeryOne returns 1 in Montgomery's form: R mod P, which is R - P.
func montgomeryOne() (z element) {
	var c uint64
	for i := range z {
		z[i], c = bits.Sub64(0, modulus[i], c)
	}
	return z
}

// montgomeryRSquared returns R, which is 2^(3·2^8), in Montgomery's form.
func montgomeryRSquared() element {
	z := one
	for range 3 {
		z.double()
	}
	for range 8 {
		z.square(&z)
	}
	return z
}

// powersOfTwo returns the tables described at rows and blocks.
func powersOfTwo() (tables [blocks][16]element) {
	z := one
	z.double() // 2^(2^0)
	for row := range rows {
		for block := range blocks {
			tables[block][1<<row] = z // 2^(2^(40 row + 8 block))
			for range 8 {
				z.square(&z)
			}
		}
	}
	for block := range tables {
		t := &tables[block]
		t[0] = one
		for i := 3; i < len(t); i++ {
			if rest := i & (i - 1); rest != 0 {
				t[i].mul(&t[rest], &t[i^rest])
			}
		}
	}
	return tables
}

// An exponent is a private key, most significant byte first.
type exponent [20]byte

// publicKey returns 2^x mod P.
func (x *exponent) publicKey() (y [KeyBytes]byte) {
	var acc, e element
	for column := 7; column >= 0; column-- {
		if column < 7 {
			acc.square(&acc)
		}
		for block := range blocks {
			var index uint64
			for row := range rows {
				b := x[len(x)-1-blocks*row-block] // the 8 bits of this row and block
				index |= (uint64(b) >> column & 1) << row
			}
			e.pick(&generator[block], index)
			if column == 7 && block == 0 {
				acc = e
			} else {
				acc.mul(&acc, &e)
			}
		}
	}
	acc.bytes(&y)
	return y
}

// secret returns y^x mod P, in 4 bits of x at a time.
func (x *exponent) secret(y *[KeyBytes]byte) (s [KeyBytes]byte) {
	var table [16]element
	table[0] = one
	table[1].setBytes(y)
	for i := 2; i < len(table); i += 2 {
		table[i].square(&table[i/2])
		table[i+1].mul(&table[i], &table[1])
	}
	var acc, e element
	acc.pick(&table, uint64(x[0]>>4))
	for i := 1; i < 2*len(x); i++ {
		for range 4 {
			acc.square(&acc)
		}
		nibble := x[i/2] >> (4 * (1 - i%2)) & 15
		e.pick(&table, uint64(nibble))
		acc.mul(&acc, &e)
	}
	acc.bytes(&s)
	return s
}

// validKey reports whether a public key is one that does not give S away: 2..P-2 (azmp.md section 9.6). It takes a time that depends on y, which everybody has seen.
func validKey(y *[KeyBytes]byte) bool {
	var low, high element
	var below, above uint64
	low[0] = 2
	high = modulus
	high[0] -= 2
	for i := range limbs {
		w := binary.BigEndian.Uint64(y[KeyBytes-8*(i+1):])
		_, below = bits.Sub64(w, low[i], below)
		_, above = bits.Sub64(high[i], w, above)
	}
	return below|above == 0
}
