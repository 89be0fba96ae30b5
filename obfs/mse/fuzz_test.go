package mse

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parley-bt/parley/obfs"
)

// mutate changes honest bytes as a fuzzer says: each four of its bytes are a place, what is xored there, and how many bytes are cut out of or put in before it.
func mutate(honest, edits []byte) []byte {
	b := bytes.Clone(honest)
	for ; len(edits) >= 4 && len(b) > 0; edits = edits[4:] {
		at := (int(edits[0])<<8 | int(edits[1])) % len(b)
		b[at] ^= edits[2]
		switch n := int(int8(edits[3])); {
		case n > 0:
			b = slices.Insert(b, at, bytes.Repeat(edits[2:3], n)...)
		case n < 0:
			b = slices.Delete(b, at, min(at-n, len(b)))
		}
	}
	return b
}

// checkFuzzed feeds one side in once whole and once in pieces: it must come to the same end, and what fails must be the peer's fault.
func checkFuzzed(t *testing.T, newSide func() *side, in []byte, size int) *side {
	t.Helper()
	one, two := newSide(), newSide()
	err1, err2 := one.feed(in), two.feedIn(in, size)
	if (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
		t.Fatalf("whole: %v; in pieces of %d: %v", err1, size, err2)
	}
	if err1 != nil && !errors.Is(err1, obfs.ErrHandshake) {
		t.Fatalf("%v is nobody's fault", err1)
	}
	if one.done != two.done || err1 == nil && !bytes.Equal(one.out, two.out) || !bytes.Equal(one.plain, two.plain) {
		t.Fatalf("whole: done %t, sent %x, got %x; in pieces of %d: done %t, sent %x, got %x", one.done, one.out, one.plain, size, two.done, two.out, two.plain)
	}
	return one
}

func fuzzSeeds(f *testing.F) {
	f.Add(uint64(1), []byte{}, uint8(2))
	f.Add(uint64(2), []byte{0, 3, 1, 0}, uint8(6))
	f.Add(uint64(3), []byte{2, 30, 0, 100, 1, 30, 0, 0x90}, uint8(1))
	f.Add(uint64(4), []byte{0, 0, 0, 0x80, 0, 0, 0, 0x80}, uint8(200))
	f.Add(uint64(5), bytes.Repeat([]byte{0, 0, 0, 0x80}, 20), uint8(3)) // nothing is left
}

// FuzzResponder drives a responder with what an honest initiator sends, changed.
func FuzzResponder(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, seed uint64, edits []byte, size uint8) {
		s := randomSession(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), int(seed>>16)%200)
		s.provide, s.choice = uint32(seed>>24)&3, 2
		s.compute()
		in := slices.Concat(s.padA, s.step3)
		b := checkFuzzed(t, func() *side { return &side{Handshake: s.responder(t, 0), skey: &s.skey} }, mutate(in, edits), max(1, int(size)))
		if len(b.out) > len(s.step2)+headBytes+MaxPad {
			t.Fatalf("%d bytes sent", len(b.out))
		}
		if len(edits) < 4 && (b.done != (s.provide != 0) || b.done && !bytes.Equal(b.plain, s.ia)) {
			t.Fatalf("honest, provides %d: done %t, IA %x", s.provide, b.done, b.plain)
		}
	})
}

// FuzzInitiator drives an initiator with what an honest responder sends, changed.
func FuzzInitiator(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, seed uint64, edits []byte, size uint8) {
		s := randomSession(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), int(seed>>16)%200)
		s.provide, s.choice = 3, uint32(seed>>24)&3
		s.compute()
		a := checkFuzzed(t, func() *side { return &side{Handshake: s.initiator(t)} }, mutate(slices.Concat(s.step2, s.step4), edits), max(1, int(size)))
		if len(a.out) > len(s.step1)+len(s.step3) {
			t.Fatalf("%d bytes sent", len(a.out))
		}
		if len(edits) < 4 && a.done != (s.choice == 1 || s.choice == 2) {
			t.Fatalf("honest, selects %d: done %t", s.choice, a.done)
		}
	})
}

// FuzzStream sends what the fuzzer has through both directions of every method, cut as it says.
func FuzzStream(f *testing.F) {
	f.Add([]byte("\x13BitTorrent protocol and what follows it"), uint16(20), uint8(3), uint8(7), false)
	f.Add([]byte("abc"), uint16(0), uint8(1), uint8(1), true)
	f.Fuzz(func(t *testing.T, said []byte, ia uint16, cutOut, cutIn uint8, plaintext bool) {
		s := &session{xa: exponent{19: 3}, xb: exponent{18: 1}, provide: 2, choice: 2, ia: said[:min(int(ia), len(said))]}
		if plaintext {
			s.provide, s.choice = 1, 1
		}
		s.compute()
		a, b := &side{Handshake: s.initiator(t)}, &side{Handshake: s.responder(t, 0), skey: &s.skey}
		if err := errors.Join(a.feed(slices.Concat(s.step2, s.step4)), b.feed(s.step3[:len(s.step3)-len(s.ia)])); err != nil || !a.done || !b.done {
			t.Fatal(err)
		}
		toB, toA := bytes.Clone(s.step3[len(s.step3)-len(s.ia):]), []byte(nil)
		for part := range slices.Chunk(said[len(s.ia):], max(1, int(cutOut))) {
			toB = append(toB, a.seal(part)...)
			toA = append(toA, b.seal(part)...)
		}
		if err := errors.Join(b.feedIn(toB, max(1, int(cutIn))), a.feedIn(toA, max(1, int(cutIn)))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.plain, said) || !bytes.Equal(a.plain, said[len(s.ia):]) {
			t.Fatalf("said %x, got %x and %x", said, b.plain, a.plain)
		}
	})
}
