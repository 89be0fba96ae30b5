package metainfo

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
)

// content returns n bytes of a fixed pattern.
func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/251)
	}
	return b
}

func hashes(b []byte, pieceLength int) []byte {
	var out []byte
	for piece := range slices.Chunk(b, pieceLength) {
		h := sha1.Sum(piece)
		out = append(out, h[:]...)
	}
	return out
}

// multi is a torrent with an empty file, a 1-byte file, folders and names beyond ASCII.
func multi() Builder {
	return Builder{
		Name: "Größe",
		Files: []File{
			{Path: []string{"empty"}},
			{Path: []string{"sub", "ünï🎈.txt"}, Length: 20000},
			{Path: []string{"sub", "one"}, Length: 1},
			{Path: []string{"z.bin"}, Length: 19999},
		},
		PieceLength: 16384,
		PieceHashes: hashes(content(40000), 16384),
		Private:     true,
		Announce:    [][]string{{"http://a.example/announce", "udp://b.example:6969"}, {}, {"", "http://c.example/announce"}},
		WebSeeds:    []string{"https://w.example/"},
		Comment:     "ein Kommentar",
		CreatedBy:   "Parley",
	}
}

func single() Builder {
	return Builder{
		Name:        "hello.bin",
		SingleFile:  true,
		Files:       []File{{Length: 40000}},
		PieceLength: 16384,
		PieceHashes: hashes(content(40000), 16384),
	}
}

// The info-hashes were computed by a separate program from the same description.
const (
	multiHash  = "755b3bbd7ffae5ee2430394d149cf5b6f1d54f86"
	singleHash = "53e711ca203583e1e2ecfec192bc455767a5c80e"
)

