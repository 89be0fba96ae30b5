package emp_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/wire"
	"github.com/parley-bt/parley/wire/emp"
)

const vectorsDir = "../testdata/vectors/emp"

// load returns the vectors of one file.
func load(t testing.TB, file string) (vs []wiretest.Vector) {
	t.Helper()
	for _, v := range wiretest.Load(t, vectorsDir) {
		if strings.HasPrefix(v.File, file+":") {
			vs = append(vs, v)
		}
	}
	if len(vs) == 0 {
		t.Fatalf("no vectors in %s", file)
	}
	return vs
}

// A file that nobody reads must not look tested.
func TestEveryFileOfVectorsIsRead(t *testing.T) {
	for _, v := range wiretest.Load(t, vectorsDir) {
		switch file, _, _ := strings.Cut(v.File, ":"); file {
		case "uvarint.txt", "frames.txt", "offers.txt":
		default:
			t.Errorf("%s: nobody checks this file", v.File)
		}
	}
}

// "Words": unsigned LEB128 in shortest form, value < 2^32; a longer form or value is an error.
func TestUvarint(t *testing.T) {
	for _, v := range load(t, "uvarint.txt") {
		got, n := emp.Uvarint(v.Bytes)
		if v.Fails != "" {
			reason := "cut off"
			if n < 0 {
				reason = "long form, or 2^32 and above"
			}
			if got != 0 || n > 0 || !strings.Contains(reason, v.Fails) {
				t.Errorf("%s: read as %d of %d bytes, want %q", v.File, got, n, v.Fails)
			}
			continue
		}
		r := v.Means.Read()
		want := uint32(r.Uint("value"))
		if err := r.Err(); err != nil || v.Means.Kind != "uvarint" {
			t.Fatalf("%s: %v", v.File, err)
		}
		if got != want || n < 1 || n > len(v.Bytes) || !v.ReadOnly && n != len(v.Bytes) {
			t.Errorf("%s: read as %d of %d bytes, want %d", v.File, got, n, want)
		}
		if wrote := emp.AppendUvarint([]byte("."), want); string(wrote) != "."+string(v.Bytes[:n]) || emp.UvarintLen(want) != n {
			t.Errorf("%s: written as %x, said to be %d bytes", v.File, wrote[1:], emp.UvarintLen(want))
		}
	}
	// Around every power of two: one form, whose every truncation is cut off, and which another byte does not change.
	for bit := range 32 {
		for _, d := range []uint32{0, 1, ^uint32(0)} {
			v := uint32(1)<<bit + d
			b := emp.AppendUvarint(nil, v)
			if got, n := emp.Uvarint(append(b, 0)); got != v || n != len(b) || n != emp.UvarintLen(v) {
				t.Errorf("%d: written as %x, read as %d of %d bytes", v, b, got, n)
			}
			for i := range b {
				if got, n := emp.Uvarint(b[:i]); got != 0 || n != 0 {
					t.Errorf("%x: read as %d of %d bytes", b[:i], got, n)
				}
			}
			if long := append(bytes.Clone(b), 0); len(b) < 5 {
				long[len(b)-1] |= 0x80
				if got, n := emp.Uvarint(long); got != 0 || n >= 0 {
					t.Errorf("%x: read as %d of %d bytes", long, got, n)
				}
			}
		}
	}
}

// buildFrame returns the frame that a vector means.
func buildFrame(v wiretest.Value) (f emp.Frame, err error) {
	r := v.Read()
	f.ID = uint32(r.Uint("id"))
	data := func() {
		if f.Data = r.Bytes("data"); f.Data == nil {
			f.Data = []byte{}
		}
	}
	switch v.Kind {
	case "message", "request":
		f.First, f.Type, f.Version, f.Total = true, uint32(r.Uint("type")), uint8(r.Uint("version")), uint32(r.Uint("total"))
		if v.Kind == "request" {
			f.Request, f.ReplyMax = true, uint32(r.Uint("reply_max"))
		}
		data()
	case "response":
		f.First, f.Response, f.Status, f.Total = true, true, emp.Status(r.Uint("status")), uint32(r.Uint("total"))
		data()
	case "fragment":
		f.Response = r.Uint("response") == 1
		data()
	case "credit":
		f.Kind, f.Bytes = emp.Credit, uint32(r.Uint("bytes"))
	case "reset", "stop":
		f.Kind, f.Response, f.Code = emp.Reset, r.Uint("response") == 1, emp.Code(r.Uint("code"))
		if v.Kind == "stop" {
			f.Kind = emp.Stop
		}
	case "ignored":
		f.Kind = emp.FrameKind(r.Uint("kind"))
	default:
		return f, fmt.Errorf("unknown kind %q", v.Kind)
	}
	return f, r.Err()
}

