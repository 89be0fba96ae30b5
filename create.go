package parley

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// CreateOptions says how [Create] makes a torrent.
type CreateOptions struct {
	Name       string // empty: the base name of the path
	PieceBytes int64  // 0: chosen by size; else a power of two of at least 16 KiB
	Trackers   []string
	WebSeeds   []string
	Comment    string
	Private    bool
	// Form is which descriptions the torrent has: by default that of BEP 3 alone, which every client knows. A torrent with a v2
	// description (BEP 52) has its files sorted by name, and in hybrid form padding between them.
	Form       metainfo.Form
	CreatedBy  string                // empty: left out, so that the same content makes the same file
	OnProgress func(done, total int) // pieces hashed
}

// Created is what Create made.
type Created struct {
	*metainfo.MetaInfo
	Skipped []string // what below the path was left out, since it is no regular file
}

// Create hashes the file or folder at path and returns its torrent; [metainfo.MetaInfo.Append] writes it.
func Create(ctx context.Context, path string, o CreateOptions) (*Created, error) {
	c, store, err := create(ctx, path, o)
	if err != nil {
		return nil, err
	}
	return c, store.Close()
}

// create makes a torrent and leaves its storage open for seeding.
func create(ctx context.Context, path string, o CreateOptions) (*Created, storage.Storage, error) {
	l, err := storage.Scan(path)
	if err != nil {
		return nil, nil, err
	}
	pieceBytes := o.PieceBytes
	switch {
	case pieceBytes == 0:
		pieceBytes = metainfo.ChoosePieceLength(l.TotalBytes)
	case pieceBytes < metainfo.MinPieceLength || pieceBytes&(pieceBytes-1) != 0:
		return nil, nil, fmt.Errorf("piece length %d: want a power of two of at least %d", pieceBytes, metainfo.MinPieceLength)
	}
	b := metainfo.Builder{Name: o.Name, SingleFile: l.Single, PieceLength: pieceBytes, Private: o.Private, WebSeeds: o.WebSeeds, Comment: o.Comment,
		CreatedBy: o.CreatedBy, Form: o.Form}
	if b.Name == "" {
		b.Name = l.Name
	}
	for _, tr := range o.Trackers {
		b.Announce = append(b.Announce, []string{tr})
	}
	at := make([]storage.File, 0, len(l.Files))
	for _, f := range l.Files {
		mf := metainfo.File{Path: f.Path[1:], Length: f.Length}
		if l.Single {
			mf.Path = f.Path
		}
		b.Files = append(b.Files, mf)
	}
	laid := b.Files
	if o.Form != metainfo.FormV1 {
		metainfo.SortFiles(b.Files)
		laid = metainfo.PadFiles(b.Files, pieceBytes)
	}
	for _, f := range laid {
		sf := storage.File{Path: f.Path, Length: f.Length, Padding: f.Padding}
		if !l.Single {
			sf.Path = append([]string{l.Files[0].Path[0]}, f.Path...)
		}
		at = append(at, sf)
	}
	geom, err := metainfo.GeometryOf(laid, pieceBytes, o.Form != metainfo.FormV1)
	if err != nil {
		return nil, nil, err
	}
	store, err := storage.OpenFiles(l.Dir, at, geom, storage.Options{ReadOnly: true})
	if err != nil {
		return nil, nil, err
	}
	var hashes storage.Hashes = storage.V1Hashes(nil)
	var draft *metainfo.Info
	if o.Form != metainfo.FormV1 {
		draft = &metainfo.Info{PieceLength: pieceBytes, Files: laid, V2: true, Hybrid: o.Form == metainfo.FormHybrid, Geometry: geom}
		hashes = unhashed{draft}
	}
	var sha1s, trees []byte // of the pieces in order
	if o.Form != metainfo.FormV2 {
		sha1s = make([]byte, geom.NumPieces()*bt.HashBytes)
	}
	if o.Form != metainfo.FormV1 {
		trees = make([]byte, geom.NumPieces()*metainfo.TreeHashBytes)
	}
	done := 0
	var bad error
	err = storage.HashPieces(ctx, store, geom, hashes, func(i bt.PieceIndex, sums *storage.Sums, err error) bool {
		if err != nil {
			bad = fmt.Errorf("reading %s: piece %d: %w", path, i, err)
			return false
		}
		if sha1s != nil {
			copy(sha1s[int(i)*bt.HashBytes:], sums.V1[:])
		}
		if trees != nil {
			copy(trees[int(i)*metainfo.TreeHashBytes:], sums.V2[:])
		}
		done++
		if o.OnProgress != nil {
			o.OnProgress(done, geom.NumPieces())
		}
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	b.PieceHashes = sha1s
	for _, f := range laid {
		if trees == nil {
			break
		}
		if !f.Padding {
			n := (f.Length + pieceBytes - 1) / pieceBytes * metainfo.TreeHashBytes
			b.TreeHashes = append(b.TreeHashes, trees[:n:n])
			trees = trees[n:]
		}
	}
	mi, err := b.Build()
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return &Created{mi, l.Skipped}, store, nil
}

// unhashed are the hashes that pieces of a torrent with a v2 description will have.
type unhashed struct{ info *metainfo.Info }

func (u unhashed) NumPieces() int                          { return u.info.Geometry.NumPieces() }
func (u unhashed) Piece(i bt.PieceIndex) storage.PieceHash { return storage.PlanOf(u.info, i) }

// Share hashes the file or folder at path and seeds it from where it lies; its files are never written to. It returns when the
// hashing is done.
func (c *Client) Share(ctx context.Context, path string, o TorrentOptions) (*Torrent, error) {
	made, store, err := create(ctx, path, CreateOptions{OnProgress: o.OnVerify})
	if err != nil {
		return nil, err
	}
	if o.OnSkip != nil {
		for _, s := range made.Skipped {
			o.OnSkip(s)
		}
	}
	return c.addComplete(made.MetaInfo, store, o)
}

// addComplete adds a torrent whose content has been checked.
func (c *Client) addComplete(mi *metainfo.MetaInfo, store storage.Storage, o TorrentOptions) (*Torrent, error) {
	opened := false
	o.Storage = func(*metainfo.Info) (storage.Storage, error) {
		if files, ok := store.(*storage.Files); ok && opened { // Retry
			return files.OpenAgain()
		}
		opened = true
		return store, nil
	}
	t, err := c.add(mi.InfoHash, mi.InfoHashV2, o, func(t *Torrent, cfg *swarm.Config) {
		t.mi.Store(mi)
		describe(cfg, mi)
		cfg.Complete = true
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return t, nil
}

// SeedTorrent seeds a torrent whose complete content lies at path (the file, or the folder with the torrent's content).
// Its files are never written to; missing or different content is an error that names the file.
func (c *Client) SeedTorrent(ctx context.Context, mi *metainfo.MetaInfo, path string, o TorrentOptions) (*Torrent, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	paths, err := contentPaths(mi.Info, abs)
	if err != nil {
		return nil, err
	}
	store, err := storage.OpenFiles(filepath.Dir(abs), filesOf(mi.Info, paths), mi.Info.Geometry, storage.Options{ReadOnly: true, InfoHash: mi.InfoHash, State: c.state})
	if err != nil {
		return nil, err
	}
	have, err := storage.ResumePieces(ctx, store, mi.Info.Geometry, storage.HashesOf(mi), o.OnVerify)
	if err == nil && !have.Full() {
		err = differs(mi.Info, paths, have.Has, filepath.Dir(abs))
	}
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return c.addComplete(mi, store, o)
}

// ErrContentDiffers: what lies at the path is not the torrent's content.
var ErrContentDiffers = errors.New("parley: content differs from the torrent")

// differs names the first file that holds a piece that failed.
func differs(info *metainfo.Info, paths [][]string, has func(int) bool, dir string) error {
	for i := range info.NumPieces() {
		if has(i) {
			continue
		}
		at := info.Geometry.PieceStart(bt.PieceIndex(i))
		for n, f := range info.Files {
			if at < f.Offset+f.Length && !f.Padding {
				return fmt.Errorf("%s: %w (piece %d)", filepath.Join(append([]string{dir}, paths[n]...)...), ErrContentDiffers, i)
			}
		}
	}
	return ErrContentDiffers
}

// contentPaths maps a torrent's files to those at root. Names are taken as they stand in the torrent where a file of that name is there, since
// whoever made the torrent had it, else in their safe form, which is how a download stores them.
func contentPaths(info *metainfo.Info, root string) ([][]string, error) {
	safe, err := metainfo.SafePaths(info)
	if err != nil {
		return nil, err
	}
	base := filepath.Base(root)
	for i, f := range info.Files {
		safe[i][0] = base
		if info.SingleFile || f.Padding {
			continue
		}
		raw := filepath.Join(f.Path...)
		if !filepath.IsLocal(raw) || len(filepath.SplitList(raw)) > 1 {
			continue
		}
		if st, err := os.Lstat(filepath.Join(root, raw)); err == nil && st.Mode().IsRegular() && st.Size() == f.Length {
			safe[i] = append([]string{base}, f.Path...)
		}
	}
	return safe, nil
}

// LoadTorrent reads a .torrent file, whichever descriptions it has: see [metainfo.ParseV2].
func LoadTorrent(path string) (*metainfo.MetaInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("is a folder, not a .torrent file")}
	}
	b, err := io.ReadAll(io.LimitReader(f, metainfo.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > metainfo.MaxBytes {
		return nil, fmt.Errorf("%s: more than %d bytes, too large for a .torrent file", path, metainfo.MaxBytes)
	}
	mi, err := metainfo.ParseV2(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return mi, nil
}
