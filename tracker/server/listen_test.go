package server

import (
	"context"
	"errors"
	"net"
	"testing"
)

// Both protocols are on one port, and end together.
func TestRun(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.udp.LocalAddr().(*net.UDPAddr).AddrPort(); got.Port() != l.Addr().Port() || !l.UDP() {
		t.Errorf("UDP at %v, HTTP at %v", got, l.Addr())
	}
	if _, err := Listen(l.Addr().String()); err == nil {
		t.Error("a port that is taken is opened")
	} else if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "listen" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(Config{}).Run(ctx, l) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	// A socket that fails takes the other with it.
	if l, err = Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := l.udp.Close(); err != nil {
		t.Fatal(err)
	}
	if err := New(Config{}).Run(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}

	// A port whose UDP side is taken is refused if it was asked for.
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := Listen(c.LocalAddr().String()); err == nil {
		t.Error("half a tracker is opened")
	}
	h, err := ListenHTTP(c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	if h.UDP() {
		t.Error("UDP")
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}
