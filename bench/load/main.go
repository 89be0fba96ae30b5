// Command load is the far side of the idle and handshake benchmarks: many small peers in one process of its own, so that
// neither its memory nor its descriptors count against the peer that is measured.
//
//	load idle -addr HOST:PORT -infohash HEX -n 5000 -pieces 1024
//	load hs   -addr HOST:PORT -infohash HEX -n 20000
//	load hot  -addr HOST:PORT -infohash HEX -n 200 -parallel 200 -bytes 16777216 -piece-bytes 262144
//
// Both speak plaintext hellos (BEP 3) with the extension protocol bit (BEP 10) from distinct addresses in 127/8, print READY, and end
// when standard input does. Each line "go" on standard input is answered once:
//
//   - idle opens n connections, and answers "UP n" when each of them has sent its hello, extended handshake and bitfield, and
//     has received the other's hello and something behind it. Then they are silent but for a keep-alive each minute. A line "alive" is answered
//     with "ALIVE n", the number of connections still open.
//   - hs connects, exchanges hellos and closes, n times, several at once, and answers "DONE n seconds cpu_seconds".
//   - hot fetches the whole content n times at once, each peer in an order of its own, throws it away, and answers "DONE n first last", the
//     seconds until the first and the last peer had everything.
//
// "ERR text" reports what went wrong.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-bt/parley/bench/internal/usage"
)

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Println("ERR", err)
		os.Exit(1)
	}
}

type load struct {
	target            *net.TCPAddr
	infoHash          []byte
	n                 int
	parallel          int
	pieces            int
	bytes, pieceBytes int64
	hellos            int // sent so far, which numbers the peers

	mu    sync.Mutex
	conns []*net.TCPConn
	alive atomic.Int64
}

func run(args []string, in io.Reader) error {
	if len(args) == 0 || args[0] != "idle" && args[0] != "hs" && args[0] != "hot" {
		return fmt.Errorf("want idle, hs or hot as the first argument")
	}
	mode := args[0]
	fs := flag.NewFlagSet(mode, flag.ContinueOnError)
	addr := fs.String("addr", "", "`HOST:PORT` of the peer under load")
	ih := fs.String("infohash", "", "info-hash in hexadecimal")
	var l load
	fs.IntVar(&l.n, "n", 1000, "connections")
	fs.IntVar(&l.parallel, "parallel", 8, "connections being set up at once")
	fs.IntVar(&l.pieces, "pieces", 1024, "pieces of the torrent, for the bitfield of idle peers")
	fs.Int64Var(&l.bytes, "bytes", 0, "length of the torrent, for hot")
	fs.Int64Var(&l.pieceBytes, "piece-bytes", 256<<10, "length of a piece, for hot")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if mode == "hot" && (l.bytes < 1 || l.pieceBytes < block || l.pieceBytes%block != 0) {
		return fmt.Errorf("-bytes %d -piece-bytes %d: want at least one byte, and pieces of whole blocks", l.bytes, l.pieceBytes)
	}
	var err error
	if l.target, err = net.ResolveTCPAddr("tcp4", *addr); err != nil {
		return err
	}
	if !l.target.IP.IsLoopback() {
		return fmt.Errorf("-addr %s: only loopback peers are put under load", *addr)
	}
	if l.infoHash, err = hex.DecodeString(*ih); err != nil || len(l.infoHash) != 20 {
		return fmt.Errorf("-infohash %q: want 40 hexadecimal digits", *ih)
	}
	fmt.Println("READY")
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		switch {
		case lines.Text() == "go" && mode == "idle":
			if err := l.idle(); err != nil {
				return err
			}
		case lines.Text() == "go" && mode == "hot":
			if err := l.hot(); err != nil {
				return err
			}
		case lines.Text() == "go":
			if err := l.hellosAndCloses(); err != nil {
				return err
			}
		case lines.Text() == "alive":
			fmt.Println("ALIVE", l.alive.Load())
		}
	}
	return lines.Err()
}

