package swarm

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

var formsV2 = []metainfo.Form{metainfo.FormV2, metainfo.FormHybrid}

// sizesV2 are files without content, of one byte, at and around the ends of blocks and pieces of 64 KiB, and one whose layer is asked for in three parts.
var sizesV2 = []int64{0, 1, 16 << 10, 16<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 0, 300_000, 1100 * 64 << 10, 3}

// newWorldV2 makes a torrent of files of so many bytes with a v2 description. The trees of those in wrong, of which the torrent must be a hybrid, are of other content.
func newWorldV2(t *testing.T, form metainfo.Form, pieceBytes int64, sizes []int64, link simnet.Link, wrong ...int) *world {
	t.Helper()
	w := newWorld(t, 1, 16<<10, link)
	b := metainfo.Builder{Name: "content", Form: form, PieceLength: pieceBytes}
	for i, n := range sizes {
		b.Files = append(b.Files, metainfo.File{Path: []string{fmt.Sprintf("%03d", i)}, Length: n})
	}
	random := rand.NewChaCha8([32]byte{0: byte(w.seed), 1: byte(w.seed >> 8)})
	w.content = nil
	i := 0
	for _, f := range metainfo.PadFiles(b.Files, pieceBytes) {
		data := make([]byte, f.Length)
		if !f.Padding {
			random.Read(data) // never fails
			in := data
			if slices.Contains(wrong, i) {
				in = slices.Clone(data)
				in[len(in)/2]++
			}
			var hashes []byte
			for p := range slices.Chunk(in, int(pieceBytes)) {
				h, err := metainfo.HashPieceV2(p, f.Length, pieceBytes)
				if err != nil {
					t.Fatal(err)
				}
				hashes = append(hashes, h[:]...)
			}
			b.TreeHashes = append(b.TreeHashes, hashes)
			i++
		}
		w.content = append(w.content, data...)
	}
	for p := range slices.Chunk(w.content, int(pieceBytes)) {
		sum := sha1.Sum(p)
		b.PieceHashes = append(b.PieceHashes, sum[:]...)
	}
	mi, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	w.info, w.ih, w.v2, w.layers = mi.Info, mi.InfoHash, mi.InfoHashV2, mi.PieceLayers
	return w
}

// wantLayers checks that a node knows all piece layers.
func (n *node) wantLayers() {
	n.t.Helper()
	got := n.tor.Layers()
	if len(got) != len(n.w.layers) {
		n.t.Errorf("%v has the layers of %d files, want %d", n.addr, len(got), len(n.w.layers))
	}
	for root, layer := range n.w.layers {
		if !slices.Equal(got[root], layer) {
			n.t.Errorf("%v has another layer below root %x", n.addr, root[:4])
		}
	}
}

// TestV2Swarm: a torrent goes from a seed to one who has its metadata, from there to one who has but a link, and on to another.
func TestV2Swarm(t *testing.T) {
	for _, form := range formsV2 {
		t.Run(form.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldV2(t, form, 64<<10, sizesV2, simnet.Link{Latency: 5 * time.Millisecond})
				seed := w.start(seeding)
				first := w.start()
				first.tor.AddPeers(seed.addr)
				first.waitComplete(10 * time.Minute)
				seed.close()
				second := w.start(magnet)
				second.tor.AddPeers(first.addr)
				second.waitComplete(10 * time.Minute)
				second.wantLayers()
				first.close()
				third := w.start(magnet)
				third.tor.AddPeers(second.addr)
				third.waitComplete(10 * time.Minute)
				third.wantLayers()
				for _, n := range []*node{second, third} {
					s := n.tor.Stats()
					if s.TotalBytes != w.info.Geometry.ContentBytes() || s.HaveBytes != s.TotalBytes || s.Downloaded != s.TotalBytes || s.Wasted != 0 {
						t.Errorf("%+v, want %d bytes of content and nothing of padding", s, w.info.Geometry.ContentBytes())
					}
				}
				for p := range third.tor.peers {
					if !p.v2 && (form.String() == "v2" || *testHello != wire.HelloVeil.String()) { // a veiled session stays with the info-hash of its TAG
						t.Error("a session between two who know the v2 form is not in it")
					}
				}
			})
		})
	}
}

