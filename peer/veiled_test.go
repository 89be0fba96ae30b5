package peer

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// What the sessions of these tests are bound to.
var someBinding = [32]byte{9, 8, 7}

// whileVeiled runs a story over both roles.
func whileVeiled(t *testing.T, story func(t *testing.T, role Role)) {
	t.Helper()
	for role, name := range map[Role]string{Initiator: "initiator", Responder: "responder"} {
		t.Run(name, func(t *testing.T) { story(t, role) })
	}
}

// veiledOf returns a session whose veiled hello is over and in which nothing has come.
func veiledOf(t testing.TB, role Role, bits wire.Reserved) *dialogue {
	t.Helper()
	cfg := config(role, bits, geometry)
	if cfg.Hello = wire.HelloVeil; role == Responder {
		cfg.Hello, cfg.Local, cfg.HelloTimeout = 0, Local{}, 20*time.Second
	}
	d := newDialogue(t, cfg)
	d.accept = &Local{Geometry: geometry}
	d.wantOut()
	d.m.Begin(wire.HelloVeil, someHash, someBinding)
	d.wantOut()
	return d
}

// wantVeiled is want for what a responder is told first.
func (d *dialogue) wantVeiled(role Role, items ...any) {
	d.t.Helper()
	if role == Responder {
		items = append([]any{EventHello}, items...)
	}
	d.want(items...)
}

// anOffer is the least that an exchange after a veiled hello must have.
func anOffer() emp.Offer {
	return emp.Offer{Version: 1, Requests: -1, HasPeerID: true, PeerID: theirID, HasReserved: true, Reserved: wire.Reserved{7: 0x04}}
}

func exchangeWith(o emp.Offer) ltep.Exchange {
	return ltep.Exchange{M: []ltep.Entry{{Name: "a", ID: 20}}, EMP: emp.AppendOffer(nil, &o)}
}

// seenOf is what the owner sees of an exchange: emp is the machine's.
func seenOf(e ltep.Exchange) ltep.Exchange {
	e.EMP = nil
	return e
}

func rawExchange(s string) []byte {
	return classic.AppendExtended(nil, wire.Extended{ID: ltep.ExchangeID, Payload: []byte(s)})
}

// TestVeiledDialogue is how a session begins after a veiled hello: no classic hello, the exchange first, keep-alives aside, and everything else behind it.
func TestVeiledDialogue(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		d := veiledOf(t, role, wire.Reserved{5: 0x10, 7: 0x04})
		theirs := exchangeWith(anOffer())
		d.feed(wire.KeepAlive{})
		d.wantVeiled(role)
		if role == Responder && (d.m.InfoHash() != someHash || d.m.Hello() != wire.HelloVeil) {
			t.Errorf("torrent %v by %v", d.m.InfoHash(), d.m.Hello())
		}
		if d.m.Phase() != PhaseHello || d.m.Opened() {
			t.Error("open before the exchange")
		}
		d.feed(wire.KeepAlive{}, theirs, wire.HaveAll{}, wire.Unchoke{})
		d.want(EventOpen, seenOf(theirs), wire.HaveAll{}, wire.Unchoke{})
		if m := d.m; m.PeerID() != theirID || m.Dialect() != wire.DialectEMP || !m.Fast() || m.Identity() != nil || m.Binding() != someBinding {
			t.Errorf("peer %v, dialect %v, fast %v, identity %x, binding %x", m.PeerID(), m.Dialect(), m.Fast(), m.Identity(), m.Binding())
		}
		if at := d.m.Deadline(); at.Before(d.now.Add(time.Minute)) {
			t.Errorf("the deadline is still that of the hello: %v", at)
		}
		d.wantOut()
	})
}

// TestVeiledNothingBeforeTheFirstRecord checks that a responder neither tells nor sends anything before the first bytes have opened: the hello may be a replayed one.
func TestVeiledNothingBeforeTheFirstRecord(t *testing.T) {
	d := veiledOf(t, Responder, wire.Reserved{5: 0x10})
	d.m.Feed(d.now, nil)
	d.drain()
	d.wantIdle()
	d.wantOut()
	d.advance(19 * time.Second)
	d.wantIdle()
	d.advance(time.Second)
	d.want(ErrHandshakeTimeout)
	d.wantOut()
}

