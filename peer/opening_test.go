package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

var (
	someSecret  = veil.Secret(someHash)
	errOverload = errors.New("over budget")
)

func seededRand(seed uint64) *rand.ChaCha8 {
	var s [32]byte
	binary.BigEndian.PutUint64(s[:], seed)
	return rand.NewChaCha8(s)
}

// talk is an opening with an owner who answers all that it asks.
type talk struct {
	t        testing.TB
	o        Opening
	plain    []byte // what came out of the streams, or behind a plaintext hello
	sent     []byte
	asked    []OpeningStep // what was asked, besides bytes
	scan     error
	key      error
	unserved bool
	refused  error // of the opener
	opener   obfs.Opener
}

func newTalk(t testing.TB, cfg OpeningConfig) *talk {
	k := &talk{t: t}
	if err := k.o.Init(cfg); err != nil {
		t.Fatal(err)
	}
	k.sent = k.o.AppendOutput(nil)
	return k
}

func responderTalk(t testing.TB, accept wire.Hellos, seed uint64) *talk {
	return newTalk(t, OpeningConfig{Role: Responder, Rand: seededRand(seed), Accept: accept})
}

func initiatorTalk(t testing.TB, h wire.Hello, seed uint64) *talk {
	return newTalk(t, OpeningConfig{Role: Initiator, Rand: seededRand(seed), Hello: h, Secret: someSecret, IA: helloOf(wire.Reserved{})})
}

// feed gives it bytes, which are not its to keep.
func (k *talk) feed(b []byte) OpeningStep {
	if k.o.step == OpeningDone {
		k.openAll(b)
		return OpeningDone
	}
	k.o.Feed(b)
	for {
		step := k.o.Step()
		k.sent = k.o.AppendOutput(k.sent)
		switch step {
		case OpeningScan:
			k.asked = append(k.asked, step)
			if served := []veil.Secret{someSecret}; !k.unserved && k.scan == nil && veil.Find(k.o.First()[:], served) >= 0 {
				k.o.Found(&served[0], true, nil)
			} else {
				k.o.Found(nil, false, k.scan)
			}
		case OpeningKey:
			k.asked = append(k.asked, step)
			k.o.Key(k.key)
		case OpeningTorrent:
			k.asked = append(k.asked, step)
			skey := [20]byte(someSecret)
			k.o.Torrent(skey, !k.unserved && k.o.Asked() == mse.Req2(&skey))
		case OpeningDone:
			kept, fed := k.o.Rest()
			k.opener = k.o.Streams().Opener
			k.plain = append(k.plain, kept...)
			k.openAll(fed)
			return step
		default:
			return step
		}
	}
}

func (k *talk) openAll(b []byte) {
	if k.opener == nil {
		k.plain = append(k.plain, b...)
		return
	}
	for len(b) > 0 && k.refused == nil {
		plain, rest, err := k.opener.Open(b)
		k.plain, k.refused = append(k.plain, plain...), err
		b = rest
	}
}

// String is all that has come of it, in words.
func (k *talk) String() string {
	return fmt.Sprintf("step %d, hello %v, err %v, asked %v, sent %x, plain %x, refused %v, binding %x", k.o.Step(), k.o.Hello(), k.o.Err(), k.asked, k.sent, k.plain, k.refused, k.o.Binding())
}

func sealed(t testing.TB, k *talk, s string) []byte {
	t.Helper()
	sealer := k.o.Streams().Sealer
	if sealer == nil {
		return []byte(s)
	}
	b := append(make([]byte, obfs.Headroom), s...)
	return sealer.Seal(make([]byte, 0, sealer.SealedBytes(len(s))+100), b)
}

// hellosOn are the subsets of hellos that a port may accept.
func hellosOn() (all []wire.Hellos) {
	for s := range wire.AllHellos + 1 {
		if s&^wire.AllHellos == 0 {
			all = append(all, s)
		}
	}
	return all
}

