package attack

import (
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

func dontHave(a *Attacker, i bt.PieceIndex) []byte {
	return extended(a.DontHave, ltep.AppendDontHave(nil, ltep.DontHave{Index: i}))
}

func uploadOnly(a *Attacker, on bool) []byte {
	return extended(a.UploadOnly, ltep.AppendUploadOnly(nil, ltep.UploadOnly{On: on}))
}

// hasBut says that it has everything but the last piece, in the bitfield that comes first.
func hasBut(a *Attacker) {
	s := bitfield.NewFull(int(a.pieces()))
	s.Remove(int(a.pieces()) - 1)
	a.Put(classic.AppendBitfield(nil, wire.Bitfield{Bits: s.AppendWire(nil)}))
}

// losing is a piece that is lost and had again, and others with it.
func losing(a *Attacker) (b []byte) {
	for i := range min(a.pieces()-1, 64) {
		b = append(b, dontHave(a, i)...)
		b = classic.AppendHave(b, wire.Have{Index: i})
	}
	return b
}

// spreads are attacks on who serves whom with what: pieces that are lost again (BEP 54), who wants nothing (BEP 21), super-seeding (BEP 16), limits of the rate.
var spreads = []Attack{
	{Name: "pieces lost and had again, without end", Limit: "peerconn.maxBatchEvents", Outcome: Stands, Run: func(a *Attacker) {
		hasBut(a)
		a.Flood(losing(a))
	}},
	{Name: "pieces lost and had again, of a client that wants them", Limit: "swarm.Peer.interestDue", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		hasBut(a)
		a.Put(classic.AppendUnchoke(nil))
		a.Flood(losing(a))
	}},
	{Name: "everything lost, a piece after the other", Limit: "swarm.Peer.interestDue", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		hasMost(a)
		for i := range a.pieces() - 1 {
			if !a.Put(dontHave(a, i)) {
				return
			}
		}
	}},
	{Name: "pieces lost that it never had", Limit: "wire.MaxIdleFrames", Errs: list(peer.ErrFlood), Run: func(a *Attacker) { a.FloodOn(dontHave(a, 1)) }},
	{Name: "a piece lost that is not there", Limit: "peer.ErrBadState", Errs: list(peer.ErrBadState), Run: func(a *Attacker) { a.Put(dontHave(a, a.pieces())) }},
	{Name: "pieces lost without end before the metadata", Limit: "peer.maxEarlyHave", Against: Magnet, Errs: list(peer.ErrBadState, peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(dontHave(a, 1))
	}},
	{Name: "a lost piece of three bytes", Limit: "wire.SyntaxError", Errs: list(ErrSyntax), Run: func(a *Attacker) { a.Put(extended(a.DontHave, make([]byte, 3))) }},
	{Name: "upload_only that comes and goes", Limit: "peerconn.maxBatchEvents", Outcome: Stands, Run: func(a *Attacker) {
		a.Put(classic.AppendInterested(nil))
		a.Flood(append(uploadOnly(a, true), uploadOnly(a, false)...))
	}},
	{Name: "upload_only that comes and goes, of a client that downloads", Limit: "peerconn.maxBatchEvents", Against: Download, Outcome: Stands, Run: func(a *Attacker) {
		hasMost(a)
		a.Flood(append(uploadOnly(a, true), uploadOnly(a, false)...))
	}},
	{Name: "upload_only of no bytes", Limit: "wire.SyntaxError", Errs: list(ErrSyntax), Run: func(a *Attacker) { a.Put(extended(a.UploadOnly, nil)) }},

	{Name: "requests for what a super-seed has not shown", Limit: "swarm.shown", SuperSeed: true, Slow: true, Outcome: Stands, Within: 3 * time.Minute, Run: func(a *Attacker) {
		a.Put(classic.AppendHaveNone(nil), classic.AppendInterested(nil))
	}, On: func(a *Attacker, m wire.Message) {
		switch m := m.(type) {
		case *wire.Unchoke:
			for i := range a.pieces() {
				a.Put(request(block(i)))
			}
		case *wire.Have:
			a.shown.Store(uint32(m.Index), true)
		case *wire.Piece:
			if _, ok := a.shown.Load(uint32(m.Index)); !ok {
				a.Close() // it is no longer unharmed
			}
		}
	}},
	{Name: "all that a super-seed shows is said to be had", Limit: "swarm.superIdle", SuperSeed: true, Slow: true, Outcome: Stands, Within: 3 * time.Minute, Run: func(a *Attacker) {
		a.Put(classic.AppendHaveNone(nil), classic.AppendInterested(nil))
	}, On: func(a *Attacker, m wire.Message) {
		if h, ok := m.(*wire.Have); ok {
			a.Put(classic.AppendHave(nil, wire.Have{Index: h.Index}))
		}
	}},
	{Name: "nothing fetched of what a super-seed shows", Limit: "swarm.superIdle", SuperSeed: true, Slow: true, Outcome: Stands, Within: 3 * time.Minute, Run: func(a *Attacker) {
		a.Put(classic.AppendHaveNone(nil), classic.AppendInterested(nil))
	}},

	{Name: "everything downloaded again and again, under a limit", Limit: "parley.Config.UploadLimit", UploadLimit: 16 << 20, Outcome: Stands, Run: func(a *Attacker) {
		a.Put(classic.AppendInterested(nil))
	}, On: func(a *Attacker, m wire.Message) {
		switch m := m.(type) {
		case *wire.Unchoke:
			for i := range min(a.pieces(), 64) {
				a.Put(request(block(i)))
			}
		case *wire.Piece:
			a.Put(request(bt.Block{Index: m.Index, Begin: m.Begin, Length: uint32(len(m.Data))}))
		}
	}},
	{Name: "metadata downloaded again and again, under a limit", Limit: "peer.metaTimes", UploadLimit: 16 << 20, Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		for range 64 {
			if a.Ping() != nil {
				return
			}
		}
	}, On: func(a *Attacker, m wire.Message) {
		if e, ok := m.(*wire.Extended); ok && e.ID == metadataID { // whatever the answer is
			a.Ping() // if that fails, the session has ended
		}
	}},
	{Name: "requests, unread, under a limit", Limit: "wire.MaxControlBacklog", UploadLimit: 16 << 20, Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		if a.Unchoked() {
			a.FloodOn(request(block(0)))
		}
	}},
	{Name: "unrequested blocks, under a limit", Limit: "swarm.unwantedLimit", Against: Download, DownloadLimit: 16 << 20, Errs: list(peer.ErrUnwantedData), Run: func(a *Attacker) {
		hasMost(a)
		a.FloodOn(zeros(block(0)))
	}},
}
