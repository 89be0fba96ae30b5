package probe_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/leaktest"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/probe"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// The times of these tests: what answers at all does so at once.
const (
	firstAnswer = 2 * time.Second
	shortly     = 800 * time.Millisecond // where some hellos are answered and others are not
	soon        = 300 * time.Millisecond // where none is
)

// run probes addr. It may be called by any goroutine of a test.
func run(t *testing.T, addr string, o probe.Options) *probe.Report {
	t.Helper()
	if o.FirstAnswer == 0 {
		o.FirstAnswer, o.Whole = firstAnswer, 2*firstAnswer
	}
	o.ClientName = "probe test"
	begin := time.Now()
	r, err := probe.Run(t.Context(), new(net.Dialer), addr, o)
	if err != nil {
		t.Error(err)
		return new(probe.Report)
	}
	if took, most := time.Since(begin), time.Duration(len(r.Steps)+1)*(o.FirstAnswer+2*o.Whole+2*time.Second); took > most {
		t.Errorf("took %v, want %v at most", took, most)
	}
	for i := range r.Steps {
		checkStep(t, &r.Steps[i])
	}
	return r
}

// checkStep checks what holds for every step, whatever the peer does.
func checkStep(t *testing.T, s *probe.Step) {
	t.Helper()
	if s.Received > probe.MaxBytes+64<<10 {
		t.Errorf("%v: %d bytes were read", s.Try, s.Received)
	}
	if (s.Session != nil) != (s.Outcome == probe.Accepted) || (s.Hello > 0) != (s.Outcome == probe.Accepted) {
		t.Errorf("%v: %v with session %v, hello %v", s.Try, s.Outcome, s.Session, s.Hello)
	}
	if (s.FirstByte > 0) != (s.Received > 0) || s.Outcome == probe.NoAnswer && s.Received > 0 {
		t.Errorf("%v: %v with %d bytes, the first after %v", s.Try, s.Outcome, s.Received, s.FirstByte)
	}
	if s.Session != nil && (s.Exchange > 0) != (s.Session.Exchange != nil) {
		t.Errorf("%v: exchange %v after %v", s.Try, s.Session.Exchange, s.Exchange)
	}
	for i, d := range []time.Duration{s.FirstByte, s.Handshake, s.Hello, s.Exchange} {
		if d > s.End {
			t.Errorf("%v: time %d is %v, after the end %v", s.Try, i, d, s.End)
		}
	}
}

func step(t *testing.T, r *probe.Report, try probe.Try) *probe.Step {
	t.Helper()
	for i := range r.Steps {
		if r.Steps[i].Try == try {
			return &r.Steps[i]
		}
	}
	t.Fatalf("%v was not tried", try)
	return nil
}

func wantOutcome(t *testing.T, r *probe.Report, try probe.Try, want probe.Outcome) *probe.Step {
	t.Helper()
	s := step(t, r, try)
	if s.Outcome != want {
		t.Errorf("%v: %v (%v) after %d bytes, want %v", try, s.Outcome, s.Err, s.Received, want)
	}
	return s
}

