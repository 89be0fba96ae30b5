package parley

import (
	"fmt"
	"slices"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/storage"
)

// identity is what a torrent is known by. It does not change; when more becomes known another takes its place.
type identity struct {
	v2 metainfo.InfoHashV2 // zero if none is known
	// names are the info-hashes as they stand in hellos, the one that the torrent was added by first. Each names the torrent and no other.
	names []bt.InfoHash
}

// identityOf returns the identity of a torrent that was added by ih, and goes by others.
func identityOf(ih bt.InfoHash, v2 metainfo.InfoHashV2, others ...bt.InfoHash) *identity {
	id := &identity{v2: v2, names: []bt.InfoHash{ih}}
	if !v2.IsZero() {
		others = append(others, v2.Truncated())
	}
	for _, h := range others {
		if !slices.Contains(id.names, h) {
			id.names = append(id.names, h)
		}
	}
	return id
}

// claim gives t all names of an identity; the caller holds c.mu. [ErrTorrentExists] if another torrent has one of them.
func (c *Client) claim(t *Torrent, id *identity) error {
	for _, h := range id.names {
		if other := c.torrents[h]; other != nil && other != t {
			return fmt.Errorf("%v: %w", h, ErrTorrentExists)
		}
	}
	c.nameTorrent(t, id)
	return nil
}

// nameTorrent makes t known by its names, in plaintext and in obfuscated hellos. The caller holds c.mu.
func (c *Client) nameTorrent(t *Torrent, id *identity) {
	for _, h := range id.names {
		c.torrents[h] = t
		if t.secret == nil {
			c.served.add(veil.Secret(h), h)
		}
	}
	if t.secret != nil {
		c.served.add(*t.secret, t.ih)
	}
	t.id.Store(id)
}

// rename gives t all names of an identity, and has it looked for under them.
func (c *Client) rename(t *Torrent, id *identity) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.claim(t, id); err != nil {
		return err
	}
	if !c.closed && !t.closing {
		t.find.Load().renamed()
	}
	return nil
}

// drop takes all names away from t.
func (c *Client) drop(t *Torrent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range t.id.Load().names {
		if c.torrents[h] == t {
			delete(c.torrents, h)
			if t.secret == nil {
				c.served.remove(veil.Secret(h))
			}
		}
	}
	if t.secret != nil {
		c.served.remove(*t.secret)
	}
	if t.first != nil {
		c.served.removeFirst(*t.first)
		t.first = nil
	}
}

// identified wraps a function that opens storage: before, t takes the names that its metadata gives it. A magnet link may have had only one of the info-hashes of a
// hybrid torrent, and another torrent of the client have the other: then this one stops.
func (t *Torrent) identified(open func(*metainfo.Info) (storage.Storage, error)) func(*metainfo.Info) (storage.Storage, error) {
	return func(info *metainfo.Info) (storage.Storage, error) {
		if info.V2 {
			if err := t.client.rename(t, identityOf(t.ih, info.InfoHashV2(), info.InfoHash())); err != nil {
				return nil, err
			}
		}
		t.client.nameFirst(t, info)
		return open(info)
	}
}

// nameFirst has t found by the hash of its first piece too, unless it is of a closed swarm, or closed meanwhile.
func (c *Client) nameFirst(t *Torrent, info *metainfo.Info) {
	if len(info.PieceHashes) < bt.HashBytes || t.secret != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.first == nil && c.torrents[t.ih] == t {
		t.first = new(info.PieceHash(0))
		c.served.addFirst(*t.first)
	}
}

// describe tells a swarm what is known of its torrent from a .torrent file.
func describe(cfg *swarm.Config, mi *metainfo.MetaInfo) {
	cfg.Info, cfg.Layers = mi.Info, mi.PieceLayers
}

// InfoHashV2 returns the torrent's v2 info-hash (BEP 52); zero if it has none, or none is known yet.
func (t *Torrent) InfoHashV2() metainfo.InfoHashV2 { return t.id.Load().v2 }

// announced returns the hashes under which the torrent is announced: a hybrid torrent has peers that know but one of its two.
func (t *Torrent) announced() []bt.InfoHash { return t.id.Load().names }
