// Package wire is the vocabulary that all dialects share: what a hello, a dialect and a message are. Each dialect's own
// package (wire/classic, wire/ltep) says how they stand on the wire; package peer decides when they are legal. It does no I/O.
package wire

// Dialect is how the frames of a session are written (EMP/1 section 1).
type Dialect uint8

// The dialects. AZMP and EMP are named so that values stay stable; no session chooses them yet.
const (
	DialectUnknown Dialect = iota // the handshaking phase is not over
	DialectClassic                // BEP 3, with BEP 6 if both set its bit
	DialectLTEP                   // classic frames and BEP 10 extended messages
	DialectAZMP                   // Azureus Messaging Protocol
	DialectEMP                    // ltep and mux frames
)

// String returns the dialect's name as in EMP/1 section 1.
func (d Dialect) String() string {
	switch d {
	case DialectClassic:
		return "classic"
	case DialectLTEP:
		return "ltep"
	case DialectAZMP:
		return "azmp"
	case DialectEMP:
		return "emp"
	}
	return "unknown"
}

// Hello is how a session began (EMP/1 section 2).
type Hello uint8

// The hellos.
const (
	HelloUnknown Hello = iota
	HelloPlaintext
	HelloMSE
	HelloVeil
)

// String returns the hello's name as in EMP/1 section 2.
func (h Hello) String() string {
	switch h {
	case HelloPlaintext:
		return "plaintext"
	case HelloMSE:
		return "mse"
	case HelloVeil:
		return "veil"
	}
	return "unknown"
}

// Hellos is a set of hellos.
type Hellos uint8

// AllHellos is every hello there is.
const AllHellos Hellos = 1<<HelloPlaintext | 1<<HelloMSE | 1<<HelloVeil

// HellosOf returns the set of some hellos.
func HellosOf(hs ...Hello) (s Hellos) {
	for _, h := range hs {
		s |= 1 << h
	}
	return s
}

// Has reports whether h is in the set.
func (s Hellos) Has(h Hello) bool { return s&(1<<h) != 0 }

// Reserved is the eight reserved bytes of a classic hello (BEP 3).
type Reserved [8]byte

// The reserved bits this project knows: byte index and mask (EMP/1 section 1).
func (r Reserved) has(i int, mask byte) bool { return r[i]&mask != 0 }

// AZMP reports the Azureus Messaging Protocol bit.
func (r Reserved) AZMP() bool { return r.has(0, 0x80) }

// LTEP reports the extension protocol bit (BEP 10), which is also EMP's.
func (r Reserved) LTEP() bool { return r.has(5, 0x10) }

// DHT reports the DHT bit (BEP 5).
func (r Reserved) DHT() bool { return r.has(7, 0x01) }

// Fast reports the Fast extension bit (BEP 6).
func (r Reserved) Fast() bool { return r.has(7, 0x04) }

// V2 reports the v2 upgrade bit (BEP 52).
func (r Reserved) V2() bool { return r.has(7, 0x10) }

// Veiled returns the bits as they count after a veiled hello: which dialect is spoken is settled there (EMP/1 section 6.2, "rb").
func (r Reserved) Veiled() Reserved {
	r[0] &^= 0x80
	r[5] &^= 0x13
	return r
}
