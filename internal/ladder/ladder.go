// Package ladder decides which hello to try next at an address, and remembers what worked there (EMP/1 section 2). It dials nothing, knows no clock
// and touches no disk: [Memory.Append] and [Parse] are how it outlives the program.
//
// An address is an IP address and the port where it listens. What is learned about it is believed for 7 days.
package ladder

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/parley-bt/parley/wire"
)

const (
	// Lifetime is how long something that was learned about an address is believed.
	Lifetime = 7 * 24 * time.Hour
	// MaxEntries is how many addresses are remembered.
	MaxEntries = 4096
	// maxProtected is how many of them may be such that an obfuscated hello worked there. The rest is for the others, or whoever lets us connect to
	// enough addresses of its own could keep us from remembering who offers the veil.
	maxProtected = MaxEntries * 3 / 4
	// roomAtOnce is how many are forgotten when there is one too many, since looking for them takes a while. Of either kind there are more at that time.
	roomAtOnce = 64
)

// Policy is what the user, or the swarm, wants. The zero value is the default of EMP/1 section 2.
type Policy struct {
	// Hellos are the hellos to be tried, in this order, and no others. Empty is the default: plaintext and MSE at an address of which nothing is known;
	// veil, MSE and plaintext where the veil is offered. Repetitions and [wire.HelloUnknown] are left out.
	Hellos []wire.Hello
	// Downgrade allows plaintext where an obfuscated hello has worked.
	Downgrade bool
	// VeilOnly is for closed swarms: the veil alone, whatever else is said.
	VeilOnly bool
}

var (
	unknownLadder = []wire.Hello{wire.HelloPlaintext, wire.HelloMSE}
	offersLadder  = []wire.Hello{wire.HelloVeil, wire.HelloMSE, wire.HelloPlaintext}
)

// entry is what is known of one address. Times are seconds since 1970, 0 for never.
type entry struct {
	worked     wire.Hello // the last that did
	workedAt   uint32
	obfuscated wire.Hello // the last that did and was not plaintext
	obfAt      uint32
	veilAt     uint32 // when the peer said that it accepts the veil
}

func (e entry) last() uint32         { return max(e.workedAt, e.obfAt, e.veilAt) }
func (e entry) fresh(now int64) bool { return fresh(now, e.last()) }

// fresh reports whether something learned at that time counts. A time to come does: the clock was set back.
func fresh(now int64, at uint32) bool {
	return at != 0 && now-int64(at) < int64(Lifetime/time.Second)
}

func stamp(now time.Time) uint32 { return uint32(min(max(now.Unix(), 1), 1<<32-1)) }

// Memory is what has been learned about addresses. The zero Memory knows nothing and is ready. It is not safe for concurrent use.
//
// It is bounded: 4,096 addresses, of which 3,072 may be such that an obfuscated hello worked there. These keep us from going back to plaintext, and
// outlive the others. A stranger can name addresses that we then connect to, and must not be able to choose which others are forgotten for them: so when
// there are too many, it is the network (/16 of IPv4, /32 of IPv6) with most addresses of the kind that loses its oldest. An address of which no neighbour
// is remembered is forgotten before its time only once obfuscated hellos have worked in 3,000 other networks; one with n neighbours, once all other
// networks hold no more than n. Against who answers at thousands of addresses in the network of the address itself there is only the pace at which
// we connect to what others name (package dialguard).
type Memory struct {
	entries map[netip.AddrPort]entry
}

// Len returns how many addresses are remembered, those included that have expired since.
func (m *Memory) Len() int { return len(m.entries) }

