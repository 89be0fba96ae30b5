package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// joined is a ut_pex message that says that one address joined.
func joined(port uint16) ltep.PEX {
	return ltep.PEX{Added: []ltep.PEXPeer{{Addr: netip.AddrPortFrom(somebody.Addr(), port), Flags: ltep.PEXReachable}}}
}

// One ut_pex a minute counts, and what comes sooner is ignored: EMP/1 section 8.
func TestPEXOnceAMinute(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openExtensions(t, v, geometry)
		d.feed(joined(1))
		d.want(joined(1))
		d.feed(joined(2), app(ourPEX, "not even looked at"))
		d.advance(pexEvery - pexSlack - time.Nanosecond)
		d.feed(joined(3))
		d.wantIdle()
		d.advance(time.Nanosecond)
		d.feed(joined(4), joined(5)) // a little early
		d.want(joined(4))
		// Being early every time does not add up.
		got := 0
		for range 600 {
			d.advance(time.Second)
			d.feed(joined(6), wire.KeepAlive{})
			got += len(d.events)
			d.events = nil
		}
		if got != 10 {
			t.Errorf("%d messages in ten minutes", got)
		}
		// After a long silence the minutes that passed give no credit.
		d.advance(3 * time.Minute)
		d.feed(wire.KeepAlive{})
		d.advance(3 * time.Minute)
		d.feed(joined(7), joined(8))
		d.want(joined(7))
		if err := d.m.Err(); err != nil {
			t.Errorf("the session has ended: %v", err)
		}
	})
}

func TestPEXMalformed(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openExtensions(t, v, geometry)
		d.feed(app(ourPEX, "i0e"))
		if _, ok := errors.AsType[*wire.SyntaxError](d.m.Err()); !ok || FaultOf(d.m.Err()) != FaultPeer {
			t.Errorf("ends with %v", d.m.Err())
		}
	})
}

// A message of 100 addresses is taken whole, and of a longer one 100.
func TestPEXAddresses(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		for _, tt := range []struct{ n, want int }{{100, 100}, {101, 100}, {5000, 100}} {
			var p ltep.PEX
			for i := range tt.n {
				a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 6881)
				p.Added, p.Dropped = append(p.Added, ltep.PEXPeer{Addr: a}), append(p.Dropped, a)
			}
			d := openExtensions(t, v, geometry)
			d.feed(p)
			p.Added, p.Dropped = p.Added[:tt.want], p.Dropped[:tt.want]
			d.want(p)
		}
	})
}

// Extensions that we did not offer are frames without effect, and the peer cannot be sent what it has no id for.
func TestExtensionsNotOffered(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		if withLTEP(v) {
			d = openLTEP(t, v, geometry)
		}
		d.feed(wire.Have{Index: 1})
		d.want(wire.Have{Index: 1})
		d.feed(joined(1), ltep.DontHave{Index: 1}, ltep.UploadOnly{On: true})
		d.wantIdle()
		if set, _ := d.m.Has(); !set.Has(1) {
			t.Error("the piece is gone")
		}
		for _, m := range []wire.Message{joined(1), ltep.DontHave{Index: 1}, ltep.UploadOnly{On: true}} {
			if err := d.m.Send(m); !errors.Is(err, ErrUnsupported) {
				t.Errorf("Send %T: %v", m, err)
			}
		}
		d.wantOut()
	})
}

func TestSendExtensions(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openExtensions(t, v, geometry)
		d.send(joined(7))
		d.send(ltep.DontHave{Index: 5})
		d.send(ltep.UploadOnly{On: true})
		d.send(ltep.UploadOnly{})
		d.wantOut(app(theirPEX, string(ltep.AppendPEX(nil, joined(7)))), app(theirDontHave, "\x00\x00\x00\x05"), app(theirUploadOnly, "\x01"),
			app(theirUploadOnly, "\x00"))
		// Withdrawn, they cannot be sent.
		d.feed(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NamePEX}}})
		if err := d.m.Send(joined(8)); !errors.Is(err, ErrUnsupported) {
			t.Errorf("Send after it was withdrawn: %v", err)
		}
		d.m.Close(nil)
		if err := d.m.Send(ltep.UploadOnly{}); !errors.Is(err, ErrNotOpen) {
			t.Errorf("Send after the end: %v", err)
		}
	})
}

