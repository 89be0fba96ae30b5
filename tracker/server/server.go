// Package server is an embedded tracker: announce and scrape over HTTP (BEP 3, 7, 23, 24, 31, 48) and UDP (BEP 15), both on
// one store in memory.
//
// It is made to stand on the open internet. Its memory is bounded by [Config], whoever asks for whatever; peers that are not
// heard of expire. Requests are counted per source. A UDP reply that is longer than its request goes only to an address that
// has proved to receive our replies: the connection id is a keyed hash of the address and the time, so nothing is stored
// before that. Only the source address of a request counts as the peer's; "ip=" is honoured for sources on local networks,
// and only for addresses that are no more local than they are. Nobody is told of peers more local than itself.
//
// The package does not decide where to listen, and knows no users. Behind a reverse proxy every request seems to come from
// the proxy: it is meant to be reached directly.
package server

import (
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/tracker/proto"
)

// Config configures a [Server]. The zero value is usable; zero and negative fields mean their defaults.
type Config struct {
	// Interval is how often clients are told to announce; default 30 min, at least 1 s.
	Interval time.Duration
	// MinInterval is how early clients may announce again; default a sixth of Interval.
	MinInterval time.Duration
	// Expiry is how long a peer is listed after its last announce; default two intervals and a minute.
	Expiry time.Duration

	// MaxTorrents bounds the torrents known at once; default 10,000. Beyond it one with few peers makes room.
	MaxTorrents int
	// MaxPeers bounds the peers listed at once, over all torrents; default 200,000.
	MaxPeers int
	// MaxPeersPerTorrent bounds the peers of one torrent; default 5,000. Beyond it one not heard of for long makes room.
	MaxPeersPerTorrent int
	// MaxPeersPerSource bounds the peers of one torrent that announce from one address (one /64 for IPv6), loopback
	// excepted; default 32.
	MaxPeersPerSource int
	// MaxNumWant is the most peers in one reply; default 200. A client that does not say gets at most 50. UDP replies
	// hold what fits [proto.ReplyDatagramBytes].
	MaxNumWant int

	// RequestsPerMinute bounds what one source (one /64 for IPv6) may ask, loopback excepted; default 240. As many may
	// come at once.
	RequestsPerMinute int
	// MaxSources bounds the sources whose requests are counted; default 65,536.
	MaxSources int
	// MaxConns bounds the HTTP connections at once; default 1,024.
	MaxConns int
	// MaxConnsPerSource bounds those of one source, loopback excepted; default 32.
	MaxConnsPerSource int

	// Allow, if not nil, says which torrents are tracked. It must be safe for concurrent use, and quick.
	Allow func(bt.InfoHash) bool
}

const defaultNumWant = 50

func (c Config) resolved() Config {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if c.Interval <= 0 {
		c.Interval = 30 * time.Minute
	}
	c.Interval = max(c.Interval, time.Second)
	if c.MinInterval <= 0 {
		c.MinInterval = max(c.Interval/6, time.Second)
	}
	if c.Expiry <= 0 {
		c.Expiry = 2*c.Interval + time.Minute
	}
	def(&c.MaxTorrents, 10_000)
	def(&c.MaxPeers, 200_000)
	def(&c.MaxPeersPerTorrent, 5_000)
	def(&c.MaxPeersPerSource, 32)
	def(&c.MaxNumWant, 200)
	def(&c.RequestsPerMinute, 240)
	def(&c.MaxSources, 1<<16)
	def(&c.MaxConns, 1024)
	def(&c.MaxConnsPerSource, 32)
	return c
}

// Server is a tracker. Its methods are safe for concurrent use. It runs nothing by itself: see [Server.ServeHTTP],
// [Server.Serve] and [Server.ServeUDP].
type Server struct {
	cfg    Config
	secret [32]byte // of connection ids

	mu     sync.Mutex // never held across I/O
	store  *store
	limits *limiter
	stats  Stats
}

