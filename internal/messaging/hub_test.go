package messaging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// newHub returns a hub that the test's end closes. Zero options get defaults.
func newHub(t testing.TB, o Options) *Hub {
	t.Helper()
	if o.QueueBytes == 0 {
		o.QueueBytes = 1 << 20
	}
	if o.HandlerTimeout == 0 {
		o.HandlerTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := NewHub(o)
	t.Cleanup(func() {
		h.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := h.Wait(ctx); err != nil {
			t.Errorf("handlers still run after the test: %v", err)
		}
	})
	return h
}

func register(t testing.TB, h *Hub, name string, f Handler) *Type {
	t.Helper()
	ty, err := h.Register(Spec{Name: name, MaxBytes: 1 << 16, Handler: f})
	if err != nil {
		t.Fatalf("registering %q: %v", name, err)
	}
	return ty
}

func ignore(context.Context, *Message) error { return nil }

// feed acts as the read loop of a connection: messages of one read, then AppsDone.
func feed(p *Peer, ty *Type, payloads ...string) {
	for _, s := range payloads {
		p.App(ty.id, []byte(s))
	}
	p.AppsDone()
}

func TestRegisterErrors(t *testing.T) {
	h := newHub(t, Options{})
	register(t, h, "taken", ignore)
	for _, tt := range []struct {
		name string
		want error
	}{
		{"taken", ErrTypeExists},
		{"", ErrBadTypeName},
		{strings.Repeat("x", 64), nil},
		{strings.Repeat("x", 65), ErrBadTypeName},
		{"a\nb", ErrBadTypeName},
		{"\xff", ErrBadTypeName},
		{"ut_metadata", ErrBadTypeName},
		{"lt_donthave", ErrBadTypeName},
		{"upload_only", ErrBadTypeName},
		{"emp_mux", ErrBadTypeName},
		{"BT_PIECE", ErrBadTypeName},
		{"AZ_HAVE", ErrBadTypeName},
		{"ünïcödé ☃", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := h.Register(Spec{Name: tt.name, Handler: ignore}); !errors.Is(err, tt.want) {
				t.Errorf("Register(%q) = %v, want %v", tt.name, err, tt.want)
			}
		})
	}
	h.Close()
	if _, err := h.Register(Spec{Name: "late", Handler: ignore}); !errors.Is(err, ErrClosed) {
		t.Errorf("Register after Close: %v, want %v", err, ErrClosed)
	}
}

func TestTooManyTypes(t *testing.T) {
	t.Run("ids", func(t *testing.T) {
		h := newHub(t, Options{NoMux: true})
		n := 0
		for ; ; n++ {
			ty, err := h.Register(Spec{Name: fmt.Sprint(n), Handler: ignore})
			if err != nil {
				if !errors.Is(err, ErrTooManyTypes) {
					t.Fatalf("type %d: %v, want %v", n, err, ErrTooManyTypes)
				}
				break
			}
			if ty.id < firstID || ty.id == MetadataID {
				t.Fatalf("type %d has id %d", n, ty.id)
			}
		}
		if want := 256 - firstID; n != want {
			t.Errorf("%d types fit, want %d", n, want)
		}
		if _, err := h.Register(Spec{Name: "0", Handler: ignore}); !errors.Is(err, ErrTypeExists) {
			t.Errorf("one that is there: %v, want %v", err, ErrTypeExists)
		}
		// A withdrawn name keeps its id (EMP/1 section 6.1), so it makes no room for another and may itself come back.
		if err := h.types["7"].Withdraw(); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Register(Spec{Name: "new", Handler: ignore}); !errors.Is(err, ErrTooManyTypes) {
			t.Errorf("a new name after a withdrawal: %v, want %v", err, ErrTooManyTypes)
		}
		if _, err := h.Register(Spec{Name: "7", Handler: ignore}); err != nil {
			t.Errorf("the old name again: %v", err)
		}
	})
	t.Run("16 KiB", func(t *testing.T) {
		h := newHub(t, Options{DefaultMax: 1 << 16})
		n := 0
		for ; ; n++ {
			name := fmt.Sprintf("%064d", n)
			if _, err := h.Register(Spec{Name: name, MaxBytes: 1 << 24, MaxVersion: 255, Handler: ignore}); err != nil {
				if !errors.Is(err, ErrTooManyTypes) {
					t.Fatalf("type %d: %v, want %v", n, err, ErrTooManyTypes)
				}
				break
			}
		}
		if n < 80 || n >= 256-firstID {
			t.Errorf("%d types of 64 bytes fit, want the size to be the limit, and 80 or more", n)
		}
		m, _, offer := h.Exchange()
		e := ltep.Exchange{M: append(m, ltep.Entry{Name: ltep.NameMetadata, ID: MetadataID}), Client: strings.Repeat("c", 128), Port: 65535, ReqQ: 500,
			MetadataSize: 1 << 26, UploadOnly: true, EMP: emp.AppendOffer(nil, offer)}
		if got := len(ltep.AppendExchange(nil, &e)); got > wire.MaxExchangeSent {
			t.Errorf("the exchange has %d bytes, the limit is %d", got, wire.MaxExchangeSent)
		}
	})
}

