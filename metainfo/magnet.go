package metainfo

import (
	"encoding/hex"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/parley-bt/parley/bt"
)

// MaxMagnetBytes is the length of the longest magnet link that [ParseMagnet] reads, 64 KiB.
const MaxMagnetBytes = 64 << 10

// Magnet is what a magnet link says (BEP 9, "magnet URI format"). Its strings are as given by whoever
// made the link: any bytes.
type Magnet struct {
	InfoHash    bt.InfoHash // what stands in a hello: without a v1 info-hash, InfoHashV2 cut to its length
	InfoHashV2  InfoHashV2  // "xt=urn:btmh:" (BEP 52), from ParseMagnetV2; zero if there is none
	Name        string      // "dn": what to show until the metadata is there
	Trackers    []string    // "tr"
	Peers       []string    // "x.pe": host:port, where host is a name or an address, IPv6 in brackets
	WebSeeds    []string    // "ws" (BEP 19)
	ExactLength int64       // "xl": bytes; 0 if unknown
}

// ParseMagnet reads a magnet link. The scheme and the parameters' names may be in either case, repeated
// ones may be numbered (tr.1, tr.2), unknown ones are ignored. A link to a hybrid torrent is read as v1, its
// v2 info-hash is not looked at. The errors are [*Error]s that name the parameter; without a v1 info-hash but
// with a v2 one, the error matches [ErrV2Only].
func ParseMagnet(uri string) (Magnet, error) { return parseMagnet(uri, false) }

// ParseMagnetV2 reads a magnet link like [ParseMagnet], and v2 info-hashes too (BEP 52): SHA-256 multihashes in hexadecimal, with
// or without a v1 info-hash beside.
func ParseMagnetV2(uri string) (Magnet, error) { return parseMagnet(uri, true) }

func parseMagnet(uri string, readV2 bool) (Magnet, error) {
	const scheme = "magnet:?"
	if len(uri) > MaxMagnetBytes {
		return Magnet{}, fault("magnet", "%d bytes: want at most %d", len(uri), MaxMagnetBytes)
	}
	if len(uri) < len(scheme) || !strings.EqualFold(uri[:len(scheme)], scheme) {
		return Magnet{}, fault("magnet", "want a link that starts with %q", scheme)
	}
	var (
		m        Magnet
		found    bool // a v1 info-hash
		v2       bool // a v2 info-hash
		trackers = unique{to: &m.Trackers}
		peers    = unique{to: &m.Peers}
		webSeeds = unique{to: &m.WebSeeds}
	)
	query, _, _ := strings.Cut(uri[len(scheme):], "#")
	for param := range strings.SplitSeq(query, "&") {
		key, raw, _ := strings.Cut(param, "=")
		// Links copied out of the source of a web page have "&amp;" between their parameters.
		key = strings.TrimPrefix(strings.ToLower(key), "amp;")
		key = trimNumber(key)
		switch key {
		case "xt", "dn", "tr", "x.pe", "ws", "xl":
		default:
			continue
		}
		val, ok := unescape(raw, key == "dn")
		if !ok {
			return Magnet{}, fault(key, "%q has a %% without two hexadecimal digits", raw)
		}
		if val == "" && key != "xt" {
			continue
		}
		switch key {
		case "xt":
			const btih, btmh = "urn:btih:", "urn:btmh:"
			switch {
			case hasPrefixFold(val, btih):
				h, err := bt.ParseInfoHash(val[len(btih):])
				if err != nil {
					return Magnet{}, &Error{Field: key, Reason: err.Error(), err: err}
				}
				if h.IsZero() {
					return Magnet{}, fault(key, "info-hash is all zero")
				}
				if found && h != m.InfoHash {
					return Magnet{}, fault(key, "two torrents in one link: %s and %s", m.InfoHash, h)
				}
				m.InfoHash, found = h, true
			case hasPrefixFold(val, btmh) && readV2:
				h, err := parseMultihash(val[len(btmh):])
				if err != nil {
					return Magnet{}, &Error{Field: key, Reason: err.Error(), err: err}
				}
				if v2 && h != m.InfoHashV2 {
					return Magnet{}, fault(key, "two torrents in one link: %s and %s", m.InfoHashV2, h)
				}
				m.InfoHashV2, v2 = h, true
			case hasPrefixFold(val, btmh):
				v2 = true
			}
		case "dn":
			if m.Name == "" {
				m.Name = val
			}
		case "tr":
			trackers.add(val)
		case "ws":
			webSeeds.add(val)
		case "x.pe":
			if !isHostPort(val) {
				return Magnet{}, fault(key, "%q: want host:port", val)
			}
			peers.add(val)
		case "xl":
			n, err := strconv.ParseUint(val, 10, 63)
			if err != nil {
				return Magnet{}, fault(key, "%q: want a number of bytes from 0 to %d", val, int64(math.MaxInt64))
			}
			if m.ExactLength == 0 {
				m.ExactLength = int64(n)
			}
		}
	}
	if !found && v2 && readV2 {
		m.InfoHash, found = m.InfoHashV2.Truncated(), true
	}
	if !found && v2 {
		return Magnet{}, &Error{Field: "xt", Reason: ErrV2Only.Error(), err: ErrV2Only}
	}
	if !found {
		return Magnet{}, fault("xt", "missing: want urn:btih: and an info-hash")
	}
	return m, nil
}

