//go:build unix

package parley

import (
	"math"
	"syscall"
)

// maxOpenFiles returns how many files this process may have open; false if that cannot be said.
func maxOpenFiles() (int, bool) {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0, false
	}
	return int(min(uint64(l.Cur), math.MaxInt32)), true // signed on some systems, where a negative value is no limit
}
