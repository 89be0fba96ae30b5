package messaging

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// The tests of this file join two machines without sockets. On our end a Peer takes what comes, with a hub that is tested; the other end is driven by hand, or has a hub too.

// end is one end of a session: the Conn of its Peer, if it has one.
type end struct {
	t      testing.TB
	mu     sync.Mutex
	m      peer.Machine
	hub    *Hub
	p      *Peer           // nil: events are noted
	events []peer.MuxEvent // with data of their own
	tells  int
	before atomic.Pointer[func()] // called once, before another goroutine than the reader's locks the machine
}

// link is a session.
type link struct {
	us, them *end
	window   int64 // what the other end may spend at the beginning
}

// window is our window, unless a test wants another.
const window = 1 << 20

// newLink returns a session between two hubs. Both have the types they had before; mux frames are legal if both have one. The other end has no Peer.
func newLink(t testing.TB, ours, theirs *Hub) *link {
	t.Helper()
	l := &link{us: newEnd(t, ours, peer.Initiator), them: newEnd(t, theirs, peer.Responder)}
	l.us.p = ours.NewPeer("them")
	l.us.p.conn = l.us
	l.move()
	for _, e := range []*end{l.us, l.them} {
		if e.m.Phase() != peer.PhaseOpen {
			t.Fatalf("the hellos end in %v: %v", e.m.Phase(), e.m.Err())
		}
		e.tell()
	}
	l.move()
	l.window = l.spend()
	return l
}

func newEnd(t testing.TB, h *Hub, role peer.Role) *end {
	e := &end{t: t, hub: h}
	e.m.Init(time.Now(), peer.Config{Role: role, PeerID: bt.PeerID{byte(role) + 1}, Reserved: wire.Reserved{5: 0x10, 7: 0x04}, HelloTimeout: peer.InitiatorTimeout,
		KeepAlive: peer.MaxKeepAlive, SendQueueBytes: 1 << 20, Local: peer.Local{InfoHash: bt.InfoHash{1}}})
	return e
}

// tell sends a type exchange with what the hub has now.
func (e *end) tell() {
	e.t.Helper()
	m, use, offer := e.hub.Exchange()
	say := ltep.Exchange{M: m}
	if offer != nil {
		say.EMP = emp.AppendOffer(nil, offer)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.m.SendExchange(&say, use); err != nil {
		e.t.Errorf("the exchange: %v", err)
	}
	e.news()
}

// news tells the Peer what the other end accepts if that has changed. The lock is held.
func (e *end) news() {
	if e.p != nil && e.m.Opened() && e.m.SharedChanged() {
		e.p.SetShared(e.m.Shared())
	}
}

// note tells owners of what they sent. The lock is held.
func (e *end) note() {
	for _, o := range e.m.MuxChanged() {
		o.Owner.(peerconn.Owner).OutChanged(o)
	}
}

func (e *end) lock() {
	if f := e.before.Swap(nil); f != nil {
		(*f)()
	}
	e.mu.Lock()
}

// The methods of Conn.

func (e *end) Submit(o *peer.Outgoing, payload []byte) error {
	e.lock()
	defer e.mu.Unlock()
	return e.m.Submit(o, payload)
}

func (e *end) Abandon(o *peer.Outgoing, code emp.Code) {
	e.lock()
	defer e.mu.Unlock()
	e.m.Abandon(o, code)
	e.note()
}

func (e *end) OutErr(o *peer.Outgoing) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return o.Err()
}

func (e *end) Respond(id uint32, status emp.Status, payload []byte, credit int64) {
	e.lock()
	e.m.Credit(credit)
	w := make(waiter, 1)
	o := &peer.Outgoing{Owner: w}
	done, _ := e.m.Respond(o, id, status, payload)
	e.note()
	for !done && !o.Done() {
		e.mu.Unlock()
		<-w
		e.mu.Lock()
	}
	e.mu.Unlock()
}

func (e *end) Credit(n int64) {
	e.lock()
	defer e.mu.Unlock()
	e.m.Credit(n)
}

func (e *end) Do(f func(m *peer.Machine)) {
	e.lock()
	defer e.mu.Unlock()
	f(&e.m)
	e.note()
}

// waiter waits for a message to be done, or hungry.
type waiter chan struct{}

func (w waiter) OutChanged(*peer.Outgoing) {
	select {
	case w <- struct{}{}:
	default:
	}
}

// write takes up to n bytes that the end has to write.
func (e *end) write(n int) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.m.AppendOutput(time.Now(), nil, n)
	e.note()
	return b
}

// read takes what the other end has written.
func (e *end) read(b []byte) {
	e.mu.Lock()
	apps := false
	e.m.Feed(time.Now(), b)
	for {
		ev, ok := e.m.Next()
		if !ok {
			break
		}
		switch ev.Kind {
		case peer.EventHello:
			e.m.Accept(peer.Local{InfoHash: e.m.InfoHash()})
		case peer.EventMessage:
			e.news()
		case peer.EventMux:
			if apps = true; e.p != nil {
				e.p.Mux(&e.m, ev.Mux)
				break
			}
			c := *ev.Mux
			c.Data = bytes.Clone(c.Data)
			e.events = append(e.events, c)
		case peer.EventClosed:
			if e.m.Err() != nil {
				e.t.Errorf("the session ends with %v", e.m.Err())
			}
		}
	}
	e.note()
	e.mu.Unlock()
	if apps && e.p != nil {
		e.p.AppsDone()
	}
}

// carry carries what one end has to write to the other, up to n bytes of messages at once, and reports whether there was anything.
func carry(from, to *end, n int) bool {
	b := from.write(n)
	if len(b) == 0 {
		return false
	}
	to.read(b)
	clear(b) // it was borrowed
	return true
}

// move carries until nothing more is written. Handlers are not waited for.
func (l *link) move() {
	for carry(l.us, l.them, 1<<20) || carry(l.them, l.us, 1<<20) {
	}
}

// settle carries until nothing more is written and every handler is done or waits. In a bubble only; no time passes.
func (l *link) settle() {
	for {
		synctest.Wait()
		if !carry(l.us, l.them, 1<<20) && !carry(l.them, l.us, 1<<20) {
			return
		}
	}
}

// rest settles, with the credit that is held back for a moment.
func (l *link) rest() {
	l.settle()
	time.Sleep(2 * creditDelay)
	l.settle()
}

// spend returns how much of our window the other end may use.
func (l *link) spend() int64 {
	l.them.mu.Lock()
	defer l.them.mu.Unlock()
	n, _ := l.them.m.PeerMuxWindow()
	return n
}

