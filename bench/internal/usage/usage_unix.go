//go:build unix

// Package usage says how much processor time this process and its children have used. It decides nothing.
package usage

import (
	"syscall"
	"time"
)

// CPU returns the user and system time of this process so far.
func CPU() time.Duration { return of(syscall.RUSAGE_SELF) }

// Children returns the user and system time of the children of this process that have ended and been waited for.
func Children() time.Duration { return of(syscall.RUSAGE_CHILDREN) }

func of(who int) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(who, &r); err != nil {
		return 0 // only a bad address or argument can fail
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
