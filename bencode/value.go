package bencode

import (
	"bytes"
	"iter"
)

// Kind says what a [Value] is.
type Kind uint8

// The kinds of values.
const (
	KindAbsent Kind = iota // the zero Value
	KindInt
	KindString
	KindList
	KindDict
)

// String returns the kind as a word with its article, for error texts.
func (k Kind) String() string {
	switch k {
	case KindInt:
		return "an integer"
	case KindString:
		return "a string"
	case KindList:
		return "a list"
	case KindDict:
		return "a dictionary"
	}
	return "absent"
}

// Value is a view of one valid bencoded value inside the input of [Parse], which it aliases: it is valid
// as long as that input is unchanged. The zero Value is an absent value, of which every method says no.
//
// No method allocates. Those that look inside a list or dictionary take time linear in its encoded size,
// nested values included; iterating over a whole tree level by level is therefore linear for each level.
type Value struct {
	// raw was checked by scan: the methods below rely on that and cannot run past its end.
	raw []byte
}

// Kind returns what v is.
func (v Value) Kind() Kind {
	if len(v.raw) == 0 {
		return KindAbsent
	}
	switch v.raw[0] {
	case 'i':
		return KindInt
	case 'l':
		return KindList
	case 'd':
		return KindDict
	}
	return KindString
}

// Raw returns the encoded bytes of v as they stand in the input, which they alias; nil if absent.
func (v Value) Raw() []byte { return v.raw }

// Int returns the value of an integer; false for anything else.
func (v Value) Int() (int64, bool) {
	if v.Kind() != KindInt {
		return 0, false
	}
	digits := v.raw[1 : len(v.raw)-1]
	neg := digits[0] == '-'
	if neg {
		digits = digits[1:]
	}
	// Counting downwards reaches the lowest int64, which has no positive counterpart.
	var n int64
	for _, c := range digits {
		n = n*10 - int64(c-'0')
	}
	if !neg {
		n = -n
	}
	return n, true
}

// Bytes returns the content of a string, aliasing the input; false for anything else. It is not nil if
// the string is empty.
func (v Value) Bytes() ([]byte, bool) {
	if v.Kind() != KindString {
		return nil, false
	}
	s, _ := splitString(v.raw, 0)
	return s, true
}

// List iterates over the elements of a list in order; over nothing if v is anything else.
func (v Value) List() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.Kind() != KindList {
			return
		}
		for pos := 1; v.raw[pos] != 'e'; {
			end := skip(v.raw, pos)
			if !yield(Value{raw: v.raw[pos:end:end]}) {
				return
			}
			pos = end
		}
	}
}

// Dict iterates over the entries of a dictionary as they stand in the input: possibly unsorted, with
// repeated keys. It iterates over nothing if v is anything else. The keys alias the input.
func (v Value) Dict() iter.Seq2[[]byte, Value] {
	return func(yield func([]byte, Value) bool) {
		if v.Kind() != KindDict {
			return
		}
		for pos := 1; v.raw[pos] != 'e'; {
			key, at := splitString(v.raw, pos)
			end := skip(v.raw, at)
			if !yield(key, Value{raw: v.raw[at:end:end]}) {
				return
			}
			pos = end
		}
	}
}

// Get returns the first entry of a dictionary under key (EMP/1 section 6.1, "first duplicate wins");
// false and an absent value if there is none or v is not a dictionary.
func (v Value) Get(key string) (Value, bool) {
	if v.Kind() != KindDict {
		return Value{}, false
	}
	for pos := 1; v.raw[pos] != 'e'; {
		k, at := splitString(v.raw, pos)
		end := skip(v.raw, at)
		if string(k) == key {
			return Value{raw: v.raw[at:end:end]}, true
		}
		pos = end
	}
	return Value{}, false
}

// Len returns the number of elements of a list or of entries of a dictionary, repeated keys included; 0
// for anything else.
func (v Value) Len() int {
	n := 0
	switch v.Kind() {
	case KindList:
		for pos := 1; v.raw[pos] != 'e'; n++ {
			pos = skip(v.raw, pos)
		}
	case KindDict:
		for pos := 1; v.raw[pos] != 'e'; n++ {
			_, at := splitString(v.raw, pos)
			pos = skip(v.raw, at)
		}
	}
	return n
}

// Canonical reports whether v is written in the one form BEP 3 prescribes: the keys of every dictionary
// at every level sorted as raw bytes and unique. (Integers and lengths have one form only; [Parse]
// accepts no other.) It is false for the absent value.
func (v Value) Canonical() bool {
	if len(v.raw) == 0 {
		return false
	}
	_, ok := canonical(v.raw, 0)
	return ok
}

// canonical checks the value at pos and returns its end. It recurses no deeper than [MaxDepth].
func canonical(b []byte, pos int) (end int, ok bool) {
	switch b[pos] {
	case 'l':
		for pos++; b[pos] != 'e'; {
			if pos, ok = canonical(b, pos); !ok {
				return 0, false
			}
		}
		return pos + 1, true
	case 'd':
		var last []byte
		first := true
		for pos++; b[pos] != 'e'; first = false {
			key, at := splitString(b, pos)
			if !first && bytes.Compare(last, key) >= 0 {
				return 0, false
			}
			last = key
			if pos, ok = canonical(b, at); !ok {
				return 0, false
			}
		}
		return pos + 1, true
	}
	return skip(b, pos), true
}

// splitString returns the string at pos of checked bytes and the offset behind it.
func splitString(b []byte, pos int) (s []byte, end int) {
	n := 0
	for ; b[pos] != ':'; pos++ {
		n = n*10 + int(b[pos]-'0')
	}
	pos++
	end = pos + n
	return b[pos:end:end], end
}

// skip returns the offset behind the value at pos of checked bytes.
func skip(b []byte, pos int) int {
	depth := 0
	for {
		switch b[pos] {
		case 'l', 'd':
			depth++
			pos++
		case 'e':
			depth--
			pos++
		case 'i':
			for pos++; b[pos] != 'e'; pos++ {
			}
			pos++
		default:
			_, pos = splitString(b, pos)
		}
		if depth == 0 {
			return pos
		}
	}
}
