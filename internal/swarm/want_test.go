package swarm

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// newFilesWorld is newWorld with several files: one of each length, and padding of that length where it is negative.
func newFilesWorld(t *testing.T, pieceBytes int64, link simnet.Link, lengths ...int64) *world {
	t.Helper()
	total := int64(0)
	b := metainfo.Builder{Name: "content", PieceLength: pieceBytes}
	for i, n := range lengths {
		f := metainfo.File{Path: []string{fmt.Sprintf("file%d", i)}, Length: max(n, -n), Padding: n < 0}
		if f.Padding {
			f.Path = []string{".pad", fmt.Sprint(i)}
		}
		b.Files = append(b.Files, f)
		total += f.Length
	}
	w := newWorld(t, total, pieceBytes, link)
	at := int64(0)
	for _, f := range b.Files {
		if f.Padding {
			clear(w.content[at : at+f.Length])
		}
		at += f.Length
	}
	w.describe(b)
	return w
}

// describe makes the torrent of a world anew from its content.
func (w *world) describe(b metainfo.Builder) {
	w.t.Helper()
	b.PieceHashes = nil
	for at := int64(0); at < int64(len(w.content)); at += b.PieceLength {
		sum := sha1.Sum(w.content[at:min(at+b.PieceLength, int64(len(w.content)))])
		b.PieceHashes = append(b.PieceHashes, sum[:]...)
	}
	mi, err := b.Build()
	if err != nil {
		w.t.Fatal(err)
	}
	w.info, w.ih = mi.Info, mi.InfoHash
}

// file returns the content of a file.
func (w *world) file(i int) []byte {
	f := w.info.Files[i]
	return w.content[f.Offset : f.Offset+f.Length]
}

// inFiles keeps a node's torrent in files below dir.
func inFiles(dir string) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		cfg.Open = func(info *metainfo.Info) (storage.Storage, error) {
			var files []storage.File
			for _, f := range info.Files {
				files = append(files, storage.File{Path: f.Path, Length: f.Length, Padding: f.Padding})
			}
			return storage.OpenFiles(dir, files, info.Geometry, storage.Options{InfoHash: cfg.InfoHash})
		}
	}
}

// wanting gives each file a priority; those behind are Normal.
func wanting(prio ...Priority) func(*node, *Config) {
	return with(func(cfg *Config) {
		cfg.Want = func(i int, _ *metainfo.File) Priority {
			if i < len(prio) {
				return prio[i]
			}
			return Normal
		}
	})
}

// inDir compares what a folder holds, hidden files excepted, with files of the world.
func (w *world) inDir(dir string, files ...int) {
	w.t.Helper()
	want := map[string]bool{}
	for _, i := range files {
		name := w.info.Files[i].Path[0]
		want[name] = true
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			w.t.Error(err)
		} else if !bytes.Equal(got, w.file(i)) {
			w.t.Errorf("%s is not what it should be", name)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if !want[e.Name()] && !strings.HasPrefix(e.Name(), ".") {
			w.t.Errorf("there is %s, which nobody wants", e.Name())
		}
	}
}

// await waits until something holds, for at most a simulated minute.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 600 {
		if holds() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("it does not come about that %s", what)
}

func awaitState(t *testing.T, n *node, s State) {
	t.Helper()
	await(t, fmt.Sprintf("the torrent's state is %d", s), func() bool { return n.tor.Stats().State == s })
}

