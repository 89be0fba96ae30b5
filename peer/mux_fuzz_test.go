package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// checkMux fails the test if the machine's state of mux frames contradicts itself or is more than the limits allow. It assumes that the owner has given back what d.took
// does not hold.
func (d *dialogue) checkMux() {
	d.t.Helper()
	x := d.m.mux
	if x == nil {
		return
	}
	if d.m.phase == PhaseClosed {
		if x.active || len(x.in)+len(x.served)+len(x.calls)+len(x.waiting)+len(x.streams)+x.unsent+x.past != 0 || x.owed != 0 {
			d.t.Fatalf("after the end: %+v", x)
		}
		for _, t := range x.types {
			if t.open != nil {
				d.t.Fatalf("type %s has a message open after the end", t.name)
			}
		}
		return
	}
	if !x.active {
		if len(x.in)+len(x.served)+len(x.calls)+len(x.waiting)+len(x.streams) != 0 {
			d.t.Fatalf("before mux frames are legal: %+v", x)
		}
		return
	}
	// The window: what the peer may spend, what it gets back with the next write, what is on its way and what the application has.
	advertised := x.window + x.owed + d.took
	opened := 0
	for id, in := range x.in {
		if in.id != id || in.got >= in.total || uint64(id) >= x.nextIn {
			d.t.Fatalf("incoming message %d: %+v", id, in)
		}
		if x.opened[in.typ/64]>>(in.typ%64)&1 == 0 {
			d.t.Fatalf("type %d has a message, and is not open", in.typ)
		}
		if !in.discard {
			advertised += messageCost(in.total)
		}
		opened++
	}
	for _, word := range x.opened {
		for ; word != 0; word &= word - 1 {
			opened--
		}
	}
	if opened != 0 {
		d.t.Fatalf("%d messages more than types that are open", opened)
	}
	if d.win == 0 {
		d.win = int64(max(x.we.Window, wire.MinWindow))
	}
	if advertised != d.win || x.window < 0 || x.owed < 0 {
		d.t.Fatalf("the window has %d, %d are owed, %d with the application: %d in all, advertised %d", x.window, x.owed, d.took, advertised, d.win)
	}
	past, unsent := 0, 0
	for id, s := range x.served {
		if s.past {
			past++
		}
		if uint64(id) >= x.nextIn || s.past && s.out == nil || s.cancelled && s.out != nil || s.out != nil && (!s.out.answer || s.out.id != id || s.out.state != outOpen) {
			d.t.Fatalf("served request %d: %+v", id, s)
		}
	}
	if past != x.past || len(x.served)-past > max(x.requests, 0) {
		d.t.Fatalf("%d requests served, %d of them past, %d allowed", len(x.served), past, x.requests)
	}
	counting := 0
	for id, o := range x.calls {
		if o.id != id || uint64(id) >= x.nextOut || !o.Request || o.state != outSent && (o.state != outOpen || !slices.Contains(x.streams, o)) || o.replyBegun && o.replyGot >= o.replyTotal {
			d.t.Fatalf("call %d: %+v", id, o)
		}
		counting++
	}
	if counting > x.they.Requests() {
		d.t.Fatalf("%d calls, %d allowed", counting, x.they.Requests())
	}
	for _, o := range x.streams {
		if o.state != outOpen || o.sent >= o.Total || uint32(len(o.data)) > o.Total-o.sent || !o.answer && (o.Type.open != o || uint64(o.id) >= x.nextOut) {
			d.t.Fatalf("stream %d: %+v", o.id, o)
		}
		if o.answer {
			if x.served[o.id].out != o {
				d.t.Fatalf("the answer to request %d is not its", o.id)
			}
			unsent += int(o.Total - o.sent)
		}
	}
	if unsent != x.unsent || x.turn < 0 || x.turn > len(x.streams)+1 {
		d.t.Fatalf("%d bytes of answers, counted %d; turn %d of %d", unsent, x.unsent, x.turn, len(x.streams))
	}
	if x.spend < 0 || x.spend > wire.MaxWindow || x.nextOut > 1<<32 || x.nextIn > 1<<32 || len(x.types) > wire.MaxTypeEntries || d.m.appGone() > d.m.appEnd {
		d.t.Fatalf("%d to spend, ids %d and %d, %d types", x.spend, x.nextOut, x.nextIn, len(x.types))
	}
	d.checkWaiting()
}

// checkWaiting fails the test if a message waits that could go: EMP/1 §7.3 and §7.4 leave no other reasons than its type, `req`, the window and room.
func (d *dialogue) checkWaiting() {
	d.t.Helper()
	x := d.m.mux
	behind := map[*MuxType]bool{}
	for _, o := range x.waiting {
		if o.state != outWaiting {
			d.t.Fatalf("waiting: %+v", o)
		}
		if behind[o.Type] || o.Type.open != nil || o.Request && len(x.calls) >= x.they.Requests() {
			behind[o.Type] = true // it waits for its own type, or for answers: others may go
			continue
		}
		if int64(o.Total)+64 <= x.spend && d.m.AppQueued() == 0 {
			d.t.Fatalf("a message of %d bytes waits for nothing: %d to spend", o.Total, x.spend)
		}
		return // and all behind it wait for it
	}
}

// String returns the event in words, in which a call is known by its id.
func (e MuxEvent) String() string {
	h := fnv.New32a()
	h.Write(e.Data)
	return fmt.Sprintf("%d of %d: type %d version %d request %v, %v-%v of %d, reply-max %d, %d bytes %x, status %v, refused %v, code %v",
		e.Kind, e.ID, e.Type, e.Version, e.Request, e.First, e.Last, e.Total, e.ReplyMax, len(e.Data), h.Sum32(), e.Status, e.Refused, e.Code)
}

// muxSeed is frames of every kind, as FuzzMux begins with them.
func muxSeed(t testing.TB) []byte {
	return encode(t, muxFrames(ourMux, [][]byte{
		message(0, 1, 5, "hello"), message(1, 2, 100, "abc"), request(2, 1, 3, 20, "ask"), more(1, text(97)), request(3, 3, 60_000, 1<<20, text(3000)), more(3, "x"),
		stop(0, 1), answer(1, 0, 5, "ab"), moreAnswer(1, "cde"), credit(1000), credit(0), {0xff}, reset(2, 0), stopAnswer(3, 0), reset(3, 0), resetAnswer(2, 5),
		answer(2, 3, 2, "no"), message(4, 1, 0, ""), message(5, 5, 10, "gone"), request(6, 5, 10, 10, "gone"), more(5, "more"), reset(6, 1), request(7, 1, 0, 0, ""), request(8, 1, 0, 0, ""),
	})...)
}

