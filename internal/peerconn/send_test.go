package peerconn

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// stuck returns an open side whose peer does not read, so that the link's buffer and then the send queue fill.
func stuck(t *testing.T, queue int) (*side, *rawpeer.Peer) {
	a, b := simnet.Pipe(1, simnet.Link{Buffer: 4 << 10})
	s := (&side{opts: Options{SendQueueBytes: queue}}).start(t, a)
	raw := rawpeer.New(t, b)
	s.open(t, raw)
	// One message that blocks the write loop.
	if err := s.conn.SendApp(t.Context(), appID, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return s, raw
}

func (s *side) queued() (n int) {
	s.conn.Do(func(m *peer.Machine) { n = m.AppQueued() })
	return n
}

func TestSendAppIsBoundedAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const queue, size, n = 32 << 10, 1000, 200
		s, raw := stuck(t, queue)
		var most int
		var sent atomic.Int64
		go func() {
			for i := range n {
				if err := s.conn.SendApp(t.Context(), appID, number(i, size)); err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
				sent.Add(1)
			}
			s.conn.Close(nil)
		}()
		synctest.Wait()
		if most = s.queued(); most > queue+6*n || most < queue-2*size {
			t.Errorf("%d bytes are queued, want about %d", most, queue)
		}
		if ok, err := s.conn.TrySendApp(appID, number(0, size)); ok || err != nil {
			t.Errorf("TrySendApp with a full queue: %v, %v, want false and nil", ok, err)
		}
		if m, err := raw.Read(); err != nil || len(m.(*wire.Extended).Payload) != 64<<10 { // the one that blocked
			t.Fatalf("%v, %v", m, err)
		}
		wantNumbers(t, raw, n)
	})
}

// However many senders wait, what they are let go for stays within the bound.
func TestManyWaitersKeepToTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const queue, size, n = 8 << 10, 100, 1000
		s, raw := stuck(t, queue)
		for i := range n {
			go func() {
				s.conn.SendApp(t.Context(), appID, number(i, size)) // what does not come is missed below
			}()
			synctest.Wait() // so that they wait in this order
		}
		most, next := 0, 0
		for next < n {
			m, err := raw.Read()
			if err != nil {
				t.Fatalf("after %d messages: %v", next, err)
			}
			synctest.Wait()
			most = max(most, s.queued())
			if x := m.(*wire.Extended); len(x.Payload) == size {
				if got := int(binary.BigEndian.Uint32(x.Payload)); got != next {
					t.Fatalf("message %d came as number %d", got, next)
				}
				next++
			}
		}
		if limit := queue + queue/size*6; most > limit {
			t.Errorf("up to %d bytes were queued, want no more than %d", most, limit)
		}
	})
}

func TestSendAppCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, raw := stuck(t, 100)
		if err := s.conn.SendApp(t.Context(), appID, number(0, 100)); err != nil {
			t.Fatal(err)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		results := make(chan error, 3)
		go func() { results <- s.conn.SendApp(t.Context(), appID, number(1, 50)) }()
		synctest.Wait()
		go func() { results <- s.conn.SendApp(ctx, appID, number(99, 50)) }()
		synctest.Wait()
		go func() { results <- s.conn.SendApp(t.Context(), appID, number(2, 50)) }()
		synctest.Wait()
		cancel(cause)
		if err := <-results; !errors.Is(err, cause) {
			t.Errorf("the cancelled one: %v, want its cause", err)
		}
		go func() {
			for range 2 {
				if err := <-results; err != nil {
					t.Errorf("one that still waited: %v", err)
				}
			}
			s.conn.Close(nil)
		}()
		if _, err := raw.Read(); err != nil { // the one that blocked
			t.Fatal(err)
		}
		wantNumbers(t, raw, 3)
		if n := len(s.conn.waiters); n != 0 {
			t.Errorf("%d sends still wait, want none", n)
		}
	})
}

func TestSendAppWakesOnClose(t *testing.T) {
	for name, end := range map[string]func(s *side, raw *rawpeer.Peer){
		"ours":             func(s *side, _ *rawpeer.Peer) { s.conn.Close(nil) },
		"ours in anger":    func(s *side, _ *rawpeer.Peer) { s.conn.Close(errors.New("angry")) },
		"the peer's":       func(_ *side, raw *rawpeer.Peer) { raw.Close() },
		"the peer's fault": func(_ *side, raw *rawpeer.Peer) { raw.Write([]byte{0xff, 0xff, 0xff, 0xff, 0}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, raw := stuck(t, 100)
				const n = 20
				results := make(chan error, n)
				if err := s.conn.SendApp(t.Context(), appID, number(0, 100)); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					go func() { results <- s.conn.SendApp(t.Context(), appID, number(i, 100)) }()
				}
				synctest.Wait()
				flushed := make(chan error)
				go func() { flushed <- s.conn.Flush(t.Context()) }()
				synctest.Wait()
				end(s, raw)
				for range n {
					if err := <-results; !errors.Is(err, net.ErrClosed) {
						t.Errorf("a send that waited: %v, want %v", err, net.ErrClosed)
					}
				}
				if err := <-flushed; !errors.Is(err, net.ErrClosed) {
					t.Errorf("a flush that waited: %v, want %v", err, net.ErrClosed)
				}
				s.group.Wait()
				if err := s.conn.SendApp(t.Context(), appID, nil); !errors.Is(err, net.ErrClosed) {
					t.Errorf("a send afterwards: %v, want %v", err, net.ErrClosed)
				}
				if ok, err := s.conn.TrySendApp(appID, nil); !errors.Is(err, net.ErrClosed) {
					t.Errorf("TrySendApp afterwards: %v, %v, want %v", ok, err, net.ErrClosed)
				}
				if err := s.conn.Flush(t.Context()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Flush afterwards: %v, want %v", err, net.ErrClosed)
				}
				if err := s.conn.Send(wire.KeepAlive{}); !errors.Is(err, peer.ErrNotOpen) {
					t.Errorf("Send afterwards: %v, want %v", err, peer.ErrNotOpen)
				}
			})
		})
	}
}

