package peerconn

import (
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// BenchmarkUpload sends blocks to one peer over loopback, sixteen for each turn of the loop: with groups that have no limit, with one that is never reached, and in a session with messages, whose
// writer waits until little is unsent.
func BenchmarkUpload(b *testing.B) {
	for _, c := range []struct {
		name string
		rate int64
		open func(s *side, t testing.TB, raw *rawpeer.Peer)
	}{{"no limit", 0, (*side).open}, {"high limit", 1 << 40, (*side).open}, {"with messages", 0, (*side).openMux}} {
		b.Run(c.name, func(b *testing.B) {
			timers, stop := NewTimers(time.Now), make(chan struct{})
			defer close(stop)
			go timers.Run(stop)
			up, down := NewShaper(timers), NewShaper(timers)
			up.SetRate(c.rate)
			down.SetRate(c.rate)
			s := &side{upGroup: up.NewGroup(), downGroup: down.NewGroup()}
			benchmarkUpload(b, s, c.open)
		})
	}
}

func benchmarkUpload(b *testing.B, s *side, open func(s *side, t testing.TB, raw *rawpeer.Peer)) {
	us, them := overTCP(b)
	s.start(b, us)
	raw := rawpeer.New(b, them)
	open(s, b, raw)
	if err := s.conn.Send(wire.Unchoke{}); err != nil {
		b.Fatal(err)
	}
	if _, err := raw.Write(classic.AppendInterested(nil)); err != nil {
		b.Fatal(err)
	}
	const turn = 16
	next := bt.PieceIndex(0)
	request := func() {
		var out []byte
		for range turn {
			out = classic.AppendRequest(out, wire.Request{Block: bt.Block{Index: next, Length: bt.BlockBytes}})
			next = (next + 1) % 64
		}
		if _, err := raw.Write(out); err != nil {
			b.Fatal(err)
		}
	}
	for range 4 {
		request()
	}
	b.SetBytes(turn * bt.BlockBytes)
	for b.Loop() {
		n := 0
		if err := raw.Until(func(m wire.Message) bool {
			if m.Kind() == wire.KindPiece {
				n++
			}
			return n == turn
		}); err != nil {
			b.Fatal(err)
		}
		request()
	}
}
