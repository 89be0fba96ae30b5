package metainfo

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNameBytes is the length of the longest name that [SafePath] returns: what ext4, APFS and NTFS store.
const MaxNameBytes = 255

// maxExtBytes is the longest ending, dot included, that is kept when a name is shortened or numbered.
const maxExtBytes = 32

// SafePath maps the path of one file, or the name of a torrent, to path elements that are safe and valid
// names on Linux, macOS and Windows alike. It maps element by element: the result is as long as elems,
// every element is valid UTF-8 of 1 to [MaxNameBytes] bytes, and joined under a directory it stays inside
// it. The same input gives the same result on every system, and a result maps to itself.
//
// In each element
//   - separators (/ and \), the characters : * ? " < > | that Windows forbids (: would name a drive or a
//     stream), control characters, line separators, characters that override the direction of text, and
//     bytes that are not UTF-8 become "_";
//   - dots and spaces at the end are removed, as Windows would; if nothing is left, as of "", "." and "..",
//     it becomes "_";
//   - names longer than [MaxNameBytes] are shortened before their extension;
//   - names of Windows devices (CON, NUL, COM1, also "nul.txt") get "_" in front.
//
// Different paths may map to the same one; [SafePaths] resolves that for the files of a torrent. The error
// is an [*Error], for a path without elements or with more than [MaxPathElements].
func SafePath(elems []string) ([]string, error) {
	if n := len(elems); n < 1 || n > MaxPathElements {
		return nil, fault("path", "%d elements: want 1 to %d", n, MaxPathElements)
	}
	out := make([]string, len(elems))
	for i, e := range elems {
		out[i] = safeName(e)
	}
	return out, nil
}

func safeName(s string) string {
	s = trimEnd(replaceUnsafe(s))
	// A name gets longer only by the "_" in front of a device's, and is none afterwards: two rounds do.
	for {
		if len(s) > MaxNameBytes {
			stem, ext := splitExt(s)
			s = trimEnd(cut(stem, MaxNameBytes-len(ext)) + ext)
		}
		if s == "" {
			return "_"
		}
		if !isDevice(s) {
			return s
		}
		s = "_" + s
	}
}