// fuzzedMux makes a session for FuzzMux. The bits of how: 0 messages and requests of ours are under way, 1 some of it has gone, 2 requests of the peer wait for answers, 3 one
// of them has its answer, 4 the peer has withdrawn a type, 5 we have. A sixth leaves the peer's offer to the fuzzer.
func fuzzedMux(t testing.TB, how byte) *dialogue {
	ours := usual()
	ours.win = 70_000
	ours.types = append(ours.types, emp.TypeOffer{Name: "gone", ID: 5, MaxLen: 100})
	ours.types[2].MaxLen = 69_936
	if how&64 != 0 {
		d := open(t, variants[3], geometry)
		d.offer(ours)
		return d
	}
	d := openMux(t, ours, usual())
	if how&1 != 0 {
		d.submit("one", 0, text(40_000))
		d.ask("two", 10, "ask")
		d.ask("big", 10, text(50_000))
		d.submit("one", 0, "next")
		d.ask("one", 9, "waits")
	}
	if how&2 != 0 {
		d.said(1)
		d.said(1)
	}
	if how&4 != 0 {
		d.hear(request(0, 1, 0, 1<<20, ""), request(1, 2, 10, 9, "x"))
		if how&8 != 0 {
			d.respond(0, 0, text(50_000))
			d.said(1)
		}
	}
	if how&16 != 0 {
		d.offered(usual().without("one"))
	}
	if how&32 != 0 {
		d.offer(ours.without("gone"))
	}
	d.events = nil
	return d
}

// FuzzMux feeds a session with mux frames bytes of any kind, cut in any way: the machine neither panics nor holds more than its limits, and the same bytes in one piece
// have the same effect.
func FuzzMux(f *testing.F) {
	for how := range byte(128) {
		f.Add(how, muxSeed(f), []byte{7, 1, 30})
	}
	f.Add(byte(64), append(encode(f, usual().exchange(theirMux)), muxSeed(f)...), []byte{3})
	f.Add(byte(64), append(muxSeed(f), encode(f, usual().exchange(theirMux))...), []byte{3})
	f.Add(byte(0), append(encode(f, usual().without("one").exchange(theirMux)), muxSeed(f)...), []byte{3})
	f.Fuzz(func(t *testing.T, how byte, stream, cuts []byte) {
		prepare := func() *dialogue { return fuzzedMux(t, how) }
		want := run(t, prepare, wiretest.Cut(stream, nil))
		if got := run(t, prepare, wiretest.CutBy(stream, cuts)); got != want {
			t.Fatalf("cut by %v:\n%s\nwhole:\n%s", cuts, got, want)
		}
		d := prepare()
		for s := range wiretest.CutBy(stream, cuts) {
			d.m.Feed(d.now, s)
			d.drain()
			d.checkBounds()
		}
		for i := 0; d.m.HasOutput() && d.m.Phase() == PhaseOpen; i++ {
			checkOutput(t, d.m.AppendOutput(d.now, nil, 1+i*100))
			d.checkBounds()
			if d.uploads(); i > 10_000 {
				t.Fatal("the output has no end")
			}
		}
		for _, o := range d.m.MuxChanged() {
			if !o.Done() && !o.Hungry() {
				t.Fatalf("message %d has changed, and is neither done nor hungry", o.id)
			}
		}
		if FaultOf(d.m.Err()) == FaultNetwork {
			t.Fatalf("bytes alone ended the session with %v, which blames the network", d.m.Err())
		}
	})
}

// A view is what one end of a session may expect by the text of EMP/1, sections 6.2 and 7, and by what it has heard, said and been asked to do. It knows nothing of how a
// machine works: it is the oracle of FuzzMuxModel and FuzzMuxPair. Frames that are heard are judged, and give events; frames that are said must be legal, and what is owed.
type view struct {
	t *testing.T

	// The peer's messages.
	types      map[uint32]OurType // that we ever offered
	advertised int64
	window     int64 // what the peer has left
	owed       int64 // what it gets back with the next write
	req        int
	next       uint64
	in         map[uint32]*viewIn
	open       map[uint32]bool // types with a message open
	quiet      int

	// Ours.
	theirs  map[string]emp.TypeOffer // offered now
	theyReq int
	spend   int64
	nextOut uint64
	out     map[uint32]*viewOut
	pending map[uint16][]*viewOut // not begun, by type, in order
	openOut map[uint16]*viewOut

	must map[string]int // control frames that go with the next write
}

// viewIn is a message or request of the peer.
type viewIn struct {
	id, typ, total, got uint32
	version             uint8
	request, dead, over bool // dead: what still comes is discarded
	waits               bool // a request that is not answered
	counts              bool // for `req`
	cancelled           bool
	replyMax            uint32
	status              emp.Status
	answer              []byte // what the application has answered
	answered            int    // of that, how much has gone
	begun               bool
}

// viewOut is a message or request of ours.
type viewOut struct {
	o           *Outgoing // nil if it went at once
	id          uint32
	typ         *MuxType
	version     uint8
	request     bool
	data        []byte
	own         []byte // a copy that the machine gets; it is overwritten once the machine may use it no more
	given       int    // how much of it the machine has had
	replyMax    uint32
	begun, over bool
	sent        int
	quit        bool // no more of it may go
	resetDue    bool // once its beginning has gone
	refused     bool
	left        bool // to itself
	code        emp.Code

	waits, counts bool // a request: for its answer; for `req`, as the peer sees it
	deaf          bool // nobody waits for the answer any more
	gone          bool // given up before its last byte: that is not confirmed
	status        emp.Status
	replyBegun    bool
	replyTotal    uint32
	replyGot      uint32
}

func newView(t *testing.T, ours, theirs terms) *view {
	v := &view{t: t, types: map[uint32]OurType{}, advertised: max(ours.win, 65_600), req: int(ours.req), in: map[uint32]*viewIn{}, open: map[uint32]bool{},
		theyReq: int(theirs.req), spend: max(theirs.win, 65_600), out: map[uint32]*viewOut{}, pending: map[uint16][]*viewOut{}, openOut: map[uint16]*viewOut{}, must: map[string]int{}}
	v.window = v.advertised
	v.weOffer(ours)
	v.theyOffer(theirs)
	return v
}

// weOffer and theyOffer: §6.2, "In a later exchange `t` replaces the earlier one".
func (v *view) weOffer(tm terms) {
	for id, t := range v.types {
		t.Offered = false
		v.types[id] = t
	}
	for _, o := range tm.types {
		v.types[uint32(o.ID)] = OurType{true, o.MinVersion, o.MaxVersion, o.MaxLen}
	}
}

func (v *view) theyOffer(tm terms) {
	v.theirs = map[string]emp.TypeOffer{}
	for _, o := range tm.types {
		o.MaxLen = min(o.MaxLen, uint32(max(tm.win, 65_600))-64) // "No message may be larger than `win` − 64"
		v.theirs[o.Name] = o
	}
}

// mayOpen is what "The receiver's list decides what may be sent" means for a message of ours.
func (v *view) mayOpen(u *viewOut) error {
	o, ok := v.theirs[u.typ.Name()]
	switch {
	case !ok:
		return ErrTypeNotShared
	case u.version < o.MinVersion || u.version > o.MaxVersion:
		return ErrVersionNotShared
	case len(u.data) > int(o.MaxLen):
		return ErrMessageTooLarge
	}
	return nil
}

func (v *view) owe(payload []byte) { v.must[string(payload)]++ }

