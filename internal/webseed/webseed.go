// Package webseed fetches a torrent's bytes from web servers (BEP 19): range requests for one file at a time, put together to ranges of the torrent.
//
//	Client   connections, shared by all torrents
//	Seed     one URL of one torrent: what is known of its server
//	Reader   one range of the torrent's bytes, as it arrives
//
// What a server says is a stranger's word, and so is its URL. No address is contacted that is more local than whoever named it, redirects included
// (internal/netdial); a reply must be of the range that was asked for, of a file of the right length, and is not read past it; a server that sends less
// than a block in [BlockTimeout] is given up. Bytes are not verified here: the engine does that as for peers.
//
// A server that ignores ranges sends every file from its beginning. It is of use to one who reads in order: see [Seed.Sequential].
//
// The package does not decide which range to fetch, nor when to try again.
package webseed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netdial"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/metainfo"
)

// Limits.
const (
	// BlockTimeout is how long a server may take for each [bt.BlockBytes], the first of a reply included.
	BlockTimeout = 30 * time.Second
	// MaxRedirects is how many redirects are followed in a row.
	MaxRedirects = 5
	// FreeSkip is how many bytes of a file are read and dropped without a thought when a server ignores ranges.
	FreeSkip = 1 << 20
	// maxRetryAfter bounds what a server may ask for.
	maxRetryAfter = 24 * time.Hour
	// maxPlaces is how many files' redirects are remembered.
	maxPlaces = 1024
	// idleTimeout is how long a connection is kept for the next request.
	idleTimeout = 30 * time.Second
)

// Config configures a [Client].
type Config struct {
	Net       *netdial.Dialer
	TLS       *tls.Config // for https; nil means Go's defaults
	UserAgent string      // empty sends none
}

// Client holds the connections to web seeds. It is safe for concurrent use.
type Client struct {
	cfg Config

	mu         sync.Mutex
	transports [netpolicy.Global + 1]*http.Transport // by the class of who named the URL
}

// NewClient returns a client.
func NewClient(cfg Config) *Client { return &Client{cfg: cfg} }

// Close closes idle connections. Readers under way end with their contexts.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
}

func (c *Client) transport(by netpolicy.Class) *http.Transport {
	if by == netpolicy.Unusable || by > netpolicy.Global {
		by = netpolicy.Global
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transports[by] == nil {
		t := c.cfg.Net.Transport(by, c.cfg.TLS)
		t.IdleConnTimeout = idleTimeout
		c.transports[by] = t
	}
	return c.transports[by]
}

// Seed is one web seed of one torrent. It is safe for concurrent use.
type Seed struct {
	c    *Client
	base *url.URL
	by   netpolicy.Class
	info *metainfo.Info

	mu         sync.Mutex
	sequential bool
	skipped    []int64       // bytes of each file that were read and dropped; nil before the first
	places     map[int]place // where redirects led
	parked     *stream       // of a server without ranges
	closed     bool
}

// place is where a file is, and the class of who says so.
type place struct {
	u  *url.URL
	by netpolicy.Class
}

// Open returns the web seed at rawURL, which a source of class by has named. Nothing is contacted. The error is a [*URLError].
func (c *Client) Open(rawURL string, by netpolicy.Class, info *metainfo.Info) (*Seed, error) {
	u, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	return &Seed{c: c, base: u, by: by, info: info, places: make(map[int]place)}, nil
}

// String returns the seed's URL without what may be secret.
func (s *Seed) String() string { return Display(s.base) }

// Host returns the seed's host and port, in lower case.
func (s *Seed) Host() string { return strings.ToLower(s.base.Host) }

// Sequential reports whether the server ignores ranges. Then a file is best read from its beginning to its end by one [Reader] after the other, which
// go on where the last one stopped: what lies between is read and dropped, and not more of it than the file is long.
func (s *Seed) Sequential() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sequential
}

// Position returns where in the torrent a server without ranges would go on, in bytes; false if no reply is open.
func (s *Seed) Position() (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked == nil {
		return 0, false
	}
	return s.info.Files[s.parked.file].Offset + s.parked.pos, true
}

// Idle lets go of the reply that a server without ranges has begun.
func (s *Seed) Idle() {
	if st := s.unpark(); st != nil {
		st.close()
	}
}

// Close is Idle for good: a [Reader] that ends later keeps nothing.
func (s *Seed) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Idle()
}

func (s *Seed) unpark() *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.parked
	s.parked = nil
	return st
}

func (s *Seed) park(st *stream) {
	s.mu.Lock()
	if s.closed || s.parked != nil {
		s.mu.Unlock()
		st.close()
		return
	}
	s.parked = st
	s.mu.Unlock()
}

// Errors that are values.
var (
	// ErrNoRanges: the server ignores ranges, and to read the file up to there would cost too much. After the first time [Seed.Sequential] is true.
	ErrNoRanges = errors.New("the server ignores ranges")
	// ErrSlow: less than a block came within [BlockTimeout].
	ErrSlow = fmt.Errorf("less than %d bytes in %v", bt.BlockBytes, BlockTimeout)
	// ErrTooManyRedirects: more than [MaxRedirects].
	ErrTooManyRedirects = fmt.Errorf("more than %d redirects", MaxRedirects)
	// errNoName: a name in the torrent cannot be part of a URL.
	errNoName = errors.New("its name would lead elsewhere on the server")
)