// Only what is wanted is downloaded; with that the torrent is complete, says so to peers, serves what it has, keeps it across runs, and downloads again when more
// is wanted.
func TestChosenFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Files 1 and 3 share pieces with their neighbours; 2 lies within one piece of theirs.
		w := newFilesWorld(t, 2*piece, slow, 20*piece+5, 40*piece+100, 300, 30*piece, 0)
		dir := t.TempDir()
		seed := w.start(seeding)
		n := w.start(inFiles(dir), wanting(Normal, Skip, High, Skip, Normal))
		n.tor.AddPeers(seed.addr)
		awaitState(t, n, StateSeeding)
		s := n.tor.Stats()
		if want := int64(20*piece + 5 + 300); s.WantedBytes != want || s.WantedHave != want || s.HavePieces >= s.Pieces/2 {
			t.Errorf("%+v, want %d bytes wanted and here", s, want)
		}
		if s.Downloaded > 24*piece {
			t.Errorf("%d bytes were downloaded", s.Downloaded)
		}
		w.inDir(dir, 0, 2, 4)
		for i, f := range n.tor.Files() {
			if done := f.Done == f.Length; done != (i == 0 || i == 2 || i == 4) || f.Index != i {
				t.Errorf("file %d: %+v", i, f)
			}
		}
		if n.count(EventComplete) != 1 {
			t.Errorf("%d times complete", n.count(EventComplete))
		}

		// It serves what it has: another that wants the same gets it from here, and nothing from the seed.
		other := w.start(wanting(Normal, Skip, High, Skip))
		other.tor.AddPeers(n.addr)
		awaitState(t, other, StateSeeding)

		// Another run takes up where it was.
		n.close()
		n = w.start(inFiles(dir), wanting(Normal, Skip, High, Skip, Normal))
		awaitState(t, n, StateSeeding)
		if s := n.tor.Stats(); s.WantedHave != s.WantedBytes || s.Downloaded != 0 {
			t.Errorf("after a restart: %+v", s)
		}
		other.close()

		// More is wanted.
		n.tor.AddPeers(seed.addr)
		if err := n.tor.SetPriority(Low, 3); err != nil {
			t.Fatal(err)
		}
		if s := n.tor.Stats().State; s != StateDownloading {
			t.Errorf("the state is %d although more is wanted", s)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := n.tor.WaitComplete(ctx); err != nil {
			t.Fatal(err)
		}
		w.inDir(dir, 0, 2, 3, 4)
		if err := n.tor.SetPriority(Normal, 1); err != nil {
			t.Fatal(err)
		}
		if err := n.tor.WaitComplete(ctx); err != nil {
			t.Fatal(err)
		}
		w.inDir(dir, 0, 1, 2, 3, 4)
		if s := n.tor.Stats(); s.HavePieces != s.Pieces || s.WantedHave != s.TotalBytes {
			t.Errorf("with everything: %+v", s)
		}
		for _, bad := range []int{-1, 5} {
			if err := n.tor.SetPriority(Normal, bad); !errors.Is(err, ErrNoFile) {
				t.Errorf("file %d: %v", bad, err)
			}
		}
	})
}

// While there is no metadata nothing can be chosen; what the configuration says holds once it comes.
func TestChosenBeforeMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, piece, slow, 10*piece, 20*piece)
		n := w.start(magnet, wanting(Skip))
		if err := n.tor.SetPriority(High, 0); !errors.Is(err, ErrNoMetadata) {
			t.Errorf("%v, want that there is no metadata", err)
		}
		if _, err := n.tor.NewReader(0); !errors.Is(err, ErrNoMetadata) {
			t.Errorf("%v, want that there is no metadata", err)
		}
		n.tor.AddPeers(w.start(seeding).addr)
		awaitState(t, n, StateSeeding)
		if s := n.tor.Stats(); s.HavePieces != 20 {
			t.Errorf("%d pieces, want those of the file that is wanted", s.HavePieces)
		}
		if _, err := n.tor.NewReader(0); !errors.Is(err, ErrSkipped) {
			t.Errorf("%v, want that the file is skipped", err)
		}
	})
}

