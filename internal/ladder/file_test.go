package ladder

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/wire"
)

// some returns a memory with a bit of everything.
func some() *Memory {
	m := new(Memory)
	m.Worked(epoch, peer, mse)
	m.Worked(epoch.Add(time.Hour), peer, plain)
	m.Says(epoch.Add(time.Minute), netip.MustParseAddrPort("[2001:db8::1]:51413"), true)
	m.Worked(epoch, netip.MustParseAddrPort("192.0.2.7:80"), plain)
	m.Worked(epoch, netip.MustParseAddrPort("[2001:db8::1]:1"), veil)
	return m
}

func TestRoundTrip(t *testing.T) {
	for _, m := range []*Memory{new(Memory), some()} {
		b := m.Append([]byte("x"))[1:]
		got, err := Parse(b, epoch.Add(2*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if got.Len() != m.Len() || m.Len() > 0 && !reflect.DeepEqual(got, m) {
			t.Errorf("%+v, want %+v", got, m)
		}
		if again := got.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("%q, want %q", again, b)
		}
	}
}

// The bytes of a file, one by one: what is on people's disks must be read by programs to come.
func TestFile(t *testing.T) {
	var m Memory
	m.Worked(time.Unix(0x01020304, 0), netip.MustParseAddrPort("192.0.2.7:6881"), veil)
	m.Worked(time.Unix(0x01020305, 0), netip.MustParseAddrPort("192.0.2.7:6881"), plain)
	m.Says(time.Unix(0x01020306, 0), netip.MustParseAddrPort("192.0.2.7:6881"), true)
	want := "\xc0\x00\x02\x07\x1a\xe1\x0d\x01\x02\x03\x05\x01\x02\x03\x04\x01\x02\x03\x06"
	got := string(m.Append(nil))
	if !strings.HasPrefix(got, "d3:crci") || !strings.HasSuffix(got, "e2:v419:"+want+"2:v60:7:versioni1ee") {
		t.Errorf("%q", got)
	}
}

func TestFull(t *testing.T) {
	var m Memory
	for i := range MaxEntries {
		a := netip.AddrFrom16([16]byte{0x20, 1, 2: byte(i >> 8), byte(i)})
		m.Worked(epoch, netip.AddrPortFrom(a, math.MaxUint16), veil)
	}
	b := m.Append(nil)
	if len(b) > MaxBytes {
		t.Errorf("%d bytes, the limit is %d", len(b), MaxBytes)
	}
	got, err := Parse(b, epoch)
	if err != nil || got.Len() != MaxEntries {
		t.Errorf("%v, %v", got.Len(), err)
	}
}

func TestParseTimes(t *testing.T) {
	b := some().Append(nil)
	got, err := Parse(b, epoch.Add(Lifetime+30*time.Second))
	if err != nil || got.Len() != 2 {
		t.Errorf("%d addresses, want those that have not expired; %v", got.Len(), err)
	}
	// From a clock that was ahead: it does not count for longer than what is learned now.
	now := epoch.Add(-1000 * day)
	if got, err = Parse(b, now); err != nil || got.Len() != 4 {
		t.Fatal(got, err)
	}
	if !protects(got, now.Add(Lifetime-time.Second), peer) || protects(got, now.Add(Lifetime), peer) {
		t.Error("times to come are not taken for now")
	}
}

// file makes a file of records, right or not.
func file(v4, v6 string) []byte {
	var d bencode.Dict
	d.SetInt("crc", int64(checksum([]byte(v4), []byte(v6))))
	d.SetString("v4", v4)
	d.SetString("v6", v6)
	d.SetInt("version", 1)
	return d.Append(nil)
}

func TestParseRefuses(t *testing.T) {
	const (
		ip4, port   = "\xc0\x00\x02\x07", "\x1a\xe1"
		never, then = "\x00\x00\x00\x00", "\x69\x57\x00\x00"
		good        = ip4 + port + "\x01" + then + never + never
		ip6         = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
		good6       = ip6 + port + "\x0a" + then + then + never
	)
	if _, err := Parse(file(good, good6), epoch); err != nil {
		t.Fatal(err)
	}
	ok := string(file(good, ""))
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, ""},
		{"too long", make([]byte, MaxBytes+1), "the limit is"},
		{"no bencoding", []byte("hello"), ""},
		{"cut off", []byte(ok[:len(ok)-1]), ""},
		{"something behind it", []byte(ok + "x"), "1 bytes too many"},
		{"a list", []byte("le"), "no dictionary"},
		{"not canonical", []byte("d7:versioni1e2:v40:e"), "canonical"},
		{"nested", []byte("d1:ad1:bd1:cdeeee"), ""},
		{"no version", []byte("de"), `version "", want 1`},
		{"another version", []byte("d1:ai3e7:versioni2ee"), `version "i2e", want 1`},
		{"unknown key", []byte(ok[:len(ok)-1] + "1:zi1ee"), ""},
		{"unknown key in order", []byte("d1:ai1e" + ok[1:]), `unknown key "a"`},
		{"no records", []byte("d7:versioni1ee"), "v4: no string"},
		{"records of another kind", []byte("d2:v4i1e7:versioni1ee"), "v4: no string"},
		{"no checksum", []byte("d2:v40:2:v60:7:versioni1ee"), "crc"},
		{"wrong checksum", []byte(strings.Replace(ok, ip4, "\xc0\x00\x02\x08", 1)), "checksum"},
		{"part of a record", file(good+"x", ""), "v4: 1 bytes behind"},
		{"twice", file(good+good, ""), "v4: record 1 (192.0.2.7:6881): out of order"},
		{"out of order", file(good+"\xc0\x00\x01"+good[3:], ""), "out of order"},
		{"port 0", file(ip4+"\x00\x00"+good[6:], ""), "v4: record 0 (192.0.2.7:0): port 0"},
		{"unknown flags", file(ip4+port+"\x11"+good[7:], ""), "unknown flags 0x11"},
		{"plaintext as obfuscated", file(ip4+port+"\x05"+then+then+never, ""), "plaintext is not"},
		{"a hello without its time", file(ip4+port+"\x01"+never+never+never, ""), "without its time"},
		{"a time without its hello", file(ip4+port+"\x00"+then+never+never, ""), "without its hello"},
		{"obfuscated without its time", file(ip4+port+"\x08"+never+never+then, ""), "without its time"},
		{"worked, but not as obfuscated", file(ip4+port+"\x0e"+then+then+never, ""), "what worked is not"},
		{"nothing said", file(ip4+port+"\x00"+never+never+never, ""), "says nothing"},
		{"IPv4 in IPv6", file("", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"+ip4+port+"\x01"+then+never+never), "v6: record 0"},
		{"too many", file(strings.Repeat(good, MaxEntries+1), ""), "the limit is"},
	} {
		m, err := Parse(tt.b, epoch)
		if !errors.Is(err, ErrFormat) || m != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for n := range ok {
		if _, err := Parse([]byte(ok[:n]), epoch); err == nil {
			t.Errorf("cut off at %d: no error", n)
		}
		for bit := range 8 {
			b := []byte(ok)
			if b[n] ^= 1 << bit; string(b) != ok {
				if _, err := Parse(b, epoch); err == nil {
					t.Errorf("bit %d of byte %d: no error", bit, n)
				}
			}
		}
	}
}

// Whatever was done, the file says it all.
func TestRandomRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		var m Memory
		now := epoch
		for range 1 + rng.IntN(200) {
			now = now.Add(time.Duration(rng.Int64N(int64(time.Hour))))
			a := number(rng.IntN(30) + 1)
			if rng.IntN(3) == 0 {
				m.Says(now, a, rng.IntN(2) == 0)
			} else {
				m.Worked(now, a, wire.Hello(rng.IntN(5)))
			}
		}
		got, err := Parse(m.Append(nil), now)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for a, e := range m.entries {
			if have, ok := got.entries[a]; ok != e.fresh(now.Unix()) || ok && have != e {
				t.Fatalf("seed %d: %v: %+v, want %+v", seed, a, have, e)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(some().Append(nil))
	f.Add(new(Memory).Append(nil))
	f.Add([]byte("d3:crci0e2:v40:2:v60:7:versioni1ee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b, epoch)
		if err != nil {
			if !errors.Is(err, ErrFormat) || m != nil {
				t.Errorf("%v, %v", m, err)
			}
			return
		}
		if m.Len() > MaxEntries {
			t.Errorf("%d addresses", m.Len())
		}
		out := m.Append(nil)
		again, err := Parse(out, epoch)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%v: %+v, want %+v", err, again, m)
		}
		for a := range m.entries {
			if s := m.Steps(epoch, a, Policy{}); len(s) == 0 || len(s) > 3 {
				t.Errorf("%v: %v", a, s)
			}
		}
	})
}
