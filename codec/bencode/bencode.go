// Package bencode writes values as the payloads of messages in BEP 3's bencoding: for programs that have it anyway, in whatever language. There are integers of 64 bits,
// bytes, lists and dictionaries; no fractions, no null, and true is 1. Whoever does not import the package does not compile it.
//
//	parley.Handle(torrent, parley.MessageType{Name: "acme_files", Codec: bencode.Codec}, handler)
//
// The package decides what is read from strangers; what is a bencoded value is decided by this module's own package of that name. How values of Go become dictionaries,
// and what struct tags say ("bencode"), is github.com/anacrolix/torrent/bencode's.
package bencode

import (
	"bytes"
	"errors"
	"fmt"

	lib "github.com/anacrolix/torrent/bencode"
	"github.com/parley-bt/parley"
	scan "github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/wire"
)

// What is read, and written.
const (
	MaxDepth = 32      // nested lists and dictionaries
	MaxItems = 1 << 17 // values in all, keys among them
)

// Codec writes and reads bencoding. A payload is one value in the one form that BEP 3 has for it, with nothing behind it: keys sorted and none of them twice, integers that
// fit 64 bits with a sign, without leading zeros. Anything else is an error on both sides, so that what was written can be read. Errors of syntax unwrap to
// [scan.SyntaxError] of this module's package bencode.
//
// A struct that is read must have a tag, if only "-", on each embedded field that is not a struct.
var Codec parley.Codec = codec{}

type codec struct{}

// errForm: the bytes are bencoded, but not in the one form that BEP 3 prescribes.
var errForm = errors.New("dictionary keys are not sorted, or one is there twice")

// check holds bytes against the rules before the library sees them: it recurses as deep as they say, makes a buffer as long as they say, and takes the last of equal keys.
func check(b []byte) error {
	v, rest, err := scan.Parse(b, scan.Limits{Bytes: wire.MaxMessage, Depth: MaxDepth, Items: MaxItems})
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return fmt.Errorf("%d bytes behind the value", len(rest))
	case !v.Canonical():
		return errForm
	}
	return nil
}

// Marshal implements [parley.Codec].
func (codec) Marshal(v any) (b []byte, err error) {
	defer catch("writing", v, &err)
	if b, err = lib.Marshal(v); err == nil {
		err = check(b) // a nil is written as nothing, and a large uint64 as what nobody reads
	}
	if err != nil {
		return nil, fmt.Errorf("bencode: writing %T: %w", v, err)
	}
	return b, nil
}

// Unmarshal implements [parley.Codec].
func (codec) Unmarshal(b []byte, v any) (err error) {
	defer catch("reading", v, &err)
	if err = check(b); err == nil {
		err = lib.NewDecoder(bytes.NewReader(b)).Decode(v)
	}
	if err != nil {
		return fmt.Errorf("bencode: reading %T: %w", v, err)
	}
	return nil
}

// catch makes an error of a panic. The library panics, and lets it through, when a dictionary has the name of a field that is not exported (v1.48.1, decode.go,
// parseStructFields): a peer must not end the program that way.
func catch(what string, v any, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("bencode: %s %T: %v", what, v, r)
	}
}
