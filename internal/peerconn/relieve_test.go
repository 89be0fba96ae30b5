package peerconn

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/peer"
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

// Of a peer that breaks the protocol, or reads nothing, the system keeps nothing either: what it has not taken is not offered to it for minutes.
func TestAbandoned(t *testing.T) {
	a, b := overTCP(t)
	s, raw := (&side{}).start(t, a), rawpeer.New(t, b)
	s.open(t, raw)
	for { // until the system takes no more of it
		ok, err := s.conn.TrySendApp(appID, make([]byte, 1<<19))
		if err != nil {
			t.Fatal(err)
		}
		if n, known := s.conn.Unacknowledged(); !ok && (n > 0 || !known) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := raw.Write([]byte{0, 0, 0, 2, classic.IDHave, 1}); err != nil { // no Have is so short
		t.Fatal(err)
	}
	if err := s.wait(); peer.FaultOf(err) != peer.FaultPeer {
		t.Fatalf("it ended with %v", err)
	}
	if _, err := io.Copy(io.Discard, raw.Conn); err == nil {
		t.Error("a connection that ended by a breach was closed in good order")
	}
}
