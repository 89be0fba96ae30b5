package tracker

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/tracker/proto"
	"github.com/parley-bt/parley/tracker/server"
)

// An internet is names and addresses that lead to servers on loopback, so that tests can play global addresses.
type internet struct {
	names map[string][]netip.Addr
	hosts map[string]string // "address:port" → where it really is

	mu       sync.Mutex
	dialed   []string
	resolved int
}

func (n *internet) config() Config {
	return Config{
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.resolved++
			if a, ok := n.names[host]; ok {
				return slices.Clone(a), nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			n.mu.Lock()
			n.dialed = append(n.dialed, address)
			to, ok := n.hosts[address]
			n.mu.Unlock()
			if !ok {
				return nil, fmt.Errorf("dial %s: nobody is there", address)
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
	}
}

func ips(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// page serves handler on loopback and returns where.
func page(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

const okReply = "d8:intervali1800e5:peers18:\xc0\x00\x02\x63\x1a\xe1\x7f\x00\x00\x01\x1a\xe1\x0a\x00\x00\x01\x1a\xe1e" // 192.0.2.99, 127.0.0.1, 10.0.0.1

func addrPorts(list []netip.AddrPort) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestAgainstOwnServer runs the client against the embedded tracker, over both protocols and address families.
func TestAgainstOwnServer(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			if host == "::1" {
				t.Logf("no IPv6 on this machine: %v", err)
				continue
			}
			t.Fatal(err)
		}
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
		if err != nil {
			t.Fatal(err)
		}
		srv := server.New(server.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := srv.Serve(ctx, ln); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := srv.ServeUDP(ctx, udp); err != nil {
				t.Error(err)
			}
		})
		for i, url := range []string{"http://" + ln.Addr().String() + "/announce", "udp://" + udp.LocalAddr().String() + "/announce"} {
			t.Run(url[:4]+" "+host, func(t *testing.T) {
				c := NewClient(Config{})
				hash := bt.InfoHash{byte(i)}
				announce := func(port uint16, left int64, e Event) *Reply {
					t.Helper()
					r, err := c.Announce(t.Context(), url, FromUser, &Request{InfoHash: hash, PeerID: bt.PeerID{1}, Port: port, Left: left, Event: e, Key: 5})
					if err != nil {
						t.Fatal(err)
					}
					return r
				}
				first := announce(1001, 100, EventStarted)
				if len(first.Peers) != 0 || first.Seeders != 0 || first.Leechers != 1 || first.Interval != 30*time.Minute || first.From != netip.MustParseAddr(host) {
					t.Errorf("first: %+v", first)
				}
				second := announce(1002, 0, EventStarted)
				if got, want := addrPorts(second.Peers), net.JoinHostPort(host, "1001"); got != want || second.Seeders != 1 || second.Leechers != 1 {
					t.Errorf("second: %+v, want %s", second, want)
				}
				announce(1001, 0, EventCompleted)
				announce(1002, 0, EventStopped)
				counts, err := c.Scrape(t.Context(), url, FromUser, []bt.InfoHash{hash})
				if want := (Counts{InfoHash: hash, Seeders: 1, Downloaded: 1}); err != nil || len(counts) != 1 || counts[0] != want {
					t.Errorf("scrape: %+v %v", counts, err)
				}
				// A stranger may not name it.
				_, err = c.Announce(t.Context(), url, FromStranger, &Request{InfoHash: hash, Port: 1})
				if r, ok := errors.AsType[*netpolicy.RefusedError](err); !ok || r.Class != netpolicy.Loopback {
					t.Errorf("named by a stranger: %v", err)
				}
			})
		}
		cancel()
		all.Wait()
	}
}

func TestServerRefusal(t *testing.T) {
	srv := httptest.NewServer(server.New(server.Config{Allow: func(bt.InfoHash) bool { return false }}))
	defer srv.Close()
	_, err := NewClient(Config{}).Announce(t.Context(), srv.URL+"/announce", FromUser, &Request{Port: 1})
	if f, ok := errors.AsType[*FailureError](err); !ok || !f.Never {
		t.Errorf("%v, want a failure for good", err)
	}
}

// TestPolicy checks who may send us where, by name, by address, by redirect and by peer list.
func TestPolicy(t *testing.T) {
	reply := page(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, okReply) })
	redirect := func(to string) string {
		return page(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
	}
	tests := []struct {
		name  string
		url   string
		from  Origin
		allow string // a network
		hosts map[string]string
		names map[string][]netip.Addr
		peers string // the result, or
		class netpolicy.Class
		dials string
	}{
		{name: "global tracker", url: "http://192.0.2.1/announce", hosts: map[string]string{"192.0.2.1:80": reply}, peers: "192.0.2.99:6881", dials: "192.0.2.1:80"},
		{name: "global tracker named by the user", url: "http://192.0.2.1/announce", from: FromUser, hosts: map[string]string{"192.0.2.1:80": reply}, peers: "192.0.2.99:6881", dials: "192.0.2.1:80"},
		{name: "private tracker named by the user", url: "http://10.0.0.5:8080/announce", from: FromUser, hosts: map[string]string{"10.0.0.5:8080": reply}, peers: "10.0.0.1:6881 192.0.2.99:6881", dials: "10.0.0.5:8080"},
		{name: "private tracker", url: "http://10.0.0.5/announce", class: netpolicy.Private},
		{name: "allowed private tracker", url: "http://10.0.0.5/announce", allow: "10.0.0.0/8", hosts: map[string]string{"10.0.0.5:80": reply}, peers: "10.0.0.1:6881 192.0.2.99:6881", dials: "10.0.0.5:80"},
		{name: "loopback tracker", url: "http://127.0.0.1/announce", class: netpolicy.Loopback},
		{name: "loopback over UDP", url: "udp://127.0.0.1:53", class: netpolicy.Loopback},
		{name: "link-local over UDP", url: "udp://[fe80::1%25eth0]:53", class: netpolicy.LinkLocal},
		{name: "metadata service", url: "http://169.254.169.254/announce", class: netpolicy.LinkLocal},
		{name: "mapped loopback", url: "http://[::ffff:127.0.0.1]/announce", class: netpolicy.Loopback},
		{name: "nowhere", url: "http://0.0.0.0/announce", from: FromUser, class: netpolicy.Unusable},
		{name: "name of a private address", url: "http://in.example/announce", names: map[string][]netip.Addr{"in.example": ips("192.168.1.1")}, class: netpolicy.Private},
		{name: "name of both", url: "http://both.example/announce", names: map[string][]netip.Addr{"both.example": ips("127.0.0.1", "192.0.2.1", "10.1.1.1")},
			hosts: map[string]string{"192.0.2.1:80": reply, "127.0.0.1:80": reply}, peers: "192.0.2.99:6881", dials: "192.0.2.1:80"},
		{name: "second address answers", url: "http://two.example/announce", names: map[string][]netip.Addr{"two.example": ips("192.0.2.7", "192.0.2.1")},
			hosts: map[string]string{"192.0.2.1:80": reply}, peers: "192.0.2.99:6881", dials: "192.0.2.7:80 192.0.2.1:80"},
		{name: "redirect to a global address", url: "http://192.0.2.1/announce", hosts: map[string]string{"192.0.2.1:80": redirect("http://192.0.2.2:81/x"), "192.0.2.2:81": reply}, peers: "192.0.2.99:6881", dials: "192.0.2.1:80 192.0.2.2:81"},
		{name: "redirect to loopback", url: "http://192.0.2.1/announce", hosts: map[string]string{"192.0.2.1:80": redirect("http://127.0.0.1:8080/x")}, class: netpolicy.Loopback, dials: "192.0.2.1:80"},
		// Even if the user named the first one: it is the tracker that names the second.
		{name: "redirect to a private address, named by the user", url: "http://192.0.2.1/announce", from: FromUser, hosts: map[string]string{"192.0.2.1:80": redirect("http://10.0.0.1/x")}, class: netpolicy.Private, dials: "192.0.2.1:80"},
		{name: "redirect to a name of loopback", url: "http://192.0.2.1/announce", hosts: map[string]string{"192.0.2.1:80": redirect("http://in.example/x")},
			names: map[string][]netip.Addr{"in.example": ips("::1")}, class: netpolicy.Loopback, dials: "192.0.2.1:80"},
		{name: "redirect from private to private", url: "http://10.0.0.1/announce", from: FromUser, hosts: map[string]string{"10.0.0.1:80": redirect("http://10.0.0.2/x"), "10.0.0.2:80": reply}, peers: "10.0.0.1:6881 192.0.2.99:6881", dials: "10.0.0.1:80 10.0.0.2:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &internet{hosts: tt.hosts, names: tt.names}
			cfg := n.config()
			if tt.allow != "" {
				cfg.Allow = []netip.Prefix{netip.MustParsePrefix(tt.allow)}
			}
			r, err := NewClient(cfg).Announce(t.Context(), tt.url, tt.from, &Request{Port: 1})
			if tt.peers != "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := addrPorts(r.Peers); got != tt.peers || r.Dropped != 3-len(r.Peers) {
					t.Errorf("peers %s, %d dropped, want %s", got, r.Dropped, tt.peers)
				}
			} else if refused, ok := errors.AsType[*netpolicy.RefusedError](err); !ok || refused.Class != tt.class {
				t.Errorf("error %v, want a refusal of %v", err, tt.class)
			}
			if got := strings.Join(n.dialed, " "); got != tt.dials {
				t.Errorf("dialed %q, want %q", got, tt.dials)
			}
		})
	}
}

