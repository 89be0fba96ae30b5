package parley

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/storage"
)

// TorrentOptions says how a torrent is added. The zero value is usable.
type TorrentOptions struct {
	// Dir is the folder under which the torrent's files are kept; empty means the current folder. Ignored by Share.
	Dir string
	// Storage, if set, opens the torrent's storage instead of files under Dir: called once the geometry is known.
	Storage func(info *metainfo.Info) (storage.Storage, error)
	// Peers are addresses to dial, and to dial again when they are lost.
	Peers []netip.AddrPort
	// Trackers are tiers of trackers to announce to beside those of the torrent: in each tier the first that answers (BEP 12), but every tier. They are the user's word, so they
	// may be anywhere, on this machine too, while those of a torrent or magnet link may not be more local than the internet, see Config.AllowNetworks.
	Trackers [][]string
	// WebSeeds are URLs of web seeds (BEP 19) beside those of the torrent: of its only file, or of the folder that holds it. They are the user's word, so they may be anywhere, on
	// this machine too, while those of a torrent or magnet link may not be more local than the internet, see Config.AllowNetworks.
	WebSeeds []string
	// Want, if set, says how much each file is wanted: nil means that all are, equally. It is called once for each file, before anything is
	// downloaded, and must not call the torrent. The torrent is complete when all that is wanted is there; [Torrent.SetPriority] changes it later. What of a file that is not
	// wanted shares a piece with one that is goes into a hidden file in Dir. Ignored by Share and SeedTorrent. No choice is remembered over restarts, with Config.StateDir neither: a program
	// that adds a torrent again says again what it wants, by what [Torrent.Files] returned.
	Want func(f File) Priority
	// Sequential asks for pieces in the torrent's order, see [Torrent.SetSequential].
	Sequential bool
	// SuperSeed spreads a torrent that is complete at the start as BEP 16 has it: for the only seed of a new swarm. It says that it has nothing, and shows each peer a few pieces, and others
	// once another peer has got those, or after a minute. So little more than one copy is sent before the others can go on without it; a swarm that has seeds already is slowed down by it.
	SuperSeed bool
	// UploadLimit and DownloadLimit are the torrent's own limits in bytes a second, see Config.UploadLimit; 0 means none beside the client's. [Torrent.SetLimits] changes them.
	UploadLimit, DownloadLimit int64
	// SeedRatio and SeedTime are goals as in Config; 0 means the client's, less than 0 none.
	SeedRatio float64
	SeedTime  time.Duration
	// SwarmKey, if set, makes the torrent part of a closed swarm (EMP/1 section 3): it is reached by veiled hellos that are keyed by this secret instead of the info-hash, and in no other way.
	// Who does not have the key can neither take part nor find out that this client does. A key belongs to one torrent: its hello says nothing else, see [ErrSwarmKeyUsed]. Trackers, the DHT and other peers are still told of the info-hash, unless that is turned off too.
	SwarmKey *[32]byte
	// Paused adds the torrent as if [Torrent.Pause] had been called.
	Paused bool
	// NoDownload takes part in the swarm without downloading or storing any piece: to exchange messages only.
	NoDownload bool
	// Allocate says when disk space is taken; zero means as it is written.
	Allocate Allocation
	// OnSkip, if set, is told by Share what below the path is not shared, since it is no regular file.
	OnSkip func(path string)
	// OnVerify, if set, is told how far the verification of existing data has come, in pieces.
	OnVerify func(done, total int)
}

// A Torrent is one swarm that a [Client] takes part in. Its methods are safe for concurrent use.
type Torrent struct {
	client  *Client
	ih      bt.InfoHash
	o       TorrentOptions
	hub     *messaging.Hub
	sw      *swarm.Torrent
	find    atomic.Pointer[finder]
	started chan struct{} // sw is set
	magnet  metainfo.Magnet
	mi      atomic.Pointer[metainfo.MetaInfo]
	dir     atomic.Pointer[string] // where the files were moved to
	id      atomic.Pointer[identity]

	up, down *peerconn.Group
	remember bool         // what its metadata turn out to be, in Config.StateDir
	place    *place       // in the client's queue, which guards it
	closing  bool         // guarded by the client's mutex
	secret   *veil.Secret // of a closed swarm, nil otherwise
	first    *[20]byte    // the hash of its first piece, once it is found by that; guarded by the client's mutex

	subs      subscribers
	closeOnce sync.Once
	closeErr  error
}

// State is what a torrent is doing.
type State uint8

// The states of a torrent.
const (
	StateMetadata    State = iota // waiting for the info dictionary from a peer (BEP 9)
	StateVerifying                // hashing what is already there
	StateDownloading              // fetching pieces, and serving those it has
	StateSeeding                  // all that is wanted is there, serving
	StateIdle                     // taking part without downloading, see TorrentOptions.NoDownload
	StateStopped                  // stopped by an error, see Stats.Err, or closed
	StatePaused                   // in no swarm, see Torrent.Pause; or its goal of seeding was reached
	StateQueued                   // likewise, until there is a place for it, see Config.MaxActiveDownloads
)

