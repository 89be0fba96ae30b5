package veil

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/parley-bt/parley/obfs"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

// testRand is a source that is the same in every run, one for each seed.
func testRand(seed uint64) *rand.ChaCha8 {
	var s [32]byte
	binary.BigEndian.PutUint64(s[:], seed)
	return rand.NewChaCha8(s)
}

// testSecret is the secret of the tests that need only one.
var testSecret = Secret([]byte("an info-hash, 20 b.."))

// drawer makes what Config.Rand is read for, in the order that Config documents; what is nil or zero is left out or zero.
type drawer struct {
	private []byte
	iv      []byte
	topBit  int
	pad     []byte // of which a responder's is 36 bytes longer than the number that is drawn
	less    int
	records [4]int
}

func (d drawer) reader() io.Reader {
	var b []byte
	b = append(b, d.private...)
	b = append(b, d.iv...)
	b = append(b, byte(d.topBit)<<7)
	b = binary.BigEndian.AppendUint32(b, uint32(len(d.pad)-d.less))
	for _, n := range d.records {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return bytes.NewReader(append(b, d.pad...))
}

// pair is both sides of a session.
type pair struct {
	i                Initiator
	r                Responder
	flightI, flightR []byte
	si, sr           obfs.Streams
}

// newPair runs a handshake in which everything comes as a whole.
func newPair(t testing.TB, seed uint64) *pair {
	t.Helper()
	p := new(pair)
	if err := p.i.Init(Config{Rand: testRand(2 * seed)}, &testSecret); err != nil {
		t.Fatal(err)
	}
	p.flightI = p.i.AppendOutput(nil)
	if err := p.r.Open(Config{Rand: testRand(2*seed + 1)}, (*[HelloBytes]byte)(p.flightI), &testSecret); err != nil {
		t.Fatal(err)
	}
	p.flightR = p.r.AppendOutput(nil)
	if rest, err := p.r.Feed(bytes.Clone(p.flightI[HelloBytes:])); err != nil || len(rest) != 0 {
		t.Fatalf("the responder left %d bytes: %v", len(rest), err)
	}
	rest, err := p.i.Feed(bytes.Clone(p.flightR))
	if err != nil {
		t.Fatal(err)
	}
	var ok1, ok2 bool
	p.si, ok1 = p.i.Done()
	p.sr, ok2 = p.r.Done()
	if !ok1 || !ok2 {
		t.Fatalf("done: initiator %v, responder %v", ok1, ok2)
	}
	if plain := mustOpen(t, p.si.Opener, rest); len(plain) != 0 {
		t.Fatalf("padding opened as %x", plain)
	}
	return p
}

// seal seals a copy of payload.
func seal(s obfs.Sealer, payload []byte) []byte {
	return s.Seal(nil, append(make([]byte, obfs.Headroom), payload...))
}

// openAll opens a copy of b and returns what came out of it before there was an error.
func openAll(o obfs.Opener, b []byte) (plain []byte, err error) {
	b = bytes.Clone(b)
	for {
		p, rest, err := o.Open(b)
		if err != nil {
			return plain, err
		}
		plain = append(plain, p...)
		if len(rest) == 0 {
			return plain, nil
		}
		b = rest
	}
}

func mustOpen(t testing.TB, o obfs.Opener, b []byte) []byte {
	t.Helper()
	plain, err := openAll(o, b)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// wantRefused checks that a handshake failed for what the peer sent, and that the opposite of an error is not there.
func wantRefused(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, obfs.ErrHandshake) {
		t.Fatalf("error %v, want one that wraps obfs.ErrHandshake", err)
	}
}

// wantBroken checks that an opener failed, as it should, and stays so.
func wantBroken(t testing.TB, o obfs.Opener, err error) {
	t.Helper()
	if r, ok := errors.AsType[*RecordError](err); !ok || !errors.Is(err, obfs.ErrRecord) || r.Reason == "" {
		t.Fatalf("error %v, want a *RecordError", err)
	}
	if o.Held() != 0 {
		t.Fatalf("%d bytes are held after an error", o.Held())
	}
	for _, b := range [][]byte{nil, make([]byte, 100)} {
		if plain, rest, again := o.Open(b); again != err || len(plain) != 0 || len(rest) != 0 {
			t.Fatalf("after an error: %x, %x, %v", plain, rest, again)
		}
	}
}
