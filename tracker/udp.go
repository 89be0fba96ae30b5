package tracker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/tracker/proto"
)

const (
	// udpFirstWait is how long a reply is waited for before the request is sent again; it doubles each time (BEP 15).
	udpFirstWait = 15 * time.Second
	// udpMaxSends: n goes from 0 to 8 (BEP 15). The timeout of the client ends it earlier as a rule.
	udpMaxSends = 9
	// connectionIDLife is how long a client may use a connection id (BEP 15).
	connectionIDLife = time.Minute
	// maxConnectionIDs bounds the cache.
	maxConnectionIDs = 256
	// maxStrays is how many datagrams that answer nothing are read over before the tracker is given up.
	maxStrays = 1000
)

// errNoReply is a timeout of one transmission.
var errNoReply = fmt.Errorf("no reply: %w", os.ErrDeadlineExceeded)

func (c *Client) announceUDP(ctx context.Context, u *url.URL, by Origin, req *Request) (proto.AnnounceReply, netip.Addr, error) {
	r, from, err := c.exchange(ctx, u, by, proto.ActionAnnounce, func(dst []byte, id uint64, tid uint32) []byte {
		return proto.AppendUDPAnnounce(dst, id, tid, req, target(u))
	})
	return r.Announce, from, err
}

func (c *Client) scrapeUDP(ctx context.Context, u *url.URL, by Origin, hashes []bt.InfoHash) ([]Counts, error) {
	r, _, err := c.exchange(ctx, u, by, proto.ActionScrape, func(dst []byte, id uint64, tid uint32) []byte {
		return proto.AppendUDPScrape(dst, id, tid, hashes)
	})
	if err != nil {
		return nil, err
	}
	if len(r.Counts) != len(hashes) {
		return nil, &proto.SyntaxError{Message: "udp reply", Reason: fmt.Sprintf("scrape of %d torrents, want %d", len(r.Counts), len(hashes))}
	}
	for i := range r.Counts {
		r.Counts[i].InfoHash = hashes[i]
	}
	return r.Counts, nil
}

// target returns what BEP 41 sends of the URL. The usual path says nothing and is left out, for trackers that do not expect
// longer announces.
func target(u *url.URL) string {
	t := u.EscapedPath()
	if u.RawQuery != "" {
		t += "?" + u.RawQuery
	}
	if t == "/" || t == "/announce" {
		return ""
	}
	return t
}

