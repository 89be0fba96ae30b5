package parley

import (
	"time"

	"github.com/parley-bt/parley/internal/netdial"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/internal/webseed"
)

// WebSeedStatus is what is known about one of a torrent's web seeds (BEP 19) at one moment.
type WebSeedStatus struct {
	URL        string    // as the torrent, the magnet link or the user gave it: escape it before it reaches a terminal
	Active     bool      // a request is under way
	Downloaded int64     // bytes of piece data received in this session, right or wrong
	DownRate   float64   // bytes a second, smoothed
	Err        error     // what last went wrong, nil after a success
	Off        bool      // it is not asked any more, because of Err: it lied, or has nothing of the torrent
	Next       time.Time // it is left alone until then, because of Err; zero if it may be asked at any time
}

// WebSeeds returns the torrent's web seeds: those of its metadata or magnet link, and those of [TorrentOptions]. There are none before the metadata is known.
func (t *Torrent) WebSeeds() []WebSeedStatus {
	list := t.sw.WebSeeds()
	out := make([]WebSeedStatus, len(list))
	for i, s := range list {
		out[i] = WebSeedStatus(s)
	}
	return out
}

// newWeb makes what the client's torrents reach web seeds with, nil if they are not to.
func (c *Client) newWeb() *webseed.Client {
	if c.cfg.NoWebSeeds {
		return nil
	}
	return webseed.NewClient(webseed.Config{Net: netdial.New(netdial.Config{Policy: c.policy}), UserAgent: c.cfg.ClientName})
}

// useWeb tells a torrent to be of its web seeds: those of the user first, who may name any address.
func (t *Torrent) useWeb(cfg *swarm.Config) {
	cfg.Web = t.client.web
	for _, u := range t.o.WebSeeds {
		cfg.WebSeeds = append(cfg.WebSeeds, swarm.WebSeed{URL: u, By: netpolicy.Loopback})
	}
	named := t.magnet.WebSeeds
	if mi := t.mi.Load(); mi != nil {
		named = mi.WebSeeds
	}
	for _, u := range named {
		cfg.WebSeeds = append(cfg.WebSeeds, swarm.WebSeed{URL: u, By: netpolicy.Global})
	}
}

// checkWebSeeds makes sure that what the user named can be a web seed.
func checkWebSeeds(urls []string) error {
	for _, u := range urls {
		if _, err := webseed.ParseURL(u); err != nil {
			return err
		}
	}
	return nil
}
