package mse

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/obfs"
)

// hexBytes stand in JSON as hexadecimal digits.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// vectorIn is what a vector starts from. The same fields are in the vectors of a second implementation.
type vectorIn struct {
	SKEY    hexBytes `json:"skey"`
	XA      hexBytes `json:"xa"`
	XB      hexBytes `json:"xb"`
	PadA    hexBytes `json:"pad_a"`
	PadB    hexBytes `json:"pad_b"`
	PadC    hexBytes `json:"pad_c"`
	PadD    hexBytes `json:"pad_d"`
	Provide uint32   `json:"crypto_provide"`
	Select  uint32   `json:"crypto_select"`
	IA      hexBytes `json:"ia"`
	HelloA  hexBytes `json:"hello_a"`
	HelloB  hexBytes `json:"hello_b"`

	Accept  Methods `json:"crypto_accept,omitempty"` // what the responder accepts; 0: both
	Refuses string  `json:"refused_by,omitempty"`    // which role fails
}

// vectorOut is what follows from it.
type vectorOut struct {
	Ya       hexBytes `json:"ya"`
	Yb       hexBytes `json:"yb"`
	S        hexBytes `json:"s"`
	Req1     hexBytes `json:"req1"`
	Who      hexBytes `json:"req2_xor_req3"`
	VC       hexBytes `json:"vc_as_a_sees_it"`
	Step1    hexBytes `json:"step1"`
	Step2    hexBytes `json:"step2"`
	Step3    hexBytes `json:"step3"`
	Step4    hexBytes `json:"step4"`
	ThenAToB hexBytes `json:"then_a_to_b"`
	ThenBToA hexBytes `json:"then_b_to_a"`
	Error    string   `json:"error,omitempty"`
}

// session returns the vector's session, computed by the oracle.
func (in *vectorIn) session() *session {
	s := &session{xa: exponent(in.XA), xb: exponent(in.XB), padA: in.PadA, padB: in.PadB, padC: in.PadC, padD: in.PadD, skey: [20]byte(in.SKEY), provide: in.Provide, choice: in.Select, ia: in.IA}
	return s.compute()
}

// play plays both roles from in and returns what they make of it. What either says after the handshake is its hello, as far as it was not in IA.
func (in *vectorIn) play(t *testing.T) (out vectorOut) {
	t.Helper()
	s := in.session()
	a, b := &side{Handshake: s.initiator(t)}, &side{Handshake: s.responder(t, in.Accept), skey: &s.skey}
	out.S, out.VC = s.s[:], s.step4[:vcBytes] // nobody says these; the oracle does
	out.Step1, out.Step2 = a.AppendOutput(nil), b.AppendOutput(nil)
	out.Ya, out.Yb = out.Step1[:KeyBytes], out.Step2[:KeyBytes]
	if err := errors.Join(b.feed(out.Step1[KeyBytes:]), a.feed(out.Step2)); err != nil {
		t.Fatal(err)
	}
	out.Step3 = a.out
	out.Req1, out.Who = out.Step3[:20], out.Step3[20:40]
	if err := b.feed(out.Step3); err != nil {
		var e *Error
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		out.Error = e.Reason
		return out
	}
	out.Step4 = b.out
	if !bytes.Equal(b.plain, in.IA) {
		t.Fatalf("IA is %x, want %x", b.plain, in.IA)
	}
	if err := a.feed(out.Step4); err != nil {
		t.Fatal(err)
	}
	if got := a.Handshake.(*Initiator).Method(); got != Methods(in.Select) || b.Handshake.(*Responder).Method() != got || !a.done || !b.done {
		t.Fatalf("selected %v, want %d", got, in.Select)
	}
	rest := in.HelloA[min(len(in.IA), len(in.HelloA)):]
	out.ThenAToB, out.ThenBToA = bytes.Clone(a.seal(rest)), bytes.Clone(b.seal(in.HelloB))
	b.plain = nil
	if err := errors.Join(b.feed(out.ThenAToB), a.feed(out.ThenBToA)); err != nil || !bytes.Equal(b.plain, rest) || !bytes.Equal(a.plain, in.HelloB) {
		t.Fatalf("%x and %x were read, want %x and %x: %v", b.plain, a.plain, rest, in.HelloB, err)
	}
	return out
}

