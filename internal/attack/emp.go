package attack

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/emp"
	"github.com/parley-bt/parley/wire/ltep"
)

// This file holds attacks in the enhanced dialect: every breach of EMP/1 sections 6 to 8 that concerns messages, and what can be done to a client without one.

// CallEnd is how a call of the client that sends to an attacker may end, beside well, or with its session.
type CallEnd uint8

// The ends of calls, by the names that package parley has for them.
const (
	CallDeadline  CallEnd = iota // the context's
	CallNotShared                // ErrTypeNotShared
	CallRefused                  // ErrRefused
	CallBusy                     // ErrPeerBusy
	CallNoHandler                // ErrNoHandler
	CallFailed                   // ErrHandlerFailed
	CallTooLarge                 // ErrReplyTooLarge
)

// The message types that a client has registered when it is attacked in the enhanced dialect, beside [TypeName].
const (
	EchoType   = "echo"      // messages and requests of up to EchoMax bytes; a request is answered by itself, at once
	BigType    = "big"       // big0 to big3: messages of up to BigMax bytes, dropped when they are whole. Four of them fill the window
	SlowType   = "slow"      // messages and requests of up to EchoMax bytes, whose handlers do not return, whatever their contexts say
	StreamType = "stream"    // messages of up to EchoMax bytes, whose handlers read nothing and do not return
	FatType    = "fat"       // fat0 to fat3: requests of 4 bytes that say how long an answer is to be, up to FatMax; messages are refused
	PickyType  = "picky"     // messages and requests whose handlers fail
	NewType    = "versions"  // messages of version 2 or 3 and of up to EchoMax bytes
	HugeType   = "huge"      // huge0 and huge1: messages of up to 16 MiB, where they are registered
	FickleType = "fickle"    // messages and requests of up to EchoMax bytes; it may be withdrawn and registered again
	QuietType  = "unhandled" // messages of up to EchoMax bytes, and no handler for requests
)

// What the client under attack accepts.
const (
	EchoMax     = 64 << 10
	BigMax      = 1 << 20
	Window      = 4 * (BigMax + wire.MessageCost)
	FatMax      = 5 << 20
	Parallel    = 4        // requests of a type and peer that are handled at once
	MaxRequests = 64       // unanswered requests of a peer
	Memory      = 32 << 20 // of messages that are not handled yet, over all peers
)

// MuxID is the extended id under which attackers accept mux frames; echoID is how they number [EchoType].
const (
	MuxID  = 3
	echoID = 1
)

// emper is an attacker's view of what the client accepts in mux frames.
type emper struct {
	ID     uint8 // of mux frames; 0 if there are none
	Types  map[string]emp.TypeOffer
	Window int64 // as it began
	Next   uint32

	spend  atomic.Int64  // what is left of the window
	credit chan struct{} // capacity 1: there is more
	stops  [8]atomic.Int64
	busy   atomic.Int64 // requests that were above req
}

// learn notes what the client offers.
func (e *emper) learn(raw []byte) error {
	o, err := emp.ParseOffer(raw)
	if err != nil {
		return err
	}
	e.Types = make(map[string]emp.TypeOffer)
	for _, t := range o.Types {
		e.Types[t.Name] = t
	}
	e.Window = o.Window
	e.spend.Store(o.Window)
	return nil
}

// offering returns an exchange with an offer in it.
func offering(o emp.Offer, mux uint8) *ltep.Exchange {
	o.HasTypes = true
	return &ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: metadataID}, {Name: ltep.NameMux, ID: mux}}, EMP: emp.AppendOffer(nil, &o)}
}

// echoes is the offer of [EchoType] with a window.
func echoes(window int64) emp.Offer {
	return emp.Offer{Version: 1, Requests: 64, Window: window, Types: []emp.TypeOffer{{Name: EchoType, ID: echoID, MaxLen: EchoMax}}}
}

// OfferWindow returns an offer of [EchoType] with a window, for HelloEMP.
func OfferWindow(window int64) func(*Attacker) *ltep.Exchange {
	return func(*Attacker) *ltep.Exchange { return offering(echoes(window), MuxID) }
}

// AskFat asks for n answers of FatMax bytes.
func (a *Attacker) AskFat(n int) {
	for i := range n {
		a.Put(a.ask(nil, fatType(i%4), 4, FatMax, binary.BigEndian.AppendUint32(nil, FatMax)))
	}
}

// HelloEMP exchanges hellos and type exchanges: what offer makes, if it is set.
func (a *Attacker) HelloEMP(offer func(*Attacker) *ltep.Exchange) error {
	h, err := a.Greet(a.InfoHash, a.ID, rawpeer.LTEP)
	if err != nil {
		return err
	}
	a.Client = h.PeerID
	e := offering(echoes(1<<20), MuxID)
	if offer != nil {
		e = offer(a)
	}
	if e != nil {
		if err := a.Exchange(*e); err != nil {
			return err
		}
	}
	return a.learn()
}

// note follows what the client gives back of its window, and how it refuses.
func (a *Attacker) note(m wire.Message) {
	f := muxFrame(m)
	if f == nil {
		return
	}
	switch f.Kind {
	case emp.Credit:
		a.EMP.spend.Add(int64(f.Bytes))
		select {
		case a.EMP.credit <- struct{}{}:
		default:
		}
	case emp.Stop:
		a.EMP.stops[f.Code].Add(1)
	case emp.Data:
		if f.Response && f.First && f.Status == emp.StatusBusy {
			a.EMP.busy.Add(1)
		}
	}
}

