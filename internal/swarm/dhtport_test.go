package swarm

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// Peers tell each other where their DHT nodes are (BEP 5): those that have one, and not in private torrents. What a peer names is at its own address, and counts once.
func TestDHTPort(t *testing.T) {
	for _, tt := range []struct {
		name          string
		port          uint16 // of our node; 0 if it does not answer
		none, private bool   // we have no node; the torrent is private
		theirs        bool   // the peer has one
		told, learned bool
	}{
		{name: "both have one", port: 6881, theirs: true, told: true, learned: true},
		{name: "the peer does not say so", port: 6881, learned: true},
		{name: "ours only asks", theirs: true, learned: true},
		{name: "private", private: true, port: 6881, theirs: true},
		{name: "we have none", none: true, theirs: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*piece, piece, slow)
				var mu sync.Mutex
				var nodes []netip.AddrPort
				seed := w.start(seeding, with(func(cfg *Config) {
					if tt.private {
						info := *cfg.Info
						info.Private = true
						cfg.Info = &info
					}
					if !tt.none {
						cfg.DHTPort = tt.port
						cfg.OnDHTNode = func(a netip.AddrPort) {
							mu.Lock()
							defer mu.Unlock()
							nodes = append(nodes, a)
						}
					}
				}))
				await(t, "it seeds", func() bool { return seed.tor.Stats().State == StateSeeding })
				addr := w.addr()
				nc, err := w.net.Dial(context.Background(), addr, seed.addr)
				if err != nil {
					t.Fatal(err)
				}
				p := rawpeer.New(t, nc)
				hello, err := p.Greet(w.ih, peerID(addr), ReservedWith(tt.theirs))
				if err != nil {
					t.Fatal(err)
				}
				if hello.Reserved.DHT() == tt.none {
					t.Errorf("our hello says %v", hello.Reserved.DHT())
				}
				for _, port := range []uint16{0, 7000, 7001} {
					if _, err := p.Write(classic.AppendPort(nil, wire.Port{Port: port})); err != nil {
						t.Fatal(err)
					}
				}
				if err := p.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				var told []uint16
				_ = p.Until(func(m wire.Message) bool { // until the deadline
					if m, ok := m.(*wire.Port); ok {
						told = append(told, m.Port)
					}
					return false
				})
				var wantTold []uint16
				if tt.told {
					wantTold = []uint16{tt.port}
				}
				if !slices.Equal(told, wantTold) {
					t.Errorf("the peer is told %v, want %v", told, wantTold)
				}
				var want []netip.AddrPort
				if tt.learned {
					want = []netip.AddrPort{netip.AddrPortFrom(addr.Addr(), 7000)}
				}
				mu.Lock()
				defer mu.Unlock()
				if !slices.Equal(nodes, want) {
					t.Errorf("learned %v, want %v", nodes, want)
				}
			})
		})
	}
}
