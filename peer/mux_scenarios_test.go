package peer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// Frames in a row to a receiver, as a second implementation of EMP/1 sees them.
func TestMuxScenariosOfASecondImplementation(t *testing.T) {
	sentinels := map[string]error{
		"ErrBadFrame": ErrBadFrame, "ErrBadOrder": ErrBadOrder, "ErrUnknownMessage": ErrUnknownMessage, "ErrTypeNeverOffered": ErrTypeNeverOffered,
		"ErrWindowExceeded": ErrWindowExceeded, "ErrMessageTooLarge": ErrMessageTooLarge,
	}
	for _, v := range wiretest.LoadShared(t, "mux_scenarios.json") {
		t.Run(v.Name, func(t *testing.T) {
			type delivery struct {
				Kind string
				ID   uint32
				Type wiretest.Hex
				Size int
			}
			var in struct {
				Receiver struct {
					Types, Withdrawn map[string][3]uint32 // [vmin, vmax, maxlen] by id
					Win, Req         int64
				}
				Payloads []wiretest.Hex
			}
			var out struct {
				Error     string
				Accepted  int
				Delivered []delivery
				Control   []wiretest.Hex `json:"control_before_the_application_takes_anything"`
				Window    int64          `json:"window_left"`
			}
			v.Unpack(t, &in, &out)

			// The receiver. The sender's window has its default.
			names := map[uint16]string{1: "one", 2: "two"}
			before := terms{win: in.Receiver.Win, req: in.Receiver.Req}
			var gone []string
			for i, list := range []map[string][3]uint32{in.Receiver.Types, in.Receiver.Withdrawn} {
				for key, limits := range list {
					id, err := strconv.ParseUint(key, 10, 16)
					if err != nil {
						t.Fatal(err)
					}
					o := emp.TypeOffer{Name: names[uint16(id)], ID: uint16(id), MinVersion: uint8(limits[0]), MaxVersion: uint8(limits[1]), MaxLen: limits[2]}
					if i == 1 {
						o.Name = "withdrawn " + key
						gone = append(gone, o.Name)
					}
					before.types = append(before.types, o)
				}
			}
			d := open(t, variants[2], geometry)
			d.offer(before)
			d.offer(before.without(gone...))
			d.feed(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMux, ID: theirMux}}, EMP: []byte("d1:vi1ee")})
			d.output()
			d.events = nil
			d.checkMux()

			var control [][]byte
			var back int64
			var delivered []delivery
			accepted := 0
			for _, p := range in.Payloads {
				d.hear(p)
				for _, e := range d.events {
					switch e := e.(type) {
					case closed:
						if want := sentinels[out.Error]; want == nil || !errors.Is(e.err, want) {
							t.Fatalf("frame %d: %v, want %q", accepted, e.err, out.Error)
						}
					case MuxEvent:
						switch {
						case e.Kind == MuxData && e.Last:
							delivered = append(delivered, delivery{map[bool]string{false: "message", true: "request"}[e.Request], e.ID, wiretest.Hex(names[e.Type]), int(e.Total)})
						case e.Kind == MuxCancelled: // no handler has seen it yet: the application gives it up at once
							i := slices.IndexFunc(delivered, func(d delivery) bool { return d.ID == e.ID })
							d.respond(e.ID, emp.StatusAnswered, "")
							d.credit(messageCost(uint32(delivered[i].Size)))
							delivered = slices.Delete(delivered, i, i+1)
						}
					}
				}
				d.events = nil
				for _, p := range d.said(1 << 20) {
					var f emp.Frame
					if err := f.Parse(p); err != nil {
						t.Fatal(err)
					}
					if f.Kind == emp.Credit {
						back += int64(f.Bytes)
					} else {
						control = append(control, p)
					}
				}
				d.checkMux()
				if d.m.Phase() == PhaseClosed {
					break
				}
				accepted++
			}
			if back > 0 {
				control = append(control, emp.AppendCredit(nil, uint32(back)))
			}
			if (d.m.Err() == nil) != (out.Error == "") || accepted != out.Accepted {
				t.Errorf("%d frames accepted, then %v; want %d, then %q", accepted, d.m.Err(), out.Accepted, out.Error)
			}
			var want [][]byte
			for _, p := range out.Control {
				want = append(want, p)
			}
			slices.SortFunc(control, bytes.Compare)
			slices.SortFunc(want, bytes.Compare)
			if fmt.Sprintf("%x", control) != fmt.Sprintf("%x", want) {
				t.Errorf("control %x, want %x", control, want)
			}
			if len(delivered)+len(out.Delivered) > 0 && fmt.Sprint(delivered) != fmt.Sprint(out.Delivered) {
				t.Errorf("delivered %v, want %v", delivered, out.Delivered)
			}
			if _, window := d.m.PeerMuxWindow(); window != out.Window {
				t.Errorf("the window has %d, want %d", window, out.Window)
			}
		})
	}
}

