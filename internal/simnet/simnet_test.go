package simnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs test in a synctest bubble, in which every goroutine must end.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// wantErr fails the test unless err is want; nil wants no error.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

// wantSince fails the test unless exactly d has passed since start: in a bubble time is exact.
func wantSince(t *testing.T, what string, start time.Time, d time.Duration) {
	t.Helper()
	if got := time.Since(start); got != d {
		t.Fatalf("%s took %v, want %v", what, got, d)
	}
}

func TestContentSurvivesEveryLink(t *testing.T) {
	links := map[string]Link{
		"zero":              {},
		"tiny buffer":       {Buffer: 1},
		"odd buffer":        {Buffer: 1000},
		"split to the byte": {Split: 1, Buffer: 512},
		"split":             {Split: 700},
		"latency":           {Latency: 30 * time.Millisecond},
		"rate":              {Rate: 1 << 20},
		"everything":        {Rate: 1 << 20, Latency: 7 * time.Millisecond, Split: 5000, Buffer: 20_000},
	}
	for name, l := range links {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b := Pipe(1, l)
				there, back := noise(2, 50_000), noise(3, 40_000)
				var wg sync.WaitGroup
				send := func(c *Conn, data []byte) {
					rng := rand.New(rand.NewPCG(4, 4))
					for len(data) > 0 {
						k := min(len(data), 1+rng.IntN(9000))
						if n, err := c.Write(data[:k]); n != k || err != nil {
							t.Errorf("Write of %d bytes: %d, %v", k, n, err)
							return
						}
						data = data[k:]
					}
					wantErr(t, "CloseWrite", c.CloseWrite(), nil)
				}
				check := func(c *Conn, want []byte) {
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
					}
				}
				wg.Go(func() { send(a, there) })
				wg.Go(func() { send(b, back) })
				wg.Go(func() { check(a, back) })
				wg.Go(func() { check(b, there) })
				wg.Wait()
			})
		})
	}
}

func TestLatency(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Latency: 80 * time.Millisecond})
		start := time.Now()
		if _, err := a.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		wantSince(t, "a write into an empty buffer", start, 0)
		buf := make([]byte, 10)
		n, err := b.Read(buf)
		if string(buf[:n]) != "ping" || err != nil {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
		wantSince(t, "one way", start, 80*time.Millisecond)
		b.Write([]byte("pong"))
		io.ReadFull(a, buf[:4])
		wantSince(t, "the round trip", start, 160*time.Millisecond)
		a.Close()
		if _, err = b.Read(buf); err != io.EOF {
			t.Fatalf("read at the end: %v", err)
		}
		wantSince(t, "the end of the stream too", start, 240*time.Millisecond)
	})
}

func TestRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// 1,000,000 bytes at 100,000 a second, and the last byte's 50 ms.
		a, b := Pipe(1, Link{Rate: 100_000, Latency: 50 * time.Millisecond})
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if n, err := a.Write(make([]byte, 1_000_000)); n != 1_000_000 || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		})
		if _, err := io.ReadFull(b, make([]byte, 500_000)); err != nil {
			t.Fatal(err)
		}
		half := time.Since(start)
		// Rounding of a segment's time, and the segment's length itself.
		if want := 5*time.Second + 50*time.Millisecond; half < want || half > want+50*time.Millisecond {
			t.Errorf("half of the bytes after %v, want about %v", half, want)
		}
		if _, err := io.ReadFull(b, make([]byte, 500_000)); err != nil {
			t.Fatal(err)
		}
		if all, want := time.Since(start), 10*time.Second+50*time.Millisecond; all > want || all < want-time.Millisecond {
			t.Errorf("all bytes after %v, want %v", all, want)
		}
		wg.Wait()
		// An idle link does not save up.
		time.Sleep(time.Hour)
		start = time.Now()
		a.Write(make([]byte, 4000))
		io.ReadFull(b, make([]byte, 4000))
		wantSince(t, "4,000 bytes after an hour", start, 90*time.Millisecond)
	})
}

func TestBufferLimitsWhatIsInFlight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Buffer: 1000})
		if n, err := a.Write(make([]byte, 1000)); n != 1000 || err != nil {
			t.Fatalf("Write into the buffer: %d, %v", n, err)
		}
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		start := time.Now()
		n, err := a.Write(make([]byte, 1))
		if n != 0 {
			t.Fatalf("wrote %d bytes into a full buffer", n)
		}
		wantErr(t, "Write into a full buffer", err, os.ErrDeadlineExceeded)
		wantSince(t, "it", start, time.Minute)
		a.SetWriteDeadline(time.Time{})

		var wg sync.WaitGroup
		wrote := 0
		wg.Go(func() { wrote, _ = a.Write(make([]byte, 500)) })
		synctest.Wait()
		io.ReadFull(b, make([]byte, 499))
		synctest.Wait()
		if wrote != 0 {
			t.Fatal("a write returned before there was room for all of it")
		}
		io.ReadFull(b, make([]byte, 1))
		wg.Wait()
		if wrote != 500 {
			t.Fatalf("wrote %d bytes, want 500", wrote)
		}
	})
}

