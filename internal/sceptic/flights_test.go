package sceptic

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
)

// alpha is the level of every test here, as a whole: where one looks at many places, each of them is judged at alpha divided by their number (Bonferroni). The
// sources are seeded, so a test that passes always passes; alpha says how surprising a failure would be after a change that is none.
const alpha = 1e-6

// connections is how many of each kind are looked at.
var connections = func() int {
	if raceEnabled { // there is nothing here for it to find
		return 2000
	}
	return 10_000
}()

// ih is known to everybody who is not an outsider. One for all, so that whatever depends on it alone would show.
var ih = veil.Secret([]byte("an info-hash, 20 b.."))

func seeded(kind byte, n int) *rand.ChaCha8 {
	var s [32]byte
	s[0] = kind
	binary.BigEndian.PutUint64(s[8:], uint64(n))
	return rand.NewChaCha8(s)
}

// A side is the first flights of one side of one transport.
type side struct {
	name    string
	head    int      // how many bytes come before the padding
	keyAt   int      // where the masked key is; -1: nowhere
	flights [][]byte // each 96 to 608 bytes
	masks   [][32]byte
}

// sides are the four, and the veiled hellos' keys.
type sides struct{ veilI, veilR, mseI, mseR side }

var collect = sync.OnceValue(func() *sides {
	s := &sides{
		veilI: side{name: "veil initiator", head: veil.HelloBytes, keyAt: 36}, veilR: side{name: "veil responder", head: veil.AnswerBytes},
		mseI: side{name: "MSE initiator", head: mse.KeyBytes, keyAt: -1}, mseR: side{name: "MSE responder", head: mse.KeyBytes, keyAt: -1},
	}
	ok := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	for n := range connections {
		var vi veil.Initiator
		rng := seeded('i', n)
		ok(vi.Init(veil.Config{Rand: rng, Key: must(veil.NewKey(rng))}, &ih))
		hello := vi.AppendOutput(nil)
		rng = seeded('r', n)
		var vr veil.Responder
		ok(vr.Open(veil.Config{Rand: rng, Key: must(veil.NewKey(rng))}, (*[veil.HelloBytes]byte)(hello), &ih))
		s.veilI.add(hello, mask(hello, "EMP/1 initiator mask"))
		s.veilR.add(vr.AppendOutput(nil), mask(hello, "EMP/1 responder mask"))

		var mi mse.Initiator
		ok(mi.Init(mse.Config{Rand: seeded('m', n)}, ih, nil))
		ya := mi.AppendOutput(nil)
		var mr mse.Responder
		ok(mr.Begin(mse.Config{Rand: seeded('n', n)}, (*[mse.KeyBytes]byte)(ya)))
		s.mseI.add(ya, [32]byte{})
		s.mseR.add(mr.AppendOutput(nil), [32]byte{})
	}
	return s
})

func (s *side) add(flight []byte, mask [32]byte) {
	s.flights, s.masks = append(s.flights, flight), append(s.masks, mask)
}

// mask is what hides the key from who does not know the info-hash (EMP/1 section 3), by other means than obfs/veil's.
func mask(hello []byte, info string) [32]byte {
	b, err := hkdf.Key(sha256.New, ih[:], hello[:16], info, 32)
	if err != nil {
		panic(err)
	}
	return [32]byte(b)
}

// change returns the side with a change made to each flight, which is a copy.
func (s side) change(name string, f func(n int, flight []byte) []byte) side {
	broken := s
	broken.name, broken.flights = s.name+", "+name, nil
	for n, b := range s.flights {
		broken.flights = append(broken.flights, f(n, bytes.Clone(b)))
	}
	return broken
}

// unmasked returns the key of flight n as whoever knows the info-hash sees it.
func (s *side) unmasked(n int) (k [32]byte) {
	for i := range k {
		k[i] = s.flights[n][s.keyAt+i] ^ s.masks[n][i]
	}
	return k
}