// viewFrame is a mux frame as §7.2 has it.
type viewFrame struct {
	kind                     byte
	first, request, response bool
	id, typ, total, replyMax uint32
	version                  uint8
	status, code, bytes      uint32
	data                     []byte
}

// readView reads a mux frame; false is ErrBadFrame.
func readView(p []byte) (f viewFrame, ok bool) {
	if len(p) == 0 {
		return f, false
	}
	f.kind, f.first, f.request, f.response = p[0]>>5, p[0]&0x10 != 0, p[0]&0x08 != 0, p[0]&0x04 != 0
	p, ok = p[1:], true
	uvarint := func() uint32 {
		v, n := binary.Uvarint(p)
		if n <= 0 || v >= 1<<32 || n > 1 && p[n-1] == 0 {
			p, ok = nil, false
			return 0
		}
		p = p[n:]
		return uint32(v)
	}
	switch f.kind {
	case 0:
		f.id = uvarint()
		switch {
		case !f.first:
		case f.response:
			f.status, f.total = uvarint(), uvarint()
			ok = ok && !f.request
		default:
			f.typ = uvarint()
			if ok = ok && len(p) > 0; ok {
				f.version, p = p[0], p[1:]
			}
			f.total = uvarint()
			if f.request {
				f.replyMax = uvarint()
			}
		}
		f.data = p
		ok = ok && len(p) <= 16_384 && (len(p) > 0 || f.first && f.total == 0) && (!f.first || uint64(len(p)) <= uint64(f.total))
	case 1:
		f.bytes = uvarint()
	case 2, 3:
		f.id, f.code = uvarint(), uvarint()
	}
	return f, ok
}

// hear judges a frame of the peer: the errors that the session may close with, none if it goes on; the events, of which a last one that is optional has a mark.
func (v *view) hear(payload []byte) (errs []error, events []string) {
	f, ok := readView(payload)
	if !ok {
		return []error{ErrBadFrame}, nil
	}
	code := emp.Code(f.code)
	if f.code > 5 {
		code = emp.CodeInternal // §7.2: "others count as 4"
	}
	tell := func(e MuxEvent) { events = append(events, e.String()) }
	switch {
	case f.kind > 3, f.kind == 1 && f.bytes == 0:
		if v.quiet++; v.quiet > 1000 {
			errs = append(errs, ErrFlood)
		}
	case f.kind == 1:
		if v.spend += int64(f.bytes); v.spend > 1<<31-1 {
			errs = append(errs, ErrWindowExceeded)
		}
	case f.kind == 0 && f.response:
		u := v.out[f.id]
		switch {
		case u == nil || !u.waits: // §7.5: "discarded"
			return nil, nil
		case f.first && u.replyBegun:
			return []error{ErrBadOrder}, nil
		case !f.first && !u.replyBegun:
			return []error{ErrUnknownMessage}, nil
		case !f.first && uint64(u.replyGot)+uint64(len(f.data)) > uint64(u.replyTotal):
			return []error{ErrBadFrame}, nil
		}
		if f.first {
			u.replyBegun, u.replyTotal = true, f.total
			v.quit(u) // "the requester finishes or RESETs the request": ours RESETs
		}
		u.replyGot += uint32(len(f.data))
		last := u.replyGot == u.replyTotal
		status := emp.Status(f.status)
		if f.status > 6 {
			status = emp.StatusFailed
		}
		if f.first {
			u.status = status
		}
		switch {
		case u.deaf:
		case f.first && f.total > u.replyMax: // §7.3: "gets STOP 2, and the call ends with status 5"
			u.deaf = true
			tell(MuxEvent{Kind: MuxCallEnded, ID: f.id, Status: emp.StatusTooLarge})
			if !last {
				v.owe(stopAnswer(f.id, emp.CodeTooLarge))
			}
		default:
			tell(MuxEvent{Kind: MuxReply, ID: f.id, First: f.first, Last: last, Total: u.replyTotal, Data: f.data, Status: u.status})
		}
		if last {
			u.waits, u.counts = false, false
		}
	case f.kind == 2 && f.response:
		if u := v.out[f.id]; u != nil && u.waits {
			v.endCall(u, code, false, tell)
		}
	case f.kind == 3 && !f.response:
		u := v.out[f.id]
		switch {
		case u == nil:
			errs = append(errs, ErrUnknownMessage)
		case u.waits:
			v.endCall(u, code, true, tell)
		case !u.over && !u.quit:
			if u.refused, u.code = true, code; u.left {
				tell(MuxEvent{Kind: MuxRefused, ID: f.id, Code: code})
			}
			v.quit(u)
		default:
			events = append(events, "?"+MuxEvent{Kind: MuxRefused, ID: f.id, Code: code}.String())
		}
	case f.kind == 3:
		if r := v.in[f.id]; r != nil && r.waits {
			switch {
			case r.begun || r.answer != nil: // "a sender that has not yet sent the last byte answers RESET"
				r.waits, r.counts, r.answer = false, false, nil
				v.owe(resetAnswer(f.id, 0))
			case !r.over:
				r.waits, r.counts, r.dead = false, false, true
				v.owed += messageCost(r.total)
				v.owe(resetAnswer(f.id, 0))
				tell(MuxEvent{Kind: MuxDropped, ID: f.id})
			default:
				v.cancel(r, tell)
			}
		}
	case f.kind == 2:
		r := v.in[f.id]
		switch {
		case r == nil:
			errs = append(errs, ErrUnknownMessage)
		case r.over:
			if r.waits {
				v.cancel(r, tell)
			}
		default:
			r.over, v.open[r.typ] = true, false
			if !r.dead {
				r.dead = true
				v.owed += messageCost(r.total)
				tell(MuxEvent{Kind: MuxDropped, ID: f.id})
			}
			if r.counts = false; r.waits && !r.begun { // "which is not confirmed"
				r.waits, r.answer = false, nil
			}
		}
	case f.first:
		t, ever := v.types[f.typ]
		if uint64(f.id) != v.next {
			errs = append(errs, ErrBadOrder)
		}
		if !ever || f.version < t.MinVersion || f.version > t.MaxVersion {
			errs = append(errs, ErrTypeNeverOffered)
		}
		if ever && f.total > t.MaxLen {
			errs = append(errs, ErrMessageTooLarge)
		}
		if v.open[f.typ] {
			errs = append(errs, ErrBadOrder)
		}
		if messageCost(f.total) > v.window {
			errs = append(errs, ErrWindowExceeded)
		}
		if errs != nil {
			return errs, nil
		}
		v.next++
		v.window -= messageCost(f.total)
		r := &viewIn{id: f.id, typ: f.typ, total: f.total, got: uint32(len(f.data)), version: f.version, request: f.request, replyMax: min(f.replyMax, 16<<20)}
		r.over = r.got == r.total
		v.in[f.id], v.open[f.typ] = r, !r.over
		counting := 0
		for _, other := range v.in {
			if other.counts {
				counting++
			}
		}
		switch {
		case !t.Offered && f.request:
			v.owe(answer(f.id, emp.StatusNoHandler, 0, ""))
			r.dead = true
		case !t.Offered:
			v.owe(stop(f.id, emp.CodeWithdrawn))
			r.dead = true
		case f.request && counting >= v.req:
			v.owe(answer(f.id, emp.StatusBusy, 0, ""))
			r.dead = true
		default:
			r.waits, r.counts = f.request, f.request
			tell(MuxEvent{Kind: MuxData, ID: f.id, Type: uint16(f.typ), Version: f.version, Request: f.request, First: true, Last: r.over, Total: f.total, ReplyMax: r.replyMax, Data: f.data})
			return nil, events
		}
		v.owed += messageCost(f.total)
	default:
		r := v.in[f.id]
		switch {
		case r == nil || r.over:
			return []error{ErrUnknownMessage}, nil
		case uint64(r.got)+uint64(len(f.data)) > uint64(r.total):
			return []error{ErrBadFrame}, nil
		}
		r.got += uint32(len(f.data))
		if r.over = r.got == r.total; r.over {
			v.open[r.typ] = false
		}
		if !r.dead {
			tell(MuxEvent{Kind: MuxData, ID: f.id, Type: uint16(r.typ), Version: r.version, Request: r.request, Last: r.over, Total: r.total, Data: f.data})
		}
	}
	return errs, events
}

