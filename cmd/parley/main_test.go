package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// TestMain lets tests run the program itself: as this binary with an environment variable.
func TestMain(m *testing.M) {
	if os.Getenv("PARLEY_TEST_MAIN") == "1" {
		main()
	}
	os.Exit(m.Run())
}

// patience bounds every wait of these tests; nothing that works comes near it.
const patience = 30 * time.Second

// A result is what one command line came to.
type result struct {
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, brief(r.out), brief(r.err))
}

// brief shortens the lines of an output that is logged: messages can be long.
func brief(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if len(line) > 600 {
			line = line[:600] + "…\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// cli runs one command line to its end.
func cli(t *testing.T, args ...string) result {
	t.Helper()
	return cliIn(t, "", args...)
}

func cliIn(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errOut bytes.Buffer
	code := run(ctx, args, stdio{in: strings.NewReader(stdin), out: &out, err: &errOut})
	return result{code, out.String(), errOut.String()}
}

// A running is a command line that has not ended yet.
type running struct {
	out, err *watched
	stop     context.CancelFunc
	ended    chan int
}

// start runs a command line until stop, or the end of the test.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{out: newWatched(), err: newWatched(), stop: cancel, ended: make(chan int, 1)}
	go func() {
		code := run(ctx, args, stdio{in: strings.NewReader(""), out: r.out, err: r.err})
		r.out.close()
		r.err.close()
		r.ended <- code
	}()
	t.Cleanup(func() {
		cancel()
		<-r.err.closed
		if t.Failed() {
			t.Logf("parley %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), brief(r.out.String()), brief(r.err.String()))
		}
	})
	return r
}

// interrupt ends a command that serves as Ctrl-C does, which is how it is meant to end.
func (r *running) interrupt(t *testing.T) {
	t.Helper()
	r.interruptTo(t, exitOK)
}

// interruptTo ends a command as Ctrl-C does and checks its exit code.
func (r *running) interruptTo(t *testing.T, want int) {
	t.Helper()
	r.stop()
	select {
	case code := <-r.ended:
		if code != want {
			t.Errorf("exit code %d after an interruption, want %d", code, want)
		}
	case <-time.After(patience):
		t.Fatal("does not end")
	}
}

// A watched is a writer whose content can be waited for.
type watched struct {
	closed chan struct{}

	mu      sync.Mutex
	b       []byte
	changed chan struct{} // closed at the next change
}

func newWatched() *watched {
	return &watched{closed: make(chan struct{}), changed: make(chan struct{})}
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, b...)
	close(w.changed)
	w.changed = make(chan struct{})
	return len(b), nil
}

func (w *watched) close() { close(w.closed) }

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.b)
}

// wait waits until the content matches the pattern and returns the match and its groups.
func (w *watched) wait(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for {
		w.mu.Lock()
		m, changed := re.FindStringSubmatch(string(w.b)), w.changed
		w.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-changed:
		case <-w.closed:
			if m := re.FindStringSubmatch(w.String()); m != nil {
				return m
			}
			t.Fatalf("ended without %q in its output:\n%s", pattern, w)
		case <-timeout:
			t.Fatalf("no %q in the output:\n%s", pattern, w)
		}
	}
}

// jsonLines checks that out is JSON lines with an event and a time, and returns them.
func jsonLines(t *testing.T, out string) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(out) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("standard output holds %q: %v", line, err)
		}
		if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(v["time"])); err != nil || v["event"] == nil {
			t.Errorf("%s lacks an event or a time", line)
		}
		lines = append(lines, v)
	}
	return lines
}

// find returns the first line of the named event.
func find(t *testing.T, lines []map[string]any, event string) map[string]any {
	t.Helper()
	for _, l := range lines {
		if l["event"] == event {
			return l
		}
	}
	t.Fatalf("no event %q in %v", event, lines)
	return nil
}

// check compares a result with what is wanted: the code, and texts that standard output or error must hold.
func (r result) check(t *testing.T, code int, contains ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, s := range contains {
		if !strings.Contains(r.out+r.err, s) {
			t.Errorf("no %q in the output", s)
		}
	}
	if t.Failed() {
		t.Logf("%v", r)
	}
}

// write makes a file below dir and returns its path.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names returns the names in a folder, the program's own temporary ones included.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

