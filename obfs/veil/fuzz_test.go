package veil

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/obfs"
)

// FuzzResponder gives a responder any hello: with the right TAG and box around any HELLO and key, or changed anywhere. It is answered as section 3
// says or refused without a word; what follows is skipped as far as it is padding, however it is cut.
func FuzzResponder(f *testing.F) {
	hello := helloPlain(1, 5)
	f.Add(hello[:], []byte{}, []byte{}, []byte("12345rest"), []byte{3})
	hello = helloPlain(0, 0)
	f.Add(hello[:], []byte{}, []byte{}, []byte{}, []byte{})
	hello = helloPlain(200, 512)
	f.Add(hello[:], bytes.Repeat([]byte{9}, 32), []byte{}, make([]byte, 600), []byte{1, 255})
	f.Add(hello[:], make([]byte, 32), []byte{0, 0, 70, 1}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, plain, public, changes, stream, cuts []byte) {
		var hello [plainBytes]byte
		copy(hello[:], plain)
		var key *[32]byte
		if len(public) == 32 {
			key = (*[32]byte)(bytes.Clone(public))
			key[31] &= 0x7f
		}
		b := forgeHello(t, hello, key)
		changed := change(b[:], changes, 67)
		var r Responder
		err := r.Open(Config{Rand: testRand(1)}, b, &testSecret)
		d := r.AppendOutput(nil)
		if err != nil {
			if !errors.Is(err, obfs.ErrHandshake) || len(d) != 0 {
				t.Fatalf("%v, with %d bytes of output", err, len(d))
			}
			if key == nil && !changed && hello[0] >= 1 && binary.BigEndian.Uint16(hello[2:]) <= 512 {
				t.Fatalf("%x: refused: %v", hello, err)
			}
			return
		}
		padlen := int(binary.BigEndian.Uint16(hello[2:]))
		if changed || hello[0] < 1 || padlen > 512 || len(d) < 96 || len(d) > 608 {
			t.Fatalf("%x: answered with %d bytes", hello, len(d))
		}
		var rest []byte
		for b := range wiretest.CutBy(stream, cuts) {
			left, err := r.Feed(b)
			if err != nil {
				t.Fatal(err)
			}
			rest = append(rest, left...)
		}
		if want := stream[min(padlen, len(stream)):]; !bytes.Equal(rest, want) {
			t.Fatalf("%x: left %x, want %x", hello, rest, want)
		}
		if _, ok := r.Done(); ok != (len(stream) >= padlen) {
			t.Fatalf("done: %v", ok)
		}
	})
}

// change changes b as by says, two bytes of a place and one to xor with, and reports whether anything that decides has changed. The highest bit
// of byte top, if there is one, is bit 255 of a key, which does not.
func change(b, by []byte, top int) bool {
	before := bytes.Clone(b)
	for ; len(by) >= 3; by = by[3:] {
		b[int(binary.BigEndian.Uint16(by))%len(b)] ^= by[2]
	}
	if top >= 0 {
		before[top] = before[top]&0x7f | b[top]&0x80
	}
	return !bytes.Equal(b, before)
}

// FuzzInitiator gives an initiator any answer: the right box around any HELLO, or any bytes, however they are cut.
func FuzzInitiator(f *testing.F) {
	var start Initiator
	if err := start.Init(Config{Rand: testRand(1)}, &testSecret); err != nil {
		f.Fatal(err)
	}
	sent := start.AppendOutput(nil)
	hello := helloPlain(1, 36)
	f.Add(hello[:], []byte{}, []byte("padding and more"), []byte{7})
	hello = helloPlain(2, 36)
	f.Add(hello[:], []byte{}, []byte{}, []byte{60})
	hello = helloPlain(1, 549)
	f.Add(hello[:], []byte{}, []byte{}, []byte{})
	f.Add(hello[:], []byte{0, 40, 1}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, plain, changes, stream, cuts []byte) {
		var hello [plainBytes]byte
		copy(hello[:], plain)
		b := forgeAnswer(t, sent, hello, nil)
		changed := change(b, changes, 31)
		i := start
		var rest []byte
		var failed error
		for b := range wiretest.CutBy(append(b, stream...), cuts) {
			left, err := i.Feed(b)
			if failed != nil && err != failed {
				t.Fatalf("%v, then %v", failed, err)
			}
			failed = err
			rest = append(rest, left...)
		}
		_, done := i.Done()
		padlen := int(binary.BigEndian.Uint16(hello[2:]))
		good := hello[0] == 1 && padlen >= 36 && padlen <= 548
		switch {
		case done && (failed != nil || changed || !good || !bytes.Equal(rest, stream)):
			t.Fatalf("%x: done with %x left, %v", hello, rest, failed)
		case !done && (failed == nil || !errors.Is(failed, obfs.ErrHandshake)):
			t.Fatalf("neither done nor failed: %v", failed)
		case !done && good && !changed:
			t.Fatalf("%x: refused: %v", hello, failed)
		}
	})
}

