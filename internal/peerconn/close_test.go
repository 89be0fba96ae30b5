package peerconn

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
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
	"github.com/parley-bt/parley/wire/ltep"
)

// What was queued before a close in good order arrives, however it travels, and the stream then ends cleanly.
func TestCloseDeliversWhatIsQueued(t *testing.T) {
	for name, connect := range map[string]transport{"tcp": overTCP, "simnet": overSimnet, "pipe": overPipe} {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t)
			s := (&side{opts: Options{SendQueueBytes: 2 << 20}}).start(t, a)
			raw := rawpeer.New(t, b)
			go func() { <-s.opened }()
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.open(t, raw)
			}()
			<-done
			const n = 900
			for i := range n {
				if err := s.conn.SendApp(t.Context(), appID, number(i, 1000)); err != nil {
					t.Fatal(err)
				}
			}
			s.conn.Close(nil)
			s.conn.Close(nil) // a second one changes nothing
			s.conn.Close(errors.New("too late to be angry"))
			wantNumbers(t, raw, n)
			raw.Close()
			if err := s.wait(); err != nil {
				t.Errorf("the end: %v, want none", err)
			}
			if !s.interrupted {
				t.Error("the session was not interrupted")
			}
		})
	}
}

// A kernel answers a close with unread bytes by a reset, which throws away what the peer has not read yet: our last messages.
func TestCloseWithUnreadBytes(t *testing.T) {
	a, b := overTCP(t)
	block := make(chan struct{})
	var reads atomic.Int32
	s := &side{onDone: func() {
		if reads.Add(1) == 1 {
			<-block // the application is slow: the connection is not read
		}
	}}
	s.start(t, a)
	raw := rawpeer.New(t, b)
	s.open(t, raw)
	if err := raw.Extended(appID, []byte("stop reading")); err != nil {
		t.Fatal(err)
	}
	for reads.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		if err := raw.Extended(appID, make([]byte, 10_000)); err != nil { // these stay unread
			t.Fatal(err)
		}
	}
	const n = 500
	for i := range n {
		if err := s.conn.SendApp(t.Context(), appID, number(i, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	s.conn.Close(nil)
	if !s.interrupted {
		t.Error("the session was not interrupted: a slow handler would hold up the close")
	}
	close(block) // as Interrupt does for messaging
	wantNumbers(t, raw, n)
}

// A peer that neither reads nor closes holds up a close in good order for a second and no longer.
func TestCloseDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := stuck(t, 1<<20)
		began := time.Now()
		s.conn.Close(nil)
		if err := s.wait(); err != nil {
			t.Errorf("the end: %v", err)
		}
		if d := time.Since(began); d > closeGrace {
			t.Errorf("it took %v, want %v at most", d, closeGrace)
		}
	})
}

func TestBothSidesClose(t *testing.T) {
	for name, connect := range map[string]transport{"tcp": overTCP, "simnet": overSimnet, "pipe": overPipe} {
		t.Run(name, func(t *testing.T) {
			na, nb := connect(t)
			a := (&side{}).start(t, na, initiator)
			b := (&side{}).start(t, nb, func(cfg *peer.Config) { cfg.PeerID = theirID })
			<-a.opened
			<-b.opened
			go a.conn.Close(nil)
			go b.conn.Close(peer.ErrDuplicatePeer)
			if err := a.wait(); err != nil {
				t.Errorf("one end: %v, want none", err)
			}
			if err := b.wait(); err != nil && !errors.Is(err, peer.ErrDuplicatePeer) {
				t.Errorf("the other: %v", err)
			}
		})
	}
}

