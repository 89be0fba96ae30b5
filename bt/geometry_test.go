package bt

import "testing"

// TestShortPieces: a torrent of a file of 40 bytes, one of 1, one of 32 and one of 20, in pieces of 16 bytes, each file on its own pieces.
func TestShortPieces(t *testing.T) {
	g, err := NewGeometry(48+16+32+20, 16)
	if err != nil {
		t.Fatal(err)
	}
	plain := g
	g = g.WithShort([]ShortPiece{{2, 8}, {3, 1}})
	if g.ContentBytes() != 93 || plain.ContentBytes() != 116 || g.NumPieces() != 8 {
		t.Errorf("%d bytes of content of %d, %d pieces", g.ContentBytes(), plain.ContentBytes(), g.NumPieces())
	}
	for i, want := range []uint32{16, 16, 8, 1, 16, 16, 16, 4, 0} {
		i := PieceIndex(i)
		if g.PieceLen(i) != want || g.PieceSpan(i) != plain.PieceLen(i) {
			t.Errorf("piece %d has %d bytes in a place of %d, want %d in %d", i, g.PieceLen(i), g.PieceSpan(i), want, plain.PieceLen(i))
		}
	}
	if b := g.Block(2, 0); b != (Block{2, 0, 8}) {
		t.Errorf("the only block of piece 2 is %v", b)
	}
	for b, want := range map[Block]bool{{2, 0, 8}: true, {2, 0, 16}: true, {2, 8, 8}: true, {2, 8, 9}: false, {7, 0, 4}: true, {7, 0, 5}: false, {8, 0, 1}: false, {0, 0, 0}: false} {
		if g.Contains(b) != want {
			t.Errorf("contains %v: %v", b, !want)
		}
	}
	tail := g.WithTail()
	for b, want := range map[Block]bool{{7, 0, 4}: true, {7, 0, 16}: true, {7, 4, 12}: true, {7, 4, 13}: false, {8, 0, 1}: false, {6, 0, 17}: false} {
		if tail.Contains(b) != want {
			t.Errorf("with a tail it contains %v: %v", b, !want)
		}
	}
	if tail.PieceLen(7) != 4 || tail.PieceSpan(7) != 4 || tail.ContentBytes() != 93 || tail.NumPieces() != 8 || g.Contains(Block{7, 0, 5}) {
		t.Error("a tail changes more than what others may ask for")
	}
	if g.WithShort(nil) != plain {
		t.Error("without short pieces it is not what it was")
	}
	for _, bad := range [][]ShortPiece{{{2, 16}}, {{2, 0}}, {{8, 1}}, {{3, 1}, {2, 1}}, {{7, 4}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("short pieces %v are taken", bad)
				}
			}()
			plain.WithShort(bad)
		}()
	}
}
