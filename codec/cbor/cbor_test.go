package cbor_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	fx "github.com/fxamacker/cbor/v2"

	"github.com/parley-bt/parley/codec/cbor"
)

type note struct {
	Text  string            `cbor:"text"`
	Blob  []byte            `cbor:"blob,omitempty"`
	Ratio float64           `cbor:"ratio"`
	When  time.Time         `cbor:"when"`
	Tags  map[string]string `cbor:"tags,omitempty"`
	Next  *note             `cbor:"next,omitempty"`
	inner string
}

func someNote() note {
	return note{Text: "ünïcödé ☃", Blob: []byte{0, 255}, Ratio: 0.1, When: time.Date(2026, 1, 2, 3, 4, 5, 6789, time.UTC), Tags: map[string]string{"b": "2", "a": "1"},
		Next: &note{Text: "another", Ratio: math.Inf(1)}}
}

func TestRoundTrip(t *testing.T) {
	want := someNote()
	b, err := cbor.Codec.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	again, err := cbor.Codec.Marshal(want)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("the same value is written as %x and %x, %v", b, again, err)
	}
	var got note
	if err := cbor.Codec.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	clear(b) // it was borrowed
	if !got.When.Equal(want.When) {
		t.Errorf("the time %v came back as %v", want.When, got.When)
	}
	got.When = want.When
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	var any any
	if b, err = cbor.Codec.Marshal(map[string]int{"z": 1}); err != nil {
		t.Fatal(err)
	}
	if err := cbor.Codec.Unmarshal(b, &any); err != nil || !reflect.DeepEqual(any, map[string]interface{}{"z": uint64(1)}) {
		t.Errorf("read as any: %#v, %v", any, err)
	}
	if _, err := cbor.Codec.Marshal(make(chan int)); err == nil {
		t.Error("a channel is written")
	}
}

// What strangers may send that is refused, whatever it is to be read into.
func TestRefused(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("\x81", n) + "\x00" }
	for name, in := range map[string]string{
		"nothing":                       "",
		"cut short":                     "\x82\x01",
		"something behind it":           "\x01\x01",
		"one key twice":                 "\xa2\x61a\x01\x61a\x02",
		"an array of unknown length":    "\x9f\x01\xff",
		"a text of unknown length":      "\x7f\x61a\xff",
		"text that is not UTF-8":        "\x61\xff",
		"nested too deep":               deep(cbor.MaxDepth + 1),
		"nested a million deep":         deep(1 << 20),
		"more elements than there are":  "\x9b\x00\x00\x00\xff\xff\xff\xff\xff\x01",
		"too many elements":             "\x9a\x00\x02\x00\x01" + strings.Repeat("\x00", cbor.MaxElements+1),
		"a longer string than there is": "\x5b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",
	} {
		t.Run(name, func(t *testing.T) {
			for _, into := range []any{new(any), new(note), new([]int), new(map[string]any), new(string), new([]byte)} {
				if err := cbor.Codec.Unmarshal([]byte(in), into); err == nil {
					t.Errorf("read into %T: %v", into, into)
				}
			}
		})
	}
	var x any
	if err := cbor.Codec.Unmarshal([]byte(deep(cbor.MaxDepth)), &x); err != nil {
		t.Errorf("at the deepest: %v", err)
	}
	if err := cbor.Codec.Unmarshal([]byte("\xa1\x01\x02"), &x); err == nil {
		t.Errorf("a map with a key that is no text, read as any: %v", x)
	}
	var unknown *fx.UnmarshalTypeError
	if err := cbor.Codec.Unmarshal([]byte("\x61a"), new(int)); !errors.As(err, &unknown) || !strings.HasPrefix(err.Error(), "cbor: reading *int: ") {
		t.Errorf("a text read into an int: %v", err)
	}
	// The name of a field that is not exported.
	n := note{inner: "ours"}
	if err := cbor.Codec.Unmarshal([]byte("\xa1\x65inner\x61x"), &n); err != nil || n.inner != "ours" {
		t.Errorf("%v, inner is %q", err, n.inner)
	}
}

// What 64 KiB, the usual largest message, can be made to take.
func TestMemory(t *testing.T) {
	const size = 65_534
	arrays := append([]byte("\x99\xff\xfb"), bytes.Repeat([]byte("\x80"), size)...)
	for name, in := range map[string][]byte{
		"empty arrays": arrays[:3+0xfffb],
		"empty maps":   append([]byte("\x99\xff\xfb"), bytes.Repeat([]byte("\xa0"), 0xfffb)...),
		"short texts":  append([]byte("\x99\x7f\xfd"), bytes.Repeat([]byte("\x61a"), 0x7ffd)...),
		"a claim":      []byte("\x9a\x00\x01\xff\xff\x00"),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var x any
			err := cbor.Codec.Unmarshal(in, &x)
			runtime.GC()
			runtime.ReadMemStats(&after)
			kept := int64(after.HeapAlloc) - int64(before.HeapAlloc)
			t.Logf("%d bytes take %d, %v", len(in), kept, err)
			if kept > 80*int64(len(in))+64<<10 {
				t.Errorf("%d bytes take %d", kept, len(in))
			}
			runtime.KeepAlive(x)
		})
	}
}

func FuzzUnmarshal(f *testing.F) {
	b, err := cbor.Codec.Marshal(someNote())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range [][]byte{b, []byte("\xa2\x61a\x01\x61a\x02"), []byte("\x9f\x01\xff"), []byte(strings.Repeat("\x81", 40)), []byte("\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00"),
		[]byte("\xc0\x74" + "2013-03-21T20:04:00Z"), []byte("\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var n note
		_ = cbor.Codec.Unmarshal(in, &n) // it need not be one; it must not panic
		var x any
		if cbor.Codec.Unmarshal(in, &x) != nil {
			return
		}
		out, err := cbor.Codec.Marshal(x)
		if err != nil {
			t.Fatalf("%x is read as %#v, which cannot be written: %v", in, x, err)
		}
		var y any
		if err := cbor.Codec.Unmarshal(out, &y); err != nil {
			t.Fatalf("%x is read as %#v and written as %x, which cannot be read: %v", in, x, out, err)
		}
		again, err := cbor.Codec.Marshal(y)
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("%x is written as %x, then as %x, %v", in, out, again, err)
		}
	})
}