// Stopped returns how many of the attacker's messages the client has refused with a code.
func (a *Attacker) Stopped(c emp.Code) int64 { return a.EMP.stops[c].Load() }

// muxFrame returns the mux frame that m is, nil if it is none.
func muxFrame(m wire.Message) *emp.Frame {
	e, ok := m.(*wire.Extended)
	if !ok || e.ID != MuxID {
		return nil
	}
	f := new(emp.Frame)
	if f.Parse(e.Payload) != nil {
		return nil
	}
	return f
}

// onMux calls f for each mux frame of the client.
func onMux(f func(a *Attacker, f *emp.Frame)) func(*Attacker, wire.Message) {
	return func(a *Attacker, m wire.Message) {
		if mf := muxFrame(m); mf != nil {
			f(a, mf)
		}
	}
}

// canPay takes the cost of a message from what is left of the client's window.
func (a *Attacker) canPay(total uint32) bool {
	cost := int64(total) + wire.MessageCost
	if a.EMP.spend.Load() < cost {
		return false
	}
	a.EMP.spend.Add(-cost)
	return true
}

// pay is canPay that waits; false if the honest peer is served before.
func (a *Attacker) pay(total uint32) bool {
	for {
		if a.canPay(total) {
			return true
		}
		select {
		case <-a.EMP.credit:
		case <-a.Stop:
			return false
		}
	}
}

// mux returns a mux frame.
func (a *Attacker) mux(payload ...byte) []byte { return a.appendMux(nil, payload) }

func (a *Attacker) appendMux(dst, payload []byte) []byte {
	return classic.AppendExtended(dst, wire.Extended{ID: a.EMP.ID, Payload: payload})
}

func (a *Attacker) typeID(name string) uint16 { return a.EMP.Types[name].ID }

// opening returns the head that opens a message under an id.
func (a *Attacker) opening(id uint32, name string, total uint32) []byte {
	t := a.EMP.Types[name]
	return emp.AppendMessageHead(nil, id, t.ID, t.MinVersion, total)
}

// message opens the next message.
func (a *Attacker) message(dst []byte, name string, total uint32, data []byte) []byte {
	head := a.opening(a.EMP.Next, name, total)
	a.EMP.Next++
	return a.appendMux(dst, append(head, data...))
}

// ask opens the next request.
func (a *Attacker) ask(dst []byte, name string, total, replyMax uint32, data []byte) []byte {
	t := a.EMP.Types[name]
	head := emp.AppendRequestHead(nil, a.EMP.Next, t.ID, t.MinVersion, total, replyMax)
	a.EMP.Next++
	return a.appendMux(dst, append(head, data...))
}

// last returns the id of the message that was opened last.
func (a *Attacker) last() uint32 { return a.EMP.Next - 1 }

func (a *Attacker) more(dst []byte, id uint32, data []byte) []byte {
	return a.appendMux(dst, append(emp.AppendFragmentHead(nil, id, false), data...))
}

func (a *Attacker) reset(dst []byte, id uint32) []byte {
	return a.appendMux(dst, emp.AppendReset(nil, id, false, emp.CodeCancelled))
}

func (a *Attacker) creditOf(n uint32) []byte { return a.mux(emp.AppendCredit(nil, n)...) }

// respond begins an answer to a request of the client.
func (a *Attacker) respond(dst []byte, id uint32, s emp.Status, total uint32, data []byte) []byte {
	return a.appendMux(dst, append(emp.AppendResponseHead(nil, id, s, total), data...))
}

// stay waits until the honest peer is served.
func (a *Attacker) stay() { <-a.Stop }

// enough is how much of a flood that nothing ends is written, so that the honest peer need not wait for its share of the machine longer than that takes.
const enough = 12 << 20

// FloodSome writes b until enough was written, the honest peer is served, or the connection ends.
func (a *Attacker) FloodSome(b []byte) {
	a.FloodNewSome(func(dst []byte) []byte { return append(dst, b...) })
}

// FloodNewSome is FloodSome for what differs each time: see FloodNew.
func (a *Attacker) FloodNewSome(next func(dst []byte) []byte) {
	a.floodNew(batched(next, func(bool) bool { return a.Sent() < enough }), true)
}

// FloodNew writes what next appends, again and again, until the honest peer is served, or the connection ends.
func (a *Attacker) FloodNew(next func(dst []byte) []byte) {
	a.floodNew(batched(next, func(bool) bool { return true }), true)
}

// FloodNewOn is FloodNew that only the end of the connection, or of the attacker's patience, ends.
func (a *Attacker) FloodNewOn(next func(dst []byte) []byte) {
	a.floodNew(batched(next, func(bool) bool { return true }), false)
}

// FloodPaid is FloodNewSome for messages of total bytes, one each time, of which no more are opened than the client's window allows.
func (a *Attacker) FloodPaid(total uint32, next func(dst []byte) []byte) {
	a.floodNew(batched(next, func(wait bool) bool {
		return a.Sent() < enough && (a.canPay(total) || wait && a.pay(total))
	}), true)
}

