package attack_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/internal/attack"
	"github.com/parley-bt/parley/internal/leaktest"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(childAddr); addr != "" {
		holdConnections(addr) // does not return
	}
	leaktest.Main(m)
}

const (
	pieceBytes = 64 << 10
	numPieces  = 131 // not a multiple of 8: a bitfield has spare bits
	// memoryBound is by how much what is alive in the heap may grow under an attack by four at once: each may take a frame of 1 MiB that is incomplete, 1 MiB
	// of messages that wait, and buffers of 256 KiB while something is read or written; the inbox of the torrent holds batches. The honest peer, which keeps
	// the content in memory, and the attackers live in the same process.
	memoryBound = 64 << 20
	// goroutineBound is how many goroutines may be added: a few a connection, here and at the attackers'.
	goroutineBound = 200
	// logBound is how many records an operator may see of one attack, however often the attackers come back.
	logBound = 20
)

// A field is where attacks over real sockets take place: content, and how fast it travels when nobody attacks.
type field struct {
	path    string
	content []byte
	mi      *metainfo.MetaInfo
	scene   attack.Scene
	calm    map[attack.Target]float64 // bytes a second
	chat    float64                   // messages and requests a second, where they are exchanged meanwhile
}

func newField(t *testing.T) *field {
	f := &field{path: filepath.Join(t.TempDir(), "content"), content: make([]byte, numPieces*pieceBytes-100), calm: make(map[attack.Target]float64)}
	for i := range f.content { // no two blocks alike
		f.content[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16)*31
	}
	if err := os.WriteFile(f.path, f.content, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := parley.Create(t.Context(), f.path, parley.CreateOptions{PieceBytes: pieceBytes})
	if err != nil {
		t.Fatal(err)
	}
	f.mi = c.MetaInfo
	f.scene = attack.Scene{InfoHash: f.mi.InfoHash, Geometry: f.mi.Info.Geometry, Info: f.mi.Info.Bytes}
	return f
}

// newFieldV2 is a field with the same content in a torrent of version 2 (BEP 52): a folder of files of four pieces, so that there are many piece layers to ask for.
func newFieldV2(t *testing.T, f *field) *field {
	g := &field{path: filepath.Join(t.TempDir(), "folder"), content: f.content, calm: make(map[attack.Target]float64)}
	if err := os.Mkdir(g.path, 0o755); err != nil {
		t.Fatal(err)
	}
	i := 0
	for part := range slices.Chunk(f.content, 4*pieceBytes) {
		if err := os.WriteFile(filepath.Join(g.path, fmt.Sprintf("%03d", i)), part, 0o644); err != nil {
			t.Fatal(err)
		}
		i++
	}
	c, err := parley.Create(t.Context(), g.path, parley.CreateOptions{PieceBytes: pieceBytes, Form: metainfo.FormV2})
	if err != nil {
		t.Fatal(err)
	}
	g.mi = c.MetaInfo
	info := g.mi.Info
	hashes, err := attack.HashesOf(info, g.mi.PieceLayers)
	if err != nil {
		t.Fatal(err)
	}
	g.scene = attack.Scene{InfoHash: g.mi.InfoHash, Geometry: info.Geometry, Info: info.Bytes, Files: info.Files, PieceBytes: pieceBytes, Hashes: hashes}
	return g
}

// client starts a client on loopback.
func client(t *testing.T, cfg parley.Config) *parley.Client {
	t.Helper()
	cfg.ListenAddr = "127.0.0.1:0"
	c, err := parley.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing a client: %v", err)
		}
	})
	return c
}

