package messaging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/peer"
)

// soon fails the test if f does not return: what deadlocks must not hang the whole run.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: still waiting after 20 s", what)
	}
}

func TestOrderPerPeerAndType(t *testing.T) {
	const peers, types, each = 8, 4, 2000
	var h *Hub
	var next [peers][types]atomic.Int64
	var running [peers][types]atomic.Bool
	handled := make(chan struct{}, peers*types*each)
	h = newHub(t, Options{QueueBytes: 4 << 10})
	tys := make([]*Type, types)
	for k := range tys {
		tys[k] = register(t, h, fmt.Sprint("type ", k), func(_ context.Context, m *Message) error {
			who := m.Peer.Owner.(int)
			if !running[who][k].CompareAndSwap(false, true) {
				t.Errorf("two handlers of peer %d and type %d at once", who, k)
			}
			if got, want := int64(binary.BigEndian.Uint32(m.Payload)), next[who][k].Add(1)-1; got != want {
				t.Errorf("peer %d, type %d: message %d came as number %d", who, k, got, want)
			}
			running[who][k].Store(false)
			handled <- struct{}{}
			return nil
		})
	}
	var wg sync.WaitGroup
	for who := range peers {
		p := h.NewPeer(who)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(who), 1))
			var sent [types]uint32
			for left := types * each; left > 0; {
				for n := rng.IntN(20); n > 0 && left > 0; n-- {
					k := rng.IntN(types)
					if sent[k] == each {
						continue
					}
					payload := make([]byte, 4+rng.IntN(100))
					binary.BigEndian.PutUint32(payload, sent[k])
					p.App(tys[k].id, payload)
					clear(payload) // it was borrowed
					sent[k]++
					left--
				}
				p.AppsDone()
			}
		})
	}
	soon(t, "handling everything", func() {
		wg.Wait()
		for range peers * types * each {
			<-handled
		}
	})
}

// While a handler is slow, no more than the bound and one read are taken from that peer; the other types and peers go on until then.
func TestQueueBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, payload, perRead = 64 << 10, 1000, 16
		h := newHub(t, Options{QueueBytes: limit, HandlerTimeout: time.Hour})
		gate := make(chan struct{})
		var handled atomic.Int64
		slow := register(t, h, "slow", func(context.Context, *Message) error {
			<-gate
			handled.Add(1)
			return nil
		})
		var fast atomic.Int64
		quick := register(t, h, "quick", func(context.Context, *Message) error { fast.Add(1); return nil })
		p, other := h.NewPeer(nil), h.NewPeer(nil)

		const reads = 200
		var read atomic.Int64
		go func() {
			for range reads {
				for range perRead {
					p.App(slow.id, make([]byte, payload))
				}
				read.Add(1)
				p.AppsDone()
			}
		}()
		synctest.Wait()
		const oneRead = perRead * (payload + messageOverhead)
		if got := read.Load() * oneRead; got <= limit || got > limit+oneRead {
			t.Errorf("%d bytes were taken while nothing was handled, want more than %d and at most one read more", got, limit)
		}
		if used := p.used.Load(); used != read.Load()*oneRead {
			t.Errorf("%d bytes count as used, want %d", used, read.Load()*oneRead)
		}
		stored := 0
		p.mu.Lock()
		for _, q := range p.queues {
			for _, b := range q.pending {
				stored += len(*b)
			}
		}
		p.mu.Unlock()
		if stored > limit+oneRead {
			t.Errorf("%d bytes are stored, want no more than %d", stored, limit+oneRead)
		}

		feed(other, slow, "x") // another peer's messages of the slow type are taken, and its others handled
		feed(other, quick, "x", "y")
		synctest.Wait()
		if fast.Load() != 2 {
			t.Errorf("%d messages of another peer were handled, want 2", fast.Load())
		}
		close(gate)
		synctest.Wait()
		if got := handled.Load(); got != reads*perRead+1 {
			t.Errorf("%d messages were handled in the end, want %d: nothing is dropped", got, reads*perRead+1)
		}
		if p.used.Load() != 0 {
			t.Errorf("%d bytes count as used with nothing waiting", p.used.Load())
		}
	})
}

func TestEmptyMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 64 << 10
		h := newHub(t, Options{QueueBytes: limit, HandlerTimeout: time.Hour})
		gate := make(chan struct{})
		ty := register(t, h, "slow", func(context.Context, *Message) error { <-gate; return nil })
		p := h.NewPeer(nil)
		var taken atomic.Int64
		go func() {
			for range 100_000 {
				taken.Add(1)
				feed(p, ty, "")
			}
		}()
		synctest.Wait()
		if n := taken.Load(); n > limit/messageOverhead+1 {
			t.Errorf("%d empty messages were taken, want no more than %d", n, limit/messageOverhead+1)
		}
		close(gate)
		synctest.Wait()
		if n := taken.Load(); n != 100_000 {
			t.Errorf("%d of 100,000 messages were taken in the end", n)
		}
	})
}

