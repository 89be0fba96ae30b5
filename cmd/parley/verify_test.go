package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerify(t *testing.T) {
	// Pieces of 16 KiB: a 0-1, b 1-3, c 3-4.
	make3 := func(t *testing.T) (torrent, content string) {
		t.Helper()
		dir := t.TempDir()
		write(t, dir, "album/a.txt", strings.Repeat("a", 20_000))
		write(t, dir, "album/sub/b.txt", strings.Repeat("b", 40_000))
		write(t, dir, "album/z.txt", strings.Repeat("c", 20_000))
		torrent = filepath.Join(dir, "album.torrent")
		cli(t, "create", filepath.Join(dir, "album"), "--piece-length", "16K", "-o", torrent).check(t, exitOK)
		return torrent, filepath.Join(dir, "album")
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, content string)
		code   int
		want   []string
	}{
		{"whole", func(*testing.T, string) {}, exitOK, []string{"ok       ", "all 3 files ok, 78.1 KiB"}},
		{"damaged", func(t *testing.T, content string) { write(t, content, "sub/b.txt", strings.Repeat("b", 39_999)+"x") }, exitTorrent,
			[]string{"b.txt  1 of 3 pieces wrong", "z.txt  1 of 2 pieces wrong", "1 of 3 files ok: 0 partial, 0 missing, 2 damaged", "move the damaged files away"}},
		{"missing", func(t *testing.T, content string) { must(t, os.Remove(filepath.Join(content, "a.txt"))) }, exitTorrent,
			[]string{"missing  ", "2 of 3 files ok: 0 partial, 1 missing, 0 damaged", "but for 1 piece shared", "parley get fetches"}},
		{"of another size", func(t *testing.T, content string) { write(t, content, "a.txt", "short") }, exitTorrent,
			[]string{"damaged  ", "has 5 bytes, the torrent's file has 20000"}},
		{"partial", func(t *testing.T, content string) {
			name := filepath.Join(content, "sub", "b.txt")
			must(t, errors.Join(os.Rename(name, name+".part"), os.Truncate(name+".part", 35_000)))
		}, exitTorrent, []string{"partial  ", "b.txt.part  2 of 3 pieces there", "1 partial, 0 missing, 0 damaged"}},
		{"nothing there", func(t *testing.T, content string) { must(t, os.RemoveAll(content)) }, exitTorrent, []string{"0 of 3 files ok: 0 partial, 3 missing"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			torrent, content := make3(t)
			tt.change(t, content)
			r := cli(t, "verify", torrent)
			r.check(t, tt.code, tt.want...)
			if n := strings.Count(r.out, "\n"); n != 3 && !(n == 4 && tt.code == exitOK) {
				t.Errorf("%d lines of output for 3 files", n)
			}
			lines := jsonLines(t, cli(t, "verify", torrent, "--json").out)
			sum, files := find(t, lines, "checked"), 0
			for _, l := range lines {
				if l["event"] == "file" {
					files++
				}
			}
			if files != 3 || sum["files"] != 3.0 || (sum["ok"] == 3.0) != (tt.code == exitOK) {
				t.Errorf("%d files, %v", files, sum)
			}
		})
	}

	torrent, content := make3(t)
	elsewhere := filepath.Join(t.TempDir(), "renamed")
	must(t, os.Rename(content, elsewhere))
	holder := filepath.Join(t.TempDir(), "holder")
	must(t, errors.Join(os.Mkdir(holder, 0o777), os.CopyFS(filepath.Join(holder, "album"), os.DirFS(elsewhere))))
	single := write(t, t.TempDir(), "one.bin", strings.Repeat("1", 50_000))
	singleTorrent := filepath.Join(t.TempDir(), "one.torrent")
	cli(t, "create", single, "-o", singleTorrent).check(t, exitOK)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"gone", []string{torrent}, exitTorrent, "3 missing"},
		{"the folder itself", []string{torrent, "-d", elsewhere}, exitOK, "all 3 files ok"},
		{"the folder that holds it", []string{torrent, "--data", holder}, exitOK, "all 3 files ok"},
		{"no folder", []string{torrent, "-d", single}, exitInput, "is no folder"},
		{"nowhere", []string{torrent, "-d", holder + "x"}, exitInput, "check the path"},
		{"a file", []string{singleTorrent, "-d", single}, exitOK, "all 1 file ok"},
		{"the folder of a file", []string{singleTorrent, "-d", filepath.Dir(single)}, exitOK, "all 1 file ok"},
		{"no torrent", []string{single}, exitTorrent, "check that it is a .torrent"},
		{"a folder", []string{holder}, exitInput, "is a folder"},
		{"nothing", nil, exitUsage, "a .torrent file is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cli(t, append([]string{"verify"}, tt.args...)...).check(t, tt.code, tt.want)
		})
	}
}

// The name of a file cannot reach the terminal as it is.
func TestVerifyEscapes(t *testing.T) {
	dir := t.TempDir()
	name := "a\x1b[31m.txt"
	if err := os.WriteFile(filepath.Join(dir, name), []byte("hostile"), 0o666); err != nil {
		t.Skip("names like this are not possible here")
	}
	torrent := filepath.Join(t.TempDir(), "x.torrent")
	cli(t, "create", filepath.Join(dir, name), "-o", torrent).check(t, exitOK)
	if r := cli(t, "verify", torrent, "-d", filepath.Join(dir, name)); r.code != exitOK || strings.Contains(r.out, "\x1b") {
		t.Error(r)
	}
}
