package resume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/parley-bt/parley/bitfield"
	"github.com/parley-bt/parley/bt"
)

var (
	testHash = bt.InfoHash{1, 2, 3}
	testGeom = bt.Geometry{TotalBytes: 1000, PieceBytes: 64} // 16 pieces
	savedAt  = time.Unix(1_700_000_000, 123456789)
)

func testData() *Data {
	have := bitfield.New(testGeom.NumPieces())
	have.Add(0)
	have.Add(15)
	return &Data{InfoHash: testHash, Geometry: testGeom, SavedAt: savedAt, Have: have,
		Files: []File{{Final, 640, savedAt.UnixNano() - 5}, {Part, 300, savedAt.UnixNano()}, {}}}
}

func parse(b []byte) (*Data, Salt, int, error) { return Parse(b, testHash, testGeom, 3) }

func TestRoundTrip(t *testing.T) {
	for _, closed := range []bool{false, true} {
		want := testData()
		want.Closed = closed
		b, salt := Append([]byte("before"), want)
		b = b[len("before"):]
		if len(b) != BaseBytes(testGeom, 3) {
			t.Errorf("%d bytes, BaseBytes says %d", len(b), BaseBytes(testGeom, 3))
		}
		got, gotSalt, n, err := parse(b)
		if err != nil || n != len(b) || gotSalt != salt || !equal(got, want) || !got.SavedAt.Equal(savedAt) || !got.LastActive.Equal(savedAt) || got.Journal != nil {
			t.Errorf("%+v, %d of %d bytes, %v", got, n, len(b), err)
		}
	}
}

func TestJournal(t *testing.T) {
	d := testData()
	d.Closed = true
	base, salt := Append(nil, d)
	later := savedAt.Add(time.Hour)
	b := AppendActivity(slices.Clone(base), salt, savedAt.Add(time.Second))
	b = AppendPiece(b, salt, 3, later)
	b = AppendPiece(b, salt, 7, later)
	b = AppendPiece(b, salt, 3, savedAt)  // again
	b = AppendPiece(b, salt, 16, savedAt) // no such piece
	all := []bt.PieceIndex{3, 7}
	otherSalt := salt
	otherSalt[0]++
	tests := []struct {
		name   string
		b      []byte
		want   []bt.PieceIndex
		length int
		closed bool
	}{
		{"none", base, nil, len(base), true},
		{"whole", b, all, len(b), false},
		{"torn", append(slices.Clone(b), AppendPiece(nil, salt, 9, later)[:RecordBytes-1]...), all, len(b), false},
		{"zeros behind", append(slices.Clone(b), make([]byte, 100)...), all, len(b), false},
		{"records of another base", AppendPiece(slices.Clone(b), otherSalt, 9, later), all, len(b), false},
		{"nothing behind a bad record", AppendPiece(append(slices.Clone(b), make([]byte, RecordBytes)...), salt, 9, later), all, len(b), false},
		{"activity opens", b[:len(base)+RecordBytes], nil, len(base) + RecordBytes, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, _, n, err := parse(tt.b)
			if err != nil || n != tt.length || !slices.Equal(d.Journal, tt.want) || d.Closed != tt.closed {
				t.Errorf("journal %v, closed %v, %d bytes, %v, want %v, %v, %d", d.Journal, d.Closed, n, err, tt.want, tt.closed, tt.length)
			}
			if tt.want != nil && !d.LastActive.Equal(later) {
				t.Errorf("last active %v, want %v", d.LastActive, later)
			}
		})
	}
}

// resum makes the checksum right again after a change.
func resum(b []byte) []byte {
	sum := sha256.Sum256(b[:len(b)-sha256.Size])
	copy(b[len(b)-sha256.Size:], sum[:])
	return b
}

func TestParseRefuses(t *testing.T) {
	base, _ := Append(nil, testData())
	change := func(at int, v byte) []byte {
		b := slices.Clone(base)
		b[at] = v
		return resum(b)
	}
	bits := fixedBytes
	files := bits + 2
	tests := []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"another version", change(7, 2)},
		{"another kind", change(0, 'P')},
		{"unknown flags", change(8, 2)},
		{"another torrent", change(9, 99)},
		{"another length", change(9+20+7, 1)},
		{"another piece length", change(9+28+3, 65)},
		{"another number of files", change(fixedBytes-1, 2)},
		{"unknown state", change(files, 3)},
		{"negative size", change(files+1, 0x80)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d, _, _, err := parse(tt.b); !errors.Is(err, ErrFormat) || d != nil {
				t.Errorf("%+v, %v, want ErrFormat", d, err)
			}
		})
	}
	t.Run("spare bits", func(t *testing.T) {
		geom := bt.Geometry{TotalBytes: 900, PieceBytes: 64} // 15 pieces
		d := &Data{InfoHash: testHash, Geometry: geom, SavedAt: savedAt, Have: bitfield.New(15)}
		b, _ := Append(nil, d)
		b[fixedBytes+1] |= 1
		if _, _, _, err := Parse(resum(b), testHash, geom, 0); !errors.Is(err, ErrFormat) {
			t.Errorf("%v, want ErrFormat", err)
		}
	})
	t.Run("every truncation", func(t *testing.T) {
		for n := range base {
			if _, _, _, err := parse(base[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("%d of %d bytes: %v", n, len(base), err)
			}
		}
	})
	t.Run("every flipped bit", func(t *testing.T) {
		for i := range 8 * len(base) {
			b := slices.Clone(base)
			b[i/8] ^= 1 << (i % 8)
			if _, _, _, err := parse(b); !errors.Is(err, ErrFormat) {
				t.Fatalf("bit %d: %v", i, err)
			}
		}
	})
	t.Run("too many files", func(t *testing.T) {
		if _, _, _, err := Parse(base, testHash, testGeom, MaxFiles+1); !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	})
}