// cancel is RESET of a whole request, and STOP of its answer: §7.5.
func (v *view) cancel(r *viewIn, tell func(MuxEvent)) {
	switch {
	case r.cancelled || r.begun: // the rest of the answer confirms it
	case r.answer != nil:
		r.waits, r.counts, r.answer = false, false, nil
		v.owe(resetAnswer(r.id, 0))
	default:
		r.cancelled = true
		tell(MuxEvent{Kind: MuxCancelled, ID: r.id})
	}
}

// endCall is the end of a call of ours without the rest of an answer.
func (v *view) endCall(u *viewOut, code emp.Code, refused bool, tell func(MuxEvent)) {
	if !u.deaf {
		tell(MuxEvent{Kind: MuxCallEnded, ID: u.id, Refused: refused, Code: code})
	}
	u.waits, u.counts, u.deaf = false, false, true
	v.quit(u)
}

// quit stops a message of ours that is not whole: RESET is owed, at once if its beginning has gone.
func (v *view) quit(u *viewOut) {
	if u.over || u.quit {
		return
	}
	u.quit = true
	v.oweReset(u)
}

func (v *view) oweReset(u *viewOut) {
	if u.begun {
		v.owe(reset(u.id, 0))
	} else {
		u.resetDue = true
	}
}

// say judges frames that are written together: control first, and then no more of it is owed.
func (v *view) say(payloads [][]byte, whole bool) {
	v.t.Helper()
	credited := false
	for _, p := range payloads {
		f, ok := readView(p)
		if !ok || f.kind > 3 {
			v.t.Fatalf("writes %x", p)
		}
		var u *viewOut
		if !f.response {
			u = v.out[f.id]
		}
		switch {
		case v.must[string(p)] > 0:
			if v.must[string(p)]--; v.must[string(p)] == 0 {
				delete(v.must, string(p))
			}
			if f.kind == 2 && u != nil && !u.over {
				v.ended(u)
			}
		case f.kind == 1:
			if int64(f.bytes) != v.owed || credited || v.owed == 0 {
				v.t.Fatalf("credit of %d, owed %d", f.bytes, v.owed)
			}
			v.window += v.owed
			v.owed, credited = 0, true
		case f.kind == 2 && u != nil && u.resetDue:
			if u.resetDue = false; !u.over {
				v.ended(u)
			}
		case f.kind == 0 && f.response:
			r := v.in[f.id]
			if r == nil || !r.waits || r.answer == nil || f.first == r.begun || !bytes.HasPrefix(r.answer[r.answered:], f.data) ||
				f.first && (f.total != uint32(len(r.answer)) || emp.Status(f.status) != r.status) {
				v.t.Fatalf("writes %s, of %+v", brief([][]byte{p}), r)
			}
			r.begun = true
			if r.answered += len(f.data); r.answered == len(r.answer) {
				r.waits, r.counts = false, false
			}
		case f.kind == 0 && f.first:
			v.begin(&f)
		case f.kind == 0 && u != nil && !u.over && !u.quit:
			v.fragment(u, &f)
		default:
			v.t.Fatalf("writes %s (%x), owed %x", brief([][]byte{p}), p, v.must)
		}
	}
	if len(v.must) > 0 || v.owed != 0 {
		v.t.Fatalf("writes %s, and not %x and credit of %d, which it owes", brief(payloads), v.must, v.owed)
	}
	if whole {
		for id, u := range v.out {
			if u.resetDue {
				v.t.Fatalf("no RESET of %d", id)
			}
		}
	}
}

// begin judges a FIRST of ours.
func (v *view) begin(f *viewFrame) {
	v.t.Helper()
	var u *viewOut
	for _, list := range v.pending {
		if len(list) > 0 && list[0].typ.id == uint16(f.typ) {
			u = list[0]
		}
	}
	if u == nil || u.version != f.version || uint32(len(u.data)) != f.total || u.request != f.request || u.replyMax != f.replyMax {
		v.t.Fatalf("opens %+v, the next of its type is %+v", f, u)
	}
	if uint64(f.id) != v.nextOut || v.openOut[u.typ.id] != nil {
		v.t.Fatalf("opens %d, the next id is %d; another of its type is open: %v", f.id, v.nextOut, v.openOut[u.typ.id] != nil)
	}
	if v.spend -= messageCost(f.total); v.spend < 0 {
		v.t.Fatalf("goes beyond the window by %d", -v.spend)
	}
	v.pending[u.typ.id] = v.pending[u.typ.id][1:]
	v.nextOut++
	u.id, u.begun, u.counts = f.id, true, u.request
	u.waits = u.request && !u.gone
	v.out[f.id], v.openOut[u.typ.id] = u, u
	if v.fragment(u, f); u.request {
		counting := 0
		for _, other := range v.out {
			if other.counts {
				counting++
			}
		}
		if counting > v.theyReq {
			v.t.Fatalf("%d requests are unanswered, %d are allowed", counting, v.theyReq)
		}
	}
}

// fragment judges data of ours.
func (v *view) fragment(u *viewOut, f *viewFrame) {
	v.t.Helper()
	if !bytes.HasPrefix(u.data[u.sent:], f.data) {
		v.t.Fatalf("%d bytes at %d of message %d are others", len(f.data), u.sent, u.id)
	}
	if u.sent += len(f.data); u.sent == len(u.data) {
		u.over, v.openOut[u.typ.id] = true, nil
	}
}

// ended notes a RESET of ours of a message that was not whole.
func (v *view) ended(u *viewOut) {
	u.over, u.counts = true, false
	if v.openOut[u.typ.id] == u {
		v.openOut[u.typ.id] = nil
	}
}

