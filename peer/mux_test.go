package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// The extended ids of mux frames in these tests, ours and the peer's.
const ourMux, theirMux = 90, 91

// muxQueueBytes is the room for whole frames in these tests.
const muxQueueBytes = 64 << 10

// terms is what one side offers of mux frames (EMP/1 section 6.2).
type terms struct {
	win   int64
	req   int64
	types []emp.TypeOffer
	gone  []emp.TypeOffer // offered before, and withdrawn
}

// The types of most tests.
var (
	one = emp.TypeOffer{Name: "one", ID: 1, MaxVersion: 1, MaxLen: 65536}
	two = emp.TypeOffer{Name: "two", ID: 2, MaxLen: 100}
	big = emp.TypeOffer{Name: "big", ID: 3, MaxLen: 1 << 20}
)

func usual() terms { return terms{win: 4 << 20, req: 2, types: []emp.TypeOffer{one, two, big}} }

// without returns the terms with some types withdrawn.
func (tm terms) without(names ...string) terms {
	var kept []emp.TypeOffer
	for _, o := range tm.types {
		if slices.Contains(names, o.Name) {
			tm.gone = append(slices.Clone(tm.gone), o)
		} else {
			kept = append(kept, o)
		}
	}
	tm.types = kept
	return tm
}

// exchange returns the type exchange that says so.
func (tm terms) exchange(mux uint8) ltep.Exchange {
	o := emp.Offer{Version: 1, HasTypes: true, Types: slices.Clone(tm.types), Window: tm.win, Requests: tm.req}
	return ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMux, ID: mux}}, EMP: emp.AppendOffer(nil, &o)}
}

// use returns the table that belongs to it.
func (tm terms) use() *MuxUse {
	u := &MuxUse{ID: ourMux, Window: uint32(tm.win), Requests: int(tm.req)}
	for i, list := range [][]emp.TypeOffer{tm.gone, tm.types} {
		for _, o := range list {
			for len(u.Types) <= int(o.ID) {
				u.Types = append(u.Types, OurType{})
			}
			u.Types[o.ID] = OurType{Offered: i == 1, MinVersion: o.MinVersion, MaxVersion: o.MaxVersion, MaxLen: o.MaxLen}
		}
	}
	return u
}

// offer sends our exchange with these terms.
func (d *dialogue) offer(tm terms) {
	d.t.Helper()
	e := tm.exchange(ourMux)
	if err := d.m.SendExchange(&e, &WeUse{Mux: tm.use()}); err != nil {
		d.t.Fatal(err)
	}
}

// enhance makes mux frames legal in a session, with the usual terms, and without the exchanges that do it otherwise: they would count in stories that are not about them.
func (d *dialogue) enhance() {
	d.t.Helper()
	tm := usual()
	e := tm.exchange(theirMux)
	o, err := emp.ParseOffer(e.EMP)
	if err != nil {
		d.t.Fatal(err)
	}
	d.m.cfg.SendQueueBytes = muxQueueBytes
	use := new(WeUse)
	if d.m.weUse != nil {
		*use = *d.m.weUse
	}
	use.Mux = tm.use()
	d.m.weUse = use
	d.m.weOffer(use.Mux)
	if _, err := d.m.muxed().they.Apply(&o, theirMux); err != nil {
		d.t.Fatal(err)
	}
	d.m.updateTypes()
	d.m.activate()
	if d.m.Dialect() != wire.DialectEMP {
		d.t.Fatalf("the dialect is %v", d.m.Dialect())
	}
}

// offered feeds the peer's exchange with these terms.
func (d *dialogue) offered(tm terms) {
	d.t.Helper()
	d.feed(tm.exchange(theirMux))
	d.events = nil
}

// openMux returns a session in which both sides have made their offers.
func openMux(t testing.TB, ours, theirs terms) *dialogue {
	t.Helper()
	d := open(t, variants[2], geometry)
	d.m.cfg.SendQueueBytes = muxQueueBytes
	d.offer(ours)
	d.offered(theirs)
	d.output()
	d.checkMux()
	return d
}

func usually(t testing.TB) *dialogue { t.Helper(); return openMux(t, usual(), usual()) }

// Payloads of mux frames.

func message(id uint32, typ uint16, total int, data string) []byte {
	return append(emp.AppendMessageHead(nil, id, typ, 0, uint32(total)), data...)
}

func request(id uint32, typ uint16, total, replyMax int, data string) []byte {
	return append(emp.AppendRequestHead(nil, id, typ, 0, uint32(total), uint32(replyMax)), data...)
}

func more(id uint32, data string) []byte {
	return append(emp.AppendFragmentHead(nil, id, false), data...)
}

func answer(id uint32, s emp.Status, total int, data string) []byte {
	return append(emp.AppendResponseHead(nil, id, s, uint32(total)), data...)
}

func moreAnswer(id uint32, data string) []byte {
	return append(emp.AppendFragmentHead(nil, id, true), data...)
}

func credit(n int) []byte                      { return emp.AppendCredit(nil, uint32(n)) }
func reset(id uint32, c emp.Code) []byte       { return emp.AppendReset(nil, id, false, c) }
func stop(id uint32, c emp.Code) []byte        { return emp.AppendStop(nil, id, false, c) }
func resetAnswer(id uint32, c emp.Code) []byte { return emp.AppendReset(nil, id, true, c) }
func stopAnswer(id uint32, c emp.Code) []byte  { return emp.AppendStop(nil, id, true, c) }

func muxFrames(id uint8, payloads [][]byte) (items []any) {
	for _, p := range payloads {
		items = append(items, wire.Extended{ID: id, Payload: p})
	}
	return items
}

// hear feeds mux frames of the peer.
func (d *dialogue) hear(payloads ...[]byte) {
	d.t.Helper()
	d.feed(muxFrames(ourMux, payloads)...)
	d.checkMux()
}

// wantSaid checks that the machine writes just these mux frames.
func (d *dialogue) wantSaid(payloads ...[]byte) {
	d.t.Helper()
	d.wantOut(muxFrames(theirMux, payloads)...)
}

// wantRefusal checks that the session ends with an error that blames the peer, and that nothing else happens.
func (d *dialogue) wantRefusal(want error) {
	d.t.Helper()
	d.want(want)
	if f := FaultOf(d.m.Err()); f != FaultPeer {
		d.t.Fatalf("%v blames %v", d.m.Err(), f)
	}
}

// said takes the output apart into the payloads of its mux frames, at most limit bytes of application output. Exchanges are left out.
func (d *dialogue) said(limit int) (payloads [][]byte) {
	d.t.Helper()
	var dec classic.Decoder
	for out := d.m.AppendOutput(d.now, nil, limit); len(out) > 0; {
		n := classic.LengthBytes + int(binary.BigEndian.Uint32(out))
		msg, err := dec.Decode(out[classic.LengthBytes:n])
		e, ok := msg.(*wire.Extended)
		if err != nil || !ok || e.ID != theirMux && e.ID != ltep.ExchangeID {
			d.t.Fatalf("writes %x: %v", out[:min(n, 100)], err)
		}
		if out = out[n:]; e.ID == theirMux {
			payloads = append(payloads, bytes.Clone(e.Payload))
		}
	}
	return payloads
}

// brief says what mux frames are, in words and without their data.
func brief(payloads [][]byte) string {
	var s []string
	for _, p := range payloads {
		var f emp.Frame
		if err := f.Parse(p); err != nil {
			return err.Error()
		}
		w := strings.ToLower(f.Kind.String())
		switch {
		case f.Response:
			w += " of answer"
		case f.First && f.Request:
			w += " of request"
		}
		switch {
		case f.Kind == emp.Credit:
			w += fmt.Sprint(" ", f.Bytes)
		case f.Kind == emp.Data && f.First:
			w += fmt.Sprintf(" %d first %d/%d", f.ID, len(f.Data), f.Total)
		case f.Kind == emp.Data:
			w += fmt.Sprintf(" %d %d", f.ID, len(f.Data))
		default:
			w += fmt.Sprint(" ", f.ID)
		}
		s = append(s, w)
	}
	return strings.Join(s, ", ")
}

// Events of mux frames.

// part is a fragment of a message of the peer.
func part(id uint32, typ uint16, total int, data string) MuxEvent {
	e := MuxEvent{Kind: MuxData, ID: id, Type: typ, Total: uint32(total)}
	if data != "" {
		e.Data = []byte(data)
	}
	return e
}

func first(e MuxEvent) MuxEvent { e.First = true; return e }
func last(e MuxEvent) MuxEvent  { e.Last = true; return e }

// whole is a message of the peer in one fragment.
func whole(id uint32, typ uint16, data string) MuxEvent {
	return first(last(part(id, typ, len(data), data)))
}

// asks makes a request of a message.
func asks(e MuxEvent, replyMax int) MuxEvent {
	if e.Request = true; e.First {
		e.ReplyMax = uint32(replyMax)
	}
	return e
}

func dropped(id uint32) MuxEvent   { return MuxEvent{Kind: MuxDropped, ID: id} }
func cancelled(id uint32) MuxEvent { return MuxEvent{Kind: MuxCancelled, ID: id} }

// reply is a fragment of the answer to a request of ours.
func reply(call *Outgoing, s emp.Status, total int, data string) MuxEvent {
	e := part(call.id, 0, total, data)
	e.Kind, e.Call, e.Status = MuxReply, call, s
	return e
}

func ended(call *Outgoing, s emp.Status, refused bool, c emp.Code) MuxEvent {
	return MuxEvent{Kind: MuxCallEnded, ID: call.id, Call: call, Status: s, Refused: refused, Code: c}
}

// Calls of ours.

func (d *dialogue) typ(name string) *MuxType {
	d.t.Helper()
	t := d.m.mux.types[name]
	if t == nil {
		d.t.Fatalf("no type %q", name)
	}
	return t
}

// tell sends a message that goes at once.
func (d *dialogue) tell(typ, payload string) {
	d.t.Helper()
	if sent, err := d.m.SendMessage(d.typ(typ), 0, 0, []byte(payload)); !sent || err != nil {
		d.t.Fatalf("SendMessage: %v, %v", sent, err)
	}
}

// submit submits a message of which all data are there.
func (d *dialogue) submit(typ string, priority int8, payload string) *Outgoing {
	d.t.Helper()
	return d.give(&Outgoing{Type: d.typ(typ), Priority: priority, Total: uint32(len(payload))}, payload)
}

// ask submits a request.
func (d *dialogue) ask(typ string, replyMax uint32, payload string) *Outgoing {
	d.t.Helper()
	return d.give(&Outgoing{Type: d.typ(typ), Total: uint32(len(payload)), Request: true, ReplyMax: replyMax}, payload)
}

func (d *dialogue) give(o *Outgoing, data string) *Outgoing {
	d.t.Helper()
	if err := d.m.Submit(o, []byte(data)); err != nil {
		d.t.Fatalf("Submit: %v", err)
	}
	return o
}

// respond answers a request of the peer.
func (d *dialogue) respond(id uint32, s emp.Status, payload string) *Outgoing {
	d.t.Helper()
	o := new(Outgoing)
	if _, err := d.m.Respond(o, id, s, []byte(payload)); err != nil {
		d.t.Fatalf("Respond: %v", err)
	}
	return o
}

func (d *dialogue) abandon(o *Outgoing) {
	d.t.Helper()
	if err := d.m.Abandon(o, emp.CodeCancelled); err != nil {
		d.t.Fatalf("Abandon: %v", err)
	}
}

// credit gives back what the peer's messages took.
func (d *dialogue) credit(n int64) {
	d.m.Credit(n)
	d.took -= n
}

func (d *dialogue) refuse(id, total uint32, c emp.Code) {
	d.t.Helper()
	if d.m.mux.in[id] == nil { // it was whole
		d.took -= messageCost(total)
	}
	if err := d.m.RefuseMessage(id, total, c); err != nil {
		d.t.Fatalf("RefuseMessage: %v", err)
	}
}

// wantChanged checks what MuxChanged reports.
func (d *dialogue) wantChanged(want ...*Outgoing) {
	d.t.Helper()
	if got := d.m.MuxChanged(); !slices.Equal(got, want) {
		d.t.Fatalf("%d messages have changed, want %d, or others", len(got), len(want))
	}
}

// wantState checks that a message is done, with an error or without.
func (d *dialogue) wantDone(o *Outgoing, err error) {
	d.t.Helper()
	if !o.Done() || !errors.Is(o.Err(), err) || err == nil && o.Err() != nil {
		d.t.Fatalf("done: %v, error %v, want %v", o.Done(), o.Err(), err)
	}
}

// wantWindow checks what may be spent: by us, and by the peer.
func (d *dialogue) wantWindow(spend, window int) {
	d.t.Helper()
	if s, w := d.m.PeerMuxWindow(); s != int64(spend) || w != int64(window) {
		d.t.Fatalf("we may spend %d and the peer %d, want %d and %d", s, w, spend, window)
	}
}

// text returns n bytes that differ from place to place.
func text(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return string(b)
}

const fourMiB = 4 << 20 // the window of both sides with the usual terms

// EMP/1 §6.2: "A peer sends mux frames only after it has both sent and received an exchange", in whatever order these come; "a second exchange may add it".
func TestMuxFramesBecomeLegal(t *testing.T) {
	plain := ltep.Exchange{M: []ltep.Entry{{Name: "chat", ID: 20}}}
	steps := map[string]func(d *dialogue){
		"ours":   func(d *dialogue) { d.offer(usual()) },
		"theirs": func(d *dialogue) { d.offered(usual()) },
		"our plain one": func(d *dialogue) {
			if err := d.m.SendExchange(&plain, &WeUse{Metadata: 1}); err != nil {
				t.Fatal(err)
			}
		},
		"their plain one": func(d *dialogue) {
			d.feed(plain)
			d.events = nil
		},
	}
	for _, order := range [][]string{
		{"ours", "theirs"},
		{"theirs", "ours"},
		{"our plain one", "their plain one", "ours", "theirs"},
		{"their plain one", "theirs", "our plain one", "ours"},
		{"our plain one", "theirs", "ours"},
		{"ours", "their plain one", "theirs"},
	} {
		t.Run(strings.Join(order, ", "), func(t *testing.T) {
			for done := range len(order) + 1 {
				d := open(t, variants[2], geometry)
				for _, s := range order[:done] {
					steps[s](d)
				}
				d.output()
				weDid, theyDid := slices.Contains(order[:done], "ours"), slices.Contains(order[:done], "theirs")
				s := d.m.Shared()
				if done < len(order) {
					if _, err := d.m.SendMessage(nil, 0, 0, nil); !errors.Is(err, ErrNotOpen) {
						t.Errorf("SendMessage after %v: %v", order[:done], err)
					}
					if err := d.m.Submit(&Outgoing{}, nil); !errors.Is(err, ErrNotOpen) {
						t.Errorf("Submit after %v: %v", order[:done], err)
					}
					if d.m.Dialect() != wire.DialectLTEP || s.Mux != nil || s.Offers != theyDid {
						t.Errorf("after %v: dialect %v, shared %+v", order[:done], d.m.Dialect(), s)
					}
					d.wantOut()
					// EMP/1 §6.2: "a mux frame before that is a protocol error". EMP/1 §7.1: unknown ids "are ignored", and we gave none out.
					if d.hear(message(0, 1, 1, "x")); weDid {
						d.wantRefusal(ErrTooEarly)
					} else {
						d.wantIdle()
					}
					continue
				}
				if d.m.Dialect() != wire.DialectEMP || len(s.Mux) != 3 || !s.Offers {
					t.Fatalf("dialect %v, shared %+v", d.m.Dialect(), s)
				}
				d.wantWindow(fourMiB, fourMiB)
				d.m.cfg.SendQueueBytes = muxQueueBytes
				d.hear(message(0, 1, 1, "x"))
				d.want(whole(0, 1, "x"))
				d.tell("one", "y")
				d.wantSaid(message(0, 1, 1, "y"))
			}
		})
	}
}