const (
	someHash   = "0123456789abcdef0123456789abcdef01234567"
	someMagnet = "magnet:?xt=urn:btih:" + someHash
)

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "file.txt", "content")
	for _, tt := range []struct {
		name string
		args string // separated by spaces
		code int
		want []string
	}{
		{"nothing", "", exitOK, []string{"Available Commands", "--peer"}},
		{"help", "help", exitOK, []string{"Available Commands", "parley exit-codes"}},
		{"help of a command", "help get", exitOK, []string{"--output", "--timeout", "--json"}},
		{"exit codes", "help exit-codes", exitOK, []string{"130", "  5  cannot listen"}},
		{"events", "help events", exitOK, []string{"peer_connected", "payload_base64"}},
		{"version", "version", exitOK, []string{"parley ", "go1."}},
		{"unknown command", "frobnicate", exitUsage, []string{`unknown command "frobnicate"`, "parley help"}},
		{"misspelt command", "sed x", exitUsage, []string{"did you mean: parley seed"}},
		{"unknown flag", "show --jsn x", exitUsage, []string{"unknown flag: --jsn", "parley show --help"}},
		{"hostile flag", "show --\x1b[31m x", exitUsage, []string{`--\x1b[31m`}},
		{"hostile command", "\x1b]0;x\x07", exitUsage, []string{"unknown command"}},
		{"argument missing", "get", exitUsage, []string{"SOURCE is missing", "usage: parley get SOURCE"}},
		{"too many arguments", "show a b", exitUsage, []string{`from "b" on`, "quotes"}},
		{"empty source", "show ", exitUsage, []string{"empty", "SOURCE is"}},
		{"type missing", "listen " + file, exitUsage, []string{"listen: --type NAME is missing", "usage: parley listen"}},
		{"send: type missing", "send " + someMagnet + " hi", exitUsage, []string{"send: --type NAME is missing", "usage: parley send"}},
		{"help on nothing", "help frobnicate", exitUsage, []string{`unknown command "frobnicate"`, "parley help"}},
		{"help, misspelt", "help sed", exitUsage, []string{"did you mean: parley help seed"}},
		{"help on a word too many", "help get seed", exitUsage, []string{`unknown command "get seed"`}},
		{"misspelt flag", "get " + someMagnet + " --pear x", exitUsage, []string{"unknown flag: --pear", "did you mean --peer?"}},
		{"begun flag", "get " + someMagnet + " --seq", exitUsage, []string{"did you mean --sequential?"}},
		{"flag like none", "get " + someMagnet + " --frobnicate", exitUsage, []string{"unknown flag: --frobnicate", "parley get --help"}},
		{"value missing", "get " + someMagnet + " --up", exitUsage, []string{"--up: its value RATE is missing", "500k"}},
		{"bad number", "seed " + file + " --ratio much", exitUsage, []string{`--ratio "much": want a number`}},
		{"bad whole number", "seed " + file + " --active 1.5", exitUsage, []string{`--active "1.5": want a whole number`}},
		{"time without unit", "get " + someMagnet + " --timeout 5", exitUsage, []string{`--timeout "5": want a time with its unit`}},
		{"seed: negative ratio", "seed " + file + " --ratio -1", exitUsage, []string{"--ratio -1"}},
		{"get: negative ratio", "get " + someMagnet + " --seed-ratio -1", exitUsage, []string{"--seed-ratio -1"}},
		{"negative uploads", "seed " + file + " --uploads -1", exitUsage, []string{"--uploads -1"}},
		{"seed: the same twice", "seed " + file + " " + file + " --listen 127.0.0.1:0", exitUsage, []string{"the same torrent", "name each once"}},
		{"no such peer", "get " + someMagnet + " --peer nowhere.invalid:1", exitFailure, []string{`--peer "nowhere.invalid:1": `, "check the name"}},
		{"web seeds or not", "get " + someMagnet + " --web-seed http://x/ --no-web-seeds", exitUsage, []string{"--web-seed and --no-web-seeds"}},
		{"create: no tracker", "create " + file + " --tracker foo -o " + filepath.Join(dir, "t.torrent"), exitUsage, []string{`--tracker "foo"`}},
		{"create: no web seed", "create " + file + " --web-seed foo -o " + filepath.Join(dir, "t.torrent"), exitUsage, []string{`--web-seed "foo"`}},
		{"show: tracker for nothing", "show " + someMagnet + " --tracker http://127.0.0.1:1/", exitUsage, []string{"add --scrape"}},
		{"type twice", "listen " + file + " --type a --type a", exitUsage, []string{"given twice"}},
		{"listen: a type of BitTorrent's own", "listen " + file + " --type ut_pex", exitUsage, []string{`--type "ut_pex": want 1 to 64 bytes`, "example_chat"}},
		{"listen: bad among good types", "listen " + file + " --type a --type emp_mux", exitUsage, []string{`--type "emp_mux"`}},
		{"listen: hostile type", "listen " + file + " --type \x1b[31m", exitUsage, []string{`--type "\x1b[31m"`}},
		{"listen: no type", "listen " + file + " --type ", exitUsage, []string{`--type ""`}},
		{"listen: long type", "listen " + file + " --type " + strings.Repeat("x", 65), exitUsage, []string{"1 to 64 bytes"}},
		{"send: bad type", "send nowhere --type lt_x hi", exitUsage, []string{`--type "lt_x"`, "example_chat"}},
		{"type: versions the wrong way round", "listen " + file + " --type x:5-2", exitUsage, []string{`--type "x:5-2": version 5 is above version 2`, "--type x:2-5"}},
		{"type: no such version", "listen " + file + " --type x:256", exitUsage, []string{`--type "x:256": "256"`, "0 to 255", "--type x:256:0"}},
		{"type: half a range", "send " + someMagnet + " --type x:1- hi", exitUsage, []string{`--type "x:1-": "1-"`, "--type example_chat:1-3"}},
		{"type: no version", "send " + someMagnet + " --type x: hi", exitUsage, []string{`--type "x:": ""`}},
		{"type: bad name with a version", "listen " + file + " --type ut_pex:1", exitUsage, []string{`--type "ut_pex:1": want 1 to 64 bytes`}},
		{"type: only a version", "listen " + file + " --type :1", exitUsage, []string{`--type ":1": want 1 to 64 bytes`}},
		{"type twice, in two versions", "listen " + file + " --type a:1 --type a:2", exitUsage, []string{`--type "a": given twice`, "NAME:MIN-MAX"}},
		{"window too small", "listen " + file + " --type a --window 10", exitUsage, []string{`--window "10": too small`, "from 65600 to 2147483647"}},
		{"window too large", "listen " + file + " --type a --window 2GiB", exitUsage, []string{`--window "2GiB": too large`}},
		{"window is no number", "send " + someMagnet + " --type a --window much hi", exitUsage, []string{`--window "much": not a size`}},
		{"max of nothing", "listen " + file + " --type a --max 0", exitUsage, []string{`--max "0": too small`, "from 1 to 16777216"}},
		{"max too large", "listen " + file + " --type a --max 16777217", exitUsage, []string{`--max "16777217": too large`}},
		{"max above the window", "listen " + file + " --type a --max 1MiB --window 1MiB", exitUsage, []string{"--max 1MiB: the window of --window 1MiB has room for a message of 1048512 bytes", "--window to 1048640"}},
		{"send: max above the window", "send " + someMagnet + " --type a --max 1MiB --window 65600 hi", exitUsage, []string{"room for a message of 65536 bytes"}},
		{"negative requests", "listen " + file + " --type a --req -1", exitUsage, []string{"--req -1: want 0 to 1000000", "0 for none"}},
		{"no parallel requests", "listen " + file + " --type a --parallel 0", exitUsage, []string{"--parallel 0", "--req 0"}},
		{"reply-max without answers", "listen " + file + " --type a --reply-max 1k", exitUsage, []string{"--reply-max 1k: without --echo", "add --echo"}},
		{"reply-max of nothing", "listen " + file + " --type a --echo --reply-max 0", exitUsage, []string{`--reply-max "0": too small`}},
		{"echo and failure", "listen " + file + " --type a --echo --fail x", exitUsage, []string{"--echo and --fail contradict"}},
		{"all at once", "listen " + file + " --type a --echo --refuse --fail x", exitUsage, []string{"--echo and --fail and --refuse contradict"}},
		{"negative delay", "listen " + file + " --type a --delay -1s", exitUsage, []string{"must not be negative"}},
		{"negative withdrawal", "listen " + file + " --type a --withdraw-after -1s", exitUsage, []string{"must not be negative"}},
		{"handler without time", "listen " + file + " --type a --handler-timeout 0s", exitUsage, []string{"--handler-timeout 0s: must be more than 0"}},
		{"delay without unit", "listen " + file + " --type a --delay 5", exitUsage, []string{`--delay "5": want a time with its unit`}},
		{"listen: window without emp", "listen " + file + " --type a --no-emp --window 1MiB", exitUsage, []string{"--window has no effect with --no-emp"}},
		{"listen: requests without emp", "listen " + file + " --type a --no-emp --req 3", exitUsage, []string{"--req has no effect with --no-emp"}},
		{"listen: versions without emp", "listen " + file + " --type a:1-2 --no-emp", exitUsage, []string{`--type "a:1-2": with --no-emp there is no version but 0`}},
		{"send: request without emp", "send " + someMagnet + " --type a --no-emp --request hi", exitUsage, []string{"--request has no effect with --no-emp"}},
		{"send: version without emp", "send " + someMagnet + " --type a --no-emp --version 1 hi", exitUsage, []string{"--version 1 with --no-emp"}},
		{"send: no such version", "send " + someMagnet + " --type a --version 256 hi", exitUsage, []string{"--version 256: no such version"}},
		{"send: negative version", "send " + someMagnet + " --type a --version -1 hi", exitUsage, []string{"--version -1: no such version"}},
		{"send: version out of the range", "send " + someMagnet + " --type a:1-2 --version 3 hi", exitUsage, []string{`--version 3: --type "a:1-2" has versions 1 to 2`}},
		{"send: request and wait", "send " + someMagnet + " --type a --request --wait 1s hi", exitUsage, []string{"--request with --wait", "--timeout"}},
		{"send: reply-max of no request", "send " + someMagnet + " --type a --reply-max 1k hi", exitUsage, []string{"--reply-max 1k: without --request"}},
		{"send: message and file", "send " + someMagnet + " --type a --file " + file + " hi", exitUsage, []string{"both MESSAGE and --file"}},
		{"send: neither message nor file", "send " + someMagnet + " --type a", exitUsage, []string{"MESSAGE is missing"}},
		{"message like a flag", "send " + someMagnet + " --type a --peer 127.0.0.1:1 -hi", exitUsage, []string{`comes last, after "--"`}},
		{"message too large for BEP 10", "send " + someMagnet + " --type a --no-emp --peer 127.0.0.1:1 " + strings.Repeat("x", 65_535), exitUsage, []string{"65535 bytes, the limit is 65534"}},
		{"get into a file", "get " + someMagnet + " --peer 127.0.0.1:1 -o " + file, exitStorage, []string{"is no folder", "-o wants"}},
		{"create: bad name", "create " + file + " --name a/b -o " + filepath.Join(dir, "x.torrent"), exitUsage, []string{"choose another --name"}},
		{"bad log level", "version --log-level loud", exitUsage, []string{`"loud"`, "error, warn, info, debug"}},
		{"bad duration", "get " + someMagnet + " --timeout soon", exitUsage, []string{`"soon"`, "parley get --help"}},
		{"negative duration", "get " + someMagnet + " --timeout -1s", exitUsage, []string{"negative"}},
		{"answers without wait", "send " + someMagnet + " --type a --answers 1 hi", exitUsage, []string{"--wait TIME"}},
		{"peer without port", "get " + someMagnet + " --peer 127.0.0.1", exitUsage, []string{`--peer "127.0.0.1"`, "host:port"}},
		{"peer with a bad port", "get " + someMagnet + " --peer 127.0.0.1:0", exitUsage, []string{`--peer "127.0.0.1:0"`, "1 to 65535"}},
		{"peer without host", "get " + someMagnet + " --peer :6881", exitUsage, []string{`--peer ":6881"`}},
		{"one bad peer of several", "get " + someMagnet + " --peer 127.0.0.1:1,x", exitUsage, []string{`--peer "x"`}},
		{"to without port", "send " + someMagnet + " --type a --to nowhere hi", exitUsage, []string{`--to "nowhere"`, "--to wants host:port"}},
		{"bad listen", "seed " + file + " --listen 6881x", exitUsage, []string{`--listen "6881x"`, "host:port"}},
		{"listen port too large", "seed " + file + " --listen :65536", exitUsage, []string{`--listen ":65536"`}},
		{"link without peers", "get " + someMagnet, exitUsage, []string{"no peer to ask", "--peer ADDR", "--tracker URL"}},
		{"info-hash without peers", "get " + someHash, exitUsage, []string{"no peer to ask", "--peer ADDR"}},
		{"send without peers", "send " + someHash + " --type a hi", exitUsage, []string{"no peer to ask"}},
		{"link with private peers only", "get " + someMagnet + "&x.pe=192.168.1.2:6881", exitUsage, []string{"only public IP addresses", "--peer 192.168.1.2:6881"}},
		{"seed a magnet", "seed " + someMagnet, exitUsage, []string{"parley get"}},
		{"seed data of no torrent", "seed " + file + " --data " + dir, exitUsage, []string{"--data belongs to a .torrent"}},
		{"show an info-hash", "show " + someHash, exitUsage, []string{"parley get"}},
		{"get a folder", "get " + dir, exitUsage, []string{"parley seed"}},
		{"create: bad piece length", "create " + file + " --piece-length 100K", exitUsage, []string{`"100K"`, "power of two"}},
		{"create: tiny piece length", "create " + file + " --piece-length 8K", exitUsage, []string{"16K to 16M"}},
		{"create: overflowing piece length", "create " + file + " --piece-length 9999999999999M", exitUsage, []string{"16K to 16M"}},
		{"create: inside", "create " + dir + " -o " + filepath.Join(dir, "x.torrent"), exitUsage, []string{"inside the folder"}},
		{"no such path", "seed " + filepath.Join(dir, "nowhere"), exitInput, []string{"nowhere: ", "check the path"}},
		{"no such torrent", "show nowhere.torrent", exitInput, []string{"nowhere.torrent: ", "check the path"}},
		{"no such path to create from", "create nowhere", exitInput, []string{"nowhere: "}},
		{"show a folder", "show " + dir, exitInput, []string{"is a folder", "parley create"}},
		{"bad magnet", "show magnet:?dn=x", exitTorrent, []string{"magnet link: ", "quotes"}},
		{"v2 magnet of nothing", "show magnet:?xt=urn:btmh:1220" + strings.Repeat("00", 32), exitTorrent, []string{"v2"}},
		{"v2 magnet", "show magnet:?xt=urn:btmh:1220" + strings.Repeat("5a", 32), exitOK, []string{strings.Repeat("5a", 32)}},
		{"v2 hash of nothing", "get " + strings.Repeat("0", 64), exitUsage, []string{"zeros"}},
		{"create: two forms", "create " + file + " --v2 --hybrid", exitUsage, []string{"--v2 and --hybrid"}},
		{"create: existing output", "create " + file + " -o " + file, exitStorage, []string{"exists already", "--force"}},
		{"create: output is a folder", "create " + file + " -o " + dir, exitStorage, []string{"is a folder", "NAME.torrent"}},
		{"create: folder of output missing", "create " + file + " -o " + filepath.Join(dir, "no", "x.torrent"), exitStorage, []string{"create the folder first"}},
		{"completion", "completion bash", exitOK, []string{"parley"}},
		{"completed flags", "__complete version --log-level ", exitOK, []string{"debug"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var args []string
			if tt.args != "" {
				args = strings.Split(tt.args, " ")
			}
			r := cli(t, args...)
			r.check(t, tt.code, tt.want...)
			if strings.ContainsAny(r.out+r.err, "\x1b\x07") {
				t.Errorf("raw escapes in the output: %q", r.out+r.err)
			}
			if tt.code != exitOK && args[0] == "listen" { // whose output is JSON, errors included
				for _, l := range jsonLines(t, r.out) {
					if l["event"] != "error" {
						t.Errorf("%v was printed, though the usage is wrong", l)
					}
				}
			} else if tt.code != exitOK && r.out != "" {
				t.Errorf("an error left %q on standard output", r.out)
			}
		})
	}
}

