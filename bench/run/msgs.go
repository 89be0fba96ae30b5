package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// exchange is one measurement between two processes: what they do, and how often.
type exchange struct {
	im           impl
	passive      string // mode of the end that listens
	active       string // mode of the end that dials
	passiveSays  string // first word of its report
	activeSays   string
	n, size      int
	passiveExtra []string                                           // arguments
	beside       func(ctx context.Context, p *peer) (*child, error) // starts what is there besides the two; or nil
}

// oneWay is messages in one direction.
func oneWay(im impl, n, size int) exchange {
	return exchange{im: im, passive: "recv", active: "send", passiveSays: "RECV", activeSays: "SEND", n: n, size: size}
}

// messageMetrics is what is said of messages beside how many there are in a second.
func messageMetrics(of, sender, receiver string) []Metric {
	return []Metric{
		{Key: "cpu_us", Title: "CPU µs " + of + ", both ends", Format: "%.2f", Ratio: true},
		{Key: "send_us", Title: "of it " + sender, Format: "%.2f"},
		{Key: "recv_us", Title: receiver, Format: "%.2f"},
		{Key: "send_allocs", Title: "allocations " + of + ", " + sender, Format: "%.3f"},
		{Key: "recv_allocs", Title: receiver, Format: "%.3f"},
	}
}

// msgs is messages between two processes: one way, a call per message at either end, nothing lost; and requests.
func (b *bench) msgs() []runnable { return []runnable{b.oneWays(), b.requests()} }

func (b *bench) oneWays() runnable {
	r := runnable{
		table: table{
			Name:    "msgs",
			Title:   "One-way messages (1 MiB is 1,048,574 bytes: the most in a frame of BEP 10)",
			Cases:   []string{"64 B", "1 KiB", "16 KiB", "1 MiB"},
			Ours:    []impl{implEMP, implLTEP},
			Metrics: append([]Metric{{Key: "msgs_s", Title: "messages/s", Format: "%.0f", Ratio: true}}, messageMetrics("a message", "the sender", "the receiver")...),
		},
		impls: []impl{implEMP, implLTEP, implLibtorrent, implRaw, implLibp2p},
	}
	for _, ours := range r.Ours {
		for _, c := range []string{"64 B", "1 KiB"} {
			r.Bars = append(r.Bars, Bar{Of: ours, Key: "msgs_s", Against: string(implLibtorrent), AtLeast: 1, Case: c})
		}
	}
	r.Bars = append(r.Bars, Bar{Of: implEMP, Key: "msgs_s", Against: string(implRaw), AtLeast: 0.8, Case: "1 MiB"})
	r.measure = func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		k := messageKinds[c]
		if im == implLibp2p {
			k.n = k.calls
		}
		return b.exchangeOnce(ctx, oneWay(im, b.scaled(k.n), k.size))
	}
	return r
}

// messageKinds is the messages of each case. Counts are for about a second each; what makes a system call for each message gets fewer.
var messageKinds = map[string]struct{ size, n, calls int }{"64 B": {64, 8_000_000, 250_000}, "1 KiB": {1 << 10, 1_500_000, 150_000}, "16 KiB": {16 << 10, 100_000, 40_000},
	"1 MiB": {1<<20 - 2, 2000, 1000}}

// requests is requests one after the other, each made when the one before is answered.
func (b *bench) requests() runnable {
	const name = "64 B, answered by 64 B"
	r := runnable{
		table: table{
			Name:    "requests",
			Title:   "Requests, one at a time",
			Cases:   []string{name},
			Ours:    []impl{implEMP},
			Metrics: append([]Metric{{Key: "trip_us", Title: "µs a round trip", Format: "%.1f", Ratio: true}}, messageMetrics("a round trip", "who asks", "who answers")...),
			Bars:    []Bar{{Of: implEMP, Key: "trip_us", Against: string(implRaw), AtMost: 1.5}},
		},
		impls: []impl{implEMP, implRaw, implLibp2p},
	}
	r.measure = func(ctx context.Context, im impl, _ string) (map[string]float64, error) {
		return b.exchangeOnce(ctx, exchange{im: im, passive: "answer", active: "ask", passiveSays: "ANSWERED", activeSays: "ASKED", n: b.scaled(30_000), size: 64})
	}
	return r
}

