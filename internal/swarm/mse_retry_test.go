package swarm

import (
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// theseHellos are the hellos of every ladder; it keeps what worked.
type theseHellos struct {
	steps  []wire.Hello
	mu     sync.Mutex
	worked []wire.Hello
}

func (h *theseHellos) Steps(time.Time, netip.AddrPort) []wire.Hello { return h.steps }
func (h *theseHellos) Worked(_ time.Time, _ netip.AddrPort, hello wire.Hello) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.worked = append(h.worked, hello)
}
func (h *theseHellos) Says(time.Time, netip.AddrPort, bool) {}

// TestMSERetry: libtorrent 2.0.8 fails with every 256th MSE hello that it answers: when the secret begins with a zero it closes after its own key. Such a peer is dialled once more at once, with
// another key; one that closes without an answer is not, and one that fails every time is not dialled without end.
func TestMSERetry(t *testing.T) {
	const (
		silent  = iota // closes without an answer
		answers        // closes after its own key
		takes
	)
	for _, tt := range []struct {
		name  string
		steps []wire.Hello
		does  []int // with the first connections that begin with MSE; then as the last
		// What there must have been within a short while: MSE hellos and others, and whether a session came of it.
		mse, other int
		connected  bool
	}{
		{"taken", []wire.Hello{wire.HelloMSE}, []int{takes}, 1, 0, true},
		{"fails once", []wire.Hello{wire.HelloMSE}, []int{answers, takes}, 2, 0, true},
		{"fails once, after plaintext", []wire.Hello{wire.HelloPlaintext, wire.HelloMSE}, []int{answers, takes}, 2, 1, true},
		{"fails once, before plaintext", []wire.Hello{wire.HelloMSE, wire.HelloPlaintext}, []int{answers, takes}, 2, 0, true},
		{"fails always", []wire.Hello{wire.HelloMSE}, []int{answers}, 2, 0, false},
		{"fails always, before plaintext", []wire.Hello{wire.HelloMSE, wire.HelloPlaintext}, []int{answers}, 2, 1, false},
		{"does not answer", []wire.Hello{wire.HelloMSE}, []int{silent, takes}, 1, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				var mu sync.Mutex
				var keys [][mse.KeyBytes]byte
				other := 0
				at := w.listen(func(nc net.Conn, addr netip.AddrPort) {
					head := make([]byte, classic.PrefixBytes)
					if _, err := io.ReadFull(nc, head); err != nil {
						return
					}
					if _, _, err := classic.ParseHello(head); err == nil {
						mu.Lock()
						other++
						mu.Unlock()
						return
					}
					var ya [mse.KeyBytes]byte
					if _, err := io.ReadFull(nc, ya[copy(ya[:], head):]); err != nil {
						return
					}
					mu.Lock()
					does := tt.does[min(len(keys), len(tt.does)-1)]
					keys = append(keys, ya)
					mu.Unlock()
					if does != silent {
						respond(t, nc, w, addr, &ya, does == takes)
					}
				})
				hellos := &theseHellos{steps: tt.steps}
				n := w.start(with(func(cfg *Config) { cfg.Hellos = hellos }))
				n.tor.AddPeers(at)
				time.Sleep(firstRetry / 2) // no more than one ladder
				mu.Lock()
				defer mu.Unlock()
				if len(keys) != tt.mse || other != tt.other {
					t.Errorf("%d hellos by MSE and %d others, want %d and %d", len(keys), other, tt.mse, tt.other)
				}
				slices.SortFunc(keys, func(a, b [mse.KeyBytes]byte) int { return slices.Compare(a[:], b[:]) })
				if len(slices.Compact(keys)) != len(keys) {
					t.Error("a key was used twice")
				}
				hellos.mu.Lock()
				defer hellos.mu.Unlock()
				if got := n.count(EventPeerConnected) == 1; got != tt.connected || tt.connected && !slices.Equal(hellos.worked, []wire.Hello{wire.HelloMSE}) {
					t.Errorf("connected: %t, want %t; what worked: %v", got, tt.connected, hellos.worked)
				}
			})
		})
	}
}

// respond answers an MSE hello; if it is not to be taken, with a key alone that comes to nothing.
func respond(t *testing.T, nc net.Conn, w *world, addr netip.AddrPort, ya *[mse.KeyBytes]byte, take bool) {
	var r mse.Responder
	if err := r.Begin(mse.Config{Rand: rand.Reader, Methods: mse.RC4}, ya); err != nil {
		t.Error(err)
		return
	}
	if _, err := nc.Write(r.AppendOutput(nil)); err != nil {
		t.Error(err)
		return
	}
	buf := make([]byte, 4<<10)
	var streams obfs.Streams
	for done := false; !done; streams, done = r.Done() {
		n, err := nc.Read(buf)
		if err != nil || !take { // libtorrent closes once it has had what it cannot read
			return
		}
		rest, err := r.Feed(buf[:n])
		if asked, ok := r.Asked(); ok && err == nil {
			skey := [20]byte(w.ih)
			r.Answer(skey, asked == mse.Req2(&skey))
			_, err = r.Feed(rest)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
	hello := classic.AppendHello(make([]byte, obfs.Headroom), classic.Hello{Reserved: rawpeer.LTEP, InfoHash: w.ih, PeerID: peerID(addr)})
	if _, err := nc.Write(append(r.AppendOutput(nil), streams.Sealer.Seal(nil, hello)...)); err != nil {
		t.Error(err)
		return
	}
	io.Copy(io.Discard, nc)
}
