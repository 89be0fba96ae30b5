package veil

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/parley-bt/parley/obfs"
)

// The sizes of records, bytes (EMP/1 section 4).
const (
	MaxRecordBody    = 65535
	MaxRecordPayload = MaxRecordBody - minRecordBody // of a record without padding

	// MaxRecordBytes is the longest record with its length field, one more than the most that an Opener holds.
	MaxRecordBytes = lenBytes + MaxRecordBody
)

const (
	lenBytes      = 2
	padlenBytes   = 2 // for which a Sealer uses obfs.Headroom
	minRecordBody = padlenBytes + sealBytes
	// recordBytes is what a record without padding has beside its payload.
	recordBytes = lenBytes + minRecordBody
)

// paddedRecords is how many records at the head of each direction we pad (EMP/1 section 4).
const paddedRecords = 4

// maxEmptyRecords is how many records in a row may come without payload (EMP/1 section 5).
const maxEmptyRecords = 16

// RecordError is a record that ends its direction of a session. It wraps [obfs.ErrRecord]. The receiver drains (EMP/1 section 5).
type RecordError struct {
	N      uint64 // which record, from 0
	Reason string // for people
}

// Error implements error.
func (e *RecordError) Error() string { return fmt.Sprintf("veil: record %d: %s", e.N, e.Reason) }

// Unwrap returns [obfs.ErrRecord].
func (e *RecordError) Unwrap() error { return obfs.ErrRecord }

// session is both directions of one side.
type session struct {
	opener opener
	sealer sealer
}

// direction is the keys of one direction, and which record is next.
type direction struct {
	aead            cipher.AEAD // made with the first record; a hello that is only replayed never gets so far
	bodyKey, lenKey [32]byte
	n               uint64
	spent           bool                     // record 2^64-1 has been: the number may not wrap (EMP/1 section 4)
	nonce           [chacha20.NonceSize]byte // of record n. It stands here because what is passed to an interface would be allocated
}

// init derives the keys from a key of Noise's Split.
func (d *direction) init(split *[32]byte) {
	prk := hmacSHA256(nil, split[:])
	d.bodyKey = expand(&prk, nil, "EMP/1 record", 1)
	d.lenKey = expand(&prk, nil, "EMP/1 length", 1)
}

// cipher returns what bodies are sealed with.
func (d *direction) cipher() cipher.AEAD {
	if d.aead == nil {
		var err error
		if d.aead, err = chacha20poly1305.New(d.bodyKey[:]); err != nil {
			panic(err) // the size is a constant, and where the cipher is forbidden X25519 was too
		}
	}
	return d.aead
}

// lenMask returns what LEN of record n is masked with.
func (d *direction) lenMask() uint16 {
	c, err := chacha20.NewUnauthenticatedCipher(d.lenKey[:], d.nonce[:])
	if err != nil {
		panic(err) // sizes that are constants
	}
	var b [lenBytes]byte
	c.XORKeyStream(b[:], b[:])
	return binary.BigEndian.Uint16(b[:])
}

// next goes on to the next record.
func (d *direction) next() {
	d.n++
	d.spent = d.n == 0
	binary.LittleEndian.PutUint64(d.nonce[4:], d.n)
}

// opener is the [obfs.Opener] of a session. Each call opens at most one record. A record that b ends within is kept in memory of the opener's own,
// which grows with what came, not with what LEN promises. In bulk nearly every read cuts a record, so that memory is kept for the next one, until Open is called with nothing, as owners do with
// sessions that are quiet. A close within a record cuts that record off and nothing else, and looks like any other (EMP/1
// section 5): Held tells it, nobody needs to.
type opener struct {
	direction
	skip  int    // bytes of padding of the hello before record 0
	want  int    // length of the record that is coming, LEN included; 0 before LEN is known
	cut   []byte // the head of that record, if b ended within it
	empty int    // records without payload in a row
	err   error
}

// Open implements [obfs.Opener]. The error is a [*RecordError]; a LEN that may not be is found out when its two bytes are there.
func (o *opener) Open(b []byte) (plain, rest []byte, err error) {
	if o.err != nil {
		return nil, nil, o.err
	}
	idle := len(b) == 0
	if o.skip > 0 {
		n := min(o.skip, len(b))
		o.skip, b = o.skip-n, b[n:]
	}
	record, rest := o.record(b)
	if o.err == nil && record != nil {
		plain = o.body(record)
	}
	if o.err != nil {
		o.cut = nil
		return nil, nil, o.err
	}
	if idle && len(o.cut) == 0 {
		o.cut = nil
	}
	return plain, rest, nil
}