// A muxApp is a simple application at one end of a session: it takes whole messages and answers requests by their own bytes, backwards.
type muxApp struct {
	t        *testing.T
	d        *dialogue
	partial  map[uint32][]byte
	got      map[uint16][]string // messages and requests by their type, in order
	answers  map[*Outgoing][]byte
	statuses map[*Outgoing]emp.Status
	held     int64 // costs of what it has taken and not given back
	lazy     bool  // it gives back little by little
}

func newMuxApp(t *testing.T, d *dialogue) *muxApp {
	return &muxApp{t: t, d: d, partial: map[uint32][]byte{}, got: map[uint16][]string{}, answers: map[*Outgoing][]byte{}, statuses: map[*Outgoing]emp.Status{}}
}

func backwards(b []byte) []byte {
	b = bytes.Clone(b)
	slices.Reverse(b)
	return b
}

// take deals with the events of the session.
func (a *muxApp) take() {
	a.t.Helper()
	for _, e := range a.d.events {
		ev, ok := e.(MuxEvent)
		if !ok {
			a.t.Fatalf("event %v", e)
		}
		switch ev.Kind {
		case MuxData:
			buf, begun := a.partial[ev.ID]
			if buf = append(buf, ev.Data...); begun == ev.First || ev.Last != (len(buf) == int(ev.Total)) {
				a.t.Fatalf("%d bytes of message %d, and then %v", len(buf), ev.ID, ev)
			}
			a.partial[ev.ID] = buf
			if !ev.Last {
				break
			}
			delete(a.partial, ev.ID)
			a.got[ev.Type] = append(a.got[ev.Type], string(buf))
			a.held += messageCost(ev.Total)
			if ev.Request {
				a.d.respond(ev.ID, emp.StatusAnswered, string(backwards(buf)))
			}
		case MuxReply:
			a.answers[ev.Call] = append(a.answers[ev.Call], ev.Data...)
			if ev.Last {
				a.statuses[ev.Call] = ev.Status
				if len(a.answers[ev.Call]) != int(ev.Total) {
					a.t.Fatalf("%d bytes of an answer of %d", len(a.answers[ev.Call]), ev.Total)
				}
			}
		default:
			a.t.Fatalf("event %v", ev)
		}
	}
	a.d.events = nil
	back := a.held
	if a.lazy && back > 100 {
		back /= 3
	}
	if back > 0 {
		a.d.credit(back)
		a.held -= back
	}
	a.d.checkMux()
}

// Two machines, messages and requests of any size and several types both ways, bytes cut anywhere: everything arrives whole, once, and in order within its type (EMP/1
// §7.4); every window is full again in the end (§7.3).
func TestPairOfMuxSessions(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			tm := usual()
			tm.types = append(tm.types, emp.TypeOffer{Name: "four", ID: 4, MaxLen: 300_000})
			if seed%2 == 1 {
				tm.win = 1<<20 + 64 // room for one of the largest
			}
			names := []string{"one", "two", "big", "four"}
			p := pair(t, variants[2+seed%2], geometry, geometry)
			for _, d := range []*dialogue{p.a, p.b} {
				d.m.cfg.SendQueueBytes = 20_000
				e := tm.exchange([]uint8{ourMux, theirMux}[rng.IntN(2)]) // not the same for both
				id := e.M[0].ID
				use := tm.use()
				use.ID = id
				if err := d.m.SendExchange(&e, &WeUse{Mux: use}); err != nil {
					t.Fatal(err)
				}
			}
			p.pump()
			p.a.events, p.b.events = nil, nil
			apps := []*muxApp{newMuxApp(t, p.a), newMuxApp(t, p.b)}
			apps[1].lazy = true
			sent := []map[uint16][]string{{}, {}}
			asked := []map[*Outgoing]string{{}, {}}
			const rounds = 250
			for round := 0; ; round++ {
				for i, a := range apps {
					if round < rounds && rng.IntN(2) == 0 {
						name := names[rng.IntN(len(names))]
						typ := a.d.typ(name)
						n := []int{0, 1, rng.IntN(100), rng.IntN(1000), rng.IntN(40_000), rng.IntN(1 << 20)}[rng.IntN(6)]
						payload := text(min(n, int(typ.maxLen)))
						if len(payload) > 0 {
							payload = string(rune('a'+round%26)) + payload[1:]
						}
						priority := int8(rng.IntN(3))
						switch rng.IntN(3) {
						case 0:
							if ok, err := a.d.m.SendMessage(typ, 0, priority, []byte(payload)); err != nil {
								t.Fatal(err)
							} else if ok {
								break
							}
							fallthrough
						case 1:
							a.d.give(&Outgoing{Type: typ, Priority: priority, Total: uint32(len(payload))}, payload)
						case 2:
							o := a.d.give(&Outgoing{Type: typ, Priority: priority, Total: uint32(len(payload)), Request: true, ReplyMax: uint32(len(payload))}, payload)
							asked[i][o] = payload
						}
						sent[i][typ.id] = append(sent[i][typ.id], payload)
					}
				}
				moved := 0
				for i, a := range apps {
					out := a.d.m.AppendOutput(a.d.now, nil, 1+rng.IntN(60_000))
					moved += len(out)
					checkOutput(t, out)
					for _, o := range a.d.m.MuxChanged() {
						if !o.Done() && o.Tail() == 0 || o.Err() != nil {
							t.Fatalf("message %d: done %v, %v", o.id, o.Done(), o.Err())
						}
					}
					for len(out) > 0 {
						n := 1 + rng.IntN(len(out))
						apps[1-i].d.m.Feed(a.d.now, out[:n:n])
						apps[1-i].d.drain()
						out = out[n:]
					}
					apps[1-i].take()
				}
				if moved == 0 && round >= rounds {
					break
				}
				if round > 50*rounds {
					t.Fatal("the machines do not come to rest")
				}
			}
			for i, a := range apps {
				to := apps[1-i]
				for id, want := range sent[i] {
					if !slices.Equal(to.got[id], want) {
						t.Errorf("%d messages of type %d arrive, want %d, or others", len(to.got[id]), id, len(want))
					}
				}
				for o, payload := range asked[i] {
					if !o.Done() || o.Err() != nil || !bytes.Equal(a.answers[o], backwards([]byte(payload))) || a.statuses[o] != emp.StatusAnswered {
						t.Errorf("a request of %d bytes is answered by %d, done: %v, %v", len(payload), len(a.answers[o]), o.Done(), o.Err())
					}
				}
				a.d.wantWindow(int(tm.win), int(tm.win))
				x := a.d.m.mux
				if len(x.in)+len(x.served)+len(x.calls)+len(x.waiting)+len(x.streams)+len(to.partial) != 0 || a.d.m.UnsentResponses() != 0 {
					t.Error("something is left over")
				}
				if c := cap(a.d.m.app); c > 64<<10 {
					t.Errorf("the queue of 20,000 bytes has room for %d", c)
				}
			}
		})
	}
}