// seed is a client of ours that serves a small torrent.
func seed(t *testing.T, cfg parley.Config, o parley.TorrentOptions) (*parley.Torrent, string) {
	t.Helper()
	cfg.ListenAddr = "127.0.0.1:0"
	c, err := parley.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, bytes.Repeat([]byte("content "), 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	tor, err := c.Share(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	return tor, c.Addr().String()
}

// TestPolicies: what a client of ours takes, and no more, is seen as accepted.
func TestPolicies(t *testing.T) {
	t.Parallel()
	all := []parley.Hello{parley.HelloPlaintext, parley.HelloMSE, parley.HelloVeil}
	type policy struct {
		accept []parley.Hello
		r      *probe.Report
	}
	var policies [8]policy
	var probes sync.WaitGroup // all at once: most of the time they wait
	for set := 1; set < 8; set++ {
		var accept []parley.Hello
		for i, h := range all {
			if set>>i&1 != 0 {
				accept = append(accept, h)
			}
		}
		tor, addr := seed(t, parley.Config{AcceptHellos: accept}, parley.TorrentOptions{})
		p := &policies[set]
		p.accept = accept
		probes.Go(func() {
			p.r = run(t, addr, probe.Options{InfoHash: tor.InfoHash(), FirstAnswer: shortly, Whole: 2 * shortly})
		})
	}
	probes.Wait()
	for _, p := range policies[1:] {
		t.Run(names(p.accept), func(t *testing.T) {
			takes, r := wire.HellosOf(p.accept...), p.r
			if len(r.Steps) != 4 || !r.Accepted() || !r.Reached() {
				t.Fatalf("%d steps, accepted %v, reached %v", len(r.Steps), r.Accepted(), r.Reached())
			}
			for _, s := range r.Steps {
				want := probe.Accepted
				switch h := s.Try.Hello(); {
				case takes.Has(h):
				case h == wire.HelloPlaintext: // 68 bytes are too few to be told from the beginning of anything else
					want = probe.NoAnswer
				default: // random bytes, or a key of MSE
					want = probe.Other
				}
				wantOutcome(t, r, s.Try, want)
			}
		})
	}
	t.Run("RC4 alone", func(t *testing.T) {
		tor, addr := seed(t, parley.Config{MSE: parley.MSEOnlyRC4}, parley.TorrentOptions{})
		r := run(t, addr, probe.Options{InfoHash: tor.InfoHash(), Hellos: wire.HellosOf(wire.HelloMSE), FirstAnswer: shortly, Whole: 2 * shortly})
		if len(r.Steps) != 2 {
			t.Errorf("%d steps", len(r.Steps))
		}
		wantOutcome(t, r, probe.MSERC4, probe.Accepted)
		wantOutcome(t, r, probe.MSEPlaintext, probe.Other)
	})
}

func names(hs []parley.Hello) string {
	var s strings.Builder
	for _, h := range hs {
		s.WriteString(h.String() + " ")
	}
	return s.String()
}

// TestSession: what a peer says of itself is told as it says it.
func TestSession(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tor, addr := seed(t, parley.Config{Identity: key, ClientName: "a name of its own", MaxRequests: 7, MessageWindowBytes: 123_456}, parley.TorrentOptions{})
	for _, mt := range []parley.MessageType{{Name: "chat", MinVersion: 1, MaxVersion: 3, MaxBytes: 1000}, {Name: "plain", MaxBytes: 2000}} {
		mt.Handler = func(context.Context, *parley.Message) error { return nil }
		if _, err := tor.Register(mt); err != nil {
			t.Fatal(err)
		}
	}
	r := run(t, addr, probe.Options{InfoHash: tor.InfoHash()})
	ids := map[bt.PeerID]bool{}
	for _, s := range r.Steps {
		wantOutcome(t, r, s.Try, probe.Accepted)
		x := s.Session
		if x == nil || x.Exchange == nil || x.Offer == nil {
			t.Errorf("%v: session %+v", s.Try, x)
			continue
		}
		ids[x.PeerID] = true
		if x.Dialect != wire.DialectEMP || !x.HasHello || !x.Reserved.LTEP() || !x.Reserved.Fast() || x.Guess == "" || x.Err != nil {
			t.Errorf("%v: %+v", s.Try, x)
		}
		e, m := x.Exchange, x.Messages
		if e.Client != "a name of its own" || e.MetadataSize == 0 || e.ReqQ == 0 || e.Port == 0 {
			t.Errorf("%v: exchange %+v", s.Try, e)
		}
		if !m.Mux || m.WindowBytes != 123_456 || m.Requests != 7 || len(m.Types) != 2 || x.Offer.Version != 1 || !x.Offer.Veil {
			t.Errorf("%v: messages %+v, offer %+v", s.Try, m, x.Offer)
			continue
		}
		if c, p := m.Types[0], m.Types[1]; c.Name != "chat" || c.MinVersion != 1 || c.MaxVersion != 3 || c.MaxLen != 1000 || c.ID == 0 || p.Name != "plain" || p.MaxLen != 2000 || p.ID == c.ID {
			t.Errorf("%v: types %+v", s.Try, m.Types)
		}
		if s.Try == probe.Veil != key.Public().(ed25519.PublicKey).Equal(x.Identity) {
			t.Errorf("%v: identity %x", s.Try, x.Identity)
		}
		trips := map[probe.Try]int{probe.Plaintext: 1, probe.MSERC4: 2, probe.MSEPlaintext: 2, probe.Veil: 1}
		if s.RoundTrips != trips[s.Try] || s.ExchangeRoundTrips < s.RoundTrips || s.Try == probe.Veil && s.ExchangeRoundTrips != 2 {
			t.Errorf("%v: %d round trips, %d to the exchange", s.Try, s.RoundTrips, s.ExchangeRoundTrips)
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d peer IDs", len(ids))
	}
}

// TestWithoutMessages: of a client that has no enhanced messages none are told.
func TestWithoutMessages(t *testing.T) {
	tor, addr := seed(t, parley.Config{NoEMP: true, AcceptHellos: []parley.Hello{parley.HelloPlaintext}}, parley.TorrentOptions{})
	r := run(t, addr, probe.Options{InfoHash: tor.InfoHash(), Hellos: wire.HellosOf(wire.HelloPlaintext)})
	x := wantOutcome(t, r, probe.Plaintext, probe.Accepted).Session
	if x == nil || x.Dialect != wire.DialectLTEP || x.Exchange == nil || x.Offer != nil || x.Messages.Mux || x.Identity != nil {
		t.Errorf("%+v", x)
	}
}

func TestSwarmKey(t *testing.T) {
	key, other := [32]byte{1}, [32]byte{2}
	tor, addr := seed(t, parley.Config{}, parley.TorrentOptions{SwarmKey: &key})
	for _, tt := range []struct {
		name string
		o    probe.Options
		want bool
	}{
		{"the key", probe.Options{InfoHash: tor.InfoHash(), SwarmKey: &key}, true},
		{"the key alone", probe.Options{SwarmKey: &key}, true},
		{"another key", probe.Options{InfoHash: tor.InfoHash(), SwarmKey: &other}, false},
		{"no key", probe.Options{InfoHash: tor.InfoHash()}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.o.FirstAnswer, tt.o.Whole = soon, 2*soon
			r := run(t, addr, tt.o)
			if got := step(t, r, probe.Veil).Outcome == probe.Accepted; got != tt.want || r.Accepted() != tt.want || r.Closed != (tt.o.SwarmKey != nil) {
				t.Errorf("veil accepted: %v, anything: %v, want %v", got, r.Accepted(), tt.want)
			}
		})
	}
}

// TestNoTorrent: without one nothing is claimed.
func TestNoTorrent(t *testing.T) {
	_, addr := seed(t, parley.Config{}, parley.TorrentOptions{})
	r := run(t, addr, probe.Options{FirstAnswer: soon, Whole: 2 * soon})
	if r.Accepted() || !r.Reached() || len(r.Steps) != 2 {
		t.Errorf("%+v", r)
	}
	wantOutcome(t, r, probe.Silence, probe.NoAnswer)
	if s := wantOutcome(t, r, probe.Random, probe.Other); !s.AsMSE() || s.Received > 608 {
		t.Errorf("%d bytes", s.Received)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r := run(t, addr, probe.Options{InfoHash: bt.InfoHash{1}})
	if len(r.Steps) != 1 || r.Reached() || r.Accepted() {
		t.Errorf("%+v", r)
	}
	if s := wantOutcome(t, r, probe.Plaintext, probe.Unreachable); s.Err == nil {
		t.Error("no reason")
	}
}

// theTorrent is the one that hostile peers are asked for.
var theTorrent = bt.InfoHash{1, 2, 3}

// serve has a peer behave as talk does, on each of its connections.
func serve(t *testing.T, talk func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				talk(c)
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	return l.Addr().String()
}

// drain reads until the other side has gone.
func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// greeting is the hello of a peer with the extension protocol.
func greeting(ih bt.InfoHash) []byte {
	return classic.AppendHello(nil, classic.Hello{Reserved: wire.Reserved{5: 0x10}, InfoHash: ih, PeerID: bt.PeerID([]byte("-XX0001-abcdefghijkl"))})
}

// frame is an extended frame that is as long as it says, or not.
func frame(says uint32, id, ext byte, payload []byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, says), id, ext), payload...)
}

