package peer

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

func metadataRequest(piece uint32) ltep.Metadata {
	return ltep.Metadata{Type: ltep.MetadataRequest, Piece: piece}
}

func app(id uint8, text string) wire.Extended { return wire.Extended{ID: id, Payload: []byte(text)} }

// Two machines tell each other their types and then talk in them.
func TestStoryOfMessages(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		p := pair(t, v, geometry, geometry)
		var aUse, bUse WeUse
		aUse.MaxBytes[7], bUse.MaxBytes[9] = 1001, 1001
		ae := ltep.Exchange{M: []ltep.Entry{{Name: "chat", ID: 7}}, Client: "A"}
		be := ltep.Exchange{M: []ltep.Entry{{Name: "chat", ID: 9}}, Client: "B"}
		if err := errors.Join(p.a.m.SendExchange(&ae, &aUse), p.b.m.SendExchange(&be, &bUse)); err != nil {
			t.Fatal(err)
		}
		p.pump()
		p.a.want(be)
		p.b.want(ae)
		if id := p.a.m.TheyUse().ID("chat"); id != 9 {
			t.Fatalf("they use id %d", id)
		}
		var want []any
		for i := range 100 {
			m := app(9, strings.Repeat("x", i*10)+strconv.Itoa(i))
			want = append(want, m)
			if err := p.a.m.SendExtended(m.ID, m.Payload); err != nil {
				t.Fatal(err)
			}
		}
		p.pump()
		p.b.want(want...)
		if err := p.b.m.SendExtended(7, nil); err != nil {
			t.Fatal(err)
		}
		p.pump()
		p.a.want(app(7, ""))
	})
}

func TestExchangesAreAdditive(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		exchange := func(m map[string]uint8, entries ...ltep.Entry) {
			t.Helper()
			e := ltep.Exchange{M: entries}
			d.feed(e)
			d.want(e)
			if got := maps.Collect(d.m.TheyUse().All()); !maps.Equal(got, m) {
				t.Fatalf("they use %v, want %v", got, m)
			}
		}
		exchange(map[string]uint8{"a": 1, "b": 2}, ltep.Entry{Name: "a", ID: 1}, ltep.Entry{Name: "b", ID: 2})
		exchange(map[string]uint8{"a": 1, "b": 2, "c": 3}, ltep.Entry{Name: "c", ID: 3})
		exchange(map[string]uint8{"b": 2, "c": 3}, ltep.Entry{Name: "a", ID: 0})
		exchange(map[string]uint8{"b": 2, "c": 3}, ltep.Entry{Name: "d", ID: 1})
		exchange(map[string]uint8{"b": 2, "c": 3})
		d.wantOut()
	})
}

func TestMalformedExchangesAreIgnored(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.feed(app(0, "d1:md1:ai1eee"))
		d.events = nil
		for _, bad := range []string{"", "d1:m", "li1ee", "d1:ai03ee", "d1:x" + strings.Repeat("l", 8) + strings.Repeat("e", 8) + "e",
			"d1:md1:bi2eee" + strings.Repeat("x", wire.MaxExchangeBytes)} {
			d.feed(app(0, bad))
			d.wantIdle()
		}
		if got := maps.Collect(d.m.TheyUse().All()); !maps.Equal(got, map[string]uint8{"a": 1}) {
			t.Errorf("they use %v", got)
		}
	})
}

