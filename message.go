package parley

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// Message is one application message, or request, that has arrived.
type Message struct {
	Peer     Peer
	Type     string
	Version  uint8  // 0 where the dialect knows no versions (EMP/1 table 7.6)
	Payload  []byte // valid until the handler returns, or the iterator goes on; clone it to keep it. Nil in a StreamHandler
	Size     int64  // of the whole message, bytes
	ReplyMax int    // of a request: the longest answer that the peer takes, bytes
}

// Handler reacts to one message. Messages of one type and peer are handled one after the other in the order of sending;
// other types and other peers do not wait for them. It may call anything in this package, Send to the same peer and Withdraw included.
// ctx ends when the handler returns, when the session ends, or after [Config.HandlerTimeout]; it must not be used after that.
// An error is counted, and logged as a warning a few times a minute, else for debugging; it does not end the session.
//
// In the enhanced dialect the peer's window is short of the message until the handler returns. If handlers of two peers send to each other and wait, both windows may
// be used up: a Send in a handler should use ctx, so that it fails in time, and answers belong in a [RequestHandler] (EMP/1 section 7.3).
type Handler func(ctx context.Context, m *Message) error

// RequestHandler answers one request. The answer, which may be m.Payload or a part of it, is not copied: it must not be changed any more. It may be as long as m.ReplyMax.
// Requests of one type and peer are handled at the same time, see MessageType.Parallel, and without regard to messages. ctx also ends when the peer no
// longer waits. An error becomes [ErrHandlerFailed] with its text at the peer, [ErrRefused] becomes that, and ctx's end [ErrHandlerTimeout].
type RequestHandler func(ctx context.Context, m *Message) ([]byte, error)

// StreamHandler reacts to one message while it comes: r yields its payload. If it returns before r has ended, the rest is refused. What has come and is not read lies in
// memory, and counts in the peer's window until the handler returns. r does not end with ctx. Its errors are [ErrAbandoned], also when nothing has come for four minutes,
// [ErrPeerBusy] (this side ran out of memory for messages), and [ErrClosed] (the type was withdrawn).
type StreamHandler func(ctx context.Context, m *Message, r io.Reader) error

// MessageType describes an application message type to register.
type MessageType struct {
	// Name is what both sides call the type: 1 to 64 bytes of printable UTF-8. Names that BitTorrent itself uses are refused
	// ("ut_", "lt_", "BT_", "AZ_" prefixes, "upload_only", "emp_mux": EMP/1 section 6.2).
	Name string
	// Handler receives the messages. If all three handlers are nil they are read with [Type.Messages].
	Handler Handler
	// Stream receives the messages while they come, in place of Handler.
	Stream StreamHandler
	// Requests answers requests, which only the enhanced dialect has. If it is nil they fail with ErrNoHandler at the peer; if it alone is set, messages are refused.
	Requests RequestHandler
	// Parallel is how many requests of one peer are handled at once; 0 means 4.
	Parallel int
	// MaxBytes is the largest message accepted; 0 means Config.MaxMessageBytes, at most 16 MiB. Peers that speak the enhanced dialect know it; of one in a plain frame, which
	// carries 1,048,574 bytes at most, a larger one ends the session with ErrMessageTooLarge (EMP/1 section 6.2).
	MaxBytes int
	// MinVersion and MaxVersion are the versions this side receives, and can send. Where the dialect has no versions messages are of version 0: a type whose range does not hold
	// 0 is not offered there.
	MinVersion, MaxVersion uint8
	// Codec is how [Handle], [HandleMessages], [Call] and [SendValue] write values; nil means JSON.
	Codec Codec
}

// Type is a registered message type of one torrent. Its methods are safe for concurrent use.
type Type struct {
	t     *Torrent
	mt    *messaging.Type
	codec Codec
	min   uint8
	max   uint8
}

