package emp_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// buildType reads "name":id:vmin:vmax:maxlen.
func buildType(s string) (t emp.TypeOffer, err error) {
	name, err := strconv.QuotedPrefix(s)
	if err != nil {
		return t, fmt.Errorf("t=%s: %w", s, err)
	}
	if _, err := fmt.Sscanf(s[len(name):], ":%d:%d:%d:%d", &t.ID, &t.MinVersion, &t.MaxVersion, &t.MaxLen); err != nil {
		return t, fmt.Errorf("t=%s: %w", s, err)
	}
	t.Name, err = strconv.Unquote(name)
	return t, err
}

// buildOffer returns the offer that a vector means.
func buildOffer(v wiretest.Value) (o emp.Offer, err error) {
	r := v.Read()
	for _, s := range r.Texts("t") {
		t, err := buildType(s)
		if err != nil {
			return o, err
		}
		o.Types = append(o.Types, t)
	}
	o.HasTypes = r.Uint("types") == 1 || len(o.Types) > 0
	o.Requests = -1
	if s := r.Texts("req"); len(s) > 0 {
		if o.Requests, err = strconv.ParseInt(s[0], 0, 64); err != nil {
			return o, err
		}
	}
	o.Version, o.Max, o.Window = int(r.Uint("v")), int64(r.Uint("max")), int64(r.Uint("win"))
	if b := r.Bytes("id"); b != nil {
		o.PeerID, o.HasPeerID = bt.PeerID(b), true
	}
	if b := r.Bytes("rb"); b != nil {
		o.Reserved, o.HasReserved = wire.Reserved(b), true
	}
	o.Veil, o.Key, o.Signature = r.Uint("veil") == 1, r.Bytes("k"), r.Bytes("s")
	if v.Kind != "offer" {
		return o, fmt.Errorf("unknown kind %q", v.Kind)
	}
	return o, r.Err()
}

// Sections 6.1 and 6.2: the keys of "emp", what is odd about them, and what is malformed; see the names of the vectors.
func TestOfferVectors(t *testing.T) {
	for _, v := range load(t, "offers.txt") {
		t.Run(v.Name, func(t *testing.T) {
			got, err := emp.ParseOffer(v.Bytes)
			if v.Fails != "" {
				wiretest.WantFailure(t, err, v.Fails)
				return
			}
			want, verr := buildOffer(v.Means)
			if verr != nil {
				t.Fatalf("%s: %v", v.File, verr)
			}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: read as %+v, %v; want %+v", v.File, got, err, want)
			}
			want.Types = slices.Clone(want.Types) // written in order, whatever the order given
			slices.Reverse(want.Types)
			if wrote := emp.AppendOffer([]byte("."), &want); !v.ReadOnly && string(wrote) != "."+string(v.Bytes) {
				t.Errorf("%s: written as %q, want %q", v.File, wrote[1:], v.Bytes)
			}
			// Cut at every byte it is malformed. (What trails the dictionary does not count.)
			if body, rest, err := bencode.Parse(v.Bytes, bencode.Limits{}); err == nil && len(rest) == 0 {
				for n := range body.Raw() {
					if o, err := emp.ParseOffer(v.Bytes[:n]); err == nil {
						t.Errorf("%s: cut to %d bytes it is read as %+v", v.File, n, o)
					}
				}
			}
		})
	}
}

// Section 6.2: an absent "req" is 64 and "req 0" none at all, so that they must not look alike.
func TestZeroOfferAcceptsNoRequests(t *testing.T) {
	if got := string(emp.AppendOffer(nil, &emp.Offer{})); got != "d3:reqi0ee" {
		t.Errorf("the zero offer is written as %q", got)
	}
	if o, err := emp.ParseOffer([]byte("de")); err != nil || o.Requests != -1 {
		t.Errorf("without req %d requests, %v", o.Requests, err)
	}
}