// respond is what an answer of the application makes: §7.3 and §7.5.
func (v *view) respond(r *viewIn, status emp.Status, payload []byte) {
	if !r.over && !r.dead { // "the responder discards as after STOP"
		r.dead = true
		v.owed += messageCost(r.total)
	}
	switch {
	case r.cancelled:
		v.owe(resetAnswer(r.id, 0))
		payload = nil
	case len(payload) > int(r.replyMax) && status == emp.StatusFailed: // "cut to reply-max": the text here is ASCII
		payload = payload[:r.replyMax]
	case len(payload) > int(r.replyMax):
		status, payload = emp.StatusTooLarge, nil
	}
	switch {
	case len(payload) > 0:
		r.status, r.answer = status, payload
		return
	case !r.cancelled:
		v.owe(answer(r.id, status, 0, ""))
	}
	r.waits, r.counts = false, false
}

// refuse is STOP by the application.
func (v *view) refuse(r *viewIn, code emp.Code) {
	v.owed += messageCost(r.total)
	r.dead = true
	if r.cancelled { // "is always confirmed"
		v.owe(resetAnswer(r.id, 0))
	} else {
		v.owe(stop(r.id, code))
	}
	r.waits, r.counts = false, false
}

// A muxPlay is a machine, its application, and the view that watches both.
type muxPlay struct {
	t            *testing.T
	d            *dialogue
	v            *view
	ours, theirs terms     // as they began
	taken        []*viewIn // whole, and with the application
	live         []*viewOut
	serial       int
	offers       []terms  // made, and not heard by the other end yet
	wire         [][]byte // payloads of mux frames, and nil for an exchange, on their way to the other end
	cut          int      // how frames are cut
}

func newMuxPlay(t *testing.T, ours, theirs terms) *muxPlay {
	p := &muxPlay{t: t, d: openMux(t, ours, theirs), v: newView(t, ours, theirs), ours: ours, theirs: theirs}
	p.d.m.cfg.SendQueueBytes = 20_000
	return p
}

// pattern is the payload of the message with a number, in ASCII.
func pattern(serial, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((serial*31 + i*7 + i>>8) & 0x7f)
	}
	return b
}

// hear feeds a mux frame and checks what comes of it; false if the session has ended, as it must.
func (p *muxPlay) hear(payload []byte) bool {
	p.t.Helper()
	d, v := p.d, p.v
	if f, ok := readView(payload); ok && (f.kind == 3) != f.response || f.kind == 0 && f.response {
		if uint64(f.id) >= v.nextOut && uint64(f.id) < d.m.mux.nextOut {
			p.write(1 << 30) // it is about one that the machine has opened, though nobody has seen it
		}
	}
	errs, events := v.hear(payload)
	frame := encode(p.t, wire.Extended{ID: ourMux, Payload: payload})
	if p.cut++; p.cut%3 == 0 {
		d.feed(frame[:len(frame)/2])
		frame = frame[len(frame)/2:]
	}
	d.feed(frame)
	var got []string
	for _, e := range d.events {
		switch e := e.(type) {
		case closed:
			if !slices.ContainsFunc(errs, func(want error) bool { return errors.Is(e.err, want) }) || FaultOf(e.err) != FaultPeer {
				p.t.Fatalf("frame %x ends the session with %v, want %v", payload, e.err, errs)
			}
			d.checkMux()
			return false
		case MuxEvent:
			got = append(got, e.String())
			if e.Kind == MuxData && e.Last {
				p.taken = append(p.taken, v.in[e.ID])
			}
			if call := e.Call; call != nil && call.id != e.ID {
				p.t.Fatalf("the call of %v is %d", e, call.id)
			}
		}
	}
	d.events = nil
	if len(errs) > 0 {
		p.t.Fatalf("frame %x is accepted, want %v", payload, errs)
	}
	if len(events) > 0 && strings.HasPrefix(events[0], "?") {
		if events[0] = events[0][1:]; len(got) == 0 {
			events = nil
		}
	}
	if !slices.Equal(got, events) {
		p.t.Fatalf("frame %x: events\n%s\nwant\n%s", payload, strings.Join(got, "\n"), strings.Join(events, "\n"))
	}
	p.check()
	return true
}

// theyOffer feeds an exchange of the peer.
func (p *muxPlay) theyOffer(tm terms) {
	p.t.Helper()
	p.d.offered(tm)
	p.v.theyOffer(tm)
	p.check()
}

// write takes the output: as much as limit allows, or all of it.
func (p *muxPlay) write(limit int) {
	p.t.Helper()
	for i := 0; i == 0 || limit == 1<<30 && p.d.m.HasApp(); i++ {
		if i > 1000 {
			p.t.Fatal("the output has no end")
		}
		out := p.d.m.AppendOutput(p.d.now, nil, limit)
		var payloads [][]byte
		var dec classic.Decoder
		for len(out) > 0 {
			n := classic.LengthBytes + int(binary.BigEndian.Uint32(out))
			msg, err := dec.Decode(out[classic.LengthBytes:n])
			e, ok := msg.(*wire.Extended)
			switch {
			case err != nil || !ok:
				p.t.Fatalf("writes %x: %v", out[:n], err)
			case e.ID == ltep.ExchangeID:
				p.wire = append(p.wire, nil)
			default:
				payloads = append(payloads, bytes.Clone(e.Payload))
				p.wire = append(p.wire, payloads[len(payloads)-1])
			}
			out = out[n:]
		}
		p.v.say(payloads, !p.d.m.HasApp())
		p.check()
	}
}

// check compares what the machine knows of our messages, and of the windows, with the view.
func (p *muxPlay) check() {
	p.t.Helper()
	d, v := p.d, p.v
	d.checkMux()
	if spend, window := d.m.PeerMuxWindow(); window != v.window || d.m.mux.owed != v.owed || spend > v.spend || d.m.AppQueued() == 0 && spend != v.spend {
		p.t.Fatalf("we may spend %d, the peer %d, %d owed; want %d, %d, %d", spend, window, d.m.mux.owed, v.spend, v.window, v.owed)
	}
	for _, o := range d.m.MuxChanged() {
		if !o.Done() && !o.Hungry() {
			p.t.Fatalf("message %d has changed, and is neither done nor hungry", o.id)
		}
		if own, ok := o.Owner.([]byte); ok && o.Done() {
			scribble(own)
		}
	}
	p.live = slices.DeleteFunc(p.live, func(u *viewOut) bool {
		o, refusal := u.o, v.mayOpen(u)
		queued := o.state != outWaiting // the machine has opened it, though perhaps it was not written yet
		switch {
		case u.refused:
			if !o.Done() || !errors.Is(o.Err(), ErrRefused) || o.Code != u.code {
				p.t.Fatalf("message %d was refused: done %v, %v, code %v", u.id, o.Done(), o.Err(), o.Code)
			}
			return true
		case !u.begun && o.Done() && o.Err() != nil:
			if refusal == nil || !errors.Is(o.Err(), refusal) {
				p.t.Fatalf("a message that has not begun fails: %v, want %v", o.Err(), refusal)
			}
			v.drop(u)
			return true
		case !u.begun && !queued && refusal != nil:
			p.t.Fatalf("a message waits that cannot be sent: %v", refusal)
		case u.begun && u.request && !u.waits, u.begun && !u.request && u.over:
			if !o.Done() || o.Err() != nil {
				p.t.Fatalf("message %d is over: done %v, %v", u.id, o.Done(), o.Err())
			}
			return true
		case o.Done() && (u.request || len(u.data) > wire.MaxFragment):
			p.t.Fatalf("message %d is not over: done %v, %v", u.id, o.Done(), o.Err())
		}
		return false
	})
}

