package peer

import (
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

func (d *dialogue) wantDeadline(after time.Duration) {
	d.t.Helper()
	if at := d.m.Deadline(); !at.Equal(d.now.Add(after)) {
		d.t.Fatalf("deadline in %v, want %v", at.Sub(d.now), after)
	}
}

func TestKeepAlive(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.advance(trimAfter) // gives back what the hello took
		d.wantDeadline(90*time.Second - trimAfter)
		d.advance(80*time.Second - 1)
		d.m.Advance(d.now) // too early, though told
		d.wantOut()
		d.advance(1)
		d.m.Advance(d.now.Add(time.Minute)) // one is enough while nobody writes
		d.wantOut(wire.KeepAlive{})
		// Anything sent counts from when it is written; what is received does not.
		d.advance(60 * time.Second)
		d.send(wire.Have{Index: 1})
		d.advance(10 * time.Second)
		d.wantOut(wire.Have{Index: 1})
		d.feed(wire.KeepAlive{})
		d.advance(89 * time.Second)
		d.wantOut()
		// So does a piece.
		if !d.m.FinishPiece(d.now, block(0, 0, 1), make([]byte, 14)) {
			t.Fatal("FinishPiece refuses")
		}
		d.advance(89 * time.Second)
		d.wantOut()
		d.advance(time.Second)
		d.wantOut(wire.KeepAlive{})
	})
}

func TestIdle(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		lives := func(by time.Duration) {
			t.Helper()
			for ; by > 0; by -= time.Second {
				d.advance(min(by, time.Second))
				d.output()
			}
			d.wantIdle()
		}
		lives(IdleTimeout - 1)
		d.feed([]byte{0}) // a byte is enough, even of an unfinished frame
		lives(IdleTimeout - 1)
		d.m.Feed(d.now, nil) // no byte is none
		d.drain()
		d.wantDeadline(1)
		d.advance(1)
		d.want(ErrIdle)
		if f := FaultOf(d.m.Err()); f != FaultNetwork {
			t.Errorf("fault %v", f)
		}
		if !d.m.Deadline().IsZero() {
			t.Error("a deadline after the end")
		}
		if !d.m.LastReceived().Equal(d.now.Add(-IdleTimeout)) {
			t.Errorf("last received %v", d.m.LastReceived())
		}
	})
}

// A quiet session gives its buffers back after 10 s, once, and does not ask to be woken for it again.
func TestTrim(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		if withLTEP(v) {
			d = openLTEP(t, v, geometry)
			for range 10 {
				d.feed(metadataRequest(1))
			}
			for range 10 {
				d.m.NextUpload()
			}
			if err := d.m.SendExtended(20, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		d.send(wire.Unchoke{})
		for range 10 {
			d.feed(wire.Request{Block: block(1, 0, 16384)})
		}
		d.uploads()
		frame := encode(t, wire.Have{Index: 1})
		d.feed(frame[:6])
		d.feed(frame[6:])
		d.output()
		d.wantDeadline(trimAfter)
		d.advance(trimAfter - 1)
		if !d.m.holdsBuffers() {
			t.Fatal("gave its buffers back too early")
		}
		d.advance(1)
		m := d.m
		if n := cap(m.partial) + cap(m.out) + cap(m.app) + cap(m.requests.items) + cap(m.metaWants.items); n != 0 {
			t.Errorf("keeps partial %d, out %d, app %d, requests %d, metadata %d", cap(m.partial), cap(m.out), cap(m.app), cap(m.requests.items), cap(m.metaWants.items))
		}
		d.wantDeadline(90*time.Second - trimAfter)
	})
	// A queue of metadata alone is reason enough to be woken.
	d := openLTEP(t, variants[2], geometry)
	d.advance(trimAfter)
	d.feed(metadataRequest(1))
	d.m.NextUpload()
	d.wantDeadline(trimAfter)
	d.advance(trimAfter)
	if c := cap(d.m.metaWants.items); c != 0 {
		t.Errorf("room for %d pieces of metadata stays", c)
	}
	// What is in use stays.
	d = openLTEP(t, variants[2], geometry)
	d.send(wire.Unchoke{})
	d.feed(wire.Request{Block: block(1, 0, 16384)}, metadataRequest(5))
	if err := d.m.SendExtended(20, []byte("message")); err != nil {
		t.Fatal(err)
	}
	part := encode(t, wire.Have{Index: 7})
	d.feed(part[:3])
	d.advance(time.Minute)
	d.m.trim()
	d.feed(part[3:])
	d.want(wire.Have{Index: 7})
	d.wantOut(wire.Unchoke{}, app(20, "message"))
	for _, want := range []Upload{{IsMetadata: true, Metadata: 5}, {Block: block(1, 0, 16384)}} {
		if u, ok := d.m.NextUpload(); !ok || u != want {
			t.Errorf("upload %+v, %v; want %+v", u, ok, want)
		}
	}
}

