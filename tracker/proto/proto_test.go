package proto

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/parley-bt/parley/bt"
)

func hash(b byte) (h bt.InfoHash) {
	for i := range h {
		h[i] = b
	}
	return h
}

func peers(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestAppendAnnounceQuery(t *testing.T) {
	h := bt.InfoHash([]byte("\x00\x12 +&=%~az09AZ-._\xff\x80?"))
	a := Announce{InfoHash: h, PeerID: bt.PeerID([]byte("-PA0000-0123456789ab")), Port: 6881, Uploaded: 1, Downloaded: 2, Left: 3,
		Event: EventStarted, NumWant: 50, Key: 0xbeef, TrackerID: "a b"}
	want := "info_hash=%00%12%20%2B%26%3D%25~az09AZ-._%FF%80%3F&peer_id=-PA0000-0123456789ab&port=6881&uploaded=1&downloaded=2&left=3" +
		"&compact=1&key=beef&numwant=50&event=started&trackerid=a%20b"
	if got := string(AppendAnnounceQuery(nil, &a)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(AppendAnnounceQuery(nil, &Announce{Left: LeftUnknown, NumWant: NoPeers})); !strings.Contains(got, "&left=16384&") ||
		!strings.HasSuffix(got, "&numwant=0") {
		t.Errorf("unknown size, no peers wanted: %s", got)
	}
}

func TestAnnounceQueryRoundTrip(t *testing.T) {
	for _, a := range []Announce{
		{InfoHash: hash(1), PeerID: bt.PeerID(hash(2)), Port: 1},
		{InfoHash: hash(0xff), PeerID: bt.PeerID(hash('+')), Port: 65535, Uploaded: 1 << 62, Downloaded: 7, Left: 1, Event: EventStopped, NumWant: NoPeers, Key: 1<<32 - 1, TrackerID: "\x00\xff&="},
		{InfoHash: hash('%'), PeerID: bt.PeerID(hash('&')), Event: EventCompleted, NumWant: 200},
	} {
		got, opt, err := ParseAnnounceQuery(string(AppendAnnounceQuery(nil, &a)))
		if err != nil || got != a || opt != (QueryOptions{}) {
			t.Errorf("%+v\ncame back as %+v %+v %v", a, got, opt, err)
		}
	}
}

func TestParseAnnounceQuery(t *testing.T) {
	const ok = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1"
	tests := []struct {
		name, query string
		wrong       string // part of the error; empty: none
	}{
		{"least", ok, ""},
		{"no hash", "peer_id=bbbbbbbbbbbbbbbbbbbb&port=1", "info_hash"},
		{"short hash", "info_hash=a&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1", "info_hash"},
		{"long hash", "info_hash=aaaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1", "info_hash"},
		{"no peer id", "info_hash=aaaaaaaaaaaaaaaaaaaa&port=1", "peer_id"},
		{"no port", "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb", "port"},
		{"large port", ok + "5536&x=", ""},
		{"port out of range", "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=65536", "port"},
		{"negative left", ok + "&left=-1", "left"},
		{"left is no number", ok + "&left=x", "left"},
		{"unknown event", ok + "&event=dance", ""},
		{"numwant is no number", ok + "&numwant=many", "numwant"},
		{"broken escape", ok + "&x=%zz", "not well formed"},
		{"too long", ok + "&x=" + strings.Repeat("x", MaxQueryBytes), "at most 8192"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := ParseAnnounceQuery(tt.query)
			if tt.wrong == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if _, is := errors.AsType[*SyntaxError](err); !is || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("error %v, want a SyntaxError about %q", err, tt.wrong)
			}
		})
	}
	_, opt, err := ParseAnnounceQuery(ok + "&compact=0&no_peer_id=1&ip=10.0.0.1")
	if want := (QueryOptions{Dictionaries: true, NoPeerID: true, IP: netip.MustParseAddr("10.0.0.1")}); err != nil || opt != want {
		t.Errorf("options %+v %v, want %+v", opt, err, want)
	}
}