// TestOpeningsMeet has an initiator of each hello meet a responder that accepts each subset. Where it accepts the hello both come to the same streams, in the turns that section 3 says; where it does not, it
// answers as MSE would, or waits, and drains.
func TestOpeningsMeet(t *testing.T) {
	for _, h := range []wire.Hello{wire.HelloMSE, wire.HelloVeil} {
		for _, accept := range hellosOn() {
			r, i := responderTalk(t, accept, 1), initiatorTalk(t, h, 2)
			name := fmt.Sprintf("%v where %v are accepted", h, accept)
			if i.o.Answered() || i.o.Hello() != h || r.o.Hello() != wire.HelloUnknown || i.o.Binding() != ([32]byte{}) {
				t.Errorf("%s: before it began", name)
			}
			first := bytes.Clone(i.sent)
			if n := len(first); n < 96 || n > 608 {
				t.Fatalf("%s: a first flight of %d bytes", name, n)
			}
			step := r.feed(bytes.Clone(first))
			if accept.Has(wire.HelloVeil) != (len(r.asked) > 0 && r.asked[0] == OpeningScan) {
				t.Errorf("%s: asked %v", name, r.asked)
			}
			if n := len(r.sent); n < 96 || n > 608 {
				t.Fatalf("%s: answered with %d bytes", name, n)
			}
			if !accept.Has(h) {
				if accept.Has(wire.HelloMSE) {
					// A veiled hello goes on as MSE's Ya.
					if step != OpeningBytes || r.o.Hello() != wire.HelloMSE || r.o.Err() != nil {
						t.Errorf("%s: %v", name, r)
					}
					if step = r.feed(make([]byte, 600)); step != OpeningDrains {
						t.Errorf("%s: after 600 bytes more: %v", name, r)
					}
				} else if step != OpeningDrains || !errors.Is(r.o.Err(), ErrRefusedHello) {
					t.Errorf("%s: %v", name, r)
				}
				n := len(r.sent)
				if r.feed(make([]byte, 1000)) != OpeningDrains || len(r.sent) != n {
					t.Errorf("%s: does not drain", name)
				}
				if i.feed(bytes.Clone(r.sent)); h == wire.HelloVeil && (i.o.Step() != OpeningFailed || i.o.Answered() || len(i.sent) != len(first)) {
					t.Errorf("%s: the initiator: %v", name, i)
				}
				continue
			}
			answer := bytes.Clone(r.sent)
			if !accept.Has(wire.HelloVeil) && r.o.Hello() != wire.HelloMSE {
				t.Errorf("%s: hello %v", name, r.o.Hello())
			}
			if step := i.feed(bytes.Clone(answer)); h == wire.HelloVeil && step != OpeningDone || !i.o.Answered() {
				t.Fatalf("%s: the initiator: %v", name, i)
			}
			if h == wire.HelloVeil && len(i.sent) != len(first) {
				t.Errorf("%s: the initiator sent more than its flight", name)
			}
			if h == wire.HelloMSE { // step 3 with the hello, then step 4
				third := i.sent[len(first):]
				if len(third) == 0 || i.o.Step() != OpeningBytes {
					t.Fatalf("%s: the initiator: %v", name, i)
				}
				if step := r.feed(bytes.Clone(third)); step != OpeningDone || r.asked[len(r.asked)-1] != OpeningTorrent {
					t.Fatalf("%s: the responder: %v", name, r)
				}
				if !bytes.Equal(r.plain, helloOf(wire.Reserved{})) {
					t.Errorf("%s: IA came as %x", name, r.plain)
				}
				r.plain = nil
				if step := i.feed(bytes.Clone(r.sent[len(answer):])); step != OpeningDone {
					t.Fatalf("%s: the initiator: %v", name, i)
				}
			}
			if r.o.Step() != OpeningDone || i.o.Binding() != r.o.Binding() || (r.o.Binding() == [32]byte{}) != (h == wire.HelloMSE) || r.o.Hello() != h {
				t.Errorf("%s: %v and %v", name, i, r)
			}
			r.feed(sealed(t, i, "from the initiator"))
			i.feed(sealed(t, r, "from the responder"))
			if string(r.plain) != "from the initiator" || string(i.plain) != "from the responder" {
				t.Errorf("%s: %q and %q", name, r.plain, i.plain)
			}
		}
	}
}

// TestOpeningPlaintext: 20 bytes decide, nothing is asked, and all of it is left to the machine.
func TestOpeningPlaintext(t *testing.T) {
	hello := append(helloOf(wire.Reserved{}), "frames"...)
	for _, accept := range hellosOn() {
		for at := range hello {
			r := responderTalk(t, accept, 1)
			step := r.feed(bytes.Clone(hello[:at]))
			if accept.Has(wire.HelloPlaintext) && at >= classic.PrefixBytes != (step == OpeningDone) {
				t.Fatalf("%v: after %d bytes: %v", accept, at, r)
			}
			step = r.feed(bytes.Clone(hello[at:]))
			if accept.Has(wire.HelloPlaintext) {
				if step != OpeningDone || !bytes.Equal(r.plain, hello) || r.o.Hello() != wire.HelloPlaintext || len(r.asked)+len(r.sent) > 0 || r.o.Streams() != (obfs.Streams{}) {
					t.Fatalf("%v: cut at %d: %v", accept, at, r)
				}
			} else if step != OpeningBytes || len(r.asked)+len(r.sent) > 0 { // 74 bytes: it waits for 96
				t.Fatalf("%v: cut at %d: %v", accept, at, r)
			}
		}
	}
}