// What the receiver has beside the one that talks, in benchmark scale.
const (
	idleTypes  = 10_000
	idleBeside = 1000
	alone      = "1 peer, 1 type"
)

// typesEach is how many message types a torrent has room for, in round numbers: in emp an exchange is the limit (16 KiB), in ltep its ids are.
var typesEach = map[impl]int{implEMP: 400, implLTEP: 200}

// scale is what one talking peer gets of a client that has much else, all of it idle.
func (b *bench) scale() []runnable {
	types, peers := fmt.Sprintf("%d idle types beside", idleTypes), fmt.Sprintf("%d idle peers beside", idleBeside)
	r := runnable{
		table: table{
			Name:  "scale",
			Title: fmt.Sprintf("One-way messages of 64 B to a client that has much else (types: %d or, in ltep, %d a torrent)", typesEach[implEMP], typesEach[implLTEP]),
			Cases: []string{alone, types, peers},
			Ours:  []impl{implEMP, implLTEP},
			Metrics: []Metric{
				{Key: "msgs_s", Title: "messages/s", Format: "%.0f", Base: alone},
				{Key: "cpu_us", Title: "CPU µs a message, both ends", Format: "%.2f", Base: alone},
				{Key: "recv_us", Title: "of it the receiver", Format: "%.2f", Base: alone},
			},
		},
		impls:       []impl{implEMP, implLTEP},
		casesInTurn: true,
	}
	r.measure = func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		e := oneWay(im, b.scaled(8_000_000), 64)
		switch c {
		case types:
			torrents := idleTypes / typesEach[im]
			dir, err := makeMany(ctx, filepath.Join(b.tmp, "idle-types"), torrents, 16<<10, 16<<10)
			if err != nil {
				return nil, err
			}
			e.passiveExtra = []string{"-idle-types", strconv.Itoa(idleTypes), "-idle-torrents", dir}
		case peers:
			e.beside = b.idlePeersAt
		}
		return b.exchangeOnce(ctx, e)
	}
	return []runnable{r}
}

func (b *bench) scaled(n int) int { return max(1, int(float64(n)*b.msgScale)) }

// The one torrent of all messages: it is never downloaded.
const messagePieces, messagePiece = 16, 16 << 10

// idlePeersAt connects idle peers to p, in the torrent of the messages.
func (b *bench) idlePeersAt(ctx context.Context, p *peer) (*child, error) {
	c, err := makeContent(ctx, b.tmp, messagePieces*messagePiece, messagePiece)
	if err != nil {
		return nil, err
	}
	load, err := b.startLoad(ctx, "idle", p.addr, c, idleBeside, messagePieces)
	if err != nil {
		return load, err
	}
	f, err := load.ask(ctx, "go", "UP", 60*time.Second)
	if err == nil && (len(f) != 1 || f[0] != strconv.Itoa(idleBeside)) {
		err = fmt.Errorf("%s of %d idle peers are connected", f, idleBeside)
	}
	if err == nil {
		err = pause(ctx, 3*time.Second) // what setting them up has left behind is over by then
	}
	return load, err
}

// command returns how one end of e is started.
func (b *bench) command(e exchange, c content, dir, mode string, extra ...string) []string {
	n, size := strconv.Itoa(e.n), strconv.Itoa(e.size)
	switch e.im {
	case implLibtorrent:
		return []string{filepath.Join(b.tmp, "ltmsg"), mode, c.torrent, dir, n, size}
	case implRaw, implLibp2p:
		return []string{filepath.Join(b.tmp, program[e.im]), mode, "-n", n, "-size", size}
	}
	args := []string{filepath.Join(b.tmp, "peer"), mode, "-torrent", c.torrent, "-dir", dir, "-n", n, "-size", size, "-dialect", e.im.dialect()}
	return slices.Concat(args, e.im.helloArg(), b.profileArg(e.im, fmt.Sprintf("msgs-%s%s-%d-%s", e.im.dialect(), e.im.hello(), e.size, mode)), extra)
}

