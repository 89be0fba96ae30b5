package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"unicode/utf8"

	"github.com/parley-bt/parley"
)

// The JSON lines. Their fields are documented in eventHelp and by "parley help events"; they only ever grow.

// torrentHead begins the lines about a torrent.
type torrentHead struct {
	head
	InfoHash string `json:"info_hash,omitempty"` // left out where the figures are those of several torrents
}

type statsEvent struct {
	torrentHead
	statsFields
}

type statsFields struct {
	State         string  `json:"state"`
	TotalBytes    int64   `json:"total_bytes"`
	HaveBytes     int64   `json:"have_bytes"`
	WantedBytes   int64   `json:"wanted_bytes"`
	WantedHave    int64   `json:"wanted_have_bytes"`
	Pieces        int     `json:"pieces"`
	HavePieces    int     `json:"have_pieces"`
	Peers         int     `json:"peers"`
	Seeds         int     `json:"seeds"`
	Downloaded    int64   `json:"downloaded"`
	Uploaded      int64   `json:"uploaded"`
	Wasted        int64   `json:"wasted"`
	DownRate      float64 `json:"down_rate"`
	UpRate        float64 `json:"up_rate"`
	CorruptPieces int     `json:"corrupt_pieces"`
	WebSeeds      int     `json:"web_seeds"`
}

func statsJSON(s parley.Stats) statsFields {
	return statsFields{
		State: s.State.String(), TotalBytes: s.TotalBytes, HaveBytes: s.HaveBytes, WantedBytes: s.WantedBytes, WantedHave: s.WantedHave, Pieces: s.Pieces, HavePieces: s.HavePieces,
		Peers: s.Peers, Seeds: s.Seeds, Downloaded: s.Downloaded, Uploaded: s.Uploaded, Wasted: s.Wasted,
		DownRate: s.DownRate, UpRate: s.UpRate, CorruptPieces: s.CorruptPieces, WebSeeds: s.WebSeeds,
	}
}

type peerEvent struct {
	torrentHead
	Peer      string   `json:"peer"`
	PeerID    string   `json:"peer_id"`
	Client    string   `json:"client"`
	Dialect   string   `json:"dialect"`
	Hello     string   `json:"hello"`
	Initiator bool     `json:"initiator"`
	Seed      bool     `json:"seed"`
	Identity  string   `json:"identity,omitempty"`
	Types     []string `json:"types"`
	Error     string   `json:"error,omitempty"`
}

type dialEvent struct {
	torrentHead
	Addr  netip.AddrPort `json:"addr"`
	Error string         `json:"error"`
}

type missedEvent struct {
	torrentHead
	Missed int `json:"missed"`
}

// torrentErrorEvent is of kind "torrent_error": "error" is what ends the program.
type torrentErrorEvent struct {
	torrentHead
	Error string `json:"error"`
}

// eventJSON is the line for an event of the torrent with the given info-hash.
func eventJSON(ev parley.Event, infoHash string) any {
	h := torrentHead{head{Event: ev.Kind.String(), Time: ev.Time.UTC()}, infoHash}
	errText := ""
	if ev.Err != nil {
		errText = ev.Err.Error()
	}
	switch ev.Kind {
	case parley.EventPeerConnected, parley.EventPeerTypes, parley.EventPeerDisconnected:
		i := ev.Peer.Info()
		if i.Types == nil {
			i.Types = []string{} // [] rather than null
		}
		return peerEvent{h, ev.Peer.String(), i.ID.String(), i.Client, i.Dialect.String(), i.Hello.String(), i.Initiator, i.Seed, identityText(i.Identity), i.Types, errText}
	case parley.EventDialFailed:
		return dialEvent{h, ev.Addr, errText}
	case parley.EventWebSeedFailed:
		return webSeedEvent{h, ev.WebSeed, errText}
	case parley.EventVerified, parley.EventProgress, parley.EventComplete, parley.EventPaused, parley.EventResumed, parley.EventSeedGoal:
		return statsEvent{h, statsJSON(ev.Stats)}
	case parley.EventTracker:
		return trackerJSON(h.head, ev.Tracker)
	case parley.EventMissed:
		return missedEvent{h, ev.Missed}
	case parley.EventError:
		h.Event = "torrent_error"
		return torrentErrorEvent{h, errText}
	}
	return h
}