// TestRebinding checks that a name which changes its address between check and dial gains nothing: it is asked once.
func TestRebinding(t *testing.T) {
	n := &internet{hosts: map[string]string{"192.0.2.1:80": page(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, okReply) })}}
	cfg := n.config()
	calls := 0
	cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		if calls++; calls > 1 {
			return ips("127.0.0.1"), nil
		}
		return ips("192.0.2.1"), nil
	}
	if _, err := NewClient(cfg).Announce(t.Context(), "http://x.example/announce", FromStranger, &Request{Port: 1}); err != nil || calls != 1 {
		t.Errorf("%v after %d questions, want success after 1", err, calls)
	}
}

// TestHostileHTTP checks that each hostile reply is cut, soon and with the right error.
func TestHostileHTTP(t *testing.T) {
	zeros := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		for range 16 {
			z.Write(make([]byte, 1<<20))
		}
		z.Close()
		return b.Bytes()
	}()
	endless := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	syntaxError := func(err error) bool { _, ok := errors.AsType[*proto.SyntaxError](err); return ok }
	redirectError := func(err error) bool { _, ok := errors.AsType[*RedirectError](err); return ok }
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    func(error) bool
	}{
		{"endless body", endless(bytes.Repeat([]byte("d"), 1<<16)), is(ErrReplyTooLarge)},
		{"long string", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9000000000")
			endless(append([]byte("d1:x8999999000:"), make([]byte, 1<<16)...))(w, r)
		}, is(ErrReplyTooLarge)},
		{"gzip bomb", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zeros)
		}, is(ErrReplyTooLarge)},
		{"endless archive of nothing", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")       // a gzip header (RFC 1952)
			endless(bytes.Repeat([]byte("\x00\x00\x00\xff\xff"), 10_000))(w, r) // and stored blocks of no bytes (RFC 1951)
		}, is(ErrReplyTooLarge)},
		{"endless row of archives of nothing", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			var b bytes.Buffer
			gzip.NewWriter(&b).Close()
			endless(bytes.Repeat(b.Bytes(), 1000))(w, r)
		}, syntaxError},
		{"not gzip", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, okReply)
		}, is(gzip.ErrHeader)},
		{"another encoding", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			io.WriteString(w, okReply)
		}, syntaxError},
		{"large header", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			io.WriteString(w, okReply)
		}, func(err error) bool { return strings.Contains(err.Error(), "header") }},
		{"a page", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }, syntaxError},
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, syntaxError},
		{"peers of 7 bytes", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "d5:peers7:aaaaaaae") }, syntaxError},
		{"redirect to itself", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) }, is(ErrTooManyRedirects)},
		{"redirect to a file", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusMovedPermanently)
		}, redirectError},
		{"redirect to nothing", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://:0/")
			w.WriteHeader(http.StatusMovedPermanently)
		}, redirectError},
		{"redirect to a very long URL", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/"+strings.Repeat("x", 20_000))
			w.WriteHeader(http.StatusMovedPermanently)
		}, redirectError},
		{"status", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, func(err error) bool {
			s, ok := errors.AsType[*StatusError](err)
			return ok && s.Code == 503 && s.RetryIn == 2*time.Minute
		}},
		{"status with a reason", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "d14:failure reason6:bannede")
		}, func(err error) bool {
			f, ok := errors.AsType[*FailureError](err)
			return ok && f.Reason == "banned"
		}},
		{"slow body", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, "d"); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
		}, is(context.DeadlineExceeded)},
		{"silence", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, is(context.DeadlineExceeded)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			timeout := 20 * time.Second
			if tt.name == "slow body" || tt.name == "silence" {
				timeout = 200 * time.Millisecond
			}
			c := NewClient(Config{Timeout: timeout})
			url := "http://user:secret@" + page(t, tt.handler) + "/passkey/announce"
			for _, call := range []func() error{
				func() error { _, err := c.Announce(t.Context(), url, FromUser, &Request{Port: 1}); return err },
				func() error { _, err := c.Scrape(t.Context(), url, FromUser, make([]bt.InfoHash, 1)); return err },
			} {
				err := call()
				if err == nil && tt.name == "peers of 7 bytes" {
					t.Error("no error") // as a scrape it lacks "files"
				} else if err == nil || !tt.want(err) {
					t.Errorf("error %v", err)
				}
				if err != nil && (strings.Contains(err.Error(), "passkey") || strings.Contains(err.Error(), "secret")) {
					t.Errorf("%v: tells the secret", err)
				}
			}
		})
	}
}

