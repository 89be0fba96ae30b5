package storage

import (
	"errors"
	"os"
	"syscall"
)

// keepSize is FALLOC_FL_KEEP_SIZE of Linux's fallocate(2): files still grow as they are written, so that what was never
// written does not read as zeros.
const keepSize = 1

// allocate takes disk space for the first length bytes of f. A file system that cannot is no error.
func allocate(f *os.File, length int64) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var allocErr error
	err = conn.Control(func(fd uintptr) {
		for {
			allocErr = syscall.Fallocate(int(fd), keepSize, 0, length)
			if allocErr != syscall.EINTR {
				return
			}
		}
	})
	if errors.Is(allocErr, errors.ErrUnsupported) {
		allocErr = nil
	}
	return errors.Join(err, allocErr)
}
