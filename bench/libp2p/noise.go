package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/security/noise"

	"github.com/parley-bt/parley/bench/internal/repeat"
)

// newNoise makes one side of go-libp2p's Noise with an identity of its own.
func newNoise() (*noise.Transport, peer.ID, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	t, err := noise.New(noise.ID, key, nil)
	if err != nil {
		return nil, "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	return t, id, err
}

// handshakes does both sides of Noise's handshake over a pipe in memory: XX, where each proves its identity.
func handshakes(what string, _ int) (repeat.Thing, error) {
	if what != "noise-pipe" {
		return repeat.Thing{}, fmt.Errorf("%q: want noise-pipe", what)
	}
	in, id, err := newNoise()
	if err != nil {
		return repeat.Thing{}, err
	}
	out, _, err := newNoise()
	if err != nil {
		return repeat.Thing{}, err
	}
	ctx := context.Background()
	return repeat.Thing{Batch: 50, Do: func(n int) error {
		for range n {
			if err := repeat.Both(func(nc net.Conn) error {
				_, err := out.SecureOutbound(ctx, nc, id)
				return err
			}, func(nc net.Conn) error {
				_, err := in.SecureInbound(ctx, nc, "")
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}
