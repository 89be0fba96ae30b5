package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// msgs is benchmark (b): messages one way between two processes, a call per message at either end, nothing lost.
func (b *bench) msgs() runnable {
	r := runnable{
		table: table{
			Name:  "msgs",
			Title: "One-way messages (BEP 10)",
			Metrics: []Metric{
				{Key: "msgs_s", Title: "messages/s", Format: "%.0f", Ratio: true},
				{Key: "cpu_us", Title: "CPU µs a message, both ends", Format: "%.2f", Ratio: true},
				{Key: "send_us", Title: "of it the sender", Format: "%.2f"},
				{Key: "recv_us", Title: "the receiver", Format: "%.2f"},
			},
			Bars: []Bar{{Key: "msgs_s", Against: string(implLibtorrent), AtLeast: 0.8, Case: "64 B"}},
		},
		impls: []impl{implParley, implLibtorrent},
	}
	type kind struct{ bytes, n int }
	kinds := map[string]kind{"64 B": {64, 3_000_000}, "1 KiB": {1 << 10, 1_000_000}, "16 KiB": {16 << 10, 100_000}}
	r.Cases = []string{"64 B", "1 KiB", "16 KiB"}
	r.measure = func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		k := kinds[c]
		return b.msgsOnce(ctx, im, max(1, int(float64(k.n)*b.msgScale)), k.bytes)
	}
	return r
}

func (b *bench) msgsOnce(ctx context.Context, im impl, n, size int) (_ map[string]float64, err error) {
	c, err := makeContent(ctx, b.tmp, 256<<10, 16<<10)
	if err != nil {
		return nil, err
	}
	begin := func(mode string) (*peer, error) {
		dir, err := freshDir(b.tmp, "msgs-"+mode)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("%s %s", im, mode)
		if im == implLibtorrent {
			return startDriven(ctx, name, filepath.Join(b.tmp, "ltmsg"), mode, c.torrent, dir, strconv.Itoa(n), strconv.Itoa(size))
		}
		args := []string{filepath.Join(b.tmp, "peer"), mode, "-torrent", c.torrent, "-dir", dir, "-n", strconv.Itoa(n), "-size", strconv.Itoa(size)}
		return startDriven(ctx, name, append(args, b.profileArg(im, fmt.Sprintf("msgs-%d-%s", size, mode))...)...)
	}
	var receiver, sender *peer
	defer func() {
		for _, p := range []*peer{sender, receiver} {
			if p != nil {
				stopAll(&err, p.child)
			}
		}
	}()
	if receiver, err = begin("recv"); err != nil {
		return nil, err
	}
	if sender, err = begin("send"); err != nil {
		return nil, err
	}
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return nil, err
	}
	if err := sender.dial(ctx, receiver.addr); err != nil {
		return nil, err
	}
	sent, err := sender.expect(ctx, "SEND", 120*time.Second)
	if err != nil {
		select { // the receiver's reason says more, if it has one
		case line := <-receiver.lines:
			err = fmt.Errorf("%w (the receiver: %s)", err, line)
		default:
		}
		return nil, err
	}
	received, err := receiver.expect(ctx, "RECV", 10*time.Second)
	if err != nil {
		return nil, err
	}
	s, err := numbers(sent, 2)
	if err != nil {
		return nil, fmt.Errorf("SEND: %w", err)
	}
	t, err := numbers(received, 2)
	if err != nil {
		return nil, fmt.Errorf("RECV: %w", err)
	}
	per := 1e6 / float64(n)
	return map[string]float64{"messages": float64(n), "seconds": t[0], "msgs_s": float64(n) / t[0],
		"send_us": s[1] * per, "recv_us": t[1] * per, "cpu_us": (s[1] + t[1]) * per}, nil
}

// numbers parses exactly n numbers.
func numbers(words []string, n int) ([]float64, error) {
	if len(words) != n {
		return nil, fmt.Errorf("%q: want %d numbers", words, n)
	}
	out := make([]float64, n)
	for i, w := range words {
		var err error
		if out[i], err = strconv.ParseFloat(w, 64); err != nil {
			return nil, err
		}
	}
	return out, nil
}
