package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/metainfo"
)

// content makes a folder as people have them and returns its path.
func content(t *testing.T, dir string) string {
	t.Helper()
	write(t, dir, "holiday/big.bin", strings.Repeat("all work and no play ", 40_000))
	write(t, dir, "holiday/empty", "")
	write(t, dir, "holiday/one", "1")
	write(t, dir, "holiday/Füße/日本語.txt", "unicode")
	return filepath.Join(dir, "holiday")
}

// sameTree compares two folders, which must hold the same files.
func sameTree(t *testing.T, got, want string) {
	t.Helper()
	files := map[string]string{}
	for _, root := range []string{got, want} {
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			if root == got {
				files[rel] = read(t, path)
				return nil
			}
			if b, ok := files[rel]; !ok || b != read(t, path) {
				t.Errorf("%s is missing or different", rel)
			}
			delete(files, rel)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for rel := range files {
		t.Errorf("%s should not be there", rel)
	}
}

const loopback = "127.0.0.1:0"

// seedOf starts a seed and returns it with its magnet link and address.
func seedOf(t *testing.T, path string, args ...string) (r *running, magnet, addr string) {
	t.Helper()
	r = start(t, append([]string{"seed", path, "--listen", loopback}, args...)...)
	magnet = r.out.wait(t, `(?m)^magnet:  (\S+)$`)[1]
	addr = r.out.wait(t, `(?m)^address: (\S+)$`)[1]
	return r, magnet, addr
}

// listenTo starts a listener and returns it with its magnet link and address.
func listenTo(t *testing.T, path string, args ...string) (r *running, magnet, addr string) {
	t.Helper()
	r = start(t, append([]string{"listen", path, "--listen", loopback}, args...)...)
	r.out.wait(t, `\n`)
	first := jsonLines(t, r.out.String())[0]
	if first["event"] != "listening" {
		t.Fatalf("the first line is %v", first)
	}
	return r, first["magnet"].(string), first["addrs"].([]any)[0].(string)
}

func TestSeedAndGet(t *testing.T) {
	src := content(t, t.TempDir())
	seed, magnet, addr := seedOf(t, src)
	seed.out.wait(t, `parley get '?magnet:.* --peer 127\.0\.0\.1:\d+`)

	dst := filepath.Join(t.TempDir(), "new", "folder")
	r := cli(t, "get", magnet, "--peer", addr, "-o", dst)
	r.check(t, exitOK, "waiting for metadata from "+addr, "complete: "+filepath.Join(dst, "holiday"))
	sameTree(t, filepath.Join(dst, "holiday"), src)

	cli(t, "get", magnet, "--peer", addr, "-o", dst).check(t, exitOK, "complete already")
	seed.err.wait(t, `peer 127\.0\.0\.1:\d+ .*connected`)
	seed.interrupt(t)
}

func TestGetJSON(t *testing.T) {
	dir := t.TempDir()
	src := content(t, dir)
	torrent := filepath.Join(dir, "x.torrent")
	r := cli(t, "create", src, "-o", torrent, "--json")
	r.check(t, exitOK)
	created := find(t, jsonLines(t, r.out), "created")
	if created["files"] != 4.0 || created["name"] != "holiday" {
		t.Errorf("created %v", created)
	}

	seed, magnet, addr := seedOf(t, torrent)
	if magnet != created["magnet"] {
		t.Errorf("seed's magnet is %s, create's %s", magnet, created["magnet"])
	}
	dst := t.TempDir()
	r = cli(t, "get", torrent, "--peer", addr, "-o", dst, "--json")
	r.check(t, exitOK)
	done := find(t, jsonLines(t, r.out), "done")
	if done["info_hash"] != created["info_hash"] || done["path"] != filepath.Join(dst, "holiday") || done["have_bytes"] != done["total_bytes"] {
		t.Errorf("done %v", done)
	}
	if r.err != "" {
		t.Errorf("standard error holds %q", r.err)
	}
	sameTree(t, filepath.Join(dst, "holiday"), src)
	seed.interrupt(t)
}

func TestGetAndSeedOn(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "talk.txt", strings.Repeat("talk ", 10_000))
	_, magnet, addr := seedOf(t, file)
	dst := t.TempDir()
	second := start(t, "get", magnet, "--peer", addr, "-o", dst, "--seed", "--listen", loopback)
	from := second.out.wait(t, `(?m)^address: (\S+)$`)[1]
	dst2 := t.TempDir()
	cli(t, "get", magnet, "--peer", from, "-o", dst2).check(t, exitOK)
	if read(t, filepath.Join(dst2, "talk.txt")) != read(t, file) {
		t.Error("different content")
	}
	second.interrupt(t)
}