// TestRedirectsAreCounted checks that five redirects are followed and the sixth is not.
func TestRedirectsAreCounted(t *testing.T) {
	asked := 0
	addr := page(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		if n := len(r.URL.Path); n > 1 { // one letter is one more redirect
			http.Redirect(w, r, r.URL.Path[:n-1], http.StatusTemporaryRedirect)
			return
		}
		io.WriteString(w, okReply)
	})
	c := NewClient(Config{})
	if _, err := c.Announce(t.Context(), "http://"+addr+"/aaaaa", FromUser, &Request{Port: 1}); err != nil || asked != 6 {
		t.Errorf("five: %v after %d requests", err, asked)
	}
	asked = 0
	if _, err := c.Announce(t.Context(), "http://"+addr+"/aaaaaa", FromUser, &Request{Port: 1}); !errors.Is(err, ErrTooManyRedirects) || asked != 6 {
		t.Errorf("six: %v after %d requests", err, asked)
	}
}

// TestHTTPRequest checks what a tracker is sent.
func TestHTTPRequest(t *testing.T) {
	var got *http.Request
	addr := page(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		http.SetCookie(w, &http.Cookie{Name: "track", Value: "me"})
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.WriteString(z, okReply)
		z.Close()
	})
	c := NewClient(Config{UserAgent: "Parley/1"})
	for range 2 {
		r, err := c.Announce(t.Context(), "http://u:p@"+addr+"/x%2Fy/announce?pass=%41b#frag", FromUser, &Request{Port: 7, Event: EventStarted, TrackerID: "t"})
		if err != nil || len(r.Peers) != 3 { // loopback may name them all
			t.Fatalf("%+v %v", r, err)
		}
		user, password, _ := got.BasicAuth()
		if got.Method != "GET" || !strings.HasPrefix(got.RequestURI, "/x%2Fy/announce?pass=%41b&info_hash=%00") || !strings.HasSuffix(got.RequestURI, "&event=started&trackerid=t") ||
			got.UserAgent() != "Parley/1" || user != "u" || password != "p" || len(got.Cookies()) != 0 || !got.Close {
			t.Errorf("request %s %s %v", got.Method, got.RequestURI, got.Header)
		}
	}
	if _, err := c.Scrape(t.Context(), "http://"+addr+"/x/announce.php?pass=b", FromUser, make([]bt.InfoHash, 1)); err == nil || !strings.HasPrefix(got.RequestURI, "/x/scrape.php?pass=b&info_hash=%00") {
		t.Errorf("scrape %s: %v", got.RequestURI, err)
	}
	if _, err := c.Scrape(t.Context(), "http://"+addr+"/x", FromUser, make([]bt.InfoHash, 1)); !errors.Is(err, ErrNoScrape) {
		t.Errorf("no scrape: %v", err)
	}
	for _, n := range []int{0, proto.MaxScrape + 1} {
		if _, err := c.Scrape(t.Context(), "http://"+addr+"/announce", FromUser, make([]bt.InfoHash, n)); err == nil {
			t.Errorf("scrape of %d: no error", n)
		}
	}
}