// TestVeiledHelloTimeout checks that the deadline of the hello holds until the exchange is whole.
func TestVeiledHelloTimeout(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		d := veiledOf(t, role, wire.Reserved{5: 0x10})
		limit := d.m.HelloEnd().Sub(d.now)
		b := encode(t, exchangeWith(anOffer()))
		d.feed(b[:len(b)-1])
		d.wantVeiled(role)
		d.advance(limit - 1)
		d.wantIdle()
		d.advance(1)
		d.want(ErrHandshakeTimeout)
	})
}

// TestVeiledExchangeExpected: whatever comes first instead ends the session as soon as it shows (EMP/1 section 6.1).
func TestVeiledExchangeExpected(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		for name, b := range map[string][]byte{
			"bitfield":                     encode(t, wire.Bitfield{Bits: make([]byte, 3)}),
			"have all":                     encode(t, wire.HaveAll{}),
			"unchoke":                      encode(t, wire.Unchoke{}),
			"a request":                    encode(t, wire.Request{Block: block(0, 0, 16384)}),
			"an unknown frame":             rawFrame(nil, 99, []byte("x")),
			"another extended frame":       encode(t, wire.Extended{ID: 5, Payload: []byte("x")}),
			"an extended frame without id": rawFrame(nil, 20, nil),
			"a classic hello":              helloOf(wire.Reserved{}),
			"a piece of 2 GiB":             {0x7f, 0xff, 0xff, 0xff, 7},
		} {
			d := veiledOf(t, role, wire.Reserved{5: 0x10, 7: 0x04})
			d.feed(wire.KeepAlive{}, b[:min(6, len(b))])
			d.wantVeiled(role, ErrTypeExchangeExpected)
			if FaultOf(d.m.Err()) != FaultPeer {
				t.Errorf("%s: fault %v", name, FaultOf(d.m.Err()))
			}
			d.wantOut()
			d.feed(exchangeWith(anOffer())) // too late
			d.wantIdle()
		}
	})
}

// TestVeiledBadExchange: what is wrong with the first exchange ends the session (EMP/1 sections 6.1 and 6.2).
func TestVeiledBadExchange(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		without := func(f func(o *emp.Offer)) []byte {
			o := anOffer()
			f(&o)
			return encode(t, exchangeWith(o))
		}
		for name, b := range map[string][]byte{
			"nothing":               rawExchange(""),
			"noise":                 rawExchange("noise"),
			"a list":                rawExchange("le"),
			"cut":                   rawExchange("d1:md1:ai20e"),
			"too deep":              rawExchange("d1:x" + strings.Repeat("l", 8) + strings.Repeat("e", 8) + "e"),
			"an integer with zeros": rawExchange("d1:pi007ee"),
			"no emp":                rawExchange("de"),
			"emp is a list":         rawExchange("d3:empleee"),
			"emp is a number":       rawExchange("d3:empi1ee"),
			"empty emp":             rawExchange("d3:empdee"),
			"no id":                 without(func(o *emp.Offer) { o.HasPeerID = false }),
			"no rb":                 without(func(o *emp.Offer) { o.HasReserved = false }),
			"no v":                  rawExchange("d3:empd2:id20:" + string(theirID[:]) + "2:rb8:ABCDEFGHee"),
			"v 0":                   rawExchange("d3:empd2:id20:" + string(theirID[:]) + "2:rb8:ABCDEFGH1:vi0eee"),
			"short id":              rawExchange("d3:empd2:id19:" + string(theirID[1:]) + "2:rb8:ABCDEFGH1:vi1eee"),
		} {
			d := veiledOf(t, role, wire.Reserved{5: 0x10})
			d.feed(b)
			d.wantVeiled(role, ErrBadTypeExchange)
			if t.Failed() {
				t.Fatal(name)
			}
		}
		for name, b := range map[string][]byte{
			"a later version":      rawExchange("d3:empd2:id20:" + string(theirID[:]) + "2:rb8:ABCDEFGH1:vi9eee"),
			"bytes behind it":      rawExchange("d3:empd2:id20:" + string(theirID[:]) + "2:rb8:ABCDEFGH1:vi1eeebehind"),
			"unsorted, duplicates": rawExchange("d3:empd1:vi1e2:rb8:ABCDEFGH2:id20:" + string(theirID[:]) + "1:vi0ee3:empdee"),
		} {
			d := veiledOf(t, role, wire.Reserved{5: 0x10})
			d.feed(b)
			if d.m.Phase() != PhaseOpen {
				t.Errorf("%s: %v", name, d.m.Err())
			}
		}
	})
}

