package attack

import (
	"bytes"
	"slices"
	"time"

	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// HashesOf returns the function that answers requests for hashes of a torrent truly; it returns nil for what is in no piece layer.
func HashesOf(info *metainfo.Info, layers map[merkle.Hash][]byte) (func(wire.HashSpan) []byte, error) {
	known := make(map[merkle.Hash]*merkle.Tree)
	for i := range info.Files {
		f := &info.Files[i]
		if f.Padding || f.Length <= info.PieceLength {
			continue
		}
		shape, err := merkle.NewShape(f.Length, info.PieceLength)
		if err != nil {
			return nil, err
		}
		if known[f.PiecesRoot], err = merkle.TreeOf(shape, f.PiecesRoot, layers[f.PiecesRoot]); err != nil {
			return nil, err
		}
	}
	return func(s wire.HashSpan) []byte {
		tree := known[s.Root]
		if tree == nil {
			return nil
		}
		data, err := tree.AppendHashes(nil, merkle.Range{Base: s.BaseLayer, Index: s.Index, Length: s.Length, Proof: s.ProofLayers}, nil)
		if err != nil {
			return nil
		}
		return data
	}, nil
}

func hashRequest(s wire.HashSpan) []byte {
	return classic.AppendHashRequest(nil, wire.HashRequest{HashSpan: s})
}

// odd are spans that no client asks for, or that nobody can answer: of a tree whose piece layer is layer, of a file of a few pieces.
func odd(root merkle.Hash, layer uint32) []wire.HashSpan {
	return []wire.HashSpan{
		{Length: 2},
		{Root: root, BaseLayer: layer, Length: 0},
		{Root: root, BaseLayer: layer, Length: 1},
		{Root: root, BaseLayer: layer, Length: 3},
		{Root: root, BaseLayer: layer, Length: 8192},
		{Root: root, BaseLayer: layer, Length: 1 << 31},
		{Root: root, BaseLayer: layer, Length: 2, Index: 1},
		{Root: root, BaseLayer: layer, Length: 2, Index: 1 << 31},
		{Root: root, BaseLayer: layer, Length: 2, Index: 1<<32 - 2},
		{Root: root, BaseLayer: layer, Length: 2, ProofLayers: 1 << 31},
		{Root: root, BaseLayer: layer, Length: 2, ProofLayers: 1<<32 - 1},
		{Root: root, BaseLayer: layer - 1, Length: 2},
		{Root: root, BaseLayer: 99, Length: 2},
		{Root: root, BaseLayer: 1<<32 - 1, Length: 2},
		{Root: root, Length: 512, Index: 512},
	}
}

// toldNothing ends the session when hashes come: it is then not one that stands.
func toldNothing(a *Attacker, m wire.Message) {
	if m.Kind() == wire.KindHashes {
		a.Close()
	}
}

// layer returns the span of the whole piece layer of the torrent's file i.
func (a *Attacker) layer(i int) wire.HashSpan {
	f := &a.Files[i%len(a.Files)]
	n := uint32(1)
	for int64(n)*a.PieceBytes < f.Length {
		n *= 2
	}
	return wire.HashSpan{Root: f.PiecesRoot, BaseLayer: a.pieceLayer(), Length: n}
}

func (a *Attacker) pieceLayer() (layer uint32) {
	for n := int64(16 << 10); n < a.PieceBytes; n *= 2 {
		layer++
	}
	return layer
}

// offersLayers has the metadata and says that it has everything; what it says of hashes is lie's business.
func offersLayers(a *Attacker) {
	offer(int64(len(a.Info)))(a)
	a.Put(classic.AppendHaveAll(nil))
}

// lying gives the metadata as it is, and answers requests for hashes with what lie returns.
func lying(lie func(a *Attacker, r *wire.HashRequest) []byte) func(*Attacker, wire.Message) {
	honest := asked(func(a *Attacker, piece uint32) []byte {
		at := min(int(piece)*ltep.MetadataPieceBytes, len(a.Info))
		return metadata(a, piece, len(a.Info), a.Info[at:min(at+ltep.MetadataPieceBytes, len(a.Info))])
	})
	return func(a *Attacker, m wire.Message) {
		if r, ok := m.(*wire.HashRequest); ok {
			a.Put(lie(a, r))
			return
		}
		honest(a, m)
	}
}

func answer(s wire.HashSpan, data []byte) []byte {
	return classic.AppendHashes(nil, wire.Hashes{HashSpan: s, Data: data})
}

// hashes are attacks on clients with a torrent that has a v2 description (BEP 52).
var hashes = []Attack{
	{Name: "requests for hashes that nobody can answer", Limit: "peer.Machine.handleHashRequest", V2: true, Outcome: Stands, Run: func(a *Attacker) {
		for _, s := range odd(a.Files[0].PiecesRoot, a.pieceLayer()) {
			if !a.Put(hashRequest(s)) {
				return
			}
		}
	}, On: toldNothing},
	{Name: "requests for hashes of trees that are not here, without end", Limit: "wire.MaxControlBacklog", V2: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		a.FloodOn(hashRequest(wire.HashSpan{Root: merkle.Hash{1}, BaseLayer: a.pieceLayer(), Length: 2}))
	}, On: toldNothing},
	{Name: "requests for hashes, unread", Limit: "wire.MaxControlBacklog", V2: true, Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		a.FloodOn(hashRequest(a.layer(0)))
	}},
	{Name: "requests for hashes that make no sense, unread", Limit: "wire.MaxControlBacklog", V2: true, Deaf: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		a.FloodOn(hashRequest(wire.HashSpan{Length: 1<<32 - 1, ProofLayers: 1<<32 - 1}))
	}},
	{Name: "requests for piece layers without end", Limit: "wire.MaxControlBacklog", V2: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		var all []byte
		for i := range a.Files {
			all = append(all, hashRequest(a.layer(i))...)
		}
		a.FloodOn(all)
	}},
	{Name: "requests for hashes of blocks without end", Limit: "wire.MaxControlBacklog", V2: true, Errs: list(peer.ErrControlBacklog), Run: func(a *Attacker) {
		var all []byte
		for i := range a.Files {
			for k := range a.layer(i).Length {
				all = append(all, hashRequest(wire.HashSpan{Root: a.Files[i].PiecesRoot, Index: k << a.pieceLayer(), Length: 1 << a.pieceLayer()})...)
			}
		}
		a.FloodOn(all)
	}},
	{Name: "hashes that nobody asked for", Limit: "peer.Machine.handleHashes", V2: true, Errs: list(peer.ErrBadState, peer.ErrFrameTooLarge), Run: func(a *Attacker) {
		s := a.layer(0)
		a.FloodOn(answer(s, a.Hashes(s)))
	}},
	{Name: "refusals of hashes that nobody asked for", Limit: "wire.MaxIdleFrames", V2: true, Errs: list(peer.ErrFlood), Run: func(a *Attacker) {
		a.FloodOn(classic.AppendHashReject(nil, wire.HashReject{HashSpan: a.layer(0)}))
	}},
	{Name: "hashes of half a hash", Limit: "peer.Machine.frameLimit", V2: true, Errs: list(ErrSyntax, peer.ErrFrameTooLarge), Run: func(a *Attacker) {
		a.Put(answer(a.layer(0), make([]byte, 16)))
	}},
	{Name: "a piece layer of lies", Limit: "peer.ErrCorruptHashes", Against: Magnet, V2: true, Errs: list(peer.ErrCorruptHashes), Run: offersLayers,
		On: lying(func(a *Attacker, r *wire.HashRequest) []byte {
			return answer(r.HashSpan, make([]byte, len(a.Hashes(r.HashSpan))))
		})},
	{Name: "a piece layer with one bit changed", Limit: "peer.ErrCorruptHashes", Against: Magnet, V2: true, Errs: list(peer.ErrCorruptHashes), Run: offersLayers,
		On: lying(func(a *Attacker, r *wire.HashRequest) []byte {
			data := slices.Clone(a.Hashes(r.HashSpan))
			data[len(data)-1] ^= 1
			return answer(r.HashSpan, data)
		})},
	{Name: "the piece layer of another file", Limit: "peer.ErrCorruptHashes", Against: Magnet, V2: true, Errs: list(peer.ErrCorruptHashes), Run: offersLayers,
		On: lying(func(a *Attacker, r *wire.HashRequest) []byte {
			for _, f := range a.Files {
				s := r.HashSpan
				if s.Root = f.PiecesRoot; s.Root != r.Root {
					if data := a.Hashes(s); len(data) == len(a.Hashes(r.HashSpan)) {
						return answer(r.HashSpan, data)
					}
				}
			}
			return nil
		})},
	{Name: "fewer hashes than asked for", Limit: "peer.Machine.handleHashes", Against: Magnet, V2: true, Errs: list(ErrSyntax, peer.ErrBadState), Run: offersLayers,
		On: lying(func(a *Attacker, r *wire.HashRequest) []byte {
			data := a.Hashes(r.HashSpan)
			return answer(r.HashSpan, data[:len(data)-merkle.HashBytes])
		})},
	{Name: "more hashes than asked for", Limit: "peer.Machine.frameLimit", Against: Magnet, V2: true, Errs: list(peer.ErrFrameTooLarge, peer.ErrBadState, ErrSyntax), Run: offersLayers,
		On: lying(func(a *Attacker, r *wire.HashRequest) []byte {
			return answer(r.HashSpan, bytes.Repeat(a.Hashes(r.HashSpan), 200))
		})},
	{Name: "piece layers refused", Limit: "swarm.hashesAgain", Against: Magnet, V2: true, Outcome: Stands, Run: offersLayers,
		On: lying(func(_ *Attacker, r *wire.HashRequest) []byte {
			return classic.AppendHashReject(nil, wire.HashReject{HashSpan: r.HashSpan})
		})},
	{Name: "piece layers promised, and silence", Limit: "swarm.hashesPatience", Against: Magnet, V2: true, Slow: true, Outcome: Stands, Within: 3 * time.Minute, Run: offersLayers,
		On: lying(func(*Attacker, *wire.HashRequest) []byte { return nil })},
}
