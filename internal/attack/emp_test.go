package attack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/attack"
	"github.com/parley-bt/parley/internal/rawpeer"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

// freeMemory is what each session may have of messages beside the budget.
const freeMemory = 2 * wire.MinWindow

// sessionMemory returns what a session costs at most beside its messages, where there are very many: it, its attacker, and its share of the buffers of those that are just being read.
func sessionMemory() int64 {
	if raceEnabled { // goroutines are stopped more often, and buffers with them
		return 256 << 10
	}
	return 64 << 10
}

// talk is the message types of a client under attack in the enhanced dialect, and an honest peer that uses one of them meanwhile.
type talk struct {
	tor     *parley.Torrent // of the client under attack
	at      *attack.Attack
	release chan struct{} // closed when slow handlers may return
	token   []byte        // what honest messages begin with

	echo   map[*parley.Torrent]*parley.Type
	ours   *parley.Type // of those the one of the client under attack
	fickle *parley.Type

	mu      sync.Mutex
	begun   map[typeOf]int // handlers of requests that have begun
	handled map[typeOf]int // messages that were given to a handler
	ends    map[attack.CallEnd]int
	callers map[parley.Peer]bool

	arrived map[*parley.Torrent]chan struct{} // to a side, an honest message, which its sender waits for
	large   map[*parley.Torrent]*sync.Mutex   // held by the call of a side that sends attack.EchoMax bytes
	news    chan struct{}                     // capacity 1: there is another end
	stop    chan struct{}
	group   sync.WaitGroup
	calls   atomic.Int64
	began   time.Time
	stopped func()
}

// typeOf is a message type of one peer.
type typeOf struct {
	name string
	peer netip.AddrPort
}

// The parts of an honest conversation: each is done minCalls times at least, and a sixteenth of it with messages of attack.EchoMax bytes.
const (
	minCalls  = 32
	smallCall = 1000
)

var fat = make([]byte, attack.FatMax) // what answers are cut from: it is not their memory that is measured

func newTalk(t *testing.T, tor *parley.Torrent, at *attack.Attack) *talk {
	k := &talk{tor: tor, at: at, release: make(chan struct{}), token: []byte("of an honest peer "), echo: make(map[*parley.Torrent]*parley.Type), begun: make(map[typeOf]int), handled: make(map[typeOf]int),
		arrived: make(map[*parley.Torrent]chan struct{}), large: make(map[*parley.Torrent]*sync.Mutex), ends: make(map[attack.CallEnd]int), callers: make(map[parley.Peer]bool), news: make(chan struct{}, 1), stop: make(chan struct{})}
	k.stopped = sync.OnceFunc(func() { close(k.stop); close(k.release) })
	t.Cleanup(k.stopped)
	slow := func(context.Context, *parley.Message) error {
		<-k.release
		return nil
	}
	answer := func(_ context.Context, m *parley.Message) ([]byte, error) {
		return fat[:min(binary.BigEndian.Uint32(m.Payload), attack.FatMax)], nil
	}
	fails := errors.New("what an attacker sends is never right")
	types := []parley.MessageType{
		{Name: attack.SlowType, Handler: slow, Requests: func(ctx context.Context, m *parley.Message) ([]byte, error) { return nil, slow(ctx, m) }},
		{Name: attack.StreamType, Stream: func(ctx context.Context, m *parley.Message, _ io.Reader) error { return slow(ctx, m) }},
		{Name: attack.PickyType, Handler: func(context.Context, *parley.Message) error { return fails },
			Requests: func(context.Context, *parley.Message) ([]byte, error) { return nil, fails }},
		{Name: attack.NewType, Handler: drop, MinVersion: 2, MaxVersion: 3},
		{Name: attack.QuietType, Handler: drop},
	}
	for i := range 4 {
		types = append(types, parley.MessageType{Name: fmt.Sprintf("%s%d", attack.BigType, i), Handler: drop, MaxBytes: attack.BigMax},
			parley.MessageType{Name: fmt.Sprintf("%s%d", attack.FatType, i), Requests: answer})
	}
	for _, mt := range types {
		if mt.MaxBytes == 0 {
			mt.MaxBytes = attack.EchoMax
		}
		mt.Parallel = attack.Parallel
		k.register(t, tor, mt)
	}
	k.fickle = k.register(t, tor, fickle)
	k.registerEcho(t, tor)
	k.ours = k.echo[tor]
	return k
}