// String returns the state's name in lower case.
func (s State) String() string {
	return [...]string{"metadata", "verifying", "downloading", "seeding", "idle", "stopped", "paused", "queued"}[min(s, StateQueued)]
}

// Stats is a snapshot of a torrent.
type Stats struct {
	State           State
	TotalBytes      int64 // 0 until the metadata is known
	HaveBytes       int64 // verified
	WantedBytes     int64 // of the files that are wanted, see Torrent.SetPriority; TotalBytes if all are
	WantedHave      int64 // of these, verified
	Pieces          int
	HavePieces      int
	Peers           int     // connected, handshake complete
	Seeds           int     // of those, how many have everything
	Downloaded      int64   // bytes of piece data received in this session
	Uploaded        int64   // bytes of piece data sent in this session
	Wasted          int64   // bytes received twice or that failed their hash
	DownRate        float64 // bytes of piece data a second, smoothed
	UpRate          float64
	WebSeeds        int   // that are of use (BEP 19)
	CorruptPieces   int   // pieces that failed their hash in this session
	SeedGoalReached bool  // a goal of seeding has been reached, see Config.SeedRatio
	Err             error // why the torrent stopped, nil otherwise
}

func newTorrent(c *Client, ih bt.InfoHash, o TorrentOptions) *Torrent {
	t := &Torrent{client: c, ih: ih, o: o, started: make(chan struct{})}
	if o.SwarmKey != nil {
		t.secret = new(veil.SecretOfSwarmKey(o.SwarmKey))
	}
	t.hub = messaging.NewHub(messaging.Options{QueueBytes: c.cfg.ReceiveQueueBytes, HandlerTimeout: c.cfg.HandlerTimeout,
		Logger: c.cfg.Logger.With("infohash", ih.String()), Changed: t.typesChanged, NoMux: c.cfg.NoEMP, OfferEarly: c.takesVeil(), WindowBytes: c.cfg.MessageWindowBytes,
		Requests: c.cfg.MaxRequests, DefaultMax: c.cfg.MaxMessageBytes, Budget: c.budget})
	return t
}

// typesChanged tells the peers. It may come before the swarm runs only if nobody is there to be told.
func (t *Torrent) typesChanged() {
	<-t.started
	t.sw.Announce()
}

// InfoHash returns the info-hash that the torrent was added by: its v1 info-hash if that was known, else the v2 info-hash cut to 20 bytes, as it stands
// in hellos (BEP 52).
func (t *Torrent) InfoHash() bt.InfoHash { return t.ih }

// Name returns the torrent's name: from its metadata, else from the magnet link, else the info-hash in hexadecimal.
// It comes from strangers: escape it before it reaches a terminal.
func (t *Torrent) Name() string {
	if mi := t.Metainfo(); mi != nil {
		return mi.Info.Name
	}
	if t.magnet.Name != "" {
		return t.magnet.Name
	}
	return t.ih.String()
}

// Metainfo returns the torrent's metadata, nil while it is not known. The piece layers of a torrent that was added by its magnet link and has a v2
// description come later, or bit by bit: until all are known PieceLayers is nil. The result must not be modified.
func (t *Torrent) Metainfo() *metainfo.MetaInfo {
	if mi := t.mi.Load(); mi != nil {
		return mi
	}
	info := t.sw.Info()
	if info == nil {
		return nil
	}
	mi := &metainfo.MetaInfo{Info: info, InfoHash: t.ih}
	if info.V2 {
		mi.InfoHash, mi.InfoHashV2, mi.PieceLayers = info.InfoHash(), info.InfoHashV2(), t.sw.Layers()
	}
	for _, tr := range t.magnet.Trackers {
		mi.Announce = append(mi.Announce, []string{tr})
	}
	mi.WebSeeds = t.magnet.WebSeeds
	if info.V2 && mi.PieceLayers == nil {
		return mi // until more is known
	}
	t.mi.CompareAndSwap(nil, mi)
	return t.mi.Load()
}

// Magnet returns the magnet link of the torrent (BEP 9), without peer addresses.
func (t *Torrent) Magnet() metainfo.Magnet {
	m := t.magnet
	if mi := t.Metainfo(); mi != nil {
		m = mi.Magnet()
	}
	if m.InfoHashV2.IsZero() {
		m.InfoHash = t.ih
	}
	m.Peers = nil
	return m
}

// Stats returns a snapshot.
func (t *Torrent) Stats() Stats { return t.statsOf(t.sw.Stats()) }

// statsOf makes a snapshot public.
func (t *Torrent) statsOf(s swarm.Stats) Stats {
	out := statsOf(s)
	if out.State == StatePaused && t.client.queue.queued(t) {
		out.State = StateQueued
	}
	return out
}