// What is written and not sent yet stays little, and the link is busy all the same.
func TestKeepUnsent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const rate, unsent = 100 * segmentBytes, 4 * segmentBytes
		a, b := Pipe(1, Link{Rate: rate, Latency: time.Second, Buffer: 1 << 20})
		a.KeepUnsent(unsent)
		start := time.Now()
		want := func(what string, d time.Duration) {
			t.Helper()
			wantSince(t, what, start, d)
		}
		a.AwaitRoom()
		a.Write(make([]byte, 6*segmentBytes)) // goes in whole, since nothing is there
		want("a write into nothing", 0)
		a.Write(make([]byte, 2*segmentBytes)) // goes in when three are left
		want("the next", 30*time.Millisecond)
		a.AwaitRoom() // returns when one is left
		want("waiting for room", 70*time.Millisecond)
		a.Write(make([]byte, 2*segmentBytes))
		want("a write into room", 70*time.Millisecond)
		if n, err := io.ReadFull(b, make([]byte, 10*segmentBytes)); err != nil {
			t.Fatal(n, err)
		}
		want("all of it", time.Second+100*time.Millisecond) // without a break

		// A write that waits for room heeds its deadline, and lets others wait with theirs.
		a.Write(make([]byte, 50*segmentBytes))
		start = time.Now()
		a.SetWriteDeadline(start.Add(100 * time.Millisecond))
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				_, err := a.Write(make([]byte, 1))
				wantErr(t, "Write", err, os.ErrDeadlineExceeded)
			})
		}
		a.AwaitRoom()
		want("waiting for room with a deadline", 100*time.Millisecond)
		wg.Wait()
		a.SetWriteDeadline(time.Time{})
		wg.Go(a.AwaitRoom)
		synctest.Wait()
		a.KeepUnsent(0)
		wg.Wait()
		want("without the limit there", 100*time.Millisecond)
		wg.Go(func() {
			a.KeepUnsent(unsent)
			a.AwaitRoom()
		})
		synctest.Wait()
		a.Close()
		wg.Wait()
		want("waiting for room at a closed end", 100*time.Millisecond)
		b.Close()
	})
}

func TestAwaitRoomInTheBuffer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Buffer: 100})
		a.AwaitRoom()
		a.Write(make([]byte, 100))
		var wg sync.WaitGroup
		for _, f := range []func(){func() { b.Read(make([]byte, 1)) }, func() { b.Close() }} {
			there := false
			wg.Go(func() {
				a.AwaitRoom()
				there = true
			})
			synctest.Wait()
			if there {
				t.Fatal("room in a full buffer")
			}
			f()
			wg.Wait()
			a.Write(make([]byte, 1))
		}
	})
}

func TestConcurrentWritesDoNotMix(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Buffer: 10, Latency: time.Millisecond})
		var wg sync.WaitGroup
		const writers = 20
		for i := range writers {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 50 * time.Microsecond) // some find the others waiting
				a.Write(bytes.Repeat([]byte{byte(i)}, 100))
			})
		}
		var got []byte
		for buf := make([]byte, 3); len(got) < writers*100; {
			n, err := b.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
			if len(got)%7 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		wg.Wait()
		if runs := slices.Compact(got); len(runs) != writers {
			t.Fatalf("writes came in %d runs: %v", len(runs), runs)
		}
	})
}

func TestSplit(t *testing.T) {
	sizes := func(seed uint64) (s []int) {
		a, b := Pipe(seed, Link{Split: 10})
		a.Write(make([]byte, 1000))
		a.Close()
		buf := make([]byte, 100)
		for {
			n, err := b.Read(buf)
			if err != nil {
				return s
			}
			s = append(s, n)
		}
	}
	one := sizes(1)
	if slices.Max(one) != 10 || slices.Min(one) != 1 {
		t.Errorf("reads of %d to %d bytes, want 1 to 10", slices.Min(one), slices.Max(one))
	}
	if !slices.Equal(one, sizes(1)) {
		t.Error("the same seed gave other splits")
	}
	if slices.Equal(one, sizes(2)) {
		t.Error("another seed gave the same splits")
	}
}

func TestHalfClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Latency: time.Second})
		a.Write([]byte("last words"))
		wantErr(t, "CloseWrite", a.CloseWrite(), nil)
		wantErr(t, "CloseWrite again", a.CloseWrite(), nil)
		_, err := a.Write([]byte("x"))
		wantErr(t, "Write after CloseWrite", err, syscall.EPIPE)
		got, err := io.ReadAll(b)
		if string(got) != "last words" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
		b.Write([]byte("answer"))
		b.Close()
		if got, err = io.ReadAll(a); string(got) != "answer" || err != nil {
			t.Fatalf("the other way: read %q, %v", got, err)
		}
		wantErr(t, "Close", a.Close(), nil)
	})
}

func TestCloseDeliversWhatIsInFlight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Latency: time.Second, Rate: 1000})
		want := noise(1, 5000)
		a.Write(want)
		start := time.Now()
		a.Close()
		got, err := io.ReadAll(b)
		if !bytes.Equal(got, want) || err != nil {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		wantSince(t, "reading it", start, 6*time.Second)
	})
}

func TestWriteToClosedEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Latency: time.Second, Buffer: 10})
		a.Close()
		if n, err := b.Write(make([]byte, 100)); n != 100 || err != nil {
			t.Fatalf("Write before the news can have come: %d, %v", n, err)
		}
		time.Sleep(time.Second)
		_, err := b.Write([]byte("x"))
		wantErr(t, "Write after it", err, syscall.EPIPE)

		// A writer that waits for room is let go too, and fails with its next write.
		a, b = Pipe(1, Link{Buffer: 10})
		var wg sync.WaitGroup
		var waited, next error
		wg.Go(func() {
			_, waited = b.Write(make([]byte, 100))
			_, next = b.Write(make([]byte, 1))
		})
		synctest.Wait()
		a.Close()
		wg.Wait()
		if waited != nil && !errors.Is(waited, syscall.EPIPE) {
			t.Errorf("the write that waited: %v", waited)
		}
		wantErr(t, "the write after it", next, syscall.EPIPE)
	})
}

func TestOwnClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, _ := Pipe(1, Link{Buffer: 1})
		var wg sync.WaitGroup
		var rerr, werr error
		wg.Go(func() { _, rerr = a.Read(make([]byte, 1)) })
		wg.Go(func() { _, werr = a.Write(make([]byte, 2)) })
		synctest.Wait()
		wantErr(t, "Close", a.Close(), nil)
		wg.Wait()
		wantErr(t, "Read that waited", rerr, net.ErrClosed)
		wantErr(t, "Write that waited", werr, net.ErrClosed)
		_, err := a.Read(nil)
		wantErr(t, "Read", err, net.ErrClosed)
		_, err = a.Write(nil)
		wantErr(t, "Write", err, net.ErrClosed)
		wantErr(t, "Close again", a.Close(), net.ErrClosed)
		wantErr(t, "CloseWrite", a.CloseWrite(), net.ErrClosed)
		wantErr(t, "SetDeadline", a.SetDeadline(time.Now()), net.ErrClosed)
		wantErr(t, "SetWriteDeadline", a.SetWriteDeadline(time.Now()), net.ErrClosed)
	})
}

func TestDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{})
		buf := make([]byte, 1)
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		_, err := a.Read(buf)
		wantErr(t, "Read", err, os.ErrDeadlineExceeded)
		wantSince(t, "Read", start, time.Second)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("%v is no timeout of package net", err)
		}
		// A deadline in the past fails even where there are bytes, and does no lasting harm.
		b.Write(buf)
		_, err = a.Read(buf)
		wantErr(t, "Read past the deadline", err, os.ErrDeadlineExceeded)
		a.SetReadDeadline(time.Time{})
		if _, err = a.Read(buf); err != nil {
			t.Fatal(err)
		}
		// Setting one wakes who waits already; so does moving it nearer.
		var wg sync.WaitGroup
		for _, d := range []time.Duration{time.Hour, time.Minute, -time.Second} {
			a.SetReadDeadline(time.Now().Add(24 * time.Hour))
			start = time.Now()
			wg.Go(func() { _, err = a.Read(buf) })
			synctest.Wait()
			a.SetDeadline(time.Now().Add(d))
			wg.Wait()
			wantErr(t, "Read", err, os.ErrDeadlineExceeded)
			wantSince(t, "Read", start, max(d, 0))
		}
		// The write side has one of its own.
		_, err = a.Write(buf)
		wantErr(t, "Write", err, os.ErrDeadlineExceeded)
		a.SetWriteDeadline(time.Time{})
		if _, err = a.Write(buf); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := Pipe(1, Link{Latency: time.Second})
		a.Write([]byte("lost"))
		var wg sync.WaitGroup
		var err error
		wg.Go(func() { _, err = b.Read(make([]byte, 10)) })
		synctest.Wait()
		a.Cut()
		wg.Wait()
		wantErr(t, "Read that waited", err, syscall.ECONNRESET)
		_, err = a.Read(make([]byte, 10))
		wantErr(t, "Read", err, syscall.ECONNRESET)
		_, err = a.Write([]byte("x"))
		wantErr(t, "Write", err, syscall.ECONNRESET)
		_, err = b.Write([]byte("x"))
		wantErr(t, "Write of the other side", err, syscall.ECONNRESET)
		wantErr(t, "Close", errors.Join(a.Close(), b.Close()), nil)
	})
}

