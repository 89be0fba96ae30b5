package swarm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// uploading and downloading give a node a limit, 0 for one that may be set later.
func uploading(rate int64) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		n.up = peerconn.NewShaper(n.conn.Timers)
		n.up.SetRate(rate)
		cfg.Up = n.up.NewGroup()
	}
}

func downloading(rate int64) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		n.down = peerconn.NewShaper(n.conn.Timers)
		n.down.SetRate(rate)
		cfg.Down = n.down.NewGroup()
	}
}

// wide is a link that holds up nobody.
var wide = simnet.Link{Latency: 10 * time.Millisecond, Rate: 50 << 20, Buffer: 1 << 20}

// near checks a count of bytes against a rate, up to parts of a hundred.
func near(t *testing.T, what string, got int64, rate float64, d time.Duration, percent float64) {
	t.Helper()
	want := rate * d.Seconds()
	t.Logf("%s: %d bytes in %v, %.2f %% of the limit", what, got, d, 100*float64(got)/want)
	if got := float64(got); got > want*(1+percent/100) || got < want*(1-percent/100) {
		t.Errorf("%s: %.0f bytes in %v, want %.0f up to %g %%", what, got, d, want, percent)
	}
}

// A limit is kept within two percent over a minute, in either direction, slow or fast; nobody is snubbed for it, and nothing comes twice.
func TestLimits(t *testing.T) {
	rates := map[string]int64{"20 KiB per s": 20 << 10, "5 MB per s": 5_000_000}
	if raceEnabled { // which makes every byte dear
		rates = map[string]int64{"20 KiB per s": 20 << 10, "500 kB per s": 500_000}
	}
	for name, rate := range rates {
		for _, direction := range []string{"up", "down"} {
			t.Run(name+" "+direction, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					pieceBytes := int64(4 * piece)
					w := newWorld(t, rate*70/pieceBytes*pieceBytes, pieceBytes, wide)
					var n *node
					if direction == "up" {
						seed := w.start(largeSeed, uploading(rate))
						n = w.start()
						n.tor.AddPeers(seed.addr)
					} else {
						n = w.start(downloading(rate))
						for range 3 {
							n.tor.AddPeers(w.start(largeSeed).addr)
						}
					}
					time.Sleep(2 * time.Second)
					before := n.tor.Stats().Downloaded
					for range 60 {
						time.Sleep(time.Second)
						n.tor.Call(func(peers map[*Peer]struct{}, _ Stats) {
							for p := range peers {
								if p.snubbed {
									t.Error("a peer is snubbed")
								}
							}
						})
					}
					percent := 2.0
					if *testHello == wire.HelloVeil.String() {
						percent += 100 * 64 << 10 / (60 * float64(rate)) // a record comes as a whole
					}
					near(t, "the torrent", n.tor.Stats().Downloaded-before, float64(rate), time.Minute, percent)
					n.waitComplete(20 * time.Second)
					if s := n.tor.Stats(); s.Wasted > s.TotalBytes/100 { // an endgame costs some
						t.Errorf("%d bytes of %d were wasted", s.Wasted, s.TotalBytes)
					}
				})
			})
		}
	}
}

// Fifty peers under a low limit: each gets its share, none is snubbed although each waits for most of a minute.
func TestLowLimitWithManyPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, many = 20 << 10, 50
		w := newWorld(t, 400*piece, piece, wide)
		n := w.start(downloading(rate))
		for range many {
			n.tor.AddPeers(w.start(seeding).addr)
		}
		for range 200 {
			time.Sleep(time.Second)
			n.tor.Call(func(peers map[*Peer]struct{}, _ Stats) {
				for p := range peers {
					if p.snubbed {
						t.Error("a peer is snubbed")
					}
				}
			})
		}
		n.tor.Call(func(peers map[*Peer]struct{}, _ Stats) {
			if len(peers) != many {
				t.Fatalf("%d peers are connected, want %d", len(peers), many)
			}
			for p := range peers {
				if p.downloaded < 3*piece || p.downloaded > 7*piece {
					t.Errorf("%d bytes of one peer, want about %d", p.downloaded, 200*rate/many)
				}
			}
		})
	})
}