// Register adds a message type to this torrent and tells every connected peer (EMP/1 section 6). A peer learns of it a moment later: to have a type known to every
// peer from its first moment, add the torrent without Peers, register, then call [Torrent.AddPeers]. A type that was registered before may only have grown. The errors are [ErrBadTypeName],
// [ErrTypeExists], [ErrTooManyTypes] (all types of a torrent fit into 16 KiB of a type exchange: about 300 with names of 20 bytes), [ErrTypeNarrowed], and [ErrClosed].
func (t *Torrent) Register(mt MessageType) (*Type, error) {
	if err := CheckTypeName(mt.Name); err != nil {
		return nil, err
	}
	limit := t.client.cfg.MaxMessageBytes
	switch {
	case mt.MaxBytes < 0 || mt.MaxBytes > wire.MaxMessage:
		return nil, fmt.Errorf("message type %q: MaxBytes is %d, want 0 to %d", mt.Name, mt.MaxBytes, wire.MaxMessage)
	case mt.MaxBytes > 0:
		limit = mt.MaxBytes
	}
	if mt.MinVersion > mt.MaxVersion {
		return nil, fmt.Errorf("message type %q: MinVersion %d is above MaxVersion %d", mt.Name, mt.MinVersion, mt.MaxVersion)
	}
	if mt.Parallel < 0 {
		return nil, fmt.Errorf("message type %q: Parallel is %d", mt.Name, mt.Parallel)
	}
	if mt.Handler != nil && mt.Stream != nil {
		return nil, fmt.Errorf("message type %q: both Handler and Stream are set", mt.Name)
	}
	ty := &Type{t: t, codec: mt.Codec, min: mt.MinVersion, max: mt.MaxVersion}
	if ty.codec == nil {
		ty.codec = JSON
	}
	spec := messaging.Spec{Name: mt.Name, MaxBytes: limit, MinVersion: mt.MinVersion, MaxVersion: mt.MaxVersion, Parallel: cmp.Or(mt.Parallel, 4)}
	switch {
	case mt.Handler != nil:
		spec.Handler = ty.handler(mt.Handler)
	case mt.Stream != nil:
		spec.Handler, spec.Streams = ty.streamHandler(mt.Stream), true
	}
	if mt.Requests != nil {
		spec.Requests, spec.OnlyRequests = ty.requestHandler(mt.Requests), spec.Handler == nil
	}
	m, err := t.hub.Register(spec)
	if errors.Is(err, messaging.ErrWindow) {
		return nil, fmt.Errorf("message type %q: MaxBytes is %d, Config.MessageWindowBytes allows %d", mt.Name, limit, t.client.cfg.MessageWindowBytes-wire.MessageCost)
	}
	if err != nil {
		return nil, fmt.Errorf("message type %q: %w", mt.Name, publicErr(err))
	}
	ty.mt = m
	return ty, nil
}

// CheckTypeName returns nil if a message type can have the name, else [ErrBadTypeName] with the rule: see [MessageType].
func CheckTypeName(name string) error {
	if !ltep.IsTypeName(name) {
		return fmt.Errorf("message type %q: %w: want 1 to %d bytes of printable UTF-8, without the prefixes ut_, lt_, BT_, AZ_", name, ErrBadTypeName, wire.MaxTypeName)
	}
	return nil
}

// handler adapts a public handler. The message it gets is reused from call to call of one worker.
func (ty *Type) handler(h Handler) messaging.Handler {
	return func(ctx context.Context, m *messaging.Message) error {
		return h(ctx, publicMessage(m))
	}
}

func (ty *Type) streamHandler(h StreamHandler) messaging.Handler {
	return func(ctx context.Context, m *messaging.Message) error {
		out := publicMessage(m)
		out.Payload, out.Size = nil, m.Stream.Len()
		return h(ctx, out, streamReader{m.Stream})
	}
}

func (ty *Type) requestHandler(h RequestHandler) messaging.RequestHandler {
	return func(ctx context.Context, m *messaging.Message, replyMax int) ([]byte, error) {
		out := publicMessage(m)
		out.ReplyMax = replyMax
		answer, err := h(ctx, out)
		if errors.Is(err, ErrRefused) {
			err = messaging.ErrRefuse
		}
		return answer, err
	}
}

// streamReader gives the errors of a stream their public names.
type streamReader struct{ s *messaging.Stream }

// Read implements [io.Reader].
func (r streamReader) Read(p []byte) (int, error) {
	n, err := r.s.Read(p)
	switch err {
	case nil, io.EOF:
	case messaging.ErrBusy:
		err = ErrPeerBusy
	case messaging.ErrAbandoned, messaging.ErrSessionEnded, messaging.ErrStalled:
		err = fmt.Errorf("%w: %w", ErrAbandoned, err)
	default:
		err = publicErr(err)
	}
	return n, err
}

// publicMessage returns the public form of a message, which lives as long as its worker.
func publicMessage(m *messaging.Message) *Message {
	out, ok := m.Public.(*Message)
	if !ok {
		out = &Message{Peer: Peer{m.Peer.Owner.(*session)}, Type: m.Type.Name()}
		m.Public = out
	}
	out.Payload, out.Version, out.Size = m.Payload, m.Version, int64(len(m.Payload))
	return out
}

