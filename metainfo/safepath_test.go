package metainfo

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSafePath(t *testing.T) {
	long := strings.Repeat("x", 300)
	tests := []struct{ name, in, want string }{
		{"plain", "file.txt", "file.txt"},
		{"unicode", "ünï 🎈 日本.txt", "ünï 🎈 日本.txt"},
		{"hidden", ".bashrc", ".bashrc"},
		{"inner dots and spaces", "a..b  c", "a..b  c"},
		{"leading space", " a", " a"},
		{"empty", "", "_"},
		{"dot", ".", "_"},
		{"dot dot", "..", "_"},
		{"many dots", "......", "_"},
		{"spaces", "   ", "_"},
		{"dots and spaces", ". . .", "_"},
		{"dot dot slash", "../x", ".._x"},
		{"climbing", "../../etc/passwd", ".._.._etc_passwd"},
		{"climbing the Windows way", `..\..\x`, ".._.._x"},
		{"absolute", "/etc/passwd", "_etc_passwd"},
		{"slash", "/", "_"},
		{"slashes and dots", "/..", "_"},
		{"drive", "C:", "C_"},
		{"drive path", `C:\Windows\x`, "C__Windows_x"},
		{"share", `\\host\share`, "__host_share"},
		{"device namespace", `\\?\C:`, "____C_"},
		{"stream", "file.txt:evil.exe", "file.txt_evil.exe"},
		{"forbidden on Windows", `a*?"<>|b`, "a______b"},
		{"NUL", "a\x00b", "a_b"},
		{"newline", "a\nb\r\t", "a_b__"},
		{"escape sequence", "\x1b[31mred", "_[31mred"},
		{"delete", "a\x7f", "a_"},
		{"C1 controls", "a\u0080\u009f\u00a0b", "a__\u00a0b"},
		{"line separators", "a\u2028b\u2029", "a_b_"},
		{"text direction", "a\u202egpj.exe\u2066", "a_gpj.exe_"},
		{"direction marks", "a\u200f\u200eb", "a\u200f\u200eb"},
		{"not UTF-8", "a\xff\xfeb", "a__b"},
		{"Latin-1", "caf\xe9.txt", "caf_.txt"},
		{"overlong slash", "a\xc0\xafb", "a__b"},
		{"surrogate", "a\xed\xa0\x80b", "a___b"},
		{"encoded replacement character", "a\ufffdb", "a\ufffdb"},
		{"dot at the end", "file.", "file"},
		{"space at the end", "file.txt ", "file.txt"},
		{"dots and spaces at the end", "file. . .", "file"},
		{"device", "CON", "_CON"},
		{"device in lower case", "nul", "_nul"},
		{"device with extension", "nul.txt", "_nul.txt"},
		{"device with extensions", "aux.tar.gz", "_aux.tar.gz"},
		{"device with space", "con .txt", "_con .txt"},
		{"device with dots at the end", "PRN...", "_PRN"},
		{"device with spaces at the end", "COM1  ", "_COM1"},
		{"device port 0", "com0", "_com0"},
		{"device port 9", "LPT9.log", "_LPT9.log"},
		{"device port superscript", "COM²", "_COM²"},
		{"console", "CONIN$", "_CONIN$"},
		{"console output", "conout$.txt", "_conout$.txt"},
		{"device after replacement", "CON\x00", "CON_"},
		{"no device", "CONSOLE", "CONSOLE"},
		{"no device port", "COM10", "COM10"},
		{"no device with front", "xCON", "xCON"},
		{"at the limit", long[:255], long[:255]},
		{"above the limit", long[:256], long[:255]},
		{"extension kept", long + ".mkv", long[:251] + ".mkv"},
		{"long extension not kept", "a." + long, "a." + long[:253]},
		{"multi-byte at the limit", strings.Repeat("ü", 150), strings.Repeat("ü", 127)},
		{"multi-byte with extension", strings.Repeat("日", 100) + ".txt", strings.Repeat("日", 83) + ".txt"},
		{"growing by replacement", strings.Repeat("\xff", 256), strings.Repeat("_", 255)},
		{"space where it is cut", long[:254] + " " + long, long[:254]},
		{"device when cut", "CON" + strings.Repeat(" ", 300) + "x", "_CON"},
		{"device too long", "NUL." + long, "_NUL." + long[:250]},
		{"device at the limit", "NUL." + long[:251], "_NUL." + long[:250]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := SafePath([]string{"dir", tt.in})
			if err != nil || !slices.Equal(got, []string{"dir", tt.want}) {
				t.Errorf("%q: got %q, %v; want %q", tt.in, got, err, tt.want)
			}
			if err := checkSafe(tt.want); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no elements", func(t *testing.T) {
		if _, err := SafePath(nil); err == nil || err.Error() != "path: 0 elements: want 1 to 256" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("elements at and above the limit", func(t *testing.T) {
		if p, err := SafePath(make([]string, MaxPathElements)); err != nil || len(p) != MaxPathElements {
			t.Errorf("%d elements, %v", len(p), err)
		}
		if _, err := SafePath(make([]string, MaxPathElements+1)); err == nil {
			t.Error("no error")
		}
	})
	t.Run("input untouched", func(t *testing.T) {
		in := []string{"..", "CON"}
		if _, err := SafePath(in); err != nil || in[0] != ".." || in[1] != "CON" {
			t.Errorf("%q, %v", in, err)
		}
	})
}

// checkSafe says what is wrong with a name that SafePath returned. It spells the rules out once more, in
// other words than the code under test.
func checkSafe(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is not a name", name)
	case len(name) > 255:
		return fmt.Errorf("%q has %d bytes", name, len(name))
	case !utf8.ValidString(name):
		return fmt.Errorf("%q is not UTF-8", name)
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
		return fmt.Errorf("%q ends in a dot or space", name)
	case !filepath.IsLocal(name):
		return fmt.Errorf("%q is not local", name)
	}
	for _, r := range name {
		if r < 0x20 || r >= 0x7f && r <= 0x9f || strings.ContainsRune("/\\:*?\"<>|\u2028\u2029\u202e", r) {
			return fmt.Errorf("%q has %q in it", name, r)
		}
	}
	base, _, _ := strings.Cut(strings.ToLower(name), ".")
	base = strings.TrimSpace(base)
	devices := []string{"con", "prn", "aux", "nul", "conin$", "conout$"}
	for i := range 10 {
		devices = append(devices, fmt.Sprint("com", i), fmt.Sprint("lpt", i))
	}
	if slices.Contains(devices, base) && name[0] != ' ' {
		return fmt.Errorf("%q is a device", name)
	}
	return nil
}

func paths(name string, files ...string) *Info {
	info := &Info{Name: name}
	for _, f := range files {
		f, padding := strings.CutPrefix(f, "PAD ")
		info.Files = append(info.Files, File{Path: strings.Split(f, "/"), Padding: padding})
	}
	return info
}

func TestSafePaths(t *testing.T) {
	l := strings.Repeat("x", 255)
	tests := []struct {
		name string
		info *Info
		want []string
	}{
		{"single file", &Info{Name: "a/b", SingleFile: true, Files: []File{{Path: []string{"a/b"}}}}, []string{"a_b"}},
		{"plain", paths("t", "a", "d/a", "d/b", "e/a"), []string{"t/a", "t/d/a", "t/d/b", "t/e/a"}},
		{"nasty torrent name", paths("..", "a"), []string{"_/a"}},
		{"same path", paths("t", "a.txt", "a.txt", "a.txt"), []string{"t/a.txt", "t/a (2).txt", "t/a (3).txt"}},
		{"same after mapping", paths("t", "a?b", "a_b", "a*b"), []string{"t/a_b", "t/a_b (2)", "t/a_b (3)"}},
		{"case", paths("t", "README", "readme", "ReadMe"), []string{"t/README", "t/readme (2)", "t/ReadMe (3)"}},
		{"case beyond ASCII", paths("t", "ÜBER", "über", "ς", "Σ", "K", "\u212a"), []string{"t/ÜBER", "t/über (2)", "t/ς", "t/Σ (2)", "t/K", "t/\u212a (2)"}},
		{"number taken before", paths("t", "a (2)", "a", "a"), []string{"t/a (2)", "t/a", "t/a (3)"}},
		{"number taken after", paths("t", "a", "a", "a (2)"), []string{"t/a", "t/a (2)", "t/a (2) (2)"}},
		{"number taken in other case", paths("t", "B (2)", "b", "b"), []string{"t/B (2)", "t/b", "t/b (3)"}},
		{"folders differ in case", paths("t", "D/a", "d/b", "D/B"), []string{"t/D/a", "t/D/b", "t/D/B (2)"}},
		{"folders same after mapping", paths("t", "a:/x", "a_/y", "a?/x"), []string{"t/a_/x", "t/a_/y", "t/a_/x (2)"}},
		{"file before folder", paths("t", "a.d", "a.d/x", "A.D/y", "a.d/x"), []string{"t/a.d", "t/a.d (2)/x", "t/a.d (2)/y", "t/a.d (2)/x (2)"}},
		{"folder before file", paths("t", "a.d/x", "a.d", "a.d/y"), []string{"t/a.d/x", "t/a (2).d", "t/a.d/y"}},
		{"file, folder and the numbered name", paths("t", "a", "a/x", "a (2)", "a (2)/y"),
			[]string{"t/a", "t/a (2)/x", "t/a (2) (2)", "t/a (2)/y"}},
		{"in other folders", paths("t", "d/a", "e/a", "d/A"), []string{"t/d/a", "t/e/a", "t/d/A (2)"}},
		{"file deep in a file", paths("t", "a", "a/b", "a/b/c"), []string{"t/a", "t/a (2)/b", "t/a (2)/b (2)/c"}},
		{"extension kept", paths("t", "a.tar.gz", "a.tar.gz"), []string{"t/a.tar.gz", "t/a.tar (2).gz"}},
		{"no extension", paths("t", ".x", ".x"), []string{"t/.x", "t/.x (2)"}},
		{"long names", paths("t", l, l, l+"y.txt", l+"z.txt"),
			[]string{"t/" + l, "t/" + l[:245] + " (2)", "t/" + l[:251] + ".txt", "t/" + l[:241] + " (2).txt"}},
		{"devices", paths("t", "NUL", "_nul", "aux/x", "_AUX/x"), []string{"t/_NUL", "t/_nul (2)", "t/_aux/x", "t/_aux/x (2)"}},
		{"padding gives way", paths("t", "PAD a", "a", "PAD a", "PAD b/c", "b"), []string{"t/a (2)", "t/a", "t/a (3)", "t/b (2)/c", "t/b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := SafePaths(tt.info)
			if err != nil {
				t.Fatal(err)
			}
			joined := make([]string, len(got))
			for i, p := range got {
				joined[i] = strings.Join(p, "/")
			}
			if !slices.Equal(joined, tt.want) {
				t.Errorf("got  %q\nwant %q", joined, tt.want)
			}
			checkPaths(t, tt.info)
		})
	}
	t.Run("no path", func(t *testing.T) {
		info := paths("t", "a", "b")
		info.Files[1].Path = nil
		if _, err := SafePaths(info); err == nil || err.Error() != "info.files[1].path: 0 elements: want 1 to 256" {
			t.Errorf("got %v", err)
		}
	})
}

// Many names that differ and are all cut to the same one, each twice: a count per name would try every
// number again for each.
func TestSafePathsLinearTime(t *testing.T) {
	info := &Info{Name: "t"}
	stem := strings.Repeat("x", 250)
	for i := range 30_000 {
		name := fmt.Sprintf("%s%05d", stem, i)
		info.Files = append(info.Files, File{Path: []string{name}}, File{Path: []string{name}})
	}
	all, err := SafePaths(info)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool, len(all))
	for _, p := range all {
		seen[p[1]] = true
	}
	if last := all[len(all)-1][1]; len(seen) != len(all) || !strings.HasSuffix(last, "x (30001)") {
		t.Errorf("%d names for %d files, the last %q", len(seen), len(all), last)
	}
}

