// Package resume writes and reads what a download remembers between runs: which pieces were verified, and how the files
// looked at that time. It decides the format, what of it is believed, and whether a file has changed since. It does not
// touch the disk, and it does not decide when to save: package storage does.
//
// # Format
//
// All numbers are big-endian. A file is a base, which is replaced as a whole, and a journal of records behind it, which
// grows until the next base:
//
//	base     8  "parley\x00\x01", the last byte is the version
//	         1  flags: 1 = closed
//	        20  info-hash
//	         8  total length of the torrent   4  piece length
//	         8  when it was saved, nanoseconds since 1970
//	         4  number of files
//	         n  verified pieces, as the bitfield of BEP 3
//	      17×f  for each file:  1 state   8 size   8 modification time
//	        32  SHA-256 of all of the above
//	record   1  kind: 1 piece, 2 activity
//	         4  piece (0 for activity)        8  when, nanoseconds since 1970
//	         4  CRC-32C over the base's SHA-256 and the 13 bytes before
//
// The base claims pieces that are on disk for good. A record names a piece that was verified later and may not have
// reached the disk: it is a hint what to hash again, and never believed by itself. The first record that does not check
// ends the journal, so what a crash left half written is ignored.
//
// The checksums find accidents. They are no defence against somebody who can write to the folder, who could change the
// content as well; what is claimed and wrong is found by whoever receives it.
package resume

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

// Limits of what is parsed; files beyond them are not read.
const (
	// MaxFiles is the largest number of files of a torrent whose resume data is kept.
	MaxFiles = 1 << 20
	// MaxRecords bounds the journal; a base is due long before.
	MaxRecords = bt.MaxPieces
)

// RecordBytes is the length of a record.
const RecordBytes = 17

const (
	fixedBytes = 8 + 1 + bt.HashBytes + 8 + 4 + 8 + 4
	fileBytes  = 17
	flagClosed = 1
)

const magic = "parley\x00\x01"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// State is where a file stood on disk.
type State uint8

// The states of a file.
const (
	Missing State = iota // not on disk
	Part                 // incomplete, under its part name
	Final                // complete, under its own name
)

// File is how a file of the torrent looked on disk. Files that are missing have neither size nor time.
type File struct {
	State State
	Size  int64 // bytes
	MTime int64 // nanoseconds since 1970
}

// Data is what is remembered about one torrent.
type Data struct {
	InfoHash bt.InfoHash
	Geometry bt.Geometry
	Closed   bool          // nothing was written to any file after Files was taken, not even unclaimed pieces
	SavedAt  time.Time     // when Files was taken
	Have     *bitfield.Set // pieces that are verified and on disk
	Files    []File        // in the torrent's order, without padding

	// What the journal adds; Append leaves it out.

	Journal    []bt.PieceIndex // verified after the base was saved; to be hashed again
	LastActive time.Time       // the last time something was about to be written, or had been
}

// ErrFormat is what every error of [Parse] about damaged or foreign data is.
var ErrFormat = errors.New("resume data not usable")

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// BaseBytes returns the length of the base of a torrent of geom with so many files.
func BaseBytes(geom bt.Geometry, files int) int {
	return fixedBytes + bitfield.Bytes(geom.NumPieces()) + files*fileBytes + sha256.Size
}

// MaxBytes returns how long the resume data of a torrent of geom with so many files can be; what is longer is not ours.
func MaxBytes(geom bt.Geometry, files int) int64 {
	return int64(BaseBytes(geom, files)) + MaxRecords*RecordBytes
}

// Salt binds the records of a journal to their base: records of another base do not check.
type Salt [sha256.Size]byte

// Append appends the base of d to dst and returns the salt of the records that may follow. d.Have must be as long as the
// geometry has pieces.
func Append(dst []byte, d *Data) ([]byte, Salt) {
	start := len(dst)
	dst = append(dst, magic...)
	var flags byte
	if d.Closed {
		flags |= flagClosed
	}
	dst = append(dst, flags)
	dst = append(dst, d.InfoHash[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.Geometry.TotalBytes))
	dst = binary.BigEndian.AppendUint32(dst, d.Geometry.PieceBytes)
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.SavedAt.UnixNano()))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(d.Files)))
	dst = d.Have.AppendWire(dst)
	for _, f := range d.Files {
		dst = append(dst, byte(f.State))
		dst = binary.BigEndian.AppendUint64(dst, uint64(f.Size))
		dst = binary.BigEndian.AppendUint64(dst, uint64(f.MTime))
	}
	salt := Salt(sha256.Sum256(dst[start:]))
	return append(dst, salt[:]...), salt
}

// The kinds of records.
const (
	kindPiece    = 1
	kindActivity = 2
)

// AppendPiece appends the record that piece i was verified at the time given.
func AppendPiece(dst []byte, salt Salt, i bt.PieceIndex, at time.Time) []byte {
	return appendRecord(dst, salt, kindPiece, uint32(i), at)
}

// AppendActivity appends the record that something is about to be written, at the time given.
func AppendActivity(dst []byte, salt Salt, at time.Time) []byte {
	return appendRecord(dst, salt, kindActivity, 0, at)
}

