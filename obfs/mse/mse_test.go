package mse

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/parley-bt/parley/obfs"
)

var (
	_ obfs.Handshake = (*Initiator)(nil)
	_ obfs.Handshake = (*Responder)(nil)
)

// combination is what either side has and what comes of it; chosen 0 fails.
type combination struct{ offered, accepted, chosen Methods }

func combinations() (all []combination) {
	for offered := Methods(1); offered <= 3; offered++ {
		for accepted := Methods(1); accepted <= 3; accepted++ {
			c := combination{offered: offered, accepted: accepted}
			if both := offered & accepted; both&RC4 != 0 {
				c.chosen = RC4
			} else {
				c.chosen = both
			}
			all = append(all, c)
		}
	}
	return all
}

var padLengths = []int{0, 1, 511, 512}

// TestDialogue plays both sides against each other and against the oracle, byte for byte, with all methods, all lengths of pads and of IA.
func TestDialogue(t *testing.T) {
	r := rand.NewChaCha8([32]byte{10})
	for _, c := range combinations() {
		for k, ia := range []int{0, 20, 48, 68, MaxIA} {
			for pad := range 2 * len(padLengths) {
				s := randomSession(r, ia)
				s.provide, s.choice = uint32(c.offered), uint32(c.chosen)
				s.padA, s.padB = randomBytes(r, padLengths[pad%4]), randomBytes(r, padLengths[(pad+k)%4])
				s.padC, s.padD = make([]byte, padLengths[(pad+k+1)%4]), make([]byte, padLengths[(pad+pad/4)%4])
				s.compute()
				a := &side{Handshake: s.initiator(t)}
				b := &side{Handshake: s.responder(t, c.accepted), skey: &s.skey}
				same := func(what string, got, want []byte) {
					t.Helper()
					if !bytes.Equal(got, want) {
						t.Fatalf("%v, IA of %d, pads %d: %s is\n%x, want\n%x", c, ia, pad, what, got, want)
					}
				}
				a.out = a.AppendOutput(nil)
				same("step 1", a.out, s.step1)
				same("step 1 again", a.AppendOutput(nil), nil)
				b.out = b.AppendOutput(nil)
				same("step 2", b.out, s.step2)
				if err := b.feed(s.padA); err != nil {
					t.Fatal(err)
				}
				a.out = nil
				if a.Handshake.(*Initiator).Answered() {
					t.Fatal("answered too early")
				}
				if err := a.feed(b.out); err != nil {
					t.Fatal(err)
				}
				if !a.Handshake.(*Initiator).Answered() {
					t.Fatal("not answered")
				}
				same("step 3", a.out, s.step3)
				b.out = nil
				err := b.feed(a.out)
				if c.chosen == 0 {
					if !errors.Is(err, ErrNoMethod) || !errors.Is(err, obfs.ErrHandshake) || len(b.AppendOutput(nil)) > 0 {
						t.Fatalf("%v: %v", c, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				same("step 4", b.out, s.step4)
				same("IA", b.plain, s.ia)
				if err := a.feed(b.out); err != nil {
					t.Fatal(err)
				}
				if !a.done || !b.done || a.Handshake.(*Initiator).Method() != c.chosen || b.Handshake.(*Responder).Method() != c.chosen {
					t.Fatalf("%v: selected %v and %v", c, a.Handshake.(*Initiator).Method(), b.Handshake.(*Responder).Method())
				}
				b.plain = nil
				for n := range 40 {
					said := randomBytes(r, n*3)
					x := a.seal(said)
					same("a → b", x, s.say(s.inB, said))
					y := b.seal(said)
					same("b → a", y, s.say(s.inA, said))
					if err := errors.Join(b.feedIn(x, n+1), a.feedIn(y, n/2+1)); err != nil {
						t.Fatal(err)
					}
					same("read by b", b.plain, said)
					same("read by a", a.plain, said)
					a.plain, b.plain = nil, nil
				}
			}
		}
	}
}

// TestSplits checks that neither side minds how what it gets is cut: at every byte in two, and into pieces of every small size. The stream behind the handshake comes along.
func TestSplits(t *testing.T) {
	r := rand.NewChaCha8([32]byte{11})
	for _, choice := range []Methods{RC4, Plaintext} {
		for _, ia := range []int{0, 68} {
			s := randomSession(r, ia)
			s.padA, s.padB, s.padC, s.padD = s.padA[:len(s.padA)/8], s.padB[:len(s.padB)/8], s.padC[:len(s.padC)/8], s.padD[:len(s.padD)/8]
			s.provide, s.choice = uint32(choice), uint32(choice)
			s.compute()
			said := randomBytes(r, 30)
			toB := slices.Concat(s.padA, s.step3, s.say(s.inB, said))
			toA := slices.Concat(s.step2, s.step4, s.say(s.inA, said))
			try := func(what string, n int, feed func(s *side, b []byte) error) {
				t.Helper()
				a, b := &side{Handshake: s.initiator(t)}, &side{Handshake: s.responder(t, 0), skey: &s.skey}
				if err := errors.Join(feed(a, toA), feed(b, toB)); err != nil {
					t.Fatalf("%s %d: %v", what, n, err)
				}
				if !bytes.Equal(a.out, slices.Concat(s.step1, s.step3)) || !bytes.Equal(b.out, slices.Concat(s.step2, s.step4)) {
					t.Fatalf("%s %d: sent other bytes", what, n)
				}
				if !bytes.Equal(a.plain, said) || !bytes.Equal(b.plain, slices.Concat(s.ia, said)) {
					t.Fatalf("%s %d: got %x and %x", what, n, a.plain, b.plain)
				}
			}
			for n := 1; n <= 24; n++ {
				try("pieces of", n, func(s *side, b []byte) error { return s.feedIn(b, n) })
			}
			for n := range max(len(toA), len(toB)) {
				try("cut at", n, func(s *side, b []byte) error {
					n := min(n, len(b))
					return errors.Join(s.feed(b[:n]), s.feed(nil), s.feed(b[n:]))
				})
			}
		}
	}
}

// TestTruncated checks that whatever is cut off is waited for: nothing fails, nothing is sent early, nothing is done.
func TestTruncated(t *testing.T) {
	s := randomSession(rand.NewChaCha8([32]byte{12}), 68).compute()
	toA, toB := slices.Concat(s.step2, s.step4), slices.Concat(s.padA, s.step3[:len(s.step3)-len(s.ia)])
	for n := range len(toA) {
		a := &side{Handshake: s.initiator(t)}
		if err := a.feed(toA[:n]); err != nil || a.done {
			t.Fatalf("initiator after %d bytes: done %t, %v", n, a.done, err)
		}
		want := len(s.step1)
		if n >= KeyBytes { // not PadB: it may come in two parts
			want += len(s.step3)
		}
		if len(a.out) != want {
			t.Fatalf("initiator after %d bytes: %d sent, want %d", n, len(a.out), want)
		}
	}
	for n := range len(toB) {
		b := &side{Handshake: s.responder(t, 0), skey: &s.skey}
		if err := b.feed(toB[:n]); err != nil || b.done || b.stream.Opener != nil {
			t.Fatalf("responder after %d bytes: done %t, %v", n, b.done, err)
		}
		if len(b.out) != len(s.step2) {
			t.Fatalf("responder after %d bytes: %d sent", n, len(b.out))
		}
		if m := b.Handshake.(*Responder).Method(); m != 0 {
			t.Fatalf("responder after %d bytes: %v", n, m)
		}
	}
}

// TestPadBInTwo plays a responder as BiglyBT's, which sends a part of PadB before step 3 and the rest after it.
func TestPadBInTwo(t *testing.T) {
	r := rand.NewChaCha8([32]byte{13})
	for _, length := range []int{1, 2, 7, 8, 100, 511, 512} {
		s := randomSession(r, 68)
		s.padB = randomBytes(r, length)
		s.compute()
		for _, first := range []int{0, 1, length / 2, length - 1, length} {
			a := &side{Handshake: s.initiator(t)}
			a.out = a.AppendOutput(nil)
			a.out = nil
			if err := a.feed(s.step2[:KeyBytes+first]); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.out, s.step3) {
				t.Fatalf("PadB of %d, %d of them: step 3 is not there", length, first)
			}
			if err := a.feed(slices.Concat(s.step2[KeyBytes+first:], s.step4)); err != nil || !a.done {
				t.Fatalf("PadB of %d, %d of them first: done %t, %v", length, first, a.done, err)
			}
		}
	}
}

// TestFailures has everything that a side refuses.
func TestFailures(t *testing.T) {
	r := rand.NewChaCha8([32]byte{14})
	low := []byte{KeyBytes - 1: 1}
	high := bytes.Repeat([]byte{0xff}, KeyBytes)
	tests := []struct {
		name   string
		spoil  func(s *session)
		toA    func(s *session) []byte // nil: the responder is tried
		step   int
		reason string
		is     error
	}{
		{"PadA of 513", func(s *session) { s.padA = randomBytes(r, 513) }, nil, 3, "no req1 hash within 532 bytes", nil},
		{"garbage", func(s *session) { s.padA = randomBytes(r, 2000) }, nil, 3, "no req1 hash within 532 bytes", nil},
		{"PadC of 513", func(s *session) { s.padC = make([]byte, 513) }, nil, 3, "PadC of 513 bytes", nil},
		{"PadC of 65535", func(s *session) { s.lenPadC = 65535 }, nil, 3, "PadC of 65535 bytes", nil},
		{"VC of a responder's kind", func(s *session) { s.vcA[7] = 1 }, nil, 3, "VC is not zero", nil},
		{"provides nothing", func(s *session) { s.provide = 0 }, nil, 3, "crypto_provide is 0x00000000, where rc4 or plaintext is accepted", ErrNoMethod},
		{"provides others", func(s *session) { s.provide = 0xfffffffc }, nil, 3, "crypto_provide is 0xfffffffc, where rc4 or plaintext is accepted", ErrNoMethod},
		{"provides in upper bytes", func(s *session) { s.provide = 0x03030300 }, nil, 3, "crypto_provide is 0x03030300, where rc4 or plaintext is accepted", ErrNoMethod},
		{"Ya of 1", func(s *session) { copy(s.ya[:], low) }, nil, 1, "Ya is outside 2..P-2", ErrBadKey},
		{"Ya of all ones", func(s *session) { copy(s.ya[:], high) }, nil, 1, "Ya is outside 2..P-2", ErrBadKey},
		{"wrong torrent", func(s *session) { s.step3[25] ^= 1 }, nil, 3, "torrent not served here", ErrUnknownSKEY},

		{"Yb of 1", nil, func(*session) []byte { return low }, 2, "Yb is outside 2..P-2", ErrBadKey},
		{"Yb of all ones", nil, func(*session) []byte { return high }, 2, "Yb is outside 2..P-2", ErrBadKey},
		{"PadB of 513", func(s *session) { s.padB = randomBytes(r, 513) }, nil, 4, "no VC within 520 bytes", nil},
		{"garbage for PadB", func(s *session) { s.padB = randomBytes(r, 3000) }, nil, 4, "no VC within 520 bytes", nil},
		{"VC wrong", func(s *session) { s.vcB[0] = 1 }, nil, 4, "no VC within 520 bytes", nil},
		{"PadD of 513", func(s *session) { s.padD = make([]byte, 513) }, nil, 4, "PadD of 513 bytes", nil},
		{"selects nothing", func(s *session) { s.choice = 0 }, nil, 4, "crypto_select is 0x00000000, where rc4 or plaintext was offered", ErrNoMethod},
		{"selects both", func(s *session) { s.choice = 3 }, nil, 4, "crypto_select is 0x00000003, where rc4 or plaintext was offered", ErrNoMethod},
		{"selects XOR", func(s *session) { s.choice = 4 }, nil, 4, "crypto_select is 0x00000004, where rc4 or plaintext was offered", ErrNoMethod},
		{"selects what was not offered", func(s *session) { s.provide, s.choice = 2, 1 }, nil, 4, "crypto_select is 0x00000001, where rc4 was offered", ErrNoMethod},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 13, 1 << 20} {
				s := randomSession(r, 68)
				if tt.spoil != nil && tt.name != "wrong torrent" && !strings.HasPrefix(tt.name, "Ya") {
					tt.spoil(s)
				}
				s.compute()
				if tt.name == "wrong torrent" || strings.HasPrefix(tt.name, "Ya") {
					tt.spoil(s)
				}
				var one *side
				var in []byte
				switch {
				case tt.toA != nil:
					one, in = &side{Handshake: s.initiator(t)}, tt.toA(s)
				case tt.step%2 == 0:
					one, in = &side{Handshake: s.initiator(t)}, slices.Concat(s.step2, s.step4, make([]byte, 1000))
				default:
					one, in = &side{Handshake: s.responder(t, 0), skey: &s.skey}, slices.Concat(s.padA, s.step3, make([]byte, 1000))
				}
				out := one.AppendOutput(nil)
				if len(out) < KeyBytes {
					t.Fatalf("%d bytes sent", len(out))
				}
				err := one.feedIn(in, size)
				var e *Error
				if !errors.As(err, &e) || e.Step != tt.step || e.Reason != tt.reason || !errors.Is(err, obfs.ErrHandshake) || tt.is != nil && !errors.Is(err, tt.is) || e.Err != tt.is {
					t.Fatalf("in pieces of %d: %v, want step %d: %s", size, err, tt.step, tt.reason)
				}
				if rest, again := one.Feed([]byte{1}); again != err || rest != nil {
					t.Errorf("afterwards: %x, %v", rest, again)
				}
				if _, ok := one.Done(); ok {
					t.Error("done")
				}
				if r, ok := one.Handshake.(*Responder); ok && len(r.AppendOutput(nil)) > 0 {
					t.Error("a responder that failed says something")
				}
			}
		})
	}
}

