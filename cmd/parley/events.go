package main

import (
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
		return peerEvent{h, ev.Peer.String(), i.ID.String(), i.Client, i.Dialect.String(), i.Hello.String(), i.Initiator, i.Seed, i.Types, errText}
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

// messageEvent is one message that has arrived, or an echo that could not be sent. Exactly one of the payloads is there for a
// message.
type messageEvent struct {
	head
	Type          string  `json:"type"`
	Peer          string  `json:"peer"`
	Bytes         int     `json:"bytes"`
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 []byte  `json:"payload_base64,omitempty"`
}

type echoFailedEvent struct {
	head
	Type  string `json:"type"`
	Peer  string `json:"peer"`
	Error string `json:"error"`
}

func messageJSON(event string, m *parley.Message) messageEvent {
	e := messageEvent{head: now(event), Type: m.Type, Peer: m.Peer.String(), Bytes: len(m.Payload)}
	if utf8.Valid(m.Payload) {
		e.Payload = new(string(m.Payload))
	} else {
		e.PayloadBase64 = m.Payload
	}
	return e
}

const eventHelp = `With --json, and always for listen, standard output carries one JSON object per line. Each has "event" and "time" (UTC).
Every character that a terminal would not show (control, bidirectional and zero-width ones) is written as \uXXXX.
What is told of one torrent has "info_hash" besides, which of a v2 torrent is the beginning of "info_hash_v2".

  listening          the torrent is served: "info_hash", "info_hash_v2" if it has one, "name", "magnet", "addrs" (where peers can dial), "types", and "skipped" (paths
                     of a folder that are no regular files)
  peer_connected     "peer" (address), "peer_id", "client", "dialect", "hello", "initiator", "seed", "types"
  peer_types         the same fields: the message types that the peer receives are known or have changed
  peer_disconnected  the same fields, and "error" unless the peer left in good order
  dial_failed        "addr", "error", of an address given by --peer or by the link: it will be tried again, and this is told again when the reason changes
  tracker            what came of an announce: "tracker" (scheme and host), "info_hash", "peers" (named), "dropped" (of these not taken),
                     "seeders" and "leechers" if it says so, "failures" (in a row), "next" (when it is asked again, if it is), "warning", "error"
  scrape             show --scrape: "tracker", "info_hash", "seeders", "leechers", "downloaded", "error"
  tracking           tracker: it answers: "addr", "urls" (to announce to)
  tracker_stats      tracker, on SIGUSR1 and as often as --stats says: "torrents", "peers" (now), "announces", "scrapes" (answered), "refused",
                     "limited" (of these, asked too often), "bad_connection_ids", "malformed_datagrams"
  web_seed_failed    "url", "error": it may be tried again later
  message            "type", "peer", "bytes", and "payload" if it is UTF-8 text, else "payload_base64"; messages do not wait for other lines, so that the first
                     may stand before its peer's peer_connected
  echo_failed        "type", "peer", "error": a message that listen --echo could not return
  sent               send: "type", "peer", "client", "bytes": a peer has taken the message
  answer             send --wait: the fields of message
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
                     connected), "downloaded", "uploaded", "messages" (received)
  done               get: the fields of complete, and "name", "path", "seconds"
  listed             get --list, for each file: "index", "path", "bytes", "offset" (in the torrent), "wanted" (--file, --skip and --cat do not
                     leave it out)
  created            create: "info_hash", "info_hash_v2", "name", "magnet", "path", "total_bytes", "piece_bytes", "pieces", "files", "skipped"
  torrent, magnet    show: what the torrent or link says
  file               verify, for each file: "path", "bytes", "state" (ok, partial, missing or damaged), "pieces" (that lie in it), "bad_pieces",
                     "unknown_pieces" (shared with a file that is not whole), "error"
  checked            verify: "info_hash", "files", and of these "ok", "partial", "missing", "damaged"
  version            "version", "revision", "go", "platform"
  torrent_error      "error": why a torrent has stopped
  closed             the torrent has been closed
  error              "error", "hint", "exit_code": why the program ends with an exit code other than 0`