// The tests by name, each a p-value over one side's flights, already multiplied by how many places were looked at.
var battery = map[string]func(s *side) float64{
	"head bits":      func(s *side) float64 { return bits(s, 0, s.head) },
	"head pairs":     func(s *side) float64 { return pairs(s, 0, s.head) },
	"head bytes":     func(s *side) float64 { return byteValues(s, 0, s.head) },
	"head histogram": func(s *side) float64 { return histogram(s, 0, s.head) },
	"pad bits":       func(s *side) float64 { return bits(s, s.head, s.head+36) },
	"pad pairs":      func(s *side) float64 { return pairs(s, s.head, s.head+36) },
	"pad bytes":      func(s *side) float64 { return byteValues(s, s.head, s.head+36) },
	"pad histogram":  func(s *side) float64 { return histogram(s, s.head, veil.MaxFlightBytes) },
	"length":         lengthIsUniform,
	"curve":          maskedKeyIsOnTheCurve,
	"bit 255":        topBitIsFair,
}

// bits tests each bit of the positions from..to.
func bits(s *side, from, to int) float64 {
	worst := 1.0
	for at := from; at < to; at++ {
		var ones [8]int
		n := 0
		for _, f := range s.flights {
			if at < len(f) {
				n++
				for i := range ones {
					ones[i] += int(f[at] >> i & 1)
				}
			}
		}
		for _, heads := range ones {
			worst = min(worst, Coin(heads, n))
		}
	}
	return worst * float64(8*(to-from))
}

// pairs tests whether each bit is independent of its neighbour.
func pairs(s *side, from, to int) float64 {
	worst := 1.0
	for at := from; at < to; at++ {
		var same [8]int
		n, whole := 0, 0
		for _, f := range s.flights {
			if at >= len(f) {
				continue
			}
			n++
			differ := f[at] ^ f[at]>>1
			for i := range 7 {
				same[i] += 1 - int(differ>>i&1)
			}
			if at+1 < min(len(f), to) {
				whole++
				same[7] += 1 - int((f[at]^f[at+1]>>7)&1)
			}
		}
		for _, heads := range same[:7] {
			worst = min(worst, Coin(heads, n))
		}
		worst = min(worst, Coin(same[7], whole))
	}
	return worst * float64(8*(to-from))
}

// byteValues tests the 256 values of each position, by chi-square.
func byteValues(s *side, from, to int) float64 {
	worst := 1.0
	for at := from; at < to; at++ {
		counts := make([]int, 256)
		for _, f := range s.flights {
			if at < len(f) {
				counts[f[at]]++
			}
		}
		worst = min(worst, Uniform(counts))
	}
	return worst * float64(to-from)
}

// histogram tests the 256 values of all positions together.
func histogram(s *side, from, to int) float64 {
	counts := make([]int, 256)
	for _, f := range s.flights {
		for _, b := range f[min(from, len(f)):min(to, len(f))] {
			counts[b]++
		}
	}
	return Uniform(counts)
}

// lengthIsUniform tests that a flight is 96 + uniform(0..512).
func lengthIsUniform(s *side) float64 {
	counts := make([]int, 513)
	for _, f := range s.flights {
		n := len(f) - veil.HelloBytes
		if n < 0 || n > 512 {
			return 0
		}
		counts[n]++
	}
	return Uniform(counts)
}

// p25519 is the field of Curve25519, v² = u³ + 486662u² + u.
var p25519 = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))

// onCurve reports whether k, its bit 255 ignored, is the u of a point of the curve and not of its twist. That is so for half of all numbers and for all public keys.
func onCurve(k [32]byte) bool {
	slices.Reverse(k[:])
	k[0] &= 0x7f
	u := new(big.Int).SetBytes(k[:])
	v := new(big.Int).Add(u, big.NewInt(486662))
	v.Mul(v, u).Add(v, big.NewInt(1)).Mul(v, u).Mod(v, p25519)
	return big.Jacobi(v, p25519) >= 0
}

// maskedKeyIsOnTheCurve tests that the key field is on the curve no more often than any bytes, for whoever does not know the info-hash.
func maskedKeyIsOnTheCurve(s *side) float64 {
	if s.keyAt < 0 {
		return 1
	}
	on := 0
	for _, f := range s.flights {
		if onCurve([32]byte(f[s.keyAt:])) {
			on++
		}
	}
	return Coin(on, len(s.flights))
}

