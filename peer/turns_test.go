package peer

import (
	"fmt"
	"strings"
	"testing"
)

// EMP/1 §7.4: what is short waits for no fragment that has not begun, if it comes after its turn was of no use to it; but a fragment has its turn behind it.
func TestShortMessagesGoFirst(t *testing.T) {
	d := usually(t)
	d.submit("big", 0, text(40*16384))
	d.hear(request(0, 1, 0, 16384, ""), request(1, 1, 0, 16384, ""))
	turns := func(n int) string {
		t.Helper()
		var s []string
		for range n {
			s = append(s, brief(d.said(1)))
		}
		return strings.Join(s, "; ")
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s:\nwrites %s\nwant   %s", what, got, want)
		}
	}
	const fragment = "data 0 16384"
	want("a large message alone", turns(3), "data 0 first 16384/655360; "+fragment+"; "+fragment)
	d.tell("two", "small")
	want("a small message", turns(2), "data 1 first 5/5; "+fragment)
	d.respond(0, 0, "short")
	want("a short answer", turns(2), "data of answer 0 first 5/5; "+fragment)
	d.tell("two", "small")
	d.respond(1, 0, text(16384))
	want("both, which do not fit into one turn", turns(4), "data 2 first 5/5; "+fragment+"; data of answer 1 first 16384/16384; "+fragment)

	// However many there are, every second turn is the large message's.
	fragments := 0
	for i := range 20 {
		d.tell("two", fmt.Sprint("small ", i))
		if strings.Contains(turns(1), fragment) {
			fragments++
		}
	}
	if fragments < 9 || fragments > 11 {
		t.Errorf("%d fragments in 20 turns beside small messages that never end, want every second", fragments)
	}
}