// TestVeiledExchangeSize: 64 KiB are taken, one byte more is refused by its length alone.
func TestVeiledExchangeSize(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		base := "d3:empd2:id20:" + string(theirID[:]) + "2:rb8:ABCDEFGH1:vi1eee"
		whole := rawExchange(base + strings.Repeat("x", wire.MaxExchangeBytes-len(base)))
		d := veiledOf(t, role, wire.Reserved{5: 0x10})
		d.feed(whole)
		if d.m.Phase() != PhaseOpen {
			t.Errorf("64 KiB: %v", d.m.Err())
		}
		d = veiledOf(t, role, wire.Reserved{5: 0x10})
		d.feed(rawExchange(base + strings.Repeat("x", wire.MaxExchangeBytes+1-len(base)))[:6])
		d.wantVeiled(role, ErrBadTypeExchange)
	})
}

// TestVeiledIdentity: proofs of identity (EMP/1 section 5.1).
func TestVeiledIdentity(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	public := []byte(key.Public().(ed25519.PublicKey))
	otherKey := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	whileVeiled(t, func(t *testing.T, role Role) {
		theyBegan := role == Responder
		s := veil.SignIdentity(key, theyBegan, &someBinding)
		mirrored := veil.SignIdentity(key, !theyBegan, &someBinding)
		replayed := veil.SignIdentity(key, theyBegan, &[32]byte{1})
		others := veil.SignIdentity(otherKey, theyBegan, &someBinding)
		flipped := s
		flipped[0] ^= 1
		small := make([]byte, 32)
		small[0] = 1 // the neutral element
		for _, tt := range []struct {
			name string
			k, s []byte
			want error // nil: accepted
			who  []byte
		}{
			{"proven", public, s[:], nil, public},
			{"k without s", public, nil, ErrBadIdentity, nil},
			{"s without k", nil, s[:], nil, nil},
			{"neither", nil, nil, nil, nil},
			{"a bit changed", public, flipped[:], ErrBadIdentity, nil},
			{"signed by another", public, others[:], ErrBadIdentity, nil},
			{"of the other role: reflected", public, mirrored[:], ErrBadIdentity, nil},
			{"of another session: replayed", public, replayed[:], ErrBadIdentity, nil},
			{"k of small order", small, make([]byte, 64), ErrBadIdentity, nil},
		} {
			o := anOffer()
			o.Key, o.Signature = tt.k, tt.s
			d := veiledOf(t, role, wire.Reserved{5: 0x10})
			theirs := exchangeWith(o)
			d.feed(theirs)
			if tt.want != nil {
				d.wantVeiled(role, tt.want)
			} else {
				d.wantVeiled(role, EventOpen, seenOf(theirs))
			}
			if !bytes.Equal(d.m.Identity(), tt.who) {
				t.Errorf("%s: identity %x", tt.name, d.m.Identity())
			}
		}
		// Elsewhere the keys are ignored.
		d := open(t, variants[2], geometry)
		o := anOffer()
		o.Key, o.Signature = public, flipped[:]
		d.feed(exchangeWith(o))
		if d.m.Phase() != PhaseOpen || d.m.Identity() != nil {
			t.Errorf("after a plaintext hello: %v, identity %x", d.m.Err(), d.m.Identity())
		}
	})
}

// TestVeiledReservedBits: Fast counts by rb; the bits that choose a dialect or the form of the torrent do not.
func TestVeiledReservedBits(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		for _, tt := range []struct {
			ours, theirs wire.Reserved
			fast         bool
		}{
			{wire.Reserved{5: 0x10, 7: 4}, wire.Reserved{7: 4}, true},
			{wire.Reserved{5: 0x10}, wire.Reserved{7: 4}, false},
			{wire.Reserved{5: 0x10, 7: 4}, wire.Reserved{}, false},
			{wire.Reserved{5: 0x10, 7: 4}, wire.Reserved{0: 0x80, 5: 0x13, 7: 0x14}, true},
		} {
			d := veiledOf(t, role, tt.ours)
			o := anOffer()
			o.Reserved = tt.theirs
			d.feed(exchangeWith(o))
			if d.m.Fast() != tt.fast || d.m.Dialect() != wire.DialectEMP || d.m.V2() || d.m.InfoHash() != someHash {
				t.Errorf("%v and %v: fast %v, dialect %v, v2 %v", tt.ours, tt.theirs, d.m.Fast(), d.m.Dialect(), d.m.V2())
			}
			d.events = nil
			if d.feed(wire.Suggest{Index: 3}); tt.fast {
				d.want(wire.Suggest{Index: 3})
			} else {
				d.wantIdle()
			}
		}
	})
}

