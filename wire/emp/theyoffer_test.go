package emp_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// checkTable checks what holds for every table.
func checkTable(t testing.TB, table *emp.TheyOffer) {
	t.Helper()
	all := slices.Collect(table.All())
	if len(all) != table.Len() || len(all) > wire.MaxTypeEntries ||
		!slices.IsSortedFunc(all, func(a, b emp.TypeOffer) int { return strings.Compare(a.Name, b.Name) }) {
		t.Fatalf("%d types, in this order: %+v", table.Len(), all)
	}
	ids := make(map[uint16]bool)
	for _, o := range all {
		if got, ok := table.Type(o.Name); !ok || got != o {
			t.Fatalf("%+v is also said to be %+v, %v", o, got, ok)
		}
		if ids[o.ID] || o.ID == 0 || o.MinVersion > o.MaxVersion || o.MaxLen == 0 || o.MaxLen > wire.MaxMessage || o.MaxLen > table.Window()-wire.MessageCost {
			t.Fatalf("impossible type %+v", o)
		}
		ids[o.ID] = true
	}
	if table.Window() < wire.MinWindow || table.Window() > wire.MaxWindow || table.Max() == 0 || table.Max() > wire.MaxMessage || table.Requests() < 0 ||
		table.Active() && table.Mux() == 0 || !table.Known() && (table.Len() > 0 || table.Active() || table.Veil() || table.Mux() != 0) {
		t.Fatalf("impossible table: window %d, max %d, requests %d", table.Window(), table.Max(), table.Requests())
	}
}

// parse reads a dictionary under "emp".
func parse(t testing.TB, raw string) *emp.Offer {
	t.Helper()
	o, err := emp.ParseOffer([]byte(raw))
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return &o
}

// offer returns an offer of version 1 with the given types: "name:id:vmin:vmax:maxlen", maxlen 0 for "max".
func offer(t testing.TB, types string) *emp.Offer {
	t.Helper()
	o := &emp.Offer{Version: 1, Requests: -1, HasTypes: true}
	for s := range strings.FieldsSeq(types) {
		name, rest, _ := strings.Cut(s, ":")
		typ := emp.TypeOffer{Name: name}
		if _, err := fmt.Sscanf(rest, "%d:%d:%d:%d", &typ.ID, &typ.MinVersion, &typ.MaxVersion, &typ.MaxLen); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		o.Types = append(o.Types, typ)
	}
	return o
}

// text returns what a table offers now, as offer reads it.
func text(table *emp.TheyOffer) string {
	var all []string
	for o := range table.All() {
		all = append(all, fmt.Sprintf("%s:%d:%d:%d:%d", o.Name, o.ID, o.MinVersion, o.MaxVersion, o.MaxLen))
	}
	return strings.Join(all, " ")
}

// An idle peer that offers nothing costs a pointer, and asking it costs nothing.
func TestZeroTheyOffer(t *testing.T) {
	var table emp.TheyOffer
	if size := unsafe.Sizeof(table); size > 8 {
		t.Errorf("%d bytes", size)
	}
	if _, ok := table.Type("a"); ok || table.Known() || table.Active() || table.Mux() != 0 || table.Version() != 0 || table.Veil() || table.Len() != 0 {
		t.Error("the zero table offers something")
	}
	if table.Window() != 65_600 || table.Max() != 65_536 || table.Requests() != 64 { // as if an exchange had left them out
		t.Errorf("window %d, max %d, requests %d", table.Window(), table.Max(), table.Requests())
	}
	checkTable(t, &table)
}

