package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/peer"
)

// The ports that BitTorrent clients have always used, tried in this order when none is asked for.
const firstPort, lastPort = 6881, 6889

// netFlags are the flags of every command that takes part in a swarm.
type netFlags struct {
	listen string
	peers  []string
	state  string // only where the command has the flag
	allow  []string
	noPEX  bool
	noWeb  bool             // get --no-web-seeds
	nets   []netip.Prefix   // allow, by check
	given  []netip.AddrPort // peers, by resolve
	linked []netip.AddrPort // of the link, by quietly
	find   findFlags
	rates  rateFlags // only where the command has the flags
	goal   goalFlags
	active int // seed --active
	hellos helloFlags
}

func (f *netFlags) add(cmd *cobra.Command, listenDefault string) {
	cmd.Flags().StringVar(&f.listen, "listen", "", "accept peers on `ADDR`, as host:port or :port; "+listenDefault)
	cmd.Flags().StringArrayVar(&f.peers, "peer", nil, "dial the peer at `ADDR`, as host:port; may be repeated, or hold several with commas")
	cmd.Flags().StringArrayVar(&f.allow, "allow-network", nil, "dial addresses in the network `CIDR`, such as 10.0.0.0/8, on anybody's word: by default a link, a tracker or a peer "+
		"on the internet may not name private addresses; may be repeated, or hold several with commas")
	cmd.Flags().BoolVar(&f.noPEX, "no-pex", false, "neither tell peers of each other nor dial whom they tell of (BEP 11)")
	noFiles(cmd, "listen", "peer", "allow-network")
	f.hellos.add(cmd)
	f.find.add(cmd)
}

const (
	listenStandard = "by default on all interfaces, on the first free port of 6881 to 6889, else any"
	listenAny      = "by default on all interfaces, on any free port"
)

// resolve turns the values of --peer into addresses.
func (f *netFlags) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	out, err := resolveAll(ctx, "--peer", f.peers)
	f.given = out
	return out, err
}

// resolveAll turns the values of a flag into addresses. Names may have several.
func resolveAll(ctx context.Context, flag string, values []string) ([]netip.AddrPort, error) {
	hint := flag + " wants host:port, such as 127.0.0.1:6881, [::1]:6881 or seed.example.org:6881"
	var out []netip.AddrPort
	for _, v := range splitList(values) {
		host, portText, err := net.SplitHostPort(v)
		if err != nil || host == "" {
			return nil, failf(exitUsage, hint, "%s %q: not an address with a port", flag, v)
		}
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || port == 0 {
			return nil, failf(exitUsage, hint, "%s %q: the port must be a number from 1 to 65535", flag, v)
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
				err = errors.New("no such host") // which server says so helps nobody
			}
			return nil, failf(exitFailure, "check the name, or give the IP address", "%s %q: %w", flag, v, err)
		}
		for _, a := range addrs {
			if ap := netip.AddrPortFrom(a.Unmap(), uint16(port)); !slices.Contains(out, ap) {
				out = append(out, ap)
			}
		}
	}
	return out, nil
}

// dial dials peers: those that a link names on its word, the others on the user's.
func (f *netFlags) dial(t *parley.Torrent, peers []netip.AddrPort) {
	var named []netip.AddrPort
	for _, p := range peers {
		if !slices.Contains(f.linked, p) || slices.Contains(f.given, p) {
			named = append(named, p)
		}
	}
	t.AddPeers(named...)
	t.LearnPeers(f.linked...)
}

// splitList splits the values of a repeatable flag at commas.
func splitList(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, strings.Split(v, ",")...)
	}
	return out
}

// check refuses a --listen that cannot be an address, and an --allow-network that is no network.
func (f *netFlags) check() error {
	f.nets = nil
	for _, v := range splitList(f.allow) {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return failf(exitUsage, "--allow-network wants a network with its length, such as 10.0.0.0/8 or fd00::/8", "--allow-network %q: not a network", v)
		}
		f.nets = append(f.nets, p.Masked())
	}
	if err := f.rates.check(); err != nil {
		return err
	}
	if err := f.find.check(); err != nil {
		return err
	}
	if err := f.hellos.check(); err != nil {
		return err
	}
	if f.listen == "" {
		return nil
	}
	_, portText, err := net.SplitHostPort(f.listen)
	if err == nil {
		_, err = strconv.ParseUint(portText, 10, 16)
	}
	if err != nil {
		return failf(exitUsage, "--listen wants host:port, such as 127.0.0.1:6881 or :6881; port 0 takes a free one", "--listen %q: not an address with a port", f.listen)
	}
	return nil
}

