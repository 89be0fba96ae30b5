package swarm

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/ltep"
)

// wantMetadata waits until a node knows its torrent.
func (n *node) wantMetadata(within time.Duration) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := n.tor.WaitReady(ctx); err != nil {
		n.t.Fatalf("%v has no metadata after %v: %v; %+v", n.addr, within, err, n.tor.Stats())
	}
	if info := n.tor.Info(); info == nil || !bytes.Equal(info.Bytes, n.w.info.Bytes) {
		n.t.Errorf("%v has other metadata than the seed", n.addr)
	}
	if n.count(EventMetadata) != 1 {
		n.t.Errorf("%v: %d times metadata, want once", n.addr, n.count(EventMetadata))
	}
}

func TestMagnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100*piece, piece, slow)
		seed := w.start(seeding)
		n := w.start(magnet)
		n.tor.AddPeers(seed.addr)
		n.wantMetadata(time.Minute)
		n.waitComplete(time.Minute)
		second := w.start(magnet) // from one who had it from others
		seed.close()
		second.tor.AddPeers(n.addr)
		second.waitComplete(2 * time.Minute)
	})
}

// offer serves metadata by hand: answer says what a request for a piece is answered with.
func offer(size int64, answer func(piece uint32) []ltep.Metadata) func(p *rawpeer.Peer) {
	return func(p *rawpeer.Peer) {
		if p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 3}}, MetadataSize: size}) != nil {
			return
		}
		their := uint8(0)
		p.Until(func(m wire.Message) bool {
			x, ok := m.(*wire.Extended)
			switch {
			case !ok:
			case x.ID == ltep.ExchangeID:
				if e, err := ltep.ParseExchange(x.Payload); err == nil {
					for _, entry := range e.M {
						if entry.Name == ltep.NameMetadata {
							their = entry.ID
						}
					}
				}
			case x.ID == 3:
				md, err := ltep.ParseMetadata(x.Payload)
				if err != nil || md.Type != ltep.MetadataRequest {
					return false
				}
				answers := answer(md.Piece)
				if answers == nil {
					return true // close
				}
				for _, a := range answers {
					if p.Extended(their, ltep.AppendMetadata(nil, a)) != nil {
						return true
					}
				}
			}
			return false
		})
	}
}

// data cuts metadata into the answer to a request.
func data(b []byte, piece uint32) []ltep.Metadata {
	at := int(piece) * ltep.MetadataPieceBytes
	if at >= len(b) {
		return []ltep.Metadata{}
	}
	return []ltep.Metadata{{Type: ltep.MetadataData, Piece: piece, TotalSize: int64(len(b)), Data: b[at:min(at+ltep.MetadataPieceBytes, len(b))]}}
}

// However many peers give wrong metadata or none, one honest peer is enough.
func TestMetadataPoison(t *testing.T) {
	// 3,000 pieces make 60 KB of metadata in 4 pieces; the content does not matter.
	hashes := make([]byte, 3000*20)
	b := metainfo.Builder{Name: "x", SingleFile: true, Files: []metainfo.File{{Path: []string{"x"}, Length: 3000 * piece}}, PieceLength: piece, PieceHashes: hashes}
	mi, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	good := mi.Info.Bytes
	size := int64(len(good))
	wrong := slices.Clone(good)
	wrong[len(wrong)/2] ^= 1

	nothing := func(uint32) []ltep.Metadata { return []ltep.Metadata{} }
	poison := map[string]func(p *rawpeer.Peer){
		"wrong bytes":      offer(size, func(i uint32) []ltep.Metadata { return data(wrong, i) }),
		"a size too small": offer(size-100, func(i uint32) []ltep.Metadata { return data(good[:size-100], i) }),
		"a size too large": offer(size+100, func(i uint32) []ltep.Metadata { return data(append(slices.Clone(good), make([]byte, 100)...), i) }),
		"an enormous size": offer(1<<40, nothing),
		"no size":          offer(0, nothing),
		"rejects": offer(size, func(i uint32) []ltep.Metadata {
			return []ltep.Metadata{{Type: ltep.MetadataReject, Piece: i}}
		}),
		"silence": offer(size, nothing),
		"a piece too short": offer(size, func(i uint32) []ltep.Metadata {
			md := data(good, i)
			md[0].Data = md[0].Data[:10]
			return md
		}),
		"another piece": offer(size, func(i uint32) []ltep.Metadata { return data(good, i+1) }),
		"half of it": offer(size, func(i uint32) []ltep.Metadata {
			if i < 2 {
				return data(good, i)
			}
			return nil
		}),
		"everything twice": offer(size, func(i uint32) []ltep.Metadata { return append(data(good, i), data(good, i)...) }),
	}
	world := func(t *testing.T) (*world, *node) {
		w := newWorld(t, piece, piece, slow)
		w.info, w.ih = mi.Info, sha1.Sum(good)
		return w, w.start(magnet)
	}
	honest := offer(size, func(i uint32) []ltep.Metadata { return data(good, i) })
	for name, f := range poison {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, n := world(t)
				bad := w.listenRaw(f)
				n.tor.AddPeers(bad)
				time.Sleep(2 * time.Second)
				if name != "everything twice" && n.tor.Info() != nil {
					t.Fatal("it took the metadata")
				}
				n.tor.AddPeers(w.listenRaw(honest))
				n.wantMetadata(time.Minute)
				if name == "wrong bytes" && !n.bans(bad) {
					t.Error("the peer that sent wrong metadata is not banned")
				}
			})
		})
	}
	t.Run("all at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, n := world(t)
			for name, f := range poison {
				if name != "everything twice" {
					n.tor.AddPeers(w.listenRaw(f), w.listenRaw(f))
				}
			}
			time.Sleep(time.Second)
			n.tor.AddPeers(w.listenRaw(honest))
			n.wantMetadata(10 * time.Minute)
		})
	})
	t.Run("one that refused serves later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, n := world(t)
			began := time.Now()
			n.tor.AddPeers(w.listenRaw(offer(size, func(i uint32) []ltep.Metadata {
				if time.Since(began) < 30*time.Second {
					return []ltep.Metadata{{Type: ltep.MetadataReject, Piece: i}}
				}
				return data(good, i)
			})))
			n.wantMetadata(2 * time.Minute)
		})
	})
}

