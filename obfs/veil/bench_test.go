package veil

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha1"
	"fmt"
	"testing"

	"github.com/parley-bt/parley/obfs"
)

// handshake is a whole pair: both hellos, Split and the keys of records.
func handshake(tb testing.TB, buf []byte, ki, kr *Key) [2]obfs.Streams {
	i, r := new(Initiator), new(Responder)
	if err := i.Init(Config{Rand: rand.Reader, Key: ki}, &testSecret); err != nil {
		tb.Fatal(err)
	}
	buf = i.AppendOutput(buf[:0])
	if err := r.Open(Config{Rand: rand.Reader, Key: kr}, (*[96]byte)(buf), &testSecret); err != nil {
		tb.Fatal(err)
	}
	if _, err := r.Feed(buf[96:]); err != nil {
		tb.Fatal(err)
	}
	buf = r.AppendOutput(buf[:0])
	if _, err := i.Feed(buf); err != nil {
		tb.Fatal(err)
	}
	si, ok1 := i.Done()
	sr, ok2 := r.Done()
	if !ok1 || !ok2 {
		tb.Fatal("not done")
	}
	return [2]obfs.Streams{si, sr}
}

// TestHandshakeAllocations asserts what a pair allocates, the two handshakes themselves included, when its keys are prepared.
func TestHandshakeAllocations(t *testing.T) {
	const runs = 50
	var keys []*Key
	for range 2 * (runs + 1) {
		k, err := NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	buf := make([]byte, 0, MaxFlightBytes)
	n := testing.AllocsPerRun(runs, func() {
		handshake(t, buf, keys[0], keys[1])
		keys = keys[2:]
	})
	if n > 10 {
		t.Errorf("a pair allocates %v times, want at most 10", n)
	}
	t.Logf("a pair allocates %v times", n)
}

func BenchmarkPair(b *testing.B) {
	buf := make([]byte, 0, MaxFlightBytes)
	b.ReportAllocs()
	for b.Loop() {
		handshake(b, buf, nil, nil)
	}
}

func BenchmarkPairPrepared(b *testing.B) {
	buf := make([]byte, 0, MaxFlightBytes)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		ki, _ := NewKey(rand.Reader)
		kr, _ := NewKey(rand.Reader)
		b.StartTimer()
		handshake(b, buf, ki, kr)
	}
}

// BenchmarkX25519Four is what a pair cannot do without: two keys, two exchanges.
func BenchmarkX25519Four(b *testing.B) {
	seed := make([]byte, 32)
	rand.Read(seed)
	for b.Loop() {
		x, _ := ecdh.X25519().NewPrivateKey(seed)
		y, _ := ecdh.X25519().NewPrivateKey(seed)
		if _, err := x.ECDH(y.PublicKey()); err != nil {
			b.Fatal(err)
		}
		if _, err := y.ECDH(x.PublicKey()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	var hello [96]byte
	for _, n := range []int{1, 1000, 100000} {
		secrets := make([]Secret, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if Find(hello[:], secrets) >= 0 {
					b.Fatal("found")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/secret")
		})
	}
}

// BenchmarkSHA1Sum36 is what Find cannot do without, for each secret.
func BenchmarkSHA1Sum36(b *testing.B) {
	var in [36]byte
	for b.Loop() {
		in[0]++
		if sha1.Sum(in[:])[0] == 0 {
			in[1]++
		}
	}
}

var recordSizes = []struct {
	name string
	n    int
}{{"have 9 B", 9}, {"message 100 B", 100}, {"block 16 KiB", 16397}, {"bulk 256 KiB", 256 << 10}}

func BenchmarkSeal(b *testing.B) {
	for _, size := range recordSizes {
		b.Run(size.name, func(b *testing.B) {
			s := sealer{direction: directionOf(make([]byte, 32))}
			buf := make([]byte, obfs.Headroom+size.n)
			dst := make([]byte, 0, s.SealedBytes(size.n)+100)
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			for b.Loop() {
				s.Seal(dst, buf)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range recordSizes {
		b.Run(size.name, func(b *testing.B) {
			s := sealer{direction: directionOf(make([]byte, 32))}
			sealed := seal(&s, make([]byte, size.n))
			o := opener{direction: directionOf(make([]byte, 32))}
			buf := make([]byte, len(sealed))
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			for b.Loop() {
				o.n, o.nonce = 0, [12]byte{} // opens the same again; the copy back is the only cost that is not Open's
				for rest := buf[:copy(buf, sealed)]; len(rest) > 0; {
					var err error
					if _, rest, err = o.Open(rest); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkBulk seals and opens, the result cut into reads of 64 KiB as a socket might, so that most records are cut. It is the cost of both ends.
func BenchmarkBulk(b *testing.B) {
	const n, read = 256 << 10, 64 << 10
	s, o := sealer{direction: directionOf(make([]byte, 32))}, opener{direction: directionOf(make([]byte, 32))}
	buf := make([]byte, obfs.Headroom+n)
	dst := make([]byte, 0, s.SealedBytes(n)+100)
	b.SetBytes(n)
	b.ReportAllocs()
	for b.Loop() {
		for sealed := s.Seal(dst, buf); len(sealed) > 0; {
			k := min(read, len(sealed))
			for rest := sealed[:k]; len(rest) > 0; {
				var err error
				if _, rest, err = o.Open(rest); err != nil {
					b.Fatal(err)
				}
			}
			sealed = sealed[k:]
		}
	}
}
