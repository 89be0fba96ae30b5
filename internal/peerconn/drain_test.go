package peerconn

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// byHand is an end of a connection that the test drives.
type byHand struct {
	t *testing.T
	net.Conn
	sealer obfs.Sealer
	came   atomic.Int64
	ended  chan time.Time // capacity 1: when the other side closed
}

// newByHand returns the other end of a connection that belongs to s, whose connection it starts.
func newByHand(t *testing.T, s *side, link simnet.Link, change ...func(*peer.Config)) *byHand {
	a, b := simnet.Pipe(1, link)
	s.start(t, a, change...)
	t.Cleanup(func() { b.Close() })
	return &byHand{t: t, Conn: b, ended: make(chan time.Time, 1)}
}

// read reads what comes until the other side closes.
func (r *byHand) read() {
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if r.came.Add(int64(n)); err != nil {
				r.ended <- time.Now()
				return
			}
		}
	}()
}

// closed reports whether the other side has closed.
func (r *byHand) closed() bool {
	synctest.Wait()
	return len(r.ended) > 0
}

// seal makes a record.
func (r *byHand) seal(frames []byte) []byte {
	return r.sealer.Seal(nil, append(make([]byte, obfs.Headroom), frames...))
}

func (r *byHand) write(b []byte) {
	r.t.Helper()
	if _, err := r.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

// spoil sends a record that does not open.
func (r *byHand) spoil() {
	r.t.Helper()
	b := r.seal(classic.AppendKeepAlive(nil))
	b[len(b)-1] ^= 1
	r.write(b)
}

// shake goes through a hello as h says, and says what comes first in a veiled session.
func (r *byHand) shake(h obfs.Handshake) {
	r.t.Helper()
	buf := make([]byte, 8<<10)
	for {
		r.write(h.AppendOutput(nil))
		if s, ok := h.Done(); ok {
			r.sealer = s.Sealer
			break
		}
		n, err := r.Read(buf)
		if err == nil {
			_, err = h.Feed(buf[:n])
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	e := veiledExchange(theirID)
	r.write(r.seal(classic.AppendExtended(nil, wire.Extended{ID: ltep.ExchangeID, Payload: ltep.AppendExchange(nil, &e)})))
}

func veiledExchange(id bt.PeerID) ltep.Exchange {
	o := emp.Offer{Version: 1, Requests: -1, HasPeerID: true, PeerID: id, HasReserved: true, Reserved: rawpeer.LTEP}
	return ltep.Exchange{M: []ltep.Entry{{Name: "app", ID: appID}}, EMP: emp.AppendOffer(nil, &o)}
}

// veiledSession returns a session of s, whose role is given, after a veiled hello.
func veiledSession(t *testing.T, s *side, role peer.Role, link simnet.Link) *byHand {
	t.Helper()
	introduce := func(c *Conn) {
		e, use := veiledExchange(ourID), &peer.WeUse{}
		use.MaxBytes[appID] = 1 << 20
		c.Do(func(m *peer.Machine) {
			if err := m.SendExchange(&e, use); err != nil {
				t.Error(err)
			}
		})
	}
	secret := veil.Secret(infoHash)
	var r *byHand
	if role == peer.Initiator {
		s.onVeiled = introduce
		s.opening = &peer.OpeningConfig{Hello: wire.HelloVeil, Secret: secret}
		r = newByHand(t, s, link, initiator, func(cfg *peer.Config) { cfg.Hello = wire.HelloVeil })
		var hello [veil.HelloBytes]byte
		if _, err := io.ReadFull(r, hello[:]); err != nil {
			t.Fatal(err)
		}
		h := new(veil.Responder)
		if err := h.Open(veil.Config{Rand: rand.Reader}, &hello, &secret); err != nil {
			t.Fatal(err)
		}
		r.shake(h)
	} else {
		s.onOpen = introduce
		s.opening = &peer.OpeningConfig{Accept: wire.AllHellos}
		r = newByHand(t, s, link)
		h := new(veil.Initiator)
		if err := h.Init(veil.Config{Rand: rand.Reader}, &secret); err != nil {
			t.Fatal(err)
		}
		r.shake(h)
	}
	<-s.opened
	return r
}

// EMP/1 section 5: a session with a record that does not open is over for us at once, and for the peer after 5 to 30 s in which nothing is written and everything is read.
func TestSessionDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drains Drains
		var took []time.Duration
		const sessions = 80
		for i := range sessions {
			role := peer.Responder
			if i%2 == 1 {
				role = peer.Initiator
			}
			s := &side{opts: Options{Drains: &drains, SendQueueBytes: 1000}}
			r := veiledSession(t, s, role, simnet.Link{})
			r.read()
			if i%4 < 2 {
				time.Sleep(125 * time.Second) // no other deadline is near
			}
			synctest.Wait()
			before := r.came.Load()
			at := time.Now()
			r.spoil()
			synctest.Wait()
			s.mu.Lock()
			if len(s.ends) != 1 || !errors.Is(s.ends[0], obfs.ErrRecord) || !s.interrupted {
				t.Errorf("told of %v, interrupted: %v; want the record, at once", s.ends, s.interrupted)
			}
			s.mu.Unlock()
			if err := s.conn.SendApp(t.Context(), appID, make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("sending: %v, want net.ErrClosed", err)
			}
			s.conn.Send(wire.KeepAlive{}) // comes to nothing
			s.conn.Close(nil)             // as the session's owner may
			s.conn.Close(peer.ErrDuplicatePeer)
			for range 20 { // all of it is taken
				r.write(make([]byte, 100<<10))
			}
			if r.closed() || drains.Stats() != (DrainStats{Now: 1, Total: int64(i + 1)}) {
				t.Fatalf("closed: %v, %+v", r.closed(), drains.Stats())
			}
			d := (<-r.ended).Sub(at)
			if took = append(took, d); d < minDrain || d > maxDrain {
				t.Errorf("it was closed after %v, want %v to %v", d, minDrain, maxDrain)
			}
			if n := r.came.Load() - before; n != 0 {
				t.Errorf("%d bytes were written while it drained", n)
			}
			synctest.Wait()
			if st := drains.Stats(); st.Now != 0 || st.Early != 0 {
				t.Errorf("%+v, want none that drains", st)
			}
		}
		// A chance of one in 10^7 for each.
		if least, most := slices.Min(took), slices.Max(took); least > 10*time.Second || most < 25*time.Second {
			t.Errorf("closed after %v to %v, want 5 s to 30 s", least, most)
		}
	})
}

