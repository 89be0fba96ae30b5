package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/parley-bt/parley"
)

func TestParseType(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want typeSpec
		text string // what String returns
	}{
		{"chat", typeSpec{"chat", 0, 0}, "chat"},
		{"chat:0", typeSpec{"chat", 0, 0}, "chat"},
		{"chat:2", typeSpec{"chat", 2, 2}, "chat:2"},
		{"chat:1-3", typeSpec{"chat", 1, 3}, "chat:1-3"},
		{"chat:3-3", typeSpec{"chat", 3, 3}, "chat:3"},
		{"chat:0-255", typeSpec{"chat", 0, 255}, "chat:0-255"},
		{"chat:007", typeSpec{"chat", 7, 7}, "chat:7"},
		{"urn:x:chat", typeSpec{"urn:x:chat", 0, 0}, "urn:x:chat"},
		{"urn:x:4", typeSpec{"urn:x", 4, 4}, "urn:x:4"},
		{"urn:5:0", typeSpec{"urn:5", 0, 0}, "urn:5:0"},
		{"a:v2", typeSpec{"a:v2", 0, 0}, "a:v2"},
		{"a:1-x", typeSpec{"a:1-x", 0, 0}, "a:1-x"},
		{"::0", typeSpec{":", 0, 0}, "::0"},
		{"a::0", typeSpec{"a:", 0, 0}, "a::0"},
	} {
		got, err := parseType(tt.in)
		if err != nil || got != tt.want || got.String() != tt.text {
			t.Errorf("parseType(%q) = %q, %+v, %v, want %q, %+v", tt.in, got, got, err, tt.text, tt.want)
		}
		if again, err := parseType(tt.text); err != nil || again != tt.want {
			t.Errorf("parseType(%q) = %+v, %v, want %+v", tt.text, again, err, tt.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int{"1": 1, "65536": 65536, "64KiB": 65536, "64kib": 65536, "1MiB": 1 << 20, "1.5MiB": 3 << 19, "2k": 2000, "16MiB": 16 << 20, "16777216": 16 << 20} {
		if got, err := parseSize("--max", in, 1, maxMessageBytes); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]string{"": "not a size", "x": "not a size", "-1": "not a size", "1.": "not a size", ".5k": "not a size", "0": "too small", "0.5": "too small", "1.5": "whole number",
		"17MiB": "too large", "99999999999999999999G": "too large", "1 MiB": `" mib" is no unit`, "1MB/s": "is no unit", "1x": `"x" is no unit`, "NaN": "not a size", "1e3": "is no unit"} {
		if n, err := parseSize("--max", in, 1, maxMessageBytes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseSize(%q) = %d, %v, want %q", in, n, err, want)
		}
	}
}

func TestPayloads(t *testing.T) {
	set := func(b []byte, full bool) messageEvent {
		var e messageEvent
		e.setPayload(b, full)
		return e
	}
	text := []byte(strings.Repeat("日本語x", 7000)) // 70,000 bytes
	if e := set(text[:cutAbove], false); e.Cut || e.SHA256 != "" || e.Bytes != cutAbove || len(*e.Payload) != cutAbove {
		t.Errorf("64 KiB: %+v", e)
	}
	e := set(text, false)
	if !e.Cut || e.Bytes != len(text) || e.SHA256 != fmt.Sprintf("%x", sha256.Sum256(text)) || e.Payload == nil || e.PayloadBase64 != nil {
		t.Errorf("more: %+v", e)
	}
	if p := *e.Payload; !utf8.ValidString(p) || len(p) > cutTo || len(p) <= cutTo-utf8.UTFMax || !strings.HasPrefix(string(text), p) {
		t.Errorf("the beginning is %d bytes: %q", len(p), p)
	}
	if e := set(text, true); e.Cut || e.SHA256 != "" || *e.Payload != string(text) {
		t.Error("cut in spite of --full")
	}
	noise := bytes.Repeat([]byte{0xff}, cutAbove+1)
	if e := set(noise, false); !e.Cut || e.Payload != nil || len(e.PayloadBase64) != cutTo {
		t.Errorf("no text: %+v", e)
	}
	if e := set(nil, false); e.Payload == nil || *e.Payload != "" || e.Bytes != 0 {
		t.Errorf("nothing: %+v", e)
	}
	for _, tt := range []struct {
		name  string
		b     []byte
		full  bool
		lines bool
		want  string
	}{
		{"lines", []byte("a\nb\x1b\n"), false, true, "a\nb\\x1b"},
		{"one line", []byte("a\nb\x1b\n"), false, false, `a\nb\x1b\n`},
		{"nothing", nil, false, true, ""},
		{"long", bytes.Repeat([]byte("x"), cutAbove+1), false, true, strings.Repeat("x", cutTo) + "… (65537 bytes in all, SHA-256 "},
		{"long, full", bytes.Repeat([]byte("x"), cutAbove+1), true, true, strings.Repeat("x", cutAbove+1)},
		{"long, no text", noise, false, true, "(65537 bytes in all, SHA-256 "},
	} {
		if got := payloadText(tt.b, tt.full, tt.lines); !strings.HasPrefix(got, tt.want) || len(got) > len(tt.want)+65 {
			t.Errorf("%s: %q", tt.name, brief(got))
		}
	}
}

// talk is a listener, and how it is reached.
type talk struct {
	*running
	magnet, addr string
}

func listenWith(t *testing.T, args ...string) talk {
	t.Helper()
	l, magnet, addr := listenTo(t, write(t, t.TempDir(), "talk.txt", "hello"), args...)
	return talk{l, magnet, addr}
}

// send runs send to the listener.
func (l talk) send(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return cliIn(t, stdin, l.args(args...)...)
}

func (l talk) args(args ...string) []string {
	return append([]string{"send", l.magnet, "--peer", l.addr}, args...)
}

// want waits until the listener has printed an event with these fields, and returns it.
func (l talk) want(t *testing.T, event string, want fields) map[string]any {
	t.Helper()
	timeout := time.After(patience)
	for {
		l.out.mu.Lock()
		text, changed := string(l.out.b), l.out.changed
		l.out.mu.Unlock()
		var last map[string]any
		for _, e := range jsonLines(t, text[:strings.LastIndexByte(text, '\n')+1]) {
			if e["event"] == event {
				if last = e; differs(e, want) == "" {
					return e
				}
			}
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no %s with %v came, the last was %v", event, want, brief(fmt.Sprint(last)))
		}
	}
}

// differs names the first of some fields that an event has otherwise, empty if there is none.
func differs(e map[string]any, want fields) string {
	for k, v := range want {
		if n, ok := v.(int); ok && e[k] == float64(n) {
			continue
		}
		if fmt.Sprint(e[k]) != fmt.Sprint(v) {
			return k
		}
	}
	return ""
}

// is compares fields of an event with what is wanted.
func is(t *testing.T, e map[string]any, want fields) {
	t.Helper()
	if k := differs(e, want); k != "" {
		t.Errorf("%q is %v, want %v, in %v", k, e[k], want[k], brief(fmt.Sprint(e)))
	}
}

type fields = map[string]any

func TestVersions(t *testing.T) {
	l := listenWith(t, "--type", "chat:1-3", "--type", "old", "--echo")
	answer := []string{"--wait", "10s", "--answers", "1", "--json"}
	t.Run("the highest that both know", func(t *testing.T) {
		r := l.send(t, "", append(answer, "--type", "chat:2-9", "hi")...)
		r.check(t, exitOK)
		is(t, find(t, jsonLines(t, r.out), "sent"), fields{"version": 3, "bytes": 2, "type": "chat"})
		is(t, find(t, jsonLines(t, r.out), "answer"), fields{"version": 3, "request": false, "payload": "hi"})
		l.want(t, "message", fields{"version": 3, "request": false, "payload": "hi", "type": "chat"})
	})
	t.Run("one of them", func(t *testing.T) {
		r := l.send(t, "", append(answer, "--type", "chat:1-9", "--version", "1", "hi")...)
		r.check(t, exitOK)
		is(t, find(t, jsonLines(t, r.out), "sent"), fields{"version": 1})
		is(t, find(t, jsonLines(t, r.out), "answer"), fields{"version": 1})
	})
	t.Run("without a range", func(t *testing.T) {
		l.send(t, "", "--type", "chat", "--version", "2", "--wait", "10s", "--answers", "1", "hi").check(t, exitOK, "2 bytes of type chat, version 2", l.addr+": hi")
	})
	t.Run("a version of a request", func(t *testing.T) {
		r := l.send(t, "", "--type", "chat:2", "--request", "--json", "hi")
		r.check(t, exitOK)
		is(t, find(t, jsonLines(t, r.out), "answer"), fields{"version": 2, "request": true})
	})
	t.Run("none in common", func(t *testing.T) {
		l.send(t, "", "--type", "chat", "hi").check(t, exitVersion, "receives chat in versions 1 to 3; this side would send version 0", "--type chat:1-3", "parley listen SOURCE --type chat")
		l.send(t, "", "--type", "chat:4-255", "--request", "hi").check(t, exitVersion, "this side would send versions 4 to 255")
	})
	t.Run("not that one", func(t *testing.T) {
		r := l.send(t, "", "--type", "chat:1-9", "--version", "5", "--json", "hi")
		r.check(t, exitVersion, "receives chat in versions 1 to 3; this side would send version 5")
		is(t, find(t, jsonLines(t, r.out), "error"), fields{"exit_code": exitVersion})
	})
	t.Run("another peer receives it", func(t *testing.T) {
		other, _, addr := listenTo(t, write(t, t.TempDir(), "talk.txt", "hello"), "--type", "chat:7")
		// The one that does not is there first.
		s := start(t, l.args("--type", "chat:7", "--listen", loopback, "--log-level", "debug", "hi")...)
		s.err.wait(t, "receives chat in versions 1 to 3; this side would send version 7; waiting for another peer")
		s.interruptTo(t, exitInterrupted)
		r := l.send(t, "", "--peer", addr, "--type", "chat:7", "hi")
		r.check(t, exitOK, "taken by "+addr)
		// Of several that do not, the last is named when the time is over.
		l.send(t, "", "--peer", addr, "--type", "chat:8", "--timeout", "1s", "hi").check(t, exitVersion, "; this side would send version 8", "waiting for another peer")
		// --to means one.
		l.send(t, "", "--peer", addr, "--to", l.addr, "--type", "chat:7", "hi").check(t, exitVersion, "receives chat in versions 1 to 3")
		other.interrupt(t)
	})
	l.interrupt(t)
}

// TestOffers: what a peer receives is told to people as a table, and to programs with the same figures.
func TestOffers(t *testing.T) {
	l := listenWith(t, "--type", "chat:1-3", "--type", "other:0-9", "--max", "1MiB", "--window", "3MiB", "--req", "7")
	r := l.send(t, "", "--type", "chat:2", "hi")
	r.check(t, exitOK)
	want := "peer " + l.addr + " speaks emp: window 3.0 MiB, 7 requests at once\n" +
		"  RECEIVES  VERSIONS  LARGEST  SENT AS\n" +
		"  chat      1-3       1.0 MiB  version 2\n" +
		"  other     0-9       1.0 MiB  -\n"
	if !strings.Contains(r.err, want) {
		t.Errorf("standard error has %q, want %q", r.err, want)
	}
	for line := range strings.Lines(r.err) {
		if len(line) > 81 {
			t.Errorf("wider than a terminal: %q", line)
		}
	}
	l.err.wait(t, `(?m)^peer \S+ speaks emp: window 32\.1 MiB, 64 requests at once\n  RECEIVES  VERSIONS  LARGEST   SENT AS\n  chat      2         16\.0 MiB  version 2\n`)
	p := find(t, jsonLines(t, l.send(t, "", "--type", "chat:2", "--json", "hi").out), "peer_types")
	is(t, p, fields{"dialect": "emp", "window_bytes": 3 << 20, "requests": 7, "types": "[chat other]"})
	types := p["receives"].([]any)
	is(t, types[0].(fields), fields{"type": "chat", "enhanced": true, "min_version": 1, "max_version": 3, "max_bytes": 1 << 20, "version": 2})
	is(t, types[1].(fields), fields{"type": "other", "min_version": 0, "max_version": 9, "version": nil})

	t.Run("without emp", func(t *testing.T) {
		r := l.send(t, "", "--type", "other", "--no-emp", "hi")
		r.check(t, exitOK, "peer "+l.addr+" speaks ltep\n  RECEIVES  VERSIONS  LARGEST   SENT AS\n  other     -         64.0 KiB  BEP 10 frame\n")
		l.want(t, "peer_types", fields{"dialect": "ltep", "window_bytes": nil, "requests": nil, "types": "[other]"})
	})
	t.Run("many types", func(t *testing.T) {
		args := []string{}
		for i := range 25 {
			args = append(args, "--type", fmt.Sprintf("t%02d", i))
		}
		l := listenWith(t, args...)
		r := l.send(t, "", "--type", "t24", "hi")
		r.check(t, exitOK, "\n  t19 ", "\n  and 5 more\n")
		if strings.Contains(r.err, "\n  t20 ") {
			t.Error("more than were to be shown")
		}
		l.interrupt(t)
	})
	t.Run("small limits", func(t *testing.T) {
		l := listenWith(t, "--type", "chat", "--max", "10", "--window", "65600", "--req", "0")
		r := l.send(t, "", "--type", "chat", "hello, you")
		r.check(t, exitOK, "window 64.1 KiB, 0 requests at once", "chat      0         10 B     version 0")
		l.send(t, "", "--type", "chat", "hello, you!").check(t, exitTooLarge, "receives messages of chat of up to 10 bytes; this one has 11", "--max")
		l.send(t, "", "--type", "chat", "--request", "hi").check(t, exitNoHandler, "takes no requests")
		l.interrupt(t)
	})
	l.interrupt(t)
}

func TestRequests(t *testing.T) {
	l := listenWith(t, "--type", "ask", "--echo", "--reply-max", "100k", "--max", "1MiB")
	t.Run("raw", func(t *testing.T) {
		r := l.send(t, "", "--type", "ask", "--request", "a\x1b[31m")
		r.check(t, exitOK, "answered by "+l.addr+" (Parley ", ": 6 bytes in ")
		if r.out != "a\x1b[31m" {
			t.Errorf("standard output has %q", r.out)
		}
		l.want(t, "message", fields{"request": true, "version": 0, "reply_max": 16 << 20, "bytes": 6})
	})
	t.Run("nothing", func(t *testing.T) {
		if r := l.send(t, "", "--type", "ask", "--request", ""); r.code != exitOK || r.out != "" {
			t.Error(r)
		}
	})
	t.Run("bytes from standard input", func(t *testing.T) {
		said := strings.Repeat("\xff\x00", 40_000)
		if r := l.send(t, said, "--type", "ask", "--request", "-"); r.code != exitOK || r.out != said {
			t.Errorf("exit code %d, %d bytes: %s", r.code, len(r.out), r.err)
		}
		r := l.send(t, said, "--type", "ask", "--request", "--json", "-")
		r.check(t, exitOK)
		a := find(t, jsonLines(t, r.out), "answer")
		is(t, a, fields{"type": "ask", "peer": l.addr, "version": 0, "request": true, "bytes": 80_000, "cut": true, "sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(said))),
			"payload_base64": base64.StdEncoding.EncodeToString([]byte(said[:cutTo]))})
		r = l.send(t, said, "--type", "ask", "--request", "--json", "--full", "-")
		is(t, find(t, jsonLines(t, r.out), "answer"), fields{"cut": nil, "sha256": nil, "payload_base64": base64.StdEncoding.EncodeToString([]byte(said))})
	})
	t.Run("on a terminal", func(t *testing.T) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), l.args("--type", "ask", "--request", "one\ntwo \x1b[31m\u202e\n"), stdio{in: strings.NewReader(""), out: &out, outTTY: true, err: &errOut})
		if code != exitOK || out.String() != "one\ntwo \\x1b[31m\\u202e\n" {
			t.Errorf("exit code %d, %q, %s", code, &out, &errOut)
		}
	})
	t.Run("standard output closed", func(t *testing.T) {
		var errOut bytes.Buffer
		code := run(t.Context(), l.args("--type", "ask", "--request", "hi"), stdio{in: strings.NewReader(""), out: brokenPipe{}, err: &errOut})
		result{code, "", errOut.String()}.check(t, exitFailure, "standard output: no reader")
	})
	t.Run("answer longer than asked for", func(t *testing.T) {
		l.send(t, "", "--type", "ask", "--request", "--reply-max", "4", "12345").check(t, exitTooLarge, "longer than 4 bytes", "--reply-max")
		l.want(t, "handler_failed", fields{"request": true, "error": "the answer has 5 bytes, the peer takes 4"})
		if r := l.send(t, "", "--type", "ask", "--request", "--reply-max", "5", "12345"); r.out != "12345" {
			t.Error(r)
		}
	})
	t.Run("answer longer than the listener gives", func(t *testing.T) {
		r := l.send(t, strings.Repeat("x", 100_001), "--type", "ask", "--request", "--json", "-")
		r.check(t, exitHandler, "has failed: the answer would have 100001 bytes, this side gives 100000 at most")
		is(t, find(t, jsonLines(t, r.out), "error"), fields{"text": "the answer would have 100001 bytes, this side gives 100000 at most"})
		if r := l.send(t, strings.Repeat("x", 100_000), "--type", "ask", "--request", "-"); len(r.out) != 100_000 {
			t.Error(r)
		}
	})
	t.Run("too large for the peer", func(t *testing.T) {
		l.send(t, strings.Repeat("x", 1<<20+1), "--type", "ask", "--request", "-").check(t, exitTooLarge, "of up to 1048576 bytes; this one has 1048577")
	})
	t.Run("plain frames", func(t *testing.T) {
		plain := listenWith(t, "--type", "ask", "--no-emp", "--echo")
		plain.send(t, "", "--type", "ask", "--request", "hi").check(t, exitVersion, "receives ask in plain BEP 10 frames only, in which there are no requests", "without --request")
		plain.send(t, "", "--type", "ask:0-1", "--version", "1", "hi").check(t, exitVersion, "in which there is no version but 0; this side would send version 1")
		plain.send(t, "", "--type", "ask:1", "hi").check(t, exitVersion, "this side would send version 1")
		plain.send(t, strings.Repeat("x", 65_535), "--type", "ask", "-").check(t, exitTooLarge, "of up to 65534 bytes")
		plain.send(t, "", "--type", "ask:0-9", "--wait", "10s", "--answers", "1", "hi").check(t, exitOK, plain.addr+": hi")
		plain.want(t, "message", fields{"version": 0, "request": false})
		plain.interrupt(t)
	})
	l.interrupt(t)
	if s := l.want(t, "stopped", nil); s["requests"].(float64) < 8 || s["messages"] != 0.0 {
		t.Errorf("got %v", s)
	}
	l.err.wait(t, `0 messages and \d+ requests received`)
}

