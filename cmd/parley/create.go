package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

type createFlags struct {
	out         string
	force       bool
	pieceLength string
	v2, hybrid  bool
	opts        parley.CreateOptions
}

type createdEvent struct {
	head
	InfoHash   string   `json:"info_hash"`
	InfoHashV2 string   `json:"info_hash_v2,omitempty"`
	Name       string   `json:"name"`
	Magnet     string   `json:"magnet"`
	Path       string   `json:"path"`
	TotalBytes int64    `json:"total_bytes"`
	PieceBytes int64    `json:"piece_bytes"`
	Pieces     int      `json:"pieces"`
	Files      int      `json:"files"`
	Skipped    []string `json:"skipped,omitempty"`
}

func (a *app) createCmd() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create PATH [-o FILE]",
		Short: "Make a .torrent of a file or folder",
		Long: `Hash the file or folder at PATH and write its .torrent. Symbolic links and special files inside a folder are left out, and named.
The same content and options make the same file, byte for byte. An existing file is not replaced without --force.

A v1 torrent, which is made by default, works with every client. In a --v2 torrent (BEP 52) each file has a hash tree of its own: equal files are equal
in every such torrent, and bad data is found by the block; clients without v2 cannot use it. A --hybrid torrent is both, and has padding between its files.`,
		Example: "  parley create holiday/ -o holiday.torrent --tracker udp://tracker.example.org:6969",
		Args:    wants(1, "the PATH of a file or folder"),
		RunE:    a.runs(func(ctx context.Context, args []string) error { return a.create(ctx, args[0], f) }),
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.out, "output", "o", "", "write to `FILE`; by default the name of PATH with .torrent, in the current folder")
	fl.BoolVar(&f.force, "force", false, "replace an existing FILE")
	fl.StringVar(&f.pieceLength, "piece-length", "", "`SIZE` of pieces: a power of two from 16K to 16M; by default chosen by size")
	fl.BoolVar(&f.v2, "v2", false, "make a v2 torrent (BEP 52)")
	fl.BoolVar(&f.hybrid, "hybrid", false, "make a torrent that is v1 and v2 in one")
	fl.StringArrayVar(&f.opts.Trackers, "tracker", nil, "tracker `URL`; may be repeated")
	fl.StringArrayVar(&f.opts.WebSeeds, "web-seed", nil, "web seed `URL`; may be repeated")
	fl.BoolVar(&f.opts.Private, "private", false, "peers may come from the trackers only (BEP 27)")
	fl.StringVar(&f.opts.Comment, "comment", "", "`TEXT` for people")
	fl.StringVar(&f.opts.Name, "name", "", "`NAME` of the torrent; by default the base name of PATH")
	noFiles(cmd, "piece-length", "tracker", "web-seed", "comment", "name")
	return cmd
}