func TestParseAnnounceReply(t *testing.T) {
	tests := []struct {
		name, body string
		want       AnnounceReply
	}{
		{"compact", "d8:intervali1800e5:peers12:\xc0\x00\x02\x01\x1a\xe1\xc0\x00\x02\x02\x00\x50e",
			AnnounceReply{Interval: 30 * time.Minute, Seeders: -1, Leechers: -1, Peers: peers("192.0.2.1:6881", "192.0.2.2:80")}},
		{"everything", "d8:completei3e11:external ip4:\xc0\x00\x02\x0910:incompletei4e8:intervali60e12:min intervali30e5:peers0:" +
			"6:peers618:\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x0110:tracker id2:\xff\x0015:warning message4:slowe",
			AnnounceReply{Interval: time.Minute, MinInterval: 30 * time.Second, TrackerID: "\xff\x00", Warning: "slow", Seeders: 3, Leechers: 4,
				ExternalIP: netip.MustParseAddr("192.0.2.9"), Peers: peers("[2001:db8::1]:1")}},
		{"dictionaries", "d5:peersld2:ip9:192.0.2.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti5eed2:ip11:2001:db8::24:porti6eed2:ip11:example.org4:porti7eeee",
			AnnounceReply{Seeders: -1, Leechers: -1, Peers: peers("192.0.2.1:5", "[2001:db8::2]:6"), Dropped: 1}},
		{"ports", "d5:peersld2:ip9:192.0.2.14:porti0eed2:ip9:192.0.2.14:porti65536eed2:ip9:192.0.2.14:porti-1eed2:ip9:192.0.2.1ei5eee",
			AnnounceReply{Seeders: -1, Leechers: -1, Dropped: 5}},
		{"mapped address", "d6:peers618:\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x00\x01e",
			AnnounceReply{Seeders: -1, Leechers: -1, Peers: peers("192.0.2.1:1")}},
		{"intervals that make no sense", "d8:intervali-5e12:min intervali9223372036854775807ee",
			AnnounceReply{Seeders: -1, Leechers: -1, MinInterval: (1 << 31) * time.Second}},
		{"wrong types", "d8:completei-1e10:incomplete1:x8:interval2:1010:tracker idi5e15:warning messagelee",
			AnnounceReply{Seeders: -1, Leechers: -1}},
		{"line break behind", "de\r\n", AnnounceReply{Seeders: -1, Leechers: -1}},
		{"tracker id too long", fmt.Sprintf("d10:tracker id%d:%se", MaxTrackerIDBytes+1, strings.Repeat("x", MaxTrackerIDBytes+1)),
			AnnounceReply{Seeders: -1, Leechers: -1}},
		{"text made safe", "d15:warning message9:a\x1b[2J\nb\xff\x00e", AnnounceReply{Seeders: -1, Leechers: -1, Warning: "a\uFFFD[2J\uFFFDb\uFFFD\uFFFD"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseAnnounceReply([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Peers, tt.want.Peers) {
				t.Errorf("peers %v, want %v", got.Peers, tt.want.Peers)
			}
			got.Peers, tt.want.Peers = nil, nil
			if !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", *got, tt.want)
			}
		})
	}
}

func TestParseAnnounceReplyTakesNoMoreThanMaxPeers(t *testing.T) {
	var list []byte
	for i := range MaxPeers + 5 {
		list = append(list, 192, 0, byte(i>>8), byte(i), 1, 1)
	}
	body := append(fmt.Appendf(nil, "d5:peers%d:", len(list)), list...)
	body = append(body, "6:peers618:aaaaaaaaaaaaaaaaaae"...)
	r, err := ParseAnnounceReply(body)
	if err != nil || len(r.Peers) != MaxPeers || r.Dropped != 6 {
		t.Errorf("%d peers, %d dropped, %v", len(r.Peers), r.Dropped, err)
	}
}

