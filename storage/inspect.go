package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/parley-bt/parley/bt"
)

// FileState says what [Inspect] found of a file.
type FileState uint8

// The states of a file that was inspected.
const (
	FileOK      FileState = iota // as long as it should be, and nothing in it is wrong
	FilePartial                  // there under its part name, as a download left it; Bad says how many pieces are still to come
	FileMissing                  // neither it nor a part is there
	FileDamaged                  // it has another size, holds pieces that are wrong, or cannot be read
)

// String returns the state in lower case.
func (s FileState) String() string {
	return [...]string{"ok", "partial", "missing", "damaged"}[min(s, FileDamaged)]
}

// FileReport is what [Inspect] found of one file.
type FileReport struct {
	Index  int    // in the files given
	Path   string // as a person would type it, the folder included; of the part if that is what is there
	Length int64  // bytes that it should have
	State  FileState
	Pieces int // how many pieces lie in it, wholly or partly
	Bad    int // how many of those are wrong or not there
	// Unknown is how many besides cannot be checked, since the rest of the piece lies in another file that is not whole.
	Unknown int
	// Err is why a file is damaged whose size is wrong, which is then a [*ConflictError], or that cannot be read.
	Err error
}

// Inspect hashes what there is of a torrent below dir and reports on each file but padding, in the torrent's order. It changes nothing on
// disk. Whatever is missing, of another size or unreadable is in the reports; the error is ctx's, or says that dir cannot be opened or that the
// torrent makes no sense, which may be [ErrInconsistent]. progress, if not nil, is called after each piece, from one goroutine at a time.
func Inspect(ctx context.Context, dir string, files []File, geom bt.Geometry, hashes Hashes, progress func(done, total int)) ([]FileReport, error) {
	if err := checkCount(hashes, geom.NumPieces()); err != nil {
		return nil, err
	}
	s, err := prepare(dir, files, geom, Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, pathError("open folder", dir, err)
	}
	s.root = newRootFolder(root)
	reports := make([]FileReport, len(s.files))
	for at, in := 0, 0; in < len(files); in++ {
		if !files[in].Padding {
			f := s.files[at]
			reports[at] = FileReport{Index: in, Length: f.length, Pieces: f.unverified, Err: s.inspect(f)}
			reports[at].Path = s.full(f.nameOnDisk())
			at++
		}
	}
	// whole says whether wrong pieces are not a file's fault as far as one can see.
	whole := func(f *file) bool { return f.padding || f.state == stateFinal && reports[f.index].Err == nil }
	unread := make([]error, len(s.files)) // what reading them met
	done, total := 0, geom.NumPieces()
	var inconsistent error
	err = hashPieces(ctx, s, geom, hashes, VerifyOptions{}, func(i bt.PieceIndex, want *PieceHash, sums *Sums, err error) bool {
		right := false
		if err == nil {
			if right, inconsistent = want.Check(sums); inconsistent != nil {
				inconsistent = fmt.Errorf("piece %d: %w", i, inconsistent)
				return false
			}
		}
		if !right {
			touched := s.touched(int(i))
			all := true
			for _, f := range touched {
				all = all && whole(f)
			}
			pe, _ := errors.AsType[*fs.PathError](err)
			for _, f := range touched {
				if f.padding {
					continue
				}
				r := &reports[f.index]
				switch {
				case pe != nil && pe.Path == r.Path:
					r.Bad++
					if whole(f) {
						unread[f.index] = err
					}
				case !whole(f), pe == nil && all:
					r.Bad++
				default:
					r.Unknown++
				}
			}
		}
		if done++; progress != nil {
			progress(done, total)
		}
		return true
	})
	if err := errors.Join(err, inconsistent, s.Close()); err != nil {
		return nil, err
	}
	for i := range reports {
		r, f := &reports[i], s.files[i]
		if r.Err == nil {
			r.Err = unread[i]
		}
		switch {
		case r.Err != nil:
			r.State = FileDamaged
		case f.state == stateMissing:
			r.State = FileMissing
		case f.state == statePart:
			r.State = FilePartial
		case r.Bad > 0:
			r.State = FileDamaged
		}
	}
	return reports, nil
}

// inspect finds f's state on disk, as look does, but takes whatever can be read. The error is what is wrong with it.
func (s *Files) inspect(f *file) error {
	for _, name := range []string{f.name, f.part} {
		if name == "" {
			continue // an empty file has no part
		}
		fi, err := s.root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case notFolder(err):
			return &ConflictError{s.full(name), "cannot be: a file is where its folder should be"}
		case err != nil:
			return pathError("open", s.full(name), err)
		case !fi.Mode().IsRegular():
			return &ConflictError{s.full(name), irregular(fi)}
		}
		if name == f.part {
			f.state = statePart
			return nil
		}
		f.state = stateFinal
		if reason := unfit(fi, f.length); reason != "" {
			return &ConflictError{s.full(name), reason}
		}
		return nil
	}
	return nil
}