// wantIdle checks that a session at rest holds nothing and that the other end has all of its window, no more and no less.
func (l *link) wantIdle() {
	l.us.t.Helper()
	p := l.us.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != 0 || p.granted != 0 || len(p.partials)+len(p.requests) != 0 || p.unsent.Load() != 0 || p.owed.Load() != 0 {
		l.us.t.Errorf("at rest %d bytes are held, %d granted, %d messages incomplete, %d requests unanswered, %d bytes of answers unsent, %d of window owed", p.held, p.granted,
			len(p.partials), len(p.requests), p.unsent.Load(), p.owed.Load())
	}
	if l.them.m.Phase() == peer.PhaseOpen {
		if n := l.spend(); n != l.window {
			l.us.t.Errorf("at rest the other end may spend %d bytes, want %d", n, l.window)
		}
	}
}

// end ends the session on our side, as a connection does that is gone, and returns how often it was said to be drained.
func (l *link) end() *atomic.Int32 {
	for _, e := range []*end{l.us, l.them} {
		e.mu.Lock()
		e.m.Close(nil)
		e.note()
		e.mu.Unlock()
	}
	n := new(atomic.Int32)
	l.us.p.End(func() { n.Add(1) })
	return n
}

// What the other end does by hand.

// open opens a message, or a request, of total bytes, of which data is the beginning.
func (l *link) open(name string, total int, data []byte, request bool) *peer.Outgoing {
	e := l.them
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	o := &peer.Outgoing{Type: e.m.Shared().Mux[name].Type, Total: uint32(total), Request: request, ReplyMax: wire.MaxMessage, Owner: make(waiter, 1)}
	if err := e.m.Submit(o, data); err != nil {
		e.t.Fatalf("%q: %v", name, err)
	}
	return o
}

// send sends a whole message and request a whole request.
func (l *link) send(name string, payload []byte) *peer.Outgoing {
	l.them.t.Helper()
	return l.open(name, len(payload), payload, false)
}

func (l *link) request(name string, payload []byte) *peer.Outgoing {
	l.them.t.Helper()
	return l.open(name, len(payload), payload, true)
}

// more gives more of an opened message.
func (l *link) more(o *peer.Outgoing, data []byte) {
	l.them.mu.Lock()
	defer l.them.mu.Unlock()
	l.them.m.Supply(o, data)
}

// abandon gives an opened message or request up.
func (l *link) abandon(o *peer.Outgoing) {
	l.them.mu.Lock()
	defer l.them.mu.Unlock()
	l.them.m.Abandon(o, emp.CodeCancelled)
	l.them.note()
}

// told returns what the other end's machine has told since the last call.
func (l *link) told() []peer.MuxEvent {
	l.them.mu.Lock()
	defer l.them.mu.Unlock()
	all := l.them.events
	l.them.events = nil
	return all
}

// answers returns the answers that have come since the last call, "status payload" each, and other ends of requests.
func (l *link) answers() (all []string) {
	parts := map[*peer.Outgoing][]byte{}
	for _, ev := range l.told() {
		switch ev.Kind {
		case peer.MuxReply:
			if parts[ev.Call] = append(parts[ev.Call], ev.Data...); ev.Last {
				all = append(all, fmt.Sprintf("%v %.40s", ev.Status, parts[ev.Call]))
			}
		case peer.MuxCallEnded:
			switch {
			case ev.Refused:
				all = append(all, fmt.Sprintf("STOP %v", ev.Code))
			default:
				all = append(all, fmt.Sprintf("RESET %v", ev.Code))
			}
		case peer.MuxRefused:
			all = append(all, fmt.Sprintf("refused %v", ev.Code))
		}
	}
	return all
}

// add registers a type.
func add(t testing.TB, h *Hub, s Spec) *Type {
	t.Helper()
	if s.MaxBytes == 0 {
		s.MaxBytes = 500_000
	}
	ty, err := h.Register(s)
	if err != nil {
		t.Fatalf("registering %q: %v", s.Name, err)
	}
	return ty
}

// theirHub returns a hub for the other end of a link.
func theirHub(t testing.TB) *Hub {
	h := newHub(t, Options{Requests: 64})
	add(t, h, Spec{Name: "theirs", Handler: ignore})
	return h
}

// bubble runs a test in a bubble with a link to a hub that has types.
func bubble(t *testing.T, o Options, types []Spec, f func(t *testing.T, l *link, tys []*Type)) {
	synctest.Test(t, func(t *testing.T) {
		o.Requests = cmp.Or(o.Requests, 64)
		o.WindowBytes = cmp.Or(o.WindowBytes, window)
		h := newHub(t, o)
		var tys []*Type
		for _, s := range types {
			tys = append(tys, add(t, h, s))
		}
		l := newLink(t, h, theirHub(t))
		f(t, l, tys)
		l.end()
		synctest.Wait()
		if b := h.o.Budget; b != nil && b.Used() != 0 {
			t.Errorf("%d bytes of the budget are out after the end", b.Used())
		}
	})
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8 ^ i*7)
	}
	return b
}

// A message of any size, in fragments of any size, arrives as it was sent, and afterwards everything is as before.
func TestMuxMessages(t *testing.T) {
	var got [][]byte
	var versions []uint8
	keep := func(_ context.Context, m *Message) error {
		got, versions = append(got, bytes.Clone(m.Payload)), append(versions, m.Version)
		return nil
	}
	bubble(t, Options{Budget: NewBudget(64 << 20)}, []Spec{{Name: "x", MaxVersion: 3, Handler: keep}}, func(t *testing.T, l *link, _ []*Type) {
		for _, n := range []int{0, 1, 100, wire.MaxFragment, wire.MaxFragment + 1, 4 * wire.MaxFragment, 65_535, 65_536, 65_537, 300_001, 500_000} {
			want := pattern(n)
			o := l.open("x", n, want[:min(n, 1)], false)
			for at := 1; at < n; { // as it suits the sender
				k := min(n-at, []int{1, 7, 16_000, 40_000}[at%4])
				l.settle()
				l.more(o, want[at:at+k])
				at += k
			}
			l.rest()
			if len(got) != 1 || !bytes.Equal(got[0], want) || versions[0] != 0 {
				t.Fatalf("%d bytes: %d messages came, or another", n, len(got))
			}
			got, versions = nil, nil
			l.wantIdle()
		}
	})
}

// Memory is taken as bytes arrive, not as lengths announce (EMP/1 section 7.3).
func TestAssemblyGrowsAsBytesArrive(t *testing.T) {
	bubble(t, Options{WindowBytes: 40 << 20, Budget: NewBudget(256 << 20)}, []Spec{{Name: "x", MaxBytes: wire.MaxMessage, Handler: ignore}, {Name: "stream", MaxBytes: wire.MaxMessage, Streams: true,
		Handler: func(ctx context.Context, m *Message) error { <-ctx.Done(); return nil }}}, func(t *testing.T, l *link, _ []*Type) {
		p := l.us.p
		for _, name := range []string{"x", "stream"} {
			o := l.open(name, wire.MaxMessage, []byte{1}, false)
			for sent := 1; ; {
				l.settle()
				p.mu.Lock()
				held := p.held
				p.mu.Unlock()
				if most := int64(max(blockbuf.BlockBytes, growth*sent) + wire.MessageCost); held > most || held < int64(sent) {
					t.Errorf("%s: after %d bytes %d are held, want no more than %d", name, sent, held, most)
				}
				if sent >= 3<<20 {
					break
				}
				l.more(o, pattern(sent))
				sent *= 2
			}
			l.abandon(o)
			l.rest()
		}
		time.Sleep(time.Minute) // the handler times out
		l.rest()
		l.wantIdle()
	})
}

