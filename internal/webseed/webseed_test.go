package webseed

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/leaktest"
	"github.com/parley-bt/parley/internal/netdial"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/metainfo"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const pieceLen = 32 << 10

// site is a torrent, and what a web server has of it.
type site struct {
	info    *metainfo.Info
	content []byte
	files   map[string][]byte // by escaped path
}

func newSite(t testing.TB, name string, single bool, files ...metainfo.File) *site {
	t.Helper()
	s := &site{files: make(map[string][]byte)}
	rng := rand.NewChaCha8([32]byte{1})
	for _, f := range files {
		b := make([]byte, f.Length)
		if !f.Padding {
			rng.Read(b)
			base, _ := url.Parse("http://h/")
			in := &metainfo.Info{Name: name, SingleFile: single, Files: []metainfo.File{f}}
			s.files[fileURL(base, in, 0).EscapedPath()] = b
		}
		s.content = append(s.content, b...)
	}
	b := metainfo.Builder{Name: name, SingleFile: single, Files: files, PieceLength: pieceLen}
	for at := 0; at < len(s.content); at += pieceLen {
		sum := sha1.Sum(s.content[at:min(at+pieceLen, len(s.content))])
		b.PieceHashes = append(b.PieceHashes, sum[:]...)
	}
	mi, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	s.info = mi.Info
	return s
}

// ServeHTTP serves the files with ranges.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, ok := s.files[r.URL.EscapedPath()]
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(b))
}

// plain serves the files as a server does that knows no ranges.
func (s *site) plain(w http.ResponseWriter, r *http.Request) {
	b, ok := s.files[r.URL.EscapedPath()]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	_, _ = w.Write(b)
}

// open runs a server, and returns its torrent's seed.
func open(t *testing.T, s *site, h http.HandlerFunc) *Seed {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return seedAt(t, s, srv.URL+"/")
}

func seedAt(t *testing.T, s *site, at string) *Seed {
	t.Helper()
	c := NewClient(Config{Net: netdial.New(netdial.Config{}), UserAgent: "test"})
	t.Cleanup(c.Close)
	seed, err := c.Open(at, netpolicy.Loopback, s.info)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(seed.Close)
	return seed
}

func fetch(t *testing.T, s *Seed, off, n int64) ([]byte, error) {
	t.Helper()
	r := s.Reader(t.Context(), off, n)
	defer r.Close()
	return io.ReadAll(r)
}

func want(t *testing.T, s *site, seed *Seed, off, n int64) {
	t.Helper()
	got, err := fetch(t, seed, off, n)
	if err != nil {
		t.Fatalf("%d+%d: %v", off, n, err)
	}
	if !bytes.Equal(got, s.content[off:off+n]) {
		t.Fatalf("%d+%d: other bytes", off, n)
	}
}

var several = []metainfo.File{
	{Path: []string{"a b+c&d?.txt"}, Length: 50_000},
	{Path: []string{"empty"}, Length: 0},
	{Path: []string{".pad", "15536"}, Length: 15_536, Padding: true},
	{Path: []string{"sub", "ü%41.bin"}, Length: 100_000},
	{Path: []string{"last"}, Length: 1},
}

func TestRanges(t *testing.T) {
	for _, tt := range []struct {
		name string
		site *site
	}{
		{"single file", newSite(t, "one file", true, metainfo.File{Path: []string{"one file"}, Length: 100_001})},
		{"several files", newSite(t, "näme", false, several...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests, conns atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				tt.site.ServeHTTP(w, r)
			}))
			srv.Config.ConnState = func(_ net.Conn, st http.ConnState) {
				if st == http.StateNew {
					conns.Add(1)
				}
			}
			srv.Start()
			t.Cleanup(srv.Close)
			seed := seedAt(t, tt.site, srv.URL) // without a slash at its end
			total := int64(len(tt.site.content))
			if tt.site.info.SingleFile {
				seed = seedAt(t, tt.site, srv.URL+"/one%20file")
			}
			want(t, tt.site, seed, 0, total)
			want(t, tt.site, seed, 0, 1)
			want(t, tt.site, seed, total-1, 1)
			for range 50 {
				off := rand.Int64N(total)
				want(t, tt.site, seed, off, rand.Int64N(total-off)+1)
			}
			if seed.Sequential() {
				t.Error("a server with ranges is taken for one without")
			}
			if conns.Load() > 2 {
				t.Errorf("%d connections for %d requests one after the other, want them used again", conns.Load(), requests.Load())
			}
		})
	}
}

