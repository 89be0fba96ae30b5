//go:build !windows

package main

import (
	"errors"
	"syscall"
)

// isDiskFull reports whether err says that no room is left, on the disk or in the user's quota.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// isReadOnly reports whether err says that a file system is mounted read-only.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
