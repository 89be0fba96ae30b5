package parley

import (
	"context"

	"github.com/parley-bt/parley/internal/swarm"
)

// Errors of what is asked of a torrent's content.
var (
	// ErrNotReady: the torrent's content is not known yet, or is being verified.
	ErrNotReady = swarm.ErrNotReady
	// ErrCannotMove: the torrent's storage, see TorrentOptions.Storage, has no way to move.
	ErrCannotMove = swarm.ErrCannotMove
)

// Retry starts a torrent again that an error has stopped (see Stats.Err): a full disk that has space again, a folder that is back. What is good is kept; what has
// gone meanwhile is downloaded again. It returns at once, [Torrent.WaitMetadata] waits until it is known what is there, and the torrent stops with an error again if the cause is
// still there. For a torrent that runs it does nothing. Its error is [ErrClosed], or the one that stopped the torrent if trying again is of no use.
func (t *Torrent) Retry() error { return closedErr(t.sw.Retry()) }

// VerifyOptions tunes [Torrent.Verify]. The zero value is usable.
type VerifyOptions struct {
	// BytesPerSecond bounds how fast is read, so that the disk is left to others too; 0 means no bound.
	BytesPerSecond int64
	// Progress, if set, is told how far it has come, in pieces, from one goroutine at a time.
	Progress func(done, total int)
}

// Verify hashes everything that is here again, while the torrent goes on, and returns how many pieces were wrong or gone. They are no longer offered to peers, and
// are downloaded again if they are wanted: a finished file that has such pieces is called NAME.part again until it is whole, and whatever was changed in it by others is
// replaced. It ends early with ctx, whose error it returns. [ErrNotReady] while nothing is known to be here; an error of the disk stops the torrent.
func (t *Torrent) Verify(ctx context.Context, o VerifyOptions) (lost int, err error) {
	lost, err = t.sw.Verify(ctx, swarm.VerifyOptions(o))
	return lost, closedErr(err)
}

// Move moves the torrent's files, finished or not, to the folder dir, which is created if it is missing, also on another file system, while the torrent goes on. Nothing in dir is
// ever replaced: what is in the way is an error, and then, as with every other error but one that says that everything is in dir, the files stay where they were. A crash
// at any point loses nothing, see [storage.Files.Move]. [ErrNotReady] before the storage is open, [ErrCannotMove] for storage of another kind than files.
func (t *Torrent) Move(ctx context.Context, dir string) error {
	now, err := t.sw.Move(ctx, dir)
	if now != "" {
		t.dir.Store(&now) // where Retry opens them
	}
	return closedErr(err)
}

// Dir returns the folder under which the torrent's files are: that of [TorrentOptions], or where they were moved to.
func (t *Torrent) Dir() string {
	if d := t.dir.Load(); d != nil {
		return *d
	}
	if t.o.Dir == "" {
		return "."
	}
	return t.o.Dir
}

// Allocation says when the disk space of a torrent's files is taken.
type Allocation uint8

const (
	// AllocateSparse takes space as pieces are written: files have holes until they are complete.
	AllocateSparse Allocation = iota
	// AllocateFull takes the space of a file as it is begun, where the file system can do so without writing zeros: then a disk that is too small stops the torrent
	// before anything of the file is downloaded, and files are in one piece.
	AllocateFull
)
