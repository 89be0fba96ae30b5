package peerconn

import (
	"crypto/rand"
	"sync"

	"github.com/parley-bt/parley/internal/blockbuf"
	"github.com/parley-bt/parley/obfs"
	"github.com/parley-bt/parley/obfs/veil"
	"github.com/parley-bt/parley/peer"
	"github.com/parley-bt/parley/wire"
)

// This file runs what comes before a session's frames, and seals and opens those afterwards: the reader opens, whoever writes seals, and neither holds the lock meanwhile.

// begin makes the opening. The lock is held.
func (c *Conn) begin(oc peer.OpeningConfig, role peer.Role) {
	oc.Role = role
	if oc.Rand == nil {
		oc.Rand = rand.Reader
	}
	if role == peer.Initiator && oc.Hello == wire.HelloMSE {
		oc.IA = c.m.AppendOutput(c.o.Now(), nil, 0) // our classic hello
	}
	c.opening = new(peer.Opening)
	if err := c.opening.Init(oc); err != nil {
		c.m.Close(err)
		return
	}
	c.unsent = c.opening.AppendOutput(nil)
	if role == peer.Initiator && oc.Hello == wire.HelloVeil {
		copy(c.iv[:], c.unsent)
		c.o.OwnIVs.add(c)
	}
}

// open goes on with the opening. Once it is done open returns, with ok, what there is of the session's bytes: first what is plain, then what is to be opened, if there is an opener. It is the read loop's.
func (c *Conn) open(b []byte) (kept, fed []byte, ok bool) {
	o := c.opening
	o.Feed(b)
	for {
		step := o.Step()
		c.mu.Lock()
		if c.netErr != nil || c.m.Phase() == peer.PhaseClosed {
			c.mu.Unlock()
			return nil, nil, false
		}
		c.unsent = o.AppendOutput(c.unsent)
		if o.Answered() {
			c.m.Heard()
		}
		switch step {
		case peer.OpeningDone:
			c.opening = nil
			c.o.OwnIVs.drop(c)
			s := o.Streams()
			c.opener, c.sealer = s.Opener, s.Sealer
			c.m.Begin(o.Hello(), c.asked, o.Binding())
			veiled := c.session != nil && o.Hello() == wire.HelloVeil
			c.after()
			c.mu.Unlock()
			if veiled {
				c.session.Veiled(c)
			}
			kept, fed = o.Rest()
			return kept, fed, true
		case peer.OpeningFailed:
			err := o.Err()
			if c.ownSeen.Load() {
				err = peer.ErrSelfConnection
			}
			c.m.Close(err)
		case peer.OpeningDrains:
			c.opening = nil
			c.drain(o.Err())
		}
		c.after()
		drains := c.draining
		c.mu.Unlock()
		switch step {
		case peer.OpeningBytes, peer.OpeningFailed:
			return nil, nil, false
		case peer.OpeningDrains:
			if drains {
				c.beginDraining()
			}
			return nil, nil, false
		case peer.OpeningScan:
			if c.o.OwnIVs.seen(o.First()[:]) {
				o.Found(nil, false, nil)
				continue
			}
			secret, ih, err := c.o.Host.Scan(c, o.First())
			c.asked = ih
			o.Found(secret, secret != nil, err)
		case peer.OpeningKey:
			o.Key(c.o.Host.KeyExchange(c))
		case peer.OpeningTorrent:
			o.Torrent(c.o.Host.SKEY(o.Asked()))
		}
	}
}

// IVs is the veiled hellos of our own that are under way: one that comes in is a connection to ourselves (EMP/1 section 7.7). Its zero value is ready, it is safe for concurrent use, and a nil
// one remembers nothing. There are no more of them than connections that are being opened.
type IVs struct {
	mu sync.Mutex
	of map[[veil.IVBytes]byte]*Conn
}

func (i *IVs) add(c *Conn) {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.of == nil {
		i.of = make(map[[veil.IVBytes]byte]*Conn)
	}
	i.of[c.iv] = c
}

func (i *IVs) drop(c *Conn) {
	if i == nil || c.iv == ([veil.IVBytes]byte{}) {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.of, c.iv)
	c.iv = [veil.IVBytes]byte{}
}

// seen reports whether an incoming hello has an IV of ours, and notes it at the connection that sent that. That one fails by itself if it leads to us, since what the IV goes on as cannot open
// its answer; to end it here would tell whoever copied its first bytes to our port that they were a veiled hello.
func (i *IVs) seen(hello []byte) bool {
	if i == nil {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.of[[veil.IVBytes]byte(hello)]
	if c != nil {
		c.ownSeen.Store(true)
	}
	return c != nil
}

// sealBytes is how much of a large buffer is used for what is sealed into another: the rest is for what sealing adds.
const sealBytes = blockbuf.LargeBytes - 8<<10

// headroom returns how many bytes stand before what is to be sealed.
func headroom(s obfs.Sealer) int {
	if s == nil {
		return 0
	}
	return obfs.Headroom
}

// roomFor returns buf with nothing in it but the room that sealing needs.
func roomFor(buf []byte, s obfs.Sealer) []byte {
	if s == nil {
		return buf[:0]
	}
	return buf[:obfs.Headroom:min(cap(buf), sealBytes)]
}

// sealing is the buffer that one writer seals into, if it needs one.
type sealing struct{ buf *blockbuf.Large }

// seal seals what was gathered behind [roomFor], and returns it in a form that is valid until the next call.
func (s *sealing) seal(by obfs.Sealer, out []byte) []byte {
	if by == nil {
		return out
	}
	var dst []byte
	if n := by.SealedBytes(len(out) - obfs.Headroom); n > 0 {
		if s.buf == nil {
			s.buf = blockbuf.GetLarge()
		}
		if dst = s.buf.Bytes()[:0]; n > cap(dst) { // control frames are not cut
			dst = make([]byte, 0, n)
		}
	}
	return by.Seal(dst, out)
}

func (s *sealing) release() {
	if s.buf != nil {
		s.buf.Release()
	}
}

// Heard reports whether the first part of an answer to an obfuscated hello of ours has come.
func (c *Conn) Heard() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m.HasHeard()
}
