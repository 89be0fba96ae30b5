// Package emp is how EMP/1 stands on the wire beside wire/ltep: mux frames, which carry application messages in fragments, and the dictionary
// under "emp" in a type exchange, by which peers say what they accept. It says what bytes mean as far as they alone tell. What depends on what
// went before (ids in order, windows, open messages) is decided by package peer; only what a peer has offered so far is kept here, in
// [TheyOffer], since later exchanges are read against it.
//
//	mux frame    length (4) | 20 | extended id (1) | head (1) | fields | fragment         the extended id is the receiver's "emp_mux"
//	head         kind (3 bits) | FIRST | REQUEST | RESPONSE | 2 bits without meaning
//
//	kind 0 DATA                  id | fragment
//	       FIRST                 id | type id | version (1) | total length | fragment
//	       FIRST and REQUEST     id | type id | version (1) | total length | reply-max | fragment
//	       FIRST and RESPONSE    id | status | total length | fragment
//	kind 1 CREDIT                bytes
//	kind 2 RESET, 3 STOP         id | code
//	kind 4..7                    ignored
//
// Fields without a size are uvarints: unsigned LEB128 in shortest form, below 2^32. The fragment is the rest of the frame: 1 to 16,384 bytes, or
// none if the total length is 0.
package emp

import (
	"strconv"

	"github.com/parley-bt/parley/wire"
)

// FrameKind is what a mux frame does (EMP/1 section 7.2). Kinds 4 to 7 exist on the wire and are ignored.
type FrameKind uint8

// The kinds of mux frames that mean something.
const (
	Data   FrameKind = iota // part of a message, request or response
	Credit                  // adds to the window that the receiver of this frame may spend
	Reset                   // from the sender of a message: abandoned
	Stop                    // from the receiver of a message: refused
)

// String returns the kind's name as in EMP/1 section 7.2.
func (k FrameKind) String() string {
	switch k {
	case Data:
		return "DATA"
	case Credit:
		return "CREDIT"
	case Reset:
		return "RESET"
	case Stop:
		return "STOP"
	}
	return "kind " + strconv.Itoa(int(k))
}

// The bits of a head below its kind (EMP/1 section 7.2).
const (
	kindShift    = 5
	flagFirst    = 1 << 4
	flagRequest  = 1 << 3
	flagResponse = 1 << 2
)

// MaxHeadBytes is the longest head with its fields that the Append functions write: that of a request.
const MaxHeadBytes = 1 + maxUvarintBytes + 3 + 1 + 2*maxUvarintBytes // type ids end at 65535, which takes 3 bytes

// Status is how a request ended (EMP/1 section 7.5).
type Status uint8

// The statuses of a response.
const (
	StatusAnswered  Status = iota
	StatusNoHandler        // also if the type was withdrawn
	StatusRefused
	StatusFailed // the payload is a text for people, UTF-8
	StatusTimedOut
	StatusTooLarge // the answer is larger than reply-max
	StatusBusy     // more requests at once than "req" allows; may be repeated
)

// statusOf maps a status as it came: above 6 counts as 3 (EMP/1 section 7.5).
func statusOf(v uint32) Status {
	if v > uint32(StatusBusy) {
		return StatusFailed
	}
	return Status(v)
}

// String returns the status's name as in EMP/1 section 7.5.
func (s Status) String() string {
	switch s {
	case StatusAnswered:
		return "answered"
	case StatusNoHandler:
		return "no handler"
	case StatusRefused:
		return "refused"
	case StatusFailed:
		return "handler failed"
	case StatusTimedOut:
		return "timed out"
	case StatusTooLarge:
		return "too large"
	case StatusBusy:
		return "busy"
	}
	return "status " + strconv.Itoa(int(s))
}

// Code is why a message was abandoned by RESET or refused by STOP (EMP/1 section 7.2).
type Code uint8

// The codes of RESET and STOP.
const (
	CodeCancelled Code = iota
	CodeRefused
	CodeTooLarge
	CodeWithdrawn // the type is no longer offered
	CodeInternal
	CodeBusy // the receiver is over its total memory budget; may be repeated
)

