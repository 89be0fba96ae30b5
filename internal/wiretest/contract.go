package wiretest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/parley-bt/parley/wire"
)

// Codec is one dialect's frames, as [Codec.Test] and [Codec.Stable] see them: frames whose length field, 4 bytes, counts what is behind it.
type Codec struct {
	Dialect wire.Dialect
	// Unsupported are the kinds that the dialect cannot express.
	Unsupported []wire.Kind
	// Tolerant are the kinds that are read in more forms than the one in which they are written.
	Tolerant []wire.Kind
	// Samples are messages, plain values, at least one of every other kind.
	Samples []wire.Message
	// Append appends the whole frame of a plain value.
	Append func(dst []byte, m wire.Message) ([]byte, error)
	// Decode decodes what is behind a frame's length field.
	Decode func(frame []byte) (wire.Message, error)
}

// lengthBytes is the size of a frame's length field.
const lengthBytes = 4

// Plain returns the plain value of a decoded message, which is a pointer to its decoder's scratch.
func Plain(m wire.Message) wire.Message {
	if v := reflect.ValueOf(m); v.Kind() == reflect.Pointer {
		return v.Elem().Interface().(wire.Message)
	}
	return m
}

// Test checks the contract of every codec: each kind round-trips or is declared unsupported, lengths are what they say, appending leaves
// what stood there alone, and each truncation either fails with a [*wire.SyntaxError] or is a shorter message in its own right.
func (c Codec) Test(t *testing.T) {
	t.Helper()
	seen := make(map[wire.Kind]bool)
	for _, m := range c.Samples {
		seen[m.Kind()] = true
		t.Run(fmt.Sprintf("%v %v", c.Dialect, m.Kind()), func(t *testing.T) { c.testSample(t, m) })
	}
	for k := range wire.NumKinds {
		unsupported := slices.Contains(c.Unsupported, k)
		if seen[k] == unsupported {
			t.Errorf("%v: %v: has a sample: %v, is declared unsupported: %v", c.Dialect, k, seen[k], unsupported)
		}
	}
}

func (c Codec) testSample(t *testing.T, m wire.Message) {
	whole, err := c.Append([]byte("before"), m)
	if err != nil {
		t.Fatalf("Append %+v: %v", m, err)
	}
	b, ok := bytes.CutPrefix(whole, []byte("before"))
	if !ok || len(b) < lengthBytes || int(binary.BigEndian.Uint32(b)) != len(b)-lengthBytes {
		t.Fatalf("Append %+v: %x: the length field is not that of the frame, or what stood there has changed", m, whole)
	}
	frame := b[lengthBytes:]
	got, err := c.Decode(bytes.Clone(frame))
	if err != nil {
		t.Fatalf("Decode %x: %v", frame, err)
	}
	if got.Kind() != m.Kind() || !reflect.DeepEqual(Plain(got), m) {
		t.Fatalf("Decode of %+v: %+v", m, Plain(got))
	}
	for n := range frame {
		c.Stable(t, frame[:n])
	}
	// Nor may a byte more be read over.
	c.Stable(t, append(bytes.Clone(frame), 0))
}

// Stable checks that a frame either fails with a [*wire.SyntaxError] of this dialect (or of classic, on which it may build), or means a message
// which is written as the very same frame; for a tolerant kind, as a frame that means the same. It is the property of the contract's
// truncations and of fuzzers.
func (c Codec) Stable(t testing.TB, frame []byte) {
	t.Helper()
	before := bytes.Clone(frame)
	m, err := c.Decode(frame)
	if !bytes.Equal(before, frame) {
		t.Fatalf("Decode changed its input %x", before)
	}
	if err != nil {
		if s, ok := errors.AsType[*wire.SyntaxError](err); !ok || s.Dialect != c.Dialect && s.Dialect != wire.DialectClassic || s.Offset < 0 || s.Offset > len(frame) || s.Reason == "" {
			t.Fatalf("Decode %x: error %#v, want a syntax error of this dialect within the frame", frame, err)
		}
		return
	}
	value := Plain(m)
	again, err := c.Append(nil, value)
	if err == nil && slices.Contains(c.Tolerant, m.Kind()) {
		m, err = c.Decode(again[lengthBytes:])
		if err != nil || !reflect.DeepEqual(Plain(m), value) {
			t.Fatalf("%x means %+v, which is written as %x and then means %+v (%v)", frame, value, again, m, err)
		}
		return
	}
	if err != nil || !bytes.Equal(again[lengthBytes:], frame) {
		t.Fatalf("%x means %+v, which is written as %x (%v)", frame, value, again, err)
	}
}

