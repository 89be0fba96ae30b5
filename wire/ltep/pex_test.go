package ltep_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// compactList is n IPv4 addresses that differ.
func compactList(n int) []byte {
	var b []byte
	for i := range n {
		b = binary.BigEndian.AppendUint16(append(b, 192, 0, byte(i>>8), byte(i)), 6881)
	}
	return b
}

// EMP/1 section 8: 100 addresses each; the rest is ignored, whichever family it is in.
func TestPEXLimits(t *testing.T) {
	one6 := append(make([]byte, 15), 1, 0x1a, 0xe1)
	for _, key := range []string{"added", "dropped"} {
		for _, tt := range []struct{ n, want int }{{99, 100}, {100, 100}, {101, 100}, {10_000, 100}} {
			var d bencode.Dict
			d.SetBytes(key, compactList(tt.n))
			d.SetBytes(key+"6", one6)
			p, err := ltep.ParsePEX(d.Append(nil))
			got := len(p.Added)
			if key == "dropped" {
				got = len(p.Dropped)
			}
			if err != nil || got != tt.want {
				t.Errorf("%d under %s and one more: %d read, %v; want %d", tt.n, key, got, err, tt.want)
			}
		}
	}
	// Of a message as large as a frame may be, no more is kept either.
	var d bencode.Dict
	d.SetBytes("added", compactList(170_000))
	payload := d.Append(nil)
	if n := testing.AllocsPerRun(10, func() {
		if p, err := ltep.ParsePEX(payload); err != nil || len(p.Added) != ltep.MaxPEXReceived {
			panic(fmt.Sprint(len(p.Added), err))
		}
	}); n > 20 {
		t.Errorf("%v allocations for a message of %d bytes", n, len(payload))
	}
}

func TestPEXOwnsItsMemory(t *testing.T) {
	b := ltep.AppendPEX(nil, ltep.PEX{Added: []ltep.PEXPeer{{Addr: netip.MustParseAddrPort("192.0.2.1:1")}}})
	p, err := ltep.ParsePEX(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if got := p.Added[0].Addr.String(); got != "192.0.2.1:1" {
		t.Errorf("%s after its frame was overwritten", got)
	}
}

func TestAppendPEXIsCanonical(t *testing.T) {
	p := ltep.PEX{
		Added: []ltep.PEXPeer{{Addr: netip.MustParseAddrPort("[2001:db8::1]:1")}, {Addr: netip.MustParseAddrPort("[::ffff:192.0.2.9]:2"), Flags: 1},
			{Addr: netip.MustParseAddrPort("192.0.2.1:1"), Flags: 2}},
		Dropped: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::2]:1"), netip.MustParseAddrPort("192.0.2.2:1")},
	}
	b := ltep.AppendPEX(nil, p)
	if v, rest, err := bencode.Parse(b, bencode.Limits{}); err != nil || len(rest) > 0 || !v.Canonical() {
		t.Errorf("not canonical: %q, %v", b, err)
	}
	again, err := ltep.ParsePEX(b)
	if err != nil || fmt.Sprint(again) != "{[{192.0.2.9:2 1} {192.0.2.1:1 2} {[2001:db8::1]:1 0}] [192.0.2.2:1 [2001:db8::2]:1]}" {
		t.Errorf("read again as %v, %v", again, err)
	}
}

func FuzzParsePEX(f *testing.F) {
	for _, v := range wiretest.Load(f, vectorsDir) {
		f.Add(v.Bytes)
	}
	c := codec()
	f.Fuzz(func(t *testing.T, payload []byte) {
		if p, err := ltep.ParsePEX(payload); err == nil && (len(p.Added) > ltep.MaxPEXReceived || len(p.Dropped) > ltep.MaxPEXReceived) {
			t.Fatalf("%d added, %d dropped", len(p.Added), len(p.Dropped))
		}
		c.Stable(t, append([]byte{classic.IDExtended, pexID}, payload...))
	})
}

func FuzzParseDontHave(f *testing.F) {
	for _, v := range wiretest.Load(f, vectorsDir) {
		f.Add(v.Bytes)
	}
	c := codec()
	f.Fuzz(func(t *testing.T, payload []byte) {
		c.Stable(t, append([]byte{classic.IDExtended, dontHaveID}, payload...))
		c.Stable(t, append([]byte{classic.IDExtended, uploadOnlyID}, payload...))
	})
}