// scribble is what an owner does with memory that the machine is done with.
func scribble(b []byte) {
	for i := range b {
		b[i] = 0xee
	}
}

// drop takes a message out of those that have not begun.
func (v *view) drop(u *viewOut) {
	v.pending[u.typ.id] = slices.DeleteFunc(v.pending[u.typ.id], func(w *viewOut) bool { return w == u })
}

// pick returns one of the peer's messages of a kind, by number; nil if there is none.
func (v *view) pick(n uint32, want func(r *viewIn) bool) *viewIn {
	var all []uint32
	for id, r := range v.in {
		if want(r) {
			all = append(all, id)
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return v.in[all[int(n)%len(all)]]
}

// pickOut returns one of ours likewise.
func (v *view) pickOut(n uint32, want func(u *viewOut) bool) *viewOut {
	var all []uint32
	for id, u := range v.out {
		if want(u) {
			all = append(all, id)
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return v.out[all[int(n)%len(all)]]
}

var muxSizes = []int{0, 1, 2, 64, 100, 1000, 16_384, 16_385, 40_000, 65_536, 69_936, 10}

// muxActs is what an application may do, of a number.
var muxActs = []func(p *muxPlay, n uint32){
	func(p *muxPlay, n uint32) { p.write(int(n) % 40_000) },
	func(p *muxPlay, n uint32) { p.write(1 << 30) },
	func(p *muxPlay, n uint32) { p.credit(n) },
	func(p *muxPlay, n uint32) { p.credit(n) },
	func(p *muxPlay, n uint32) { p.respond(n, false) },
	func(p *muxPlay, n uint32) { p.respond(n, false) },
	func(p *muxPlay, n uint32) { p.respond(n, true) },
	func(p *muxPlay, n uint32) { p.refuse(n) },
	func(p *muxPlay, n uint32) { p.submit(n, false) },
	func(p *muxPlay, n uint32) { p.submit(n, false) },
	func(p *muxPlay, n uint32) { p.submit(n, true) },
	func(p *muxPlay, n uint32) { p.submit(n, true) },
	func(p *muxPlay, n uint32) { p.tell(n) },
	func(p *muxPlay, n uint32) { p.supply(n) },
	func(p *muxPlay, n uint32) { p.supply(n) },
	func(p *muxPlay, n uint32) { p.takeTail(n) },
	func(p *muxPlay, n uint32) { p.abandon(n) },
	func(p *muxPlay, n uint32) { p.offer(n) },
}

func (p *muxPlay) credit(n uint32) {
	if len(p.taken) == 0 {
		return
	}
	i := int(n) % len(p.taken)
	cost := messageCost(p.taken[i].total)
	p.taken = slices.Delete(p.taken, i, i+1)
	p.d.credit(cost)
	p.v.owed += cost
	p.check()
}

// respond answers a request, also before all of it has come.
func (p *muxPlay) respond(n uint32, early bool) {
	p.t.Helper()
	r := p.v.pick(n, func(r *viewIn) bool { return r.waits && r.answer == nil && (early || r.over) })
	if r == nil {
		return
	}
	size := []int{0, 1, 100, int(min(r.replyMax, 50_000)), int(r.replyMax) + 1, 20_000}[n>>8%6]
	status := []emp.Status{emp.StatusAnswered, emp.StatusFailed, emp.StatusRefused}[n>>16%3]
	payload := pattern(int(r.id)+1000, min(size, 70_000))
	own := bytes.Clone(payload)
	done, err := p.d.m.Respond(&Outgoing{Owner: own}, r.id, status, own)
	if p.v.respond(r, status, payload); err != nil || done != (r.answer == nil) {
		p.t.Fatalf("Respond: done %v, %v", done, err)
	}
	if done {
		scribble(own)
	}
	p.check()
}

func (p *muxPlay) refuse(n uint32) {
	p.t.Helper()
	code := emp.Code(n >> 8 % 6)
	if n>>16%2 == 0 {
		if r := p.v.pick(n, func(r *viewIn) bool { return !r.over && !r.dead }); r != nil {
			p.d.refuse(r.id, r.total, code)
			p.v.refuse(r, code)
			p.check()
		}
		return
	}
	for i, r := range p.taken {
		if r.request == (r.waits && r.answer == nil) { // not answered yet
			p.taken = slices.Delete(p.taken, i, i+1)
			p.d.refuse(r.id, r.total, code)
			p.v.refuse(r, code)
			p.check()
			return
		}
	}
}

// next makes a message of ours.
func (p *muxPlay) next(n uint32, request bool) *viewOut {
	names := []string{"one", "two", "big"}
	u := &viewOut{typ: p.d.typ(names[n%3]), request: request, data: pattern(p.serial, muxSizes[n>>2%12])}
	if u.typ.Name() == "one" {
		u.version = uint8(n >> 7 % 3 % 2)
	}
	u.own = bytes.Clone(u.data)
	if p.serial++; request {
		u.replyMax = []uint32{0, 100, 65_536, 1 << 20}[n>>8%4]
	}
	return u
}

func (p *muxPlay) submit(n uint32, request bool) {
	p.t.Helper()
	u := p.next(n, request)
	u.given = len(u.data)
	if n>>10%3 == 0 {
		u.given = min(u.given, 1+int(n>>12%20_000))
	}
	u.o = &Outgoing{Type: u.typ, Version: u.version, Priority: int8(n >> 20 % 3), Total: uint32(len(u.data)), Request: request, ReplyMax: u.replyMax}
	want := p.v.mayOpen(u)
	if !request { // whose end is told otherwise
		u.o.Owner = u.own
	}
	if err := p.d.m.Submit(u.o, u.own[:u.given]); !errors.Is(err, want) || want == nil && err != nil {
		p.t.Fatalf("Submit: %v, want %v", err, want)
	}
	if want == nil {
		p.v.pending[u.typ.id] = append(p.v.pending[u.typ.id], u)
		p.live = append(p.live, u)
	}
	p.check()
}

// tell is a message that goes at once or not at all.
func (p *muxPlay) tell(n uint32) {
	p.t.Helper()
	u := p.next(n, false)
	want := p.v.mayOpen(u)
	sent, err := p.d.m.SendMessage(u.typ, u.version, int8(n>>20%3), u.own)
	scribble(u.own)
	if !errors.Is(err, want) || want == nil && err != nil {
		p.t.Fatalf("SendMessage: %v, want %v", err, want)
	}
	if sent {
		p.v.pending[u.typ.id] = append(p.v.pending[u.typ.id], u)
	}
	p.check()
}

func (p *muxPlay) supply(n uint32) {
	for _, u := range p.live {
		if u.o.Hungry() {
			more := min(len(u.data)-u.given, 1+int(n%30_000))
			p.d.m.Supply(u.o, u.own[u.given:u.given+more])
			u.given += more
		}
	}
	p.check()
}

func (p *muxPlay) takeTail(n uint32) {
	for i, u := range p.live {
		if u.o.Tail() > 0 && !u.request && n>>(i%24)&1 == 0 {
			buf := p.d.m.TakeTail(u.o, make([]byte, 1, 2))
			scribble(u.own)
			u.own, u.o.Owner = buf, buf
			u.left = true
		}
	}
	p.check()
}

func (p *muxPlay) abandon(n uint32) {
	p.t.Helper()
	if len(p.live) == 0 {
		return
	}
	i := int(n) % len(p.live)
	u := p.live[i]
	state := u.o.state
	p.d.abandon(u.o)
	scribble(u.own)
	switch state {
	case outWaiting:
		p.v.drop(u)
		u.gone = true
	case outOpen:
		u.gone, u.waits, u.deaf = true, false, true
		p.v.quit(u)
	case outSent:
		switch {
		case u.deaf: // it has ended for us
		case u.replyBegun:
			p.v.owe(stopAnswer(u.id, 0))
		default:
			p.v.oweReset(u)
		}
		u.deaf = true
	case outDone:
		return // its last byte is on its way
	}
	p.live = slices.Delete(p.live, i, i+1)
	p.check()
}

// offer withdraws types of ours, or brings them back.
func (p *muxPlay) offer(n uint32) {
	p.t.Helper()
	if p.d.m.exchangesOut > 28 {
		return
	}
	tm := p.ours.some(n)
	p.d.offer(tm)
	p.v.weOffer(tm)
	p.offers = append(p.offers, tm)
	p.write(0)
}

// some returns the terms without some of the types.
func (tm terms) some(n uint32) terms {
	for i, name := range []string{"one", "two", "big"} {
		if n>>i&1 != 0 && n>>3&1 != 0 {
			tm = tm.without(name)
		}
	}
	return tm
}

// tight is terms that are soon used up.
func tight() terms {
	tm := usual()
	tm.win = 70_000
	tm.types = slices.Clone(tm.types)
	tm.types[2].MaxLen = 69_936
	return tm
}

// settle does what an application does in the end: it takes and answers everything.
func (p *muxPlay) settle() {
	p.t.Helper()
	for len(p.taken) > 0 {
		p.credit(0)
	}
	for p.v.pick(0, func(r *viewIn) bool { return r.waits && r.answer == nil && r.over }) != nil {
		p.respond(0, false)
	}
	p.supply(29_999)
	p.write(1 << 30)
}

// wantRest checks that nothing is under way any more and that the windows are full.
func (p *muxPlay) wantRest() {
	p.t.Helper()
	x := p.d.m.mux
	if len(x.in)+len(x.served)+len(x.calls)+len(x.waiting)+len(x.streams)+len(p.live) != 0 || x.unsent != 0 || p.d.m.HasOutput() {
		p.t.Fatalf("left over: %d in, %d served, %d calls, %d waiting, %d streams, %d live", len(x.in), len(x.served), len(x.calls), len(x.waiting), len(x.streams), len(p.live))
	}
	for _, u := range p.v.out {
		if !u.over || u.waits || u.resetDue {
			p.t.Fatalf("message %d is not over: %+v", u.id, u)
		}
	}
	for typ, list := range p.v.pending {
		if len(list) > 0 {
			p.t.Fatalf("%d messages of type %d have not gone", len(list), typ)
		}
	}
	if p.v.window != p.v.advertised || x.window != p.v.advertised {
		p.t.Fatalf("the window has %d and %d, advertised %d", p.v.window, x.window, p.v.advertised)
	}
}

// peerActs is what a peer may do, of a number: what the text allows, and what it does not. false if the session has ended, as it had to.
var peerActs = []func(p *muxPlay, n uint32) bool{
	func(p *muxPlay, n uint32) bool { return p.hear(p.opening(n, false)) },
	func(p *muxPlay, n uint32) bool { return p.hear(p.opening(n, false)) },
	func(p *muxPlay, n uint32) bool { return p.hear(p.opening(n, true)) },
	func(p *muxPlay, n uint32) bool { return p.hear(p.opening(n, true)) },
	func(p *muxPlay, n uint32) bool { return p.fragment(n) },
	func(p *muxPlay, n uint32) bool { return p.fragment(n) },
	func(p *muxPlay, n uint32) bool { // RESET of something open, or of anything
		r := p.v.pick(n, func(r *viewIn) bool { return !r.over || r.waits })
		if r == nil || n>>8%4 == 0 {
			return p.v.next == 0 || p.hear(reset(n>>10%uint32(p.v.next), emp.Code(n>>10%7)))
		}
		return p.hear(reset(r.id, emp.Code(n>>10%7)))
	},
	func(p *muxPlay, n uint32) bool { return p.hear(credit(int(n % 10_000))) },
	func(p *muxPlay, n uint32) bool { return p.refill() },
	func(p *muxPlay, n uint32) bool { // STOP of something that is not over, or of anything
		u := p.v.pickOut(n, func(u *viewOut) bool { return !u.over || u.waits })
		if u == nil || n>>8%4 == 0 {
			return p.v.nextOut == 0 || p.hear(stop(n>>10%uint32(p.v.nextOut), emp.Code(n>>10%7)))
		}
		return p.hear(stop(u.id, emp.Code(n>>10%7)))
	},
	func(p *muxPlay, n uint32) bool { return p.reply(n) },
	func(p *muxPlay, n uint32) bool { return p.reply(n) },
	func(p *muxPlay, n uint32) bool {
		return p.hear(resetAnswer(n%uint32(p.v.nextOut+1), emp.Code(n>>10%7)))
	},
	func(p *muxPlay, n uint32) bool { // STOP of an answer
		r := p.v.pick(n, func(r *viewIn) bool { return r.waits })
		if r == nil {
			return p.hear(stopAnswer(n%100, 0))
		}
		return p.hear(stopAnswer(r.id, emp.Code(n>>10%7)))
	},
	func(p *muxPlay, n uint32) bool { p.theyOffer(p.theirs.some(n)); return true },
	func(p *muxPlay, n uint32) bool { // a frame that is nearly right
		b := p.opening(n, n%2 == 0)
		b[int(n>>8)%min(len(b), 8)] ^= 1 << (n >> 4 % 8)
		return p.hear(b)
	},
	func(p *muxPlay, n uint32) bool { // nearly anything, about ids that are there
		id := uint32(max(p.v.next, p.v.nextOut) / 2)
		return p.hear([]byte{byte(n), byte(id+n>>8%4) & 0x7f, byte(n>>10) & 3, byte(n>>12) & 3, byte(n>>14) & 7, byte(n>>17) & 15})
	},
	func(p *muxPlay, n uint32) bool { return p.hear([]byte{byte(n), byte(n >> 8), byte(n >> 16)}) },
}

// opening is a FIRST of the peer, with its first bytes; usually legal.
func (p *muxPlay) opening(n uint32, request bool) []byte {
	typ := 1 + n%3
	total := min(muxSizes[n>>2%12], int(p.v.types[typ].MaxLen))
	if n>>6%16 != 0 { // otherwise let it be beyond the window, or another open
		total = min(total, max(0, int(p.v.window)-64))
		for i := uint32(0); i < 3 && p.v.open[typ]; i++ {
			typ = 1 + (n+i)%3
			total = min(total, int(p.v.types[typ].MaxLen))
		}
	}
	version := byte(0)
	if typ == 1 {
		version = byte(n >> 10 % 2)
	}
	b := binary.AppendUvarint([]byte{0x10}, p.v.next)
	b = binary.AppendUvarint(append(binary.AppendUvarint(b, uint64(typ)), version), uint64(total))
	if request {
		b[0] |= 0x08
		b = binary.AppendUvarint(b, []uint64{0, 10, 20_000, 1<<32 - 1}[n>>11%4])
	}
	return append(b, pattern(int(p.v.next), min(total, 16_384, 1+int(n>>13)*100))...)
}

// fragment goes on with a message of the peer.
func (p *muxPlay) fragment(n uint32) bool {
	r := p.v.pick(n, func(r *viewIn) bool { return !r.over })
	if r == nil || n>>8%32 == 0 {
		return n>>8%32 != 0 || p.hear(more(n>>13%uint32(p.v.next+2), "x"))
	}
	k := min(int(r.total-r.got), 16_384)
	if n>>16%2 == 0 {
		k = min(k, 1+int(n>>13)*10)
	}
	return p.hear(more(r.id, string(pattern(int(r.id), int(r.total))[r.got:int(r.got)+k])))
}

// refill is the credit that we are to get back at least for what is over.
func (p *muxPlay) refill() bool {
	if p.v.spend >= 70_000 {
		return true
	}
	return p.hear(credit(int(70_000 - p.v.spend)))
}

// reply is an answer of the peer, or more of one.
func (p *muxPlay) reply(n uint32) bool {
	u := p.v.pickOut(n, func(u *viewOut) bool { return u.waits })
	switch {
	case u == nil || n>>8%32 == 0:
		return p.hear(answer(n>>13%uint32(p.v.nextOut+1), emp.Status(n%8), 2, "ab")) && p.hear(moreAnswer(n>>13%uint32(p.v.nextOut+1), "c"))
	case u.replyBegun:
		k := min(int(u.replyTotal-u.replyGot), 16_384, 1+int(n>>8))
		return p.hear(moreAnswer(u.id, string(pattern(7, k))))
	}
	total := min(muxSizes[n>>8%12], int(u.replyMax)+1)
	return p.hear(answer(u.id, emp.Status(n>>12%8), total, string(pattern(7, min(total, 16_384, 1+int(n>>15)*10)))))
}

// FuzzMuxModel makes a session of the fuzzer's bytes, 4 to a step: what the application does, and what the peer does, who keeps to the text or does not. A view of what the
// text says about each step must agree with the machine: what is told, what is said, what is left of the windows, or how the session ends.
func FuzzMuxModel(f *testing.F) {
	acts := len(muxActs) + len(peerActs)
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var program []byte
		for range 200 {
			program = append(program, byte(rng.IntN(acts-2)), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()))
		}
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) { playModel(t, program) })
}

func playModel(t *testing.T, program []byte) {
	if len(program) > 4*400 {
		return
	}
	p := newMuxPlay(t, tight(), tight())
	for ; len(program) >= 4; program = program[4:] {
		op := int(program[0]) % (len(muxActs) + len(peerActs))
		n := uint32(program[1])<<16 | uint32(program[2])<<8 | uint32(program[3])
		if op < len(muxActs) {
			muxActs[op](p, n)
		} else if p.d.m.exchangesIn > 30 && op-len(muxActs) == 14 {
			continue
		} else if !peerActs[op-len(muxActs)](p, n) {
			return
		}
	}
	// In the end the peer behaves.
	for i := 0; ; i++ {
		p.settle()
		if r := p.v.pick(0, func(r *viewIn) bool { return !r.over }); r != nil {
			p.hear(reset(r.id, 0))
		} else if u := p.v.pickOut(0, func(u *viewOut) bool { return u.waits }); u != nil && u.replyBegun {
			p.hear(resetAnswer(u.id, 0))
		} else if u != nil {
			p.hear(answer(u.id, 0, 0, ""))
		} else if p.refill(); !p.d.m.HasOutput() && len(p.taken)+len(p.live) == 0 && p.v.spend >= 70_000 {
			break
		}
		if i > 5000 {
			t.Fatal("no rest")
		}
	}
	p.wantRest()
}

// FuzzMuxPair makes a session between two machines of the fuzzer's bytes, 4 to a step, with frames that stay on their way for a while. Whatever the applications do, what one
// machine writes the other takes; views at both ends agree; and in the end nothing is left and every window is full.
func FuzzMuxPair(f *testing.F) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var program []byte
		for range 200 {
			program = append(program, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()))
		}
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) { playPair(t, program) })
}

