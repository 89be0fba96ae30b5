package main

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley/bt"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
)

type torrentEvent struct {
	head
	InfoHash     string      `json:"info_hash"`
	InfoHashV2   string      `json:"info_hash_v2,omitempty"`
	Form         string      `json:"form"` // v1, v2 or hybrid
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
	Root    string   `json:"pieces_root,omitempty"` // of the file's hash tree (BEP 52)
}

type magnetEvent struct {
	head
	InfoHash   string   `json:"info_hash"`
	InfoHashV2 string   `json:"info_hash_v2,omitempty"`
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
			if !scrape && len(a.net.find.trackers)+len(a.net.allow) > 0 {
				return failf(exitUsage, "add --scrape, or leave them out", "--tracker and --allow-network are for --scrape")
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
		files := make([]fileEntry, 0, len(info.Files))
		for i := range info.Files {
			if f := &info.Files[i]; !isVirtual(info, f) {
				files = append(files, fileEntry{f.Path, f.Length, f.Padding, rootText(f)})
			}
		}
		a.ui.emit(torrentEvent{
			head: now("torrent"), InfoHash: mi.InfoHash.String(), InfoHashV2: hashText(mi.InfoHashV2), Form: formOf(info).String(), Name: info.Name, TotalBytes: info.Geometry.ContentBytes(), PieceBytes: info.PieceLength,
			Pieces: info.NumPieces(), SingleFile: info.SingleFile, Private: info.Private, Hybrid: info.Hybrid, Trackers: orEmpty(mi.Announce),
			WebSeeds: orEmpty(mi.WebSeeds), Comment: mi.Comment, CreatedBy: mi.CreatedBy, CreationDate: created, Magnet: magnet, Files: files,
		})
		return
	}
	a.ui.say("name:       %s", safe.Escape(info.Name))
	a.sayHashes("%-11s %s", mi.InfoHash, mi.InfoHashV2)
	a.ui.say("size:       %s", exactSize(info.Geometry.ContentBytes()))
	a.ui.say("pieces:     %d of %s", info.NumPieces(), exactSize(info.PieceLength))
	if info.Private {
		a.ui.say("private:    yes: peers may come from its trackers only")
	}
	switch formOf(info) {
	case metainfo.FormV2:
		a.ui.say("form:       v2: for clients that know BEP 52")
	case metainfo.FormHybrid:
		a.ui.say("form:       hybrid: v1 and v2 in one")
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
		a.ui.say("file:       %s%s", safe.Escape(info.Name), rootNote(&info.Files[0]))
		return
	}
	a.ui.say("files:      %d", countFiles(info))
	a.printTree(info)
}

// formOf returns which descriptions of itself a torrent has.
func formOf(info *metainfo.Info) metainfo.Form {
	switch {
	case info.V2Only():
		return metainfo.FormV2
	case info.Hybrid:
		return metainfo.FormHybrid
	}
	return metainfo.FormV1
}

// isVirtual reports whether a file is padding that stands in no torrent: it is how the files of a v2 torrent lie.
func isVirtual(info *metainfo.Info, f *metainfo.File) bool { return f.Padding && info.V2Only() }

// countFiles returns how many files a torrent has, not counting padding, which is no one's file.
func countFiles(info *metainfo.Info) (n int) {
	for i := range info.Files {
		if !info.Files[i].Padding {
			n++
		}
	}
	return n
}

// hashText writes a v2 info-hash, nothing if there is none.
func hashText(h metainfo.InfoHashV2) string {
	if h.IsZero() {
		return ""
	}
	return h.String()
}

// sayHashes prints the info-hashes that a torrent has; format takes a title and a hash.
func (a *app) sayHashes(format string, h bt.InfoHash, v2 metainfo.InfoHashV2) {
	switch {
	case v2.IsZero():
		a.ui.say(format, "info-hash:", h)
	case h == v2.Truncated():
		a.ui.say(format, "info-hash:", v2)
	default:
		a.ui.say(format, "info-hash:", h)
		a.ui.say(format, "in v2:", v2)
	}
}

// rootText writes the root of a file's hash tree, nothing if it has none.
func rootText(f *metainfo.File) string {
	if f.PiecesRoot == [metainfo.TreeHashBytes]byte{} {
		return ""
	}
	return hex.EncodeToString(f.PiecesRoot[:])
}

// rootNote is how the root of a file's hash tree stands behind the file.
func rootNote(f *metainfo.File) string {
	if root := rootText(f); root != "" {
		return "  tree " + root
	}
	return ""
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
		if isVirtual(info, &f) {
			continue
		}
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
		note := rootNote(&f)
		if f.Padding {
			note = "  (padding, not stored)"
		}
		a.ui.say("  %s%s  %s%s", strings.Repeat("  ", len(dirs)+1), safe.Escape(name), sizeText(f.Length), note)
	}
}

func (a *app) showMagnet(m metainfo.Magnet) {
	magnet := m.String()
	a.ui.event(magnetEvent{
		head: now("magnet"), InfoHash: m.InfoHash.String(), InfoHashV2: hashText(m.InfoHashV2), Name: m.Name, TotalBytes: m.ExactLength,
		Trackers: orEmpty(m.Trackers), Peers: orEmpty(m.Peers), WebSeeds: orEmpty(m.WebSeeds), Magnet: magnet,
	})
	if m.Name != "" {
		a.ui.say("name:       %s", safe.Escape(m.Name))
	}
	a.sayHashes("%-11s %s", m.InfoHash, m.InfoHashV2)
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