// A server without ranges is read in order with one request for each file, and otherwise given up before it costs too much.
func TestNoRanges(t *testing.T) {
	s := newSite(t, "t", false, metainfo.File{Path: []string{"big"}, Length: 6 << 20}, metainfo.File{Path: []string{"next"}, Length: 3 << 20})
	var requests atomic.Int32
	seed := open(t, s, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		s.plain(w, r)
	})
	if _, err := fetch(t, seed, 5<<20, 1000); FaultOf(err) != FaultSequential || !seed.Sequential() {
		t.Fatalf("a range far into the file: %v, sequential %v", err, seed.Sequential())
	}
	requests.Store(0)
	for off := int64(0); off < 9<<20; off += 1 << 20 {
		want(t, s, seed, off, 1<<20)
		if pos, ok := seed.Position(); off+1<<20 != 6<<20 && off+1<<20 != 9<<20 && (!ok || pos != off+1<<20) {
			t.Errorf("position %d, %v after %d", pos, ok, off+1<<20)
		}
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests for two files in order", n)
	}
	var failed error
	for range 10 { // each time from the beginning
		if _, failed = fetch(t, seed, 4<<20, 1000); failed != nil {
			break
		}
		seed.Idle()
	}
	if !errors.Is(failed, ErrNoRanges) {
		t.Errorf("reading 4 MiB for 1,000 bytes again and again: %v, want it to end", failed)
	}
}

func TestReplies(t *testing.T) {
	s := newSite(t, "f", true, metainfo.File{Path: []string{"f"}, Length: 100_000})
	reply := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			if status == 206 || status == 200 {
				_, _ = w.Write(s.content[1000:2000])
			}
		}
	}
	for _, tt := range []struct {
		name  string
		h     http.HandlerFunc
		fault Fault
		text  string
	}{
		{"not found", reply(404), FaultFile, "404"},
		{"gone", reply(410), FaultFile, "410"},
		{"forbidden", reply(403), FaultFile, "403"},
		{"range not satisfiable", reply(416), FaultFile, "416"},
		{"too busy", reply(503, "Retry-After", "120"), FaultPassing, "503"},
		{"too many requests", reply(429, "Retry-After", "Wed, 21 Oct 2015 07:30:00 GMT", "Date", "Wed, 21 Oct 2015 07:28:00 GMT"), FaultPassing, "429"},
		{"other range", reply(206, "Content-Range", "bytes 0-999/100000"), FaultFile, "want 1000-1999"},
		{"longer range", reply(206, "Content-Range", "bytes 1000-2000/100000"), FaultFile, "want 1000-1999"},
		{"other length", reply(206, "Content-Range", "bytes 1000-1999/100001"), FaultFile, "has 100001 bytes"},
		{"no range said", reply(206), FaultFile, "content range"},
		{"not a range", reply(206, "Content-Range", "bytes 1000-/100000"), FaultFile, "content range"},
		{"negative", reply(206, "Content-Range", "bytes -1000-1999/100000"), FaultFile, "content range"},
		{"several parts", reply(206, "Content-Type", "multipart/byteranges; boundary=x"), FaultFile, "content range"},
		{"less than said", reply(206, "Content-Range", "bytes 1000-1998/100000"), FaultFile, "1000 bytes for"},
		{"whole file of other length", reply(200, "Content-Length", "1000"), FaultFile, "want 100000"},
		{"compressed", reply(206, "Content-Range", "bytes 1000-1999/100000", "Content-Encoding", "gzip"), FaultFile, "gzip"},
		{"nowhere", reply(302), FaultFile, "302"},
		{"redirect to ftp", reply(302, "Location", "ftp://x/"), FaultFile, "ftp"},
		{"loop", reply(302, "Location", "/"), FaultFile, "redirects"},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 1000-1999/100000")
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(206)
			_, _ = w.Write(s.content[1000:1500])
			panic(http.ErrAbortHandler)
		}, FaultPassing, "EOF"},
		{"crumbs", func(w http.ResponseWriter, r *http.Request) {
			var first, last int
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/100000", first, first))
			w.WriteHeader(206)
			if first > 1000 { // its head promises a byte that does not come
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(s.content[first : first+1])
		}, FaultPassing, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seed := open(t, s, tt.h)
			got, err := fetch(t, seed, 1000, 1000)
			if err == nil {
				t.Fatalf("%d bytes and no error", len(got))
			}
			if FaultOf(err) != tt.fault || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v: fault %d, want %d and %q", err, FaultOf(err), tt.fault, tt.text)
			}
			if at, ok := errors.AsType[*Error](err); !ok || at.File != 0 {
				t.Errorf("%#v does not say at which file", err)
			}
			if d := RetryIn(err); strings.HasPrefix(tt.name, "too") != (d == 2*time.Minute) {
				t.Errorf("retry in %v", d)
			}
		})
	}
}

