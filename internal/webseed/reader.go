package webseed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"time"

	"github.com/parley-bt/parley/bt"
)

// Reader reads one range of a torrent's bytes from a seed. It belongs to one goroutine, and is closed by it.
type Reader struct {
	s       *Seed
	ctx     context.Context
	at, end int64 // in the torrent
	cur     *stream
	left    int64 // bytes of the current file still to be read
	got     int64 // bytes of the current reply
	short   int   // replies in a row that were shorter than asked for, and than [crumbBytes]
	err     error // what ended it
}

// stream is the body of a reply, at a position of a file.
type stream struct {
	file   int
	pos    int64 // in the file
	left   int64 // bytes of the reply still to come
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	ctx    context.Context
	timer  *time.Timer
	since  int           // bytes of the current block
	budget time.Duration // what is left of BlockTimeout for it
	detach func()        // ends what attach began
}

// Reader returns a reader of the n bytes at off, which must lie within the torrent. It contacts nobody before the first Read. Padding, and what lies between
// the files of a v2 torrent, is zeros that nobody is asked for. Errors are wrapped in an [*Error] and end the reader; ctx ends it too.
func (s *Seed) Reader(ctx context.Context, off, n int64) *Reader {
	return &Reader{s: s, ctx: ctx, at: off, end: off + n}
}

// maxShort is how many replies in a row may bring less than was asked for and less than crumbBytes. A server may cut a range as it likes, but not into crumbs.
const (
	maxShort   = 4
	crumbBytes = 4 << 10
)

// Read implements [io.Reader]: it returns exactly the bytes asked for, and then io.EOF.
func (r *Reader) Read(p []byte) (int, error) {
	for {
		if r.err != nil {
			return 0, r.err
		}
		if r.at == r.end {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		if r.cur == nil {
			file, gap := r.s.locate(r.at)
			if gap > 0 {
				n := min(gap, r.end-r.at, int64(len(p)))
				clear(p[:n])
				r.at += n
				return int(n), nil
			}
			if err := r.open(file); err != nil {
				r.fail(file, err)
				continue
			}
		}
		n, err := r.cur.read(p[:min(int64(len(p)), r.left, r.cur.left)])
		r.at += int64(n)
		r.left -= int64(n)
		if r.got += int64(n); r.got >= crumbBytes {
			r.short = 0
		}
		switch {
		case err != nil:
			r.fail(r.cur.file, err)
		case r.left == 0:
			r.leave()
		case r.cur.left == 0: // the server has cut the range short: ask for the rest
			if r.short++; r.short > maxShort {
				r.fail(r.cur.file, &ReplyError{"the server sends less than it is asked for"})
			} else {
				r.cur.close()
				r.cur = nil
			}
		}
		if n > 0 {
			return n, nil
		}
	}
}

// Close ends the reader. It keeps the reply of a server without ranges for the next one, if that may go on there.
func (r *Reader) Close() {
	if r.cur != nil {
		r.cur.close()
		r.cur = nil
	}
	if r.err == nil {
		r.err = errors.New("web seed reader is closed")
	}
}

func (r *Reader) fail(file int, err error) {
	if r.cur != nil {
		r.cur.close()
		r.cur = nil
	}
	at := Display(r.s.base)
	if u := fileURL(r.s.base, r.s.info, file); u != nil {
		at = Display(u)
	}
	r.err = &Error{File: file, URL: at, Err: err}
}

// leave ends the work on a file.
func (r *Reader) leave() {
	if r.cur.left > 0 && r.s.Sequential() {
		r.cur.rest()
		r.s.park(r.cur)
	} else {
		r.cur.close()
	}
	r.cur = nil
}

// locate returns the file that the byte at off belongs to, or how many bytes from there on belong to none.
func (s *Seed) locate(off int64) (file int, gap int64) {
	files := s.info.Files
	// The last file that begins at or before off; files without bytes come before others of the same offset.
	i := sort.Search(len(files), func(i int) bool { return files[i].Offset > off }) - 1
	for i >= 0 && files[i].Length == 0 {
		i--
	}
	next := s.info.Geometry.TotalBytes
	for k := i + 1; k < len(files); k++ {
		if files[k].Length > 0 && !files[k].Padding {
			next = files[k].Offset
			break
		}
	}
	if i < 0 || files[i].Padding || off >= files[i].Offset+files[i].Length {
		return 0, next - off
	}
	return i, 0
}

// open begins to read the current file: the rest of a reply that was kept, or a new one.
func (r *Reader) open(file int) error {
	s, f := r.s, &r.s.info.Files[file]
	r.got = 0
	first := r.at - f.Offset
	r.left = min(r.end-r.at, f.Length-first)
	if st := s.unpark(); st != nil {
		if st.file == file && st.pos <= first && s.maySkip(file, first-st.pos) {
			st.attach(r.ctx)
			st.timer.Stop()
			if err := st.skip(first - st.pos); err != nil {
				st.close()
				return err
			}
			r.cur = st
			return nil
		}
		st.close()
	}
	last := first + r.left - 1
	whole := s.Sequential() || r.left == f.Length
	if whole {
		last = -1
	}
	st := newStream(r.ctx, file)
	resp, err := s.request(st.ctx, file, first, last)
	if err != nil {
		err = st.cause(err)
		st.close()
		return err
	}
	st.timer.Stop()
	st.body = resp.Body
	if err := s.accept(resp, st, f.Length, first, last); err != nil {
		st.close()
		return err
	}
	known := whole
	if resp.StatusCode == http.StatusOK && !whole {
		s.mu.Lock()
		known, s.sequential = s.sequential, true
		s.mu.Unlock()
	}
	if skip := first - st.pos; skip > 0 {
		if !known && skip > FreeSkip || !s.maySkip(file, skip) {
			st.close()
			return ErrNoRanges
		}
		if err := st.skip(skip); err != nil {
			st.close()
			return err
		}
	}
	r.cur = st
	return nil
}

// accept checks the head of a reply, and says in st which bytes of the file it brings.
func (s *Seed) accept(resp *http.Response, st *stream, length, first, last int64) error {
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return &ReplyError{fmt.Sprintf("content encoding %.20q, which was not asked for", e)}
	}
	if resp.StatusCode == http.StatusOK {
		if n := resp.ContentLength; n >= 0 && n != length {
			return &ReplyError{fmt.Sprintf("the file has %d bytes, want %d", n, length)}
		}
		st.pos, st.left = 0, length
		return nil
	}
	from, to, total, ok := contentRange(resp.Header.Get("Content-Range"))
	switch {
	case last < 0:
		return &ReplyError{"a part, where the whole was asked for"}
	case !ok:
		return &ReplyError{fmt.Sprintf("content range %.40q, want one range of bytes", resp.Header.Get("Content-Range"))}
	case total >= 0 && total != length:
		return &ReplyError{fmt.Sprintf("the file has %d bytes, want %d", total, length)}
	case from != first || to > last:
		return &ReplyError{fmt.Sprintf("content range %d-%d, want %d-%d", from, to, first, last)}
	case resp.ContentLength >= 0 && resp.ContentLength != to-from+1:
		return &ReplyError{fmt.Sprintf("%d bytes for the content range %d-%d", resp.ContentLength, from, to)}
	}
	st.pos, st.left = first, to-from+1
	return nil
}

