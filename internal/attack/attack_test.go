package attack_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/attack"
	"github.com/parley-bt/parley/internal/leaktest"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const (
	attackers  = 4 // at once
	pieceBytes = 64 << 10
	numPieces  = 131 // not a multiple of 8: a bitfield has spare bits
	patience   = 30 * time.Second
	// rounds is how often each attacker comes back while the honest peer is served.
	rounds = 8
	// memoryBound is by how much what is alive in the heap may grow under an attack by four at once: each may take a frame of 1 MiB that is incomplete, 1 MiB
	// of messages that wait, and buffers of 256 KiB while something is read or written; the inbox of the torrent holds batches. The honest peer, which keeps
	// the content in memory, and the attackers live in the same process.
	memoryBound = 64 << 20
	// goroutineBound is how many goroutines may be added: a few a connection, here and at the attackers'.
	goroutineBound = 200
	// logBound is how many records an operator may see of one attack, however often the attackers come back.
	logBound = 20
)

// A row is a line of the table.
type row struct {
	name, limit, outcome, memory, rate string
}

// A table collects what the attacks came to.
type table struct {
	mu   sync.Mutex
	rows []row
}

func (tb *table) add(r row) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.rows = append(tb.rows, r)
}

// String returns the table in Markdown.
func (tb *table) String() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var b strings.Builder
	b.WriteString("| # | attack | limit that answers | outcome | memory | honest peer |\n|---|---|---|---|---|---|\n")
	for i, r := range tb.rows {
		fmt.Fprintf(&b, "| %d | %s | `%s` | %s | %s | %s |\n", i+1, r.name, r.limit, r.outcome, r.memory, r.rate)
	}
	return b.String()
}

// print logs the table, and writes it to the file that PARLEY_ATTACKS names.
func (tb *table) print(t *testing.T) {
	t.Logf("%d attacks\n%s", len(tb.rows), tb)
	if path := os.Getenv("PARLEY_ATTACKS"); path != "" {
		if err := os.WriteFile(path, []byte(tb.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// records is a log of what a client says: how much an operator sees, and why connections ended before they had a session.
type records struct {
	mu    sync.Mutex
	loud  []string // at Info and above
	ended map[string]error
}

func newRecords() *records { return &records{ended: make(map[string]error)} }

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec.Level >= slog.LevelInfo {
		r.loud = append(r.loud, rec.Message)
	}
	var addr string
	var err error
	rec.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "addr":
			addr = a.Value.String()
		case "error":
			err, _ = a.Value.Any().(error)
		}
		return true
	})
	if addr != "" && err != nil {
		r.ended[addr] = err
	}
	return nil
}

// end records why a session ended; nil is a normal end.
func (r *records) end(addr netip.AddrPort, err error) {
	if err == nil {
		err = errNoReason
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[addr.String()] = err
}

var errNoReason = errors.New("a normal end")

// reason returns why the client ended its connection with addr. It takes a moment until that is known.
func (r *records) reason(addr net.Addr) (error, bool) {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		err, ok := r.ended[addr.String()]
		r.mu.Unlock()
		if ok || time.Now().After(end) {
			return err, ok
		}
	}
}

// A stage is where an attack takes place.
type stage interface {
	dial(attacker int) (net.Conn, error)
	reason(local net.Addr) (error, bool)
}

// A campaign is one attack by several at once, while an honest peer is served.
type campaign struct {
	*attack.Attack
	scene attack.Scene
	stage stage
	begun chan struct{} // gets one from each attacker
	stop  chan struct{} // the honest peer is served

	conns atomic.Int64
	most  atomic.Int64 // bytes of the connection that could write most
	mu    sync.Mutex
	ended map[string]int // how sessions ended
}

func newCampaign(at *attack.Attack, scene attack.Scene, st stage) *campaign {
	return &campaign{Attack: at, scene: scene, stage: st, begun: make(chan struct{}, attackers), stop: make(chan struct{}), ended: make(map[string]int)}
}

// attacker is one of them: it comes back until the honest peer is served.
func (c *campaign) attacker(t *testing.T, n int) {
	begun := sync.OnceFunc(func() { c.begun <- struct{}{} })
	defer begun()
	must := max(1, c.Variants)
	for round := range must + rounds {
		if round >= must {
			select {
			case <-c.stop:
				return
			default:
			}
			if c.Slow || c.Outcome != attack.Ended {
				return
			}
		}
		if err := c.session(t, n, round, begun, round < must); err != nil {
			if round < must {
				t.Errorf("attacker %d, round %d: %v", n, round, err)
				return
			}
			// Whoever has been here may be turned away.
		}
	}
}