// A range may be cut short by the server, who is asked for the rest.
func TestShortRanges(t *testing.T) {
	s := newSite(t, "f", true, metainfo.File{Path: []string{"f"}, Length: 100_000})
	seed := open(t, s, func(w http.ResponseWriter, r *http.Request) {
		var first, last int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, min(last, first+9999)))
		s.ServeHTTP(w, r)
	})
	want(t, s, seed, 1, 70_000)
}

// A reply that never ends is read no further than was asked for.
func TestEndless(t *testing.T) {
	s := newSite(t, "f", true, metainfo.File{Path: []string{"f"}, Length: 100_000})
	ended := make(chan struct{})
	var once sync.Once
	seed := open(t, s, func(w http.ResponseWriter, r *http.Request) {
		defer once.Do(func() { close(ended) })
		w.Header().Set("Content-Range", "bytes 1000-1999/100000")
		w.WriteHeader(206)
		for at := 1000; ; at = 0 {
			if _, err := w.Write(s.content[at:]); err != nil {
				return
			}
		}
	})
	want(t, s, seed, 1000, 1000)
	<-ended
}

func TestRedirects(t *testing.T) {
	s := newSite(t, "f", true, metainfo.File{Path: []string{"f"}, Length: 100_000})
	var first, second atomic.Int32
	seed := open(t, s, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/f" {
			first.Add(1)
			http.Redirect(w, r, "/elsewhere?x=1", http.StatusFound)
			return
		}
		second.Add(1)
		if second.Load() == 4 {
			http.Error(w, "moved again", http.StatusNotFound)
			return
		}
		http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(s.content))
	})
	for i := range int64(3) {
		want(t, s, seed, i, 1000)
	}
	if first.Load() != 1 || second.Load() != 3 {
		t.Errorf("%d and %d requests, want the redirect remembered", first.Load(), second.Load())
	}
	if _, err := fetch(t, seed, 0, 10); err == nil {
		t.Error("no error")
	}
	want(t, s, seed, 0, 10)
	if first.Load() != 2 {
		t.Errorf("%d requests to the seed's own URL, want the redirect forgotten after an error", first.Load())
	}
}

// No address is dialed that is more local than whoever named it: the torrent, or the server that redirects.
func TestMoreLocal(t *testing.T) {
	s := newSite(t, "f", true, metainfo.File{Path: []string{"f"}, Length: 1000})
	global := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+strings.TrimPrefix(r.URL.Path, "/"), http.StatusFound)
	}))
	t.Cleanup(global.Close)
	var dialed atomic.Value
	d := netdial.New(netdial.Config{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialed.Store(address)
			if address != "192.0.2.1:80" {
				return nil, errors.New("nobody should dial " + address)
			}
			return new(net.Dialer).DialContext(ctx, network, global.Listener.Addr().String())
		},
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "inside.example" {
				return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")}, nil
			}
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		},
	})
	c := NewClient(Config{Net: d})
	t.Cleanup(c.Close)
	for _, at := range []string{"http://127.0.0.1/f", "http://[::1]:8080/f", "http://inside.example/f", "http://10.1.2.3/",
		"http://outside.example/127.0.0.1:22", "http://outside.example/inside.example", "http://outside.example/192.168.0.1"} {
		for _, by := range []netpolicy.Class{0, netpolicy.Global} {
			seed, err := c.Open(at, by, s.info)
			if err != nil {
				t.Fatal(err)
			}
			_, err = fetch(t, seed, 0, 1000)
			if _, ok := errors.AsType[*netpolicy.RefusedError](err); !ok || FaultOf(err) != FaultFile {
				t.Errorf("%s: %v, want it refused", at, err)
			}
			if a := dialed.Load(); a != nil && a != "192.0.2.1:80" {
				t.Errorf("%s: dialed %v", at, a)
			}
		}
	}
}

