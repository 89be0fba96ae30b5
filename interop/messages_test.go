//go:build linux

package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/interop/sequence"
)

const messageType = "interop_chat"

// messageCount is how many messages go each way, about 300 MB.
const messageCount = 10_000

// Bounds on memory. Each is far below the bytes that were sent, which is what a queue without bound would hold.
const (
	// Two queues of 1 MiB, 60 KiB messages on their way, and what the collector leaves lying.
	parleyPeakBytes = 64 << 20
	// Node starts at 45 MiB and collects late.
	nodePeakBytes = 320 << 20
	// What may lie between a Send that has returned and a peer that does not read: the queue of 1 MiB, and the kernel's
	// buffers of the two sockets, which grow to 4 and 6 MiB by default.
	inFlightBytes = 16 << 20
)

// node runs node/peer.mjs.
func node(t *testing.T, args ...string) *process {
	t.Helper()
	script, err := filepath.Abs("node/peer.mjs")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, "node", "node", append([]string{script, "--type", messageType}, args...)...)
}

// smallFile writes something to share, since every swarm is about something.
func smallFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "talk.txt")
	if err := os.WriteFile(path, []byte("what the talk is about\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, ok := strings.Cut(addr, ":")
	if !ok {
		t.Fatalf("%q is no address", addr)
	}
	return port
}

func infoHashOf(t *testing.T, path string) string {
	t.Helper()
	made, err := parley.Create(t.Context(), path, parley.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.InfoHash.String()
}

// wantSequence compares what a side says it sent or received with what the sequence is.
func wantSequence(t *testing.T, who string, r record, d sequence.Direction) {
	t.Helper()
	want := sequence.Of(d, messageCount)
	if r.text("sha256") != want.Hex() || int(r.num("count")) != want.Count || int64(r.num("bytes")) != want.Bytes {
		t.Errorf("%s: %v; want %d messages of %d bytes in all, SHA-256 %s", who, r, want.Count, want.Bytes, want.Hex())
	}
}

func wantPeak(t *testing.T, who string, r record, bound int64) {
	t.Helper()
	rss := int64(r.num("rss"))
	t.Logf("%s: peak RSS %.1f MiB", who, float64(rss)/(1<<20))
	if rss <= 0 || rss > bound {
		t.Errorf("%s: peak RSS %.1f MiB, want %.0f MiB at most", who, float64(rss)/(1<<20), float64(bound)/(1<<20))
	}
}

// TestMessages: 10,000 messages each way at once between Parley and bittorrent-protocol, of 0 bytes to 60 KiB; all arrive, in
// order, unchanged. Whoever stops reading holds up the sender and nothing else: nothing is lost and nothing piles up.
func TestMessages(t *testing.T) {
	const pause = 3 * time.Second
	count := fmt.Sprint(messageCount)
	tests := []struct {
		name         string
		parleyDials  bool
		nodePauses   bool
		parleyPauses bool
	}{
		{name: "node dials"},
		{name: "parley dials", parleyDials: true},
		{name: "node stops reading", nodePauses: true},
		{name: "our handler waits", parleyPauses: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			share := smallFile(t)
			infoHash := infoHashOf(t, share)
			nodeArgs := []string{"--infohash", infoHash, "--send", count, "--recv", count}
			if tt.nodePauses {
				nodeArgs = append(nodeArgs, "--pause-after", "1000", "--pause-ms", fmt.Sprint(pause.Milliseconds()))
			}
			pumpArgs := []string{"-share", share, "-type", messageType, "-send", count, "-recv", count}
			if tt.parleyPauses {
				pumpArgs = append(pumpArgs, "-pause-after", "1000", "-pause", pause.String())
			}

			var us, them *process
			if tt.parleyDials {
				them = node(t, append(nodeArgs, "--listen", "0")...)
				port := them.event("listening").num("port")
				us = start(t, "pump", pumpBin, append(pumpArgs, "-peer", fmt.Sprintf("127.0.0.1:%.0f", port))...)
				us.event("listening")
			} else {
				us = start(t, "pump", pumpBin, pumpArgs...)
				l := us.event("listening")
				if l.text("infohash") != infoHash {
					t.Fatalf("info-hash %s, want %s", l.text("infohash"), infoHash)
				}
				them = node(t, append(nodeArgs, "--dial", portOf(t, l.text("addr")))...)
			}

			if tt.nodePauses {
				paused := them.event("paused")
				them.event("resumed")
				// The last figure our side gave while it was stuck.
				ahead := int64(lastField(t, us, "sending", "bytes") - paused.num("bytes"))
				t.Logf("while Node did not read, %.1f MiB were sent ahead of it", float64(ahead)/(1<<20))
				if ahead > inFlightBytes {
					t.Errorf("%d bytes were sent ahead of a peer that does not read, want %d at most", ahead, inFlightBytes)
				}
			}
			if tt.parleyPauses {
				us.event("paused")
				r := us.event("resumed")
				t.Logf("after %v in the handler our RSS is %.1f MiB", pause, r.mib("rss"))
			}

			ourEnd, theirEnd := finish(us), finish(them)
			wantSequence(t, "parley sent", ourEnd["sent"], sequence.FromParley)
			wantSequence(t, "node received", theirEnd["received"], sequence.FromParley)
			wantSequence(t, "node sent", theirEnd["sent"], sequence.ToParley)
			wantSequence(t, "parley received", ourEnd["received"], sequence.ToParley)
			last := max(ourEnd["received"].num("ms"), theirEnd["received"].num("ms"))
			t.Logf("%d messages each way in %.1f s (from the start of the slower program); the longest send waited %v here, %v in Node",
				messageCount, last/1000, ourEnd["sent"].millis("longest_wait_ms"), theirEnd["sent"].millis("longest_wait_ms"))
			wantPeak(t, "parley", latest(ourEnd), parleyPeakBytes)
			wantPeak(t, "node", latest(theirEnd), nodePeakBytes)

			// The pauses are shorter than the waits they cause only by what the buffers take.
			if w := ourEnd["sent"].millis("longest_wait_ms"); tt.nodePauses && w < pause/2 {
				t.Errorf("no Send waited longer than %v while Node did not read for %v", w, pause)
			}
			if w := theirEnd["sent"].millis("longest_wait_ms"); tt.parleyPauses && w < pause/2 {
				t.Errorf("Node was never held up for longer than %v while our handler waited for %v", w, pause)
			}
		})
	}
}

// finish waits until a side has sent and received everything.
func finish(p *process) map[string]record {
	p.t.Helper()
	end := map[string]record{}
	for len(end) < 2 {
		r := p.eventWithin(2*patience, "sent", "received")
		end[r.text("event")] = r
	}
	return end
}

// latest returns the later of the two, whose peak covers the whole run.
func latest(end map[string]record) record {
	if end["sent"].num("ms") > end["received"].num("ms") {
		return end["sent"]
	}
	return end["received"]
}

// lastField returns a number from the last line of an event that a process has printed.
func lastField(t *testing.T, p *process, event, key string) float64 {
	t.Helper()
	lines := p.output()
	for i := len(lines) - 1; i >= 0; i-- {
		var r record
		if err := json.Unmarshal([]byte(lines[i]), &r); err != nil {
			t.Fatalf("%s: not JSON: %q", p.name, lines[i])
		}
		if r.text("event") == event {
			return r.num(key)
		}
	}
	t.Fatalf("%s: no %q so far", p.name, event)
	return 0
}

var infoHashRE = regexp.MustCompile(`urn:btih:([0-9a-f]{40})`)

// TestListenCommand: `parley listen --echo` answers a foreign peer, and shows what it said as JSON that no terminal takes for
// anything but text.
func TestListenCommand(t *testing.T) {
	us := start(t, "parley listen", parleyBin, "listen", smallFile(t), "--type", messageType, "--echo", "--listen", "127.0.0.1:0")
	magnet, addr := announced(us)
	ih := infoHashRE.FindStringSubmatch(magnet)
	if ih == nil {
		t.Fatalf("no info-hash in %q", magnet)
	}
	said := []string{"hello", "", "ünïcode 日本語 🎈", "\x1b[31mred\x1b[0m \u009b1m", "line\nbreak \u2028 \u202eright to left", "\x01\x7f"}
	var args []string
	for _, s := range said {
		args = append(args, "--say="+s)
	}
	them := node(t, append([]string{"--infohash", ih[1], "--dial", portOf(t, addr)}, args...)...)
	for i, want := range said {
		if got := them.event("message").text("text"); got != want {
			t.Errorf("echo %d: %q, want %q", i, got, want)
		}
	}
	interrupt(t, us)

	var heard []string
	for _, l := range us.output() {
		for _, r := range l {
			if r < ' ' || unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
				t.Errorf("%U reached standard output: %q", r, l)
			}
		}
		var m struct {
			Event, Type string
			Payload     *string
		}
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			t.Errorf("not JSON: %q", l)
		}
		if m.Event == "message" {
			if m.Type != messageType || m.Payload == nil {
				t.Errorf("not what was said: %s", l)
				continue
			}
			heard = append(heard, *m.Payload)
		}
	}
	if fmt.Sprintf("%q", heard) != fmt.Sprintf("%q", said) {
		t.Errorf("heard %q, want %q", heard, said)
	}
}

