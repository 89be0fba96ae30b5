// Command peer is the side of the benchmarks that is ours: a small program on the public API, driven over its standard streams like
// the peers of other clients beside it.
//
//	peer seed  -torrent FILE -dir DIR            seeds DIR/NAME
//	peer leech -torrent FILE -dir DIR            downloads into DIR
//	peer recv  -torrent FILE -n N -size BYTES    receives N messages
//	peer send  -torrent FILE -n N -size BYTES    sends N messages, one Send call each
//	peer answer -torrent FILE -n N -size BYTES   answers N requests by as many bytes
//	peer ask   -torrent FILE -n N -size BYTES    makes N requests, one after the other
//	peer verify -torrent FILE -dir DIR           compares DIR/NAME with its hashes: "VERIFIED SECONDS CPU_SECONDS"
//	peer hash  -torrent FILE                     hashes as much memory on all cores, and says the same
//	peer many  -dir DIR -state DIR               seeds every .torrent of DIR, whose content lies there too: "SEEDING N"
//	peer cross -torrent FILE -dir DIR -large BYTES            seeds, and sends small and large messages to
//	peer watch -torrent FILE -large BYTES -pieces              who measures when they arrive, and blocks: see latency.go
//	peer dialects                                lists the dialects of messages that it can speak, and ends
//
// With -hello mse (RC4 alone) or -hello veil it neither dials nor accepts peers in any other way.
//
// It prints "READY HOST:PORT" when it listens (a seeder: when its data is verified). leech, send and ask then wait for a line "go HOST:PORT" and
// dial that peer. leech prints "DONE SECONDS" when every piece is in place; recv prints "RECV SECONDS CPU_SECONDS ALLOCATIONS", from its first message to
// its last, and send "SEND" with the same, from its first message to the acknowledgement that the receiver sends behind the last; answer prints
// "ANSWERED" and ask "ASKED", with the same from the first request on. A line "gc" collects garbage, returns free memory to the system and is answered with "GC". The program ends when standard input does. "ERR text"
// reports what went wrong.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bench/internal/usage"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
)

// messageType is the name under which libtorrent's side of the message benchmark registers too.
const messageType = "bench_msg"

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Println("ERR", err)
		os.Exit(1)
	}
}

type options struct {
	mode    string
	torrent string
	dir     string
	n       int64
	size    int
	profile string
	heap    string

	dialect   string
	hello     string
	idleTypes int
	idleDir   string
	crossing
}

type peer struct {
	options
	client *parley.Client
	mi     *metainfo.MetaInfo
}

func run(args []string, in io.Reader) (err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	modes := map[string]func(*peer, context.Context, <-chan netip.AddrPort) error{
		"seed": (*peer).seed, "leech": (*peer).leech, "recv": (*peer).receive, "send": (*peer).send, "answer": (*peer).answer, "ask": (*peer).ask,
		"cross": (*peer).cross, "watch": (*peer).watch, "verify": (*peer).verify, "hash": (*peer).hash, "many": (*peer).many}
	if len(args) == 1 && args[0] == "dialects" {
		fmt.Println(strings.Join(spoken, " "))
		return nil
	}
	if len(args) == 0 || modes[args[0]] == nil {
		return errors.New("want seed, leech, recv, send, answer, ask, cross, watch, verify, hash, many or dialects as the first argument")
	}
	p := &peer{options: options{mode: args[0]}}
	fs := flag.NewFlagSet(p.mode, flag.ContinueOnError)
	fs.StringVar(&p.torrent, "torrent", "", "the .torrent `FILE`")
	fs.StringVar(&p.dir, "dir", "", "where the content lies, or goes")
	fs.Int64Var(&p.n, "n", 0, "messages")
	fs.IntVar(&p.size, "size", 64, "bytes of a message")
	fs.StringVar(&p.profile, "cpuprofile", "", "write a CPU profile of the measured part to `FILE`")
	fs.StringVar(&p.heap, "memprofile", "", "write a heap profile to `FILE` at each line \"gc\"")
	fs.StringVar(&p.dialect, "dialect", "", "speak `DIALECT`, "+strings.Join(spoken, " or ")+", to peers that receive messages; empty is what two of us choose")
	fs.StringVar(&p.hello, "hello", "", "dial and accept by `HELLO` alone: plaintext, mse, with RC4, or veil; empty is what the client chooses")
	fs.IntVar(&p.idleTypes, "idle-types", 0, "recv: register so many other message types, which nobody uses")
	fs.StringVar(&p.idleDir, "idle-torrents", "", "recv: evenly in every .torrent of `DIR`, for which there are no peers")
	fs.IntVar(&p.large, "large", 0, "cross, watch: `BYTES` of a large message; 0 is none")
	fs.BoolVar(&p.pieces, "pieces", false, "watch: download")
	fs.DurationVar(&p.every, "every", 25*time.Millisecond, "cross, watch: from one small message to the next, and half as much again at most")
	fs.DurationVar(&p.settle, "settle", time.Second, "watch: how long it waits before it measures")
	fs.DurationVar(&p.window, "window", 5*time.Second, "watch: how long it measures")
	listen := fs.String("listen", "127.0.0.1:0", "`ADDR` to listen on")
	maxPeers := fs.Int("max-peers", 20000, "connected peers at most")
	state := fs.String("state", "", "remember in `DIR` what was verified")
	slots := fs.Int("upload-slots", 0, "peers served at once; 0 is the default")
	verbose := fs.Bool("v", false, "log everything to standard error")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	cfg := parley.Config{ListenAddr: *listen, MaxPeers: *maxPeers, StateDir: *state, UploadSlots: *slots}
	if plain := max(p.size, p.large); plain > 65534 { // the default
		cfg.MaxMessageBytes = min(plain, 1<<20-2) // in plain frames
	}
	if err := useDialect(&cfg, p.dialect); err != nil {
		return err
	}
	if p.hello != "" {
		h, err := parley.ParseHello(p.hello)
		if err != nil {
			return err
		}
		cfg.DialHellos, cfg.AcceptHellos, cfg.MSE = []parley.Hello{h}, []parley.Hello{h}, parley.MSEOnlyRC4
	}
	if *verbose {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if p.mode != "many" {
		if p.mi, err = parley.LoadTorrent(p.torrent); err != nil {
			return err
		}
	}
	if p.client, err = parley.NewClient(cfg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.client.Close()) }()

	dial := make(chan netip.AddrPort, 1)
	go func() { cancel(p.commands(in, dial)) }() // ends with standard input, or with the process
	err = modes[p.mode](p, ctx, dial)
	if err == nil {
		<-ctx.Done()
	}
	if cause := context.Cause(ctx); cause == io.EOF { // told to end, perhaps in the middle
		return nil
	} else if cause != nil {
		return cause
	}
	return err
}