func TestGetFails(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "talk.txt", "hello")
	torrent := filepath.Join(dir, "talk.torrent")
	cli(t, "create", file, "-o", torrent).check(t, exitOK)
	// An address at which nobody listens: taken, and given back.
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("nobody to ask", func(t *testing.T) {
		cli(t, "get", torrent, "-o", t.TempDir()).check(t, exitUsage, "no peer to ask", "--peer ADDR")
	})
	t.Run("all there, nobody needed", func(t *testing.T) {
		cli(t, "get", torrent, "-o", dir).check(t, exitOK, "complete already")
	})
	t.Run("timeout", func(t *testing.T) {
		r := cli(t, "get", torrent, "-o", t.TempDir(), "--peer", nobody, "--timeout", "1s")
		r.check(t, exitTimeout, "not complete after 1s: 0 of 1 pieces", nobody+" cannot be reached", "check --peer", "what was received is kept")
	})
	t.Run("timeout without metadata", func(t *testing.T) {
		r := cli(t, "get", someMagnet, "-o", t.TempDir(), "--peer", nobody, "--timeout", "500ms")
		r.check(t, exitTimeout, "no metadata", "waiting for metadata from "+nobody)
	})
	t.Run("interrupted", func(t *testing.T) {
		r := start(t, "get", someMagnet, "-o", t.TempDir(), "--peer", nobody)
		r.err.wait(t, "cannot be reached")
		r.interruptTo(t, exitInterrupted)
		r.err.wait(t, "parley: interrupted; nothing was received yet")
	})
	t.Run("interrupted on the way", func(t *testing.T) {
		long := write(t, t.TempDir(), "long.bin", strings.Repeat("0123456789abcdef", 2048)) // two pieces
		torrent := filepath.Join(t.TempDir(), "long.torrent")
		cli(t, "create", long, "-o", torrent).check(t, exitOK)
		dst := t.TempDir()
		write(t, dst, "long.bin.part", read(t, long)[:16384]+strings.Repeat("x", 16384))
		r := start(t, "get", torrent, "-o", dst, "--peer", nobody, "--json")
		r.out.wait(t, `"dial_failed"`) // nobody is dialled before what is there has been verified
		r.interruptTo(t, exitInterrupted)
		r.err.wait(t, "(?m)^parley: interrupted; 1 of 2 pieces; what was received stays in .* and is continued by the same command$")
		if e := find(t, jsonLines(t, r.out.String()), "error"); e["exit_code"] != 130.0 {
			t.Errorf("got %v", e)
		}
	})
	t.Run("somebody who says nothing", func(t *testing.T) {
		silent, err := net.Listen("tcp", loopback)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close() // the system accepts for it
		r := start(t, "get", torrent, "-o", t.TempDir(), "--peer", silent.Addr().String())
		r.err.wait(t, "no answer yet from "+silent.Addr().String())
		r.interruptTo(t, exitInterrupted)
	})
	t.Run("other content at the peer", func(t *testing.T) {
		seed, _, addr := seedOf(t, write(t, t.TempDir(), "other.txt", "other"))
		r := cli(t, "get", torrent, "-o", t.TempDir(), "--peer", addr, "--timeout", "1s")
		r.check(t, exitTimeout, "peer "+addr+" answers, but ends the connection at once to a plaintext hello: it may not serve this torrent", "check --peer")
		seed.interrupt(t)
	})
	t.Run("a file in the way", func(t *testing.T) {
		dst := t.TempDir()
		other := write(t, dst, "talk.txt", "somebody else's file")
		cli(t, "get", torrent, "-o", dst, "--peer", nobody).check(t, exitStorage, "parley: "+other+" has 20 bytes", "move it away, or choose another folder")
		if read(t, other) != "somebody else's file" {
			t.Error("it was modified")
		}
	})
	t.Run("folder below a file", func(t *testing.T) {
		cli(t, "get", torrent, "-o", filepath.Join(file, "sub"), "--peer", nobody).check(t, exitStorage, "talk.txt")
	})
}

