package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// bulk is benchmark (a): one file from one seeder to one leecher of the same make.
func (b *bench) bulk() runnable {
	r := runnable{
		table: table{
			Name:  "bulk",
			Title: fmt.Sprintf("Bulk transfer of %d MiB", b.totalMiB),
			Metrics: []Metric{
				{Key: "mib_s", Title: "MiB/s", Format: "%.0f", Ratio: true},
				{Key: "cpu_s", Title: "CPU s of both", Format: "%.2f", Ratio: true},
				{Key: "seed_cpu_s", Title: "seeder CPU s", Format: "%.2f"},
				{Key: "leech_cpu_s", Title: "leecher CPU s", Format: "%.2f"},
				{Key: "seed_anon_mib", Title: "seeder anonymous MiB", Format: "%.0f"},
				{Key: "leech_anon_mib", Title: "leecher anonymous MiB", Format: "%.0f"},
				{Key: "seed_rss_mib", Title: "seeder peak RSS MiB", Format: "%.0f"},
				{Key: "leech_rss_mib", Title: "leecher peak RSS MiB", Format: "%.0f"},
			},
			Bars: []Bar{{Key: "mib_s", Against: string(implLibtorrent), AtLeast: 1.3}, {Key: "cpu_s", Against: string(implAria2), AtMost: 1}},
		},
		impls: []impl{implParley, implLibtorrent, implAria2},
	}
	sizes := map[string]int64{}
	contents := map[string]content{}
	for _, n := range b.pieces {
		c := fmt.Sprintf("pieces of %d KiB", n>>10)
		sizes[c] = n
		r.Cases = append(r.Cases, c)
	}
	small := fmt.Sprintf("%d files of %d KiB, pieces of 256 KiB", smallFiles, smallFileBytes>>10)
	if b.small {
		r.Cases = append(r.Cases, small)
	}
	r.measure = func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		ct, ok := contents[c]
		if !ok {
			var err error
			if c == small {
				ct, err = makeFolder(ctx, b.tmp, smallFiles, smallFileBytes, 256<<10)
			} else if ct, err = makeContent(ctx, b.tmp, b.totalMiB<<20, sizes[c]); err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return nil, err
			}
			contents[c] = ct
		}
		return b.bulkOnce(ctx, im, ct)
	}
	return r
}

// The torrent of many small files.
const (
	smallFiles     = 5000
	smallFileBytes = 50 << 10
)

func (b *bench) bulkOnce(ctx context.Context, im impl, c content) (_ map[string]float64, err error) {
	dir, err := freshDir(b.tmp, "leech")
	if err != nil {
		return nil, err
	}
	var seeder, leecher *peer
	defer func() {
		for _, p := range []*peer{leecher, seeder} {
			if p != nil {
				stopAll(&err, p.child)
			}
		}
	}()
	if seeder, err = b.startPeer(ctx, im, "seed", c, c.dir, b.profileArg(im, "bulk"+im.hello()+"-seed")...); err != nil {
		return nil, err
	}
	if leecher, err = b.startPeer(ctx, im, "leech", c, dir, b.profileArg(im, "bulk"+im.hello()+"-leech")...); err != nil {
		return nil, err
	}
	if err := pretouch(ctx, b.tmp, c.bytes*5/2); err != nil {
		return nil, err
	}
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return nil, err
	}
	s0, err := cpuSeconds(seeder.pid())
	if err != nil {
		return nil, err
	}
	l0, err := cpuSeconds(leecher.pid())
	if err != nil {
		return nil, err
	}
	anon := watchAnon(seeder.pid(), leecher.pid())
	begin := time.Now()
	err = leecher.dial(ctx, seeder.addr)
	if err == nil {
		_, err = leecher.expect(ctx, "DONE", 120*time.Second)
	}
	wall := time.Since(begin).Seconds()
	peak := anon()
	if err != nil {
		return nil, err
	}
	s1, err := cpuSeconds(seeder.pid())
	if err != nil {
		return nil, err
	}
	l1, err := cpuSeconds(leecher.pid())
	if err != nil {
		return nil, err
	}
	sm, err := memoryOf(seeder.pid())
	if err != nil {
		return nil, err
	}
	lm, err := memoryOf(leecher.pid())
	if err != nil {
		return nil, err
	}
	if err := sameTree(filepath.Join(c.dir, c.name), filepath.Join(dir, c.name)); err != nil {
		return nil, err
	}
	gib := float64(c.bytes) / (1 << 30)
	return map[string]float64{
		"seconds": wall, "mib_s": gib * 1024 / wall, "cpu_gib": (s1 - s0 + l1 - l0) / gib, "seed_cpu_gib": (s1 - s0) / gib, "leech_cpu_gib": (l1 - l0) / gib,
		"cpu_s": s1 - s0 + l1 - l0, "seed_cpu_s": s1 - s0, "leech_cpu_s": l1 - l0,
		"seed_anon_mib": peak[0] / 1024, "leech_anon_mib": peak[1] / 1024,
		"seed_rss_mib": sm.peakRSS / 1024, "leech_rss_mib": lm.peakRSS / 1024,
	}, nil
}
