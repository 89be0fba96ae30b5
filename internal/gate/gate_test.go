package gate

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Each who waits goes at its time, and no sooner.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{PerSource: 10, Burst: 5})
		start := time.Now()
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := g.Wait(time.Now, addr("192.0.2.1"), 1, nil); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(start))
			})
		}
		synctest.Wait()
		if st := g.Stats(); st != (Stats{Granted: 5, Waited: 5, Waiting: 5, Sources: 1}) {
			t.Errorf("%+v", st)
		}
		wg.Wait()
		slices.Sort(took)
		for i, d := range took {
			if want := time.Duration(max(0, i-4)) * 100 * time.Millisecond; d != want {
				t.Errorf("number %d after %v, want %v", i, d, want)
			}
		}
		if st := g.Stats(); st != (Stats{Granted: 10, Waited: 5, Sources: 1}) {
			t.Errorf("%+v", st)
		}
	})
}

// The total is spent at its rate, however many share it.
func TestTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{Total: 2000, Queue: 2000})
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 1500 {
			wg.Go(func() {
				if err := g.Wait(time.Now, host(i), 2, nil); err != nil {
					t.Error(err)
				}
			})
			if i%500 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		wg.Wait()
		// 3,000 units, 500 of them saved.
		if took := time.Since(start); took < 1245*time.Millisecond || took > 1260*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestOverBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{Total: 1, Queue: 1})
		src := addr("192.0.2.1")
		if err := g.Wait(time.Now, src, 1000, nil); err != nil {
			t.Error(err)
		}
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := g.Wait(time.Now, src, 1, nil); !errors.Is(err, ErrOverBudget) || time.Since(start) != 4*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
		synctest.Wait()
		if err := g.Wait(time.Now, src, 1, nil); !errors.Is(err, ErrOverBudget) || !time.Now().Equal(start) {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if err := g.Wait(time.Now, addr("127.0.0.1"), 1, nil); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if st := g.Stats(); st != (Stats{Granted: 2, Waited: 1, Refused: 1, TimedOut: 1, Sources: 1}) {
			t.Errorf("%+v", st)
		}
		// Nothing runs on: or the bubble would not come to rest.
		if g.timer.Stop() {
			t.Error("the timer runs though nobody waits")
		}
	})
}

// Whoever gives up makes room, and its tokens are another's.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{PerSource: 1, Burst: 1})
		src := addr("192.0.2.1")
		if err := g.Wait(time.Now, src, 1, nil); err != nil {
			t.Error(err)
		}
		stop := make(chan struct{})
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := g.Wait(time.Now, src, 1, stop); !errors.Is(err, ErrStopped) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if err := g.Wait(time.Now, src, 1, nil); err != nil || time.Since(start) != time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
		time.Sleep(time.Second / 2)
		close(stop)
		wg.Wait()
		if err := g.Wait(time.Now, addr("127.0.0.1"), 1, stop); !errors.Is(err, ErrStopped) {
			t.Errorf("stopped before: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{Total: 1})
		if err := g.Wait(time.Now, host(0), 1000, nil); err != nil {
			t.Error(err)
		}
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if err := g.Wait(time.Now, host(i), 1, nil); !errors.Is(err, ErrStopped) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		g.Close()
		wg.Wait()
		g.Close()
		if err := g.Wait(time.Now, addr("127.0.0.1"), 1, nil); !errors.Is(err, ErrStopped) {
			t.Errorf("after Close: %v", err)
		}
		if st := g.Stats(); st.Waiting != 0 || g.timer.Stop() {
			t.Errorf("%+v", st)
		}
	})
}

func TestProvenDisplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{Total: 1, Queue: 1})
		if err := g.Wait(time.Now, host(0), 3, nil); err != nil {
			t.Error(err)
		}
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() {
			if err := g.Wait(time.Now, host(1), 1, nil); !errors.Is(err, ErrOverBudget) || time.Since(start) != 0 {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
		synctest.Wait()
		g.Proven(time.Now(), host(2))
		if err := g.Wait(time.Now, host(2), 1, nil); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// A clock that stands still keeps them waiting, and does not keep us busy.
func TestClockStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{PerSource: 1, Burst: 1})
		var calls atomic.Int64
		now := func() time.Time { calls.Add(1); return epoch }
		stop := make(chan struct{})
		for range 2 {
			time.AfterFunc(10*time.Second, sync.OnceFunc(func() {
				select {
				case <-stop:
				default:
					close(stop)
				}
			}))
		}
		if err := g.Wait(now, host(1), 1, stop); err != nil {
			t.Error(err)
		}
		if err := g.Wait(now, host(1), 1, stop); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
		if n := calls.Load(); n > 20 {
			t.Errorf("asked for the time %d times", n)
		}
	})
}

// Many at once, from a few sources, some of them giving up: all is accounted for.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{Total: 500, Queue: 100})
		var granted, over, stopped atomic.Uint64
		var wg sync.WaitGroup
		for i := range 3000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i%977) * 3 * time.Millisecond)
				stop := make(chan struct{})
				if i%11 == 0 {
					timer := time.AfterFunc(300*time.Millisecond, func() { close(stop) })
					defer timer.Stop()
				}
				if i%13 == 0 {
					g.Proven(time.Now(), host(i%40))
				}
				switch err := g.Wait(time.Now, host(i%40), i%4, stop); {
				case err == nil:
					granted.Add(1)
				case errors.Is(err, ErrOverBudget):
					over.Add(1)
				default:
					stopped.Add(1)
				}
			})
		}
		wg.Wait()
		st := g.Stats()
		if st.Granted != granted.Load() || st.Refused+st.TimedOut != over.Load() || st.Waiting != 0 {
			t.Errorf("%+v, but %d, %d, %d", st, granted.Load(), over.Load(), stopped.Load())
		}
		if granted.Load() == 0 || over.Load() == 0 || stopped.Load() == 0 {
			t.Errorf("a case is missing: %d, %d, %d", granted.Load(), over.Load(), stopped.Load())
		}
	})
}

func TestFastPathAllocatesNothing(t *testing.T) {
	g := New(Config{PerSource: -1})
	if n := testing.AllocsPerRun(100, func() { _ = g.Wait(time.Now, addr("192.0.2.1"), 1, nil) }); n != 0 {
		t.Errorf("without a limit: %v allocations", n)
	}
	g = New(Config{PerSource: 1e6, Burst: 1e6})
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() {
		_ = g.Wait(time.Now, a, 1, nil)
		_ = g.Wait(time.Now, b, 1, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkWait(b *testing.B) {
	g := New(Config{PerSource: 1e9, Burst: 1e9, Total: -1})
	for i := range MaxSources {
		_ = g.Wait(time.Now, host(i), 1, nil)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		_ = g.Wait(time.Now, host(i%MaxSources), 1, nil)
	}
}
