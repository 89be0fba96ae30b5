// Package metainfo reads and writes descriptions of torrents: .torrent files and info dictionaries
// (BEP 3, BEP 12, BEP 19, BEP 27, BEP 47, BEP 52) and magnet links (BEP 9). It also maps the names in a torrent,
// which strangers chose, to names that are safe on every file system ([SafePath], [SafePaths]).
//
//	.torrent = d 8:announce... 13:announce-list... 4:info d
//	               5:files l d 6:length... 4:path l ... e e e   or   6:length...
//	               4:name... 12:piece length... 6:pieces...
//	           e 8:url-list... e
//
//	and in v2 = d ... 4:info d
//	               9:file tree d 1:a d 0: d 6:length... 11:pieces root... e e 1:b d 1:c d 0: d... e e e e
//	               12:meta version i2e 4:name... 12:piece length...
//	           e 12:piece layers d 32:root 96:three hashes... e e
//
// [Parse], [ParseInfo] and [ParseMagnet] read torrents as v1, for those who can do no more: a hybrid torrent
// (BEP 52) carries a complete v1 description and is read as that; one without is [ErrV2Only]. [ParseV2],
// [ParseInfoV2] and [ParseMagnetV2] read all of them. [Builder] makes each form.
//
// A v2 torrent has no list of files with offsets; each file begins a piece of its own. [Info] shows it as the
// hybrid it could be, with padding files between, so that pieces and files of all forms are counted alike.
//
// The package checks that a torrent makes sense in itself: the pieces fit the lengths, the lengths fit
// the limits. It opens no file and does no I/O, and it does not decide where files go or whether a
// tracker is worth asking.
package metainfo

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
)

// Limits of what is read. They are far above anything in the wild and keep the memory that a hostile
// torrent can cause within a small multiple of its size.
const (
	// MaxBytes is the largest .torrent or info dictionary, 64 MiB.
	MaxBytes = 64 << 20
	// MaxFiles is the largest number of files in a torrent, padding included.
	MaxFiles = 1_000_000
	// MaxPathElements is the largest number of elements in a file's path.
	MaxPathElements = 256
	// MaxURLs is how many tracker URLs of a torrent are kept, and likewise of web seeds; more are
	// ignored.
	MaxURLs = 1024
)

// A file needs about ten items; the file tree of a hybrid torrent describes each once more and nests a
// dictionary per path element.
var limits = bencode.Limits{Bytes: MaxBytes, Depth: MaxPathElements + 64, Items: 24 * MaxFiles}

// ErrV2Only is matched by the errors for torrents and magnets that are described in BitTorrent v2 form
// (BEP 52) only.
var ErrV2Only = errors.New("v2-only torrent (BEP 52) is not supported; use its v1 or hybrid form")

// Error says what is wrong with a torrent or a magnet link, and where.
type Error struct {
	// Field names the key as a path from the outermost dictionary, such as "info.files[3].path", or the
	// parameter of a magnet link, such as "xt".
	Field string
	// Reason says what was found and what was expected.
	Reason string

	err error
}

// Error returns the field and the reason: "info.pieces: 59 bytes is not a multiple of 20".
func (e *Error) Error() string { return e.Field + ": " + e.Reason }

// Unwrap returns the sentinel behind the error, such as [ErrV2Only]; nil if there is none.
func (e *Error) Unwrap() error { return e.err }

