// Package merkle holds the hash trees of BitTorrent v2 (BEP 52): one binary tree of SHA-256 hashes for each file, whose leaves are the hashes of
// the file's 16 KiB blocks.
//
//	layer 2, the root          r
//	                       /       \
//	layer 1              p0         p1         the piece layer, if pieces are 32 KiB long
//	                    /  \       /  \
//	layer 0, leaves   b0    b1   b2    0       one for each block; what a full tree lacks is zero
//
// A file that is no longer than a piece has no piece layer of its own: its root, over no more leaves than it needs, is its one piece's hash.
// In this package that root counts as its piece layer, so that all files read alike.
//
// The package says what a tree looks like ([Shape]), what a request for hashes means and whether it makes sense ([Range]), and keeps what is
// known of one tree ([Tree]): hashes that strangers send are believed once they lead to a hash that is. It reads no data, decides
// neither whom to ask nor what to serve, and uses one core; whoever hashes files calls it from as many goroutines as there are cores.
//
// Hashes in a row stand in a []byte, [HashBytes] each, as they do in a .torrent and in messages.
package merkle

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"github.com/parley-bt/parley/bt"
)

// HashBytes is the length of a hash in a tree.
const HashBytes = sha256.Size

// Hash is a node of a tree.
type Hash = [HashBytes]byte

// maxHeight is the height of the tree of the largest file there can be: 2^50 bytes in blocks of 2^14.
const maxHeight = 36

// maxFileBytes is as much as bt's largest torrent has.
const maxFileBytes = bt.MaxPieces * bt.MaxPieceBytes

var pads = func() (p [maxHeight + 1]Hash) {
	for i := range maxHeight {
		p[i+1] = Parent(&p[i], &p[i])
	}
	return p
}()

// Pad returns the hash, in the given layer, of a node that has only zero leaves below it: what stands for data beyond the file's end.
func Pad(layer int) Hash { return pads[layer] }

// Leaf returns the hash of one block.
func Leaf(block []byte) Hash { return sha256.Sum256(block) }

// Parent returns the hash of the node above two.
func Parent(left, right *Hash) Hash {
	var b [2 * HashBytes]byte
	copy(b[:], left[:])
	copy(b[HashBytes:], right[:])
	return sha256.Sum256(b[:])
}

// Folder takes the hashes of a layer one by one and keeps no more than one for each layer above. The zero Folder has none; to begin
// again, assign it.
type Folder struct {
	// stack[l] is a left child, l layers up, that waits for its right one. The bits of n say which there are.
	stack [maxHeight + 1]Hash
	n     int64
}

// Add takes the next hash.
func (f *Folder) Add(h *Hash) {
	l := 0
	top := *h
	for ; f.n>>l&1 == 1; l++ {
		top = Parent(&f.stack[l], &top)
	}
	f.stack[l] = top
	f.n++
}

// Sum returns the hash that lies up layers above those added, which stand in the given layer; beyond them is padding. It panics if more than
// 1<<up were added.
func (f *Folder) Sum(layer, up int) Hash {
	if f.n > 1<<up {
		panic(fmt.Sprintf("merkle: %d hashes below a node that has %d", f.n, 1<<up))
	}
	if f.n == 1<<up {
		return f.stack[up]
	}
	// last is the node behind the complete ones of its layer: with some hashes below it, or all padding.
	last, some := pads[layer], false
	for l := range up {
		switch {
		case f.n>>l&1 == 1:
			last, some = Parent(&f.stack[l], &last), true
		case some:
			last = Parent(&last, &pads[layer+l])
		default:
			last = pads[layer+l+1]
		}
	}
	return last
}

// Fold returns the hash that lies up layers above hashes, which are the first of its 1<<up descendants in the given layer; those that are not
// given are padding. There must not be more.
func Fold(hashes []byte, layer, up int) Hash {
	var f Folder
	for ; len(hashes) >= HashBytes; hashes = hashes[HashBytes:] {
		f.Add((*Hash)(hashes))
	}
	return f.Sum(layer, up)
}

// Climb returns the hash that one leads to: h is node number index of its layer, and uncles are the siblings of it and its ancestors from there
// upwards.
func Climb(h Hash, index int64, uncles []byte) Hash {
	for ; len(uncles) >= HashBytes; uncles = uncles[HashBytes:] {
		if u := (*Hash)(uncles); index&1 == 0 {
			h = Parent(&h, u)
		} else {
			h = Parent(u, &h)
		}
		index >>= 1
	}
	return h
}

// VerifyBlock reports whether a block is number i of the piece, or of any other node, that has the given hash, where uncles are the siblings on the
// way there: the neighbouring block's hash first.
func VerifyBlock(block []byte, i int64, uncles []byte, hash Hash) bool {
	return Climb(Leaf(block), i, uncles) == hash
}

// Shape is the form of one file's tree. The zero Shape is of no use: see [NewShape].
type Shape struct {
	leaves     int64
	height     int8
	pieceLayer int8
}

// NewShape returns the form of the tree of a file. A file without bytes has none; pieces are a power of two long, of a block at least.
func NewShape(fileBytes, pieceBytes int64) (Shape, error) {
	if fileBytes < 1 || fileBytes > maxFileBytes {
		return Shape{}, fmt.Errorf("merkle: a file of %d bytes: want 1 to %d", fileBytes, int64(maxFileBytes))
	}
	if pieceBytes < bt.BlockBytes || pieceBytes > bt.MaxPieceBytes || pieceBytes&(pieceBytes-1) != 0 {
		return Shape{}, fmt.Errorf("merkle: pieces of %d bytes: want a power of two from %d to %d", pieceBytes, bt.BlockBytes, bt.MaxPieceBytes)
	}
	s := Shape{leaves: (fileBytes + bt.BlockBytes - 1) / bt.BlockBytes}
	s.height = int8(log2(s.leaves))
	s.pieceLayer = min(int8(log2(pieceBytes/bt.BlockBytes)), s.height)
	return s, nil
}

// log2 returns the logarithm of n, which is at least 1, rounded up.
func log2(n int64) int { return bits.Len64(uint64(n - 1)) }

// Leaves returns the number of blocks.
func (s Shape) Leaves() int64 { return s.leaves }

// Height returns the layer of the root.
func (s Shape) Height() int { return int(s.height) }

// PieceLayer returns the layer that has one hash for each piece.
func (s Shape) PieceLayer() int { return int(s.pieceLayer) }

// Len returns how many hashes of a layer cover some of the file, rather than padding alone.
func (s Shape) Len(layer int) int64 { return (s.leaves + 1<<layer - 1) >> layer }

// NumPieces returns how many pieces the file has.
func (s Shape) NumPieces() int64 { return s.Len(s.PieceLayer()) }

// PieceLeaves returns the number of blocks of piece i, which must be one of the file's.
func (s Shape) PieceLeaves(i int64) int {
	return int(min(1<<s.pieceLayer, s.leaves-i<<s.pieceLayer))
}

// HashPiece returns the hash of one piece's data, which is all of it. It allocates nothing.
func (s Shape) HashPiece(data []byte) Hash {
	var f Folder
	for len(data) > 0 {
		n := min(len(data), bt.BlockBytes)
		h := Leaf(data[:n])
		f.Add(&h)
		data = data[n:]
	}
	return f.Sum(0, s.PieceLayer())
}

// Root returns the root over the whole piece layer, which has [Shape.NumPieces] hashes.
func (s Shape) Root(layer []byte) Hash {
	return Fold(layer, s.PieceLayer(), s.Height()-s.PieceLayer())
}
