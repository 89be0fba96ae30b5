package wire_test

import (
	"strings"
	"testing"

	"github.com/parley-bt/parley/wire"
)

func TestReserved(t *testing.T) {
	bits := map[string]func(wire.Reserved) bool{
		"AZMP": wire.Reserved.AZMP, "LTEP": wire.Reserved.LTEP, "DHT": wire.Reserved.DHT, "Fast": wire.Reserved.Fast, "V2": wire.Reserved.V2,
	}
	for _, tt := range []struct {
		name  string
		index int
		mask  byte
	}{ // EMP/1 section 1, "Reserved bytes"
		{"AZMP", 0, 0x80}, {"LTEP", 5, 0x10}, {"DHT", 7, 0x01}, {"Fast", 7, 0x04}, {"V2", 7, 0x10},
	} {
		var only wire.Reserved
		only[tt.index] = tt.mask
		for name, has := range bits {
			if has(only) != (name == tt.name) {
				t.Errorf("byte %d mask %#x: %s is %v", tt.index, tt.mask, name, has(only))
			}
		}
		var but wire.Reserved
		for i := range but {
			but[i] = 0xff
		}
		but[tt.index] &^= tt.mask
		if bits[tt.name](but) {
			t.Errorf("%s is seen where its bit is not", tt.name)
		}
	}
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for k := range wire.NumKinds {
		if s := k.String(); s == "" || seen[s] {
			t.Errorf("kind %d is called %q", k, s)
		} else {
			seen[s] = true
		}
	}
	if s := wire.NumKinds.String(); s != "unknown" {
		t.Errorf("a kind that is not there is called %q", s)
	}
	clear(seen)
	for d := range wire.DialectEMP + 1 {
		seen[d.String()] = true
	}
	for h := range wire.HelloVeil + 1 {
		seen[h.String()] = true
	}
	if len(seen) != 8 || wire.Dialect(99).String() != "unknown" || wire.Hello(99).String() != "unknown" { // "unknown" is both
		t.Errorf("dialects and hellos are called %v", seen)
	}
}

func TestSyntaxErrorSaysWhatAndWhere(t *testing.T) {
	err := &wire.SyntaxError{Dialect: wire.DialectClassic, Kind: wire.KindHave, Offset: 1, Reason: "payload is not 4 bytes"}
	for _, part := range []string{"classic", "have", "payload is not 4 bytes", "byte 1"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
}

func TestPieceBlock(t *testing.T) {
	p := &wire.Piece{Index: 3, Begin: 16384, Data: make([]byte, 5)}
	if s := p.Block().String(); s != "3/16384+5" {
		t.Errorf("block %s", s)
	}
}