// FloodOf is FloodPaid of n messages.
func (a *Attacker) FloodOf(n int, total uint32, next func(dst []byte) []byte) {
	a.floodNew(batched(next, func(wait bool) bool {
		return int(a.EMP.Next) < n && (a.canPay(total) || wait && a.pay(total))
	}), true)
}

// crumbs is how many messages of two bytes in two fragments an attacker sends at most: what nobody bounds must not take all memory there is.
const crumbs = 10_000

// batched makes writes of 16 KiB or more of what next appends, as far as may allows; it is asked to wait while there is nothing else to write.
func batched(next func(dst []byte) []byte, may func(wait bool) bool) func([]byte) []byte {
	return func(dst []byte) []byte {
		for len(dst) < 16<<10 && may(len(dst) == 0) {
			dst = next(dst)
		}
		if len(dst) == 0 {
			return nil
		}
		return dst
	}
}

// variants runs one of several things, each in a session of its own.
func variants(all []func(a *Attacker)) func(*Attacker) {
	return func(a *Attacker) { all[a.Variant](a) }
}

// malformed are the mux frames that are none: EMP/1 sections 7.2 and 8, ErrBadFrame.
var malformed = []func(a *Attacker){
	func(a *Attacker) { a.Put(a.mux()) },
	func(a *Attacker) { a.Put(a.mux(0x10)) }, // DATA without an id
	func(a *Attacker) { a.Put(a.mux(0x10, 0)) },
	func(a *Attacker) { a.Put(a.mux(0x10, 0, 1)) },
	func(a *Attacker) { a.Put(a.mux(0x10, 0, 1, 0)) },
	func(a *Attacker) { a.Put(a.mux(0x18, 0, 1, 0, 0)) },                         // no reply-max
	func(a *Attacker) { a.Put(a.mux(0x20)) },                                     // CREDIT, RESET, STOP cut short
	func(a *Attacker) { a.Put(a.mux(0x40, 0)) },                                  //
	func(a *Attacker) { a.Put(a.mux(0x60, 0)) },                                  //
	func(a *Attacker) { a.Put(a.mux(0x20, 0x80, 0x00)) },                         // uvarints in long form
	func(a *Attacker) { a.Put(a.mux(0x10, 0x80, 0x00, 1, 0, 1, 'x')) },           //
	func(a *Attacker) { a.Put(a.mux(0x20, 0x80, 0x80, 0x80, 0x80, 0x10)) },       // 2^32
	func(a *Attacker) { a.Put(a.mux(0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)) }, // six bytes
	func(a *Attacker) { a.Put(a.mux(0x1c, 0, 1, 0, 1, 'x')) },                    // REQUEST and RESPONSE
	func(a *Attacker) { a.Put(a.message(nil, EchoType, EchoMax, make([]byte, wire.MaxFragment+1))) },
	func(a *Attacker) {
		a.Put(a.message(nil, EchoType, EchoMax, []byte{1}), a.more(nil, 0, make([]byte, wire.MaxFragment+1)))
	},
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 1, nil)) }, // empty fragments
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 2, []byte{1}), a.more(nil, 0, nil)) },
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 2, []byte{1, 2, 3})) }, // past the total length
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 3, []byte{1}), a.more(nil, 0, []byte{2, 3, 4})) },
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 0, []byte{1})) },
}

// skip opens a message under another id than the next.
func (a *Attacker) skip(id uint32) []byte {
	a.EMP.Next = id
	return a.message(nil, EchoType, 1, []byte{1})
}

// outOfOrder are breaches of the order of ids, and of messages of a type: EMP/1 sections 7.2 and 7.4.
var outOfOrder = []func(a *Attacker){
	func(a *Attacker) { a.Put(a.skip(1)) },
	func(a *Attacker) { a.Put(a.skip(0), a.skip(2)) },
	func(a *Attacker) { a.Put(a.skip(0), a.skip(1), a.skip(1)) },
	func(a *Attacker) { a.Put(a.skip(0), a.skip(1<<32-1)) },
	func(a *Attacker) {
		a.Put(a.message(nil, EchoType, 2, []byte{1}), a.message(nil, EchoType, 2, []byte{1}))
	},
	func(a *Attacker) {
		a.Put(a.message(nil, EchoType, 2, []byte{1}), a.ask(nil, EchoType, 1, 100, []byte{1}))
	},
	func(a *Attacker) {
		a.Put(a.ask(nil, EchoType, 2, 100, []byte{1}), a.message(nil, EchoType, 0, nil))
	},
}

// unopened are frames about messages that are not open: EMP/1 sections 7.2, 7.3 and 7.5.
var unopened = []func(a *Attacker){
	func(a *Attacker) { a.Put(a.more(nil, 0, []byte{1})) },
	func(a *Attacker) { a.Put(a.reset(nil, 0)) },
	func(a *Attacker) { a.Put(a.mux(emp.AppendStop(nil, 0, false, 0)...)) },
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 1, []byte{1}), a.more(nil, 0, []byte{1})) }, // whole
	func(a *Attacker) {
		a.Put(a.message(nil, EchoType, 3, []byte{1}), a.reset(nil, 0), a.more(nil, 0, []byte{1}))
	},
	func(a *Attacker) {
		a.Put(a.ask(nil, EchoType, 3, 100, []byte{1}), a.reset(nil, 0), a.more(nil, 0, []byte{1}))
	},
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 3, []byte{1}), a.more(nil, 1, []byte{1})) },
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 0, nil), a.reset(nil, 1<<32-1)) },
}