// commands reads standard input until it ends.
func (p *peer) commands(in io.Reader, dial chan<- netip.AddrPort) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		word := strings.Fields(lines.Text())
		switch {
		case len(word) == 2 && word[0] == "go":
			addr, err := netip.ParseAddrPort(word[1])
			if err != nil {
				return fmt.Errorf("go: %w", err)
			}
			dial <- addr
		case len(word) == 1 && word[0] == "gc":
			debug.FreeOSMemory() // pools let go of their memory in the second collection
			debug.FreeOSMemory()
			if err := p.writeHeap(); err != nil {
				return err
			}
			fmt.Println("GC")
		default:
			return fmt.Errorf("unknown command %q", lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

func (p *peer) ready() { fmt.Println("READY", p.client.Addr()) }

// writeHeap writes the heap profile, if one is wanted, over the one before.
func (p *peer) writeHeap() error {
	if p.heap == "" {
		return nil
	}
	f, err := os.Create(p.heap)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// startProfile begins the CPU profile, if one is wanted; the result ends it.
func (p *peer) startProfile() (stop func() error, err error) {
	if p.profile == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(p.profile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

func (p *peer) seed(ctx context.Context, _ <-chan netip.AddrPort) error {
	t, err := p.client.SeedTorrent(ctx, p.mi, filepath.Join(p.dir, p.mi.Info.Name), parley.TorrentOptions{})
	if err != nil {
		return err
	}
	if err := t.WaitComplete(ctx); err != nil {
		return err
	}
	stop, err := p.startProfile()
	if err != nil {
		return err
	}
	p.ready()
	<-ctx.Done()
	return stop()
}

func (p *peer) leech(ctx context.Context, dial <-chan netip.AddrPort) error {
	p.ready()
	addr, err := receive(ctx, dial)
	if err != nil {
		return err
	}
	stop, err := p.startProfile()
	if err != nil {
		return err
	}
	start := time.Now()
	t, err := p.client.AddTorrent(p.mi, parley.TorrentOptions{Dir: p.dir, Peers: []netip.AddrPort{addr}})
	if err != nil {
		return err
	}
	if err := t.WaitComplete(ctx); err != nil {
		return err
	}
	fmt.Printf("DONE %.3f\n", time.Since(start).Seconds())
	return stop()
}

// verify compares the content with its hashes, as a seeder does when it starts.
func (p *peer) verify(ctx context.Context, _ <-chan netip.AddrPort) error {
	stop, err := p.startProfile()
	if err != nil {
		return err
	}
	m := usage.StartMeter()
	t, err := p.client.SeedTorrent(ctx, p.mi, filepath.Join(p.dir, p.mi.Info.Name), parley.TorrentOptions{})
	if err != nil {
		return err
	}
	if err := t.WaitComplete(ctx); err != nil {
		return err
	}
	m.Report("VERIFIED")
	return stop()
}

// hash hashes as many pieces as the torrent has, each in its length, on all cores and in a buffer that stays in the cache.
func (p *peer) hash(_ context.Context, _ <-chan netip.AddrPort) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	g := p.mi.Info.Geometry
	m := usage.StartMeter()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			buf := make([]byte, 128<<10)
			rand.Read(buf)
			for {
				i := next.Add(1) - 1
				if i >= int64(g.NumPieces()) {
					return
				}
				h := sha1.New()
				for left := int(g.PieceLen(bt.PieceIndex(i))); left > 0; left -= len(buf) {
					h.Write(buf[:min(left, len(buf))])
				}
				h.Sum(nil)
			}
		})
	}
	wg.Wait()
	m.Report("VERIFIED")
	return nil
}

// many seeds every torrent of a folder.
func (p *peer) many(ctx context.Context, _ <-chan netip.AddrPort) error {
	stop, err := p.startProfile()
	if err != nil {
		return err
	}
	list, err := filepath.Glob(filepath.Join(p.dir, "*.torrent"))
	if err != nil {
		return err
	}
	var all []*parley.Torrent
	for _, path := range list {
		mi, err := parley.LoadTorrent(path)
		if err != nil {
			return err
		}
		t, err := p.client.SeedTorrent(ctx, mi, filepath.Join(p.dir, mi.Info.Name), parley.TorrentOptions{})
		if err != nil {
			return err
		}
		all = append(all, t)
	}
	for _, t := range all {
		if err := t.WaitComplete(ctx); err != nil {
			return err
		}
	}
	fmt.Println("SEEDING", len(all))
	<-ctx.Done()
	return stop()
}

// counter counts the messages or requests that arrive, and measures from the first to the last. What it counts comes one after the other.
type counter struct {
	p    *peer
	word string // what the report begins with
	got  int64
	m    usage.Meter
	stop func() error // ends the profile
	done chan error
}

func (p *peer) newCounter(word string) *counter {
	return &counter{p: p, word: word, done: make(chan error, 1)}
}

// count takes one message. At the last one it reports, and the caller calls end once that is answered.
func (c *counter) count(msg *parley.Message) (last bool, err error) {
	if len(msg.Payload) != c.p.size {
		return false, c.end(fmt.Errorf("message %d: %d bytes, want %d", c.got, len(msg.Payload), c.p.size))
	}
	if c.got++; c.got == 1 {
		if c.stop, err = c.p.startProfile(); err != nil {
			return false, c.end(err)
		}
		c.m = usage.StartMeter()
	}
	if c.got == c.p.n {
		c.m.Report(c.word)
		return true, nil
	}
	return false, nil
}

// end lets the program know how it ended, and returns err.
func (c *counter) end(err error) error {
	if c.stop != nil {
		err = errors.Join(err, c.stop())
	}
	select {
	case c.done <- err:
	default: // it ended already
	}
	return err
}

// wait waits for the end.
func (c *counter) wait(ctx context.Context) error {
	err, waitErr := receive(ctx, c.done)
	return errors.Join(err, waitErr)
}

// join adds the torrent without downloading it, and registers the message type there.
func (p *peer) join(mt parley.MessageType) (*parley.Torrent, *parley.Type, error) {
	t, err := p.client.AddTorrent(p.mi, parley.TorrentOptions{Dir: p.dir, NoDownload: true})
	if err != nil {
		return nil, nil, err
	}
	mt.Name = messageType
	ty, err := t.Register(mt)
	return t, ty, err
}

func (p *peer) receive(ctx context.Context, _ <-chan netip.AddrPort) error {
	if err := p.addIdleTypes(); err != nil {
		return err
	}
	c := p.newCounter("RECV")
	if _, _, err := p.join(parley.MessageType{Handler: func(ctx context.Context, msg *parley.Message) error {
		last, err := c.count(msg)
		if last {
			return c.end(msg.Peer.Send(ctx, messageType, binary.BigEndian.AppendUint64(nil, uint64(p.n))))
		}
		return err
	}}); err != nil {
		return err
	}
	p.ready()
	return c.wait(ctx)
}

// addIdleTypes registers message types in torrents that nobody else has.
func (p *peer) addIdleTypes() error {
	if p.idleTypes == 0 {
		return nil
	}
	list, err := filepath.Glob(filepath.Join(p.idleDir, "*.torrent"))
	if err != nil {
		return err
	}
	if len(list) == 0 || p.idleTypes%len(list) != 0 {
		return fmt.Errorf("%d message types in %d torrents: want the same number in each", p.idleTypes, len(list))
	}
	ignore := func(context.Context, *parley.Message) error { return nil }
	for _, path := range list {
		mi, err := parley.LoadTorrent(path)
		if err != nil {
			return err
		}
		t, err := p.client.AddTorrent(mi, parley.TorrentOptions{Dir: p.dir, NoDownload: true})
		if err != nil {
			return err
		}
		for i := range p.idleTypes / len(list) {
			// Short names: the types of a torrent must fit into one exchange.
			if _, err := t.Register(parley.MessageType{Name: "i" + strconv.FormatInt(int64(i), 36), Handler: ignore}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *peer) answer(ctx context.Context, _ <-chan netip.AddrPort) error {
	c := p.newCounter("ANSWERED")
	answer := make([]byte, p.size)
	var mt parley.MessageType
	answerWith(&mt, func(msg *parley.Message) ([]byte, error) {
		last, err := c.count(msg)
		if last {
			err = c.end(nil)
		}
		return answer, err
	})
	if _, _, err := p.join(mt); err != nil {
		return err
	}
	p.ready()
	return c.wait(ctx)
}

func (p *peer) send(ctx context.Context, dial <-chan netip.AddrPort) error {
	acks := make(chan uint64, 1)
	t, ty, err := p.join(parley.MessageType{Handler: func(_ context.Context, msg *parley.Message) error {
		if len(msg.Payload) != 8 {
			return fmt.Errorf("acknowledgement of %d bytes", len(msg.Payload))
		}
		acks <- binary.BigEndian.Uint64(msg.Payload)
		return nil
	}})
	if err != nil {
		return err
	}
	p.ready()
	to, err := p.meet(ctx, t, dial)
	if err != nil {
		return err
	}
	stop, err := p.startProfile()
	if err != nil {
		return err
	}
	payload := make([]byte, p.size)
	m := usage.StartMeter()
	for i := range p.n {
		if err := ty.Send(ctx, to, payload); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
	}
	n, err := receive(ctx, acks)
	if err != nil {
		return err
	}
	if n != uint64(p.n) {
		return fmt.Errorf("%d messages acknowledged, want %d", n, p.n)
	}
	m.Report("SEND")
	return stop()
}

func (p *peer) ask(ctx context.Context, dial <-chan netip.AddrPort) error {
	t, ty, err := p.join(parley.MessageType{})
	if err != nil {
		return err
	}
	p.ready()
	to, err := p.meet(ctx, t, dial)
	if err != nil {
		return err
	}
	stop, err := p.startProfile()
	if err != nil {
		return err
	}
	payload := make([]byte, p.size)
	m := usage.StartMeter()
	for i := range p.n {
		answer, err := ty.Request(ctx, to, payload, p.size)
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if len(answer) != p.size {
			return fmt.Errorf("request %d: an answer of %d bytes, want %d", i, len(answer), p.size)
		}
	}
	m.Report("ASKED")
	return stop()
}

// meet waits for the command to dial, and then for the peer there to announce the message type.
func (p *peer) meet(ctx context.Context, t *parley.Torrent, dial <-chan netip.AddrPort) (parley.Peer, error) {
	addr, err := receive(ctx, dial)
	if err != nil {
		return parley.Peer{}, err
	}
	to, err := sharing(ctx, t, addr)
	if err != nil {
		return parley.Peer{}, err
	}
	if got := to.Info().Dialect.String(); p.dialect != "" && got != p.dialect {
		return parley.Peer{}, fmt.Errorf("the session speaks %s, want %s", got, p.dialect)
	}
	if got := to.Info().Hello.String(); p.hello != "" && got != p.hello {
		return parley.Peer{}, fmt.Errorf("the session began with %s, want %s", got, p.hello)
	}
	return to, nil
}

// sharing dials addr and waits for the peer there to announce the message type.
func sharing(ctx context.Context, t *parley.Torrent, addr netip.AddrPort) (parley.Peer, error) {
	t.AddPeers(addr)
	for e := range t.Events(ctx) {
		switch e.Kind {
		case parley.EventPeerConnected, parley.EventPeerTypes:
			if e.Peer.Shares(messageType) {
				return e.Peer, nil
			}
		case parley.EventDialFailed, parley.EventError:
			return parley.Peer{}, fmt.Errorf("%v %s: %w", e.Kind, addr, e.Err)
		}
	}
	return parley.Peer{}, fmt.Errorf("no peer with type %s: %w", messageType, orClosed(context.Cause(ctx)))
}

// orClosed returns err, or that the torrent was closed, which ends its events too.
func orClosed(err error) error {
	if err != nil {
		return err
	}
	return parley.ErrClosed
}

// receive takes one value from ch, unless ctx ends first.
func receive[T any](ctx context.Context, ch <-chan T) (T, error) {
	select {
	case v := <-ch:
		return v, nil
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}
