// Command anacrolix does MSE's handshake by github.com/anacrolix/torrent/mse again and again: both sides, RC4, with an initial payload of 68 bytes, over a pipe in memory. It is a
// module of its own, so that nothing else here depends on that. See package repeat for its arguments and output.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/anacrolix/torrent/mse"

	"github.com/parley-bt/parley/bench/internal/repeat"
)

func main() {
	if err := repeat.Main(os.Args[1:], choose); err != nil {
		fmt.Println("ERR", err)
		os.Exit(1)
	}
}

func choose(what string, _ int) (repeat.Thing, error) {
	if what != "mse-pipe" {
		return repeat.Thing{}, fmt.Errorf("%q: want mse-pipe", what)
	}
	return repeat.Thing{Batch: 100, Do: func(n int) error {
		for range n {
			if err := pair(); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

var (
	skey = []byte("an info-hash, 20 b..")
	ia   = make([]byte, 68) // as long as a classic hello
)

func pair() error {
	return repeat.Both(func(nc net.Conn) error {
		_, method, err := mse.InitiateHandshake(nc, skey, ia, mse.CryptoMethodRC4)
		return check(method, err)
	}, func(nc net.Conn) error {
		rw, method, err := mse.ReceiveHandshake(context.Background(), nc, func(f func([]byte) bool) { f(skey) },
			func(mse.CryptoMethod) mse.CryptoMethod { return mse.CryptoMethodRC4 })
		if err := check(method, err); err != nil {
			return err
		}
		var got [68]byte // it was decrypted already
		_, err = io.ReadFull(rw, got[:])
		return err
	})
}

func check(method mse.CryptoMethod, err error) error {
	if err == nil && method != mse.CryptoMethodRC4 {
		err = fmt.Errorf("method %v", method)
	}
	return err
}
