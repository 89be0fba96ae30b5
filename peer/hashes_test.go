package peer

import (
	"errors"
	"fmt"
	"iter"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// span returns one of many ranges of hashes: 2, 4, 8 or 16 of them, with two more for proof.
func span(n uint32) wire.HashSpan {
	up := 1 + n%4
	return wire.HashSpan{Root: [wire.HashBytes]byte{1, byte(n)}, BaseLayer: 2, Index: n << up, Length: 1 << up, ProofLayers: up + 1}
}

// hashesOf returns an answer to a span, as long as it must be.
func hashesOf(s wire.HashSpan) wire.Hashes {
	data := make([]byte, rangeOf(&s).NumHashes()*wire.HashBytes)
	for i := range data {
		data[i] = byte(i)
	}
	return wire.Hashes{HashSpan: s, Data: data}
}

// openV2 returns a session about a v2 torrent.
func openV2(t testing.TB, v variant) *dialogue {
	t.Helper()
	cfg := config(Initiator, v.bits, geometry)
	cfg.Local.V2 = true
	d := newDialogue(t, cfg)
	d.feed(helloOf(v.bits))
	d.want(EventOpen)
	d.output()
	return d
}

// Without a v2 form of the torrent, the messages of BEP 52 are unknown ones, whatever stands in them.
func TestHashesOfV1Torrents(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := open(t, v, geometry)
		for _, item := range []any{wire.HashRequest{HashSpan: span(1)}, hashesOf(span(1)), wire.HashReject{HashSpan: span(1)}, rawFrame(nil, classic.IDHashes, []byte("?"))} {
			d.feed(item)
		}
		d.wantIdle()
		d.wantOut()
		if d.m.quietFrames != 4 {
			t.Errorf("%d frames without effect, want 4", d.m.quietFrames)
		}
		if err := d.m.Send(wire.HashRequest{HashSpan: span(1)}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("Send: %v", err)
		}
		if err := d.m.SendHashes(hashesOf(span(1))); !errors.Is(err, ErrUnsupported) {
			t.Errorf("SendHashes: %v", err)
		}
	})
}

// A responder learns from Accept that the torrent is v2.
func TestHashesAccepted(t *testing.T) {
	cfg := config(Responder, wire.Reserved{}, bt.Geometry{})
	cfg.Local = Local{}
	d := newDialogue(t, cfg)
	d.accept = &Local{Geometry: geometry, V2: true}
	d.feed(helloOf(wire.Reserved{}), wire.HashRequest{HashSpan: span(1)})
	d.want(EventHello, EventOpen)
	if u, ok := d.m.NextUpload(); !ok || !u.IsHashes || u.Hashes != span(1) {
		t.Errorf("upload %+v, %v", u, ok)
	}
}

// What we asked for arrives, in any order, once.
func TestAskForHashes(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := openV2(t, v)
		for n := range uint32(4) {
			d.send(wire.HashRequest{HashSpan: span(n)})
		}
		d.wantOut(wire.HashRequest{HashSpan: span(0)}, wire.HashRequest{HashSpan: span(1)}, wire.HashRequest{HashSpan: span(2)}, wire.HashRequest{HashSpan: span(3)})
		d.feed(hashesOf(span(2)), wire.HashReject{HashSpan: span(0)}, hashesOf(span(1)))
		d.want(hashesOf(span(2)), wire.HashReject{HashSpan: span(0)}, hashesOf(span(1)))
		d.feed(wire.HashReject{HashSpan: span(0)}) // a second time it means nothing
		d.wantIdle()
		if d.m.quietFrames != 1 {
			t.Errorf("%d frames without effect, want 1", d.m.quietFrames)
		}
		d.feed(hashesOf(span(3)))
		d.want(hashesOf(span(3)))
		// The same may be asked for again, and twice.
		d.send(wire.HashRequest{HashSpan: span(3)})
		d.send(wire.HashRequest{HashSpan: span(3)})
		d.feed(hashesOf(span(3)), hashesOf(span(3)))
		d.want(hashesOf(span(3)), hashesOf(span(3)))
	})
}