// seed adds the content to a client that has it.
func (f *field) seed(t *testing.T, c *parley.Client, super bool) *parley.Torrent {
	t.Helper()
	tor, err := c.AddTorrent(f.mi, parley.TorrentOptions{SuperSeed: super, Storage: func(info *metainfo.Info) (storage.Storage, error) {
		s := storage.NewMemory(info.Geometry)
		_, err := s.WriteAt(f.content, 0)
		return s, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitComplete(within(t)); err != nil {
		t.Fatal(err)
	}
	return tor
}

// leech adds the content to a client that lacks it, with a function that compares it once it is there.
func (f *field) leech(t *testing.T, c *parley.Client, magnet bool, peers ...netip.AddrPort) (*parley.Torrent, func() error) {
	t.Helper()
	return f.leechFrom(t, c, magnet, parley.TorrentOptions{Peers: peers})
}

// leechFrom is leech with more options.
func (f *field) leechFrom(t *testing.T, c *parley.Client, magnet bool, o parley.TorrentOptions) (*parley.Torrent, func() error) {
	t.Helper()
	var mem storage.Storage
	o.Storage = func(info *metainfo.Info) (storage.Storage, error) {
		mem = storage.NewMemory(info.Geometry)
		return mem, nil
	}
	var tor *parley.Torrent
	var err error
	if magnet {
		tor, err = c.AddMagnet(metainfo.Magnet{InfoHash: f.mi.InfoHash, InfoHashV2: f.mi.InfoHashV2}, o)
	} else {
		tor, err = c.AddTorrent(f.mi, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tor, func() error {
		got := make([]byte, len(f.content))
		if _, err := mem.ReadAt(got, 0); err != nil {
			return err
		}
		if sha1.Sum(got) != sha1.Sum(f.content) || !bytes.Equal(got, f.content) {
			return errors.New("other content")
		}
		return nil
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*attack.Patience)
	t.Cleanup(cancel)
	return ctx
}

// sockets is a stage of real sockets.
type sockets struct {
	addr netip.AddrPort
	log  *attack.Records
}

func (s sockets) Dial(n int) (net.Conn, error) {
	var d net.Dialer
	if runtime.GOOS == "linux" { // everything below 127 is this machine: strangers come from addresses of their own
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 1, 0, byte(n+1))}
	}
	return d.Dial("tcp", s.addr.String())
}

func (s sockets) Reason(local net.Addr) (error, bool) { return s.log.Reason(local) }

// watch follows how much memory and how many goroutines there are.
type watch struct {
	heap, peakHeap uint64
	before         int   // goroutines
	most, allowed  int   // goroutines added
	bound          int64 // bytes that the heap may grow by
	stop           chan struct{}
	done           sync.WaitGroup
}

func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}} // as of the last collection: a flood brings about many
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func newWatch() *watch {
	runtime.GC()
	w := &watch{heap: heapBytes(), allowed: goroutineBound, bound: memoryBound, before: runtime.NumGoroutine(), stop: make(chan struct{})}
	w.done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			w.peakHeap = max(w.peakHeap, heapBytes())
			w.most = max(w.most, runtime.NumGoroutine()-w.before)
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	})
	return w
}

// end stops watching and checks the bounds. It returns what the table says.
func (w *watch) end(t *testing.T) string {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	if grown := int64(w.peakHeap) - int64(w.heap); grown > w.bound {
		t.Errorf("the heap grew by %s, want no more than %s", attack.Size(grown), attack.Size(w.bound))
	}
	if w.most > w.allowed {
		t.Errorf("%d goroutines were added, want no more than %d", w.most, w.allowed)
	}
	return "+" + attack.Size(max(0, int64(w.peakHeap)-int64(w.heap)))
}

// settleSlack is by how much the heap may be larger once an attack is over: what is remembered of those who were here, and what the log of the test holds.
const settleSlack = 2 << 20

// settle waits until the goroutines and the memory that an attack has taken have been given back.
func (w *watch) settle(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(attack.Patience); ; time.Sleep(5 * time.Millisecond) {
		runtime.GC()
		runtime.GC() // pools keep what they hold for one more
		n, grown := runtime.NumGoroutine()-w.before, int64(heapBytes())-int64(w.heap)
		if n <= 0 && grown <= settleSlack {
			return
		}
		if time.Now().After(end) {
			t.Errorf("afterwards there are %d more goroutines, and the heap is larger by %s; want 0 and no more than %s", n, attack.Size(max(0, grown)), attack.Size(settleSlack))
			if n > 0 {
				stacks := make([]byte, 64<<10)
				t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
			}
			return
		}
	}
}

