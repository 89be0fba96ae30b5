package parley_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/codec/bencode"
	"github.com/parley-bt/parley/codec/cbor"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// meet starts a client for each configuration, in one swarm that exchanges messages only; each is connected to the first.
func meet(t *testing.T, cfgs ...parley.Config) []host {
	t.Helper()
	var hs []host
	for _, cfg := range cfgs {
		c := newClient(t, cfg)
		o := parley.TorrentOptions{NoDownload: true}
		if len(hs) > 0 {
			o.Peers = []netip.AddrPort{hs[0].Addr()}
		}
		tor, err := c.AddInfoHash(bt.InfoHash{'e', 'm', 'p'}, o)
		if err != nil {
			t.Fatal(err)
		}
		hs = append(hs, host{c, tor})
	}
	return hs
}

func (h host) add(t *testing.T, mt parley.MessageType) *parley.Type {
	t.Helper()
	ty, err := h.tor.Register(mt)
	if err != nil {
		t.Fatal(err)
	}
	return ty
}

// enhanced waits until n peers receive a type in the enhanced dialect, and returns them.
func (h host) enhanced(t *testing.T, name string, n int) []parley.Peer {
	t.Helper()
	var ps []parley.Peer
	eventually(t, fmt.Sprintf("%d peers receive %q in the enhanced dialect", n, name), func() bool {
		ps = ps[:0]
		for p := range h.tor.Peers() {
			if _, ok := infoOf(p, name); ok {
				ps = append(ps, p)
			}
		}
		return len(ps) >= n
	})
	return ps
}

// infoOf returns what is known of a type that a peer receives in the enhanced dialect.
func infoOf(p parley.Peer, name string) (parley.TypeInfo, bool) {
	for _, i := range p.TypeInfos() {
		if i.Name == name && i.Enhanced {
			return i, true
		}
	}
	return parley.TypeInfo{}, false
}

// two starts two clients, of which the second registers types that the first learns of; the first has the type of each name as a type without a handler. It returns
// the first, its view of the second, and its types by name.
func two(t *testing.T, first, second parley.Config, types ...parley.MessageType) (host, host, parley.Peer, map[string]*parley.Type) {
	t.Helper()
	hs := meet(t, first, second)
	mine := map[string]*parley.Type{}
	for _, mt := range types {
		hs[1].add(t, mt)
		mine[mt.Name] = hs[0].add(t, parley.MessageType{Name: mt.Name, MinVersion: mt.MinVersion, MaxVersion: mt.MaxVersion, MaxBytes: mt.MaxBytes, Codec: mt.Codec})
	}
	var p parley.Peer
	for _, mt := range types {
		if second.NoEMP {
			p = hs[0].sharing(t, mt.Name, 1)[0]
		} else {
			p = hs[0].enhanced(t, mt.Name, 1)[0]
			hs[1].enhanced(t, mt.Name, 1)
		}
	}
	return hs[0], hs[1], p, mine
}

// eventually waits until what is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for ctx := within(t, 20*time.Second); !is(); {
		select {
		case <-ctx.Done():
			t.Fatalf("it did not come to this: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// waiting returns how many goroutines stand in a function of this module.
func waiting(function string) int {
	buf := make([]byte, 4<<20)
	return bytes.Count(buf[:runtime.Stack(buf, true)], []byte(function+"("))
}

// receive takes one value from a channel.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing comes", what)
		panic("unreachable")
	}
}

// Messages go in the highest version that both sides have (EMP/1 section 6.2), whatever dialect the peer speaks.
func TestVersions(t *testing.T) {
	got := make(chan string, 100)
	hs := meet(t, parley.Config{}, parley.Config{}, parley.Config{}, parley.Config{}, parley.Config{NoEMP: true}, parley.Config{NoEMP: true}, parley.Config{})
	center := hs[0].add(t, parley.MessageType{Name: "v", MinVersion: 0, MaxVersion: 2})
	ranges := [][2]uint8{{0, 2}, {1, 1}, {1, 2}, {2, 5}, {0, 9}, {1, 3}, {7, 9}} // the fifth and the sixth have no versions, the sixth is not offered where there are none
	for i, r := range ranges[1:] {
		hs[i+1].add(t, parley.MessageType{Name: "v", MinVersion: r[0], MaxVersion: r[1], Handler: func(_ context.Context, m *parley.Message) error {
			got <- fmt.Sprintf("%d: %s in %d", i+1, m.Payload, m.Version)
			return nil
		}})
	}
	hs[0].enhanced(t, "v", 4)
	hs[0].sharing(t, "v", 5)
	ctx := within(t, 20*time.Second)
	who := map[int]parley.Peer{}
	for p := range hs[0].tor.Peers() {
		for i := range hs {
			if p.Info().ID == hs[i].PeerID() {
				who[i] = p
			}
		}
	}
	collect := func(n int) (all []string) {
		for range n {
			all = append(all, receive(t, "a message", got))
		}
		slices.Sort(all)
		return all
	}

	for i, want := range map[int]int{1: 1, 2: 2, 3: 2, 4: 0, 5: -1, 6: -1} {
		v, ok := center.Version(who[i])
		if ok != (want >= 0) || ok && int(v) != want {
			t.Errorf("peer %d: version %d, %v, want %d", i, v, ok, want)
		}
	}
	if ps := slices.Collect(center.Peers()); len(ps) != 4 {
		t.Errorf("%d peers share the type in some version, want 4", len(ps))
	}
	var mu sync.Mutex
	made := map[uint8]int{}
	n, err := center.BroadcastMessage(ctx, parley.Outgoing{Encode: func(v uint8) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		made[v]++
		return fmt.Appendf(nil, "made for %d", v), nil
	}})
	if n != 4 || err != nil {
		t.Errorf("a broadcast: %d, %v, want 4 peers", n, err)
	}
	if fmt.Sprint(made) != "map[0:1 1:1 2:1]" {
		t.Errorf("payloads were made %v, want one for each version", made)
	}
	if all := collect(4); !slices.Equal(all, []string{"1: made for 1 in 1", "2: made for 2 in 2", "3: made for 2 in 2", "4: made for 0 in 0"}) {
		t.Errorf("got %q", all)
	}
	if n, err := center.BroadcastMessage(ctx, parley.Outgoing{Version: 1, Payload: []byte("old")}); n != 2 || err != nil {
		t.Errorf("a broadcast of version 1: %d, %v, want 2 peers", n, err)
	}
	if all := collect(2); !slices.Equal(all, []string{"1: old in 1", "2: old in 1"}) {
		t.Errorf("got %q", all)
	}
	bad := errors.New("cannot be written")
	n, err = center.BroadcastMessage(ctx, parley.Outgoing{Encode: func(v uint8) ([]byte, error) {
		if v == 2 {
			return nil, bad
		}
		return []byte("x"), nil
	}})
	if n != 2 || !errors.Is(err, bad) || !strings.Contains(err.Error(), who[2].String()) || !strings.Contains(err.Error(), who[3].String()) {
		t.Errorf("a broadcast that cannot be written for two: %d, %v, want 2, and the peers' names", n, err)
	}
	collect(2)
	if err := center.Send(ctx, who[1], []byte("to one")); err != nil {
		t.Error(err)
	}
	if all := collect(1); all[0] != "1: to one in 1" {
		t.Errorf("got %q", all)
	}
	for what, err := range map[string]error{
		"a version that it has not":        center.SendMessage(ctx, who[1], parley.Outgoing{Version: 2}),
		"none in common":                   center.Send(ctx, who[6], nil),
		"none in common, made":             center.SendMessage(ctx, who[6], parley.Outgoing{Encode: func(uint8) ([]byte, error) { return nil, nil }}),
		"version 0, which Peer.Send sends": who[1].Send(ctx, "v", nil),
		"where there are none":             center.SendMessage(ctx, who[4], parley.Outgoing{Version: 1}),
	} {
		if !errors.Is(err, parley.ErrVersionUnsupported) || !strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), `"v"`) {
			t.Errorf("%s: %v, want %v", what, err, parley.ErrVersionUnsupported)
		}
	}
	if err := center.Send(ctx, who[5], nil); !errors.Is(err, parley.ErrTypeNotShared) {
		t.Errorf("to one that has no version 0 and no others: %v, want %v", err, parley.ErrTypeNotShared)
	}
	if i, ok := infoOf(who[3], "v"); !ok || i.MinVersion != 2 || i.MaxVersion != 5 || i.MaxBytes != 65_534 {
		t.Errorf("what is known of the type: %+v, %v", i, ok)
	}
	if is := who[4].TypeInfos(); len(is) != 1 || is[0] != (parley.TypeInfo{Name: "v", MaxBytes: 65_534}) {
		t.Errorf("what is known of it in a plain dialect: %+v", is)
	}
}

