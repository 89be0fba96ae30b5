package swarm

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// The link of TestLatency.
const (
	latencyRate  = 1_000_000 // bytes a second
	latencyDelay = 20 * time.Millisecond
)

// latencyCase is what crosses the link, from the seed to the leech unless it says otherwise.
type latencyCase struct {
	name        string
	small       bool // a message of 64 bytes, and a request of the leech that is answered by as much, every 100 ms
	pieces      bool
	large       bool // a message of 16 MiB
	other       bool // one the other way as well, so that requests, for blocks too, must get past it
	wholeBuffer bool // nothing keeps what is unsent small, as on a system without TCP_NOTSENT_LOWAT
}

var latencyCases = []latencyCase{
	{name: "small messages alone", small: true},
	{name: "with pieces", small: true, pieces: true},
	{name: "with a message of 16 MiB", small: true, large: true},
	{name: "with both", small: true, pieces: true, large: true},
	{name: "with both, and 16 MiB the other way", small: true, pieces: true, large: true, other: true},
	{name: "pieces alone", pieces: true},
	{name: "pieces with a message of 16 MiB", pieces: true, large: true},
	{name: "with both, all of the buffer used", small: true, pieces: true, large: true, wholeBuffer: true},
}

// latencies is what was seen of one case over its window.
type latencies struct {
	small, trips  []time.Duration // messages, from Send to the handler; requests, from the call to the answer
	gaps          []time.Duration // between the ends of blocks
	pieces, large float64         // bytes of blocks and of the large message that came in a second
	upward        float64         // of the large message the other way
}

// EMP/1 section 7.4: a large message and pieces cross a link side by side, with equal shares, and neither they nor small messages and requests wait for more than one block of another, and
// what lies in the writer and the system: [peerconn.LeadBytes] in all.
func TestLatency(t *testing.T) {
	if helloOf(*testHello) != nil {
		t.Skip("what lies on the way is counted in plaintext")
	}
	var rows []string
	var alone latencies
	for _, c := range latencyCases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := measureLatency(t, c)
				if c == latencyCases[0] {
					alone = l
				}
				rows = append(rows, l.row(c.name))
				if !c.wholeBuffer {
					l.check(t, c, alone)
				}
			})
		})
	}
	t.Logf("the table of docs/simulation.md:\n%s%s", latencyHead, strings.Join(rows, ""))
}

// check holds what was seen against what is promised.
func (l latencies) check(t *testing.T, c latencyCase, alone latencies) {
	took := func(n int) time.Duration { return time.Duration(n) * time.Second / latencyRate }
	// The link itself delivers in segments, of which the last byte counts.
	const segment = 4 << 10
	lead := took(peerconn.LeadBytes + segment)
	if c.small {
		if d := slices.Max(l.small) - slices.Max(alone.small); d > lead {
			t.Errorf("a small message was later by %v than alone, want %v at most", d, lead)
		}
		most := lead
		if c.other {
			most *= 2
		}
		if d := slices.Max(l.trips) - slices.Max(alone.trips); d > most {
			t.Errorf("a round trip took %v longer than alone, want %v at most", d, most)
		}
	}
	if c.pieces {
		most := took(classic.PieceHeadBytes + wire.MaxFragment + segment)
		if c.large {
			most *= 2
		}
		if d := slices.Max(l.gaps); d > most {
			t.Errorf("%v between two blocks, want %v at most", d, most)
		}
	}
	share := func(what string, rate float64, beside bool) {
		least, most := 0.95, 1.0
		if beside {
			least, most = 0.45, 0.55
		}
		if s := rate / latencyRate; s < least || s > most {
			t.Errorf("%s has %.3f of the link, want %.2f to %.2f", what, s, least, most)
		}
	}
	if c.pieces {
		share("the transfer of pieces", l.pieces, c.large)
	}
	if c.large {
		share("the large message", l.large, c.pieces)
	}
	if c.other {
		share("the large message the other way", l.upward, false)
	}
}

const latencyHead = `
| | small messages, ms: median | 95 % | largest | round trips, ms: median | 95 % | largest | between blocks, ms: median | 95 % | largest | pieces, of the link | 16 MiB, of the link |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
`

