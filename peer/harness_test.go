package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// The stories of these tests are told over every one of these.
type variant struct {
	name    string
	bits    wire.Reserved
	dialect wire.Dialect // after the hellos
	fast    bool
	mux     bool // mux frames are legal as well, from the beginning of a story: see enhance
}

var variants = []variant{
	{"classic", wire.Reserved{}, wire.DialectClassic, false, false},
	{"classic with Fast", wire.Reserved{7: 0x04}, wire.DialectClassic, true, false},
	{"ltep", wire.Reserved{5: 0x10}, wire.DialectLTEP, false, false},
	{"ltep with Fast", wire.Reserved{5: 0x10, 7: 0x04}, wire.DialectLTEP, true, false},
	{"emp", wire.Reserved{5: 0x10}, wire.DialectLTEP, false, true},
	{"emp with Fast", wire.Reserved{5: 0x10, 7: 0x04}, wire.DialectLTEP, true, true},
}

// over runs a story over the variants for which it makes sense; nil means all.
func over(t *testing.T, only func(variant) bool, story func(t *testing.T, v variant)) {
	t.Helper()
	for _, v := range variants {
		if only == nil || only(v) {
			t.Run(v.name, func(t *testing.T) { story(t, v) })
		}
	}
}

func withFast(v variant) bool    { return v.fast }
func withoutFast(v variant) bool { return !v.fast }
func withLTEP(v variant) bool    { return v.dialect == wire.DialectLTEP }
func withoutLTEP(v variant) bool { return !withLTEP(v) }

var (
	epoch    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	someHash = bt.InfoHash{1, 2, 3}
	ourID    = bt.PeerID{'-', 'P', 'Y', 'u', 's'}
	theirID  = bt.PeerID{'-', 'X', 'X', 't', 'h', 'e', 'm'}
	// 20 pieces of 64 KiB, the last of 1,000 bytes.
	geometry = bt.Geometry{TotalBytes: 19*65536 + 1000, PieceBytes: 65536}
)

func block(index bt.PieceIndex, begin, length uint32) bt.Block {
	return bt.Block{Index: index, Begin: begin, Length: length}
}

// dialogue is a talk with one machine: what it is fed, what it wants to tell, what it writes.
type dialogue struct {
	t      testing.TB
	m      *Machine
	now    time.Time
	accept *Local // what a responder answers a hello with; nil lets it wait
	events []any  // not yet wanted: wire.Message (plain, cloned), MuxEvent (likewise), EventKind, or error for the end
	took   int64  // what the messages cost that mux frames have brought whole and that were not given back
	win    int64  // our window as it began; see checkMux

	refusees []string // types of our messages that were refused after they had gone, where that is known
}

func newDialogue(t testing.TB, cfg Config) *dialogue {
	d := &dialogue{t: t, m: new(Machine), now: epoch}
	d.m.Init(d.now, cfg)
	return d
}

func config(role Role, bits wire.Reserved, g bt.Geometry) Config {
	return Config{Role: role, PeerID: ourID, Reserved: bits, HelloTimeout: InitiatorTimeout, KeepAlive: 90 * time.Second,
		Local: Local{InfoHash: someHash, Geometry: g}}
}

// open returns a session whose hellos are over and wanted, on the initiator's side.
func open(t testing.TB, v variant, g bt.Geometry) *dialogue {
	t.Helper()
	d := newDialogue(t, config(Initiator, v.bits, g))
	d.feed(helloOf(v.bits))
	d.want(EventOpen)
	d.output()
	if v.mux {
		d.enhance()
	}
	return d
}

