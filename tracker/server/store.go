package server

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/tracker/proto"
)

const (
	// sweepEvery is how often everything is searched for what has expired.
	sweepEvery = time.Minute
	// sample is how many candidates are looked at when something must make room: enough to find a poor one, and little work.
	sample = 16
)

// store holds torrents and their peers, within its limits. It takes the time; its owner serializes calls.
type store struct {
	cfg      Config
	rng      *rand.Rand
	torrents map[bt.InfoHash]*swarm
	peers    int // over all torrents
	swept    time.Time
}

// swarm is one torrent.
type swarm struct {
	list       []peer
	index      map[netip.AddrPort]int // where in list
	sources    map[netip.Addr]int     // peers by source
	seeders    int
	downloaded int
	last       time.Time // when it was last announced
}

type peer struct {
	addr   netip.AddrPort
	source netip.Addr // see sourceOf
	id     bt.PeerID
	seed   bool
	seen   time.Time
}

func newStore(cfg Config, rng *rand.Rand) *store {
	return &store{cfg: cfg, rng: rng, torrents: map[bt.InfoHash]*swarm{}}
}

// announce records what a peer says and returns the reply, without intervals, with at most want peers and their ids.
func (s *store) announce(now time.Time, a *proto.Announce, source, addr netip.Addr, want int, v4, v6 bool) (*proto.AnnounceReply, []bt.PeerID) {
	if now.Sub(s.swept) >= sweepEvery {
		s.sweep(now)
	}
	sw := s.torrents[a.InfoHash]
	if sw == nil && a.Event != proto.EventStopped && a.Port != 0 {
		sw = s.add(now, a.InfoHash)
	}
	if sw == nil {
		return &proto.AnnounceReply{}, nil
	}
	sw.last = now
	at := netip.AddrPortFrom(addr, a.Port)
	switch {
	case a.Event == proto.EventStopped:
		if i, ok := sw.index[at]; ok {
			s.remove(sw, i)
		}
	case a.Port != 0: // a peer that does not listen cannot be connected to
		s.list(now, sw, a, at, sourceOf(source))
	}
	r := &proto.AnnounceReply{Seeders: sw.seeders, Leechers: len(sw.list) - sw.seeders}
	return r, s.choose(now, sw, r, at, netpolicy.ClassOf(source), a.Left == 0, want, v4, v6)
}

// list puts a peer into a swarm, or brings it up to date.
func (s *store) list(now time.Time, sw *swarm, a *proto.Announce, at netip.AddrPort, source netip.Addr) {
	i, known := sw.index[at]
	if !known {
		if netpolicy.ClassOf(source) != netpolicy.Loopback && sw.sources[source] >= s.cfg.MaxPeersPerSource {
			return
		}
		if len(sw.list) >= s.cfg.MaxPeersPerTorrent || s.peers >= s.cfg.MaxPeers {
			if len(sw.list) == 0 {
				return // full of other torrents' peers
			}
			s.remove(sw, s.stalest(sw))
		}
		i = len(sw.list)
		sw.list = append(sw.list, peer{addr: at, source: source})
		sw.index[at] = i
		sw.sources[source]++
		s.peers++
	}
	p := &sw.list[i]
	seed := a.Left == 0
	switch {
	case seed && !p.seed:
		sw.seeders++
		// Counted for peers that were seen without, so that repeating it counts nothing.
		if a.Event == proto.EventCompleted && known {
			sw.downloaded++
		}
	case !seed && p.seed:
		sw.seeders--
	}
	p.seed, p.id, p.seen = seed, a.PeerID, now
}

// choose fills r with peers for a requester, and returns their ids. A seed is not told of seeds, and nobody of itself or of
// peers more local than itself.
func (s *store) choose(now time.Time, sw *swarm, r *proto.AnnounceReply, self netip.AddrPort, class netpolicy.Class, seed bool,
	want int, v4, v6 bool) []bt.PeerID {
	if want <= 0 || len(sw.list) == 0 {
		return nil
	}
	var ids []bt.PeerID
	start := s.rng.IntN(len(sw.list))
	for i := range sw.list {
		p := &sw.list[(start+i)%len(sw.list)]
		is4 := p.addr.Addr().Is4()
		switch {
		case p.addr == self, seed && p.seed, is4 && !v4, !is4 && !v6, now.Sub(p.seen) > s.cfg.Expiry:
			continue
		case (netpolicy.Policy{}).Check(p.addr.Addr(), class) != nil:
			continue
		}
		r.Peers, ids = append(r.Peers, p.addr), append(ids, p.id)
		if len(ids) == want {
			break
		}
	}
	return ids
}