// Stats counts what a server has done and holds.
type Stats struct {
	Torrents, Peers    int    // now
	Announces, Scrapes uint64 // answered
	Refused            uint64 // answered with an error
	Limited            uint64 // of those, because the source asked too much
	BadConnectionIDs   uint64 // UDP requests without a valid one
	MalformedDatagrams uint64 // not answered
}

// New returns a server without torrents.
func New(cfg Config) *Server {
	cfg = cfg.resolved()
	s := &Server{cfg: cfg}
	rand.Read(s.secret[:]) // never fails
	var seed [16]byte
	rand.Read(seed[:])
	rng := mathrand.New(mathrand.NewPCG(binary.BigEndian.Uint64(seed[:]), binary.BigEndian.Uint64(seed[8:])))
	s.store = newStore(cfg, rng)
	s.limits = newLimiter(cfg.RequestsPerMinute, cfg.MaxSources)
	return s
}

// Stats returns what the server has done and holds.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Torrents, st.Peers = len(s.store.torrents), s.store.peers
	return st
}

// The refusals. Their texts are short, so that a UDP error is no longer than the request it answers.
var (
	refuseLimit   = &proto.FailureError{Reason: "too many requests", RetryIn: time.Minute}
	refuseUnknown = &proto.FailureError{Reason: "torrent is not tracked", Never: true}
	refuseAddress = &proto.FailureError{Reason: "address not usable"}
)

// admit decides whether a request from addr is answered at all.
func (s *Server) admit(now time.Time, addr netip.Addr) *proto.FailureError {
	class := netpolicy.ClassOf(addr)
	if class == netpolicy.Unusable {
		return refuseAddress
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if class != netpolicy.Loopback && !s.limits.take(now, sourceOf(addr)) {
		s.stats.Limited++
		return refuseLimit
	}
	return nil
}

// announce answers an announce from source for a peer that is reached at addr. v4 and v6 say which peers the reply can hold.
func (s *Server) announce(now time.Time, a *proto.Announce, source, addr netip.Addr, v4, v6 bool) (*proto.AnnounceReply, []bt.PeerID, *proto.FailureError) {
	if s.cfg.Allow != nil && !s.cfg.Allow(a.InfoHash) {
		return nil, nil, refuseUnknown
	}
	want := a.NumWant
	if want == 0 {
		want = defaultNumWant
	}
	if a.Event == proto.EventStopped {
		want = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Announces++
	r, ids := s.store.announce(now, a, source, addr, min(want, s.cfg.MaxNumWant), v4, v6)
	r.Interval, r.MinInterval, r.ExternalIP = s.cfg.Interval, s.cfg.MinInterval, source
	return r, ids, nil
}

// scrape answers a scrape: one entry for each hash, in order, zero for torrents that are not known or not tracked.
func (s *Server) scrape(now time.Time, hashes []bt.InfoHash) []proto.Counts {
	counts := make([]proto.Counts, len(hashes))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Scrapes++
	for i, h := range hashes {
		counts[i] = s.store.counts(now, h)
	}
	return counts
}

func (s *Server) count(n *uint64) {
	s.mu.Lock()
	*n++
	s.mu.Unlock()
}

// reached returns the address at which a peer is listed: that of its source, or the one it claims if the source is on a
// local network and the claim is not more local.
func reached(source, claimed netip.Addr) netip.Addr {
	class := netpolicy.ClassOf(source)
	if claimed.IsValid() && class < netpolicy.Global && (netpolicy.Policy{}).Check(claimed, class) == nil {
		return claimed
	}
	return source
}

// sourceOf returns what counts as one source: an IPv4 address, or the /64 of an IPv6 address, all of which one host can use.
// Loopback addresses stay what they are.
func sourceOf(addr netip.Addr) netip.Addr {
	if addr.Is4() || addr.IsLoopback() {
		return addr
	}
	p, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return addr // not possible: it is an IPv6 address
	}
	return p.Addr()
}
