package attack_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/attack"
	"github.com/parley-bt/parley/internal/dialguard"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// special is an attack that needs more than a connection to a torrent.
type special struct {
	name, limit string
	cfg         parley.Config // of the client under attack
	goroutines  int           // more than others may cost: a handshake takes one
	memory      int64         // likewise
	settles     bool          // everything is back where it was once it is over
	// run attacks until the siege is over, and calls served while the attack lasts. It returns what came of it.
	run func(t *testing.T, s *siege) string
}

// siege is a special attack under way.
type siege struct {
	*field
	victim *parley.Client
	tor    *parley.Torrent // complete
	honest []*parley.Client
	rate   float64
	chat   float64 // messages and requests a second, if there were any
}

// siege runs a special attack on a client that seeds.
func (f *field) siege(t *testing.T, sp special, tb *attack.Table) {
	log := attack.NewRecords()
	cfg := sp.cfg
	cfg.Logger = slog.New(log)
	s := &siege{field: f, victim: client(t, cfg)}
	s.tor = f.seed(t, s.victim, false)
	for range 2 {
		s.honest = append(s.honest, client(t, parley.Config{}))
	}
	w := newWatch()
	w.allowed += sp.goroutines
	w.bound += sp.memory
	outcome := sp.run(t, s)
	memory := w.end(t)
	if sp.settles {
		w.settle(t)
	}
	if s.rate == 0 && !t.Failed() {
		t.Error("no honest peer was served")
	}
	if st := s.tor.Stats(); st.State != parley.StateSeeding || st.Err != nil {
		t.Errorf("afterwards: %+v", st)
	}
	if loud := log.Loud(); len(loud) > logBound {
		t.Errorf("%d records in the log, want no more than %d; the first: %q", len(loud), logBound, loud[:5])
	}
	honest := fmt.Sprintf("%.0f of %.0f MB/s", s.rate/1e6, f.calm[attack.Seed]/1e6)
	if s.chat > 0 {
		honest += fmt.Sprintf(", %.0f of %.0f calls/s", s.chat, f.chat)
	}
	tb.Add(attack.Row{Name: sp.name, Limit: sp.limit, Outcome: outcome, Memory: memory, Rate: honest})
}

// served has an honest peer download everything, while the attack lasts. If dialled is set it is the client under attack that connects.
func (s *siege) served(t *testing.T, dialled bool) {
	t.Helper()
	honest := s.honest[0]
	began := time.Now()
	var lt *parley.Torrent
	var check func() error
	if dialled {
		lt, check = s.leech(t, honest, false)
		s.tor.AddPeers(honest.Addr())
	} else {
		lt, check = s.leech(t, honest, false, s.victim.Addr())
	}
	if err := lt.WaitComplete(within(t)); err != nil {
		t.Errorf("the honest peer is not served: %v; %+v", err, lt.Stats())
	} else if err := check(); err != nil {
		t.Errorf("the honest peer: %v", err)
	}
	s.rate = float64(len(s.content)) / time.Since(began).Seconds()
}

