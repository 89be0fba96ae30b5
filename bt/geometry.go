package bt

import (
	"cmp"
	"fmt"
	"slices"
)

// Limits of a torrent's geometry: what this project accepts from a .torrent or from peers.
const (
	// MaxPieceBytes is the largest piece length accepted, 256 MiB; the largest in the wild is 64 MiB.
	MaxPieceBytes = 256 << 20
	// MaxPieces is the largest number of pieces accepted; its hashes take 80 MiB.
	MaxPieces = 4 << 20
)

// Geometry relates the byte range of a torrent to its pieces and blocks. The zero Geometry means "not
// known yet" (a magnet before its metadata). It is a value; copy it freely.
//
// Where pieces belong to one file each (BEP 52), a file's last piece ends with the file, and padding fills the rest of its
// place: such pieces are short, see [Geometry.WithShort].
type Geometry struct {
	TotalBytes int64  // sum of all files' lengths, padding included
	PieceBytes uint32 // nominal piece length; the last piece may be shorter

	short *shortPieces // nil if there are none
}

// ShortPiece is a piece whose content ends before its place does; the rest is padding.
type ShortPiece struct {
	Index PieceIndex
	Bytes uint32 // of content, at least 1
}

// shortPieces are the short pieces in order, and how many bytes of padding all of them have. tail is how many zeros behind the end of the torrent
// others may ask for.
type shortPieces struct {
	list    []ShortPiece
	padding int64
	tail    uint32
}

// WithTail returns g with zeros behind the end of the torrent, up to the end of its last piece's place, that others may ask for as they may for the
// padding behind other short pieces: libtorrent 2.0.8 does in v2 torrents.
func (g Geometry) WithTail() Geometry {
	last := g.NumPieces() - 1
	if last < 0 || g.PieceSpan(PieceIndex(last)) == g.PieceBytes {
		return g
	}
	s := shortPieces{}
	if g.short != nil {
		s = *g.short
	}
	s.tail = g.PieceBytes - g.PieceSpan(PieceIndex(last))
	g.short = &s
	return g
}

// WithShort returns g with short pieces, which are in order and shorter than their place. The list is kept and must not change.
func (g Geometry) WithShort(list []ShortPiece) Geometry {
	g.short = nil
	if len(list) == 0 {
		return g
	}
	s := &shortPieces{list: list}
	for i, p := range list {
		room := g.PieceSpan(p.Index)
		if p.Bytes < 1 || p.Bytes >= room || i > 0 && p.Index <= list[i-1].Index {
			panic(fmt.Sprintf("bt: short piece %d of %d bytes, number %d of the list, in a place of %d", p.Index, p.Bytes, i, room))
		}
		s.padding += int64(room - p.Bytes)
	}
	g.short = s
	return g
}

// ContentBytes returns the bytes of all pieces' content: TotalBytes without the padding behind short pieces.
func (g Geometry) ContentBytes() int64 {
	if g.short == nil {
		return g.TotalBytes
	}
	return g.TotalBytes - g.short.padding
}

// NewGeometry returns the geometry of a torrent of total bytes in pieces of pieceBytes, or an error
// if the two are out of range. A torrent of 0 bytes has no pieces.
func NewGeometry(total, pieceBytes int64) (Geometry, error) {
	if pieceBytes < 1 || pieceBytes > MaxPieceBytes {
		return Geometry{}, fmt.Errorf("piece length %d: want 1 to %d bytes", pieceBytes, MaxPieceBytes)
	}
	if total < 0 || total > MaxPieces*pieceBytes {
		return Geometry{}, fmt.Errorf("total length %d in pieces of %d bytes: want at most %d pieces", total, pieceBytes, MaxPieces)
	}
	return Geometry{TotalBytes: total, PieceBytes: uint32(pieceBytes)}, nil
}

// Known reports whether g describes a torrent, rather than one whose metadata is still to come.
func (g Geometry) Known() bool { return g.PieceBytes != 0 }

// NumPieces returns the number of pieces; 0 if unknown.
func (g Geometry) NumPieces() int {
	if g.PieceBytes == 0 {
		return 0
	}
	return int((g.TotalBytes + int64(g.PieceBytes) - 1) / int64(g.PieceBytes))
}

// BytesOf returns the bytes of content that a set of n pieces has.
func (g Geometry) BytesOf(n int, has func(i int) bool) int64 {
	bytes := int64(n) * int64(g.PieceBytes)
	if last := g.NumPieces() - 1; last >= 0 && has(last) {
		bytes -= int64(g.PieceBytes) - int64(g.PieceSpan(PieceIndex(last)))
	}
	if g.short != nil {
		for _, p := range g.short.list {
			if has(int(p.Index)) {
				bytes -= int64(g.PieceSpan(p.Index) - p.Bytes)
			}
		}
	}
	return bytes
}

// PieceLen returns the length of piece i in bytes, without padding if it is short; 0 if there is no such piece.
func (g Geometry) PieceLen(i PieceIndex) uint32 {
	if g.short != nil {
		at, ok := slices.BinarySearchFunc(g.short.list, i, func(p ShortPiece, i PieceIndex) int { return cmp.Compare(p.Index, i) })
		if ok {
			return g.short.list[at].Bytes
		}
	}
	return g.PieceSpan(i)
}

// PieceSpan returns the bytes that piece i takes of the torrent's byte range, padding included; 0 if there is no such piece.
func (g Geometry) PieceSpan(i PieceIndex) uint32 {
	start := g.PieceStart(i)
	if g.PieceBytes == 0 || start >= g.TotalBytes {
		return 0
	}
	return uint32(min(int64(g.PieceBytes), g.TotalBytes-start))
}

// PieceStart returns the offset of piece i in the torrent.
func (g Geometry) PieceStart(i PieceIndex) int64 { return int64(i) * int64(g.PieceBytes) }

// NumBlocks returns the number of blocks of piece i, 0 if there is no such piece.
func (g Geometry) NumBlocks(i PieceIndex) int {
	return int((int64(g.PieceLen(i)) + BlockBytes - 1) / BlockBytes)
}

// Block returns block n of piece i, as this project requests it. i and n must be in range.
func (g Geometry) Block(i PieceIndex, n int) Block {
	begin := uint32(n) * BlockBytes
	return Block{Index: i, Begin: begin, Length: min(BlockBytes, g.PieceLen(i)-begin)}
}

// Contains reports whether b lies within the torrent and is not empty. The padding behind a short piece is part of the torrent: clients that
// know a hybrid in its v1 form ask for it, and libtorrent does even if there is none.
func (g Geometry) Contains(b Block) bool {
	room := uint64(g.PieceSpan(b.Index))
	if g.short != nil && int64(b.Index) == int64(g.NumPieces())-1 {
		room += uint64(g.short.tail)
	}
	return b.Length > 0 && uint64(b.Begin)+uint64(b.Length) <= room
}

// Offset returns the offset of b in the torrent.
func (g Geometry) Offset(b Block) int64 { return g.PieceStart(b.Index) + int64(b.Begin) }