func same(t *testing.T, got, want *vectorOut) {
	t.Helper()
	g, err1 := json.MarshalIndent(got, "", " ")
	w, err2 := json.MarshalIndent(want, "", " ")
	if errors.Join(err1, err2) != nil || !bytes.Equal(g, w) {
		t.Errorf("got %s\nwant %s", g, w)
	}
}

// TestSharedVectors plays the transcripts of a second implementation.
func TestSharedVectors(t *testing.T) {
	vectors := wiretest.LoadShared(t, "mse.json")
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			if v.Name == "RC4 key stream" {
				var in struct{ Key hexBytes }
				var out struct{ Stream hexBytes }
				v.Unpack(t, &in, &out)
				var c rc4
				key := [20]byte(in.Key)
				c.init(&key)
				got := make([]byte, len(out.Stream))
				if c.xor(got); !bytes.Equal(got, out.Stream) {
					t.Errorf("%x, want %x", got, out.Stream)
				}
				return
			}
			var in vectorIn
			var want vectorOut
			v.Unpack(t, &in, &want)
			in.Accept = Methods(in.Select) // the vectors do not say why it was selected
			got := in.play(t)
			same(t, &got, &want)
		})
	}
	t.Logf("checked %d vectors of a second implementation", len(vectors))
}

// vectorFile is a file of vectors in the form of that second implementation.
type vectorFile struct {
	Format  int         `json:"format"`
	File    string      `json:"file"`
	Note    string      `json:"note"`
	Vectors []ownVector `json:"vectors"`
}

type ownVector struct {
	Name    string    `json:"name"`
	Section string    `json:"section"`
	In      vectorIn  `json:"in"`
	Out     vectorOut `json:"out"`
}

// inputs returns what the published vectors start from.
func inputs() (all []ownVector) {
	r := rand.NewChaCha8([32]byte{'v', 'e', 'c', 't', 'o', 'r', 's'})
	hello := func(peer string) []byte {
		return slices.Concat([]byte("\x13BitTorrent protocol"), []byte{5: 0x10, 7: 5}, bytes.Repeat([]byte{0xab}, 20), []byte(peer))
	}
	for _, v := range []struct {
		name                   string
		provide                uint32
		accept, chosen         Methods
		ia, padA, padB, padC   int
		padD                   int
		zeroYa, zeroYb, zeroS0 bool
	}{
		{name: "both offer all", provide: 3, chosen: RC4, ia: 68, padA: 33, padB: 44, padC: 5, padD: 6},
		{name: "RC4 only, first 48 bytes of the hello in IA", provide: 2, chosen: RC4, ia: 48, padA: 1, padB: 2, padC: 3, padD: 4},
		{name: "plaintext only, IA", provide: 1, chosen: Plaintext, ia: 68, padA: 10, padB: 20, padC: 30, padD: 40},
		{name: "responder accepts plaintext only, no IA", provide: 3, accept: Plaintext, chosen: Plaintext, padA: 7, padB: 6},
		{name: "responder accepts RC4 only, 20 bytes of IA", provide: 3, accept: RC4, chosen: RC4, ia: 20},
		{name: "longest pads", provide: 2, chosen: RC4, padA: MaxPad, padB: MaxPad, padC: MaxPad, padD: MaxPad},
		{name: "no pads, no IA", provide: 2, chosen: RC4},
		{name: "Ya begins with a zero byte", provide: 2, chosen: RC4, ia: 68, zeroYa: true},
		{name: "Yb begins with a zero byte", provide: 2, chosen: RC4, ia: 68, zeroYb: true},
		{name: "S begins with a zero byte", provide: 2, chosen: RC4, ia: 68, zeroS0: true},
		{name: "no method in common", provide: 1, accept: RC4, ia: 68, padA: 3, padB: 2, padC: 1},
	} {
		in := vectorIn{SKEY: bytes.Repeat([]byte{0xab}, 20), XA: randomBytes(r, 20), XB: randomBytes(r, 20), PadA: randomBytes(r, v.padA), PadB: randomBytes(r, v.padB),
			PadC: make([]byte, v.padC), PadD: make([]byte, v.padD), Provide: v.provide, Select: uint32(v.chosen), HelloA: hello("-AA0001-aaaaaaaaaaaa"), HelloB: hello("-BB0001-bbbbbbbbbbbb"), Accept: v.accept}
		in.IA = in.HelloA[:v.ia]
		if v.chosen == 0 {
			in.Refuses = "responder"
		}
		for {
			s := in.session()
			if (!v.zeroYa || s.ya[0] == 0) && (!v.zeroYb || s.yb[0] == 0) && (!v.zeroS0 || s.s[0] == 0) {
				break
			}
			in.XA, in.XB = randomBytes(r, 20), randomBytes(r, 20)
		}
		all = append(all, ownVector{Name: v.name, Section: "2, azmp 9", In: in})
	}
	return all
}