// TestLongPads has pads at their ends when what is looked for is found in the last place.
func TestLongPads(t *testing.T) {
	r := rand.NewChaCha8([32]byte{15})
	for _, n := range []int{511, 512} {
		s := randomSession(r, 3)
		s.padA, s.padB = randomBytes(r, n), randomBytes(r, n)
		s.padC, s.padD = randomBytes(r, n), randomBytes(r, n) // not only zeros
		s.compute()
		a, b := &side{Handshake: s.initiator(t)}, &side{Handshake: s.responder(t, 0), skey: &s.skey}
		if err := errors.Join(a.feed(slices.Concat(s.step2, s.step4)), b.feed(slices.Concat(s.padA, s.step3))); err != nil || !a.done || !b.done {
			t.Errorf("pads of %d: %v", n, err)
		}
	}
}

// TestPadsThatMislead has pads which hold beginnings of what is looked for.
func TestPadsThatMislead(t *testing.T) {
	r := rand.NewChaCha8([32]byte{16})
	for n := 1; n < 20; n++ {
		s := randomSession(r, 3).compute()
		s.padA, s.padB = bytes.Repeat(s.req1[:n], 3), nil
		vc := s.step4[:min(n, 7)]
		s.padB = bytes.Repeat(vc, 5)
		s.compute()
		a, b := &side{Handshake: s.initiator(t)}, &side{Handshake: s.responder(t, 0), skey: &s.skey}
		if err := errors.Join(a.feedIn(slices.Concat(s.step2, s.step4), n), b.feedIn(slices.Concat(s.padA, s.step3), n)); err != nil || !a.done || !b.done {
			t.Errorf("beginnings of %d: %v", n, err)
		}
	}
}