func replaceUnsafe(s string) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		c := s[i]
		clean = c >= ' ' && c < 0x7f && !isUnsafe(rune(c))
	}
	if clean {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				r = '_' // not UTF-8, as opposed to an encoded U+FFFD
			}
		}
		if isUnsafe(r) {
			r = '_'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isUnsafe(r rune) bool {
	switch r {
	case '/', '\\', ':', '*', '?', '"', '<', '>', '|':
		return true
	case '\u2028', '\u2029': // line and paragraph separator
		return true
	}
	return r < ' ' || 0x7f <= r && r < 0xa0 || // control characters
		// Embeddings, overrides and isolates make "gpj.exe" look like "exe.jpg". The plain marks U+200E
		// and U+200F have honest uses and only choose sides.
		'\u202a' <= r && r <= '\u202e' || '\u2066' <= r && r <= '\u2069'
}

// trimEnd removes what Windows removes: a name that ends in dots or spaces would be another file there.
func trimEnd(s string) string { return strings.TrimRight(s, ". ") }

// cut returns the longest start of s of at most n bytes that does not split a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// splitExt splits a name before its extension, dot included. A dot in front makes no extension, and
// neither does one that is followed by more than people would type.
func splitExt(s string) (stem, ext string) {
	i := strings.LastIndexByte(s, '.')
	if i < 1 || len(s)-i > maxExtBytes {
		return s, ""
	}
	return s[:i], s[i:]
}

// isDevice reports whether Windows takes s for a device: the part before the first dot, without spaces at
// its end, in either case.
func isDevice(s string) bool {
	base, _, _ := strings.Cut(s, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$":
		return true
	}
	if rest, ok := strings.CutPrefix(base, "COM"); ok {
		return isDeviceNumber(rest)
	}
	if rest, ok := strings.CutPrefix(base, "LPT"); ok {
		return isDeviceNumber(rest)
	}
	return false
}

func isDeviceNumber(s string) bool {
	switch s {
	case "¹", "²", "³": // Windows takes these for 1, 2 and 3
		return true
	}
	return len(s) == 1 && '0' <= s[0] && s[0] <= '9'
}

// SafePaths returns where the files of a torrent go below a download folder, in the order of info.Files:
// the torrent's name first and then, unless it is a single-file torrent, the elements of [SafePath]. No
// two of the paths name the same file and none runs through another, also on file systems that ignore
// case: where that would happen, the later file in the torrent, or its folder, gets a number, "name
// (2).ext". Folders that differ only in case or in characters that were replaced become one. The result
// depends on nothing but info.
//
// Padding files, which need not be stored, give way to the others. Names that differ only in their Unicode
// normalization form count as different.
//
// The error is an [*Error] that names the file; an Info from [Parse] causes none.
func SafePaths(info *Info) ([][]string, error) {
	root := safeName(info.Name)
	if info.SingleFile {
		return [][]string{{root}}, nil
	}
	t := pathTree{
		nodes:   make(map[nodeKey]node, len(info.Files)),
		aliases: make(map[nodeKey]node),
		numbers: make(map[nodeKey]int),
	}
	paths := make([][]string, len(info.Files))
	for _, padding := range []bool{false, true} {
		for i := range info.Files {
			f := &info.Files[i]
			if f.Padding != padding {
				continue
			}
			elems, err := SafePath(f.Path)
			if err != nil {
				return nil, fault(fileField(i, ".path"), "%d elements: want 1 to %d", len(f.Path), MaxPathElements)
			}
			path := make([]string, 0, 1+len(elems))
			path = append(path, root)
			dir := int32(0)
			for _, name := range elems[:len(elems)-1] {
				d := t.dir(dir, name)
				path = append(path, d.name)
				dir = d.id
			}
			paths[i] = append(path, t.file(dir, elems[len(elems)-1]))
		}
	}
	return paths, nil
}

// pathTree hands out names in folders, each once. Everything it does takes constant time per name, also
// when many names want to be the same.
type pathTree struct {
	nodes   map[nodeKey]node // what is taken
	aliases map[nodeKey]node // folders that go by another name, since a file has theirs
	numbers map[nodeKey]int  // the last number tried, by what is numbered
	lastDir int32
}

// nodeKey is a name in a folder, folded so that names that differ only in case are equal.
type nodeKey struct {
	dir  int32
	name string
}

// node is a taken name; id is 0 for a file, and numbers the folders from 1. The torrent's own is 0.
type node struct {
	id   int32
	name string
}

func (t *pathTree) dir(parent int32, name string) node {
	key := nodeKey{parent, fold(name)}
	n, taken := t.nodes[key]
	if taken && n.id != 0 {
		return n
	}
	if alias, ok := t.aliases[key]; ok {
		return alias
	}
	t.lastDir++
	n = node{id: t.lastDir, name: name}
	if taken {
		n.name = t.free(parent, name, "")
		t.aliases[key] = n
		key.name = fold(n.name)
	}
	t.nodes[key] = n
	return n
}

func (t *pathTree) file(parent int32, name string) string {
	key := nodeKey{parent, fold(name)}
	if _, taken := t.nodes[key]; taken {
		stem, ext := splitExt(name)
		name = t.free(parent, stem, ext)
		key.name = fold(name)
	}
	t.nodes[key] = node{name: name}
	return name
}

// free returns the first name of the form "stem (2)ext" that is not taken.
func (t *pathTree) free(parent int32, stem, ext string) string {
	// Cut to where every number fits, so that all names that lead to the same attempts share one count.
	const longest = len(" (1000000)")
	stem = cut(stem, MaxNameBytes-longest-len(ext))
	count := nodeKey{parent, fold(stem + "/" + ext)}
	for n := max(t.numbers[count], 1) + 1; ; n++ {
		name := stem + " (" + strconv.Itoa(n) + ")" + ext
		if _, taken := t.nodes[nodeKey{parent, fold(name)}]; !taken {
			t.numbers[count] = n
			return name
		}
	}
}

// fold maps a name to a form that is equal for names that differ only in case: of the characters that
// Unicode's simple folding takes for the same, the lowest.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if 'a' <= r && r <= 'z' {
				r += 'A' - 'a'
			}
			return r
		}
		lowest := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			lowest = min(lowest, f)
		}
		return lowest
	}, s)
}
