package classic_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/classic"
)

const vectorsDir = "../testdata/vectors/classic"

// extensions are the kinds that travel inside extended frames, which package ltep knows.
var extensions = []wire.Kind{wire.KindExchange, wire.KindMetadata, wire.KindPEX, wire.KindDontHave, wire.KindUploadOnly}

// appendMessage writes any message of the vocabulary that classic has.
func appendMessage(dst []byte, m wire.Message) ([]byte, error) {
	switch m := m.(type) {
	case wire.KeepAlive:
		return classic.AppendKeepAlive(dst), nil
	case wire.Choke:
		return classic.AppendChoke(dst), nil
	case wire.Unchoke:
		return classic.AppendUnchoke(dst), nil
	case wire.Interested:
		return classic.AppendInterested(dst), nil
	case wire.NotInterested:
		return classic.AppendNotInterested(dst), nil
	case wire.Have:
		return classic.AppendHave(dst, m), nil
	case wire.Bitfield:
		return classic.AppendBitfield(dst, m), nil
	case wire.Request:
		return classic.AppendRequest(dst, m), nil
	case wire.Piece:
		return classic.AppendPiece(dst, m), nil
	case wire.Cancel:
		return classic.AppendCancel(dst, m), nil
	case wire.Port:
		return classic.AppendPort(dst, m), nil
	case wire.Suggest:
		return classic.AppendSuggest(dst, m), nil
	case wire.HaveAll:
		return classic.AppendHaveAll(dst), nil
	case wire.HaveNone:
		return classic.AppendHaveNone(dst), nil
	case wire.Reject:
		return classic.AppendReject(dst, m), nil
	case wire.AllowedFast:
		return classic.AppendAllowedFast(dst, m), nil
	case wire.HashRequest:
		return classic.AppendHashRequest(dst, m), nil
	case wire.Hashes:
		return classic.AppendHashes(dst, m), nil
	case wire.HashReject:
		return classic.AppendHashReject(dst, m), nil
	case wire.Extended:
		return classic.AppendExtended(dst, m), nil
	case wire.Unknown: // never sent, hence without an Append of its own
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.Payload)+1))
		return append(append(dst, m.ID), m.Payload...), nil
	}
	return nil, fmt.Errorf("no way to write %T", m)
}

// build makes the message that a vector means.
func build(v wiretest.Value) (m wire.Message, err error) {
	r := v.Read()
	u32 := func(name string) uint32 { return uint32(r.Uint(name)) }
	block := func() bt.Block {
		return bt.Block{Index: bt.PieceIndex(u32("index")), Begin: u32("begin"), Length: u32("length")}
	}
	span := func() (s wire.HashSpan) {
		copy(s.Root[:], r.Bytes("root"))
		s.BaseLayer, s.Index, s.Length, s.ProofLayers = u32("base"), u32("index"), u32("length"), u32("proof")
		return s
	}
	orEmpty := func(b []byte) []byte { return append([]byte{}, b...) } // what is read is never nil
	switch v.Kind {
	case "keep-alive":
		m = wire.KeepAlive{}
	case "choke":
		m = wire.Choke{}
	case "unchoke":
		m = wire.Unchoke{}
	case "interested":
		m = wire.Interested{}
	case "not interested":
		m = wire.NotInterested{}
	case "have":
		m = wire.Have{Index: bt.PieceIndex(u32("index"))}
	case "bitfield":
		m = wire.Bitfield{Bits: orEmpty(r.Bytes("bits"))}
	case "request":
		m = wire.Request{Block: block()}
	case "piece":
		m = wire.Piece{Index: bt.PieceIndex(u32("index")), Begin: u32("begin"), Data: orEmpty(r.Bytes("data"))}
	case "cancel":
		m = wire.Cancel{Block: block()}
	case "port":
		m = wire.Port{Port: uint16(r.Uint("port"))}
	case "suggest":
		m = wire.Suggest{Index: bt.PieceIndex(u32("index"))}
	case "have all":
		m = wire.HaveAll{}
	case "have none":
		m = wire.HaveNone{}
	case "reject":
		m = wire.Reject{Block: block()}
	case "allowed fast":
		m = wire.AllowedFast{Index: bt.PieceIndex(u32("index"))}
	case "hash request":
		m = wire.HashRequest{HashSpan: span()}
	case "hashes":
		m = wire.Hashes{HashSpan: span(), Data: orEmpty(r.Bytes("data"))}
	case "hash reject":
		m = wire.HashReject{HashSpan: span()}
	case "extended":
		m = wire.Extended{ID: uint8(r.Uint("id")), Payload: orEmpty(r.Bytes("payload"))}
	case "unknown":
		m = wire.Unknown{ID: uint8(r.Uint("id")), Payload: orEmpty(r.Bytes("payload"))}
	default:
		return nil, fmt.Errorf("no kind %q", v.Kind)
	}
	return m, r.Err()
}

