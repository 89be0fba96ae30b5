package parley

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/gate"
	"github.com/parley-bt/parley/internal/ladder"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// MSEMethods says what may follow a hello by MSE.
type MSEMethods uint8

// What may follow a hello by MSE.
const (
	MSEAny     MSEMethods = iota // RC4, or plaintext where the peer has nothing else
	MSEOnlyRC4                   // RC4 alone
)

func (m MSEMethods) methods() mse.Methods {
	if m == MSEOnlyRC4 {
		return mse.RC4
	}
	return mse.RC4 | mse.Plaintext
}

// The hellos (EMP/1 section 2).
const (
	HelloPlaintext = wire.HelloPlaintext
	HelloMSE       = wire.HelloMSE
	HelloVeil      = wire.HelloVeil
)

// ParseHello returns the hello of that name: plaintext, mse or veil.
func ParseHello(name string) (Hello, error) {
	for _, h := range [...]Hello{HelloPlaintext, HelloMSE, HelloVeil} {
		if h.String() == name {
			return h, nil
		}
	}
	return 0, fmt.Errorf("hello %q: want plaintext, mse or veil", name)
}

// HelloError is what [EventDialFailed] reports of an address that did not take a hello, where more than one is tried: which it was, and which is tried next, at once.
type HelloError = swarm.HelloError

// checkHellos returns an error if one of a list is no hello, or stands there twice.
func checkHellos(field string, hs []Hello) error {
	for i, h := range hs {
		if !wire.AllHellos.Has(h) {
			return fmt.Errorf("config: %s[%d] is no hello: want HelloPlaintext, HelloMSE or HelloVeil", field, i)
		}
		if slices.Contains(hs[:i], h) {
			return fmt.Errorf("config: %s has %v twice", field, h)
		}
	}
	return nil
}

// What hellos may cost, EMP/1 section 2.
var (
	scanBudget        = gate.Config{PerSource: 20, Burst: 100, Total: 2e6, Queue: 1024, MaxWait: 4 * time.Second}
	keyExchangeBudget = gate.Config{PerSource: 20, Burst: 100, Total: 2000, Queue: 1024, MaxWait: 4 * time.Second}
)

// served is what obfuscated hellos are matched against: the secrets of all torrents. It is safe for concurrent use.
type served struct {
	mu      sync.RWMutex
	secrets []veil.Secret // scanned from the first to the last
	names   []bt.InfoHash // of each secret, by which its torrent is known
	at      map[veil.Secret]int
	skeys   map[[20]byte][20]byte // info-hashes by mse.Req2
	firsts  map[[20]byte]first    // hashes of first pieces, likewise
}

// first is the hash of a first piece, by which BiglyBT asks in MSE for torrents that it knows from trackers of its own kind.
type first struct {
	hash     [20]byte
	torrents int // that begin with it
}

func newServed() *served {
	return &served{at: make(map[veil.Secret]int), skeys: make(map[[20]byte][20]byte), firsts: make(map[[20]byte]first)}
}

// add takes a secret in. One that is no info-hash is served by veiled hellos alone.
func (s *served) add(secret veil.Secret, name bt.InfoHash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.at[secret]; there {
		return
	}
	s.at[secret] = len(s.secrets)
	s.secrets, s.names = append(s.secrets, secret), append(s.names, name)
	if skey := [20]byte(secret); bt.InfoHash(skey) == name {
		s.skeys[mse.Req2(&skey)] = skey
	}
}

func (s *served) remove(secret veil.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, there := s.at[secret]
	if !there {
		return
	}
	last := len(s.secrets) - 1
	s.secrets[i], s.names[i] = s.secrets[last], s.names[last]
	s.at[s.secrets[i]] = i
	s.secrets, s.names = s.secrets[:last], s.names[:last]
	delete(s.at, secret)
	skey := [20]byte(secret)
	delete(s.skeys, mse.Req2(&skey))
}

// addFirst lets a torrent be asked for, by MSE alone, by the hash of its first piece. The hello inside says which of those that begin alike is meant.
func (s *served) addFirst(hash [20]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := mse.Req2(&hash)
	s.firsts[k] = first{hash, s.firsts[k].torrents + 1}
}

func (s *served) removeFirst(hash [20]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := mse.Req2(&hash)
	if f := s.firsts[k]; f.torrents > 1 {
		s.firsts[k] = first{hash, f.torrents - 1}
	} else {
		delete(s.firsts, k)
	}
}

func (s *served) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.secrets)
}

func (s *served) has(secret veil.Secret) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, there := s.at[secret]
	return there
}

// find returns the secret that a hello was made for, and its torrent's name; nil if there is none.
func (s *served) find(hello *[veil.HelloBytes]byte) (*veil.Secret, bt.InfoHash) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if i := veil.Find(hello[:], s.secrets); i >= 0 {
		return new(s.secrets[i]), s.names[i]
	}
	return nil, bt.InfoHash{}
}

func (s *served) skey(hash [20]byte) ([20]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k, ok := s.skeys[hash]; ok {
		return k, true
	}
	f, ok := s.firsts[hash]
	return f.hash, ok
}

