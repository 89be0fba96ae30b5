package parley_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// Several goroutines call everything that can be called, at random, on the clients of a small swarm whose files are damaged meanwhile. Nothing may panic, race, hang or
// leak, numbers stay possible, and once it is quiet everybody ends up with the right content.
//
// PARLEY_MONKEY says for how long ("1m"), PARLEY_MONKEY_SEED repeats the choices of a run, as far as the scheduler lets it.
func TestMonkey(t *testing.T) {
	span := 2 * time.Second
	if s := os.Getenv("PARLEY_MONKEY"); s != "" {
		var err error
		if span, err = time.ParseDuration(s); err != nil {
			t.Fatalf("PARLEY_MONKEY: %v", err)
		}
	}
	seed := rand.Uint64()
	if s := os.Getenv("PARLEY_MONKEY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("PARLEY_MONKEY_SEED: %v", err)
		}
	}
	t.Logf("the seed is %d", seed)
	hung := time.AfterFunc(span+2*time.Minute, func() {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		panic("the monkey test hangs; the seed is " + strconv.FormatUint(seed, 10))
	})
	defer hung.Stop()

	z := newZoo(t)
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	for i := range 8 {
		m := &monkey{t: t, z: z, r: rand.New(rand.NewPCG(seed, uint64(i)))}
		wg.Go(func() {
			for ctx.Err() == nil {
				m.play(ctx, z.clients[i%len(z.clients)])
			}
		})
	}
	wg.Wait()
	z.calm()
	for _, c := range z.clients {
		if err := c.Close(); err != nil {
			t.Errorf("closing a client: %v", err)
		}
	}
}

// zoo is the swarm that monkeys play with: the first client has everything, the others download.
type zoo struct {
	t        *testing.T
	clients  []*parley.Client
	metas    []*metainfo.MetaInfo
	contents []map[string][]byte // of each torrent by path
	home     string

	mu  sync.Mutex // of what follows; held while a torrent is added
	dir map[*parley.Client]int
}

