package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// head is the length field and id of a frame: all that a limit needs to see.
func head(length int64, id byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(length)), id)
}

// fed returns how a session ends that is fed these items; nil if it goes on.
func fed(d *dialogue, items ...any) error {
	d.feed(items...)
	return d.m.Err()
}

// A frame that is too large closes at its fifth byte, before anything is kept for it: EMP/1 section 8.
func TestFrameLimits(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		frame := func(id byte, g bt.Geometry, request uint32) func(n int) error {
			return func(n int) error {
				d := open(t, v, g)
				if request > 0 {
					d.send(wire.Request{Block: block(0, 0, request)})
				}
				d.feed(head(int64(n), id)[:4])
				d.wantIdle()
				return fed(d, []byte{id})
			}
		}
		limits := []wiretest.Limit{
			{Name: "piece", At: 16384 + 9, Try: frame(classic.IDPiece, geometry, 0), Want: ErrFrameTooLarge},
			{Name: "piece after a small request", At: 16384 + 9, Try: frame(classic.IDPiece, geometry, 100), Want: ErrFrameTooLarge},
			{Name: "piece after a large request", At: 65536 + 9, Try: frame(classic.IDPiece, geometry, 65536), Want: ErrFrameTooLarge},
			{Name: "bitfield before the metadata", At: 2 << 20, Try: frame(classic.IDBitfield, bt.Geometry{}, 0), Want: ErrBadBitfield},
			{Name: "bitfield", At: 4, Try: frame(classic.IDBitfield, geometry, 0), Want: ErrBadBitfield},
			{Name: "extended", At: 1 << 20, Try: frame(classic.IDExtended, geometry, 0), Want: ErrFrameTooLarge},
		}
		for _, id := range []byte{classic.IDChoke, classic.IDHave, classic.IDRequest, classic.IDPort, classic.IDReject, 21, 22, 23, 99, 255} {
			limits = append(limits, wiretest.Limit{Name: fmt.Sprint("id ", id), At: 64 << 10, Try: frame(id, geometry, 0), Want: ErrFrameTooLarge})
		}
		wiretest.TestLimits(t, limits)
		d := open(t, v, geometry)
		if err := fed(d, head(1<<32-1, classic.IDPiece)); !errors.Is(err, ErrFrameTooLarge) {
			t.Errorf("the largest length: %v", err)
		}
		d = open(t, v, bt.Geometry{PieceBytes: 1, TotalBytes: 0})
		if err := fed(d, head(2, classic.IDBitfield)); !errors.Is(err, ErrBadBitfield) {
			t.Errorf("a bitfield of a torrent without pieces: %v", err)
		}
	})
}

// The largest frames do arrive, and leave no buffer of their size behind once time has passed.
func TestLargestFrames(t *testing.T) {
	over(t, withLTEP, func(t *testing.T, v variant) {
		d := openLTEP(t, v, bt.Geometry{})
		use := *d.m.weUse
		use.MaxBytes[10] = 1<<20 - 2 + 1
		if err := d.m.SendExchange(&ltep.Exchange{}, &use); err != nil {
			t.Fatal(err)
		}
		d.output()
		payload := make([]byte, 1<<20-2)
		b := encode(t, wire.Extended{ID: 10, Payload: payload})
		d.feed(b[:1000])
		d.feed(b[1000:])
		d.want(wire.Extended{ID: 10, Payload: payload})
		bits := make([]byte, 2<<20-1)
		b = encode(t, wire.Bitfield{Bits: bits})
		d.feed(b[:1000])
		d.feed(b[1000:])
		d.want(wire.Bitfield{Bits: bits})
		d.advance(trimAfter)
		if c := cap(d.m.partial); c != 0 {
			t.Errorf("a quiet session keeps %d bytes", c)
		}
	})
}

