package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
	exitNoHandler   = 8
	exitRefused     = 9
	exitHandler     = 10
	exitHandlerTime = 11
	exitTooLarge    = 12
	exitBusy        = 13
	exitVersion     = 14
	exitNotAccepted = 15
	exitInterrupted = 130
)

// exitCodes is the one table of exit codes, printed by "parley help exit-codes" and in the man page.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "done; for seed, listen and tracker, and get --seed once it is complete: ended by Ctrl-C or a termination signal"},
	{exitFailure, "failed for a reason without a code of its own; the error says which"},
	{exitUsage, "wrong usage: an unknown command or flag, a bad value, a missing --peer"},
	{exitInput, "a path or torrent that was named does not exist or cannot be read, or has changed while it was served"},
	{exitTorrent, "not a valid .torrent or magnet link, or content that does not match its torrent"},
	{exitListen, "cannot listen on the address given, for instance because the port is busy"},
	{exitStorage, "cannot write: disk full, read-only, no permission, or a file of the user's is in the way"},
	{exitTimeout, "the time of --timeout or --wait has passed: no peer took the message or answered the request, fewer answers came than --answers, or the download is incomplete"},
	{exitNoHandler, "send: the peer answers no requests of the type, or does not receive the type any more"},
	{exitRefused, "send: the peer has refused the message or request"},
	{exitHandler, "send --request: the peer's handler has failed; the error has its text"},
	{exitHandlerTime, "send --request: the peer's handler has run out of time"},
	{exitTooLarge, "send: the message is larger than the peer takes, or the answer longer than --reply-max or the peer's own limit"},
	{exitBusy, "send: the peer is busy: out of memory for messages, or with too many requests; try again later"},
	{exitVersion, "send: the peer does not receive that version of the type, or has no requests since it knows only plain BEP 10 messages"},
	{exitNotAccepted, "probe: the peer cannot be reached, or accepted none of the hellos that were tried"},
	{exitInterrupted, "ended by Ctrl-C or a termination signal before it was done, or by force since it did not end in time"},
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

// typeNameRule says what --type may be, see [parley.MessageType].
const typeNameRule = "want 1 to 64 bytes of printable text, and none of BitTorrent's own names (ut_…, lt_…, BT_…, AZ_…, upload_only, emp_mux)"

// interrupted is the error of a command that ctx ended before it was done; text says what there is of its work. Other errors
// it returns as they are.
func interrupted(ctx context.Context, err error, text string) error {
	if err == nil || !errors.Is(context.Cause(ctx), context.Canceled) {
		return err // a cause of its own says more
	}
	return failf(exitInterrupted, "", "interrupted; %s", text)
}

// contentError is the error that ended the serving of content: one of reading says that the content is no longer what it was.
func contentError(err error) error {
	pe, ok := errors.AsType[*fs.PathError](err)
	if !ok || isDiskFull(err) || isReadOnly(err) || pe.Op != "read" && pe.Op != "open" {
		return err
	}
	why := pe.Err
	if errors.Is(why, io.ErrUnexpectedEOF) {
		why = errors.New("it has become shorter")
	}
	return failf(exitInput, "it has changed or gone since it was verified; put it back, or start again to share what is there now", "%s: cannot be read any more: %w", pe.Path, why)
}

// isResume reports whether a file is one in which a download remembers what is verified.
func isResume(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, ".") && strings.HasSuffix(strings.TrimSuffix(name, ".new"), ".parley-resume")
}

// isPart reports whether an error concerns a file that is being downloaded.
func isPart(err error) bool {
	pe, ok := errors.AsType[*fs.PathError](err)
	return ok && (pe.Op == "finish" || strings.HasSuffix(pe.Path, ".part"))
}

// describe returns an error as people read it: what and where, without the names of packages.
func describe(err error) string {
	if _, ok := errors.AsType[*cmdError](err); !ok {
		if ce, ok := errors.AsType[*storage.ConflictError](err); ok {
			return ce.Path + " " + ce.Reason
		}
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			if isResume(pe.Path) { // a name that means nothing to people
				return fmt.Sprintf("cannot write in %s: %v", filepath.Dir(pe.Path), pe.Err)
			}
			return pe.Error()
		}
	}
	s := err.Error()
	for _, pkg := range []string{"storage: ", "parley: "} {
		s = strings.TrimPrefix(s, pkg)
	}
	return s
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
		if ce, ok := errors.AsType[*storage.ConflictError](err); ok && (strings.HasSuffix(ce.Path, ".part") || strings.Contains(ce.Reason, "appeared")) {
			return exitStorage, "if another program downloads into this folder let it finish and try again, else move the file away, or choose another folder with -o"
		}
		return exitStorage, "it was not touched; move it away, or choose another folder with -o"
	case isDiskFull(err):
		return exitStorage, "make room and run the same command again; what was verified is kept"
	case errors.Is(err, fs.ErrNotExist) && isPart(err):
		return exitStorage, "another program has taken the file away, such as a second parley get into the same folder: see whether it is complete, or run the same command again"
	case isReadOnly(err), errors.Is(err, fs.ErrPermission):
		return exitStorage, "choose a folder you may write to with -o"
	case errors.Is(err, metainfo.ErrV2Only):
		return exitTorrent, "ask for a v1 or hybrid torrent of the same content"
	case errors.Is(err, parley.ErrBadTypeName):
		return exitUsage, typeNameRule
	case errors.Is(err, parley.ErrMessageTooLarge):
		return exitTooLarge, "send less, or in several messages; the other side takes larger ones with --max"
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
