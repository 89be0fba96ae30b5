package peer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// smallReqQ keeps the queue of requests within what a fuzzer fills.
const smallReqQ = 5

// fuzzed makes the dialogue that a fuzzer's first byte asks for: bits 0 and 1 the dialect, bit 2 the role, bit 3 whether the metadata is
// known, bit 4 whether the hello is over, bit 5 whether we have given out ids (a responder, with which mux frames are legal then), bit 6 whether the peer
// is unchoked, bit 7 whether the torrent is v2; we have then asked for hashes.
func fuzzed(t testing.TB, how byte) *dialogue {
	v := variants[how&3]
	g := geometry
	if how&8 != 0 {
		g = bt.Geometry{}
	}
	role := Initiator
	if how&4 != 0 {
		role = Responder
	}
	cfg := config(role, v.bits, g)
	cfg.Local.ReqQ, cfg.Local.V2 = smallReqQ, how&128 != 0
	d := newDialogue(t, cfg)
	d.accept = &Local{Geometry: g, ReqQ: smallReqQ, V2: cfg.Local.V2}
	if how&16 == 0 {
		return d
	}
	d.feed(helloOf(v.bits))
	d.events = nil
	if how&32 != 0 && v.dialect == wire.DialectLTEP {
		use := &WeUse{Metadata: 1, PEX: ourPEX, DontHave: ourDontHave, UploadOnly: ourUploadOnly}
		use.MaxBytes[10], use.MaxBytes[11] = 101, 1
		if err := d.m.SendExchange(&ltep.Exchange{M: []ltep.Entry{{Name: "ut_metadata", ID: 1}, {Name: "a", ID: 10}, {Name: "b", ID: 11}}}, use); err != nil {
			t.Fatal(err)
		}
		if role == Responder {
			d.enhance()
		}
	}
	if how&64 != 0 {
		d.send(wire.Unchoke{})
	}
	if how&128 != 0 {
		d.send(wire.HashRequest{HashSpan: span(1)})
		d.send(wire.HashRequest{HashSpan: span(2)})
	}
	return d
}

// checkBounds fails the test if the machine holds more than its limits allow: what waits of a frame, what the peer has asked for, what it is
// answered, what it has said of itself.
func (d *dialogue) checkBounds() {
	d.t.Helper()
	m := d.m
	frame := classic.LengthBytes + max(wire.MaxExtendedFrame, wire.MaxEarlyBitfield, int(m.largestBlock)+wire.PieceOverhead)
	for name, b := range map[string]struct{ have, limit int }{
		"an unfinished frame":   {len(m.partial), frame},
		"memory for it":         {cap(m.partial), 2*frame + 1024},
		"requests":              {m.requests.len(), m.reqQ},
		"memory for requests":   {cap(m.requests.items), 4*m.reqQ + 16},
		"metadata requests":     {m.metaWants.len(), maxMetaWants},
		"answers":               {m.answerBytes, wire.MaxControlBacklog + 4 + wire.MaxExchangeSent},
		"an early bitfield":     {len(m.earlyBits), wire.MaxEarlyBitfield},
		"early haves":           {len(m.earlyHave), maxEarlyHave},
		"names of types":        {len(m.theyUse.Snapshot()), wire.MaxTypeEntries},
		"exchanges sent":        {m.exchangesOut, wire.MaxExchanges},
		"frames without effect": {m.quietFrames, wire.MaxIdleFrames + 1},
		"an exchange's entries": {len(m.exchange.M), wire.MaxTypeEntries},
		"held after the end":    {map[bool]int{true: len(m.in) + cap(m.partial) + cap(m.requests.items) + cap(m.metaWants.items)}[m.phase == PhaseClosed], 0},
	} {
		if b.have > b.limit {
			d.t.Fatalf("%s: %d, the limit is %d", name, b.have, b.limit)
		}
	}
	d.checkMux()
	if m.spareHas != nil && (!m.hasAll || !m.spareHas.Full()) {
		d.t.Fatalf("a spare set of %d pieces of %d while the peer has all: %v", m.spareHas.Count(), m.spareHas.Len(), m.hasAll)
	}
	if h := m.hashes; h != nil && (h.wants.len() > maxHashWants || cap(h.wants.items) > 4*maxHashWants || len(h.asks) > MaxHashRequests || h.owing && h.waiting) {
		d.t.Fatalf("%d requests for hashes wait, %d of ours; owing %v, waiting %v", h.wants.len(), len(h.asks), h.owing, h.waiting)
	}
	if m.has != nil && (m.hasAll || m.has.Len() != m.geom.NumPieces()) {
		d.t.Fatalf("the peer has all: %v, and a set of %d pieces of %d", m.hasAll, m.has.Len(), m.geom.NumPieces())
	}
	if m.phase == PhaseOpen && !m.openTold && len(m.in) == 0 {
		d.t.Fatal("the session is open and nobody was told")
	}
}