// StatusError is a reply without content.
type StatusError struct {
	Code    int
	RetryIn time.Duration // from Retry-After; 0: not said
}

// Error returns the status code.
func (e *StatusError) Error() string { return fmt.Sprintf("HTTP status %d", e.Code) }

// ReplyError says why a reply is not of the range that was asked for.
type ReplyError struct{ Reason string }

// Error returns the reason.
func (e *ReplyError) Error() string { return e.Reason }

// Error says at which file of the torrent something went wrong.
type Error struct {
	File int // its index
	URL  string
	Err  error
}

// Error returns the URL, without what may be secret, and what went wrong.
func (e *Error) Error() string { return e.URL + ": " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

// Fault says what an error of a [Reader] means for the seed.
type Fault uint8

// The faults.
const (
	// FaultPassing: it may be otherwise later; see [RetryIn].
	FaultPassing Fault = iota
	// FaultFile: the seed does not have this file, or not of this length.
	FaultFile
	// FaultSequential: the server ignores ranges; read in order, beginning now.
	FaultSequential
)

// FaultOf returns what err means.
func FaultOf(err error) Fault {
	if s, ok := errors.AsType[*StatusError](err); ok {
		if s.Code/100 == 5 || s.Code == http.StatusTooManyRequests || s.Code == http.StatusRequestTimeout {
			return FaultPassing
		}
		return FaultFile
	}
	if errors.Is(err, ErrNoRanges) {
		return FaultSequential
	}
	_, reply := errors.AsType[*ReplyError](err)
	_, refused := errors.AsType[*netpolicy.RefusedError](err)
	_, redirect := errors.AsType[*netdial.RedirectError](err)
	if reply || refused || redirect || errors.Is(err, ErrTooManyRedirects) || errors.Is(err, errNoName) {
		return FaultFile
	}
	return FaultPassing
}

// RetryIn returns how long a server wants to be left alone; 0 if it did not say.
func RetryIn(err error) time.Duration {
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.RetryIn
	}
	return 0
}

// request asks for the bytes from first to last of a file, which is length bytes long; last < 0 asks for the whole file. It follows redirects.
func (s *Seed) request(ctx context.Context, file int, first, last int64) (*http.Response, error) {
	s.mu.Lock()
	at, moved := s.places[file]
	s.mu.Unlock()
	if !moved {
		at = place{fileURL(s.base, s.info, file), s.by}
		if at.u == nil {
			return nil, errNoName
		}
	}
	resp, end, err := s.follow(ctx, at, first, last)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		delete(s.places, file) // the next request begins where the torrent says
	case end != at && len(s.places) < maxPlaces:
		s.places[file] = end
	}
	return resp, err
}

// follow makes a request at a place and where redirects lead from there. The reply has status 200 or 206.
func (s *Seed) follow(ctx context.Context, at place, first, last int64) (*http.Response, place, error) {
	for redirects := 0; ; redirects++ {
		by := at.by
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			// Whoever redirects names the next address.
			by = netpolicy.ClassOf(netdial.DialedBy(info.Conn).Addr())
		}}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, at.u.String(), nil)
		if err != nil {
			return nil, at, &ReplyError{"not a URL that HTTP can use"}
		}
		req.Header.Set("User-Agent", s.c.cfg.UserAgent)
		req.Header.Set("Accept-Encoding", "identity")
		if last >= 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, last))
		}
		if at.u.User != nil {
			password, _ := at.u.User.Password()
			req.SetBasicAuth(at.u.User.Username(), password)
		}
		// Not through an http.Client, which would follow redirects and keep cookies.
		resp, err := s.c.transport(at.by).RoundTrip(req)
		if err != nil {
			return nil, at, err
		}
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
			return resp, at, nil
		}
		// Only a short reply is worth reading so that the connection can be used again, and nothing is.
		if err := resp.Body.Close(); err != nil {
			return nil, at, err
		}
		location := resp.Header.Get("Location")
		switch {
		case location == "" || !netdial.IsRedirect(resp.StatusCode):
			return nil, at, &StatusError{Code: resp.StatusCode, RetryIn: retryAfter(resp.Header)}
		case redirects == MaxRedirects:
			return nil, at, ErrTooManyRedirects
		}
		next, err := netdial.Redirect(at.u, location, 2*MaxURLBytes)
		if err != nil {
			return nil, at, err
		}
		at = place{next, by}
	}
}

// retryAfter reads the header of that name: seconds, or a date beside the reply's own.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	then, err := http.ParseTime(v)
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return min(max(then.Sub(now), 0), maxRetryAfter)
}

// contentRange reads "bytes FIRST-LAST/TOTAL" (RFC 9110 section 14.4); total is -1 for "*".
func contentRange(v string) (first, last, total int64, ok bool) {
	rest, ok := strings.CutPrefix(v, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, of, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, 0, 0, false
	}
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		return 0, 0, 0, false
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 || s[0] == '+' {
			ok = false
		}
		return n
	}
	first, last, total = number(from), number(to), -1
	if of != "*" {
		total = number(of)
	}
	return first, last, total, ok && first <= last
}
