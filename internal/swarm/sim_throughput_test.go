package swarm

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/simnet"
)

// How much of the links a download makes use of, near and far. It is measured twice: from the first byte, which has what it takes to get up to speed in it, and over the
// second half.
func TestThroughput(t *testing.T) {
	const rate = 10 << 20
	for _, seeds := range []int{1, 4} {
		if seeds > 1 && !inFull() {
			continue
		}
		for _, latency := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
			total := int64(24 << 20) // from each seed; the start takes longer the farther they are
			if latency > 100*time.Millisecond {
				total = 80 << 20
			}
			t.Run(fmt.Sprintf("%d seeds, %v", seeds, latency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					// The links are apart: what is there to use is the sum of them.
					w := newWorldOf(t, uint64(seeds), int64(seeds)*total, 1<<20, simnet.Link{Rate: rate, Latency: latency, Buffer: 8 << 20})
					n := w.start(with(func(cfg *Config) { cfg.BufferBytes = 128 << 20 }))
					for range seeds {
						n.tor.AddPeers(w.start(seeding).addr)
					}
					all := float64(seeds * rate)
					bytes := func() int64 { return n.tor.Stats().Downloaded }
					for deadline := time.Now().Add(time.Minute); bytes() == 0 && time.Now().Before(deadline); {
						time.Sleep(10 * time.Millisecond)
					}
					began := time.Now()
					for bytes() < int64(seeds)*total/2 && time.Since(began) < time.Hour {
						time.Sleep(10 * time.Millisecond)
					}
					half, had := time.Now(), bytes()
					n.waitComplete(time.Hour)
					whole := float64(int64(seeds)*total) / time.Since(began).Seconds() / all
					steady := float64(int64(seeds)*total-had) / time.Since(half).Seconds() / all
					s := n.tor.Stats()
					t.Logf("%d seeds at %v: %.3f of the links from the first byte, %.3f over the second half; %.4f wasted", seeds, latency, whole, steady,
						float64(s.Wasted)/float64(s.TotalBytes))
					if steady < 0.9 {
						t.Errorf("%.3f of the links are made use of, want 0.9", steady)
					}
				})
			})
		}
	}
}