// publicErr gives messaging's errors their public names.
func publicErr(err error) error {
	for _, e := range [...][2]error{{messaging.ErrTypeExists, ErrTypeExists}, {messaging.ErrBadTypeName, ErrBadTypeName},
		{messaging.ErrTooManyTypes, ErrTooManyTypes}, {messaging.ErrHasHandler, ErrHasHandler}, {messaging.ErrNarrowed, ErrTypeNarrowed}, {messaging.ErrClosed, ErrClosed}} {
		if errors.Is(err, e[0]) {
			return e[1]
		}
	}
	return err
}

// Name returns the type's name.
func (ty *Type) Name() string { return ty.mt.Name() }

// Outgoing is a message or request with everything that can be said about how to send it.
type Outgoing struct {
	Payload []byte
	// Version is the payload's version. It is sent as that or not at all.
	Version uint8
	// Encode, if set, makes the payload, of the highest version that this side can send and the peer receives: Payload and Version are then not looked at.
	Encode func(version uint8) ([]byte, error)
	// Priority says which of the messages that wait for one peer goes first: the one with the highest, and of those the one that waits longest. It does not change the order of
	// messages of one type. Where the dialect has no window it has no effect.
	Priority int8
	// ReplyMax is the longest answer to a request that is taken; 0 means 65,536, and more than 16 MiB counts as that.
	ReplyMax int
}

// Version returns the highest version of the type that the peer receives and this side can send; false if the peer does not share the type in any.
func (ty *Type) Version(p Peer) (uint8, bool) {
	if p.s == nil {
		return 0, false
	}
	return ty.version(p.s.mp.Target(ty.Name()))
}

func (ty *Type) version(t messaging.Target) (uint8, bool) {
	if t.Mux.Type == nil {
		return 0, t.Plain != 0 && ty.min == 0
	}
	v := min(ty.max, t.Mux.MaxVersion)
	return v, v >= ty.min && v >= t.Mux.MinVersion
}

// resolve finds out how a message goes to a peer and makes its payload.
func (ty *Type) resolve(p Peer, m *Outgoing) (messaging.Target, error) {
	if err := ty.gone(); err != nil {
		return messaging.Target{}, err
	}
	t, err := p.target(ty.Name())
	if err != nil {
		return t, err
	}
	if m.Encode != nil {
		v, ok := ty.version(t)
		if !ok {
			return t, p.versionError(ty.Name(), t, ty.min, ty.max)
		}
		if m.Payload, err = m.Encode(v); err != nil {
			return t, fmt.Errorf("peer %v: message type %q, version %d: %w", p, ty.Name(), v, err)
		}
		m.Version, m.Encode = v, nil
	}
	return t, p.check(ty.Name(), t, m.Version, len(m.Payload))
}

// gone returns an error if the type has been withdrawn.
func (ty *Type) gone() error {
	if ty.mt.Gone() {
		return fmt.Errorf("message type %q: %w", ty.Name(), ErrClosed)
	}
	return nil
}

// Send sends one message to one peer, in the version that [Type.Version] reports; see [Peer.Send]. [ErrClosed] if the type has been withdrawn.
func (ty *Type) Send(ctx context.Context, p Peer, payload []byte) error {
	if err := ty.gone(); err != nil {
		return err
	}
	t, err := p.target(ty.Name())
	if err != nil {
		return err
	}
	v, ok := ty.version(t)
	if !ok {
		return p.versionError(ty.Name(), t, ty.min, ty.max)
	}
	return p.sendTo(ctx, ty.Name(), t, v, 0, payload)
}

// SendMessage is Send with every choice. A version that the peer does not receive is [ErrVersionUnsupported].
func (ty *Type) SendMessage(ctx context.Context, p Peer, m Outgoing) error {
	t, err := ty.resolve(p, &m)
	if err != nil {
		return err
	}
	return p.sendTo(ctx, ty.Name(), t, m.Version, m.Priority, m.Payload)
}

