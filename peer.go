package parley

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// Dialect is how the frames of a session are written (EMP/1 section 1): classic or ltep for now.
type Dialect = wire.Dialect

// Hello is how a session began (EMP/1 section 2).
type Hello = wire.Hello

// A Peer is one session with one peer: a comparable value, valid after the session has ended too. The zero Peer is no
// peer; its methods return zero values and ErrClosed.
type Peer struct{ s *session }

// PeerInfo is what is known about a peer at one moment. Client comes from the peer: escape it before it reaches a terminal.
type PeerInfo struct {
	Addr                                                 netip.AddrPort // the remote end of the connection
	ID                                                   bt.PeerID
	Client                                               string // name and version: from the extended handshake ("v"), else from the peer ID
	Dialect                                              Dialect
	Hello                                                Hello
	Initiator                                            bool           // whether the peer opened the connection
	Reserved                                             wire.Reserved  // the reserved bits of its hello
	Listen                                               netip.AddrPort // where it says it accepts peers; zero if it did not say (BEP 10, "p")
	Types                                                []string       // application message types it receives, sorted
	Pieces                                               int            // how many pieces it has
	Seed                                                 bool
	Downloaded, Uploaded                                 int64   // bytes of piece data from and to it
	DownRate, UpRate                                     float64 // bytes a second
	MessagesIn, MessagesOut                              int64
	AmChoking, AmInterested, PeerChoking, PeerInterested bool
	Since                                                time.Time // when its hello was complete
}

// session joins the swarm's and the application's side of one session.
type session struct {
	t   *Torrent
	sw  *swarm.Peer
	mp  *messaging.Peer
	out atomic.Int64 // messages sent
}

// peerOf returns the public value of a peer of the swarm.
func peerOf(p *swarm.Peer) Peer {
	return Peer{p.Apps().(*messaging.Peer).Owner.(*session)}
}

// Info returns what is known about the peer now.
func (p Peer) Info() PeerInfo {
	if p.s == nil {
		return PeerInfo{}
	}
	i := p.s.sw.Info()
	out := PeerInfo{Addr: p.s.sw.Addr(), ID: i.ID, Client: i.Client, Dialect: i.Dialect, Hello: wire.HelloPlaintext, Initiator: i.Incoming,
		Reserved: i.Reserved, Listen: i.Listen, Types: p.Types(), Pieces: i.Pieces, Seed: i.Seed, Downloaded: i.Downloaded, Uploaded: i.Uploaded,
		DownRate: i.DownRate, UpRate: i.UpRate, MessagesIn: p.s.mp.In.Load(), MessagesOut: p.s.out.Load(), AmChoking: i.AmChoking,
		AmInterested: i.AmInterested, PeerChoking: i.PeerChoking, PeerInterested: i.PeerInterested, Since: i.Since}
	if out.Client == "" {
		out.Client = clientOf(i.ID)
	}
	return out
}

