package swarm

import (
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
)

// What limits of the rates mean for whom is asked and who is served. Keeping to them is package peerconn's business.

const (
	// aheadTime is for how long peers should have requests of ours under a limit of the download rate: more would only wait in their buffers and ours, and what
	// a peer says besides would stand behind it.
	aheadTime = 4 * time.Second
	// fewestAhead is how many requests all peers together have at least.
	fewestAhead = 4
	// slotRate is what a peer should get at least, in bytes/s: under a limit of the upload rate there are only as many slots as that allows.
	slotRate = 5 << 10
	// fewestSlots is how many slots there are under any limit: one of them is optimistic.
	fewestSlots = 2
)

// limitRoom returns how many of room requests a peer should be sent under the limit of the download rate: what is under way is shared out evenly between those
// who would serve us.
func (t *Torrent) limitRoom(p *Peer, room int) int {
	limit := t.cfg.Down.Limit()
	if limit == 0 || room <= 0 {
		return room
	}
	sources := 0
	for q := range t.peers {
		if q.amInterested && !q.peerChoking {
			sources++
		}
	}
	ahead := max(fewestAhead, limit/bt.BlockBytes*int64(aheadTime/time.Second)) // in this order, so that no limit is too high
	return min(room, int(max(1, ahead/int64(max(1, sources))))-p.pipe.Outstanding())
}

// excusePaused takes the time off a peer's account in which its connection was not read because of the limit.
func (t *Torrent) excusePaused(p *Peer, now time.Time) {
	if t.cfg.Down.Limit() != 0 && p.pipe.Outstanding() > 0 && p.conn.Paused() {
		p.pipe.Excuse(now)
	}
}

// slots returns how many of the interested peers may be unchoked. What is not used of them must be given back with usedSlots.
func (t *Torrent) slots(now time.Time, interested int) int {
	n := t.cfg.UploadSlots
	if limit := t.cfg.Up.Limit(); limit > 0 {
		n = int(min(int64(n), max(fewestSlots, limit/slotRate)))
	}
	if t.uploads == nil {
		return n
	}
	return t.uploads.take(now, min(n, interested))
}

// usedSlots says how many peers are unchoked.
func (t *Torrent) usedSlots(n int) {
	if t.uploads != nil {
		t.uploads.use(n)
	}
}

// UploadPool has the upload slots of all torrents of a client. Each torrent gets as many as it wants as long as there are enough, else an even share; where
// there are fewer slots than torrents they go round. Its methods are safe for concurrent use.
type UploadPool struct {
	mu     sync.Mutex
	max    int
	shares []*uploadShare // in the order in which they joined
}

// uploadShare is one torrent's part in a pool.
type uploadShare struct {
	pool       *UploadPool
	want, used int
}

// turnEvery is how long a torrent keeps a slot of which there are fewer than torrents.
const turnEvery = time.Minute

// NewUploadPool makes a pool of max slots, at least 1.
func NewUploadPool(max int) *UploadPool { return &UploadPool{max: max} }

func (u *UploadPool) join() *uploadShare {
	if u == nil {
		return nil
	}
	s := &uploadShare{pool: u}
	u.mu.Lock()
	u.shares = append(u.shares, s)
	u.mu.Unlock()
	return s
}

// leave gives all slots of a share back.
func (s *uploadShare) leave() {
	if s == nil {
		return
	}
	u := s.pool
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, x := range u.shares {
		if x == s {
			u.shares = append(u.shares[:i], u.shares[i+1:]...)
			return
		}
	}
}

// take asks for want slots, those in use among them, and returns how many there may be: no more than are free, even if others have more than their part until they choose
// anew.
func (s *uploadShare) take(now time.Time, want int) int {
	u := s.pool
	u.mu.Lock()
	defer u.mu.Unlock()
	s.want = want
	free := u.max
	for _, x := range u.shares {
		if x != s {
			free -= x.used
		}
	}
	s.used = max(0, min(u.fair(now, s), free))
	return s.used
}

// use says how many slots are in use.
func (s *uploadShare) use(n int) {
	s.pool.mu.Lock()
	s.used = n
	s.pool.mu.Unlock()
}

// fair returns what s may have when the slots are shared out evenly and nobody gets more than it wants. The lock is held.
func (u *UploadPool) fair(now time.Time, s *uploadShare) int {
	left, level := u.max, 0
	for {
		hungry := 0
		for _, x := range u.shares {
			if x.want > level {
				hungry++
			}
		}
		if hungry == 0 || s.want <= level {
			return min(s.want, level)
		}
		if left < hungry { // one each for some, in turns
			turn := int(now.Unix()/int64(turnEvery/time.Second)) % hungry
			k := 0
			for _, x := range u.shares {
				if x == s {
					break
				}
				if x.want > level {
					k++
				}
			}
			if (k-turn+hungry)%hungry < left {
				level++
			}
			return level
		}
		left -= hungry
		level++
	}
}
