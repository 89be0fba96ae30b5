//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

const statsSignalHelp = "\nThe signal SIGUSR1 has it print what it has done so far."

// statsSignal returns a channel that is sent to when somebody asks what the program does.
func statsSignal() (asked <-chan os.Signal, stop func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	return ch, func() { signal.Stop(ch) }
}