// Section 6.2, the keys of one exchange: defaults, least and largest values.
func TestTheyOfferNumbers(t *testing.T) {
	type numbers struct {
		max      uint32
		window   uint32
		requests int
	}
	for _, tt := range []struct {
		name, raw string
		want      numbers
	}{
		{"absent", "d1:vi1ee", numbers{65_536, 65_600, 64}},
		{"negative counts as absent", "d3:maxi-5e3:reqi-5e1:vi1e3:wini-5ee", numbers{65_536, 65_600, 64}},
		{"of other types", "d3:max1:53:reqle1:vi1e3:windee", numbers{65_536, 65_600, 64}},
		{"smaller windows count as 65,600", "d1:vi1e3:wini65599ee", numbers{65_536, 65_600, 64}},
		{"window 0", "d1:vi1e3:wini0ee", numbers{65_536, 65_600, 64}},
		{"a larger window", "d1:vi1e3:wini65601ee", numbers{65_536, 65_601, 64}},
		{"the largest window", "d1:vi1e3:wini2147483647ee", numbers{65_536, 1<<31 - 1, 64}},
		{"no requests", "d3:reqi0e1:vi1ee", numbers{65_536, 65_600, 0}},
		{"one request", "d3:reqi1e1:vi1ee", numbers{65_536, 65_600, 1}},
		{"as many as there are", "d3:reqi9223372036854775807e1:vi1ee", numbers{65_536, 65_600, math.MaxInt32}},
		{"a small max", "d3:maxi1e1:vi1ee", numbers{1, 65_600, 64}},
		{"max 0", "d3:maxi0e1:vi1ee", numbers{65_536, 65_600, 64}},
		{"max of 16 MiB", "d3:maxi16777216e1:vi1ee", numbers{1 << 24, 65_600, 64}},
		{"max above 16 MiB counts as that", "d3:maxi16777217e1:vi1ee", numbers{1 << 24, 65_600, 64}},
		{"max above 32 bits", "d3:maxi4294967297e1:vi1ee", numbers{1 << 24, 65_600, 64}},
	} {
		var table emp.TheyOffer
		if changed, err := table.Apply(parse(t, tt.raw), 1); !changed || err != nil {
			t.Errorf("%s: changed %v, %v", tt.name, changed, err)
		}
		if got := (numbers{table.Max(), table.Window(), table.Requests()}); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
		checkTable(t, &table)
	}
}

// Section 7.3: a window above 2^31-1 is a protocol error. Section 6.2: "win" counts only in the first exchange that has "emp".
func TestWindowTooLarge(t *testing.T) {
	for _, raw := range []string{"d1:vi1e3:wini2147483648ee", "d1:vi1e3:wini4294967297ee", "d3:wini9223372036854775807ee"} {
		var table emp.TheyOffer
		if changed, err := table.Apply(parse(t, raw), 1); changed || !errors.Is(err, emp.ErrWindow) || table.Known() {
			t.Errorf("%s: changed %v, %v", raw, changed, err)
		}
		if _, err := table.Apply(parse(t, "d1:vi1ee"), 1); err != nil {
			t.Error(err)
		}
		if changed, err := table.Apply(parse(t, raw), 1); changed || err != nil || table.Window() != wire.MinWindow {
			t.Errorf("%s in a second exchange: changed %v, %v", raw, changed, err)
		}
	}
}

// Section 6.2: mux frames need "emp_mux" other than 0 and "v" of at least 1.
func TestActive(t *testing.T) {
	for _, tt := range []struct {
		raw    string
		mux    uint8
		active bool
	}{
		{"d1:vi1ee", 1, true}, {"d1:vi1ee", 255, true}, {"d1:vi2ee", 1, true}, {"d1:vi1ee", 0, false}, {"d1:vi0ee", 1, false}, {"de", 1, false}, {"d1:vi-1ee", 1, false},
	} {
		var table emp.TheyOffer
		if _, err := table.Apply(parse(t, tt.raw), tt.mux); err != nil || table.Active() != tt.active || !table.Known() || table.Mux() != tt.mux {
			t.Errorf("%s with mux %d: active %v, known %v, mux %d, %v", tt.raw, tt.mux, table.Active(), table.Known(), table.Mux(), err)
		}
	}
}

