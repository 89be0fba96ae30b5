package blockbuf

import (
	"strings"
	"sync"
	"testing"
)

func wantPanic(t *testing.T, text string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		got, _ := recover().(string)
		if !strings.Contains(got, text) {
			t.Errorf("panic %q, want one that says %q", got, text)
		}
	}()
	f()
}

func TestBufLengths(t *testing.T) {
	b := Get()
	defer b.Release()
	if len(b.Bytes()) != BlockBytes || b.Len() != BlockBytes {
		t.Fatalf("fresh buffer has %d bytes, Len %d, want %d", len(b.Bytes()), b.Len(), BlockBytes)
	}
	for _, n := range []int{0, 1, BlockBytes - 1, BlockBytes} {
		b.SetLen(n)
		if p := b.Bytes(); len(p) != n || cap(p) != n || b.Len() != n {
			t.Errorf("SetLen(%d): len %d cap %d Len %d", n, len(p), cap(p), b.Len())
		}
	}
	b.SetLen(4)
	copy(b.Bytes(), "abcd")
	b.SetLen(2)
	_ = append(b.Bytes(), 'X')
	b.SetLen(4)
	if got := string(b.Bytes()); got != "abcd" {
		t.Errorf("after an append to a shortened buffer: %q, want abcd", got)
	}
	wantPanic(t, "length -1", func() { b.SetLen(-1) })
	wantPanic(t, "length 16385", func() { b.SetLen(BlockBytes + 1) })
}

func TestReusedBufIsWhole(t *testing.T) {
	for range 100 {
		b := Get()
		if b.Len() != BlockBytes {
			t.Fatalf("a reused buffer has length %d", b.Len())
		}
		b.SetLen(3)
		b.Release()
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	before, beforeLarge := Live(), LiveLarge()
	// Taken from the type, not from the pool, so that no other test can borrow it between the releases.
	b, l := new(Buf), new(Large)
	wantPanic(t, "released twice", b.Release)
	wantPanic(t, "released twice", l.Release)
	if Live() != before || LiveLarge() != beforeLarge {
		t.Errorf("a refused release changed the count of live buffers")
	}
}

func TestLiveCounts(t *testing.T) {
	before, beforeLarge := Live(), LiveLarge()
	b, c, l := Get(), Get(), GetLarge()
	if Live() != before+2 || LiveLarge() != beforeLarge+1 {
		t.Errorf("live %d and %d, want %d and %d", Live(), LiveLarge(), before+2, beforeLarge+1)
	}
	if len(l.Bytes()) != LargeBytes {
		t.Errorf("large buffer of %d bytes", len(l.Bytes()))
	}
	b.Release()
	c.Release()
	l.Release()
	if Live() != before || LiveLarge() != beforeLarge {
		t.Errorf("live %d and %d after release, want %d and %d", Live(), LiveLarge(), before, beforeLarge)
	}
}

// Every lent buffer is exclusively its owner's.
func TestExclusive(t *testing.T) {
	before := Live()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for range 500 {
				b := Get()
				p := b.Bytes()
				p[0], p[BlockBytes-1] = byte(g), byte(g)
				if p[0] != byte(g) || p[BlockBytes-1] != byte(g) {
					t.Errorf("two owners of one buffer")
				}
				b.Release()
			}
		})
	}
	wg.Wait()
	if Live() != before {
		t.Errorf("live %d, want %d", Live(), before)
	}
}

func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool forgets at random under the race detector")
	}
	n := testing.AllocsPerRun(1000, func() {
		b := Get()
		b.SetLen(9)
		b.Release()
		l := GetLarge()
		l.Release()
	})
	if n != 0 {
		t.Errorf("%v allocations a round, want 0", n)
	}
}

func BenchmarkGetRelease(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Get().Release()
	}
}
