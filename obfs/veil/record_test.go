package veil

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"testing"

	"github.com/parley-bt/parley/internal/wiretest"
	"github.com/parley-bt/parley/obfs"
)

// testPads is the padding of the tests that need some.
var testPads = [paddedRecords]uint16{3, 0, 512, 100}

// testDirection returns both ends of a direction.
func testDirection(seed uint64) (*sealer, *opener) {
	var key [32]byte
	testRand(seed).Read(key[:])
	return &sealer{direction: directionOf(key[:]), pads: testPads}, &opener{direction: directionOf(key[:])}
}

// testStream seals a few payloads as a record each.
func testStream(s *sealer) (payloads, records [][]byte) {
	for i := range 7 {
		payload := bytes.Repeat([]byte{byte('a' + i)}, 1+i*5)
		payloads, records = append(payloads, payload), append(records, seal(s, payload))
	}
	return payloads, records
}

// lengthsOf returns the lengths of records without their LEN, which only those who have the key can read.
func lengthsOf(t *testing.T, o opener, b []byte) (lengths []int) {
	t.Helper()
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint16(b) ^ o.lenMask())
		lengths = append(lengths, n)
		o.next()
		b = b[2+n:]
	}
	return lengths
}

// TestSealSizes checks how bytes are divided into records, that SealedBytes knows, and that everything comes out again.
func TestSealSizes(t *testing.T) {
	const most = MaxRecordPayload
	for _, sizes := range [][]int{
		{0, 1, 0, 2, 3, 4, 5, 0},
		{most - 3, most, most - 512, most - 100, most, most + 1, 1},
		{4 * most},
		{4*most - 3 - 512 - 100, 1},
		{4*most - 3 - 512 - 100 + 1},
		{10*most - 615},
		{1, 3 * most, 3 * most},
		{256 << 10, 256 << 10},
	} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			s, o := testDirection(1)
			rng := testRand(2)
			for _, n := range sizes {
				payload := make([]byte, n)
				rng.Read(payload)
				at, want := s.n, s.SealedBytes(n)
				dst := append(make([]byte, 0, 6+want), "before"...)
				b := s.Seal(dst, append(make([]byte, obfs.Headroom), payload...))
				if string(b[:6]) != "before" || &b[0] != &dst[0] {
					t.Fatal("what stood in dst, or dst itself, has changed though there was room")
				}
				b = b[6:]
				if len(b) != want {
					t.Fatalf("%d bytes sealed to %d, want %d", n, len(b), want)
				}
				var wantLengths []int
				for left, i := n, at; left > 0; i++ {
					padlen := 0
					if i < 4 {
						padlen = int(testPads[i])
					}
					size := min(left, MaxRecordBody-18-padlen)
					wantLengths = append(wantLengths, size+padlen+18)
					left -= size
				}
				if got := lengthsOf(t, *o, b); fmt.Sprint(got) != fmt.Sprint(wantLengths) {
					t.Fatalf("%d bytes make records of %v, want %v", n, got, wantLengths)
				}
				if got := mustOpen(t, o, b); !bytes.Equal(got, payload) {
					t.Fatalf("%d bytes do not come out as they went in", n)
				}
			}
		})
	}
	s, _ := testDirection(1)
	for _, n := range []int{math.MinInt, -1, 0} {
		if got := s.SealedBytes(n); got != 0 {
			t.Errorf("SealedBytes(%d) = %d", n, got)
		}
	}
	for n := range obfs.Headroom + 1 {
		if got := s.Seal(nil, make([]byte, n)); got != nil || s.n != 0 {
			t.Errorf("sealed %x of nothing", got)
		}
	}
	// Without room dst grows.
	if b := s.Seal([]byte("before"), []byte("..payload")); string(b[:6]) != "before" || len(b) != 6+20+3+7 {
		t.Errorf("%q", b)
	}
}

// TestPaddingIsTheHandshakes checks that a session pads its first four records as was drawn for it, and no others.
func TestPaddingIsTheHandshakes(t *testing.T) {
	p := newPair(t, 8)
	seen := map[uint16]bool{}
	for _, s := range []obfs.Sealer{p.si.Sealer, p.sr.Sealer} {
		pads := s.(*sealer).pads
		for i := range 6 {
			want := 1
			if i < 4 {
				want += int(pads[i])
				seen[pads[i]] = true
			}
			if got := len(seal(s, []byte("x"))) - 20; got != want {
				t.Errorf("record %d: %d bytes of payload and padding, want %d", i, got, want)
			}
		}
	}
	if len(seen) < 7 {
		t.Errorf("paddings %v do not look drawn", seen)
	}
}