// topBitIsFair tests bit 255 of the key as whoever knows the info-hash sees it.
func topBitIsFair(s *side) float64 {
	if s.keyAt < 0 {
		return 1
	}
	ones := 0
	for n := range s.flights {
		k := s.unmasked(n)
		ones += int(k[31] >> 7)
	}
	return Coin(ones, len(s.flights))
}

// examine runs the battery and returns which tests a side fails.
func examine(t *testing.T, s side) (failed []string) {
	t.Helper()
	var said []string
	for _, name := range slices.Sorted(maps.Keys(battery)) {
		p := min(1, battery[name](&s))
		said = append(said, fmt.Sprintf("%s %.2g", name, p))
		if p < alpha {
			failed = append(failed, name)
		}
	}
	t.Logf("%s: p (corrected): %s", s.name, strings.Join(said, "; "))
	return failed
}

// TestFlightsLookRandom looks at the first flights of both sides of both transports as an outsider does: no bit, pair of bits, byte or length is other than a fair draw.
func TestFlightsLookRandom(t *testing.T) {
	all := collect()
	for _, s := range []side{all.veilI, all.veilR, all.mseI, all.mseR} {
		if failed := examine(t, s); failed != nil {
			t.Errorf("%s: of %d flights, %q reject at %g", s.name, len(s.flights), failed, alpha)
		}
	}
}

// TestBrokenFlightsAreFound breaks the veil in three ways, each of which fails the tests that are meant for it, and no other.
func TestBrokenFlightsAreFound(t *testing.T) {
	all := collect()
	for _, s := range []side{all.veilI, all.veilR} {
		for _, tt := range []struct {
			name string
			f    func(n int, flight []byte) []byte
			want []string
		}{
			{"no random bit 255", func(n int, f []byte) []byte { // the public key's own is 0
				f[s.keyAt+31] = f[s.keyAt+31]&0x7f | s.masks[n][31]&0x80
				return f
			}, []string{"bit 255"}},
			{"no mask", func(n int, f []byte) []byte {
				for i := range 32 {
					f[s.keyAt+i] ^= s.masks[n][i]
				}
				return f
			}, []string{"curve"}},
			{"pad of constant length", func(n int, f []byte) []byte {
				pad := make([]byte, 200)
				seeded('p', n).Read(pad)
				return append(f[:s.head], pad...)
			}, []string{"length"}},
			{"pad of constant bytes", func(n int, f []byte) []byte {
				clear(f[s.head:])
				return f
			}, []string{"pad bits", "pad bytes", "pad histogram", "pad pairs"}},
		} {
			if failed := examine(t, s.change(tt.name, tt.f)); !slices.Equal(failed, tt.want) {
				t.Errorf("%s, %s: rejected by %q, want %q", s.name, tt.name, failed, tt.want)
			}
		}
	}
}

// TestReplayedHelloShowsNothing plays one recorded hello to many hosts that serve the torrent. Their answers have no bit in common, which bit 255 would be if it were not random: the mask depends on the hello
// alone.
func TestReplayedHelloShowsNothing(t *testing.T) {
	var vi veil.Initiator
	if err := vi.Init(veil.Config{Rand: seeded('i', 0)}, &ih); err != nil {
		t.Fatal(err)
	}
	hello := vi.AppendOutput(nil)
	s := side{name: "answers to one hello", head: veil.AnswerBytes}
	for n := range connections * 2 / 5 {
		var vr veil.Responder
		if err := vr.Open(veil.Config{Rand: seeded('R', n)}, (*[veil.HelloBytes]byte)(hello), &ih); err != nil {
			t.Fatal(err)
		}
		s.add(vr.AppendOutput(nil), mask(hello, "EMP/1 responder mask"))
	}
	// All have the same mask. A key field is then on the curve or not by what is as good as a coin for each: the keys differ.
	if failed := examine(t, s); failed != nil {
		t.Errorf("%q reject at %g", failed, alpha)
	}
	broken := s.change("no random bit 255", func(n int, f []byte) []byte {
		f[31] = f[31]&0x7f | s.masks[n][31]&0x80
		return f
	})
	if failed := examine(t, broken); !slices.Contains(failed, "head bits") {
		t.Errorf("without random bit 255: rejected by %q, want \"head bits\"", failed)
	}
}