func TestRequestLimits(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		big := bt.Geometry{TotalBytes: 3<<20 - 100, PieceBytes: 1 << 20}
		ask := func(g bt.Geometry, b func(n int) bt.Block) func(n int) error {
			return func(n int) error {
				d := open(t, v, g)
				d.send(wire.Unchoke{})
				d.output()
				err := fed(d, wire.Request{Block: b(n)})
				if served := d.uploads(); err == nil && g.Known() && (len(served) != 1 || served[0] != b(n)) {
					return fmt.Errorf("serves %v", served)
				}
				return err
			}
		}
		wiretest.TestLimits(t, []wiretest.Limit{
			{Name: "length", At: 131072, Try: ask(big, func(n int) bt.Block { return block(1, 0, uint32(n)) }), Want: ErrBadRequest},
			{Name: "length before the metadata", At: 131072, Try: ask(bt.Geometry{}, func(n int) bt.Block { return block(1, 0, uint32(n)) }), Want: ErrBadRequest},
			{Name: "end of a piece", At: 1<<20 - 16384, Try: ask(big, func(n int) bt.Block { return block(1, uint32(n), 16384) }), Want: ErrBadRequest},
			{Name: "end of the torrent", At: 1<<20 - 100 - 16384, Try: ask(big, func(n int) bt.Block { return block(2, uint32(n), 16384) }), Want: ErrBadRequest},
			{Name: "piece", At: 2, Try: ask(big, func(n int) bt.Block { return block(bt.PieceIndex(n), 0, 16384) }), Want: ErrBadRequest},
		})
		for name, b := range map[string]bt.Block{
			"no bytes": block(1, 0, 0), "beyond 32 bits": block(1, 1<<32-1, 16384), "last piece there can be": block(1<<32-1, 0, 1),
		} {
			if err := fed(open(t, v, big), wire.Request{Block: b}); !errors.Is(err, ErrBadRequest) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Over reqq waiting requests the rest is rejected, or dropped without Fast. Neither closes: EMP/1 section 8.
func TestReqQ(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		for _, reqq := range []int{0, 3} {
			cfg := config(Initiator, v.bits, geometry)
			cfg.Local.ReqQ = reqq
			d := newDialogue(t, cfg)
			d.feed(helloOf(v.bits))
			d.want(EventOpen)
			d.send(wire.Unchoke{})
			d.output()
			limit := reqq
			if reqq == 0 {
				limit = 500
			}
			for i := range limit {
				d.feed(wire.Request{Block: block(1, uint32(i), 1)})
			}
			d.wantOut()
			d.feed(wire.Request{Block: block(1, 9999, 1)})
			d.wantIdle()
			if v.fast {
				d.wantOut(wire.Reject{Block: block(1, 9999, 1)})
			} else {
				d.wantOut()
			}
			// One that leaves makes room for one.
			d.m.NextUpload()
			d.feed(wire.Request{Block: block(1, 9998, 1)})
			served := d.uploads()
			if len(served) != limit || served[0] != block(1, 1, 1) || served[limit-1] != block(1, 9998, 1) {
				t.Errorf("%d uploads, want %d, in order", len(served), limit)
			}
		}
	})
}

// 1,000 frames without effect in 10 s, and not one more: EMP/1 section 8.
func TestFlood(t *testing.T) {
	type kind struct {
		name    string
		prepare []any
		item    any
		only    func(variant) bool
		counts  bool
	}
	kinds := []kind{
		{"keep-alive", nil, wire.KeepAlive{}, nil, true},
		{"unknown id", nil, wire.Unknown{ID: 99, Payload: []byte("x")}, nil, true},
		{"empty extended frame", nil, []byte{0, 0, 0, 1, 20}, nil, true},
		{"extended frame in classic", nil, wire.Extended{ID: 0, Payload: []byte("de")}, withoutLTEP, true},
		{"unknown extended id", nil, wire.Extended{ID: 77, Payload: []byte("x")}, withLTEP, true},
		{"repeated choke", nil, wire.Choke{}, nil, true},
		{"repeated unchoke", []any{wire.Unchoke{}}, wire.Unchoke{}, nil, true},
		{"repeated have", []any{wire.Have{Index: 1}}, wire.Have{Index: 1}, nil, true},
		{"have after have all", []any{wire.HaveAll{}}, wire.Have{Index: 1}, nil, true},
		{"reject without Fast", nil, wire.Reject{}, withoutFast, true},
		{"port", nil, wire.Port{Port: 1}, nil, false},
		{"piece", nil, wire.Piece{}, nil, false},
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			over(t, k.only, func(t *testing.T, v variant) {
				d := open(t, v, geometry)
				d.feed(k.prepare...)
				d.events = nil
				burst := func(n int) error {
					for range n {
						d.feed(k.item)
					}
					d.events = nil
					return d.m.Err()
				}
				if err := burst(1000); err != nil {
					t.Fatalf("1,000: %v", err)
				}
				if k.counts { // they count together, and after 10 s anew
					d.now = d.now.Add(10*time.Second + 1)
					if err := burst(1000); err != nil {
						t.Fatalf("1,000 more after 10 s: %v", err)
					}
					d.now = d.now.Add(9 * time.Second)
				}
				err := burst(1)
				if k.counts && (!errors.Is(err, ErrFlood) || FaultOf(err) != FaultPeer) || !k.counts && err != nil {
					t.Errorf("one more: %v", err)
				}
			})
		})
	}
}