func TestParseAnnounceReplyErrors(t *testing.T) {
	for name, body := range map[string]string{
		"empty":           "",
		"a page":          "<html>",
		"a list":          "le",
		"cut":             "d8:intervali1",
		"peers of 7":      "d5:peers7:aaaaaaae",
		"peers6 of 17":    "d6:peers617:aaaaaaaaaaaaaaaaae",
		"peers a number":  "d5:peersi1ee",
		"deep":            "d5:peers" + strings.Repeat("l", 50) + strings.Repeat("e", 50) + "e",
		"beyond the size": fmt.Sprintf("d1:x%d:%se", MaxReplyBytes, strings.Repeat("x", MaxReplyBytes)),
	} {
		if _, err := ParseAnnounceReply([]byte(body)); err == nil {
			t.Errorf("%s: no error", name)
		} else if _, is := errors.AsType[*SyntaxError](err); !is {
			t.Errorf("%s: %T, want a SyntaxError", name, err)
		}
	}
}

func TestFailureReplies(t *testing.T) {
	tests := []struct {
		name, body string
		want       FailureError
	}{
		{"plain", "d14:failure reason2:noe", FailureError{Reason: "no"}},
		{"minutes", "d14:failure reason2:no8:retry ini5ee", FailureError{Reason: "no", RetryIn: 5 * time.Minute}},
		{"minutes as text", "d14:failure reason2:no8:retry in2:10e", FailureError{Reason: "no", RetryIn: 10 * time.Minute}},
		{"never", "d14:failure reason2:no8:retry in5:nevere", FailureError{Reason: "no", Never: true}},
		{"negative", "d14:failure reason2:no8:retry ini-5ee", FailureError{Reason: "no"}},
		{"large", "d14:failure reason2:no8:retry ini9223372036854775807ee", FailureError{Reason: "no", RetryIn: maxSeconds / 60 * time.Minute}},
		{"not text", "d14:failure reasoni1ee", FailureError{}},
		{"controls", "d14:failure reason4:a\x1b\x07\x7fe", FailureError{Reason: "a\uFFFD\uFFFD\uFFFD"}},
		{"long", "d14:failure reason300:" + strings.Repeat("x", 300) + "e", FailureError{Reason: strings.Repeat("x", MaxTextBytes)}},
		{"cut within a character", "d14:failure reason300:" + strings.Repeat("x", 255) + strings.Repeat("é", 22) + "xe", FailureError{Reason: strings.Repeat("x", 255)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseAnnounceReply([]byte(tt.body))
			if f, ok := errors.AsType[*FailureError](err); !ok || *f != tt.want {
				t.Errorf("%#v, want %#v", err, tt.want)
			}
			if _, err := ParseScrapeReply([]byte(tt.body), nil); err == nil {
				t.Error("as a scrape's reply: no error")
			}
		})
	}
	for _, f := range []FailureError{{Reason: "x"}, {Reason: "x", Never: true}, {Reason: "x", RetryIn: 3 * time.Minute}} {
		_, err := ParseAnnounceReply(AppendFailure(nil, &f))
		if got, ok := errors.AsType[*FailureError](err); !ok || *got != f {
			t.Errorf("%+v came back as %v", f, err)
		}
	}
}

