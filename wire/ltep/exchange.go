// Package ltep is the extension protocol (BEP 10) on top of wire/classic: the extended handshake, which EMP/1 calls the type exchange,
// the tables of extended ids, and ut_metadata (BEP 9). It says what bytes mean, not when they are legal.
//
//	extended frame   length (4) | 20 | extended id (1) | payload
//	extended id 0    payload is the exchange, a bencoded dictionary
//	other ids        as the receiver gave them out in "m" of its exchange
package ltep

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/wire"
)

// ExchangeID is the extended id of the exchange itself (BEP 10).
const ExchangeID = 0

// Names of extensions that this project speaks or knows to be BitTorrent's own.
const (
	NameMetadata = "ut_metadata" // BEP 9
	NameMux      = "emp_mux"     // EMP/1 section 6.2
)

// reservedPrefixes and reservedNames belong to BitTorrent and to this protocol itself (EMP/1 section 6.2).
var (
	reservedPrefixes = []string{"ut_", "lt_", "BT_", "AZ_"}
	reservedNames    = []string{NameMux, "upload_only"}
)

// IsReserved reports whether name belongs to BitTorrent itself, so that no application type may have it (EMP/1 section 6.2).
func IsReserved(name string) bool {
	return slices.Contains(reservedNames, name) ||
		slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// IsTypeName reports whether name can name an application message type: 1 to 64 bytes of printable UTF-8 that is not reserved.
func IsTypeName(name string) bool {
	if len(name) == 0 || len(name) > wire.MaxTypeName || !utf8.ValidString(name) || IsReserved(name) {
		return false
	}
	// Control characters and separators other than the space would only ever serve to confuse whoever reads the name.
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || 0x7f <= r && r <= 0x9f || r == 0x2028 || r == 0x2029
	})
}

// Entry is one entry of "m": a name and the extended id under which the sender of the exchange accepts it; 0 withdraws it.
type Entry struct {
	Name string
	ID   uint8
}

// Exchange is an extended handshake (BEP 10). Zero values stand for absent keys.
type Exchange struct {
	M            []Entry    // in the order received; to send, in any order
	Client       string     // "v"
	Port         uint16     // "p": the sender's listening port
	ReqQ         int        // "reqq": how many requests it lets wait
	MetadataSize int64      // "metadata_size" (BEP 9)
	UploadOnly   bool       // "upload_only" (BEP 21)
	YourIP       netip.Addr // "yourip": the receiver's address as the sender sees it
	IPv4, IPv6   netip.Addr // the sender's other addresses
	EMP          []byte     // the raw bencoded dictionary under "emp", nil if there is none (EMP/1 section 6.2); see package wire/emp
}

// Kind implements [wire.Message].
func (Exchange) Kind() wire.Kind { return wire.KindExchange }

// maxClient cuts the client name that is kept of a peer.
const maxClient = 128

// ParseExchange reads the payload of an extended frame with id 0, as EMP/1 section 6.1 says: tolerant of order, duplicates and trailing bytes,
// strict about structure. Odd entries of "m" are left out one by one. The error is a [*wire.SyntaxError]. The result owns its memory.
func ParseExchange(payload []byte) (Exchange, error) {
	var e Exchange
	if len(payload) > wire.MaxExchangeBytes {
		return e, &wire.SyntaxError{Dialect: wire.DialectLTEP, Kind: wire.KindExchange, Offset: 2, Reason: "more than 64 KiB"}
	}
	v, _, err := bencode.Parse(payload, bencode.Limits{Bytes: wire.MaxExchangeBytes, Depth: 8})
	if err != nil {
		return e, &wire.SyntaxError{Dialect: wire.DialectLTEP, Kind: wire.KindExchange, Offset: 2, Reason: err.Error()}
	}
	if v.Kind() != bencode.KindDict {
		return e, &wire.SyntaxError{Dialect: wire.DialectLTEP, Kind: wire.KindExchange, Offset: 2, Reason: "not a dictionary"}
	}
	for k, val := range first(v, 64) {
		switch string(k) {
		case "m":
			e.M = parseM(val)
		case "v":
			if b, ok := val.Bytes(); ok {
				e.Client = strings.ToValidUTF8(string(b[:min(len(b), maxClient)]), "\uFFFD")
			}
		case "p":
			if n, ok := val.Int(); ok && 1 <= n && n <= 65535 {
				e.Port = uint16(n)
			}
		case "reqq":
			if n, ok := val.Int(); ok && n > 0 {
				e.ReqQ = int(min(n, 1<<20))
			}
		case "metadata_size":
			if n, ok := val.Int(); ok && n > 0 {
				e.MetadataSize = n
			}
		case "upload_only":
			n, ok := val.Int()
			e.UploadOnly = ok && n > 0
		case "yourip":
			e.YourIP = addr(val)
		case "ipv4":
			e.IPv4 = addr(val)
		case "ipv6":
			e.IPv6 = addr(val)
		case "emp":
			if val.Kind() == bencode.KindDict { // anything else counts as absent, as with the other keys
				e.EMP = bytes.Clone(val.Raw())
			}
		}
	}
	return e, nil
}

