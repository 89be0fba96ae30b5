package probe

import (
	"reflect"
	"testing"

	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// stream is what peers send: a hello, a keep-alive, a bitfield, an exchange that cannot be read, other extended frames, and at last one that can.
func stream(e *ltep.Exchange) []byte {
	extended := func(id uint8, payload []byte) []byte {
		return append(classic.AppendExtendedHead(nil, id, len(payload)), payload...)
	}
	b := make([]byte, classic.HelloBytes)
	b = append(b, 0, 0, 0, 0)
	b = append(b, 0, 0, 0, 1, 1)
	b = append(b, 0, 0, 0, 5, 5, 255, 0, 20, 0)
	b = append(b, 0, 0, 0, 1, 20)
	b = append(b, extended(0, nil)...)
	b = append(b, extended(0, []byte("d1:m"))...)
	b = append(b, extended(3, []byte{20, 0, 20, 0})...)
	return append(b, extended(0, ltep.AppendExchange(nil, e))...)
}

func TestWatcher(t *testing.T) {
	want := ltep.Exchange{Client: "x", M: []ltep.Entry{{Name: "ut_pex", ID: 4}}, EMP: []byte("d1:vi1ee")}
	b := stream(&want)
	for size := 1; size <= len(b); size++ {
		w := watcher{skip: classic.HelloBytes}
		for at := 0; at < len(b); at += size {
			if w.exchange != nil {
				t.Fatalf("%d bytes at a time: found after %d of %d", size, at, len(b))
			}
			w.see(b[at:min(at+size, len(b))])
		}
		if w.exchange == nil || !reflect.DeepEqual(*w.exchange, want) {
			t.Fatalf("%d bytes at a time: %+v", size, w.exchange)
		}
	}
}

func FuzzWatcher(f *testing.F) {
	f.Add(stream(&ltep.Exchange{Client: "x"}), uint8(7))
	f.Add([]byte{255, 255, 255, 255, 20, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		whole, parts := watcher{}, watcher{}
		whole.see(b)
		for n := int(size) + 1; len(b) > 0; b = b[min(n, len(b)):] {
			parts.see(b[:min(n, len(b))])
			if len(parts.body) > 64<<10 || len(parts.head) > headBytes {
				t.Fatalf("%d and %d bytes held", len(parts.body), len(parts.head))
			}
		}
		if !reflect.DeepEqual(whole.exchange, parts.exchange) {
			t.Errorf("%+v and %+v", whole.exchange, parts.exchange)
		}
	})
}
