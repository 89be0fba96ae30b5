// Command parley shares and fetches torrents, and carries typed messages between the peers of a swarm. It decides how command lines
// become calls of package parley, what is printed where, and the exit codes; everything else is the library's.
// Results go to standard output, progress, notices and logs to standard error. Text that came from peers, torrents or
// magnet links passes through package term before it is printed.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// stopGrace bounds how long the program lives after the first signal: whatever hangs then (a stopped terminal, a
// network file system) must not keep it from ending within the promised 2 s.
const stopGrace = 1800 * time.Millisecond

// stopNotice is when the program says that it will have to be ended so.
const stopNotice = stopGrace - 300*time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		stop() // a second signal kills at once, as without a handler
		time.AfterFunc(stopGrace, func() { os.Exit(exitInterrupted) })
		time.AfterFunc(stopNotice, func() {
			// It may be standard error that hangs: then this does too, and harms nothing.
			fmt.Fprintln(os.Stderr, "parley: will not wait any longer: something hangs, such as whoever should read the output; what is not read is lost")
		})
	})
	os.Exit(run(ctx, os.Args[1:], osStdio()))
}
