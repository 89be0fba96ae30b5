package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/parley-bt/parley/tracker/proto"
)

const (
	// idEpoch is how long one secret makes connection ids; idEpochs earlier ones are accepted besides, so that an id holds
	// for at least two minutes (BEP 15) and at most three.
	idEpoch  = time.Minute
	idEpochs = 2
	// maxUDPErrors is how many failed reads in a row end the service.
	maxUDPErrors = 100
)

// ServeUDP answers on conn until ctx is done, then closes conn and returns nil. Any other end is an error. Several calls may
// share a server.
func (s *Server) ServeUDP(ctx context.Context, conn *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	in := make([]byte, 2048) // the longest request with sense in it is a scrape of 1,496 bytes
	out := make([]byte, 0, proto.ReplyDatagramBytes)
	for failures := 0; ; {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// Some systems report here that an earlier reply did not arrive, or that a datagram was cut.
			if failures++; failures == maxUDPErrors {
				return fmt.Errorf("tracker udp: %d reads in a row: %w", failures, err)
			}
			continue
		}
		failures = 0
		if out = s.handleUDP(time.Now(), in[:n], from.Addr(), out[:0]); len(out) > 0 {
			// A reply that is lost is asked for again; the sender's buffer being full is no reason to stop.
			_, _ = conn.WriteToUDPAddrPort(out, from)
		}
	}
}

// handleUDP appends the reply to one datagram to dst; nothing if there is none.
func (s *Server) handleUDP(now time.Time, in []byte, from netip.Addr, dst []byte) []byte {
	source := from.Unmap()
	q, err := proto.ParseUDPRequest(in)
	if err != nil {
		s.count(&s.stats.MalformedDatagrams)
		return dst // whoever sends nonsense, perhaps in another's name, gets no answer
	}
	if q.Action == proto.ActionConnect {
		// As long as its request, so there is nothing to gain from a forged address, and nothing is remembered.
		return proto.AppendConnectReply(dst, q.Transaction, s.connectionID(now, source, 0))
	}
	if !s.validConnectionID(now, source, q.ConnectionID) {
		s.count(&s.stats.BadConnectionIDs)
		return proto.AppendUDPError(dst, q.Transaction, "connection id expired") // shorter than any request
	}
	failure := s.admit(now, source)
	var reply *proto.AnnounceReply
	if failure == nil && q.Action == proto.ActionAnnounce {
		reply, _, failure = s.announce(now, &q.Announce, source, source, source.Is4(), source.Is6())
	}
	switch {
	case failure != nil:
		s.count(&s.stats.Refused)
		return proto.AppendUDPError(dst, q.Transaction, failure.Reason)
	case reply != nil:
		return proto.AppendUDPAnnounceReply(dst, q.Transaction, reply, source.Is6())
	}
	return proto.AppendUDPScrapeReply(dst, q.Transaction, s.scrape(now, q.Hashes))
}

// connectionID returns the id of an address, age epochs ago: a keyed hash of the epoch and the address. It does not contain
// the port, as clients may use an id from another socket.
func (s *Server) connectionID(now time.Time, addr netip.Addr, age int64) uint64 {
	mac := hmac.New(sha256.New, s.secret[:])
	var b [8 + 16]byte
	binary.BigEndian.PutUint64(b[:], uint64(now.Unix()/int64(idEpoch/time.Second)-age))
	a := addr.As16()
	copy(b[8:], a[:])
	mac.Write(b[:])
	return binary.BigEndian.Uint64(mac.Sum(nil))
}

func (s *Server) validConnectionID(now time.Time, addr netip.Addr, id uint64) bool {
	var got, want [8]byte
	binary.BigEndian.PutUint64(got[:], id)
	valid := false
	for age := range int64(idEpochs + 1) {
		binary.BigEndian.PutUint64(want[:], s.connectionID(now, addr, age))
		valid = hmac.Equal(got[:], want[:]) || valid
	}
	return valid
}