func TestAnnounceReplyRoundTrip(t *testing.T) {
	want := AnnounceReply{Interval: time.Hour, MinInterval: time.Minute, TrackerID: "id", Warning: "careful", Seeders: 1, Leechers: 0,
		ExternalIP: netip.MustParseAddr("2001:db8::7"), Peers: peers("192.0.2.1:1", "[2001:db8::1]:65535")}
	ids := []bt.PeerID{bt.PeerID(hash(1)), bt.PeerID(hash(2))}
	for name, body := range map[string][]byte{
		"compact":             AppendAnnounceReply(nil, &want),
		"dictionaries":        AppendAnnounceReplyDictionaries(nil, &want, ids),
		"dictionaries, no id": AppendAnnounceReplyDictionaries(nil, &want, nil),
	} {
		got, err := ParseAnnounceReply(body)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v %v\nwant %+v", name, got, err, want)
		}
		if bytes.Contains(body, ids[1][:]) != (name == "dictionaries") {
			t.Errorf("%s: peer ids present or absent wrongly", name)
		}
	}
}

func TestScrape(t *testing.T) {
	for announce, want := range map[string]string{ // BEP 48's own examples, as paths
		"/announce": "/scrape", "/x/announce": "/x/scrape", "/announce.php": "/scrape.php", "/a": "", "/announce/x": "", "/x%064announce": "",
		"": "", "announce": "", "/xannounce": "",
	} {
		if got, ok := ScrapePath(announce); got != want || ok != (want != "") {
			t.Errorf("%q: %q, want %q", announce, got, want)
		}
	}
	hashes := []bt.InfoHash{hash(1), hash('&')}
	got, err := ParseScrapeQuery(string(AppendScrapeQuery(nil, hashes)))
	if err != nil || !slices.Equal(got, hashes) {
		t.Errorf("query: %v %v", got, err)
	}
	for name, q := range map[string]string{"all": "", "short": "info_hash=a", "too many": string(AppendScrapeQuery(nil, make([]bt.InfoHash, MaxScrape+1)))} {
		if _, err := ParseScrapeQuery(q); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	counts := []Counts{{hash('&'), 1, 2, 3}, {hash(1), 0, 0, 9}}
	all, err := ParseScrapeReply(AppendScrapeReply(nil, append(counts, Counts{InfoHash: hash(9)})), hashes)
	slices.SortFunc(all, func(a, b Counts) int { return a.Downloaded - b.Downloaded })
	if err != nil || !slices.Equal(all, counts) {
		t.Errorf("reply: %v %v, want %v", all, err, counts)
	}
	if _, err := ParseScrapeReply([]byte("de"), hashes); err == nil {
		t.Error("reply without files: no error")
	}
}

// TestUDPVectors checks each message against bytes written by hand from BEP 15.
func TestUDPVectors(t *testing.T) {
	a := Announce{InfoHash: hash(0xaa), PeerID: bt.PeerID(hash(0xbb)), Downloaded: 1, Left: 2, Uploaded: 3, Event: EventStarted, Key: 0x01020304, NumWant: 50, Port: 6881}
	want := "\x11\x12\x13\x14\x15\x16\x17\x18" + // connection id
		"\x00\x00\x00\x01" + "\x21\x22\x23\x24" + // action, transaction
		strings.Repeat("\xaa", 20) + strings.Repeat("\xbb", 20) +
		"\x00\x00\x00\x00\x00\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x02" + "\x00\x00\x00\x00\x00\x00\x00\x03" +
		"\x00\x00\x00\x02" + "\x00\x00\x00\x00" + "\x01\x02\x03\x04" + "\x00\x00\x00\x32" + "\x1a\xe1"
	const cid, tid = 0x1112131415161718, 0x21222324
	reply := AnnounceReply{Interval: 30 * time.Minute, Leechers: 5, Seeders: 6, Peers: peers("192.0.2.1:6881", "[2001:db8::1]:80")}
	tests := []struct {
		name      string
		got, want string
	}{
		{"connect", string(AppendConnect(nil, tid)), "\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00\x21\x22\x23\x24"},
		{"announce", string(AppendUDPAnnounce(nil, cid, tid, &a, "")), want},
		{"announce with target", string(AppendUDPAnnounce(nil, cid, tid, &a, "/k/announce")), want + "\x02\x0b/k/announce"},
		{"scrape", string(AppendUDPScrape(nil, cid, tid, []bt.InfoHash{hash(1)})), "\x11\x12\x13\x14\x15\x16\x17\x18\x00\x00\x00\x02\x21\x22\x23\x24" + strings.Repeat("\x01", 20)},
		{"connect reply", string(AppendConnectReply(nil, tid, cid)), "\x00\x00\x00\x00\x21\x22\x23\x24\x11\x12\x13\x14\x15\x16\x17\x18"},
		{"announce reply", string(AppendUDPAnnounceReply(nil, tid, &reply, false)),
			"\x00\x00\x00\x01\x21\x22\x23\x24\x00\x00\x07\x08\x00\x00\x00\x05\x00\x00\x00\x06\xc0\x00\x02\x01\x1a\xe1"},
		{"announce reply, v6", string(AppendUDPAnnounceReply(nil, tid, &reply, true)),
			"\x00\x00\x00\x01\x21\x22\x23\x24\x00\x00\x07\x08\x00\x00\x00\x05\x00\x00\x00\x06\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50"},
		{"scrape reply", string(AppendUDPScrapeReply(nil, tid, []Counts{{Seeders: 1, Downloaded: 2, Leechers: 3}})),
			"\x00\x00\x00\x02\x21\x22\x23\x24\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03"},
		{"error", string(AppendUDPError(nil, tid, "no")), "\x00\x00\x00\x03\x21\x22\x23\x24no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got != tt.want {
				t.Errorf("got  %x\nwant %x", tt.got, tt.want)
			}
		})
	}
	// And back.
	q, err := ParseUDPRequest([]byte(tests[2].want))
	if err != nil || q.Action != ActionAnnounce || q.ConnectionID != cid || q.Transaction != tid || q.Announce != a {
		t.Errorf("announce came back as %+v %v", q, err)
	}
	for i, v6 := range []bool{false, true} {
		r, err := ParseUDPReply([]byte(tests[5+i].want), v6)
		if err != nil || r.Announce.Interval != reply.Interval || r.Announce.Leechers != 5 || r.Announce.Seeders != 6 || !slices.Equal(r.Announce.Peers, reply.Peers[i:i+1]) {
			t.Errorf("announce reply came back as %+v %v", r, err)
		}
	}
	if r, err := ParseUDPReply([]byte(tests[7].want), false); err != nil || !slices.Equal(r.Counts, []Counts{{Seeders: 1, Downloaded: 2, Leechers: 3}}) {
		t.Errorf("scrape reply came back as %+v %v", r, err)
	}
	if r, err := ParseUDPReply([]byte(tests[8].want), false); err != nil || r.Failure == nil || r.Failure.Reason != "no" {
		t.Errorf("error came back as %+v %v", r, err)
	}
	// Every truncation is refused, except where a shorter message is one: whole peers or counts, a shorter text, options.
	for _, tt := range tests[:4] {
		for n := range len(tt.want) {
			if strings.HasPrefix(tt.name, "announce") && n >= AnnounceBytes {
				break
			}
			if _, err := ParseUDPRequest([]byte(tt.want[:n])); err == nil {
				t.Errorf("%s cut to %d bytes: no error", tt.name, n)
			}
		}
	}
	for _, tt := range tests[4:7] {
		for n := range len(tt.want) {
			if _, err := ParseUDPReply([]byte(tt.want[:n]), tt.name == "announce reply, v6"); err == nil && n != announceHeadBytes {
				t.Errorf("%s cut to %d bytes: no error", tt.name, n)
			}
		}
	}
}

