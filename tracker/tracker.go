// Package tracker asks trackers for peers: announce and scrape over HTTP, HTTPS and UDP (BEP 3, 7, 12, 15, 23, 24, 31, 41,
// 48).
//
//	Client      one announce or scrape of one tracker
//	Tiers       whom to announce to next, and when: plain data, driven by results and the time
//	Announcer   runs the Tiers of one torrent with a Client
//
// Bytes are the business of package proto below it, an embedded tracker that of package server.
//
// What a tracker says is a stranger's word. A reply is cut at 2 MiB, also after decompression, and in time; at most 2,000
// peers are taken; text is cleaned. No address is contacted that is more local than whoever named it (internal/netpolicy):
// a torrent from a stranger cannot name a tracker on this machine or network, a redirect or a reply from the internet cannot
// name one either. Names are resolved first, every address is checked, and exactly the checked address is dialed, so that a
// name that changes its mind gains nothing. Proxies of the environment are not used for the same reason: they would resolve
// the name themselves. [Config.Dial] is the way to use one.
//
// The package does not decide what to do with peers, nor how many trackers a torrent may have.
package tracker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netdial"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/tracker/proto"
)

// Origin says who named a tracker's URL, by how local they are. The zero Origin is a stranger.
type Origin = netpolicy.Class

// The usual origins. A torrent file or magnet link is from a stranger, unless the user wrote the URL.
const (
	FromUser     = netpolicy.Loopback
	FromStranger = netpolicy.Global
)

// The messages, by the names this package's callers use.
type (
	// Request is what a tracker is told.
	Request = proto.Announce
	// Event says why an announce is made.
	Event = proto.Event
	// Counts is what a scrape says about one torrent.
	Counts = proto.Counts
	// FailureError is a tracker's refusal.
	FailureError = proto.FailureError
)

// The events of an announce.
const (
	EventNone      = proto.EventNone
	EventCompleted = proto.EventCompleted
	EventStarted   = proto.EventStarted
	EventStopped   = proto.EventStopped
)

// Limits and defaults.
const (
	// DefaultTimeout bounds one announce or scrape, redirects and retransmissions included.
	DefaultTimeout = time.Minute
	// DefaultUserAgent is sent over HTTP.
	DefaultUserAgent = "Parley"
	// MaxURLBytes is the longest URL of a tracker that is used.
	MaxURLBytes = 2048
	// MaxRedirects is how many redirects are followed.
	MaxRedirects = 5
)

// Config configures a [Client]. The zero value is usable.
type Config struct {
	// Dial connects to address, always an IP address with a port; network is "tcp" or "udp". nil uses a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve returns the addresses of a host. nil uses the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Allow lists networks that strangers may name, local ones as a rule. Empty: none.
	Allow []netip.Prefix
	// Timeout bounds one announce or scrape; 0 means [DefaultTimeout].
	Timeout time.Duration
	// UserAgent is what HTTP trackers are told about this program; empty means [DefaultUserAgent].
	UserAgent string
	// TLS configures HTTPS; nil means Go's defaults.
	TLS *tls.Config
}

// Client talks to trackers. It keeps no connection and runs no goroutine between calls; it remembers the connection ids of
// UDP trackers for a minute. At most 64 calls are under way at once, 16 of them at one tracker; others wait for their turn, and are
// told at once if the tracker that they wait for turns out not to be reachable. It is safe for concurrent use.
type Client struct {
	cfg    Config
	policy netpolicy.Policy
	dialer *netdial.Dialer
	ids    idCache
	line   line
}

// NewClient returns a client.
func NewClient(cfg Config) *Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = DefaultUserAgent
	}
	policy := netpolicy.Policy{Allow: cfg.Allow}
	return &Client{cfg: cfg, policy: policy, dialer: netdial.New(netdial.Config{Dial: cfg.Dial, Resolve: cfg.Resolve, Policy: policy})}
}

// Reply is what a tracker answered.
type Reply struct {
	proto.AnnounceReply
	// From is the address that answered. Peers are those it may name; the others count as Dropped.
	From netip.Addr
}

// Announce tells the tracker at rawURL about us and returns its reply. from says who named the URL. Errors are wrapped in an
// [*Error]: [*FailureError], [*StatusError], [*RedirectError], [*proto.SyntaxError], [ErrReplyTooLarge],
// [ErrTooManyRedirects], [*netpolicy.RefusedError], or what the network or the context said. Only a [*URLError] is not.
func (c *Client) Announce(ctx context.Context, rawURL string, from Origin, req *Request) (*Reply, error) {
	return c.announce(ctx, rawURL, from, req, ordinary)
}

