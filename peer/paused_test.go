package peer

import (
	"errors"
	"testing"
	"time"

	"github.com/parley-bt/parley/wire"
)

// What comes at once may ask for more answers than may wait (EMP/1 section 7.5): the owner can write them in between, and nothing that came is lost by it.
func TestPaused(t *testing.T) {
	over(t, withFast, func(t *testing.T, v variant) {
		const n = 10_000 // rejects of 17 bytes each: more than may wait
		var in, want []byte
		for i := range uint32(n) {
			b := block(1, i<<4&0x3fff, 16)
			in = append(in, encode(t, wire.Request{Block: b})...)
			want = append(want, encode(t, wire.Reject{Block: b})...)
		}
		start := func() *Machine {
			m := open(t, v, geometry).m
			m.cfg.AnswersAtOnce = 1000
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
			if len(m.out) > 1000+17 {
				t.Fatalf("%d bytes of answers wait", len(m.out))
			}
			out = m.AppendOutput(time.Now(), out, 0)
			if m.Paused() {
				t.Fatal("paused, and everything is taken out")
			}
		}
		if out = m.AppendOutput(time.Now(), out, 0); string(out) != string(want) || pauses < n*17/1100 {
			t.Errorf("%d bytes of answers after %d pauses, want %d", len(out), pauses, len(want))
		}
		// Who does not write them, or cannot, ends the session as ever.
		m = start()
		if _, ok := m.Next(); ok || !m.Paused() {
			t.Fatalf("not paused, %v", m.Err())
		}
		if ev, ok := m.Next(); !ok || ev.Kind != EventClosed || !errors.Is(m.Err(), ErrControlBacklog) || m.Paused() {
			t.Errorf("event %+v, %v", ev, m.Err())
		}
	})
}
