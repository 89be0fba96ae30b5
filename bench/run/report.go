package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Results is everything that was measured in one run, and where.
type Results struct {
	Machine Machine
	Samples []Sample
}

// Machine says where and with which versions something was measured: classes and versions, no names of machines.
type Machine struct {
	Date                                  string // of the run, UTC
	CPU                                   string
	Cores                                 int
	Kernel, Go, Parley, Libtorrent, Aria2 string
	Libp2p                                string `json:",omitempty"`
	Anacrolix                             string `json:",omitempty"`
}

// Sample is one measurement of one implementation in one case.
type Sample struct {
	Bench, Case, Impl string
	Run               int
	Values            map[string]float64
}

// table describes how a benchmark's samples are shown and judged.
type table struct {
	Name    string // as in -what
	Title   string
	Cases   []string
	Ours    []impl // what the others are compared with; none is parley
	Metrics []Metric
	Bars    []Bar
	Once    bool // each is measured once, since that is many measurements already
}

func (t table) ours() []impl {
	if len(t.Ours) == 0 {
		return []impl{implParley}
	}
	return t.Ours
}

// Metric is one column. Ratio adds a column for each of ours that divides its median by that of each other implementation. Base adds one that divides an
// implementation's median by its own in that case.
type Metric struct {
	Key, Title, Format string
	Ratio              bool
	Base               string
}

// Bar is what the project asks of itself: the median of Key of one of ours, divided by that of Against or less that of Above if one is set, is at least AtLeast or, if that is 0,
// at most AtMost. It holds in Case, or in every case.
type Bar struct {
	Of                 impl // none is the first of the table's
	Key, Against, Case string
	Above              string
	AtLeast, AtMost    float64
}

func (r Results) of(bench string) []Sample {
	return slices.DeleteFunc(slices.Clone(r.Samples), func(s Sample) bool { return s.Bench != bench })
}

// spread is the middle and the ends of several measurements.
type spread struct {
	median, low, high float64
	n                 int
}

// spreadOf summarises the values of one implementation in one case.
func spreadOf(samples []Sample, c string, im impl, key string) spread {
	var v []float64
	for _, s := range samples {
		if x, ok := s.Values[key]; ok && s.Case == c && s.Impl == string(im) {
			v = append(v, x)
		}
	}
	if len(v) == 0 {
		return spread{}
	}
	slices.Sort(v)
	return spread{median: (v[(len(v)-1)/2] + v[len(v)/2]) / 2, low: v[0], high: v[len(v)-1], n: len(v)}
}

// format writes a spread as "median (lowest–highest)".
func (s spread) format(verb string) string {
	if s.n == 0 {
		return "–"
	}
	if s.n == 1 {
		return fmt.Sprintf(verb, s.median)
	}
	return fmt.Sprintf(verb+" ("+verb+"–"+verb+")", s.median, s.low, s.high)
}

// implsIn returns the implementations of samples in the order of our tables.
func implsIn(samples []Sample) []impl {
	return slices.DeleteFunc(slices.Clone(allImpls), func(im impl) bool {
		return !slices.ContainsFunc(samples, func(s Sample) bool { return s.Impl == string(im) })
	})
}

