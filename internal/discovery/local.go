package discovery

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
)

// What is heard is bounded: a network may be hostile, or have thousands of clients.
const (
	heardPerMinute     = 10   // datagrams of one address
	heardPerMinuteAll  = 3000 // of all of them
	maxHeardAddrs      = 1024
	heardWindow        = time.Minute
	readErrorsInARow   = 100
	pauseAfterReadFail = 50 * time.Millisecond
)

// Endpoint is a way to a group: datagrams come in by Receive and go out by Send to Group. Both are closed with the [Local] that has them; they may be one.
type Endpoint struct {
	Receive, Send net.PacketConn
	Group         netip.AddrPort
}

// Config is what a [Local] needs. It is copied.
type Config struct {
	// Port is where we listen for peers; it must not be 0.
	Port uint16
	// OnPeer is called for each torrent of ours that another host has announced, from one goroutine at a time for each endpoint. It must not block for long, nor call Close.
	OnPeer func(h bt.InfoHash, addr netip.AddrPort)
	// Endpoints are used as they are, for tests and for networks with groups of their own; none means those of [Open].
	Endpoints []Endpoint
	// Networks are those whose hosts count as local beside private and link-local addresses; nil means those of this host's interfaces.
	Networks []netip.Prefix
	// Log gets what goes wrong; nil means nowhere.
	Log *slog.Logger
}

// Local announces torrents on the local network and hears of those of others. Its methods are safe for concurrent use.
type Local struct {
	cfg    Config
	cookie string

	mu       sync.Mutex
	schedule Schedule
	heard    map[netip.Addr]int // datagrams in this window
	heardAll int
	window   time.Time

	wake   chan struct{}
	closed chan struct{}
	once   sync.Once
	group  sync.WaitGroup
}

// Start begins to listen. An error says that no interface of this host can do multicast, or that none of its sockets could be opened.
func Start(cfg Config) (*Local, error) {
	if cfg.Port == 0 {
		return nil, errors.New("local discovery: the port that peers are told is 0")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Endpoints == nil {
		eps, err := Open(nil)
		if err != nil {
			return nil, err
		}
		cfg.Endpoints = eps
	}
	if cfg.Networks == nil {
		cfg.Networks = networks()
	}
	l := &Local{cfg: cfg, cookie: "parley-" + rand.Text(), heard: make(map[netip.Addr]int), wake: make(chan struct{}, 1), closed: make(chan struct{})}
	for _, e := range cfg.Endpoints {
		l.group.Go(func() { l.receive(e) })
	}
	l.group.Go(l.announce)
	return l, nil
}

// Open opens both groups on the given interfaces; nil means all that are up and do multicast, loopback excepted. An interface that refuses one group is left out of it; the error says
// that all did.
func Open(interfaces []net.Interface) (eps []Endpoint, err error) {
	if interfaces == nil {
		all, err := net.Interfaces()
		if err != nil {
			return nil, fmt.Errorf("local discovery: %w", err)
		}
		for _, i := range all {
			if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagMulticast != 0 && i.Flags&net.FlagLoopback == 0 {
				interfaces = append(interfaces, i)
			}
		}
	}
	var refused []error
	for _, i := range interfaces {
		for _, open := range []func(*net.Interface) (Endpoint, error){open4, open6} {
			if e, err := open(&i); err != nil {
				refused = append(refused, fmt.Errorf("interface %s: %w", i.Name, err))
			} else {
				eps = append(eps, e)
			}
		}
	}
	if len(eps) == 0 {
		return nil, fmt.Errorf("local discovery: no interface can do multicast: %w", errors.Join(refused...))
	}
	return eps, nil
}

// open4 sends from a socket of its own, bound to the interface's address: a listening one keeps what it sends from other programs of this host.
func open4(i *net.Interface) (Endpoint, error) {
	own, err := addressOf(i, netip.Addr.Is4)
	if err != nil {
		return Endpoint{}, err
	}
	in, err := net.ListenMulticastUDP("udp4", i, net.UDPAddrFromAddrPort(Group4))
	if err != nil {
		return Endpoint{}, err
	}
	out, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 0)))
	if err != nil {
		return Endpoint{}, errors.Join(err, in.Close())
	}
	return Endpoint{in, out, Group4}, nil
}

// open6 names the interface by the zone of the group's address.
func open6(i *net.Interface) (Endpoint, error) {
	if _, err := addressOf(i, netip.Addr.Is6); err != nil {
		return Endpoint{}, err
	}
	in, err := net.ListenMulticastUDP("udp6", i, net.UDPAddrFromAddrPort(Group6))
	if err != nil {
		return Endpoint{}, err
	}
	out, err := net.ListenUDP("udp6", &net.UDPAddr{})
	if err != nil {
		return Endpoint{}, errors.Join(err, in.Close())
	}
	return Endpoint{in, out, netip.AddrPortFrom(Group6.Addr().WithZone(i.Name), Group6.Port())}, nil
}

