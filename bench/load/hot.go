package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	block = 16 << 10
	depth = 64 // requests on their way for each peer
)

// hot is one round of mode hot.
func (l *load) hot() error {
	var mu sync.Mutex
	var first, last time.Duration
	var connected, done sync.WaitGroup
	connected.Add(l.n)
	done.Add(l.n)
	start := time.Now()
	err := l.each(func(i int) error {
		c, err := l.dial(3, i)
		connected.Done()
		if err != nil {
			done.Done()
			return err
		}
		defer c.Close()
		connected.Wait() // all are there before anybody begins: the target holds as many peers as it says
		err = l.fetch(c, i)
		took := time.Since(start)
		mu.Lock()
		if first == 0 {
			first = took
		}
		last = took
		mu.Unlock()
		done.Done()
		done.Wait() // and nobody leaves before the last has everything
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("DONE %d %.6f %.6f\n", l.n, first.Seconds(), last.Seconds())
	return nil
}

// fetch asks one connection for every block, and counts what comes.
func (l *load) fetch(c *net.TCPConn, i int) error {
	if err := c.SetDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("\x00\x00\x00\x09\x14\x00d1:mdee\x00\x00\x00\x01\x02")); err != nil { // exchange, interested
		return err
	}
	pieces := int((l.bytes + l.pieceBytes - 1) / l.pieceBytes)
	order := rand.New(rand.NewPCG(2, uint64(i))).Perm(pieces)
	var asked, got int64
	at := 0
	requests := func(n int, b []byte) []byte {
		for ; n > 0 && len(order) > 0; n-- {
			piece := int64(order[0])
			size := min(l.pieceBytes, l.bytes-piece*l.pieceBytes)
			length := min(block, size-int64(at))
			b = binary.BigEndian.AppendUint32(b, 13)
			b = append(b, 6)
			b = binary.BigEndian.AppendUint32(b, uint32(piece))
			b = binary.BigEndian.AppendUint32(b, uint32(at))
			b = binary.BigEndian.AppendUint32(b, uint32(length))
			asked += length
			if at += int(length); int64(at) >= size {
				order, at = order[1:], 0
			}
		}
		return b
	}
	r := bufio.NewReaderSize(c, 4<<10)
	var head [5]byte
	var out []byte
	unchoked := false
	for got < l.bytes {
		if _, err := io.ReadFull(r, head[:4]); err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", got, l.bytes, err)
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if n == 0 {
			continue
		}
		id, err := r.ReadByte()
		if err != nil {
			return err
		}
		if _, err := r.Discard(n - 1); err != nil {
			return err
		}
		switch {
		case id == 1 && !unchoked:
			unchoked = true
			out = requests(depth, out[:0])
		case id == 0:
			return fmt.Errorf("choked after %d of %d bytes", got, l.bytes)
		case id == 7 && n > 9:
			got += int64(n - 9)
			out = requests(1, out)
		default:
			continue
		}
		// Requests go out together once what has arrived is used up, or many wait.
		if len(out) > 0 && (r.Buffered() == 0 || len(out) >= 16*17 || got == l.bytes) {
			if _, err := c.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	return nil
}