// row renders what was seen.
func (l latencies) row(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |", name)
	for _, list := range [][]time.Duration{l.small, l.trips, l.gaps} {
		if len(list) == 0 {
			b.WriteString(" | | |")
			continue
		}
		for _, q := range []float64{0.5, 0.95, 1} {
			fmt.Fprintf(&b, " %.1f |", quantile(list, q).Seconds()*1000)
		}
	}
	for _, rate := range []float64{l.pieces, l.large} {
		if rate == 0 {
			b.WriteString(" |")
		} else {
			fmt.Fprintf(&b, " %.3f |", rate/latencyRate)
		}
	}
	return b.String() + "\n"
}

// quantile returns the least value that a share q of the list does not exceed.
func quantile(list []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(list))
	return s[max(0, int(q*float64(len(s))+0.999999)-1)]
}

// tap looks at what a connection reads.
type tap struct {
	*simnet.Conn
	seen *frames
}

// Read implements [net.Conn].
func (c tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.seen.take(time.Now(), p[:n])
	return n, err
}

// frames counts blocks and fragments as they arrive.
type frames struct {
	mu     sync.Mutex
	buf    []byte
	hello  bool
	from   time.Time // of the window
	blocks []time.Time
	pieces int // bytes
	large  int
}

// take takes what was read.
func (f *frames) take(now time.Time, p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf, p...)
	if !f.hello {
		if len(f.buf) < classic.HelloBytes {
			return
		}
		f.buf, f.hello = f.buf[classic.HelloBytes:], true
	}
	for len(f.buf) >= classic.LengthBytes {
		n := classic.LengthBytes + int(binary.BigEndian.Uint32(f.buf))
		if len(f.buf) < n {
			break
		}
		frame := f.buf[classic.LengthBytes:n]
		f.buf = f.buf[n:]
		switch {
		case len(frame) == 0:
		case frame[0] == classic.IDPiece:
			f.blocks = append(f.blocks, now)
			f.pieces += len(frame) - wire.PieceOverhead
		case frame[0] == classic.IDExtended && frame[1] == messaging.MuxID && len(frame) > 1000:
			f.large += len(frame)
		}
	}
}

// begin begins the window.
func (f *frames) begin(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.from, f.blocks, f.pieces, f.large = now, nil, 0, 0
}

// rates returns how many bytes of blocks and large messages came in a second of the window, which ends now, and the gaps between the blocks.
func (f *frames) rates(now time.Time) (pieces, large float64, gaps []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := now.Sub(f.from).Seconds()
	for i := 1; i < len(f.blocks); i++ {
		gaps = append(gaps, f.blocks[i].Sub(f.blocks[i-1]))
	}
	return float64(f.pieces) / d, float64(f.large) / d, gaps
}

// tapped looks at what a node reads, and hides what its connections can do with what lies unsent if all of their buffer is to be used.
func tapped(f *frames, wholeBuffer bool) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		n.wrap = func(nc net.Conn) net.Conn {
			c := tap{nc.(*simnet.Conn), f}
			if wholeBuffer {
				return struct{ net.Conn }{c}
			}
			return c
		}
		dial := cfg.Dial
		cfg.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			nc, err := dial(ctx, to)
			if err != nil {
				return nil, err
			}
			return n.wrap(nc), nil
		}
	}
}

// crossing is two nodes, what crosses between them, and what is seen of it.
type crossing struct {
	t           *testing.T
	w           *world
	seed, leech *node
	atLeech     frames
	atSeed      frames
	big         []byte
	arrived     chan struct{} // a large message has, whole
	until       time.Time     // the end of the window

	work sync.WaitGroup
	ctx  context.Context // ends the work

	mu   sync.Mutex // of what follows
	sent []time.Time
	seen latencies
}

