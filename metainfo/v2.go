package metainfo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/merkle"
)

// TreeHashBytes is the length of a SHA-256 hash, hence of a v2 info-hash, of a pieces root and of one entry of a piece layer (BEP 52).
const TreeHashBytes = sha256.Size

// MinPieceLengthV2 is the shortest piece of a v2 torrent, bytes. All are powers of two (BEP 52, "piece length").
const MinPieceLengthV2 = bt.BlockBytes

// maxTreeElements bounds the path elements of all files of a file tree together: in a tree, unlike in a list of files, a long path costs a file
// no bytes.
const maxTreeElements = 8 * MaxFiles

// InfoHashV2 is the SHA-256 of an info dictionary, by which BEP 52 knows a torrent.
type InfoHashV2 [TreeHashBytes]byte

// String returns the info-hash as 64 lower-case hexadecimal digits.
func (h InfoHashV2) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h is all zero, which no torrent's info-hash is.
func (h InfoHashV2) IsZero() bool { return h == InfoHashV2{} }

// Truncated returns the first 20 bytes: what stands for h in hellos, tracker announces and the DHT (BEP 52).
func (h InfoHashV2) Truncated() bt.InfoHash { return bt.InfoHash(h[:bt.HashBytes]) }

// ParseInfoHashV2 reads a v2 info-hash written as 64 hexadecimal digits, in either case.
func ParseInfoHashV2(s string) (InfoHashV2, error) {
	var h InfoHashV2
	if len(s) != 2*TreeHashBytes {
		return InfoHashV2{}, fmt.Errorf("v2 info-hash: want 64 hexadecimal digits, got %d characters", len(s))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return InfoHashV2{}, fmt.Errorf("v2 info-hash %q: not hexadecimal", s)
	}
	return h, nil
}

// ParseV2 reads a .torrent file like [Parse], and its v2 description too, if it has one (BEP 52): v2-only torrents are no error, and
// both descriptions of a hybrid must agree, as must the piece layers and the roots of the files they belong to.
func ParseV2(b []byte) (*MetaInfo, error) { return parse(b, true) }

// ParseInfoV2 reads an info dictionary by itself like [ParseInfo], and its v2 description too, if it has one.
func ParseInfoV2(b []byte) (*Info, error) { return parseInfoOnly(b, true) }

// InfoHashV2 computes the v2 info-hash from Bytes. It is only of use if the torrent is known to have a v2 description.
func (info *Info) InfoHashV2() InfoHashV2 { return sha256.Sum256(info.Bytes) }

// FileOfPiece returns the number of the file that piece i belongs to and the file's first piece. In a torrent with V2 set every piece
// belongs to one file, padding aside. i must be one of the torrent's pieces.
func (info *Info) FileOfPiece(i bt.PieceIndex) (file int, first bt.PieceIndex) {
	start := info.Geometry.PieceStart(i)
	// The last file that starts there or before. Empty ones at the same place come before the one whose piece it is, since that has content,
	// and padding starts within a piece.
	file, _ = slices.BinarySearchFunc(info.Files, start, func(f File, at int64) int {
		if f.Offset <= at {
			return -1
		}
		return 1
	})
	file--
	return file, bt.PieceIndex(info.Files[file].Offset / info.PieceLength)
}

// PieceLenV2 returns how many bytes of piece i are its file's, in a torrent with V2 set: what BEP 52 has hashed and requested of it, since what
// fills the piece behind the file's end is in the v1 description only. It is what Geometry has as the piece's length.
func (info *Info) PieceLenV2(i bt.PieceIndex) uint32 { return info.Geometry.PieceLen(i) }

// PieceHashV2 returns the hash of piece i in its file's tree, in a torrent with V2 set; [HashPieceV2] computes it from data. It is false if the
// file's piece layer is not in PieceLayers.
func (m *MetaInfo) PieceHashV2(i bt.PieceIndex) (hash [TreeHashBytes]byte, ok bool) {
	file, first := m.Info.FileOfPiece(i)
	f := &m.Info.Files[file]
	if f.Length <= m.Info.PieceLength {
		return f.PiecesRoot, true
	}
	layer := m.PieceLayers[f.PiecesRoot]
	if at := int(i-first) * TreeHashBytes; at+TreeHashBytes <= len(layer) {
		return [TreeHashBytes]byte(layer[at:]), true
	}
	return hash, false
}