// exchangeOnce starts two ends, connects them and reads what they report.
func (b *bench) exchangeOnce(ctx context.Context, e exchange) (_ map[string]float64, err error) {
	c, err := makeContent(ctx, b.tmp, messagePieces*messagePiece, messagePiece)
	if err != nil {
		return nil, err
	}
	begin := func(mode string, extra ...string) (*peer, error) {
		dir, err := freshDir(b.tmp, "msgs-"+mode)
		if err != nil {
			return nil, err
		}
		return startDriven(ctx, fmt.Sprintf("%s %s", e.im, mode), b.command(e, c, dir, mode, extra...)...)
	}
	var passive, active *peer
	var beside *child
	defer func() {
		for _, p := range []*peer{active, passive} {
			if p != nil {
				stopAll(&err, p.child)
			}
		}
		stopAll(&err, beside)
	}()
	if passive, err = begin(e.passive, e.passiveExtra...); err != nil {
		return nil, err
	}
	if e.beside != nil {
		if beside, err = e.beside(ctx, passive); err != nil {
			return nil, err
		}
	}
	if active, err = begin(e.active); err != nil {
		return nil, err
	}
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return nil, err
	}
	if err := active.dial(ctx, passive.addr); err != nil {
		return nil, err
	}
	sent, err := active.expect(ctx, e.activeSays, 120*time.Second)
	if err != nil {
		select { // the other end's reason says more, if it has one
		case line := <-passive.lines:
			err = fmt.Errorf("%w (the other end: %s)", err, line)
		default:
		}
		return nil, err
	}
	received, err := passive.expect(ctx, e.passiveSays, 10*time.Second)
	if err != nil {
		return nil, err
	}
	s, err := parseReport(sent)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.activeSays, err)
	}
	r, err := parseReport(received)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.passiveSays, err)
	}
	return e.values(s, r), nil
}

// values returns what is kept of the two ends' reports. Messages are timed by who receives them, requests by who makes them.
func (e exchange) values(active, passive report) map[string]float64 {
	n := float64(e.n)
	v := map[string]float64{"messages": n, "send_us": active.cpu * 1e6 / n, "recv_us": passive.cpu * 1e6 / n, "cpu_us": (active.cpu + passive.cpu) * 1e6 / n}
	if e.active == "ask" {
		v["seconds"], v["trip_us"] = active.seconds, active.seconds*1e6/n
	} else {
		v["seconds"], v["msgs_s"] = passive.seconds, n/passive.seconds
	}
	if active.hasAllocs && passive.hasAllocs {
		v["send_allocs"], v["recv_allocs"] = active.allocs/n, passive.allocs/n
	}
	return v
}

// report is what one end says of itself: wall-clock and processor time, and how many objects it allocated, if it knows.
type report struct {
	seconds, cpu, allocs float64
	hasAllocs            bool
}

// parseReport parses "SECONDS CPU_SECONDS" and "SECONDS CPU_SECONDS ALLOCATIONS".
func parseReport(words []string) (report, error) {
	n := 2
	if len(words) == 3 {
		n = 3
	}
	v, err := numbers(words, n)
	if err != nil {
		return report{}, err
	}
	r := report{seconds: v[0], cpu: v[1]}
	if n == 3 {
		r.allocs, r.hasAllocs = v[2], true
	}
	return r, nil
}

// numbers parses exactly n numbers.
func numbers(words []string, n int) ([]float64, error) {
	if len(words) != n {
		return nil, fmt.Errorf("%q: want %d numbers", strings.Join(words, " "), n)
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
