//go:build !race

package sceptic

// raceEnabled says whether the race detector is on.
const raceEnabled = false
