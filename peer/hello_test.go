package peer

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

func responder(t testing.TB, bits wire.Reserved) *dialogue {
	cfg := config(Responder, bits, bt.Geometry{})
	cfg.Local = Local{}
	return newDialogue(t, cfg)
}

func TestInitiatorSendsItsHelloAtOnce(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := newDialogue(t, config(Initiator, v.bits, geometry))
		if !d.m.HasOutput() || d.m.Phase() != PhaseHello || d.m.Dialect() != wire.DialectUnknown || d.m.Role() != Initiator {
			t.Errorf("output %v, phase %v, dialect %v", d.m.HasOutput(), d.m.Phase(), d.m.Dialect())
		}
		d.wantOut(classic.AppendHello(nil, classic.Hello{Reserved: v.bits, InfoHash: someHash, PeerID: ourID}))
		if d.m.HasOutput() {
			t.Error("has output after all was taken")
		}
		theirs := v.bits
		theirs[0] |= 0x80 // a bit more does not matter
		d.feed(helloOf(theirs))
		d.want(EventOpen)
		if d.m.Phase() != PhaseOpen || d.m.Dialect() != v.dialect || d.m.Fast() != v.fast || d.m.PeerID() != theirID ||
			d.m.Reserved() != theirs || d.m.InfoHash() != someHash || d.m.Err() != nil {
			t.Errorf("phase %v, dialect %v, fast %v, peer %v, bits %x", d.m.Phase(), d.m.Dialect(), d.m.Fast(), d.m.PeerID(), d.m.Reserved())
		}
		d.wantOut()
	})
}

// A responder answers once the info-hash is there, without waiting for the peer ID: EMP/1 section 2.
func TestResponderAnswersAtByte48(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		d := responder(t, v.bits)
		d.accept = &Local{Geometry: geometry, InfoHash: bt.InfoHash{99}} // the hash is the peer's
		hello := helloOf(v.bits)
		d.feed(hello[:47])
		d.wantIdle()
		d.wantOut()
		d.feed(hello[47:48])
		d.want(EventHello)
		if d.m.InfoHash() != someHash {
			t.Errorf("info-hash %v", d.m.InfoHash())
		}
		d.wantOut(classic.AppendHello(nil, classic.Hello{Reserved: v.bits, InfoHash: someHash, PeerID: ourID}))
		d.feed(hello[48:67])
		d.wantIdle()
		d.feed(hello[67:])
		d.want(EventOpen)
		d.wantOut()
		if d.m.PeerID() != theirID || d.m.Dialect() != v.dialect || d.m.Role() != Responder {
			t.Errorf("peer %v, dialect %v", d.m.PeerID(), d.m.Dialect())
		}
	})
}

func TestResponderWaitsForAccept(t *testing.T) {
	d := responder(t, wire.Reserved{})
	hello := helloOf(wire.Reserved{})
	d.m.Feed(d.now, append(hello, encode(t, wire.Interested{})...))
	ev, ok := d.m.Next()
	if !ok || ev.Kind != EventHello {
		t.Fatalf("%+v, %v", ev, ok)
	}
	d.wantOut()
	d.m.Accept(Local{Geometry: geometry})
	d.m.Accept(Local{Geometry: geometry}) // no second answer
	if n := len(d.output()); n != classic.HelloBytes {
		t.Fatalf("answers with %d bytes", n)
	}
	d.drain()
	d.want(EventOpen, wire.Interested{})
}

func TestResponderDeclines(t *testing.T) {
	d := responder(t, wire.Reserved{})
	d.m.Feed(d.now, helloOf(wire.Reserved{}))
	d.m.Next()
	d.m.Close(ErrUnknownTorrent)
	d.drain()
	d.want(ErrUnknownTorrent)
	d.wantOut()
	d.m.Accept(Local{}) // too late
	d.wantOut()
	if d.m.Phase() != PhaseClosed || d.m.InfoHash() != someHash {
		t.Errorf("phase %v, info-hash %v", d.m.Phase(), d.m.InfoHash())
	}
}

func TestOtherHellosCloseAtByte20(t *testing.T) {
	for _, role := range []Role{Initiator, Responder} {
		for i := range classic.PrefixBytes {
			hello := helloOf(wire.Reserved{})
			hello[i] ^= 1
			d := newDialogue(t, config(role, wire.Reserved{}, geometry))
			d.output()
			d.feed(hello[:19])
			d.wantIdle()
			d.feed(hello[19:20])
			d.want(ErrBadHello)
			d.wantOut()
			if f := FaultOf(d.m.Err()); f != FaultPeer {
				t.Errorf("fault %v", f)
			}
			d.feed(hello[20:]) // what comes after the end is nothing
			d.wantIdle()
		}
	}
}

