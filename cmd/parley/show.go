package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
)

type torrentEvent struct {
	head
	InfoHash     string      `json:"info_hash"`
	Name         string      `json:"name"`
	TotalBytes   int64       `json:"total_bytes"`
	PieceBytes   int64       `json:"piece_bytes"`
	Pieces       int         `json:"pieces"`
	SingleFile   bool        `json:"single_file"`
	Private      bool        `json:"private"`
	Hybrid       bool        `json:"hybrid"`
	Trackers     [][]string  `json:"trackers"`
	WebSeeds     []string    `json:"web_seeds"`
	Comment      string      `json:"comment,omitempty"`
	CreatedBy    string      `json:"created_by,omitempty"`
	CreationDate *time.Time  `json:"creation_date,omitempty"`
	Magnet       string      `json:"magnet"`
	Files        []fileEntry `json:"files"`
}

type fileEntry struct {
	Path    []string `json:"path"`
	Bytes   int64    `json:"bytes"`
	Padding bool     `json:"padding,omitempty"`
}

type magnetEvent struct {
	head
	InfoHash   string   `json:"info_hash"`
	Name       string   `json:"name"`
	TotalBytes int64    `json:"total_bytes,omitempty"`
	Trackers   []string `json:"trackers"`
	Peers      []string `json:"peers"`
	WebSeeds   []string `json:"web_seeds"`
	Magnet     string   `json:"magnet"`
}

