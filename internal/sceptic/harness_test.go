package sceptic

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/leaktest"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// appID is the extended id under which either side takes application messages.
const appID = 20

var geometry = must(bt.NewGeometry(64*bt.BlockBytes, bt.BlockBytes))

// latency is how long a byte travels.
const latency = 20 * time.Millisecond

// hosts runs connections in a bubble, with all that they share.
type hosts struct {
	opts   peerconn.Options
	group  sync.WaitGroup
	drains peerconn.Drains
	done   chan struct{}
	timers sync.WaitGroup

	// What a test may replace.
	scan func(c *peerconn.Conn) error // waits for the right to scan
	key  func(c *peerconn.Conn) error

	mu      sync.Mutex
	ends    map[*peerconn.Conn]error
	refused int
	proven  func(c *peerconn.Conn) // of a veiled hello whose first record has opened
	session func(s *session)       // changes a responder's session before it is used

	onRefused func(err error)
}

func newHosts() *hosts {
	h := &hosts{done: make(chan struct{}), ends: map[*peerconn.Conn]error{}}
	timers := peerconn.NewTimers(time.Now)
	h.opts = peerconn.Options{Host: h, Timers: timers, Group: &h.group, SendQueueBytes: 1 << 20, Now: time.Now, Drains: &h.drains}
	h.timers.Go(func() { timers.Run(h.done) })
	return h
}

// close waits until all connections have ended.
func (h *hosts) close() {
	h.group.Wait()
	close(h.done)
	h.timers.Wait()
}

// accept runs the responder's end of a connection, as a client does.
func (h *hosts) accept(nc net.Conn, accept wire.Hellos, rng *rand.ChaCha8) *peerconn.Conn {
	wait := peer.MinHelloTimeout + time.Duration(rand.New(rng).Int64N(int64(peer.MaxHelloTimeout-peer.MinHelloTimeout)+1))
	return peerconn.Start(nc, &h.opts, peer.Config{Role: peer.Responder, PeerID: bt.PeerID{'r'}, Reserved: rawpeer.LTEP, HelloTimeout: wait, KeepAlive: 80 * time.Second},
		&peer.OpeningConfig{Accept: accept, Rand: rng}, nil)
}

// dial runs the initiator's.
func (h *hosts) dial(nc net.Conn, hello wire.Hello, s *session, rng io.Reader) *peerconn.Conn {
	return peerconn.Start(nc, &h.opts, peer.Config{Role: peer.Initiator, PeerID: bt.PeerID{'i'}, Reserved: rawpeer.LTEP, HelloTimeout: peer.InitiatorTimeout, KeepAlive: 80 * time.Second,
		Local: peer.Local{InfoHash: bt.InfoHash(ih), Geometry: geometry}, Hello: hello}, &peer.OpeningConfig{Hello: hello, Secret: ih, Rand: rng}, s)
}

func (h *hosts) Accept(c *peerconn.Conn, hello wire.Hello, asked bt.InfoHash) (peerconn.Session, peer.Local, error) {
	if asked != bt.InfoHash(ih) {
		return nil, peer.Local{}, peer.ErrUnknownTorrent
	}
	if hello == wire.HelloVeil && h.proven != nil {
		h.proven(c)
	}
	s := &session{h: h}
	if h.session != nil {
		h.session(s)
	}
	return s, peer.Local{Geometry: geometry}, nil
}

func (h *hosts) Scan(c *peerconn.Conn, hello *[veil.HelloBytes]byte) (*veil.Secret, bt.InfoHash, error) {
	if h.scan != nil {
		if err := h.scan(c); err != nil {
			return nil, bt.InfoHash{}, err
		}
	}
	if veil.Find(hello[:], []veil.Secret{ih}) < 0 {
		return nil, bt.InfoHash{}, nil
	}
	return new(ih), bt.InfoHash(ih), nil
}

func (h *hosts) KeyExchange(c *peerconn.Conn) error {
	if h.key != nil {
		return h.key(c)
	}
	return nil
}

func (h *hosts) SKEY(hash [20]byte) ([20]byte, bool) { return ih, hash == mse.Req2((*[20]byte)(&ih)) }

func (h *hosts) Refused(c *peerconn.Conn, err error) {
	h.mu.Lock()
	h.refused++
	h.ends[c] = err
	h.mu.Unlock()
	if h.onRefused != nil {
		h.onRefused(err)
	}
}

// session is one connection's, on either side.
type session struct {
	h      *hosts
	veiled bool
	app    func(payload []byte)
	opened func(c *peerconn.Conn)
	ended  func(err error)
}

var _ peerconn.Session = (*session)(nil)
var _ peerconn.Host = (*hosts)(nil)