// TestWhoKnowsTheInfoHash shows what is no secret from those (EMP/1 section 5.2): they recognise every veiled hello, by its TAG and since what is under the mask is on the curve each time.
func TestWhoKnowsTheInfoHash(t *testing.T) {
	all := collect()
	for _, s := range []side{all.veilI, all.veilR} {
		for n := range s.flights {
			if !onCurve(s.unmasked(n)) {
				t.Fatalf("%s %d: a public key that is not on the curve", s.name, n)
			}
		}
	}
	// That the test can tell: of as many random strings half are.
	on, rng := 0, seeded('c', 0)
	for range connections {
		var k [32]byte
		rng.Read(k[:])
		if onCurve(k) {
			on++
		}
	}
	if p := Coin(on, connections); p < alpha {
		t.Errorf("%d of %d random strings are on the curve: p %g", on, connections, p)
	}
}

// TestSquaresTellNothing asks whether anybody can tell MSE's keys from random numbers, and so from veiled flights, by their quadratic characters, as would be so if the generator were a square. It is not: P
// mod 8 is 3, so 2 is none, and since (P-1)/2 is prime there is no other subgroup to be found in. Half of the keys are squares, as of all numbers.
func TestSquaresTellNothing(t *testing.T) {
	half := new(big.Int).Rsh(p768, 1)
	if !p768.ProbablyPrime(10) || !half.ProbablyPrime(10) || big.Jacobi(big.NewInt(2), p768) != -1 {
		t.Fatal("2 does not generate the whole group modulo P")
	}
	all := collect()
	for _, s := range []side{all.mseI, all.mseR, all.veilI, all.veilR} {
		squares := 0
		for _, f := range s.flights {
			if big.Jacobi(new(big.Int).SetBytes(f[:mse.KeyBytes]), p768) == 1 {
				squares++
			}
		}
		p := Coin(squares, len(s.flights))
		t.Logf("%s: %d of %d are squares: p %.3g", s.name, squares, len(s.flights), p)
		if p < alpha {
			t.Errorf("%s: %d of %d are squares: p %g", s.name, squares, len(s.flights), p)
		}
	}
}

// TestSizesEqualMSEs compares the sizes of the first flights of either side with those of MSE, by two tests for two samples; the variant in which PAD_r is 0..512, so that the answer is 36 bytes
// short, is found.
func TestSizesEqualMSEs(t *testing.T) {
	all := collect()
	sizes := func(s side) (sizes []float64, bins []int) {
		bins = make([]int, 36) // 60..635 in steps of 16, so that the broken ones have a place
		for _, f := range s.flights {
			sizes = append(sizes, float64(len(f)))
			bins[(len(f)-60)/16]++
		}
		return sizes, bins
	}
	compare := func(a, b side) (ks, chi float64) {
		sa, ba := sizes(a)
		sb, bb := sizes(b)
		ks, chi = TwoSamples(sa, sb), Homogeneous(ba, bb)
		t.Logf("%s and %s: Kolmogorov-Smirnov p %.3g, chi-square p %.3g", a.name, b.name, ks, chi)
		return ks, chi
	}
	for _, pair := range [][2]side{{all.veilI, all.mseI}, {all.veilR, all.mseR}, {all.veilI, all.veilR}} {
		if ks, chi := compare(pair[0], pair[1]); ks < alpha || chi < alpha {
			t.Errorf("%s and %s differ in size", pair[0].name, pair[1].name)
		}
	}
	short := all.veilR.change("36 bytes short", func(_ int, f []byte) []byte { return f[:len(f)-36] })
	if ks, chi := compare(short, all.mseR); ks >= alpha && chi >= alpha {
		t.Errorf("answers that are 36 bytes short are not found: p %g and %g", ks, chi)
	}
}