// A message of 64 bytes, in and out, costs no allocation; nor does a request with its answer, on either side, nor a large message.
func TestAllocsOfMuxFrames(t *testing.T) {
	d := usually(t)
	payload := []byte(text(64))
	var feed []byte // what the peer writes, its ids set anew each time
	out := make([]byte, 0, 256<<10)
	id := uint32(0)
	asked := &Outgoing{}
	large := &Outgoing{}
	answered := &Outgoing{}
	bulk := []byte(text(60_000))
	typ, bigTyp := d.typ("one"), d.typ("big")
	events := 0
	frame := func(b []byte, fill func(b []byte) []byte) []byte {
		n := len(b)
		b = fill(append(b, 0, 0, 0, 0, 20, ourMux))
		putLength(b, n)
		return b
	}
	step := func() {
		feed = feed[:0]
		calls := uint32(d.m.mux.nextOut)
		*asked = Outgoing{Type: typ, Total: 64, Request: true, ReplyMax: 64}
		*large = Outgoing{Type: bigTyp, Total: uint32(len(bulk))}
		if d.m.Submit(asked, payload) != nil || d.m.Submit(large, bulk) != nil {
			panic("Submit fails")
		}
		for range 10 {
			if sent, err := d.m.SendMessage(typ, 0, 0, payload); !sent || err != nil {
				panic("SendMessage fails")
			}
			feed = frame(feed, func(b []byte) []byte { return append(emp.AppendMessageHead(b, id, 1, 0, 64), payload...) })
			id++
		}
		feed = frame(feed, func(b []byte) []byte { return append(emp.AppendRequestHead(b, id, 1, 0, 64, 100), payload...) })
		id++
		feed = frame(feed, func(b []byte) []byte { return append(emp.AppendMessageHead(b, id, 3, 0, 30_000), bulk[:15_000]...) })
		feed = frame(feed, func(b []byte) []byte { return append(emp.AppendFragmentHead(b, id, false), bulk[:15_000]...) })
		id++
		feed = frame(feed, func(b []byte) []byte { return append(emp.AppendResponseHead(b, calls, 0, 64), payload...) })
		feed = frame(feed, func(b []byte) []byte { return emp.AppendCredit(b, 12*128+60_064-128) })
		out = d.m.AppendOutput(d.now, out[:0], 1<<20)
		for _, part := range [][]byte{feed[:100], feed[100:20_000], feed[20_000:]} {
			d.m.Feed(d.now, part)
			for ev, ok := d.m.Next(); ok; ev, ok = d.m.Next() {
				if ev.Kind != EventMux {
					panic(d.m.Err())
				}
				events++
				if ev.Mux.Kind != MuxData || !ev.Mux.Last {
					continue
				}
				if ev.Mux.Request {
					*answered = Outgoing{}
					if done, err := d.m.Respond(answered, ev.Mux.ID, emp.StatusAnswered, payload); done || err != nil {
						panic("Respond fails")
					}
				}
				d.m.Credit(messageCost(ev.Mux.Total))
			}
		}
		for d.m.HasOutput() {
			out = d.m.AppendOutput(d.now, out[:0], 2000)
		}
		d.m.MuxChanged()
		if !asked.Done() || !large.Done() || !answered.Done() {
			panic("something is left over")
		}
	}
	step()
	step()
	if n := testing.AllocsPerRun(200, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if events != 14*203 {
		t.Errorf("%d events", events)
	}
	d.wantWindow(fourMiB, fourMiB)
}