// Every kind of mux frame is too early before the exchanges, and an offer that makes none legal changes nothing (EMP/1 §6.2: "with `emp_mux` ≠ 0 and `emp.v` ≥ 1").
func TestOffersThatMakeNoMuxFramesLegal(t *testing.T) {
	good := usual().exchange(theirMux)
	for name, e := range map[string]ltep.Exchange{
		"no emp":                {M: good.M},
		"v is missing":          {M: good.M, EMP: []byte("d3:wini70000ee")},
		"v is 0":                {M: good.M, EMP: []byte("d1:vi0ee")},
		"emp_mux is missing":    {EMP: good.EMP},
		"emp_mux is 0":          {M: []ltep.Entry{{Name: ltep.NameMux}}, EMP: good.EMP},
		"emp is no dictionary":  {M: good.M, EMP: []byte("i1e")},
		"emp is nested too far": {M: good.M, EMP: []byte("d1:vi1e1:x" + strings.Repeat("l", 7) + strings.Repeat("e", 7) + "e")},
	} {
		for kind, payload := range map[string][]byte{
			"message": message(0, 1, 0, ""), "credit": credit(1), "reset": reset(0, 0), "stop": stop(0, 0), "unknown kind": {0xff}, "answer": answer(0, 0, 0, ""), "nothing": {},
		} {
			d := open(t, variants[2], geometry)
			d.offer(usual())
			d.feed(e)
			d.events = nil
			if s := d.m.Shared(); s.Mux != nil || s.Offers || d.m.Dialect() != wire.DialectLTEP {
				t.Errorf("%s: shared %+v", name, s)
			}
			if d.hear(payload); !errors.Is(d.m.Err(), ErrTooEarly) {
				t.Errorf("%s: %s: %v", name, kind, d.m.Err())
			}
		}
	}
	// A malformed offer does not count as the first one.
	d := open(t, variants[2], geometry)
	d.offer(usual())
	d.feed(ltep.Exchange{M: good.M, EMP: []byte("d1:ve")})
	d.offered(usual())
	if d.m.Dialect() != wire.DialectEMP {
		t.Error("a good offer after a malformed one does not count")
	}
}

// EMP/1 §6.2: "`emp_mux`, `v`, `max`, `win`, `req` … count only in the first exchange that has `emp`".
func TestOnlyTheFirstOfferCounts(t *testing.T) {
	d := usually(t)
	other := usual()
	other.win, other.req = 1<<20, 9
	d.feed(other.exchange(77))
	d.feed(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMux, ID: 0}}, EMP: []byte("d1:vi0ee")})
	d.events = nil
	if win, req, ok := d.m.MuxLimits(); win != fourMiB || req != 2 || !ok || d.m.Dialect() != wire.DialectEMP {
		t.Errorf("window %d, %d requests, %v, dialect %v", win, req, ok, d.m.Dialect())
	}
	d.wantWindow(fourMiB, fourMiB)
	d.tell("one", "x")
	d.wantSaid(message(0, 1, 1, "x"))

	// So it is with ours, also if a later exchange is said to have other values, or has no "emp" at all ("no `t` leaves all as it was").
	use := other.use()
	use.ID = 78
	for _, u := range []*WeUse{{Mux: use}, {Metadata: 1}} {
		if err := d.m.SendExchange(&ltep.Exchange{}, u); err != nil {
			t.Fatal(err)
		}
		d.output()
		id := uint32(d.m.mux.nextIn)
		d.hear(message(id, 1, 1, "x"))
		d.want(whole(id, 1, "x"))
	}
	d.feed(wire.Extended{ID: 78, Payload: message(2, 1, 1, "x")})
	d.wantIdle()
	for i := range uint32(3) {
		d.hear(request(2+i, 1, 0, 0, ""))
	}
	d.want(asks(whole(2, 1, ""), 0), asks(whole(3, 1, ""), 0))
	d.wantSaid(answer(4, emp.StatusBusy, 0, ""), credit(64))
}

// EMP/1 §6.2: "`emp_mux` … count only in the first exchange that has `emp`": not in one before it.
func TestMuxIDOfAnEarlierExchange(t *testing.T) {
	d := open(t, variants[2], geometry)
	d.offer(usual())
	d.feed(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMux, ID: theirMux}}})
	d.feed(ltep.Exchange{EMP: usual().exchange(theirMux).EMP})
	if d.m.Dialect() != wire.DialectLTEP {
		t.Error("mux frames are legal")
	}
	// EMP/1 §6.1: "An id never changes its name within a session (an entry that would is ignored)".
	d = open(t, variants[2], geometry)
	d.offer(usual())
	d.feed(ltep.Exchange{M: []ltep.Entry{{Name: "chat", ID: theirMux}}})
	d.offered(usual())
	if d.m.Dialect() != wire.DialectLTEP {
		t.Error("mux frames are legal under another's id")
	}
}

// EMP/1 §6.2: a window that is "absent or smaller than 65,600 = 65,600". §7.3: "A window above 2^31−1 is a protocol error".
func TestAdvertisedWindows(t *testing.T) {
	for _, tt := range []struct{ said, counts int }{{0, 65_600}, {1, 65_600}, {65_599, 65_600}, {65_600, 65_600}, {65_601, 65_601}, {1<<31 - 1, 1<<31 - 1}} {
		tm := usual()
		tm.win = int64(tt.said)
		d := openMux(t, tm, tm)
		d.wantWindow(tt.counts, tt.counts)
	}
	d := open(t, variants[2], geometry)
	tm := usual()
	tm.win = 1 << 31
	d.feed(tm.exchange(theirMux))
	d.wantRefusal(ErrWindowExceeded)
}

// The limits of what may be sent (EMP/1 §6.2): "No message may be larger than `win` − 64, whatever maxlen says"; maxlen 0 is `max`; "Sending what the receiver has not
// listed is ErrTypeNotShared at the sender, before anything is written".
func TestWhatThePeerReceives(t *testing.T) {
	theirs := usual()
	theirs.win = 100_000
	theirs.types = append(theirs.types, emp.TypeOffer{Name: "default", ID: 4, MinVersion: 3, MaxVersion: 5})
	d := openMux(t, usual(), theirs)
	s := d.m.Shared()
	for name, want := range map[string]MuxOffer{
		"one": {MaxVersion: 1, MaxLen: 65536}, "two": {MaxLen: 100}, "big": {MaxLen: 100_000 - 64}, "default": {MinVersion: 3, MaxVersion: 5, MaxLen: 65536},
	} {
		want.Type = d.typ(name)
		if got := s.Mux[name]; got != want || got.Type.Name() != name {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for _, tt := range []struct {
		typ     string
		version uint8
		n       int
		want    error
	}{
		{"one", 0, 65536, nil}, {"one", 1, 0, nil}, {"one", 2, 0, ErrVersionNotShared}, {"one", 0, 65537, ErrMessageTooLarge},
		{"two", 0, 100, nil}, {"two", 0, 101, ErrMessageTooLarge}, {"big", 0, 99_936, nil}, {"big", 0, 99_937, ErrMessageTooLarge},
		{"default", 2, 0, ErrVersionNotShared}, {"default", 3, 0, nil}, {"default", 5, 0, nil}, {"default", 6, 0, ErrVersionNotShared},
		{"default", 4, 65536, nil}, {"default", 4, 65537, ErrMessageTooLarge}, {"", 0, 0, ErrTypeNotShared},
	} {
		d := openMux(t, usual(), theirs)
		var typ *MuxType
		if tt.typ != "" {
			typ = d.typ(tt.typ)
		}
		_, err := d.m.SendMessage(typ, tt.version, 0, make([]byte, tt.n))
		submitted := d.m.Submit(&Outgoing{Type: typ, Version: tt.version, Total: uint32(tt.n)}, make([]byte, tt.n))
		if !errors.Is(err, tt.want) || tt.want == nil && err != nil || fmt.Sprint(err) != fmt.Sprint(submitted) {
			t.Errorf("%+v: %v, submitted: %v", tt, err, submitted)
		}
		if tt.want != nil && (d.m.HasOutput() || d.m.mux.nextOut != 0) {
			t.Errorf("%+v: something was written", tt)
		}
	}
	// There is no larger message than 16 MiB.
	largest := usual()
	largest.win = 1 << 25
	largest.types[2].MaxLen = wire.MaxMessage
	d = openMux(t, usual(), largest)
	for n, want := range map[int]error{wire.MaxMessage: nil, wire.MaxMessage + 1: ErrMessageTooLarge} {
		if sent, err := d.m.SendMessage(d.typ("big"), 0, 0, make([]byte, n)); sent || !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%d bytes: %v, %v", n, sent, err)
		}
	}
	// EMP/1 §6.2: `req` is how many "unanswered requests [are] accepted at once": 0 is none at all.
	theirs.req = 0
	d = openMux(t, usual(), theirs)
	if err := d.m.Submit(&Outgoing{Type: d.typ("one"), Request: true}, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a request to a peer that takes none: %v", err)
	}
}

// EMP/1 §6.2: "In a later exchange `t` replaces the earlier one: a missing name is withdrawn, no `t` leaves all as it was; a name keeps its id, and its range and maxlen
// may only grow".
func TestTypesOfThePeerChange(t *testing.T) {
	d := usually(t)
	wantTypes := func(names ...string) {
		t.Helper()
		if !d.m.SharedChanged() {
			t.Error("a change that nobody is told of")
		}
		if got := slices.Sorted(maps.Keys(d.m.Shared().Mux)); !slices.Equal(got, names) || d.m.SharedChanged() {
			t.Fatalf("types %v, want %v", got, names)
		}
	}
	wantTypes("big", "one", "two")
	typ := d.typ("one")
	d.feed(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMux, ID: theirMux}}, EMP: []byte("d1:vi1ee")})
	wantTypes("big", "one", "two")
	d.offered(usual().without("one", "big"))
	wantTypes("two")
	if _, err := d.m.SendMessage(typ, 0, 0, nil); !errors.Is(err, ErrTypeNotShared) {
		t.Errorf("a withdrawn type: %v", err)
	}
	if err := d.m.Submit(&Outgoing{Type: typ}, nil); !errors.Is(err, ErrTypeNotShared) {
		t.Errorf("a withdrawn type: %v", err)
	}
	d.wantOut()
	grown := usual().without("big")
	grown.types[0].MaxVersion, grown.types[0].MaxLen = 9, 70_000
	d.offered(grown)
	wantTypes("one", "two")
	if o := d.m.Shared().Mux["one"]; o.Type != typ || o.MaxVersion != 9 || o.MaxLen != 70_000 {
		t.Errorf("grown to %+v", o)
	}
	if sent, err := d.m.SendMessage(typ, 9, 0, []byte("x")); !sent || err != nil {
		t.Error(sent, err)
	}
	d.offered(usual()) // one has shrunk: the entry does not count
	wantTypes("big", "two")
	other := usual()
	other.types[0].ID = 44 // it has another id
	d.offered(other)
	wantTypes("big", "two")
	d.offered(terms{win: 1, types: []emp.TypeOffer{{Name: "new", ID: 1}}}) // which is one's
	wantTypes()
}

// A type that is withdrawn while a message waits for it: nothing of it is written. While one is open: that is the receiver's affair (EMP/1 §7.5: "STOP code 3").
func TestTypeWithdrawnBeforeItsTurn(t *testing.T) {
	d := usually(t)
	o1, o2, o3 := d.submit("one", 0, text(40_000)), d.submit("one", 0, "second"), d.submit("two", 0, "two")
	d.offered(usual().without("one"))
	d.wantChanged(o3, o2)
	d.wantDone(o2, ErrTypeNotShared)
	d.wantDone(o3, nil)
	if got, want := brief(d.said(1<<20)), "data 0 first 16384/40000, data 0 16384, data 1 first 3/3, data 0 7232"; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
	d.wantChanged(o1)
	d.wantDone(o1, nil)
	d.hear(stop(0, emp.CodeWithdrawn)) // its last byte has gone
	d.want(MuxEvent{Kind: MuxRefused, ID: 0, Code: emp.CodeWithdrawn})
	d.wantOut()

	// The peer may offer less than a message that waits needs: EMP/1 §6.2 has ranges grow only, so the entry does not count and the type is gone.
	d = usually(t)
	d.submit("one", 0, text(40_000))
	o2 = d.submit("one", 0, text(30_000))
	less := usual()
	less.types[0].MaxLen = 1000
	d.offered(less)
	d.wantChanged(o2)
	d.wantDone(o2, ErrTypeNotShared)

	// One that comes back in time has lost what waited before, and nothing else.
	d.offered(usual())
	o2 = d.submit("one", 0, "again")
	d.output()
	d.wantDone(o2, nil)
}

// EMP/1 §6.2: "A plain frame for a type that is also in `t` is accepted as version 0; a plain … message over the type's maxlen closes with ErrMessageTooLarge".
func TestPlainFramesBesideMuxFrames(t *testing.T) {
	d := usually(t)
	e := usual().exchange(ourMux)
	e.M = append(e.M, ltep.Entry{Name: "two", ID: 10})
	use := &WeUse{Mux: usual().use()}
	use.MaxBytes[10] = 100 + 1
	if err := d.m.SendExchange(&e, use); err != nil {
		t.Fatal(err)
	}
	d.feed(app(10, text(100)))
	d.want(app(10, text(100)))
	d.hear(message(0, 2, 100, text(100)))
	d.want(whole(0, 2, text(100)))
	d.wantWindow(fourMiB, fourMiB-164) // a plain frame costs no window
	if err := d.m.SendExtended(20, []byte("plain")); err != nil {
		t.Fatal(err)
	}
	d.tell("two", "mux")
	d.output()
	d.feed(app(10, text(101)))
	d.wantRefusal(ErrMessageTooLarge)
}