// A stream whose messages have a few bytes each in several frames takes a block for each of them, and that is what counts.
func TestManyShortStreams(t *testing.T) {
	const most = 4 << 20
	budget := NewBudget(most)
	var gate chan struct{}
	bubble(t, Options{Budget: budget}, []Spec{{Name: "s", Streams: true, Handler: func(_ context.Context, m *Message) error {
		<-gate
		_, err := io.Copy(io.Discard, m.Stream)
		return err
	}}}, func(t *testing.T, l *link, tys []*Type) {
		gate = make(chan struct{})
		before := blockbuf.Live()
		for range 2000 {
			o := l.open("s", 2, []byte{1}, false)
			l.settle()
			l.more(o, []byte{2})
			l.settle()
		}
		if n := (blockbuf.Live() - before) * blockbuf.BlockBytes; n > most/4+freeBytes {
			t.Errorf("%d bytes of blocks are out, the peer may have %d", n, most/4+freeBytes)
		}
		close(gate)
		l.rest()
		if n := tys[0].Total(); n.MessagesIn.Load()+n.RefusedIn.Load() != 2000 || n.MessagesIn.Load() < 10 {
			t.Errorf("%d messages were handled and %d refused, want 2,000 in all", n.MessagesIn.Load(), n.RefusedIn.Load())
		}
		l.wantIdle()
	})
}

// Requests run in parallel up to the number of the type, however they arrive (EMP/1 section 7.4).
func TestRequestsRunInParallel(t *testing.T) {
	for _, parallel := range []int{1, 2, 5} {
		for _, together := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, together %v", parallel, together), func(t *testing.T) {
				var running, most, done atomic.Int64
				var gate chan struct{}
				handler := func(_ context.Context, m *Message, _ int) ([]byte, error) {
					for n := running.Add(1); ; {
						if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
							break
						}
					}
					<-gate
					running.Add(-1)
					done.Add(1)
					return m.Payload, nil
				}
				bubble(t, Options{}, []Spec{{Name: "r", Requests: handler, Parallel: parallel}}, func(t *testing.T, l *link, _ []*Type) {
					gate = make(chan struct{})
					const n = 12
					for i := range n {
						if l.request("r", []byte{'0' + byte(i)}); !together {
							l.settle()
							if n, want := running.Load(), min(i+1, parallel); n != int64(want) {
								t.Errorf("after %d requests %d handlers run, want %d", i+1, n, want)
							}
						}
					}
					l.settle()
					if running.Load() != int64(parallel) || most.Load() != int64(parallel) {
						t.Errorf("%d handlers run, %d at most, want %d", running.Load(), most.Load(), parallel)
					}
					for range n {
						gate <- struct{}{}
						l.settle()
					}
					if all := l.answers(); len(all) != n || done.Load() != n || most.Load() != int64(parallel) {
						t.Errorf("%d answers, %d handlers at once: %q", len(all), most.Load(), all)
					}
					l.rest()
					l.wantIdle()
				})
			})
		}
	}
}

// While more than 4 MiB of answers to a peer are unsent, no further request of it comes to a handler (EMP/1 section 7.3).
func TestUnsentAnswersAreBounded(t *testing.T) {
	const size = 1 << 20
	var handled atomic.Int64
	bubble(t, Options{}, []Spec{{Name: "r", Parallel: 100, Requests: func(context.Context, *Message, int) ([]byte, error) { handled.Add(1); return make([]byte, size), nil }}},
		func(t *testing.T, l *link, _ []*Type) {
			const n = 20
			for range n {
				l.request("r", nil)
				carry(l.them, l.us, 1<<20) // and nothing comes back
				synctest.Wait()
			}
			if most := int64(wire.MaxUnsentResponses/size + 1); handled.Load() != most {
				t.Errorf("%d requests were handled while nothing was read, want %d", handled.Load(), most)
			}
			l.settle()
			if all := l.answers(); len(all) != n || handled.Load() != n {
				t.Errorf("%d of %d requests were handled in the end, %d answered", handled.Load(), n, len(all))
			}
			l.rest()
			l.wantIdle()
		})
}

// When what held them up is sent, requests of another type go on as well.
func TestUnsentAnswersHoldUpOtherTypes(t *testing.T) {
	handled := false
	bubble(t, Options{}, []Spec{{Name: "long", Requests: func(context.Context, *Message, int) ([]byte, error) {
		return make([]byte, wire.MaxUnsentResponses+1), nil
	}},
		{Name: "r", Requests: func(context.Context, *Message, int) ([]byte, error) { handled = true; return nil, nil }}}, func(t *testing.T, l *link, _ []*Type) {
		for _, name := range []string{"long", "r"} {
			l.request(name, nil)
			carry(l.them, l.us, 1<<20)
			synctest.Wait()
		}
		if handled {
			t.Error("a request was handled while more than 4 MiB of answers were unsent")
		}
		l.rest()
		if all := l.answers(); len(all) != 2 || !handled {
			t.Errorf("%d answers have come, want both", len(all))
		}
		l.wantIdle()
	})
}

