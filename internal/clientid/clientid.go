// Package clientid tells clients by their peer IDs: what they say who they are, before or instead of saying it in words (BEP 10, "v"). It does not decide what to make of it.
//
//	-XX1234-abcdefghijkl    XX is the client, 1234 its version, the rest random (BEP 20)
package clientid

import (
	"strings"

	"github.com/parley-bt/parley/bt"
)

// Of reads a client's name and version from its peer ID, where that is in the style of Azureus ("-XX1234-"); empty in other styles. Whoever makes a peer ID may claim to be
// any client.
func Of(id bt.PeerID) string {
	if id[0] != '-' || id[7] != '-' {
		return ""
	}
	code := string(id[1:3])
	for _, c := range code + string(id[3:7]) {
		if c < '!' || c > '~' {
			return ""
		}
	}
	name := names[code]
	if name == "" {
		name = code
	}
	v := string([]byte{id[3], '.', id[4], '.', id[5], '.', id[6]})
	return name + " " + strings.TrimSuffix(v, ".0") // most use three digits
}

// names are the codes of clients that people meet.
var names = map[string]string{"PY": "Parley", "LT": "libtorrent", "lt": "libTorrent", "TR": "Transmission", "qB": "qBittorrent", "A2": "aria2", "DE": "Deluge",
	"UT": "uTorrent", "BI": "BiglyBT", "AZ": "Azureus", "WW": "WebTorrent", "GT": "anacrolix/torrent", "RN": "rain", "KT": "KTorrent", "BC": "BitComet"}
