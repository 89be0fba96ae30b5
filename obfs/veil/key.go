package veil

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
)

// Key is an ephemeral X25519 key that can be prepared before a handshake needs it. It is good for one handshake: a key that is seen twice would
// link two sessions. Copies of a Key are the same key and are used up together.
type Key struct {
	e *ephemeral
}

// ephemeral is a key pair; private is nil once it was taken.
type ephemeral struct {
	private *ecdh.PrivateKey
	public  [keyBytes]byte
}

// ErrKeyUsed is what Init and Open return for a [Key] that a handshake has used already, or that [NewKey] did not make.
var ErrKeyUsed = errors.New("veil: ephemeral key was used before")

// NewKey makes a key of the next 32 bytes of rand, exactly. The error is that of rand, wrapped.
func NewKey(rand io.Reader) (*Key, error) {
	e, err := newEphemeral(rand)
	if err != nil {
		return nil, err
	}
	return &Key{&e}, nil
}

func newEphemeral(rand io.Reader) (ephemeral, error) {
	var scalar [keyBytes]byte
	if _, err := io.ReadFull(rand, scalar[:]); err != nil {
		return ephemeral{}, fmt.Errorf("veil: ephemeral key: %w", err)
	}
	// Not GenerateKey, which uses a source of its own.
	private, err := ecdh.X25519().NewPrivateKey(scalar[:])
	if err != nil {
		return ephemeral{}, fmt.Errorf("veil: ephemeral key: %w", err) // X25519 is forbidden here (FIPS 140-only mode)
	}
	return ephemeral{private, [keyBytes]byte(private.PublicKey().Bytes())}, nil
}

// take uses the key of c up, or makes one.
func (c *Config) take() (ephemeral, error) {
	if c.Key == nil {
		return newEphemeral(c.Rand)
	}
	e := c.Key.e
	if e == nil || e.private == nil {
		return ephemeral{}, ErrKeyUsed
	}
	taken := *e
	e.private = nil
	return taken, nil
}

// mixSharedKey is Noise's token "ee". The error is errSharedKey.
func (s *side) mixSharedKey(remote *[keyBytes]byte) error {
	public, err := ecdh.X25519().NewPublicKey(remote[:])
	if err != nil {
		return errSharedKey // not with 32 bytes
	}
	shared, err := s.key.private.ECDH(public)
	if err != nil { // the only error X25519 has is an all-zero result
		return errSharedKey
	}
	s.noise.mixKey(shared)
	return nil
}