// isHello tells the vectors of hellos, which begin otherwise, from those of frames.
func isHello(v wiretest.Vector) bool { return strings.HasPrefix(v.File, "hello.txt:") }

func TestFrameVectors(t *testing.T) {
	kinds := make(map[wire.Kind]bool)
	for _, v := range wiretest.Load(t, vectorsDir) {
		if isHello(v) {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			if n := int(binary.BigEndian.Uint32(v.Bytes)); n != len(v.Bytes)-classic.LengthBytes {
				t.Fatalf("%s: length field %d for %d bytes", v.File, n, len(v.Bytes)-classic.LengthBytes)
			}
			var d classic.Decoder
			got, err := d.Decode(v.Bytes[classic.LengthBytes:])
			if v.Fails != "" {
				wiretest.WantFailure(t, err, v.Fails)
				return
			}
			want, berr := build(v.Means)
			if berr != nil {
				t.Fatalf("%s: %v", v.File, berr)
			}
			if err != nil || !reflect.DeepEqual(wiretest.Plain(got), want) {
				t.Errorf("%s: read as %+v, %v; want %+v", v.File, got, err, want)
			}
			if wrote, err := appendMessage(nil, want); err != nil || !bytes.Equal(wrote, v.Bytes) {
				t.Errorf("%s: written as %x, %v; want %x", v.File, wrote, err, v.Bytes)
			}
			kinds[want.Kind()] = true
		})
	}
	for k := range wire.NumKinds {
		if !slices.Contains(extensions, k) && !kinds[k] {
			t.Errorf("no vector of %v", k)
		}
	}
}

func TestHelloVectors(t *testing.T) {
	for _, v := range wiretest.Load(t, vectorsDir) {
		if !isHello(v) {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			got, complete, err := classic.ParseHello(v.Bytes)
			if v.Fails != "" {
				wiretest.WantFailure(t, err, v.Fails)
				return
			}
			r := v.Means.Read()
			var want classic.Hello
			copy(want.Reserved[:], r.Bytes("reserved"))
			copy(want.InfoHash[:], r.Bytes("info-hash"))
			copy(want.PeerID[:], r.Bytes("peer-id"))
			if err := r.Err(); err != nil || v.Means.Kind != "hello" {
				t.Fatalf("%s: %v: %v", v.File, v.Means, err)
			}
			if err != nil || !complete || got != want {
				t.Errorf("%s: read as %+v, %v, %v; want %+v", v.File, got, complete, err, want)
			}
			if wrote := classic.AppendHello(nil, want); !bytes.Equal(wrote, v.Bytes) {
				t.Errorf("%s: written as %x", v.File, wrote)
			}
		})
	}
}

// Every prefix of a hello is known as far as it goes: nothing below 20 bytes, the info-hash from 48, all from 68.
func TestParseHelloPrefixes(t *testing.T) {
	want := classic.Hello{Reserved: wire.Reserved{1, 2, 3, 4, 5, 6, 7, 8}}
	for i := range want.InfoHash {
		want.InfoHash[i], want.PeerID[i] = byte(100+i), byte(200+i)
	}
	b := classic.AppendHello(nil, want)
	if len(b) != classic.HelloBytes || classic.PrefixBytes != 20 || classic.AnswerBytes != 48 {
		t.Fatalf("a hello of %d bytes", len(b))
	}
	for n := range b {
		h, complete, err := classic.ParseHello(b[:n])
		if complete || err != nil {
			t.Fatalf("%d bytes: complete %v, error %v", n, complete, err)
		}
		if known := h.InfoHash == want.InfoHash; known != (n >= classic.AnswerBytes) || !known && !h.InfoHash.IsZero() {
			t.Fatalf("%d bytes: info-hash %v", n, h.InfoHash)
		}
		if h.PeerID != (bt.PeerID{}) || n >= 28 && h.Reserved != want.Reserved {
			t.Fatalf("%d bytes: %+v", n, h)
		}
	}
	// What follows is not the hello's.
	if h, complete, err := classic.ParseHello(append(b, "more"...)); h != want || !complete || err != nil {
		t.Fatalf("with more behind it: %+v, %v, %v", h, complete, err)
	}
	// Every byte of the prefix counts, and is looked at once all of them are there: EMP/1 section 2.
	for i := range classic.PrefixBytes {
		bad := bytes.Clone(b)
		bad[i] ^= 0x20
		if _, _, err := classic.ParseHello(bad[:19]); err != nil {
			t.Fatalf("byte %d: decided before 20 bytes: %v", i, err)
		}
		_, _, err := classic.ParseHello(bad[:20])
		wiretest.WantFailure(t, err, "not a plaintext")
	}
}

