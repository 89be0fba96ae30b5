package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A link of benchmark latency, and what crosses it.
type crossing struct {
	mbit   int // a second
	pieces bool
	large  bool
}

func (c crossing) String() string {
	beside := "nothing beside"
	switch {
	case c.pieces && c.large:
		beside = "both"
	case c.pieces:
		beside = "pieces"
	case c.large:
		beside = "16 MiB"
	}
	return fmt.Sprintf("%d Mbit/s, %s", c.mbit, beside)
}

// The shaper of a link: what it lets through at once, and how long what waits in its queue may wait.
const (
	tbfBurst   = "16kb"
	tbfLatency = "20ms"
)

const (
	largeMessage = 16 << 20
	largePlain   = 1<<20 - 2 // the most in a frame of BEP 10
	latencyFor   = 5 * time.Second
)

// latency is how long small messages, requests and blocks take over a link of known bandwidth, with and without what competes for it. The distributions are those of a hundred and more in
// one measurement, so there is only one of each.
func (b *bench) latency() runnable {
	r := runnable{
		table: table{
			Name: "latency",
			Title: fmt.Sprintf("Latency over a shaped link (tbf, burst %s, queue of %s, congestion control %s): messages and requests of 64 B, every 25 to 37 ms for %v", tbfBurst, tbfLatency,
				congestion(), latencyFor),
			Ours: []impl{implEMP},
			Once: true,
		},
		impls: []impl{implEMP, implEMPAny, implLTEP},
		able:  canShape,
	}
	for _, of := range []struct{ key, title string }{{"small", "message, ms"}, {"trip", "round trip, ms"}, {"gap", "between blocks, ms"}} {
		for i, q := range []struct{ key, title string }{{"50", "median"}, {"95", "95 %"}, {"max", "largest"}} {
			title := q.title
			if i == 0 {
				title = of.title + ": " + title
			}
			r.Metrics = append(r.Metrics, Metric{Key: of.key + "_" + q.key, Title: title, Format: "%.1f"})
		}
	}
	r.Metrics = append(r.Metrics, Metric{Key: "pieces_share", Title: "pieces, of the link", Format: "%.2f"}, Metric{Key: "large_share", Title: "16 MiB, of the link", Format: "%.2f"},
		Metric{Key: "queue_kib", Title: "in the link's queue, KiB", Format: "%.0f"}, Metric{Key: "dropped", Title: "dropped there", Format: "%.0f"})
	cases := map[string]crossing{}
	for _, mbit := range []int{10, 100} {
		for _, c := range []crossing{{mbit, false, false}, {mbit, true, false}, {mbit, false, true}, {mbit, true, true}} {
			r.Cases = append(r.Cases, c.String())
			cases[c.String()] = c
		}
	}
	r.measure = func(ctx context.Context, im impl, c string) (map[string]float64, error) {
		return b.crossOnce(ctx, im, cases[c])
	}
	return r
}

// crossOnce measures one crossing.
func (b *bench) crossOnce(ctx context.Context, im impl, x crossing) (_ map[string]float64, err error) {
	// Blocks are pieces, so that each is written when it has come. There must be enough for all of the time.
	total := int64(x.mbit) * 1_000_000 / 8 * int64(latencyFor/time.Second+2)
	c, err := makeContent(ctx, b.tmp, (total>>20+1)<<20, 16<<10)
	if err != nil {
		return nil, err
	}
	link, err := makeLink(ctx, x.mbit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, link.remove()) }()
	large := 0
	if x.large {
		large = largeMessage
		if im == implLTEP {
			large = largePlain
		}
	}
	begin := func(end int, mode string, extra ...string) (*peer, error) {
		args := append(link.in(end), filepath.Join(b.tmp, program[im]), mode, "-torrent", c.torrent, "-dir", c.dir, "-listen", link.addr(end), "-dialect", im.dialect(),
			"-large", strconv.Itoa(large), "-window", latencyFor.String())
		return startDriven(ctx, fmt.Sprintf("%s %s", im, mode), append(args, extra...)...)
	}
	var from, to *peer
	defer func() {
		for _, p := range []*peer{to, from} {
			if p != nil {
				stopAll(&err, p.child)
			}
		}
	}()
	if from, err = begin(0, "cross"); err != nil {
		return nil, err
	}
	if to, err = begin(1, "watch", "-pieces="+strconv.FormatBool(x.pieces)); err != nil {
		return nil, err
	}
	if err := to.dial(ctx, from.addr); err != nil {
		return nil, err
	}
	queue := link.watchQueue(ctx)
	words, err := to.expect(ctx, "CROSSED", 10*latencyFor)
	waits, dropped := queue()
	if err != nil {
		return nil, err
	}
	v := map[string]float64{"queue_kib": waits / 1024, "dropped": dropped}
	for _, w := range words {
		name, number, _ := strings.Cut(w, "=")
		if v[name], err = strconv.ParseFloat(number, 64); err != nil {
			return nil, fmt.Errorf("CROSSED: %w", err)
		}
	}
	for _, name := range []string{"pieces", "large"} {
		if v[name] > 0 {
			v[name+"_share"] = v[name] / (float64(x.mbit) * 1e6 / 8)
		}
	}
	return v, nil
}