// Scan implements [peerconn.Host].
func (h host) Scan(pc *peerconn.Conn, hello *[veil.HelloBytes]byte) (*veil.Secret, bt.InfoHash, error) {
	c := h.c
	n := c.served.len()
	if n == 0 {
		return nil, bt.InfoHash{}, nil
	}
	if err := c.scans.Wait(time.Now, pc.Addr().Addr(), n, c.stop); err != nil {
		return nil, bt.InfoHash{}, err
	}
	secret, name := c.served.find(hello)
	return secret, name, nil
}

// KeyExchange implements [peerconn.Host].
func (h host) KeyExchange(pc *peerconn.Conn) error {
	return h.c.exchanges.Wait(time.Now, pc.Addr().Addr(), 1, h.c.stop)
}

// SKEY implements [peerconn.Host].
func (h host) SKEY(hash [20]byte) ([20]byte, bool) { return h.c.served.skey(hash) }

// HelloStats counts what strangers' hellos have cost (EMP/1 section 2).
type HelloStats struct {
	Scans, KeyExchanges GateStats // the search for a veiled hello's torrent; Diffie-Hellman of MSE
	Draining            int       // connections that are read and not answered, until their time is over (EMP/1 section 5)
	Drained             int64     // that ever were
	DrainedEarly        int64     // of these, closed before their time since there were too many
}

// GateStats counts what one of the budgets has let through.
type GateStats = gate.Stats

// HelloStats returns what strangers' hellos have cost so far.
func (c *Client) HelloStats() HelloStats {
	d := c.conn.Drains.Stats()
	return HelloStats{Scans: c.scans.Stats(), KeyExchanges: c.exchanges.Stats(), Draining: d.Now, Drained: d.Total, DrainedEarly: d.Early}
}

// takesVeil reports whether peers may begin with veiled hellos where we listen, and are told so.
func (c *Client) takesVeil() bool { return c.ln != nil && c.cfg.accept.Has(wire.HelloVeil) }

// useHellos tells a torrent how to dial.
func (c *Client) useHellos(t *Torrent, cfg *swarm.Config) {
	policy := c.ladders.policy
	policy.VeilOnly = t.secret != nil
	cfg.Hellos, cfg.MSE, cfg.Secret, cfg.TakesVeil, cfg.Identity = hellosOf{c.ladders, policy}, c.cfg.MSE.methods(), t.secret, c.takesVeil(), c.cfg.Identity
}

// opening says how incoming connections may begin.
func (cfg *Config) opening() *peer.OpeningConfig {
	return &peer.OpeningConfig{Accept: cfg.accept, MSE: cfg.MSE.methods()}
}

// ladders remembers which hellos worked where, for all torrents of a client. It is safe for concurrent use.
type ladders struct {
	mu      sync.Mutex
	m       *ladder.Memory
	policy  ladder.Policy
	unsaved bool
}

// hellosOf is what a torrent knows of them.
type hellosOf struct {
	*ladders
	policy ladder.Policy
}

// Steps implements swarm.Hellos.
func (h hellosOf) Steps(now time.Time, a netip.AddrPort) []wire.Hello {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.m.Steps(now, a, h.policy)
}

// Worked implements swarm.Hellos.
func (h hellosOf) Worked(now time.Time, a netip.AddrPort, hello wire.Hello) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.m.Worked(now, a, hello)
	h.unsaved = true
}

// Says implements swarm.Hellos.
func (h hellosOf) Says(now time.Time, a netip.AddrPort, veil bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.m.Says(now, a, veil)
	h.unsaved = true
}

// What worked is kept in the folder of Config.StateDir, written when the client ends and every saveHellos before, if there is news.
const (
	hellosName  = "hellos"
	saveHellos  = time.Minute
	hellosBytes = 1 << 20
)

func (c *Client) newLadders() *ladders {
	// Who names plaintext and nothing else has said that nothing is to be hidden.
	plain := slices.Equal(c.cfg.DialHellos, []Hello{HelloPlaintext})
	l := &ladders{m: new(ladder.Memory), policy: ladder.Policy{Hellos: c.cfg.DialHellos, Downgrade: c.cfg.AllowDowngrade || plain}}
	if c.state == nil {
		return l
	}
	b, err := readState(c.state, hellosName, hellosBytes)
	if err == nil {
		var m *ladder.Memory
		if m, err = ladder.Parse(b, time.Now()); err == nil {
			l.m = m
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.cfg.Logger.Warn("what hellos worked before is not used", "error", err)
	}
	return l
}

// keepHellos saves what worked now and then, until the client is closed.
func (c *Client) keepHellos() {
	tick := time.NewTicker(saveHellos)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.saveHellos()
		case <-c.stop:
			return
		}
	}
}

func (c *Client) saveHellos() {
	l := c.ladders
	l.mu.Lock()
	news := l.unsaved && c.state != nil
	l.unsaved = false
	var b []byte
	if news {
		b = l.m.Append(nil)
	}
	l.mu.Unlock()
	if !news {
		return
	}
	if err := writeRemembered(c.state, hellosName, b); err != nil {
		c.cfg.Logger.Warn("what hellos worked is not remembered", "error", err)
		l.mu.Lock()
		l.unsaved = true // the next time, news or not
		l.mu.Unlock()
	}
}
