//go:build unix

package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestScanSkipsAndRefusesSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "d", "fifo")
	writeFile(t, filepath.Join(dir, "d", "file"), []byte("x"))
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := Scan(filepath.Join(dir, "d"))
	if err != nil || len(l.Files) != 1 || len(l.Skipped) != 1 || l.Skipped[0] != filepath.Join("d", "fifo") {
		t.Errorf("%+v, %v, want that the fifo is skipped", l, err)
	}
	if _, err := Scan(fifo); err == nil {
		t.Error("a fifo was accepted")
	}
}

func TestSpecialFileIsAConflict(t *testing.T) {
	tor := newTorrent(t, 16, []string{"a"}, []int64{16})
	for _, name := range []string{"a", "a.part"} {
		dir := t.TempDir()
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := OpenFiles(dir, tor.files, tor.geom, Options{})
		wantConflict(t, err)
	}
}

func TestPermissions(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may do everything")
	}
	tor := newTorrent(t, 16, []string{"n/a"}, []int64{16})
	dir := t.TempDir()
	s := tor.open(t, dir, Options{})
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o777) })
	if _, err := s.WriteAt(tor.data, 0); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("write into a read-only folder: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "n", "secret")
	writeFile(t, secret, []byte("x"))
	if err := os.Chmod(secret, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Scan(filepath.Join(dir, "n")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("scan of an unreadable file: %v", err)
	}
}