func TestErrorsAreJSONToo(t *testing.T) {
	for _, args := range []string{"get x --timeout 5 --json", "get --json x --timeout 5", "frobnicate --json", "get --json"} {
		r := cli(t, strings.Fields(args)...)
		r.check(t, exitUsage)
		if l := find(t, jsonLines(t, r.out), "error"); l["exit_code"] != float64(exitUsage) {
			t.Errorf("%s: %v", args, l)
		}
	}
	// What stands behind -- is no flag.
	if r := cli(t, "get", "--timeout", "5", "--", "--json"); r.out != "" {
		t.Errorf("JSON that nobody asked for: %s", r.out)
	}
	r := cli(t, "show", "nowhere.torrent", "--json")
	r.check(t, exitInput, "parley: nowhere.torrent: ")
	lines := jsonLines(t, r.out)
	if e := find(t, lines, "error"); len(lines) != 1 || e["exit_code"] != 3.0 || !strings.HasPrefix(fmt.Sprint(e["error"]), "nowhere.torrent: ") || e["hint"] == nil {
		t.Errorf("got %v", lines)
	}
}

func TestExitCodesAreDocumented(t *testing.T) {
	text := exitCodeText()
	for _, code := range []int{exitOK, exitFailure, exitUsage, exitInput, exitTorrent, exitListen, exitStorage, exitTimeout, exitNoHandler, exitRefused, exitHandler, exitHandlerTime, exitTooLarge,
		exitBusy, exitVersion, exitInterrupted} {
		if !strings.Contains(text, fmt.Sprintf("%5d  ", code)) {
			t.Errorf("exit code %d is not in the table", code)
		}
	}
}