// The end that is told is the first reason, and it is told once (which every test checks).
func TestWhyItEnded(t *testing.T) {
	angry := errors.New("angry")
	tests := []struct {
		name  string
		end   func(t *testing.T, s *side, raw *rawpeer.Peer)
		want  error
		fault peer.Fault
	}{
		{"the peer closes", func(t *testing.T, _ *side, raw *rawpeer.Peer) { raw.Close() }, nil, peer.FaultNone},
		{"we close in anger", func(t *testing.T, s *side, _ *rawpeer.Peer) { s.conn.Close(angry) }, angry, peer.FaultNetwork},
		{"the peer resets", func(t *testing.T, _ *side, raw *rawpeer.Peer) {
			if err := raw.Conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			raw.Close()
		}, nil, peer.FaultNetwork}, // each system has its own error for it
		{"a frame too large", func(t *testing.T, _ *side, raw *rawpeer.Peer) { raw.Write([]byte{0x7f, 0, 0, 0, 20}) }, peer.ErrFrameTooLarge, peer.FaultPeer},
		{"a message too large", func(t *testing.T, _ *side, raw *rawpeer.Peer) { raw.Extended(appID, make([]byte, 1<<20-2)) }, nil, peer.FaultNone},
		{"nonsense", func(t *testing.T, _ *side, raw *rawpeer.Peer) { raw.Write([]byte{0, 0, 0, 2, classic.IDHave, 1}) }, nil, peer.FaultPeer},
		{"a flood", func(t *testing.T, _ *side, raw *rawpeer.Peer) { raw.Write(make([]byte, 4*2000)) }, peer.ErrFlood, peer.FaultPeer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := overTCP(t)
			s := (&side{}).start(t, a)
			raw := rawpeer.New(t, b)
			s.open(t, raw)
			tt.end(t, s, raw)
			if tt.name == "a message too large" { // exactly the limit is accepted: one byte more is a frame too large
				raw.Close()
			}
			err := s.wait()
			if tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && tt.fault == peer.FaultNone && err != nil {
				t.Errorf("it ended with %v, want %v", err, tt.want)
			}
			if got := peer.FaultOf(err); got != tt.fault {
				t.Errorf("the fault of %v is %v, want %v", err, got, tt.fault)
			}
		})
	}
}

// A peer that asks and does not read what it asked for is closed before its answers fill our memory (EMP/1 section 7.5).
func TestControlBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, raw := stuck(t, 1<<20)
		request := classic.AppendRequest(nil, wire.Request{Block: bt.Block{Length: bt.BlockBytes}}) // choked: each is rejected
		for {
			if _, err := raw.Write(request); err != nil {
				break
			}
		}
		if err := s.wait(); !errors.Is(err, peer.ErrControlBacklog) {
			t.Errorf("it ended with %v, want %v", err, peer.ErrControlBacklog)
		}
	})
}

func TestWriteStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s, raw := stuck(t, 1<<20)
		go func() {
			for { // alive, and yet it takes nothing
				time.Sleep(time.Minute)
				if _, err := raw.Write(classic.AppendKeepAlive(nil)); err != nil {
					return
				}
			}
		}()
		err := s.wait()
		if err == nil || peer.FaultOf(err) != peer.FaultNetwork {
			t.Errorf("it ended with %v, want the blame on the network", err)
		}
		if d := time.Since(began); d < writeStall || d > writeStall+time.Second {
			t.Errorf("it was given up after %v, want %v", d, writeStall)
		}
		raw.Close()
		time.Sleep(2 * time.Minute)
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := simnet.Pipe(1, simnet.Link{})
		s := (&side{}).start(t, a)
		raw := rawpeer.New(t, b)
		s.open(t, raw)
		began := time.Now()
		var at []time.Duration
		for {
			m, err := raw.Read()
			if err != nil {
				break
			}
			if _, ok := m.(*wire.KeepAlive); ok {
				at = append(at, time.Since(began))
			}
		}
		if err := s.wait(); !errors.Is(err, peer.ErrIdle) {
			t.Errorf("it ended with %v, want %v", err, peer.ErrIdle)
		}
		if d := time.Since(began); d != peer.IdleTimeout {
			t.Errorf("it ended after %v, want %v", d, peer.IdleTimeout)
		}
		if len(at) != 2 || at[0] != 80*time.Second || at[1] != 160*time.Second {
			t.Errorf("keep-alives went out after %v, want 80 s and 160 s", at)
		}
	})
}

// While the application keeps us from reading, the peer's silence proves nothing.
func TestNotIdleWhileWeDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := simnet.Pipe(1, simnet.Link{})
		block := make(chan struct{})
		s := &side{onDone: func() { <-block }}
		s.start(t, a)
		raw := rawpeer.New(t, b)
		s.open(t, raw)
		if err := raw.Extended(appID, []byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		s.mu.Lock()
		ends := len(s.ends)
		s.mu.Unlock()
		if ends != 0 {
			t.Errorf("it ended while we did not read: %v", s.ends)
		}
		close(block)
		if err := s.wait(); !errors.Is(err, peer.ErrIdle) {
			t.Errorf("it ended with %v, want %v once we read again", err, peer.ErrIdle)
		}
	})
}

