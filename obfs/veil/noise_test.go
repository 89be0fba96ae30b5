package veil

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"testing"

	flynn "github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
)

// flynnState returns flynn/noise's handshake for what the veil is made of.
func flynnState(t *testing.T, initiator bool, private, psk, prologue []byte) *flynn.HandshakeState {
	t.Helper()
	hs, err := flynn.NewHandshakeState(flynn.Config{
		CipherSuite:  flynn.NewCipherSuite(flynn.DH25519, flynn.CipherChaChaPoly, flynn.HashSHA256),
		Pattern:      flynn.HandshakeNN,
		Initiator:    initiator,
		Prologue:     prologue,
		PresharedKey: psk,
		Random:       bytes.NewReader(private),
	})
	if err != nil {
		t.Fatal(err)
	}
	return hs
}

// TestAgainstFlynn compares both sides with flynn/noise, which knows nothing of masks and paddings: messages, h and the keys of Split, for random
// keys and secrets; and lets each side talk to it.
func TestAgainstFlynn(t *testing.T) {
	rng := testRand(1)
	for range 40 {
		var secret Secret
		rng.Read(secret[:])
		iv, private := make([]byte, ivBytes), [2][]byte{make([]byte, 32), make([]byte, 32)}
		for _, b := range [][]byte{iv, private[0], private[1]} {
			rng.Read(b)
		}
		tag := Tag(iv, &secret)
		prologue := append(append([]byte("EMP/1 veiled hello"), iv...), tag[:]...)
		key := func(info string) []byte {
			b, err := hkdf.Key(sha256.New, secret[:], iv, info, 32)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		psk, maskI, maskR := key("EMP/1 psk"), key("EMP/1 initiator mask"), key("EMP/1 responder mask")
		unmask := func(flight, mask []byte) []byte {
			b := bytes.Clone(flight)
			for i := range mask {
				b[i] ^= mask[i]
			}
			b[31] &= 0x7f
			return b
		}
		theirI, theirR := flynnState(t, true, private[0], psk, prologue), flynnState(t, false, private[1], psk, prologue)

		var i Initiator
		pad := make([]byte, rng.Uint64()%513)
		in := drawer{private: private[0], iv: iv, topBit: int(rng.Uint64() & 1), pad: pad}
		if err := i.Init(Config{Rand: in.reader()}, &secret); err != nil {
			t.Fatal(err)
		}
		flightI := i.AppendOutput(nil)
		hello := []byte{1, 0, byte(len(pad) >> 8), byte(len(pad)), 0, 0, 0, 0, 0, 0, 0, 0}
		want, _, _, err := theirI.WriteMessage(nil, hello)
		if err != nil {
			t.Fatal(err)
		}
		message := unmask(flightI[36:96], maskI)
		if !bytes.Equal(message, want) {
			t.Fatalf("message 1 is %x, theirs %x", message, want)
		}
		if got, _, _, err := theirR.ReadMessage(nil, message); err != nil || !bytes.Equal(got, hello) {
			t.Fatalf("they read %x: %v", got, err)
		}

		var r Responder
		pad = make([]byte, 36+rng.Uint64()%513)
		in = drawer{private: private[1], topBit: int(rng.Uint64() & 1), pad: pad, less: MinAnswerPad}
		if err := r.Open(Config{Rand: in.reader()}, (*[96]byte)(flightI), &secret); err != nil {
			t.Fatal(err)
		}
		r.Feed(flightI[96:])
		flightR := r.AppendOutput(nil)
		hello[2], hello[3] = byte(len(pad)>>8), byte(len(pad))
		want, c1, c2, err := theirR.WriteMessage(nil, hello)
		if err != nil {
			t.Fatal(err)
		}
		message = unmask(flightR[:60], maskR)
		if !bytes.Equal(message, want) {
			t.Fatalf("message 2 is %x, theirs %x", message, want)
		}
		if _, _, _, err := theirI.ReadMessage(nil, message); err != nil {
			t.Fatal(err)
		}
		if _, err := i.Feed(flightR); err != nil {
			t.Fatal(err)
		}

		hi, hr := i.Hash(), r.Hash()
		if h := theirR.ChannelBinding(); !bytes.Equal(hi[:], h) || hi != hr {
			t.Fatalf("h is %x and %x, theirs %x", hi, hr, h)
		}
		for name, s := range map[string]*noise{"initiator": &i.noise, "responder": &r.noise} {
			if k1, k2 := s.split(); k1 != c1.UnsafeKey() || k2 != c2.UnsafeKey() {
				t.Fatalf("%s: Split made %x and %x, theirs %x and %x", name, k1, k2, c1.UnsafeKey(), c2.UnsafeKey())
			}
		}
		k := c1.UnsafeKey()
		for info, got := range map[string][32]byte{"EMP/1 record": r.streams.opener.bodyKey, "EMP/1 length": r.streams.opener.lenKey} {
			if want, err := hkdf.Key(sha256.New, k[:], nil, info, 32); err != nil || !bytes.Equal(got[:], want) {
				t.Fatalf("%s: %x, want %x (%v)", info, got, want, err)
			}
		}
	}
}

// TestHKDF compares our HKDF with crypto/hkdf for every length of secret and salt that it takes.
func TestHKDF(t *testing.T) {
	rng := testRand(2)
	for n := range 65 {
		secret, salt := make([]byte, n), make([]byte, 64-n)
		rng.Read(secret)
		rng.Read(salt)
		want, err := hkdf.Key(sha256.New, secret, salt, "some information", 96)
		if err != nil {
			t.Fatal(err)
		}
		prk := hmacSHA256(salt, secret)
		var before []byte
		for i := range 3 {
			got := expand(&prk, before, "some information", byte(i+1))
			if !bytes.Equal(got[:], want[32*i:32*i+32]) {
				t.Fatalf("%d bytes of secret: T(%d) is %x, want %x", n, i+1, got, want[32*i:32*i+32])
			}
			before = got[:]
		}
	}
}

// TestBox compares the boxes of HELLOs with chacha20poly1305.
func TestBox(t *testing.T) {
	rng := testRand(3)
	for range 200 {
		var s noise
		rng.Read(s.ck[:])
		rng.Read(s.h[:])
		rng.Read(s.prk[:])
		k := expand(&s.prk, s.ck[:], "", 2)
		aead, err := chacha20poly1305.New(k[:])
		if err != nil {
			t.Fatal(err)
		}
		var plain [plainBytes]byte
		rng.Read(plain[:])
		want := aead.Seal(nil, make([]byte, 12), plain[:], s.h[:])
		var box [boxBytes]byte
		sealed := s
		sealed.seal(&box, &plain)
		if !bytes.Equal(box[:], want) {
			t.Fatalf("sealed as %x, want %x", box, want)
		}
		opened := s
		if got, ok := opened.open(&box); !ok || got != plain || opened != sealed {
			t.Fatalf("opened as %x, %v, want %x", got, ok, plain)
		}
		for i := range box {
			bad := box
			bad[i] ^= 1 << (rng.Uint64() % 8)
			if got, ok := s.open(&bad); ok || got != [plainBytes]byte{} {
				t.Fatalf("opened with byte %d changed", i)
			}
		}
	}
}
