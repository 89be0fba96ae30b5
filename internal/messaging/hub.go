// Package messaging carries application messages between the connections of a torrent and the application: which types there are, under
// which ids peers know them, and the bounded queues in which messages wait for their handlers. It knows no sockets and no frames.
//
// A message travels: connection's read loop ──App, Mux──► queue of (peer, type) ──► one worker ──► handler. The worker lives while its queue
// holds something. Messages in plain frames have no window: a peer's queues of them together are bounded, and while they are full AppsDone blocks that peer's read
// loop, and nobody else. Those in mux frames are bounded by the window and by a budget over all peers (EMP/1 section 7.3); a read loop never waits for them. Requests have
// queues and workers of their own, several to a type.
package messaging

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// Conditions that callers compare. The public package gives them their own names.
var (
	ErrTypeExists   = errors.New("message type already registered")
	ErrBadTypeName  = errors.New("bad message type name")
	ErrTooManyTypes = errors.New("too many message types")
	ErrClosed       = errors.New("closed")
	ErrHasHandler   = errors.New("the message type has a handler")
	ErrNarrowed     = errors.New("message type narrower than it was")
	ErrWindow       = errors.New("messages larger than the window")
)

// Ids below firstID are kept for BitTorrent's own extensions.
const (
	MetadataID   = 2
	DontHaveID   = 7 // lt_donthave (BEP 54)
	UploadOnlyID = 8 // upload_only (BEP 21)
	MuxID        = 9 // emp_mux (EMP/1 section 6.2)
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
	Version uint8
	Public  any     // the layer above keeps its own form of the message here, from message to message of one worker
	Stream  *Stream // of a type with a stream handler: the payload, as it comes

	taken chan struct{} // of a type without a handler: the iterating side is done with the message
}

// Handler reacts to one message.
type Handler func(ctx context.Context, m *Message) error

// RequestHandler answers one request. The answer must not be changed before the next call for the same peer and type.
type RequestHandler func(ctx context.Context, m *Message, replyMax int) ([]byte, error)

// Options of a hub.
type Options struct {
	QueueBytes     int           // bound of what waits for handlers, per peer
	HandlerTimeout time.Duration // of a handler's context
	NoMux          bool          // offer no mux frames
	OfferEarly     bool          // offer mux frames before there is a type: what the first exchange does not have of them no later one adds (EMP/1 section 6.2)
	WindowBytes    int           // "win"; 0: as much as the types need, and DefaultWindow at least
	Requests       int           // "req": how many unanswered requests a peer may have; negative: none
	DefaultMax     int           // "max": what MaxBytes usually is
	Budget         *Budget       // of the messages in mux frames, over all peers; nil: no bound beside the windows
	Logger         *slog.Logger
	Changed        func() // the set of types has changed: tell the peers. Called without locks.
}

// Hub is the message types of one torrent. It is safe for concurrent use.
type Hub struct {
	o     Options
	group sync.WaitGroup // workers
	end   context.Context
	stop  context.CancelFunc

	creditSoon atomic.Int64 // how much window is given back without waiting for more
	byID       [256]atomic.Pointer[Type]
	byMux      atomic.Pointer[[]*Type] // replaced at every change

	mu     sync.Mutex
	types  map[string]*Type
	ids    map[string]uint8 // every name that ever had an extended id keeps it
	muxIDs map[string]uint16
	ours   []peer.OurType // by mux id: what was offered last, withdrawn or not
	size   int            // bytes that the names take in an exchange
	use    *peer.WeUse    // snapshot, replaced at every change
	closed bool

	tallyMu sync.Mutex
	live    map[*Peer]struct{} // whose counters are not in past
	past    map[string]*Counters
}