func TestWrongTorrentInTheAnswer(t *testing.T) {
	d := newDialogue(t, config(Initiator, wire.Reserved{}, geometry))
	hello := helloOf(wire.Reserved{})
	hello[47]++
	d.feed(hello[:47])
	d.wantIdle()
	d.feed(hello[47:48])
	d.want(ErrWrongTorrent)
}

// Fast is spoken only if both sides have said so: BEP 6.
func TestFastNeedsBoth(t *testing.T) {
	for _, ours := range variants {
		for _, theirs := range variants {
			d := newDialogue(t, config(Initiator, ours.bits, geometry))
			d.feed(helloOf(theirs.bits))
			if want := ours.fast && theirs.fast; d.m.Fast() != want {
				t.Errorf("%s and %s: fast %v", ours.name, theirs.name, d.m.Fast())
			}
			if want := withLTEP(ours) && withLTEP(theirs); (d.m.Dialect() == wire.DialectLTEP) != want {
				t.Errorf("%s and %s: dialect %v", ours.name, theirs.name, d.m.Dialect())
			}
		}
	}
}

func TestSelfConnection(t *testing.T) {
	for _, role := range []Role{Initiator, Responder} {
		d := newDialogue(t, config(role, wire.Reserved{}, geometry))
		d.accept = &Local{Geometry: geometry}
		hello := classic.AppendHello(nil, classic.Hello{InfoHash: someHash, PeerID: ourID})
		d.feed(hello, wire.Unchoke{})
		if role == Responder {
			d.want(EventHello, ErrSelfConnection)
		} else {
			d.want(ErrSelfConnection)
		}
		if f := FaultOf(d.m.Err()); f != FaultNone {
			t.Errorf("fault %v", f)
		}
	}
}

func TestHelloTimeouts(t *testing.T) {
	hello := helloOf(wire.Reserved{})
	for _, tt := range []struct {
		name  string
		role  Role
		limit time.Duration // of the configuration
		first []byte        // what comes after 7 s
		after time.Duration // the end after the beginning
	}{
		{"initiator, no answer", Initiator, InitiatorTimeout, nil, 8 * time.Second},
		{"initiator, one byte", Initiator, InitiatorTimeout, hello[:1], 15 * time.Second},
		{"initiator, all but one", Initiator, InitiatorTimeout, hello[:67], 15 * time.Second},
		{"initiator, shorter limit", Initiator, 5 * time.Second, nil, 5 * time.Second},
		{"responder, nothing", Responder, MinHelloTimeout, nil, 15 * time.Second},
		{"responder, a prefix", Responder, 22 * time.Second, hello[:30], 22 * time.Second},
		{"responder, never accepted", Responder, MaxHelloTimeout, hello[:48], 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(tt.role, wire.Reserved{}, geometry)
			cfg.HelloTimeout = tt.limit
			d := newDialogue(t, cfg)
			if tt.first != nil {
				d.advance(7 * time.Second)
				d.feed(bytes.Clone(tt.first))
				d.events = nil
			}
			if at := d.m.Deadline(); !at.Equal(epoch.Add(tt.after)) {
				t.Errorf("deadline after %v, want %v", at.Sub(epoch), tt.after)
			}
			// To the last moment, and to the moment itself, told or not.
			for _, at := range []time.Duration{tt.after - 1, tt.after} {
				d.wantIdle()
				d.now = epoch.Add(at)
				d.m.Advance(d.now)
				d.drain()
			}
			d.want(ErrHandshakeTimeout)
			if f := FaultOf(d.m.Err()); f != FaultNetwork {
				t.Errorf("fault %v", f)
			}
			if !d.m.Deadline().IsZero() {
				t.Error("a deadline after the end")
			}
			d.advance(time.Hour)
			d.wantIdle()
		})
	}
}

