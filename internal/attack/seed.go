package attack

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// list is shorthand for Attack.Errs.
func list(errs ...error) []error { return errs }

// head returns the beginning of a frame: its length field and its id.
func head(n uint32, id uint8) []byte { return append(binary.BigEndian.AppendUint32(nil, n), id) }

// ids are all the message ids that mean something, and two that do not.
var ids = []uint8{classic.IDChoke, classic.IDUnchoke, classic.IDInterested, classic.IDNotInterested, classic.IDHave, classic.IDBitfield, classic.IDRequest,
	classic.IDPiece, classic.IDCancel, classic.IDPort, classic.IDSuggest, classic.IDHaveAll, classic.IDHaveNone, classic.IDReject, classic.IDAllowedFast,
	classic.IDExtended, classic.IDHashRequest, classic.IDHashes, classic.IDHashReject, 99, 255}

// sized are the messages that have one right length, with what the length field says then.
var sized = []struct {
	id uint8
	n  uint32
}{{classic.IDChoke, 1}, {classic.IDUnchoke, 1}, {classic.IDInterested, 1}, {classic.IDNotInterested, 1}, {classic.IDHave, 5}, {classic.IDRequest, 13},
	{classic.IDCancel, 13}, {classic.IDPort, 3}, {classic.IDSuggest, 5}, {classic.IDHaveAll, 1}, {classic.IDHaveNone, 1}, {classic.IDReject, 13},
	{classic.IDAllowedFast, 5}}

// filled are those of sized that have a payload, which can be one byte short.
var filled = sized[4:8:8]

// frame returns a whole frame of zeros.
func frame(n uint32, id uint8) []byte { return append(head(n, id), make([]byte, n-1)...) }

// noise returns n bytes that mean nothing: the same in each run.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b) // never fails
	return b
}

func request(b bt.Block) []byte { return classic.AppendRequest(nil, wire.Request{Block: b}) }

func block(i bt.PieceIndex) bt.Block { return bt.Block{Index: i, Length: bt.BlockBytes} }

// beforeHello are attacks on a client that has not read a hello.
var beforeHello = []Attack{
	{Name: "HTTP request", Limit: "peer.MaxHelloTimeout", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(peer.ErrHandshakeTimeout), Run: func(a *Attacker) {
		a.Put([]byte("GET /announce?info_hash=x HTTP/1.1\r\nHost: example.org\r\n\r\n"))
	}},
	{Name: "obfuscated hello that goes nowhere", Limit: "peer.MaxHelloTimeout", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(peer.ErrHandshakeTimeout), Run: func(a *Attacker) { a.Put(noise(96 + 300)) }},
	{Name: "100 kB of noise", Limit: "mse.MaxPad, peerconn.MaxDraining", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(obfs.ErrHandshake), Run: func(a *Attacker) { a.Put(noise(100_000)) }},
	{Name: "almost a hello", Limit: "peer.MaxHelloTimeout", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(peer.ErrHandshakeTimeout), Run: func(a *Attacker) {
		a.Put([]byte("\x13BitTorrent protocoL" + string(make([]byte, 48))))
	}},
	{Name: "hello for another torrent", Limit: "peer.ErrUnknownTorrent", Raw: true, Errs: list(peer.ErrUnknownTorrent), Run: func(a *Attacker) {
		a.Put(classic.AppendHello(nil, classic.Hello{InfoHash: bt.InfoHash{1}, PeerID: a.ID}))
	}},
	{Name: "hello with the client's own peer ID", Limit: "peer.ErrSelfConnection", Raw: true, Deaf: true, Errs: list(peer.ErrSelfConnection), Run: func(a *Attacker) {
		h := classic.AppendHello(nil, classic.Hello{InfoHash: a.InfoHash})
		if !a.Put(h[:classic.AnswerBytes]) { // the client answers as soon as it knows the torrent
			return
		}
		theirs, err := a.ReadHello()
		if err == nil {
			a.Put(theirs.PeerID[:])
		}
	}},
	{Name: "nothing at all", Limit: "peer.MaxHelloTimeout", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(peer.ErrHandshakeTimeout), Run: func(*Attacker) {}},
	{Name: "half a hello", Limit: "peer.MaxHelloTimeout", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(peer.ErrHandshakeTimeout), Run: func(a *Attacker) {
		a.Put([]byte("\x13BitTorrent protocol1234"))
	}},
	{Name: "a hello without a peer ID", Limit: "peer.MaxHelloTimeout", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(peer.ErrHandshakeTimeout),
		Run: func(a *Attacker) {
			a.Put(classic.AppendHello(nil, classic.Hello{InfoHash: a.InfoHash})[:classic.HelloBytes-1])
		}},
	{Name: "a hello, a byte a second", Limit: "peer.MaxHelloTimeout", Raw: true, Slow: true, Within: peer.MaxHelloTimeout, Errs: list(peer.ErrHandshakeTimeout),
		Run: func(a *Attacker) {
			for _, c := range classic.AppendHello(nil, classic.Hello{InfoHash: a.InfoHash, PeerID: a.ID}) {
				if !a.Wait(time.Second) || !a.Put([]byte{c}) {
					return
				}
			}
		}},
}

