package metainfo

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bt"
)

const (
	hashHex    = "0123456789abcdef0123456789abcdef01234567"
	hashBase32 = "AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH"
	hashV2     = "urn:btmh:1220caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e"
)

func hash(t testing.TB) bt.InfoHash {
	t.Helper()
	h, err := bt.ParseInfoHash(hashHex)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestParseMagnet(t *testing.T) {
	const xt = "xt=urn:btih:" + hashHex
	h := hash(t)
	tests := []struct {
		name, in string
		want     Magnet
	}{
		{"hexadecimal", "magnet:?" + xt, Magnet{}},
		{"upper case", "MAGNET:?XT=URN:BTIH:" + strings.ToUpper(hashHex), Magnet{}},
		{"base32", "magnet:?xt=urn:btih:" + hashBase32, Magnet{}},
		{"base32 in lower case", "magnet:?xt=urn:btih:" + strings.ToLower(hashBase32), Magnet{}},
		{"escaped", "magnet:?xt=urn%3Abtih%3a" + hashHex, Magnet{}},
		{"hybrid", "magnet:?xt=" + hashV2 + "&" + xt, Magnet{}},
		{"hybrid, v1 first", "magnet:?" + xt + "&xt=" + hashV2, Magnet{}},
		{"same torrent twice", "magnet:?xt.1=urn:btih:" + hashBase32 + "&xt.2=urn:btih:" + hashHex, Magnet{}},
		{"other networks", "magnet:?xt=urn:sha1:ABC&xt=urn:ed2k:12&" + xt, Magnet{}},
		{"unknown and empty parameters", "magnet:?&&so=1&kt=%zz&=&dn&tr=&x.pe=&xl=&ws=&" + xt + "&", Magnet{}},
		{"fragment", "magnet:?" + xt + "#dn=x", Magnet{}},
		{"name", "magnet:?" + xt + "&dn=Gr%C3%B6%c3%9fe+%2B1&dn=other", Magnet{Name: "Größe +1"}},
		{"name with stray percent signs", "magnet:?" + xt + "&dn=100%+of%2&tr=a%2", Magnet{}},
		{"trackers", "magnet:?" + xt + "&tr=http%3A%2F%2Fa%2Fx%3Fy%3Da%2Bb&tr.1=udp://b:1&TR.22=c+d&tr=udp://b:1",
			Magnet{Trackers: []string{"http://a/x?y=a+b", "udp://b:1", "c+d"}}},
		{"peers", "magnet:?" + xt + "&x.pe=192.0.2.7:6881&x.pe=%5B2001:db8::1%5D%3A51413&x.pe.1=host.example:1&x.pe=[::1]:65535",
			Magnet{Peers: []string{"192.0.2.7:6881", "[2001:db8::1]:51413", "host.example:1", "[::1]:65535"}}},
		{"web seeds", "magnet:?" + xt + "&ws=http://w/&ws=http://v/", Magnet{WebSeeds: []string{"http://w/", "http://v/"}}},
		{"length", "magnet:?" + xt + "&xl=9223372036854775807", Magnet{ExactLength: 1<<63 - 1}},
		{"from a web page", "magnet:?" + xt + "&amp;dn=n&amp;tr=t", Magnet{Name: "n", Trackers: []string{"t"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "name with stray percent signs" {
				got, err := ParseMagnet(strings.TrimSuffix(tt.in, "&tr=a%2"))
				if err != nil || got.Name != "100% of%2" {
					t.Errorf("got %q, %v", got.Name, err)
				}
				if _, err := ParseMagnet(tt.in); err == nil || !strings.HasPrefix(err.Error(), "tr: ") {
					t.Errorf("in a tracker: %v", err)
				}
				return
			}
			tt.want.InfoHash = h
			got, err := ParseMagnet(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			again, err := ParseMagnet(got.String())
			if err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("%s reads as %+v, %v", got, again, err)
			}
		})
	}
}

func TestParseMagnetRejects(t *testing.T) {
	const good = "magnet:?xt=urn:btih:" + hashHex
	tests := []struct {
		name, in, field, reason string
		v2                      bool
	}{
		{"empty", "", "magnet", "starts with", false},
		{"web address", "http://example.com/?xt=urn:btih:" + hashHex, "magnet", "starts with", false},
		{"no question mark", "magnet:xt=urn:btih:" + hashHex, "magnet", "starts with", false},
		{"too long", good + "&dn=" + strings.Repeat("x", MaxMagnetBytes), "magnet", "want at most 65536", false},
		{"no parameters", "magnet:?", "xt", "missing", false},
		{"no xt", "magnet:?dn=n", "xt", "missing", false},
		{"empty xt", "magnet:?xt=", "xt", "missing", false},
		{"other networks only", "magnet:?xt=urn:sha1:ABC", "xt", "missing", false},
		{"v2 only", "magnet:?xt=" + hashV2, "xt", "v2-only", true},
		{"hash too short", good[:len(good)-1], "xt", "got 39 characters", false},
		{"not hexadecimal", good[:len(good)-1] + "g", "xt", "not hexadecimal", false},
		{"not base32", "magnet:?xt=urn:btih:" + hashBase32[:31] + "1", "xt", "not base32", false},
		{"v1 broken beside v2", "magnet:?xt=" + hashV2 + "&xt=urn:btih:xyz", "xt", "got 3 characters", false},
		{"all zero", "magnet:?xt=urn:btih:" + strings.Repeat("0", 40), "xt", "all zero", false},
		{"two torrents", good + "&xt=urn:btih:" + strings.Repeat("1", 40), "xt", "two torrents", false},
		{"broken escape", good + "&tr=%zz", "tr", "hexadecimal", false},
		{"escape cut", good + "&ws=%2", "ws", "hexadecimal", false},
		{"peer without port", good + "&x.pe=192.0.2.1", "x.pe", "host:port", false},
		{"peer with port 0", good + "&x.pe=192.0.2.1:0", "x.pe", "host:port", false},
		{"peer with port 65536", good + "&x.pe=192.0.2.1:65536", "x.pe", "host:port", false},
		{"peer with named port", good + "&x.pe=192.0.2.1:http", "x.pe", "host:port", false},
		{"peer without host", good + "&x.pe=:6881", "x.pe", "host:port", false},
		{"peer with empty brackets", good + "&x.pe=[]:6881", "x.pe", "host:port", false},
		{"peer with open bracket", good + "&x.pe=[::1:6881", "x.pe", "host:port", false},
		{"peer with bare IPv6", good + "&x.pe=::1:6881", "x.pe", "host:port", false},
		{"peer with path", good + "&x.pe=a/b:6881", "x.pe", "host:port", false},
		{"peer with control character", good + "&x.pe=a%0a:6881", "x.pe", "host:port", false},
		{"length negative", good + "&xl=-1", "xl", "number of bytes", false},
		{"length a word", good + "&xl=big", "xl", "number of bytes", false},
		{"length beyond int64", good + "&xl=9223372036854775808", "xl", "number of bytes", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseMagnet(tt.in)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Field != tt.field || !strings.Contains(e.Reason, tt.reason) {
				t.Errorf("got %v, want %s: ...%s...", err, tt.field, tt.reason)
			}
			if errors.Is(err, ErrV2Only) != tt.v2 {
				t.Errorf("matches ErrV2Only: %v", !tt.v2)
			}
		})
	}
}

func TestMagnetString(t *testing.T) {
	m := Magnet{
		InfoHash: hash(t), Name: "a b&c=d+e#f", Trackers: []string{"http://t/?a=b&c"},
		Peers: []string{"[::1]:6881"}, WebSeeds: []string{"http://w/é"}, ExactLength: 5,
	}
	want := "magnet:?xt=urn:btih:" + hashHex + "&dn=a%20b%26c%3Dd%2Be%23f&xl=5&tr=http%3A%2F%2Ft%2F%3Fa%3Db%26c" +
		"&ws=http%3A%2F%2Fw%2F%C3%A9&x.pe=[::1]:6881"
	if got := m.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzParseMagnet(f *testing.F) {
	const good = "magnet:?xt=urn:btih:" + hashHex
	for _, s := range []string{
		good, good + "&dn=a+b%20c%&tr=http%3A%2F%2Ft&tr.1=u&x.pe=[::1]:1&x.pe.2=h:2&ws=w&xl=5",
		"MAGNET:?xt.1=urn:btih:" + hashBase32 + "&amp;xt.2=" + hashV2, "magnet:?xt=" + hashV2, "magnet:?",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMagnet(s)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("error %#v", err)
			}
			return
		}
		link := m.String()
		for _, c := range []byte(link) {
			if c <= ' ' || c >= 0x7f {
				t.Fatalf("byte %#x in %q", c, link)
			}
		}
		if len(link) > MaxMagnetBytes {
			return // escaping can triple a link
		}
		if again, err := ParseMagnet(link); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%q reads as %+v, %v; was %+v", link, again, err, m)
		}
	})
}
