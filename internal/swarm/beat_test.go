package swarm

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A torrent that nobody asks for does not even look at the clock, and serves whoever comes after all.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100<<10, 16<<10, slow)
		var looks atomic.Int64
		counting := func(_ *node, cfg *Config) {
			cfg.Now = func() time.Time {
				looks.Add(1)
				return time.Now()
			}
		}
		seed := w.start(seeding, counting)
		for round := range 3 {
			time.Sleep(time.Minute)
			looks.Store(0)
			time.Sleep(time.Hour)
			if n := looks.Load(); n > 0 {
				t.Errorf("round %d: looked at the clock %d times in an idle hour, want 0", round, n)
			}
			n := w.start()
			n.tor.AddPeers(seed.addr)
			n.waitComplete(time.Minute)
			n.close()
		}

		// An address that waits to be dialled again is dialled at its time, and little else happens.
		seed.tor.AddPeers(w.addr())
		time.Sleep(10 * time.Minute)
		before := len(seed.dialled())
		looks.Store(0)
		time.Sleep(time.Hour)
		dials := int64(len(seed.dialled()) - before)
		if dials < 60*60/40 || looks.Load() > 20*dials {
			t.Errorf("%d dials in an hour, and %d looks at the clock; want one dial every 30 to 40 s and a few looks each", dials, looks.Load())
		}
	})
}