// openLTEP returns a session in which we have given out id 1 for ut_metadata, 10 for a type of at most 100 bytes and 11 for one of 0 bytes, and
// the peer 2 for ut_metadata and 20 for a type.
func openLTEP(t testing.TB, v variant, g bt.Geometry) *dialogue {
	t.Helper()
	d := open(t, v, g)
	use := &WeUse{Metadata: 1}
	use.MaxBytes[10], use.MaxBytes[11] = 101, 1
	e := ltep.Exchange{M: []ltep.Entry{{Name: "ut_metadata", ID: 1}, {Name: "a", ID: 10}, {Name: "b", ID: 11}}}
	if err := d.m.SendExchange(&e, use); err != nil {
		t.Fatal(err)
	}
	d.output()
	theirs := ltep.Exchange{M: []ltep.Entry{{Name: "a", ID: 20}, {Name: "ut_metadata", ID: 2}}}
	d.feed(theirs)
	d.want(theirs)
	return d
}

func helloOf(bits wire.Reserved) []byte {
	return classic.AppendHello(nil, classic.Hello{Reserved: bits, InfoHash: someHash, PeerID: theirID})
}

// The ids that we give out in the tests of the extensions other than ut_metadata, which has 1, and those that the peer gives out.
const (
	ourPEX, ourDontHave, ourUploadOnly       = 3, 4, 5
	theirPEX, theirDontHave, theirUploadOnly = 33, 34, 35
)

// openExtensions is openLTEP with every extension offered by both sides.
func openExtensions(t testing.TB, v variant, g bt.Geometry) *dialogue {
	t.Helper()
	d := openLTEP(t, v, g)
	use := *d.m.weUse
	use.PEX, use.DontHave, use.UploadOnly = ourPEX, ourDontHave, ourUploadOnly
	if err := d.m.SendExchange(&ltep.Exchange{}, &use); err != nil {
		t.Fatal(err)
	}
	d.output()
	theirs := ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameDontHave, ID: theirDontHave}, {Name: ltep.NameUploadOnly, ID: theirUploadOnly},
		{Name: ltep.NamePEX, ID: theirPEX}}}
	d.feed(theirs)
	d.want(theirs)
	return d
}

// encode writes messages as a peer would: plain values, raw bytes, exchanges, and messages of extensions under the ids that we gave out.
func encode(t testing.TB, items ...any) (b []byte) {
	t.Helper()
	for _, item := range items {
		switch m := item.(type) {
		case []byte:
			b = append(b, m...)
		case wire.KeepAlive:
			b = classic.AppendKeepAlive(b)
		case wire.Choke:
			b = classic.AppendChoke(b)
		case wire.Unchoke:
			b = classic.AppendUnchoke(b)
		case wire.Interested:
			b = classic.AppendInterested(b)
		case wire.NotInterested:
			b = classic.AppendNotInterested(b)
		case wire.Have:
			b = classic.AppendHave(b, m)
		case wire.Bitfield:
			b = classic.AppendBitfield(b, m)
		case wire.Request:
			b = classic.AppendRequest(b, m)
		case wire.Piece:
			b = classic.AppendPiece(b, m)
		case wire.Cancel:
			b = classic.AppendCancel(b, m)
		case wire.Port:
			b = classic.AppendPort(b, m)
		case wire.Suggest:
			b = classic.AppendSuggest(b, m)
		case wire.HaveAll:
			b = classic.AppendHaveAll(b)
		case wire.HaveNone:
			b = classic.AppendHaveNone(b)
		case wire.Reject:
			b = classic.AppendReject(b, m)
		case wire.AllowedFast:
			b = classic.AppendAllowedFast(b, m)
		case wire.HashRequest:
			b = classic.AppendHashRequest(b, m)
		case wire.Hashes:
			b = classic.AppendHashes(b, m)
		case wire.HashReject:
			b = classic.AppendHashReject(b, m)
		case wire.Extended:
			b = classic.AppendExtended(b, m)
		case wire.Unknown:
			b = rawFrame(b, m.ID, m.Payload)
		case ltep.Exchange:
			b = classic.AppendExtended(b, wire.Extended{ID: 0, Payload: ltep.AppendExchange(nil, &m)})
		case ltep.Metadata:
			b = classic.AppendExtended(b, wire.Extended{ID: 1, Payload: ltep.AppendMetadata(nil, m)})
		case ltep.PEX:
			b = classic.AppendExtended(b, wire.Extended{ID: ourPEX, Payload: ltep.AppendPEX(nil, m)})
		case ltep.DontHave:
			b = classic.AppendExtended(b, wire.Extended{ID: ourDontHave, Payload: ltep.AppendDontHave(nil, m)})
		case ltep.UploadOnly:
			b = classic.AppendExtended(b, wire.Extended{ID: ourUploadOnly, Payload: ltep.AppendUploadOnly(nil, m)})
		default:
			t.Fatalf("no way to write %T", item)
		}
	}
	return b
}

