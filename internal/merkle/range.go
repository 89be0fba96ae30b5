package merkle

import (
	"errors"
	"fmt"
	"iter"
)

// Limits of a [Range].
const (
	// MaxLength is the longest Range that makes sense to this package: what libtorrent 2.0 answers at most. It lets the blocks of pieces of
	// 128 MiB be asked for at once.
	MaxLength = 8192
	// AskLength is the longest Range that is asked for: BEP 52, "length SHOULD NOT be greater than 512".
	AskLength = 512
)

// What is wrong with a range, or with the hashes that came for it.
var (
	// ErrRange: the range is none of this tree, or one that is not served.
	ErrRange = errors.New("merkle: bad range of hashes")
	// ErrMismatch: the hashes do not lead to the one that is known.
	ErrMismatch = errors.New("merkle: hashes do not match the tree")
	// ErrUnknown: the tree does not know enough.
	ErrUnknown = errors.New("merkle: hashes not known yet")
)

// Range names hashes of one layer of a tree, and how much of the way to the root proves them (BEP 52, "hash request").
type Range struct {
	Base   uint32 // their layer; 0 is the leaves
	Index  uint32 // the first of them; a multiple of Length
	Length uint32 // how many; a power of two, at least 2
	Proof  uint32 // how many layers above the base are proven; those that follow from the hashes themselves count
}

// Check reports what is wrong with a range whatever the tree, as [ErrRange]. What it lets pass is bounded in all fields.
func (r Range) Check() error {
	switch {
	case r.Length < 2 || r.Length > MaxLength || r.Length&(r.Length-1) != 0:
		return fmt.Errorf("%w: %d hashes: want a power of two from 2 to %d", ErrRange, r.Length, MaxLength)
	case r.Index%r.Length != 0:
		return fmt.Errorf("%w: index %d is no multiple of length %d", ErrRange, r.Index, r.Length)
	case r.Base >= maxHeight || r.Proof >= maxHeight:
		return fmt.Errorf("%w: base layer %d with %d proof layers: no tree is that high", ErrRange, r.Base, r.Proof)
	}
	return nil
}

// up returns how many layers above the base the hashes themselves lead.
func (r Range) up() int { return log2(int64(r.Length)) }

// Uncles returns how many hashes follow those of the base layer: the siblings on the way up from where those lead.
func (r Range) Uncles() int { return max(0, int(r.Proof)-r.up()+1) }

// NumHashes returns how many hashes answer the range in all. The range must have passed [Range.Check].
func (r Range) NumHashes() int { return int(r.Length) + r.Uncles() }

// Check reports whether a range makes sense for the tree: [ErrRange] if not.
func (s Shape) Check(r Range) error {
	if err := r.Check(); err != nil {
		return err
	}
	base := int(r.Base)
	switch {
	case base >= s.Height():
		return fmt.Errorf("%w: base layer %d of a tree of height %d", ErrRange, base, s.height)
	case int64(r.Index)+int64(r.Length) > 1<<(s.Height()-base) || int64(r.Index) >= s.Len(base):
		return fmt.Errorf("%w: hashes %d+%d of a layer of %d", ErrRange, r.Index, r.Length, s.Len(base))
	case int(r.Proof) >= s.Height()-base:
		return fmt.Errorf("%w: %d proof layers, but %d lie between base layer and root", ErrRange, r.Proof, s.Height()-base-1)
	}
	return nil
}

// pieceRange returns the range of the piece layer that holds chunk i, proven up to the root.
func (s Shape) pieceRange(i int64) Range {
	n := s.chunkLen()
	return Range{Base: uint32(s.pieceLayer), Index: uint32(i * n), Length: uint32(n), Proof: uint32(s.height - s.pieceLayer - 1)}
}

// PieceRanges yields what to ask for to know the piece layer, proven up to the root. There is nothing to ask for in the tree of a file that is
// no longer than a piece.
func (s Shape) PieceRanges() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for i := range s.numChunks() {
			if !yield(s.pieceRange(i)) {
				return
			}
		}
	}
}

// LeafRanges yields what to ask for to know the hashes of the blocks of piece i, proven up to the piece's hash, so that one can tell which
// of its blocks is bad. There is nothing to ask for if pieces are one block long, or this one's tree is; blocks whose number exceeds 32 bits,
// beyond 64 TiB into a file, cannot be asked for.
func (s Shape) LeafRanges(i int64) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		if s.pieceLayer == 0 {
			return
		}
		n := int64(min(1<<s.pieceLayer, AskLength))
		first := i << s.pieceLayer
		for at := first; at < first+int64(s.PieceLeaves(i)) && at>>32 == 0; at += n {
			if !yield(Range{Index: uint32(at), Length: uint32(n), Proof: uint32(s.pieceLayer - 1)}) {
				return
			}
		}
	}
}
