// Command raw is the message benchmark over plain TCP: what any protocol of messages could reach on this machine. See package stream for its arguments.
package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/parley-bt/parley/bench/internal/stream"
)

// Smaller messages share writes: a pipe that made a system call for each would be slower than a protocol that does not.
const collectBelow = 16 << 10

func main() {
	if err := stream.Main(os.Args[1:], os.Stdin, tcp{}, collectBelow); err != nil {
		fmt.Println("ERR", err)
		os.Exit(1)
	}
}

type tcp struct{}

// Listen implements [stream.Transport].
func (tcp) Listen() (string, func() (io.ReadWriter, error), error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	return l.Addr().String(), func() (io.ReadWriter, error) { return l.Accept() }, nil
}

// Dial implements [stream.Transport].
func (tcp) Dial(addr string) (io.ReadWriter, error) { return net.Dial("tcp4", addr) }
