package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// verify is how fast content on disk is compared with its hashes, beside what the cores can hash at all.
func (b *bench) verify() runnable {
	c := fmt.Sprintf("%d MiB, pieces of 1024 KiB", b.verifyMiB)
	return runnable{
		table: table{
			Name:  "verify",
			Title: "Verification of one file",
			Cases: []string{c},
			Metrics: []Metric{
				{Key: "mib_s", Title: "MiB/s", Format: "%.0f", Ratio: true},
				{Key: "cpu_s", Title: "CPU s", Format: "%.2f", Ratio: true},
			},
			Bars: []Bar{{Key: "mib_s", Against: string(implHash), AtLeast: 0.9}},
		},
		impls:   []impl{implParley, implHash, implLibtorrent},
		measure: func(ctx context.Context, im impl, _ string) (map[string]float64, error) { return b.verifyOnce(ctx, im) },
	}
}

func (b *bench) verifyOnce(ctx context.Context, im impl) (_ map[string]float64, err error) {
	c, err := makeContent(ctx, b.tmp, b.verifyMiB<<20, 1<<20)
	if err != nil {
		return nil, err
	}
	var args []string
	switch im {
	case implParley:
		args = append([]string{filepath.Join(b.tmp, "peer"), "verify", "-torrent", c.torrent, "-dir", c.dir}, b.profileArg(im, "verify")...)
	case implHash:
		args = []string{filepath.Join(b.tmp, "peer"), "hash", "-torrent", c.torrent}
	case implLibtorrent:
		args = []string{python, filepath.Join(b.src, "foreign", "lt_peer.py"), "verify", c.torrent, c.dir}
	}
	ch, err := start(ctx, fmt.Sprintf("%s verify", im), args...)
	if err != nil {
		return nil, err
	}
	defer stopAll(&err, ch)
	f, err := ch.expect(ctx, "VERIFIED", 5*time.Minute)
	if err != nil {
		return nil, err
	}
	r, err := parseReport(f)
	if err != nil {
		return nil, fmt.Errorf("VERIFIED: %w", err)
	}
	return map[string]float64{"seconds": r.seconds, "mib_s": float64(b.verifyMiB) / r.seconds, "cpu_s": r.cpu}, nil
}

// many is what it takes to seed many torrents at once while nobody asks for them. Each was verified in an earlier run.
func (b *bench) many() runnable {
	c := fmt.Sprintf("%d torrents", b.torrents)
	return runnable{
		table: table{
			Name:  "many",
			Title: "Many torrents seeded by one process",
			Cases: []string{c},
			Metrics: []Metric{
				{Key: "start_s", Title: "start, s", Format: "%.2f", Ratio: true},
				{Key: "first_s", Title: "very first start, s", Format: "%.2f", Ratio: true},
				{Key: "idle_pct", Title: "CPU while idle, % of a core", Format: "%.2f", Ratio: true},
				{Key: "kib", Title: "anonymous KiB a torrent", Format: "%.1f", Ratio: true},
			},
			Bars: []Bar{{Key: "start_s", AtMost: 3}, {Key: "idle_pct", AtMost: 1}},
		},
		impls:   []impl{implParley, implLibtorrent},
		measure: func(ctx context.Context, im impl, _ string) (map[string]float64, error) { return b.manyOnce(ctx, im) },
	}
}

