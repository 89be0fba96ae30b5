package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Listeners are the sockets of a tracker: HTTP and UDP on one port number.
type Listeners struct {
	tcp net.Listener
	udp *net.UDPConn
}

// maxPortTries is how many free ports are tried for one that is free for both protocols.
const maxPortTries = 50

// Listen opens both sockets at addr, as host:port; port 0 takes one that is free for both. The error wraps the one of package net.
func Listen(addr string) (*Listeners, error) { return listen(addr, true) }

// ListenHTTP opens the socket for HTTP alone.
func ListenHTTP(addr string) (*Listeners, error) { return listen(addr, false) }

func listen(addr string, udp bool) (*Listeners, error) {
	for try := 1; ; try++ {
		tcp, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listening for announces: %w", err)
		}
		at := tcp.Addr().(*net.TCPAddr)
		if !udp {
			return &Listeners{tcp: tcp}, nil
		}
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
		if err == nil {
			return &Listeners{tcp, conn}, nil
		}
		err = errors.Join(err, tcp.Close())
		_, port, splitErr := net.SplitHostPort(addr)
		if splitErr != nil || port != "0" && port != "" || try == maxPortTries {
			return nil, fmt.Errorf("listening for announces: %w", err)
		}
	}
}

// Addr returns where the sockets listen.
func (l *Listeners) Addr() netip.AddrPort {
	ap := l.tcp.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// UDP reports whether there is a socket for UDP.
func (l *Listeners) UDP() bool { return l.udp != nil }

// Close closes sockets that no [Server.Run] has closed.
func (l *Listeners) Close() error {
	err := l.tcp.Close()
	if l.udp != nil {
		err = errors.Join(err, l.udp.Close())
	}
	return err
}

// Run serves on l until ctx is done, then closes it and returns nil. If one of the two protocols ends before that, so does the other, with its error.
func (s *Server) Run(ctx context.Context, l *Listeners) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var httpErr, udpErr error
	wg.Go(func() {
		defer cancel()
		httpErr = s.Serve(ctx, l.tcp)
	})
	if l.udp != nil {
		wg.Go(func() {
			defer cancel()
			udpErr = s.ServeUDP(ctx, l.udp)
		})
	}
	wg.Wait()
	return errors.Join(httpErr, udpErr)
}