func appendRecord(dst []byte, salt Salt, kind byte, i uint32, at time.Time) []byte {
	start := len(dst)
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint32(dst, i)
	dst = binary.BigEndian.AppendUint64(dst, uint64(at.UnixNano()))
	return binary.BigEndian.AppendUint32(dst, recordSum(salt, dst[start:]))
}

func recordSum(salt Salt, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(salt[:], castagnoli), castagnoli, b)
}

// Parse reads the resume data of the torrent ih, which has geom and so many files (without padding). It returns the salt
// and the length of what it understood, where further records go. Every error is [ErrFormat]: there is no resume data
// then, and everything is to be verified. Memory is bounded by the geometry and by b.
func Parse(b []byte, ih bt.InfoHash, geom bt.Geometry, files int) (d *Data, salt Salt, length int, err error) {
	if files > MaxFiles {
		return nil, salt, 0, formatError("%d files, the limit is %d", files, MaxFiles)
	}
	n := BaseBytes(geom, files)
	switch {
	case len(b) < n:
		return nil, salt, 0, formatError("%d bytes, want at least %d", len(b), n)
	case string(b[:len(magic)]) != magic:
		return nil, salt, 0, formatError("it is of another kind or version")
	case sha256.Sum256(b[:n-sha256.Size]) != [sha256.Size]byte(b[n-sha256.Size:n]):
		return nil, salt, 0, formatError("its checksum is wrong")
	}
	salt = Salt(b[n-sha256.Size : n])
	d = &Data{Geometry: geom}
	r := b[len(magic):n]
	flags := r[0]
	r = r[1:]
	d.Closed = flags&flagClosed != 0
	r = r[copy(d.InfoHash[:], r):]
	total, pieceBytes := binary.BigEndian.Uint64(r), binary.BigEndian.Uint32(r[8:])
	d.SavedAt = time.Unix(0, int64(binary.BigEndian.Uint64(r[12:])))
	count := binary.BigEndian.Uint32(r[20:])
	r = r[24:]
	switch {
	case flags&^flagClosed != 0:
		return nil, salt, 0, formatError("unknown flags %#x", flags)
	case d.InfoHash != ih:
		return nil, salt, 0, formatError("it belongs to torrent %v", d.InfoHash)
	case total != uint64(geom.TotalBytes) || pieceBytes != geom.PieceBytes || uint64(count) != uint64(files):
		return nil, salt, 0, formatError("the torrent has another shape")
	}
	bits := bitfield.Bytes(geom.NumPieces())
	if d.Have, err = bitfield.Parse(r[:bits], geom.NumPieces()); err != nil {
		return nil, salt, 0, formatError("%v", err)
	}
	r = r[bits:]
	d.Files = make([]File, files)
	for i := range d.Files {
		f := File{State(r[0]), int64(binary.BigEndian.Uint64(r[1:])), int64(binary.BigEndian.Uint64(r[9:]))}
		if f.State > Final || f.Size < 0 {
			return nil, salt, 0, formatError("file %d has state %d and %d bytes", i, f.State, f.Size)
		}
		d.Files[i] = f
		r = r[fileBytes:]
	}
	d.LastActive = d.SavedAt
	return d, salt, n + d.readJournal(b[n:], salt), nil
}

// readJournal takes in the records in b up to the first that does not check, and returns their length.
func (d *Data) readJournal(b []byte, salt Salt) int {
	seen := bitfield.New(d.Geometry.NumPieces())
	used := 0
	for ; len(b)-used >= RecordBytes && used < MaxRecords*RecordBytes; used += RecordBytes {
		r := b[used : used+RecordBytes]
		if recordSum(salt, r[:RecordBytes-4]) != binary.BigEndian.Uint32(r[RecordBytes-4:]) {
			break
		}
		i := int64(binary.BigEndian.Uint32(r[1:]))
		if r[0] == kindPiece && i < int64(seen.Len()) && seen.Add(int(i)) {
			d.Journal = append(d.Journal, bt.PieceIndex(i))
		}
		if at := time.Unix(0, int64(binary.BigEndian.Uint64(r[5:]))); at.After(d.LastActive) {
			d.LastActive = at
		}
		d.Closed = false
	}
	return used
}

// Grace is how long after LastActive a part may have been modified by us: [ActivityEvery], and as long again for a slow disk.
const Grace = 2 * ActivityEvery

// ActivityEvery is how often activity must be recorded while files are written.
const ActivityEvery = time.Minute

// Unchanged reports whether file i, which looks like now, holds what it held when d was saved, but for what the journal names. What is
// complete is never written again, so it must look exactly as it did. A part of a run that did not end in good order may
// have come into being, have grown, and been modified as long as that run was active; the pieces that it held are still in it, since what
// is verified is not written again. After that time it was somebody else.
func (d *Data) Unchanged(i int, now File) bool {
	was := d.Files[i]
	same := was.Size == now.Size && was.MTime == now.MTime
	byUs := !d.Closed && !time.Unix(0, now.MTime).After(d.LastActive.Add(Grace))
	switch was.State {
	case Missing:
		return now.State == Missing || now.State == Part && byUs && !time.Unix(0, now.MTime).Before(d.SavedAt.Add(-Grace))
	case Part: // it may have got its name since
		return now.State >= Part && (same || byUs && now.Size >= was.Size && now.MTime >= was.MTime)
	}
	return now.State == Final && same
}