func (a *app) create(ctx context.Context, path string, f createFlags) (err error) {
	if f.pieceLength != "" {
		if f.opts.PieceBytes, err = parsePieceLength(f.pieceLength); err != nil {
			return err
		}
	}
	switch {
	case f.v2 && f.hybrid:
		return failf(exitUsage, "leave one of them out: a hybrid torrent is v1 and v2 in one", "--v2 and --hybrid contradict each other")
	case f.v2:
		f.opts.Form = metainfo.FormV2
	case f.hybrid:
		f.opts.Form = metainfo.FormHybrid
	}
	if err := checkURLs(f.opts.Trackers, f.opts.WebSeeds); err != nil {
		return err
	}
	if fi, err := os.Stat(path); err != nil {
		return inputError(err)
	} else if !fi.IsDir() && !fi.Mode().IsRegular() {
		return errNotRegular(path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return inputError(err)
	}
	if f.out == "" {
		f.out = filepath.Base(abs) + ".torrent"
	}
	if inside(f.out, abs) {
		return failf(exitUsage, "write it elsewhere with -o FILE", "%s: would lie inside the folder that it describes", f.out)
	}
	// Before the hashing, which may take long: whether there is something to write to.
	out, err := createFile(f.out, f.force)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.discard(); cerr != nil {
			err = errors.Join(err, cerr)
		}
	}()
	m, onProgress := a.ui.hashing("hashing", true)
	f.opts.OnProgress = onProgress
	c, err := parley.Create(ctx, path, f.opts)
	m.end()
	if me, ok := errors.AsType[*metainfo.Error](err); ok && me.Field == "info.name" && f.opts.Name != "" {
		return failf(exitUsage, "choose another --name", "--name: %s", me.Reason)
	}
	if err != nil {
		return interrupted(ctx, createError(err), "nothing was written")
	}
	if err := out.commit(c.Append(nil)); err != nil {
		return err
	}
	magnet := c.Magnet().String()
	info := c.Info
	a.ui.event(createdEvent{
		head: now("created"), InfoHash: c.InfoHash.String(), InfoHashV2: hashText(c.InfoHashV2), Name: info.Name, Magnet: magnet, Path: f.out, TotalBytes: info.Geometry.ContentBytes(),
		PieceBytes: info.PieceLength, Pieces: info.NumPieces(), Files: countFiles(info), Skipped: c.Skipped,
	})
	a.noteSkipped(c.Skipped)
	a.ui.say("created:   %s", safe.Escape(f.out))
	a.ui.say("content:   %s, %s in %s of %s", plural(countFiles(info), "file"), exactSize(info.Geometry.ContentBytes()), plural(info.NumPieces(), "piece"), sizeText(info.PieceLength))
	if info.Private && len(f.opts.Trackers) == 0 {
		a.ui.note("private and without a --tracker: its peers find each other only where they name each other")
	}
	a.sayHashes("%-10s %s", c.InfoHash, c.InfoHashV2)
	a.ui.say("magnet:    %s", safe.Escape(magnet))
	return nil
}

// checkURLs refuses what no client could use as a tracker or web seed. The schemes of trackers are left open: other clients know more than we do.
func checkURLs(trackers, webSeeds []string) error {
	for _, v := range trackers {
		if u, err := url.Parse(v); err != nil || u.Scheme == "" || u.Hostname() == "" {
			return failf(exitUsage, "--tracker wants a URL such as https://tracker.example.org/announce or udp://tracker.example.org:6969", "--tracker %q: not the URL of a tracker", v)
		}
	}
	return (&webFlags{urls: webSeeds}).check()
}

// createError is the error of hashing a path that the user named.
func createError(err error) error {
	if errors.Is(err, storage.ErrNothingToShare) {
		return failf(exitInput, "name a folder with files in it", "%s", describe(err))
	}
	if me, ok := errors.AsType[*metainfo.Error](err); ok {
		if strings.HasPrefix(me.Field, "info.files") || strings.HasPrefix(me.Field, "info.name") {
			return failf(exitInput, "the names in a torrent are UTF-8, and bounded in length and depth", "a name cannot be part of a torrent: %s", me.Reason)
		}
		return failf(exitUsage, "", "%w", err) // what the flags said
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return inputError(err)
	}
	return err
}

// parsePieceLength reads a number of bytes with an optional K or M (KiB, MiB).
func parsePieceLength(s string) (int64, error) {
	num, unit := s, int64(1)
	up := strings.ToUpper(s)
	for suffix, u := range map[string]int64{"K": 1 << 10, "KIB": 1 << 10, "M": 1 << 20, "MIB": 1 << 20} {
		if n, ok := strings.CutSuffix(up, suffix); ok {
			num, unit = n, u
		}
	}
	n, err := strconv.ParseInt(num, 10, 32)
	if n *= unit; err != nil || n < 16<<10 || n > 16<<20 || n&(n-1) != 0 {
		return 0, failf(exitUsage, "such as 256K or 1M; leave it out to have it chosen by size", "--piece-length %q: want a power of two from 16K to 16M", s)
	}
	return n, nil
}

