package storage

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"hash"
	"math/bits"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/metainfo"
)

// ErrInconsistent: content is what one of a hybrid torrent's two descriptions says (BEP 52) and not what the other does. There is no content that
// is right, and whoever made the torrent is to blame.
var ErrInconsistent = errors.New("storage: the v1 and v2 hashes of this hybrid torrent belong to different content")

// Hashes are what the pieces of a torrent should hash to. They do not change while they are used.
type Hashes interface {
	// NumPieces returns how many pieces there are.
	NumPieces() int
	// Piece returns what piece i, one of the torrent's, should hash to. It may be called from several goroutines.
	Piece(i bt.PieceIndex) PieceHash
}

// PieceHash is what one piece should hash to in each description that the torrent has. At least one of V1 and V2 is set.
type PieceHash struct {
	V1 bool // has a SHA-1 hash (BEP 3)
	V2 bool // has a hash in a file's tree (BEP 52)
	// Unknown says that the hash in the tree has not been told yet: it is computed and not compared.
	Unknown bool
	Want    Sums
	// Padding is how many zeros behind the content the SHA-1 hash covers too.
	Padding uint32
	// Height is the layer of the hash in the tree: it covers 1<<Height blocks.
	Height uint8
}

// Sums are the hashes of one piece's content.
type Sums struct {
	V1 [bt.HashBytes]byte
	V2 [metainfo.TreeHashBytes]byte
}

// Check compares what content hashes to with what it should. The error is [ErrInconsistent].
func (p *PieceHash) Check(got *Sums) (right bool, err error) {
	v1, v2 := got.V1 == p.Want.V1, got.V2 == p.Want.V2
	switch {
	case !p.V2 || p.Unknown && p.V1:
		return v1, nil
	case p.Unknown:
		return false, nil
	case !p.V1:
		return v2, nil
	case v1 != v2:
		return false, ErrInconsistent
	}
	return v1, nil
}

// V1Hashes are the SHA-1 hashes of a v1 torrent's pieces, 20 bytes each: "pieces" of BEP 3.
type V1Hashes []byte

// NumPieces implements [Hashes]; it is -1 if there are bytes too many for so many hashes.
func (h V1Hashes) NumPieces() int {
	if len(h)%bt.HashBytes != 0 {
		return -1
	}
	return len(h) / bt.HashBytes
}

// Piece implements [Hashes]. Without any hashes it says what is to be computed, and nothing of the result.
func (h V1Hashes) Piece(i bt.PieceIndex) PieceHash {
	p := PieceHash{V1: true}
	if len(h) > 0 {
		p.Want.V1 = [bt.HashBytes]byte(h[int(i)*bt.HashBytes:])
	}
	return p
}

// HashesOf returns what the pieces of a torrent should hash to, by all descriptions that it has and that were read: see [metainfo.ParseV2]. A v2
// hash that is not in mi.PieceLayers is unknown. mi must not change while the result is in use.
func HashesOf(mi *metainfo.MetaInfo) Hashes {
	if !mi.Info.V2 {
		return V1Hashes(mi.Info.PieceHashes)
	}
	return torrentHashes{mi}
}

// torrentHashes are the hashes of a v2 or hybrid torrent.
type torrentHashes struct{ mi *metainfo.MetaInfo }

func (h torrentHashes) NumPieces() int { return h.mi.Info.NumPieces() }

func (h torrentHashes) Piece(i bt.PieceIndex) PieceHash {
	p := PlanOf(h.mi.Info, i)
	if p.V1 {
		p.Want.V1 = h.mi.Info.PieceHash(i)
	}
	want, ok := h.mi.PieceHashV2(i)
	p.Want.V2, p.Unknown = want, !ok
	return p
}

// PlanOf says which hashes piece i of a torrent with a v2 description has and how they are computed, without those themselves: the v2 one
// is unknown.
func PlanOf(info *metainfo.Info, i bt.PieceIndex) PieceHash {
	file, _ := info.FileOfPiece(i)
	blocks := (min(info.Files[file].Length, info.PieceLength) + bt.BlockBytes - 1) / bt.BlockBytes
	p := PieceHash{V1: info.Hybrid, V2: true, Unknown: true, Height: uint8(bits.Len64(uint64(blocks - 1)))}
	p.Padding = info.Geometry.PieceSpan(i) - info.Geometry.PieceLen(i)
	return p
}

