package metainfo

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
)

// tree is the content that the tests of v2 share: files in the order of a file tree, with and without content, at and around the end of a
// piece, and one that any other sorting would put elsewhere ("sub.x" before "sub/b").
func tree() map[string][]byte {
	return map[string][]byte{
		"a": content(40000), "empty": nil, "sub/b": content(1), "sub/c": content(2*65536 + 5), "sub.x": []byte("hi"), "z": content(100),
	}
}

// describe returns what a Builder needs to know of some content, hashed in the plainest way.
func describe(t testing.TB, form Form, contents map[string][]byte, pieceLength int64) Builder {
	t.Helper()
	b := Builder{Name: "dir", PieceLength: pieceLength, Form: form}
	for path, data := range contents {
		b.Files = append(b.Files, File{Path: strings.Split(path, "/"), Length: int64(len(data))})
	}
	SortFiles(b.Files)
	for _, f := range b.Files {
		var hashes []byte
		for piece := range slices.Chunk(contents[strings.Join(f.Path, "/")], int(pieceLength)) {
			h, err := HashPieceV2(piece, f.Length, pieceLength)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, h[:]...)
		}
		b.TreeHashes = append(b.TreeHashes, hashes)
	}
	var all []byte
	for _, f := range PadFiles(b.Files, pieceLength) {
		if int64(len(all)) != f.Offset {
			t.Fatalf("file at %d, want %d", f.Offset, len(all))
		}
		if f.Padding {
			all = append(all, make([]byte, f.Length)...)
		} else {
			all = append(all, contents[strings.Join(f.Path, "/")]...)
		}
	}
	b.PieceHashes = hashes(all, int(pieceLength))
	return b
}

// The info-hash and the roots were computed by libtorrent 2.0.8 from the same content.
const (
	treeHashV2 = "281d8ea737814507b38428df99df79986b630e5d1c1a1a1caee5c0e1490a74a0"
	rootOfA    = "edaf342a1e57e988bf038a3a"
	rootOfC    = "639f8cdc784d78dee41c091f"
)

