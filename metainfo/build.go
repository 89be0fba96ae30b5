package metainfo

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/internal/merkle"
)

// Bounds of what [ChoosePieceLength] returns.
const (
	MinPieceLength = 16 << 10
	MaxPieceLength = 16 << 20
)

// ChoosePieceLength returns a piece length for a torrent of total bytes: the power of two that makes 1,000
// to 2,000 pieces, or whichever of [MinPieceLength] and [MaxPieceLength] is nearer.
func ChoosePieceLength(total int64) int64 {
	n := int64(MinPieceLength)
	for n < MaxPieceLength && total/n >= 2000 {
		n *= 2
	}
	return n
}

// Builder describes a torrent to be made. It holds no state: fill it in and call [Builder.Build].
type Builder struct {
	// Name is the file's name, or that of the folder that holds the files.
	Name string
	// SingleFile makes a torrent of one file called Name. Files then has exactly one entry, whose Path is
	// not looked at.
	SingleFile bool
	// Files are the files in the order of their bytes. Offset is not looked at.
	Files []File
	// PieceLength is the nominal piece length in bytes; see [ChoosePieceLength].
	PieceLength int64
	// PieceHashes are the SHA-1 hashes of the pieces, 20 bytes each, of a v1 or hybrid torrent. They are copied. The pieces of
	// a hybrid are those of the files as [PadFiles] lays them out, padding being zeros.
	PieceHashes []byte
	// Form is which descriptions the torrent has. Those with a v2 description want files in the order of [SortFiles], without
	// padding, no file below another, and pieces that are a power of two long.
	Form Form
	// TreeHashes are, for each of Files in a torrent with a v2 description, the hashes of its pieces as [HashPieceV2] makes them, 32
	// bytes each; none for a file without bytes. They are kept and must not change.
	TreeHashes [][]byte
	// Private keeps peers from other sources than the trackers out (BEP 27).
	Private bool

	Announce  [][]string // tracker URLs in tiers (BEP 12)
	WebSeeds  []string   // BEP 19
	Comment   string
	CreatedBy string
	// CreationDate is in Unix seconds. 0 leaves it out, so that the same content makes the same bytes.
	CreationDate int64
}

// Form is which descriptions of itself a torrent has.
type Form uint8

// The forms.
const (
	FormV1     Form = iota // BEP 3
	FormV2                 // BEP 52, for clients that know v2 only
	FormHybrid             // both, for all clients
)

// String returns the form's name.
func (f Form) String() string {
	switch f {
	case FormV1:
		return "v1"
	case FormV2:
		return "v2"
	case FormHybrid:
		return "hybrid"
	}
	return "unknown form"
}

// Build makes the torrent; write it with [MetaInfo.Append]. It is stricter than [Parse], so that what it
// makes works everywhere: names must be valid UTF-8 without "/" and NUL and be neither empty nor "." nor
// "..", and no two files may have the same path. The errors are [*Error]s.
func (b *Builder) Build() (*MetaInfo, error) {
	if b.CreationDate < 0 {
		return nil, fault("creation date", "%d is negative", b.CreationDate)
	}
	if err := checkName("info.name", b.Name); err != nil {
		return nil, err
	}
	if b.Form > FormHybrid {
		return nil, fault("form", "%d is none", b.Form)
	}
	if b.SingleFile && len(b.Files) != 1 {
		return nil, fault("info.files", "%d files in a single-file torrent", len(b.Files))
	}
	var d bencode.Dict
	d.SetString("name", b.Name)
	d.SetInt("piece length", b.PieceLength)
	if b.Private {
		d.SetInt("private", 1)
	}
	files := b.Files
	var layers map[[TreeHashBytes]byte][]byte
	if b.Form != FormV1 {
		tree, err := b.treeFiles()
		if err != nil {
			return nil, err
		}
		if layers, err = b.hashTrees(tree); err != nil {
			return nil, err
		}
		d.SetInt("meta version", 2)
		d.SetRaw("file tree", appendTree(nil, tree))
		files = PadFiles(b.Files, b.PieceLength)
	}
	if b.Form != FormV2 {
		d.SetBytes("pieces", b.PieceHashes)
		if b.SingleFile {
			d.SetInt("length", b.Files[0].Length)
		} else {
			list, err := appendFiles(files)
			if err != nil {
				return nil, err
			}
			d.SetRaw("files", list)
		}
	}
	// Reading back what was written has all other rules in one place.
	info, err := parseInfoOnly(d.Append(nil), b.Form != FormV1)
	if err != nil {
		return nil, err
	}
	m := &MetaInfo{
		Info:         info,
		InfoHash:     info.InfoHash(),
		PieceLayers:  layers,
		WebSeeds:     nonEmpty(b.WebSeeds),
		Comment:      b.Comment,
		CreatedBy:    b.CreatedBy,
		CreationDate: b.CreationDate,
	}
	if info.V2 {
		m.InfoHashV2 = info.InfoHashV2()
	}
	urls := 0
	for _, tier := range b.Announce {
		if tier = nonEmpty(tier); len(tier) > 0 {
			m.Announce = append(m.Announce, tier)
			urls += len(tier)
		}
	}
	if urls > MaxURLs {
		return nil, fault("announce-list", "%d URLs: want at most %d", urls, MaxURLs)
	}
	if n := len(m.WebSeeds); n > MaxURLs {
		return nil, fault("url-list", "%d URLs: want at most %d", n, MaxURLs)
	}
	return m, nil
}

