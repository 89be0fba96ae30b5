//go:build linux

package interop

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A content is what a test shares: made once, read by many, never written to.
type content struct {
	name  string // of the file or folder, hence of the torrent
	files map[string]int64
	once  sync.Once
	err   error
}

// The contents of the suite. Sizes are no multiples of anything, so that last pieces and blocks are short.
var (
	single = &content{name: "single.bin", files: map[string]int64{"": 5<<20 + 12345}}
	multi  = &content{name: "a folder – Ordner", files: map[string]int64{
		"a.bin":                   1_234_567,
		"empty.dat":               0,
		"one.byte":                1,
		"sub/deeper/b.bin":        3<<20 + 1,
		"sub/ünïcode – 日本語 🎈.txt": 70_001,
		"z/last.bin":              16 << 10,
	}}
	large = &content{name: "large.bin", files: map[string]int64{"": 300_000_000}}
)

// path returns where the content lies, and makes it at first.
func (c *content) path(t testing.TB) string {
	t.Helper()
	root := filepath.Join(fixtureDir, c.name)
	c.once.Do(func() {
		for i, name := range slices.Sorted(maps.Keys(c.files)) {
			if c.err = writeRandom(filepath.Join(root, filepath.FromSlash(name)), c.files[name], uint64(i)); c.err != nil {
				return
			}
		}
	})
	if c.err != nil {
		t.Fatal(c.err)
	}
	return root
}

// total returns the content's size in bytes.
func (c *content) total() int64 {
	var n int64
	for _, size := range c.files {
		n += size
	}
	return n
}

func writeRandom(path string, size int64, seed uint64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	var key [32]byte
	key[0] = byte(seed)
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := io.CopyN(w, rand.NewChaCha8(key), size); err != nil {
		f.Close()
		return err
	}
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// hashTree returns the SHA-256 of every file at or below root by its slash path, "" for root itself.
func hashTree(t testing.TB, root string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		sums[strings.TrimPrefix(filepath.ToSlash(rel), ".")] = hex.EncodeToString(h.Sum(nil))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// wantContent compares what lies in dir under the content's name with the content, file by file, by SHA-256. Nothing may be
// missing and nothing left over.
func wantContent(t testing.TB, c *content, dir string) {
	t.Helper()
	want := hashTree(t, c.path(t))
	got := hashTree(t, filepath.Join(dir, c.name))
	if len(want) != len(c.files) {
		t.Fatalf("the content itself has %d files, want %d", len(want), len(c.files))
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		switch {
		case got[name] == "":
			t.Errorf("%s: file %q is missing", c.name, name)
		case got[name] != want[name]:
			t.Errorf("%s: file %q: SHA-256 %s, want %s", c.name, name, got[name], want[name])
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s: file %q was not shared", c.name, name)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != c.name {
			t.Errorf("%s: %q lies beside it", c.name, e.Name())
		}
	}
}
