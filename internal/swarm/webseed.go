package swarm

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/internal/netpolicy"
	"github.com/parley-bt/parley/internal/peerconn"
	"github.com/parley-bt/parley/internal/picker"
	"github.com/parley-bt/parley/internal/pipeline"
	"github.com/parley-bt/parley/internal/webseed"
)

// WebSeed names a web seed (BEP 19).
type WebSeed struct {
	URL string
	By  netpolicy.Class // who named it; the zero Class is a stranger
}

// Bounds of web seeds.
const (
	maxWebSeeds     = 64 // of a torrent; more are ignored
	maxWebPerHost   = 4  // of them, with one host and port
	maxWebFetching  = 4  // at work at once
	maxWebFaults    = 16 // files that are not there, one after the other and nothing between, until the seed is off
	webRequestSpan  = 4 * time.Second
	webFirstRetry   = 10 * time.Second
	webLastRetry    = 30 * time.Minute
	webBatchBlocks  = 16
	webBatchPatient = 100 * time.Millisecond
)

// webSeed is the torrent's view of one web seed. To the picker it is a peer that has everything but the files that turned out not to be there. It belongs to
// the owner.
type webSeed struct {
	WebSeed
	seed   *webseed.Seed // nil if off from the beginning
	key    picker.PeerKey
	source *origin        // this web seed as the sender of blocks; nil until it is needed
	has    *bitfield.Set  // nil: everything
	in     *picker.Picker // where it is counted; nil while it is left alone

	off      error // why it is not asked any more
	err      error // the last error; nil after a success
	failures int   // in a row
	next     time.Time
	faults   int // files that are not there since anything came
	ordered  bool

	cancel     context.CancelFunc // of the fetch under way; nil if there is none
	got        int64              // bytes of that fetch
	downloaded int64
	down       pipeline.Meter
}

// WebSeedStatus is what is known about a web seed at one moment.
type WebSeedStatus struct {
	URL        string
	Active     bool // a request is under way
	Downloaded int64
	DownRate   float64
	Err        error     // the last error, nil after a success
	Off        bool      // it is not asked any more, for Err
	Next       time.Time // it is left alone until then; zero if it may be asked at any time
}

// WebSeeds returns what is known about the torrent's web seeds. There are none before the metadata is known.
func (t *Torrent) WebSeeds() []WebSeedStatus {
	var out []WebSeedStatus
	t.look(func() {
		now := t.cfg.Now()
		for _, w := range t.webs {
			s := WebSeedStatus{URL: w.URL, Active: w.cancel != nil, Downloaded: w.downloaded, DownRate: w.down.Rate(now), Err: cmp.Or(w.off, w.err), Off: w.off != nil}
			if !s.Off && now.Before(w.next) {
				s.Next = w.next
			}
			out = append(out, s)
		}
	})
	return out
}

// openWeb makes the web seeds ready, once the metadata is known. Nobody is contacted yet.
func (t *Torrent) openWeb() {
	if t.cfg.Web == nil || t.webs != nil || t.cfg.NoDownload {
		return
	}
	hosts := make(map[string]int)
	known := make(map[string]bool)
	for _, named := range t.cfg.WebSeeds {
		if len(t.webs) == maxWebSeeds {
			break
		}
		if known[named.URL] {
			continue
		}
		known[named.URL] = true
		w := &webSeed{WebSeed: named}
		w.seed, w.off = t.cfg.Web.Open(named.URL, named.By, t.info)
		if w.off == nil {
			if hosts[w.seed.Host()]++; hosts[w.seed.Host()] > maxWebPerHost && named.By != netpolicy.Loopback {
				continue // a torrent must not have us busy one host
			}
		}
		t.nextKey++
		w.key = t.nextKey
		t.webs = append(t.webs, w)
	}
}

// fillWeb gives work to web seeds that have none.
func (t *Torrent) fillWeb(now time.Time) {
	if t.picker == nil || t.closing || t.paused || t.err != nil || t.verifying > t.cfg.BufferBytes/2 {
		return
	}
	for _, w := range t.webs {
		if t.webFetching >= maxWebFetching {
			return
		}
		if w.off != nil || w.cancel != nil || now.Before(w.next) {
			continue
		}
		if w.in != t.picker {
			t.picker.AddPeer(w.key, w.has)
			w.in = t.picker
		}
		if blocks := t.pickWeb(w, now); len(blocks) > 0 {
			t.fetchWeb(w, blocks)
		}
	}
}