// What becomes of requests: EMP/1 section 7.5.
func TestRequests(t *testing.T) {
	handler := func(ctx context.Context, m *parley.Message) ([]byte, error) {
		switch string(m.Payload) {
		case "nothing":
			return nil, nil
		case "refuse":
			return nil, fmt.Errorf("not you: %w", parley.ErrRefused)
		case "fail":
			return nil, errors.New("out of ünïcödé")
		case "time out":
			<-ctx.Done()
			return nil, ctx.Err()
		case "long":
			return make([]byte, m.ReplyMax), nil
		case "too long":
			return make([]byte, m.ReplyMax+1), nil
		case "who":
			return fmt.Appendf(nil, "%s %d %d %v", m.Type, m.Version, m.Size, m.Peer.Addr().IsValid()), nil
		}
		return m.Payload, nil
	}
	_, _, p, mine := two(t, parley.Config{}, parley.Config{HandlerTimeout: 50 * time.Millisecond}, parley.MessageType{Name: "r", Requests: handler, MaxBytes: 300_000, MaxVersion: 3},
		parley.MessageType{Name: "messages", Handler: ignore})
	ctx := within(t, 20*time.Second)
	r := mine["r"]
	large := strings.Repeat("large ", 50_000)
	for _, tt := range []struct {
		ask  string
		max  int
		want string
		err  error
		text string
	}{
		{"hello", 0, "hello", nil, ""},
		{"", 0, "", nil, ""},
		{"nothing", 0, "", nil, ""},
		{large, 300_000, large, nil, ""},
		{large, 299_999, "", parley.ErrReplyTooLarge, ""},
		{large, 0, "", parley.ErrReplyTooLarge, ""}, // of the usual 64 KiB
		{"long", 3, "\x00\x00\x00", nil, ""},
		{"long", 1 << 30, strings.Repeat("\x00", wire.MaxMessage), nil, ""}, // more than 16 MiB counts as that
		{"too long", 10, "", parley.ErrReplyTooLarge, ""},
		{"who", 0, "r 3 3 true", nil, ""},
		{"refuse", 0, "", parley.ErrRefused, ""},
		{"fail", 0, "", parley.ErrHandlerFailed, "out of ünïcödé"},
		{"fail", 8, "", parley.ErrHandlerFailed, "out of "}, // cut between characters
		{"time out", 0, "", parley.ErrHandlerTimeout, ""},
	} {
		answer, err := r.Request(ctx, p, []byte(tt.ask), tt.max)
		if string(answer) != tt.want || !errors.Is(err, tt.err) || err == nil && answer == nil {
			t.Errorf("%.20q: %d bytes, %v; want %d, %v", tt.ask, len(answer), err, len(tt.want), tt.err)
		}
		if e, ok := errors.AsType[*parley.RequestError](err); tt.err != nil && (!ok || e.Text != tt.text || e.Peer != p || e.Type != "r" || !strings.Contains(err.Error(), tt.text)) {
			t.Errorf("%.20q: %#v, want the text %q", tt.ask, err, tt.text)
		}
	}
	for what, tt := range map[string]struct {
		f    func() error
		want error
	}{
		"no handler":        {func() error { _, err := mine["messages"].Request(ctx, p, nil, 0); return err }, parley.ErrNoHandler},
		"too large":         {func() error { _, err := r.Request(ctx, p, make([]byte, 300_001), 0); return err }, parley.ErrMessageTooLarge},
		"a version too far": {func() error { _, err := r.RequestMessage(ctx, p, parley.Outgoing{Version: 4}); return err }, parley.ErrVersionUnsupported},
		"nobody":            {func() error { _, err := r.Request(ctx, parley.Peer{}, nil, 0); return err }, parley.ErrClosed},
		"an ended context": {func() error {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(io.ErrNoProgress)
			_, err := r.Request(ctx, p, nil, 0)
			return err
		}, io.ErrNoProgress},
	} {
		if err := tt.f(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", what, err, tt.want)
		}
	}
	if _, err := r.RequestMessage(ctx, p, parley.Outgoing{ReplyMax: -1}); err == nil {
		t.Error("a negative ReplyMax is taken")
	}
	// A message of a type for requests alone is refused: there is nobody to take it. Whether a sender hears of that in time is another matter.
	if err := r.Send(ctx, p, make([]byte, 300_000)); err != nil && !errors.Is(err, parley.ErrRefused) {
		t.Errorf("a message of a type for requests: %v", err)
	}
	if err := r.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Request(ctx, p, nil, 0); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("of a withdrawn type: %v, want %v", err, parley.ErrClosed)
	}
}

