package sceptic

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rc4"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/big"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/parley-bt/parley/obfs/mse"
	"github.com/parley-bt/parley/obfs/veil"
)

// This file is initiators that can say what ours never would, made from other parts: flynn/noise for the veil, math/big and crypto/rc4 for MSE. They panic where only this test can be wrong.

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A veiled is the initiator of a veiled session.
type veiled struct {
	rng    io.Reader
	hs     *noise.HandshakeState
	iv     []byte
	secret veil.Secret
	hello  []byte // the first 96 bytes
	out    *records
	in     *records
}

func (v *veiled) hkdf(info string) []byte {
	return must(hkdf.Key(sha256.New, v.secret[:], v.iv, info, 32))
}

// plainHello is a HELLO.
func plainHello(version byte, padlen int) []byte {
	b := make([]byte, 12)
	b[0] = version
	binary.BigEndian.PutUint16(b[2:], uint16(padlen))
	return b
}

// newVeiled makes a hello with any HELLO in its box.
func newVeiled(rng io.Reader, secret veil.Secret, plain []byte) *veiled {
	v := &veiled{rng: rng, secret: secret, iv: random(rng, 16)}
	tag := sha1.Sum(append(append([]byte(nil), v.iv...), secret[:]...))
	v.hello = append(append(v.hello, v.iv...), tag[:]...)
	v.hs = must(noise.NewHandshakeState(noise.Config{
		CipherSuite: noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256), Random: rng, Pattern: noise.HandshakeNN, Initiator: true,
		Prologue: append([]byte("EMP/1 veiled hello"), v.hello...), PresharedKey: v.hkdf("EMP/1 psk"), PresharedKeyPlacement: 0,
	}))
	m, _, _, err := v.hs.WriteMessage(nil, plain)
	if err != nil {
		panic(err)
	}
	m[31] |= random(rng, 1)[0] & 0x80
	for i, b := range v.hkdf("EMP/1 initiator mask") {
		m[i] ^= b
	}
	v.hello = append(v.hello, m...)
	return v
}

// answered reads the 60 bytes of an answer and returns how much padding follows.
func (v *veiled) answered(b []byte) (padlen int) {
	m := append([]byte(nil), b[:veil.AnswerBytes]...)
	for i, x := range v.hkdf("EMP/1 responder mask") {
		m[i] ^= x
	}
	m[31] &= 0x7f
	plain, first, second, err := v.hs.ReadMessage(nil, m)
	if err != nil {
		panic(err)
	}
	v.out, v.in = newRecords(first.UnsafeKey()), newRecords(second.UnsafeKey())
	return int(binary.BigEndian.Uint16(plain[2:]))
}

// records is one direction's keys, and which record is next.
type records struct {
	aead   cipher.AEAD
	lenKey []byte
	n      uint64
}

func newRecords(split [32]byte) *records {
	key := must(hkdf.Key(sha256.New, split[:], nil, "EMP/1 record", 32))
	return &records{aead: must(chacha20poly1305.New(key)), lenKey: must(hkdf.Key(sha256.New, split[:], nil, "EMP/1 length", 32))}
}

func (r *records) nonce() []byte { return binary.LittleEndian.AppendUint64(make([]byte, 4), r.n) }

// maskLen masks, and unmasks, a LEN of the next record.
func (r *records) maskLen(n int) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(n))
	must(chacha20.NewUnauthenticatedCipher(r.lenKey, r.nonce())).XORKeyStream(b, b)
	return b
}

// raw seals any plaintext, which has its padlen in it.
func (r *records) raw(plain []byte) []byte {
	b := r.maskLen(len(plain) + 16)
	b = r.aead.Seal(b, r.nonce(), plain, b)
	r.n++
	return b
}

// seal seals a payload.
func (r *records) seal(payload []byte, pad int) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(pad))
	return r.raw(append(append(b, payload...), make([]byte, pad)...))
}

// p768 is MSE's prime.
var p768, _ = new(big.Int).SetString("FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"+
	"EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563", 16)

// An mseStart is the initiator of an MSE handshake.
type mseStart struct {
	rng io.Reader
	x   *big.Int
	ya  []byte
	out *rc4.Cipher
}

func newMSE(rng io.Reader) *mseStart {
	m := &mseStart{rng: rng, x: new(big.Int).SetBytes(random(rng, 20))}
	m.ya = new(big.Int).Exp(big.NewInt(2), m.x, p768).FillBytes(make([]byte, mse.KeyBytes))
	return m
}

// third is what is odd about step 3.
type third struct {
	skey    [20]byte
	vc      [8]byte
	provide uint32
	padC    int // as it is announced; as much follows, up to 600 bytes
	ia      []byte
	noIA    int // how much of IA is left out, though it was announced
}

// third makes step 3 for a Yb.
func (m *mseStart) third(yb []byte, o third) []byte {
	s := new(big.Int).Exp(new(big.Int).SetBytes(yb[:mse.KeyBytes]), m.x, p768).FillBytes(make([]byte, mse.KeyBytes))
	sum := func(parts ...[]byte) []byte {
		h := sha1.New()
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	b := sum([]byte("req1"), s)
	req2, req3 := sum([]byte("req2"), o.skey[:]), sum([]byte("req3"), s)
	for i := range req2 {
		b = append(b, req2[i]^req3[i])
	}
	m.out = must(rc4.NewCipher(sum([]byte("keyA"), s, o.skey[:])))
	m.out.XORKeyStream(make([]byte, 1024), make([]byte, 1024))
	var head []byte
	head = append(head, o.vc[:]...)
	head = binary.BigEndian.AppendUint32(head, o.provide)
	head = binary.BigEndian.AppendUint16(head, uint16(o.padC))
	head = append(head, make([]byte, min(o.padC, 600))...)
	head = binary.BigEndian.AppendUint16(head, uint16(len(o.ia)))
	head = append(head, o.ia[:len(o.ia)-o.noIA]...)
	m.out.XORKeyStream(head, head)
	return append(b, head...)
}

func random(rng io.Reader, n int) []byte {
	b := make([]byte, n)
	must(io.ReadFull(rng, b))
	return b
}