// parseMultihash reads the tag of a SHA-256 hash, 0x12 and its length 0x20, and the hash.
func parseMultihash(s string) (InfoHashV2, error) {
	const tag = "1220"
	rest, ok := strings.CutPrefix(s, tag)
	if !ok {
		return InfoHashV2{}, errors.New("urn:btmh: want a SHA-256 multihash, which begins with " + tag)
	}
	h, err := ParseInfoHashV2(rest)
	if err == nil && h.Truncated().IsZero() {
		err = errors.New("v2 info-hash begins with 20 zero bytes")
	}
	return h, err
}

// String returns the link in its usual form, all ASCII. From it [ParseMagnetV2] reads the same Magnet, as does [ParseMagnet] if InfoHashV2 is
// zero, if that came from there or from [MetaInfo.Magnet]; fields that are empty or zero are left out.
func (m Magnet) String() string {
	b := []byte("magnet:?")
	if m.InfoHashV2.IsZero() || m.InfoHash != m.InfoHashV2.Truncated() {
		b = append(b, "xt=urn:btih:"...)
		b = hex.AppendEncode(b, m.InfoHash[:])
		if !m.InfoHashV2.IsZero() {
			b = append(b, '&')
		}
	}
	if !m.InfoHashV2.IsZero() {
		b = append(b, "xt=urn:btmh:1220"...)
		b = hex.AppendEncode(b, m.InfoHashV2[:])
	}
	add := func(key, val, plain string) {
		if val != "" {
			b = append(b, '&')
			b = append(b, key...)
			b = append(b, '=')
			b = appendEscaped(b, val, plain)
		}
	}
	add("dn", m.Name, "")
	if m.ExactLength > 0 {
		add("xl", strconv.FormatInt(m.ExactLength, 10), "")
	}
	for _, s := range m.Trackers {
		add("tr", s, "")
	}
	for _, s := range m.WebSeeds {
		add("ws", s, "")
	}
	for _, s := range m.Peers {
		// As they are in BEP 9: libtorrent does not unescape this parameter.
		add("x.pe", s, ":[]")
	}
	return string(b)
}

// trimNumber removes the number of a repeated parameter: "tr.1" is "tr".
func trimNumber(key string) string {
	base, num, ok := strings.Cut(key, ".")
	if !ok || num == "" || strings.Trim(num, "0123456789") != "" {
		// "x.pe.1" has its number behind the second dot.
		if rest, ok := strings.CutPrefix(key, "x.pe."); ok && rest != "" && strings.Trim(rest, "0123456789") == "" {
			return "x.pe"
		}
		return key
	}
	return base
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// isHostPort reports whether s has the shape of a host and a port from 1 to 65535. Whether the host
// exists is for the resolver to say.
func isHostPort(s string) bool {
	i := strings.LastIndexByte(s, ':')
	if i < 1 {
		return false
	}
	host := s[:i]
	if host[0] == '[' {
		if len(host) < 3 || host[len(host)-1] != ']' {
			return false
		}
		host = host[1 : len(host)-1]
	} else if strings.IndexByte(host, ':') >= 0 {
		return false
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("[]/@?#\\", c) >= 0 {
			return false
		}
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	return err == nil && port > 0
}

// unescape undoes percent-encoding. In names people read, a plus is a space, because many programs
// encode links like forms, and a stray percent sign is itself; in addresses a plus is a plus, and ok is
// false for a percent sign without two hexadecimal digits.
func unescape(s string, name bool) (val string, ok bool) {
	if strings.IndexByte(s, '%') < 0 && !(name && strings.IndexByte(s, '+') >= 0) {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+' && name:
			c = ' '
		case c == '%':
			var one [1]byte
			if i+2 < len(s) {
				if _, err := hex.Decode(one[:], []byte(s[i+1:i+3])); err == nil {
					c = one[0]
					i += 2
					break
				}
			}
			if !name {
				return "", false
			}
		}
		b = append(b, c)
	}
	return string(b), true
}

// appendEscaped percent-encodes all but RFC 3986's unreserved characters and those in plain.
func appendEscaped(dst []byte, s, plain string) []byte {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '.', c == '_', c == '~', strings.IndexByte(plain, c) >= 0:
			dst = append(dst, c)
		default:
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		}
	}
	return dst
}

// unique appends strings to a list, each once and empty ones never.
type unique struct {
	to   *[]string
	seen map[string]bool
}

func (u *unique) add(s string) {
	if u.seen == nil {
		u.seen = make(map[string]bool)
	}
	if s != "" && !u.seen[s] {
		u.seen[s] = true
		*u.to = append(*u.to, s)
	}
}
