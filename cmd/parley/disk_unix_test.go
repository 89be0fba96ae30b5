//go:build !windows

package main

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestClassifyDisk(t *testing.T) {
	for errno, hint := range map[syscall.Errno]string{
		syscall.ENOSPC: "make room", syscall.EDQUOT: "make room", syscall.EROFS: "may write", syscall.EPERM: "may write",
	} {
		err := fmt.Errorf("piece 1: %w", &fs.PathError{Op: "write", Path: "x", Err: errno})
		if code, got := classify(err); code != exitStorage || !strings.Contains(got, hint) {
			t.Errorf("classify(%v) = %d, %q, want %d and %q", err, code, got, exitStorage, hint)
		}
	}
}