// link is two network namespaces of our own with a shaped link between them. Its ends are 0 and 1.
type link struct{ names [2]string }

// linkPrefix is what the names of our namespaces begin with; the process's id comes behind it.
const linkPrefix = "parley-bench-"

// canShape says why there can be no links.
func canShape(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces, which takes root")
	}
	for _, name := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w (install iproute2)", err)
		}
	}
	if err := sweepLinks(ctx); err != nil {
		return err
	}
	l, err := makeLink(ctx, 1)
	if err != nil {
		return err
	}
	return l.remove()
}

// sweepLinks takes away what runs that were killed have left.
func sweepLinks(ctx context.Context) error {
	text, err := exec.CommandContext(ctx, "ip", "netns", "list").Output()
	if err != nil {
		return fmt.Errorf("ip netns list: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, ours := strings.CutPrefix(name, linkPrefix)
		pid, _, _ := strings.Cut(rest, "-")
		if !ours {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); err == nil { // it runs, or another of that number
			continue
		}
		if err := exec.CommandContext(ctx, "ip", "netns", "del", name).Run(); err != nil {
			return fmt.Errorf("removing namespace %s: %w", name, err)
		}
	}
	return nil
}

// makeLink makes a link of so many megabits a second, the same both ways. The caller removes it.
func makeLink(ctx context.Context, mbit int) (_ *link, err error) {
	l := new(link)
	for i := range l.names {
		l.names[i] = fmt.Sprintf("%s%d-%d", linkPrefix, os.Getpid(), i)
	}
	defer func() {
		if err != nil {
			l.remove() // as far as it is there
		}
	}()
	a, z := l.names[0], l.names[1]
	steps := [][]string{{"ip", "netns", "add", a}, {"ip", "netns", "add", z}, {"ip", "-n", a, "link", "add", "v", "type", "veth", "peer", "name", "v", "netns", z}}
	for i, ns := range l.names {
		steps = append(steps, []string{"ip", "-n", ns, "addr", "add", l.host(i) + "/24", "dev", "v"}, []string{"ip", "-n", ns, "link", "set", "lo", "up"},
			[]string{"ip", "-n", ns, "link", "set", "v", "up"}, []string{"ip", "-n", ns, "route", "replace", "10.77.0.0/24", "dev", "v", "congctl", congestion()},
			append(l.in(i), "tc", "qdisc", "add", "dev", "v", "root", "tbf", "rate", strconv.Itoa(mbit)+"mbit", "burst", tbfBurst, "latency", tbfLatency))
	}
	for _, s := range steps {
		if text, err := exec.CommandContext(ctx, s[0], s[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(s, " "), err, strings.TrimSpace(string(text)))
		}
	}
	return l, nil
}

// remove takes the namespaces away, and with them the link. It does not heed a context: it is done whatever happens.
func (l *link) remove() error {
	var all []error
	for _, ns := range l.names {
		if text, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
			all = append(all, fmt.Errorf("removing namespace %s: %w: %s", ns, err, strings.TrimSpace(string(text))))
		}
	}
	return errors.Join(all...)
}

// in returns the beginning of a command that runs at one end.
func (l *link) in(end int) []string { return []string{"ip", "netns", "exec", l.names[end]} }

func (l *link) host(end int) string { return fmt.Sprintf("10.77.0.%d", 1+end) }

func (l *link) addr(end int) string { return l.host(end) + ":0" }

// watchQueue begins to look at the queue of end 0; the result ends that, and returns the middle of what waited there, in bytes, and how many packets were dropped.
func (l *link) watchQueue(ctx context.Context) func() (waits, dropped float64) {
	ctx, cancel := context.WithCancel(ctx)
	var all []float64
	drops := 0.0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause(ctx, 250*time.Millisecond) == nil {
			ask := append(l.in(0), "tc", "-s", "-j", "qdisc", "show", "dev", "v", "root")
			text, err := exec.CommandContext(ctx, ask[0], ask[1:]...).Output()
			var q []struct{ Backlog, Drops float64 }
			if err == nil && json.Unmarshal(text, &q) == nil && len(q) == 1 {
				all = append(all, q[0].Backlog)
				drops = q[0].Drops
			}
		}
	}()
	return func() (float64, float64) {
		cancel()
		<-done
		if len(all) == 0 {
			return 0, 0
		}
		slices.Sort(all)
		return all[len(all)/2], drops
	}
}

// congestion returns how TCP finds out how fast it may be: cubic, as Linux has it unless it is told otherwise, or what this machine has.
func congestion() string {
	if b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control"); err == nil && slices.Contains(strings.Fields(string(b)), "cubic") {
		return "cubic"
	}
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return "reno" // which there always is
	}
	return strings.TrimSpace(string(b))
}
