package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bt"
)

func TestScanFolder(t *testing.T) {
	dir := t.TempDir()
	content := map[string]string{
		"share/b.txt": "bb", "share/a/z": "z", "share/a.txt": "aaa", "share/.DS_Store": "?", "share/x.part": "part",
		"share/empty": "", "share/ü/日本": "unicode", "share/a/deep/er/file": "deep",
	}
	for name, text := range content {
		writeFile(t, filepath.Join(dir, name), []byte(text))
	}
	if err := os.Mkdir(filepath.Join(dir, "share", "nothing"), 0o777); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"share/link": "b.txt", "share/a/linkdir": "..", "share/dangling": "no"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}

	check := func(t *testing.T, path string) {
		l, err := Scan(path)
		if err != nil {
			t.Fatal(err)
		}
		if l.Dir != real || l.Name != "share" || l.Single {
			t.Errorf("dir %s, name %s, single %v, want %s, share, false", l.Dir, l.Name, l.Single, real)
		}
		var got []string
		var total int64
		for _, f := range l.Files {
			name := strings.Join(f.Path, "/")
			got = append(got, name)
			total += f.Length
			if f.Length != int64(len(content[name])) || f.Padding {
				t.Errorf("%s: %d bytes, padding %v", name, f.Length, f.Padding)
			}
		}
		want := []string{
			"share/.DS_Store", "share/a/deep/er/file", "share/a/z", "share/a.txt", "share/b.txt", "share/empty",
			"share/x.part", "share/ü/日本",
		}
		if !slices.Equal(got, want) {
			t.Errorf("files %q, want %q", got, want)
		}
		if l.TotalBytes != total {
			t.Errorf("total %d, want %d", l.TotalBytes, total)
		}
		skipped := []string{filepath.FromSlash("share/a/linkdir"), filepath.FromSlash("share/dangling"), filepath.FromSlash("share/link")}
		if !slices.Equal(l.Skipped, skipped) {
			t.Errorf("skipped %q, want %q", l.Skipped, skipped)
		}
		geom, err := bt.NewGeometry(l.TotalBytes, 16)
		if err != nil {
			t.Fatal(err)
		}
		s, err := OpenFiles(l.Dir, l.Files, geom, Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		p := make([]byte, l.TotalBytes)
		if _, err := s.ReadAt(p, 0); err != nil || string(p) != "?deepzaaabbpartunicode" {
			t.Errorf("content %q, %v", p, err)
		}
	}
	t.Run("by path", func(t *testing.T) { check(t, filepath.Join(dir, "share")) })
	t.Run("with a slash", func(t *testing.T) { check(t, filepath.Join(dir, "share")+string(filepath.Separator)) })
	t.Run("as dot", func(t *testing.T) { t.Chdir(filepath.Join(dir, "share")); check(t, ".") })
	t.Run("through a link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "alias")
		if err := os.Symlink(filepath.Join(dir, "share"), link); err != nil {
			t.Fatal(err)
		}
		check(t, link)
	})
}

func TestScanFile(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "über.iso"), []byte("12345"))
	l, err := Scan(filepath.Join(dir, "über.iso"))
	if err != nil {
		t.Fatal(err)
	}
	if !l.Single || l.Dir != dir || l.Name != "über.iso" || l.TotalBytes != 5 || len(l.Files) != 1 ||
		!slices.Equal(l.Files[0].Path, []string{"über.iso"}) || l.Files[0].Length != 5 {
		t.Errorf("%+v", l)
	}
}

func TestScanErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "empty", "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	root := filepath.VolumeName(dir) + string(filepath.Separator)
	tests := []struct {
		name, path string
		is         error
		says       string
	}{
		{"missing", filepath.Join(dir, "no"), fs.ErrNotExist, filepath.Join(dir, "no")},
		{"empty folder", filepath.Join(dir, "empty"), ErrNothingToShare, "empty"},
		{"whole drive", root, nil, "share a folder in it"},
	}
	for _, tt := range tests {
		l, err := Scan(tt.path)
		if err == nil || (tt.is != nil && !errors.Is(err, tt.is)) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %+v, %v, want %v that says %q", tt.name, l, err, tt.is, tt.says)
		}
	}
}