// frames are attacks by single frames.
var frames = []Attack{
	{Name: "length 2^32-1 under every id", Limit: "peer.Machine.frameLimit", Variants: len(ids), Errs: list(peer.ErrFrameTooLarge, peer.ErrBadBitfield),
		Run: func(a *Attacker) { a.Put(head(1<<32-1, ids[a.Variant])) }},
	{Name: "length 2^31 under every id", Limit: "peer.Machine.frameLimit", Variants: len(ids), Errs: list(peer.ErrFrameTooLarge, peer.ErrBadBitfield),
		Run: func(a *Attacker) { a.Put(head(1<<31, ids[a.Variant])) }},
	{Name: "length 64 KiB + 1 under every id but extended", Limit: "wire.MaxPlainFrame", Variants: len(ids), Errs: list(peer.ErrFrameTooLarge, peer.ErrBadBitfield),
		Run: func(a *Attacker) {
			id := ids[a.Variant]
			if id == classic.IDExtended {
				id = 98
			}
			a.Put(head(wire.MaxPlainFrame+1, id))
		}},
	{Name: "an extended frame of 1 MiB + 1", Limit: "wire.MaxExtendedFrame", Errs: list(peer.ErrFrameTooLarge), Run: func(a *Attacker) {
		a.Put(head(wire.MaxExtendedFrame+1, classic.IDExtended))
	}},
	{Name: "a block larger than any asked for", Limit: "wire.PieceOverhead", Errs: list(peer.ErrFrameTooLarge), Run: func(a *Attacker) {
		a.Put(head(bt.BlockBytes+wire.PieceOverhead+1, classic.IDPiece))
	}},
	{Name: "one byte too many under every sized id", Limit: "wire.SyntaxError", Variants: len(sized), Errs: list(ErrSyntax), Run: func(a *Attacker) {
		s := sized[a.Variant]
		a.Put(frame(s.n+1, s.id))
	}},
	{Name: "one byte too few under every sized id", Limit: "wire.SyntaxError", Variants: len(filled), Errs: list(ErrSyntax), Run: func(a *Attacker) {
		s := filled[a.Variant]
		a.Put(frame(s.n-1, s.id))
	}},
	{Name: "no payload under every filled id", Limit: "wire.SyntaxError", Variants: len(filled), Errs: list(ErrSyntax), Run: func(a *Attacker) {
		a.Put(frame(1, filled[a.Variant].id))
	}},
	{Name: "a block without a header", Limit: "wire.SyntaxError", Errs: list(ErrSyntax), Run: func(a *Attacker) { a.Put(frame(8, classic.IDPiece)) }},
	{Name: "extended frames without an id", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) { a.FloodOn(frame(1, classic.IDExtended)) }},

	{Name: "a bitfield one byte short", Limit: "peer.ErrBadBitfield", Errs: list(peer.ErrBadBitfield), Run: func(a *Attacker) {
		a.Put(classic.AppendBitfield(nil, wire.Bitfield{Bits: make([]byte, bitfield.Bytes(int(a.pieces()))-1)}))
	}},
	{Name: "a bitfield one byte long", Limit: "peer.ErrBadBitfield", Errs: list(peer.ErrBadBitfield), Run: func(a *Attacker) {
		a.Put(classic.AppendBitfield(nil, wire.Bitfield{Bits: make([]byte, bitfield.Bytes(int(a.pieces()))+1)}))
	}},
	{Name: "a bitfield with spare bits", Limit: "peer.ErrBadBitfield", Errs: list(peer.ErrBadBitfield), Run: func(a *Attacker) {
		bits := make([]byte, bitfield.Bytes(int(a.pieces())))
		bits[len(bits)-1] = 1
		a.Put(classic.AppendBitfield(nil, wire.Bitfield{Bits: bits}))
	}},
	{Name: "no bitfield but its id", Limit: "peer.ErrBadBitfield", Errs: list(peer.ErrBadBitfield), Run: func(a *Attacker) { a.Put(frame(1, classic.IDBitfield)) }},
	{Name: "a second bitfield, and a late one", Limit: "what a peer has only grows", Outcome: Stands, Run: func(a *Attacker) {
		b := classic.AppendBitfield(nil, wire.Bitfield{Bits: make([]byte, bitfield.Bytes(int(a.pieces())))})
		a.Put(b, b, classic.AppendInterested(nil), classic.AppendHave(nil, wire.Have{Index: 3}), b)
	}},
	{Name: "bitfields without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(classic.AppendBitfield(nil, wire.Bitfield{Bits: make([]byte, bitfield.Bytes(int(a.pieces())))}))
	}},
	{Name: "Have All and Have None without the Fast bit", Limit: "peer.legality", Outcome: Stands, Plain: true, Run: func(a *Attacker) {
		a.Put(classic.AppendHaveAll(nil), classic.AppendHaveNone(nil), classic.AppendHaveAll(nil))
	}},
	{Name: "Fast messages without the Fast bit", Limit: "wire.MaxIdleFrames", Plain: true, Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(classic.AppendReject(classic.AppendSuggest(nil, wire.Suggest{Index: 1 << 30}), wire.Reject{Block: bt.Block{Index: 1 << 31}}))
	}},
	{Name: "Have Nones without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) { a.FloodOn(classic.AppendHaveNone(nil)) }},
	{Name: "a have just out of range", Limit: "peer.ErrBadState", Errs: list(peer.ErrBadState), Run: func(a *Attacker) {
		a.Put(classic.AppendHave(nil, wire.Have{Index: a.pieces()}))
	}},
	{Name: "a have of piece 2^32-1", Limit: "peer.ErrBadState", Errs: list(peer.ErrBadState), Run: func(a *Attacker) {
		a.Put(classic.AppendHave(nil, wire.Have{Index: 1<<32 - 1}))
	}},
	{Name: "the same have without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(classic.AppendHave(nil, wire.Have{Index: 1}))
	}},
	{Name: "suggestions and allowances out of range", Limit: "peer.ErrBadState", Variants: 2, Errs: list(peer.ErrBadState), Run: func(a *Attacker) {
		if a.Variant == 0 {
			a.Put(classic.AppendSuggest(nil, wire.Suggest{Index: a.pieces()}))
		} else {
			a.Put(classic.AppendAllowedFast(nil, wire.AllowedFast{Index: a.pieces()}))
		}
	}},
	{Name: "suggestions without end", Limit: "peerconn.maxBatchEvents", Outcome: Stands, Run: func(a *Attacker) { a.Flood(classic.AppendSuggest(nil, wire.Suggest{})) }},
	{Name: "allowances without end", Limit: "64 allowances in swarm.peerEvents", Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(classic.AppendAllowedFast(nil, wire.AllowedFast{Index: 1}))
	}},
	{Name: "ports without end", Limit: "peerconn.maxBatchEvents", Outcome: Stands, Run: func(a *Attacker) { a.Flood(classic.AppendPort(nil, wire.Port{Port: 53})) }},
	{Name: "hash requests of a v1 torrent", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(classic.AppendHashRequest(nil, wire.HashRequest{HashSpan: wire.HashSpan{Length: 1 << 31, ProofLayers: 1 << 31}}))
	}},
	{Name: "keep-alives without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) { a.FloodOn(classic.AppendKeepAlive(nil)) }},
	{Name: "unknown frames without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) { a.FloodOn(frame(1, 99)) }},
	{Name: "interest that comes and goes", Limit: "one rechoke a batch", Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(classic.AppendNotInterested(classic.AppendInterested(nil)))
	}},
	{Name: "chokes and unchokes without end", Limit: "peer.Machine.frame", Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(classic.AppendUnchoke(classic.AppendChoke(nil)))
	}},
	{Name: "rejects of what nobody asked for", Limit: "picker.Release", Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(classic.AppendReject(nil, wire.Reject{Block: bt.Block{Index: 1 << 31, Begin: 1 << 31, Length: 1}}))
	}},
	{Name: "blocks that nobody asked for", Limit: "swarm.unwantedLimit", Errs: list(peer.ErrUnwantedData), Run: func(a *Attacker) {
		a.FloodOn(classic.AppendPiece(nil, wire.Piece{Data: make([]byte, bt.BlockBytes)}))
	}},
	{Name: "blocks of one byte", Limit: "swarm.unwantedLimit", Outcome: Stands, Run: func(a *Attacker) { a.Flood(classic.AppendPiece(nil, wire.Piece{Data: []byte{1}})) }},
	{Name: "nothing after the hello", Limit: "peer.IdleTimeout", Slow: true, Within: peer.IdleTimeout, Errs: list(peer.ErrIdle), Run: func(*Attacker) {}},
	{Name: "half a frame and nothing more", Limit: "peer.IdleTimeout", Slow: true, Within: peer.IdleTimeout, Errs: list(peer.ErrIdle), Run: func(a *Attacker) {
		a.Put([]byte{0, 0, 0, 13, classic.IDRequest, 0})
	}},
	{Name: "half a length and nothing more", Limit: "peer.IdleTimeout", Slow: true, Within: peer.IdleTimeout, Errs: list(peer.ErrIdle), Run: func(a *Attacker) { a.Put([]byte{0, 0}) }},
	{Name: "a frame of 1 MiB, a byte a minute", Limit: "peer.FrameTimeout", Slow: true, Within: peer.FrameTimeout + time.Minute, Errs: list(peer.ErrSlowFrame),
		Run: func(a *Attacker) {
			if !a.Put(append(head(wire.MaxExtendedFrame, classic.IDExtended), make([]byte, wire.MaxExtendedFrame-1000)...)) {
				return
			}
			a.eachMinute([]byte{0})
		}},
}

