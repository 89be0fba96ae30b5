package main

import (
	"crypto/sha1"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// nasty moves the cursor, changes a window's title, clears the screen in two ways, turns the direction of text around and breaks lines in all ways there are.
const nasty = "\x1b]0;owned\a\x1b[2J\u009b2J\r\n\u202e\u2028\x7f\x00\x9b1m"

// harmless fails if what a command printed could do anything to a terminal.
func harmless(t *testing.T, what, out string) {
	t.Helper()
	if !utf8.ValidString(out) {
		t.Errorf("%s: not UTF-8: %q", what, brief(out))
	}
	for i, r := range out {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%s: %q reaches the terminal in %q", what, r, out[max(0, i-40):min(len(out), i+40)])
			return
		}
	}
}

// hostilePeer is a peer that has a torrent whose every text is nasty, calls itself so, and names its types so.
type hostilePeer struct {
	info []byte
	data []byte
}

func newHostilePeer() *hostilePeer {
	data := []byte("harmless")
	sum := sha1.Sum(data)
	info := fmt.Appendf(nil, "d5:filesld6:lengthi%de4:pathl%d:%seee4:name%d:%s12:piece lengthi16384e6:pieces20:%se", len(data), len(nasty), nasty, len(nasty), nasty, sum[:])
	return &hostilePeer{info, data}
}

func (h *hostilePeer) infoHash() bt.InfoHash { return sha1.Sum(h.info) }

// talk says everything it has to say on one connection, until that ends.
func (h *hostilePeer) talk(p *rawpeer.Peer, ih bt.InfoHash, seeding bool) {
	if _, err := p.Greet(ih, bt.PeerID([]byte("-\x1b[1234-\r\n\a\x9babcdefgh")), rawpeer.LTEP); err != nil {
		return
	}
	e := ltep.Exchange{Client: nasty, M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 1}, {Name: "\x1b[2J", ID: 5}, {Name: "a\nb", ID: 6}, {Name: "\u202e", ID: 7}, {Name: "hello", ID: 8}}}
	if seeding {
		e.MetadataSize = int64(len(h.info))
	}
	if p.Exchange(e) != nil {
		return
	}
	if seeding {
		p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil))) // an error is met again by the next read
	}
	var metadata, hello uint8
	p.Until(func(m wire.Message) bool { // until the connection ends, which is how this does
		switch m := m.(type) {
		case *wire.Extended:
			if m.ID == ltep.ExchangeID {
				theirs, err := ltep.ParseExchange(m.Payload)
				if err != nil {
					return true
				}
				for _, x := range theirs.M {
					switch x.Name {
					case ltep.NameMetadata:
						metadata = x.ID
					case "hello":
						hello = x.ID
					}
				}
				if hello != 0 {
					p.Extended(hello, []byte(nasty))
				}
			} else if md, err := ltep.ParseMetadata(m.Payload); m.ID == 1 && err == nil && md.Type == ltep.MetadataRequest {
				p.Extended(metadata, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataData, TotalSize: int64(len(h.info)), Data: h.info}))
			}
		case *wire.Request:
			p.Write(classic.AppendPiece(nil, wire.Piece{Index: m.Block.Index, Begin: m.Block.Begin, Data: h.data}))
		}
		return false
	})
}

// listen accepts peers until the test ends.
func (h *hostilePeer) listen(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer nc.Close()
				h.talk(rawpeer.New(t, nc), h.infoHash(), true)
			})
		}
	})
	t.Cleanup(group.Wait)
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// Control characters in every text that strangers have a say in reach no terminal: names of a torrent and its files, clients, types, messages, trackers' words, links.
func TestControlCharacters(t *testing.T) {
	h := newHostilePeer()
	addr := h.listen(t)
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/failure":
			fmt.Fprintf(w, "d14:failure reason%d:%se", len(nasty), nasty)
		case "/warning":
			fmt.Fprintf(w, "d8:intervali1800e5:peers0:15:warning message%d:%se", len(nasty), nasty)
		default:
			w.Header()["Location"] = []string{"http://\x1b[2J/"}
			w.WriteHeader(http.StatusFound)
		}
	}))
	defer bad.Close()
	trackers := []string{"--tracker", bad.URL + "/failure", "--tracker", bad.URL + "/warning", "--tracker", bad.URL + "/redirect"}
	ih := h.infoHash()
	magnet := fmt.Sprintf("magnet:?xt=urn:btih:%x&dn=%s&tr=%s", ih[:], url.QueryEscape(nasty), url.QueryEscape("http://x.invalid/"+nasty))
	for _, extra := range [][]string{nil, {"--json"}, {"--log-level", "debug"}} {
		t.Run("get "+strings.Join(extra, " "), func(t *testing.T) {
			args := append([]string{"get", magnet, "--peer", addr, "-o", filepath.Join(t.TempDir(), "out"), "--listen", loopback}, trackers...)
			r := cli(t, append(args, extra...)...)
			if r.code != exitOK {
				t.Errorf("%v", r)
			}
			harmless(t, "standard output", r.out)
			harmless(t, "standard error", r.err)
		})
		t.Run("listen "+strings.Join(extra, " "), func(t *testing.T) {
			path := write(t, t.TempDir(), "shared", "content")
			r, m, at := listenTo(t, path, append(append([]string{"--type", "hello", "--json"}, trackers...), extra...)...)
			link, err := metainfo.ParseMagnet(m)
			if err != nil {
				t.Fatal(err)
			}
			nc, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			var talking sync.WaitGroup
			talking.Go(func() { h.talk(rawpeer.New(t, nc), link.InfoHash, false) })
			r.out.wait(t, `owned`) // the message, escaped
			r.interrupt(t)
			nc.Close()
			talking.Wait()
			harmless(t, "standard output", r.out.String())
			harmless(t, "standard error", r.err.String())
		})
	}
}
