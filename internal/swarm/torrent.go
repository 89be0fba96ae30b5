// Package swarm runs one torrent: whom to connect to, what to ask for, whom to serve, what is verified and kept. One goroutine owns a torrent's
// state; connections post what peers say to its inbox, and commands to peers go into their outboxes, which never blocks. It asks internal/picker,
// internal/choker and internal/pipeline for decisions, and knows nothing of application messages beyond the extended ids they need.
//
// Whatever waits, for the disk, the network or a hash, runs beside the owner in the torrent's group, and posts what came of it. The owner posts nothing to itself, holds no
// lock while it calls others, and once it has ended others may look at its state, one at a time.
//
// Where things are decided:
//
//   - the owner, its end and its errors: torrent.go; its clock: beat.go; a pause and the goals of seeding: pause.go; starting again, verifying, moving: recover.go
//   - which hello an address is dialled with, and what a veiled one brings: hello.go
//   - who is connected: dial.go, what all torrents share of it in share.go, who makes room in room.go, two sessions with one peer in duplicate.go, peer exchange in pex.go,
//     nodes of the DHT that peers tell of in dhtport.go
//   - sessions and what they say: peer.go; who is served: choke.go, under limits in rate.go; super-seeding: super.go
//   - what is asked for: pieces.go, at the end endgame.go, for a reader reader.go, by the wishes of the user want.go, of web servers webseed.go
//   - who sent what is wrong: blame.go
//   - what describes the content: metadata.go for the info dictionary, trees.go and hashes.go for the hashes of BEP 52
package swarm

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/choker"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/pexset"
	"github.com/parley-bt/parley/internal/picker"
	"github.com/parley-bt/parley/internal/pipeline"
	"github.com/parley-bt/parley/internal/webseed"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// ErrClosed is returned by calls on a torrent that has been closed.
var ErrClosed = errors.New("torrent closed")

// Apps is the application side of one session; package messaging has it.
type Apps interface {
	App(id uint8, payload []byte)
	AppsDone()
	Start() // hands over what has come so far; it does not block
	Interrupt()
	Mux(m *peer.Machine, ev *peer.MuxEvent)
	SetShared(s peer.Shared)
	Opened(c *peerconn.Conn)
	End(drained func())
}

// Types is what the swarm must know of the torrent's message types; package messaging has it.
type Types interface {
	// Exchange returns the entries of "m", the table they announce, and what the "emp" key says with it, nil if there is none (EMP/1 section 6.2).
	Exchange() ([]ltep.Entry, *peer.WeUse, *emp.Offer)
	// Usable reports whether a session with a peer that accepts s can carry messages.
	Usable(s *peer.Shared) bool
}