func TestBadTorrents(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "talk.txt", strings.Repeat("hello ", 5000))
	good := filepath.Join(dir, "good.torrent")
	cli(t, "create", file, "-o", good).check(t, exitOK)
	whole := read(t, good)
	for _, tt := range []struct{ name, content string }{
		{"empty", ""},
		{"text", "this is no torrent"},
		{"cut short", whole[:len(whole)-10]},
		{"half", whole[:len(whole)/2]},
		{"pieces missing", strings.Replace(whole, "6:pieces40:", "6:piecez40:", 1)},
		{"v2 without layers", "d4:infod9:file treed1:ad0:d6:lengthi20000e11:pieces root32:" + strings.Repeat("r", 32) + "eee12:meta versioni2e4:name1:a12:piece lengthi16384eee"},
		{"v3", "d4:infod9:file treed1:ad0:d6:lengthi0eeee12:meta versioni3e4:name1:a12:piece lengthi16384eee"},
		{"deep", strings.Repeat("l", 1<<20)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := write(t, t.TempDir(), "bad.torrent", tt.content)
			for _, args := range [][]string{{"show", bad}, {"get", bad, "--peer", "127.0.0.1:1"}, {"seed", bad}, {"listen", bad, "--type", "a"}, {"send", bad, "--peer", "127.0.0.1:1", "--type", "a", "x"}} {
				cli(t, args...).check(t, exitTorrent, "bad.torrent")
			}
		})
	}
	t.Run("content missing", func(t *testing.T) {
		alone := write(t, t.TempDir(), "good.torrent", whole)
		cli(t, "seed", alone, "--listen", loopback).check(t, exitInput, "talk.txt", "--data PATH")
	})
	t.Run("content different", func(t *testing.T) {
		other := t.TempDir()
		write(t, other, "talk.txt", strings.Repeat("hullo ", 5000))
		alone := write(t, other, "good.torrent", whole)
		cli(t, "seed", alone, "--listen", loopback).check(t, exitTorrent, "talk.txt")
	})
	t.Run("content shorter", func(t *testing.T) {
		other := t.TempDir()
		write(t, other, "talk.txt", "hello")
		alone := write(t, other, "good.torrent", whole)
		cli(t, "seed", alone, "--listen", loopback).check(t, exitTorrent, "talk.txt")
	})
	t.Run("content elsewhere", func(t *testing.T) {
		alone := write(t, t.TempDir(), "good.torrent", whole)
		for _, data := range []string{dir, file} {
			r, _, _ := seedOf(t, alone, "--data", data)
			r.interrupt(t)
		}
	})
}

func TestShowTorrent(t *testing.T) {
	dir := t.TempDir()
	torrent := filepath.Join(dir, "x.torrent")
	cli(t, "create", content(t, dir), "-o", torrent, "--tracker", "http://a.example/", "--private", "--comment", "a\x1b[1mb", "--piece-length", "32K").check(t, exitOK)
	r := cli(t, "show", torrent)
	r.check(t, exitOK, "name:       holiday", "of 32.0 KiB", "tracker:    http://a.example/", "private:    yes", `comment:    a\x1b[1mb`, "magnet:     magnet:?xt=",
		"  holiday/\n    Füße/\n      日本語.txt  7 B\n", "    empty  0 B\n", "    one  1 B\n")
	v := find(t, jsonLines(t, cli(t, "show", torrent, "--json").out), "torrent")
	if v["private"] != true || v["comment"] != "a\x1b[1mb" || len(v["files"].([]any)) != 4 || v["piece_bytes"] != 32768.0 {
		t.Errorf("got %v", v)
	}
}

