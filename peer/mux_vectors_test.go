package peer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire/emp"
)

// Our own scenarios, as wire/testdata/README.md describes them: whoever plays them against another implementation sees what this one does.
func TestScenarios(t *testing.T) {
	for _, sc := range wiretest.LoadScenarios(t, "../wire/testdata/scenarios/emp") {
		t.Run(sc.Name, func(t *testing.T) { newPlay(t).all(sc.Steps) })
	}
}

// play is a scenario on its way.
type play struct {
	t      *testing.T
	d      *dialogue
	at     string
	said   [][]byte             // not looked at yet
	told   []string             // likewise
	parts  map[uint32][]byte    // messages that are not whole
	totals map[uint32]uint32    // of those that were given to us
	ours   map[string]*Outgoing // by id, of ours that are under way
	out    map[*Outgoing]string // and their ids
	reply  map[*Outgoing][]byte // answers that are not whole
	names  map[uint16]string    // of our types
	queue  []*Outgoing          // ours that were not opened yet, in order
}

func newPlay(t *testing.T) *play {
	d := open(t, variants[2], geometry)
	d.m.cfg.SendQueueBytes = 1 << 20
	return &play{t: t, d: d, parts: map[uint32][]byte{}, totals: map[uint32]uint32{}, ours: map[string]*Outgoing{}, out: map[*Outgoing]string{},
		reply: map[*Outgoing][]byte{}, names: map[uint16]string{}}
}

func (p *play) all(steps []wiretest.Step) {
	ended := false
	for _, s := range steps {
		if p.at = s.At; s.Kind != ">" && s.Kind != "got" && s.Kind != "ends" {
			p.settled()
		}
		switch s.Kind {
		case "because":
		case "we", "they":
			p.offer(s.Kind == "we", s.Value)
		case "<":
			p.d.feed(muxFrames(ourMux, [][]byte{s.Bytes})...)
			p.look()
		case ">":
			if len(p.said) == 0 || !bytes.Equal(p.said[0], s.Bytes) {
				p.t.Fatalf("%s: it says %x, want %x first", s.At, p.said, s.Bytes)
			}
			p.said = p.said[1:]
		case "got":
			if want := s.Value.String(); len(p.told) == 0 || p.told[0] != p.normal(s.Value) {
				p.t.Fatalf("%s: got %q, want %q first", s.At, p.told, want)
			}
			p.told = p.told[1:]
		case "do":
			p.do(s.Value)
			p.look()
		case "window":
			spend, window := p.d.m.PeerMuxWindow()
			r := s.Value.Read()
			for _, w := range []struct {
				name string
				have int64
			}{{"ours", window}, {"theirs", spend}} {
				for _, text := range r.Texts(w.name) {
					if text != strconv.FormatInt(w.have, 10) {
						p.t.Fatalf("%s: %s is %d", s.At, w.name, w.have)
					}
				}
			}
			p.read(r)
		case "ends":
			want := muxSentinels[s.Text]
			if want == nil || !errors.Is(p.d.m.Err(), want) {
				p.t.Fatalf("%s: it ended with %v, want %s", s.At, p.d.m.Err(), s.Text)
			}
			ended = true
		}
	}
	p.at = "the end"
	p.settled()
	if err := p.d.m.Err(); !ended && err != nil {
		p.t.Fatalf("the session ended: %v", err)
	}
}

var muxSentinels = map[string]error{"ErrBadFrame": ErrBadFrame, "ErrBadOrder": ErrBadOrder, "ErrUnknownMessage": ErrUnknownMessage,
	"ErrTypeNeverOffered": ErrTypeNeverOffered, "ErrWindowExceeded": ErrWindowExceeded, "ErrMessageTooLarge": ErrMessageTooLarge}

// settled checks that nothing was said or told that the scenario does not have.
func (p *play) settled() {
	p.t.Helper()
	if len(p.said)+len(p.told) > 0 {
		p.t.Fatalf("before %s: it also says %x, and tells %q", p.at, p.said, p.told)
	}
}