func TestSendAppErrors(t *testing.T) {
	a, b := overTCP(t)
	s := (&side{}).start(t, a)
	raw := rawpeer.New(t, b)
	if err := s.conn.SendApp(t.Context(), appID, nil); !errors.Is(err, peer.ErrNotOpen) {
		t.Errorf("before the hello: %v, want %v", err, peer.ErrNotOpen)
	}
	s.open(t, raw)
	if err := s.conn.SendApp(t.Context(), 0, nil); !errors.Is(err, peer.ErrUnsupported) {
		t.Errorf("under id 0: %v, want %v", err, peer.ErrUnsupported)
	}
	why := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := s.conn.SendApp(ctx, appID, nil); !errors.Is(err, why) {
		t.Errorf("with a context that has ended: %v, although there is room", err)
	}
}

// A message larger than the whole queue goes in once the queue is empty.
func TestMessageLargerThanTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, raw := stuck(t, 1000)
		if err := s.conn.SendApp(t.Context(), appID, number(0, 10)); err != nil {
			t.Fatal(err)
		}
		done := false
		go func() {
			if err := s.conn.SendApp(t.Context(), appID, number(1, 50_000)); err != nil {
				t.Error(err)
			}
			done = true
			s.conn.Close(nil)
		}()
		synctest.Wait()
		if done {
			t.Error("it did not wait for the queue to be empty")
		}
		if _, err := raw.Read(); err != nil {
			t.Fatal(err)
		}
		wantNumbers(t, raw, 2)
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, raw := stuck(t, 1<<20)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.conn.Flush(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a peer that does not read: %v, want %v", err, context.DeadlineExceeded)
		}
		const n = 100
		for i := range n {
			if err := s.conn.SendApp(t.Context(), appID, number(i, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		flushed := false
		go func() {
			if err := s.conn.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			flushed = true
		}()
		for read := range n {
			if _, err := raw.Read(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if flushed && read < n-10 { // the link holds 4 of them
				t.Fatalf("flushed with %d of %d messages read", read, n)
			}
		}
		synctest.Wait()
		if !flushed {
			t.Error("everything was written, and Flush still waits")
		}
		if err := s.conn.Flush(t.Context()); err != nil {
			t.Errorf("with nothing queued: %v", err)
		}
	})
}

// Flush waits for messages, not for a peer that downloads without end, nor for messages behind those.
func TestFlushDoesNotWaitForUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := simnet.Pipe(1, simnet.Link{Latency: time.Millisecond, Rate: 10 << 20})
		s := (&side{}).start(t, a)
		raw := rawpeer.New(t, b)
		s.open(t, raw)
		if err := s.conn.Send(wire.Unchoke{}); err != nil {
			t.Fatal(err)
		}
		request := classic.AppendRequest(nil, wire.Request{Block: bt.Block{Length: bt.BlockBytes}})
		ask := func(n int) {
			for range n {
				if _, err := raw.Write(request); err != nil {
					return // the end of the test
				}
			}
		}
		ask(100)
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				m, err := raw.Read()
				if err != nil {
					return
				}
				if _, ok := m.(*wire.Piece); ok && !stop.Load() {
					ask(1)
				}
			}
		})
		wg.Go(func() {
			for !stop.Load() {
				if s.conn.SendApp(t.Context(), appID, make([]byte, 1000)) != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.conn.Flush(ctx); err != nil {
			t.Errorf("while the peer downloads: %v", err)
		}
		stop.Store(true)
		s.conn.Close(nil)
		wg.Wait()
	})
}

// What is sent while the read loop handles something goes out with its answer, and Flush knows.
func TestFlushOfWhatTheReadLoopWrote(t *testing.T) {
	a, b := overTCP(t)
	s := &side{onOpen: func(c *Conn) {
		if err := c.SendApp(t.Context(), appID, number(0, 100)); err != nil {
			t.Error(err)
		}
	}}
	s.start(t, a)
	raw := rawpeer.New(t, b)
	if _, err := raw.Greet(infoHash, theirID, rawpeer.LTEP); err != nil {
		t.Fatal(err)
	}
	<-s.opened
	if err := s.conn.Flush(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
}
