package storage_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// TestMain lets the crash test run this binary as the program that it kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PARLEY_CRASH_DIR"); dir != "" {
		fmt.Fprintln(os.Stderr, crashing(dir, os.Getenv("PARLEY_CRASH_STATE"), os.Getenv("PARLEY_CRASH_TORRENT"), os.Getenv("PARLEY_CRASH_PEER")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	crashPiece   = 64 << 10
	crashUnsaved = 1 << 20
)

// told is a storage that says on standard output what is verified, once it is.
type told struct {
	*storage.Files
	read atomic.Int64

	mu      sync.Mutex
	have    *bitfield.Set
	trusted int
	ready   bool
}

func (s *told) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Files.ReadAt(p, off)
	s.read.Add(int64(n))
	return n, err
}

func (s *told) Resume() (trusted, check *bitfield.Set, err error) {
	trusted, check, err = s.Files.Resume()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have, s.trusted = trusted.Clone(), trusted.Count()
	return trusted, check, err
}

func (s *told) Verified(i bt.PieceIndex) error {
	if err := s.Files.Verified(i); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have.Add(int(i))
	if s.ready {
		fmt.Println("verified", i)
	}
	return nil
}

// crashing downloads until somebody kills it. What is verified is remembered in the folder state, or beside the files if that is "".
func crashing(dir, state, torrent, peer string) error {
	b, err := os.ReadFile(torrent)
	if err != nil {
		return err
	}
	mi, err := metainfo.Parse(b)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(peer)
	if err != nil {
		return err
	}
	opts := storage.Options{InfoHash: mi.InfoHash, MaxUnsavedBytes: crashUnsaved}
	if state != "" {
		if err := os.MkdirAll(state, 0o700); err != nil {
			return err
		}
		if opts.State, err = os.OpenRoot(state); err != nil {
			return err
		}
	}
	c, err := parley.NewClient(parley.Config{NoListen: true})
	if err != nil {
		return err
	}
	var s *told
	t, err := c.AddTorrent(mi, parley.TorrentOptions{Storage: func(info *metainfo.Info) (storage.Storage, error) {
		paths, err := metainfo.SafePaths(info)
		if err != nil {
			return nil, err
		}
		var files []storage.File
		for i, f := range info.Files {
			files = append(files, storage.File{Path: paths[i], Length: f.Length, Padding: f.Padding})
		}
		fs, err := storage.OpenFiles(dir, files, info.Geometry, opts)
		if err != nil {
			return nil, err
		}
		s = &told{Files: fs}
		return s, nil
	}})
	if err != nil {
		return err
	}
	if err := t.WaitMetadata(context.Background()); err != nil {
		return err
	}
	s.mu.Lock()
	fmt.Println("resumed", s.trusted, s.read.Load(), hex.EncodeToString(s.have.AppendWire([]byte{0})))
	s.ready = true
	s.mu.Unlock()
	t.AddPeers(addr)
	if err := t.WaitComplete(context.Background()); err != nil {
		return err
	}
	fmt.Println("complete")
	select {}
}

