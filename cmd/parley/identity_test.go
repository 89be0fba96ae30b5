package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

var hexKey = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

func TestIdentityCommand(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "id\x1b[31m")
	if runtime.GOOS == "windows" {
		path = filepath.Join(dir, "id")
	}
	r := cli(t, "identity", "new", path)
	r.check(t, exitOK, "created:    ", "public key: ")
	if strings.Contains(r.out+r.err, "\x1b") {
		t.Error("a raw escape in the output")
	}
	public := hexKey.FindString(r.out)
	if r = cli(t, "identity", "show", path); r.code != exitOK || r.out != public+"\n" || len(public) != 64 {
		t.Errorf("want the public key %s:\n%v", public, r)
	}
	r = cli(t, "identity", "show", path, "--json")
	if e := find(t, jsonLines(t, r.out), "identity"); e["public_key"] != public || e["path"] != path || e["created"] != false {
		t.Errorf("%v", e)
	}
	cli(t, "identity", "new", path).check(t, exitStorage, "exists already", "--force")
	r = cli(t, "identity", "new", path, "--force", "--json")
	if e := find(t, jsonLines(t, r.out), "identity"); e["public_key"] == public || e["created"] != true {
		t.Errorf("%v", e)
	}
	if n := names(t, dir); len(n) != 1 {
		t.Errorf("left behind: %q", n)
	}
}

func TestSwarmKeyCommand(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "swarm")
	r := cli(t, "identity", "swarm-key", path)
	r.check(t, exitOK, "created:    "+path)
	text := read(t, path)
	key := hexKey.FindString(text)
	if text != "parley-swarm-key-1 "+key+"\n" || strings.Contains(r.out+r.err, key) {
		t.Errorf("the file holds %q, and the output is\n%v", text, r)
	}
	cli(t, "identity", "swarm-key", path).check(t, exitStorage, "exists already", "--force")
	find(t, jsonLines(t, cli(t, "identity", "swarm-key", path, "--force", "--json").out), "swarm_key")
	if read(t, path) == text {
		t.Error("the same key again")
	}
	cli(t, "identity", "show", path).check(t, exitInput, path+": it is a swarm key", "parley identity new")
}

func TestIdentityErrors(t *testing.T) {
	dir := t.TempDir()
	bad := write(t, dir, "bad", "x")
	if err := os.Chmod(bad, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"nothing", []string{"identity"}, exitOK, []string{"swarm-key", "Available Commands"}},
		{"help", []string{"help", "identity", "new"}, exitOK, []string{"parley identity new FILE", "--force"}},
		{"unknown", []string{"identity", "frobnicate"}, exitUsage, []string{`unknown command "frobnicate"`}},
		{"misspelt", []string{"identity", "shwo", bad}, exitUsage, []string{"did you mean: parley identity show?"}},
		{"no file", []string{"identity", "new"}, exitUsage, []string{"FILE is missing", "usage: parley identity new FILE"}},
		{"empty file", []string{"identity", "show", ""}, exitUsage, []string{"FILE is missing"}},
		{"two files", []string{"identity", "swarm-key", "a", "b"}, exitUsage, []string{`from "b" on`}},
		{"unknown flag", []string{"identity", "new", "--forec", "x"}, exitUsage, []string{"did you mean --force?"}},
		{"no such file", []string{"identity", "show", filepath.Join(dir, "none")}, exitInput, []string{"none"}},
		{"no such folder", []string{"identity", "new", filepath.Join(dir, "none", "id")}, exitStorage, []string{"create the folder first"}},
		{"a folder", []string{"identity", "show", dir}, exitInput, []string{"is a folder"}},
		{"over a folder", []string{"identity", "new", "--force", dir}, exitStorage, []string{dir + ": "}},
		{"no identity", []string{"identity", "show", bad}, exitInput, []string{"no private key in PEM"}},
	} {
		t.Run(tt.name, func(t *testing.T) { cli(t, tt.args...).check(t, tt.code, tt.want...) })
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(bad, 0o644); err != nil {
			t.Fatal(err)
		}
		cli(t, "identity", "show", bad).check(t, exitInput, "(mode 0644)", "run chmod 600 "+bad)
	}
}

// The help of commands below another is laid out by hand, for 80 columns.
func TestIdentityHelpFits(t *testing.T) {
	for _, args := range [][]string{{"identity"}, {"identity", "new"}, {"identity", "show"}, {"identity", "swarm-key"}} {
		var out bytes.Buffer
		if code := run(t.Context(), append(args, "--help"), stdio{in: strings.NewReader(""), out: &out, err: &out, columns: 80}); code != exitOK {
			t.Fatalf("%v: exit code %d", args, code)
		}
		text, _, _ := strings.Cut(out.String(), "\n\nUsage:")
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%v: %d columns: %q", args, n, line)
			}
		}
	}
	dir := t.TempDir()
	cli(t, "man", dir).check(t, exitOK)
	if page := read(t, filepath.Join(dir, "parley-identity-new.1")); !strings.Contains(page, "SYNOPSIS") {
		t.Errorf("the man page is\n%s", page)
	}
}
