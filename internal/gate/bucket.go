package gate

import (
	"math"
	"time"
)

// A bucket is a token bucket: it gains rate tokens a second up to burst. What is taken may leave it in debt.
type bucket struct {
	rate, burst float64 // a rate of 0 is no limit
	tokens      float64
	at          time.Time // when tokens was right
}

// rounding is what sums of tokens may be wrong by.
const rounding = 1e-9

func (b *bucket) unlimited() bool { return b.rate == 0 }

// has reports whether there were n tokens when it was last refilled.
func (b *bucket) has(n float64) bool { return b.unlimited() || b.tokens >= n-rounding }

// refill adds what the time since has brought.
func (b *bucket) refill(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens, b.at = min(b.burst, b.tokens+d.Seconds()*b.rate), now
	}
}

// until returns when the bucket, which was refilled now, will have n tokens if nobody takes any: now if it has them, else later than now.
func (b *bucket) until(n float64) time.Time {
	if b.has(n) {
		return b.at
	}
	ns := math.Ceil((n - b.tokens) / b.rate * float64(time.Second))
	return b.at.Add(time.Duration(min(max(ns, 1), float64(maxSpan))))
}

// maxSpan keeps times that are computed from a rate near 0 within what a time.Duration holds.
const maxSpan = 365 * 24 * time.Hour

func (b *bucket) take(n float64) {
	if !b.unlimited() {
		b.tokens -= n
	}
}