// A type that comes back a little larger each time takes the room of one type.
func TestTypesThatGrowTakeNoRoom(t *testing.T) {
	h := newHub(t, Options{DefaultMax: 1 << 16})
	for n := range 2000 {
		ty, err := h.Register(Spec{Name: "growing", MaxBytes: 1<<16 - 1000 + n, MaxVersion: uint8(n / 10), Handler: ignore})
		if err != nil {
			t.Fatalf("the %d. time: %v", n, err)
		}
		if err := ty.Withdraw(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExchangeFollowsTheTypes(t *testing.T) {
	changes := 0
	h := newHub(t, Options{Changed: func() { changes++ }})
	a := register(t, h, "a", ignore)
	b := register(t, h, "b", ignore)
	quiet, err := h.Register(Spec{Name: "quiet", MinVersion: 1, MaxVersion: 2, MaxBytes: 9, Handler: ignore}) // not offered where there are no versions
	if err != nil {
		t.Fatal(err)
	}
	want := func(when string, entries map[string]uint8, limits map[uint8]uint32) {
		t.Helper()
		m, use, _ := h.Exchange()
		got := map[string]uint8{}
		for _, e := range m {
			got[e.Name] = e.ID
		}
		if fmt.Sprint(got) != fmt.Sprint(entries) {
			t.Errorf("%s: entries %v, want %v", when, got, entries)
		}
		for id, n := range use.MaxBytes {
			if n != limits[uint8(id)] {
				t.Errorf("%s: limit of id %d is %d, want %d", when, id, n, limits[uint8(id)])
			}
		}
	}
	const limit = 1<<16 + 1
	want("at first", map[string]uint8{"a": a.id, "b": b.id, ltep.NameMux: MuxID}, map[uint8]uint32{a.id: limit, b.id: limit})
	if err := a.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if err := a.Withdraw(); !errors.Is(err, ErrClosed) {
		t.Errorf("withdrawing twice: %v, want %v", err, ErrClosed)
	}
	want("one withdrawn", map[string]uint8{"a": 0, "b": b.id, ltep.NameMux: MuxID}, map[uint8]uint32{b.id: limit})
	again := register(t, h, "a", ignore)
	if again.id != a.id {
		t.Errorf("registered again under id %d, was %d: a name keeps its id (EMP/1 section 6.1)", again.id, a.id)
	}
	if err := a.Withdraw(); !errors.Is(err, ErrClosed) {
		t.Errorf("withdrawing the old one again: %v, want %v", err, ErrClosed)
	}
	want("and back", map[string]uint8{"a": a.id, "b": b.id, ltep.NameMux: MuxID}, map[uint8]uint32{a.id: limit, b.id: limit})
	if changes != 5 {
		t.Errorf("%d changes were told, want 5", changes)
	}
	for _, tt := range []struct {
		names map[string]uint8
		want  bool
	}{
		{nil, false}, {map[string]uint8{"b": 3}, true}, {map[string]uint8{"b": 0}, false}, {map[string]uint8{"z": 3}, false},
		{map[string]uint8{"quiet": 3}, false}, {map[string]uint8{"z": 1, "a": 1}, true},
	} {
		if got := h.Usable(&peer.Shared{Plain: tt.names}); got != tt.want {
			t.Errorf("Usable(%v) = %v, want %v", tt.names, got, tt.want)
		}
	}
	if quiet.Name() != "quiet" {
		t.Errorf("name %q", quiet.Name())
	}
}

func TestPeerTypes(t *testing.T) {
	p := newHub(t, Options{}).NewPeer("owner")
	if p.Target("a").Plain != 0 || p.Shared() != nil || p.Owner != "owner" {
		t.Errorf("a new peer: %v, %v", p.Target("a"), p.Shared())
	}
	p.SetShared(peer.Shared{Plain: map[string]uint8{"a": 4, "b": 0}})
	if p.Target("a").Plain != 4 || p.Target("b").Plain != 0 || p.Target("c").Plain != 0 {
		t.Errorf("after its exchange: %v", p.Shared())
	}
	offer := peer.MuxOffer{Type: new(peer.MuxType), MaxVersion: 3, MaxLen: 10}
	p.SetShared(peer.Shared{Plain: map[string]uint8{"a": 4, "b": 0}, Mux: map[string]peer.MuxOffer{"a": offer, "c": offer}})
	if a := p.Target("a"); a.Plain != 0 || a.Mux != offer { // EMP/1 section 6.2: a type listed in t travels only in mux frames
		t.Errorf("a type in both: %v", a)
	}
	if c := p.Target("c"); c.Mux != offer {
		t.Errorf("a type in mux frames alone: %v", c)
	}
}

func TestTake(t *testing.T) {
	h := newHub(t, Options{})
	ty := register(t, h, "feed", nil)
	if _, err := register(t, h, "handled", ignore).Take(t.Context()); !errors.Is(err, ErrHasHandler) {
		t.Errorf("of a type with a handler: %v, want %v", err, ErrHasHandler)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := ty.Take(ctx); !errors.Is(err, cause) {
		t.Errorf("with an ended context: %v, want its cause", err)
	}
	p := h.NewPeer(nil)
	feed(p, ty, "one", "two")
	feed(p, ty, "three")
	var got []string
	for range 3 {
		m, err := ty.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(m.Payload))
		m.Done()
	}
	if !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("took %v", got)
	}
	feed(p, ty, "never taken")
	if err := ty.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if _, err := ty.Take(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("of a withdrawn type: %v, want %v", err, ErrClosed)
	}
	select {
	case <-ty.Withdrawn():
	default:
		t.Error("Withdrawn is not closed")
	}
}

// Two loops over one type hold messages of two peers at the same time; the one that is done must not let go of the other's.
func TestTakersDoNotFreeEachOthersMessages(t *testing.T) {
	h := newHub(t, Options{})
	ty := register(t, h, "feed", nil)
	const each = 500
	for _, who := range []string{"a", "b"} {
		p := h.NewPeer(who)
		for i := range each {
			feed(p, ty, fmt.Sprintf("%s%d", who, i))
		}
	}
	type result struct {
		got []string
		err error
	}
	results := make(chan result)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	count := make(chan struct{}, 2*each)
	for range 2 {
		go func() {
			var r result
			for {
				m, err := ty.Take(ctx)
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						r.err = err
					}
					results <- r
					return
				}
				before := string(m.Payload)
				time.Sleep(10 * time.Microsecond) // the other loop is done with its own meanwhile
				if after := string(m.Payload); after != before || m.Peer.Owner != before[:1] {
					r.err = fmt.Errorf("a message changed from %q to %q while it was held", before, after)
				}
				r.got = append(r.got, before)
				m.Done()
				count <- struct{}{}
			}
		}()
	}
	for range 2 * each {
		select {
		case <-count:
		case <-ctx.Done():
			t.Error("not all messages were taken")
		}
	}
	if err := ty.Withdraw(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for range 2 {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
		}
		for _, s := range r.got {
			seen[s]++
		}
	}
	if len(seen) != 2*each {
		t.Errorf("%d messages were taken, want %d", len(seen), 2*each)
	}
}
