//go:build race

package blockbuf

// The race detector makes sync.Pool drop entries at random, so nothing can be said about allocations.
const raceEnabled = true