// FuzzOpener gives an opener any bytes, however they are cut: nothing comes out of them, and no more is kept than came.
func FuzzOpener(f *testing.F) {
	f.Add([]byte("some bytes that are no record"), []byte{5}, uint16(0))
	f.Add(make([]byte, 100), []byte{}, uint16(18))
	f.Add(make([]byte, 100), []byte{1}, uint16(17))
	f.Add(make([]byte, 1000), []byte{255}, uint16(65535))
	f.Fuzz(func(t *testing.T, stream, cuts []byte, length uint16) {
		_, o := testDirection(1)
		stream = append(binary.BigEndian.AppendUint16(nil, length^o.lenMask()), stream...)
		fed := 0
		for b := range wiretest.CutBy(stream, cuts) {
			fed += len(b)
			plain, err := openAll(o, b)
			if len(plain) != 0 {
				t.Fatalf("%x opened as %x", stream, plain)
			}
			if wrong := length < minRecordBody || fed >= 2+int(length); wrong != (err != nil) && fed >= 2 {
				t.Fatalf("after %d bytes of a record of %d: %v", fed, length, err)
			}
			if err != nil {
				wantBroken(t, o, err)
				return
			}
			if o.Held() != fed || cap(o.cut) > 2*fed+64 {
				t.Fatalf("%d held in %d after %d bytes", o.Held(), cap(o.cut), fed)
			}
		}
	})
}

// FuzzRecords seals any payloads, does something to the result, and opens it however it is cut. What comes out is what went in, up to where
// something was done; then nothing.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("payloads"), []byte{3, 1}, []byte{}, []byte{9}, uint16(0), uint16(0))
	f.Add(make([]byte, 300), []byte{200}, []byte{0, 7, 1}, []byte{}, uint16(3), uint16(512))
	f.Add([]byte("drop a record"), []byte{2, 0x80}, []byte{}, []byte{1}, uint16(70), uint16(9))
	f.Fuzz(func(t *testing.T, payload, sizes, changes, cuts []byte, pad1, pad2 uint16) {
		s, o := testDirection(1)
		s.pads = [4]uint16{pad1 % 513, pad2 % 513, 0, 1}
		var stream []byte
		for i, left := 0, payload; len(left) > 0; i++ {
			n := len(left)
			if len(sizes) > 0 {
				n = min(n, 1+int(sizes[i%len(sizes)]))
			}
			want := s.SealedBytes(n)
			b := seal(s, left[:n])
			if len(b) != want {
				t.Fatalf("%d bytes are sealed to %d, want %d", n, len(b), want)
			}
			stream, left = append(stream, b...), left[n:]
		}
		changed := len(stream) > 0 && change(stream, changes, -1)
		var plain []byte
		var failed error
		for b := range wiretest.CutBy(stream, cuts) {
			var got []byte
			got, failed = openAll(o, b)
			plain = append(plain, got...)
			if failed != nil {
				wantBroken(t, o, failed)
				break
			}
		}
		if !bytes.HasPrefix(payload, plain) {
			t.Fatalf("%x was sealed, %x opened", payload, plain)
		}
		if whole := failed == nil && len(plain) == len(payload) && o.Held() == 0; whole == changed {
			t.Fatalf("changed: %v, and yet: %v, %d of %d bytes", changed, failed, len(plain), len(payload))
		}
	})
}
