package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

// stdio is what the program reads and writes. Whether a stream is a terminal is said here, so that tests can say it too.
type stdio struct {
	in                    io.Reader
	out, err              io.Writer
	inTTY, outTTY, errTTY bool
	columns               int // how wide the terminal is that out is; 0 if it is none
}

// osStdio returns the process's own streams.
func osStdio() stdio {
	columns := 0
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		columns = width
	}
	return stdio{
		columns: columns,
		in:      os.Stdin, out: os.Stdout, err: os.Stderr,
		inTTY:  term.IsTerminal(int(os.Stdin.Fd())),
		outTTY: term.IsTerminal(int(os.Stdout.Fd())),
		errTTY: drawable(os.Stderr),
	}
}

// drawable reports whether f is a terminal on which a bar can be drawn: one that moves its cursor and knows its size.
func drawable(f *os.File) bool {
	width, height, err := term.GetSize(int(f.Fd()))
	return err == nil && width >= 20 && height >= 2 && os.Getenv("TERM") != "dumb"
}

// ui is the one way to standard output and standard error. It keeps lines whole, and above the live bar while there is
// one. Its methods are safe for concurrent use. Whoever reads standard output slowly holds up those who write results and messages, but
// not those who write notes and logs.
type ui struct {
	stdio
	json  bool                    // standard output carries JSON lines and nothing else
	quiet bool                    // --json: no notes for people on standard error
	stop  context.CancelCauseFunc // ends the command when standard output cannot be written

	outMu  sync.Mutex // held while standard output is written
	outErr error      // the first error of standard output

	errMu sync.Mutex // held while standard error or the bar is written; never taken before outMu
	bar   io.Writer  // writes above the live bar; nil while there is none
}

// say prints a line for people on standard output; nothing if that carries JSON. The caller escapes what came from strangers.
func (u *ui) say(format string, args ...any) {
	if !u.json {
		u.writeOut(fmt.Appendf(nil, format+"\n", args...))
	}
}

// note prints a line for people on standard error: what happens on the way. Nothing with --json, whose events
// tell the same. The caller escapes what came from strangers.
func (u *ui) note(format string, args ...any) {
	if !u.quiet {
		u.writeErr(fmt.Appendf(nil, format+"\n", args...))
	}
}

// event prints v as one JSON line on standard output, if it carries JSON.
func (u *ui) event(v any) {
	if u.json {
		u.emit(v)
	}
}

// emit prints v as one JSON line on standard output.
func (u *ui) emit(v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // "&" is in every magnet link
	if err := enc.Encode(v); err != nil {
		u.outMu.Lock()
		defer u.outMu.Unlock()
		u.fail(err)
		return
	}
	line := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	u.writeOut(append(safe.AppendJSON(nil, line), '\n'))
}

// writeRaw writes bytes of a file to standard output, which is no terminal. They are borrowed.
func (u *ui) writeRaw(b []byte) {
	u.outMu.Lock()
	defer u.outMu.Unlock()
	if u.outErr != nil {
		return
	}
	if _, err := u.out.Write(b); err != nil {
		u.fail(err)
	}
}

func (u *ui) writeOut(b []byte) {
	u.outMu.Lock()
	defer u.outMu.Unlock()
	if u.outErr != nil {
		return
	}
	if u.outTTY && u.writeAbove(b) {
		return // on the same terminal a line in between would tear the bar
	}
	if _, err := u.out.Write(b); err != nil {
		u.fail(err)
	}
}

// writeAbove writes above the bar, if there is one.
func (u *ui) writeAbove(b []byte) bool {
	u.errMu.Lock()
	defer u.errMu.Unlock()
	if u.bar == nil {
		return false
	}
	_, err := u.bar.Write(b)
	return err == nil
}

func (u *ui) writeErr(b []byte) {
	u.errMu.Lock()
	defer u.errMu.Unlock()
	w := u.err
	if u.bar != nil {
		w = u.bar
	}
	// Nothing can be told to anybody when standard error is gone; results and exit code still stand.
	_, _ = w.Write(b)
}

// fail records the first error of standard output and ends the command. outMu must be held.
func (u *ui) fail(err error) {
	if u.outErr == nil {
		u.outErr = fmt.Errorf("standard output: %w", err)
		u.stop(u.outErr)
	}
}

// failed returns the error that standard output ran into, nil if none.
func (u *ui) failed() error {
	u.outMu.Lock()
	defer u.outMu.Unlock()
	return u.outErr
}

// report prints an error and what to do next.
func (u *ui) report(err error, code int, hint string) {
	what := describe(err)
	if u.json {
		e := errorEvent{head: now("error"), Error: what, Hint: hint, ExitCode: code}
		if re, ok := errors.AsType[*parley.RequestError](err); ok {
			e.Text = re.Text
		}
		u.emit(e)
	}
	text := "parley: " + safe.Escape(what) + "\n"
	if hint != "" {
		text += "  " + safe.Escape(hint) + "\n"
	}
	u.writeErr([]byte(text))
}

// logger returns a logger to standard error. slog's text handler quotes every character that is not printable.
func (u *ui) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(writerFunc(u.writeErr), &slog.HandlerOptions{Level: level}))
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

// head begins every JSON line.
type head struct {
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
}

func now(event string) head { return head{Event: event, Time: time.Now().UTC()} }

type errorEvent struct {
	head
	Error    string `json:"error"`
	Hint     string `json:"hint,omitempty"`
	ExitCode int    `json:"exit_code"`
	Text     string `json:"text,omitempty"`
}

// sizeText returns a number of bytes for people: exact below 1 KiB, else to a tenth of the unit.
func sizeText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	const units = "KMGTPE"
	// 1023.95 is where %.1f would print 1024.0.
	for v >= 1023.95 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}

// exactSize is sizeText with the exact number where that says more.
func exactSize(n int64) string {
	if n < 1024 {
		return sizeText(n)
	}
	return fmt.Sprintf("%s (%d bytes)", sizeText(n), n)
}

// spanText returns a duration for people: tenths of seconds below a minute, else h:mm:ss or m:ss.
func spanText(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	s := int64(d.Round(time.Second) / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// plural returns "1 peer", "2 peers".
func plural[N int | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// shellQuote quotes s as one word of the shells of the system: it is meant to be pasted.
func shellQuote(s string, windows bool) string {
	if windows {
		return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
