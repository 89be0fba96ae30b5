package proto

import (
	"encoding/binary"
	"math"

	"github.com/parley-bt/parley/bt"
)

// Action is the kind of a UDP message (BEP 15).
type Action uint32

// The actions of BEP 15.
const (
	ActionConnect  Action = 0
	ActionAnnounce Action = 1
	ActionScrape   Action = 2
	ActionError    Action = 3
)

// Sizes of UDP messages, in bytes.
const (
	ConnectBytes      = 16 // a connect request, and its reply
	AnnounceBytes     = 98 // an announce request without options
	announceHeadBytes = 20 // an announce reply without peers
	udpHeadBytes      = 8  // action and transaction
	// MaxDatagramBytes is the largest message read or written.
	MaxDatagramBytes = 65507
	// ReplyDatagramBytes is the largest reply a server sends: one that any path carries in one piece.
	ReplyDatagramBytes = 1200
)

// protocolID opens every connect request (BEP 15).
const protocolID = 0x41727101980

// optionURLData is the option that carries the path and query of the URL (BEP 41).
const optionURLData = 2

const (
	msgUDPRequest = "udp request"
	msgUDPReply   = "udp reply"
)

// UDPRequest is a parsed request.
type UDPRequest struct {
	Action       Action
	Transaction  uint32
	ConnectionID uint64
	Announce     Announce      // of an announce; [Announce.TrackerID] is not used
	Hashes       []bt.InfoHash // of a scrape
}

// UDPReply is a parsed reply.
type UDPReply struct {
	Action       Action
	Transaction  uint32
	ConnectionID uint64        // of a connect
	Announce     AnnounceReply // of an announce
	Counts       []Counts      // of a scrape, in the order asked, without their info-hashes
	Failure      *FailureError // of an error
}

// AppendConnect appends a connect request.
func AppendConnect(dst []byte, transaction uint32) []byte {
	dst = binary.BigEndian.AppendUint64(dst, protocolID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(ActionConnect))
	return binary.BigEndian.AppendUint32(dst, transaction)
}

// AppendUDPAnnounce appends an announce request. target, if not empty, is the URL's path and query, sent as an option
// (BEP 41) for trackers that find their users by it; no more than fits one datagram is sent.
func AppendUDPAnnounce(dst []byte, connection uint64, transaction uint32, a *Announce, target string) []byte {
	be := binary.BigEndian
	dst = be.AppendUint64(dst, connection)
	dst = be.AppendUint32(dst, uint32(ActionAnnounce))
	dst = be.AppendUint32(dst, transaction)
	dst = append(dst, a.InfoHash[:]...)
	dst = append(dst, a.PeerID[:]...)
	dst = be.AppendUint64(dst, uint64(a.Downloaded))
	dst = be.AppendUint64(dst, uint64(a.left()))
	dst = be.AppendUint64(dst, uint64(a.Uploaded))
	dst = be.AppendUint32(dst, uint32(a.Event))
	dst = be.AppendUint32(dst, 0) // ip: our source address
	dst = be.AppendUint32(dst, a.Key)
	want := int32(-1) // the tracker's default
	switch {
	case a.NumWant > 0:
		want = int32(min(a.NumWant, math.MaxInt32))
	case a.NumWant < 0:
		want = 0
	}
	dst = be.AppendUint32(dst, uint32(want))
	dst = be.AppendUint16(dst, a.Port)
	target = target[:min(len(target), 4*math.MaxUint8)]
	for len(target) > 0 {
		n := min(len(target), math.MaxUint8)
		dst = append(dst, optionURLData, byte(n))
		dst = append(dst, target[:n]...)
		target = target[n:]
	}
	return dst
}

// AppendUDPScrape appends a scrape request for at most [MaxScrape] hashes.
func AppendUDPScrape(dst []byte, connection uint64, transaction uint32, hashes []bt.InfoHash) []byte {
	dst = binary.BigEndian.AppendUint64(dst, connection)
	dst = binary.BigEndian.AppendUint32(dst, uint32(ActionScrape))
	dst = binary.BigEndian.AppendUint32(dst, transaction)
	for _, h := range hashes[:min(len(hashes), MaxScrape)] {
		dst = append(dst, h[:]...)
	}
	return dst
}

// ParseUDPRequest reads a request. The error is a [*SyntaxError]; a server does not answer what is none.
func ParseUDPRequest(b []byte) (UDPRequest, error) {
	be := binary.BigEndian
	var q UDPRequest
	if len(b) < ConnectBytes {
		return q, syntax(msgUDPRequest, "%d bytes, want at least %d", len(b), ConnectBytes)
	}
	q.ConnectionID, q.Action, q.Transaction = be.Uint64(b), Action(be.Uint32(b[8:])), be.Uint32(b[12:])
	switch q.Action {
	case ActionConnect:
		if q.ConnectionID != protocolID {
			return q, syntax(msgUDPRequest, "connect without the protocol id")
		}
		q.ConnectionID = 0
	case ActionAnnounce:
		if len(b) < AnnounceBytes {
			return q, syntax(msgUDPRequest, "announce of %d bytes, want at least %d", len(b), AnnounceBytes)
		}
		a := &q.Announce
		a.InfoHash, a.PeerID = bt.InfoHash(b[16:36]), bt.PeerID(b[36:56])
		a.Downloaded, a.Left, a.Uploaded = number(b[56:]), number(b[64:]), number(b[72:])
		if event := be.Uint32(b[80:]); event <= uint32(EventStopped) {
			a.Event = Event(event)
		}
		// b[84:88] is an address that the client claims: not read, the source address counts.
		a.Key = be.Uint32(b[88:])
		switch want := int32(be.Uint32(b[92:])); {
		case want > 0:
			a.NumWant = int(want)
		case want == 0:
			a.NumWant = NoPeers
		}
		a.Port = be.Uint16(b[96:])
	case ActionScrape:
		rest := b[ConnectBytes:]
		n := len(rest) / bt.HashBytes
		if len(rest)%bt.HashBytes != 0 || n == 0 || n > MaxScrape {
			return q, syntax(msgUDPRequest, "scrape with %d bytes of info-hashes, want 1 to %d of %d", len(rest), MaxScrape, bt.HashBytes)
		}
		q.Hashes = make([]bt.InfoHash, n)
		for i := range q.Hashes {
			q.Hashes[i] = bt.InfoHash(rest[i*bt.HashBytes:][:bt.HashBytes])
		}
	default:
		return q, syntax(msgUDPRequest, "action %d", q.Action)
	}
	return q, nil
}