func TestExchangeLimits(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		wiretest.TestLimits(t, []wiretest.Limit{
			{Name: "received", At: 32, Want: ErrBadTypeExchange, Try: func(n int) error {
				d := open(t, v, geometry)
				for range n {
					d.feed(ltep.Exchange{})
				}
				return d.m.Err()
			}},
			{Name: "received, malformed ones counted", At: 32, Want: ErrBadTypeExchange, Try: func(n int) error {
				d := open(t, v, geometry)
				for i := range n {
					d.feed(app(0, []string{"de", "d"}[i%2]))
				}
				return d.m.Err()
			}},
			{Name: "sent", At: 32, Want: ErrTooManyExchanges, Try: func(n int) error {
				d := open(t, v, geometry)
				for range n - 1 {
					if err := d.m.SendExchange(&ltep.Exchange{}, &WeUse{}); err != nil {
						return err
					}
				}
				d.output()
				err := d.m.SendExchange(&ltep.Exchange{}, &WeUse{})
				if d.m.Phase() != PhaseOpen || err != nil && d.m.HasOutput() {
					t.Errorf("after %d: phase %v, output %v", n, d.m.Phase(), d.m.HasOutput())
				}
				return err
			}},
			{Name: "bytes sent", At: wire.MaxExchangeSent, Want: ErrMessageTooLarge, Try: func(n int) error {
				d := open(t, v, geometry)
				d.send(wire.Have{Index: 1})
				e := ltep.Exchange{Client: strings.Repeat("x", n-len("d1:mde1:v16000:e"))}
				use := d.m.weUse
				err := d.m.SendExchange(&e, &WeUse{})
				if err != nil { // nothing has happened
					if d.m.weUse != use {
						t.Error("the table changed")
					}
					d.wantOut(wire.Have{Index: 1})
				} else if out := d.output(); len(out) != 9+6+n {
					t.Errorf("%d bytes sent for an exchange of %d", len(out)-9-6, n)
				}
				return err
			}},
		})
	})
}

func TestExchangesAgainstASecondImplementation(t *testing.T) {
	checked := 0
	for _, v := range wiretest.LoadShared(t, "exchange.json") {
		var in struct {
			Exchanges []wiretest.Hex
			AfterVeil bool `json:"after_veil"`
		}
		var out struct {
			M     map[string]uint8
			Error string
		}
		v.Unpack(t, &in, &out)
		if in.Exchanges == nil || in.AfterVeil || out.Error != "" && v.Name != "decode: 33 exchanges" {
			continue // the emp key and the veil are not spoken yet
		}
		d := open(t, variants[2], geometry)
		for _, payload := range in.Exchanges {
			d.feed(wire.Extended{ID: ltep.ExchangeID, Payload: payload})
		}
		if err := d.m.Err(); out.Error == "" && err != nil || out.Error != "" && !errors.Is(err, ErrBadTypeExchange) {
			t.Errorf("%s: %v, want error %q", v.Name, err, out.Error)
		}
		if got := d.m.TheyUse().Snapshot(); !maps.Equal(got, out.M) {
			t.Errorf("%s: they use %v, want %v", v.Name, got, out.M)
		}
		checked++
	}
	if checked < 20 {
		t.Errorf("only %d vectors found", checked)
	}
}

func TestAppMessages(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		d.feed(app(10, "before we gave out anything"), app(1, "nor metadata"))
		d.wantIdle()
		d = openLTEP(t, v, geometry)
		wiretest.TestLimits(t, []wiretest.Limit{
			{Name: "largest message", At: 100, Want: ErrMessageTooLarge, Try: func(n int) error {
				return fed(openLTEP(t, v, geometry), app(10, strings.Repeat("x", n)))
			}},
		})
		if err := fed(openLTEP(t, v, geometry), app(11, "x")); !errors.Is(err, ErrMessageTooLarge) {
			t.Errorf("a byte for a type of none: %v", err)
		}
		d.feed(app(10, ""), app(11, ""), app(10, "one"), app(12, "nobody's"), app(20, "an id of theirs"), app(255, ""), app(10, "two"))
		d.want(app(10, ""), app(11, ""), app(10, "one"), app(10, "two"))

		// What is still on its way for a withdrawn id has no effect, whatever its size.
		use := &WeUse{Metadata: 1}
		use.MaxBytes[11] = 1
		if err := d.m.SendExchange(&ltep.Exchange{M: []ltep.Entry{{Name: "a", ID: 0}, {Name: "b", ID: 11}}}, use); err != nil {
			t.Fatal(err)
		}
		d.feed(app(10, strings.Repeat("x", 200)), app(11, ""))
		d.want(app(11, ""))
		d.output()
		d.wantOut()
	})
}