// Config is what a torrent must know. Every field is set unless it says otherwise.
type Config struct {
	InfoHash   bt.InfoHash         // as hellos have it: of a torrent that is known in its v2 form alone, the v2 one cut to its length
	InfoHashV2 metainfo.InfoHashV2 // zero if none is known; of Info it need not be said
	PeerID     bt.PeerID
	ClientName string
	ListenPort uint16 // 0 if we do not listen
	Log        *slog.Logger
	Conn       *peerconn.Options
	Now        func() time.Time
	Dial       func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

	Policy netpolicy.Policy // which addresses may be dialled on whose word: see Learn
	Shared *Shared          // with the client's other torrents; nil: its own, with default bounds
	// OnDHTNode, if set, says that we take part in the DHT, and is told where the nodes of peers are, on the owner: it must not block. DHTPort is the UDP port of ours; 0 if it does not answer.
	OnDHTNode func(addr netip.AddrPort)
	DHTPort   uint16
	NoPEX     bool // neither tell peers of others nor listen to what they tell (BEP 11); private torrents never do

	Hellos    Hellos             // which hellos to dial with, and what worked; nil: plaintext alone
	MSE       mse.Methods        // of MSE, what is offered
	Secret    *veil.Secret       // of a closed swarm: what veiled hellos are keyed by instead of the info-hash; nil otherwise
	TakesVeil bool               // we accept veiled hellos where we listen, and say so
	Identity  ed25519.PrivateKey // to be proven to peers of veiled sessions (EMP/1 section 5.1); nil: none

	MaxPeers      int
	MaxPerAddress int // connections with one host, see [dialguard.Host], if its address is global; 0: no bound
	MaxPerNear    int // likewise if it is less than global, where many machines may share one; 0: no bound
	UploadSlots   int
	BufferBytes   int
	Up, Down      *peerconn.Group // the torrent's share of the client's rates; nil: no limits
	Uploads       *UploadPool     // the client's upload slots; nil: only UploadSlots bounds them
	Paused        bool            // begin paused
	SeedGoal      SeedGoal        // pause when it is reached

	Info       *metainfo.Info         // nil: it comes from peers (BEP 9)
	Layers     map[merkle.Hash][]byte // piece layers of Info by root, as far as known: see [metainfo.MetaInfo]
	Open       func(*metainfo.Info) (storage.Storage, error)
	Complete   bool // the content is known to be complete: no verification
	NoDownload bool // take part without downloading or storing anything
	// Want, if set, says how much each file is wanted that is not padding; called by the owner once the metadata is known.
	Want       func(i int, f *metainfo.File) Priority
	Sequential bool // ask for pieces in their order rather than the rarest first
	SuperSeed  bool // spread what is complete at the start by BEP 16
	OnVerify   func(done, total int)

	WebSeeds []WebSeed
	Web      *webseed.Client // nil: no web seed is used

	Types   Types
	NewApps func(*Peer) Apps
	Notify  func(Event) // called by the owner: must not block, nor call the torrent
}

// State is what a torrent is doing.
type State uint8

// The states.
const (
	StateMetadata State = iota
	StateVerifying
	StateDownloading
	StateSeeding
	StateIdle // NoDownload
	StateStopped
	StatePaused // what it does otherwise is not done, but for verifying
)

// Stats is a snapshot of a torrent.
type Stats struct {
	State                        State
	TotalBytes, HaveBytes        int64
	WantedBytes, WantedHave      int64 // of the files that are wanted, and what of them is verified
	Pieces, HavePieces           int
	Peers, Seeds                 int
	Downloaded, Uploaded, Wasted int64
	DownRate, UpRate             float64
	CorruptPieces                int
	WebSeeds                     int // that were not given up
	Connecting                   int
	SeedGoalMet                  bool
	Err                          error
}

// EventKind says what an Event reports.
type EventKind uint8

// The kinds of events.
const (
	EventPeerConnected EventKind = iota + 1
	EventPeerTypes
	EventPeerDisconnected
	EventDialFailed
	EventMetadata
	EventVerified
	EventProgress
	EventComplete
	EventError
	EventWebSeedFailed // WebSeed, Err
	EventPaused
	EventResumed
	EventSeedGoal  // reached; the torrent is paused
	EventRestarted // after an error, see Torrent.Retry
)

// Event is something that happened, for the layer above.
type Event struct {
	Kind  EventKind
	Peer  *Peer
	Addr  netip.AddrPort
	Stats Stats
	Err   error

	WebSeed string // its URL
}

// tickEvery is how often the owner looks at everything that depends on time.
const tickEvery = time.Second

// inboxSize is how many batches may wait for the owner; beyond it connections are not read.
const inboxSize = 64

