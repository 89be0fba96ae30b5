// Package ratelimit shares a rate out: a tree of token buckets, at its root the client, below it torrents, below these peers.
//
// A leaf that wants to send or receive asks with [Tree.Take]. While every bucket on the way to the root has tokens and nobody waits there, it
// may go at once; else it waits, and [Tree.Grant] names who may go next. At each level those who wait are served by start-time fair queueing: whoever was given
// the fewest bytes is next, as long as it asks again at once, and who comes back after a pause is not paid for it. So torrents share the client's rate evenly, and the peers
// of a torrent the torrent's, however large their single grants are; a torrent that is held by its own bucket does not hold up others.
//
// A bucket that has tokens lets the next one go whatever it takes, and is in debt afterwards: in any time t no more passes a bucket than rate·t, its burst
// ([Burst]) and one grant. A rate of 0 is no limit.
//
// The package has no clock, starts no timer and takes no lock: times are passed in, must not go backwards (one that does is taken as standing still), and a Tree is not safe for
// concurrent use.
package ratelimit

import (
	"container/heap"
	"time"
)

const (
	// burstTime is how long an idle bucket saves tokens.
	burstTime = 250 * time.Millisecond
	// resumeTime is for how long tokens are gathered before those who wait are served, so that a fast bucket does not wake somebody for every block.
	resumeTime = 5 * time.Millisecond
	// debtTime bounds what [Tree.Charge] may leave in debt.
	debtTime = time.Second
)

// Burst returns how many bytes may pass a bucket that was idle before its rate holds, one grant aside.
func Burst(rate int64) int64 {
	if rate == 0 {
		return 0
	}
	return max(1, int64(float64(rate)*burstTime.Seconds()))
}

// A Node is one level of a [Tree]: the root, or what [Tree.Add] put below another. It must not be copied after that.
type Node struct {
	// User is the caller's, who finds it again in what [Tree.Grant] returns.
	User any

	parent *Node
	rate   int64 // bytes/s; 0 is unlimited
	tokens float64
	at     time.Time // when tokens was right

	want      int   // leaf: the bytes it waits for; 0 if it does not wait
	start     int64 // virtual time in the parent's queue
	finish    int64 // virtual time at which what it was given before ended
	virtual   int64 // of the children's queue
	queue     queue // children who may go, as far as this node's parents let them
	throttled bool  // somebody waits below it, and its tokens are used up; it is in Tree.throttled and not in the parent's queue
	pos       int   // in the parent's queue, -1 if it is not there
	added     bool
}

// Rate returns the node's limit in bytes a second, 0 for none.
func (n *Node) Rate() int64 { return n.rate }

// Waiting reports whether a leaf waits for its grant.
func (n *Node) Waiting() bool { return n.want > 0 }

// queue is a heap of the children that may go, the one that is to be served next first.
type queue []*Node

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].start < q[j].start }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}
func (q *queue) Push(x any) {
	n := x.(*Node)
	n.pos = len(*q)
	*q = append(*q, n)
}
func (q *queue) Pop() any {
	old := *q
	n := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	n.pos = -1
	return n
}

// Tree is a hierarchy of buckets. The zero Tree is a root without a limit.
type Tree struct {
	root      Node
	throttled []*Node
}

// Root returns the root.
func (t *Tree) Root() *Node {
	if !t.root.added {
		t.root.added, t.root.pos = true, -1
	}
	return &t.root
}

// Add puts n, which is new, below parent. A leaf that does not wait is forgotten with its last reference: nothing takes it out again.
func (t *Tree) Add(parent, n *Node) {
	if parent == &t.root {
		t.Root()
	}
	n.parent, n.pos, n.added = parent, -1, true
}

// SetRate gives n another limit from now on, 0 for none. Who waits may have become able to go: ask Grant.
func (t *Tree) SetRate(now time.Time, n *Node, rate int64) {
	n.refill(now)
	if n.rate == 0 {
		n.tokens = 0
	}
	n.rate, n.at = rate, now
	// A debt from a faster time must not be paid off at the slow rate for long.
	n.tokens = max(min(n.tokens, float64(Burst(rate))), -float64(rate)*debtTime.Seconds())
	if n.demand() {
		t.leave(n)
		t.enter(now, n)
	}
}

// Take asks for n bytes for a leaf that does not wait. It reports whether they may go now; if not, the leaf waits until Grant returns it, or
// Cancel takes it back. n is above 0.
func (t *Tree) Take(now time.Time, leaf *Node, n int) bool {
	for m := leaf; m != nil; m = m.parent {
		m.refill(now)
		if m.throttled || len(m.queue) > 0 || m.rate > 0 && m.tokens <= 0 {
			leaf.want = n
			t.enter(now, leaf)
			return false
		}
	}
	for m := leaf; m != nil; m = m.parent {
		if m.rate > 0 {
			m.tokens -= float64(n)
		}
		if p := m.parent; p != nil {
			m.start = max(p.virtual, m.finish)
			m.finish = m.start + int64(n)
			p.virtual = m.start
		}
	}
	return true
}