// strangers are messages of types and versions that were never offered: EMP/1 section 7.3.
var strangers = func() (all []func(a *Attacker)) {
	for _, id := range []uint32{0, 1 << 10, wire.MaxTypeID, 1 << 16, 1<<32 - 1} {
		all = append(all, func(a *Attacker) {
			a.Put(a.mux(append(emp.AppendUvarint([]byte{0x10, 0}, id), 0, 1, 'x')...))
		})
	}
	for _, v := range []uint8{0, 1, 4, 255} {
		all = append(all, func(a *Attacker) {
			a.Put(a.mux(append(emp.AppendMessageHead(nil, 0, a.typeID(NewType), v, 1), 'x')...))
		})
	}
	return append(all, func(a *Attacker) {
		a.Put(a.mux(append(emp.AppendRequestHead(nil, 0, a.typeID(EchoType), 1, 1, 1), 'x')...))
	})
}()

// tooLong are messages over the limit of their type: EMP/1 sections 6.2 and 7.3.
var tooLong = []func(a *Attacker){
	func(a *Attacker) { a.Put(a.message(nil, EchoType, EchoMax+1, []byte{1})) },
	func(a *Attacker) { a.Put(a.message(nil, EchoType, 1<<32-1, []byte{1})) },
	func(a *Attacker) { a.Put(a.ask(nil, EchoType, EchoMax+1, 1, []byte{1})) },
	func(a *Attacker) { a.Put(a.message(nil, bigType(0), BigMax+1, []byte{1})) },
	func(a *Attacker) { a.Put(extended(a.App, make([]byte, MaxMessage+1))) }, // in a plain frame
}

// A Grabber is an attacker that takes as much of the client's memory as it can get: it begins messages of 16 MiB and does not end them, and begins others when they are refused.
type Grabber struct {
	*Attacker
	Open   [2]Grab
	Asks   int64 // messages that it has begun
	mu     sync.Mutex
	refuse map[uint32]bool // ids that the client has stopped
}

// Grab is a message that does not end.
type Grab struct {
	ID   uint32
	Sent int // bytes; 0 if it has not begun
}

// NewGrabber returns an attacker that has said hello as a grabber.
func NewGrabber(a *Attacker) *Grabber { return &Grabber{Attacker: a, refuse: make(map[uint32]bool)} }

// Listen reads until the connection ends.
func (g *Grabber) Listen() {
	g.Until(func(m wire.Message) bool { // until it has ended
		g.note(m)
		if f := muxFrame(m); f != nil && f.Kind == emp.Stop {
			g.mu.Lock()
			g.refuse[f.ID] = true
			g.mu.Unlock()
		}
		return false
	})
}

// grabMost is how much of a message a grabber sends.
const grabMost = 512 << 10

// Step sends the next fragment of each message, or begins another. buf is borrowed. It returns false if the connection has ended.
func (g *Grabber) Step(buf []byte) bool {
	chunk := buf[:wire.MaxFragment]
	for i := range g.Open {
		o := &g.Open[i]
		dst := buf[wire.MaxFragment:wire.MaxFragment]
		g.mu.Lock()
		refused := o.Sent > 0 && g.refuse[o.ID]
		delete(g.refuse, o.ID)
		g.mu.Unlock()
		if refused {
			dst, o.Sent = g.reset(dst, o.ID), 0
		}
		switch {
		case o.Sent >= grabMost:
			continue
		case o.Sent > 0:
			head := emp.AppendFragmentHead(nil, o.ID, false)
			dst = append(append(classic.AppendExtendedHead(dst, g.EMP.ID, len(head)+len(chunk)), head...), chunk...)
			o.Sent += len(chunk)
		case g.canPay(wire.MaxMessage):
			o.ID = g.EMP.Next
			g.EMP.Next++
			g.Asks++
			head := g.opening(o.ID, HugeType+string(rune('0'+i)), wire.MaxMessage)
			dst = append(append(classic.AppendExtendedHead(dst, g.EMP.ID, len(head)+len(chunk)), head...), chunk...)
			o.Sent = len(chunk)
		}
		if len(dst) > 0 && !g.Put(dst) {
			return false
		}
	}
	return true
}

// StepBytes is how long the memory is that Step borrows.
const StepBytes = 3 * wire.MaxFragment

func bigType(i int) string { return BigType + string(rune('0'+i)) }
func fatType(i int) string { return FatType + string(rune('0'+i)) }

// spendAll opens messages and begins them until the client's window has no room for another of any length.
func (a *Attacker) spendAll() {
	for i := range 4 { // each of a type of its own, since they do not end
		a.Put(a.message(nil, bigType(i), uint32(min(a.EMP.Window-wire.MessageCost, BigMax)), []byte{1}))
		if a.EMP.Window -= BigMax + wire.MessageCost; a.EMP.Window < wire.MessageCost {
			return
		}
	}
	a.Fail("the window is larger than 4 of the largest messages")
}

