// Package attack is what strangers do to a client, written against a net.Conn, so that the same attack runs over a socket and in the simulated network.
// It says what is done, which limit answers, and how that must end; the tests of this package run it against a client that serves an honest peer
// meanwhile, and show that without the limit the test fails (see docs/attacks.md).
package attack

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// Target is what the client under attack is doing.
type Target uint8

// The targets.
const (
	Seed     Target = iota // it serves content that is complete; an honest peer downloads from it
	Download               // it downloads; an honest peer serves it
	Magnet                 // it has an info-hash and nothing else; an honest peer serves it
)

// Outcome is how an attack ends.
type Outcome uint8

// The outcomes.
const (
	Ended  Outcome = iota // the client ends the session, with one of Attack.Errs
	Stands                // the session goes on: the client answers afterwards as it did before
	Held                  // the client reads no more than it has room for, at most [HeldBytes]
)

// String returns what a table says.
func (o Outcome) String() string { return [...]string{"closed", "stands", "held back"}[min(o, Held)] }

// HeldBytes is how much an attack that is held back may get rid of: the client's queues and read buffer, and what the kernel keeps for both ends of a
// connection, which on loopback can be 6 MiB each.
const HeldBytes = 32 << 20

// ErrSyntax stands in Attack.Errs for any [*wire.SyntaxError].
var ErrSyntax = errors.New("bytes that do not parse")

// TypeName is the message type that the client under attack has registered; MaxMessage is the largest message it takes.
const (
	TypeName   = "app"
	MaxMessage = 1000
)

// Attack is one thing that a stranger does to a client.
type Attack struct {
	Name    string
	Limit   string // what answers it, by its name in the code
	Against Target
	Outcome Outcome
	Errs    []error // Ended: with one of these. Stands: these may end it all the same
	// Raw attacks get a connection before the hello. Others get one whose hellos are complete and, unless Plain, on which the exchanges have been sent and read.
	Raw bool
	// Plain says hello without any reserved bit.
	Plain bool
	// Deaf attacks read nothing before Run returns, but for what Run itself reads.
	Deaf bool
	// App attacks need a client that has registered [TypeName], with a handler that does not return.
	App bool
	// EMP attacks speak the enhanced dialect, to a client that has registered the types of emp.go. Offer makes the exchange that the attacker sends, nil for none at all; if it is not
	// set the attacker offers [EchoType].
	EMP   bool
	Offer func(a *Attacker) *ltep.Exchange
	// Provokes says that the client sends messages and requests of [EchoType] to the attackers that receive them. Calls are how some of these calls must end; beside that
	// they may end well, when their time is over, or with their session, and in no other way.
	Provokes bool
	Calls    []CallEnd
	// Withdraws says that the client takes [FickleType] back and registers it again, a few times.
	Withdraws bool
	// V2 attacks are on a torrent of version 2 (BEP 52).
	V2 bool
	// SuperSeed attacks are on a client that super-seeds (BEP 16).
	SuperSeed bool
	// UploadLimit and DownloadLimit are those of the client under attack, in bytes a second; 0 means none.
	UploadLimit, DownloadLimit int64
	// Slow attacks wait for a limit that is minutes long: they are for the simulated network alone. Within is how long they last at most.
	Slow   bool
	Within time.Duration
	// Variants is how many times it is run at least, with [Attacker.Variant] counting up; 0 means once.
	Variants int
	// Run does it. It returns when there is nothing more to write, or the connection has ended.
	Run func(a *Attacker)
	// On, if set, is called for what the client sends once the exchanges are over, unless the attack is deaf. It may write.
	On func(a *Attacker, m wire.Message)
}

// Scene is what the attackers of a torrent know.
type Scene struct {
	InfoHash bt.InfoHash
	Geometry bt.Geometry
	Info     []byte // the info dictionary
	// Of a torrent of version 2: what is known of its files, each longer than a piece, and what answers a request for hashes.
	Files      []metainfo.File
	PieceBytes int64
	Hashes     func(wire.HashSpan) []byte
	// Begun returns how many handlers of a type's requests have begun for the peer at an address, and how many of its messages have been handled. Of EMP attacks.
	Begun func(name string, from net.Addr) (requests, messages int)
}

// Attacker is one connection of an attack.
type Attacker struct {
	*rawpeer.Peer
	Scene
	ID         bt.PeerID // its own
	Client     bt.PeerID // what the client's hello said; zero before it was read
	Variant    int
	Metadata   uint8 // the ids that the client receives ut_metadata, [TypeName], ut_pex, lt_donthave and upload_only under; 0 if it does not
	App, PEX   uint8
	DontHave   uint8
	UploadOnly uint8
	Stop       <-chan struct{} // the honest peer is served: there is no more to show
	Over       <-chan struct{} // nothing more can be read, which is told to those that are not deaf
	Patience   time.Duration   // how long a flood may go on at most
	Pace       time.Duration   // between the writes of a flood
	EMP        emper           // of EMP attacks

	failed   atomic.Pointer[error]
	sent     atomic.Int64
	answered atomic.Bool // for attacks that answer once
	count    atomic.Int64
	shown    sync.Map // pieces that a super-seed has shown
}

