package peer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// wantHas checks what the peer is known to have.
func (d *dialogue) wantHas(all bool, pieces ...int) {
	d.t.Helper()
	set, isAll := d.m.Has()
	var got []int
	if set != nil {
		got = slices.Collect(set.All())
	}
	if isAll != all || !slices.Equal(got, pieces) {
		d.t.Fatalf("the peer has all: %v, pieces %v; want %v, %v", isAll, got, all, pieces)
	}
}

func (d *dialogue) wantChoke(amChoking, amInterested, peerChoking, peerInterested bool) {
	d.t.Helper()
	got := make([]bool, 4)
	got[0], got[1], got[2], got[3] = d.m.Choke()
	if want := []bool{amChoking, amInterested, peerChoking, peerInterested}; !slices.Equal(got, want) {
		d.t.Fatalf("choke states %v, want %v", got, want)
	}
}

// A download of one block between two machines, from the bitfield to the piece.
func TestStoryOfABlock(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		p := pair(t, v, geometry, geometry)
		p.b.send(wire.Bitfield{Bits: bitfield.NewFull(20).AppendWire(nil)})
		p.pump()
		p.a.want(wire.Bitfield{Bits: []byte{0xff, 0xff, 0xf0}})
		p.a.wantHas(true)
		p.a.wantChoke(true, false, true, false)
		p.a.send(wire.Interested{})
		p.a.send(wire.Interested{}) // says nothing new
		p.pump()
		p.b.want(wire.Interested{})
		p.b.wantChoke(true, false, true, true)
		p.b.send(wire.Unchoke{})
		p.b.send(wire.Unchoke{})
		p.pump()
		p.a.want(wire.Unchoke{})
		p.a.wantChoke(true, true, false, false)
		p.a.send(wire.Request{Block: block(3, 16384, 16384)})
		p.a.send(wire.Request{Block: block(19, 0, 1000)})
		p.pump()
		p.b.wantIdle() // requests are queued, not told
		p.a.want(wire.Piece{Index: 3, Begin: 16384, Data: bytes.Repeat([]byte{3}, 16384)}, wire.Piece{Index: 19, Data: bytes.Repeat([]byte{19}, 1000)})
		p.a.send(wire.Have{Index: 3})
		p.a.send(wire.NotInterested{})
		p.a.send(wire.NotInterested{})
		p.pump()
		p.b.want(wire.Have{Index: 3}, wire.NotInterested{})
		p.b.wantHas(false, 3)
		p.b.send(wire.Choke{})
		p.b.send(wire.Choke{})
		p.pump()
		p.a.want(wire.Choke{})
		p.a.wantChoke(true, false, true, false)
		p.a.send(wire.Port{Port: 6881})
		p.a.send(wire.KeepAlive{})
		p.pump()
		p.b.want(wire.Port{Port: 6881})
	})
}

func TestRequestsWhileChoked(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.feed(wire.Request{Block: block(1, 0, 16384)})
		d.wantIdle()
		if v.fast {
			d.wantOut(wire.Reject{Block: block(1, 0, 16384)})
		} else {
			d.wantOut() // dropped, as deployed clients do
		}
		if got := d.uploads(); got != nil {
			t.Errorf("uploads %v", got)
		}
	})
}

func TestChokeForgetsRequests(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.send(wire.Unchoke{})
		d.output()
		blocks := []bt.Block{block(1, 0, 16384), block(2, 0, 16384), block(3, 5, 7)}
		for _, b := range blocks {
			d.feed(wire.Request{Block: b})
		}
		d.wantOut()
		if !d.m.HasOutput() {
			t.Error("requests wait, and there is nothing to write")
		}
		if u, ok := d.m.NextUpload(); !ok || u.Block != blocks[0] {
			t.Fatalf("first upload %+v, %v", u, ok)
		}
		d.send(wire.Choke{})
		if v.fast {
			d.wantOut(wire.Choke{}, wire.Reject{Block: blocks[1]}, wire.Reject{Block: blocks[2]})
		} else {
			d.wantOut(wire.Choke{})
		}
		if got := d.uploads(); got != nil || d.m.HasOutput() {
			t.Errorf("uploads %v after the choke", got)
		}
	})
}