// rows returns the table's head and cells.
func (t table) rows(samples []Sample) [][]string {
	head := []string{"case", ""}
	for _, m := range t.Metrics {
		head = append(head, m.Title)
		if m.Ratio {
			for _, ours := range t.ours() {
				head = append(head, string(ours)+" ÷ this")
			}
		}
		if m.Base != "" {
			head = append(head, "÷ "+m.Base)
		}
	}
	rows := [][]string{head}
	quotient := func(a, b spread) string {
		if a.n == 0 || b.n == 0 || b.median == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f", a.median/b.median)
	}
	for _, c := range t.Cases {
		for _, im := range implsIn(samples) {
			row := []string{c, string(im)}
			for _, m := range t.Metrics {
				s := spreadOf(samples, c, im, m.Key)
				row = append(row, s.format(m.Format))
				if m.Ratio {
					for _, ours := range t.ours() {
						cell := ""
						if im != ours {
							cell = quotient(spreadOf(samples, c, ours, m.Key), s)
						}
						row = append(row, cell)
					}
				}
				if m.Base != "" {
					cell := ""
					if c != m.Base {
						cell = quotient(s, spreadOf(samples, m.Base, im, m.Key))
					}
					row = append(row, cell)
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// verdicts judges the samples by the table's bars: one sentence per bar and case, and whether all are met. What cannot be judged is not met.
func (t table) verdicts(samples []Sample) (text []string, met bool) {
	met = true
	for _, bar := range t.Bars {
		for _, c := range t.Cases {
			if bar.Case != "" && bar.Case != c {
				continue
			}
			sentence, ok := t.judge(bar, c, samples)
			text = append(text, sentence)
			met = met && ok
		}
	}
	return text, met
}

// judge judges one case by one bar.
func (t table) judge(bar Bar, c string, samples []Sample) (sentence string, met bool) {
	word, limit := "at least", bar.AtLeast
	if limit == 0 {
		word, limit = "at most", bar.AtMost
	}
	i := slices.IndexFunc(t.Metrics, func(m Metric) bool { return m.Key == bar.Key })
	of, whose := bar.Of, ""
	if of == "" {
		of = t.ours()[0]
	}
	if len(t.Ours) > 0 {
		whose = " of " + string(of)
	}
	sentence = fmt.Sprintf("bar, %s: %s%s %s %.4g", c, t.Metrics[i].Title, whose, word, limit)
	if bar.Against != "" {
		sentence += " × " + bar.Against
	}
	if bar.Above != "" {
		sentence += " above " + bar.Above
	}
	ours := spreadOf(samples, c, of, bar.Key)
	value := ours.median
	judged := ours.n > 0
	if bar.Against != "" {
		theirs := spreadOf(samples, c, impl(bar.Against), bar.Key)
		judged = judged && theirs.n > 0 && theirs.median != 0
		value /= theirs.median
	}
	if bar.Above != "" {
		theirs := spreadOf(samples, c, impl(bar.Above), bar.Key)
		judged = judged && theirs.n > 0
		value -= theirs.median
	}
	met = judged && (word == "at least" && value >= limit || word == "at most" && value <= limit)
	switch {
	case !judged:
		sentence += ": not measured"
	case met:
		sentence += fmt.Sprintf(": %.3f, met", value)
	default:
		sentence += fmt.Sprintf(": %.3f, NOT met", value)
	}
	return sentence, met
}

// line is one sample for the eye.
func (t table) line(v map[string]float64) string {
	var s []string
	for _, m := range t.Metrics {
		if x, ok := v[m.Key]; ok {
			s = append(s, fmt.Sprintf(m.Format+" %s", x, m.Title))
		}
	}
	return strings.Join(s, ", ")
}

// print writes the table and the verdicts for a terminal.
func (t table) print(w io.Writer, samples []Sample) (met bool, err error) {
	fmt.Fprintf(w, "\n%s: medians (lowest–highest)\n", t.Title)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range t.rows(samples) {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return false, err
	}
	text, met := t.verdicts(samples)
	for _, s := range text {
		fmt.Fprintln(w, s)
	}
	_, err = fmt.Fprintln(w)
	return met, err
}

// markdown renders the table for the documentation.
func (t table) markdown(m Machine, samples []Sample) string {
	var b strings.Builder
	how := fmt.Sprintf("medians (lowest–highest) of %d runs, turn and turn about", runsIn(samples))
	if t.Once {
		how = "one run"
	}
	fmt.Fprintf(&b, "%s, %s. %s. Other programs used at most %.2f cores meanwhile.\n\n", t.Title, how, m, noise(samples))
	for i, row := range t.rows(samples) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString("|---|---|" + strings.Repeat("---:|", len(row)-2) + "\n")
		}
	}
	text, _ := t.verdicts(samples)
	for _, s := range text {
		fmt.Fprintf(&b, "\n%s%s.\n", strings.ToUpper(s[:1]), s[1:])
	}
	return b.String()
}

// noise is the most that other programs disturbed a measurement, in cores.
func noise(samples []Sample) float64 {
	most := 0.0
	for _, s := range samples {
		most = max(most, s.Values[otherCores])
	}
	return most
}

// runsIn is how often each case was measured.
func runsIn(samples []Sample) int {
	n := 0
	for _, s := range samples {
		n = max(n, s.Run)
	}
	return n
}

// String says where something was measured, for the documentation.
func (m Machine) String() string {
	s := fmt.Sprintf("%s, %d cores of an %s, %s, %s, parley %s", m.Date, m.Cores, m.CPU, m.Kernel, m.Go, m.Parley)
	if m.Libtorrent != "" {
		s += ", libtorrent " + m.Libtorrent
	}
	if m.Aria2 != "" {
		s += ", aria2 " + m.Aria2
	}
	if m.Libp2p != "" {
		s += ", go-libp2p " + m.Libp2p
	}
	if m.Anacrolix != "" {
		s += ", anacrolix/torrent " + m.Anacrolix
	}
	return s
}

// machine finds out where this runs.
func machine(ctx context.Context, src string, impls []impl) (Machine, error) {
	m := Machine{Date: time.Now().UTC().Format(time.DateOnly), Cores: runtime.NumCPU(), Go: runtime.Version()}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return Machine{}, fmt.Errorf("the benchmarks need Linux: %w", err)
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return Machine{}, err
	}
	if f := strings.SplitN(strings.TrimSpace(string(release)), ".", 3); len(f) >= 2 {
		m.Kernel = "Linux " + f[0] + "." + f[1] // the rest names the build
	}
	ask := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = src
		text, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return first, nil
	}
	m.Parley = "of unknown version"
	if commit, err := ask("git", "rev-parse", "--short", "HEAD"); err == nil { // an archive has no repository
		m.Parley = commit
		if changed, err := ask("git", "status", "--porcelain", "--untracked-files=no"); err == nil && changed != "" {
			m.Parley += " with changes"
		}
	}
	if slices.Contains(impls, implLibtorrent) {
		if m.Libtorrent, err = ask(python, "-c", "import libtorrent; print(libtorrent.__version__)"); err != nil {
			return Machine{}, err
		}
	}
	if slices.Contains(impls, implAria2) {
		first, err := ask("aria2c", "--version")
		if err != nil {
			return Machine{}, err
		}
		m.Aria2 = strings.TrimPrefix(first, "aria2 version ")
	}
	if slices.Contains(impls, implLibp2p) {
		if m.Libp2p, err = ask("go", "-C", "libp2p", "list", "-m", "-f", "{{.Version}}", "github.com/libp2p/go-libp2p"); err != nil {
			return Machine{}, err
		}
	}
	if slices.Contains(impls, implAnacrolix) {
		if m.Anacrolix, err = ask("go", "-C", "anacrolix", "list", "-m", "-f", "{{.Version}}", "github.com/anacrolix/torrent"); err != nil {
			return Machine{}, err
		}
	}
	return m, nil
}

// save writes the results as JSON.
func (r Results) save(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// published is what the documentation shows: the latest results of each benchmark, by its name.
type published map[string]Results

// publish puts the results into the file of published ones and the tables into the documentation, each between its marks
// (<!-- bench:NAME --> and <!-- /bench:NAME -->). Benchmarks that were not run stay as they are.
func publish(jsonPath, docPath string, r Results, tables []table) error {
	all := published{}
	old, err := os.ReadFile(jsonPath)
	if err == nil {
		err = json.Unmarshal(old, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", jsonPath, err)
	}
	doc, err := os.ReadFile(docPath)
	if err != nil {
		return err
	}
	for _, t := range tables {
		samples := r.of(t.Name)
		all[t.Name] = Results{Machine: r.Machine, Samples: samples}
		if doc, err = between(doc, t.Name, t.markdown(r.Machine, samples)); err != nil {
			return fmt.Errorf("%s: %w", docPath, err)
		}
	}
	b, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(jsonPath, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(docPath, doc, 0o644)
}

// checkMarks reports whether the documentation has room for every table.
func checkMarks(docPath string, tables []runnable) error {
	doc, err := os.ReadFile(docPath)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := between(doc, t.Name, ""); err != nil {
			return fmt.Errorf("%s: %w", docPath, err)
		}
	}
	return nil
}

// between replaces what stands between a benchmark's marks.
func between(doc []byte, name, text string) ([]byte, error) {
	open, shut := []byte("<!-- bench:"+name+" -->\n"), []byte("<!-- /bench:"+name+" -->\n")
	head, rest, ok1 := bytes.Cut(doc, open)
	_, tail, ok2 := bytes.Cut(rest, shut)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("no lines %q and %q", open, shut)
	}
	return slices.Concat(head, open, []byte(text), shut, tail), nil
}
