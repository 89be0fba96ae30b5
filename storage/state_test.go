package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// stateFolder opens a folder for the resume data of several torrents.
func stateFolder(t *testing.T) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, dir
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// With a state folder nothing lies beside the files, complete torrents are remembered, and so are those that are only read.
func TestStateFolder(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	root, state := stateFolder(t)
	o := Options{InfoHash: testHash, State: root}
	s, _, _ := tor.resumeAll(t, dir, o)
	tor.writeAll(t, s)
	closeStorage(t, s)
	wantTree(t, dir, "n/ n/a n/b n/c n/empty")
	if got := names(t, state); len(got) != 1 {
		t.Fatalf("the state folder has %q, want one file", got)
	}

	for _, readOnly := range []bool{false, true, true} {
		o.ReadOnly = readOnly
		s, have, read := tor.resumeAll(t, dir, o)
		if !have.Full() || read != 0 {
			t.Errorf("read-only %v: %d pieces after reading %d bytes, want 20 after 0", readOnly, have.Count(), read)
		}
		closeStorage(t, s)
	}

	// The same torrent in another folder is another matter.
	other := t.TempDir()
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{2000, 0} {
		s, have, read := tor.resumeAll(t, other, o)
		if !have.Full() || int64(read) != want {
			t.Errorf("start %d elsewhere: %d pieces after reading %d bytes, want 20 after %d", i, have.Count(), read, want)
		}
		closeStorage(t, s)
	}
	if got := names(t, state); len(got) != 2 {
		t.Errorf("the state folder has %q, want two files", got)
	}
}

// A file that changes while nobody looks is hashed again, also where it is only read.
func TestStateNoticesChanges(t *testing.T) {
	tor, dir := resumeTorrent(t), t.TempDir()
	root, _ := stateFolder(t)
	s, _, _ := tor.resumeAll(t, dir, Options{InfoHash: testHash, State: root})
	tor.writeAll(t, s)
	closeStorage(t, s)

	path := filepath.Join(dir, "n", "b")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil { // whatever the clock of the file system
		t.Fatal(err)
	}
	for _, reads := range []bool{true, false} { // what was found wrong is remembered too
		s, have, read := tor.resumeAll(t, dir, Options{InfoHash: testHash, State: root, ReadOnly: true})
		if have.Count() != 19 || (read > 0) != reads {
			t.Errorf("%d of 20 pieces after reading %d bytes, want 19, and to read is %v", have.Count(), read, reads)
		}
		closeStorage(t, s)
	}
}