// first yields the first entry of each key of a dictionary: the first duplicate wins (EMP/1 section 6.1). Only keys that could
// matter are remembered, so that a dictionary of many keys costs no memory.
func first(v bencode.Value, maxKey int) func(yield func([]byte, bencode.Value) bool) {
	return func(yield func([]byte, bencode.Value) bool) {
		var seen [16]string
		n := 0
		for k, val := range v.Dict() {
			if len(k) > maxKey || slices.Contains(seen[:n], string(k)) {
				continue
			}
			if known := slices.Index(exchangeKeys, string(k)); known >= 0 && n < len(seen) {
				seen[n] = exchangeKeys[known]
				n++
				if !yield(k, val) {
					return
				}
			}
		}
	}
}

// exchangeKeys are the keys of an exchange that are read here; there must be no more than first can remember.
var exchangeKeys = []string{"m", "v", "p", "reqq", "metadata_size", "upload_only", "yourip", "ipv4", "ipv6", "emp"}

func addr(v bencode.Value) netip.Addr {
	b, _ := v.Bytes()
	a, _ := netip.AddrFromSlice(b) // any other length is the zero Addr, which means absent
	return a.Unmap()
}

// parseM reads the entries of "m" that count: EMP/1 section 6.1.
func parseM(v bencode.Value) []Entry {
	if v.Kind() != bencode.KindDict {
		return nil
	}
	var (
		m      []Entry
		count  int
		sorted = true // so far, as BEP 3 has it: then there are no duplicates to look for
		last   []byte
		seen   map[string]bool
	)
	for k, val := range v.Dict() {
		if count++; count > wire.MaxTypeEntries {
			break
		}
		if sorted && count > 1 && bytes.Compare(last, k) >= 0 {
			sorted = false
			seen = make(map[string]bool)
			i := 0
			for name := range v.Dict() {
				if i++; i == count {
					break
				}
				seen[string(name)] = true
			}
		}
		if last = k; !sorted {
			if seen[string(k)] {
				continue // the first duplicate wins, even if it is odd
			}
			seen[string(k)] = true
		}
		id, ok := val.Int()
		if !ok || id < 0 || id > 255 || len(k) > wire.MaxTypeName {
			continue
		}
		m = append(m, Entry{string(k), uint8(id)})
	}
	return m
}

// AppendExchange appends the payload of an exchange: keys sorted and unique, absent values left out (EMP/1 section 6.1). Names in e.M
// must be unique; e.M is sorted in place. e.EMP is written as it is: that it is one canonical dictionary is the caller's promise.
func AppendExchange(dst []byte, e *Exchange) []byte {
	slices.SortFunc(e.M, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	dst = append(dst, 'd')
	str := func(key string, val []byte) {
		dst = bencode.AppendBytes(bencode.AppendString(dst, key), val)
	}
	num := func(key string, n int64) { dst = bencode.AppendInt(bencode.AppendString(dst, key), n) }
	if len(e.EMP) > 0 {
		dst = append(bencode.AppendString(dst, "emp"), e.EMP...)
	}
	if e.IPv4.Is4() {
		a := e.IPv4.As4()
		str("ipv4", a[:])
	}
	if e.IPv6.Is6() {
		a := e.IPv6.As16()
		str("ipv6", a[:])
	}
	dst = append(bencode.AppendString(dst, "m"), 'd')
	for _, t := range e.M {
		dst = bencode.AppendInt(bencode.AppendString(dst, t.Name), int64(t.ID))
	}
	dst = append(dst, 'e')
	if e.MetadataSize > 0 {
		num("metadata_size", e.MetadataSize)
	}
	if e.Port > 0 {
		num("p", int64(e.Port))
	}
	if e.ReqQ > 0 {
		num("reqq", int64(e.ReqQ))
	}
	if e.UploadOnly {
		num("upload_only", 1)
	}
	if e.Client != "" {
		str("v", []byte(e.Client))
	}
	if e.YourIP.IsValid() {
		str("yourip", e.YourIP.AsSlice())
	}
	return append(dst, 'e')
}