func rawFrame(dst []byte, id byte, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload))+1)
	return append(append(dst, id), payload...)
}

// feed gives the machine what the peer writes, in one piece, and notes its events.
func (d *dialogue) feed(items ...any) {
	d.t.Helper()
	b := encode(d.t, items...)
	d.m.Feed(d.now, b)
	d.drain()
	if d.m.accepted || d.m.Phase() == PhaseClosed || !d.m.helloSeen {
		for i := range b { // it was borrowed until now
			b[i] = 0xee
		}
	}
}

func (d *dialogue) drain() {
	for {
		ev, ok := d.m.Next()
		if !ok {
			return
		}
		switch ev.Kind {
		case EventMessage:
			d.events = append(d.events, clone(ev.Msg))
		case EventMux:
			e := *ev.Mux
			if e.Refusee != nil { // a name is enough
				d.refusees = append(d.refusees, e.Refusee.Name())
				e.Refusee = nil
			}
			e.Data = append([]byte(nil), e.Data...)
			if d.events = append(d.events, e); e.Kind == MuxData && e.Last {
				d.took += messageCost(e.Total)
			}
		case EventClosed:
			d.events = append(d.events, closed{d.m.Err()})
		case EventHello:
			d.events = append(d.events, ev.Kind)
			if d.accept != nil {
				d.m.Accept(*d.accept)
			}
		default:
			d.events = append(d.events, ev.Kind)
		}
	}
}

// closed is the end of a session and why.
type closed struct{ err error }

// clone returns the plain value of a decoded message, sharing nothing with it.
func clone(m wire.Message) wire.Message {
	switch p := wiretest.Plain(m).(type) {
	case wire.Bitfield:
		p.Bits = bytes.Clone(p.Bits)
		return p
	case wire.Piece:
		p.Data = bytes.Clone(p.Data)
		return p
	case wire.Hashes:
		p.Data = bytes.Clone(p.Data)
		return p
	case wire.Extended:
		p.Payload = bytes.Clone(p.Payload)
		return p
	case ltep.Metadata:
		p.Data = bytes.Clone(p.Data)
		return p
	case ltep.Exchange:
		p.M = slices.Clone(p.M)
		return p
	default:
		return p
	}
}

// want checks that the events since the last want are these and no others: messages, event kinds, or for the end the error's sentinel.
func (d *dialogue) want(items ...any) {
	d.t.Helper()
	got := d.events
	d.events = nil
	same := len(got) == len(items)
	for i := 0; same && i < len(got); i++ {
		if end, ok := got[i].(closed); ok {
			want, isErr := items[i].(error)
			same = isErr && errors.Is(end.err, want)
		} else {
			same = reflect.DeepEqual(got[i], items[i])
		}
	}
	if !same {
		d.t.Fatalf("events %v, want %v", got, items)
	}
}

// wantIdle checks that nothing has happened since the last want.
func (d *dialogue) wantIdle() {
	d.t.Helper()
	d.want()
}

// output takes all that the machine wants to write.
func (d *dialogue) output() []byte { return d.m.AppendOutput(d.now, nil, 1<<30) }

// wantOut checks that the machine writes just these messages.
func (d *dialogue) wantOut(items ...any) {
	d.t.Helper()
	if got, want := d.output(), encode(d.t, items...); !bytes.Equal(got, want) {
		d.t.Fatalf("writes %x, want %x", got, want)
	}
}