// each calls f for l.n new peer numbers, l.parallel at once, and returns the first error.
func (l *load) each(f func(i int) error) error {
	work := make(chan int)
	errs := make(chan error, l.parallel)
	var wg sync.WaitGroup
	for range l.parallel {
		wg.Go(func() {
			for i := range work {
				if err := f(i); err != nil {
					errs <- fmt.Errorf("peer %d: %w", i, err)
					return
				}
			}
		})
	}
	failed := func() error {
		defer close(work)
		for range l.n {
			select {
			case work <- l.hellos:
				l.hellos++
			case err := <-errs:
				return err
			}
		}
		return nil
	}()
	wg.Wait()
	if failed != nil {
		return failed
	}
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// dial connects from an address of its own in 127.net/16 and exchanges hellos.
func (l *load) dial(network byte, i int) (*net.TCPConn, error) {
	src := &net.TCPAddr{IP: net.IPv4(127, network, byte(i/250%250+1), byte(i%250+1))}
	c, err := net.DialTCP("tcp4", src, l.target)
	if err != nil {
		return nil, err
	}
	hello := make([]byte, 0, 68)
	hello = append(hello, "\x13BitTorrent protocol\x00\x00\x00\x00\x00\x10\x00\x00"...)
	hello = append(hello, l.infoHash...)
	hello = append(hello, "-LD0001-"...)
	hello = binary.BigEndian.AppendUint32(hello, uint32(os.Getpid()))
	hello = binary.BigEndian.AppendUint64(hello, uint64(i))
	var theirs [68]byte
	if err = c.SetDeadline(time.Now().Add(20 * time.Second)); err == nil {
		if _, err = c.Write(hello); err == nil {
			_, err = io.ReadFull(c, theirs[:])
		}
	}
	if err == nil && string(theirs[28:48]) != string(l.infoHash) {
		err = fmt.Errorf("the other hello has info-hash %x", theirs[28:48])
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("hello: %w", err)
	}
	return c, nil
}

// hellosAndCloses is one round of mode hs.
func (l *load) hellosAndCloses() error {
	cpu, start := usage.CPU(), time.Now()
	err := l.each(func(i int) error {
		c, err := l.dial(2, i)
		if err != nil {
			return err
		}
		// A reset leaves no TIME_WAIT socket behind, which would slow the rounds that follow.
		if err := c.SetLinger(0); err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		return err
	}
	fmt.Printf("DONE %d %.6f %.6f\n", l.n, time.Since(start).Seconds(), (usage.CPU() - cpu).Seconds())
	return nil
}

// idle is one round of mode idle.
func (l *load) idle() error {
	err := l.each(func(i int) error {
		c, err := l.dial(1, i)
		if err != nil {
			return err
		}
		if _, err := c.Write(append([]byte("\x00\x00\x00\x09\x14\x00d1:mdee"), l.bitfield(i)...)); err != nil {
			return err
		}
		buf := make([]byte, 512)
		if _, err := c.Read(buf); err != nil { // its extended handshake or bitfield
			return fmt.Errorf("after the hello: %w", err)
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			return err
		}
		l.mu.Lock()
		l.conns = append(l.conns, c)
		l.mu.Unlock()
		l.alive.Add(1)
		go func() { // ends with the connection, which ends with the process
			defer l.alive.Add(-1)
			defer c.Close()
			io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buf)
		}()
		return nil
	})
	if err != nil {
		return err
	}
	if len(l.conns) == l.n {
		go l.keepAlive()
	}
	fmt.Println("UP", l.alive.Load())
	return nil
}

// bitfield returns a bitfield message in which peer i has a random half of the pieces.
func (l *load) bitfield(i int) []byte {
	rng := rand.New(rand.NewPCG(1, uint64(i)))
	b := make([]byte, 5+(l.pieces+7)/8)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	b[4] = 5
	for p := range l.pieces {
		if rng.IntN(2) == 0 {
			b[5+p/8] |= 0x80 >> (p % 8)
		}
	}
	return b
}

// keepAlive writes a keep-alive on every connection each minute, until the process ends. A connection that takes none is noticed by its
// reader.
func (l *load) keepAlive() {
	for range time.Tick(time.Minute) {
		l.mu.Lock()
		for _, c := range l.conns {
			c.Write([]byte{0, 0, 0, 0})
		}
		l.mu.Unlock()
	}
}
