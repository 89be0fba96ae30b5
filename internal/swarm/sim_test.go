package swarm

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// simSeeds returns the seeds that a simulation is run over, first and how many: PARLEY_SIM_FIRST and PARLEY_SIM_SEEDS, the first few without them;
// "make sim SEEDS=200". Under the race detector it is half as many.
func simSeeds(t *testing.T, few uint64) (first, n uint64) {
	t.Helper()
	number := func(name string, otherwise uint64) uint64 {
		v := os.Getenv(name)
		if v == "" {
			return otherwise
		}
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil || n == 0 {
			t.Fatalf("%s=%q: want a number from 1", name, v)
		}
		return n
	}
	if raceEnabled {
		few = (few + 1) / 2
	}
	return number("PARLEY_SIM_FIRST", 1), number("PARLEY_SIM_SEEDS", few)
}

// inFull reports whether simulations are run on purpose, and not only beside everything else, where the race detector makes them slow.
func inFull() bool { return os.Getenv("PARLEY_SIM_SEEDS") != "" }

// rated gives a node's host its rates.
func rated(h simnet.Host) func(*node, *Config) {
	return func(n *node, _ *Config) { n.w.net.SetHost(n.addr.Addr(), h) }
}

// rider is a peer that never uploads.
func rider(_ *node, cfg *Config) { cfg.UploadSlots = 0 }

// kept is a storage that outlives the torrent that uses it.
type kept struct{ storage.Storage }

// Close does nothing.
func (kept) Close() error { return nil }

// keeping makes a node's storage outlive it.
func keeping(n *node, cfg *Config) {
	cfg.Open = func(*metainfo.Info) (storage.Storage, error) { return kept{n.store}, nil }
}

// as starts a node where another one was, with what that had stored.
func as(old *node) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		n.addr, n.store = old.addr, old.store
		cfg.PeerID = peerID(old.addr)
		keeping(n, cfg)
	}
}

// crowd is a swarm whose peers come and go.
type crowd struct {
	w       *world
	members []*member
	stalled time.Duration // how long somebody may be without progress
}

// member is one peer of a crowd, through all its lives.
type member struct {
	n       *node
	options []func(*node, *Config)
	kind    string
	began   time.Time
	up      bool

	moved    time.Time // when it last had more than before
	had      int64
	finished time.Time
	took     time.Duration // from when it first came until it was complete

	downloaded, uploaded, wasted int64 // of lives that are over
}

// join lets a new member in.
func (c *crowd) join(kind string, options ...func(*node, *Config)) *member {
	m := &member{kind: kind, options: append([]func(*node, *Config){keeping}, options...), began: time.Now(), moved: time.Now(), up: true}
	m.n = c.w.start(m.options...)
	c.members = append(c.members, m)
	c.introduce(m)
	return m
}

// introduce names a few others to a member; it finds the rest by peer exchange.
func (c *crowd) introduce(m *member) {
	var addrs []netip.AddrPort
	for _, k := range c.w.rng.Perm(len(c.members)) {
		if o := c.members[k]; o != m && o.up && len(addrs) < 4 {
			addrs = append(addrs, o.n.addr)
		}
	}
	m.n.tor.AddPeers(addrs...)
}

// leave ends a member's life, in good order or not.
func (c *crowd) leave(m *member, crash bool) {
	if !m.up {
		return
	}
	m.up = false
	if crash {
		for _, o := range c.members {
			c.w.net.Cut(m.n.addr.Addr(), o.n.addr.Addr())
		}
	}
	m.n.close()
	s := m.n.tor.Stats()
	m.downloaded, m.uploaded, m.wasted = m.downloaded+s.Downloaded, m.uploaded+s.Uploaded, m.wasted+s.Wasted
}

// comeBack begins a member's next life: with what it had.
func (c *crowd) comeBack(m *member) {
	if m.up {
		return
	}
	m.up, m.moved, m.had = true, time.Now(), 0
	m.n = c.w.start(append(slices.Clone(m.options), as(m.n))...)
	c.introduce(m)
}

// totals adds up what a member has moved in all its lives.
func (m *member) totals() (down, up, wasted int64) {
	if !m.up {
		return m.downloaded, m.uploaded, m.wasted
	}
	s := m.n.tor.Stats()
	return m.downloaded + s.Downloaded, m.uploaded + s.Uploaded, m.wasted + s.Wasted
}

// look notes who has got on, and fails the test when somebody has not for too long.
func (c *crowd) look() (complete bool) {
	complete = true
	now := time.Now()
	for _, m := range c.members {
		if !m.finished.IsZero() {
			continue
		}
		complete = false
		if !m.up {
			continue
		}
		s := m.n.tor.Stats()
		if s.State == StateSeeding {
			m.finished, m.took = now, now.Sub(m.began)
			continue
		}
		// What was downloaded counts too: a piece may take long.
		if had := s.HaveBytes + s.Downloaded - s.Wasted; had > m.had {
			m.had, m.moved = had, now
		}
		if idle := now.Sub(m.moved); idle > c.stalled {
			c.w.t.Fatalf("%s %v has made no progress for %v: %+v%s", m.kind, m.n.addr, idle, s, c.describe(m))
		}
	}
	return complete
}

// describe tells what a member's torrent thinks of its peers.
func (c *crowd) describe(m *member) string {
	var b strings.Builder
	m.n.tor.do(func() {
		for p := range m.n.tor.peers {
			have := 0
			if p.has != nil {
				have = p.has.Count()
			}
			fmt.Fprintf(&b, "\n  %v: has %d, seed %v, choking us %v, we interested %v, snubbed %v, outstanding %d, late %d", p.addr, have, p.seed, p.peerChoking,
				p.amInterested, p.snubbed, p.pipe.Outstanding(), p.late)
		}
	})
	return b.String()
}