// What becomes unwanted in the middle is given up: no peer is lost over it, and what is left completes.
func TestLessIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, 8*piece, simnet.Link{Latency: 50 * time.Millisecond, Rate: 400 << 10}, 80*piece, 400*piece)
		seed := w.start(seeding)
		n := w.start(wanting(Low, High))
		n.tor.AddPeers(seed.addr)
		await(t, "something has come", func() bool { return n.tor.Stats().Downloaded > 30*piece })
		if f := n.tor.Files(); f[0].Done > f[1].Done {
			t.Errorf("%d bytes of the low file and %d of the high one", f[0].Done, f[1].Done)
		}
		if err := n.tor.SetPriority(Skip, 1); err != nil {
			t.Fatal(err)
		}
		n.tor.do(func() {
			for i := range n.tor.open {
				if i >= 10 {
					t.Errorf("piece %d is still open", i)
				}
			}
		})
		awaitState(t, n, StateSeeding)
		if f := n.tor.Files(); f[0].Done != f[0].Length {
			t.Errorf("%d of %d bytes", f[0].Done, f[0].Length)
		}
		time.Sleep(5 * time.Second)
		if c := n.count(EventPeerDisconnected); c != 0 && n.tor.Stats().Downloaded > 200*piece {
			t.Errorf("%d peers were lost, %d bytes downloaded", c, n.tor.Stats().Downloaded)
		}
		for _, e := range n.snapshot() {
			if e.Kind == EventPeerDisconnected && e.Err != nil && !errors.Is(e.Err, errRedundant) {
				t.Errorf("a peer was lost: %v", e.Err)
			}
		}
	})
}

func (n *node) snapshot() []Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Event(nil), n.events...)
}

// Padding is not asked for, neither blocks in a piece nor whole pieces; nothing is written of it, and it is served as zeros.
func TestPadding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, 4*piece, slow, 5*piece, -3*piece, 9*piece+1, -(3*piece - 1), -8*piece, 4*piece)
		padding := func(b bt.Block) bool {
			off := w.info.Geometry.Offset(b)
			for _, f := range w.info.Files {
				if f.Padding && f.Offset <= off && off+int64(b.Length) <= f.Offset+f.Length {
					return true
				}
			}
			return false
		}
		var mu sync.Mutex
		asked := 0
		seed := w.listenRaw(func(p *rawpeer.Peer) {
			p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
			p.Until(func(m wire.Message) bool {
				r, ok := m.(*wire.Request)
				if !ok {
					return false
				}
				mu.Lock()
				asked++
				mu.Unlock()
				if padding(r.Block) {
					t.Errorf("%v is padding and was asked for", r.Block)
				}
				off := w.info.Geometry.Offset(r.Block)
				p.Write(classic.AppendPiece(nil, wire.Piece{Index: r.Block.Index, Begin: r.Block.Begin, Data: w.content[off : off+int64(r.Block.Length)]}))
				return false
			})
		})
		dir := t.TempDir()
		n := w.start(inFiles(dir))
		n.tor.AddPeers(seed)
		awaitState(t, n, StateSeeding)
		w.inDir(dir, 0, 2, 5)
		if asked != 5+10+4 {
			t.Errorf("%d blocks were asked for, want 19", asked)
		}
		if len(n.tor.Files()) != 3 {
			t.Errorf("%d files are shown, want those that are not padding", len(n.tor.Files()))
		}
		if err := n.tor.SetPriority(High, 1); !errors.Is(err, ErrNoFile) {
			t.Errorf("the priority of padding: %v", err)
		}
		other := w.start()
		other.tor.AddPeers(n.addr)
		other.waitComplete(time.Minute)
	})
}

// A torrent whose padding is not zeros stops, rather than being tried for ever.
func TestPaddingThatIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFilesWorld(t, piece, slow, 3*piece, -2*piece, piece)
		w.content[4*piece] = 1
		w.describe(metainfo.Builder{Name: "content", PieceLength: piece, Files: w.info.Files})
		n := w.start()
		awaitState(t, n, StateStopped)
		if err := n.tor.Stats().Err; !errors.Is(err, errPadding) {
			t.Errorf("stopped by %v", err)
		}
	})
}

