package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

// rateFlags are the limits of the rates.
type rateFlags struct {
	up, down         string
	upRate, downRate int64 // bytes/s, by check
	uploads          int
}

func (f *rateFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.up, "up", "", "send at most `RATE` bytes of content a second, such as 500k, 2M or 10MiB; 0 is any number")
	cmd.Flags().StringVar(&f.down, "down", "", "receive at most `RATE` bytes of content a second, likewise")
	cmd.Flags().IntVar(&f.uploads, "uploads", 0, "send content to at most `N` peers at a time; by default 8 of each torrent, and fewer under a low --up")
	noFiles(cmd, "up", "down", "uploads")
}

func (f *rateFlags) check() (err error) {
	if f.uploads < 0 {
		return failf(exitUsage, "such as 4; 0 for as many as each torrent has slots", "--uploads %d: must not be negative", f.uploads)
	}
	if f.upRate, err = parseRate("--up", f.up); err != nil {
		return err
	}
	f.downRate, err = parseRate("--down", f.down)
	return err
}

// units are what may follow the number of a rate, in lower case: as people write them, thousands without an i and 1,024 with one.
var units = map[string]float64{
	"": 1, "b": 1,
	"k": 1e3, "kb": 1e3, "ki": 1 << 10, "kib": 1 << 10,
	"m": 1e6, "mb": 1e6, "mi": 1 << 20, "mib": 1 << 20,
	"g": 1e9, "gb": 1e9, "gi": 1 << 30, "gib": 1 << 30,
}

// maxRate is the highest limit that can be asked for, 1 TB/s: beyond it somebody has mistaken the unit.
const maxRate = 1e12

// parseRate reads a number of bytes a second: digits, perhaps with a decimal point, a unit, and perhaps "/s". Empty is 0, no limit.
func parseRate(flag, s string) (int64, error) {
	const hint = "a rate is in bytes a second: a number and perhaps a unit, such as 51200, 500k, 1.5M or 10MiB; 0 for no limit"
	if s == "" {
		return 0, nil
	}
	n, unit, known, err := parseNumber(strings.TrimSuffix(strings.ToLower(s), "/s"))
	switch {
	case err != nil:
		return 0, failf(exitUsage, hint, "%s %q: not a rate", flag, s)
	case !known:
		return 0, failf(exitUsage, hint, "%s %q: %q is no unit", flag, s, unit)
	}
	switch {
	case n > maxRate:
		return 0, failf(exitUsage, hint, "%s %q: too high, the highest limit is 1000G", flag, s)
	case n != 0 && n < parley.MinLimit:
		return 0, failf(exitUsage, hint, "%s %q: too low, the lowest limit is %d bytes a second", flag, s, parley.MinLimit)
	}
	return int64(n), nil
}

// parseNumber reads digits, perhaps with a decimal point, and a unit. An unknown unit is returned as it stands.
func parseNumber(s string) (n float64, unit string, known bool, err error) {
	digits := strings.TrimLeft(s, "0123456789.")
	number := s[:len(s)-len(digits)]
	unit = strings.ToLower(digits)
	factor, known := units[unit]
	if n, err = strconv.ParseFloat(number, 64); err == nil && (strings.HasPrefix(number, ".") || strings.HasSuffix(number, ".")) {
		err = strconv.ErrSyntax
	}
	return n * factor, unit, known, err
}

// parseSize reads a number of bytes from least to most.
func parseSize(flag, s string, least, most int) (int, error) {
	hint := fmt.Sprintf("a size is a number of bytes, perhaps with a unit, such as 65536, 64KiB or 1MiB; here from %d to %d", least, most)
	n, unit, known, err := parseNumber(s)
	switch {
	case err != nil:
		return 0, failf(exitUsage, hint, "%s %q: not a size", flag, s)
	case !known:
		return 0, failf(exitUsage, hint, "%s %q: %q is no unit", flag, s, unit)
	case n < float64(least):
		return 0, failf(exitUsage, hint, "%s %q: too small", flag, s)
	case n > float64(most):
		return 0, failf(exitUsage, hint, "%s %q: too large", flag, s)
	case n != math.Trunc(n):
		return 0, failf(exitUsage, hint, "%s %q: not a whole number of bytes", flag, s)
	}
	return int(n), nil
}