// HashPieceV2 returns the hash, in its file's tree, of the data of one whole piece: of PieceLength bytes, or what is left of the file. If the
// file is no longer than a piece, this is its root. The lengths must be those of a file and of a v2 torrent's pieces.
func HashPieceV2(data []byte, fileLength, pieceLength int64) ([TreeHashBytes]byte, error) {
	s, err := merkle.NewShape(fileLength, pieceLength)
	if err != nil {
		return [TreeHashBytes]byte{}, &Error{Field: "piece", Reason: err.Error(), err: err}
	}
	if n := int64(len(data)); n < 1 || n > pieceLength || n > fileLength {
		return [TreeHashBytes]byte{}, fault("piece", "%d bytes, of a file of %d in pieces of %d", n, fileLength, pieceLength)
	}
	return s.HashPiece(data), nil
}

// PadFiles returns the files of a torrent with the padding that BEP 52 wants in hybrid torrents (BEP 47): behind each file that does not end
// with a piece, so that the next one with content starts a piece. Offsets are set; files must have none of padding. It is how the files of a torrent with V2 set lie.
func PadFiles(files []File, pieceLength int64) []File {
	out := make([]File, 0, len(files)+countPadding(files, pieceLength))
	rest := contentEnd(files)
	var at int64
	for i, f := range files {
		f.Offset = at
		at += f.Length
		out = append(out, f)
		if over := f.Length % pieceLength; over > 0 && i+1 < rest {
			pad := File{Path: []string{".pad", strconv.FormatInt(pieceLength-over, 10)}, Length: pieceLength - over, Offset: at, Padding: true}
			at += pad.Length
			out = append(out, pad)
		}
	}
	return out
}

// GeometryOf returns the geometry of files as they lie in a torrent in pieces of pieceLength bytes. alone says that every piece belongs to one
// file, padding aside, as [PadFiles] lays them out: files' last pieces are then short. The error says which number is out of range.
func GeometryOf(files []File, pieceLength int64, alone bool) (bt.Geometry, error) {
	var total int64
	for i := range files {
		if total += files[i].Length; total > maxTotal {
			break // no geometry has as much
		}
	}
	g, err := bt.NewGeometry(total, pieceLength)
	if err != nil || !alone {
		return g, err
	}
	var short []bt.ShortPiece
	for i := range files {
		f := &files[i]
		if over := f.Length % pieceLength; over > 0 && !f.Padding && f.Offset+f.Length < total {
			short = append(short, bt.ShortPiece{Index: bt.PieceIndex((f.Offset + f.Length) / pieceLength), Bytes: uint32(over)})
		}
	}
	return g.WithShort(short), nil
}

// contentEnd returns the number of files without the empty ones at the end: behind the last with content there is no padding.
func contentEnd(files []File) int {
	n := len(files)
	for n > 0 && files[n-1].Length == 0 {
		n--
	}
	return n
}

// countPadding returns how many files PadFiles adds.
func countPadding(files []File, pieceLength int64) (n int) {
	for _, f := range files[:max(0, contentEnd(files)-1)] {
		if f.Length%pieceLength > 0 {
			n++
		}
	}
	return n
}

// SortFiles sorts files into the order they have in a v2 torrent: folder by folder, by the bytes of their names. [Builder] wants it.
func SortFiles(files []File) { slices.SortStableFunc(files, compareFiles) }

func compareFiles(a, b File) int { return slices.Compare(a.Path, b.Path) }

// checkPieceLengthV2 holds a piece length to what BEP 52 says of it.
func checkPieceLengthV2(n int64) error {
	if n < MinPieceLengthV2 || n > bt.MaxPieceBytes || n&(n-1) != 0 {
		return fault("info.piece length", "%d: want a power of two from %d to %d bytes in a v2 torrent", n, MinPieceLengthV2, bt.MaxPieceBytes)
	}
	return nil
}

func treeField(i int, sub string) string { return "info.file tree[" + strconv.Itoa(i) + "]" + sub }