func TestShowHostileTorrent(t *testing.T) {
	deep := make([]string, 200)
	for i := range deep {
		deep[i] = fmt.Sprintf("d%d", i)
	}
	const hash = "01234567890123456789"
	// Built by hand: a builder refuses such names.
	path := "l" + "3:\x1b[m" + "4:a/\xe2\x80" + "e"
	info := "d5:filesl" + "d6:lengthi1e4:path" + path + "e" + "e4:name7:\x1b]0;x\x07\x9b12:piece lengthi16384e6:pieces20:" + hash + "e"
	torrent := write(t, t.TempDir(), "x.torrent", "d8:announce4:\x1b[2J7:comment3:\xe2\x80\xae4:info"+info+"e")
	for _, args := range [][]string{{"show", torrent}, {"show", torrent, "--json"}} {
		r := cli(t, args...)
		r.check(t, exitOK)
		if strings.ContainsAny(r.out+r.err, "\x1b\x07\u202e\u009b") || strings.Contains(r.out, "\x9b") {
			t.Errorf("raw escapes in %q", r.out)
		}
	}
	b := metainfo.Builder{Name: "deep", Files: []metainfo.File{{Path: deep, Length: 1}}, PieceLength: 16384, PieceHashes: []byte(hash)}
	mi, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	r := cli(t, "show", write(t, t.TempDir(), "deep.torrent", string(mi.Append(nil))))
	r.check(t, exitOK, "d198/d199  1 B")
	if len(r.out) > 8<<10 {
		t.Errorf("%d bytes for one file", len(r.out))
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	src := content(t, dir)
	if err := os.Symlink("one", filepath.Join(src, "lin\nk")); err != nil {
		t.Logf("no symbolic links here: %v", err)
	} else {
		cli(t, "create", src, "-o", filepath.Join(dir, "link.torrent")).check(t, exitOK, "left out, not a regular file: ", `lin\nk`)
	}
	t.Chdir(dir)
	r := cli(t, "create", src)
	r.check(t, exitOK, "created:   holiday.torrent", "content:   4 files, ", "magnet:    magnet:?xt=urn:btih:")
	first := read(t, "holiday.torrent")
	cli(t, "create", src).check(t, exitStorage, "holiday.torrent: exists already")
	cli(t, "create", src, "--force").check(t, exitOK)
	if read(t, "holiday.torrent") != first {
		t.Error("the same content made another file")
	}
	cli(t, "create", src, "--force", "--name", "other").check(t, exitOK)
	if mi, err := metainfo.Parse([]byte(read(t, "holiday.torrent"))); err != nil || mi.Info.Name != "other" {
		t.Errorf("--name: %v", err)
	}
	t.Run("nothing inside", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "x.torrent")
		cli(t, "create", t.TempDir(), "-o", out).check(t, exitInput)
		if got := names(t, filepath.Dir(out)); len(got) != 0 {
			t.Errorf("left %v", got)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		out := filepath.Join(t.TempDir(), "x.torrent")
		var b bytes.Buffer
		if code := run(ctx, []string{"create", src, "-o", out}, stdio{in: &b, out: &b, err: &b}); code != exitInterrupted {
			t.Errorf("exit code %d: %s", code, &b)
		}
		if got := names(t, filepath.Dir(out)); len(got) != 0 {
			t.Errorf("left %v", got)
		}
	})
}

func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	file := write(t, t.TempDir(), "talk.txt", "hello")
	for _, args := range [][]string{
		{"seed", file}, {"listen", file, "--type", "a"}, {"get", someMagnet}, {"send", someMagnet, "--type", "a", "hi"},
	} {
		t.Run(args[0], func(t *testing.T) {
			cli(t, append(args, "--listen", addr)...).check(t, exitListen, "--listen "+addr, "choose another address")
		})
	}
}

