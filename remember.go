package parley

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/parley-bt/parley/metainfo"
)

// Torrents that were added by their link have their metadata, and the piece layers of a v2 description, in the folder of Config.StateDir once they are known, so that the
// next start needs no peer for that. The file is a .torrent, whose name is the info-hash of the link. Nothing of it is believed but what its hashes prove.

// rememberedName returns the name of a torrent's file in Config.StateDir.
func rememberedName(m metainfo.Magnet) string { return m.InfoHash.String() + ".parley-torrent" }

// remembered returns the metadata of a link that an earlier start has left, with the trackers and web seeds of the link; nil if there is none.
func (c *Client) remembered(m metainfo.Magnet) *metainfo.MetaInfo {
	if c.state == nil {
		return nil
	}
	mi, err := readRemembered(c.state, m)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.cfg.Logger.Warn("remembered metadata are not used", "infohash", m.InfoHash.String(), "error", err)
		}
		return nil
	}
	return mi
}

func readRemembered(state *os.Root, m metainfo.Magnet) (*metainfo.MetaInfo, error) {
	f, err := state.Open(rememberedName(m))
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s: no regular file", f.Name()))
	}
	b, err := io.ReadAll(io.LimitReader(f, metainfo.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > metainfo.MaxBytes {
		return nil, fmt.Errorf("%s: more than %d bytes", f.Name(), metainfo.MaxBytes)
	}
	mi, err := metainfo.ParseV2(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if mi.InfoHash != m.InfoHash && mi.InfoHashV2.Truncated() != m.InfoHash || !m.InfoHashV2.IsZero() && mi.InfoHashV2 != m.InfoHashV2 {
		return nil, fmt.Errorf("%s: of another torrent", f.Name())
	}
	mi.Announce, mi.WebSeeds = nil, m.WebSeeds
	for _, u := range m.Trackers {
		mi.Announce = append(mi.Announce, []string{u})
	}
	return mi, nil
}

// rememberMetainfo waits for the torrent's metadata and keeps them. It ends with the torrent.
func (t *Torrent) rememberMetainfo() {
	mi, err := t.WaitMetainfo(context.Background()) // ends with the torrent
	if err != nil || mi == nil {
		return
	}
	if err := writeRemembered(t.client.state, rememberedName(t.magnet), mi.Append(nil)); err != nil {
		t.client.cfg.Logger.Warn("metadata are not remembered", "infohash", t.ih.String(), "error", err)
	}
}

// writeRemembered writes a file as a whole, or not at all.
func writeRemembered(state *os.Root, name string, b []byte) error {
	if len(b) > metainfo.MaxBytes {
		return fmt.Errorf("%d bytes, want at most %d", len(b), metainfo.MaxBytes)
	}
	tmp := name + ".new"
	if err := state.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := state.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = state.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, state.Remove(tmp))
	}
	return nil
}