// checkOutput fails the test unless what a machine wrote is a hello and whole frames that can be read.
func checkOutput(t testing.TB, out []byte) {
	t.Helper()
	if bytes.HasPrefix(out, []byte(classic.Prefix)) {
		if len(out) < classic.HelloBytes {
			t.Fatalf("writes a hello of %d bytes", len(out))
		}
		out = out[classic.HelloBytes:]
	}
	var dec classic.Decoder
	for len(out) > 0 {
		if len(out) < 4 || len(out)-4 < int(binary.BigEndian.Uint32(out)) {
			t.Fatalf("writes a broken frame: %x", out)
		}
		n := 4 + int(binary.BigEndian.Uint32(out))
		if _, err := dec.Decode(out[4:n]); err != nil {
			t.Fatalf("writes %x: %v", out[:n], err)
		}
		out = out[n:]
	}
}

// FuzzMachine feeds bytes of any kind, cut in any way: the machine neither panics nor holds more than its limits, and the same bytes in
// one piece have the same effect.
func FuzzMachine(f *testing.F) {
	hello := helloOf(variants[3].bits)
	story := encode(f, wire.Bitfield{Bits: []byte{0xff, 0, 0x10}}, wire.Unchoke{}, wire.Interested{}, wire.Request{Block: block(1, 2, 3)},
		wire.Cancel{Block: block(1, 2, 3)}, wire.Have{Index: 3}, wire.Piece{Index: 1, Data: []byte("data")}, app(0, "d1:md1:ai1e11:ut_metadatai2eee"),
		app(10, "hello"), metadataRequest(1), wire.Choke{}, wire.KeepAlive{}, wire.HaveAll{})
	for how := range byte(128) {
		f.Add(how, append(bytes.Clone(hello), story...), []byte{7, 1, 30})
		f.Add(how, story, []byte{1})
	}
	f.Add(byte(0xb3), encode(f, hello, wire.HashRequest{HashSpan: span(3)}, hashesOf(span(1)), wire.HashReject{HashSpan: span(2)}), []byte{7})
	f.Add(byte(0x33), head(1<<32-1, classic.IDExtended), []byte{1})
	f.Add(byte(0x33), append(head(1<<20, classic.IDExtended), 0), []byte{1})
	f.Fuzz(func(t *testing.T, how byte, stream, cuts []byte) {
		prepare := func() *dialogue { return fuzzed(t, how) }
		want := run(t, prepare, wiretest.Cut(stream, nil))
		if got := run(t, prepare, wiretest.CutBy(stream, cuts)); got != want {
			t.Fatalf("cut by %v:\n%s\nwhole:\n%s", cuts, got, want)
		}
		d := fuzzed(t, how)
		for s := range wiretest.CutBy(stream, cuts) {
			d.m.Feed(d.now, s)
			d.drain()
			d.checkBounds()
		}
		checkOutput(t, d.output())
		if FaultOf(d.m.Err()) == FaultNetwork {
			t.Fatalf("bytes alone ended the session with %v, which blames the network", d.m.Err())
		}
	})
}

// A step of FuzzMachineLegal: a message of the peer or an act of ours, made of a number.
type step struct {
	name string
	peer func(n uint32) any // what the peer writes
	ours func(d *dialogue, n uint32) error
}

