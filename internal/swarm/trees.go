package swarm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/parley-bt/parley/bt"
	"github.com/parley-bt/parley/internal/merkle"
	"github.com/parley-bt/parley/metainfo"
	"github.com/parley-bt/parley/storage"
	"github.com/parley-bt/parley/wire"
)

// errNoHashes refuses a request for hashes that we cannot or will not answer.
var errNoHashes = errors.New("no such hashes here")

// treeKey names the tree of a file that is longer than a piece. Files with the same content share one; a hostile torrent may give one root to files of several lengths.
type treeKey struct {
	root   merkle.Hash
	length int64
}

// trees are the hash trees of the files of a v2 or hybrid torrent (BEP 52). Those of files that are no longer than a piece are nothing but a root and not kept.
// It is safe for concurrent use; nothing waits for the network or the disk with the lock held.
type trees struct {
	info  *metainfo.Info
	files []int32 // those with content, by their roots

	mu      sync.RWMutex
	long    map[treeKey]*merkle.Tree
	unknown int    // how many of long are not complete
	all     *latch // closed when that is none
	// learned are the piece layers of a hybrid's files as they come out of verifying its pieces by their SHA-1, where the layer is not known.
	learned map[treeKey]*learnedLayer
}

type learnedLayer struct {
	layer []byte
	known []bool
	left  int64
}

var _ storage.Hashes = (*trees)(nil)

// newTrees makes the trees of a torrent with a v2 description. layers are the piece layers that are known, by root.
func newTrees(info *metainfo.Info, layers map[merkle.Hash][]byte) (*trees, error) {
	ts := &trees{info: info, all: newLatch(), long: make(map[treeKey]*merkle.Tree), learned: make(map[treeKey]*learnedLayer)}
	for i := range info.Files {
		f := &info.Files[i]
		if f.Padding || f.Length == 0 {
			continue
		}
		ts.files = append(ts.files, int32(i))
		key := keyOf(f)
		if f.Length <= info.PieceLength || ts.long[key] != nil {
			continue
		}
		shape, err := merkle.NewShape(f.Length, info.PieceLength)
		if err != nil {
			return nil, err
		}
		layer := layers[f.PiecesRoot]
		if layer == nil {
			ts.long[key] = merkle.NewTree(shape, f.PiecesRoot)
			ts.unknown++
			continue
		}
		if ts.long[key], err = merkle.TreeOf(shape, f.PiecesRoot, layer); err != nil {
			return nil, fmt.Errorf("piece layer of file %d: %w", i, err)
		}
	}
	if ts.unknown == 0 {
		ts.all.close()
	}
	slices.SortFunc(ts.files, func(a, b int32) int {
		return cmp.Or(bytes.Compare(info.Files[a].PiecesRoot[:], info.Files[b].PiecesRoot[:]), cmp.Compare(a, b))
	})
	return ts, nil
}

func keyOf(f *metainfo.File) treeKey { return treeKey{f.PiecesRoot, f.Length} }

// complete reports whether the hash of every piece is known.
func (ts *trees) complete() bool {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.unknown == 0
}

// NumPieces implements [storage.Hashes].
func (ts *trees) NumPieces() int { return ts.info.NumPieces() }

// Piece implements [storage.Hashes].
func (ts *trees) Piece(i bt.PieceIndex) storage.PieceHash {
	p := storage.PlanOf(ts.info, i)
	if p.V1 {
		p.Want.V1 = ts.info.PieceHash(i)
	}
	n, first := ts.info.FileOfPiece(i)
	f := &ts.info.Files[n]
	if f.Length <= ts.info.PieceLength {
		p.Want.V2, p.Unknown = f.PiecesRoot, false
		return p
	}
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	hash, ok := ts.long[keyOf(f)].PieceHash(int64(i - first))
	p.Want.V2, p.Unknown = hash, !ok
	return p
}

// A layerAsk is a range of one tree's piece layer that is to be asked for.
type layerAsk struct {
	key treeKey
	r   merkle.Range
}

func (a *layerAsk) span() wire.HashSpan {
	return wire.HashSpan{Root: a.key.root, BaseLayer: a.r.Base, Index: a.r.Index, Length: a.r.Length, ProofLayers: a.r.Proof}
}