// finish waits until everybody is complete, and compares what they have.
func (c *crowd) finish(within time.Duration) {
	c.w.t.Helper()
	for deadline := time.Now().Add(within); !c.look(); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			for _, m := range c.members {
				if m.finished.IsZero() {
					c.w.t.Errorf("%s %v is not complete after %v: %+v", m.kind, m.n.addr, within, m.n.tor.Stats())
				}
			}
			c.w.t.FailNow()
		}
	}
	for _, m := range c.members {
		if m.up {
			m.n.waitComplete(time.Second)
		}
	}
}

// times returns when those of a kind were complete, after they had come, ascending.
func (c *crowd) times(kinds ...string) (took []time.Duration) {
	for _, m := range c.members {
		if slices.Contains(kinds, m.kind) {
			took = append(took, m.took)
		}
	}
	slices.Sort(took)
	return took
}

func mean(ds []time.Duration) (sum time.Duration) {
	for _, d := range ds {
		sum += d
	}
	return sum / time.Duration(max(len(ds), 1))
}

// logUniform draws from lo to hi, each order of magnitude as likely as the others.
func logUniform(rng *rand.Rand, lo, hi int) int {
	x := lo
	for f := float64(hi) / float64(lo); f > 1; f /= 2 {
		if rng.IntN(2) == 0 {
			x *= 2
		}
	}
	return min(x, hi)
}

// event is something that happens to a crowd.
type event struct {
	at time.Duration
	do func()
}

// Fifty peers of all kinds complete, whoever comes, leaves, returns and crashes meanwhile.
func TestMixedSwarm(t *testing.T) {
	first, seeds := simSeeds(t, 1)
	var firstDone, median, lastDone []time.Duration
	var content, moved, wasted int64
	lives := 0
	real := time.Now()
	for s := range seeds {
		seed := first + s
		synctest.Test(t, func(t *testing.T) {
			c, n := mixedSwarm(t, seed)
			lives += n
			took := c.times("leecher", "rider")
			firstDone, median, lastDone = append(firstDone, took[0]), append(median, took[len(took)/2]), append(lastDone, took[len(took)-1])
			for _, m := range c.members {
				if m.kind != "seed" {
					down, _, waste := m.totals()
					content, moved, wasted = content+int64(len(c.w.content)), moved+down, wasted+waste
				}
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		if s%10 == 9 {
			t.Logf("%d seeds are done, the last after %v", s+1, slices.Max(lastDone))
		}
	}
	t.Logf("%d seeds of 50 peers, %d returns: the first complete after %v, half of them after %v, the last after %v (means), at most %v; %.4f of the content wasted; %v of real time a seed",
		seeds, lives, mean(firstDone), mean(median), mean(lastDone), slices.Max(lastDone), float64(wasted)/float64(content), (time.Since(real) / time.Duration(seeds)).Round(time.Millisecond))
}

func mixedSwarm(t *testing.T, seed uint64) (c *crowd, lives int) {
	const total, pieceBytes = 4 << 20, 64 << 10
	w := newWorldOf(t, seed, total, pieceBytes, simnet.Link{Latency: 40 * time.Millisecond, Buffer: 32 << 10})
	rng := w.rng
	c = &crowd{w: w, stalled: 5 * time.Minute}
	// Some are near each other, some far, some on the other side of the world.
	for a := range 52 {
		for b := range a {
			at := func(k int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(k + 1)}) }
			w.net.SetLink(at(a), at(b), simnet.Link{Latency: time.Duration(logUniform(rng, 2, 256)) * time.Millisecond, Buffer: 32 << 10, Split: 20000})
		}
	}
	var events []event
	plan := func(from, to int, do func()) {
		events = append(events, event{time.Duration(from*1000+rng.IntN((to-from)*1000)) * time.Millisecond, do})
	}
	for range 2 {
		c.join("seed", seeding, rated(simnet.Host{Up: logUniform(rng, 128<<10, 512<<10)}))
	}
	for k := range 48 {
		up := logUniform(rng, 16<<10, 512<<10)
		options := []func(*node, *Config){rated(simnet.Host{Up: up, Down: up * (1 << rng.IntN(4))}), with(func(cfg *Config) { cfg.UploadSlots = 4 })}
		kind := "leecher"
		if k%6 == 5 {
			kind, options = "rider", append(options, rider)
		}
		var m *member
		come := func() { m = c.join(kind, options...) }
		if k < 20 {
			come()
		} else {
			plan(0, 120, come)
		}
		switch k % 5 {
		case 1, 2: // leaves, or crashes, and returns with what it has
			crash := k%5 == 1
			for range 1 + rng.IntN(2) {
				out := 10 + rng.IntN(120)
				plan(out, out+1, func() {
					if m != nil {
						c.leave(m, crash)
					}
				})
				plan(out+5, out+60, func() {
					if m != nil && !m.up {
						lives++
						c.comeBack(m)
					}
				})
			}
		case 3: // goes as soon as it may
			plan(150, 200, func() {
				if m != nil && !m.finished.IsZero() {
					c.leave(m, false)
				}
			})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return int(a.at - b.at) })
	began := time.Now()
	for _, e := range events {
		for time.Since(began) < e.at {
			time.Sleep(min(time.Second, e.at-time.Since(began)))
			c.look()
		}
		e.do()
	}
	for _, m := range c.members {
		if !m.up && m.finished.IsZero() {
			lives++
			c.comeBack(m)
		}
	}
	c.finish(time.Hour)
	return c, lives
}