func TestOfferLimits(t *testing.T) {
	counts := func(want int, raw []byte) error {
		if o, err := emp.ParseOffer(raw); err != nil || len(o.Types) != want {
			return fmt.Errorf("%d types, %v; want %d", len(o.Types), err, want)
		}
		return nil
	}
	one := func(item string) []byte { return []byte("d1:td1:al" + item + "eee") }
	wiretest.TestLimits(t, []wiretest.Limit{
		// "The limits of m hold" (section 6.2): names over 64 bytes and entries past 1,024 are ignored (section 6.1).
		{Name: "entries of t", At: wire.MaxTypeEntries, Try: func(n int) error {
			return counts(n, emp.AppendOffer(nil, &emp.Offer{HasTypes: true, Types: types(n)}))
		}},
		{Name: "entries of t, odd ones counted", At: wire.MaxTypeEntries - 1, Try: func(n int) error {
			raw := append([]byte("d1:td0:le"), emp.AppendOffer(nil, &emp.Offer{Requests: -1, HasTypes: true, Types: types(n)})[5:]...)
			return counts(n, raw)
		}},
		{Name: "length of a name", At: wire.MaxTypeName, Try: func(n int) error {
			return counts(1, []byte("d1:td"+strconv.Itoa(n)+":"+strings.Repeat("n", n)+"li1ei0ei0ei0eeee"))
		}},
		// "id 1..65535, versions 0..255", "vmin > vmax" is malformed (section 6.2).
		{Name: "id", At: 65535, Try: func(n int) error { return counts(1, one(fmt.Sprintf("i%dei0ei0ei0e", n))) }},
		{Name: "vmax", At: 255, Try: func(n int) error { return counts(1, one(fmt.Sprintf("i1ei0ei%dei0e", n))) }},
		{Name: "vmin of vmax 255", At: 255, Try: func(n int) error { return counts(1, one(fmt.Sprintf("i1ei%dei255ei0e", n))) }},
		{Name: "vmin of vmax 7", At: 7, Try: func(n int) error { return counts(1, one(fmt.Sprintf("i1ei%dei7ei0e", n))) }},
		// "values (and maxlen) above 16 MiB count as 16 MiB" (section 6.2).
		{Name: "maxlen", At: 16 << 20, Try: func(n int) error {
			if o, err := emp.ParseOffer(one(fmt.Sprintf("i1ei0ei0ei%de", n))); err != nil || int(o.Types[0].MaxLen) != n {
				return errors.Join(errors.New("another maxlen"), err)
			}
			return nil
		}},
		// Section 6.1: depth 8 with the exchange's dictionary, of which this is one inside.
		{Name: "depth", At: 7, Try: func(n int) error {
			_, err := emp.ParseOffer([]byte("d1:x" + strings.Repeat("l", n-1) + strings.Repeat("e", n-1) + "e"))
			return err
		}},
	})
}

// types returns n types with ids from 1, named in order.
func types(n int) (all []emp.TypeOffer) {
	for i := range n {
		all = append(all, emp.TypeOffer{Name: fmt.Sprintf("%05d", i), ID: uint16(i + 1), MaxVersion: 1, MaxLen: 5})
	}
	return all
}

// What is kept of an exchange must not alias the frame.
func TestOfferOwnsItsMemory(t *testing.T) {
	v := load(t, "offers.txt")[1]
	o, err := emp.ParseOffer(v.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	clear(v.Bytes)
	want, err := buildOffer(v.Means)
	if err != nil || len(want.Types) == 0 || want.Key == nil || !reflect.DeepEqual(o, want) {
		t.Errorf("%+v after its frame was overwritten, want %+v (%v)", o, want, err)
	}
}

// An exchange of 64 KiB of odd entries costs next to nothing: what is dropped is not kept, nor copied first.
func TestOddOffersCostNoMemory(t *testing.T) {
	fill := func(entry string) []byte {
		return []byte("d1:td" + strings.Repeat(entry, (wire.MaxExchangeBytes-10)/len(entry)) + "ee")
	}
	for name, raw := range map[string][]byte{
		"no lists":       fill("1:a0:"),
		"empty lists":    fill("0:le"),
		"one type again": fill("1:ali1ei0ei0ei0ee"),
		"long names":     fill("99:" + strings.Repeat("x", 99) + "li1ei0ei0ei0ee"),
		"many keys":      []byte("d" + strings.Repeat("1:vi1e", (wire.MaxExchangeBytes-2)/6) + "e"),
	} {
		var o emp.Offer
		var err error
		if got := testing.AllocsPerRun(10, func() { o, err = emp.ParseOffer(raw) }); got > 8 || err != nil || len(o.Types) > 1 {
			t.Errorf("%s: %v allocations, %d types, %v", name, got, len(o.Types), err)
		}
	}
}

// Section 6.1: what the exchange after a veiled hello must have, or it is malformed.
func TestCheckVeiled(t *testing.T) {
	for name, tt := range map[string]struct {
		raw, want string
	}{
		"all":           {"d2:id20:abcdefghijklmnopqrst2:rb8:ABCDEFGH1:vi1ee", ""},
		"later version": {"d2:id20:abcdefghijklmnopqrst2:rb8:ABCDEFGH1:vi9ee", ""},
		"nothing":       {"de", "id or rb"},
		"no id":         {"d2:rb8:ABCDEFGH1:vi1ee", "id or rb"},
		"short id":      {"d2:id19:abcdefghijklmnopqrs2:rb8:ABCDEFGH1:vi1ee", "id or rb"},
		"no rb":         {"d2:id20:abcdefghijklmnopqrst1:vi1ee", "id or rb"},
		"long rb":       {"d2:id20:abcdefghijklmnopqrst2:rb9:ABCDEFGHI1:vi1ee", "id or rb"},
		"no v":          {"d2:id20:abcdefghijklmnopqrst2:rb8:ABCDEFGHe", "v of emp"},
		"v 0":           {"d2:id20:abcdefghijklmnopqrst2:rb8:ABCDEFGH1:vi0ee", "v of emp"},
		"negative v":    {"d2:id20:abcdefghijklmnopqrst2:rb8:ABCDEFGH1:vi-1ee", "v of emp"},
	} {
		o, err := emp.ParseOffer([]byte(tt.raw))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := o.CheckVeiled(); tt.want == "" && err != nil || tt.want != "" && err == nil {
			t.Errorf("%s: %v", name, err)
		} else if tt.want != "" {
			wiretest.WantFailure(t, err, tt.want)
		}
	}
}

// Section 6.1: "Sent: sorted, unique keys", whichever of them are there; and what was written is read as it was.
func TestAppendOfferIsCanonical(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		o := emp.Offer{Requests: rng.Int64N(3) - 1, HasTypes: rng.IntN(2) == 0, HasPeerID: rng.IntN(2) == 0, HasReserved: rng.IntN(2) == 0,
			Veil: rng.IntN(2) == 0, Version: rng.IntN(3), Max: rng.Int64N(2), Window: rng.Int64N(2)}
		if o.HasTypes {
			o.Types = types(rng.IntN(4))
		}
		if o.HasPeerID {
			o.PeerID[3] = byte(rng.Uint32())
		}
		if o.HasReserved {
			o.Reserved[3] = byte(rng.Uint32())
		}
		if rng.IntN(2) == 0 {
			o.Key = make([]byte, 32)
		}
		if rng.IntN(2) == 0 {
			o.Signature = make([]byte, 64)
		}
		raw := emp.AppendOffer(nil, &o)
		if v, rest, err := bencode.Parse(raw, bencode.Limits{}); err != nil || len(rest) > 0 || !v.Canonical() {
			t.Fatalf("%+v is written as %q: not canonical (%v)", o, raw, err)
		}
		if got, err := emp.ParseOffer(raw); err != nil || !reflect.DeepEqual(got, o) {
			t.Fatalf("%+v\nis written as %q\nand read as %+v, %v", o, raw, got, err)
		}
	}
}