func TestCancel(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.send(wire.Unchoke{})
		d.output()
		a, b, c := block(1, 0, 16384), block(2, 0, 16384), block(2, 0, 16383)
		d.feed(wire.Request{Block: a}, wire.Request{Block: b}, wire.Request{Block: c}, wire.Cancel{Block: b}, wire.Cancel{Block: b}, wire.Cancel{Block: block(9, 9, 9)})
		d.wantIdle()
		if v.fast {
			d.wantOut(wire.Reject{Block: b})
		} else {
			d.wantOut()
		}
		if got := d.uploads(); !slices.Equal(got, []bt.Block{a, c}) {
			t.Errorf("uploads %v, want %v and %v", got, a, c)
		}
		d.feed(wire.Cancel{Block: a}) // it has gone already
		d.wantOut()
	})
}

// A peer in its endgame takes back many blocks that have gone already. Those are not among the frames without effect (EMP/1 section 8).
func TestCancelsOfGoneBlocksAreNoFlood(t *testing.T) {
	d := open(t, variants[0], geometry)
	for range wire.MaxIdleFrames + 1 {
		d.feed(wire.Cancel{Block: block(1, 0, 16384)})
	}
	d.wantIdle()
}

func TestRefuse(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.send(wire.Unchoke{})
		d.output()
		d.feed(wire.Request{Block: block(1, 0, 16384)})
		u, ok := d.m.NextUpload()
		if !ok {
			t.Fatal("no upload")
		}
		if err := d.m.Refuse(u); err != nil {
			t.Fatal(err)
		}
		if v.fast {
			d.wantOut(wire.Reject{Block: block(1, 0, 16384)})
		} else {
			d.wantOut()
		}
	})
}

// Each request's own size sets what a piece may have at most, and never less than a whole block.
func TestFastMessagesPass(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.feed(wire.Suggest{Index: 1}, wire.AllowedFast{Index: 2}, wire.Reject{Block: block(1, 0, 16384)}, wire.Unchoke{})
		if v.fast {
			d.want(wire.Suggest{Index: 1}, wire.AllowedFast{Index: 2}, wire.Reject{Block: block(1, 0, 16384)}, wire.Unchoke{})
		} else {
			d.want(wire.Unchoke{}) // unknown ids to us: ignored
		}
	})
}

// Without the Fast bit its ids are unknown ones, whatever they carry: EMP/1 section 7.1.
func TestOddFastFramesWithoutFast(t *testing.T) {
	over(t, withoutFast, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		for _, id := range []byte{classic.IDSuggest, classic.IDReject, classic.IDAllowedFast} {
			d.feed(rawFrame(nil, id, []byte("not of any known size")))
		}
		d.wantIdle()
	})
	over(t, withFast, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.feed(rawFrame(nil, classic.IDSuggest, []byte("not of any known size")))
		end, _ := d.events[0].(closed)
		if _, ok := errors.AsType[*wire.SyntaxError](end.err); !ok || FaultOf(end.err) != FaultPeer {
			t.Errorf("closed with %v", end.err)
		}
	})
}

func TestExtendedWithoutLTEP(t *testing.T) {
	over(t, withoutLTEP, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.feed(wire.Extended{ID: 0, Payload: []byte("d1:md1:ai1eee")}, wire.Extended{ID: 3}, wire.Unchoke{})
		d.want(wire.Unchoke{})
		if d.m.TheyUse().ID("a") != 0 {
			t.Error("an exchange counted")
		}
		for name, err := range map[string]error{
			"SendExtended": d.m.SendExtended(1, nil), "SendExchange": d.m.SendExchange(nil, nil), "SendMetadata": d.m.SendMetadata(metadataRequest(0)),
		} {
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s: %v", name, err)
			}
		}
		d.wantOut()
	})
}