// TestUpperBytesOfProvide has BiglyBT's habit (transcript 12e): the lowest byte counts, and in it unknown methods do no harm.
func TestUpperBytes(t *testing.T) {
	r := rand.NewChaCha8([32]byte{17})
	for provide, want := range map[uint32]Methods{0x102: RC4, 7: RC4, 0xff: RC4, 5: Plaintext, 0xffffff01: Plaintext} {
		s := randomSession(r, 3)
		s.provide = provide
		s.compute()
		b := &side{Handshake: s.responder(t, 0), skey: &s.skey}
		if err := b.feed(slices.Concat(s.padA, s.step3)); err != nil || b.Handshake.(*Responder).Method() != want {
			t.Errorf("%#x: %v, want %v; %v", provide, b.Handshake.(*Responder).Method(), want, err)
		}
	}
	s := randomSession(r, 3)
	s.choice = 0x77777702
	s.compute()
	a := &side{Handshake: s.initiator(t)}
	if err := a.feed(slices.Concat(s.step2, s.step4)); err != nil || a.Handshake.(*Initiator).Method() != RC4 {
		t.Errorf("%v", err)
	}
}

// TestLeadingZeros has numbers that begin with zero bytes, in all three places where there are numbers: 96 bytes are 96 bytes.
func TestLeadingZeros(t *testing.T) {
	r := rand.NewChaCha8([32]byte{18})
	for _, of := range []func(s *session) *[KeyBytes]byte{func(s *session) *[KeyBytes]byte { return &s.ya }, func(s *session) *[KeyBytes]byte { return &s.yb }, func(s *session) *[KeyBytes]byte { return &s.s }} {
		s := randomSession(r, 68)
		for s.compute(); of(s)[0] != 0; s.compute() {
			s.xa, s.xb = exponent(randomBytes(r, 20)), exponent(randomBytes(r, 20))
		}
		a, b := &side{Handshake: s.initiator(t)}, &side{Handshake: s.responder(t, 0), skey: &s.skey}
		if err := errors.Join(a.feed(slices.Concat(s.step2, s.step4)), b.feed(slices.Concat(s.padA, s.step3))); err != nil || !a.done || !b.done {
			t.Error(err)
		}
		if !bytes.Equal(a.out, slices.Concat(s.step1, s.step3)) || !bytes.Equal(b.out, slices.Concat(s.step2, s.step4)) {
			t.Error("sent other bytes")
		}
	}
}

