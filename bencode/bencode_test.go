package bencode

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func mustParse(t testing.TB, s string) Value {
	t.Helper()
	v, rest, err := Parse([]byte(s), Limits{})
	if err != nil {
		t.Fatalf("Parse(%q): %v", s, err)
	}
	if len(rest) != 0 {
		t.Fatalf("Parse(%q): rest %q", s, rest)
	}
	return v
}

func TestParseRejects(t *testing.T) {
	tests := []struct {
		name, in string
		offset   int
		reason   string // a part of it
	}{
		{"empty", "", 0, "end of input"},
		{"unknown byte", "x", 0, "byte 0x78"},
		{"end without start", "e", 0, "byte 0x65"},
		{"minus sign", "-1:a", 0, "byte 0x2d"},
		{"open list", "l", 1, "end of input"},
		{"open list with value", "li1e", 4, "end of input"},
		{"open dictionary", "d", 1, "end of input"},
		{"dictionary with key only", "d1:a", 4, "end of input"},
		{"open dictionary with entry", "d1:ai1e", 7, "end of input"},
		{"key without value", "d1:ae", 4, "without a value"},
		{"second key without value", "d1:ai1e1:be", 10, "without a value"},
		{"key without value in a list", "ld1:aee", 5, "without a value"},
		{"integer as key", "di1ei1ee", 1, "key is not a string"},
		{"list as key", "dlei1ee", 1, "key is not a string"},
		{"dictionary as key", "ddei1ee", 1, "key is not a string"},
		{"integer as key after a nested dictionary", "d1:adei1ei1ee", 6, "key is not a string"},
		{"integer as key after a list", "d1:alei1ei1ee", 6, "key is not a string"},
		{"empty integer", "ie", 0, "without digits"},
		{"lone minus", "i-e", 0, "without digits"},
		{"plus sign", "i+1e", 0, "byte 0x2b"},
		{"space", "i 1e", 0, "byte 0x20"},
		{"two minuses", "i--1e", 0, "byte 0x2d"},
		{"minus behind", "i1-e", 0, "byte 0x2d"},
		{"fraction", "i1.5e", 0, "byte 0x2e"},
		{"leading zero", "i01e", 0, "leading zero"},
		{"two zeros", "i00e", 0, "leading zero"},
		{"negative leading zero", "i-01e", 0, "leading zero"},
		{"minus zero", "i-0e", 0, "minus zero"},
		{"above int64", "i9223372036854775808e", 0, "64 bits"},
		{"below int64", "i-9223372036854775809e", 0, "64 bits"},
		{"far above int64", "i92233720368547758070e", 0, "64 bits"},
		{"wraps uint64", "i18446744073709551617e", 0, "64 bits"},
		{"open integer", "i12", 3, "end of input"},
		{"open minus", "i-", 2, "end of input"},
		{"lone i", "i", 1, "end of input"},
		{"length only", "4", 1, "end of input"},
		{"string cut short", "4:spa", 0, "runs past"},
		{"string without bytes", "1:", 0, "runs past"},
		{"string in list cut short", "l4:spa", 1, "runs past"},
		{"length with leading zero", "04:spam", 0, "leading zero"},
		{"length of two zeros", "00:", 0, "leading zero"},
		{"length without colon", "4spam", 0, "byte 0x73"},
		{"length wraps int64", "18446744073709551620:spam", 0, "runs past"},
		{"length wraps int32", "4294967300:spam", 0, "runs past"},
		{"length of many digits", strings.Repeat("9", 100) + ":", 0, "runs past"},
		{"error behind values", "l4:spami1ei01ee", 10, "leading zero"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, rest, err := Parse([]byte(tt.in), Limits{})
			se, ok := errors.AsType[*SyntaxError](err)
			if !ok {
				t.Fatalf("Parse(%q) = %q, %v; want a *SyntaxError", tt.in, v.Raw(), err)
			}
			if se.Offset != tt.offset || !strings.Contains(se.Reason, tt.reason) {
				t.Errorf("got offset %d, %q; want offset %d, %q", se.Offset, se.Reason, tt.offset, tt.reason)
			}
			if want := "bencode: offset " + strconv.Itoa(tt.offset) + ": "; !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error %q does not start with %q", err, want)
			}
			if v.Kind() != KindAbsent || rest != nil {
				t.Errorf("value %q and rest %q beside an error", v.Raw(), rest)
			}
		})
	}
}

func TestInt(t *testing.T) {
	for _, want := range []int64{0, 1, -1, 9, 10, -10, 42, 1 << 40, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1} {
		enc := AppendInt(nil, want)
		if got, ok := mustParse(t, string(enc)).Int(); !ok || got != want {
			t.Errorf("%s: got %d, %v", enc, got, ok)
		}
	}
}

