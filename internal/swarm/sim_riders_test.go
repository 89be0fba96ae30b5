package swarm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/simnet"
)

// A quarter of those who download never upload. Tit for tat has them wait: contributors are done well before them.
func TestFreeRiders(t *testing.T) {
	if raceEnabled && !inFull() {
		t.Skip("it measures, which takes too long under the race detector; TestMixedSwarm does the same things")
	}
	first, seeds := simSeeds(t, 1)
	for _, v := range []struct {
		name  string
		leave bool
		least float64 // of the factor, on average over the seeds
	}{
		{"who is complete stays", false, 1.05}, // and serves whoever is left
		{"who is complete leaves", true, 1.3},
	} {
		if !v.leave && !inFull() {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			var contributors, riders []time.Duration
			worst := 0.0
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					c := freeRiders(t, first+seed, v.leave)
					a, b := c.times("leecher"), c.times("rider")
					contributors, riders = append(contributors, mean(a)), append(riders, mean(b))
					f := float64(mean(b)) / float64(mean(a))
					if worst == 0 || f < worst {
						worst = f
					}
				})
				if t.Failed() {
					t.Fatalf("seed %d", first+seed)
				}
			}
			if f := float64(mean(riders)) / float64(mean(contributors)); f < v.least {
				t.Errorf("free riders took %v, contributors %v: a factor of %.2f, want %.2f", mean(riders), mean(contributors), f, v.least)
			}
			t.Logf("%d seeds: contributors took %v, free riders %v: a factor of %.2f, at least %.2f", seeds, mean(contributors), mean(riders),
				float64(mean(riders))/float64(mean(contributors)), worst)
		})
	}
}

// freeRiders is a swarm of twenty, a quarter of them free riders, around one slow initial seed. It spreads what it has by BEP 16: otherwise new pieces come so slowly that all
// wait for them alike, whatever they give.
func freeRiders(t *testing.T, seed uint64, leave bool) *crowd {
	w := newWorldOf(t, seed, 16<<20, 128<<10, simnet.Link{Latency: 30 * time.Millisecond, Buffer: 32 << 10})
	c := &crowd{w: w, stalled: 5 * time.Minute}
	c.join("seed", seeding, rated(simnet.Host{Up: 160 << 10}), with(func(cfg *Config) { cfg.UploadSlots, cfg.SuperSeed = 4, true }))
	for k := range 20 {
		options := []func(*node, *Config){rated(simnet.Host{Up: 64 << 10, Down: 512 << 10}), with(func(cfg *Config) { cfg.UploadSlots = 4 })}
		if k%4 == 3 {
			c.join("rider", append(options, rider)...)
		} else {
			c.join("leecher", options...)
		}
	}
	for deadline := time.Now().Add(2 * time.Hour); !c.look() && time.Now().Before(deadline); time.Sleep(time.Second) {
		if !leave {
			continue
		}
		for _, m := range c.members {
			if m.kind == "leecher" && m.up && !m.finished.IsZero() {
				c.leave(m, false)
			}
		}
	}
	c.finish(time.Minute)
	return c
}