// messageEvent is one message, request or answer that has arrived. Exactly one of the payloads is there, or its beginning, see cutAbove.
type messageEvent struct {
	head
	Type          string  `json:"type"`
	Peer          string  `json:"peer"`
	Version       uint8   `json:"version"`
	Request       bool    `json:"request"`
	ReplyMax      int     `json:"reply_max,omitempty"`
	Bytes         int     `json:"bytes"`
	Cut           bool    `json:"cut,omitempty"`
	SHA256        string  `json:"sha256,omitempty"` // of a payload that is cut
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 []byte  `json:"payload_base64,omitempty"`
}

// answerEvent is the answer to a request.
type answerEvent struct {
	messageEvent
	Client  string  `json:"client"`
	Seconds float64 `json:"seconds"`
}

// Payloads above cutAbove bytes are printed as their first cutTo bytes, unless --full is given.
const (
	cutAbove = 64 << 10
	cutTo    = 1 << 10
)

// handlerFailedEvent says that listen has not taken a message, or not answered a request, and why.
type handlerFailedEvent struct {
	head
	Type    string `json:"type"`
	Peer    string `json:"peer"`
	Version uint8  `json:"version"`
	Request bool   `json:"request"`
	Error   string `json:"error"`
}

type echoFailedEvent struct {
	head
	Type    string `json:"type"`
	Peer    string `json:"peer"`
	Version uint8  `json:"version"`
	Error   string `json:"error"`
}

// withdrawnEvent says that listen receives these types no more.
type withdrawnEvent struct {
	head
	Types []string `json:"types"`
}

// messageJSON is the line for a message; full prints all of it however long it is.
func messageJSON(event string, m *parley.Message, full bool) messageEvent {
	e := messageEvent{head: now(event), Type: m.Type, Peer: m.Peer.String(), Version: m.Version, ReplyMax: m.ReplyMax}
	e.setPayload(m.Payload, full)
	return e
}

