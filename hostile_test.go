package parley_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// never says that an attack need not be ended by us in the time of a test.
const never = time.Duration(0)

// attack is something that a stranger does to a client that serves a torrent.
type attack struct {
	name string
	// raw attacks get a connection before the hello, others one whose hellos are complete and whose exchange has come.
	raw bool
	// run writes until it has nothing more to write, or cannot. A connection it leaves is read until it ends.
	run func(a *attacker)
	// deaf attacks read nothing until they are through with writing.
	deaf bool
	// closed is within what time of the last byte written the client must have closed the connection.
	closed time.Duration
}

// attacker is the connection of an attack, and the ids that the client accepts.
type attacker struct {
	*rawpeer.Peer
	metadata, app uint8
	pieces        int
}

// flood writes b again and again for a second, or until the client has had enough.
func (a *attacker) flood(b []byte) {
	for len(b) < 16<<10 {
		b = append(b, b...)
	}
	end := time.Now().Add(time.Second)
	for time.Now().Before(end) {
		a.SetWriteDeadline(end)
		if _, err := a.Write(b); err != nil {
			return
		}
	}
}

func (a *attacker) extended(id uint8, payload []byte) []byte {
	return classic.AppendExtended(nil, wire.Extended{ID: id, Payload: payload})
}

var attacks = []attack{
	{name: "HTTP", raw: true, closed: time.Second, run: func(a *attacker) { a.Write([]byte("GET /announce HTTP/1.1\r\nHost: example.org\r\n\r\n")) }},
	{name: "MSE", raw: true, closed: time.Second, run: func(a *attacker) {
		b := make([]byte, 96+300)
		rand.Read(b)
		a.Write(b)
	}},
	{name: "garbage", raw: true, closed: time.Second, run: func(a *attacker) {
		b := make([]byte, 100_000)
		rand.Read(b)
		a.Write(b)
	}},
	{name: "almost a hello", raw: true, closed: time.Second, run: func(a *attacker) { a.Write([]byte("\x13BitTorrent protocoL" + string(make([]byte, 48)))) }},
	{name: "another torrent", raw: true, closed: time.Second, run: func(a *attacker) {
		a.Write(classic.AppendHello(nil, classic.Hello{InfoHash: bt.InfoHash{1}, PeerID: bt.PeerID{2}}))
	}},
	{name: "half a hello", raw: true, closed: never, run: func(a *attacker) { a.Write([]byte("\x13BitTorrent protocol1234")) }},
	{name: "nothing", raw: true, closed: never, run: func(*attacker) {}},

	{name: "the longest length", closed: 5 * time.Second, run: func(a *attacker) { a.Write([]byte{0xff, 0xff, 0xff, 0xff, 7}) }},
	{name: "a long unknown frame", closed: 5 * time.Second, run: func(a *attacker) { a.Write([]byte{0, 1, 0, 1, 99}) }},
	{name: "a long extended frame", closed: 5 * time.Second, run: func(a *attacker) { a.Write([]byte{0, 0x10, 0, 1, 20}) }},
	{name: "a piece larger than asked for", closed: 5 * time.Second, run: func(a *attacker) { a.Write([]byte{0, 0, 0x40, 10, 7}) }},
	{name: "a bitfield of the wrong size", closed: 5 * time.Second, run: func(a *attacker) { a.Write(classic.AppendBitfield(nil, wire.Bitfield{Bits: []byte{1}})) }},
	{name: "a have out of range", closed: 5 * time.Second, run: func(a *attacker) {
		a.Write(classic.AppendHave(nil, wire.Have{Index: bt.PieceIndex(a.pieces)}))
	}},
	{name: "a short request", closed: 5 * time.Second, run: func(a *attacker) { a.Write([]byte{0, 0, 0, 2, classic.IDRequest, 0}) }},
	{name: "a request too large", closed: 5 * time.Second, run: func(a *attacker) {
		a.Write(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Length: wire.MaxRequest + 1}}))
	}},
	{name: "a request out of range", closed: 5 * time.Second, run: func(a *attacker) {
		a.Write(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Index: bt.PieceIndex(a.pieces), Length: 1}}))
	}},
	{name: "a message too large", closed: 5 * time.Second, run: func(a *attacker) { a.Write(a.extended(a.app, make([]byte, 1001))) }},
	{name: "metadata that is none", closed: 5 * time.Second, run: func(a *attacker) { a.Write(a.extended(a.metadata, []byte("i1e"))) }},

	{name: "keep-alives", closed: 5 * time.Second, run: func(a *attacker) { a.flood(classic.AppendKeepAlive(nil)) }},
	{name: "unknown frames", closed: 5 * time.Second, run: func(a *attacker) { a.flood([]byte{0, 0, 0, 1, 99}) }},
	{name: "unknown extended ids", closed: 5 * time.Second, run: func(a *attacker) { a.flood(a.extended(250, nil)) }},
	{name: "exchanges", closed: 5 * time.Second, run: func(a *attacker) { a.flood(a.extended(0, []byte("d1:md1:xi1eee"))) }},
	{name: "exchanges that are none", closed: 5 * time.Second, run: func(a *attacker) { a.flood(a.extended(0, bytes.Repeat([]byte("l"), 60_000))) }},
	{name: "exchanges with many names", closed: 5 * time.Second, run: func(a *attacker) {
		var m []ltep.Entry
		for i := range 900 {
			name := binary.BigEndian.AppendUint32(bytes.Repeat([]byte{'x'}, 56), uint32(i))
			m = append(m, ltep.Entry{Name: string(name), ID: uint8(i)})
		}
		a.flood(a.extended(0, ltep.AppendExchange(nil, &ltep.Exchange{M: m})))
	}},
	{name: "interest", closed: never, run: func(a *attacker) { a.flood(classic.AppendNotInterested(classic.AppendInterested(nil))) }},
	{name: "requests while choked, unread", deaf: true, closed: 5 * time.Second, run: func(a *attacker) {
		a.flood(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Length: bt.BlockBytes}}))
	}},
	{name: "requests, unread", deaf: true, closed: 5 * time.Second, run: func(a *attacker) {
		a.Write(classic.AppendInterested(nil))
		a.Until(func(m wire.Message) bool { return m.Kind() == wire.KindUnchoke })
		a.flood(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Length: bt.BlockBytes}}))
	}},
	{name: "large requests, unread", deaf: true, closed: 5 * time.Second, run: func(a *attacker) {
		a.Write(classic.AppendInterested(nil))
		a.Until(func(m wire.Message) bool { return m.Kind() == wire.KindUnchoke })
		a.flood(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Length: wire.MaxRequest}}))
	}},
	{name: "requests and cancels, unread", deaf: true, closed: 5 * time.Second, run: func(a *attacker) {
		b := bt.Block{Length: bt.BlockBytes}
		a.Write(classic.AppendInterested(nil))
		a.Until(func(m wire.Message) bool { return m.Kind() == wire.KindUnchoke })
		a.flood(classic.AppendCancel(classic.AppendRequest(nil, wire.Request{Block: b}), wire.Cancel{Block: b}))
	}},
	{name: "metadata requests, unread", deaf: true, closed: 5 * time.Second, run: func(a *attacker) {
		a.Extended(0, ltep.AppendExchange(nil, &ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 1}}}))
		a.flood(a.extended(a.metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataRequest})))
	}},
	{name: "metadata nobody asked for", closed: never, run: func(a *attacker) {
		a.flood(a.extended(a.metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataData, TotalSize: 1 << 20, Data: make([]byte, 16<<10)})))
	}},
	{name: "tiny blocks nobody asked for", closed: never, run: func(a *attacker) {
		a.flood(classic.AppendPiece(nil, wire.Piece{Data: []byte{1}}))
	}},
	{name: "rejects nobody asked for", closed: never, run: func(a *attacker) {
		a.flood(classic.AppendReject(nil, wire.Reject{Block: bt.Block{Length: 1}}))
	}},
	{name: "suggestions", closed: never, run: func(a *attacker) { a.flood(classic.AppendSuggest(nil, wire.Suggest{})) }},
	{name: "blocks nobody asked for", closed: never, run: func(a *attacker) {
		a.flood(classic.AppendPiece(nil, wire.Piece{Data: make([]byte, bt.BlockBytes)}))
	}},
	{name: "messages for a slow handler", closed: never, run: func(a *attacker) { a.flood(a.extended(a.app, make([]byte, 1000))) }},
	{name: "empty messages for a slow handler", closed: never, run: func(a *attacker) { a.flood(a.extended(a.app, nil)) }},
	{name: "the head of a large frame, slowly", closed: never, run: func(a *attacker) {
		a.Write([]byte{0, 0x0f, 0, 0, 20, a.app})
		for range 20 {
			time.Sleep(20 * time.Millisecond)
			a.Write(make([]byte, 5000))
		}
	}},
	{name: "reads nothing", deaf: true, closed: never, run: func(a *attacker) {
		a.Write(classic.AppendInterested(nil))
		for i := range 400 {
			a.Write(classic.AppendRequest(nil, wire.Request{Block: bt.Block{Index: bt.PieceIndex(i % a.pieces), Length: bt.BlockBytes}}))
		}
	}},
}

