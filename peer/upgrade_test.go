package peer

import (
	"fmt"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

var (
	hashV2 = bt.InfoHash{2, 2, 2}
	bitV2  = wire.Reserved{7: 0x10}
)

func helloFor(ih bt.InfoHash, bits wire.Reserved) []byte {
	return classic.AppendHello(nil, classic.Hello{Reserved: bits, InfoHash: ih, PeerID: theirID})
}

// TestUpgradeAsked: who opens a connection under the v1 info-hash of a hybrid torrent says that it knows the v2 form, and goes on in the form
// that is answered (BEP 52, "upgrade path").
func TestUpgradeAsked(t *testing.T) {
	for _, tt := range []struct {
		name       string
		ours       bt.InfoHash
		oursV2     bt.InfoHash
		answer     bt.InfoHash
		bit, v2    bool
		wrongAgain bool
	}{
		{"v1 torrent", someHash, bt.InfoHash{}, someHash, false, false, false},
		{"v1 torrent answered in v2", someHash, bt.InfoHash{}, hashV2, false, false, true},
		{"v1 torrent answered with zeros", someHash, bt.InfoHash{}, bt.InfoHash{}, false, false, true},
		{"hybrid answered in v1", someHash, hashV2, someHash, true, false, false},
		{"hybrid answered in v2", someHash, hashV2, hashV2, true, true, false},
		{"hybrid answered for another", someHash, hashV2, bt.InfoHash{9}, true, false, true},
		{"v2", hashV2, hashV2, hashV2, true, true, false},
		{"v2 answered in v1", hashV2, hashV2, someHash, true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(Initiator, wire.Reserved{}, geometry)
			cfg.Local.InfoHash, cfg.Local.InfoHashV2 = tt.ours, tt.oursV2
			d := newDialogue(t, cfg)
			bits := wire.Reserved{}
			if tt.bit {
				bits = bitV2
			}
			d.wantOut(classic.AppendHello(nil, classic.Hello{Reserved: bits, InfoHash: tt.ours, PeerID: ourID}))
			d.feed(helloFor(tt.answer, bitV2))
			if tt.wrongAgain {
				d.want(ErrWrongTorrent)
				return
			}
			d.want(EventOpen)
			if d.m.InfoHash() != tt.answer || d.m.V2() != tt.v2 {
				t.Errorf("under %v, v2 %v", d.m.InfoHash(), d.m.V2())
			}
		})
	}
}

// TestUpgradeAnswered: who is asked for a hybrid in its v1 form answers in the v2 form if the other side can take it.
func TestUpgradeAnswered(t *testing.T) {
	for _, asked := range []bt.InfoHash{someHash, hashV2} {
		for _, bits := range []wire.Reserved{{}, bitV2} {
			for _, known := range []bt.InfoHash{{}, hashV2} {
				t.Run(fmt.Sprintf("%x asked with %x, v2 known as %x", asked[:2], bits[7], known[:2]), func(t *testing.T) {
					d := responder(t, wire.Reserved{})
					d.accept = &Local{Geometry: geometry, InfoHashV2: known}
					d.feed(helloFor(asked, bits))
					d.want(EventHello, EventOpen)
					answer, ours := asked, wire.Reserved{}
					if !known.IsZero() {
						ours = bitV2
						if bits.V2() {
							answer = known
						}
					}
					d.wantOut(classic.AppendHello(nil, classic.Hello{Reserved: ours, InfoHash: answer, PeerID: ourID}))
					if v2 := answer == known; d.m.V2() != v2 || d.m.InfoHash() != answer {
						t.Errorf("under %v, v2 %v", d.m.InfoHash(), d.m.V2())
					}
				})
			}
		}
	}
}
