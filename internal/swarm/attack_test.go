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
	"github.com/parley-bt/parley/metainfo"
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

// assaultV2 is a world with a torrent of version 2 (BEP 52), of files of four pieces.
func assaultV2(t *testing.T, total, pieceBytes int64) (*world, attack.Scene) {
	var sizes []int64
	for at := int64(0); at < total; at += 4 * pieceBytes {
		sizes = append(sizes, min(4*pieceBytes, total-at))
	}
	w := newWorldV2(t, metainfo.FormV2, pieceBytes, sizes, slow)
	hashes, err := attack.HashesOf(w.info, w.layers)
	if err != nil {
		t.Fatal(err)
	}
	return w, attack.Scene{InfoHash: w.ih, Geometry: w.info.Geometry, Info: w.info.Bytes, Files: w.info.Files, PieceBytes: pieceBytes, Hashes: hashes}
}

// assault runs an attack on a node, nil none, while an honest peer is served. It returns the honest peer's rate in bytes a second of the simulated time, and what came of the attack.
func assault(t *testing.T, target attack.Target, at *attack.Attack) (rate float64, result string) {
	pieceBytes := int64(64 << 10)
	if raceEnabled {
		pieceBytes = 2 * piece // half the content for the honest peer; the attacks are the same
	}
	total := 131*pieceBytes - 100
	w := newWorld(t, total, pieceBytes, slow)
	scene := attack.Scene{InfoHash: w.ih, Geometry: w.info.Geometry, Info: w.info.Bytes}
	var options []func(*node, *Config)
	if at != nil {
		if at.V2 {
			w, scene = assaultV2(t, total, pieceBytes)
		}
		if at.UploadLimit > 0 {
			options = append(options, uploading(at.UploadLimit))
		}
		if at.DownloadLimit > 0 {
			options = append(options, downloading(at.DownloadLimit))
		}
		options = append(options, with(func(cfg *Config) { cfg.SuperSeed = at.SuperSeed }))
	}
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
		victim = w.start(append(options, seeding, watched)...)
	case attack.Download:
		victim = w.start(append(options, watched)...)
	case attack.Magnet:
		victim = w.start(append(options, magnet, watched)...)
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
		c = attack.NewCampaign(at, scene, st)
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
		if at.Slow || at.App || at.V2 || at.UploadLimit > 0 || at.DownloadLimit > 0 {
			continue // which limit answers first, on a session of version 2 or under a limit, depends on what a socket holds
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
