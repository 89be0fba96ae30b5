// Command hellos does the cryptography of obfuscated hellos again and again, on the packages that the library uses. See package repeat for its output.
//
//	hellos mse              both sides of MSE, RC4, with an initial payload of 68 bytes: each is given the other's bytes
//	hellos mse-pipe         the same over a pipe in memory, each on a goroutine
//	hellos veil             both sides of a veiled hello, to both pairs of streams
//	hellos veil-pipe        the same over a pipe in memory
//	hellos veil-prepared    with keys that were made before
//	hellos accept           the accepting side alone
//	hellos accept-prepared  with a key that was made before
//	hellos x25519           two keys and two shared secrets
//	hellos x25519-accept    a key and a shared secret
//	hellos find -n N        the TAG of the last of N torrents, for each of them
//	hellos sha1 -n N        SHA-1 of 36 bytes N times, for each
package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/parley-bt/parley/bench/internal/repeat"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
)

func main() {
	if err := repeat.Main(os.Args[1:], choose); err != nil {
		fmt.Println("ERR", err)
		os.Exit(1)
	}
}

var (
	secret     = [20]byte([]byte("an info-hash, 20 b.."))
	errNotDone = errors.New("the handshake is not done")
)

// pairs is in one batch: some ten milliseconds.
const pairs = 100

func choose(what string, n int) (repeat.Thing, error) {
	if n < 1 {
		return repeat.Thing{}, errors.New("-n is at least 1")
	}
	each := func(f func() error) repeat.Thing {
		return repeat.Thing{Batch: pairs, Do: func(n int) error {
			for range n {
				if err := f(); err != nil {
					return err
				}
			}
			return nil
		}}
	}
	var b bench
	switch what {
	case "mse":
		return each(b.mse), nil
	case "mse-pipe":
		return each(msePipe), nil
	case "veil":
		return each(func() error { return b.veil(nil, nil) }), nil
	case "veil-pipe":
		return each(veilPipe), nil
	case "veil-prepared":
		t := each(func() error { return b.veil(b.key(), b.key()) })
		t.Prepare = func(n int) error { return b.makeKeys(2 * n) }
		return t, nil
	case "accept":
		t := each(func() error { return b.accept(nil) })
		t.Prepare = b.makeFlights
		return t, nil
	case "accept-prepared":
		t := each(func() error { return b.accept(b.key()) })
		t.Prepare = func(n int) error { return errors.Join(b.makeFlights(n), b.makeKeys(n)) }
		return t, nil
	case "x25519":
		return each(x25519), nil
	case "x25519-accept":
		t := each(b.x25519Accept)
		t.Prepare = b.makePeer
		return t, nil
	case "find":
		return find(n)
	case "sha1":
		return hashes(n), nil
	}
	return repeat.Thing{}, fmt.Errorf("%q: nothing of that name", what)
}

// bench is what lives from one time to the next.
type bench struct {
	buf     []byte
	keys    []*veil.Key
	flights [][]byte
	peer    *ecdh.PublicKey
}

func (b *bench) makeKeys(n int) error {
	b.keys = b.keys[:0]
	for range n {
		k, err := veil.NewKey(rand.Reader)
		if err != nil {
			return err
		}
		b.keys = append(b.keys, k)
	}
	return nil
}

// key takes a key that was made before.
func (b *bench) key() *veil.Key {
	k := b.keys[len(b.keys)-1]
	b.keys = b.keys[:len(b.keys)-1]
	return k
}

// makeFlights makes first flights of initiators.
func (b *bench) makeFlights(n int) error {
	b.flights = b.flights[:0]
	for range n {
		i := new(veil.Initiator)
		if err := i.Init(veil.Config{Rand: rand.Reader}, (*veil.Secret)(&secret)); err != nil {
			return err
		}
		b.flights = append(b.flights, i.AppendOutput(nil))
	}
	return nil
}

func done(hs ...obfs.Handshake) error {
	for _, h := range hs {
		if _, ok := h.Done(); !ok {
			return errNotDone
		}
	}
	return nil
}

func (b *bench) veil(ki, kr *veil.Key) error {
	i, r := new(veil.Initiator), new(veil.Responder)
	if err := i.Init(veil.Config{Rand: rand.Reader, Key: ki}, (*veil.Secret)(&secret)); err != nil {
		return err
	}
	b.buf = i.AppendOutput(b.buf[:0])
	if err := r.Open(veil.Config{Rand: rand.Reader, Key: kr}, (*[veil.HelloBytes]byte)(b.buf), (*veil.Secret)(&secret)); err != nil {
		return err
	}
	if _, err := r.Feed(b.buf[veil.HelloBytes:]); err != nil {
		return err
	}
	b.buf = r.AppendOutput(b.buf[:0])
	if _, err := i.Feed(b.buf); err != nil {
		return err
	}
	return done(i, r)
}

func (b *bench) accept(key *veil.Key) error {
	flight := b.flights[len(b.flights)-1]
	b.flights = b.flights[:len(b.flights)-1]
	r := new(veil.Responder)
	if err := r.Open(veil.Config{Rand: rand.Reader, Key: key}, (*[veil.HelloBytes]byte)(flight), (*veil.Secret)(&secret)); err != nil {
		return err
	}
	if _, err := r.Feed(flight[veil.HelloBytes:]); err != nil {
		return err
	}
	b.buf = r.AppendOutput(b.buf[:0])
	return done(r)
}