// TestRecordSplits checks that it does not matter how records are cut, and that no more is held than the record that is cut.
func TestRecordSplits(t *testing.T) {
	s, o := testDirection(1)
	payloads, records := testStream(s)
	stream := bytes.Join(records, nil)
	whole := bytes.Join(payloads, nil)
	start := *o
	wiretest.TestSplits(t, 1, stream, func(segments iter.Seq[[]byte]) string {
		o := start
		var plain []byte
		fed := 0
		for b := range segments {
			fed += len(b)
			for first := true; first || len(b) > 0; first = false {
				got, rest, err := o.Open(b)
				if err != nil {
					t.Fatal(err)
				}
				plain, b = append(plain, got...), rest
			}
			held := fed
			for _, r := range records {
				if held < len(r) {
					break
				}
				held -= len(r)
			}
			if o.Held() != held || cap(o.cut) > 2*len(records[2])+64 {
				t.Fatalf("after %d bytes %d are held in %d, want %d", fed, o.Held(), cap(o.cut), held)
			}
		}
		if _, _, err := o.Open(nil); err != nil || (o.Held() == 0) != (o.cut == nil) {
			t.Fatalf("%d bytes of memory for %d that are held: %v", cap(o.cut), o.Held(), err)
		}
		if !bytes.Equal(plain, whole) {
			t.Fatalf("got %q, want %q", plain, whole)
		}
		return fmt.Sprintf("%q", plain)
	})
	// A large record in pieces of many sizes.
	for piece := 1; piece < 70000; piece = piece*5/3 + 1 {
		s, o := testDirection(3)
		payload := make([]byte, 150000)
		testRand(4).Read(payload)
		var plain []byte
		for b := range wiretest.CutBy(seal(s, payload), []byte{255}) {
			for left := b; len(left) > 0; {
				n := min(piece, len(left))
				plain = append(plain, mustOpen(t, o, left[:n])...)
				left = left[n:]
			}
		}
		if mustOpen(t, o, nil); !bytes.Equal(plain, payload) || o.cut != nil {
			t.Fatalf("in pieces of %d it is not what it was", piece)
		}
	}
}

// TestOpenInPlace checks where what was opened lies, and that it ends where it ends.
func TestOpenInPlace(t *testing.T) {
	s, o := testDirection(1)
	b := append(seal(s, []byte("one")), seal(s, []byte("two"))...)
	first, rest, err := o.Open(b)
	if err != nil || string(first) != "one" || &first[0] != &b[4] || cap(first) != len(first) {
		t.Fatalf("%q (%v), or not in place, or with what is behind it", first, err)
	}
	half, rest2, err := o.Open(rest[:5])
	if err != nil || len(half) != 0 || len(rest2) != 0 || o.Held() != 5 {
		t.Fatalf("%q, %d held: %v", half, o.Held(), err)
	}
	second, rest2, err := o.Open(rest[5:])
	if err != nil || string(second) != "two" || len(rest2) != 0 || o.Held() != 0 {
		t.Fatalf("%q, or something is still held: %v", second, err)
	}
	// Its memory serves for the next cut.
	b = append(seal(s, []byte("three")), seal(s, []byte("four"))...)
	mustOpen(t, o, b[:7])
	third, rest, err := o.Open(b[7:])
	if err != nil || string(third) != "three" || cap(o.cut) == 0 || o.Held() != 0 {
		t.Fatalf("%q: %v", third, err)
	}
	if fourth, _, err := o.Open(rest); err != nil || string(fourth) != "four" || cap(o.cut) == 0 {
		t.Fatalf("%q, or its memory has gone: %v", fourth, err)
	}
	// Until the session is quiet.
	s, o = testDirection(1)
	b = append(seal(s, []byte("one")), 1, 2)
	mustOpen(t, o, b[:7])
	if _, _, err := o.Open(b[7:]); err != nil || cap(o.cut) == 0 {
		t.Fatal(err)
	}
	if _, _, err := o.Open(nil); err != nil || o.cut != nil {
		t.Fatalf("memory is still held: %v", err)
	}
}

// TestLengthCostsNothing checks that a length alone costs nothing.
func TestLengthCostsNothing(t *testing.T) {
	_, o := testDirection(1)
	b := binary.BigEndian.AppendUint16(nil, MaxRecordBody^o.lenMask())
	if mustOpen(t, o, b); cap(o.cut) > 64 || o.Held() != 2 || o.want != MaxRecordBytes {
		t.Errorf("%d bytes of memory for 2", cap(o.cut))
	}
	if mustOpen(t, o, make([]byte, MaxRecordBytes-3)); o.Held() != MaxRecordBytes-1 {
		t.Errorf("%d held", o.Held())
	}
	_, err := openAll(o, []byte{0})
	wantBroken(t, o, err)
}

