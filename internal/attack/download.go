package attack

import (
	"slices"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// hasAll claims to have everything and to give it away.
func hasAll(a *Attacker) { a.Put(classic.AppendUnchoke(classic.AppendHaveAll(nil))) }

// hasMost claims to have everything but a piece, so that nobody takes it for a seed.
func hasMost(a *Attacker) {
	s := bitfield.NewFull(int(a.pieces()))
	s.Remove(int(a.pieces()) - 1)
	a.Put(classic.AppendUnchoke(classic.AppendBitfield(nil, wire.Bitfield{Bits: s.AppendWire(nil)})))
}

// answering answers each request with what f returns.
func answering(f func(a *Attacker, b bt.Block) []byte) func(*Attacker, wire.Message) {
	return func(a *Attacker, m wire.Message) {
		if r, ok := m.(*wire.Request); ok {
			a.Put(f(a, r.Block))
		}
	}
}

func zeros(b bt.Block) []byte {
	return classic.AppendPiece(nil, wire.Piece{Index: b.Index, Begin: b.Begin, Data: make([]byte, b.Length)})
}

// downloads are attacks on a client that downloads.
var downloads = []Attack{
	{Name: "a request for a piece that is not there", Limit: "peer.ErrUnsupported", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		a.Put(classic.AppendInterested(nil), request(block(a.pieces()-2)))
	}},
	{Name: "unchokes and chokes between blocks", Limit: "peer.Machine.frame", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		hasAll(a)
		a.Flood(classic.AppendUnchoke(classic.AppendChoke(nil)))
	}},
	{Name: "every request rejected", Limit: "picker.Release", Against: Download, Outcome: Stands, Run: hasAll, On: answering(func(_ *Attacker, b bt.Block) []byte {
		return classic.AppendReject(nil, wire.Reject{Block: b})
	})},
	{Name: "every request rejected, and others", Limit: "picker.Release", Against: Download, Outcome: Stands, Run: hasAll, On: answering(func(_ *Attacker, b bt.Block) []byte {
		other := b
		other.Index ^= 1
		return classic.AppendReject(classic.AppendReject(nil, wire.Reject{Block: other}), wire.Reject{Block: b})
	})},
	{Name: "corrupt blocks", Limit: "peer.ErrCorruptPiece", Against: Download, Errs: list(peer.ErrCorruptPiece), Run: hasAll, On: answering(func(_ *Attacker, b bt.Block) []byte {
		return zeros(b)
	})},
	{Name: "unrequested blocks", Limit: "swarm.unwantedLimit", Against: Download, Errs: list(peer.ErrUnwantedData), Run: func(a *Attacker) {
		hasMost(a)
		a.FloodOn(zeros(block(0)))
	}},
	{Name: "blocks shorter than asked for", Limit: "swarm.unwantedLimit", Against: Download, Outcome: Stands, Run: hasAll, On: answering(func(_ *Attacker, b bt.Block) []byte {
		b.Length--
		return zeros(b)
	})},
	{Name: "blocks at other places than asked for", Limit: "swarm.unwantedLimit", Against: Download, Outcome: Stands, Run: hasAll, On: answering(func(_ *Attacker, b bt.Block) []byte {
		b.Begin++
		return zeros(b)
	})},
	{Name: "crumbs of one byte", Limit: "peerconn.maxBatchBlocks", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		hasAll(a)
		a.Flood(classic.AppendPiece(nil, wire.Piece{Data: []byte{1}}))
	}},
	{Name: "crumbs from beyond the end", Limit: "picker.BlockUnrequested", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(classic.AppendPiece(nil, wire.Piece{Index: 1<<32 - 1, Begin: 1<<32 - 1, Data: []byte{1}}))
	}},
	{Name: "blocks without data", Limit: "picker.BlockUnrequested", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(classic.AppendPiece(nil, wire.Piece{Index: 1}))
	}},
	{Name: "allowed fast, and nothing there", Limit: "64 allowances in swarm.peerEvents", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		a.Put(classic.AppendHaveNone(nil))
		a.Flood(classic.AppendAllowedFast(nil, wire.AllowedFast{Index: 1}))
	}},
	{Name: "has everything, gives nothing", Limit: "pipeline.SnubFirst", Against: Download, Outcome: Stands, Run: hasAll},
	{Name: "everything had again and again", Limit: "wire.MaxIdleFrames", Against: Download, Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.Put(classic.AppendHaveAll(nil))
		a.FloodOn(classic.AppendHaveAll(nil))
	}},
	{Name: "half of the pieces had, then the other half", Limit: "wire.MaxIdleFrames", Against: Download, Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		n := bitfield.Bytes(int(a.pieces()))
		even, odd := make([]byte, n), make([]byte, n)
		for i := range n - 1 {
			even[i], odd[i] = 0xaa, 0x55
		}
		a.FloodOn(classic.AppendBitfield(classic.AppendBitfield(nil, wire.Bitfield{Bits: even}), wire.Bitfield{Bits: odd}))
	}},
	{Name: "one corrupt block and then nothing", Limit: "swarm.blame", Against: Download, Slow: true, Within: 10 * time.Minute, Errs: list(peer.ErrCorruptPiece),
		Run: hasMost, On: once(zeros)},
	{Name: "everything promised, nothing given", Limit: "pipeline.SnubFirst", Against: Download, Slow: true, Outcome: Stands, Within: 3 * time.Minute, Run: hasMost},
	{Name: "blocks that begin and never end", Limit: "peer.FrameTimeout", Against: Download, Slow: true, Within: peer.FrameTimeout + time.Minute, Errs: list(peer.ErrSlowFrame),
		Run: func(a *Attacker) {
			hasMost(a)
			if !a.Put(zeros(block(0))[:5000]) {
				return
			}
			a.eachMinute([]byte{0})
		}},
}

