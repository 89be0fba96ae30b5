package parley

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/clientid"
	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// Dialect is how the frames of a session are written (EMP/1 section 1): classic, ltep or emp for now.
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
	Identity                                             ed25519.PublicKey // the key that it has proven to have, in a veiled session (EMP/1 section 5.1); nil if none
	Initiator                                            bool              // whether the peer opened the connection
	Reserved                                             wire.Reserved     // the reserved bits of its hello
	Listen                                               netip.AddrPort    // where it says it accepts peers; zero if it did not say (BEP 10, "p")
	Types                                                []string          // application message types it receives, sorted
	Pieces                                               int               // how many pieces it has
	Seed                                                 bool
	Downloaded, Uploaded                                 int64   // bytes of piece data from and to it
	DownRate, UpRate                                     float64 // bytes a second
	MessagesIn, MessagesOut                              int64   // requests are among those that came in
	MessagesRefused                                      int64   // of MessagesOut, how many it refused after they had gone whole
	AmChoking, AmInterested, PeerChoking, PeerInterested bool
	Since                                                time.Time // when its hello was complete
}

// session joins the swarm's and the application's side of one session.
type session struct {
	t  *Torrent
	sw *swarm.Peer
	mp *messaging.Peer
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
	out := PeerInfo{Addr: p.s.sw.Addr(), ID: i.ID, Client: i.Client, Dialect: i.Dialect, Hello: i.Hello, Identity: i.Identity, Initiator: i.Incoming,
		Reserved: i.Reserved, Listen: i.Listen, Types: p.Types(), Pieces: i.Pieces, Seed: i.Seed, Downloaded: i.Downloaded, Uploaded: i.Uploaded,
		DownRate: i.DownRate, UpRate: i.UpRate, MessagesIn: p.s.mp.Received(), MessagesOut: p.s.mp.SentMessages(), MessagesRefused: p.s.mp.Refused.Load(), AmChoking: i.AmChoking,
		AmInterested: i.AmInterested, PeerChoking: i.PeerChoking, PeerInterested: i.PeerInterested, Since: i.Since}
	if out.Client == "" {
		out.Client = clientid.Of(i.ID)
	}
	return out
}

// Types returns the application message types that the peer receives now, sorted.
func (p Peer) Types() []string {
	var names []string
	for _, t := range p.TypeInfos() {
		names = append(names, t.Name)
	}
	return names
}

// TypeInfo is what is known of one message type of a peer.
type TypeInfo struct {
	Name                   string
	Enhanced               bool  // in the enhanced dialect: with versions, flow control and requests
	MinVersion, MaxVersion uint8 // the versions that the peer receives; 0 where there are none
	MaxBytes               int   // the largest message that can be sent to it
}