// openClient starts the client, and what finds peers for it. Without --listen it takes one of BitTorrent's usual ports if standard is set, which is for commands that
// run on until they are ended, else any.
func (a *app) openClient(ctx context.Context, standard bool) (*parley.Client, error) {
	if err := a.openDHT(ctx, standard); err != nil {
		return nil, err
	}
	c, err := a.listenClient(standard)
	if err != nil {
		if cerr := a.net.find.closeDHT(); cerr != nil {
			a.logger.Warn("closing the DHT node", "err", cerr)
		}
	}
	return c, err
}

func (a *app) listenClient(standard bool) (*parley.Client, error) {
	cfg := parley.Config{ListenAddr: a.net.listen, Logger: a.logger, StateDir: a.net.state, AllowNetworks: a.net.nets, NoPeerExchange: a.net.noPEX,
		NoTrackers: a.net.find.noTrackers, LocalDiscovery: a.net.find.lsd, NoWebSeeds: a.net.noWeb,
		MaxUploads: a.net.rates.uploads, UploadLimit: a.net.rates.upRate, DownloadLimit: a.net.rates.downRate, SeedRatio: a.net.goal.ratio, SeedTime: a.net.goal.time, MaxActiveSeeds: a.net.active}
	a.msg.configure(&cfg)
	a.net.hellos.configure(&cfg)
	if a.net.find.node != nil {
		cfg.DHT = a.net.find.node
	}
	if a.net.state != "" {
		if err := os.MkdirAll(a.net.state, 0o700); err != nil { // as the client does, but here it is known what it is about
			return nil, failf(exitStorage, "--state wants a folder that can be written to", "--state %s: %w", a.net.state, err)
		}
	}
	switch {
	case a.net.listen != "":
		c, err := parley.NewClient(cfg)
		if err != nil {
			_, hint := classify(err)
			if op, ok := errors.AsType[*net.OpError](err); ok {
				err = op.Err // the address is said already
			}
			return nil, failf(exitListen, hint, "--listen %s: %w", a.net.listen, err)
		}
		return c, nil
	case standard:
		for port := firstPort; port <= lastPort; port++ {
			cfg.ListenAddr = ":" + strconv.Itoa(port)
			c, err := parley.NewClient(cfg)
			if err == nil {
				return c, nil
			}
			a.logger.Debug("port not free", "addr", cfg.ListenAddr, "err", err)
		}
	}
	cfg.ListenAddr = ":0"
	return parley.NewClient(cfg)
}

// reachableAt returns the addresses under which others can dial a listener: itself, or, if it listens on all interfaces, the
// one for this machine and then those of its interfaces.
func reachableAt(addr netip.AddrPort) []netip.AddrPort {
	if !addr.IsValid() {
		return nil
	}
	if !addr.Addr().IsUnspecified() {
		return []netip.AddrPort{addr}
	}
	out := []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), addr.Port())}
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		return out // the address for this machine is still right
	}
	for _, ia := range ifaces {
		n, ok := ia.(*net.IPNet)
		if !ok {
			continue
		}
		// Link-local addresses need a zone that means nothing on the other machine.
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().IsGlobalUnicast() {
			if ip = ip.Unmap(); ip.Is4() || addr.Addr().Is6() {
				out = append(out, netip.AddrPortFrom(ip, addr.Port()))
			}
		}
	}
	return out
}

// errNoPeers says that a swarm cannot be entered, and how it could.
func errNoPeers(m metainfo.Magnet) error {
	const hint = "add --peer ADDR with the address of a peer that has it (parley seed prints it), --tracker URL, --dht to look in the DHT, --lsd to look on the local network, or --listen ADDR to wait for peers to come"
	if len(m.Peers) > 0 {
		list := make([]string, 0, len(m.Peers))
		for _, p := range m.Peers {
			list = append(list, safe.Clip(p, 60))
		}
		return failf(exitUsage, "if you trust the link, name them yourself: --peer "+strings.Join(list, " --peer "),
			"no peer to ask: of the peers a link names, only public IP addresses are dialled on its word, and this one names others")
	}
	return failf(exitUsage, hint, "no peer to ask, and no tracker that could name one")
}