// EMP/1 §7.2, frame by frame: what is legal, what is ignored, what closes.
func TestMuxFrameForms(t *testing.T) {
	flagged := func(p []byte, flags byte) []byte { p[0] |= flags; return p }
	const firstFlag, requestFlag, responseFlag = 0x10, 0x08, 0x04
	half := message(0, 1, 4, "ab")
	for _, tt := range []struct {
		name     string
		payloads [][]byte
		want     []any
	}{
		{"no head", [][]byte{{}}, []any{ErrBadFrame}},
		{"an id that ends too soon", [][]byte{{0x10, 0x80}}, []any{ErrBadFrame}},
		{"an id in long form", [][]byte{{0x10, 0x80, 0x00, 1, 0, 0}}, []any{ErrBadFrame}}, // "uvarint is unsigned LEB128 in shortest form"
		{"an id of 2^32", [][]byte{{0x40, 0x80, 0x80, 0x80, 0x80, 0x10, 0}}, []any{ErrBadFrame}},
		{"credit without bytes", [][]byte{{0x20}}, []any{ErrBadFrame}},
		{"reset without a code", [][]byte{{0x40, 0}}, []any{ErrBadFrame}},
		{"no version", [][]byte{{0x10, 0, 1}}, []any{ErrBadFrame}},
		{"empty message", [][]byte{message(0, 1, 0, "")}, []any{whole(0, 1, "")}},
		// "a fragment of 1..16,384 bytes (0 bytes only in a message of total length 0)"
		{"empty first fragment", [][]byte{message(0, 1, 1, "")}, []any{ErrBadFrame}},
		{"empty fragment", [][]byte{half, more(0, "")}, []any{first(part(0, 1, 4, "ab")), ErrBadFrame}},
		{"largest fragments", [][]byte{message(0, 1, 16384, text(16384)), message(1, 1, 16386, text(16384)), more(1, "xy")},
			[]any{whole(0, 1, text(16384)), first(part(1, 1, 16386, text(16384))), last(part(1, 1, 16386, "xy"))}},
		{"first fragment too large", [][]byte{message(0, 1, 16385, text(16385))}, []any{ErrBadFrame}},
		{"fragment too large", [][]byte{message(0, 1, 20000, "x"), more(0, text(16385))}, []any{first(part(0, 1, 20000, "x")), ErrBadFrame}},
		// "A message is complete when total length bytes have come"
		{"in three parts", [][]byte{half, more(0, "c"), more(0, "d")}, []any{first(part(0, 1, 4, "ab")), part(0, 1, 4, "c"), last(part(0, 1, 4, "d"))}},
		{"past its total at once", [][]byte{message(0, 1, 1, "ab")}, []any{ErrBadFrame}},
		{"past its total", [][]byte{half, more(0, "cde")}, []any{first(part(0, 1, 4, "ab")), ErrBadFrame}},
		// "REQUEST counts only with FIRST; both together with FIRST is ErrBadFrame"
		{"REQUEST without FIRST", [][]byte{half, flagged(more(0, "cd"), requestFlag)}, []any{first(part(0, 1, 4, "ab")), last(part(0, 1, 4, "cd"))}},
		{"REQUEST and RESPONSE with FIRST", [][]byte{flagged(request(0, 1, 0, 0, ""), responseFlag)}, []any{ErrBadFrame}},
		{"REQUEST and RESPONSE without FIRST", [][]byte{flagged(moreAnswer(0, "x"), requestFlag)}, nil},
		{"request without reply-max", [][]byte{request(0, 1, 0, 0, "")[:5]}, []any{ErrBadFrame}},
		// "DATA, RESET or STOP without RESPONSE for an id never opened … are protocol errors (ErrUnknownMessage)"
		{"fragment of an id never opened", [][]byte{more(0, "x")}, []any{ErrUnknownMessage}},
		{"reset of an id never opened", [][]byte{reset(0, 0)}, []any{ErrUnknownMessage}},
		{"stop of an id never opened", [][]byte{stop(0, 0)}, []any{ErrUnknownMessage}},
		{"reset of the next id", [][]byte{message(0, 1, 0, ""), reset(1, 0)}, []any{whole(0, 1, ""), ErrUnknownMessage}},
		// and with RESPONSE they are not: EMP/1 §7.5.
		{"answer to an id never opened", [][]byte{answer(0, 0, 4, "ab"), moreAnswer(0, "cd"), moreAnswer(7, "x"), resetAnswer(0, 0), stopAnswer(0, 0)}, nil},
		// "Trailing bytes of CREDIT, RESET and STOP and flags without meaning are ignored"
		{"flags and trailing bytes", [][]byte{flagged(append(credit(5), "junk"...), 0x1f), flagged(half, 0x03), flagged(append(reset(0, 0), "junk"...), 0x1b)},
			[]any{first(part(0, 1, 4, "ab")), dropped(0)}},
		// "4..7 – ignored"
		{"kinds 4 to 7", [][]byte{{0x80}, {0xa0, 1, 2, 3}, {0xdf}, {0xff, 0xff}}, nil},
		// "Ids of messages and requests: 0, 1, 2, … per direction in order of their FIRST frames"
		{"first id is 1", [][]byte{message(1, 1, 0, "")}, []any{ErrBadOrder}},
		{"an id again", [][]byte{message(0, 1, 0, ""), message(0, 1, 0, "")}, []any{whole(0, 1, ""), ErrBadOrder}},
		{"an id left out", [][]byte{message(0, 1, 0, ""), message(2, 1, 0, "")}, []any{whole(0, 1, ""), ErrBadOrder}},
		{"messages and requests have the same ids", [][]byte{message(0, 1, 0, ""), request(1, 1, 0, 9, ""), message(2, 2, 0, "")},
			[]any{whole(0, 1, ""), asks(whole(1, 1, ""), 9), whole(2, 2, "")}},
		// EMP/1 §7.3
		{"type 0", [][]byte{message(0, 0, 0, "")}, []any{ErrTypeNeverOffered}},
		{"a type never offered", [][]byte{message(0, 4, 0, "")}, []any{ErrTypeNeverOffered}},
		{"the largest type", [][]byte{message(0, 65535, 0, "")}, []any{ErrTypeNeverOffered}},
		{"a type that is none", [][]byte{{0x10, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0}}, []any{ErrTypeNeverOffered}},
		{"a version never offered", [][]byte{{0x10, 0, 1, 2, 0}}, []any{ErrTypeNeverOffered}},
		{"the highest version", [][]byte{{0x10, 0, 1, 1, 0}}, []any{MuxEvent{Kind: MuxData, Type: 1, Version: 1, First: true, Last: true}}},
		{"at maxlen", [][]byte{message(0, 2, 100, text(100))}, []any{whole(0, 2, text(100))}},
		{"over maxlen", [][]byte{message(0, 2, 101, "x")}, []any{ErrMessageTooLarge}},
		{"far over maxlen", [][]byte{append(emp.AppendMessageHead(nil, 0, 2, 0, math.MaxUint32), "x"...)}, []any{ErrMessageTooLarge}},
		{"a request over maxlen", [][]byte{request(0, 2, 101, 0, "x")}, []any{ErrMessageTooLarge}},
		{"another of its type is open", [][]byte{half, message(1, 1, 0, "")}, []any{first(part(0, 1, 4, "ab")), ErrBadOrder}},
		{"a request while a message of its type is open", [][]byte{half, request(1, 1, 0, 0, "")}, []any{first(part(0, 1, 4, "ab")), ErrBadOrder}},
		{"a message while a request of its type is open", [][]byte{request(0, 1, 4, 9, "ab"), message(1, 1, 0, "")}, []any{asks(first(part(0, 1, 4, "ab")), 9), ErrBadOrder}},
		{"fragment of a finished id", [][]byte{message(0, 1, 0, ""), more(0, "x")}, []any{whole(0, 1, ""), ErrUnknownMessage}},
		{"fragment after the last byte", [][]byte{half, more(0, "cd"), more(0, "e")}, []any{first(part(0, 1, 4, "ab")), last(part(0, 1, 4, "cd")), ErrUnknownMessage}},
		// "reply-max above 16 MiB counts as 16 MiB"
		{"reply-max", [][]byte{request(0, 1, 0, 16<<20, ""), request(1, 1, 0, 16<<20+1, "")}, []any{asks(whole(0, 1, ""), 16<<20), asks(whole(1, 1, ""), 16<<20)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := usually(t)
			d.hear(tt.payloads...)
			d.want(tt.want...)
			if n := len(tt.want); n > 0 {
				if _, isErr := tt.want[n-1].(error); isErr && FaultOf(d.m.Err()) != FaultPeer {
					t.Errorf("%v blames %v", d.m.Err(), FaultOf(d.m.Err()))
				}
			}
		})
	}
}

// EMP/1 §7.2: codes "others count as 4"; §7.5: status "above 6 counts as 3".
func TestUnknownCodes(t *testing.T) {
	d := usually(t)
	o := d.submit("one", 0, text(40_000))
	q := d.ask("two", 100, "?")
	d.said(1)
	d.hear(stop(0, 99), answer(1, 99, 2, "no"))
	d.want(reply(q, emp.StatusFailed, 2, "no").ended())
	d.wantDone(o, ErrRefused)
	if o.Code != emp.CodeInternal {
		t.Errorf("code %v", o.Code)
	}
}

// ended marks the only fragment of an answer.
func (e MuxEvent) ended() MuxEvent { return first(last(e)) }

// EMP/1 §8, "frames without effect (exactly: … CREDIT 0, unknown kinds and ids …)": 1,000 in 10 s. Others of no effect do not count.
func TestMuxFramesWithoutEffect(t *testing.T) {
	for _, payload := range [][]byte{credit(0), {0x80}} {
		d := usually(t)
		for range wire.MaxIdleFrames {
			d.hear(payload)
		}
		d.wantIdle()
		d.hear(payload)
		d.wantRefusal(ErrFlood)
	}
	d := usually(t)
	d.hear(message(0, 1, 0, ""))
	d.events = nil
	for range wire.MaxIdleFrames + 1 {
		d.hear(reset(0, 0), answer(3, 0, 1, "x"), resetAnswer(3, 0), stopAnswer(0, 0))
	}
	d.wantIdle()
	d.wantOut()
}