// TestShortLength checks that a length below 18 is found out when its two bytes are there, and not 18 itself.
func TestShortLength(t *testing.T) {
	for n := range 20 {
		_, o := testDirection(1)
		b := binary.BigEndian.AppendUint16(nil, uint16(n)^o.lenMask())
		byByte := *o
		_, err := openAll(o, b)
		mustOpen(t, &byByte, b[:1])
		_, err2 := openAll(&byByte, b[1:])
		if n >= 18 {
			if err != nil || err2 != nil {
				t.Errorf("length %d: %v, %v", n, err, err2)
			}
			continue
		}
		wantBroken(t, o, err)
		wantBroken(t, &byByte, err2)
	}
}

// TestTampered changes each byte of a stream. What was whole before it is delivered, and nothing else, ever.
func TestTampered(t *testing.T) {
	s, o := testDirection(1)
	payloads, records := testStream(s)
	stream := bytes.Join(records, nil)
	rng := testRand(5)
	tail := make([]byte, MaxRecordBytes) // completes whatever length a changed LEN claims
	at := 0
	for r, record := range records {
		want := bytes.Join(payloads[:r], nil)
		for range record {
			bad := bytes.Clone(stream)
			bad[at] ^= byte(1 << (rng.Uint64() % 8))
			at++
			o := *o
			got, err := openAll(&o, bad)
			if err == nil { // LEN is larger now
				if o.Held() == 0 {
					t.Fatalf("byte %d of record %d: no error, and nothing is missing", at-1, r)
				}
				var more []byte
				more, err = openAll(&o, tail)
				got = append(got, more...)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("byte %d of record %d: delivers %q, want %q", at-1, r, got, want)
			}
			wantBroken(t, &o, err)
			if e, _ := errors.AsType[*RecordError](err); e.N != uint64(r) {
				t.Fatalf("byte %d of record %d: %v", at-1, r, err)
			}
		}
	}
}

// TestTruncated cuts a stream off anywhere: what was whole is delivered, and there is no error, as a close may come at any time.
func TestTruncated(t *testing.T) {
	s, o := testDirection(1)
	payloads, records := testStream(s)
	stream := bytes.Join(records, nil)
	for n := range len(stream) + 1 {
		var want []byte
		held := n
		for i, r := range records {
			if held < len(r) {
				break
			}
			held, want = held-len(r), append(want, payloads[i]...)
		}
		o := *o
		if got := mustOpen(t, &o, stream[:n]); !bytes.Equal(got, want) || o.Held() != held {
			t.Fatalf("of %d bytes: %q with %d held, want %q with %d", n, got, o.Held(), want, held)
		}
	}
}

// TestStolen plays records where they do not belong: in another place, again, in the other direction, in another session.
func TestStolen(t *testing.T) {
	p := newPair(t, 1)
	mine, theirs := p.si.Sealer.(*sealer), *p.si.Opener.(*opener)
	payloads, records := testStream(p.sr.Sealer.(*sealer))
	_, own := testStream(mine)
	_, foreign := testStream(newPair(t, 2).sr.Sealer.(*sealer))
	tail := make([]byte, MaxRecordBytes)
	check := func(name string, delivered int, stream ...[]byte) {
		t.Helper()
		o := theirs
		got, err := openAll(&o, bytes.Join(stream, nil))
		if err == nil { // its LEN may be larger under another mask
			var more []byte
			more, err = openAll(&o, tail)
			got = append(got, more...)
		}
		if want := bytes.Join(payloads[:delivered], nil); !bytes.Equal(got, want) {
			t.Errorf("%s: delivers %q, want %q", name, got, want)
		}
		wantBroken(t, &o, err)
	}
	for i := range records {
		before := bytes.Join(records[:i], nil)
		for j := range records {
			if i != j {
				check(fmt.Sprintf("record %d in place of %d", j, i), i, before, records[j], bytes.Join(records[i+1:], nil))
			}
		}
		check(fmt.Sprintf("record %d twice", i), i+1, before, records[i], records[i], bytes.Join(records[i+1:], nil))
		check(fmt.Sprintf("own record %d", i), i, before, own[i])
		check(fmt.Sprintf("record %d of another session", i), i, before, foreign[i])
	}
}

// TestPaddingAccepted checks what a receiver makes of paddings: any that fits, anywhere, of any bytes.
func TestPaddingAccepted(t *testing.T) {
	s, o := testDirection(1)
	for _, padlen := range []int{0, 1, 513, 60000, MaxRecordPayload - 3} {
		record := appendRecordWith(s, []byte("abc"), bytes.Repeat([]byte{0xff}, padlen), padlen)
		if got := mustOpen(t, o, record); string(got) != "abc" {
			t.Errorf("with %d bytes of padding: %q", padlen, got)
		}
	}
	if got := mustOpen(t, o, appendRecordWith(s, nil, make([]byte, MaxRecordPayload), MaxRecordPayload)); len(got) != 0 {
		t.Errorf("%d bytes of a record of padding", len(got))
	}
	for _, padlen := range []int{4, 5, 65535} {
		s, o := testDirection(1)
		_, err := openAll(o, appendRecordWith(s, []byte("abc"), nil, padlen))
		wantBroken(t, o, err)
	}
}