// dial connects from an address of this machine that depends on n, where the system has several.
func (s *siege) dial(t *testing.T, n int) net.Conn {
	t.Helper()
	nc, err := sockets{addr: s.victim.Addr()}.Dial(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// greeted connects and exchanges hellos; nil if that is refused.
func (s *siege) greeted(t *testing.T, n int, id bt.PeerID) *attack.Attacker {
	t.Helper()
	a := attack.NewAttacker(rawpeer.New(t, s.dial(t, n)), s.scene, id)
	if a.Hello(false) != nil {
		return nil
	}
	return a
}

// stands reports whether a session stands: it answers.
func stands(a *attack.Attacker) bool {
	if a == nil || a.Ping() != nil || a.SetReadDeadline(time.Now().Add(attack.Patience)) != nil {
		return false
	}
	return a.Until(attack.IsPong) == nil
}

// The environment of a child process that holds connections open.
const (
	childAddr  = "PARLEY_ATTACK_CHILD"
	childHosts = "PARLEY_ATTACK_HOSTS" // from how many addresses
)

// maxHalfOpen is how many connections a child opens if its descriptors suffice.
const maxHalfOpen = 4000

// holdConnections opens as many connections as this process may have, says nothing on them, and opens them again when they are closed, until standard input ends.
func holdConnections(addr string) {
	hosts, err := strconv.Atoi(os.Getenv(childHosts))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var opened atomic.Int64
	var full sync.WaitGroup
	dial := func(i int) (net.Conn, error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		if runtime.GOOS == "linux" {
			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 2, 0, byte(i%hosts+1))}
		}
		return d.Dial("tcp", addr)
	}
	n := descriptors(maxHalfOpen)
	for i := range n {
		full.Add(1)
		go func() {
			first := sync.OnceFunc(full.Done)
			for {
				nc, err := dial(i)
				first()
				if err != nil { // the queue of the listener is full
					time.Sleep(100 * time.Millisecond)
					continue
				}
				opened.Add(1)
				nc.Read(make([]byte, 1)) // nothing comes but the end
				nc.Close()
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	full.Wait()
	fmt.Println(opened.Load())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// descriptors returns how many of want connections this process can hold, by trying.
func descriptors(want int) int {
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for len(files) < want+50 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	return max(1, len(files)-50)
}

// halfOpen has a child process hold thousands of silent connections from so many addresses while an honest peer is served.
func halfOpen(hosts int, dialled bool) func(t *testing.T, s *siege) string {
	return func(t *testing.T, s *siege) string {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childAddr+"="+s.victim.Addr().String(), childHosts+"="+strconv.Itoa(hosts))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("the child: %v", err)
			}
		}()
		var n int
		if _, err := fmt.Fscanln(out, &n); err != nil {
			t.Fatalf("the child did not say how many connections it has: %v", err)
		}
		s.served(t, dialled)
		return fmt.Sprintf("%d connections of a child process wait or are turned away", n)
	}
}

// traversal are names that must not lead out of a folder.
var traversal = [][]string{{".."}, {"../escaped"}, {"..", "..", "escaped"}, {"/escaped"}, {"a", "..", "..", "..", "escaped"}, {"..\\escaped"}, {"C:\\escaped"}, {"a\x00b"}, {"."},
	{""}, {"con"}, {"\x1b[2J\r\n"}, {"..."}, {"~", "escaped"}, {strings.Repeat("x", 5000)}, {strings.Repeat("d/", 2000) + "x"}, {"a:escaped"}, {"\u202egnp.exe"}}

// escape serves one torrent with a nasty name, in full, to a client that has its info-hash alone, and returns what the client made of it.
func escape(t *testing.T, s *siege, path []string, single bool) (refused bool) {
	data := []byte("escaped")
	hash := sha1.Sum(data)
	var info []byte
	if single {
		info = fmt.Appendf(info, "d6:lengthi%de4:name%d:%s12:piece lengthi16384e6:pieces20:%se", len(data), len(path[0]), path[0], hash[:])
	} else {
		info = fmt.Appendf(info, "d5:filesld6:lengthi%de4:pathl", len(data))
		for _, p := range path {
			info = fmt.Appendf(info, "%d:%s", len(p), p)
		}
		info = fmt.Appendf(info, "eee4:name%d:%s12:piece lengthi16384e6:pieces20:%se", len(path[0]), path[0], hash[:])
	}
	ih := bt.InfoHash(sha1.Sum(info))
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b", "downloads")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tor, err := s.victim.AddInfoHash(ih, parley.TorrentOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tor.Close(); err != nil {
			t.Error(err)
		}
	}()
	nc := s.dial(t, 0)
	var group sync.WaitGroup
	defer group.Wait()
	defer nc.Close()
	a := attack.NewAttacker(rawpeer.New(t, nc), attack.Scene{InfoHash: ih, Info: info}, bt.PeerID{'e', 's', 'c'})
	if err := a.Hello(false); err != nil {
		t.Fatal(err)
	}
	a.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 1}}, MetadataSize: int64(len(info))})
	a.Put(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
	group.Go(func() {
		a.Until(func(m wire.Message) bool { // until the connection ends
			switch m := m.(type) {
			case *wire.Extended:
				if md, err := ltep.ParseMetadata(m.Payload); m.ID == 1 && err == nil && md.Type == ltep.MetadataRequest {
					from := int(md.Piece) * ltep.MetadataPieceBytes
					a.Extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataData, Piece: md.Piece, TotalSize: int64(len(info)),
						Data: info[from:min(len(info), from+ltep.MetadataPieceBytes)]}))
				}
			case *wire.Request:
				a.Put(classic.AppendPiece(nil, wire.Piece{Index: m.Block.Index, Begin: m.Block.Begin, Data: data}))
			}
			return false
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), attack.Patience)
	defer cancel()
	err = tor.WaitComplete(ctx)
	if err != nil && ctx.Err() != nil {
		t.Errorf("%.60q is neither stored nor refused: %+v", path, tor.Stats())
	}
	walkErr := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(p, dir+string(filepath.Separator)) {
			t.Errorf("%.60q was stored outside of its folder: %s", path, p)
		}
		return err
	})
	if walkErr != nil {
		t.Error(walkErr)
	}
	return err != nil
}