// Section 6.2: "emp_mux, v, max, win, req, … count only in the first exchange that has emp"; "veil" and "t" count in each.
func TestOnlyTheFirstCounts(t *testing.T) {
	var table emp.TheyOffer
	first := parse(t, "d3:maxi70000e3:reqi8e1:td1:ali1ei0ei0ei0eee1:vi1e4:veili1e3:wini80000ee")
	second := parse(t, "d3:maxi5e3:reqi1e1:td1:ali1ei0ei0ei0ee1:bli2ei0ei0ei0eee1:vi2e3:wini1000000ee")
	for i, step := range []struct {
		o       *emp.Offer
		mux     uint8
		changed bool
		veil    bool
		types   string
	}{
		{first, 2, true, true, "a:1:0:0:70000"},
		{first, 2, false, true, "a:1:0:0:70000"},
		{second, 9, true, false, "a:1:0:0:70000 b:2:0:0:70000"},
		{second, 0, false, false, "a:1:0:0:70000 b:2:0:0:70000"},
		{first, 2, true, true, "a:1:0:0:70000"},
	} {
		changed, err := table.Apply(step.o, step.mux)
		if err != nil || changed != step.changed || table.Veil() != step.veil || text(&table) != step.types {
			t.Errorf("step %d: changed %v, %v, veil %v, types %s", i, changed, err, table.Veil(), text(&table))
		}
		if table.Mux() != 2 || table.Version() != 1 || table.Max() != 70000 || table.Window() != 80000 || table.Requests() != 8 || !table.Active() {
			t.Errorf("step %d: mux %d, v %d, max %d, win %d, req %d", i, table.Mux(), table.Version(), table.Max(), table.Window(), table.Requests())
		}
		checkTable(t, &table)
	}
	// What the first left out is not made good for by the second.
	table = emp.TheyOffer{}
	for i, mux := range []uint8{0, 2} {
		if changed, err := table.Apply(parse(t, []string{"d4:veili1ee", "d1:vi1e4:veili1e3:wini80000ee"}[i]), mux); err != nil || changed != (i == 0) || table.Active() {
			t.Errorf("exchange %d: changed %v, %v, active %v", i, changed, err, table.Active())
		}
	}
}

// Section 6.2: what a type's largest message really is. 0 stands for "max", above 16 MiB counts as that, and none is larger than "win" less 64,
// "whatever maxlen says".
func TestMaxLen(t *testing.T) {
	for _, tt := range []struct {
		max, win int64
		maxLen   uint32
		want     uint32
	}{
		{0, 0, 0, 65_536},
		{0, 0, 1, 1},
		{0, 0, 65_536, 65_536},
		{0, 0, 65_537, 65_536}, // the window
		{100, 0, 0, 100},
		{100, 0, 101, 101},
		{70_000, 0, 0, 65_536},
		{70_000, 70_063, 0, 69_999},
		{70_000, 70_064, 0, 70_000},
		{0, 1 << 30, 16 << 20, 16 << 20},
		{0, 1 << 30, 16<<20 + 1, 16 << 20}, // never from ParseOffer
		{0, 1 << 30, math.MaxUint32, 16 << 20},
		{1 << 30, 1 << 30, 0, 16 << 20},
		{0, wire.MaxWindow, 5 << 20, 5 << 20},
	} {
		var table emp.TheyOffer
		o := offer(t, "a:1:0:0:0")
		o.Max, o.Window, o.Types[0].MaxLen = tt.max, tt.win, tt.maxLen
		if _, err := table.Apply(o, 1); err != nil {
			t.Fatal(err)
		}
		if got, ok := table.Type("a"); !ok || got.MaxLen != tt.want {
			t.Errorf("max %d, win %d, maxlen %d: %d bytes, want %d", tt.max, tt.win, tt.maxLen, got.MaxLen, tt.want)
		}
		checkTable(t, &table)
	}
}

