package veil

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"slices"
)

// ErrBadIdentity is an identity whose signature does not hold, which ends the session (EMP/1 section 5.1).
var ErrBadIdentity = errors.New("veil: bad identity signature")

const identityLabel = "EMP/1 identity\x00"

// signedBytes is how much is signed.
const signedBytes = len(identityLabel) + 1 + ed25519.PublicKeySize + 32

// signed returns what a peer signs (EMP/1 section 5.1).
func signed(k []byte, initiator bool, h *[32]byte) (b [signedBytes]byte) {
	n := copy(b[:], identityLabel)
	if !initiator {
		b[n] = 1
	}
	n++
	n += copy(b[n:], k)
	copy(b[n:], h[:])
	return b
}

// SignIdentity returns "s" of the exchange in which the side that is named proves its key in the session with hash h (EMP/1 section 5.1); "k" is
// priv.Public(). It panics if priv has not the length of a private key.
func SignIdentity(priv ed25519.PrivateKey, initiator bool, h *[32]byte) [64]byte {
	b := signed(priv[ed25519.PrivateKeySize-ed25519.PublicKeySize:], initiator, h)
	return [64]byte(ed25519.Sign(priv, b[:]))
}

// VerifyIdentity checks "k" and "s" of an exchange by the side that is named in the session with hash h. It is strict (EMP/1 section 5.1): both have
// their exact length and are encoded canonically, k is none of the points of small order, for which signatures can be made without a key, and
// the equation holds without the cofactor. The error is [ErrBadIdentity]. An exchange with "k" and without "s" is bad too, and one with "s" and
// without "k" has no identity; the first is what an s of no bytes does here, the second is the caller's.
func VerifyIdentity(k, s []byte, initiator bool, h *[32]byte) error {
	if len(k) != ed25519.PublicKeySize || len(s) != ed25519.SignatureSize || !strictKey([32]byte(k)) {
		return ErrBadIdentity
	}
	// That S is canonical is checked there; that R is, and that no cofactor counts, follows from how it compares: the bytes of R with those of
	// the encoding of [S]B - [hash]A.
	b := signed(k, initiator, h)
	if !ed25519.Verify(k, b[:], s) {
		return ErrBadIdentity
	}
	return nil
}

// strictKey reports whether k, a point or not, is encoded canonically and not of small order.
func strictKey(k [32]byte) bool {
	k[31] &= 0x7f // the sign of x. Where x is 0 it must be 0; both such points are of small order
	return canonical(&k) && !slices.Contains(smallOrder[:], k)
}

// canonical reports whether y, little-endian and below 2^255, is below the prime 2^255-19.
func canonical(y *[32]byte) bool {
	if y[31] != 0x7f || y[0] < 0xed {
		return true
	}
	for _, b := range y[1:31] {
		if b != 0xff {
			return true
		}
	}
	return false
}

// smallOrder is the y of the eight points whose order divides the cofactor, with the sign of x cleared: there are five.
var smallOrder = [5][32]byte{
	unhex("0000000000000000000000000000000000000000000000000000000000000000"), // order 4, two
	unhex("0100000000000000000000000000000000000000000000000000000000000000"), // order 1
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), // order 2
	unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), // order 8, two
	unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), // order 8, two
}

func unhex(s string) [32]byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return [32]byte(b)
}