func TestUnwantedHashes(t *testing.T) {
	other := hashesOf(span(1))
	other.Root[31]++
	short, long := hashesOf(span(1)), hashesOf(span(1))
	short.Data = short.Data[wire.HashBytes:]
	long.Data = append(long.Data, make([]byte, wire.HashBytes)...)
	for _, tt := range []struct {
		name string
		ask  []wire.HashSpan
		feed wire.Hashes
		want error
	}{
		{"nothing asked", nil, hashesOf(span(1)), ErrFrameTooLarge},
		{"nothing asked, nothing in it", nil, wire.Hashes{HashSpan: span(1)}, ErrBadState},
		{"of another file", []wire.HashSpan{span(1)}, other, ErrBadState},
		{"of another range", []wire.HashSpan{span(1)}, hashesOf(span(5)), ErrBadState},
		{"too few", []wire.HashSpan{span(1)}, short, ErrBadState},
		{"too many", []wire.HashSpan{span(1)}, long, ErrFrameTooLarge},
		{"too many, though another has as many", []wire.HashSpan{span(1), span(3)}, long, ErrFrameTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := openV2(t, variants[0])
			for _, s := range tt.ask {
				d.send(wire.HashRequest{HashSpan: s})
			}
			if err := fed(d, tt.feed); !errors.Is(err, tt.want) || FaultOf(err) != FaultPeer {
				t.Errorf("%v, want %v", err, tt.want)
			}
			d.want(tt.want)
		})
	}
}

// EMP/1 section 8, "BEP 52 hashes: what was requested", seen at the fifth byte.
func TestHashesLimits(t *testing.T) {
	frame := func(id byte, ask ...uint32) func(n int) error {
		return func(n int) error {
			d := openV2(t, variants[0])
			for _, i := range ask {
				d.send(wire.HashRequest{HashSpan: span(i)})
			}
			return fed(d, head(int64(n), id))
		}
	}
	wiretest.TestLimits(t, []wiretest.Limit{
		{Name: "hashes, nothing asked", At: 49, Try: frame(classic.IDHashes), Want: ErrFrameTooLarge},
		{Name: "hashes", At: 49 + 32*6, Try: frame(classic.IDHashes, 1), Want: ErrFrameTooLarge},
		{Name: "hashes, the largest counts", At: 49 + 32*18, Try: frame(classic.IDHashes, 1, 3, 2), Want: ErrFrameTooLarge},
		{Name: "hash request", At: 64 << 10, Try: frame(classic.IDHashRequest), Want: ErrFrameTooLarge},
		{Name: "hash reject", At: 64 << 10, Try: frame(classic.IDHashReject), Want: ErrFrameTooLarge},
		{Name: "our requests", At: MaxHashRequests, Want: ErrTooManyHashRequests, Try: func(n int) error {
			d := openV2(t, variants[0])
			for i := range n - 1 {
				d.send(wire.HashRequest{HashSpan: span(uint32(i))})
			}
			return d.m.Send(wire.HashRequest{HashSpan: span(0)})
		}},
	})
	for name, s := range map[string]wire.HashSpan{"none": {}, "one": {Length: 1}, "three": {Length: 3}, "16,384": {Length: 16384}, "not aligned": {Index: 1, Length: 2}} {
		d := openV2(t, variants[0])
		if err := d.m.Send(wire.HashRequest{HashSpan: s}); !errors.Is(err, ErrUnsupported) || len(d.output()) > 0 {
			t.Errorf("asking for %s: %v", name, err)
		}
	}
}