func TestSendWhatTheDialectLacks(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		for _, m := range []wire.Message{wire.HaveAll{}, wire.HaveNone{}, wire.Reject{Block: block(1, 2, 3)}} {
			if err := d.m.Send(m); v.fast != (err == nil) || err != nil && !errors.Is(err, ErrUnsupported) {
				t.Errorf("Send %v: %v", m.Kind(), err)
			}
		}
		if v.fast {
			d.wantOut(wire.HaveAll{}, wire.HaveNone{}, wire.Reject{Block: block(1, 2, 3)})
		}
		for _, m := range []wire.Message{wire.Unknown{}, wire.Piece{}, wire.Extended{}} { // these have calls of their own, or none
			if err := d.m.Send(m); !errors.Is(err, ErrUnsupported) {
				t.Errorf("Send %v: %v", m.Kind(), err)
			}
		}
		d.send(wire.Cancel{Block: block(1, 2, 3)})
		d.wantOut(wire.Cancel{Block: block(1, 2, 3)})
	})
}

func TestWhatThePeerHas(t *testing.T) {
	full := []byte{0xff, 0xff, 0xf0}
	all20 := func(except ...int) (p []int) {
		for i := range 20 {
			if !slices.Contains(except, i) {
				p = append(p, i)
			}
		}
		return p
	}
	haves := func(pieces []int) (items []any) {
		for _, i := range pieces {
			items = append(items, wire.Have{Index: bt.PieceIndex(i)})
		}
		return items
	}
	for _, tt := range []struct {
		name  string
		items []any // what comes before the metadata is known, and when it is known
		all   bool
		has   []int
		err   error
		early error // if the metadata comes last
	}{
		{name: "nothing"},
		{name: "bitfield", items: []any{wire.Bitfield{Bits: []byte{0x80, 0, 0x10}}}, has: []int{0, 19}},
		{name: "empty bitfield", items: []any{wire.Bitfield{Bits: []byte{0, 0, 0}}}},
		{name: "full bitfield", items: []any{wire.Bitfield{Bits: full}}, all: true},
		{name: "have all", items: []any{wire.HaveAll{}}, all: true},
		{name: "have none", items: []any{wire.HaveNone{}}},
		{name: "have none and haves", items: []any{wire.HaveNone{}, wire.Have{Index: 7}}, has: []int{7}},
		{name: "have all and haves", items: []any{wire.HaveAll{}, wire.Have{Index: 7}}, all: true},
		{name: "haves", items: []any{wire.Have{Index: 7}, wire.Have{Index: 19}, wire.Have{Index: 7}}, has: []int{7, 19}},
		{name: "haves that fill up", items: haves(all20()), all: true},
		{name: "haves, then the bitfield", items: []any{wire.Have{Index: 7}, wire.Bitfield{Bits: []byte{0x80, 0, 0}}}, has: []int{0, 7}},
		{name: "haves, then have none", items: []any{wire.Have{Index: 7}, wire.HaveNone{}}, has: []int{7}},
		{name: "haves, then have all", items: []any{wire.Have{Index: 7}, wire.HaveAll{}}, all: true},
		{name: "all by haves, then a bitfield of less", items: append(haves(all20()), wire.Bitfield{Bits: []byte{0x80, 0, 0}}), all: true},
		{name: "all but one by haves, then that one by bitfield", items: append(haves(all20(3)), wire.Bitfield{Bits: []byte{0x10, 0, 0}}), all: true},
		{name: "bitfield after other messages", items: []any{wire.Unchoke{}, wire.Interested{}, wire.Bitfield{Bits: []byte{0, 1, 0}}}, has: []int{15}},
		{name: "two bitfields", items: []any{wire.Bitfield{Bits: []byte{0x80, 0, 0}}, wire.Bitfield{Bits: []byte{0, 0, 0x10}}}, has: []int{0, 19}}, // aria2
		{name: "bitfield and have all", items: []any{wire.Bitfield{Bits: []byte{0x80, 0, 0}}, wire.HaveAll{}}, all: true},
		{name: "have none and bitfield", items: []any{wire.HaveNone{}, wire.Bitfield{Bits: full}}, all: true},
		{name: "have all and have none", items: []any{wire.HaveAll{}, wire.HaveNone{}}, all: true},
		{name: "bitfield and have none", items: []any{wire.Bitfield{Bits: []byte{0x80, 0, 0}}, wire.HaveNone{}}, has: []int{0}},
		{name: "bitfields without end", items: slices.Repeat([]any{wire.Bitfield{Bits: full}}, wire.MaxIdleFrames+2), err: ErrFlood},
		{name: "bitfield too short", items: []any{wire.Bitfield{Bits: full[:2]}}, early: ErrBadBitfield},
		{name: "bitfield of no bytes", items: []any{wire.Bitfield{}}, early: ErrBadBitfield},
		{name: "bitfield too long", items: []any{wire.Bitfield{Bits: append(full, 0)}}, early: ErrBadBitfield},
		{name: "spare bits", items: []any{wire.Bitfield{Bits: []byte{0xff, 0xff, 0xf8}}}, early: ErrBadBitfield},
		{name: "have of the last piece", items: []any{wire.Have{Index: 19}}, has: []int{19}},
		{name: "have beyond it", items: []any{wire.Have{Index: 20}}, early: ErrBadState},
	} {
		t.Run(tt.name, func(t *testing.T) {
			over(t, nil, func(t *testing.T, v variant) {
				check := func(d *dialogue, want error) {
					t.Helper()
					if want == nil {
						if d.m.Phase() != PhaseOpen {
							t.Fatalf("closed: %v", d.m.Err())
						}
						d.wantHas(tt.all, tt.has...)
						return
					}
					if !errors.Is(d.m.Err(), want) || FaultOf(d.m.Err()) != FaultPeer || d.m.Phase() != PhaseClosed {
						t.Fatalf("error %v, want %v", d.m.Err(), want)
					}
				}
				known := open(t, v, geometry)
				known.feed(tt.items...)
				if tt.early != nil {
					check(known, tt.early)
				} else {
					check(known, tt.err)
				}

				later := open(t, v, bt.Geometry{})
				later.feed(tt.items...)
				if tt.err != nil {
					check(later, tt.err)
					return
				}
				if later.m.Phase() != PhaseOpen {
					t.Fatalf("before the metadata: %v", later.m.Err())
				}
				err := later.m.SetGeometry(geometry)
				if !errors.Is(err, tt.early) {
					t.Fatalf("SetGeometry: %v, want %v", err, tt.early)
				}
				check(later, tt.early)
				if err := later.m.SetGeometry(bt.Geometry{}); err != nil { // it is known, or over
					t.Errorf("a second SetGeometry: %v", err)
				}
			})
		})
	}
}