// Section 6.2: exchanges in a row. "In a later exchange t replaces the earlier one: a missing name is withdrawn, no t leaves all as it was; a name
// keeps its id, and its range and maxlen may only grow"; "an id … used by another name in this session, or one against the rules for later
// exchanges … drops that type only". All offer max 65,536 and a window of 1 MiB.
func TestTheyOfferTypes(t *testing.T) {
	const noT = "no t"
	type step struct {
		types   string
		changed bool
		want    string
	}
	for name, steps := range map[string][]step{
		"t replaces": {
			{"a:1:0:1:5 b:2:0:0:5", true, "a:1:0:1:5 b:2:0:0:5"},
			{"b:2:0:0:5 c:3:0:0:5", true, "b:2:0:0:5 c:3:0:0:5"},
			{"", true, ""},
			{"", false, ""},
		},
		"no t leaves all as it was": {
			{"a:1:0:1:5", true, "a:1:0:1:5"},
			{noT, false, "a:1:0:1:5"},
		},
		"sorted, whatever the order": {
			{"c:1:0:0:5 a:2:0:0:5 b:3:0:0:5", true, "a:2:0:0:5 b:3:0:0:5 c:1:0:0:5"},
			{"b:3:0:0:5 a:2:0:0:5 c:1:0:0:5", false, "a:2:0:0:5 b:3:0:0:5 c:1:0:0:5"},
		},
		"a withdrawn name comes back with its id": {
			{"a:1:0:1:5", true, "a:1:0:1:5"},
			{"", true, ""},
			{"a:1:0:1:5", true, "a:1:0:1:5"},
		},
		"a withdrawn name does not come back with another id": {
			{"a:1:0:1:5", true, "a:1:0:1:5"},
			{"", true, ""},
			{"a:2:0:1:5", false, ""},
			{"b:2:0:0:5", true, "b:2:0:0:5"}, // which the refused entry has not taken
		},
		"another id drops the type alone": {
			{"a:1:0:1:5 b:2:0:0:5", true, "a:1:0:1:5 b:2:0:0:5"},
			{"a:3:0:1:5 b:2:0:0:5", true, "b:2:0:0:5"},
			{"a:3:0:1:5 b:2:0:0:5", false, "b:2:0:0:5"},
			{"a:1:0:1:5 b:2:0:0:5", true, "a:1:0:1:5 b:2:0:0:5"},
		},
		"an id keeps its name": {
			{"a:1:0:1:5", true, "a:1:0:1:5"},
			{"b:1:0:1:5", true, ""},
			{"b:1:0:1:5", false, ""},
			{"a:1:0:1:5 b:1:0:1:5", true, "a:1:0:1:5"},
		},
		"the earlier owner keeps an id, whatever the order": {
			{"b:1:0:1:5", true, "b:1:0:1:5"},
			{"a:1:0:1:5 b:1:0:1:5", false, "b:1:0:1:5"},
		},
		"one id twice in one exchange": {
			{"b:1:0:1:5 a:1:0:1:5", true, "b:1:0:1:5"},
			{"a:1:0:1:5", true, ""},
			{"a:2:0:1:5", true, "a:2:0:1:5"}, // a name whose entry did not count has no id to keep
		},
		"one name twice in one exchange": { // never from ParseOffer
			{"a:1:0:1:5 a:1:0:2:5 a:2:0:1:5", true, "a:1:0:1:5"},
		},
		"the range grows": {
			{"a:1:2:4:5", true, "a:1:2:4:5"},
			{"a:1:2:5:5", true, "a:1:2:5:5"},
			{"a:1:1:5:5", true, "a:1:1:5:5"},
			{"a:1:0:255:5", true, "a:1:0:255:5"},
		},
		"vmax shrinks": {
			{"a:1:2:4:5 b:2:0:0:5", true, "a:1:2:4:5 b:2:0:0:5"},
			{"a:1:2:3:5 b:2:0:0:5", true, "b:2:0:0:5"},
			{"a:1:2:3:5 b:2:0:0:5", false, "b:2:0:0:5"}, // also against what it was before it was withdrawn
			{"a:1:2:4:5 b:2:0:0:5", true, "a:1:2:4:5 b:2:0:0:5"},
		},
		"vmin rises": {
			{"a:1:2:4:5", true, "a:1:2:4:5"},
			{"a:1:3:4:5", true, ""},
			{"a:1:3:5:5", false, ""},
		},
		"maxlen grows": {
			{"a:1:0:0:5", true, "a:1:0:0:5"},
			{"a:1:0:0:6", true, "a:1:0:0:6"},
			{"a:1:0:0:0", true, "a:1:0:0:65536"}, // as max says
			{"a:1:0:0:65536", false, "a:1:0:0:65536"},
			{"a:1:0:0:65537", true, "a:1:0:0:65537"},
			{"a:1:0:0:33554432", true, "a:1:0:0:1048512"}, // counts as 16 MiB, cut by the window
			{"a:1:0:0:16777216", false, "a:1:0:0:1048512"},
		},
		"maxlen shrinks": {
			{"a:1:0:0:6", true, "a:1:0:0:6"},
			{"a:1:0:0:5", true, ""},
			{"a:1:0:0:6", true, "a:1:0:0:6"},
		},
		"0 as maxlen is not the smallest": {
			{"a:1:0:0:70000", true, "a:1:0:0:70000"},
			{"a:1:0:0:0", true, ""},
		},
		"a maxlen beyond the window shrinks too": {
			{"a:1:0:0:5000000", true, "a:1:0:0:1048512"},
			{"a:1:0:0:4000000", true, ""},
		},
		"what was refused is not remembered": {
			{"a:1:2:4:5", true, "a:1:2:4:5"},
			{"a:1:0:3:9", true, ""},
			{"a:1:2:4:5", true, "a:1:2:4:5"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var table emp.TheyOffer
			for i, s := range steps {
				o := &emp.Offer{Version: 1, Requests: -1}
				if s.types != noT {
					o = offer(t, s.types)
				}
				o.Window = 1 << 20
				changed, err := table.Apply(o, 1)
				if err != nil || changed != s.changed || text(&table) != s.want {
					t.Errorf("step %d: changed %v, %v, offers %q; want %v, %q", i, changed, err, text(&table), s.changed, s.want)
				}
				checkTable(t, &table)
				for _, name := range []string{"a", "b", "c", "nobody's"} {
					if _, ok := table.Type(name); ok != strings.Contains(s.want, name+":") {
						t.Errorf("step %d: %s is offered: %v", i, name, ok)
					}
				}
			}
		})
	}
}