// Who asks and does not read the answers is closed once more than 64 KiB of them wait: EMP/1 section 7.5.
func TestControlBacklog(t *testing.T) {
	rejectBytes := len(encode(t, wire.Reject{}))
	over(t, withFast, func(t *testing.T, v variant) {
		fill := func(d *dialogue, n int) error {
			for range n {
				d.feed(wire.Request{Block: block(1, 0, 16384)})
			}
			return d.m.Err()
		}
		most := wire.MaxControlBacklog / rejectBytes
		d := open(t, v, geometry)
		if err := fill(d, most); err != nil {
			t.Fatalf("%d rejects: %v", most, err)
		}
		d.send(wire.Have{Index: 1}) // what answers nobody does not count
		if err := fill(d, 1); !errors.Is(err, ErrControlBacklog) {
			t.Errorf("%d rejects: %v", most+1, err)
		}
		// What was written waits no more.
		d = open(t, v, geometry)
		for range 3 {
			if err := fill(d, most); err != nil {
				t.Fatal(err)
			}
			d.output()
		}
		// Choking one who has filled it breaks it too.
		d = open(t, v, geometry)
		if err := fill(d, most); err != nil {
			t.Fatal(err)
		}
		d.send(wire.Unchoke{})
		if err := fill(d, 1); err != nil {
			t.Fatal(err)
		}
		if err := d.m.Send(wire.Choke{}); !errors.Is(err, ErrControlBacklog) || d.m.Phase() != PhaseClosed {
			t.Errorf("Choke: %v", err)
		}
		// Refusing an upload, too.
		d = open(t, v, geometry)
		if err := fill(d, most); err != nil {
			t.Fatal(err)
		}
		if err := d.m.Refuse(Upload{Block: block(1, 0, 1)}); !errors.Is(err, ErrControlBacklog) || d.m.Phase() != PhaseClosed {
			t.Errorf("Refuse: %v", err)
		}
	})
	over(t, withLTEP, func(t *testing.T, v variant) {
		// Metadata: pieces of 16 KiB and a few bytes, so three fit.
		d := openLTEP(t, v, geometry)
		piece := ltep.Metadata{Type: ltep.MetadataData, TotalSize: 1 << 20, Data: make([]byte, 16384)}
		for i := range 3 {
			if err := d.m.SendMetadata(piece); err != nil {
				t.Fatalf("piece %d: %v", i, err)
			}
		}
		for range 1000 { // our own requests answer nobody
			if err := d.m.SendMetadata(metadataRequest(1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.m.SendMetadata(piece); !errors.Is(err, ErrControlBacklog) || d.m.Phase() != PhaseClosed {
			t.Errorf("piece 3: %v", err)
		}
		// Rejected requests for metadata.
		d = openLTEP(t, v, geometry)
		for range maxMetaWants {
			d.feed(metadataRequest(1))
		}
		var err error
		for n := 0; err == nil; n++ {
			if err = fed(d, metadataRequest(1)); n > wire.MaxControlBacklog {
				t.Fatal("rejects for ever")
			}
		}
		if !errors.Is(err, ErrControlBacklog) || len(d.output()) < wire.MaxControlBacklog {
			t.Errorf("rejects: %v", err)
		}
		// Exchanges are of those answers, by the text.
		d = openLTEP(t, v, geometry)
		e := ltep.Exchange{Client: strings.Repeat("x", 16000)}
		for i := range 4 {
			if err := d.m.SendExchange(&e, &WeUse{}); err != nil {
				t.Fatalf("exchange %d: %v", i, err)
			}
		}
		if err := d.m.SendExchange(&e, &WeUse{}); !errors.Is(err, ErrControlBacklog) || d.m.Phase() != PhaseClosed {
			t.Errorf("exchange 4: %v", err)
		}
	})
}

// Haves before the metadata are remembered, within limits.
func TestEarlyHaveLimits(t *testing.T) {
	wiretest.TestLimits(t, []wiretest.Limit{
		{Name: "number", At: maxEarlyHave, Want: ErrBadState, Try: func(n int) error {
			d := open(t, variants[0], bt.Geometry{})
			for i := range n {
				d.feed(wire.Have{Index: bt.PieceIndex(i)})
			}
			return d.m.Err()
		}},
		{Name: "index", At: bt.MaxPieces - 1, Want: ErrBadState, Try: func(n int) error {
			return fed(open(t, variants[0], bt.Geometry{}), wire.Have{Index: bt.PieceIndex(n)})
		}},
	})
}