// record takes the next record off b; nil if it is not complete. A failure is left in o.err.
func (o *opener) record(b []byte) (record, rest []byte) {
	if o.want == 0 {
		if len(o.cut)+len(b) < lenBytes {
			o.cut = append(o.cut, b...)
			return nil, nil
		}
		head := b
		if len(o.cut) > 0 {
			o.cut, b = append(o.cut, b[0]), b[1:]
			head = o.cut
		}
		if !o.length(binary.BigEndian.Uint16(head)) {
			return nil, nil
		}
	}
	want := o.want
	if len(o.cut) == 0 && len(b) >= want {
		o.want = 0
		return b[:want], b[want:]
	}
	n := min(want-len(o.cut), len(b))
	o.cut, b = append(o.cut, b[:n]...), b[n:]
	if len(o.cut) < want {
		return nil, b
	}
	// The memory may serve for what is cut at the end of b, once the caller is through with this record.
	record, o.cut, o.want = o.cut, o.cut[:0], 0
	return record, b
}

// length takes LEN as it was sent and reports whether it may be.
func (o *opener) length(sent uint16) bool {
	if o.spent {
		o.fail("the numbers of records are used up")
		return false
	}
	n := int(sent ^ o.lenMask())
	if n < minRecordBody {
		o.fail(fmt.Sprintf("LEN %d < %d", n, minRecordBody))
		return false
	}
	o.want = lenBytes + n
	return true
}

// body opens a whole record in place and returns its payload.
func (o *opener) body(record []byte) []byte {
	plain, err := o.cipher().Open(record[lenBytes:lenBytes], o.nonce[:], record[lenBytes:], record[:lenBytes])
	if err != nil {
		o.fail("does not open")
		return nil
	}
	padlen := int(binary.BigEndian.Uint16(plain))
	end := len(plain) - padlen
	if end < padlenBytes {
		o.fail(fmt.Sprintf("padlen %d of %d bytes", padlen, len(plain)-padlenBytes))
		return nil
	}
	// What the padding is made of is not checked (EMP/1 section 4).
	plain = plain[padlenBytes:end:end]
	if len(plain) > 0 {
		o.empty = 0
	} else if o.empty++; o.empty > maxEmptyRecords {
		o.fail(fmt.Sprintf("more than %d in a row without payload", maxEmptyRecords))
		return nil
	}
	o.next()
	return plain
}

func (o *opener) fail(reason string) { o.err = &RecordError{o.n, reason} }

// Held implements [obfs.Opener].
func (o *opener) Held() int { return len(o.cut) }

// sealer is the [obfs.Sealer] of a session.
type sealer struct {
	direction
	pads [paddedRecords]uint16 // the padding of records 0..3
}

// zeros is padding.
var zeros [maxPad]byte

// Seal implements [obfs.Sealer]: it appends records as large as they may be to dst, which must not overlap b. The payload is not copied: padlen
// goes before it into b, over the headroom or what has been sealed already, and the cipher reads both from there and writes to dst. Only a record
// with padding is put together first. It panics when 2^64 records have been sealed.
func (s *sealer) Seal(dst, b []byte) []byte {
	if len(b) <= obfs.Headroom {
		return dst
	}
	dst = slices.Grow(dst, s.SealedBytes(len(b)-obfs.Headroom))
	for at := obfs.Headroom; at < len(b); {
		padlen := s.padlen(s.n)
		end := at + min(len(b)-at, MaxRecordPayload-padlen)
		plain := b[at-padlenBytes : end]
		binary.BigEndian.PutUint16(plain, uint16(padlen))
		dst = s.record(dst, plain, padlen)
		at = end
	}
	return dst
}

// record appends a record: plain, to which padlen zeros are to be added.
func (s *sealer) record(dst, plain []byte, padlen int) []byte {
	if s.spent {
		panic("veil: the numbers of records are used up")
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(plain)+padlen+sealBytes)^s.lenMask())
	body := len(dst)
	if padlen > 0 {
		dst = append(dst, plain...)
		dst = append(dst, zeros[:padlen]...)
		plain = dst[body:]
	}
	dst = s.cipher().Seal(dst[:body], s.nonce[:], plain, dst[start:body])
	s.next()
	return dst
}

// padlen returns the padding of record n.
func (s *sealer) padlen(n uint64) int {
	if n < paddedRecords {
		return int(s.pads[n])
	}
	return 0
}

// SealedBytes implements [obfs.Sealer]. It is exact.
func (s *sealer) SealedBytes(n int) int {
	if n <= 0 {
		return 0
	}
	total := n
	for i := s.n; n > 0 && i < paddedRecords; i++ {
		padlen := s.padlen(i)
		total += recordBytes + padlen
		n -= min(n, MaxRecordPayload-padlen)
	}
	return total + (n+MaxRecordPayload-1)/MaxRecordPayload*recordBytes
}
