package main

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parley-bt/parley"
)

// The .torrent of a link is that of its maker, with the piece layers of the v2 forms; it is written while or without the content, and replaces nothing.
func TestSaveTorrent(t *testing.T) {
	for _, form := range []string{"", "--v2", "--hybrid"} {
		t.Run("form "+form, func(t *testing.T) {
			dir := t.TempDir()
			made := filepath.Join(dir, "made.torrent")
			src := content(t, dir)
			args := []string{"create", src, "-o", made, "--piece-length", "16K", "--tracker", "http://127.0.0.1:1/announce"}
			if form != "" {
				args = append(args, form)
			}
			cli(t, args...).check(t, exitOK)
			want, err := parley.LoadTorrent(made)
			if err != nil {
				t.Fatal(err)
			}
			_, _, addr := seedOf(t, made, "--no-trackers")
			magnet := want.Magnet().String()
			for _, how := range []string{"--list", "--file=one", "--sequential"} {
				dst, file := t.TempDir(), filepath.Join(t.TempDir(), "saved.torrent")
				r := cli(t, "get", magnet, "--peer", addr, "-o", dst, how, "--save-torrent", file, "--json")
				r.check(t, exitOK)
				if e := find(t, jsonLines(t, r.out), "torrent_saved"); e["path"] != file || e["info_hash"] != want.InfoHash.String() {
					t.Errorf("%v", e)
				}
				got, err := parley.LoadTorrent(file)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Info.Bytes, want.Info.Bytes) || !slices.EqualFunc(got.Announce, want.Announce, slices.Equal) || !maps.EqualFunc(got.PieceLayers, want.PieceLayers, bytes.Equal) {
					t.Errorf("%s: another torrent was saved: %+v", how, got)
				}
				if there := names(t, filepath.Dir(file)); len(there) != 1 {
					t.Errorf("beside it: %q", there)
				}
				kept := read(t, file)
				cli(t, "get", magnet, "--peer", addr, "-o", dst, "--save-torrent", file).check(t, exitStorage, file+": exists already", "choose another name with --save-torrent")
				if read(t, file) != kept {
					t.Error("it was replaced")
				}
				if how == "--sequential" {
					cli(t, "get", file, "-o", dst).check(t, exitOK, "complete already")
				}
			}
		})
	}
	dir := t.TempDir()
	write(t, dir, "x", "1")
	torrent := filepath.Join(dir, "x.torrent")
	cli(t, "create", filepath.Join(dir, "x"), "-o", torrent).check(t, exitOK)
	cli(t, "get", torrent, "--save-torrent", filepath.Join(dir, "y")).check(t, exitUsage, "is a .torrent file already")
	cli(t, "get", someHash, "--listen", loopback, "--save-torrent", dir).check(t, exitStorage, "is a folder", "--save-torrent")
	cli(t, "get", someHash, "--listen", loopback, "--save-torrent", filepath.Join(dir, "none", "y")).check(t, exitStorage, "create the folder first, or choose another place with --save-torrent")
	if there := names(t, dir); strings.Join(there, " ") != "x x.torrent" {
		t.Errorf("left behind: %q", there)
	}
}
