package merkle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parley-bt/parley/bt"
)

// naive is a whole tree, padding included, made in the plainest way: layers[0] are the leaves, the last layer is the root.
type naive struct{ layers [][]Hash }

func newNaive(leaves []Hash) *naive {
	width := 1
	for width < len(leaves) {
		width *= 2
	}
	n := &naive{layers: [][]Hash{append(slices.Clone(leaves), make([]Hash, width-len(leaves))...)}}
	for len(n.layers[len(n.layers)-1]) > 1 {
		var above []Hash
		for pair := range slices.Chunk(n.layers[len(n.layers)-1], 2) {
			above = append(above, sha256.Sum256(append(pair[0][:], pair[1][:]...)))
		}
		n.layers = append(n.layers, above)
	}
	return n
}

func (n *naive) root() Hash { return n.layers[len(n.layers)-1][0] }

// answer is what BEP 52 says to answer a range with.
func (n *naive) answer(r Range) []byte {
	hashes := n.layers[r.Base][r.Index : r.Index+r.Length]
	at := r.Index
	for i := range r.Proof {
		at /= 2 // the ancestor in layer Base+1+i
		if 1<<(i+1) >= r.Length {
			hashes = append(slices.Clone(hashes), n.layers[r.Base+1+i][at^1])
		}
	}
	return join(hashes)
}

