package swarm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netdial"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/webseed"
)

// web runs a web server on a new host of the world, and returns its URL.
func (w *world) web(h http.HandlerFunc) string {
	w.t.Helper()
	addr := w.addr()
	ln, err := w.net.Listen(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	var group sync.WaitGroup
	group.Go(func() { _ = srv.Serve(ln) }) // until Close
	w.t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			w.t.Error(err)
		}
		group.Wait()
	})
	return fmt.Sprintf("http://%v/", addr)
}

// ranges serves content as servers do that know ranges.
func ranges(content []byte) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		http.ServeContent(rw, r, "x.bin", time.Time{}, bytes.NewReader(content))
	}
}

// webSeeds gives a node web seeds that its user named.
func webSeeds(urls ...string) func(*node, *Config) {
	return func(n *node, cfg *Config) {
		client := webseed.NewClient(webseed.Config{Net: netdial.New(netdial.Config{
			Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
				return n.w.net.Dial(ctx, netip.AddrPortFrom(n.addr.Addr(), 0), netip.MustParseAddrPort(address))
			},
		})})
		n.w.t.Cleanup(client.Close)
		cfg.Web = client
		for _, u := range urls {
			cfg.WebSeeds = append(cfg.WebSeeds, WebSeed{URL: u, By: netpolicy.Loopback})
		}
	}
}

// A torrent without any peer completes from a web seed, with few requests, and serves nobody's half-open anything when closed.
func TestWebSeedAlone(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    func(content []byte, requests *atomic.Int32) http.HandlerFunc
		most int32
	}{
		{"with ranges", func(content []byte, requests *atomic.Int32) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				ranges(content)(rw, r)
			}
		}, 40},
		{"without ranges", func(content []byte, requests *atomic.Int32) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
				_, _ = rw.Write(content)
			}
		}, 3},
		{"busy at first", func(content []byte, requests *atomic.Int32) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				if requests.Add(1) < 4 {
					rw.Header().Set("Retry-After", "90")
					http.Error(rw, "busy", http.StatusServiceUnavailable)
					return
				}
				ranges(content)(rw, r)
			}
		}, 44},
		{"dies in the middle, again and again", func(content []byte, requests *atomic.Int32) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				if requests.Add(1)%2 == 1 {
					var first, last int
					if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
						panic(http.ErrAbortHandler)
					}
					rw.Header().Set("Content-Length", fmt.Sprint(last-first+1))
					rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(content)))
					rw.WriteHeader(http.StatusPartialContent)
					_, _ = rw.Write(content[first : first+(last-first)*2/3])
					panic(http.ErrAbortHandler)
				}
				ranges(content)(rw, r)
			}
		}, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 150*piece+777, piece, slow)
				var requests atomic.Int32
				url := w.web(tt.h(w.content, &requests))
				n := w.start(webSeeds(url))
				n.waitComplete(time.Hour)
				if got := requests.Load(); got > tt.most {
					t.Errorf("%d requests for 151 pieces, want at most %d", got, tt.most)
				}
				st := n.tor.WebSeeds()
				if len(st) != 1 || st[0].Off || st[0].Downloaded < int64(len(w.content)) {
					t.Errorf("%+v", st)
				}
				if s := n.tor.Stats(); s.Wasted > 4*piece {
					t.Errorf("%d bytes wasted", s.Wasted)
				}
				n.close()
			})
		})
	}
}

// A web seed with other content is found out and asked no more, and peers complete what it could not spoil for good.
func TestWebSeedCorrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 200*piece, piece, slow)
		bad := bytes.Clone(w.content)
		for i := 0; i < len(bad); i += 1000 {
			bad[i]++
		}
		var after atomic.Int32
		url := w.web(func(rw http.ResponseWriter, r *http.Request) {
			after.Add(1)
			ranges(bad)(rw, r)
		})
		seed := w.start(seeding)
		other := w.start(seeding)
		n := w.start(webSeeds(url))
		time.Sleep(10 * time.Second) // until it stands alone there is nobody else to blame
		st := n.tor.WebSeeds()
		if len(st) != 1 || !st[0].Off || !strings.Contains(fmt.Sprint(st[0].Err), "piece") || n.count(EventWebSeedFailed) != 1 {
			t.Errorf("%+v, %d events", st, n.count(EventWebSeedFailed))
		}
		n.tor.AddPeers(seed.addr, other.addr)
		before := after.Load()
		n.waitComplete(10 * time.Minute)
		if s := n.tor.Stats(); s.CorruptPieces == 0 || s.CorruptPieces > 20 || s.Peers != 2 || after.Load() != before {
			t.Errorf("%+v; %d requests after it was found out", s, after.Load()-before)
		}
		n.close()
	})
}