var fickle = parley.MessageType{Name: attack.FickleType, Handler: drop, Requests: func(context.Context, *parley.Message) ([]byte, error) { return nil, nil }, MaxBytes: attack.EchoMax}

func drop(context.Context, *parley.Message) error { return nil }

// register registers a type, and counts what its handlers are given.
func (k *talk) register(t *testing.T, tor *parley.Torrent, mt parley.MessageType) *parley.Type {
	t.Helper()
	count := func(counts map[typeOf]int, m *parley.Message) {
		k.mu.Lock()
		counts[typeOf{m.Type, m.Peer.Addr()}]++
		k.mu.Unlock()
	}
	if h := mt.Handler; h != nil {
		mt.Handler = func(ctx context.Context, m *parley.Message) error {
			count(k.handled, m)
			return h(ctx, m)
		}
	}
	if h := mt.Requests; h != nil {
		mt.Requests = func(ctx context.Context, m *parley.Message) ([]byte, error) {
			count(k.begun, m)
			return h(ctx, m)
		}
	}
	ty, err := tor.Register(mt)
	if err != nil {
		t.Fatal(err)
	}
	return ty
}

// Begun is for attack.Scene.
func (k *talk) Begun(name string, from net.Addr) (requests, messages int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	of := typeOf{name, from.(*net.TCPAddr).AddrPort()}
	return k.begun[of], k.handled[of]
}

// registerEcho registers the type that honest peers use. Their messages must come whole and in order.
func (k *talk) registerEcho(t *testing.T, tor *parley.Torrent) {
	var next atomic.Uint64 // of the one honest peer that this side has
	arrived := make(chan struct{}, 1)
	k.arrived[tor], k.large[tor] = arrived, new(sync.Mutex)
	k.echo[tor] = k.register(t, tor, parley.MessageType{Name: attack.EchoType, MaxBytes: attack.EchoMax, Parallel: attack.Parallel,
		Handler: func(_ context.Context, m *parley.Message) error {
			if !bytes.HasPrefix(m.Payload, k.token) {
				return nil
			}
			if want := next.Add(1) - 1; !bytes.Equal(m.Payload, k.payload(want)) {
				t.Errorf("an honest message of %d bytes is not the one that was sent as number %d", len(m.Payload), want)
			}
			arrived <- struct{}{}
			return nil
		},
		Requests: func(_ context.Context, m *parley.Message) ([]byte, error) { return bytes.Clone(m.Payload), nil }})
}

// payload is what an honest peer says as number n of a conversation.
func (k *talk) payload(n uint64) []byte {
	b := bytes.Repeat([]byte{byte(n)}, smallCall)
	if n%16 == 15 {
		b = bytes.Repeat([]byte{byte(n)}, attack.EchoMax)
	}
	copy(b, k.token)
	binary.BigEndian.PutUint64(b[len(k.token):], n)
	return b
}

// converse has the client under attack and an honest one exchange messages and requests, both ways, until finish. Every one must arrive; none may be refused. What it returns
// waits until there was enough of that.
func (k *talk) converse(t *testing.T, honest *parley.Torrent) (enough func()) {
	k.registerEcho(t, honest)
	ctx := within(t)
	k.began = time.Now()
	var parts sync.WaitGroup
	for _, sides := range [][2]*parley.Torrent{{k.tor, honest}, {honest, k.tor}} {
		side, other := sides[0], sides[1]
		for _, ask := range []bool{false, true} {
			parts.Add(1)
			reached := sync.OnceFunc(parts.Done)
			k.group.Go(func() {
				defer reached()
				p, err := sharing(ctx, side, attack.EchoType)
				if err != nil {
					t.Errorf("the honest peer: %v", err)
					return
				}
				for n := uint64(0); ; n++ {
					if n >= minCalls {
						reached()
						select {
						case <-k.stop:
							return
						default:
						}
					}
					if err := k.call(ctx, side, other, p, k.payload(n), ask); err != nil {
						t.Errorf("the honest peer's call number %d (a request: %v): %v", n, ask, err)
						return
					}
					k.calls.Add(1)
				}
			})
		}
	}
	return func() {
		parts.Wait()
		k.seen(t)
	}
}