func newCrossing(t *testing.T, c latencyCase) *crossing {
	x := &crossing{t: t, big: make([]byte, wire.MaxMessage), arrived: make(chan struct{}, 100)}
	rand.NewChaCha8([32]byte{9}).Read(x.big) // never fails
	x.w = newWorldOf(t, 1, 40<<20, 256<<10, simnet.Link{Rate: latencyRate, Latency: latencyDelay, Buffer: 256 << 10})
	x.seed = x.w.start(seeding, tapped(&x.atSeed, c.wholeBuffer))
	has := seeding
	if c.pieces {
		has = func(*node, *Config) {}
	}
	x.leech = x.w.start(has, tapped(&x.atLeech, c.wholeBuffer))
	for _, n := range []*node{x.seed, x.leech} {
		for _, s := range []messaging.Spec{
			{Name: "small", MaxBytes: 64, Handler: x.small},
			{Name: "large", MaxBytes: wire.MaxMessage, Handler: x.large},
			{Name: "ask", MaxBytes: 64, OnlyRequests: true, Requests: func(_ context.Context, m *messaging.Message, _ int) ([]byte, error) { return m.Payload, nil }},
		} {
			if _, err := n.hub.Register(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	x.leech.tor.AddPeers(x.seed.addr)
	return x
}

// small handles small messages.
func (x *crossing) small(_ context.Context, m *messaging.Message) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seen.small = append(x.seen.small, time.Since(x.sent[binary.BigEndian.Uint32(m.Payload)]))
	return nil
}

// large handles large ones.
func (x *crossing) large(_ context.Context, m *messaging.Message) error {
	if !bytes.Equal(m.Payload, x.big) {
		x.t.Error("the large message arrived changed")
	}
	x.arrived <- struct{}{}
	return nil
}

// peer returns the only peer of a node, as messages see it, and its connection.
func (x *crossing) peer(n *node) (*messaging.Peer, *peerconn.Conn) {
	x.t.Helper()
	ps := n.tor.Peers()
	if len(ps) != 1 {
		x.t.Fatalf("%v has %d peers, want 1", n.addr, len(ps))
	}
	return ps[0].Apps().(*messaging.Peer), ps[0].Conn()
}

// send returns how to send a message of a type from a node; it reports whether that went well.
func (x *crossing) send(n *node, name string) func(payload []byte) bool {
	x.t.Helper()
	p, conn := x.peer(n)
	target := p.Target(name)
	if target.Mux.Type == nil {
		x.t.Fatalf("the peer of %v does not take %q in mux frames", n.addr, name)
	}
	return func(payload []byte) bool {
		err := conn.SendMux(x.ctx, target.Mux.Type, 0, 0, payload)
		if err != nil && x.ctx.Err() == nil {
			x.t.Errorf("sending %q: %v", name, err)
		}
		return err == nil
	}
}

// nowAndThen calls f every 100 ms or so until the window ends, and not in step with the blocks.
func (x *crossing) nowAndThen(stream uint64, f func()) {
	x.work.Go(func() {
		rng := rand.New(rand.NewPCG(x.w.seed, stream))
		for time.Now().Before(x.until) {
			f()
			time.Sleep(95*time.Millisecond + time.Duration(rng.IntN(int(10*time.Millisecond))))
		}
	})
}

func measureLatency(t *testing.T, c latencyCase) latencies {
	const settle = 2 * time.Second
	window := 20 * time.Second
	if !inFull() {
		window = 8 * time.Second
	}
	x := newCrossing(t, c)
	time.Sleep(settle)
	ctx, cancel := context.WithCancel(context.Background())
	x.ctx = ctx
	x.until = time.Now().Add(settle + window)
	large := func(n *node) { // one after the other
		send := x.send(n, "large")
		x.work.Go(func() {
			for time.Now().Before(x.until) && send(x.big) {
			}
		})
	}
	if c.large {
		large(x.seed)
	}
	if c.other {
		large(x.leech)
	}
	time.Sleep(settle)
	x.atLeech.begin(time.Now())
	x.atSeed.begin(time.Now())
	if c.small {
		send := x.send(x.seed, "small")
		x.nowAndThen(1, func() {
			x.mu.Lock()
			payload := binary.BigEndian.AppendUint32(make([]byte, 0, 64), uint32(len(x.sent)))
			x.sent = append(x.sent, time.Now())
			x.mu.Unlock()
			send(payload[:64])
		})
		p, _ := x.peer(x.leech)
		ask := p.Target("ask")
		x.nowAndThen(2, func() {
			began := time.Now()
			if _, err := p.Request(ctx, ask, 0, 0, make([]byte, 64), 64); err != nil {
				t.Error(err)
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			x.seen.trips = append(x.seen.trips, time.Since(began))
		})
	}
	time.Sleep(time.Until(x.until))
	pieces, down, gaps := x.atLeech.rates(x.until)
	_, up, _ := x.atSeed.rates(x.until)
	if c.large && inFull() {
		<-x.arrived // whatever else there is
	}
	time.Sleep(settle) // what was sent last arrives
	cancel()
	x.leech.close()
	x.seed.close()
	x.work.Wait()
	x.seen.pieces, x.seen.large, x.seen.upward, x.seen.gaps = pieces, down, up, gaps
	return x.seen
}