// Types returns the application message types that the peer receives now, sorted.
func (p Peer) Types() []string {
	if p.s == nil {
		return nil
	}
	var names []string
	for name, id := range p.s.mp.Types() {
		if id != 0 && ltep.IsTypeName(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Addr returns the remote end of the peer's connection.
func (p Peer) Addr() netip.AddrPort {
	if p.s == nil {
		return netip.AddrPort{}
	}
	return p.s.sw.Addr()
}

// Torrent returns the torrent the session belongs to.
func (p Peer) Torrent() *Torrent {
	if p.s == nil {
		return nil
	}
	return p.s.t
}

// String returns the peer's address.
func (p Peer) String() string {
	if p.s == nil {
		return "no peer"
	}
	return p.s.sw.Addr().String()
}

// Shares reports whether the peer receives application messages of the named type now.
func (p Peer) Shares(typeName string) bool {
	return p.s != nil && p.s.mp.TypeID(typeName) != 0 && !ltep.IsReserved(typeName)
}

// Send sends one application message to the peer, under a type that the peer has announced; this side need not
// have registered it. It returns when the message stands in the peer's bounded send queue, in order behind those before
// it; it waits while the queue is full. payload is copied. The errors are ctx's, [ErrTypeNotShared], [ErrMessageTooLarge], and one that unwraps to
// [net.ErrClosed] when the session has ended.
func (p Peer) Send(ctx context.Context, typeName string, payload []byte) error {
	if ltep.IsReserved(typeName) {
		return fmt.Errorf("%q: %w", typeName, ErrBadTypeName)
	}
	return p.send(ctx, typeName, payload)
}

func (p Peer) send(ctx context.Context, name string, payload []byte) error {
	conn, id, err := p.check(name, len(payload))
	if err != nil {
		return err
	}
	if err := conn.SendApp(ctx, id, payload); err != nil {
		return err
	}
	p.s.out.Add(1)
	return nil
}

// check returns what a message is sent by, or why it cannot be: nothing has been written then.
func (p Peer) check(name string, n int) (*peerconn.Conn, uint8, error) {
	if p.s == nil {
		return nil, 0, ErrClosed
	}
	conn := p.s.sw.Conn()
	if conn == nil {
		return nil, 0, fmt.Errorf("peer %v: %w", p, ErrClosed)
	}
	id := p.s.mp.TypeID(name)
	if id == 0 {
		return nil, 0, fmt.Errorf("peer %v: %q: %w", p, name, ErrTypeNotShared)
	}
	if limit := p.s.t.client.cfg.MaxMessageBytes; n > limit {
		return nil, 0, fmt.Errorf("peer %v: %q: %w: %d bytes, the limit is %d", p, name, ErrMessageTooLarge, n, limit)
	}
	return conn, id, nil
}

// Flush waits until everything sent to the peer before the call has been handed to the operating system and, where it can tell,
// been acknowledged by the peer's.
func (p Peer) Flush(ctx context.Context) error {
	if p.s == nil {
		return ErrClosed
	}
	conn := p.s.sw.Conn()
	if conn == nil {
		return fmt.Errorf("peer %v: %w", p, ErrClosed)
	}
	if err := conn.Flush(ctx); err != nil {
		return err
	}
	// The system tells how much is unacknowledged, but not when that changes.
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		switch n, known := conn.Unacknowledged(); {
		case !known:
			return conn.Flush(ctx) // the system cannot tell; or the session has ended, and the connection knows
		case n == 0:
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close ends the session in good order: what stands in the send queue is written first, within a second. The address may be dialled again later.
func (p Peer) Close() error {
	if p.s == nil {
		return ErrClosed
	}
	if conn := p.s.sw.Conn(); conn != nil {
		conn.Close(nil)
	}
	return nil
}

// clientOf reads a client's name and version from its peer ID, where that is in the style of Azureus ("-XX1234-").
func clientOf(id bt.PeerID) string {
	if id[0] != '-' || id[7] != '-' {
		return ""
	}
	code := string(id[1:3])
	for _, c := range code + string(id[3:7]) {
		if c < '!' || c > '~' {
			return ""
		}
	}
	name := clientNames[code]
	if name == "" {
		name = code
	}
	v := string([]byte{id[3], '.', id[4], '.', id[5], '.', id[6]})
	return name + " " + strings.TrimSuffix(v, ".0") // most use three digits
}

// clientNames are the codes of clients that people meet.
var clientNames = map[string]string{"PY": "Parley", "LT": "libtorrent", "lt": "libTorrent", "TR": "Transmission", "qB": "qBittorrent", "A2": "aria2", "DE": "Deluge",
	"UT": "uTorrent", "BI": "BiglyBT", "AZ": "Azureus", "WW": "WebTorrent", "GT": "anacrolix/torrent", "RN": "rain", "KT": "KTorrent", "BC": "BitComet"}
