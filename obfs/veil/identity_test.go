package veil

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"
)

func TestIdentity(t *testing.T) {
	rng := testRand(1)
	seed := make([]byte, 32)
	var h [32]byte
	rng.Read(seed)
	rng.Read(h[:])
	priv := ed25519.NewKeyFromSeed(seed)
	k := []byte(priv.Public().(ed25519.PublicKey))
	for _, initiator := range []bool{true, false} {
		s := SignIdentity(priv, initiator, &h)
		if err := VerifyIdentity(k, s[:], initiator, &h); err != nil {
			t.Fatal(err)
		}
		bad := func(name string, k, s []byte, initiator bool, h [32]byte) {
			t.Helper()
			if err := VerifyIdentity(k, s, initiator, &h); err != ErrBadIdentity {
				t.Errorf("%s: %v, want ErrBadIdentity", name, err)
			}
		}
		other := h
		other[31]++
		bad("the other side", k, s[:], !initiator, h)
		bad("another session", k, s[:], initiator, other)
		bad("no signature", k, nil, initiator, h)
		bad("no key", nil, s[:], initiator, h)
		bad("short key", k[:31], s[:], initiator, h)
		bad("long key", append(slices.Clone(k), 0), s[:], initiator, h)
		bad("short signature", k, s[:63], initiator, h)
		bad("long signature", k, append(s[:], 0), initiator, h)
		for i := range 256 {
			bit := slices.Clone(k)
			bit[i/8] ^= 1 << (i % 8)
			bad("changed key", bit, s[:], initiator, h)
		}
		for i := range 512 {
			bit := s
			bit[i/8] ^= 1 << (i % 8)
			bad("changed signature", k, bit[:], initiator, h)
		}
		// S + L is the same number to whoever does not look.
		bad("S not canonical", k, append(slices.Clone(s[:32]), addOrder(s[32:])...), initiator, h)
	}
}

// groupOrder is L.
var groupOrder, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)

func addOrder(s []byte) []byte {
	b := littleEndian(s)
	s = b.Add(b, groupOrder).FillBytes(make([]byte, 32))
	slices.Reverse(s)
	return s
}

// smallOrderKeys are all encodings of the eight points of small order, those that are not canonical included.
var smallOrderKeys = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000080", // -0
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", // -0
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p+1
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

// TestSmallOrderKeys signs for each key of small order without having any key: with S = 0 and R the neutral element the equation holds whenever
// the hash happens to be a multiple of the order, so that one in eight sessions could be fooled, and for the neutral element every one.
func TestSmallOrderKeys(t *testing.T) {
	var s [64]byte
	s[0] = 1 // R is the neutral element
	for _, text := range smallOrderKeys {
		k, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		fooled := 0
		for n := range 64 {
			h := [32]byte{byte(n)}
			b := signed(k, true, &h)
			if ed25519.Verify(k, b[:], s[:]) {
				fooled++
			}
			if VerifyIdentity(k, s[:], true, &h) == nil {
				t.Fatalf("%s: accepted", text)
			}
		}
		if fooled == 0 {
			t.Errorf("%s: this forgery fools nobody, so the test shows nothing", text)
		}
	}
}

// TestNonCanonicalKeys checks every encoding at or above the prime; those that are no points of small order too.
func TestNonCanonicalKeys(t *testing.T) {
	for n := range 19 {
		for _, sign := range []byte{0, 0x80} {
			k := [32]byte(bytes.Repeat([]byte{0xff}, 32))
			k[0], k[31] = byte(0xed+n), 0x7f|sign
			if strictKey(k) {
				t.Errorf("%x passes", k)
			}
		}
	}
	for _, k := range [][32]byte{{0xeb}, {0xed}, {2}, {31: 0x7f}, [32]byte(append([]byte{0xeb}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...))} {
		if !strictKey(k) {
			t.Errorf("%x does not pass", k)
		}
	}
}