// sharing waits for the honest peer of a side that shares a type in mux frames.
func sharing(ctx context.Context, side *parley.Torrent, name string) (parley.Peer, error) {
	for {
		for p := range side.Peers() {
			if !evil(p) {
				for _, ty := range p.TypeInfos() {
					if ty.Name == name && ty.Enhanced {
						return p, nil
					}
				}
			}
		}
		select {
		case <-ctx.Done():
			return parley.Peer{}, fmt.Errorf("no peer shares %q", name)
		case <-time.After(time.Millisecond):
		}
	}
}

func evil(p parley.Peer) bool {
	id := p.Info().ID
	return bytes.HasPrefix(id[:], []byte("-XXevil"))
}

// call sends one message or request to the other side, and waits until it has been handled. Of the largest it sends one at a time: that is what everybody may have, whatever others hold.
func (k *talk) call(ctx context.Context, side, other *parley.Torrent, p parley.Peer, payload []byte, ask bool) error {
	if len(payload) > smallCall {
		k.large[side].Lock()
		defer k.large[side].Unlock()
	}
	if !ask {
		if err := k.echo[side].Send(ctx, p, payload); err != nil {
			return err
		}
		select {
		case <-k.arrived[other]:
			return nil
		case <-ctx.Done():
			return errors.New("sent, and never handled")
		}
	}
	got, err := k.echo[side].Request(ctx, p, payload, attack.EchoMax)
	if err == nil && !bytes.Equal(got, payload) {
		err = fmt.Errorf("an answer of %d bytes that is not the request of %d", len(got), len(payload))
	}
	return err
}

