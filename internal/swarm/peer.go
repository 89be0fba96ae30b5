package swarm

import (
	"crypto/ed25519"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/choker"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/pexset"
	"github.com/parley-bt/parley/internal/picker"
	"github.com/parley-bt/parley/internal/pipeline"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// Peer is the torrent's view of one session. Its fields belong to the torrent's owner but for those said otherwise.
type Peer struct {
	t         *Torrent
	conn      *peerconn.Conn // set before the session opens
	apps      Apps
	addr      netip.AddrPort
	candidate *candidate // nil for incoming connections
	half      bool       // counted in halfOpen
	incoming  bool
	heard     bool   // the first part of an answer to our obfuscated hello has come; set before the owner is told of the end
	helloDone func() // called by the read loop; nil for outgoing connections and once called

	// Set when the session opens, then read by anyone.
	id        bt.PeerID
	reserved  wire.Reserved
	hello     wire.Hello
	proved    bool // an identity was proven by the peer, or by us: both sides then say the same
	namedPort bool // it has said where its DHT node is
	dialect   wire.Dialect
	fast      bool
	v2        bool // the session speaks of the torrent in its v2 form (BEP 52)
	since     time.Time
	opened    atomic.Bool

	uploaded atomic.Int64                // bytes of piece data, by the writer
	shared   atomic.Pointer[peer.Shared] // what messages it accepts; nil before its type exchange
	shown    atomic.Pointer[shown]       // what it may ask for while we super-seed; nil means all. The writer looks at it

	key                picker.PeerKey
	has                *bitfield.Set // what it has, while we miss something
	super              *superPeer    // while we super-seed; nil if it is a seed
	toldHave           bool          // it has been told what we have, by bitfield or otherwise
	seed               bool
	uploadOnly         bool
	pipe               pipeline.Pipeline
	snubbed            bool
	shut               bool            // banned: nothing it says counts any more
	source             *origin         // this peer as the sender of blocks; nil until it is needed
	late               int             // blocks that were given up and may still come
	forfeits           int             // pieces on trial that were left to it and that it was too slow with
	unwanted           int             // bytes that nobody asked for
	allowed            []bt.PieceIndex // pieces we may ask for while choked (BEP 6)
	peerChoking        bool
	peerInterested     bool
	amInterested       bool
	interestDue        bool // it has lost pieces: the next tick looks whether it still has what we want
	unchoked, wanted   bool // wanted is rechoke's scratch
	chokeSince         time.Time
	up                 pipeline.Meter
	down               pipeline.Meter // what tit for tat goes by, over some rounds; the pipeline's is for the moment
	upSeen, downloaded int64

	exchanged    bool // its type exchange has come
	exchange     ltep.Exchange
	exchangeDue  bool
	exchangeSent time.Time
	exchangeGap  int            // exchanges sent one after the other, see sendExchange
	said         *ltep.Exchange // what the last of them said
	meta         *metadataFetch
	metaFailed   bool // it was asked for the metadata once, in vain
	hashes       hashesOf
	leavesBudget allowance      // guarded by Torrent.leafCache.mu
	listens      netip.AddrPort // where it accepts peers, as far as known
	told         pexset.Cursor

	rival      *Peer // the older session that this one may replace (EMP/1 section 7.7)
	rivalUntil time.Time
	rivalSince time.Time
	successor  *Peer // the newest such session of the same peer
}

// OurReserved is what we set in a hello: the extension protocol and Fast.
var OurReserved = wire.Reserved{5: 0x10, 7: 0x04}

func pickerKey(k choker.Key) picker.PeerKey { return picker.PeerKey(k) }

// unwantedLimit is how many bytes of blocks a peer may send in a session that nobody asked it for, or that came too late: twice what may be
// on its way when a download ends.
const unwantedLimit = 2 * pipeline.MaxDepth * bt.BlockBytes

// NewIncoming makes the session of an incoming connection for this torrent.
//
// helloDone is called once, when the hellos are complete or the connection has ended, unless there is an error: the torrent is not there any more, or has enough
// connections with that host.
func (t *Torrent) NewIncoming(c *peerconn.Conn, helloDone func()) (peerconn.Session, peer.Local, error) {
	select {
	case <-t.ctx.Done():
		return nil, peer.Local{}, peer.ErrUnknownTorrent
	case <-t.stopped.Load().ch:
		return nil, peer.Local{}, peer.ErrUnknownTorrent
	default:
	}
	if !t.greeting.reserve(c.Addr().Addr(), t.perHost(c.Addr().Addr())) {
		return nil, peer.Local{}, peer.ErrTooManyConnections
	}
	p := t.newPeer(c.Addr())
	p.incoming, p.helloDone = true, helloDone
	if !t.greeting.begin(p, c) {
		t.greeting.unreserve(c.Addr().Addr())
		return nil, peer.Local{}, peer.ErrUnknownTorrent
	}
	return p, t.local(), nil
}

func (t *Torrent) newPeer(addr netip.AddrPort) *Peer {
	p := &Peer{t: t, addr: addr, peerChoking: true}
	p.apps = t.cfg.NewApps(p)
	return p
}

func (t *Torrent) local() peer.Local {
	s := t.shared.Load()
	return peer.Local{InfoHash: s.ih, InfoHashV2: s.ihV2, Geometry: s.geom}
}

// The methods of peerconn.Session.

// Open implements [peerconn.Session].
func (p *Peer) Open(c *peerconn.Conn) {
	c.Do(func(m *peer.Machine) {
		p.id, p.reserved, p.dialect, p.fast, p.v2 = m.PeerID(), m.Reserved(), m.Dialect(), m.Fast(), m.V2()
		p.hello, p.proved = m.Hello(), m.Identity() != nil || p.t.cfg.Identity != nil && m.Hello() == wire.HelloVeil
	})
	p.endHello()
	p.conn = c
	p.apps.Opened(c)
	p.since = p.t.cfg.Now()
	// Nothing the peer says is looked at before the owner has taken the session in: neither its messages, of which a refused session must have none handled, nor
	// its requests.
	p.t.do(func() { p.t.opened(p) })
}

func (p *Peer) endHello() {
	if p.helloDone != nil {
		p.helloDone()
		p.helloDone = nil
	}
}

// App implements [peerconn.Session].
func (p *Peer) App(id uint8, payload []byte) { p.apps.App(id, payload) }

// Mux implements [peerconn.Session].
func (p *Peer) Mux(m *peer.Machine, ev *peer.MuxEvent) { p.apps.Mux(m, ev) }

// Shared implements [peerconn.Session].
func (p *Peer) Shared(s peer.Shared) {
	p.shared.Store(&s)
	p.apps.SetShared(s)
}

// Interrupt implements [peerconn.Session].
func (p *Peer) Interrupt() { p.apps.Interrupt() }

// AppsDone implements [peerconn.Session].
func (p *Peer) AppsDone() { p.apps.AppsDone() }

// Deliver implements [peerconn.Session].
func (p *Peer) Deliver(_ *peerconn.Conn, b *peerconn.Batch) {
	p.apps.Start() // messages do not wait for the torrent
	if !p.t.post(envelope{kind: envBatch, p: p, batch: b}) {
		b.Discard()
	}
}

// errNotHere refuses a request for a piece that we lack.
var errNotHere = errors.New("piece not here")

// ReadBlock implements [peerconn.Session].
func (p *Peer) ReadBlock(dst []byte, b bt.Block) error {
	t := p.t
	t.haveMu.RLock()
	ok := t.have != nil && t.have.Has(int(b.Index))
	t.haveMu.RUnlock()
	s := t.shared.Load()
	if show := p.shown.Load(); !ok || s.store == nil || show != nil && !show.has(b.Index) {
		return errNotHere
	}
	off := s.geom.Offset(b)
	if in := s.geom.TotalBytes - off; in < int64(len(dst)) { // zeros behind the end: see bt.Geometry.WithTail
		in = max(in, 0)
		clear(dst[in:])
		dst = dst[:in]
	}
	n, err := s.store.ReadAt(dst, off)
	if n == len(dst) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	t.post(envelope{kind: envCall, f: func() {
		if t.store == s.store {
			t.fail(err) // what was verified has gone
		}
	}})
	return err
}

// Uploaded implements [peerconn.Session].
func (p *Peer) Uploaded(n int) {
	p.uploaded.Add(int64(n))
	p.t.uploaded.Add(int64(n))
}

// Metadata implements [peerconn.Session].
func (p *Peer) Metadata() []byte {
	if info := p.t.shared.Load().info; info != nil {
		return info.Bytes
	}
	return nil
}

// UploadGroup implements [peerconn.Session].
func (p *Peer) UploadGroup() *peerconn.Group { return p.t.cfg.Up }

// DownloadGroup implements [peerconn.Session].
func (p *Peer) DownloadGroup() *peerconn.Group { return p.t.cfg.Down }

// Closed implements [peerconn.Session].
func (p *Peer) Closed(c *peerconn.Conn, err error) {
	p.endHello()
	p.heard = c.Heard()
	p.t.post(envelope{kind: envClosed, p: p, err: err})
}

// What the layer above may ask.

// Conn returns the session's connection, nil before it is open.
func (p *Peer) Conn() *peerconn.Conn {
	if p.opened.Load() {
		return p.conn
	}
	return nil
}

// Apps returns the application side of the session.
func (p *Peer) Apps() Apps { return p.apps }

// Torrent returns the torrent the session belongs to.
func (p *Peer) Torrent() *Torrent { return p.t }

// Addr returns the remote end.
func (p *Peer) Addr() netip.AddrPort { return p.addr }

// Info is what is known about a peer at one moment.
type Info struct {
	ID                  bt.PeerID
	Client              string
	Dialect             wire.Dialect
	Hello               wire.Hello
	Identity            ed25519.PublicKey
	Reserved            wire.Reserved
	Incoming            bool
	Listen              netip.AddrPort
	Pieces              int
	Seed                bool
	Downloaded          int64
	Uploaded            int64
	DownRate, UpRate    float64
	AmChoking           bool
	AmInterested        bool
	PeerChoking         bool
	PeerInterested      bool
	Since, LastReceived time.Time
}

// Info returns what is known about the peer now.
func (p *Peer) Info() Info {
	i := Info{ID: p.id, Dialect: p.dialect, Hello: p.hello, Reserved: p.reserved, Incoming: p.incoming, Since: p.since, Uploaded: p.uploaded.Load()}
	fill := func() {
		now := p.t.cfg.Now()
		i.Client = p.exchange.Client
		i.Seed = p.seed
		i.Downloaded = p.downloaded
		i.DownRate, i.UpRate = p.pipe.Rate(now), p.up.Rate(now)
		switch {
		case !p.incoming:
			i.Listen = p.addr
		case p.exchange.Port != 0:
			i.Listen = netip.AddrPortFrom(p.addr.Addr(), p.exchange.Port)
		}
	}
	p.t.look(fill)
	if p.conn != nil {
		p.conn.Do(func(m *peer.Machine) {
			i.Dialect, i.Identity = m.Dialect(), m.Identity()
			i.AmChoking, i.AmInterested, i.PeerChoking, i.PeerInterested = m.Choke()
			i.LastReceived = m.LastReceived()
			switch set, all := m.Has(); {
			case all:
				i.Pieces = p.t.shared.Load().geom.NumPieces()
			case set != nil:
				i.Pieces = set.Count()
			}
		})
	}
	return i
}

// The owner's side.

// send queues a message; a session that has ended meanwhile reports its end by itself.
func (t *Torrent) send(p *Peer, msg wire.Message) {
	if err := p.conn.Send(msg); err != nil && !errors.Is(err, peer.ErrNotOpen) && !errors.Is(err, peer.ErrUnsupported) {
		t.cfg.Log.Debug("sending to peer", "peer", p.addr, "error", err)
	}
}

// greeting is the torrent's connections that have not ended, and those of them that are still in their hello. It has a lock of its own, so that a connection
// can begin without the owner.
type greeting struct {
	mu      sync.Mutex
	conns   int
	hosts   map[netip.Prefix]int // connections of each host
	pending map[*Peer]*peerconn.Conn
	closed  bool
	paused  bool
}

// reserve counts a connection with the host of a; false if it has as many as most, of which 0 is no bound.
func (g *greeting) reserve(a netip.Addr, most int) bool {
	h := dialguard.Host(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if most > 0 && g.hosts[h] >= most {
		return false
	}
	g.hosts[h]++
	return true
}

// unreserve takes a reservation back.
func (g *greeting) unreserve(a netip.Addr) {
	g.mu.Lock()
	g.release(a)
	g.mu.Unlock()
}

// release does what unreserve says. The lock is held.
func (g *greeting) release(a netip.Addr) {
	h := dialguard.Host(a)
	if g.hosts[h]--; g.hosts[h] == 0 {
		delete(g.hosts, h)
	}
}

// full reports whether the host of a has as many connections as most, of which 0 is no bound.
func (g *greeting) full(a netip.Addr, most int) bool {
	if most == 0 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hosts[dialguard.Host(a)] >= most
}

// begin counts a connection whose hellos are on their way and whose host is counted; false if the torrent takes none any more.
func (g *greeting) begin(p *Peer, c *peerconn.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.paused {
		return false
	}
	g.conns++
	g.pending[p] = c
	return true
}

// opened says that a connection's hellos are complete.
func (g *greeting) opened(p *Peer) {
	g.mu.Lock()
	delete(g.pending, p)
	g.mu.Unlock()
}

// ended says that a connection has ended.
func (g *greeting) ended(p *Peer) {
	g.mu.Lock()
	g.conns--
	delete(g.pending, p)
	g.release(p.addr.Addr())
	g.mu.Unlock()
}

// any reports whether there are connections.
func (g *greeting) any() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns > 0
}

// close closes those in their hello, and lets no others begin.
func (g *greeting) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.closePending(peer.ErrUnknownTorrent)
}