// checkPaths holds what SafePaths promises about any torrent.
func checkPaths(t *testing.T, info *Info) {
	t.Helper()
	all, err := SafePaths(info)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(info.Files) {
		t.Fatalf("%d paths for %d files", len(all), len(info.Files))
	}
	// Every name on the way to a file is a folder, every file is nothing else.
	kinds := make(map[string]string)
	for i, p := range all {
		if len(p) > 1 && (len(p) != len(info.Files[i].Path)+1 || p[0] != all[0][0]) {
			t.Fatalf("%q for %q", p, info.Files[i].Path)
		}
		for j, name := range p {
			if err := checkSafe(name); err != nil {
				t.Fatal(err)
			}
			at := lower(strings.Join(p[:j+1], "/"))
			kind := "folder"
			if j == len(p)-1 {
				kind = "file"
			}
			if was := kinds[at]; was != "" && (was != kind || kind == "file") {
				t.Fatalf("%q is a %s and a %s", at, was, kind)
			}
			kinds[at] = kind
		}
	}
}

// lower folds case in another way than the code under test. The Turkish letters that Go's tables join
// with i are letters of their own to file systems.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r == 'ı' || r == 'İ' {
			return r
		}
		return unicode.ToLower(unicode.ToUpper(r))
	}, s)
}

func FuzzSafePath(f *testing.F) {
	for _, s := range []string{
		"a", "../..\x00b", "CON\x00nul.txt\x00COM¹ .x", "C:\\x", "a\xff\u202e", strings.Repeat("é", 200) + ".txt", "a\x00A\x00a (2)\x00a",
		"CON" + strings.Repeat(" ", 300) + "x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		elems := strings.Split(s, "/")
		got, err := SafePath(elems)
		if err != nil {
			if len(elems) <= MaxPathElements {
				t.Fatal(err)
			}
			return
		}
		if len(got) != len(elems) {
			t.Fatalf("%q for %q", got, elems)
		}
		for i, name := range got {
			if err := checkSafe(name); err != nil {
				t.Fatalf("%q: %v", elems[i], err)
			}
		}
		if !filepath.IsLocal(filepath.Join(got...)) {
			t.Fatalf("%q escapes", got)
		}
		if again, err := SafePath(got); err != nil || !slices.Equal(again, got) {
			t.Fatalf("%q maps to %q, %v", got, again, err)
		}
		// As the files of one torrent: every line a path.
		checkPaths(t, paths("t", strings.Split(s, "\n")...))
	})
}