// session is one connection of an attacker.
func (c *campaign) session(t *testing.T, n, round int, begun func(), must bool) error {
	nc, err := c.stage.dial(n)
	if err != nil {
		return err
	}
	defer nc.Close()
	c.conns.Add(1)
	local := nc.LocalAddr()
	a := attack.NewAttacker(rawpeer.New(t, nc), c.scene, bt.PeerID{'-', 'X', 'X', 'e', 'v', 'i', 'l', byte(n), byte(round), byte(n ^ 0x55)})
	a.Stop = c.stop
	a.Variant = round % max(1, c.Variants)
	if !c.Raw {
		if err := a.Hello(c.Plain); err != nil {
			return fmt.Errorf("hello: %w", err)
		}
	}
	pong := make(chan struct{}, 1)
	over := make(chan struct{})
	read := func() {
		defer close(over)
		if c.Raw {
			a.UntilClosed(24 * time.Hour) // however it ends
			return
		}
		a.Until(func(m wire.Message) bool { // until it has ended
			if attack.IsPong(m) {
				select {
				case pong <- struct{}{}:
				default:
				}
			}
			if c.On != nil {
				c.On(a, m)
			}
			return false
		})
	}
	if c.Deaf {
		if tcp, ok := nc.(*net.TCPConn); ok {
			if err := tcp.SetReadBuffer(4 << 10); err != nil {
				return err
			}
		}
	} else {
		go read()
	}
	began := time.Now()
	time.AfterFunc(20*time.Millisecond, begun) // the honest peer comes while the attack lasts
	unheld := make(chan struct{})
	if c.Outcome == attack.Held { // what is held back would not see the end
		go func() {
			select {
			case <-c.stop:
				nc.SetWriteDeadline(time.Now())
			case <-unheld:
			}
		}()
	}
	c.Run(a)
	close(unheld)
	if c.Deaf {
		go read()
	}
	defer func() {
		for old := c.most.Load(); a.Sent() > old && !c.most.CompareAndSwap(old, a.Sent()); old = c.most.Load() {
		}
	}()
	end := func() {
		nc.Close()
		<-over
	}
	switch c.Outcome {
	case attack.Ended:
		within := patience
		if c.Slow {
			within = 2 * c.Within // what is too long is told below
		}
		select {
		case <-over:
		case <-time.After(within):
			end()
			return fmt.Errorf("not closed within %v of the last byte", within)
		}
		took := time.Since(began)
		err, ok := c.stage.reason(local)
		if !ok {
			return errors.New("closed, and nobody was told why")
		}
		c.tally(err)
		if must && !oneOf(err, c.Errs) {
			return fmt.Errorf("closed with %v, want %v", err, c.Errs)
		}
		if c.Slow && took > c.Within+10*time.Second {
			return fmt.Errorf("closed after %v, want within %v", took, c.Within)
		}
	case attack.Stands:
		select {
		case <-c.stop:
		case <-over:
			return c.endedEarly(local)
		}
		if c.Plain || c.Against == attack.Magnet && a.Metadata == 0 {
			end()
			return nil
		}
		if a.Ping() != nil { // it has ended, then
			<-over
			return c.endedEarly(local)
		}
		select {
		case <-pong:
		case <-over:
			return c.endedEarly(local)
		case <-time.After(patience):
			end()
			return errors.New("the session stands, and a ping is not answered")
		}
		end()
	case attack.Held:
		select {
		case <-c.stop:
		case <-over:
			err, _ := c.stage.reason(local)
			return fmt.Errorf("the session has ended: %w", err)
		}
		end()
		if n := a.Sent(); n > attack.HeldBytes {
			return fmt.Errorf("got rid of %d bytes, want at most %d", n, attack.HeldBytes)
		}
	}
	return nil
}