func TestUploadOnly(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openExtensions(t, v, geometry)
		d.feed(ltep.UploadOnly{On: true}, ltep.UploadOnly{})
		d.want(ltep.UploadOnly{On: true}, ltep.UploadOnly{})
		d.feed(app(ourUploadOnly, ""))
		if _, ok := errors.AsType[*wire.SyntaxError](d.m.Err()); !ok {
			t.Errorf("an empty one: %v", d.m.Err())
		}
	})
}

// has returns the pieces that the machine believes its peer to have.
func (d *dialogue) has() (pieces []int) {
	set, all := d.m.Has()
	if all {
		return slices.Collect(bitfield.NewFull(d.m.geom.NumPieces()).All())
	}
	if set == nil {
		return nil
	}
	return slices.Collect(set.All())
}

func TestDontHave(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openExtensions(t, v, geometry)
		d.feed(ltep.DontHave{Index: 3}) // it never had it: no news
		d.wantIdle()
		d.feed(wire.Have{Index: 3}, wire.Have{Index: 4}, ltep.DontHave{Index: 3}, ltep.DontHave{Index: 3})
		d.want(wire.Have{Index: 3}, wire.Have{Index: 4}, ltep.DontHave{Index: 3})
		if got := d.has(); !slices.Equal(got, []int{4}) {
			t.Errorf("has %v", got)
		}
		// Of everything, one is gone; and it comes back.
		d.feed(wire.HaveAll{}, ltep.DontHave{Index: 19})
		d.want(wire.HaveAll{}, ltep.DontHave{Index: 19})
		if _, all := d.m.Has(); all || len(d.has()) != 19 || slices.Contains(d.has(), 19) {
			t.Errorf("all: %v, has %v", all, d.has())
		}
		d.feed(wire.Have{Index: 19})
		d.want(wire.Have{Index: 19})
		if set, all := d.m.Has(); !all || set != nil {
			t.Errorf("all: %v", all)
		}
	})
}

func TestDontHaveLimits(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		try := func(g bt.Geometry) func(n int) error {
			return func(n int) error { return fed(openExtensions(t, v, g), ltep.DontHave{Index: bt.PieceIndex(n)}) }
		}
		wiretest.TestLimits(t, []wiretest.Limit{
			{Name: "index", At: 19, Try: try(geometry), Want: ErrBadState},
			{Name: "index before the metadata", At: bt.MaxPieces - 1, Try: try(bt.Geometry{}), Want: ErrBadState},
			{Name: "number before the metadata", At: maxEarlyHave, Want: ErrBadState, Try: func(n int) error {
				d := openExtensions(t, v, bt.Geometry{})
				for range n {
					d.feed(ltep.DontHave{Index: 1})
				}
				return d.m.Err()
			}},
			{Name: "without effect", At: wire.MaxIdleFrames, Want: ErrFlood, Try: func(n int) error {
				d := openExtensions(t, v, geometry)
				for range n {
					d.feed(ltep.DontHave{Index: 1})
				}
				return d.m.Err()
			}},
		})
		if err := fed(openExtensions(t, v, geometry), ltep.DontHave{Index: 1<<32 - 1}); !errors.Is(err, ErrBadState) {
			t.Errorf("the largest index: %v", err)
		}
		d := openExtensions(t, v, geometry)
		if _, ok := errors.AsType[*wire.SyntaxError](fed(d, app(ourDontHave, "abc"))); !ok {
			t.Errorf("three bytes: %v", d.m.Err())
		}
	})
}

