//go:build linux

package interop

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What TestMain made: the programs under test and the folder that holds the content all tests share.
var (
	parleyBin  string
	pumpBin    string
	fixtureDir string
)

// python is the interpreter that sees the distribution's libtorrent.
func python() string {
	if p := os.Getenv("PARLEY_INTEROP_PYTHON"); p != "" {
		return p
	}
	return "/usr/bin/python3"
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "parley-interop-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() {
			if err := os.RemoveAll(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
		if err := prepare(dir); err != nil {
			fmt.Fprintln(os.Stderr, "interop:", err)
			return 1
		}
		return m.Run()
	}())
}

// prepare asks for the other clients, which are what this suite is for: without them it fails and does not skip.
func prepare(dir string) error {
	const imports = "import('%s').then(() => process.exit(0), e => { console.error(e.message); process.exit(1) })"
	for _, c := range [][]string{
		{".", python(), "-c", "import libtorrent"},
		{".", "aria2c", "--version"},
		{".", "transmission-daemon", "--version"},
		{".", "rtorrent", "-h"},
		{".", "sh", "-c", "command -v opentracker"},
		{"node", "node", "-e", fmt.Sprintf(imports, "bittorrent-protocol")},
		{"webtorrent", "node", "--import", "./register.mjs", "-e", fmt.Sprintf(imports, "webtorrent")},
	} {
		cmd := exec.Command(c[1], c[2:]...)
		cmd.Dir = c[0]
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s`make interop-deps` installs what is missing", strings.Join(c, " "), err, out)
		}
	}
	fixtureDir = filepath.Join(dir, "fixtures")
	if err := os.Mkdir(fixtureDir, 0o755); err != nil {
		return err
	}
	parleyBin = filepath.Join(dir, "parley")
	pumpBin = filepath.Join(dir, "pump")
	return errors.Join(
		build("..", parleyBin, "./cmd/parley"),
		build(".", pumpBin, "./pump"),
	)
}

func build(dir, out, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, msg)
	}
	return nil
}
