// Package messaging carries application messages between the connections of a torrent and the application: which types there are, under
// which ids peers know them, and the bounded queues in which messages wait for their handlers. It knows no sockets and no frames.
//
// A message travels: connection's read loop ──App──► queue of (peer, type) ──► one worker ──► handler. The worker lives while its queue
// holds something. A peer's queues together are bounded; while they are full AppsDone blocks that peer's read loop, and nobody else.
package messaging

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// Conditions that callers compare. The public package gives them their own names.
var (
	ErrTypeExists   = errors.New("message type already registered")
	ErrBadTypeName  = errors.New("bad message type name")
	ErrTooManyTypes = errors.New("too many message types")
	ErrClosed       = errors.New("closed")
	ErrHasHandler   = errors.New("the message type has a handler")
)

// Ids below firstID are kept for BitTorrent's own extensions.
const (
	MetadataID   = 2
	DontHaveID   = 7 // lt_donthave (BEP 54)
	UploadOnlyID = 8 // upload_only (BEP 21)
	firstID      = 16
)

// exchangeReserve is how much of a type exchange is kept for what is not an application type.
const exchangeReserve = 1 << 10

// messageOverhead is what a queued message counts beyond its payload, so that a flood of empty ones is bounded too.
const messageOverhead = 64

// Message is one message on its way to the application. Payload is valid until the handler returns.
type Message struct {
	Peer    *Peer
	Type    *Type
	Payload []byte
	Public  any // the layer above keeps its own form of the message here, from message to message of one worker

	taken chan struct{} // of a type without a handler: the iterating side is done with the message
}

// Handler reacts to one message.
type Handler func(ctx context.Context, m *Message) error

// Options of a hub.
type Options struct {
	QueueBytes     int           // bound of what waits for handlers, per peer
	HandlerTimeout time.Duration // of a handler's context
	Logger         *slog.Logger
	Changed        func() // the set of types has changed: tell the peers. Called without locks.
}

// Hub is the message types of one torrent. It is safe for concurrent use.
type Hub struct {
	o     Options
	group sync.WaitGroup // workers
	end   context.Context
	stop  context.CancelFunc

	byID [256]atomic.Pointer[Type]

	mu     sync.Mutex
	types  map[string]*Type
	ids    map[string]uint8 // every name that ever had an id keeps it
	size   int              // bytes that the names take in an exchange
	use    *peer.WeUse      // snapshot, replaced at every change
	closed bool
}

// NewHub returns a hub without types.
func NewHub(o Options) *Hub {
	h := &Hub{o: o, types: make(map[string]*Type), ids: make(map[string]uint8), use: newUse()}
	h.end, h.stop = context.WithCancel(context.Background())
	return h
}

// Type is one registered message type.
type Type struct {
	hub       *Hub
	name      string
	id        uint8
	maxBytes  int
	handler   Handler
	offered   bool // in exchanges; a type whose versions do not hold 0 is not
	withdrawn chan struct{}
	feed      chan *Message // without a handler: to whoever iterates

	MessagesIn atomic.Int64 // handled
	Errors     atomic.Int64 // of those, how many handlers failed
}

// Spec says what to register.
type Spec struct {
	Name     string
	MaxBytes int
	Handler  Handler
	Offered  bool
	Adopt    func(*Type) // called with the type before the first message can reach it
}