// Feed → Next → Send → AppendOutput allocates nothing in steady state, nor does a block's way out.
func TestAllocsOfBlocks(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.send(wire.Unchoke{})
		d.output()
		data := make([]byte, bt.BlockBytes)
		in := encode(t, wire.Request{Block: block(1, 0, bt.BlockBytes)}, wire.Piece{Index: 2, Begin: 16384, Data: data}, wire.Request{Block: block(1, 0, 1)},
			wire.Cancel{Block: block(1, 0, 1)})
		again := make([]byte, len(in))
		out := make([]byte, 0, 64<<10)
		frame := make([]byte, 13+bt.BlockBytes)
		pieces, written := 0, 0
		step := func() {
			copy(again, in)
			for _, part := range [][]byte{again[:10], again[10:5000], again[5000:]} { // in frames and across them
				d.m.Feed(d.now, part)
				for ev, ok := d.m.Next(); ok; ev, ok = d.m.Next() {
					p, isPiece := ev.Msg.(*wire.Piece)
					if !isPiece || len(p.Data) != bt.BlockBytes {
						panic("not the piece")
					}
					pieces++
					if d.m.Send(wire.Request{Block: p.Block()}) != nil || d.m.Send(wire.Have{Index: p.Index}) != nil {
						panic("Send fails")
					}
				}
			}
			u, ok := d.m.NextUpload()
			if !ok || !d.m.FinishPiece(d.now, u.Block, frame) {
				panic("no upload")
			}
			out = d.m.AppendOutput(d.now, out[:0], 1<<20)
			written += len(out)
		}
		step()
		if n := testing.AllocsPerRun(200, step); n != 0 {
			t.Errorf("%v allocations for a request and a piece", n)
		}
		if pieces != 202 || written == 0 {
			t.Errorf("%d pieces, %d bytes", pieces, written)
		}
	})
}

func TestAllocsOfMessages(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openLTEP(t, v, geometry)
		payload := make([]byte, 64)
		var in []byte
		for range 100 {
			in = append(in, encode(t, wire.Extended{ID: 10, Payload: payload})...)
		}
		again := make([]byte, len(in))
		out := make([]byte, 0, 64<<10)
		got := 0
		step := func() {
			copy(again, in)
			for _, part := range [][]byte{again[:1000], again[1000:]} {
				d.m.Feed(d.now, part)
				for ev, ok := d.m.Next(); ok; ev, ok = d.m.Next() {
					e, isExtended := ev.Msg.(*wire.Extended)
					if !isExtended || d.m.SendExtended(20, e.Payload) != nil {
						panic("no message")
					}
					got++
				}
			}
			for d.m.HasOutput() {
				out = d.m.AppendOutput(d.now, out[:0], 2000)
			}
		}
		step()
		if n := testing.AllocsPerRun(200, step); n != 0 {
			t.Errorf("%v allocations for 100 messages", n)
		}
		if got != 100*202 {
			t.Errorf("%d messages", got)
		}
		md := ltep.Metadata{Type: ltep.MetadataData, TotalSize: 20000, Data: make([]byte, 16384)}
		if n := testing.AllocsPerRun(100, func() {
			if err := d.m.SendMetadata(md); err != nil {
				panic(err)
			}
			out = d.m.AppendOutput(d.now, out[:0], 0)
		}); n != 0 {
			t.Errorf("%v allocations for a piece of metadata", n)
		}
	})
}

// A frame that never ends is given up although bytes of it keep coming; the next one has all its time again, and so has one that we did not read.
func TestSlowFrame(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		drip := func(n int) {
			t.Helper()
			for range n {
				d.advance(time.Minute)
				d.output()
				d.feed([]byte{0})
			}
			d.wantIdle()
		}
		d.feed([]byte{0, 0, 0x10, 0, 99})
		drip(9)
		d.feed(make([]byte, 0x1000-1-9)) // its end
		d.feed([]byte{0, 0, 0x10, 0, 99})
		drip(9)
		d.m.Excuse(d.now)
		drip(9)
		d.advance(time.Minute - 1)
		d.output()
		d.wantIdle()
		d.advance(1)
		d.want(ErrSlowFrame)
		if f := FaultOf(d.m.Err()); f != FaultNetwork {
			t.Errorf("fault %v", f)
		}
	})
}