// exchange is what both sides send after a hello.
func exchange(id bt.PeerID) ltep.Exchange {
	o := emp.Offer{Version: 1, Requests: -1, HasPeerID: true, PeerID: id, HasReserved: true, Reserved: rawpeer.LTEP}
	return ltep.Exchange{M: []ltep.Entry{{Name: "app", ID: appID}}, EMP: emp.AppendOffer(nil, &o)}
}

func (s *session) exchange(c *peerconn.Conn) {
	use := &peer.WeUse{}
	use.MaxBytes[appID] = 1 << 20
	e := exchange(bt.PeerID{'s'})
	c.Do(func(m *peer.Machine) { m.SendExchange(&e, use) })
}

func (s *session) Veiled(c *peerconn.Conn) {
	if !s.veiled {
		s.veiled = true
		s.exchange(c)
	}
}

func (s *session) Open(c *peerconn.Conn) {
	if !s.veiled {
		s.exchange(c)
	}
	if s.opened != nil {
		s.opened(c)
	}
}

func (s *session) App(_ uint8, payload []byte) {
	if s.app != nil {
		s.app(payload)
	}
}

func (s *session) Closed(c *peerconn.Conn, err error) {
	s.h.mu.Lock()
	s.h.ends[c] = err
	s.h.mu.Unlock()
	if s.ended != nil {
		s.ended(err)
	}
}

func (s *session) Mux(*peer.Machine, *peer.MuxEvent)           {}
func (s *session) Shared(peer.Shared)                          {}
func (s *session) AppsDone()                                   {}
func (s *session) Interrupt()                                  {}
func (s *session) Deliver(_ *peerconn.Conn, b *peerconn.Batch) { b.Discard() }
func (s *session) ReadBlock([]byte, bt.Block) error            { return errors.New("no blocks here") }
func (s *session) Uploaded(int)                                {}
func (s *session) Metadata() []byte                            { return nil }
func (s *session) UploadGroup() *peerconn.Group                { return nil }
func (s *session) DownloadGroup() *peerconn.Group              { return nil }
func (s *session) Hashes(dst []byte, _ wire.HashSpan) ([]byte, error) {
	return dst, errors.New("no hashes here")
}

// A prober is one end of a connection, which notes what comes and when.
type prober struct {
	nc      net.Conn
	rng     *rand.ChaCha8
	start   time.Time
	written int
	news    chan struct{} // one place

	mu      sync.Mutex
	got     []byte
	flights int // what came at different times
	early   bool
	first   time.Duration // when the first byte was there; 0 if none came
	last    time.Duration
	closed  time.Duration // when the end of the stream was there
}

func newProber(nc net.Conn, rng *rand.ChaCha8) *prober {
	return &prober{nc: nc, rng: rng, start: time.Now(), news: make(chan struct{}, 1)}
}

// listen reads until the connection ends.
func (p *prober) listen() {
	buf := make([]byte, 64<<10)
	for {
		n, err := p.nc.Read(buf)
		at := time.Since(p.start)
		p.mu.Lock()
		if n > 0 {
			if p.flights == 0 || at != p.last {
				p.flights++
			}
			if p.first == 0 {
				p.first = at
				p.early = p.written < veil.HelloBytes
			}
			p.got, p.last = append(p.got, buf[:n]...), at
		}
		if err != nil {
			p.closed = at
		}
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
		if err != nil {
			p.nc.Close()
			return
		}
	}
}

// need waits for n bytes and returns them, which are less if the connection ends.
func (p *prober) need(n int) []byte {
	for {
		p.mu.Lock()
		b, closed := p.got, p.closed != 0
		p.mu.Unlock()
		if len(b) >= n || closed {
			return b
		}
		<-p.news
	}
}

func (p *prober) write(b []byte) {
	p.mu.Lock()
	p.written += len(b)
	p.mu.Unlock()
	p.nc.Write(b) // who writes to a closed end finds out by reading
}

// until waits until so much time has passed since the start.
func (p *prober) until(d time.Duration) { time.Sleep(d - time.Since(p.start)) }

// pipe makes a connection.
func pipe(seed uint64) (a, b net.Conn) {
	return simnet.Pipe(seed, simnet.Link{Latency: latency, Buffer: 1 << 20})
}

// number makes an application message of n bytes.
func number(i, n int) []byte {
	b := make([]byte, max(4, n))
	binary.BigEndian.PutUint32(b, uint32(i))
	return b
}

func appFrame(i, n int) []byte {
	return classic.AppendExtended(nil, wire.Extended{ID: appID, Payload: number(i, n)})
}

func exchangeFrame() []byte {
	e := exchange(bt.PeerID{'p'})
	return classic.AppendExtended(nil, wire.Extended{ID: ltep.ExchangeID, Payload: ltep.AppendExchange(nil, &e)})
}
