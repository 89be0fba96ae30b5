package netpolicy

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func TestClassOf(t *testing.T) {
	tests := []struct {
		addr string
		want Class
	}{
		{"0.0.0.0", Unusable},
		{"0.1.2.3", Unusable},
		{"126.255.255.255", Global},
		{"127.0.0.1", Loopback},
		{"127.255.255.255", Loopback},
		{"128.0.0.0", Global},
		{"169.254.169.254", LinkLocal},
		{"169.253.255.255", Global},
		{"9.255.255.255", Global},
		{"10.0.0.0", Private},
		{"11.0.0.0", Global},
		{"172.15.255.255", Global},
		{"172.16.0.1", Private},
		{"172.31.255.255", Private},
		{"172.32.0.0", Global},
		{"192.168.1.1", Private},
		{"192.169.0.0", Global},
		{"100.63.255.255", Global},
		{"100.64.0.1", Private},
		{"100.127.255.255", Private},
		{"100.128.0.0", Global},
		{"192.0.0.8", Private},
		{"192.0.2.1", Global},
		{"198.18.0.1", Private},
		{"198.20.0.0", Global},
		{"223.255.255.255", Global},
		{"224.0.0.1", Unusable},
		{"239.192.152.143", Unusable},
		{"240.0.0.1", Unusable},
		{"255.255.255.255", Unusable},

		{"::", Unusable},
		{"::1", Loopback},
		{"::2", Unusable},
		{"::127.0.0.1", Unusable}, // IPv4-compatible addresses are gone (RFC 4291)
		{"fe80::1", LinkLocal},
		{"fe80::1%eth0", LinkLocal},
		{"febf::1", LinkLocal},
		{"fec0::1", Private},
		{"fc00::1", Private},
		{"fdff::1", Private},
		{"ff02::1", Unusable},
		{"ff0e::1", Unusable},
		{"100::1", Unusable},
		{"2001:db8::1", Global},
		{"2606:4700::1111", Global},
		{"4000::1", Unusable},
		{"64:ff9b:1::a00:1", Private},

		// Addresses that lead to an IPv4 address.
		{"::ffff:127.0.0.1", Loopback},
		{"::ffff:10.0.0.1", Private},
		{"::ffff:192.0.2.1", Global},
		{"::ffff:0:127.0.0.1", Loopback},
		{"64:ff9b::7f00:1", Loopback},
		{"64:ff9b::a9fe:a9fe", LinkLocal},
		{"64:ff9b::c000:201", Global},
		{"2002:7f00:1::1", Loopback},
		{"2002:c0a8:101::", Private},
		{"2002:c000:201::", Global},
		{"2001:0:c000:201:0:0:80ff:fffe", Loopback}, // Teredo, client 127.0.0.1
		{"2001:0:a00:1:0:0:3fff:fdfe", Private},     // Teredo, server 10.0.0.1
		{"2001:0:c000:201:0:0:3fff:fdfe", Global},
	}
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			if got := ClassOf(netip.MustParseAddr(tt.addr)); got != tt.want {
				t.Errorf("class %v, want %v", got, tt.want)
			}
		})
	}
	if got := ClassOf(netip.Addr{}); got != Unusable {
		t.Errorf("no address: %v", got)
	}
}

func TestPolicyCheck(t *testing.T) {
	// One address per class; the rule is the order of classes.
	addrs := []struct {
		addr  netip.Addr
		class Class
	}{
		{netip.MustParseAddr("127.0.0.1"), Loopback},
		{netip.MustParseAddr("169.254.1.1"), LinkLocal},
		{netip.MustParseAddr("10.1.1.1"), Private},
		{netip.MustParseAddr("192.0.2.1"), Global},
	}
	for _, by := range []Class{Unusable, Loopback, LinkLocal, Private, Global} {
		for _, a := range addrs {
			source := by
			if by == Unusable {
				source = Global // not saying who named it must not open anything
			}
			err := Policy{}.Check(a.addr, by)
			if allowed := a.class >= source; (err == nil) != allowed {
				t.Errorf("%v named by %v: %v, want allowed=%t", a.addr, by, err, allowed)
			}
		}
		for _, bad := range []string{"0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"} {
			if (Policy{}).Check(netip.MustParseAddr(bad), by) == nil {
				t.Errorf("%s named by %v was allowed", bad, by)
			}
		}
	}
}

func TestPolicyAllow(t *testing.T) {
	p := Policy{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("fe80::/10")}}
	tests := []struct {
		addr string
		ok   bool
	}{
		{"10.2.3.4", true},
		{"::ffff:10.2.3.4", true},
		{"fe80::1%eth0", true},
		{"192.168.1.1", false},
		{"127.0.0.1", false},
		{"224.0.0.1", false}, // never, whatever is allowed
	}
	for _, tt := range tests {
		err := p.Check(netip.MustParseAddr(tt.addr), Global)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want allowed=%t", tt.addr, err, tt.ok)
		}
		if r, ok := errors.AsType[*RefusedError](err); !tt.ok && (!ok || r.By != Global || r.Error() == "") {
			t.Errorf("%s: %#v", tt.addr, err)
		}
	}
}

func TestPolicyFilter(t *testing.T) {
	parse := netip.MustParseAddrPort
	list := []netip.AddrPort{parse("192.0.2.1:1"), parse("127.0.0.1:2"), parse("192.0.2.2:0"), parse("[::ffff:192.0.2.3]:4"), parse("10.0.0.1:5"), {}}
	got := Policy{}.Filter(slices.Clone(list), Global)
	if want := []netip.AddrPort{parse("192.0.2.1:1"), parse("192.0.2.3:4")}; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	got = Policy{}.Filter(slices.Clone(list), Loopback)
	if want := []netip.AddrPort{parse("192.0.2.1:1"), parse("127.0.0.1:2"), parse("192.0.2.3:4"), parse("10.0.0.1:5")}; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
}