func TestBitfieldIsTold(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		for _, g := range []bt.Geometry{{}, geometry} {
			d := open(t, v, g)
			d.feed(wire.Bitfield{Bits: []byte{1, 2, 0x30}}, wire.Have{Index: 0}, wire.Have{Index: 0})
			if g.Known() {
				d.want(wire.Bitfield{Bits: []byte{1, 2, 0x30}}, wire.Have{Index: 0})
			} else {
				d.want(wire.Bitfield{Bits: []byte{1, 2, 0x30}}) // haves count once the metadata is there
			}
			d = open(t, v, g)
			d.feed(wire.HaveAll{})
			d.want(wire.HaveAll{})
			d = open(t, v, g)
			d.feed(wire.HaveNone{})
			d.want(wire.HaveNone{})
		}
	})
}

func TestTorrentWithoutPieces(t *testing.T) {
	empty := bt.Geometry{PieceBytes: 16384}
	d := open(t, variants[0], empty)
	d.feed(wire.Bitfield{Bits: []byte{}})
	d.want(wire.Bitfield{Bits: []byte{}})
	d.feed(wire.Have{Index: 0})
	d.want(ErrBadState)
}

func TestPieceIndexOutOfRange(t *testing.T) {
	over(t, withFast, func(t *testing.T, v variant) {
		for _, m := range []wire.Message{wire.Suggest{Index: 20}, wire.AllowedFast{Index: 20}, wire.Have{Index: 20}} {
			d := open(t, v, geometry)
			d.feed(m)
			d.want(ErrBadState)
			// Before the metadata nobody knows.
			d = open(t, v, bt.Geometry{})
			d.feed(m)
			if d.m.Phase() != PhaseOpen {
				t.Errorf("%v: %v", m.Kind(), d.m.Err())
			}
		}
	})
}

