package ladder

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/parley-bt/parley/wire"
)

const (
	plain = wire.HelloPlaintext
	mse   = wire.HelloMSE
	veil  = wire.HelloVeil
	day   = 24 * time.Hour
)

var (
	epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	peer  = netip.MustParseAddrPort("192.0.2.7:6881")
)

// number returns the i-th of many addresses, each in a network of its own while i is below 65,536.
func number(i int) netip.AddrPort {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(i)<<16|uint32(i)>>16)
	return netip.AddrPortFrom(netip.AddrFrom4(b), 6881)
}

// near returns the i-th of many addresses in one network.
func near(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{250, 1, byte(i >> 8), byte(i)}), 6881)
}

func TestSteps(t *testing.T) {
	type did struct {
		at    time.Duration
		hello wire.Hello // or
		says  string
	}
	worked := func(at time.Duration, h wire.Hello) did { return did{at: at, hello: h} }
	says := func(at time.Duration, veil bool) did { return did{at: at, says: fmt.Sprint(veil)} }
	own := func(h ...wire.Hello) Policy { return Policy{Hellos: h} }
	down := Policy{Downgrade: true}
	for _, tt := range []struct {
		name   string
		did    []did
		now    time.Duration
		policy Policy
		want   []wire.Hello
	}{
		{"unknown", nil, 0, Policy{}, []wire.Hello{plain, mse}},
		{"offers the veil", []did{says(0, true)}, day, Policy{}, []wire.Hello{veil, mse, plain}},
		{"met in plaintext, offers the veil", []did{worked(0, plain), says(0, true)}, 1, Policy{}, []wire.Hello{veil, mse, plain}},
		{"and still in plaintext", []did{says(0, true), worked(day, plain), says(day, true)}, day, Policy{}, []wire.Hello{veil, mse, plain}},
		{"plaintext worked", []did{worked(0, plain)}, 0, Policy{}, []wire.Hello{plain, mse}},
		{"MSE worked", []did{worked(0, mse)}, day, Policy{}, []wire.Hello{mse}},
		{"MSE worked, downgrade", []did{worked(0, mse)}, day, down, []wire.Hello{mse, plain}},
		{"MSE and then plaintext worked, downgrade", []did{worked(0, mse), worked(1, plain)}, day, down, []wire.Hello{plain, mse}},
		{"MSE and then plaintext worked", []did{worked(0, mse), worked(1, plain)}, day, Policy{}, []wire.Hello{mse}},
		{"the veil worked", []did{says(0, true), worked(0, veil)}, day, Policy{}, []wire.Hello{veil, mse}},
		{"the veil worked, unsaid", []did{worked(0, veil)}, day, Policy{}, []wire.Hello{veil, mse}},
		{"MSE worked where the veil is offered", []did{says(0, true), worked(0, mse)}, day, Policy{}, []wire.Hello{mse, veil}},
		{"the veil worked and is offered no more", []did{says(0, true), worked(0, veil), says(1, false)}, day, Policy{}, []wire.Hello{mse}},
		{"offered no more", []did{says(0, true), says(1, false)}, day, Policy{}, []wire.Hello{plain, mse}},
		{"MSE worked, the veil is offered no more", []did{says(0, true), worked(0, mse), says(1, false)}, day, Policy{}, []wire.Hello{mse}},
		{"never offered", []did{says(0, false)}, day, Policy{}, []wire.Hello{plain, mse}},

		{"just within 7 days", []did{says(0, true), worked(0, veil)}, 7*day - time.Second, Policy{}, []wire.Hello{veil, mse}},
		{"7 days later", []did{says(0, true), worked(0, veil)}, 7 * day, Policy{}, []wire.Hello{plain, mse}},
		{"the offer is renewed, the success is old", []did{worked(0, veil), says(6*day, true)}, 8 * day, Policy{}, []wire.Hello{veil, mse, plain}},
		{"plaintext is new, the obfuscated success is old", []did{worked(0, mse), worked(6*day, plain)}, 8 * day, Policy{}, []wire.Hello{plain, mse}},
		{"the clock was set back", []did{worked(day, mse)}, 0, Policy{}, []wire.Hello{mse}},

		{"own ladder", nil, 0, own(mse, plain), []wire.Hello{mse, plain}},
		{"own ladder with the veil at an unknown address", nil, 0, own(veil, plain), []wire.Hello{veil, plain}},
		{"own ladder without the veil where it is offered", []did{says(0, true)}, 0, own(mse, plain), []wire.Hello{mse, plain}},
		{"own ladder keeps its order where the veil is offered", []did{says(0, true)}, 0, own(plain, veil), []wire.Hello{plain, veil}},
		{"own ladder, what worked is first", []did{worked(0, plain)}, 0, own(mse, plain), []wire.Hello{plain, mse}},
		{"own ladder, plaintext worked and the veil is offered", []did{worked(0, plain), says(0, true)}, 0, own(veil, mse, plain), []wire.Hello{veil, mse, plain}},
		{"own ladder, plaintext worked and the veil is not known to be offered", []did{worked(0, plain)}, 0, own(veil, mse, plain), []wire.Hello{plain, veil, mse}},
		{"own ladder, what worked is not in it", []did{worked(0, veil)}, 0, own(mse, plain), []wire.Hello{mse}},
		{"own ladder, no downgrade", []did{worked(0, mse)}, 0, own(plain, mse, veil), []wire.Hello{mse, veil}},
		{"own ladder, nothing is left of it", []did{worked(0, veil)}, 0, own(plain), []wire.Hello{veil}},
		{"own ladder, downgrade", []did{worked(0, veil)}, 0, Policy{Hellos: []wire.Hello{plain}, Downgrade: true}, []wire.Hello{plain}},
		{"own ladder with repetitions and nonsense", nil, 0, own(mse, 0, mse, 77, plain, plain), []wire.Hello{mse, plain}},
		{"own ladder of nonsense", nil, 0, own(0), []wire.Hello{plain, mse}},

		{"closed swarm", nil, 0, Policy{VeilOnly: true}, []wire.Hello{veil}},
		{"closed swarm, whatever worked", []did{worked(0, mse)}, 0, Policy{VeilOnly: true, Downgrade: true, Hellos: []wire.Hello{plain}}, []wire.Hello{veil}},
		{"nonsense worked", []did{worked(0, mse), worked(1, 0), worked(1, 9)}, 1, Policy{}, []wire.Hello{mse}},
	} {
		var m Memory
		for _, d := range tt.did {
			if d.says != "" {
				m.Says(epoch.Add(d.at), peer, d.says == "true")
			} else {
				m.Worked(epoch.Add(d.at), peer, d.hello)
			}
		}
		before := slices.Clone(tt.policy.Hellos)
		if got := m.Steps(epoch.Add(tt.now), peer, tt.policy); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if !slices.Equal(before, tt.policy.Hellos) {
			t.Errorf("%s: the policy was changed", tt.name)
		}
		if got := m.Steps(epoch, netip.MustParseAddrPort("192.0.2.7:6882"), Policy{}); !slices.Equal(got, unknownLadder) {
			t.Errorf("%s: another port is known too: %v", tt.name, got)
		}
	}
	if !slices.Equal(unknownLadder, []wire.Hello{plain, mse}) || !slices.Equal(offersLadder, []wire.Hello{veil, mse, plain}) {
		t.Error("the default ladders were changed")
	}
}

