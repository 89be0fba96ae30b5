package veil

import (
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20"
	//lint:ignore SA1019 the way to seal 12 bytes without allocating, see noise.seal
	"golang.org/x/crypto/poly1305"
)

// noise is the symmetric state of Noise_NNpsk0_25519_ChaChaPoly_SHA256 (Noise revision 34, section 5.2). The names are Noise's. It is here, and
// flynn/noise only in the tests, which compare the two, because a handshake of that one allocates 135 times and this one does not.
//
// The pattern seals one payload under a key, so that Noise's n is always 0 and is left out, and mixes several times before it needs one, so that k
// is made only then, of what the last mixKey left.
type noise struct {
	ck, h [32]byte
	prk   [32]byte // of the last mixKey: k is its second output
}

// protocolHash is what ck and h begin with. The name is longer than a hash and is therefore hashed.
var protocolHash = sha256.Sum256([]byte("Noise_NNpsk0_25519_ChaChaPoly_SHA256"))

func (s *noise) start(prologue []byte) {
	s.ck, s.h = protocolHash, protocolHash
	s.mixHash(prologue)
}

// mixHash is MixHash for up to 64 bytes.
func (s *noise) mixHash(data []byte) {
	var b [32 + 64]byte
	copy(b[:], s.h[:])
	s.h = sha256.Sum256(b[:32+copy(b[32:], data)])
}

// mixKey is MixKey.
func (s *noise) mixKey(input []byte) {
	s.prk = hmacSHA256(s.ck[:], input)
	s.ck = expand(&s.prk, nil, "", 1)
}

// mixKeyAndHash is MixKeyAndHash: the token "psk". Its third output would be k, for which there is no use: "e" follows, and mixes again.
func (s *noise) mixKeyAndHash(psk *[32]byte) {
	prk := hmacSHA256(s.ck[:], psk[:])
	s.ck = expand(&prk, nil, "", 1)
	temp := expand(&prk, s.ck[:], "", 2)
	s.mixHash(temp[:])
}

// mixEphemeral is the token "e" for either side's public key. With a psk the key is mixed into ck too (Noise section 9.2).
func (s *noise) mixEphemeral(public *[32]byte) {
	s.mixHash(public[:])
	s.mixKey(public[:])
}

// seal is EncryptAndHash. It is ChaCha20-Poly1305 as in RFC 8439 section 2.8, for exactly 32 bytes of additional data and 12 of plaintext, put
// together from its parts since golang.org/x/crypto/chacha20poly1305 allocates for each key.
func (s *noise) seal(dst *[boxBytes]byte, plain *[plainBytes]byte) {
	c, macKey := s.cipher()
	c.XORKeyStream(dst[:plainBytes], plain[:])
	message := s.authenticated(dst)
	poly1305.Sum((*[sealBytes]byte)(dst[plainBytes:]), message[:], &macKey)
	s.mixHash(dst[:])
}

// open is DecryptAndHash.
func (s *noise) open(box *[boxBytes]byte) (plain [plainBytes]byte, ok bool) {
	c, macKey := s.cipher()
	message := s.authenticated(box)
	if !poly1305.Verify((*[sealBytes]byte)(box[plainBytes:]), message[:], &macKey) {
		return plain, false
	}
	c.XORKeyStream(plain[:], box[:plainBytes])
	s.mixHash(box[:])
	return plain, true
}

// cipher returns ChaCha20 under k at block 1, where the plaintext begins, and the key of Poly1305, which is the head of block 0.
func (s *noise) cipher() (c chacha20.Cipher, macKey [32]byte) {
	k := expand(&s.prk, s.ck[:], "", 2)
	var nonce [chacha20.NonceSize]byte
	p, err := chacha20.NewUnauthenticatedCipher(k[:], nonce[:])
	if err != nil {
		panic(err) // sizes that are constants
	}
	p.XORKeyStream(macKey[:], macKey[:])
	p.SetCounter(1)
	return *p, macKey
}

// authenticated returns what Poly1305 is computed over: h and the ciphertext, both padded to 16 bytes, then their lengths.
func (s *noise) authenticated(box *[boxBytes]byte) (b [32 + 16 + 16]byte) {
	copy(b[:], s.h[:])
	copy(b[32:], box[:plainBytes])
	binary.LittleEndian.PutUint64(b[48:], 32)
	binary.LittleEndian.PutUint64(b[56:], plainBytes)
	return b
}

// split is Split.
func (s *noise) split() (k1, k2 [32]byte) {
	prk := hmacSHA256(s.ck[:], nil)
	k1 = expand(&prk, nil, "", 1)
	k2 = expand(&prk, k1[:], "", 2)
	return k1, k2
}

// hmacSHA256 is HMAC-SHA256, and HKDF's extract step with salt as the key (RFC 5869 section 2.2), for keys and messages of up to 64 bytes. No salt
// and 32 zeros are the same key. Unlike crypto/hmac it works on the stack.
func hmacSHA256(key, message []byte) [32]byte {
	var b [64 + 64]byte
	copy(b[:64], key)
	for i := range 64 {
		b[i] ^= 0x36
	}
	inner := sha256.Sum256(b[:64+copy(b[64:], message)])
	for i := range 64 {
		b[i] ^= 0x36 ^ 0x5c
	}
	return sha256.Sum256(b[:64+copy(b[64:], inner[:])])
}

// expand is one step of HKDF's expansion (RFC 5869 section 2.3): T(i), where before is T(i-1). It has room for a hash and 31 bytes of info.
func expand(prk *[32]byte, before []byte, info string, i byte) [32]byte {
	var b [64]byte
	n := copy(b[:], before)
	n += copy(b[n:], info)
	b[n] = i
	return hmacSHA256(prk[:], b[:n+1])
}
