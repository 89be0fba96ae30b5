package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/parley-bt/parley"
)

const (
	barRefresh   = 200 * time.Millisecond
	firstLine    = time.Second     // what ends sooner needs no progress line
	lineInterval = 5 * time.Second // between progress lines where there is no terminal
	jsonInterval = time.Second     // between progress events
)

// A meter shows how far something has come: a live bar if standard error is a terminal, else a line now and then, and
// an event now and then if standard output carries JSON. Its methods are safe for concurrent use.
type meter struct {
	ui      *ui
	title   string
	percent bool // it has an end to come nearer to

	prog *mpb.Progress // nil without a terminal
	bar  *mpb.Bar
	text atomic.Pointer[string]

	mu       sync.Mutex
	ended    bool
	lineAt   time.Time // when the next line is due
	lastLine string
	jsonAt   time.Time // when the next event is due
}

// meter starts a meter; end must be called. The title must be escaped. There is at most one at a time.
func (u *ui) meter(title string, withBar bool) *meter {
	t := time.Now()
	m := &meter{ui: u, title: title, percent: withBar, lineAt: t.Add(firstLine), jsonAt: t.Add(jsonInterval)}
	m.text.Store(new(string))
	if !u.errTTY {
		return m
	}
	m.prog = mpb.New(mpb.WithOutput(u.err), mpb.WithAutoRefresh(), mpb.WithRefreshRate(barRefresh))
	var filler mpb.BarFillerBuilder
	if withBar {
		filler = roomyBar{mpb.BarStyle().Rbound("] ").Build()}
	}
	// A total of 0 keeps the bar from ending by itself; end does that. Decorators run on the bar's goroutine
	// while writers wait for it: they must not take ui.errMu.
	// The spaces are ours: the library's own go with the bar when the terminal is too narrow for it. So is the carriage return: a
	// terminal that echoes what is typed, such as ^C, moves the cursor away from where the library believes it is.
	m.bar = m.prog.New(0, filler, mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Any(func(s decor.Statistics) string {
			if !withBar || s.Total == 0 {
				return "\r" + m.title + " "
			}
			return fmt.Sprintf("\r%s %3d%% ", m.title, percent(s.Current, s.Total))
		})),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return fit(*m.text.Load(), s.AvailableWidth) })),
	)
	u.errMu.Lock()
	u.bar = aboveBar{m.prog, u.err}
	u.errMu.Unlock()
	return m
}

// roomyBar leaves the bar out where it would be too short to show anything.
type roomyBar struct{ mpb.BarFiller }

func (b roomyBar) Build() mpb.BarFiller { return b }

func (b roomyBar) Fill(w io.Writer, s decor.Statistics) error {
	if s.AvailableWidth < 10 {
		return nil
	}
	return b.BarFiller.Fill(w, s)
}

// fit shortens a live line to width columns as far as that goes without losing its figures.
func fit(text string, width int) string {
	for _, word := range []string{" pieces", "ETA "} {
		if utf8.RuneCountInString(text) > width {
			text = strings.Replace(text, word, "", 1)
		}
	}
	return text
}

// set tells the meter how far it is. text must be escaped; event, if not nil, makes the event to print.
func (m *meter) set(done, total int64, text string, event func() any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	t := time.Now()
	if m.ui.json && event != nil && !t.Before(m.jsonAt) {
		m.jsonAt = t.Add(jsonInterval)
		m.ui.emit(event())
	}
	if m.bar != nil {
		m.text.Store(&text)
		m.bar.SetTotal(total, false)
		m.bar.SetCurrent(done)
		return
	}
	if t.Before(m.lineAt) {
		return
	}
	line := m.title + " " + text
	if m.percent && total > 0 {
		line = fmt.Sprintf("%s %d%% %s", m.title, percent(done, total), text)
	}
	if line == m.lastLine {
		return // nothing has changed: say nothing
	}
	m.lineAt, m.lastLine = t.Add(lineInterval), line
	m.ui.note("%s", line)
}

