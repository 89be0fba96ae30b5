package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/parley-bt/parley"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
)

// The exit codes; exitCodes says what they mean.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInput       = 3
	exitTorrent     = 4
	exitListen      = 5
	exitStorage     = 6
	exitTimeout     = 7
	exitInterrupted = 130
)

// exitCodes is the one table of exit codes, printed by "parley help exit-codes" and in the man page.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitFailure, "failed for a reason without a code of its own; the error says which"},
	{exitUsage, "wrong usage: an unknown command or flag, a bad value, a missing --peer"},
	{exitInput, "a path or torrent that was named does not exist or cannot be read"},
	{exitTorrent, "not a valid .torrent or magnet link, or content that does not match its torrent"},
	{exitListen, "cannot listen on the address given, for instance because the port is busy"},
	{exitStorage, "cannot write: disk full, read-only, no permission, or a file of the user's is in the way"},
	{exitTimeout, "the time of --timeout has passed: no peer took the message, or the download is incomplete"},
	{exitInterrupted, "ended by Ctrl-C or a termination signal, which is how seed and listen end"},
}

// exitCodeText returns the table as indented lines.
func exitCodeText() string {
	var b strings.Builder
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.meaning)
	}
	return b.String()
}

// A cmdError is an error whose exit code is known where it arises.
type cmdError struct {
	code int
	err  error  // what and where
	hint string // what to do next; may be empty
}

func (e *cmdError) Error() string { return e.err.Error() }
func (e *cmdError) Unwrap() error { return e.err }

// failf makes a cmdError; the format is that of fmt.Errorf.
func failf(code int, hint, format string, args ...any) error {
	return &cmdError{code: code, err: fmt.Errorf(format, args...), hint: hint}
}

// classify is the one place that finds the exit code of an error, and a hint what to do next.
func classify(err error) (code int, hint string) {
	if ce, ok := errors.AsType[*cmdError](err); ok {
		return ce.code, ce.hint
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "listen" {
		return exitListen, "choose another address with --listen, or leave it out to take a free port"
	}
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted, ""
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout, ""
	case errors.Is(err, storage.ErrConflict):
		return exitStorage, "" // its text names the way out
	case isDiskFull(err):
		return exitStorage, "make room and run the same command again; what was verified is kept"
	case isReadOnly(err), errors.Is(err, fs.ErrPermission):
		return exitStorage, "choose a folder you may write to with -o"
	case errors.Is(err, metainfo.ErrV2Only):
		return exitTorrent, "ask for a v1 or hybrid torrent of the same content"
	case errors.Is(err, parley.ErrBadTypeName):
		return exitUsage, "a --type is 1 to 64 bytes of printable text and must not be one of BitTorrent's own names (ut_…, lt_…)"
	case errors.Is(err, parley.ErrMessageTooLarge):
		return exitUsage, "send a shorter message"
	case errors.Is(err, parley.ErrTypeExists):
		return exitUsage, "name each --type once"
	}
	if _, ok := errors.AsType[*metainfo.Error](err); ok {
		return exitTorrent, ""
	}
	// What cannot be read is told by inputError, so what is left concerns files of the program's own.
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return exitStorage, "choose another folder with -o"
	}
	if _, ok := errors.AsType[*os.LinkError](err); ok {
		return exitStorage, "choose another folder with -o"
	}
	return exitFailure, ""
}
