package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/metainfo"
)

func samplesOf(im impl, values ...float64) []Sample {
	var s []Sample
	for i, v := range values {
		s = append(s, Sample{Bench: "b", Case: "c", Impl: string(im), Run: i + 1, Values: map[string]float64{"k": v}})
	}
	return s
}

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		want   string
	}{
		{"none", nil, "–"},
		{"one", []float64{3}, "3.0"},
		{"odd", []float64{9, 1, 4}, "4.0 (1.0–9.0)"},
		{"even", []float64{9, 1, 4, 5}, "4.5 (1.0–9.0)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := spreadOf(samplesOf(implParley, tt.values...), "c", "parley", "k").format("%.1f"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	both := func(ours, theirs float64) []Sample {
		return append(samplesOf(implParley, ours), samplesOf(implLibtorrent, theirs)...)
	}
	ratio := Bar{Key: "k", Against: "libtorrent", AtLeast: 0.8}
	most := Bar{Key: "k", Against: "libtorrent", AtMost: 1.3}
	absolute := Bar{Key: "k", AtMost: 8}
	above := Bar{Key: "k", Above: "libtorrent", AtMost: 0.5}
	for _, tt := range []struct {
		name    string
		bar     Bar
		samples []Sample
		met     bool
		want    string
	}{
		{"ratio met", ratio, both(8, 10), true, "at least 0.8 × libtorrent: 0.800, met"},
		{"ratio missed", ratio, both(7, 10), false, "0.700, NOT met"},
		{"ratio at most met", most, both(13, 10), true, "at most 1.3 × libtorrent: 1.300, met"},
		{"ratio at most missed", most, both(14, 10), false, "1.400, NOT met"},
		{"absolute met", absolute, samplesOf(implParley, 7.5), true, "at most 8: 7.500, met"},
		{"absolute missed", absolute, samplesOf(implParley, 8.5), false, "8.500, NOT met"},
		{"above met", above, both(10.4, 10), true, "at most 0.5 above libtorrent: 0.400, met"},
		{"above missed", above, both(10.6, 10), false, "0.600, NOT met"},
		{"above nothing", above, samplesOf(implParley, 0.1), false, "not measured"},
		{"only ours", ratio, samplesOf(implParley, 7), false, "not measured"},
		{"only theirs", absolute, samplesOf(implLibtorrent, 7), false, "not measured"},
		{"only theirs, ratio", most, samplesOf(implLibtorrent, 7), false, "not measured"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb := table{Cases: []string{"c"}, Metrics: []Metric{{Key: "k", Title: "K", Format: "%.0f", Ratio: true}}, Bars: []Bar{tt.bar}}
			text, met := tb.verdicts(tt.samples)
			if met != tt.met || len(text) != 1 || !strings.Contains(text[0], tt.want) {
				t.Errorf("got %v, %q; want %v and %q", met, text, tt.met, tt.want)
			}
		})
	}
}

func TestSeveralOfOurs(t *testing.T) {
	in := func(c string, im impl, v float64) Sample {
		return Sample{Bench: "b", Case: c, Impl: string(im), Run: 1, Values: map[string]float64{"k": v}}
	}
	samples := []Sample{in("c", implEMP, 12), in("c", implLTEP, 8), in("c", implRaw, 16), in("d", implEMP, 9), in("d", implRaw, 10)}
	tb := table{Cases: []string{"c", "d"}, Ours: []impl{implEMP, implLTEP}, Metrics: []Metric{{Key: "k", Title: "K", Format: "%.0f", Ratio: true, Base: "c"}},
		Bars: []Bar{{Key: "k", Against: "raw TCP", AtLeast: 0.8, Case: "c"}, {Of: implLTEP, Key: "k", Against: "raw TCP", AtLeast: 0.4}}}
	want := [][]string{
		{"case", "", "K", "parley emp ÷ this", "parley ltep ÷ this", "÷ c"},
		{"c", "parley emp", "12", "", "0.67", ""},
		{"c", "parley ltep", "8", "1.50", "", ""},
		{"c", "raw TCP", "16", "0.75", "0.50", ""},
		{"d", "parley emp", "9", "", "", "0.75"},
		{"d", "parley ltep", "–", "", "", ""},
		{"d", "raw TCP", "10", "0.90", "", "0.62"},
	}
	if got := tb.rows(samples); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	text, met := tb.verdicts(samples)
	wantText := []string{"bar, c: K of parley emp at least 0.8 × raw TCP: 0.750, NOT met", "bar, c: K of parley ltep at least 0.4 × raw TCP: 0.500, met",
		"bar, d: K of parley ltep at least 0.4 × raw TCP: not measured"}
	if met || !slices.Equal(text, wantText) {
		t.Errorf("got %v, %q\nwant %q", met, text, wantText)
	}
}