func (e *messageEvent) setPayload(b []byte, full bool) {
	e.Bytes = len(b)
	text := utf8.Valid(b)
	if !full && len(b) > cutAbove {
		e.Cut, e.SHA256 = true, sha256Hex(b)
		b = beginning(b, text)
	}
	if text {
		e.Payload = new(string(b))
	} else {
		e.PayloadBase64 = b
	}
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// beginning returns the first cutTo bytes of a long payload, less the character that they would cut if it is text.
func beginning(b []byte, text bool) []byte {
	n := cutTo
	for text && !utf8.RuneStart(b[n]) {
		n--
	}
	return b[:n]
}

const eventHelp = `With --json, and always for listen, standard output carries one JSON object per line. Each has "event" and "time" (UTC).
Every character that a terminal would not show (control, bidirectional and zero-width ones) is written as \uXXXX.
What is told of one torrent has "info_hash" besides, which of a v2 torrent is the beginning of "info_hash_v2".

  listening          the torrent is served: "info_hash", "info_hash_v2" if it has one, "name", "magnet", "addrs" (where peers can dial), "types", and "skipped" (paths
                     of a folder that are no regular files)
  peer_connected     "peer" (address), "peer_id", "client", "dialect", "hello" (plaintext, mse or veil), "initiator", "seed", "types", and "identity" (64
                     hexadecimal digits) if it has proven one
  identity_missing   "peer", "peer_id", "hello", "expected", and "identity" if it has proven another: a session has begun whose peer has not proven an
                     identity of --expect-identity; it goes on
  peer_types         the same fields: the message types that the peer receives are known or have changed. Besides, "receives": of each type "type",
                     "enhanced" (in the dialect emp: with flow control and requests), "min_version", "max_version", "max_bytes" (the largest
                     message), and "version" in which this side sends it, if it knows one of them; and where the dialect is emp "window_bytes"
                     (of messages that the peer lets be sent ahead of its handlers) and "requests" (how many may be unanswered)
  peer_disconnected  the same fields, and "error" unless the peer left in good order
  dial_failed        "addr", "error", of an address given by --peer or by the link: it will be tried again, and this is told again when the reason changes
  tracker            what came of an announce: "tracker" (scheme and host), "info_hash", "peers" (named), "dropped" (of these not taken),
                     "seeders" and "leechers" if it says so, "failures" (in a row), "next" (when it is asked again, if it is), "warning", "error"
  scrape             show --scrape: "tracker", "info_hash", "seeders", "leechers", "downloaded", "error"
  tracking           tracker: it answers: "addr", "urls" (to announce to)
  tracker_stats      tracker, on SIGUSR1 and as often as --stats says: "torrents", "peers" (now), "announces", "scrapes" (answered), "refused",
                     "limited" (of these, asked too often), "bad_connection_ids", "malformed_datagrams"
  web_seed_failed    "url", "error": it may be tried again later
  message            "type", "peer", "version" (0 where the dialect has none), "request" (true or false), "reply_max" of a request (the longest answer that the
                     peer takes), "bytes", and "payload" if it is UTF-8 text, else "payload_base64". Of more than 64 KiB only the first 1,024 bytes
                     stand there, with "cut" (true) and the "sha256" of all, unless --full is given. Messages do not wait for other lines, so that
                     the first may stand before its peer's peer_connected
  handler_failed     listen: "type", "peer", "version", "request", "error": why a message was not taken or a request not answered: --fail, --refuse,
                     --reply-max, no time left, the peer does not wait any longer or does not take so long an answer
  echo_failed        "type", "peer", "version", "error": a message that listen --echo could not return
  withdrawn          listen --withdraw-after: "types", which are not received any more
  sent               send: "type", "peer", "client", "version", "bytes": a peer has taken the message
  answer             send --wait: the fields of message; send --request: besides, "client" and "seconds", and "version" is that of the request
  hashing            "done_pieces", "pieces"
  metadata           the metadata has come from a peer
  verified, progress, complete
                     "state", "total_bytes", "have_bytes", "wanted_bytes" (of the files that are wanted), "wanted_have_bytes", "pieces",
                     "have_pieces", "peers", "seeds", "downloaded", "uploaded", "wasted",
                     "down_rate", "up_rate" (bytes a second), "corrupt_pieces", "web_seeds" (that are of use); progress of several torrents
                     is that of all together, without "info_hash"
  paused, resumed, seed_goal
                     the same fields: the torrent has left the swarm, is back, or has been seeded enough, see --ratio and --seed-time
  missed             "missed": how many events were lost because they were read too slowly; messages never are
  stopped            seed, listen and get --seed, ended by Ctrl-C, a termination signal or a goal: "info_hash", "seconds", "sessions" (how often a peer
                     connected), "downloaded", "uploaded", "messages" and "requests" (received)
  done               get: the fields of complete, and "name", "path", "seconds"
  listed             get --list, for each file: "index", "path", "bytes", "offset" (in the torrent), "wanted" (--file, --skip and --cat do not
                     leave it out)
  created            create: "info_hash", "info_hash_v2", "name", "magnet", "path", "total_bytes", "piece_bytes", "pieces", "files", "skipped"
  torrent, magnet    show: what the torrent or link says
  file               verify, for each file: "path", "bytes", "state" (ok, partial, missing or damaged), "pieces" (that lie in it), "bad_pieces",
                     "unknown_pieces" (shared with a file that is not whole), "error"
  checked            verify: "info_hash", "files", and of these "ok", "partial", "missing", "damaged"
  probe              probe: "addr", "info_hash", "swarm_key", "reachable", "accepted" (the tries whose hello was accepted), and "steps": of each "try" (plaintext, mse-rc4,
                     mse-plaintext, veil; silence and random without a torrent), "outcome" (accepted, closed, no_answer, other, unreachable), "text" (the same
                     for people), "error", "received_bytes", and as far as it was seen "connect_seconds" and, counted from the connection,
                     "first_byte_seconds", "handshake_seconds" (MSE or the veil itself), "hello_seconds", "exchange_seconds" and "end_seconds"; "round_trips"
                     to the hello and "exchange_round_trips" to the exchange; "first_try", if this is the second. Of an accepted one "session", the peer's
                     own word but for "identity", which is proven: "dialect", "reserved" and "reserved_bits", "peer_id", "peer_id_client" (that such a
                     peer_id stands for), "error" (what ended it early), "exchange" (whether one came), "client", "extensions" (name to id), "metadata_size",
                     "reqq", "upload_only", "port", and "emp": "version", "mux", "veil", "window_bytes", "requests", and "types" with "type", "id",
                     "min_version", "max_version", "max_bytes"
  identity           identity new and show: "path", "public_key" (64 hexadecimal digits), "created" (by this command)
  swarm_key          identity swarm-key: "path"
  version            "version", "revision", "go", "platform"
  torrent_error      "error": why a torrent has stopped
  closed             the torrent has been closed
  error              "error", "hint", "exit_code": why the program ends with an exit code other than 0; and "text": what the peer's handler says
                     of its failure (exit code 10)`
