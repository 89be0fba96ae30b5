package swarm

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
)

func testOrigin(id byte, addr string, incoming bool) *origin {
	return &origin{id: bt.PeerID{id}, addr: netip.MustParseAddrPort(addr), incoming: incoming}
}

// Only who sent a block that differs from the good copy is guilty, in whichever copy.
func TestJudge(t *testing.T) {
	a, b, c := testOrigin(1, "192.0.2.1:1", false), testOrigin(2, "192.0.2.2:1", false), testOrigin(3, "192.0.2.3:1", false)
	again := testOrigin(1, "192.0.2.1:999", true) // a in another session
	good := []digest{{1}, {2}, {3}, {4}}
	var bl blame
	bl.add(7, []*origin{a, b, c, a}, []digest{{1}, {9}, {3}, {4}})
	bl.add(7, []*origin{b, again, nil, c}, []digest{{1}, {8}, {3}, {4}})
	bl.add(8, []*origin{c, c, b, c}, []digest{{7}, {2}, {3}, {4}})
	if n := bl.suspicion(a); n != 2 {
		t.Errorf("a had a part in %d failed copies, want 2", n)
	}
	if got := bl.judge(7, good); !slices.Equal(got, []*origin{b, again}) {
		t.Errorf("guilty of piece 7: %v", got)
	}
	if got := bl.judge(7, good); got != nil {
		t.Errorf("judged twice: %v", got)
	}
	if got := bl.judge(8, good); !slices.Equal(got, []*origin{c}) {
		t.Errorf("guilty of piece 8: %v", got)
	}
	if len(bl.trials) != 0 || len(bl.order) != 0 || bl.blocks != 0 {
		t.Errorf("something is left: %+v", bl)
	}
}

// However many pieces fail, what is remembered of them is bounded.
func TestBlameIsBounded(t *testing.T) {
	a, b := testOrigin(1, "192.0.2.1:1", false), testOrigin(2, "192.0.2.2:1", false)
	from := make([]*origin, 1000)
	for i := range from {
		from[i] = []*origin{a, b}[i%2]
	}
	var bl blame
	for i := range 1000 {
		bl.add(bt.PieceIndex(i%300), from, make([]digest, 1000))
		if bl.blocks > maxEvidenceBlocks {
			t.Fatalf("%d blocks are remembered", bl.blocks)
		}
	}
	for range 2 * maxCopies {
		bl.add(1, from[:2], make([]digest, 2))
	}
	if n := len(bl.trials[1].copies); n != maxCopies {
		t.Errorf("%d copies of one piece are remembered, want %d", n, maxCopies)
	}
	for i := range 300 {
		bl.end(bt.PieceIndex(i))
	}
	if bl.blocks != 0 || len(bl.order) != 0 {
		t.Errorf("%d blocks of %d pieces are left", bl.blocks, len(bl.order))
	}
}

func TestBans(t *testing.T) {
	now := time.Unix(1e9, 0)
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	var b bans
	b.add(now, testOrigin(1, "192.0.2.1:6881", false))
	b.add(now, testOrigin(1, "192.0.2.1:6881", false)) // the same offender: not one more
	b.add(now, testOrigin(1, "192.0.2.1:5000", true))
	check := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("the offender", b.refuses(now, bt.PeerID{1}, addr("192.0.2.1")), true)
	check("the offender, mapped", b.refuses(now, bt.PeerID{1}, addr("::ffff:192.0.2.1")), true)
	check("an honest peer whose ID it used", b.refuses(now, bt.PeerID{1}, addr("192.0.2.9")), false)
	check("another peer behind the address", b.refuses(now, bt.PeerID{2}, addr("192.0.2.1")), false)
	check("dialling it", b.avoids(now, netip.MustParseAddrPort("192.0.2.1:6881")), true)
	check("dialling the port of the moment", b.avoids(now, netip.MustParseAddrPort("192.0.2.1:5000")), false)
	check("dialling it later", b.avoids(now.Add(banFor), netip.MustParseAddrPort("192.0.2.1:6881")), false)
	check("the offender later", b.refuses(now.Add(banFor), bt.PeerID{1}, addr("192.0.2.1")), true)
	b.add(now, testOrigin(2, "192.0.2.1:5001", true))
	check("a third peer of the host", b.refuses(now, bt.PeerID{3}, addr("192.0.2.1")), false)
	b.add(now, testOrigin(3, "192.0.2.1:5002", true))
	check("a fourth peer of a host of three offenders", b.refuses(now, bt.PeerID{4}, addr("192.0.2.1")), true)
	check("dialling that host", b.avoids(now, netip.MustParseAddrPort("192.0.2.1:7777")), true)
	check("that host later", b.refuses(now.Add(banFor), bt.PeerID{4}, addr("192.0.2.1")), false)
	for i := range byte(hostOffences) {
		b.add(now, testOrigin(10+i, "[2001:db8::"+string('1'+rune(i))+"]:1", false))
	}
	check("another address of that /64", b.refuses(now, bt.PeerID{4}, addr("2001:db8::ffff")), true)
	check("another /64", b.refuses(now, bt.PeerID{4}, addr("2001:db8:0:1::1")), false)
	for i := range 2 * maxBans {
		b.add(now, &origin{id: bt.PeerID{1}, addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)})
	}
	if n := len(b.peers.m); n != maxBans || len(b.peers.order) != n || len(b.addrs.m) != n || len(b.offenders.m) != n {
		t.Errorf("%d peers, %d addresses, %d hosts are remembered, want %d", n, len(b.addrs.m), len(b.offenders.m), maxBans)
	}
}