// Charge counts n bytes that have gone without being asked for. Those that are asked for wait longer in turn, but by no more than a second.
func (t *Tree) Charge(now time.Time, leaf *Node, n int) {
	for m := leaf; m != nil; m = m.parent {
		if m.rate > 0 {
			m.refill(now)
			m.tokens = max(m.tokens-float64(n), min(m.tokens, -float64(m.rate)*debtTime.Seconds()))
		}
	}
}

// Refund gives n bytes back that were granted and have not gone.
func (t *Tree) Refund(leaf *Node, n int) {
	for m := leaf; m != nil; m = m.parent {
		if m.rate > 0 {
			m.tokens = min(m.tokens+float64(n), max(m.tokens, float64(Burst(m.rate))))
		}
	}
}

// Cancel ends a leaf's wait. It does nothing to one that does not wait.
func (t *Tree) Cancel(leaf *Node) {
	if leaf.want > 0 {
		leaf.want = 0
		t.leave(leaf)
	}
}

// Grant returns a leaf whose wait is over and the bytes that it asked for, which are counted from then on; nil if nobody may go now. It is to be called at [Tree.Next] and after
// SetRate, until it returns nil.
func (t *Tree) Grant(now time.Time) (leaf *Node, n int) {
	t.resume(now)
	root := t.Root()
	if root.throttled || len(root.queue) == 0 {
		return nil, 0
	}
	leaf = root
	for leaf.want == 0 {
		leaf = leaf.queue[0]
	}
	n = leaf.want
	leaf.want = 0
	for m := leaf; m != nil; m = m.parent {
		m.refill(now)
		if m.rate > 0 {
			m.tokens -= float64(n)
		}
		if p := m.parent; p != nil {
			p.virtual = max(p.virtual, m.start)
			m.finish = m.start + int64(n)
			heap.Remove(&p.queue, m.pos)
		}
		if m.demand() { // its children are in place by now
			t.enqueue(now, m)
		}
	}
	return leaf, n
}

// Next returns when Grant should be called again, the zero time if nobody waits. It is right after Grant has returned nil.
func (t *Tree) Next() time.Time {
	var next time.Time
	for _, n := range t.throttled {
		if at := n.resumeAt(); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// resume lets those buckets be served again that have gathered tokens.
func (t *Tree) resume(now time.Time) {
	for i := 0; i < len(t.throttled); {
		n := t.throttled[i]
		if now.Before(n.resumeAt()) {
			i++
			continue
		}
		t.unthrottle(i)
		n.refill(now)
		t.enter(now, n)
	}
}

// demand reports whether somebody below n, or n itself, may go as far as those below n are concerned.
func (n *Node) demand() bool { return n.want > 0 || len(n.queue) > 0 }

// refill adds what the time since has brought.
func (n *Node) refill(now time.Time) {
	if n.rate == 0 {
		return
	}
	if d := now.Sub(n.at); d > 0 {
		if n.tokens += d.Seconds() * float64(n.rate); n.tokens > float64(Burst(n.rate)) {
			n.tokens = float64(Burst(n.rate))
		}
		n.at = now
	}
}

// resumeAt returns when a bucket without tokens has some worth waking somebody for.
func (n *Node) resumeAt() time.Time {
	secs := resumeTime.Seconds() - n.tokens/float64(n.rate)
	return n.at.Add(time.Duration(secs * float64(time.Second)))
}

// enqueue puts a node with demand where it waits: its parent's queue, or among the throttled. It reports whether the parent learns of a demand.
func (t *Tree) enqueue(now time.Time, n *Node) bool {
	n.refill(now)
	if n.rate > 0 && n.tokens <= 0 {
		n.throttled = true
		t.throttled = append(t.throttled, n)
		return false
	}
	if n.parent == nil {
		return false
	}
	n.start = max(n.parent.virtual, n.finish)
	heap.Push(&n.parent.queue, n)
	return true
}

// enter puts a node with demand where it waits, and those above it for whom that is news.
func (t *Tree) enter(now time.Time, n *Node) {
	for t.enqueue(now, n) {
		n = n.parent
		if n.throttled || n.pos >= 0 || n.parent == nil && len(n.queue) > 1 {
			return
		}
	}
}

// leave takes a node from where it waits, and those above it that have no other demand.
func (t *Tree) leave(n *Node) {
	for ; n != nil; n = n.parent {
		if n.throttled {
			for i, m := range t.throttled {
				if m == n {
					t.unthrottle(i)
					break
				}
			}
			return // those above did not know of it
		}
		if n.pos < 0 {
			return
		}
		heap.Remove(&n.parent.queue, n.pos)
		if n.parent.demand() {
			return
		}
	}
}

// unthrottle takes the i-th throttled node off its list.
func (t *Tree) unthrottle(i int) {
	last := len(t.throttled) - 1
	t.throttled[i].throttled = false
	t.throttled[i], t.throttled[last] = t.throttled[last], nil
	t.throttled = t.throttled[:last]
}
