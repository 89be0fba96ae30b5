package veil

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/obfs"
)

// dialogue is a handshake with what it sends and gets, step by step.
type dialogue struct {
	t *testing.T
	h obfs.Handshake
}

func (d dialogue) feed(b []byte) []byte {
	d.t.Helper()
	rest, err := d.h.Feed(bytes.Clone(b))
	if err != nil {
		d.t.Fatal(err)
	}
	return rest
}

func (d dialogue) wantOutput(lo, hi int) []byte {
	d.t.Helper()
	b := d.h.AppendOutput([]byte("before"))
	b, ok := bytes.CutPrefix(b, []byte("before"))
	if !ok || len(b) < lo || len(b) > hi {
		d.t.Fatalf("sends %d bytes, want %d to %d", len(b), lo, hi)
	}
	d.wantIdle()
	return b
}

func (d dialogue) wantIdle() {
	d.t.Helper()
	if b := d.h.AppendOutput(nil); len(b) != 0 {
		d.t.Fatalf("sends %d bytes, want nothing", len(b))
	}
}

func (d dialogue) wantDone(want bool) obfs.Streams {
	d.t.Helper()
	s, ok := d.h.Done()
	if ok != want || (s.Opener != nil) != want || (s.Sealer != nil) != want {
		d.t.Fatalf("done: %v, want %v", ok, want)
	}
	return s
}

// TestDialogue is one session, in words.
func TestDialogue(t *testing.T) {
	var i Initiator
	var r Responder
	iSide, rSide := dialogue{t, &i}, dialogue{t, &r}
	if err := i.Init(Config{Rand: testRand(1)}, &testSecret); err != nil {
		t.Fatal(err)
	}
	iSide.wantDone(false)
	hello := iSide.wantOutput(96, 608)

	// The responder answers after byte 96, without waiting for the padding.
	if err := r.Open(Config{Rand: testRand(2)}, (*[96]byte)(hello), &testSecret); err != nil {
		t.Fatal(err)
	}
	answer := rSide.wantOutput(96, 608)
	rSide.wantDone(false)
	if r.Hash() != [32]byte{} {
		t.Error("a hash before the end")
	}
	pad := hello[96:]
	if rest := rSide.feed(pad[:len(pad)-1]); len(rest) != 0 {
		t.Fatalf("%x left of the padding", rest)
	}
	rSide.wantDone(false)
	if rest := rSide.feed(append(pad[len(pad)-1:], "record"...)); string(rest) != "record" {
		t.Fatalf("%q left behind the padding", rest)
	}
	sr := rSide.wantDone(true)
	if again := rSide.wantDone(true); again != sr {
		t.Error("other streams the second time")
	}
	if rest := rSide.feed([]byte("more")); string(rest) != "more" {
		t.Fatalf("%q left once it was done", rest)
	}

	// The initiator goes on as soon as message 2 has opened, without waiting for that padding either.
	if rest := iSide.feed(answer[:59]); len(rest) != 0 {
		t.Fatalf("%x left of the answer", rest)
	}
	iSide.wantDone(false)
	if rest := iSide.feed(answer[59:60]); len(rest) != 0 {
		t.Fatalf("%x left of the answer", rest)
	}
	si := iSide.wantDone(true)
	iSide.wantIdle()
	if rest := iSide.feed(nil); len(rest) != 0 {
		t.Fatalf("%x left of nothing", rest)
	}
	if h := i.Hash(); h != r.Hash() || h == [32]byte{} {
		t.Errorf("hashes %x and %x", h, r.Hash())
	}
	if plain := mustOpen(t, sr.Opener, seal(si.Sealer, []byte("the exchange"))); string(plain) != "the exchange" {
		t.Errorf("the responder got %q", plain)
	}
	stream := append(answer[60:], seal(sr.Sealer, []byte("another"))...)
	if plain := mustOpen(t, si.Opener, stream); string(plain) != "another" {
		t.Errorf("the initiator got %q", plain)
	}
}

