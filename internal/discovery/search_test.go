package discovery

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
)

const (
	hex1 = "0102030000000000000000000000000000000000"
	hex2 = "ff00000000000000000000000000000000000001"
)

var (
	hash1 = bt.InfoHash{1, 2, 3}
	hash2 = bt.InfoHash{0: 0xff, 19: 1}
)

func request(headers ...string) string {
	return "BT-SEARCH * HTTP/1.1\r\n" + strings.Join(headers, "\r\n") + "\r\n\r\n\r\n"
}

func TestSearchVectors(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Search
	}{
		{"BEP 14", request("Host: 239.192.152.143:6771", "Port: 6881", "Infohash: "+hex1, "cookie: name"), Search{6881, []bt.InfoHash{hash1}, "name"}},
		{"two torrents", request("Host: 239.192.152.143:6771", "Port: 1", "Infohash: "+hex1, "Infohash: "+hex2), Search{1, []bt.InfoHash{hash1, hash2}, ""}},
	} {
		got, err := ParseSearch([]byte(tt.text))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: read as %+v, %v", tt.name, got, err)
		}
		if wrote := string(AppendSearch([]byte("."), Group4, tt.want)); wrote != "."+tt.text {
			t.Errorf("%s: written as %q", tt.name, wrote)
		}
	}
	if got := string(AppendSearch(nil, Group6, Search{Port: 1})); !strings.Contains(got, "\r\nHost: [ff15::efc0:988f]:6771\r\n") {
		t.Errorf("for IPv6: %q", got)
	}
}

func TestSearchTolerates(t *testing.T) {
	for name, text := range map[string]string{
		"cases":                 request("PORT: 6881", "infoHash: "+strings.ToUpper(hex1), "Cookie: c"),
		"spaces":                request("port:6881", "infohash:   "+hex1+" ", "cookie:\tc"),
		"LF":                    "BT-SEARCH * HTTP/1.1\nport: 6881\ninfohash: " + hex1 + "\ncookie: c\n\n",
		"no empty line":         "BT-SEARCH * HTTP/1.1\r\nport: 6881\r\ninfohash: " + hex1 + "\r\ncookie: c",
		"unknown headers":       request("x: y", "port: 6881", "infohash: "+hex1, "cookie: c", "z:"),
		"a bad hash among them": request("port: 6881", "infohash: abc", "infohash: "+strings.Repeat("0", 40), "infohash: "+hex1, "cookie: c"),
		"a second port":         request("port: 6881", "port: 7", "infohash: "+hex1, "cookie: c", "cookie: d"),
		"something behind it":   request("port: 6881", "infohash: "+hex1, "cookie: c") + "Infohash: " + hex2,
	} {
		got, err := ParseSearch([]byte(text))
		if want := (Search{6881, []bt.InfoHash{hash1}, "c"}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestSearchRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		line int
		want string
	}{
		"nothing":         {"", 1, "not a BT-SEARCH"},
		"another request": {"M-SEARCH * HTTP/1.1\r\nport: 1\r\ninfohash: " + hex1, 1, "not a BT-SEARCH"},
		"no port":         {request("infohash: " + hex1), 3, "port is missing"},
		"port 0":          {request("port: 0", "infohash: "+hex1), 2, "port is not"},
		"port 65536":      {request("port: 65536", "infohash: "+hex1), 2, "port is not"},
		"port -1":         {request("port: -1", "infohash: "+hex1), 2, "port is not"},
		"no hash":         {request("port: 1"), 3, "no info-hash"},
		"bad hash":        {request("port: 1", "infohash: "+hex1+"00"), 4, "no info-hash"},
		"no header":       {request("port: 1", "infohash"), 3, "no header"},
		"too long":        {request("port: 1", "infohash: "+hex1, "x: "+strings.Repeat("x", MaxDatagram)), 1, "the limit is"},
	} {
		got, err := ParseSearch([]byte(tt.text))
		s, ok := errors.AsType[*SyntaxError](err)
		if !ok || s.Line != tt.line || !strings.Contains(err.Error(), tt.want) || !reflect.DeepEqual(got, Search{}) {
			t.Errorf("%s: %+v, %v; want line %d, %q", name, got, err, tt.line, tt.want)
		}
	}
}

// What is sent fits into what is read, whatever is asked for.
func TestSearchFits(t *testing.T) {
	s := Search{Port: 65535, Cookie: strings.Repeat("c", MaxCookie)}
	for i := range 100 {
		s.InfoHashes = append(s.InfoHashes, bt.InfoHash{byte(i + 1)})
	}
	b := AppendSearch(nil, Group6, s)
	got, err := ParseSearch(b)
	s.InfoHashes = s.InfoHashes[:MaxInfoHashes]
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%d bytes: %+v, %v", len(b), got, err)
	}
	got, err = ParseSearch([]byte(request("port: 1", "infohash: "+hex1, "cookie: "+strings.Repeat("x", MaxCookie+1))))
	if err != nil || len(got.Cookie) != MaxCookie {
		t.Errorf("a cookie of %d bytes, %v", len(got.Cookie), err)
	}
}