func TestListenAndSend(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", "hello")
	l, magnet, addr := listenTo(t, file, "--type", "chat_a", "--type", "chat_b")
	l.err.wait(t, `parley send '?magnet:.* --type chat_a`)
	t.Run("text", func(t *testing.T) {
		r := cli(t, "send", magnet, "--peer", addr, "--type", "chat_a", "Hi there, 日本")
		r.check(t, exitOK, "taken by "+addr)
		l.out.wait(t, `"event":"message".*"type":"chat_a","peer":"127\.0\.0\.1:\d+","version":0,"request":false,"bytes":16,"payload":"Hi there, 日本"`)
	})
	t.Run("hostile text", func(t *testing.T) {
		r := cli(t, "send", magnet, "--peer", addr, "--type", "chat_b", "\x1b[31mred\n\u202e\u009b")
		r.check(t, exitOK)
		l.out.wait(t, `"type":"chat_b".*"payload":"\\u001b\[31mred\\n\\u202e\\u009b"`)
		if strings.ContainsAny(r.out+r.err+l.out.String()+l.err.String(), "\x1b\u202e\u009b") {
			t.Error("raw escapes in the output")
		}
	})
	t.Run("json", func(t *testing.T) {
		r := cliIn(t, "\xff\x00", "send", magnet, "--peer", addr, "--type", "chat_a", "-", "--json")
		r.check(t, exitOK)
		if sent := find(t, jsonLines(t, r.out), "sent"); sent["bytes"] != 2.0 || sent["type"] != "chat_a" {
			t.Errorf("sent %v", sent)
		}
		l.out.wait(t, `"bytes":2,"payload_base64":"/wA="`)
	})
	t.Run("no answer", func(t *testing.T) {
		r := cli(t, "send", magnet, "--peer", addr, "--type", "chat_a", "--wait", "50ms", "hi")
		r.check(t, exitOK, "no answer within 50ms")
		r = cli(t, "send", magnet, "--peer", addr, "--type", "chat_a", "--wait", "50ms", "--answers", "1", "hi")
		r.check(t, exitTimeout, "the message was taken, but only 0 answers came within 50ms")
	})
	t.Run("by path, to one peer", func(t *testing.T) {
		cli(t, "send", file, "--to", addr, "--type", "chat_a", "hi").check(t, exitOK, "taken by "+addr)
	})
	t.Run("type not shared", func(t *testing.T) {
		r := cli(t, "send", magnet, "--peer", addr, "--type", "chat_c", "--timeout", "1s", "hi")
		r.check(t, exitTimeout, "receives chat_a, chat_b, not chat_c; waiting for one that does", `none that was meant receives type "chat_c"`,
			"parley listen SOURCE --type chat_c")
	})
	t.Run("nobody there", func(t *testing.T) {
		r := cli(t, "send", someMagnet, "--peer", addr, "--type", "chat_a", "--timeout", "1s", "hi")
		r.check(t, exitTimeout, "no peer is connected", "--peer")
	})
	t.Run("reserved type name", func(t *testing.T) {
		cli(t, "send", magnet, "--peer", addr, "--type", "ut_pex", "hi").check(t, exitUsage, `--type "ut_pex"`, "BitTorrent's own")
	})
	t.Run("not the one that was meant", func(t *testing.T) {
		other, _, otherAddr := listenTo(t, file, "--type", "chat_d")
		r := cli(t, "send", magnet, "--peer", addr, "--to", otherAddr, "--type", "chat_a", "--timeout", "1s", "hi")
		r.check(t, exitTimeout, "peer "+addr+" is not the one of --to", "peer "+otherAddr+" receives chat_d, not chat_a")
		other.interrupt(t)
	})
	t.Run("too large", func(t *testing.T) {
		r := cliIn(t, strings.Repeat("x", 100_000), "send", magnet, "--peer", addr, "--type", "chat_a", "-")
		r.check(t, exitTooLarge, "receives messages of chat_a of up to 65534 bytes; this one has 100000", "--max")
		cliIn(t, strings.Repeat("x", 65_534), "send", magnet, "--peer", addr, "--type", "chat_a", "-").check(t, exitOK, "65534 bytes")
	})
	l.interrupt(t)
	lines := jsonLines(t, l.out.String())
	find(t, lines, "peer_connected")
	find(t, lines, "peer_disconnected")
	if p := find(t, lines, "peer_types"); !strings.HasPrefix(fmt.Sprint(p["client"]), "Parley ") || p["dialect"] != "emp" || fmt.Sprint(p["types"]) != "[chat_a]" {
		t.Errorf("got %v", p)
	}
	messages := 0.0
	for _, l := range lines {
		if l["event"] == "message" {
			messages++
		}
	}
	stopped := find(t, lines, "stopped")
	if stopped["messages"] != messages || stopped["sessions"].(float64) < messages || stopped["uploaded"] != 0.0 || lines[len(lines)-1]["event"] != "stopped" {
		t.Errorf("got %v for %v messages", stopped, messages)
	}
	l.err.wait(t, fmt.Sprintf(`stopped after .*: 0 B sent in \d+ sessions with peers, %v messages received`, messages))
}

