// Package rawpeer is a peer driven by hand, for tests: it writes what it is told, legal or not, and reads what comes, frame by frame. It decides
// nothing and answers nothing by itself.
package rawpeer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
	"github.com/parley-bt/parley/wire/ltep"
)

// LTEP is the reserved bits of a peer that speaks the extension protocol and the Fast extension.
var LTEP = wire.Reserved{5: 0x10, 7: 0x04}

// Peer is one end of a connection. It belongs to one goroutine for reading and one for writing.
type Peer struct {
	net.Conn
	r   *bufio.Reader
	dec classic.Decoder
	buf []byte
}

// New returns the peer at nc. The connection is closed when the test ends.
func New(t testing.TB, nc net.Conn) *Peer {
	t.Cleanup(func() { nc.Close() })
	return &Peer{Conn: nc, r: bufio.NewReader(nc)}
}

// Greet exchanges hellos: ours first, then theirs.
func (p *Peer) Greet(ih bt.InfoHash, id bt.PeerID, reserved wire.Reserved) (classic.Hello, error) {
	if _, err := p.Write(classic.AppendHello(nil, classic.Hello{Reserved: reserved, InfoHash: ih, PeerID: id})); err != nil {
		return classic.Hello{}, err
	}
	return p.ReadHello()
}

// ReadHello reads the other side's hello.
func (p *Peer) ReadHello() (classic.Hello, error) {
	var b [classic.HelloBytes]byte
	if _, err := io.ReadFull(p.r, b[:]); err != nil {
		return classic.Hello{}, err
	}
	h, _, err := classic.ParseHello(b[:])
	return h, err
}

// Read returns the next frame, which is valid until the next call.
func (p *Peer) Read() (wire.Message, error) {
	var head [classic.LengthBytes]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > 2<<20 {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	if cap(p.buf) < n {
		p.buf = make([]byte, n)
	}
	if _, err := io.ReadFull(p.r, p.buf[:n]); err != nil {
		return nil, err
	}
	return p.dec.Decode(p.buf[:n])
}

// Until reads until want says that a message is what was wanted.
func (p *Peer) Until(want func(wire.Message) bool) error {
	for {
		m, err := p.Read()
		if err != nil {
			return err
		}
		if want(m) {
			return nil
		}
	}
}

// UntilExchange reads until the other side's type exchange has come.
func (p *Peer) UntilExchange() (e ltep.Exchange, err error) {
	err2 := p.Until(func(m wire.Message) bool {
		x, ok := m.(*wire.Extended)
		if ok && x.ID == ltep.ExchangeID {
			e, err = ltep.ParseExchange(x.Payload)
			return true
		}
		return false
	})
	return e, errors.Join(err, err2)
}

// Exchange writes a type exchange.
func (p *Peer) Exchange(e ltep.Exchange) error {
	return p.Extended(ltep.ExchangeID, ltep.AppendExchange(nil, &e))
}

// Extended writes one extended frame.
func (p *Peer) Extended(id uint8, payload []byte) error {
	_, err := p.Write(classic.AppendExtended(nil, wire.Extended{ID: id, Payload: payload}))
	return err
}

// UntilClosed reads and drops everything until the other side ends the connection, however it does so. It returns how many bytes came, and an error if the
// connection still stands after the given time.
func (p *Peer) UntilClosed(within time.Duration) (int64, error) {
	if err := p.SetReadDeadline(time.Now().Add(within)); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, p.r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, fmt.Errorf("not closed within %v", within)
	}
	return n, nil
}