func TestHelloTimeout(t *testing.T) {
	hello := classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: infoHash, PeerID: theirID})
	tests := []struct {
		name   string
		change func(*peer.Config)
		sent   []byte
		want   time.Duration
	}{
		{"responder, nothing", func(*peer.Config) {}, nil, 20 * time.Second},
		{"responder, half a hello", func(*peer.Config) {}, hello[:30], 20 * time.Second},
		{"responder, all but the peer ID", func(*peer.Config) {}, hello[:48], 20 * time.Second},
		{"initiator, nothing", initiator, nil, peer.FirstAnswerTimeout},
		{"initiator, half an answer", initiator, hello[:30], peer.InitiatorTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := simnet.Pipe(1, simnet.Link{})
				began := time.Now()
				s := (&side{}).start(t, a, tt.change)
				if _, err := b.Write(tt.sent); err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, b)
				if err := s.wait(); !errors.Is(err, peer.ErrHandshakeTimeout) {
					t.Errorf("it ended with %v, want %v", err, peer.ErrHandshakeTimeout)
				}
				if d := time.Since(began); d != tt.want {
					t.Errorf("it ended after %v, want %v", d, tt.want)
				}
				b.Close()
			})
		})
	}
}

func TestHelloErrors(t *testing.T) {
	good := classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: infoHash, PeerID: theirID})
	other := classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: bt.InfoHash{9}, PeerID: theirID})
	own := classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: infoHash, PeerID: ourID})
	tests := []struct {
		name   string
		change func(*peer.Config)
		sent   []byte
		close  bool // the peer closes after that
		want   error
	}{
		{"other bytes", func(*peer.Config) {}, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false, peer.ErrBadHello},
		{"another torrent", func(*peer.Config) {}, other, false, peer.ErrUnknownTorrent},
		{"our own peer ID", func(*peer.Config) {}, own, false, peer.ErrSelfConnection},
		{"another torrent answers", initiator, other, false, peer.ErrWrongTorrent},
		{"the end before a hello", func(*peer.Config) {}, nil, true, io.ErrUnexpectedEOF},
		{"the end within a hello", func(*peer.Config) {}, good[:67], true, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := overTCP(t)
			s := (&side{}).start(t, a, tt.change)
			raw := rawpeer.New(t, b)
			if _, err := raw.Write(tt.sent); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if tt.close {
				if err := raw.Conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := raw.UntilClosed(10 * time.Second); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d > time.Second {
				t.Errorf("it was closed after %v, want at once", d)
			}
			if err := s.wait(); !errors.Is(err, tt.want) {
				t.Errorf("it ended with %v, want %v", err, tt.want)
			}
		})
	}
}

// Every connection is called at its own time, whatever order they come and go in.
func TestTimersInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		timers, stop := NewTimers(time.Now), make(chan struct{})
		go timers.Run(stop)
		type one struct {
			s     *side
			began time.Time
			after time.Duration
			early bool
		}
		var all []*one
		for range 200 {
			a, b := simnet.Pipe(1, simnet.Link{})
			t.Cleanup(func() { b.Close() })
			o := &one{s: &side{}, began: time.Now(), after: time.Duration(1+rng.IntN(30_000)) * time.Millisecond, early: rng.IntN(3) == 0}
			o.s.opts = Options{Host: o.s, Timers: timers, Group: &o.s.group, SendQueueBytes: 1, Now: time.Now}
			o.s.conn = Start(a, &o.s.opts, peer.Config{Role: peer.Responder, PeerID: ourID, HelloTimeout: o.after, KeepAlive: time.Minute}, nil, nil)
			all = append(all, o)
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
		for _, o := range all {
			if o.early {
				o.s.conn.Close(errors.New("early"))
			}
		}
		synctest.Wait()
		timers.mu.Lock()
		for i := 1; i < len(timers.heap); i++ {
			if timers.heap.Less(i, (i-1)/2) || timers.heap[i].c.timerPos != i {
				t.Errorf("seed %d: the heap is out of order at %d", seed, i)
			}
		}
		timers.mu.Unlock()
		for _, o := range all {
			o.s.group.Wait()
		}
		for i, o := range all {
			if err := o.s.ends[0]; !o.early && !errors.Is(err, peer.ErrHandshakeTimeout) {
				t.Errorf("seed %d: connection %d ended with %v", seed, i, err)
			}
		}
		close(stop)
		synctest.Wait()
		if len(timers.heap) != 0 {
			t.Errorf("seed %d: %d connections are left in the heap", seed, len(timers.heap))
		}
	})
}