// Torrent is one swarm. Its exported methods are safe for concurrent use; everything else belongs to the owner goroutine.
type Torrent struct {
	cfg   Config
	inbox chan envelope
	group sync.WaitGroup // dials, verification, the owner itself
	ctx   context.Context
	stop  context.CancelFunc
	done  chan struct{} // the owner has ended

	// What others may read.
	shared   atomic.Pointer[sharedState]
	uploaded atomic.Int64
	haveMu   sync.RWMutex
	have     *bitfield.Set // written by the owner under haveMu

	ready, stopped atomic.Pointer[latch] // replaced by Retry
	complete       atomic.Pointer[latch] // replaced when more is wanted
	leafCache      leafCache

	// The owner's.
	state      State
	err        error
	info       *metainfo.Info
	ih, ihV2   bt.InfoHash    // see sharedState
	hashedInfo *metainfo.Info // what info was when they were found out
	geom       bt.Geometry
	store      storage.Storage
	picker     *picker.Picker // nil until metadata is known and storage open, and once every piece is here
	want       wants
	readers    map[*Reader]struct{}
	super      *superSeed // nil unless super-seeding
	choker     choker.Choker
	rng        *rand.Rand
	peers      map[*Peer]struct{}
	byID       map[bt.PeerID]*Peer
	nextKey    picker.PeerKey
	byKey      map[picker.PeerKey]*Peer
	endMu      sync.Mutex   // whose is the owner's state once that has ended
	lingering  atomic.Int64 // sessions that ended and whose messages still wait for handlers
	greeting   greeting
	closing    bool
	candidates map[netip.AddrPort]*candidate
	learned    int               // of candidates, how many others named
	pool       dialguard.Pool    // addresses that others named and that wait for their dial
	backoff    dialguard.Backoff // of addresses that others named
	turn       *turn
	dialing    int
	halfOpen   int       // connections that we opened and whose hello is under way
	evicted    time.Time // when a session last made room for another
	weighed    time.Time // when it was last looked for one
	pex        pexset.Set
	pexNext    time.Time
	pexOffered bool // some peer was given an id for ut_pex
	bans       bans
	blame      blame
	meta       metadataState
	trees      *trees         // of a torrent with a v2 description, once they are made
	toAsk      []layerAsk     // what of them is to be asked for and nobody is asked, the first last
	weUse      *peer.WeUse    // with weSay: what exchange returned last; nil when that no longer holds
	weOffer    *emp.Offer     // what its "emp" key says; nil: there is none
	weSay      *ltep.Exchange // what was sent is never changed

	open      map[bt.PieceIndex]*assembly
	jobs      []*assembly // complete, waiting for a worker
	working   int
	verifying int // bytes of pieces that wait for or are in verification

	webs        []*webSeed
	webFetching int // fetches from them under way

	retrying bool            // to start again, see Retry
	reopen   storage.Storage // to be closed before it is opened again

	downloaded, wasted int64
	corrupt            int
	down, up           pipeline.Meter
	upSeen             int64
	progress           bool // pieces were verified since the last event

	paused  bool
	goal    goalState
	uploads *uploadShare // nil if the client's slots are not bounded

	unsaved bool      // what the storage remembers has changed since the last checkpoint began: pieces verified or lost, files chosen
	saving  bool      // a checkpoint is under way
	saved   time.Time // when the last one began

	blocks []bt.Block // scratch
	urgent []bt.PieceIndex
	rushed []bt.PieceIndex
	keys   []picker.PeerKey
	ckeys  []choker.Key
	cpeers []choker.Peer
}

// sharedState is what other goroutines read without asking the owner.
type sharedState struct {
	info   *metainfo.Info
	geom   bt.Geometry
	store  storage.Storage
	trees  *trees
	ih     bt.InfoHash // by which the torrent goes first: the v1 info-hash, if it has one
	ihV2   bt.InfoHash // of its v2 form, cut to its length; zero if none is known
	hashes storage.Hashes
}

// latch is a condition that comes true once.
type latch struct {
	ch   chan struct{}
	once sync.Once
}

func newLatch() *latch  { return &latch{ch: make(chan struct{})} }
func (l *latch) close() { l.once.Do(func() { close(l.ch) }) }

// envelope is one thing for the owner to do.
type envelope struct {
	p     *Peer
	batch *peerconn.Batch
	err   error
	kind  envelopeKind
	f     func()
}

type envelopeKind uint8

const (
	envBatch envelopeKind = iota
	envClosed
	envCall
)

