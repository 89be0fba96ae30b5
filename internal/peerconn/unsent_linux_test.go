//go:build !parley_any_unsent

package peerconn

import (
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
)

func TestSocketOutlet(t *testing.T) {
	a, b := overTCP(t)
	defer b.Close()
	o := outletOf(a).(*socketOutlet)
	control := func(f func(fd uintptr)) {
		t.Helper()
		if err := o.raw.Control(f); err != nil {
			t.Fatal(err)
		}
	}
	o.KeepUnsent(unsentBytes)
	control(func(fd uintptr) {
		if n, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, 25); n != unsentBytes || err != nil {
			t.Errorf("TCP_NOTSENT_LOWAT is %d, %v, want %d", n, err, unsentBytes)
		}
	})
	o.AwaitRoom() // there is nothing yet
	// Until the peer's window, and what may lie unsent, are full.
	filled := 0
	fill := func() {
		control(func(fd uintptr) {
			for buf := make([]byte, 64<<10); ; {
				n, err := syscall.Write(int(fd), buf)
				if err != nil {
					return
				}
				filled += n
			}
		})
		control(func(fd uintptr) {
			if writable(fd) {
				t.Error("room in a socket that takes nothing")
			}
		})
	}
	fill()
	var group sync.WaitGroup
	group.Go(o.AwaitRoom)
	if _, err := io.CopyN(io.Discard, b, int64(filled)); err != nil { // otherwise it waits for ever
		t.Fatal(err)
	}
	group.Wait()
	fill()
	group.Go(o.AwaitRoom)
	a.Close()
	group.Wait()

	x, y := net.Pipe()
	defer x.Close()
	defer y.Close()
	if o := outletOf(x); o != nil {
		t.Errorf("%T is an outlet by %T", x, o)
	}
}