// What becomes of requests: EMP/1 sections 7.3 and 7.5.
func TestAnswers(t *testing.T) {
	big := bytes.Repeat([]byte("b"), 100_000)
	handler := func(ctx context.Context, m *Message, replyMax int) ([]byte, error) {
		switch string(m.Payload) {
		case "nothing":
			return nil, nil
		case "big":
			return big, nil
		case "longest":
			return big[:replyMax], nil
		case "refuse":
			return nil, fmt.Errorf("not you: %w", ErrRefuse)
		case "fail":
			return []byte("ignored"), errors.New("ünïcödé")
		case "time out":
			<-ctx.Done()
			return nil, fmt.Errorf("waiting: %w", context.Cause(ctx))
		case "time out of its own":
			return nil, context.DeadlineExceeded
		}
		return m.Payload, nil // which is the request's memory
	}
	tests := []struct {
		ask, want string
		replyMax  uint32
	}{
		{"hello", "answered hello", 100},
		{"", "answered ", 100},
		{"nothing", "answered ", 0},
		{"big", "answered " + string(big[:40]), 100_000},
		{"big", "too large ", 99_999},
		{"longest", "answered bbb", 3},
		{"refuse", "refused ", 100},
		{"fail", "handler failed ünïcödé", 100},
		{"fail", "handler failed ün", 4}, // cut between characters
		{"time out", "timed out ", 100},
		{"time out of its own", "handler failed context deadline exceeded", 100},
	}
	bubble(t, Options{HandlerTimeout: time.Second}, []Spec{{Name: "r", Requests: handler, OnlyRequests: true}, {Name: "messages", Handler: ignore}}, func(t *testing.T, l *link, tys []*Type) {
		for _, tt := range tests {
			l.them.mu.Lock()
			o := &peer.Outgoing{Type: l.them.m.Shared().Mux["r"].Type, Total: uint32(len(tt.ask)), Request: true, ReplyMax: tt.replyMax, Owner: make(waiter, 1)}
			if err := l.them.m.Submit(o, []byte(tt.ask)); err != nil {
				t.Fatal(err)
			}
			l.them.mu.Unlock()
			l.settle()
			if strings.HasPrefix(tt.ask, "time") {
				time.Sleep(2 * time.Second)
			}
			l.settle()
			if all := l.answers(); len(all) != 1 || all[0] != tt.want {
				t.Errorf("%q with %d bytes at most: %q, want %q", tt.ask, tt.replyMax, all, tt.want)
			}
		}
		// What no handler sees.
		l.request("messages", []byte("no handler"))
		l.request("messages", pattern(50_000))
		l.settle()
		if all := l.answers(); !slices.Equal(all, []string{"no handler ", "no handler "}) {
			t.Errorf("requests of a type for messages: %q", all)
		}
		l.send("r", []byte("a message"))
		l.settle()
		if all := l.answers(); !slices.Equal(all, []string{"refused refused"}) {
			t.Errorf("a message of a type for requests: %q", all)
		}
		l.send("r", pattern(50_000))
		l.rest()
		l.wantIdle()
		c := tys[0].Total()
		if c.RequestsIn.Load() != int64(len(tests)) || c.RefusedIn.Load() != 3 || c.Errors.Load() != 4 || c.MessagesIn.Load() != 0 {
			t.Errorf("%d requests, %d refused, %d errors, %d messages", c.RequestsIn.Load(), c.RefusedIn.Load(), c.Errors.Load(), c.MessagesIn.Load())
		}
	})
}

// A request that the peer no longer waits for: before its handler has begun there is none; after that its context ends, and it is confirmed once it has returned.
func TestCancelledRequests(t *testing.T) {
	var begun, ended []string
	var gate chan struct{}
	handler := func(ctx context.Context, m *Message, _ int) ([]byte, error) {
		who := string(m.Payload)
		begun = append(begun, who)
		if who == "first" {
			<-ctx.Done()
			ended = append(ended, fmt.Sprint(ctx.Err()))
			<-gate
		}
		return []byte("too late"), nil
	}
	bubble(t, Options{}, []Spec{{Name: "r", Requests: handler, Parallel: 1}}, func(t *testing.T, l *link, _ []*Type) {
		gate = make(chan struct{})
		first, second := l.request("r", []byte("first")), l.request("r", []byte("second"))
		l.request("r", []byte("third"))
		l.settle()
		l.abandon(second)
		l.settle()
		if second.Done() != true {
			t.Error("a request that no handler has seen is not confirmed at once")
		}
		l.abandon(first)
		l.settle()
		if !slices.Equal(ended, []string{"context canceled"}) {
			t.Errorf("the handler's context: %q", ended)
		}
		if first.Done() {
			t.Error("confirmed before its handler has returned")
		}
		close(gate)
		l.rest()
		if !slices.Equal(begun, []string{"first", "third"}) || !first.Done() {
			t.Errorf("handlers saw %q; the first is confirmed: %v", begun, first.Done())
		}
		if all := l.answers(); !slices.Equal(all, []string{"answered too late"}) {
			t.Errorf("answers %q, want the third alone", all)
		}
		l.wantIdle()

		// One that is not whole.
		o := l.open("r", 50_000, pattern(20_000), true)
		l.settle()
		l.abandon(o)
		l.rest()
		l.wantIdle()
		if len(begun) != 2 {
			t.Errorf("a handler saw %.20q", begun[2:])
		}
	})
}

// The context of a handler that was not told to end is the next one's; one that was is not.
func TestContextsOfRequests(t *testing.T) {
	bad := ""
	var gate chan struct{}
	handler := func(ctx context.Context, m *Message, _ int) ([]byte, error) {
		if string(m.Payload) == "cancelled" {
			<-gate // its end is not looked at
			return nil, nil
		}
		if ctx.Err() != nil {
			bad = "begins with an ended context: " + ctx.Err().Error()
		}
		return nil, nil
	}
	bubble(t, Options{}, []Spec{{Name: "r", Requests: handler}}, func(t *testing.T, l *link, _ []*Type) {
		gate = make(chan struct{})
		o := l.request("r", []byte("cancelled"))
		l.settle()
		l.request("r", []byte("x"))
		l.abandon(o)
		l.settle()
		gate <- struct{}{}
		for range 3 {
			l.request("r", []byte("x"))
			l.settle()
		}
		if bad != "" {
			t.Error(bad)
		}
	})
}

