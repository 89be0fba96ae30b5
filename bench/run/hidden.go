package main

import (
	"context"
	"fmt"
)

// hidden is what it costs to hide a session: bulk and messages over the veil and by MSE with RC4, beside plaintext.
func (b *bench) hidden() []runnable {
	const pieceBytes = 1 << 20
	name := fmt.Sprintf("%d MiB, pieces of 1 MiB", b.totalMiB)
	bulk := runnable{
		table: table{
			Name:  "hidden",
			Title: "Bulk transfer, hidden and not",
			Cases: []string{name},
			Ours:  []impl{implParley, implMSE},
			Metrics: []Metric{
				{Key: "mib_s", Title: "MiB/s", Format: "%.0f", Ratio: true},
				{Key: "cpu_gib", Title: "CPU s a GiB, both ends", Format: "%.2f"},
				{Key: "seed_cpu_gib", Title: "CPU s a GiB, the seeder", Format: "%.2f"},
				{Key: "leech_cpu_gib", Title: "CPU s a GiB, the leecher", Format: "%.2f"},
				{Key: "seed_anon_mib", Title: "seeder anonymous MiB", Format: "%.0f"},
				{Key: "leech_anon_mib", Title: "leecher anonymous MiB", Format: "%.0f"},
			},
			Bars: []Bar{
				{Of: implVeil, Key: "seed_cpu_gib", Above: string(implParley), AtMost: 0.55},
				{Of: implVeil, Key: "leech_cpu_gib", Above: string(implParley), AtMost: 0.55},
				{Of: implMSE, Key: "mib_s", Against: string(implLibtorrentRC4), AtLeast: 1.5},
			},
		},
		impls: []impl{implParley, implVeil, implMSE, implLibtorrent, implLibtorrentRC4},
	}
	bulk.measure = func(ctx context.Context, im impl, _ string) (map[string]float64, error) {
		c, err := makeContent(ctx, b.tmp, b.totalMiB<<20, pieceBytes)
		if err != nil {
			return nil, err
		}
		return b.bulkOnce(ctx, im, c)
	}
	messages := runnable{
		table: table{
			Name:    "hidden-msgs",
			Title:   "One-way messages, over the veil and not",
			Cases:   []string{"64 B", "1 KiB", "16 KiB"},
			Ours:    []impl{implEMPVeil},
			Metrics: append([]Metric{{Key: "msgs_s", Title: "messages/s", Format: "%.0f", Ratio: true}}, messageMetrics("a message", "the sender", "the receiver")...),
			Bars:    []Bar{{Of: implEMPVeil, Key: "msgs_s", Against: string(implEMP), AtLeast: 0.8, Case: "64 B"}},
		},
		impls: []impl{implEMP, implEMPVeil},
	}
	messages.measure = func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		k := messageKinds[c]
		return b.exchangeOnce(ctx, oneWay(im, b.scaled(k.n), k.size))
	}
	return []runnable{bulk, messages}
}