// errNoPeersOfPrivate is errNoPeers for a torrent of which nobody may be asked but its trackers.
func errNoPeersOfPrivate() error {
	return failf(exitUsage, "add --peer ADDR with the address of a peer that has it (parley seed prints it), --tracker URL, or --listen ADDR to wait for peers to come",
		"no peer to ask, and no tracker that could name one: the torrent is private, so that nothing else is asked")
}

// quietly returns the link without the peers it names, and those of them that may be dialled on its word: who dials them after it has asked for events hears of
// every one, and who registers message types first tells every peer of them in the first exchange.
func (f *netFlags) quietly(m metainfo.Magnet) (metainfo.Magnet, []netip.AddrPort) {
	peers := parley.LinkPeers(m, f.nets...)
	m.Peers, f.linked = nil, peers
	return m, peers
}

// peerText names a peer for people: address, and client as it calls itself.
func peerText(p parley.Peer) string {
	if name := p.Info().Client; name != "" {
		return p.String() + " (" + safe.Clip(name, 60) + ")"
	}
	return p.String()
}

// A sessionLog tells people on standard error, or machines on standard output, what happens to a torrent's peers. It belongs to the
// goroutine that hands it events; only told may be read by others.
type sessionLog struct {
	ui       *ui
	infoHash func() string                   // of the torrent whose events these are
	prefix   string                          // of every note: which of several torrents it is about; escaped
	dialed   map[netip.AddrPort]dialFailures // what was told last of each address
	trackers map[string]string               // what was told last of each tracker
	sessions int                             // how many peers have connected
	hellos   *helloFlags                     // whom peers are expected to be; nil: nobody in particular
	told     atomic.Bool                     // something has been printed of some peer

	// For commands that exchange messages: what people are told of a peer's types.
	talks   bool
	types   []*parley.Type         // of this side
	offered map[parley.Peer]string // what was told last of each peer that is connected
}

func newSessionLog(u *ui, infoHash func() string) *sessionLog {
	return &sessionLog{ui: u, infoHash: infoHash, dialed: make(map[netip.AddrPort]dialFailures), trackers: make(map[string]string), offered: make(map[parley.Peer]string)}
}

// logOf is a sessionLog for the events of t.
func (a *app) logOf(t *parley.Torrent) *sessionLog {
	l := newSessionLog(a.ui, func() string { return t.InfoHash().String() })
	l.hellos = &a.net.hellos
	return l
}

// note prints a line for people.
func (l *sessionLog) note(format string, args ...any) {
	l.ui.note("%s"+format, append([]any{l.prefix}, args...)...)
}

// maxDialed bounds the addresses of which a sessionLog remembers what was told.
const maxDialed = 1024

// handle prints one event. It is called from one goroutine.
func (l *sessionLog) handle(ev parley.Event) {
	switch ev.Kind {
	case parley.EventProgress:
		return // the meter prints it, and less often
	case parley.EventPeerConnected:
		l.told.Store(true)
		l.sessions++
		delete(l.dialed, ev.Peer.Addr())
	case parley.EventDialFailed:
		// An address is dialled again and again: tell what is new.
		told, text := l.dialed[ev.Addr], dialText(ev.Err)
		if !told.add(ev.Err, text) {
			return
		}
		if len(l.dialed) >= maxDialed {
			clear(l.dialed)
		}
		l.dialed[ev.Addr] = told
		l.told.Store(true)
	}
	l.offers(ev)
	if l.ui.json {
		out := eventJSON(ev, l.infoHash())
		if e, ok := out.(peerEvent); ok && ev.Kind == parley.EventPeerTypes {
			out = typesEvent(e, ev.Peer, l.types)
		}
		l.ui.emit(out)
		if ev.Kind == parley.EventPeerConnected {
			l.checkIdentity(ev)
		}
		return
	}
	switch ev.Kind {
	case parley.EventTracker:
		l.tracker(ev)
	case parley.EventPeerConnected:
		l.note("peer %s connected%s", peerText(ev.Peer), helloText(ev.Peer))
		l.checkIdentity(ev)
	case parley.EventPeerDisconnected:
		switch {
		case ev.Err == nil:
			l.note("peer %s left", peerText(ev.Peer))
		case peer.FaultOf(ev.Err) == peer.FaultPeer:
			l.note("peer %s is left alone for some minutes: %s", peerText(ev.Peer), safe.Escape(reason(ev.Err)))
		default:
			l.note("peer %s left: %s", peerText(ev.Peer), safe.Escape(reason(ev.Err)))
		}
	case parley.EventSeedGoal:
		l.note("%s sent of %s: that was the goal", sizeText(ev.Stats.Uploaded), sizeText(ev.Stats.TotalBytes))
	case parley.EventWebSeedFailed:
		l.noteWebSeed(ev)
	case parley.EventDialFailed:
		again := "; will be tried again"
		if h, ok := errors.AsType[*parley.HelloError](ev.Err); ok && h.Next != 0 {
			again = ""
		}
		l.note("peer %s %s%s", ev.Addr, safe.Escape(dialText(ev.Err)), again)
	}
}

