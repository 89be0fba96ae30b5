// Package parley lets BitTorrent peers talk: it shares and fetches torrents with any BitTorrent client, and carries
// typed application messages between the peers of a swarm.
//
// A [Client] owns a listening port and a peer ID. A [Torrent] is one swarm it takes part in: added from a .torrent, a
// magnet link, an info-hash, or a path to share. Each connected [Peer] is a small value that says who it is and what it
// speaks. An application registers a message type by name on a torrent ([Torrent.Register]); from then on every peer that
// registered the same name shares it, whatever program it runs, as long as it speaks the BitTorrent extension protocol
// (BEP 10):
//
//	c, err := parley.NewClient(parley.Config{})
//	t, err := c.Share(ctx, "talk.txt", parley.TorrentOptions{})
//	chat, err := t.Register(parley.MessageType{
//		Name:    "example_chat",
//		Handler: func(ctx context.Context, m *parley.Message) error { fmt.Printf("%s: %s\n", m.Peer, m.Payload); return nil },
//	})
//	n, err := chat.Broadcast(ctx, []byte("hello, swarm"))
//
// Nothing is dropped silently: a send succeeds, waits for room, or fails with an error (EMP/1, design rule 5).
//
// The wire formats, the per-connection state machine and the swarm engine live in the packages below and can be used
// alone; see package peer for the machine that does no I/O.
package parley