// appendFrame writes a frame with the function for what it is. Type ids are those that can be offered.
func appendFrame(dst []byte, f emp.Frame) []byte {
	switch f.Kind {
	case emp.Data:
		switch {
		case !f.First:
			dst = emp.AppendFragmentHead(dst, f.ID, f.Response)
		case f.Response:
			dst = emp.AppendResponseHead(dst, f.ID, f.Status, f.Total)
		case f.Request:
			dst = emp.AppendRequestHead(dst, f.ID, uint16(f.Type), f.Version, f.Total, f.ReplyMax)
		default:
			dst = emp.AppendMessageHead(dst, f.ID, uint16(f.Type), f.Version, f.Total)
		}
		return append(dst, f.Data...)
	case emp.Credit:
		return emp.AppendCredit(dst, f.Bytes)
	case emp.Reset:
		return emp.AppendReset(dst, f.ID, f.Response, f.Code)
	case emp.Stop:
		return emp.AppendStop(dst, f.ID, f.Response, f.Code)
	}
	return append(dst, byte(f.Kind)<<5)
}

// Section 7.2: the forms of all frames, what is ignored, and what is malformed; see the names of the vectors.
func TestFrameVectors(t *testing.T) {
	longest := 0
	for _, v := range load(t, "frames.txt") {
		t.Run(v.Name, func(t *testing.T) {
			got := emp.Frame{Kind: 9, First: true, Request: true, Response: true, ID: 9, Type: 9, Version: 9, Total: 9, ReplyMax: 9, Status: 9, Code: 9,
				Bytes: 9, Data: []byte("of the frame before")}
			err := got.Parse(v.Bytes)
			if v.Fails != "" {
				wiretest.WantFailure(t, err, v.Fails)
				return
			}
			want, verr := buildFrame(v.Means)
			if verr != nil {
				t.Fatalf("%s: %v", v.File, verr)
			}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: read as %+v, %v; want %+v", v.File, got, err, want)
			}
			if v.ReadOnly {
				return
			}
			if wrote := appendFrame([]byte("."), want); string(wrote) != "."+string(v.Bytes) {
				t.Errorf("%s: written as %x, want %x", v.File, wrote[1:], v.Bytes)
			}
			longest = max(longest, len(v.Bytes)-len(want.Data))
		})
	}
	if longest != emp.MaxHeadBytes {
		t.Errorf("the longest head has %d bytes, MaxHeadBytes is %d", longest, emp.MaxHeadBytes)
	}
}

// stable checks a payload: it is either refused with a syntax error within the frame, or means something that, written, means the same.
func stable(t testing.TB, payload []byte) {
	t.Helper()
	before := bytes.Clone(payload)
	var f emp.Frame
	err := f.Parse(payload)
	if !bytes.Equal(payload, before) {
		t.Fatalf("Parse changed its input %x", before)
	}
	if err != nil {
		s, ok := errors.AsType[*wire.SyntaxError](err)
		if !ok || s.Dialect != wire.DialectEMP || s.Kind != wire.KindExtended || s.Offset < 2 || s.Offset > 2+len(payload) || s.Reason == "" {
			t.Fatalf("%x: error %#v, want a syntax error of this dialect within the frame", payload, err)
		}
		return
	}
	if f.Status > emp.StatusBusy || f.Code > emp.CodeBusy || len(f.Data) > wire.MaxFragment || f.Request && !f.First ||
		f.First && uint64(len(f.Data)) > uint64(f.Total) ||
		f.Kind == emp.Data && len(f.Data) == 0 && (!f.First || f.Total > 0) {
		t.Fatalf("%x: read as %+v", payload, f)
	}
	if f.Kind > emp.Stop && !reflect.DeepEqual(f, emp.Frame{Kind: f.Kind}) {
		t.Fatalf("%x: of a kind without meaning %+v was read", payload, f)
	}
	if f.Type > wire.MaxTypeID {
		return // is read so that package peer can refuse it, and never written
	}
	again := appendFrame(nil, f)
	var f2 emp.Frame
	if err := f2.Parse(again); err != nil || !reflect.DeepEqual(f, f2) || len(again)-len(f.Data) > emp.MaxHeadBytes {
		t.Fatalf("%x means %+v, which is written as %x and then means %+v (%v)", payload, f, again, f2, err)
	}
}

// Section 7.2, cut at every byte: a frame is refused, or means what a shorter fragment, or fields without what trails them, mean.
func TestFrameTruncations(t *testing.T) {
	for _, v := range load(t, "frames.txt") {
		for n := range min(len(v.Bytes), 64) {
			stable(t, v.Bytes[:n:n])
		}
		stable(t, append(bytes.Clone(v.Bytes), 0))
		if v.Fails != "" || v.ReadOnly {
			continue
		}
		want, _ := buildFrame(v.Means)
		whole := len(v.Bytes) - len(want.Data)
		for n := range whole {
			var f emp.Frame
			if err := f.Parse(v.Bytes[:n]); err == nil {
				t.Errorf("%s: cut to %d of the %d bytes of its fields it is read as %+v", v.File, n, whole, f)
			}
		}
	}
}