func addressOf(i *net.Interface, is func(netip.Addr) bool) (netip.Addr, error) {
	addrs, err := i.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && is(ip.Unmap()) {
				return ip.Unmap(), nil
			}
		}
	}
	return netip.Addr{}, errors.New("it has no address of this family")
}

// networks returns the networks of this host's interfaces.
func networks() (all []netip.Prefix) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // then only private and link-local addresses count as local
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ones, _ := n.Mask.Size()
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ones > 0 {
				if ip.Is4In6() && ones >= 96 {
					ones -= 96
				}
				if p, err := ip.Unmap().Prefix(ones); err == nil {
					all = append(all, p)
				}
			}
		}
	}
	return all
}

// Add announces a torrent from now on, the first time within [MinGap]. It must not be private.
func (l *Local) Add(h bt.InfoHash) {
	l.mu.Lock()
	l.schedule.Add(h)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // it is awake, and will look again
	}
}

// Remove stops announcing a torrent, and hearing of it.
func (l *Local) Remove(h bt.InfoHash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.schedule.Remove(h)
}

// Has reports whether a torrent is announced.
func (l *Local) Has(h bt.InfoHash) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.schedule.Has(h)
}

// Close ends it and waits until no call of OnPeer is under way. The error is that of closing the sockets.
func (l *Local) Close() (err error) {
	l.once.Do(func() {
		close(l.closed)
		for _, e := range l.cfg.Endpoints {
			err = errors.Join(err, e.Receive.Close())
			if e.Send != e.Receive {
				err = errors.Join(err, e.Send.Close())
			}
		}
	})
	l.group.Wait()
	return err
}

// announce sends what is due until the end.
func (l *Local) announce() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.mu.Lock()
		now := time.Now()
		hashes := l.schedule.Next(now)
		at, some := l.schedule.At()
		l.mu.Unlock()
		if len(hashes) > 0 {
			for _, e := range l.cfg.Endpoints {
				b := AppendSearch(nil, e.Group, Search{Port: l.cfg.Port, InfoHashes: hashes, Cookie: l.cookie})
				if _, err := e.Send.WriteTo(b, net.UDPAddrFromAddrPort(e.Group)); err != nil && !errors.Is(err, net.ErrClosed) {
					l.cfg.Log.Debug("local discovery: a group was not told", "group", e.Group, "error", err) // networks come and go
				}
			}
		}
		wait := Interval
		if some {
			wait = max(0, time.Until(at))
		}
		timer.Reset(wait)
		select {
		case <-l.closed:
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// receive hears what others announce until the socket is closed, or does nothing but fail.
func (l *Local) receive(e Endpoint) {
	b := make([]byte, MaxDatagram+1) // one more, so that a longer one is recognised
	for failed := 0; ; {
		n, from, err := e.Receive.ReadFrom(b)
		if err != nil {
			if failed++; errors.Is(err, net.ErrClosed) || failed > readErrorsInARow {
				select {
				case <-l.closed:
				default:
					l.cfg.Log.Warn("local discovery: a group is not heard any more", "group", e.Group, "error", err)
				}
				return
			}
			select {
			case <-l.closed:
				return
			case <-time.After(pauseAfterReadFail):
			}
			continue
		}
		failed = 0
		if u, ok := from.(*net.UDPAddr); ok {
			l.hear(time.Now(), b[:n], u.AddrPort().Addr().Unmap())
		}
	}
}

// hear takes one datagram.
func (l *Local) hear(now time.Time, b []byte, from netip.Addr) {
	if !l.local(from) || !l.mayHear(now, from) {
		return
	}
	s, err := ParseSearch(b)
	if err != nil || s.Cookie == l.cookie {
		return
	}
	for _, h := range s.InfoHashes {
		if l.Has(h) {
			l.cfg.OnPeer(h, netip.AddrPortFrom(from, s.Port))
		}
	}
}

// local reports whether from is of this network: anybody can send a datagram to the port, and claim any address.
func (l *Local) local(from netip.Addr) bool {
	c := netpolicy.ClassOf(from)
	return c != netpolicy.Unusable && c < netpolicy.Global || slices.ContainsFunc(l.cfg.Networks, func(p netip.Prefix) bool { return p.Contains(from.WithZone("")) })
}

// mayHear counts a datagram and reports whether its sender has not had its share.
func (l *Local) mayHear(now time.Time, from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.window) >= heardWindow {
		l.window, l.heardAll = now, 0
		clear(l.heard)
	}
	n, known := l.heard[from]
	if n >= heardPerMinute || l.heardAll >= heardPerMinuteAll || !known && len(l.heard) >= maxHeardAddrs {
		return false
	}
	l.heard[from]++
	l.heardAll++
	return true
}
