// Package bt holds the nouns of BitTorrent that every other package shares: info-hashes, peer IDs,
// pieces, blocks, and the arithmetic that relates them. It decides nothing and does no I/O.
package bt

import (
	"encoding/base32"
	"encoding/hex"
	"fmt"
)

// BlockBytes is the unit in which pieces are requested: 16 KiB (BEP 3, as deployed).
const BlockBytes = 16 << 10

// HashBytes is the length of a SHA-1 hash, hence of a v1 info-hash and of one entry of "pieces" (BEP 3).
const HashBytes = 20

// InfoHash is the 20-byte info-hash as it stands in a BEP 3 handshake.
type InfoHash [HashBytes]byte

// String returns the info-hash as 40 lower-case hexadecimal digits.
func (h InfoHash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h is all zero, which no torrent's info-hash is.
func (h InfoHash) IsZero() bool { return h == InfoHash{} }

// ParseInfoHash reads an info-hash written as 40 hexadecimal digits or 32 base32 characters
// (BEP 9, "magnet URI format"), in either case.
func ParseInfoHash(s string) (InfoHash, error) {
	var h InfoHash
	switch len(s) {
	case 2 * HashBytes:
		if _, err := hex.Decode(h[:], []byte(s)); err != nil {
			return InfoHash{}, fmt.Errorf("info-hash %q: not hexadecimal", s)
		}
		return h, nil
	case 32:
		up := []byte(s)
		for i, c := range up {
			if 'a' <= c && c <= 'z' {
				up[i] = c - 'a' + 'A'
			}
		}
		if n, err := base32.StdEncoding.Decode(h[:], up); err != nil || n != HashBytes {
			return InfoHash{}, fmt.Errorf("info-hash %q: not base32", s)
		}
		return h, nil
	}
	return InfoHash{}, fmt.Errorf("info-hash %q: want 40 hexadecimal digits or 32 base32 characters, got %d characters", s, len(s))
}

// PeerID is the 20-byte peer ID of a BEP 3 handshake.
type PeerID [20]byte

// String returns the peer ID as 40 lower-case hexadecimal digits; see [ClientName] for people.
func (id PeerID) String() string { return hex.EncodeToString(id[:]) }

// PieceIndex numbers the pieces of a torrent from 0.
type PieceIndex uint32

// Block is a range of one piece, in the terms of BEP 3's request message. Requests of this project
// are aligned to [BlockBytes]; those of peers need not be.
type Block struct {
	Index  PieceIndex
	Begin  uint32 // offset in the piece, bytes
	Length uint32 // bytes
}

// String returns the block as index/begin+length.
func (b Block) String() string { return fmt.Sprintf("%d/%d+%d", b.Index, b.Begin, b.Length) }