// closePending closes those in their hello.
func (g *greeting) closePending(err error) {
	g.mu.Lock()
	conns := slices.Collect(maps.Values(g.pending))
	g.mu.Unlock()
	for _, c := range conns {
		c.Close(err)
	}
}

// opened takes a session in whose hellos are complete.
func (t *Torrent) opened(p *Peer) {
	t.greeting.opened(p)
	t.greeted(p)
	if err := t.admit(p); err != nil {
		p.conn.Close(err)
		return
	}
	t.peers[p] = struct{}{}
	t.nextKey++
	p.key = t.nextKey
	t.byKey[p.key] = p
	if t.super != nil {
		p.shown.Store(&shown{set: bitfield.New(t.geom.NumPieces())})
	}
	if t.byID[p.id] == nil {
		t.byID[p.id] = p
	}
	p.chokeSince = p.since
	p.opened.Store(true)
	if c := p.candidate; c != nil {
		t.helloWorked(c, p.hello)
		t.answered(c)
		t.joinPEX(p)
	}
	t.learnGeometry(p)
	t.greet(p)
	t.notify(Event{Kind: EventPeerConnected, Peer: p})
}

// admit decides whether a new session may stay.
func (t *Torrent) admit(p *Peer) error {
	if t.closing || t.paused || t.err != nil {
		return peer.ErrUnknownTorrent
	}
	if c := p.candidate; c != nil && !t.mayLearnFrom(c.source.Origin) {
		return peer.ErrUnknownTorrent // that it is private came out during the hello
	}
	if t.bans.refuses(t.cfg.Now(), p.id, p.addr.Addr()) {
		return peer.ErrDuplicatePeer
	}
	if old := t.byID[p.id]; old != nil && len(t.peers)+int(t.lingering.Load()) < t.cfg.MaxPeers {
		return t.admitRival(old, p)
	}
	// BEP 40: of those that have nothing to do, the one with the lowest priority makes room.
	if len(t.peers)+int(t.lingering.Load()) >= t.cfg.MaxPeers && (t.byID[p.id] != nil || !t.makeRoom(p.addr, false, t.cfg.Now())) {
		return peer.ErrTooManyConnections
	}
	return nil
}