// memoryBound is by how much the heap may grow under an attack by four at once: each may take a frame of 1 MiB that is incomplete, 1 MiB of messages that
// wait, and buffers of 256 KiB while something is read or written; the inbox of the torrent holds batches; the collector lets garbage grow to as much
// again, and under the race detector pools forget half of what they are given.
const memoryBound = 96 << 20

// A client under attack by several strangers at once serves an honest peer all the same, keeps its memory bounded, and lets go of the strangers.
func TestHostilePeers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "content")
	const pieces = 256
	content := writeFile(t, path, pieces*16<<10)
	for _, at := range attacks {
		t.Run(at.name, func(t *testing.T) {
			client := newClient(t, parley.Config{UploadSlots: 100, MaxMessageBytes: 1000})
			tor := share(t, client, path)
			if _, err := tor.Register(parley.MessageType{Name: "app", Handler: func(ctx context.Context, _ *parley.Message) error {
				<-ctx.Done() // as slow as it may be
				return nil
			}}); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var peak atomic.Uint64
			sampling := make(chan struct{})
			var group, sampler sync.WaitGroup
			sampler.Go(func() {
				for {
					select {
					case <-sampling:
						return
					case <-time.After(10 * time.Millisecond):
					}
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					peak.Store(max(peak.Load(), m.HeapAlloc))
				}
			})
			stop := make(chan struct{})
			const attackers = 4
			attacking := make(chan struct{}, attackers)
			for i := range attackers {
				group.Go(func() {
					at.against(t, client, tor, byte(i), pieces, stop, attacking)
				})
			}
			for range attackers {
				<-attacking
			}
			honest := newClient(t, parley.Config{})
			dst := t.TempDir()
			lt, err := honest.AddTorrent(tor.Metainfo(), parley.TorrentOptions{Dir: dst, Peers: []netip.AddrPort{client.Addr()}})
			if err != nil {
				t.Fatal(err)
			}
			if err := lt.WaitComplete(within(t, 20*time.Second)); err != nil {
				t.Errorf("the honest peer: %v; %+v", err, lt.Stats())
			} else if got, err := os.ReadFile(filepath.Join(dst, "content")); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the honest peer has other content: %v", err)
			}
			close(stop)
			group.Wait()
			close(sampling)
			sampler.Wait()
			if grown := int64(peak.Load()) - int64(before.HeapAlloc); grown > memoryBound {
				t.Errorf("the heap grew by %d MiB under attack, want no more than %d", grown>>20, memoryBound>>20)
			}
			if s := tor.Stats(); s.State != parley.StateSeeding || s.Err != nil {
				t.Errorf("afterwards: %+v", s)
			}
			if err := client.Close(); err != nil {
				t.Errorf("closing under attack: %v", err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			t.Logf("heap: %d KiB before, %d KiB at most, %d KiB after", before.HeapAlloc>>10, peak.Load()>>10, after.HeapAlloc>>10)
		})
	}
}

