//go:build !unix

// Package usage says how much processor time this process has used. It decides nothing.
package usage

import "time"

// CPU returns 0: the benchmarks read processor time on Unix only.
func CPU() time.Duration { return 0 }