// Whatever a peer answers has a name here: statuses, and the codes of STOP and RESET (EMP/1 section 7.5).
func TestWhatPeersAnswer(t *testing.T) {
	const theirMux = 7
	h := meet(t, parley.Config{})[0]
	r := h.add(t, parley.MessageType{Name: "r"})
	raw := connect(t, h, bt.PeerID{1})
	e, err := raw.UntilExchange()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(e.M, func(x ltep.Entry) bool { return x.Name == ltep.NameMux })
	if i < 0 {
		t.Fatalf("mux frames are not offered: %v", e.M)
	}
	ourMux := e.M[i].ID
	offer := emp.AppendOffer(nil, &emp.Offer{Version: 1, HasTypes: true, Types: []emp.TypeOffer{{Name: "r", ID: 3, MaxLen: 100_000}}, Window: 1 << 20, Requests: 8})
	if err := raw.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMux, ID: theirMux}}, EMP: offer}); err != nil {
		t.Fatal(err)
	}
	p := h.enhanced(t, "r", 1)[0]
	ctx := within(t, 20*time.Second)
	tests := []struct {
		name   string
		answer func(id uint32) []byte
		want   error
		text   string
	}{
		{"status 1", func(id uint32) []byte { return emp.AppendResponseHead(nil, id, 1, 0) }, parley.ErrNoHandler, ""},
		{"status 2", func(id uint32) []byte { return emp.AppendResponseHead(nil, id, 2, 0) }, parley.ErrRefused, ""},
		{"status 3", func(id uint32) []byte { return append(emp.AppendResponseHead(nil, id, 3, 7), "why\x1b[2J"...) }, parley.ErrHandlerFailed, "why\x1b[2J"},
		{"status 4", func(id uint32) []byte { return emp.AppendResponseHead(nil, id, 4, 0) }, parley.ErrHandlerTimeout, ""},
		{"status 5", func(id uint32) []byte { return emp.AppendResponseHead(nil, id, 5, 0) }, parley.ErrReplyTooLarge, ""},
		{"status 6", func(id uint32) []byte { return emp.AppendResponseHead(nil, id, 6, 0) }, parley.ErrPeerBusy, ""},
		{"status 2 with a text", func(id uint32) []byte { return append(emp.AppendResponseHead(nil, id, 2, 3), "odd"...) }, parley.ErrRefused, ""},
		{"too long", func(id uint32) []byte { return append(emp.AppendResponseHead(nil, id, 0, 101), make([]byte, 100)...) }, parley.ErrReplyTooLarge, ""},
		{"STOP 0", func(id uint32) []byte { return emp.AppendStop(nil, id, false, 0) }, parley.ErrRefused, ""},
		{"STOP 1", func(id uint32) []byte { return emp.AppendStop(nil, id, false, 1) }, parley.ErrRefused, ""},
		{"STOP 2", func(id uint32) []byte { return emp.AppendStop(nil, id, false, 2) }, parley.ErrMessageTooLarge, ""},
		{"STOP 3", func(id uint32) []byte { return emp.AppendStop(nil, id, false, 3) }, parley.ErrTypeNotShared, ""},
		{"STOP 4", func(id uint32) []byte { return emp.AppendStop(nil, id, false, 4) }, parley.ErrHandlerFailed, ""},
		{"STOP 5", func(id uint32) []byte { return emp.AppendStop(nil, id, false, 5) }, parley.ErrPeerBusy, ""},
		{"RESET 4", func(id uint32) []byte { return emp.AppendReset(nil, id, true, 4) }, parley.ErrHandlerFailed, ""},
		{"whole", func(id uint32) []byte { return append(emp.AppendResponseHead(nil, id, 0, 2), "ok"...) }, nil, ""},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, tt := range tests {
			var f emp.Frame
			if err := raw.Until(func(m wire.Message) bool {
				x, ok := m.(*wire.Extended)
				return ok && x.ID == theirMux && f.Parse(x.Payload) == nil && f.Kind == emp.Data && f.First
			}); err != nil {
				t.Errorf("%s: no request comes: %v", tt.name, err)
				return
			}
			if err := raw.Extended(ourMux, tt.answer(f.ID)); err != nil {
				t.Error(err)
			}
		}
	}()
	for _, tt := range tests {
		answer, err := r.Request(ctx, p, []byte("question"), 100)
		if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) || err == nil && string(answer) != "ok" {
			t.Errorf("%s: %q, %v, want %v", tt.name, answer, err, tt.want)
		}
		if e, ok := errors.AsType[*parley.RequestError](err); tt.want != nil && (!ok || e.Text != tt.text) {
			t.Errorf("%s: %#v, want the text %q", tt.name, err, tt.text)
		}
		if tt.text != "" && !strings.HasSuffix(err.Error(), ": why\ufffd[2J") { // which does not clear anybody's screen
			t.Errorf("%s: %q", tt.name, err.Error())
		}
	}
	<-done
}