func TestBuildV2(t *testing.T) {
	m := build(t, describe(t, FormV2, tree(), 32768))
	file := m.Append(nil)
	if v, rest, err := bencode.Parse(file, bencode.Limits{}); err != nil || len(rest) != 0 || !v.Canonical() {
		t.Fatalf("not canonical: %v", err)
	}
	if m.InfoHashV2.String() != treeHashV2 {
		t.Errorf("v2 info-hash %s, want %s", m.InfoHashV2, treeHashV2)
	}
	again, err := ParseV2(file)
	if err != nil {
		t.Fatal(err)
	}
	again.rest = bencode.Value{}
	if !reflect.DeepEqual(again, m) {
		t.Errorf("read back as %+v, was %+v", again, m)
	}
	info := again.Info
	if !info.V2 || info.Hybrid || !info.V2Only() || info.SingleFile || info.PieceHashes != nil || again.InfoHash.String() != treeHashV2[:40] || info.InfoHash() != again.InfoHash {
		t.Errorf("%+v", again)
	}
	type row struct {
		path           string
		length, offset int64
		padding        bool
	}
	var got []row
	for _, f := range info.Files {
		got = append(got, row{strings.Join(f.Path, "/"), f.Length, f.Offset, f.Padding})
	}
	want := []row{
		{"a", 40000, 0, false}, {".pad/25536", 25536, 40000, true}, {"empty", 0, 65536, false}, {"sub/b", 1, 65536, false},
		{".pad/32767", 32767, 65537, true}, {"sub/c", 131077, 98304, false}, {".pad/32763", 32763, 229381, true},
		{"sub.x", 2, 262144, false}, {".pad/32766", 32766, 262146, true}, {"z", 100, 294912, false},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
	for path, root := range map[int]string{0: rootOfA, 5: rootOfC} {
		if r := fmt.Sprintf("%x", info.Files[path].PiecesRoot); !strings.HasPrefix(r, root) {
			t.Errorf("file %d: root %s, want %s...", path, r, root)
		}
	}
	if g := info.Geometry; info.NumPieces() != 10 || g.TotalBytes != 295012 || g.PieceBytes != 32768 || g.ContentBytes() != 171180 {
		t.Errorf("%d pieces, %+v", info.NumPieces(), info.Geometry)
	}
	checkPieces(t, again, tree())
	if m.Magnet().String() != "magnet:?xt=urn:btmh:1220"+treeHashV2+"&dn=dir&xl=171180" {
		t.Errorf("magnet %s", m.Magnet())
	}
	// To readers of v1 it is what it always was.
	if _, err := Parse(file); !errors.Is(err, ErrV2Only) {
		t.Errorf("Parse: %v", err)
	}
	if _, err := ParseInfo(info.Bytes); !errors.Is(err, ErrV2Only) {
		t.Errorf("ParseInfo: %v", err)
	}
	if byItself, err := ParseInfoV2(info.Bytes); err != nil || !reflect.DeepEqual(byItself, info) {
		t.Errorf("ParseInfoV2: %+v, %v", byItself, err)
	}
}

// checkPieces checks that every piece of content has the hash the torrent says, and lies where it says.
func checkPieces(t *testing.T, m *MetaInfo, contents map[string][]byte) {
	t.Helper()
	seen := 0
	for i := range m.Info.NumPieces() {
		i := bt.PieceIndex(i)
		file, first := m.Info.FileOfPiece(i)
		f := m.Info.Files[file]
		if f.Padding || m.Info.Geometry.PieceStart(first) != f.Offset {
			t.Fatalf("piece %d is said to be of file %+v from piece %d", i, f, first)
		}
		data := contents[strings.Join(f.Path, "/")]
		begin := int64(i-first) * m.Info.PieceLength
		end := begin + int64(m.Info.PieceLenV2(i))
		h, err := HashPieceV2(data[begin:end], f.Length, m.Info.PieceLength)
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := m.PieceHashV2(i); !ok || h != want {
			t.Fatalf("piece %d: hash %x, want %x, %v", i, h, want, ok)
		}
		seen += int(end - begin)
		if i := f.Offset + end; end == f.Length && i > m.Info.Geometry.TotalBytes {
			t.Fatalf("file ends at %d", i)
		}
	}
	total := 0
	for _, data := range contents {
		total += len(data)
	}
	if seen != total {
		t.Errorf("pieces of %d bytes, want %d", seen, total)
	}
}

func TestBuildHybrid(t *testing.T) {
	m := build(t, describe(t, FormHybrid, tree(), 32768))
	file := m.Append(nil)
	both, err := ParseV2(file)
	if err != nil {
		t.Fatal(err)
	}
	both.rest = bencode.Value{}
	if !reflect.DeepEqual(both, m) {
		t.Errorf("read back as %+v, was %+v", both, m)
	}
	if i := both.Info; !i.V2 || !i.Hybrid || i.V2Only() || both.InfoHash != sha1.Sum(i.Bytes) || both.InfoHashV2 != sha256.Sum256(i.Bytes) || i.NumPieces() != 10 {
		t.Errorf("%+v", both)
	}
	checkPieces(t, both, tree())
	if g, err := ParseMagnetV2(both.Magnet().String()); err != nil || g.InfoHash != m.InfoHash || g.InfoHashV2 != m.InfoHashV2 || g.ExactLength != 171180 {
		t.Errorf("magnet %+v, %v", g, err)
	}
	// The same files lie in the same places as in the v2-only torrent, and as v1 readers see them.
	only := build(t, describe(t, FormV2, tree(), 32768))
	if !reflect.DeepEqual(only.Info.Files, both.Info.Files) {
		t.Errorf("files %+v, v2-only %+v", both.Info.Files, only.Info.Files)
	}
	v1, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if v1.Info.V2 || !v1.Info.Hybrid || !v1.InfoHashV2.IsZero() || v1.PieceLayers != nil || v1.InfoHash != m.InfoHash || len(v1.Info.Files) != len(both.Info.Files) {
		t.Errorf("%+v", v1)
	}
	if !bytes.Equal(v1.Append(nil), file) {
		t.Error("a reader of v1 does not keep the piece layers")
	}
	// Without piece layers, as from peers, pieces of long files have no hash yet.
	m.PieceLayers = nil
	_, ok := m.PieceHashV2(0)
	_, small := m.PieceHashV2(2)
	if ok || !small {
		t.Errorf("without layers: %v %v", ok, small)
	}
	if _, err := ParseV2(m.Append(nil)); err == nil || !strings.HasPrefix(err.Error(), "piece layers: none for file 0") {
		t.Errorf("without layers: %v", err)
	}
	if _, err := Parse(m.Append(nil)); err != nil {
		t.Errorf("as v1: %v", err)
	}
}

func TestBuildV2Single(t *testing.T) {
	for _, form := range []Form{FormV2, FormHybrid} {
		for _, n := range []int{1, 16384, 32768, 32769, 100000} {
			b := describe(t, form, map[string][]byte{"dir": content(n)}, 32768)
			b.SingleFile = true
			b.Files[0].Path = nil // is not looked at
			m := build(t, b)
			again, err := ParseV2(m.Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			if f := again.Info.Files; !again.Info.SingleFile || len(f) != 1 || f[0].Length != int64(n) || f[0].Path[0] != "dir" || (len(again.PieceLayers) > 0) != (n > 32768) {
				t.Errorf("%v, %d bytes: %+v", form, n, again.Info)
			}
			checkPieces(t, again, map[string][]byte{"dir": content(n)})
		}
	}
}

// Files that end with a piece, with empty ones before, between and behind.
func TestFileOfPiece(t *testing.T) {
	contents := map[string][]byte{"a": nil, "b": content(32768), "c": nil, "d": nil, "e": content(65536), "f": nil, "g": content(1), "h": nil}
	for _, form := range []Form{FormV2, FormHybrid} {
		m := build(t, describe(t, form, contents, 32768))
		if len(m.Info.Files) != len(contents) || m.Info.NumPieces() != 4 {
			t.Fatalf("%+v", m.Info)
		}
		for piece, want := range [][2]int{{1, 0}, {4, 1}, {4, 1}, {6, 3}} {
			if file, first := m.Info.FileOfPiece(bt.PieceIndex(piece)); file != want[0] || int(first) != want[1] {
				t.Errorf("%v: piece %d is of file %d from piece %d, want %v", form, piece, file, first, want)
			}
		}
		checkPieces(t, m, contents)
	}
}

func TestBuildV2Smallest(t *testing.T) {
	for _, form := range []Form{FormV2, FormHybrid} {
		b := describe(t, form, map[string][]byte{"e": nil, "f": nil}, 16384)
		m, err := ParseV2(build(t, b).Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if m.Info.NumPieces() != 0 || !m.Info.Geometry.Known() || len(m.Info.Files) != 2 || m.PieceLayers == nil {
			t.Errorf("%v: %+v", form, m.Info)
		}
	}
}

func TestBuildV2Rejects(t *testing.T) {
	tests := []struct {
		name  string
		edit  func(*Builder)
		field string
	}{
		{"unknown form", func(b *Builder) { b.Form = 3 }, "form"},
		{"piece length no power of two", func(b *Builder) { b.PieceLength = 40000 }, "info.piece length"},
		{"piece length too small", func(b *Builder) { b.PieceLength = 8192 }, "info.piece length"},
		{"piece length too large", func(b *Builder) { b.PieceLength = 1 << 29 }, "info.piece length"},
		{"no files", func(b *Builder) { b.Files, b.TreeHashes = nil, nil }, "info.files"},
		{"many files in one", func(b *Builder) { b.SingleFile = true }, "info.files"},
		{"no path", func(b *Builder) { b.Files[0].Path = nil }, "info.files[0].path"},
		{"empty element", func(b *Builder) { b.Files[0].Path = []string{""} }, "info.files[0].path"},
		{"path not UTF-8", func(b *Builder) { b.Files[0].Path = []string{"\xe9"} }, "info.files[0].path"},
		{"same path", func(b *Builder) { b.Files[1].Path = b.Files[0].Path }, "info.files[1].path"},
		{"below a file", func(b *Builder) { b.Files[1].Path = []string{"a", "b"} }, "info.files[1].path"},
		{"not sorted", func(b *Builder) { b.Files[0], b.Files[5] = b.Files[5], b.Files[0] }, "info.files[1].path"},
		{"padding", func(b *Builder) { b.Files[1].Padding = true }, "info.files[1]"},
		{"negative length", func(b *Builder) { b.Files[1].Length = -1 }, "info.files[1].length"},
		{"lengths overflow", func(b *Builder) { b.Files[0].Length, b.Files[1].Length = 1<<50, 1<<50 }, "info.files[1].length"},
		{"hashes of too few files", func(b *Builder) { b.TreeHashes = b.TreeHashes[1:] }, "piece layers"},
		{"hash too few", func(b *Builder) { b.TreeHashes[0] = b.TreeHashes[0][32:] }, "piece layers"},
		{"hashes of an empty file", func(b *Builder) { b.TreeHashes[1] = make([]byte, 32) }, "piece layers"},
		{"a folder of one file with its name", func(b *Builder) {
			b.Files, b.TreeHashes, b.Name = b.Files[:1], b.TreeHashes[:1], "a"
		}, "info.name"},
	}
	for _, tt := range tests {
		for _, form := range []Form{FormV2, FormHybrid} {
			t.Run(tt.name+" "+form.String(), func(t *testing.T) {
				b := describe(t, form, tree(), 32768)
				tt.edit(&b)
				_, err := b.Build()
				if e, ok := errors.AsType[*Error](err); !ok || e.Field != tt.field {
					t.Errorf("got %v, want an error in %s", err, tt.field)
				}
			})
		}
	}
	b := describe(t, FormHybrid, tree(), 32768)
	b.PieceHashes = b.PieceHashes[20:]
	if _, err := b.Build(); err == nil || !strings.HasPrefix(err.Error(), "info.pieces: ") {
		t.Errorf("v1 hashes too few: %v", err)
	}
}

// v2 returns a v2-only info dictionary around a file tree.
func v2(fileTree string, replace ...string) string {
	return one(append([]string{"pieces", "", "length", "", "meta version", "i2e", "file tree", fileTree}, replace...)...)
}

// leaf is a file of a tree.
func leaf(length int64) string {
	if length == 0 {
		return "d0:d6:lengthi0eee"
	}
	return fmt.Sprintf("d0:d6:lengthi%de11:pieces root32:%see", length, strings.Repeat("r", 32))
}

func TestParseInfoV2Rejects(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("d1:a", n) + leaf(1) + strings.Repeat("e", n) }
	hybrid := func(fileTree, v1 string) string {
		return several(v1, "pieces", "40:"+strings.Repeat("h", 40), "meta version", "i2e", "file tree", fileTree)
	}
	const a, b = "d6:lengthi16384e4:pathl1:aee", "d6:lengthi1e4:pathl1:bee"
	ab := "d1:a" + leaf(16384) + "1:b" + leaf(1) + "e"
	tests := []struct {
		name, in string
		text     string // the error's
	}{
		{"later version", v2(ab, "meta version", "i3e"), "info.meta version: want 2"},
		{"no version", v2(ab, "meta version", ""), "info.meta version: want 2"},
		{"later hybrid", several("l"+a+b+"e", "pieces", "40:"+strings.Repeat("h", 40), "meta version", "i3e"), "info.meta version: want 2"},
		{"no tree", v2(""), "info.file tree: want a dictionary, got absent"},
		{"tree a list", v2("le"), "info.file tree: want a dictionary, got a list"},
		{"empty tree", v2("de"), "info.file tree: no files in it"},
		{"empty folders", v2("d1:adee"), "info.file tree: no files in it"},
		{"no name", v2(ab, "name", ""), "info.name: want a string, got absent"},
		{"piece length no power of two", v2(ab, "piece length", "i16385e"), "info.piece length: 16385: want a power of two from 16384 to 268435456 bytes in a v2 torrent"},
		{"piece length below a block", v2(ab, "piece length", "i8192e"), "info.piece length: 8192: want a power of two"},
		{"a file at the top", v2(leaf(1)), "info.file tree[0]: a name is empty"},
		{"name a list", v2("d1:alee"), "info.file tree[0]: want a dictionary for every name"},
		{"not sorted", v2("d1:b" + leaf(1) + "1:a" + leaf(1) + "e"), "info.file tree[1]: names in a folder are not sorted, or repeated"},
		{"repeated", v2("d1:a" + leaf(1) + "1:a" + leaf(1) + "e"), "info.file tree[1]: names in a folder are not sorted, or repeated"},
		{"file with something below", v2("d1:ad0:d6:lengthi0ee1:bdeee"), "info.file tree[0]: a file with something below it"},
		{"file a string", v2("d1:ad0:1:xee"), "info.file tree[0]: want a dictionary, got a string"},
		{"no length", v2("d1:ad0:deee"), "info.file tree[0].length: want an integer, got absent"},
		{"length negative", v2("d1:ad0:d6:lengthi-1eeee"), "info.file tree[0].length: -1 is negative"},
		{"lengths overflow", v2("d1:a" + leaf(1<<50-1) + "1:b" + leaf(2) + "e"), "info.file tree[1].length: 2 bytes takes the torrent beyond 1125899906842624 bytes"},
		{"more pieces than any", v2("d1:a" + leaf(1<<49) + "e"), "info: total length 562949953421312 in pieces of 16384 bytes: want at most 4194304 pieces"},
		{"padding beyond any", v2("d1:a"+leaf(1<<50-1)+"1:b"+leaf(1)+"e", "piece length", "i268435456e"), "info.file tree: 1125899906842625 bytes, padding included: want at most 1125899906842624"},
		{"no root", v2("d1:ad0:d6:lengthi1eeee"), "info.file tree[0].pieces root: want a string of 32 bytes"},
		{"root short", v2("d1:ad0:d6:lengthi1e11:pieces root31:" + strings.Repeat("r", 31) + "eee"), "info.file tree[0].pieces root: want a string of 32 bytes"},
		{"root zero", v2("d1:ad0:d6:lengthi1e11:pieces root32:" + strings.Repeat("\x00", 32) + "eee"), "info.file tree[0].pieces root: all zero"},
		{"path too long", v2(deep(257)), "info.file tree[0]: path of more than 256 elements"},
		{"hybrid with pieces a list", one("pieces", "le", "length", "", "meta version", "i2e", "file tree", ab), "info.pieces: want a string, got a list"},
		{"hybrid without files", one("length", "", "meta version", "i2e", "file tree", ab), "info.length: want an integer, got absent"},
		{"hybrid with another path", hybrid("d1:a"+leaf(16384)+"1:c"+leaf(1)+"e", "l"+a+b+"e"), "info.files[1]: another path than info.file tree[1] has: the two descriptions of this hybrid torrent differ"},
		{"hybrid with another length", hybrid("d1:a"+leaf(16384)+"1:b"+leaf(2)+"e", "l"+a+b+"e"), "info.files[1]: 1 bytes, but info.file tree[1] has 2: the two"},
		{"hybrid in another order", hybrid("d1:b"+leaf(16384)+"1:c"+leaf(1)+"e", "ld6:lengthi16384e4:pathl1:ceed6:lengthi1e4:pathl1:beee"), "info.files[0]: another path"},
		{"hybrid with a file more", hybrid("d1:a"+leaf(16384)+"e", "l"+a+b+"e"), "info.files[1]: not in the file tree"},
		{"hybrid with a file less", hybrid("d1:a"+leaf(16384)+"1:b"+leaf(1)+"1:c"+leaf(0)+"e", "l"+a+b+"e"), "info.file tree[2]: only in the file tree"},
		{"hybrid without padding", hybrid("d1:a"+leaf(16383)+"1:b"+leaf(2)+"e", "ld6:lengthi16383e4:pathl1:aeed6:lengthi2e4:pathl1:beee"), "info.files[1]: starts at byte 16383, but info.file tree[1] at 16384"},
		{"hybrid with a piece of padding", hybrid("d1:a"+leaf(16384)+"e", "l"+a+"d4:attr1:p6:lengthi1e4:pathl4:.pad1:1eee"), "info.pieces: 2 pieces, but the file tree has 1"},
		{"hybrid with another single file", one("length", "i40000e", "meta version", "i2e", "file tree", "d1:x"+leaf(40000)+"e"), "info.length: another path than info.file tree[0] has"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseInfoV2([]byte(tt.in))
			if _, ok := errors.AsType[*Error](err); !ok || !strings.HasPrefix(err.Error(), tt.text) || errors.Is(err, ErrV2Only) {
				t.Errorf("got %v, want %s", err, tt.text)
			}
		})
	}
	// What is at the limit, and what is tolerated.
	for name, in := range map[string]string{
		"longest path":                v2(deep(256)),
		"empty folder beside a file":  v2("d1:ade1:b" + leaf(1) + "e"),
		"unknown keys of a file":      v2("d1:ad0:d3:abcli1ee6:lengthi0e11:pieces rootleeee"),
		"symbolic link":               v2("d1:ad0:d4:attr1:l12:symlink pathl1:beeee"),
		"hostile names":               v2("d2:..d1:.d9:../../etc" + leaf(1) + "eee"),
		"v1":                          one(),
		"hybrid":                      hybrid(ab, "l"+a+b+"e"),
		"hybrid with tail padding":    hybrid(ab, "l"+a+b+"d4:attr1:p6:lengthi16383e4:pathl4:.pad5:16383eee"),
		"hybrid with a symbolic link": hybrid("d1:ad0:d4:attr1:lee1:b"+leaf(20000)+"e", "ld4:attr1:l4:pathl1:aeed6:lengthi20000e4:pathl1:beee"),
		"hybrid of one file":          one("length", "i40000e", "meta version", "i2e", "file tree", "d1:n"+leaf(40000)+"e"),
	} {
		t.Run(name, func(t *testing.T) {
			info, err := ParseInfoV2([]byte(in))
			if err != nil {
				t.Fatal(err)
			}
			checkInfo(t, info)
		})
	}
}

func TestPieceLayersRejects(t *testing.T) {
	b := describe(t, FormV2, map[string][]byte{"a": content(40000), "b": content(50000), "c": content(50000)}, 16384)
	m := build(t, b)
	if len(m.PieceLayers) != 2 {
		t.Fatalf("%d layers", len(m.PieceLayers))
	}
	with := func(layers string) error {
		_, err := ParseV2([]byte("d4:info" + string(m.Info.Bytes) + layers + "e"))
		return err
	}
	dict := func(edit func(root [32]byte, layer []byte) []byte) string {
		var d bencode.Dict
		d.SetString("other", "x")
		d.SetInt(strings.Repeat("\x00", 32), 1)
		for root, layer := range m.PieceLayers {
			if layer = edit(root, bytes.Clone(layer)); layer != nil {
				d.SetBytes(string(root[:]), layer)
			}
		}
		return "12:piece layers" + string(d.Append(nil))
	}
	ofA := m.Info.Files[0].PiecesRoot
	onA := func(edit func([]byte) []byte) string {
		return dict(func(root [32]byte, layer []byte) []byte {
			if root == ofA {
				return edit(layer)
			}
			return layer
		})
	}
	if err := with(dict(func(_ [32]byte, layer []byte) []byte { return layer })); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string][2]string{
		"none":         {"", "none for file 0"},
		"a list":       {"12:piece layersle", "want a dictionary, got a list"},
		"one missing":  {onA(func([]byte) []byte { return nil }), "none for file 0"},
		"too short":    {onA(func(l []byte) []byte { return l[32:] }), "64 bytes for file 0, which needs 96"},
		"too long":     {onA(func(l []byte) []byte { return append(l, make([]byte, 32)...) }), "128 bytes for file 0, which needs 96"},
		"one bit":      {onA(func(l []byte) []byte { l[95] ^= 1; return l }), "the hashes of file 0 do not lead to its root"},
		"not a string": {"12:piece layersd32:" + string(ofA[:]) + "i1ee", "want strings, got one with an integer"},
	} {
		t.Run(name, func(t *testing.T) {
			err := with(tt[0])
			if e, ok := errors.AsType[*Error](err); !ok || e.Field != "piece layers" || e.Reason != tt[1] {
				t.Errorf("got %v, want piece layers: %s", err, tt[1])
			}
		})
	}
}