// A type that is withdrawn: what is on its way is refused, what waits is dropped, and everything it cost comes back once.
func TestWithdrawnMux(t *testing.T) {
	var gate chan struct{}
	handled := 0
	wait := func(context.Context, *Message) error { handled++; <-gate; return nil }
	var readErr error
	stream := func(_ context.Context, m *Message) error {
		handled++
		_, readErr = io.Copy(io.Discard, m.Stream)
		<-gate
		return nil
	}
	answer := func(context.Context, *Message, int) ([]byte, error) { handled++; <-gate; return []byte("x"), nil }
	for _, tt := range []struct {
		name    string
		begin   func(l *link)
		handled int
		answers []string
		finish  bool // the rest is sent after all
	}{
		{"waiting messages", func(l *link) {
			for range 3 {
				l.send("x", []byte("small"))
				l.send("x", pattern(50_000))
			}
		}, 1, nil, false},
		{"a message on its way", func(l *link) { l.open("x", 50_000, pattern(20_000), false) }, 0, nil, false},
		{"one on its way and one before", func(l *link) { l.send("x", []byte("1")); l.open("x", 50_000, pattern(20_000), false) }, 1, nil, false},
		{"waiting streams", func(l *link) { l.send("s", pattern(30_000)); l.send("s", pattern(30_000)); l.send("s", nil) }, 1, nil, false},
		{"a stream on its way", func(l *link) { l.open("s", 50_000, pattern(20_000), false) }, 1, nil, false},
		{"a waiting stream on its way", func(l *link) { l.send("s", pattern(30_000)); l.open("s", 50_000, pattern(20_000), false) }, 1, nil, false},
		{"waiting requests", func(l *link) {
			for range 3 {
				l.request("r", []byte("x"))
				l.request("r", pattern(30_000))
			}
		}, 1, []string{"answered x", "no handler ", "no handler ", "no handler ", "no handler ", "no handler "}, false},
		{"a request on its way", func(l *link) { l.open("r", 50_000, pattern(20_000), true) }, 0, []string{"no handler "}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			handled, readErr = 0, nil
			bubble(t, Options{Budget: NewBudget(64 << 20)}, []Spec{{Name: "x", Handler: wait}, {Name: "s", Streams: true, Handler: stream}, {Name: "r", Requests: answer}},
				func(t *testing.T, l *link, tys []*Type) {
					gate = make(chan struct{})
					tt.begin(l)
					l.settle()
					for _, ty := range tys {
						if err := ty.Withdraw(); err != nil {
							t.Fatal(err)
						}
					}
					l.settle() // the exchange is on its way: what the other end sends meanwhile is no fault of it
					for _, name := range []string{"x", "s", "r"} {
						if ty := l.them.m.Shared().Mux[name].Type; ty == nil {
							t.Fatal("the exchange has come already")
						}
					}
					l.request("x", []byte("late"))
					l.send("s", []byte("late"))
					l.request("r", pattern(40_000))
					l.settle()
					close(gate)
					l.settle()
					l.us.tell()
					l.rest()
					if handled != tt.handled {
						t.Errorf("%d messages came to handlers, want %d", handled, tt.handled)
					}
					all := slices.DeleteFunc(l.answers(), func(s string) bool { return s == "refused type withdrawn" })
					slices.Sort(all)
					want := append(slices.Clone(tt.answers), "no handler ", "no handler ")
					slices.Sort(want)
					if !slices.Equal(all, want) {
						t.Errorf("answers %q, want %q", all, want)
					}
					if strings.HasPrefix(tt.name, "a stream") && !errors.Is(readErr, ErrClosed) {
						t.Errorf("the stream ends with %v, want %v", readErr, ErrClosed)
					}
					l.wantIdle()
				})
		})
	}
}

// What comes between the moment at which a message is to be refused and the refusal: the rest of it, or its RESET. What it cost comes back once all the same.
func TestRefusedAtTheLastMoment(t *testing.T) {
	for _, what := range []string{"the rest", "RESET"} {
		for _, name := range []string{"s", "x", "r"} {
			t.Run(what+" of "+name, func(t *testing.T) {
				var gate chan struct{}
				bubble(t, Options{Budget: NewBudget(64 << 20)}, []Spec{{Name: "x", Handler: ignore},
					{Name: "s", Streams: true, Handler: func(context.Context, *Message) error { <-gate; return nil }},
					{Name: "r", Requests: func(context.Context, *Message, int) ([]byte, error) { return nil, nil }}},
					func(t *testing.T, l *link, tys []*Type) {
						gate = make(chan struct{})
						o := l.open(name, 30_000, pattern(20_000), name == "r")
						l.settle()
						l.us.before.Store(new(func() {
							if what == "RESET" {
								l.abandon(o)
							} else {
								l.more(o, pattern(10_000))
							}
							carry(l.them, l.us, 1<<20)
						}))
						if name == "s" {
							close(gate) // the handler returns without having read
							synctest.Wait()
						} else if err := tys[map[string]int{"x": 0, "r": 2}[name]].Withdraw(); err != nil {
							t.Fatal(err)
						}
						if l.us.before.Load() != nil {
							t.Fatal("nothing was refused")
						}
						l.rest()
						l.wantIdle()
					})
			})
		}
	}
}

// A stream is read while it comes; it can be left at any time, and ends as its message does.
func TestStreams(t *testing.T) {
	const total = 100_000
	want := pattern(total)
	tests := []struct {
		name  string
		read  func(ctx context.Context, s *Stream) error
		sends int // bytes, then
		then  func(l *link, o *peer.Outgoing)
		err   error
		taken int
	}{
		{"to the end", func(_ context.Context, s *Stream) error {
			got, err := io.ReadAll(s)
			if !bytes.Equal(got, want) {
				return fmt.Errorf("%d bytes came, or others: %w", len(got), err)
			}
			return err
		}, total, nil, nil, total},
		{"bit by bit", func(_ context.Context, s *Stream) error {
			var got []byte
			b := make([]byte, 999)
			for {
				time.Sleep(time.Millisecond)
				n, err := s.Read(b)
				if got = append(got, b[:n]...); err == io.EOF {
					break
				} else if err != nil {
					return err
				}
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("%d bytes came, or others", len(got))
			}
			n, err := s.Read(b)
			if n != 0 || err != io.EOF {
				return fmt.Errorf("after the end: %d, %v", n, err)
			}
			return nil
		}, total, nil, nil, total},
		{"nothing of it", func(context.Context, *Stream) error { return nil }, 20_000, nil, nil, 0},
		{"a little of it", func(_ context.Context, s *Stream) error {
			_, err := io.CopyN(io.Discard, s, 1000)
			return err
		}, 20_000, nil, nil, 1000},
		{"given up by its sender", func(_ context.Context, s *Stream) error {
			_, err := io.Copy(io.Discard, s)
			return err
		}, 20_000, func(l *link, o *peer.Outgoing) { l.abandon(o) }, ErrAbandoned, 20_000},
		{"the session ends", func(_ context.Context, s *Stream) error {
			_, err := io.Copy(io.Discard, s)
			return err
		}, 20_000, func(l *link, _ *peer.Outgoing) { l.end() }, ErrSessionEnded, 20_000},
		{"left at that by its sender", func(_ context.Context, s *Stream) error {
			_, err := io.Copy(io.Discard, s)
			return err
		}, 20_000, func(*link, *peer.Outgoing) { time.Sleep(streamStall) }, ErrStalled, 20_000},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			var kept *Stream
			returned := false
			handler := func(ctx context.Context, m *Message) error {
				if len(m.Payload) != 0 || m.Stream.Len() != total {
					t.Errorf("the message has %d bytes of payload, a stream of %d", len(m.Payload), m.Stream.Len())
				}
				kept = m.Stream
				err = tt.read(ctx, m.Stream)
				returned = true
				return err
			}
			budget := NewBudget(64 << 20)
			bubble(t, Options{Budget: budget}, []Spec{{Name: "s", Streams: true, Handler: handler}}, func(t *testing.T, l *link, tys []*Type) {
				o := l.open("s", total, want[:1], false)
				for at := 1; at < tt.sends; at += 7777 {
					l.settle()
					l.more(o, want[at:min(at+7777, tt.sends)])
				}
				l.settle()
				if tt.then != nil {
					tt.then(l, o)
				}
				time.Sleep(time.Second)
				l.rest()
				if !returned || !errors.Is(err, tt.err) {
					t.Fatalf("the handler has returned: %v, with %v, want %v", returned, err, tt.err)
				}
				if stopped := (tt.err == nil || tt.err == ErrStalled) && tt.taken < total; stopped != (errors.Is(o.Err(), peer.ErrRefused) && o.Code == emp.CodeRefused) {
					t.Errorf("the sender is told %v, code %v", o.Err(), o.Code)
				}
				if n, err := kept.Read(make([]byte, 1)); n != 0 || err == nil {
					t.Errorf("a stream is read after its handler: %d, %v", n, err)
				}
				if c := tys[0].Total(); c.MessagesIn.Load() != 1 || c.BytesIn.Load() != int64(tt.taken) {
					t.Errorf("%d messages of %d bytes are counted, want one of %d", c.MessagesIn.Load(), c.BytesIn.Load(), tt.taken)
				}
				l.wantIdle()
				if budget.Used() != 0 {
					t.Errorf("%d bytes of the budget are out", budget.Used())
				}
			})
		})
	}
}