// Start makes a torrent and runs it until Close.
func Start(cfg Config) *Torrent {
	t := &Torrent{
		cfg: cfg, inbox: make(chan envelope, inboxSize), done: make(chan struct{}),
		readers: make(map[*Reader]struct{}),
		peers:   make(map[*Peer]struct{}), byID: make(map[bt.PeerID]*Peer), byKey: make(map[picker.PeerKey]*Peer),
		candidates: make(map[netip.AddrPort]*candidate),
		open:       make(map[bt.PieceIndex]*assembly),
		rng:        rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
	t.paused, t.greeting.paused = cfg.Paused, cfg.Paused
	t.uploads = cfg.Uploads.join()
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.ready.Store(newLatch())
	t.stopped.Store(newLatch())
	t.complete.Store(newLatch())
	t.publish()
	t.greeting.pending = make(map[*Peer]*peerconn.Conn)
	t.greeting.hosts = make(map[netip.Prefix]int)
	if t.cfg.Shared == nil {
		t.cfg.Shared = NewShared(DefaultHalfOpen, 0)
	}
	t.turn = newTurn()
	t.group.Add(1)
	go t.run()
	return t
}

// post gives the owner something to do; false if it has ended.
func (t *Torrent) post(e envelope) bool {
	select {
	case <-t.done:
		return false
	default:
	}
	select { // the quick way while there is room
	case t.inbox <- e:
		return true
	default:
	}
	select {
	case t.inbox <- e:
		return true
	case <-t.done:
		return false
	}
}

// do runs f on the owner and waits for it; false if the owner has ended.
func (t *Torrent) do(f func()) bool {
	ran := make(chan struct{})
	var taken atomic.Bool // f is run, or will not be: the caller goes on with what f writes
	if !t.post(envelope{kind: envCall, f: func() {
		if taken.CompareAndSwap(false, true) {
			f()
			close(ran)
		}
	}}) {
		return false
	}
	select {
	case <-ran:
		return true
	case <-t.done:
		if taken.CompareAndSwap(false, true) {
			return false
		}
		<-ran
		return true
	}
}

// look runs f, which changes nothing that others see, on the owner, or once that has ended here.
func (t *Torrent) look(f func()) {
	if !t.do(f) {
		t.endMu.Lock()
		defer t.endMu.Unlock()
		f()
	}
}

// run is the owner.
func (t *Torrent) run() {
	defer t.group.Done()
	var beat beat
	beat.start()
	defer beat.stop()
	stop := t.ctx.Done()
	switch {
	case t.cfg.NoDownload:
		t.state = StateIdle
		if t.cfg.Info != nil {
			t.info = t.cfg.Info
			t.publish()
		}
		t.ready.Load().close()
	case t.cfg.Info != nil:
		t.gotInfo(t.cfg.Info, t.cfg.Layers)
	}
	const maxBurst = 64 // then the tick and the end get their turn
	burst := 0
	for !t.closing || t.greeting.any() || t.working > 0 || t.webFetching > 0 || t.dialing > 0 || t.state == StateVerifying {
		if burst < maxBurst { // the quick way while there is much to do
			select {
			case e := <-t.inbox:
				beat.wake()
				t.handle(e)
				burst++
				continue
			default:
			}
		}
		burst = 0
		select {
		case e := <-t.inbox:
			beat.wake()
			t.handle(e)
		case <-beat.ticker.C:
			t.tick()
			beat.ticked(t.cfg.Now, t.busy(), t.nextTick)
		case <-t.turn.wake:
			beat.wake()
			t.dial(t.cfg.Now())
		case <-stop:
			stop = nil
			t.shut()
		}
	}
	t.discardOpen()
	t.closeWeb()
	if t.store != nil {
		if err := t.store.Close(); err != nil {
			t.cfg.Log.Warn("closing storage", "error", err)
		}
	}
	t.state = StateStopped
	t.uploads.leave()
	close(t.done)
	t.stopped.Load().close()
	// Posts that won the race against done are answered, so that nothing they hold is lost.
	for {
		select {
		case e := <-t.inbox:
			if e.batch != nil {
				e.batch.Discard()
			}
			if e.kind == envCall {
				t.endMu.Lock()
				e.f()
				t.endMu.Unlock()
			}
		default:
			return
		}
	}
}

func (t *Torrent) handle(e envelope) {
	switch e.kind {
	case envBatch:
		t.peerEvents(e.p, e.batch)
	case envClosed:
		t.closed(e.p, e.err)
	case envCall:
		e.f()
	}
}

// shut begins the end of the torrent.
func (t *Torrent) shut() {
	t.closing = true
	t.cfg.Shared.leave(t.turn)
	t.wakeReaders()
	t.greeting.close()
	for p := range t.peers {
		p.conn.Close(nil)
	}
}

// fail stops the torrent because of err: peers are closed, nothing more is written, what is good stays.
func (t *Torrent) fail(err error) {
	if t.err != nil || t.closing {
		return
	}
	t.err = err
	t.state = StateStopped
	t.cfg.Log.Info("torrent stopped", "error", err)
	t.restWeb()
	t.picker = nil
	t.discardOpen()
	for p := range t.peers {
		p.conn.Close(nil)
	}
	t.wakeReaders()
	t.uploads.leave()
	t.notify(Event{Kind: EventError, Err: err})
	t.stopped.Load().close()
}

func (t *Torrent) notify(e Event) {
	switch e.Kind {
	case EventVerified, EventProgress, EventComplete, EventError, EventPaused, EventResumed, EventSeedGoal:
		e.Stats = t.stats()
	}
	t.cfg.Notify(e)
}

// publish makes the metadata visible to other goroutines.
func (t *Torrent) publish() {
	s := &sharedState{info: t.info, geom: t.geom, store: t.store, trees: t.trees}
	if t.hashedInfo != t.info || t.ih.IsZero() {
		t.ih, t.ihV2 = infoHashes(t.info, t.cfg.InfoHash, t.cfg.InfoHashV2)
		t.hashedInfo = t.info
	}
	s.ih, s.ihV2 = t.ih, t.ihV2
	switch {
	case t.trees != nil:
		s.hashes = t.trees
	case t.info != nil:
		s.hashes = storage.V1Hashes(t.info.PieceHashes)
	}
	t.shared.Store(s)
}

// gotInfo goes on once the metadata is known, and with it some of the piece layers, or all, of a torrent that has such.
func (t *Torrent) gotInfo(info *metainfo.Info, layers map[merkle.Hash][]byte) {
	t.info = info
	t.meta = metadataState{}
	t.weUse = nil
	t.keepPrivate()
	t.initialWants()
	t.publish() // exchanges say from now on that we have the metadata
	if info.V2 {
		t.needTrees(layers)
		return
	}
	t.openStorage()
}

// openStorage goes on once it is known what the pieces should be: storage is opened and what lies there verified, off the owner.
func (t *Torrent) openStorage() {
	t.state = StateVerifying
	wanted := t.want.wantedFiles()
	info, hashes := t.info, t.shared.Load().hashes
	old := t.reopen
	t.reopen = nil
	t.group.Go(func() {
		t.closeForReopen(old)
		store, err := t.cfg.Open(info)
		have := bitfield.New(info.NumPieces())
		if err == nil && wanted != nil {
			err = tellSelector(store, nil, wanted)
		}
		if err == nil {
			if t.cfg.Complete {
				have.Fill()
			} else {
				have, err = storage.ResumePieces(t.ctx, store, info.Geometry, hashes, t.cfg.OnVerify)
			}
		}
		f := func() { t.want.stored = wanted; t.verified(store, have, err) }
		if !t.post(envelope{kind: envCall, f: f}) && store != nil {
			store.Close()
		}
	})
}

// verified goes on once storage is open and its content known.
func (t *Torrent) verified(store storage.Storage, have *bitfield.Set, err error) {
	t.state = StateDownloading // run no longer waits
	t.store = store
	if t.closing || t.ctx.Err() != nil { // which ended the verification: nothing is wrong
		return
	}
	if err != nil {
		t.fail(err)
		return
	}
	t.geom = t.info.Geometry
	t.haveMu.Lock()
	t.have = have
	t.haveMu.Unlock()
	t.publish()
	t.recount()
	if t.cfg.SuperSeed && have.Full() {
		t.beginSuper()
	}
	if !have.Full() {
		t.newPicker()
	}
	for p := range t.peers {
		t.learnGeometry(p)
		if t.super != nil {
			continue
		}
		for i := range have.All() { // it was told that we have nothing
			t.send(p, wire.Have{Index: bt.PieceIndex(i)})
		}
	}
	t.tellStorage() // what was chosen meanwhile
	t.openWeb()
	t.notify(Event{Kind: EventVerified})
	t.ready.Load().close()
	t.wakeReaders()
	t.urge()
	if t.completeIfAll() {
		return
	}
	t.announce()
	t.tick()
}

// completed goes on once every piece that is wanted is in place.
func (t *Torrent) completed() {
	t.state = StateSeeding
	t.restWeb()
	if t.have.Full() {
		t.picker = nil
	}
	for p := range t.peers {
		p.amInterested = false
		if t.picker == nil {
			p.has = nil
		}
		t.send(p, wire.NotInterested{})
	}
	t.announce() // upload_only (BEP 21)
	t.progress = false
	t.notify(Event{Kind: EventComplete})
	t.complete.Load().close()
	t.rechoke(t.cfg.Now())
}

// tick does what depends on time.
func (t *Torrent) tick() {
	t.tickRetry()
	if t.closing || t.err != nil {
		return
	}
	now := t.cfg.Now()
	up := t.uploaded.Load()
	t.up.Add(now, int(up-t.upSeen))
	t.upSeen = up
	t.down.Add(now, 0)
	for p := range t.peers {
		t.tickPeer(p, now)
	}
	t.tickMetadata(now)
	t.tickHashes(now)
	if next := t.choker.Next(); !next.IsZero() && !now.Before(next) {
		t.rechoke(now)
	}
	t.tickSuper(now)
	t.idleWeb()
	if t.picker != nil {
		if len(t.readers) > 0 {
			t.urge()
		}
		t.abandonStalled()
		t.parole(now)
		t.fillAll(now)
	}
	if t.progress {
		t.progress = false
		t.notify(Event{Kind: EventProgress})
	}
	t.save(now)
	t.tickPEX(now)
	t.tickGoal(now)
	t.dial(now)
}

// saveEvery is how often what is verified is saved, see [storage.Resumer].
const saveEvery = 10 * time.Second

// save has the storage remember which pieces are verified, off the owner. Once everything is in place an error stops nobody: the next run reads more.
func (t *Torrent) save(now time.Time) {
	r, ok := t.store.(storage.Resumer)
	if !ok || t.saving || !t.unsaved || now.Sub(t.saved) < saveEvery {
		return
	}
	t.saving, t.unsaved, t.saved = true, false, now
	t.group.Go(func() {
		err := r.Checkpoint()
		t.post(envelope{kind: envCall, f: func() {
			t.saving = false
			t.unsaved = t.unsaved || err != nil // until it can be done
			switch {
			case err == nil || t.closing:
			case t.state == StateDownloading:
				t.fail(fmt.Errorf("saving what is verified: %w", err))
			default:
				t.cfg.Log.Warn("saving what is verified", "error", err)
			}
		}})
	})
}

// tickPeer does for one peer what depends on time.
func (t *Torrent) tickPeer(p *Peer, now time.Time) {
	if up := p.uploaded.Load(); up != p.upSeen {
		p.up.Add(now, int(up-p.upSeen))
		p.upSeen = up
	}
	if p.exchangeDue {
		t.sendExchange(p, now)
	}
	if p.interestDue {
		t.updateInterest(p)
	}
	t.excusePaused(p, now)
	if t.picker != nil && (p.pipe.Snubbed(now) || t.keepsAll(p, now)) {
		// What it owes is asked of others; if it comes after all it is welcome.
		n := t.picker.ReleaseAll(p.key)
		p.pipe.Dropped(now, n)
		p.late += n
		p.snubbed = true
	}
	t.settleDuplicate(p, now)
	t.closeRedundant(p, now)
}

// closeRedundant closes sessions between two seeds that can carry no messages (EMP/1 section 7.7).
func (t *Torrent) closeRedundant(p *Peer, now time.Time) {
	if t.state != StateSeeding || !p.seed && (!p.uploadOnly || p.peerInterested) || t.wantsHashes() {
		return
	}
	if !p.exchanged && now.Sub(p.since) < redundantPatience {
		return
	}
	if !t.cfg.Types.Usable(p.shared.Load()) {
		p.conn.Close(errRedundant)
	}
}

// redundantPatience is how long two seeds wait for each other's exchange.
const redundantPatience = 10 * time.Second

// errRedundant ends sessions in which neither side can want anything.
var errRedundant = fmt.Errorf("both sides have everything: %w", peer.ErrDuplicatePeer)

// stats makes a snapshot; the owner calls it.
func (t *Torrent) stats() Stats {
	now := t.cfg.Now()
	s := Stats{State: t.state, Peers: len(t.peers), Downloaded: t.downloaded, Uploaded: t.uploaded.Load(), Wasted: t.wasted,
		SeedGoalMet: t.goal.met, DownRate: t.down.Rate(now), UpRate: t.up.Rate(now), CorruptPieces: t.corrupt, WebSeeds: t.usableWeb(), Connecting: t.dialing, Err: t.err}
	for p := range t.peers {
		if p.seed {
			s.Seeds++
		}
	}
	if t.paused && (t.state == StateMetadata || t.state == StateDownloading || t.state == StateSeeding || t.state == StateIdle) {
		s.State = StatePaused
	}
	if t.info != nil {
		s.TotalBytes, s.Pieces = t.info.Geometry.ContentBytes(), t.info.NumPieces()
	}
	if t.have != nil {
		s.HavePieces = t.have.Count()
		s.HaveBytes = t.geom.BytesOf(s.HavePieces, t.have.Has)
	}
	s.WantedBytes, s.WantedHave = s.TotalBytes, s.HaveBytes
	if t.want.files != nil {
		s.WantedBytes, s.WantedHave = t.want.bytes, t.want.have
	}
	return s
}

// Stats returns a snapshot.
func (t *Torrent) Stats() (s Stats) {
	t.look(func() { s = t.stats() })
	return s
}

// Info returns the metadata, nil while it is not known.
func (t *Torrent) Info() *metainfo.Info { return t.shared.Load().info }

// Peers returns the peers that are connected now.
func (t *Torrent) Peers() []*Peer {
	var ps []*Peer
	t.do(func() {
		ps = make([]*Peer, 0, len(t.peers))
		for p := range t.peers {
			ps = append(ps, p)
		}
	})
	return ps
}

// Call runs f on the owner with the peers connected now and a snapshot, and waits for it. f must not block, nor call the torrent. It reports whether f ran.
func (t *Torrent) Call(f func(peers map[*Peer]struct{}, s Stats)) bool {
	return t.do(func() { f(t.peers, t.stats()) })
}

// Announce tells every peer that the set of message types has changed.
func (t *Torrent) Announce() {
	t.post(envelope{kind: envCall, f: func() {
		t.announce()
		t.redial()
	}})
}

// wait waits for a latch, the end of the torrent or the context.
func (t *Torrent) wait(ctx context.Context, l *latch) error {
	select {
	case <-l.ch:
		return nil
	default:
	}
	select {
	case <-l.ch:
		return nil
	case <-t.stopped.Load().ch:
		return cmp.Or(t.stoppedBy(), ErrClosed)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// WaitReady waits until the metadata is known and what is on disk has been verified.
func (t *Torrent) WaitReady(ctx context.Context) error { return t.wait(ctx, t.ready.Load()) }

// WaitComplete waits until every piece that is wanted is in place.
func (t *Torrent) WaitComplete(ctx context.Context) error { return t.wait(ctx, t.complete.Load()) }

// Close leaves the swarm and waits until nothing of the torrent runs any more, handlers of messages excepted.
func (t *Torrent) Close() {
	t.stop()
	<-t.done
	t.group.Wait()
}

// Done returns a channel that is closed when the torrent has been closed.
func (t *Torrent) Done() <-chan struct{} { return t.done }

// workers is how many pieces are hashed and written at once.
func workers() int { return max(2, runtime.GOMAXPROCS(0)) }