// requests are attacks by asking.
var requests = []Attack{
	{Name: "a request beyond the last piece", Limit: "peer.ErrBadRequest", Errs: list(peer.ErrBadRequest), Run: func(a *Attacker) { a.Put(request(block(a.pieces()))) }},
	{Name: "a request across the end of a piece", Limit: "peer.ErrBadRequest", Errs: list(peer.ErrBadRequest), Run: func(a *Attacker) {
		a.Put(request(bt.Block{Begin: uint32(a.Geometry.PieceBytes) - 1, Length: 2}))
	}},
	{Name: "a request whose end overflows", Limit: "peer.ErrBadRequest", Errs: list(peer.ErrBadRequest), Run: func(a *Attacker) {
		a.Put(request(bt.Block{Begin: 1<<32 - 1, Length: 2}))
	}},
	{Name: "a request of nothing", Limit: "peer.ErrBadRequest", Errs: list(peer.ErrBadRequest), Run: func(a *Attacker) { a.Put(request(bt.Block{})) }},
	{Name: "a request of 128 KiB + 1", Limit: "wire.MaxRequest", Errs: list(peer.ErrBadRequest), Run: func(a *Attacker) {
		a.Put(request(bt.Block{Length: wire.MaxRequest + 1}))
	}},
	{Name: "a request of 4 GiB - 1", Limit: "wire.MaxRequest", Errs: list(peer.ErrBadRequest), Run: func(a *Attacker) { a.Put(request(bt.Block{Length: 1<<32 - 1})) }},
	{Name: "requests while choked", Limit: "BEP 6 rejects", Outcome: Stands, Run: func(a *Attacker) {
		for i := range bt.PieceIndex(200) {
			if !a.Put(request(block(i % a.pieces()))) {
				return
			}
		}
	}, On: func(a *Attacker, m wire.Message) {
		if m.Kind() == wire.KindPiece {
			a.Close() // it is no longer unharmed: what is not unchoked must get nothing
		}
	}},
	{Name: "requests while choked, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) { a.FloodOn(request(block(0))) }},
	{Name: "requests, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		if a.Unchoked() {
			a.FloodOn(request(block(0)))
		}
	}},
	{Name: "large requests, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		if a.Unchoked() {
			a.FloodOn(request(bt.Block{Length: bt.BlockBytes * 4}))
		}
	}},
	{Name: "requests and cancels, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		if a.Unchoked() {
			a.FloodOn(classic.AppendCancel(request(block(0)), wire.Cancel{Block: block(0)}))
		}
	}},
	{Name: "cancels of what was not asked for", Limit: "wire.DefaultReqQ", Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(classic.AppendCancel(nil, wire.Cancel{Block: bt.Block{Index: 1 << 31, Length: 1 << 31}}))
	}},
	{Name: "500 requests and then no reading", Limit: "peerconn.writeStall", Deaf: true, Slow: true, Within: 12 * time.Minute, Errs: list(peerconn.ErrStalled),
		Run: func(a *Attacker) {
			if !a.Unchoked() {
				return
			}
			for i := range bt.PieceIndex(wire.DefaultReqQ) {
				if !a.Put(request(block(i % a.pieces()))) {
					return
				}
			}
			a.eachMinute(classic.AppendKeepAlive(nil)) // it is not idle, it does not read
		}},
	{Name: "metadata requests, unread", Limit: "wire.MaxControlBacklog", Deaf: true, Errs: list(peer.ErrControlBacklog, peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataRequest})))
	}},
	{Name: "metadata requests out of range", Limit: "ltep.MaxMetadataBytes", Variants: 3, Errs: list(ErrSyntax), Run: func(a *Attacker) {
		a.Put(extended(a.Metadata, []byte([]string{"d8:msg_typei0e5:piecei-1ee", "d8:msg_typei0e5:piecei99999999999ee", "d8:msg_typei0e5:piecei2048ee"}[a.Variant])))
	}},
	{Name: "metadata beyond the last piece", Limit: "peer.Machine.rejectMetadata", Outcome: Stands, Run: func(a *Attacker) {
		a.Put(extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataRequest, Piece: 2047})))
	}},
}

