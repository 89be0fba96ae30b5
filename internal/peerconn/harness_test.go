package peerconn

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

var (
	infoHash = bt.InfoHash{1, 2, 3}
	ourID    = bt.PeerID{'u', 's'}
	theirID  = bt.PeerID{'t', 'h', 'e', 'm'}
)

// appID is the extended id under which either side accepts application messages.
const appID = 20

// The session's torrent: 64 pieces of one block.
var geometry = func() bt.Geometry {
	g, err := bt.NewGeometry(64*bt.BlockBytes, bt.BlockBytes)
	if err != nil {
		panic(err)
	}
	return g
}()

// side is one connection with its session and host, and what they were told. Its functions may be set before it is started.
type side struct {
	onOpen             func(c *Conn)
	onApp              func(payload []byte)
	onDone             func()
	onMux              func(m *peer.Machine, ev *peer.MuxEvent)
	onDeliver          func(*Batch)
	readBlock          func(dst []byte, b bt.Block) error
	metadata           []byte
	upGroup, downGroup *Group
	hashes             func(dst []byte, s wire.HashSpan) ([]byte, error)

	opts   Options
	group  sync.WaitGroup
	conn   *Conn
	opened chan struct{}

	opening         *peer.OpeningConfig
	onVeiled        func(*Conn)
	scanErr, keyErr error

	mu          sync.Mutex
	ends        []error // of Closed and Refused
	kinds       []wire.Kind
	uploaded    int
	interrupted bool
	types       map[string]uint8
	shared      peer.Shared
}

var _ Session = (*side)(nil)
var _ Host = (*side)(nil)

func (s *side) Open(c *Conn) {
	if s.onOpen != nil {
		s.onOpen(c)
	}
	close(s.opened)
}

func (s *side) Veiled(c *Conn) {
	if s.onVeiled != nil {
		s.onVeiled(c)
	}
}

func (s *side) Scan(_ *Conn, hello *[veil.HelloBytes]byte) (*veil.Secret, bt.InfoHash, error) {
	if s.scanErr != nil {
		return nil, bt.InfoHash{}, s.scanErr
	}
	secret := veil.Secret(infoHash)
	if veil.Find(hello[:], []veil.Secret{secret}) < 0 {
		return nil, bt.InfoHash{}, nil
	}
	return &secret, infoHash, nil
}

func (s *side) KeyExchange(*Conn) error { return s.keyErr }

func (s *side) SKEY(hash [20]byte) ([20]byte, bool) {
	skey := [20]byte(infoHash)
	return skey, hash == mse.Req2(&skey)
}

func (s *side) App(_ uint8, payload []byte) {
	if s.onApp != nil {
		s.onApp(payload)
	}
}

func (s *side) Mux(m *peer.Machine, ev *peer.MuxEvent) {
	if s.onMux != nil {
		s.onMux(m, ev)
	}
}

func (s *side) Shared(shared peer.Shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.types, s.shared = shared.Plain, shared
}

func (s *side) AppsDone() {
	if s.onDone != nil {
		s.onDone()
	}
}

func (s *side) Interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted = true
}

func (s *side) Deliver(_ *Conn, b *Batch) {
	s.mu.Lock()
	for _, e := range b.Events {
		s.kinds = append(s.kinds, e.Kind)
	}
	s.mu.Unlock()
	if s.onDeliver != nil {
		s.onDeliver(b)
	}
	b.Discard()
}

func (s *side) ReadBlock(dst []byte, b bt.Block) error {
	if s.readBlock != nil {
		return s.readBlock(dst, b)
	}
	clear(dst)
	return nil
}

func (s *side) Uploaded(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploaded += n
}

func (s *side) Metadata() []byte { return s.metadata }

func (s *side) UploadGroup() *Group { return s.upGroup }

func (s *side) DownloadGroup() *Group { return s.downGroup }

func (s *side) Hashes(dst []byte, span wire.HashSpan) ([]byte, error) {
	if s.hashes == nil {
		return nil, errors.New("none here")
	}
	return s.hashes(dst, span)
}

func (s *side) Closed(_ *Conn, err error) { s.ended(err) }

func (s *side) Accept(_ *Conn, _ wire.Hello, ih bt.InfoHash) (Session, peer.Local, error) {
	if ih != infoHash {
		return nil, peer.Local{}, peer.ErrUnknownTorrent
	}
	return s, peer.Local{Geometry: geometry}, nil
}

