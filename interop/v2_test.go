//go:build linux

package interop

import (
	"crypto/sha1"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
)

// libtorrentV2 runs drivers/lt_v2.py and returns what it says.
func libtorrentV2(t *testing.T, event string, args ...string) record {
	t.Helper()
	script, err := filepath.Abs("drivers/lt_v2.py")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "libtorrent "+args[0], python(), append([]string{script}, args...)...)
	r := p.event(event)
	p.succeed(patience)
	return r
}

// buildV2 describes a content as a v2 or hybrid torrent and writes its file.
func buildV2(t *testing.T, c *content, form metainfo.Form, pieceLength int64) (*metainfo.MetaInfo, string) {
	t.Helper()
	b := metainfo.Builder{Name: c.name, Form: form, PieceLength: pieceLength}
	for path, size := range c.files {
		f := metainfo.File{Length: size}
		if path == "" {
			b.SingleFile = true
		} else {
			f.Path = strings.Split(path, "/")
		}
		b.Files = append(b.Files, f)
	}
	metainfo.SortFiles(b.Files)
	var all []byte
	for _, f := range metainfo.PadFiles(b.Files, pieceLength) {
		data := make([]byte, f.Length)
		if !f.Padding {
			data = readContent(t, c, f.Path)
			var hashes []byte
			for piece := range slices.Chunk(data, int(pieceLength)) {
				h, err := metainfo.HashPieceV2(piece, f.Length, pieceLength)
				if err != nil {
					t.Fatal(err)
				}
				hashes = append(hashes, h[:]...)
			}
			b.TreeHashes = append(b.TreeHashes, hashes)
		}
		all = append(all, data...)
	}
	for piece := range slices.Chunk(all, int(pieceLength)) {
		h := sha1.Sum(piece)
		b.PieceHashes = append(b.PieceHashes, h[:]...)
	}
	m, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "made by us.torrent")
	if err := os.WriteFile(path, m.Append(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return m, path
}

func readContent(t *testing.T, c *content, path []string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{c.path(t)}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// wantSame checks that libtorrent sees in a torrent what we do.
func wantSame(t *testing.T, m *metainfo.MetaInfo, theirs record) {
	t.Helper()
	v1 := ""
	if !m.Info.V2Only() {
		v1 = m.InfoHash.String()
	}
	if theirs.text("v1") != v1 || theirs.text("v2") != m.InfoHashV2.String() {
		t.Errorf("info-hashes %s and %s, libtorrent has %s and %s", v1, m.InfoHashV2, theirs.text("v1"), theirs.text("v2"))
	}
	if int(theirs.num("pieces")) != m.Info.NumPieces() || theirs.text("name") != m.Info.Name {
		t.Errorf("%q of %d pieces, libtorrent has %q of %.0f", m.Info.Name, m.Info.NumPieces(), theirs.text("name"), theirs.num("pieces"))
	}
	files, _ := theirs["files"].([]any)
	for _, f := range m.Info.Files {
		if f.Padding {
			continue
		}
		if len(files) == 0 {
			t.Fatalf("libtorrent does not have %q", f.Path)
		}
		theirs, _ := files[0].(map[string]any)
		files = files[1:]
		path := strings.Join(f.Path, "/")
		if !m.Info.SingleFile {
			path = m.Info.Name + "/" + path
		}
		r := record(theirs)
		if r.text("path") != path || int64(r.num("length")) != f.Length || r.text("root") != hex.EncodeToString(f.PiecesRoot[:]) {
			t.Errorf("%q of %d bytes, root %x, libtorrent has %v", path, f.Length, f.PiecesRoot, theirs)
		}
	}
	if len(files) > 0 {
		t.Errorf("libtorrent has %v too", files)
	}
}

var formsV2 = []metainfo.Form{metainfo.FormV2, metainfo.FormHybrid}

// TestV2MadeByLibtorrent: what libtorrent describes we understand, down to the hash of every piece; and its magnet links.
func TestV2MadeByLibtorrent(t *testing.T) {
	for _, c := range []*content{single, multi} {
		for _, form := range formsV2 {
			t.Run(form.String()+"/"+c.name, func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "made by libtorrent.torrent")
				theirs := libtorrentV2(t, "torrent", "create", c.path(t), out, form.String(), "65536")
				file, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				m, err := metainfo.ParseV2(file)
				if err != nil {
					t.Fatal(err)
				}
				wantSame(t, m, theirs)
				for i := range m.Info.NumPieces() {
					i := bt.PieceIndex(i)
					n, first := m.Info.FileOfPiece(i)
					f := m.Info.Files[n]
					path := f.Path
					if m.Info.SingleFile {
						path = nil
					}
					at := int64(i-first) * m.Info.PieceLength
					data := readContent(t, c, path)[at : at+int64(m.Info.PieceLenV2(i))]
					got, err := metainfo.HashPieceV2(data, f.Length, m.Info.PieceLength)
					if want, ok := m.PieceHashV2(i); err != nil || !ok || got != want {
						t.Fatalf("piece %d has hash %x, libtorrent says %x; %v", i, got, want, err)
					}
				}
				g, err := metainfo.ParseMagnetV2(theirs.text("magnet"))
				if err != nil || g.InfoHash != m.InfoHash || g.InfoHashV2 != m.InfoHashV2 {
					t.Errorf("%s reads as %+v, %v", theirs.text("magnet"), g, err)
				}
			})
		}
	}
}

// TestV2MadeByParley: what we describe libtorrent understands, and finds the content to be right; and our magnet links.
func TestV2MadeByParley(t *testing.T) {
	for _, c := range []*content{single, multi} {
		for _, form := range formsV2 {
			t.Run(form.String()+"/"+c.name, func(t *testing.T) {
				m, path := buildV2(t, c, form, 65536)
				wantSame(t, m, libtorrentV2(t, "torrent", "read", path))
				if r := libtorrentV2(t, "checked", "check", path, filepath.Dir(c.path(t))); r["seeding"] != true {
					t.Errorf("libtorrent finds %v", r)
				}
				v1 := ""
				if form == metainfo.FormHybrid {
					v1 = m.InfoHash.String()
				}
				if r := libtorrentV2(t, "magnet", "magnet", m.Magnet().String()); r.text("v1") != v1 || r.text("v2") != m.InfoHashV2.String() {
					t.Errorf("libtorrent reads %s as %v", m.Magnet(), r)
				}
			})
		}
	}
}

// TestV2SameAsLibtorrent: the same content in v2-only form is the same torrent, whoever describes it.
func TestV2SameAsLibtorrent(t *testing.T) {
	for _, n := range []int64{16 << 10, 64 << 10, 8 << 20} {
		pieceLength := strconv.FormatInt(n, 10)
		for _, c := range []*content{single, multi} {
			t.Run(pieceLength+"/"+c.name, func(t *testing.T) {
				m, _ := buildV2(t, c, metainfo.FormV2, n)
				out := filepath.Join(t.TempDir(), "made by libtorrent.torrent")
				wantSame(t, m, libtorrentV2(t, "torrent", "create", c.path(t), out, "v2", pieceLength))
			})
		}
	}
}
