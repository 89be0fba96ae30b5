//go:build race

package swarm

// raceEnabled reports whether the race detector is on, under which simulations take ten times as long: there they are smaller.
const raceEnabled = true
