package veil

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/parley-bt/parley/obfs"
)

// ownVectors are what testdata/vectors.json holds; testdata/README.md says what the fields mean.
type ownVectors struct {
	Format     int           `json:"format"`
	File       string        `json:"file"`
	Sessions   []ownSession  `json:"sessions"`
	Hellos     []ownHello    `json:"hellos"`
	Identities []ownIdentity `json:"identities"`
}

type ownSession struct {
	Name          string      `json:"name"`
	SwarmKey      string      `json:"swarm_key,omitempty"`
	Secret        string      `json:"secret"`
	InitiatorRand string      `json:"initiator_rand"`
	ResponderRand string      `json:"responder_rand"`
	InitiatorSend string      `json:"initiator_flight"`
	ResponderSend string      `json:"responder_flight"`
	Hash          string      `json:"h"`
	I2R           string      `json:"i2r"`
	R2I           string      `json:"r2i"`
	Records       []ownSealed `json:"records"`
}

// ownSealed is one call of Seal.
type ownSealed struct {
	From    string `json:"from"`
	Payload string `json:"payload,omitempty"`
	Bytes   int    `json:"payload_length,omitempty"` // for long ones, of zeros
	Sealed  string `json:"sealed,omitempty"`
	SHA256  string `json:"sealed_sha256,omitempty"`
}

type ownHello struct {
	Name   string `json:"name"`
	Secret string `json:"secret"`
	Hello  string `json:"first_96"`
	Error  bool   `json:"refused"`
}

type ownIdentity struct {
	Seed      string `json:"seed"`
	Hash      string `json:"h"`
	Initiator bool   `json:"initiator"`
	K         string `json:"k"`
	S         string `json:"s"`
}

// makeVectors makes all vectors from fixed seeds.
func makeVectors(t *testing.T) ownVectors {
	v := ownVectors{Format: 1, File: "veil"}
	for n, name := range []string{"info-hash", "another", "closed swarm"} {
		s := ownSession{Name: name}
		rng := testRand(uint64(1000 + n))
		var secret Secret
		rng.Read(secret[:])
		if name == "closed swarm" {
			var key [32]byte
			rng.Read(key[:])
			s.SwarmKey, secret = hex.EncodeToString(key[:]), SecretOfSwarmKey(&key)
		}
		s.Secret = hex.EncodeToString(secret[:])

		var i Initiator
		var r Responder
		var drawnI, drawnR bytes.Buffer
		if err := i.Init(Config{Rand: io.TeeReader(rng, &drawnI)}, &secret); err != nil {
			t.Fatal(err)
		}
		flightI := i.AppendOutput(nil)
		if err := r.Open(Config{Rand: io.TeeReader(rng, &drawnR)}, (*[96]byte)(flightI), &secret); err != nil {
			t.Fatal(err)
		}
		flightR := r.AppendOutput(nil)
		if _, err := r.Feed(flightI[96:]); err != nil {
			t.Fatal(err)
		}
		if _, err := i.Feed(flightR); err != nil {
			t.Fatal(err)
		}
		h := i.Hash()
		k1, k2 := i.noise.split()
		s.InitiatorRand, s.ResponderRand = hex.EncodeToString(drawnI.Bytes()), hex.EncodeToString(drawnR.Bytes())
		s.InitiatorSend, s.ResponderSend = hex.EncodeToString(flightI), hex.EncodeToString(flightR)
		s.Hash, s.I2R, s.R2I = hex.EncodeToString(h[:]), hex.EncodeToString(k1[:]), hex.EncodeToString(k2[:])

		si, _ := i.Done()
		sr, _ := r.Done()
		for _, side := range []struct {
			from   string
			sealer obfs.Sealer
		}{{"initiator", si.Sealer}, {"responder", sr.Sealer}} {
			for _, payload := range []string{"\x00\x00\x00\x05\x14\x00d0e", "\x00\x00\x00\x00", "a third", "a fourth", "a fifth, without padding"} {
				s.Records = append(s.Records, ownSealed{From: side.from, Payload: hex.EncodeToString([]byte(payload)), Sealed: hex.EncodeToString(seal(side.sealer, []byte(payload)))})
			}
			const long = 2*MaxRecordPayload + 1 // three records
			sum := sha256.Sum256(seal(side.sealer, make([]byte, long)))
			s.Records = append(s.Records, ownSealed{From: side.from, Bytes: long, SHA256: hex.EncodeToString(sum[:])})
		}
		v.Sessions = append(v.Sessions, s)
	}
	odd := helloPlain(200, 9)
	odd[1] = 0xff
	copy(odd[4:], "reserved")
	hello := func(name string, plain [plainBytes]byte, public *[32]byte, refused bool) {
		v.Hellos = append(v.Hellos, ownHello{name, hex.EncodeToString(testSecret[:]), hex.EncodeToString(forgeHello(t, plain, public)[:]), refused})
	}
	hello("version 200, flags and reserved bytes", odd, nil, false)
	hello("padlen 512", helloPlain(1, 512), nil, false)
	hello("version 0", helloPlain(0, 0), nil, true)
	hello("padlen 513", helloPlain(1, 513), nil, true)
	for _, u := range smallOrderU {
		hello("all-zero shared secret", helloPlain(1, 0), bytes32(t, u), true)
	}
	rng := testRand(1010)
	for _, initiator := range []bool{true, false} {
		var seed, h [32]byte
		rng.Read(seed[:])
		rng.Read(h[:])
		priv := ed25519.NewKeyFromSeed(seed[:])
		s := SignIdentity(priv, initiator, &h)
		v.Identities = append(v.Identities, ownIdentity{hex.EncodeToString(seed[:]), hex.EncodeToString(h[:]), initiator,
			hex.EncodeToString(priv.Public().(ed25519.PublicKey)), hex.EncodeToString(s[:])})
	}
	return v
}