// The peers of a torrent get the same of its upload rate.
func TestPeersShareUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 400 << 10
		w := newWorld(t, 4000*piece, 4*piece, wide)
		seed := w.start(seeding, uploading(rate))
		var nodes []*node
		for range 4 {
			n := w.start(with(func(cfg *Config) { cfg.UploadSlots = 1 }))
			nodes = append(nodes, n)
			n.tor.AddPeers(seed.addr)
		}
		time.Sleep(5 * time.Second)
		count := func() (per []int64) {
			seed.tor.Call(func(peers map[*Peer]struct{}, _ Stats) {
				for _, n := range nodes {
					for p := range peers {
						if p.addr.Addr() == n.addr.Addr() {
							per = append(per, p.uploaded.Load())
						}
					}
				}
			})
			return per
		}
		before := count()
		time.Sleep(time.Minute)
		for i, got := range count() {
			near(t, "a peer", got-before[i], rate/4., time.Minute, 5)
		}
	})
}

// Two torrents of a client share its rates evenly; one with a limit of its own leaves the rest to the other; and a change holds at once.
func TestTorrentsShareLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 200 << 10
		w := newWorld(t, 2000*4*piece, 4*piece, wide)
		a := w.start(seeding, uploading(rate))
		var groupB *peerconn.Group
		b := w.start(seeding, func(n *node, cfg *Config) { // as if it were in the same client
			groupB = a.up.NewGroup()
			cfg.Up = groupB
		})
		toA, toB := w.start(), w.start()
		toA.tor.AddPeers(a.addr)
		toB.tor.AddPeers(b.addr)
		measure := func(d time.Duration) (int64, int64) {
			beforeA, beforeB := a.tor.Stats().Uploaded, b.tor.Stats().Uploaded
			time.Sleep(d)
			return a.tor.Stats().Uploaded - beforeA, b.tor.Stats().Uploaded - beforeB
		}
		time.Sleep(2 * time.Second)
		gotA, gotB := measure(time.Minute)
		near(t, "the first torrent", gotA, rate/2, time.Minute, 2)
		near(t, "the second torrent", gotB, rate/2, time.Minute, 2)
		groupB.SetRate(50 << 10)
		gotA, gotB = measure(time.Minute)
		near(t, "the first torrent beside a slow one", gotA, 150<<10, time.Minute, 2)
		near(t, "the slow torrent", gotB, 50<<10, time.Minute, 2)
		groupB.SetRate(0)
		a.up.SetRate(2 << 20)
		gotA, gotB = measure(10 * time.Second)
		near(t, "both, faster", gotA+gotB, 2<<20, 10*time.Second, 5)
		a.up.SetRate(20 << 10)
		gotA, gotB = measure(time.Minute)
		near(t, "both, slower", gotA+gotB, 20<<10, time.Minute, 5)
		a.up.SetRate(0)
		toA.waitComplete(5 * time.Minute)
		toB.waitComplete(5 * time.Minute)
	})
}

// A web seed gets its share of the limit beside a peer, and none while the torrent is paused.
func TestWebSeedsKeepTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 200 << 10
		w := newWorld(t, 2000*piece, 4*piece, wide)
		url := w.web(ranges(w.content))
		n := w.start(webSeeds(url), downloading(rate))
		time.Sleep(2 * time.Second)
		before := n.tor.Stats().Downloaded
		time.Sleep(30 * time.Second)
		near(t, "alone", n.tor.Stats().Downloaded-before, rate, 30*time.Second, 2)
		n.tor.AddPeers(w.start(seeding).addr)
		time.Sleep(5 * time.Second)
		before, web := n.tor.Stats().Downloaded, n.tor.WebSeeds()[0].Downloaded
		time.Sleep(30 * time.Second)
		near(t, "beside a peer", n.tor.Stats().Downloaded-before, rate, 30*time.Second, 2)
		near(t, "the web seed beside a peer", n.tor.WebSeeds()[0].Downloaded-web, rate/2, 30*time.Second, 10)
		n.tor.SetPaused(true)
		time.Sleep(time.Second)
		before = n.tor.Stats().Downloaded
		time.Sleep(time.Minute)
		if got := n.tor.Stats().Downloaded - before; got != 0 {
			t.Errorf("%d bytes came while the torrent was paused", got)
		}
		n.tor.SetPaused(false)
		n.waitComplete(5 * time.Minute)
	})
}

