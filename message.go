package parley

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/parley-bt/parley/internal/messaging"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// Message is one application message that has arrived.
type Message struct {
	Peer    Peer
	Type    string
	Version uint8  // 0 where the dialect knows no versions (EMP/1 table 7.6)
	Payload []byte // valid until the handler returns, or the iterator goes on; clone it to keep it
}

// Handler reacts to one message. Messages of one type and peer are handled one after the other in the order of sending;
// other types and other peers do not wait for them. It may call anything in this package, Send to the same peer and Withdraw included.
// ctx ends when the handler returns, when the session ends, or after [Config.HandlerTimeout]; it must not be used after that.
// An error is logged and counted; it does not end the session.
type Handler func(ctx context.Context, m *Message) error

// MessageType describes an application message type to register.
type MessageType struct {
	// Name is what both sides call the type: 1 to 64 bytes of printable UTF-8. Names that BitTorrent itself uses are refused
	// ("ut_", "lt_", "BT_", "AZ_" prefixes, "upload_only", "emp_mux": EMP/1 section 6.2).
	Name string
	// Handler receives the messages. If nil they are read with [Type.Messages].
	Handler Handler
	// MaxBytes is the largest message accepted; 0 means Config.MaxMessageBytes. A larger one ends the session with ErrMessageTooLarge
	// (EMP/1 section 6.2).
	MaxBytes int
	// MinVersion and MaxVersion are the versions this side receives, for dialects that have versions; a type whose range does not hold 0 is not
	// offered to others.
	MinVersion, MaxVersion uint8
}

// Type is a registered message type of one torrent. Its methods are safe for concurrent use.
type Type struct {
	t  *Torrent
	mt *messaging.Type
}

// Register adds a message type to this torrent and tells every connected peer (EMP/1 section 6). A peer learns of it a moment later: to have a type known to every
// peer from its first moment, add the torrent without Peers, register, then call [Torrent.AddPeers]. The errors are [ErrBadTypeName],
// [ErrTypeExists], [ErrTooManyTypes], and [ErrClosed].
func (t *Torrent) Register(mt MessageType) (*Type, error) {
	if err := CheckTypeName(mt.Name); err != nil {
		return nil, err
	}
	limit := t.client.cfg.MaxMessageBytes
	switch {
	case mt.MaxBytes < 0 || mt.MaxBytes > wire.MaxExtendedFrame-2:
		return nil, fmt.Errorf("message type %q: MaxBytes is %d, want 0 to %d", mt.Name, mt.MaxBytes, wire.MaxExtendedFrame-2)
	case mt.MaxBytes > 0:
		limit = mt.MaxBytes
	}
	if mt.MinVersion > mt.MaxVersion {
		return nil, fmt.Errorf("message type %q: MinVersion %d is above MaxVersion %d", mt.Name, mt.MinVersion, mt.MaxVersion)
	}
	ty := &Type{t: t}
	spec := messaging.Spec{Name: mt.Name, MaxBytes: limit, Offered: mt.MinVersion == 0}
	if h := mt.Handler; h != nil {
		spec.Handler = ty.handler(h)
	}
	m, err := t.hub.Register(spec)
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

// publicMessage returns the public form of a message, which lives as long as its worker.
func publicMessage(m *messaging.Message) *Message {
	out, ok := m.Public.(*Message)
	if !ok {
		out = &Message{Peer: Peer{m.Peer.Owner.(*session)}, Type: m.Type.Name()}
		m.Public = out
	}
	out.Payload = m.Payload
	return out
}

// publicErr gives messaging's errors their public names.
func publicErr(err error) error {
	for _, e := range [...][2]error{{messaging.ErrTypeExists, ErrTypeExists}, {messaging.ErrBadTypeName, ErrBadTypeName},
		{messaging.ErrTooManyTypes, ErrTooManyTypes}, {messaging.ErrHasHandler, ErrHasHandler}, {messaging.ErrClosed, ErrClosed}} {
		if errors.Is(err, e[0]) {
			return e[1]
		}
	}
	return err
}

// Name returns the type's name.
func (ty *Type) Name() string { return ty.mt.Name() }

// Outgoing is a message with everything that can be said about how to send it.
type Outgoing struct {
	Payload []byte
	Version uint8 // 0: any dialect; another needs a dialect with versions
}

// Send sends one message to one peer; see [Peer.Send]. [ErrClosed] if the type has been withdrawn.
func (ty *Type) Send(ctx context.Context, p Peer, payload []byte) error {
	select {
	case <-ty.mt.Withdrawn():
		return fmt.Errorf("message type %q: %w", ty.Name(), ErrClosed)
	default:
	}
	return p.send(ctx, ty.mt.Name(), payload)
}

// SendMessage is Send with every choice. A version the session's dialect cannot express is [ErrVersionUnsupported].
func (ty *Type) SendMessage(ctx context.Context, p Peer, m Outgoing) error {
	if m.Version != 0 {
		if _, _, err := p.check(ty.Name(), len(m.Payload)); err != nil {
			return err
		}
		return fmt.Errorf("peer %v: %q version %d: %w", p, ty.Name(), m.Version, ErrVersionUnsupported)
	}
	return ty.Send(ctx, p, m.Payload)
}

// Request sends a request and returns the answer, at most maxReply bytes. Where the session's dialect has no requests, which is
// everywhere but emp, it fails with [ErrRequestsUnsupported].
func (ty *Type) Request(ctx context.Context, p Peer, payload []byte, maxReply int) ([]byte, error) {
	if _, _, err := p.check(ty.Name(), len(payload)); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("peer %v: %q: %w", p, ty.Name(), ErrRequestsUnsupported)
}

// Broadcast sends one message to every peer that shares the type now, and returns how many have it in their queue. It waits for
// those whose queue is full, side by side, until ctx ends; err joins what went wrong with single peers, each wrapped with its address.
// With no peer to send to it returns 0 and nil.
func (ty *Type) Broadcast(ctx context.Context, payload []byte) (int, error) {
	select {
	case <-ty.mt.Withdrawn():
		return 0, fmt.Errorf("message type %q: %w", ty.Name(), ErrClosed)
	default:
	}
	var full []Peer
	var errs []error
	sent := 0
	for p := range ty.Peers() {
		conn, id, err := p.check(ty.Name(), len(payload))
		if err == nil {
			var ok bool
			if ok, err = conn.TrySendApp(id, payload); err == nil && !ok {
				full = append(full, p)
				continue
			}
		}
		switch {
		case errors.Is(err, ErrMessageTooLarge):
			return sent, err // the same for all
		case err == nil:
			p.s.out.Add(1)
			sent++
		case errors.Is(err, ErrTypeNotShared):
			// It withdrew the type a moment ago: it no longer shares it.
		default:
			errs = append(errs, err)
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, p := range full {
		wg.Go(func() {
			err := p.send(ctx, ty.Name(), payload)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("peer %v: %w", p, err))
			} else {
				sent++
			}
		})
	}
	wg.Wait()
	return sent, errors.Join(errs...)
}

// Peers yields the peers that share the type now.
func (ty *Type) Peers() iter.Seq[Peer] {
	return func(yield func(Peer) bool) {
		for p := range ty.t.Peers() {
			if p.Shares(ty.Name()) && !yield(p) {
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
