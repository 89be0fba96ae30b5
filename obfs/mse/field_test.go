package mse

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

var (
	bigP, _ = new(big.Int).SetString("FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563", 16)
	big2    = big.NewInt(2)
)

func randomBytes(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	r.Read(b)
	return b
}

// left writes n as 96 bytes.
func left(n *big.Int) (b [KeyBytes]byte) {
	n.FillBytes(b[:])
	return b
}

// TestPowers compares both powers with math/big, for random numbers and for those at the edges; a peer's key may be anything that 96 bytes hold.
func TestPowers(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	exponents := []exponent{{}, {19: 1}, {19: 2}, {0: 0x80}, {0: 1}}
	all := exponent{}
	for i := range all {
		all[i] = 0xff
	}
	exponents = append(exponents, all)
	for bit := range 160 {
		var x exponent
		x[bit/8] = 1 << (bit % 8)
		exponents = append(exponents, x)
	}
	for range 300 {
		exponents = append(exponents, exponent(randomBytes(r, 20)))
	}
	top := new(big.Int).Lsh(big.NewInt(1), 768)
	add := func(n *big.Int, d int64) *big.Int { return new(big.Int).Add(n, big.NewInt(d)) }
	keys := []*big.Int{big.NewInt(0), big.NewInt(1), big2, big.NewInt(3), add(bigP, -2), add(bigP, -1), bigP, add(bigP, 1), add(bigP, 5), add(top, -1), add(top, -2), new(big.Int).Sub(top, bigP)}
	for range 40 {
		keys = append(keys, new(big.Int).SetBytes(randomBytes(r, KeyBytes)))
	}
	for i, x := range exponents {
		n := new(big.Int).SetBytes(x[:])
		if got, want := x.publicKey(), left(new(big.Int).Exp(big2, n, bigP)); got != want {
			t.Fatalf("2^%x = %x, want %x", x, got, want)
		}
		for k, key := range keys {
			if i > 8 && (i+k)%16 != 0 {
				continue
			}
			y := left(key)
			if got, want := x.secret(&y), left(new(big.Int).Exp(key, n, bigP)); got != want {
				t.Fatalf("%x^%x = %x, want %x", y, x, got, want)
			}
		}
	}
}

// TestElements compares single operations with math/big, for numbers that take the carries to their ends.
func TestElements(t *testing.T) {
	r := rand.NewChaCha8([32]byte{2})
	toBig := func(e *element) *big.Int {
		n := new(big.Int)
		for i := limbs - 1; i >= 0; i-- {
			n.Or(n.Lsh(n, 64), new(big.Int).SetUint64(e[i]))
		}
		return n
	}
	max := element{}
	for i := range max {
		max[i] = ^uint64(0)
	}
	numbers := []element{{}, {1}, {limbs - 1: 1 << 63}, max, modulus, one, rSquared}
	for i := range limbs {
		e := max
		e[i] = 0
		var f element
		f[i] = ^uint64(0)
		numbers = append(numbers, e, f)
	}
	for range 40 {
		var e element
		for i := range e {
			e[i] = r.Uint64()
		}
		numbers = append(numbers, e)
	}
	inverse := new(big.Int).ModInverse(new(big.Int).Lsh(big.NewInt(1), 768), bigP)
	same := func(what string, got *element, want *big.Int) {
		t.Helper()
		if toBig(got).Mod(toBig(got), bigP).Cmp(want.Mod(want, bigP)) != 0 {
			t.Fatalf("%s: got %x, want %x", what, toBig(got), want)
		}
	}
	for _, a := range numbers {
		for _, b := range numbers {
			var z element
			z.mul(&a, &b)
			want := new(big.Int).Mul(toBig(&a), toBig(&b))
			same("product", &z, want.Mul(want, inverse))
		}
		var z element
		z.square(&a)
		want := new(big.Int).Mul(toBig(&a), toBig(&a))
		same("square", &z, want.Mul(want, inverse))
		z = a
		z.settle()
		same("settled", &z, toBig(&a))
		if toBig(&z).Cmp(bigP) >= 0 {
			t.Fatalf("%x is settled as %x", a, z)
		}
		z.double()
		same("double", &z, new(big.Int).Lsh(toBig(&a), 1))
	}
}

func TestValidKey(t *testing.T) {
	for _, tt := range []struct {
		base *big.Int
		add  int64
		want bool
	}{
		{new(big.Int), 0, false}, {new(big.Int), 1, false}, {new(big.Int), 2, true}, {new(big.Int), 3, true}, {bigP, -3, true}, {bigP, -2, true}, {bigP, -1, false}, {bigP, 0, false},
		{bigP, 1, false}, {bigP, 5, false}, {new(big.Int).Lsh(big.NewInt(1), 768), -1, false}, {new(big.Int).Lsh(big.NewInt(1), 700), 0, true},
	} {
		y := left(new(big.Int).Add(tt.base, big.NewInt(tt.add)))
		if got := validKey(&y); got != tt.want {
			t.Errorf("%x: %t, want %t", y, got, tt.want)
		}
	}
}

func BenchmarkPublicKey(b *testing.B) {
	x := exponent(randomBytes(rand.NewChaCha8([32]byte{3}), 20))
	for b.Loop() {
		x.publicKey()
	}
}

func BenchmarkSecret(b *testing.B) {
	x := exponent(randomBytes(rand.NewChaCha8([32]byte{3}), 20))
	y := x.publicKey()
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			x.secret(&y)
		}
	})
	b.Run("math/big", func(b *testing.B) {
		for b.Loop() {
			left(new(big.Int).Exp(new(big.Int).SetBytes(y[:]), new(big.Int).SetBytes(x[:]), bigP))
		}
	})
}

func BenchmarkPick(b *testing.B) {
	var z element
	for b.Loop() {
		z.pick(&generator[1], 7)
	}
}

func BenchmarkSquare(b *testing.B) {
	z := rSquared
	for b.Loop() {
		z.square(&z)
	}
}

func BenchmarkMul(b *testing.B) {
	z := rSquared
	for b.Loop() {
		z.mul(&z, &rSquared)
	}
}

func BenchmarkTables(b *testing.B) {
	for b.Loop() {
		powersOfTwo()
	}
}
