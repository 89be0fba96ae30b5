package storage

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// folder is what [Files] does to the folder it lives in. Names are relative to it and cannot leave it. Tests have one
// that loses power.
type folder interface {
	Lstat(name string) (fs.FileInfo, error)
	OpenFile(name string, flag int) (diskFile, error)
	MkdirAll(dir string) error
	Link(oldname, newname string) error
	Rename(oldname, newname string) error
	Remove(name string) error
	// SyncDir waits until the names in dir are on disk, where the system can do that.
	SyncDir(dir string) error
	Close() error
}

// rootFolder is a real folder.
type rootFolder struct {
	*os.Root
	subs *subfolders // nil: none is kept open
}

func newRootFolder(r *os.Root) rootFolder { return rootFolder{r, &subfolders{}} }

func (r rootFolder) SyncDir(dir string) error {
	if !canSyncDir {
		return nil
	}
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	// Some file systems, of networks above all, have no such thing.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