// learnGeometry tells a session the torrent's geometry, and learns what the peer has.
func (t *Torrent) learnGeometry(p *Peer) {
	if !t.geom.Known() {
		return
	}
	var has *bitfield.Set
	var all bool
	p.conn.Do(func(m *peer.Machine) {
		if m.SetGeometry(t.geom) != nil {
			return // the session has ended, and says so by itself
		}
		set, a := m.Has()
		if all = a; set != nil {
			has = set.Clone()
		}
	})
	t.peerHas(p, has, all)
}

// peerHas takes in what a peer says it has, all at once. What was known before stays: a peer's pieces only grow.
func (t *Torrent) peerHas(p *Peer, has *bitfield.Set, all bool) {
	p.seed = all
	t.superHas(p, has, all)
	if t.picker == nil {
		return
	}
	if all {
		has = bitfield.NewFull(t.geom.NumPieces())
	} else if has == nil {
		has = bitfield.New(t.geom.NumPieces())
	}
	switch {
	case p.has == nil:
		p.has = has
		t.picker.AddPeer(p.key, p.has)
	case t.picker.Outstanding(p.key) == 0: // the quick way: removing a peer would give up what it owes
		for i := range p.has.All() {
			has.Add(i)
		}
		t.picker.RemovePeer(p.key, p.has)
		p.has = has
		t.picker.AddPeer(p.key, p.has)
	default:
		for i := range has.All() {
			if p.has.Add(i) {
				t.picker.PeerHas(p.key, bt.PieceIndex(i))
			}
		}
	}
	t.updateInterest(p)
}

