package parley_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
)

// What is wanted of a torrent is chosen when it is added and changed later, and files are read while they come, over real sockets and disks.
func TestFiles(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	src := filepath.Join(t.TempDir(), "tree")
	write := func(name string, n int) []byte {
		t.Helper()
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*7+n) ^ byte(i>>8)
		}
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return b
	}
	big, small := write("a/big", 3<<20+5), write("b", 100)
	write("c/empty", 0)

	newClient := func() *parley.Client {
		c, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	seed := newClient()
	shared, err := seed.Share(ctx, src, parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.WaitMetadata(ctx); err != nil {
		t.Fatal(err)
	}
	for _, f := range shared.Files() {
		if f.Done != f.Length || f.Priority != parley.PriorityNormal {
			t.Errorf("of what is shared: %+v", f)
		}
	}

	leech := newClient()
	dir := t.TempDir()
	tor, err := leech.AddMagnet(shared.Magnet(), parley.TorrentOptions{Dir: dir, Want: func(f parley.File) parley.Priority {
		if len(f.Path) == 1 {
			return parley.PriorityHigh
		}
		return parley.PrioritySkip
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tor.NewReader(0); !errors.Is(err, parley.ErrNoMetadata) {
		t.Errorf("a reader without metadata: %v", err)
	}
	if tor.Files() != nil {
		t.Error("there are files without metadata")
	}
	tor.AddPeers(seed.Addr())
	if err := tor.WaitComplete(ctx); err != nil {
		t.Fatal(err)
	}
	if s := tor.Stats(); s.State != parley.StateSeeding || s.WantedBytes != 100 || s.WantedHave != 100 || s.TotalBytes <= 3<<20 {
		t.Errorf("%+v", s)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "tree", "b")); err != nil || string(b) != string(small) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "tree", "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that nobody wants: %v", err)
	}
	if _, err := tor.NewReader(0); !errors.Is(err, parley.ErrSkipped) {
		t.Errorf("a reader of a file that nobody wants: %v", err)
	}
	if err := tor.SetPriority(parley.PriorityLow, 17); !errors.Is(err, parley.ErrNoFile) {
		t.Errorf("the priority of a file that is not there: %v", err)
	}

	if err := tor.SetSequential(true); err != nil {
		t.Fatal(err)
	}
	if err := tor.SetPriority(parley.PriorityLow, 0); err != nil {
		t.Fatal(err)
	}
	tor.AddPeers(seed.Addr()) // both had all they wanted, and have parted
	r, err := tor.NewReader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Size() != int64(len(big)) {
		t.Errorf("%d bytes, want %d", r.Size(), len(big))
	}
	if _, err := r.Seek(-10, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	tail := make([]byte, 10)
	if _, err := io.ReadFull(r, tail); err != nil || string(tail) != string(big[len(big)-10:]) {
		t.Errorf("the end: %x, %v", tail, err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != string(big) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := tor.WaitComplete(ctx); err != nil {
		t.Fatal(err)
	}
	if err := tor.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tor.SetPriority(parley.PriorityLow, 0); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("of a closed torrent: %v", err)
	}
	if _, err := tor.NewReader(0); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("a reader of a closed torrent: %v", err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	if _, err := r.Read(tail); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("reading of a closed torrent: %v", err)
	}

	idle, err := leech.AddInfoHash(bt.InfoHash{1}, parley.TorrentOptions{NoDownload: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.SetPriority(parley.PriorityLow, 0); !errors.Is(err, parley.ErrNoDownload) {
		t.Errorf("of a torrent that does not download: %v", err)
	}
}