// extensions are attacks by extended frames.
var extensions = []Attack{
	{Name: "metadata that is none", Limit: "wire.SyntaxError", Errs: list(ErrSyntax), Run: func(a *Attacker) { a.Put(extended(a.Metadata, []byte("i1e"))) }},
	{Name: "metadata messages of unknown types", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(extended(a.Metadata, []byte("d8:msg_typei77e5:piecei0ee")))
	}},
	{Name: "metadata that nobody asked for", Limit: "peerconn.maxBatchEvents", Outcome: Stands, Run: func(a *Attacker) {
		a.Flood(extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataData, TotalSize: 1 << 20, Data: make([]byte, 16<<10)})))
	}},
	{Name: "metadata of 16 KiB + 1", Limit: "ltep.MetadataPieceBytes", Errs: list(ErrSyntax), Run: func(a *Attacker) {
		a.Put(extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataData, TotalSize: 1 << 20, Data: make([]byte, 16<<10+1)})))
	}},
	{Name: "metadata in lists of lists", Limit: "bencode.Limits.Depth", Errs: list(ErrSyntax), Run: func(a *Attacker) {
		a.Put(extended(a.Metadata, bytes.Repeat([]byte{'l'}, 60_000)))
	}},
	{Name: "exchanges without end", Limit: "wire.MaxExchanges", Errs: list(peer.ErrBadTypeExchange), Run: func(a *Attacker) {
		a.FloodOn(extended(ltep.ExchangeID, []byte("d1:md1:xi1eee")))
	}},
	{Name: "exchanges that are none, without end", Limit: "wire.MaxExchanges", Errs: list(peer.ErrBadTypeExchange), Run: func(a *Attacker) {
		a.FloodOn(extended(ltep.ExchangeID, bytes.Repeat([]byte{'l'}, 60_000)))
	}},
	{Name: "exchanges of 900 names, without end", Limit: "wire.MaxExchanges", Errs: list(peer.ErrBadTypeExchange), Run: func(a *Attacker) {
		var m []ltep.Entry
		for i := range 900 {
			name := binary.BigEndian.AppendUint32(bytes.Repeat([]byte{'x'}, 56), uint32(i))
			m = append(m, ltep.Entry{Name: string(name), ID: uint8(i)})
		}
		a.FloodOn(extended(ltep.ExchangeID, ltep.AppendExchange(nil, &ltep.Exchange{M: m})))
	}},
	{Name: "an exchange of 1 MiB", Limit: "wire.MaxExchangeBytes", Outcome: Stands, Run: func(a *Attacker) {
		a.Put(extended(ltep.ExchangeID, []byte("d1:v999000:"+string(make([]byte, 999_000))+"e")))
	}},
	{Name: "an exchange in lists of lists", Limit: "bencode.Limits.Depth", Outcome: Stands, Run: func(a *Attacker) {
		a.Put(extended(ltep.ExchangeID, append(append([]byte("d1:m"), bytes.Repeat([]byte{'l'}, 30_000)...), bytes.Repeat([]byte{'e'}, 30_001)...)))
	}},
	{Name: "an exchange of absurd numbers", Limit: "ltep.ParseExchange", Outcome: Stands, Run: func(a *Attacker) {
		a.Put(extended(ltep.ExchangeID, []byte("d4:ipv43:abc1:md11:ut_metadatai1e1:xi-1e1:yi256ee13:metadata_sizei4611686018427387904e1:pi70000e4:reqqi-5e11:upload_onlyi-9e6:yourip2:xye")))
	}},
	{Name: "an exchange of control characters", Limit: "ltep.IsTypeName", Outcome: Stands, Run: func(a *Attacker) {
		a.Put(extended(ltep.ExchangeID, ltep.AppendExchange(nil, &ltep.Exchange{Client: "\x1b]0;owned\a\r\n\x9b31m\u202e",
			M: []ltep.Entry{{Name: ltep.NameMetadata, ID: metadataID}, {Name: "\x1b[2J", ID: 5}, {Name: "a\nb", ID: 6}, {Name: "\u2028", ID: 7}}})))
	}},
	{Name: "unknown extended ids without end", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) { a.FloodOn(extended(250, nil)) }},
	{Name: "a message too large", Limit: "parley.Config.MaxMessageBytes", App: true, Errs: list(peer.ErrMessageTooLarge), Run: func(a *Attacker) {
		a.Put(extended(a.App, make([]byte, MaxMessage+1)))
	}},
	{Name: "messages for a slow handler", Limit: "parley.Config.ReceiveQueueBytes", App: true, Outcome: Held, Run: func(a *Attacker) { a.Flood(extended(a.App, make([]byte, MaxMessage))) }},
	{Name: "messages of 64 bytes for a slow handler", Limit: "parley.Config.ReceiveQueueBytes", App: true, Outcome: Held, Run: func(a *Attacker) {
		a.Flood(extended(a.App, make([]byte, 64)))
	}},
	{Name: "empty messages for a slow handler", Limit: "messaging.messageOverhead", App: true, Outcome: Held, Run: func(a *Attacker) { a.Flood(extended(a.App, nil)) }},
}