// Where there are no requests the call says so.
func TestRequestsUnsupported(t *testing.T) {
	answer := func(context.Context, *parley.Message) ([]byte, error) { return nil, nil }
	for name, cfg := range map[string]parley.Config{"plain": {NoEMP: true}, "none": {MaxRequests: -1}} {
		_, _, p, mine := two(t, parley.Config{}, cfg, parley.MessageType{Name: "r", Requests: answer, Handler: ignore})
		if _, err := mine["r"].Request(within(t, 10*time.Second), p, nil, 0); !errors.Is(err, parley.ErrRequestsUnsupported) || !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: %v, want %v", name, err, parley.ErrRequestsUnsupported)
		}
		if err := mine["r"].Send(within(t, 10*time.Second), p, []byte("a message goes")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Requests of a peer run in parallel, up to the number of the type, though they come one by one; those beyond the number that the peer takes at once wait at home.
func TestRequestsInParallel(t *testing.T) {
	const parallel, atOnce = 3, 4
	begun, gate := make(chan struct{}, 100), make(chan struct{})
	var running, most atomic.Int32
	handler := func(context.Context, *parley.Message) ([]byte, error) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		begun <- struct{}{}
		<-gate
		running.Add(-1)
		return nil, nil
	}
	_, _, p, mine := two(t, parley.Config{}, parley.Config{MaxRequests: atOnce}, parley.MessageType{Name: "r", Requests: handler, Parallel: parallel})
	ctx := within(t, 20*time.Second)
	const n = 10
	results := make(chan error, n)
	for i := range n {
		go func() {
			_, err := mine["r"].Request(ctx, p, nil, 0)
			results <- err
		}()
		if i < parallel {
			receive(t, "a handler", begun) // each begins while those before it still run
		}
	}
	if l, ok := p.MessageLimits(); !ok || l.Requests != atOnce {
		t.Errorf("the peer's limits: %+v, %v", l, ok)
	}
	for range n {
		gate <- struct{}{}
	}
	for range n {
		if err := receive(t, "an answer", results); err != nil {
			t.Error(err)
		}
	}
	if most.Load() != parallel {
		t.Errorf("%d handlers ran at once, want %d", most.Load(), parallel)
	}
}

// A request whose context ends is taken back: the handler's context ends. So it does with the session.
func TestHandlersLearnThatNobodyWaits(t *testing.T) {
	for name, end := range map[string]func(cancel context.CancelCauseFunc, p parley.Peer, h, other host){
		"the context":         func(cancel context.CancelCauseFunc, _ parley.Peer, _, _ host) { cancel(io.ErrNoProgress) },
		"the session":         func(_ context.CancelCauseFunc, p parley.Peer, _, _ host) { p.Close() },
		"the client":          func(_ context.CancelCauseFunc, _ parley.Peer, h, _ host) { h.Client.Close() },
		"the other's torrent": func(_ context.CancelCauseFunc, _ parley.Peer, _, o host) { o.tor.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			begun, ended := make(chan struct{}, 1), make(chan error, 1)
			h, o, p, mine := two(t, parley.Config{}, parley.Config{}, parley.MessageType{Name: "r", Requests: func(ctx context.Context, m *parley.Message) ([]byte, error) {
				if string(m.Payload) == "quick" {
					return nil, nil
				}
				begun <- struct{}{}
				<-ctx.Done()
				ended <- ctx.Err()
				return []byte("too late"), nil
			}})
			ctx, cancel := context.WithCancelCause(within(t, 20*time.Second))
			result := make(chan error, 1)
			go func() {
				_, err := mine["r"].Request(ctx, p, nil, 0)
				result <- err
			}()
			receive(t, "the handler", begun)
			end(cancel, p, h, o)
			if err := receive(t, "the handler's context", ended); !errors.Is(err, context.Canceled) {
				t.Errorf("the handler's context ends with %v, want %v", err, context.Canceled)
			}
			err := receive(t, "the call", result)
			if name == "the context" {
				if !errors.Is(err, io.ErrNoProgress) {
					t.Errorf("the call ends with %v, want its context's cause", err)
				}
				for range 20 { // the number it took is free again
					if _, err := mine["r"].Request(t.Context(), p, []byte("quick"), 0); err != nil {
						t.Fatal(err)
					}
				}
			} else if !errors.Is(err, net.ErrClosed) && (err != nil || name != "the other's torrent") { // whose handler may have answered just in time
				t.Errorf("the call ends with %v, want one that unwraps to %v", err, net.ErrClosed)
			}
		})
	}
}

