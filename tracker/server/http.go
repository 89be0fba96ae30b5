package server

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/tracker/proto"
)

const (
	headerTimeout = 5 * time.Second
	writeTimeout  = 10 * time.Second
	idleTimeout   = 15 * time.Second
	closeTimeout  = 2 * time.Second // for requests under way when the server ends
	headerBytes   = 16 << 10
)

// ServeHTTP answers GET /announce and /scrape; everything else is not found. Refusals are replies too, with status 200, as
// clients expect. It may be used in any [http.Server], which should then have limits like those of [Server.Serve].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/announce" && r.URL.Path != "/scrape" {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	now := time.Now()
	reply, failure := s.answer(now, r)
	if failure != nil {
		s.count(&s.stats.Refused)
		reply = proto.AppendFailure(nil, failure)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8") // what trackers send; it is bencoded
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	// The only error is that the client has gone, which is its own affair.
	_, _ = w.Write(reply)
}

func (s *Server) answer(now time.Time, r *http.Request) ([]byte, *proto.FailureError) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return nil, refuseAddress // not a connection of an IP network
	}
	source := remote.Addr().Unmap()
	if f := s.admit(now, source); f != nil {
		return nil, f
	}
	if r.URL.Path == "/scrape" {
		hashes, err := proto.ParseScrapeQuery(r.URL.RawQuery)
		if err != nil {
			return nil, &proto.FailureError{Reason: err.Error()}
		}
		return proto.AppendScrapeReply(nil, s.scrape(now, hashes)), nil
	}
	a, opt, err := proto.ParseAnnounceQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &proto.FailureError{Reason: err.Error()}
	}
	reply, ids, failure := s.announce(now, &a, source, reached(source, opt.IP), true, true)
	switch {
	case failure != nil:
		return nil, failure
	case !opt.Dictionaries:
		return proto.AppendAnnounceReply(nil, reply), nil
	case opt.NoPeerID:
		ids = nil
	}
	return proto.AppendAnnounceReplyDictionaries(nil, reply, ids), nil
}

// Serve answers HTTP on ln until ctx is done, then closes ln and its connections and returns nil. Any other end is an error.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout, // a request has no body
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is not worth a line each
	}
	limited := &limitListener{Listener: ln, slots: make(chan struct{}, s.cfg.MaxConns), done: make(chan struct{}),
		perSource: s.cfg.MaxConnsPerSource, sources: map[netip.Addr]int{}}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(limited) }()
	select {
	case err := <-ended:
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err := srv.Shutdown(closing)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close() // who has not finished by now is cut off
	}
	<-ended // always http.ErrServerClosed now
	return err
}

// limitListener bounds the connections that are open at once, over all and per source.
type limitListener struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once

	perSource int
	mu        sync.Mutex
	sources   map[netip.Addr]int
}

func (l *limitListener) Accept() (net.Conn, error) {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		if c := l.admit(conn); c != nil {
			return c, nil
		}
		<-l.slots
		conn.Close() // too many from there; nothing was promised
	}
}

// admit returns conn as one that gives its place back when it is closed, or nil if its source has too many.
func (l *limitListener) admit(conn net.Conn) net.Conn {
	var source netip.Addr
	if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		source = sourceOf(ap.Addr().Unmap())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source] >= l.perSource && netpolicy.ClassOf(source) != netpolicy.Loopback {
		return nil
	}
	l.sources[source]++
	return &limitConn{Conn: conn, release: sync.OnceFunc(func() {
		l.mu.Lock()
		if l.sources[source]--; l.sources[source] == 0 {
			delete(l.sources, source)
		}
		l.mu.Unlock()
		<-l.slots
	})}
}

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitConn struct {
	net.Conn
	release func()
}

func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
