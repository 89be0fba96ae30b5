package attack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// Attackers is how many take part in a campaign at once.
const Attackers = 4

// rounds is how often each attacker comes back while the honest peer is served.
const rounds = 8

// Patience bounds every wait that ends at once if all is well: 30 s, unless PARLEY_ATTACK_PATIENCE says otherwise, since what is broken on purpose need not
// be waited for.
var Patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("PARLEY_ATTACK_PATIENCE")); err == nil && d > 0 {
		return d
	}
	return 30 * time.Second
}()

// A Stage is where an attack takes place.
type Stage interface {
	// Dial connects one of the attackers to the client.
	Dial(attacker int) (net.Conn, error)
	// Reason returns why the client ended the connection that the attacker had from local, false if nobody was told. It may wait a moment for that.
	Reason(local net.Addr) (error, bool)
}

// A Campaign is one attack by several at once, while an honest peer is served.
type Campaign struct {
	*Attack
	// Begun gets one from each attacker, when its attack is under way.
	Begun chan struct{}
	// Stop is closed by the owner when the honest peer has been served.
	Stop chan struct{}
	// Pace is the time between the writes of a flood. In the simulated network it must not be 0: what is written to an end that is gone takes no time there.
	Pace time.Duration

	scene  Scene
	stage  Stage
	conns  atomic.Int64
	broken atomic.Int64 // sessions that were to stand and have been closed, as they may
	most   atomic.Int64 // bytes of the connection that could write most
}

// NewCampaign returns a campaign that has not begun.
func NewCampaign(at *Attack, scene Scene, st Stage) *Campaign {
	return &Campaign{Attack: at, scene: scene, stage: st, Begun: make(chan struct{}, Attackers), Stop: make(chan struct{})}
}

// Attacker is one of the attackers: it comes back until the honest peer is served. An attack that does not end as it must is an error of t.
func (c *Campaign) Attacker(t testing.TB, n int) {
	begun := sync.OnceFunc(func() { c.Begun <- struct{}{} })
	defer begun()
	must := max(1, c.Variants)
	for round := range must + rounds {
		if round >= must {
			select {
			case <-c.Stop:
				return
			default:
			}
			if c.Slow || c.Outcome != Ended {
				return
			}
		}
		if err := c.session(t, n, round, begun, round < must); err != nil {
			if round < must {
				t.Errorf("attacker %d, round %d: %v", n, round, err)
				return
			}
			// Whoever has been here may be turned away.
		}
	}
}

// session is one connection of an attacker.
func (c *Campaign) session(t testing.TB, n, round int, begun func(), must bool) (err error) {
	nc, err := c.stage.Dial(n)
	if err != nil {
		return err
	}
	defer nc.Close()
	c.conns.Add(1)
	local := nc.LocalAddr()
	a := NewAttacker(rawpeer.New(t, nc), c.scene, bt.PeerID{'-', 'X', 'X', 'e', 'v', 'i', 'l', byte(n), byte(round), byte(n ^ 0x55)})
	a.Stop, a.Pace = c.Stop, c.Pace
	a.Variant = round % max(1, c.Variants)
	defer func() {
		if failed := a.failed.Load(); failed != nil {
			err = *failed
		}
	}()
	if !c.Raw {
		hello := func() error { return a.Hello(c.Plain) }
		if c.EMP {
			hello = func() error { return a.HelloEMP(c.Offer) }
		}
		if err := hello(); err != nil {
			return fmt.Errorf("hello: %w", err)
		}
	}
	pong := make(chan struct{}, 1)
	over := make(chan struct{})
	a.Over = over
	read := func() {
		defer close(over)
		if c.Raw {
			a.UntilClosed(24 * time.Hour) // however it ends
			return
		}
		a.Until(func(m wire.Message) bool { // until it has ended
			if IsPong(m) {
				select {
				case pong <- struct{}{}:
				default:
				}
			}
			if c.EMP {
				a.note(m)
			}
			if c.On != nil {
				c.On(a, m)
			}
			return false
		})
	}
	// A receive buffer that is made small under what is on its way makes Linux drop that, and then the window updates behind it: both ends would hang for minutes. It is
	// small enough while nobody reads, since it grows by being read from.
	if !c.Deaf {
		go read()
	}
	began := time.Now()
	time.AfterFunc(20*time.Millisecond, begun) // the honest peer comes while the attack lasts
	unheld := make(chan struct{})
	if c.Outcome == Held { // what is held back would not see the end
		go func() {
			select {
			case <-c.Stop:
				nc.SetWriteDeadline(time.Now())
			case <-unheld:
			}
		}()
	}
	c.Run(a)
	close(unheld)
	if c.Deaf {
		go read()
	}
	defer func() {
		for old := c.most.Load(); a.Sent() > old && !c.most.CompareAndSwap(old, a.Sent()); old = c.most.Load() {
		}
	}()
	end := func() {
		nc.Close()
		<-over
	}
	switch c.Outcome {
	case Ended:
		within := Patience
		if c.Slow {
			within = 2 * c.Within // what is too long is told below
		}
		stop := c.Stop
		if must {
			stop = nil
		}
		select {
		case <-over:
		case <-stop: // the client may have done with what the attack is about before it came back
			end()
			return nil
		case <-time.After(within):
			end()
			return fmt.Errorf("not closed within %v of the last byte", within)
		}
		took := time.Since(began)
		if !must { // whoever has been here may be turned away without a word
			return nil
		}
		err, ok := c.stage.Reason(local)
		if !ok {
			return errors.New("closed, and nobody was told why")
		}
		if !oneOf(err, c.Errs) {
			return fmt.Errorf("closed with %v, want %v", err, c.Errs)
		}
		if c.Slow && took > c.Within+10*time.Second {
			return fmt.Errorf("closed after %v, want within %v", took, c.Within)
		}
	case Stands:
		select {
		case <-c.Stop:
		case <-over:
			return c.endedEarly(local)
		}
		if c.Plain || c.Against == Magnet && a.Metadata == 0 {
			end()
			return nil
		}
		if a.Ping() != nil { // it has ended, then
			<-over
			return c.endedEarly(local)
		}
		select {
		case <-pong:
		case <-over:
			return c.endedEarly(local)
		case <-time.After(Patience):
			end()
			return errors.New("the session stands, and a ping is not answered")
		}
		end()
	case Held:
		select {
		case <-c.Stop:
		case <-over:
			err, _ := c.stage.Reason(local)
			return fmt.Errorf("the session has ended: %w", err)
		}
		end()
		if n := a.Sent(); n > HeldBytes {
			return fmt.Errorf("got rid of %d bytes, want at most %d", n, HeldBytes)
		}
	}
	return nil
}