// TestBadYaIsAnswered checks that step 2 does not tell what Ya was, and that nothing is computed with such a Ya.
func TestBadYaIsAnswered(t *testing.T) {
	s := randomSession(rand.NewChaCha8([32]byte{19}), 0).compute()
	s.ya = [KeyBytes]byte{}
	b := s.responder(t, 0)
	if got := b.AppendOutput(nil); !bytes.Equal(got, s.step2) {
		t.Errorf("answered with %x, want %x", got, s.step2)
	}
	if _, err := b.Feed(nil); !errors.Is(err, ErrBadKey) {
		t.Errorf("then %v", err)
	}
}

// TestAnswers has the question a responder asks.
func TestAnswers(t *testing.T) {
	s := randomSession(rand.NewChaCha8([32]byte{20}), 5).compute()
	b := s.responder(t, 0)
	b.Answer(s.skey, false) // nothing is asked
	if _, ok := b.Asked(); ok {
		t.Fatal("asks before it is fed")
	}
	in := slices.Concat(s.padA, s.step3)
	rest, err := b.Feed(in)
	asked, ok := b.Asked()
	if err != nil || !ok || asked != Req2(&s.skey) || asked != s.req2 || !bytes.Equal(rest, s.step3[40:]) {
		t.Fatalf("asked %t for %x, rest %x: %v", ok, asked, rest, err)
	}
	if again, err := b.Feed(rest); err != nil || !bytes.Equal(again, rest) {
		t.Fatalf("unanswered: %x, %v", again, err)
	}
	b.Answer(s.skey, true)
	if _, ok := b.Asked(); ok {
		t.Error("still asks")
	}
	b.Answer(s.skey, false) // too late
	if rest, err = b.Feed(rest); err != nil || len(rest) != len(s.ia) {
		t.Fatalf("answered: %x, %v", rest, err)
	}
	first, ok := b.Done()
	second, _ := b.Done()
	if !ok || first != second {
		t.Error("other streams the second time")
	}
	if rest, err := b.Feed(s.ia); err != nil || !bytes.Equal(rest, s.ia) {
		t.Errorf("done: %x, %v", rest, err)
	}
}

