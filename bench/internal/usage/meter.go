package usage

import (
	"fmt"
	"runtime"
	"time"
)

// Meter measures what one end of a benchmark takes.
type Meter struct {
	start   time.Time
	cpu     time.Duration
	mallocs uint64
}

// StartMeter begins to measure. Counting the allocations stops the process for some microseconds, outside of what is measured.
func StartMeter() Meter {
	n := mallocs()
	return Meter{mallocs: n, cpu: CPU(), start: time.Now()}
}

// Report prints "WORD SECONDS CPU_SECONDS ALLOCATIONS", all since the start.
func (m Meter) Report(word string) {
	took, cpu := time.Since(m.start), CPU()-m.cpu
	fmt.Printf("%s %.6f %.6f %d\n", word, took.Seconds(), cpu.Seconds(), mallocs()-m.mallocs)
}

// mallocs returns how many objects the process has allocated so far.
func mallocs() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.Mallocs
}