// TestHybridInV1: who knows a hybrid by its v1 info-hash alone gets it, learns the trees from the pieces themselves, and then serves them.
func TestHybridInV1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldV2(t, metainfo.FormHybrid, 16<<10, []int64{40_000, 5, 100_000, 100_000}, slow)
		seed := w.start(seeding)
		byV1 := w.start(magnet, with(func(cfg *Config) { cfg.InfoHashV2 = metainfo.InfoHashV2{} }))
		byV1.tor.AddPeers(seed.addr)
		byV1.waitComplete(time.Minute)
		byV1.wantLayers()
		seed.close()
		// A v1 client knows nothing of all that, and asks for padding too.
		plain := w.start(with(func(cfg *Config) {
			info, err := metainfo.ParseInfo(w.info.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Info, cfg.InfoHashV2, cfg.Layers = info, metainfo.InfoHashV2{}, nil
		}))
		plain.tor.AddPeers(byV1.addr)
		plain.waitComplete(time.Minute)
		if plain.tor.Layers() != nil {
			t.Error("a v1 torrent has layers")
		}
	})
}

// TestEitherHash: a hybrid is found under either of its info-hashes, by one who knows both.
func TestEitherHash(t *testing.T) {
	for _, form := range []string{"v1", "v2"} {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldV2(t, metainfo.FormHybrid, 16<<10, []int64{40_000, 5}, slow)
				only := w.ih
				if form == "v2" {
					only = w.v2.Truncated()
				}
				seed := w.start(seeding, func(n *node, _ *Config) { n.only = only })
				n := w.start()
				n.tor.AddPeers(seed.addr)
				n.waitComplete(time.Minute)
				m := w.start(magnet)
				m.tor.AddPeers(seed.addr)
				m.waitComplete(time.Minute)
			})
		})
	}
}

// TestInconsistentHybrid: a hybrid whose descriptions are of different content stops, and nobody is banned for it.
func TestInconsistentHybrid(t *testing.T) {
	for _, tt := range []struct {
		name   string
		wrong  int
		v1     bool
		magnet bool
	}{
		{"from a .torrent, long file", 1, false, false},
		{"from a .torrent, short file", 2, false, false},
		{"from a link", 1, false, true},
		{"from a v1 link", 1, true, true},
		{"from a v1 link, short file", 2, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldV2(t, metainfo.FormHybrid, 16<<10, []int64{20_000, 100_000, 5}, slow, tt.wrong)
				seed := w.start(seeding)
				n := w.start(with(func(cfg *Config) {
					if tt.magnet {
						cfg.Info, cfg.Layers = nil, nil
					}
					if tt.v1 {
						cfg.InfoHashV2 = metainfo.InfoHashV2{}
					}
				}))
				n.tor.AddPeers(seed.addr)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := n.tor.WaitComplete(ctx); !errors.Is(err, storage.ErrInconsistent) {
					t.Errorf("complete with %v", err)
				}
				if s := n.tor.Stats(); s.CorruptPieces != 0 || s.State != StateStopped {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// TestTwoTorrentsInOneLink: a link whose two info-hashes belong to different torrents leads to neither.
func TestTwoTorrentsInOneLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldV2(t, metainfo.FormHybrid, 16<<10, []int64{20_000}, slow)
		seed := w.start(seeding)
		n := w.start(magnet, with(func(cfg *Config) { cfg.InfoHashV2[31]++ })) // a hello does not show these bytes
		n.tor.AddPeers(seed.addr)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := n.tor.WaitComplete(ctx); !errors.Is(err, errTwoTorrents) {
			t.Errorf("complete with %v", err)
		}
	})
}

// serveV2 is a peer driven by hand that has the metadata and all pieces, and answers requests for hashes by answer, which may be nil for no answer.
func serveV2(w *world, answer func(p *rawpeer.Peer, r *wire.HashRequest) []byte) func(*rawpeer.Peer) {
	return func(p *rawpeer.Peer) {
		size := int64(len(w.info.Bytes))
		if p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 3}}, MetadataSize: size}) != nil {
			return
		}
		if _, err := p.Write(classic.AppendHaveAll(nil)); err != nil {
			return
		}
		their := uint8(0)
		p.Until(func(m wire.Message) bool {
			switch m := m.(type) {
			case *wire.HashRequest:
				_, err := p.Write(answer(p, m))
				return err != nil
			case *wire.Extended:
				switch m.ID {
				case ltep.ExchangeID:
					if e, err := ltep.ParseExchange(m.Payload); err == nil {
						for _, entry := range e.M {
							if entry.Name == ltep.NameMetadata {
								their = entry.ID
							}
						}
					}
				case 3:
					if md, err := ltep.ParseMetadata(m.Payload); err == nil && md.Type == ltep.MetadataRequest {
						at := int(md.Piece) * ltep.MetadataPieceBytes
						data := w.info.Bytes[at:min(at+ltep.MetadataPieceBytes, len(w.info.Bytes))]
						return p.Extended(their, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataData, Piece: md.Piece, TotalSize: size, Data: data})) != nil
					}
				}
			}
			return false
		})
	}
}