func (b *bench) manyOnce(ctx context.Context, im impl) (_ map[string]float64, err error) {
	if b.manyDir == "" {
		if b.manyDir, err = makeMany(ctx, b.tmp, b.torrents, 256<<10, 16<<10); err != nil {
			return nil, err
		}
	}
	state, err := freshDir(b.tmp, "state")
	if err != nil {
		return nil, err
	}
	v := map[string]float64{}
	run := func(key string, extra ...string) (ch *child, err error) {
		args := append([]string{filepath.Join(b.tmp, "peer"), "many", "-dir", b.manyDir, "-state", state}, extra...)
		if im == implLibtorrent {
			args = []string{python, filepath.Join(b.src, "foreign", "lt_peer.py"), key, b.manyDir, b.manyDir}
		}
		begin := time.Now()
		if ch, err = start(ctx, fmt.Sprintf("%s %s", im, key), args...); err != nil {
			return nil, err
		}
		f, err := ch.expect(ctx, "SEEDING", 5*time.Minute)
		v[key] = time.Since(begin).Seconds()
		if err == nil && (len(f) != 1 || f[0] != strconv.Itoa(b.torrents)) {
			err = fmt.Errorf("%s of %d torrents are seeded", f, b.torrents)
		}
		if err != nil {
			return nil, errors.Join(err, ch.stop())
		}
		return ch, nil
	}
	first, err := run("first_s")
	if err != nil {
		return nil, err
	}
	if err := first.stop(); err != nil {
		return nil, err
	}
	ch, err := run("start_s", b.profileArg(im, "many")...)
	if err != nil {
		return nil, err
	}
	defer stopAll(&err, ch)
	if err := pause(ctx, 5*time.Second); err != nil { // what the start has left behind is over by then
		return nil, err
	}
	c0, err := cpuSeconds(ch.pid())
	if err != nil {
		return nil, err
	}
	const idleFor = 15 * time.Second
	if err := pause(ctx, idleFor); err != nil {
		return nil, err
	}
	c1, err := cpuSeconds(ch.pid())
	if err != nil {
		return nil, err
	}
	m, err := memoryOf(ch.pid())
	if err != nil {
		return nil, err
	}
	v["idle_pct"] = 100 * (c1 - c0) / idleFor.Seconds()
	v["kib"] = m.anon / float64(b.torrents)
	return v, nil
}

// hot is one torrent that many peers fetch at once.
func (b *bench) hot() runnable {
	c := fmt.Sprintf("%d peers, 16 MiB each", b.hotPeers)
	return runnable{
		table: table{
			Name:  "hot",
			Title: "One hot torrent",
			Cases: []string{c},
			Metrics: []Metric{
				{Key: "mib_s", Title: "MiB/s to all", Format: "%.0f", Ratio: true},
				{Key: "cpu_gib", Title: "CPU s a GiB", Format: "%.2f", Ratio: true},
				{Key: "cpu_ms", Title: "CPU ms a peer", Format: "%.1f"},
				{Key: "kib_peer", Title: "peak anonymous KiB a peer", Format: "%.0f", Ratio: true},
				{Key: "last_first", Title: "last ÷ first to finish", Format: "%.2f"},
			},
		},
		impls:   []impl{implParley, implLibtorrent},
		measure: func(ctx context.Context, im impl, _ string) (map[string]float64, error) { return b.hotOnce(ctx, im) },
	}
}

func (b *bench) hotOnce(ctx context.Context, im impl) (_ map[string]float64, err error) {
	const pieceBytes = 256 << 10
	c, err := makeContent(ctx, b.tmp, 16<<20, pieceBytes)
	if err != nil {
		return nil, err
	}
	extra := b.profileArg(im, "hot")
	if im == implLibtorrent {
		extra = append(extra, libtorrentMany...)
		extra = append(extra, "--set", "unchoke_slots_limit="+strconv.Itoa(2*b.hotPeers))
	} else {
		extra = append(extra, "-upload-slots", strconv.Itoa(2*b.hotPeers))
	}
	var target *peer
	var load *child
	defer func() {
		stopAll(&err, load)
		if target != nil {
			stopAll(&err, target.child)
		}
	}()
	if target, err = b.startPeer(ctx, im, "seed", c, c.dir, extra...); err != nil {
		return nil, err
	}
	if load, err = b.startLoad(ctx, "hot", target.addr, c, b.hotPeers, smallPieces, "-parallel", strconv.Itoa(b.hotPeers),
		"-bytes", strconv.FormatInt(c.bytes, 10), "-piece-bytes", strconv.Itoa(pieceBytes)); err != nil {
		return nil, err
	}
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	before, err := memoryOf(target.pid())
	if err != nil {
		return nil, err
	}
	c0, err := cpuSeconds(target.pid())
	if err != nil {
		return nil, err
	}
	anon := watchAnon(target.pid())
	f, err := load.ask(ctx, "go", "DONE", 3*time.Minute)
	peak := anon()
	if err != nil {
		return nil, err
	}
	c1, err := cpuSeconds(target.pid())
	if err != nil {
		return nil, err
	}
	v, err := numbers(f, 3) // peers, seconds until the first and until the last was complete
	if err != nil {
		return nil, fmt.Errorf("DONE: %w", err)
	}
	gib := v[0] * float64(c.bytes) / (1 << 30)
	return map[string]float64{"mib_s": gib * 1024 / v[2], "cpu_gib": (c1 - c0) / gib, "cpu_ms": (c1 - c0) * 1000 / v[0],
		"kib_peer": (peak[0] - before.anon) / v[0], "last_first": v[2] / v[1], "seconds": v[2]}, nil
}
