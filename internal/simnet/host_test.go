package simnet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// The connections of a host share its rates, in each direction.
func TestHostRates(t *testing.T) {
	for name, c := range map[string]struct {
		host Host // of the one in the middle
		up   bool // it sends
		want time.Duration
	}{
		"up":                    {Host{Up: 1 << 20}, true, 4 * time.Second},
		"down":                  {Host{Down: 1 << 20}, false, 4 * time.Second},
		"up does not slow down": {Host{Up: 1 << 10}, false, time.Second},
		"down does not slow up": {Host{Down: 1 << 10}, true, time.Second},
		"unlimited":             {Host{}, true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const conns, each = 4, 1 << 20
				n := New(1, Link{Rate: 1 << 20, Latency: 10 * time.Millisecond})
				hub := netip.MustParseAddrPort("10.0.0.1:1")
				n.SetHost(hub.Addr(), c.host)
				ln, err := n.Listen(hub)
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				done := make(chan error, conns)
				began := time.Now()
				for range conns {
					far, err := n.Dial(context.Background(), netip.MustParseAddrPort("10.0.0.2:0"), hub)
					if err != nil {
						t.Fatal(err)
					}
					near, err := ln.Accept()
					if err != nil {
						t.Fatal(err)
					}
					from, to := net.Conn(far), near
					if c.up {
						from, to = near, far
					}
					go func() {
						from.Write(make([]byte, each)) // what is lost is missed at the other end
						from.Close()
					}()
					go func() {
						got, err := io.Copy(io.Discard, to)
						if err == nil && got != each {
							err = io.ErrUnexpectedEOF
						}
						to.Close()
						done <- err
					}()
				}
				for range conns {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if all := time.Since(began); all < c.want || all > c.want+200*time.Millisecond {
					t.Errorf("all took %v, want %v", all, c.want)
				}
			})
		})
	}
}
