package parley_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// host is a client with the torrent that a test is about.
type host struct {
	*parley.Client
	tor *parley.Torrent
}

// talkers starts n clients in one swarm that exchange messages only; each is connected to the first.
func talkers(t *testing.T, n int, cfg parley.Config) []host {
	t.Helper()
	var hs []host
	for range n {
		c := newClient(t, cfg)
		o := parley.TorrentOptions{NoDownload: true}
		if len(hs) > 0 {
			o.Peers = []netip.AddrPort{hs[0].Addr()}
		}
		tor, err := c.AddInfoHash(bt.InfoHash{'t', 'a', 'l', 'k'}, o)
		if err != nil {
			t.Fatal(err)
		}
		hs = append(hs, host{c, tor})
	}
	return hs
}

// sharing waits until n peers share a type with h, and returns them.
func (h host) sharing(t *testing.T, name string, n int) []parley.Peer {
	t.Helper()
	for ctx := within(t, 20*time.Second); ; {
		var ps []parley.Peer
		for p := range h.tor.Peers() {
			if p.Shares(name) {
				ps = append(ps, p)
			}
		}
		if len(ps) >= n {
			return ps
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d peers share %q, want %d", len(ps), name, n)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (h host) register(t *testing.T, name string, f parley.Handler) *parley.Type {
	t.Helper()
	ty, err := h.tor.Register(parley.MessageType{Name: name, Handler: f})
	if err != nil {
		t.Fatal(err)
	}
	return ty
}

func ignore(context.Context, *parley.Message) error { return nil }

// A handler may call anything; none of it may wait for the handler.
func TestHandlersMayCallAnything(t *testing.T) {
	tests := []struct {
		name string
		call func(ctx context.Context, h host, ty *parley.Type, m *parley.Message) error
	}{
		{"send to the same peer", func(ctx context.Context, _ host, _ *parley.Type, m *parley.Message) error {
			return m.Peer.Send(ctx, m.Type, m.Payload)
		}},
		{"send by type", func(ctx context.Context, _ host, ty *parley.Type, m *parley.Message) error {
			return ty.Send(ctx, m.Peer, m.Payload)
		}},
		{"broadcast", func(ctx context.Context, _ host, ty *parley.Type, m *parley.Message) error {
			n, err := ty.Broadcast(ctx, m.Payload)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d peers have it, want 1", n)
			}
			return err
		}},
		{"register", func(_ context.Context, h host, _ *parley.Type, _ *parley.Message) error {
			_, err := h.tor.Register(parley.MessageType{Name: "another", Handler: ignore})
			return err
		}},
		{"withdraw itself", func(_ context.Context, _ host, ty *parley.Type, _ *parley.Message) error { return ty.Withdraw() }},
		{"flush", func(ctx context.Context, _ host, _ *parley.Type, m *parley.Message) error { return m.Peer.Flush(ctx) }},
		{"close the peer", func(_ context.Context, _ host, _ *parley.Type, m *parley.Message) error { return m.Peer.Close() }},
		{"look around", func(ctx context.Context, h host, _ *parley.Type, m *parley.Message) error {
			h.tor.Stats()
			m.Peer.Info()
			for p := range h.tor.Peers() {
				p.Info()
			}
			for range h.tor.Events(ctx) {
				break
			}
			h.tor.AddPeers(h.Addr())
			return nil
		}},
		{"close the torrent", func(_ context.Context, h host, _ *parley.Type, _ *parley.Message) error {
			if h.tor.Close() == nil {
				return errors.New("Close waited for the handler that called it")
			}
			return nil
		}},
		{"close the client", func(_ context.Context, h host, _ *parley.Type, _ *parley.Message) error {
			if h.Client.Close() == nil {
				return errors.New("Close waited for the handler that called it")
			}
			return nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hs := talkers(t, 2, parley.Config{ReceiveQueueBytes: 100, SendQueueBytes: 100})
			result := make(chan error, 1)
			var once sync.Once
			var ty *parley.Type
			registered := make(chan struct{})
			ty = hs[0].register(t, "call", func(ctx context.Context, m *parley.Message) error {
				<-registered
				once.Do(func() { result <- tt.call(ctx, hs[0], ty, m) })
				return nil
			})
			close(registered)
			back := hs[1].register(t, "call", ignore)
			p := hs[1].sharing(t, "call", 1)[0]
			hs[0].sharing(t, "call", 1)
			for range 5 { // more than fit the queue, so that the connection is not read while the handler calls
				if err := back.Send(within(t, 10*time.Second), p, make([]byte, 90)); err != nil {
					break // the handler has closed or withdrawn something
				}
			}
			select {
			case err := <-result:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(15 * time.Second):
				t.Fatal("the handler does not return")
			}
		})
	}
}

// Two peers whose handlers answer every message by two would wait for each other for ever, were it not for the handler's timeout (EMP/1 section 7.3).
func TestHandlersThatSendToEachOther(t *testing.T) {
	t.Run("ltep", func(t *testing.T) { handlersThatSendToEachOther(t, parley.Config{NoEMP: true}) })
	t.Run("emp", func(t *testing.T) { handlersThatSendToEachOther(t, parley.Config{MessageWindowBytes: wire.MinWindow}) })
}

func handlersThatSendToEachOther(t *testing.T, cfg parley.Config) {
	cfg.SendQueueBytes, cfg.ReceiveQueueBytes, cfg.HandlerTimeout = 32<<10, 32<<10, 200*time.Millisecond
	hs := talkers(t, 2, cfg)
	var stop atomic.Bool
	timedOut := make(chan struct{}, 1)
	handler := func(ctx context.Context, m *parley.Message) error {
		for range 2 {
			if stop.Load() {
				return nil
			}
			switch err := m.Peer.Send(ctx, m.Type, m.Payload); {
			case errors.Is(err, context.DeadlineExceeded):
				select {
				case timedOut <- struct{}{}:
				default:
				}
			case err != nil && !stop.Load():
				t.Errorf("sending from a handler: %v", err)
			}
		}
		return nil
	}
	for _, h := range hs {
		h.register(t, "pingpong", handler)
	}
	p := hs[0].sharing(t, "pingpong", 1)[0]
	hs[1].sharing(t, "pingpong", 1)
	ctx := within(t, 20*time.Second)
	if err := p.Send(ctx, "pingpong", make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-timedOut:
	case <-ctx.Done():
		t.Error("no send ever timed out: either the queues are not bounded or everything waits")
	}
	stop.Store(true)
	// The session is alive afterwards.
	for _, h := range hs {
		h.register(t, "after", ignore)
	}
	q := hs[0].sharing(t, "after", 1)[0]
	if q != p {
		t.Error("the session did not survive")
	}
	if err := q.Send(ctx, "after", nil); err != nil {
		t.Errorf("sending afterwards: %v", err)
	}
}

// A slow consumer loses nothing and sees everything in order; the sender waits meanwhile, and other types pass.
func TestSlowConsumer(t *testing.T) {
	hs := talkers(t, 2, parley.Config{SendQueueBytes: 64 << 10, ReceiveQueueBytes: 64 << 10})
	slow := hs[0].register(t, "slow", nil)
	quick := make(chan struct{}, 1)
	hs[0].register(t, "quick", func(context.Context, *parley.Message) error { quick <- struct{}{}; return nil })
	p := hs[1].sharing(t, "slow", 1)[0]
	ctx := within(t, 30*time.Second)
	const n, size = 3000, 5000
	var sent atomic.Int32
	result := make(chan error, 1)
	go func() {
		payload := make([]byte, size)
		for i := range n {
			binary.BigEndian.PutUint32(payload, uint32(i))
			if err := p.Send(ctx, "slow", payload); err != nil {
				result <- fmt.Errorf("message %d: %w", i, err)
				return
			}
			sent.Add(1)
			if i == 5 {
				if err := p.Send(ctx, "quick", nil); err != nil {
					result <- err
					return
				}
			}
		}
		result <- nil
	}()
	select {
	case <-quick:
	case <-ctx.Done():
		t.Fatal("a message of another type waits for the slow consumer")
	}
	// Nobody reads: the sender comes to a halt.
	last := int32(-1)
	for sent.Load() != last {
		last = sent.Load()
		time.Sleep(300 * time.Millisecond)
	}
	if last == n {
		t.Error("everything was sent although nobody reads: 15 MB lie in queues")
	}
	next := 0
	for m, err := range slow.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if got := int(binary.BigEndian.Uint32(m.Payload)); got != next || len(m.Payload) != size {
			t.Fatalf("message %d of %d bytes came as number %d", got, len(m.Payload), next)
		}
		if next++; next == n {
			break
		}
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestBroadcast(t *testing.T) {
	hs := talkers(t, 5, parley.Config{SendQueueBytes: 1000})
	center := hs[0].register(t, "news", ignore)
	if n, err := center.Broadcast(t.Context(), []byte("nobody")); n != 0 || err != nil {
		t.Errorf("with nobody there: %d, %v, want 0 and nil", n, err)
	}
	const n = 50
	got := make(chan string, 4*n)
	for i, h := range hs[1:] {
		if i == 3 {
			continue // does not share the type
		}
		var next atomic.Int32
		h.register(t, "news", func(_ context.Context, m *parley.Message) error {
			if want := fmt.Sprint("item ", next.Add(1)-1, " "); !strings.HasPrefix(string(m.Payload), want) {
				got <- fmt.Sprintf("peer %d got %.20q, want %q", i, m.Payload, want)
			} else {
				got <- ""
			}
			return nil
		})
	}
	hs[0].sharing(t, "news", 3)
	ctx := within(t, 20*time.Second)
	for i := range n {
		sent, err := center.Broadcast(ctx, fmt.Appendf(nil, "item %d %s", i, strings.Repeat("x", 500)))
		if sent != 3 || err != nil {
			t.Fatalf("item %d: %d peers, %v, want 3", i, sent, err)
		}
	}
	for range 3 * n {
		select {
		case s := <-got:
			if s != "" {
				t.Fatal(s)
			}
		case <-ctx.Done():
			t.Fatal("not everything came")
		}
	}
	if c, err := center.Broadcast(ctx, make([]byte, 70_000)); c != 0 || !errors.Is(err, parley.ErrMessageTooLarge) {
		t.Errorf("too large: %d, %v, want 0 and %v", c, err, parley.ErrMessageTooLarge)
	}
	if ps := slices.Collect(center.Peers()); len(ps) != 3 {
		t.Errorf("%d peers share the type, want 3", len(ps))
	}
	if err := center.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if _, err := center.Broadcast(ctx, nil); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("of a withdrawn type: %v, want %v", err, parley.ErrClosed)
	}
}

// One peer that does not read holds up a broadcast no longer than its context, and nobody else.
func TestBroadcastWithAPeerThatDoesNotRead(t *testing.T) {
	hs := talkers(t, 2, parley.Config{SendQueueBytes: 10_000})
	stuck := connect(t, hs[0], bt.PeerID{1})
	if err := stuck.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: "news", ID: 1}}}); err != nil {
		t.Fatal(err)
	}
	center := hs[0].register(t, "news", ignore)
	var got atomic.Int32
	hs[1].register(t, "news", func(context.Context, *parley.Message) error { got.Add(1); return nil })
	hs[0].sharing(t, "news", 2)
	want := int32(0)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // the other peer has its message by then
		n, err := center.Broadcast(ctx, make([]byte, 60_000))
		cancel()
		want++
		if err != nil {
			if n != 1 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "127.0.0.1") {
				t.Errorf("it ended with %d and %v, want one peer served and the other named", n, err)
			}
			break
		}
		if want > 2000 {
			t.Fatal("120 MB are nowhere")
		}
	}
	for ctx := within(t, 10*time.Second); got.Load() != want; {
		select {
		case <-ctx.Done():
			t.Fatalf("the other peer has %d of %d messages", got.Load(), want)
		case <-time.After(time.Millisecond):
		}
	}
}