// TestConfigs has what an owner may get wrong.
func TestConfigs(t *testing.T) {
	broken := errors.New("no entropy")
	var i Initiator
	var r Responder
	ya := new([KeyBytes]byte)
	full := slices.Concat(make([]byte, 20), []byte{0, 3, 0, 9}, make([]byte, 3))
	for n := range len(full) {
		c := Config{Rand: io.MultiReader(bytes.NewReader(full[:n]), iotest.ErrReader(broken))}
		if err := i.Init(c, [20]byte{}, nil); !errors.Is(err, broken) || errors.Is(err, obfs.ErrHandshake) {
			t.Errorf("initiator, randomness of %d bytes: %v", n, err)
		}
		c = Config{Rand: io.MultiReader(bytes.NewReader(full[:n]), iotest.ErrReader(broken))}
		if err := r.Begin(c, ya); !errors.Is(err, broken) || errors.Is(err, obfs.ErrHandshake) {
			t.Errorf("responder, randomness of %d bytes: %v", n, err)
		}
	}
	c := Config{Rand: rand.NewChaCha8([32]byte{21})}
	if err := i.Init(c, [20]byte{}, make([]byte, MaxIA+1)); err == nil {
		t.Error("IA of 65536 bytes is taken")
	}
	c.Methods = 4
	if err := errors.Join(i.Init(c, [20]byte{}, nil)); err == nil || err.Error() != "mse: there are no methods 4" {
		t.Error(err)
	}
	if err := r.Begin(c, ya); err == nil {
		t.Error("methods 4 are taken")
	}
}