// EMP/1 §7.3: "Opening a message or request costs `total length + 64` bytes of the receiver's window, at once; its fragments cost nothing more. … The whole cost comes
// back exactly once", and "Credit owed goes out with the next write": all of it in one frame (§7.5, "merged").
func TestWindowOfTheReceiver(t *testing.T) {
	tm := usual()
	tm.win = 70_000
	d := openMux(t, tm, usual())
	d.hear(message(0, 1, 1000, "x"))
	d.wantWindow(fourMiB, 70_000-1064)
	d.hear(more(0, text(998)))
	d.wantWindow(fourMiB, 70_000-1064)
	d.hear(more(0, "z"))
	d.hear(request(1, 2, 100, 10, text(100)), message(2, 2, 0, ""))
	d.wantWindow(fourMiB, 70_000-1064-164-64)
	d.wantOut() // nothing comes back before the application has taken it
	if d.m.HasOutput() {
		t.Error("there is something to write")
	}
	d.credit(1064)
	d.credit(164)
	d.wantWindow(fourMiB, 70_000-1064-164-64) // the peer may not spend it before it is told
	if !d.m.HasOutput() || !d.m.HasUrgentOutput() || !d.m.HasApp() {
		t.Error("credit is owed, and there is nothing to write")
	}
	d.wantSaid(credit(1064 + 164))
	d.wantWindow(fourMiB, 70_000-64)
	d.wantOut()
	d.credit(64)
	if got := brief(d.said(0)); got != "credit 64" { // it waits for no turn of messages
		t.Errorf("writes %s", got)
	}
	d.wantWindow(fourMiB, 70_000)

	// "A message opened beyond the window (ErrWindowExceeded)": to the byte.
	for n, want := range map[int]error{70_000 - 4464 - 64: nil, 70_000 - 4464 - 63: ErrWindowExceeded} {
		d := openMux(t, tm, usual())
		d.hear(message(0, 3, 4400, "x"), message(1, 1, n, "y"))
		if err := d.m.Err(); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
	// A message that costs all of it, again and again.
	tm.win = 65_600
	d = openMux(t, tm, usual())
	for id := range uint32(100) {
		d.hear(message(id, 1, 65_536, text(16384)), more(id, text(16384)), more(id, text(16384)), more(id, text(16384)))
		d.wantWindow(fourMiB, 0)
		d.credit(65_600)
		d.wantSaid(credit(65_600))
	}
	if len(d.events) != 400 || d.m.Err() != nil {
		t.Errorf("%d events, %v", len(d.events), d.m.Err())
	}
}

// What goes at once: no more than a fragment, for which there is window, to the byte.
func TestSendMessageAtOnce(t *testing.T) {
	for _, tt := range []struct {
		n    int
		left int64
		want bool
	}{{16_384, fourMiB, true}, {16_385, fourMiB, false}, {16_384, 16_448, true}, {16_384, 16_447, false}, {0, 64, true}, {0, 63, false}} {
		d := usually(t)
		d.m.mux.spend = tt.left
		if sent, err := d.m.SendMessage(d.typ("one"), 0, 0, []byte(text(tt.n))); sent != tt.want || err != nil {
			t.Errorf("%+v: %v, %v", tt, sent, err)
		}
		if d.m.HasOutput() != tt.want {
			t.Errorf("%+v: output", tt)
		}
	}
	// Not held up by what waits behind one that is less urgent, since that may be overtaken.
	theirs := usual()
	theirs.win = 65_600
	theirs.types = append(theirs.types, emp.TypeOffer{Name: "free", ID: 4})
	d := openMux(t, usual(), theirs)
	d.submit("one", 0, text(65_000))
	d.submit("big", 0, text(60_000))
	d.submit("big", 9, "urgent")
	if sent, err := d.m.SendMessage(d.typ("free"), 0, 5, nil); !sent || err != nil {
		t.Errorf("an urgent one is held up: %v, %v", sent, err)
	}
	if sent, err := d.m.SendMessage(d.typ("free"), 0, 0, nil); sent || err != nil {
		t.Errorf("it overtakes: %v, %v", sent, err)
	}
	// Not before a request that waits for window alone.
	d = usually(t)
	d.m.mux.spend = 100
	d.ask("one", 9, text(200))
	if sent, err := d.m.SendMessage(d.typ("two"), 0, 0, nil); sent || err != nil {
		t.Errorf("it overtakes: %v, %v", sent, err)
	}
}

// EMP/1 §7.3: "A sender opens it only if the window covers the cost; the ones waiting open in submission order within a local priority, so a large one does not starve".
func TestWindowOfTheSender(t *testing.T) {
	theirs := usual()
	theirs.win = 65_600
	theirs.types = append(theirs.types, emp.TypeOffer{Name: "free", ID: 4})
	d := openMux(t, usual(), theirs)
	full := d.submit("one", 0, text(65_536))
	d.wantWindow(0, fourMiB)
	if got, want := brief(d.said(1<<20)), "data 0 first 16384/65536, data 0 16384, data 0 16384, data 0 16384"; got != want {
		t.Fatalf("writes %s, want %s", got, want)
	}
	d.wantChanged(full)
	d.wantDone(full, nil)
	// Now nothing goes, not even an empty message.
	if sent, err := d.m.SendMessage(d.typ("two"), 0, 0, nil); sent || err != nil {
		t.Fatal(sent, err)
	}
	large, small := d.submit("big", 0, text(10_000)), d.submit("two", 0, "small")
	other, urgent := d.submit("one", 0, "other"), d.submit("free", 1, "urgent")
	d.hear(credit(63 + 6))
	d.wantOut()
	d.wantWindow(69, fourMiB)
	d.hear(credit(1)) // urgent goes first, though it came last
	d.wantSaid(message(1, 4, 6, "urgent"))
	d.hear(credit(10_063)) // enough for all but the large one, which waits first
	d.wantOut()
	if sent, _ := d.m.SendMessage(d.typ("free"), 0, 0, nil); sent {
		t.Error("a small one overtakes")
	}
	if sent, _ := d.m.SendMessage(d.typ("free"), 0, 1, []byte("go")); !sent { // what is urgent may
		t.Error("an urgent one waits behind those that are not")
	}
	if sent, _ := d.m.SendMessage(d.typ("two"), 0, 1, nil); sent { // but within a type there is one order
		t.Error("an urgent one overtakes one of its type")
	}
	d.wantSaid(message(2, 4, 2, "go"))
	d.hear(credit(66 + 1))
	d.wantSaid(message(3, 3, 10_000, text(10_000)))
	d.hear(credit(69 + 68))
	d.wantSaid(message(4, 2, 5, "small"))
	d.wantWindow(68, fourMiB)
	d.hear(credit(1))
	d.wantSaid(message(5, 1, 5, "other"))
	d.wantChanged(urgent, large, small, other)
	d.wantWindow(0, fourMiB)
}

// "[Waiting messages] open in submission order within a local priority" (EMP/1 §7.3).
func TestPriorities(t *testing.T) {
	theirs := usual()
	theirs.win = 65_600
	for i := range 10 {
		theirs.types = append(theirs.types, emp.TypeOffer{Name: fmt.Sprint("type ", i), ID: uint16(10 + i)})
	}
	for _, tt := range []struct {
		types      string // of the messages 0, 1, …
		priorities []int8
		want       string // the order they go in
	}{
		{"01234567", []int8{0, 5, -3, 5, 0, -128, 127, -3}, "61304275"},
		{"00000000", []int8{0, 5, -3, 5, 0, -128, 127, -3}, "01234567"}, // §7.4: "in the order of sending"
		{"00123", []int8{0, 9, 9, 5, -1}, "23014"},                      // one that is urgent and may not overtake holds up no other that is
		{"0102", []int8{0, 0, 9, 0}, "0213"},                            // nor is it held up by more than it must be
	} {
		d := openMux(t, usual(), theirs)
		d.submit("one", 0, text(65_536))
		d.said(1 << 20)
		for i, p := range tt.priorities {
			d.submit("type "+tt.types[i:i+1], p, fmt.Sprint(i))
		}
		d.hear(credit(len(tt.types) * 65))
		var got strings.Builder
		for _, p := range d.said(1 << 20) {
			got.WriteString(string(p[len(p)-1:]))
		}
		if got.String() != tt.want {
			t.Errorf("types %s with priorities %v go as %s, want %s", tt.types, tt.priorities, got.String(), tt.want)
		}
	}
}

// EMP/1 §7.4: "Messages of one type (requests included) arrive whole and in the order of sending: no FIRST of a type before the previous message of that type and
// direction has ended. Different types … may overtake". §7.3: "one that waits for its own type (7.4) holds up no other type".
func TestOneOfATypeAtATime(t *testing.T) {
	d := usually(t)
	a, b, c := d.submit("big", 0, text(50_000)), d.submit("big", 0, text(20_000)), d.ask("big", 0, "three")
	if sent, err := d.m.SendMessage(d.typ("big"), 0, 9, []byte("four")); sent || err != nil { // however urgent it is
		t.Fatal(sent, err)
	}
	d.tell("one", "not held up")
	d.tell("two", "nor this")
	if got, want := brief(d.said(1<<20)), "data 0 first 16384/50000, data 0 16384, data 1 first 11/11, data 2 first 8/8, data 0 16384, data 0 848, "+
		"data 3 first 16384/20000, data 3 3616, data of request 4 first 5/5"; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
	d.wantChanged(a, b)
	if c.Done() {
		t.Error("the request is done without an answer")
	}
	d.tell("big", "four")
	d.wantSaid(message(5, 3, 4, "four"))
}

// EMP/1 §7.3: "At most `req` requests are unanswered at once". One that waits for an answer to others holds up its own type, whose order it is in, and no other.
func TestRequestsWaitForAnswers(t *testing.T) {
	d := usually(t) // two at once
	var calls []*Outgoing
	for i := range 4 {
		calls = append(calls, d.ask("one", 100, fmt.Sprint("ask ", i)))
	}
	after := d.submit("one", 0, "after")
	if sent, _ := d.m.SendMessage(d.typ("one"), 0, 0, []byte("no")); sent {
		t.Error("a message overtakes requests of its type")
	}
	beside := d.submit("two", 0, "beside")
	d.tell("big", "at once")
	d.wantSaid(request(0, 1, 5, 100, "ask 0"), request(1, 1, 5, 100, "ask 1"), message(2, 2, 6, "beside"), message(3, 3, 7, "at once"))
	d.wantChanged(beside)
	// "a request counts … until the last byte of its RESPONSE"
	d.hear(answer(1, 0, 2, "a"))
	d.want(first(reply(calls[1], 0, 2, "a")))
	d.wantOut()
	d.hear(moreAnswer(1, "b"))
	d.want(last(reply(calls[1], 0, 2, "b")))
	d.wantDone(calls[1], nil)
	d.wantSaid(request(4, 1, 5, 100, "ask 2"))
	// "or RESET with RESPONSE, or STOP of the request"
	d.hear(resetAnswer(0, emp.CodeInternal))
	d.want(ended(calls[0], 0, false, emp.CodeInternal))
	d.wantSaid(request(5, 1, 5, 100, "ask 3"), message(6, 1, 5, "after"))
	d.wantChanged(after)
	d.hear(stop(4, emp.CodeRefused))
	d.want(ended(calls[2], 0, true, emp.CodeRefused))
	d.wantOut()
	d.ask("one", 0, "ask 4")
	d.wantSaid(request(7, 1, 5, 0, "ask 4"))
	d.ask("two", 0, "ask 5")
	d.wantOut()
	// "One above `req` is answered status 6 (busy)": if the peer thinks so, that is an answer.
	d.hear(answer(5, emp.StatusBusy, 0, ""))
	d.want(reply(calls[3], emp.StatusBusy, 0, "").ended())
	d.wantSaid(request(8, 2, 5, 0, "ask 5"))
	// What no longer counts is known no more: "A RESPONSE to an unknown or cancelled request is discarded", "RESET and STOP for finished ids are ignored".
	for id := range uint32(5) {
		d.hear(answer(id, 0, 3, "x"), moreAnswer(id, "yz"), moreAnswer(id, "and more"), resetAnswer(id, 0), stopAnswer(id, 0))
	}
	d.wantIdle()
	d.wantOut()
}

// "one that is RESET before its last byte counts until that RESET, which is not confirmed" (EMP/1 §7.3): to us as the one who asks.
func TestAnUnfinishedRequestOfOursMakesRoom(t *testing.T) {
	theirs := usual()
	theirs.req = 1
	d := openMux(t, usual(), theirs)
	o := d.ask("one", 10, text(40_000))
	next := d.ask("two", 10, "next")
	d.said(1)
	d.abandon(o)
	d.wantSaid(reset(0, 0), request(1, 2, 4, 10, "next"))
	d.hear(answer(0, 0, 1, "x"), answer(1, 0, 1, "y")) // an answer to the first crosses
	d.want(reply(next, 0, 1, "y").ended())
}

// EMP/1 §7.4: "open messages take turns, one fragment each"; small ones, in the order of their ids, take theirs with as many as make up a fragment.
func TestMessagesTakeTurns(t *testing.T) {
	theirs := usual()
	theirs.types = append(theirs.types, emp.TypeOffer{Name: "huge", ID: 4, MaxLen: 1 << 20})
	d := openMux(t, usual(), theirs)
	d.submit("one", 0, text(3*16384))
	d.submit("huge", 0, text(3*16384-1))
	d.hear(request(0, 1, 0, 1<<20, ""))
	d.respond(0, 0, text(2*16384))
	if got, want := brief(append(d.said(1), d.said(1)...)), "data 0 first 16384/49152, data 0 16384"; got != want {
		t.Fatalf("writes %s, want %s", got, want)
	}
	for i := range 100 {
		d.tell("two", fmt.Sprint("small ", i))
	}
	d.submit("big", 0, text(16384+5))
	var small strings.Builder
	for i := range 100 {
		fmt.Fprintf(&small, "data %d first %d/%[2]d, ", 2+i, len(fmt.Sprint("small ", i)))
	}
	got := brief(d.said(1 << 30))
	if want := "data of answer 0 first 16384/32768, data 1 first 16384/49151, data 0 16384, data 1 16384, data of answer 0 16384, " + small.String() +
		"data 1 16383, data 102 first 16384/16389, data 102 5"; got != want {
		t.Errorf("writes %s\nwant %s", got, want)
	}
}

// One that is given up takes nobody's turn with it.
func TestTurnsWithoutOneThatIsGivenUp(t *testing.T) {
	d := usually(t)
	a, b, c := d.submit("one", 0, text(60_000)), d.submit("big", 0, text(60_000)), new(Outgoing)
	d.hear(request(0, 1, 0, 1<<20, ""))
	if _, err := d.m.Respond(c, 0, 0, []byte(text(60_000))); err != nil {
		t.Fatal(err)
	}
	for range 4 { // until all have begun
		d.said(1)
	}
	if got, want := brief(d.said(1)), "data 0 16384"; got != want {
		t.Fatalf("writes %s, want %s", got, want)
	}
	d.abandon(b) // whose turn it is
	d.said(0)
	if got, want := brief(d.said(1)), "data of answer 0 16384"; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
	d.abandon(a)
	d.said(0)
	if got, want := brief(d.said(1<<20)), "data of answer 0 16384, data of answer 0 10848"; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
}

// Whatever the limits of AppendOutput, what it writes keeps to them (but for a first frame that is larger), leaves out no turn, and comes to an end.
func TestInterleavingBounds(t *testing.T) {
	story := func() *dialogue {
		d := usually(t)
		d.submit("one", 0, text(50_000))
		d.submit("big", 0, text(40_000))
		d.hear(request(0, 1, 0, 1<<20, ""))
		d.respond(0, 0, text(40_000))
		for i := range 30 {
			d.tell("two", strings.Repeat("x", i))
		}
		return d
	}
	all := story().said(1 << 30)
	bytesOf := func(payloads [][]byte) (n int) {
		for _, p := range payloads {
			n += len(p) + muxHead
		}
		return n
	}
	for _, limit := range []int{1, 30, 100, 1000, 10_000, 16_384, 16_400, muxUnit, muxUnit + 30, 2 * muxUnit, 3*muxUnit - 1, 100_000, 1 << 20} {
		d, behind := story(), story()
		var got [][]byte
		for calls := 0; d.m.HasApp(); calls++ {
			next := d.m.NextApp()
			p := d.said(limit)
			// Whatever stands before it in the buffer is not counted.
			if n := len(behind.m.AppendOutput(d.now, make([]byte, 5000), limit)) - 5000; n != bytesOf(p) {
				t.Fatalf("limit %d: writes %d bytes, and behind others %d", limit, bytesOf(p), n)
			}
			if n := bytesOf(p); n == 0 || n > max(limit, next) || len(p) > 1 && n > limit {
				t.Fatalf("limit %d, next %d: writes %s", limit, next, brief(p))
			}
			if got = append(got, p...); calls > 1000 {
				t.Fatal("no end")
			}
		}
		if d.m.NextApp() != 0 || bytesOf(got) != bytesOf(all) || len(got) != len(all) {
			t.Errorf("limit %d: %d frames of %d bytes, want %d of %d", limit, len(got), bytesOf(got), len(all), bytesOf(all))
		}
		// No message waits for more than one fragment of each of the others.
		since := map[uint32]int{}
		for i, p := range got {
			var f emp.Frame
			if err := f.Parse(p); err != nil {
				t.Fatal(err)
			}
			id := f.ID
			if f.Response {
				id += 1000
			}
			if last, ok := since[id]; ok && i-last > 3+30 { // two others, and small ones that make up a fragment
				t.Errorf("limit %d: %s comes %d frames after its last fragment", limit, brief(got[i:i+1]), i-last)
			}
			since[id] = i
		}
	}
	if d := story(); d.m.AppendOutput(d.now, nil, 0) != nil {
		t.Error("limit 0 writes messages")
	}
}

// EMP/1 §7.4: "The sender interleaves: control first". §7.5: control is "merged where possible".
func TestControlGoesFirst(t *testing.T) {
	d := usually(t)
	d.tell("two", "x")
	d.submit("one", 0, text(20_000))
	d.hear(message(0, 1, 10, "x"), message(1, 2, 0, ""))
	d.refuse(0, 10, emp.CodeBusy)
	d.credit(64)
	d.hear(request(2, 2, 0, 0, ""))
	d.respond(2, emp.StatusRefused, "")
	d.credit(64)
	d.send(wire.Have{Index: 1})
	d.wantOut(append([]any{wire.Extended{ID: theirMux, Payload: stop(0, emp.CodeBusy)}, wire.Extended{ID: theirMux, Payload: answer(2, emp.StatusRefused, 0, "")}, wire.Have{Index: 1}},
		muxFrames(theirMux, [][]byte{credit(74 + 64 + 64), message(0, 2, 1, "x"), message(1, 1, 20_000, text(20_000)[:16384]), more(1, text(20_000)[16384:])})...)...)
}

// The room for whole frames is bounded; what does not fit waits, and goes in once something has gone.
func TestRoomForMessages(t *testing.T) {
	d := usually(t)
	d.m.cfg.SendQueueBytes = 1000
	sent := 0
	for {
		ok, err := d.m.SendMessage(d.typ("two"), 0, 0, []byte(text(90)))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		sent++
	}
	if q := d.m.AppQueued(); sent < 8 || q > 1000+muxOverhead {
		t.Errorf("%d messages, %d bytes", sent, q)
	}
	d.m.cfg.SendQueueBytes = d.m.AppQueued() + 20 // to the byte
	if ok, err := d.m.SendMessage(d.typ("two"), 0, 0, []byte(text(21))); ok || err != nil {
		t.Errorf("more than there is room for: %v, %v", ok, err)
	}
	d.tell("two", text(20))
	sent++
	d.m.cfg.SendQueueBytes = 1000
	a, b, c := d.submit("two", 0, "a"), d.submit("one", 0, text(5000)), d.submit("two", 0, "c")
	d.m.AppendOutput(d.now, nil, 300)
	d.wantChanged(a)
	d.wantDone(a, nil)
	d.output()
	d.wantChanged(b) // larger than the room, when there is nothing else
	d.wantSaid(message(uint32(sent)+1, 1, 5000, text(5000)))
	d.wantSaid(message(uint32(sent)+2, 2, 1, "c"))
	d.wantChanged(c)
}

// A message whose data come bit by bit: it is hungry whenever the machine has taken all, and holds up no other type meanwhile.
func TestHungryMessages(t *testing.T) {
	d := usually(t)
	o := &Outgoing{Type: d.typ("one"), Total: 40_000}
	all := []byte(text(40_000))
	if err := d.m.Submit(o, all[:10]); err != nil {
		t.Fatal(err)
	}
	d.wantChanged(o)
	if !o.Hungry() || o.Done() {
		t.Errorf("hungry: %v, done: %v", o.Hungry(), o.Done())
	}
	d.tell("two", "x")
	d.m.Supply(o, all[10:20_010])
	d.m.Supply(o, all) // it has enough: nothing happens
	if o.Hungry() {
		t.Error("hungry with 20,000 bytes")
	}
	d.wantSaid(message(0, 1, 40_000, string(all[:10])), message(1, 2, 1, "x"), more(0, string(all[10:16_394])), more(0, string(all[16_394:20_010])))
	d.wantChanged(o)
	if d.m.HasOutput() || d.m.NextApp() != 0 {
		t.Error("there is something to write without data")
	}
	d.m.Supply(o, append(all[20_010:], "too much"...))
	d.wantSaid(more(0, string(all[20_010:36_394])), more(0, string(all[36_394:])))
	d.wantChanged(o)
	d.wantDone(o, nil)
	d.m.Supply(o, all)
	d.wantOut()

	// An empty one needs none, and less than it has is not submitted.
	empty := d.submit("one", 0, "")
	d.wantSaid(message(2, 1, 0, ""))
	d.wantDone(empty, nil)
	for name, data := range map[string]string{"nothing": "", "too much": "abc"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s is taken", name)
				}
			}()
			d.m.Submit(&Outgoing{Type: d.typ("one"), Total: 2}, []byte(data))
		}()
	}
}