// advance lets time pass and tells the machine if it asked to be told.
func (d *dialogue) advance(by time.Duration) {
	d.t.Helper()
	d.now = d.now.Add(by)
	if at := d.m.Deadline(); !at.IsZero() && !d.now.Before(at) {
		d.m.Advance(d.now)
	}
	d.drain()
}

func (d *dialogue) send(m wire.Message) {
	d.t.Helper()
	if err := d.m.Send(m); err != nil {
		d.t.Fatalf("Send %+v: %v", m, err)
	}
}

// uploads takes all blocks that the peer may have.
func (d *dialogue) uploads() (all []bt.Block) {
	for {
		u, ok := d.m.NextUpload()
		if !ok {
			return all
		}
		if u.IsMetadata {
			d.t.Fatalf("an upload of metadata: %+v", u)
		}
		all = append(all, u.Block)
	}
}

// run feeds a stream in the given segments into a new machine and returns all that came of it, in words: events, queues, output.
func run(t testing.TB, prepare func() *dialogue, segments iter.Seq[[]byte]) string {
	d := prepare()
	for s := range segments {
		d.m.Feed(d.now, s)
		d.drain()
	}
	var b bytes.Buffer
	for _, e := range d.events {
		if end, ok := e.(closed); ok {
			fmt.Fprintf(&b, "closed: %v\n", end.err)
		} else {
			fmt.Fprintf(&b, "%T %+v\n", e, e)
		}
	}
	for {
		u, ok := d.m.NextUpload()
		if !ok {
			break
		}
		fmt.Fprintf(&b, "upload %+v\n", u)
	}
	fmt.Fprintf(&b, "writes %x\n", d.output())
	return b.String()
}

// Pair is two machines back to back.
type Pair struct{ a, b *dialogue }

// pair returns two sessions that have found each other; the initiator is a.
func pair(t testing.TB, v variant, a, b bt.Geometry) *Pair {
	t.Helper()
	p := &Pair{newDialogue(t, config(Initiator, v.bits, a)), nil}
	cfg := config(Responder, v.bits, bt.Geometry{})
	cfg.PeerID, cfg.Local = theirID, Local{}
	p.b = newDialogue(t, cfg)
	p.b.accept = &Local{Geometry: b}
	p.pump()
	p.a.want(EventOpen)
	p.b.want(EventHello, EventOpen)
	if v.mux {
		p.a.enhance()
		p.b.enhance()
	}
	return p
}

// pump carries bytes until neither machine has more to write. The uploads that either wants to make carry their block's index.
func (p *Pair) pump() {
	p.a.t.Helper()
	for range 1000 {
		there, back := p.a.written(), p.b.written()
		if len(there)+len(back) == 0 {
			return
		}
		p.b.feed(there)
		p.a.feed(back)
	}
	p.a.t.Fatal("the machines do not come to rest")
}

// written is what the machine's owner would write: its output, and the uploads it may make.
func (d *dialogue) written() []byte {
	out := d.output()
	for {
		u, ok := d.m.NextUpload()
		if !ok {
			return out
		}
		if u.IsMetadata {
			md := ltep.Metadata{Type: ltep.MetadataData, Piece: u.Metadata, TotalSize: 5, Data: []byte("infos")}
			if err := d.m.SendMetadata(md); err != nil {
				d.t.Fatal(err)
			}
			out = append(out, d.output()...)
			continue
		}
		if u.IsHashes {
			if err := d.m.SendHashes(hashesOf(u.Hashes)); err != nil {
				d.t.Fatal(err)
			}
			out = append(out, d.output()...)
			continue
		}
		at := len(out)
		out = append(out, make([]byte, classic.PieceHeadBytes+int(u.Block.Length))...)
		for i := range out[at+classic.PieceHeadBytes:] {
			out[at+classic.PieceHeadBytes+i] = byte(u.Block.Index)
		}
		if !d.m.FinishPiece(d.now, u.Block, out[at:]) {
			d.t.Fatal("FinishPiece refuses in an open session")
		}
	}
}