// TestVeiledBitfieldAfterExchange: a bitfield directly behind the exchange is taken whether or not there is Fast.
func TestVeiledBitfieldAfterExchange(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		for _, bits := range []wire.Reserved{{5: 0x10}, {5: 0x10, 7: 4}} {
			d := veiledOf(t, role, bits)
			theirs, has := exchangeWith(anOffer()), wire.Bitfield{Bits: []byte{0xf0, 0, 0}}
			d.feed(theirs, has)
			d.wantVeiled(role, EventOpen, seenOf(theirs), has)
		}
	})
}

// TestVeiledSelfConnection: our own id in the exchange.
func TestVeiledSelfConnection(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		d := veiledOf(t, role, wire.Reserved{5: 0x10})
		o := anOffer()
		o.PeerID = ourID
		d.feed(exchangeWith(o), wire.Unchoke{})
		d.wantVeiled(role, ErrSelfConnection)
		if f := FaultOf(d.m.Err()); f != FaultNone {
			t.Errorf("fault %v", f)
		}
	})
}

// TestVeiledLaterExchanges: they need not be complete, but well formed (EMP/1 section 6.1).
func TestVeiledLaterExchanges(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		d := veiledOf(t, role, wire.Reserved{5: 0x10})
		d.feed(exchangeWith(anOffer()), rawExchange("de"))
		if d.m.Phase() != PhaseOpen {
			t.Fatalf("an exchange without emp: %v", d.m.Err())
		}
		d.events = nil
		d.feed(rawExchange("d3:empi1ee")) // a malformed key is as good as none
		if d.m.Phase() != PhaseOpen {
			t.Fatalf("a later exchange with a bad emp: %v", d.m.Err())
		}
		d.events = nil
		d.feed(rawExchange("noise"))
		d.want(ErrBadTypeExchange)
		// In ltep it is ignored.
		l := open(t, variants[2], geometry)
		l.feed(rawExchange("noise"))
		if l.m.Phase() != PhaseOpen {
			t.Errorf("in ltep: %v", l.m.Err())
		}
	})
}

// TestVeiledSending: an initiator may send its exchange as soon as its hello is answered, and nothing else before the peer's; a responder nothing at all before that.
func TestVeiledSending(t *testing.T) {
	ours := ltep.Exchange{M: []ltep.Entry{{Name: "a", ID: 10}}}
	cfg := config(Initiator, wire.Reserved{5: 0x10}, geometry)
	cfg.Hello = wire.HelloVeil
	early := newDialogue(t, cfg)
	if err := early.m.SendExchange(&ours, new(WeUse)); !errors.Is(err, ErrNotOpen) {
		t.Errorf("before the answer: %v", err)
	}
	early.advance(FirstAnswerTimeout)
	early.want(ErrHandshakeTimeout)
	whileVeiled(t, func(t *testing.T, role Role) {
		d := veiledOf(t, role, wire.Reserved{5: 0x10})
		err := d.m.SendExchange(&ours, new(WeUse))
		if role == Initiator {
			if err != nil {
				t.Fatal(err)
			}
			d.wantOut(ours)
		} else if !errors.Is(err, ErrNotOpen) {
			t.Fatalf("before anything of the initiator: %v", err)
		}
		for _, m := range []wire.Message{wire.Bitfield{Bits: make([]byte, 3)}, wire.HaveAll{}, wire.Unchoke{}, wire.KeepAlive{}} {
			if err := d.m.Send(m); !errors.Is(err, ErrNotOpen) {
				t.Errorf("%T before the peer's exchange: %v", m, err)
			}
		}
		d.wantOut()
		d.feed(exchangeWith(anOffer()))
		if role == Responder {
			if err := d.m.SendExchange(&ours, new(WeUse)); err != nil {
				t.Fatal(err)
			}
			d.wantOut(ours)
		}
		d.send(wire.Bitfield{Bits: make([]byte, 3)})
		d.wantOut(wire.Bitfield{Bits: make([]byte, 3)})
	})
}

// TestVeiledFlood: keep-alives before the exchange are counted as those after it.
func TestVeiledFlood(t *testing.T) {
	whileVeiled(t, func(t *testing.T, role Role) {
		d := veiledOf(t, role, wire.Reserved{5: 0x10})
		d.feed(make([]byte, 4*wire.MaxIdleFrames))
		d.wantVeiled(role)
		d.feed(wire.KeepAlive{})
		d.want(ErrFlood)
	})
}