func TestUDPReplyFitsOneDatagram(t *testing.T) {
	var r AnnounceReply
	for i := range 1000 {
		r.Peers = append(r.Peers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 1))
	}
	if got := len(AppendUDPAnnounceReply(nil, 1, &r, false)); got > ReplyDatagramBytes || got < ReplyDatagramBytes-6 {
		t.Errorf("%d bytes, want just below %d", got, ReplyDatagramBytes)
	}
}

func FuzzParseAnnounceReply(f *testing.F) {
	f.Add([]byte("d8:intervali1800e5:peers6:\xc0\x00\x02\x01\x1a\xe1e"))
	f.Add([]byte("d14:failure reason2:no8:retry in5:nevere"))
	f.Add([]byte("d5:peersld2:ip9:192.0.2.14:porti5eeee"))
	f.Add([]byte("d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1eeee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseAnnounceReply(b)
		if failure, ok := errors.AsType[*FailureError](err); ok && !isClean(failure.Reason) {
			t.Errorf("reason %q", failure.Reason)
		}
		if err == nil {
			if len(r.Peers) > MaxPeers || !isClean(r.Warning) {
				t.Errorf("%d peers, warning %q", len(r.Peers), r.Warning)
			}
			again, err := ParseAnnounceReply(AppendAnnounceReply(nil, r))
			if err != nil || again.Interval != r.Interval || len(again.Peers) != len(r.Peers) {
				t.Errorf("%+v came back as %+v %v", r, again, err)
			}
		}
		counts, err := ParseScrapeReply(b, []bt.InfoHash{hash('a')})
		if err == nil && len(counts) > 1 {
			t.Errorf("%d counts of 1 asked", len(counts))
		}
	})
}

