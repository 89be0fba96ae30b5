package parley

import "errors"

// The conditions that callers of this package compare with errors.Is. Errors that end a session also unwrap to
// net.ErrClosed.
var (
	// ErrClosed: the client, torrent, session or type has been closed.
	ErrClosed = errors.New("parley: closed")
	// ErrTypeNotShared: the peer has not announced the message type, so nothing was sent (EMP/1 section 6.2).
	ErrTypeNotShared = errors.New("parley: message type not shared by the peer")
	// ErrTypeExists: the torrent has a type of that name already.
	ErrTypeExists = errors.New("parley: message type already registered")
	// ErrBadTypeName: the name is empty, too long, unprintable, or belongs to BitTorrent itself (EMP/1 section 6.2).
	ErrBadTypeName = errors.New("parley: bad message type name")
	// ErrTooManyTypes: no id is left for another message type in this torrent (EMP/1 section 6.2).
	ErrTooManyTypes = errors.New("parley: too many message types")
	// ErrMessageTooLarge: the message is larger than the dialect or the receiver allows (EMP/1 table 7.6).
	ErrMessageTooLarge = errors.New("parley: message too large")
	// ErrVersionUnsupported: the dialect has no message versions (EMP/1 table 7.6).
	ErrVersionUnsupported = errors.New("parley: message versions unsupported in this dialect")
	// ErrRequestsUnsupported: the dialect has no requests (EMP/1 table 7.6).
	ErrRequestsUnsupported = errors.New("parley: requests unsupported in this dialect")
	// ErrHasHandler: Messages was called for a type that has a handler.
	ErrHasHandler = errors.New("parley: the message type has a handler")
	// ErrTorrentExists: the client has that torrent already.
	ErrTorrentExists = errors.New("parley: torrent already added")
	// ErrNoMetadata: the torrent's files are not known yet, see Torrent.WaitMetadata.
	ErrNoMetadata = errors.New("parley: the torrent's metadata is not known yet")
	// ErrNoFile: the torrent has no file of that index, or it is padding.
	ErrNoFile = errors.New("parley: no such file in the torrent")
	// ErrSkipped: what was asked for is not here and is in a file that is not wanted, see Torrent.SetPriority.
	ErrSkipped = errors.New("parley: the file is not wanted")
	// ErrNoDownload: the torrent was added with TorrentOptions.NoDownload.
	ErrNoDownload = errors.New("parley: the torrent does not download")
)