// Who waits to send, or until everything is written, does not wait for the end of a connection that drains.
func TestDrainingLetsWaitersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &side{opts: Options{Drains: new(Drains), SendQueueBytes: 1000}}
		r := veiledSession(t, s, peer.Responder, simnet.Link{Buffer: 2000})
		synctest.Wait()
		at := time.Now()
		send, flush := make(chan error, 1), make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				err = s.conn.SendApp(context.Background(), appID, make([]byte, 900))
			}
			send <- err
		}()
		synctest.Wait()
		go func() { flush <- s.conn.Flush(context.Background()) }()
		synctest.Wait()
		r.spoil()
		if err := <-send; !errors.Is(err, net.ErrClosed) {
			t.Errorf("sending: %v, want net.ErrClosed", err)
		}
		for _, err := range []error{<-flush, s.conn.Flush(context.Background())} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("flushing: %v, want net.ErrClosed: it was not written", err)
			}
		}
		if d := time.Since(at); d > 0 {
			t.Errorf("they were let go after %v", d)
		}
	})
}

// A connection that drains while a write of ours makes no progress is closed in its time, and nobody else's timers wait for it.
func TestStalledConnectionDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &side{opts: Options{Drains: new(Drains)}}
		r := veiledSession(t, s, peer.Responder, simnet.Link{Buffer: 2000})
		if ok, err := s.conn.TrySendApp(appID, make([]byte, 100_000)); !ok || err != nil {
			t.Fatal(ok, err)
		}
		synctest.Wait()
		for range 3 { // it is not silent
			time.Sleep(writeStall / 4)
			r.write(r.seal(classic.AppendKeepAlive(nil)))
		}
		time.Sleep(writeStall/4 - minDrain/2)
		at := time.Now()
		r.spoil()
		s.group.Wait()
		if d := time.Since(at); d < minDrain || d > maxDrain {
			t.Errorf("it was closed after %v, want %v to %v", d, minDrain, maxDrain)
		}
	})
}

