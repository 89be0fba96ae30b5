//go:build !unix

// Package usage says how much processor time this process and its children have used. It decides nothing.
package usage

import "time"

// CPU returns 0: the benchmarks read processor time on Unix only.
func CPU() time.Duration { return 0 }

// Children returns 0, like CPU.
func Children() time.Duration { return 0 }
