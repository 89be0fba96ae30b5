package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
)

const sourceHelp = "SOURCE is a path, a .torrent file, a magnet link (in quotes), or an info-hash of 40 (v2: 64) hexadecimal digits or 32 base32 characters"

// sourceKind is what a SOURCE turned out to be.
type sourceKind int

const (
	sourceContent sourceKind = iota // a file or folder to share
	sourceTorrent
	sourceMagnet
	sourceHash
)

// A source is a SOURCE argument that has been looked at. Which of the fields after path are set depends on kind.
type source struct {
	kind    sourceKind
	path    string
	torrent *metainfo.MetaInfo
	magnet  metainfo.Magnet
	hash    bt.InfoHash
	hashV2  metainfo.InfoHashV2 // zero if none is known
}

// link returns what is known of the info-hashes as a link.
func (s *source) link() metainfo.Magnet {
	return metainfo.Magnet{InfoHash: s.hash, InfoHashV2: s.hashV2}
}

// parseSource finds out what arg means. Links and info-hashes are told by their form alone, so that what a
// command does depends on no file that happens to lie around; "./" in front makes a path of anything. A file is a torrent if its
// name ends in .torrent, or whatever its name if anyFile is set.
func parseSource(arg string, anyFile bool) (source, error) {
	if len(arg) >= 7 && strings.EqualFold(arg[:7], "magnet:") {
		m, err := metainfo.ParseMagnetV2(arg)
		if err != nil {
			return source{}, failf(exitTorrent, "copy the whole link, in quotes: the shell cuts it at the first &", "magnet link: %w", err)
		}
		return source{kind: sourceMagnet, magnet: m, hash: m.InfoHash, hashV2: m.InfoHashV2}, nil
	}
	if len(arg) == 2*metainfo.TreeHashBytes && isHex(arg) {
		h, err := metainfo.ParseInfoHashV2(arg)
		if err != nil || h.Truncated().IsZero() {
			return source{}, failf(exitUsage, sourceHelp, "info-hash %s: begins with zeros, which no torrent's does", arg)
		}
		return source{kind: sourceHash, hash: h.Truncated(), hashV2: h}, nil
	}
	if looksLikeHash(arg) {
		h, err := bt.ParseInfoHash(arg)
		if err != nil {
			return source{}, failf(exitUsage, sourceHelp, "%w", err)
		}
		if h.IsZero() {
			return source{}, failf(exitUsage, sourceHelp, "info-hash %s: all zero, which no torrent has", arg)
		}
		return source{kind: sourceHash, hash: h}, nil
	}
	if arg == "" {
		return source{}, failf(exitUsage, sourceHelp, "the argument is empty")
	}
	fi, err := os.Stat(arg)
	if errors.Is(err, fs.ErrNotExist) {
		return source{}, failf(exitInput, "check the path; "+sourceHelp, "%s: %w", arg, fs.ErrNotExist)
	}
	if err != nil {
		return source{}, inputError(err)
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return source{}, errNotRegular(arg)
	}
	isTorrent := strings.EqualFold(filepath.Ext(arg), ".torrent")
	if fi.IsDir() || !anyFile && !isTorrent {
		return source{kind: sourceContent, path: arg}, nil
	}
	mi, err := loadTorrent(arg)
	if err != nil {
		return source{}, err
	}
	return source{kind: sourceTorrent, path: arg, torrent: mi, hash: mi.InfoHash, hashV2: mi.InfoHashV2}, nil
}

// looksLikeHash reports whether arg has the length and the characters of a v1 info-hash.
func looksLikeHash(arg string) bool {
	switch len(arg) {
	case 2 * bt.HashBytes:
		return isHex(arg)
	case 32:
		return strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
	}
	return false
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdefABCDEF") == "" }

// loadTorrent reads a .torrent file.
func loadTorrent(path string) (*metainfo.MetaInfo, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, inputError(err)
	}
	if fi.IsDir() {
		return nil, failf(exitInput, "name a .torrent file; parley create makes one of a folder", "%s: is a folder, not a .torrent file", path)
	}
	if !fi.Mode().IsRegular() {
		return nil, errNotRegular(path) // a pipe or a device may have no end
	}
	mi, err := parley.LoadTorrent(path)
	if err == nil {
		return mi, nil
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, inputError(err)
	}
	hint := "get the file again, or check that it is a .torrent"
	if !strings.Contains(err.Error(), path) {
		return nil, failf(exitTorrent, hint, "%s: %w", path, err)
	}
	return nil, failf(exitTorrent, hint, "%w", err)
}

// inputError is the error for something named on the command line that cannot be read.
func inputError(err error) error {
	hint := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "check the path"
	case errors.Is(err, fs.ErrPermission):
		hint = "check the permissions of the file and of the folders above it"
	}
	// "NAME: no such file or directory" instead of "stat NAME: …": which system call it was helps nobody.
	if pe, ok := err.(*fs.PathError); ok {
		return failf(exitInput, hint, "%s: %w", pe.Path, pe.Err)
	}
	return failf(exitInput, hint, "%w", err)
}

func errNotRegular(path string) error {
	return failf(exitInput, "name a regular file or a folder", "%s: neither a file nor a folder, but a device, pipe or socket", path)
}

// contentPath is where a torrent's content lies below dir: the file, or the folder with the torrent's name.
func contentPath(dir string, info *metainfo.Info) (string, error) {
	name, err := metainfo.SafePath([]string{info.Name})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, name[0]), nil
}
