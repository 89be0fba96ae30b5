//go:build linux

package interop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
)

// ours is Parley as a user meets it: the command, or the public API in this process.
type ours interface {
	// seed shares a content until the test ends, and returns its magnet link and the address to dial.
	seed(t *testing.T, c *content) (magnet, addr string)
	// get downloads a .torrent file or magnet link from one peer into dir.
	get(t *testing.T, source, dir, peer string)
}

// bothWays names the two for subtests.
var bothWays = []struct {
	name string
	ours ours
}{{"command", command{}}, {"library", library{}}}

type command struct{}

var (
	magnetRE  = regexp.MustCompile(`magnet:\?[^\s'"]+`)
	addressRE = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)
)

// seed also checks the promise that Ctrl-C ends the command cleanly within two seconds.
func (command) seed(t *testing.T, c *content) (string, string) {
	t.Helper()
	p := start(t, "parley seed", parleyBin, "seed", c.path(t), "--listen", "127.0.0.1:0")
	t.Cleanup(func() { interrupt(t, p) })
	return announced(p)
}

// announced reads the magnet link and the address that seed and listen print first.
func announced(p *process) (magnet, addr string) {
	p.t.Helper()
	p.line("its magnet link and address", func(l string) bool {
		if magnet == "" {
			magnet = unescape(magnetRE.FindString(l))
		}
		if addr == "" {
			addr = addressRE.FindString(l)
		}
		return magnet != "" && addr != ""
	})
	return magnet, addr
}

// unescape undoes what encoding/json does to an ampersand.
func unescape(s string) string { return strings.ReplaceAll(s, `\u0026`, "&") }

// interrupt ends a command as Ctrl-C does.
func interrupt(t *testing.T, p *process) {
	t.Helper()
	p.signal(syscall.SIGINT)
	from := time.Now()
	if code := p.exit(10 * time.Second); code != 0 {
		t.Errorf("%s: exit status %d after an interrupt", p.name, code)
	}
	if took := time.Since(from); took > 2*time.Second {
		t.Errorf("%s: took %v to end after an interrupt, want 2 s at most", p.name, took)
	}
}

func (command) get(t *testing.T, source, dir, peer string) {
	t.Helper()
	start(t, "parley get", parleyBin, "get", source, "-o", dir, "--peer", peer, "--listen", "127.0.0.1:0").succeed(2 * patience)
}

// createTorrent makes a .torrent of a content with the command.
func createTorrent(t *testing.T, c *content, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "made by parley.torrent")
	start(t, "parley create", parleyBin, append([]string{"create", c.path(t), "-o", out}, args...)...).succeed(patience)
	return out
}

// seedTo seeds a content by the library, and dials a peer.
func seedTo(t *testing.T, c *content, torrent, peer string) {
	t.Helper()
	mi, err := parley.LoadTorrent(torrent)
	if err != nil {
		t.Fatal(err)
	}
	tor, err := newClient(t).SeedTorrent(t.Context(), mi, c.path(t), parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	talk(t, tor)
	tor.AddPeers(netip.MustParseAddrPort(peer))
}

// library also has message types, some of which come and go during the transfer: deployed clients must not mind what they do not know (EMP/1, design rule 1).
type library struct{}

// talk registers message types with tor, and adds and withdraws others until the test ends: peers see "emp" and "emp_mux" in our exchanges, and many of these.
func talk(t *testing.T, tor *parley.Torrent) {
	t.Helper()
	ignore := func(context.Context, *parley.Message) error { return nil }
	if _, err := tor.Register(parley.MessageType{Name: "interop_stays", Handler: ignore, MaxVersion: 3, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		every := time.NewTicker(150 * time.Millisecond)
		defer every.Stop()
		for i := 0; ; i++ {
			ty, err := tor.Register(parley.MessageType{Name: fmt.Sprint("interop_goes_", i%20), Handler: ignore, MinVersion: uint8(i % 2), MaxVersion: 2})
			if errors.Is(err, parley.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("registering a type during the transfer: %v", err)
				return
			}
			select {
			case <-every.C:
			case <-stop:
				return
			}
			if err := ty.Withdraw(); err != nil && !errors.Is(err, parley.ErrClosed) {
				t.Errorf("withdrawing a type during the transfer: %v", err)
			}
		}
	}()
}

// newClient returns a client that is closed when the test ends.
func newClient(t *testing.T) *parley.Client {
	t.Helper()
	return newClientWith(t, parley.Config{})
}

// newClientWith is newClient with other settings.
func newClientWith(t *testing.T, cfg parley.Config) *parley.Client {
	t.Helper()
	if cfg.ListenAddr == "" {
		cfg.ListenAddr = "127.0.0.1:0"
	}
	c, err := parley.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing the client: %v", err)
		}
	})
	return c
}

func (library) seed(t *testing.T, c *content) (string, string) {
	t.Helper()
	client := newClient(t)
	tor, err := client.Share(t.Context(), c.path(t), parley.TorrentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	talk(t, tor)
	return tor.Magnet().String(), client.Addr().String()
}

func (library) get(t *testing.T, source, dir, peer string) {
	t.Helper()
	complete(t, add(t, newClient(t), source, dir, peer))
}

// add adds a .torrent file or magnet link, with one peer to dial or none.
func add(t *testing.T, client *parley.Client, source, dir, peer string) *parley.Torrent {
	t.Helper()
	o := parley.TorrentOptions{Dir: dir}
	var tor *parley.Torrent
	if strings.HasPrefix(source, "magnet:") {
		m, err := metainfo.ParseMagnetV2(source)
		if err != nil {
			t.Fatal(err)
		}
		if tor, err = client.AddMagnet(m, o); err != nil {
			t.Fatal(err)
		}
	} else {
		mi, err := parley.LoadTorrent(source)
		if err != nil {
			t.Fatal(err)
		}
		if tor, err = client.AddTorrent(mi, o); err != nil {
			t.Fatal(err)
		}
	}
	talk(t, tor)
	if peer != "" {
		tor.AddPeers(netip.MustParseAddrPort(peer))
	}
	return tor
}

// complete waits until a torrent is complete.
func complete(t *testing.T, tor *parley.Torrent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := tor.WaitComplete(ctx); err != nil {
		t.Fatalf("not complete: %v; %+v", err, tor.Stats())
	}
}
