package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

const spareName = ".ab000000000000000000000000000000000000cd.parley-parts"

// spareTorrent: pieces of 100; a 0-2, s 2, empty, b 2-9, c 10-12 (aligned), d 13 to the end.
func spareTorrent(t *testing.T) *torrent {
	return newTorrent(t, 100, []string{"n/a", "n/s", "n/empty", "n/b", "n/c", "n/d"}, []int64{230, 30, 0, 740, 300, 150})
}

func wantOnly(files ...int) Options {
	o := remember
	o.Wanted = make([]bool, 6)
	for _, i := range files {
		o.Wanted[i] = true
	}
	return o
}

// Unwanted files do not come into being, their neighbours are whole, and what belongs to them moves when they become wanted.
func TestWanted(t *testing.T) {
	tor, dir := spareTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, wantOnly(0, 4))
	tor.write(t, s, 0, 1, 2, 10, 11, 12)
	wantTree(t, dir, spareName+" "+resumeName+" n/ n/a n/c")
	wantFile(t, filepath.Join(dir, "n", "a"), tor.content(t, "n/a"))
	wantFile(t, filepath.Join(dir, "n", "c"), tor.content(t, "n/c"))
	closeStorage(t, s)

	// It is remembered, and read from where it is.
	s, have, read := tor.resumeAll(t, dir, wantOnly(0, 4))
	wantPieces(t, "have", have, 0, 1, 2, 10, 11, 12)
	if read != 0 {
		t.Errorf("%d bytes were read", read)
	}
	got := make([]byte, 100)
	if _, err := s.ReadAt(got, 200); err != nil || string(got) != string(tor.piece(2)) {
		t.Errorf("piece 2 cannot be served: %v", err)
	}
	if _, err := s.ReadAt(got, 300); err == nil {
		t.Error("piece 3 can be read")
	}

	// The small one is complete as soon as it is wanted.
	if err := s.SetWanted(1, true); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(dir, "n", "s"), tor.content(t, "n/s"))
	wantTree(t, dir, spareName+" "+resumeName+" n/ n/a n/c n/s")
	// The large one goes on.
	if err := s.SetWanted(3, true); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, spareName+" "+resumeName+" n/ n/a n/b.part n/c n/s")
	closeStorage(t, s)
	s, have, read = tor.resumeAll(t, dir, wantOnly(0, 1, 3, 4))
	wantPieces(t, "have", have, 0, 1, 2, 10, 11, 12)
	if read != 0 {
		t.Errorf("%d bytes were read", read)
	}
	tor.write(t, s, 3, 4, 5, 6, 7, 8, 9)
	wantFile(t, filepath.Join(dir, "n", "b"), tor.content(t, "n/b"))

	for _, i := range []int{2, 5} {
		if err := s.SetWanted(i, true); err != nil {
			t.Fatal(err)
		}
	}
	tor.write(t, s, 13, 14)
	closeStorage(t, s)
	wantTree(t, dir, resumeName+" n/ n/a n/b n/c n/d n/empty n/s")
	wantFile(t, filepath.Join(dir, "n", "d"), tor.content(t, "n/d"))
}

// All pieces can be there with a file unwanted: it gets its name when it is wanted.
func TestWantedAtLast(t *testing.T) {
	tor, dir := spareTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, wantOnly(0, 3, 4, 5))
	tor.writeAll(t, s)
	wantTree(t, dir, spareName+" "+resumeName+" n/ n/a n/b n/c n/d")
	closeStorage(t, s)
	s, have, read := tor.resumeAll(t, dir, wantOnly(0, 3, 4, 5))
	if !have.Full() || read != 0 {
		t.Errorf("%d pieces after %d bytes", have.Count(), read)
	}
	for _, i := range []int{1, 2} {
		if err := s.SetWanted(i, true); err != nil {
			t.Fatal(err)
		}
	}
	wantTree(t, dir, resumeName+" n/ n/a n/b n/c n/d n/empty n/s")
	wantFile(t, filepath.Join(dir, "n", "s"), tor.content(t, "n/s"))
	closeStorage(t, s)
}

// What is wanted from the next start on moves then.
func TestWantedFromTheStart(t *testing.T) {
	tor, dir := spareTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, wantOnly(0))
	tor.write(t, s, 0, 1, 2)
	kill(t, s)
	s, have, _ := tor.resumeAll(t, dir, remember)
	wantPieces(t, "have", have, 0, 1, 2)
	wantFile(t, filepath.Join(dir, "n", "s"), tor.content(t, "n/s"))
	tor.write(t, s, 3, 4, 5, 6, 7, 8, 9)
	wantFile(t, filepath.Join(dir, "n", "b"), tor.content(t, "n/b"))
	closeStorage(t, s)
}

// A spare file that somebody has changed is read again.
func TestSpareChanged(t *testing.T) {
	tor, dir := spareTorrent(t), t.TempDir()
	s, _, _ := tor.resumeAll(t, dir, wantOnly(0, 4))
	tor.write(t, s, 0, 1, 2, 10, 11, 12)
	closeStorage(t, s)
	if err := os.Truncate(filepath.Join(dir, spareName), 10); err != nil {
		t.Fatal(err)
	}
	s, have, read := tor.resumeAll(t, dir, wantOnly(0, 4))
	wantPieces(t, "have", have, 0, 1, 10, 11, 12)
	if read > 100 {
		t.Errorf("%d bytes were read", read)
	}
	tor.write(t, s, 2)
	closeStorage(t, s)
}

func TestSetWantedErrors(t *testing.T) {
	tor := spareTorrent(t)
	s := tor.open(t, t.TempDir(), remember)
	for _, i := range []int{-1, 6} {
		if err := s.SetWanted(i, true); !errors.Is(err, ErrRange) {
			t.Errorf("file %d: %v, want ErrRange", i, err)
		}
	}
	if err := tor.open(t, t.TempDir(), Options{}).SetWanted(0, false); err == nil {
		t.Error("accepted without an info-hash")
	}
	for _, o := range []Options{{Wanted: make([]bool, 6)}, {InfoHash: testHash, Wanted: make([]bool, 5)}} {
		if s, err := OpenFiles(t.TempDir(), tor.files, tor.geom, o); err == nil {
			closeStorage(t, s)
			t.Errorf("%+v is accepted", o)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, spareName), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFiles(dir, tor.files, tor.geom, remember); !errors.Is(err, ErrConflict) {
		t.Errorf("a folder where the spare file should be: %v, want a conflict", err)
	}
}
