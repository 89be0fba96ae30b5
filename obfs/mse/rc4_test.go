package mse

import (
	"bytes"
	stdrc4 "crypto/rc4"
	"math/rand/v2"
	"testing"

	"github.com/parley-bt/parley/obfs"
)

// TestRC4 compares with crypto/rc4 in every small length, split at every place, and over a stretch in pieces of changing size.
func TestRC4(t *testing.T) {
	r := rand.NewChaCha8([32]byte{30})
	for n := range 70 {
		for cut := range n + 1 {
			key := [20]byte(randomBytes(r, 20))
			std := stdStream(key)
			var c rc4
			c.init(&key)
			got := randomBytes(r, n)
			want := make([]byte, n)
			std.XORKeyStream(want, got)
			c.xor(got[:cut])
			c.xor(got[cut:])
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, cut at %d: %x, want %x", n, cut, got, want)
			}
		}
	}
	key := [20]byte(randomBytes(r, 20))
	std, err := stdrc4.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	var c rc4
	c.init(&key)
	want := make([]byte, 300_000)
	std.XORKeyStream(want, want)
	want = want[discarded:]
	for n := 0; len(want) > 0; n++ {
		k := min(n%777, len(want))
		if n%5 == 4 {
			c.skip(k)
		} else {
			b := make([]byte, k)
			if c.xor(b); !bytes.Equal(b, want[:k]) {
				t.Fatalf("%d bytes before the end: %x, want %x", len(want), b, want[:k])
			}
		}
		want = want[k:]
	}
}

func benchmarkStreams(b *testing.B) (obfs.Streams, obfs.Streams) {
	s := randomSession(rand.NewChaCha8([32]byte{31}), 0).compute()
	one, two := &side{Handshake: s.initiator(b)}, &side{Handshake: s.responder(b, 0), skey: &s.skey}
	if one.feed(append(s.step2, s.step4...)) != nil || two.feed(append(s.padA, s.step3...)) != nil {
		b.Fatal("no streams")
	}
	return one.stream, two.stream
}

func BenchmarkSeal(b *testing.B) {
	s, _ := benchmarkStreams(b)
	buf := make([]byte, obfs.Headroom+16_384)
	b.SetBytes(16_384)
	b.ReportAllocs()
	for b.Loop() {
		s.Sealer.Seal(nil, buf)
	}
}

func BenchmarkOpen(b *testing.B) {
	_, s := benchmarkStreams(b)
	buf := make([]byte, 16_384)
	b.SetBytes(16_384)
	b.ReportAllocs()
	for b.Loop() {
		s.Opener.Open(buf)
	}
}

func BenchmarkRC4(b *testing.B) {
	key := [20]byte{1}
	buf := make([]byte, 16_384)
	b.Run("ours", func(b *testing.B) {
		var c rc4
		c.init(&key)
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			c.xor(buf)
		}
	})
	b.Run("crypto", func(b *testing.B) {
		c := stdStream(key)
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			c.XORKeyStream(buf, buf)
		}
	})
	b.Run("init", func(b *testing.B) {
		var c rc4
		for b.Loop() {
			c.init(&key)
		}
	})
}

// BenchmarkBothWays runs the two directions of one connection on two cores.
func BenchmarkBothWays(b *testing.B) {
	s, _ := benchmarkStreams(b)
	out, in := make([]byte, obfs.Headroom+16_384), make([]byte, 16_384)
	b.SetBytes(2 * 16_384)
	other := make(chan struct{})
	go func() {
		defer close(other)
		for range b.N {
			s.Opener.Open(in)
		}
	}()
	for range b.N {
		s.Sealer.Seal(nil, out)
	}
	<-other
}

// BenchmarkPair is a whole handshake, both sides.
func BenchmarkPair(b *testing.B) {
	c := Config{Rand: rand.NewChaCha8([32]byte{32})}
	skey := [20]byte{1}
	ia := make([]byte, 68)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var i Initiator
		var r Responder
		if i.Init(c, skey, ia) != nil {
			b.Fatal()
		}
		buf = i.AppendOutput(buf[:0])
		if r.Begin(c, (*[KeyBytes]byte)(buf)) != nil {
			b.Fatal()
		}
		if _, err := r.Feed(buf[KeyBytes:]); err != nil {
			b.Fatal(err)
		}
		buf = r.AppendOutput(buf[:0])
		if _, err := i.Feed(buf); err != nil {
			b.Fatal(err)
		}
		buf = i.AppendOutput(buf[:0])
		rest, err := r.Feed(buf)
		if err != nil {
			b.Fatal(err)
		}
		r.Answer(skey, true)
		if rest, err = r.Feed(rest); err != nil || len(rest) != len(ia) {
			b.Fatal(err)
		}
		buf = r.AppendOutput(buf[:0])
		if _, err := i.Feed(buf); err != nil {
			b.Fatal(err)
		}
		if i.Method() != RC4 || r.Method() != RC4 {
			b.Fatal()
		}
	}
}
