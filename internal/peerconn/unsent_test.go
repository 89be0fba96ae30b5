package peerconn

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// muxID is the extended id of mux frames in either direction.
const muxID = 9

// openMux is open with mux frames both ways: each side receives the types "large" and "small", the window is never used up.
func (s *side) openMux(t testing.TB, raw *rawpeer.Peer) {
	t.Helper()
	if _, err := raw.Greet(infoHash, theirID, rawpeer.LTEP); err != nil {
		t.Fatalf("hello: %v", err)
	}
	<-s.opened
	offer := emp.Offer{Version: 1, HasTypes: true, Window: 1 << 30, Requests: 10,
		Types: []emp.TypeOffer{{Name: "large", ID: 1, MaxLen: wire.MaxMessage}, {Name: "small", ID: 2, MaxLen: 100}}}
	e := ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMux, ID: muxID}}, EMP: emp.AppendOffer(nil, &offer)}
	use := &peer.WeUse{Mux: &peer.MuxUse{ID: muxID, Window: 1 << 30, Requests: 10,
		Types: []peer.OurType{{}, {Offered: true, MaxLen: wire.MaxMessage}, {Offered: true, MaxLen: 100}}}}
	s.conn.Do(func(m *peer.Machine) {
		if err := m.SendExchange(&e, use); err != nil {
			t.Errorf("exchange: %v", err)
		}
	})
	if err := raw.Exchange(e); err != nil {
		t.Fatalf("exchange: %v", err)
	}
	if _, err := raw.UntilExchange(); err != nil {
		t.Fatalf("their exchange: %v", err)
	}
}

// muxType waits until the peer has offered a type.
func (s *side) muxType(name string) *peer.MuxType {
	for {
		s.mu.Lock()
		o := s.shared.Mux[name]
		s.mu.Unlock()
		if o.Type != nil {
			return o.Type
		}
		time.Sleep(time.Millisecond)
	}
}

// On a link that is not fast blocks and fragments of a large message go out one by one, in turn, and a small message that comes meanwhile waits for little: EMP/1 section 7.4.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const blocks = 60
		link := simnet.Link{Rate: 1 << 20, Latency: 10 * time.Millisecond, Buffer: 512 << 10}
		a, b := simnet.Pipe(1, link)
		s, raw := (&side{}).start(t, a), rawpeer.New(t, b)
		s.openMux(t, raw)
		if err := s.conn.Send(wire.Unchoke{}); err != nil {
			t.Fatal(err)
		}
		var ask []byte
		for i := range bt.PieceIndex(blocks) {
			ask = classic.AppendRequest(ask, wire.Request{Block: bt.Block{Index: i, Length: bt.BlockBytes}})
		}
		if _, err := raw.Write(append(classic.AppendInterested(nil), ask...)); err != nil {
			t.Fatal(err)
		}
		large, small := s.muxType("large"), s.muxType("small")
		go s.conn.SendMux(t.Context(), large, 0, 0, make([]byte, 4<<20)) // until the connection ends
		sent := make(map[uint32]time.Time)
		next := func() { // sends the next small message
			n := uint32(len(sent))
			sent[n] = time.Now()
			if ok, err := s.conn.TrySendMux(small, 0, 0, binary.BigEndian.AppendUint32(nil, n)); !ok || err != nil {
				t.Errorf("small message %d: %v, %v", n, ok, err)
			}
		}
		pieces, fragments, came := 0, 0, uint32(0)
		row, last := 0, ""
		took := func(what string) {
			if row++; what != last {
				row, last = 1, what
			}
			if row == 2 && pieces > 1 && pieces < blocks && fragments > 1 {
				t.Errorf("%ss follow each other: %d blocks and %d fragments have come", what, pieces, fragments)
			}
		}
		if err := raw.Until(func(m wire.Message) bool {
			switch m := m.(type) {
			case *wire.Piece:
				pieces++
				took("block")
				if pieces%7 == 3 {
					next()
				}
			case *wire.Extended:
				var f emp.Frame
				if m.ID != muxID {
					break
				}
				if err := f.Parse(m.Payload); err != nil {
					t.Error(err)
				}
				if len(f.Data) != 4 {
					fragments++
					took("fragment")
					break
				}
				if n := binary.BigEndian.Uint32(f.Data); n != came {
					t.Errorf("small message %d came, want %d", n, came)
				}
				lead := time.Duration(LeadBytes+4<<10) * time.Second / time.Duration(link.Rate)
				if d := time.Since(sent[came]) - link.Latency; d > lead {
					t.Errorf("small message %d took %v beside the latency, want %v at most", came, d, lead)
				}
				came++
				took("small message") // which had the turn of all messages
			}
			return pieces == blocks
		}); err != nil {
			t.Error(err)
		}
		if came < 5 || fragments < blocks-2 {
			t.Errorf("%d small messages and %d fragments came beside %d blocks", came, fragments, blocks)
		}
		raw.Close()
		s.wait()
	})
}