// refused returns a connection whose first bytes are no hello that is taken here; what is read is counted.
func refused(t *testing.T, drains *Drains) (*side, *byHand) {
	s := &side{opts: Options{Drains: drains}, opening: &peer.OpeningConfig{Accept: wire.HellosOf(wire.HelloVeil)}}
	r := newByHand(t, s, simnet.Link{})
	r.read()
	r.write(make([]byte, veil.HelloBytes))
	synctest.Wait()
	return s, r
}

// At most 256 connections drain: one more ends the oldest. Those whose peers go make room, and Close ends all.
func TestMaxDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drains Drains
		var all []*byHand
		want := func(st DrainStats, gone ...int) {
			t.Helper()
			for i, r := range all {
				if closed := r.closed(); closed != slices.Contains(gone, i) {
					t.Errorf("connection %d is closed: %v", i, closed)
				}
			}
			if got := drains.Stats(); got != st {
				t.Errorf("%+v, want %+v", got, st)
			}
		}
		more := func() {
			_, r := refused(t, &drains)
			all = append(all, r)
			time.Sleep(time.Millisecond)
		}
		for range MaxDraining {
			more()
		}
		want(DrainStats{Now: MaxDraining, Total: MaxDraining})
		more()
		want(DrainStats{MaxDraining, MaxDraining + 1, 1}, 0)
		more()
		want(DrainStats{MaxDraining, MaxDraining + 2, 2}, 0, 1)
		all[100].Close()
		want(DrainStats{MaxDraining - 1, MaxDraining + 2, 2}, 0, 1, 100)
		more()
		want(DrainStats{MaxDraining, MaxDraining + 3, 2}, 0, 1, 100)
		more()
		want(DrainStats{MaxDraining, MaxDraining + 4, 3}, 0, 1, 2, 100)
		if n := all[200].came.Load(); n < veil.HelloBytes {
			t.Errorf("%d bytes for an answer, want random bytes as of MSE", n)
		}
		drains.Close()
		gone := make([]int, len(all)+1)
		for i := range gone {
			gone[i] = i
		}
		want(DrainStats{0, MaxDraining + 4, 3}, gone...)
		more()
		want(DrainStats{0, MaxDraining + 5, 3}, gone...)
	})
}

// What drains before it is a session is closed when the time for hellos is over, however early it was known.
func TestRefusedHelloDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drains Drains
		at := time.Now()
		s, r := refused(t, &drains)
		s.mu.Lock()
		if len(s.ends) != 1 || !errors.Is(s.ends[0], peer.ErrRefusedHello) {
			t.Errorf("told of %v, want the hello, at once", s.ends)
		}
		s.mu.Unlock()
		if d := (<-r.ended).Sub(at); d != 20*time.Second { // the harness's
			t.Errorf("closed after %v", d)
		}
	})
}

// Without a place to drain in, a connection is closed.
func TestNoDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(side)
		r := veiledSession(t, s, peer.Responder, simnet.Link{})
		r.read()
		r.spoil()
		if !r.closed() || !errors.Is(s.wait(), obfs.ErrRecord) {
			t.Errorf("closed: %v, %v", r.closed(), s.wait())
		}
	})
}