// A request of the peer and its answer (EMP/1 §7.2, "Opening fields"). §7.3: "A RESPONSE costs no window".
func TestAnswers(t *testing.T) {
	theirs := usual()
	theirs.win = 65_600
	d := openMux(t, usual(), theirs)
	d.submit("one", 0, text(65_536))
	d.said(1 << 20)
	d.m.MuxChanged()
	d.wantWindow(0, fourMiB) // "which never waits for window"
	d.hear(request(0, 1, 3, 50_000, "ask"), request(1, 1, 0, 0, ""))
	d.want(asks(whole(0, 1, "ask"), 50_000), asks(whole(1, 1, ""), 0))
	o := d.respond(0, emp.StatusAnswered, text(50_000))
	if o.Done() || d.m.UnsentResponses() != 50_000 {
		t.Errorf("done: %v, %d bytes unsent", o.Done(), d.m.UnsentResponses())
	}
	d.respond(1, emp.StatusAnswered, "") // one without payload is control
	d.wantChanged()
	d.wantSaid(answer(1, emp.StatusAnswered, 0, ""), answer(0, emp.StatusAnswered, 50_000, text(50_000)[:16384]), moreAnswer(0, text(50_000)[16384:32768]),
		moreAnswer(0, text(50_000)[32768:49152]), moreAnswer(0, text(50_000)[49152:]))
	d.wantChanged(o)
	d.wantDone(o, nil)
	if d.m.UnsentResponses() != 0 {
		t.Errorf("%d bytes unsent", d.m.UnsentResponses())
	}
	d.wantWindow(0, fourMiB-67-64) // an answer gives back nothing either: that is the application's call
	// The answer to one that was answered goes nowhere.
	for _, id := range []uint32{0, 1, 2} {
		if done, err := d.m.Respond(new(Outgoing), id, 0, []byte("again")); !done || err != nil {
			t.Errorf("answered again: %v, %v", done, err)
		}
	}
	d.wantOut()
}

// EMP/1 §7.3: "A longer answer becomes status 5 without payload (a failure text is cut to reply-max instead)", in front of a character.
func TestTooLongAnswersOfOurs(t *testing.T) {
	d := usually(t)
	for i, tt := range []struct {
		max     int
		status  emp.Status
		payload string
		want    []byte
	}{
		{5, emp.StatusAnswered, "12345", answer(0, emp.StatusAnswered, 5, "12345")},
		{5, emp.StatusAnswered, "123456", answer(0, emp.StatusTooLarge, 0, "")},
		{0, emp.StatusAnswered, "1", answer(0, emp.StatusTooLarge, 0, "")},
		{5, emp.StatusRefused, "123456", answer(0, emp.StatusTooLarge, 0, "")},
		{5, emp.StatusFailed, "12345", answer(0, emp.StatusFailed, 5, "12345")},
		{5, emp.StatusFailed, "123456", answer(0, emp.StatusFailed, 5, "12345")},
		{0, emp.StatusFailed, "123456", answer(0, emp.StatusFailed, 0, "")},
		{5, emp.StatusFailed, "1234€", answer(0, emp.StatusFailed, 4, "1234")}, // € has three bytes
		{6, emp.StatusFailed, "1234€", answer(0, emp.StatusFailed, 4, "1234")},
		{7, emp.StatusFailed, "1234€", answer(0, emp.StatusFailed, 7, "1234€")},
		{8, emp.StatusFailed, "1234€5678", answer(0, emp.StatusFailed, 8, "1234€5")},
		{3, emp.StatusFailed, "€€", answer(0, emp.StatusFailed, 3, "€")},
		{2, emp.StatusFailed, "€€", answer(0, emp.StatusFailed, 0, "")},
		{3, emp.StatusFailed, "\x80\x80\x80\x80", answer(0, emp.StatusFailed, 0, "")}, // no text at all
	} {
		id := uint32(i)
		d.hear(request(id, 1, 0, tt.max, ""))
		d.respond(id, tt.status, tt.payload)
		want := slices.Clone(tt.want)
		want[1] = byte(id)
		d.wantSaid(want)
	}
}

// EMP/1 §7.3: "a RESPONSE that announces more gets STOP 2, and the call ends with status 5", and "the requester keeps `reply-max` bytes for it until it is complete".
func TestTooLongAnswersOfThePeer(t *testing.T) {
	d := usually(t) // two requests at once
	o := d.ask("one", 10, "?")
	d.ask("one", 10, "?")
	third := d.ask("one", 10, "?")
	d.said(1 << 20)
	d.hear(answer(0, 0, 11, text(5)))
	d.want(ended(o, emp.StatusTooLarge, false, 0))
	d.wantSaid(stopAnswer(0, emp.CodeTooLarge))
	d.hear(moreAnswer(0, text(5))) // on its way
	d.abandon(o)                   // it is over: nothing more is to be said
	d.wantIdle()
	d.wantOut()
	d.hear(resetAnswer(0, emp.CodeCancelled)) // only now it counts no more
	d.wantIdle()
	d.wantSaid(request(2, 1, 1, 10, "?"))

	// One that comes at once needs no STOP, and one whose end crosses ours is over by that.
	d.hear(answer(2, 0, 11, text(11)))
	d.want(ended(third, emp.StatusTooLarge, false, 0))
	d.wantOut()
	o = d.ask("two", 0, "?")
	d.wantSaid(request(3, 2, 1, 0, "?"))
	d.hear(answer(3, 0, 2, "x"), moreAnswer(3, "y"))
	d.want(ended(o, emp.StatusTooLarge, false, 0))
	d.wantSaid(stopAnswer(3, emp.CodeTooLarge))
	d.hear(resetAnswer(3, 0))
	d.wantIdle()
	d.ask("two", 0, "!")
	d.wantSaid(request(4, 2, 1, 0, "!"))

	// At reply-max, to the byte, and "reply-max above 16 MiB counts as 16 MiB".
	for _, tt := range []struct {
		max    uint32
		counts int
	}{{100, 100}, {1<<32 - 1, 16 << 20}} {
		d = usually(t)
		o = d.ask("one", tt.max, "?")
		d.wantSaid(request(0, 1, 1, tt.counts, "?"))
		d.hear(answer(0, 0, tt.counts, "x"))
		d.want(first(reply(o, 0, tt.counts, "x")))
		d = usually(t)
		o = d.ask("one", tt.max, "?")
		d.hear(answer(0, 0, tt.counts+1, "x"))
		d.want(ended(o, emp.StatusTooLarge, false, 0))
	}
}

// What else is wrong with an answer: EMP/1 §7.2, "DATA with RESPONSE but without FIRST for a waiting request", and the total length, which holds for all messages.
func TestBadAnswers(t *testing.T) {
	for _, tt := range []struct {
		name     string
		payloads [][]byte
		want     error
	}{
		{"not begun", [][]byte{moreAnswer(0, "x")}, ErrUnknownMessage},
		{"past its total", [][]byte{answer(0, 0, 2, "x"), moreAnswer(0, "yz")}, ErrBadFrame},
		{"a second beginning", [][]byte{answer(0, 0, 2, "x"), answer(0, 0, 2, "x")}, ErrBadOrder},
		{"empty fragment", [][]byte{answer(0, 0, 2, "x"), moreAnswer(0, "")}, ErrBadFrame},
		{"empty beginning", [][]byte{answer(0, 0, 2, "")}, ErrBadFrame},
		{"beginning past its total", [][]byte{answer(0, 0, 2, "xyz")}, ErrBadFrame},
	} {
		d := usually(t)
		d.ask("one", 100, "?")
		d.output()
		d.hear(tt.payloads...)
		if !errors.Is(d.m.Err(), tt.want) || FaultOf(d.m.Err()) != FaultPeer {
			t.Errorf("%s: %v, want %v", tt.name, d.m.Err(), tt.want)
		}
	}
}

// EMP/1 §7.3: "At most `req` requests are unanswered at once; a request counts, on both sides, until the last byte of its RESPONSE, or RESET with RESPONSE, or STOP of
// the request". "One above `req` is answered status 6 (busy) and credited …, never a close".
func TestRequestsAboveReq(t *testing.T) {
	d := usually(t) // two at once
	id := uint32(0)
	accepted := func(want bool) {
		t.Helper()
		d.events = nil
		d.hear(request(id, 1, 2, 100, "ab"))
		if want {
			d.want(asks(whole(id, 1, "ab"), 100))
		} else {
			d.wantIdle()
			if got, want := brief(d.said(0)), fmt.Sprintf("data of answer %d first 0/0, credit 66", id); got != want {
				t.Fatalf("writes %s, want %s", got, want)
			}
		}
		id++
	}
	accepted(true)
	accepted(true)
	accepted(false)
	o := d.respond(0, 0, text(100))
	accepted(false) // its last byte has not gone
	d.output()
	d.wantDone(o, nil)
	accepted(true)
	accepted(false)
	d.respond(1, emp.StatusRefused, "") // a status alone is all of a RESPONSE
	d.wantSaid(answer(1, emp.StatusRefused, 0, ""))
	accepted(true)
	accepted(false)
	o = d.respond(4, 0, text(100))
	d.abandon(o)
	d.wantSaid(resetAnswer(4, emp.CodeCancelled))
	accepted(true)
	accepted(false)
	d.refuse(8, 2, emp.CodeBusy)
	d.wantSaid(stop(8, emp.CodeBusy), credit(66))
	accepted(true)
	accepted(false)

	// One of several fragments is read past, and holds its type until its end.
	d = usually(t)
	d.hear(request(0, 1, 0, 0, ""), request(1, 1, 0, 0, ""), request(2, 1, 40_000, 0, "x"))
	d.want(asks(whole(0, 1, ""), 0), asks(whole(1, 1, ""), 0))
	d.wantSaid(answer(2, emp.StatusBusy, 0, ""), credit(40_064))
	d.wantWindow(fourMiB, fourMiB-128)
	d.hear(more(2, text(16384)), more(2, text(16384)), more(2, text(40_000-2*16384-1)), message(3, 1, 0, ""))
	d.want(whole(3, 1, ""))
	d.wantSaid()
	d.hear(request(4, 1, 40_000, 0, "x"))
	d.output()
	d.hear(message(5, 1, 0, ""))
	d.wantRefusal(ErrBadOrder)
	// It may be abandoned, too: "the cost is credited at STOP, or at RESET if there was no STOP", and so once.
	d = usually(t)
	d.hear(request(0, 1, 0, 0, ""), request(1, 1, 0, 0, ""), request(2, 1, 40_000, 0, "x"))
	d.events = nil
	d.output()
	d.hear(reset(2, 0), message(3, 1, 0, ""))
	d.want(whole(3, 1, ""))
	d.wantOut()
	// Nobody may ask where `req` is 0.
	tm := usual()
	tm.req = 0
	d = openMux(t, tm, usual())
	d.hear(request(0, 1, 0, 0, ""))
	d.wantSaid(answer(0, emp.StatusBusy, 0, ""), credit(64))
}

