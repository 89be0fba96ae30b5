package parley_test

import (
	"context"
	"math"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-bt/parley"
)

// until waits for an event of a kind that comes after do was called.
func until(t *testing.T, tor *parley.Torrent, kind parley.EventKind, do func()) parley.Event {
	t.Helper()
	events := tor.Events(within(t, 20*time.Second))
	do()
	for ev := range events {
		if ev.Kind == kind {
			return ev
		}
	}
	t.Fatalf("%v: no event %v; %+v", tor.Name(), kind, tor.Stats())
	return parley.Event{}
}

func wantState(t *testing.T, tor *parley.Torrent, want parley.State) {
	t.Helper()
	if s := tor.Stats(); s.State != want {
		t.Errorf("%s is %v, want %v", tor.Name(), s.State, want)
	}
}

// shared makes n torrents of one seed.
func shared(t *testing.T, n int) (seed *parley.Client, torrents []*parley.Torrent) {
	t.Helper()
	seed = newClient(t, parley.Config{})
	for i := range n {
		path := filepath.Join(t.TempDir(), string(rune('a'+i)))
		writeFile(t, path, 300_000)
		torrents = append(torrents, share(t, seed, path))
	}
	return seed, torrents
}

// Downloads wait in their order for a place, and those that end, pause or are closed make one.
func TestDownloadsAreQueued(t *testing.T) {
	seed, from := shared(t, 4)
	c := newClient(t, parley.Config{MaxActiveDownloads: 1})
	var tor []*parley.Torrent
	for _, f := range from {
		x, err := c.AddTorrent(f.Metainfo(), parley.TorrentOptions{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if err := x.WaitMetadata(within(t, 20*time.Second)); err != nil {
			t.Fatalf("what is there of a queued torrent is not verified: %v", err)
		}
		tor = append(tor, x)
	}
	peer := []netip.AddrPort{seed.Addr()}
	wantState(t, tor[0], parley.StateDownloading)
	for _, x := range tor[1:] {
		wantState(t, x, parley.StateQueued)
	}
	until(t, tor[1], parley.EventResumed, func() { tor[0].AddPeers(peer...) })
	wantState(t, tor[0], parley.StateSeeding)
	wantState(t, tor[1], parley.StateDownloading)
	wantState(t, tor[2], parley.StateQueued)

	tor[1].Pause()
	wantState(t, tor[1], parley.StatePaused)
	wantState(t, tor[2], parley.StateDownloading)
	tor[1].Resume()
	wantState(t, tor[1], parley.StateQueued) // nobody loses a place

	tor[3].Pause() // one that waits can be paused, too
	wantState(t, tor[3], parley.StatePaused)
	until(t, tor[1], parley.EventResumed, func() {
		if err := tor[2].Close(); err != nil {
			t.Error(err)
		}
	})
	tor[1].AddPeers(peer...)
	if err := tor[1].WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	wantState(t, tor[3], parley.StatePaused)
	tor[3].AddPeers(peer...)
	tor[3].Resume()
	if err := tor[3].WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	tor[2].Pause() // closed: nothing happens
	tor[2].Resume()
}

// Seeds have places of their own; a download that completes needs one of them.
func TestSeedsAreQueued(t *testing.T) {
	seed, from := shared(t, 2)
	c := newClient(t, parley.Config{MaxActiveSeeds: 1})
	first, err := c.AddTorrent(from[0].Metainfo(), parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{seed.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	second, err := c.AddTorrent(from[1].Metainfo(), parley.TorrentOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	until(t, second, parley.EventPaused, func() { second.AddPeers(seed.Addr()) })
	wantState(t, second, parley.StateQueued)
	wantState(t, first, parley.StateSeeding)
	until(t, second, parley.EventResumed, first.Pause)
	wantState(t, second, parley.StateSeeding)
	// A torrent that is complete when it is added queues from the beginning, and so does a third of another kind of adding.
	path := filepath.Join(t.TempDir(), "third")
	writeFile(t, path, 1000)
	third := share(t, c, path)
	if err := third.WaitMetadata(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	wantState(t, third, parley.StateQueued)
	found := false
	ctx, cancel := context.WithCancel(t.Context())
	for ev := range third.Events(ctx) {
		if found = ev.Kind == parley.EventVerified; found {
			break
		}
	}
	cancel()
	if !found {
		t.Error("of a queued torrent it is not told that its data was verified")
	}
	third.Pause()
	wantState(t, third, parley.StatePaused)
}

func TestAddedPaused(t *testing.T) {
	seed, from := shared(t, 1)
	c := newClient(t, parley.Config{})
	tor, err := c.AddMagnet(from[0].Magnet(), parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{seed.Addr()}, Paused: true})
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, tor, parley.StatePaused)
	tor.Resume()
	if err := tor.WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
}

// A torrent that was seeded enough is paused, and goes on when it is resumed.
func TestSeedRatio(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  parley.Config
		o    parley.TorrentOptions
	}{
		{"of the client", parley.Config{SeedRatio: 1}, parley.TorrentOptions{}},
		{"of the torrent", parley.Config{SeedRatio: 1000}, parley.TorrentOptions{SeedRatio: 1}},
		{"time", parley.Config{SeedTime: 24 * time.Hour}, parley.TorrentOptions{SeedTime: time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			writeFile(t, path, 300_000)
			seed := newClient(t, tt.cfg)
			from, err := seed.Share(t.Context(), path, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			get := func() *parley.Torrent {
				tor, err := newClient(t, parley.Config{}).AddTorrent(from.Metainfo(), parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{seed.Addr()}})
				if err != nil {
					t.Fatal(err)
				}
				return tor
			}
			var tor *parley.Torrent
			ev := until(t, from, parley.EventSeedGoal, func() { tor = get() })
			if tt.o.SeedTime == 0 {
				if err := tor.WaitComplete(within(t, 20*time.Second)); err != nil {
					t.Fatal(err)
				}
				if ev.Stats.Uploaded < ev.Stats.TotalBytes {
					t.Errorf("%d bytes were sent of %d", ev.Stats.Uploaded, ev.Stats.TotalBytes)
				}
			}
			wantState(t, from, parley.StatePaused)
			from.Resume()
			wantState(t, from, parley.StateSeeding)
			if err := get().WaitComplete(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A limit holds, and its end ends the waits at once: without that the rest would take minutes.
func TestSetLimits(t *testing.T) {
	for name, set := range map[string]func(seed, leech *parley.Torrent, rate int64) error{
		"client, up":    func(s, _ *parley.Torrent, rate int64) error { return clientOf(s).SetLimits(rate, 0) },
		"client, down":  func(_, l *parley.Torrent, rate int64) error { return clientOf(l).SetLimits(0, rate) },
		"torrent, up":   func(s, _ *parley.Torrent, rate int64) error { return s.SetLimits(rate, 0) },
		"torrent, down": func(_, l *parley.Torrent, rate int64) error { return l.SetLimits(0, rate) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			writeFile(t, path, 2<<20)
			seed, c := newClient(t, parley.Config{}), newClient(t, parley.Config{})
			from := share(t, seed, path)
			tor, err := c.AddTorrent(from.Metainfo(), parley.TorrentOptions{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			owners[from], owners[tor] = seed, c
			if err := set(from, tor, parley.MinLimit); err != nil {
				t.Fatal(err)
			}
			tor.AddPeers(seed.Addr())
			for ctx := within(t, 20*time.Second); tor.Stats().Downloaded == 0; {
				if ctx.Err() != nil {
					t.Fatal("nothing comes")
				}
				time.Sleep(time.Millisecond)
			}
			if s := tor.Stats(); s.Downloaded > 1<<20 {
				t.Errorf("%d bytes came at once, under a limit of %d a second", s.Downloaded, parley.MinLimit)
			}
			if err := set(from, tor, 0); err != nil {
				t.Fatal(err)
			}
			if err := tor.WaitComplete(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// owners are the clients of torrents, for one test.
var owners = map[*parley.Torrent]*parley.Client{}

func clientOf(t *parley.Torrent) *parley.Client { return owners[t] }

func TestBadRates(t *testing.T) {
	for name, cfg := range map[string]parley.Config{
		"upload limit too low":     {UploadLimit: 1},
		"upload limit below 0":     {UploadLimit: -1},
		"download limit too low":   {DownloadLimit: parley.MinLimit - 1},
		"uploads below 0":          {MaxUploads: -1},
		"active downloads below 0": {MaxActiveDownloads: -1},
		"active seeds below 0":     {MaxActiveSeeds: -1},
		"ratio below 0":            {SeedRatio: -1},
		"ratio that is no number":  {SeedRatio: math.NaN()},
		"infinite ratio":           {SeedRatio: math.Inf(1)},
		"time below 0":             {SeedTime: -1},
	} {
		cfg.NoListen = true
		if c, err := parley.NewClient(cfg); err == nil {
			t.Errorf("%s: no error", name)
			c.Close()
		}
	}
	c := newClient(t, parley.Config{UploadLimit: 5000, DownloadLimit: 6000})
	if err := c.SetLimits(1, 0); err == nil {
		t.Error("a limit of 1 byte a second: no error")
	}
	if up, down := c.Limits(); up != 5000 || down != 6000 {
		t.Errorf("limits %d and %d, want those of the configuration", up, down)
	}
	var ih [20]byte
	for name, o := range map[string]parley.TorrentOptions{
		"upload limit": {UploadLimit: 1}, "download limit": {DownloadLimit: -5}, "ratio": {SeedRatio: math.NaN()},
	} {
		if _, err := c.AddInfoHash(ih, o); err == nil {
			t.Errorf("torrent with a bad %s: no error", name)
		}
	}
	tor, err := c.AddInfoHash(ih, parley.TorrentOptions{UploadLimit: 7000, SeedRatio: -1, SeedTime: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.SetLimits(0, 1); err == nil {
		t.Error("a limit of 1 byte a second: no error")
	}
	if up, down := tor.Limits(); up != 7000 || down != 0 {
		t.Errorf("limits %d and %d, want those of the options", up, down)
	}
}