func join(hashes []Hash) (b []byte) {
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

// file is a tree with all there is to know about it.
type file struct {
	shape  Shape
	leaves []Hash
	naive  *naive
}

func newFile(t testing.TB, leaves, blocksPerPiece int64) *file {
	t.Helper()
	s, err := NewShape((leaves-1)*bt.BlockBytes+1, blocksPerPiece*bt.BlockBytes)
	if err != nil {
		t.Fatal(err)
	}
	f := &file{shape: s}
	rng := rand.New(rand.NewPCG(uint64(leaves), uint64(blocksPerPiece)))
	for range leaves {
		var h Hash
		for i := range h {
			h[i] = byte(rng.Uint32())
		}
		f.leaves = append(f.leaves, h)
	}
	f.naive = newNaive(f.leaves)
	return f
}

func (f *file) layer() []byte {
	return join(f.naive.layers[f.shape.PieceLayer()][:f.shape.NumPieces()])
}

func (f *file) complete(t testing.TB) *Tree {
	t.Helper()
	tree, err := TreeOf(f.shape, f.naive.root(), f.layer())
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func (f *file) pieceLeaves(piece int64) []byte {
	first := piece << f.shape.PieceLayer()
	return join(f.leaves[first : first+int64(f.shape.PieceLeaves(piece))])
}

// someFiles are trees around every edge: one leaf, powers of two and one more, more than one chunk of the piece layer.
func someFiles(t testing.TB) map[string]*file {
	files := make(map[string]*file)
	for _, perPiece := range []int64{1, 4, 1024} {
		for _, leaves := range []int64{1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 100, 512, 513, 1025, 3000} {
			files[fmt.Sprintf("%d leaves, %d in a piece", leaves, perPiece)] = newFile(t, leaves, perPiece)
		}
	}
	return files
}

func TestShape(t *testing.T) {
	const block = bt.BlockBytes
	tests := []struct {
		name                       string
		file, piece                int64
		leaves                     int64
		height, pieceLayer, pieces int
	}{
		{"one byte", 1, block, 1, 0, 0, 1},
		{"one block", block, block, 1, 0, 0, 1},
		{"a byte more", block + 1, block, 2, 1, 0, 2},
		{"less than a piece", 3 * block, 8 * block, 3, 2, 2, 1},
		{"one piece", 8 * block, 8 * block, 8, 3, 3, 1},
		{"two pieces", 8*block + 1, 8 * block, 9, 4, 3, 2},
		{"three pieces", 17 * block, 8 * block, 17, 5, 3, 3},
		{"the largest", maxFileBytes, bt.MaxPieceBytes, 1 << 36, 36, 14, 4 << 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := NewShape(tt.file, tt.piece)
			if err != nil {
				t.Fatal(err)
			}
			if s.Leaves() != tt.leaves || s.Height() != tt.height || s.PieceLayer() != tt.pieceLayer || s.NumPieces() != int64(tt.pieces) {
				t.Errorf("%d leaves, height %d, piece layer %d, %d pieces", s.Leaves(), s.Height(), s.PieceLayer(), s.NumPieces())
			}
			sum := int64(0)
			if tt.pieces < 100 {
				for i := range int64(tt.pieces) {
					sum += int64(s.PieceLeaves(i))
				}
				if sum != tt.leaves {
					t.Errorf("the pieces have %d leaves together", sum)
				}
			}
		})
	}
	for name, sizes := range map[string][2]int64{
		"no bytes": {0, block}, "negative": {-1, block}, "too many": {maxFileBytes + 1, block}, "half a block": {1, block / 2},
		"not a power of two": {1, 3 * block}, "no piece": {1, 0}, "piece too long": {1, 2 * bt.MaxPieceBytes},
	} {
		if s, err := NewShape(sizes[0], sizes[1]); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// Known answers: the roots of one, two and three blocks of zeros.
func TestKnownRoots(t *testing.T) {
	for blocks, want := range map[int]string{1: knownRoot1, 2: knownRoot2, 3: knownRoot3} {
		data := make([]byte, blocks*bt.BlockBytes)
		s, err := NewShape(int64(len(data)), bt.MaxPieceBytes)
		if err != nil {
			t.Fatal(err)
		}
		h := s.HashPiece(data)
		if got := hex.EncodeToString(h[:]); got != want {
			t.Errorf("%d blocks: root %s, want %s", blocks, got, want)
		}
	}
}

func TestPad(t *testing.T) {
	var h Hash
	for layer := range maxHeight + 1 {
		if Pad(layer) != h {
			t.Fatalf("layer %d: wrong padding", layer)
		}
		h = sha256.Sum256(append(h[:], h[:]...))
	}
}

func TestFold(t *testing.T) {
	for name, f := range someFiles(t) {
		s := f.shape
		if got := Fold(join(f.leaves), 0, s.Height()); got != f.naive.root() {
			t.Errorf("%s: folded into another root", name)
		}
		if s.Root(f.layer()) != f.naive.root() {
			t.Errorf("%s: the piece layer leads to another root", name)
		}
		for i := range s.NumPieces() {
			if Fold(f.pieceLeaves(i), 0, s.PieceLayer()) != f.naive.layers[s.PieceLayer()][i] {
				t.Errorf("%s: piece %d has another hash", name, i)
			}
		}
	}
	if Fold(nil, 3, 4) != Pad(7) {
		t.Error("nothing is not folded into padding")
	}
	defer func() {
		if recover() == nil {
			t.Error("three hashes fit below a node of two")
		}
	}()
	Fold(make([]byte, 3*HashBytes), 0, 1)
}

func TestHashPiece(t *testing.T) {
	data := make([]byte, 5*bt.BlockBytes+100)
	for i := range data {
		data[i] = byte(i*7 + i/251)
	}
	var leaves []Hash
	for b := range slices.Chunk(data, bt.BlockBytes) {
		leaves = append(leaves, sha256.Sum256(b))
	}
	want := newNaive(leaves)
	s, err := NewShape(int64(len(data)), 4*bt.BlockBytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.HashPiece(data[:4*bt.BlockBytes]); got != want.layers[2][0] {
		t.Error("first piece")
	}
	if got := s.HashPiece(data[4*bt.BlockBytes:]); got != want.layers[2][1] {
		t.Error("last piece")
	}
	if s, err = NewShape(int64(len(data)), 16*bt.BlockBytes); err != nil {
		t.Fatal(err)
	}
	if s.HashPiece(data) != want.root() {
		t.Error("a file of less than a piece")
	}
	if n := testing.AllocsPerRun(10, func() { s.HashPiece(data) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// ranges returns all ranges of a tree that make sense, or, if there are too many, some drawn at random.
func (f *file) ranges(rng *rand.Rand) (all []Range) {
	s := f.shape
	for base := range s.Height() {
		for up := 1; base+up <= s.Height() && up <= log2(MaxLength); up++ {
			for i := int64(0); i<<up < s.Len(base); i++ {
				if s.Leaves() > 40 && rng.IntN(int(1+s.Len(base)>>up/2)) > 0 {
					continue
				}
				for proof := range s.Height() - base {
					if s.Leaves() > 40 && proof < s.Height()-base-1 && rng.IntN(4) > 0 {
						continue
					}
					all = append(all, Range{uint32(base), uint32(i << up), 1 << up, uint32(proof)})
				}
			}
		}
	}
	return all
}

// What is served is what the naive tree says, and what is served is believed; a bit more or less is not.
func TestProofs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	served, verified := 0, 0
	for name, f := range someFiles(t) {
		s, tree := f.shape, f.complete(t)
		for _, r := range f.ranges(rng) {
			want := f.naive.answer(r)
			if len(want) != r.NumHashes()*HashBytes {
				t.Fatalf("%s: %+v: %d hashes are said to answer, %d do", name, r, r.NumHashes(), len(want)/HashBytes)
			}
			var leaves []byte
			if piece, ok := tree.NeedsLeaves(r); ok {
				leaves = f.pieceLeaves(piece)
			}
			got, err := tree.AppendHashes([]byte("x"), r, leaves)
			servable := int(r.Base) == s.PieceLayer() || r.Base == 0 && r.Length <= 1<<s.PieceLayer()
			switch {
			case !servable:
				if !errors.Is(err, ErrRange) || string(got) != "x" {
					t.Fatalf("%s: %+v: %v", name, r, err)
				}
			case err != nil || !bytes.Equal(got[1:], want):
				t.Fatalf("%s: %+v: served wrong hashes, %v", name, r, err)
			default:
				served++
			}
			top := int(r.Base) + r.up() + r.Uncles()
			err = tree.Verify(r, want)
			if top != s.Height() && top != s.PieceLayer() {
				if !errors.Is(err, ErrUnknown) {
					t.Fatalf("%s: %+v leads to layer %d: %v", name, r, top, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %+v: %v", name, r, err)
			}
			verified++
			bad := bytes.Clone(want)
			bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
			if err := tree.Verify(r, bad); !errors.Is(err, ErrMismatch) {
				t.Fatalf("%s: %+v with a bit changed: %v", name, r, err)
			}
			for _, n := range []int{0, len(want) - HashBytes, len(want) - 1, len(want) + HashBytes} {
				if err := tree.Verify(r, append(bytes.Clone(want), want...)[:n]); !errors.Is(err, ErrMismatch) {
					t.Fatalf("%s: %+v with %d bytes: %v", name, r, n, err)
				}
			}
		}
	}
	if served < 1000 || verified < 1000 {
		t.Errorf("only %d served and %d verified", served, verified)
	}
}

// A tree of which only the root is known grows by what a complete one serves, in any order, and in the end serves the same.
func TestTreeGrows(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for name, f := range someFiles(t) {
		s, from, to := f.shape, f.complete(t), NewTree(f.shape, f.naive.root())
		missing := slices.Collect(to.Missing())
		if want := slices.Collect(s.PieceRanges()); !slices.Equal(missing, want) {
			t.Fatalf("%s: missing %v, want %v", name, missing, want)
		}
		if (len(missing) == 0) != (s.NumPieces() == 1) || (len(missing) == 0) != to.Complete() {
			t.Fatalf("%s: %d missing, complete %v", name, len(missing), to.Complete())
		}
		rng.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
		for i, r := range missing {
			if r.Length > AskLength {
				t.Fatalf("%s: asks for %d hashes", name, r.Length)
			}
			if _, ok := to.PieceHash(int64(r.Index)); ok {
				t.Fatalf("%s: piece %d is known before", name, r.Index)
			}
			hashes, err := from.AppendHashes(nil, r, nil)
			if err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(hashes)
			bad[len(bad)-1]++
			if err := to.Add(r, bad); !errors.Is(err, ErrMismatch) {
				t.Fatalf("%s: bad hashes: %v", name, err)
			}
			if _, err := to.AppendHashes(nil, r, nil); !errors.Is(err, ErrUnknown) || len(to.AppendLayer(nil)) > 0 {
				t.Fatalf("%s: serves before it is complete: %v", name, err)
			}
			for range 2 { // a second time changes nothing
				if err := to.Add(r, hashes); err != nil {
					t.Fatalf("%s: %+v: %v", name, r, err)
				}
			}
			clear(hashes) // they were borrowed
			if left := len(slices.Collect(to.Missing())); left != len(missing)-i-1 || to.Complete() != (left == 0) {
				t.Fatalf("%s: %d missing", name, left)
			}
		}
		if !bytes.Equal(to.AppendLayer(nil), f.layer()) || !bytes.Equal(from.AppendLayer(nil), f.layer()) {
			t.Fatalf("%s: another piece layer", name)
		}
		for i := range s.NumPieces() {
			if h, ok := to.PieceHash(i); !ok || h != f.naive.layers[s.PieceLayer()][i] {
				t.Fatalf("%s: piece %d", name, i)
			}
			// The leaves of a piece, proven by its hash.
			var leaves []byte
			for r := range s.LeafRanges(i) {
				hashes, err := from.AppendHashes(nil, r, f.pieceLeaves(i))
				if err != nil {
					t.Fatal(err)
				}
				if err := to.Add(r, hashes); err != nil {
					t.Fatalf("%s: leaves %+v: %v", name, r, err)
				}
				leaves = append(leaves, hashes[:int(r.Length)*HashBytes]...)
			}
			if want := f.pieceLeaves(i); s.PieceLayer() > 0 && !bytes.HasPrefix(leaves, want) {
				t.Fatalf("%s: other leaves of piece %d", name, i)
			}
		}
		for _, i := range []int64{-1, s.NumPieces()} {
			if _, ok := to.PieceHash(i); ok {
				t.Fatalf("%s: there is a piece %d", name, i)
			}
		}
	}
}

func TestTreeRefuses(t *testing.T) {
	f := newFile(t, 5000, 4) // 1,250 pieces, three chunks
	s, root := f.shape, f.naive.root()
	if _, err := TreeOf(s, root, f.layer()[HashBytes:]); !errors.Is(err, ErrMismatch) {
		t.Errorf("a short layer: %v", err)
	}
	bad := f.layer()
	bad[len(bad)-1]++
	if _, err := TreeOf(s, root, bad); !errors.Is(err, ErrMismatch) {
		t.Errorf("a wrong layer: %v", err)
	}
	one := newFile(t, 3, 4)
	if _, err := TreeOf(one.shape, root, one.layer()); !errors.Is(err, ErrMismatch) {
		t.Errorf("a wrong single hash: %v", err)
	}
	partial, complete := NewTree(s, root), f.complete(t)
	if err := partial.Verify(Range{0, 0, 4, 1}, f.naive.answer(Range{0, 0, 4, 1})); !errors.Is(err, ErrUnknown) {
		t.Errorf("leaves of a piece whose hash is not known: %v", err)
	}
	small := Range{2, 0, 2, uint32(s.Height()) - 3}
	if err := partial.Add(small, f.naive.answer(small)); !errors.Is(err, ErrRange) {
		t.Errorf("two hashes of the piece layer: %v", err)
	}
	r := Range{0, 8, 4, 1}
	if _, err := complete.AppendHashes(nil, r, f.pieceLeaves(1)); !errors.Is(err, ErrMismatch) {
		t.Errorf("leaves of another piece: %v", err)
	}
	if _, err := complete.AppendHashes(nil, r, nil); !errors.Is(err, ErrMismatch) {
		t.Errorf("no leaves: %v", err)
	}
	// Hashes that are given for data beyond the end and are no padding.
	last := slices.Collect(s.PieceRanges())[2]
	hashes := f.naive.answer(last)
	hashes[int(last.Length)*HashBytes-1]++
	if err := complete.Verify(last, hashes); !errors.Is(err, ErrMismatch) {
		t.Errorf("no padding: %v", err)
	}
}

func TestRangeLimits(t *testing.T) {
	f := newFile(t, 40, 4) // height 6, 10 pieces in a layer of 16
	tests := []struct {
		name string
		r    Range
		ok   bool
	}{
		{"all leaves", Range{0, 0, 64, 5}, true},
		{"last leaves", Range{0, 32, 8, 5}, true},
		{"the last that has one", Range{0, 32, 16, 5}, true},
		{"leaves beyond the file", Range{0, 40, 8, 5}, false},
		{"no hashes", Range{0, 0, 0, 5}, false},
		{"one hash", Range{0, 0, 1, 5}, false},
		{"three hashes", Range{0, 0, 3, 5}, false},
		{"more than the layer", Range{0, 0, 128, 0}, false},
		{"not aligned", Range{0, 4, 8, 0}, false},
		{"too much proof", Range{0, 0, 2, 6}, false},
		{"proof beyond any tree", Range{0, 0, 2, 1<<32 - 1}, false},
		{"highest base", Range{5, 0, 2, 0}, true},
		{"root as base", Range{6, 0, 2, 0}, false},
		{"base beyond any tree", Range{1<<32 - 1, 0, 2, 0}, false},
		{"wrapping index", Range{0, 1<<32 - 8, 8, 0}, false},
		{"longest there can be", Range{0, 0, 1 << 31, 0}, false},
	}
	tree := f.complete(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := f.shape.Check(tt.r); (err == nil) != tt.ok || !tt.ok && !errors.Is(err, ErrRange) {
				t.Errorf("%v", err)
			}
			if tt.ok {
				return
			}
			if err := tree.Verify(tt.r, nil); !errors.Is(err, ErrRange) {
				t.Errorf("Verify: %v", err)
			}
			if _, err := tree.AppendHashes(nil, tt.r, nil); !errors.Is(err, ErrRange) {
				t.Errorf("AppendHashes: %v", err)
			}
			if _, ok := tree.NeedsLeaves(tt.r); ok {
				t.Error("NeedsLeaves")
			}
		})
	}
	if (Range{0, 0, MaxLength, 0}).Check() != nil || (Range{0, 0, 2 * MaxLength, 0}).Check() == nil {
		t.Error("the longest range")
	}
}

func TestVerifyBlock(t *testing.T) {
	blocks := make([][]byte, 8)
	var leaves []Hash
	for i := range blocks {
		blocks[i] = bytes.Repeat([]byte{byte(i)}, bt.BlockBytes)
		leaves = append(leaves, Leaf(blocks[i]))
	}
	n := newNaive(leaves)
	for i, b := range blocks {
		uncles := join([]Hash{n.layers[0][i^1], n.layers[1][i>>1^1], n.layers[2][i>>2^1]})
		if !VerifyBlock(b, int64(i), uncles, n.root()) {
			t.Errorf("block %d is not believed", i)
		}
		if VerifyBlock(blocks[i^1], int64(i), uncles, n.root()) || VerifyBlock(b, int64(i^1), uncles, n.root()) || VerifyBlock(b, int64(i), uncles[:64], n.root()) {
			t.Errorf("block %d: another block, place or shorter way is believed", i)
		}
	}
}

// A tree of the largest size is asked for in parts and holds no memory for what has not come.
func TestLargestTree(t *testing.T) {
	s, err := NewShape(maxFileBytes, bt.MaxPieceBytes)
	if err != nil {
		t.Fatal(err)
	}
	tree := NewTree(s, Hash{1})
	n := 0
	for r := range tree.Missing() {
		if err := s.Check(r); err != nil {
			t.Fatal(err)
		}
		if err := tree.Add(r, make([]byte, r.NumHashes()*HashBytes)); !errors.Is(err, ErrMismatch) {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if want := int64(4 << 20 / AskLength); s.numChunks() != want {
		t.Errorf("%d chunks, want %d", s.numChunks(), want)
	}
	for _, piece := range []int64{0, 1<<18 - 1, 1 << 18, s.NumPieces() - 1} {
		n := 0
		for r := range s.LeafRanges(piece) {
			if err := s.Check(r); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if want := 16384 / AskLength; piece < 1<<18 && n != want || piece >= 1<<18 && n != 0 {
			t.Errorf("piece %d: %d ranges", piece, n)
		}
	}
}

func TestAllocs(t *testing.T) {
	f := newFile(t, 5000, 4)
	tree := f.complete(t)
	r := Range{0, 8, 4, uint32(f.shape.Height() - 1)}
	leaves, dst := f.pieceLeaves(2), make([]byte, 0, 4096)
	n := testing.AllocsPerRun(100, func() {
		var err error
		if dst, err = tree.AppendHashes(dst[:0], r, leaves); err != nil {
			t.Fatal(err)
		}
		if err = tree.Verify(r, dst); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzTree gives a tree whatever a hostile peer may send: it never believes what is not in the true tree, and never panics.
func FuzzTree(f *testing.F) {
	var files []*file
	for _, shape := range [][2]int64{{1, 1}, {2, 1}, {3, 4}, {40, 4}, {600, 1}, {1100, 2}} {
		files = append(files, newFile(f, shape[0], shape[1]))
	}
	for i, file := range files {
		for r := range file.shape.PieceRanges() {
			f.Add(byte(i), r.Base, r.Index, r.Length, r.Proof, file.naive.answer(r))
		}
		for r := range file.shape.LeafRanges(0) {
			f.Add(byte(i), r.Base, r.Index, r.Length, r.Proof, file.naive.answer(r))
		}
	}
	f.Fuzz(func(t *testing.T, which byte, base, index, length, proof uint32, hashes []byte) {
		file := files[int(which)%len(files)]
		r := Range{base, index, length, proof}
		for _, tree := range []*Tree{NewTree(file.shape, file.naive.root()), file.complete(t)} {
			err := tree.Verify(r, hashes)
			if err == nil && !bytes.Equal(hashes, file.naive.answer(r)) {
				t.Fatalf("%+v: believes %x", r, hashes)
			}
			if err != nil && !errors.Is(err, ErrRange) && !errors.Is(err, ErrMismatch) && !errors.Is(err, ErrUnknown) {
				t.Fatalf("error %v", err)
			}
			if added := tree.Add(r, hashes); err != nil && added == nil {
				t.Fatalf("%+v: adds what it does not believe", r)
			}
			for i := range file.shape.NumPieces() {
				if h, ok := tree.PieceHash(i); ok && h != file.naive.layers[file.shape.PieceLayer()][i] {
					t.Fatalf("piece %d has another hash", i)
				}
			}
			var leaves []byte
			if piece, ok := tree.NeedsLeaves(r); ok {
				leaves = file.pieceLeaves(piece)
			}
			if got, err := tree.AppendHashes(nil, r, leaves); err == nil && !bytes.Equal(got, file.naive.answer(r)) {
				t.Fatalf("%+v: serves %x", r, got)
			}
		}
	})
}

func BenchmarkHashPiece(b *testing.B) {
	s, err := NewShape(1<<30, 4<<20)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 4<<20)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		s.HashPiece(data)
	}
}
