package pipeline

import (
	"math"
	"time"
)

// DefaultWindow is the time constant of a zero [Meter]: of what was counted that long ago, about a third
// still shows.
const DefaultWindow = 5 * time.Second

// minSpan is the shortest span a rate is computed over, so that the first bytes do not look infinitely fast.
const minSpan = 250 * time.Millisecond

// Meter measures a rate as an exponential average. The zero Meter is ready to use; it starts with the first
// Add and is unbiased from then on, rather than climbing from 0. Times must not go backwards; if they do,
// they are taken as the last one seen. It is not safe for concurrent
// use.
type Meter struct {
	// Window is the time constant; 0 means [DefaultWindow]. It must not change once used.
	Window time.Duration

	start time.Time
	last  time.Time
	sum   float64 // of amounts, each weighted by e^(-age/Window)
}

func (m *Meter) window() float64 {
	if m.Window <= 0 {
		return DefaultWindow.Seconds()
	}
	return m.Window.Seconds()
}

// Add counts n, of bytes or anything else.
func (m *Meter) Add(now time.Time, n int) {
	if m.start.IsZero() {
		m.start, m.last = now, now
	}
	m.decay(now)
	m.sum += float64(n)
}

func (m *Meter) decay(now time.Time) {
	if d := now.Sub(m.last); d > 0 {
		m.sum *= math.Exp(-d.Seconds() / m.window())
		m.last = now
	}
}

// Rate returns the average of what was added, per second. It is 0 before the first Add.
func (m *Meter) Rate(now time.Time) float64 {
	if m.start.IsZero() {
		return 0
	}
	m.decay(now)
	w := m.window()
	span := max(m.last.Sub(m.start), minSpan).Seconds()
	return m.sum / (w * (1 - math.Exp(-span/w)))
}

// Reset forgets what was counted.
func (m *Meter) Reset() { *m = Meter{Window: m.Window} }
