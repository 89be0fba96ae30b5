package bencode_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	scan "github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/codec/bencode"
)

type file struct {
	Path   []string         `bencode:"path"`
	Length int64            `bencode:"length"`
	Hash   []byte           `bencode:"hash"`
	Attr   map[string]int   `bencode:"attr,omitempty"`
	Inside *file            `bencode:"inside,omitempty"`
	More   []map[string]any `bencode:"more,omitempty"`
	secret int
}

func someFile() file {
	return file{Path: []string{"a", "ü ☃"}, Length: math.MinInt64, Hash: []byte{0, 255}, Attr: map[string]int{"z": 1, "a": -2}, Inside: &file{Path: []string{}, Hash: []byte{}},
		More: []map[string]any{{"list": []any{int64(1), "x"}}}}
}

func TestRoundTrip(t *testing.T) {
	want := someFile()
	b, err := bencode.Codec.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got file
	if err := bencode.Codec.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	clear(b) // it was borrowed
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if b, err := bencode.Codec.Marshal(map[string]any{"b": 1, "a": []string{"x"}}); err != nil || string(b) != "d1:al1:xe1:bi1ee" {
		t.Errorf("written as %q, %v", b, err)
	}
	for _, v := range []any{nil, 0.5, make(chan int), uint64(math.MaxUint64), []any{nil}, map[int]int{1: 1}, deep(bencode.MaxDepth + 1)} {
		if b, err := bencode.Codec.Marshal(v); err == nil {
			t.Errorf("%T is written as %.40q", v, b)
		}
	}
}

// deep returns lists in lists.
func deep(n int) any {
	if n == 0 {
		return "x"
	}
	return []any{deep(n - 1)}
}

// What strangers may send that is refused, whatever it is to be read into.
func TestRefused(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("l", n) + strings.Repeat("e", n) }
	for name, in := range map[string]string{
		"nothing":                       "",
		"cut short":                     "d4:path",
		"something behind it":           "dei1e",
		"one key twice":                 "d6:lengthi1e6:lengthi2ee",
		"keys out of order":             "d4:path0:6:lengthi1ee",
		"an integer too large":          "i9223372036854775808e",
		"a leading zero":                "i01e",
		"nested too deep":               nested(bencode.MaxDepth + 1),
		"nested a million deep":         nested(1 << 20),
		"a million lists":               strings.Repeat("l", 1<<20),
		"too many values":               "l" + strings.Repeat("i1e", bencode.MaxItems) + "e",
		"a longer string than there is": "134217727:x",
		"a longer key than there is":    "d134217727:x",
		"a negative length":             "-1:x",
	} {
		t.Run(name, func(t *testing.T) {
			for _, into := range []any{new(any), new(file), new([]int), new(map[string]any), new(string), new([]byte), new([4]byte), new(int), new(bool)} {
				if err := bencode.Codec.Unmarshal([]byte(in), into); err == nil {
					t.Errorf("read into %T: %v", into, into)
				}
			}
		})
	}
	if e, ok := errors.AsType[*scan.SyntaxError](bencode.Codec.Unmarshal([]byte("lx"), new(any))); !ok || e.Offset != 1 {
		t.Errorf("not bencoded: %v", e)
	}
	var x any
	if err := bencode.Codec.Unmarshal([]byte(nested(bencode.MaxDepth)), &x); err != nil {
		t.Errorf("at the deepest: %v", err)
	}
	// The library panics at the name of a field that is not exported.
	f := file{secret: 1}
	if err := bencode.Codec.Unmarshal([]byte("d6:secreti2ee"), &f); err == nil || f.secret != 1 {
		t.Errorf("a field that is not exported: %v, it is %d", err, f.secret)
	}
	if err := bencode.Codec.Unmarshal([]byte("d1:ai2ee"), new(map[int]int)); err == nil {
		t.Error("a key became an int")
	}
	for _, into := range []any{nil, file{}, (*file)(nil)} {
		if err := bencode.Codec.Unmarshal([]byte("de"), into); err == nil {
			t.Errorf("read into %#v", into)
		}
	}
}

// What 64 KiB, the usual largest message, can be made to take.
func TestMemory(t *testing.T) {
	const size = 65_534
	for name, in := range map[string]string{
		"empty lists":        "l" + strings.Repeat("le", size/2) + "e",
		"empty dictionaries": "l" + strings.Repeat("de", size/2) + "e",
		"empty strings":      "l" + strings.Repeat("0:", size/2) + "e",
		"a claim":            "134217727:",
	} {
		for _, into := range []any{new(any), new([]int), new([]file), new(string), new([]byte)} {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			err := bencode.Codec.Unmarshal([]byte(in), into)
			runtime.GC()
			runtime.ReadMemStats(&after)
			kept := int64(after.HeapAlloc) - int64(before.HeapAlloc)
			t.Logf("%s into %T: %d bytes take %d, %v", name, into, len(in), kept, err)
			if kept > 80*int64(len(in))+64<<10 {
				t.Errorf("%s into %T: %d bytes take %d", name, into, len(in), kept)
			}
			runtime.KeepAlive(into)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	b, err := bencode.Codec.Marshal(someFile())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(b), "d6:secreti2ee", "l" + strings.Repeat("l", 40), "d4:pathli1eee", "d4:pathi1ee", "lli1eee", "d6:insided6:insidedeee", "d4:hash300000:e", "i-0e", "d4:attrli1eee"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var v file
		_ = bencode.Codec.Unmarshal(in, &v) // it need not be one; it must not panic
		var x any
		if bencode.Codec.Unmarshal(in, &x) != nil {
			return
		}
		out, err := bencode.Codec.Marshal(x)
		if err != nil || !bytes.Equal(in, out) { // there is one form
			t.Fatalf("%q is read as %#v and written as %q, %v", in, x, out, err)
		}
	})
}
