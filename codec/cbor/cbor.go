// Package cbor writes values as the payloads of messages in CBOR (RFC 8949): smaller than JSON, with bytes and numbers as they are. Whoever does not import it does not
// compile it.
//
//	parley.Handle(torrent, parley.MessageType{Name: "acme_time", Codec: cbor.Codec}, handler)
//
// The package decides what is read from strangers, and writes the one form that RFC 8949 section 4.2.1 calls core deterministic: equal values are equal bytes. How values
// of Go become those of CBOR, and what struct tags say ("cbor", else "json"), is github.com/fxamacker/cbor's.
package cbor

import (
	"fmt"
	"reflect"

	"github.com/fxamacker/cbor/v2"
	"github.com/parley-bt/parley"
)

// What is read. Lengths are compared with what is there before anything is made for them, so that a value takes no more memory than the elements it has: for values of type
// any that is up to forty times the payload, which [parley.MessageType.MaxBytes] bounds.
const (
	MaxDepth    = 32      // nested arrays, maps and tags
	MaxElements = 1 << 17 // of one array, and pairs of one map
)

// Codec writes and reads CBOR. What it reads is one value and nothing behind it, with text in UTF-8, no key twice in a map, and every length said in advance (no indefinite-length
// items); where the program asks for any, maps become map[string]any, and times text. Times are written as text of RFC 3339, with nanoseconds. The errors are those of fxamacker/cbor,
// wrapped.
var Codec parley.Codec = codec{}

type codec struct{}

var (
	enc = must(encOptions().EncMode())
	dec = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF, // of two readers one takes the first and one the last: whoever sends such a thing wants that
		IndefLength:      cbor.IndefLengthForbidden,
		MaxNestedLevels:  MaxDepth,
		MaxArrayElements: MaxElements,
		MaxMapPairs:      MaxElements,
		UTF8:             cbor.UTF8RejectInvalid,
		DefaultMapType:   reflect.TypeFor[map[string]any](), // as JSON; and no key that Go cannot compare
		TimeTagToAny:     cbor.TimeTagToRFC3339Nano,         // as JSON; years beyond 9999 could be read otherwise, and not written
	}.DecMode())
)

func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.Time = cbor.TimeRFC3339Nano
	return o
}

// must returns m: the options above are ours, and a test has seen them.
func must[M any](m M, err error) M {
	if err != nil {
		panic("codec/cbor: want options that the library takes: " + err.Error())
	}
	return m
}

// Marshal implements [parley.Codec].
func (codec) Marshal(v any) ([]byte, error) {
	b, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cbor: writing %T: %w", v, err)
	}
	return b, nil
}

// Unmarshal implements [parley.Codec].
func (codec) Unmarshal(b []byte, v any) error {
	if err := dec.Unmarshal(b, v); err != nil {
		return fmt.Errorf("cbor: reading %T: %w", v, err)
	}
	return nil
}
