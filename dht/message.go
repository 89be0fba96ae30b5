package dht

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/parley-bt/parley/bencode"
	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/netpolicy"
)

// Bounds of what is let through of a message.
const (
	maxDatagram = 2048 // bytes; messages of BEP 5 fit in one packet
	maxDepth    = 6
	maxIDBytes  = 32 // of a transaction
	maxToken    = 64
	maxNodes    = 16
	maxValues   = 100
	maxError    = 128 // bytes of an error's text
)

// rules are what a message must obey beside its form.
type rules struct {
	self   bt.InfoHash // our own node ID: whoever uses it is us, or lies
	is6    bool        // the family of the node (BEP 32): addresses of the other one are another node's business
	policy netpolicy.Policy
}

// admit appends to dst what may be read of a message from an address: a message of BEP 5 with all that its kind needs, in the one form in which it is written, and nothing else. It reports false
// for everything that is no such message; then dst is returned as it was. It is pure: the fields that it knows are the ones that the library has been seen to handle.
func (r *rules) admit(dst, b []byte, from netip.Addr) ([]byte, bool) {
	if len(b) > maxDatagram {
		return dst, false
	}
	v, _, err := bencode.Parse(b, bencode.Limits{Bytes: maxDatagram, Depth: maxDepth})
	if err != nil || v.Kind() != bencode.KindDict {
		return dst, false
	}
	id, ok := text(v, "t")
	if !ok || len(id) == 0 || len(id) > maxIDBytes {
		return dst, false
	}
	var d bencode.Dict
	d.SetBytes("t", id)
	kind, _ := text(v, "y")
	switch string(kind) {
	case "q":
		ok = r.query(&d, v)
	case "r":
		ok = r.response(&d, v, from)
	case "e":
		ok = failure(&d, v)
	default:
		return dst, false
	}
	if !ok {
		return dst, false
	}
	d.SetBytes("y", kind)
	return d.Append(dst), true
}

// query takes over a query: what it asks, and its arguments.
func (r *rules) query(d *bencode.Dict, v bencode.Value) bool {
	in, _ := v.Get("a")
	var a bencode.Dict
	if !r.sender(&a, in) {
		return false
	}
	method, _ := text(v, "q")
	switch string(method) {
	case "ping":
	case "find_node":
		if !hash(&a, in, "target") {
			return false
		}
	case "get_peers":
		if !hash(&a, in, "info_hash") {
			return false
		}
	case "announce_peer":
		token, ok := text(in, "token")
		if !ok || len(token) == 0 || len(token) > maxToken || !hash(&a, in, "info_hash") {
			return false
		}
		a.SetBytes("token", token)
		if flag(in, "implied_port") {
			a.SetInt("implied_port", 1)
		} else {
			p, _ := in.Get("port")
			port, ok := p.Int()
			if !ok || port < 1 || port > 65535 {
				return false
			}
			a.SetInt("port", port)
		}
	default:
		return false // BEP 44 among others, which is not offered
	}
	// "want" is left out: a node of one family answers with what it has.
	d.SetDict("a", &a)
	d.SetBytes("q", method)
	if flag(v, "ro") {
		d.SetInt("ro", 1) // BEP 43: not to be asked
	}
	return true
}

// response takes over an answer: to ping, to announce_peer, or with nodes, peers and a token to the others.
func (r *rules) response(d *bencode.Dict, v bencode.Value, from netip.Addr) bool {
	in, _ := v.Get("r")
	var a bencode.Dict
	if !r.sender(&a, in) {
		return false
	}
	by := netpolicy.ClassOf(from)
	key, size := "nodes", 20+6
	if r.is6 {
		key, size = "nodes6", 20+18
	}
	if nodes, ok := text(in, key); ok {
		var kept []byte
		for ; len(nodes) >= size && len(kept) < maxNodes*size; nodes = nodes[size:] {
			if n := nodes[:size]; bt.InfoHash(n[:20]) != r.self && r.allowed(n[20:], by) {
				kept = append(kept, n...)
			}
		}
		a.SetBytes(key, kept)
	}
	if list, ok := in.Get("values"); ok && list.Kind() == bencode.KindList {
		values := []byte{'l'}
		n := 0
		for p := range first(list, maxValues) {
			if p, ok := p.Bytes(); ok && (len(p) == 6 || len(p) == 18) && r.allowed(p, by) {
				values = bencode.AppendBytes(values, p)
				n++
			}
		}
		if n > 0 {
			a.SetRaw("values", append(values, 'e'))
		}
	}
	if token, ok := text(in, "token"); ok && len(token) <= maxToken {
		a.SetBytes("token", token)
	}
	d.SetDict("r", &a)
	return true
}

// failure takes over an error: a number and a text.
func failure(d *bencode.Dict, v bencode.Value) bool {
	e, ok := v.Get("e")
	if !ok || e.Kind() != bencode.KindList {
		return false
	}
	var code int64
	var say []byte
	i := 0
	for x := range first(e, 2) {
		if i == 0 {
			code, ok = x.Int()
		} else {
			say, _ = x.Bytes()
		}
		i++
	}
	if !ok || i == 0 || code < 0 || code > 999 {
		return false
	}
	raw := bencode.AppendInt([]byte{'l'}, code)
	d.SetRaw("e", append(bencode.AppendBytes(raw, say[:min(len(say), maxError)]), 'e'))
	return true
}

// sender takes over who speaks.
func (r *rules) sender(a *bencode.Dict, in bencode.Value) bool {
	id, ok := text(in, "id")
	if !ok || len(id) != bt.HashBytes || bt.InfoHash(id) == r.self || bt.InfoHash(id).IsZero() {
		return false
	}
	a.SetBytes("id", id)
	return true
}

// allowed reports whether a node or peer, written compactly, may be told of by a source of class by.
func (r *rules) allowed(compact []byte, by netpolicy.Class) bool {
	ip, ok := netip.AddrFromSlice(compact[:len(compact)-2])
	return ok && !ip.Is4In6() && binary.BigEndian.Uint16(compact[len(compact)-2:]) != 0 && r.policy.Check(ip, by) == nil
}

func text(v bencode.Value, key string) ([]byte, bool) {
	x, _ := v.Get(key)
	return x.Bytes()
}

func flag(v bencode.Value, key string) bool {
	x, _ := v.Get(key)
	n, _ := x.Int()
	return n == 1
}

func hash(a *bencode.Dict, in bencode.Value, key string) bool {
	h, ok := text(in, key)
	if ok = ok && len(h) == bt.HashBytes; ok {
		a.SetBytes(key, h)
	}
	return ok
}

// first yields the first n elements of a list.
func first(list bencode.Value, n int) iter.Seq[bencode.Value] {
	return func(yield func(bencode.Value) bool) {
		i := 0
		for x := range list.List() {
			if i++; i > n || !yield(x) {
				return
			}
		}
	}
}
