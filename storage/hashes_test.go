package storage

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/metainfo"
)

// makeV2 describes files of so many bytes, with holes, hashed in the plainest way, and puts them into memory.
func makeV2(t testing.TB, form metainfo.Form, pieceLength int64, sizes ...int64) (*metainfo.MetaInfo, *Memory) {
	t.Helper()
	b := metainfo.Builder{Name: "dir", Form: form, PieceLength: pieceLength}
	var contents [][]byte
	for i, n := range sizes {
		data := make([]byte, n)
		rand.NewChaCha8([32]byte{byte(i)}).Read(data) // never fails
		clear(data[n/3 : n/2])
		contents = append(contents, data)
		b.Files = append(b.Files, metainfo.File{Path: []string{fmt.Sprintf("%03d", i)}, Length: n})
		var hashes []byte
		for piece := range slices.Chunk(data, int(pieceLength)) {
			h, err := metainfo.HashPieceV2(piece, n, pieceLength)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, h[:]...)
		}
		b.TreeHashes = append(b.TreeHashes, hashes)
	}
	var all []byte
	i := 0
	for _, f := range metainfo.PadFiles(b.Files, pieceLength) {
		if f.Padding {
			all = append(all, make([]byte, f.Length)...)
		} else {
			all = append(all, contents[i]...)
			i++
		}
	}
	for piece := range slices.Chunk(all, int(pieceLength)) {
		h := sha1.Sum(piece)
		b.PieceHashes = append(b.PieceHashes, h[:]...)
	}
	mi, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	m := NewMemory(mi.Info.Geometry)
	if _, err := m.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	return mi, m
}

var formsV2 = []metainfo.Form{metainfo.FormV2, metainfo.FormHybrid}

func TestVerifyV2(t *testing.T) {
	for _, form := range formsV2 {
		for _, tt := range []struct {
			piece int64
			sizes []int64
		}{
			{16 << 10, []int64{1}},
			{16 << 10, []int64{0, 1, 0, 16 << 10, 16<<10 + 1, 100_000, 0}},
			{64 << 10, []int64{40_000, 1, 5 * 64 << 10, 777_777, 65_535, 65_537, 3}},
			{1 << 20, []int64{3<<20 + 17, 20_000}},
		} {
			t.Run(fmt.Sprintf("%v/%d/%d files", form, tt.piece, len(tt.sizes)), func(t *testing.T) {
				mi, m := makeV2(t, form, tt.piece, tt.sizes...)
				geom := mi.Info.Geometry
				have, err := VerifyPieces(t.Context(), m, geom, HashesOf(mi), nil)
				if err != nil || !have.Full() {
					t.Fatalf("%d of %d pieces are right; %v", have.Count(), geom.NumPieces(), err)
				}
				// The last byte of every piece counts, and nothing behind it.
				for i := range geom.NumPieces() {
					i := bt.PieceIndex(i)
					at := geom.PieceStart(i) + int64(geom.PieceLen(i)) - 1
					var was [1]byte
					if _, err := m.ReadAt(was[:], at); err != nil {
						t.Fatal(err)
					}
					if _, err := m.WriteAt([]byte{was[0] + 1}, at); err != nil {
						t.Fatal(err)
					}
				}
				if have, err = VerifyPieces(t.Context(), m, geom, HashesOf(mi), nil); err != nil || have.Count() != 0 {
					t.Errorf("%d pieces of wrong content are right; %v", have.Count(), err)
				}
			})
		}
	}
}

// TestHashesUnknown: without its layers the pieces of long files in a v2 torrent are not right, those of a hybrid are what v1 says.
func TestHashesUnknown(t *testing.T) {
	for _, form := range formsV2 {
		mi, m := makeV2(t, form, 16<<10, 100_000, 5)
		mi.PieceLayers = nil
		have, err := VerifyPieces(t.Context(), m, mi.Info.Geometry, HashesOf(mi), nil)
		want := 8
		if form == metainfo.FormV2 {
			want = 1
		}
		if err != nil || have.Count() != want {
			t.Errorf("%v: %d pieces, want %d; %v", form, have.Count(), want, err)
		}
	}
}

// TestInconsistentHybrid: a torrent whose two descriptions have different content says so, whichever of the two is there.
func TestInconsistentHybrid(t *testing.T) {
	mi, m := makeV2(t, metainfo.FormHybrid, 16<<10, 40_000, 3)
	other := bytes.Clone(mi.PieceLayers[mi.Info.Files[0].PiecesRoot])
	other[40]++
	mi.PieceLayers[mi.Info.Files[0].PiecesRoot] = other
	if _, err := VerifyPieces(t.Context(), m, mi.Info.Geometry, HashesOf(mi), nil); !errors.Is(err, ErrInconsistent) {
		t.Errorf("v1 is right and v2 is not: %v", err)
	}
	mi, m = makeV2(t, metainfo.FormHybrid, 16<<10, 40_000, 3)
	mi.Info.PieceHashes = bytes.Clone(mi.Info.PieceHashes)
	mi.Info.PieceHashes[25]++
	if _, err := VerifyPieces(t.Context(), m, mi.Info.Geometry, HashesOf(mi), nil); !errors.Is(err, ErrInconsistent) {
		t.Errorf("v2 is right and v1 is not: %v", err)
	}
}

// TestPieceHasherInParts: how a piece is cut makes no difference, nor does one that was given up before.
func TestPieceHasherInParts(t *testing.T) {
	mi, m := makeV2(t, metainfo.FormHybrid, 64<<10, 64<<10, 50_000, 1)
	hashes, geom := HashesOf(mi), mi.Info.Geometry
	rng := rand.New(rand.NewPCG(1, 2))
	var h PieceHasher
	for range 50 {
		for i := range geom.NumPieces() {
			i := bt.PieceIndex(i)
			data := make([]byte, geom.PieceLen(i))
			if _, err := m.ReadAt(data, geom.PieceStart(i)); err != nil {
				t.Fatal(err)
			}
			want := hashes.Piece(i)
			h.Reset(want)
			h.Write(data[:rng.IntN(len(data)+1)])
			h.Reset(want)
			for rest := data; len(rest) > 0; {
				n := 1 + rng.IntN(min(len(rest), 20_000))
				h.Write(rest[:n])
				rest = rest[n:]
			}
			sums := h.Sums()
			if ok, err := want.Check(&sums); !ok || err != nil {
				t.Fatalf("piece %d: %v, %v", i, ok, err)
			}
		}
	}
}

func BenchmarkHashPiecesV2(b *testing.B) {
	for _, form := range formsV2 {
		b.Run(form.String(), func(b *testing.B) {
			mi, _ := makeV2(b, form, 256<<10, 64<<20)
			s := NewMemory(mi.Info.Geometry)
			data := make([]byte, 64<<20)
			rand.NewChaCha8([32]byte{}).Read(data) // never fails
			if _, err := s.WriteAt(data, 0); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(mi.Info.Geometry.TotalBytes)
			b.ReportAllocs()
			for b.Loop() {
				if err := HashPieces(b.Context(), s, mi.Info.Geometry, HashesOf(mi), func(bt.PieceIndex, *Sums, error) bool { return true }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
