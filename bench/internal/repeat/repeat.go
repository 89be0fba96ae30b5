// Package repeat measures what is too short to be measured once: in batches, on one P, by the processor time that the whole process takes. It also has the pipe over which two sides of
// a handshake meet where they want a connection.
package repeat

import (
	"flag"
	"fmt"
	"runtime"
	"time"

	"github.com/parley-bt/parley/bench/internal/usage"
)

// Thing is what is done again and again.
type Thing struct {
	Batch   int               // how often in a row, at least 1
	Prepare func(n int) error // before each batch of n, outside of what is measured; or nil
	Do      func(n int) error // n times
	Per     int               // how many of what is reported one time is; 0 is 1
}

// Main measures what choose returns for the first argument, for as long as the flag -for says, and prints "EACH CPU_NS NS ALLOCATIONS TIMES":
// processor time and time for each of Per, allocations for one time, rounded down, since the runtime has some of its own.
func Main(args []string, choose func(what string, n int) (Thing, error)) error {
	if len(args) == 0 {
		return fmt.Errorf("want what to measure as the first argument")
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	long := fs.Duration("for", time.Second, "how long")
	n := fs.Int("n", 1, "among how many")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	t, err := choose(args[0], *n)
	if err != nil {
		return err
	}
	return t.measure(*long)
}

func (t Thing) measure(long time.Duration) error {
	runtime.GOMAXPROCS(1)
	var cpu, took time.Duration
	var mallocs uint64
	times := 0
	for i := 0; i < 2 || took < long; i++ {
		if t.Prepare != nil {
			if err := t.Prepare(t.Batch); err != nil {
				return err
			}
		}
		m0 := objects()
		cpu0, start := usage.CPU(), time.Now()
		if err := t.Do(t.Batch); err != nil {
			return err
		}
		if i == 0 {
			continue // the first makes tables and pools
		}
		took += time.Since(start)
		cpu += usage.CPU() - cpu0
		mallocs += objects() - m0
		times += t.Batch
	}
	each := float64(times * max(1, t.Per))
	fmt.Printf("EACH %.3f %.3f %d %d\n", float64(cpu.Nanoseconds())/each, float64(took.Nanoseconds())/each, mallocs/uint64(times), times)
	return nil
}

func objects() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.Mallocs
}