func TestValue(t *testing.T) {
	v := mustParse(t, "d4:zeroi0e4:listl1:ai-7eledee3:subd1:xi1ee0:0:e")
	if v.Kind() != KindDict || v.Len() != 4 {
		t.Fatalf("kind %v, len %d", v.Kind(), v.Len())
	}
	var keys []string
	for k, e := range v.Dict() {
		keys = append(keys, string(k)+"="+string(e.Raw()))
	}
	want := []string{"zero=i0e", "list=l1:ai-7eledee", "sub=d1:xi1ee", "=0:"}
	if !slices.Equal(keys, want) {
		t.Errorf("Dict: %q, want %q", keys, want)
	}
	list, ok := v.Get("list")
	if !ok || list.Kind() != KindList || list.Len() != 4 {
		t.Fatalf("list: %v, %v, len %d", ok, list.Kind(), list.Len())
	}
	var kinds []Kind
	for e := range list.List() {
		kinds = append(kinds, e.Kind())
	}
	if want := []Kind{KindString, KindInt, KindList, KindDict}; !slices.Equal(kinds, want) {
		t.Errorf("List: %v, want %v", kinds, want)
	}
	for e := range list.List() {
		if b, ok := e.Bytes(); !ok || string(b) != "a" {
			t.Errorf("first element %q, %v", b, ok)
		}
		break // stopping early is allowed
	}
	for range v.Dict() {
		break
	}
	empty, ok := v.Get("")
	if b, isString := empty.Bytes(); !ok || !isString || b == nil || len(b) != 0 {
		t.Errorf("empty string under the empty key: %v, %v, %v", ok, isString, b)
	}
	sub, _ := v.Get("sub")
	x, _ := sub.Get("x")
	if n, ok := x.Int(); !ok || n != 1 {
		t.Errorf("sub.x = %d, %v", n, ok)
	}
	if e, ok := v.Get("x"); ok || e.Kind() != KindAbsent {
		t.Errorf("Get finds a nested key: %q", e.Raw())
	}
}

func TestWrongKindSaysNo(t *testing.T) {
	for name, v := range map[string]Value{
		"absent": {}, "int": mustParse(t, "i5e"), "string": mustParse(t, "1:e"),
		"list": mustParse(t, "l1:ae"), "dict": mustParse(t, "d1:ai1ee"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, ok := v.Int(); ok != (name == "int") {
				t.Errorf("Int: %v", ok)
			}
			if _, ok := v.Bytes(); ok != (name == "string") {
				t.Errorf("Bytes: %v", ok)
			}
			if _, ok := v.Get("a"); ok != (name == "dict") {
				t.Errorf("Get: %v", ok)
			}
			n := 0
			for range v.List() {
				n++
			}
			for range v.Dict() {
				n += 10
			}
			want := map[string]int{"list": 1, "dict": 10}[name]
			if n != want {
				t.Errorf("iterators yield %d, want %d", n, want)
			}
			if got := v.Len(); got != min(want, 1) {
				t.Errorf("Len %d", got)
			}
			if v.Canonical() != (name != "absent") {
				t.Errorf("Canonical: %v", v.Canonical())
			}
			if (v.Raw() == nil) != (name == "absent") {
				t.Errorf("Raw: %q", v.Raw())
			}
		})
	}
}

func TestTolerance(t *testing.T) {
	t.Run("unsorted keys", func(t *testing.T) {
		v := mustParse(t, "d1:bi2e1:ai1ee")
		a, _ := v.Get("a")
		if n, _ := a.Int(); n != 1 {
			t.Errorf("a = %d", n)
		}
	})
	t.Run("first duplicate wins", func(t *testing.T) {
		v := mustParse(t, "d1:ai1e1:ai2ee")
		a, _ := v.Get("a")
		if n, _ := a.Int(); n != 1 {
			t.Errorf("a = %d, want the first", n)
		}
	})
	t.Run("bytes behind", func(t *testing.T) {
		in := []byte("d1:ai1eetail")
		v, rest, err := Parse(in, Limits{})
		if err != nil || string(v.Raw()) != "d1:ai1ee" || string(rest) != "tail" {
			t.Fatalf("%q, %q, %v", v.Raw(), rest, err)
		}
		// Appending to what was returned must not write into the input.
		_ = append(v.Raw(), 'X')
		for k, e := range v.Dict() {
			_ = append(k, 'X')
			_ = append(e.Raw(), 'X')
		}
		if string(in) != "d1:ai1eetail" {
			t.Errorf("input is now %q", in)
		}
	})
}