// What is no block does not wait for the limit: a peer that waits for its blocks is answered at once, and the blocks of one that gave up go to nobody.
func TestControlDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40*piece, piece, wide)
		seed := w.start(seeding, uploading(1<<10)) // a block takes 16 seconds
		p := w.raw(seed)
		p.Write(classic.AppendInterested(nil))
		var use [1]ltep.Entry
		use[0] = ltep.Entry{Name: ltep.NameMetadata, ID: 9}
		if err := p.Exchange(ltep.Exchange{M: use[:]}); err != nil {
			t.Fatal(err)
		}
		e, err := p.UntilExchange()
		if err != nil {
			t.Fatal(err)
		}
		blocks := 0
		for range 4 {
			for i := range 3 {
				p.Write(requestFor(w, i))
			}
		}
		time.Sleep(40 * time.Second)
		began := time.Now()
		md := ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataRequest})
		for _, x := range e.M {
			if x.Name == ltep.NameMetadata {
				if err := p.Extended(x.ID, md); err != nil {
					t.Fatal(err)
				}
			}
		}
		err = p.Until(func(m wire.Message) bool {
			if m.Kind() == wire.KindPiece {
				blocks++
			}
			x, ok := m.(*wire.Extended)
			return ok && x.ID == 9
		})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("metadata came after %v", took)
		}
		if blocks < 1 || blocks > 4 {
			t.Errorf("%d blocks came in 40 s at 1 KiB/s, want 2 or 3", blocks)
		}
		p.Close()
		time.Sleep(time.Second)
		n := w.start() // the next one does not wait for what the first did not take
		n.tor.AddPeers(seed.addr)
		before := seed.tor.Stats().Uploaded
		time.Sleep(10 * time.Minute)
		near(t, "the next peer", seed.tor.Stats().Uploaded-before, 1<<10, 10*time.Minute, 5)
	})
}

func requestFor(w *world, i int) []byte {
	return classic.AppendRequest(nil, wire.Request{Block: w.info.Geometry.Block(bt.PieceIndex(i), 0)})
}

// given is a storage that has the world's content, in the world's own memory: what is written to it is right already, or lost.
type given struct{ content []byte }

func (s given) ReadAt(p []byte, off int64) (int, error)  { return copy(p, s.content[off:]), nil }
func (s given) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }
func (s given) Verified(bt.PieceIndex) error             { return nil }
func (s given) Close() error                             { return nil }

// largeSeed is a seed of a world of hundreds of MB, of which there should be no copies.
func largeSeed(n *node, cfg *Config) {
	n.store = given{n.w.content}
	cfg.Complete = true
}

// The slots of a client are shared by its torrents: never more than there are, and every torrent gets its turn.
func TestUploadPool(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	pool := NewUploadPool(8)
	var shares []*uploadShare
	for range 3 {
		shares = append(shares, pool.join())
	}
	round := func(wants ...int) (got []int) {
		for range 2 { // what one gives up in the first round others take in the second
			got = got[:0]
			sum := 0
			for i, s := range shares {
				n := s.take(now, wants[i])
				s.use(n)
				got = append(got, n)
			}
			for _, s := range shares {
				sum += s.used
			}
			if sum > 8 {
				t.Errorf("%d slots are used of 8", sum)
			}
		}
		return got
	}
	for _, tt := range []struct{ wants, got []int }{
		{[]int{20, 0, 0}, []int{8, 0, 0}},
		{[]int{20, 20, 0}, []int{4, 4, 0}},
		{[]int{20, 1, 2}, []int{5, 1, 2}},
		{[]int{1, 1, 1}, []int{1, 1, 1}},
		{[]int{0, 0, 8}, []int{0, 0, 8}},
	} {
		got := round(tt.wants...)
		for i := range got {
			if got[i] != tt.got[i] {
				t.Errorf("wants %v: got %v, want %v", tt.wants, got, tt.got)
				break
			}
		}
	}
	shares[2].leave()
	shares = shares[:2]
	if got := round(8, 0); got[0] != 8 {
		t.Errorf("%v after one has left, want its slots to be free", got)
	}
	// Fewer slots than torrents go round.
	pool = NewUploadPool(2)
	shares = shares[:0]
	for range 5 {
		shares = append(shares, pool.join())
	}
	served := make([]bool, 5)
	for range 10 {
		for range 2 {
			sum := 0
			for i, s := range shares {
				n := s.take(now, 3)
				served[i] = served[i] || n > 0
				sum += n
			}
			if sum > 2 {
				t.Errorf("%d slots are used of 2", sum)
			}
		}
		now = now.Add(turnEvery)
	}
	for i, ok := range served {
		if !ok {
			t.Errorf("torrent %d never had a slot", i)
		}
	}
}