// appendRecordWith seals a record with padding of any bytes and any padlen.
func appendRecordWith(s *sealer, payload, padding []byte, padlen int) []byte {
	plain := append(binary.BigEndian.AppendUint16(nil, uint16(padlen)), payload...)
	return s.record(nil, append(plain, padding...), 0)
}

// TestEmptyRecords checks that 16 records without payload may come in a row, and that one with payload begins a new row.
func TestEmptyRecords(t *testing.T) {
	s, o := testDirection(1)
	for round := range 3 {
		for range 16 {
			if got := mustOpen(t, o, appendRecord(s, nil, nil, round)); len(got) != 0 {
				t.Fatalf("%q", got)
			}
		}
		if round < 2 {
			mustOpen(t, o, appendRecord(s, nil, []byte("x"), 0))
		}
	}
	_, err := openAll(o, appendRecord(s, nil, nil, 0))
	wantBroken(t, o, err)
}

// TestNumbersEnd checks that record 2^64-1 is the last.
func TestNumbersEnd(t *testing.T) {
	s, o := testDirection(1)
	for _, d := range []*direction{&s.direction, &o.direction} {
		d.n = math.MaxUint64 - 2
		d.next()
	}
	for range 2 {
		if got := mustOpen(t, o, seal(s, []byte("x"))); string(got) != "x" {
			t.Fatalf("%q", got)
		}
	}
	_, err := openAll(o, make([]byte, 100))
	wantBroken(t, o, err)
	defer func() {
		if recover() == nil {
			t.Error("one more was sealed")
		}
	}()
	seal(s, []byte("x"))
}

// TestBothDirectionsAtOnce uses all four ends of a session at the same time, for the race detector.
func TestBothDirectionsAtOnce(t *testing.T) {
	p := newPair(t, 1)
	payload := make([]byte, 100000)
	testRand(2).Read(payload)
	var wg sync.WaitGroup
	for _, d := range []struct {
		s obfs.Sealer
		o obfs.Opener
	}{{p.si.Sealer, p.sr.Opener}, {p.sr.Sealer, p.si.Opener}} {
		sent := make(chan []byte)
		wg.Go(func() {
			defer close(sent)
			for range 20 {
				sent <- seal(d.s, payload)
			}
		})
		wg.Go(func() {
			n := 0
			for b := range sent {
				n++
				if plain, err := openAll(d.o, b); err != nil || !bytes.Equal(plain, payload) {
					t.Errorf("not what was sent: %v", err)
				}
			}
			if n != 20 {
				t.Errorf("got %d of 20", n)
			}
		})
	}
	wg.Wait()
}

// TestRecordAllocations asserts that records cost no allocation, but for memory that a cut one needs.
func TestRecordAllocations(t *testing.T) {
	for _, n := range []int{9, 16397, 256 << 10} {
		s, o := testDirection(1)
		b := make([]byte, obfs.Headroom+n)
		dst := make([]byte, 0, s.SealedBytes(n))
		cipher := s.cipher()
		o.cipher()
		if allocs := testing.AllocsPerRun(20, func() {
			sealed := s.Seal(dst, b)
			for len(sealed) > 0 {
				_, rest, err := o.Open(sealed)
				if err != nil {
					t.Fatal(err)
				}
				sealed = rest
			}
		}); allocs != 0 {
			t.Errorf("%d bytes sealed and opened: %v allocations", n, allocs)
		}
		if cipher != s.cipher() {
			t.Error("another cipher")
		}
	}
	// Bulk: where each read ends within a record the same memory serves again.
	s, o := testDirection(1)
	const read = 100000
	b := make([]byte, obfs.Headroom+read)
	buf := make([]byte, 0, 3*read)
	allocs := testing.AllocsPerRun(50, func() {
		buf = s.Seal(buf, b)
		for len(buf) > read {
			n := read
			for rest := buf[:n]; len(rest) > 0; {
				var err error
				if _, rest, err = o.Open(rest); err != nil {
					t.Fatal(err)
				}
			}
			buf = buf[:copy(buf, buf[n:])]
		}
	})
	if allocs > 1 { // the memory grows to the longest piece
		t.Errorf("bulk in pieces: %v allocations a piece", allocs)
	}
}