// treeReader walks a file tree in one pass, folder by folder: iterators over a bencode.Value would pass over what lies below a folder once for
// every level above it. Errors name the number of the file that was read, or would have been next.
type treeReader struct {
	rest     []byte // what is left of bytes that bencode.Parse has checked
	path     []string
	files    []File
	total    int64 // bytes in files
	elements int   // of all paths
}

func parseFileTree(tree bencode.Value) ([]File, error) {
	t := treeReader{rest: tree.Raw()}
	if err := t.folder(); err != nil {
		return nil, err
	}
	if len(t.files) == 0 {
		return nil, fault("info.file tree", "no files in it")
	}
	return t.files, nil
}

// next takes one value off the front.
func (t *treeReader) next() (bencode.Value, error) {
	v, rest, err := bencode.Parse(t.rest, limits)
	if err != nil {
		return bencode.Value{}, fmt.Errorf("info.file tree: %w", err)
	}
	t.rest = rest
	return v, nil
}

// folder reads a dictionary of names. How deep it recurses was bounded when the bytes were checked.
func (t *treeReader) folder() error {
	t.rest = t.rest[1:]
	var last []byte
	for first := true; t.rest[0] != 'e'; first = false {
		v, err := t.next()
		if err != nil {
			return err
		}
		name, _ := v.Bytes()
		field := treeField(len(t.files), "")
		switch {
		case !first && bytes.Compare(last, name) >= 0:
			// Pieces are numbered in the order of the files. What is not sorted would be another torrent to whoever sorts it.
			return fault(field, "names in a folder are not sorted, or repeated")
		case len(name) == 0:
			return fault(field, "a name is empty")
		case t.rest[0] != 'd':
			return fault(field, "want a dictionary for every name")
		case len(t.path) == MaxPathElements:
			return fault(field, "path of more than %d elements", MaxPathElements)
		}
		last = name
		t.path = append(t.path, string(name))
		// A dictionary with the empty name in it, which is sorted first, describes a file.
		if bytes.HasPrefix(t.rest, []byte("d0:")) {
			err = t.file()
		} else {
			err = t.folder()
		}
		if err != nil {
			return err
		}
		t.path = t.path[:len(t.path)-1]
	}
	t.rest = t.rest[1:]
	return nil
}

func (t *treeReader) file() error {
	n := len(t.files)
	if n == MaxFiles {
		return fault("info.file tree", "more than %d files", MaxFiles)
	}
	if t.elements += len(t.path); t.elements > maxTreeElements {
		return fault("info.file tree", "paths of more than %d elements together", maxTreeElements)
	}
	t.rest = t.rest[len("d0:"):]
	v, err := t.next()
	if err != nil {
		return err
	}
	if v.Kind() != bencode.KindDict {
		return fault(treeField(n, ""), "want a dictionary, got %s", v.Kind())
	}
	if t.rest[0] != 'e' {
		return fault(treeField(n, ""), "a file with something below it")
	}
	t.rest = t.rest[1:]
	var length, root, attr bencode.Value
	collect(v, []entry{{"length", &length}, {"pieces root", &root}, {"attr", &attr}})
	f := File{Path: slices.Clone(t.path)}
	// A symbolic link is the empty file that its bytes are, as in a v1 description.
	attrs, _ := attr.Bytes()
	if bytes.IndexByte(attrs, 'l') < 0 {
		if f.Length, err = parseLength(treeField(n, ".length"), length, t.total); err != nil {
			return err
		}
	}
	if f.Length > 0 {
		b, ok := root.Bytes()
		if !ok || len(b) != TreeHashBytes {
			return fault(treeField(n, ".pieces root"), "want a string of %d bytes", TreeHashBytes)
		}
		if f.PiecesRoot = [TreeHashBytes]byte(b); f.PiecesRoot == [TreeHashBytes]byte{} {
			return fault(treeField(n, ".pieces root"), "all zero")
		}
	}
	t.total += f.Length
	t.files = append(t.files, f)
	return nil
}

