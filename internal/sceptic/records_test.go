package sceptic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// messages is how many each side sends, one a second: each is a record of its own. They are long, so that a LEN that was changed to the largest is found out by what follows.
const (
	messages     = 12
	messageBytes = 20_000
)

// between is somebody who sits between two peers and passes on what each sends, record by record: 0 is the exchange, 1 and later an application message each.
type between struct {
	attack func(b *between, record []byte) [][]byte // what goes on in place of record number at
	at     int
	stays  bool // when the attacked side's sender gives up, noise goes on in its place

	mu      sync.Mutex
	reverse []byte // the last record of the other direction
	pending func(record []byte) [][]byte
	last    time.Time // when a byte of the attacked side came last
	end     time.Time // when its end came
}

// pump passes on what from sends.
func (b *between) pump(from, to net.Conn, attacked bool) {
	buf := make([]byte, 256<<10)
	for n := -1; ; n++ { // -1 is the hello
		k, err := from.Read(buf)
		if k > 0 {
			record := bytes.Clone(buf[:k])
			out := [][]byte{record}
			b.mu.Lock()
			switch {
			case !attacked:
				b.last = time.Now()
				if n >= 0 {
					b.reverse = record
				}
			case n == b.at:
				out = b.attack(b, record)
			case n == b.at+1 && b.pending != nil:
				out = b.pending(record)
			}
			b.mu.Unlock()
			for _, r := range out {
				to.Write(r)
			}
		}
		if err == nil {
			continue
		}
		if attacked && b.stays && errors.Is(err, io.EOF) {
			to.Write(random(seeded('n', 0), 70_000))
			return
		}
		if !attacked && errors.Is(err, io.EOF) {
			b.end = time.Now()
		}
		from.Close()
		to.Close()
		return
	}
}

func flips(at func(n int) int, by byte) func(*between, []byte) [][]byte {
	return func(_ *between, r []byte) [][]byte {
		r[at(len(r))] ^= by
		return [][]byte{r}
	}
}

// attacks are what can be done to a record, and how many of the records up to it are still good: 1 if the record itself arrives once.
var attacks = []struct {
	name string
	good int
	do   func(b *between, r []byte) [][]byte
}{
	{"nothing", -1, func(_ *between, r []byte) [][]byte { return [][]byte{r} }},
	{"LEN, its high byte", 0, flips(func(int) int { return 0 }, 0x80)},
	{"LEN, its low byte", 0, flips(func(int) int { return 1 }, 1)},
	{"padlen, its high byte", 0, flips(func(int) int { return 2 }, 1)},
	{"padlen, its low byte", 0, flips(func(int) int { return 3 }, 0x10)},
	{"the first of the payload", 0, flips(func(int) int { return 4 }, 2)},
	{"the middle", 0, flips(func(n int) int { return n / 2 }, 0x40)},
	{"the first of the tag", 0, flips(func(n int) int { return n - 16 }, 1)},
	{"the last of the tag", 0, flips(func(n int) int { return n - 1 }, 0x80)},
	{"left out", 0, func(*between, []byte) [][]byte { return nil }},
	{"twice", 1, func(_ *between, r []byte) [][]byte { return [][]byte{r, r} }},
	{"twice, the second later", 1, func(b *between, r []byte) [][]byte {
		b.pending = func(next []byte) [][]byte { return [][]byte{r, next} }
		return [][]byte{r}
	}},
	{"after the next", 0, func(b *between, r []byte) [][]byte {
		b.pending = func(next []byte) [][]byte { return [][]byte{next, r} }
		return nil
	}},
	{"without its last byte", 0, func(_ *between, r []byte) [][]byte { return [][]byte{r[:len(r)-1]} }},
	{"half of it", 0, func(_ *between, r []byte) [][]byte { return [][]byte{r[:len(r)/2]} }},
	{"a byte added behind it", 1, func(_ *between, r []byte) [][]byte { return [][]byte{r, {0x55}} }},
	{"a byte added before it", 0, func(_ *between, r []byte) [][]byte { return [][]byte{{0x55}, r} }},
	{"the receiver's own record in its place", 0, func(b *between, r []byte) [][]byte {
		if b.reverse == nil {
			return [][]byte{bytes.Repeat([]byte{1}, len(r))}
		}
		return [][]byte{b.reverse}
	}},
	{"the receiver's own record before it", 0, func(b *between, r []byte) [][]byte { return [][]byte{append(bytes.Clone(b.reverse), 0), r} }},
}