func playPair(t *testing.T, program []byte) {
	if len(program) > 4*400 {
		return
	}
	ends := [2]*muxPlay{newMuxPlay(t, tight(), tight()), newMuxPlay(t, tight(), tight())}
	deliver := func(from, to *muxPlay) {
		t.Helper()
		payload := from.wire[0]
		from.wire = from.wire[1:]
		if payload == nil {
			to.theyOffer(from.offers[0])
			from.offers = from.offers[1:]
		} else if !to.hear(payload) {
			t.Fatalf("%x ends the session: %v", payload, to.d.m.Err())
		}
	}
	for ; len(program) >= 4; program = program[4:] {
		p, other := ends[program[0]&1], ends[1-program[0]&1]
		op := int(program[0]>>1) % (len(muxActs) + 6)
		n := uint32(program[1])<<16 | uint32(program[2])<<8 | uint32(program[3])
		if op < len(muxActs) {
			muxActs[op](p, n)
			continue
		}
		for range 1 + n%8 {
			if len(other.wire) > 0 {
				deliver(other, p)
			}
		}
	}
	for i := 0; ; i++ {
		idle := true
		for side, p := range ends {
			p.settle()
			for len(p.wire) > 0 {
				idle = false
				deliver(p, ends[1-side])
			}
		}
		if idle && len(ends[0].taken)+len(ends[1].taken) == 0 && !ends[0].d.m.HasOutput() && !ends[1].d.m.HasOutput() {
			break
		}
		if i > 5000 {
			t.Fatal("no rest")
		}
	}
	for side, p := range ends {
		p.wantRest()
		if p.v.spend != ends[1-side].v.advertised {
			t.Fatalf("we may spend %d, the peer advertised %d", p.v.spend, ends[1-side].v.advertised)
		}
	}
}