// layOut gives info the files of a file tree, for a torrent that has no other description, with padding as a hybrid has it.
func (info *Info) layOut(tree []File) error {
	info.SingleFile = len(tree) == 1 && len(tree[0].Path) == 1 && tree[0].Path[0] == info.Name
	if n := len(tree) + countPadding(tree, info.PieceLength); n > MaxFiles {
		return fault("info.file tree", "%d files, padding included: want at most %d", n, MaxFiles)
	}
	info.Files = PadFiles(tree, info.PieceLength)
	end := info.Files[len(info.Files)-1]
	if total := end.Offset + end.Length; total > maxTotal {
		return fault("info.file tree", "%d bytes, padding included: want at most %d", total, int64(maxTotal))
	}
	return nil
}

// joinTree checks that the file tree says of a hybrid what its v1 description says (BEP 52, "upgrade path"), and notes its roots.
func (info *Info) joinTree(tree []File) error {
	next, piece := 0, int64(0)
	for i := range info.Files {
		f := &info.Files[i]
		if f.Padding {
			continue
		}
		field := fileField(i, "")
		if info.SingleFile {
			field = "info.length"
		}
		if next == len(tree) {
			return fault(field, "not in the file tree: the two descriptions of this hybrid torrent differ")
		}
		g := &tree[next]
		switch at := piece * info.PieceLength; {
		case !slices.Equal(f.Path, g.Path):
			return fault(field, "another path than %s has: the two descriptions of this hybrid torrent differ", treeField(next, ""))
		case f.Length != g.Length:
			return fault(field, "%d bytes, but %s has %d: the two descriptions of this hybrid torrent differ", f.Length, treeField(next, ""), g.Length)
		case f.Length > 0 && f.Offset != at:
			return fault(field, "starts at byte %d, but %s at %d: the two descriptions of this hybrid torrent differ", f.Offset, treeField(next, ""), at)
		}
		f.PiecesRoot = g.PiecesRoot
		piece += (f.Length + info.PieceLength - 1) / info.PieceLength
		next++
	}
	if next < len(tree) {
		return fault(treeField(next, ""), "only in the file tree: the two descriptions of this hybrid torrent differ")
	}
	if n := int64(info.NumPieces()); n != piece {
		return fault("info.pieces", "%d pieces, but the file tree has %d: the two descriptions of this hybrid torrent differ", n, piece)
	}
	return nil
}

// parseLayers reads "piece layers" and checks them against the roots of the files that are longer than a piece (BEP 52). Others are ignored.
func parseLayers(v bencode.Value, info *Info) (map[[TreeHashBytes]byte][]byte, error) {
	if k := v.Kind(); k != bencode.KindDict && k != bencode.KindAbsent {
		return nil, fault("piece layers", "want a dictionary, got %s", k)
	}
	layers := make(map[[TreeHashBytes]byte][]byte)
	for i := range info.Files {
		if f := &info.Files[i]; f.Length > info.PieceLength && !f.Padding {
			layers[f.PiecesRoot] = nil
		}
	}
	for k, v := range v.Dict() {
		if len(k) != TreeHashBytes {
			continue
		}
		root := [TreeHashBytes]byte(k)
		if have, wanted := layers[root]; wanted && have == nil { // of equal keys the first counts
			b, ok := v.Bytes()
			if !ok {
				return nil, fault("piece layers", "want strings, got one with %s", v.Kind())
			}
			layers[root] = b
		}
	}
	checked := make(map[[TreeHashBytes]byte]bool, len(layers))
	for i := range info.Files {
		f := &info.Files[i]
		if f.Length <= info.PieceLength || f.Padding {
			continue
		}
		layer := layers[f.PiecesRoot]
		s, err := merkle.NewShape(f.Length, info.PieceLength)
		if err != nil {
			return nil, &Error{Field: fileField(i, ""), Reason: err.Error(), err: err}
		}
		if layer == nil {
			return nil, fault("piece layers", "none for file %d", i)
		}
		if got, want := int64(len(layer)), s.NumPieces()*TreeHashBytes; got != want {
			return nil, fault("piece layers", "%d bytes for file %d, which needs %d", got, i, want)
		}
		if checked[f.PiecesRoot] {
			continue // another file with the same content
		}
		if s.Root(layer) != f.PiecesRoot {
			return nil, fault("piece layers", "the hashes of file %d do not lead to its root", i)
		}
		checked[f.PiecesRoot] = true
	}
	return layers, nil
}