// treeFiles returns the files with the paths that they have in a file tree, having checked that these can stand there.
func (b *Builder) treeFiles() ([]File, error) {
	if err := checkPieceLengthV2(b.PieceLength); err != nil {
		return nil, err
	}
	if len(b.Files) == 0 {
		return nil, fault("info.files", "empty list")
	}
	files := slices.Clone(b.Files)
	var total int64
	for i := range files {
		f := &files[i]
		if b.SingleFile {
			f.Path = []string{b.Name}
		}
		if n := len(f.Path); n < 1 || n > MaxPathElements {
			return nil, fault(fileField(i, ".path"), "%d elements: want 1 to %d", n, MaxPathElements)
		}
		for _, e := range f.Path {
			if err := checkName(fileField(i, ".path"), e); err != nil {
				return nil, err
			}
		}
		if f.Padding {
			return nil, fault(fileField(i, ""), "padding, which a v2 torrent has none of and a hybrid gets by itself")
		}
		if f.Length < 0 || f.Length > maxTotal-total {
			return nil, fault(fileField(i, ".length"), "%d bytes: want 0 to %d in all files together", f.Length, int64(maxTotal))
		}
		total += f.Length
		if !b.SingleFile && len(files) == 1 && len(f.Path) == 1 && f.Path[0] == b.Name {
			// BEP 52 writes both in one way, which is read as a single file.
			return nil, fault("info.name", "a folder %q whose only file has the same name: call the torrent or the file something else", b.Name)
		}
		if i == 0 {
			continue
		}
		prev := files[i-1].Path
		switch {
		case slices.Compare(prev, f.Path) > 0:
			return nil, fault(fileField(i, ".path"), "%q is out of order: sort the files with SortFiles", strings.Join(f.Path, "/"))
		case len(prev) <= len(f.Path) && slices.Equal(prev, f.Path[:len(prev)]):
			// In this order, what lies below a file follows it.
			return nil, fault(fileField(i, ".path"), "%q is the same as or lies below %s", strings.Join(f.Path, "/"), fileField(i-1, ""))
		}
	}
	return files, nil
}

// hashTrees sets the roots of files and returns their piece layers.
func (b *Builder) hashTrees(files []File) (map[[TreeHashBytes]byte][]byte, error) {
	if len(b.TreeHashes) != len(files) {
		return nil, fault("piece layers", "hashes of %d files, want those of %d", len(b.TreeHashes), len(files))
	}
	layers := make(map[[TreeHashBytes]byte][]byte)
	for i := range files {
		f, hashes := &files[i], b.TreeHashes[i]
		pieces := (f.Length + b.PieceLength - 1) / b.PieceLength
		if int64(len(hashes)) != pieces*TreeHashBytes {
			return nil, fault("piece layers", "%d bytes of hashes for file %d, want %d", len(hashes), i, pieces*TreeHashBytes)
		}
		if f.Length == 0 {
			continue
		}
		s, err := merkle.NewShape(f.Length, b.PieceLength)
		if err != nil {
			return nil, &Error{Field: fileField(i, ""), Reason: err.Error(), err: err}
		}
		f.PiecesRoot = s.Root(hashes)
		if pieces > 1 {
			layers[f.PiecesRoot] = hashes
		}
	}
	return layers, nil
}

// appendTree appends the file tree of sorted files.
func appendTree(dst []byte, files []File) []byte {
	dst = append(dst, 'd')
	var open []string // the folders that have not been closed yet
	for i := range files {
		f := &files[i]
		folders, name := f.Path[:len(f.Path)-1], f.Path[len(f.Path)-1]
		same := 0
		for same < len(open) && same < len(folders) && open[same] == folders[same] {
			same++
		}
		for range len(open) - same {
			dst = append(dst, 'e')
		}
		for _, folder := range folders[same:] {
			dst = append(bencode.AppendString(dst, folder), 'd')
		}
		open = folders
		dst = bencode.AppendString(dst, name)
		dst = append(dst, "d0:d"...)
		dst = bencode.AppendString(dst, "length")
		dst = bencode.AppendInt(dst, f.Length)
		if f.Length > 0 {
			dst = bencode.AppendString(dst, "pieces root")
			dst = bencode.AppendBytes(dst, f.PiecesRoot[:])
		}
		dst = append(dst, "ee"...)
	}
	for range open {
		dst = append(dst, 'e')
	}
	return append(dst, 'e')
}

func appendFiles(files []File) ([]byte, error) {
	seen := make(map[string]int, len(files))
	list := []byte{'l'}
	for i, f := range files {
		for _, e := range f.Path {
			if err := checkName(fileField(i, ".path"), e); err != nil {
				return nil, err
			}
		}
		path := strings.Join(f.Path, "/")
		// Padding may be called as often as it is needed what BEP 47 calls it.
		if first, ok := seen[path]; ok && !f.Padding {
			return nil, fault(fileField(i, ".path"), "%q is the path of %s too", path, fileField(first, ""))
		}
		if !f.Padding {
			seen[path] = i
		}

		list = append(list, 'd')
		if f.Padding {
			list = bencode.AppendString(list, "attr")
			list = bencode.AppendString(list, "p")
		}
		list = bencode.AppendString(list, "length")
		list = bencode.AppendInt(list, f.Length)
		list = bencode.AppendString(list, "path")
		list = appendStrings(list, f.Path)
		list = append(list, 'e')
	}
	return append(list, 'e'), nil
}

// checkName reports what keeps s from being a file's or folder's name in a torrent that works everywhere.
func checkName(field, s string) error {
	switch {
	case s == "" || s == "." || s == "..":
		return fault(field, "%q is not a name", s)
	case strings.ContainsAny(s, "/\x00"):
		return fault(field, "%q has a slash or NUL in it", s)
	case !utf8.ValidString(s):
		return fault(field, "%q is not UTF-8: rename it", s)
	}
	return nil
}

// nonEmpty returns a copy of list without its empty strings.
func nonEmpty(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