// once answers the first request that comes on a connection, and no other.
func once(f func(bt.Block) []byte) func(*Attacker, wire.Message) {
	return func(a *Attacker, m wire.Message) {
		if r, ok := m.(*wire.Request); ok && a.answered.CompareAndSwap(false, true) {
			a.Put(f(r.Block))
		}
	}
}

// offer announces metadata of a size, as a peer that has it does.
func offer(size int64) func(*Attacker) {
	return func(a *Attacker) {
		a.Put(extended(ltep.ExchangeID, ltep.AppendExchange(nil, &ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: metadataID}}, MetadataSize: size})))
	}
}

// asked answers each request for metadata with what f returns.
func asked(f func(a *Attacker, piece uint32) []byte) func(*Attacker, wire.Message) {
	return func(a *Attacker, m wire.Message) {
		if e, ok := m.(*wire.Extended); ok && e.ID == metadataID {
			if md, err := ltep.ParseMetadata(e.Payload); err == nil && md.Type == ltep.MetadataRequest {
				a.Put(f(a, md.Piece))
			}
		}
	}
}

func metadata(a *Attacker, piece uint32, size int, data []byte) []byte {
	return extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataData, Piece: piece, TotalSize: int64(size), Data: data}))
}

// magnets are attacks on a client that knows nothing but an info-hash.
var magnets = []Attack{
	{Name: "poisoned metadata", Limit: "peer.ErrCorruptMetadata", Against: Magnet, Errs: list(peer.ErrCorruptMetadata), Run: offer(40_000),
		On: asked(func(a *Attacker, piece uint32) []byte {
			return metadata(a, piece, 40_000, make([]byte, min(ltep.MetadataPieceBytes, 40_000-int(piece)*ltep.MetadataPieceBytes)))
		})},
	{Name: "metadata of 2^62 bytes", Limit: "ltep.MaxMetadataBytes", Against: Magnet, Outcome: Stands, Run: offer(1 << 62)},
	{Name: "metadata of 32 MiB, and none of it", Limit: "swarm.metaFirst", Against: Magnet, Outcome: Stands, Run: offer(ltep.MaxMetadataBytes)},
	{Name: "metadata requests rejected", Limit: "swarm.metaAgain", Against: Magnet, Outcome: Stands, Run: offer(30_000), On: asked(func(a *Attacker, piece uint32) []byte {
		return extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataReject, Piece: piece}))
	})},
	{Name: "metadata in pieces too short", Limit: "swarm.refuseMetadata", Against: Magnet, Outcome: Stands, Run: offer(30_000), On: asked(func(a *Attacker, piece uint32) []byte {
		return metadata(a, piece, 30_000, []byte("d"))
	})},
	{Name: "metadata in the wrong order", Limit: "swarm.refuseMetadata", Against: Magnet, Outcome: Stands, Run: offer(64 << 10), On: asked(func(a *Attacker, piece uint32) []byte {
		return metadata(a, piece^1, 64<<10, make([]byte, ltep.MetadataPieceBytes))
	})},
	{Name: "metadata that nobody asked for, while it is wanted", Limit: "swarm.peerMetadata", Against: Magnet, Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(metadata(a, 0, 1<<20, make([]byte, ltep.MetadataPieceBytes)))
	}},
	{Name: "a bitfield of 2 MiB before the metadata", Limit: "peer.ErrBadBitfield", Against: Magnet, Errs: list(peer.ErrBadBitfield), Run: func(a *Attacker) {
		a.Put(classic.AppendBitfield(nil, wire.Bitfield{Bits: make([]byte, wire.MaxEarlyBitfield-1)}))
	}},
	{Name: "a bitfield of 2 MiB + 1 before the metadata", Limit: "wire.MaxEarlyBitfield", Against: Magnet, Errs: list(peer.ErrBadBitfield), Run: func(a *Attacker) {
		a.Put(head(wire.MaxEarlyBitfield+1, classic.IDBitfield))
	}},
	{Name: "haves without end before the metadata", Limit: "peer.maxEarlyHave", Against: Magnet, Errs: list(peer.ErrBadState, peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(classic.AppendHave(nil, wire.Have{Index: 1}))
	}},
	{Name: "a have out of range before the metadata", Limit: "peer.ErrBadState", Against: Magnet, Errs: list(peer.ErrBadState), Run: func(a *Attacker) {
		a.Put(classic.AppendHave(nil, wire.Have{Index: a.pieces()}))
	}},
	{Name: "requests before the metadata", Limit: "BEP 6 rejects", Against: Magnet, Outcome: Stands, Run: func(a *Attacker) {
		a.Put(classic.AppendInterested(nil), request(block(0)), request(block(1<<31)))
	}},
	{Name: "metadata of 32 MiB, a piece every ten seconds", Limit: "swarm.metaShare", Against: Magnet, Slow: true, Outcome: Stands, Within: 3 * time.Minute, Run: func(a *Attacker) {
		offer(ltep.MaxMetadataBytes)(a)
		for i := uint32(0); a.Put(metadata(a, i, ltep.MaxMetadataBytes, make([]byte, ltep.MetadataPieceBytes))) && a.Wait(10*time.Second); i++ {
		}
	}},
	{Name: "metadata of 32 MiB, and silence", Limit: "swarm.metaFirst", Against: Magnet, Slow: true, Outcome: Stands, Within: 3 * time.Minute, Run: offer(ltep.MaxMetadataBytes)},
}

// All returns every attack of this package.
func All() []Attack {
	all := slices.Concat(beforeHello, frames, requests, extensions, downloads, magnets, hashes, spreads)
	for _, at := range slices.Concat(empErrors, empGames) {
		at.Name, at.EMP, at.App = "emp: "+at.Name, true, true
		all = append(all, at)
	}
	return all
}
