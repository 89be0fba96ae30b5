package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// The mode "cross" is a seeder that sends messages as well, and "watch" the peer at the other end of the link, which measures when what crosses it arrives. Both are on one
// machine and read one clock.

// The types of messages that cross, beside messageType, by which watch says that it is there.
const (
	typeSmall = "bench_small" // when it was due, by the sender's clock
	typeLarge = "bench_large"
	typeAsk   = "bench_ask" // answered by as much
	small     = 64          // bytes of a message, of a request and of its answer
)

// crossing is what the flags of the two modes say.
type crossing struct {
	large  int           // bytes of a large message, one after the other; 0 is none
	pieces bool          // they are downloaded
	every  time.Duration // from one small message to the next, and half as much again at most
	settle time.Duration // before the measurement
	window time.Duration // of the measurement
}

// tick calls f again and again, each time on a goroutine of its own, whatever became of those before: what is late must not keep back what would be late too.
func (c crossing) tick(ctx context.Context, f func(due time.Time)) {
	var calls sync.WaitGroup
	defer calls.Wait()
	for due := time.Now(); ; due = due.Add(c.every + rand.N(c.every/2+1)) {
		select {
		case <-time.After(time.Until(due)):
			calls.Go(func() { f(due) })
		case <-ctx.Done():
			return
		}
	}
}

// cross seeds, and sends messages to the peer that says that it is there.
func (p *peer) cross(ctx context.Context, _ <-chan netip.AddrPort) error {
	t, err := p.client.SeedTorrent(ctx, p.mi, filepath.Join(p.dir, p.mi.Info.Name), parley.TorrentOptions{})
	if err != nil {
		return err
	}
	if err := t.WaitComplete(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan error, 1)
	fail := func(err error) {
		if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) { // watch goes first
			select {
			case failed <- err:
			default:
			}
		}
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	begin := func(_ context.Context, msg *parley.Message) error {
		to := msg.Peer
		work.Go(func() {
			p.tick(ctx, func(due time.Time) {
				b := make([]byte, small)
				binary.BigEndian.PutUint64(b, uint64(due.UnixNano()))
				fail(to.Send(ctx, typeSmall, b))
			})
		})
		if p.large > 0 {
			work.Go(func() {
				for big, err := make([]byte, p.large), error(nil); err == nil; {
					err = to.Send(ctx, typeLarge, big)
					fail(err)
				}
			})
		}
		return nil
	}
	ask := parley.MessageType{Name: typeAsk}
	answerWith(&ask, func(m *parley.Message) ([]byte, error) { return m.Payload, nil })
	for _, mt := range []parley.MessageType{ask, {Name: messageType, Handler: begin}} {
		if _, err := t.Register(mt); err != nil {
			return err
		}
	}
	p.ready()
	err, _ = receive(ctx, failed)
	return err
}

// record is durations that were measured within the window.
type record struct {
	mu   sync.Mutex
	list []time.Duration
}

func (r *record) add(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, d)
}

// report says the record's middle, its 95th of a hundred and its largest in milliseconds, and how many there are.
func (r *record) report(b *strings.Builder, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.list)
	if n == 0 {
		return
	}
	slices.Sort(r.list)
	for _, q := range []struct {
		name string
		at   int
	}{{"50", n / 2}, {"95", n * 95 / 100}, {"max", n - 1}} {
		fmt.Fprintf(b, " %s_%s=%.3f", name, q.name, r.list[q.at].Seconds()*1000)
	}
	fmt.Fprintf(b, " %s_n=%d", name, n)
}

// meeting is what watch measures.
type meeting struct {
	from, to           atomic.Int64 // the window, nanoseconds of the clock
	small, trips, gaps record
	pieces, large      atomic.Int64 // bytes within the window

	mu          sync.Mutex
	lastBlock   time.Time
	first, last time.Time // see whole
}

func (m *meeting) open(now time.Time) bool {
	t := now.UnixNano()
	return t >= m.from.Load() && t < m.to.Load()
}