// Section 6.2, "The limits of m hold": what a peer can make remember in a session is bounded, withdrawn names included.
func TestNamesInASession(t *testing.T) {
	var table emp.TheyOffer
	all := types(wire.MaxTypeEntries + 1)
	apply := func(types []emp.TypeOffer) bool {
		t.Helper()
		changed, err := table.Apply(&emp.Offer{HasTypes: true, Types: types, Requests: -1}, 1)
		if err != nil {
			t.Fatal(err)
		}
		checkTable(t, &table)
		return changed
	}
	for i := range wire.MaxTypeEntries {
		if !apply(all[i:i+1]) || table.Len() != 1 {
			t.Fatalf("name %d is ignored", i)
		}
	}
	if !apply(all[wire.MaxTypeEntries:]) || table.Len() != 0 { // the one before it is withdrawn
		t.Error("a name past the limit is offered")
	}
	if apply(all) != true || table.Len() != wire.MaxTypeEntries {
		t.Errorf("%d types offered at once", table.Len())
	}
}

func TestAllStopsEarly(t *testing.T) {
	var table emp.TheyOffer
	if _, err := table.Apply(offer(t, "a:1:0:0:0 b:2:0:0:0"), 1); err != nil {
		t.Fatal(err)
	}
	for o := range table.All() {
		if o.Name != "a" {
			t.Errorf("%s comes first", o.Name)
		}
		break
	}
}

// Sending asks for a type each time.
func TestTypeAllocatesNothing(t *testing.T) {
	var table emp.TheyOffer
	if _, err := table.Apply(offer(t, "a:1:0:0:0"), 1); err != nil {
		t.Fatal(err)
	}
	found := true
	if got := testing.AllocsPerRun(100, func() {
		_, ok := table.Type("a")
		found = found && ok && table.Active()
	}); got != 0 || !found {
		t.Errorf("%v allocations, found %v", got, found)
	}
}