// TestRequestsFail: every way not to answer has its exit code and its words.
func TestRequestsFail(t *testing.T) {
	for _, tt := range []struct {
		name   string
		listen string
		send   string
		code   int
		want   string
		failed string // what the listener says
	}{
		{"no handler", "", "", exitNoHandler, "has no handler for requests of ask", ""},
		{"refused", "--refuse", "", exitRefused, "has refused the request", "refused"},
		{"failed", "--fail sorry,\u202enot\x1btoday", "", exitHandler, `has failed: sorry,\u202enot\x1btoday`, `sorry,` + "\u202enot\x1btoday"},
		{"failed without a word", "--fail ", "", exitHandler, "has failed\n", ""},
		{"failed with a text that is cut", "--fail aé日", "--reply-max 4", exitHandler, "has failed: aé\n", "aé日"},
		{"no time left", "--echo --delay 1m --handler-timeout 20ms", "", exitHandlerTime, "has run out of time", "no time left"},
		{"not in time", "--echo --delay 1m", "--timeout 500ms", exitTimeout, "nobody has answered the request within 500ms: the peer was asked", "does not wait any longer"},
		{"slow", "--echo --delay 30ms", "", exitOK, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := listenWith(t, append([]string{"--type", "ask"}, flags(tt.listen)...)...)
			r := l.send(t, "", append([]string{"--type", "ask", "--request", "hi"}, flags(tt.send)...)...)
			r.check(t, tt.code, tt.want)
			if tt.code != exitOK && r.out != "" {
				t.Errorf("standard output has %q", r.out)
			}
			if tt.failed != "" {
				f := l.want(t, "handler_failed", fields{"request": true, "type": "ask", "version": 0})
				if text := fmt.Sprint(f["error"]); !strings.Contains(text, tt.failed) {
					t.Errorf("the listener says %q", text)
				}
			}
			l.interrupt(t)
		})
	}
}

