package clientid

import (
	"testing"

	"github.com/parley-bt/parley/bt"
)

func TestOf(t *testing.T) {
	for id, want := range map[string]string{
		"-PY0100-abcdefghijkl":    "Parley 0.1.0",
		"-LT20B0-abcdefghijkl":    "libtorrent 2.0.B",
		"-TR3001-abcdefghijkl":    "Transmission 3.0.0.1",
		"A2-1-36-0-abcdefghij":    "",
		"-ZZ1234-abcdefghijkl":    "ZZ 1.2.3.4",
		"-\x1b[1234-abcdefghijkl": "",
		"-LT12\x003-abcdefghijkl": "",
		"M7-9-2--abcdefghijkl":    "",
		string(make([]byte, 20)):  "",
	} {
		if got := Of(bt.PeerID([]byte(id))); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}
