package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// chooseFlags say what of a torrent is wanted, and in which order.
type chooseFlags struct {
	files, skip []string
	cat         string
	list        bool
	sequential  bool
}

func (f *chooseFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.files, "file", nil, "download only the files that match `GLOB`; may be repeated")
	cmd.Flags().StringArrayVar(&f.skip, "skip", nil, "leave out the files that match `GLOB`; may be repeated")
	cmd.Flags().StringVar(&f.cat, "cat", "", "write the one file that matches `GLOB` to standard output while it comes, and download no other")
	cmd.Flags().BoolVar(&f.list, "list", false, "print the files of the torrent and download nothing")
	cmd.Flags().BoolVar(&f.sequential, "sequential", false, "ask for the content in its order; by default the rarest pieces come first, which is better for all")
	noFiles(cmd, "file", "skip", "cat")
}

// chooseHelp explains the patterns.
const chooseHelp = `A GLOB is matched with * ? and [] against the path of a file below the torrent's folder, as --list prints it: one without a slash
against each part of the path, so that '*.flac' takes all such files and 'extras' the whole folder; one with slashes against the path from
its beginning. What matches both --file and --skip is left out. Pieces that a file shares with one that is left out are downloaded
whole; the other file's part is kept in a hidden file beside the download, and used if the file is wanted later.`

// check refuses patterns that are none, and flags that contradict each other.
func (f *chooseFlags) check(json, seed bool) error {
	for _, g := range []struct {
		flag string
		list []string
	}{{"--file", f.files}, {"--skip", f.skip}, {"--cat", []string{f.cat}}} {
		for _, glob := range g.list {
			if _, err := path.Match(glob, ""); err != nil {
				return failf(exitUsage, "a backslash before *, ?, [ or \\ takes it as it is", "%s %q: not a pattern", g.flag, glob)
			}
		}
	}
	const leave = "leave one of them out"
	switch {
	case f.cat != "" && (len(f.files) > 0 || len(f.skip) > 0):
		return failf(exitUsage, leave, "--cat downloads one file: it does not go with --file and --skip")
	case f.cat != "" && json:
		return failf(exitUsage, leave, "--cat and --json both want standard output")
	case f.cat != "" && seed:
		return failf(exitUsage, leave, "--cat and --seed both want standard output")
	case f.list && (f.cat != "" || seed):
		return failf(exitUsage, leave, "--list downloads nothing: it does not go with --cat and --seed")
	}
	return nil
}

// globMatches reports whether a pattern matches the path of a file, one of its folders, or, if it has no slash, any part of it. The path itself matches always: names may hold
// what is special in patterns.
func globMatches(glob string, parts []string) bool {
	glob = strings.Trim(glob, "/")
	if glob == strings.Join(parts, "/") {
		return true
	}
	for i := range parts {
		name := parts[i]
		if strings.Contains(glob, "/") {
			name = strings.Join(parts[:i+1], "/")
		}
		if ok, err := path.Match(glob, name); ok && err == nil {
			return true
		}
	}
	return false
}

func anyMatches(globs []string, parts []string) bool {
	return slices.ContainsFunc(globs, func(g string) bool { return globMatches(g, parts) })
}

// wants reports whether a file is to be downloaded.
func (f *chooseFlags) wants(parts []string) bool {
	if f.cat != "" {
		return globMatches(f.cat, parts)
	}
	return (len(f.files) == 0 || anyMatches(f.files, parts)) && !anyMatches(f.skip, parts)
}

// some reports whether the flags leave anything out.
func (f *chooseFlags) some() bool { return f.cat != "" || len(f.files) > 0 || len(f.skip) > 0 }

// apply puts the choice into a torrent's options.
func (f *chooseFlags) apply(o *parley.TorrentOptions) {
	o.Sequential = f.sequential
	switch {
	case f.list:
		// What is there is no concern of a list, and nothing is made.
		o.Storage = func(info *metainfo.Info) (storage.Storage, error) { return storage.NewMemory(info.Geometry), nil }
		o.Want = func(parley.File) parley.Priority { return parley.PrioritySkip }
	case f.some():
		o.Want = func(file parley.File) parley.Priority {
			if f.wants(file.Path) {
				return parley.PriorityNormal
			}
			return parley.PrioritySkip
		}
	}
}

// judge refuses a choice that leaves nothing to download, or more than one file to --cat; of the latter it returns the one.
func (f *chooseFlags) judge(files []parley.File) (parley.File, error) {
	var chosen []parley.File
	for _, x := range files {
		if f.wants(x.Path) {
			chosen = append(chosen, x)
		}
	}
	const hint = "parley get --list prints the files of a torrent"
	switch {
	case len(chosen) == 0 && f.cat != "":
		return parley.File{}, failf(exitUsage, hint, "--cat %q: no file of the torrent matches", f.cat)
	case len(chosen) == 0 && len(files) > 0 && f.some():
		return parley.File{}, failf(exitUsage, hint, "no file of the torrent matches --file, or --skip leaves all of them out")
	case len(chosen) > 1 && f.cat != "":
		return parley.File{}, failf(exitUsage, hint, "--cat %q: %d files of the torrent match, such as %s and %s", f.cat, len(chosen), pathText(chosen[0].Path), pathText(chosen[1].Path))
	case len(chosen) == 0:
		return parley.File{}, nil
	}
	return chosen[0], nil
}

// pathText is the path of a file for people, shortened.
func pathText(parts []string) string { return safe.Clip(strings.Join(parts, "/"), 100) }

// filesOf returns the files of a torrent that is known.
func filesOf(info *metainfo.Info) (files []parley.File) {
	for i, f := range info.Files {
		if !f.Padding {
			files = append(files, parley.File{Index: i, Path: f.Path, Offset: f.Offset, Length: f.Length})
		}
	}
	return files
}

// listedEvent is one file of get --list.
type listedEvent struct {
	head
	Index  int      `json:"index"`
	Path   []string `json:"path"`
	Bytes  int64    `json:"bytes"`
	Offset int64    `json:"offset"`
	Wanted bool     `json:"wanted"`
}

// printList prints the files, those that the flags leave out with a mark.
func (a *app) printList(files []parley.File, f *chooseFlags) {
	for _, x := range files {
		wanted := f.wants(x.Path)
		a.ui.event(listedEvent{head: now("listed"), Index: x.Index, Path: x.Path, Bytes: x.Length, Offset: x.Offset, Wanted: wanted})
		note := ""
		if !wanted {
			note = "  (left out)"
		}
		a.ui.say("%10s  %s%s", sizeText(x.Length), safe.Escape(strings.Join(x.Path, "/")), note)
	}
}

// cat writes a file of the torrent to standard output while it comes.
func (a *app) cat(ctx context.Context, t *parley.Torrent, file parley.File) error {
	r, err := t.NewReader(file.Index)
	if err != nil {
		return err
	}
	defer r.Close() // it only reads
	buf := make([]byte, 256<<10)
	for {
		n, err := r.ReadContext(ctx, buf)
		if n > 0 {
			a.ui.writeRaw(buf[:n])
			if err := a.ui.failed(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("--cat: %w", err)
		}
	}
}
