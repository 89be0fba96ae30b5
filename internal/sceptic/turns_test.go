package sceptic

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-bt/parley/wire"
)

// A flightSeen is what an observer of a connection notes: who sent how much at once.
type flightSeen struct {
	by    byte // 'i' or 'r'
	at    time.Duration
	bytes int
}

// observe runs n sessions by a hello, in which the initiator sends one message as soon as the session is open, and returns the flights of each.
func observe(t *testing.T, hello wire.Hello, n int) (all [][]flightSeen) {
	synctest.Test(t, func(t *testing.T) {
		h := newHosts()
		all = make([][]flightSeen, n)
		var run sync.WaitGroup
		for k := range n {
			iEnd, iFar := pipe(uint64(2 * k))
			rEnd, rFar := pipe(uint64(2*k + 1))
			start := time.Now()
			var mu sync.Mutex
			tap := func(by byte, from, to net.Conn) {
				buf := make([]byte, 64<<10)
				for {
					m, err := from.Read(buf)
					if m > 0 {
						mu.Lock()
						seen, at := all[k], time.Since(start)
						if l := len(seen) - 1; l >= 0 && seen[l].by == by && seen[l].at == at {
							seen[l].bytes += m
						} else {
							all[k] = append(seen, flightSeen{by, at, m})
						}
						mu.Unlock()
						to.Write(bytes.Clone(buf[:m]))
					}
					if err != nil {
						from.Close()
						to.Close()
						return
					}
				}
			}
			run.Go(func() { tap('i', iFar, rFar) })
			run.Go(func() { tap('r', rFar, iFar) })
			h.accept(rEnd, wire.AllHellos, seeded('x', k))
			c := h.dial(iEnd, hello, &session{h: h}, seeded('y', k))
			run.Go(func() {
				time.Sleep(2 * time.Second)
				if err := c.SendApp(t.Context(), appID, number(k, 100)); err != nil {
					t.Errorf("%v, session %d: %v", hello, k, err)
				}
				time.Sleep(time.Second)
				c.Close(nil)
			})
		}
		run.Wait()
		h.close()
	})
	return all
}

// turns is who sent in which order, until the first payload is through in both directions.
func turns(seen []flightSeen) string {
	var s strings.Builder
	for _, f := range seen[:min(4, len(seen))] {
		s.WriteByte(f.by)
	}
	return s.String()
}

func flightSizes(all [][]flightSeen, i int) (sizes []float64) {
	for _, seen := range all {
		sizes = append(sizes, float64(seen[i].bytes))
	}
	return sizes
}

// TestTurnsEqualMSEs watches whole sessions. In both transports the initiator, the responder, the initiator and the responder send in turn; the third flight is the first that has payload, and goes as soon as the second
// is there. The first two flights are of the same sizes. (The third and fourth are not: a classic hello is in MSE's, an exchange in the veil's, and the sizes of payload are not hidden beyond the padding, EMP/1 section 5.2.)
func TestTurnsEqualMSEs(t *testing.T) {
	const n = 400
	byVeil, byMSE := observe(t, wire.HelloVeil, n), observe(t, wire.HelloMSE, n)
	for name, all := range map[string][][]flightSeen{"veil": byVeil, "MSE": byMSE} {
		for k, seen := range all {
			if got := turns(seen); got != "irir" {
				t.Fatalf("%s, session %d: turns %s, want irir", name, k, got)
			}
			for i := 1; i < 4; i++ { // one latency to get there and one back to the observer
				if d := seen[i].at - seen[i-1].at; d != 2*latency {
					t.Fatalf("%s, session %d: flight %d came %v after the one before", name, k, i, d)
				}
			}
		}
	}
	for i, name := range []string{"first", "second"} {
		p := TwoSamples(flightSizes(byVeil, i), flightSizes(byMSE, i))
		t.Logf("%s flights of %d sessions each: p %.3g", name, n, p)
		if p < alpha {
			t.Errorf("the %s flights differ in size: p %g", name, p)
		}
	}
	for i, name := range []string{"third", "fourth"} {
		t.Logf("%s flights: p %.3g (not the same, see above)", name, TwoSamples(flightSizes(byVeil, 2+i), flightSizes(byMSE, 2+i)))
	}
	// A responder that sent its exchange along with its answer is found, in size and in turns. (One whose padding is 0..512 takes more flights: TestSizesEqualMSEs.)
	early := flightSizes(byVeil, 1)
	for k := range early {
		early[k] += float64(byVeil[k][3].bytes)
	}
	if p := TwoSamples(early, flightSizes(byMSE, 1)); p >= alpha {
		t.Errorf("an exchange along with the answer is not found: p %g", p)
	}
}