// tooMuch are messages beyond the window, and windows beyond all measure: EMP/1 section 7.3.
var tooMuch = []func(a *Attacker){
	func(a *Attacker) {
		a.spendAll()
		a.Put(a.message(nil, EchoType, 0, nil))
	},
	func(a *Attacker) {
		a.spendAll()
		a.Put(a.ask(nil, EchoType, 0, 0, nil))
	},
	func(a *Attacker) {
		a.Put(a.message(nil, bigType(0), BigMax, []byte{1}), a.message(nil, bigType(1), BigMax, []byte{1}), a.message(nil, bigType(2), BigMax, []byte{1}),
			a.message(nil, bigType(3), BigMax, []byte{1}), a.message(nil, EchoType, EchoMax, []byte{1}))
	},
	func(a *Attacker) { a.Put(a.creditOf(1<<32 - 1)) },
	func(a *Attacker) { a.Put(a.creditOf(wire.MaxWindow)) }, // with what it was before
	func(a *Attacker) { a.Put(a.creditOf(1<<30), a.creditOf(1<<30)) },
}

// times33 offers the same again and again.
func times33(a *Attacker) {
	for range wire.MaxExchanges {
		if a.Exchange(*offering(echoes(1<<20), MuxID)) != nil {
			return
		}
	}
}

// early is one of the forms of an exchange after which mux frames are not legal: EMP/1 section 6.2.
func early(a *Attacker) *ltep.Exchange {
	o := echoes(1 << 20)
	switch a.Variant {
	case 0:
		return nil // none at all
	case 1:
		return &ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: metadataID}, {Name: ltep.NameMux, ID: MuxID}}}
	case 2:
		o.Version = 0
	case 3:
		return offering(o, 0)
	}
	return offering(o, MuxID)
}

// empErrors are the attacks that break a rule.
var empErrors = []Attack{
	{Name: "mux frames before the exchanges", Limit: "peer.ErrTooEarly", Variants: 4, Offer: early, Errs: list(peer.ErrTooEarly), Run: func(a *Attacker) { a.Put(a.creditOf(1)) }},
	{Name: "malformed mux frames", Limit: "emp.Frame.Parse", Variants: len(malformed), Errs: list(peer.ErrBadFrame), Run: variants(malformed)},
	{Name: "ids out of order, and two messages of a type at once", Limit: "peer.Machine.muxFirst", Variants: len(outOfOrder), Errs: list(peer.ErrBadOrder), Run: variants(outOfOrder)},
	{Name: "frames of messages that are not open", Limit: "peer.ErrUnknownMessage", Variants: len(unopened), Errs: list(peer.ErrUnknownMessage), Run: variants(unopened)},
	{Name: "types and versions that were never offered", Limit: "peer.Machine.ourType", Variants: len(strangers), Errs: list(peer.ErrTypeNeverOffered), Run: variants(strangers)},
	{Name: "messages over the limit of their type", Limit: "parley.MessageType.MaxBytes", Variants: len(tooLong), Errs: list(peer.ErrMessageTooLarge), Run: variants(tooLong)},
	{Name: "messages beyond the window, and windows beyond 2^31-1", Limit: "peer.ErrWindowExceeded", Variants: len(tooMuch), Errs: list(peer.ErrWindowExceeded), Run: variants(tooMuch)},
	{Name: "an offer of a window of 2^31", Limit: "emp.ErrWindow", Offer: OfferWindow(wire.MaxWindow + 1), Errs: list(peer.ErrWindowExceeded),
		Run: func(*Attacker) {}},
	{Name: "33 exchanges with an offer", Limit: "wire.MaxExchanges", Errs: list(peer.ErrBadTypeExchange), Run: times33},
	{Name: "CREDIT 0 without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) { a.FloodOn(a.creditOf(0)) }},
	{Name: "mux frames of kinds that do not exist, without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(slices.Concat(a.mux(0x80), a.mux(0xa0, 1), a.mux(0xc0, 2), a.mux(0xff)))
	}},
	{Name: "a mux frame of 1 MiB + 1", Limit: "wire.MaxExtendedFrame", Errs: list(peer.ErrFrameTooLarge), Run: func(a *Attacker) {
		a.Put(append(head(wire.MaxExtendedFrame+1, classic.IDExtended), a.EMP.ID))
	}},
	{Name: "a mux frame of 1 MiB", Limit: "wire.MaxFragment", Errs: list(peer.ErrBadFrame), Run: func(a *Attacker) {
		a.Put(a.message(nil, bigType(0), BigMax, make([]byte, wire.MaxExtendedFrame-100)))
	}},

	{Name: "fragments of answers that have not begun", Limit: "peer.ErrUnknownMessage", Provokes: true, Errs: list(peer.ErrUnknownMessage), Run: idle,
		On: asking(func(a *Attacker, f *emp.Frame) {
			a.Put(a.mux(append(emp.AppendFragmentHead(nil, f.ID, true), 'x')...))
		})},
	{Name: "answers past their total length", Limit: "peer.ErrBadFrame", Provokes: true, Errs: list(peer.ErrBadFrame), Run: idle, On: asking(func(a *Attacker, f *emp.Frame) {
		a.Put(a.respond(nil, f.ID, 0, 3, []byte("ab")), a.mux(append(emp.AppendFragmentHead(nil, f.ID, true), "cd"...)...))
	})},
	{Name: "second answers", Limit: "peer.ErrBadOrder", Provokes: true, Errs: list(peer.ErrBadOrder), Run: idle, On: asking(func(a *Attacker, f *emp.Frame) {
		a.Put(a.respond(nil, f.ID, 0, 3, []byte("ab")), a.respond(nil, f.ID, 0, 3, []byte("ab")))
	})},

	{Name: "requests above req, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		a.FloodNewOn(func(dst []byte) []byte { return a.ask(dst, SlowType, 0, 0, nil) })
	}},
	{Name: "messages that are refused, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		a.FloodNewOn(func(dst []byte) []byte { return a.message(dst, fatType(0), 0, nil) })
	}},
	{Name: "requests without a handler, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		a.FloodNewOn(func(dst []byte) []byte { return a.ask(dst, QuietType, 0, 0, nil) })
	}},
	{Name: "requests that are cancelled at once, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		a.FloodNewOn(func(dst []byte) []byte { return a.reset(a.ask(dst, SlowType, 0, 0, nil), a.last()) })
	}},
}