func TestShowMagnet(t *testing.T) {
	link := someMagnet + "&dn=%1b%5b31mred%e2%80%ae&tr=http%3A%2F%2Ftracker.example%2F&x.pe=192.0.2.1%3A6881&xl=2048"
	t.Run("text", func(t *testing.T) {
		r := cli(t, "show", link)
		r.check(t, exitOK, `name:       \x1b[31mred\u202e`, "info-hash:  "+someHash, "tracker:    http://tracker.example/", "peer:       192.0.2.1:6881",
			"size:       2.0 KiB (2048 bytes)", "magnet:     magnet:?xt=urn:btih:"+someHash)
	})
	t.Run("json", func(t *testing.T) {
		r := cli(t, "show", "--json", link)
		if strings.ContainsAny(r.out, "\x1b\u202e") {
			t.Errorf("raw escapes in %q", r.out)
		}
		m := find(t, jsonLines(t, r.out), "magnet")
		if m["name"] != "\x1b[31mred\u202e" || m["info_hash"] != someHash || m["total_bytes"] != 2048.0 {
			t.Errorf("got %v", m)
		}
	})
}

func TestVersionJSON(t *testing.T) {
	v := find(t, jsonLines(t, cli(t, "version", "--json").out), "version")
	if v["version"] != parley.Version || !strings.HasPrefix(fmt.Sprint(v["go"]), "go1.") || !strings.Contains(fmt.Sprint(v["platform"]), "/") {
		t.Errorf("got %v", v)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		t.Run(shell, func(t *testing.T) { cli(t, "completion", shell).check(t, exitOK, "parley", "__complete") })
	}
}