// greet sends what every session begins with.
func (t *Torrent) greet(p *Peer) {
	if p.hello == wire.HelloVeil && p.said == nil { // it comes before anything else (EMP/1 section 6.1)
		t.sendExchange(p, p.since)
	}
	switch {
	case t.have == nil || t.have.Count() == 0 || t.super != nil:
		if p.fast { // without metadata too: BEP 6 wants one of the three from everybody
			t.send(p, wire.HaveNone{})
		}
	case t.have.Full() && p.fast:
		t.send(p, wire.HaveAll{})
	default:
		t.send(p, wire.Bitfield{Bits: t.have.AppendWire(nil)})
	}
	say, _ := t.exchange()
	p.exchangeDue = p.dialect != wire.DialectClassic && p.said != say // after a veiled hello it was said before, and may have changed meanwhile
	if p.exchangeDue {
		t.sendExchange(p, p.since)
	}
	t.tellPort(p)
	p.toldHave = true
	if t.super != nil {
		t.reveal(p)
	}
}

// announce tells every peer what a type exchange says now.
func (t *Torrent) announce() {
	t.weUse = nil
	now := t.cfg.Now()
	e, _ := t.exchange()
	for p := range t.peers {
		if p.dialect == wire.DialectClassic || p.exchanged && !p.enhanced() && p.said != nil && samePlain(p.said, e) {
			continue
		}
		p.exchangeDue = true
		t.sendExchange(p, now)
	}
}

