package merkle

import (
	"fmt"
	"iter"
	"slices"
)

// Tree is what is known of one file's tree: the root, and the piece layer in chunks, as they come. Nothing is kept that has not been proven, so
// that memory is bounded by the hashes that true peers sent: 32 bytes for each piece. It belongs to one owner; a complete one never changes
// and may be shared.
type Tree struct {
	shape Shape
	root  Hash
	// chunks are the hashes of the piece layer without padding, AskLength each; nil where they are not known. There are none if the root is all
	// of the piece layer.
	chunks  [][]byte
	unknown int64
	// upper are the layers from that of the chunks' roots to the one below the root, without padding, once all chunks are known: what
	// proofs are made of, so that no request costs more than the hashes of one chunk.
	upper [][]byte
}

// NewTree returns a tree of which only the root is known, which is all there is to know if the file is no longer than a piece.
func NewTree(s Shape, root Hash) *Tree {
	t := &Tree{shape: s, root: root, unknown: s.numChunks()}
	if t.unknown > 0 {
		t.chunks = make([][]byte, t.unknown)
	}
	return t
}

// TreeOf returns the tree whose whole piece layer is known, as from a .torrent. The layer is kept and must not change. The error is [ErrMismatch].
func TreeOf(s Shape, root Hash, layer []byte) (*Tree, error) {
	if int64(len(layer)) != s.NumPieces()*HashBytes {
		return nil, fmt.Errorf("%w: %d bytes of piece layer for %d pieces", ErrMismatch, len(layer), s.NumPieces())
	}
	t := NewTree(s, root)
	if t.Complete() {
		if Hash(layer) != root {
			return nil, fmt.Errorf("%w: the hash of the only piece is not the root", ErrMismatch)
		}
		return t, nil
	}
	for i := range t.chunks {
		n := min(len(layer), int(s.chunkLen())*HashBytes)
		t.chunks[i], layer = layer[:n:n], layer[n:]
	}
	t.unknown = 0
	if t.buildUpper() != root {
		return nil, fmt.Errorf("%w: the piece layer leads to another root", ErrMismatch)
	}
	return t, nil
}

// chunkUp returns how many layers above the piece layer the roots of chunks lie.
func (s Shape) chunkUp() int { return min(log2(AskLength), s.Height()-s.PieceLayer()) }

// chunkLen returns the number of hashes of a full chunk.
func (s Shape) chunkLen() int64 { return 1 << s.chunkUp() }

// numChunks returns how many chunks the piece layer has; 0 if it is the root.
func (s Shape) numChunks() int64 {
	if s.pieceLayer == s.height {
		return 0
	}
	return s.Len(s.PieceLayer() + s.chunkUp())
}

// buildUpper makes the layers above the chunks and returns the root they lead to.
func (t *Tree) buildUpper() Hash {
	layer := t.shape.PieceLayer() + t.shape.chunkUp()
	below := make([]byte, 0, len(t.chunks)*HashBytes)
	for _, c := range t.chunks {
		h := Fold(c, t.shape.PieceLayer(), t.shape.chunkUp())
		below = append(below, h[:]...)
	}
	t.upper = nil
	for ; layer < t.shape.Height(); layer++ {
		t.upper = append(t.upper, below)
		above := make([]byte, 0, (len(below)+HashBytes)/2)
		for pair := range slices.Chunk(below, 2*HashBytes) {
			h := Fold(pair, layer, 1)
			above = append(above, h[:]...)
		}
		below = above
	}
	return Hash(below)
}

// Shape returns the tree's form.
func (t *Tree) Shape() Shape { return t.shape }

// Root returns the root.
func (t *Tree) Root() Hash { return t.root }

// Complete reports whether all of the piece layer is known.
func (t *Tree) Complete() bool { return t.unknown == 0 }

// Missing yields what to ask for to complete the tree: see [Shape.PieceRanges]. The tree may grow meanwhile.
func (t *Tree) Missing() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for i, c := range t.chunks {
			if c == nil && !yield(t.shape.pieceRange(int64(i))) {
				return
			}
		}
	}
}

// PieceHash returns the hash of piece i, or false if it is not known or there is no such piece.
func (t *Tree) PieceHash(i int64) (Hash, bool) {
	if i < 0 || i >= t.shape.NumPieces() {
		return Hash{}, false
	}
	if t.chunks == nil {
		return t.root, true
	}
	c := t.chunks[i>>t.shape.chunkUp()]
	if c == nil {
		return Hash{}, false
	}
	return Hash(c[i&(t.shape.chunkLen()-1)*HashBytes:]), true
}

// AppendLayer appends the whole piece layer, as it stands in a .torrent, or nothing if it is not complete.
func (t *Tree) AppendLayer(dst []byte) []byte {
	switch {
	case !t.Complete():
	case t.chunks == nil:
		dst = append(dst, t.root[:]...)
	default:
		for _, c := range t.chunks {
			dst = append(dst, c...)
		}
	}
	return dst
}