// TestPadsAreUniform checks that a draw which would prefer short pads is repeated, and that all lengths occur.
func TestPadsAreUniform(t *testing.T) {
	draw := func(b ...byte) int {
		c := Config{Rand: bytes.NewReader(b)}
		n, err := c.padBytes(make([]byte, 2))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := draw(0xfe, 0x7e); got != 512 { // 65,150 is the last that counts
		t.Error(got)
	}
	if got := draw(0xfe, 0x7f, 0xff, 0xff, 0x00, 0x07); got != 7 {
		t.Error(got)
	}
	c := Config{Rand: rand.NewChaCha8([32]byte{22})}
	var seen [MaxPad + 1]int
	for range 100 * len(seen) {
		n, err := c.padBytes(make([]byte, 2))
		if err != nil {
			t.Fatal(err)
		}
		seen[n]++
	}
	for n, times := range seen {
		if times < 50 || times > 160 {
			t.Errorf("%d bytes were drawn %d times in 100 · 513", n, times)
		}
	}
}

// TestSecretsAreForgotten checks that what gives S away is gone when it has done its work, also after a failure.
func TestSecretsAreForgotten(t *testing.T) {
	s := randomSession(rand.NewChaCha8([32]byte{23}), 5).compute()
	i, r := s.initiator(t), s.responder(t, 0)
	a, b := &side{Handshake: i}, &side{Handshake: r, skey: &s.skey}
	if err := errors.Join(a.feed(s.step2), b.feed(slices.Concat(s.padA, s.step3))); err != nil {
		t.Fatal(err)
	}
	if i.x != (exponent{}) || r.x != (exponent{}) || r.key != ([KeyBytes]byte{}) || i.key == s.s {
		t.Error("secrets are kept")
	}
	if i.flights != nil || r.flights != nil {
		t.Error("what was sent is kept")
	}
	r = s.responder(t, 0)
	b = &side{Handshake: r}
	if err := b.feed(slices.Concat(s.padA, s.step3)); !errors.Is(err, ErrUnknownSKEY) {
		t.Fatal(err)
	}
	if r.key != ([KeyBytes]byte{}) {
		t.Error("S is kept after a failure")
	}
}