// accepts reports whether the peer has given out an extended id for a name.
func (p *Peer) accepts(name string) bool {
	s := p.shared.Load()
	return s != nil && s.Plain[name] != 0
}

// enhanced reports whether the peer has offered mux frames.
func (p *Peer) enhanced() bool {
	s := p.shared.Load()
	return s != nil && s.Offers
}

// samePlain reports whether two exchanges say the same to a peer that does not know the "emp" key, which is then not sent the second (EMP/1 section 6.1).
func samePlain(a, b *ltep.Exchange) bool {
	return a.UploadOnly == b.UploadOnly && a.MetadataSize == b.MetadataSize && slices.Equal(a.M, b.M)
}

// A session has a limited number of exchanges (EMP/1 section 6.1): the first few go out at once, then one a second, so that types that come and go
// quickly share them.
const (
	exchangeBurst = 4
	exchangeEvery = 900 * time.Millisecond
)

// sendExchange sends the type exchange that is due, unless too many went out a moment ago: then a later tick does.
func (t *Torrent) sendExchange(p *Peer, now time.Time) {
	if now.Sub(p.exchangeSent) >= exchangeEvery {
		p.exchangeGap = 0
	}
	if p.exchangeGap++; p.exchangeGap > exchangeBurst {
		return
	}
	p.exchangeDue, p.exchangeSent = false, now
	say, use := t.exchange()
	p.said = say
	e := *say
	e.YourIP = p.addr.Addr()
	if p.hello == wire.HelloVeil {
		e.EMP = t.introduce(p)
	}
	enhanced := false
	p.conn.Do(func(m *peer.Machine) {
		before := m.Dialect()
		if err := m.SendExchange(&e, use); err != nil && !errors.Is(err, peer.ErrNotOpen) {
			t.cfg.Log.Warn("the peer is not told of a change of message types", "peer", p.addr, "error", err)
		}
		enhanced = m.Dialect() != before
	})
	if enhanced && p.exchanged {
		t.notify(Event{Kind: EventPeerTypes, Peer: p}) // mux frames are legal now, and with them types that were not
	}
}