// goalFlags say when enough has been served.
type goalFlags struct {
	ratio float64
	time  time.Duration
}

func (f *goalFlags) add(cmd *cobra.Command, ratioFlag, before string) {
	cmd.Flags().Float64Var(&f.ratio, ratioFlag, 0, before+" until `N` times its size has been sent")
	cmd.Flags().DurationVar(&f.time, "seed-time", 0, before+" for `TIME`, such as 90m or 24h")
	noFiles(cmd, ratioFlag, "seed-time")
}

// check refuses goals that cannot be; ratioFlag is what the command calls its flag.
func (f *goalFlags) check(ratioFlag string) error {
	if !(f.ratio >= 0 && f.ratio <= 1e6) {
		return failf(exitUsage, "such as 1 or 2.5", "--%s %v: must be a number from 0 to 1000000", ratioFlag, f.ratio)
	}
	if f.time < 0 {
		return failf(exitUsage, "such as 90m or 24h", "--seed-time %s: must not be negative", f.time)
	}
	return nil
}

// any reports whether there is a goal.
func (f *goalFlags) any() bool { return f.ratio > 0 || f.time > 0 }

// errEnough ends the serving of a torrent whose goal has been reached.
var errEnough = errors.New("seeded enough")

// untilEnough passes events on, and ends after the one that says that the torrent's goal has been reached.
func untilEnough(events iter.Seq[parley.Event], enough *bool) iter.Seq[parley.Event] {
	return func(yield func(parley.Event) bool) {
		for ev := range events {
			if !yield(ev) {
				return
			}
			if ev.Kind == parley.EventSeedGoal {
				*enough = true
				return
			}
		}
	}
}

// serve hands a torrent's events to handle until ctx ends, the torrent stops or its goal is reached, which is errEnough.
func serve(ctx context.Context, events iter.Seq[parley.Event], handle func(parley.Event)) error {
	enough := false
	err := follow(ctx, untilEnough(events, &enough), handle)
	if enough {
		return errEnough
	}
	return err
}

// served is one of several torrents that are seeded at once.
type served struct {
	t       *parley.Torrent
	events  iter.Seq[parley.Event]
	skipped []string
}

// seedAll serves several torrents until ctx ends or all have ended: those whose goal was reached well, the others with the error that it returns.
func (a *app) seedAll(ctx context.Context, all []served) error {
	a.ui.note("serving %s; Ctrl-C ends", plural(len(all), "torrent"))
	start := time.Now()
	m := a.ui.meter("seeding", false)
	defer m.end()
	watching, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		m.watchStats(watching, func() parley.Stats { return sum(all) }, func() string { return "" }, seedText)
	}()
	stop := func() { cancel(); <-watched }
	defer stop()
	var group sync.WaitGroup
	errs := make([]error, len(all))
	sessions := make([]int, len(all))
	for i, s := range all {
		group.Go(func() {
			log := a.logOf(s.t)
			log.prefix = safe.Clip(s.t.Name(), 40) + ": "
			err := serve(ctx, s.events, log.handle)
			sessions[i] = log.sessions
			if !errors.Is(err, errEnough) && ctx.Err() == nil {
				errs[i] = err
				log.note("has stopped: %s", safe.Escape(describe(err)))
			}
		})
	}
	group.Wait()
	stop()
	m.end()
	for i, s := range all {
		a.sayStopped(s.t, safe.Clip(s.t.Name(), 40)+": ", start, sessions[i], nil)
	}
	return errors.Join(errs...)
}

// sum adds up what torrents have done.
func sum(all []served) (total parley.Stats) {
	total.State = parley.StateSeeding
	for _, x := range all {
		s := x.t.Stats()
		total.TotalBytes += s.TotalBytes
		total.HaveBytes += s.HaveBytes
		total.WantedBytes += s.WantedBytes
		total.WantedHave += s.WantedHave
		total.WebSeeds += s.WebSeeds
		total.Pieces += s.Pieces
		total.HavePieces += s.HavePieces
		total.Peers += s.Peers
		total.Seeds += s.Seeds
		total.Downloaded += s.Downloaded
		total.Uploaded += s.Uploaded
		total.Wasted += s.Wasted
		total.DownRate += s.DownRate
		total.UpRate += s.UpRate
		total.CorruptPieces += s.CorruptPieces
	}
	return total
}