// ends on time: each connection that is not closed early ends exactly at its deadline.
func TestTimersAreOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, after := range []time.Duration{30 * time.Second, 10 * time.Second, 20 * time.Second, 10 * time.Second} {
			a, b := simnet.Pipe(1, simnet.Link{})
			s := (&side{}).start(t, a, func(cfg *peer.Config) { cfg.HelloTimeout = after })
			began := time.Now()
			go func() {
				s.group.Wait()
				if d := time.Since(began); d != after {
					t.Errorf("ended after %v, want %v", d, after)
				}
				b.Close()
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
	})
}

// A quiet connection's blocked reader is replaced, and what comes afterwards is still read. While it waits it holds no buffer.
func TestRenew(t *testing.T) {
	a, b := overTCP(t)
	got := make(chan string, 10)
	s := &side{onApp: func(p []byte) { got <- string(p) }}
	s.start(t, a)
	raw := rawpeer.New(t, b)
	s.open(t, raw)
	now := time.Now()
	for i := range 5 {
		if err := raw.Extended(appID, []byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
		if m := <-got; m != string(rune('a'+i)) {
			t.Fatalf("got %q", m)
		}
		now = now.Add(30 * time.Second)
		s.conn.tick(now) // quiet for long enough: its buffers are given back
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			s.conn.mu.Lock()
			fresh := s.conn.fresh
			s.conn.mu.Unlock()
			if !fresh {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the reader was not replaced")
			}
		}
	}
	for end := time.Now().Add(10 * time.Second); blockbuf.LiveLarge() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("an idle connection holds %d large buffers", blockbuf.LiveLarge())
		}
	}
	s.conn.Close(nil)
	if _, err := raw.UntilClosed(10 * time.Second); err != nil {
		t.Error(err)
	}
}

// A reader that is asked to make way while the connection closes does neither keep it open nor lose its end.
func TestRenewAndClose(t *testing.T) {
	for range 20 {
		a, b := overTCP(t)
		s := (&side{}).start(t, a)
		raw := rawpeer.New(t, b)
		s.open(t, raw)
		s.conn.tick(time.Now().Add(30 * time.Second))
		s.conn.Close(nil)
		if _, err := raw.UntilClosed(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		raw.Close()
		if err := s.wait(); err != nil {
			t.Errorf("the end: %v", err)
		}
	}
}

// counting counts the writes of a connection.
type counting struct {
	net.Conn
	writes atomic.Int32
}

func (c *counting) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// What a hello makes us send goes out in one write: our hello, and what the session begins with.
func TestHelloIsCorked(t *testing.T) {
	a, b := overTCP(t)
	nc := &counting{Conn: a}
	s := &side{onOpen: func(c *Conn) {
		for _, m := range []wire.Message{wire.HaveNone{}, wire.Interested{}, wire.Unchoke{}} {
			if err := c.Send(m); err != nil {
				t.Errorf("%v: %v", m.Kind(), err)
			}
		}
	}}
	s.start(t, nc)
	raw := rawpeer.New(t, b)
	if _, err := raw.Greet(infoHash, theirID, rawpeer.LTEP); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := raw.Read(); err != nil {
			t.Fatal(err)
		}
	}
	if n := nc.writes.Load(); n != 1 {
		t.Errorf("it took %d writes, want 1", n)
	}
}