// pickWeb chooses what to ask of a web seed at once: pieces that follow each other, for as many bytes as it sends in [webRequestSpan], so that the time between
// requests does not count.
func (t *Torrent) pickWeb(w *webSeed, now time.Time) []bt.Block {
	piece := int64(t.geom.PieceBytes)
	most := max(piece, min(int64(w.down.Rate(now)*webRequestSpan.Seconds()), int64(t.cfg.BufferBytes/8)))
	perPiece := int((piece + bt.BlockBytes - 1) / bt.BlockBytes)
	n := t.geom.NumPieces()
	var blocks []bt.Block
	// Pieces from i on, for as long as there is something to ask of each.
	follow := func(i int) {
		for ; i < n && int64(len(blocks))*bt.BlockBytes < most; i++ {
			had := len(blocks)
			if blocks = t.picker.PickAllowed(blocks, w.key, w.has, []bt.PieceIndex{bt.PieceIndex(i)}, perPiece); len(blocks) == had {
				return
			}
		}
	}
	if w.seed.Sequential() {
		from := 0
		if at, ok := w.seed.Position(); ok {
			from = int((at + piece - 1) / piece)
		}
		for k := range n {
			i := from + k
			if i >= n {
				i -= n
			}
			if t.have.Has(i) {
				continue
			}
			if follow(i); len(blocks) > 0 {
				break
			}
		}
	} else if blocks = t.picker.Pick(nil, w.key, w.has, perPiece); len(blocks) > 0 {
		last := blocks[len(blocks)-1].Index
		blocks = t.picker.PickAllowed(blocks, w.key, w.has, []bt.PieceIndex{last}, perPiece) // the rest of it
		follow(int(last) + 1)
	}
	slices.SortFunc(blocks, func(a, b bt.Block) int { return cmp.Compare(t.geom.Offset(a), t.geom.Offset(b)) })
	return blocks
}

// webBlock is a block that a web seed has sent.
type webBlock struct {
	at   bt.Block
	data *blockbuf.Buf
}

// fetchWeb fetches blocks, which are in order, off the owner.
func (t *Torrent) fetchWeb(w *webSeed, blocks []bt.Block) {
	ctx, cancel := context.WithCancel(t.ctx)
	w.cancel, w.got = cancel, 0
	t.webFetching++
	geom := t.geom
	t.group.Go(func() {
		defer cancel()
		var err error
		turn := t.cfg.Down.NewTurn()
		for len(blocks) > 0 && err == nil {
			n, size := 0, int64(0)
			for from := geom.Offset(blocks[0]); n < len(blocks) && geom.Offset(blocks[n]) == from+size; n++ {
				size += int64(blocks[n].Length)
			}
			err = t.fetchRange(ctx, w, turn, blocks[:n], size)
			blocks = blocks[n:]
		}
		t.post(envelope{kind: envCall, f: func() { t.webFetched(w, err) }}) // the owner waits for webFetching to become 0
	})
}

// fetchRange fetches blocks that follow each other, and hands them to the owner a few at a time.
func (t *Torrent) fetchRange(ctx context.Context, w *webSeed, turn *peerconn.Turn, blocks []bt.Block, size int64) error {
	r := w.seed.Reader(ctx, t.shared.Load().geom.Offset(blocks[0]), size)
	defer r.Close()
	var batch []webBlock
	began := t.cfg.Now()
	hand := func() {
		if len(batch) > 0 {
			ready := batch
			batch, began = nil, t.cfg.Now()
			t.post(envelope{kind: envCall, f: func() { t.webBlocks(w, ready) }})
		}
	}
	defer hand()
	for _, b := range blocks {
		data := blockbuf.Get()
		data.SetLen(int(b.Length))
		if _, err := io.ReadFull(r, data.Bytes()); err != nil {
			data.Release()
			return err
		}
		batch = append(batch, webBlock{b, data})
		if err := turn.Wait(ctx, int(b.Length)); err != nil {
			return err
		}
		if len(batch) == webBatchBlocks || t.cfg.Now().Sub(began) >= webBatchPatient {
			hand()
		}
	}
	return nil
}

// webBlocks takes in blocks of a web seed. It owns their data.
func (t *Torrent) webBlocks(w *webSeed, blocks []webBlock) {
	now := t.cfg.Now()
	for _, b := range blocks {
		n := b.data.Len()
		t.downloaded += int64(n)
		w.downloaded += int64(n)
		w.got += int64(n)
		t.down.Add(now, n)
		w.down.Add(now, n)
		w.faults = 0
		if t.picker == nil || t.closing {
			t.wasted += int64(n)
			b.data.Release()
			continue
		}
		r := t.picker.Received(w.key, b.at)
		if r.Outcome != picker.BlockNew {
			t.wasted += int64(n)
			b.data.Release()
			continue
		}
		if r.Others > 0 {
			t.cancelOthers(nil, b.at, now)
		}
		t.assemble(w.from(), b.at, b.data, r.PieceComplete)
	}
}

