package peerconn

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
)

// A peer that asks for more at once than may wait in our outbox gets its answers if it reads them (EMP/1 sections 7.3 and 7.5): over a socket, where the read loop writes them, over other
// connections, where the writer does, and while the writer is busy with something else.
func TestManyAnswersAtOnce(t *testing.T) {
	const n = 20_000 // answers of 10 to 12 bytes, but for the first 10, which are not above "req"
	ask := func(t *testing.T, s *side, raw *rawpeer.Peer) {
		var all []byte
		for id := range uint32(n) {
			all = classic.AppendExtended(all, wire.Extended{ID: muxID, Payload: emp.AppendRequestHead(nil, id, 2, 0, 0, 100)})
		}
		go raw.Write(all)
		next := uint32(10)
		if err := raw.Until(func(m wire.Message) bool {
			var f emp.Frame
			if x, ok := m.(*wire.Extended); ok && x.ID == muxID && f.Parse(x.Payload) == nil && f.Kind == emp.Data && f.Response {
				if f.ID != next || f.Status != emp.StatusBusy {
					t.Errorf("answer %d is %+v", next, f)
				}
				next++
			}
			return next == n
		}); err != nil {
			t.Errorf("after %d of %d answers: %v", next, n, err)
		}
	}
	overSocket := func(t *testing.T) (*side, *rawpeer.Peer) {
		a, b := overTCP(t)
		s, raw := (&side{}).start(t, a), rawpeer.New(t, b)
		s.openMux(t, raw)
		return s, raw
	}
	t.Run("socket", func(t *testing.T) {
		s, raw := overSocket(t)
		ask(t, s, raw)
	})
	t.Run("socket and a busy writer", func(t *testing.T) {
		s, raw := overSocket(t)
		go s.conn.SendMux(t.Context(), s.muxType("large"), 0, 0, make([]byte, 8<<20)) // to its end, or that of the connection
		ask(t, s, raw)
	})
	t.Run("no socket", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := simnet.Pipe(1, simnet.Link{Buffer: 4 << 10})
			s, raw := (&side{}).start(t, a), rawpeer.New(t, b)
			s.openMux(t, raw)
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
