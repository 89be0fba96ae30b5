package veil

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/obfs"
)

type hexBytes = wiretest.Hex

// sharedSession is the "in" of the vectors of one session.
type sharedSession struct {
	IV               hexBytes `json:"iv"`
	InitiatorPrivate hexBytes `json:"initiator_private"`
	ResponderPrivate hexBytes `json:"responder_private"`
	InitiatorTopBit  int      `json:"initiator_top_bit"`
	ResponderTopBit  int      `json:"responder_top_bit"`
	PadI             hexBytes `json:"pad_i"`
	PadR             hexBytes `json:"pad_r"`
	InfoHash         hexBytes `json:"info_hash"`
	SwarmKey         hexBytes `json:"swarm_key"`
}

func (s sharedSession) secret() Secret {
	if s.SwarmKey != nil {
		return SecretOfSwarmKey((*[32]byte)(s.SwarmKey))
	}
	return Secret(s.InfoHash)
}

// run plays the session and returns both sides, the flights, and copies of the sides as they were when message 1 was made.
func (s sharedSession) run(t *testing.T) (i Initiator, r Responder, flightI, flightR []byte) {
	t.Helper()
	secret := s.secret()
	in := drawer{private: s.InitiatorPrivate, iv: s.IV, topBit: s.InitiatorTopBit, pad: s.PadI}.reader()
	if err := i.Init(Config{Rand: in}, &secret); err != nil {
		t.Fatal(err)
	}
	flightI = i.AppendOutput(nil)
	in = drawer{private: s.ResponderPrivate, topBit: s.ResponderTopBit, pad: s.PadR, less: MinAnswerPad}.reader()
	if err := r.Open(Config{Rand: in}, (*[96]byte)(flightI), &secret); err != nil {
		t.Fatal(err)
	}
	flightR = r.AppendOutput(nil)
	if _, err := r.Feed(flightI[96:]); err != nil {
		t.Fatal(err)
	}
	if rest, err := i.Feed(bytes.Clone(flightR)); err != nil || len(rest) != len(flightR)-AnswerBytes {
		t.Fatalf("%d bytes left: %v", len(rest), err)
	}
	return i, r, flightI, flightR
}

// TestShared checks everything that a second implementation says about the veil.
func TestShared(t *testing.T) {
	vectors := wiretest.LoadShared(t, "veil.json")
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			switch name := v.Name; {
			case strings.HasSuffix(name, ": keys"), strings.HasSuffix(name, ": message 1"), strings.HasSuffix(name, ": message 2"), strings.HasSuffix(name, ": split"):
				sharedHandshake(t, v)
			case strings.Contains(name, ": records "):
				sharedRecords(t, v)
			case strings.HasPrefix(name, "records: "):
				sharedBroken(t, v)
			case strings.HasPrefix(name, "refused: "), strings.HasPrefix(name, "bit 255"), strings.HasPrefix(name, "version 200"):
				sharedHello(t, v)
			case strings.HasPrefix(name, "identity"):
				sharedIdentity(t, v)
			default:
				t.Fatal("what is it?")
			}
		})
	}
	t.Logf("checked %d vectors of a second implementation", len(vectors))
}

