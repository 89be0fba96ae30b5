package swarm

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/attack"
)

// simulated is a stage in the simulated network.
type simulated struct {
	w    *world
	to   netip.AddrPort
	from []netip.AddrPort
	log  *attack.Records
}

func (s *simulated) Dial(n int) (net.Conn, error) {
	return s.w.net.Dial(context.Background(), netip.AddrPortFrom(s.from[n].Addr(), 0), s.to)
}

func (s *simulated) Reason(local net.Addr) (error, bool) { return s.log.Reason(local) }

// assault runs an attack on a node, nil none, while an honest peer is served. It returns the honest peer's rate in bytes a second of the simulated time, and what came of the attack.
func assault(t *testing.T, target attack.Target, at *attack.Attack) (rate float64, result string) {
	pieceBytes := int64(64 << 10)
	if raceEnabled {
		pieceBytes = 2 * piece // half the content for the honest peer; the attacks are the same
	}
	w := newWorld(t, 131*pieceBytes-100, pieceBytes, slow)
	log := attack.NewRecords()
	watched := func(n *node, cfg *Config) {
		n.refused = log.End
		cfg.Log = slog.New(log)
		notify := cfg.Notify
		cfg.Notify = func(e Event) {
			if e.Kind == EventPeerDisconnected {
				log.End(e.Peer.Addr(), e.Err)
			}
			notify(e)
		}
	}
	var victim, honest *node
	switch target {
	case attack.Seed:
		victim = w.start(seeding, watched)
	case attack.Download:
		victim = w.start(watched)
	case attack.Magnet:
		victim = w.start(magnet, watched)
	}
	if target == attack.Seed {
		honest = w.start()
	} else {
		honest = w.start(seeding)
	}
	var group sync.WaitGroup
	var c *attack.Campaign
	if at != nil {
		st := &simulated{w: w, to: victim.addr, log: log}
		for range attack.Attackers {
			st.from = append(st.from, w.addr())
		}
		c = attack.NewCampaign(at, attack.Scene{InfoHash: w.ih, Geometry: w.info.Geometry, Info: w.info.Bytes}, st)
		c.Pace = time.Millisecond
		for n := range attack.Attackers {
			group.Go(func() { c.Attacker(t, n) })
		}
		for range attack.Attackers {
			<-c.Begun
		}
	}
	began := time.Now()
	leech := honest
	if target == attack.Seed {
		honest.tor.AddPeers(victim.addr)
	} else {
		victim.tor.AddPeers(honest.addr)
		leech = victim
	}
	leech.waitComplete(30 * time.Minute)
	rate = float64(len(w.content)) / time.Since(began).Seconds()
	if c == nil {
		return rate, ""
	}
	switch c.Outcome {
	case attack.Ended: // the limit has its time
		group.Wait()
		close(c.Stop)
	default:
		time.Sleep(c.Within)
		close(c.Stop)
		group.Wait()
	}
	if loud := log.Loud(); len(loud) > 20 {
		t.Errorf("%d records in the log, the first: %q", len(loud), loud[:5])
	}
	return rate, c.Result()
}

// The attacks that need no minutes end in the simulated network as they do over sockets, but for those on message types, of which there are none here.
func TestAttacks(t *testing.T) {
	if os.Getenv("PARLEY_ATTACKS") == "" {
		t.Skip("over sockets they run always, here with \"make attacks\"")
	}
	for _, at := range attack.All() {
		if at.Slow || at.App {
			continue
		}
		t.Run(at.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { assault(t, at.Against, &at) })
		})
	}
}

// What answers these attacks takes minutes: slow strangers in every phase, and such as promise and do not keep it.
func TestSlowAttacks(t *testing.T) {
	calm := map[attack.Target]float64{}
	for _, target := range []attack.Target{attack.Seed, attack.Download, attack.Magnet} {
		synctest.Test(t, func(t *testing.T) { calm[target], _ = assault(t, target, nil) })
	}
	var tb attack.Table
	for _, at := range attack.All() {
		if !at.Slow {
			continue
		}
		t.Run(at.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rate, result := assault(t, at.Against, &at)
				tb.Add(attack.Row{Name: at.Name, Limit: at.Limit, Outcome: result, Memory: "–",
					Rate: fmt.Sprintf("%.1f of %.1f MB/s simulated", rate/1e6, calm[at.Against]/1e6)})
			})
		})
	}
	tb.Print(t, "PARLEY_SLOW_ATTACKS")
}
