package main

import (
	"errors"
	"syscall"
)

// Windows' own numbers; package syscall does not name them.
const (
	errorWriteProtect   syscall.Errno = 19
	errorHandleDiskFull syscall.Errno = 39
	errorDiskFull       syscall.Errno = 112
)

// isDiskFull reports whether err says that no room is left on the disk.
func isDiskFull(err error) bool {
	return errors.Is(err, errorDiskFull) || errors.Is(err, errorHandleDiskFull)
}

// isReadOnly reports whether err says that a volume is write-protected.
func isReadOnly(err error) bool { return errors.Is(err, errorWriteProtect) }
