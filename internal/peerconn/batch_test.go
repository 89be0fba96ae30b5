package peerconn

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/internal/simnet"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// Frames of a few bytes must not become memory of thousands of times their size: one batch holds a bounded number of events and of blocks, while the read
// that they came in may hold many more.
func TestBatchesAreBounded(t *testing.T) {
	for name, frame := range map[string]func(i int) []byte{
		"tiny blocks": func(i int) []byte {
			return classic.AppendPiece(nil, wire.Piece{Index: bt.PieceIndex(i % 64), Begin: uint32(i / 64), Data: []byte{1}})
		},
		"rejects": func(i int) []byte {
			return classic.AppendReject(nil, wire.Reject{Block: bt.Block{Index: bt.PieceIndex(i % 64), Begin: uint32(i / 64), Length: 1}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := simnet.Pipe(1, simnet.Link{Buffer: 1 << 20})
				const n = 10_000
				next, batches, most := 0, 0, 0
				s := &side{onDeliver: func(batch *Batch) {
					batches++
					if len(batch.Events) > maxBatchEvents {
						t.Errorf("a batch of %d events, want no more than %d", len(batch.Events), maxBatchEvents)
					}
					blocks := 0
					for i := range batch.Events {
						e := &batch.Events[i]
						if e.Kind != wire.KindPiece && e.Kind != wire.KindReject {
							continue
						}
						if e.Data != nil {
							blocks++
						}
						if got := int(e.Block.Begin)*64 + int(e.Block.Index); got != next {
							t.Errorf("event %d came as number %d", got, next)
						}
						next++
					}
					most = max(most, blocks)
				}}
				s.start(t, a)
				raw := rawpeer.New(t, b)
				s.open(t, raw)
				base := blockbuf.Live()
				var out []byte
				for i := range n {
					out = append(out, frame(i)...)
				}
				if _, err := raw.Write(out); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if next != n {
					t.Errorf("%d of %d events came", next, n)
				}
				if most > maxBatchBlocks {
					t.Errorf("a batch of %d blocks, want no more than %d", most, maxBatchBlocks)
				}
				if blockbuf.Live() != base {
					t.Errorf("%d blocks were not released", blockbuf.Live()-base)
				}
				// What we send is not held up by a session that takes its time.
				hold := make(chan struct{})
				s.onDeliver = func(*Batch) { <-hold }
				if _, err := raw.Write(out); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if err := s.conn.SendApp(t.Context(), appID, []byte("meanwhile")); err != nil {
					t.Fatal(err)
				}
				if err := raw.Until(func(m wire.Message) bool { return m.Kind() == wire.KindExtended }); err != nil {
					t.Error(err)
				}
				close(hold)
			})
		})
	}
}
