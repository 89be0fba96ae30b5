package parley

import (
	"context"
	"errors"
	"io"

	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/metainfo"
)

// Priority says how much a file is wanted.
type Priority uint8

// The priorities. Pieces of files of a higher priority are asked for before those of others. A piece that two files share counts as the one that is wanted more.
const (
	PrioritySkip   Priority = iota // not wanted: not downloaded, and not missed
	PriorityLow                    //
	PriorityNormal                 // what a file has unless it is said otherwise
	PriorityHigh                   //
)

// String returns the priority in lower case.
func (p Priority) String() string {
	return [...]string{"skip", "low", "normal", "high"}[min(p, PriorityHigh)]
}

// File is one file of a torrent, at one moment.
type File struct {
	// Index is the file's place in the metadata's list of files. Padding (BEP 47) has one and is no File, so numbers may be missing.
	Index int
	// Path of the file below the torrent's folder, as the torrent has it; of a torrent of a single file its name. It comes from strangers: where the file
	// lies on disk is what metainfo.SafePaths says, and a terminal should not see it unescaped.
	Path []string
	// Offset is where the file begins in the torrent, and Length how long it is, in bytes.
	Offset, Length int64
	// Done is how many of its bytes are verified. It is 0 in the call of TorrentOptions.Want.
	Done     int64
	Priority Priority
}

// Files returns the files of the torrent in its order, padding excepted; nil while the metadata is not known.
func (t *Torrent) Files() []File {
	list := t.sw.Files()
	if list == nil {
		return nil
	}
	files := make([]File, len(list))
	for i, f := range list {
		files[i] = File{Index: f.Index, Path: f.Path, Offset: f.Offset, Length: f.Length, Done: f.Done, Priority: Priority(f.Priority)}
	}
	return files
}

// SetPriority says how much files are wanted, by their [File.Index]. It holds at once: what is missing of files that are wanted now is downloaded, although
// the torrent may have been complete, and what has come of files that are not wanted any longer stays. [Torrent.WaitComplete] waits for what is wanted at the time of its call.
//
// The errors are [ErrNoMetadata], [ErrNoFile], [ErrNoDownload], [ErrClosed], and what stopped the torrent.
func (t *Torrent) SetPriority(p Priority, files ...int) error {
	return closedErr(t.sw.SetPriority(swarm.Priority(min(p, PriorityHigh)), files...))
}

// SetSequential says whether pieces are asked for in the torrent's order, rather than those first that the fewest peers have. A swarm in which everybody does so
// has little to exchange: it is for content that is used while it comes, and [Torrent.NewReader] serves that better.
func (t *Torrent) SetSequential(on bool) error { return closedErr(t.sw.SetSequential(on)) }

// A Reader reads one file of a torrent while it is downloaded, see [Torrent.NewReader]. It implements [io.ReadSeekCloser]. One goroutine may read and seek at a time; Close may be
// called by any.
type Reader struct{ r *swarm.Reader }

var _ io.ReadSeekCloser = (*Reader)(nil)

// NewReader returns a reader at the beginning of a file, which is named by its [File.Index]. The pieces that it will read next are downloaded before all others: as much as it reads in 20
// seconds, at least 4 MiB and at most 64 MiB or a quarter of Config.BufferBytes. Several readers share the download in turns. Reading waits for what is missing, and
// returns verified bytes only.
//
// The errors are [ErrNoMetadata] before [Torrent.WaitMetadata] has returned, [ErrNoFile], [ErrSkipped] for a file that is not wanted and not here, [ErrNoDownload],
// [ErrClosed], and what stopped the torrent. A Reader that is not closed keeps its part of the download until the torrent is.
func (t *Torrent) NewReader(file int) (*Reader, error) {
	r, err := t.sw.NewReader(file)
	if err != nil {
		return nil, closedErr(err)
	}
	return &Reader{r}, nil
}

// Size returns the length of the file in bytes.
func (r *Reader) Size() int64 { return r.r.Size() }

// Read implements [io.Reader]: it is [Reader.ReadContext] without a context.
func (r *Reader) Read(p []byte) (int, error) { return r.ReadContext(context.Background(), p) }

// ReadContext reads up to len(p) bytes at the present position, and waits while none of them are here. It returns [io.EOF] at the end of the file, the context's cause, an error that is
// [io/fs.ErrClosed] if the reader is closed, [ErrSkipped] if the file is not wanted any longer and the next byte is not here, [ErrClosed], and what stopped the torrent.
func (r *Reader) ReadContext(ctx context.Context, p []byte) (int, error) {
	n, err := r.r.ReadContext(ctx, p)
	return n, closedErr(err)
}

// Seek implements [io.Seeker]. What is fetched ahead changes with the next read. A position behind the end reads as the end.
func (r *Reader) Seek(offset int64, whence int) (int64, error) { return r.r.Seek(offset, whence) }

// Close ends the reader; a read that waits returns. What was fetched ahead stays.
func (r *Reader) Close() error { return r.r.Close() }

// want makes the swarm's choice of files of the options'.
func (o *TorrentOptions) want() func(int, *metainfo.File) swarm.Priority {
	if o.Want == nil {
		return nil
	}
	return func(i int, f *metainfo.File) swarm.Priority {
		return swarm.Priority(min(o.Want(File{Index: i, Path: f.Path, Offset: f.Offset, Length: f.Length, Priority: PriorityNormal}), PriorityHigh))
	}
}

// swarmErrors are the errors of the swarm by their public names.
var swarmErrors = []struct{ internal, public error }{
	{swarm.ErrNoMetadata, ErrNoMetadata}, {swarm.ErrNoFile, ErrNoFile}, {swarm.ErrSkipped, ErrSkipped}, {swarm.ErrNoDownload, ErrNoDownload},
}

// fileErr gives errors of the swarm their public names; it returns err if it is none of them.
func fileErr(err error) error {
	for _, e := range swarmErrors {
		if errors.Is(err, e.internal) {
			return e.public
		}
	}
	return err
}