// trueHashes answers a request for hashes from the torrent's layers.
func (w *world) trueHashes(r *wire.HashRequest) []byte {
	ts, err := newTrees(w.info, w.layers)
	if err != nil {
		w.t.Fatal(err)
	}
	rng := merkle.Range{Base: r.BaseLayer, Index: r.Index, Length: r.Length, Proof: r.ProofLayers}
	tree, _, err := ts.find(r.Root, rng)
	if err != nil {
		w.t.Errorf("asked for %+v: %v", rng, err)
		return nil
	}
	data, err := tree.AppendHashes(nil, rng, nil)
	if err != nil {
		w.t.Errorf("asked for %+v: %v", rng, err)
	}
	return data
}

// listenV2 is listenRaw for peers that speak of the torrent in its v2 form.
func (w *world) listenV2(f func(p *rawpeer.Peer)) netip.AddrPort {
	w.t.Helper()
	return w.listen(func(nc net.Conn, addr netip.AddrPort) {
		p := rawpeer.New(w.t, nc)
		if _, err := p.Greet(w.v2.Truncated(), peerID(addr), rawpeer.LTEP); err == nil {
			f(p)
		}
	})
}

// TestLayersFromLiars: who sends hashes that lead nowhere is banned, who sends none or refuses is passed over, and what is missing comes from whoever has it.
func TestLayersFromLiars(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(w *world, r *wire.HashRequest) []byte
		banned bool
	}{
		{"a hash is wrong", func(w *world, r *wire.HashRequest) []byte {
			data := w.trueHashes(r)
			data[5]++
			return classic.AppendHashes(nil, wire.Hashes{HashSpan: r.HashSpan, Data: data})
		}, true},
		{"the proof is wrong", func(w *world, r *wire.HashRequest) []byte {
			data := w.trueHashes(r)
			data[len(data)-1]++
			return classic.AppendHashes(nil, wire.Hashes{HashSpan: r.HashSpan, Data: data})
		}, true},
		{"hashes of another place", func(w *world, r *wire.HashRequest) []byte {
			other := *r
			other.Index ^= 512
			data := w.trueHashes(&other)
			return classic.AppendHashes(nil, wire.Hashes{HashSpan: r.HashSpan, Data: data})
		}, true},
		{"zeros", func(w *world, r *wire.HashRequest) []byte {
			return classic.AppendHashes(nil, wire.Hashes{HashSpan: r.HashSpan, Data: make([]byte, len(w.trueHashes(r)))})
		}, true},
		{"too few", func(w *world, r *wire.HashRequest) []byte {
			data := w.trueHashes(r)
			return classic.AppendHashes(nil, wire.Hashes{HashSpan: r.HashSpan, Data: data[:len(data)-32]})
		}, true},
		{"what nobody asked for", func(w *world, r *wire.HashRequest) []byte {
			span := r.HashSpan
			span.Root[0]++
			return classic.AppendHashes(nil, wire.Hashes{HashSpan: span, Data: w.trueHashes(r)})
		}, true},
		{"refuses", func(_ *world, r *wire.HashRequest) []byte {
			return classic.AppendHashReject(nil, wire.HashReject{HashSpan: r.HashSpan})
		}, false},
		{"silent", func(*world, *wire.HashRequest) []byte { return nil }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// One file whose layer has four parts, of which pieces are few: its data are never asked for here.
				w := newWorldV2(t, metainfo.FormV2, 16<<10, []int64{1800 * 16 << 10, 100_000}, simnet.Link{Latency: 5 * time.Millisecond})
				asked := 0
				liar := w.listenV2(func(p *rawpeer.Peer) {
					serveV2(w, func(_ *rawpeer.Peer, r *wire.HashRequest) []byte {
						asked++
						return tt.answer(w, r)
					})(p)
				})
				n := w.start(magnet)
				n.tor.AddPeers(liar)
				time.Sleep(3 * time.Minute)
				if s := n.tor.Stats(); s.State != StateMetadata || s.Err != nil || asked == 0 {
					t.Fatalf("asked %d times: %+v", asked, s)
				}
				if most := 100; asked > most {
					t.Errorf("asked %d times in three minutes, want at most %d", asked, most)
				}
				if left := len(n.tor.Peers()); tt.banned != (left == 0) {
					t.Errorf("%d peers are left", left)
				}
				seed := w.start(seeding)
				n.tor.AddPeers(seed.addr)
				n.waitComplete(10 * time.Minute)
				n.wantLayers()
			})
		})
	}
}

