package messaging

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/wire"
)

// Whatever others hold, every peer has the room for a message of the usual length, and gives back what it has of the budget beyond that.
func TestBudgetLeavesEveryPeerARest(t *testing.T) {
	b := NewBudget(1 << 20)
	h := NewHub(Options{Budget: b, Logger: slog.New(slog.DiscardHandler)})
	var all []*Peer
	for range 100 { // each takes what it gets
		p := h.NewPeer(nil)
		for p.hold(1000) {
		}
		if p.held < freeBytes-1000 {
			t.Fatalf("peer %d holds %d bytes and gets no more", len(all), p.held)
		}
		all = append(all, p)
	}
	if used := b.Used(); used > 1<<20 || used < 1<<20-64<<10 {
		t.Errorf("%d bytes of the budget are taken", used)
	}
	p := h.NewPeer(nil)
	in := &inbound{total: wire.DefaultMaxMessage, t: &Type{}, p: p}
	if !p.hold(wire.MessageCost) {
		t.Fatal("no memory for a message")
	}
	in.charged = wire.MessageCost
	for range wire.DefaultMaxMessage / wire.MaxFragment {
		if !p.add(in, make([]byte, wire.MaxFragment)) {
			t.Fatalf("no memory for more than %d bytes", len(*in.buf))
		}
	}
	if p.held != wire.DefaultMaxMessage+wire.MessageCost || p.granted != 0 || in.charged != p.held || !p.hold(1<<15) {
		t.Errorf("it holds %d bytes, and %d of the budget; charged %d", p.held, p.granted, in.charged)
	}
	p.freeAll(in)
	if p.held != 1<<15 {
		t.Errorf("%d bytes are still held", p.held)
	}
	for _, p := range append(all, p) {
		p.drop(p.held)
		if p.held != 0 || p.granted != 0 {
			t.Fatalf("%d bytes are still granted for %d", p.granted, p.held)
		}
	}
	if used := b.Used(); used != 0 {
		t.Errorf("%d bytes are still taken", used)
	}
}

// A stream holds blocks, and is charged for whole ones: a byte that nobody reads costs 16 KiB.
func TestStreamIsChargedForBlocks(t *testing.T) {
	const block = wire.MaxFragment
	h := NewHub(Options{Budget: NewBudget(1 << 20), Logger: slog.New(slog.DiscardHandler)})
	p := h.NewPeer(nil)
	in := &inbound{total: 10 * block, t: &Type{}, p: p}
	in.stream = newStream(in)
	var want bytes.Buffer
	add := func(n int, holds int64) {
		t.Helper()
		data := bytes.Repeat([]byte{byte(want.Len())}, n)
		want.Write(data)
		if !p.add(in, data) {
			t.Fatal("no memory")
		}
		if live := int64(blockbuf.Live()) * block; p.held != holds || live != holds {
			t.Errorf("after %d bytes it is charged for %d and holds %d, want %d", want.Len(), p.held, live, holds)
		}
	}
	add(1, block)
	add(block-1, block)
	add(1, 2*block)
	add(2*block, 4*block)
	got := make([]byte, 3*block)
	n, err := io.ReadFull(in.stream, got)
	if err != nil || p.held != block {
		t.Errorf("after %d bytes were read it is charged for %d: %v", n, p.held, err)
	}
	add(block-1, block) // what is left of the last block
	add(1, 2*block)
	in.stream.finish(nil)
	rest, err := io.ReadAll(in.stream)
	if err != nil || !bytes.Equal(append(got, rest...), want.Bytes()) {
		t.Errorf("other bytes came: %v", err)
	}
	if unread := in.stream.close(); unread != 0 || !in.stream.complete() || p.held != 0 {
		t.Errorf("at the end %d bytes are unread, and %d charged", unread, p.held)
	}
}

// Handlers that fail as often as peers like do not fill an operator's log; whoever wants to see each of them can.
func TestFailuresAreFew(t *testing.T) {
	var out strings.Builder
	var f failures
	l := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for range 1000 {
		f.tell(l, "message handler failed", "chat", errors.New("no"))
	}
	if warns, all := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "handler failed"); warns != failuresTold || all != 1000 {
		t.Errorf("%d records in all, %d of them warnings", all, warns)
	}
	f.since = f.since.Add(-failuresEvery)
	out.Reset()
	f.tell(l, "message handler failed", "chat", errors.New("no"))
	if s := out.String(); !strings.Contains(s, "level=WARN") || !strings.Contains(s, "others=997") {
		t.Errorf("a minute later: %s", s)
	}
}
