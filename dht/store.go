package dht

import (
	"net/netip"
	"sync"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	peer_store "github.com/anacrolix/dht/v2/peer-store"
)

// Bounds of what other nodes may leave here.
const (
	maxTorrents     = 2000
	peersPerTorrent = 50 // all go into one answer, which is one packet
	peerExpiry      = 30 * time.Minute
)

// store keeps the peers that others announce to this node (BEP 5), for as long as BEP 5's clients take to announce again. It is safe for concurrent use.
type store struct {
	now   func() time.Time
	mu    sync.Mutex
	all   map[peer_store.InfoHash]map[netip.AddrPort]time.Time
	swept time.Time // when what has expired was last looked for everywhere
}

func newStore() *store {
	return &store{now: time.Now, all: make(map[peer_store.InfoHash]map[netip.AddrPort]time.Time)}
}

// AddPeer remembers a peer. If there is no room, what has expired goes, and if there is still none, the peer is not kept: it tells eight nodes.
func (s *store) AddPeer(h peer_store.InfoHash, a krpc.NodeAddr) {
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok || a.Port < 1 || a.Port > 65535 {
		return
	}
	addr := netip.AddrPortFrom(ip.Unmap(), uint16(a.Port))
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	peers := s.all[h]
	if peers == nil {
		if len(s.all) >= maxTorrents && now.Sub(s.swept) >= time.Minute {
			s.expire(now)
		}
		if len(s.all) >= maxTorrents {
			return
		}
		peers = make(map[netip.AddrPort]time.Time)
		s.all[h] = peers
	}
	if _, known := peers[addr]; !known && len(peers) >= peersPerTorrent {
		drop(peers, now)
		if len(peers) >= peersPerTorrent {
			return
		}
	}
	peers[addr] = now
}

// GetPeers returns the peers of a torrent.
func (s *store) GetPeers(h peer_store.InfoHash) (all []krpc.NodeAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop(s.all[h], s.now())
	for a := range s.all[h] {
		all = append(all, krpc.NodeAddr{IP: a.Addr().AsSlice(), Port: int(a.Port())})
	}
	return all
}

func (s *store) expire(now time.Time) {
	s.swept = now
	for h, peers := range s.all {
		if drop(peers, now); len(peers) == 0 {
			delete(s.all, h)
		}
	}
}

func drop(peers map[netip.AddrPort]time.Time, now time.Time) {
	for a, at := range peers {
		if now.Sub(at) >= peerExpiry {
			delete(peers, a)
		}
	}
}
