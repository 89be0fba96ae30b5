package sceptic

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/gate"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// TestReflectedHello has somebody without the info-hash copy a first flight that a client sends, and send it to the port where that client listens. What comes is what comes of any 96 bytes, and the connection that was
// copied goes on as if nothing had been: that it ends at that moment would tell a veiled hello from MSE's, of which nobody knows which are one's own.
func TestReflectedHello(t *testing.T) {
	for name, change := range map[string]func(b []byte) []byte{
		"as it is":      func(b []byte) []byte { return b },
		"96 bytes":      func(b []byte) []byte { return b[:96] },
		"IV alone":      func(b []byte) []byte { return append(b[:veil.IVBytes:veil.IVBytes], make([]byte, 80)...) },
		"not one of us": func(b []byte) []byte { b[0] ^= 1; return b },
	} {
		for _, hello := range []wire.Hello{wire.HelloVeil, wire.HelloMSE} {
			t.Run(name+", "+hello.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					us, them := newHosts(), newHosts()
					us.opts.OwnIVs = new(peerconn.IVs)
					a, b := pipe(1)
					far, theirs := pipe(2)
					probe, listening := pipe(3)
					opened := make(chan bool, 2)
					s := &session{h: us, opened: func(*peerconn.Conn) { opened <- true }, ended: func(err error) { opened <- false }}
					c := us.dial(a, hello, s, seeded('s', 1))
					us.accept(listening, wire.AllHellos, seeded('s', 2))
					them.accept(theirs, wire.AllHellos, seeded('s', 3))
					p := newProber(probe, seeded('s', 4))
					var run sync.WaitGroup
					run.Go(p.listen)
					buf := make([]byte, 4096)
					n := must(b.Read(buf))
					p.write(change(bytes.Clone(buf[:n])))
					time.Sleep(3 * time.Second) // what was copied goes on only now
					if len(opened) != 0 {
						t.Error("the connection that was copied has ended")
					}
					far.Write(buf[:n])
					pass := func(from, to net.Conn) {
						buf := make([]byte, 64<<10)
						for {
							n, err := from.Read(buf)
							if to.Write(buf[:n]); err != nil {
								to.Close()
								return
							}
						}
					}
					run.Go(func() { pass(b, far) })
					run.Go(func() { pass(far, b) })
					if !<-opened {
						t.Error("the connection that was copied did not come about")
					}
					c.Close(nil)
					run.Wait()
					us.close()
					them.close()
					if p.flights != 1 || len(p.got) < 96 || len(p.got) > 608 || p.closed < 15*time.Second {
						// What a veiled hello that is served, and is no longer known for our own, is answered with is as long.
						t.Errorf("the prober saw %d flights, %d bytes, the end after %v", p.flights, len(p.got), p.closed)
					}
				})
			})
		}
	}
}

// TestToOurselves dials the port where we listen ourselves. The connection ends as one to ourselves, once the answer turns out to be none (EMP/1 section 7.7).
func TestToOurselves(t *testing.T) {
	for name, tt := range map[string]struct {
		accept wire.Hellos
		key    error
		after  time.Duration
		want   error
	}{
		"MSE is accepted":     {wire.AllHellos, nil, 2 * latency, peer.ErrSelfConnection},
		"MSE is not accepted": {noMSE, nil, 2 * latency, peer.ErrSelfConnection},
		"over budget":         {wire.AllHellos, gate.ErrOverBudget, peer.FirstAnswerTimeout, peer.ErrHandshakeTimeout}, // the next hello of the ladder finds it out
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHosts()
				h.opts.OwnIVs = new(peerconn.IVs)
				h.key = func(*peerconn.Conn) error { return tt.key }
				a, b := pipe(1)
				start := time.Now()
				var after time.Duration
				var why error
				h.dial(a, wire.HelloVeil, &session{h: h, ended: func(err error) { after, why = time.Since(start), err }}, seeded('s', 1))
				h.accept(b, tt.accept, seeded('s', 2))
				h.close()
				if !errors.Is(why, tt.want) || after != tt.after {
					t.Errorf("ended after %v: %v; want %v after %v", after, why, tt.want, tt.after)
				}
			})
		})
	}
}
