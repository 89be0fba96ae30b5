package main

import (
	"context"
	"errors"
	"time"

	"github.com/parley-bt/parley"
	safe "github.com/parley-bt/parley/cmd/parley/internal/term"
	"github.com/parley-bt/parley/metainfo"
)

// savedEvent says that the .torrent of a link has been written.
type savedEvent struct {
	head
	InfoHash string `json:"info_hash"`
	Path     string `json:"path"`
}

const saveFlag = "--save-torrent"

// savePatience is how long the piece layers of a hybrid torrent may take to come when nothing else is left to do.
const savePatience = 30 * time.Second

// checkSave refuses a --save-torrent that cannot be written, before anything is downloaded.
func checkSave(path string, s source) error {
	if path == "" {
		return nil
	}
	if s.kind == sourceTorrent {
		return failf(exitUsage, "leave it out: it is for links and info-hashes", "%s: %s is a .torrent file already", saveFlag, s.path)
	}
	out, err := createFileFor(saveFlag, path, false)
	if err != nil {
		return err
	}
	return out.discard()
}

// saving is a .torrent that is written once all that it has is known, while the download goes on.
type saving struct {
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // once it has ended
}

// saveTorrent begins to wait for what a .torrent has. Without a path it is nil.
func (a *app) saveTorrent(ctx context.Context, t *parley.Torrent, path string) *saving {
	if path == "" {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &saving{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		mi, err := t.WaitMetainfo(ctx)
		if err == nil {
			err = a.writeTorrent(mi, path)
		}
		s.err = err
	}()
	return s
}

// writeTorrent writes a .torrent as a whole, where nothing is.
func (a *app) writeTorrent(mi *metainfo.MetaInfo, path string) (err error) {
	out, err := createFileFor(saveFlag, path, false)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.discard(); cerr != nil {
			err = errors.Join(err, cerr)
		}
	}()
	if err := out.commit(mi.Append(nil)); err != nil {
		return err
	}
	a.ui.event(savedEvent{now("torrent_saved"), mi.InfoHash.String(), path})
	a.ui.note("torrent file: %s", safe.Escape(path))
	return nil
}

// finish waits until it is written, but not for good: a hybrid torrent can be downloaded from peers that do not know its piece layers.
func (s *saving) finish() error {
	if s == nil {
		return nil
	}
	late := time.NewTimer(savePatience)
	defer late.Stop()
	select {
	case <-s.ended:
		return s.err
	case <-late.C:
	}
	s.stop()
	if !errors.Is(s.err, context.Canceled) {
		return s.err
	}
	return failf(exitFailure, "take all files, or find a peer that knows v2 torrents", "%s: no peer has sent the piece layers, without which the .torrent would not be whole", saveFlag)
}

// stop ends it, written or not.
func (s *saving) stop() {
	if s != nil {
		s.cancel()
		<-s.ended
	}
}
