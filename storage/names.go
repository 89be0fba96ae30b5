package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxNameBytes is the longest file name that common file systems take.
const maxNameBytes = 255

// localPath joins elements into a path relative to the folder, in the system's spelling.
func localPath(elements []string) (string, error) {
	for _, e := range elements {
		if e == "" || e == "." || e == ".." || strings.ContainsAny(e, "/\x00") || strings.ContainsRune(e, os.PathSeparator) {
			return "", fmt.Errorf("%w: element %q of %q", ErrUnsafePath, e, elements)
		}
	}
	// IsLocal knows what else the system reads specially: drives, streams and devices on Windows.
	p := filepath.Join(elements...)
	if len(elements) == 0 || !filepath.IsLocal(p) {
		return "", fmt.Errorf("%w: %q", ErrUnsafePath, elements)
	}
	return p, nil
}

// partNames chooses the names under which files are downloaded. It is deterministic: the same files in
// the same order get the same names, so a download resumes.
type partNames struct {
	// taken holds every path in use, folded so that the choice also holds where case does not count.
	taken map[string]struct{}
}

func fold(path string) string { return strings.ToLower(path) }

// reserve takes the final paths of a torrent, and the folders that they need, before any part is named.
// It reports a path that is given twice, or is a file and a folder at once.
func (pn *partNames) reserve(paths []string) error {
	files := make(map[string]struct{}, len(paths))
	for _, p := range paths {
		if _, dup := files[p]; dup {
			return fmt.Errorf("%w: %q is given twice", ErrUnsafePath, p)
		}
		files[p] = struct{}{}
	}
	pn.taken = make(map[string]struct{}, 2*len(paths))
	for _, p := range paths {
		pn.taken[fold(p)] = struct{}{}
		for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
			if _, ok := files[dir]; ok {
				return fmt.Errorf("%w: %q is both a file and the folder of %q", ErrUnsafePath, dir, p)
			}
			pn.taken[fold(dir)] = struct{}{}
		}
	}
	return nil
}

// choose returns the path of the part of final: final.part, or final.part2 and so on if the torrent has
// something else of that name, with the name shortened where the file system would not take it.
func (pn *partNames) choose(final string) string {
	dir, base := filepath.Split(final)
	for n := 1; ; n++ {
		suffix := ".part"
		if n > 1 {
			suffix += strconv.Itoa(n)
		}
		part := dir + shorten(base, maxNameBytes-len(suffix)) + suffix
		if _, taken := pn.taken[fold(part)]; !taken {
			pn.taken[fold(part)] = struct{}{}
			return part
		}
	}
}

// free returns name, or name with a number behind it if the torrent has something of that name, and takes it.
func (pn *partNames) free(name string) string {
	for n := 1; ; n++ {
		try := name
		if n > 1 {
			try += strconv.Itoa(n)
		}
		if _, taken := pn.taken[fold(try)]; !taken {
			pn.taken[fold(try)] = struct{}{}
			return try
		}
	}
}

// shorten cuts s to at most n bytes without splitting a character.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