// A peer's requests are served one after the other, each once the last answer has been written, also while it is choked.
func TestServeHashes(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := openV2(t, v)
		d.feed(wire.HashRequest{HashSpan: span(1)}, wire.HashRequest{HashSpan: span(2)}, wire.HashRequest{HashSpan: span(3)})
		d.wantIdle()
		next := func(want wire.HashSpan) Upload {
			t.Helper()
			if !d.m.HasUploads() || !d.m.HasOutput() {
				t.Fatal("nothing to upload")
			}
			u, ok := d.m.NextUpload()
			if !ok || !u.IsHashes || u.Hashes != want {
				t.Fatalf("upload %+v, want %+v", u, want)
			}
			return u
		}
		none := func() {
			t.Helper()
			if u, ok := d.m.NextUpload(); ok || d.m.HasUploads() {
				t.Fatalf("upload %+v", u)
			}
		}
		next(span(1))
		none() // it is owed an answer
		for name, h := range map[string]wire.Hashes{"another's": hashesOf(span(2)), "too few": {HashSpan: span(1), Data: make([]byte, 32)}} {
			if err := d.m.SendHashes(h); !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s hashes: %v", name, err)
			}
		}
		if err := d.m.SendHashes(hashesOf(span(1))); err != nil {
			t.Fatal(err)
		}
		none() // the answer waits
		if err := d.m.SendHashes(hashesOf(span(1))); !errors.Is(err, ErrUnsupported) {
			t.Errorf("a second answer: %v", err)
		}
		d.wantOut(hashesOf(span(1)))
		u := next(span(2))
		for range 2 { // the second time it is no longer owed
			if err := d.m.Refuse(u); err != nil {
				t.Fatal(err)
			}
		}
		d.wantOut(wire.HashReject{HashSpan: span(2)})
		next(span(3))
		d.m.Close(nil)
		if err := d.m.SendHashes(hashesOf(span(3))); !errors.Is(err, ErrNotOpen) {
			t.Errorf("after the end: %v", err)
		}
		if err := d.m.Refuse(Upload{IsHashes: true, Hashes: span(3)}); err != nil || len(d.output()) > 0 {
			t.Errorf("Refuse after the end: %v", err)
		}
	})
}

// Requests that make no sense, or are too many, are rejected; who does not read the rejects is closed.
func TestHashRequestsRejected(t *testing.T) {
	bad := wire.HashSpan{Length: 3}
	d := openV2(t, variants[0])
	d.feed(wire.HashRequest{HashSpan: bad})
	d.wantOut(wire.HashReject{HashSpan: bad})
	for n := range uint32(maxHashWants) {
		d.feed(wire.HashRequest{HashSpan: span(n)})
	}
	d.wantOut()
	d.feed(wire.HashRequest{HashSpan: span(99)})
	d.wantOut(wire.HashReject{HashSpan: span(99)})
	var err error
	n := 0
	for ; err == nil && n <= wire.MaxControlBacklog; n++ {
		err = fed(d, wire.HashRequest{HashSpan: bad})
	}
	if !errors.Is(err, ErrControlBacklog) || n != wire.MaxControlBacklog/53+1 {
		t.Errorf("%d rejects wait: %v", n, err)
	}
	// Its hash requests and ours are forgotten once there are none and the session is quiet.
	d = openV2(t, variants[0])
	d.feed(wire.HashRequest{HashSpan: span(1)})
	d.send(wire.HashRequest{HashSpan: span(1)})
	d.output()
	d.feed(hashesOf(span(1)))
	if _, ok := d.m.NextUpload(); !ok {
		t.Fatal("no upload")
	}
	d.advance(trimAfter)
	if h := d.m.hashes; cap(h.wants.items) > 0 || h.asks != nil {
		t.Errorf("a quiet session keeps %d and %d spans", cap(h.wants.items), cap(h.asks))
	}
}

// Two machines ask each other.
func TestHashesPair(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		p := &Pair{a: openV2(t, v), b: openV2(t, v)}
		p.a.send(wire.HashRequest{HashSpan: span(7)})
		p.a.send(wire.HashRequest{HashSpan: span(8)})
		p.b.send(wire.HashRequest{HashSpan: span(9)})
		p.pump()
		p.a.want(hashesOf(span(7)), hashesOf(span(8)))
		p.b.want(hashesOf(span(9)))
	})
}

func TestHashesInSegments(t *testing.T) {
	stream := encode(t, wire.HashRequest{HashSpan: span(3)}, hashesOf(span(1)), wire.HashRequest{HashSpan: wire.HashSpan{}}, wire.HashReject{HashSpan: span(2)}, hashesOf(span(9)))
	for how := range byte(4) {
		t.Run(fmt.Sprint(how), func(t *testing.T) {
			wiretest.TestSplits(t, 1, stream, func(segments iter.Seq[[]byte]) string {
				return run(t, func() *dialogue { return fuzzed(t, 0x90|how) }, segments)
			})
		})
	}
}
