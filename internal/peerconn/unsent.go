package peerconn

import (
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/wire/classic"
)

// What is gathered for a write, and what the system has of it and has not sent, has its order: what comes later waits behind it. So that messages and pieces wait for no more than
// one block of each other (EMP/1 section 7.4) the writer of a session with messages waits until little lies unsent, and only then gathers what is next: on a slow link one block or
// one fragment. On a fast one that would be many system calls for nothing, so it gathers as much as the link takes in burstTime.
const (
	// unsentBytes is how much the system may have at most of what is written and not sent yet for another write to go in; the writer waits until it is less than half.
	unsentBytes = 16 << 10
	// turnBytes is how much of messages goes before a block has its turn, where both wait.
	turnBytes  = classic.PieceHeadBytes + bt.BlockBytes
	leastBurst = turnBytes
	burstTime  = 2 * time.Millisecond
	// fastUnsent is unsentBytes of a link that takes the largest burst in burstTime: what lies there goes in a fraction of a millisecond, and waiting for less cost a good
	// part of the rate of messages of a megabyte on loopback.
	fastUnsent = 64 << 10
)

// LeadBytes is what may go ahead of a small message on a slow link if nothing but pieces and one other message are sent to that peer: what lies unsent when the writer goes on, the fragment or block
// that it writes then, and a block whose turn it is. What is on its way already, in the queues of the network among it, is not counted.
const LeadBytes = unsentBytes/2 + leastBurst + turnBytes + 1<<10 // for heads and control frames

// An outlet is a connection that can keep what is written and not sent yet small.
type outlet interface {
	// KeepUnsent lets writes in only while less than n bytes are unsent.
	KeepUnsent(n int)
	// AwaitRoom waits until less than half of that is unsent, or until a write would fail. It is called by who writes.
	AwaitRoom()
}

// burst is how much is gathered for one write. Where nobody is promised anything that is all that fits: for hundreds of peers that share a fast link less cost a tenth more processor time,
// and behind it lies all that the system has not sent in any case. A prompt one learns from how fast a busy writer gets rid of what it has.
type burst struct {
	bytes  int
	prompt bool
	since  time.Time
	n      int  // bytes written since
	fast   bool // the link takes the largest burst in burstTime, or did not long ago
}

// begin says that the writer has something to do, after it had nothing.
func (b *burst) begin(now time.Time) { b.since, b.n = now, 0 }

// wrote says that n bytes were written, with what waiting it took.
func (b *burst) wrote(now time.Time, n int) {
	b.n += n
	d := now.Sub(b.since)
	if b.prompt && !b.fast && 0 < d && d < burstTime && b.n >= 2*blockbuf.LargeBytes { // a writer that is never busy for long would not find out otherwise
		b.bytes, b.fast = blockbuf.LargeBytes, true
		b.begin(now)
		return
	}
	if !b.prompt || d < burstTime || b.fast && d < 5*burstTime { // a busy machine has a fast link hesitate now and then
		return
	}
	b.bytes = min(max(int(int64(b.n)*int64(burstTime)/int64(d)), leastBurst), blockbuf.LargeBytes)
	if b.fast && b.bytes >= blockbuf.LargeBytes/2 {
		b.bytes = blockbuf.LargeBytes
	}
	b.fast = b.bytes == blockbuf.LargeBytes
	b.begin(now)
}

// unsent returns how much the system may have unsent now.
func (b *burst) unsent() int {
	if b.fast {
		return fastUnsent
	}
	return unsentBytes
}

// units is what n bytes count where messages and pieces take turns. A whole fragment and a whole block count the same, though the heads of their frames are not equally long, or in
// the long run one of them would have two turns in a row.
func units(n int) int { return (n + 63) / 64 }