// connect makes a peer by hand that is connected to h.
func connect(t *testing.T, h host, id bt.PeerID) *rawpeer.Peer {
	t.Helper()
	nc, err := net.Dial("tcp", h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := rawpeer.New(t, nc)
	if _, err := p.Greet(h.tor.InfoHash(), id, rawpeer.LTEP); err != nil {
		t.Fatal(err)
	}
	return p
}

// A message over a type's own limit ends the session and says why; one at the limit arrives.
func TestMessageLimit(t *testing.T) {
	h := talkers(t, 1, parley.Config{})[0]
	got := make(chan int, 1)
	if _, err := h.tor.Register(parley.MessageType{Name: "small", MaxBytes: 100, Handler: func(_ context.Context, m *parley.Message) error {
		got <- len(m.Payload)
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	events := h.tor.Events(within(t, 20*time.Second))
	p := connect(t, h, bt.PeerID{1})
	e, err := p.UntilExchange()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(e.M, func(x ltep.Entry) bool { return x.Name == "small" })
	if i < 0 {
		t.Fatalf("the type is not in %v", e.M)
	}
	if err := p.Extended(e.M[i].ID, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 100 {
		t.Errorf("%d bytes came, want 100", n)
	}
	if err := p.Extended(e.M[i].ID, make([]byte, 101)); err != nil {
		t.Fatal(err)
	}
	for e := range events {
		if e.Kind == parley.EventPeerDisconnected {
			if !errors.Is(e.Err, peer.ErrMessageTooLarge) {
				t.Errorf("it ended with %v, want %v", e.Err, peer.ErrMessageTooLarge)
			}
			break
		}
	}
	for _, n := range []int{-1, 1<<24 + 1} {
		if _, err := h.tor.Register(parley.MessageType{Name: "odd", MaxBytes: n, Handler: ignore}); err == nil {
			t.Errorf("MaxBytes of %d is accepted", n)
		}
	}
	if _, err := h.tor.Register(parley.MessageType{Name: "odd", MinVersion: 2, MaxVersion: 1, Handler: ignore}); err == nil {
		t.Error("versions 2 to 1 are accepted")
	}
}

// A peer that goes away with bytes unacknowledged has not taken them, whatever the socket did.
func TestFlushTellsWhatWasNotTaken(t *testing.T) {
	h := talkers(t, 1, parley.Config{SendQueueBytes: 8 << 20})[0]
	p := connect(t, h, bt.PeerID{1})
	if err := p.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if err := p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: "x", ID: 1}}}); err != nil {
		t.Fatal(err)
	}
	q := h.sharing(t, "x", 1)[0]
	ctx := within(t, 20*time.Second)
	for range 20 { // more than the peer's system takes unread, less than ours holds
		if err := q.Send(ctx, "x", make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
	}
	flushed := make(chan error, 1)
	go func() { flushed <- q.Flush(ctx) }()
	select {
	case err := <-flushed:
		if err == nil {
			t.Skip("this system takes everything without anybody reading it")
		}
		t.Fatalf("Flush: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := p.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	p.Close() // a reset
	if err := <-flushed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Flush = %v, want %v: the peer has not taken what was sent", err, net.ErrClosed)
	}
	if err := q.Send(ctx, "x", nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send afterwards = %v, want %v", err, net.ErrClosed)
	}
}

// Messages on their way when the other side closes in good order arrive.
func TestLastWords(t *testing.T) {
	for range 10 {
		hs := talkers(t, 2, parley.Config{})
		const n = 200
		got := make(chan int, n)
		hs[0].register(t, "words", func(_ context.Context, m *parley.Message) error {
			got <- int(binary.BigEndian.Uint32(m.Payload))
			return nil
		})
		words := hs[1].register(t, "words", ignore)
		p := hs[1].sharing(t, "words", 1)[0]
		hs[0].sharing(t, "words", 1)
		ctx := within(t, 20*time.Second)
		go func() { // the other side talks as well: it must not make the kernel throw our words away
			for q := range hs[0].tor.Peers() {
				for q.Send(ctx, "words", make([]byte, 1000)) == nil {
				}
			}
		}()
		for i := range n {
			if err := words.Send(ctx, p, binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := hs[1].Close(); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			select {
			case m := <-got:
				if m != i {
					t.Fatalf("message %d came as number %d", m, i)
				}
			case <-ctx.Done():
				t.Fatalf("%d of %d last messages came", i, n)
			}
		}
		if err := hs[0].Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTypeErrors(t *testing.T) {
	h := talkers(t, 1, parley.Config{})[0]
	h.register(t, "here", ignore)
	for name, want := range map[string]error{"here": parley.ErrTypeExists, "ut_pex": parley.ErrBadTypeName, "": parley.ErrBadTypeName,
		strings.Repeat("x", 65): parley.ErrBadTypeName} {
		if _, err := h.tor.Register(parley.MessageType{Name: name}); !errors.Is(err, want) {
			t.Errorf("Register(%q) = %v, want %v", name, err, want)
		}
	}
	for m, err := range h.register(t, "iterated", ignore).Messages(t.Context()) {
		if m != nil || !errors.Is(err, parley.ErrHasHandler) {
			t.Errorf("Messages with a handler: %v, %v, want %v", m, err, parley.ErrHasHandler)
		}
	}
	var err error
	for i := 0; err == nil && i < 2000; i++ {
		_, err = h.tor.Register(parley.MessageType{Name: fmt.Sprint(i), Handler: ignore})
	}
	if !errors.Is(err, parley.ErrTooManyTypes) {
		t.Errorf("the 2,000th type: %v, want %v", err, parley.ErrTooManyTypes)
	}
	if err := h.tor.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.tor.Register(parley.MessageType{Name: "late", Handler: ignore}); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("Register after Close: %v, want %v", err, parley.ErrClosed)
	}
}

// The iterator ends with its context, with the type, and with the torrent, each in its way.
func TestMessagesEnds(t *testing.T) {
	h := talkers(t, 1, parley.Config{})[0]
	run := func(ctx context.Context, name string) (ty *parley.Type, result chan error) {
		ty, result = h.register(t, name, nil), make(chan error, 1)
		go func() {
			var last error
			for _, err := range ty.Messages(ctx) {
				last = err
			}
			result <- last
		}()
		return ty, result
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, result := run(ctx, "by context")
	cancel(cause)
	if err := <-result; !errors.Is(err, cause) {
		t.Errorf("by its context: %v, want the cause", err)
	}
	ty, result := run(t.Context(), "by withdrawal")
	if err := ty.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("by withdrawal: %v, want nothing", err)
	}
	_, result = run(t.Context(), "by close")
	if err := h.tor.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("by Close: %v, want nothing", err)
	}
}

func TestZeroPeer(t *testing.T) {
	var p parley.Peer
	if p.String() != "no peer" || p.Addr().IsValid() || p.Torrent() != nil || p.Types() != nil || p.Shares("x") || p.Info().Client != "" {
		t.Errorf("the zero peer: %v %v %v", p, p.Addr(), p.Info())
	}
	for name, err := range map[string]error{"Send": p.Send(t.Context(), "x", nil), "Flush": p.Flush(t.Context()), "Close": p.Close()} {
		if !errors.Is(err, parley.ErrClosed) {
			t.Errorf("%s of the zero peer: %v, want %v", name, err, parley.ErrClosed)
		}
	}
}

func TestPeerInfo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	writeFile(t, path, 100_000)
	seed := newClient(t, parley.Config{ClientName: "Seed 1"})
	h := host{seed, share(t, seed, path)}
	h.register(t, "b", ignore)
	h.register(t, "a", ignore)
	p := connect(t, h, bt.PeerID([]byte("-XX1234-abcdefghijkl")))
	if err := p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: "b", ID: 1}, {Name: "ut_pex", ID: 2}, {Name: "a", ID: 3}}, Port: 7, Client: "by hand"}); err != nil {
		t.Fatal(err)
	}
	q := h.sharing(t, "a", 1)[0]
	i := q.Info()
	if i.Client != "by hand" || !slices.Equal(i.Types, []string{"a", "b"}) || i.Listen.Port() != 7 || !i.Initiator || i.Dialect != wire.DialectLTEP ||
		i.Seed || i.Since.IsZero() || i.ID != bt.PeerID([]byte("-XX1234-abcdefghijkl")) || q.Torrent() != h.tor || q.Addr() != i.Addr {
		t.Errorf("%+v", i)
	}
	if q.Shares("ut_pex") {
		t.Error("ut_pex counts as an application type")
	}
	if err := q.Send(t.Context(), "ut_pex", nil); !errors.Is(err, parley.ErrBadTypeName) {
		t.Errorf("sending as ut_pex: %v, want %v", err, parley.ErrBadTypeName)
	}
}

// A peer that takes a message and closes has taken it.
func TestFlushOfAPeerThatHasGone(t *testing.T) {
	h := talkers(t, 1, parley.Config{})[0]
	events := h.tor.Events(within(t, 20*time.Second))
	p := connect(t, h, bt.PeerID{1})
	if err := p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: "x", ID: 1}}}); err != nil {
		t.Fatal(err)
	}
	q := h.sharing(t, "x", 1)[0]
	ctx := within(t, 20*time.Second)
	if err := q.Send(ctx, "x", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := p.Until(func(m wire.Message) bool { x, ok := m.(*wire.Extended); return ok && x.ID == 1 }); err != nil {
		t.Fatal(err)
	}
	if err := q.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	// The end of its stream acknowledges what came before; a close with something unread would be a reset, which says nothing.
	if err := p.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for e := range events {
		if e.Kind == parley.EventPeerDisconnected {
			break
		}
	}
	if err := q.Flush(ctx); err != nil && runtime.GOOS == "linux" { // where it can be known
		t.Errorf("Flush = %v, want none: the peer had the message", err)
	}
}