// Other types of the same peer go on while one handler blocks.
func TestOtherTypesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{HandlerTimeout: time.Hour})
		gate := make(chan struct{})
		slow := register(t, h, "slow", func(context.Context, *Message) error { <-gate; return nil })
		var n atomic.Int64
		quick := register(t, h, "quick", func(context.Context, *Message) error { n.Add(1); return nil })
		p := h.NewPeer(nil)
		for range 100 {
			feed(p, slow, strings.Repeat("s", 5000))
			feed(p, quick, strings.Repeat("q", 5000))
		}
		synctest.Wait()
		if n.Load() != 100 {
			t.Errorf("%d of 100 messages of the other type were handled while one handler blocked", n.Load())
		}
		close(gate)
	})
}

func TestHandlersMayCallBack(t *testing.T) {
	tests := []struct {
		name string
		call func(h *Hub, m *Message) error
	}{
		{"register", func(h *Hub, m *Message) error {
			_, err := h.Register(Spec{Name: "another " + string(m.Payload), Handler: ignore})
			return err
		}},
		{"withdraw itself", func(_ *Hub, m *Message) error { return m.Type.Withdraw() }},
		{"withdraw another", func(h *Hub, _ *Message) error {
			ty, err := h.Register(Spec{Name: "short-lived", Handler: ignore})
			if err != nil {
				return err
			}
			return ty.Withdraw()
		}},
		{"close the hub", func(h *Hub, _ *Message) error { h.Close(); return nil }},
		{"end the session", func(_ *Hub, m *Message) error { m.Peer.End(nil); return nil }},
		{"interrupt", func(_ *Hub, m *Message) error { m.Peer.Interrupt(); return nil }},
		{"receive more", func(_ *Hub, m *Message) error {
			m.Peer.App(m.Type.id, []byte("more"))
			return nil
		}},
		{"exchange", func(h *Hub, _ *Message) error {
			h.Exchange()
			h.Usable(&peer.Shared{Plain: map[string]uint8{"x": 1}})
			return nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h *Hub
			changed := func() {
				h.Exchange() // as the swarm does
			}
			h = newHub(t, Options{QueueBytes: 100, Changed: changed})
			result := make(chan error, 100)
			var once atomic.Bool
			ty := register(t, h, "calls back", func(_ context.Context, m *Message) error {
				if once.CompareAndSwap(false, true) {
					result <- tt.call(h, m)
				}
				return nil
			})
			p := h.NewPeer(nil)
			soon(t, "the handler", func() {
				feed(p, ty, "1", "2", "3") // more than the queue: the reader waits while the handler calls back
				if err := <-result; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestWithdrawnWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		gate := make(chan struct{})
		var got []string
		ty := register(t, h, "x", func(_ context.Context, m *Message) error {
			got = append(got, string(m.Payload))
			<-gate
			return nil
		})
		p := h.NewPeer(nil)
		feed(p, ty, "running", "waiting", "waiting too")
		synctest.Wait()
		if err := ty.Withdraw(); err != nil {
			t.Fatal(err)
		}
		feed(p, ty, "too late")
		var news []string
		again := register(t, h, "x", func(_ context.Context, m *Message) error {
			news = append(news, string(m.Payload))
			return nil
		})
		feed(p, again, "new")
		close(gate)
		synctest.Wait()
		if !slices.Equal(got, []string{"running"}) {
			t.Errorf("the withdrawn type's handler got %v, want the running one alone", got)
		}
		if !slices.Equal(news, []string{"new"}) {
			t.Errorf("the new handler got %v, want what came after its registration", news)
		}
		if p.used.Load() != 0 {
			t.Errorf("%d bytes count as used", p.used.Load())
		}
	})
}

// A name that comes and goes must not cost a session anything that stays.
func TestQueuesOfWithdrawnTypesGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		p := h.NewPeer(nil)
		for range 50 {
			ty := register(t, h, "x", ignore)
			feed(p, ty, "message")
			synctest.Wait()
			if err := ty.Withdraw(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(p.queues); n > 1 {
			t.Errorf("the session keeps %d queues of withdrawn types", n)
		}
	})
}

// What came whole is handled although the session has ended (EMP/1 design rule 5), and the end is reported once, afterwards.
func TestSessionEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		gate := make(chan struct{})
		var got []string
		var first, later error
		var firstDone bool
		ty := register(t, h, "x", func(ctx context.Context, m *Message) error {
			got = append(got, string(m.Payload))
			if len(got) == 1 {
				<-ctx.Done() // the session's end ends it
				firstDone, first = true, ctx.Err()
				<-gate
				return nil
			}
			select {
			case <-ctx.Done():
				later = errors.Join(later, errors.New("a handler that began after the end has an ended context"))
			default:
			}
			later = errors.Join(later, ctx.Err())
			return nil
		})
		p := h.NewPeer(nil)
		feed(p, ty, "1", "2")
		feed(p, ty, "3")
		synctest.Wait()
		drained := 0
		p.End(func() {
			drained++
			if len(got) != 3 {
				t.Errorf("drained with %d of 3 messages handled", len(got))
			}
		})
		synctest.Wait()
		if !firstDone || !errors.Is(first, context.Canceled) {
			t.Errorf("the context of the running handler: ended %v with %v, want %v", firstDone, first, context.Canceled)
		}
		if drained != 0 {
			t.Error("drained while a handler ran")
		}
		close(gate)
		synctest.Wait()
		if !slices.Equal(got, []string{"1", "2", "3"}) || drained != 1 {
			t.Errorf("handled %v, drained %d times, want all three, and once", got, drained)
		}
		if later != nil {
			t.Error(later)
		}

		idle := h.NewPeer(nil)
		idle.End(func() { drained++ })
		if drained != 2 {
			t.Error("a session without messages is not drained at once")
		}
	})
}

