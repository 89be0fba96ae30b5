package tracker

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
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

const (
	maxRetryAfter   = 24 * time.Hour
	acceptEncodings = "gzip"
)

func (c *Client) announceHTTP(ctx context.Context, u *url.URL, by Origin, req *Request) (proto.AnnounceReply, netip.Addr, error) {
	body, from, err := c.get(ctx, withQuery(u, proto.AppendAnnounceQuery(nil, req)), by)
	if err != nil {
		return proto.AnnounceReply{}, from, err
	}
	r, err := proto.ParseAnnounceReply(body)
	if err != nil {
		return proto.AnnounceReply{}, from, err
	}
	return *r, from, nil
}

func (c *Client) scrapeHTTP(ctx context.Context, u *url.URL, by Origin, hashes []bt.InfoHash) ([]Counts, error) {
	path, ok := proto.ScrapePath(u.EscapedPath())
	if !ok {
		return nil, ErrNoScrape
	}
	at := *u
	var err error
	if at.Path, err = url.PathUnescape(path); err != nil {
		return nil, ErrNoScrape
	}
	at.RawPath = path
	body, _, err := c.get(ctx, withQuery(&at, proto.AppendScrapeQuery(nil, hashes)), by)
	if err != nil {
		return nil, err
	}
	return proto.ParseScrapeReply(body, hashes)
}

// withQuery returns u with query behind the one it has, which is left as it is: a tracker may want its bytes as they are.
func withQuery(u *url.URL, query []byte) *url.URL {
	at := *u
	if at.RawQuery != "" {
		at.RawQuery += "&"
	}
	at.RawQuery += string(query)
	return &at
}

// get fetches u, following redirects, and returns the body and who sent it.
func (c *Client) get(ctx context.Context, u *url.URL, by Origin) ([]byte, netip.Addr, error) {
	for redirects := 0; ; redirects++ {
		body, next, from, err := c.hop(ctx, u, by)
		if err != nil || next == nil {
			return body, from, err
		}
		if redirects == MaxRedirects {
			return nil, from, ErrTooManyRedirects
		}
		// Whoever redirects names the next address.
		u, by = next, netpolicy.ClassOf(from)
	}
}

// hop makes one request. It returns the body or, if the reply is a redirect, where to.
func (c *Client) hop(ctx context.Context, u *url.URL, by Origin) (body []byte, next *url.URL, from netip.Addr, err error) {
	// A transport for this request alone: a connection that was made for one source of URLs is never used for another,
	// and none is left behind.
	transport := c.dialer.Transport(by, c.cfg.TLS)
	transport.DisableKeepAlives = true
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { from = netdial.DialedBy(info.Conn).Addr() }}
	ctx = httptrace.WithClientTrace(ctx, trace)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, from, &URLError{Reason: "not usable for HTTP"}
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept-Encoding", acceptEncodings)
	if u.User != nil {
		password, _ := u.User.Password()
		req.SetBasicAuth(u.User.Username(), password)
	}
	// Not through an http.Client, which would follow redirects and keep cookies.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, nil, from, err
	}
	defer resp.Body.Close()
	if location := resp.Header.Get("Location"); location != "" && netdial.IsRedirect(resp.StatusCode) {
		next, err = netdial.Redirect(u, location, MaxURLBytes+proto.MaxQueryBytes)
		return nil, next, from, err
	}
	body, err = readBody(resp)
	if err != nil {
		return nil, nil, from, err
	}
	if resp.StatusCode != http.StatusOK {
		// Some trackers say why in their own language and set a status besides.
		if _, err := proto.ParseAnnounceReply(body); err != nil {
			if failure, ok := errors.AsType[*FailureError](err); ok {
				return nil, nil, from, failure
			}
		}
		return nil, nil, from, &StatusError{Code: resp.StatusCode, RetryIn: retryAfter(resp)}
	}
	return body, nil, from, nil
}

func readBody(resp *http.Response) ([]byte, error) {
	// Both sides of the decompression are bounded: an archive of nothing costs no more than one of zeros.
	in := &io.LimitedReader{R: resp.Body, N: proto.MaxReplyBytes + 1}
	var out io.Reader = in
	switch encoding := strings.ToLower(resp.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		z.Multistream(false) // one archive; a row of empty ones is only work
		out = z
	default:
		return nil, &proto.SyntaxError{Message: "http reply", Reason: fmt.Sprintf("content encoding %.20q, which was not asked for", encoding)}
	}
	body, err := io.ReadAll(io.LimitReader(out, proto.MaxReplyBytes+1))
	switch {
	case len(body) > proto.MaxReplyBytes || in.N <= 0:
		return nil, ErrReplyTooLarge
	case err != nil:
		return nil, fmt.Errorf("reading the reply: %w", err)
	}
	return body, nil
}

// retryAfter reads the header of that name, if it is in seconds.
func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 32)
	if err != nil {
		return 0 // absent, or a date
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