// TestVeiledSplits: it does not matter how what comes is cut.
func TestVeiledSplits(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	for _, role := range []Role{Initiator, Responder} {
		s := veil.SignIdentity(key, role == Responder, &someBinding)
		o := anOffer()
		o.Key, o.Signature = key.Public().(ed25519.PublicKey), s[:]
		bad := o
		bad.Signature = make([]byte, 64)
		for _, stream := range [][]byte{
			encode(t, wire.KeepAlive{}, exchangeWith(o), wire.Bitfield{Bits: []byte{0xf0, 0, 0}}, wire.Unchoke{}, wire.Interested{}),
			encode(t, exchangeWith(bad), wire.Unchoke{}),
			encode(t, wire.KeepAlive{}, wire.Unchoke{}, exchangeWith(o)),
			encode(t, rawExchange("d1:md1:ai20e"), wire.Unchoke{}),
		} {
			wiretest.TestSplits(t, 1, stream, func(segments iter.Seq[[]byte]) string {
				return run(t, func() *dialogue { return veiledOf(t, role, wire.Reserved{5: 0x10, 7: 4}) }, segments)
			})
		}
	}
}

// TestBeginOther: what is begun by another hello is a classic session, whose hello comes inside.
func TestBeginOther(t *testing.T) {
	for _, h := range []wire.Hello{wire.HelloPlaintext, wire.HelloMSE} {
		cfg := config(Responder, wire.Reserved{}, geometry)
		cfg.Local = Local{}
		d := newDialogue(t, cfg)
		d.accept = &Local{Geometry: geometry}
		d.m.Begin(h, someHash, someBinding)
		if d.feed(helloOf(wire.Reserved{})); d.m.Hello() != h || d.m.Binding() != ([32]byte{}) || !d.m.HasHeard() {
			t.Errorf("%v: hello %v, binding %x", h, d.m.Hello(), d.m.Binding())
		}
		d.want(EventHello, EventOpen)
		d.m.Begin(wire.HelloVeil, someHash, someBinding) // too late
		if d.m.Hello() != h {
			t.Errorf("%v: begun again", h)
		}
	}
}

// FuzzVeiledHello gives a session that begins after a veiled hello any bytes, in any split: it opens only by a well-formed exchange with what it must have, sends nothing unasked, keeps no more
// than came, and comes to the same however the bytes are cut.
func FuzzVeiledHello(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	for _, role := range []Role{Initiator, Responder} {
		o := anOffer()
		s := veil.SignIdentity(key, role == Responder, &someBinding)
		f.Add(byte(role), encode(f, wire.KeepAlive{}, exchangeWith(o), wire.Bitfield{Bits: []byte{1, 0, 0}}), []byte{3})
		o.Key, o.Signature = key.Public().(ed25519.PublicKey), s[:]
		f.Add(byte(role)|2, encode(f, exchangeWith(o), wire.HaveAll{}, rawExchange("de")), []byte{1, 200})
		f.Add(byte(role), encode(f, wire.Unchoke{}), []byte{})
		f.Add(byte(role), rawExchange("d3:empdee"), []byte{6})
	}
	f.Add(byte(0), []byte{0, 1, 0, 3, 20, 0}, []byte{2})
	f.Fuzz(func(t *testing.T, how byte, stream, cuts []byte) {
		role, bits := Role(how&1), wire.Reserved{5: 0x10}
		if how&2 != 0 {
			bits[7] = 4
		}
		prepare := func() *dialogue { return veiledOf(t, role, bits) }
		whole := run(t, prepare, wiretest.Cut(bytes.Clone(stream), []int{len(stream)}))
		if cut := run(t, prepare, wiretest.CutBy(stream, cuts)); cut != whole {
			t.Fatalf("cut:\n%s\nwhole:\n%s", cut, whole)
		}
		d := prepare()
		for b := range wiretest.CutBy(stream, cuts) {
			d.m.Feed(d.now, b)
			d.drain()
			if !d.m.Opened() && len(d.output()) != 0 {
				t.Fatal("it sends something before it is open")
			}
			if d.m.Phase() == PhaseHello && cap(d.m.partial) > 2*len(stream)+64 {
				t.Fatalf("%d bytes are kept of %d", cap(d.m.partial), len(stream))
			}
		}
		if d.m.Opened() && d.m.Dialect() != wire.DialectEMP {
			t.Fatalf("open, with peer %v in %v", d.m.PeerID(), d.m.Dialect())
		}
		if err := d.m.Err(); err != nil && FaultOf(err) != FaultPeer && !errors.Is(err, ErrSelfConnection) {
			t.Fatalf("closed: %v, fault %v", err, FaultOf(err))
		}
	})
}
