package swarm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
)

// A paused torrent has no connections, takes none and makes none; resumed it goes on where it was.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100*piece, piece, simnet.Link{Latency: 10 * time.Millisecond, Rate: 100 << 10})
		seed := w.start(seeding)
		n := w.start()
		n.tor.AddPeers(seed.addr)
		time.Sleep(5 * time.Second)
		if !n.tor.SetPaused(true) || n.tor.SetPaused(true) {
			t.Error("pausing: want a change, once")
		}
		time.Sleep(2 * time.Second)
		s := n.tor.Stats()
		if s.State != StatePaused || s.Peers != 0 || s.HavePieces == 0 || s.HavePieces == 100 {
			t.Fatalf("%+v, want it paused in the middle", s)
		}
		dials := len(n.dialled())
		n.tor.AddPeers(seed.addr, w.addr())
		nc, err := w.net.Dial(t.Context(), w.addr(), n.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rawpeer.New(t, nc).Greet(w.ih, bt.PeerID{9}, rawpeer.LTEP); err == nil {
			t.Error("a paused torrent answers hellos")
		}
		time.Sleep(time.Minute)
		if got := n.tor.Stats(); len(n.dialled()) != dials || got.Peers != 0 || got.Downloaded != s.Downloaded {
			t.Errorf("%d dials and %d bytes while it was paused; %+v", len(n.dialled())-dials, got.Downloaded-s.Downloaded, got)
		}
		if !n.tor.SetPaused(false) {
			t.Error("resuming: want a change")
		}
		n.waitComplete(time.Minute)
		if n.count(EventPaused) != 1 || n.count(EventResumed) != 1 {
			t.Errorf("%d pauses and %d resumptions were reported, want one each", n.count(EventPaused), n.count(EventResumed))
		}
		n.tor.SetPaused(true)
		n.close()
		if n.tor.SetPaused(false) {
			t.Error("a closed torrent is resumed")
		}
	})
}

// Who was named by others is dialled again after a pause, however short: it was not to blame for the end of its session, or of a dial that was under way.
func TestResumeFindsThoseNamedByOthers(t *testing.T) {
	for name, after := range map[string]time.Duration{"dial": 25 * time.Millisecond, "hello": 65 * time.Millisecond, "session": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 100*piece, piece, simnet.Link{Latency: 30 * time.Millisecond, Rate: 100 << 10})
				seed := w.start(seeding)
				n := w.start()
				time.Sleep(time.Second)
				n.tor.Learn(dialguard.Source{Origin: dialguard.Tracker}, netpolicy.Private, seed.addr)
				time.Sleep(after)
				for range 2 {
					n.tor.SetPaused(true)
					time.Sleep(1500 * time.Millisecond)
					n.tor.SetPaused(false)
					time.Sleep(2 * time.Second)
				}
				n.waitComplete(time.Minute)
			})
		})
	}
}

// A torrent that begins paused verifies what is there, and connects to nobody before it is resumed.
func TestBeginsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20*piece, piece, slow)
		seed := w.start(seeding)
		n := w.start(with(func(cfg *Config) { cfg.Paused = true }))
		n.tor.AddPeers(seed.addr)
		time.Sleep(time.Minute)
		if err := n.tor.WaitReady(ended()); err != nil {
			t.Errorf("what is there is not verified: %v", err)
		}
		if s := n.tor.Stats(); s.State != StatePaused || len(n.dialled()) != 0 {
			t.Fatalf("%d dials; %+v", len(n.dialled()), s)
		}
		n.tor.SetPaused(false)
		n.waitComplete(time.Minute)
	})
}

// A torrent that was seeded enough pauses, once: whoever resumes it wants more.
func TestSeedGoals(t *testing.T) {
	for name, goal := range map[string]SeedGoal{"ratio": {Ratio: 2}, "time": {Time: 5 * time.Minute}, "what comes first": {Ratio: 2, Time: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 40*piece, piece, slow)
				seed := w.start(seeding, with(func(cfg *Config) { cfg.SeedGoal = goal }))
				for i := range 2 {
					n := w.start(with(func(cfg *Config) { cfg.NoPEX = true }))
					n.tor.AddPeers(seed.addr)
					n.waitComplete(time.Minute)
					if i == 0 && seed.count(EventSeedGoal) != 0 {
						t.Fatal("the goal is reached too early")
					}
					n.close() // so that it serves nobody
				}
				if goal.Ratio == 0 { // a pause does not count
					seed.tor.SetPaused(true)
					time.Sleep(time.Hour)
					seed.tor.SetPaused(false)
					if seed.count(EventSeedGoal) != 0 {
						t.Fatal("time in which it was paused counts")
					}
					time.Sleep(goal.Time)
				}
				time.Sleep(2 * time.Second)
				if s := seed.tor.Stats(); s.State != StatePaused || seed.count(EventSeedGoal) != 1 {
					t.Fatalf("%d goals were reported; %+v, %+v", seed.count(EventSeedGoal), s, seed.tor.goal)
				}
				seed.tor.SetPaused(false)
				n := w.start()
				n.tor.AddPeers(seed.addr)
				n.waitComplete(time.Minute)
				if s := seed.tor.Stats(); s.State != StateSeeding || seed.count(EventSeedGoal) != 1 {
					t.Errorf("%d goals were reported after it was resumed; %+v", seed.count(EventSeedGoal), s)
				}
			})
		})
	}
}