func TestCanonical(t *testing.T) {
	tests := []struct {
		in   string
		want bool
	}{
		{"de", true},
		{"le", true},
		{"i0e", true},
		{"0:", true},
		{"d0:i1e1:ai1e2:aai1e1:bi1ee", true},
		{"d1:ai1e1:ai1ee", false},
		{"d1:bi1e1:ai1ee", false},
		{"d2:aai1e1:ai1ee", false},
		{"d0:i1e0:i1ee", false},
		{"ld1:bi1e1:ai1eee", false},
		{"d1:ad1:bi1e1:ai1eee", false},
		{"d1:ald1:ai1e1:bi1eeee", true},
		{"d1:\xffi1e1:ai1ee", false}, // keys compare as unsigned bytes
		{"d1:ai1e1:\xffi1ee", true},
	}
	for _, tt := range tests {
		if got := mustParse(t, tt.in).Canonical(); got != tt.want {
			t.Errorf("%q: %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestLimits(t *testing.T) {
	nest := func(n int) string { return strings.Repeat("l", n) + strings.Repeat("e", n) }
	nestDict := func(n int) string {
		return strings.Repeat("d1:a", n-1) + "de" + strings.Repeat("e", n-1)
	}
	tests := []struct {
		name string
		in   string
		lim  Limits
		ok   bool
	}{
		{"depth below", nest(7), Limits{Depth: 8}, true},
		{"depth at", nest(8), Limits{Depth: 8}, true},
		{"depth above", nest(9), Limits{Depth: 8}, false},
		{"dictionaries at", nestDict(8), Limits{Depth: 8}, true},
		{"dictionaries above", nestDict(9), Limits{Depth: 8}, false},
		{"default depth at", nest(DefaultDepth), Limits{}, true},
		{"default depth above", nest(DefaultDepth + 1), Limits{}, false},
		{"negative is the default", nest(DefaultDepth + 1), Limits{Depth: -1}, false},
		{"largest depth at", nest(MaxDepth), Limits{Depth: math.MaxInt}, true},
		{"largest depth above", nest(MaxDepth + 1), Limits{Depth: math.MaxInt}, false},
		{"largest depth of dictionaries", nestDict(MaxDepth), Limits{Depth: math.MaxInt}, true},
		{"no depth", "i1e", Limits{Depth: 1}, true},
		{"siblings do not add up", "llelelee", Limits{Depth: 2}, true},
		{"items below", "li1ee", Limits{Items: 3}, true},
		{"items at", "li1ei2ee", Limits{Items: 3}, true},
		{"items above", "li1ei2ei3ee", Limits{Items: 3}, false},
		{"keys are items", "d1:ai1ee", Limits{Items: 2}, false},
		{"default items above", "l" + strings.Repeat("0:", DefaultItems) + "e", Limits{}, false},
		{"default items at", "l" + strings.Repeat("0:", DefaultItems-1) + "e", Limits{}, true},
		{"bytes below", "3:abc", Limits{Bytes: 6}, true},
		{"bytes at", "3:abc", Limits{Bytes: 5}, true},
		{"bytes above", "3:abc", Limits{Bytes: 4}, false},
		{"bytes above in an integer", "i123e", Limits{Bytes: 4}, false},
		{"bytes above in a length", "12:abcdefghijkl", Limits{Bytes: 1}, false},
		{"bytes above in a list", "li1ee", Limits{Bytes: 4}, false},
		{"bytes behind do not count", "i1exxxxxxxx", Limits{Bytes: 3}, true},
		{"default bytes at", "1048568:" + strings.Repeat("x", DefaultBytes-8), Limits{}, true},
		{"default bytes above", "1048569:" + strings.Repeat("x", DefaultBytes-7), Limits{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Parse([]byte(tt.in), tt.lim)
			if _, isSyntax := errors.AsType[*SyntaxError](err); tt.ok != (err == nil) || err != nil && !isSyntax {
				t.Errorf("got %v, want ok = %v", err, tt.ok)
			}
		})
	}
}

// Every cut of a valid value is an error, never a shorter value and never a panic.
func TestTruncated(t *testing.T) {
	const in = "d1:ad2:id20:abcdefghij0123456789e1:bli-5e0:ld1:zi0eeee1:ci9223372036854775807ee"
	mustParse(t, in)
	for n := range len(in) {
		if v, _, err := Parse([]byte(in[:n]), Limits{}); err == nil {
			t.Errorf("cut at %d: got %q", n, v.Raw())
		}
	}
}

// Input built to make a scanner look at the same bytes again and again. If any of these were quadratic,
// 2 MiB would take many minutes and the test would time out.
func TestLinearTime(t *testing.T) {
	const size = 2 << 20
	fill := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (size-len(head)-len(tail))/len(unit)) + tail
	}
	deep := strings.Repeat("l", MaxDepth-1)
	inputs := map[string]string{
		"many empty strings":       fill("l", "0:", "e"),
		"many empty lists":         fill("l", "le", "e"),
		"many empty keys":          fill("d", "0:0:", "e"),
		"many dictionaries":        fill("l", "d1:a0:e", "e"),
		"wide at the bottom":       fill(deep, "0:", strings.Repeat("e", MaxDepth-1)),
		"deep many times":          fill("l", strings.Repeat("l", MaxDepth-1)+strings.Repeat("e", MaxDepth-1), "e"),
		"long equal keys":          fill("d", "1000:"+strings.Repeat("k", 1000)+"0:", "e"),
		"open lists":               fill("", "l", ""),
		"digits of a length":       fill("", "9", ""),
		"zeros of a length":        fill("", "0", ""),
		"digits of an integer":     fill("i", "9", "e"),
		"many integers":            fill("l", "i-9223372036854775808e", "e"),
		"one string":               strconv.Itoa(size) + ":" + strings.Repeat("x", size),
		"many keys without values": fill("d", "1:a", "e"),
	}
	for name, in := range inputs {
		t.Run(name, func(t *testing.T) {
			v, _, err := Parse([]byte(in), Limits{Bytes: 2 * size, Depth: MaxDepth, Items: size})
			if err != nil {
				return
			}
			v.Canonical()
			v.Len()
			if _, ok := v.Get("not there"); ok {
				t.Error("found what is not there")
			}
		})
	}
}

func TestReadingAllocatesNothing(t *testing.T) {
	in := []byte("d1:ei1e4:listl1:ai2ee1:md11:ut_metadatai3e6:ut_pexi1ee13:metadata_sizei31235e1:v5:helloe")
	sum := int64(0)
	allocs := testing.AllocsPerRun(100, func() {
		v, _, err := Parse(in, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		m, _ := v.Get("m")
		for _, id := range m.Dict() {
			n, _ := id.Int()
			sum += n
		}
		list, _ := v.Get("list")
		for e := range list.List() {
			sum += int64(e.Len())
		}
		size, _ := v.Get("metadata_size")
		n, _ := size.Int()
		name, _ := v.Get("v")
		b, _ := name.Bytes()
		sum += n + int64(len(b)+v.Len())
		if !v.Canonical() {
			t.Fatal("not canonical")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
	if sum == 0 {
		t.Error("read nothing")
	}
}

func TestAppend(t *testing.T) {
	b := []byte("x")
	b = AppendInt(b, -5)
	b = AppendString(b, "spam")
	b = AppendBytes(b, nil)
	b = AppendBytes(b, []byte{0, ':'})
	if want := "xi-5e4:spam0:2:\x00:"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() {
		_ = AppendBytes(AppendString(AppendInt(buf, math.MinInt64), "key"), buf)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestDict(t *testing.T) {
	var d Dict
	if got := string(d.Append(nil)); got != "de" {
		t.Errorf("empty: %q", got)
	}
	var sub Dict
	sub.SetInt("y", 2)
	sub.SetInt("x", 1)
	d.SetString("b", "old")
	d.SetBytes("bb", []byte("yz"))
	d.SetDict("sub", &sub)
	d.SetRaw("", []byte("le"))
	d.SetInt("\xff", -1)
	d.SetInt("a", 7)
	d.SetString("b", "new")
	sub.SetInt("z", 3) // comes too late
	want := "d0:le1:ai7e1:b3:new2:bb2:yz3:subd1:xi1e1:yi2ee1:\xffi-1ee"
	if got := string(d.Append([]byte("head"))); got != "head"+want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := string(d.Append(nil)); got != want {
		t.Errorf("again: %q, want %q", got, want)
	}
	if !mustParse(t, want).Canonical() {
		t.Error("not canonical")
	}
	d.SetString("b", "newest")
	want = strings.Replace(want, "3:new", "6:newest", 1)
	if got := string(d.Append(nil)); got != want {
		t.Errorf("after another Set: %q, want %q", got, want)
	}
	d.Reset()
	d.SetInt("q", 1)
	if got := string(d.Append(nil)); got != "d1:qi1ee" || d.Len() != 1 {
		t.Errorf("after Reset: %q, len %d", got, d.Len())
	}
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() {
		d.Reset()
		d.SetInt("b", 1)
		d.SetInt("a", 1)
		d.SetString("c", "s")
		buf = d.Append(buf[:0])
	}); n != 0 {
		t.Errorf("%v allocations with used memory, want 0", n)
	}
}

// rebuild writes v anew through the writing side, first duplicates only.
func rebuild(dst []byte, v Value) []byte {
	switch v.Kind() {
	case KindInt:
		n, _ := v.Int()
		return AppendInt(dst, n)
	case KindString:
		b, _ := v.Bytes()
		return AppendBytes(dst, b)
	case KindList:
		dst = append(dst, 'l')
		for e := range v.List() {
			dst = rebuild(dst, e)
		}
		return append(dst, 'e')
	}
	var d Dict
	seen := map[string]bool{}
	for k, e := range v.Dict() {
		if !seen[string(k)] {
			seen[string(k)] = true
			d.SetRaw(string(k), rebuild(nil, e))
		}
	}
	return d.Append(dst)
}

// accepts is a second, plainer reading of the grammar, to hold Parse against: it returns the length of
// the value at the start of s, or -1.
func accepts(s string, depth int) int {
	if s == "" {
		return -1
	}
	switch {
	case s[0] == 'i':
		num, _, ok := strings.Cut(s[1:], "e")
		n, err := strconv.ParseInt(num, 10, 64)
		if !ok || err != nil || strconv.FormatInt(n, 10) != num {
			return -1
		}
		return len(num) + 2
	case s[0] == 'l' || s[0] == 'd':
		if depth == 0 {
			return -1
		}
		pos := 1
		for pos < len(s) && s[pos] != 'e' {
			if s[0] == 'd' {
				if s[pos] < '0' || s[pos] > '9' {
					return -1
				}
				n := accepts(s[pos:], depth-1)
				if n < 0 {
					return -1
				}
				pos += n
			}
			n := accepts(s[pos:], depth-1)
			if n < 0 {
				return -1
			}
			pos += n
		}
		if pos >= len(s) {
			return -1
		}
		return pos + 1
	}
	num, _, ok := strings.Cut(s, ":")
	n, err := strconv.Atoi(num)
	if !ok || err != nil || strconv.Itoa(n) != num || n < 0 || len(s)-len(num)-1 < n {
		return -1
	}
	return len(num) + 1 + n
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "i0e", "i-1e", "i-0e", "i01e", "0:", "4:spam", "le", "de", "l4:spami7ee", "d3:bari1e3:fooi2ee",
		"d1:bi1e1:ai2e1:bi3ee", "d1:ad1:bd1:cleeee", "lllleeee", "i9223372036854775807e",
		"i-9223372036854775808e", "i9223372036854775808e", "99999999999999999999:", "d1:ae", "di1ei1ee",
		"d1:md6:ut_pexi1ee1:v3:abcetrailing",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const depth = 16
		v, rest, err := Parse(b, Limits{Depth: depth})
		if len(b) <= 1<<16 { // below every other limit
			if want := accepts(string(b), depth); (err == nil) != (want >= 0) || err == nil && len(v.Raw()) != want {
				t.Fatalf("%q: got %q, %v; the plain reading takes %d bytes", b, v.Raw(), err, want)
			}
		}
		if err != nil {
			if se, ok := errors.AsType[*SyntaxError](err); !ok || se.Offset < 0 || se.Offset > len(b) || se.Reason == "" {
				t.Fatalf("error %#v", err)
			}
			return
		}
		if !bytes.Equal(append(bytes.Clone(v.Raw()), rest...), b) {
			t.Fatal("value and rest are not the input")
		}
		again := rebuild(nil, v)
		if v.Canonical() != bytes.Equal(again, v.Raw()) {
			t.Fatalf("Canonical is %v; rewritten %q is %q", v.Canonical(), v.Raw(), again)
		}
		w, rest, err := Parse(again, Limits{Depth: depth})
		if err != nil || len(rest) != 0 || !w.Canonical() || !bytes.Equal(rebuild(nil, w), again) {
			t.Fatalf("rewritten %q does not read back: %v", again, err)
		}
		n := 0
		for range v.List() {
			n++
		}
		for k, e := range v.Dict() {
			n++
			if first, ok := v.Get(string(k)); !ok || len(first.Raw()) == 0 || len(e.Raw()) == 0 {
				t.Fatalf("key %q is there and is not", k)
			}
		}
		if n != v.Len() {
			t.Fatalf("Len %d, iterated %d", v.Len(), n)
		}
	})
}

func BenchmarkParseHandshake(b *testing.B) {
	in := []byte("d1:ei1e1:md11:ut_metadatai3e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e4:reqqi500e1:v5:helloe")
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, _, err := Parse(in, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
