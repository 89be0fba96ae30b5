package peer

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
)

// What comes at once may bring about more answers than may wait (EMP/1 section 7.5): the owner can write them in between, and nothing that came is lost by it.
func TestPaused(t *testing.T) {
	const n, most = 10_000, 1000 // answers of 10 to 12 bytes each: more than may wait
	tm := usual()
	tm.req = 0 // each is above that
	start := func() *Machine {
		m := openMux(t, tm, usual()).m
		m.cfg.AnswersAtOnce = most
		var in []byte
		for id := range uint32(n) {
			in = classic.AppendExtended(in, wire.Extended{ID: ourMux, Payload: request(id, 1, 0, 100, "")})
		}
		m.Feed(time.Now(), in)
		return m
	}
	m := start()
	var out []byte
	pauses := 0
	for {
		if ev, ok := m.Next(); ok {
			t.Fatalf("an event: %+v, %v", ev, m.Err())
		}
		if !m.Paused() {
			break
		}
		pauses++
		if len(m.out) > most+12 {
			t.Fatalf("%d bytes of answers wait", len(m.out))
		}
		out = m.AppendOutput(time.Now(), out, 0)
		if m.Paused() {
			t.Fatal("paused, and everything is taken out")
		}
	}
	out = m.AppendOutput(time.Now(), out, 0)
	var f emp.Frame
	next, credit := uint32(0), int64(0)
	for len(out) > 0 {
		end := classic.LengthBytes + binary.BigEndian.Uint32(out)
		if err := f.Parse(out[classic.LengthBytes+2 : end]); err != nil {
			t.Fatal(err)
		}
		switch {
		case f.Kind == emp.Credit:
			credit += int64(f.Bytes)
		case f.ID != next || !f.Response || f.Status != emp.StatusBusy:
			t.Fatalf("answer %d is %+v", next, f)
		default:
			next++
		}
		out = out[end:]
	}
	if next != n || credit != n*wire.MessageCost || pauses < n*10/most/2 {
		t.Errorf("%d answers and %d bytes of window after %d pauses", next, credit, pauses)
	}
	// Who does not write them, or cannot, ends the session as ever.
	m = start()
	if _, ok := m.Next(); ok || !m.Paused() {
		t.Fatalf("not paused, %v", m.Err())
	}
	if ev, ok := m.Next(); !ok || ev.Kind != EventClosed || !errors.Is(m.Err(), ErrControlBacklog) || m.Paused() {
		t.Errorf("event %+v, %v", ev, m.Err())
	}
}
