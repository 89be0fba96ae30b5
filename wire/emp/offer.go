package emp

import (
	"bytes"
	"math"
	"slices"
	"strings"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
)

// TypeOffer is one entry of "t": an application type that the sender of the exchange receives in mux frames (EMP/1 section 6.2).
type TypeOffer struct {
	Name                   string // up to 64 bytes
	ID                     uint16 // 1..65535
	MinVersion, MaxVersion uint8  // both included
	MaxLen                 uint32 // largest message, bytes; 0 stands for Max of the offer
}

// Offer is the dictionary under "emp" in a type exchange (EMP/1 section 6.2):
//
//	"id"     peer id, 20 bytes              "s"      signature, 64 bytes
//	"k"      identity, 32 bytes             "t"      name → [id, vmin, vmax, maxlen]
//	"max"    bytes                          "v"      1
//	"rb"     reserved bytes, 8              "veil"   1
//	"req"    requests                       "win"    bytes
//
// Zero values stand for absent keys, with ONE EXCEPTION: Requests is -1 for an absent "req", and an Offer{} that is sent says "req 0", that no
// request is accepted.
type Offer struct {
	Version  int         // "v": the highest version of EMP spoken
	HasTypes bool        // whether "t" is there, which replaces all types offered before, also if it is empty
	Types    []TypeOffer // "t", in the order received; to send, in any order
	Max      int64       // "max": largest message of types with MaxLen 0, bytes, as received
	Window   int64       // "win": bytes, as received
	Requests int64       // "req": unanswered requests accepted at once, as received; -1 if absent

	PeerID      bt.PeerID // "id"
	HasPeerID   bool
	Reserved    wire.Reserved // "rb"
	HasReserved bool
	Veil        bool   // "veil" is 1: accepts veiled hellos on its listening port
	Key         []byte // "k" (section 5.1), 32 bytes or nil
	Signature   []byte // "s" (section 5.1), 64 bytes or nil
}

// The sizes of an identity (EMP/1 section 5.1).
const (
	keyBytes       = 32
	signatureBytes = 64
)

// offerDepth is the deepest nesting inside "emp", itself included: one less than that of the exchange around it (EMP/1 section 6.1).
const offerDepth = 7

// ParseOffer reads the dictionary under "emp" (ltep.Exchange.EMP) as EMP/1 sections 6.1 and 6.2 say: keys of another type or size, and negative
// numbers, count as absent; what is odd about an entry of "t" drops that entry only. What an entry may not be because of those before it in the
// session is left to [TheyOffer.Apply]. The error is a [*wire.SyntaxError]. The result owns its memory.
func ParseOffer(raw []byte) (Offer, error) {
	o := Offer{Requests: -1}
	v, _, err := bencode.Parse(raw, bencode.Limits{Bytes: wire.MaxExchangeBytes, Depth: offerDepth})
	if err != nil {
		return o, badOffer(err.Error())
	}
	if v.Kind() != bencode.KindDict {
		return o, badOffer("emp is not a dictionary")
	}
	// Get finds the first of equal keys, which counts (section 6.1), and remembers nothing about the others.
	if n := number(v, "v"); n > 0 {
		o.Version = int(min(n, math.MaxInt32))
	}
	if t, _ := v.Get("t"); t.Kind() == bencode.KindDict {
		o.HasTypes, o.Types = true, parseTypes(t)
	}
	o.Max, o.Window, o.Requests = max(number(v, "max"), 0), max(number(v, "win"), 0), number(v, "req")
	if b := fixed(v, "id", len(o.PeerID)); b != nil {
		o.PeerID, o.HasPeerID = bt.PeerID(b), true
	}
	if b := fixed(v, "rb", len(o.Reserved)); b != nil {
		o.Reserved, o.HasReserved = wire.Reserved(b), true
	}
	o.Veil = number(v, "veil") == 1
	o.Key, o.Signature = bytes.Clone(fixed(v, "k", keyBytes)), bytes.Clone(fixed(v, "s", signatureBytes))
	return o, nil
}

func badOffer(reason string) error {
	return &wire.SyntaxError{Dialect: wire.DialectEMP, Kind: wire.KindExchange, Offset: frameOffset, Reason: reason}
}

// number returns the integer under key, -1 if it is absent, negative or of another type.
func number(v bencode.Value, key string) int64 {
	val, _ := v.Get(key)
	if n, ok := val.Int(); ok && n >= 0 {
		return n
	}
	return -1
}

// fixed returns the string of exactly size bytes under key, nil if there is no such one.
func fixed(v bencode.Value, key string, size int) []byte {
	val, _ := v.Get(key)
	if b, ok := val.Bytes(); ok && len(b) == size {
		return b
	}
	return nil
}