func TestHandlerContext(t *testing.T) {
	const timeout = 3 * time.Second
	tests := []struct {
		name    string
		handler func(t *testing.T, ctx context.Context, h *Hub)
		want    error
	}{
		{"times out for one who waits", func(t *testing.T, ctx context.Context, _ *Hub) {
			began := time.Now()
			<-ctx.Done()
			if d := time.Since(began); d != timeout {
				t.Errorf("ended after %v, want %v", d, timeout)
			}
		}, context.DeadlineExceeded},
		{"times out for one who asks again and again", func(t *testing.T, ctx context.Context, _ *Hub) {
			began := time.Now()
			for ctx.Err() == nil && time.Since(began) < 10*timeout {
				time.Sleep(timeout / 10)
			}
		}, context.DeadlineExceeded},
		{"tells its deadline", func(t *testing.T, ctx context.Context, _ *Hub) {
			d, ok := ctx.Deadline()
			if want := time.Now().Add(timeout); !ok || !d.Equal(want) {
				t.Errorf("Deadline = %v, %v, want %v", d, ok, want)
			}
			<-ctx.Done()
			if time.Now().Before(d) {
				t.Error("ended before its deadline")
			}
		}, context.DeadlineExceeded},
		{"has children", func(t *testing.T, ctx context.Context, _ *Hub) {
			child, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-child.Done()
		}, context.DeadlineExceeded},
		{"ends with the torrent", func(t *testing.T, ctx context.Context, h *Hub) {
			time.AfterFunc(time.Second, h.Close)
			<-ctx.Done()
		}, context.Canceled},
		{"is not over while there is time", func(t *testing.T, ctx context.Context, _ *Hub) {
			if ctx.Err() != nil || ctx.Value("key") != nil {
				t.Errorf("Err = %v, Value = %v", ctx.Err(), ctx.Value("key"))
			}
			time.Sleep(timeout - time.Millisecond)
			select {
			case <-ctx.Done():
				t.Error("ended early")
			default:
			}
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{HandlerTimeout: timeout})
				ran := false
				ty := register(t, h, "x", func(ctx context.Context, _ *Message) error {
					tt.handler(t, ctx, h)
					if err := ctx.Err(); !errors.Is(err, tt.want) {
						t.Errorf("Err = %v, want %v", err, tt.want)
					}
					ran = true
					return nil
				})
				feed(h.NewPeer(nil), ty, "x")
				time.Sleep(time.Hour)
				synctest.Wait()
				if !ran {
					t.Error("the handler has not returned")
				}
			})
		})
	}
}

// Each message has its own time: a context that has ended is not the next message's.
func TestHandlerContextPerMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{HandlerTimeout: time.Second})
		var kept []context.Context
		n := 0
		ty := register(t, h, "x", func(ctx context.Context, _ *Message) error {
			if ctx.Err() != nil {
				t.Errorf("message %d begins with an ended context", n)
			}
			n++
			kept = append(kept, ctx)
			ctx.Done()
			time.Sleep(600 * time.Millisecond) // together longer than one may take
			return nil
		})
		feed(h.NewPeer(nil), ty, "1", "2", "3", "4")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n != 4 {
			t.Fatalf("%d of 4 messages were handled", n)
		}
		for i, ctx := range kept {
			if !errors.Is(ctx.Err(), context.Canceled) {
				t.Errorf("message %d: its context has %v after the handler returned, want %v", i, ctx.Err(), context.Canceled)
			}
		}
	})
}

func TestHandlerErrorsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		ty := register(t, h, "x", func(_ context.Context, m *Message) error {
			if string(m.Payload) == "bad" {
				return errors.New("no")
			}
			return nil
		})
		p := h.NewPeer(nil)
		feed(p, ty, "good", "bad", "good", "bad", "good")
		synctest.Wait()
		if ty.Total().MessagesIn.Load() != 5 || ty.Total().Errors.Load() != 2 || p.Received() != 5 {
			t.Errorf("%d handled, %d errors, %d received, want 5, 2 and 5", ty.Total().MessagesIn.Load(), ty.Total().Errors.Load(), p.Received())
		}
		p.App(200, []byte("nobody has this id"))
		p.AppsDone()
		if p.Received() != 5 || p.used.Load() != 0 {
			t.Error("a message without a type counts")
		}
	})
}

// A reader that waits for room goes on at once when the connection is being closed, or the torrent.
func TestAppsDoneIsReleased(t *testing.T) {
	for name, release := range map[string]func(h *Hub, p *Peer){
		"interrupt":        func(_ *Hub, p *Peer) { p.Interrupt() },
		"interrupt before": nil,
		"close":            func(h *Hub, _ *Peer) { h.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{QueueBytes: 10, HandlerTimeout: time.Hour})
				gate := make(chan struct{})
				var n atomic.Int64
				ty := register(t, h, "x", func(context.Context, *Message) error { <-gate; n.Add(1); return nil })
				p := h.NewPeer(nil)
				if release == nil {
					p.Interrupt()
				}
				returned := false
				go func() {
					feed(p, ty, "more than", "ten bytes")
					returned = true
				}()
				synctest.Wait()
				if release != nil {
					if returned {
						t.Fatal("AppsDone does not wait")
					}
					release(h, p)
					synctest.Wait()
				}
				if !returned {
					t.Error("AppsDone still waits")
				}
				close(gate)
				synctest.Wait()
				if want := map[string]int64{"close": 1}[name]; want == 0 && n.Load() != 2 || want == 1 && n.Load() != 1 {
					t.Errorf("%d messages were handled", n.Load())
				}
			})
		})
	}
}

// In steady state a message costs no allocation from the connection to the handler. The worker that comes and goes with each batch is what a batch costs.
func TestAllocsPerMessage(t *testing.T) {
	h := newHub(t, Options{QueueBytes: 8 << 20})
	const batch = 1000
	handled := make(chan struct{}, 1)
	n := 0
	ty := register(t, h, "x", func(context.Context, *Message) error {
		if n++; n == batch {
			n = 0
			handled <- struct{}{}
		}
		return nil
	})
	p := h.NewPeer(nil)
	payload := make([]byte, 100)
	allocs := testing.AllocsPerRun(50, func() {
		for range batch {
			p.App(ty.id, payload)
		}
		p.AppsDone()
		<-handled
	})
	if allocs > batch/50 { // the race detector's sync.Pool forgets buffers at random
		t.Errorf("%.0f allocations for %d messages, want a handful for the batch", allocs, batch)
	}
}

// Who waits for the peer's types to settle goes on when they have, and when the session ends.
func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(Options{QueueBytes: 1 << 20, HandlerTimeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
		defer h.Close()
		register(t, h, "a", ignore)
		p, q := h.NewPeer(nil), h.NewPeer(nil)
		settled := func(p *Peer, ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() { done <- p.Settled(ctx) }()
			synctest.Wait()
			return done
		}
		if err := <-settled(p, t.Context()); err != nil { // nothing has come: there is nothing to wait for
			t.Error(err)
		}
		p.SetShared(peer.Shared{Offers: true})
		q.SetShared(peer.Shared{Offers: true})
		a, b := settled(p, t.Context()), settled(q, t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		c := settled(q, ctx)
		if len(a)+len(b)+len(c) != 0 {
			t.Error("it does not wait while our offer is on its way")
		}
		p.SetShared(peer.Shared{Offers: true, Mux: map[string]peer.MuxOffer{}})
		if err := <-a; err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-c; !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
		q.End(nil)
		if err := <-b; err != nil {
			t.Error(err)
		}
	})
}