// offers tells people what a peer receives, when it is known and when it has changed.
func (l *sessionLog) offers(ev parley.Event) {
	switch {
	case !l.talks:
	case ev.Kind == parley.EventPeerDisconnected:
		delete(l.offered, ev.Peer)
	case ev.Kind == parley.EventPeerTypes:
		text := offersTable(ev.Peer, l.types)
		if before := l.offered[ev.Peer]; text == before {
			return
		} else if text == "" {
			text = fmt.Sprintf("peer %s receives no message type any more", ev.Peer)
			delete(l.offered, ev.Peer)
		} else {
			l.offered[ev.Peer] = text
		}
		l.note("%s", text)
	}
}

// tracker tells of a tracker what is new, its URL being secret beyond the host.
func (l *sessionLog) tracker(ev parley.Event) {
	s := ev.Tracker
	what := s.Warning
	if s.Err != nil {
		what = trackerReason(s.Err)
	}
	if before, known := l.trackers[s.URL]; before == what && (known || what == "") {
		return
	} else if what == "" {
		l.note("tracker %s answers again", s.Tracker)
	} else {
		l.note("%s", trackerText(s, ev.Time))
	}
	l.trackers[s.URL] = what // no more of them than the torrent has trackers
}

// dialFailures is what was told last of an address: of each hello that was tried there, or of dials that did not get so far, under 0.
type dialFailures [parley.HelloVeil + 1]string

// add takes in what is told of a failure, and reports whether that is news.
func (f *dialFailures) add(err error, text string) bool {
	var hello parley.Hello
	if h, ok := errors.AsType[*parley.HelloError](err); ok {
		hello = h.Hello
	}
	if f[hello] == text {
		return false
	}
	if hello == 0 {
		*f = dialFailures{}
	}
	f[0], f[hello] = "", text
	return true
}

// dialText says why a peer could not be connected: because nobody is there, or because who is there does not want to.
func dialText(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" || errors.Is(err, context.DeadlineExceeded) {
		return "cannot be reached: " + reason(err)
	}
	how := "answers, but ends the connection at once"
	if errors.Is(err, peer.ErrHandshakeTimeout) {
		how = "takes the connection, but answers nothing that it should"
	}
	if h, ok := errors.AsType[*parley.HelloError](err); ok && h.Next != 0 {
		return how + " to a " + h.Hello.String() + " hello: it may not serve this torrent, or take other hellos (" + reason(h.Err) + "); next is " + h.Next.String()
	}
	return how + ": it may not serve this torrent, or take another hello (see --hello) than those tried (" + reason(err) + ")"
}

// reason returns the text of an error of a connection without the addresses and system calls that it names besides.
func reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return "no answer in time"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if sc, ok := errors.AsType[*os.SyscallError](err); ok {
		err = sc.Err
	}
	return err.Error()
}

// follow hands a torrent's events to handle until ctx, which they were asked for with, ends or the torrent stops, and returns why.
// Whoever wants to hear of every peer asks for the events before the first address is dialled.
func follow(ctx context.Context, events iter.Seq[parley.Event], handle func(parley.Event)) error {
	for ev := range events {
		handle(ev)
		if ev.Kind == parley.EventError && ev.Err != nil {
			return contentError(ev.Err)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return parley.ErrClosed
}

// closeClient ends the client. What goes wrong with it is *err, unless something has gone wrong before.
func (a *app) closeClient(c *parley.Client, err *error) {
	switch cerr := errors.Join(c.Close(), a.net.find.closeDHT()); {
	case cerr == nil:
	case *err == nil:
		*err = fmt.Errorf("closing: %w", cerr)
	default:
		a.logger.Warn("closing", "err", cerr)
	}
}

// pasteLine is a command line for the other side, quoted for the shell of this system.
func pasteLine(words ...string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/[]=") != "" || w == "" {
			w = shellQuote(w, runtime.GOOS == "windows")
		}
		b.WriteString(w)
	}
	return b.String()
}
