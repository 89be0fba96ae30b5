package parley_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
)

// loopback starts a client that other programs on this machine can reach.
func loopback() *parley.Client {
	c, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// room joins a swarm that exists to exchange messages: any 20 bytes that the members agree on will do.
func room(c *parley.Client, peers ...netip.AddrPort) *parley.Torrent {
	t, err := c.AddInfoHash(bt.InfoHash{'r', 'o', 'o', 'm'}, parley.TorrentOptions{NoDownload: true, Peers: peers})
	if err != nil {
		log.Fatal(err)
	}
	return t
}

// waitFor returns the first peer that shares a message type.
func waitFor(ctx context.Context, t *parley.Torrent, name string) parley.Peer {
	for e := range t.Events(ctx) {
		if e.Kind == parley.EventPeerTypes && e.Peer.Shares(name) {
			return e.Peer
		}
	}
	log.Fatal(ctx.Err())
	return parley.Peer{}
}

// One client shares a file, another fetches it by its magnet link.
func Example_shareAndFetch() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "parley")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "talk.txt")
	if err := os.WriteFile(path, []byte("hello, swarm\n"), 0o644); err != nil {
		log.Fatal(err)
	}

	seed := loopback()
	defer seed.Close()
	shared, err := seed.Share(ctx, path, parley.TorrentOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(shared.Magnet())

	leech := loopback()
	defer leech.Close()
	fetched, err := leech.AddMagnet(shared.Magnet(), parley.TorrentOptions{
		Dir:   filepath.Join(dir, "downloads"),
		Peers: []netip.AddrPort{seed.Addr()},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := fetched.WaitComplete(ctx); err != nil {
		log.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "downloads", fetched.Name()))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s", fetched.Name(), content)
	// Output:
	// magnet:?xt=urn:btih:0a5f6a0e96c9d08889bae9730292a2498da71e6f&dn=talk.txt&xl=13
	// talk.txt: hello, swarm
}

// A file is read while it is downloaded: the reader has what it needs next fetched first, and waits for it. Another file is left out.
func ExampleTorrent_NewReader() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "parley")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	album := filepath.Join(dir, "album")
	if err := os.Mkdir(album, 0o755); err != nil {
		log.Fatal(err)
	}
	for name, text := range map[string]string{"one.txt": "the first song\n", "two.txt": "the second song\n"} {
		if err := os.WriteFile(filepath.Join(album, name), []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	seed := loopback()
	defer seed.Close()
	shared, err := seed.Share(ctx, album, parley.TorrentOptions{})
	if err != nil {
		log.Fatal(err)
	}

	leech := loopback()
	defer leech.Close()
	t, err := leech.AddTorrent(shared.Metainfo(), parley.TorrentOptions{
		Dir:   filepath.Join(dir, "downloads"),
		Peers: []netip.AddrPort{seed.Addr()},
		Want: func(f parley.File) parley.Priority {
			if f.Path[0] == "two.txt" {
				return parley.PriorityHigh
			}
			return parley.PrioritySkip
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := t.WaitMetadata(ctx); err != nil {
		log.Fatal(err)
	}
	for _, f := range t.Files() {
		fmt.Printf("%s: %d bytes, %v\n", f.Path[0], f.Length, f.Priority)
		if f.Priority == parley.PrioritySkip {
			continue
		}
		r, err := t.NewReader(f.Index)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := io.Copy(os.Stdout, r); err != nil {
			log.Fatal(err)
		}
		r.Close()
	}
	// Output:
	// one.txt: 15 bytes, skip
	// two.txt: 16 bytes, high
	// the second song
}

// A handler answers each message to the peer it came from. The answer waits for room in that peer's queue as long as the handler's context lasts.
func ExampleHandler() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	server, client := loopback(), loopback()
	defer server.Close()
	defer client.Close()
	_, err := room(server).Register(parley.MessageType{
		Name: "example_echo",
		Handler: func(ctx context.Context, m *parley.Message) error {
			return m.Peer.Send(ctx, m.Type, append([]byte("you said: "), m.Payload...))
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	r := room(client, server.Addr())
	echo, err := r.Register(parley.MessageType{Name: "example_echo"}) // no handler: the messages are read by a loop
	if err != nil {
		log.Fatal(err)
	}
	peer := waitFor(ctx, r, "example_echo")
	if err := echo.Send(ctx, peer, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	for m, err := range echo.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", m.Payload)
		break
	}
	// Output: you said: hello
}

// A broadcast goes to everybody who shares the type.
func ExampleType_Broadcast() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	speaker := loopback()
	defer speaker.Close()
	r := room(speaker)
	chat, err := r.Register(parley.MessageType{Name: "example_chat"})
	if err != nil {
		log.Fatal(err)
	}

	heard := make(chan string)
	for range 3 {
		c := loopback()
		defer c.Close()
		_, err := room(c, speaker.Addr()).Register(parley.MessageType{
			Name: "example_chat",
			Handler: func(_ context.Context, m *parley.Message) error {
				heard <- string(m.Payload)
				return nil
			},
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	sharing := map[parley.Peer]bool{}
	for e := range r.Events(ctx) {
		if e.Kind == parley.EventPeerTypes && e.Peer.Shares("example_chat") {
			sharing[e.Peer] = true
		}
		if len(sharing) == 3 {
			break
		}
	}

	n, err := chat.Broadcast(ctx, []byte("hello, all"))
	fmt.Println("sent to", n, err)
	for range n {
		fmt.Println(<-heard)
	}
	// Output:
	// sent to 3 <nil>
	// hello, all
	// hello, all
	// hello, all
}

// Without a handler, messages wait in their peer's queue until a loop takes them.
func ExampleType_Messages() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	receiver, sender := loopback(), loopback()
	defer receiver.Close()
	defer sender.Close()
	words, err := room(receiver).Register(parley.MessageType{Name: "example_words"})
	if err != nil {
		log.Fatal(err)
	}

	peer := waitFor(ctx, room(sender, receiver.Addr()), "example_words")
	for _, word := range []string{"one", "two", "three"} {
		if err := peer.Send(ctx, "example_words", []byte(word)); err != nil {
			log.Fatal(err)
		}
	}

	n := 0
	for m, err := range words.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", m.Payload)
		if n++; n == 3 {
			break
		}
	}
	// Output:
	// one
	// two
	// three
}

// Types come and go while peers are connected; each change is told to them.
func ExampleTorrent_Register() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, b := loopback(), loopback()
	defer a.Close()
	defer b.Close()
	ra, rb := room(a), room(b, a.Addr())
	events := rb.Events(ctx)

	news, err := ra.Register(parley.MessageType{
		Name:    "example_news",
		Handler: func(context.Context, *parley.Message) error { return nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	withdrawn := false
	for e := range events {
		if e.Kind != parley.EventPeerTypes {
			continue
		}
		if shares := e.Peer.Shares("example_news"); shares && !withdrawn {
			fmt.Println("shared:", e.Peer.Types())
			if err := news.Withdraw(); err != nil {
				log.Fatal(err)
			}
			withdrawn = true
		} else if !shares && withdrawn {
			err := e.Peer.Send(ctx, "example_news", []byte("too late"))
			fmt.Println("withdrawn:", errors.Is(err, parley.ErrTypeNotShared))
			break
		}
	}
	// Output:
	// shared: [example_news]
	// withdrawn: true
}

// A chat: everybody hears what the others say, as values. JSON is what they travel in unless the type has another codec.
func Example_chat() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	type line struct{ From, Text string }

	// join makes a member of the room, who has what the others say in a channel.
	join := func(peers ...netip.AddrPort) (*parley.Client, *parley.Torrent, *parley.Type, <-chan line) {
		c := loopback()
		t := room(c, peers...)
		heard := make(chan line, 10)
		chat, err := parley.HandleMessages(t, parley.MessageType{Name: "example_talk"}, func(_ context.Context, _ *parley.Message, l line) error {
			heard <- l
			return nil
		})
		if err != nil {
			log.Fatal(err)
		}
		return c, t, chat, heard
	}
	alice, aliceRoom, aliceChat, aliceHears := join()
	defer alice.Close()
	bob, bobRoom, bobChat, bobHears := join(alice.Addr())
	defer bob.Close()
	waitFor(ctx, aliceRoom, "example_talk")
	waitFor(ctx, bobRoom, "example_talk")

	if _, err := parley.BroadcastValue(ctx, bobChat, line{"Bob", "Is anybody here?"}); err != nil {
		log.Fatal(err)
	}
	l := <-aliceHears
	fmt.Printf("%s: %s\n", l.From, l.Text)
	if _, err := parley.BroadcastValue(ctx, aliceChat, line{"Alice", "Just me."}); err != nil {
		log.Fatal(err)
	}
	l = <-bobHears
	fmt.Printf("%s: %s\n", l.From, l.Text)
	// Output:
	// Bob: Is anybody here?
	// Alice: Just me.
}

// A procedure that other peers call: requests and answers are values of Go. What the handler says of a failure comes back as the text of an error.
func ExampleCall() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	type division struct{ A, B int }

	server := loopback()
	defer server.Close()
	_, err := parley.Handle(room(server), parley.MessageType{Name: "example_divide"}, func(_ context.Context, _ *parley.Message, d division) (int, error) {
		if d.B == 0 {
			return 0, errors.New("by zero")
		}
		return d.A / d.B, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	client := loopback()
	defer client.Close()
	r := room(client, server.Addr())
	divide, err := r.Register(parley.MessageType{Name: "example_divide"})
	if err != nil {
		log.Fatal(err)
	}
	peer := waitFor(ctx, r, "example_divide")
	for _, d := range []division{{84, 2}, {1, 0}} {
		result, err := parley.Call[division, int](ctx, divide, peer, d)
		var failed *parley.RequestError
		switch {
		case errors.As(err, &failed) && errors.Is(err, parley.ErrHandlerFailed):
			fmt.Printf("%d / %d: %s\n", d.A, d.B, failed.Text)
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Printf("%d / %d = %d\n", d.A, d.B, result)
		}
	}
	// Output:
	// 84 / 2 = 42
	// 1 / 0: by zero
}

// quarters says at each quarter how much has been written to it.
type quarters struct{ done, total int64 }

func (q *quarters) Write(b []byte) (int, error) {
	before := q.done * 4 / q.total
	q.done += int64(len(b))
	for n := before + 1; n <= q.done*4/q.total; n++ {
		fmt.Printf("%d %%\n", n*25)
	}
	return len(b), nil
}

// A file crosses as messages that neither side ever has in memory: it is written into them and read out of them bit by bit. A message has 16 MiB at most, so it takes several; of one
// type they arrive in the order of sending.
func ExampleType_NewWriter() {
	const (
		fileBytes = 100_000_000
		partBytes = 16 << 20
	)
	type offer struct {
		Name   string
		Size   int64
		SHA256 []byte
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "parley")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// The receiver accepts one offer, and writes what comes then into a file.
	receiver := loopback()
	defer receiver.Close()
	r := room(receiver)
	var (
		offered  offer
		copied   *os.File
		sum      = sha256.New()
		progress quarters
		complete = make(chan struct{})
	)
	_, err = parley.Handle(r, parley.MessageType{Name: "example_offer"}, func(_ context.Context, _ *parley.Message, o offer) (accepted bool, err error) {
		fmt.Printf("%s, %d bytes\n", o.Name, o.Size)
		offered, progress.total = o, o.Size
		copied, err = os.Create(filepath.Join(dir, "copy of "+filepath.Base(o.Name))) // the name comes from a stranger
		return err == nil, err
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = r.Register(parley.MessageType{
		Name:     "example_part",
		MaxBytes: partBytes,
		Stream: func(_ context.Context, _ *parley.Message, part io.Reader) error {
			_, err := io.Copy(io.MultiWriter(copied, sum, &progress), part)
			if err == nil && progress.done == progress.total {
				close(complete)
			}
			return err
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	// The sender offers a file and, once that is accepted, sends it in parts.
	file, err := os.Create(filepath.Join(dir, "numbers.bin"))
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	original := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(file, original), rand.NewChaCha8([32]byte{1}), fileBytes); err != nil {
		log.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		log.Fatal(err)
	}
	sender := loopback()
	defer sender.Close()
	s := room(sender, receiver.Addr())
	offers, err := s.Register(parley.MessageType{Name: "example_offer"})
	if err != nil {
		log.Fatal(err)
	}
	parts, err := s.Register(parley.MessageType{Name: "example_part"})
	if err != nil {
		log.Fatal(err)
	}
	peer := waitFor(ctx, s, "example_part")
	accepted, err := parley.Call[offer, bool](ctx, offers, peer, offer{"numbers.bin", fileBytes, original.Sum(nil)})
	if err != nil || !accepted {
		log.Fatal("not accepted: ", err)
	}
	for left := int64(fileBytes); left > 0; {
		n := min(left, partBytes)
		w, err := parts.NewWriter(ctx, peer, n, parley.Outgoing{})
		if err != nil {
			log.Fatal(err)
		}
		if _, err := io.CopyN(w, file, n); err != nil {
			log.Fatal(err)
		}
		if err := w.Close(); err != nil {
			log.Fatal(err)
		}
		left -= n
	}

	<-complete
	if err := copied.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same bytes:", bytes.Equal(sum.Sum(nil), offered.SHA256))
	// Output:
	// numbers.bin, 100000000 bytes
	// 25 %
	// 50 %
	// 75 %
	// 100 %
	// the same bytes: true
}

// A type that has moved on while older programs are around: whoever sends makes each payload in the highest version that the peer receives.
func ExampleOutgoing_versions() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reader := func(name string, maxVersion uint8, read func(m *parley.Message) string, heard chan<- string, peers ...netip.AddrPort) *parley.Client {
		c := loopback()
		_, err := room(c, peers...).Register(parley.MessageType{
			Name:       "example_weather",
			MinVersion: 1,
			MaxVersion: maxVersion,
			Handler: func(_ context.Context, m *parley.Message) error {
				heard <- fmt.Sprintf("%s reads version %d: %s", name, m.Version, read(m))
				return nil
			},
		})
		if err != nil {
			log.Fatal(err)
		}
		return c
	}

	// Version 1 was a text. Version 2 is JSON, and its readers still know version 1.
	type weather struct {
		Text    string
		Degrees int
	}
	readOne := func(m *parley.Message) string { return string(m.Payload) }
	readTwo := func(m *parley.Message) string {
		if m.Version == 1 {
			return readOne(m)
		}
		var w weather
		if err := json.Unmarshal(m.Payload, &w); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s, %d degrees", w.Text, w.Degrees)
	}
	encode := func(w weather) func(version uint8) ([]byte, error) {
		return func(version uint8) ([]byte, error) {
			if version == 1 {
				return []byte(w.Text), nil
			}
			return json.Marshal(w)
		}
	}

	station := loopback()
	defer station.Close()
	r := room(station)
	reports, err := r.Register(parley.MessageType{Name: "example_weather", MinVersion: 1, MaxVersion: 2})
	if err != nil {
		log.Fatal(err)
	}
	events := r.Events(ctx)
	heard := make(chan string)
	defer reader("the old one", 1, readOne, heard, station.Addr()).Close()
	defer reader("the new one", 2, readTwo, heard, station.Addr()).Close()
	sharing := map[parley.Peer]bool{}
	for e := range events {
		if e.Kind == parley.EventPeerTypes && e.Peer.Shares("example_weather") {
			sharing[e.Peer] = true
		}
		if len(sharing) == 2 {
			break
		}
	}

	n, err := reports.BroadcastMessage(ctx, parley.Outgoing{Encode: encode(weather{"rain", 9})})
	if err != nil {
		log.Fatal(err)
	}
	for range n {
		fmt.Println(<-heard)
	}
	// Unordered output:
	// the old one reads version 1: rain
	// the new one reads version 2: rain, 9 degrees
}
