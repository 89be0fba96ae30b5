//go:build race

package attack_test

// raceEnabled reports whether the race detector is on, under which only every second attack over sockets is made: all of them are without it.
const raceEnabled = true
