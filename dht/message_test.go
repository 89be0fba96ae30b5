package dht

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
)

const (
	idA  = "abcdefghij0123456789"
	idB  = "mnopqrstuvwxyz123456"
	self = "SSSSSSSSSSSSSSSSSSSS"
)

var (
	ours   = &rules{self: bt.InfoHash([]byte(self))}
	ours6  = &rules{self: bt.InfoHash([]byte(self)), is6: true}
	global = netip.MustParseAddr("9.9.9.9")
)

// The messages of BEP 5 go through as they are, those of its extensions without what is not spoken, and nothing else goes through.
func TestAdmit(t *testing.T) {
	node := func(ip string) string { return idB + ip + "\x1a\xe1" }
	for _, tt := range []struct{ name, in, out string }{
		{"ping", "d1:ad2:id20:" + idA + "e1:q4:ping1:t2:aa1:y1:qe", "="},
		{"find_node", "d1:ad2:id20:" + idA + "6:target20:" + idB + "e1:q9:find_node1:t2:aa1:y1:qe", "="},
		{"get_peers", "d1:ad2:id20:" + idA + "9:info_hash20:" + idB + "e1:q9:get_peers1:t2:aa1:y1:qe", "="},
		{"announce_peer", "d1:ad2:id20:" + idA + "9:info_hash20:" + idB + "4:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe", "="},
		{"implied port", "d1:ad2:id20:" + idA + "12:implied_porti1e9:info_hash20:" + idB + "4:porti0e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
			"d1:ad2:id20:" + idA + "12:implied_porti1e9:info_hash20:" + idB + "5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe"},
		{"pong", "d1:rd2:id20:" + idA + "e1:t2:aa1:y1:re", "="},
		{"nodes", "d1:rd2:id20:" + idA + "5:nodes26:" + node("\x09\x01\x01\x01") + "5:token1:xe1:t2:aa1:y1:re", "="},
		{"values", "d1:rd2:id20:" + idA + "5:token8:aoeusnth6:valuesl6:\x09\x01\x01\x01\x1a\xe16:\x09\x01\x01\x02\x1a\xe1ee1:t2:aa1:y1:re", "="},
		{"error", "d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee", "="},
		{"read-only", "d1:ad2:id20:" + idA + "e1:q4:ping2:roi1e1:t2:aa1:y1:qe", "="},

		{"extensions are left out", "d1:ad2:id20:" + idA + "4:wantl2:n42:n6e1:x1:ye2:ip6:abcdef1:q4:ping1:t2:aa1:v4:LT011:y1:qe",
			"d1:ad2:id20:" + idA + "e1:q4:ping1:t2:aa1:y1:qe"},
		{"bytes behind it are left out", "d1:rd2:id20:" + idA + "e1:t2:aa1:y1:re\x00\x00", "d1:rd2:id20:" + idA + "e1:t2:aa1:y1:re"},
		{"keys in no order", "d1:y1:r1:t2:aa1:rd2:id20:" + idA + "ee", "d1:rd2:id20:" + idA + "e1:t2:aa1:y1:re"},
		{"nodes of the other family", "d1:rd2:id20:" + idA + "6:nodes638:" + idB + strings.Repeat("\x20", 16) + "\x1a\xe1e1:t2:aa1:y1:re",
			"d1:rd2:id20:" + idA + "e1:t2:aa1:y1:re"},
		{"nodes that are too near, ours, without a port, and half of one", "d1:rd2:id20:" + idA + "5:nodes140:" + node("\x0a\x00\x00\x01") + node("\x7f\x00\x00\x01") +
			self + "\x09\x01\x01\x01\x1a\xe1" + idB + "\x09\x01\x01\x01\x00\x00" + node("\x09\x01\x01\x01") + "0123456789e1:t2:aa1:y1:re",
			"d1:rd2:id20:" + idA + "5:nodes26:" + node("\x09\x01\x01\x01") + "e1:t2:aa1:y1:re"},
		{"values that are too near, without a port, and none", "d1:rd2:id20:" + idA + "6:valuesl6:\x7f\x00\x00\x01\x1a\xe16:\x09\x01\x01\x01\x00\x00i1e3:abc6:\x09\x01\x01\x02\x1a\xe1ee1:t2:aa1:y1:re",
			"d1:rd2:id20:" + idA + "6:valuesl6:\x09\x01\x01\x02\x1a\xe1ee1:t2:aa1:y1:re"},
		{"a list in the place of nodes", "d1:rd2:id20:" + idA + "5:nodesle6:values3:abce1:t2:aa1:y1:re", "d1:rd2:id20:" + idA + "e1:t2:aa1:y1:re"},
		{"an error without a text", "d1:eli201ee1:t2:aa1:y1:ee", "d1:eli201e0:e1:t2:aa1:y1:ee"},

		// These end the process if the library sees them.
		{"announce_peer without arguments", "d1:q13:announce_peer1:t2:aa1:y1:qe", ""},
		{"put without arguments", "d1:q3:put1:t2:aa1:y1:qe", ""},

		{"nothing", "", ""},
		{"no dictionary", "le", ""},
		{"no bencoding", "d1:ad2:id20:", ""},
		{"no transaction", "d1:rd2:id20:" + idA + "e1:y1:re", ""},
		{"an empty transaction", "d1:rd2:id20:" + idA + "e1:t0:1:y1:re", ""},
		{"a long transaction", "d1:rd2:id20:" + idA + "e1:t33:" + strings.Repeat("t", 33) + "1:y1:re", ""},
		{"no kind", "d1:rd2:id20:" + idA + "e1:t2:aae", ""},
		{"an unknown kind", "d1:rd2:id20:" + idA + "e1:t2:aa1:y1:xe", ""},
		{"an unknown query", "d1:ad2:id20:" + idA + "e1:q3:get1:t2:aa1:y1:qe", ""},
		{"a query without a method", "d1:ad2:id20:" + idA + "e1:t2:aa1:y1:qe", ""},
		{"arguments that are a list", "d1:ale1:q4:ping1:t2:aa1:y1:qe", ""},
		{"an ID of 19 bytes", "d1:ad2:id19:" + idA[1:] + "e1:q4:ping1:t2:aa1:y1:qe", ""},
		{"an ID of zeros", "d1:ad2:id20:" + strings.Repeat("\x00", 20) + "e1:q4:ping1:t2:aa1:y1:qe", ""},
		{"our own ID", "d1:ad2:id20:" + self + "e1:q4:ping1:t2:aa1:y1:qe", ""},
		{"our own ID in an answer", "d1:rd2:id20:" + self + "e1:t2:aa1:y1:re", ""},
		{"an answer without anything", "d1:t2:aa1:y1:re", ""},
		{"find_node without a target", "d1:ad2:id20:" + idA + "e1:q9:find_node1:t2:aa1:y1:qe", ""},
		{"get_peers with half a hash", "d1:ad2:id20:" + idA + "9:info_hash10:0123456789e1:q9:get_peers1:t2:aa1:y1:qe", ""},
		{"announce_peer without a token", "d1:ad2:id20:" + idA + "9:info_hash20:" + idB + "4:porti6881ee1:q13:announce_peer1:t2:aa1:y1:qe", ""},
		{"announce_peer without a port", "d1:ad2:id20:" + idA + "9:info_hash20:" + idB + "5:token1:xe1:q13:announce_peer1:t2:aa1:y1:qe", ""},
		{"announce_peer with port 0", "d1:ad2:id20:" + idA + "9:info_hash20:" + idB + "4:porti0e5:token1:xe1:q13:announce_peer1:t2:aa1:y1:qe", ""},
		{"announce_peer with port 65536", "d1:ad2:id20:" + idA + "9:info_hash20:" + idB + "4:porti65536e5:token1:xe1:q13:announce_peer1:t2:aa1:y1:qe", ""},
		{"an error that is a text", "d1:e3:abc1:t2:aa1:y1:ee", ""},
		{"an error without a number", "d1:el3:abce1:t2:aa1:y1:ee", ""},
		{"an empty error", "d1:ele1:t2:aa1:y1:ee", ""},
		{"too long", "d1:rd2:id20:" + idA + "e1:t2:aa1:y1:re" + strings.Repeat("x", maxDatagram), ""},
		{"too deep", "d1:a" + strings.Repeat("l", 100) + strings.Repeat("e", 100) + "1:t2:aa1:y1:qe", ""},
	} {
		want := tt.out
		if want == "=" {
			want = tt.in
		}
		got, ok := ours.admit([]byte("."), []byte(tt.in), global)
		if string(got) != "."+want || ok != (want != "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, ok, want)
		}
	}
}

