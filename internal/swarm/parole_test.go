package swarm

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// turncoat is a peer that sends so many blocks as they are, then so many that are spoilt, and then nothing more.
func (w *world) turncoat(good, spoilt int) func(p *rawpeer.Peer) {
	return func(p *rawpeer.Peer) {
		if _, err := p.Write(classic.AppendUnchoke(classic.AppendHaveAll(nil))); err != nil {
			return
		}
		left := good + spoilt
		p.Until(func(m wire.Message) bool {
			r, ok := m.(*wire.Request)
			if !ok || left == 0 {
				return false
			}
			at := w.info.Geometry.Offset(r.Block)
			data := append([]byte(nil), w.content[at:at+int64(r.Length)]...)
			if left <= spoilt {
				data[len(data)/2] ^= 1
			}
			left--
			_, err := p.Write(classic.AppendPiece(nil, wire.Piece{Index: r.Index, Begin: r.Begin, Data: data}))
			return err != nil
		})
	}
}

// Strangers who spoil pieces and then fall silent do not hold them up: what is on trial goes to who delivers, however large its part in what the others spoilt.
func TestSilentCorrupters(t *testing.T) {
	for _, c := range []struct {
		corrupt, good, spoilt int
		within                time.Duration // more than in peace
	}{
		{corrupt: 4, good: 0, spoilt: 1, within: 3 * time.Second},
		{corrupt: 4, good: 0, spoilt: 5, within: 3 * time.Second},
		{corrupt: 4, good: 40, spoilt: 1, within: 12 * time.Second},
		{corrupt: 12, good: 10, spoilt: 2, within: 12 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d peers, %d good blocks and %d spoilt", c.corrupt, c.good, c.spoilt), func(t *testing.T) {
			first, seeds := simSeeds(t, 3)
			var worst, calm time.Duration
			for s := range seeds {
				took := func(corrupt int) (d time.Duration) {
					synctest.Test(t, func(t *testing.T) {
						w := newWorldOf(t, first+s, 131*(64<<10)-100, 64<<10, slow)
						n := w.start()
						began := time.Now()
						for range corrupt {
							n.tor.AddPeers(w.listenRaw(w.turncoat(c.good, c.spoilt)))
						}
						if corrupt > 0 {
							time.Sleep(500 * time.Millisecond) // they have their hands in it when the honest peer comes
						}
						honest := w.start(seeding)
						n.tor.AddPeers(honest.addr)
						n.waitComplete(30 * time.Minute)
						d = time.Since(began)
						if n.bans(honest.addr) {
							t.Error("the honest peer is banned")
						}
						if corrupt > 0 && n.tor.Stats().CorruptPieces == 0 {
							t.Error("no piece failed: the test is none")
						}
					})
					return d
				}
				calm = max(calm, took(0))
				worst = max(worst, took(c.corrupt))
				if worst > calm+c.within {
					t.Fatalf("seed %d: %v, in peace %v, want no more than %v longer", first+s, worst, calm, c.within)
				}
			}
			t.Logf("%d seeds: at most %v simulated, in peace %v: %.2f of the rate", seeds, worst.Round(time.Millisecond), calm.Round(time.Millisecond), float64(calm)/float64(worst))
		})
	}
}