// TestRecordsOverALiveConnection puts somebody between two peers who does something to one record. What came before reaches the application, all of it and in order; of what comes with it and after it
// nothing does; the receiver sends nothing more, and closes after 5..30 s, or at the end of the hello's time if no record had opened (EMP/1 section 5).
func TestRecordsOverALiveConnection(t *testing.T) {
	ats := []int{0, 1, 2, 3, 4, 5, 8}
	if testing.Short() || raceEnabled {
		ats = []int{0, 2, 5}
	}
	for dir, who := range []string{"to the responder", "to the initiator"} {
		for _, a := range attacks {
			for _, at := range ats {
				t.Run(fmt.Sprintf("%s/%s/record %d", who, a.name, at), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { attackRecord(t, dir == 1, at, a.good, a.do) })
				})
			}
		}
	}
}

func attackRecord(t *testing.T, toInitiator bool, at, good int, do func(*between, []byte) [][]byte) {
	h := newHosts()
	start := time.Now()
	var mu sync.Mutex
	var got []int // what the attacked application received
	var failed error
	var failedAt time.Time
	record := func(payload []byte) {
		mu.Lock()
		defer mu.Unlock()
		if len(payload) != messageBytes || slices.ContainsFunc(payload[4:], func(b byte) bool { return b != 0 }) {
			t.Errorf("a message that was not sent, of %d bytes", len(payload))
		}
		got = append(got, int(binary.BigEndian.Uint32(payload)))
	}
	ended := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed, failedAt = err, time.Now()
	}
	s := &session{h: h}
	var opened bool
	watch := func(s *session) {
		s.app, s.ended = record, ended
		s.opened = func(*peerconn.Conn) { opened = true }
	}
	if toInitiator {
		watch(s)
	} else {
		h.session = watch
		h.onRefused = ended
	}
	iEnd, iFar := pipe(1)
	rEnd, rFar := pipe(2)
	b := &between{attack: do, at: at, stays: good >= 0}
	var run sync.WaitGroup
	run.Go(func() { b.pump(iFar, rFar, !toInitiator) })
	run.Go(func() { b.pump(rFar, iFar, toInitiator) })
	r := h.accept(rEnd, wire.AllHellos, seeded('r', at))
	i := h.dial(iEnd, wire.HelloVeil, s, seeded('i', at))
	for _, c := range []*peerconn.Conn{i, r} {
		run.Go(func() {
			time.Sleep(2 * time.Second)
			for n := range messages {
				// Into a session that has ended, or never opened, nothing goes.
				if c.SendApp(context.Background(), appID, number(n, messageBytes)) != nil {
					return
				}
				time.Sleep(time.Second)
			}
			if good < 0 {
				time.Sleep(time.Second)
				c.Close(nil)
			}
		})
	}
	run.Wait()
	h.close()
	if good < 0 {
		if len(got) != messages || failed != nil || h.drains.Stats().Total != 0 {
			t.Fatalf("with nothing done to it: %d messages, %v", len(got), failed)
		}
		return
	}
	want := at - 1 + good // record 0 is the exchange
	if want = max(0, want); len(got) != want {
		t.Errorf("%d messages reached the application, want %d", len(got), want)
	}
	for n, x := range got {
		if n != x {
			t.Fatalf("message %d came as number %d", x, n)
		}
	}
	if wantOpen := at+good > 0; opened != wantOpen {
		t.Errorf("open: %v, want %v", opened, wantOpen)
	}
	if !errors.Is(failed, obfs.ErrRecord) {
		t.Errorf("ended with %v, want a bad record", failed)
	}
	if n := h.drains.Stats().Total; n != 1 {
		t.Errorf("%d connections drained, want 1", n)
	}
	if b.last.Sub(failedAt) > latency {
		t.Errorf("bytes were sent %v after it had failed", b.last.Sub(failedAt)-latency)
	}
	low, high, from := 5*time.Second, 30*time.Second, failedAt
	switch {
	case !opened && toInitiator:
		low, high, from = peer.InitiatorTimeout, peer.InitiatorTimeout, start
	case !opened:
		low, high, from = peer.MinHelloTimeout, peer.MaxHelloTimeout, start
	}
	if d := b.end.Sub(from) - latency; d < low || d > high+3*latency {
		t.Errorf("closed after %v, want %v..%v", d, low, high)
	}
}
