package metainfo

import (
	"strings"
	"unicode/utf8"

	"github.com/parley-bt/parley/bencode"
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
	// PieceHashes are the SHA-1 hashes of the pieces, 20 bytes each. They are copied.
	PieceHashes []byte
	// Private keeps peers from other sources than the trackers out (BEP 27).
	Private bool

	Announce  [][]string // tracker URLs in tiers (BEP 12)
	WebSeeds  []string   // BEP 19
	Comment   string
	CreatedBy string
	// CreationDate is in Unix seconds. 0 leaves it out, so that the same content makes the same bytes.
	CreationDate int64
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
	var d bencode.Dict
	d.SetString("name", b.Name)
	d.SetInt("piece length", b.PieceLength)
	d.SetBytes("pieces", b.PieceHashes)
	if b.Private {
		d.SetInt("private", 1)
	}
	if b.SingleFile {
		if len(b.Files) != 1 {
			return nil, fault("info.files", "%d files in a single-file torrent", len(b.Files))
		}
		d.SetInt("length", b.Files[0].Length)
	} else {
		list, err := b.appendFiles()
		if err != nil {
			return nil, err
		}
		d.SetRaw("files", list)
	}
	// Reading back what was written has all other rules in one place.
	info, err := ParseInfo(d.Append(nil))
	if err != nil {
		return nil, err
	}
	m := &MetaInfo{
		Info:         info,
		InfoHash:     info.InfoHash(),
		WebSeeds:     nonEmpty(b.WebSeeds),
		Comment:      b.Comment,
		CreatedBy:    b.CreatedBy,
		CreationDate: b.CreationDate,
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

func (b *Builder) appendFiles() ([]byte, error) {
	seen := make(map[string]int, len(b.Files))
	list := []byte{'l'}
	for i, f := range b.Files {
		for _, e := range f.Path {
			if err := checkName(fileField(i, ".path"), e); err != nil {
				return nil, err
			}
		}
		path := strings.Join(f.Path, "/")
		if first, ok := seen[path]; ok {
			return nil, fault(fileField(i, ".path"), "%q is the path of %s too", path, fileField(first, ""))
		}
		seen[path] = i

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