// NewAttacker returns the attacker at nc.
func NewAttacker(p *rawpeer.Peer, s Scene, id bt.PeerID) *Attacker {
	a := &Attacker{Scene: s, ID: id, Patience: Patience * 2 / 3, EMP: emper{credit: make(chan struct{}, 1)}}
	a.Peer = p
	a.Peer.Conn = &counted{Conn: p.Conn, n: &a.sent}
	return a
}

// counted counts what is written.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// Fail says that the client has not done what it must.
func (a *Attacker) Fail(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	a.failed.CompareAndSwap(nil, &err)
}

// Sent returns how many bytes have been written.
func (a *Attacker) Sent() int64 { return a.sent.Load() }

// Hello exchanges hellos and, unless plain, type exchanges.
func (a *Attacker) Hello(plain bool) error {
	reserved := rawpeer.LTEP
	if plain {
		reserved = wire.Reserved{}
	}
	h, err := a.Greet(a.InfoHash, a.ID, reserved)
	if err != nil {
		return err
	}
	if a.Client = h.PeerID; plain {
		return nil
	}
	if err := a.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: metadataID}}}); err != nil {
		return err
	}
	return a.learn()
}

// learn reads until the client's exchange has come, and notes what it offers.
func (a *Attacker) learn() error {
	e, err := a.UntilExchange()
	if err != nil {
		return err
	}
	for _, x := range e.M {
		switch x.Name {
		case ltep.NameMetadata:
			a.Metadata = x.ID
		case TypeName:
			a.App = x.ID
		case ltep.NamePEX:
			a.PEX = x.ID
		case ltep.NameDontHave:
			a.DontHave = x.ID
		case ltep.NameUploadOnly:
			a.UploadOnly = x.ID
		case ltep.NameMux:
			a.EMP.ID = x.ID
		}
	}
	if len(e.EMP) == 0 {
		return nil
	}
	return a.EMP.learn(e.EMP)
}

// metadataID is the id under which an attacker receives ut_metadata.
const metadataID = 1

// Ping asks for the first piece of the metadata, which a client that knows it sends.
func (a *Attacker) Ping() error {
	return a.Extended(a.Metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataRequest}))
}

// IsPong reports whether m answers a Ping.
func IsPong(m wire.Message) bool {
	e, ok := m.(*wire.Extended)
	if !ok || e.ID != metadataID {
		return false
	}
	md, err := ltep.ParseMetadata(e.Payload)
	return err == nil && md.Type == ltep.MetadataData && md.Piece == 0
}

// Put writes frames; a connection that has ended meanwhile is what many attacks are about, and is noticed by whoever reads.
func (a *Attacker) Put(frames ...[]byte) bool {
	for _, f := range frames {
		if _, err := a.Write(f); err != nil {
			return false
		}
	}
	return true
}

// flood writes b again and again until the connection or the attacker's patience ends, or, if heeded, until the honest peer is served.
func (a *Attacker) flood(b []byte, heedStop bool) {
	unit := b
	for len(b) < 16<<10 {
		b = append(b[:len(b):len(b)], unit...)
	}
	a.floodNew(func([]byte) []byte { return b }, heedStop)
}

// floodNew is flood for what differs each time: next makes it, in the memory of the one before; nil ends the flood.
func (a *Attacker) floodNew(next func(dst []byte) []byte, heedStop bool) {
	var b []byte
	for end := time.Now().Add(a.Patience); time.Now().Before(end); {
		if heedStop {
			select {
			case <-a.Stop:
				return
			default:
			}
		}
		if b = next(b[:0]); b == nil || !a.Put(b) {
			return
		}
		if a.Pace > 0 {
			time.Sleep(a.Pace)
		}
	}
}

// Flood writes b again and again until the honest peer is served or the connection ends.
func (a *Attacker) Flood(b []byte) { a.flood(b, true) }

// FloodOn writes b again and again until the connection ends, which a limit must bring about.
func (a *Attacker) FloodOn(b []byte) { a.flood(b, false) }

func extended(id uint8, payload []byte) []byte {
	return classic.AppendExtended(nil, wire.Extended{ID: id, Payload: payload})
}

// Unchoked says that it is interested and reads until the client unchokes. For deaf attacks, which read for themselves.
func (a *Attacker) Unchoked() bool {
	return a.Put(classic.AppendInterested(nil)) && a.Until(func(m wire.Message) bool { return m.Kind() == wire.KindUnchoke }) == nil
}

// Wait waits, no longer than until the honest peer is served; false if it is.
func (a *Attacker) Wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-a.Stop:
		return false
	}
}

// eachMinute writes b once a minute until the connection ends, which a limit must bring about within half an hour.
func (a *Attacker) eachMinute(b []byte) {
	for range 30 {
		if !a.Wait(time.Minute) || !a.Put(b) {
			return
		}
	}
}

// pieces returns how many pieces the torrent has.
func (a *Attacker) pieces() bt.PieceIndex { return bt.PieceIndex(a.Geometry.NumPieces()) }