func TestRequestsWithoutMemory(t *testing.T) {
	l := listenWith(t, "--type", "ask", "--echo", "--max", "1MiB", "--memory", "1")
	l.send(t, strings.Repeat("x", 300_000), "--type", "ask", "--request", "-").check(t, exitBusy, "is busy", "try again later")
	l.interrupt(t)
}

// flags splits at spaces; one at the end stands before an empty value.
func flags(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, " ")
}

// More requests than the listener lets one peer have cannot come from one send; that of two peers is handled while the other waits.
func TestRequestsAtOnce(t *testing.T) {
	l := listenWith(t, "--type", "ask", "--echo", "--req", "1", "--parallel", "1", "--delay", "300ms")
	var all []*running
	for range 3 {
		all = append(all, start(t, l.args("--type", "ask", "--request", "hi")...))
	}
	for _, s := range all {
		if code := <-s.ended; code != exitOK || s.out.String() != "hi" {
			t.Errorf("exit code %d, %q", code, s.out)
		}
	}
	l.interrupt(t)
}

func TestMessagesFail(t *testing.T) {
	t.Run("handler", func(t *testing.T) {
		l := listenWith(t, "--type", "chat", "--fail", "sorry", "--log-level", "error")
		l.send(t, "", "--type", "chat", "hi").check(t, exitOK, "taken by") // who sends a message does not learn of it
		l.want(t, "handler_failed", fields{"request": false, "error": "sorry", "type": "chat"})
		l.want(t, "message", fields{"payload": "hi"})
		l.interrupt(t)
	})
	t.Run("refused after it has come", func(t *testing.T) {
		l := listenWith(t, "--type", "chat", "--refuse")
		l.send(t, "", "--type", "chat", "hi").check(t, exitRefused, "has refused the message", "perhaps only requests")
		l.send(t, strings.Repeat("x", 60_000), "--type", "chat", "-").check(t, exitRefused, "has refused the message")
		l.send(t, "", "--type", "chat", "--no-emp", "hi").check(t, exitOK) // there is no way to say so
		l.interrupt(t)
		if strings.Contains(l.out.String(), `"event":"message"`) {
			t.Error("it was printed")
		}
	})
	t.Run("refused while it is sent", func(t *testing.T) {
		l := listenWith(t, "--type", "chat", "--refuse", "--max", "16MiB")
		big := filepath.Join(t.TempDir(), "big")
		if err := os.WriteFile(big, make([]byte, maxMessageBytes), 0o666); err != nil {
			t.Fatal(err)
		}
		l.send(t, "", "--type", "chat", "--file", big).check(t, exitRefused, "has refused the message")
		l.interrupt(t)
		if strings.Contains(l.out.String(), `"event":"message"`) {
			t.Error("it was printed")
		}
	})
	t.Run("no memory for it", func(t *testing.T) {
		l := listenWith(t, "--type", "chat", "--max", "16MiB", "--memory", "1MiB")
		l.send(t, strings.Repeat("x", maxMessageBytes), "--type", "chat", "-").check(t, exitBusy, "is busy", "try again later")
		l.send(t, "", "--type", "chat", "hi").check(t, exitOK)
		l.interrupt(t)
	})
	t.Run("echo that the sender does not take", func(t *testing.T) {
		l := listenWith(t, "--type", "chat", "--echo")
		l.send(t, "", "--type", "chat", "--max", "4", "12345").check(t, exitOK)
		e := l.want(t, "echo_failed", fields{"type": "chat", "version": 0})
		if !strings.Contains(fmt.Sprint(e["error"]), "5 bytes, the limit is 4") {
			t.Errorf("got %v", e)
		}
		l.interrupt(t)
	})
	t.Run("echo in the version that was sent", func(t *testing.T) {
		l := listenWith(t, "--type", "chat:0-9", "--echo")
		l.send(t, "", "--type", "chat:3", "--wait", "10s", "--answers", "1", "hi").check(t, exitOK, ": hi")
		l.interrupt(t)
	})
}

