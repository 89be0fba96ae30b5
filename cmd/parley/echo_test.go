package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// TestEcho sends as soon as a connection stands, so that the message follows the sender's exchange of types at once: the listener must know them
// when it handles the message.
func TestEcho(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", "hello")
	l, magnet, addr := listenTo(t, file, "--type", "chat_a", "--type", "chat_b", "--echo")
	send := func(stdin string, args ...string) result {
		t.Helper()
		return cliIn(t, stdin, append([]string{"send", magnet, "--peer", addr, "--wait", "5s", "--answers", "1"}, args...)...)
	}
	for i := range 20 {
		text := fmt.Sprintf("Hi there, 日本 %d", i)
		if send("", "--type", "chat_a", text).check(t, exitOK, "taken by "+addr, addr+": "+text+"\n"); t.Failed() {
			return
		}
	}
	t.Run("hostile text", func(t *testing.T) {
		r := send("", "--type", "chat_b", "\x1b[31mred\n\u202e\u009b")
		r.check(t, exitOK, addr+`: \x1b[31mred\n\u202e\u009b`+"\n")
		if strings.ContainsAny(r.out+r.err, "\x1b\u202e\u009b") {
			t.Error("raw escapes in the output")
		}
	})
	t.Run("bytes from standard input", func(t *testing.T) {
		payload := "\x00\xff\xfe" + strings.Repeat("x", 60_000)
		r := send(payload, "--type", "chat_a", "-", "--json")
		if r.code != exitOK {
			t.Fatalf("exit code %d: %s", r.code, r.err)
		}
		if a := find(t, jsonLines(t, r.out), "answer"); a["payload_base64"] != base64.StdEncoding.EncodeToString([]byte(payload)) {
			t.Error("the answer is another")
		}
	})
	t.Run("nothing at all", func(t *testing.T) {
		r := send("", "--type", "chat_a", "", "--json")
		r.check(t, exitOK)
		if a := find(t, jsonLines(t, r.out), "answer"); a["payload"] != "" || a["bytes"] != 0.0 {
			t.Errorf("answer %v", a)
		}
	})
	t.Run("answers are printed with --wait only", func(t *testing.T) {
		r := cli(t, "send", magnet, "--peer", addr, "--type", "chat_a", "hi")
		r.check(t, exitOK, "taken by")
		if strings.Contains(r.out, ": hi") {
			t.Errorf("an answer: %q", r.out)
		}
	})
	l.interrupt(t)
}
