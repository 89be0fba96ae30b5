package peerconn

import (
	"errors"
	"testing"

	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

// TestUploadHashes: requests for hashes are answered one after the other with what the session has, or rejected, and the session is not locked meanwhile.
func TestUploadHashes(t *testing.T) {
	for name, over := range map[string]transport{"TCP": overTCP, "pipe": overPipe} {
		t.Run(name, func(t *testing.T) {
			a, b := over(t)
			s := &side{}
			const long = 512 // hashes
			s.hashes = func(dst []byte, span wire.HashSpan) ([]byte, error) {
				s.conn.Do(func(*peer.Machine) {})
				switch span.Root[0] {
				case 0:
					return nil, errors.New("as the test wants it")
				case 1:
					return append(dst, 1, 2, 3), nil // not as many as were asked for
				}
				data := make([]byte, span.Length*wire.HashBytes)
				for i := range data {
					data[i] = span.Root[0]
				}
				return append(dst, data...), nil
			}
			s.start(t, a, initiator, func(cfg *peer.Config) { cfg.Local.V2 = true })
			raw := rawpeer.New(t, b)
			greeted := make(chan error, 1)
			go func() {
				_, err := raw.Greet(infoHash, theirID, rawpeer.LTEP)
				greeted <- err
			}()
			if err := <-greeted; err != nil {
				t.Fatal(err)
			}
			const n = 20
			go func() {
				for i := range byte(n) {
					raw.Write(classic.AppendHashRequest(nil, wire.HashRequest{HashSpan: wire.HashSpan{Root: [32]byte{i}, Length: long, Index: long * uint32(i)}}))
				}
			}()
			for i := range byte(n) {
				err := raw.Until(func(m wire.Message) bool {
					switch m := m.(type) {
					case *wire.HashReject:
						if i > 1 || m.Root[0] != i {
							t.Fatalf("request %d was rejected, want answer %d", m.Root[0], i)
						}
						return true
					case *wire.Hashes:
						if i < 2 || m.Root[0] != i || len(m.Data) != long*wire.HashBytes || m.Data[0] != i || m.Data[len(m.Data)-1] != i {
							t.Fatalf("%d bytes for %d, want answer %d", len(m.Data), m.Root[0], i)
						}
						return true
					}
					return false
				})
				if err != nil {
					t.Fatalf("answer %d: %v", i, err)
				}
			}
		})
	}
}