func build(t testing.TB, b Builder) *MetaInfo {
	t.Helper()
	m, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBuildAndParseMulti(t *testing.T) {
	file := build(t, multi()).Append(nil)
	if v, rest, err := bencode.Parse(file, bencode.Limits{}); err != nil || len(rest) != 0 || !v.Canonical() {
		t.Fatalf("not canonical: %v", err)
	}
	m, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if m.InfoHash.String() != multiHash || m.Info.InfoHash() != m.InfoHash {
		t.Errorf("info-hash %s, want %s", m.InfoHash, multiHash)
	}
	info := m.Info
	wantFiles := []File{
		{Path: []string{"empty"}},
		{Path: []string{"sub", "ünï🎈.txt"}, Length: 20000},
		{Path: []string{"sub", "one"}, Length: 1, Offset: 20000},
		{Path: []string{"z.bin"}, Length: 19999, Offset: 20001},
	}
	if !reflect.DeepEqual(info.Files, wantFiles) {
		t.Errorf("files %+v, want %+v", info.Files, wantFiles)
	}
	if info.Name != "Größe" || info.SingleFile || !info.Private || info.Hybrid || info.PieceLength != 16384 {
		t.Errorf("info %+v", info)
	}
	if want := (bt.Geometry{TotalBytes: 40000, PieceBytes: 16384}); info.Geometry != want || info.NumPieces() != 3 {
		t.Errorf("geometry %+v, %d pieces", info.Geometry, info.NumPieces())
	}
	for i := range 3 {
		start := i * 16384
		want := sha1.Sum(content(40000)[start:min(start+16384, 40000)])
		if info.PieceHash(bt.PieceIndex(i)) != want {
			t.Errorf("piece %d: wrong hash", i)
		}
	}
	wantTiers := [][]string{{"http://a.example/announce", "udp://b.example:6969"}, {"http://c.example/announce"}}
	if !reflect.DeepEqual(m.Announce, wantTiers) {
		t.Errorf("announce %q, want %q", m.Announce, wantTiers)
	}
	if !slices.Equal(m.WebSeeds, []string{"https://w.example/"}) || m.Comment != "ein Kommentar" ||
		m.CreatedBy != "Parley" || m.CreationDate != 0 {
		t.Errorf("%+v", m)
	}
	if again := m.Append([]byte("x")); string(again) != "x"+string(file) {
		t.Errorf("written again: %q, want %q", again, file)
	}
	if byItself, err := ParseInfo(info.Bytes); err != nil || !reflect.DeepEqual(byItself, info) {
		t.Errorf("ParseInfo: %+v, %v", byItself, err)
	}
}

func TestBuildAndParseSingle(t *testing.T) {
	b := single()
	b.CreationDate = 1_700_000_000
	file := build(t, b).Append(nil)
	want := "d13:creation datei1700000000e4:infod6:lengthi40000e4:name9:hello.bin12:piece lengthi16384e6:pieces60:" +
		string(b.PieceHashes) + "ee"
	if string(file) != want {
		t.Errorf("got %q, want %q", file, want)
	}
	m, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if m.InfoHash.String() != singleHash {
		t.Errorf("info-hash %s, want %s", m.InfoHash, singleHash)
	}
	if !m.Info.SingleFile || !reflect.DeepEqual(m.Info.Files, []File{{Path: []string{"hello.bin"}, Length: 40000}}) {
		t.Errorf("files %+v", m.Info.Files)
	}
	if m.CreationDate != 1_700_000_000 || m.Announce != nil || m.WebSeeds != nil {
		t.Errorf("%+v", m)
	}
}

func TestBuildSmallest(t *testing.T) {
	for n := range 2 {
		b := Builder{Name: "f", SingleFile: true, Files: []File{{Length: int64(n)}}, PieceLength: 16384}
		if n > 0 {
			b.PieceHashes = hashes(content(n), 16384)
		}
		m, err := Parse(build(t, b).Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if m.Info.NumPieces() != n || m.Info.Geometry.TotalBytes != int64(n) || !m.Info.Geometry.Known() {
			t.Errorf("%d bytes: %+v", n, m.Info)
		}
	}
}

func TestBuildRejects(t *testing.T) {
	tests := []struct {
		name  string
		edit  func(*Builder)
		field string
	}{
		{"no name", func(b *Builder) { b.Name = "" }, "info.name"},
		{"dot name", func(b *Builder) { b.Name = ".." }, "info.name"},
		{"name with slash", func(b *Builder) { b.Name = "a/b" }, "info.name"},
		{"name not UTF-8", func(b *Builder) { b.Name = "\xff" }, "info.name"},
		{"no files", func(b *Builder) { b.Files = nil }, "info.files"},
		{"many files in one", func(b *Builder) { b.SingleFile = true }, "info.files"},
		{"no path", func(b *Builder) { b.Files[1].Path = nil }, "info.files[1].path"},
		{"empty element", func(b *Builder) { b.Files[1].Path = []string{"a", ""} }, "info.files[1].path"},
		{"dot element", func(b *Builder) { b.Files[1].Path = []string{".", "a"} }, "info.files[1].path"},
		{"NUL element", func(b *Builder) { b.Files[1].Path = []string{"a\x00"} }, "info.files[1].path"},
		{"path not UTF-8", func(b *Builder) { b.Files[1].Path = []string{"\xe9"} }, "info.files[1].path"},
		{"same path", func(b *Builder) { b.Files[2].Path = b.Files[1].Path }, "info.files[2].path"},
		{"negative length", func(b *Builder) { b.Files[2].Length = -1 }, "info.files[2].length"},
		{"no piece length", func(b *Builder) { b.PieceLength = 0 }, "info.piece length"},
		{"hash too few", func(b *Builder) { b.PieceHashes = b.PieceHashes[:40] }, "info.pieces"},
		{"hash cut", func(b *Builder) { b.PieceHashes = b.PieceHashes[:59] }, "info.pieces"},
		{"negative date", func(b *Builder) { b.CreationDate = -1 }, "creation date"},
		{"too many trackers", func(b *Builder) { b.Announce = [][]string{make1025()} }, "announce-list"},
		{"too many web seeds", func(b *Builder) { b.WebSeeds = make1025() }, "url-list"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := multi()
			tt.edit(&b)
			_, err := b.Build()
			if e, ok := errors.AsType[*Error](err); !ok || e.Field != tt.field {
				t.Errorf("got %v, want an error in %s", err, tt.field)
			}
		})
	}
}

func make1025() []string {
	return slices.Repeat([]string{"http://t.example/"}, MaxURLs+1)
}

// one returns an info dictionary with some of its entries replaced; an empty value removes one.
func one(replace ...string) string {
	e := map[string]string{
		"length": "i40000e", "name": "1:n", "piece length": "i16384e", "pieces": "60:" + strings.Repeat("h", 60),
	}
	for i := 0; i < len(replace); i += 2 {
		e[replace[i]] = replace[i+1]
	}
	var d bencode.Dict
	for k, v := range e {
		if v != "" {
			d.SetRaw(k, []byte(v))
		}
	}
	return string(d.Append(nil))
}

// several is one with files instead of a length.
func several(files string, replace ...string) string {
	return one(append([]string{"length", "", "files", files}, replace...)...)
}

func TestParseInfoRejects(t *testing.T) {
	const whole = "d6:lengthi40000e4:pathl1:fee"
	tests := []struct {
		name, in string
		text     string // the error's
	}{
		{"a list", "le", "info: want a dictionary, got a list"},
		{"bytes behind", one() + "x", "info: 1 bytes behind the dictionary"},
		{"no name", one("name", ""), "info.name: want a string, got absent"},
		{"name an integer", one("name", "i1e"), "info.name: want a string, got an integer"},
		{"no piece length", one("piece length", ""), "info.piece length: want an integer, got absent"},
		{"piece length 0", one("piece length", "i0e"), "info.piece length: 0: want 1 to 268435456 bytes"},
		{"piece length negative", one("piece length", "i-16384e"), "info.piece length: -16384: want 1 to 268435456 bytes"},
		{"piece length too large", one("piece length", "i268435457e"), "info.piece length: 268435457: want 1 to 268435456 bytes"},
		{"no pieces", one("pieces", ""), "info.pieces: want a string, got absent"},
		{"pieces a list", one("pieces", "le"), "info.pieces: want a string, got a list"},
		{"pieces cut", one("pieces", "59:"+strings.Repeat("h", 59)), "info.pieces: 59 bytes is not a multiple of 20"},
		{"too few pieces", one("pieces", "40:"+strings.Repeat("h", 40)), "info.pieces: 2 hashes, but 40000 bytes in pieces of 16384 bytes need 3"},
		{"too many pieces", one("pieces", "80:"+strings.Repeat("h", 80)), "info.pieces: 4 hashes, but 40000 bytes in pieces of 16384 bytes need 3"},
		{"no length", one("length", ""), "info.length: want an integer, got absent"},
		{"length a string", one("length", "1:1"), "info.length: want an integer, got a string"},
		{"length negative", one("length", "i-1e"), "info.length: -1 is negative"},
		{"length huge", one("length", "i9223372036854775807e"), "info.length: 9223372036854775807 bytes takes the torrent beyond 1125899906842624 bytes"},
		{"more pieces than any", one("length", "i1125899906842624e"), "info: total length 1125899906842624 in pieces of 16384 bytes: want at most 4194304 pieces"},
		{"files a dictionary", several("de"), "info.files: want a list, got a dictionary"},
		{"no files", several("le"), "info.files: empty list"},
		{"file a string", several("l" + whole + "1:fe"), "info.files[1]: want a dictionary, got a string"},
		{"file without length", several("ld4:pathl1:feee"), "info.files[0].length: want an integer, got absent"},
		{"file length negative", several("ld6:lengthi-1e4:pathl1:feee"), "info.files[0].length: -1 is negative"},
		{"lengths overflow", several("l" + whole + "d6:lengthi9223372036854775807e4:pathl1:geee"), "info.files[1].length: 9223372036854775807 bytes takes the torrent beyond 1125899906842624 bytes"},
		{"file without path", several("ld6:lengthi1eee"), "info.files[0].path: want a list, got absent"},
		{"path a string", several("ld6:lengthi1e4:path1:fee"), "info.files[0].path: want a list, got a string"},
		{"path empty", several("ld6:lengthi1e4:pathleee"), "info.files[0].path: 0 elements: want 1 to 256"},
		{"path too long", several("ld6:lengthi1e4:pathl" + strings.Repeat("1:a", 257) + "eee"), "info.files[0].path: 257 elements: want 1 to 256"},
		{"path of integers", several("ld6:lengthi1e4:pathli1eeee"), "info.files[0].path: want a list of strings, got one with an integer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseInfo([]byte(tt.in))
			if _, ok := errors.AsType[*Error](err); !ok || err.Error() != tt.text {
				t.Errorf("got %v, want %s", err, tt.text)
			}
			if errors.Is(err, ErrV2Only) {
				t.Error("taken for v2")
			}
			if tt.name == "bytes behind" {
				return // of a torrent, they are the end of another dictionary
			}
			if _, err := Parse([]byte("d4:info" + tt.in + "e")); err == nil || err.Error() != tt.text {
				t.Errorf("Parse: got %v, want %s", err, tt.text)
			}
		})
	}
}