func FuzzOffer(f *testing.F) {
	for _, v := range load(f, "offers.txt") {
		f.Add(v.Bytes, v.Bytes)
	}
	f.Add([]byte("d1:td1:ali1ei1ei1ei5eeee"), []byte("d1:td1:ali1ei0ei2ei9ee1:bli1ei0ei0ei0eeee"))
	f.Fuzz(func(t *testing.T, raw, later []byte) {
		o, err := emp.ParseOffer(raw)
		if err != nil {
			wiretest.WantFailure(t, err, "emp")
			return
		}
		if len(o.Types) > wire.MaxTypeEntries || o.Max < 0 || o.Window < 0 || o.Requests < -1 || o.Version < 0 ||
			o.Key != nil && len(o.Key) != 32 || o.Signature != nil && len(o.Signature) != 64 || len(o.Types) > 0 && !o.HasTypes {
			t.Fatalf("beyond the limits: %+v", o)
		}
		var table emp.TheyOffer
		if _, err := table.Apply(&o, 3); (err != nil) != (o.Window > wire.MaxWindow) {
			t.Fatalf("window %d: %v", o.Window, err)
		}
		checkTable(t, &table)
		// Read, written and read again it is the same, once sorted.
		slices.SortFunc(o.Types, func(a, b emp.TypeOffer) int { return strings.Compare(a.Name, b.Name) })
		again := emp.AppendOffer(nil, &o)
		if o2, err := emp.ParseOffer(again); len(again) <= wire.MaxExchangeBytes && (err != nil || !reflect.DeepEqual(o, o2)) {
			t.Fatalf("%+v\nwritten as %q\nread as %+v, %v", o, again, o2, err)
		}
		if v, _, err := bencode.Parse(again, bencode.Limits{Bytes: 1 << 20}); err != nil || !v.Canonical() {
			t.Fatalf("written as %q: not canonical (%v)", again, err)
		}
		// Whatever comes later, names keep their ids, and ranges and sizes only grow.
		before := slices.Collect(table.All())
		if o2, err := emp.ParseOffer(later); err == nil {
			_, _ = table.Apply(&o2, 4)
			checkTable(t, &table)
			for _, old := range before {
				now, ok := table.Type(old.Name)
				if ok && (now.ID != old.ID || now.MinVersion > old.MinVersion || now.MaxVersion < old.MaxVersion || now.MaxLen < old.MaxLen) {
					t.Fatalf("%+v became %+v", old, now)
				}
				if !ok && !o2.HasTypes {
					t.Fatalf("%+v is gone without a t", old)
				}
			}
		}
	})
}