func TestHTTPS(t *testing.T) {
	var target string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if target != "" {
			http.Redirect(w, r, target, http.StatusFound)
			return
		}
		io.WriteString(w, okReply)
	}))
	defer srv.Close()
	cfg := Config{TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig}
	if _, err := NewClient(cfg).Announce(t.Context(), srv.URL+"/announce", FromUser, &Request{Port: 1}); err != nil {
		t.Error(err)
	}
	srv.Config.ErrorLog = nil
	if _, err := NewClient(Config{}).Announce(t.Context(), srv.URL+"/announce", FromUser, &Request{Port: 1}); err == nil {
		t.Error("a certificate of nobody was taken")
	}
	target = "http://192.0.2.1/"
	_, err := NewClient(cfg).Announce(t.Context(), srv.URL+"/announce", FromUser, &Request{Port: 1})
	if _, ok := errors.AsType[*RedirectError](err); !ok {
		t.Errorf("redirect to http: %v", err)
	}
}

func TestParseURL(t *testing.T) {
	for _, ok := range []string{"http://a/", "https://a.example:1/x?y=z", "udp://a:1", "udp://[2001:db8::1]:80/announce", "http://a"} {
		if _, err := ParseURL(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "a", "ftp://a/", "udp://a", "udp://a:0", "http://a:65536/", "http://a:x/", "http:///x", "http://:80/", "wss://a/", "file:///x",
		"http://a/\x00", "http://" + strings.Repeat("a", MaxURLBytes)} {
		_, err := ParseURL(bad)
		if _, ok := errors.AsType[*URLError](err); !ok {
			t.Errorf("%.50q: %v, want a URLError", bad, err)
		}
		if _, err := NewClient(Config{}).Announce(t.Context(), bad, FromUser, &Request{}); err == nil {
			t.Errorf("%.50q: announced", bad)
		}
	}
	if u, err := ParseURL("http://u:p@b\u202eücher.example/key/announce?pass=1"); err != nil || Display(u) != `http://b\u202e\u00fccher.example` {
		t.Errorf("display %q %v", Display(u), err)
	}
}

// udpWorld runs handle as the tracker at the other end of every UDP "connection", within a bubble: it answers each datagram
// with those it returns.
func udpWorld(handle func(now time.Duration, in []byte) [][]byte) Config {
	start := time.Now()
	return Config{Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		if network != "udp" {
			return nil, errors.New("not UDP")
		}
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			b := make([]byte, 4096)
			for {
				n, err := far.Read(b)
				if err != nil {
					return
				}
				for _, out := range handle(time.Since(start), b[:n]) {
					if _, err := far.Write(out); err != nil {
						return
					}
				}
			}
		}()
		return near, nil
	}}
}

