package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

func TestClassify(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("torrent x: %w", err) }
	_, badTorrent := metainfo.Parse([]byte("d4:infod4:name1:xee"))
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"unknown", errors.New("x"), exitFailure},
		{"own", wrap(failf(exitTorrent, "hint", "x")), exitTorrent},
		{"interrupted", wrap(context.Canceled), exitInterrupted},
		{"time over", wrap(context.DeadlineExceeded), exitTimeout},
		{"listen", wrap(&net.OpError{Op: "listen", Err: errors.New("x")}), exitListen},
		{"dial", wrap(&net.OpError{Op: "dial", Err: errors.New("x")}), exitFailure},
		{"conflict", wrap(&storage.ConflictError{Path: "x", Reason: "y"}), exitStorage},
		{"permission", wrap(&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}), exitStorage},
		{"other file errors", wrap(&fs.PathError{Op: "mkdir", Path: "x", Err: syscall.ENOTDIR}), exitStorage},
		{"failed rename", wrap(&os.LinkError{Op: "rename", Old: "x", New: "y", Err: syscall.EINVAL}), exitStorage},
		{"v2", wrap(metainfo.ErrV2Only), exitTorrent},
		{"metainfo", wrap(badTorrent), exitTorrent},
		{"type name", wrap(parley.ErrBadTypeName), exitUsage},
		{"message size", wrap(parley.ErrMessageTooLarge), exitTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _ := classify(tt.err); got != tt.want {
				t.Errorf("classify(%v) = %d, want %d", tt.err, got, tt.want)
			}
		})
	}
}