// add adds what o has counted.
func (c *Counters) add(o *Counters) {
	for _, x := range [...]struct{ to, from *atomic.Int64 }{{&c.MessagesIn, &o.MessagesIn}, {&c.MessagesOut, &o.MessagesOut}, {&c.BytesIn, &o.BytesIn},
		{&c.BytesOut, &o.BytesOut}, {&c.RequestsIn, &o.RequestsIn}, {&c.RequestsOut, &o.RequestsOut}, {&c.Errors, &o.Errors},
		{&c.RefusedIn, &o.RefusedIn}, {&c.RefusedOut, &o.RefusedOut}} {
		x.to.Add(x.from.Load())
	}
}

// counted takes a peer among those that have counters.
func (h *Hub) counted(p *Peer) {
	h.tallyMu.Lock()
	defer h.tallyMu.Unlock()
	if h.live == nil {
		h.live, h.past = make(map[*Peer]struct{}), make(map[string]*Counters)
	}
	h.live[p] = struct{}{}
}

// peers returns those that something came from, or was sent to, and that are not gone.
func (h *Hub) peers() []*Peer {
	h.tallyMu.Lock()
	defer h.tallyMu.Unlock()
	return slices.Collect(maps.Keys(h.live))
}

// retire keeps what a peer that is gone has counted.
func (h *Hub) retire(p *Peer) {
	h.tallyMu.Lock()
	defer h.tallyMu.Unlock()
	if _, here := h.live[p]; !here {
		return
	}
	delete(h.live, p)
	for name, c := range p.AllCounters() {
		if h.past[name] == nil {
			h.past[name] = new(Counters)
		}
		h.past[name].add(c)
	}
}

// Total returns what was counted of the type over all peers there ever were, by its name: a type that was withdrawn and registered again goes on.
func (t *Type) Total() *Counters {
	h := t.hub
	h.tallyMu.Lock()
	defer h.tallyMu.Unlock()
	sum := new(Counters)
	if past := h.past[t.name]; past != nil {
		sum.add(past)
	}
	for p := range h.live {
		p.mu.Lock()
		c := p.counters[t.name]
		p.mu.Unlock()
		if c != nil {
			sum.add(c)
		}
	}
	return sum
}

// DefaultWindow is the receive window of a peer, bytes, unless larger types or the user want another.
const DefaultWindow = 1 << 20

// NewHub returns a hub without types.
func NewHub(o Options) *Hub {
	h := &Hub{o: o, types: make(map[string]*Type), ids: make(map[string]uint8), muxIDs: make(map[string]uint16), use: newUse()}
	h.rebuild()
	h.end, h.stop = context.WithCancel(context.Background())
	return h
}

// Type is one registered message type.
type Type struct {
	hub       *Hub
	name      string
	id        uint8  // in plain frames; 0 if it is not offered there
	mux       uint16 // in mux frames; 0 if it is not offered there
	spec      Spec
	handler   Handler
	withdrawn chan struct{}
	ended     atomic.Bool   // withdrawn is closed
	feed      chan *Message // without a handler: to whoever iterates
	failures  failures
}

// Counters count the messages of one type and peer, for as long as the session lasts; the hub adds them up.
type Counters struct {
	MessagesIn, MessagesOut atomic.Int64 // handled; sent
	BytesIn, BytesOut       atomic.Int64 // of their payloads, and those of requests
	RequestsIn, RequestsOut atomic.Int64 // answered by a handler; sent
	Errors                  atomic.Int64 // handlers that failed
	RefusedIn, RefusedOut   atomic.Int64 // refused by us; by the peer
}

// Spec says what to register.
type Spec struct {
	Name                   string
	MaxBytes               int // of a message
	MaxPlain               int // of one in a plain frame; 0: MaxBytes, as far as such a frame goes
	MinVersion, MaxVersion uint8
	Handler                Handler        // nil: see Take
	Requests               RequestHandler // nil: requests are answered that there is no handler
	OnlyRequests           bool           // there is no handler for messages, and nobody takes them either: they are refused
	Streams                bool           // the handler reads Message.Stream
	Parallel               int            // how many requests of one peer are handled at once; 0: 1
}

