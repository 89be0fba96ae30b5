package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestGlobMatches(t *testing.T) {
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"*.txt", "a.txt", true},
		{"*.txt", "deep/down/a.txt", true},
		{"*.txt", "a.txt.zip", false},
		{"extras", "extras/b/c", true},
		{"extras", "x/extras/c", true},
		{"extras/", "extras/c", true},
		{"extra", "extras/c", false},
		{"x/extras", "x/extras/c", true},
		{"extras/c", "x/extras/c", false},
		{"x/*/c", "x/extras/c", true},
		{"x/*", "x/extras/c", true},
		{"*", "anything", true},
		{"[a", "[a", true}, // the name itself
		{"a[1].txt", "a[1].txt", true},
		{"a[1].txt", "a1.txt", true},
		{"", "a", false},
		{"A", "a", false},
	} {
		if got := globMatches(c.glob, strings.Split(c.path, "/")); got != c.want {
			t.Errorf("%q and %q: %v, want %v", c.glob, c.path, got, c.want)
		}
	}
}

// stored returns the files below a folder that are not hidden.
func stored(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if rel, err := filepath.Rel(dir, path); err != nil {
			return err
		} else if !d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestGetChosen(t *testing.T) {
	src := content(t, t.TempDir())
	_, magnet, addr := seedOf(t, src)
	for _, c := range []struct {
		name string
		args []string
		want []string
		text string
	}{
		{"one file", []string{"--file", "one"}, []string{"holiday/one"}, "1 of 4 files"},
		{"a folder and an empty file", []string{"--file", "Füße", "--file", "empty"}, []string{"holiday/Füße/日本語.txt", "holiday/empty"}, "2 of 4 files"},
		{"all but the big one", []string{"--skip", "*.bin", "--sequential"}, []string{"holiday/Füße/日本語.txt", "holiday/empty", "holiday/one"}, "3 of 4 files"},
		{"both", []string{"--file", "*", "--skip", "Füße/*", "--skip", "empty"}, []string{"holiday/big.bin", "holiday/one"}, "2 of 4 files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := t.TempDir()
			cli(t, append([]string{"get", magnet, "--peer", addr, "-o", dst}, c.args...)...).check(t, exitOK, c.text)
			got := stored(t, dst)
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("there are %q, want %q", got, c.want)
			}
			for _, name := range got {
				if read(t, filepath.Join(dst, name)) != read(t, filepath.Join(filepath.Dir(src), name)) {
					t.Errorf("%s is different", name)
				}
			}
			// The rest comes later.
			cli(t, "get", magnet, "--peer", addr, "-o", dst).check(t, exitOK, "complete")
			sameTree(t, filepath.Join(dst, "holiday"), src)
		})
	}
}

func TestGetList(t *testing.T) {
	dir := t.TempDir()
	src := content(t, dir)
	torrent := filepath.Join(dir, "x.torrent")
	cli(t, "create", src, "-o", torrent).check(t, exitOK)
	_, magnet, addr := seedOf(t, torrent)
	dst := filepath.Join(dir, "none")
	for name, args := range map[string][]string{"torrent": {torrent}, "magnet": {magnet, "--peer", addr}} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"get", "--list", "--skip", "one", "-o", dst}, args...)
			r := cli(t, args...)
			r.check(t, exitOK, "big.bin", "Füße/日本語.txt", "(left out)")
			r = cli(t, append(args, "--json")...)
			r.check(t, exitOK)
			listed := map[string]bool{}
			for _, l := range jsonLines(t, r.out) {
				if l["event"] == "listed" {
					parts := l["path"].([]any)
					listed[parts[len(parts)-1].(string)] = l["wanted"].(bool)
				}
			}
			if len(listed) != 4 || listed["one"] || !listed["empty"] {
				t.Errorf("listed %v", listed)
			}
			if _, err := os.Stat(dst); !os.IsNotExist(err) {
				t.Errorf("a list has made %s: %v", dst, err)
			}
		})
	}
}

func TestGetCat(t *testing.T) {
	src := content(t, t.TempDir())
	_, magnet, addr := seedOf(t, src)
	dst := t.TempDir()
	r := cli(t, "get", magnet, "--peer", addr, "-o", dst, "--cat", "big.bin")
	r.check(t, exitOK)
	if r.out != read(t, filepath.Join(src, "big.bin")) {
		t.Errorf("%d bytes were written, which are not the file's", len(r.out))
	}
	if got := stored(t, dst); !slices.Equal(got, []string{"holiday/big.bin"}) {
		t.Errorf("there are %q", got)
	}
	// It is here already.
	r = cli(t, "get", magnet, "--peer", addr, "-o", dst, "--cat", "big.*")
	r.check(t, exitOK)
	if r.out != read(t, filepath.Join(src, "big.bin")) {
		t.Errorf("%d bytes were written, which are not the file's", len(r.out))
	}
}

func TestGetChoiceErrors(t *testing.T) {
	dir := t.TempDir()
	src := content(t, dir)
	torrent := filepath.Join(dir, "x.torrent")
	cli(t, "create", src, "-o", torrent).check(t, exitOK)
	_, magnet, addr := seedOf(t, torrent)
	for name, c := range map[string]struct {
		args []string
		text string
	}{
		"bad pattern":     {[]string{torrent, "--file", "[a"}, "not a pattern"},
		"nothing matches": {[]string{torrent, "--file", "nowhere"}, "no file of the torrent matches"},
		"all left out":    {[]string{magnet, "--peer", addr, "--skip", "*"}, "leaves all of them out"},
		"cat nothing":     {[]string{magnet, "--peer", addr, "--cat", "nowhere"}, "no file of the torrent matches"},
		"cat several":     {[]string{magnet, "--peer", addr, "--cat", "*"}, "4 files of the torrent match"},
		"cat and file":    {[]string{torrent, "--cat", "one", "--file", "one"}, "does not go with"},
		"cat and json":    {[]string{torrent, "--cat", "one", "--json"}, "both want standard output"},
		"list and seed":   {[]string{torrent, "--list", "--seed"}, "does not go with"},
	} {
		t.Run(name, func(t *testing.T) {
			r := cli(t, append([]string{"get", "-o", t.TempDir()}, c.args...)...)
			if r.code != exitUsage || !strings.Contains(r.out+r.err, c.text) {
				t.Errorf("exit code %d, want %d and %q:\n%s%s", r.code, exitUsage, c.text, r.out, r.err)
			}
		})
	}
}

// A super-seed is fetched from like any other.
func TestSeedSuper(t *testing.T) {
	src := content(t, t.TempDir())
	_, magnet, addr := seedOf(t, src, "--super")
	dst := t.TempDir()
	cli(t, "get", magnet, "--peer", addr, "-o", dst).check(t, exitOK, "complete: ")
	sameTree(t, filepath.Join(dst, "holiday"), src)
}