// maySkip reports whether n more bytes of a file may be read and dropped, and counts them: no more in all than the file is long, or [FreeSkip].
func (s *Seed) maySkip(file int, n int64) bool {
	if n == 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.skipped == nil {
		s.skipped = make([]int64, len(s.info.Files))
	}
	if s.skipped[file]+n > max(FreeSkip, s.info.Files[file].Length) {
		return false
	}
	s.skipped[file] += n
	return true
}

func newStream(ctx context.Context, file int) *stream {
	st := &stream{file: file}
	// Not a child of ctx: the reply of a server without ranges may outlive the reader that asked for it.
	st.ctx, st.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	st.attach(ctx)
	return st
}

// attach ends the stream with ctx, and when nothing comes.
func (st *stream) attach(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { st.cancel(context.Cause(ctx)) })
	st.timer = time.AfterFunc(BlockTimeout, func() { st.cancel(ErrSlow) })
	st.detach = func() {
		stop()
		st.timer.Stop()
	}
	st.since, st.budget = 0, BlockTimeout
}

// rest ends the stream neither with a context nor with time, for as long as nobody reads.
func (st *stream) rest() { st.detach() }

func (st *stream) close() {
	st.detach()
	if st.body != nil {
		_ = st.body.Close() // what was read was read; the rest is not wanted
	}
	if st.left > 0 || st.body == nil { // else the connection is on its way back to the transport, which this could overtake
		st.cancel(context.Canceled)
	}
}

// cause returns why a read failed: the context's reason rather than the network's, if it has ended.
func (st *stream) cause(err error) error {
	if st.ctx.Err() != nil {
		return context.Cause(st.ctx)
	}
	return err
}

// read reads part of the reply. An early end is [io.ErrUnexpectedEOF].
func (st *stream) read(p []byte) (int, error) {
	// The server's time runs while we wait for it, not while the reader is busy elsewhere.
	began := time.Now()
	st.timer.Reset(st.budget)
	n, err := st.body.Read(p)
	st.timer.Stop()
	st.budget -= time.Since(began)
	st.pos += int64(n)
	st.left -= int64(n)
	if st.since += n; st.since >= bt.BlockBytes {
		st.since, st.budget = 0, BlockTimeout
	}
	switch {
	case n == len(p):
		return n, nil // an error will come again
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	case err != nil:
		return n, st.cause(err)
	}
	return n, nil
}

// skip reads and drops n bytes.
func (st *stream) skip(n int64) error {
	buf := make([]byte, 32<<10)
	for n > 0 {
		k, err := st.read(buf[:min(n, int64(len(buf)))])
		n -= int64(k)
		if err != nil {
			return err
		}
	}
	return nil
}