// However an address is written, it is one; and what is none is not remembered.
func TestAddresses(t *testing.T) {
	var m Memory
	m.Worked(epoch, netip.MustParseAddrPort("[::ffff:192.0.2.7]:6881"), mse)
	m.Worked(epoch, netip.MustParseAddrPort("[fe80::1%eth0]:1"), mse)
	for _, a := range []string{"192.0.2.7:6881", "[fe80::1]:1", "[fe80::1%eth1]:1"} {
		if got := m.Steps(epoch, netip.MustParseAddrPort(a), Policy{}); !slices.Equal(got, []wire.Hello{mse}) {
			t.Errorf("%s: %v", a, got)
		}
	}
	m.Worked(epoch, netip.AddrPort{}, mse)
	m.Says(epoch, netip.AddrPort{}, true)
	m.Worked(epoch, netip.MustParseAddrPort("192.0.2.7:0"), mse)
	if m.Len() != 2 {
		t.Errorf("%d addresses", m.Len())
	}
	m.Says(epoch, number(1), true)
	m.Says(epoch, number(1), false)
	m.Says(epoch, number(2), false)
	if m.Len() != 2 {
		t.Errorf("%d addresses, though nothing is known of some", m.Len())
	}
}

func protects(m *Memory, now time.Time, a netip.AddrPort) bool {
	return !slices.Contains(m.Steps(now, a, Policy{}), plain)
}