// Register adds a type. The errors are ErrBadTypeName, ErrTypeExists, ErrTooManyTypes and ErrClosed.
func (h *Hub) Register(s Spec) (*Type, error) {
	if !ltep.IsTypeName(s.Name) {
		return nil, ErrBadTypeName
	}
	h.mu.Lock()
	defer h.unlockChanged()()
	switch {
	case h.closed:
		return nil, ErrClosed
	case h.types[s.Name] != nil:
		return nil, ErrTypeExists
	}
	id, known := h.ids[s.Name]
	if !known {
		const perName = len("64:") + len("i255e")
		if len(h.ids) > 255-firstID || h.size+len(s.Name)+perName > wire.MaxExchangeSent-exchangeReserve {
			return nil, ErrTooManyTypes
		}
		id = uint8(firstID + len(h.ids))
		h.ids[s.Name] = id
		h.size += len(s.Name) + perName
	}
	t := &Type{hub: h, name: s.Name, id: id, maxBytes: s.MaxBytes, handler: s.Handler, offered: s.Offered, withdrawn: make(chan struct{})}
	if t.handler == nil {
		t.feed = make(chan *Message)
	}
	if s.Adopt != nil {
		s.Adopt(t)
	}
	h.types[s.Name] = t
	h.byID[id].Store(t)
	h.rebuild()
	return t, nil
}

// unlockChanged unlocks and, if the table changed since, says so. It is called with the lock held and returns what to defer.
func (h *Hub) unlockChanged() func() {
	before := h.use
	return func() {
		changed := h.use != before
		h.mu.Unlock()
		if changed && h.o.Changed != nil {
			h.o.Changed()
		}
	}
}

// newUse returns the table of a torrent without message types.
func newUse() *peer.WeUse {
	return &peer.WeUse{Metadata: MetadataID, DontHave: DontHaveID, UploadOnly: UploadOnlyID}
}

// rebuild makes the snapshot that connections use. The lock is held.
func (h *Hub) rebuild() {
	u := newUse()
	for _, t := range h.types {
		if t.offered {
			u.MaxBytes[t.id] = uint32(t.maxBytes) + 1
		}
	}
	h.use = u
}

// Exchange returns the entries of "m" for a type exchange, withdrawn names with 0 among them (EMP/1 section 6.1), and the table they announce.
func (h *Hub) Exchange() ([]ltep.Entry, *peer.WeUse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := make([]ltep.Entry, 0, len(h.ids)+2)
	for name, id := range h.ids {
		if t := h.types[name]; t == nil || !t.offered {
			id = 0
		}
		m = append(m, ltep.Entry{Name: name, ID: id})
	}
	return m, h.use
}

// Usable reports whether one of names is registered here: whether a session with a peer that lists them can carry messages.
func (h *Hub) Usable(names map[string]uint8) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, t := range h.types {
		if t.offered && names[name] != 0 {
			return true
		}
	}
	return false
}

// Close withdraws every type and ends the handlers' contexts. It does not wait; see Wait.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	for _, t := range h.types {
		t.withdraw()
	}
	h.mu.Unlock()
	h.stop()
}

// Wait waits until no handler runs, or until the context ends.
func (h *Hub) Wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		h.group.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Name returns the type's name.
func (t *Type) Name() string { return t.name }

// Withdraw takes the type back. It returns ErrClosed if that has happened.
func (t *Type) Withdraw() error {
	h := t.hub
	h.mu.Lock()
	defer h.unlockChanged()()
	if h.types[t.name] != t {
		return ErrClosed
	}
	t.withdraw()
	h.rebuild()
	return nil
}

// withdraw needs the hub's lock.
func (t *Type) withdraw() {
	delete(t.hub.types, t.name)
	t.hub.byID[t.id].Store(nil)
	close(t.withdrawn)
}

// Withdrawn returns a channel that is closed when the type has been withdrawn.
func (t *Type) Withdrawn() <-chan struct{} { return t.withdrawn }

// Take waits for the next message of a type without a handler. The caller must call Done once it no longer uses it, before it takes another. It returns
// ctx's error, ErrHasHandler, or ErrClosed once the type is withdrawn.
func (t *Type) Take(ctx context.Context) (*Message, error) {
	if t.feed == nil {
		return nil, ErrHasHandler
	}
	select {
	case <-t.withdrawn:
		return nil, ErrClosed
	default:
	}
	select {
	case m := <-t.feed:
		return m, nil
	case <-t.withdrawn:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