// exchange returns what a type exchange says now, but for the peer's own address.
func (t *Torrent) exchange() (*ltep.Exchange, *peer.WeUse) {
	if t.weUse == nil {
		e := &ltep.Exchange{Client: t.cfg.ClientName, Port: t.cfg.ListenPort, ReqQ: wire.DefaultReqQ, UploadOnly: t.state == StateSeeding && t.super == nil && !t.wantsHashes()}
		e.M, t.weUse, t.weOffer = t.cfg.Types.Exchange()
		if t.weOffer = t.offerVeil(t.weOffer); t.weOffer != nil {
			e.EMP = emp.AppendOffer(nil, t.weOffer)
		}
		e.M, t.weUse = t.offerPEX(e.M, t.weUse)
		e.M = append(e.M, ltep.Entry{Name: ltep.NameMetadata, ID: t.weUse.Metadata}, ltep.Entry{Name: ltep.NameDontHave, ID: t.weUse.DontHave},
			ltep.Entry{Name: ltep.NameUploadOnly, ID: t.weUse.UploadOnly})
		if t.info != nil {
			e.MetadataSize = int64(len(t.info.Bytes))
		}
		slices.SortFunc(e.M, func(a, b ltep.Entry) int { return strings.Compare(a.Name, b.Name) }) // so that who writes it has nothing to change
		t.weSay = e
	}
	return t.weSay, t.weUse
}

// peerEvents handles what a peer said.
func (t *Torrent) peerEvents(p *Peer, b *peerconn.Batch) {
	if _, here := t.peers[p]; !here || t.err != nil || p.shut {
		b.Discard()
		return
	}
	now := t.cfg.Now()
	refill, rechoke := false, false
	for i := range b.Events {
		e := &b.Events[i]
		switch e.Kind {
		case wire.KindPiece:
			data := e.Data
			e.Data = nil
			t.block(p, now, e.Block, data)
			refill = true
		case wire.KindChoke:
			p.peerChoking = true
			if !p.fast { // the requests are gone, though what is on its way may still come (BEP 3)
				t.releaseAll(p, now)
			}
		case wire.KindUnchoke:
			p.peerChoking = false
			refill = true
		case wire.KindInterested, wire.KindNotInterested:
			p.peerInterested = e.Kind == wire.KindInterested
			// Once, however often it changes its mind. Of a super-seed a peer wants nothing for a moment time and again: it keeps its slot until the next round.
			rechoke = rechoke || p.peerInterested || t.super == nil
		case wire.KindHave:
			t.peerHave(p, e)
		case wire.KindBitfield:
			t.peerHas(p, e.Has, false)
		case wire.KindHaveAll:
			t.peerHas(p, nil, true)
		case wire.KindHaveNone:
			t.peerHas(p, nil, false)
		case wire.KindReject:
			// Asking again at once would be refused again, and again: the next tick does, or the peer's next block or unchoke.
			if t.picker != nil && t.picker.Release(p.key, e.Block) {
				p.pipe.Dropped(now, 1)
			}
		case wire.KindAllowedFast:
			const most = 64 // nobody means more: BEP 6 has 10
			if len(p.allowed) < most {
				p.allowed = append(p.allowed, e.Block.Index)
			}
			refill = true
		case wire.KindDontHave:
			t.peerLost(p, e.Block.Index)
		case wire.KindUploadOnly:
			p.uploadOnly = e.All
		case wire.KindExchange:
			t.peerExchange(p, e)
		case wire.KindMetadata:
			t.peerMetadata(p, now, e.Metadata)
		case wire.KindHashes, wire.KindHashReject:
			t.peerHashes(p, now, e.Hashes)
		case wire.KindPEX:
			t.peerPEX(p, e.PEX)
		case wire.KindPort:
			t.peerPort(p, e.Port)
		}
	}
	b.Release()
	if rechoke {
		t.rechoke(now)
	}
	if refill {
		t.fill(p, now)
	}
}

