package parley

import (
	"crypto/ed25519"
	"log/slog"
	"net/netip"
	"time"

	"github.com/parley-bt/parley/internal/discovery"
	"github.com/parley-bt/parley/tracker"
	"github.com/parley-bt/parley/wire"
)

// Config configures a [Client]. The zero value is usable; every field says what its zero means.
type Config struct {
	// ListenAddr is the TCP address ("host:port") on which peers are accepted. Empty means ":0", a free port on all
	// interfaces. Use "127.0.0.1:0" to be reachable from this machine only.
	ListenAddr string
	// NoListen makes a client that only dials. ListenAddr is then ignored.
	NoListen bool
	// ClientName is what peers are told about this program (BEP 10, "v"). Empty means "Parley" and the version.
	ClientName string
	// Logger receives what an operator should know; nil discards it. Text that came from peers is escaped by the caller of
	// the handler as slog's handlers do; the library never logs message payloads.
	Logger *slog.Logger

	// StateDir is a folder of the program's own, made if missing, in which it is remembered which pieces of every torrent have been verified, so that
	// a start hashes only what has changed since, the metadata of torrents that were added by their link, and nodes of the DHT. Empty means that each download remembers it in a hidden file beside its data until
	// it is complete, and that [Client.SeedTorrent] hashes everything.
	StateDir string

	// AllowNetworks are networks whose addresses may be dialled on anybody's word. Without them an address may not be more local than whoever named it: a tracker
	// or a peer on the internet cannot send this program to this machine or to a private network. Addresses given to [Torrent.AddPeers] and in TorrentOptions are
	// the user's word, and need no leave.
	AllowNetworks []netip.Prefix

	// StopTimeout is how long [Client.Close] waits for trackers to be told of the end, a minute at most; 0 means a second. With many torrents that is not enough for all: trackers are told
	// first of torrents that had peers, and UDP trackers before others. Whom nobody told finds out when the next announce does not come.
	StopTimeout time.Duration
	// NoTrackers keeps torrents from being announced to any tracker, those of TorrentOptions.Trackers included.
	NoTrackers bool
	// DHT finds peers of torrents that are not private in a distributed hash table, and announces them there; nil: it is not used. The client does not close it. See package dht.
	DHT DHT
	// LocalDiscovery announces torrents that are not private by multicast on the local networks, and dials those that do likewise (BEP 14). Everybody on these networks can
	// read which torrents they are. Without a network that can do it a warning is logged. It needs a listener.
	LocalDiscovery bool
	localEndpoints []discovery.Endpoint // for tests; nil: those of this machine's networks
	trackers       tracker.Config       // for tests: how trackers are resolved and dialled

	// MaxPeers is the largest number of connected peers per torrent; 0 means 200.
	MaxPeers int
	// MaxConnections is the largest number of connections over all torrents, those that are being opened among them; 0 means 2,000 or MaxPeers, whichever is more, and
	// on Unix no more than half of the files that the process may have open. Beyond it nothing is dialled, and beyond seven eighths of it who connects is turned away.
	MaxConnections int
	// MaxHalfOpen is how many connections may be being opened by us at once, over all torrents, which take turns; 0 means 64.
	MaxHalfOpen int
	// MaxPerAddress is the largest number of connections of one torrent with one address: an IPv4 address, or an IPv6 network of 64 bits. 0 means 4, and no bound beside
	// MaxPeers for addresses of this machine and of private networks, behind which many peers may live. A value other than 0 counts for all. It does not
	// keep [Torrent.AddPeers] from dialling.
	MaxPerAddress int
	// MaxHandshakesPerAddress is how many of MaxHandshakes one such address may have, so that silent strangers at one place leave room for others; who is beyond it is
	// turned away at once. 0 means an eighth, and no bound for addresses of this machine. A value other than 0 counts for all.
	MaxHandshakesPerAddress int
	// NoPeerExchange neither tells peers of each other nor listens to what they tell (BEP 11). In private torrents it never happens.
	NoPeerExchange bool
	// MaxHandshakes is how many incoming connections may be in their handshake at once, over all torrents; 0 means 512. Beyond it the
	// listener waits before it accepts more.
	MaxHandshakes int
	// UploadSlots is how many interested peers are unchoked at once per torrent; 0 means 8.
	UploadSlots int
	// MaxUploads is how many peers of all torrents together are unchoked at once, shared out evenly between torrents; 0 means any number.
	MaxUploads int
	// UploadLimit and DownloadLimit are how many bytes of all torrents together may be sent and received in a second; 0 means any number, the least is [MinLimit]. Blocks of pieces
	// wait for the limit, evenly shared by torrents and by the peers of each; what keeps the swarm going and application messages count and never wait. Under a low
	// upload limit there are fewer upload slots: no more than can have 5 KiB/s each, and two at least. [Client.SetLimits] changes them.
	UploadLimit, DownloadLimit int64
	// MaxActiveDownloads and MaxActiveSeeds are how many torrents that are not complete, and that are, take part in their swarms at once; 0 means any number. The
	// others are queued, in the order in which they were added; what is there of them is verified all the same. Those added with NoDownload do not count.
	MaxActiveDownloads, MaxActiveSeeds int
	// SeedRatio and SeedTime are goals: a torrent that is complete is paused when as many bytes have been sent per byte of it, or it has been seeding for so long,
	// since it was added, whichever comes first. 0 means no goal. [Torrent.Resume] goes on beyond it.
	SeedRatio float64
	SeedTime  time.Duration
	// BufferBytes bounds the memory of a torrent's blocks that were requested or received and are not yet on disk;
	// 0 means 64 MiB.
	BufferBytes int

	// MaxMessageBytes is the largest application message accepted or sent where the dialect leaves it to us (EMP/1 table 7.6);
	// 0 means 65,534, the most that deployed BEP 10 clients take. At most 1,048,574.
	MaxMessageBytes int
	// SendQueueBytes bounds the application messages that wait to be written to one peer; a Send beyond it waits.
	// 0 means 1 MiB.
	SendQueueBytes int
	// ReceiveQueueBytes bounds the messages of one peer that wait for their handlers; while it is full that peer's connection
	// is not read, and TCP tells the peer (EMP/1 table 7.6). 0 means 1 MiB.
	ReceiveQueueBytes int
	// NoEMP neither offers nor uses the enhanced dialect (EMP/1 Part B): messages then travel in plain BEP 10 frames, without versions, requests and
	// flow control.
	NoEMP bool
	// MessageWindowBytes is how much of messages, with 64 bytes for each, a peer may have sent that no handler is done with (EMP/1 section 7.3, "win"). 0 means what
	// the types need when it is told: four times the largest of them, 1 MiB at least, and above 16 MiB no more than twice the largest and 65,600. Otherwise no type may be larger than this less 64; at least 65,600, at most 2^31-1.
	MessageWindowBytes int
	// MaxRequests is how many requests of one peer may be unanswered at once (EMP/1 section 7.3, "req"); 0 means 64, negative none.
	MaxRequests int
	// MessageMemoryBytes bounds the memory of messages that were received in the enhanced dialect and are not handled yet, over all peers of all torrents; no peer may have
	// more than a quarter of what is left. Beyond it messages are refused, and their senders' calls fail with [ErrPeerBusy]. Every peer may have 131,200 bytes beside it, so
	// that nobody can have others' ordinary messages refused. 0 means 256 MiB.
	MessageMemoryBytes int
	// HandlerTimeout ends the context of a message handler (EMP/1 section 7.3); 0 means 30 s.
	HandlerTimeout time.Duration

	// AcceptHellos are the hellos by which peers may begin (EMP/1 section 2); nil means all. Who begins in another way is neither answered nor told why: for as long as any hello may take the
	// connection is read, and then closed.
	AcceptHellos []Hello
	// DialHellos are the hellos with which addresses are dialled, one after the other, each by a connection of its own, until one works; what worked at an address goes first for 7 days. nil
	// means plaintext and then MSE, and where a peer has said that it takes veiled hellos, veil, MSE, plaintext. A list that has neither HelloPlaintext nor nil keeps everything that this client
	// says hidden; peers that know no obfuscated hello are then out of reach.
	DialHellos []Hello
	// AllowDowngrade lets an address be dialled in plaintext where an obfuscated hello has worked within 7 days. Without it whoever can break connections cannot make peers that know each
	// other fall back to plaintext.
	AllowDowngrade bool
	// MSE says whether the plaintext of MSE, which hides the first bytes alone, is offered and accepted beside RC4.
	MSE MSEMethods
	// Identity is a key that is proven to peers of veiled sessions, as far as they care (EMP/1 section 5.1); nil: none is. It links this client's sessions in all swarms.
	Identity ed25519.PrivateKey

	accept wire.Hellos // AcceptHellos, by resolved

	// Set by resolved: what MaxPerAddress and MaxHandshakesPerAddress are for addresses that are near. 0 is no bound.
	nearPerAddress, nearHandshakes int

	// NoWebSeeds leaves web servers alone that torrents and magnet links name, and those of TorrentOptions.
	NoWebSeeds bool
}