// TestHandshakeSplits checks that it does not matter how what a side gets is cut.
func TestHandshakeSplits(t *testing.T) {
	p := newPair(t, 3)
	play := func(h obfs.Handshake, segments iter.Seq[[]byte]) string {
		var said strings.Builder
		var plain []byte
		for b := range segments {
			for first := true; first || len(b) > 0; first = false {
				if s, ok := h.Done(); ok {
					got, rest, err := s.Opener.Open(b)
					plain, b = append(plain, got...), rest
					if err != nil {
						return err.Error()
					}
					continue
				}
				rest, err := h.Feed(b)
				if err != nil {
					return err.Error()
				}
				b = rest
			}
		}
		_, done := h.Done()
		fmt.Fprintf(&said, "sends %x, done %v, got %q", h.AppendOutput(nil), done, plain)
		return said.String()
	}
	fromI := append(bytes.Clone(p.flightI[96:]), seal(p.si.Sealer, []byte("one"))...)
	fromI = append(fromI, seal(p.si.Sealer, []byte("two"))...)
	wiretest.TestSplits(t, 1, fromI, func(segments iter.Seq[[]byte]) string {
		var r Responder
		if err := r.Open(Config{Rand: testRand(7)}, (*[96]byte)(p.flightI), &testSecret); err != nil {
			t.Fatal(err)
		}
		return play(&r, segments)
	})
	fromR := append(bytes.Clone(p.flightR), seal(p.sr.Sealer, []byte("three"))...)
	fromR = append(fromR, seal(p.sr.Sealer, []byte("four"))...)
	wiretest.TestSplits(t, 2, fromR, func(segments iter.Seq[[]byte]) string {
		var i Initiator
		if err := i.Init(Config{Rand: testRand(6)}, &testSecret); err != nil { // as newPair
			t.Fatal(err)
		}
		return play(&i, segments)
	})
}

// forgeHello makes the first 96 bytes of a hello with any HELLO and, if public is not nil, any ephemeral key.
func forgeHello(t testing.TB, plain [plainBytes]byte, public *[32]byte) *[HelloBytes]byte {
	t.Helper()
	var s side
	var b [HelloBytes]byte
	copy(b[:], "IV of 16 bytes..")
	tag := Tag(b[:], &testSecret)
	copy(b[16:], tag[:])
	key, err := newEphemeral(testRand(100))
	if err != nil {
		t.Fatal(err)
	}
	if s.key = key; public != nil {
		s.key.public = *public
	}
	s.start((*[16]byte)(b[:]), &tag, &testSecret)
	s.noise.mixEphemeral(&s.key.public)
	s.disguiseKey((*[32]byte)(b[36:]), &s.maskI)
	s.noise.seal((*[boxBytes]byte)(b[68:]), &plain)
	return &b
}

// forgeAnswer makes the first 60 bytes of an answer to hello with any HELLO and, if public is not nil, a key of small order.
func forgeAnswer(t testing.TB, hello []byte, plain [plainBytes]byte, public *[32]byte) []byte {
	t.Helper()
	var s side
	key, err := newEphemeral(testRand(101))
	if err != nil {
		t.Fatal(err)
	}
	s.key = key
	s.start((*[16]byte)(hello), (*[20]byte)(hello[16:]), &testSecret)
	e := s.receiveKey((*[32]byte)(hello[36:]), &s.maskI)
	if _, ok := s.noise.open((*[boxBytes]byte)(hello[68:])); !ok {
		t.Fatal("the hello does not open")
	}
	if public != nil {
		s.key.public = *public
		s.noise.mixEphemeral(public)
		s.noise.mixKey(make([]byte, 32)) // what comes of such a key
	} else {
		s.noise.mixEphemeral(&s.key.public)
		if err := s.mixSharedKey(&e); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, AnswerBytes)
	s.disguiseKey((*[32]byte)(b), &s.maskR)
	s.noise.seal((*[boxBytes]byte)(b[32:]), &plain)
	return b
}

func helloPlain(version byte, padlen int) (b [plainBytes]byte) {
	b[0] = version
	binary.BigEndian.PutUint16(b[2:], uint16(padlen))
	return b
}

// smallOrderU are the points that make every shared secret zero, with bit 255 clear.
var smallOrderU = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func bytes32(t testing.TB, s string) *[32]byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return (*[32]byte)(b)
}