// endedEarly explains the end of a session that was to stand; nil if it was that of two seeds, which is how a download that is complete parts from one who
// claims to have everything, and a super-seed from one who claims to have got it.
func (c *Campaign) endedEarly(local net.Addr) error {
	err, _ := c.stage.Reason(local)
	if (c.Against != Seed || c.SuperSeed) && errors.Is(err, peer.ErrDuplicatePeer) {
		return nil
	}
	if oneOf(err, c.Errs) {
		c.broken.Add(1)
		return nil
	}
	return fmt.Errorf("the session has ended: %w", err)
}

// Result returns what a table says of how it ended.
func (c *Campaign) Result() string {
	s := c.Outcome.String()
	switch n := c.broken.Load(); {
	case c.Outcome == Ended:
		s += fmt.Sprintf(" ×%d: %v", c.conns.Load(), c.Errs[0])
	case n == c.conns.Load():
		s = fmt.Sprintf("closed ×%d: %v", n, c.Errs[0])
	case n > 0:
		s += fmt.Sprintf(" ×%d, closed ×%d: %v", c.conns.Load()-n, n, c.Errs[0])
	}
	return s + fmt.Sprintf("; %s sent", Size(c.most.Load()))
}

// Size returns a number of bytes as a table has it.
func Size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// oneOf reports whether err is one of those that are wanted.
func oneOf(err error, want []error) bool {
	for _, w := range want {
		if errors.Is(err, w) {
			return true
		}
		if _, ok := errors.AsType[*wire.SyntaxError](err); ok && w == ErrSyntax {
			return true
		}
	}
	return false
}

// A Row is a line of a [Table].
type Row struct {
	Name, Limit, Outcome, Memory, Rate string
}

// A Table collects what the attacks came to.
type Table struct {
	mu   sync.Mutex
	rows []Row
}

// Add adds a row.
func (tb *Table) Add(r Row) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.rows = append(tb.rows, r)
}

// String returns the table in Markdown.
func (tb *Table) String() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var b strings.Builder
	b.WriteString("| # | attack | limit that answers | outcome | memory | honest peer |\n|---|---|---|---|---|---|\n")
	for i, r := range tb.rows {
		fmt.Fprintf(&b, "| %d | %s | `%s` | %s | %s | %s |\n", i+1, r.Name, r.Limit, r.Outcome, r.Memory, r.Rate)
	}
	return b.String()
}

// Print logs the table, and writes it to a file if the environment variable names one.
func (tb *Table) Print(t testing.TB, variable string) {
	t.Logf("%d attacks\n%s", len(tb.rows), tb)
	if path := os.Getenv(variable); path != "" {
		if err := os.WriteFile(path, []byte(tb.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}