// TestOpeningAlmostPlaintext: 19 bytes of the 20 are none of them, whichever is wrong, and nothing is said before 96.
func TestOpeningAlmostPlaintext(t *testing.T) {
	for i := range classic.PrefixBytes {
		hello := append(helloOf(wire.Reserved{}), make([]byte, 200)...)
		hello[i] ^= 0x20
		r := responderTalk(t, wire.AllHellos, 1)
		if r.feed(bytes.Clone(hello[:95])) != OpeningBytes || len(r.sent)+len(r.asked) > 0 {
			t.Fatalf("byte %d: %v", i, r)
		}
		r.feed(bytes.Clone(hello[95:96]))
		if len(r.sent) < 96 || len(r.sent) > 608 || len(r.asked) != 2 || r.o.Hello() != wire.HelloMSE {
			t.Fatalf("byte %d: %v", i, r)
		}
	}
}

// inTwo are the places in the head of a stream at which it is cut: all of them where all hellos are accepted, those that matter elsewhere.
func inTwo(accept wire.Hellos) (at []int) {
	if accept != wire.AllHellos {
		return []int{1, 16, 19, 20, 21, 36, 48, 68, 95, 96, 97, 150}
	}
	for i := range 130 {
		at = append(at, i+1)
	}
	return at
}

// TestOpeningSplits: for every hello on a port that accepts any subset, right or wrong, what comes of it does not depend on how it is cut.
func TestOpeningSplits(t *testing.T) {
	streams := map[string][]byte{"plaintext": append(helloOf(wire.Reserved{}), "frames"...)}
	for h, name := range map[wire.Hello]string{wire.HelloMSE: "MSE", wire.HelloVeil: "veil"} {
		r, i := responderTalk(t, wire.AllHellos, 7), initiatorTalk(t, h, 8) // the responders below draw the same
		r.feed(bytes.Clone(i.sent))
		i.feed(bytes.Clone(r.sent))
		s := bytes.Clone(i.sent)
		if h == wire.HelloVeil {
			s = append(s, sealed(t, i, "the first record")...)
			s = append(s, sealed(t, i, "the second")...)
		}
		streams[name] = s
		bad := bytes.Clone(s)
		bad[70] ^= 1
		streams[name+", changed"] = bad
	}
	noise := make([]byte, 800)
	seededRand(3).Read(noise)
	streams["noise"] = noise
	for name, stream := range streams {
		for _, accept := range hellosOn() {
			t.Run(fmt.Sprintf("%s, %v", name, accept), func(t *testing.T) {
				if testing.Short() && accept != wire.AllHellos {
					t.Skip()
				}
				ways := func(yield func([]int) bool) {
					for _, at := range append([]int{0}, inTwo(accept)...) { // where the head is cut in two
						if !yield([]int{at, len(stream) - at}) {
							return
						}
					}
					for lengths := range wiretest.Segmentations(1, len(stream)) {
						if len(lengths) != 2 && !yield(lengths) {
							return
						}
					}
				}
				want := ""
				for lengths := range ways {
					r := responderTalk(t, accept, 7)
					for b := range wiretest.Cut(stream, lengths) {
						r.feed(b)
					}
					if got := r.String(); want == "" {
						want = got
					} else if got != want {
						t.Fatalf("in segments of %v:\n%s\nwhole:\n%s", lengths, got, want)
					}
				}
			})
		}
	}
}

