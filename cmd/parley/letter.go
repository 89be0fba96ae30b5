package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
)

// A letter is what send sends. It can be sent more than once.
type letter struct {
	payload []byte
	path    string // of a file that is read while it is sent; then there is no payload
	size    int64
}

// streamAbove is how large a file is that is not read into memory as a whole.
const streamAbove = 64 << 10

// endOfInput is the key that ends standard input on a terminal of this system.
var endOfInput = map[bool]string{false: "Ctrl-D", true: "Ctrl-Z and Enter"}[runtime.GOOS == "windows"]

// letter returns what to send: the text message, what comes on standard input if that is "-", or the file at path if that is not empty. No more than most bytes
// can be sent.
func (a *app) letter(ctx context.Context, message, path string, most int, request bool) (*letter, error) {
	const hint = "send less, or in several messages"
	tooMuch := func(what string) error {
		return failf(exitUsage, hint, "%s: more than %d bytes, the limit of a message", what, most)
	}
	if path != "" {
		fi, err := os.Stat(path)
		switch {
		case err != nil:
			return nil, inputError(err)
		case fi.IsDir():
			return nil, failf(exitInput, "name a file", "--file %s: is a folder", path)
		case fi.Mode().IsRegular() && fi.Size() > int64(most):
			return nil, tooMuch("--file " + path)
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, inputError(err)
		}
		if fi.Mode().IsRegular() && fi.Size() > streamAbove && !request {
			return &letter{path: path, size: fi.Size()}, f.Close() // it can be read
		}
		// What is no regular file may never end or begin: then the file is closed by the end of the process.
		b, err := readAll(ctx, f, most)
		if err == nil {
			err = f.Close()
		}
		switch {
		case errors.Is(err, errTooMuch):
			return nil, tooMuch("--file " + path)
		case err != nil && ctx.Err() == nil:
			return nil, inputError(err)
		}
		return &letter{payload: b, size: int64(len(b))}, err
	}
	if message != "-" {
		if len(message) > most {
			return nil, failf(exitUsage, hint, "MESSAGE: %d bytes, the limit is %d", len(message), most)
		}
		return &letter{payload: []byte(message), size: int64(len(message))}, nil
	}
	a.logger.Debug("reading the message from standard input")
	if a.ui.inTTY {
		a.ui.note("type the message; %s on a line of its own ends it", endOfInput)
	}
	b, err := readAll(ctx, a.ui.in, most)
	switch {
	case errors.Is(err, errTooMuch):
		return nil, tooMuch("standard input")
	case err != nil && ctx.Err() == nil:
		return nil, failf(exitInput, "", "standard input: %w", err)
	}
	return &letter{payload: b, size: int64(len(b))}, err
}

// errTooMuch: more came than a message can have.
var errTooMuch = errors.New("too much")

// readAll reads r to its end, and no more than most bytes, until ctx ends.
func readAll(ctx context.Context, r io.Reader, most int) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result, 1)
	// A read of standard input, or a pipe, cannot be interrupted. If ctx ends first the goroutine ends with the process.
	go func() {
		b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
		read <- result{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-read:
		if r.err == nil && len(r.b) > most {
			return nil, errTooMuch
		}
		return r.b, r.err
	}
}

// post sends the letter as one message of a version.
func (l *letter) post(ctx context.Context, ty *parley.Type, p parley.Peer, version uint8) (err error) {
	o := parley.Outgoing{Payload: l.payload, Version: version}
	if l.path == "" {
		return ty.SendMessage(ctx, p, o)
	}
	f, err := os.Open(l.path)
	if err != nil {
		return inputError(err)
	}
	defer f.Close()
	w, err := ty.NewWriter(ctx, p, l.size, o)
	if errors.Is(err, parley.ErrRequestsUnsupported) { // in plain frames nothing is sent bit by bit
		if o.Payload, err = io.ReadAll(io.LimitReader(f, l.size)); err != nil {
			return inputError(err)
		}
		return ty.SendMessage(ctx, p, o)
	}
	if err != nil {
		return err
	}
	file := &noting{r: io.LimitReader(f, l.size)}
	_, err = w.ReadFrom(file)
	switch end := w.Close(); { // which gives a message up that is not whole
	case file.err != nil:
		return inputError(file.err)
	case err != nil:
		return err
	case errors.Is(end, parley.ErrMessageLength):
		return failf(exitInput, "send it again once nobody changes it", "--file %s: it has become shorter while it was sent", l.path)
	default:
		return end
	}
}

// noting notes why reading failed.
type noting struct {
	r   io.Reader
	err error
}

// Read implements [io.Reader].
func (n *noting) Read(b []byte) (int, error) {
	k, err := n.r.Read(b)
	if err != nil && err != io.EOF {
		n.err = err
	}
	return k, err
}

// A worded error reads as a text for people and still is what it was.
type worded struct {
	text string
	err  error
}

func (w *worded) Error() string { return w.text }
func (w *worded) Unwrap() error { return w.err }

// An unfit error says why a peer cannot get the message. Another may.
type unfit struct{ error }

// Unwrap returns why.
func (u *unfit) Unwrap() error { return u.error }