func TestTexts(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{sizeText(0), "0 B"}, {sizeText(1023), "1023 B"}, {sizeText(1024), "1.0 KiB"}, {sizeText(1<<20 - 1), "1.0 MiB"},
		{sizeText(64 << 20), "64.0 MiB"}, {sizeText(1 << 62), "4.0 EiB"},
		{exactSize(5), "5 B"}, {exactSize(2048), "2.0 KiB (2048 bytes)"},
		{spanText(1540 * time.Millisecond), "1.5 s"}, {spanText(61 * time.Second), "1:01"}, {spanText(2*time.Hour + 3*time.Second), "2:00:03"},
		{fit("1 B/s, ETA 2.0 s, 1 peer, 4/12 pieces", 40), "1 B/s, ETA 2.0 s, 1 peer, 4/12 pieces"},
		{fit("1 B/s, ETA 2.0 s, 1 peer, 4/12 pieces", 34), "1 B/s, ETA 2.0 s, 1 peer, 4/12"},
		{fit("1 B/s, ETA 2.0 s, 1 peer, 4/12 pieces", 10), "1 B/s, 2.0 s, 1 peer, 4/12"},
		{plural(1, "peer"), "1 peer"}, {plural(0, "peer"), "0 peers"},
		{shellQuote("a&b'c", false), `'a&b'\''c'`}, {shellQuote(`a&"b`, true), `"a&\"b"`},
		{fmt.Sprint(percent(999, 1000), percent(1000, 1000), percent(0, 0)), "99 100 100"},
		{downloadText(parley.Stats{State: parley.StateDownloading, WantedBytes: 3 << 20, WantedHave: 1 << 20, DownRate: 1 << 20, Peers: 1, Pieces: 12, HavePieces: 4}),
			"1.0 MiB/s, ETA 2.0 s, 1 peer, 4/12 pieces"},
		{downloadText(parley.Stats{State: parley.StateDownloading, WantedBytes: 3, Pieces: 1}), "0 B/s, ETA -, 0 peers, 0/1 pieces"},
		{downloadText(parley.Stats{Peers: 2}), "waiting for metadata, 2 peers"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestLogsAreEscaped(t *testing.T) {
	var b bytes.Buffer
	u := &ui{stdio: stdio{err: &b}}
	u.logger(slog.LevelInfo).Info("peer \x1b[31m", "client", "\x1b]0;x\x07\u202e\u009b\nlevel=ERROR msg=forged", "err", errors.New("\x1b[2J"))
	u.logger(slog.LevelInfo).Debug("hidden")
	if got := b.String(); strings.ContainsAny(got, "\x1b\x07\u202e\u009b") || strings.Count(got, "\n") != 1 {
		t.Errorf("logged %q", got)
	}
}

func TestMeter(t *testing.T) {
	t.Run("bar", func(t *testing.T) {
		// On a terminal, standard output is the same terminal: lines go above the bar.
		out := newWatched()
		u := &ui{stdio: stdio{out: out, err: out, outTTY: true, errTTY: true}}
		m := u.meter("downloading", true)
		m.set(50, 100, "1.0 MiB/s, ETA 2.0 s, 1 peer, 4/12 pieces", nil)
		out.wait(t, `downloading  50% .*1\.0 MiB/s, ETA 2\.0 s`)
		u.say("a line")
		u.note("a note")
		m.end()
		m.set(60, 100, "late", nil)
		m.end()
		u.say("after")
		got := out.String()
		for _, want := range []string{"a line\n", "a note\n", "after\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
		if strings.Contains(got, "late") {
			t.Error("the bar goes on after its end")
		}
		if i := strings.LastIndex(got, "after\n"); strings.Contains(got[i:], "downloading") {
			t.Error("the bar is drawn after its end")
		}
	})
	t.Run("every line begins at the margin", func(t *testing.T) {
		// A terminal echoes ^C where the cursor is; mpb believes that to be the first column.
		out := newWatched()
		u := &ui{stdio: stdio{out: out, err: out, outTTY: true, errTTY: true}}
		m := u.meter("downloading", true)
		m.set(50, 100, "text", nil)
		out.wait(t, `\rdownloading  50% `)
		u.note("a note")
		out.wait(t, `\ra note\n`)
		m.end()
		if got := out.String(); strings.Count(got, "downloading") != strings.Count(got, "\rdownloading") || !strings.Contains(got, "\n\r\x1b[1A") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("no bar without room", func(t *testing.T) {
		bar := roomyBar{mpb.BarStyle().Build()}
		for width, want := range map[int]bool{0: false, 2: false, 9: false, 10: true, 80: true} {
			var b bytes.Buffer
			if err := bar.Fill(&b, decor.Statistics{AvailableWidth: width, Total: 10, Current: 5}); err != nil || b.Len() > 0 != want {
				t.Errorf("%d columns: %q, %v", width, &b, err)
			}
		}
	})
	t.Run("bar and redirected output", func(t *testing.T) {
		var out bytes.Buffer
		errOut := newWatched()
		u := &ui{stdio: stdio{out: &out, err: errOut, errTTY: true}}
		m := u.meter("x", true)
		u.say("result")
		m.end()
		if out.String() != "result\n" || strings.Contains(errOut.String(), "result") {
			t.Errorf("standard output %q, standard error %q", &out, errOut)
		}
	})
	t.Run("lines", func(t *testing.T) {
		var b bytes.Buffer
		u := &ui{stdio: stdio{out: &b, err: &b}}
		m := u.meter("downloading", true)
		m.set(10, 100, "early", nil)
		m.lineAt = time.Now()
		m.set(50, 100, "text", nil)
		m.lineAt = time.Now()
		m.set(50, 100, "text", nil) // nothing new
		m.set(60, 100, "more", nil)
		m.set(70, 100, "too soon", nil)
		m.end()
		m = u.meter("seeding", false)
		m.lineAt = time.Now()
		m.set(100, 100, "2 peers", nil)
		m.end()
		if got, want := b.String(), "downloading 50% text\ndownloading 60% more\nseeding 2 peers\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("json", func(t *testing.T) {
		var out, errOut bytes.Buffer
		u := &ui{stdio: stdio{out: &out, err: &errOut}, json: true, quiet: true}
		m := u.meter("hashing", true)
		m.jsonAt, m.lineAt = time.Now(), time.Now()
		m.set(1, 2, "text", func() any { return hashEvent{head: now("hashing"), DonePieces: 1, Pieces: 2} })
		m.end()
		if l := find(t, jsonLines(t, out.String()), "hashing"); l["done_pieces"] != 1.0 || errOut.Len() != 0 {
			t.Errorf("got %v, standard error %q", l, &errOut)
		}
	})
}

func TestReachableAt(t *testing.T) {
	one := netip.MustParseAddrPort("192.0.2.1:6881")
	if got := reachableAt(one); len(got) != 1 || got[0] != one {
		t.Errorf("got %v", got)
	}
	if got := reachableAt(netip.MustParseAddrPort("[::]:6881")); got[0].String() != "127.0.0.1:6881" {
		t.Errorf("got %v, want this machine's own address first", got)
	}
	if got := reachableAt(netip.AddrPort{}); got != nil {
		t.Errorf("got %v", got)
	}
}

func noHash() string { return "" }

func TestDialFailuresAreToldOnce(t *testing.T) {
	addr, other := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	silent := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	reset := fmt.Errorf("read: %w", &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	failed := func(a netip.AddrPort, err error) parley.Event {
		return parley.Event{Kind: parley.EventDialFailed, Addr: a, Err: err}
	}
	events := []parley.Event{failed(addr, refused), failed(addr, refused), failed(other, silent), failed(addr, refused), failed(other, silent), failed(addr, reset)}
	t.Run("lines", func(t *testing.T) {
		var b bytes.Buffer
		l := newSessionLog(&ui{stdio: stdio{err: &b}}, noHash)
		for _, ev := range events {
			l.handle(ev)
		}
		want := fmt.Sprintf("peer 127.0.0.1:1 cannot be reached: %v; will be tried again\n", syscall.ECONNREFUSED) +
			"peer 127.0.0.1:2 cannot be reached: no answer in time; will be tried again\n" +
			fmt.Sprintf("peer 127.0.0.1:1 answers, but ends the connection at once: it may not serve this torrent, or take another hello (see --hello) than those tried (%v); will be tried again\n", syscall.ECONNRESET)
		if got := b.String(); got != want {
			t.Errorf("got:\n%swant:\n%s", got, want)
		}
	})
	t.Run("each hello of a ladder", func(t *testing.T) {
		var b bytes.Buffer
		l := newSessionLog(&ui{stdio: stdio{err: &b}}, noHash)
		tell := func(what string, n int, err error) {
			t.Helper()
			before := strings.Count(b.String(), "\n")
			if l.handle(failed(addr, err)); strings.Count(b.String(), "\n")-before != n {
				t.Errorf("%s: %q, want %d lines more", what, b.String(), n)
			}
		}
		plain := &parley.HelloError{Hello: parley.HelloPlaintext, Next: parley.HelloMSE, Err: reset}
		mse := &parley.HelloError{Hello: parley.HelloMSE, Err: reset}
		tell("plaintext", 1, plain)
		tell("MSE", 1, mse)
		tell("plaintext again", 0, plain)
		tell("MSE again", 0, mse)
		tell("nobody there", 1, refused)
		tell("nobody there again", 0, refused)
		tell("plaintext after that", 1, plain)
		tell("MSE after that", 1, mse)
		tell("nobody there after that", 1, refused)
	})
	t.Run("json", func(t *testing.T) {
		var b bytes.Buffer
		l := newSessionLog(&ui{stdio: stdio{out: &b}, json: true}, noHash)
		for _, ev := range events {
			l.handle(ev)
		}
		lines := jsonLines(t, b.String())
		if len(lines) != 3 || lines[0]["addr"] != "127.0.0.1:1" || lines[1]["addr"] != "127.0.0.1:2" || lines[2]["event"] != "dial_failed" {
			t.Errorf("got %v", lines)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		l := newSessionLog(&ui{stdio: stdio{err: io.Discard}}, noHash)
		for i := range 3 * maxDialed {
			l.handle(failed(netip.AddrPortFrom(addr.Addr(), uint16(i+1)), refused))
		}
		if len(l.dialed) > maxDialed {
			t.Errorf("%d addresses are remembered", len(l.dialed))
		}
	})
}

func TestReason(t *testing.T) {
	reset := os.NewSyscallError("read", syscall.ECONNRESET)
	for _, err := range []error{reset, fmt.Errorf("read: %w", reset), fmt.Errorf("read: %w", &net.OpError{Op: "read", Net: "tcp", Err: reset})} {
		if got := reason(err); got != syscall.ECONNRESET.Error() {
			t.Errorf("%v is told as %q", err, got)
		}
	}
}

// What goes wrong with a web seed is told with its URL once, and without what may be secret.
func TestWebSeedNote(t *testing.T) {
	const url = "http://u:p@127.0.0.1:1/file"
	for _, tt := range []struct{ err, want string }{
		{"http://127.0.0.1:1/file: HTTP status 404", "web seed http://127.0.0.1:1/file: HTTP status 404\n"},
		{"http://127.0.0.1:1/file/part: HTTP status 404", "web seed http://127.0.0.1:1/file: http://127.0.0.1:1/file/part: HTTP status 404\n"},
	} {
		var b bytes.Buffer
		newSessionLog(&ui{stdio: stdio{err: &b}}, noHash).handle(parley.Event{Kind: parley.EventWebSeedFailed, WebSeed: url, Err: errors.New(tt.err)})
		if b.String() != tt.want {
			t.Errorf("got %q, want %q", b.String(), tt.want)
		}
	}
}

func TestErrorsForPeople(t *testing.T) {
	inTheWay := &storage.ConflictError{Path: "a/b", Reason: "is a folder"}
	for _, tt := range []struct {
		name       string
		err        error
		text, hint string
	}{
		{"a file in the way", fmt.Errorf("piece 8: %w", inTheWay), "a/b is a folder", "move it away, or choose another folder with -o"},
		{"two downloads", &storage.ConflictError{Path: "a.part", Reason: "has appeared"}, "a.part has appeared", "another program"},
		{"two downloads, one complete", &storage.ConflictError{Path: "a", Reason: "has appeared"}, "a has appeared", "another program"},
		{"disk", fmt.Errorf("piece 8: storage: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), "write x: " + syscall.ENOSPC.Error(), "make room"},
		{"a part is gone", fmt.Errorf("piece 8: %w", &fs.PathError{Op: "finish", Path: filepath.Join("d", "x.part"), Err: syscall.ENOENT}), "finish d", "another program"},
		{"a file to finish is gone", &fs.PathError{Op: "finish", Path: "x", Err: fs.ErrNotExist}, "finish x", "another program"},
		{"resume data", fmt.Errorf("x: %w", &fs.PathError{Op: "remove", Path: filepath.Join("d", ".00.parley-resume.new"), Err: syscall.EROFS}), "cannot write in d: " + syscall.EROFS.Error(), "may write to"},
		{"package names", errors.New("storage: nothing"), "nothing", ""},
		{"own texts stay", failf(exitUsage, "do", "storage: is a word, %w", inTheWay), "is a word", "do"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := describe(tt.err)
			_, hint := classify(tt.err)
			if !strings.HasPrefix(text, tt.text) || !strings.Contains(hint, tt.hint) {
				t.Errorf("got %q and %q", text, hint)
			}
		})
	}
}

func TestLinkPeers(t *testing.T) {
	for peer, want := range map[string]bool{
		"192.0.2.1:6881": true, "[2001:db8::1]:6881": true, "seed.example.org:6881": false,
		"127.0.0.1:6881": false, "10.0.0.1:1": false, "192.168.0.1:1": false, "[::1]:1": false, "[fe80::1]:1": false, "[fd00::1]:1": false,
		"[::ffff:10.0.0.1]:1": false, "localhost:6881": false, "0.0.0.0:1": false, "nonsense": false, "100.64.0.1:1": false, "255.255.255.255:1": false, ":1": false, "192.0.2.1:0": false,
	} {
		if got := len(parley.LinkPeers(metainfo.Magnet{Peers: []string{peer}})) == 1; got != want {
			t.Errorf("LinkPeers(%q) dials: %v, want %v", peer, got, want)
		}
	}
}

func TestParseSource(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write(t, dir, someHash, "a file called like an info-hash")
	write(t, dir, "plain", "x")
	for _, tt := range []struct {
		arg  string
		want sourceKind
	}{
		{someHash, sourceHash},
		{strings.ToUpper(someHash), sourceHash},
		{"AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH", sourceHash},
		{someHash + strings.Repeat("0", 24), sourceHash},
		{"./" + someHash, sourceContent},
		{"plain", sourceContent},
		{".", sourceContent},
		{"MAGNET:?xt=urn:btih:" + someHash, sourceMagnet},
	} {
		s, err := parseSource(tt.arg, false)
		if err != nil || s.kind != tt.want {
			t.Errorf("parseSource(%q) = kind %d, %v, want %d", tt.arg, s.kind, err, tt.want)
			continue
		}
		if s.kind != sourceContent && s.hash.String() != someHash {
			t.Errorf("parseSource(%q): info-hash %v", tt.arg, s.hash)
		}
	}
}

func TestInside(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := os.MkdirAll(filepath.Join(sub, "deep"), 0o777); err != nil {
		t.Fatal(err)
	}
	file := write(t, dir, "file", "x")
	for _, tt := range []struct {
		file, dir string
		want      bool
	}{
		{filepath.Join(sub, "x.torrent"), sub, true},
		{filepath.Join(sub, "deep", "x.torrent"), sub, true},
		{filepath.Join(sub, "..", "x.torrent"), sub, false},
		{filepath.Join(dir, "sub.torrent"), sub, false},
		{filepath.Join(dir, "x.torrent"), file, false},
	} {
		if got := inside(tt.file, tt.dir); got != tt.want {
			t.Errorf("inside(%q, %q) = %v", tt.file, tt.dir, got)
		}
	}
}

func TestNewFile(t *testing.T) {
	t.Run("complete or not at all", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "out")
		f, err := createFile(path, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Error("the name is there before the content")
		}
		if err := f.commit([]byte("content")); err != nil {
			t.Fatal(err)
		}
		if err := f.discard(); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); len(got) != 1 || read(t, path) != "content" {
			t.Errorf("left %v", got)
		}
	})
	t.Run("error names the file, not its temporary name", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "no", "out")
		_, err := createFile(path, false)
		if err == nil || !strings.HasPrefix(err.Error(), path+": ") || strings.Contains(err.Error(), ".tmp") || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("discarded", func(t *testing.T) {
		dir := t.TempDir()
		f, err := createFile(filepath.Join(dir, "out"), false)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.discard(), f.discard()); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); len(got) != 0 {
			t.Errorf("left %v", got)
		}
	})
	t.Run("name taken meanwhile", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "out")
		f, err := createFile(path, false)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, "out", "somebody else's")
		if code, _ := classify(f.commit([]byte("content"))); code != exitStorage {
			t.Errorf("exit code %d", code)
		}
		if err := f.discard(); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); len(got) != 1 || read(t, path) != "somebody else's" {
			t.Errorf("left %v", got)
		}
	})
	t.Run("replaced with force", func(t *testing.T) {
		dir := t.TempDir()
		path := write(t, dir, "out", "old")
		f, err := createFile(path, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.commit([]byte("new")), f.discard()); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); len(got) != 1 || read(t, path) != "new" {
			t.Errorf("left %v", got)
		}
	})
}