// TestVectors checks the vectors that this package publishes: they are what it does, and what the oracle says.
func TestVectors(t *testing.T) {
	const name = "testdata/vectors.json"
	if *update {
		file := vectorFile{Format: 1, File: "mse", Vectors: inputs(),
			Note: "Whole transcripts of MSE; section is that of EMP/1. Byte strings are hexadecimal. in: the SKEY, both exponents (20 bytes, most significant first), the pads, what is offered " +
				"(crypto_provide), accepted (crypto_accept; all if it is missing) and selected, IA, and the hellos, of which what is not in IA follows. out: all bytes, and S. " +
				"error: refused_by fails after step 3."}
		for k := range file.Vectors {
			file.Vectors[k].Out = file.Vectors[k].In.play(t)
		}
		b, err := json.MarshalIndent(file, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var file vectorFile
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 11 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			got := v.In.play(t)
			same(t, &got, &v.Out)
			s := v.In.session()
			if !bytes.Equal(v.Out.Step1, s.step1) || !bytes.Equal(v.Out.Step2, s.step2) || !bytes.Equal(v.Out.Step3, s.step3) || v.Out.Error == "" && !bytes.Equal(v.Out.Step4, s.step4) {
				t.Error("the oracle says something else")
			}
		})
	}
}

// A recording is a transcript of a test peer with BiglyBT 4.1.0.1, up to the end of its handshake: INDEX.txt of the recordings has what each is about.
type recording struct {
	notes string   // the lines that begin with #
	ours  [][]byte // the test peer's flights
	bigly [][]byte
}

func readRecording(t *testing.T, path string) (rec recording) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			rec.notes += line
			continue
		}
		kind, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		flight, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		switch kind {
		case ">w":
			rec.ours = append(rec.ours, flight)
		case "<w":
			rec.bigly = append(rec.bigly, flight)
		default:
			t.Fatalf("line %q", line)
		}
	}
	return rec
}

