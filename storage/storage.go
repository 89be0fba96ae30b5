// Package storage keeps the bytes of a torrent: in files below one folder, or in memory. It decides how
// the torrent's linear byte range maps to files, when a file gets its final name, and what it takes to
// check pieces against their hashes. It does not decide which pieces to fetch or serve, and it does not
// read .torrent files: [File] is all it wants to know.
//
// # The rule that protects people's files
//
// A file that exists under its final name is never modified. What is being downloaded lives beside it:
//
//	missing ──first WriteAt──▶ NAME.part ──all its pieces verified──▶ NAME   (never replacing anything)
//	                                                                  │
//	                          exists at open, with the right size ────┘ read; a differing write is a conflict
//
// Whatever stands in the way, before or during the download, is a [*ConflictError] and stays untouched.
// All access goes through an [os.Root], so neither a name nor a symbolic link leads out of the folder.
package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/parley-bt/parley/bt"
)

// Storage holds the bytes of one torrent. All methods may be called concurrently, on distinct ranges
// where one of the callers writes. After Close they return [ErrClosed].
type Storage interface {
	// ReadAt reads from the torrent's byte range at off, across files, with the meaning of
	// [io.ReaderAt]: fewer bytes than asked for come with an error, which is io.EOF at the end of the
	// torrent only. Bytes that were never written are an error that is [fs.ErrNotExist] or
	// [io.ErrUnexpectedEOF], or read as zeros where something else in the same file or segment was
	// written. Padding reads as zeros.
	ReadAt(p []byte, off int64) (int, error)

	// WriteAt writes at off. A range outside the torrent is [ErrRange], and nothing is written. p is
	// borrowed until return.
	WriteAt(p []byte, off int64) (int, error)

	// Verified says that the content of piece i has been read back or checked before writing, and is
	// right. The backend may then finalise the files that are complete. Saying it again is harmless
	// and repeats what failed the first time.
	Verified(i bt.PieceIndex) error

	// Close releases what the storage holds, after calls under way have returned. It does not wait for
	// the disk, unless there is something to save, see [Resumer].
	Close() error
}

// File is one file of a torrent. The torrent's byte range is its files in order.
type File struct {
	// Path is relative to the storage's folder, one element per folder and the file's name last. The
	// elements must be safe already, as from metainfo.SafePaths; ones that would leave the folder are
	// refused with [ErrUnsafePath].
	Path []string
	// Length in bytes; may be 0.
	Length int64
	// Padding marks bytes that align the next file (BEP 47, "attr" p): never stored, read as zeros.
	// Path is then ignored.
	Padding bool
}

// Conditions that callers compare with [errors.Is].
var (
	// ErrClosed is returned by every method of a closed storage.
	ErrClosed = errors.New("storage: closed")
	// ErrConflict is what every [*ConflictError] is.
	ErrConflict = errors.New("storage: an existing file is in the way")
	// ErrReadOnly is returned for a write to a storage opened with Options.ReadOnly.
	ErrReadOnly = errors.New("storage: opened for seeding only, nothing is written")
	// ErrRange is returned for offsets and pieces outside the torrent.
	ErrRange = errors.New("storage: outside the torrent")
	// ErrUnsafePath is returned for a path that is not local to the folder, or is given twice.
	ErrUnsafePath = errors.New("storage: unsafe path")
	// ErrIncomplete is returned by [Files.Finish] while pieces are unverified.
	ErrIncomplete = errors.New("storage: incomplete")
)

// ConflictError says that something on disk is not what the torrent needs there. It has not been touched.
// errors.Is(err, ErrConflict) is true.
type ConflictError struct {
	Path   string // as a person would type it, the folder included
	Reason string // "has 5 bytes, the torrent's file has 7"
}

// Error names the path, the reason and the way out.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("storage: %s %s; move it away or choose another folder", e.Path, e.Reason)
}

// Is reports whether target is [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// pathError returns err as an error of this package about path, whatever os wrapped around it.
func pathError(op, path string, err error) error {
	for {
		if e, ok := err.(*fs.PathError); ok {
			err = e.Err
		} else if e, ok := err.(*os.LinkError); ok {
			err = e.Err
		} else if e, ok := err.(*os.SyscallError); ok {
			err = e.Err
		} else {
			break
		}
	}
	return fmt.Errorf("storage: %w", &fs.PathError{Op: op, Path: path, Err: err})
}

// notFolder reports whether err says that a file is where a path needs a folder.
func notFolder(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// rangeError is [ErrRange] with the numbers.
func rangeError(n int, off, total int64) error {
	return fmt.Errorf("%w: %d bytes at offset %d of %d", ErrRange, n, off, total)
}

// absentError says that nothing of a file has been written yet. A check of a fresh download makes one for
// every piece, so it is cheap until somebody looks into it.
type absentError struct{ path string }

func (e absentError) Error() string { return "storage: " + e.Unwrap().Error() }

func (e absentError) Unwrap() error {
	return &fs.PathError{Op: "read", Path: e.path, Err: fs.ErrNotExist}
}