// end removes the bar. Later calls of set do nothing.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.ended = true
	if m.prog == nil {
		return
	}
	// Under the lock, so that no line is printed while the bar is being wiped.
	m.ui.errMu.Lock()
	defer m.ui.errMu.Unlock()
	m.ui.bar = nil
	// Whatever was typed is wiped too. Nothing can be told to anybody when standard error is gone.
	_, _ = m.ui.err.Write([]byte("\r"))
	m.bar.Abort(true)
	m.prog.Wait() // writes out what still waits above the bar
}

// percent is 100 only when everything is done.
func percent(done, total int64) int64 {
	if total <= 0 {
		return 100
	}
	return int64(float64(done) / float64(total) * 100)
}

// hashing returns a meter for pieces being hashed, and the callback that drives it. events says whether it may print
// JSON: seed and listen promise that theirs begins with the magnet link.
func (u *ui) hashing(title string, events bool) (*meter, func(done, total int)) {
	m := u.meter(title, true)
	return m, func(done, total int) {
		var event func() any
		if events {
			event = func() any { return hashEvent{head: now("hashing"), DonePieces: done, Pieces: total} }
		}
		m.set(int64(done), int64(total), fmt.Sprintf("%d/%d pieces", done, total), event)
	}
}

type hashEvent struct {
	head
	DonePieces int `json:"done_pieces"`
	Pieces     int `json:"pieces"`
}

// watch feeds the meter from a torrent's statistics until ctx ends or the meter does.
func (m *meter) watch(ctx context.Context, t *parley.Torrent, text func(parley.Stats) string) {
	m.watchStats(ctx, t.Stats, func() string { return t.InfoHash().String() }, text)
}

// watchStats is watch for any statistics; infoHash says of which torrent they are, if they are of one.
func (m *meter) watchStats(ctx context.Context, stats func() parley.Stats, infoHash func() string, text func(parley.Stats) string) {
	tick := time.NewTicker(barRefresh)
	defer tick.Stop()
	set := func() {
		s := stats()
		m.set(s.WantedHave, s.WantedBytes, text(s), func() any { return statsEvent{torrentHead{now("progress"), infoHash()}, statsJSON(s)} })
	}
	defer set() // how it ended
	for {
		set()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// downloadText is the live line of a download: rate, time left, peers, pieces.
func downloadText(s parley.Stats) string {
	switch s.State {
	case parley.StateMetadata:
		return "waiting for metadata, " + plural(s.Peers, "peer")
	case parley.StateVerifying:
		return fmt.Sprintf("verifying what is there, %d/%d pieces", s.HavePieces, s.Pieces)
	}
	eta := "-"
	if left := s.WantedBytes - s.WantedHave; left <= 0 {
		eta = "0.0 s"
	} else if s.DownRate >= 1 {
		// Beyond some days the figure means nothing; the bound also keeps the conversion in range.
		if secs := float64(left) / s.DownRate; secs < 100*3600 {
			eta = spanText(time.Duration(secs * float64(time.Second)))
		}
	}
	from := plural(s.Peers, "peer")
	if s.WebSeeds > 0 {
		from += ", " + plural(s.WebSeeds, "web seed")
	}
	return fmt.Sprintf("%s/s, ETA %s, %s, %d/%d pieces", sizeText(int64(s.DownRate)), eta, from, s.HavePieces, s.Pieces)
}

// seedText is the live line of a seed.
func seedText(s parley.Stats) string {
	return fmt.Sprintf("%s, %s/s up, %s sent", plural(s.Peers, "peer"), sizeText(int64(s.UpRate)), sizeText(s.Uploaded))
}

// aboveBar writes lines above a live bar, or as usual once the bar has given up its terminal.
type aboveBar struct {
	prog   *mpb.Progress
	direct io.Writer
}

func (w aboveBar) Write(b []byte) (int, error) {
	_, err := w.prog.Write(append([]byte("\r"), b...)) // see ui.meter
	if errors.Is(err, mpb.ErrDone) {
		return w.direct.Write(b)
	}
	return len(b), err
}