// idle does nothing: what matters comes in answer to the client.
func idle(*Attacker) {}

// asking calls f for the first frame of each request of the client, once it is whole; its requests fit into one frame.
func asking(f func(a *Attacker, f *emp.Frame)) func(*Attacker, wire.Message) {
	return onMux(func(a *Attacker, m *emp.Frame) {
		if m.Kind == emp.Data && m.First && m.Request {
			f(a, m)
		}
	})
}

// telling calls f for the first frame of each message of the client that is no request.
func telling(f func(a *Attacker, f *emp.Frame)) func(*Attacker, wire.Message) {
	return onMux(func(a *Attacker, m *emp.Frame) {
		if m.Kind == emp.Data && m.First && !m.Request && !m.Response {
			f(a, m)
		}
	})
}

// both calls two functions.
func both(f, g func(*Attacker, wire.Message)) func(*Attacker, wire.Message) {
	return func(a *Attacker, m wire.Message) {
		f(a, m)
		g(a, m)
	}
}

// crediting gives the client its window back, so that what an attack is about does not run out of it.
var crediting = telling(func(a *Attacker, f *emp.Frame) { a.Put(a.creditOf(f.Total + wire.MessageCost)) })

// stopping answers everything with STOP and a code, and gives the window back.
func stopping(code emp.Code) func(*Attacker, wire.Message) {
	return onMux(func(a *Attacker, m *emp.Frame) {
		if m.Kind == emp.Data && m.First && !m.Response {
			a.Put(a.mux(emp.AppendStop(nil, m.ID, false, code)...), a.creditOf(m.Total+wire.MessageCost))
		}
	})
}

// many are offers of as many types as count, in an exchange of 64 KiB at most, of which later ones break the rules.
func many(round int) *ltep.Exchange {
	o := echoes(1 << 20)
	for i := range wire.MaxTypeEntries - 1 {
		t := emp.TypeOffer{Name: "t" + string(binary.BigEndian.AppendUint32(bytes.Repeat([]byte{'x'}, 24), uint32(i+1<<24))), ID: uint16(i + 2), MinVersion: 2, MaxVersion: 100, MaxLen: 1 << 20}
		switch round % 4 {
		case 1: // other ids
			t.ID = uint16(wire.MaxTypeEntries - i + 1)
		case 2: // smaller ranges
			t.MinVersion, t.MaxVersion, t.MaxLen = 3, 99, 1000
		case 3: // other names
			t.Name = "u" + t.Name
		}
		o.Types = append(o.Types, t)
	}
	return offering(o, MuxID)
}

// absurd is an offer in which nothing is as it should be, but for [EchoType].
func absurd(*Attacker) *ltep.Exchange {
	return &ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: metadataID}, {Name: ltep.NameMux, ID: MuxID}}, EMP: []byte("d1:ki7e3:maxi-5e3:reqi4611686018427387904e2:rb" +
		"0:1:td1:ali0ei0ei0ei0ee1:bli1ei9ei1ei0ee1:cli2ei0ei256ei0ee1:dli65536ei0ei0ei0ee4:echoli1ei0ei0ei0ei7ee1:fli1ei0ei0ei0ee1:gi9e1:hle4:\x1b[2Jli3ei0ei0ei9999999999999eee1:vi9e4:veili99e3:wini3ee")}
}

// unread is for floods that bring about an answer each: how fast who floods reads is the machine's affair.
var unread = list(peer.ErrControlBacklog)