func TestSendExtendedLimits(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		wiretest.TestLimits(t, []wiretest.Limit{{Name: "payload", At: wire.MaxExtendedFrame - 2, Want: ErrUnsupported, Try: func(n int) error {
			d := openLTEP(t, v, geometry)
			err := d.m.SendExtended(20, make([]byte, n))
			if want := n + 6; err == nil && (d.m.AppQueued() != want || len(d.output()) != want) || err != nil && d.m.HasOutput() {
				t.Errorf("%d bytes: %d queued", n, d.m.AppQueued())
			}
			return err
		}}})
		d := openLTEP(t, v, geometry)
		if err := d.m.SendExtended(0, nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("id 0: %v", err)
		}
	})
}

// Messages leave in order, whole, and as many as asked for; control goes first and is not counted.
func TestAppendOutputLimits(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		frames := func(m ...any) []byte { return encode(t, m...) }
		a, b, c := app(20, "first"), app(20, "second message"), app(20, "")
		d := openLTEP(t, v, geometry)
		queue := func() {
			d.output()
			for _, m := range []wire.Extended{a, b, c} {
				if err := d.m.SendExtended(m.ID, m.Payload); err != nil {
					t.Fatal(err)
				}
			}
			d.send(wire.Have{Index: 1})
		}
		all := len(frames(a, b, c))
		for limit := -1; limit <= all+1; limit++ {
			queue()
			want := frames(wire.Have{Index: 1})
			head := len(want)
			for i, m := range []any{a, b, c} {
				f := frames(m)
				if fits := len(want)-head+len(f) <= limit; limit <= 0 || !fits && i > 0 {
					break
				}
				want = append(want, f...)
			}
			got := d.m.AppendOutput(d.now, []byte("before"), limit)
			if string(got) != "before"+string(want) {
				t.Fatalf("limit %d: writes %x, want %x", limit, got, want)
			}
			if left := all - (len(want) - head); d.m.AppQueued() != left || d.m.HasOutput() != (left > 0) {
				t.Fatalf("limit %d: %d bytes queued, want %d", limit, d.m.AppQueued(), left)
			}
		}
	})
}

// Messages of every size through a queue that is drained in pieces: nothing is lost or mixed, and the queue's memory follows what waits and
// not what has passed.
func TestAppQueueKeepsOrder(t *testing.T) {
	d := openLTEP(t, variants[2], geometry)
	var want, got []byte
	for i := range 5000 {
		m := app(20, fmt.Sprint(i, strings.Repeat("x", i*7%300)))
		if err := d.m.SendExtended(m.ID, m.Payload); err != nil {
			t.Fatal(err)
		}
		want = append(want, encode(t, m)...)
		if i%3 == 0 {
			got = d.m.AppendOutput(d.now, got, 200)
		}
		for d.m.AppQueued() > 8<<10 {
			got = d.m.AppendOutput(d.now, got, 600)
		}
	}
	got = d.m.AppendOutput(d.now, got, 1<<30)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came out of %d, or others", len(got), len(want))
	}
	if c := cap(d.m.app); c > 64<<10 {
		t.Errorf("the queue never held more than 9 KiB and has room for %d bytes", c)
	}
}

func TestMetadataToThePeer(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openLTEP(t, v, geometry)
		d.send(wire.Unchoke{})
		d.feed(wire.Request{Block: block(1, 0, 16384)}, metadataRequest(0), metadataRequest(3))
		d.wantIdle()
		d.output()
		// Metadata goes before blocks: without it the peer can do nothing.
		for _, want := range []Upload{{IsMetadata: true}, {IsMetadata: true, Metadata: 3}, {Block: block(1, 0, 16384)}} {
			if !d.m.HasOutput() {
				t.Fatal("uploads wait, and there is nothing to write")
			}
			if u, ok := d.m.NextUpload(); !ok || u != want {
				t.Fatalf("upload %+v, %v; want %+v", u, ok, want)
			}
		}
		md := ltep.Metadata{Type: ltep.MetadataData, Piece: 3, TotalSize: 49156, Data: []byte("info")}
		if err := d.m.SendMetadata(md); err != nil {
			t.Fatal(err)
		}
		d.wantOut(wire.Extended{ID: 2, Payload: ltep.AppendMetadata(nil, md)}) // under the peer's id
		if err := d.m.Refuse(Upload{IsMetadata: true, Metadata: 4}); err != nil {
			t.Fatal(err)
		}
		d.wantOut(wire.Extended{ID: 2, Payload: ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataReject, Piece: 4})})
	})
}

