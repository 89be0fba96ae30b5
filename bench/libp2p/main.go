// Command libp2p is the message benchmark over one stream of go-libp2p: TCP, Noise and yamux with their defaults, a write for each message. See package
// stream for its arguments. As "libp2p noise-pipe" it does Noise's handshake again and again; see package repeat. It is a module of its own, so that nothing else here depends on libp2p.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/parley-bt/parley/bench/internal/repeat"
	"github.com/parley-bt/parley/bench/internal/stream"
)

const protocol = "/parley-bench/1"

func main() {
	var err error
	if args := os.Args[1:]; len(args) > 0 && args[0] == "noise-pipe" {
		err = repeat.Main(args, handshakes)
	} else {
		err = stream.Main(args, os.Stdin, node{}, 0)
	}
	if err != nil {
		fmt.Println("ERR", err)
		os.Exit(1)
	}
}

type node struct{}

func start(where libp2p.Option) (host.Host, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	return libp2p.New(libp2p.Identity(key), libp2p.Transport(tcp.NewTCPTransport), libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport), libp2p.DisableRelay(), libp2p.DisableMetrics(), where)
}

// Listen implements [stream.Transport].
func (node) Listen() (string, func() (io.ReadWriter, error), error) {
	h, err := start(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		return "", nil, err
	}
	streams := make(chan network.Stream, 1)
	h.SetStreamHandler(protocol, func(s network.Stream) { streams <- s })
	addrs, err := peer.AddrInfoToP2pAddrs(host.InfoFromHost(h))
	if err != nil {
		return "", nil, err
	}
	return addrs[0].String(), func() (io.ReadWriter, error) { return <-streams, nil }, nil
}

// Dial implements [stream.Transport].
func (node) Dial(addr string) (io.ReadWriter, error) {
	to, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return nil, err
	}
	h, err := start(libp2p.NoListenAddrs)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := h.Connect(ctx, *to); err != nil {
		return nil, err
	}
	return h.NewStream(ctx, to.ID, protocol)
}