// announce is Announce in the order of urgency. For a last announce that is [last] or [lastMatters].
func (c *Client) announce(ctx context.Context, rawURL string, from Origin, req *Request, how urgency) (*Reply, error) {
	u, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	if how != ordinary && u.Scheme == "udp" {
		how++
	}
	var r Reply
	err = c.inTurn(ctx, u, how, func(ctx context.Context) error {
		if u.Scheme == "udp" {
			r.AnnounceReply, r.From, err = c.announceUDP(ctx, u, from, req)
		} else {
			r.AnnounceReply, r.From, err = c.announceHTTP(ctx, u, from, req)
		}
		return err
	})
	if err != nil {
		return nil, &Error{Tracker: Display(u), Err: err}
	}
	named := len(r.Peers)
	r.Peers = c.policy.Filter(r.Peers, netpolicy.ClassOf(r.From))
	r.Dropped += named - len(r.Peers)
	return &r, nil
}

// Scrape asks the tracker whose announce URL is rawURL about at most [proto.MaxScrape] torrents; more is an error. Torrents
// that the tracker does not know are left out or all zero, as it likes. Errors are as for [Client.Announce], and
// [ErrNoScrape].
func (c *Client) Scrape(ctx context.Context, rawURL string, from Origin, hashes []bt.InfoHash) ([]Counts, error) {
	u, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	var counts []Counts
	err = c.inTurn(ctx, u, ordinary, func(ctx context.Context) error {
		switch {
		case len(hashes) == 0 || len(hashes) > proto.MaxScrape:
			err = fmt.Errorf("scrape of %d torrents: want 1 to %d", len(hashes), proto.MaxScrape)
		case u.Scheme == "udp":
			counts, err = c.scrapeUDP(ctx, u, from, hashes)
		default:
			counts, err = c.scrapeHTTP(ctx, u, from, hashes)
		}
		return err
	})
	if err != nil {
		return nil, &Error{Tracker: Display(u), Err: err}
	}
	return counts, nil
}

// inTurn runs ask when it is its turn at the tracker, within the timeout, which begins then.
func (c *Client) inTurn(ctx context.Context, u *url.URL, how urgency, ask func(ctx context.Context) error) error {
	host := u.Scheme + "://" + strings.ToLower(u.Host)
	if err := c.line.enter(ctx, host, how); err != nil {
		return err
	}
	timed, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	err := ask(timed)
	c.line.leave(host, unreachable(ctx, err))
	return err
}

// ParseURL checks a tracker's URL: http, https or udp, a host, a port (which UDP requires), at most [MaxURLBytes]. The error
// is a [*URLError].
func ParseURL(raw string) (*url.URL, error) {
	if len(raw) > MaxURLBytes {
		return nil, &URLError{Reason: fmt.Sprintf("%d bytes long, want at most %d", len(raw), MaxURLBytes)}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, &URLError{Reason: "not a URL"} // what it is may be a secret
	}
	u.Fragment, u.RawFragment = "", ""
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "udp":
		return nil, &URLError{Reason: fmt.Sprintf("scheme %q, want http, https or udp", u.Scheme)}
	case u.Hostname() == "":
		return nil, &URLError{Reason: "no host"}
	case u.Port() == "" && u.Scheme == "udp":
		return nil, &URLError{Reason: "no port"}
	}
	if port, err := netdial.PortOf(u); err != nil || port == 0 {
		return nil, &URLError{Reason: fmt.Sprintf("port %q, want 1 to 65535", u.Port())}
	}
	return u, nil
}

// Display returns u in ASCII and without what may be secret: its path and query carry the passkeys of private trackers.
func Display(u *url.URL) string {
	return u.Scheme + "://" + strings.Trim(strconv.QuoteToASCII(u.Host), `"`)
}

// eachAddr calls try with each address in turn until one succeeds or refuses, sharing out the time that ctx leaves.
func eachAddr(ctx context.Context, addrs []netip.AddrPort, try func(ctx context.Context, addr netip.AddrPort) error) error {
	return netdial.EachAddr(ctx, addrs, try, func(err error) bool {
		_, refused := errors.AsType[*FailureError](err)
		return refused
	})
}