func TestLargeMessages(t *testing.T) {
	dir := t.TempDir()
	noise := bytes.Repeat([]byte("\x00\xff noise \xfe"), maxMessageBytes/10+1)[:maxMessageBytes]
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, noise, 0o666); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(noise))
	l := listenWith(t, "--type", "chat", "--echo", "--max", "16MiB")
	t.Run("a file, streamed", func(t *testing.T) {
		r := l.send(t, "", "--type", "chat", "--file", big, "--json", "--wait", "20s", "--answers", "1")
		r.check(t, exitOK)
		is(t, find(t, jsonLines(t, r.out), "sent"), fields{"bytes": maxMessageBytes})
		is(t, find(t, jsonLines(t, r.out), "answer"), fields{"bytes": maxMessageBytes, "cut": true, "sha256": sum})
		m := l.want(t, "message", fields{"bytes": maxMessageBytes, "cut": true, "sha256": sum, "request": false, "payload": nil})
		if b, err := base64.StdEncoding.DecodeString(fmt.Sprint(m["payload_base64"])); err != nil || string(b) != string(noise[:cutTo]) {
			t.Errorf("the beginning is %q, %v", b, err)
		}
	})
	t.Run("for people", func(t *testing.T) {
		text := strings.Repeat("0123456789", 10_000)
		r := l.send(t, text, "--type", "chat", "-", "--wait", "20s", "--answers", "1")
		r.check(t, exitOK, l.addr+": 0123456789", "… (100000 bytes in all, SHA-256 "+fmt.Sprintf("%x", sha256.Sum256([]byte(text))))
		if len(r.out) > 2000 {
			t.Errorf("%d bytes were printed", len(r.out))
		}
		l.send(t, text, "--type", "chat", "-", "--wait", "20s", "--answers", "1", "--full").check(t, exitOK, l.addr+": "+text+"\n")
	})
	t.Run("a request", func(t *testing.T) {
		if r := l.send(t, "", "--type", "chat", "--file", big, "--request"); r.code != exitOK || r.out != string(noise) {
			t.Errorf("exit code %d, %d bytes: %s", r.code, len(r.out), r.err)
		}
	})
	t.Run("one byte more", func(t *testing.T) {
		more := write(t, dir, "more", string(noise)+"x")
		l.send(t, "", "--type", "chat", "--file", more).check(t, exitUsage, "--file "+more+": more than 16777216 bytes", "send less")
		l.send(t, string(noise)+"x", "--type", "chat", "-").check(t, exitUsage, "standard input: more than 16777216 bytes", "send less")
	})
	t.Run("a file to who knows no streams", func(t *testing.T) {
		plain := listenWith(t, "--type", "chat", "--no-emp")
		small := write(t, dir, "small", strings.Repeat("x", 65_534))
		plain.send(t, "", "--type", "chat", "--file", small).check(t, exitOK, "65534 bytes of type chat")
		plain.send(t, "", "--type", "chat", "--file", big).check(t, exitTooLarge, "of up to 65534 bytes; this one has 16777216")
		plain.interrupt(t)
	})
	t.Run("files that cannot be", func(t *testing.T) {
		l.send(t, "", "--type", "chat", "--file", filepath.Join(dir, "nowhere")).check(t, exitInput, "nowhere: ", "check the path")
		l.send(t, "", "--type", "chat", "--file", dir).check(t, exitInput, "is a folder")
	})
	t.Run("an empty file", func(t *testing.T) {
		l.send(t, "", "--type", "chat", "--file", write(t, dir, "empty", "")).check(t, exitOK, "0 bytes of type chat")
	})
	t.Run("printed whole", func(t *testing.T) {
		l := listenWith(t, "--type", "chat", "--max", "1MiB", "--full")
		text := strings.Repeat("x", 1<<20)
		l.send(t, text, "--type", "chat", "-").check(t, exitOK)
		if m := l.want(t, "message", nil); m["payload"] != text || m["cut"] != nil || m["sha256"] != nil {
			t.Error("not whole")
		}
		l.interrupt(t)
	})
	l.interrupt(t)
}

