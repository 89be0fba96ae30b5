package swarm

import (
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire/ltep"
)

// Bounds of fetching metadata (BEP 9).
const (
	metaFetches  = 3                // peers that are asked at once, each for all of it, so that blame is certain
	metaWindow   = 8                // pieces asked of one peer at once
	metaPatience = 15 * time.Second // without a piece before another peer is asked
	metaFirst    = 5 * time.Second  // likewise for the first piece: strangers who offer and keep silent cost as little as that
	metaShare    = 30 * time.Second // for all of it, while somebody offers it who was not asked yet
	metaAgain    = 5 * time.Second  // before a peer that refused is asked again: it may have been busy, and there may be nobody else
)

// metadataState is how far the torrent has come with fetching its metadata.
type metadataState struct{ fetching int }

// metadataFetch is one peer being asked for the metadata. Memory is taken as pieces arrive, in order.
type metadataFetch struct {
	size    int
	data    []byte
	asked   int // pieces asked for
	began   time.Time
	last    time.Time
	refused bool // it rejected, was slow, or sent nonsense: not asked again
	active  bool
}

// wantsMetadata reports whether the metadata has to come from peers.
func (t *Torrent) wantsMetadata() bool {
	return t.state == StateMetadata && t.info == nil && t.err == nil && !t.closing
}

// offerMetadata begins to ask a peer for the metadata if it offers it and not enough others are asked.
func (t *Torrent) offerMetadata(p *Peer) {
	if !t.wantsMetadata() || t.meta.fetching >= metaFetches || !p.offersMetadata() {
		return
	}
	now := t.cfg.Now()
	p.meta = &metadataFetch{size: int(p.exchange.MetadataSize), active: true, began: now, last: now}
	t.meta.fetching++
	t.askMetadata(p)
}

// offersMetadata reports whether a peer could be asked for the metadata.
func (p *Peer) offersMetadata() bool {
	size := p.exchange.MetadataSize
	return p.meta == nil && size >= 1 && size <= ltep.MaxMetadataBytes && p.accepts(ltep.NameMetadata)
}

// askMetadata keeps the window of a fetch full.
func (t *Torrent) askMetadata(p *Peer) {
	f := p.meta
	pieces := (f.size + ltep.MetadataPieceBytes - 1) / ltep.MetadataPieceBytes
	have := len(f.data) / ltep.MetadataPieceBytes
	p.conn.Do(func(m *peer.Machine) {
		for f.asked < pieces && f.asked < have+metaWindow {
			if m.SendMetadata(ltep.Metadata{Type: ltep.MetadataRequest, Piece: uint32(f.asked)}) != nil {
				return // withdrawn, or over: tickMetadata finds another peer
			}
			f.asked++
		}
	})
}

// peerMetadata handles a piece of metadata, or a peer's refusal to give one.
func (t *Torrent) peerMetadata(p *Peer, now time.Time, md *ltep.Metadata) {
	f := p.meta
	if f == nil || !f.active || !t.wantsMetadata() {
		return
	}
	if md.Type == ltep.MetadataReject {
		t.refuseMetadata(p)
		return
	}
	at := int(md.Piece) * ltep.MetadataPieceBytes
	want := min(ltep.MetadataPieceBytes, f.size-at)
	if at != len(f.data) || len(md.Data) != want {
		t.refuseMetadata(p) // not what was asked for, or out of order: another peer may do better
		return
	}
	f.data, f.last = append(f.data, md.Data...), now
	if len(f.data) < f.size {
		t.askMetadata(p)
		return
	}
	right, err := t.checkMetadata(f.data)
	if err != nil {
		t.fail(fmt.Errorf("metadata: %w", err))
		return
	}
	if !right {
		t.refuseMetadata(p)
		t.convict(p.from(), fmt.Errorf("%w: %d bytes", peer.ErrCorruptMetadata, f.size))
		return
	}
	info, err := metainfo.ParseInfoV2(f.data)
	if err != nil {
		// The hash is right, so this is the torrent, and no peer has a better one.
		t.fail(fmt.Errorf("metadata: %w", err))
		return
	}
	for q := range t.peers {
		q.meta = nil
	}
	t.gotInfo(info, nil)
	t.notify(Event{Kind: EventMetadata})
}

// errTwoTorrents stops a torrent that was named by two info-hashes of which only one is that of the metadata.
var errTwoTorrents = errors.New("the v1 and v2 info-hashes that name this torrent belong to two")

// checkMetadata reports whether an info dictionary is the torrent's, by all info-hashes that are known.
func (t *Torrent) checkMetadata(data []byte) (right bool, err error) {
	v1, v2 := t.cfg.InfoHash, t.cfg.InfoHashV2
	if v2.IsZero() {
		return sha1.Sum(data) == v1, nil
	}
	rightV2 := sha256.Sum256(data) == v2
	if v1 == v2.Truncated() {
		return rightV2, nil
	}
	if rightV1 := sha1.Sum(data) == v1; rightV1 != rightV2 {
		return false, errTwoTorrents // nobody but who made the link is to blame
	}
	return rightV2, nil
}

// refuseMetadata gives a peer up as a source of metadata.
func (t *Torrent) refuseMetadata(p *Peer) {
	p.meta.active, p.meta.refused, p.meta.data, p.meta.last = false, true, nil, t.cfg.Now()
	p.metaFailed = true
	t.meta.fetching--
	t.nextMetadata()
}

// dropMetadata forgets a peer's fetch because its session has ended.
func (t *Torrent) dropMetadata(p *Peer) {
	if p.meta != nil && p.meta.active && t.wantsMetadata() {
		p.meta.active = false
		t.meta.fetching--
		t.nextMetadata()
	}
	p.meta = nil
}

// nextMetadata asks other peers while fewer are asked than could be: first those that were never asked, so that some who waste our time cannot keep a better
// one from its turn.
func (t *Torrent) nextMetadata() {
	for _, failed := range [...]bool{false, true} {
		for p := range t.peers {
			if p.exchanged && p.metaFailed == failed {
				t.offerMetadata(p)
			}
		}
	}
}

// freshMetadata reports whether somebody offers the metadata who was not asked yet.
func (t *Torrent) freshMetadata() bool {
	for p := range t.peers {
		if !p.metaFailed && p.exchanged && p.offersMetadata() {
			return true
		}
	}
	return false
}

// tickMetadata gives up peers that are slow, and gives those that refused another chance after a while, since there may be nobody else.
func (t *Torrent) tickMetadata(now time.Time) {
	if !t.wantsMetadata() {
		return
	}
	for p := range t.peers {
		switch f := p.meta; {
		case f == nil:
		case f.active && (now.Sub(f.last) > metaPatience || len(f.data) == 0 && now.Sub(f.last) > metaFirst):
			t.refuseMetadata(p)
		case f.active && now.Sub(f.began) > metaShare && t.freshMetadata(): // a piece now and then is not enough
			t.refuseMetadata(p)
		case f.refused && now.Sub(f.last) > metaAgain:
			p.meta = nil
		}
	}
	t.nextMetadata()
}