func (p *play) read(r *wiretest.Reader) {
	p.t.Helper()
	if err := r.Err(); err != nil {
		p.t.Fatalf("%s: %v", p.at, err)
	}
}

// normal is the form in which events are told: fields in a fixed order, data in hexadecimal digits.
func (p *play) normal(v wiretest.Value) string {
	r := v.Read()
	typ := strings.Join(r.Texts("type"), "")
	s := told1(v.Kind, uint32(r.Uint("id")), typ, r.Uint("version"), r.Uint("reply_max"), r.Uint("status"), r.Uint("code"), r.Uint("refused"), r.Bytes("data"))
	p.read(r)
	return s
}

func told1(kind string, id uint32, typ string, version, replyMax, status, code, refused uint64, data []byte) string {
	return fmt.Sprintf("%s %d %s v%d max%d status%d code%d refused%d %x", kind, id, typ, version, replyMax, status, code, refused, data)
}

func (p *play) offer(we bool, v wiretest.Value) {
	r := v.Read()
	tm := terms{win: int64(r.Uint("win")), req: int64(r.Uint("req"))}
	for _, text := range r.Texts("t") {
		q, err := strconv.QuotedPrefix(text)
		name, uerr := strconv.Unquote(q)
		f := strings.Split(strings.TrimPrefix(text[len(q):], ":"), ":")
		var n [4]uint64
		if err = cmp.Or(err, uerr); err == nil && len(f) == 4 {
			for i := range f {
				if n[i], err = strconv.ParseUint(f[i], 10, 32); err != nil {
					break
				}
			}
		}
		if err != nil || len(f) != 4 {
			p.t.Fatalf("%s: t=%s: %v", p.at, text, err)
		}
		o := emp.TypeOffer{Name: name, ID: uint16(n[0]), MinVersion: uint8(n[1]), MaxVersion: uint8(n[2]), MaxLen: uint32(n[3])}
		tm.types = append(tm.types, o)
		if we {
			p.names[o.ID] = strconv.Quote(name)
		}
	}
	p.read(r)
	if we {
		if m := p.d.m.weUse; m != nil && m.Mux != nil { // what is not offered any more keeps its limits
			for id, t := range m.Mux.Types {
				if name := p.names[uint16(id)]; t.Offered && !strings.Contains(fmt.Sprint(v.Fields), name) {
					unquoted, _ := strconv.Unquote(name)
					tm.gone = append(tm.gone, emp.TypeOffer{Name: unquoted, ID: uint16(id), MinVersion: t.MinVersion, MaxVersion: t.MaxVersion, MaxLen: t.MaxLen})
				}
			}
		}
		p.d.offer(tm)
	} else {
		p.d.offered(tm)
	}
	p.d.output()
	p.d.events = nil
}