// after greets, and then sends b.
func after(b []byte) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := c.Write(append(greeting(theTorrent), b...)); err == nil {
			drain(c)
		}
	}
}

func flood(unit []byte) func(net.Conn) {
	return func(c net.Conn) {
		for {
			if _, err := c.Write(unit); err != nil {
				return
			}
		}
	}
}

// TestHostile: whatever a peer does, the probe ends in time, reads a bounded number of bytes, and tells what it saw.
func TestHostile(t *testing.T) {
	t.Parallel()
	garbage := make([]byte, 4096)
	if _, err := rand.Read(garbage); err != nil {
		t.Fatal(err)
	}
	garbage[0] = 'H' // no classic hello begins like that
	long := bytes.Repeat([]byte{0}, 60_000)
	good := ltep.AppendExchange(nil, &ltep.Exchange{Client: "late"})
	tests := []struct {
		name  string
		talk  func(net.Conn)
		plain probe.Outcome // of the plaintext hello
		veil  probe.Outcome
		check func(*testing.T, *probe.Report)

		r, unnamed *probe.Report
	}{
		{"silent", drain, probe.NoAnswer, probe.NoAnswer, nil, nil, nil},
		{"closes at once", func(net.Conn) {}, probe.Closed, probe.Closed, nil, nil, nil},
		{"closes when it has read", func(c net.Conn) { _, _ = c.Read(make([]byte, 1000)) }, probe.Closed, probe.Closed, nil, nil, nil},
		{"garbage", func(c net.Conn) { _, _ = c.Write(garbage); drain(c) }, probe.Other, probe.Other, nil, nil, nil},
		{"garbage and closes", func(c net.Conn) { _, _ = c.Write(garbage) }, probe.Other, probe.Other, nil, nil, nil},
		{"floods", flood(garbage), probe.Other, probe.Other, nil, nil, nil},
		{"one byte at a time", func(c net.Conn) {
			for _, b := range append(greeting(theTorrent), garbage...) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}, probe.Other, probe.Other, nil, nil, nil},
		{"half a hello", func(c net.Conn) { _, _ = c.Write(greeting(theTorrent)[:50]); drain(c) }, probe.Other, probe.Other, nil, nil, nil},
		{"half a hello and closes", func(c net.Conn) { _, _ = c.Write(greeting(theTorrent)[:50]); _, _ = c.Read(make([]byte, 1000)) }, probe.Closed, probe.Closed, nil, nil, nil},
		{"another torrent", func(c net.Conn) { _, _ = c.Write(greeting(bt.InfoHash{9})); drain(c) }, probe.Other, probe.Other, nil, nil, nil},
		{"no exchange", after(nil), probe.Accepted, probe.Other, func(t *testing.T, r *probe.Report) {
			if x := step(t, r, probe.Plaintext).Session; x.Exchange != nil || x.Err != nil || !x.HasHello || x.Dialect != wire.DialectLTEP {
				t.Errorf("%+v", x)
			}
		}, nil, nil},
		{"a frame of 4 GiB", after(frame(1<<32-1, 20, 0, garbage)), probe.Accepted, probe.Other, wantErr, nil, nil},
		{"a frame that is longer than it may", after(frame(2<<20, 20, 0, garbage)), probe.Accepted, probe.Other, wantErr, nil, nil},
		{"an exchange that is too long", after(frame(70_000, 20, 0, make([]byte, 70_000-2))), probe.Accepted, probe.Other, nil, nil, nil},
		{"an exchange that never ends", after(frame(60_000, 20, 0, good)), probe.Accepted, probe.Other, nil, nil, nil},
		{"an exchange that cannot be read", after(frame(7, 20, 0, []byte("d1:mi"))), probe.Accepted, probe.Other, nil, nil, nil},
		{"one that can behind one that cannot", after(append(frame(7, 20, 0, []byte("d1:mi")), frame(uint32(len(good)+2), 20, 0, good)...)), probe.Accepted, probe.Other, func(t *testing.T, r *probe.Report) {
			if x := step(t, r, probe.Plaintext).Session; x.Exchange == nil || x.Exchange.Client != "late" {
				t.Errorf("%+v", x)
			}
		}, nil, nil},
		{"frames without end", func(c net.Conn) {
			if _, err := c.Write(greeting(theTorrent)); err == nil {
				flood(frame(uint32(len(long)+2), 20, 77, long))(c)
			}
		}, probe.Accepted, probe.Other, wantErr, nil, nil},
		{"keep-alives without end", func(c net.Conn) {
			if _, err := c.Write(greeting(theTorrent)); err == nil {
				flood(make([]byte, 4096))(c)
			}
		}, probe.Accepted, probe.Other, wantErr, nil, nil},
	}
	var probes sync.WaitGroup // all at once: most of the time they wait
	for i := range tests {
		tt := &tests[i]
		addr := serve(t, tt.talk)
		probes.Go(func() { tt.r = run(t, addr, probe.Options{InfoHash: theTorrent, FirstAnswer: soon, Whole: 2 * soon}) })
		probes.Go(func() { tt.unnamed = run(t, addr, probe.Options{FirstAnswer: soon, Whole: 2 * soon}) })
	}
	probes.Wait()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.r
			if len(r.Steps) != 4 {
				t.Fatalf("%d steps", len(r.Steps))
			}
			wantOutcome(t, r, probe.Plaintext, tt.plain)
			wantOutcome(t, r, probe.Veil, tt.veil)
			for _, try := range []probe.Try{probe.MSERC4, probe.MSEPlaintext} {
				if s := step(t, r, try); s.Outcome == probe.Accepted {
					t.Errorf("%v: accepted", try)
				}
			}
			if tt.check != nil {
				tt.check(t, r)
			}
			if r := tt.unnamed; len(r.Steps) != 2 || r.Accepted() {
				t.Errorf("without a torrent: %+v", r)
			}
		})
	}
}