func (s *side) Refused(_ *Conn, err error) { s.ended(err) }

func (s *side) ended(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, err)
}

// start runs s over nc. The test's end closes it, waits for it, and checks that its end was told once.
func (s *side) start(t testing.TB, nc net.Conn, change ...func(*peer.Config)) *side {
	t.Helper()
	s.opened = make(chan struct{})
	now := s.opts.Now
	if now == nil {
		now = time.Now
	}
	timers, stop := NewTimers(now), make(chan struct{})
	queue := s.opts.SendQueueBytes
	if queue == 0 {
		queue = 1 << 20
	}
	s.opts = Options{Drains: s.opts.Drains, OwnIVs: s.opts.OwnIVs, Host: s, Timers: timers, Group: &s.group, SendQueueBytes: queue, Now: now}
	cfg := peer.Config{Role: peer.Responder, PeerID: ourID, Reserved: rawpeer.LTEP, HelloTimeout: 20 * time.Second, KeepAlive: 80 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	var own Session
	if cfg.Role == peer.Initiator {
		own = s
	}
	var run sync.WaitGroup
	run.Go(func() { timers.Run(stop) })
	s.conn = Start(nc, &s.opts, cfg, s.opening, own)
	t.Cleanup(func() {
		s.conn.Close(nil)
		s.group.Wait()
		close(stop)
		run.Wait()
		if len(timers.heap) != 0 {
			t.Errorf("%d connections still stand in the timers", len(timers.heap))
		}
		if len(s.ends) != 1 {
			t.Errorf("the end was told %d times, want once: %v", len(s.ends), s.ends)
		}
	})
	return s
}

// initiator makes a side that opened its connection.
func initiator(cfg *peer.Config) {
	cfg.Role, cfg.HelloTimeout = peer.Initiator, peer.InitiatorTimeout
	cfg.Local = peer.Local{InfoHash: infoHash, Geometry: geometry}
}

// wait waits until the connection has ended and returns why.
func (s *side) wait() error {
	s.group.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ends) == 0 {
		return errors.New("the end was not told")
	}
	return s.ends[0]
}

// open greets the raw peer and exchanges types: application messages may go both ways.
func (s *side) open(t testing.TB, raw *rawpeer.Peer) {
	t.Helper()
	if _, err := raw.Greet(infoHash, theirID, rawpeer.LTEP); err != nil {
		t.Fatalf("hello: %v", err)
	}
	<-s.opened
	use := &peer.WeUse{}
	use.MaxBytes[appID] = 1 << 20
	s.conn.Do(func(m *peer.Machine) {
		if err := m.SendExchange(&ltep.Exchange{M: []ltep.Entry{{Name: "app", ID: appID}}}, use); err != nil {
			t.Errorf("exchange: %v", err)
		}
	})
	if err := raw.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: "app", ID: appID}}}); err != nil {
		t.Fatalf("exchange: %v", err)
	}
	if _, err := raw.UntilExchange(); err != nil {
		t.Fatalf("their exchange: %v", err)
	}
}

// transport makes the two ends of a connection.
type transport func(t testing.TB) (a, b net.Conn)

func overTCP(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func overSimnet(testing.TB) (a, b net.Conn) { return simnet.Pipe(1, simnet.Link{Split: 1000}) }

// overPipe has no buffer, and no CloseWrite.
func overPipe(testing.TB) (a, b net.Conn) { return net.Pipe() }

// number makes a message that carries a number, of n bytes or 4.
func number(i, n int) []byte {
	b := make([]byte, max(4, n))
	binary.BigEndian.PutUint32(b, uint32(i))
	return b
}

// wantNumbers reads application messages until the end of the stream and checks that they are 0 to n-1.
func wantNumbers(t testing.TB, raw *rawpeer.Peer, n int) {
	t.Helper()
	next := 0
	for {
		m, err := raw.Read()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("after %d messages: %v, want the end of the stream", next, err)
			}
			break
		}
		x, ok := m.(*wire.Extended)
		if !ok || x.ID != appID {
			continue
		}
		if got := int(binary.BigEndian.Uint32(x.Payload)); got != next {
			t.Fatalf("message %d came as number %d", got, next)
		}
		next++
	}
	if next != n {
		t.Errorf("%d messages came, want %d", next, n)
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