// A stream handler may also get what has come in one frame, or in a plain frame, which has a payload as well.
func TestStreamsThatCameWhole(t *testing.T) {
	var got []string
	handler := func(_ context.Context, m *Message) error {
		b, err := io.ReadAll(m.Stream)
		got = append(got, fmt.Sprintf("%s %d", b, m.Stream.Len()))
		return err
	}
	bubble(t, Options{}, []Spec{{Name: "s", Streams: true, Handler: handler}}, func(t *testing.T, l *link, tys []*Type) {
		l.send("s", []byte("one frame"))
		l.send("s", nil)
		l.settle()
		feed(l.us.p, tys[0], "plain", "")
		l.rest()
		if !slices.Equal(got, []string{"one frame 9", " 0", "plain 5", " 0"}) {
			t.Errorf("the handler saw %q", got)
		}
		l.wantIdle()
	})
}

// Window that a handler gives back is told soon, though nothing else is to be written (EMP/1 section 7.3: it never waits for more).
func TestCreditIsToldSoon(t *testing.T) {
	var gate chan struct{}
	bubble(t, Options{}, []Spec{{Name: "x", Handler: func(context.Context, *Message) error { <-gate; return nil }}}, func(t *testing.T, l *link, _ []*Type) {
		gate = make(chan struct{})
		for range 10 {
			l.send("x", make([]byte, 1000))
		}
		l.settle()
		const each = 1000 + wire.MessageCost
		if n := l.spend(); n != window-10*each {
			t.Fatalf("the other end may spend %d bytes, want %d", n, window-10*each)
		}
		gate <- struct{}{}
		synctest.Wait()
		if n := l.us.p.owed.Load(); n != each {
			t.Errorf("%d bytes are owed, want %d", n, each)
		}
		l.settle()
		if n := l.spend(); n != window-10*each {
			t.Errorf("a message's cost is told by itself though others follow at once")
		}
		time.Sleep(creditDelay)
		l.settle()
		if n := l.spend(); n != window-9*each {
			t.Errorf("after %v the other end may spend %d bytes, want %d", creditDelay, n, window-9*each)
		}
		for range 9 {
			gate <- struct{}{}
		}
		l.settle() // the worker has nothing more: no time need pass
		if n := l.spend(); n != window {
			t.Errorf("with nothing left to handle the other end may spend %d bytes, want %d", n, window)
		}
		// A large part of the window is told at once.
		l.send("x", pattern(300_000))
		l.send("x", pattern(300_000))
		l.settle()
		gate <- struct{}{}
		l.settle()
		if n := l.spend(); n != window-300_000-wire.MessageCost {
			t.Errorf("after a large one of two the other end may spend %d bytes", n)
		}
		gate <- struct{}{}
		l.rest()
		l.wantIdle()
	})
}

// A type without a handler gives window back as its messages are taken.
func TestTakenMessagesGiveWindowBack(t *testing.T) {
	bubble(t, Options{}, []Spec{{Name: "x"}}, func(t *testing.T, l *link, tys []*Type) {
		for _, n := range []int{10, 100_000} {
			l.send("x", pattern(n))
		}
		l.rest()
		for _, left := range []int64{100_000 + wire.MessageCost, 0} {
			m, err := tys[0].Take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := l.spend(); n == window-left {
				t.Error("window is given back before the message is done with")
			}
			m.Done()
			l.rest()
			if n := l.spend(); n != window-left {
				t.Errorf("the other end may spend %d bytes, want %d", n, window-left)
			}
		}
		l.wantIdle()
	})
}

// Beyond the budget messages are refused as busy (EMP/1 section 7.5, code 5), requests as well; what was taken is handled.
func TestBeyondTheBudget(t *testing.T) {
	const most = 1 << 20
	budget := NewBudget(most)
	var gate chan struct{}
	bytesIn := 0
	wait := func(_ context.Context, m *Message) error { <-gate; bytesIn += len(m.Payload); return nil }
	var streamErr error
	bubble(t, Options{Budget: budget, WindowBytes: 16 << 20}, []Spec{{Name: "x", Handler: wait}, {Name: "r", Requests: func(context.Context, *Message, int) ([]byte, error) { <-gate; return nil, nil }},
		{Name: "s", Streams: true, Handler: func(_ context.Context, m *Message) error {
			<-gate
			_, streamErr = io.Copy(io.Discard, m.Stream)
			return streamErr
		}}}, func(t *testing.T, l *link, tys []*Type) {
		gate = make(chan struct{})
		for range 400 {
			l.send("x", pattern(1000))
		}
		l.send("x", pattern(200_000))
		l.send("x", pattern(200_000))
		l.request("r", pattern(200_000))
		l.request("r", pattern(10))
		l.settle()
		if n := budget.Used(); n > most/4 {
			t.Errorf("%d bytes are taken by one peer, want no more than %d", n, most/4)
		}
		busy := 0
		for _, a := range l.answers() {
			if a != "refused busy" && a != "STOP busy" {
				t.Errorf("the sender is told %q", a)
			}
			busy++
		}
		if busy < 10 {
			t.Errorf("%d messages and requests were refused, want those that have no room", busy)
		}
		close(gate)
		l.rest()
		gate = make(chan struct{})
		l.send("s", pattern(400_000))
		l.settle()
		if all := l.answers(); !slices.Equal(all, []string{"refused busy"}) { // it had all gone
			t.Errorf("the stream's sender is told %q", all)
		}
		close(gate)
		l.rest()
		if !errors.Is(streamErr, ErrBusy) {
			t.Errorf("the reader of the stream is told %v, want %v", streamErr, ErrBusy)
		}
		if c := tys[0].Total(); c.BytesIn.Load() != int64(bytesIn) || c.MessagesIn.Load() < 100 {
			t.Errorf("%d messages, %d bytes are counted, %d handled", c.MessagesIn.Load(), c.BytesIn.Load(), bytesIn)
		}
		l.wantIdle()
		if budget.Used() != 0 {
			t.Errorf("%d bytes of the budget are out", budget.Used())
		}
	})
}

