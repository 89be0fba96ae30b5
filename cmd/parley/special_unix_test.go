//go:build !windows

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skipf("no named pipes here: %v", err)
	}
	out := filepath.Join(dir, "x.torrent")
	// Opening a pipe that nobody writes to would wait for ever.
	for _, args := range [][]string{{"create", fifo, "-o", out}, {"seed", fifo}, {"show", fifo}, {"get", fifo, "--peer", "127.0.0.1:1"},
		{"listen", fifo, "--type", "a"}, {"create", os.DevNull, "-o", out}, {"seed", os.DevNull}} {
		cli(t, args...).check(t, exitInput, args[1]+": neither a file nor a folder", "name a regular file")
	}
}

func TestNamesThatAreNoUTF8(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad\xff")
	if err := os.WriteFile(bad, []byte("x"), 0o600); err != nil {
		t.Skipf("no such names here: %v", err)
	}
	out := filepath.Join(t.TempDir(), "x.torrent")
	for _, path := range []string{dir, bad} {
		cli(t, "create", path, "-o", out).check(t, exitInput, `a name cannot be part of a torrent: "bad\xff" is not UTF-8`)
		cli(t, "seed", path).check(t, exitInput, `"bad\xff" is not UTF-8`)
	}
	if _, err := os.Lstat(out); err == nil {
		t.Error("a torrent was written")
	}
}
