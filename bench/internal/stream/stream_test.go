package stream

import (
	"io"
	"net"
	"strings"
	"testing"
)

// TestBothEnds lets the two ends of each pair of modes have it out over a pipe, with messages that share writes and that do not.
func TestBothEnds(t *testing.T) {
	for _, size := range []int{1, 64, largeBytes} {
		for _, collectBelow := range []int{0, 1 << 20} {
			near, far := net.Pipe()
			a := &end{collectBelow: collectBelow, n: 50, size: size}
			got := make(chan error, 1)
			go func() { got <- a.receive(near) }()
			if err := a.send(far); err != nil {
				t.Errorf("send %d: %v", size, err)
			}
			if err := <-got; err != nil {
				t.Errorf("recv %d: %v", size, err)
			}
			go func() { got <- a.answer(near) }()
			if err := a.ask(far); err != nil {
				t.Errorf("ask %d: %v", size, err)
			}
			if err := <-got; err != nil {
				t.Errorf("answer %d: %v", size, err)
			}
		}
	}
}

func TestAnotherLengthIsAnError(t *testing.T) {
	in := newIncoming(strings.NewReader("\x00\x00\x00\x03abc\x00\x00\x00\x04abcd"), 3)
	if err := in.next(); err != nil || string(in.payload) != "abc" {
		t.Errorf("%q, %v", in.payload, err)
	}
	if err := in.next(); err == nil {
		t.Error("4 bytes were taken for 3")
	}
	if err := newIncoming(strings.NewReader("\x00\x00"), 3).next(); err != io.ErrUnexpectedEOF {
		t.Errorf("cut short: %v", err)
	}
}