// Attacks on a client that downloads.
var attacksOnDownloads = []attack{
	{name: "chokes and unchokes", closed: never, run: func(a *attacker) {
		a.Write(classic.AppendHaveAll(nil))
		a.flood(classic.AppendChoke(classic.AppendUnchoke(nil)))
	}},
	{name: "rejects everything", deaf: true, closed: never, run: func(a *attacker) {
		a.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
		a.SetReadDeadline(time.Now().Add(time.Second))
		a.Until(func(m wire.Message) bool {
			if r, ok := m.(*wire.Request); ok {
				a.Write(classic.AppendReject(nil, wire.Reject{Block: r.Block}))
			}
			return false
		})
	}},
	{name: "sends wrong blocks", deaf: true, closed: 5 * time.Second, run: func(a *attacker) {
		a.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
		a.Until(func(m wire.Message) bool {
			if r, ok := m.(*wire.Request); ok {
				a.Write(classic.AppendPiece(nil, wire.Piece{Index: r.Block.Index, Begin: r.Block.Begin, Data: make([]byte, r.Block.Length)}))
			}
			return false
		})
	}},
	{name: "sends what nobody asked for", closed: 5 * time.Second, run: func(a *attacker) {
		a.flood(classic.AppendPiece(nil, wire.Piece{Data: make([]byte, bt.BlockBytes)}))
	}},
	{name: "sends crumbs", closed: never, run: func(a *attacker) {
		a.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
		a.flood(classic.AppendPiece(nil, wire.Piece{Data: []byte{1}}))
	}},
	{name: "sends crumbs from beyond the end", closed: never, run: func(a *attacker) {
		a.flood(classic.AppendPiece(nil, wire.Piece{Index: 1<<32 - 1, Begin: 1<<32 - 1, Data: []byte{1}}))
	}},
	{name: "allows what it does not have", closed: never, run: func(a *attacker) {
		a.Write(classic.AppendHaveNone(nil))
		a.flood(classic.AppendAllowedFast(nil, wire.AllowedFast{Index: 1}))
	}},
	{name: "has the same piece again and again", closed: 5 * time.Second, run: func(a *attacker) {
		a.flood(classic.AppendHave(nil, wire.Have{Index: 1}))
	}},
}