// TestSendCommand: `parley send` reaches a foreign peer and shows its answer, and says so when nobody takes the message.
func TestSendCommand(t *testing.T) {
	path := smallFile(t)
	ih := infoHashOf(t, path)
	them := node(t, "--infohash", ih, "--listen", "0", "--echo")
	peer := fmt.Sprintf("127.0.0.1:%.0f", them.event("listening").num("port"))

	us := start(t, "parley send", parleyBin, "send", "magnet:?xt=urn:btih:"+ih, "--type", messageType, "good evening", "--peer", peer,
		"--wait", "2s", "--json", "--listen", "127.0.0.1:0")
	us.succeed(patience)
	if got := them.event("message").text("text"); got != "good evening" {
		t.Errorf("Node heard %q", got)
	}
	answered := false
	for _, l := range us.output() {
		var m struct{ Payload string }
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			t.Errorf("not JSON: %q", l)
		}
		answered = answered || m.Payload == "good evening"
	}
	if !answered {
		t.Errorf("the answer was not shown: %q", us.output())
	}

	nobody := start(t, "parley send", parleyBin, "send", "magnet:?xt=urn:btih:"+ih, "--type", "another_type", "anyone?", "--peer", peer,
		"--timeout", "3s", "--listen", "127.0.0.1:0")
	if code := nobody.exit(patience); code != 7 {
		t.Errorf("exit status %d when no peer takes the message, want 7 (see `parley help exit-codes`)", code)
	}
}