// Nobody may hold more than a quarter of what the others leave, whoever comes first, and something is left for the next.
func TestBudgetShares(t *testing.T) {
	const most = 1 << 20
	b := NewBudget(most)
	var holds [20]int64
	for who := range holds {
		others := b.Used()
		for b.take(holds[who], 100) {
			holds[who] += 100
		}
		if quarter := (most - others) / 4; holds[who] > quarter || holds[who] < quarter-100 {
			t.Errorf("number %d has %d bytes of the %d that were left, want a quarter", who, holds[who], most-others)
		}
	}
	if b.take(0, most) {
		t.Error("somebody may have everything")
	}
	sum := int64(0)
	for _, n := range holds {
		sum += n
	}
	if b.Used() != sum {
		t.Errorf("%d bytes are taken, want %d", b.Used(), sum)
	}
	for _, n := range holds {
		b.give(n)
	}
	if b.Used() != 0 {
		t.Errorf("%d bytes are out in the end", b.Used())
	}
	var wg sync.WaitGroup
	for who := range 8 { // many at once never have more than there is
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(who)))
			held := int64(0)
			for range 10_000 {
				if n := r.Int64N(50_000); r.IntN(2) == 0 && b.take(held, n) {
					if held += n; held > most/4 {
						t.Errorf("somebody has %d bytes", held)
					}
				} else {
					n = min(n, held)
					b.give(n)
					held -= n
				}
			}
			b.give(held)
		})
	}
	wg.Wait()
	if b.Used() != 0 {
		t.Errorf("%d bytes are out in the end", b.Used())
	}
}

// After the end of a session nothing of it is held: neither what was on its way nor what waited; what was whole is handled, but requests are not.
func TestNothingIsHeldAfterTheEnd(t *testing.T) {
	budget := NewBudget(64 << 20)
	var gate chan struct{}
	var handled, answered, cancelled atomic.Int64
	bubble(t, Options{Budget: budget, Requests: 100}, []Spec{{Name: "x", Handler: func(context.Context, *Message) error { <-gate; handled.Add(1); return nil }},
		{Name: "s", Streams: true, Handler: func(_ context.Context, m *Message) error {
			_, err := io.Copy(io.Discard, m.Stream)
			<-gate
			handled.Add(1)
			return err
		}},
		{Name: "r", Parallel: 2, Requests: func(ctx context.Context, _ *Message, _ int) ([]byte, error) {
			<-ctx.Done()
			cancelled.Add(1)
			<-gate
			answered.Add(1)
			return pattern(100), nil
		}}}, func(t *testing.T, l *link, _ []*Type) {
		gate = make(chan struct{})
		for range 3 {
			l.send("x", []byte("small"))
			l.send("x", pattern(30_000))
			l.send("s", pattern(30_000))
			l.request("r", pattern(30_000))
		}
		l.open("x", 100_000, pattern(20_000), false)
		l.open("s", 100_000, pattern(20_000), false)
		l.open("r", 100_000, pattern(20_000), true)
		l.settle()
		drained := l.end()
		synctest.Wait()
		if cancelled.Load() != 2 || drained.Load() != 0 {
			t.Errorf("%d handlers of requests were told, want 2; drained %d times while handlers run", cancelled.Load(), drained.Load())
		}
		close(gate)
		synctest.Wait()
		if handled.Load() != 6+3+1 || answered.Load() != 2 {
			t.Errorf("%d messages and %d requests were handled, want 10 and 2", handled.Load(), answered.Load())
		}
		if drained.Load() != 1 || budget.Used() != 0 || len(l.us.p.partials)+len(l.us.p.requests) != 0 {
			t.Errorf("drained %d times, %d bytes of the budget out", drained.Load(), budget.Used())
		}
	})
}

// What is counted outlives the session, and nothing else of it does; whoever counts, adds up and ends at the same time waits for nobody.
func TestCountersOutliveTheSession(t *testing.T) {
	h := newHub(t, Options{})
	ty := register(t, h, "x", ignore)
	soon(t, "counting", func() {
		var wg sync.WaitGroup
		for range 200 {
			p := h.NewPeer(nil)
			p.Counters("x").MessagesOut.Add(1)
			ended := make(chan struct{})
			wg.Go(func() { p.End(func() { close(ended) }) })
			wg.Go(func() {
				for i := range 20 {
					p.Counters(fmt.Sprint(i))
				}
			})
			wg.Go(func() { ty.Total() })
			wg.Go(func() { <-ended; p.Counters("afterwards") })
		}
		wg.Wait()
	})
	if n := ty.Total().MessagesOut.Load(); n != 200 {
		t.Errorf("%d messages are counted, want 200", n)
	}
	if len(h.live) != 0 {
		t.Errorf("%d peers that are gone are kept", len(h.live))
	}
}

// Our own requests: what the other end's machine and hub make of them comes back.
func TestCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := newHub(t, Options{Requests: 4}), newHub(t, Options{Requests: 4})
		add(t, ours, Spec{Name: "x", Handler: ignore})
		var seen atomic.Int64
		add(t, theirs, Spec{Name: "r", Parallel: 4, Requests: func(ctx context.Context, m *Message, _ int) ([]byte, error) {
			seen.Add(1)
			switch string(m.Payload) {
			case "wait":
				<-ctx.Done()
				return nil, ctx.Err()
			case "fail":
				return nil, errors.New("no")
			}
			return append([]byte("re: "), m.Payload...), nil
		}})
		l := newLink(t, ours, theirs)
		l.them.p = theirs.NewPeer("us")
		l.them.p.conn = l.them
		l.them.mu.Lock()
		l.them.p.SetShared(l.them.m.Shared())
		l.them.mu.Unlock()
		type result struct {
			answer string
			err    error
		}
		call := func(ctx context.Context, ask string) *result {
			r := new(result)
			r.err = errors.New("still waiting")
			go func() {
				b, err := l.us.p.Request(ctx, l.us.p.Target("r"), 0, 0, []byte(ask), 1000)
				*r = result{string(b), err}
			}()
			l.settle()
			return r
		}
		for range 3 { // what is used again is as new
			for _, ask := range []string{"hello", "", strings.Repeat("long", 200)} {
				if r := call(t.Context(), ask); r.err != nil || r.answer != "re: "+ask {
					t.Errorf("%.10q: %.10q, %v", ask, r.answer, r.err)
				}
			}
			if r := call(t.Context(), strings.Repeat("longer", 200)); func() bool { e, ok := errors.AsType[*CallError](r.err); return !ok || e.Status != emp.StatusTooLarge }() {
				t.Errorf("an answer that is too long: %v", r.err)
			}
			if r := call(t.Context(), "fail"); func() bool {
				e, ok := errors.AsType[*CallError](r.err)
				return !ok || e.Status != emp.StatusFailed || e.Text != "no"
			}() {
				t.Errorf("a handler that fails: %v", r.err)
			}
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			var waiting []*result
			for range 6 { // two of them cannot go yet
				waiting = append(waiting, call(ctx, "wait"))
			}
			before := seen.Load()
			cancel(cause)
			l.settle()
			for i, r := range waiting {
				if !errors.Is(r.err, cause) {
					t.Errorf("call %d: %v, want %v", i, r.err, cause)
				}
			}
			if seen.Load() != before {
				t.Errorf("a request went after its context had ended")
			}
			l.rest()
		}
		last := call(t.Context(), "wait")
		l.them.p.End(nil)
		l.end()
		synctest.Wait()
		if !errors.Is(last.err, peer.ErrNotOpen) {
			t.Errorf("at the end of the session: %v", last.err)
		}
		if c := l.us.p.Counters("r"); c.RequestsOut.Load() != 3*11+1 || theirs.types["r"].Total().RequestsIn.Load() != seen.Load() {
			t.Errorf("%d requests are counted as sent, %d as handled of %d", c.RequestsOut.Load(), theirs.types["r"].Total().RequestsIn.Load(), seen.Load())
		}
	})
}