// A client that downloads bears all of that, and its download completes from the one who is honest.
func TestHostilePeersOfADownload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "content")
	const pieces = 256
	content := writeFile(t, path, pieces*16<<10)
	for _, at := range attacksOnDownloads {
		t.Run(at.name, func(t *testing.T) {
			seed, client := newClient(t, parley.Config{}), newClient(t, parley.Config{})
			st := share(t, seed, path)
			dst := t.TempDir()
			tor, err := client.AddTorrent(st.Metainfo(), parley.TorrentOptions{Dir: dst})
			if err != nil {
				t.Fatal(err)
			}
			if err := tor.WaitMetadata(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			var group sync.WaitGroup
			stop := make(chan struct{})
			const attackers = 4
			attacking := make(chan struct{}, attackers)
			for i := range byte(attackers) {
				group.Go(func() { at.against(t, client, tor, i, pieces, stop, attacking) })
			}
			for range attackers {
				<-attacking
			}
			tor.AddPeers(seed.Addr())
			if err := tor.WaitComplete(within(t, 30*time.Second)); err != nil {
				t.Errorf("%v; %+v", err, tor.Stats())
			} else if got, err := os.ReadFile(filepath.Join(dst, "content")); err != nil || !bytes.Equal(got, content) {
				t.Errorf("other content: %v", err)
			}
			close(stop)
			group.Wait()
		})
	}
}

// against runs one attack. It says on attacking that it has begun, and stays connected until stop where the client need not close it.
func (at attack) against(t *testing.T, client *parley.Client, tor *parley.Torrent, n byte, pieces int, stop <-chan struct{}, attacking chan<- struct{}) {
	begun := sync.OnceFunc(func() { attacking <- struct{}{} })
	defer begun()
	nc, err := net.Dial("tcp", client.Addr().String())
	if err != nil {
		t.Error(err)
		return
	}
	defer nc.Close()
	a := &attacker{Peer: rawpeer.New(t, nc), pieces: pieces}
	if !at.raw {
		if _, err := a.Greet(tor.InfoHash(), bt.PeerID{0xff, n}, rawpeer.LTEP); err != nil {
			t.Errorf("hello: %v", err)
			return
		}
		e, err := a.UntilExchange()
		if err != nil {
			t.Errorf("exchange: %v", err)
			return
		}
		for _, x := range e.M {
			switch x.Name {
			case ltep.NameMetadata:
				a.metadata = x.ID
			case "app":
				a.app = x.ID
			}
		}
	}
	if at.deaf {
		nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	}
	ended := make(chan error, 1)
	read := func() {
		_, err := a.UntilClosed(time.Minute)
		ended <- err
	}
	if !at.deaf {
		go read()
	}
	time.AfterFunc(100*time.Millisecond, begun) // the honest peer comes while the attack lasts
	at.run(a)
	began := time.Now()
	if at.deaf {
		go read()
	}
	if at.closed == never {
		<-stop
		nc.Close()
		<-ended
		return
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > at.closed {
			t.Errorf("closed after %v, want within %v", d, at.closed)
		}
	case <-time.After(at.closed + 5*time.Second):
		t.Errorf("not closed within %v", at.closed)
		nc.Close()
		<-ended
	}
}

// Strangers that connect and say nothing take the places of the handshake; whoever waits behind them gets a turn when they go.
func TestMaxHandshakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	writeFile(t, path, 100_000)
	seed := newClient(t, parley.Config{MaxHandshakes: 4})
	tor := share(t, seed, path)
	var strangers []net.Conn
	for range 4 {
		nc, err := net.Dial("tcp", seed.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		strangers = append(strangers, nc)
	}
	leech := newClient(t, parley.Config{})
	lt, err := leech.AddTorrent(tor.Metainfo(), parley.TorrentOptions{Dir: t.TempDir(), Peers: []netip.AddrPort{seed.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if n := tor.Stats().Peers; n != 0 {
		t.Errorf("%d peers got in although all places were taken", n)
	}
	for _, nc := range strangers {
		nc.Close()
	}
	if err := lt.WaitComplete(within(t, 20*time.Second)); err != nil {
		t.Errorf("%v; %+v", err, lt.Stats())
	}
}