func TestSendNeedsAnOpenSession(t *testing.T) {
	d := responder(t, wire.Reserved{5: 0x10})
	check := func() {
		t.Helper()
		for name, err := range map[string]error{
			"Send": d.m.Send(wire.Choke{}), "SendExtended": d.m.SendExtended(1, nil), "SendExchange": d.m.SendExchange(nil, nil),
			"SendMetadata": d.m.SendMetadata(metadataRequest(0)),
		} {
			if !errors.Is(err, ErrNotOpen) || FaultOf(err) != FaultNone {
				t.Errorf("%s: %v", name, err)
			}
		}
		if d.m.FinishPiece(d.now, bt.Block{}, make([]byte, classic.PieceHeadBytes)) {
			t.Error("FinishPiece before or after the session")
		}
		if _, ok := d.m.NextUpload(); ok {
			t.Error("an upload before or after the session")
		}
		d.wantOut()
	}
	check()
	d.m.Close(nil)
	check()
}

func TestInitRefusesDialectsThatAreNotThere(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the AZMP bit was accepted")
		}
	}()
	newDialogue(t, config(Initiator, wire.Reserved{0: 0x80}, geometry))
}

func TestChooseDialect(t *testing.T) {
	names := map[string]wire.Reserved{"nothing": {}, "ltep": {5: 0x10}, "azmp": {0: 0x80}, "both": {0: 0x80, 5: 0x10}}
	for _, tt := range []struct {
		a, b string
		want wire.Dialect
	}{ // EMP/1 section 1, both preferring to force LTEP
		{"nothing", "nothing", wire.DialectClassic}, {"nothing", "ltep", wire.DialectClassic}, {"nothing", "azmp", wire.DialectClassic},
		{"nothing", "both", wire.DialectClassic}, {"ltep", "ltep", wire.DialectLTEP}, {"ltep", "azmp", wire.DialectClassic},
		{"ltep", "both", wire.DialectLTEP}, {"azmp", "azmp", wire.DialectAZMP}, {"azmp", "both", wire.DialectAZMP},
		{"both", "both", wire.DialectLTEP},
	} {
		a, b := names[tt.a], names[tt.b]
		if got, back := ChooseDialect(a, b), ChooseDialect(b, a); got != tt.want || back != tt.want {
			t.Errorf("%s and %s: %v, the other way %v, want %v", tt.a, tt.b, got, back, tt.want)
		}
	}
}

func TestChooseDialectAgainstASecondImplementation(t *testing.T) {
	checked := 0
	for _, v := range wiretest.LoadShared(t, "classic.json") {
		var ours, theirs wire.Reserved
		var out struct{ Dialect string }
		switch {
		case strings.HasPrefix(v.Name, "ENP "):
			var in struct {
				A byte `json:"reserved5_bits_a"`
				B byte `json:"reserved5_bits_b"`
			}
			v.Unpack(t, &in, &out)
			ours, theirs = wire.Reserved{0: 0x80, 5: 0x10 | in.A}, wire.Reserved{0: 0x80, 5: 0x10 | in.B}
		case strings.HasPrefix(v.Name, "dialect: "):
			var in struct{ Ours, Theirs wiretest.Hex }
			v.Unpack(t, &in, &out)
			ours, theirs = wire.Reserved(in.Ours), wire.Reserved(in.Theirs)
		default:
			continue
		}
		if got := ChooseDialect(ours, theirs).String(); got != out.Dialect {
			t.Errorf("%s: %s, want %s", v.Name, got, out.Dialect)
		}
		checked++
	}
	if checked != 16+20 {
		t.Errorf("checked %d vectors, want 36", checked)
	}
}

// The whole of a session's beginning in any segmentation, in both roles.
func TestHelloSplits(t *testing.T) {
	over(t, nil, func(t *testing.T, v variant) {
		stream := encode(t, helloOf(v.bits), wire.KeepAlive{}, wire.Bitfield{Bits: []byte{0xff, 0, 0}}, wire.Unchoke{}, wire.Have{Index: 19},
			wire.Request{Block: block(1, 2, 3)}, wire.Piece{Index: 3, Begin: 4, Data: []byte("data")}, wire.Extended{ID: 0, Payload: []byte("d1:md1:ai1eee")},
			wire.Unknown{ID: 99, Payload: []byte("?")}, wire.Reject{Block: block(1, 2, 3)}, wire.Have{Index: 20}, wire.Choke{})
		for _, role := range []Role{Initiator, Responder} {
			wiretest.TestSplits(t, 1, stream, func(segments iter.Seq[[]byte]) string {
				s := run(t, func() *dialogue {
					d := newDialogue(t, config(role, v.bits, geometry))
					d.accept = &Local{Geometry: geometry}
					return d
				}, segments)
				if !strings.Contains(s, "wire.Piece") || !strings.Contains(s, fmt.Sprint(ErrBadState)) {
					t.Fatalf("the story was not told:\n%s", s)
				}
				return s
			})
		}
	})
}