// block takes note of a block.
func (m *meeting) block(n int) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open(now) {
		m.pieces.Add(int64(n))
		if !m.lastBlock.IsZero() {
			m.gaps.add(now.Sub(m.lastBlock))
		}
	}
	m.lastBlock = now
}

// blocks is a storage that takes note of what is written: in a torrent of one block a piece, each block when it has come.
type blocks struct {
	storage.Storage
	m *meeting
}

// WriteAt implements [storage.Storage].
func (s blocks) WriteAt(p []byte, off int64) (int, error) {
	s.m.block(len(p))
	return s.Storage.WriteAt(p, off)
}

// watch prints "CROSSED" and, as NAME=NUMBER each, milliseconds and bytes a second.
func (p *peer) watch(ctx context.Context, dial <-chan netip.AddrPort) error {
	var m meeting
	t, err := p.client.AddTorrent(p.mi, parley.TorrentOptions{NoDownload: !p.pieces, Storage: func(i *metainfo.Info) (storage.Storage, error) {
		return blocks{storage.NewMemory(i.Geometry), &m}, nil
	}})
	if err != nil {
		return err
	}
	large := parley.MessageType{Name: typeLarge, MaxBytes: p.large}
	if p.dialect == "ltep" { // where messages come whole
		large.Handler = m.whole
	} else {
		large.Stream = m.stream
	}
	if _, err := t.Register(large); err != nil {
		return err
	}
	if _, err := t.Register(parley.MessageType{Name: typeSmall, Handler: m.message}); err != nil {
		return err
	}
	ask, err := t.Register(parley.MessageType{Name: typeAsk})
	if err != nil {
		return err
	}
	p.ready()
	to, err := p.meet(ctx, t, dial)
	if err != nil {
		return err
	}
	if err := to.Send(ctx, messageType, nil); err != nil {
		return err
	}
	begin := time.Now().Add(p.settle)
	end := begin.Add(p.window)
	m.from.Store(begin.UnixNano())
	m.to.Store(end.UnixNano())
	window, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	if p.dialect == "ltep" { // which has no requests
		<-window.Done()
	} else {
		p.tick(window, func(due time.Time) {
			if _, err := ask.Request(window, to, make([]byte, small), small); err == nil && m.open(time.Now()) {
				m.trips.add(time.Since(due))
			}
		})
	}
	fmt.Println("CROSSED" + m.report(p.window))
	return context.Cause(ctx)
}

// message takes a small message.
func (m *meeting) message(_ context.Context, msg *parley.Message) error {
	if len(msg.Payload) != small {
		return fmt.Errorf("%d bytes, want %d", len(msg.Payload), small)
	}
	if now := time.Now(); m.open(now) {
		m.small.add(now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(msg.Payload)))))
	}
	return nil
}

// stream takes a large message as it comes.
func (m *meeting) stream(_ context.Context, _ *parley.Message, r io.Reader) error {
	for buf := make([]byte, 16<<10); ; {
		n, err := r.Read(buf)
		if m.open(time.Now()) {
			m.large.Add(int64(n))
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// whole takes a large message that comes whole. Where several do within the window, what counts is those behind the first, and the time from its end.
func (m *meeting) whole(_ context.Context, msg *parley.Message) error {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.open(now) {
		return nil
	}
	if m.first.IsZero() {
		m.first = now
	} else {
		m.large.Add(int64(len(msg.Payload)))
		m.last = now
	}
	return nil
}

// report says what was measured.
func (m *meeting) report(window time.Duration) string {
	var b strings.Builder
	m.small.report(&b, "small")
	m.trips.report(&b, "trip")
	m.gaps.report(&b, "gap")
	m.mu.Lock()
	defer m.mu.Unlock()
	largeIn := window
	if !m.last.IsZero() {
		largeIn = m.last.Sub(m.first)
	}
	fmt.Fprintf(&b, " pieces=%.0f large=%.0f", float64(m.pieces.Load())/window.Seconds(), float64(m.large.Load())/largeIn.Seconds())
	return b.String()
}