var somebody = netip.MustParseAddrPort("192.0.2.1:6881")

func steps() []step {
	b := func(n uint32) bt.Block {
		return block(bt.PieceIndex(n%21), n>>5%5*16384, []uint32{16384, 1000, 1, 131072}[n>>8%4])
	}
	name := func(n uint32) string {
		if n%7 == 0 {
			return []string{ltep.NameMetadata, ltep.NamePEX, ltep.NameDontHave, ltep.NameUploadOnly}[n>>11%4]
		}
		return "type" + strconv.Itoa(int(n%7))
	}
	send := func(m func(n uint32) wire.Message) func(*dialogue, uint32) error {
		return func(d *dialogue, n uint32) error { return d.m.Send(m(n)) }
	}
	return []step{
		{name: "keep-alive", peer: func(uint32) any { return wire.KeepAlive{} }},
		{name: "choke", peer: func(uint32) any { return wire.Choke{} }},
		{name: "unchoke", peer: func(uint32) any { return wire.Unchoke{} }},
		{name: "interested", peer: func(uint32) any { return wire.Interested{} }},
		{name: "not interested", peer: func(uint32) any { return wire.NotInterested{} }},
		{name: "have", peer: func(n uint32) any { return wire.Have{Index: bt.PieceIndex(n % 21)} }},
		{name: "bitfield", peer: func(n uint32) any { return wire.Bitfield{Bits: []byte{byte(n), byte(n >> 8), byte(n>>16) & 0xf8}} }},
		{name: "have all", peer: func(uint32) any { return wire.HaveAll{} }},
		{name: "have none", peer: func(uint32) any { return wire.HaveNone{} }},
		{name: "request", peer: func(n uint32) any { return wire.Request{Block: b(n)} }},
		{name: "cancel", peer: func(n uint32) any { return wire.Cancel{Block: b(n)} }},
		{name: "piece", peer: func(n uint32) any {
			return wire.Piece{Index: bt.PieceIndex(n % 20), Data: bytes.Repeat([]byte{byte(n)}, int(n>>8%20000))}
		}},
		{name: "reject", peer: func(n uint32) any { return wire.Reject{Block: b(n)} }},
		{name: "suggest", peer: func(n uint32) any { return wire.Suggest{Index: bt.PieceIndex(n % 21)} }},
		{name: "allowed fast", peer: func(n uint32) any { return wire.AllowedFast{Index: bt.PieceIndex(n % 21)} }},
		{name: "port", peer: func(n uint32) any { return wire.Port{Port: uint16(n)} }},
		{name: "unknown", peer: func(n uint32) any { return wire.Unknown{ID: byte(21 + n%200), Payload: []byte("?")} }},
		{name: "hash request", peer: func(n uint32) any { return wire.HashRequest{HashSpan: span(n % 100)} }},
		{name: "hashes", peer: func(n uint32) any {
			h := hashesOf(span(n % 4))
			h.Data = append(h.Data, make([]byte, int(n>>16%2)*wire.HashBytes)...)
			return h
		}},
		{name: "hash reject", peer: func(n uint32) any { return wire.HashReject{HashSpan: span(n % 4)} }},
		{name: "message", peer: func(n uint32) any { return app(byte(9+n%4), string(make([]byte, n>>8%102))) }},
		{name: "exchange", peer: func(n uint32) any {
			return ltep.Exchange{M: []ltep.Entry{{Name: name(n), ID: byte(n >> 8 % 5)}}, MetadataSize: int64(n)}
		}},
		{name: "malformed exchange", peer: func(uint32) any { return app(0, "d1:m") }},
		{name: "metadata", peer: func(n uint32) any {
			return ltep.Metadata{Type: ltep.MetadataType(n % 3), Piece: n >> 8 % 300}
		}},
		{name: "pex", peer: func(n uint32) any {
			return ltep.PEX{Added: []ltep.PEXPeer{{Addr: somebody, Flags: ltep.PEXFlags(n)}}, Dropped: []netip.AddrPort{somebody}}
		}},
		{name: "malformed pex", peer: func(uint32) any { return app(ourPEX, "d5:added") }},
		{name: "dont have", peer: func(n uint32) any { return ltep.DontHave{Index: bt.PieceIndex(n % 21)} }},
		{name: "upload only", peer: func(n uint32) any { return ltep.UploadOnly{On: n%2 == 0} }},
		{name: "Send pex", ours: send(func(uint32) wire.Message { return ltep.PEX{Dropped: []netip.AddrPort{somebody}} })},
		{name: "Send dont have", ours: send(func(n uint32) wire.Message { return ltep.DontHave{Index: bt.PieceIndex(n)} })},
		{name: "Send upload only", ours: send(func(n uint32) wire.Message { return ltep.UploadOnly{On: n%2 == 0} })},
		{name: "Send choke", ours: send(func(uint32) wire.Message { return wire.Choke{} })},
		{name: "Send unchoke", ours: send(func(uint32) wire.Message { return wire.Unchoke{} })},
		{name: "Send interested", ours: send(func(uint32) wire.Message { return wire.Interested{} })},
		{name: "Send not interested", ours: send(func(uint32) wire.Message { return wire.NotInterested{} })},
		{name: "Send have", ours: send(func(n uint32) wire.Message { return wire.Have{Index: bt.PieceIndex(n % 20)} })},
		{name: "Send request", ours: send(func(n uint32) wire.Message { return wire.Request{Block: b(n)} })},
		{name: "Send have all", ours: send(func(uint32) wire.Message { return wire.HaveAll{} })},
		{name: "Send hash request", ours: send(func(n uint32) wire.Message { return wire.HashRequest{HashSpan: span(n % 4)} })},
		{name: "SendExtended", ours: func(d *dialogue, n uint32) error { return d.m.SendExtended(byte(n), make([]byte, n>>8%2000)) }},
		{name: "SendExchange", ours: func(d *dialogue, n uint32) error {
			use := &WeUse{Metadata: byte(n & 1), PEX: byte(n >> 3 & 1 * ourPEX), DontHave: byte(n >> 4 & 1 * ourDontHave), UploadOnly: byte(n >> 5 & 1 * ourUploadOnly)}
			use.MaxBytes[10], use.MaxBytes[11] = n>>1%200, n>>2&1
			return d.m.SendExchange(&ltep.Exchange{M: []ltep.Entry{{Name: "a", ID: byte(n)}}}, use)
		}},
		{name: "SendMetadata", ours: func(d *dialogue, n uint32) error {
			return d.m.SendMetadata(ltep.Metadata{Type: ltep.MetadataType(n % 3), Piece: n % 100, Data: make([]byte, n>>8%16385)})
		}},
		{name: "SetGeometry", ours: func(d *dialogue, n uint32) error { return d.m.SetGeometry(geometry) }},
		{name: "NextUpload", ours: func(d *dialogue, n uint32) error {
			if u, ok := d.m.NextUpload(); ok && n%2 == 0 {
				return d.m.Refuse(u)
			} else if u.IsHashes {
				return d.m.SendHashes(hashesOf(u.Hashes))
			}
			return nil
		}},
		{name: "mux frame", peer: func(n uint32) any {
			return wire.Extended{ID: ourMux, Payload: []byte{byte(n), byte(n >> 8 & 3), 1, 0, byte(n >> 10 & 3), 'x', 'y'}[:n>>16%8]}
		}},
		{name: "mux exchange", peer: func(n uint32) any { return usual().some(n).exchange(theirMux) }},
		{name: "SendMessage", ours: func(d *dialogue, n uint32) error {
			_, err := d.m.SendMessage(d.someType(n), uint8(n>>2%2), int8(n>>3%2), make([]byte, n>>8%20_000))
			return err
		}},
		{name: "Submit", ours: func(d *dialogue, n uint32) error {
			total := n >> 8 % 60_000
			return d.m.Submit(&Outgoing{Type: d.someType(n), Total: total, Request: n>>2%2 == 0, ReplyMax: n >> 3 % 8}, make([]byte, (total+1)/2))
		}},
		{name: "Respond", ours: func(d *dialogue, n uint32) error {
			if d.m.mux == nil || d.m.mux.served[n%4].out != nil {
				return nil
			}
			_, err := d.m.Respond(new(Outgoing), n%4, emp.Status(n>>2%8), make([]byte, n>>8%20_000))
			return err
		}},
		{name: "AppendOutput", ours: func(d *dialogue, n uint32) error {
			checkOutput(d.t, d.m.AppendOutput(d.now, nil, int(n%5000)))
			return nil
		}},
		{name: "time", ours: func(d *dialogue, n uint32) error {
			d.advance(time.Duration(n%100_000) * time.Millisecond)
			return nil
		}},
		{name: "close", ours: func(d *dialogue, n uint32) error {
			if n%64 == 0 {
				d.m.Close(nil)
				d.drain()
			}
			return nil
		}},
	}
}

