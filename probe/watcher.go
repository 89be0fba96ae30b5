package probe

import (
	"encoding/binary"

	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// watcher finds the first type exchange that can be read in what a peer sends, and keeps it as it came: the machine keeps what it needs of one, and that is less than a report tells.
// It judges nothing, which is the machine's, and holds no more than one exchange.
//
//	hello (68; not after a veiled one) | length (4) | 20 | 0 | exchange | length (4) | …
type watcher struct {
	skip     int64  // bytes that are not looked at
	head     []byte // length, id and extended id of the frame, as far as they have come
	want     int    // of the exchange, how much is to come
	body     []byte
	exchange *ltep.Exchange // once it is there
}

const headBytes = classic.LengthBytes + 2

// see takes the next plain bytes, which it does not keep.
func (w *watcher) see(b []byte) {
	for len(b) > 0 && w.exchange == nil {
		switch {
		case w.skip > 0:
			n := min(w.skip, int64(len(b)))
			w.skip -= n
			b = b[n:]
		case w.want > 0:
			n := min(w.want, len(b))
			w.body = append(w.body, b[:n]...)
			b = b[n:]
			if w.want -= n; w.want == 0 {
				if e, err := ltep.ParseExchange(w.body); err == nil {
					w.exchange = &e
				}
				w.body = nil
			}
		default:
			w.head = append(w.head, b[0])
			b = b[1:]
			w.begun()
		}
	}
}

// begun looks at the head of a frame.
func (w *watcher) begun() {
	if len(w.head) < classic.LengthBytes {
		return
	}
	n := int64(binary.BigEndian.Uint32(w.head))
	switch {
	case n < 2:
		w.skip = n
	case len(w.head) < headBytes:
		return
	case w.head[4] == classic.IDExtended && w.head[5] == ltep.ExchangeID && n-2 <= wire.MaxExchangeBytes:
		w.want = int(n - 2)
	default:
		w.skip = n - 2
	}
	w.head = w.head[:0]
}