// hex returns the bytes that the notes have for pattern, which has one group.
func (rec *recording) hex(t *testing.T, pattern string) []byte {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(rec.notes)
	if m == nil {
		t.Fatalf("nothing in the notes is %q", pattern)
	}
	b, err := hex.DecodeString(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (rec *recording) number(t *testing.T, pattern string, base int) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(rec.notes)
	if m == nil {
		t.Fatalf("nothing in the notes is %q", pattern)
	}
	n, err := strconv.ParseUint(m[1], base, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// TestBiglyBTAnswers repeats recordings of BiglyBT as responder: with the test peer's randomness we send what it sent, and read what BiglyBT answered.
func TestBiglyBTAnswers(t *testing.T) {
	paths, err := filepath.Glob("testdata/biglybt/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	played := 0
	for _, path := range paths {
		if strings.Contains(path, "outbound") {
			continue
		}
		played++
		t.Run(filepath.Base(path), func(t *testing.T) {
			rec := readRecording(t, path)
			x := exponent(rec.hex(t, `secret exponent Xa [^:]*: (\w+)`))
			provide := rec.number(t, `crypto_provide=(\w{8})`, 16)
			ia := rec.hex(t, `len\(IA\)=\d+ IA=(\w*)`)
			var i Initiator
			c := Config{Rand: script(x, rec.ours[0][KeyBytes:], rec.number(t, `step 3 clear.* len\(PadC\)=(\d+)`, 10))}
			if err := i.Init(c, [20]byte(rec.hex(t, `SKEY: (\w+)`)), ia); err != nil {
				t.Fatal(err)
			}
			i.offered = Methods(provide) // the recordings offer what nobody can choose
			a := &side{Handshake: &i}
			if a.out = a.AppendOutput(nil); !bytes.Equal(a.out, rec.ours[0]) {
				t.Fatalf("step 1 is %x, want %x", a.out, rec.ours[0])
			}
			a.out = nil
			if err := a.feed(rec.bigly[0]); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.out, rec.ours[1]) {
				t.Fatalf("step 3 is %x, want %x", a.out, rec.ours[1])
			}
			if len(rec.bigly) == 1 { // it closed, or waited for more of IA
				return
			}
			if err := a.feedIn(rec.bigly[1], 50); err != nil || !a.done || len(a.plain) > 0 {
				t.Fatalf("step 4: done %t, then %x: %v", a.done, a.plain, err)
			}
			if got, want := int(i.Method()), rec.number(t, `crypto_select=(\d)`, 10); got != want {
				t.Errorf("selected %d, want %d", got, want)
			}
		})
	}
	if played < 16 {
		t.Errorf("%d recordings", played)
	}
}

// TestBiglyBTDials repeats recordings of BiglyBT as initiator.
func TestBiglyBTDials(t *testing.T) {
	for name, accepted := range map[string]Methods{"10c-outbound-mse-azmp": RC4, "10d-outbound-mse-minlevel-plain": Plaintext} {
		t.Run(name, func(t *testing.T) {
			rec := readRecording(t, "testdata/biglybt/"+name+".txt")
			x := exponent(rec.hex(t, `secret exponent Xb [^:]*: (\w+)`))
			step4 := rec.hex(t, `step 4 clear part: (\w+)`)
			skey := [20]byte(rec.hex(t, `SKEY used by BiglyBT: (\w+)`))
			var r Responder
			if err := r.Begin(Config{Rand: script(x, rec.ours[0][KeyBytes:], len(step4)-headBytes), Methods: accepted}, (*[KeyBytes]byte)(rec.bigly[0])); err != nil {
				t.Fatal(err)
			}
			b := &side{Handshake: &r, skey: &skey}
			if got := b.AppendOutput(nil); !bytes.Equal(got, rec.ours[0]) {
				t.Fatalf("step 2 is %x, want %x", got, rec.ours[0])
			}
			if err := errors.Join(b.feed(rec.bigly[0][KeyBytes:]), b.feedIn(rec.bigly[1], 50)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.out, rec.ours[1]) {
				t.Errorf("step 4 is %x, want %x", b.out, rec.ours[1])
			}
			if want := rec.hex(t, `IA decrypted: (\w+)`); !bytes.Equal(b.plain, want) || r.Method() != accepted {
				t.Errorf("IA is %x, want %x; %v", b.plain, want, r.Method())
			}
		})
	}
}

// TestNothingIsAllocated checks what the streams promise.
func TestNothingIsAllocated(t *testing.T) {
	for _, method := range []Methods{RC4, Plaintext} {
		s := randomSession(rand.NewChaCha8([32]byte{40}), 60_000)
		s.provide, s.choice = uint32(method), uint32(method)
		s.compute()
		a, b := &side{Handshake: s.initiator(t)}, &side{Handshake: s.responder(t, 0), skey: &s.skey}
		if err := errors.Join(a.feed(append(s.step2, s.step4...)), b.feed(append(s.padA, s.step3[:len(s.step3)-len(s.ia)]...))); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, obfs.Headroom+1000)
		for _, st := range []obfs.Streams{a.stream, b.stream} {
			if n := testing.AllocsPerRun(100, func() { // the responder's get from IA into what follows it
				st.Opener.Open(buf)
				st.Sealer.Seal(nil, buf)
			}); n != 0 {
				t.Errorf("%v: %v allocations", method, n)
			}
			if st.Opener.Held() != 0 || st.Sealer.SealedBytes(1000) != 0 {
				t.Errorf("%v: holds %d, needs %d", method, st.Opener.Held(), st.Sealer.SealedBytes(1000))
			}
			if got := st.Sealer.Seal(nil, buf); &got[0] != &buf[obfs.Headroom] || len(got) != 1000 {
				t.Errorf("%v: sealed elsewhere", method)
			}
			if got := st.Sealer.Seal(nil, buf[:obfs.Headroom]); len(got) != 0 {
				t.Errorf("%v: nothing is sealed as %x", method, got)
			}
			if plain, rest, err := st.Opener.Open(nil); len(plain) != 0 || len(rest) != 0 || err != nil {
				t.Errorf("%v: nothing is opened as %x, %x: %v", method, plain, rest, err)
			}
		}
		if o, ok := b.stream.Opener.(*iaOpener); ok != (method == Plaintext) || ok && o.ia != nil {
			t.Errorf("%v: the state of a key stream that has ended is kept", method)
		}
	}
}