// EMP/1 §7.3: "one that is RESET before its last byte counts until that RESET, which is not confirmed": to us as the one who is asked.
func TestAnUnfinishedRequestOfThePeerMakesRoom(t *testing.T) {
	tm := usual()
	tm.req = 1
	d := openMux(t, tm, usual())
	d.hear(request(0, 1, 10, 100, "x"), request(1, 2, 0, 0, ""))
	d.want(asks(first(part(0, 1, 10, "x")), 100))
	d.wantSaid(answer(1, emp.StatusBusy, 0, ""), credit(64))
	d.hear(reset(0, emp.CodeCancelled))
	d.want(dropped(0))
	d.wantSaid(credit(74))
	if done, err := d.m.Respond(new(Outgoing), 0, 0, []byte("too late")); !done || err != nil {
		t.Error(done, err)
	}
	d.wantOut()
	d.hear(request(2, 1, 0, 0, ""))
	d.want(asks(whole(2, 1, ""), 0))

	// It is so if its answer has begun before its last byte, which goes on: the peer may have left out the rest for that.
	d = openMux(t, tm, usual())
	d.hear(request(0, 1, 10, 40_000, "x"))
	o := d.respond(0, 0, text(40_000))
	if got := brief(d.said(1)); got != "credit 74, data of answer 0 first 16384/40000" {
		t.Fatalf("writes %s", got)
	}
	d.hear(reset(0, emp.CodeCancelled), request(1, 1, 0, 10, ""), request(2, 1, 0, 0, ""))
	d.want(asks(first(part(0, 1, 10, "x")), 40_000), asks(whole(1, 1, ""), 10))
	if got, want := brief(d.said(1<<20)), "data of answer 2 first 0/0, credit 64, data of answer 0 16384, data of answer 0 7232"; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
	d.wantDone(o, nil)
	d.hear(request(3, 1, 0, 0, ""))
	d.wantSaid(answer(3, emp.StatusBusy, 0, ""), credit(64)) // request 1 is still there
	d.respond(1, 0, "")
	d.hear(request(4, 1, 0, 0, ""))
	d.want(asks(whole(4, 1, ""), 0))
	// And so if it has not: then nobody has begun to wait for it.
	d = openMux(t, tm, usual())
	d.hear(request(0, 1, 10, 40_000, "x"))
	o = d.respond(0, 0, text(40_000))
	d.hear(reset(0, emp.CodeCancelled), request(1, 1, 0, 10, ""))
	d.want(asks(first(part(0, 1, 10, "x")), 40_000), asks(whole(1, 1, ""), 10))
	d.wantSaid(credit(74))
	d.wantChanged(o)
	d.wantDone(o, ErrRefused)
}

// EMP/1 §7.5: "A type that was offered and later withdrawn is answered with STOP code 3 (requests: status 1)", and its cost comes back.
func TestWithdrawnTypesOfOurs(t *testing.T) {
	d := usually(t)
	d.hear(message(0, 1, 20_000, "x"), request(1, 2, 50, 9, "x"))
	d.want(first(part(0, 1, 20_000, "x")), asks(first(part(1, 2, 50, "x")), 9))
	d.offer(usual().without("one", "two"))
	d.output()
	// What was open before is told as ever.
	d.hear(more(0, text(16384)), more(0, text(3615)), more(1, text(49)))
	d.want(part(0, 1, 20_000, text(16384)), last(part(0, 1, 20_000, text(3615))), asks(last(part(1, 2, 50, text(49))), 0))
	d.hear(message(2, 1, 3, "x"), request(3, 2, 4, 9, "x"), message(4, 3, 1, "y"))
	d.want(whole(4, 3, "y"))
	d.wantSaid(stop(2, emp.CodeWithdrawn), answer(3, emp.StatusNoHandler, 0, ""), credit(67+68))
	d.hear(more(2, "yz"), more(3, "yz"))
	d.wantIdle()
	// "After STOP the receiver discards fragments until the last byte or RESET and only then forgets the id"
	d.hear(more(3, "!"), reset(3, 0), reset(2, 0), message(5, 1, 1, "x"), message(6, 2, 0, ""))
	d.wantIdle()
	d.wantSaid(stop(5, emp.CodeWithdrawn), stop(6, emp.CodeWithdrawn), credit(65+64))
	d.wantWindow(fourMiB, fourMiB-20_064-114-65)
	// Its limits hold.
	for _, tt := range []struct {
		payload []byte
		want    error
	}{
		{message(7, 2, 101, "x"), ErrMessageTooLarge}, {[]byte{0x10, 7, 2, 1, 0}, ErrTypeNeverOffered}, {message(7, 1, 1<<20, "x"), ErrMessageTooLarge},
	} {
		d := usually(t)
		d.offer(usual().without("one", "two"))
		for id := range uint32(7) {
			d.hear(message(id, 3, 0, ""))
		}
		d.hear(tt.payload)
		if !errors.Is(d.m.Err(), tt.want) {
			t.Errorf("%x: %v, want %v", tt.payload, d.m.Err(), tt.want)
		}
	}
	// It may come back.
	d.offer(usual())
	d.output()
	d.hear(message(7, 1, 1, "x"))
	d.want(whole(7, 1, "x"))
	// A table without it at all is none that our owner should make; it is as if it had never been there.
	short := openMux(t, usual(), usual())
	if err := short.m.SendExchange(&ltep.Exchange{}, &WeUse{Mux: &MuxUse{ID: ourMux, Types: make([]OurType, 2)}}); err != nil {
		t.Fatal(err)
	}
	short.hear(message(0, 2, 1, "x"))
	short.wantRefusal(ErrTypeNeverOffered)
	// A fragment behind the last byte of a message that was refused is one too many.
	d.offer(usual().without("one"))
	d.hear(message(8, 1, 2, "x"), more(8, "y"), more(8, "z"))
	d.wantRefusal(ErrUnknownMessage)
}

// EMP/1 §7.5: "No DATA of an id follows its RESET", and "the cost is credited … at RESET if there was no STOP". "RESET and STOP for finished ids are ignored."
func TestThePeerAbandonsAMessage(t *testing.T) {
	d := usually(t)
	d.hear(message(0, 1, 5000, "x"), more(0, "y"), reset(0, emp.CodeInternal))
	d.want(first(part(0, 1, 5000, "x")), part(0, 1, 5000, "y"), dropped(0))
	d.wantSaid(credit(5064))
	d.wantWindow(fourMiB, fourMiB)
	d.hear(reset(0, 0), message(1, 1, 1, "z"), reset(1, 0), reset(1, 0)) // the type is free; what was whole stays so
	d.want(whole(1, 1, "z"))
	d.wantOut()
	d.hear(more(0, "z"))
	d.wantRefusal(ErrUnknownMessage)
}

// EMP/1 §7.5: "After STOP the receiver discards fragments until the last byte or RESET and only then forgets the id; the cost is credited at STOP".
func TestWeRefuseAMessage(t *testing.T) {
	for _, end := range [][]byte{reset(0, emp.CodeCancelled), more(0, text(9))} {
		d := usually(t)
		d.hear(message(0, 1, 20, "x"))
		d.want(first(part(0, 1, 20, "x")))
		d.refuse(0, 20, emp.CodeBusy)
		d.wantSaid(stop(0, emp.CodeBusy), credit(84))
		d.hear(more(0, text(10)), end)
		d.wantIdle()
		d.wantOut()
		d.wantWindow(fourMiB, fourMiB)
		d.hear(message(1, 1, 0, ""))
		d.want(whole(1, 1, ""))
	}
	// One that has come as a whole may be refused, too.
	d := usually(t)
	d.hear(message(0, 1, 1, "x"), request(1, 1, 1, 0, "y"))
	d.refuse(0, 1, emp.CodeRefused)
	d.refuse(1, 1, emp.CodeRefused)
	d.wantSaid(stop(0, emp.CodeRefused), stop(1, emp.CodeRefused), credit(130))
	if done, err := d.m.Respond(new(Outgoing), 1, 0, []byte("x")); !done || err != nil { // "A stopped request gets no RESPONSE"
		t.Error(done, err)
	}
	d.wantOut()
}

// EMP/1 §7.5: "On STOP a sender that has not yet sent the last byte answers RESET", and "fragments still queued are dropped".
func TestThePeerRefusesAMessage(t *testing.T) {
	d := usually(t)
	o, next := d.submit("one", 0, text(50_000)), d.submit("one", 0, "next")
	if got := brief(d.said(1)); got != "data 0 first 16384/50000" {
		t.Fatalf("writes %s", got)
	}
	d.hear(stop(0, emp.CodeTooLarge))
	d.wantIdle()
	d.wantChanged(o, next)
	d.wantDone(o, ErrRefused)
	if o.Code != emp.CodeTooLarge {
		t.Errorf("code %v", o.Code)
	}
	d.wantSaid(reset(0, emp.CodeCancelled), message(1, 1, 4, "next"))
	d.wantWindow(fourMiB-50_064-68, fourMiB) // what it cost comes back by CREDIT
	d.hear(stop(0, emp.CodeTooLarge))        // once more: of a finished id
	d.events = nil
	d.wantOut()

	// A request likewise: it does not count any more, and gets no RESPONSE.
	theirs := usual()
	theirs.req = 1
	d = openMux(t, usual(), theirs)
	q, after := d.ask("one", 9, text(50_000)), d.ask("one", 9, "after")
	d.said(1)
	d.hear(stop(0, emp.CodeBusy))
	d.want(ended(q, 0, true, emp.CodeBusy))
	d.wantSaid(reset(0, emp.CodeCancelled), request(1, 1, 5, 9, "after"))
	d.hear(answer(0, 0, 1, "x"))
	d.wantIdle()
	// And when all of it has gone.
	d.hear(stop(1, emp.CodeRefused))
	d.want(ended(after, 0, true, emp.CodeRefused))
	d.wantOut()
}

// RESET of a message whose beginning is still queued goes behind it: the id has to be opened in its turn (EMP/1 §7.2, "in order of their FIRST frames").
func TestResetGoesBehindTheBeginning(t *testing.T) {
	for name, end := range map[string]func(d *dialogue, o *Outgoing){
		"abandoned": func(d *dialogue, o *Outgoing) { d.abandon(o) },
		"stopped":   func(d *dialogue, o *Outgoing) { d.hear(stop(1, 0)) }, // a peer that guesses
	} {
		t.Run(name, func(t *testing.T) {
			d := usually(t)
			d.tell("two", "first")
			o := d.submit("one", 0, text(20_000))
			d.tell("two", "third")
			end(d, o)
			if !o.Done() {
				t.Error("it is not done")
			}
			d.submit("one", 0, "last")
			if got, want := brief(d.said(1<<20)), "data 0 first 5/5, data 1 first 16384/20000, data 2 first 5/5, reset 1, data 3 first 4/4"; got != want {
				t.Errorf("writes %s, want %s", got, want)
			}
			if d.m.HasOutput() {
				t.Error("there is more")
			}
		})
	}
	// A request of one frame, cancelled before that has gone.
	d := usually(t)
	d.tell("two", "first")
	o := d.ask("one", 9, "?")
	d.abandon(o)
	d.wantSaid(message(0, 2, 5, "first"), request(1, 1, 1, 9, "?"), reset(1, emp.CodeCancelled))
	// An answer before the request has gone, by a peer that guesses: the request is given up, behind its beginning.
	d = usually(t)
	d.tell("two", "first")
	o = d.ask("one", 9, text(40_000))
	d.hear(answer(1, 0, 1, "!"))
	d.want(reply(o, 0, 1, "!").ended())
	if got, want := brief(d.said(1<<20)), "data 0 first 5/5, data of request 1 first 16384/40000, reset 1"; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
}

// Abandon, wherever a message is. §7.5: "No DATA of an id follows its RESET". §7.3: "its context ends" is no more than this.
func TestAbandon(t *testing.T) {
	theirs := usual()
	theirs.win, theirs.req = 65_600, 1

	// Before its turn: nothing is said, and what it held up may go.
	d := openMux(t, usual(), theirs)
	d.submit("one", 0, text(65_000))
	d.said(1 << 20)
	large := d.submit("big", 0, text(60_000))
	d.submit("two", 0, "x")
	d.wantOut()
	d.abandon(large)
	d.wantSaid(message(1, 2, 1, "x"))
	d.abandon(large) // once more: nothing
	d.wantOut()
	if !large.Done() || large.Err() != nil || large.data != nil {
		t.Errorf("done: %v, %v", large.Done(), large.Err())
	}

	// Half way, and what waits behind it.
	d = openMux(t, usual(), theirs)
	o := d.submit("one", 0, text(30_000))
	d.submit("one", 0, "next")
	d.said(1)
	d.abandon(o)
	d.wantSaid(reset(0, emp.CodeCancelled), message(1, 1, 4, "next"))
	d.abandon(o)
	d.wantOut()

	// A request half way: it counts no more, and no confirmation is waited for.
	d = openMux(t, usual(), theirs)
	o = d.ask("one", 9, text(30_000))
	d.ask("one", 9, "next")
	d.said(1)
	d.abandon(o)
	d.wantSaid(reset(0, emp.CodeCancelled), request(1, 1, 4, 9, "next"))
	d.hear(answer(0, 0, 1, "x"), resetAnswer(0, 0))
	d.wantIdle()

	// A request that has gone as a whole: "RESET of a fully sent request cancels it and is always confirmed: by the rest of a RESPONSE already begun, or by RESET with
	// RESPONSE". Until then it counts.
	for name, confirmed := range map[string][][]byte{
		"by an answer": {answer(0, 0, 3, "abc")}, "by a long answer": {answer(0, 0, 20_000, text(16384)), moreAnswer(0, text(20_000-16384))},
		"by RESET": {resetAnswer(0, emp.CodeCancelled)}, "by STOP": {stop(0, 0)}, "by RESET half way": {answer(0, 0, 3, "a"), resetAnswer(0, 0)},
	} {
		d = openMux(t, usual(), theirs)
		o = d.ask("one", 9, "?")
		d.ask("one", 9, "next")
		d.output()
		d.abandon(o)
		d.wantSaid(reset(0, emp.CodeCancelled))
		d.abandon(o)
		d.wantOut()
		d.hear(confirmed[:len(confirmed)-1]...)
		if d.wantOut(); o.Done() {
			t.Errorf("%s: done before it is confirmed", name)
		}
		d.hear(confirmed[len(confirmed)-1])
		d.wantIdle() // nobody waits for it any more
		d.wantSaid(request(1, 1, 4, 9, "next"))
	}

	// One whose answer has begun: STOP spares both the rest.
	d = openMux(t, usual(), theirs)
	o = d.ask("one", 1<<20, "?")
	d.output()
	d.hear(answer(0, 0, 1<<20, text(16384)))
	d.events = nil
	d.abandon(o)
	d.wantSaid(stopAnswer(0, emp.CodeCancelled))
	d.hear(moreAnswer(0, text(16384)), resetAnswer(0, emp.CodeCancelled))
	d.wantIdle()
	d.ask("one", 9, "next")
	d.wantSaid(request(1, 1, 4, 9, "next"))

	// Answers, not begun and begun.
	for _, begun := range []bool{false, true} {
		d = usually(t)
		d.hear(request(0, 1, 0, 1<<20, ""))
		o = d.respond(0, 0, text(50_000))
		if begun {
			d.said(1)
		}
		if err := d.m.Abandon(o, emp.CodeInternal); err != nil {
			t.Fatal(err)
		}
		d.wantSaid(resetAnswer(0, emp.CodeInternal))
		if d.m.UnsentResponses() != 0 {
			t.Errorf("%d bytes unsent", d.m.UnsentResponses())
		}
		d.hear(stopAnswer(0, 0), reset(0, 0)) // of a finished id
		d.wantOut()
	}
	// One that was never submitted, and those that are over.
	d = usually(t)
	d.abandon(new(Outgoing))
	d.hear(request(0, 1, 0, 9, ""))
	o = d.respond(0, 0, "x")
	d.output()
	d.abandon(o)
	d.wantOut()
}

