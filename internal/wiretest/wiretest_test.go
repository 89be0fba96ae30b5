package wiretest

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := Parse("f.txt", `
# A comment.
vector: one
  0001 "a|b\x00"   | annotation with ff
  ff*3 "xy"*2
means: thing: n=0x10 data="x y" name=0102 m=a m="b c":2

vector: two
reads as: empty
vector: three
  00
fails: too short
`)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d vectors, %v", len(got), err)
	}
	v := got[0]
	if want := []byte("\x00\x01a|b\x00\xff\xff\xffxyxy"); !bytes.Equal(v.Bytes, want) {
		t.Errorf("bytes %q, want %q", v.Bytes, want)
	}
	if v.Name != "one" || v.File != "f.txt:3" || v.ReadOnly || v.Fails != "" || v.Means.Kind != "thing" {
		t.Errorf("vector %+v", v)
	}
	if s := v.Means.String(); s != `thing: n=0x10 data="x y" name=0102 m=a m="b c":2` {
		t.Errorf("value %s", s)
	}
	r := v.Means.Read()
	if n, d, x, m := r.Uint("n"), r.Bytes("data"), r.Bytes("name"), r.Texts("m"); n != 16 || string(d) != "x y" || !bytes.Equal(x, []byte{1, 2}) ||
		!slices.Equal(m, []string{"a", `"b c":2`}) || r.Err() != nil {
		t.Errorf("fields %d %q %x %q, %v", n, d, x, m, r.Err())
	}
	if r.Uint("absent") != 0 || r.Bytes("absent") != nil || r.Texts("absent") != nil || r.Err() != nil {
		t.Errorf("absent fields: %v", r.Err())
	}
	if !got[1].ReadOnly || got[1].Means.Kind != "empty" || got[1].Means.Read().Err() != nil {
		t.Errorf("vector %+v", got[1])
	}
	if got[2].Fails != "too short" || !bytes.Equal(got[2].Bytes, []byte{0}) {
		t.Errorf("vector %+v", got[2])
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"bytes first":       "00",
		"no meaning":        "vector: a\n00\nvector: b\nmeans: x",
		"no meaning at end": "vector: a\n00",
		"two meanings":      "vector: a\nmeans: x\nmeans: y",
		"bytes behind":      "vector: a\nmeans: x\n00",
		"a name twice":      "vector: a\nmeans: x\nvector: a\nmeans: x",
		"odd digits":        "vector: a\n000\nmeans: x",
		"open string":       "vector: a\n\"abc\nmeans: x",
		"bad repetition":    "vector: a\n00*x\nmeans: x",
		"bad repetition 2":  "vector: a\n\"a\"*0\nmeans: x",
		"no value":          "vector: a\n00\nmeans: x: n",
	} {
		if got, err := Parse("f.txt", text); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	for name, read := range map[string]func(*Reader){
		"unread field": func(r *Reader) {},
		"not a number": func(r *Reader) { r.Uint("n") },
		"not bytes":    func(r *Reader) { r.Bytes("n") },
	} {
		r := Value{"x", []Field{{"n", "zz"}}}.Read()
		if read(r); r.Err() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSegmentations(t *testing.T) {
	for _, n := range []int{1, 2, 10, 600} {
		count := 0
		for s := range Segmentations(1, n) {
			count++
			sum := 0
			for _, k := range s {
				if k < 1 {
					t.Fatalf("%d bytes: segments %v", n, s)
				}
				sum += k
			}
			if sum != n {
				t.Fatalf("%d bytes: segments %v", n, s)
			}
		}
		if count < 33+min(n, 512) {
			t.Errorf("%d bytes: only %d segmentations", n, count)
		}
	}
}

// A consumer that keeps what it borrowed must not pass.
func TestSplitsFindsBorrowers(t *testing.T) {
	keeps := func(segments iter.Seq[[]byte]) string {
		var kept [][]byte
		for s := range segments {
			kept = append(kept, s)
		}
		return string(bytes.Join(kept, nil))
	}
	copies := func(segments iter.Seq[[]byte]) string {
		var all []byte
		for s := range segments {
			all = append(all, s...)
		}
		return string(all)
	}
	if got := keeps(Cut([]byte("abc"), []int{1})); got != "\xee\xee\xee" {
		t.Errorf("kept segments hold %q", got)
	}
	TestSplits(t, 1, []byte("some bytes"), copies)
	for _, by := range []string{"", "\x00", "\x03\x01"} {
		if got := copies(CutBy([]byte("some bytes"), []byte(by))); got != "some bytes" {
			t.Errorf("cut by %q: %q", by, got)
		}
	}
	var sizes []string
	for s := range CutBy([]byte("some bytes"), []byte("\x03\x00")) {
		sizes = append(sizes, fmt.Sprint(len(s)))
	}
	if fmt.Sprint(sizes) != "[3 1 3 1 2]" {
		t.Errorf("segments of %v", sizes)
	}
}