func sharedHandshake(t *testing.T, v wiretest.SharedVector) {
	var in sharedSession
	var out map[string]hexBytes
	v.Unpack(t, &in, &out)
	i, r, flightI, flightR := in.run(t)
	secret := in.secret()

	// What does not show from outside is computed as the sides compute it.
	var s side
	tag := Tag(in.IV, &secret)
	s.start((*[16]byte)(in.IV), &tag, &secret)
	prk := hmacSHA256(in.IV, secret[:])
	psk := expand(&prk, nil, "EMP/1 psk", 1)
	eI, eR := [32]byte(flightI[36:]), [32]byte(flightR)
	mask := func(e [32]byte, mask [32]byte) []byte {
		xor(&e, &mask)
		e[31] &= 0x7f
		return e[:]
	}
	helloI, _ := replay(t, &secret, flightI, flightR, in.ResponderPrivate, true)
	helloR, _ := replay(t, &secret, flightI, flightR, in.ResponderPrivate, false)
	k1, k2 := i.noise.split()
	var d1, d2 direction
	d1.init(&k1)
	d2.init(&k2)
	h, h2 := i.Hash(), r.Hash()
	if h != h2 {
		t.Errorf("h of the responder is %x, that of the initiator %x", h2, h)
	}
	got := map[string][]byte{
		"secret": secret[:], "tag": tag[:], "psk": psk[:], "mask_i": s.maskI[:], "mask_r": s.maskR[:],
		"prologue":    append(append([]byte("EMP/1 veiled hello"), in.IV...), tag[:]...),
		"e_i_public":  mask(eI, s.maskI),
		"e_r_public":  mask(eR, s.maskR),
		"e_i_sent":    eI[:],
		"e_r_sent":    eR[:],
		"box_i":       flightI[68:96],
		"box_r":       flightR[32:60],
		"h":           h[:],
		"i2r":         k1[:],
		"r2i":         k2[:],
		"i2r_aead":    d1.bodyKey[:],
		"i2r_len":     d1.lenKey[:],
		"r2i_aead":    d2.bodyKey[:],
		"r2i_len":     d2.lenKey[:],
		"hello_plain": helloI,
		"flight":      flightI,
	}
	if strings.HasSuffix(v.Name, "message 2") {
		got["hello_plain"], got["flight"] = helloR, flightR
	}
	for name, want := range out {
		if g, ok := got[name]; !ok || !bytes.Equal(g, want) {
			t.Errorf("%s: %x, want %x", name, g, want)
		}
	}
	for name, d := range map[string]*direction{"i2r": &i.streams.sealer.direction, "i2r, responder": &r.streams.opener.direction} {
		if d.bodyKey != d1.bodyKey || d.lenKey != d1.lenKey {
			t.Errorf("%s: not the keys of Split's first", name)
		}
	}
	for name, d := range map[string]*direction{"r2i": &r.streams.sealer.direction, "r2i, initiator": &i.streams.opener.direction} {
		if d.bodyKey != d2.bodyKey || d.lenKey != d2.lenKey {
			t.Errorf("%s: not the keys of Split's second", name)
		}
	}
}

// replay opens the boxes of a recorded handshake with the responder's private key and returns one of the two HELLOs, and h.
func replay(t *testing.T, secret *Secret, flightI, flightR, private []byte, first bool) (hello []byte, h [32]byte) {
	t.Helper()
	var s side
	key, err := newEphemeral(bytes.NewReader(private))
	if err != nil {
		t.Fatal(err)
	}
	s.key = key
	s.start((*[16]byte)(flightI), (*[20]byte)(flightI[16:]), secret)
	e := s.receiveKey((*[32]byte)(flightI[36:]), &s.maskI)
	plain, ok := s.noise.open((*[boxBytes]byte)(flightI[68:]))
	if !ok {
		t.Fatal("message 1 does not open")
	}
	if first {
		return plain[:], h
	}
	s.receiveKey((*[32]byte)(flightR), &s.maskR)
	if err := s.mixSharedKey(&e); err != nil {
		t.Fatal(err)
	}
	if plain, ok = s.noise.open((*[boxBytes]byte)(flightR[32:])); !ok {
		t.Fatal("message 2 does not open")
	}
	return plain[:], s.noise.h
}

// directionOf returns a direction of the key that Split made.
func directionOf(key []byte) (d direction) {
	d.init((*[32]byte)(key))
	return d
}

// appendRecord appends a record with any payload and padding, which Seal does not make.
func appendRecord(s *sealer, dst, payload []byte, padlen int) []byte {
	return s.record(dst, append(binary.BigEndian.AppendUint16(nil, uint16(padlen)), payload...), padlen)
}

func sharedRecords(t *testing.T, v wiretest.SharedVector) {
	var in struct {
		Key     hexBytes
		Records []struct {
			Payload hexBytes
			Padlen  int
		}
	}
	var out struct{ Records []hexBytes }
	v.Unpack(t, &in, &out)
	s, o := sealer{direction: directionOf(in.Key)}, opener{direction: directionOf(in.Key)}
	bySeal := sealer{direction: directionOf(in.Key)}
	for i := range bySeal.pads {
		bySeal.pads[i] = uint16(in.Records[i].Padlen)
	}
	for i, r := range in.Records {
		got := appendRecord(&s, nil, r.Payload, r.Padlen)
		if !bytes.Equal(got, out.Records[i]) {
			t.Fatalf("record %d: %x, want %x", i, got, out.Records[i])
		}
		if len(r.Payload) == 0 { // Seal makes none such
			bySeal.next()
		} else if got := seal(&bySeal, r.Payload); !bytes.Equal(got, out.Records[i]) {
			t.Fatalf("record %d, by Seal: %x, want %x", i, got, out.Records[i])
		}
		if plain := mustOpen(t, &o, got); !bytes.Equal(plain, r.Payload) {
			t.Fatalf("record %d opens as %x, want %x", i, plain, r.Payload)
		}
	}
}