// unprintable returns the first character of s that must not reach a terminal.
func unprintable(s string) (rune, bool) {
	for _, r := range s {
		if !unicode.IsPrint(r) && r != '\n' {
			return r, true
		}
	}
	return 0, false
}

// trackers are replies of a tracker that means harm.
var trackers = map[string]http.HandlerFunc{
	"1 GiB": func(w http.ResponseWriter, _ *http.Request) {
		for range 1 << 14 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	},
	"endless header": func(w http.ResponseWriter, _ *http.Request) {
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		for i := range 1 << 20 {
			if _, err := fmt.Fprintf(rw, "X-%d: %01000d\r\n", i, 0); err != nil {
				return
			}
		}
	},
	"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		for range 64 {
			z.Write(make([]byte, 1<<20)) // a buffer takes everything
		}
		z.Close()
		w.Write(b.Bytes())
	},
	"redirect loop": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/announce", http.StatusFound) },
	"failure with control characters": func(w http.ResponseWriter, _ *http.Request) {
		w.Write(bencode.AppendBytes([]byte("d14:failure reason"), []byte("\x1b]0;owned\a\x9b2J\r\n\u202e")))
		w.Write([]byte("e"))
	},
	"warning with control characters": func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("d8:intervali1e5:peers0:15:warning message8:\x1b[2J\r\n\x07xe"))
	},
	"negative interval": func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("d8:intervali-5e12:min intervali-1e5:peers0:e"))
	},
	"interval of 0": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("d8:intervali0e5:peers0:e")) },
	"100,000 peers of one host": func(w http.ResponseWriter, _ *http.Request) {
		b := []byte("d8:intervali1800e5:peers600000:")
		for i := range 100_000 {
			b = binary.BigEndian.AppendUint16(append(b, 127, 9, 9, 9), uint16(i|1))
		}
		w.Write(append(b, 'e'))
	},
	"lists of lists":   func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte{'l'}, 1<<20)) },
	"not an answer":    func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) },
	"500 and a novel":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); w.Write(make([]byte, 1<<20)) },
	"hangs up":         func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"peers of 5 bytes": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("d8:intervali1800e5:peers5:12345e")) },
	"a peer on port 0": func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("d8:intervali1800e5:peers6:\x7f\x00\x00\x01\x00\x00e"))
	},
	"peers with a name": func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("d8:intervali1800e5:peersld2:ip17:localhost.\x1b[2J.xx4:porti80eeee"))
	},
}