// key is how an address is remembered.
func key(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Steps returns the hellos to try at a, one connection each, until one works. It has at least one, and is the caller's.
//
// What worked last is first. Plaintext is not, where the veil is offered and to be tried: that is where it worked before the offer was known. And
// where an obfuscated hello has worked within [Lifetime] there is no plaintext at all, unless p says so, even if this leaves none of p's own: then
// it is what worked.
func (m *Memory) Steps(now time.Time, a netip.AddrPort, p Policy) []wire.Hello {
	if p.VeilOnly {
		return []wire.Hello{wire.HelloVeil}
	}
	e, at := m.entries[key(a)], now.Unix()
	offers, protected := fresh(at, e.veilAt), fresh(at, e.obfAt)
	worked := wire.HelloUnknown
	if fresh(at, e.workedAt) {
		worked = e.worked
	}

	own := make([]wire.Hello, 0, 3)
	for _, h := range p.Hellos {
		if known(h) && !slices.Contains(own, h) {
			own = append(own, h)
		}
	}
	steps := own
	if len(own) == 0 {
		steps = append(steps, unknownLadder...)
		if offers {
			steps = append(steps[:0], offersLadder...)
		}
		if known(worked) && !slices.Contains(steps, worked) { // the veil, where it is not said that it is offered
			steps = append(steps, worked)
		}
	}
	if i := slices.Index(steps, worked); i > 0 && (worked != wire.HelloPlaintext || !offers || !slices.Contains(steps, wire.HelloVeil)) {
		steps = slices.Insert(slices.Delete(steps, i, i+1), 0, worked)
	}
	if protected && !p.Downgrade {
		steps = slices.DeleteFunc(steps, func(h wire.Hello) bool { return h == wire.HelloPlaintext })
		if len(steps) == 0 {
			steps = append(steps, e.obfuscated)
		}
	}
	return steps
}

func known(h wire.Hello) bool {
	return h == wire.HelloPlaintext || h == wire.HelloMSE || h == wire.HelloVeil
}

// Worked notes that a session with a, which we had dialled, began with h.
func (m *Memory) Worked(now time.Time, a netip.AddrPort, h wire.Hello) {
	if !known(h) {
		return
	}
	e := m.entries[key(a)]
	e.worked, e.workedAt = h, stamp(now)
	if h != wire.HelloPlaintext {
		e.obfuscated, e.obfAt = h, e.workedAt
	}
	m.put(now, a, e)
}

// Says notes whether the exchange of the peer that listens at a said that it accepts the veil (EMP/1 section 6.2, "veil"). If it no longer does, the veil
// is not tried first only because it worked; plaintext is avoided as before.
func (m *Memory) Says(now time.Time, a netip.AddrPort, veil bool) {
	e, ok := m.entries[key(a)]
	if veil {
		e.veilAt = stamp(now)
		m.put(now, a, e)
		return
	}
	if !ok {
		return
	}
	e.veilAt = 0
	if e.worked == wire.HelloVeil {
		e.worked, e.workedAt = wire.HelloUnknown, 0
	}
	if e == (entry{}) {
		delete(m.entries, key(a))
		return
	}
	m.entries[key(a)] = e
}

// put remembers e, and forgets another if there are too many.
func (m *Memory) put(now time.Time, a netip.AddrPort, e entry) {
	if a = key(a); !a.IsValid() || a.Port() == 0 {
		return
	}
	if m.entries == nil {
		m.entries = make(map[netip.AddrPort]entry)
	}
	m.entries[a] = e
	if len(m.entries) > MaxEntries {
		m.makeRoom(now.Unix())
	}
}

// makeRoom forgets what has expired, or else some addresses: see [Memory].
func (m *Memory) makeRoom(now int64) {
	protected := 0
	for a, e := range m.entries {
		if !e.fresh(now) {
			delete(m.entries, a)
		} else if fresh(now, e.obfAt) {
			protected++
		}
	}
	if len(m.entries) <= MaxEntries {
		return
	}
	kind := protected > maxProtected // that has to give some up
	type candidate struct {
		a       netip.AddrPort
		last    uint32
		network int // its index in sizes
	}
	var all []candidate
	var sizes []int
	index := make(map[netip.Prefix]int)
	for a, e := range m.entries {
		if fresh(now, e.obfAt) != kind {
			continue
		}
		n := network(a)
		i, ok := index[n]
		if !ok {
			i = len(sizes)
			index[n], sizes = i, append(sizes, 0)
		}
		sizes[i]++
		all = append(all, candidate{a, e.last(), i})
	}
	for range roomAtOnce {
		v := 0
		for i, c := range all {
			if w := all[v]; cmp.Or(cmp.Compare(sizes[c.network], sizes[w.network]), cmp.Compare(w.last, c.last), w.a.Compare(c.a)) > 0 {
				v = i
			}
		}
		delete(m.entries, all[v].a)
		sizes[all[v].network]--
		all[v] = all[len(all)-1]
		all = all[:len(all)-1]
	}
}

// network returns what counts as one when addresses compete for room: what a single owner has without being a provider.
func network(a netip.AddrPort) netip.Prefix {
	bits := 32
	if a.Addr().Is4() {
		bits = 16
	}
	p, err := a.Addr().Prefix(bits)
	if err != nil { // no valid address, which none is without
		return netip.Prefix{}
	}
	return p
}