// The hash is right and the dictionary is not: nobody has a better one, and whoever waits is told.
func TestMetadataThatMakesNoSense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, piece, piece, slow)
		bad := []byte("d4:name4:evil12:piece lengthi0e6:pieces0:e")
		w.ih = sha1.Sum(bad)
		n := w.start(magnet)
		n.tor.AddPeers(w.listenRaw(offer(int64(len(bad)), func(i uint32) []ltep.Metadata { return data(bad, i) })))
		err := n.tor.WaitReady(t.Context())
		var field *metainfo.Error
		if !errors.As(err, &field) {
			t.Errorf("WaitReady = %v, want what is wrong with the metadata", err)
		}
		if s := n.tor.Stats(); s.State != StateStopped || s.Err == nil {
			t.Errorf("%+v, want it stopped", s)
		}
	})
}

// Metadata that is not there is not served, and what is asked for beyond it rejected.
func TestMetadataIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		seed, empty := w.start(seeding), w.start(magnet)
		opened := make(chan struct{})
		opening := w.start(seeding, with(func(cfg *Config) { // its storage is still being opened
			open := cfg.Open
			cfg.Open = func(info *metainfo.Info) (storage.Storage, error) {
				<-opened
				return open(info)
			}
		}))
		defer close(opened)
		ask := func(n *node, piece uint32) ltep.Metadata {
			t.Helper()
			p := w.raw(n)
			e, err := p.UntilExchange()
			if err != nil {
				t.Fatal(err)
			}
			if want := int64(len(w.info.Bytes)); n == seed && e.MetadataSize != want || n == empty && e.MetadataSize != 0 {
				t.Errorf("a metadata size of %d was told", e.MetadataSize)
			}
			if err := p.Exchange(ltep.Exchange{M: []ltep.Entry{{Name: ltep.NameMetadata, ID: 7}}}); err != nil {
				t.Fatal(err)
			}
			var ours uint8
			for _, x := range e.M {
				if x.Name == ltep.NameMetadata {
					ours = x.ID
				}
			}
			if err := p.Extended(ours, ltep.AppendMetadata(nil, ltep.Metadata{Type: ltep.MetadataRequest, Piece: piece})); err != nil {
				t.Fatal(err)
			}
			var md ltep.Metadata
			err = p.Until(func(m wire.Message) bool {
				x, ok := m.(*wire.Extended)
				if !ok || x.ID != 7 {
					return false
				}
				md, err = ltep.ParseMetadata(x.Payload)
				md.Data = slices.Clone(md.Data)
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			p.Close()
			return md
		}
		if md := ask(seed, 0); md.Type != ltep.MetadataData || !bytes.Equal(md.Data, w.info.Bytes) {
			t.Errorf("piece 0 of a seed: type %v, %d bytes", md.Type, len(md.Data))
		}
		if md := ask(opening, 0); md.Type != ltep.MetadataData {
			t.Errorf("of one that is being opened: type %v, although its exchange offers the metadata", md.Type)
		}
		if md := ask(seed, 1); md.Type != ltep.MetadataReject || md.Piece != 1 {
			t.Errorf("piece 1 of one: %+v, want a reject", md)
		}
		if md := ask(seed, ltep.MaxMetadataBytes/ltep.MetadataPieceBytes-1); md.Type != ltep.MetadataReject {
			t.Errorf("a piece far away: %+v, want a reject", md)
		}
		if md := ask(empty, 0); md.Type != ltep.MetadataReject {
			t.Errorf("of one who has none: %+v, want a reject", md)
		}
	})
}