// run is an attack on a client; one that does nothing attacks nobody and finds out how fast an honest peer is served in peace. chat is how many messages and requests
// went to and fro in a second, in the enhanced dialect.
func (f *field) run(t *testing.T, at *attack.Attack) (rate, chat float64, memory string, c *attack.Campaign) {
	target := at.Against
	log := attack.NewRecords()
	cfg := parley.Config{Logger: slog.New(log), MaxMessageBytes: attack.MaxMessage, UploadLimit: at.UploadLimit, DownloadLimit: at.DownloadLimit, MessageMemoryBytes: attack.Memory}
	if at.EMP {
		cfg.MessageWindowBytes = attack.Window
	}
	victim := client(t, cfg)
	honest := client(t, parley.Config{})
	var tor, waits *parley.Torrent
	check := func() error { return nil }
	switch target {
	case attack.Seed:
		tor = f.seed(t, victim, at.SuperSeed)
	case attack.Download, attack.Magnet:
		tor, check = f.leech(t, victim, target == attack.Magnet)
		f.seed(t, honest, false)
		if target == attack.Download {
			if err := tor.WaitMetadata(within(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := tor.Register(parley.MessageType{Name: attack.TypeName, Handler: func(ctx context.Context, _ *parley.Message) error {
		<-ctx.Done() // as slow as it may be
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	scene := f.scene
	var k *talk
	if at.EMP {
		k = newTalk(t, tor, at)
		scene.Begun = k.Begun
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var events sync.WaitGroup
	subscription := tor.Events(ctx)
	events.Go(func() {
		for e := range subscription {
			switch {
			case e.Kind == parley.EventPeerDisconnected:
				log.End(e.Peer.Addr(), e.Err)
			case e.Kind == parley.EventPeerTypes && k != nil:
				k.provoke(t, e.Peer)
			}
		}
	})
	w := newWatch()
	var group sync.WaitGroup
	if at.Run != nil {
		c = attack.NewCampaign(at, scene, sockets{victim.Addr(), log})
		for n := range attack.Attackers {
			group.Go(func() { c.Attacker(t, n) })
		}
		for range attack.Attackers {
			<-c.Begun
		}
	}
	began := time.Now()
	if target == attack.Seed {
		waits, check = f.leech(t, honest, false, victim.Addr())
	} else {
		waits = tor
		tor.AddPeers(honest.Addr())
	}
	enough := func() {}
	if k != nil {
		enough = k.converse(t, waits)
		if at.Withdraws {
			k.withdraws(t, 6)
		}
	}
	if err := waits.WaitComplete(within(t)); err != nil {
		t.Errorf("the honest peer is not served: %v; %+v", err, waits.Stats())
	} else if err := check(); err != nil {
		t.Errorf("the honest peer: %v", err)
	}
	rate = float64(len(f.content)) / time.Since(began).Seconds()
	enough()
	if c != nil {
		close(c.Stop)
	}
	group.Wait()
	memory = w.end(t)
	if k != nil {
		chat = k.finish()
		check = nil
		if err := waits.Close(); err != nil {
			t.Error(err)
		}
		w.settle(t)
	}
	if s := tor.Stats(); s.State != parley.StateSeeding || s.Err != nil {
		t.Errorf("afterwards: %+v", s)
	}
	if at.Run == nil && k == nil { // its clients stay until the end of all attacks, and are to do nothing meanwhile
		if err := waits.Close(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	events.Wait()
	if loud := log.Loud(); len(loud) > logBound {
		t.Errorf("%d records in the log, want no more than %d; the first: %q", len(loud), logBound, loud[:5])
	}
	return rate, chat, memory, c
}

// A client under attack by several strangers at once serves an honest peer all the same, keeps its memory bounded, and says little about it.
func TestAttacks(t *testing.T) {
	f := newField(t)
	v2 := newFieldV2(t, f)
	var tb attack.Table
	for _, target := range []attack.Target{attack.Seed, attack.Download, attack.Magnet} {
		f.calm[target], _, _, _ = f.run(t, &attack.Attack{Against: target})
		v2.calm[target], _, _, _ = v2.run(t, &attack.Attack{Against: target})
	}
	_, f.chat, _, _ = f.run(t, &attack.Attack{EMP: true})
	for _, s := range slices.Concat(specials, empSpecials) {
		t.Run(s.name, func(t *testing.T) { f.siege(t, s, &tb) })
	}
	for i, at := range attack.All() {
		if at.Slow || raceEnabled && i%2 == 1 {
			continue
		}
		t.Run(at.Name, func(t *testing.T) {
			f := f
			if at.V2 {
				f = v2
			}
			rate, chat, memory, c := f.run(t, &at)
			honest := fmt.Sprintf("%.0f of %.0f MB/s", rate/1e6, f.calm[at.Against]/1e6)
			if at.EMP {
				honest += fmt.Sprintf(", %.0f of %.0f calls/s", chat, f.chat)
			}
			tb.Add(attack.Row{at.Name, at.Limit, c.Result(), memory, honest})
		})
	}
	for _, a := range webAttacks {
		t.Run(a.name, func(t *testing.T) { f.webSiege(t, a, &tb) })
	}
	tb.Print(t, "PARLEY_ATTACKS")
}