// wantErr wants to be told why the session ended.
func wantErr(t *testing.T, r *probe.Report) {
	t.Helper()
	if x := step(t, r, probe.Plaintext).Session; x == nil || x.Err == nil || x.Exchange != nil {
		t.Errorf("%+v", x)
	}
}

// TestMSEAgain: who closes after its key is tried once more, as libtorrent 2.0.8 may be unlucky.
func TestMSEAgain(t *testing.T) {
	var mu sync.Mutex
	seen := 0
	addr := serve(t, func(c net.Conn) {
		var ya [mse.KeyBytes]byte
		if _, err := io.ReadFull(c, ya[:]); err != nil {
			return
		}
		mu.Lock()
		seen++
		mu.Unlock()
		var r mse.Responder
		if err := r.Begin(mse.Config{Rand: rand.Reader}, &ya); err != nil {
			return
		}
		if _, err := c.Write(r.AppendOutput(nil)); err == nil {
			_, _ = io.ReadFull(c, make([]byte, 20+20)) // step 3, or some of PadA
		}
	})
	r := run(t, addr, probe.Options{InfoHash: theTorrent, Hellos: wire.HellosOf(wire.HelloMSE)})
	for _, try := range []probe.Try{probe.MSERC4, probe.MSEPlaintext} {
		if s := wantOutcome(t, r, try, probe.Closed); !s.KeyAnswer || s.FirstTry == nil || s.FirstTry.Outcome != probe.Closed || s.FirstTry.FirstTry != nil {
			t.Errorf("%v: %+v", try, s)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if seen != 4 {
		t.Errorf("%d connections", seen)
	}
}

func TestCancel(t *testing.T) {
	addr := serve(t, drain)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	tried := make(chan probe.Try, 4)
	go func() {
		<-tried
		time.Sleep(50 * time.Millisecond)
		cancel(why)
	}()
	begin := time.Now()
	r, err := probe.Run(ctx, new(net.Dialer), addr, probe.Options{InfoHash: theTorrent, Trying: func(try probe.Try) { tried <- try }})
	if r != nil || !errors.Is(err, why) {
		t.Errorf("%v, %v", r, err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestBadOptions(t *testing.T) {
	if _, err := probe.Run(t.Context(), new(net.Dialer), "127.0.0.1:1", probe.Options{Whole: -1}); err == nil {
		t.Error("no error")
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"mse-rc4": probe.MSERC4.String(), "random": probe.Random.String(), "try 0": probe.Try(0).String(), "try 99": probe.Try(99).String(),
		"no_answer": probe.NoAnswer.String(), "outcome 0": probe.Outcome(0).String(), "outcome 77": probe.Outcome(77).String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
