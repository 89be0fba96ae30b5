// Package interop holds the tests that run Parley beside programs that others wrote: libtorrent, aria2, transmission, rtorrent and webtorrent for content, opentracker
// as a tracker, bittorrent-protocol for messages. `make interop` installs them and runs the tests; all traffic stays on loopback.
//
// The tests drive each program through a small peer that speaks JSON lines on its standard output and ends when its
// standard input does: drivers/lt_peer.py for libtorrent, node/peer.mjs for bittorrent-protocol, webtorrent/peer.mjs for webtorrent, pump for Parley's public
// API where memory is measured, and the parley command itself. They decide nothing about the protocol.
package interop
