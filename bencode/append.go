package bencode

import (
	"bytes"
	"slices"
	"strconv"
)

// AppendInt appends the integer v to dst.
func AppendInt(dst []byte, v int64) []byte {
	dst = append(dst, 'i')
	dst = strconv.AppendInt(dst, v, 10)
	return append(dst, 'e')
}

// AppendString appends the string s to dst; also a dictionary key, which is a string.
func AppendString(dst []byte, s string) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, ':')
	return append(dst, s...)
}

// AppendBytes appends b as a string to dst.
func AppendBytes(dst, b []byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(b)), 10)
	dst = append(dst, ':')
	return append(dst, b...)
}

// Dict collects the entries of a dictionary in any order and appends them in canonical form: sorted and
// unique. The zero Dict is empty and ready; [Dict.Reset] allows its memory to be used again. Values are
// encoded when they are set, so nothing given to a Set method is kept. It is not safe for concurrent use.
//
// Code that knows its keys in order needs no Dict: it appends 'd', keys and values, and 'e'.
type Dict struct {
	buf     []byte // keys and encoded values, in the order they were set
	entries []dictEntry
}

// dictEntry locates one entry in Dict.buf: the key at [key:value], the value at [value:end].
type dictEntry struct{ key, value, end int }

// SetInt sets key to an integer. As with all Set methods, a later value replaces an earlier one.
func (d *Dict) SetInt(key string, v int64) {
	at := d.begin(key)
	d.buf = AppendInt(d.buf, v)
	d.end(at)
}

// SetString sets key to the string s.
func (d *Dict) SetString(key, s string) {
	at := d.begin(key)
	d.buf = AppendString(d.buf, s)
	d.end(at)
}

// SetBytes sets key to the string b.
func (d *Dict) SetBytes(key string, b []byte) {
	at := d.begin(key)
	d.buf = AppendBytes(d.buf, b)
	d.end(at)
}

// SetDict sets key to the dictionary v as it is now. v must not be d.
func (d *Dict) SetDict(key string, v *Dict) {
	at := d.begin(key)
	d.buf = v.Append(d.buf)
	d.end(at)
}

// SetRaw sets key to a value that is already encoded, such as a list or [Value.Raw]. That raw is exactly
// one value is the caller's promise; it is not checked.
func (d *Dict) SetRaw(key string, raw []byte) {
	at := d.begin(key)
	d.buf = append(d.buf, raw...)
	d.end(at)
}

// Len returns the number of values set, replaced ones included.
func (d *Dict) Len() int { return len(d.entries) }

// Reset empties d and keeps its memory.
func (d *Dict) Reset() {
	d.buf = d.buf[:0]
	d.entries = d.entries[:0]
}

// Append appends the dictionary to dst and leaves d as it was.
func (d *Dict) Append(dst []byte) []byte {
	// Stable, so that of equal keys the one set last stays last, also if values are set after this.
	slices.SortStableFunc(d.entries, func(a, b dictEntry) int {
		return bytes.Compare(d.buf[a.key:a.value], d.buf[b.key:b.value])
	})
	dst = append(dst, 'd')
	for i, e := range d.entries {
		key := d.buf[e.key:e.value]
		if i+1 < len(d.entries) {
			next := d.entries[i+1]
			if bytes.Equal(key, d.buf[next.key:next.value]) {
				continue // replaced
			}
		}
		dst = AppendBytes(dst, key)
		dst = append(dst, d.buf[e.value:e.end]...)
	}
	return append(dst, 'e')
}

func (d *Dict) begin(key string) dictEntry {
	at := len(d.buf)
	d.buf = append(d.buf, key...)
	return dictEntry{key: at, value: len(d.buf)}
}

func (d *Dict) end(e dictEntry) {
	e.end = len(d.buf)
	d.entries = append(d.entries, e)
}