// NewWriter begins a message of size bytes to one peer, which is written bit by bit: at no time is all of it in memory. Nothing of it has gone before the first
// Write. It must be closed: from the first Write on no other message of the type goes to the peer. Once ctx has ended the next Write or Close gives the message up. m's Payload and Encode are not
// used; m.Version is what [Type.Version] reports, unless that is 0. It needs the enhanced dialect: [ErrRequestsUnsupported] elsewhere. Otherwise as SendMessage.
func (ty *Type) NewWriter(ctx context.Context, p Peer, size int64, m Outgoing) (*MessageWriter, error) {
	if p.s == nil {
		return nil, ErrClosed
	}
	if err := p.s.mp.Settled(ctx); err != nil {
		return nil, err
	}
	m.Payload, m.Encode = nil, nil
	t, err := ty.resolve(p, &m)
	if err != nil {
		return nil, err
	}
	if t.Mux.Type == nil {
		return nil, fmt.Errorf("peer %v: %q: %w: messages cannot be written bit by bit", p, ty.Name(), ErrRequestsUnsupported)
	}
	if size < 0 || size > int64(t.Mux.MaxLen) {
		return nil, p.tooLarge(ty.Name(), size, int64(t.Mux.MaxLen))
	}
	conn := p.s.sw.Conn()
	if conn == nil {
		return nil, fmt.Errorf("peer %v: %w", p, ErrClosed)
	}
	return &MessageWriter{w: conn.NewMuxWriter(ctx, t.Mux.Type, m.Version, m.Priority, uint32(size)), ty: ty, p: p, t: t, size: size}, nil
}

// MessageWriter writes one message bit by bit. It belongs to one goroutine.
type MessageWriter struct {
	w    *peerconn.MuxWriter
	ty   *Type
	p    Peer
	t    messaging.Target
	size int64
	done bool
	err  error // that was returned
}

// failed returns what err, of the connection, is called here: always the first there was.
func (w *MessageWriter) failed(err error) error {
	if err == nil {
		return nil
	}
	if w.err == nil {
		w.err = w.p.publicSendErr(w.ty.Name(), err) // which counts refusals
	}
	return w.err
}

// Write implements [io.Writer]. It returns when b is on its way, and waits while the peer's window or its turn does not allow that. Its errors are those of [Peer.Send],
// and [ErrMessageLength]; after one the message has been given up, and the peer told.
func (w *MessageWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	return n, w.failed(err)
}

// ReadFrom implements [io.ReaderFrom], in blocks that suit the wire.
func (w *MessageWriter) ReadFrom(r io.Reader) (n int64, err error) {
	buf := make([]byte, 8*wire.MaxFragment)
	for {
		k, rerr := io.ReadFull(r, buf)
		if k > 0 {
			wrote, werr := w.Write(buf[:k])
			n += int64(wrote)
			if werr != nil {
				return n, werr
			}
		}
		switch rerr {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return n, nil
		default:
			return n, rerr
		}
	}
}

// Close ends the message. If less was written than it was said to have, the message is given up and the error is [ErrMessageLength].
func (w *MessageWriter) Close() error {
	err := w.failed(w.w.Close())
	if err == nil && !w.done {
		w.done = true
		w.p.s.sent(w.t, int(w.size))
	}
	return err
}

// Request sends a request and returns the answer, at most maxReply bytes (0: 65,536), which is the caller's. It goes in the version that [Type.Version] reports. Where the session's dialect has no
// requests, which is everywhere but emp, or the peer takes none, it fails with [ErrRequestsUnsupported]. If ctx ends first the peer is told, and its handler's context ends. A peer that has
// not answered is a [*RequestError].
func (ty *Type) Request(ctx context.Context, p Peer, payload []byte, maxReply int) ([]byte, error) {
	return ty.RequestMessage(ctx, p, Outgoing{Encode: func(uint8) ([]byte, error) { return payload, nil }, ReplyMax: maxReply})
}

// RequestMessage is Request with every choice.
func (ty *Type) RequestMessage(ctx context.Context, p Peer, m Outgoing) ([]byte, error) {
	if p.s == nil {
		return nil, ErrClosed
	}
	if err := p.s.mp.Settled(ctx); err != nil {
		return nil, err
	}
	t, err := ty.resolve(p, &m)
	if err != nil {
		return nil, err
	}
	if t.Mux.Type == nil {
		return nil, fmt.Errorf("peer %v: %q: %w", p, ty.Name(), ErrRequestsUnsupported)
	}
	switch {
	case m.ReplyMax < 0:
		return nil, fmt.Errorf("message type %q: ReplyMax is %d", ty.Name(), m.ReplyMax)
	case m.ReplyMax == 0:
		m.ReplyMax = wire.DefaultMaxMessage
	}
	answer, err := p.s.mp.Request(ctx, t, m.Version, m.Priority, m.Payload, m.ReplyMax)
	if err != nil {
		return nil, p.publicSendErr(ty.Name(), err)
	}
	return answer, nil
}

// Broadcast sends one message to every peer that shares the type now, each in the version that [Type.Version] reports, and returns how many have it in their queue. It waits for
// those whose queue or window is full, side by side, until ctx ends; err joins what went wrong with single peers, each wrapped with its address.
// With no peer to send to it returns 0 and nil.
func (ty *Type) Broadcast(ctx context.Context, payload []byte) (int, error) {
	return ty.BroadcastMessage(ctx, Outgoing{Encode: func(uint8) ([]byte, error) { return payload, nil }})
}

