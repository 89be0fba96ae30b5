package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// Settings with which libtorrent accepts that many connections and keeps idle ones; the rest is as it comes.
var libtorrentMany = []string{"--set", "connections_limit=20000", "--set", "listen_queue_size=1000", "--set", "peer_timeout=600",
	"--set", "max_peerlist_size=0"}

// smallPieces makes the torrent of the connection benchmarks: 1,024 pieces of 16 KiB.
const smallPieces = 1024

// idle is benchmark (c): what one more peer that is connected and silent costs in memory.
func (b *bench) idle() runnable {
	c := fmt.Sprintf("%d peers", b.idlePeers)
	return runnable{
		table: table{
			Name:  "idle",
			Title: "Idle peers",
			Cases: []string{c},
			Metrics: []Metric{
				{Key: "kib_peer", Title: "anonymous KiB a peer", Format: "%.2f", Ratio: true},
				{Key: "base_mib", Title: "before the first, MiB", Format: "%.1f"},
				{Key: "idle_cpu", Title: "CPU while idle, cores", Format: "%.3f"},
			},
			Bars: []Bar{{Key: "kib_peer", AtMost: 8}},
		},
		impls:   []impl{implParley, implLibtorrent},
		measure: func(ctx context.Context, im impl, _ string) (map[string]float64, error) { return b.idleOnce(ctx, im) },
	}
}

// target starts a seeder of the small torrent and the load beside it. The caller stops both, also after an error.
func (b *bench) target(ctx context.Context, im impl, profile, mode string, n int) (target *peer, load *child, err error) {
	c, err := makeContent(ctx, b.tmp, smallPieces*16<<10, 16<<10)
	if err != nil {
		return nil, nil, err
	}
	var extra []string
	if im == implLibtorrent {
		extra = libtorrentMany
	}
	if target, err = b.startPeer(ctx, im, "seed", c, c.dir, append(extra, b.profileArg(im, profile)...)...); err != nil {
		return nil, nil, err
	}
	load, err = b.startLoad(ctx, mode, target.addr, c, n, smallPieces)
	return target, load, err
}

// startLoad starts a load of n peers on addr that is ready to go. The caller stops it, also after an error.
func (b *bench) startLoad(ctx context.Context, mode, addr string, c content, n, pieces int, extra ...string) (*child, error) {
	args := []string{filepath.Join(b.tmp, "load"), mode, "-addr", addr, "-infohash", c.infoHash, "-n", strconv.Itoa(n), "-pieces", strconv.Itoa(pieces)}
	load, err := start(ctx, "load "+mode, append(args, extra...)...)
	if err != nil {
		return nil, err
	}
	_, err = load.expect(ctx, "READY", 10*time.Second)
	return load, err
}

// anonAtRest lets the target collect its garbage and reads its anonymous memory, in KiB.
func anonAtRest(ctx context.Context, p *peer) (float64, error) {
	if _, err := p.ask(ctx, "gc", "GC", 30*time.Second); err != nil {
		return 0, err
	}
	m, err := memoryOf(p.pid())
	return m.anon, err
}

func (b *bench) idleOnce(ctx context.Context, im impl) (_ map[string]float64, err error) {
	target, load, err := b.target(ctx, im, "idle", "idle", b.idlePeers)
	defer func() {
		stopAll(&err, load)
		if target != nil {
			stopAll(&err, target.child)
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	before, err := anonAtRest(ctx, target)
	if err != nil {
		return nil, err
	}
	if _, err := load.ask(ctx, "go", "UP", 120*time.Second); err != nil {
		return nil, err
	}
	// What setting the connections up has left behind in timers and queues is over by then.
	if err := pause(ctx, 8*time.Second); err != nil {
		return nil, err
	}
	c0, err := cpuSeconds(target.pid())
	if err != nil {
		return nil, err
	}
	const idleFor = 5 * time.Second
	if err := pause(ctx, idleFor); err != nil {
		return nil, err
	}
	c1, err := cpuSeconds(target.pid())
	if err != nil {
		return nil, err
	}
	after, err := anonAtRest(ctx, target)
	if err != nil {
		return nil, err
	}
	f, err := load.ask(ctx, "alive", "ALIVE", 10*time.Second)
	if err != nil {
		return nil, err
	}
	if len(f) != 1 || f[0] != strconv.Itoa(b.idlePeers) {
		return nil, fmt.Errorf("%s of %d idle peers are still connected", f, b.idlePeers)
	}
	return map[string]float64{"kib_peer": (after - before) / float64(b.idlePeers), "base_mib": before / 1024,
		"idle_cpu": (c1 - c0) / idleFor.Seconds()}, nil
}

// hs is benchmark (d): what a new connection costs the peer that accepts it.
func (b *bench) hs() runnable {
	return runnable{
		table: table{
			Name:  "hs",
			Title: "New connections: connect, plaintext hello, close",
			Cases: []string{fmt.Sprintf("%d connections", b.hellos)},
			Metrics: []Metric{
				{Key: "cpu_us", Title: "CPU µs at the target", Format: "%.0f", Ratio: true},
				{Key: "per_s", Title: "a second", Format: "%.0f"},
			},
			Bars: []Bar{{Key: "cpu_us", Against: string(implLibtorrent), AtMost: 1.3}},
		},
		impls:   []impl{implParley, implLibtorrent},
		measure: func(ctx context.Context, im impl, _ string) (map[string]float64, error) { return b.hsOnce(ctx, im) },
	}
}

func (b *bench) hsOnce(ctx context.Context, im impl) (_ map[string]float64, err error) {
	target, load, err := b.target(ctx, im, "hs", "hs", b.hellos)
	defer func() {
		stopAll(&err, load)
		if target != nil {
			stopAll(&err, target.child)
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	c0, err := cpuSeconds(target.pid())
	if err != nil {
		return nil, err
	}
	f, err := load.ask(ctx, "go", "DONE", 120*time.Second)
	if err != nil {
		return nil, err
	}
	v, err := numbers(f, 3)
	if err != nil {
		return nil, fmt.Errorf("DONE: %w", err)
	}
	if err := pause(ctx, time.Second); err != nil { // clearing up after the last ones counts too
		return nil, err
	}
	c1, err := cpuSeconds(target.pid())
	if err != nil {
		return nil, err
	}
	return map[string]float64{"cpu_us": (c1 - c0) * 1e6 / v[0], "per_s": v[0] / v[1], "seconds": v[1]}, nil
}
