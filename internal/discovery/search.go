// Package discovery finds peers on the local network (BEP 14): who shares a torrent says so by multicast, and whoever hears it may connect. The form of the datagrams and the schedule
// by which they go out are pure ([ParseSearch], [AppendSearch], [Schedule]); [Local] does the input and output. It tells everybody on the network what is shared, so it is off unless
// its owner starts it, and never for private torrents (BEP 27). What it hears is a claim: whether to dial is up to its owner.
//
//	BT-SEARCH * HTTP/1.1\r\n
//	Host: 239.192.152.143:6771\r\n
//	Port: 6881\r\n
//	Infohash: 40 hexadecimal digits\r\n       one line for each
//	cookie: anything\r\n                      to recognise one's own
//	\r\n\r\n
package discovery

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/parley-bt/parley/bt"
)

// The groups and the port of BEP 14.
var (
	Group4 = netip.MustParseAddrPort("239.192.152.143:6771")
	Group6 = netip.MustParseAddrPort("[ff15::efc0:988f]:6771")
)

// Bounds of a datagram.
const (
	MaxDatagram   = 1400 // bytes (BEP 14); longer ones are not read
	MaxInfoHashes = 20   // sent in one datagram; more than fit into one are not read
	MaxCookie     = 64   // bytes sent or compared
)

// Search is one announcement: its sender listens on Port and takes part in the torrents named.
type Search struct {
	Port       uint16
	InfoHashes []bt.InfoHash
	Cookie     string // empty if absent
}

// SyntaxError says why a datagram is not a [Search].
type SyntaxError struct {
	Line   int // from 1
	Reason string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("local discovery: line %d: %s", e.Line, e.Reason)
}

const requestLine = "BT-SEARCH * HTTP/1.1"

// ParseSearch reads a datagram. Names of headers may be written in any case, lines may end with LF alone, headers that are unknown and info-hashes that are none are ignored, of a port or cookie
// that stands there twice the first counts. There must be a port and an info-hash. The error is a [*SyntaxError]. The result owns its memory.
func ParseSearch(b []byte) (Search, error) {
	var s Search
	if len(b) > MaxDatagram {
		return s, &SyntaxError{1, fmt.Sprintf("%d bytes, the limit is %d", len(b), MaxDatagram)}
	}
	n := 0
	for line := range bytes.SplitSeq(b, []byte("\n")) {
		n++
		line = bytes.TrimSuffix(line, []byte("\r"))
		if n == 1 {
			if string(line) != requestLine {
				return s, &SyntaxError{1, "not a BT-SEARCH request"}
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return Search{}, &SyntaxError{n, "no header"}
		}
		value = bytes.TrimSpace(value)
		switch strings.ToLower(string(name)) {
		case "port":
			p, err := strconv.ParseUint(string(value), 10, 16)
			if err != nil || p == 0 {
				return Search{}, &SyntaxError{n, "port is not from 1 to 65535"}
			}
			if s.Port == 0 {
				s.Port = uint16(p)
			}
		case "infohash":
			if h, err := bt.ParseInfoHash(string(value)); err == nil && !h.IsZero() {
				s.InfoHashes = append(s.InfoHashes, h)
			}
		case "cookie":
			if s.Cookie == "" {
				s.Cookie = string(value[:min(len(value), MaxCookie)])
			}
		}
	}
	switch {
	case s.Port == 0:
		return Search{}, &SyntaxError{n, "port is missing"}
	case len(s.InfoHashes) == 0:
		return Search{}, &SyntaxError{n, "no info-hash"}
	}
	return s, nil
}

// AppendSearch appends the datagram that tells group of s: of its info-hashes the first [MaxInfoHashes]. The cookie must be printable and at most [MaxCookie] bytes.
func AppendSearch(dst []byte, group netip.AddrPort, s Search) []byte {
	dst = append(dst, requestLine+"\r\nHost: "...)
	dst = append(dst, netip.AddrPortFrom(group.Addr().WithZone(""), group.Port()).String()...)
	dst = append(dst, "\r\nPort: "...)
	dst = strconv.AppendUint(dst, uint64(s.Port), 10)
	for _, h := range s.InfoHashes[:min(len(s.InfoHashes), MaxInfoHashes)] {
		dst = append(append(dst, "\r\nInfohash: "...), h.String()...)
	}
	if s.Cookie != "" {
		dst = append(append(dst, "\r\ncookie: "...), s.Cookie...)
	}
	return append(dst, "\r\n\r\n\r\n"...)
}