func TestWithdraw(t *testing.T) {
	l := listenWith(t, "--type", "chat", "--type", "ask:1-2", "--echo", "--withdraw-after", "2s")
	// It is connected before, and hears of it.
	s := start(t, l.args("--type", "other", "hi")...)
	s.err.wait(t, "  ask       1-2 ")
	l.want(t, "withdrawn", fields{"types": "[chat ask]"})
	l.err.wait(t, "not received any more: chat, ask\n")
	s.err.wait(t, "peer "+regexp.QuoteMeta(l.addr)+" receives no message type any more")
	s.interruptTo(t, exitInterrupted)
	l.send(t, "", "--type", "chat", "--timeout", "500ms", "hi").check(t, exitTimeout, "receives no message type")
	l.send(t, "", "--type", "chat", "--request", "--timeout", "500ms", "hi").check(t, exitTimeout, "nobody has answered the request within 500ms: 1 peer connected")
	l.interrupt(t)
	l.want(t, "stopped", fields{"messages": 0})

	l = listenWith(t, "--type", "chat", "--withdraw-after", "1h")
	l.interrupt(t) // and does not wait for it
	if strings.Contains(l.out.String(), "withdrawn") {
		t.Error("withdrawn too early")
	}
}

func TestInterruptedRequest(t *testing.T) {
	l := listenWith(t, "--type", "ask", "--echo", "--delay", "1h")
	t.Run("by who asks", func(t *testing.T) {
		s := start(t, l.args("--type", "ask", "--request", "first")...)
		l.out.wait(t, `"payload":"first"`)
		s.interruptTo(t, exitInterrupted)
		s.err.wait(t, "parley: interrupted; no answer has come")
		if s.out.String() != "" {
			t.Errorf("standard output has %q", s.out)
		}
		l.want(t, "handler_failed", fields{"request": true, "error": "the peer has gone, or does not wait any longer"})
	})
	t.Run("by who answers", func(t *testing.T) {
		s := start(t, l.args("--type", "ask", "--request", "second")...)
		l.out.wait(t, `"payload":"second"`)
		began := time.Now()
		l.interrupt(t)
		if took := time.Since(began); took > patience/2 {
			t.Errorf("the listener took %v to end", took)
		}
		if code := <-s.ended; code != exitFailure && code != exitHandler {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestEventFields: the lines have the fields that are documented, and no others.
func TestEventFields(t *testing.T) {
	l := listenWith(t, "--type", "chat:0-2", "--echo", "--max", "1MiB")
	sent := l.send(t, "\xff", "--type", "chat:1", "--wait", "10s", "--answers", "1", "--json", "-")
	big := l.send(t, strings.Repeat("x", cutAbove+1), "--type", "chat", "--wait", "10s", "--answers", "1", "--json", "-")
	asked := l.send(t, "", "--type", "chat:1", "--request", "--json", "hi")
	short := l.send(t, "", "--type", "chat", "--request", "--reply-max", "1", "--json", "hi")
	mute := l.send(t, "", "--type", "chat", "--max", "1", "--json", "hi")
	l.want(t, "echo_failed", nil)
	f := listenWith(t, "--type", "chat", "--fail", "no")
	failed := f.send(t, "", "--type", "chat", "--request", "--json", "hi")
	f.want(t, "handler_failed", nil)
	f.interrupt(t)
	w := listenWith(t, "--type", "chat", "--withdraw-after", "1ms")
	w.want(t, "withdrawn", nil)
	w.interrupt(t)
	l.interrupt(t)

	peer := "info_hash peer peer_id client dialect hello initiator seed types"
	message := "type peer version request bytes"
	fields := map[string]struct{ always, maybe string }{
		"peer_connected":    {peer, ""},
		"peer_disconnected": {peer, "error"},
		"peer_types":        {peer + " receives window_bytes requests", ""},
		"message":           {message, "reply_max cut sha256 payload payload_base64"},
		"answer":            {message, "reply_max cut sha256 payload payload_base64 client seconds"},
		"sent":              {"type peer client version bytes", ""},
		"handler_failed":    {"type peer version request error", ""},
		"echo_failed":       {"type peer version error", ""},
		"withdrawn":         {"types", ""},
		"stopped":           {"info_hash seconds sessions downloaded uploaded messages requests", ""},
		"error":             {"error exit_code", "hint text"},
	}
	seen := map[string]bool{}
	for _, out := range []string{l.out.String(), f.out.String(), w.out.String(), sent.out, big.out, asked.out, short.out, mute.out, failed.out} {
		for _, e := range jsonLines(t, out) {
			name := fmt.Sprint(e["event"])
			want, known := fields[name]
			if !known {
				continue
			}
			seen[name] = true
			always := strings.Fields("event time " + want.always)
			for _, k := range always {
				if _, ok := e[k]; !ok {
					t.Errorf("%s lacks %q: %v", name, k, e)
				}
			}
			for k := range e {
				if !slices.Contains(always, k) && !slices.Contains(strings.Fields(want.maybe), k) {
					t.Errorf("%s has %q", name, k)
				}
			}
			if name == "message" || name == "answer" {
				_, text := e["payload"]
				_, bytes := e["payload_base64"]
				_, sum := e["sha256"]
				_, cut := e["cut"]
				if text == bytes || sum != cut {
					t.Errorf("%s: %v", name, brief(fmt.Sprint(e)))
				}
			}
			if types, ok := e["receives"].([]any); ok {
				for _, x := range types {
					keys := slices.DeleteFunc(slices.Sorted(maps.Keys(x.(map[string]any))), func(k string) bool { return k == "version" })
					if got := strings.Join(keys, " "); got != "enhanced max_bytes max_version min_version type" {
						t.Errorf("receives has %s", got)
					}
				}
			}
		}
	}
	for name, want := range fields {
		if !seen[name] {
			t.Errorf("no %s came", name)
		}
		if !strings.Contains(eventHelp, "\n  "+name+" ") && !strings.Contains(eventHelp, "\n  "+name+"\n") {
			t.Errorf("%s is not in the help", name)
		}
		for k := range strings.FieldsSeq(want.always + " " + want.maybe) {
			if !strings.Contains(eventHelp, `"`+k+`"`) {
				t.Errorf("%q of %s is not in the help", k, name)
			}
		}
	}
}

// TestLimitsAreTheLibrarys: the limits that the flags name are those of the library.
func TestLimitsAreTheLibrarys(t *testing.T) {
	for _, cfg := range []parley.Config{{MessageWindowBytes: minWindow}, {MessageWindowBytes: maxWindow}, {MaxMessageBytes: maxPlainBytes}} {
		cfg.NoListen = true
		c, err := parley.NewClient(cfg)
		if err != nil {
			t.Errorf("%+v: %v", cfg.MessageWindowBytes, err)
			continue
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	above := maxWindow
	above++ // below everything where an int has 32 bits
	for _, cfg := range []parley.Config{{MessageWindowBytes: minWindow - 1}, {MessageWindowBytes: above}} {
		if c, err := parley.NewClient(cfg); err == nil {
			t.Errorf("a window of %d is taken", cfg.MessageWindowBytes)
			c.Close()
		}
	}
}
