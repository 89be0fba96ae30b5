package parley_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

func TestConfigErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  parley.Config
		want string // in the error: the field that is wrong
	}{
		"peers":              {parley.Config{MaxPeers: -1}, "MaxPeers"},
		"handshakes":         {parley.Config{MaxHandshakes: -1}, "MaxHandshakes"},
		"connections":        {parley.Config{MaxConnections: -1}, "MaxConnections"},
		"half-open":          {parley.Config{MaxHalfOpen: -1}, "MaxHalfOpen"},
		"per address":        {parley.Config{MaxPerAddress: -1}, "MaxPerAddress"},
		"hellos per address": {parley.Config{MaxHandshakesPerAddress: -1}, "MaxHandshakesPerAddress"},
		"networks":           {parley.Config{AllowNetworks: make([]netip.Prefix, 1)}, "AllowNetworks"},
		"slots":              {parley.Config{UploadSlots: 1 << 30}, "UploadSlots"},
		"buffer":             {parley.Config{BufferBytes: -5}, "BufferBytes"},
		"messages":           {parley.Config{MaxMessageBytes: 1 << 20}, "MaxMessageBytes"},
		"send queue":         {parley.Config{SendQueueBytes: -1}, "SendQueueBytes"},
		"receive queue":      {parley.Config{ReceiveQueueBytes: -1}, "ReceiveQueueBytes"},
		"handler timeout":    {parley.Config{HandlerTimeout: -1}, "HandlerTimeout"},
		"stop timeout":       {parley.Config{StopTimeout: 2 * time.Minute}, "StopTimeout"},
		"name":               {parley.Config{ClientName: strings.Repeat("x", 129)}, "ClientName"},
		"address":            {parley.Config{ListenAddr: "nonsense"}, "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := parley.NewClient(tt.cfg)
			if err == nil {
				c.Close()
				t.Fatal("it is accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: does not name %s", err, tt.want)
			}
		})
	}
}

func TestListenAddress(t *testing.T) {
	c := newClient(t, parley.Config{})
	if _, err := parley.NewClient(parley.Config{ListenAddr: c.Addr().String()}); !errors.Is(err, syscall.EADDRINUSE) {
		var op *net.OpError
		if !errors.As(err, &op) { // each system has its own number
			t.Errorf("an address in use: %v", err)
		}
	}
	quiet := newClient(t, parley.Config{NoListen: true, ListenAddr: "ignored"})
	if quiet.Addr().IsValid() {
		t.Errorf("a client that does not listen has the address %v", quiet.Addr())
	}
	if c.PeerID() == quiet.PeerID() {
		t.Error("two clients have the same peer ID")
	}
}

func TestCloseIsFinal(t *testing.T) {
	c := newClient(t, parley.Config{})
	tor, err := c.AddInfoHash(bt.InfoHash{1}, parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddInfoHash(bt.InfoHash{1}, parley.TorrentOptions{}); !errors.Is(err, parley.ErrTorrentExists) {
		t.Errorf("adding it twice: %v, want %v", err, parley.ErrTorrentExists)
	}
	waiting := make(chan error, 2)
	go func() { waiting <- tor.WaitMetadata(context.Background()) }()
	go func() { waiting <- tor.WaitComplete(context.Background()) }()
	events := tor.Events(t.Context())
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for range 2 {
		if err := <-waiting; !errors.Is(err, parley.ErrClosed) {
			t.Errorf("waiting: %v, want %v", err, parley.ErrClosed)
		}
	}
	last := parley.Event{}
	for e := range events {
		last = e
	}
	if last.Kind != parley.EventClosed {
		t.Errorf("the last event is %v, want %v", last.Kind, parley.EventClosed)
	}
	for e := range tor.Events(t.Context()) {
		if e.Kind != parley.EventClosed {
			t.Errorf("an event of a closed torrent: %v", e.Kind)
		}
	}
	if _, err := c.AddInfoHash(bt.InfoHash{2}, parley.TorrentOptions{}); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("adding to a closed client: %v, want %v", err, parley.ErrClosed)
	}
	path := filepath.Join(t.TempDir(), "x")
	writeFile(t, path, 10)
	if _, err := c.Share(t.Context(), path, parley.TorrentOptions{}); !errors.Is(err, parley.ErrClosed) {
		t.Errorf("sharing with a closed client: %v, want %v", err, parley.ErrClosed)
	}
	if s := tor.Stats(); s.State != parley.StateStopped {
		t.Errorf("state %v, want %v", s.State, parley.StateStopped)
	}
}

