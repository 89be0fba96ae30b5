package swarm

import (
	"os"
	"strconv"
	"testing"
)

// simSeeds returns over how many seeds a simulation is run: PARLEY_SIM_SEEDS, 10 without it; "make sim SEEDS=200".
func simSeeds(t *testing.T) uint64 {
	t.Helper()
	v := os.Getenv("PARLEY_SIM_SEEDS")
	if v == "" {
		return 10
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil || n == 0 {
		t.Fatalf("PARLEY_SIM_SEEDS=%q: want a number from 1", v)
	}
	return n
}