// TestResponderRefuses checks what goes on as MSE, and what does not.
func TestResponderRefuses(t *testing.T) {
	odd := helloPlain(1, 7)
	odd[1] = 0xff
	copy(odd[4:], "reserved")
	tests := []struct {
		name  string
		hello *[96]byte
		want  error
	}{
		{"version 1", forgeHello(t, helloPlain(1, 0), nil), nil},
		{"version 2", forgeHello(t, helloPlain(2, 0), nil), nil},
		{"version 255", forgeHello(t, helloPlain(255, 0), nil), nil},
		{"flags and reserved bytes", forgeHello(t, odd, nil), nil},
		{"padlen 512", forgeHello(t, helloPlain(1, 512), nil), nil},
		{"version 0", forgeHello(t, helloPlain(0, 0), nil), errVersion},
		{"padlen 513", forgeHello(t, helloPlain(1, 513), nil), errPad},
		{"padlen 65535", forgeHello(t, helloPlain(1, 65535), nil), errPad},
	}
	for _, u := range smallOrderU {
		tests = append(tests, struct {
			name  string
			hello *[96]byte
			want  error
		}{"E_i " + u[:8], forgeHello(t, helloPlain(1, 0), bytes32(t, u)), errSharedKey})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r Responder
			before := *tt.hello
			err := r.Open(Config{Rand: testRand(1)}, tt.hello, &testSecret)
			if err != tt.want || *tt.hello != before {
				t.Fatalf("error %v, want %v; or the hello has changed, which MSE needs", err, tt.want)
			}
			d := dialogue{t, &r}
			if err != nil {
				wantRefused(t, err)
				d.wantIdle()
				d.wantDone(false)
				if _, err := r.Feed(nil); err == nil {
					t.Error("goes on")
				}
				return
			}
			if plain, _ := replayAnswer(t, tt.hello[:], d.wantOutput(96, 608)); plain[0] != 1 {
				t.Errorf("chose version %d", plain[0])
			}
		})
	}
}

// replayAnswer opens an answer to a hello of forgeHello.
func replayAnswer(t testing.TB, hello, answer []byte) ([plainBytes]byte, error) {
	t.Helper()
	i := forgedInitiator(t, hello)
	e := i.receiveKey((*[32]byte)(answer), &i.maskR)
	if err := i.mixSharedKey(&e); err != nil {
		return [plainBytes]byte{}, err
	}
	plain, ok := i.noise.open((*[boxBytes]byte)(answer[32:]))
	if !ok {
		t.Fatal("the answer does not open")
	}
	return plain, nil
}

// forgedInitiator returns the side that made a hello of forgeHello, as it was then.
func forgedInitiator(t testing.TB, hello []byte) (s side) {
	t.Helper()
	key, err := newEphemeral(testRand(100))
	if err != nil {
		t.Fatal(err)
	}
	s.key = key
	s.start((*[16]byte)(hello), (*[20]byte)(hello[16:]), &testSecret)
	s.noise.mixEphemeral(&s.key.public)
	if _, ok := s.noise.open((*[boxBytes]byte)(hello[68:])); !ok {
		t.Fatal("the hello does not open")
	}
	return s
}

// TestInitiatorRefuses checks what an initiator closes for.
func TestInitiatorRefuses(t *testing.T) {
	var i Initiator
	if err := i.Init(Config{Rand: testRand(1)}, &testSecret); err != nil {
		t.Fatal(err)
	}
	hello := i.AppendOutput(nil)
	odd := helloPlain(1, 36)
	odd[1] = 0xff
	copy(odd[4:], "reserved")
	type test struct {
		name   string
		answer []byte
		want   error
	}
	tests := []test{
		{"padlen 36", forgeAnswer(t, hello, helloPlain(1, 36), nil), nil},
		{"padlen 548", forgeAnswer(t, hello, helloPlain(1, 548), nil), nil},
		{"flags and reserved bytes", forgeAnswer(t, hello, odd, nil), nil},
		{"version 0", forgeAnswer(t, hello, helloPlain(0, 36), nil), errVersion},
		{"version 2, which was not offered", forgeAnswer(t, hello, helloPlain(2, 36), nil), errVersion},
		{"padlen 35", forgeAnswer(t, hello, helloPlain(1, 35), nil), errPad},
		{"padlen 0", forgeAnswer(t, hello, helloPlain(1, 0), nil), errPad},
		{"padlen 549", forgeAnswer(t, hello, helloPlain(1, 549), nil), errPad},
		{"its own hello", hello[36:96], errBox},
		{"noise", make([]byte, 60), nil},
	}
	testRand(9).Read(tests[len(tests)-1].answer)
	tests[len(tests)-1].want = errBox
	for _, u := range smallOrderU {
		tests = append(tests, test{"E_r " + u[:8], forgeAnswer(t, hello, helloPlain(1, 36), bytes32(t, u)), errSharedKey})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := i // as it waits for an answer
			d := dialogue{t, &at}
			rest, err := at.Feed(append(bytes.Clone(tt.answer), "padding"...))
			if err != tt.want {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err == nil {
				if string(rest) != "padding" {
					t.Errorf("%q is left", rest)
				}
				d.wantDone(true)
				return
			}
			wantRefused(t, err)
			d.wantIdle()
			d.wantDone(false)
			if _, again := at.Feed([]byte("x")); again != err {
				t.Errorf("afterwards: %v", again)
			}
		})
	}
}

