// Package wiretest is what the tests of every dialect share: a loader for annotated vectors, the contract that every codec keeps, limits tried
// at, below and above, and bytes fed in every segmentation. It knows the vocabulary of package wire and no dialect.
package wiretest

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-bt/parley/wire"
)

// A Vector is bytes and what they mean. The form of the files is described in wire/testdata/README.md.
type Vector struct {
	Name  string
	File  string // for messages: file and line of the vector's name
	Bytes []byte
	// Means is the value, which is also written as exactly these bytes unless ReadOnly is set.
	Means    Value
	ReadOnly bool
	// Fails is what the error of reading the bytes must contain; empty if they can be read.
	Fails string
}

// Value is a vector's value: the name of a kind and its fields in order, as text.
type Value struct {
	Kind   string
	Fields []Field
}

// Field is one field of a [Value].
type Field struct{ Name, Text string }

// Load reads all vectors below dir. It fails the test if there are none.
func Load(t testing.TB, dir string) []Vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var all []Vector
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		vs, err := Parse(filepath.Base(f), string(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, vs...)
	}
	if len(all) == 0 {
		t.Fatalf("no vectors in %s", dir)
	}
	return all
}

// Parse reads the text of one file of vectors; name is for messages.
func Parse(name, text string) ([]Vector, error) {
	var (
		all  []Vector
		v    *Vector
		done bool // v has its meaning
		seen = make(map[string]bool)
	)
	for i, line := range strings.Split(text, "\n") {
		at := fmt.Sprintf("%s:%d", name, i+1)
		line = strings.TrimSpace(strings.TrimSuffix(line, "\r"))
		if line == "" || line[0] == '#' {
			continue
		}
		key, rest, _ := strings.Cut(line, ": ")
		switch {
		case key == "vector":
			if v != nil && !done {
				return nil, fmt.Errorf("%s: vector without a meaning", v.File)
			}
			if seen[rest] {
				return nil, fmt.Errorf("%s: second vector %q", at, rest)
			}
			seen[rest] = true
			all = append(all, Vector{Name: rest, File: at})
			v, done = &all[len(all)-1], false
			continue
		case v == nil || done:
			return nil, fmt.Errorf("%s: not behind a vector's name", at)
		}
		var err error
		switch key {
		case "means", "reads as":
			v.Means, err = parseValue(rest)
			v.ReadOnly = key == "reads as"
			done = true
		case "fails":
			v.Fails = rest
			done = true
			if rest == "" {
				err = errors.New("empty reason")
			}
		default:
			v.Bytes, err = appendBytes(v.Bytes, line)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
	}
	if v != nil && !done {
		return nil, fmt.Errorf("%s: vector without a meaning", v.File)
	}
	return all, nil
}

// token cuts the first word or quoted string off s.
func token(s string) (word, rest string, err error) {
	if s[0] != '"' {
		word, rest, _ = strings.Cut(s, " ")
		return word, strings.TrimLeft(rest, " "), nil
	}
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", fmt.Errorf("bad quoted string in %s", s)
	}
	return q, strings.TrimLeft(s[len(q):], " "), nil
}

// appendBytes appends the bytes of one line up to its annotation: pairs of hexadecimal digits, quoted strings, and either of them repeated.
func appendBytes(dst []byte, line string) ([]byte, error) {
	for line != "" && line[0] != '|' {
		word, rest, err := token(line)
		if err != nil {
			return nil, err
		}
		count := 1
		if word[0] != '"' {
			var times string
			if word, times, _ = strings.Cut(word, "*"); times != "" {
				if count, err = strconv.Atoi(times); err != nil || count < 1 || count > 4<<20 {
					return nil, fmt.Errorf("bad repetition %q", times)
				}
			}
		} else if after, ok := strings.CutPrefix(rest, "*"); ok {
			times, more, _ := strings.Cut(after, " ")
			if count, err = strconv.Atoi(times); err != nil || count < 1 || count > 4<<20 {
				return nil, fmt.Errorf("bad repetition %q", times)
			}
			rest = strings.TrimLeft(more, " ")
		}
		var b []byte
		switch {
		case word == "":
			err = errors.New("nothing to repeat")
		case word[0] == '"':
			b, err = unquote(word)
		default:
			b, err = hex.DecodeString(word)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
		dst = append(dst, bytes.Repeat(b, count)...)
		line = rest
	}
	return dst, nil
}

func unquote(q string) ([]byte, error) {
	s, err := strconv.Unquote(q)
	return []byte(s), err
}

func parseValue(s string) (v Value, err error) {
	v.Kind, s, _ = strings.Cut(s, ":")
	for s = strings.TrimLeft(s, " "); s != ""; {
		name, rest, ok := strings.Cut(s, "=")
		if !ok || rest == "" {
			return v, fmt.Errorf("field %q without a value", s)
		}
		quoted := ""
		if rest[0] == '"' {
			if quoted, rest, err = token(rest); err != nil {
				return v, err
			}
		}
		tail, more := "", rest
		if quoted == "" || rest != "" && rest[0] == ':' {
			tail, more, _ = strings.Cut(rest, " ")
		}
		v.Fields = append(v.Fields, Field{name, quoted + tail})
		s = strings.TrimLeft(more, " ")
	}
	return v, nil
}

// A Reader takes the fields out of a [Value]. Whatever is wrong, left over included, is reported by Err.
type Reader struct {
	v    Value
	used []bool
	err  error
}

// Read returns a Reader of v.
func (v Value) Read() *Reader { return &Reader{v: v, used: make([]bool, len(v.Fields))} }

// String returns the value as it stands in a file.
func (v Value) String() string {
	var s strings.Builder
	s.WriteString(v.Kind)
	for i, f := range v.Fields {
		s.WriteString([]string{" ", ": "}[b2i(i == 0)] + f.Name + "=" + f.Text)
	}
	return s.String()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// next returns the text of the next unused field with the given name.
func (r *Reader) next(name string) (string, bool) {
	for i, f := range r.v.Fields {
		if !r.used[i] && f.Name == name {
			r.used[i] = true
			return f.Text, true
		}
	}
	return "", false
}

// Uint returns an unsigned number in any of Go's notations; 0 if the field is missing.
func (r *Reader) Uint(name string) uint64 {
	text, ok := r.next(name)
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		r.err = cmp.Or(r.err, fmt.Errorf("%s: %w", name, err))
	}
	return n
}

// Bytes returns a field of hexadecimal digits or a quoted string; nil if it is missing.
func (r *Reader) Bytes(name string) []byte {
	text, ok := r.next(name)
	if !ok {
		return nil
	}
	b, err := appendBytes([]byte{}, text)
	if err != nil {
		r.err = cmp.Or(r.err, fmt.Errorf("%s: %w", name, err))
	}
	return b
}

// Texts returns the texts of all fields with the given name, in order.
func (r *Reader) Texts(name string) (all []string) {
	for {
		text, ok := r.next(name)
		if !ok {
			return all
		}
		all = append(all, text)
	}
}

// Err returns what was wrong, fields that nobody asked for included.
func (r *Reader) Err() error {
	if r.err != nil {
		return r.err
	}
	for i, u := range r.used {
		if !u {
			return fmt.Errorf("unknown or repeated field %q", r.v.Fields[i].Name)
		}
	}
	return nil
}

// WantFailure checks an error of reading a vector's bytes: a [*wire.SyntaxError] whose text contains want.
func WantFailure(t testing.TB, err error, want string) {
	t.Helper()
	if _, ok := errors.AsType[*wire.SyntaxError](err); !ok || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want a syntax error with %q", err, want)
	}
}
