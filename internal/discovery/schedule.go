package discovery

import (
	"time"

	"github.com/parley-bt/parley/bt"
)

// Times of BEP 14.
const (
	Interval = 5 * time.Minute // between two announcements of one torrent
	MinGap   = time.Minute     // between two datagrams, so that a network of many clients stays quiet
)

// Schedule decides which torrents to announce when: each every [Interval], as many as fit in one datagram every [MinGap], those first that have waited longest. The zero Schedule is empty
// and ready. It is not safe for concurrent use.
type Schedule struct {
	queue []turn // those that wait longest first
	next  time.Time
}

type turn struct {
	hash bt.InfoHash
	due  time.Time
}

// Add takes a torrent up; its first announcement is due at once.
func (s *Schedule) Add(h bt.InfoHash) {
	if s.Has(h) {
		return
	}
	at := 0 // behind those that are new as well, before those that have had a turn
	for at < len(s.queue) && s.queue[at].due.IsZero() {
		at++
	}
	s.queue = append(s.queue, turn{})
	copy(s.queue[at+1:], s.queue[at:])
	s.queue[at] = turn{hash: h}
}

// Remove gives a torrent up.
func (s *Schedule) Remove(h bt.InfoHash) {
	for i, t := range s.queue {
		if t.hash == h {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			return
		}
	}
}

// Has reports whether the torrent is announced.
func (s *Schedule) Has(h bt.InfoHash) bool {
	for _, t := range s.queue {
		if t.hash == h {
			return true
		}
	}
	return false
}

// Next returns the torrents to announce now in one datagram, and counts them as announced; none if nothing is due: see [Schedule.At].
func (s *Schedule) Next(now time.Time) (hashes []bt.InfoHash) {
	if now.Before(s.next) {
		return nil
	}
	for len(hashes) < MaxInfoHashes && len(s.queue) > 0 && !now.Before(s.queue[0].due) {
		h := s.queue[0].hash
		s.queue = append(s.queue[1:], turn{h, now.Add(Interval)})
		hashes = append(hashes, h)
	}
	if len(hashes) > 0 {
		s.next = now.Add(MinGap)
	}
	return hashes
}

// At returns when Next has something, which may be in the past; the zero time and false if never.
func (s *Schedule) At() (time.Time, bool) {
	if len(s.queue) == 0 {
		return time.Time{}, false
	}
	if at := s.queue[0].due; at.After(s.next) {
		return at, true
	}
	return s.next, true
}