// The IVs of hellos that are under way are known, and no others.
func TestIVs(t *testing.T) {
	var none *IVs
	var ivs IVs
	a, b := &Conn{iv: [veil.IVBytes]byte{1}}, &Conn{iv: [veil.IVBytes]byte{2}}
	hello := func(first byte) []byte { return append([]byte{first}, make([]byte, veil.HelloBytes-1)...) }
	none.add(a)
	none.drop(a)
	ivs.drop(a) // not there
	a.iv[0] = 1
	ivs.add(a)
	ivs.add(b)
	if none.seen(hello(1)) || ivs.seen(hello(3)) || a.ownSeen.Load() {
		t.Error("seen what is not there")
	}
	if !ivs.seen(hello(1)) || !a.ownSeen.Load() || b.ownSeen.Load() {
		t.Error("the hello of a is not known as that")
	}
	ivs.drop(a)
	ivs.drop(a)
	if ivs.seen(hello(1)) || !ivs.seen(hello(2)) || len(ivs.of) != 1 {
		t.Error("dropping one dropped another, or none")
	}
}

// An IV is remembered for as long as its hello is under way, however that ends.
func TestIVsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ivs IVs
		remembered := func() int {
			synctest.Wait()
			ivs.mu.Lock()
			defer ivs.mu.Unlock()
			return len(ivs.of)
		}
		veiledSession(t, &side{opts: Options{OwnIVs: &ivs}}, peer.Initiator, simnet.Link{})
		if n := remembered(); n != 0 {
			t.Errorf("%d IVs are remembered when the hello is done", n)
		}
		begin := func() (*side, *byHand) {
			s := &side{opts: Options{OwnIVs: &ivs}, opening: &peer.OpeningConfig{Hello: wire.HelloVeil, Secret: veil.Secret(infoHash)}}
			return s, newByHand(t, s, simnet.Link{}, initiator, func(cfg *peer.Config) { cfg.Hello = wire.HelloVeil })
		}
		_, r := begin()
		if n := remembered(); n != 1 {
			t.Errorf("%d IVs are remembered, want that of the hello that is under way", n)
		}
		r.Close()
		if n := remembered(); n != 0 {
			t.Errorf("%d IVs are remembered once the peer has closed", n)
		}
		// Our own hello comes back: that is told once the connection has failed, and not ended before.
		s, r := begin()
		var hello [veil.HelloBytes]byte
		if _, err := io.ReadFull(r, hello[:]); err != nil {
			t.Fatal(err)
		}
		in := &side{opts: Options{OwnIVs: &ivs, Drains: new(Drains)}, opening: &peer.OpeningConfig{Accept: wire.HellosOf(wire.HelloVeil)}}
		q := newByHand(t, in, simnet.Link{})
		q.write(hello[:])
		answer := make([]byte, 96)
		if _, err := io.ReadFull(q, answer); err != nil {
			t.Fatal(err)
		}
		if s.conn.Heard() || remembered() != 1 || len(s.ends) != 0 {
			t.Error("the hello is not under way any more")
		}
		r.write(answer)
		if err := s.wait(); !errors.Is(err, peer.ErrSelfConnection) {
			t.Errorf("it ended with %v, want peer.ErrSelfConnection", err)
		}
		if n := remembered(); n != 0 {
			t.Errorf("%d IVs are remembered after the end", n)
		}
		in.opts.Drains.Close()
	})
}

// A plaintext hello is taken whole where others are awaited too, in whatever pieces it comes.
func TestPlaintextHelloInPieces(t *testing.T) {
	for _, split := range []int{1, 19, 20, 21, 48, 68} {
		synctest.Test(t, func(t *testing.T) {
			s := &side{opening: &peer.OpeningConfig{Accept: wire.AllHellos}}
			r := newByHand(t, s, simnet.Link{})
			hello := classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: infoHash, PeerID: theirID})
			for piece := range slices.Chunk(hello, split) {
				r.write(piece)
				synctest.Wait()
			}
			<-s.opened
			raw := rawpeer.New(t, r)
			if h, err := raw.ReadHello(); err != nil || h.InfoHash != infoHash || h.PeerID != ourID {
				t.Errorf("in pieces of %d: %v, %+v", split, err, h)
			}
		})
	}
}