// TestHandshakeTampered changes each bit of what decides in either flight: it is refused. Bit 255 of the keys is none that decides.
func TestHandshakeTampered(t *testing.T) {
	p := newPair(t, 5)
	var i Initiator
	if err := i.Init(Config{Rand: testRand(10)}, &testSecret); err != nil { // as newPair
		t.Fatal(err)
	}
	for at := range HelloBytes * 8 {
		bad := [HelloBytes]byte(p.flightI)
		bad[at/8] ^= 1 << (at % 8)
		var r Responder
		err := r.Open(Config{Rand: testRand(1)}, &bad, &testSecret)
		if at == (36+31)*8+7 {
			if err != nil {
				t.Errorf("bit 255 of E_i: %v", err)
			}
			continue
		}
		wantRefused(t, err)
	}
	for at := range AnswerBytes * 8 {
		bad := [AnswerBytes]byte(p.flightR)
		bad[at/8] ^= 1 << (at % 8)
		fed := i
		_, err := fed.Feed(bad[:])
		if at == 31*8+7 {
			if err != nil {
				t.Errorf("bit 255 of E_r: %v", err)
			}
			continue
		}
		wantRefused(t, err)
	}
	other := testSecret
	other[19]++
	var r Responder
	if err := r.Open(Config{Rand: testRand(1)}, (*[96]byte)(p.flightI), &other); err != errTag {
		t.Errorf("another secret: %v", err)
	}
	// A recorded answer does not serve again.
	if err := i.Init(Config{Rand: testRand(11)}, &testSecret); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Feed(bytes.Clone(p.flightR)); err != errBox {
		t.Errorf("a recorded answer: %v", err)
	}
}

// TestNotStarted checks handshakes that nobody began.
func TestNotStarted(t *testing.T) {
	for _, h := range []obfs.Handshake{new(Initiator), new(Responder)} {
		if _, err := h.Feed([]byte("x")); err == nil || errors.Is(err, obfs.ErrHandshake) {
			t.Errorf("%T: %v, want an error that blames nobody", h, err)
		}
		d := dialogue{t, h}
		d.wantIdle()
		d.wantDone(false)
	}
}

// TestKeyOnce checks that a key serves once, copies included, and that a hello that is not answered leaves it alone.
func TestKeyOnce(t *testing.T) {
	rng := testRand(1)
	key, err := NewKey(rng)
	if err != nil {
		t.Fatal(err)
	}
	twin := *key
	var i Initiator
	if err := i.Init(Config{Rand: rng, Key: key}, &testSecret); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*Key{key, &twin, {}} {
		if err := i.Init(Config{Rand: rng, Key: k}, &testSecret); err != ErrKeyUsed {
			t.Errorf("initiator: %v, want ErrKeyUsed", err)
		}
		var r Responder
		if err := r.Open(Config{Rand: rng, Key: k}, forgeHello(t, helloPlain(1, 0), nil), &testSecret); err != ErrKeyUsed {
			t.Errorf("responder: %v, want ErrKeyUsed", err)
		}
		dialogue{t, &i}.wantIdle()
		dialogue{t, &r}.wantIdle()
	}

	if key, err = NewKey(rng); err != nil {
		t.Fatal(err)
	}
	var r Responder
	wantRefused(t, r.Open(Config{Rand: rng, Key: key}, forgeHello(t, helloPlain(0, 0), nil), &testSecret))
	if err := r.Open(Config{Rand: rng, Key: key}, forgeHello(t, helloPlain(1, 0), nil), &testSecret); err != nil {
		t.Errorf("a key that was not needed before: %v", err)
	}
	dialogue{t, &r}.wantDone(true)
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

// TestDraws checks how much is drawn, exactly, that it does not matter in which portions it comes, and that a source that fails is reported.
func TestDraws(t *testing.T) {
	c := &counter{r: testRand(1)}
	if _, err := NewKey(c); err != nil || c.n != 32 {
		t.Errorf("a key takes %d bytes, want 32 (%v)", c.n, err)
	}
	hello := forgeHello(t, helloPlain(1, 0), nil)
	for name, start := range map[string]func(r io.Reader) (out []byte, fixed int, err error){
		"initiator": func(r io.Reader) ([]byte, int, error) {
			var i Initiator
			err := i.Init(Config{Rand: r}, &testSecret)
			return i.AppendOutput(nil), 32 + 16 + 21 - HelloBytes, err
		},
		"responder": func(r io.Reader) ([]byte, int, error) {
			var s Responder
			err := s.Open(Config{Rand: r}, hello, &testSecret)
			return s.AppendOutput(nil), 32 + 21 - AnswerBytes, err
		},
	} {
		c := &counter{r: testRand(5)}
		out, fixed, err := start(c)
		if err != nil || c.n != fixed+len(out) {
			t.Errorf("%s: %d bytes were drawn, want %d (%v)", name, c.n, fixed+len(out), err)
		}
		if again, _, err := start(iotest.OneByteReader(testRand(5))); err != nil || !bytes.Equal(again, out) {
			t.Errorf("%s: drawn byte by byte: %v, or another flight", name, err)
		}
		for n := range c.n {
			out, _, err := start(io.LimitReader(testRand(5), int64(n)))
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, obfs.ErrHandshake) || len(out) != 0 {
				t.Fatalf("%s: after %d random bytes: %v, %d bytes of output", name, n, err, len(out))
			}
		}
	}
}