// endedEarly explains the end of a session that was to stand; nil if it was that of two seeds, which is how a download that is complete parts from one who
// claims to have everything.
func (c *campaign) endedEarly(local net.Addr) error {
	err, _ := c.stage.reason(local)
	if c.Against != attack.Seed && errors.Is(err, peer.ErrDuplicatePeer) {
		return nil
	}
	return fmt.Errorf("the session has ended: %w", err)
}

func (c *campaign) tally(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended[err.Error()]++
}

// outcome returns what the table says.
func (c *campaign) outcome() string {
	s := c.Outcome.String()
	if c.Outcome == attack.Ended {
		s += fmt.Sprintf(" ×%d", c.conns.Load())
		for _, e := range c.Errs {
			s += ": " + e.Error()
			break
		}
	}
	return s + fmt.Sprintf("; %s sent", size(c.most.Load()))
}

func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// oneOf reports whether err is one of those that are wanted.
func oneOf(err error, want []error) bool {
	for _, w := range want {
		if errors.Is(err, w) {
			return true
		}
		if _, ok := errors.AsType[*wire.SyntaxError](err); ok && w == attack.ErrSyntax {
			return true
		}
	}
	return false
}

// A field is where attacks over real sockets take place: content, and how fast it travels when nobody attacks.
type field struct {
	path    string
	content []byte
	mi      *metainfo.MetaInfo
	scene   attack.Scene
	calm    map[attack.Target]float64 // bytes a second
}

func newField(t *testing.T) *field {
	f := &field{path: filepath.Join(t.TempDir(), "content"), content: make([]byte, numPieces*pieceBytes-100), calm: make(map[attack.Target]float64)}
	for i := range f.content { // no two blocks alike
		f.content[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16)*31
	}
	if err := os.WriteFile(f.path, f.content, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := parley.Create(t.Context(), f.path, parley.CreateOptions{PieceBytes: pieceBytes})
	if err != nil {
		t.Fatal(err)
	}
	f.mi = c.MetaInfo
	f.scene = attack.Scene{InfoHash: f.mi.InfoHash, Geometry: f.mi.Info.Geometry, Info: f.mi.Info.Bytes}
	return f
}

// client starts a client on loopback.
func client(t *testing.T, cfg parley.Config) *parley.Client {
	t.Helper()
	cfg.ListenAddr = "127.0.0.1:0"
	c, err := parley.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing a client: %v", err)
		}
	})
	return c
}