// Deep trees and long paths cost time and memory in proportion to the torrent.
func TestHostileTrees(t *testing.T) {
	// 200 folders around 40,001 files: 200 elements and one more for each path.
	var files strings.Builder
	for i := range 40_001 {
		fmt.Fprintf(&files, "6:%06dd0:d6:lengthi0eee", i)
	}
	in := v2(strings.Repeat("d1:a", 200) + "d" + files.String() + "e" + strings.Repeat("e", 200))
	if _, err := ParseInfoV2([]byte(in)); err == nil || err.Error() != "info.file tree: paths of more than 8000000 elements together" {
		t.Errorf("long paths: %v", err)
	}
	// 250 folders around two million values: a reader that passes over them once a level takes 250 times as long as with one folder.
	took := func(depth int) time.Duration {
		junk := "d0:d4:junkl" + strings.Repeat("0:", 2<<20) + "e6:lengthi0eee"
		in := []byte(v2(strings.Repeat("d1:a", depth) + junk + strings.Repeat("e", depth)))
		from := time.Now()
		if info, err := ParseInfoV2(in); err != nil || len(info.Files[0].Path) != depth {
			t.Fatalf("deep: %v", err)
		}
		return time.Since(from)
	}
	for try := range 3 { // whatever else this machine does meanwhile
		shallow, deep := took(1), took(250)
		if deep <= 25*shallow+100*time.Millisecond {
			break
		}
		if try == 2 {
			t.Errorf("250 folders take %v, one takes %v", deep, shallow)
		}
	}
	// Padding counts.
	files.Reset()
	for i := range MaxFiles/2 + 1 {
		fmt.Fprintf(&files, "6:%06d%s", i, leaf(1))
	}
	in = v2("d" + files.String() + "e")
	if _, err := ParseInfoV2([]byte(in)); err == nil || err.Error() != "info.file tree: 1000001 files, padding included: want at most 1000000" {
		t.Errorf("padding: %v", err)
	}
}