// missing returns what to ask for, in the order of the files from the last to the first.
func (ts *trees) missing() (asks []layerAsk) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	seen := make(map[treeKey]bool, ts.unknown)
	for i := len(ts.info.Files) - 1; i >= 0; i-- {
		key := keyOf(&ts.info.Files[i])
		tree := ts.long[key]
		if tree == nil || tree.Complete() || seen[key] {
			continue
		}
		seen[key] = true
		from := len(asks)
		for r := range tree.Missing() {
			asks = append(asks, layerAsk{key, r})
		}
		slices.Reverse(asks[from:])
	}
	return asks
}

// known reports whether what an ask is about is known.
func (ts *trees) known(a *layerAsk) bool {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	_, ok := ts.long[a.key].PieceHash(int64(a.r.Index))
	return ok
}

// add takes in the answer to an ask: [merkle.ErrMismatch] if it is a lie.
func (ts *trees) add(a *layerAsk, hashes []byte) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	tree := ts.long[a.key]
	if tree.Complete() {
		return tree.Verify(a.r, hashes)
	}
	err := tree.Add(a.r, hashes)
	if tree.Complete() {
		ts.found(a.key)
	}
	return err
}

// learn notes the hash of a piece of a hybrid whose SHA-1 was right, where the file's layer is not known. With the last piece of the file the layer is, and
// [storage.ErrInconsistent] the error if it does not lead to the file's root.
func (ts *trees) learn(i bt.PieceIndex, hash merkle.Hash) error {
	n, first := ts.info.FileOfPiece(i)
	key := keyOf(&ts.info.Files[n])
	ts.mu.Lock()
	defer ts.mu.Unlock()
	tree := ts.long[key]
	if tree == nil || tree.Complete() {
		return nil
	}
	l := ts.learned[key]
	if l == nil {
		pieces := tree.Shape().NumPieces()
		l = &learnedLayer{layer: make([]byte, pieces*merkle.HashBytes), known: make([]bool, pieces), left: pieces}
		ts.learned[key] = l
	}
	if at := int(i - first); !l.known[at] {
		l.known[at] = true
		l.left--
		copy(l.layer[at*merkle.HashBytes:], hash[:])
	}
	if l.left > 0 {
		return nil
	}
	whole, err := merkle.TreeOf(tree.Shape(), tree.Root(), l.layer)
	if err != nil {
		return fmt.Errorf("file %d: %w", n, storage.ErrInconsistent)
	}
	ts.long[key] = whole
	ts.found(key)
	return nil
}

// found goes on when a tree has become complete. The lock is held.
func (ts *trees) found(key treeKey) {
	delete(ts.learned, key)
	if ts.unknown--; ts.unknown == 0 {
		ts.all.close()
	}
}

// layers returns all piece layers by root, nil if some are not known.
func (ts *trees) layers() map[merkle.Hash][]byte {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if ts.unknown > 0 {
		return nil
	}
	m := make(map[merkle.Hash][]byte, len(ts.long))
	for key, tree := range ts.long {
		m[key.root] = tree.AppendLayer(nil)
	}
	return m
}

// find returns the complete tree with a root for which a range makes sense, and the first piece of a file that has it.
func (ts *trees) find(root merkle.Hash, r merkle.Range) (*merkle.Tree, bt.PieceIndex, error) {
	at, _ := slices.BinarySearchFunc(ts.files, root, func(i int32, root merkle.Hash) int {
		return bytes.Compare(ts.info.Files[i].PiecesRoot[:], root[:])
	})
	const most = 4 // files with one root that differ in length are a hostile torrent's
	for range most {
		if at == len(ts.files) || ts.info.Files[ts.files[at]].PiecesRoot != root {
			break
		}
		f := &ts.info.Files[ts.files[at]]
		at++
		first := bt.PieceIndex(f.Offset / ts.info.PieceLength)
		if f.Length <= ts.info.PieceLength {
			shape, err := merkle.NewShape(f.Length, ts.info.PieceLength)
			if err != nil {
				return nil, 0, err
			}
			if shape.Check(r) == nil {
				return merkle.NewTree(shape, root), first, nil
			}
			continue
		}
		ts.mu.RLock()
		tree := ts.long[keyOf(f)]
		ok := tree.Complete() && tree.Shape().Check(r) == nil
		ts.mu.RUnlock()
		if ok {
			return tree, first, nil // it no longer changes
		}
	}
	return nil, 0, errNoHashes
}