// BroadcastMessage is Broadcast with every choice. With Encode each peer gets the highest version that it receives; without, only those get it that receive
// Version.
func (ty *Type) BroadcastMessage(ctx context.Context, m Outgoing) (int, error) {
	if err := ty.gone(); err != nil {
		return 0, err
	}
	if m.Encode != nil {
		m.Encode = once(m.Encode)
	}
	type waits struct {
		p Peer
		m Outgoing
	}
	var full []waits
	var errs []error
	sent := 0
	add := func(err error) {
		switch {
		case err == nil:
			sent++
		case errors.Is(err, ErrTypeNotShared), errors.Is(err, ErrVersionUnsupported):
			// It does not share it, or has withdrawn it a moment ago.
		default:
			errs = append(errs, err)
		}
	}
	for p := range ty.t.Peers() {
		each := m
		t, err := ty.resolve(p, &each)
		ok := false
		if err == nil {
			if ok, err = p.trySend(ty.Name(), t, each); err == nil && !ok {
				full = append(full, waits{p, each})
				continue
			}
		}
		add(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, w := range full {
		wg.Go(func() {
			err := ty.SendMessage(ctx, w.p, w.m)
			if err != nil && ctx.Err() != nil {
				err = fmt.Errorf("peer %v: %w", w.p, err) // the context does not know whom it was for
			}
			mu.Lock()
			defer mu.Unlock()
			add(err)
		})
	}
	wg.Wait()
	return sent, errors.Join(errs...)
}

// once returns f for many peers: it is called once for each version.
func once(f func(uint8) ([]byte, error)) func(uint8) ([]byte, error) {
	type made struct {
		payload []byte
		err     error
	}
	all := make(map[uint8]made)
	return func(v uint8) ([]byte, error) {
		m, ok := all[v]
		if !ok {
			m.payload, m.err = f(v)
			all[v] = m
		}
		return m.payload, m.err
	}
}

// TypeStats counts the messages of one type. Bytes are those of payloads, of requests too; answers are not counted.
type TypeStats struct {
	MessagesIn, MessagesOut int64 // handled; sent
	RequestsIn, RequestsOut int64 // answered by a handler; sent
	BytesIn, BytesOut       int64
	Errors                  int64 // handlers that failed
	RefusedIn, RefusedOut   int64 // messages refused by this side; by the peer, though they were sent
}

func typeStats(c *messaging.Counters) TypeStats {
	return TypeStats{MessagesIn: c.MessagesIn.Load(), MessagesOut: c.MessagesOut.Load(), RequestsIn: c.RequestsIn.Load(), RequestsOut: c.RequestsOut.Load(),
		BytesIn: c.BytesIn.Load(), BytesOut: c.BytesOut.Load(), Errors: c.Errors.Load(), RefusedIn: c.RefusedIn.Load(), RefusedOut: c.RefusedOut.Load()}
}

// Stats returns the counts of the type over all peers there have been. They go by its name: if it was registered before they go on.
func (ty *Type) Stats() TypeStats { return typeStats(ty.mt.Total()) }

// Peers yields the peers that share the type now.
func (ty *Type) Peers() iter.Seq[Peer] {
	return func(yield func(Peer) bool) {
		for p := range ty.t.Peers() {
			if _, ok := ty.Version(p); ok && !yield(p) {
				return
			}
		}
	}
}

// Messages yields the type's messages from all peers, in order per peer, until ctx ends (yielding its error last), or the type is withdrawn or the torrent closed
// (yielding nothing more). Messages wait in the bounded queue of their peer until the loop takes them. Only for types without a handler: otherwise it yields
// [ErrHasHandler] once. Several loops share the messages between them.
func (ty *Type) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m, err := ty.mt.Take(ctx)
			switch {
			case errors.Is(err, messaging.ErrClosed):
				return
			case err != nil:
				yield(nil, publicErr(err))
				return
			}
			if !ty.give(m, yield) {
				return
			}
		}
	}
}

// give hands one message to the loop, and takes it back however the loop ends.
func (ty *Type) give(m *messaging.Message, yield func(*Message, error) bool) bool {
	defer m.Done()
	return yield(publicMessage(m), nil)
}

// Withdraw takes the type back: peers are told, messages that still come are ignored, running handlers are not waited for. [ErrClosed] if that has happened.
func (ty *Type) Withdraw() error { return publicErr(ty.mt.Withdraw()) }
