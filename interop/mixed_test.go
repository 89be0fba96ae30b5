//go:build linux

package interop

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
)

// TestMixedSwarm: four clients that others wrote and two of ours, of which nobody has everything: each begins with every sixth piece of a file, and together they
// have one copy. A tracker of ours tells them of each other. In the end each has everything.
func TestMixedSwarm(t *testing.T) {
	t.Parallel()
	mixedSwarm(t, parley.Config{}, "disabled")
}

// TestMixedSwarmVeiled: the same where ours dial with the veil first, then by MSE, and in plaintext only who knows neither; among themselves they are veiled.
func TestMixedSwarmVeiled(t *testing.T) {
	t.Parallel()
	mixedSwarm(t, parley.Config{DialHellos: []parley.Hello{parley.HelloVeil, parley.HelloMSE, parley.HelloPlaintext}}, "default")
}

// mixedSwarm has ours be of one configuration, and libtorrent of one policy.
func mixedSwarm(t *testing.T, cfg parley.Config, policy string) {
	t.Helper()
	c := single
	whole, err := os.ReadFile(c.path(t))
	if err != nil {
		t.Fatal(err)
	}
	announce := ourTracker(t)
	torrent := createTorrent(t, c, "--tracker", announce)
	mi, err := parley.LoadTorrent(torrent)
	if err != nil {
		t.Fatal(err)
	}
	geom := mi.Info.Geometry
	// share makes a folder with the pieces that the k-th member begins with, in a file of that name.
	share := func(k int, name string) string {
		t.Helper()
		dir := t.TempDir()
		b := make([]byte, len(whole))
		for i := k; i < geom.NumPieces(); i += 6 {
			at := geom.PieceStart(bt.PieceIndex(i))
			copy(b[at:at+int64(geom.PieceLen(bt.PieceIndex(i)))], whole[at:])
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}

	var dirs []string
	place := func(k int, name string) string {
		dirs = append(dirs, share(k, name))
		return dirs[len(dirs)-1]
	}
	// Those that are dialled come first; transmission and webtorrent dial nobody here by themselves.
	tr := newTransmission(t, place(0, c.name), torrent)
	wt, wtAddr := webtorrent(t, torrent, place(1, c.name))
	// Transmission and rtorrent have one connection with an address. Were all at the same, these two might have each other and nobody else.
	rt := newRtorrentAt(t, "127.0.0.2", place(2, c.name), torrent)
	lt, ltAddr := libtorrent(t, "--torrent", torrent, "--dir", place(3, c.name), "--peer", wtAddr, "--enc", policy)

	var group sync.WaitGroup
	defer group.Wait()
	for k := 4; k < 6; k++ { // ours keep what is not complete in part files
		client := newClientWith(t, cfg)
		o := parley.TorrentOptions{Dir: place(k, c.name+".part"), Trackers: [][]string{{announce}}}
		for _, a := range []string{tr.addr, wtAddr, ltAddr} {
			o.Peers = append(o.Peers, netip.MustParseAddrPort(a))
		}
		tor, err := client.AddTorrent(mi, o)
		if err != nil {
			t.Fatal(err)
		}
		talk(t, tor)
		met := watch(t, tor)
		if err := tor.WaitMetadata(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := tor.Stats(); s.HavePieces < geom.NumPieces()/6 || s.HavePieces > geom.NumPieces()/6+1 {
			t.Fatalf("begins with %d of %d pieces, want a sixth", s.HavePieces, geom.NumPieces())
		}
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
			defer cancel()
			if err := tor.WaitComplete(ctx); err != nil {
				t.Errorf("ours, member %d: %v; %+v; sessions %v; failed dials:\n%s", k, err, tor.Stats(), met.infos(), met.failures())
				return
			}
			s := tor.Stats()
			t.Logf("ours, member %d: %d bytes received, %d sent, %d wasted", k, s.Downloaded, s.Uploaded, s.Wasted)
			if s.Uploaded == 0 {
				t.Errorf("ours, member %d: sent nothing", k)
			}
			veiled := 0
			for _, i := range met.infos() {
				t.Logf("ours, member %d: hello %v with %q, opened by the peer %t", k, i.Hello, i.Client, i.Initiator)
				if i.Hello == parley.HelloVeil {
					veiled++
				}
				if i.Hello == parley.HelloPlaintext && !i.Initiator && cfg.DialHellos != nil && !strings.Contains(strings.ToLower(i.Client), "webtorrent") {
					t.Errorf("ours, member %d: plaintext with %q, which knows MSE", k, i.Client)
				}
			}
			if veiled == 0 && cfg.DialHellos != nil {
				t.Errorf("ours, member %d: no session with the other was veiled", k)
			}
		})
	}
	lt.eventWithin(3*patience, "complete")
	wt.eventWithin(3*patience, "complete")
	rt.waitComplete()
	tr.waitSeeding()
	group.Wait()
	for _, dir := range dirs {
		wantContent(t, c, dir)
	}
}

// ourTracker runs the tracker command and returns its announce URL.
func ourTracker(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	p := start(t, "parley tracker", parleyBin, "tracker", "--listen", addr)
	waitPort(t, p, int(netip.MustParseAddrPort(addr).Port()))
	return fmt.Sprintf("http://%s/announce", addr)
}