func codec() wiretest.Codec {
	var d classic.Decoder
	b := bt.Block{Index: 1, Begin: 2, Length: 3}
	h := wire.HashSpan{Root: [wire.HashBytes]byte{0: 1, 31: 2}, BaseLayer: 1 << 31, Index: 1 << 30, Length: 1 << 29, ProofLayers: 1 << 28}
	return wiretest.Codec{
		Dialect:     wire.DialectClassic,
		Unsupported: extensions,
		Samples: []wire.Message{
			wire.KeepAlive{}, wire.Choke{}, wire.Unchoke{}, wire.Interested{}, wire.NotInterested{}, wire.Have{Index: 1 << 31},
			wire.Bitfield{Bits: []byte{1, 2, 3}}, wire.Request{Block: b}, wire.Piece{Index: 1, Begin: 2, Data: []byte("block")},
			wire.Cancel{Block: b}, wire.Port{Port: 0xfffe}, wire.Suggest{Index: 5}, wire.HaveAll{}, wire.HaveNone{}, wire.Reject{Block: b},
			wire.HashRequest{HashSpan: h}, wire.Hashes{HashSpan: h, Data: bytes.Repeat([]byte("hash"), 16)}, wire.HashReject{HashSpan: h},
			wire.AllowedFast{Index: 6}, wire.Extended{ID: 7, Payload: []byte("x")}, wire.Unknown{ID: 200, Payload: []byte("y")},
		},
		Append: appendMessage,
		Decode: d.Decode,
	}
}

func TestContract(t *testing.T) { codec().Test(t) }

// KindOf and Decode must never disagree, because limits are judged by the one and meaning by the other.
func TestKindOf(t *testing.T) {
	var d classic.Decoder
	for id := range 256 {
		frame := append([]byte{byte(id)}, make([]byte, 12)...)
		k := classic.KindOf(byte(id))
		m, err := d.Decode(frame)
		if s, ok := errors.AsType[*wire.SyntaxError](err); ok {
			if s.Kind != k {
				t.Errorf("id %d: kind %v, its error is about %v", id, k, s.Kind)
			}
		} else if m.Kind() != k {
			t.Errorf("id %d: kind %v, decoded as %v", id, k, m.Kind())
		}
	}
}

