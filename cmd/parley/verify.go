package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

type fileEvent struct {
	head
	Path          string `json:"path"`
	Bytes         int64  `json:"bytes"`
	State         string `json:"state"`
	Pieces        int    `json:"pieces"`
	BadPieces     int    `json:"bad_pieces"`
	UnknownPieces int    `json:"unknown_pieces,omitempty"`
	Error         string `json:"error,omitempty"`
}

type checkedEvent struct {
	head
	InfoHash string `json:"info_hash"`
	Files    int    `json:"files"`
	OK       int    `json:"ok"`
	Partial  int    `json:"partial"`
	Missing  int    `json:"missing"`
	Damaged  int    `json:"damaged"`
}

func (a *app) verifyCmd() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "verify TORRENT [-d PATH]",
		Short: "Check the content of a .torrent",
		Long: `Hash what there is of a torrent's content and say of each file whether it is ok, missing, damaged, or partial: left by a download that
is not complete. The content is looked for beside the .torrent file, or at --data. Nothing is changed. The exit code is 0 if
everything is ok, and otherwise 4.`,
		Example: "  parley verify holiday.torrent -d ~/pictures",
		Args:    wants(1, "a .torrent file"),
		RunE:    a.runs(func(ctx context.Context, args []string) error { return a.verify(ctx, args[0], data) }),
	}
	cmd.Flags().StringVarP(&data, "data", "d", "", "`PATH` of the content, or of the folder that holds it")
	return cmd
}

func (a *app) verify(ctx context.Context, arg, data string) error {
	mi, err := loadTorrent(arg)
	if err != nil {
		return err
	}
	info := mi.Info
	dir, base, err := contentAt(info, arg, data)
	if err != nil {
		return err
	}
	files, err := filesAt(info, dir, base)
	if err != nil {
		return err
	}
	m, onHash := a.ui.hashing("verifying", true)
	reports, err := storage.Inspect(ctx, dir, files, info.Geometry, storage.HashesOf(mi), onHash)
	m.end()
	if err != nil {
		if ctx.Err() != nil {
			return interrupted(ctx, ctx.Err(), "not everything was verified")
		}
		return inputError(err)
	}
	sum := checkedEvent{head: now("checked"), InfoHash: mi.InfoHash.String(), Files: len(reports)}
	for _, r := range reports {
		a.fileReport(r)
		switch r.State {
		case storage.FileOK:
			sum.OK++
		case storage.FilePartial:
			sum.Partial++
		case storage.FileMissing:
			sum.Missing++
		default:
			sum.Damaged++
		}
	}
	a.ui.event(sum)
	if sum.OK == sum.Files {
		a.ui.say("all %s ok, %s", plural(sum.Files, "file"), sizeText(info.Geometry.ContentBytes()))
		return nil
	}
	hint := "parley get fetches what is missing"
	if sum.Damaged > 0 {
		hint = "move the damaged files away, and parley get fetches them again: it never changes a file that has its name"
	}
	return failf(exitTorrent, hint, "%d of %s ok: %d partial, %d missing, %d damaged", sum.OK, plural(sum.Files, "file"), sum.Partial, sum.Missing, sum.Damaged)
}

// fileReport prints what was found of one file.
func (a *app) fileReport(r storage.FileReport) {
	e := fileEvent{head: now("file"), Path: r.Path, Bytes: r.Length, State: r.State.String(), Pieces: r.Pieces, BadPieces: r.Bad, UnknownPieces: r.Unknown}
	if r.Err != nil {
		e.Error = describe(r.Err)
	}
	a.ui.event(e)
	path := safe.Escape(r.Path)
	switch {
	case r.State == storage.FileOK && r.Unknown > 0:
		a.ui.say("ok       %s  (but for %s shared with a file that is not whole)", path, plural(r.Unknown, "piece"))
	case r.State == storage.FileOK, r.State == storage.FileMissing:
		a.ui.say("%-8s %s", r.State, path)
	case r.State == storage.FilePartial:
		a.ui.say("%-8s %s  %d of %s there", r.State, path, r.Pieces-r.Bad-r.Unknown, plural(r.Pieces, "piece"))
	default:
		why := ""
		if r.Err != nil {
			why = ": " + safe.Escape(describe(r.Err))
		}
		a.ui.say("%-8s %s  %d of %s wrong%s", r.State, path, r.Bad, plural(r.Pieces, "piece"), why)
	}
}

// contentAt finds the folder that holds the content of a torrent, and its name there. The content itself need not be there.
func contentAt(info *metainfo.Info, torrent, data string) (dir, base string, err error) {
	name, err := metainfo.SafePath([]string{info.Name})
	if err != nil {
		return "", "", err
	}
	base = name[0]
	if data == "" {
		return filepath.Dir(torrent), base, nil
	}
	fi, err := os.Stat(data)
	if err != nil {
		return "", "", inputError(err)
	}
	below, err := os.Lstat(filepath.Join(data, base))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && fi.IsDir() {
		return "", "", inputError(err)
	}
	switch {
	case !fi.IsDir() && !info.SingleFile:
		return "", "", failf(exitInput, "--data wants the folder with the torrent's content", "%s: is no folder", data)
	case fi.IsDir() && (info.SingleFile || err == nil && below.IsDir()):
		return data, base, nil // the folder that holds it
	}
	abs, err := filepath.Abs(data)
	if err != nil {
		return "", "", inputError(err)
	}
	return filepath.Dir(abs), filepath.Base(abs), nil // the content itself, under whatever name
}

// filesAt lists a torrent's files as they are called in dir, the content as a whole being called base: as parley get stores them,
// or as they stand in the torrent if a file of that name is there, since whoever made the torrent had it.
func filesAt(info *metainfo.Info, dir, base string) ([]storage.File, error) {
	paths, err := metainfo.SafePaths(info)
	if err != nil {
		return nil, err
	}
	files := make([]storage.File, len(info.Files))
	for i, f := range info.Files {
		path := paths[i]
		path[0] = base
		if raw := filepath.Join(f.Path...); !info.SingleFile && !f.Padding && filepath.IsLocal(raw) {
			if fi, err := os.Lstat(filepath.Join(dir, base, raw)); err == nil && fi.Mode().IsRegular() {
				path = append([]string{base}, f.Path...)
			}
		}
		files[i] = storage.File{Path: path, Length: f.Length, Padding: f.Padding}
	}
	return files, nil
}