// A peer that says that it has lost a piece is not asked for it, and what it owed of it is asked of others; who has lost one says so and fetches it again.
func TestDontHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 60*piece, piece, slow)
		first := w.start(seeding)
		second := w.start(seeding)
		n := w.start()
		n.tor.AddPeers(first.addr, second.addr)
		n.waitComplete(time.Minute)
		refetch := func() bool { s := n.tor.Stats(); return s.State == StateSeeding && s.HavePieces == 60 }

		// Both are seeds, and have parted; a leecher keeps the sessions alive.
		var refused atomic.Int32
		watch := w.listenRaw(func(p *rawpeer.Peer) {
			p.Write(classic.AppendInterested(nil))
			p.Until(func(m wire.Message) bool {
				if m.Kind() == wire.KindExtended {
					refused.Add(1)
				}
				return false
			})
		})
		n.tor.AddPeers(watch)
		time.Sleep(3 * time.Second)
		if err := n.tor.Lose(3, 7, 3, 59); err != nil {
			t.Fatal(err)
		}
		if s := n.tor.Stats(); s.State != StateDownloading || s.HavePieces != 57 {
			t.Errorf("%+v, want a download of three pieces", s)
		}
		n.tor.AddPeers(first.addr, second.addr)
		await(t, "the lost pieces are back", refetch)
		if s := n.tor.Stats(); s.Downloaded-s.Wasted != 63*piece {
			t.Errorf("%d bytes downloaded and %d wasted, want 63 pieces", s.Downloaded, s.Wasted)
		}

		// The first loses two pieces while somebody downloads from it: they come from the second.
		late := w.start()
		late.tor.AddPeers(first.addr)
		await(t, "the download has begun", func() bool { return late.tor.Stats().Downloaded > 5*piece })
		if late.tor.Stats().State != StateDownloading {
			t.Fatal("it is over already: the test is none")
		}
		if err := first.tor.Lose(0, 59); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		late.tor.do(func() {
			for p := range late.tor.peers {
				if p.addr == first.addr && (p.seed || p.has != nil && p.has.Full()) {
					t.Error("the first still counts as a seed")
				}
			}
		})
		late.tor.AddPeers(second.addr)
		late.waitComplete(time.Minute)
	})
}

// superResult is what a seed sent until all had everything, and how long that took.
type superResult struct {
	uploaded int64
	took     time.Duration
}

// spread has a seed and n others, who know each other, share a torrent.
func spread(t *testing.T, super bool, n int, extra ...func(*node, *Config)) (r superResult, total int64) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 120*4*piece, 4*piece, simnet.Link{Latency: 10 * time.Millisecond, Rate: 1 << 20})
		total = int64(len(w.content))
		seed := w.start(seeding, with(func(cfg *Config) { cfg.SuperSeed = super }))
		var nodes []*node
		for range n {
			x := w.start(extra...)
			for _, y := range nodes {
				x.tor.AddPeers(y.addr)
			}
			nodes = append(nodes, x)
		}
		began := time.Now()
		for _, x := range nodes {
			x.tor.AddPeers(seed.addr)
		}
		for _, x := range nodes {
			x.waitComplete(time.Hour)
		}
		r = superResult{seed.tor.uploaded.Load(), time.Since(began)}
	})
	return r, total
}

// A super-seed sends little more than one copy before everybody has everything.
func TestSuperSeed(t *testing.T) {
	for _, n := range []int{1, 4, 10} {
		plain, total := spread(t, false, n)
		super, _ := spread(t, true, n)
		factor := float64(super.uploaded) / float64(total)
		t.Logf("%d peers: the seed sent %.2f times the content in %v, super-seeding %.2f times in %v", n, float64(plain.uploaded)/float64(total), plain.took, factor, super.took)
		if factor > 1.3 {
			t.Errorf("%d peers: a super-seed sent %.2f times the content, want at most 1.3", n, factor)
		}
	}
}