const udpURL = "udp://192.0.2.1:6969/announce"

// script is a UDP tracker that writes down what it is asked, and when.
type script struct {
	t   *testing.T
	log []string
	// answer returns the reply; nil is none.
	answer func(q proto.UDPRequest) [][]byte
}

func (s *script) handle(now time.Duration, in []byte) [][]byte {
	q, err := proto.ParseUDPRequest(in)
	if err != nil {
		s.t.Errorf("request %x: %v", in, err)
		return nil
	}
	s.log = append(s.log, fmt.Sprintf("%d:%v", q.Action, now.Round(time.Second)))
	return s.answer(q)
}

func (s *script) want(want string) {
	synctest.Wait() // what the tracker does is done
	s.t.Helper()
	if got := strings.Join(s.log, " "); got != want {
		s.t.Errorf("got  %s\nwant %s", got, want)
	}
	s.log = nil
}

// honest answers as a tracker does.
func honest(q proto.UDPRequest) [][]byte {
	switch q.Action {
	case proto.ActionConnect:
		return [][]byte{proto.AppendConnectReply(nil, q.Transaction, 77)}
	case proto.ActionAnnounce:
		r := &proto.AnnounceReply{Interval: time.Hour, Seeders: 1, Peers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:1"), netip.MustParseAddrPort("127.0.0.1:1")}}
		return [][]byte{proto.AppendUDPAnnounceReply(nil, q.Transaction, r, false)}
	}
	return [][]byte{proto.AppendUDPScrapeReply(nil, q.Transaction, make([]proto.Counts, len(q.Hashes)))}
}

func TestUDPRetransmission(t *testing.T) {
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &script{t: t, answer: func(proto.UDPRequest) [][]byte { return nil }}
			cfg := udpWorld(s.handle)
			cfg.Timeout = 3 * time.Hour
			start := time.Now()
			_, err := NewClient(cfg).Announce(t.Context(), udpURL, FromStranger, &Request{Port: 1})
			if !errors.Is(err, errNoReply) || time.Since(start) != 15*511*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			s.want("0:0s 0:15s 0:45s 0:1m45s 0:3m45s 0:7m45s 0:15m45s 0:31m45s 0:1h3m45s")
		})
	})
	t.Run("silence within the client's patience", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &script{t: t, answer: func(proto.UDPRequest) [][]byte { return nil }}
			start := time.Now()
			_, err := NewClient(udpWorld(s.handle)).Announce(t.Context(), udpURL, FromStranger, &Request{Port: 1})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != DefaultTimeout {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			s.want("0:0s 0:15s 0:45s")
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &script{t: t, answer: func(proto.UDPRequest) [][]byte { return nil }}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(7*time.Second, cancel)
			start := time.Now()
			_, err := NewClient(udpWorld(s.handle)).Announce(ctx, udpURL, FromStranger, &Request{Port: 1})
			if !errors.Is(err, context.Canceled) || time.Since(start) != 7*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
	// BEP 15's own example: the announce is not answered, and the connection id expires meanwhile.
	t.Run("announces unanswered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &script{t: t, answer: func(q proto.UDPRequest) [][]byte {
				if q.Action == proto.ActionConnect {
					return honest(q)
				}
				return nil
			}}
			cfg := udpWorld(s.handle)
			cfg.Timeout = 4 * time.Minute
			if _, err := NewClient(cfg).Announce(t.Context(), udpURL, FromStranger, &Request{Port: 1}); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			s.want("0:0s 1:0s 1:15s 1:45s 0:1m45s 1:1m45s 0:3m45s 1:3m45s")
		})
	})
}

func TestUDPConnectionIDIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, answer: honest}
		c := NewClient(udpWorld(s.handle))
		announce := func() {
			t.Helper()
			r, err := c.Announce(t.Context(), udpURL, FromStranger, &Request{Port: 1})
			if err != nil || addrPorts(r.Peers) != "192.0.2.9:1" || r.Dropped != 1 || r.Seeders != 1 {
				t.Fatalf("%+v %v", r, err)
			}
		}
		announce()
		time.Sleep(59 * time.Second)
		announce()
		if counts, err := c.Scrape(t.Context(), udpURL, FromStranger, make([]bt.InfoHash, 3)); err != nil || len(counts) != 3 {
			t.Errorf("scrape %v %v", counts, err)
		}
		time.Sleep(time.Second)
		announce()
		s.want("0:0s 1:0s 1:59s 2:59s 0:1m0s 1:1m0s")

		// The tracker forgets its ids: by an error, then by silence.
		restarted := true
		s.answer = func(q proto.UDPRequest) [][]byte {
			if q.Action == proto.ActionAnnounce && restarted {
				restarted = false
				return [][]byte{proto.AppendUDPError(nil, q.Transaction, "connection id expired")}
			}
			return honest(q)
		}
		announce()
		s.want("1:1m0s 0:1m0s 1:1m0s")
		restarted = true
		s.answer = func(q proto.UDPRequest) [][]byte {
			if q.Action == proto.ActionAnnounce && restarted {
				restarted = false
				return nil
			}
			return honest(q)
		}
		announce()
		s.want("1:1m0s 0:1m15s 1:1m15s")
	})
}