// provoke sends messages and requests to an attacker until its session ends.
func (k *talk) provoke(t *testing.T, p parley.Peer) {
	if !k.at.Provokes || !p.Shares(attack.EchoType) || !evil(p) {
		return
	}
	k.mu.Lock()
	known := k.callers[p]
	k.callers[p] = true
	k.mu.Unlock()
	if known {
		return
	}
	for i := range 8 {
		k.group.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				var err error
				if i%2 == 0 {
					err = k.ours.Send(ctx, p, make([]byte, 40<<10)) // more than a fragment
				} else {
					_, err = k.ours.Request(ctx, p, make([]byte, 100), 1000)
				}
				cancel()
				if !k.end(t, err) {
					return
				}
				select {
				case <-k.stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
}

var callEnds = []struct {
	err error
	end attack.CallEnd
}{{context.DeadlineExceeded, attack.CallDeadline}, {parley.ErrTypeNotShared, attack.CallNotShared}, {parley.ErrRefused, attack.CallRefused}, {parley.ErrPeerBusy, attack.CallBusy},
	{parley.ErrNoHandler, attack.CallNoHandler}, {parley.ErrHandlerFailed, attack.CallFailed}, {parley.ErrReplyTooLarge, attack.CallTooLarge}}

// end notes how a call to an attacker has ended. It returns false if there is no sense in another.
func (k *talk) end(t *testing.T, err error) bool {
	switch {
	case err == nil:
		return true
	case errors.Is(err, net.ErrClosed), errors.Is(err, parley.ErrClosed), errors.Is(err, context.Canceled):
		return false
	}
	for _, e := range callEnds {
		if errors.Is(err, e.err) && (e.end == attack.CallDeadline || slices.Contains(k.at.Calls, e.end)) {
			k.mu.Lock()
			k.ends[e.end]++
			k.mu.Unlock()
			select {
			case k.news <- struct{}{}:
			default:
			}
			return true
		}
	}
	t.Errorf("a call to an attacker: %v", err)
	return false
}

// seen waits until calls to attackers have ended in every way they must.
func (k *talk) seen(t *testing.T) {
	if k.at == nil {
		return
	}
	ctx := within(t)
	for _, want := range k.at.Calls {
		for {
			k.mu.Lock()
			n := k.ends[want]
			k.mu.Unlock()
			if n > 0 {
				break
			}
			select {
			case <-k.news:
			case <-ctx.Done():
				t.Errorf("no call to an attacker ended as number %d", want)
				return
			}
		}
	}
}

// withdraws takes the type back and registers it again, a few times: peers are told no more than 32 times in a session, and of what comes quickly a second later.
func (k *talk) withdraws(t *testing.T, times int) {
	for range times {
		if err := k.fickle.Withdraw(); err != nil {
			t.Error(err)
		}
		select {
		case <-k.stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		k.fickle = k.register(t, k.tor, fickle)
		time.Sleep(20 * time.Millisecond) // so that attackers have begun a message of it
	}
}

// finish ends the conversation, lets the handlers go, and waits for both. It returns how many calls there were in a second.
func (k *talk) finish() float64 {
	rate := float64(k.calls.Load()) / time.Since(k.began).Seconds()
	k.stopped()
	k.group.Wait()
	k.callers = nil // a peer that somebody remembers keeps what its session had
	return rate
}

// empSpecials are attacks in the enhanced dialect that need more than a few connections to a torrent.
var empSpecials = []special{
	{name: "emp: 1,000 peers that begin messages of 16 MiB and do not end them", limit: "parley.Config.MessageMemoryBytes", goroutines: 4 * crowd, settles: true,
		memory: attack.Memory + crowd*(freeMemory+sessionMemory()), cfg: parley.Config{MaxPeers: 2 * crowd, MaxConnections: 4 * crowd, MessageMemoryBytes: attack.Memory}, run: grab},
	{name: "emp: types withdrawn under the messages of an honest peer", limit: "peerconn.Conn.relieve", settles: true, run: withdrawUnder},
	{name: "emp: nothing read of what is sent, and the client closes", limit: "parley.Peer.Close", settles: true, run: closeUnread},
}

// crowd is how many attackers there are where their number matters.
const crowd = 1000

// grab has a crowd hold as much memory as it gets, while an honest peer talks and downloads.
func grab(t *testing.T, s *siege) string {
	k := newTalk(t, s.tor, &attack.Attack{})
	for i := range 2 {
		k.register(t, s.tor, parley.MessageType{Name: fmt.Sprintf("%s%d", attack.HugeType, i), Handler: drop, MaxBytes: wire.MaxMessage})
	}
	all := make([]*attack.Grabber, crowd)
	var group, listeners sync.WaitGroup
	const workers = 4
	stop := make(chan struct{})
	var begun sync.WaitGroup
	begun.Add(workers)
	for w := range workers {
		group.Go(func() {
			first := sync.OnceFunc(begun.Done)
			defer first()
			for i := w; i < crowd; i += workers {
				nc, err := sockets{addr: s.victim.Addr()}.Dial(i % attack.Attackers)
				if err != nil {
					t.Errorf("attacker %d: %v", i, err)
					return
				}
				a := attack.NewAttacker(rawpeer.New(t, nc), s.scene, bt.PeerID{'-', 'X', 'X', 'e', 'v', 'i', 'l', byte(i), byte(i >> 8)})
				if err := a.HelloEMP(nil); err != nil {
					t.Errorf("attacker %d: %v", i, err)
					return
				}
				all[i] = attack.NewGrabber(a)
				listeners.Go(all[i].Listen)
			}
			buf := make([]byte, attack.StepBytes)
			for {
				for i := w; i < crowd; i += workers {
					if !all[i].Step(buf) {
						t.Errorf("attacker %d: its session has ended", i)
						return
					}
				}
				first()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	begun.Wait()
	honest := s.talks(t, k)
	close(stop)
	group.Wait()
	var asks, refused, sent int64
	for _, g := range all {
		if g != nil {
			asks, refused, sent = asks+g.Asks, refused+g.Stopped(emp.CodeBusy), sent+g.Sent()
			g.Close()
		}
	}
	listeners.Wait()
	honest()
	if refused == 0 {
		t.Error("nobody was refused: there was enough for all")
	}
	return fmt.Sprintf("%d sessions stand, %d of %d messages refused; %s sent", crowd, refused, asks, attack.Size(sent))
}

// talks has an honest peer download and talk, and notes how it got on. What it returns ends that.
func (s *siege) talks(t *testing.T, k *talk) (end func()) {
	t.Helper()
	began := time.Now()
	tor, check := s.leech(t, s.honest[0], false, s.victim.Addr())
	enough := k.converse(t, tor)
	if err := tor.WaitComplete(within(t)); err != nil {
		t.Errorf("the honest peer is not served: %v; %+v", err, tor.Stats())
	} else if err := check(); err != nil {
		t.Errorf("the honest peer: %v", err)
	}
	s.rate = float64(len(s.content)) / time.Since(began).Seconds()
	enough()
	return func() {
		s.chat = k.finish()
		check = nil
		if err := tor.Close(); err != nil {
			t.Error(err)
		}
	}
}

// withdrawUnder takes a type back, and registers it again, under an honest peer that sends the smallest messages there are, as fast as it can: it learns of that, and its session stands.
func withdrawUnder(t *testing.T, s *siege) string {
	k := newTalk(t, s.tor, &attack.Attack{})
	tor, _ := s.leechFrom(t, s.honest[1], false, parley.TorrentOptions{NoDownload: true, Peers: []netip.AddrPort{s.victim.Addr()}})
	ty, err := tor.Register(fickle)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	p, err := sharing(ctx, tor, attack.FickleType)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	sent := 0
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			switch err := ty.Send(ctx, p, nil); {
			case err == nil:
				sent++
			case errors.Is(err, parley.ErrTypeNotShared):
				select { // it may be a while
				case <-stop:
				case <-time.After(time.Millisecond):
				}
			default:
				t.Errorf("after %d messages: %v", sent, err)
				return
			}
		}
	})
	k.withdraws(t, 20)
	end := s.talks(t, k)
	close(stop)
	group.Wait()
	end()
	if p.Shares(attack.EchoType) != true || sent == 0 {
		t.Errorf("the session has ended, or nothing was sent: %d", sent)
	}
	if err := tor.Close(); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("the session stands, %d messages sent", sent)
}

// closeUnread closes sessions whose peers read nothing, while everything waits for them: messages, requests and answers.
func closeUnread(t *testing.T, s *siege) string {
	k := newTalk(t, s.tor, &attack.Attack{})
	var all []*attack.Attacker
	for i := range attack.Attackers {
		nc := s.dial(t, i)
		a := attack.NewAttacker(rawpeer.New(t, nc), s.scene, bt.PeerID{'-', 'X', 'X', 'e', 'v', 'i', 'l', byte(i)})
		if err := a.HelloEMP(attack.OfferWindow(wire.MaxWindow)); err != nil {
			t.Fatal(err)
		}
		a.AskFat(8) // answers that wait for it
		all = append(all, a)
	}
	var group sync.WaitGroup
	var waiting atomic.Int64
	var calls int
	ctx := within(t)
	for _, a := range all {
		p, err := peerAt(ctx, s.tor, a.LocalAddr())
		if err != nil {
			t.Fatal(err)
		}
		for i := range 16 {
			calls++
			group.Go(func() {
				for {
					var err error
					if i%2 == 0 {
						err = k.ours.Send(ctx, p, make([]byte, attack.EchoMax))
					} else {
						_, err = k.ours.Request(ctx, p, make([]byte, attack.EchoMax), 1000)
					}
					if err == nil {
						continue
					}
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("a call to a peer that was closed: %v", err)
					}
					waiting.Add(1)
					return
				}
			})
		}
	}
	end := s.talks(t, k)
	if n := waiting.Load(); n != 0 {
		t.Errorf("%d calls have ended", n)
	}
	for _, a := range all {
		p, err := peerAt(ctx, s.tor, a.LocalAddr())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	end()
	for _, a := range all {
		a.Close()
	}
	return fmt.Sprintf("%d calls waited until the end of their sessions", calls)
}

// peerAt waits for the peer with an address.
func peerAt(ctx context.Context, tor *parley.Torrent, addr net.Addr) (parley.Peer, error) {
	for {
		for p := range tor.Peers() {
			if p.Addr() == addr.(*net.TCPAddr).AddrPort() && p.Shares(attack.EchoType) {
				return p, nil
			}
		}
		select {
		case <-ctx.Done():
			return parley.Peer{}, fmt.Errorf("no peer at %v", addr)
		case <-time.After(time.Millisecond):
		}
	}
}