func (p *play) do(v wiretest.Value) {
	m, r := p.d.m, v.Read()
	switch v.Kind {
	case "take":
		for _, text := range r.Texts("id") {
			id, err := strconv.ParseUint(text, 10, 32)
			total, here := p.totals[uint32(id)]
			if err != nil || !here {
				p.t.Fatalf("%s: message %s is not here", p.at, text)
			}
			m.Credit(messageCost(total))
			delete(p.totals, uint32(id))
		}
	case "answer":
		o := new(Outgoing)
		if _, err := m.Respond(o, uint32(r.Uint("id")), emp.Status(r.Uint("status")), r.Bytes("data")); err != nil {
			p.t.Fatalf("%s: %v", p.at, err)
		}
	case "refuse":
		id := uint32(r.Uint("id"))
		if err := m.RefuseMessage(id, m.mux.in[id].total, emp.Code(r.Uint("code"))); err != nil {
			p.t.Fatalf("%s: %v", p.at, err)
		}
	case "abandon":
		id := strings.Join(r.Texts("id"), "")
		if err := m.Abandon(p.ours[id], emp.Code(r.Uint("code"))); err != nil {
			p.t.Fatalf("%s: %v", p.at, err)
		}
	case "send", "request", "begin":
		name, err := strconv.Unquote(strings.Join(r.Texts("type"), ""))
		if err != nil {
			p.t.Fatalf("%s: %v", p.at, err)
		}
		data := r.Bytes("data")
		o := &Outgoing{Type: m.mux.types[name], Version: uint8(r.Uint("version")), Request: v.Kind == "request", ReplyMax: uint32(r.Uint("reply_max")),
			Total: uint32(max(r.Uint("total"), uint64(len(data))))}
		if err := m.Submit(o, data); err != nil {
			p.t.Fatalf("%s: %v", p.at, err)
		}
		p.queue = append(p.queue, o)
	default:
		p.t.Fatalf("%s: nobody can do %q", p.at, v.Kind)
	}
	p.read(r)
}

// look takes what the machine has told and written.
func (p *play) look() {
	for _, e := range p.d.events {
		e, ok := e.(MuxEvent)
		if !ok {
			continue
		}
		switch e.Kind {
		case MuxData:
			p.parts[e.ID] = append(p.parts[e.ID], e.Data...)
			if !e.Last {
				continue
			}
			kind := "message"
			if e.Request {
				kind = "request"
			}
			p.told = append(p.told, told1(kind, e.ID, p.names[e.Type], uint64(e.Version), uint64(e.ReplyMax), 0, 0, 0, p.parts[e.ID]))
			p.totals[e.ID] = e.Total
			delete(p.parts, e.ID)
		case MuxDropped:
			delete(p.parts, e.ID)
			p.told = append(p.told, told1("dropped", e.ID, "", 0, 0, 0, 0, 0, nil))
		case MuxCancelled:
			p.told = append(p.told, told1("cancelled", e.ID, "", 0, 0, 0, 0, 0, nil))
		case MuxReply:
			p.reply[e.Call] = append(p.reply[e.Call], e.Data...)
			if e.Last {
				p.told = append(p.told, told1("answer", e.ID, "", 0, 0, uint64(e.Status), 0, 0, p.reply[e.Call]))
			}
		case MuxCallEnded:
			p.told = append(p.told, told1("unanswered", e.ID, "", 0, 0, uint64(e.Status), uint64(e.Code), map[bool]uint64{true: 1}[e.Refused], nil))
		case MuxRefused:
			p.told = append(p.told, told1("refused", e.ID, "", 0, 0, 0, uint64(e.Code), 0, nil))
		}
	}
	p.d.events = nil
	p.said = append(p.said, p.d.said(1<<20)...)
	for len(p.queue) > 0 && p.queue[0].state != outWaiting {
		p.ours[strconv.Itoa(int(p.queue[0].id))] = p.queue[0]
		p.queue = p.queue[1:]
	}
	for _, o := range p.d.m.MuxChanged() {
		if o.Err() != nil && p.d.m.Phase() == PhaseOpen {
			p.told = append(p.told, told1("failed", o.id, "", 0, 0, 0, uint64(o.Code), 0, nil))
		}
	}
}

// The file format takes no step for another.
func TestParseScenarios(t *testing.T) {
	for text, want := range map[string]string{
		"do: x":                          "not behind a scenario's name",
		"scenario: a\nscenario: a":       "second scenario",
		"scenario: a\n< 0":               "hex",
		"scenario: a\nperhaps: x":        "no step begins",
		"scenario: a\ngot: message: id":  "without a value",
		"scenario: a\n> 00 *3":           "repeat",
		"scenario: a\nends: ErrBadFrame": "",
	} {
		_, err := wiretest.ParseScenarios("f", text)
		if err == nil && want != "" || err != nil && (want == "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