// exchange sends a request to the tracker and returns its reply of kind action.
func (c *Client) exchange(ctx context.Context, u *url.URL, by Origin, action proto.Action,
	build func(dst []byte, id uint64, tid uint32) []byte) (r proto.UDPReply, from netip.Addr, err error) {
	addrs, err := c.dialer.Addresses(ctx, u, by)
	if err != nil {
		return r, from, err
	}
	err = eachAddr(ctx, addrs, func(ctx context.Context, addr netip.AddrPort) error {
		// A connected socket: only what comes from that address and port is read.
		conn, err := c.dialer.Dial(ctx, "udp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		x := &udpExchange{ctx: ctx, conn: conn, addr: addr, ids: &c.ids, buf: make([]byte, proto.MaxDatagramBytes)}
		stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		r, err = x.run(action, build)
		if ctxErr := ctx.Err(); err != nil && ctxErr != nil {
			return ctxErr
		}
		from = addr.Addr()
		return err
	})
	return r, from, err
}

// udpExchange is one request to one address. It belongs to one goroutine.
type udpExchange struct {
	ctx    context.Context
	conn   net.Conn
	addr   netip.AddrPort
	ids    *idCache
	buf    []byte
	strays int
}

func (x *udpExchange) run(action proto.Action, build func([]byte, uint64, uint32) []byte) (proto.UDPReply, error) {
	connectTID, tid := newTransaction(), newTransaction()
	id, inherited := x.ids.get(x.addr, time.Now())
	have := inherited
	since := time.Now() // of the id; for an inherited one the cache knows
	var out []byte
	for n := 0; n < udpMaxSends; n++ {
		wait := udpFirstWait << n
		if have && !inherited && time.Since(since) >= connectionIDLife {
			have = false // BEP 15: a connection id that has expired is requested anew
		}
		if !have {
			r, err := x.roundTrip(proto.AppendConnect(out[:0], connectTID), connectTID, proto.ActionConnect, wait)
			if errors.Is(err, errNoReply) {
				continue
			}
			if err != nil {
				return r, err
			}
			id, have, inherited, since = r.ConnectionID, true, false, time.Now()
			x.ids.put(x.addr, id, since)
		}
		out = build(out[:0], id, tid)
		r, err := x.roundTrip(out, tid, action, wait)
		_, refused := errors.AsType[*FailureError](err)
		switch {
		case err == nil:
			return r, nil
		case inherited && (refused || errors.Is(err, errNoReply)):
			// The tracker may have restarted, or binds the id to a port: a fresh one decides.
			x.ids.drop(x.addr)
			have, inherited = false, false
			if refused {
				n-- // it answers; there was nothing to wait for. Once only, as inherited is false now.
			}
		case errors.Is(err, errNoReply):
		default:
			if refused {
				x.ids.drop(x.addr)
			}
			return r, err
		}
	}
	return proto.UDPReply{}, errNoReply
}

// roundTrip sends one datagram and waits for its answer of kind want. The error is errNoReply after wait, a
// [*FailureError] if the tracker sends an error, or the network's.
func (x *udpExchange) roundTrip(out []byte, tid uint32, want proto.Action, wait time.Duration) (proto.UDPReply, error) {
	if err := x.conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return proto.UDPReply{}, err
	}
	if err := x.ctx.Err(); err != nil { // it may have ended before the deadline was moved
		return proto.UDPReply{}, err
	}
	if _, err := x.conn.Write(out); err != nil {
		return proto.UDPReply{}, noReply(err)
	}
	for {
		n, err := x.conn.Read(x.buf)
		if err != nil {
			return proto.UDPReply{}, noReply(err)
		}
		// Late replies to earlier requests, and guesses of somebody who can forge addresses, carry another transaction.
		if got, ok := proto.UDPTransaction(x.buf[:n]); !ok || got != tid {
			if x.strays++; x.strays > maxStrays {
				return proto.UDPReply{}, &proto.SyntaxError{Message: "udp reply", Reason: "a flood of datagrams that answer nothing"}
			}
			continue
		}
		r, err := proto.ParseUDPReply(x.buf[:n], x.addr.Addr().Is6())
		switch {
		case err != nil:
			return r, err
		case r.Failure != nil:
			return r, r.Failure
		case r.Action != want:
			return r, &proto.SyntaxError{Message: "udp reply", Reason: fmt.Sprintf("action %d, want %d", r.Action, want)}
		}
		return r, nil
	}
}

func noReply(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errNoReply
	}
	return err
}

// newTransaction returns an id that nobody can guess, which is all that protects a UDP reply from forgery.
func newTransaction() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}

// idCache remembers connection ids. The zero value is empty. It is safe for concurrent use.
type idCache struct {
	mu  sync.Mutex
	all map[netip.AddrPort]connectionID
}

type connectionID struct {
	id uint64
	at time.Time
}

func (c *idCache) get(addr netip.AddrPort, now time.Time) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.all[addr]
	return e.id, ok && now.Sub(e.at) < connectionIDLife
}

func (c *idCache) put(addr netip.AddrPort, id uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[netip.AddrPort]connectionID{}
	}
	if _, known := c.all[addr]; !known && len(c.all) >= maxConnectionIDs {
		for a, e := range c.all {
			if now.Sub(e.at) >= connectionIDLife {
				delete(c.all, a)
			}
		}
		for a := range c.all {
			if len(c.all) < maxConnectionIDs {
				break
			}
			delete(c.all, a) // any: it costs its owner one round trip
		}
	}
	c.all[addr] = connectionID{id, now}
}

func (c *idCache) drop(addr netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, addr)
}