// webFetched goes on after a fetch.
func (t *Torrent) webFetched(w *webSeed, err error) {
	t.webFetching--
	w.cancel = nil
	if t.picker != nil && w.in == t.picker {
		t.picker.ReleaseAll(w.key) // what did not come
	}
	if t.closing || t.err != nil {
		return
	}
	now := t.cfg.Now()
	if w.got > 0 {
		w.failures = 0
	}
	switch {
	case w.off != nil, errors.Is(err, context.Canceled):
	case err == nil:
		w.failures, w.err = 0, nil
	default:
		t.webFailed(w, now, err)
	}
	if t.picker != nil {
		t.fillAll(now)
	}
}

// webFailed decides what becomes of a web seed after an error.
func (t *Torrent) webFailed(w *webSeed, now time.Time, err error) {
	w.err = err
	fault := webseed.FaultOf(err)
	if fault == webseed.FaultSequential {
		if !w.ordered {
			w.ordered = true
			return // from the beginning on, at once
		}
		fault = webseed.FaultFile // it costs too much
	}
	if fault == webseed.FaultPassing {
		d := min(webFirstRetry<<min(w.failures, 16), webLastRetry)
		w.failures++
		w.next = now.Add(max(d, webseed.RetryIn(err)) + time.Duration(t.rng.Int64N(int64(d)/4+1)))
		t.leaveWeb(w)
		t.notify(Event{Kind: EventWebSeedFailed, WebSeed: w.URL, Err: err})
		return
	}
	w.faults++
	_, refused := errors.AsType[*netpolicy.RefusedError](err)
	at, ok := errors.AsType[*webseed.Error](err)
	if refused || !ok || w.faults >= maxWebFaults {
		t.dropWeb(w, err)
		return
	}
	has := bitfield.NewFull(t.geom.NumPieces())
	if w.has != nil {
		has = w.has.Clone()
	}
	f := &t.info.Files[at.File]
	for i := f.Offset / int64(t.geom.PieceBytes); i <= (f.Offset+f.Length-1)/int64(t.geom.PieceBytes); i++ {
		has.Remove(int(i))
	}
	t.leaveWeb(w)
	w.has = has
	if has.Count() == 0 {
		t.dropWeb(w, err)
		return
	}
	t.notify(Event{Kind: EventWebSeedFailed, WebSeed: w.URL, Err: err})
}

// leaveWeb takes a web seed out of the picker, for now.
func (t *Torrent) leaveWeb(w *webSeed) {
	if w.cancel != nil {
		w.cancel()
	}
	if t.picker != nil && w.in == t.picker {
		t.picker.RemovePeer(w.key, w.has)
	}
	w.in = nil
}

// dropWeb ends the use of a web seed.
func (t *Torrent) dropWeb(w *webSeed, err error) {
	if w.off != nil {
		return
	}
	t.leaveWeb(w)
	w.off = err
	w.seed.Close()
	t.cfg.Log.Info("web seed is off", "url", w.seed.String(), "error", err)
	t.notify(Event{Kind: EventWebSeedFailed, WebSeed: w.URL, Err: err})
}

// from returns the web seed as the origin of blocks.
func (w *webSeed) from() *origin {
	if w.source == nil {
		w.source = &origin{web: w}
	}
	return w.source
}

// nextWeb returns when a web seed that is left alone may be asked again; zero if none is.
func (t *Torrent) nextWeb() (at time.Time) {
	if t.picker == nil {
		return at
	}
	for _, w := range t.webs {
		if w.off == nil && w.failures > 0 && (at.IsZero() || w.next.Before(at)) {
			at = w.next
		}
	}
	return at
}

// usableWeb returns how many web seeds were not given up.
func (t *Torrent) usableWeb() (n int) {
	for _, w := range t.webs {
		if w.off == nil {
			n++
		}
	}
	return n
}

// restWeb lets all web seeds go until there is something to download again.
func (t *Torrent) restWeb() {
	for _, w := range t.webs {
		if w.off == nil {
			t.leaveWeb(w)
			w.seed.Idle()
		}
	}
}

// idleWeb ends fetches all of whose blocks others have brought.
func (t *Torrent) idleWeb() {
	for _, w := range t.webs {
		if w.cancel != nil && (t.picker == nil || t.picker.Outstanding(w.key) == 0) {
			w.cancel()
		}
	}
}

// closeWeb ends the web seeds with the torrent.
func (t *Torrent) closeWeb() {
	for _, w := range t.webs {
		if w.seed != nil {
			w.seed.Close()
		}
	}
}