// Those with plaintext alone make room, the oldest first.
func TestPlaintextMakesRoom(t *testing.T) {
	var m Memory
	m.Worked(epoch, peer, mse)
	now := epoch
	for i := 1; i <= MaxEntries+100; i++ {
		now = now.Add(time.Second)
		m.Worked(now, number(i), plain)
		if m.Len() > MaxEntries {
			t.Fatalf("%d addresses", m.Len())
		}
	}
	if !protects(&m, now, peer) {
		t.Error("protection was flushed by plaintext")
	}
	for i := 1; i <= MaxEntries+100; i++ {
		// 101 are too many, of which 64 go at once.
		if _, ok := m.entries[number(i)]; ok != (i > 2*roomAtOnce) {
			t.Fatalf("number %d is remembered: %v", i, ok)
		}
	}
}

// Whoever answers MSE at as many addresses as he likes, in a network of his own, flushes nothing but his own.
func TestFlushFromOneNetwork(t *testing.T) {
	var m Memory
	now := epoch
	for i := 1; i <= 500; i++ {
		m.Worked(now, number(i), mse)
		m.Says(now, number(1000+i), true)
	}
	for i := range 10000 {
		now = now.Add(time.Second)
		m.Worked(now, near(i), mse)
	}
	if n := m.Len(); n > MaxEntries || n <= MaxEntries-roomAtOnce {
		t.Errorf("%d addresses", n)
	}
	for i := 1; i <= 500; i++ {
		if !protects(&m, now, number(i)) {
			t.Fatalf("number %d was flushed", i)
		}
	}
	// And who offers the veil is still learned.
	m.Says(now, number(9999), true)
	if m.Steps(now, number(9999), Policy{})[0] != veil {
		t.Error("the offer is not remembered")
	}
}

// What the protected may have is not all.
func TestProtectedAreBounded(t *testing.T) {
	var m Memory
	now := epoch
	for i := 1; i <= 2*MaxEntries; i++ {
		now = now.Add(time.Second)
		m.Worked(now, number(i), mse)
	}
	for i := 1; i <= MaxEntries; i++ {
		now = now.Add(time.Second)
		m.Worked(now, number(10000+i), plain)
	}
	protected := 0
	for _, e := range m.entries {
		if e.obfAt != 0 {
			protected++
		}
	}
	if m.Len() > MaxEntries || protected > maxProtected || protected <= maxProtected-roomAtOnce {
		t.Errorf("%d addresses, %d protected", m.Len(), protected)
	}
}

// Of two networks that are large neither pays alone.
func TestNetworksShare(t *testing.T) {
	var m Memory
	for i := range MaxEntries/2 + 1 {
		other := netip.AddrPortFrom(netip.AddrFrom4([4]byte{251, 1, byte(i >> 8), byte(i)}), 6881)
		m.Worked(epoch.Add(time.Duration(i)*time.Second), near(i), plain)
		m.Worked(epoch, other, plain)
	}
	left := map[netip.Prefix]int{}
	for a := range m.entries {
		left[network(a)]++
	}
	if a, b := left[network(near(0))], left[netip.MustParsePrefix("251.1.0.0/16")]; a+b != m.Len() || a-b > 1 || b-a > 1 {
		t.Errorf("%v", left)
	}
}

func TestNetwork(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.3.1:2", true},
		{"192.0.2.1:1", "192.1.2.1:1", false},
		{"[2001:db8:1::1]:1", "[2001:db8:2::1]:1", true},
		{"[2001:db8::1]:1", "[2001:db9::1]:1", false},
	} {
		if same := network(netip.MustParseAddrPort(tt.a)) == network(netip.MustParseAddrPort(tt.b)); same != tt.same {
			t.Errorf("%s and %s in one network: %v", tt.a, tt.b, same)
		}
	}
}

func TestExpiredMakeRoom(t *testing.T) {
	var m Memory
	for i := 1; i <= MaxEntries; i++ {
		m.Worked(epoch, number(i), mse)
	}
	m.Worked(epoch.Add(Lifetime), peer, plain)
	if m.Len() != 1 {
		t.Errorf("%d addresses", m.Len())
	}
}