// Nodes of the node's own family, from a source that may name them.
func TestAdmitFamilies(t *testing.T) {
	in := "d1:rd2:id20:" + idA + "6:nodes638:" + idB + "\x2a" + strings.Repeat("\x00", 15) + "\x1a\xe1e1:t2:aa1:y1:re"
	if got, ok := ours6.admit(nil, []byte(in), netip.MustParseAddr("2a00::9")); !ok || string(got) != in {
		t.Errorf("IPv6: %q, %v", got, ok)
	}
	near := "d1:rd2:id20:" + idA + "5:nodes26:" + idB + "\x7f\x00\x00\x01\x1a\xe1e1:t2:aa1:y1:re"
	if got, ok := ours.admit(nil, []byte(near), netip.MustParseAddr("127.0.0.1")); !ok || string(got) != near {
		t.Errorf("loopback by loopback: %q, %v", got, ok)
	}
	lan := &rules{policy: netpolicy.Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	if got, ok := lan.admit(nil, []byte(near), global); !ok || string(got) != near {
		t.Errorf("loopback, allowed: %q, %v", got, ok)
	}
}

// What is let through is bounded, however much there is.
func TestAdmitBounds(t *testing.T) {
	in := "d1:rd2:id20:" + idA + "5:nodes1040:" + strings.Repeat(idB+"\x09\x01\x01\x01\x1a\xe1", 40) + "6:valuesl" + strings.Repeat("6:\x09\x01\x01\x01\x1a\xe1", 110) + "ee1:t2:aa1:y1:re"
	got, ok := ours.admit(nil, []byte(in), global)
	var m krpc.Msg
	if err := bencode.Unmarshal(got, &m); !ok || err != nil || len(m.R.Nodes) != maxNodes || len(m.R.Values) != maxValues {
		t.Errorf("%v, %v: %d bytes", ok, err, len(got))
	}
}

// Whatever is let through, the library can read, and it is the same when it is let through again.
func FuzzAdmit(f *testing.F) {
	for _, s := range []string{
		"d1:ad2:id20:" + idA + "9:info_hash20:" + idB + "4:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
		"d1:ad2:id20:" + idA + "6:target20:" + idB + "e1:q9:find_node2:roi1e1:t2:aa1:y1:qe",
		"d1:rd2:id20:" + idA + "5:nodes26:" + idB + "\x09\x01\x01\x01\x1a\xe15:token8:aoeusnth6:valuesl6:\x09\x01\x01\x02\x1a\xe1ee1:t2:aa1:y1:re",
		"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee", "d1:q13:announce_peer1:t2:aa1:y1:qe",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range []*rules{ours, ours6} {
			out, ok := r.admit(nil, b, global)
			if !ok {
				if len(out) > 0 {
					t.Fatalf("refused, and yet %q", out)
				}
				continue
			}
			var m krpc.Msg
			if err := bencode.Unmarshal(out, &m); err != nil {
				t.Fatalf("%q: the library says %v", out, err)
			}
			if m.Y == "q" && m.A == nil || m.Y == "r" && m.R == nil || m.Y == "e" && m.E == nil || m.Y != "e" && m.SenderID() == nil {
				t.Fatalf("%q: incomplete", out)
			}
			if again, ok := r.admit(nil, out, global); !ok || string(again) != string(out) {
				t.Fatalf("%q, let through again: %q, %v", out, again, ok)
			}
		}
	})
}