// TestVectors compares the published vectors with what is made now. With -update it writes them.
func TestVectors(t *testing.T) {
	b, err := json.MarshalIndent(makeVectors(t), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	name := filepath.Join("testdata", "vectors.json")
	if *update {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s is not what is made now; if that is meant, run this test with -update", name)
	}
}

// TestVectorsReplayed plays the published sessions from their file, so that its fields are known to be enough.
func TestVectorsReplayed(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v ownVectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, s := range v.Sessions {
		secret := Secret(unhex(s.Secret))
		var i Initiator
		var r Responder
		if err := i.Init(Config{Rand: bytes.NewReader(unhex(s.InitiatorRand))}, &secret); err != nil {
			t.Fatal(err)
		}
		flightI := unhex(s.InitiatorSend)
		if got := i.AppendOutput(nil); !bytes.Equal(got, flightI) {
			t.Fatalf("%s: sends %x", s.Name, got)
		}
		if err := r.Open(Config{Rand: bytes.NewReader(unhex(s.ResponderRand))}, (*[96]byte)(flightI), &secret); err != nil {
			t.Fatal(err)
		}
		if got := r.AppendOutput(nil); hex.EncodeToString(got) != s.ResponderSend {
			t.Fatalf("%s: answers %x", s.Name, got)
		}
		r.Feed(flightI[96:])
		rest, err := i.Feed(unhex(s.ResponderSend))
		if h := i.Hash(); err != nil || hex.EncodeToString(h[:]) != s.Hash || h != r.Hash() {
			t.Fatalf("%s: %v, or another hash", s.Name, err)
		}
		si, _ := i.Done()
		sr, _ := r.Done()
		mustOpen(t, si.Opener, rest)
		for _, record := range s.Records {
			opener := si.Opener
			if record.From == "initiator" {
				opener = sr.Opener
			}
			if record.Sealed != "" {
				if got := mustOpen(t, opener, unhex(record.Sealed)); hex.EncodeToString(got) != record.Payload {
					t.Fatalf("%s: %s is opened as %x", s.Name, record.Payload, got)
				}
			}
		}
	}
	for _, h := range v.Hellos {
		secret := Secret(unhex(h.Secret))
		var r Responder
		if err := r.Open(Config{Rand: testRand(1)}, (*[96]byte)(unhex(h.Hello)), &secret); (err != nil) != h.Error {
			t.Errorf("%s: %v", h.Name, err)
		}
	}
}