func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1750000000")
	dir := filepath.Join(t.TempDir(), "new")
	cli(t, "man", dir).check(t, exitOK)
	page := read(t, filepath.Join(dir, "parley.1"))
	for _, want := range []string{"EXIT CODES", "cannot listen on the address", "payload_base64", "Jun 2025"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in parley.1", want)
		}
	}
	for _, cmd := range []string{"create", "show", "seed", "get", "listen", "send", "version", "man"} {
		if !strings.Contains(read(t, filepath.Join(dir, "parley-"+cmd+".1")), "SYNOPSIS") {
			t.Errorf("parley-%s.1 has no synopsis", cmd)
		}
	}
	again := filepath.Join(t.TempDir(), "again")
	cli(t, "man", again).check(t, exitOK)
	if read(t, filepath.Join(again, "parley.1")) != page {
		t.Error("the same date gives other pages")
	}
	cli(t, "man", filepath.Join(dir, "parley.1")).check(t, exitStorage, "parley.1")
	t.Setenv("SOURCE_DATE_EPOCH", "x")
	cli(t, "man", dir).check(t, exitUsage, "SOURCE_DATE_EPOCH")
}

// brokenPipe fails every write.
type brokenPipe struct{}

var errBroken = errors.New("no reader")

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestStandardOutputFails(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"help"}, {"show", someMagnet}} {
		var errOut bytes.Buffer
		code := run(t.Context(), args, stdio{in: strings.NewReader(""), out: brokenPipe{}, err: &errOut})
		result{code, "", errOut.String()}.check(t, exitFailure, "standard output: no reader")
	}
}

func TestStandardErrorGone(t *testing.T) {
	code := run(t.Context(), []string{"show", "nowhere.torrent"}, stdio{in: strings.NewReader(""), out: io.Discard, err: brokenPipe{}})
	if code != exitInput {
		t.Errorf("exit code %d, want %d", code, exitInput)
	}
}