// TestPadRange checks that paddings reach both ends of their ranges and nothing outside.
func TestPadRange(t *testing.T) {
	for _, tt := range []struct {
		in   uint32
		want uint16
	}{{0, 0}, {512, 512}, {513, 0}, {1<<32 - 1, (1<<32 - 1) % 513}} {
		if got := drawPad(binary.BigEndian.AppendUint32(nil, tt.in)); got != tt.want {
			t.Errorf("%d: %d, want %d", tt.in, got, tt.want)
		}
	}
	for _, n := range []int{0, 512} {
		var i Initiator
		pad := bytes.Repeat([]byte{0xaa}, n)
		if err := i.Init(Config{Rand: drawer{private: make([]byte, 32), iv: make([]byte, 16), pad: pad}.reader()}, &testSecret); err != nil {
			t.Fatal(err)
		}
		if out := i.AppendOutput(nil); len(out) != 96+n || !bytes.Equal(out[96:], pad) {
			t.Errorf("a first flight of %d bytes, want %d", len(out), 96+n)
		}
	}
}

// TestTopBit checks that bit 255 of what is sent is the random bit, which a replay to other hosts would show otherwise (EMP/1 section 3).
func TestTopBit(t *testing.T) {
	private := make([]byte, 32)
	hello := func(bit int) []byte {
		var i Initiator
		if err := i.Init(Config{Rand: drawer{private: private, iv: make([]byte, 16), topBit: bit}.reader()}, &testSecret); err != nil {
			t.Fatal(err)
		}
		return i.AppendOutput(nil)
	}
	a, b := hello(0), hello(1)
	if a[67]^b[67] != 0x80 {
		t.Errorf("E_i ends in %x and %x", a[67], b[67])
	}
	b[67] ^= 0x80
	if !bytes.Equal(a, b) {
		t.Error("the bit changes more than itself")
	}
}

// TestFind checks the search for a secret.
func TestFind(t *testing.T) {
	p := newPair(t, 1)
	secrets := make([]Secret, 100)
	for i := range secrets {
		secrets[i][0] = byte(i)
	}
	if got := Find(p.flightI, secrets); got != -1 {
		t.Errorf("found %d", got)
	}
	for _, at := range []int{99, 50, 0} { // the first of several counts
		secrets[at] = testSecret
		if got := Find(p.flightI[:96], secrets); got != at {
			t.Errorf("found %d, want %d", got, at)
		}
	}
	if got := Find(p.flightI[:95], secrets); got != -1 {
		t.Errorf("found %d before byte 96", got)
	}
	if Find(p.flightI, nil) != -1 || Find(nil, secrets) != -1 {
		t.Error("found something in nothing")
	}
	for at := range 36 {
		bad := bytes.Clone(p.flightI)
		bad[at] ^= 1
		if Find(bad, secrets) != -1 {
			t.Errorf("found with byte %d changed", at)
		}
	}
	if n := testing.AllocsPerRun(20, func() { Find(p.flightI, secrets) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