func (t *Torrent) peerHave(p *Peer, e *peerconn.Event) {
	if e.All {
		p.seed = true
	}
	t.superHave(p, e.Block.Index)
	if p.seed {
		t.superGone(p)
	}
	if t.picker == nil || p.has == nil || !p.has.Add(int(e.Block.Index)) {
		return
	}
	t.picker.PeerHas(p.key, e.Block.Index)
	if !p.interestDue {
		t.updateInterest(p)
	}
}

func (t *Torrent) peerExchange(p *Peer, e *peerconn.Event) {
	p.exchanged, p.exchange = true, *e.Exchange
	p.exchange.M = nil // shared has it, merged
	p.uploadOnly = p.exchange.UploadOnly
	t.joinPEX(p)
	t.saysVeil(p)
	if p.exchange.ReqQ > 0 {
		p.pipe.SetLimit(p.exchange.ReqQ)
	}
	t.notify(Event{Kind: EventPeerTypes, Peer: p})
	t.offerMetadata(p)
}

// updateInterest tells a peer whether we want something of it.
func (t *Torrent) updateInterest(p *Peer) {
	p.interestDue = false
	want := t.picker != nil && t.picker.Interesting(p.key, p.has)
	if want == p.amInterested {
		return
	}
	p.amInterested = want
	if want {
		t.send(p, wire.Interested{})
	} else {
		t.send(p, wire.NotInterested{})
	}
}

// closed forgets a session that has ended.
func (t *Torrent) closed(p *Peer, err error) {
	t.greeting.ended(p)
	t.greeted(p)
	now := t.cfg.Now()
	if p.candidate != nil {
		t.candidateClosed(p, now, err)
	}
	if _, here := t.peers[p]; !here {
		t.cfg.Log.Debug("connection ended before it was a session", "addr", p.addr, "error", err)
		p.apps.End(nil)
		return
	}
	delete(t.peers, p)
	delete(t.byKey, p.key)
	if t.byID[p.id] == p {
		delete(t.byID, p.id)
		if q := p.successor; q != nil { // a second session with the same peer takes its place
			if _, here := t.peers[q]; here {
				t.byID[p.id] = q
			}
		}
	}
	if t.picker != nil && p.has != nil {
		t.picker.RemovePeer(p.key, p.has)
	}
	p.has = nil
	t.leavePEX(p)
	t.superGone(p)
	t.dropMetadata(p)
	t.dropHashes(p, now)
	t.lingering.Add(1)
	p.apps.End(func() { t.lingering.Add(-1) }) // perhaps at once: the owner must not post to itself
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	t.notify(Event{Kind: EventPeerDisconnected, Peer: p, Err: err})
	if t.closing || t.err != nil {
		return
	}
	if p.unchoked || p.peerInterested {
		t.rechoke(now)
	}
	if t.picker == nil {
		return
	}
	t.parole(now)
	for q := range t.peers {
		if q.pipe.Outstanding() == 0 && !q.snubbed {
			t.fill(q, now)
		}
	}
}