// Peers and web seeds share the work, whoever is slow or lies.
func TestWebSeedsAndPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 400*piece, piece, slow)
		good := w.web(ranges(w.content))
		stuck := w.web(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		missing := w.web(http.NotFound)
		seed := w.start(seeding)
		n := w.start(webSeeds(stuck, missing, good))
		n.tor.AddPeers(seed.addr)
		n.waitComplete(10 * time.Minute)
		st := n.tor.WebSeeds()
		if st[0].Downloaded != 0 || st[0].Off || !st[1].Off || st[2].Downloaded < 50*piece {
			t.Errorf("stuck %+v\nmissing %+v\ngood %+v", st[0], st[1], st[2])
		}
		if up := seed.tor.Stats().Uploaded; up < 50*piece {
			t.Errorf("the peer sent %d bytes", up)
		}
		// In the end both are asked for the rest, and each brings what was under way when the other was faster: 10 to 24 pieces in 80 runs.
		if s := n.tor.Stats(); s.Wasted > 40*piece {
			t.Errorf("%d bytes wasted", s.Wasted)
		}
		n.close()
	})
}

// A magnet has its metadata from a peer and its content from the web.
func TestWebSeedMagnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 50*piece, piece, slow)
		url := w.web(ranges(w.content))
		empty := w.start() // knows the metadata and nothing else
		n := w.start(magnet, webSeeds(url))
		n.tor.AddPeers(empty.addr)
		n.waitComplete(10 * time.Minute)
		empty.waitComplete(10 * time.Minute) // from n
		n.close()
	})
}

// A torrent may name a host as often as it likes, which is asked no more for it; nor does it reach what is more local than a torrent.
func TestWebSeedsOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*piece, piece, slow)
		var requests atomic.Int32
		url := w.web(func(rw http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			http.Error(rw, "no", http.StatusInternalServerError)
		})
		n := w.start(webSeeds(), with(func(cfg *Config) {
			for i := range 500 {
				cfg.WebSeeds = append(cfg.WebSeeds, WebSeed{URL: fmt.Sprintf("%sx%d", url, i)}, WebSeed{URL: fmt.Sprintf("http://192.0.2.%d/", i%250)}, WebSeed{URL: "gopher://h/"})
			}
		}))
		time.Sleep(time.Minute)
		st := n.tor.WebSeeds()
		if len(st) > maxWebSeeds || requests.Load() != 0 {
			t.Errorf("%d web seeds, %d requests to a private address", len(st), requests.Load())
		}
		mine := 0
		for _, s := range st {
			if strings.HasPrefix(s.URL, url) {
				mine++
				if !s.Off {
					t.Errorf("%+v is not off", s)
				}
			}
		}
		if mine > maxWebPerHost {
			t.Errorf("%d of one host", mine)
		}
		n.close()
	})
}

// A torrent that is closed, or stopped by an error, asks no web seed for anything more, and waits for none.
func TestWebSeedStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 400*piece, piece, slow)
		var requests atomic.Int32
		url := w.web(func(rw http.ResponseWriter, r *http.Request) {
			if requests.Add(1) > 3 {
				<-r.Context().Done()
			}
			ranges(w.content)(rw, r)
		})
		n := w.start(webSeeds(url))
		time.Sleep(10 * time.Second)
		n.close()
		if n.taken > time.Second {
			t.Errorf("the close took %v", n.taken)
		}
		before := requests.Load()
		full := w.start(webSeeds(url), onto(&wrapped{verified: func(bt.PieceIndex) error { return errTest }}))
		requests.Store(0)
		time.Sleep(time.Hour)
		if s := full.tor.Stats(); s.State != StateStopped || requests.Load() > 3 {
			t.Errorf("%+v; %d requests, %d before", s, requests.Load(), before)
		}
		full.close()
	})
}