// A super-seed says first that it has nothing (BEP 6), and only then what it shows: libtorrent forgets what came before.
func TestSuperSeedGreets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		seed := w.start(seeding, with(func(cfg *Config) { cfg.SuperSeed = true }))
		await(t, "it seeds", func() bool { return seed.tor.Stats().State == StateSeeding })
		addr := w.addr()
		nc, err := w.net.Dial(context.Background(), addr, seed.addr)
		if err != nil {
			t.Fatal(err)
		}
		p := rawpeer.New(t, nc)
		if _, err := p.Greet(w.ih, peerID(addr), OurReserved); err != nil {
			t.Fatal(err)
		}
		var kinds []wire.Kind
		p.Until(func(m wire.Message) bool {
			kinds = append(kinds, m.Kind())
			return m.Kind() == wire.KindHave
		})
		if len(kinds) < 2 || kinds[0] != wire.KindHaveNone || kinds[len(kinds)-1] != wire.KindHave {
			t.Errorf("it said %v, want have none first and then a piece", kinds)
		}
	})
}

// Who passes nothing on is shown no more than its share: the rest goes to those who do.
func TestSuperSeedFreeRider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 500*piece, piece, simnet.Link{Latency: 10 * time.Millisecond, Rate: 1 << 20})
		seed := w.start(seeding, with(func(cfg *Config) { cfg.SuperSeed = true }))
		// Somebody else is there who fetches what it is shown, and gives nobody anything either.
		other := w.raw(seed)
		other.Write(classic.AppendInterested(classic.AppendHaveNone(nil)))
		go other.Until(func(m wire.Message) bool {
			switch m := m.(type) {
			case *wire.Have:
				other.Write(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Index: m.Index, Length: piece}}))
			case *wire.Piece:
				other.Write(classic.AppendHave(nil, wire.Have{Index: m.Index}))
			}
			return false
		})
		shown, got := map[bt.PieceIndex]bool{}, map[bt.PieceIndex]bool{}
		var mu sync.Mutex
		taker := w.raw(seed)
		taker.Write(classic.AppendInterested(classic.AppendHaveNone(nil)))
		go taker.Until(func(m wire.Message) bool {
			mu.Lock()
			defer mu.Unlock()
			switch m := m.(type) {
			case *wire.Have:
				shown[m.Index] = true
				taker.Write(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Index: m.Index, Length: piece}}))
				// What was not shown is not served, whoever asks.
				taker.Write(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Index: (m.Index + 250) % 500, Length: piece}}))
			case *wire.Piece:
				got[m.Index] = true
				if !shown[m.Index] {
					t.Errorf("piece %d was served and not shown", m.Index)
				}
				taker.Write(classic.AppendHave(nil, wire.Have{Index: m.Index}))
			case *wire.Bitfield, *wire.HaveAll:
				t.Error("a super-seed says what it has")
			}
			return false
		})
		wait := func(d time.Duration) {
			for ; d > 0; d -= 5 * time.Second {
				time.Sleep(5 * time.Second)
				alive := classic.AppendKeepAlive(nil)
				if _, err := other.Write(alive); err != nil {
					t.Fatal(err)
				}
				if _, err := taker.Write(alive); err != nil {
					t.Fatal(err)
				}
			}
		}
		wait(superPatience - 10*time.Second)
		mu.Lock()
		if len(shown) == 0 || len(got) == 0 || len(shown) > superAhead {
			t.Errorf("it was shown %d pieces and got %d, want %d", len(shown), len(got), superAhead)
		}
		mu.Unlock()
		wait(10 * superPatience)
		mu.Lock()
		if len(shown) <= superAhead || len(shown) > 12*superAhead {
			t.Errorf("after ten minutes it was shown %d pieces, want a few more", len(shown))
		}
		mu.Unlock()
	})
}