func TestHashPieceV2Rejects(t *testing.T) {
	for name, tt := range map[string]struct{ data, file, piece int64 }{
		"no data": {0, 1, 16384}, "more than a piece": {16385, 20000, 16384}, "more than the file": {2, 1, 16384},
		"odd pieces": {1, 1, 10000}, "no file": {1, 0, 16384},
	} {
		if _, err := HashPieceV2(make([]byte, tt.data), tt.file, tt.piece); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestInfoHashV2(t *testing.T) {
	h, err := ParseInfoHashV2(strings.ToUpper(treeHashV2))
	if err != nil || h.String() != treeHashV2 || h.IsZero() || h.Truncated().String() != treeHashV2[:40] {
		t.Errorf("%v, %v", h, err)
	}
	for _, s := range []string{"", treeHashV2[1:], treeHashV2 + "0", "g" + treeHashV2[1:], hashHex} {
		if h, err := ParseInfoHashV2(s); err == nil || !h.IsZero() {
			t.Errorf("%q: %v", s, h)
		}
	}
}

func TestParseMagnetV2(t *testing.T) {
	h2, err := ParseInfoHashV2(strings.TrimPrefix(hashV2, "urn:btmh:1220"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, in string
		want     Magnet
	}{
		{"v1", "magnet:?xt=urn:btih:" + hashHex, Magnet{InfoHash: hash(t)}},
		{"v2", "magnet:?xt=" + hashV2, Magnet{InfoHash: h2.Truncated(), InfoHashV2: h2}},
		{"v2 twice", "magnet:?xt.1=" + hashV2 + "&xt.2=URN:BTMH:1220" + strings.ToUpper(h2.String()), Magnet{InfoHash: h2.Truncated(), InfoHashV2: h2}},
		{"hybrid", "magnet:?xt=" + hashV2 + "&xt=urn:btih:" + hashHex + "&dn=n", Magnet{InfoHash: hash(t), InfoHashV2: h2, Name: "n"}},
		{"hybrid, v1 first", "magnet:?xt=urn:btih:" + hashHex + "&xt=" + hashV2, Magnet{InfoHash: hash(t), InfoHashV2: h2}},
	} {
		got, err := ParseMagnetV2(tt.in)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
		if again, err := ParseMagnetV2(got.String()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: %s reads as %+v, %v", tt.name, got, again, err)
		}
	}
	for _, tt := range []struct{ name, in, reason string }{
		{"nothing", "magnet:?dn=x", "missing"},
		{"another hash function", "magnet:?xt=urn:btmh:1114" + hashHex, "SHA-256 multihash"},
		{"too short", "magnet:?xt=" + hashV2[:len(hashV2)-1], "64 hexadecimal digits, got 63"},
		{"not hexadecimal", "magnet:?xt=" + hashV2[:len(hashV2)-1] + "g", "not hexadecimal"},
		{"all zero", "magnet:?xt=urn:btmh:1220" + strings.Repeat("0", 64), "zero"},
		{"two torrents", "magnet:?xt=" + hashV2 + "&xt=urn:btmh:1220" + treeHashV2, "two torrents"},
		{"broken beside v1", "magnet:?xt=urn:btih:" + hashHex + "&xt=urn:btmh:1220", "got 0 characters"},
	} {
		if _, err := ParseMagnetV2(tt.in); err == nil || !strings.HasPrefix(err.Error(), "xt: ") || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzParseV2(f *testing.F) {
	for _, b := range []Builder{multi(), describe(f, FormV2, tree(), 32768), describe(f, FormHybrid, tree(), 32768)} {
		m, err := b.Build()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Append(nil))
	}
	f.Add([]byte("d4:info" + v2("d1:ad1:b"+leaf(1)+"e1:c"+leaf(0)+"e") + "12:piece layersdee"))
	f.Add([]byte("d4:info" + v2("d1:n"+leaf(20000)+"e") + "12:piece layersd32:" + strings.Repeat("r", 32) + "64:" + strings.Repeat("h", 64) + "ee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseV2(b)
		if err != nil {
			checkError(t, err)
			return
		}
		checkInfo(t, m.Info)
		if m.InfoHash != m.Info.InfoHash() || m.Info.V2 == m.InfoHashV2.IsZero() || m.Info.V2 == (m.PieceLayers == nil) {
			t.Fatal("info-hash or layers")
		}
		if !m.Info.V2 {
			return
		}
		for i := range min(m.Info.NumPieces(), 1000) {
			file, first := m.Info.FileOfPiece(bt.PieceIndex(i))
			f := m.Info.Files[file]
			if n := m.Info.PieceLenV2(bt.PieceIndex(i)); n == 0 || f.Padding || f.Offset != m.Info.Geometry.PieceStart(first) ||
				int64(n)+m.Info.Geometry.PieceStart(bt.PieceIndex(i)) > f.Offset+f.Length {
				t.Fatalf("piece %d of %d bytes is of %+v from piece %d", i, n, f, first)
			}
			if _, ok := m.PieceHashV2(bt.PieceIndex(i)); !ok {
				t.Fatalf("piece %d has no hash", i)
			}
		}
		if _, err := Parse(b); m.Info.Hybrid && err != nil || m.Info.V2Only() && !errors.Is(err, ErrV2Only) {
			t.Fatalf("as v1: %v", err)
		}
		again, err := ParseV2(m.Append(nil))
		if err != nil {
			t.Fatalf("%q does not read back: %v", m.Append(nil), err)
		}
		m.rest, again.rest = bencode.Value{}, bencode.Value{}
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("written and read: %+v, was %+v", again, m)
		}
		link := m.Magnet().String()
		if got, err := ParseMagnetV2(link); len(link) <= MaxMagnetBytes && (err != nil || !reflect.DeepEqual(got, m.Magnet())) {
			t.Fatalf("magnet %+v reads as %+v, %v", m.Magnet(), got, err)
		}
	})
}