// someType returns a type that the peer receives in mux frames, or nil.
func (d *dialogue) someType(n uint32) *MuxType {
	if d.m.mux == nil {
		return nil
	}
	return d.m.mux.types[[]string{"one", "two", "big", "none"}[n%4]]
}

// FuzzMachineLegal makes well-formed messages and calls in any order out of the fuzzer's bytes, 4 to a step. Beside what [FuzzMachine] looks for, two
// machines that go through the same steps, one of them fed byte by byte, must go the same way.
func FuzzMachineLegal(f *testing.F) {
	all := steps()
	var every []byte
	for i := range all {
		every = append(every, byte(i), 0, byte(i), 1)
	}
	for how := range byte(16) {
		f.Add(how|0x70, every)
	}
	f.Add(byte(0xf3), every)
	f.Add(byte(0x76), append(every, every...))
	f.Add(byte(0x73), bytes.Repeat([]byte{9, 0, 0, 0}, 20))
	f.Add(byte(0x73), bytes.Repeat([]byte{18, 1, 1, 0, 20, 0, 0, 0}, 20))
	f.Fuzz(func(t *testing.T, how byte, program []byte) {
		if len(program) > 4*2000 {
			return
		}
		how |= 16 // the hello is over
		whole, cut := fuzzed(t, how), fuzzed(t, how)
		for ; len(program) >= 4; program = program[4:] {
			s := all[int(program[0])%len(all)]
			n := uint32(program[1])<<16 | uint32(program[2])<<8 | uint32(program[3])
			if s.peer != nil {
				b := encode(t, s.peer(n))
				whole.feed(bytes.Clone(b))
				for len(b) > 0 {
					k := min(len(b), 1+int(n%7))
					cut.feed(b[:k:k])
					b = b[k:]
				}
			} else if e1, e2 := s.ours(whole, n), s.ours(cut, n); fmt.Sprint(e1) != fmt.Sprint(e2) {
				t.Fatalf("%s: %v, and fed in pieces %v", s.name, e1, e2)
			}
			whole.checkBounds()
			cut.checkBounds()
			if a, b := told(whole), told(cut); a != b {
				t.Fatalf("%s %d:\n%s\nfed in pieces:\n%s", s.name, n, a, b)
			}
		}
		a, b := whole.output(), cut.output()
		if !bytes.Equal(a, b) {
			t.Fatalf("writes %x, and fed in pieces %x", a, b)
		}
		checkOutput(t, a)
	})
}

// told takes the events and the visible state of a dialogue, in words.
func told(d *dialogue) string {
	var s strings.Builder
	s.WriteString(fmt.Sprintf("%v %v %v %v", d.m.Phase(), d.m.Err(), d.m.AppQueued(), d.m.HasOutput()))
	for _, e := range d.events {
		if end, ok := e.(closed); ok {
			s.WriteString(fmt.Sprintf("\nclosed: %v", end.err))
		} else {
			s.WriteString(fmt.Sprintf("\n%T %+v", e, e))
		}
	}
	d.events = nil
	return s.String()
}
