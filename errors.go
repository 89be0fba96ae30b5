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
	// ErrVersionUnsupported: the peer receives the type, but not in that version, or not in any that this side can send; where the dialect has no
	// versions that is every one but 0 (EMP/1 table 7.6).
	ErrVersionUnsupported = errors.New("parley: message version not received by the peer")
	// ErrRequestsUnsupported: the dialect has no requests, nor messages that are written bit by bit (EMP/1 table 7.6), or the peer takes no requests at all.
	ErrRequestsUnsupported = errors.New("parley: requests unsupported in this dialect")
	// ErrNoHandler: the peer has no handler for requests of the type (EMP/1 section 7.5, status 1).
	ErrNoHandler = errors.New("parley: no handler for the request")
	// ErrRefused: the peer has refused the message or request. A request handler that returns it refuses (status 2).
	ErrRefused = errors.New("parley: refused")
	// ErrHandlerFailed: the peer's handler has failed (status 3); the [*RequestError] has its text.
	ErrHandlerFailed = errors.New("parley: the peer's handler failed")
	// ErrHandlerTimeout: the peer's handler has taken too long (status 4).
	ErrHandlerTimeout = errors.New("parley: the peer's handler timed out")
	// ErrReplyTooLarge: the answer is longer than was asked for (status 5).
	ErrReplyTooLarge = errors.New("parley: answer too large")
	// ErrPeerBusy: the peer is out of memory for messages, or has too many requests (code 5, status 6). The call may be repeated.
	ErrPeerBusy = errors.New("parley: peer busy")
	// ErrMessageLength: a MessageWriter was given more or less than it was said to write.
	ErrMessageLength = errors.New("parley: message of another length than was said")
	// ErrAbandoned: the sender of a message that is read as it comes has given it up, or the session has ended.
	ErrAbandoned = errors.New("parley: message abandoned by its sender")
	// ErrTypeNarrowed: the type was registered before with a larger range of versions, or for larger messages; peers were told, and it may only grow
	// (EMP/1 section 6.2).
	ErrTypeNarrowed = errors.New("parley: message type narrower than before")
	// ErrHasHandler: Messages was called for a type that has a handler.
	ErrHasHandler = errors.New("parley: the message type has a handler")
	// ErrSwarmKeyUsed: another torrent of the client has that TorrentOptions.SwarmKey. A veiled hello names nothing but its key, so each torrent needs one of its own.
	ErrSwarmKeyUsed = errors.New("parley: swarm key used for another torrent")
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