// EMP/1 §7.5: "RESET of a fully sent request cancels it and is always confirmed: by the rest of a RESPONSE already begun, or by RESET with RESPONSE once the handler has
// returned". "STOP of a RESPONSE that has not begun cancels the request and is confirmed in the same way".
func TestThePeerCancelsARequest(t *testing.T) {
	for name, cancel := range map[string][]byte{"RESET": reset(0, emp.CodeCancelled), "STOP": stopAnswer(0, emp.CodeCancelled)} {
		t.Run(name, func(t *testing.T) {
			// While its handler works: it is told, and whatever the handler says then is RESET.
			for _, payload := range []string{"", "an answer", text(50_000)} {
				d := usually(t)
				d.hear(request(0, 1, 1, 1<<20, "?"))
				d.want(asks(whole(0, 1, "?"), 1<<20))
				d.hear(cancel, cancel, reset(0, 0), stopAnswer(0, 0)) // once is enough
				d.want(cancelled(0))
				d.wantOut()
				o := new(Outgoing)
				if done, err := d.m.Respond(o, 0, 0, []byte(payload)); !done || err != nil {
					t.Errorf("done: %v, %v", done, err)
				}
				d.credit(65)
				d.wantSaid(resetAnswer(0, emp.CodeCancelled), credit(65))
			}
			// It is confirmed likewise if it is refused at the same moment.
			d := usually(t)
			d.hear(request(0, 1, 1, 9, "?"), cancel)
			d.refuse(0, 1, emp.CodeBusy)
			d.wantSaid(resetAnswer(0, emp.CodeCancelled), credit(65))
			// It counts until then.
			tm := usual()
			tm.req = 1
			d = openMux(t, tm, usual())
			d.hear(request(0, 1, 0, 9, ""), cancel, request(1, 1, 0, 9, ""))
			d.want(asks(whole(0, 1, ""), 9), cancelled(0))
			d.wantSaid(answer(1, emp.StatusBusy, 0, ""), credit(64))
			d.respond(0, 0, "x")
			d.hear(request(2, 1, 0, 9, ""))
			d.want(asks(whole(2, 1, ""), 9))
			// When there is an answer, of which nothing has gone.
			d = usually(t)
			d.hear(request(0, 1, 0, 1<<20, ""))
			d.events = nil
			o := d.respond(0, 0, text(50_000))
			d.hear(cancel)
			d.wantIdle()
			d.wantChanged(o)
			d.wantDone(o, ErrRefused)
			d.wantSaid(resetAnswer(0, emp.CodeCancelled))
			if d.m.UnsentResponses() != 0 {
				t.Errorf("%d bytes unsent", d.m.UnsentResponses())
			}
			// And when all of it has gone: too late.
			d = usually(t)
			d.hear(request(0, 1, 0, 9, ""))
			d.events = nil
			d.respond(0, 0, "x")
			d.output()
			d.hear(cancel)
			d.wantIdle()
			d.wantOut()
		})
	}
	// When some of the answer has gone, RESET is confirmed by the rest.
	d := usually(t)
	d.hear(request(0, 1, 0, 1<<20, ""))
	d.events = nil
	o := d.respond(0, 0, text(40_000))
	d.said(1)
	d.hear(reset(0, emp.CodeCancelled))
	d.wantIdle()
	if got, want := brief(d.said(1<<20)), "data of answer 0 16384, data of answer 0 7232"; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
	d.wantDone(o, nil)
	// And STOP is answered: "a sender that has not yet sent the last byte answers RESET".
	d = usually(t)
	d.hear(request(0, 1, 0, 1<<20, ""))
	d.events = nil
	o = d.respond(0, 0, text(40_000))
	d.said(1)
	d.hear(stopAnswer(0, emp.CodeTooLarge))
	d.wantIdle()
	d.wantChanged(o)
	d.wantDone(o, ErrRefused)
	if o.Code != emp.CodeTooLarge {
		t.Errorf("code %v", o.Code)
	}
	d.wantSaid(resetAnswer(0, emp.CodeCancelled))
	d.hear(stopAnswer(0, emp.CodeTooLarge))
	d.wantOut()
}

// A request whose answer is refused before its own last byte: no handler has seen it, and none will (EMP/1 §7.5).
func TestAnswerRefusedBeforeTheRequestIsWhole(t *testing.T) {
	for _, end := range [][]byte{reset(0, 0), more(0, text(9))} {
		d := usually(t)
		d.hear(request(0, 1, 10, 9, "x"), stopAnswer(0, emp.CodeCancelled))
		d.want(asks(first(part(0, 1, 10, "x")), 9), dropped(0))
		d.wantSaid(resetAnswer(0, emp.CodeCancelled), credit(74))
		d.hear(end, message(1, 1, 0, ""))
		d.want(whole(1, 1, ""))
		d.wantOut()
		d.wantWindow(fourMiB, fourMiB-64)
	}
	// One that was answered already.
	d := usually(t)
	d.hear(request(0, 1, 10, 9, "x"))
	o := d.respond(0, 0, "y")
	d.hear(stopAnswer(0, emp.CodeCancelled), more(0, text(9)))
	d.want(asks(first(part(0, 1, 10, "x")), 9))
	d.wantDone(o, ErrRefused)
	d.wantSaid(resetAnswer(0, emp.CodeCancelled), credit(74))
}

// EMP/1 §7.5: "A RESPONSE may come before the request's last byte: the requester finishes or RESETs the request, the responder discards as after STOP".
func TestAnswersBeforeTheRequestIsWhole(t *testing.T) {
	// We answer.
	for _, end := range [][]byte{reset(0, 0), more(0, text(9))} {
		d := usually(t)
		d.hear(request(0, 1, 20, 100, "x"))
		d.want(asks(first(part(0, 1, 20, "x")), 100))
		d.respond(0, emp.StatusRefused, "")
		d.wantSaid(answer(0, emp.StatusRefused, 0, ""), credit(84)) // nothing is owed by the owner
		d.hear(more(0, text(10)), end)
		d.wantIdle()
		d.wantOut()
		d.wantWindow(fourMiB, fourMiB)
		d.hear(message(1, 1, 0, ""))
		d.want(whole(1, 1, ""))
	}
	// We asked: the rest is RESET, and the next of its type may go.
	theirs := usual()
	theirs.req = 1
	d := openMux(t, usual(), theirs)
	o, next, later := d.ask("one", 100, text(50_000)), d.submit("one", 0, "next"), d.ask("two", 9, "later")
	d.said(1)
	d.hear(answer(0, emp.StatusAnswered, 4, "ab"))
	d.want(first(reply(o, 0, 4, "ab")))
	d.wantChanged(next)
	d.wantSaid(reset(0, emp.CodeCancelled), message(1, 1, 4, "next"))
	d.hear(moreAnswer(0, "cd"))
	d.want(last(reply(o, 0, 4, "cd")))
	d.wantDone(o, nil)
	d.wantSaid(request(2, 2, 5, 9, "later"))
	d.hear(answer(2, 0, 0, ""))
	d.want(reply(later, 0, 0, "").ended())
	// All at once; and too long.
	d = openMux(t, usual(), theirs)
	o = d.ask("one", 1, text(50_000))
	d.ask("one", 9, "next")
	d.said(1)
	d.hear(answer(0, emp.StatusNoHandler, 0, ""))
	d.want(reply(o, emp.StatusNoHandler, 0, "").ended())
	d.wantSaid(reset(0, emp.CodeCancelled), request(1, 1, 4, 9, "next"))
	d = openMux(t, usual(), theirs)
	o = d.ask("one", 1, text(50_000))
	d.said(1)
	d.hear(answer(0, 0, 50, "ab"))
	d.want(ended(o, emp.StatusTooLarge, false, 0))
	d.wantSaid(reset(0, emp.CodeCancelled), stopAnswer(0, emp.CodeTooLarge))
	d.hear(resetAnswer(0, 0))
	d.wantIdle()
	// Given up after that: it is the answer that is stopped.
	d = openMux(t, usual(), theirs)
	o = d.ask("one", 100, text(50_000))
	d.said(1)
	d.hear(answer(0, 0, 50, "ab"))
	d.want(first(reply(o, 0, 50, "ab")))
	d.abandon(o)
	d.wantSaid(reset(0, emp.CodeCancelled), stopAnswer(0, emp.CodeCancelled))
	d.hear(moreAnswer(0, "cd"), resetAnswer(0, 0))
	d.wantIdle()
	// RESET of the answer ends the request as well.
	d = openMux(t, usual(), theirs)
	o = d.ask("one", 1, text(50_000))
	d.ask("one", 9, "next")
	d.said(1)
	d.hear(resetAnswer(0, emp.CodeBusy))
	d.want(ended(o, 0, false, emp.CodeBusy))
	d.wantSaid(reset(0, emp.CodeCancelled), request(1, 1, 4, 9, "next"))
}

// EMP/1 §7.3: "A window above 2^31−1 is a protocol error".
func TestLargestWindow(t *testing.T) {
	theirs := usual()
	theirs.win = 1<<31 - 1
	for spent, want := range map[int]error{0: ErrWindowExceeded, 1000: nil} {
		d := openMux(t, usual(), theirs)
		if spent > 0 {
			d.submit("one", 0, text(spent-64))
		}
		if d.hear(credit(max(spent, 1))); !errors.Is(d.m.Err(), want) || want == nil && d.m.Err() != nil {
			t.Errorf("%d spent: %v", spent, d.m.Err())
		}
	}
	for n, want := range map[uint32]error{1<<31 - 1 - fourMiB: nil, 1<<31 - fourMiB: ErrWindowExceeded, 1<<32 - 1: ErrWindowExceeded} {
		d := usually(t)
		if d.hear(emp.AppendCredit(nil, n)); !errors.Is(d.m.Err(), want) || want == nil && d.m.Err() != nil {
			t.Errorf("credit of %d: %v", n, d.m.Err())
		}
	}
	// Ours may be as large: it is all given back, in one frame.
	ours := usual()
	ours.win = 1<<31 - 1
	ours.types[2].MaxLen = 16 << 20
	d := openMux(t, ours, usual())
	const n = 127 // of 16 MiB and their cost
	for id := range uint32(n) {
		d.hear(message(id, 3, 16<<20, "x"), reset(id, 0))
	}
	d.wantWindow(fourMiB, 1<<31-1-n*(16<<20+64))
	d.wantSaid(credit(n * (16<<20 + 64)))
	d.wantWindow(fourMiB, 1<<31-1)
}

// Near its end a message can be left to itself: the machine tells once, copies the rest, and uses the owner's memory no more.
func TestTails(t *testing.T) {
	d := usually(t)
	all := []byte(text(300_001))
	for i := range 2 { // whole at once, and bit by bit
		own := bytes.Clone(all)
		given := []int{len(own), 100_000}[i]
		o := &Outgoing{Type: d.typ("big"), Total: uint32(len(own))}
		if err := d.m.Submit(o, own[:given]); err != nil {
			t.Fatal(err)
		}
		id := o.id
		d.tell("two", "x") // whose turn comes soon
		var got []byte
		taken, shown := false, 0
		for d.m.HasOutput() {
			for _, p := range d.said(1) {
				var f emp.Frame
				if err := f.Parse(p); err != nil {
					t.Fatal(err)
				}
				if f.ID == id {
					got = append(got, f.Data...)
				}
			}
			if slices.Contains(d.m.MuxChanged(), o) {
				shown++
			}
			if n := o.Tail(); n > TailBytes || n > 0 && n != len(own)-len(got) {
				t.Fatalf("a tail of %d bytes, %d are left", n, len(own)-len(got))
			} else if n > 0 && !taken {
				if i == 0 && (shown != 1 || n+wire.MaxFragment <= TailBytes) {
					t.Errorf("told %d times, with %d bytes left", shown, n)
				}
				taken = true
				d.m.TakeTail(o, make([]byte, 3, TailBytes))
				clear(own) // the owner has other uses for it
				own = own[:len(all)]
			}
			if o.Hungry() {
				d.m.Supply(o, own[given:])
			}
		}
		if !bytes.Equal(got, all) || !taken || shown != []int{2, 3}[i] {
			t.Errorf("%d bytes arrive, or others; taken: %v, told %d times", len(got), taken, shown)
		}
		d.wantDone(o, nil)
	}
	// It may be refused still, of which its owner need not learn.
	d = usually(t)
	o := d.submit("one", 0, text(40_000))
	d.said(1)
	d.m.TakeTail(o, nil)
	d.hear(stop(0, emp.CodeBusy))
	d.want(MuxEvent{Kind: MuxRefused, ID: 0, Code: emp.CodeBusy})
	d.wantChanged(o)
	d.wantDone(o, ErrRefused)
	d.wantSaid(reset(0, emp.CodeCancelled))
}

