package peerconn

import (
	"testing"
	"testing/synctest"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// A peer that asks for more at once than may wait in our outbox gets its answers if it reads them (EMP/1 section 7.5): over a socket, where the read loop writes them, over other connections,
// where the writer does, and while the writer is busy with something else.
func TestManyAnswersAtOnce(t *testing.T) {
	const n = 12_000 // rejects of 17 bytes
	overSocket := func(t *testing.T) (*side, *rawpeer.Peer) {
		a, b := overTCP(t)
		s, raw := (&side{}).start(t, a), rawpeer.New(t, b)
		s.open(t, raw)
		return s, raw
	}
	ask := func(t *testing.T, s *side, raw *rawpeer.Peer) {
		var all []byte
		for i := range uint32(n) {
			all = classic.AppendRequest(all, wire.Request{Block: bt.Block{Index: bt.PieceIndex(i % 64), Length: 16}}) // choked: each is rejected
		}
		go raw.Write(all)
		got := uint32(0)
		if err := raw.Until(func(m wire.Message) bool {
			if r, ok := m.(*wire.Reject); ok {
				if r.Block.Index != bt.PieceIndex(got%64) {
					t.Errorf("answer %d is about piece %d", got, r.Block.Index)
				}
				got++
			}
			return got == n
		}); err != nil {
			t.Errorf("after %d of %d answers: %v, %v", got, n, err, s.conn.closedErr())
		}
	}
	t.Run("socket", func(t *testing.T) {
		s, raw := overSocket(t)
		ask(t, s, raw)
	})
	t.Run("socket and a busy writer", func(t *testing.T) {
		s, raw := overSocket(t)
		for range 100 {
			go s.conn.SendApp(t.Context(), appID, make([]byte, 60_000)) // to its end, or that of the connection
		}
		ask(t, s, raw)
	})
	t.Run("no socket", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, raw := stuck(t, 1<<10)
			ask(t, s, raw)
			raw.Close()
			s.wait()
		})
	})
}
