package tracker

import (
	"errors"
	"fmt"
	"time"

	"github.com/parley-bt/parley/internal/netdial"
	"github.com/parley-bt/parley/tracker/proto"
)

var (
	// ErrReplyTooLarge: the reply is longer than a tracker's reply is, before or after decompression.
	ErrReplyTooLarge = fmt.Errorf("reply of more than %d bytes", proto.MaxReplyBytes)
	// ErrNoScrape: the tracker's URL does not end as BEP 48 asks, so it has no scrape.
	ErrNoScrape = errors.New(`the tracker has no scrape: its URL's last part does not begin with "announce"`)
	// ErrTooManyRedirects: more than [MaxRedirects].
	ErrTooManyRedirects = fmt.Errorf("more than %d redirects", MaxRedirects)
)

// Error says which tracker an error is about.
type Error struct {
	Tracker string // scheme and host; the rest of a URL may be secret
	Err     error
}

// Error returns the tracker and the error.
func (e *Error) Error() string { return "tracker " + e.Tracker + ": " + e.Err.Error() }

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// URLError says why a URL is not a tracker's. Asking again is of no use.
type URLError struct{ Reason string }

// Error returns the reason.
func (e *URLError) Error() string { return "tracker URL: " + e.Reason }

// RedirectError says why a redirect is not followed. Unlike a [*URLError] it may be otherwise the next time.
type RedirectError = netdial.RedirectError

// StatusError is an HTTP reply that is neither a success nor a refusal in the tracker protocol.
type StatusError struct {
	Code    int
	RetryIn time.Duration // from Retry-After; 0: not said
}

// Error returns the status code.
func (e *StatusError) Error() string { return fmt.Sprintf("HTTP status %d", e.Code) }