// The curve of Ed25519 (RFC 8032 section 5.1), slowly, for the one test that needs points.
var (
	prime  = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	curveD = mod(new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), prime)))
)

func mod(n *big.Int) *big.Int { return n.Mod(n, prime) }

func mul(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }

func littleEndian(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

// decodePoint returns the point that k encodes.
func decodePoint(t *testing.T, k [32]byte) (x, y *big.Int) {
	t.Helper()
	sign := uint(k[31] >> 7)
	k[31] &= 0x7f
	y = littleEndian(k[:])
	one, yy := big.NewInt(1), mul(y, y)
	// x² = (y² - 1) / (d y² + 1)
	xx := mul(new(big.Int).Sub(yy, one), new(big.Int).ModInverse(mod(new(big.Int).Add(mul(curveD, yy), one)), prime))
	if x = new(big.Int).ModSqrt(xx, prime); x == nil {
		t.Fatalf("%x is no point", k)
	}
	if x.Bit(0) != sign {
		x.Sub(prime, x)
	}
	return x, y
}

// addPoints returns the encoding of the sum of two points.
func addPoints(t *testing.T, p, q [32]byte) (sum [32]byte) {
	t.Helper()
	x1, y1 := decodePoint(t, p)
	x2, y2 := decodePoint(t, q)
	one := big.NewInt(1)
	dxy := mul(curveD, mul(mul(x1, x2), mul(y1, y2)))
	x := mul(new(big.Int).Add(mul(x1, y2), mul(x2, y1)), new(big.Int).ModInverse(mod(new(big.Int).Add(one, dxy)), prime))
	y := mul(new(big.Int).Add(mul(y1, y2), mul(x1, x2)), new(big.Int).ModInverse(mod(new(big.Int).Sub(one, dxy)), prime))
	y.FillBytes(sum[:])
	slices.Reverse(sum[:])
	sum[31] |= byte(x.Bit(0)) << 7
	return sum
}

// TestNoCofactor makes signatures for a key to which a point of order 8 is added. The equation multiplied by the cofactor holds for every one; the
// plain one only where the hash is a multiple of 8, and only those may be accepted.
func TestNoCofactor(t *testing.T) {
	seed := bytes.Repeat([]byte{5}, 32)
	priv := ed25519.NewKeyFromSeed(seed)
	expanded := sha512.Sum512(seed)
	expanded[0] &= 248
	expanded[31] = expanded[31]&127 | 64
	a := littleEndian(expanded[:32])
	k := addPoints(t, [32]byte(priv.Public().(ed25519.PublicKey)), smallOrder[3])

	// R is the public key of another seed, so that its logarithm is known.
	seed = bytes.Repeat([]byte{6}, 32)
	r := []byte(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	expanded = sha512.Sum512(seed)
	expanded[0] &= 248
	expanded[31] = expanded[31]&127 | 64
	logR := littleEndian(expanded[:32])

	accepted := 0
	for n := range 64 {
		h := [32]byte{byte(n)}
		b := signed(k[:], true, &h)
		digest := sha512.Sum512(slices.Concat(r, k[:], b[:]))
		e := littleEndian(digest[:])
		e.Mod(e, groupOrder)
		s := new(big.Int).Mul(e, a)
		s.Add(s, logR).Mod(s, groupOrder)
		var sBytes [32]byte
		s.FillBytes(sBytes[:])
		slices.Reverse(sBytes[:])
		err := VerifyIdentity(k[:], slices.Concat(r, sBytes[:]), true, &h)
		if want := e.Bit(0)|e.Bit(1)|e.Bit(2) == 0; (err == nil) != want {
			t.Fatalf("hash mod 8 is %d: %v", new(big.Int).Mod(e, big.NewInt(8)), err)
		}
		if err == nil {
			accepted++
		}
	}
	if accepted == 0 {
		t.Error("none is accepted, so the signatures are wrong and the test shows nothing")
	}
}