// parseTypes reads the entries of "t" that count. "The limits of m hold" (EMP/1 section 6.2): names of up to 64 bytes, 1,024 entries, odd ones
// counted, and the first of equal names, even if it is odd.
func parseTypes(v bencode.Value) []TypeOffer {
	var (
		types  []TypeOffer
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
				remember(seen, name)
			}
		}
		if last = k; !sorted {
			if seen[string(k)] {
				continue
			}
			remember(seen, k)
		}
		if len(k) > wire.MaxTypeName {
			continue
		}
		if t, ok := parseType(val); ok {
			t.Name = string(k)
			types = append(types, t)
		}
	}
	return types
}

// remember notes a name that could count if it came again.
func remember(seen map[string]bool, name []byte) {
	if len(name) <= wire.MaxTypeName {
		seen[string(name)] = true
	}
}

// parseType reads [id, vmin, vmax, maxlen]; further items are ignored (EMP/1 section 6.2).
func parseType(v bencode.Value) (t TypeOffer, ok bool) {
	var item [4]int64
	n := 0
	for val := range v.List() {
		i, isInt := val.Int()
		if !isInt || i < 0 {
			return t, false
		}
		item[n] = i
		if n++; n == len(item) {
			break
		}
	}
	id, vmin, vmax, maxLen := item[0], item[1], item[2], item[3]
	if n < len(item) || id < 1 || id > wire.MaxTypeID || vmin > vmax || vmax > math.MaxUint8 {
		return t, false
	}
	// Above 16 MiB counts as 16 MiB (section 6.2).
	return TypeOffer{ID: uint16(id), MinVersion: uint8(vmin), MaxVersion: uint8(vmax), MaxLen: uint32(min(maxLen, wire.MaxMessage))}, true
}

// CheckVeiled returns an error, a [*wire.SyntaxError], if the offer lacks what the exchange after a veiled hello must have: "id", "rb" and "v" of at
// least 1 (EMP/1 sections 6.1 and 6.2). The zero Offer, no "emp" at all, lacks them.
func (o *Offer) CheckVeiled() error {
	switch {
	case !o.HasPeerID || !o.HasReserved:
		return badOffer("id or rb of emp is missing")
	case o.Version < 1:
		return badOffer("v of emp is missing or 0")
	}
	return nil
}

// AppendOffer appends the dictionary that stands under "emp": keys sorted and unique, absent values left out (EMP/1 section 6.1). Names in o.Types
// must be unique; o.Types is sorted in place, and written only if o.HasTypes is set. "req" is written unless o.Requests is negative.
func AppendOffer(dst []byte, o *Offer) []byte {
	dst = append(dst, 'd')
	if o.HasPeerID {
		dst = bencode.AppendBytes(bencode.AppendString(dst, "id"), o.PeerID[:])
	}
	if len(o.Key) > 0 {
		dst = bencode.AppendBytes(bencode.AppendString(dst, "k"), o.Key)
	}
	if o.Max > 0 {
		dst = bencode.AppendInt(bencode.AppendString(dst, "max"), o.Max)
	}
	if o.HasReserved {
		dst = bencode.AppendBytes(bencode.AppendString(dst, "rb"), o.Reserved[:])
	}
	if o.Requests >= 0 {
		dst = bencode.AppendInt(bencode.AppendString(dst, "req"), o.Requests)
	}
	if len(o.Signature) > 0 {
		dst = bencode.AppendBytes(bencode.AppendString(dst, "s"), o.Signature)
	}
	if o.HasTypes {
		slices.SortFunc(o.Types, func(a, b TypeOffer) int { return strings.Compare(a.Name, b.Name) })
		dst = append(bencode.AppendString(dst, "t"), 'd')
		for _, t := range o.Types {
			dst = append(bencode.AppendString(dst, t.Name), 'l')
			for _, n := range [...]int64{int64(t.ID), int64(t.MinVersion), int64(t.MaxVersion), int64(t.MaxLen)} {
				dst = bencode.AppendInt(dst, n)
			}
			dst = append(dst, 'e')
		}
		dst = append(dst, 'e')
	}
	if o.Version > 0 {
		dst = bencode.AppendInt(bencode.AppendString(dst, "v"), int64(o.Version))
	}
	if o.Veil {
		dst = bencode.AppendInt(bencode.AppendString(dst, "veil"), 1)
	}
	if o.Window > 0 {
		dst = bencode.AppendInt(bencode.AppendString(dst, "win"), o.Window)
	}
	return append(dst, 'e')
}
