package main

import "testing"

func TestThings(t *testing.T) {
	for _, what := range []string{"mse", "mse-pipe", "veil", "veil-pipe", "veil-prepared", "accept", "accept-prepared", "x25519", "x25519-accept", "find", "sha1"} {
		t.Run(what, func(t *testing.T) {
			thing, err := choose(what, 3)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if thing.Prepare != nil {
					if err := thing.Prepare(2); err != nil {
						t.Fatal(err)
					}
				}
				if err := thing.Do(2); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	for _, bad := range []struct {
		what string
		n    int
	}{{"nothing", 1}, {"find", 0}} {
		if _, err := choose(bad.what, bad.n); err == nil {
			t.Errorf("%s among %d: no error", bad.what, bad.n)
		}
	}
}
