package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// ErrNothingToShare is returned by [Scan] for a folder without regular files.
var ErrNothingToShare = errors.New("storage: no files to share")

// Listing is what [Scan] found. OpenFiles(l.Dir, l.Files, …, Options{ReadOnly: true}) opens it for seeding.
type Listing struct {
	// Dir is the absolute path of the folder that holds what is shared.
	Dir string
	// Name is the name of what is shared in Dir, and the torrent's name.
	Name string
	// Single says that it is one file rather than a folder.
	Single bool
	// Files are in the order of the torrent; the first element of every path is Name. A torrent's file
	// list leaves it out: Path[1:].
	Files []File
	// TotalBytes is the sum of the files' lengths.
	TotalBytes int64
	// Skipped names what is not shared because it is not a regular file, symbolic links above all,
	// relative to Dir.
	Skipped []string
}

// Scan lists what sharing path means: the file, or all regular files below the folder, sorted by name
// folder by folder, so that two machines with the same files list them in the same order. Nothing is left
// out because of its name. A path that is a symbolic link stands for what it points to; links below it
// are not followed but reported. What cannot be read is an error.
func Scan(path string) (*Listing, error) {
	full, err := filepath.Abs(path)
	if err == nil {
		full, err = filepath.EvalSymlinks(full)
	}
	if err != nil {
		return nil, pathError("share", path, err)
	}
	l := &Listing{Dir: filepath.Dir(full), Name: filepath.Base(full)}
	if l.Dir == full {
		return nil, pathError("share", path, errors.New("a whole drive has no name; share a folder in it"))
	}
	fi, err := os.Stat(full)
	if err != nil {
		return nil, pathError("share", path, err)
	}
	if !fi.IsDir() {
		if !fi.Mode().IsRegular() {
			return nil, pathError("share", path, errors.New("neither a file nor a folder"))
		}
		l.Single = true
		if err := l.add(full, fi); err != nil {
			return nil, err
		}
		return l, nil
	}
	err = filepath.WalkDir(full, func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return pathError("share", p, err)
		case e.IsDir():
			return nil
		case !e.Type().IsRegular():
			rel, err := filepath.Rel(l.Dir, p)
			if err != nil {
				return pathError("share", p, err)
			}
			l.Skipped = append(l.Skipped, rel)
			return nil
		}
		fi, err := e.Info()
		if err != nil {
			return pathError("share", p, err)
		}
		return l.add(p, fi)
	})
	if err != nil {
		return nil, err
	}
	if len(l.Files) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNothingToShare, path)
	}
	return l, nil
}

// add appends the regular file at p, having made sure that it can be read.
func (l *Listing) add(p string, fi fs.FileInfo) error {
	f, err := os.Open(p)
	if err != nil {
		return pathError("share", p, err)
	}
	if err := f.Close(); err != nil {
		return pathError("share", p, err)
	}
	rel, err := filepath.Rel(l.Dir, p)
	if err != nil {
		return pathError("share", p, err)
	}
	if fi.Size() > math.MaxInt64-l.TotalBytes {
		return pathError("share", p, errors.New("more bytes than can be counted"))
	}
	l.Files = append(l.Files, File{Path: strings.Split(rel, string(filepath.Separator)), Length: fi.Size()})
	l.TotalBytes += fi.Size()
	return nil
}
