package attack

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Records is a [slog.Handler] that keeps what matters of what a client says: how much an operator sees, and why connections ended before they had a session.
type Records struct {
	mu    sync.Mutex
	loud  []string // at Info and above
	ended map[string]error
}

// NewRecords returns an empty log.
func NewRecords() *Records { return &Records{ended: make(map[string]error)} }

// Enabled implements [slog.Handler].
func (r *Records) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements [slog.Handler].
func (r *Records) WithAttrs([]slog.Attr) slog.Handler { return r }

// WithGroup implements [slog.Handler].
func (r *Records) WithGroup(string) slog.Handler { return r }

// Handle implements [slog.Handler].
func (r *Records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec.Level >= slog.LevelInfo {
		r.loud = append(r.loud, rec.Message)
	}
	var addr string
	var err error
	rec.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "addr":
			addr = a.Value.String()
		case "error":
			err, _ = a.Value.Any().(error)
		}
		return true
	})
	if addr != "" && err != nil {
		r.ended[addr] = err
	}
	return nil
}

// End records why a session ended; nil is a normal end.
func (r *Records) End(addr netip.AddrPort, err error) {
	if err == nil {
		err = errNoReason
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[addr.String()] = err
}

var errNoReason = errors.New("a normal end")

// Reason returns why the client ended its connection with addr. It takes a moment until that is known.
func (r *Records) Reason(addr net.Addr) (error, bool) {
	for end := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		err, ok := r.ended[addr.String()]
		r.mu.Unlock()
		if ok || time.Now().After(end) {
			return err, ok
		}
	}
}

// Loud returns the messages of the records at Info and above, which is what an operator sees.
func (r *Records) Loud() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.loud)
}