// What was lost before the metadata is known is lost afterwards, in the order in which it was said.
func TestEarlyDontHave(t *testing.T) {
	all := slices.Collect(bitfield.NewFull(20).All())
	without := func(gone ...int) (rest []int) {
		for _, i := range all {
			if !slices.Contains(gone, i) {
				rest = append(rest, i)
			}
		}
		return rest
	}
	for name, tt := range map[string]struct {
		said []any
		want []int
	}{
		"had, lost":           {[]any{wire.Have{Index: 1}, wire.Have{Index: 2}, ltep.DontHave{Index: 1}}, []int{2}},
		"lost, had":           {[]any{ltep.DontHave{Index: 1}, wire.Have{Index: 1}}, []int{1}},
		"all but two":         {[]any{wire.HaveAll{}, ltep.DontHave{Index: 0}, ltep.DontHave{Index: 19}}, without(0, 19)},
		"all, lost, had":      {[]any{wire.HaveAll{}, ltep.DontHave{Index: 7}, wire.Have{Index: 7}}, all},
		"all, lost, had, had": {[]any{wire.HaveAll{}, ltep.DontHave{Index: 7}, ltep.DontHave{Index: 8}, wire.Have{Index: 7}, wire.Have{Index: 7}}, without(8)},
		"of a bitfield":       {[]any{wire.Bitfield{Bits: []byte{0xc0, 0, 0}}, ltep.DontHave{Index: 1}, ltep.DontHave{Index: 2}}, []int{0}},
		"of nothing":          {[]any{wire.HaveNone{}, ltep.DontHave{Index: 1}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			over(t, withLTEP, func(t *testing.T, v variant) {
				d := openExtensions(t, v, bt.Geometry{})
				d.feed(tt.said...)
				if err := d.m.SetGeometry(geometry); err != nil {
					t.Fatal(err)
				}
				if got := d.has(); !slices.Equal(got, tt.want) {
					t.Errorf("has %v, want %v", got, tt.want)
				}
			})
		})
	}
	d := openExtensions(t, variants[2], bt.Geometry{})
	d.feed(ltep.DontHave{Index: 20})
	err := d.m.SetGeometry(geometry)
	if p, ok := errors.AsType[*ProtocolError](err); !ok || p.Kind != wire.KindDontHave || !errors.Is(err, ErrBadState) {
		t.Errorf("a piece that turns out not to exist: %v", err)
	}
}

// A peer that loses and finds the last piece again and again costs no set of pieces each time.
func TestDontHaveAllocs(t *testing.T) {
	large := bt.Geometry{TotalBytes: bt.MaxPieces * 16384, PieceBytes: 16384}
	d := openExtensions(t, variants[3], large)
	in := encode(t, ltep.DontHave{Index: 9}, wire.Have{Index: 9})
	again := make([]byte, len(in))
	got := 0
	d.feed(wire.HaveAll{})
	step := func() {
		copy(again, in)
		d.m.Feed(d.now, again)
		for _, ok := d.m.Next(); ok; _, ok = d.m.Next() {
			got++
		}
	}
	step()
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations for a piece lost and found", n)
	}
	if _, all := d.m.Has(); !all || got != 2*102 {
		t.Errorf("all: %v, %d events", all, got)
	}
}

// Both ends of a connection speak the extensions with one another.
func TestExtensionsPair(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		p := pair(t, v, geometry, geometry)
		use := &WeUse{PEX: ourPEX, DontHave: ourDontHave, UploadOnly: ourUploadOnly}
		for _, d := range []*dialogue{p.a, p.b} {
			e := ltep.Exchange{M: []ltep.Entry{{Name: ltep.NamePEX, ID: ourPEX}, {Name: ltep.NameDontHave, ID: ourDontHave},
				{Name: ltep.NameUploadOnly, ID: ourUploadOnly}}}
			if err := d.m.SendExchange(&e, use); err != nil {
				t.Fatal(err)
			}
		}
		p.pump()
		p.a.events, p.b.events = nil, nil
		p.a.send(wire.Have{Index: 2})
		p.a.send(ltep.DontHave{Index: 2})
		p.b.send(joined(99))
		p.b.send(ltep.UploadOnly{On: true})
		p.pump()
		p.b.want(wire.Have{Index: 2}, ltep.DontHave{Index: 2})
		p.a.want(joined(99), ltep.UploadOnly{On: true})
	})
}

// The frame that is written is the frame that classic reads.
func TestExtensionFrames(t *testing.T) {
	d := openExtensions(t, variants[2], geometry)
	for i := range 60 {
		d.send(joined(uint16(i + 1)))
	}
	checkOutput(t, d.m.out)
	var dec classic.Decoder
	m, err := dec.Decode(d.m.out[4 : 4+2+len(ltep.AppendPEX(nil, joined(1)))])
	if err != nil || fmt.Sprint(m.(*wire.Extended).ID) != fmt.Sprint(theirPEX) {
		t.Errorf("%v, %v", m, err)
	}
}