func FuzzParseSearch(f *testing.F) {
	f.Add([]byte(request("Host: 239.192.152.143:6771", "Port: 6881", "Infohash: "+hex1, "cookie: name")))
	f.Add([]byte(request("port: 1", "infohash: "+hex1, "infohash: "+hex2, "x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSearch(b)
		if err != nil {
			if e, ok := errors.AsType[*SyntaxError](err); !ok || e.Line < 1 || e.Reason == "" {
				t.Fatalf("error %#v", err)
			}
			return
		}
		if s.Port == 0 || len(s.InfoHashes) == 0 || len(s.InfoHashes) > MaxDatagram/30 || len(s.Cookie) > MaxCookie {
			t.Fatalf("beyond the limits: %+v", s)
		}
		s.InfoHashes = s.InfoHashes[:min(len(s.InfoHashes), MaxInfoHashes)]
		s.Cookie = strings.TrimSpace(s.Cookie)
		again, err := ParseSearch(AppendSearch(nil, Group4, s))
		if strings.ContainsFunc(s.Cookie, func(r rune) bool { return r < ' ' }) {
			return // what we send is printable
		}
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%+v, written and read: %+v, %v", s, again, err)
		}
	})
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func torrent(i int) bt.InfoHash { return bt.InfoHash{1, byte(i >> 8), byte(i)} }

// Each torrent every five minutes, one datagram a minute, and new ones first.
func TestSchedule(t *testing.T) {
	var s Schedule
	if _, some := s.At(); some || s.Next(epoch) != nil {
		t.Fatal("an empty schedule has something")
	}
	s.Add(torrent(1))
	s.Add(torrent(1))
	var told []string
	for sec := range 660 {
		now := epoch.Add(time.Duration(sec) * time.Second)
		if sec == 10 {
			s.Add(torrent(2))
		}
		if sec == 330 {
			s.Remove(torrent(1))
			s.Remove(torrent(9))
		}
		at, some := s.At()
		due := some && !now.Before(at)
		h := s.Next(now)
		if due != (len(h) > 0) {
			t.Fatalf("after %d s: due %v, tells %v", sec, due, h)
		}
		for _, h := range h {
			told = append(told, fmt.Sprintf("%d:%d", sec, h[2]))
		}
	}
	if want := []string{"0:1", "60:2", "300:1", "360:2"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if s.Has(torrent(1)) || !s.Has(torrent(2)) {
		t.Error("the wrong ones are there")
	}
}

// More torrents than fit: nobody waits for ever, and who is new goes first.
func TestScheduleOfMany(t *testing.T) {
	var s Schedule
	const many = 500
	for i := range many {
		s.Add(torrent(i))
	}
	last := map[bt.InfoHash]int{}
	for m := range 100 {
		now := epoch.Add(time.Duration(m) * time.Minute)
		if m == 90 {
			s.Add(torrent(9999))
		}
		h := s.Next(now)
		if len(h) != MaxInfoHashes {
			t.Fatalf("minute %d: %d torrents", m, len(h))
		}
		if m == 90 && h[0] != torrent(9999) {
			t.Error("the new one waits")
		}
		if s.Next(now.Add(MinGap-1)) != nil {
			t.Fatalf("minute %d: two datagrams", m)
		}
		for _, h := range h {
			if gap := m - last[h]; last[h] > 0 && (gap < 5 || gap > many/MaxInfoHashes+1) {
				t.Fatalf("a torrent is told again after %d minutes", gap)
			}
			last[h] = m
		}
	}
	if len(last) != many+1 {
		t.Errorf("%d were told", len(last))
	}
}