func sharedBroken(t *testing.T, v wiretest.SharedVector) {
	var in struct{ Key, Bytes hexBytes }
	var out struct {
		Payloads []hexBytes
		Error    *string
	}
	v.Unpack(t, &in, &out)
	o := opener{direction: directionOf(in.Key)}
	b := in.Bytes
	for _, want := range out.Payloads {
		plain, rest, err := o.Open(b)
		if err != nil || !bytes.Equal(plain, want) {
			t.Fatalf("%x, %v, want %x", plain, err, want)
		}
		b = rest
	}
	if out.Error == nil {
		if len(b) != 0 {
			t.Fatalf("%d bytes are left", len(b))
		}
		return
	}
	plain, _, err := o.Open(b)
	if plain != nil {
		t.Errorf("%x came with an error", plain)
	}
	wantBroken(t, &o, err)
}

func sharedHello(t *testing.T, v wiretest.SharedVector) {
	var in struct {
		InfoHash hexBytes `json:"info_hash"`
		First    hexBytes `json:"first_96"`
		Flight   hexBytes
	}
	var out struct {
		Error  string
		Chosen byte `json:"version_chosen"`
		Padlen int
	}
	v.Unpack(t, &in, &out)
	flight := append(in.First, in.Flight...)
	secret := Secret(in.InfoHash)
	var r Responder
	private := bytes.Repeat([]byte{7}, 32)
	c := Config{Rand: drawer{private: private, pad: make([]byte, MinAnswerPad), less: MinAnswerPad}.reader()}
	err := r.Open(c, (*[96]byte)(flight), &secret)
	if out.Error != "" {
		wantRefused(t, err)
		if b := r.AppendOutput(nil); len(b) != 0 {
			t.Errorf("%x would be sent", b)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.skip != out.Padlen {
		t.Errorf("padlen %d, want %d", r.skip, out.Padlen)
	}
	hello, _ := replay(t, &secret, flight, r.AppendOutput(nil), private, false)
	if out.Chosen != 0 && hello[0] != out.Chosen || hello[0] != 1 {
		t.Errorf("version %d was chosen, want %d", hello[0], out.Chosen)
	}
	if rest, err := r.Feed(flight[96:]); err != nil || len(rest) != 0 {
		t.Errorf("%d bytes left: %v", len(rest), err)
	}
	if _, ok := r.Done(); ok != (len(flight) == 96+out.Padlen) {
		t.Errorf("done: %v after %d of %d bytes of padding", ok, len(flight)-96, out.Padlen)
	}
}

func sharedIdentity(t *testing.T, v wiretest.SharedVector) {
	var in struct {
		Private, H hexBytes
		Role       int
	}
	var out struct{ K, S, Signed hexBytes }
	v.Unpack(t, &in, &out)
	h, initiator := [32]byte(in.H), in.Role == 0
	if b := signed(out.K, initiator, &h); !bytes.Equal(b[:], out.Signed) {
		t.Errorf("signed: %x, want %x", b, out.Signed)
	}
	priv := ed25519.NewKeyFromSeed(in.Private)
	if s := SignIdentity(priv, initiator, &h); !bytes.Equal(s[:], out.S) || !bytes.Equal(priv.Public().(ed25519.PublicKey), out.K) {
		t.Errorf("signature %x, want %x", s, out.S)
	}
	if err := VerifyIdentity(out.K, out.S, initiator, &h); err != nil {
		t.Error(err)
	}
	if VerifyIdentity(out.K, out.S, !initiator, &h) == nil {
		t.Error("holds for the other side too")
	}
}

var _ obfs.Opener = (*opener)(nil)