func TestUnchanged(t *testing.T) {
	const size = 300
	at := savedAt.UnixNano()
	file := func(s State, size, mtime int64) File { return File{s, size, mtime} }
	part, final := file(Part, size, at), file(Final, size, at)
	late := savedAt.Add(Grace).UnixNano()
	tests := []struct {
		name   string
		was    File
		now    File
		closed bool
		want   bool
	}{
		{"still missing", File{}, File{}, true, true},
		{"still missing, open", File{}, File{}, false, true},
		{"appeared", File{}, final, true, false},
		{"appeared, open", File{}, final, false, false},
		{"appeared as part, closed", File{}, part, true, false},
		{"appeared as part, open", File{}, part, false, true},
		{"appeared as part, open, older", File{}, file(Part, size, savedAt.Add(-Grace).UnixNano()-1), false, false},
		{"appeared as part, open, later than we can have been", File{}, file(Part, size, savedAt.Add(Grace).UnixNano()+1), false, false},
		{"final", final, final, true, true},
		{"final, open", final, final, false, true},
		{"final, touched", final, file(Final, size, at+1), false, false},
		{"final, of an earlier time", final, file(Final, size, at-1), true, false},
		{"final, another size", final, file(Final, size+1, at), true, false},
		{"final vanished", final, File{}, true, false},
		{"final is a part again", final, part, true, false},
		{"part, closed", part, part, true, true},
		{"part, closed, touched", part, file(Part, size, at+1), true, false},
		{"part, closed, grown", part, file(Part, size+1, at), true, false},
		{"part, closed, finished", part, final, true, true},
		{"part vanished", part, File{}, true, false},
		{"part vanished, open", part, File{}, false, false},
		{"part, open", part, part, false, true},
		{"part, open, grown", part, file(Part, size+9, at+9), false, true},
		{"part, open, finished", part, file(Final, size+9, at+9), false, true},
		{"part, open, shorter", part, file(Part, size-1, at+9), false, false},
		{"part, open, of an earlier time", part, file(Part, size, at-1), false, false},
		{"part, open, as late as we can have been", part, file(Part, size, late), false, true},
		{"part, open, later than we can have been", part, file(Part, size, late+1), false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &Data{Closed: tt.closed, SavedAt: savedAt, LastActive: savedAt, Files: []File{tt.was}}
			if got := d.Unchanged(0, tt.now); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	base, salt := Append(nil, testData())
	f.Add(base, false)
	f.Add(AppendPiece(AppendActivity(slices.Clone(base), salt, savedAt), salt, 3, savedAt), true)
	f.Add(base[:40], false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		n := BaseBytes(testGeom, 3)
		if fix && len(b) >= n { // so that the fuzzer gets past the checksums
			b = slices.Clone(b)
			resum(b[:n])
			salt := Salt(b[n-sha256.Size : n])
			for at := n; at+RecordBytes <= len(b); at += RecordBytes {
				binary.BigEndian.PutUint32(b[at+RecordBytes-4:], recordSum(salt, b[at:at+RecordBytes-4]))
			}
		}
		d, _, length, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%v is not ErrFormat", err)
			}
			return
		}
		if length < n || length > len(b) || len(d.Journal) > testGeom.NumPieces() || d.Have.Len() != 16 || d.LastActive.Before(d.SavedAt) {
			t.Errorf("%d of %d bytes, %+v", length, len(b), d)
		}
		for _, i := range d.Journal {
			if int(i) >= testGeom.NumPieces() {
				t.Errorf("piece %d", i)
			}
		}
		if length == n {
			if again, _ := Append(nil, d); !bytes.Equal(again, b[:n]) {
				t.Error("appending what was parsed gives other bytes")
			}
		}
	})
}

// equal compares two bases. The time of saving does not count.
func equal(a, b *Data) bool {
	if a.InfoHash != b.InfoHash || a.Geometry != b.Geometry || a.Closed != b.Closed || len(a.Files) != len(b.Files) ||
		!bytes.Equal(a.Have.AppendWire(nil), b.Have.AppendWire(nil)) {
		return false
	}
	for i := range a.Files {
		if a.Files[i] != b.Files[i] {
			return false
		}
	}
	return true
}