// inside reports whether file, which need not exist, lies in the folder dir.
func inside(file, dir string) bool {
	parent, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return false // opening it will tell
	}
	// Both without symbolic links, where they exist: else the same place may have two names.
	if p, err := filepath.EvalSymlinks(parent); err == nil {
		parent = p
	}
	if d, err := filepath.EvalSymlinks(dir); err == nil {
		dir = d
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return false
	}
	rel, err := filepath.Rel(dir, parent)
	return err == nil && filepath.IsLocal(rel)
}

// A newFile is a file on its way: it gets its name when it is complete, so that nobody ever sees half of it.
type newFile struct {
	path  string
	flag  string // that named it
	force bool
	tmp   *os.File // nil once committed or discarded
}

// createFile begins a file that will be called path. Unless force is set, path must not exist, now or at the end.
func createFile(path string, force bool) (*newFile, error) { return createFileFor("-o", path, force) }

// createFileFor is createFile for what a flag named.
func createFileFor(flag, path string, force bool) (*newFile, error) {
	fi, err := os.Lstat(path)
	switch {
	case err == nil && fi.IsDir():
		return nil, failf(exitStorage, "give "+flag+" a file name: "+flag+" "+filepath.Join(path, "NAME.torrent"), "%s: is a folder", path)
	case err == nil && !force:
		return nil, errOutputExists(flag, path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, outputError(flag, path, err)
	}
	var suffix [6]byte
	rand.Read(suffix[:]) // never fails
	// The same folder, so that it can be renamed; not os.CreateTemp, whose files only their owner may read.
	name := filepath.Join(filepath.Dir(path), "."+hex.EncodeToString(suffix[:])+".tmp")
	tmp, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, outputError(flag, path, err)
	}
	return &newFile{path: path, flag: flag, force: force, tmp: tmp}, nil
}

// commit writes the content and gives the file its name.
func (f *newFile) commit(content []byte) error {
	name := f.tmp.Name()
	if _, err := f.tmp.Write(content); err != nil {
		return outputError(f.flag, f.path, err)
	}
	if err := f.tmp.Sync(); err != nil {
		return outputError(f.flag, f.path, err)
	}
	if err := f.tmp.Close(); err != nil {
		return outputError(f.flag, f.path, err)
	}
	if !f.force {
		err := os.Link(name, f.path) // unlike a rename it replaces nothing
		if err == nil {
			return nil // discard removes the other name
		}
		if errors.Is(err, fs.ErrExist) {
			return errOutputExists(f.flag, f.path)
		}
		// A file system without hard links: look, then rename.
		if _, err := os.Lstat(f.path); !errors.Is(err, fs.ErrNotExist) {
			return errOutputExists(f.flag, f.path)
		}
	}
	if err := os.Rename(name, f.path); err != nil {
		return outputError(f.flag, f.path, err)
	}
	f.tmp = nil
	return nil
}

// discard removes what commit has not given a name. It may be called at any time, and again.
func (f *newFile) discard() error {
	if f.tmp == nil {
		return nil
	}
	tmp := f.tmp
	f.tmp = nil
	// Closed already if commit came that far; the removal is what counts.
	if err := tmp.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return errors.Join(outputError(f.flag, f.path, err), os.Remove(tmp.Name()))
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return outputError(f.flag, f.path, err)
	}
	return nil
}

func errOutputExists(flag, path string) error {
	hint := "choose another name with " + flag
	if flag == "-o" {
		hint += ", or add --force to replace it"
	}
	return failf(exitStorage, hint, "%s: exists already", path)
}

// outputError is the error for the file path that the program was to write. It may have arisen at the file's temporary name, which means
// nothing to people.
func outputError(flag, path string, err error) error {
	hint := "choose another place with " + flag
	switch {
	case isDiskFull(err):
		hint = "make room, or choose another place with " + flag
	case errors.Is(err, fs.ErrNotExist):
		hint = "create the folder first, or choose another place with " + flag
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	} else if le, ok := errors.AsType[*os.LinkError](err); ok {
		err = le.Err
	}
	return failf(exitStorage, hint, "%s: %w", path, err)
}