// TestLayersFromMany: what is missing is asked of several peers.
func TestLayersFromMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldV2(t, metainfo.FormV2, 16<<10, []int64{8000 * 16 << 10}, simnet.Link{Latency: 5 * time.Millisecond})
		asked := make([]int, 3)
		n := w.start(magnet)
		for i := range asked {
			n.tor.AddPeers(w.listenV2(serveV2(w, func(_ *rawpeer.Peer, r *wire.HashRequest) []byte {
				asked[i]++
				time.Sleep(time.Second)
				return classic.AppendHashes(nil, wire.Hashes{HashSpan: r.HashSpan, Data: w.trueHashes(r)})
			})))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := n.tor.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		n.wantLayers()
		if slices.Min(asked) < 2 || asked[0]+asked[1]+asked[2] != 16 {
			t.Errorf("asked %v times for 16 parts", asked)
		}
	})
}

// ask sends a request for hashes and returns the answer; no Data is a refusal.
func ask(p *rawpeer.Peer, s wire.HashSpan) (h wire.Hashes, err error) {
	if _, err = p.Write(classic.AppendHashRequest(nil, wire.HashRequest{HashSpan: s})); err != nil {
		return h, err
	}
	err = p.Until(func(m wire.Message) bool {
		switch m := m.(type) {
		case *wire.Hashes:
			h = wire.Hashes{HashSpan: m.HashSpan, Data: slices.Clone(m.Data)}
			return true
		case *wire.HashReject:
			h = wire.Hashes{HashSpan: m.HashSpan}
			return true
		}
		return false
	})
	return h, err
}

