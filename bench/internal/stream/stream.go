// Package stream is the message benchmark over a plain byte stream, for raw TCP and for libp2p: messages one behind another, each behind its
// length in four bytes. It decides how messages get onto a stream and off it; what makes streams is a [Transport].
package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/parley-bt/parley/bench/internal/usage"
)

// Transport makes streams.
type Transport interface {
	// Listen returns where streams are accepted, in one word that the other end's Dial understands, and what waits for the next one.
	Listen() (addr string, accept func() (io.ReadWriter, error), err error)
	Dial(addr string) (io.ReadWriter, error)
}

const (
	// headBytes is the length before each message.
	headBytes = 4
	// largeBytes is the size from which on a receiver reads a message straight into place.
	largeBytes = 64 << 10
	// readBuffer and writeBuffer are for messages that do not go by themselves.
	readBuffer, writeBuffer = 256 << 10, 64 << 10
)

type end struct {
	transport    Transport
	collectBelow int
	n            int64
	size         int
}

// Main is a program that is one end of the benchmark, driven over its standard streams like the peers beside it (see bench/peer):
//
//	recv   -n N -size BYTES    receives N messages
//	send   -n N -size BYTES    sends N messages
//	answer -n N -size BYTES    answers N requests by as many bytes
//	ask    -n N -size BYTES    makes N requests, one after the other
//
// A sender collects messages smaller than collectBelow in a buffer of 64 KiB and writes each of the others at once. Main returns when in ends.
func Main(args []string, in io.Reader, t Transport, collectBelow int) error {
	if len(args) == 0 {
		return errors.New("want recv, send, answer or ask as the first argument")
	}
	e := &end{transport: t, collectBelow: collectBelow}
	modes := map[string]func(io.ReadWriter) error{"recv": e.receive, "send": e.send, "answer": e.answer, "ask": e.ask}
	mode := modes[args[0]]
	if mode == nil {
		return fmt.Errorf("%q: want recv, send, answer or ask", args[0])
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.Int64Var(&e.n, "n", 1, "messages")
	fs.IntVar(&e.size, "size", 64, "bytes of a message")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if e.n < 1 || e.size < 1 {
		return errors.New("-n and -size are at least 1")
	}
	dial := make(chan string, 1)
	ended, done := make(chan error, 1), make(chan error, 1)
	go func() { ended <- commands(in, dial) }()                                      // ends with in, or with the process
	go func() { done <- e.run(args[0] == "send" || args[0] == "ask", dial, mode) }() // ends with its messages, or with the process
	for {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			done = nil // it has reported; what is left is to wait for the end
		case err := <-ended:
			return err
		}
	}
}

// commands reads lines until there are no more.
func commands(in io.Reader, dial chan<- string) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		addr, ok := strings.CutPrefix(lines.Text(), "go ")
		if !ok {
			return fmt.Errorf("unknown command %q", lines.Text())
		}
		dial <- addr
	}
	return lines.Err()
}

// run makes the one stream and uses it.
func (e *end) run(dials bool, dial <-chan string, mode func(io.ReadWriter) error) error {
	if dials {
		fmt.Println("READY -")
		s, err := e.transport.Dial(<-dial)
		if err != nil {
			return err
		}
		return mode(s)
	}
	addr, accept, err := e.transport.Listen()
	if err != nil {
		return err
	}
	fmt.Println("READY", addr)
	s, err := accept()
	if err != nil {
		return err
	}
	return mode(s)
}

// incoming reads whole messages, all into the same memory.
type incoming struct {
	r       io.Reader
	head    [headBytes]byte
	payload []byte
}

func newIncoming(r io.Reader, size int) *incoming {
	if size < largeBytes {
		r = bufio.NewReaderSize(r, readBuffer)
	}
	return &incoming{r: r, payload: make([]byte, size)}
}

// next reads one message, which has the one size that all have.
func (in *incoming) next() error {
	if _, err := io.ReadFull(in.r, in.head[:]); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint32(in.head[:]); int64(n) != int64(len(in.payload)) {
		return fmt.Errorf("a message of %d bytes, want %d", n, len(in.payload))
	}
	_, err := io.ReadFull(in.r, in.payload)
	return err
}

// frame returns a message of size bytes behind its length.
func frame(size int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...)
}

func (e *end) receive(s io.ReadWriter) error {
	in := newIncoming(s, e.size)
	var m usage.Meter
	for i := range e.n {
		if err := in.next(); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if i == 0 {
			m = usage.StartMeter()
		}
	}
	m.Report("RECV")
	_, err := s.Write([]byte{1}) // the acknowledgement
	return err
}

func (e *end) send(s io.ReadWriter) error {
	var w io.Writer = s
	flush := func() error { return nil }
	if e.size < e.collectBelow {
		buffered := bufio.NewWriterSize(s, writeBuffer)
		w, flush = buffered, buffered.Flush
	}
	message := frame(e.size)
	ack := make([]byte, 1)
	m := usage.StartMeter()
	for i := range e.n {
		if _, err := w.Write(message); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if _, err := io.ReadFull(s, ack); err != nil {
		return fmt.Errorf("acknowledgement: %w", err)
	}
	m.Report("SEND")
	return nil
}

func (e *end) answer(s io.ReadWriter) error {
	in, answer := newIncoming(s, e.size), frame(e.size)
	var m usage.Meter
	for i := range e.n {
		if err := in.next(); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if i == 0 {
			m = usage.StartMeter()
		}
		if _, err := s.Write(answer); err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
	}
	m.Report("ANSWERED")
	return nil
}

func (e *end) ask(s io.ReadWriter) error {
	in, request := newIncoming(s, e.size), frame(e.size)
	m := usage.StartMeter()
	for i := range e.n {
		if _, err := s.Write(request); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if err := in.next(); err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
	}
	m.Report("ASKED")
	return nil
}
