package mse_test

import (
	"crypto/rand"
	"fmt"

	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/mse"
)

// Both sides of a handshake, whose flights are handed over in memory.
func Example() {
	infoHash := [20]byte{1, 2, 3}
	served := map[[20]byte][20]byte{mse.Req2(&infoHash): infoHash}
	config := mse.Config{Rand: rand.Reader, Methods: mse.RC4}

	var a mse.Initiator
	if err := a.Init(config, infoHash, []byte("a hello")); err != nil {
		panic(err)
	}
	flight := a.AppendOutput(nil)

	var b mse.Responder
	if err := b.Begin(config, (*[mse.KeyBytes]byte)(flight)); err != nil {
		panic(err)
	}
	if _, err := b.Feed(flight[mse.KeyBytes:]); err != nil {
		panic(err)
	}
	if _, err := a.Feed(b.AppendOutput(nil)); err != nil {
		panic(err)
	}
	rest, err := b.Feed(a.AppendOutput(nil))
	if asked, ok := b.Asked(); ok {
		infoHash, found := served[asked]
		b.Answer(infoHash, found)
		rest, err = b.Feed(rest)
	}
	if err != nil {
		panic(err)
	}
	streams, _ := b.Done()
	ia, _, _ := streams.Opener.Open(rest)
	fmt.Printf("%s, then %v\n", ia, b.Method())

	if _, err := a.Feed(b.AppendOutput(nil)); err != nil {
		panic(err)
	}
	streamsA, _ := a.Done()
	sealed := streamsA.Sealer.Seal(nil, append(make([]byte, obfs.Headroom), "and what follows"...))
	plain, _, _ := streams.Opener.Open(sealed)
	fmt.Printf("%s\n", plain)
	// Output:
	// a hello, then rc4
	// and what follows
}
