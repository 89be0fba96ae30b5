//go:build !unix

package main

import "os"

const statsSignalHelp = ""

// statsSignal: no signal of this system asks what the program does; --stats does.
func statsSignal() (asked <-chan os.Signal, stop func()) { return nil, func() {} }