// EMP/1 §7.2: ids go up to 2^32−1, "after [which] the session closes".
func TestIDsAreUsedUp(t *testing.T) {
	d := usually(t)
	d.m.mux.nextOut = math.MaxUint32
	d.tell("two", "last")
	if _, err := d.m.SendMessage(d.typ("two"), 0, 0, nil); !errors.Is(err, ErrIDsExhausted) {
		t.Errorf("SendMessage: %v", err)
	}
	d.drain()
	d.want(ErrIDsExhausted)
	if f := FaultOf(d.m.Err()); f != FaultNone {
		t.Errorf("it blames %v", f)
	}
	d.wantSaid(message(math.MaxUint32, 2, 4, "last")) // what was in the outbox goes

	// With messages that wait: whatever lets them go, the end is told.
	for name, step := range map[string]func(d *dialogue, a, b *Outgoing){
		"Submit": func(d *dialogue, a, b *Outgoing) {
			if err := d.m.Submit(&Outgoing{Type: d.typ("two")}, nil); err != nil {
				t.Error(err)
			}
			d.drain()
		},
		"Abandon": func(d *dialogue, a, b *Outgoing) {
			d.m.Abandon(a, 0)
			d.drain()
		},
		"AppendOutput": func(d *dialogue, a, b *Outgoing) {
			d.output()
			d.drain()
		},
		"a frame": func(d *dialogue, a, b *Outgoing) { d.hear(stop(math.MaxUint32, 0)) },
		"the last frame of a read": func(d *dialogue, a, b *Outgoing) {
			d.feed(wire.KeepAlive{}, wire.Extended{ID: ourMux, Payload: stop(math.MaxUint32, 0)})
		},
		"a frame before others": func(d *dialogue, a, b *Outgoing) { d.hear(stop(math.MaxUint32, 0), message(0, 1, 0, "")) },
	} {
		d := usually(t)
		d.m.mux.nextOut = math.MaxUint32
		a := d.submit("one", 0, text(40_000))
		b := d.submit("one", 0, "no id is left")
		step(d, a, b)
		d.want(ErrIDsExhausted)
		if !slices.Contains(d.m.MuxChanged(), b) {
			t.Errorf("%s: nobody is told", name)
		}
		d.wantDone(b, ErrNotOpen)
	}
	// An answer that lets a request go is told before the end.
	theirs := usual()
	theirs.req = 1
	d = openMux(t, usual(), theirs)
	d.m.mux.nextOut = math.MaxUint32
	o := d.ask("one", 9, "?")
	d.ask("one", 9, "no id is left")
	d.hear(answer(math.MaxUint32, 0, 1, "x"), message(0, 1, 0, ""))
	d.want(reply(o, 0, 1, "x").ended(), ErrIDsExhausted)
	// And so it is if the peer's offer does.
	d = usually(t)
	d.m.mux.nextOut = math.MaxUint32 + 1
	d.m.mux.spend = 0
	d.submit("one", 0, text(1000))
	d.submit("two", 0, "")
	d.m.mux.spend = 100
	e := usual().without("one").exchange(theirMux)
	d.feed(e)
	e.EMP = nil
	d.want(e, ErrIDsExhausted)

	// The peer's.
	d = usually(t)
	d.m.mux.nextIn = math.MaxUint32
	d.hear(message(math.MaxUint32, 1, 0, ""))
	d.want(whole(math.MaxUint32, 1, ""))
	d.hear(message(0, 1, 0, ""))
	d.wantRefusal(ErrBadOrder)
}

// EMP/1 §7.5: "when more than 64 KiB of [control] … waits in our own outbox, the peer is closed (ErrControlBacklog)". What is written counts no more; CREDIT is one frame.
func TestMuxControlBacklog(t *testing.T) {
	tm := usual()
	tm.win, tm.req = 1<<31-1, 0
	for name, tt := range map[string]struct {
		ours   terms
		each   int // bytes of an answer with an id of one byte; longer ids make it more
		frames func(id uint32) [][]byte
	}{
		"busy":      {tm, 10, func(id uint32) [][]byte { return [][]byte{request(id, 1, 0, 0, "")} }},
		"withdrawn": {tm.without("one"), 9, func(id uint32) [][]byte { return [][]byte{message(id, 1, 0, "")} }},
		"answers refused": {usual(), 9, func(id uint32) [][]byte {
			return [][]byte{request(id, 1, 2, 0, "x"), stopAnswer(id, 0), reset(id, 0)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := openMux(t, tm, usual())
			d.offer(tt.ours)
			d.output()
			n, id := 0, uint32(0)
			one := func() {
				before := len(d.m.out)
				d.hear(tt.frames(id)...)
				n += len(d.m.out) - before
				id++
				d.events = slices.DeleteFunc(d.events, func(e any) bool { _, ok := e.(MuxEvent); return ok })
			}
			for n+12 <= wire.MaxControlBacklog {
				one()
			}
			d.wantIdle()
			if len(d.m.out) != n || n < wire.MaxControlBacklog-12 {
				t.Fatalf("%d bytes wait, counted %d", len(d.m.out), n)
			}
			d.output()
			d.wantWindow(fourMiB, int(tm.win))
			for n = 0; n+12 <= wire.MaxControlBacklog; {
				one()
			}
			d.wantIdle()
			one()
			one()
			d.want(ErrControlBacklog)
			if f := FaultOf(d.m.Err()); f != FaultPeer {
				t.Errorf("it blames %v", f)
			}
		})
	}
	// What the owner says is counted as well, and the error is its call's.
	d := openMux(t, tm, usual())
	var err error
	id := uint32(0)
	for ; err == nil && id < 10_000; id++ {
		d.hear(message(id, 1, 0, ""))
		d.took -= 64
		err = d.m.RefuseMessage(id, 0, emp.CodeBusy)
	}
	if !errors.Is(err, ErrControlBacklog) || d.m.Phase() != PhaseClosed || id < 6000 {
		t.Errorf("%d refused: %v", id, err)
	}
	// The events of a call are not lost with the session that ends on its last frame.
	d = usually(t)
	o := d.ask("one", 1, "?")
	d.output()
	d.m.answerBytes = wire.MaxControlBacklog
	d.hear(answer(0, 0, 100, "x"))
	d.want(ErrControlBacklog)
	d.wantChanged(o)
	d.wantDone(o, ErrNotOpen)
}

// The end of a session: everything that is under way fails, by MuxChanged, once; and the machine keeps nothing of it.
func TestCloseWithMessagesUnderWay(t *testing.T) {
	theirs := usual()
	theirs.req = 3
	d := openMux(t, usual(), theirs)
	sent := d.ask("two", 9, "?")
	answered := d.ask("two", 9, "?")
	given := d.ask("two", 9, "?") // up
	d.output()
	d.abandon(given)
	d.hear(answer(1, 0, 5, "x"))
	waits := d.ask("two", 9, "?")
	open := d.submit("one", 0, text(60_000))
	second := d.submit("one", 0, "second")
	half := d.ask("big", 9, text(60_000))
	hungry := &Outgoing{Type: d.typ("big"), Total: 10}
	if err := d.m.Submit(hungry, []byte("x")); err != nil {
		t.Fatal(err)
	}
	d.hear(request(0, 1, 1, 1<<20, "?"), message(1, 2, 50, "x"), request(2, 1, 9, 9, "x"))
	reply := d.respond(0, 0, text(50_000))
	d.said(1)
	d.m.MuxChanged()
	d.credit(500)
	d.events = nil
	boom := errors.New("boom")
	d.m.Close(boom)
	d.drain()
	d.want(boom)
	all := []*Outgoing{sent, answered, waits, open, second, half, hungry, reply}
	got := slices.Clone(d.m.MuxChanged())
	for _, o := range all {
		if !slices.Contains(got, o) {
			t.Errorf("message %d is not told", slices.Index(all, o))
		}
		d.wantDone(o, ErrNotOpen)
		if o.data != nil {
			t.Error("its data are kept")
		}
	}
	if len(got) != len(all) {
		t.Errorf("%d are told, want %d: once each, and not what was given up", len(got), len(all))
	}
	d.wantChanged()
	d.checkMux()
	for name, err := range map[string]error{
		"Submit": d.m.Submit(&Outgoing{Type: d.typ("two")}, nil), "Abandon": d.m.Abandon(open, 0), "RefuseMessage": d.m.RefuseMessage(1, 50, 0),
	} {
		if want := map[string]error{"Submit": ErrNotOpen}[name]; !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.m.SendMessage(d.typ("two"), 0, 0, nil); !errors.Is(err, ErrNotOpen) {
		t.Errorf("SendMessage: %v", err)
	}
	if done, err := d.m.Respond(new(Outgoing), 2, 0, []byte("x")); !done || !errors.Is(err, ErrNotOpen) {
		t.Errorf("Respond: %v, %v", done, err)
	}
	d.m.Credit(10)
	d.m.Supply(hungry, []byte("more"))
	if s := d.m.Shared(); s.Mux != nil {
		t.Errorf("shared %+v", s)
	}
	for range 10 {
		d.said(1) // what was in the queue of whole frames may still go
	}
	if d.m.HasOutput() || d.m.UnsentResponses() != 0 {
		t.Error("there is no end")
	}
	d.hear(message(3, 1, 0, ""))
	d.wantIdle()
}

// What the machine has shown of messages that are over it does not keep.
func TestNothingIsKeptOfWhatIsOver(t *testing.T) {
	d := usually(t)
	for range 50 {
		d.submit("one", 0, "x")
	}
	d.output()
	if n := len(d.m.MuxChanged()); n != 50 {
		t.Errorf("%d have changed", n)
	}
	d.submit("one", 0, "x")
	d.wantChanged(d.m.mux.changed...)
	d.wantChanged()
	for _, o := range d.m.mux.changed[:cap(d.m.mux.changed)] {
		if o != nil {
			t.Fatal("a message that is over is kept")
		}
	}
	for _, list := range [][]*Outgoing{d.m.mux.waiting, d.m.mux.streams} {
		for _, o := range list[:cap(list)] {
			if o != nil {
				t.Fatal("a message that has gone is kept")
			}
		}
	}
}

// A queue that is never empty takes the memory of what waits, not of what has passed.
func TestRoomIsUsedAgain(t *testing.T) {
	theirs := usual()
	theirs.win = 1<<31 - 1
	d := openMux(t, usual(), theirs)
	d.m.cfg.SendQueueBytes = 8 << 10
	sent, got := 0, 0
	for sent < 5000 {
		for ok := true; ok; sent++ {
			var err error
			if ok, err = d.m.SendMessage(d.typ("one"), 0, 0, []byte(text(sent%300))); err != nil {
				t.Fatal(err)
			} else if !ok {
				break
			}
		}
		for _, p := range d.said(600) {
			if want := text(got % 300); string(p[len(p)-len(want):]) != want {
				t.Fatalf("message %d is another", got)
			}
			got++
		}
	}
	if c := cap(d.m.app); c > 32<<10 {
		t.Errorf("the queue never held more than 9 KiB and has room for %d bytes", c)
	}
}

// AppBytes counts what is accepted and what has gone, so that somebody can wait until it has.
func TestAppBytes(t *testing.T) {
	d := usually(t)
	d.tell("two", "x")
	d.submit("one", 0, text(40_000))
	in, gone, fragments := d.m.AppBytes()
	if in == 0 || in != int64(d.m.AppQueued()) || gone != 0 || fragments != 0 {
		t.Errorf("in %d, gone %d, fragments %d", in, gone, fragments)
	}
	n := len(d.output())
	in, gone, fragments = d.m.AppBytes()
	if in != gone || int(gone+fragments) != n {
		t.Errorf("in %d, gone %d, fragments %d of %d", in, gone, fragments, n)
	}
	if err := d.m.SendExtended(20, []byte("plain")); err != nil {
		t.Fatal(err)
	}
	d.m.AppendOutput(d.now, nil, 1)
	after, goneAfter, _ := d.m.AppBytes()
	if after != in+11 || goneAfter != after {
		t.Errorf("in %d, gone %d after 11 more bytes", after, goneAfter)
	}
}

// A quiet session gives back its buffers, mux frames or not, and keeps its messages.
func TestTrimWithMuxFrames(t *testing.T) {
	d := usually(t)
	o := d.ask("one", 9, "?")
	d.output()
	d.hear(message(0, 1, 10, "x"))
	d.events = nil
	d.advance(trimAfter)
	if d.m.holdsBuffers() {
		t.Error("it holds buffers")
	}
	d.hear(more(0, text(9)), answer(0, 0, 1, "!"))
	d.want(last(part(0, 1, 10, text(9))), reply(o, 0, 1, "!").ended())
	d.advance(5 * time.Second)
}

// For a while it is known of which type a message was that is refused though it has gone.
func TestRefusedOfWhichType(t *testing.T) {
	d := openMux(t, usual(), usual())
	for i := range recentIDs + 2 {
		typ := []string{"one", "two"}[i%2]
		if sent, err := d.m.SendMessage(d.typ(typ), 0, 0, nil); !sent || err != nil {
			t.Fatalf("message %d: %v, %v", i, sent, err)
		}
	}
	d.output()
	for _, id := range []uint32{0, 1, 2, 3, recentIDs + 1} {
		d.hear(emp.AppendStop(nil, id, false, emp.CodeBusy))
	}
	if want := []string{"one", "two", "two"}; !slices.Equal(d.refusees, want) {
		t.Errorf("refused were %q, want %q: of the others it is no longer known", d.refusees, want)
	}
}

// A session that has become quiet holds nothing of what it was last fed: that may be a buffer of 256 KiB.
func TestQuietSessionHoldsNoInput(t *testing.T) {
	d := openMux(t, usual(), usual())
	use := *d.m.weUse
	use.Metadata = 1
	if err := d.m.SendExchange(&ltep.Exchange{}, &use); err != nil {
		t.Fatal(err)
	}
	d.send(wire.Request{Block: block(1, 0, 16384)})
	for _, last := range []any{wire.Piece{Index: 1, Data: make([]byte, 16384)}, wire.Bitfield{Bits: make([]byte, 3)}, wire.Unknown{ID: 99, Payload: []byte("?")},
		app(ourMux, string(emp.AppendMessageHead(nil, 0, one.ID, 0, 3))+"abc"), ltep.Metadata{Type: ltep.MetadataData, TotalSize: 3, Data: []byte("abc")}} {
		b := append(make([]byte, 0, 4096), encode(t, last)...) // the smallest objects share their memory with others
		gone := make(chan struct{})
		runtime.AddCleanup(&b[0], func(struct{}) { close(gone) }, struct{}{})
		d.m.Feed(d.now, b)
		for {
			if _, ok := d.m.Next(); !ok {
				break
			}
		}
		b = nil
		for range 50 {
			runtime.GC()
			select {
			case <-gone:
			default:
				runtime.Gosched()
				continue
			}
			break
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Errorf("after %T the session still holds it", last)
		}
	}
	if d.m.Phase() != PhaseOpen {
		t.Fatal(d.m.Err())
	}
}