func TestParseRejects(t *testing.T) {
	tests := []struct {
		name, in string
		syntax   bool
		text     string // a part of the error's
	}{
		{"empty", "", true, "not a torrent: bencode: offset 0: unexpected end of input"},
		{"a web page", "<html>", true, "not a torrent: bencode: offset 0: "},
		{"cut", "d4:info" + one(), true, "unexpected end of input"},
		{"a list", "le", false, "torrent: want a dictionary, got a list"},
		{"no info", "d8:announce1:xe", false, "info: missing"},
		{"info a string", "d4:info1:xe", false, "info: want a dictionary, got a string"},
		{"too deep", "d1:a" + strings.Repeat("l", 400) + strings.Repeat("e", 400) + "e", true, "nested deeper than 320"},
		{"too large", "d1:a67108864:" + strings.Repeat("x", MaxBytes) + "e", true, "more than 67108864 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			_, syntax := errors.AsType[*bencode.SyntaxError](err)
			_, value := errors.AsType[*Error](err)
			if err == nil || syntax != tt.syntax || value == tt.syntax || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestParseInfoAccepts(t *testing.T) {
	tests := []struct {
		name, in string
		check    func(*Info) bool
	}{
		{"plain", one(), func(i *Info) bool { return i.SingleFile && i.Name == "n" && !i.Private }},
		{"unsorted and repeated keys", "d4:name1:n4:name1:x" + one("name", "")[1:], func(i *Info) bool { return i.Name == "n" }},
		{"empty name", one("name", "0:"), func(i *Info) bool { return i.Name == "" }},
		{"hostile name", one("name", "9:../../etc"), func(i *Info) bool { return i.Name == "../../etc" }},
		{"UTF-8 name preferred", one("name", "1:\xe9", "name.utf-8", "2:é"), func(i *Info) bool {
			return i.Name == "é" && i.Files[0].Path[0] == "é"
		}},
		{"UTF-8 name alone", one("name", "", "name.utf-8", "2:é"), func(i *Info) bool { return i.Name == "é" }},
		{"UTF-8 name that is not", one("name.utf-8", "1:\xe9"), func(i *Info) bool { return i.Name == "n" }},
		{"UTF-8 name empty", one("name.utf-8", "0:"), func(i *Info) bool { return i.Name == "n" }},
		{"private 0", one("private", "i0e"), func(i *Info) bool { return !i.Private }},
		{"private 1", one("private", "i1e"), func(i *Info) bool { return i.Private }},
		{"private a string", one("private", "1:1"), func(i *Info) bool { return !i.Private }},
		{"files before length", one("files", "ld6:lengthi40000e4:pathl1:feee", "length", "i1e"), func(i *Info) bool {
			return !i.SingleFile && i.Files[0].Path[0] == "f"
		}},
		{"UTF-8 path preferred", several("ld6:lengthi40000e4:pathl1:\xe9e10:path.utf-8l1:d2:éeee"), func(i *Info) bool {
			return slices.Equal(i.Files[0].Path, []string{"d", "é"})
		}},
		{"UTF-8 path that is not", several("ld6:lengthi40000e4:pathl1:fe10:path.utf-8l1:\xe9eee"), func(i *Info) bool {
			return i.Files[0].Path[0] == "f"
		}},
		{"UTF-8 path empty", several("ld6:lengthi40000e4:pathl1:fe10:path.utf-8leee"), func(i *Info) bool {
			return i.Files[0].Path[0] == "f"
		}},
		{"hostile paths", several("ld6:lengthi20000e4:pathl2:..0:1:.eed6:lengthi20000e4:pathl2:..0:1:.eee"), func(i *Info) bool {
			return slices.Equal(i.Files[0].Path, []string{"..", "", "."}) && i.Files[1].Offset == 20000
		}},
		{"padding", several("ld6:lengthi10000e4:pathl1:aeed4:attr2:xp6:lengthi6384e4:pathl4:.pad4:6384eed6:lengthi23616e4:pathl1:beee"), func(i *Info) bool {
			return !i.Files[0].Padding && i.Files[1].Padding && !i.Files[2].Padding && i.Files[2].Offset == 16384
		}},
		{"symbolic link without length", several("ld4:attr1:l4:pathl1:leed6:lengthi40000e4:pathl1:feee"), func(i *Info) bool {
			return i.Files[0].Length == 0 && !i.Files[0].Padding && i.Files[1].Offset == 0
		}},
		{"symbolic link with length", several("ld4:attr2:xl6:lengthi7e4:pathl1:leed6:lengthi40000e4:pathl1:feee"), func(i *Info) bool {
			return i.Files[0].Length == 0 && i.Files[1].Offset == 0
		}},
		{"longest path", several("ld6:lengthi40000e4:pathl" + strings.Repeat("1:a", 256) + "eee"), func(i *Info) bool {
			return len(i.Files[0].Path) == 256
		}},
		{"hybrid", one("meta version", "i2e", "file tree", "d1:nd0:d6:lengthi40000eeee"), func(i *Info) bool {
			return i.Hybrid && i.NumPieces() == 3
		}},
		{"meta version 1", one("meta version", "i1e"), func(i *Info) bool { return !i.Hybrid }},
		{"nothing in it", one("length", "i0e", "pieces", "0:"), func(i *Info) bool {
			return i.NumPieces() == 0 && i.Geometry.Known()
		}},
		{"largest piece length", one("piece length", "i268435456e", "pieces", "20:"+strings.Repeat("h", 20)), func(i *Info) bool {
			return i.Geometry.PieceBytes == 1<<28
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			info, err := ParseInfo([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if !tt.check(info) {
				t.Errorf("got %+v", info)
			}
			if string(info.Bytes) != tt.in || info.InfoHash() != sha1.Sum([]byte(tt.in)) {
				t.Error("the info-hash is not over the bytes as they stand")
			}
		})
	}
}

func TestV2Only(t *testing.T) {
	for name, in := range map[string]string{
		"as specified":    one("pieces", "", "length", "", "meta version", "i2e", "file tree", "d1:nd0:d6:lengthi5eeee"),
		"later version":   one("pieces", "", "length", "", "meta version", "i3e"),
		"without version": one("pieces", "", "length", "", "file tree", "de"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseInfo([]byte(in))
			if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, ErrV2Only) || e.Field != "info.pieces" ||
				!strings.Contains(err.Error(), "v2-only") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestParseAround(t *testing.T) {
	tests := []struct {
		name, entries string
		check         func(*MetaInfo) bool
	}{
		{"nothing", "", func(m *MetaInfo) bool { return m.Announce == nil && m.WebSeeds == nil }},
		{"announce", "8:announce1:a", func(m *MetaInfo) bool { return reflect.DeepEqual(m.Announce, [][]string{{"a"}}) }},
		{"empty announce", "8:announce0:", func(m *MetaInfo) bool { return m.Announce == nil }},
		{"announce not a string", "8:announcele", func(m *MetaInfo) bool { return m.Announce == nil }},
		{"list before announce", "8:announce1:a13:announce-listll1:bee", func(m *MetaInfo) bool {
			return reflect.DeepEqual(m.Announce, [][]string{{"b"}})
		}},
		{"empty list", "8:announce1:a13:announce-listle", func(m *MetaInfo) bool {
			return reflect.DeepEqual(m.Announce, [][]string{{"a"}})
		}},
		{"list of nothing", "8:announce1:a13:announce-listlle1:xl0:i1eee", func(m *MetaInfo) bool {
			return reflect.DeepEqual(m.Announce, [][]string{{"a"}})
		}},
		{"odd tiers", "13:announce-listl1:xl1:bi1eelel1:cee", func(m *MetaInfo) bool {
			return reflect.DeepEqual(m.Announce, [][]string{{"b"}, {"c"}})
		}},
		{"too many trackers", "13:announce-listl" + strings.Repeat("l1:ae", 2000) + "e", func(m *MetaInfo) bool {
			return len(m.Announce) == MaxURLs
		}},
		{"one web seed", "8:url-list1:w", func(m *MetaInfo) bool { return slices.Equal(m.WebSeeds, []string{"w"}) }},
		{"web seeds", "8:url-listl1:wi1e0:1:ve", func(m *MetaInfo) bool { return slices.Equal(m.WebSeeds, []string{"w", "v"}) }},
		{"no web seed", "8:url-list0:", func(m *MetaInfo) bool { return m.WebSeeds == nil }},
		{"comment", "7:comment1:c10:created by1:p13:creation datei5e", func(m *MetaInfo) bool {
			return m.Comment == "c" && m.CreatedBy == "p" && m.CreationDate == 5
		}},
		{"UTF-8 comment", "7:comment1:c13:comment.utf-81:u", func(m *MetaInfo) bool { return m.Comment == "u" }},
		{"negative date", "13:creation datei-5e", func(m *MetaInfo) bool { return m.CreationDate == 0 }},
		{"date a string", "13:creation date1:5", func(m *MetaInfo) bool { return m.CreationDate == 0 }},
		{"first of equal keys", "7:comment1:a7:comment1:b", func(m *MetaInfo) bool { return m.Comment == "a" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, in := range []string{"d" + tt.entries + "4:info" + one() + "e", "d4:info" + one() + tt.entries + "eand more"} {
				m, err := Parse([]byte(in))
				if err != nil {
					t.Fatal(err)
				}
				if !tt.check(m) {
					t.Errorf("got %+v", m)
				}
				// What was understood survives being written.
				again, err := Parse(m.Append(nil))
				if err != nil {
					t.Fatal(err)
				}
				if !tt.check(again) {
					t.Errorf("written and read: %+v", again)
				}
			}
		})
	}
}

func TestAppendKeeps(t *testing.T) {
	// The info dictionary is not in canonical form; its bytes are its identity and must stay.
	info := "d4:name1:n" + one("name", "")[1:]
	in := "d5:nodesll1:hi1eee12:piece layersd32:" + strings.Repeat("r", 32) + "0:e3:zzz1:a3:zzz1:b4:info" + info + "7:comment1:ce"
	m, err := Parse([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	m.Comment = ""
	m.Announce = [][]string{{}, {"u"}}
	want := "d8:announce1:u4:info" + info + "5:nodesll1:hi1eee12:piece layersd32:" + strings.Repeat("r", 32) + "0:e3:zzz1:ae"
	if got := string(m.Append(nil)); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A MetaInfo made from metadata that peers sent can be written.
func TestAppendByHand(t *testing.T) {
	info, err := ParseInfo([]byte(one()))
	if err != nil {
		t.Fatal(err)
	}
	m := &MetaInfo{Info: info, InfoHash: info.InfoHash()}
	if got, want := string(m.Append(nil)), "d4:info"+one()+"e"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMagnetOf(t *testing.T) {
	m := build(t, multi())
	m.Announce = append(m.Announce, []string{"", m.Announce[0][0]}) // said twice, written once
	got := m.Magnet().String()
	want := "magnet:?xt=urn:btih:" + multiHash + "&dn=Gr%C3%B6%C3%9Fe&xl=40000&tr=http%3A%2F%2Fa.example%2Fannounce" +
		"&tr=udp%3A%2F%2Fb.example%3A6969&tr=http%3A%2F%2Fc.example%2Fannounce&ws=https%3A%2F%2Fw.example%2F"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestChoosePieceLength(t *testing.T) {
	for _, tt := range []struct{ total, want int64 }{
		{0, 16 << 10}, {1, 16 << 10}, {31 << 20, 16 << 10}, {2000*(16<<10) - 1, 16 << 10}, {2000 * (16 << 10), 32 << 10},
		{300 << 20, 256 << 10}, {1 << 30, 1 << 20}, {16 << 30, 16 << 20}, {1 << 40, 16 << 20}, {1<<63 - 1, 16 << 20},
	} {
		if got := ChoosePieceLength(tt.total); got != tt.want {
			t.Errorf("%d: got %d, want %d", tt.total, got, tt.want)
		}
	}
	for total := int64(1); total > 0 && total < 1<<60; total = total*3/2 + 1 {
		n := ChoosePieceLength(total)
		pieces := (total + n - 1) / n
		if n > MinPieceLength && pieces < 1000 || n < MaxPieceLength && pieces > 2000 {
			t.Errorf("%d bytes make %d pieces of %d", total, pieces, n)
		}
	}
}

// A torrent at the limit of files reads in memory proportional to its size.
func TestManyFiles(t *testing.T) {
	const file = "d6:lengthi0e4:pathl1:fee"
	list := "l" + strings.Repeat(file, MaxFiles)
	in := several(list+"e", "length", "", "pieces", "0:")
	info, err := ParseInfo([]byte(in))
	if err != nil || len(info.Files) != MaxFiles {
		t.Fatalf("%v", err)
	}
	in = several(list+file+"e", "length", "", "pieces", "0:")
	if _, err = ParseInfo([]byte(in)); err == nil || err.Error() != fmt.Sprintf("info.files: %d files: want at most %d", MaxFiles+1, MaxFiles) {
		t.Errorf("one more: %v", err)
	}
	// All files want the same name; each gets its own, in linear time.
	info.Files = info.Files[:100_000]
	paths, err := SafePaths(info)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(paths[len(paths)-1], "/"); got != "n/f (100000)" {
		t.Errorf("last path %q", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range []Builder{single(), multi()} {
		m, err := b.Build()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Append(nil))
	}
	f.Add([]byte("d4:info" + one("meta version", "i2e", "file tree", "de") + "5:nodesle3:zzz1:ae"))
	f.Add([]byte("d4:info" + several("ld4:attr1:p6:lengthi40000e4:pathl4:.padeee") + "8:url-listl1:wee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		m, err := Parse(b)
		if !bytes.Equal(b, before) {
			t.Fatal("input changed")
		}
		if err != nil {
			checkError(t, err)
			return
		}
		checkInfo(t, m.Info)
		if m.InfoHash != m.Info.InfoHash() {
			t.Fatal("info-hash")
		}
		file := m.Append(nil)
		again, err := Parse(file)
		if err != nil {
			t.Fatalf("%q does not read back: %v", file, err)
		}
		m.rest, again.rest = bencode.Value{}, bencode.Value{}
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("written and read: %+v, was %+v", again, m)
		}
		link := m.Magnet().String()
		if got, err := ParseMagnet(link); len(link) <= MaxMagnetBytes && (err != nil || !reflect.DeepEqual(got, m.Magnet())) {
			t.Fatalf("magnet %+v reads as %+v, %v", m.Magnet(), got, err)
		}
	})
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte(one()))
	f.Add([]byte(several("ld6:lengthi20000e4:pathl1:aeed6:lengthi20000e4:pathl1:A1:beee")))
	f.Add([]byte(several("ld4:attr1:l4:pathl1:leed6:lengthi40000e4:pathl1:feee")))
	f.Add([]byte(one("pieces", "", "meta version", "i2e")))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := ParseInfo(b)
		if err != nil {
			checkError(t, err)
			return
		}
		if !bytes.Equal(info.Bytes, b) {
			t.Fatal("bytes are not the input")
		}
		checkInfo(t, info)
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	_, syntax := errors.AsType[*bencode.SyntaxError](err)
	e, value := errors.AsType[*Error](err)
	if syntax == value || value && (e.Field == "" || e.Reason == "") {
		t.Fatalf("error %#v", err)
	}
}

// checkInfo holds what every accepted Info promises.
func checkInfo(t *testing.T, info *Info) {
	t.Helper()
	var total int64
	for i, f := range info.Files {
		if f.Offset != total || f.Length < 0 || len(f.Path) < 1 || len(f.Path) > MaxPathElements {
			t.Fatalf("file %d: %+v", i, f)
		}
		total += f.Length
	}
	if info.Geometry.TotalBytes != total || int64(info.Geometry.PieceBytes) != info.PieceLength ||
		info.Geometry.NumPieces() != info.NumPieces() || !info.Geometry.Known() ||
		info.SingleFile && len(info.Files) != 1 || len(info.Files) == 0 {
		t.Fatalf("info %+v", info)
	}
	if !info.V2Only() {
		for i := range info.NumPieces() {
			_ = info.PieceHash(bt.PieceIndex(i))
		}
	}
	checkPaths(t, info)
}