// Whatever happens to messages, memory and window are what they were in the end.
func TestMuxMonkey(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			r, handlers := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
			budget := NewBudget(3 << 20)
			h := newHub(t, Options{Budget: budget, Requests: 8, HandlerTimeout: 50 * time.Millisecond})
			var mu sync.Mutex // of handlers
			nap := func() {
				mu.Lock()
				d := time.Duration(handlers.IntN(3)) * time.Duration(handlers.IntN(2000)) * time.Microsecond
				mu.Unlock()
				time.Sleep(d)
			}
			specs := []Spec{
				{Name: "x", Handler: func(context.Context, *Message) error { nap(); return nil }},
				{Name: "s", Streams: true, Handler: func(_ context.Context, m *Message) error {
					nap()
					mu.Lock()
					n := handlers.Int64N(100_000)
					mu.Unlock()
					io.CopyN(io.Discard, m.Stream, n)
					nap()
					return nil
				}},
				{Name: "r", Parallel: 3, Requests: func(ctx context.Context, m *Message, _ int) ([]byte, error) { nap(); return m.Payload, ctx.Err() }},
			}
			tys := map[string]*Type{}
			for _, s := range specs {
				tys[s.Name] = add(t, h, s)
			}
			l := newLink(t, h, theirHub(t))
			var open []*peer.Outgoing
			for range 300 {
				s := specs[r.IntN(len(specs))]
				switch k := r.IntN(20); {
				case k < 8:
					if l.them.m.Shared().Mux[s.Name].Type == nil {
						break
					}
					n := []int{r.IntN(100), r.IntN(20_000), r.IntN(200_000)}[r.IntN(3)]
					open = append(open, l.open(s.Name, n, pattern(min(n, 1+r.IntN(50_000))), s.Requests != nil))
				case k < 13 && len(open) > 0:
					l.more(open[r.IntN(len(open))], pattern(1+r.IntN(50_000)))
				case k < 15 && len(open) > 0:
					i := r.IntN(len(open))
					l.abandon(open[i])
					open = slices.Delete(open, i, i+1)
				case k == 15:
					if ty := tys[s.Name]; r.IntN(3) == 0 && ty != nil {
						if err := ty.Withdraw(); err != nil {
							t.Error(err)
						}
						tys[s.Name] = nil
					} else if ty == nil {
						tys[s.Name] = add(t, h, s)
					}
					if l.us.m.Phase() == peer.PhaseOpen && r.IntN(2) == 0 && tell(l) {
						synctest.Wait()
					}
				case k == 16:
					time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
				case k == 17:
					synctest.Wait()
				default:
					carry(l.us, l.them, 1+r.IntN(100_000))
					carry(l.them, l.us, 1+r.IntN(100_000))
				}
			}
			l.settle()
			for _, o := range open {
				l.abandon(o)
			}
			for range 10 {
				time.Sleep(100 * time.Millisecond)
				l.rest()
			}
			if l.wantIdle(); budget.Used() != 0 {
				t.Errorf("%d bytes of the budget are out", budget.Used())
			}
			if t.Failed() {
				t.Fatalf("the seed is %d", seed)
			}
			// And in the middle of things.
			for _, s := range specs {
				if tys[s.Name] == nil {
					tys[s.Name] = add(t, h, s)
				}
			}
			if tell(l) {
				l.settle()
				for _, s := range specs {
					l.open(s.Name, 100_000, pattern(20_000), s.Requests != nil)
					carry(l.them, l.us, 1<<20)
				}
			}
			l.end()
			time.Sleep(time.Second)
			synctest.Wait()
			if budget.Used() != 0 {
				t.Errorf("seed %d: %d bytes of the budget are out after the end", seed, budget.Used())
			}
		})
	}
}

// tell announces our types, as often as a session may.
func tell(l *link) bool {
	if l.us.tells++; l.us.tells >= wire.MaxExchanges-2 {
		return false
	}
	l.us.tell()
	return true
}

// In steady state a small message in mux frames costs no allocation from the connection to the handler.
func TestAllocsPerMuxMessage(t *testing.T) {
	h := newHub(t, Options{Budget: NewBudget(64 << 20)})
	const batch = 500
	handled := make(chan struct{}, 1)
	n := 0
	ty := add(t, h, Spec{Name: "x", Handler: func(context.Context, *Message) error {
		if n++; n == batch {
			n = 0
			handled <- struct{}{}
		}
		return nil
	}})
	p := h.NewPeer(nil)
	p.conn = nowhere{}
	var m peer.Machine
	ev := peer.MuxEvent{Kind: peer.MuxData, Type: ty.mux, First: true, Last: true, Total: 100, Data: make([]byte, 100)}
	allocs := testing.AllocsPerRun(50, func() {
		for range batch {
			ev.ID++
			p.Mux(&m, &ev)
		}
		p.AppsDone()
		<-handled
	})
	if allocs > batch/4 { // one or two, but the race detector's sync.Pool forgets buffers at random
		t.Errorf("%.0f allocations for %d messages, want a handful for the batch", allocs, batch)
	}
}

// nowhere is a Conn for messages that nobody answers.
type nowhere struct{}

func (nowhere) Submit(*peer.Outgoing, []byte) error       { return nil }
func (nowhere) Abandon(*peer.Outgoing, emp.Code)          {}
func (nowhere) OutErr(*peer.Outgoing) error               { return nil }
func (nowhere) Respond(uint32, emp.Status, []byte, int64) {}
func (nowhere) Credit(int64)                              {}
func (nowhere) Do(func(*peer.Machine))                    {}