func statsOf(s swarm.Stats) Stats {
	states := [...]State{swarm.StateMetadata: StateMetadata, swarm.StateVerifying: StateVerifying, swarm.StateDownloading: StateDownloading,
		swarm.StateSeeding: StateSeeding, swarm.StateIdle: StateIdle, swarm.StateStopped: StateStopped, swarm.StatePaused: StatePaused}
	return Stats{State: states[s.State], TotalBytes: s.TotalBytes, HaveBytes: s.HaveBytes, WantedBytes: s.WantedBytes, WantedHave: s.WantedHave, Pieces: s.Pieces, HavePieces: s.HavePieces,
		Peers: s.Peers, Seeds: s.Seeds, Downloaded: s.Downloaded, Uploaded: s.Uploaded, Wasted: s.Wasted, DownRate: s.DownRate, UpRate: s.UpRate,
		WebSeeds: s.WebSeeds, CorruptPieces: s.CorruptPieces, SeedGoalReached: s.SeedGoalMet, Err: s.Err}
}

// WaitMetadata waits until the metadata is known and the torrent's storage is open and verified. It returns the
// context's error or the one that stopped the torrent. With NoDownload there is nothing to wait for.
func (t *Torrent) WaitMetadata(ctx context.Context) error { return closedErr(t.sw.WaitReady(ctx)) }

// WaitComplete waits until every piece that is wanted is verified and in place. It returns the context's error or the one that
// stopped the torrent.
func (t *Torrent) WaitComplete(ctx context.Context) error { return closedErr(t.sw.WaitComplete(ctx)) }

// WaitMetainfo waits until all is known that a .torrent file has, and returns it: for a torrent with a v2 description also the piece layers. Those of a hybrid that
// was added by its link come from peers that have them, or with the last piece of its files. The errors are those of WaitMetadata. Metadata that nobody waits for, because of NoDownload, are nil.
func (t *Torrent) WaitMetainfo(ctx context.Context) (*metainfo.MetaInfo, error) {
	if err := t.sw.WaitLayers(ctx); err != nil {
		return nil, closedErr(err)
	}
	return t.Metainfo(), nil
}

// AddPeers adds addresses to dial. Addresses already known are dialled again if they are not connected.
func (t *Torrent) AddPeers(addrs ...netip.AddrPort) { t.sw.AddPeers(addrs...) }

// LearnPeers adds addresses to dial that come from a stranger, such as a file or a link from the internet: those at public IP addresses and in
// Config.AllowNetworks are dialled, not more than some a minute, and forgotten when nobody is there.
func (t *Torrent) LearnPeers(addrs ...netip.AddrPort) {
	t.sw.Learn(dialguard.Source{Origin: dialguard.Link}, netpolicy.Global, addrs...)
}

// Peers yields the peers that are connected now, in no order.
func (t *Torrent) Peers() iter.Seq[Peer] {
	return func(yield func(Peer) bool) {
		for _, p := range t.sw.Peers() {
			if !yield(peerOf(p)) {
				return
			}
		}
	}
}

// Close leaves the swarm, closes the peers' connections in good order, and waits until nothing of the torrent runs any more: for handlers of messages no longer than
// a second, since one of them may be the caller. Trackers are told in the background.
func (t *Torrent) Close() error {
	t.closeOnce.Do(func() {
		c := t.client
		c.mu.Lock()
		t.closing = true
		c.mu.Unlock()
		t.stopFinding()
		c.queue.remove(t)
		t.hub.Close()
		t.sw.Close()
		c.drop(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if t.hub.Wait(ctx) != nil {
			t.closeErr = fmt.Errorf("torrent %v: a message handler did not return within a second of the close", t.ih)
		}
		t.subs.close()
	})
	return t.closeErr
}

// openFiles opens the torrent's files below its folder.
func (t *Torrent) openFiles(info *metainfo.Info) (storage.Storage, error) {
	paths, err := metainfo.SafePaths(info)
	if err != nil {
		return nil, err
	}
	s, err := storage.OpenFiles(t.Dir(), filesOf(info, paths), info.Geometry,
		storage.Options{InfoHash: info.InfoHash(), State: t.client.state, Allocate: t.o.Allocate == AllocateFull})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func filesOf(info *metainfo.Info, paths [][]string) []storage.File {
	files := make([]storage.File, len(info.Files))
	for i, f := range info.Files {
		files[i] = storage.File{Path: paths[i], Length: f.Length, Padding: f.Padding}
	}
	return files
}

// newApps makes the application side of a session.
func (t *Torrent) newApps(p *swarm.Peer) swarm.Apps {
	s := &session{t: t, sw: p, mp: t.hub.NewPeer(nil)}
	s.mp.Owner = s
	return s.mp
}

// closedErr gives internal errors their public names.
func closedErr(err error) error {
	if errors.Is(err, swarm.ErrClosed) || errors.Is(err, messaging.ErrClosed) {
		return ErrClosed
	}
	return fileErr(err)
}
