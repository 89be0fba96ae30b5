// Package netdial finds out which addresses a URL's host has, and dials those that whoever named the URL may name (package netpolicy). Trackers and web
// seeds share it.
//
// A name is resolved first, every address is checked, and exactly a checked address is dialed, so that a name that changes its mind between check and
// dial gains nothing. Proxies of the environment are not used for the same reason: they would resolve the name themselves. [Config.Dial] is the way to use
// one.
//
// The package speaks no protocol: what is sent over a connection is the caller's business.
package netdial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/parley-bt/parley/internal/netpolicy"
)

const (
	// MaxAddrs is how many addresses of a name are tried, per family.
	MaxAddrs = 2
	// MaxHeaderBytes is how long the header of an HTTP reply may be.
	MaxHeaderBytes = 64 << 10
)

// Config configures a [Dialer]. The zero value is usable.
type Config struct {
	// Dial connects to address, always an IP address with a port; network is "tcp" or "udp". nil uses a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve returns the addresses of a host. nil uses the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Policy says what strangers may name beyond the rule.
	Policy netpolicy.Policy
}

// Dialer resolves, checks and dials. It is safe for concurrent use.
type Dialer struct{ cfg Config }

// New returns a dialer.
func New(cfg Config) *Dialer {
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &Dialer{cfg}
}

// Dial connects to an address that was checked, over "tcp" or "udp".
func (d *Dialer) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	return d.cfg.Dial(ctx, network, addr.String())
}

// Addresses returns whom to dial for u: the addresses of its host that a source of class by may name, at most [MaxAddrs] of a family. There is at least
// one. The error is of the resolver, or a [*netpolicy.RefusedError].
func (d *Dialer) Addresses(ctx context.Context, u *url.URL, by netpolicy.Class) ([]netip.AddrPort, error) {
	port, err := PortOf(u)
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	if literal, err := netip.ParseAddr(u.Hostname()); err == nil {
		all = []netip.Addr{literal}
	} else if all, err = d.cfg.Resolve(ctx, u.Hostname()); err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	var refused error
	var n4, n6 int
	for _, a := range all {
		a = a.Unmap()
		if err := d.cfg.Policy.Check(a, by); err != nil {
			refused = errors.Join(refused, err)
			continue
		}
		n := &n6
		if a.Is4() {
			n = &n4
		}
		if *n++; *n <= MaxAddrs {
			out = append(out, netip.AddrPortFrom(a, port))
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case refused != nil:
		return nil, refused
	}
	return nil, &net.DNSError{Err: "no addresses", Name: u.Hostname(), IsNotFound: true}
}

// EachAddr calls try with each address in turn until one succeeds, sharing out the time that ctx leaves. It returns the last error; final, if not nil, says
// that an error is not worth another address.
func EachAddr(ctx context.Context, addrs []netip.AddrPort, try func(ctx context.Context, addr netip.AddrPort) error, final func(error) bool) error {
	var failed error
	for i, addr := range addrs {
		tryCtx, cancel := ctx, context.CancelFunc(func() {})
		if end, ok := ctx.Deadline(); ok {
			tryCtx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(len(addrs)-i))
		}
		err := try(tryCtx, addr)
		cancel()
		if err == nil {
			return nil
		}
		if final != nil && final(err) || ctx.Err() != nil {
			return err // it has answered, or there is no time for another
		}
		failed = err // the last one's; the others failed alike as a rule
	}
	return failed
}

// Conn is a connection that [Dialer.Transport] made, with the address that was dialed: behind a proxy it is not that of the remote end.
type Conn struct {
	net.Conn
	Dialed netip.AddrPort
}

// DialedBy returns the address that was dialed for a connection of a [Dialer.Transport], TLS or not; the zero AddrPort for others.
func DialedBy(c net.Conn) netip.AddrPort {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if c, ok := c.(*Conn); ok {
		return c.Dialed
	}
	return netip.AddrPort{}
}

// Transport returns a transport for URLs that a source of class by has named, and for no others: a connection made for one source must not be used for
// another. It follows no redirect, uses no proxy, and decompresses nothing. tlsConfig may be nil; it is copied. The caller closes idle connections.
func (d *Dialer) Transport(by netpolicy.Class, tlsConfig *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			addrs, err := d.Addresses(ctx, &url.URL{Host: address}, by)
			if err != nil {
				return nil, err
			}
			var conn net.Conn
			err = EachAddr(ctx, addrs, func(ctx context.Context, addr netip.AddrPort) error {
				c, err := d.Dial(ctx, network, addr)
				if err == nil {
					conn = &Conn{c, addr}
				}
				return err
			}, nil)
			return conn, err
		},
		Proxy:                  nil,
		TLSClientConfig:        tlsConfig.Clone(),
		DisableCompression:     true,
		MaxResponseHeaderBytes: MaxHeaderBytes,
		MaxIdleConnsPerHost:    2,
	}
}

// PortOf returns the port of u, that of its scheme if it names none.
func PortOf(u *url.URL) (uint16, error) {
	switch {
	case u.Port() != "":
		n, err := strconv.ParseUint(u.Port(), 10, 16)
		return uint16(n), err
	case u.Scheme == "https":
		return 443, nil
	}
	return 80, nil
}

// RedirectError says why a redirect is not followed.
type RedirectError struct{ Reason string }

// Error returns the reason.
func (e *RedirectError) Error() string { return "redirect " + e.Reason }

// IsRedirect reports whether a reply of this status leads elsewhere, if it says where.
func IsRedirect(code int) bool {
	switch code {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// Redirect returns where a redirect from u leads: to http or https, never from https to http, in a URL of at most maxBytes. The error is a
// [*RedirectError].
func Redirect(u *url.URL, location string, maxBytes int) (*url.URL, error) {
	if len(location) > maxBytes {
		return nil, &RedirectError{Reason: "to a URL that is too long"}
	}
	next, err := u.Parse(location)
	if err != nil {
		return nil, &RedirectError{Reason: "to what is not a URL"}
	}
	next.Fragment, next.RawFragment = "", ""
	port, err := PortOf(next)
	switch {
	case next.Scheme != "http" && next.Scheme != "https":
		return nil, &RedirectError{Reason: fmt.Sprintf("to scheme %q, want http or https", next.Scheme)}
	case u.Scheme == "https" && next.Scheme == "http":
		return nil, &RedirectError{Reason: "from https to http"} // the query may carry a passkey
	case next.Hostname() == "" || err != nil || port == 0:
		return nil, &RedirectError{Reason: "without a usable host and port"}
	}
	return next, nil
}