func TestPutPieceHead(t *testing.T) {
	data := []byte("some data")
	want := classic.AppendPiece(nil, wire.Piece{Index: 7, Begin: 1 << 20, Data: data})
	got := append(bytes.Repeat([]byte{0xff}, classic.PieceHeadBytes), data...)
	classic.PutPieceHead(got, bt.Block{Index: 7, Begin: 1 << 20, Length: uint32(len(data))})
	if !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestExtendedHead(t *testing.T) {
	want := classic.AppendExtended(nil, wire.Extended{ID: 9, Payload: []byte("payload")})
	if got := append(classic.AppendExtendedHead(nil, 9, 7), "payload"...); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// Appending and decoding every message allocates nothing once there is room.
func TestAllocs(t *testing.T) {
	var d classic.Decoder
	dst := make([]byte, 0, 64<<10)
	data := make([]byte, bt.BlockBytes)
	b := bt.Block{Index: 1, Begin: 2, Length: 3}
	var h classic.Hello
	var failed error
	got := testing.AllocsPerRun(100, func() {
		dst = classic.AppendHello(dst[:0], h)
		if _, _, err := classic.ParseHello(dst); err != nil {
			failed = err
		}
		dst = classic.AppendKeepAlive(dst[:0])
		dst = classic.AppendChoke(dst)
		dst = classic.AppendUnchoke(dst)
		dst = classic.AppendInterested(dst)
		dst = classic.AppendNotInterested(dst)
		dst = classic.AppendHave(dst, wire.Have{Index: 1})
		dst = classic.AppendBitfield(dst, wire.Bitfield{Bits: data[:100]})
		dst = classic.AppendRequest(dst, wire.Request{Block: b})
		dst = classic.AppendPiece(dst, wire.Piece{Index: 1, Data: data})
		dst = classic.AppendCancel(dst, wire.Cancel{Block: b})
		dst = classic.AppendPort(dst, wire.Port{Port: 1})
		dst = classic.AppendSuggest(dst, wire.Suggest{Index: 1})
		dst = classic.AppendHaveAll(dst)
		dst = classic.AppendHaveNone(dst)
		dst = classic.AppendReject(dst, wire.Reject{Block: b})
		dst = classic.AppendAllowedFast(dst, wire.AllowedFast{Index: 1})
		dst = classic.AppendExtended(dst, wire.Extended{ID: 1, Payload: data[:50]})
		dst = classic.AppendHashRequest(dst, wire.HashRequest{})
		dst = classic.AppendHashes(dst, wire.Hashes{Data: data[:64]})
		dst = classic.AppendHashReject(dst, wire.HashReject{})
		dst = append(dst, 0, 0, 0, 2, 99, 1) // unknown
		for rest := dst; len(rest) > 0; {
			n := classic.LengthBytes + int(binary.BigEndian.Uint32(rest))
			if _, err := d.Decode(rest[classic.LengthBytes:n]); err != nil {
				failed = err
			}
			rest = rest[n:]
		}
	})
	if got != 0 || failed != nil {
		t.Errorf("%v allocations, error %v", got, failed)
	}
}

func TestSharedVectors(t *testing.T) {
	checked := 0
	for _, v := range wiretest.LoadShared(t, "classic.json") {
		switch {
		case strings.HasPrefix(v.Name, "hello "):
			var in struct {
				Reserved wiretest.Hex
				InfoHash wiretest.Hex `json:"info_hash"`
				PeerID   wiretest.Hex `json:"peer_id"`
			}
			var out struct{ Hello wiretest.Hex }
			v.Unpack(t, &in, &out)
			h := classic.Hello{Reserved: wire.Reserved(in.Reserved), InfoHash: bt.InfoHash(in.InfoHash), PeerID: bt.PeerID(in.PeerID)}
			if got := classic.AppendHello(nil, h); !bytes.Equal(got, out.Hello) {
				t.Errorf("%s: written as %x, want %x", v.Name, got, out.Hello)
			}
			if got, complete, err := classic.ParseHello(out.Hello); got != h || !complete || err != nil {
				t.Errorf("%s: read as %+v, %v, %v", v.Name, got, complete, err)
			}
		case strings.HasPrefix(v.Name, "frame "):
			var in struct {
				ID      int
				Payload wiretest.Hex
			}
			var out struct{ Frame wiretest.Hex }
			v.Unpack(t, &in, &out)
			c := codec()
			m, err := c.Decode(out.Frame[classic.LengthBytes:])
			if err != nil {
				t.Errorf("%s: %v", v.Name, err)
				continue
			}
			k := wire.KindKeepAlive
			if in.ID >= 0 {
				k = classic.KindOf(byte(in.ID))
			}
			if m.Kind() != k {
				t.Errorf("%s: read as %v, want %v", v.Name, m.Kind(), k)
			}
			if got, err := c.Append(nil, wiretest.Plain(m)); err != nil || !bytes.Equal(got, out.Frame) {
				t.Errorf("%s: written as %x, %v; want %x", v.Name, got, err, out.Frame)
			}
		case strings.HasPrefix(v.Name, "ENP "), strings.HasPrefix(v.Name, "dialect: "), v.Name == "ut_metadata":
			continue // checked by packages peer and wire/ltep
		default:
			t.Errorf("nobody checks %q", v.Name)
			continue
		}
		checked++
	}
	t.Logf("checked %d vectors of a second implementation", checked)
}

func FuzzDecode(f *testing.F) {
	for _, v := range wiretest.Load(f, vectorsDir) {
		if !isHello(v) {
			f.Add(v.Bytes[classic.LengthBytes:])
		}
	}
	c := codec()
	f.Fuzz(func(t *testing.T, frame []byte) { c.Stable(t, frame) })
}

func FuzzParseHello(f *testing.F) {
	for _, v := range wiretest.Load(f, vectorsDir) {
		f.Add(v.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, complete, err := classic.ParseHello(b)
		if complete != (err == nil && len(b) >= classic.HelloBytes) {
			t.Fatalf("%d bytes: complete %v, error %v", len(b), complete, err)
		}
		if err != nil {
			wiretest.WantFailure(t, err, "not a plaintext")
		}
		if complete && !bytes.Equal(classic.AppendHello(nil, h), b[:classic.HelloBytes]) {
			t.Fatalf("%x is read as %+v", b, h)
		}
	})
}

func BenchmarkDecodeRequest(b *testing.B) {
	frame := classic.AppendRequest(nil, wire.Request{Block: bt.Block{Index: 1, Length: bt.BlockBytes}})[classic.LengthBytes:]
	var d classic.Decoder
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = classic.AppendRequest(dst[:0], wire.Request{Block: bt.Block{Index: 1, Length: bt.BlockBytes}})
	}
	if _, err := io.Discard.Write(dst); err != nil {
		b.Fatal(err)
	}
}