// The window is what a peer may have sent that no handler is done with (EMP/1 section 7.3). Beyond it a send waits, and fails as its context does; until then other types go on.
func TestWindow(t *testing.T) {
	const win, size = 100_000, 30_000
	gate := make(chan struct{})
	var slow, quick atomic.Int32
	h, _, p, mine := two(t, parley.Config{}, parley.Config{MessageWindowBytes: win, HandlerTimeout: time.Minute},
		parley.MessageType{Name: "slow", MaxBytes: size, Handler: func(context.Context, *parley.Message) error { slow.Add(1); <-gate; return nil }},
		parley.MessageType{Name: "quick", Handler: func(context.Context, *parley.Message) error { quick.Add(1); return nil }})
	ctx := within(t, 20*time.Second)
	for range 3 {
		if err := mine["slow"].Send(ctx, p, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		if err := mine["quick"].Send(ctx, p, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	const left = win - 3*(size+wire.MessageCost)
	eventually(t, "the other type's window comes back", func() bool {
		l, ok := p.MessageLimits()
		return ok && l.WindowBytes == win && l.FreeBytes == left && quick.Load() == 50
	})
	for range 2 { // nothing is left behind by one that gave up
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		if err := mine["slow"].Send(short, p, make([]byte, size)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beyond the window: %v, want %v", err, context.DeadlineExceeded)
		}
		if n, err := mine["slow"].Broadcast(short, make([]byte, size)); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a broadcast beyond the window: %d, %v, want %v", n, err, context.DeadlineExceeded)
		}
		cancel()
	}
	if err := mine["quick"].Send(ctx, p, make([]byte, 1000)); err != nil {
		t.Errorf("another type afterwards: %v", err)
	}
	if err := h.tor.Close(); err != nil { // its messages are handled all the same
		t.Fatal(err)
	}
	for range 3 {
		gate <- struct{}{}
	}
	eventually(t, "all messages are handled", func() bool { return slow.Load() == 3 && quick.Load() == 51 })
}

// Of messages that wait for the window the one with the highest priority goes first, and of equals the one that waits longest.
func TestPriorities(t *testing.T) {
	gate, got := make(chan struct{}), make(chan string, 10)
	handler := func(_ context.Context, m *parley.Message) error {
		got <- m.Type
		<-gate
		return nil
	}
	// Each message takes the whole window, so that one goes after the other.
	var types []parley.MessageType
	for _, name := range []string{"first", "low", "mid", "mid again", "high"} {
		types = append(types, parley.MessageType{Name: name, Handler: handler})
	}
	_, _, p, mine := two(t, parley.Config{}, parley.Config{MessageWindowBytes: wire.MinWindow, MaxMessageBytes: wire.MinWindow - wire.MessageCost, HandlerTimeout: time.Minute}, types...)
	ctx := within(t, 20*time.Second)
	results := make(chan error, len(types))
	send := func(name string, priority int8) {
		results <- mine[name].SendMessage(ctx, p, parley.Outgoing{Payload: make([]byte, wire.MinWindow-wire.MessageCost), Priority: priority})
	}
	go send("first", 0)
	if name := receive(t, "a message", got); name != "first" {
		t.Fatalf("%q came", name)
	}
	if err := receive(t, "the first send", results); err != nil {
		t.Fatal(err)
	}
	for i, m := range []struct {
		name     string
		priority int8
	}{{"low", -1}, {"mid", 0}, {"mid again", 0}, {"high", 1}} {
		go send(m.name, m.priority)
		eventually(t, "a send waits", func() bool { return waiting("peerconn.(*Conn).await") == i+1 })
	}
	var order []string
	for range 4 {
		gate <- struct{}{}
		order = append(order, receive(t, "a message", got))
		if err := receive(t, "a send", results); err != nil {
			t.Error(err)
		}
	}
	gate <- struct{}{}
	if !slices.Equal(order, []string{"high", "mid", "mid again", "low"}) {
		t.Errorf("they went in the order %q", order)
	}
}

// random is a reader of n bytes that need not lie anywhere.
func random(seed uint64, n int64) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// heap measures how much more there is on the heap, at most, while f runs. What is garbage counts as far as the collector lets it lie.
func heap(f func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	live := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	runtime.GC()
	runtime.GC() // pools forget what nobody has used between two collections
	before := live()
	var most int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most = max(most, live())
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return most - before
}

// The largest message there is crosses whole or bit by bit, both ways; whole it lies in memory once on each side, and bit by bit never.
func TestLargestMessages(t *testing.T) {
	const size = wire.MaxMessage
	sums := make(chan [sha256.Size]byte, 2)
	handle := func(_ context.Context, m *parley.Message) error {
		sums <- sha256.Sum256(m.Payload)
		return nil
	}
	stream := func(_ context.Context, m *parley.Message, r io.Reader) error {
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		if m.Size != size || n != size || m.Payload != nil {
			t.Errorf("%d bytes of %d came in a stream", n, m.Size)
		}
		sums <- [sha256.Size]byte(sum.Sum(nil))
		return err
	}
	hs := meet(t, parley.Config{}, parley.Config{})
	mine := make([]map[string]*parley.Type, 2)
	for i := range hs {
		mine[i] = map[string]*parley.Type{"whole": hs[i].add(t, parley.MessageType{Name: "whole", MaxBytes: size, Handler: handle}),
			"stream": hs[i].add(t, parley.MessageType{Name: "stream", MaxBytes: size, Stream: stream})}
	}
	ps := []parley.Peer{hs[0].enhanced(t, "stream", 1)[0], hs[1].enhanced(t, "stream", 1)[0]}
	ctx := within(t, 60*time.Second)
	var want [2][sha256.Size]byte
	var whole [2][]byte
	for i := range whole {
		b, err := io.ReadAll(random(uint64(i), size))
		if err != nil {
			t.Fatal(err)
		}
		whole[i], want[i] = b, sha256.Sum256(b)
	}
	both := func(f func(i int) error) int64 {
		return heap(func() {
			var wg sync.WaitGroup
			for i := range 2 {
				wg.Go(func() {
					if err := f(i); err != nil {
						t.Errorf("side %d: %v", i, err)
					}
				})
			}
			got := map[[sha256.Size]byte]bool{receive(t, "a message", sums): true, receive(t, "the other", sums): true}
			wg.Wait()
			if !got[want[0]] || !got[want[1]] {
				t.Error("other bytes came than were sent")
			}
		})
	}
	write := func(i int, name string) error {
		w, err := mine[i][name].NewWriter(ctx, ps[i], size, parley.Outgoing{})
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, random(uint64(i), size)); err != nil {
			return err
		}
		return w.Close()
	}
	// Each side takes one message: while its buffer grows for the last time a quarter of it is there as well.
	if n := both(func(i int) error { return mine[i]["whole"].Send(ctx, ps[i], whole[i]) }); n > 2*size*7/4 {
		t.Errorf("two messages of 16 MiB that are sent and handled whole take %d bytes beside the senders' own", n)
	}
	if n := both(func(i int) error { return write(i, "whole") }); n > 2*size*7/4 {
		t.Errorf("written bit by bit and handled whole they take %d bytes", n)
	}
	whole = [2][]byte{}
	if n := both(func(i int) error { return write(i, "stream") }); n > size {
		t.Errorf("written and read bit by bit they take %d bytes", n)
	}
	for i := range hs {
		eventually(t, "the messages are counted", func() bool {
			return mine[i]["stream"].Stats() == parley.TypeStats{MessagesIn: 1, MessagesOut: 1, BytesIn: size, BytesOut: size}
		})
	}
}

// What a MessageWriter says, and what the reader of the message is told.
func TestMessageWriter(t *testing.T) {
	const size = 100_000
	type result struct {
		n   int64
		err error
	}
	results, begun := make(chan result, 1), make(chan struct{}, 10)
	stream := func(_ context.Context, m *parley.Message, r io.Reader) error {
		begun <- struct{}{}
		if m.Version == 1 {
			return nil // does not want it
		}
		n, err := io.Copy(io.Discard, r)
		results <- result{n, err}
		if again, err2 := r.Read(make([]byte, 1)); again != 0 || err2 == nil || err != nil && err2.Error() != err.Error() {
			t.Errorf("after the end: %d, %v; before: %v", again, err2, err)
		}
		return err
	}
	_, _, p, mine := two(t, parley.Config{}, parley.Config{}, parley.MessageType{Name: "s", MaxBytes: size, MaxVersion: 1, Stream: stream})
	s := mine["s"]
	begin := func(t *testing.T, ctx context.Context, n int64, v uint8) *parley.MessageWriter {
		t.Helper()
		w, err := s.NewWriter(ctx, p, n, parley.Outgoing{Version: v})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	write := func(t *testing.T, w io.Writer, n int) {
		t.Helper()
		if k, err := w.Write(make([]byte, n)); k != n || err != nil {
			t.Fatalf("writing %d bytes: %d, %v", n, k, err)
		}
	}
	reader := func(t *testing.T, n int64, want error) {
		t.Helper()
		if r := receive(t, "the reader", results); r.n != n && n >= 0 || !errors.Is(r.err, want) {
			t.Errorf("the reader has %d bytes, %v; want %d, %v", r.n, r.err, n, want)
		}
	}
	t.Run("whole", func(t *testing.T) {
		for _, n := range []int64{0, 1, size} {
			w := begin(t, within(t, 10*time.Second), n, 0)
			for left := n; left > 0; left -= min(left, 7001) {
				write(t, w, int(min(left, 7001)))
			}
			if k, err := w.Write(nil); k != 0 || err != nil {
				t.Errorf("nothing more: %d, %v", k, err)
			}
			for range 2 {
				if err := w.Close(); err != nil {
					t.Errorf("Close of %d bytes: %v", n, err)
				}
			}
			reader(t, n, nil)
			if _, err := w.Write([]byte{1}); err == nil {
				t.Error("it is written after Close")
			}
		}
		if n := s.Stats().MessagesOut; n != 3 {
			t.Errorf("%d messages are counted, want 3", n)
		}
	})
	t.Run("too much", func(t *testing.T) {
		w := begin(t, within(t, 10*time.Second), 10_000, 0)
		write(t, w, 9000)
		if n, err := w.Write(make([]byte, 1001)); n != 0 || !errors.Is(err, parley.ErrMessageLength) {
			t.Errorf("more than was said: %d, %v", n, err)
		}
		if err := w.Close(); !errors.Is(err, parley.ErrMessageLength) {
			t.Errorf("Close: %v", err)
		}
		reader(t, 9000, parley.ErrAbandoned)
	})
	t.Run("too little", func(t *testing.T) {
		w := begin(t, within(t, 10*time.Second), 10_000, 0)
		write(t, w, 9999)
		for range 2 {
			if err := w.Close(); !errors.Is(err, parley.ErrMessageLength) {
				t.Errorf("Close: %v", err)
			}
		}
		reader(t, 9999, parley.ErrAbandoned)
		w = begin(t, t.Context(), 10_000, 0) // of which nothing has gone
		if err := w.Close(); !errors.Is(err, parley.ErrMessageLength) {
			t.Errorf("Close without a Write: %v", err)
		}
	})
	t.Run("its context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(within(t, 10*time.Second))
		w := begin(t, ctx, 10_000, 0)
		write(t, w, 5000)
		cancel(io.ErrNoProgress)
		if _, err := w.Write([]byte{1}); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("Write: %v, want the context's cause", err)
		}
		reader(t, 5000, parley.ErrAbandoned)
	})
	t.Run("what it reads from fails", func(t *testing.T) {
		w := begin(t, within(t, 10*time.Second), 50_000, 0)
		n, err := w.ReadFrom(io.MultiReader(io.LimitReader(zeros{}, 20_000), brokenDisk{}))
		if n != 20_000 || !errors.Is(err, errBrokenDisk) {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
		if err := w.Close(); !errors.Is(err, parley.ErrMessageLength) {
			t.Errorf("Close: %v", err)
		}
		reader(t, 20_000, parley.ErrAbandoned)
		w = begin(t, within(t, 10*time.Second), 50_000, 0)
		if n, err := w.ReadFrom(io.LimitReader(zeros{}, 50_001)); !errors.Is(err, parley.ErrMessageLength) {
			t.Errorf("ReadFrom of too much: %d, %v", n, err)
		}
	})
	t.Run("the reader does not want it", func(t *testing.T) {
		for len(begun) > 0 {
			<-begun
		}
		w := begin(t, within(t, 10*time.Second), size, 1)
		write(t, w, 10)
		receive(t, "the handler", begun)
		var err error
		for i := 10; i < size-10 && err == nil; i += 10 {
			_, err = w.Write(make([]byte, 10))
			time.Sleep(100 * time.Microsecond)
		}
		if e, ok := errors.AsType[*parley.RequestError](err); !ok || !errors.Is(err, parley.ErrRefused) || e.Type != "s" {
			t.Errorf("%v, want %v", err, parley.ErrRefused)
		}
		if err := w.Close(); !errors.Is(err, parley.ErrRefused) {
			t.Errorf("Close: %v", err)
		}
		if n := s.Stats().RefusedOut; n != 1 {
			t.Errorf("%d messages are counted as refused, want 1", n)
		}
	})
	t.Run("refused from the beginning", func(t *testing.T) {
		for what, tt := range map[string]struct {
			n    int64
			v    uint8
			want error
		}{"too large": {size + 1, 0, parley.ErrMessageTooLarge}, "beyond 32 bits": {1 << 40, 0, parley.ErrMessageTooLarge}, "negative": {-1, 0, nil}, "a version": {1, 2, parley.ErrVersionUnsupported}} {
			if _, err := s.NewWriter(t.Context(), p, tt.n, parley.Outgoing{Version: tt.v}); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", what, err, tt.want)
			}
		}
		if _, err := s.NewWriter(t.Context(), parley.Peer{}, 1, parley.Outgoing{}); !errors.Is(err, parley.ErrClosed) {
			t.Errorf("to nobody: %v, want %v", err, parley.ErrClosed)
		}
	})
	t.Run("the session ends", func(t *testing.T) {
		w := begin(t, within(t, 10*time.Second), 10_000, 0)
		write(t, w, 5000)
		eventually(t, "the reader begins", func() bool { return len(begun) > 0 })
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		reader(t, -1, parley.ErrAbandoned)
		if _, err := w.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %v, want %v", err, net.ErrClosed)
		}
		if err := w.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close: %v, want %v", err, net.ErrClosed)
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type brokenDisk struct{}

var errBrokenDisk = errors.New("the disk is gone")

func (brokenDisk) Read([]byte) (int, error) { return 0, errBrokenDisk }

// Where there are no fragments messages cannot be written bit by bit; a stream handler reads them all the same.
func TestStreamsInAPlainDialect(t *testing.T) {
	got := make(chan string, 1)
	_, _, p, mine := two(t, parley.Config{}, parley.Config{NoEMP: true}, parley.MessageType{Name: "s", Stream: func(_ context.Context, m *parley.Message, r io.Reader) error {
		b, err := io.ReadAll(r)
		got <- fmt.Sprintf("%s %d %v", b, m.Size, m.Payload == nil)
		return err
	}})
	if _, err := mine["s"].NewWriter(t.Context(), p, 5, parley.Outgoing{}); !errors.Is(err, parley.ErrRequestsUnsupported) {
		t.Errorf("NewWriter: %v, want %v", err, parley.ErrRequestsUnsupported)
	}
	if err := mine["s"].Send(within(t, 10*time.Second), p, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if s := receive(t, "the message", got); s != "hello 5 true" {
		t.Errorf("the handler saw %q", s)
	}
}

// A type that is withdrawn while messages are on their way ends them on both sides; it may come back, and then may have grown but not shrunk (EMP/1 section 6.2).
func TestTypesComeAndGo(t *testing.T) {
	const size = 200_000
	reads := make(chan error, 1)
	mt := parley.MessageType{Name: "s", MaxBytes: size, MinVersion: 1, MaxVersion: 2, Stream: func(_ context.Context, _ *parley.Message, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		reads <- err
		return err
	}}
	hs := meet(t, parley.Config{}, parley.Config{})
	theirs := hs[1].add(t, mt)
	mine := hs[0].add(t, parley.MessageType{Name: "s", MaxVersion: 3, Handler: ignore})
	p := hs[0].enhanced(t, "s", 1)[0]
	ctx := within(t, 20*time.Second)
	w, err := mine.NewWriter(ctx, p, size, parley.Outgoing{Version: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 20_000)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reader begins", func() bool { return theirs.Stats().MessagesIn == 0 && waiting("parley.streamReader.Read") > 0 })
	if err := theirs.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "the reader", reads); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("the reader is told %v, want %v", err, parley.ErrClosed)
	}
	var werr error
	for werr == nil {
		_, werr = w.Write(make([]byte, 100))
	}
	if !errors.Is(werr, parley.ErrTypeNotShared) {
		t.Errorf("the writer is told %v, want %v", werr, parley.ErrTypeNotShared)
	}
	eventually(t, "the peer no longer shares it", func() bool { return !p.Shares("s") })
	if err := mine.Send(ctx, p, nil); !errors.Is(err, parley.ErrTypeNotShared) {
		t.Errorf("sending a withdrawn type: %v, want %v", err, parley.ErrTypeNotShared)
	}
	for what, narrow := range map[string]func(mt *parley.MessageType){
		"a smaller message": func(mt *parley.MessageType) { mt.MaxBytes = size - 1 },
		"no old version":    func(mt *parley.MessageType) { mt.MinVersion = 2 },
		"no new version":    func(mt *parley.MessageType) { mt.MaxVersion = 1 },
	} {
		n := mt
		narrow(&n)
		if _, err := hs[1].tor.Register(n); !errors.Is(err, parley.ErrTypeNarrowed) || !strings.Contains(err.Error(), `"s"`) {
			t.Errorf("%s: %v, want %v", what, err, parley.ErrTypeNarrowed)
		}
	}
	mt.MinVersion, mt.MaxVersion, mt.MaxBytes = 0, 3, size+1
	again := hs[1].add(t, mt)
	eventually(t, "the peer shares it again, as it is now", func() bool {
		i, ok := infoOf(p, "s")
		return ok && i == parley.TypeInfo{Name: "s", Enhanced: true, MaxVersion: 3, MaxBytes: size + 1}
	})
	if err := mine.Send(ctx, p, make([]byte, size+1)); err != nil {
		t.Error(err)
	}
	if err := receive(t, "the reader", reads); err != nil {
		t.Error(err)
	}
	eventually(t, "the message is counted, with those before", func() bool {
		s := again.Stats()
		return s.MessagesIn == 2 && s.Errors == 1 && s.BytesIn == 20_000+size+1
	})
}

// A type that is registered later may be larger than the window that peers were told: then the window is the limit (EMP/1 section 6.2).
func TestLargerThanTheWindow(t *testing.T) {
	h, o, p, _ := two(t, parley.Config{}, parley.Config{}, parley.MessageType{Name: "small", Handler: ignore})
	o.add(t, parley.MessageType{Name: "large", MaxBytes: wire.MaxMessage, Handler: ignore})
	mine := h.add(t, parley.MessageType{Name: "large"})
	h.enhanced(t, "large", 1)
	l, ok := p.MessageLimits()
	if i, _ := infoOf(p, "large"); !ok || i.MaxBytes != l.WindowBytes-wire.MessageCost || i.MaxBytes >= wire.MaxMessage {
		t.Errorf("the largest message is %d bytes, the window %d", i.MaxBytes, l.WindowBytes)
	}
	if err := mine.Send(within(t, 10*time.Second), p, make([]byte, l.WindowBytes)); !errors.Is(err, parley.ErrMessageTooLarge) {
		t.Errorf("more than the window: %v, want %v", err, parley.ErrMessageTooLarge)
	}
	if err := mine.Send(within(t, 10*time.Second), p, make([]byte, l.WindowBytes-wire.MessageCost)); err != nil {
		t.Errorf("all of the window: %v", err)
	}
	// Where the window was said by hand it must do for every type.
	c := newClient(t, parley.Config{MessageWindowBytes: 100_000})
	tor, err := c.AddInfoHash(bt.InfoHash{1}, parley.TorrentOptions{NoDownload: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tor.Register(parley.MessageType{Name: "x", MaxBytes: 100_000 - wire.MessageCost + 1, Handler: ignore}); err == nil || !strings.Contains(err.Error(), "MessageWindowBytes") {
		t.Errorf("a type larger than the window: %v", err)
	}
	if _, err := tor.Register(parley.MessageType{Name: "x", MaxBytes: 100_000 - wire.MessageCost, Handler: ignore}); err != nil {
		t.Error(err)
	}
	for _, n := range []int64{-1, wire.MinWindow - 1, wire.MaxWindow + 1} {
		if int64(int(n)) != n {
			continue // no int where it has 32 bits
		}
		if c, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0", MessageWindowBytes: int(n)}); err == nil {
			t.Errorf("MessageWindowBytes of %d is taken", n)
			c.Close()
		}
	}
}

// A side that is out of memory for messages says that it is busy, and takes the same call later.
func TestPeerBusy(t *testing.T) {
	const size = 400_000
	gate := make(chan struct{})
	_, _, p, mine := two(t, parley.Config{}, parley.Config{MessageMemoryBytes: 8 << 20, MessageWindowBytes: 8 << 20, HandlerTimeout: time.Minute},
		parley.MessageType{Name: "x", MaxBytes: size, Handler: func(context.Context, *parley.Message) error { <-gate; return nil }},
		parley.MessageType{Name: "r", MaxBytes: size, Requests: func(_ context.Context, m *parley.Message) ([]byte, error) { return m.Payload[:3], nil }})
	ctx := within(t, 20*time.Second)
	for range 60 { // beyond what one peer may have of the memory
		if err := mine["x"].Send(ctx, p, make([]byte, 50_000)); err != nil && !errors.Is(err, parley.ErrPeerBusy) {
			t.Fatal(err)
		}
	}
	if _, err := mine["r"].Request(ctx, p, make([]byte, size), 0); !errors.Is(err, parley.ErrPeerBusy) {
		t.Errorf("a request beyond the memory: %v, want %v", err, parley.ErrPeerBusy)
	}
	close(gate)
	eventually(t, "the peer has memory again", func() bool {
		_, err := mine["r"].Request(ctx, p, make([]byte, size), 0)
		if err != nil && !errors.Is(err, parley.ErrPeerBusy) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// What is counted, by type and by peer and type.
func TestStats(t *testing.T) {
	h, o, p, mine := two(t, parley.Config{}, parley.Config{}, parley.MessageType{Name: "a", MaxBytes: 500_000, Handler: func(_ context.Context, m *parley.Message) error {
		if len(m.Payload) == 3 {
			return errors.New("three bytes")
		}
		return nil
	}}, parley.MessageType{Name: "r", Requests: func(_ context.Context, m *parley.Message) ([]byte, error) {
		switch len(m.Payload) {
		case 3:
			return nil, errors.New("three bytes")
		case 4:
			return nil, parley.ErrRefused
		}
		return []byte("answer"), nil
	}})
	ctx := within(t, 20*time.Second)
	for _, n := range []int{0, 3, 100, 300_000} {
		if err := mine["a"].Send(ctx, p, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := mine["a"].Broadcast(ctx, make([]byte, 5)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for _, n := range []int{3, 4, 10} {
		_, err := mine["r"].Request(ctx, p, make([]byte, n), 0)
		if (err != nil) != (n < 10) {
			t.Errorf("a request of %d bytes: %v", n, err)
		}
	}
	if err := mine["a"].Send(ctx, p, make([]byte, 500_001)); err == nil {
		t.Error("too much is sent")
	}
	q := o.enhanced(t, "a", 1)[0]
	want := []map[string]parley.TypeStats{
		{"a": {MessagesOut: 5, BytesOut: 300_108}, "r": {RequestsOut: 3, BytesOut: 17}},
		{"a": {MessagesIn: 5, BytesIn: 300_108, Errors: 1}, "r": {RequestsIn: 3, BytesIn: 17, Errors: 1, RefusedIn: 1}},
	}
	for i, peer := range []parley.Peer{p, q} {
		eventually(t, "all is counted", func() bool { return peer.TypeStats()["a"] == want[i]["a"] && peer.TypeStats()["r"] == want[i]["r"] })
	}
	if s := mine["a"].Stats(); s != want[0]["a"] {
		t.Errorf("of the type: %+v, want %+v", s, want[0]["a"])
	}
	if i := p.Info(); i.MessagesOut != 5 || i.Dialect != wire.DialectEMP {
		t.Errorf("of the peer: %+v", i)
	}
	if i := q.Info(); i.MessagesIn != 8 {
		t.Errorf("%d messages and requests came in, want 8", i.MessagesIn)
	}
	events := h.tor.Events(ctx)
	if err := o.Client.Close(); err != nil {
		t.Fatal(err)
	}
	for e := range events {
		if e.Kind == parley.EventPeerDisconnected {
			break
		}
	}
	if s := mine["a"].Stats(); s != want[0]["a"] || p.TypeStats()["a"] != want[0]["a"] {
		t.Errorf("after the end of the session: %+v, want %+v", s, want[0]["a"])
	}
}

// Values travel in whatever codec the type has, as requests and as messages.
func TestValues(t *testing.T) {
	type point struct{ X, Y int }
	for name, codec := range map[string]parley.Codec{"the usual": nil, "JSON": parley.JSON, "CBOR": cbor.Codec, "bencode": bencode.Codec} {
		t.Run(name, func(t *testing.T) {
			hs := meet(t, parley.Config{}, parley.Config{})
			got := make(chan point, 1)
			if _, err := parley.Handle(hs[1].tor, parley.MessageType{Name: "turn", Codec: codec}, func(_ context.Context, m *parley.Message, p point) (point, error) {
				if p.X < 0 {
					return p, fmt.Errorf("x is %d", p.X)
				}
				return point{p.Y, p.X}, nil
			}); err != nil {
				t.Fatal(err)
			}
			told, err := parley.HandleMessages(hs[1].tor, parley.MessageType{Name: "tell", Codec: codec}, func(_ context.Context, m *parley.Message, p point) error { got <- p; return nil })
			if err != nil {
				t.Fatal(err)
			}
			turn, tell := hs[0].add(t, parley.MessageType{Name: "turn", Codec: codec}), hs[0].add(t, parley.MessageType{Name: "tell", Codec: codec})
			hs[0].enhanced(t, "turn", 1)
			p := hs[0].enhanced(t, "tell", 1)[0]
			ctx := within(t, 20*time.Second)
			if back, err := parley.Call[point, point](ctx, turn, p, point{1, 2}); back != (point{2, 1}) || err != nil {
				t.Errorf("a call: %v, %v", back, err)
			}
			if _, err := parley.Call[point, point](ctx, turn, p, point{-1, 2}); !errors.Is(err, parley.ErrHandlerFailed) || !strings.Contains(err.Error(), "x is -1") {
				t.Errorf("a call that fails: %v", err)
			}
			if _, err := turn.Request(ctx, p, []byte("\xff no value"), 0); !errors.Is(err, parley.ErrHandlerFailed) || !strings.Contains(err.Error(), "cannot be read") {
				t.Errorf("a request that cannot be read: %v", err)
			}
			if _, err := parley.Call[point, string](ctx, turn, p, point{1, 2}); err == nil || !strings.Contains(err.Error(), "cannot be read") {
				t.Errorf("an answer that cannot be read: %v", err)
			}
			if _, err := parley.Call[chan int, point](ctx, turn, p, nil); codec != nil && name != "JSON" && err == nil {
				t.Error("a channel is sent")
			}
			if err := parley.SendValue(ctx, tell, p, point{3, 4}); err != nil {
				t.Error(err)
			}
			if v := receive(t, "a value", got); v != (point{3, 4}) {
				t.Errorf("%v came", v)
			}
			if n, err := parley.BroadcastValue(ctx, tell, point{5, 6}); n != 1 || err != nil {
				t.Errorf("a broadcast: %d, %v", n, err)
			}
			if v := receive(t, "a value", got); v != (point{5, 6}) {
				t.Errorf("%v came", v)
			}
			if err := tell.Send(ctx, p, []byte("\xff no value")); err != nil {
				t.Error(err)
			}
			eventually(t, "a message that cannot be read is an error", func() bool { return told.Stats().Errors == 1 })
		})
	}
	h := meet(t, parley.Config{})[0]
	answer := func(context.Context, *parley.Message) ([]byte, error) { return nil, nil }
	if _, err := parley.Handle(h.tor, parley.MessageType{Name: "x", Requests: answer}, func(context.Context, *parley.Message, int) (int, error) { return 0, nil }); err == nil {
		t.Error("Handle takes a type that has a handler for requests")
	}
	if _, err := parley.HandleMessages(h.tor, parley.MessageType{Name: "x", Handler: ignore}, func(context.Context, *parley.Message, int) error { return nil }); err == nil {
		t.Error("HandleMessages takes a type that has a handler")
	}
}

// Sessions come and go while everything is in use: nothing of them stays. That goroutines and buffers are gone is seen when all tests are over.
func TestNothingStaysOfSessions(t *testing.T) {
	h := meet(t, parley.Config{HandlerTimeout: 20 * time.Millisecond})[0] // messages of a session that has ended are handled, however long that takes
	h.add(t, parley.MessageType{Name: "x", MaxBytes: 1 << 20, Handler: func(ctx context.Context, m *parley.Message) error {
		if len(m.Payload) > 1000 {
			return nil
		}
		<-ctx.Done()
		return nil
	}, Requests: func(ctx context.Context, m *parley.Message) ([]byte, error) {
		<-ctx.Done()
		return m.Payload, nil
	}})
	h.add(t, parley.MessageType{Name: "s", MaxBytes: 1 << 20, Stream: func(_ context.Context, _ *parley.Message, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}})
	round := func() {
		c, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0"}) // of which the test keeps nothing
		if err != nil {
			t.Fatal(err)
		}
		tor, err := c.AddInfoHash(bt.InfoHash{'e', 'm', 'p'}, parley.TorrentOptions{NoDownload: true, Peers: []netip.AddrPort{h.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		g := host{c, tor}
		x, s := g.add(t, parley.MessageType{Name: "x"}), g.add(t, parley.MessageType{Name: "s"})
		p := g.enhanced(t, "s", 1)[0]
		ctx, cancel := context.WithCancel(within(t, 20*time.Second))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { x.Request(ctx, p, make([]byte, 100_000), 0) })
			wg.Go(func() { x.Send(ctx, p, make([]byte, 300_000)) })
			wg.Go(func() { x.Send(ctx, p, make([]byte, 10)) })
		}
		w, err := s.NewWriter(ctx, p, 1<<20, parley.Outgoing{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 300_000)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		cancel()
		wg.Wait()
		eventually(t, "the other side has seen the end", func() bool {
			for range h.tor.Peers() {
				return false
			}
			return true
		})
	}
	round()
	before := live()
	for range 10 {
		round()
	}
	eventually(t, "the memory of ten sessions is given back", func() bool { return live()-before < 512<<10 })
}

// live returns how much is on the heap that is in use.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
