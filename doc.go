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
// # Torrents
//
// Torrents are v1, v2 or hybrid (BEP 52); the two info-hashes of a hybrid are one torrent. [Create] makes them in each of these forms, [Client.Share] a v1 torrent to seed at once.
// A torrent downloads what is wanted of it, which [TorrentOptions] says at first and [Torrent.SetPriority] later, and then seeds. [Torrent.NewReader] reads a
// file while it comes, [Torrent.Move] moves the files meanwhile, [Torrent.Verify] hashes them again, and [Torrent.Retry] goes on after an error has stopped the torrent.
// What [Torrent.Events] tells and [Torrent.Stats] counts can be had at any time.
//
// # Finding peers
//
// Peers are those that the application names ([Torrent.AddPeers]), those of the torrent's trackers and of [TorrentOptions].Trackers, those that peers tell of,
// and, if [Config] says so, those of the DHT (package dht) and of the local network. Addresses that strangers name are dialled only if they are
// not more local than whoever named them; [Config].AllowNetworks makes exceptions. Of a private torrent only its trackers and the application are
// asked (BEP 27). Web servers that have the content are read from beside peers (BEP 19).
//
// # Limits
//
// [Config] bounds connections, handshakes, dials, uploads, rates and how many torrents take part at once, and says what is the default of each;
// [Client.SetLimits] and [Torrent.SetLimits] change the rates at any time. Whatever comes from a peer, a tracker or a file is bounded before memory is taken for it.
//
// The wire formats, the per-connection state machine and the swarm engine live in the packages below and can be used
// alone; see package peer for the machine that does no I/O.
package parley