func fault(field, format string, args ...any) *Error {
	return &Error{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// File is one file of a torrent.
type File struct {
	// Path is the file's path below the torrent's name, as given by whoever made the torrent: any bytes,
	// hostile ones included. [SafePaths] makes it fit for a file system. For the file of a single-file
	// torrent it is the torrent's name. It has 1 to [MaxPathElements] elements.
	Path []string
	// Length is the file's size in bytes.
	Length int64
	// Offset is where the file starts in the torrent, in bytes.
	Offset int64
	// Padding marks a file of zeros that only aligns the next one to a piece (BEP 47, attribute "p"). It
	// is hashed but need not be stored.
	Padding bool
	// PiecesRoot is the root of the file's hash tree (BEP 52), in a torrent with V2 set; all zero for padding and files
	// without bytes.
	PiecesRoot [TreeHashBytes]byte
}

// Info is what an info dictionary says. It is read-only once parsed, and may then be shared.
type Info struct {
	Name        string // suggested file or folder name, as given: see [SafePath]
	PieceLength int64  // nominal piece length in bytes
	PieceHashes []byte // SHA-1 hashes of the pieces, 20 bytes each; aliases Bytes; none in a v2-only torrent
	Files       []File // in the order of their bytes; exactly one if SingleFile
	SingleFile  bool   // one file called Name, rather than a folder called Name
	Private     bool   // peers may come from trackers only (BEP 27)
	Hybrid      bool   // has a v1 and a v2 description (BEP 52); the latter was looked at if V2 is set
	V2          bool   // has a v2 description, which was read: see ParseV2
	Geometry    bt.Geometry
	Bytes       []byte // the dictionary as it stands, over which the info-hash is taken
}

// V2Only reports whether the torrent has a v2 description and no other.
func (info *Info) V2Only() bool { return info.V2 && !info.Hybrid }

// NumPieces returns the number of pieces.
func (info *Info) NumPieces() int {
	if info.V2Only() {
		return info.Geometry.NumPieces()
	}
	return len(info.PieceHashes) / bt.HashBytes
}

// PieceHash returns the SHA-1 hash of piece i, which must be one of the torrent's pieces. A v2-only torrent has none: see
// [MetaInfo.PieceHashV2].
func (info *Info) PieceHash(i bt.PieceIndex) [bt.HashBytes]byte {
	return [bt.HashBytes]byte(info.PieceHashes[int(i)*bt.HashBytes:])
}

// InfoHash computes, from Bytes, the info-hash that stands in a hello: the v1 info-hash, or for a v2-only torrent the v2 info-hash
// cut to its length.
func (info *Info) InfoHash() bt.InfoHash {
	if info.V2Only() {
		return info.InfoHashV2().Truncated()
	}
	return sha1.Sum(info.Bytes)
}

// MetaInfo is what a .torrent file says.
type MetaInfo struct {
	Info     *Info
	InfoHash bt.InfoHash // of Info
	// InfoHashV2 is the v2 info-hash of Info, if that has V2 set; zero otherwise.
	InfoHashV2 InfoHashV2
	// PieceLayers holds, by their roots, the hashes of the pieces of all files longer than a piece (BEP 52), 32 bytes each. They
	// have been checked if they were parsed, and alias what they were parsed from. Nil unless Info has V2 set.
	PieceLayers map[[TreeHashBytes]byte][]byte
	// Announce holds tracker URLs in tiers (BEP 12), as given. A torrent with a plain "announce" has one
	// tier of one; one without trackers has none. No tier is empty.
	Announce [][]string
	// WebSeeds are the URLs of "url-list" (BEP 19), as given.
	WebSeeds  []string
	Comment   string
	CreatedBy string
	// CreationDate is in Unix seconds; 0 if unknown.
	CreationDate int64

	// rest is the dictionary this was parsed from, for the entries that have no field here.
	rest bencode.Value
}

// Parse reads a .torrent file. The result aliases b, which must not change afterwards.
//
// Bytes behind the torrent's dictionary are ignored, and so are malformed entries that a download can do
// without (trackers, web seeds, comment, date). Everything else that is wrong is an error: a
// [*bencode.SyntaxError] for bytes that do not parse or exceed the limits, an [*Error] for a value that
// makes no sense, which matches [ErrV2Only] if that is the reason.
func Parse(b []byte) (*MetaInfo, error) { return parse(b, false) }

func parse(b []byte, v2 bool) (*MetaInfo, error) {
	root, _, err := bencode.Parse(b, limits)
	if err != nil {
		return nil, fmt.Errorf("not a torrent: %w", err)
	}
	if root.Kind() != bencode.KindDict {
		return nil, fault("torrent", "want a dictionary, got %s", root.Kind())
	}
	var info, announce, tiers, comment, comment8, createdBy, created, webSeeds, layers bencode.Value
	collect(root, []entry{
		{"info", &info},
		{"announce", &announce},
		{"announce-list", &tiers},
		{"comment", &comment},
		{"comment.utf-8", &comment8},
		{"created by", &createdBy},
		{"creation date", &created},
		{"url-list", &webSeeds},
		{"piece layers", &layers},
	})
	if info.Kind() == bencode.KindAbsent {
		return nil, fault("info", "missing")
	}
	m := &MetaInfo{
		Announce:  parseTiers(announce, tiers),
		WebSeeds:  parseURLs(webSeeds),
		CreatedBy: text(createdBy),
		rest:      root,
	}
	if m.Comment = text(comment8); m.Comment == "" {
		m.Comment = text(comment)
	}
	if n, ok := created.Int(); ok && n > 0 {
		m.CreationDate = n
	}
	if m.Info, err = parseInfo(info, v2); err != nil {
		return nil, err
	}
	m.InfoHash = m.Info.InfoHash()
	if m.Info.V2 {
		m.InfoHashV2 = m.Info.InfoHashV2()
		if m.PieceLayers, err = parseLayers(layers, m.Info); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// ParseInfo reads an info dictionary by itself, as peers send it (BEP 9, ut_metadata). Whoever calls it
// has compared the hash of b with the info-hash, so b must be exactly the dictionary, without anything
// behind it. The result aliases b, which must not change afterwards. Errors are those of [Parse].
func ParseInfo(b []byte) (*Info, error) { return parseInfoOnly(b, false) }

func parseInfoOnly(b []byte, v2 bool) (*Info, error) {
	v, rest, err := bencode.Parse(b, limits)
	if err != nil {
		return nil, fmt.Errorf("not an info dictionary: %w", err)
	}
	if len(rest) > 0 {
		return nil, fault("info", "%d bytes behind the dictionary", len(rest))
	}
	return parseInfo(v, v2)
}

func parseInfo(v bencode.Value, v2 bool) (*Info, error) {
	if v.Kind() != bencode.KindDict {
		return nil, fault("info", "want a dictionary, got %s", v.Kind())
	}
	var name, name8, length, files, pieceLength, pieces, private, version, tree bencode.Value
	collect(v, []entry{
		{"name", &name},
		{"name.utf-8", &name8},
		{"length", &length},
		{"files", &files},
		{"piece length", &pieceLength},
		{"pieces", &pieces},
		{"private", &private},
		{"meta version", &version},
		{"file tree", &tree},
	})
	info := &Info{Bytes: v.Raw()}

	hasTree := tree.Kind() == bencode.KindDict
	if ver, ok := version.Int(); ok && ver >= 2 || hasTree {
		switch hasPieces := pieces.Kind() != bencode.KindAbsent; {
		case v2 && ver != 2:
			return nil, fault("info.meta version", "want 2, which is all that is known beside v1 (BEP 52)")
		case v2 && !hasTree:
			return nil, fault("info.file tree", "want a dictionary, got %s", tree.Kind())
		case !v2 && !hasPieces:
			return nil, &Error{Field: "info.pieces", Reason: "missing: " + ErrV2Only.Error(), err: ErrV2Only}
		default:
			info.V2, info.Hybrid = v2, hasTree && hasPieces
		}
	}

	b, ok := name.Bytes()
	b8, ok8 := name8.Bytes()
	switch {
	case ok8 && len(b8) > 0 && utf8.Valid(b8):
		info.Name = string(b8)
	case ok:
		info.Name = string(b)
	default:
		return nil, fault("info.name", "want a string, got %s", name.Kind())
	}

	if info.PieceLength, ok = pieceLength.Int(); !ok {
		return nil, fault("info.piece length", "want an integer, got %s", pieceLength.Kind())
	}
	if info.PieceLength < 1 || info.PieceLength > bt.MaxPieceBytes {
		return nil, fault("info.piece length", "%d: want 1 to %d bytes", info.PieceLength, bt.MaxPieceBytes)
	}
	if n, ok := private.Int(); ok {
		info.Private = n != 0
	}
	var treeFiles []File
	if info.V2 {
		err := checkPieceLengthV2(info.PieceLength)
		if err == nil {
			treeFiles, err = parseFileTree(tree)
		}
		if err != nil {
			return nil, err
		}
	}
	if info.V2Only() {
		err := info.layOut(treeFiles)
		if err != nil {
			return nil, err
		}
		if info.Geometry, err = GeometryOf(info.Files, info.PieceLength, true); err != nil {
			return nil, &Error{Field: "info", Reason: err.Error(), err: err}
		}
		info.Geometry = info.Geometry.WithTail()
		return info, nil
	}
	if info.PieceHashes, ok = pieces.Bytes(); !ok {
		return nil, fault("info.pieces", "want a string, got %s", pieces.Kind())
	}
	if n := len(info.PieceHashes); n%bt.HashBytes != 0 {
		return nil, fault("info.pieces", "%d bytes is not a multiple of %d", n, bt.HashBytes)
	}

	// BEP 3 wants either "length" or "files". Where both stand, deployed clients go by "files".
	var total int64
	var err error
	if files.Kind() == bencode.KindAbsent {
		info.SingleFile = true
		if total, err = parseLength("info.length", length, 0); err != nil {
			return nil, err
		}
		info.Files = []File{{Path: []string{info.Name}, Length: total}}
	} else if info.Files, total, err = parseFiles(files); err != nil {
		return nil, err
	}
	if info.Geometry, err = bt.NewGeometry(total, info.PieceLength); err != nil {
		return nil, &Error{Field: "info", Reason: err.Error(), err: err}
	}
	if got, want := info.NumPieces(), info.Geometry.NumPieces(); got != want {
		return nil, fault("info.pieces", "%d hashes, but %d bytes in pieces of %d bytes need %d",
			got, total, info.PieceLength, want)
	}
	if info.V2 {
		if err := info.joinTree(treeFiles); err != nil {
			return nil, err
		}
		if info.Geometry, err = GeometryOf(info.Files, info.PieceLength, true); err != nil {
			return nil, &Error{Field: "info", Reason: err.Error(), err: err}
		}
	}
	return info, nil
}

// maxTotal is above every total that bt.NewGeometry accepts and far below an overflow.
const maxTotal = bt.MaxPieces * bt.MaxPieceBytes

func parseLength(field string, v bencode.Value, before int64) (int64, error) {
	n, ok := v.Int()
	if !ok {
		return 0, fault(field, "want an integer, got %s", v.Kind())
	}
	if n < 0 {
		return 0, fault(field, "%d is negative", n)
	}
	if n > maxTotal-before {
		return 0, fault(field, "%d bytes takes the torrent beyond %d bytes", n, int64(maxTotal))
	}
	return n, nil
}

func parseFiles(list bencode.Value) (files []File, total int64, err error) {
	if list.Kind() != bencode.KindList {
		return nil, 0, fault("info.files", "want a list, got %s", list.Kind())
	}
	n := list.Len()
	if n == 0 {
		return nil, 0, fault("info.files", "empty list")
	}
	if n > MaxFiles {
		return nil, 0, fault("info.files", "%d files: want at most %d", n, MaxFiles)
	}
	files = make([]File, 0, n)
	for v := range list.List() {
		if v.Kind() != bencode.KindDict {
			return nil, 0, fault(fileField(len(files), ""), "want a dictionary, got %s", v.Kind())
		}
		var length, path, path8, attr bencode.Value
		collect(v, []entry{{"length", &length}, {"path", &path}, {"path.utf-8", &path8}, {"attr", &attr}})
		f := File{Offset: total}
		// BEP 47: "p" is padding; "l" a symbolic link, whose length "is always zero" and may be missing.
		// libtorrent does not look at the length either, and both must see the same bytes. Links are
		// not made: one becomes the empty file that its bytes in the torrent are.
		attrs, _ := attr.Bytes()
		link := false
		for _, c := range attrs {
			f.Padding = f.Padding || c == 'p'
			link = link || c == 'l'
		}
		if !link {
			if f.Length, err = parseLength(fileField(len(files), ".length"), length, total); err != nil {
				return nil, 0, err
			}
		}
		if f.Path, err = parsePath(fileField(len(files), ".path"), path, path8); err != nil {
			return nil, 0, err
		}
		total += f.Length
		files = append(files, f)
	}
	return files, total, nil
}

func fileField(i int, sub string) string { return "info.files[" + strconv.Itoa(i) + "]" + sub }

// parsePath reads the path of a file. A sound "path.utf-8" is preferred: where it exists, "path" is in an
// encoding of some machine of long ago.
func parsePath(field string, v, v8 bencode.Value) ([]string, error) {
	if v8.Kind() != bencode.KindAbsent {
		path, err := parseElements(field, v8)
		invalid := func(s string) bool { return !utf8.ValidString(s) }
		if err == nil && !slices.ContainsFunc(path, invalid) {
			return path, nil
		}
	}
	return parseElements(field, v)
}

func parseElements(field string, v bencode.Value) ([]string, error) {
	if v.Kind() != bencode.KindList {
		return nil, fault(field, "want a list, got %s", v.Kind())
	}
	n := v.Len()
	if n == 0 || n > MaxPathElements {
		return nil, fault(field, "%d elements: want 1 to %d", n, MaxPathElements)
	}
	path := make([]string, 0, n)
	for e := range v.List() {
		b, ok := e.Bytes()
		if !ok {
			return nil, fault(field, "want a list of strings, got one with %s", e.Kind())
		}
		path = append(path, string(b))
	}
	return path, nil
}

// parseTiers reads the trackers. BEP 12: "announce" is ignored if there is an "announce-list", and some
// torrents have an empty one.
func parseTiers(announce, list bencode.Value) [][]string {
	var tiers [][]string
	room := MaxURLs
	for t := range list.List() {
		var tier []string
		for u := range t.List() {
			if url := text(u); url != "" && room > 0 {
				tier = append(tier, url)
				room--
			}
		}
		if len(tier) > 0 {
			tiers = append(tiers, tier)
		}
	}
	if url := text(announce); len(tiers) == 0 && url != "" {
		tiers = [][]string{{url}}
	}
	return tiers
}

// parseURLs reads "url-list", which is a list or, with one URL, a string (BEP 19).
func parseURLs(v bencode.Value) []string {
	if url := text(v); url != "" {
		return []string{url}
	}
	var urls []string
	for u := range v.List() {
		if url := text(u); url != "" && len(urls) < MaxURLs {
			urls = append(urls, url)
		}
	}
	return urls
}

// Append appends the .torrent file that m describes. The info dictionary is Info.Bytes, byte for byte;
// around it the form is canonical. Fields that are empty are left out. If m was parsed, entries that have
// no field here (such as "nodes") are kept as they were, and so are "piece layers" while PieceLayers is nil.
func (m *MetaInfo) Append(dst []byte) []byte {
	var d bencode.Dict
	seen := make(map[string]bool)
	for k, v := range m.rest.Dict() {
		switch key := string(k); key {
		case "info", "announce", "announce-list", "comment", "comment.utf-8", "created by", "creation date", "url-list":
		case "piece layers":
			if m.PieceLayers == nil && !seen[key] {
				seen[key] = true
				d.SetRaw(key, v.Raw())
			}
		default:
			if !seen[key] { // of equal keys the first counts, as everywhere
				seen[key] = true
				d.SetRaw(key, v.Raw())
			}
		}
	}
	urls := 0
	list := []byte{'l'}
	for _, tier := range m.Announce {
		if len(tier) == 0 {
			continue
		}
		if urls == 0 {
			d.SetString("announce", tier[0])
		}
		urls += len(tier)
		list = appendStrings(list, tier)
	}
	if urls > 1 {
		d.SetRaw("announce-list", append(list, 'e'))
	}
	if m.Comment != "" {
		d.SetString("comment", m.Comment)
	}
	if m.CreatedBy != "" {
		d.SetString("created by", m.CreatedBy)
	}
	if m.CreationDate > 0 {
		d.SetInt("creation date", m.CreationDate)
	}
	if m.Info != nil {
		d.SetRaw("info", m.Info.Bytes)
	}
	if m.PieceLayers != nil {
		var layers bencode.Dict
		for root, layer := range m.PieceLayers {
			layers.SetBytes(string(root[:]), layer)
		}
		d.SetDict("piece layers", &layers)
	}
	if len(m.WebSeeds) > 0 {
		d.SetRaw("url-list", appendStrings(nil, m.WebSeeds))
	}
	return d.Append(dst)
}

// Magnet returns the magnet link for m, with its name, length, trackers and web seeds, each once.
func (m *MetaInfo) Magnet() Magnet {
	g := Magnet{InfoHash: m.InfoHash, InfoHashV2: m.InfoHashV2}
	if m.Info != nil {
		g.Name = m.Info.Name
		g.ExactLength = m.Info.Geometry.ContentBytes() // without padding, which nobody has on disk
	}
	trackers, webSeeds := unique{to: &g.Trackers}, unique{to: &g.WebSeeds}
	for _, tier := range m.Announce {
		for _, url := range tier {
			trackers.add(url)
		}
	}
	for _, url := range m.WebSeeds {
		webSeeds.add(url)
	}
	return g
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, 'l')
	for _, s := range list {
		dst = bencode.AppendString(dst, s)
	}
	return append(dst, 'e')
}

// entry says where collect puts the value of a key.
type entry struct {
	key string
	to  *bencode.Value
}

// collect reads several keys of a dictionary in one pass, so that the time a large one takes does not
// multiply with the number of keys. Of equal keys the first counts.
func collect(dict bencode.Value, want []entry) {
	for k, v := range dict.Dict() {
		for _, e := range want {
			if string(k) == e.key && e.to.Kind() == bencode.KindAbsent {
				*e.to = v
			}
		}
	}
}

// text returns the content of a string, "" for anything else.
func text(v bencode.Value) string {
	b, _ := v.Bytes()
	return string(b)
}
