package ltep

import (
	"iter"
	"maps"
	"slices"

	"github.com/parley-bt/parley/wire"
)

// TheyUse is the table of extended ids that a peer gave out: under which id it accepts which name. The zero table is empty. It
// is not safe for concurrent use.
type TheyUse struct {
	ids   map[string]uint8 // current id of each name ever seen; 0 is withdrawn
	names map[uint8]string // the name each id ever had: it never gets another (EMP/1 section 6.1)
}

// Apply merges the "m" of an exchange: it is additive, 0 withdraws, and an entry that would give an id another name is ignored, as
// are names past [wire.MaxTypeEntries] in the session. It reports whether anything changed.
func (t *TheyUse) Apply(m []Entry) (changed bool) {
	for _, e := range m {
		old, known := t.ids[e.Name]
		if known && old == e.ID {
			continue
		}
		if owner, taken := t.names[e.ID]; e.ID != 0 && taken && owner != e.Name {
			continue
		}
		if !known && len(t.ids) >= wire.MaxTypeEntries {
			continue
		}
		if t.ids == nil {
			t.ids, t.names = make(map[string]uint8), make(map[uint8]string)
		}
		t.ids[e.Name] = e.ID
		if e.ID != 0 {
			t.names[e.ID] = e.Name
		}
		changed = true
	}
	return changed
}

// ID returns the id under which the peer accepts name; 0 means that it does not.
func (t *TheyUse) ID(name string) uint8 { return t.ids[name] }

// All yields the names the peer accepts now, with their ids, in no order.
func (t *TheyUse) All() iter.Seq2[string, uint8] {
	return func(yield func(string, uint8) bool) {
		for n, id := range t.ids {
			if id != 0 && !yield(n, id) {
				return
			}
		}
	}
}

// Types returns the application types the peer accepts now, sorted: the names that are not BitTorrent's own.
func (t *TheyUse) Types() []string {
	var s []string
	for n := range t.All() {
		if IsTypeName(n) {
			s = append(s, n)
		}
	}
	slices.Sort(s)
	return s
}

// Snapshot returns the table as a map that shares nothing with it.
func (t *TheyUse) Snapshot() map[string]uint8 { return maps.Clone(t.ids) }