// A torrent that is closed can be added again, and goes on where it was.
func TestAddAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	content := writeFile(t, path, 500_000)
	seed := newClient(t, parley.Config{})
	st := share(t, seed, path)
	leech := newClient(t, parley.Config{})
	dir := t.TempDir()
	for range 2 {
		lt, err := leech.AddTorrent(st.Metainfo(), parley.TorrentOptions{Dir: dir, Peers: []netip.AddrPort{seed.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := lt.WaitComplete(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := lt.Close(); err != nil {
			t.Fatal(err)
		}
		if err := lt.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "x")); err != nil || string(got) != string(content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A consumer of events that sleeps loses some, is told how many, and sees the end.
func TestEventsThatNobodyReads(t *testing.T) {
	h := talkers(t, 1, parley.Config{})[0]
	asleep := h.tor.Events(within(t, 60*time.Second))
	const sessions = 700 // connected, types and disconnected each
	for i := range sessions {
		p := connect(t, h, bt.PeerID{1, byte(i), byte(i >> 8)})
		p.Close()
	}
	for ctx := within(t, 20*time.Second); h.tor.Stats().Peers != 0; {
		select {
		case <-ctx.Done():
			t.Fatalf("%d peers are left", h.tor.Stats().Peers)
		case <-time.After(time.Millisecond):
		}
	}
	if err := h.tor.Close(); err != nil {
		t.Fatal(err)
	}
	seen, missed := 0, 0
	var last parley.Event
	for e := range asleep {
		switch e.Kind {
		case parley.EventMissed:
			missed += e.Missed
		case parley.EventClosed:
		default:
			seen++
		}
		last = e
	}
	if last.Kind != parley.EventClosed {
		t.Errorf("the last event is %v, want %v", last.Kind, parley.EventClosed)
	}
	if seen != 1024 || seen+missed < 2*sessions {
		t.Errorf("%d events were seen and %d missed, want 1,024 and the rest of at least %d", seen, missed, 2*sessions)
	}
}

// A magnet link must not make this program connect to private networks.
func TestMagnetPeers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan struct{}, 10)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			nc.Close()
			accepted <- struct{}{}
		}
	}()
	c := newClient(t, parley.Config{})
	m := metainfo.Magnet{InfoHash: bt.InfoHash{1}, Peers: []string{ln.Addr().String(), "10.0.0.1:1", "192.168.1.1:80", "[fe80::1]:1", "nonsense"}}
	if _, err := c.AddMagnet(m, parley.TorrentOptions{}); err != nil {
		t.Fatal(err)
	}
	m.InfoHash = bt.InfoHash{2}
	select {
	case <-accepted:
		t.Error("a magnet link made it dial this machine")
	case <-time.After(500 * time.Millisecond):
	}
	if _, err := c.AddMagnet(m, parley.TorrentOptions{Peers: []netip.AddrPort{netip.MustParseAddrPort(ln.Addr().String())}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-accepted:
	case <-time.After(10 * time.Second):
		t.Error("an address that the caller named is not dialled")
	}
}

// failing is a storage that cannot be written.
type failing struct {
	storage.Storage
	err error
}

func (f failing) WriteAt([]byte, int64) (int, error) { return 0, f.err }

// A full disk stops the torrent, and whoever waits is told.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	writeFile(t, path, 500_000)
	seed := newClient(t, parley.Config{})
	st := share(t, seed, path)
	leech := newClient(t, parley.Config{})
	lt, err := leech.AddTorrent(st.Metainfo(), parley.TorrentOptions{Peers: []netip.AddrPort{seed.Addr()},
		Storage: func(info *metainfo.Info) (storage.Storage, error) {
			return failing{storage.NewMemory(info.Geometry), fmt.Errorf("storage: %w", syscall.ENOSPC)}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := lt.WaitComplete(within(t, 20*time.Second)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WaitComplete: %v, want %v", err, syscall.ENOSPC)
	}
	if s := lt.Stats(); s.State != parley.StateStopped || !errors.Is(s.Err, syscall.ENOSPC) {
		t.Errorf("%+v", s)
	}
	if s := st.Stats(); s.State != parley.StateSeeding {
		t.Errorf("the seed: %+v", s)
	}
}

// Beyond MaxPeers a session is refused after its hello, and a place that becomes free is taken.
func TestMaxPeers(t *testing.T) {
	h := talkers(t, 1, parley.Config{MaxPeers: 2})[0]
	var ps []*rawpeer.Peer
	for i := range byte(2) {
		p := connect(t, h, bt.PeerID{i, 1})
		if _, err := p.UntilExchange(); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	third := connect(t, h, bt.PeerID{9, 1})
	if _, err := third.UntilClosed(5 * time.Second); err != nil {
		t.Errorf("the third: %v", err)
	}
	ps[0].Close()
	for ctx := within(t, 10*time.Second); ; {
		p := connect(t, h, bt.PeerID{9, 2})
		if _, err := p.UntilExchange(); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the free place is not given away")
		}
	}
}