func TestCutWithin(t *testing.T) {
	seen := make(map[int]bool)
	for seed := range uint64(200) {
		a, b := Pipe(seed, Link{CutWithin: 20})
		a.Write(make([]byte, 100))
		got, err := io.ReadAll(b)
		wantErr(t, fmt.Sprint("seed ", seed), err, syscall.ECONNRESET)
		if len(got) < 1 || len(got) > 20 {
			t.Fatalf("seed %d: %d bytes before the cut, want 1 to 20", seed, len(got))
		}
		_, err = a.Write(make([]byte, 1))
		wantErr(t, "Write of the other side", err, syscall.ECONNRESET)
		seen[len(got)] = true
	}
	if len(seen) < 15 {
		t.Errorf("only %d different places of 20 in 200 connections", len(seen))
	}
}

var (
	hostA = netip.MustParseAddr("10.0.0.1")
	hostB = netip.MustParseAddr("10.0.0.2")
	hostC = netip.MustParseAddr("2001:db8::3")
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func TestNetwork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(1, Link{Latency: 10 * time.Millisecond})
		n.SetLink(hostC, hostA, Link{Latency: time.Second})
		l, err := n.Listen(at(hostA, 6881))
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.Listen(at(hostA, 6881))
		wantErr(t, "second Listen", err, syscall.EADDRINUSE)
		other, err := n.Listen(at(hostA, 0))
		if err != nil || other.Addr().(*net.TCPAddr).Port < firstEphemeral {
			t.Fatalf("Listen on port 0: %v, %v", other, err)
		}
		other.Close()

		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					wantErr(t, "Accept", err, net.ErrClosed)
					return
				}
				wg.Go(func() { // echo
					defer c.Close()
					io.Copy(c, c)
				})
			}
		})
		for _, tt := range []struct {
			from netip.AddrPort
			rtt  time.Duration
		}{{at(hostB, 0), 20 * time.Millisecond}, {at(hostC, 1234), 2 * time.Second}} {
			start := time.Now()
			c, err := n.Dial(t.Context(), tt.from, at(hostA, 6881))
			if err != nil {
				t.Fatal(err)
			}
			wantSince(t, "Dial", start, tt.rtt)
			local := c.LocalAddr().(*net.TCPAddr).AddrPort()
			if local.Addr() != tt.from.Addr() || local.Port() == 0 || tt.from.Port() != 0 && local != tt.from {
				t.Errorf("local address %v, asked for %v", local, tt.from)
			}
			if got := c.RemoteAddr().String(); got != "10.0.0.1:6881" {
				t.Errorf("remote address %v", got)
			}
			c.Write([]byte("hello"))
			c.(*Conn).CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
				t.Errorf("echo %q, %v", got, err)
			}
			wantSince(t, "Dial and echo", start, 2*tt.rtt)
			c.Close()
		}
		synctest.Wait()
		if k := n.Conns(); k != 0 {
			t.Errorf("%d ends left open", k)
		}
		wantErr(t, "Close", l.Close(), nil)
		wantErr(t, "Close again", l.Close(), net.ErrClosed)
		wg.Wait()
		start := time.Now()
		_, err = n.Dial(t.Context(), at(hostB, 0), at(hostA, 6881))
		wantErr(t, "Dial to nobody", err, syscall.ECONNREFUSED)
		wantSince(t, "the refusal", start, 20*time.Millisecond)
		if again, err := n.Listen(at(hostA, 6881)); err != nil {
			t.Errorf("Listen after Close: %v", err)
		} else {
			again.Close()
		}
	})
}

func TestDialHeedsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(1, Link{Latency: 10 * time.Second})
		l, err := n.Listen(at(hostA, 1))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []time.Duration{0, time.Second, 15 * time.Second} { // at once, on the way there, on the way back
			ctx, cancel := context.WithTimeout(t.Context(), d)
			start := time.Now()
			_, err := n.Dial(ctx, at(hostB, 0), at(hostA, 1))
			wantErr(t, "Dial", err, context.DeadlineExceeded)
			wantSince(t, "Dial", start, d)
			cancel()
		}
		// The last of them was there to be accepted, and has ended.
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read from who gave up: %v", err)
		}
		c.Close()
		if k := n.Conns(); k != 0 {
			t.Errorf("%d ends left open", k)
		}
		l.Close()
	})
}

func TestBacklog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(1, Link{})
		l, err := n.Listen(at(hostA, 1))
		if err != nil {
			t.Fatal(err)
		}
		var conns []net.Conn
		for range backlog {
			c, err := n.Dial(t.Context(), at(hostB, 0), at(hostA, 1))
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		var wg sync.WaitGroup
		var late net.Conn
		var lateErr error
		wg.Go(func() { late, lateErr = n.Dial(t.Context(), at(hostB, 0), at(hostA, 1)) })
		synctest.Wait()
		if late != nil || lateErr != nil {
			t.Fatalf("a dial beyond the backlog returned %v, %v", late, lateErr)
		}
		first, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if lateErr != nil {
			t.Fatal(lateErr)
		}
		// Close cuts who was not accepted, and no one else.
		l.Close()
		_, err = late.Read(make([]byte, 1))
		wantErr(t, "Read of one who was not accepted", err, syscall.ECONNRESET)
		first.Write([]byte("x"))
		if _, err = conns[0].Read(make([]byte, 1)); err != nil {
			t.Errorf("Read of one who was: %v", err)
		}
		first.Close()
		late.Close()
		for _, c := range conns {
			c.Close()
		}
		if k := n.Conns(); k != 0 {
			t.Errorf("%d ends left open", k)
		}
	})
}

func TestNetworkCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := New(1, Link{})
		l, err := n.Listen(at(hostA, 1))
		if err != nil {
			t.Fatal(err)
		}
		dial := func(from netip.Addr) (there, here net.Conn) {
			there, err := n.Dial(t.Context(), at(from, 0), at(hostA, 1))
			if err != nil {
				t.Fatal(err)
			}
			if here, err = l.Accept(); err != nil {
				t.Fatal(err)
			}
			return there, here
		}
		b1, _ := dial(hostB)
		_, a2 := dial(hostB)
		c1, c2 := dial(hostC)
		if k := n.Cut(hostA, hostB); k != 2 {
			t.Errorf("cut %d connections, want 2", k)
		}
		for _, c := range []net.Conn{b1, a2} {
			_, err := c.Read(make([]byte, 1))
			wantErr(t, "Read", err, syscall.ECONNRESET)
		}
		c2.Write([]byte("x"))
		if _, err := c1.Read(make([]byte, 1)); err != nil {
			t.Errorf("another host's connection: %v", err)
		}
	})
}

func TestSeedsDependOnHostsOnly(t *testing.T) {
	sizes := func(from netip.Addr, noisy bool) (s []int) {
		n := New(7, Link{Split: 10})
		l, err := n.Listen(at(hostA, 1))
		if err != nil {
			t.Fatal(err)
		}
		if noisy { // another host's dials change nothing
			n.Dial(t.Context(), at(hostC, 0), at(hostA, 1))
			l.Accept()
		}
		c, err := n.Dial(t.Context(), at(from, 0), at(hostA, 1))
		if err != nil {
			t.Fatal(err)
		}
		c.Write(make([]byte, 200))
		c.Close()
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for buf := make([]byte, 20); ; {
			k, err := in.Read(buf)
			if err != nil {
				return s
			}
			s = append(s, k)
		}
	}
	alone := sizes(hostB, false)
	if beside := sizes(hostB, true); !slices.Equal(alone, beside) {
		t.Errorf("splits %v, and %v beside another connection", alone, beside)
	}
	if slices.Equal(alone, sizes(hostC, false)) {
		t.Errorf("two hosts have the same splits: %v", alone)
	}
}

// Everything works outside a bubble as well.
func TestRealTime(t *testing.T) {
	a, b := Pipe(1, Link{Latency: 20 * time.Millisecond})
	start := time.Now()
	a.Write([]byte("x"))
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Errorf("arrived after %v, want 20ms", d)
	}
	b.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := b.Read(make([]byte, 1))
	wantErr(t, "Read", err, os.ErrDeadlineExceeded)
}

func BenchmarkPipe(b *testing.B) {
	x, y := Pipe(1, Link{})
	buf := make([]byte, 16<<10)
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(io.Discard, y) })
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := x.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	x.Close()
	wg.Wait()
}