// stalest returns a peer of sw not heard of for long: the one with the oldest announce of a few.
func (s *store) stalest(sw *swarm) int {
	found := s.rng.IntN(len(sw.list))
	for range sample - 1 {
		if i := s.rng.IntN(len(sw.list)); sw.list[i].seen.Before(sw.list[found].seen) {
			found = i
		}
	}
	return found
}

// remove takes the peer at i out of sw; another takes its place.
func (s *store) remove(sw *swarm, i int) {
	p := sw.list[i]
	delete(sw.index, p.addr)
	if sw.sources[p.source]--; sw.sources[p.source] == 0 {
		delete(sw.sources, p.source)
	}
	if p.seed {
		sw.seeders--
	}
	last := len(sw.list) - 1
	if i != last {
		sw.list[i] = sw.list[last]
		sw.index[sw.list[i].addr] = i
	}
	sw.list[last] = peer{}
	sw.list = sw.list[:last]
	s.peers--
}

// add makes room for a torrent and returns it, or nil if there is none.
func (s *store) add(now time.Time, hash bt.InfoHash) *swarm {
	if len(s.torrents) >= s.cfg.MaxTorrents && !s.evict() {
		return nil
	}
	sw := &swarm{index: map[netip.AddrPort]int{}, sources: map[netip.Addr]int{}, last: now}
	s.torrents[hash] = sw
	return sw
}

// evict drops, of a few torrents, the one with the fewest peers, of those the one not announced for longest. It spares
// torrents in which peers find each other, so that a flood of invented ones replaces only itself.
func (s *store) evict() bool {
	var worst bt.InfoHash
	var found *swarm
	n := 0
	for h, sw := range s.torrents { // in an order that differs each time
		if found == nil || len(sw.list) < len(found.list) || len(sw.list) == len(found.list) && sw.last.Before(found.last) {
			worst, found = h, sw
		}
		if n++; n == sample {
			break
		}
	}
	if found == nil || len(found.list) > 1 {
		return false
	}
	s.peers -= len(found.list)
	delete(s.torrents, worst)
	return true
}

// sweep drops what has expired.
func (s *store) sweep(now time.Time) {
	s.swept = now
	for h, sw := range s.torrents {
		for i := len(sw.list) - 1; i >= 0; i-- {
			if now.Sub(sw.list[i].seen) > s.cfg.Expiry {
				s.remove(sw, i)
			}
		}
		if len(sw.list) == 0 && now.Sub(sw.last) > s.cfg.Expiry {
			delete(s.torrents, h)
		}
	}
}

func (s *store) counts(now time.Time, h bt.InfoHash) proto.Counts {
	if now.Sub(s.swept) >= sweepEvery {
		s.sweep(now)
	}
	c := proto.Counts{InfoHash: h}
	if sw := s.torrents[h]; sw != nil {
		c.Seeders, c.Leechers, c.Downloaded = sw.seeders, len(sw.list)-sw.seeders, sw.downloaded
	}
	return c
}

// limiter counts requests per source: a token bucket each, of which at most maxSources are kept.
type limiter struct {
	perMinute float64
	max       int
	all       map[netip.Addr]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(perMinute, maxSources int) *limiter {
	return &limiter{perMinute: float64(perMinute), max: maxSources, all: map[netip.Addr]bucket{}}
}

// take reports whether source may ask once more.
func (l *limiter) take(now time.Time, source netip.Addr) bool {
	b, ok := l.all[source]
	if !ok {
		b = bucket{tokens: l.perMinute, at: now}
		if len(l.all) >= l.max {
			l.makeRoom(now)
		}
	}
	b.tokens = min(l.perMinute, b.tokens+now.Sub(b.at).Minutes()*l.perMinute)
	b.at = now
	allowed := b.tokens >= 1
	if allowed {
		b.tokens--
	}
	l.all[source] = b
	return allowed
}

// makeRoom forgets one source: of a few, the one with the most tokens, which loses least by being forgotten.
func (l *limiter) makeRoom(now time.Time) {
	var best netip.Addr
	most, n := -1.0, 0
	for a, b := range l.all {
		if have := b.tokens + now.Sub(b.at).Minutes()*l.perMinute; have > most {
			best, most = a, have
		}
		if n++; n == sample {
			break
		}
	}
	delete(l.all, best)
}
