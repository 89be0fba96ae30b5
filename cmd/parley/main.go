// Command parley shares and fetches torrents, and carries typed messages between the peers of a swarm. It decides how command lines
// become calls of package parley, what is printed where, and the exit codes; everything else is the library's.
// Results go to standard output, progress, notices and logs to standard error. Text that came from peers, torrents or
// magnet links passes through package term before it is printed.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// stopGrace bounds how long the program lives after the first signal: whatever hangs then (a stopped terminal, a
// network file system) must not keep it from ending within the promised 2 s.
const stopGrace = 1900 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		stop() // a second signal kills at once, as without a handler
		time.AfterFunc(stopGrace, func() { os.Exit(exitInterrupted) })
	})
	os.Exit(run(ctx, os.Args[1:], osStdio()))
}