func isClean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r != utf8.RuneError && !unicode.IsPrint(r) })
}

func FuzzParseQuery(f *testing.F) {
	f.Add(string(AppendAnnounceQuery(nil, &Announce{Port: 1, Event: EventStarted, TrackerID: "x", NumWant: 3})))
	f.Add("info_hash=%00&ip=::1&compact=0")
	f.Fuzz(func(t *testing.T, q string) {
		if a, _, err := ParseAnnounceQuery(q); err == nil {
			again, _, err := ParseAnnounceQuery(string(AppendAnnounceQuery(nil, &a)))
			if err != nil || again != a {
				t.Errorf("%+v came back as %+v %v", a, again, err)
			}
		}
		if h, err := ParseScrapeQuery(q); err == nil && len(h) > MaxScrape {
			t.Errorf("%d hashes", len(h))
		}
	})
}

func FuzzParseUDP(f *testing.F) {
	f.Add(AppendConnect(nil, 1), false)
	f.Add(AppendUDPAnnounce(nil, 1, 2, &Announce{NumWant: NoPeers}, "/x"), true)
	f.Add(AppendUDPScrape(nil, 1, 2, []bt.InfoHash{{}}), true)
	f.Add(AppendConnectReply(nil, 1, 2), false)
	f.Add(AppendUDPAnnounceReply(nil, 1, &AnnounceReply{Peers: peers("192.0.2.1:1")}, false), false)
	f.Add(AppendUDPScrapeReply(nil, 1, []Counts{{}}), false)
	f.Add(AppendUDPError(nil, 1, "x"), false)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		if q, err := ParseUDPRequest(b); err == nil {
			var again []byte
			switch q.Action {
			case ActionConnect:
				again = AppendConnect(nil, q.Transaction)
			case ActionAnnounce:
				again = AppendUDPAnnounce(nil, q.ConnectionID, q.Transaction, &q.Announce, "")
			case ActionScrape:
				again = AppendUDPScrape(nil, q.ConnectionID, q.Transaction, q.Hashes)
			}
			if r, err := ParseUDPRequest(again); err != nil || !reflect.DeepEqual(r, q) {
				t.Errorf("%+v came back as %+v %v", q, r, err)
			}
		}
		if r, err := ParseUDPReply(b, v6); err == nil {
			if len(r.Announce.Peers) > MaxPeers || len(r.Counts) > MaxScrape || r.Failure != nil && !isClean(r.Failure.Reason) {
				t.Errorf("beyond the limits: %+v", r)
			}
		}
	})
}