// A peer that reads nothing is found out while the writer waits for room too.
func TestStalledWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := simnet.Pipe(1, simnet.Link{})
		s, raw := (&side{}).start(t, a), rawpeer.New(t, b)
		s.openMux(t, raw)
		began := time.Now()
		var alive sync.WaitGroup
		alive.Go(func() { // or its silence would be the reason
			for range 10 {
				time.Sleep(time.Minute)
				if _, err := raw.Write(classic.AppendKeepAlive(nil)); err != nil {
					return
				}
			}
		})
		if err := s.conn.SendMux(t.Context(), s.muxType("large"), 0, 0, make([]byte, 1<<20)); err == nil {
			t.Error("a message went through that nobody reads")
		}
		if err := s.wait(); !errors.Is(err, ErrStalled) {
			t.Errorf("ended by %v, want %v", err, ErrStalled)
		}
		if d := time.Since(began); d < writeStall || d > writeStall+time.Minute {
			t.Errorf("after %v, want %v", d, writeStall)
		}
		raw.Close()
		alive.Wait()
	})
}

func TestBurst(t *testing.T) {
	for name, c := range map[string]struct {
		writes, each int
		took         time.Duration // by each
		want         int
	}{
		"faster than the clock":  {100, leastBurst, 0, leastBurst},
		"slow":                   {10, leastBurst, 16 * time.Millisecond, leastBurst},
		"100 Mbit/s":             {10, leastBurst, 1311 * time.Microsecond, 25_014},
		"loopback":               {1000, leastBurst, 10 * time.Microsecond, blockbuf.LargeBytes},
		"busy for a millisecond": {100, leastBurst, 10 * time.Microsecond, blockbuf.LargeBytes},
		"one that is not over":   {19, leastBurst, 100 * time.Microsecond, leastBurst},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			b := burst{bytes: leastBurst, prompt: true}
			b.begin(now)
			for range c.writes {
				now = now.Add(c.took)
				b.wrote(now, c.each)
			}
			if b.bytes != c.want {
				t.Errorf("%d bytes, want %d", b.bytes, c.want)
			}
			// A break counts for nothing.
			now = now.Add(time.Hour)
			b.begin(now)
			if b.wrote(now.Add(time.Microsecond), 1); b.bytes != c.want {
				t.Errorf("after a break %d bytes, want %d", b.bytes, c.want)
			}
		})
	}
	// Whole fragments and whole blocks count the same, whatever their heads.
	block := classic.PieceHeadBytes + bt.BlockBytes
	for _, head := range []int{1, 9, 13, 30, 64} {
		if units(wire.MaxFragment+head) != units(block) {
			t.Errorf("a fragment with %d bytes of heads counts %d, a block %d", head, units(wire.MaxFragment+head), units(block))
		}
	}
	if units(1) < 1 {
		t.Error("a short message counts nothing")
	}
}