func TestMetadataQueueLimit(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openLTEP(t, v, geometry)
		for i := range maxMetaWants {
			d.feed(metadataRequest(uint32(i)))
		}
		d.wantOut()
		d.feed(metadataRequest(1000))
		d.wantIdle()
		d.wantOut(wire.Extended{ID: 2, Payload: ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataReject, Piece: 1000})})
		for i := range maxMetaWants {
			if u, ok := d.m.NextUpload(); !ok || u.Metadata != uint32(i) {
				t.Fatalf("upload %d: %+v, %v", i, u, ok)
			}
		}
		if _, ok := d.m.NextUpload(); ok {
			t.Error("the rejected one waits as well")
		}
	})
}

// A peer that asks for metadata without an id of its own cannot be answered.
func TestMetadataWithoutAnID(t *testing.T) {
	d := open(t, variants[2], geometry)
	if err := d.m.SendExchange(&ltep.Exchange{}, &WeUse{Metadata: 1}); err != nil {
		t.Fatal(err)
	}
	d.output()
	d.feed(metadataRequest(0))
	if u, ok := d.m.NextUpload(); !ok || !u.IsMetadata {
		t.Fatalf("upload %+v, %v", u, ok)
	}
	if err := d.m.SendMetadata(ltep.Metadata{Type: ltep.MetadataData}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("SendMetadata: %v", err)
	}
	if err := d.m.Refuse(Upload{IsMetadata: true}); err != nil {
		t.Errorf("Refuse: %v", err)
	}
	d.wantOut()
}

func TestMetadataFromThePeer(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openLTEP(t, v, bt.Geometry{})
		if err := d.m.SendMetadata(metadataRequest(1)); err != nil {
			t.Fatal(err)
		}
		d.wantOut(wire.Extended{ID: 2, Payload: ltep.AppendMetadata(nil, metadataRequest(1))})
		data := ltep.Metadata{Type: ltep.MetadataData, Piece: 1, TotalSize: 20000, Data: bytes.Repeat([]byte("x"), 3616)}
		reject := ltep.Metadata{Type: ltep.MetadataReject, Piece: 2}
		d.feed(data, reject, app(1, "d8:msg_typei7ee"))
		d.want(data, reject)
		d.feed(app(1, "garbage"))
		if _, ok := errors.AsType[*wire.SyntaxError](d.m.Err()); !ok {
			t.Errorf("malformed: %v", d.m.Err())
		}
	})
}

// The whole of a session with messages, in any segmentation.
func TestMessageSplits(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		stream := encode(t, app(0, "d1:md1:ci3eee"), app(10, "hello"), app(11, ""), metadataRequest(2), wire.Piece{Index: 1, Data: []byte("data")},
			app(77, "unknown"), app(0, "broken"), []byte{0, 0, 0, 1, classic.IDExtended}, wire.Have{Index: 3},
			ltep.Metadata{Type: ltep.MetadataData, TotalSize: 4, Data: []byte("info")}, app(10, strings.Repeat("x", 101)), wire.Unchoke{})
		wiretest.TestSplits(t, 1, stream, func(segments iter.Seq[[]byte]) string {
			s := run(t, func() *dialogue { return openLTEP(t, v, geometry) }, segments)
			if !strings.Contains(s, "hello") && !strings.Contains(s, fmt.Sprint(ErrMessageTooLarge)) {
				t.Fatalf("the story was not told:\n%s", s)
			}
			return s
		})
	})
}
