package ladder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/wire"
)

// The file is one bencoded dictionary in its canonical form, and nothing behind it:
//
//	crc      int    CRC-32C of v4 and v6, one behind the other
//	v4       bytes  records of 19 bytes, ascending by address and port
//	v6       bytes  records of 31 bytes, likewise
//	version  int    1
//
// A record is, with numbers big-endian and times in seconds since 1970, 0 for never:
//
//	4 or 16  address    2  port
//	      1  bits 0-1: the hello that worked last, bits 2-3: the obfuscated one that did; 0 none, 1 plaintext, 2 MSE, 3 veil
//	      4  when the hello worked   4  when the obfuscated one did   4  when the veil was said to be offered
const (
	version  = 1
	tailSize = 2 + 1 + 3*4

	// MaxBytes is how long a file can be; what is longer is none of ours.
	MaxBytes = MaxEntries*(16+tailSize) + 128
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrFormat is what every error of [Parse] is; its text says what is wrong and where.
var ErrFormat = errors.New("remembered hellos not usable")

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// Append appends the file that [Parse] reads. The same memory makes the same bytes.
func (m *Memory) Append(dst []byte) []byte {
	var v4, v6 []byte
	for _, a := range slices.SortedFunc(maps.Keys(m.entries), netip.AddrPort.Compare) {
		if e := m.entries[a]; a.Addr().Is4() {
			v4 = appendRecord(v4, a, e)
		} else {
			v6 = appendRecord(v6, a, e)
		}
	}
	var d bencode.Dict
	d.SetInt("crc", int64(checksum(v4, v6)))
	d.SetBytes("v4", v4)
	d.SetBytes("v6", v6)
	d.SetInt("version", version)
	return d.Append(dst)
}

func checksum(v4, v6 []byte) uint32 {
	return crc32.Update(crc32.Checksum(v4, castagnoli), castagnoli, v6)
}

func appendRecord(dst []byte, a netip.AddrPort, e entry) []byte {
	dst = append(dst, a.Addr().AsSlice()...)
	dst = binary.BigEndian.AppendUint16(dst, a.Port())
	dst = append(dst, byte(e.worked)|byte(e.obfuscated)<<2)
	dst = binary.BigEndian.AppendUint32(dst, e.workedAt)
	dst = binary.BigEndian.AppendUint32(dst, e.obfAt)
	return binary.BigEndian.AppendUint32(dst, e.veilAt)
}

// Parse reads a file that [Memory.Append] has made. What has expired is left out; a time to come, from a clock that was wrong, is taken for now. Whatever
// is not as Append writes it is an [ErrFormat], and nothing of the file is used. Memory is bounded by [MaxEntries].
func Parse(b []byte, now time.Time) (*Memory, error) {
	if len(b) > MaxBytes {
		return nil, formatError("%d bytes, the limit is %d", len(b), MaxBytes)
	}
	v, rest, err := bencode.Parse(b, bencode.Limits{Bytes: MaxBytes, Depth: 1, Items: 16})
	switch {
	case err != nil:
		return nil, formatError("%v", err)
	case len(rest) > 0:
		return nil, formatError("%d bytes too many at its end", len(rest))
	case v.Kind() != bencode.KindDict || !v.Canonical():
		return nil, formatError("it is no dictionary in canonical form")
	}
	// The version before the rest, which another version may have otherwise.
	ver, _ := v.Get("version")
	if n, ok := ver.Int(); !ok || n != version {
		return nil, formatError("version %q, want %d", ver.Raw(), version)
	}
	for k := range v.Dict() {
		if !slices.Contains([]string{"crc", "v4", "v6", "version"}, string(k)) {
			return nil, formatError("unknown key %q", k)
		}
	}
	var records [2][]byte
	for i, k := range []string{"v4", "v6"} {
		val, _ := v.Get(k)
		ok := false
		if records[i], ok = val.Bytes(); !ok {
			return nil, formatError("%s: no string of bytes", k)
		}
	}
	crc, _ := v.Get("crc")
	if n, ok := crc.Int(); !ok || n != int64(checksum(records[0], records[1])) {
		return nil, formatError("crc: its checksum is wrong")
	}
	sizes := [2]int{4 + tailSize, 16 + tailSize}
	if n := len(records[0])/sizes[0] + len(records[1])/sizes[1]; n > MaxEntries {
		return nil, formatError("%d records, the limit is %d", n, MaxEntries)
	}
	m := &Memory{entries: make(map[netip.AddrPort]entry)}
	for i, k := range []string{"v4", "v6"} {
		if err := m.parseRecords(k, records[i], sizes[i], now); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// parseRecords takes in the records of one key.
func (m *Memory) parseRecords(name string, b []byte, size int, now time.Time) error {
	if n := len(b) % size; n != 0 {
		return formatError("%s: %d bytes behind the last whole record", name, n)
	}
	var before netip.AddrPort
	for i := 0; len(b) > 0; i++ {
		a, e, why := parseRecord(b[:size])
		if why == "" && i > 0 && a.Compare(before) <= 0 {
			why = "out of order"
		}
		if why != "" {
			return formatError("%s: record %d (%v): %s", name, i, a, why)
		}
		if e.fresh(now.Unix()) {
			most := stamp(now)
			e.workedAt, e.obfAt, e.veilAt = min(e.workedAt, most), min(e.obfAt, most), min(e.veilAt, most)
			m.entries[a] = e
		}
		before, b = a, b[size:]
	}
	return nil
}

// parseRecord returns why a record is not one, "" if it is.
func parseRecord(b []byte) (a netip.AddrPort, e entry, why string) {
	tail := b[len(b)-tailSize:]
	ip, ok := netip.AddrFromSlice(b[:len(b)-tailSize])
	a = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(tail))
	flags := tail[2]
	e = entry{
		worked: wire.Hello(flags & 3), workedAt: binary.BigEndian.Uint32(tail[3:]),
		obfuscated: wire.Hello(flags >> 2 & 3), obfAt: binary.BigEndian.Uint32(tail[7:]),
		veilAt: binary.BigEndian.Uint32(tail[11:]),
	}
	switch {
	case !ok || ip.Is4In6():
		why = "an IPv4 address among those of IPv6"
	case a.Port() == 0:
		why = "port 0"
	case flags>>4 != 0:
		why = fmt.Sprintf("unknown flags %#x", flags)
	case e.obfuscated == wire.HelloPlaintext:
		why = "plaintext is not obfuscated"
	case (e.worked == 0) != (e.workedAt == 0), (e.obfuscated == 0) != (e.obfAt == 0):
		why = "a hello without its time, or a time without its hello"
	case e.worked > wire.HelloPlaintext && (e.worked != e.obfuscated || e.workedAt != e.obfAt):
		why = "what worked is not what worked obfuscated"
	case e == entry{}:
		why = "it says nothing"
	}
	return a, e, why
}