func TestSeedEnds(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", strings.Repeat("talk ", 10_000))
	t.Run("text", func(t *testing.T) {
		r, magnet, addr := seedOf(t, file)
		cli(t, "get", magnet, "--peer", addr, "-o", t.TempDir()).check(t, exitOK)
		r.err.wait(t, `peer .* left`)
		r.interrupt(t)
		r.err.wait(t, `(?m)^stopped after \d+\.\d s: 48\.8 KiB sent in 1 session with peers$`)
		if strings.Contains(r.err.String(), "parley:") {
			t.Error("an error")
		}
	})
	t.Run("json", func(t *testing.T) {
		r := start(t, "seed", file, "--listen", loopback, "--json")
		r.out.wait(t, `"listening"`)
		r.interrupt(t)
		lines := jsonLines(t, r.out.String())
		if s := lines[len(lines)-1]; s["event"] != "stopped" || s["sessions"] != 0.0 || s["info_hash"] != lines[0]["info_hash"] {
			t.Errorf("the last line is %v", s)
		}
		if r.err.String() != "" {
			t.Error("standard error is not empty")
		}
	})
}

func TestSeedOfChangedContent(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "talk.txt", strings.Repeat("talk ", 10_000))
	r, magnet, addr := seedOf(t, file)
	if err := os.Truncate(file, 10); err != nil {
		t.Skipf("a file in use cannot be shortened here: %v", err)
	}
	g := start(t, "get", magnet, "--peer", addr, "-o", t.TempDir())
	defer g.interruptTo(t, exitInterrupted)
	select {
	case code := <-r.ended:
		result{code, r.out.String(), r.err.String()}.check(t, exitInput, "talk.txt: cannot be read any more: it has become shorter", "start again")
	case <-time.After(patience):
		t.Fatal("does not end")
	}
	if strings.Contains(r.err.String(), "-o") {
		t.Error("the hint is for downloads")
	}
}

func TestStoredUnderAnotherName(t *testing.T) {
	b := metainfo.Builder{Name: "folder", PieceLength: 16384, PieceHashes: make([]byte, 20), Files: []metainfo.File{
		{Path: []string{"fine.txt"}, Length: 1}, {Path: []string{"CON"}, Length: 1}, {Path: []string{"a\x1b[31mb"}, Length: 1}}}
	mi, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	torrent := write(t, t.TempDir(), "x.torrent", string(mi.Append(nil)))
	r := cli(t, "get", torrent, "-o", t.TempDir(), "--peer", "127.0.0.1:1", "--timeout", "500ms")
	r.check(t, exitTimeout, "2 files stored under another name, one that every system allows: folder/CON as "+filepath.Join("folder", "_CON"))

	plain := cli(t, "create", content(t, t.TempDir()), "-o", filepath.Join(t.TempDir(), "y.torrent"))
	plain.check(t, exitOK)
	torrent = strings.TrimPrefix(strings.SplitN(plain.out, "\n", 2)[0], "created:   ")
	if r := cli(t, "get", torrent, "-o", t.TempDir(), "--peer", "127.0.0.1:1", "--timeout", "500ms"); strings.Contains(r.err, "another name") {
		t.Errorf("nothing is renamed: %v", r)
	}
}

func TestSkippedFilesAreNamed(t *testing.T) {
	src := content(t, t.TempDir())
	for i := range 12 {
		if err := os.Symlink("one", filepath.Join(src, fmt.Sprintf("link\x1b%02d", i))); err != nil {
			t.Skipf("no such symbolic links here: %v", err)
		}
	}
	r, _, _ := seedOf(t, src)
	r.err.wait(t, `left out, not a regular file: .*link\\x1b00`)
	r.err.wait(t, `left out besides, for the same reason: 2 more`)
	r.interrupt(t)
	l, _, _ := listenTo(t, src, "--type", "a", "--json")
	if s := find(t, jsonLines(t, l.out.String()), "listening"); len(s["skipped"].([]any)) != 12 {
		t.Errorf("got %v", s)
	}
	l.interrupt(t)
}

func TestSendFromTheKeyboard(t *testing.T) {
	for _, tty := range []bool{true, false} {
		var errOut bytes.Buffer
		code := run(t.Context(), []string{"send", someMagnet, "--peer", "127.0.0.1:1", "--type", "a", "--timeout", "50ms", "-"},
			stdio{in: strings.NewReader("hi"), inTTY: tty, out: io.Discard, err: &errOut})
		if said := strings.Contains(errOut.String(), "type the message; "); code != exitTimeout || said != tty {
			t.Errorf("terminal %v: exit code %d: %s", tty, code, &errOut)
		}
	}
}

