// Command run measures this project beside other BitTorrent software: the same work, on the same machine, in the same run, turn and
// turn about. It prints a table per benchmark with ratios and whether the project's bar is met, and writes every single
// measurement to results/. With -write it also renders the tables of docs/benchmarks.md.
//
//	go run ./run                                    everything, 5 runs each
//	go run ./run -what msgs -runs 3
//	go run ./run -what hellos,hidden -runs 5
//	go run ./run -what bulk -mib 256 -pieces 256K,1M,4M -profile /tmp/prof
//
// It needs Linux (it reads /proc), python3-libtorrent and aria2 for their sides, and g++ with libtorrent-rasterbar-dev for libtorrent's side
// of the messages; what is missing is named and left out. All sockets are on loopback, but for those of
// benchmark latency, which are in network namespaces that it makes and takes away: for that it must be root. Data goes to a folder of its own under
// PARLEY_BENCH_DIR, by default in memory-backed /dev/shm, and is removed at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

// bench is what the benchmarks share.
type bench struct {
	out     io.Writer
	tmp     string // programs, data and torrents of this run
	src     string // the folder bench/ itself
	runs    int
	profile string // folder for CPU profiles of our side, or empty
	impls   []impl
	leftOut []string // what was asked for and cannot run, and why
	ltmsg   bool     // whether the message program of libtorrent was built

	patience  time.Duration
	totalMiB  int64
	pieces    []int64
	small     bool
	msgScale  float64
	idlePeers int
	hellos    int
	verifyMiB int64
	torrents  int
	pairTime  time.Duration
	hotPeers  int
	manyDir   string // the torrents of benchmark many, once made

	results Results
}

// impl is one implementation under test.
type impl string

// The implementations.
const (
	implParley     impl = "parley"
	implEMP        impl = "parley emp"             // its messages in that dialect
	implLTEP       impl = "parley ltep"            // and in that one
	implEMPAny     impl = "parley emp, any unsent" // as on a system that has no way to keep little unsent in its sockets
	implLibtorrent impl = "libtorrent"
	implAria2      impl = "aria2"
	implHash       impl = "hash alone" // SHA-1 over memory on all cores: what verification could reach
	implRaw        impl = "raw TCP"    // what messages could reach
	implLibp2p     impl = "libp2p"

	implMSE           impl = "parley mse"       // everything by MSE with RC4
	implVeil          impl = "parley veil"      // everything over the veil
	implEMPVeil       impl = "parley emp veil"  // messages in that dialect, over the veil
	implPipe          impl = "parley by a pipe" // handshakes over a connection in memory
	implPrepared      impl = "parley prepared"  // handshakes with keys that were made before
	implLibtorrentRC4 impl = "libtorrent rc4"   // everything by MSE with RC4
	implAnacrolix     impl = "anacrolix"        // the MSE of github.com/anacrolix/torrent
	implX25519        impl = "X25519 alone"     // what a veiled hello cannot do without
	implSHA1          impl = "SHA-1 alone"      // what the search for a torrent cannot do without
)

// allImpls is the implementations in the order of our tables.
var allImpls = []impl{implParley, implPipe, implPrepared, implMSE, implVeil, implEMP, implEMPVeil, implEMPAny, implLTEP, implLibtorrent, implLibtorrentRC4, implAria2, implHash, implRaw,
	implLibp2p, implAnacrolix, implX25519, implSHA1}

// program is the name of the programs that are built.
var program = map[impl]string{implRaw: "raw", implLibp2p: "libp2p", implAnacrolix: "anacrolix", implEMP: "peer", implLTEP: "peer", implEMPAny: "peer-any-unsent"}

// ours reports whether bench/peer is measured.
func (im impl) ours() bool { return im == implParley || im.dialect() != "" || im.hello() != "" }

// hello is what sessions of one of ours begin with, or empty: what it chooses.
func (im impl) hello() string {
	switch im {
	case implMSE:
		return "mse"
	case implVeil, implEMPVeil:
		return "veil"
	}
	return ""
}

// helloArg returns the arguments of bench/peer for it.
func (im impl) helloArg() []string {
	if im.hello() == "" {
		return nil
	}
	return []string{"-hello", im.hello()}
}

// dialect is the dialect of messages that one of ours is held to, or empty.
func (im impl) dialect() string {
	switch im {
	case implEMP, implEMPAny, implEMPVeil:
		return "emp"
	case implLTEP:
		return "ltep"
	}
	return ""
}

