package peerconn

import (
	"sync"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// Event is one message of a peer in a form that may be kept: nothing in it aliases the connection's buffers.
type Event struct {
	Kind     wire.Kind
	Block    bt.Block       // Piece, Reject; Have, DontHave, Suggest and AllowedFast use Index alone
	Data     *blockbuf.Buf  // Piece: the block, owned by whoever takes the event
	Has      *bitfield.Set  // Bitfield: a copy
	All      bool           // Have: it was the last piece that the peer lacked; UploadOnly: it wants nothing more
	Exchange *ltep.Exchange // Exchange
	Metadata *ltep.Metadata // Metadata
	PEX      *ltep.PEX      // PEX
	Port     uint16         // Port
	Hashes   *wire.Hashes   // Hashes; HashReject has no Data
}

// Batch is messages of one read, in order: all of them, unless they take much more memory than they took on the wire. It has one owner, who gives it
// back with Release when the events have been handled.
type Batch struct {
	Events []Event
	data   int // block buffers in Events
}

// Bounds of a batch. Frames of a few bytes become events of many, and a block of one byte takes a whole buffer: without a bound a read full of
// them would take a thousand times its size.
const (
	maxBatchEvents = 2048
	maxBatchBlocks = blockbuf.LargeBytes/bt.BlockBytes + 1 // a read of whole blocks is one batch
)

// full reports whether the batch is to be handed over before more is added.
func (b *Batch) full() bool { return len(b.Events) >= maxBatchEvents || b.data >= maxBatchBlocks }

var batches = sync.Pool{New: func() any { return new(Batch) }}

func newBatch() *Batch { return batches.Get().(*Batch) }

// Release gives the batch back. Data that nobody took must have been released before.
func (b *Batch) Release() {
	clear(b.Events)
	b.Events, b.data = b.Events[:0], 0
	batches.Put(b)
}

// Discard gives the batch back with everything in it, unhandled.
func (b *Batch) Discard() {
	for i := range b.Events {
		if d := b.Events[i].Data; d != nil {
			d.Release()
		}
	}
	b.Release()
}

// add copies a message and returns the copy, nil if it is not worth one. The connection is locked.
func (b *Batch) add(m *peer.Machine, msg wire.Message) *Event {
	e := Event{Kind: msg.Kind()}
	switch t := msg.(type) {
	case *wire.Piece:
		e.Block = t.Block()
		if len(t.Data) > bt.BlockBytes {
			return nil // nothing larger was ever asked for: the machine's limit is the largest block requested
		}
		e.Data = blockbuf.Get()
		b.data++
		e.Data.SetLen(copy(e.Data.Bytes(), t.Data))
	case *wire.Have:
		e.Block.Index = t.Index
		_, e.All = m.Has()
	case *wire.Port:
		e.Port = t.Port
	case *ltep.DontHave:
		e.Block.Index = t.Index
	case *ltep.UploadOnly:
		e.All = t.On
	case *wire.Suggest:
		e.Block.Index = t.Index
	case *wire.AllowedFast:
		e.Block.Index = t.Index
	case *wire.Reject:
		e.Block = t.Block
	case *wire.Bitfield:
		if set, all := m.Has(); all {
			e.Kind = wire.KindHaveAll
		} else if set != nil {
			e.Has = set.Clone()
		}
	case *ltep.Exchange:
		x := *t
		e.Exchange = &x
	case *ltep.PEX:
		e.PEX = t // the machine made it for us
	case *ltep.Metadata:
		x := *t
		x.Data = append([]byte(nil), t.Data...)
		e.Metadata = &x
	case *wire.Hashes:
		e.Hashes = &wire.Hashes{HashSpan: t.HashSpan, Data: append([]byte(nil), t.Data...)}
	case *wire.HashReject:
		e.Hashes = &wire.Hashes{HashSpan: t.HashSpan}
	}
	b.Events = append(b.Events, e)
	return &b.Events[len(b.Events)-1]
}