// rawV2 connects a peer that speaks of the torrent in its v2 form.
func (w *world) rawV2(to *node) *rawpeer.Peer {
	w.t.Helper()
	synctest.Wait() // until what it has is verified
	from := w.addr()
	nc, err := w.net.Dial(context.Background(), netip.AddrPortFrom(from.Addr(), 0), to.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	p := rawpeer.New(w.t, nc)
	if _, err := p.Greet(w.v2.Truncated(), peerID(from), rawpeer.LTEP); err != nil {
		w.t.Fatalf("%v: hello: %v", from, err)
	}
	return p
}

// TestServeHashes: requests for piece layers and for the hashes of blocks are answered with what proves them; those that make no sense are refused, and the session goes on.
func TestServeHashes(t *testing.T) {
	for _, form := range formsV2 {
		t.Run(form.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldV2(t, form, 64<<10, sizesV2, simnet.Link{Latency: 5 * time.Millisecond})
				n := w.start(seeding)
				p := w.rawV2(n)
				for i := range w.info.Files {
					f := &w.info.Files[i]
					if f.Padding || f.Length == 0 {
						continue
					}
					shape, err := merkle.NewShape(f.Length, w.info.PieceLength)
					if err != nil {
						t.Fatal(err)
					}
					tree := merkle.NewTree(shape, f.PiecesRoot)
					for r := range shape.PieceRanges() {
						a := layerAsk{keyOf(f), r}
						h, err := ask(p, a.span())
						if err != nil {
							t.Fatal(err)
						}
						if err := tree.Add(r, h.Data); err != nil {
							t.Errorf("file %d, %+v: %v", i, r, err)
						}
					}
					last := shape.NumPieces() - 1
					for r := range shape.LeafRanges(last) {
						a := layerAsk{keyOf(f), r}
						h, err := ask(p, a.span())
						if err != nil {
							t.Fatal(err)
						}
						if err := tree.Verify(r, h.Data); err != nil {
							t.Errorf("file %d, blocks of piece %d, %+v: %v", i, last, r, err)
						}
					}
				}
				long := w.info.Files[0].PiecesRoot
				for i := range w.info.Files {
					if w.info.Files[i].Length > 1<<20 {
						long = w.info.Files[i].PiecesRoot
					}
				}
				for _, s := range []wire.HashSpan{
					{Length: 2},
					{Root: long, Length: 1},
					{Root: long, Length: 3},
					{Root: long, Length: 8192, BaseLayer: 2},
					{Root: long, Length: 1 << 31, BaseLayer: 2},
					{Root: long, Length: 512, Index: 1, BaseLayer: 2},
					{Root: long, Length: 512, Index: 1 << 31, BaseLayer: 2},
					{Root: long, Length: 2, BaseLayer: 1},
					{Root: long, Length: 8, BaseLayer: 0},
					{Root: long, Length: 2, BaseLayer: 99},
					{Root: long, Length: 2, BaseLayer: 2, ProofLayers: 1 << 31},
				} {
					h, err := ask(p, s)
					if err != nil {
						t.Fatalf("%+v: %v", s, err)
					}
					if h.HashSpan != s || h.Data != nil {
						t.Errorf("%+v is answered by %d bytes for %+v", s, len(h.Data), h.HashSpan)
					}
				}
			})
		})
	}
}

// TestHashesOfWhatIsNotHere: who lacks a piece cannot say what its blocks hash to, and who lacks a layer nothing of that. A v1 session gets no hashes.
func TestHashesOfWhatIsNotHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldV2(t, metainfo.FormHybrid, 64<<10, []int64{200_000}, slow)
		root := w.info.Files[0].PiecesRoot
		layer := wire.HashSpan{Root: root, BaseLayer: 2, Length: 4, ProofLayers: 1}
		leaves := wire.HashSpan{Root: root, Length: 4, ProofLayers: 1}
		p := w.rawV2(w.start())
		if h, err := ask(p, layer); err != nil || h.Data == nil {
			t.Errorf("the layer of a .torrent: %d bytes, %v", len(h.Data), err)
		}
		if h, err := ask(p, leaves); err != nil || h.Data != nil {
			t.Errorf("blocks that are not here: %d bytes, %v", len(h.Data), err)
		}
		p = w.rawV2(w.start(with(func(cfg *Config) { cfg.Layers = nil })))
		if h, err := ask(p, layer); err != nil || h.Data != nil {
			t.Errorf("a layer that is not known: %d bytes, %v", len(h.Data), err)
		}
		p = w.rawV2(w.start(magnet))
		if h, err := ask(p, layer); err != nil || h.Data != nil {
			t.Errorf("without metadata: %d bytes, %v", len(h.Data), err)
		}
		v1 := w.raw(w.start(seeding))
		if _, err := v1.Write(classic.AppendHashRequest(nil, wire.HashRequest{HashSpan: layer})); err != nil {
			t.Fatal(err)
		}
		v1.SetReadDeadline(time.Now().Add(10 * time.Second))
		err := v1.Until(func(m wire.Message) bool { return m.Kind() == wire.KindHashes || m.Kind() == wire.KindHashReject })
		if err == nil {
			t.Error("a v1 session is answered")
		}
	})
}

