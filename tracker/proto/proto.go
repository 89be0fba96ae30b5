// Package proto holds the messages of the tracker protocols and their bytes, for both sides: announce and scrape over HTTP
// (BEP 3, 7, 23, 24, 31, 48) and over UDP (BEP 15, 41).
//
// Over HTTP a request is a URL's query and a reply a bencoded dictionary. Over UDP everything is big-endian:
//
//	connect    request  protocol id 8 | action=0 4 | transaction 4
//	           reply    action=0 4 | transaction 4 | connection id 8
//	announce   request  connection id 8 | action=1 4 | transaction 4 | info-hash 20 | peer id 20 | downloaded 8 | left 8 |
//	                    uploaded 8 | event 4 | ip 4 | key 4 | num_want 4 | port 2 | options (BEP 41)
//	           reply    action=1 4 | transaction 4 | interval 4 | leechers 4 | seeders 4 | peers (6 or 18 each)
//	scrape     request  connection id 8 | action=2 4 | transaction 4 | info-hashes (20 each)
//	           reply    action=2 4 | transaction 4 | seeders 4, completed 4, leechers 4 for each
//	error      reply    action=3 4 | transaction 4 | text
//
// The package is pure: it opens no connection, and it does not decide whom to ask, whom to believe or whether a peer's
// address may be contacted. Text that came over the network is cut to [MaxTextBytes] and freed of everything unprintable.
package proto

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/parley-bt/parley/bt"
)

// Limits of what is accepted.
const (
	// MaxReplyBytes is the largest HTTP reply that is parsed, after decompression.
	MaxReplyBytes = 2 << 20
	// MaxPeers is how many peers are taken from one reply, each address family counted together; the rest is counted as
	// dropped.
	MaxPeers = 2000
	// MaxTextBytes is how much of a failure reason, a warning or an error is kept.
	MaxTextBytes = 256
	// MaxTrackerIDBytes is the longest tracker id that is kept and sent back; a longer one is ignored.
	MaxTrackerIDBytes = 512
	// MaxScrape is how many torrents one scrape asks about (BEP 15: "up to about 74 torrents").
	MaxScrape = 74
	// MaxQueryBytes is the longest query of a request that a server looks at.
	MaxQueryBytes = 8 << 10
	// maxSeconds bounds intervals, so that they fit every duration.
	maxSeconds = 1 << 31
)

// Event says why an announce is made. The values are those of BEP 15.
type Event uint8

// The events of BEP 3.
const (
	EventNone      Event = 0 // a regular announce
	EventCompleted Event = 1 // the download has just become complete
	EventStarted   Event = 2 // the first announce
	EventStopped   Event = 3 // the last one
)

// String returns the event as BEP 3 writes it, empty for [EventNone].
func (e Event) String() string {
	switch e {
	case EventNone:
		return ""
	case EventCompleted:
		return "completed"
	case EventStarted:
		return "started"
	case EventStopped:
		return "stopped"
	}
	return fmt.Sprintf("event(%d)", uint8(e))
}

// NoPeers as [Announce.NumWant] asks for none.
const NoPeers = -1

// LeftUnknown as [Announce.Left] says that the size is not known yet, as before a magnet link's metadata has come. On the
// wire it is one block: a tracker that reads 0 counts a seed.
const LeftUnknown = -1

// Announce is what a client tells a tracker.
type Announce struct {
	InfoHash   bt.InfoHash
	PeerID     bt.PeerID
	Port       uint16 // on which peers are accepted
	Uploaded   int64  // bytes since [EventStarted]
	Downloaded int64  // bytes since [EventStarted]
	Left       int64  // bytes still missing; 0 is a seed, [LeftUnknown] unknown
	Event      Event
	NumWant    int    // peers wanted; 0 leaves it to the tracker, [NoPeers] asks for none
	Key        uint32 // chosen once, so that the tracker knows us after our address changed
	TrackerID  string // from the previous reply of this tracker; HTTP only
}

// left returns the number to write.
func (a *Announce) left() int64 {
	if a.Left < 0 {
		return bt.BlockBytes
	}
	return a.Left
}

// AnnounceReply is what a tracker answers.
type AnnounceReply struct {
	Interval    time.Duration // until the next regular announce; 0: not said
	MinInterval time.Duration // no announce earlier than this; 0: not said
	TrackerID   string        // to send with the next announce; opaque bytes
	Warning     string        // cleaned text
	Seeders     int           // "complete"; -1: not said
	Leechers    int           // "incomplete"; -1: not said
	ExternalIP  netip.Addr    // the address the tracker saw us at (BEP 24); invalid: not said
	Peers       []netip.AddrPort
	Dropped     int // peers that were not taken: too many, or without an IP address and a port
}

// Counts is what a scrape says about one torrent.
type Counts struct {
	InfoHash   bt.InfoHash
	Seeders    int
	Leechers   int
	Downloaded int // how often the download was completed
}

// FailureError is a tracker's refusal: its "failure reason", or the text of a UDP error.
type FailureError struct {
	Reason  string        // cleaned text
	RetryIn time.Duration // when to try again (BEP 31); 0: not said
	Never   bool          // do not try again (BEP 31)
}

// Error returns the reason, quoted.
func (e *FailureError) Error() string { return fmt.Sprintf("the tracker refuses: %q", e.Reason) }

// SyntaxError says that bytes are not the message they should be.
type SyntaxError struct {
	Message string // which message: "http announce reply"
	Reason  string
}

// Error returns the message's name and the reason.
func (e *SyntaxError) Error() string { return e.Message + ": " + e.Reason }

func syntax(message, format string, args ...any) error {
	return &SyntaxError{Message: message, Reason: fmt.Sprintf(format, args...)}
}

// cleanText makes bytes from the network fit for a log or a terminal: valid, printable and short.
func cleanText(b []byte) string {
	if len(b) > MaxTextBytes {
		b = b[:MaxTextBytes]
		for i := 0; i < utf8.UTFMax && len(b) > 0 && !utf8.Valid(b); i++ { // a character cut in half
			b = b[:len(b)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // controls, and what reverses or hides text
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(string(b), "\uFFFD"))
}

// count bounds a number that a stranger chose.
func count(n int64) int { return int(min(max(n, 0), 1<<31-1)) }

// seconds returns a span that a stranger chose; what makes no sense is "not said".
func seconds(n int64) time.Duration {
	if n <= 0 {
		return 0
	}
	return time.Duration(min(n, maxSeconds)) * time.Second
}

// appendPeer writes a peer in compact form (BEP 23, BEP 7).
func appendPeer(dst []byte, ap netip.AddrPort) []byte {
	dst = append(dst, ap.Addr().AsSlice()...)
	return append(dst, byte(ap.Port()>>8), byte(ap.Port()))
}

// takePeers reads compact peers of size bytes each, 6 or 18, into r. The length was checked.
func (r *AnnounceReply) takePeers(b []byte, size int) {
	for ; len(b) > 0; b = b[size:] {
		addr, ok := netip.AddrFromSlice(b[:size-2])
		r.takePeer(addr, int64(b[size-2])<<8|int64(b[size-1]), ok)
	}
}

// takePeer adds a peer if it is one and there is room.
func (r *AnnounceReply) takePeer(addr netip.Addr, port int64, ok bool) {
	if !ok || port < 1 || port > 1<<16-1 || len(r.Peers) >= MaxPeers {
		r.Dropped++
		return
	}
	r.Peers = append(r.Peers, netip.AddrPortFrom(addr.WithZone("").Unmap(), uint16(port)))
}