// number reads a count of bytes; what is beyond 63 bits counts as the most there is.
func number(b []byte) int64 { return int64(min(binary.BigEndian.Uint64(b), math.MaxInt64)) }

func appendUDPHead(dst []byte, action Action, transaction uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(dst, uint32(action)), transaction)
}

// AppendConnectReply appends the reply to a connect.
func AppendConnectReply(dst []byte, transaction uint32, connection uint64) []byte {
	return binary.BigEndian.AppendUint64(appendUDPHead(dst, ActionConnect, transaction), connection)
}

// AppendUDPAnnounceReply appends the reply to an announce. Only the peers of one address family are written, IPv6 if v6 is
// set, as the reply does not say which they are (BEP 15: that of the packet), and no more than fit [ReplyDatagramBytes].
func AppendUDPAnnounceReply(dst []byte, transaction uint32, r *AnnounceReply, v6 bool) []byte {
	start := len(dst)
	dst = appendUDPHead(dst, ActionAnnounce, transaction)
	for _, n := range []int64{int64(r.Interval.Seconds()), int64(r.Leechers), int64(r.Seeders)} {
		dst = binary.BigEndian.AppendUint32(dst, uint32(count(n)))
	}
	for _, p := range r.Peers {
		if p.Addr().Is4() == v6 {
			continue
		}
		if len(dst)-start+peerBytes(v6) > ReplyDatagramBytes {
			break
		}
		dst = appendPeer(dst, p)
	}
	return dst
}

func peerBytes(v6 bool) int {
	if v6 {
		return 18
	}
	return 6
}

// AppendUDPScrapeReply appends the reply to a scrape; counts are in the order of the hashes asked.
func AppendUDPScrapeReply(dst []byte, transaction uint32, counts []Counts) []byte {
	dst = appendUDPHead(dst, ActionScrape, transaction)
	for _, c := range counts {
		for _, n := range []int{c.Seeders, c.Downloaded, c.Leechers} {
			dst = binary.BigEndian.AppendUint32(dst, uint32(count(int64(n))))
		}
	}
	return dst
}

// AppendUDPError appends an error reply.
func AppendUDPError(dst []byte, transaction uint32, text string) []byte {
	return append(appendUDPHead(dst, ActionError, transaction), text...)
}

// UDPTransaction returns the transaction that a datagram claims to answer; false if it is too short for any reply.
func UDPTransaction(b []byte) (uint32, bool) {
	if len(b) < udpHeadBytes {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[4:]), true
}

// ParseUDPReply reads a reply. v6 says that it came over IPv6, so that its peers are IPv6 peers. The error is a
// [*SyntaxError]; an error message of the tracker is not one but [UDPReply.Failure].
func ParseUDPReply(b []byte, v6 bool) (UDPReply, error) {
	be := binary.BigEndian
	var r UDPReply
	if len(b) < udpHeadBytes {
		return r, syntax(msgUDPReply, "%d bytes, want at least %d", len(b), udpHeadBytes)
	}
	r.Action, r.Transaction = Action(be.Uint32(b)), be.Uint32(b[4:])
	rest := b[udpHeadBytes:]
	switch r.Action {
	case ActionConnect:
		if len(rest) < 8 {
			return r, syntax(msgUDPReply, "connect of %d bytes, want %d", len(b), ConnectBytes)
		}
		r.ConnectionID = be.Uint64(rest)
	case ActionAnnounce:
		if len(b) < announceHeadBytes {
			return r, syntax(msgUDPReply, "announce of %d bytes, want at least %d", len(b), announceHeadBytes)
		}
		a := &r.Announce
		// The numbers are signed; -1 appears where a tracker does not know.
		a.Interval = seconds(int64(int32(be.Uint32(rest))))
		a.Leechers, a.Seeders = count(int64(int32(be.Uint32(rest[4:])))), count(int64(int32(be.Uint32(rest[8:]))))
		peers, size := rest[12:], peerBytes(v6)
		if len(peers)%size != 0 {
			return r, syntax(msgUDPReply, "announce with %d bytes of peers, want a multiple of %d", len(peers), size)
		}
		a.takePeers(peers, size)
	case ActionScrape:
		if len(rest)%12 != 0 || len(rest) > 12*MaxScrape {
			return r, syntax(msgUDPReply, "scrape with %d bytes, want a multiple of 12, at most %d", len(rest), 12*MaxScrape)
		}
		for ; len(rest) > 0; rest = rest[12:] {
			n := func(i int) int { return count(int64(int32(be.Uint32(rest[i:])))) }
			r.Counts = append(r.Counts, Counts{Seeders: n(0), Downloaded: n(4), Leechers: n(8)})
		}
	case ActionError:
		r.Failure = &FailureError{Reason: cleanText(rest)}
	default:
		return r, syntax(msgUDPReply, "action %d", r.Action)
	}
	return r, nil
}