// Verify checks hashes that came for a range: those of the base layer, then the uncles from there upwards. They must lead to the root, or to the
// hash of a piece that is known. The errors are [ErrRange], [ErrUnknown] if the range does not lead that far, and [ErrMismatch], which is
// whoever sent the hashes' fault. It allocates only for errors.
func (t *Tree) Verify(r Range, hashes []byte) error {
	if err := t.shape.Check(r); err != nil {
		return err
	}
	if len(hashes) != r.NumHashes()*HashBytes {
		return fmt.Errorf("%w: %d bytes of hashes: want %d hashes", ErrMismatch, len(hashes), r.NumHashes())
	}
	base, up := int(r.Base), r.up()
	top := base + up + r.Uncles()
	var want Hash
	switch top {
	case t.shape.Height():
		want = t.root
	case t.shape.PieceLayer():
		var ok bool
		if want, ok = t.PieceHash(int64(r.Index) >> (top - base)); !ok {
			return fmt.Errorf("%w: the piece's own", ErrUnknown)
		}
	default:
		return fmt.Errorf("%w: the proof ends in layer %d", ErrUnknown, top)
	}
	given, uncles := hashes[:r.Length*HashBytes], hashes[r.Length*HashBytes:]
	filled := given
	if n := t.shape.Len(base) - int64(r.Index); n < int64(r.Length) {
		filled = given[:n*HashBytes]
		for rest := given[n*HashBytes:]; len(rest) > 0; rest = rest[HashBytes:] {
			if Hash(rest) != pads[base] {
				return fmt.Errorf("%w: a hash beyond the file's end is no padding", ErrMismatch)
			}
		}
	}
	if Climb(Fold(filled, base, up), int64(r.Index)>>up, uncles) != want {
		return ErrMismatch
	}
	return nil
}

// Add verifies hashes as [Tree.Verify] does, and keeps those of the piece layer: the range must be one that [Tree.Missing] or [Shape.PieceRanges]
// yields. Leaves are not kept: once verified, they are the caller's to compare blocks with.
func (t *Tree) Add(r Range, hashes []byte) error {
	if err := t.Verify(r, hashes); err != nil {
		return err
	}
	if int(r.Base) != t.shape.PieceLayer() {
		return nil
	}
	i := int64(r.Index) >> t.shape.chunkUp()
	if r != t.shape.pieceRange(i) {
		return fmt.Errorf("%w: hashes %d+%d of the piece layer were never missing", ErrRange, r.Index, r.Length)
	}
	if t.chunks[i] != nil {
		return nil
	}
	n := min(int64(r.Length), t.shape.NumPieces()-int64(r.Index))
	t.chunks[i] = slices.Clone(hashes[:n*HashBytes])
	if t.unknown--; t.unknown == 0 && t.buildUpper() != t.root {
		panic("merkle: chunks that were proven lead to another root")
	}
	return nil
}

// NeedsLeaves returns the piece whose blocks' hashes are needed to answer a range; false if none are, or the range makes no sense.
func (t *Tree) NeedsLeaves(r Range) (piece int64, ok bool) {
	if t.shape.Check(r) != nil || int(r.Base) >= t.shape.PieceLayer() {
		return 0, false
	}
	return int64(r.Index) >> t.shape.pieceLayer, true
}

// AppendHashes appends the answer to a range: its hashes, padding where it reaches beyond the file, and the uncles. As BEP 52 asks, the base layer
// may be the piece layer or that of the leaves; in the latter the range lies within one piece, and leaves are the hashes of all of that piece's
// blocks: see [Tree.NeedsLeaves]. The errors are [ErrRange], [ErrUnknown] for a tree that is not complete, and [ErrMismatch] for leaves that are not the
// piece's; dst is then returned as it was.
func (t *Tree) AppendHashes(dst []byte, r Range, leaves []byte) ([]byte, error) {
	if err := t.shape.Check(r); err != nil {
		return dst, err
	}
	s := t.shape
	base, pieceLayer := int(r.Base), s.PieceLayer()
	if !t.Complete() {
		return dst, ErrUnknown
	}
	piece := int64(0)
	switch {
	case base == pieceLayer:
	case base != 0 || r.Length > 1<<pieceLayer:
		return dst, fmt.Errorf("%w: %d hashes of layer %d are neither of the piece layer nor the leaves of one piece", ErrRange, r.Length, base)
	default:
		piece = int64(r.Index) >> pieceLayer
		if len(leaves) != s.PieceLeaves(piece)*HashBytes {
			return dst, fmt.Errorf("%w: %d bytes of leaves: piece %d has %d", ErrMismatch, len(leaves), piece, s.PieceLeaves(piece))
		}
		if h, ok := t.PieceHash(piece); !ok || Fold(leaves, 0, pieceLayer) != h {
			return dst, fmt.Errorf("%w: leaves that are not those of piece %d", ErrMismatch, piece)
		}
	}
	for i := int64(r.Index); i < int64(r.Index)+int64(r.Length); i++ {
		h := t.node(base, i, piece, leaves)
		dst = append(dst, h[:]...)
	}
	at := int64(r.Index) >> r.up()
	for layer := base + r.up(); layer < base+r.up()+r.Uncles(); layer++ {
		h := t.node(layer, at^1, piece, leaves)
		dst = append(dst, h[:]...)
		at >>= 1
	}
	return dst, nil
}

// node returns node i of a layer below the root of a complete tree. Below the piece layer it must lie in the piece that has the given leaves.
func (t *Tree) node(layer int, i, piece int64, leaves []byte) Hash {
	s := t.shape
	if i >= s.Len(layer) {
		return pads[layer]
	}
	if layer < s.PieceLayer() {
		return Fold(part(leaves, i<<layer-piece<<s.pieceLayer, 1<<layer), 0, layer)
	}
	up := layer - s.PieceLayer()
	if up < s.chunkUp() {
		first := i << up
		return Fold(part(t.chunks[first>>s.chunkUp()], first&(s.chunkLen()-1), 1<<up), s.PieceLayer(), up)
	}
	return Hash(t.upper[up-s.chunkUp()][i*HashBytes:])
}

// part returns up to n hashes from number i on.
func part(hashes []byte, i, n int64) []byte {
	return hashes[i*HashBytes : min((i+n)*HashBytes, int64(len(hashes)))]
}