func TestParseReport(t *testing.T) {
	for text, want := range map[string]report{"1.5 2": {seconds: 1.5, cpu: 2}, "1.5 2 30": {1.5, 2, 30, true}, "": {}, "1": {}, "1 x": {}, "1 2 3 4": {}} {
		got, err := parseReport(strings.Fields(text))
		if got != want || (err == nil) != (want != report{}) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestParseImpls(t *testing.T) {
	got, err := parseImpls("parley,raw TCP")
	if want := []impl{implParley, implEMP, implLTEP, implEMPAny, implPipe, implPrepared, implMSE, implVeil, implEMPVeil, implRaw}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := parseImpls("libtorrent,parly"); err == nil {
		t.Error("no error for a name that nobody has")
	}
}

func TestPublishReplacesOnlyWhatWasRun(t *testing.T) {
	dir := t.TempDir()
	doc, js := filepath.Join(dir, "doc.md"), filepath.Join(dir, "published.json")
	const before = "# Head\n<!-- bench:a -->\nold a\n<!-- /bench:a -->\nbetween\n<!-- bench:b -->\nold b\n<!-- /bench:b -->\nend\n"
	if err := os.WriteFile(doc, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	tb := table{Name: "b", Title: "Bee", Cases: []string{"c"}, Metrics: []Metric{{Key: "k", Title: "K", Format: "%.0f", Ratio: true}}}
	r := Results{Samples: append(samplesOf(implParley, 6, 8, 7), samplesOf(implLibtorrent, 10, 9, 14)...)}
	for range 2 { // the second time replaces the first
		if err := publish(js, doc, r, []table{tb}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	head, rest, _ := strings.Cut(got, "<!-- bench:b -->\n")
	if head != before[:strings.Index(before, "<!-- bench:b")] || !strings.HasSuffix(rest, "<!-- /bench:b -->\nend\n") {
		t.Errorf("the rest of the document changed:\n%s", got)
	}
	for _, want := range []string{"| c | parley | 7 (6–8) |  |\n", "| c | libtorrent | 10 (9–14) | 0.70 |\n", "of 3 runs"} {
		if !strings.Contains(rest, want) {
			t.Errorf("no %q in\n%s", want, rest)
		}
	}
	if err := publish(js, doc, r, []table{{Name: "absent"}}); err == nil {
		t.Error("a table without marks in the document was published without an error")
	}
	if err := checkMarks(doc, []runnable{{table: tb}}); err != nil {
		t.Error(err)
	}
	if err := checkMarks(doc, []runnable{{table: tb}, {table: table{Name: "absent"}}}); err == nil {
		t.Error("no error for a table without marks")
	}
}

func TestParseProc(t *testing.T) {
	got, err := parseStat([]byte("42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0\n"))
	if err != nil || got != 1.75 {
		t.Errorf("stat: %v, %v; want 1.75 s", got, err)
	}
	for _, bad := range []string{"", "42 (x) S 1 2", "42 (x) S 1 2 3 4 5 6 7 8 9 10 x 25"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("stat %q: no error", bad)
		}
	}
	m, err := parseStatus([]byte("Name:\tx\nVmHWM:\t  2048 kB\nRssAnon:\t    512 kB\n"))
	if err != nil || m != (memory{anon: 512, peakRSS: 2048}) {
		t.Errorf("status: %+v, %v", m, err)
	}
	for _, bad := range []string{"", "VmHWM: 1 kB\n", "VmHWM: 1 kB\nRssAnon: x kB\n"} {
		if _, err := parseStatus([]byte(bad)); err == nil {
			t.Errorf("status %q: no error", bad)
		}
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy([]byte("cpu  100 20 30 9999 5 6 7 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"))
	if err != nil || got != 2 {
		t.Errorf("%v, %v; want 2 s", got, err)
	}
	for _, bad := range []string{"", "cpu0 1 1 1 1 1 1 1 1 0 0", "cpu 1 2 3", "cpu 1 2 x 4 5 6 7 8 9"} {
		if _, err := parseBusy([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"16K": 16 << 10, "1M": 1 << 20, "": 0, "1": 0, "1G": 0, "0K": 0, "-1M": 0, "1Mx": 0} {
		if got, err := parseSize(s); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
}

func TestContent(t *testing.T) {
	tmp := t.TempDir()
	c, err := makeContent(t.Context(), tmp, 100<<10, 16<<10) // the last piece is short
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(c.torrent)
	if err != nil {
		t.Fatal(err)
	}
	mi, err := metainfo.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if mi.InfoHash.String() != c.infoHash || mi.Info.Name != c.name || mi.Info.NumPieces() != 7 {
		t.Errorf("got %s, %q, %d pieces; want %s, %q, 7", mi.InfoHash, mi.Info.Name, mi.Info.NumPieces(), c.infoHash, c.name)
	}
	src := filepath.Join(c.dir, c.name)
	data, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(data)
	flipped[len(flipped)-1] ^= 1
	for name, tt := range map[string]struct {
		copy []byte
		same bool
	}{"same": {data, true}, "last byte": {flipped, false}, "short": {data[:len(data)-1], false}, "empty": {nil, false}} {
		dst := filepath.Join(tmp, "copy")
		if err := os.WriteFile(dst, tt.copy, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := sameContent(src, dst); (err == nil) != tt.same {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChild(t *testing.T) {
	sh := func(t *testing.T, script string) *child {
		c, err := start(t.Context(), "sh", "sh", "-c", script)
		if err != nil {
			t.Skip("no sh: ", err)
		}
		return c
	}
	t.Run("answers and ends with its input", func(t *testing.T) {
		c := sh(t, `echo noise; while read w a; do echo "GOT $a"; done`)
		f, err := c.ask(t.Context(), "go there", "GOT", 5*time.Second)
		if err != nil || len(f) != 1 || f[0] != "there" {
			t.Errorf("%q, %v", f, err)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("reports an error", func(t *testing.T) {
		c := sh(t, `echo "ERR it broke"; cat`)
		if _, err := c.expect(t.Context(), "GOT", 5*time.Second); err == nil || !strings.Contains(err.Error(), "it broke") {
			t.Error(err)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("dies", func(t *testing.T) {
		c := sh(t, `echo "out of luck" >&2; exit 3`)
		if _, err := c.expect(t.Context(), "GOT", 5*time.Second); err == nil {
			t.Error("no error")
		}
		if err := c.stop(); err == nil || !strings.Contains(err.Error(), "out of luck") {
			t.Error(err)
		}
	})
	t.Run("is silent", func(t *testing.T) {
		c := sh(t, `cat`)
		if _, err := c.expect(t.Context(), "GOT", 50*time.Millisecond); err == nil {
			t.Error("no error")
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestLink(t *testing.T) {
	if err := canShape(t.Context()); err != nil {
		t.Skip(err)
	}
	there := func() (n int) {
		text, err := exec.Command("ip", "netns", "list").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), fmt.Sprint(linkPrefix, os.Getpid(), "-"))
	}
	l, err := makeLink(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if n := there(); n != 2 {
		t.Errorf("%d namespaces, want 2", n)
	}
	// The second cannot be made, and leaves nothing of its own, nor of the first's: they have the same names.
	if _, err := makeLink(t.Context(), 10); err == nil {
		t.Error("two links of one process")
	}
	l.remove() // as far as it is there
	if n := there(); n != 0 {
		t.Errorf("%d namespaces are left", n)
	}
}
