package parley

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
)

// With a StateDir what a link's metadata are is asked of peers once; nothing that lies there is believed if its hashes do not fit.
func TestMetadataRemembered(t *testing.T) {
	for _, form := range []metainfo.Form{metainfo.FormV1, metainfo.FormV2, metainfo.FormHybrid} {
		t.Run(form.String(), func(t *testing.T) {
			path, mi := someFile(t, CreateOptions{Form: form, PieceBytes: 16 << 10, Private: true})
			s := client(t, Config{})
			seed(t, s, mi, path, TorrentOptions{})
			state := t.TempDir()
			m := mi.Magnet()
			m.Trackers = []string{"http://127.0.0.1:1/announce"}
			file := filepath.Join(state, rememberedName(m))
			// Adds the link to a new client; without peers what it knows it has remembered.
			add := func(m metainfo.Magnet, peers ...netip.AddrPort) (*Client, *Torrent) {
				t.Helper()
				cfg := Config{NoListen: true, StateDir: state}
				if len(peers) == 0 { // else it is not known yet that it is private
					cfg.DHT = unasked{t}
				}
				c, err := NewClient(cfg)
				if err != nil {
					t.Fatal(err)
				}
				tor, err := c.AddMagnet(m, TorrentOptions{Dir: t.TempDir(), Peers: peers})
				if err != nil {
					t.Fatal(err)
				}
				return c, tor
			}
			done := func(c *Client) {
				t.Helper()
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			c, tor := add(m, s.Addr())
			complete(t, tor)
			if _, err := tor.WaitMetainfo(t.Context()); err != nil {
				t.Error(err)
			}
			done(c)
			kept, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}

			other := m
			other.Trackers = nil
			c, tor = add(other)
			if err := tor.WaitMetadata(t.Context()); err != nil {
				t.Fatal(err)
			}
			again := tor.Metainfo()
			if again == nil || !bytes.Equal(again.Info.Bytes, mi.Info.Bytes) || len(again.PieceLayers) != len(mi.PieceLayers) || len(again.Announce) != 0 {
				t.Errorf("remembered %+v", again)
			}
			done(c)

			for name, b := range map[string][]byte{"cut short": kept[:len(kept)/2], "empty": nil, "another torrent's": foreign(t, form)} {
				if err := os.WriteFile(file, b, 0o600); err != nil {
					t.Fatal(err)
				}
				c, tor := add(m, netip.MustParseAddrPort("127.0.0.1:1"))
				if tor.Metainfo() != nil {
					t.Errorf("what is %s is believed", name)
				}
				done(c)
			}
			c, tor = add(m, s.Addr()) // and what is right takes its place
			complete(t, tor)
			done(c)
			if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, kept) {
				t.Errorf("%d bytes, want %d; %v", len(b), len(kept), err)
			}
		})
	}
}

// foreign returns another torrent.
func foreign(t *testing.T, form metainfo.Form) []byte {
	t.Helper()
	_, mi := someFile(t, CreateOptions{Form: form, Name: "another"})
	return mi.Append(nil)
}

// What cannot be written leaves nothing behind.
func TestRememberFails(t *testing.T) {
	dir := t.TempDir()
	state, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if err := os.MkdirAll(filepath.Join(dir, "name", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeRemembered(state, "name", []byte("x")); err == nil {
		t.Error("a folder was replaced")
	}
	if err := writeRemembered(state, "large", make([]byte, metainfo.MaxBytes+1)); err == nil {
		t.Error("what is too large to be read again was written")
	}
	if _, err := os.Stat(filepath.Join(dir, "name.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if _, err := readRemembered(state, metainfo.Magnet{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// unasked is a DHT that nobody may ask: the torrent is private.
type unasked struct{ t *testing.T }

func (u unasked) Announce(context.Context, bt.InfoHash, uint16) iter.Seq2[DHTPeer, error] {
	u.t.Error("a private torrent is looked up")
	return func(func(DHTPeer, error) bool) {}
}
