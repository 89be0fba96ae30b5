package peer

import (
	"bytes"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
)

// FuzzOpening gives an opening of either role any bytes, in any split, after nothing or after a good beginning. It never panics; a responder sends nothing before 96 bytes are there, no more than 608 before
// something has opened, and nothing once it drains; and it does not matter how the bytes were cut.
//
// how: bits 0..2 what a responder accepts (all where none), bit 3 an initiator, bit 4 by the veil, bit 5 a good beginning, bit 6 the torrent is not served.
func FuzzOpening(f *testing.F) {
	veiled, classical := initiatorTalk(f, wire.HelloVeil, 1), initiatorTalk(f, wire.HelloMSE, 1)
	f.Add(byte(0), bytes.Clone(veiled.sent), []byte{1})
	f.Add(byte(0), bytes.Clone(classical.sent), []byte{50, 46, 1})
	f.Add(byte(0), helloOf(wire.Reserved{}), []byte{19, 1})
	f.Add(byte(1), append(helloOf(wire.Reserved{}), make([]byte, 40)...), []byte{20})
	f.Add(byte(0), make([]byte, 700), []byte{95, 1})
	f.Add(byte(2), make([]byte, 700), []byte{})
	f.Add(byte(32|16), []byte("records that are none, and more"), []byte{2})
	f.Add(byte(32), make([]byte, 600), []byte{7})
	f.Add(byte(8), make([]byte, 1300), []byte{97})
	f.Add(byte(8|16), make([]byte, 60), []byte{59})
	f.Add(byte(8|32), []byte("VC and so on"), []byte{})
	f.Add(byte(8|16|32), make([]byte, 300), []byte{})
	f.Fuzz(func(t *testing.T, how byte, stream, cuts []byte) {
		if len(stream) > 4096 {
			stream = stream[:4096]
		}
		hello := wire.HelloMSE
		if how&16 != 0 {
			hello = wire.HelloVeil
		}
		accept := wire.Hellos(how&7) << 1 & wire.AllHellos
		if accept == 0 {
			accept = wire.AllHellos
		}
		// prepare returns the side that is tried, and how many bytes it had before.
		prepare := func() (*talk, int) {
			i, r := initiatorTalk(t, hello, 1), responderTalk(t, accept, 2)
			r.unserved = how&64 != 0
			if how&8 != 0 {
				if how&32 != 0 {
					r.feed(bytes.Clone(i.sent))
					i.feed(bytes.Clone(r.sent))
				}
				return i, 0
			}
			if how&32 == 0 {
				return r, 0
			}
			n := len(i.sent)
			r.feed(bytes.Clone(i.sent))
			return r, n
		}
		whole, _ := prepare()
		whole.feed(bytes.Clone(stream))
		k, fed := prepare()
		for b := range wiretest.CutBy(stream, cuts) {
			drained, sent := k.o.Step() >= OpeningDrains, len(k.sent)
			fed += len(b)
			step := k.feed(b)
			switch {
			case drained && (len(k.sent) != sent || step < OpeningDrains):
				t.Fatalf("goes on after its end: %v", k)
			case how&8 == 0 && fed < openingFill && len(k.sent) > 0:
				t.Fatalf("sends before 96 bytes are there: %v", k)
			case how&8 == 0 && step != OpeningDone && len(k.sent) > openingFill+512:
				t.Fatalf("sends %d bytes before anything has opened", len(k.sent))
			case how&8 == 0 && step == OpeningFailed, how&8 != 0 && step == OpeningDrains:
				t.Fatalf("the end of the other role: %v", k)
			case len(k.o.out) > 0, cap(k.o.out) > 1400:
				t.Fatalf("output is kept: %d of %d", len(k.o.out), cap(k.o.out))
			}
			if k.opener != nil && k.opener.Held() > fed {
				t.Fatalf("%d bytes are held of %d", k.opener.Held(), fed)
			}
		}
		if len(stream) == 0 {
			return
		}
		if got, want := k.String(), whole.String(); got != want {
			t.Fatalf("cut:\n%s\nwhole:\n%s", got, want)
		}
	})
}
