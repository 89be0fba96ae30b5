package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// helloPairs is what obfuscated hellos cost: both sides, the side that accepts, and the search for the torrent that a hello is for. Each is a process that does it again and again on
// one P, kept on one core, and is judged by its processor time.
func (b *bench) helloPairs() []runnable {
	const pair, accept = "both sides", "who accepts"
	cpu := Metric{Key: "cpu_us", Title: "CPU µs", Format: "%.1f", Ratio: true}
	rest := []Metric{{Key: "us", Title: "µs", Format: "%.1f"}, {Key: "allocs", Title: "allocations", Format: "%.0f"}}
	found := func(n int) string { return fmt.Sprintf("the last of %d", n) }
	numbers := map[string]int{}
	search := runnable{
		table: table{Name: "hello-find", Title: "The torrent that a veiled hello is for, for each of those that are served",
			Metrics: []Metric{{Key: "cpu_ns", Title: "CPU ns a torrent", Format: "%.1f", Ratio: true}, {Key: "ns", Title: "ns a torrent", Format: "%.1f"},
				{Key: "allocs", Title: "allocations a search", Format: "%.0f"}},
			Bars: []Bar{{Key: "cpu_ns", Against: string(implSHA1), AtMost: 1.15}, {Key: "allocs", AtMost: 0}}},
		impls: []impl{implParley, implSHA1},
	}
	for _, n := range []int{1, 1000, 100_000} {
		numbers[found(n)] = n
		search.Cases = append(search.Cases, found(n))
	}
	search.measure = func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		what := map[impl]string{implParley: "find", implSHA1: "sha1"}[im]
		return b.repeatOnce(ctx, im, what, "-n", strconv.Itoa(numbers[c]))
	}
	byName := func(names map[impl]string) func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		return func(ctx context.Context, im impl, _ string) (map[string]float64, error) {
			return b.repeatOnce(ctx, im, names[im])
		}
	}
	return []runnable{
		{
			table: table{Name: "hello-mse", Title: "Hello by MSE, RC4", Cases: []string{pair}, Ours: []impl{implParley, implPipe}, Metrics: append([]Metric{cpu}, rest...),
				Bars: []Bar{{Of: implPipe, Key: "cpu_us", Against: string(implAnacrolix), AtMost: 0.5}}},
			impls:   []impl{implParley, implPipe, implAnacrolix},
			measure: byName(map[impl]string{implParley: "mse", implPipe: "mse-pipe", implAnacrolix: "mse-pipe"}),
		},
		{
			table: table{Name: "hello-veil", Title: "Veiled hello", Cases: []string{pair}, Ours: []impl{implParley, implPipe}, Metrics: append([]Metric{cpu}, rest...),
				Bars: []Bar{{Key: "cpu_us", Against: string(implX25519), AtMost: 1.15}, {Of: implPrepared, Key: "cpu_us", Against: string(implX25519), AtMost: 1.15},
					{Of: implPrepared, Key: "allocs", AtMost: 10}}},
			impls:   []impl{implParley, implPipe, implPrepared, implX25519, implLibp2p},
			measure: byName(map[impl]string{implParley: "veil", implPipe: "veil-pipe", implPrepared: "veil-prepared", implX25519: "x25519", implLibp2p: "noise-pipe"}),
		},
		{
			table:   table{Name: "hello-accept", Title: "Veiled hello that is accepted", Cases: []string{accept}, Ours: []impl{implParley, implPrepared}, Metrics: append([]Metric{cpu}, rest...)},
			impls:   []impl{implParley, implPrepared, implX25519},
			measure: byName(map[impl]string{implParley: "accept", implPrepared: "accept-prepared", implX25519: "x25519-accept"}),
		},
		search,
	}
}

// repeatOnce starts a program that does one thing again and again, and reads what it reports.
func (b *bench) repeatOnce(ctx context.Context, im impl, what string, extra ...string) (_ map[string]float64, err error) {
	name := program[im]
	if name == "" {
		name = "hellos"
	}
	args := slices.Concat(onOneCore(), []string{filepath.Join(b.tmp, name), what, "-for", b.pairTime.String()}, extra)
	c, err := start(ctx, fmt.Sprintf("%s %s", im, what), args...)
	if err != nil {
		return nil, err
	}
	defer func() { stopAll(&err, c) }()
	words, err := c.expect(ctx, "EACH", 10*b.pairTime+30*time.Second)
	if err != nil {
		return nil, err
	}
	v, err := numbers(words, 4)
	if err != nil {
		return nil, fmt.Errorf("EACH: %w", err)
	}
	return map[string]float64{"cpu_ns": v[0], "ns": v[1], "cpu_us": v[0] / 1e3, "us": v[1] / 1e3, "allocs": v[2], "times": v[3]}, nil
}

// onOneCore returns what a program is started with to stay on one core, the last that this process may use; nothing if there is no way.
func onOneCore() []string {
	path, err := exec.LookPath("taskset")
	if err != nil {
		return nil
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(status)) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			list = strings.TrimSpace(list)
			return []string{path, "-c", list[strings.LastIndexAny(list, ",-")+1:]}
		}
	}
	return nil
}