var specials = []special{
	{name: "thousands of silent connections from one address", limit: "parley.Config.MaxHandshakesPerAddress", cfg: parley.Config{MaxHandshakesPerAddress: 64}, run: halfOpen(1, false)},
	{name: "thousands of silent connections from 200 addresses", limit: "parley.Config.MaxHandshakes", goroutines: 512, run: halfOpen(200, true)},
	{name: "a hundred sessions from one address", limit: "parley.Config.MaxPerAddress", cfg: parley.Config{MaxPerAddress: 4}, run: func(t *testing.T, s *siege) string {
		var in []*attack.Attacker
		for i := range 100 {
			if a := s.greeted(t, 0, bt.PeerID{'m', byte(i)}); a != nil {
				in = append(in, a)
			}
		}
		if runtime.GOOS == "linux" { // elsewhere the honest peer has the same address
			s.served(t, false)
		}
		n := 0
		for _, a := range in {
			if stands(a) {
				n++
			}
		}
		if n != 4 {
			t.Errorf("%d sessions with one address, want 4", n)
		}
		if runtime.GOOS != "linux" {
			for _, a := range in {
				a.Close()
			}
			s.served(t, true)
		}
		return fmt.Sprintf("%d of 100 stand", n)
	}},
	{name: "a stranger with the peer ID of somebody who is connected", limit: "peer.ErrDuplicatePeer", run: func(t *testing.T, s *siege) string {
		id := bt.PeerID{'t', 'w', 'i', 'n'}
		first := s.greeted(t, 0, id)
		var seconds []*attack.Attacker
		for i := range 10 {
			seconds = append(seconds, s.greeted(t, 1+i%3, id))
		}
		s.served(t, false)
		if !stands(first) {
			t.Error("the one who came first has lost its session")
		}
		for _, a := range seconds {
			if runtime.GOOS == "linux" && stands(a) {
				t.Error("a stranger with a known peer ID is let in")
			}
		}
		return "the first session stands, 10 strangers closed"
	}},
	{name: "connections that come and go", limit: "nothing is kept of them", run: func(t *testing.T, s *siege) string {
		stop := make(chan struct{})
		var group sync.WaitGroup
		var n atomic.Int64
		for i := range attack.Attackers {
			group.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					nc, err := sockets{addr: s.victim.Addr()}.Dial(i)
					if err != nil {
						t.Errorf("dial: %v", err)
						return
					}
					h := classic.AppendHello(nil, classic.Hello{Reserved: rawpeer.LTEP, InfoHash: s.scene.InfoHash, PeerID: bt.PeerID{byte(i), byte(n.Load()), 1}})
					nc.Write(h[:min(len(h), int(n.Add(1)%70))]) // at every byte of the hello; the end of it is what this is about
					nc.Close()
				}
			})
		}
		s.served(t, false)
		close(stop)
		group.Wait()
		return fmt.Sprintf("%d connections closed", n.Load())
	}},
	{name: "peer exchange that names one host on 50 ports, again and again", limit: "dialguard.DialsPerTarget", run: func(t *testing.T, s *siege) string {
		var accepted atomic.Int64
		var group sync.WaitGroup
		defer group.Wait() // once the listeners are closed
		var named []ltep.PEXPeer
		host := "127.0.0.1:0"
		if runtime.GOOS == "linux" {
			host = "127.3.0.1:0"
		}
		for range 50 {
			ln, err := net.Listen("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			named = append(named, ltep.PEXPeer{Addr: ln.Addr().(*net.TCPAddr).AddrPort()})
			group.Go(func() {
				for {
					nc, err := ln.Accept()
					if err != nil {
						return
					}
					accepted.Add(1)
					nc.Close()
				}
			})
			defer ln.Close()
		}
		for i := range attack.Attackers {
			a := s.greeted(t, i, bt.PeerID{'p', 'e', 'x', byte(i)})
			if a == nil || a.PEX == 0 {
				t.Fatal("peer exchange is not offered")
			}
			for range 100 { // one a minute counts
				a.Extended(a.PEX, ltep.AppendPEX(nil, ltep.PEX{Added: named}))
			}
			if !stands(a) {
				t.Error("the session does not stand")
			}
		}
		s.served(t, false)
		for end := time.Now().Add(2500 * time.Millisecond); accepted.Load() <= dialguard.DialsPerTarget && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond) // the client dials again twice in that time, if it dials
		}
		if n := accepted.Load(); n > dialguard.DialsPerTarget {
			t.Errorf("the host that was named got %d connections, want at most %d", n, dialguard.DialsPerTarget)
		}
		return fmt.Sprintf("20,000 addresses named, %d dialled", accepted.Load())
	}},
	{name: "names in metadata that lead out of the folder", limit: "metainfo.SafePaths, os.Root", run: func(t *testing.T, s *siege) string {
		refused := 0
		for i, path := range traversal {
			for _, single := range []bool{true, false} {
				if escape(t, s, path, single) {
					refused++
				}
			}
			if i == 0 {
				s.served(t, false)
			}
		}
		return fmt.Sprintf("%d torrents, %d refused, none outside", 2*len(traversal), refused)
	}},
	{name: "resume data with every byte changed, cut short, or of another torrent", limit: "internal/resume checksums, storage.ResumePieces", run: func(t *testing.T, s *siege) string {
		s.served(t, false)
		return s.tamper(t)
	}},
	{name: "a tracker that answers with harm", limit: "tracker.ErrReplyTooLarge and others", run: func(t *testing.T, s *siege) string {
		var urls [][]string
		var asked atomic.Int64
		for _, h := range trackers {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				h(w, r)
			}))
			srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			srv.Start()
			defer srv.Close()
			urls = append(urls, []string{srv.URL + "/announce"})
		}
		tor, err := s.victim.AddInfoHash(bt.InfoHash{'t', 'r'}, parley.TorrentOptions{NoDownload: true, Trackers: urls})
		if err != nil {
			t.Fatal(err)
		}
		s.served(t, false)
		ctx := within(t)
		for {
			done := 0
			for _, st := range tor.Trackers() {
				if !st.Announcing && !st.Last.IsZero() {
					done++
				}
			}
			if done == len(trackers) {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%d of %d trackers have been asked: %+v", done, len(trackers), tor.Trackers())
			case <-time.After(5 * time.Millisecond):
			}
		}
		failed := 0
		for _, st := range tor.Trackers() {
			text := st.Warning
			if st.Err != nil {
				failed++
				text += st.Err.Error()
			}
			if r, bad := unprintable(text); bad || len(text) > 2000 {
				t.Errorf("%q holds %q, or is too long: %d bytes", text, r, len(text))
			}
			if !st.Next.IsZero() && time.Until(st.Next) < time.Second {
				t.Errorf("a tracker is asked again in %v: %+v", time.Until(st.Next), st)
			}
		}
		// The loop of redirects is asked a few times at once.
		if n := asked.Load(); n > int64(len(trackers))+20 {
			t.Errorf("%d requests to %d trackers", n, len(trackers))
		}
		if err := tor.Close(); err != nil {
			t.Error(err)
		}
		return fmt.Sprintf("%d trackers, %d answers refused, %d requests", len(trackers), failed, asked.Load())
	}},
}