// ia is what MSE's initiator sends along: as long as a classic hello.
var ia = make([]byte, 68)

func (b *bench) mse() error {
	c := mse.Config{Rand: rand.Reader, Methods: mse.RC4}
	i, r := new(mse.Initiator), new(mse.Responder)
	if err := i.Init(c, secret, ia); err != nil {
		return err
	}
	b.buf = i.AppendOutput(b.buf[:0])
	if err := r.Begin(c, (*[mse.KeyBytes]byte)(b.buf)); err != nil {
		return err
	}
	if err := feedMSE(r, b.buf[mse.KeyBytes:]); err != nil {
		return err
	}
	b.buf = r.AppendOutput(b.buf[:0])
	if _, err := i.Feed(b.buf); err != nil {
		return err
	}
	b.buf = i.AppendOutput(b.buf[:0])
	if err := feedMSE(r, b.buf); err != nil {
		return err
	}
	b.buf = r.AppendOutput(b.buf[:0])
	if _, err := i.Feed(b.buf); err != nil {
		return err
	}
	return done(i, r)
}

// feedMSE gives a responder bytes, and says which torrent it is.
func feedMSE(r *mse.Responder, p []byte) error {
	rest, err := r.Feed(p)
	if err != nil {
		return err
	}
	if hash, ok := r.Asked(); ok {
		r.Answer(secret, hash == mse.Req2(&secret))
		_, err = r.Feed(rest)
	}
	return err
}

// run runs one side over a connection.
func run(nc net.Conn, h obfs.Handshake, feed func(p []byte) error) error {
	buf := make([]byte, 2048)
	for {
		if out := h.AppendOutput(buf[:0]); len(out) > 0 {
			if _, err := nc.Write(out); err != nil {
				return err
			}
		}
		if _, ok := h.Done(); ok {
			return nil
		}
		n, err := nc.Read(buf)
		if err != nil {
			return err
		}
		if err := feed(buf[:n]); err != nil {
			return err
		}
	}
}

func feeder(h obfs.Handshake) func(p []byte) error {
	return func(p []byte) error {
		_, err := h.Feed(p)
		return err
	}
}

func msePipe() error {
	c := mse.Config{Rand: rand.Reader, Methods: mse.RC4}
	return repeat.Both(func(nc net.Conn) error {
		i := new(mse.Initiator)
		if err := i.Init(c, secret, ia); err != nil {
			return err
		}
		return run(nc, i, feeder(i))
	}, func(nc net.Conn) error {
		var head [mse.KeyBytes]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return err
		}
		r := new(mse.Responder)
		if err := r.Begin(c, &head); err != nil {
			return err
		}
		return run(nc, r, func(p []byte) error { return feedMSE(r, p) })
	})
}

func veilPipe() error {
	c := veil.Config{Rand: rand.Reader}
	return repeat.Both(func(nc net.Conn) error {
		i := new(veil.Initiator)
		if err := i.Init(c, (*veil.Secret)(&secret)); err != nil {
			return err
		}
		return run(nc, i, feeder(i))
	}, func(nc net.Conn) error {
		var head [veil.HelloBytes]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return err
		}
		r := new(veil.Responder)
		if err := r.Open(c, &head, (*veil.Secret)(&secret)); err != nil {
			return err
		}
		return run(nc, r, feeder(r))
	})
}

// scalar is a private key. They are not drawn here: that is no operation of X25519.
var scalar = []byte("thirty-two bytes, as good as any")

// x25519 makes two keys and, on both sides, the shared secret.
func x25519() error {
	x, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		return err
	}
	y, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		return err
	}
	if _, err := x.ECDH(y.PublicKey()); err != nil {
		return err
	}
	_, err = y.ECDH(x.PublicKey())
	return err
}

func (b *bench) makePeer(int) error {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err == nil {
		b.peer = k.PublicKey()
	}
	return err
}

func (b *bench) x25519Accept() error {
	k, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		return err
	}
	k.PublicKey()
	_, err = k.ECDH(b.peer)
	return err
}

// hashed is about as many hashes as are in one batch: some milliseconds.
const hashed = 200_000

func find(n int) (repeat.Thing, error) {
	secrets := make([]veil.Secret, n)
	for i := range secrets {
		rand.Read(secrets[i][:])
	}
	i := new(veil.Initiator)
	if err := i.Init(veil.Config{Rand: rand.Reader}, &secrets[n-1]); err != nil {
		return repeat.Thing{}, err
	}
	hello := i.AppendOutput(nil)
	return repeat.Thing{Batch: max(1, hashed/n), Per: n, Do: func(times int) error {
		for range times {
			if veil.Find(hello, secrets) != n-1 {
				return errors.New("it was not found")
			}
		}
		return nil
	}}, nil
}

// hashes keeps what it has hashed: nobody could use a sum otherwise, and a call whose result is dropped takes a tenth less.
func hashes(n int) repeat.Thing {
	var in [36]byte
	rand.Read(in[:])
	return repeat.Thing{Batch: max(1, hashed/n), Per: n, Do: func(times int) error {
		var sum [sha1.Size]byte
		for range times {
			for k := range n {
				in[0] = byte(k)
				sum = sha1.Sum(in[:])
			}
		}
		if sum == [sha1.Size]byte{} {
			return errors.New("nothing was hashed")
		}
		return nil
	}}
}