// TestLeafFlood: what hashing blocks for a peer costs is bounded, over all of its requests.
func TestLeafFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pieceBytes = 8 << 20
		w := newWorldV2(t, metainfo.FormV2, pieceBytes, []int64{24 * pieceBytes}, simnet.Link{})
		read := 0
		n := w.start(seeding, onto(&wrapped{read: func(p []byte, _ int64) error { read += len(p); return nil }}))
		p := w.rawV2(n)
		span := wire.HashSpan{Root: w.info.Files[0].PiecesRoot, Length: 512, ProofLayers: 9}
		answered := 0
		for range 4 {
			for i := range uint32(24) {
				span.Index = i * 512
				h, err := ask(p, span)
				if err != nil {
					t.Fatal(err)
				}
				if h.Data != nil {
					answered++
				}
			}
		}
		if answered == 0 || read > leavesBurst+pieceBytes {
			t.Errorf("%d of 96 requests were answered, %d bytes were read", answered, read)
		}
		time.Sleep(time.Minute)
		before := read
		if h, err := ask(p, span); err != nil || h.Data == nil || read-before > pieceBytes {
			t.Errorf("a minute later: %d bytes, %v; %d bytes were read", len(h.Data), err, read-before)
		}
	})
}

func TestAllowance(t *testing.T) {
	var a allowance
	now := time.Unix(1, 0)
	for _, tt := range []struct {
		after time.Duration
		n     int64
		want  bool
	}{
		{0, 60, true}, {0, 60, false}, {0, 40, true}, {0, 1, false}, {time.Second, 11, false}, {0, 10, true}, {time.Hour, 100, true}, {time.Second, 1000, false},
		{time.Minute, 1000, true}, {80 * time.Second, 1, false}, {20 * time.Second, 100, true},
	} {
		now = now.Add(tt.after)
		if got := a.take(now, tt.n, 100, 10); got != tt.want {
			t.Fatalf("at %v, %d: %v, %d left", now.Unix(), tt.n, got, a.left)
		}
	}
}

// TestRequestsEndWithTheFile: no block that is asked for reaches beyond the end of a file.
func TestRequestsEndWithTheFile(t *testing.T) {
	for _, form := range formsV2 {
		t.Run(form.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorldV2(t, form, 32<<10, []int64{1, 20_000, 32 << 10, 40_000, 100}, slow)
				n := w.start()
				asked := make(map[bt.Block]bool)
				at := w.listenV2(func(p *rawpeer.Peer) {
					p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil)))
					p.Until(func(m wire.Message) bool {
						r, ok := m.(*wire.Request)
						if !ok {
							return false
						}
						asked[r.Block] = true
						off := w.info.Geometry.Offset(r.Block)
						_, err := p.Write(classic.AppendPiece(nil, wire.Piece{Index: r.Index, Begin: r.Begin, Data: w.content[off : off+int64(r.Length)]}))
						return err != nil
					})
				})
				n.tor.AddPeers(at)
				n.waitComplete(time.Minute)
				var total uint32
				for b := range asked {
					if b.Begin+b.Length > w.info.PieceLenV2(b.Index) {
						t.Errorf("asked for %v of a piece of %d bytes", b, w.info.PieceLenV2(b.Index))
					}
					total += b.Length
				}
				if int64(total) != w.info.Geometry.ContentBytes() {
					t.Errorf("asked for %d bytes of %d", total, w.info.Geometry.ContentBytes())
				}
			})
		})
	}
}

// TestCorruptV2: a peer that sends wrong blocks of a v2 torrent is found out by the trees.
func TestCorruptV2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldV2(t, metainfo.FormV2, 32<<10, []int64{1, 20_000, 100_000}, slow)
		bad := w.start(seeding, onto(&wrapped{after: func(p []byte, _ int64) { p[0]++ }}))
		n := w.start()
		n.tor.AddPeers(bad.addr)
		time.Sleep(time.Minute)
		if s := n.tor.Stats(); s.CorruptPieces == 0 || s.HavePieces != 0 {
			t.Errorf("%+v", s)
		}
		good := w.start(seeding)
		n.tor.AddPeers(good.addr)
		n.waitComplete(time.Minute)
	})
}

func TestCorruptHashesAreAFault(t *testing.T) {
	if peer.FaultOf(fmt.Errorf("%w: x", peer.ErrCorruptHashes)) != peer.FaultPeer {
		t.Error("lies about hashes are nobody's fault")
	}
}