func TestFrameLimits(t *testing.T) {
	parse := func(head []byte, n int) error {
		var f emp.Frame
		err := f.Parse(append(head, make([]byte, n)...))
		if err == nil && len(f.Data) != n {
			return fmt.Errorf("a fragment of %d bytes", len(f.Data))
		}
		return err
	}
	const big = 1 << 30
	wiretest.TestLimits(t, []wiretest.Limit{
		// Section 7.2: "a fragment of 1..16,384 bytes".
		{Name: "fragment of a message", At: wire.MaxFragment, Try: func(n int) error { return parse(emp.AppendMessageHead(nil, 0, 1, 0, big), n) }},
		{Name: "fragment of a request", At: wire.MaxFragment, Try: func(n int) error { return parse(emp.AppendRequestHead(nil, 0, 1, 0, big, 0), n) }},
		{Name: "fragment of a response", At: wire.MaxFragment, Try: func(n int) error { return parse(emp.AppendResponseHead(nil, 0, 0, big), n) }},
		{Name: "later fragment", At: wire.MaxFragment, Try: func(n int) error { return parse(emp.AppendFragmentHead(nil, 0, false), n) }},
		{Name: "later fragment of a response", At: wire.MaxFragment, Try: func(n int) error { return parse(emp.AppendFragmentHead(nil, 0, true), n) }},
		// Section 8, ErrBadFrame: "running past the total".
		{Name: "fragment of a message of 5", At: 5, Try: func(n int) error { return parse(emp.AppendMessageHead(nil, 0, 1, 0, 5), n) }},
		{Name: "fragment of a response of 5", At: 5, Try: func(n int) error { return parse(emp.AppendResponseHead(nil, 0, 0, 5), n) }},
	})
	// "0 bytes only in a message of total length 0".
	for _, err := range []error{parse(emp.AppendMessageHead(nil, 0, 1, 0, 0), 0), parse(emp.AppendRequestHead(nil, 0, 1, 0, 0, 5), 0),
		parse(emp.AppendResponseHead(nil, 0, 0, 0), 0)} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestFrameAliasesItsPayload(t *testing.T) {
	payload := emp.AppendMessageHead(nil, 0, 1, 0, 3)
	payload = append(payload, "abc"...)
	var f emp.Frame
	if err := f.Parse(payload); err != nil || &f.Data[0] != &payload[len(payload)-3] {
		t.Errorf("the fragment was copied (%v)", err)
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		emp.Data: "DATA", emp.Credit: "CREDIT", emp.Reset: "RESET", emp.Stop: "STOP", emp.FrameKind(7): "kind 7",
		emp.StatusAnswered: "answered", emp.StatusNoHandler: "no handler", emp.StatusRefused: "refused", emp.StatusFailed: "handler failed",
		emp.StatusTimedOut: "timed out", emp.StatusTooLarge: "too large", emp.StatusBusy: "busy", emp.Status(7): "status 7",
		emp.CodeCancelled: "cancelled", emp.CodeRefused: "refused", emp.CodeTooLarge: "too large", emp.CodeWithdrawn: "type withdrawn",
		emp.CodeInternal: "internal", emp.CodeBusy: "busy", emp.Code(6): "code 6",
	} {
		if got.String() != want {
			t.Errorf("%T %d is called %q, want %q", got, got, got, want)
		}
	}
	// The numbers of sections 7.2 and 7.5.
	if emp.StatusBusy != 6 || emp.StatusTooLarge != 5 || emp.StatusFailed != 3 || emp.CodeBusy != 5 ||
		emp.CodeInternal != 4 || emp.CodeWithdrawn != 3 || emp.Stop != 3 {
		t.Error("numbers have moved")
	}
}

// Messages pass without allocations, both ways.
func TestAllocs(t *testing.T) {
	dst := make([]byte, 0, 1024)
	fragment := make([]byte, 64)
	var failed error
	got := testing.AllocsPerRun(100, func() {
		var f emp.Frame
		check := func() { failed = errors.Join(failed, f.Parse(dst)) }
		dst = append(emp.AppendMessageHead(dst[:0], 1<<31, 65535, 255, 64), fragment...)
		check()
		dst = append(emp.AppendRequestHead(dst[:0], 1<<31, 65535, 255, 64, 1<<31), fragment...)
		check()
		dst = append(emp.AppendResponseHead(dst[:0], 1<<31, emp.StatusFailed, 64), fragment...)
		check()
		dst = append(emp.AppendFragmentHead(dst[:0], 1<<31, true), fragment...)
		check()
		dst = emp.AppendCredit(dst[:0], 1<<31)
		check()
		dst = emp.AppendReset(dst[:0], 1<<31, true, emp.CodeInternal)
		check()
		dst = emp.AppendStop(dst[:0], 1<<31, true, emp.CodeBusy)
		check()
	})
	if got != 0 || failed != nil {
		t.Errorf("%v allocations, error %v", got, failed)
	}
}

func FuzzFrame(f *testing.F) {
	for _, v := range load(f, "frames.txt") {
		f.Add(v.Bytes)
	}
	f.Fuzz(func(t *testing.T, payload []byte) { stable(t, payload) })
}