// seed adds the content to a client that has it.
func (f *field) seed(t *testing.T, c *parley.Client) *parley.Torrent {
	t.Helper()
	tor, err := c.AddTorrent(f.mi, parley.TorrentOptions{Storage: func(info *metainfo.Info) (storage.Storage, error) {
		s := storage.NewMemory(info.Geometry)
		_, err := s.WriteAt(f.content, 0)
		return s, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitComplete(within(t)); err != nil {
		t.Fatal(err)
	}
	return tor
}

// leech adds the content to a client that lacks it, with a function that compares it once it is there.
func (f *field) leech(t *testing.T, c *parley.Client, magnet bool, peers ...netip.AddrPort) (*parley.Torrent, func() error) {
	t.Helper()
	var mem storage.Storage
	o := parley.TorrentOptions{Peers: peers, Storage: func(info *metainfo.Info) (storage.Storage, error) {
		mem = storage.NewMemory(info.Geometry)
		return mem, nil
	}}
	var tor *parley.Torrent
	var err error
	if magnet {
		tor, err = c.AddInfoHash(f.mi.InfoHash, o)
	} else {
		tor, err = c.AddTorrent(f.mi, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tor, func() error {
		got := make([]byte, len(f.content))
		if _, err := mem.ReadAt(got, 0); err != nil {
			return err
		}
		if sha1.Sum(got) != sha1.Sum(f.content) || !bytes.Equal(got, f.content) {
			return errors.New("other content")
		}
		return nil
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// sockets is a stage of real sockets.
type sockets struct {
	addr netip.AddrPort
	log  *records
}

func (s sockets) dial(n int) (net.Conn, error) {
	var d net.Dialer
	if runtime.GOOS == "linux" { // everything below 127 is this machine: strangers come from addresses of their own
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 1, 0, byte(n+1))}
	}
	return d.Dial("tcp", s.addr.String())
}

func (s sockets) reason(local net.Addr) (error, bool) { return s.log.reason(local) }

// watch follows how much memory and how many goroutines there are.
type watch struct {
	heap, peakHeap uint64
	most           int
	stop           chan struct{}
	done           sync.WaitGroup
}

func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}} // as of the last collection: a flood brings about many
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func newWatch() *watch {
	runtime.GC()
	w := &watch{heap: heapBytes(), stop: make(chan struct{})}
	before := runtime.NumGoroutine()
	w.done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			w.peakHeap = max(w.peakHeap, heapBytes())
			w.most = max(w.most, runtime.NumGoroutine()-before)
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	})
	return w
}

// end stops watching and checks the bounds. It returns what the table says.
func (w *watch) end(t *testing.T) string {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	if grown := int64(w.peakHeap) - int64(w.heap); grown > memoryBound {
		t.Errorf("the heap grew by %s, want no more than %s", size(grown), size(memoryBound))
	}
	if w.most > goroutineBound {
		t.Errorf("%d goroutines were added, want no more than %d", w.most, goroutineBound)
	}
	return "+" + size(max(0, int64(w.peakHeap)-int64(w.heap)))
}

// run is an attack on a client; nil attacks nobody and finds out how fast an honest peer is served in peace.
func (f *field) run(t *testing.T, target attack.Target, at *attack.Attack) (rate float64, memory string, c *campaign) {
	log := newRecords()
	victim := client(t, parley.Config{Logger: slog.New(log), MaxMessageBytes: attack.MaxMessage})
	honest := client(t, parley.Config{})
	var tor, waits *parley.Torrent
	check := func() error { return nil }
	switch target {
	case attack.Seed:
		tor = f.seed(t, victim)
	case attack.Download, attack.Magnet:
		tor, check = f.leech(t, victim, target == attack.Magnet)
		f.seed(t, honest)
		if target == attack.Download {
			if err := tor.WaitMetadata(within(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := tor.Register(parley.MessageType{Name: attack.TypeName, Handler: func(ctx context.Context, _ *parley.Message) error {
		<-ctx.Done() // as slow as it may be
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var events sync.WaitGroup
	subscription := tor.Events(ctx)
	events.Go(func() {
		for e := range subscription {
			if e.Kind == parley.EventPeerDisconnected {
				log.end(e.Peer.Addr(), e.Err)
			}
		}
	})
	w := newWatch()
	var group sync.WaitGroup
	if at != nil {
		c = newCampaign(at, f.scene, sockets{victim.Addr(), log})
		for n := range attackers {
			group.Go(func() { c.attacker(t, n) })
		}
		for range attackers {
			<-c.begun
		}
	}
	began := time.Now()
	if target == attack.Seed {
		waits, check = f.leech(t, honest, false, victim.Addr())
	} else {
		waits = tor
		tor.AddPeers(honest.Addr())
	}
	if err := waits.WaitComplete(within(t)); err != nil {
		t.Errorf("the honest peer is not served: %v; %+v", err, waits.Stats())
	} else if err := check(); err != nil {
		t.Errorf("the honest peer: %v", err)
	}
	rate = float64(len(f.content)) / time.Since(began).Seconds()
	if c != nil {
		close(c.stop)
	}
	group.Wait()
	memory = w.end(t)
	if s := tor.Stats(); s.State != parley.StateSeeding || s.Err != nil {
		t.Errorf("afterwards: %+v", s)
	}
	cancel()
	events.Wait()
	log.mu.Lock()
	defer log.mu.Unlock()
	if n := len(log.loud); n > logBound {
		t.Errorf("%d records in the log, want no more than %d; the first: %q", n, logBound, log.loud[:5])
	}
	return rate, memory, c
}

// A client under attack by several strangers at once serves an honest peer all the same, keeps its memory bounded, and says little about it.
func TestAttacks(t *testing.T) {
	f := newField(t)
	var tb table
	for _, target := range []attack.Target{attack.Seed, attack.Download, attack.Magnet} {
		f.calm[target], _, _ = f.run(t, target, nil)
	}
	for _, at := range attack.All() {
		if at.Slow {
			continue
		}
		t.Run(at.Name, func(t *testing.T) {
			rate, memory, c := f.run(t, at.Against, &at)
			tb.add(row{at.Name, at.Limit, c.outcome(), memory, fmt.Sprintf("%.0f of %.0f MB/s", rate/1e6, f.calm[at.Against]/1e6)})
		})
	}
	tb.print(t)
}