// tamper gives a client resume data that has been tampered with, and content of which a part is wrong: what it says it has must be right all the same.
func (s *siege) tamper(t *testing.T) string {
	dir := t.TempDir()
	files := []storage.File{{Path: []string{"content"}, Length: int64(len(s.content))}}
	geom := s.scene.Geometry
	const have = 8
	st, err := storage.OpenFiles(dir, files, geom, storage.Options{InfoHash: s.scene.InfoHash})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := storage.ResumePieces(t.Context(), st, geom, storage.HashesOf(s.mi), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := st.WriteAt(s.content[:have*pieceBytes], 0); err != nil {
		t.Fatal(err)
	}
	for i := range bt.PieceIndex(have) {
		if err := st.Verified(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	resume := ""
	times := map[string]time.Time{} // of the other files
	var good []byte
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(e.Name(), "resume") {
			resume, good = e.Name(), b
			continue
		}
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		times[e.Name()] = fi.ModTime()
	}
	if resume == "" {
		t.Fatalf("no resume data among %v", entries)
	}
	hashed := 0 // by the last call of claims
	claims := func(data []byte) int {
		t.Helper()
		hashed = 0
		for name, at := range times { // as if nobody had been there
			if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, resume), data, 0o644); err != nil {
			t.Fatal(err)
		}
		st, err := storage.OpenFiles(dir, files, geom, storage.Options{InfoHash: s.scene.InfoHash})
		if err != nil {
			return 0 // refused
		}
		defer st.Close()
		found, err := storage.ResumePieces(t.Context(), st, geom, storage.HashesOf(s.mi), func(int, int) { hashed++ })
		if err != nil {
			return 0
		}
		for i := range found.All() {
			if i >= have {
				t.Errorf("piece %d is said to be there", i)
			}
		}
		return found.Count()
	}
	tries := 0
	for i := range good {
		if i%16 == 0 { // what has not been tampered with is believed: otherwise this would show nothing
			if n := claims(good); n != have || hashed != 0 {
				t.Fatalf("before byte %d: %d pieces found by hashing %d, want %d by hashing none", i, n, hashed, have)
			}
		}
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		claims(b)
		tries++
	}
	for n := range len(good) {
		claims(good[:n])
		tries++
	}
	other := bytes.ReplaceAll(good, s.scene.InfoHash[:], bytes.Repeat([]byte{1}, bt.HashBytes))
	claims(other)
	claims(append(bytes.Clone(good), noise(1000)...))
	tries += 2
	// A client that finds such data goes on from there, and ends with the right content.
	b := bytes.Clone(good)
	b[len(b)/2] ^= 0x10
	if err := os.WriteFile(filepath.Join(dir, resume), b, 0o644); err != nil {
		t.Fatal(err)
	}
	c := client(t, parley.Config{})
	tor, err := c.AddTorrent(s.mi, parley.TorrentOptions{Dir: dir, Peers: []netip.AddrPort{s.victim.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.WaitComplete(within(t)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "content"))
	if err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("other content in the end: %v", err)
	}
	return fmt.Sprintf("%d changes of %d bytes, none believed wrongly", tries, len(good))
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}