// codeOf maps a code as it came: others count as 4 (EMP/1 section 7.2).
func codeOf(v uint32) Code {
	if v > uint32(CodeBusy) {
		return CodeInternal
	}
	return Code(v)
}

// String returns the code's name as in EMP/1 section 7.2.
func (c Code) String() string {
	switch c {
	case CodeCancelled:
		return "cancelled"
	case CodeRefused:
		return "refused"
	case CodeTooLarge:
		return "too large"
	case CodeWithdrawn:
		return "type withdrawn"
	case CodeInternal:
		return "internal"
	case CodeBusy:
		return "busy"
	}
	return "code " + strconv.Itoa(int(c))
}

// Frame is one mux frame (EMP/1 section 7.2). Fields that a frame of its kind does not have are zero.
type Frame struct {
	Kind FrameKind
	// First opens a message. Request, which only counts with First, makes it a request. Response says that Data, Reset or Stop is about the
	// response to request ID.
	First, Request, Response bool
	ID                       uint32 // Data, Reset, Stop
	Type                     uint32 // Data with First and without Response: the type id as it came, which may be out of range
	Version                  uint8  // with Type
	Total                    uint32 // Data with First: bytes of the whole message
	ReplyMax                 uint32 // Data with First and Request: the largest answer accepted, bytes, as it came
	Status                   Status // Data with First and Response; above 6 counts as 3
	Code                     Code   // Reset, Stop; above 5 counts as 4
	Bytes                    uint32 // Credit
	Data                     []byte // Data: the fragment; aliases the payload parsed
}

// Parse reads the payload of an extended frame behind its extended id, with all rules of EMP/1 section 7.2 that need no more than the frame.
// Flags without meaning and bytes behind CREDIT, RESET and STOP are ignored; of kinds 4 to 7 only Kind is set. The error is a
// [*wire.SyntaxError], and f is then of no use. Nothing is allocated without an error.
func (f *Frame) Parse(payload []byte) error {
	if len(payload) == 0 {
		return badFrame(0, "no head")
	}
	head := payload[0]
	*f = Frame{Kind: FrameKind(head >> kindShift)}
	b := payload[1:]
	var n int
	switch {
	case f.Kind == Credit:
		if f.Bytes, n = Uvarint(b); n <= 0 {
			return badField(payload, b, n, "bytes")
		}
		return nil
	case f.Kind > Stop:
		return nil
	}
	f.Response = head&flagResponse != 0
	if f.ID, n = Uvarint(b); n <= 0 {
		return badField(payload, b, n, "id")
	}
	b = b[n:]
	switch {
	case f.Kind != Data:
		code, n := Uvarint(b)
		if n <= 0 {
			return badField(payload, b, n, "code")
		}
		f.Code = codeOf(code)
		return nil
	case head&flagFirst != 0:
		f.First, f.Request = true, head&flagRequest != 0
		return f.parseOpening(payload, b)
	case len(b) == 0: // a message without bytes is complete with its FIRST, so this one has some
		return badFrame(len(payload), "fragment of 0 bytes")
	case len(b) > wire.MaxFragment:
		return badFragment(payload, b)
	}
	f.Data = b
	return nil
}

// parseOpening reads what follows the id in a frame that opens a message: b, the end of payload.
func (f *Frame) parseOpening(payload, b []byte) error {
	var n int
	if f.Response {
		if f.Request {
			return badFrame(0, "REQUEST and RESPONSE")
		}
		status, n := Uvarint(b)
		if n <= 0 {
			return badField(payload, b, n, "status")
		}
		f.Status = statusOf(status)
		b = b[n:]
	} else {
		if f.Type, n = Uvarint(b); n <= 0 {
			return badField(payload, b, n, "type id")
		}
		if b = b[n:]; len(b) == 0 {
			return badField(payload, b, 0, "version")
		}
		f.Version = b[0]
		b = b[1:]
	}
	if f.Total, n = Uvarint(b); n <= 0 {
		return badField(payload, b, n, "total length")
	}
	b = b[n:]
	if f.Request {
		if f.ReplyMax, n = Uvarint(b); n <= 0 {
			return badField(payload, b, n, "reply-max")
		}
		b = b[n:]
	}
	switch {
	case len(b) > wire.MaxFragment:
		return badFragment(payload, b)
	case uint64(len(b)) > uint64(f.Total):
		return badFrame(len(payload)-len(b), "fragment runs past the total length")
	case len(b) == 0 && f.Total != 0:
		return badFrame(len(payload), "fragment of 0 bytes")
	}
	f.Data = b
	return nil
}

