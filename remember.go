package parley

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

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
	name := rememberedName(m)
	b, err := readState(state, name, metainfo.MaxBytes)
	if err != nil {
		return nil, err
	}
	mi, err := metainfo.ParseV2(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if mi.InfoHash != m.InfoHash && mi.InfoHashV2.Truncated() != m.InfoHash || !m.InfoHashV2.IsZero() && mi.InfoHashV2 != m.InfoHashV2 {
		return nil, fmt.Errorf("%s: of another torrent", name)
	}
	mi.Announce, mi.WebSeeds = nil, m.WebSeeds
	for _, u := range m.Trackers {
		mi.Announce = append(mi.Announce, []string{u})
	}
	return mi, nil
}

// readState reads a file of at most so many bytes.
func readState(state *os.Root, name string, most int64) ([]byte, error) {
	if st, err := state.Lstat(name); err != nil || !st.Mode().IsRegular() { // a pipe would have us wait
		return nil, cmp.Or(err, fmt.Errorf("%s: no regular file", name))
	}
	f, err := state.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: more than %d bytes", name, most)
	}
	return b, err
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

// Nodes of the DHT to begin with, one address a line. They are no more than a hint: who does not answer is forgotten.
const (
	nodesName = "dht-nodes"
	maxNodes  = 32 // asked at once when the client starts
)

// rememberNodes keeps nodes of the DHT for the next start.
func (c *Client) rememberNodes() {
	n, ok := c.cfg.DHT.(DHTNode)
	if !ok || c.state == nil {
		return
	}
	nodes := n.Nodes()
	if len(nodes) == 0 {
		return // those that were known before may be better than none
	}
	var b []byte
	for _, a := range nodes[:min(len(nodes), maxNodes)] {
		b = append(a.AppendTo(b), '\n')
	}
	if err := writeRemembered(c.state, nodesName, b); err != nil {
		c.cfg.Logger.Warn("nodes of the DHT are not remembered", "error", err)
	}
}

// recallNodes has the nodes asked that were known the last time.
func (c *Client) recallNodes() {
	n, ok := c.cfg.DHT.(DHTNode)
	if !ok || c.state == nil {
		return
	}
	b, err := readState(c.state, nodesName, maxNodes*64)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.cfg.Logger.Warn("remembered nodes of the DHT are not used", "error", err)
		}
		return
	}
	var nodes []netip.AddrPort
	for line := range strings.Lines(string(b)) {
		if a, err := netip.ParseAddrPort(strings.TrimSpace(line)); err == nil && len(nodes) < maxNodes {
			nodes = append(nodes, a)
		}
	}
	n.AddNodes(nodes...)
}