func TestSendWaitsForAPeer(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", "hello")
	// The address of the listener before it is there.
	hold, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	addr := hold.Addr().String()
	if err := hold.Close(); err != nil {
		t.Fatal(err)
	}
	s := start(t, "send", file, "--peer", addr, "--type", "chat", "hi")
	s.err.wait(t, "peer "+addr+" cannot be reached: .*; will be tried again")
	s.err.wait(t, "still waiting for a peer that receives chat: 0 peers connected")
	l := start(t, "listen", file, "--listen", addr, "--type", "chat")
	l.out.wait(t, `"event":"message".*"payload":"hi"`)
	s.out.wait(t, "taken by "+addr)
	if code := <-s.ended; code != exitOK {
		t.Errorf("send: exit code %d", code)
	}
	l.interrupt(t)
}

func TestListenToATorrent(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "talk.txt", strings.Repeat("talk ", 10_000))
	torrent := filepath.Join(dir, "talk.torrent")
	cli(t, "create", file, "-o", torrent).check(t, exitOK)
	l, magnet, addr := listenTo(t, torrent, "--type", "chat")
	dst := t.TempDir()
	cli(t, "get", magnet, "--peer", addr, "-o", dst).check(t, exitOK)
	if read(t, filepath.Join(dst, "talk.txt")) != read(t, file) {
		t.Error("different content")
	}

	t.Run("nothing is downloaded", func(t *testing.T) {
		alone := write(t, t.TempDir(), "talk.torrent", read(t, torrent))
		empty := t.TempDir()
		second, _, addr2 := listenTo(t, alone, "--type", "chat", "--peer", addr, "-o", empty)
		second.err.wait(t, "nothing is served: ")
		second.out.wait(t, `"event":"peer_connected"`)
		cli(t, "send", torrent, "--peer", addr2, "--type", "chat", "hi").check(t, exitOK)
		second.interrupt(t)
		if got := names(t, empty); len(got) != 0 {
			t.Errorf("downloaded %v", got)
		}
	})
	t.Run("with --get it is", func(t *testing.T) {
		dst := t.TempDir()
		second, _, _ := listenTo(t, magnet, "--type", "chat", "--peer", addr, "-o", dst, "--get")
		second.out.wait(t, `"event":"complete"`)
		second.interrupt(t)
		if read(t, filepath.Join(dst, "talk.txt")) != read(t, file) {
			t.Error("different content")
		}
	})
	l.interrupt(t)
}

func TestListenStopsWhenNobodyReads(t *testing.T) {
	file := write(t, t.TempDir(), "talk.txt", "hello")
	var errOut bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code := run(ctx, []string{"listen", file, "--type", "a", "--listen", loopback}, stdio{in: strings.NewReader(""), out: brokenPipe{}, err: &errOut})
	result{code, "", errOut.String()}.check(t, exitFailure, "standard output: no reader")
	if ctx.Err() != nil {
		t.Error("it did not end by itself")
	}
}

// A torrent that nobody has comes from a plain web server: here one that knows no ranges, as python3 -m http.server is.
func TestGetWebSeed(t *testing.T) {
	dir := t.TempDir()
	src := content(t, dir)
	files := http.FileServer(http.Dir(dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	torrent := filepath.Join(dir, "h.torrent")
	cli(t, "create", src, "-o", torrent).check(t, exitOK)
	out := t.TempDir()
	cli(t, "get", torrent, "-o", out, "--web-seed", srv.URL, "--timeout", "60s", "--allocate", "full").check(t, exitOK, "complete: ")
	sameTree(t, filepath.Join(out, "holiday"), src)
	cli(t, "get", torrent, "--allocate", "most").check(t, exitUsage, "neither sparse nor full")
	cli(t, "get", torrent, "-o", t.TempDir(), "--web-seed", "ftp://h/").check(t, exitUsage, "not an http or https URL")
	g := start(t, "get", torrent, "-o", t.TempDir(), "--web-seed", srv.URL+"/nothing")
	g.err.wait(t, "HTTP status 404")
	g.interruptTo(t, exitInterrupted)
}