// TestHostileUDP checks what a tracker, or somebody who forges its address, can do.
func TestHostileUDP(t *testing.T) {
	syntaxError := func(err error) bool { _, ok := errors.AsType[*proto.SyntaxError](err); return ok }
	none := func(err error) bool { return err == nil }
	tests := []struct {
		name   string
		answer func(q proto.UDPRequest) [][]byte
		want   func(error) bool
	}{
		{"forged replies before the right one", func(q proto.UDPRequest) [][]byte {
			var out [][]byte
			for i := range uint32(100) {
				out = append(out, proto.AppendConnectReply(nil, q.Transaction+1+i, 666), proto.AppendUDPError(nil, q.Transaction+1+i, "no"), nil, []byte{1})
			}
			return append(out, honest(q)...)
		}, none},
		{"a flood that answers nothing", func(q proto.UDPRequest) [][]byte {
			out := make([][]byte, 2*maxStrays)
			for i := range out {
				out[i] = proto.AppendConnectReply(nil, q.Transaction+1, 1)
			}
			return out
		}, syntaxError},
		{"reply of another kind", func(q proto.UDPRequest) [][]byte {
			return [][]byte{proto.AppendUDPScrapeReply(nil, q.Transaction, nil)}
		}, syntaxError},
		{"cut reply", func(q proto.UDPRequest) [][]byte { r := honest(q); r[0] = r[0][:len(r[0])-1]; return r }, syntaxError},
		{"unknown action", func(q proto.UDPRequest) [][]byte { r := honest(q); r[0][3] = 9; return r }, syntaxError},
		{"error", func(q proto.UDPRequest) [][]byte {
			return [][]byte{proto.AppendUDPError(nil, q.Transaction, "go\x1b[31m away"+strings.Repeat("!", 1000))}
		}, func(err error) bool {
			f, ok := errors.AsType[*FailureError](err)
			return ok && strings.HasPrefix(f.Reason, "go\uFFFD[31m away!!!") && len(f.Reason) <= proto.MaxTextBytes+2
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{t: t, answer: tt.answer}
				_, err := NewClient(udpWorld(s.handle)).Announce(t.Context(), udpURL, FromStranger, &Request{Port: 1})
				if !tt.want(err) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
	t.Run("scrape of another number", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &script{t: t, answer: func(q proto.UDPRequest) [][]byte { q.Hashes = append(q.Hashes, q.Hashes...); return honest(q) }}
			if _, err := NewClient(udpWorld(s.handle)).Scrape(t.Context(), udpURL, FromStranger, make([]bt.InfoHash, 2)); !syntaxError(err) {
				t.Error(err)
			}
		})
	})
}

func TestIDCacheIsBounded(t *testing.T) {
	var c idCache
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 1)
	}
	for i := range 10 * maxConnectionIDs {
		c.put(addr(i), uint64(i), t0.Add(time.Duration(i)*time.Millisecond))
	}
	if len(c.all) != maxConnectionIDs {
		t.Errorf("%d ids, want %d", len(c.all), maxConnectionIDs)
	}
	c.put(addr(0), 5, t0.Add(time.Hour)) // the others have expired
	if id, ok := c.get(addr(0), t0.Add(time.Hour)); len(c.all) != 1 || !ok || id != 5 {
		t.Errorf("%d ids, %d %t", len(c.all), id, ok)
	}
}
