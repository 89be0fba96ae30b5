package parley_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/storage"
)

// What stands in the way stops a torrent, which goes on once that has gone; its files are verified again and move while it runs.
func TestRetryVerifyMove(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	content := bytes.Repeat([]byte("content "), 30_000)
	src := filepath.Join(t.TempDir(), "file.bin")
	if err := os.WriteFile(src, content, 0o666); err != nil {
		t.Fatal(err)
	}
	seed, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer seed.Close()
	shared, err := seed.Share(ctx, src, parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := parley.NewClient(parley.Config{NoListen: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	first, second := t.TempDir(), filepath.Join(t.TempDir(), "second")
	inTheWay := filepath.Join(first, "file.bin")
	if err := os.WriteFile(inTheWay, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	tor, err := c.AddTorrent(shared.Metainfo(), parley.TorrentOptions{Dir: first, Allocate: parley.AllocateFull})
	if err != nil {
		t.Fatal(err)
	}
	tor.AddPeers(seed.Addr())
	if err := tor.WaitComplete(ctx); !errors.Is(err, storage.ErrConflict) {
		t.Fatalf("%v, want a conflict", err)
	}
	if _, err := tor.Verify(ctx, parley.VerifyOptions{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("verifying a torrent that has stopped: %v", err)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := tor.Retry(); err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitComplete(ctx); err != nil {
		t.Fatal(err)
	}
	if err := tor.Move(ctx, second); err != nil || tor.Dir() != second {
		t.Fatalf("%q, %v", tor.Dir(), err)
	}
	if _, err := os.Stat(inTheWay); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old file: %v", err)
	}
	moved := filepath.Join(second, "file.bin")
	if err := os.Truncate(moved, int64(len(content)/2)); err != nil {
		t.Fatal(err)
	}
	lost, err := tor.Verify(ctx, parley.VerifyOptions{BytesPerSecond: 1 << 30})
	if err != nil || lost == 0 {
		t.Fatalf("%d lost, %v", lost, err)
	}
	if err := tor.WaitComplete(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(moved); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}

	// A seed that must not write stops, and starts again when its content is right again.
	if err := os.WriteFile(src, content[1:], 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Verify(ctx, parley.VerifyOptions{}); !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("a seed that is wrong: %v", err)
	}
	if err := os.WriteFile(src, content, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := shared.Retry(); err != nil {
		t.Fatal(err)
	}
	if err := shared.WaitComplete(ctx); err != nil || shared.Stats().State != parley.StateSeeding {
		t.Errorf("%v; %+v", err, shared.Stats())
	}
	if err := shared.Move(ctx, second); !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("moving what must not be written: %v", err)
	}
	if err := tor.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"retry": tor.Retry(), "move": tor.Move(ctx, first)} {
		if !errors.Is(err, parley.ErrClosed) && !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%s of a closed torrent: %v", what, err)
		}
	}
}
