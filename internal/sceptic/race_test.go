//go:build race

package sceptic

// raceEnabled says that the race detector makes everything ten times as slow: fewer connections are made.
const raceEnabled = true