// A server that sends less than a block in the time for one is given up, however steadily it drips; a reader that is slow itself is not its fault.
func TestSlow(t *testing.T) {
	s := newSite(t, "f", true, metainfo.File{Path: []string{"f"}, Length: 100_000})
	synctest.Test(t, func(t *testing.T) {
		var drip time.Duration
		d := netdial.New(netdial.Config{Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			drip := drip
			go func() {
				defer far.Close()
				b := make([]byte, 4096)
				if _, err := far.Read(b); err != nil {
					return
				}
				fmt.Fprintf(far, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-65535/100000\r\nContent-Length: 65536\r\n\r\n")
				for at := 0; at < 65536; at += 1024 {
					time.Sleep(drip)
					if _, err := far.Write(s.content[at : at+1024]); err != nil {
						return
					}
				}
			}()
			return near, nil
		}})
		c := NewClient(Config{Net: d})
		seed, err := c.Open("http://127.0.0.1/f", netpolicy.Loopback, s.info)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			drip, busy time.Duration
			want       error
		}{{3 * time.Second, 0, ErrSlow}, {time.Hour, 0, ErrSlow}, {time.Second, 0, nil}, {0, 10 * time.Minute, nil}} {
			drip = tt.drip
			r := seed.Reader(t.Context(), 0, 65536)
			var err error
			for buf := make([]byte, 16<<10); err == nil; {
				_, err = io.ReadFull(r, buf)
				time.Sleep(tt.busy)
			}
			r.Close()
			if err == io.EOF {
				err = nil
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("a kilobyte every %v, reading every %v: %v, want %v", tt.drip, tt.busy, err, tt.want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		drip = time.Hour
		r := seed.Reader(ctx, 0, 65536)
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the context's end", err)
		}
		r.Close()
		c.Close()
		time.Sleep(2 * time.Hour) // the servers see that their peers have gone
	})
}

func TestTLS(t *testing.T) {
	s := newSite(t, "f", true, metainfo.File{Path: []string{"f"}, Length: 100_000})
	srv := httptest.NewTLSServer(s)
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = nil
	c := NewClient(Config{Net: netdial.New(netdial.Config{}), TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig})
	t.Cleanup(c.Close)
	seed, err := c.Open(srv.URL+"/", netpolicy.Loopback, s.info)
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, seed, 5, 70_000)
}

func TestURLs(t *testing.T) {
	for _, bad := range []string{"", "ftp://h/f", "http:///f", "http://h:0/f", "http://h:99999/f", "file:///etc/passwd", "http://%zz/", "http://h/" + strings.Repeat("x", 2048)} {
		if u, err := ParseURL(bad); err == nil {
			t.Errorf("%.40q: %v", bad, u)
		}
	}
	single := &metainfo.Info{Name: "a/b c", SingleFile: true, Files: []metainfo.File{{Path: []string{"a/b c"}}}}
	multi := &metainfo.Info{Name: "n&m", Files: []metainfo.File{{Path: []string{"d#", "f;=.x"}}, {Path: []string{"..", "x"}}, {Path: []string{"\xff"}}}}
	for _, tt := range []struct {
		base string
		info *metainfo.Info
		i    int
		want string
	}{
		{"http://h/x/y.iso", single, 0, "http://h/x/y.iso"},
		{"http://h/x/", single, 0, "http://h/x/a%2Fb%20c"},
		{"http://h", single, 0, "http://h/a%2Fb%20c"},
		{"http://h/x/?k=1&l", single, 0, "http://h/x/a%2Fb%20c?k=1&l"},
		{"http://h", multi, 0, "http://h/n%26m/d%23/f%3B%3D.x"},
		{"http://h/x%2Fy", multi, 0, "http://h/x%2Fy/n%26m/d%23/f%3B%3D.x"},
		{"http://u:p@h/x/", multi, 2, "http://u:p@h/x/n%26m/%FF"},
		{"http://h/", multi, 1, ""},
	} {
		base, err := ParseURL(tt.base)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if u := fileURL(base, tt.info, tt.i); u != nil {
			got = u.String()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.base, got, tt.want)
		}
	}
	u, err := ParseURL("https://user:secret@h/p?token=secret")
	if err != nil || Display(u) != "https://h/p" {
		t.Errorf("%v, %v", Display(u), err)
	}
}
