package swarm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/mounttest"
)

// A real full disk, where the test may mount one; TestDiskRecovers covers the logic everywhere.
func TestFullDisk(t *testing.T) {
	mount, resize := mounttest.Tmpfs(t, "1m")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 200*piece, piece, slow)
		seed := w.start(seeding)
		n := w.start(on(mount, &faulty{}))
		n.tor.AddPeers(seed.addr)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := n.tor.WaitComplete(ctx); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("WaitComplete = %v, want ENOSPC", err)
		}
		had := n.tor.Stats().HavePieces
		n.close()
		if had == 0 {
			t.Error("nothing was downloaded before the disk was full: the test is none")
		}
		resize("8m")
		again := w.start(on(mount, &faulty{}))
		if err := again.tor.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		if got := again.tor.Stats().HavePieces; got < had {
			t.Errorf("%d pieces are left of %d", got, had)
		}
		again.tor.AddPeers(seed.addr)
		again.waitComplete(10 * time.Minute)
		again.close()
		if got, err := os.ReadFile(filepath.Join(mount, "content")); err != nil || string(got) != string(w.content) {
			t.Errorf("the file afterwards: %d bytes, %v", len(got), err)
		}
	})
}