// runnable is one table of a benchmark and how one implementation is measured once in one case.
type runnable struct {
	table
	impls       []impl
	casesInTurn bool                            // cases are compared with each other: all of them come in each run
	able        func(ctx context.Context) error // says why it cannot be measured here; nil: it can be everywhere
	measure     func(ctx context.Context, im impl, c string) (map[string]float64, error)
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	b := &bench{out: out}
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	what := fs.String("what", "bulk,msgs,scale,latency,idle,hs,verify,many,hot,hellos,hidden", "benchmarks to run")
	only := fs.String("impl", "parley,libtorrent,aria2,hash alone,raw TCP,libp2p,anacrolix,X25519 alone,SHA-1 alone", "implementations to run; parley and libtorrent stand for all their forms")
	fs.IntVar(&b.runs, "runs", 5, "measurements per implementation and case")
	fs.Int64Var(&b.totalMiB, "mib", 1024, "bulk, hidden: size of the file in `MiB`")
	fs.BoolVar(&b.small, "small", true, "bulk: also many small files")
	pieces := fs.String("pieces", "256K,1M,4M", "bulk: piece `sizes`")
	fs.Float64Var(&b.msgScale, "msg-scale", 1, "msgs, scale, hidden: `factor` on the number of messages")
	fs.IntVar(&b.idlePeers, "idle-peers", 5000, "idle: connections")
	fs.IntVar(&b.hellos, "hellos", 20000, "hs: handshakes per measurement")
	fs.Int64Var(&b.verifyMiB, "verify-mib", 4096, "verify: size of the file in `MiB`")
	fs.IntVar(&b.torrents, "torrents", 2000, "many: torrents in one process")
	fs.IntVar(&b.hotPeers, "hot-peers", 200, "hot: peers that download at once")
	fs.DurationVar(&b.pairTime, "pair-time", time.Second, "hellos: how long each is repeated")
	fs.StringVar(&b.profile, "profile", "", "write profiles of parley's processes into `DIR`")
	write := fs.Bool("write", false, "render the tables into docs/benchmarks.md")
	strict := fs.Bool("strict", false, "fail if a bar is not met")
	fs.DurationVar(&b.patience, "patience", 0, "wait at most so long before each measurement for other programs to be quiet")
	keep := fs.Bool("keep", false, "keep the run's data")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || b.runs < 1 || b.totalMiB < 1 || b.msgScale <= 0 || b.idlePeers < 1 || b.hellos < 1 ||
		b.verifyMiB < 1 || b.torrents < 1 || b.hotPeers < 1 {
		return errors.New("numbers are at least 1, and there are no arguments but flags; see -h")
	}
	for s := range strings.SplitSeq(*pieces, ",") {
		if s == "" {
			continue // the small files alone
		}
		n, err := parseSize(s)
		if err != nil {
			return fmt.Errorf("-pieces: %w", err)
		}
		b.pieces = append(b.pieces, n)
	}
	if b.src, err = findSource(); err != nil {
		return err
	}
	base := os.Getenv("PARLEY_BENCH_DIR")
	if base == "" {
		base = "/dev/shm/parley-bench"
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	if b.tmp, err = os.MkdirTemp(base, "run-"); err != nil {
		return err
	}
	defer func() {
		if *keep {
			fmt.Fprintln(out, "kept", b.tmp)
			return
		}
		err = errors.Join(err, os.RemoveAll(b.tmp))
	}()
	if b.profile != "" {
		if b.profile, err = filepath.Abs(b.profile); err != nil {
			return err
		}
		if err := os.MkdirAll(b.profile, 0o755); err != nil {
			return err
		}
	}

	one := func(r func() runnable) func() []runnable { return func() []runnable { return []runnable{r()} } }
	all := map[string]func() []runnable{"bulk": one(b.bulk), "msgs": b.msgs, "scale": b.scale, "latency": one(b.latency), "idle": one(b.idle), "hs": one(b.hs), "verify": one(b.verify),
		"many": one(b.many), "hot": one(b.hot), "hellos": b.helloPairs, "hidden": b.hidden}
	var chosen []runnable
	for name := range strings.SplitSeq(*what, ",") {
		if all[name] == nil {
			return fmt.Errorf("-what %q: want some of %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
		}
		chosen = append(chosen, all[name]()...)
	}
	doc := filepath.Join(b.src, "..", "docs", "benchmarks.md")
	if *write {
		if err := checkMarks(doc, chosen); err != nil { // now rather than after half an hour
			return err
		}
	}
	wanted, err := parseImpls(*only)
	if err != nil {
		return err
	}
	chosen = slices.DeleteFunc(chosen, func(r runnable) bool {
		if r.able == nil {
			return false
		}
		err := r.able(ctx)
		if err != nil {
			b.leaveOut("benchmark "+r.Name, err)
		}
		return err != nil
	})
	if err := b.setUp(ctx, wanted, chosen); err != nil {
		return err
	}
	if b.results.Machine, err = machine(ctx, b.src, b.impls); err != nil {
		return err
	}
	met := true
	var tables []table
	for _, r := range chosen {
		tables = append(tables, r.table)
		if err := b.runOne(ctx, r); err != nil {
			return err
		}
		ok, err := r.print(out, b.results.of(r.Name))
		if err != nil {
			return err
		}
		met = met && ok
	}
	for _, text := range b.leftOut { // again, where it is seen
		fmt.Fprintln(out, text)
	}
	dir := filepath.Join(b.src, "results")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, time.Now().UTC().Format("20060102T150405Z")+".json")
	if err := b.results.save(path); err != nil {
		return err
	}
	fmt.Fprintln(out, "every measurement:", filepath.Join("bench", "results", filepath.Base(path)))
	if *write {
		if err := publish(filepath.Join(b.src, "published.json"), doc, b.results, tables); err != nil {
			return err
		}
		fmt.Fprintln(out, "rendered docs/benchmarks.md")
	}
	if *strict && !met {
		return errors.New("a bar is not met")
	}
	return nil
}

// runOne measures every implementation in every case, turn and turn about, so that a slow spell of the machine hits all of them.
func (b *bench) runOne(ctx context.Context, r runnable) error {
	runs := b.runs
	if r.Once {
		runs = 1
	}
	if r.casesInTurn {
		for i := range runs {
			cases := slices.Clone(r.Cases)
			if i%2 == 1 { // nobody always comes first
				slices.Reverse(cases)
			}
			for _, c := range cases {
				if err := b.turn(ctx, r, c, i); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, c := range r.Cases {
		for i := range runs {
			if err := b.turn(ctx, r, c, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn measures every implementation once in one case.
func (b *bench) turn(ctx context.Context, r runnable, c string, i int) error {
	order := slices.DeleteFunc(slices.Clone(r.impls), func(im impl) bool { return !slices.Contains(b.impls, im) })
	if i%2 == 1 {
		slices.Reverse(order)
	}
	for _, im := range order {
		if r.Name == "msgs" && im == implLibtorrent && !b.ltmsg {
			continue
		}
		if err := b.waitQuiet(ctx); err != nil {
			return err
		}
		others, err := watchOthers()
		if err != nil {
			return err
		}
		v, err := r.measure(ctx, im, c)
		if err != nil {
			return fmt.Errorf("%s, %s, %s, run %d: %w", r.Name, c, im, i+1, err)
		}
		if v[otherCores], err = others(); err != nil {
			return err
		}
		b.results.Samples = append(b.results.Samples, Sample{Bench: r.Name, Case: c, Impl: string(im), Run: i + 1, Values: v})
		fmt.Fprintf(b.out, "%s | %s | run %d | %-11s | %s\n", r.Name, c, i+1, im, r.line(v))
		if v[otherCores] > quiet {
			fmt.Fprintf(b.out, "  (other programs used %.1f cores meanwhile: these figures are worth little)\n", v[otherCores])
		}
	}
	return nil
}

// waitQuiet waits until other programs have left the machine alone for a second, as long as its patience lasts.
func (b *bench) waitQuiet(ctx context.Context) error {
	for end := time.Now().Add(b.patience); time.Now().Before(end); {
		others, err := watchOthers()
		if err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if used, err := others(); err != nil || used <= quiet {
			return err
		}
	}
	return nil
}

// parseImpls parses -impl.
func parseImpls(list string) ([]impl, error) {
	var wanted []impl
	for name := range strings.SplitSeq(list, ",") {
		im := impl(name)
		if !slices.Contains(allImpls, im) {
			return nil, fmt.Errorf("-impl %q: want some of %q", name, allImpls)
		}
		wanted = append(wanted, im)
		switch im {
		case implParley:
			wanted = append(wanted, implEMP, implLTEP, implEMPAny, implPipe, implPrepared, implMSE, implVeil, implEMPVeil)
		case implLibtorrent:
			wanted = append(wanted, implLibtorrentRC4)
		}
	}
	return wanted, nil
}

// setUp builds the programs and finds out which of the implementations that are wanted and that something is measured with can run.
func (b *bench) setUp(ctx context.Context, wanted []impl, chosen []runnable) error {
	for _, pkg := range []string{"./load", "./peer", "./hellos"} { // ours is never just left out
		if err := b.build(ctx, ".", pkg, filepath.Base(pkg), ""); err != nil {
			return err
		}
	}
	spoken, err := exec.CommandContext(ctx, filepath.Join(b.tmp, "peer"), "dialects").Output()
	if err != nil {
		return fmt.Errorf("peer dialects: %w", err)
	}
	for _, im := range allImpls {
		if !slices.Contains(wanted, im) || !slices.ContainsFunc(chosen, func(r runnable) bool { return slices.Contains(r.impls, im) }) {
			continue
		}
		var err error
		switch im {
		case implEMP, implLTEP, implEMPAny, implEMPVeil:
			if im == implEMPAny {
				if err := b.build(ctx, ".", "./peer", program[im], "parley_any_unsent"); err != nil {
					return err
				}
			}
			if !slices.Contains(strings.Fields(string(spoken)), im.dialect()) {
				err = errors.New("bench/peer/emp.go does not say that parley speaks it")
			}
		case implLibtorrent, implLibtorrentRC4:
			if err = exec.CommandContext(ctx, python, "-c", "import libtorrent").Run(); err != nil {
				err = fmt.Errorf("%w (install python3-libtorrent)", err)
			}
		case implAria2:
			_, err = exec.LookPath("aria2c")
		case implRaw:
			if err := b.build(ctx, ".", "./raw", program[im], ""); err != nil {
				return err
			}
		case implLibp2p: // a module of its own, whose dependencies may be out of reach
			err = b.build(ctx, "libp2p", ".", program[im], "")
		case implAnacrolix: // likewise
			err = b.build(ctx, "anacrolix", ".", program[im], "")
		}
		if err != nil {
			b.leaveOut(string(im), err)
			continue
		}
		b.impls = append(b.impls, im)
	}
	if slices.Contains(b.impls, implLibtorrent) && slices.ContainsFunc(chosen, func(r runnable) bool { return r.Name == "msgs" }) {
		b.buildLtmsg(ctx)
	}
	return ctx.Err()
}

// build builds a package of the module in a folder of bench/ into a program, with build tags if there are any.
func (b *bench) build(ctx context.Context, module, pkg, name, tags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", filepath.Join(b.tmp, name), pkg)
	cmd.Dir = filepath.Join(b.src, module)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s in %s: %w\n%s", pkg, cmd.Dir, err, text)
	}
	return nil
}

// leaveOut says that something is not measured, now and at the end of the run.
func (b *bench) leaveOut(what string, why error) {
	text := fmt.Sprintf("LEAVING OUT %s: %v", what, why)
	b.leftOut = append(b.leftOut, text)
	fmt.Fprintln(b.out, text)
}

// buildLtmsg builds libtorrent's side of the messages, if the tools are there.
func (b *bench) buildLtmsg(ctx context.Context) {
	args := []string{"-O2", "-std=c++17", filepath.Join(b.src, "foreign", "ltmsg.cpp"), "-o", filepath.Join(b.tmp, "ltmsg"), "-lpthread"}
	flags, err := exec.CommandContext(ctx, "pkg-config", "--cflags", "--libs", "libtorrent-rasterbar").Output()
	var text []byte
	if err == nil {
		cmd := exec.CommandContext(ctx, "g++", append(args, strings.Fields(string(flags))...)...)
		cmd.WaitDelay = time.Second // for what g++ itself has started
		text, err = cmd.CombinedOutput()
	}
	if b.ltmsg = err == nil; !b.ltmsg {
		b.leaveOut("libtorrent's messages", fmt.Errorf("%w (install g++, pkg-config, libtorrent-rasterbar-dev)\n%s", err, text))
	}
}

// findSource returns the folder bench/: the working directory or the one above it.
func findSource() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{wd, filepath.Dir(wd), filepath.Join(wd, "bench")} {
		if _, err := os.Stat(filepath.Join(dir, "foreign", "lt_peer.py")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("run it in the folder bench/ of the repository")
}

func parseSize(s string) (int64, error) {
	var n int64
	var unit string
	if k, err := fmt.Sscanf(s, "%d%s", &n, &unit); k != 2 || err != nil || n < 1 || unit != "K" && unit != "M" {
		return 0, fmt.Errorf("%q: want a size such as 256K or 1M", s)
	}
	if unit == "K" {
		return n << 10, nil
	}
	return n << 20, nil
}