// Limit is a limit on a count: up to At it must hold, above it must fail.
type Limit struct {
	Name string
	At   int
	Try  func(n int) error
	Want error // what the error above the limit must be, nil for any
}

// TestLimits tries each limit below, at, and above.
func TestLimits(t *testing.T, limits []Limit) {
	t.Helper()
	for _, l := range limits {
		t.Run(l.Name, func(t *testing.T) {
			for _, n := range []int{l.At - 1, l.At} {
				if err := l.Try(n); err != nil {
					t.Errorf("%d: %v; the limit is %d", n, err, l.At)
				}
			}
			if err := l.Try(l.At + 1); err == nil || l.Want != nil && !errors.Is(err, l.Want) {
				t.Errorf("%d: error %v, want %v; the limit is %d", l.At+1, err, l.Want, l.At)
			}
		})
	}
}

// Segmentations yields ways to cut n bytes into segments, as their lengths: whole, byte by byte, in two at every place (at up to 512 places
// drawn at random if there are more), and 32 at random.
func Segmentations(seed uint64, n int) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		ones := make([]int, n)
		for i := range ones {
			ones[i] = 1
		}
		if n == 0 || !yield([]int{n}) || !yield(ones) {
			return
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		for i := 1; i < min(n, 512); i++ {
			at := i
			if n > 512 {
				at = 1 + rng.IntN(n-1)
			}
			if !yield([]int{at, n - at}) {
				return
			}
		}
		for range 32 {
			var s []int
			size := 1 + rng.IntN(n)
			for left := n; left > 0; left -= s[len(s)-1] {
				s = append(s, min(left, 1+rng.IntN(size)))
			}
			if !yield(s) {
				return
			}
		}
	}
}

// TestSplits runs run over stream in many segmentations, and fails the test where its result, the events in words for instance, differs from that of the whole stream. Each segment is a copy of its own
// that is overwritten once run asks for the next, so that whoever keeps a borrowed segment is found out.
func TestSplits(t testing.TB, seed uint64, stream []byte, run func(segments iter.Seq[[]byte]) string) {
	t.Helper()
	want := run(Cut(stream, []int{len(stream)}))
	for s := range Segmentations(seed, len(stream)) {
		if got := run(Cut(stream, s)); got != want {
			t.Fatalf("seed %d: in segments of %v:\n%s\nwhole:\n%s", seed, s, got, want)
		}
	}
}

// Cut yields the segments of stream that have the given lengths; what they leave comes last. See [TestSplits] for who owns them.
func Cut(stream []byte, lengths []int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := stream
		for i := 0; len(rest) > 0; i++ {
			n := len(rest)
			if i < len(lengths) {
				n = min(n, lengths[i])
			}
			segment := bytes.Clone(rest[:n])
			more := yield(segment)
			for i := range segment {
				segment[i] = 0xee
			}
			if !more {
				return
			}
			rest = rest[n:]
		}
	}
}

// CutBy is [Cut] with lengths drawn from the bytes of by, for fuzzers: each byte is a length, 0 stands for 1, and they repeat.
func CutBy(stream, by []byte) iter.Seq[[]byte] {
	var lengths []int
	for left, i := len(stream), 0; left > 0 && len(by) > 0; i++ {
		n := max(1, int(by[i%len(by)]))
		lengths = append(lengths, n)
		left -= n
	}
	return Cut(stream, lengths)
}
