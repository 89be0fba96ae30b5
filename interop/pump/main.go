//go:build linux

// Command pump is a peer on Parley's public API for the message tests: it shares one file, sends and receives the messages
// of package sequence under one type, and reports what it measured as JSON lines. It ends when its standard input does.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/interop/sequence"
)

func main() {
	var o options
	flag.StringVar(&o.share, "share", "", "file to share")
	flag.StringVar(&o.typeName, "type", "", "message type")
	flag.StringVar(&o.peer, "peer", "", "address to dial")
	flag.IntVar(&o.send, "send", 0, "how many messages to send to the first peer that shares the type")
	flag.IntVar(&o.recv, "recv", 0, "how many messages to wait for")
	flag.IntVar(&o.pauseAfter, "pause-after", 0, "let the handler wait once, at this message")
	flag.DurationVar(&o.pause, "pause", 0, "for how long")
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		if err != nil {
			fmt.Fprintln(os.Stderr, "pump: standard input:", err)
		}
		cancel()
	}()
	if err := run(ctx, o); err != nil && !errors.Is(err, context.Canceled) {
		emit("error", fields{"message": err.Error()})
		os.Exit(1)
	}
}

type options struct {
	share, typeName, peer  string
	send, recv, pauseAfter int
	pause                  time.Duration
}

type fields map[string]any

var (
	started = time.Now()
	printMu sync.Mutex
)

func emit(event string, f fields) {
	line := fields{"event": event, "ms": time.Since(started).Milliseconds()}
	maps.Copy(line, f)
	b, err := json.Marshal(line)
	if err != nil {
		panic(err) // only strings and numbers are passed in
	}
	printMu.Lock()
	defer printMu.Unlock()
	fmt.Printf("%s\n", b)
}

func run(ctx context.Context, o options) (err error) {
	c, err := parley.NewClient(parley.Config{ListenAddr: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	var topt parley.TorrentOptions
	if o.peer != "" {
		a, err := netip.ParseAddrPort(o.peer)
		if err != nil {
			return fmt.Errorf("-peer: %w", err)
		}
		topt.Peers = []netip.AddrPort{a}
	}
	t, err := c.Share(ctx, o.share, topt)
	if err != nil {
		return err
	}
	got := newReceiver(o)
	events := t.Events(ctx)
	ty, err := t.Register(parley.MessageType{Name: o.typeName, Handler: got.handle})
	if err != nil {
		return err
	}
	emit("listening", fields{"addr": c.Addr().String(), "infohash": t.InfoHash().String(), "rss": memory("VmRSS")})

	sent := false
	for ev := range events {
		switch ev.Kind {
		case parley.EventPeerConnected, parley.EventPeerTypes:
			if o.send > 0 && !sent && ev.Peer.Shares(o.typeName) {
				sent = true
				go func() {
					if err := sendAll(ctx, ty, ev.Peer, o.send); err != nil {
						emit("error", fields{"message": "send: " + err.Error()})
					}
				}()
			}
		case parley.EventPeerDisconnected:
			emit("disconnected", fields{"error": fmt.Sprint(ev.Err)})
		}
	}
	return ctx.Err()
}

// sendAll sends the sequence, one Send call per message, and reports how long the longest of them waited: proof that a
// reader that stops is felt here.
func sendAll(ctx context.Context, ty *parley.Type, p parley.Peer, n int) error {
	var inFlight atomic.Int64
	stop := make(chan struct{})
	defer close(stop)
	go func() { // how far the sends have come, for the test to see while one of them waits
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				emit("sending", fields{"bytes": inFlight.Load()})
			}
		}
	}()
	sum := sequence.NewSum()
	buf := make([]byte, 0, sequence.MaxBytes+4)
	var longest time.Duration
	for i := range n {
		msg := sequence.Append(buf, sequence.FromParley, uint32(i))
		from := time.Now()
		if err := ty.Send(ctx, p, msg); err != nil {
			return fmt.Errorf("message %d of %d: %w", i, n, err)
		}
		longest = max(longest, time.Since(from))
		sum.Add(msg)
		inFlight.Add(int64(len(msg)))
		clear(msg) // Send copies: whoever kept the slice would send zeros
	}
	if err := p.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	emit("sent", fields{"count": sum.Count, "bytes": sum.Bytes, "sha256": sum.Hex(), "longest_wait_ms": longest.Milliseconds(),
		"rss": memory("VmHWM")})
	return nil
}

type receiver struct {
	o   options
	sum *sequence.Sum // handlers of one type and peer run one after the other
}

func newReceiver(o options) *receiver { return &receiver{o: o, sum: sequence.NewSum()} }

func (r *receiver) handle(ctx context.Context, m *parley.Message) error {
	r.sum.Add(m.Payload)
	switch {
	case r.o.pauseAfter > 0 && r.sum.Count == r.o.pauseAfter:
		emit("paused", fields{"received": r.sum.Count, "bytes": r.sum.Bytes, "rss": memory("VmRSS")})
		select {
		case <-time.After(r.o.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		emit("resumed", fields{"received": r.sum.Count, "bytes": r.sum.Bytes, "rss": memory("VmRSS")})
	case r.sum.Count == r.o.recv:
		emit("received", fields{"count": r.sum.Count, "bytes": r.sum.Bytes, "sha256": r.sum.Hex(), "rss": memory("VmHWM")})
	case r.o.recv > 0 && r.sum.Count > r.o.recv:
		emit("error", fields{"message": "more messages than expected: " + strconv.Itoa(r.sum.Count)})
	}
	return nil
}

// memory returns one of the kernel's figures about this process in bytes: VmRSS now, VmHWM at its peak.
func memory(name string) int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		emit("error", fields{"message": err.Error()})
		return 0
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			kib, err := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(v), []byte(" kB"))), 10, 64)
			if err != nil {
				emit("error", fields{"message": err.Error()})
			}
			return kib << 10
		}
	}
	emit("error", fields{"message": "/proc/self/status has no " + name})
	return 0
}