// empGames are the attacks that break no rule.
var empGames = []Attack{
	{Name: "an offer of absurd numbers", Limit: "emp.ParseOffer", Outcome: Stands, Offer: absurd, Provokes: true, Run: idle, On: crediting},
	{Name: "1,024 types offered, renumbered, narrowed and renamed", Limit: "emp.TheyOffer", Outcome: Stands, Run: func(a *Attacker) {
		for i := range wire.MaxExchanges - 2 {
			if a.Exchange(*many(i)) != nil {
				return
			}
		}
	}},
	{Name: "types that come and go while messages of them are sent", Limit: "peer.ErrTypeNotShared", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallNotShared},
		Offer: OfferWindow(0),
		Run: func(a *Attacker) {
			none := echoes(0)
			none.Types = nil
			for i := range wire.MaxExchanges - 2 {
				o := echoes(0)
				if i%2 == 0 {
					o = none
				}
				if !a.Wait(20*time.Millisecond) || a.Exchange(*offering(o, MuxID)) != nil {
					break
				}
			}
			a.Exchange(*offering(none, MuxID)) // if that fails, the session has ended
		}},
	{Name: "messages of a type that is withdrawn meanwhile", Limit: "messaging.Type.dropPartials", Outcome: Stands, Withdraws: true, Run: func(a *Attacker) {
		chunk := make([]byte, wire.MaxFragment)
		for a.pay(EchoMax) {
			stopped := a.Stopped(emp.CodeWithdrawn)
			if !a.Put(a.message(nil, FickleType, EchoMax, chunk), a.more(nil, a.last(), chunk)) {
				return
			}
			for range 10 { // it is half of a message, which a refusal may meet
				if a.Stopped(emp.CodeWithdrawn) != stopped || !a.Wait(time.Millisecond) {
					break
				}
			}
			if !a.Put(a.reset(nil, a.last())) || a.pay(1) && !a.Put(a.ask(nil, FickleType, 1, 100, []byte{1})) {
				return
			}
		}
		if a.Stopped(emp.CodeWithdrawn) == 0 {
			a.Fail("no message of the withdrawn type was refused as such")
		}
	}},

	{Name: "30,000 requests at once, whose answers are read", Limit: "peerconn.Conn.relieve", Outcome: Stands, Run: func(a *Attacker) {
		const n = 30_000
		var dst []byte
		for range n {
			if !a.canPay(0) {
				a.Fail("the window is too small for the attack")
			}
			dst = a.ask(dst, SlowType, 0, 0, nil)
		}
		a.Put(dst)
		for end := time.Now().Add(Patience); a.EMP.busy.Load() < n-MaxRequests; {
			if time.Now().After(end) {
				a.Fail("%d of %d requests are answered as above req, which is %d", a.EMP.busy.Load(), n, MaxRequests)
				return
			}
			select {
			case <-time.After(time.Millisecond):
			case <-a.Over:
				return
			}
		}
	}},
	{Name: "requests above req", Limit: "parley.Config.MaxRequests", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		a.FloodPaid(1, func(dst []byte) []byte {
			return a.ask(dst, SlowType, 1, 100, []byte{1})
		})
		if n, _ := a.Begun(SlowType, a.LocalAddr()); n > Parallel {
			a.Fail("%d handlers of one type run for one peer, want no more than %d", n, Parallel)
		}
	}},
	{Name: "large requests above req, whole", Limit: "parley.Config.MaxRequests", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		chunk := make([]byte, wire.MaxFragment)
		a.FloodPaid(EchoMax, func(dst []byte) []byte {
			dst = a.ask(dst, SlowType, EchoMax, 100, chunk)
			for range EchoMax/wire.MaxFragment - 1 {
				dst = a.more(dst, a.last(), chunk)
			}
			return dst
		})
	}},
	{Name: "answers that nobody reads", Limit: "wire.MaxUnsentResponses", Outcome: Stands, Deaf: true, Run: func(a *Attacker) {
		// One that is longer than what is kept for the peer and its socket holds, and, when it has begun, many short ones of other types.
		a.Put(a.ask(nil, fatType(0), 4, FatMax, binary.BigEndian.AppendUint32(nil, FatMax)))
		if a.Until(func(m wire.Message) bool {
			f := muxFrame(m)
			return f != nil && f.Kind == emp.Data && f.Response
		}) != nil {
			return
		}
		for i := range MaxRequests - 1 {
			a.Put(a.ask(nil, fatType(1+i%3), 4, FatMax, binary.BigEndian.AppendUint32(nil, 1000)))
		}
		a.stay()
		for i := range 3 {
			if n, _ := a.Begun(fatType(1+i), a.LocalAddr()); n > 0 {
				a.Fail("%d requests are handed to handlers though the answer to another is unread", n)
			}
		}
	}},
	{Name: "messages that are opened and abandoned", Limit: "peer.Machine.muxReset", Outcome: Stands, Variants: 2, Run: func(a *Attacker) {
		total := []uint32{2, BigMax}[a.Variant]
		a.FloodPaid(total, func(dst []byte) []byte {
			return a.reset(a.message(dst, bigType(int(a.EMP.Next%4)), total, []byte{1}), a.last())
		})
	}},
	{Name: "messages for a slow reader that are opened and abandoned", Limit: "messaging.Stream", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		a.FloodOf(crumbs, 2, func(dst []byte) []byte {
			return a.reset(a.message(dst, StreamType, 2, []byte{1}), a.last())
		})
	}},
	{Name: "messages for a slow reader, in two crumbs each", Limit: "parley.Config.MessageMemoryBytes", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		a.FloodOf(crumbs, 2, func(dst []byte) []byte {
			return a.more(a.message(dst, StreamType, 2, []byte{1}), a.last(), []byte{2})
		})
	}},
	{Name: "messages for a slow handler, in two crumbs each", Limit: "parley.Config.MessageMemoryBytes", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		a.FloodOf(5*crumbs, 2, func(dst []byte) []byte {
			return a.more(a.message(dst, SlowType, 2, []byte{1}), a.last(), []byte{2})
		})
	}},
	{Name: "messages of 64 bytes for a slow handler, as far as the window reaches", Limit: "parley.Config.MessageWindowBytes", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		payload := make([]byte, 64)
		a.FloodPaid(64, func(dst []byte) []byte {
			return a.message(dst, SlowType, 64, payload)
		})
	}},
	{Name: "empty messages for a slow handler, as far as the window reaches", Limit: "wire.MessageCost", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		a.FloodPaid(0, func(dst []byte) []byte {
			return a.message(dst, SlowType, 0, nil)
		})
	}},
	{Name: "messages for a fast handler, without end", Limit: "one worker a type and peer", Outcome: Stands, Run: func(a *Attacker) {
		payload := make([]byte, 64)
		a.FloodPaid(64, func(dst []byte) []byte {
			return a.message(dst, EchoType, 64, payload)
		})
	}},
	{Name: "messages and requests that a handler fails on, without end", Limit: "messaging.failures", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		a.FloodPaid(1, func(dst []byte) []byte {
			if a.EMP.Next%2 == 0 {
				return a.ask(dst, PickyType, 1, 100, []byte{1})
			}
			return a.message(dst, PickyType, 1, []byte{1})
		})
	}},
	{Name: "requests that are cancelled at once", Limit: "messaging.Peer.cancelled", Outcome: Stands, Errs: unread, Run: func(a *Attacker) {
		a.FloodPaid(1, func(dst []byte) []byte {
			return a.reset(a.ask(dst, SlowType, 1, 100, []byte{1}), a.last())
		})
		if n, _ := a.Begun(SlowType, a.LocalAddr()); n > Parallel {
			a.Fail("%d handlers of one type run for one peer, want no more than %d", n, Parallel)
		}
	}},
	{Name: "RESET and STOP of what is over, without end", Limit: "ignored", Outcome: Stands, Run: func(a *Attacker) {
		a.Put(a.message(nil, EchoType, 1, []byte{1}), a.ask(nil, EchoType, 1, 100, []byte{1}))
		a.FloodSome(slices.Concat(a.reset(nil, 0), a.reset(nil, 1), a.mux(emp.AppendStop(nil, 1, true, 0)...), a.mux(emp.AppendStop(nil, 77, true, 0)...)))
	}},
	{Name: "answers that nobody asked for", Limit: "peer.Machine.muxReply", Outcome: Stands, Run: func(a *Attacker) {
		chunk := make([]byte, wire.MaxFragment)
		a.FloodNewSome(func(dst []byte) []byte {
			a.EMP.Next++
			dst = a.respond(dst, a.EMP.Next, emp.StatusAnswered, 1<<30, chunk)
			dst = a.appendMux(dst, append(emp.AppendFragmentHead(nil, a.EMP.Next, true), chunk...))
			return a.respond(dst, a.EMP.Next, emp.StatusBusy, 0, nil)
		})
	}},

	{Name: "window given back by the byte", Limit: "peer.Machine.openWaiting", Outcome: Stands, Provokes: true,
		Offer: OfferWindow(0),
		Run:   func(a *Attacker) { a.FloodSome(a.creditOf(1)) }},
	{Name: "window never given back", Limit: "the context of the call", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallDeadline},
		Offer: OfferWindow(0), Run: idle},
	{Name: "nothing read of what is sent", Limit: "the context of the call", Outcome: Stands, Deaf: true, Provokes: true, Calls: []CallEnd{CallDeadline},
		Offer: OfferWindow(wire.MaxWindow), Run: (*Attacker).stay},
	{Name: "requests never answered", Limit: "the context of the call", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallDeadline}, Run: idle, On: crediting},
	{Name: "answers longer than was asked for", Limit: "peer.Machine.muxReply", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallTooLarge}, Run: idle,
		On: both(crediting, asking(func(a *Attacker, f *emp.Frame) {
			dst := a.respond(nil, f.ID, 0, f.ReplyMax+wire.MaxFragment, make([]byte, wire.MaxFragment))
			a.Put(dst) // the rest does not come: the client must not wait for it
		}))},
	{Name: "answers of a status and nothing else", Limit: "parley.RequestError", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallFailed, CallNoHandler, CallBusy}, Run: idle,
		On: both(crediting, asking(func(a *Attacker, f *emp.Frame) {
			a.Put(a.respond(nil, f.ID, emp.Status([...]byte{1, 3, 6, 99}[a.count.Add(1)%4]), 0, nil))
		}))},
	{Name: "answers that come when nobody waits any more", Limit: "peer.Machine.muxReply", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallDeadline}, Run: idle,
		On: both(crediting, onMux(func(a *Attacker, f *emp.Frame) {
			if f.Kind == emp.Reset && !f.Response {
				a.Put(a.respond(nil, f.ID, 0, 2*wire.MaxFragment, make([]byte, wire.MaxFragment)),
					a.mux(append(emp.AppendFragmentHead(nil, f.ID, true), make([]byte, wire.MaxFragment)...)...))
			}
		}))},
	{Name: "answers that begin and do not end", Limit: "the context of the call", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallDeadline}, Run: idle,
		On: both(crediting, asking(func(a *Attacker, f *emp.Frame) { a.Put(a.respond(nil, f.ID, 0, 1000, []byte{1})) }))},
	{Name: "STOP for everything", Limit: "peer.Machine.muxStop", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallRefused}, Run: idle, On: stopping(emp.CodeRefused)},
	{Name: "STOP 5 for everything", Limit: "peer.Machine.muxStop", Outcome: Stands, Provokes: true, Calls: []CallEnd{CallBusy}, Run: idle, On: stopping(emp.CodeBusy)},
}