// After the end nothing happens any more, but what was to be written still can be.
func TestCloseSemantics(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.send(wire.Unchoke{})
		d.output()
		d.feed(wire.Request{Block: block(1, 0, 16384)})
		d.send(wire.Have{Index: 2})
		boom := errors.New("boom")
		d.m.Close(boom)
		d.m.Close(errors.New("too late"))
		d.drain()
		d.want(boom)
		d.drain()
		d.wantIdle() // the end is told once
		if d.m.Err() != boom || d.m.Phase() != PhaseClosed || !d.m.HasOutput() {
			t.Errorf("error %v, phase %v, output %v", d.m.Err(), d.m.Phase(), d.m.HasOutput())
		}
		d.wantOut(wire.Have{Index: 2})
		if _, ok := d.m.NextUpload(); ok || d.m.HasOutput() {
			t.Error("an upload after the end")
		}
		d.feed(wire.Unchoke{})
		d.wantIdle()

		d = open(t, v, geometry)
		d.m.Close(nil)
		d.drain()
		if len(d.events) != 1 || d.m.Err() != nil || FaultOf(d.m.Err()) != FaultNone {
			t.Errorf("a normal end: events %v, error %v", d.events, d.m.Err())
		}
	})
}

// A session may end between two messages of one read.
func TestCloseWhileEventsWait(t *testing.T) {
	d := open(t, variants[0], geometry)
	d.m.Feed(d.now, encode(t, wire.Unchoke{}, wire.Interested{}, wire.Have{Index: 1}))
	if ev, ok := d.m.Next(); !ok || ev.Kind != EventMessage {
		t.Fatalf("%+v", ev)
	}
	d.m.Close(nil)
	if ev, ok := d.m.Next(); !ok || ev.Kind != EventClosed {
		t.Fatalf("%+v, want the end", ev)
	}
	d.drain()
	d.wantIdle()
}

func TestFeedNeedsADrainedMachine(t *testing.T) {
	d := open(t, variants[0], geometry)
	d.m.Feed(d.now, encode(t, wire.Unchoke{}, wire.Interested{}))
	d.m.Next()
	defer func() {
		if recover() == nil {
			t.Error("a second Feed was accepted")
		}
	}()
	d.m.Feed(d.now, encode(t, wire.Choke{}))
}

func TestErrorsSayWhatAndWho(t *testing.T) {
	d := open(t, variants[0], geometry)
	d.feed(wire.Have{Index: 20})
	p, ok := errors.AsType[*ProtocolError](d.m.Err())
	if !ok || p.Code != ErrBadState || p.Phase != PhaseOpen || p.Kind != wire.KindHave {
		t.Fatalf("%#v", d.m.Err())
	}
	if want := "message not legal now (open phase, have): piece 20 of 20"; p.Error() != want {
		t.Errorf("%q, want %q", p, want)
	}
	if s := (&ProtocolError{Code: ErrFlood, Phase: PhaseHello}).Error(); s != "too many frames without effect (hello phase)" {
		t.Errorf("%q", s)
	}
}

func TestFaultOf(t *testing.T) {
	protocol := func(code error) error { return fmt.Errorf("peer x: %w", &ProtocolError{Code: code}) }
	for _, tt := range []struct {
		err  error
		want Fault
	}{
		{nil, FaultNone}, {protocol(ErrSelfConnection), FaultNone}, {ErrDuplicatePeer, FaultNone}, {ErrTooManyConnections, FaultNone},
		{ErrUnknownTorrent, FaultNone}, {ErrNotOpen, FaultNone},
		{ErrHandshakeTimeout, FaultNetwork}, {ErrIdle, FaultNetwork}, {errors.New("connection reset"), FaultNetwork},
		{protocol(ErrBadHello), FaultPeer}, {protocol(ErrFlood), FaultPeer}, {protocol(ErrWrongTorrent), FaultPeer},
		{fmt.Errorf("x: %w", &wire.SyntaxError{Reason: "r"}), FaultPeer},
	} {
		if got := FaultOf(tt.err); got != tt.want {
			t.Errorf("%v: fault %v, want %v", tt.err, got, tt.want)
		}
	}
	if FaultNone.String() != "none" || FaultPeer.String() != "peer" || FaultNetwork.String() != "network" || Fault(9).String() != "network" {
		t.Error("names of faults")
	}
	if PhaseHello.String() != "hello" || PhaseOpen.String() != "open" || PhaseClosed.String() != "closed" || Phase(9).String() != "closed" {
		t.Error("names of phases")
	}
}
