package storage

import (
	"os"
	"syscall"
)

// fsctlSetSparse is FSCTL_SET_SPARSE of the Windows SDK, winioctl.h.
const fsctlSetSparse = 0x000900c4

// makeSparse asks for holes in f, which NTFS grants to files that ask only: without it, a write far behind
// the end takes the disk space, and the time, of all that lies between.
func makeSparse(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ctlErr error
	err = conn.Control(func(fd uintptr) {
		var n uint32
		ctlErr = syscall.DeviceIoControl(syscall.Handle(fd), fsctlSetSparse, nil, 0, nil, 0, &n, nil)
	})
	if err != nil {
		return err
	}
	return ctlErr
}
