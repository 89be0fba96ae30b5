package pexset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/wire/ltep"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// number returns the address of peer i, of a network that is global.
func number(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)
}

// words says what a message tells, with the last byte of each address of [number].
func words(p ltep.PEX) string {
	var s []string
	say := func(sign string, a netip.AddrPort) {
		b := a.Addr().As16()
		s = append(s, fmt.Sprint(sign, b[15]))
	}
	for _, a := range p.Added {
		say("+", a.Addr)
	}
	for _, a := range p.Dropped {
		say("-", a)
	}
	return strings.Join(s, " ")
}

// A story: what happened, and what a peer is told of it.
func TestDiffs(t *testing.T) {
	const seed = ltep.PEXUploadOnly
	join := func(flags ltep.PEXFlags, n ...int) func(*Set) {
		return func(s *Set) {
			for _, i := range n {
				s.Join(number(i), flags)
			}
		}
	}
	leave := func(n ...int) func(*Set) {
		return func(s *Set) {
			for _, i := range n {
				s.Leave(number(i))
			}
		}
	}
	type step struct {
		do   func(*Set)
		want string // told in this minute; empty: nothing
	}
	for name, tt := range map[string]struct {
		to    Receiver
		steps []step
	}{
		"joined and left": {Receiver{}, []step{{join(0, 1, 2), "+1 +2"}, {leave(1), "-1"}, {join(0, 3), "+3"}, {nil, ""}}},
		"both at once":    {Receiver{}, []step{{join(0, 1), "+1"}, {func(s *Set) { leave(1)(s); join(0, 2)(s) }, "+2 -1"}}},
		"joined and left between messages": {Receiver{}, []step{{join(0, 1), "+1"},
			{func(s *Set) { join(0, 2)(s); leave(2)(s) }, ""}, {leave(1), "-1"}}},
		"left and back":            {Receiver{}, []step{{join(0, 1), "+1"}, {func(s *Set) { leave(1)(s); join(0, 1)(s) }, "+1"}, {leave(1), "-1"}}},
		"left before it was there": {Receiver{}, []step{{func(s *Set) { join(0, 1, 2)(s); leave(1)(s) }, "+2"}}},
		"joined twice":             {Receiver{}, []step{{func(s *Set) { join(0, 1)(s); join(0, 1)(s) }, "+1"}, {join(0, 1), ""}, {leave(1), "-1"}, {leave(1), ""}}},
		"not itself": {Receiver{Addr: number(1), Listen: number(2)}, []step{{join(0, 1, 2, 3), "+3"},
			{leave(1, 2), ""}}},
		"not itself in another form": {Receiver{Addr: netip.MustParseAddrPort("[::ffff:9.0.0.1]:6881")}, []step{{join(0, 1, 3), "+3"}}},
		"seeds not of seeds":         {Receiver{Seed: true}, []step{{func(s *Set) { join(seed, 1)(s); join(0, 2)(s) }, "+2"}, {leave(1), ""}, {leave(2), "-2"}}},
		"others of seeds":            {Receiver{}, []step{{join(seed, 1), "+1"}}},
		"flags as they are now":      {Receiver{Seed: true}, []step{{func(s *Set) { join(0, 1)(s); join(seed, 1)(s) }, ""}}},
		"nobody": {Receiver{}, []step{{func(s *Set) {
			for _, a := range []string{"9.0.0.1:0", "0.0.0.0:1", "224.0.0.1:1", "[::]:1"} {
				s.Join(netip.MustParseAddrPort(a), 0)
			}
			s.Join(netip.AddrPort{}, 0)
		}, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			var s Set
			var c Cursor
			if !tt.to.Addr.IsValid() {
				tt.to.Addr = number(99)
			}
			for i, st := range tt.steps {
				if st.do != nil {
					st.do(&s)
				}
				p, ok := s.Next(epoch.Add(time.Duration(i)*Interval), &c, tt.to, newRand(1))
				if got := words(p); got != st.want || ok != (got != "") {
					t.Errorf("minute %d: told %q (%v), want %q", i, got, ok, st.want)
				}
			}
		})
	}
}

func TestFlagsAreTold(t *testing.T) {
	var s Set
	s.Join(number(1), ltep.PEXEncryption)
	s.Join(number(1), ltep.PEXReachable|ltep.PEXUTP)
	p, _ := s.Next(epoch, new(Cursor), Receiver{Addr: number(9)}, newRand(1))
	if len(p.Added) != 1 || p.Added[0].Flags != ltep.PEXReachable|ltep.PEXUTP {
		t.Errorf("told %v", p)
	}
}

// Nobody learns of an address that is more local than its own.
func TestLocalAddressesStayLocal(t *testing.T) {
	var s Set
	for _, a := range []string{"9.0.0.1:1", "10.0.0.2:1", "127.0.0.3:1", "[2a00::4]:1", "[fd00::5]:1"} {
		s.Join(netip.MustParseAddrPort(a), 0)
	}
	for to, want := range map[string]string{"9.9.9.9:9": "+1 +4", "192.168.0.9:9": "+1 +2 +4 +5", "127.0.0.1:9": "+1 +2 +3 +4 +5", "[2a00::9]:9": "+1 +4"} {
		p, _ := s.Next(epoch, new(Cursor), Receiver{Addr: netip.MustParseAddrPort(to)}, newRand(1))
		if got := words(p); got != want {
			t.Errorf("%s is told %s, want %s", to, got, want)
		}
	}
}

// One message a minute, and the minute begins with a message, not with a look.
func TestInterval(t *testing.T) {
	var s Set
	var c Cursor
	to := Receiver{Addr: number(99)}
	for sec := range 10 {
		if _, ok := s.Next(epoch.Add(time.Duration(sec)*time.Second), &c, to, newRand(1)); ok {
			t.Fatal("told of nobody")
		}
	}
	var at []int
	for sec := 10; sec < 200; sec++ {
		s.Join(number(sec), 0)
		if _, ok := s.Next(epoch.Add(time.Duration(sec)*time.Second), &c, to, newRand(1)); ok {
			at = append(at, sec)
		}
	}
	if !slices.Equal(at, []int{10, 70, 130, 190}) {
		t.Errorf("messages after %v seconds", at)
	}
}

// At most 50 of each in one message; who joined is told in the end, each once; of those who left at once, 50.
func TestFifty(t *testing.T) {
	var s Set
	var c Cursor
	to := Receiver{Addr: number(9999)}
	now := epoch
	s.Join(number(0), 0)
	if _, ok := s.Next(now, &c, to, newRand(1)); !ok {
		t.Fatal("nothing")
	}
	for i := 1; i <= 120; i++ {
		s.Join(number(i), 0)
	}
	added, dropped := map[netip.AddrPort]int{}, map[netip.AddrPort]int{}
	read := func(want ...int) {
		t.Helper()
		for _, w := range want {
			now = now.Add(Interval)
			p, _ := s.Next(now, &c, to, newRand(1))
			if len(p.Added)+len(p.Dropped) != w {
				t.Fatalf("told of %d and %d, want %d", len(p.Added), len(p.Dropped), w)
			}
			for _, a := range p.Added {
				added[a.Addr]++
			}
			for _, a := range p.Dropped {
				dropped[a]++
			}
		}
	}
	read(50, 50, 20, 0)
	for i := range 121 {
		s.Leave(number(i))
	}
	read(50, 0, 0)
	if len(added) != 120 || len(dropped) != 50 || s.Len() != 0 {
		t.Errorf("added %d, dropped %d, %d members", len(added), len(dropped), s.Len())
	}
	for a, n := range added {
		if n != 1 || dropped[a] > 1 {
			t.Errorf("%v added %d times, dropped %d times", a, n, dropped[a])
		}
	}
}

// Newcomers to a large swarm get 50 each, and not all the same; and they are not told that people left of whom they never heard.
func TestNewcomers(t *testing.T) {
	var s Set
	const members = 2000
	for i := range members {
		s.Join(number(i), 0)
	}
	heard := map[netip.AddrPort]int{}
	rng := newRand(7)
	for i := range 400 {
		p, _ := s.Next(epoch, new(Cursor), Receiver{Addr: number(10000 + i)}, rng)
		if len(p.Added) != ltep.MaxPEXSent || len(p.Dropped) != 0 {
			t.Fatalf("newcomer %d is told of %d and %d", i, len(p.Added), len(p.Dropped))
		}
		for _, a := range p.Added {
			heard[a.Addr]++
		}
	}
	most := 0
	for _, n := range heard {
		most = max(most, n)
	}
	if len(heard) < members*9/10 || most > 40 {
		t.Errorf("%d of %d members were told of, one of them %d times", len(heard), members, most)
	}
	// When everybody leaves, a newcomer is told so of those it was told of, and of no others.
	var few Set
	for i := range 500 {
		few.Join(number(i), 0)
	}
	const newcomers = 20
	var cursors [newcomers]Cursor
	var told, gone [newcomers]map[netip.AddrPort]bool
	for n := range newcomers {
		told[n], gone[n] = map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
		p, _ := few.Next(epoch, &cursors[n], Receiver{Addr: number(99999)}, rng)
		for _, a := range p.Added {
			told[n][a.Addr] = true
		}
	}
	for i := range 500 {
		few.Leave(number(i))
	}
	for n := range newcomers {
		for m := range 20 {
			p, _ := few.Next(epoch.Add(time.Duration(m+1)*Interval), &cursors[n], Receiver{Addr: number(99999)}, rng)
			for _, a := range p.Dropped {
				gone[n][a] = true
			}
		}
		if !maps.Equal(told[n], gone[n]) {
			t.Fatalf("newcomer %d was told of %d that joined and %d that left", n, len(told[n]), len(gone[n]))
		}
	}
}

// Random joins and leaves against a model: what a peer believes in the end is what there is, and memory follows the members.
func TestModel(t *testing.T) {
	for seed := range uint64(50) {
		rng := newRand(seed)
		var s Set
		var c Cursor
		now := epoch
		present, believed := map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
		listen := func() {
			now = now.Add(Interval)
			p, _ := s.Next(now, &c, Receiver{Addr: number(9999)}, rng)
			if len(p.Added) > 50 || len(p.Dropped) > 50 {
				t.Fatalf("seed %d: told of %d and %d", seed, len(p.Added), len(p.Dropped))
			}
			for _, a := range p.Dropped {
				delete(believed, a)
			}
			for _, a := range p.Added {
				if believed[a.Addr] && slices.Contains(p.Dropped, a.Addr) {
					t.Fatalf("seed %d: %v is added and dropped at once", seed, a.Addr)
				}
				believed[a.Addr] = true
			}
		}
		listen() // from the beginning, so that it hears everything
		for range 3000 {
			a := number(rng.IntN(60))
			if rng.IntN(2) == 0 {
				s.Join(a, 0)
				present[a] = true
			} else {
				s.Leave(a)
				delete(present, a)
			}
			if rng.IntN(20) == 0 {
				listen()
			}
		}
		for range 100 {
			listen()
		}
		if fmt.Sprint(present) != fmt.Sprint(believed) {
			t.Fatalf("seed %d: there are %v, the peer believes %v", seed, present, believed)
		}
		if s.Len() != len(present) || len(s.joined) > 2*len(present)+66 || len(s.left) > 2*maxLeft {
			t.Fatalf("seed %d: %d members, %d joins and %d departures kept", seed, s.Len(), len(s.joined), len(s.left))
		}
	}
}

// A peer that has nothing new to hear costs nothing, however many there are.
func TestNextAllocs(t *testing.T) {
	var s Set
	for i := range 40 {
		s.Join(number(i), 0)
	}
	var c Cursor
	rng := newRand(1)
	to := Receiver{Addr: number(9999)}
	s.Next(epoch, &c, to, rng)
	now := epoch
	if n := testing.AllocsPerRun(100, func() {
		now = now.Add(Interval)
		if _, ok := s.Next(now, &c, to, rng); ok {
			panic("news")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHas(t *testing.T) {
	var s Set
	if s.Has(number(1)) {
		t.Error("an empty set has a member")
	}
	s.Join(number(1), 0)
	if !s.Has(netip.AddrPortFrom(netip.AddrFrom16(number(1).Addr().As16()), number(1).Port())) || s.Has(number(2)) {
		t.Error("the member is not there, or another is")
	}
	if s.Leave(number(1)); s.Has(number(1)) {
		t.Error("it has left and is there")
	}
}
