package parley

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
)

// A seed that has been verified once is not read again, unless it has changed.
func TestStateDir(t *testing.T) {
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "made", "here")
	path := filepath.Join(dir, "content")
	b := make([]byte, 100<<10)
	rand.Read(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := Create(t.Context(), path, CreateOptions{PieceBytes: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for start, want := range []int{7, 0, 0} {
		c, err := NewClient(Config{NoListen: true, StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		hashed := 0
		tor, err := c.SeedTorrent(t.Context(), made.MetaInfo, path, TorrentOptions{OnVerify: func(done, total int) { hashed++ }})
		if err != nil {
			t.Fatal(err)
		}
		if err := tor.WaitComplete(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := tor.Stats(); s.HavePieces != 7 {
			t.Errorf("start %d: %d pieces, want 7", start, s.HavePieces)
		}
		if hashed != want {
			t.Errorf("start %d: %d pieces hashed, want %d", start, hashed, want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the content: %v, %v", entries, err)
	}
}

func TestStateDirNotAFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := NewClient(Config{NoListen: true, StateDir: path}); err == nil {
		t.Error("a file was taken for a folder", c.Close())
	}
}