func TestUploads(t *testing.T) {
	for name, connect := range map[string]transport{"tcp": overTCP, "simnet": overSimnet} {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t)
			info := make([]byte, ltep.MetadataPieceBytes+100)
			for i := range info {
				info[i] = byte(i)
			}
			s := &side{metadata: info, readBlock: func(dst []byte, b bt.Block) error {
				if b.Index == 3 {
					return errors.New("not here")
				}
				for i := range dst {
					dst[i] = byte(b.Index)
				}
				return nil
			}}
			s.start(t, a)
			raw := rawpeer.New(t, b)
			s.open(t, raw)
			if err := raw.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 3}}}); err != nil {
				t.Fatal(err)
			}
			s.conn.Do(func(m *peer.Machine) {
				use := &peer.WeUse{Metadata: 2}
				if err := m.SendExchange(&ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 2}}}, use); err != nil {
					t.Error(err)
				}
				if err := m.Send(wire.Unchoke{}); err != nil {
					t.Error(err)
				}
			})
			if err := raw.Until(func(m wire.Message) bool { return m.Kind() == wire.KindUnchoke }); err != nil {
				t.Fatal(err)
			}
			var ask []byte
			const pieces = 40
			for i := range bt.PieceIndex(pieces) {
				ask = classic.AppendRequest(ask, wire.Request{Block: bt.Block{Index: i, Length: bt.BlockBytes}})
			}
			for i := range uint32(3) {
				ask = classic.AppendExtended(ask, wire.Extended{ID: 2, Payload: ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataRequest, Piece: i})})
			}
			if _, err := raw.Write(ask); err != nil {
				t.Fatal(err)
			}
			data, rejects := 0, 0
			var meta []ltep.Metadata
			for data+rejects < pieces || len(meta) < 3 {
				m, err := raw.Read()
				if err != nil {
					t.Fatalf("after %d pieces, %d rejects and %d of metadata: %v", data, rejects, len(meta), err)
				}
				switch m := m.(type) {
				case *wire.Piece:
					data++
					if len(m.Data) != bt.BlockBytes || m.Data[0] != byte(m.Index) || m.Data[bt.BlockBytes-1] != byte(m.Index) {
						t.Errorf("piece %d: %d bytes of %d", m.Index, len(m.Data), m.Data[0])
					}
				case *wire.Reject:
					rejects++
					if m.Block.Index != 3 {
						t.Errorf("%v was rejected", m.Block)
					}
				case *wire.Extended:
					if m.ID != 3 {
						continue
					}
					md, err := ltep.ParseMetadata(m.Payload)
					if err != nil {
						t.Fatal(err)
					}
					md.Data = append([]byte(nil), md.Data...)
					meta = append(meta, md)
				}
			}
			if rejects != 1 {
				t.Errorf("%d rejects, want 1", rejects)
			}
			got := append(meta[0].Data, meta[1].Data...)
			if string(got) != string(info) || meta[2].Type != ltep.MetadataReject || meta[2].Piece != 2 {
				t.Errorf("metadata: %d bytes, then type %v of piece %d", len(got), meta[2].Type, meta[2].Piece)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if want := (pieces - 1) * bt.BlockBytes; s.uploaded != want {
				t.Errorf("%d bytes count as uploaded, want %d", s.uploaded, want)
			}
		})
	}
}

// Whatever the session is handed and does not take goes back to the pool, which TestMain checks.
func TestPiecesAreDelivered(t *testing.T) {
	a, b := overTCP(t)
	pieces := make(chan bt.Block, 100)
	s := &side{onDeliver: func(batch *Batch) {
		for i := range batch.Events {
			if e := &batch.Events[i]; e.Kind == wire.KindPiece {
				if len(e.Data.Bytes()) != int(e.Block.Length) {
					t.Errorf("%v has %d bytes", e.Block, e.Data.Len())
				}
				pieces <- e.Block
			}
		}
	}}
	s.start(t, a)
	raw := rawpeer.New(t, b)
	s.open(t, raw)
	const n = 50
	var out []byte
	for i := range bt.PieceIndex(n) {
		out = classic.AppendPiece(out, wire.Piece{Index: i, Data: make([]byte, bt.BlockBytes)})
	}
	if _, err := raw.Write(out); err != nil {
		t.Fatal(err)
	}
	for i := range bt.PieceIndex(n) {
		if got := <-pieces; got != (bt.Block{Index: i, Length: bt.BlockBytes}) {
			t.Errorf("block %v came, want piece %d", got, i)
		}
	}
}

func TestAddresses(t *testing.T) {
	a, b := overTCP(t)
	s := (&side{}).start(t, a)
	rawpeer.New(t, b)
	if got, want := s.conn.Addr().String(), a.RemoteAddr().String(); got != want {
		t.Errorf("Addr = %v, want %v", got, want)
	}
	if got, want := s.conn.LocalAddr().String(), a.LocalAddr().String(); got != want {
		t.Errorf("LocalAddr = %v, want %v", got, want)
	}
	if n, known := s.conn.Unacknowledged(); known && n != 0 {
		t.Errorf("%d bytes are unacknowledged before anything was sent", n)
	}
	pa, pb := net.Pipe()
	defer pb.Close()
	p := (&side{}).start(t, pa)
	if p.conn.Addr().IsValid() {
		t.Errorf("a pipe has the address %v", p.conn.Addr())
	}
	if _, known := p.conn.Unacknowledged(); known {
		t.Error("a pipe tells what is unacknowledged")
	}
}