// TestKilled kills two downloads again and again with a signal that cannot be caught, of which one remembers what is verified beside its
// files and the other in a state folder. No piece that was verified may be lost, what is read again is bounded, and the content is right
// in the end. PARLEY_CRASHES says how often; "make crash N=200".
func TestKilled(t *testing.T) {
	kills := 20
	if n := os.Getenv("PARLEY_CRASHES"); n != "" {
		var err error
		if kills, err = strconv.Atoi(n); err != nil || kills < 1 {
			t.Fatalf("PARLEY_CRASHES=%q: want a number", n)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d, %d kills", seed, kills)
	rng := rand.New(rand.NewPCG(seed, 0))

	src := filepath.Join(t.TempDir(), "content")
	bytesOf := rand.NewChaCha8([32]byte{byte(seed)})
	for i, size := range []int64{0, 1, 70_000, 3 << 20, 200_000, 8<<20 + 17, 64 << 10, 5 << 20, 999} {
		b := make([]byte, size)
		bytesOf.Read(b) // never fails
		path := filepath.Join(src, fmt.Sprint(i%3), fmt.Sprint("file", i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, b, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	client, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	made, err := parley.Create(t.Context(), src, parley.CreateOptions{PieceBytes: crashPiece})
	if err != nil {
		t.Fatal(err)
	}
	mi := made.MetaInfo
	if _, err := client.SeedTorrent(t.Context(), mi, src, parley.TorrentOptions{}); err != nil {
		t.Fatal(err)
	}
	torrent := filepath.Join(t.TempDir(), "content.torrent")
	if err := os.WriteFile(torrent, mi.Append(nil), 0o666); err != nil {
		t.Fatal(err)
	}

	// See Files.Resume: and the swarm verifies as many pieces at once as there are cores, at least two.
	bound := int64(crashUnsaved + max(2, runtime.GOMAXPROCS(0))*crashPiece)
	c := crashes{t: t, rng: rng, torrent: torrent, peer: client.Addr().String(), pieces: mi.Info.NumPieces(), bound: bound}
	gets := [2]*download{c.fresh(false), c.fresh(true)}
	for c.killed < kills {
		i := c.killed % 2
		if c.run(gets[i], true) {
			c.check(gets[i], src)
			gets[i] = c.fresh(i == 1)
		}
	}
	for _, d := range gets {
		if !c.run(d, false) {
			t.Error("the last run did not complete")
		}
		c.check(d, src)
	}
	t.Logf("%d kills, %d of them in the middle, %d downloads completed; at most %d of %d KiB read again at once", c.killed,
		c.of[0].middle+c.of[1].middle, c.of[0].completed+c.of[1].completed, max(c.of[0].worst, c.of[1].worst)>>10, bound>>10)
	for i, where := range []string{"beside the files", "in a state folder"} {
		n := c.of[i]
		t.Logf("remembered %s: %d kills in the middle, %d downloads completed; %d pieces trusted and %d KiB read again over all; at most %d KiB read again at once",
			where, n.middle, n.completed, n.trusted, n.reread>>10, n.worst>>10)
		if n.middle == 0 || n.trusted == 0 || n.reread == 0 {
			t.Errorf("remembered %s: nothing was ever interrupted and resumed: the test is none", where)
		}
	}
}

// crashes kills downloads.
type crashes struct {
	t             *testing.T
	rng           *rand.Rand
	torrent, peer string
	pieces        int
	bound         int64

	killed int
	of     [2]tally // of downloads without and with a state folder
}

type tally struct {
	middle, completed, trusted int
	reread, worst              int64
}

// download is one that is killed.
type download struct {
	dir, state string        // state is "" if what is verified is remembered beside the files
	acked      *bitfield.Set // verified, as far as we were told
	*tally
}

// fresh begins another download.
func (c *crashes) fresh(state bool) *download {
	d := &download{dir: filepath.Join(c.t.TempDir(), "get"), acked: bitfield.New(c.pieces), tally: &c.of[0]}
	if state {
		d.state, d.tally = filepath.Join(c.t.TempDir(), "state"), &c.of[1]
	}
	return d
}

// check looks at a download that is complete.
func (c *crashes) check(d *download, src string) {
	c.t.Helper()
	sameTree(c.t, src, filepath.Join(d.dir, "content"))
	if d.state == "" {
		return
	}
	// A state folder remembers what is complete, so that no more of it is read again than of what is not; and nothing lies beside the files.
	if !c.run(d, false) {
		c.t.Error("what was complete is not any more")
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil || len(entries) != 1 {
		c.t.Errorf("beside the files lie %v, %v", entries, err)
	}
}

// run goes on with the download, and kills it at a point of its own choice if it is to. It reports whether the download is complete.
func (c *crashes) run(d *download, kill bool) (complete bool) {
	t := c.t
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PARLEY_CRASH_DIR="+d.dir, "PARLEY_CRASH_STATE="+d.state, "PARLEY_CRASH_TORRENT="+c.torrent, "PARLEY_CRASH_PEER="+c.peer)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop := func() { once.Do(func() { _ = cmd.Process.Kill() }) } // it fails if the process has ended, which Wait tells
	patience := time.AfterFunc(2*time.Minute, stop)
	defer patience.Stop()

	// Either at any time, the start included, or some pieces later.
	after := -1
	if kill {
		if c.rng.IntN(4) == 0 {
			timer := time.AfterFunc(time.Duration(c.rng.Int64N(int64(150*time.Millisecond))), stop)
			defer timer.Stop()
		} else {
			after = c.rng.IntN(50)
		}
	}
	resumed, verified, wasFull := false, 0, d.acked.Full()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var a, b int64
		var text string
		line := lines.Text()
		switch {
		case line == "complete":
			complete = true
			stop()
		case scan(line, "resumed %d %d %s", &a, &b, &text):
			resumed = true
			c.resumed(d, int(a), b, text)
		case scan(line, "verified %d", &a):
			d.acked.Add(int(a))
			verified++
			if verified == after {
				time.AfterFunc(time.Duration(c.rng.Int64N(int64(2*time.Millisecond))), stop)
			}
		default:
			t.Errorf("the program says %q", line)
		}
		if resumed && after == 0 {
			stop()
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("reading what the program says: %v", err)
	}
	stop()
	if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
		t.Fatalf("the program ended by itself: %v\n%s", err, &stderr)
	}
	if kill {
		c.killed++
		if n := d.acked.Count(); n > 0 && !complete {
			d.middle++
		}
	}
	if complete {
		if !wasFull {
			d.completed++
		}
		if !d.acked.Full() && verified == 0 && !resumed {
			t.Error("complete without having said what is there")
		}
	}
	return complete
}

// scan reads a line whole.
func scan(line, format string, args ...any) bool {
	n, err := fmt.Sscanf(line, format, args...)
	return err == nil && n == len(args)
}

// resumed looks at what the program has found in the folder.
func (c *crashes) resumed(d *download, trusted int, read int64, text string) {
	c.t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil || len(b) == 0 {
		c.t.Fatalf("%q: %v", text, err)
	}
	have, err := bitfield.Parse(b[1:], c.pieces)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range d.acked.All() {
		if !have.Has(i) {
			c.t.Errorf("kill %d: piece %d was verified and is lost", c.killed, i)
		}
	}
	if read > c.bound {
		c.t.Errorf("kill %d: %d bytes were read again, want at most %d", c.killed, read, c.bound)
	}
	d.acked = have
	d.trusted += trusted
	d.reread += read
	d.worst = max(d.worst, read)
}

// sameTree compares all files below two folders.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(want, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		rel, err := filepath.Rel(want, p)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(got, rel))
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", rel)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files compared: %v", files, err)
	}
	if err == nil {
		err = filepath.WalkDir(got, func(p string, e os.DirEntry, err error) error {
			if err == nil && filepath.Ext(p) == ".part" {
				t.Errorf("%s was left behind", p)
			}
			return err
		})
	}
	if err != nil {
		t.Error(err)
	}
}
