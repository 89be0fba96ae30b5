package messaging

import (
	"log/slog"
	"sync"
	"time"
)

// failures tells an operator of handlers that fail. Peers may bring that about as often as they like, so in each failuresEvery it is a few of a type; the others are told at the level
// of debugging.
type failures struct {
	mu    sync.Mutex
	since time.Time
	told  int
	kept  int // since the last that was told
}

const (
	failuresEvery = time.Minute
	failuresTold  = 3
)

// tell logs one.
func (f *failures) tell(l *slog.Logger, what, name string, err error) {
	now := time.Now()
	f.mu.Lock()
	if now.Sub(f.since) >= failuresEvery {
		f.since, f.told = now, 0
	}
	loud, kept := f.told < failuresTold, f.kept
	if loud {
		f.told++
		f.kept = 0
	} else {
		f.kept++
	}
	f.mu.Unlock()
	switch {
	case !loud:
		l.Debug(what, "type", name, "error", err)
	case kept > 0:
		l.Warn(what, "type", name, "error", err, "others", kept)
	default:
		l.Warn(what, "type", name, "error", err)
	}
}