func newZoo(t *testing.T) *zoo {
	z := &zoo{t: t, home: t.TempDir(), dir: make(map[*parley.Client]int)}
	for range 4 {
		c := newClient(t, parley.Config{MaxActiveDownloads: 2, MaxActiveSeeds: 3, MaxUploads: 4, MaxPeers: 3, MaxHalfOpen: 2, MaxConnections: 24, BufferBytes: 1 << 20,
			StateDir: filepath.Join(z.home, "state"+strconv.Itoa(len(z.clients)))})
		z.clients = append(z.clients, c)
	}
	for i, form := range []metainfo.Form{metainfo.FormV1, metainfo.FormV2, metainfo.FormHybrid} {
		dir := filepath.Join(z.home, "origin", "t"+strconv.Itoa(i))
		files := map[string][]byte{}
		for k, size := range []int{200_000, 1, 70_000, 400_000} {
			name := "f" + strconv.Itoa(k)
			files[name] = writeFile(t, filepath.Join(dir, name), size)
		}
		made, err := parley.Create(t.Context(), dir, parley.CreateOptions{Form: form, PieceBytes: 16 << 10})
		if err != nil {
			t.Fatal(err)
		}
		z.metas, z.contents = append(z.metas, made.MetaInfo), append(z.contents, files)
		if _, err := z.clients[0].SeedTorrent(t.Context(), made.MetaInfo, dir, parley.TorrentOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return z
}

// peers is where everybody listens.
func (z *zoo) peers() (all []netip.AddrPort) {
	for _, c := range z.clients {
		all = append(all, c.Addr())
	}
	return all
}

// add adds a torrent to a client that may have it already, in a new folder.
func (z *zoo) add(c *parley.Client, i int, magnet bool, o parley.TorrentOptions) (*parley.Torrent, error) {
	z.mu.Lock()
	z.dir[c]++
	o.Dir = filepath.Join(z.home, "c"+strconv.Itoa(slices.Index(z.clients, c)), strconv.Itoa(z.dir[c]))
	z.mu.Unlock()
	if magnet {
		m := z.metas[i].Magnet()
		m.Trackers = nil
		return c.AddMagnet(m, o)
	}
	return c.AddTorrent(z.metas[i], o)
}

// calm brings everything into order, and sees that it works.
func (z *zoo) calm() {
	t := z.t
	ctx := within(t, time.Minute)
	for _, c := range z.clients {
		if err := c.SetLimits(0, 0); err != nil {
			t.Error(err)
		}
		for i := range z.metas {
			if _, err := z.add(c, i, false, parley.TorrentOptions{}); err != nil && !errors.Is(err, parley.ErrTorrentExists) {
				t.Error(err)
			}
		}
		for tor := range c.Torrents() {
			tor.Resume()
			if err := tor.SetLimits(0, 0); err != nil {
				t.Error(err)
			}
			tor.AddPeers(z.peers()...)
		}
	}
	for left := true; left; { // those that are queued come when others are gone
		left = false
		for n, c := range z.clients[1:] {
			for tor := range c.Torrents() {
				left = true
				if z.settle(ctx, n+1, tor) {
					if err := tor.Close(); err != nil {
						t.Error(err)
					}
				}
			}
		}
		if ctx.Err() != nil {
			z.report()
			return
		}
	}
}

// report tells of who is not done in the end.
func (z *zoo) report() {
	for n, c := range z.clients {
		for tor := range c.Torrents() {
			z.t.Errorf("client %d has %v in the end: %+v; %+v", n, tor.Name(), tor.Stats(), tor.Files())
			for p := range tor.Peers() {
				z.t.Logf("with %+v", p.Info())
			}
		}
	}
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
}

// settle brings one torrent nearer to its end, and compares it then.
func (z *zoo) settle(ctx context.Context, n int, tor *parley.Torrent) bool {
	soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	for tor.Stats().Err != nil && soon.Err() == nil { // while it stops it cannot be started
		if err := tor.Retry(); err != nil {
			z.t.Errorf("retry: %v", err)
			return true
		}
		if errors.Is(tor.WaitMetadata(soon), storage.ErrConflict) { // a finished file was cut short: that is for the user to solve
			if err := os.RemoveAll(filepath.Join(tor.Dir(), tor.Name())); err != nil {
				z.t.Error(err)
			}
		}
	}
	if tor.Stats().State == parley.StateIdle {
		return true // it downloads nothing
	}
	tor.Resume() // a message on its way may have paused it
	tor.AddPeers(z.clients[0].Addr())
	if tor.WaitMetadata(soon) != nil {
		return false
	}
	for _, f := range tor.Files() {
		if f.Priority != parley.PriorityNormal {
			if err := tor.SetPriority(parley.PriorityNormal, f.Index); err != nil {
				return false
			}
		}
	}
	if tor.WaitComplete(soon) != nil {
		return false
	}
	if lost, err := tor.Verify(ctx, parley.VerifyOptions{}); err != nil || lost > 0 {
		return false // damaged before
	}
	i := slices.IndexFunc(z.metas, func(mi *metainfo.MetaInfo) bool { return mi.Info.Name == tor.Name() })
	for name, want := range z.contents[i] {
		if got, err := os.ReadFile(filepath.Join(tor.Dir(), tor.Name(), name)); err != nil || !bytes.Equal(got, want) {
			z.t.Errorf("client %d: %s of %s: %d bytes, want %d others; %v; %+v", n, name, tor.Name(), len(got), len(want), err, tor.Stats())
		}
	}
	return true
}

// monkey makes the choices of one goroutine.
type monkey struct {
	t *testing.T
	z *zoo
	r *rand.Rand
}

// play does one thing with a client.
func (m *monkey) play(ctx context.Context, c *parley.Client) {
	r, z := m.r, m.z
	soon, cancel := context.WithTimeout(ctx, time.Duration(r.IntN(30))*time.Millisecond)
	defer cancel()
	torrents := slices.Collect(c.Torrents())
	if len(torrents) == 0 || r.IntN(40) == 0 {
		o := parley.TorrentOptions{Paused: r.IntN(8) == 0, NoDownload: r.IntN(16) == 0, Sequential: r.IntN(4) == 0, SuperSeed: r.IntN(4) == 0, Peers: z.peers()}
		if r.IntN(3) == 0 {
			o.Want = func(f parley.File) parley.Priority { return parley.Priority(f.Index % 4) }
		}
		if tor, err := z.add(c, r.IntN(len(z.metas)), r.IntN(3) == 0, o); err == nil {
			m.register(tor)
		}
		return
	}
	switch r.IntN(40) {
	case 0:
		_ = c.SetLimits(int64(r.IntN(3))<<20, int64(r.IntN(3))<<20)
		return
	case 1:
		c.Limits()
		c.ExternalIP()
		return
	}
	m.torrent(soon, c, torrents[r.IntN(len(torrents))])
}

// register has messages of a type do things too.
func (m *monkey) register(tor *parley.Torrent) {
	_, _ = tor.Register(parley.MessageType{Name: "monkey", Handler: func(ctx context.Context, msg *parley.Message) error {
		switch {
		case len(msg.Payload) == 0:
		case msg.Payload[0] == 0:
			tor.Pause()
		case msg.Payload[0] == 1:
			tor.Resume()
		case msg.Payload[0] == 2:
			return msg.Peer.Send(ctx, "monkey", nil)
		case msg.Payload[0] == 3:
			return msg.Peer.Close()
		case msg.Payload[0] == 4:
			_, err := tor.Verify(ctx, parley.VerifyOptions{})
			return err
		}
		return nil
	}})
}

// talk sends messages of a type in every way there is.
func (m *monkey) talk(ctx context.Context, ty *parley.Type) {
	r := m.r
	_, _ = ty.Broadcast(ctx, []byte("hello"))
	for p := range ty.Peers() {
		n := []int{r.IntN(100), r.IntN(200_000)}[r.IntN(2)]
		o := parley.Outgoing{Payload: make([]byte, n), Version: uint8(r.IntN(3)), Priority: int8(r.IntN(3)), ReplyMax: r.IntN(300_000)}
		if r.IntN(2) == 0 {
			o.Encode = func(v uint8) ([]byte, error) { return make([]byte, int(v)+n), nil }
		}
		switch r.IntN(4) {
		case 0:
			_ = ty.SendMessage(ctx, p, o)
		case 1:
			_, _ = ty.BroadcastMessage(ctx, o)
		case 2:
			_, _ = ty.RequestMessage(ctx, p, o)
		default:
			if w, err := ty.NewWriter(ctx, p, int64(n), o); err == nil {
				_, _ = w.Write(make([]byte, r.IntN(n+2)))
				_ = w.Close()
			}
		}
		p.TypeInfos()
		p.TypeStats()
		p.MessageLimits()
		ty.Stats()
	}
}

// torrent does one thing with a torrent. Errors are expected: half of what is asked makes no sense at the moment.
func (m *monkey) torrent(ctx context.Context, c *parley.Client, tor *parley.Torrent) {
	r, z := m.r, m.z
	origin := c == z.clients[0]
	switch r.IntN(28) {
	case 0:
		tor.Pause()
	case 1, 2, 3:
		tor.Resume()
	case 4, 5:
		_ = tor.Retry()
	case 6:
		_, _ = tor.Verify(ctx, parley.VerifyOptions{BytesPerSecond: int64(r.IntN(2)) << 20, Progress: func(int, int) {}})
	case 7:
		if !origin {
			_ = tor.Move(ctx, filepath.Join(z.home, "moved", strconv.Itoa(slices.Index(z.clients, c)), strconv.Itoa(r.IntN(1<<30))))
		}
	case 8, 9:
		if !origin {
			_ = tor.SetPriority(parley.Priority(r.IntN(5)), r.IntN(5))
		}
	case 10:
		_ = tor.SetSequential(r.IntN(2) == 0)
	case 11:
		_ = tor.SetLimits(int64(r.IntN(3))<<18, int64(r.IntN(3))<<18)
		tor.Limits()
	case 12, 13:
		m.read(ctx, tor)
	case 14, 15:
		tor.AddPeers(z.peers()...)
		tor.LearnPeers(z.peers()...)
	case 16:
		_ = tor.WaitComplete(ctx)
	case 17:
		_ = tor.WaitMetadata(ctx)
	case 18:
		for range tor.Events(ctx) {
		}
	case 19:
		mt := parley.MessageType{Name: "type" + strconv.Itoa(r.IntN(3)), MaxBytes: 1 << 20, MaxVersion: uint8(r.IntN(3))}
		switch r.IntN(3) {
		case 0:
			mt.Stream = func(_ context.Context, msg *parley.Message, rd io.Reader) error {
				_, err := io.CopyN(io.Discard, rd, msg.Size/2)
				return err
			}
		case 1:
			mt.Requests = func(_ context.Context, msg *parley.Message) ([]byte, error) { return msg.Payload, nil }
		}
		ty, err := tor.Register(mt)
		if err != nil {
			break
		}
		m.talk(ctx, ty)
		for range ty.Messages(ctx) {
			break
		}
		_ = ty.Withdraw()
	case 20:
		if !origin && r.IntN(3) == 0 {
			if err := tor.Close(); err != nil && !strings.Contains(err.Error(), "handler") {
				m.t.Errorf("closing: %v", err)
			}
		}
	case 21:
		if !origin {
			m.damage(tor)
		}
	case 22, 23:
		for p := range tor.Peers() {
			switch p.Info(); r.IntN(6) {
			case 0:
				_ = p.Close()
			case 1:
				_ = p.Flush(ctx)
			default:
				_ = p.Send(ctx, "monkey", []byte{byte(r.IntN(6))})
			}
		}
	case 24:
		tor.Trackers()
		tor.Scrape(ctx)
		tor.WebSeeds()
		tor.Magnet()
		tor.InfoHashV2()
	default:
		m.look(tor)
	}
}

// look sees that a torrent's numbers are possible.
func (m *monkey) look(tor *parley.Torrent) {
	s := tor.Stats()
	if s.HaveBytes > s.TotalBytes || s.WantedHave > s.WantedBytes || s.WantedHave > s.HaveBytes || s.WantedBytes > s.TotalBytes || s.HavePieces > s.Pieces || s.Seeds > s.Peers || s.WantedHave < 0 || s.Wasted < 0 {
		m.t.Errorf("%s: impossible: %+v", tor.Name(), s)
	}
	for _, f := range tor.Files() {
		if f.Done < 0 || f.Done > f.Length {
			m.t.Errorf("%s: impossible: %+v", tor.Name(), f)
		}
	}
}

// read reads somewhere, and compares.
func (m *monkey) read(ctx context.Context, tor *parley.Torrent) {
	files := tor.Files()
	if len(files) == 0 {
		return
	}
	f := files[m.r.IntN(len(files))]
	reader, err := tor.NewReader(f.Index)
	if err != nil {
		return
	}
	defer reader.Close()
	at, err := reader.Seek(m.r.Int64N(f.Length), 0)
	if err != nil {
		m.t.Error(err)
	}
	buf := make([]byte, 1+m.r.IntN(100_000))
	n, err := reader.ReadContext(ctx, buf)
	if err == nil && n == 0 || n > len(buf) || at+int64(n) > f.Length {
		m.t.Errorf("%d bytes at %d of %d; %v", n, at, f.Length, err)
	}
}

// damage cuts a file of a torrent short, or throws it away.
func (m *monkey) damage(tor *parley.Torrent) {
	name := filepath.Join(tor.Dir(), tor.Name(), []string{"f0", "f2", "f3"}[m.r.IntN(3)])
	for _, name := range []string{name, name + ".part"} {
		if m.r.IntN(2) == 0 {
			_ = os.Truncate(name, m.r.Int64N(1000)) // it may not be there
		} else {
			_ = os.Remove(name)
		}
	}
}