// PieceHasher hashes one piece after the other, each from its bytes in order. The zero PieceHasher is ready for Reset. It belongs to one goroutine.
//
// Blocks of zeros cost next to nothing: pieces that are holes of a sparse file are nothing else.
type PieceHasher struct {
	want PieceHash

	sha1 hash.Hash
	// zeros counts the leading zeros of a piece that have not been hashed: if there is nothing else the sum depends on the length only.
	zeros    int64
	begun    bool
	zeroSums map[int64][bt.HashBytes]byte

	tree  merkle.Folder
	block hash.Hash // of a block that came in parts
	in    int       // bytes in it
}

// Reset begins a piece. Its content follows, without padding.
func (h *PieceHasher) Reset(want PieceHash) {
	h.want = want
	h.zeros, h.begun = 0, false
	if want.V1 {
		if h.sha1 == nil {
			h.sha1 = sha1.New()
		}
		h.sha1.Reset()
	}
	h.tree = merkle.Folder{}
	if h.in > 0 { // the last piece was given up
		h.block.Reset()
		h.in = 0
	}
}

// zeroBlock is what zeros are compared with; zeroLeaf is the hash of a whole block of them.
var (
	zeroBlock [32 << 10]byte
	zeroLeaf  = merkle.Leaf(zeroBlock[:bt.BlockBytes])
)

// Write takes the next bytes of the piece. The error is nil.
func (h *PieceHasher) Write(p []byte) (int, error) {
	if h.want.V1 {
		h.writeV1(p)
	}
	if h.want.V2 {
		h.writeV2(p)
	}
	return len(p), nil
}

func (h *PieceHasher) writeV1(p []byte) {
	if !h.begun {
		if allZero(p) {
			h.zeros += int64(len(p))
			return
		}
		h.hashZeros()
	}
	h.sha1.Write(p) // never fails
}

// hashZeros hashes the zeros held back.
func (h *PieceHasher) hashZeros() {
	writeZeros(h.sha1, h.zeros)
	h.begun = true
}

func writeZeros(w hash.Hash, n int64) {
	for n > 0 {
		some := min(n, int64(len(zeroBlock)))
		w.Write(zeroBlock[:some]) // never fails
		n -= some
	}
}

func (h *PieceHasher) writeV2(p []byte) {
	for len(p) > 0 {
		if h.in == 0 && len(p) >= bt.BlockBytes {
			leaf := zeroLeaf
			if !allZero(p[:bt.BlockBytes]) {
				leaf = merkle.Leaf(p[:bt.BlockBytes])
			}
			h.tree.Add(&leaf)
			p = p[bt.BlockBytes:]
			continue
		}
		if h.block == nil {
			h.block = sha256.New()
		}
		n := min(len(p), bt.BlockBytes-h.in)
		h.block.Write(p[:n]) // never fails
		p = p[n:]
		if h.in += n; h.in == bt.BlockBytes {
			h.endBlock()
		}
	}
}

func (h *PieceHasher) endBlock() {
	var leaf merkle.Hash
	h.block.Sum(leaf[:0])
	h.block.Reset()
	h.tree.Add(&leaf)
	h.in = 0
}

// Sums returns the hashes that the piece should have, once all of it has been written; the others are zero. No more than the piece's length may have
// been written.
func (h *PieceHasher) Sums() (s Sums) {
	if h.want.V1 {
		s.V1 = h.sumV1()
	}
	if h.want.V2 {
		if h.in > 0 {
			h.endBlock()
		}
		s.V2 = h.tree.Sum(0, int(h.want.Height))
	}
	return s
}

func (h *PieceHasher) sumV1() (sum [bt.HashBytes]byte) {
	if h.begun {
		writeZeros(h.sha1, int64(h.want.Padding))
		h.sha1.Sum(sum[:0])
		return sum
	}
	h.zeros += int64(h.want.Padding)
	if sum, ok := h.zeroSums[h.zeros]; ok {
		return sum
	}
	h.hashZeros()
	h.sha1.Sum(sum[:0])
	if h.zeroSums == nil {
		h.zeroSums = make(map[int64][bt.HashBytes]byte, 2) // the common length and the last piece's
	}
	h.zeroSums[h.zeros] = sum
	return sum
}

func allZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeroBlock))
		if !bytes.Equal(p[:n], zeroBlock[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
