// Package bencode scans and appends bencoded values (BEP 3, "bencoding") without reflection.
//
//	integer     i<decimal>e            i-42e
//	string      <length>:<bytes>       4:spam
//	list        l<values>e             l4:spami7ee
//	dictionary  d<string value ...>e   d3:bari1e3:fooi2ee
//
// Reading is tolerant where deployed software is sloppy and strict where it would be ambiguous (EMP/1
// section 6.1): dictionary keys may be unsorted and repeated (the first of equal keys counts); integers
// are signed 64-bit numbers without leading zeros and without "-0". [Parse] checks one whole value
// against [Limits] once; the [Value] it returns is a view of the input, so that taking it apart
// afterwards neither fails nor allocates.
//
// Writing is strict: the Append functions and [Dict] produce the one canonical form.
//
// The package does not decide what a value means, nor how large one may be: callers set the limits of
// their context and look at the bytes behind the value.
package bencode

import "strconv"

// Default limits, used where a field of [Limits] is zero or negative.
const (
	DefaultBytes = 1 << 20 // 1 MiB
	DefaultDepth = 64
	DefaultItems = 1 << 17
)

// MaxDepth is the deepest nesting that [Parse] accepts whatever [Limits] say.
const MaxDepth = 1024

// Limits bound what [Parse] accepts. Zero and negative fields mean the defaults.
type Limits struct {
	// Bytes is the largest encoded size of the value; bytes behind the value do not count.
	// Default [DefaultBytes].
	Bytes int
	// Depth is the deepest nesting of lists and dictionaries; the outermost is 1. Default
	// [DefaultDepth]; values above [MaxDepth] count as [MaxDepth].
	Depth int
	// Items is the largest number of values at all levels, dictionary keys included. Default
	// [DefaultItems].
	Items int
}

func (l Limits) resolved() Limits {
	if l.Bytes <= 0 {
		l.Bytes = DefaultBytes
	}
	if l.Depth <= 0 {
		l.Depth = DefaultDepth
	}
	if l.Items <= 0 {
		l.Items = DefaultItems
	}
	l.Depth = min(l.Depth, MaxDepth)
	return l
}

// SyntaxError says where bytes stop being a bencoded value within the limits, and why.
type SyntaxError struct {
	Offset int    // in bytes from the start of the input of [Parse]
	Reason string // without the offset
}

// Error returns the offset and the reason.
func (e *SyntaxError) Error() string {
	return "bencode: offset " + strconv.Itoa(e.Offset) + ": " + e.Reason
}