// TypeInfos returns what is known of the message types that the peer receives now, sorted by name.
func (p Peer) TypeInfos() []TypeInfo {
	if p.s == nil {
		return nil
	}
	s := p.s.mp.Shared()
	if s == nil {
		return nil
	}
	var infos []TypeInfo
	for name, o := range s.Mux {
		if ltep.IsTypeName(name) {
			infos = append(infos, TypeInfo{Name: name, Enhanced: true, MinVersion: o.MinVersion, MaxVersion: o.MaxVersion, MaxBytes: int(o.MaxLen)})
		}
	}
	for name, id := range s.Plain {
		if _, enhanced := s.Mux[name]; id != 0 && !enhanced && ltep.IsTypeName(name) {
			infos = append(infos, TypeInfo{Name: name, MaxBytes: p.s.t.client.cfg.MaxMessageBytes})
		}
	}
	slices.SortFunc(infos, func(a, b TypeInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

// MessageLimits is what a peer lets be sent to it at once in the enhanced dialect (EMP/1 section 6.2).
type MessageLimits struct {
	// WindowBytes is its receive window, as it was advertised: how much of messages and requests, with 64 bytes for each, may be on the way to it or with its handlers.
	WindowBytes int
	// FreeBytes is how much of the window is free at this moment. It is all of it again once the peer's handlers are done, or it has refused, what was sent.
	FreeBytes int
	// Requests is how many requests may be unanswered; 0: it takes none.
	Requests int
}

// MessageLimits returns what the peer lets be sent to it at once; false while the session is not in the enhanced dialect.
func (p Peer) MessageLimits() (l MessageLimits, ok bool) {
	if p.s == nil {
		return l, false
	}
	s, conn := p.s.mp.Shared(), p.s.sw.Conn()
	if s == nil || s.Mux == nil || conn == nil {
		return l, false
	}
	conn.Do(func(m *peer.Machine) {
		var window uint32
		window, l.Requests, ok = m.MuxLimits()
		free, _ := m.PeerMuxWindow()
		l.WindowBytes, l.FreeBytes = int(window), int(free)
	})
	return l, ok
}

// TypeStats returns the counts of each message type that was sent or received with the peer.
func (p Peer) TypeStats() map[string]TypeStats {
	if p.s == nil {
		return nil
	}
	all := make(map[string]TypeStats)
	for name, c := range p.s.mp.AllCounters() {
		all[name] = typeStats(c)
	}
	return all
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

// Shares reports whether the peer receives application messages of the named type now, in any version.
func (p Peer) Shares(typeName string) bool {
	if p.s == nil || ltep.IsReserved(typeName) {
		return false
	}
	t := p.s.mp.Target(typeName)
	return t.Plain != 0 || t.Mux.Type != nil
}

// Send sends one application message to the peer, in version 0, under a type that the peer has announced; this side need not
// have registered it. It returns when the message stands in the peer's bounded send queue, in order behind those before
// it, or, if it is larger than 16 KiB and the dialect has flow control, when its last byte is on the way; it waits while the queue or the peer's window is full. payload is not used afterwards. The errors are ctx's, [ErrTypeNotShared],
// [ErrVersionUnsupported], [ErrMessageTooLarge], [ErrPeerBusy] and [ErrRefused] (while it was on the way), and one that unwraps to [net.ErrClosed] when the session has ended.
func (p Peer) Send(ctx context.Context, typeName string, payload []byte) error {
	if ltep.IsReserved(typeName) {
		return fmt.Errorf("%q: %w", typeName, ErrBadTypeName)
	}
	t, err := p.target(typeName)
	if err != nil {
		return err
	}
	return p.sendTo(ctx, typeName, t, 0, 0, payload)
}

// target returns how the peer accepts a type.
func (p Peer) target(name string) (messaging.Target, error) {
	if p.s == nil {
		return messaging.Target{}, ErrClosed
	}
	t := p.s.mp.Target(name)
	if t.Plain == 0 && t.Mux.Type == nil {
		if p.s.sw.Conn() == nil {
			return t, fmt.Errorf("peer %v: %w", p, ErrClosed)
		}
		return t, fmt.Errorf("peer %v: %q: %w", p, name, ErrTypeNotShared)
	}
	return t, nil
}

// check says why a message cannot be sent, if that is known: nothing has been written then.
func (p Peer) check(name string, t messaging.Target, version uint8, n int) error {
	if t.Mux.Type != nil {
		switch {
		case version < t.Mux.MinVersion || version > t.Mux.MaxVersion:
			return p.versionError(name, t, version, version)
		case uint64(n) > uint64(t.Mux.MaxLen):
			return p.tooLarge(name, int64(n), int64(t.Mux.MaxLen))
		}
		return nil
	}
	if version != 0 {
		return p.versionError(name, t, version, version)
	}
	if limit := p.s.t.client.cfg.MaxMessageBytes; n > limit {
		return p.tooLarge(name, int64(n), int64(limit))
	}
	return nil
}

func (p Peer) tooLarge(name string, n, limit int64) error {
	return fmt.Errorf("peer %v: %q: %w: %d bytes, the limit is %d", p, name, ErrMessageTooLarge, n, limit)
}

func (p Peer) versionError(name string, t messaging.Target, low, high uint8) error {
	ours := fmt.Sprint(low)
	if low != high {
		ours = fmt.Sprintf("%d to %d", low, high)
	}
	if t.Mux.Type == nil {
		return fmt.Errorf("peer %v: %q: %w: the dialect has none but 0, this side would send %s", p, name, ErrVersionUnsupported, ours)
	}
	return fmt.Errorf("peer %v: %q: %w: it receives %d to %d, this side would send %s", p, name, ErrVersionUnsupported, t.Mux.MinVersion, t.Mux.MaxVersion, ours)
}

// sendTo sends one message.
func (p Peer) sendTo(ctx context.Context, name string, t messaging.Target, version uint8, priority int8, payload []byte) error {
	conn := p.s.sw.Conn()
	if conn == nil {
		return fmt.Errorf("peer %v: %w", p, ErrClosed)
	}
	var err error
	if t.Mux.Type != nil {
		err = conn.SendMux(ctx, t.Mux.Type, version, priority, payload) // which checks it again, and must
		if errors.Is(err, peer.ErrVersionNotShared) || errors.Is(err, peer.ErrMessageTooLarge) {
			err = cmp.Or(p.check(name, t, version, len(payload)), err) // in better words
		}
	} else if err = p.check(name, t, version, len(payload)); err == nil {
		err = conn.SendApp(ctx, t.Plain, payload)
	}
	if err != nil {
		return p.publicSendErr(name, err)
	}
	p.s.sent(t, len(payload))
	return nil
}

// trySend sends one message if it can go at once. It has been checked.
func (p Peer) trySend(name string, t messaging.Target, m Outgoing) (ok bool, err error) {
	conn := p.s.sw.Conn()
	if conn == nil {
		return false, fmt.Errorf("peer %v: %w", p, ErrClosed)
	}
	if t.Mux.Type != nil {
		ok, err = conn.TrySendMux(t.Mux.Type, m.Version, m.Priority, m.Payload)
	} else {
		ok, err = conn.TrySendApp(t.Plain, m.Payload)
	}
	if ok && err == nil {
		p.s.sent(t, len(m.Payload))
	}
	return ok, p.publicSendErr(name, err)
}

// sent counts a message.
func (s *session) sent(t messaging.Target, n int) {
	t.Counters.MessagesOut.Add(1)
	t.Counters.BytesOut.Add(int64(n))
}

// RequestError says why a request was not answered, or a message not taken. It unwraps to one of the sentinels: [ErrNoHandler], [ErrRefused], [ErrHandlerFailed],
// [ErrHandlerTimeout], [ErrReplyTooLarge], [ErrPeerBusy], [ErrMessageTooLarge], [ErrTypeNotShared].
type RequestError struct {
	Peer Peer
	Type string
	Err  error  // the sentinel
	Text string // what the handler that failed says of it; it comes from the peer: escape it before it reaches a terminal, as Error does
}

// Error implements error.
func (e *RequestError) Error() string {
	s := fmt.Sprintf("peer %v: %q: %v", e.Peer, e.Type, e.Err)
	if e.Text != "" {
		s += ": " + strings.Map(func(r rune) rune { // errors end up on terminals
			if unicode.IsPrint(r) {
				return r
			}
			return unicode.ReplacementChar
		}, e.Text)
	}
	return s
}

// Unwrap returns the sentinel.
func (e *RequestError) Unwrap() error { return e.Err }

// publicSendErr gives the errors of sending their public names.
func (p Peer) publicSendErr(name string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*messaging.CallError](err); ok {
		out := &RequestError{Peer: p, Type: name, Text: e.Text}
		if e.Refused || e.Reset {
			out.Err = codeErr(e.Code)
		} else {
			out.Err = statusErr(e.Status)
		}
		return out
	}
	if e, ok := errors.AsType[*peerconn.RefusedError](err); ok {
		p.s.mp.Counters(name).RefusedOut.Add(1)
		return &RequestError{Peer: p, Type: name, Err: codeErr(e.Code)}
	}
	for _, e := range [...][2]error{{peer.ErrTypeNotShared, ErrTypeNotShared}, {peer.ErrUnsupported, ErrRequestsUnsupported}, {peer.ErrVersionNotShared, ErrVersionUnsupported},
		{peer.ErrMessageTooLarge, ErrMessageTooLarge}, {peerconn.ErrMessageLength, ErrMessageLength}} {
		if errors.Is(err, e[0]) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("peer %v: %q: %w", p, name, e[1])
		}
	}
	return err
}

// statusErr and codeErr name what EMP/1 section 7.5 lists.
func statusErr(s emp.Status) error {
	switch s {
	case emp.StatusNoHandler:
		return ErrNoHandler
	case emp.StatusRefused:
		return ErrRefused
	case emp.StatusTimedOut:
		return ErrHandlerTimeout
	case emp.StatusTooLarge:
		return ErrReplyTooLarge
	case emp.StatusBusy:
		return ErrPeerBusy
	}
	return ErrHandlerFailed
}

func codeErr(c emp.Code) error {
	switch c {
	case emp.CodeTooLarge:
		return ErrMessageTooLarge
	case emp.CodeWithdrawn:
		return ErrTypeNotShared
	case emp.CodeInternal:
		return ErrHandlerFailed
	case emp.CodeBusy:
		return ErrPeerBusy
	}
	return ErrRefused
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