// TestOpeningOverBudget: who is turned away is not answered, and drains.
func TestOpeningOverBudget(t *testing.T) {
	for _, accept := range hellosOn() {
		for _, h := range []wire.Hello{wire.HelloMSE, wire.HelloVeil} {
			i, r := initiatorTalk(t, h, 1), responderTalk(t, accept, 2)
			r.scan = errOverload
			step := r.feed(bytes.Clone(i.sent))
			if accept.Has(wire.HelloVeil) && (step != OpeningDrains || len(r.sent) > 0 || r.o.Err() != errOverload) {
				t.Errorf("%v, scan: %v", accept, r)
			}
			r = responderTalk(t, accept&^(1<<wire.HelloVeil), 2)
			r.key = errOverload
			step = r.feed(bytes.Clone(i.sent))
			if accept.Has(wire.HelloMSE) && (step != OpeningDrains || len(r.sent) > 0 || r.o.Err() != errOverload) {
				t.Errorf("%v, key exchange: %v", accept, r)
			}
		}
	}
}

// TestOpeningUnserved: the torrent is not served here. A veiled hello is MSE's Ya then, and an MSE hello fails when the torrent is named; either drains.
func TestOpeningUnserved(t *testing.T) {
	for _, h := range []wire.Hello{wire.HelloMSE, wire.HelloVeil} {
		i, r := initiatorTalk(t, h, 1), responderTalk(t, wire.AllHellos, 2)
		r.unserved = true
		first := len(i.sent)
		r.feed(bytes.Clone(i.sent))
		n := len(r.sent)
		i.feed(bytes.Clone(r.sent))
		more := i.sent[first:]
		if h == wire.HelloVeil {
			if more = make([]byte, 700); i.o.Step() != OpeningFailed {
				t.Errorf("%v: the initiator: %v", h, i)
			}
		}
		if r.feed(bytes.Clone(more)) != OpeningDrains || len(r.sent) != n || !errors.Is(r.o.Err(), obfs.ErrHandshake) {
			t.Errorf("%v: %v", h, r)
		}
	}
}

// TestOpeningRandFails: a source that fails is reported by Init, or drains the connection without a word.
func TestOpeningRandFails(t *testing.T) {
	for _, h := range []wire.Hello{wire.HelloMSE, wire.HelloVeil} {
		for n := range 40 {
			var o Opening
			if err := o.Init(OpeningConfig{Role: Initiator, Hello: h, Rand: io.LimitReader(seededRand(1), int64(n))}); err == nil {
				t.Errorf("%v: started with %d bytes", h, n)
			}
		}
	}
	if err := new(Opening).Init(OpeningConfig{Role: Initiator, Hello: wire.HelloPlaintext, Rand: seededRand(1)}); err == nil || !strings.Contains(err.Error(), "plaintext") {
		t.Errorf("an initiator's opening in plaintext: %v", err)
	}
	for _, accept := range []wire.Hellos{wire.AllHellos, 0, 1 << wire.HelloVeil} {
		for n := range 60 {
			r := newTalk(t, OpeningConfig{Role: Responder, Accept: accept, Rand: io.LimitReader(seededRand(1), int64(n))})
			i := initiatorTalk(t, wire.HelloVeil, 1)
			if step := r.feed(bytes.Clone(i.sent)); step != OpeningDrains || len(r.sent) != 0 || r.o.Err() == nil {
				t.Fatalf("%v, %d bytes: %v", accept, n, r)
			}
		}
	}
}

// TestOpeningUnasked: answers to what was not asked do nothing.
func TestOpeningUnasked(t *testing.T) {
	r := responderTalk(t, wire.AllHellos, 1)
	r.o.Found(&someSecret, true, nil)
	r.o.Key(errOverload)
	r.o.Torrent([20]byte{}, false)
	if r.o.Step() != OpeningBytes || r.o.Err() != nil || len(r.o.AppendOutput(nil)) > 0 {
		t.Errorf("%v", r)
	}
}

// TestOpeningRefusalLooksLikeMSE: the random bytes where MSE is refused are as many as MSE's answer, each number equally likely.
func TestOpeningRefusalLooksLikeMSE(t *testing.T) {
	var counts [27]int // 513 = 27·19
	const n = 5400
	rng := seededRand(1)
	for range n {
		r := newTalk(t, OpeningConfig{Role: Responder, Rand: rng})
		if r.feed(make([]byte, 96)); r.o.Step() != OpeningDrains || len(r.sent) < 96 || len(r.sent) > 608 {
			t.Fatalf("%v", r)
		}
		counts[(len(r.sent)-96)/19]++
	}
	x := 0.0
	for _, c := range counts {
		x += float64((c-n/27)*(c-n/27)) / (n / 27)
	}
	if x > 72 { // chi-square of 26 degrees of freedom, α = 4e-6
		t.Errorf("chi-square %.1f: %v", x, counts)
	}
}