func (a *app) showCmd() *cobra.Command {
	scrape := false
	cmd := &cobra.Command{
		Use:     "show TORRENT|MAGNET",
		Short:   "Print what a .torrent or magnet link says",
		Long:    "Print what a .torrent file or a magnet link says: info-hash, files, sizes, trackers. Nothing is asked of the\nnetwork, but for --scrape.",
		Example: "  parley show holiday.torrent\n  parley show 'magnet:?xt=urn:btih:…'",
		Args:    wants(1, "a .torrent file or a magnet link"),
		RunE: a.runs(func(ctx context.Context, args []string) error {
			if err := a.net.check(); err != nil {
				return err
			}
			s, err := parseSource(args[0], true)
			if err != nil {
				return err
			}
			switch s.kind {
			case sourceTorrent:
				a.showTorrent(s.torrent)
				if scrape {
					return a.scrape(ctx, s.hash, s.torrent.Announce)
				}
			case sourceMagnet:
				a.showMagnet(s.magnet)
				if scrape {
					return a.scrape(ctx, s.hash, [][]string{s.magnet.Trackers})
				}
			case sourceHash:
				return failf(exitUsage, "parley get fetches what it stands for", "%s: an info-hash says nothing by itself", args[0])
			case sourceContent:
				return failf(exitInput, "name a .torrent file; parley create makes one of a folder", "%s: is a folder, not a .torrent file", args[0])
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&scrape, "scrape", false, "ask the trackers how many peers there are")
	cmd.Flags().StringArrayVar(&a.net.find.trackers, "tracker", nil, "with --scrape: ask the tracker at `URL` too; may be repeated")
	cmd.Flags().StringArrayVar(&a.net.allow, "allow-network", nil, "with --scrape: ask trackers in the network `CIDR` too, such as 10.0.0.0/8, that a torrent or link names")
	noFiles(cmd, "tracker", "allow-network")
	return cmd
}

func (a *app) showTorrent(mi *metainfo.MetaInfo) {
	info, magnet := mi.Info, mi.Magnet().String()
	var created *time.Time
	// Years beyond four digits have no RFC 3339 form.
	if t := time.Unix(mi.CreationDate, 0).UTC(); mi.CreationDate != 0 && 0 <= t.Year() && t.Year() <= 9999 {
		created = &t
	}
	if a.ui.json {
		files := make([]fileEntry, len(info.Files))
		for i, f := range info.Files {
			files[i] = fileEntry{f.Path, f.Length, f.Padding}
		}
		a.ui.emit(torrentEvent{
			head: now("torrent"), InfoHash: mi.InfoHash.String(), Name: info.Name, TotalBytes: info.Geometry.TotalBytes, PieceBytes: info.PieceLength,
			Pieces: info.NumPieces(), SingleFile: info.SingleFile, Private: info.Private, Hybrid: info.Hybrid, Trackers: orEmpty(mi.Announce),
			WebSeeds: orEmpty(mi.WebSeeds), Comment: mi.Comment, CreatedBy: mi.CreatedBy, CreationDate: created, Magnet: magnet, Files: files,
		})
		return
	}
	a.ui.say("name:       %s", safe.Escape(info.Name))
	a.ui.say("info-hash:  %s", mi.InfoHash)
	a.ui.say("size:       %s", exactSize(info.Geometry.TotalBytes))
	a.ui.say("pieces:     %d of %s", info.NumPieces(), exactSize(info.PieceLength))
	if info.Private {
		a.ui.say("private:    yes: peers may come from its trackers only")
	}
	if info.Hybrid {
		a.ui.say("hybrid:     yes: has a v2 description too, which is not used; it is read as v1")
	}
	for i, tier := range mi.Announce {
		a.ui.say("tracker:    %s", safe.Escape(strings.Join(tier, ", "))+tierNote(i, len(mi.Announce)))
	}
	for _, u := range mi.WebSeeds {
		a.ui.say("web seed:   %s", safe.Escape(u))
	}
	if created != nil {
		a.ui.say("created:    %s", created.Format(time.RFC3339))
	}
	if mi.CreatedBy != "" {
		a.ui.say("created by: %s", safe.Escape(mi.CreatedBy))
	}
	if mi.Comment != "" {
		a.ui.say("comment:    %s", safe.Escape(mi.Comment))
	}
	a.ui.say("magnet:     %s", safe.Escape(magnet))
	if info.SingleFile {
		a.ui.say("file:       %s", safe.Escape(info.Name))
		return
	}
	a.ui.say("files:      %d", len(info.Files))
	a.printTree(info)
}

func tierNote(i, tiers int) string {
	if tiers < 2 || i == 0 {
		return ""
	}
	return "  (backup)"
}

// treeDepth bounds how far the tree is indented: deeper paths go on one line, or a hostile torrent could print without end.
const treeDepth = 16

// printTree prints the files in the torrent's order, each folder once above its first file.
func (a *app) printTree(info *metainfo.Info) {
	a.ui.say("  %s/", safe.Escape(info.Name))
	var above []string // the folders of the line before
	for _, f := range info.Files {
		dirs, name := f.Path[:len(f.Path)-1], f.Path[len(f.Path)-1]
		if len(dirs) > treeDepth {
			name = strings.Join(f.Path[treeDepth:], "/")
			dirs = dirs[:treeDepth]
		}
		same := 0
		for same < len(dirs) && same < len(above) && dirs[same] == above[same] {
			same++
		}
		for i := same; i < len(dirs); i++ {
			a.ui.say("  %s%s/", strings.Repeat("  ", i+1), safe.Escape(dirs[i]))
		}
		above = dirs
		note := ""
		if f.Padding {
			note = "  (padding, not stored)"
		}
		a.ui.say("  %s%s  %s%s", strings.Repeat("  ", len(dirs)+1), safe.Escape(name), sizeText(f.Length), note)
	}
}

func (a *app) showMagnet(m metainfo.Magnet) {
	magnet := m.String()
	a.ui.event(magnetEvent{
		head: now("magnet"), InfoHash: m.InfoHash.String(), Name: m.Name, TotalBytes: m.ExactLength,
		Trackers: orEmpty(m.Trackers), Peers: orEmpty(m.Peers), WebSeeds: orEmpty(m.WebSeeds), Magnet: magnet,
	})
	if m.Name != "" {
		a.ui.say("name:       %s", safe.Escape(m.Name))
	}
	a.ui.say("info-hash:  %s", m.InfoHash)
	if m.ExactLength > 0 {
		a.ui.say("size:       %s", exactSize(m.ExactLength))
	}
	for _, u := range m.Trackers {
		a.ui.say("tracker:    %s", safe.Escape(u))
	}
	for _, p := range m.Peers {
		a.ui.say("peer:       %s", safe.Escape(p))
	}
	for _, u := range m.WebSeeds {
		a.ui.say("web seed:   %s", safe.Escape(u))
	}
	a.ui.say("magnet:     %s", safe.Escape(magnet))
}

// orEmpty makes JSON print [] rather than null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
