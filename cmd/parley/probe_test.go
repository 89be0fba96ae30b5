package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/cmd/parley/internal/keyfile"
	"github.com/parley-bt/parley/probe"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// probed returns the one JSON line of a probe.
func probed(t *testing.T, out string) (e probeEvent) {
	t.Helper()
	if strings.Count(out, "\n") > 2 { // and perhaps that of the error
		t.Errorf("more than one line:\n%s", out)
	}
	line, _, _ := strings.Cut(out, "\n")
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event != "probe" {
		t.Fatalf("%v: %q", err, line)
	}
	return e
}

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	id := filepath.Join(dir, "id")
	key, err := keyfile.CreateIdentity(id, false)
	if err != nil {
		t.Fatal(err)
	}
	listen, magnet, addr := listenTo(t, write(t, dir, "talk.txt", "talk"), "--type", "chat:1-3", "--max", "1000", "--identity", id)
	r := cli(t, "probe", addr, magnet)
	r.check(t, exitOK, "trying: MSE, RC4 alone")
	for _, want := range []string{
		`(?m)^HELLO +CONNECT +FIRST BYTE +HELLO +EXCHANGE +TURNS +WHAT CAME$`,
		`(?m)^plaintext .* accepted$`, `(?m)^MSE, RC4 alone .* accepted$`, `(?m)^MSE, plaintext alone .* accepted$`, `(?m)^veil .* accepted$`,
		`(?m)^by plaintext; MSE, RC4 alone; MSE, plaintext alone:$`, `(?m)^by veil:$`,
		`reserved bits: 0000000000100004 \(extension protocol, Fast\)`, `client: +Parley `, `extensions: .*ut_metadata \d`, `metadata: +\d+ B`, `listens at: +port \d+`,
		`type: +chat, id 1, versions 1 to 3, up to 1000 B`, `identity: +` + publicKey(key) + ` \(proven\)`, `EMP 1; says that it takes veiled hellos; window .*, 64 requests at once`,
	} {
		if !regexp.MustCompile(want).MatchString(r.out) {
			t.Errorf("no %s in\n%s", want, r.out)
		}
	}
	r = cli(t, "probe", addr, magnet, "--json")
	r.check(t, exitOK)
	e := probed(t, r.out)
	if !e.Reachable || strings.Join(e.Accepted, " ") != "plaintext mse-rc4 mse-plaintext veil" || len(e.Steps) != 4 || e.InfoHash == "" || e.SwarmKey || r.err != "" {
		t.Errorf("%+v, standard error %q", e, r.err)
	}
	for _, s := range e.Steps {
		x := s.Session
		if s.Outcome != "accepted" || s.Connect <= 0 || s.FirstByte <= 0 || s.Hello < s.FirstByte || s.Exchange < s.Hello || s.RoundTrips < 1 || x == nil {
			t.Errorf("%+v", s)
			continue
		}
		if x.Dialect != "emp" || x.Reserved != "0000000000100004" || len(x.ReservedBits) != 2 || len(x.PeerID) != 40 || !x.Exchange || x.Extensions["emp_mux"] == 0 || x.EMP == nil ||
			len(x.EMP.Types) != 1 || x.EMP.Types[0].MaxBytes != 1000 || x.EMP.Types[0].MinVersion != 1 || (x.Identity == publicKey(key)) != (s.Try == "veil") {
			t.Errorf("%s: %+v", s.Try, x)
		}
	}
	listen.interrupt(t)
}

// A refusal is told as what was seen, and never as what the peer cannot do.
func TestProbeRefused(t *testing.T) {
	seed, magnet, addr := seedOf(t, write(t, t.TempDir(), "f", "f"), "--accept", "mse")
	r := cli(t, "probe", addr, magnet, "--timeout", "700ms")
	r.check(t, exitOK)
	for _, want := range []string{`(?m)^plaintext .* no answer in 0\.7 s$`, `(?m)^MSE, RC4 alone .* accepted$`, `(?m)^veil .* answered something else, after \d+ bytes: nothing that opens as the veil's$`,
		`(?m)^The peer serves the torrent`} {
		if !regexp.MustCompile(want).MatchString(r.out) {
			t.Errorf("no %s in\n%s", want, r.out)
		}
	}
	if strings.Contains(r.out, "support") {
		t.Errorf("says more than was seen:\n%s", r.out)
	}
	r = cli(t, "probe", addr, magnet, "--timeout", "300ms", "--hello", "plaintext,veil")
	if r.check(t, exitNotAccepted, "no hello was accepted", "may not serve the torrent", "from outside these look the same"); !strings.Contains(r.out, "Nothing was accepted.") || strings.Contains(r.out, "MSE") {
		t.Errorf("%v", r)
	}
	r = cli(t, "probe", addr, strings.Repeat("ab", 20), "--timeout", "300ms", "--json")
	r.check(t, exitNotAccepted)
	if e := probed(t, r.out); !e.Reachable || len(e.Accepted) != 0 || len(e.Steps) != 4 {
		t.Errorf("%+v", e)
	}
	r = cli(t, "probe", addr, "--timeout", "400ms")
	if r.check(t, exitOK); !strings.Contains(r.out, "No torrent was named") || !regexp.MustCompile(`(?m)^96 random bytes .* answers as MSE responders do \(seen: \d+ bytes after .*\), no proof$`).MatchString(r.out) {
		t.Errorf("%v", r)
	}
	seed.interrupt(t)
}

func TestProbeSwarmKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "swarm")
	if _, err := keyfile.CreateSwarmKey(path, false); err != nil {
		t.Fatal(err)
	}
	seed, magnet, addr := seedOf(t, write(t, dir, "f", "f"), "--swarm-key", path)
	for _, args := range [][]string{{magnet, "--swarm-key", path, "--hello", "veil"}, {"--swarm-key", path}} {
		r := cli(t, append([]string{"probe", addr, "--json", "--timeout", "500ms"}, args...)...)
		r.check(t, exitOK)
		if e := probed(t, r.out); strings.Join(e.Accepted, " ") != "veil" || !e.SwarmKey {
			t.Errorf("%q: %+v", args, e)
		}
	}
	cli(t, "probe", addr, magnet, "--hello", "veil", "--timeout", "300ms").check(t, exitNotAccepted, "no hello was accepted")
	seed.interrupt(t)
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	cli(t, "probe", addr, magnet, "--swarm-key", path).check(t, exitInput, "mode 0644", "chmod 600")
}

func TestProbeUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want []string
	}{
		{nil, exitUsage, []string{"probe: ADDR is missing", "usage: parley probe ADDR [SOURCE]"}},
		{[]string{"a:1", "b", "c"}, exitUsage, []string{`too many arguments, from "c" on`}},
		{[]string{"127.0.0.1"}, exitUsage, []string{`ADDR "127.0.0.1": not an address with a port`, "ADDR wants host:port"}},
		{[]string{"127.0.0.1:0"}, exitUsage, []string{"the port must be a number"}},
		{[]string{"127.0.0.1:1", "none.torrent"}, exitInput, []string{"none.torrent"}},
		{[]string{"127.0.0.1:1", t.TempDir()}, exitUsage, []string{"is no torrent"}},
		{[]string{"127.0.0.1:1", "--hello", "veil"}, exitUsage, []string{"--hello veil: without a torrent there is none to ask for"}},
		{[]string{"127.0.0.1:1", someMagnet, "--hello", "tls"}, exitUsage, []string{`--hello "tls"`}},
		{[]string{"127.0.0.1:1", "--timeout", "0s"}, exitUsage, []string{"--timeout 0s"}},
	} {
		cli(t, append([]string{"probe"}, tt.args...)...).check(t, tt.code, tt.want...)
	}
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cli(t, "probe", nobody, someMagnet).check(t, exitNotAccepted, nobody+": cannot be reached: ")
	cli(t, "probe", nobody).check(t, exitNotAccepted, nobody+": cannot be reached")
}

// What a peer says of itself cannot control a terminal.
func TestProbeEscapes(t *testing.T) {
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 68)
			if n, _ := c.Read(b); n < 68 {
				c.Close()
				continue
			}
			e := ltep.AppendExchange(nil, &ltep.Exchange{Client: "\x1b]0;owned\a\r\n\u202e", M: []ltep.Entry{{Name: "x\x1b[31m", ID: 1}}})
			hello := classic.AppendHello(nil, classic.Hello{Reserved: wire.Reserved{5: 0x30}, InfoHash: bt.InfoHash(b[28:48]), PeerID: bt.PeerID([]byte("-\x1b[1234-\x1b[31mabcdefg"))})
			if _, err := c.Write(append(append(hello, classic.AppendExtendedHead(nil, 0, len(e))...), e...)); err == nil {
				_, _ = c.Read(b)
			}
			c.Close()
		}
	}()
	for _, args := range [][]string{nil, {"--json"}} {
		r := cli(t, append([]string{"probe", l.Addr().String(), someMagnet, "--hello", "plaintext", "--timeout", "2s"}, args...)...)
		if r.check(t, exitOK); strings.ContainsAny(r.out+r.err, "\x1b\a\r\u202e") || !strings.Contains(r.out, "owned") || !strings.Contains(r.out, "[5]&0x20") {
			t.Errorf("%q", r.out)
		}
	}
}

func TestBitsOf(t *testing.T) {
	for _, tt := range []struct {
		r    wire.Reserved
		want string
	}{
		{wire.Reserved{}, ""},
		{wire.Reserved{0x80, 0, 0, 0, 0, 0x13, 0, 0x15}, "AZMP, extension protocol, negotiation 1, negotiation 2, DHT, Fast, v2"},
		{wire.Reserved{1, 0, 0, 0, 0, 0x10, 0, 2}, "extension protocol, [0]&0x01, [7]&0x02"},
	} {
		if got := strings.Join(bitsOf(tt.r), ", "); got != tt.want {
			t.Errorf("%x: %q, want %q", tt.r, got, tt.want)
		}
	}
}

func TestOutcomeText(t *testing.T) {
	first := probe.Step{Try: probe.MSERC4, Outcome: probe.Closed, Received: 300, KeyAnswer: true, End: 5e6}
	second := first
	second.FirstTry = &first
	if got, want := outcomeText(&second), "closed after 5.0 ms, after 300 bytes (second try; first closed after 5.0 ms, after 300 bytes)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