// frameOffset is where the payload of an extended frame begins behind the length field, as [wire.SyntaxError] counts.
const frameOffset = 2

// The errors are made apart from Parse, which is to stay short where there is none.

//go:noinline
func badFrame(at int, reason string) error {
	return &wire.SyntaxError{Dialect: wire.DialectEMP, Kind: wire.KindExtended, Offset: frameOffset + at, Reason: reason}
}

// badField is about the field at the start of rest, the end of payload, of which [Uvarint] returned the length n.
//
//go:noinline
func badField(payload, rest []byte, n int, name string) error {
	at := len(payload) - len(rest)
	if n < 0 {
		return badFrame(at, name+" in long form, or 2^32 and above")
	}
	return badFrame(at, name+" cut off")
}

//go:noinline
func badFragment(payload, fragment []byte) error {
	return badFrame(len(payload)-len(fragment), "fragment of "+strconv.Itoa(len(fragment))+" bytes, above "+strconv.Itoa(wire.MaxFragment))
}

// AppendMessageHead appends the head and fields that open a message of total bytes; its first fragment follows (EMP/1 section 7.2).
func AppendMessageHead(dst []byte, id uint32, typeID uint16, version uint8, total uint32) []byte {
	dst = AppendUvarint(append(dst, byte(Data)<<kindShift|flagFirst), id)
	dst = append(AppendUvarint(dst, uint32(typeID)), version)
	return AppendUvarint(dst, total)
}

// AppendRequestHead appends the head and fields that open a request of total bytes, which accepts an answer of up to replyMax bytes; its first
// fragment follows (EMP/1 section 7.2).
func AppendRequestHead(dst []byte, id uint32, typeID uint16, version uint8, total, replyMax uint32) []byte {
	dst = AppendUvarint(append(dst, byte(Data)<<kindShift|flagFirst|flagRequest), id)
	dst = append(AppendUvarint(dst, uint32(typeID)), version)
	return AppendUvarint(AppendUvarint(dst, total), replyMax)
}

// AppendResponseHead appends the head and fields that open the response to request id; its first fragment follows (EMP/1 section 7.2).
func AppendResponseHead(dst []byte, id uint32, status Status, total uint32) []byte {
	dst = AppendUvarint(append(dst, byte(Data)<<kindShift|flagFirst|flagResponse), id)
	return AppendUvarint(AppendUvarint(dst, uint32(status)), total)
}

// AppendFragmentHead appends the head and id of a fragment that opens nothing; the fragment, 1 byte or more, follows (EMP/1 section 7.2).
func AppendFragmentHead(dst []byte, id uint32, response bool) []byte {
	return AppendUvarint(append(dst, byte(Data)<<kindShift|responseFlag(response)), id)
}

// AppendCredit appends a CREDIT frame (EMP/1 section 7.2).
func AppendCredit(dst []byte, bytes uint32) []byte {
	return AppendUvarint(append(dst, byte(Credit)<<kindShift), bytes)
}

// AppendReset appends a RESET frame: of message or request id, or of the response to request id (EMP/1 section 7.2).
func AppendReset(dst []byte, id uint32, response bool, code Code) []byte {
	dst = AppendUvarint(append(dst, byte(Reset)<<kindShift|responseFlag(response)), id)
	return AppendUvarint(dst, uint32(code))
}

// AppendStop appends a STOP frame: of message or request id, or of the response to request id (EMP/1 section 7.2).
func AppendStop(dst []byte, id uint32, response bool, code Code) []byte {
	dst = AppendUvarint(append(dst, byte(Stop)<<kindShift|responseFlag(response)), id)
	return AppendUvarint(dst, uint32(code))
}

func responseFlag(response bool) byte {
	if response {
		return flagResponse
	}
	return 0
}
