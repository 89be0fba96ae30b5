//go:build unix

// Package usage says how much processor time this process has used. It decides nothing.
package usage

import (
	"syscall"
	"time"
)

// CPU returns the user and system time of this process so far.
func CPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0 // only a bad address or argument can fail
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