// Register adds a type. The errors are ErrBadTypeName, ErrTypeExists, ErrTooManyTypes, ErrNarrowed, ErrWindow and ErrClosed.
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
	t := &Type{hub: h, name: s.Name, spec: s, handler: s.Handler, withdrawn: make(chan struct{})}
	if err := h.place(t); err != nil {
		return nil, err
	}
	if t.handler == nil && !s.OnlyRequests {
		t.feed = make(chan *Message)
	}
	h.types[s.Name] = t
	if t.id != 0 {
		h.byID[t.id].Store(t)
	}
	h.rebuild()
	return t, nil
}

// place gives a type its ids: in plain frames as far as they reach, if its range holds version 0, and in mux frames (EMP/1 section 6.2). The lock is held.
func (h *Hub) place(t *Type) error {
	s := &t.spec
	if s.MaxPlain == 0 {
		s.MaxPlain = min(s.MaxBytes, wire.MaxExtendedFrame-2)
	}
	size := h.size
	if !h.o.NoMux {
		id, known := h.muxIDs[s.Name]
		switch {
		case h.o.WindowBytes > 0 && s.MaxBytes > h.o.WindowBytes-wire.MessageCost:
			return ErrWindow
		case known:
			// Peers were told of it, and a name's range and length may only grow in a session.
			if old := &h.ours[id]; s.MinVersion > old.MinVersion || s.MaxVersion < old.MaxVersion || uint32(s.MaxBytes) < old.MaxLen {
				return ErrNarrowed
			}
		case len(h.ours) > wire.MaxTypeID || len(h.muxIDs) >= wire.MaxTypeEntries:
			return ErrTooManyTypes
		default:
			id = uint16(max(len(h.ours), 1))
		}
		if size += muxEntryBytes(s.Name, id, s, h.o.DefaultMax); known { // in place of what it was
			old := &h.ours[id]
			size -= muxEntryBytes(s.Name, id, &Spec{MaxBytes: int(old.MaxLen), MinVersion: old.MinVersion, MaxVersion: old.MaxVersion}, h.o.DefaultMax)
		}
		t.mux = id
	}
	if s.MinVersion == 0 {
		id, known := h.ids[s.Name]
		if !known && len(h.ids) <= 255-firstID {
			id = uint8(firstID + len(h.ids))
			size += len(s.Name) + len("64:") + len("i255e")
		}
		t.id = id // 0 once there are no more: then it is offered in mux frames only
	}
	if size > wire.MaxExchangeSent-exchangeReserve || t.id == 0 && t.mux == 0 && s.MinVersion == 0 {
		return ErrTooManyTypes
	}
	h.size = size
	if t.id != 0 {
		h.ids[s.Name] = t.id
	}
	if t.mux != 0 {
		h.muxIDs[s.Name] = t.mux
		s.MaxBytes = max(s.MaxBytes, 1) // 0 would mean the default on the wire
		for len(h.ours) <= int(t.mux) {
			h.ours = append(h.ours, peer.OurType{})
		}
	}
	return nil
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

// muxEntryBytes returns how many bytes a type takes in "t", for good: a withdrawn one may come back.
func muxEntryBytes(name string, id uint16, s *Spec, usual int) int {
	n := len("64:") + len(name) + len("lieieieiee") + digits(int(id)) + digits(int(s.MinVersion)) + digits(int(s.MaxVersion))
	if s.MaxBytes == usual {
		return n + 1
	}
	return n + digits(s.MaxBytes)
}

func digits(n int) int { return len(strconv.Itoa(n)) }

// rebuild makes the snapshots that connections use. The lock is held.
func (h *Hub) rebuild() {
	u := newUse()
	byMux := make([]*Type, len(h.ours))
	for i := range h.ours {
		h.ours[i].Offered = false
	}
	largest := 0
	for _, t := range h.types {
		if t.id != 0 {
			u.MaxBytes[t.id] = uint32(t.spec.MaxPlain) + 1
		}
		if t.mux != 0 {
			byMux[t.mux] = t
			h.ours[t.mux] = peer.OurType{Offered: true, MinVersion: t.spec.MinVersion, MaxVersion: t.spec.MaxVersion, MaxLen: uint32(t.spec.MaxBytes)}
		}
	}
	for i := range h.ours {
		largest = max(largest, int(h.ours[i].MaxLen))
	}
	if len(h.ours) > 0 || h.o.OfferEarly && !h.o.NoMux {
		if len(h.ours) == 0 {
			largest = wire.MaxMessage // whatever comes later must fit into a window that never grows
		}
		window := h.o.WindowBytes
		if window <= 0 {
			// So many of the largest that their sender need not wait for each one's handler; fewer of the very large, with room for small ones beside, which would wait with
			// the second for the first to be handled.
			all := largest + wire.MessageCost
			window = max(DefaultWindow, min(4*all, 16<<20), 2*all+wire.MinWindow)
		}
		h.creditSoon.Store(int64(max(window, wire.MinWindow)) / 4)
		u.Mux = &peer.MuxUse{ID: MuxID, Window: uint32(max(window, wire.MinWindow)), Requests: max(h.o.Requests, 0), Types: slices.Clone(h.ours)}
	}
	h.use = u
	h.byMux.Store(&byMux)
}

// typeOf returns the type that mux frames name by id, nil if it is not offered now.
func (h *Hub) typeOf(id uint16) *Type {
	if all := *h.byMux.Load(); int(id) < len(all) {
		return all[id]
	}
	return nil
}

// Exchange returns the entries of "m" for a type exchange, withdrawn names with 0 among them (EMP/1 section 6.1), the table they announce, and what the "emp" key says, nil until
// there was a type (section 6.2), unless it is offered early. It is the caller's.
func (h *Hub) Exchange() ([]ltep.Entry, *peer.WeUse, *emp.Offer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := make([]ltep.Entry, 0, len(h.ids)+5)
	for name, id := range h.ids {
		if t := h.types[name]; t == nil || t.id == 0 {
			id = 0
		}
		m = append(m, ltep.Entry{Name: name, ID: id})
	}
	if h.use.Mux == nil {
		return m, h.use, nil
	}
	o := emp.Offer{Version: 1, HasTypes: true, Max: int64(h.o.DefaultMax), Window: int64(h.use.Mux.Window), Requests: int64(h.use.Mux.Requests)}
	for _, t := range h.types {
		if t.mux == 0 {
			continue
		}
		e := emp.TypeOffer{Name: t.name, ID: t.mux, MinVersion: t.spec.MinVersion, MaxVersion: t.spec.MaxVersion, MaxLen: uint32(t.spec.MaxBytes)}
		if t.spec.MaxBytes == h.o.DefaultMax {
			e.MaxLen = 0
		}
		o.Types = append(o.Types, e)
	}
	m = append(m, ltep.Entry{Name: ltep.NameMux, ID: h.use.Mux.ID})
	return m, h.use, &o
}

// Offers reports whether mux frames are offered.
func (h *Hub) Offers() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.use.Mux != nil
}

// Usable reports whether a type that the peer accepts is registered here, with a version in common: whether the session can carry messages (EMP/1 section 7.7).
func (h *Hub) Usable(s *peer.Shared) bool {
	if s == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, t := range h.types {
		if t.id != 0 && s.Plain[name] != 0 {
			return true
		}
		if o, ok := s.Mux[name]; ok && t.mux != 0 && o.MinVersion <= t.spec.MaxVersion && o.MaxVersion >= t.spec.MinVersion {
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
	unlock := h.unlockChanged()
	if h.types[t.name] != t {
		unlock()
		return ErrClosed
	}
	t.withdraw()
	h.rebuild()
	unlock()
	t.dropPartials()
	return nil
}

// withdraw needs the hub's lock.
func (t *Type) withdraw() {
	delete(t.hub.types, t.name)
	if t.id != 0 {
		t.hub.byID[t.id].Store(nil)
	}
	t.ended.Store(true)
	close(t.withdrawn)
}

// Gone reports whether the type has been withdrawn.
func (t *Type) Gone() bool { return t.ended.Load() }

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
