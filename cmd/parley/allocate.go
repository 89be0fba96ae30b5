package main

import "github.com/parley-bt/parley"

// parseAllocation reads the value of --allocate.
func parseAllocation(v string) (parley.Allocation, error) {
	switch v {
	case "sparse":
		return parley.AllocateSparse, nil
	case "full":
		return parley.AllocateFull, nil
	}
	return 0, failf(exitUsage, "--allocate wants sparse or full", "--allocate %q: neither sparse nor full", v)
}
