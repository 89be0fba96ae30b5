package emp

import (
	"errors"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/parley-bt/parley/wire"
)

// ErrWindow is a "win" above 2^31-1, a protocol error (EMP/1 section 7.3).
var ErrWindow = errors.New("emp: window above 2^31-1")

// TheyOffer is what a peer has offered under "emp" in this session so far (EMP/1 section 6.2). The zero value is nothing, and costs no more than
// itself until the first [TheyOffer.Apply]. It is not safe for concurrent use.
type TheyOffer struct {
	s *offered // nil before the first exchange with "emp"
}

// offered is a session's state.
type offered struct {
	// As the first exchange with "emp" said; nothing of these changes later.
	version  int
	max      uint32
	window   uint32
	requests int32
	mux      uint8

	veil  bool
	now   int                     // how many types are offered now
	types map[string]*offeredType // every name that was ever offered, withdrawn ones included
	ids   map[uint16]struct{}     // the ids of types, which never get another name
}

// offeredType is what holds for a name in this session, whether or not it is offered now. MaxLen is resolved but for the window.
type offeredType struct {
	TypeOffer
	now, was bool // offered now; offered before the exchange that is being applied
}

// Apply takes the "emp" of an exchange, and the id which that exchange's own "m" gives to "emp_mux", 0 if none (or one that does not count). Of
// "v", "max", "win", "req" and mux only the first call's count; "veil" is taken each time; "t", if there, replaces what was offered before. An entry
// against the rules for later exchanges (another id, the id of another name, a range or maxlen that shrank) is left out, which withdraws a type that
// was offered before; so are new names past [wire.MaxTypeEntries] in the session.
//
// It reports whether anything changed that the other methods return. The error is [ErrWindow], and then nothing has changed.
func (t *TheyOffer) Apply(o *Offer, mux uint8) (changed bool, err error) {
	if t.s == nil {
		if o.Window > wire.MaxWindow {
			return false, ErrWindow
		}
		t.s = &offered{version: o.Version, max: wire.DefaultMaxMessage, window: uint32(max(o.Window, wire.MinWindow)), requests: wire.DefaultRequests, mux: mux}
		if o.Max > 0 {
			t.s.max = uint32(min(o.Max, wire.MaxMessage))
		}
		if o.Requests >= 0 {
			t.s.requests = int32(min(o.Requests, math.MaxInt32))
		}
		changed = true
	}
	if t.s.veil != o.Veil {
		t.s.veil, changed = o.Veil, true
	}
	if o.HasTypes && t.s.replace(o.Types) {
		changed = true
	}
	return changed, nil
}

// replace makes types the ones offered now and reports whether that changed anything.
func (s *offered) replace(types []TypeOffer) (changed bool) {
	for _, known := range s.types {
		known.was, known.now = known.now, false
	}
	s.now = 0
	for _, entry := range types {
		if entry.MaxLen == 0 {
			entry.MaxLen = s.max
		}
		entry.MaxLen = min(entry.MaxLen, wire.MaxMessage)
		known := s.types[entry.Name]
		switch {
		case known == nil:
			if known = s.add(entry); known == nil {
				continue
			}
		case known.now: // a second entry of one name: the first wins
			continue
		case !mayFollow(entry, known.TypeOffer):
			continue
		}
		if !known.was || known.TypeOffer != entry {
			known.TypeOffer, changed = entry, true
		}
		known.now = true
		s.now++
	}
	for _, known := range s.types {
		changed = changed || known.was && !known.now
	}
	return changed
}

// mayFollow reports whether an entry may stand in an exchange after one with an earlier entry of its name, withdrawn in between or not: a name keeps
// its id, and its range and maxlen may only grow (EMP/1 section 6.2).
func mayFollow(entry, earlier TypeOffer) bool {
	return entry.ID == earlier.ID && entry.MinVersion <= earlier.MinVersion && entry.MaxVersion >= earlier.MaxVersion && entry.MaxLen >= earlier.MaxLen
}

// add remembers a name that is new in this session; nil if its id belongs to another one or there is no room.
func (s *offered) add(entry TypeOffer) *offeredType {
	if _, taken := s.ids[entry.ID]; taken || len(s.types) >= wire.MaxTypeEntries {
		return nil
	}
	if s.types == nil {
		s.types, s.ids = make(map[string]*offeredType), make(map[uint16]struct{})
	}
	known := &offeredType{TypeOffer: entry}
	s.types[entry.Name], s.ids[entry.ID] = known, struct{}{}
	return known
}

// Known reports whether an exchange with "emp" has come.
func (t *TheyOffer) Known() bool { return t.s != nil }

// Active reports whether the peer accepts mux frames: it gave "emp_mux" an id and speaks a version of EMP (EMP/1 section 6.2).
func (t *TheyOffer) Active() bool { return t.s != nil && t.s.mux != 0 && t.s.version >= 1 }

// Mux returns the extended id under which the peer accepts mux frames if it is [TheyOffer.Active]; 0 if it gave none.
func (t *TheyOffer) Mux() uint8 {
	if t.s == nil {
		return 0
	}
	return t.s.mux
}

// Version returns the highest version of EMP that the peer speaks; 0 if it speaks none.
func (t *TheyOffer) Version() int {
	if t.s == nil {
		return 0
	}
	return t.s.version
}

// Window returns the peer's receive window as it began, bytes: [wire.MinWindow] to [wire.MaxWindow].
func (t *TheyOffer) Window() uint32 {
	if t.s == nil {
		return wire.MinWindow
	}
	return t.s.window
}

// Max returns the largest message of types that name no size of their own, bytes: up to [wire.MaxMessage]. The window may allow less.
func (t *TheyOffer) Max() uint32 {
	if t.s == nil {
		return wire.DefaultMaxMessage
	}
	return t.s.max
}

// Requests returns how many requests the peer lets be unanswered at once. 0 means that it accepts none.
func (t *TheyOffer) Requests() int {
	if t.s == nil {
		return wire.DefaultRequests
	}
	return int(t.s.requests)
}

// Veil reports whether the peer accepts veiled hellos on its listening port, as its last exchange with "emp" said.
func (t *TheyOffer) Veil() bool { return t.s != nil && t.s.veil }

// Type returns what the peer offers now under name. MaxLen is what a message may really have: never 0, at most [wire.MaxMessage], and within the
// window (EMP/1 section 6.2).
func (t *TheyOffer) Type(name string) (TypeOffer, bool) {
	if t.s == nil {
		return TypeOffer{}, false
	}
	known := t.s.types[name]
	if known == nil || !known.now {
		return TypeOffer{}, false
	}
	return t.s.resolved(known), true
}

// resolved cuts the largest message to what fits the window with its cost (EMP/1 section 6.2).
func (s *offered) resolved(known *offeredType) TypeOffer {
	entry := known.TypeOffer
	entry.MaxLen = min(entry.MaxLen, s.window-wire.MessageCost)
	return entry
}

// All yields the types that the peer offers now as [TheyOffer.Type] returns them, sorted by name.
func (t *TheyOffer) All() iter.Seq[TypeOffer] {
	return func(yield func(TypeOffer) bool) {
		if t.s == nil {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(t.s.types)) {
			if known := t.s.types[name]; known.now && !yield(t.s.resolved(known)) {
				return
			}
		}
	}
}

// Len returns how many types the peer offers now.
func (t *TheyOffer) Len() int {
	if t.s == nil {
		return 0
	}
	return t.s.now
}