// choose returns the version in which p gets the message, or why it cannot get it.
func (f *sendFlags) choose(ty *parley.Type, p parley.Peer, size int64) (uint8, error) {
	name := safe.Clip(f.spec.name, 64)
	var in *parley.TypeInfo
	for _, t := range p.TypeInfos() {
		if t.Name == f.spec.name {
			in = &t
		}
	}
	if in == nil {
		return 0, f.withdrawn(p)
	}
	v, ok := ty.Version(p)
	if f.version >= 0 {
		v = uint8(f.version)
		ok = v >= in.MinVersion && v <= in.MaxVersion
	}
	sends := versionsText(f.spec.min, f.spec.max)
	if f.version >= 0 {
		sends = versionsText(v, v)
	}
	switch {
	case f.request && !in.Enhanced:
		return 0, &unfit{failf(exitVersion, "requests need Parley's enhanced messages on both sides, without --no-emp; without --request it can be sent a message",
			"%s receives %s in plain BEP 10 frames only, in which there are no requests", peerText(p), name)}
	case !ok && !in.Enhanced:
		return 0, &unfit{failf(exitVersion, "send version 0, which is what there is without --version and a range in --type; or have the other side run without --no-emp",
			"%s receives %s in plain BEP 10 frames only, in which there is no version but 0; this side would send %s", peerText(p), name, sends)}
	case !ok:
		return 0, &unfit{failf(exitVersion, fmt.Sprintf("send one that it receives, with %s; or have the other side receive it: parley listen SOURCE %s",
			pasteLine("--type", typeSpec{f.spec.name, in.MinVersion, in.MaxVersion}.String()), pasteLine("--type", f.spec.String())),
			"%s receives %s in %s; this side would send %s", peerText(p), name, versionsText(in.MinVersion, in.MaxVersion), sends)}
	case size > int64(in.MaxBytes):
		return 0, f.tooLarge(p, size, int64(in.MaxBytes))
	case f.request:
		if l, ok := p.MessageLimits(); ok && l.Requests == 0 {
			return 0, &unfit{failf(exitNoHandler, "without --request it can be sent a message", "%s takes no requests", peerText(p))}
		}
	}
	return v, nil
}

func (f *sendFlags) withdrawn(p parley.Peer) error {
	return &unfit{failf(exitNoHandler, "see whether the other side still listens", "%s does not receive %s any more", peerText(p), safe.Clip(f.spec.name, 64))}
}

func (f *sendFlags) tooLarge(p parley.Peer, size, limit int64) error {
	return &unfit{failf(exitTooLarge, "send less, or in several messages; the other side takes larger ones with --max",
		"%s receives messages of %s of up to %d bytes; this one has %d", peerText(p), safe.Clip(f.spec.name, 64), limit, size)}
}

// refusal says what p has said to a message or request, in words; other errors it returns as they are.
func (f *sendFlags) refusal(p parley.Peer, size int64, err error) error {
	what := "message"
	if f.request {
		what = "request"
	}
	who := peerText(p)
	word := func(code int, hint, format string, args ...any) error {
		return &cmdError{code: code, err: &worded{fmt.Sprintf(format, args...), err}, hint: hint}
	}
	switch {
	case errors.Is(err, parley.ErrTypeNotShared):
		return f.withdrawn(p)
	case errors.Is(err, parley.ErrVersionUnsupported):
		return &unfit{word(exitVersion, "send another with --version", "%s does not receive that version any more", who)}
	case errors.Is(err, parley.ErrMessageTooLarge):
		for _, t := range p.TypeInfos() {
			if t.Name == f.spec.name && size > int64(t.MaxBytes) {
				return f.tooLarge(p, size, int64(t.MaxBytes))
			}
		}
		return &unfit{word(exitTooLarge, "send less, or in several messages", "%s does not take a message of %d bytes", who, size)}
	case errors.Is(err, parley.ErrNoHandler):
		return &unfit{word(exitNoHandler, "the other side must answer requests of the type, as parley listen --echo does; without --request it can be sent a message",
			"%s has no handler for requests of %s", who, safe.Clip(f.spec.name, 64))}
	case errors.Is(err, parley.ErrRefused):
		hint := ""
		if !f.request {
			hint = "it takes no messages of this type, perhaps only requests, or has no memory for them"
		}
		return word(exitRefused, hint, "%s has refused the %s", who, what)
	case errors.Is(err, parley.ErrHandlerFailed):
		text := ""
		if re, ok := errors.AsType[*parley.RequestError](err); ok && re.Text != "" {
			text = ": " + re.Text
		}
		return word(exitHandler, "", "the handler of %s has failed%s", who, text)
	case errors.Is(err, parley.ErrHandlerTimeout):
		return word(exitHandlerTime, "try again when it has less to do", "the handler of %s has run out of time", who)
	case errors.Is(err, parley.ErrReplyTooLarge):
		hint := "take longer answers with --reply-max, up to 16MiB"
		if f.replyMax == maxMessageBytes {
			hint = "there are no longer ones: ask for less at a time"
		}
		return word(exitTooLarge, hint, "the answer of %s is longer than %s, the most that was asked for", who, plural(f.replyMax, "byte"))
	case errors.Is(err, parley.ErrPeerBusy):
		return word(exitBusy, "try again later", "%s is busy: it is out of memory for messages, or has as many requests as it takes", who)
	}
	return err
}
