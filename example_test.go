package parley_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
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
